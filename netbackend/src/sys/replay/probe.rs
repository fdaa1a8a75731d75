//! Asks over the network. Sockets belong to the namespace that they were made in, so one process plays both sides.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
    send, socket,
};
use wire::replay::Check;
use wire::state::Protocol;

use super::stage::Stage;
use crate::replay::{Question, Side, message};

/// How long an answer may take, and after how long one that must not come is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(500);

/// After how long a question is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// What both sides say. A server of somebody else would say something else.
const WORD: &[u8] = b"replay";

/// Asks, and judges the answer.
pub(super) fn ask(stage: &Stage, question: &Question, wanted: bool) -> Check {
    let start = Instant::now();
    let limit = start + if wanted { PATIENCE } else { SILENCE };
    let asked = match question {
        Question::Ping { to, .. } => ping(stage, *to, limit),
        Question::Port {
            from,
            at,
            protocol,
            inside,
        } => port(stage, *from, *at, *protocol, *inside),
        Question::Name {
            server,
            name,
            address,
        } => resolve(stage, *server, name, *address, limit),
    };
    let took = start.elapsed();
    let good = asked.is_ok() == wanted;
    Check {
        check: question.to_string(),
        wanted,
        good,
        answer: asked.unwrap_or_else(|error| error.to_string()),
        duration_us: took.as_micros().try_into().unwrap_or(u64::MAX),
    }
}

fn silent() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer")
}

/// Makes a socket at a side's place.
fn at<T>(stage: &Stage, side: Side, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    // An address that has just been added may not be usable yet.
    let limit = Instant::now() + PATIENCE;
    loop {
        match stage.at(side, &make).map_err(io::Error::other)? {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && Instant::now() < limit => {
                std::thread::sleep(AGAIN / 10);
            }
            made => return made,
        }
    }
}

/// Waits until something can be read.
fn readable(socket: &impl AsFd, limit: Instant) -> io::Result<bool> {
    let rest = limit.saturating_duration_since(Instant::now()).min(AGAIN);
    let millis = u16::try_from(rest.as_millis()).unwrap_or(u16::MAX);
    let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut wanted, PollTimeout::from(millis))? > 0)
}

fn ping(stage: &Stage, to: IpAddr, limit: Instant) -> io::Result<String> {
    let socket = at(stage, Side::Container, || raw_socket(to))?;
    connect(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(to, 0)),
    )?;
    let id = 0x7e91;
    let mut buffer = [0; 1500];
    while Instant::now() < limit {
        send(
            socket.as_raw_fd(),
            &message::echo(to, id),
            MsgFlags::empty(),
        )?;
        let again = (Instant::now() + AGAIN).min(limit);
        while Instant::now() < again {
            if !readable(&socket, again)? {
                continue;
            }
            let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let received = buffer.get(..length).unwrap_or_default();
            if message::is_echo_reply(received, to, id) {
                return Ok("it answers".to_owned());
            }
        }
    }
    Err(silent())
}

fn raw_socket(to: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    Ok(socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?)
}

fn port(
    stage: &Stage,
    from: Side,
    to: SocketAddr,
    protocol: Protocol,
    inside: SocketAddr,
) -> io::Result<String> {
    match protocol {
        Protocol::Tcp => tcp(stage, from, to, inside),
        Protocol::Udp => udp(stage, from, to, inside),
        Protocol::Sctp => Err(io::Error::other("not asked for")),
    }
}

fn tcp(stage: &Stage, from: Side, to: SocketAddr, inside: SocketAddr) -> io::Result<String> {
    let listener = at(stage, Side::Container, || TcpListener::bind(inside))?;
    // The kernel answers for the listener; nobody has to wait on the other side.
    let mut client = at(stage, from, || TcpStream::connect_timeout(&to, PATIENCE))?;
    let limit = Instant::now() + PATIENCE;
    while !readable(&listener, limit)? {
        if Instant::now() >= limit {
            return Err(io::Error::other("somebody else answers"));
        }
    }
    let (mut server, peer) = listener.accept()?;
    server.write_all(WORD)?;
    drop(server);
    client.set_read_timeout(Some(PATIENCE))?;
    let mut said = Vec::new();
    client.read_to_end(&mut said)?;
    judge(&said, peer)
}

fn udp(stage: &Stage, from: Side, to: SocketAddr, inside: SocketAddr) -> io::Result<String> {
    let server = at(stage, Side::Container, || UdpSocket::bind(inside))?;
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let client = at(stage, from, || UdpSocket::bind((any, 0)))?;
    client.connect(to)?;
    let limit = Instant::now() + PATIENCE;
    let mut buffer = [0; 64];
    while Instant::now() < limit {
        client.send(WORD)?;
        if readable(&server, limit)? {
            let (length, peer) = server.recv_from(&mut buffer)?;
            server.send_to(buffer.get(..length).unwrap_or_default(), peer)?;
            if readable(&client, limit)? {
                let length = client.recv(&mut buffer)?;
                return judge(buffer.get(..length).unwrap_or_default(), peer);
            }
        }
    }
    Err(silent())
}

fn judge(said: &[u8], peer: SocketAddr) -> io::Result<String> {
    if said == WORD {
        Ok(format!("the container sees {}", peer.ip()))
    } else {
        Err(io::Error::other("somebody else answers"))
    }
}

fn resolve(
    stage: &Stage,
    server: IpAddr,
    name: &str,
    address: IpAddr,
    limit: Instant,
) -> io::Result<String> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let id = 0x7e91;
    let question = message::question(id, name, address);
    let question = question.ok_or_else(|| io::Error::other("no name that can be asked for"))?;
    let client = at(stage, Side::Container, || UdpSocket::bind((any, 0)))?;
    client.connect((server, 53))?;
    let mut last = silent();
    let mut buffer = [0; 1500];
    while Instant::now() < limit {
        match client.send(&question) {
            Ok(_) if !readable(&client, limit)? => continue,
            Ok(_) => {}
            Err(error) => last = error,
        }
        let length = match client.recv(&mut buffer) {
            Ok(length) => length,
            // Nobody is at the port yet.
            Err(error) => {
                last = error;
                std::thread::sleep(AGAIN / 10);
                continue;
            }
        };
        match message::addresses(buffer.get(..length).unwrap_or_default(), id) {
            Some((_, found)) if found.contains(&address) => return Ok("it is told".to_owned()),
            Some((code, found)) => {
                last = io::Error::other(format!("code {code}, addresses {found:?}"));
                std::thread::sleep(AGAIN / 10);
            }
            None => {}
        }
    }
    Err(last)
}
