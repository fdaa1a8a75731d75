//! Programs that people use, in containers on a bridge.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

use crate::machine::{Machine, id, on};
use crate::upstream::{Do, Upstream};

const BRIDGE_V4: &str = "10.91.0.1";
const BRIDGE_V6: &str = "fd10:91::1";

/// Two containers on a bridge, the program on the host's side, and an upstream that knows `www.example`.
struct Containers {
    web: Netns,
    _db: Netns,
    _upstream: Upstream,
}

fn set_up(machine: &Machine<'_>) -> Result<Containers> {
    machine.host.sh(&format!(
        "ip link add br0 type bridge; ip addr add {BRIDGE_V4}/24 dev br0
         ip addr add {BRIDGE_V6}/64 dev br0 nodad; ip link set br0 up"
    ))?;
    let container = |name: &str, number: u32| -> Result<Netns> {
        let netns = machine.host.container(name)?;
        machine.host.sh(&format!(
            "ip link add v{number} type veth peer name eth0 netns {name}
             ip link set v{number} master br0 up"
        ))?;
        netns.sh(&format!(
            "ip link set lo up; ip addr add 10.91.0.{number}/24 dev eth0
             ip addr add fd10:91::{number}/64 dev eth0 nodad; ip link set eth0 up
             ip route add default via {BRIDGE_V4}; ip route add default via {BRIDGE_V6}"
        ))?;
        Ok(netns)
    };
    let (web, db) = (container("web", 2)?, container("db", 3)?);
    let upstream = Upstream::start("198.51.100.1", |asked| {
        let reply = crate::message::Reply::to(&asked.bytes);
        match (&*asked.name(), asked.message().questions[0].kind) {
            ("www.example.", 1) => Do::Send(reply.a(60, "192.0.2.80").bytes()),
            ("www.example.", _) => Do::Send(reply.bytes()),
            _ => Do::Send(reply.rcode(3).bytes()),
        }
    })?;
    machine.network(
        "net",
        &format!(
            "{BRIDGE_V4},{BRIDGE_V6}\n{} 10.91.0.2 fd10:91::2 web\n{} 10.91.0.3 fd10:91::3 db,alias\n{} 10.91.0.4  four\n",
            id(1),
            id(2),
            id(3)
        ),
    )?;
    machine.start()?;
    Ok(Containers {
        web,
        _db: db,
        _upstream: upstream,
    })
}

impl Containers {
    /// Runs a program in `web` as containers see things: their resolv.conf names the bridge.
    fn run(&self, server: &str, command: &str) -> Result<Finished> {
        fs::write(
            "/run/lab/container-resolv.conf",
            format!("search dns.podman\nnameserver {server}\n"),
        )?;
        Program::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(format!(
                "mount --bind /run/lab/container-resolv.conf /etc/resolv.conf && exec {command}"
            ))
            .timeout(Duration::from_secs(20))
            .run_in(&self.web)
    }

    /// What it prints, when it is content.
    #[track_caller]
    fn prints(&self, server: &str, command: &str) -> String {
        let finished = self.run(server, command).expect("it runs");
        assert!(finished.success(), "{command} at {server}: {finished}");
        finished.stdout.trim().to_owned()
    }
}

fn dig(machine: &Machine<'_>, options: &str) -> Result<()> {
    let containers = set_up(machine)?;
    for server in [BRIDGE_V4, BRIDGE_V6] {
        let dig = |rest: &str| {
            containers.prints(
                server,
                &format!("dig +tries=1 +time=3 {options} @{server} {rest}"),
            )
        };
        assert_eq!(dig("+short db A"), "10.91.0.3");
        assert_eq!(dig("+short db.dns.podman AAAA"), "fd10:91::3");
        assert_eq!(dig("+short -x 10.91.0.3"), "db.\nalias.");
        assert_eq!(dig("+short -x fd10:91::3"), "db.\nalias.");
        assert_eq!(dig("+short www.example A"), "192.0.2.80");
        for name in ["db", "www.example"] {
            let whole = dig(name);
            assert!(
                !whole.contains("recursion requested but not available"),
                "{whole}"
            );
            assert!(
                !whole.contains(";; WARNING") && !whole.contains("malformed"),
                "{whole}"
            );
        }
        assert!(dig("nobody.dns.podman").contains("status: NXDOMAIN"));
        assert!(dig("+search +noall +comments four AAAA").contains("status: NOERROR"));
    }
    Ok(())
}

#[test]
fn dig_over_udp() {
    on!(|machine| dig(machine, "+notcp"));
}

#[test]
fn dig_over_tcp() {
    on!(|machine| dig(machine, "+tcp"));
}

#[test]
fn dig_without_edns() {
    on!(|machine| dig(machine, "+noedns +nocookie"));
}

