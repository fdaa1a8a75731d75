//! Opens the sockets of a listen address: by UDP one for each worker, by TCP one.
//!
//! The first UDP socket is bound alone, so that an address that somebody else has is noticed; then it is opened to
//! its siblings (`SO_REUSEPORT`), over which the kernel spreads the askers.
//!
//! An address on an interface in a VRF is none of the host's own: sockets are bound to the interface, too, then.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::BindToDevice;
use nix::sys::socket::{SockaddrStorage, setsockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::owner::{self, Owner};

/// Sockets of an address.
#[derive(Debug)]
pub struct Sockets {
    /// One for each worker.
    pub udp: Vec<UdpSocket>,
    /// For all connections.
    pub tcp: TcpListener,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("failed to bind {protocol} listener on {address}: {source}{}", .owner.as_ref().map(|owner| format!("; {owner}")).unwrap_or_default())]
pub struct BindError {
    protocol: &'static str,
    address: SocketAddr,
    /// What the kernel says.
    pub source: io::Error,
    /// Who has the address.
    owner: Option<Owner>,
}

impl BindError {
    /// Whether it may work in a moment: the address is about to come up, or about to be given up by a daemon that has
    /// taken away its pid file and now ends, or has ended so far that it cannot be seen any more.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        let kind = self.source.kind();
        let ending = self.owner.as_ref().is_none_or(Owner::is_like_us);
        kind == io::ErrorKind::AddrNotAvailable || kind == io::ErrorKind::AddrInUse && ending
    }
}

/// Opens all sockets of an address.
///
/// # Errors
/// Somebody else has it, or it is not ours.
pub fn open(address: IpAddr, port: u16, workers: usize) -> Result<Sockets, BindError> {
    let address = SocketAddr::new(address, port);
    let failed = |protocol| {
        move |source: io::Error| BindError {
            protocol,
            address,
            owner: (source.kind() == io::ErrorKind::AddrInUse)
                .then(|| owner::of(protocol, address))
                .flatten(),
            source,
        }
    };
    let first = udp(address, false).map_err(failed("udp"))?;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        first.set_reuse_port(true).map_err(failed("udp"))?;
        sockets.push(udp(address, true).map_err(failed("udp"))?.into());
    }
    sockets.push(first.into());
    let tcp = tcp(address).map_err(failed("tcp"))?;
    Ok(Sockets {
        udp: sockets,
        tcp: tcp.into(),
    })
}

fn udp(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?; // a reply that finds no room is lost; those behind it are not
    bind(&socket, address)?;
    // A burst of questions of many containers at once waits here; without the right to more, less is fine, too.
    drop(socket.set_recv_buffer_size(1 << 20));
    Ok(socket)
}

fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    bind(&socket, address)?;
    socket.listen(1024)?;
    Ok(socket)
}

fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let error = match socket.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => error,
        done => return done,
    };
    let Some(interface) = interface_with(address.ip())?.filter(|_| !is_tentative(address.ip()))
    else {
        return Err(error);
    };
    // It may just have come up.
    if socket.bind(&address.into()).is_ok() {
        return Ok(());
    }
    setsockopt(socket, BindToDevice, &interface)?;
    socket.bind(&address.into())
}

/// Whether the kernel still asks if somebody else has an address (RFC 4862, section 5.4).
fn is_tentative(address: IpAddr) -> bool {
    const TENTATIVE: u32 = 0x40;
    let IpAddr::V6(address) = address else {
        return false;
    };
    let digits = format!("{:032x}", u128::from(address));
    let table = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let flags = table.lines().find_map(|line| {
        let mut columns = line.strip_prefix(&*digits)?.split_ascii_whitespace();
        u32::from_str_radix(columns.nth(3)?, 16).ok()
    });
    flags.is_some_and(|flags| flags & TENTATIVE != 0)
}

/// The interface that has an address.
fn interface_with(address: IpAddr) -> io::Result<Option<OsString>> {
    let has_it = |storage: &SockaddrStorage| match address {
        IpAddr::V4(address) => storage
            .as_sockaddr_in()
            .is_some_and(|it| it.ip() == address),
        IpAddr::V6(address) => storage
            .as_sockaddr_in6()
            .is_some_and(|it| it.ip() == address),
    };
    let found = getifaddrs()?.find(|entry| entry.address.as_ref().is_some_and(has_it));
    Ok(found.map(|entry| entry.interface_name.into()))
}
