//! Listening sockets, in the namespace that we are in: all are bound before we say that we are ready. Later ones, which
//! [`super::listeners`] wants, are bound here too, and may belong to the other namespace.
//!
//! A range without an address has one socket for both families a port (`::` with `IPV6_V6ONLY` off), or one of the only
//! family that is on. In the guest such a range listens on the loopback interface alone, or where a socket cannot be
//! bound to an interface (before Linux 5.7, or a kernel that forbids it), on 127.0.0.1 and ::1.
//!
//! Ranges that need not be had (`all`) may be larger than the limit of open files. They share what it leaves, each as
//! much as its size is of all, and what is left out is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockaddrIn, SockaddrIn6, bind, listen, setsockopt,
    sockopt::{BindToDevice, IpFreebind, Ipv6V6Only, ReuseAddr},
};

use super::failure::Failure;
use super::{options, raw, resting};
use crate::config::{Families, Listener};
use crate::event::{Side, Transport};

/// How often, and after how long each time, a port that is taken is tried again, in all: an engine that starts a
/// container again starts us while the instance before us is ending.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);
/// Connections that wait for us to accept them: as many as the host grants (`net.core.somaxconn`). Above it the kernel
/// lets callers believe that they are connected, and resets them when they speak.
const BACKLOG: Backlog = Backlog::MAXALLOWABLE;
/// The setting that says which ports are for everybody.
const UNPRIVILEGED: &str = "net.ipv4.ip_unprivileged_port_start";

/// What shall be listened on.
#[derive(Debug, Clone, Default)]
pub struct Listening {
    /// The ranges, as [`crate::config::Config::listeners`].
    pub listeners: Vec<Listener>,
    /// Which families are on.
    pub families: Families<()>,
    /// Addresses that the host does not have (yet) may be listened on.
    pub freebind: bool,
    /// Sockets that there may be, on both sides together; none: as many as there can be.
    pub most: Option<usize>,
}

impl Listening {
    /// How many sockets of `most` one of the ranges has, if it need not be had.
    fn share(&self, listener: &Listener) -> usize {
        let all = self.sockets(true);
        let most = self.most.unwrap_or(usize::MAX);
        let room = most.saturating_sub(self.needed());
        if all <= room {
            return usize::MAX;
        }
        room * size(listener) / all
    }

    /// How many sockets there have to be at least.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.sockets(false)
    }

    /// Of the ranges that are bound at the start.
    fn sockets(&self, best_effort: bool) -> usize {
        let bound = self.listeners.iter().filter(|range| !range.follow);
        let bound = bound.filter(|range| range.best_effort == best_effort);
        bound.map(size).sum()
    }
}

/// A socket for each port.
fn size(range: &Listener) -> usize {
    usize::from(range.last.saturating_sub(range.first)) + 1
}

/// What was bound.
#[derive(Debug, Default)]
pub struct All {
    /// The sockets.
    pub sockets: Vec<Bound>,
    /// What the limit of open files left out, in words.
    pub left_out: Option<String>,
}

/// One socket.
#[derive(Debug)]
pub struct Bound {
    /// Its range: the place in [`Listening::listeners`].
    pub listener: u32,
    /// Its port.
    pub port: u16,
    /// Bound, for TCP listening, non-blocking.
    pub fd: OwnedFd,
}

/// Bind everything that belongs to the namespace that we are in. Ranges that follow the other side are left out: they
/// are bound when somebody listens there.
pub fn bind_all(wanted: &Listening, side: Side) -> Result<All, Failure> {
    let mut all = All::default();
    let mut left_out: Option<(String, u32)> = None;
    let mut tries = TRIES;
    for (place, listener) in (0..).zip(&wanted.listeners) {
        if listener.side != side || listener.follow {
            continue;
        }
        if let Some(port) = bind_range(wanted, place, listener, &mut tries, &mut all.sockets)? {
            let (_, ports) = left_out.get_or_insert_with(|| (failed(listener, port), 0));
            *ports += u32::from(listener.last - port) + 1;
        }
    }
    all.left_out = left_out.map(|(first, ports)| {
        let many = all.sockets.len();
        format!(
            "{first}, and for {} more: our limit of open files (RLIMIT_NOFILE, ulimit -Hn) leaves {many} to these ports",
            ports - 1
        )
    });
    Ok(all)
}

