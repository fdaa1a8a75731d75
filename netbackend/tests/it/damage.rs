//! Teardown when the host is not as setup left it, and setup after that.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use test_fixtures::netns::Netns;
use test_fixtures::snapshot::Snapshot;

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene};
use crate::traffic::{Tcp, answers, closed, servers};

/// A container with everything that leaves traces, and the state of the host before it came.
struct Damaged<'a> {
    scene: Scene<'a>,
    outside: Netns,
    before: Snapshot,
    container: Netns,
    request: Request,
}

impl<'a> Damaged<'a> {
    fn new(host: &'a Host) -> Result<Self> {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&Network::new(1).dns(), 2)
            .on(&Network::new(2).internal().dns(), 2)
            .publish("", 8080, 80, "tcp")
            .publish("127.0.0.1", 8443, 443, "tcp");
        scene.setup(&container, &request)?;
        Ok(Self {
            scene,
            outside,
            before,
            container,
            request,
        })
    }

    /// Teardown must succeed in silence and leave the host as it was before setup.
    fn goes_clean(self) -> Result<()> {
        self.scene.teardown(&self.container, &self.request)?;
        self.scene.assert_same_as(&self.before);
        Ok(())
    }
}

/// Runs a script on the host after setup; teardown must leave nothing all the same.
fn after(host: &Host, script: &str) -> Result<()> {
    let damaged = Damaged::new(host)?;
    host.sh(script)?;
    damaged.goes_clean()
}

#[test]
fn nothing_happened() {
    lab::run(|host| after(host, ""));
}

#[test]
fn table_deleted() {
    lab::run(|host| after(host, "nft delete table inet netavark"));
}

#[test]
fn rules_flushed() {
    lab::run(|host| after(host, "nft flush table inet netavark"));
}

#[test]
fn ruleset_flushed() {
    lab::run(|host| after(host, "nft flush ruleset"));
}

#[test]
fn elements_flushed() {
    lab::run(|host| {
        after(
            host,
            "nft flush map inet netavark publish4; nft flush set inet netavark bridges",
        )
    });
}

#[test]
fn bridge_deleted() {
    lab::run(|host| after(host, "ip link del br1"));
}

#[test]
fn veth_deleted() {
    lab::run(|host| after(host, "ip link del veth0"));
}

#[test]
fn interface_deleted_inside() {
    lab::run(|host| {
        let damaged = Damaged::new(host)?;
        damaged.container.sh("ip link del eth0; ip link del eth1")?;
        damaged.goes_clean()
    });
}

#[test]
fn responder_killed() {
    lab::run(|host| {
        after(
            host,
            "kill -9 $(cat /run/lab/networks/aardvark-dns/aardvark.pid)",
        )
    });
}

#[test]
fn zone_files_deleted() {
    lab::run(|host| after(host, "rm /run/lab/networks/aardvark-dns/net*"));
}

#[test]
fn netavark_files_deleted() {
    lab::run(|host| after(host, "rm -r /run/lab/networks/firewall"));
}

