//! Beside firewalld, and by firewalld: a real one, on a bus of its own, in the lab.
//!
//! `FIREWALLD` names another firewalld than the one in the path. Versions before 2.0 do not forward ports to containers in
//! the way that netavark came up with, and those before 2.3 know no `StrictForwardPorts`: tests expect what the version can do.

use std::fs;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::netns::Netns;
use test_fixtures::snapshot::Snapshot;

use crate::daemon::{BUS, Firewalld};
use crate::lab::{self, Host};
use crate::reload::{Service, reload};
use crate::scene::{Network, Request, Scene, error, silent};
use crate::traffic::{Tcp, answers, eventually, pings, servers};

impl Firewalld<'_> {
    /// Major and minor version.
    fn version(&self) -> Result<(u32, u32)> {
        let script = format!(
            "DBUS_SYSTEM_BUS_ADDRESS={BUS} dbus-send --system --print-reply=literal \
             --dest=org.fedoraproject.FirewallD1 /org/fedoraproject/FirewallD1 \
             org.freedesktop.DBus.Properties.Get string:org.fedoraproject.FirewallD1 string:version"
        );
        let text = self.host.sh(&script)?;
        let mut words = text
            .split_whitespace()
            .last()
            .unwrap_or_default()
            .split('.');
        let mut number = || words.next().and_then(|word| word.parse().ok());
        number().zip(number()).context(text)
    }

    /// Whether a zone or policy mentions this.
    fn holds(&self, container_address: &str) -> Result<bool> {
        let list = self.cmd("--list-all-policies")? + &self.cmd("--list-all-zones")?;
        Ok(list.contains(container_address))
    }

    /// Signals firewalld.
    fn signal(&self, signal: Signal) -> Result<()> {
        send(&self.daemon, signal)
    }

    /// Signals the bus.
    fn signal_bus(&self, signal: Signal) -> Result<()> {
        send(&self.bus, signal)
    }
}

fn send(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    kill(pid, signal).context("signal a daemon")
}

/// The outside machine is in a zone from which nothing passes but what somebody allows.
fn scene<'a>(host: &'a Host, driver: &str) -> Result<(Scene<'a>, Netns)> {
    Ok((by(host, driver)?, host.outside()?))
}

fn by<'a>(host: &'a Host, driver: &str) -> Result<Scene<'a>> {
    let scene = Scene::new(host)?.env("DBUS_SYSTEM_BUS_ADDRESS", BUS);
    Ok(scene.env("NETAVARK_FW", driver))
}

fn request() -> Request {
    Request::new("c1").on(&Network::new(1), 2)
}

#[test]
fn subnets_are_trusted_while_their_network_lasts() {
    lab::run(|host| {
        let (scene, outside) = scene(host, "nftables")?;
        let firewalld = Firewalld::start(host, "")?;
        let container = host.container("c1")?;
        let request = request().publish("", 8080, 80, "tcp");
        scene.setup(&container, &request)?;
        let trusted = || firewalld.cmd("--zone=trusted --list-sources");
        ensure!(trusted()? == "10.70.1.0/24 fd70:1::/64", "{}", trusted()?);
        let _servers = servers(&container, Tcp, &[80], "c1")?;
        let reached = || answers(&outside, Tcp, "192.0.2.1:8080", "c1", Host::OUTSIDE_V4);
        reached()?;
        pings(&container, Host::OUTSIDE_V4)?;

        let service = Service::start(
            &scene,
            "firewalld-reload",
            &[("DBUS_SYSTEM_BUS_ADDRESS", BUS)],
        )?;
        let said = || Service::log().matches("Successfully reloaded").count();
        ensure!(
            eventually(Duration::from_secs(5), || said() == 1),
            "{}",
            Service::log()
        );
        host.sh("nft delete table inet netavark")?;
        firewalld.cmd("--reload")?;
        ensure!(
            eventually(Duration::from_secs(5), || said() == 2),
            "{}",
            Service::log()
        );
        ensure!(trusted()? == "10.70.1.0/24 fd70:1::/64", "{}", trusted()?);
        reached()?;
        drop(service);

        scene.teardown(&container, &request)?;
        ensure!(trusted()?.is_empty(), "{}", trusted()?);
        Ok(())
    });
}