/// From which port on it was left out, if not all of it was bound.
fn bind_range(
    wanted: &Listening,
    place: u32,
    listener: &Listener,
    tries: &mut u32,
    bound: &mut Vec<Bound>,
) -> Result<Option<u16>, Failure> {
    let before = bound.len();
    let share = if listener.best_effort {
        wanted.share(listener)
    } else {
        usize::MAX
    };
    let mut last = None;
    for port in listener.first..=listener.last {
        if bound.len() - before >= share {
            return Ok(Some(port));
        }
        let mut result = bind_port(wanted, listener, port, &mut options::open);
        while matches!(result, Err(Errno::EADDRINUSE)) && !listener.best_effort && *tries > 0 {
            *tries -= 1;
            std::thread::sleep(PAUSE);
            result = bind_port(wanted, listener, port, &mut options::open);
        }
        match result {
            Ok(fds) => bound.extend(fds.into_iter().map(|fd| Bound {
                listener: place,
                port,
                fd,
            })),
            Err(Errno::EMFILE | Errno::ENFILE) if listener.best_effort => return Ok(Some(port)),
            Err(error) if listener.best_effort => last = Some((port, error)),
            Err(error) => return Err(refused(listener, port, error)),
        }
    }
    match last {
        Some((port, error)) if bound.len() == before => Err(refused(listener, port, error)),
        _ => Ok(None),
    }
}

/// What is said of a port that cannot be listened on.
fn refused(listener: &Listener, port: u16, error: Errno) -> Failure {
    let failure = Failure::of(failed(listener, port))(error);
    let failure = failure.and("Couldn't listen on requested ports");
    match first_unprivileged() {
        Some(first) if error == Errno::EACCES && port < first => failure.and(&format!(
            "ports below {first} are for privileged processes: choose another, or as root: sysctl {UNPRIVILEGED}={port}"
        )),
        _ => with_limit(failure, error),
    }
}

/// A failure, and the limit that it comes from.
fn with_limit(failure: Failure, error: Errno) -> Failure {
    match resting::limit(error).strip_prefix(": ") {
        Some(limit) => failure.and(limit),
        None => failure,
    }
}

/// The same of one that is wanted while we run.
pub fn refused_later(listener: &Listener, port: u16, error: Errno) -> Failure {
    let failure = Failure::of(failed(listener, port))(error);
    if error == Errno::EACCES {
        failure.and(&format!(
            "we have no right to privileged ports: as root: sysctl {UNPRIVILEGED}={port}"
        ))
    } else {
        with_limit(failure, error)
    }
}

fn failed(listener: &Listener, port: u16) -> String {
    let side = match listener.side {
        Side::Host => "HOST",
        Side::Guest => "SPLICE",
    };
    let transport = match listener.transport {
        Transport::Tcp => "TCP",
        Transport::Udp | Transport::Echo => "UDP",
    };
    let address = match listener.address {
        None => "*".to_owned(),
        Some(IpAddr::V4(v4)) => v4.to_string(),
        Some(IpAddr::V6(v6)) => format!("[{v6}]"),
    };
    let interface = listener.interface.iter().map(|name| format!("%{name}"));
    let interface: String = interface.collect();
    format!("Listen failed for {side} {transport} port {address}{interface}/{port}")
}

fn first_unprivileged() -> Option<u16> {
    let path = format!("/proc/sys/{}", UNPRIVILEGED.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Makes a socket in the namespace that is listened in.
pub type Sockets<'a> = &'a mut dyn FnMut(AddressFamily, Transport) -> Result<OwnedFd, Errno>;

/// Usually one socket; two where loopback of both families stands for the loopback interface.
pub fn bind_port(
    wanted: &Listening,
    listener: &Listener,
    port: u16,
    sockets: Sockets<'_>,
) -> Result<Vec<OwnedFd>, Errno> {
    let mut socket = Socket {
        transport: listener.transport,
        freebind: wanted.freebind,
        sockets,
    };
    let device = match listener.side {
        Side::Host => listener.interface.as_deref(),
        Side::Guest => Some("lo"),
    };
    let Some(address) = listener.address else {
        return match bind_wildcard(wanted, &mut socket, device, port) {
            Err(Errno::EPERM) if listener.side == Side::Guest => {
                bind_loopback(wanted, &mut socket, port)
            }
            other => other.map(|fd| vec![fd]),
        };
    };
    let address = SocketAddr::new(address, port);
    Ok(vec![socket.bind(address, address.is_ipv6(), device)?])
}

fn bind_wildcard(
    wanted: &Listening,
    socket: &mut Socket<'_>,
    device: Option<&str>,
    port: u16,
) -> Result<OwnedFd, Errno> {
    let (v4, v6) = (wanted.families.v4.is_some(), wanted.families.v6.is_some());
    if v6 {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        match socket.bind(any, !v4, device) {
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) if v4 => {}
            other => return other,
        }
    }
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    socket.bind(any, false, device)
}

fn bind_loopback(
    wanted: &Listening,
    socket: &mut Socket<'_>,
    port: u16,
) -> Result<Vec<OwnedFd>, Errno> {
    let v4 = wanted.families.v4.map(|()| Ipv4Addr::LOCALHOST.into());
    let v6 = wanted.families.v6.map(|()| Ipv6Addr::LOCALHOST.into());
    let addresses = v4.into_iter().chain(v6);
    addresses
        .map(|ip: IpAddr| socket.bind(SocketAddr::new(ip, port), ip.is_ipv6(), None))
        .collect()
}

/// A socket to be.
struct Socket<'a> {
    transport: Transport,
    freebind: bool,
    sockets: Sockets<'a>,
}

