//! How sockets are set up.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind, connect,
    getsockname, socket, sockopt,
};

use super::raw;
use crate::config::Families;
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
    /// Indexes of the host's links that the guest's one stands for: where link-local addresses and groups are.
    pub links: Families<u32>,
}

/// The other end of a socket that is to be connected.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Where it is.
    pub to: SocketAddr,
    /// `TCP_MAXSEG`.
    pub mss: Option<u16>,
    /// Another socket of ours may have our port.
    pub shared: bool,
}

/// `IPV6_MULTICAST_ALL` (linux/in6.h): hear groups that others have joined.
const IPV6_MULTICAST_ALL: i32 = 29;

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
        peer: Peer,
    ) -> Result<(), Errno> {
        let Peer { to, mss, shared } = peer;
        let to = self.scoped(to);
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
            self.bind(fd, transport, with_scope(local, scope(to)), shared)?;
        }
        match connect_to(fd, to) {
            Err(error) if error != Errno::EINPROGRESS => Err(error),
            _ => Ok(()),
        }
    }

    /// Bind a socket. A port that nobody else may have is bound alone, and open to our own later sockets.
    fn bind(
        &self,
        fd: &OwnedFd,
        transport: Transport,
        local: SocketAddr,
        shared: bool,
    ) -> Result<(), Errno> {
        if self.freebind && !local.ip().is_unspecified() {
            let (level, name) = match local {
                SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_FREEBIND),
                SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_FREEBIND),
            };
            ignore(raw::set_int(fd.as_fd(), level, name, 1));
        }
        match transport {
            Transport::Tcp if local.port() == 0 => {
                ignore(raw::set_int(
                    fd.as_fd(),
                    libc::SOL_IP,
                    IP_BIND_ADDRESS_NO_PORT,
                    1,
                ));
                bind_to(fd, local)
            }
            Transport::Udp if shared => {
                share(fd);
                bind_to(fd, local)
            }
            Transport::Udp => {
                let bound = bind_to(fd, local);
                share(fd);
                bound
            }
            Transport::Tcp | Transport::Echo => bind_to(fd, local),
        }
    }

    /// A link-local address is one of the link that the guest's stands for.
    fn scoped(&self, address: SocketAddr) -> SocketAddr {
        with_scope(address, self.links.v6.unwrap_or(0))
    }

    /// Prepare a socket that sends to many. The address that others see, and where to send.
    ///
    /// Where a process of the host has the port, as its own responder of multicast DNS does, the socket is bound to the
    /// group: it then sends from that port and takes nothing away from that process.
    pub fn group(
        &self,
        fd: &OwnedFd,
        local: SocketAddr,
        to: SocketAddr,
        shared: bool,
    ) -> Result<(SocketAddr, SocketAddr), Errno> {
        let to = self.scoped(to);
        prepare_datagrams(fd.as_fd(), Transport::Echo, to);
        self.prepare_group(fd.as_fd(), to);
        let local = with_scope(local, scope(to));
        match self.bind(fd, Transport::Udp, local, shared) {
            Err(Errno::EADDRINUSE) if to.ip().is_multicast() && to.port() == local.port() => {
                share(fd);
                bind_to(fd, to)?;
            }
            other => other?,
        }
        let port = local_address(fd.as_fd()).unwrap_or(local).port();
        let probe = open(family(to), Transport::Udp)?;
        self.bind_to_device(&probe, to)?;
        self.prepare_group(probe.as_fd(), to);
        if !local.ip().is_unspecified() {
            bind_to(&probe, SocketAddr::new(local.ip(), 0))?;
        }
        connect_to(&probe, to)?;
        let seen = local_address(probe.as_fd()).ok_or(Errno::EADDRNOTAVAIL)?;
        Ok((SocketAddr::new(seen.ip(), port), to))
    }

    /// By which link it leaves, that it may, and that it hears nothing that others have asked for.
    fn prepare_group(&self, fd: BorrowedFd<'_>, to: SocketAddr) {
        let one = |level, name, value| ignore(raw::set_int(fd, level, name, value));
        one(libc::SOL_SOCKET, libc::SO_BROADCAST, 1);
        match to {
            SocketAddr::V4(_) => {
                one(libc::SOL_IP, libc::IP_MULTICAST_ALL, 0);
                if let Some(link) = self.links.v4 {
                    let request = group_request(Ipv4Addr::UNSPECIFIED, link);
                    let (level, name) = (libc::SOL_IP, libc::IP_MULTICAST_IF);
                    ignore(raw::set_bytes(fd, level, name, &request));
                    let link = link.to_be_bytes();
                    ignore(raw::set_bytes(fd, level, libc::IP_UNICAST_IF, &link));
                }
            }
            SocketAddr::V6(_) => {
                one(libc::SOL_IPV6, IPV6_MULTICAST_ALL, 0);
                if let Some(link) = self.links.v6.and_then(|link| i32::try_from(link).ok()) {
                    one(libc::SOL_IPV6, libc::IPV6_MULTICAST_IF, link);
                }
            }
        }
    }

    /// Make a socket hear what is sent to a group and a port.
    pub fn join(&self, fd: &OwnedFd, group: SocketAddr) -> Result<(), Errno> {
        let group = self.scoped(group);
        prepare_datagrams(fd.as_fd(), Transport::Echo, group);
        share(fd);
        bind_to(fd, group)?;
        let (level, name, request) = match group {
            SocketAddr::V4(v4) => {
                let link = self.links.v4.unwrap_or(0);
                let request = group_request(*v4.ip(), link).to_vec();
                (libc::SOL_IP, libc::IP_ADD_MEMBERSHIP, request)
            }
            SocketAddr::V6(v6) => {
                // struct ipv6_mreq: group, interface
                let link = self.links.v6.unwrap_or(0).to_ne_bytes();
                let request = [&v6.ip().octets()[..], &link].concat();
                (libc::SOL_IPV6, libc::IPV6_ADD_MEMBERSHIP, request)
            }
        };
        raw::set_bytes(fd.as_fd(), level, name, &request)
            .map_err(|error| super::failure::errno(&error))
    }

    /// What a stream needs, be it accepted or ours.
    pub fn prepare_stream(&self, fd: BorrowedFd<'_>) {
        ignore(raw::set_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
        // A look would leave urgent bytes out, and the next one begin in the wrong place.
        ignore(raw::set_int(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1));
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

fn bind_to(fd: &OwnedFd, local: SocketAddr) -> Result<(), Errno> {
    match local {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6)),
    }
}

