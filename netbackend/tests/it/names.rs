//! Names of containers, with our DNS responder; once with Debian's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use test_fixtures::netns::Netns;

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene};
use crate::traffic::{Udp, answers, eventually, pings, resolve, resolves, servers};

/// Debian's DNS responder.
const AARDVARK: &str = "/usr/lib/podman/aardvark-dns";

#[test]
fn containers_know_each_other() {
    lab::run(|host| know_each_other(Scene::new(host)?));
}

/// The other responder is told the same in the same way.
#[test]
fn containers_know_each_other_by_aardvark_dns() {
    lab::run(|host| {
        let mut scene = Scene::new(host)?;
        scene.aardvark = AARDVARK.into();
        know_each_other(scene)
    });
}

/// Containers of a network know each other by name and alias, at each gateway, and those who leave are forgotten.
fn know_each_other(scene: Scene<'_>) -> Result<()> {
    let network = Network::new(1).dns();
    let before = scene.snapshot()?;
    let [first, second] = ["first", "second"].map(|name| scene.host.container(name));
    let (first, second) = (first?, second?);
    let one = Request::new("first").on_with(&network, 2, &json!({"aliases": ["one", "eins"]}));
    let two = Request::new("second").on(&network, 3);
    let status = scene.setup(&first, &one)?;
    assert_eq!(
        status["net1"]["dns_server_ips"],
        json!(["10.70.1.1", "fd70:1::1"])
    );
    assert_eq!(status["net1"]["dns_search_domains"], json!(["dns.podman"]));
    scene.setup(&second, &two)?;
    for server in ["10.70.1.1", "fd70:1::1"] {
        for name in ["first", "one.dns.podman", "eins"] {
            resolves(&second, server, name, "A", "10.70.1.2")?;
            resolves(&second, server, name, "AAAA", "fd70:1::2")?;
        }
        resolves(&first, server, "second.dns.podman", "A", "10.70.1.3")?;
    }
    scene.teardown(&second, &two)?;
    let forgotten = || {
        resolve(&first, "10.70.1.1", "second.dns.podman", "A").is_ok_and(|answer| answer.is_empty())
    };
    ensure!(eventually(Duration::from_secs(3), forgotten));
    resolves(&first, "10.70.1.1", "first", "A", "10.70.1.2")?;
    scene.teardown(&first, &one)?;
    scene.assert_same_as(&before);
    Ok(())
}

/// Programs in a container find another one by the servers and the search list of the reply, which engines write into
/// its resolv.conf.
#[test]
fn programs_find_containers() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let network = Network::new(1).dns();
        let [first, second] = ["first", "second"].map(|name| host.container(name));
        let (first, second) = (first?, second?);
        let one = Request::new("first").on(&network, 2);
        let two = Request::new("second").on(&network, 3);
        let status = scene.setup(&first, &one)?;
        scene.setup(&second, &two)?;
        let words = |key: &str| -> Result<Vec<String>> {
            Ok(serde_json::from_value(status["net1"][key].clone())?)
        };
        let search = words("dns_search_domains")?.join(" ");
        let servers = words("dns_server_ips")?;
        assert_eq!(servers, ["10.70.1.1", "fd70:1::1"]);
        let resolv_conf = host.dir("container")?.join("resolv.conf");
        for server in servers {
            let lines = format!("search {search}\nnameserver {server}\n");
            fs::write(&resolv_conf, lines)?;
            let says = |command: &str, expected: &str| -> Result<()> {
                let said = in_container(&first, &resolv_conf, command)?;
                ensure!(said.contains(expected), "{command} at {server}: {said}");
                Ok(())
            };
            says("ping -4 -c 1 -W 2 second", "10.70.1.3")?;
            says("ping -6 -c 1 -W 2 second", "fd70:1::3")?;
            for way in ["+notcp", "+tcp"] {
                let dig = format!("dig +short +search +tries=1 {way} second");
                says(&format!("{dig} A"), "10.70.1.3")?;
                says(&format!("{dig} AAAA"), "fd70:1::3")?;
            }
            says("getent hosts second", "fd70:1::3")?;
            for options in ["RES_OPTIONS=", "RES_OPTIONS=use-vc"] {
                let getent = format!("env {options} getent ahosts second");
                says(&getent, "10.70.1.3")?;
                says(&getent, "fd70:1::3")?;
            }
            for address in ["10.70.1.3", "fd70:1::3"] {
                says("busybox nslookup second.dns.podman", address)?;
                says(&format!("getent hosts {address}"), "second")?;
            }
        }
        scene.teardown(&second, &two)?;
        scene.teardown(&first, &one)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// What a command prints that must succeed where this is `/etc/resolv.conf`.
fn in_container(container: &Netns, resolv_conf: &Path, command: &str) -> Result<String> {
    container.sh(&format!(
        "unshare --mount sh -c 'mount --bind {} /etc/resolv.conf && exec {command}'",
        resolv_conf.display()
    ))
}

