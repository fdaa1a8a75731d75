//! Whole conversations through one published port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;

use super::machine::{connect, on, program, settle};
use crate::attached::wait_for;

/// Bytes of a conversation in each direction: more than all buffers on the way.
const BYTES: usize = 16 << 20;

/// One published port.
const PUBLISHED: [&str; 2] = ["-t", "8080-8080:80-80"];

/// A server for one connection: takes everything, then gives as much back.
fn server(at: &Netns, address: &str) -> Result<thread::JoinHandle<Result<SocketAddr>>> {
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
fn talk(from: &Netns, to: &str) -> Result<()> {
    let mut stream = connect(from, to.parse::<SocketAddr>()?)?;
    let sent: Vec<u8> = (0..251).cycle().take(BYTES).collect();
    stream.write_all(&sent)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    ensure!(back == sent, "{} bytes came back", back.len());
    Ok(())
}

fn heard(server: thread::JoinHandle<Result<SocketAddr>>) -> Result<SocketAddr> {
    server
        .join()
        .unwrap_or_else(|_| anyhow::bail!("the server panicked"))
}

/// At the largest MTU and at that of Ethernet, in both families.
#[test]
fn connections_of_both_directions() {
    on!(|machine| {
        for mtu in ["65520", "1500"] {
            let guest = machine.host.container("guest")?;
            let daemon = machine.podman(&guest, &["--mtu", mtu], &PUBLISHED)?;
            settle(&guest)?;
            for address in ["192.0.2.2:7000", "[2001:db8:5::2]:7000"] {
                let far = server(&machine.outside, address)?;
                talk(&guest, address).with_context(|| format!("out to {address}, MTU {mtu}"))?;
                let peer = heard(far)?.ip().to_string();
                ensure!(peer == Host::V4 || peer == Host::V6, "{peer}");
            }
            for address in ["192.0.2.1:8080", "[2001:db8:5::1]:8080"] {
                let inside = server(&guest, "[::]:80")?;
                talk(&machine.outside, address)
                    .with_context(|| format!("in to {address}, MTU {mtu}"))?;
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
    on!(|machine| {
        let guest = machine.host.container("guest")?;
        let daemon = machine.podman(&guest, &[], &PUBLISHED)?;
        settle(&guest)?;
        for address in ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8080"] {
            let inside = server(&guest, "[::]:80")?;
            talk(machine.host, address).context(address)?;
            heard(inside)?;
        }
        // More connections at once than sockets are kept ready.
        let listener = guest.enter(|| Ok(TcpListener::bind("[::]:80")?))?;
        let clients: Vec<TcpStream> = (0..100)
            .map(|_| {
                machine
                    .host
                    .enter(|| Ok(TcpStream::connect("127.0.0.1:8080")?))
            })
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
    on!(|machine| {
        let guest = machine.host.container("guest")?;
        let _daemon = machine.podman(&guest, &[], &PUBLISHED)?;
        let error = guest.enter(|| Ok(TcpStream::connect("192.0.2.2:7001").err()))?;
        let error = error.context("connected to nobody")?;
        ensure!(
            error.kind() == std::io::ErrorKind::ConnectionRefused,
            "{error}"
        );
        let mut stream = machine
            .host
            .enter(|| Ok(TcpStream::connect("192.0.2.1:8080")?))?;
        let read = stream.read(&mut [0]);
        ensure!(!matches!(read, Ok(1..)), "somebody answered");
        Ok(())
    });
}

/// The next instance takes the port although connections of the one before are open.
#[test]
fn the_next_instance_has_the_same_port() {
    on!(|machine| {
        let mut daemons = Vec::new();
        let mut streams = Vec::new();
        for round in 0..3 {
            let guest = machine.host.container(&format!("guest{round}"))?;
            daemons.push(machine.podman(&guest, &[], &PUBLISHED)?);
            let listener = guest.enter(|| Ok(TcpListener::bind("[::]:80")?))?;
            streams.push(
                machine
                    .host
                    .enter(|| Ok(TcpStream::connect("192.0.2.1:8080")?))?,
            );
            listener.accept()?;
        }
        wait_for("all end", || daemons.iter().all(|daemon| !daemon.lives()))
    });
}

/// A command has a network of its own, and its exit code is ours.
#[test]
fn a_command_runs() {
    on!(|machine| {
        let far = server(&machine.outside, "192.0.2.2:7000")?;
        let finished = program()
            .args(["--config-net", "--no-map-gw", "--quiet", "--", "bash", "-c"])
            .arg("exec 3<>/dev/tcp/192.0.2.2/7000 && echo hello >&3 && exit 7")
            .run()?;
        ensure!(finished.code() == Some(7), "{finished}");
        heard(far)?;
        Ok(())
    });
}
