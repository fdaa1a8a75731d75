//! Every call that Podman made of netavark in the recorded scenarios: the reply must be the recorded one, the network must
//! work, and nothing must be left in the end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_fixtures::netns::Netns;
use test_fixtures::recording::{self, Call, Places};

use crate::lab::{self, Host};
use crate::scene::{Scene, error, netbackend, reply, silent};
use crate::traffic::{Protocol, Tcp, Udp, answers, closed, pings, resolves, servers};

/// A test for each recording, each a function below.
macro_rules! recordings {
    ($($(#[$attribute:meta])* $name:ident = $scenario:literal,)*) => {
        /// The scenarios that are replayed.
        const REPLAYED: &[&str] = &[$($scenario),*];

        mod replayed {
            use super::{Recording, Replayed, lab};

            $(
                #[test]
                $(#[$attribute])*
                fn $name() {
                    lab::run(|host| {
                        let recording = Recording { host, scenario: $scenario };
                        super::$name(&recording).map(|Replayed| ())
                    });
                }
            )*
        }
    };
}

recordings! {
    default = "default",
    ports = "ports",
    dual = "dual",
    v6only = "v6only",
    internal = "internal",
    isolate = "isolate",
    noroute = "noroute",
    static_address = "static",
    two = "two",
    dns = "dns",
    unmanaged = "unmanaged",
    vethname = "vethname",
    pod = "pod",
    connect = "connect",
    reload = "reload",
    noipam = "noipam",
    disdns = "disdns",
    hostip6 = "hostip6",
    gwopts = "gwopts",
    #[ignore = "needs the VM: hack/vm-test"]
    vm_opts = "opts",
    #[ignore = "needs the VM: hack/vm-test"]
    vm_vrf = "vrf",
    #[ignore = "needs the VM: hack/vm-test"]
    vm_sctp = "sctp",
    macvlan = "macvlan",
    macvlanopts = "macvlanopts",
    macvlandhcp = "macvlandhcp",
    #[ignore = "needs the VM: hack/vm-test"]
    vm_ipvlan = "ipvlan",
    upd = "upd",
}

/// Nothing that was recorded is left out.
#[test]
fn every_recording_is_replayed() -> Result<()> {
    let mut replayed = REPLAYED.to_vec();
    replayed.sort_unstable();
    assert_eq!(replayed, recording::scenarios()?);
    Ok(())
}

/// A scenario that was recorded, and the host to replay it on.
struct Recording<'a> {
    host: &'a Host,
    scenario: &'static str,
}

/// All calls of a scenario were made, and nothing is left. Only [`Recording::replay`] makes one.
struct Replayed;

/// A scenario under way.
struct Stage<'a> {
    scene: Scene<'a>,
    outside: &'a Netns,
}

impl Stage<'_> {
    /// Container and host reach each other, and the container reaches the outside as the host.
    fn works(&self, container: &Netns, v4: &str, v6: Option<&str>) -> Result<()> {
        let (host, outside) = (self.scene.host, self.outside);
        pings(host, v4)?;
        let _servers = (
            servers(container, Tcp, &[7], "in")?,
            servers(outside, Tcp, &[7], "out")?,
        );
        let own = |to: &str| -> Result<String> {
            let route = host.sh(&format!("ip route get {to}"))?;
            let source = route
                .split_whitespace()
                .skip_while(|word| *word != "src")
                .nth(1);
            Ok(source.unwrap_or_default().to_owned())
        };
        answers(host, Tcp, &format!("{v4}:7"), "in", &own(v4)?)?;
        answers(container, Tcp, "192.0.2.2:7", "out", Host::V4)?;
        if let Some(v6) = v6 {
            pings(host, v6)?;
            answers(host, Tcp, &format!("[{v6}]:7"), "in", &own(v6)?)?;
            answers(container, Tcp, "[2001:db8:5::2]:7", "out", Host::V6)?;
        }
        Ok(())
    }

    /// The content of a file below the state directory.
    fn file(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.scene.config.join(name))?)
    }
}

