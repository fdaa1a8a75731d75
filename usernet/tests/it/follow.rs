//! Ports that follow the other side's listeners (`auto`).

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;

use crate::attached::{Daemon, run, status, usernet, wait_for};

/// Long enough for two looks at who listens.
const TWO_LOOKS: Duration = Duration::from_millis(2500);

fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<Daemon> {
    Daemon::of(usernet(words).arg("--quiet"), host, guest)
}

fn listen(at: &Netns, address: &str) -> Result<TcpListener> {
    at.enter(|| Ok(TcpListener::bind(address)?))
}

fn bind(at: &Netns, address: &str) -> Result<UdpSocket> {
    at.enter(|| {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

/// Whether a connection from here reaches this listener.
fn reaches(from: &Netns, to: &str, listener: &TcpListener) -> bool {
    let reach = || -> Result<bool> {
        let mut stream = from.enter(|| Ok(TcpStream::connect(to)?))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (mut accepted, _) = listener.accept()?;
        accepted.write_all(b"hello")?;
        let mut text = [0; 5];
        stream.read_exact(&mut text)?;
        Ok(&text == b"hello")
    };
    reach().unwrap_or(false)
}

fn refused(from: &Netns, to: &str) -> bool {
    from.enter(|| Ok(TcpStream::connect(to).is_err()))
        .unwrap_or(false)
}

/// Whether a datagram from here reaches this socket, and the answer comes back.
fn answers(from: &Netns, to: &str, socket: &UdpSocket) -> bool {
    let ask = || -> Result<bool> {
        let asker = from.enter(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
        asker.set_read_timeout(Some(Duration::from_millis(200)))?;
        asker.send_to(b"question", to)?;
        let mut buffer = [0; 16];
        let mut asked = None;
        wait_for("the question", || {
            asked = socket.recv_from(&mut buffer).ok();
            asked.is_some()
        })?;
        let (len, who) = asked.unwrap_or((0, asker.local_addr()?));
        socket.send_to(&buffer[..len], who)?;
        let len = asker.recv(&mut buffer)?;
        Ok(&buffer[..len] == b"question")
    };
    ask().unwrap_or(false)
}

/// Who listens there, as `tcp 80` or `udp 53`, without those below.
fn sockets(at: &Netns) -> Result<Vec<String>> {
    let text = at.sh("ss -Htuln")?;
    let lines = text.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let port = words.get(4).and_then(|local| local.rsplit_once(':'));
        format!("{} {}", words[0], port.map_or("", |(_, port)| port))
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    Ok(lines)
}

#[test]
fn connections_to_the_guest() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let early = listen(&guest, "[::]:8001")?;
        let _daemon = start(host, &guest, &["-t", "auto", "-u", "none", "-T", "none"])?;
        // Ready means: forwarded, without waiting.
        ensure!(reaches(host, "127.0.0.1:8001", &early));
        ensure!(reaches(host, "[::1]:8001", &early));
        ensure!(refused(host, "127.0.0.1:8002"));

        let late = listen(&guest, "[::]:8002")?;
        wait_for("it is followed", || {
            sockets(host).is_ok_and(|all| all == ["tcp 8001", "tcp 8002"])
        })?;
        ensure!(reaches(host, "127.0.0.1:8002", &late));
        drop(late);
        wait_for("it is gone", || refused(host, "127.0.0.1:8002"))?;
        ensure!(reaches(host, "127.0.0.1:8001", &early));
        Ok(())
    });
}

#[test]
fn connections_to_the_host() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        // A privileged port can be had at the start.
        let early = listen(host, "127.0.0.1:22")?;
        let _daemon = start(host, &guest, &["-t", "none", "-u", "none", "-T", "auto"])?;
        ensure!(reaches(&guest, "127.0.0.1:22", &early));
        let late = listen(host, "127.0.0.1:8002")?;
        wait_for("it is followed", || {
            sockets(&guest).is_ok_and(|all| all.contains(&"tcp 8002".to_owned()))
        })?;
        ensure!(reaches(&guest, "127.0.0.1:8002", &late));
        drop(late);
        wait_for("it is gone", || refused(&guest, "127.0.0.1:8002"))?;
        ensure!(reaches(&guest, "127.0.0.1:22", &early));
        Ok(())
    });
}

