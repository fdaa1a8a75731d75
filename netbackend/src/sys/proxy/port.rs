//! Sockets for DHCP: one interface, one client.
//!
//! IPv4 takes a packet socket, since the container has no address yet. A filter in the kernel lets only answers for
//! our MAC address pass, so that a hundred clients on one link do not wake each other. Beside it there is an ordinary
//! socket on the port that never reads: without it, the kernel of the container would refuse each answer that comes to
//! its address (ICMP port unreachable).
//!
//! Sockets hold on to the namespace that they were opened in. So they are open only while an answer is awaited.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, recv, send,
    setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use wire::names::{InterfaceName, MacAddr};
use wire::proxy::Version;

use crate::dhcp::{Destination, Outgoing, frame, v6};

/// The longest frame that is read; longer ones are cut off, and no answer then.
pub(super) const LONGEST: usize = 2048;

const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// An open socket.
#[derive(Debug)]
pub(super) struct Port {
    socket: AsyncFd<OwnedFd>,
    index: u32,
    mac: MacAddr,
    version: Version,
    _quiet: Option<OwnedFd>,
}

impl Port {
    /// Opens a socket on an interface of the current namespace.
    pub(super) fn open(link: &InterfaceName, mac: MacAddr, version: Version) -> io::Result<Self> {
        let index = if_nametoindex(link.as_str())?;
        let (socket, quiet) = match version {
            Version::V4 => (packet_socket(index, mac)?, quiet_socket(link).ok()),
            Version::V6 => (datagram_socket(link)?, None),
        };
        #[expect(unsafe_code, reason = "the safe call is deprecated")]
        // SAFETY: the descriptor is owned by what watches it, which closes it and always names the same one.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self {
            socket,
            index,
            mac,
            version,
            _quiet: quiet,
        })
    }

    /// Sends a payload.
    pub(super) fn send(&self, outgoing: &Outgoing) -> io::Result<()> {
        let socket = self.socket.get_ref().as_raw_fd();
        if self.version == Version::V6 {
            let to = SocketAddrV6::new(v6::SERVERS, v6::SERVER_PORT, 0, self.index);
            let to = SockaddrIn6::from(to);
            nix::sys::socket::sendto(socket, &outgoing.payload, &to, MsgFlags::empty())?;
            return Ok(());
        }
        let (source, destination, destination_mac) = match outgoing.to {
            Destination::Servers { source } => (source, Ipv4Addr::BROADCAST, BROADCAST),
            Destination::Server {
                source,
                address,
                mac,
            } => (source, address, mac),
        };
        let route = frame::Route {
            source_mac: self.mac,
            destination_mac,
            source,
            destination,
        };
        let frame = frame::build(&route, &outgoing.payload).ok_or(Errno::EMSGSIZE)?;
        send(socket, &frame, MsgFlags::empty())?;
        Ok(())
    }

    /// Waits for a packet and returns its sender and where in the buffer its payload is; the latter is
    /// empty for what is none.
    pub(super) async fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
    ) -> io::Result<(MacAddr, &'a [u8])> {
        let length = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                Ok(recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?)
            })
            .await?;
        let read = buffer.get(..length).unwrap_or_default();
        Ok(match self.version {
            Version::V4 => frame::parse(read).unwrap_or((MacAddr([0; 6]), &[])),
            Version::V6 => (MacAddr([0; 6]), read),
        })
    }
}

fn flags() -> SockFlag {
    SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC
}

/// The MAC address of an interface of the current namespace.
pub(super) fn mac_of(link: &InterfaceName) -> io::Result<MacAddr> {
    let mac = getifaddrs()?
        .filter(|found| found.interface_name == link.as_str())
        .find_map(|found| found.address?.as_link_addr()?.addr());
    Ok(MacAddr(mac.ok_or(Errno::ENODEV)?))
}

fn packet_socket(index: u32, mac: MacAddr) -> io::Result<OwnedFd> {
    // Without a protocol nothing is received before the filter is in place.
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags(), None)?;
    attach_filter(&socket, mac)?;
    let ethernet_ipv4 = u16::try_from(libc::ETH_P_IP).unwrap_or_default().to_be();
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: ethernet_ipv4,
        sll_ifindex: i32::try_from(index).map_err(|_| Errno::ENODEV)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    #[expect(
        unsafe_code,
        reason = "nix has no way to make the address of an interface"
    )]
    // SAFETY: the pointer is to a whole `sockaddr_ll` of this length, which lives until the call returns.
    let outcome = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(outcome)?;
    Ok(socket)
}

