//! Which networks reach which, and what is closed to the outside.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use test_fixtures::netns::Netns;
use test_fixtures::traffic::Server;

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene};
use crate::traffic::{Tcp, Udp, answers, closed, pings, servers};

/// A container alone on a network, with a server on port 80.
struct Alone {
    netns: Netns,
    number: u8,
    _servers: Vec<Server>,
}

impl Alone {
    fn new(scene: &Scene<'_>, network: &Network, number: u8) -> Result<Self> {
        let name = format!("on{number}");
        let netns = scene.host.container(&name)?;
        let request =
            Request::new(&name)
                .on(network, 2)
                .publish("", 8000 + u16::from(number), 80, "tcp");
        scene.setup(&netns, &request)?;
        let servers = servers(&netns, Tcp, &[80], &name)?;
        Ok(Self {
            netns,
            number,
            _servers: servers,
        })
    }

    fn addresses(&self) -> [String; 2] {
        [
            format!("10.70.{}.2", self.number),
            format!("[fd70:{}::2]", self.number),
        ]
    }
}

#[test]
fn isolation_decides_between_networks() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        // Two networks of each kind: a network's own kind is a case, too.
        let kinds = ["false", "true", "strict", "false", "true", "strict"];
        let mut all = Vec::new();
        for (number, kind) in (1..).zip(kinds) {
            let network = Network::new(number).option("isolate", kind);
            all.push((kind, Alone::new(&scene, &network, number)?));
        }
        for (from_kind, from) in &all {
            for (to_kind, to) in &all {
                if from.number == to.number {
                    continue;
                }
                let open = match (*from_kind, *to_kind) {
                    ("strict", _) | (_, "strict") => false,
                    (from, to) => from == "false" || to == "false",
                };
                let case = || format!("{from_kind} {} to {to_kind} {}", from.number, to.number);
                let tag = format!("on{}", to.number);
                for (address, gateway) in to.addresses().iter().zip(["10.70.", "fd70:"]) {
                    let direct = format!("{address}:80");
                    if open {
                        // Traffic between networks is translated: each sees the other's gateway.
                        let peer = to.addresses_of_gateway(gateway);
                        answers(&from.netns, Tcp, &direct, &tag, &peer).with_context(case)?;
                    } else {
                        closed(&from.netns, Tcp, &direct).with_context(case)?;
                    }
                }
                let published = format!("192.0.2.1:{}", 8000 + u16::from(to.number));
                let peer = to.addresses_of_gateway("10.70.");
                answers(&from.netns, Tcp, &published, &tag, &peer).with_context(case)?;
            }
        }
        // Isolation is about networks: the outside is reached, and reaches published ports.
        let _servers = servers(&outside, Tcp, &[7], "outside")?;
        for (kind, container) in &all {
            answers(&container.netns, Tcp, "192.0.2.2:7", "outside", Host::V4).context(*kind)?;
            answers(
                &container.netns,
                Tcp,
                "[2001:db8:5::2]:7",
                "outside",
                Host::V6,
            )
            .context(*kind)?;
            let (to, tag) = (
                format!("192.0.2.1:{}", 8000 + u16::from(container.number)),
                format!("on{}", container.number),
            );
            answers(&outside, Tcp, &to, &tag, Host::OUTSIDE_V4).context(*kind)?;
        }
        Ok(())
    });
}

impl Alone {
    /// The gateway of the family whose addresses begin like this.
    fn addresses_of_gateway(&self, family: &str) -> String {
        if family == "10.70." {
            format!("10.70.{}.1", self.number)
        } else {
            format!("fd70:{}::1", self.number)
        }
    }
}

/// Nobody gets in, nobody gets out, whatever routes and settings say; the host itself stays in reach.
fn is_internal(host: &Host, outside: &Netns, inside: &Netns, other: &Netns) -> Result<()> {
    for (from, to) in [
        (inside, "192.0.2.2:7"),
        (inside, "[2001:db8:5::2]:7"),
        (inside, "10.70.2.2:7"),
        (inside, "[fd70:2::2]:7"),
        (outside, "10.70.1.2:7"),
        (outside, "[fd70:1::2]:7"),
        (other, "10.70.1.2:7"),
        (other, "[fd70:1::2]:7"),
    ] {
        closed(from, Tcp, to)?;
        closed(from, Udp, to)?;
    }
    for to in ["10.70.1.1", "192.0.2.1", "fd70:1::1", "2001:db8:5::1"] {
        pings(inside, to)?;
    }
    pings(host, "10.70.1.2")?;
    answers(inside, Tcp, "10.70.1.1:9", "host", "10.70.1.2")?;
    answers(inside, Tcp, "192.0.2.1:9", "host", "10.70.1.2")?;
    answers(inside, Tcp, "[2001:db8:5::1]:9", "host", "fd70:1::2")?;
    answers(host, Tcp, "10.70.1.2:7", "inside", "10.70.1.1")
}

