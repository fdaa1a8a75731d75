//! `auto`: ports that follow who listens on the other side; and RootlessKit, which asks for them.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command};

use anyhow::{Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::traffic::{Protocol, ask, eventually, serve, tcp_ask};

use super::machine::{Family, Machine, PATIENCE, on, settle};
use super::transfers::{Size, carry};
use crate::attached::{Daemon, wait_for};

fn following(machine: &Machine<'_>, guest: &Netns, words: &str) -> Result<Daemon> {
    let netns = guest.path().to_string_lossy();
    let words = words.split(' ').chain(["--config-net", "--netns", &*netns]);
    machine.start(words)
}

/// Whether the port of the host is bound, at any address.
fn bound(host: &Netns, protocol: Protocol, port: u16) -> bool {
    let at = SocketAddr::new(Family::V4.any(), port);
    let bound = host.enter(|| {
        Ok(match protocol {
            Protocol::Udp => UdpSocket::bind(at).is_err(),
            Protocol::Tcp | Protocol::Sctp => TcpListener::bind(at).is_err(),
        })
    });
    bound.unwrap_or_default()
}

/// A listener that comes later is followed, and its end is, too.
fn guest_listens(machine: &Machine<'_>, protocol: Protocol) -> Result<()> {
    let guest = machine.guest()?;
    let _daemon = following(machine, &guest, "-t auto -u auto -T none -U none")?;
    settle(&guest)?;
    ensure!(!bound(machine.host, protocol, 7000), "bound without reason");
    let server = serve(&guest, protocol, (Family::V4.any(), 7000).into(), "guest")?;
    ensure!(eventually(PATIENCE, || bound(machine.host, protocol, 7000)));
    for to in [Family::V4.host(), Family::V4.loopback()] {
        let reply = ask(machine.host, protocol, None, (to, 7000).into(), PATIENCE)?;
        ensure!(reply.tag == "guest", "{reply}");
    }
    drop(server);
    // Conversations last; so this is about a port that had none.
    let server = serve(&guest, protocol, (Family::V4.any(), 7001).into(), "guest")?;
    ensure!(eventually(PATIENCE, || bound(machine.host, protocol, 7001)));
    drop(server);
    ensure!(eventually(PATIENCE, || !bound(
        machine.host,
        protocol,
        7001
    )));
    Ok(())
}

#[test]
fn a_tcp_listener_of_the_guest() {
    on!(|machine| guest_listens(machine, Protocol::Tcp));
}

#[test]
fn a_udp_socket_of_the_guest() {
    on!(|machine| guest_listens(machine, Protocol::Udp));
}

/// As passt's own tests do it: by the guest's loopback to what the host listens on.
fn host_listens(machine: &Machine<'_>, protocol: Protocol, family: Family) -> Result<()> {
    let guest = machine.guest()?;
    let _daemon = following(machine, &guest, "-t none -u none -T auto -U auto")?;
    let at = (family.loopback(), 10002).into();
    {
        let _server = serve(machine.host, protocol, at, "host")?;
        let reached = eventually(PATIENCE, || {
            let reply = ask(
                &guest,
                protocol,
                None,
                at,
                std::time::Duration::from_secs(1),
            );
            reply.is_ok_and(|reply| reply.tag == "host")
        });
        ensure!(reached, "never reached");
    }
    let size = match protocol {
        Protocol::Udp => Size::Small,
        Protocol::Tcp | Protocol::Sctp => Size::Large,
    };
    carry(protocol, size, (&guest, at), (machine.host, at))
}

#[test]
fn a_tcp_listener_of_the_host_v4() {
    on!(|machine| host_listens(machine, Protocol::Tcp, Family::V4));
}

#[test]
fn a_tcp_listener_of_the_host_v6() {
    on!(|machine| host_listens(machine, Protocol::Tcp, Family::V6));
}

#[test]
fn a_udp_socket_of_the_host_v4() {
    on!(|machine| host_listens(machine, Protocol::Udp, Family::V4));
}

#[test]
fn a_udp_socket_of_the_host_v6() {
    on!(|machine| host_listens(machine, Protocol::Udp, Family::V6));
}

/// A range with `auto` is followed, and nothing beside it.
#[test]
fn a_range_is_followed() {
    on!(|machine| {
        let guest = machine.guest()?;
        let words = "-t 8000-8010,~8005,auto -u none -T none -U none";
        let _daemon = following(machine, &guest, words)?;
        let mut servers = Vec::new();
        for port in [8000, 8005, 8010, 8011] {
            let at = (Family::V4.any(), port).into();
            servers.push(serve(&guest, Protocol::Tcp, at, "guest")?);
        }
        for port in [8000, 8010] {
            ensure!(eventually(PATIENCE, || bound(
                machine.host,
                Protocol::Tcp,
                port
            )));
        }
        for port in [8001, 8005, 8011] {
            ensure!(!bound(machine.host, Protocol::Tcp, port), "{port}");
        }
        Ok(())
    });
}

/// Both directions at once do not follow each other.
#[test]
fn nobody_follows_himself() {
    on!(|machine| {
        let guest = machine.guest()?;
        let _daemon = following(machine, &guest, "-t auto -u auto -T auto -U auto")?;
        let server = serve(
            &guest,
            Protocol::Tcp,
            (Family::V4.any(), 7000).into(),
            "guest",
        )?;
        ensure!(eventually(PATIENCE, || bound(
            machine.host,
            Protocol::Tcp,
            7000
        )));
        // Who appears later is seen by a later look, at both sides: two of them.
        for port in [7001, 7002] {
            let at = (Family::V4.any(), port).into();
            let _later = serve(&guest, Protocol::Tcp, at, "later")?;
            ensure!(eventually(PATIENCE, || bound(
                machine.host,
                Protocol::Tcp,
                port
            )));
        }
        let reply = tcp_ask(machine.host, (Family::V4.loopback(), 7000).into())?;
        ensure!(reply.tag == "guest", "{reply}");
        drop(server);
        // Nothing of ours keeps anything of ours alive.
        ensure!(eventually(PATIENCE, || {
            !bound(machine.host, Protocol::Tcp, 7000) && !bound(&guest, Protocol::Tcp, 7000)
        }));
        Ok(())
    });
}

/// A container of RootlessKit: a process with a user namespace of its own.
fn contained() -> Result<Child> {
    let child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sleep", "600"])
        .spawn()?;
    let path = format!("/proc/{}/ns/net", child.id());
    let own = std::fs::read_link("/proc/self/ns/net")?;
    let mapped = format!("/proc/{}/uid_map", child.id());
    wait_for("it has its namespaces", || {
        std::fs::read_link(&path).is_ok_and(|other| other != own)
            && std::fs::read_to_string(&mapped).is_ok_and(|map| !map.trim().is_empty())
    })?;
    Ok(child)
}

/// What RootlessKit writes before it names the namespaces.
const ROOTLESSKIT: &str = "--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 \
    --netmask=24 --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only \
    --tcp-ports=auto --udp-ports=auto";

fn rootlesskit(machine: &Machine<'_>, names: impl Fn(u32) -> Vec<String>) -> Result<()> {
    let mut container = contained()?;
    let pid = container.id();
    let names = names(pid);
    let words = ROOTLESSKIT.split_whitespace();
    let daemon = machine.start(words.chain(names.iter().map(|word| &**word)))?;
    let inside = |script: &str| {
        let enter = "nsenter --user --net --preserve-credentials --target";
        machine.host.sh(&format!("{enter} {pid} sh -ec '{script}'"))
    };
    let shown = inside("ip -o addr show dev tap0; ip -o link show dev tap0; ip route")?;
    for part in [
        "10.0.2.100/24",
        "mtu 65520",
        "default via 10.0.2.2 dev tap0",
    ] {
        ensure!(shown.contains(part), "{shown}");
    }
    let server = serve(
        &machine.outside,
        Protocol::Tcp,
        (Family::V4.any(), 7000).into(),
        "outside",
    )?;
    let answer = inside("echo who | timeout 10 busybox nc 192.0.2.2 7000")?;
    ensure!(answer.starts_with(&format!("{}:", Host::V4)), "{answer}");
    drop(server);
    container.kill()?;
    container.wait()?;
    daemon.ended()?;
    Ok(())
}

#[test]
fn rootlesskit_by_process() {
    on!(|machine| rootlesskit(machine, |pid| vec![pid.to_string()]));
}

#[test]
fn rootlesskit_by_paths() {
    on!(|machine| {
        rootlesskit(machine, |pid| {
            vec![
                format!("--userns=/proc/{pid}/ns/user"),
                format!("--netns=/proc/{pid}/ns/net"),
            ]
        })
    });
}