/// A datagram to the port of clients with our MAC address in its BOOTP header, see `frame` for the offsets.
fn attach_filter(socket: &OwnedFd, mac: MacAddr) -> io::Result<()> {
    let [a, b, c, d, e, f] = mac.0;
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    use libc::{
        BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX,
        BPF_MSH, BPF_RET, BPF_W,
    };
    let longest = u32::try_from(LONGEST).unwrap_or_default();
    let mut program = [
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 23),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 10, 17),
        op(BPF_LD | BPF_H | BPF_ABS, 0, 0, 20),
        op(BPF_JMP | BPF_JSET | BPF_K, 8, 0, 0x3fff),
        op(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 14),
        op(BPF_LD | BPF_H | BPF_IND, 0, 0, 16),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, frame::CLIENT_PORT.into()),
        op(BPF_LD | BPF_W | BPF_IND, 0, 0, 50),
        op(
            BPF_JMP | BPF_JEQ | BPF_K,
            0,
            3,
            u32::from_be_bytes([a, b, c, d]),
        ),
        op(BPF_LD | BPF_H | BPF_IND, 0, 0, 54),
        op(
            BPF_JMP | BPF_JEQ | BPF_K,
            0,
            1,
            u32::from(u16::from_be_bytes([e, f])),
        ),
        op(BPF_RET | BPF_K, 0, 0, longest),
        op(BPF_RET | BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or_default();
    #[expect(unsafe_code, reason = "nix cannot attach filters")]
    // SAFETY: the pointer is to a `sock_fprog` of this length, whose own pointer is to `len` instructions; both live
    // until the call returns, and the kernel copies them.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    Errno::result(outcome)?;
    Ok(())
}

/// A socket on the port of clients that is never read. What comes in is dropped when its buffer is full.
fn quiet_socket(link: &InterfaceName) -> io::Result<OwnedFd> {
    let quiet = socket(AddressFamily::Inet, SockType::Datagram, flags(), None)?;
    setsockopt(&quiet, sockopt::ReuseAddr, &true)?;
    setsockopt(&quiet, sockopt::BindToDevice, &link.as_str().into())?;
    setsockopt(&quiet, sockopt::RcvBuf, &0)?;
    let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, frame::CLIENT_PORT));
    bind(quiet.as_raw_fd(), &any)?;
    Ok(quiet)
}

fn datagram_socket(link: &InterfaceName) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, flags(), None)?;
    setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::BindToDevice, &link.as_str().into())?;
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, v6::CLIENT_PORT, 0, 0);
    bind(socket.as_raw_fd(), &SockaddrIn6::from(any))?;
    Ok(socket)
}

/// Sends a payload to a server on this very host, if the address is one of ours. A packet socket of the host
/// does not reach it: what it sends goes out.
pub(super) fn send_to_self(link: &InterfaceName, outgoing: &Outgoing) -> io::Result<bool> {
    let Destination::Server { address, .. } = outgoing.to else {
        return Ok(false);
    };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags(), None)?;
    match bind(
        socket.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(address, 0)),
    ) {
        Err(Errno::EADDRNOTAVAIL) => return Ok(false),
        outcome => outcome?,
    }
    setsockopt(&socket, sockopt::BindToDevice, &link.as_str().into())?;
    let to = SockaddrIn::from(SocketAddrV4::new(address, frame::SERVER_PORT));
    nix::sys::socket::sendto(
        socket.as_raw_fd(),
        &outgoing.payload,
        &to,
        MsgFlags::empty(),
    )?;
    Ok(true)
}

/// Whether sending failed because the interface is not ready yet: its link-local address is still being checked.
pub(super) fn is_early(error: &io::Error, version: Version) -> bool {
    let errno = error.raw_os_error();
    errno == Some(libc::ENETDOWN)
        || version == Version::V6 && matches!(errno, Some(libc::EADDRNOTAVAIL | libc::ENETUNREACH))
}

/// The addresses of a list that are of one family.
pub(super) fn of_family(addresses: &[IpAddr], v6: bool) -> impl Iterator<Item = IpAddr> {
    addresses
        .iter()
        .copied()
        .filter(move |address| address.is_ipv6() == v6)
}
