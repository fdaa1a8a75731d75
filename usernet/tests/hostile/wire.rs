//! Frames as the guest's raw sockets put them on the tap, and a TCP that keeps no rule but those it is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use test_fixtures::netns::Netns;
use usernet::packet::build::{self, Link};
use usernet::packet::checksum::Sum;
use usernet::packet::tcp::{Flags, Header, Options};
use usernet::packet::{eth, ip, tcp};

/// The forwarder's end of the tap.
const OURS: [u8; 6] = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

/// A packet socket on the guest's end of the tap.
#[derive(Debug)]
pub(crate) struct Wire {
    fd: OwnedFd,
    pub(crate) link: Link,
    /// The guest's own address.
    pub(crate) own: Ipv4Addr,
}

impl Wire {
    pub(crate) fn open(guest: &Netns) -> Result<Self> {
        guest.enter(|| {
            let all: Vec<_> = getifaddrs()?
                .filter(|found| found.interface_name != "lo")
                .collect();
            let link = all
                .iter()
                .find_map(|found| found.address?.as_link_addr().copied());
            let link = link.context("no link")?;
            let own = all
                .iter()
                .find_map(|found| Some(found.address?.as_sockaddr_in()?.ip()));
            let fd = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            bind(fd.as_raw_fd(), &link)?;
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
            Ok(Self {
                fd,
                link: Link {
                    source: link.addr().context("no address")?,
                    destination: OURS,
                },
                own: own.context("no IPv4 address")?,
            })
        })
    }

    /// A frame as it is. What the queue does not take is lost.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        match send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EMSGSIZE | Errno::EINVAL) => Ok(()),
            Err(error) => Err(error).context("cannot send a frame"),
        }
    }

    /// A segment, its checksum complete.
    pub(crate) fn segment(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        what: Header,
        payload: &[u8],
    ) -> Result<()> {
        let header = Header {
            source: from.port(),
            destination: to.port(),
            ..what
        };
        let headers = build::tcp(&self.link, from.ip(), to.ip(), &header, payload.len());
        let mut frame = headers.as_bytes().to_vec();
        frame.extend(payload);
        let start = eth::LEN + if from.is_ipv4() { 20 } else { 40 };
        let sum = Sum::new().bytes(&frame[start..]).checksum();
        frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
        self.send(&frame)
    }

    /// A SYN.
    pub(crate) fn syn(&self, from: SocketAddr, to: SocketAddr) -> Result<()> {
        let header = Header {
            sequence: 7,
            flags: Flags::SYN,
            window: 1000,
            ..Header::default()
        };
        self.segment(from, to, header, &[])
    }

    /// A datagram.
    pub(crate) fn datagram(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
        let headers = build::udp_complete(&self.link, from, to, 64, payload);
        self.send(&[headers.as_bytes(), payload].concat())
    }

    /// The next segment of `from` to `to`.
    pub(crate) fn hear(&self, from: SocketAddr, to: SocketAddr) -> Result<(Header, usize)> {
        let mut room = vec![0; 70_000];
        loop {
            let len = recv(self.fd.as_raw_fd(), &mut room, MsgFlags::empty())?;
            let Ok((_, rest)) = eth::parse(&room[..len]) else {
                continue;
            };
            let Ok(packet) = ip::parse(rest) else {
                continue;
            };
            if packet.protocol != ip::TCP || packet.source != from.ip() {
                continue;
            }
            if packet.destination != to.ip() {
                continue;
            }
            let Ok((header, _, payload)) = tcp::parse(packet.payload) else {
                continue;
            };
            if (header.source, header.destination) == (from.port(), to.port()) {
                return Ok((header, payload.len()));
            }
        }
    }

    /// A connection of an address that the guest's kernel does not know, so that only this one answers.
    pub(crate) fn connect(&self, to: SocketAddr, port: u16, mss: u16) -> Result<Connection<'_>> {
        let octets = self.own.octets();
        let other = Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3] ^ 0x40);
        let from = SocketAddr::new(IpAddr::V4(other), port);
        let syn = Header {
            sequence: 1000,
            flags: Flags::SYN,
            window: u16::MAX,
            options: Options {
                mss: Some(mss),
                ..Options::default()
            },
            ..Header::default()
        };
        self.segment(from, to, syn, &[])?;
        let (answer, _) = self.hear(to, from)?;
        if !answer.flags.has(Flags::SYN | Flags::ACK) {
            bail!("{to} answers {answer:?}");
        }
        let connection = Connection {
            wire: self,
            from,
            to,
            next: 1001,
            heard: answer.sequence.wrapping_add(1),
        };
        connection.says(Flags::ACK, u16::MAX, &[])?;
        Ok(connection)
    }
}

/// A connection of nobody's kernel.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    wire: &'a Wire,
    from: SocketAddr,
    to: SocketAddr,
    /// The number of the next byte.
    pub(crate) next: u32,
    /// What was heard, in order.
    pub(crate) heard: u32,
}

impl Connection<'_> {
    pub(crate) fn says(&self, flags: Flags, window: u16, payload: &[u8]) -> Result<()> {
        let header = Header {
            sequence: self.next,
            acknowledgement: self.heard,
            flags,
            window,
            ..Header::default()
        };
        self.wire.segment(self.from, self.to, header, payload)
    }

    /// Hear one segment and acknowledge it.
    pub(crate) fn takes(&mut self, window: u16) -> Result<usize> {
        let (header, len) = self.wire.hear(self.to, self.from)?;
        if header.sequence == self.heard {
            self.heard = self.heard.wrapping_add(u32::try_from(len)?);
        }
        self.says(Flags::ACK, window, &[])?;
        Ok(len)
    }
}

/// How long an attack lasts at least.
pub(crate) const ATTACK: Duration = Duration::from_millis(1500);