#[test]
fn datagrams_of_both_directions() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let early = bind(&guest, "[::]:5001")?;
        let words = ["-t", "none", "-u", "auto", "-T", "none", "-U", "auto"];
        let _daemon = start(host, &guest, &words)?;
        ensure!(answers(host, "127.0.0.1:5001", &early));
        let there = bind(&guest, "[::]:5002")?;
        let here = bind(host, "127.0.0.1:5003")?;
        // A name server takes connections first and datagrams later.
        let _connections = listen(&guest, "[::]:5004")?;
        let expected = ["udp 5001", "udp 5002", "udp 5003", "udp 5004"];
        wait_for("all are followed on the host", || {
            sockets(host).is_ok_and(|all| all == expected)
        })?;
        let expected = ["tcp 5004", "udp 5001", "udp 5002", "udp 5003"];
        wait_for("and in the guest", || {
            sockets(&guest).is_ok_and(|all| all == expected)
        })?;
        ensure!(answers(host, "127.0.0.1:5002", &there));
        ensure!(answers(&guest, "127.0.0.1:5003", &here));
        drop((there, here));
        wait_for("two are gone", || {
            sockets(host).is_ok_and(|all| all == ["udp 5001", "udp 5004"])
                && sockets(&guest).is_ok_and(|all| all == ["tcp 5004", "udp 5001"])
        })?;
        ensure!(answers(host, "127.0.0.1:5001", &early));
        Ok(())
    });
}

/// Everything follows everything, as it does by default.
#[test]
fn nothing_goes_round_in_circles() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let here = listen(host, "127.0.0.1:8001")?;
        let there = listen(&guest, "[::]:8002")?;
        let _daemon = start(host, &guest, &[])?;
        let all = ["tcp 8001", "tcp 8002", "udp 8001", "udp 8002"];
        let on_the_host = [all[0], all[1], all[3]];
        let in_the_guest = [all[0], all[1], all[2]];
        for _ in 0..2 {
            ensure!(sockets(host)? == on_the_host, "{:?}", sockets(host)?);
            ensure!(sockets(&guest)? == in_the_guest, "{:?}", sockets(&guest)?);
            std::thread::sleep(TWO_LOOKS);
        }
        // What we had for them must not keep itself alive.
        drop((here, there));
        wait_for("all are gone", || {
            sockets(host).is_ok_and(|all| all.is_empty())
                && sockets(&guest).is_ok_and(|all| all.is_empty())
        })
    });
}

/// One connection that was there lives on when its listener is gone.
#[test]
fn a_connection_outlives_its_listener() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let listener = listen(&guest, "[::]:8001")?;
        let _daemon = start(host, &guest, &["-t", "auto", "-u", "none"])?;
        let mut stream = host.enter(|| Ok(TcpStream::connect("127.0.0.1:8001")?))?;
        let (mut accepted, _) = listener.accept()?;
        drop(listener);
        wait_for("it is gone", || refused(host, "127.0.0.1:8001"))?;
        accepted.write_all(b"still here")?;
        let mut text = [0; 10];
        stream.read_exact(&mut text)?;
        ensure!(&text == b"still here");
        Ok(())
    });
}

#[test]
fn privileged_ports_come_with_a_hint_once() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let log = host.dir("follow")?.join("log");
        let file = log.to_string_lossy();
        let words = ["-t", "auto", "-u", "none", "--log-file", &*file];
        let _daemon = start(host, &guest, &words)?;
        let _low = listen(&guest, "[::]:80")?;
        let read = || std::fs::read_to_string(&log).unwrap_or_default();
        wait_for("it is told", || read().contains("/80: Permission denied"))?;
        let _next = listen(&guest, "[::]:81")?;
        std::thread::sleep(TWO_LOOKS);
        let text = read();
        let hints = text.matches("net.ipv4.ip_unprivileged_port_start=80");
        ensure!(hints.count() == 1, "{text}");
        ensure!(!text.contains("/81"), "{text}");
        host.set_sysctl("ipv4/ip_unprivileged_port_start", "80")?;
        wait_for("it is followed", || !refused(host, "127.0.0.1:80"))
    });
}

/// Who follows nobody sleeps.
#[test]
fn nothing_to_follow_nothing_to_do() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let words = ["-t", "8001", "-u", "none", "-T", "none", "-U", "none"];
        let daemon = start(host, &guest, &words)?;
        let woken = || status(daemon.pid, "voluntary_ctxt_switches");
        // The guest's kernel has something to say to a new interface now and then, in the first seconds.
        for _ in 0..8 {
            let before = woken()?;
            std::thread::sleep(TWO_LOOKS);
            if woken()? == before {
                return Ok(());
            }
        }
        bail!("woken all the time")
    });
}
