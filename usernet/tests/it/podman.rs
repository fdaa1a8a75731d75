//! The whole program, called as Podman calls it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

use crate::attached::{Daemon, open_tun, run, wait_for};

/// Bytes of a conversation in each direction: more than all buffers on the way.
pub(crate) const BYTES: usize = 16 << 20;

/// The words that Podman 5.8 writes, with one published port. It adds no pid file; the test does.
pub(crate) fn start(host: &Host, netns: &Path, words: &[&str]) -> Result<Daemon> {
    let file = host.dir("pids")?.join("podman");
    let finished = call(
        netns,
        &[words, &["--pid", &file.to_string_lossy()]].concat(),
    )?;
    ensure!(finished.success(), "{finished}");
    let pid = std::fs::read_to_string(&file)?.trim().parse()?;
    Ok(Daemon { pid, finished })
}

pub(crate) fn call(netns: &Path, words: &[&str]) -> Result<Finished> {
    Program::new(env!("CARGO_BIN_EXE_usernet"))
        .args(["--config-net", "-t", "8080-8080:80-80"])
        .args(["--dns-forward", "169.254.1.1"])
        .args(["-u", "none", "-T", "none", "-U", "none"])
        .args(words)
        .args(["--no-map-gw", "--quiet", "--netns"])
        .arg(netns)
        .args(["--map-guest-addr", "169.254.1.2"])
        .run()
}

/// A server for one connection: takes everything, then gives as much back.
pub(crate) fn server(at: &Netns, address: &str) -> Result<thread::JoinHandle<Result<SocketAddr>>> {
    let listener = at.enter(|| Ok(TcpListener::bind(address)?))?;
    Ok(thread::spawn(move || {
        let (mut stream, peer) = listener.accept()?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)?;
        Ok(peer)
    }))
}

/// Talk to [`server`]; what comes back is what went there.
pub(crate) fn talk(from: &Netns, to: &str) -> Result<()> {
    let mut stream = from
        .enter(|| Ok(TcpStream::connect(to)?))
        .with_context(|| format!("to {to}"))?;
    let sent: Vec<u8> = (0..251).cycle().take(BYTES).collect();
    stream.write_all(&sent)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    ensure!(back == sent, "{} bytes came back", back.len());
    Ok(())
}

pub(crate) fn heard(server: thread::JoinHandle<Result<SocketAddr>>) -> Result<SocketAddr> {
    server
        .join()
        .unwrap_or_else(|_| anyhow::bail!("the server panicked"))
}

#[test]
fn ready_means_that_the_guest_is_configured() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let daemon = start(host, guest.path(), &[])?;
        ensure!(!daemon.finished.held_open, "somebody holds the output");
        ensure!(daemon.finished.stdout.is_empty() && daemon.finished.stderr.is_empty());
        let addresses = guest.sh("ip -br addr show dev uplink")?;
        ensure!(addresses.contains("192.0.2.1/24"), "{addresses}");
        ensure!(addresses.contains("2001:db8:5::1/64"), "{addresses}");
        let tentative = guest.sh("ip addr show tentative")?;
        ensure!(tentative.is_empty(), "{tentative}");
        let routes = guest.sh("ip route; ip -6 route; ip -br link show lo")?;
        ensure!(
            routes.contains("default via 192.0.2.2 dev uplink"),
            "{routes}"
        );
        ensure!(
            routes.contains("default via 2001:db8:5::2 dev uplink"),
            "{routes}"
        );
        ensure!(routes.contains("LOOPBACK,UP"), "{routes}");
        drop(guest);
        daemon.ended()?;
        Ok(())
    });
}

/// At the largest MTU and at that of Ethernet, in both families.
#[test]
fn connections_of_both_directions() {
    run(|host| {
        let outside = host.outside()?;
        for mtu in ["65520", "1500"] {
            let guest = host.container("guest")?;
            let daemon = start(host, guest.path(), &["--mtu", mtu])?;
            for address in ["192.0.2.2:7000", "[2001:db8:5::2]:7000"] {
                let far = server(&outside, address)?;
                talk(&guest, address)?;
                let peer = heard(far)?.ip().to_string();
                ensure!(peer == Host::V4 || peer == Host::V6, "{peer}");
            }
            for address in ["192.0.2.1:8080", "[2001:db8:5::1]:8080"] {
                let inside = server(&guest, "[::]:80")?;
                talk(&outside, address)?;
                // Who called is seen as he is.
                let peer = heard(inside)?.ip().to_canonical().to_string();
                let ours = [Host::OUTSIDE_V4, Host::OUTSIDE_V6];
                ensure!(ours.contains(&peer.as_str()), "{peer}");
            }
            drop(guest);
            daemon.ended()?;
        }
        Ok(())
    });
}

