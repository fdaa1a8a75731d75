//! How sockets are set up.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind, connect,
    getsockname, socket, sockopt,
};

use super::raw;
use crate::event::Transport;

/// `IP_BIND_ADDRESS_NO_PORT` (ip(7)): choose the port when the peer is known.
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;

/// What is the same for all sockets of a run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Streams can be peeked at an offset (`SO_PEEK_OFF` on TCP, Linux 6.9 and 6.10).
    pub peek_offset: bool,
    /// Interface for flows of IPv4 that leave the host.
    pub device_v4: Option<String>,
    /// The same for IPv6.
    pub device_v6: Option<String>,
    /// Listeners and flows may be bound to addresses that are not there.
    pub freebind: bool,
}

impl Options {
    /// Learn what the kernel can do.
    #[must_use]
    pub fn probe(mut self) -> Self {
        self.peek_offset = [AddressFamily::Inet, AddressFamily::Inet6]
            .into_iter()
            .filter_map(|family| open(family, Transport::Tcp).ok())
            .all(|fd| set_peek_offset(fd.as_fd(), 0).is_ok());
        self
    }

    /// Bind a new socket and begin to connect it.
    pub fn connect(
        &self,
        fd: &OwnedFd,
        transport: Transport,
        local: Option<SocketAddr>,
        to: SocketAddr,
        mss: Option<u16>,
    ) -> Result<(), Errno> {
        match transport {
            Transport::Tcp => self.prepare_stream(fd.as_fd()),
            Transport::Udp | Transport::Echo => prepare_datagrams(fd.as_fd(), transport, to),
        }
        if let Some(mss) = mss {
            ignore(raw::set_int(
                fd.as_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_MAXSEG,
                i32::from(mss),
            ));
        }
        if let Some(local) = local {
            bind_to(fd, transport, local)?;
        }
        match connect_to(fd, to) {
            Err(error) if error != Errno::EINPROGRESS => Err(error),
            _ => Ok(()),
        }
    }

    /// What a stream needs, be it accepted or ours.
    pub fn prepare_stream(&self, fd: BorrowedFd<'_>) {
        ignore(raw::set_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
        if self.peek_offset {
            ignore(set_peek_offset(fd, 0));
        }
    }

    /// Flows that leave the host leave it where the user said.
    pub fn bind_to_device(&self, fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
        let device = match to {
            _ if to.ip().is_loopback() => &None,
            SocketAddr::V4(_) => &self.device_v4,
            SocketAddr::V6(_) => &self.device_v6,
        };
        match device {
            None => Ok(()),
            Some(name) => nix::sys::socket::setsockopt(fd, sockopt::BindToDevice, &name.into()),
        }
    }
}

/// Options that a kernel may not know and whose lack costs speed, not correctness.
fn ignore(_: std::io::Result<()>) {}

/// The family of an address.
pub fn family(of: SocketAddr) -> AddressFamily {
    match of {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// A new socket in the namespace we are in.
pub fn open(family: AddressFamily, transport: Transport) -> Result<OwnedFd, Errno> {
    let (kind, protocol) = match (transport, family) {
        (Transport::Tcp, _) => (SockType::Stream, None),
        (Transport::Udp, _) => (SockType::Datagram, None),
        (Transport::Echo, AddressFamily::Inet6) => (SockType::Datagram, Some(SockProtocol::IcmpV6)),
        (Transport::Echo, _) => (SockType::Datagram, Some(SockProtocol::Icmp)),
    };
    socket(
        family,
        kind,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        protocol,
    )
}

fn prepare_datagrams(fd: BorrowedFd<'_>, transport: Transport, to: SocketAddr) {
    let (level, errors, ttl) = match to {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_RECVERR, libc::IP_RECVTTL),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVERR, libc::IPV6_RECVHOPLIMIT),
    };
    ignore(raw::set_int(fd, level, errors, 1));
    ignore(raw::set_int(fd, level, ttl, 1));
    if transport == Transport::Udp {
        ignore(raw::set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1));
    }
}

fn bind_to(fd: &OwnedFd, transport: Transport, local: SocketAddr) -> Result<(), Errno> {
    match transport {
        Transport::Tcp if local.port() == 0 => {
            ignore(raw::set_int(
                fd.as_fd(),
                libc::SOL_IP,
                IP_BIND_ADDRESS_NO_PORT,
                1,
            ));
        }
        Transport::Udp => {
            ignore(raw::set_int(
                fd.as_fd(),
                libc::SOL_SOCKET,
                libc::SO_REUSEADDR,
                1,
            ));
        }
        Transport::Tcp | Transport::Echo => {}
    }
    match local {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6)),
    }
}

fn connect_to(fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
    match to {
        SocketAddr::V4(v4) => connect(fd.as_raw_fd(), &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => connect(fd.as_raw_fd(), &SockaddrIn6::from(v6)),
    }
}

/// The address a socket is bound to; IPv4 in IPv6 as IPv4.
pub fn local_address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let address = getsockname::<nix::sys::socket::SockaddrStorage>(fd.as_raw_fd()).ok()?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    let v6: std::net::SocketAddrV6 = (*address.as_sockaddr_in6()?).into();
    Some(SocketAddr::new(v6.ip().to_canonical(), v6.port()))
}

/// Where the next look at a stream begins (`SO_PEEK_OFF`, socket(7)).
pub fn set_peek_offset(fd: BorrowedFd<'_>, offset: u32) -> std::io::Result<()> {
    let offset = i32::try_from(offset).unwrap_or(i32::MAX);
    raw::set_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

/// The time to live of what a datagram socket sends.
pub fn set_ttl(fd: BorrowedFd<'_>, v6: bool, ttl: u8) -> std::io::Result<()> {
    if v6 {
        raw::set_int(fd, libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS, i32::from(ttl))
    } else {
        raw::set_int(fd, libc::SOL_IP, libc::IP_TTL, i32::from(ttl))
    }
}