impl Recording<'_> {
    /// Makes the calls in order, with `check` after each, and compares the host with before.
    fn replay(
        &self,
        prepare: &str,
        mut check: impl FnMut(&Stage<'_>, &str, &Netns) -> Result<()>,
    ) -> Result<Replayed> {
        let outside = self.host.outside()?;
        self.host.sh(prepare)?;
        let stage = Stage {
            scene: Scene::new(self.host)?,
            outside: &outside,
        };
        let before = stage.scene.snapshot()?;
        let mut containers: BTreeMap<String, Netns> = BTreeMap::new();
        for call in self.calls()? {
            // A call without a namespace is about the network of the one container that there is.
            let recorded = call
                .netns_name()
                .or_else(|| containers.keys().next().map(String::as_str));
            let recorded = recorded.context("a call without a container")?.to_owned();
            if !containers.contains_key(&recorded) {
                let netns = self.host.container(&format!("c{}", containers.len() + 1))?;
                containers.insert(recorded.clone(), netns);
            }
            let container = &containers[&recorded];
            stage.make(&call, container)?;
            check(&stage, &call.name, container).with_context(|| call.name.clone())?;
        }
        for container in containers.values() {
            let left = container.sh("ip -o link; ip route show table all type unicast")?;
            ensure!(left.lines().count() == 1, "left inside: {left}");
        }
        stage.scene.assert_same_as(&before);
        Ok(Replayed)
    }

    fn calls(&self) -> Result<Vec<Call>> {
        recording::calls(self.scenario)
    }
}

impl Stage<'_> {
    /// Makes a recorded call; what comes back must be what came back then.
    fn make(&self, call: &Call, container: &Netns) -> Result<()> {
        let places = Places {
            config: &self.scene.config,
            netns: container.path(),
            aardvark: &self.scene.aardvark,
        };
        let finished = netbackend()
            .args(call.argv(places))
            .stdin(call.input.as_str())
            .run_in(self.scene.host)?;
        match &call.output {
            Some(expected) if expected["error"].is_null() => {
                compare(&reply(&finished)?, expected, &call.request()?);
                let loopback = container.sh("ip -br link show lo")?;
                ensure!(loopback.contains("UP"), "lo is down: {loopback}");
            }
            Some(expected) if call.scenario == "macvlandhcp" => {
                assert_eq!(json!({"error": error(&finished)?}), *expected);
            }
            // The kernel of the recording had no such feature.
            Some(_) => as_requested(&reply(&finished)?, &call.request()?),
            None => silent(&finished)?,
        }
        Ok(())
    }
}

/// What comes back is what the request asks for, where the recording cannot say.
fn as_requested(actual: &Value, request: &Value) {
    let networks = request["networks"].as_object().into_iter().flatten();
    for (name, wanted) in networks {
        let info = &request["network_info"][name];
        let interface = wanted["interface_name"].as_str().unwrap_or_default();
        let found = &actual[name]["interfaces"][interface]["subnets"];
        let addresses = wanted["static_ips"].as_array().into_iter().flatten();
        let subnets = info["subnets"].as_array().into_iter().flatten();
        let expected: Vec<_> = addresses
            .zip(subnets)
            .map(|(address, subnet)| {
                let length = subnet["subnet"]
                    .as_str()
                    .and_then(|text| text.split_once('/'));
                let (address, length) = (address.as_str(), length.map(|(_, length)| length));
                let ipnet = format!(
                    "{}/{}",
                    address.unwrap_or_default(),
                    length.unwrap_or_default()
                );
                json!({"gateway": subnet["gateway"], "ipnet": ipnet})
            })
            .collect();
        assert_eq!(*found, json!(expected), "{actual}");
    }
}

/// The same reply, save MAC addresses that nobody asked for.
fn compare(actual: &Value, expected: &Value, request: &Value) {
    for (name, network) in request["networks"].as_object().into_iter().flatten() {
        let mac = |status: &Value| {
            let interface = network["interface_name"].as_str().unwrap_or_default();
            status[name]["interfaces"][interface]["mac_address"].clone()
        };
        if !network["static_mac"].is_null() {
            assert_eq!(mac(actual), network["static_mac"]);
        }
        assert_ne!(mac(actual), Value::Null);
    }
    let masked = recording::without_macs;
    assert_eq!(masked(actual.clone()), masked(expected.clone()));
}

fn default(recording: &Recording<'_>) -> Result<Replayed> {
    recording.replay("", |stage, call, container| match call {
        "01-setup" => stage.works(container, "10.88.0.2", None),
        _ => Ok(()),
    })
}