/// A network of its own for each name space, and an internal one is served like any other.
#[test]
fn internal_networks_have_names() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let internal = Network::new(1).dns().internal();
        let [first, other] = ["first", "other"].map(|name| host.container(name));
        let (first, other) = (first?, other?);
        let request = Request::new("first").on(&internal, 2);
        let elsewhere = Request::new("other").on(&Network::new(2).dns(), 2);
        scene.setup(&first, &request)?;
        ensure!(scene.config.join("aardvark-dns/net1%int").is_file());
        scene.setup(&other, &elsewhere)?;
        resolves(&first, "10.70.1.1", "first", "A", "10.70.1.2")?;
        resolves(&first, "fd70:1::1", "first", "AAAA", "fd70:1::2")?;
        assert_eq!(resolve(&other, "10.70.2.1", "first.dns.podman", "A")?, "");
        scene.teardown(&first, &request)?;
        scene.teardown(&other, &elsewhere)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// The responder may listen elsewhere, and containers still ask port 53.
#[test]
fn another_port() {
    lab::run(|host| {
        let scene = Scene::new(host)?.env("NETAVARK_DNS_PORT", "1153");
        let outside = host.outside()?;
        let before = scene.snapshot()?;
        let [first, thief] = ["first", "thief"].map(|name| host.container(name));
        let (first, thief) = (first?, thief?);
        let network = Network::new(1).dns();
        let one = Request::new("first").on(&network, 2);
        scene.setup(&first, &one)?;
        resolves(&first, "10.70.1.1", "first", "A", "10.70.1.2")?;
        // A container that publishes port 53 gets what is sent to the host, but not what the network asks.
        let two = Request::new("thief")
            .on(&network, 3)
            .publish("", 53, 53, "udp");
        scene.setup(&thief, &two)?;
        let servers = servers(&thief, Udp, &[53], "thief")?;
        answers(&outside, Udp, "192.0.2.1:53", "thief", "192.0.2.2")?;
        for server in ["10.70.1.1", "fd70:1::1"] {
            resolves(&first, server, "first", "A", "10.70.1.2")?;
            resolves(&first, server, "thief", "AAAA", "fd70:1::3")?;
        }
        for server in ["10.70.1.1", "fd70:1::1"] {
            resolves(&first, server, "+tcp first", "A", "10.70.1.2")?;
        }
        drop(servers);
        scene.teardown(&thief, &two)?;
        resolves(&first, "10.70.1.1", "first", "A", "10.70.1.2")?;
        scene.teardown(&first, &one)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// A port 53 that is published does not take questions away from a responder there either.
#[test]
fn published_port_53_leaves_the_responder_alone() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let [first, thief] = ["first", "thief"].map(|name| host.container(name));
        let (first, thief) = (first?, thief?);
        let network = Network::new(1).dns();
        scene.setup(&first, &Request::new("first").on(&network, 2))?;
        let two = Request::new("thief")
            .on(&network, 3)
            .publish("", 53, 53, "udp");
        scene.setup(&thief, &two)?;
        let _servers = servers(&thief, Udp, &[53], "thief")?;
        answers(&outside, Udp, "192.0.2.1:53", "thief", "192.0.2.2")?;
        resolves(&first, "10.70.1.1", "thief", "A", "10.70.1.3")
    });
}

/// Names work under a drop policy that somebody put on our input chain, and the policy stays.
#[test]
fn drop_policy_on_the_input_chain() {
    lab::run(|host| under_drop_policy(host, Scene::new(host)?));
}

#[test]
fn drop_policy_on_the_input_chain_with_another_port() {
    lab::run(|host| under_drop_policy(host, Scene::new(host)?.env("NETAVARK_DNS_PORT", "1153")));
}

fn under_drop_policy(host: &Host, scene: Scene<'_>) -> Result<()> {
    let chain = "inet netavark INPUT '{ type filter hook input priority filter; policy drop; }'";
    host.sh(&format!(
        "nft add table inet netavark; nft add chain {chain}"
    ))?;
    let containers = [Network::new(1).dns(), Network::new(2).dns().internal()];
    for (number, network) in (1..).zip(containers) {
        let name = format!("c{number}");
        let container = host.container(&name)?;
        let request = Request::new(&name).on(&network, 2);
        scene.setup(&container, &request)?;
        // IPv4 only: the policy drops the neighbour discovery of IPv6, too, which is for its author to solve.
        let (server, own) = (format!("10.70.{number}.1"), format!("10.70.{number}.2"));
        resolves(&container, &server, &name, "A", &own)?;
        ensure!(
            pings(&container, &format!("10.70.{number}.1")).is_err(),
            "the policy is gone"
        );
    }
    Ok(())
}