#[test]
fn strict_forward_ports() {
    lab::run(|host| {
        let (scene, _outside) = scene(host, "nftables")?;
        let firewalld = Firewalld::start(host, "StrictForwardPorts=yes")?;
        let container = host.container("c1")?;
        let published = request().publish("", 8080, 80, "tcp");
        if firewalld.version()? >= (2, 3) {
            let before = scene.snapshot()?;
            let text = scene.fails("setup", container.path(), &published)?;
            let expected = "Port forwarding not possible as firewalld StrictForwardPorts enabled";
            ensure!(text == expected, "{text}");
            scene.assert_same_as(&before);
        } else {
            scene.setup(&container, &published)?;
            scene.teardown(&container, &published)?;
        }
        scene.setup(&container, &request())?;
        scene.teardown(&container, &request())
    });
}

/// Everything by firewalld: no table of ours.
#[test]
fn driver_firewalld() {
    lab::run(|host| {
        let (scene, outside) = scene(host, "firewalld")?;
        let firewalld = Firewalld::start(host, "")?;
        let container = host.container("c1")?;
        scene.setup(&container, &request())?;
        ensure!(host.sh("nft list tables")?.trim() == "table inet firewalld");
        pings(&container, Host::OUTSIDE_V4)?;
        ensure!(firewalld.holds("10.70.1.0/24")?);
        firewalld.cmd("--reload")?;
        ensure!(!firewalld.holds("10.70.1.0/24")?);
        let again = reload(&scene).env("DBUS_SYSTEM_BUS_ADDRESS", BUS);
        silent(&again.run_in(host)?)?;
        ensure!(firewalld.holds("10.70.1.0/24")?);
        let driver = fs::read_to_string(scene.config.join("firewall/firewall-driver"))?;
        ensure!(driver == "firewalld");

        published_by_firewalld(&scene, &firewalld, &outside)?;
        ensure!(!firewalld.holds("10.70.1.3")?);
        ensure!(firewalld.holds("10.70.1.0/24")?);
        pings(&container, Host::OUTSIDE_V4)?;
        scene.teardown(&container, &request())?;
        ensure!(!firewalld.holds("10.70.1.")?);
        Ok(())
    });
}

/// A container comes with ports and goes again, or is refused, as the version can do.
fn published_by_firewalld(
    scene: &Scene<'_>,
    firewalld: &Firewalld<'_>,
    outside: &Netns,
) -> Result<()> {
    let second = scene.host.container("c2")?;
    let published = Request::new("c2")
        .on(&Network::new(1), 3)
        .publish("", 8080, 80, "tcp")
        .publish(Host::V4, 8081, 80, "tcp");
    if firewalld.version()? >= (2, 0) {
        scene.setup(&second, &published)?;
        let _servers = servers(&second, Tcp, &[80], "c2")?;
        for port in [8080, 8081] {
            let to = format!("{}:{port}", Host::V4);
            answers(outside, Tcp, &to, "c2", "10.70.1.1")?;
        }
        scene.teardown(&second, &published)?;
    } else {
        let text = scene.fails("setup", second.path(), &published)?;
        ensure!(text.contains("INVALID_FORWARD"), "{text}");
    }
    Ok(())
}

/// The driver changes while containers run, there and back: the next setup moves all of them, and nothing of the other
/// driver stays in force.
#[test]
fn from_one_driver_to_the_other() {
    lab::run(|host| {
        let (by_nftables, outside) = scene(host, "nftables")?;
        let by_firewalld = by(host, "firewalld")?;
        let firewalld = Firewalld::start(host, "")?;
        let before = by_nftables.snapshot()?;
        let trusted = || firewalld.cmd("--zone=trusted --list-sources");
        let zone = || firewalld.cmd("--zone=netavark_zone --list-sources");
        let [first, second, third] = ["c1", "c2", "c3"].map(|name| host.container(name));
        let (first, second, third) = (first?, second?, third?);
        let internal = Request::new("c2").on(&Network::new(2).internal(), 2);
        let plain = Request::new("c3").on(&Network::new(3), 2);
        by_nftables.setup(&first, &request())?;
        by_nftables.setup(&second, &internal)?;
        ensure!(trusted()?.contains("10.70.2.0/24"), "{}", trusted()?);

        by_firewalld.setup(&third, &plain)?;
        ensure!(host.sh("nft list tables")?.trim() == "table inet firewalld");
        ensure!(trusted()?.is_empty(), "{}", trusted()?);
        let outgoing = "10.70.1.0/24 10.70.3.0/24 fd70:1::/64 fd70:3::/64";
        ensure!(zone()? == outgoing, "{}", zone()?);
        pings(&first, Host::OUTSIDE_V4)?;
        by_firewalld.teardown(&third, &plain)?;

        let published = plain.publish("", 8083, 80, "tcp");
        by_nftables.setup(&third, &published)?;
        ensure!(zone()?.is_empty(), "{}", zone()?);
        for subnet in ["10.70.1.0/24", "10.70.2.0/24", "10.70.3.0/24"] {
            ensure!(trusted()?.contains(subnet), "{}", trusted()?);
        }
        let _servers = servers(&third, Tcp, &[80], "c3")?;
        answers(&outside, Tcp, "192.0.2.1:8083", "c3", Host::OUTSIDE_V4)?;
        pings(&first, Host::OUTSIDE_V4)?;

        by_nftables.teardown(&third, &published)?;
        by_nftables.teardown(&second, &internal)?;
        by_nftables.teardown(&first, &request())?;
        ensure!(!firewalld.holds("10.70.")?);
        same_but_firewalld(&by_nftables, before)
    });
}