fn ports(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        stage.works(container, "10.89.0.2", None)?;
        let tcp = [80, 443, 9000, 9005, 9010];
        let _servers = (
            servers(container, Tcp, &tcp, "web")?,
            servers(container, Udp, &[53], "udp")?,
        );
        for port in [8080, 9000, 9005, 9010] {
            let to = format!("192.0.2.1:{port}");
            answers(stage.outside, Tcp, &to, "web", Host::OUTSIDE_V4)?;
            answers(host, Tcp, &to, "web", Host::V4)?;
            answers(host, Tcp, &format!("127.0.0.1:{port}"), "web", "10.89.0.1")?;
        }
        closed(stage.outside, Tcp, "192.0.2.1:9011")?;
        answers(
            stage.outside,
            Udp,
            "192.0.2.1:5353",
            "udp",
            Host::OUTSIDE_V4,
        )?;
        answers(host, Tcp, "127.0.0.1:8443", "web", "10.89.0.1")?;
        closed(stage.outside, Tcp, "192.0.2.1:8443")
    })
}

fn dual(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    host.set_sysctl("bridge/bridge-nf-call-ip6tables", "0")?;
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        stage.works(container, "10.90.0.2", Some("fd00:90::2"))?;
        let _servers = servers(container, Tcp, &[80, 82], "web")?;
        answers(
            stage.outside,
            Tcp,
            "192.0.2.1:8081",
            "web",
            Host::OUTSIDE_V4,
        )?;
        answers(
            stage.outside,
            Tcp,
            "[2001:db8:5::1]:8081",
            "web",
            Host::OUTSIDE_V6,
        )?;
        answers(host, Tcp, "[::1]:8081", "web", "fd00:90::1")?;
        answers(host, Tcp, "[::1]:8082", "web", "fd00:90::1")?;
        closed(stage.outside, Tcp, "[2001:db8:5::1]:8082")?;
        for server in ["10.90.0.1", "fd00:90::1"] {
            resolves(container, server, "dual1.dns.podman", "A", "10.90.0.2")?;
            resolves(container, server, "a2.dns.podman", "AAAA", "fd00:90::2")?;
        }
        Ok(())
    })
}

fn v6only(recording: &Recording<'_>) -> Result<Replayed> {
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        stage.works(container, "10.89.1.2", Some("fd00:91::2"))?;
        let _servers = servers(container, Tcp, &[80], "web")?;
        answers(
            stage.outside,
            Tcp,
            "192.0.2.1:8083",
            "web",
            Host::OUTSIDE_V4,
        )?;
        answers(
            stage.outside,
            Tcp,
            "[2001:db8:5::1]:8083",
            "web",
            Host::OUTSIDE_V6,
        )
    })
}

fn internal(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        ensure!(container.sh("ip route show default")?.is_empty());
        pings(host, "10.89.2.2")?;
        pings(container, "10.89.2.1")?;
        resolves(
            container,
            "10.89.2.1",
            "heuristic_taussig",
            "A",
            "10.89.2.2",
        )?;
        container.sh("ip route add default via 10.89.2.1")?;
        let _servers = servers(stage.outside, Tcp, &[7], "out")?;
        closed(container, Tcp, "192.0.2.2:7")
    })
}

fn isolate(recording: &Recording<'_>) -> Result<Replayed> {
    recording.replay("", |stage, call, container| match call {
        "01-setup" => stage.works(container, "10.89.3.2", None),
        "03-setup" => stage.works(container, "10.89.4.2", None),
        _ => Ok(()),
    })
}

fn noroute(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |_, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        ensure!(container.sh("ip route show default")?.is_empty());
        let route = container.sh("ip route show 10.200.0.0/16")?;
        ensure!(
            route.contains("via 10.92.0.1") && route.contains("metric 150"),
            "{route}"
        );
        pings(host, "10.92.0.2")
    })
}

fn static_address(recording: &Recording<'_>) -> Result<Replayed> {
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        let link = container.sh("ip -br link show lan0")?;
        ensure!(link.contains("02:11:22:33:44:55"), "{link}");
        stage.works(container, "10.93.0.200", None)?;
        resolves(container, "10.93.0.1", "stat", "A", "10.93.0.200")
    })
}