/// With a line in full: the time to live is zero.
#[test]
fn dig_sees_a_time_to_live_of_zero() {
    on!(|machine| {
        let containers = set_up(machine)?;
        let line = containers.prints(BRIDGE_V4, &format!("dig +noall +answer @{BRIDGE_V4} db A"));
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["db.", "0", "IN", "A", "10.91.0.3"]);
        Ok(())
    });
}

#[test]
fn dig_with_several_questions_on_one_connection() {
    on!(|machine| {
        let containers = set_up(machine)?;
        for server in [BRIDGE_V4, BRIDGE_V6] {
            let printed = containers.prints(
                server,
                &format!("dig +tcp +keepopen +short @{server} db A web A www.example A"),
            );
            assert_eq!(printed, "10.91.0.3\n10.91.0.2\n192.0.2.80");
        }
        Ok(())
    });
}

/// The C library asks A and AAAA from one port, with the search list.
#[test]
fn getent() {
    on!(|machine| {
        let containers = set_up(machine)?;
        for server in [BRIDGE_V4, BRIDGE_V6] {
            let first = |command: &str| {
                let printed = containers.prints(server, command);
                printed
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            };
            assert_eq!(first("getent ahostsv4 db"), "10.91.0.3");
            assert_eq!(first("getent ahostsv6 db"), "fd10:91::3");
            assert_eq!(first("getent hosts four"), "10.91.0.4");
            assert_eq!(first("getent ahosts alias.dns.podman"), "fd10:91::3");
            assert_eq!(first("getent ahostsv4 www.example"), "192.0.2.80");
            assert!(
                containers
                    .prints(server, "getent hosts 10.91.0.3")
                    .contains("db")
            );
            assert_eq!(
                containers.run(server, "getent ahosts nobody")?.code(),
                Some(2)
            );
        }
        Ok(())
    });
}

#[test]
fn getent_over_tcp() {
    on!(|machine| {
        let containers = set_up(machine)?;
        for server in [BRIDGE_V4, BRIDGE_V6] {
            let printed = containers.prints(server, "env RES_OPTIONS=use-vc getent ahostsv4 db");
            assert!(printed.starts_with("10.91.0.3 "), "{printed}");
            let printed =
                containers.prints(server, "env RES_OPTIONS=use-vc getent ahostsv4 www.example");
            assert!(printed.starts_with("192.0.2.80 "), "{printed}");
        }
        Ok(())
    });
}

/// Asks A and AAAA and fails when either says that the name does not exist.
#[test]
fn busybox_nslookup() {
    on!(|machine| {
        let containers = set_up(machine)?;
        for server in [BRIDGE_V4, BRIDGE_V6] {
            for (name, address) in [
                ("db.dns.podman", "10.91.0.3"),
                ("db.dns.podman", "fd10:91::3"),
                ("four.dns.podman", "10.91.0.4"),
                ("www.example", "192.0.2.80"),
            ] {
                let printed =
                    containers.prints(server, &format!("busybox nslookup {name} {server}"));
                assert!(printed.contains(address), "{name}: {printed}");
            }
            let reverse =
                containers.prints(server, &format!("busybox nslookup 10.91.0.3 {server}"));
            assert!(reverse.contains("db"), "{reverse}");
        }
        Ok(())
    });
}

/// Asks A, AAAA and MX.
#[test]
fn host_finds_a_container() {
    on!(|machine| {
        let containers = set_up(machine)?;
        let printed = containers.prints(BRIDGE_V4, &format!("host db.dns.podman {BRIDGE_V4}"));
        assert!(printed.contains("has address 10.91.0.3"), "{printed}");
        assert!(printed.contains("has IPv6 address fd10:91::3"), "{printed}");
        assert!(!printed.contains("NXDOMAIN"), "{printed}");
        Ok(())
    });
}

#[test]
fn host_in_an_internal_network() {
    on!(|machine| {
        let containers = set_up(machine)?;
        let daemon = machine.running()?;
        fs::rename(machine.dir.join("net"), machine.dir.join("net%int"))?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(300));
        let finished = containers.run(BRIDGE_V4, &format!("host -t ns example.com {BRIDGE_V4}"))?;
        assert_eq!(finished.code(), Some(1), "{finished}");
        assert!(finished.stdout.contains("NXDOMAIN"), "{finished}");
        Ok(())
    });
}

/// No upstream answers: dig must give up itself, on no account get an answer.
#[test]
fn dig_times_out_when_no_server_answers() {
    on!(|machine| {
        let containers = set_up(machine)?;
        machine.network(
            "net",
            &format!("{BRIDGE_V4}\n{} 10.91.0.2  web 127.0.0.255\n", id(1)),
        )?;
        machine.running()?.hup()?;
        std::thread::sleep(Duration::from_millis(300));
        let finished = containers.run(
            BRIDGE_V4,
            &format!("timeout 10 dig +short www.example @{BRIDGE_V4}"),
        )?;
        let code = finished.code().context("a signal")?;
        assert!(code == 124 || code == 9, "{finished}");
        Ok(())
    });
}