/// The host is as it was, apart from the daemons, and from the zone and the policies that firewalld keeps once it has
/// them, with their rules.
fn same_but_firewalld(scene: &Scene<'_>, before: Snapshot) -> Result<()> {
    let its = |line: &str| {
        line.starts_with("nft table inet firewalld")
            || line.starts_with("process ")
                && ["firewalld", "dbus"].iter().any(|its| line.contains(its))
    };
    let before = before.without(its);
    let now = || Ok(scene.snapshot()?.without(its));
    let is_same = || now().is_ok_and(|now: Snapshot| now.since(&before).is_empty());
    if !eventually(Duration::from_secs(2), is_same) {
        let changes: Result<Snapshot> = now();
        anyhow::bail!(
            "the host has changed: {}",
            changes?.since(&before).join("\n")
        );
    }
    Ok(())
}

/// What was set up by firewalld is taken down by nftables, and the other way round, when nobody else is there.
#[test]
fn taken_down_by_the_other_driver() {
    lab::run(|host| {
        let (by_nftables, _outside) = scene(host, "nftables")?;
        let by_firewalld = by(host, "firewalld")?;
        let firewalld = Firewalld::start(host, "")?;
        let container = host.container("c1")?;
        for (one, other) in [(&by_nftables, &by_firewalld), (&by_firewalld, &by_nftables)] {
            one.setup(&container, &request())?;
            other.teardown(&container, &request())?;
            ensure!(!firewalld.holds("10.70.")?);
            ensure!(host.sh("nft list tables")?.trim() == "table inet firewalld");
            ensure!(!one.config.join("netbackend").exists());
        }
        Ok(())
    });
}

/// firewalld takes the subnet of a new network and then refuses a port (versions before 2.0 do): the subnet goes, too.
#[test]
fn what_was_told_before_a_refusal_goes() {
    lab::run(|host| {
        let (scene, _outside) = scene(host, "firewalld")?;
        let firewalld = Firewalld::start(host, "")?;
        let container = host.container("c1")?;
        if firewalld.version()? < (2, 0) {
            let published = request().publish("", 8080, 80, "tcp");
            let text = scene.fails("setup", container.path(), &published)?;
            ensure!(text.contains("INVALID_FORWARD"), "{text}");
            ensure!(!firewalld.holds("10.70.1.")?);
            ensure!(!scene.config.join("netbackend").exists());
        }
        Ok(())
    });
}

/// firewalld, or the bus, ends while a setup waits for its answer. The error says so, and nothing is left.
#[test]
fn firewalld_ends_during_a_setup() {
    lab::run(|host| ends_during_a_setup(host, |firewalld| firewalld.signal(Signal::SIGKILL)));
}

#[test]
fn the_bus_ends_during_a_setup() {
    lab::run(|host| ends_during_a_setup(host, |firewalld| firewalld.signal_bus(Signal::SIGKILL)));
}