impl Socket<'_> {
    /// Where the interface cannot be had, it is an error: never more than what was asked for.
    fn bind(
        &mut self,
        to: SocketAddr,
        only_v6: bool,
        device: Option<&str>,
    ) -> Result<OwnedFd, Errno> {
        let fd = (self.sockets)(options::family(to), self.transport)?;
        setsockopt(&fd, ReuseAddr, &true)?;
        if to.is_ipv6() {
            setsockopt(&fd, Ipv6V6Only, &only_v6)?;
        }
        if self.freebind {
            setsockopt(&fd, IpFreebind, &true)?;
        }
        if let Some(device) = device {
            setsockopt(&fd, BindToDevice, &device.into())?;
        }
        match to {
            SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
            SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
        }
        match self.transport {
            Transport::Tcp => listen(&fd, BACKLOG)?,
            Transport::Udp | Transport::Echo => tell_more(&fd, to.is_ipv6()),
        }
        Ok(fd)
    }
}

/// Datagrams shall come with the address they were sent to and their time to live, and from all groups that are joined,
/// which sockets of IPv6 do for IPv4 only if asked. A socket of both families is asked in both ways.
fn tell_more(fd: &OwnedFd, v6: bool) {
    let mut options = vec![
        (libc::SOL_IP, libc::IP_PKTINFO),
        (libc::SOL_IP, libc::IP_RECVTTL),
        (libc::SOL_IP, libc::IP_MULTICAST_ALL),
    ];
    if v6 {
        options.push((libc::SOL_IPV6, libc::IPV6_RECVPKTINFO));
        options.push((libc::SOL_IPV6, libc::IPV6_RECVHOPLIMIT));
    }
    for (level, name) in options {
        // Every kernel has these; IPv4's are refused on a socket that is for IPv6 only, where they mean nothing.
        raw::set_int(fd.as_fd(), level, name, 1).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: Option<&str>, first: u16, last: u16) -> Listener {
        Listener {
            side: Side::Host,
            transport: Transport::Tcp,
            address: address.map(|a| a.parse().unwrap()),
            interface: None,
            first,
            last,
            target: first,
            target_address: None,
            best_effort: false,
            follow: false,
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        let check = |listener: &Listener, port, error, expected: &str| {
            assert_eq!(refused(listener, port, error).to_string(), expected);
        };
        check(
            &listener(Some("0.0.0.0"), 8080, 8080),
            8080,
            Errno::EADDRINUSE,
            "Listen failed for HOST TCP port 0.0.0.0/8080: Address already in use\n\
             Couldn't listen on requested ports",
        );
        let bound = Listener {
            interface: Some("eth0".to_owned()),
            transport: Transport::Udp,
            ..listener(Some("::1"), 5000, 5000)
        };
        check(
            &bound,
            5000,
            Errno::ENODEV,
            "Listen failed for HOST UDP port [::1]%eth0/5000: No such device\n\
             Couldn't listen on requested ports",
        );
        if first_unprivileged() == Some(1024) {
            check(
                &listener(None, 80, 80),
                80,
                Errno::EACCES,
                "Listen failed for HOST TCP port */80: Permission denied\n\
                 Couldn't listen on requested ports\n\
                 ports below 1024 are for privileged processes: choose another, or as root: \
                 sysctl net.ipv4.ip_unprivileged_port_start=80",
            );
        }
    }
}