fn share(fd: &OwnedFd) {
    ignore(raw::set_int(
        fd.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_REUSEADDR,
        1,
    ));
}

/// The link of a link-local address.
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    }
}

/// A link-local address on a link, unless it names one itself.
fn with_scope(address: SocketAddr, link: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(mut v6) if v6.scope_id() == 0 && is_local(v6.ip()) => {
            v6.set_scope_id(link);
            SocketAddr::V6(v6)
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

/// Addresses that mean something on one link only; of groups, those whose scope is the link.
fn is_local(address: &Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    address.is_unicast_link_local() || first & 0xff0f == 0xff02
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

/// `struct ip_mreqn`: group, local address, interface.
fn group_request(group: Ipv4Addr, link: u32) -> [u8; 12] {
    let [a, b, c, d] = group.octets();
    let [e, f, g, h] = link.to_ne_bytes();
    [a, b, c, d, 0, 0, 0, 0, e, f, g, h]
}

/// The time to live of what a datagram socket sends to groups.
pub fn set_multicast_ttl(fd: BorrowedFd<'_>, v6: bool, ttl: u8) -> std::io::Result<()> {
    let (level, name) = if v6 {
        (libc::SOL_IPV6, libc::IPV6_MULTICAST_HOPS)
    } else {
        (libc::SOL_IP, libc::IP_MULTICAST_TTL)
    };
    raw::set_int(fd, level, name, i32::from(ttl))
}

/// The time to live of what a datagram socket sends.
pub fn set_ttl(fd: BorrowedFd<'_>, v6: bool, ttl: u8) -> std::io::Result<()> {
    if v6 {
        raw::set_int(fd, libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS, i32::from(ttl))
    } else {
        raw::set_int(fd, libc::SOL_IP, libc::IP_TTL, i32::from(ttl))
    }
}