fn two(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        stage.works(container, "10.89.5.2", None)?;
        pings(host, "10.89.6.2")?;
        let _servers = servers(container, Tcp, &[84], "web")?;
        answers(
            stage.outside,
            Tcp,
            "192.0.2.1:8084",
            "web",
            Host::OUTSIDE_V4,
        )?;
        resolves(container, "10.89.5.1", "modest_fermi", "A", "10.89.5.2")?;
        resolves(container, "10.89.6.1", "modest_fermi", "A", "10.89.6.2")
    })
}

fn dns(recording: &Recording<'_>) -> Result<Replayed> {
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        assert_eq!(
            stage.file("aardvark-dns/dn1")?,
            "10.89.7.1 198.51.100.1,198.51.100.2\n\
                 97754d6b6c08c4ffae302af4cd157af699df7a9ea0b799cbc7f9dc800ac2133f 10.89.7.2  \
                 dreamy_blackburn,97754d6b6c08 203.0.113.9\n"
        );
        stage.works(container, "10.89.7.2", None)
    })
}

fn unmanaged(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    let bridge = "ip link add brm address 02:00:00:00:00:95 type bridge; ip addr add 10.95.0.1/24 dev brm; ip link set brm up";
    recording.replay(bridge, |_, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        pings(host, "10.95.0.2")?;
        resolves(
            container,
            "10.95.0.1",
            "suspicious_chaplygin",
            "A",
            "10.95.0.2",
        )?;
        let _servers = servers(container, Tcp, &[80], "web")?;
        closed(host, Tcp, "127.0.0.1:8085")?;
        let rules = host.sh("nft list ruleset")?;
        ensure!(!rules.contains("brm"), "{rules}");
        Ok(())
    })
}

fn vethname(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        let link = host.sh("ip link show vethx9")?;
        ensure!(link.contains("master podman13"), "{link}");
        stage.works(container, "10.89.9.2", None)
    })
}

fn pod(recording: &Recording<'_>) -> Result<Replayed> {
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        stage.works(container, "10.89.10.2", None)?;
        let _servers = servers(container, Tcp, &[80], "web")?;
        answers(
            stage.outside,
            Tcp,
            "192.0.2.1:8086",
            "web",
            Host::OUTSIDE_V4,
        )?;
        resolves(container, "10.89.10.1", "pd", "A", "10.89.10.2")
    })
}

fn connect(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |stage, call, container| match call {
        "01-setup" => stage.works(container, "10.89.3.3", None),
        "02-setup" => {
            pings(host, "10.89.3.3")?;
            stage.works(container, "10.89.11.2", None)?;
            resolves(container, "10.89.3.1", "cc", "A", "10.89.3.3")?;
            resolves(container, "10.89.11.1", "cx", "A", "10.89.11.2")
        }
        "03-teardown" => {
            let links = container.sh("ip -br link")?;
            ensure!(!links.contains("eth0") && links.contains("eth1"), "{links}");
            stage.works(container, "10.89.11.2", None)?;
            resolves(container, "10.89.11.1", "cx", "A", "10.89.11.2")
        }
        _ => Ok(()),
    })
}

fn reload(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |stage, call, container| {
        if !call.ends_with("setup") {
            return Ok(());
        }
        stage.works(container, "10.89.12.2", None)?;
        let _servers = servers(container, Tcp, &[80], "web")?;
        answers(
            stage.outside,
            Tcp,
            "192.0.2.1:8087",
            "web",
            Host::OUTSIDE_V4,
        )?;
        resolves(container, "10.89.12.1", "rr", "A", "10.89.12.2")?;
        if call == "01-setup" {
            host.sh("nft delete table inet netavark")?; // why somebody reloads
        }
        Ok(())
    })
}

fn noipam(recording: &Recording<'_>) -> Result<Replayed> {
    recording.replay("", |_, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        let link = container.sh("ip -br -4 addr show eth0; ip route")?;
        ensure!(!link.contains('/') && !link.contains("via"), "{link}");
        let link = container.sh("ip -br link show eth0")?;
        ensure!(link.contains("UP"), "{link}");
        Ok(())
    })
}

fn disdns(recording: &Recording<'_>) -> Result<Replayed> {
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        ensure!(!stage.scene.config.join("aardvark-dns").exists());
        stage.works(container, "10.89.14.2", None)
    })
}