/// From the host itself, through loopback: from socket to socket, with the guest's own process making one.
#[test]
fn the_host_reaches_a_published_port() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let daemon = start(host, guest.path(), &[])?;
        for address in ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8080"] {
            let inside = server(&guest, "[::]:80")?;
            talk(host, address)?;
            heard(inside)?;
        }
        // More connections at once than sockets are kept ready.
        let listener = guest.enter(|| Ok(TcpListener::bind("[::]:80")?))?;
        let clients: Vec<TcpStream> = (0..100)
            .map(|_| host.enter(|| Ok(TcpStream::connect("127.0.0.1:8080")?)))
            .collect::<Result<_>>()?;
        for _ in &clients {
            listener.accept()?;
        }
        ensure!(daemon.lives());
        Ok(())
    });
}

#[test]
fn nobody_listens() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let _daemon = start(host, guest.path(), &[])?;
        let error = guest.enter(|| Ok(TcpStream::connect("192.0.2.2:7001").err()))?;
        let error = error.context("connected to nobody")?;
        ensure!(
            error.kind() == std::io::ErrorKind::ConnectionRefused,
            "{error}"
        );
        let mut stream = host.enter(|| Ok(TcpStream::connect("192.0.2.1:8080")?))?;
        let read = stream.read(&mut [0]);
        ensure!(!matches!(read, Ok(1..)), "somebody answered");
        Ok(())
    });
}

/// The next instance takes the port although connections of the one before are open.
#[test]
fn the_next_instance_has_the_same_port() {
    run(|host| {
        let _outside = host.outside()?;
        let mut daemons = Vec::new();
        let mut streams = Vec::new();
        for round in 0..3 {
            let guest = host.container(&format!("guest{round}"))?;
            daemons.push(start(host, guest.path(), &[])?);
            let listener = guest.enter(|| Ok(TcpListener::bind("[::]:80")?))?;
            streams.push(host.enter(|| Ok(TcpStream::connect("192.0.2.1:8080")?))?);
            listener.accept()?;
        }
        wait_for("all end", || daemons.iter().all(|daemon| !daemon.lives()))
    });
}

#[test]
fn what_is_wrong_is_said() {
    run(|host| {
        let guest = host.container("guest")?;
        let taken = TcpListener::bind("0.0.0.0:8080")?;
        let finished = call(guest.path(), &[])?;
        ensure!(finished.code() == Some(1), "{finished}");
        ensure!(finished.stderr.contains("8080"), "{finished}");
        drop(taken);
        let finished = call(Path::new("/run/netns/nosuch"), &[])?;
        ensure!(finished.code() == Some(1), "{finished}");
        ensure!(
            finished.stderr.contains("Couldn't open network namespace"),
            "{finished}"
        );
        let finished = call(guest.path(), &["--nonsense"])?;
        ensure!(finished.code() == Some(1), "{finished}");
        ensure!(
            finished.stderr.contains("unrecognized option '--nonsense"),
            "{finished}"
        );
        Ok(())
    });
}

/// A command has a network of its own, and its exit code is ours.
#[test]
fn a_command_runs() {
    run(|host| {
        open_tun(host)?;
        let outside = host.outside()?;
        let far = server(&outside, "192.0.2.2:7000")?;
        let finished = Program::new(env!("CARGO_BIN_EXE_usernet"))
            .args(["--config-net", "--no-map-gw", "--quiet", "--", "bash", "-c"])
            .arg("exec 3<>/dev/tcp/192.0.2.2/7000 && echo hello >&3 && exit 7")
            .run()?;
        ensure!(finished.code() == Some(7), "{finished}");
        heard(far)?;
        Ok(())
    });
}