/// Names that cannot be are left out, each with a warning.
#[test]
fn names_that_cannot_be() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let aliases = json!({"aliases": ["good", "two words", "a,b", "", "line\nbreak", "fine"]});
        let request = Request::new("c1").on_with(&Network::v4(1).dns(), 2, &aliases);
        let finished = scene
            .program(&["setup"], container.path(), request.json())
            .env("RUST_LOG", "netavark=warn")
            .run_in(host)?;
        ensure!(finished.success(), "{finished}");
        let warned = |name: &str| {
            finished
                .stderr
                .contains(&format!("invalid network alias \"{name}\""))
        };
        ensure!(
            ["two words", "a,b", ""].into_iter().all(warned),
            "{finished}"
        );
        let zone = fs::read_to_string(scene.config.join("aardvark-dns/net1"))?;
        assert_eq!(zone, "10.70.1.1\nc1 10.70.1.2  c1,good,fine\n");
        Ok(())
    });
}

/// A resolver that is the own gateway would ask itself; nothing is changed for such a request.
#[test]
fn resolvers_that_are_gateways() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let network = Network::new(1).dns();
        let requests = [
            Request::new("c1")
                .on(&network, 2)
                .set("dns_servers", json!(["10.70.1.1"])),
            Request::new("c1").on(
                &network
                    .clone()
                    .set("network_dns_servers", json!(["fd70:1::1"])),
                2,
            ),
        ];
        for request in requests {
            let error = scene.fails("setup", container.path(), &request)?;
            ensure!(
                error.contains("would cause aardvark-dns to forward queries to itself"),
                "{error}"
            );
            scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// Without a responder, a network is one without names: a container is not told to ask where nobody answers.
#[test]
fn no_responder() {
    lab::run(|host| {
        let before = Scene::new(host)?.snapshot()?;
        for path in ["", "/nowhere/aardvark-dns"] {
            let mut scene = Scene::new(host)?;
            scene.aardvark = path.into();
            let container = host.container("c1")?;
            let request = Request::new("c1").on(&Network::v4(1).dns(), 2);
            let status = scene.setup(&container, &request)?;
            assert_eq!(status["net1"]["dns_server_ips"], json!([]));
            assert_eq!(status["net1"]["dns_search_domains"], json!([]));
            ensure!(!scene.config.join("aardvark-dns").exists());
            scene.teardown(&container, &request)?;
            let request = request.set("dns_servers", json!(["203.0.113.9"]));
            let status = scene.setup(&container, &request)?;
            assert_eq!(status["net1"]["dns_server_ips"], json!(["203.0.113.9"]));
            scene.teardown(&container, &request)?;
            scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// A responder that does not start takes the container back, and the error says what it said.
#[test]
fn a_responder_that_fails() {
    lab::run(|host| {
        let cases = [
            (
                "exit 1",
                "aardvark-dns exited unexpectedly without error message",
            ),
            (
                "echo no luck >&2; exit 3",
                "aardvark-dns failed to start: no luck",
            ),
        ];
        for (script, expected) in cases {
            let mut scene = Scene::new(host)?;
            scene.aardvark = host.dir("bin")?.join("aardvark-dns");
            fs::write(&scene.aardvark, format!("#!/bin/sh\n{script}\n"))?;
            fs::set_permissions(&scene.aardvark, fs::Permissions::from_mode(0o755))?;
            let container = host.container("c1")?;
            let before = scene.snapshot()?;
            let request = Request::new("c1")
                .on(&Network::new(1), 2)
                .on(&Network::new(2).dns(), 2)
                .publish("", 8080, 80, "tcp");
            let error = scene.fails("setup", container.path(), &request)?;
            assert_eq!(
                error,
                format!("error while applying dns entries: {expected}")
            );
            scene.assert_same_as(&before);
            let links = container.sh("ip -br link")?;
            ensure!(!links.contains("eth"), "{links}");
        }
        Ok(())
    });
}

/// A responder that was killed is started by the next container, with all names.
#[test]
fn a_responder_that_was_killed() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let network = Network::v4(1).dns();
        let [first, second] = ["first", "second"].map(|name| host.container(name));
        let (first, second) = (first?, second?);
        let (one, two) = (
            Request::new("first").on(&network, 2),
            Request::new("second").on(&network, 3),
        );
        scene.setup(&first, &one)?;
        kill_responder(host)?;
        scene.setup(&second, &two)?;
        resolves(&second, "10.70.1.1", "first", "A", "10.70.1.2")?;
        resolves(&second, "10.70.1.1", "second", "A", "10.70.1.3")?;
        kill_responder(host)?;
        scene.teardown(&first, &one)?;
        resolves(&second, "10.70.1.1", "second", "A", "10.70.1.3")?;
        kill_responder(host)?;
        scene.teardown(&second, &two)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

fn kill_responder(host: &Host) -> Result<()> {
    let pid = fs::read_to_string("/run/lab/networks/aardvark-dns/aardvark.pid")?;
    host.sh(&format!("kill -9 {pid}"))?;
    let gone = || !Path::new("/proc").join(&pid).exists();
    ensure!(eventually(Duration::from_secs(3), gone));
    Ok(())
}