/// The namespace is gone, as after a crash of the container: the host is cleaned, with a warning.
#[test]
fn namespace_gone() {
    lab::run(|host| {
        let Damaged {
            scene,
            before,
            container,
            request,
            outside: _outside,
        } = Damaged::new(host)?;
        let path = container.path().to_path_buf();
        drop(container);
        let finished = scene
            .program(&["teardown"], &path, request.json())
            .env("RUST_LOG", "netavark=warn")
            .run_in(host)?;
        ensure!(
            finished.success() && finished.stdout.is_empty(),
            "{finished}"
        );
        let warning = "[WARN  netavark] container netns not found: /run/netns/c1: ";
        ensure!(finished.stderr.starts_with(warning), "{finished}");
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// Something else is at the path by now, which must not be touched.
#[test]
fn namespace_replaced() {
    lab::run(|host| {
        let Damaged {
            scene,
            before,
            container,
            request,
            outside: _outside,
        } = Damaged::new(host)?;
        drop(container);
        let other = host.container("c1")?;
        other.sh("ip link add eth0 type veth peer name eth9")?;
        scene.teardown(&other, &request)?;
        scene.assert_same_as(&before);
        ensure!(
            other.sh("ip -br link")?.contains("eth0"),
            "the interface of another container is gone"
        );
        Ok(())
    });
}

#[test]
fn teardown_twice() {
    lab::run(|host| {
        let Damaged {
            scene,
            before,
            container,
            request,
            outside: _outside,
        } = Damaged::new(host)?;
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// Teardown of what was never there.
#[test]
fn teardown_without_setup() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&Network::new(1).dns(), 2)
            .publish("", 8080, 80, "tcp");
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// One container goes; the other on the same networks stays as it was, port and all.
#[test]
fn the_last_container_takes_the_network_away() {
    lab::run(|host| {
        let Damaged {
            scene,
            before,
            container,
            request,
            outside,
        } = Damaged::new(host)?;
        let alone = scene.snapshot()?;
        let other = host.container("c2")?;
        let second = Request::new("c2")
            .on(&Network::new(1).dns(), 3)
            .publish("", 8090, 80, "tcp");
        scene.setup(&other, &second)?;
        let _servers = (
            servers(&container, Tcp, &[80], "c1")?,
            servers(&other, Tcp, &[80], "c2")?,
        );
        answers(&outside, Tcp, "192.0.2.1:8090", "c2", Host::OUTSIDE_V4)?;
        scene.teardown(&other, &second)?;
        scene.assert_same_as(&alone);
        closed(&outside, Tcp, "192.0.2.1:8090")?;
        answers(&outside, Tcp, "192.0.2.1:8080", "c1", Host::OUTSIDE_V4)?;
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// After somebody deleted the table, a reload of one container brings back the others, too.
#[test]
fn reload_after_the_table_was_deleted() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let before = scene.snapshot()?;
        let network = Network::new(1);
        let [first, second] = ["c1", "c2"].map(|name| host.container(name));
        let (first, second) = (first?, second?);
        // Podman asks for the MAC address that the container had.
        let mac = json!({"static_mac": "02:00:00:00:00:02"});
        let one = Request::new("c1")
            .on_with(&network, 2, &mac)
            .publish("", 8081, 80, "tcp");
        let two = Request::new("c2")
            .on(&network, 3)
            .publish("", 8082, 80, "tcp");
        scene.setup(&first, &one)?;
        scene.setup(&second, &two)?;
        let both_answer = || -> Result<()> {
            let _servers = (
                servers(&first, Tcp, &[80], "c1")?,
                servers(&second, Tcp, &[80], "c2")?,
            );
            answers(&outside, Tcp, "192.0.2.1:8081", "c1", Host::OUTSIDE_V4)?;
            answers(
                &outside,
                Tcp,
                "[2001:db8:5::1]:8082",
                "c2",
                Host::OUTSIDE_V6,
            )
        };
        both_answer()?;
        for damage in [
            "nft delete table inet netavark",
            "nft flush table inet netavark",
            "nft flush ruleset",
        ] {
            host.sh(damage)?;
            scene.teardown(&first, &one)?;
            scene.setup(&first, &one)?;
            both_answer().context(damage)?;
        }
        scene.teardown(&first, &one)?;
        scene.teardown(&second, &two)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// The container starts anew in another namespace although nobody tore it down.
#[test]
fn setup_after_a_crash() {
    lab::run(|host| {
        let Damaged {
            scene,
            before,
            container,
            request,
            outside,
        } = Damaged::new(host)?;
        drop(container);
        let container = host.container("again")?;
        let finished = scene
            .program(&["setup"], container.path(), request.json())
            .run_in(host)?;
        ensure!(finished.success(), "{finished}");
        let server = servers(&container, Tcp, &[80], "again")?;
        answers(&outside, Tcp, "192.0.2.1:8080", "again", Host::OUTSIDE_V4)?;
        drop(server);
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}