fn hostip6(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    let addresses =
        "ip addr add 192.0.2.10/24 dev uplink; ip addr add 2001:db8:5::10/64 dev uplink nodad";
    recording.replay(addresses, |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        let _servers = (
            servers(container, Tcp, &[80], "web")?,
            servers(container, Udp, &[81], "udp")?,
        );
        answers(
            stage.outside,
            Tcp,
            "[2001:db8:5::10]:8090",
            "web",
            Host::OUTSIDE_V6,
        )?;
        answers(
            stage.outside,
            Udp,
            "192.0.2.10:8091",
            "udp",
            Host::OUTSIDE_V4,
        )?;
        closed(stage.outside, Tcp, "[2001:db8:5::1]:8090")?;
        closed(stage.outside, Udp, "192.0.2.1:8091")?;
        pings(host, "fd3c:50c:12a4:b5a6::2")
    })
}

fn gwopts(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        let addresses = container.sh("ip -br -4 addr show eth0")?;
        ensure!(
            addresses.contains("10.97.0.1/24") && addresses.contains("10.98.0.2/24"),
            "{addresses}"
        );
        let route = container.sh("ip route show default")?;
        ensure!(route.contains("via 10.97.0.254"), "{route}");
        stage.works(container, "10.97.0.1", None)?;
        pings(host, "10.98.0.2")
    })
}

/// The recording kernel had no bridge VLANs.
fn vm_opts(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    recording.replay("", |stage, call, container| {
        ensure!(call == "01-setup");
        let link = host.sh("ip -d link show brx0")?;
        ensure!(
            link.contains("mtu 9000") && link.contains("vlan_filtering 1"),
            "{link}"
        );
        let link = container.sh("ip link show eth0")?;
        ensure!(link.contains("mtu 9000"), "{link}");
        let vlans = host.sh("bridge vlan show dev veth0")?;
        ensure!(vlans.contains("40 PVID Egress Untagged"), "{vlans}");
        let route = container.sh("ip route show default")?;
        ensure!(route.contains("metric 50"), "{route}");
        let request = &recording.calls()?[0].input;
        // Whoever is in the same VLAN is reached, with frames of this size.
        let (other, scene) = (host.container("other")?, &stage.scene);
        let second = request
            .replace("10.89.0.2", "10.89.0.3")
            .replace("75d0d415836b", "85d0d415836b");
        let finished = scene.program(&["setup"], other.path(), &second);
        reply(&finished.run_in(host)?)?;
        other.sh("ping -c 1 -W 3 -M do -s 8972 10.89.0.2")?;
        teardown_as(stage, &other, &second)?;
        teardown_as(stage, container, request)
    })
}

/// The recording kernel had no VRFs.
fn vm_vrf(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    let vrf = "ip link add vrf0 type vrf table 100; ip link set vrf0 up";
    recording.replay(vrf, |stage, _, container| {
        let link = host.sh("ip link show podman18")?;
        ensure!(link.contains("master vrf0"), "{link}");
        let gateway = container.sh("ip route show default")?;
        ensure!(gateway.contains("via 10.89.13.1"), "{gateway}");
        pings(container, "10.89.13.1")?;
        let request = &recording.calls()?[0];
        teardown_as(stage, container, &request.input)
    })
}

/// Without its device, the answer to a VRF network is the recorded one.
#[test]
fn no_vrf() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let call = &recording::calls("vrf")?[0];
        let finished = scene
            .program(&["setup"], container.path(), &call.input)
            .run_in(host)?;
        assert_eq!(
            error(&finished)?,
            "network \"vf\": vrf vrf0: get vrf to set up bridge interface: Netlink error: No such device (os error 19)"
        );
        scene.assert_same_as(&before);
        Ok(())
    });
}

fn vm_sctp(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    host.sh("modprobe sctp")?;
    recording.replay("", |stage, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        let _servers = servers(container, Protocol::Sctp, &[7000], "sctp")?;
        let peer = Host::OUTSIDE_V4;
        answers(
            stage.outside,
            Protocol::Sctp,
            "192.0.2.1:7000",
            "sctp",
            peer,
        )?;
        answers(host, Protocol::Sctp, "192.0.2.1:7000", "sctp", Host::V4)
    })
}