fn ends_during_a_setup(host: &Host, end: impl Fn(&Firewalld<'_>) -> Result<()>) -> Result<()> {
    let (scene, _outside) = scene(host, "firewalld")?;
    let firewalld = Firewalld::start(host, "")?;
    let container = host.container("c1")?;
    scene.setup(&container, &request())?;
    scene.teardown(&container, &request())?;
    let before = scene.snapshot()?;
    firewalld.signal(Signal::SIGSTOP)?; // it has its name, but does not answer
    let text = std::thread::scope(|scope| {
        let failing = scope.spawn(|| scene.fails("setup", container.path(), &request()));
        let waits = || scene.config.join("netbackend/firewalld").exists();
        ensure!(eventually(Duration::from_secs(10), waits));
        end(&firewalld)?;
        failing.join().expect("it does not panic")
    })?;
    ensure!(
        text.starts_with("firewalld: ") && text.contains("it has ended meanwhile"),
        "{text}"
    );
    same_but_firewalld(&scene, before)
}

/// Without firewalld nothing of what it held is in force: containers can go.
#[test]
fn containers_go_when_firewalld_has_ended() {
    lab::run(|host| {
        let (scene, _outside) = scene(host, "firewalld")?;
        let before = scene.snapshot()?;
        let firewalld = Firewalld::start(host, "")?;
        let container = host.container("c1")?;
        scene.setup(&container, &request())?;
        let second = Request::new("c2").on(&Network::new(2), 2);
        let other = host.container("c2")?;
        scene.setup(&other, &second)?;
        let end = |request: &Request, container: &Netns| -> Result<()> {
            let call = scene.program(&["teardown"], container.path(), request.json());
            let finished = call.env("RUST_LOG", "netavark=warn").run_in(host)?;
            let word = "nothing to take from firewalld: ";
            ensure!(
                finished.success() && finished.stderr.contains(word),
                "{finished}"
            );
            Ok(())
        };
        firewalld.signal(Signal::SIGKILL)?;
        let gone = || firewalld.cmd("--state").is_err();
        ensure!(eventually(Duration::from_secs(10), gone));
        end(&request(), &container)?;
        drop(firewalld);
        end(&second, &other)?;
        same_but_firewalld(&scene, before)
    });
}

#[test]
fn no_bus_and_no_firewalld() {
    lab::run(|host| {
        let scene = Scene::new(host)?.env("NETAVARK_FW", "firewalld");
        let scene = scene.env("DBUS_SYSTEM_BUS_ADDRESS", BUS);
        let container = host.container("c1")?;
        let before = scene.snapshot()?;
        let text = scene.fails("setup", container.path(), &request())?;
        let words = "Error retrieving dbus connection for requested firewall backend: ";
        ensure!(text.starts_with(words), "{text}");
        scene.assert_same_as(&before);
        let service = crate::scene::netbackend()
            .arg("firewalld-reload")
            .env("DBUS_SYSTEM_BUS_ADDRESS", BUS);
        let text = error(&service.run_in(host)?)?;
        ensure!(text.starts_with(words), "{text}");
        // Who does not ask for firewalld does not care.
        let scene = scene.env("NETAVARK_FW", "nftables");
        let published = request().publish("", 8080, 80, "tcp");
        scene.setup(&container, &published)?;
        scene.teardown(&container, &published)
    });
}

/// Chains of others that drop are named once for each network that comes; ours, and those that accept, are not.
#[test]
fn chains_that_drop_are_named() {
    lab::run(|host| {
        let (scene, _outside) = scene(host, "nftables")?;
        host.sh("nft add table ip filter
                 nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
                 nft 'add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'
                 nft 'add chain ip filter OUTPUT { type filter hook output priority 0; policy drop; }'
                 nft add table inet mine
                 nft 'add chain inet mine forward { type filter hook forward priority 5; }'")?;
        let said = |request: &Request, container: &Netns| -> Result<String> {
            let call = scene.program(&["setup"], container.path(), request.json());
            let finished = call.env("RUST_LOG", "netavark=warn").run_in(host)?;
            ensure!(finished.success(), "{finished}");
            Ok(finished.stderr)
        };
        let [first, second, third] = ["c1", "c2", "c3"].map(|name| host.container(name));
        let forward = "[WARN  netavark::sys::filter] chain ip filter FORWARD has the policy to drop: unless its rules \
                       accept what comes from and goes to br1, containers reach nobody\n";
        let text = said(&request(), &first?)?;
        ensure!(text == forward, "{text}");
        let text = said(&Request::new("c2").on(&Network::new(1), 3), &second?)?;
        ensure!(text.is_empty(), "{text}");
        let text = said(&Request::new("c3").on(&Network::new(2).dns(), 2), &third?)?;
        ensure!(
            text.contains("FORWARD") && text.contains("chain ip filter INPUT"),
            "{text}"
        );
        ensure!(!text.contains("OUTPUT") && !text.contains("mine"), "{text}");
        Ok(())
    });
}

/// A driver that is no more, as old configurations name it.
#[test]
fn iptables_means_nftables() {
    lab::run(|host| {
        let (scene, _outside) = scene(host, "iptables")?;
        let container = host.container("c1")?;
        let call = scene.program(&["setup"], container.path(), request().json());
        let finished = call.env("RUST_LOG", "netavark=warn").run_in(host)?;
        let warnings = finished
            .stderr
            .lines()
            .filter(|line| line.starts_with("[WARN"));
        ensure!(finished.success() && warnings.count() == 1, "{finished}");
        ensure!(host.sh("nft list tables")?.trim() == "table inet netavark");
        let driver = fs::read_to_string(scene.config.join("firewall/firewall-driver"))?;
        ensure!(driver == "nftables", "{driver}");
        scene.teardown(&container, &request())
    });
}
