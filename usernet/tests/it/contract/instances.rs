//! Several of us side by side, and what one run takes.

use anyhow::{Context, Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::traffic::{Protocol, ask, serve};

use super::machine::{Family, MAP_GUEST, PATIENCE, on, program, settle};
use crate::attached::{Daemon, status};

/// One forwards to what the other one publishes, and the other way round, by both protocols.
#[test]
fn two_guests_reach_each_other() {
    on!(|machine| {
        let guests = ["one", "two"].map(|name| machine.host.container(name));
        let [one, two] = guests;
        let (one, two) = (one?, two?);
        let ports = |port: &'static str| ["-t", port, "-u", port];
        let _daemons = [
            machine.podman(&one, &[], &ports("10004-10004:10004-10004"))?,
            machine.podman(&two, &[], &ports("10005-10005:10005-10005"))?,
        ];
        for (from, to, port) in [(&one, &two, 10005), (&two, &one, 10004)] {
            settle(from)?;
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let _server = serve(to, protocol, (Family::V4.any(), port).into(), "there")?;
                let address = MAP_GUEST.parse::<std::net::IpAddr>()?;
                let reply = ask(from, protocol, None, (address, port).into(), PATIENCE)?;
                ensure!(reply.tag == "there", "{reply}");
            }
        }
        Ok(())
    });
}

fn kilobytes(daemon: &Daemon, of: &str) -> Result<u64> {
    let text = status(daemon.pid, of)?;
    let number = text.split_whitespace().next().context("a number")?;
    Ok(number.parse()?)
}

/// Every port that is not ephemeral is bound, one socket for both families, and the process stays small.
#[test]
fn all_ports_forwarded() {
    on!(|machine| {
        // As many as a limit of descriptors that is common lets be.
        let range = "6000 65535";
        machine.host.set_sysctl("ipv4/ip_local_port_range", range)?;
        let guest = machine.guest()?;
        let daemon = machine.podman(&guest, &[], &["-t", "all", "-u", "all"])?;
        let count = |option: &str| -> Result<usize> {
            let shown = machine.host.sh(&format!("ss -Hn{option} | wc -l"))?;
            Ok(shown.trim().parse()?)
        };
        let (tcp, udp) = (count("lt")?, count("lu")?);
        ensure!(tcp == 5999 && udp == 5999, "{tcp} and {udp}");
        let at = (Family::V4.any(), 5000).into();
        let _server = serve(&guest, Protocol::Tcp, at, "guest")?;
        let to = (Family::V4.host(), 5000).into();
        let reply = ask(machine.host, Protocol::Tcp, None, to, PATIENCE)?;
        ensure!(reply.tag == "guest", "{reply}");
        let resident = kilobytes(&daemon, "VmRSS")?;
        ensure!(resident < 16 << 10, "{resident} kB");
        Ok(())
    });
}

/// Nothing is done about user namespaces, and nothing said.
#[test]
fn network_namespace_only() {
    on!(|_machine| {
        let finished = program()
            .args(["--netns-only", "--config-net", "--quiet", "--", "true"])
            .run()?;
        ensure!(finished.success(), "{finished}");
        let said = format!("{}{}", finished.stdout, finished.stderr);
        ensure!(!said.contains("map"), "{finished}");
        Ok(())
    });
}

/// Without a tap, both loopbacks lead to each other.
#[test]
fn loopback_only() {
    on!(|machine| {
        let guest = machine.guest()?;
        let words = format!(
            "--config-net --splice-only -t 10001 -T 10002 -u none -U none --netns {}",
            guest.path().display()
        );
        let _daemon = machine.start(words.split(' '))?;
        let links = guest.sh("ip -o link")?;
        ensure!(links.lines().count() == 1, "{links}");
        for (from, to, port) in [
            (&**machine.host, &guest, 10001),
            (&guest, &**machine.host, 10002),
        ] {
            let at = (Family::V4.loopback(), port).into();
            let _server = serve(to, Protocol::Tcp, at, "loopback")?;
            let reply = ask(from, Protocol::Tcp, None, at, PATIENCE)?;
            ensure!(
                reply.tag == "loopback" && reply.peer.ip().is_loopback(),
                "{reply}"
            );
        }
        Ok(())
    });
}

/// What `podman stats` reads.
#[test]
fn counters_of_the_link_move() {
    on!(|machine| {
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        let at = (Family::V4.any(), 7000).into();
        let _server = serve(&machine.outside, Protocol::Tcp, at, "outside")?;
        let to = (Family::V4.outside(), 7000).into();
        ask(&guest, Protocol::Tcp, None, to, PATIENCE)?;
        let read = |name: &str| -> Result<u64> {
            let line = guest.sh(&format!("ip -s -o link show dev {}", Host::UPLINK))?;
            let (_, numbers) = line.split_once(name).context("counters")?;
            let bytes = numbers
                .split_whitespace()
                .find(|word| word.parse::<u64>().is_ok());
            Ok(bytes.context("a number")?.parse()?)
        };
        ensure!(read("RX:")? > 0 && read("TX:")? > 0);
        Ok(())
    });
}