#[test]
fn internal_networks_are_closed() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        outside.sh(
            "ip route add 10.70.0.0/16 via 192.0.2.1; ip route add fd70::/16 via 2001:db8:5::1",
        )?;
        let [inside, neighbour, other] =
            ["inside", "neighbour", "other"].map(|n| host.container(n));
        let (inside, neighbour, other) = (inside?, neighbour?, other?);
        let internal = Network::new(1).internal();
        let request = Request::new("inside").on(&internal, 2);
        scene.setup(&inside, &request)?;
        scene.setup(&neighbour, &Request::new("neighbour").on(&internal, 3))?;
        ensure!(
            inside
                .sh("ip route show default; ip -6 route show default")?
                .is_empty()
        );
        inside.sh("ip route add default via 10.70.1.1; ip route add default via fd70:1::1")?;
        let both = |netns: &Netns, ports: &[u16], tag: &str| -> Result<Vec<Server>> {
            let mut running = servers(netns, Tcp, ports, tag)?;
            running.extend(servers(netns, Udp, ports, tag)?);
            Ok(running)
        };
        let _servers = (
            both(host, &[9], "host")?,
            both(&outside, &[7], "outside")?,
            both(&inside, &[7], "inside")?,
            both(&neighbour, &[7], "neighbour")?,
            both(&other, &[7], "other")?,
        );
        // The first ordinary network turns forwarding on, for bridges that exist already as well.
        scene.setup(&other, &Request::new("other").on(&Network::new(2), 2))?;
        is_internal(host, &outside, &inside, &other)?;
        // So does somebody else.
        for value in ["0", "1"] {
            host.set_sysctl("ipv4/ip_forward", value)?;
            host.set_sysctl("ipv6/conf/all/forwarding", value)?;
        }
        is_internal(host, &outside, &inside, &other)?;
        answers(&inside, Tcp, "10.70.1.3:7", "neighbour", "10.70.1.2")?;
        answers(&inside, Tcp, "[fd70:1::3]:7", "neighbour", "fd70:1::2")?;
        answers(&other, Tcp, "192.0.2.2:7", "outside", Host::V4)
    });
}

/// Traffic leaves by the address that was chosen for it.
#[test]
fn a_failed_setup_leaves_others_on_the_bridge_closed() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let containers = [host.container("c1")?, host.container("c2")?];
        let first = Request::new("c1").on(&Network::new(1).internal(), 2);
        scene.setup(&containers[0], &first)?;
        let rules = host.sh("nft list table inet netavark")?;
        let unreachable = json!([{"destination": "10.99.0.0/24", "gateway": "10.98.0.1"}]);
        let second = Network::new(2)
            .set("network_interface", "br1")
            .set("routes", unreachable);
        let second = Request::new("c2").on(&second, 2);
        scene.fails("setup", containers[1].path(), &second)?;
        assert_eq!(host.sh("nft list table inet netavark")?, rules);
        Ok(())
    });
}

#[test]
fn outbound_addresses() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        host.sh(
            "ip addr add 192.0.2.10/24 dev uplink; ip addr add 2001:db8:5::10/64 dev uplink nodad",
        )?;
        let network = Network::new(1)
            .option("outbound_addr4", "192.0.2.10")
            .option("outbound_addr6", "2001:db8:5::10");
        let container = Alone::new(&scene, &network, 1)?;
        let ordinary = Alone::new(&scene, &Network::new(2), 2)?;
        let mut running = servers(&outside, Tcp, &[7], "outside")?;
        running.extend(servers(&outside, Udp, &[7], "outside")?);
        for protocol in [Tcp, Udp] {
            answers(
                &container.netns,
                protocol,
                "192.0.2.2:7",
                "outside",
                "192.0.2.10",
            )?;
            answers(
                &container.netns,
                protocol,
                "[2001:db8:5::2]:7",
                "outside",
                "2001:db8:5::10",
            )?;
            answers(
                &ordinary.netns,
                protocol,
                "192.0.2.2:7",
                "outside",
                Host::V4,
            )?;
        }
        Ok(())
    });
}

/// Bridged packets that pass the filter keep their addresses within a network.
#[test]
fn neighbours_see_each_other() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let network = Network::new(1).option("isolate", "strict");
        let [first, second] = ["first", "second"].map(|name| host.container(name));
        let (first, second) = (first?, second?);
        scene.setup(&first, &Request::new("first").on(&network, 2))?;
        scene.setup(&second, &Request::new("second").on(&network, 3))?;
        let _servers = servers(&second, Tcp, &[7], "second")?;
        for value in ["0", "1"] {
            host.set_sysctl("bridge/bridge-nf-call-iptables", value)?;
            host.set_sysctl("bridge/bridge-nf-call-ip6tables", value)?;
            answers(&first, Tcp, "10.70.1.3:7", "second", "10.70.1.2")?;
            answers(&first, Tcp, "[fd70:1::3]:7", "second", "fd70:1::2")?;
        }
        Ok(())
    });
}

/// A network of the array form is strict unless it says otherwise; the administrator may decide otherwise.
#[test]
fn default_isolation() {
    lab::run(|host| {
        let outside = host.outside()?;
        let _servers = servers(&outside, Tcp, &[7], "outside")?;
        let reaches = |scene: &Scene<'_>, as_array: bool| -> Result<bool> {
            let request = |name: &str, number| {
                let request = Request::new(name).on(&Network::new(number), 2);
                if as_array {
                    request.in_array_form()
                } else {
                    request
                }
            };
            let [first, second] = ["first", "second"].map(|name| host.container(name));
            let (first, second) = (first?, second?);
            scene.setup(&first, &request("first", 1))?;
            scene.setup(&second, &request("second", 2))?;
            let _servers = servers(&second, Tcp, &[7], "second")?;
            answers(&first, Tcp, "192.0.2.2:7", "outside", Host::V4)?;
            let open = closed(&first, Tcp, "10.70.2.2:7").is_err();
            scene.teardown(&first, &request("first", 1))?;
            scene.teardown(&second, &request("second", 2))?;
            Ok(open)
        };
        let chosen =
            |value| Scene::new(host).map(|scene| scene.env("NETBACKEND_ISOLATE_DEFAULT", value));
        ensure!(reaches(&Scene::new(host)?, false)?, "object form");
        ensure!(!reaches(&Scene::new(host)?, true)?, "array form");
        ensure!(
            !reaches(&chosen("strict")?, false)?,
            "object form, strict chosen"
        );
        ensure!(reaches(&chosen("none")?, true)?, "array form, none chosen");
        Ok(())
    });
}
