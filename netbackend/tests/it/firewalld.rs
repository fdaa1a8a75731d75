//! Beside firewalld, and by firewalld: a real one, on a bus of its own, in the lab.
//!
//! `FIREWALLD` names another firewalld than the one in the path. Versions before 2.0 do not forward ports to containers in
//! the way that netavark came up with, and those before 2.3 know no `StrictForwardPorts`: tests expect what the version can do.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_fixtures::netns::Netns;

use crate::lab::{self, Host};
use crate::reload::{Service, reload};
use crate::scene::{Network, Request, Scene, error, silent};
use crate::traffic::{Tcp, answers, eventually, pings, servers};

const BUS: &str = "unix:path=/run/lab/bus";

/// A bus on which everybody may do everything.
const BUS_CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/lab/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// A firewalld and its bus, until dropped.
struct Firewalld<'a> {
    host: &'a Host,
    bus: Child,
    daemon: Child,
}

impl<'a> Firewalld<'a> {
    /// Starts one with these lines of configuration.
    fn start(host: &'a Host, config: &str) -> Result<Self> {
        host.sh("mount -t tmpfs firewalld /etc/firewalld
                 mkdir /etc/firewalld/zones /etc/firewalld/policies")?;
        let config = format!("DefaultZone=public\nFirewallBackend=nftables\n{config}\n");
        fs::write("/etc/firewalld/firewalld.conf", config)?;
        fs::write("/run/lab/bus.conf", BUS_CONFIG)?;
        let log = fs::File::create("/run/lab/firewalld.log")?;
        let start = |program: &str, arguments: &[&str]| {
            host.enter(|| {
                Command::new(program)
                    .args(arguments)
                    .env("DBUS_SYSTEM_BUS_ADDRESS", BUS)
                    .stdin(Stdio::null())
                    .stdout(log.try_clone()?)
                    .stderr(log.try_clone()?)
                    .spawn()
                    .with_context(|| format!("start {program}: hack/deps installs it"))
            })
        };
        let bus = start(
            "dbus-daemon",
            &["--config-file=/run/lab/bus.conf", "--nofork"],
        )?;
        let there = || std::path::Path::new("/run/lab/bus").exists();
        ensure!(eventually(Duration::from_secs(10), there), "no bus");
        let program = std::env::var("FIREWALLD").unwrap_or_else(|_| "firewalld".to_owned());
        let daemon = start(&program, &["--nofork", "--nopid"])?;
        let firewalld = Self { host, bus, daemon };
        let runs = || firewalld.cmd("--state").is_ok();
        ensure!(
            eventually(Duration::from_secs(60), runs),
            "firewalld does not start: {}",
            fs::read_to_string("/run/lab/firewalld.log")?
        );
        Ok(firewalld)
    }

    fn cmd(&self, arguments: &str) -> Result<String> {
        let command = format!("DBUS_SYSTEM_BUS_ADDRESS={BUS} firewall-cmd {arguments}");
        Ok(self.host.sh(&command)?.trim().to_owned())
    }

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

    fn holds(&self, container_address: &str) -> Result<bool> {
        let list = self.cmd("--list-all-policies")? + &self.cmd("--list-all-zones")?;
        Ok(list.contains(container_address))
    }
}

impl Drop for Firewalld<'_> {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.bus] {
            child.kill().ok();
            child.wait().ok();
        }
        self.host.sh("umount /etc/firewalld").ok();
    }
}

/// The outside machine is in a zone from which nothing passes but what somebody allows.
fn scene<'a>(host: &'a Host, driver: &str) -> Result<(Scene<'a>, Netns)> {
    let scene = Scene::new(host)?.env("DBUS_SYSTEM_BUS_ADDRESS", BUS);
    let scene = scene.env("NETAVARK_FW", driver);
    Ok((scene, host.outside()?))
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

        let second = host.container("c2")?;
        let published = Request::new("c2")
            .on(&Network::new(1), 3)
            .publish("", 8080, 80, "tcp")
            .publish(Host::V4, 8081, 80, "tcp");
        if firewalld.version()? >= (2, 0) {
            scene.setup(&second, &published)?;
            let _servers = servers(&second, Tcp, &[80], "c2")?;
            for port in [8080, 8081] {
                let to = format!("{}:{port}", Host::V4);
                answers(&outside, Tcp, &to, "c2", "10.70.1.1")?;
            }
            scene.teardown(&second, &published)?;
        } else {
            let text = scene.fails("setup", second.path(), &published)?;
            ensure!(text.contains("INVALID_FORWARD"), "{text}");
        }
        ensure!(!firewalld.holds("10.70.1.3")?);
        ensure!(firewalld.holds("10.70.1.0/24")?);
        pings(&container, Host::OUTSIDE_V4)?;
        scene.teardown(&container, &request())?;
        ensure!(!firewalld.holds("10.70.1.")?);
        Ok(())
    });
}

/// The driver changes while containers run: the next setup moves all of them.
#[test]
fn from_one_driver_to_the_other() {
    lab::run(|host| {
        let (scene, _outside) = scene(host, "nftables")?;
        let firewalld = Firewalld::start(host, "")?;
        let container = host.container("c1")?;
        scene.setup(&container, &request())?;
        let second = host.container("c2")?;
        let other = Request::new("c2").on(&Network::new(2), 2);
        let by_firewalld = scene.env("NETAVARK_FW", "firewalld");
        by_firewalld.setup(&second, &other)?;
        ensure!(host.sh("nft list tables")?.trim() == "table inet firewalld");
        for address in ["10.70.1.0/24", "10.70.2.0/24"] {
            ensure!(firewalld.holds(address)?, "{address}");
        }
        by_firewalld.teardown(&container, &request())?;
        by_firewalld.teardown(&second, &other)?;
        ensure!(!firewalld.holds("10.70.")?);
        Ok(())
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
