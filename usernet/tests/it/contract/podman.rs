//! Whole conversations through one published port.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use test_fixtures::lab::Host;

use super::machine::{on, settle};
use crate::attached::wait_for;
use crate::podman::{heard, server, talk};

/// One published port.
const PUBLISHED: [&str; 2] = ["-t", "8080-8080:80-80"];

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