fn teardown_as(stage: &Stage<'_>, container: &Netns, request: &str) -> Result<()> {
    let program = stage
        .scene
        .program(&["teardown"], container.path(), request);
    silent(&program.run_in(stage.scene.host)?)
}

/// A wire named `up0`, as in the recordings, to a machine with these addresses.
fn wire(host: &Host, addresses: &[&str]) -> Result<Netns> {
    let lan = host.container("lan")?;
    host.sh("ip link add up0 type veth peer name eth0 netns lan; ip link set up0 up")?;
    lan.sh("ip link set eth0 up")?;
    for address in addresses {
        lan.sh(&format!("ip addr add {address} dev eth0"))?;
    }
    Ok(lan)
}

fn macvlan(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    let lan = wire(host, &["192.0.2.1/24"])?;
    recording.replay("", |_, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        let route = container.sh("ip route show default")?;
        ensure!(route.contains("via 192.0.2.1 dev eth0"), "{route}");
        pings(&lan, "192.0.2.2")?;
        pings(container, "192.0.2.1")
    })
}

fn macvlanopts(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    let lan = wire(host, &["192.0.2.1/24"])?;
    recording.replay("", |_, call, container| {
        if call != "01-setup" {
            return Ok(());
        }
        let link = container.sh("ip -d link show eth0")?;
        ensure!(
            link.contains("mtu 1400") && link.contains("mode private"),
            "{link}"
        );
        pings(&lan, "192.0.2.2")
    })
}

/// There was no proxy; the words are the recorded ones, and nothing is left.
fn macvlandhcp(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    let _lan = wire(host, &[])?;
    recording.replay("", |_, _, container| {
        let links = container.sh("ip -br link")?;
        ensure!(!links.contains("eth0"), "{links}");
        Ok(())
    })
}

/// The recording kernel had no ipvlan.
fn vm_ipvlan(recording: &Recording<'_>) -> Result<Replayed> {
    let host = recording.host;
    // Links in mode l3 answer no broadcasts, so the way to them has to be known.
    let lan = wire(host, &["10.94.0.1/24"])?;
    let known = "ip addr add 10.94.0.200/24 dev up0";
    recording.replay(known, |stage, _, container| {
        let mac = crate::scene::mac_of(host, "up0")?;
        lan.sh(&format!("ip neigh add 10.94.0.2 lladdr {mac} dev eth0"))?;
        let link = container.sh("ip -d link show eth0")?;
        ensure!(
            link.contains("ipvlan  mode l3") && link.contains(&mac),
            "{link}"
        );
        pings(&lan, "10.94.0.2")?;
        let request = &recording.calls()?[0];
        teardown_as(stage, container, &request.input)
    })
}

/// Other servers are asked from then on, by the same process, and names of containers are known all along.
fn upd(recording: &Recording<'_>) -> Result<Replayed> {
    let mut process = String::new();
    recording.replay("", |stage, call, container| {
        let zone = || stage.file("aardvark-dns/u1");
        match call {
            "01-setup" => {
                stage.works(container, "10.89.8.2", None)?;
                for (server, answer) in [("198.51.100.1", "1"), ("198.51.100.7", "7")] {
                    stage.outside.sh(&format!(
                        "ip addr add {server}/32 dev eth0
                        dnsmasq --no-hosts --no-resolv --bind-interfaces --listen-address={server} \
                            --pid-file=/run/lab/dnsmasq-{answer} --user=root --address=/which.example/203.0.113.{answer}"
                    ))?;
                }
                ensure!(zone()?.starts_with("10.89.8.1 198.51.100.1\n7073"));
                resolves(container, "10.89.8.1", "which.example", "A", "203.0.113.1")?;
                process = stage.file("aardvark-dns/aardvark.pid")?;
            }
            "02-update" => {
                ensure!(zone()?.starts_with("10.89.8.1 198.51.100.7\n7073"));
                resolves(container, "10.89.8.1", "which.example", "A", "203.0.113.7")?;
                resolves(
                    container,
                    "10.89.8.1",
                    "+tcp which.example",
                    "A",
                    "203.0.113.7",
                )?;
                assert_eq!(stage.file("aardvark-dns/aardvark.pid")?, process);
            }
            _ => return stage.outside.sh("kill $(cat /run/lab/dnsmasq-*)").map(drop),
        }
        resolves(container, "10.89.8.1", "ud", "A", "10.89.8.2")
    })
}
