//! Conversations: servers that tell who they are and whom they saw, clients that ask.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::sockopt::{Ipv6V6Only, ReceiveTimeout, ReuseAddr, SendTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    listen, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use crate::netns::Netns;
use crate::program::Program;

/// Transport protocols that ports are published for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, one-to-one style. Debian's kernel has it: use it in tests named `vm_`.
    Sctp,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The name the server was started with: which of them was reached.
    pub tag: String,
    /// The address the question came from, as the server saw it: which translation took place.
    pub peer: SocketAddr,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.peer, self.tag)
    }
}

/// How often a server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);

/// A server that runs until dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok(); // its panic has been printed
        }
    }
}

/// Starts a server in `netns` that listens when this returns. `[::]` serves IPv6 only.
pub fn serve(netns: &Netns, protocol: Protocol, at: SocketAddr, tag: &str) -> Result<Server> {
    let socket = netns
        .enter(|| Ok(listening_socket(protocol, at)?))
        .with_context(|| {
            format!(
                "cannot serve {protocol:?} {at} in {}",
                netns.path().display()
            )
        })?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let tag = tag.to_owned();
    // A socket stays in the namespace it was made in, so the thread need not.
    let thread = thread::spawn(move || {
        if protocol == Protocol::Udp {
            answer_datagrams(&UdpSocket::from(socket), &tag, &stopped);
        } else {
            answer_streams(&TcpListener::from(socket), &tag, &stopped);
        }
    });
    Ok(Server {
        stop,
        thread: Some(thread),
    })
}

/// Asks the server at `to` from `netns`, from the address `from` if given (port 0: any).
///
/// # Errors
///
/// What the socket says: `ConnectionRefused`, `WouldBlock` or `TimedOut` when nothing came within `timeout`.
pub fn ask(
    netns: &Netns,
    protocol: Protocol,
    from: Option<SocketAddr>,
    to: SocketAddr,
    timeout: Duration,
) -> io::Result<Reply> {
    let answer = netns
        .enter(|| Ok(exchange(protocol, from, to, timeout)))
        .map_err(io::Error::other)??;
    let text = String::from_utf8_lossy(&answer);
    text.split_once(' ')
        .and_then(|(peer, tag)| {
            Some(Reply {
                tag: tag.to_owned(),
                peer: peer.parse().ok()?,
            })
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("answer {text:?}")))
}

/// [`ask()`] over TCP from any address, for at most three seconds.
pub fn tcp_ask(netns: &Netns, to: SocketAddr) -> io::Result<Reply> {
    ask(netns, Protocol::Tcp, None, to, Duration::from_secs(3))
}

/// [`ask()`] over UDP from any address, for at most three seconds.
pub fn udp_ask(netns: &Netns, to: SocketAddr) -> io::Result<Reply> {
    ask(netns, Protocol::Udp, None, to, Duration::from_secs(3))
}

/// Whether `to` answers one of three echo requests within a second each.
pub fn ping(netns: &Netns, to: IpAddr) -> Result<bool> {
    let finished = Program::new("ping")
        .args(["-n", "-c", "3", "-i", "0.2", "-W", "1", &to.to_string()])
        .run_in(netns)?;
    Ok(finished.success())
}

/// Takes the next connection, hears so many bytes, and says something. Returns what it heard before and after that.
pub fn called(
    listener: &TcpListener,
    before: usize,
    says: &[u8],
) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut stream, _) = listener.accept()?;
    let mut first = vec![0; before];
    stream.read_exact(&mut first)?;
    stream.write_all(says)?;
    let mut rest = Vec::new();
    // If the other end does not read all that is said, the end is an error.
    stream.read_to_end(&mut rest).unwrap_or_default();
    Ok((first, rest))
}

/// Tries again until it holds or `limit` has passed; says whether it held. For what the kernel or a daemon does in its
/// own time.
pub fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if begin.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn listening_socket(protocol: Protocol, at: SocketAddr) -> nix::Result<OwnedFd> {
    let socket = new_socket(protocol, at)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    if at.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    setsockopt(&socket, ReceiveTimeout, &time_val(TICK))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    if protocol != Protocol::Udp {
        listen(&socket, Backlog::new(16)?)?;
    }
    Ok(socket)
}

fn exchange(
    protocol: Protocol,
    from: Option<SocketAddr>,
    to: SocketAddr,
    timeout: Duration,
) -> io::Result<Vec<u8>> {
    let socket = new_socket(protocol, to)?;
    if let Some(from) = from {
        setsockopt(&socket, ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    // The time limit of sending is also that of connecting.
    setsockopt(&socket, SendTimeout, &time_val(timeout))?;
    setsockopt(&socket, ReceiveTimeout, &time_val(timeout))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).map_err(|errno| {
        if errno == nix::Error::EINPROGRESS {
            io::ErrorKind::TimedOut.into()
        } else {
            io::Error::from(errno)
        }
    })?;
    let mut answer = vec![0; 1024];
    let length = if protocol == Protocol::Udp {
        let socket = UdpSocket::from(socket);
        socket.send(b"who?")?;
        socket.recv(&mut answer)?
    } else {
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"who?")?;
        stream.read(&mut answer)?
    };
    answer.truncate(length);
    Ok(answer)
}

fn new_socket(protocol: Protocol, like: SocketAddr) -> nix::Result<OwnedFd> {
    let family = match like {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let (kind, protocol) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)
}

fn answer_streams(listener: &TcpListener, tag: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // Accepting gives up after TICK.
        let Ok((mut stream, peer)) = listener.accept() else {
            continue;
        };
        let reply = Reply {
            tag: tag.to_owned(),
            peer,
        };
        thread::spawn(move || {
            let mut question = [0; 16];
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            if stream.read(&mut question)? > 0 {
                stream.write_all(reply.to_string().as_bytes())?;
            }
            io::Result::Ok(())
        });
    }
}

fn answer_datagrams(socket: &UdpSocket, tag: &str, stop: &AtomicBool) {
    let mut question = [0; 16];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, peer)) = socket.recv_from(&mut question) {
            let reply = Reply {
                tag: tag.to_owned(),
                peer,
            };
            socket.send_to(reply.to_string().as_bytes(), peer).ok(); // it may have gone
        }
    }
}

fn time_val(duration: Duration) -> TimeVal {
    let microseconds = duration
        .as_micros()
        .try_into()
        .expect("a test waits for seconds");
    nix::sys::time::TimeValLike::microseconds(microseconds)
}

/// `0.0.0.0:port`.
pub fn any_v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

/// `[::]:port`.
pub fn any_v6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}
