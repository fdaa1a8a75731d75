//! Addresses by DHCP on macvlan: what Podman was recorded to ask for, with a server on the wire of the parent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_fixtures::netns::Netns;
use test_fixtures::recording;
use test_fixtures::traffic::{eventually, ping};

use crate::dhcp::{World, addresses};
use crate::lab;
use crate::lan::{SOON, Wire};
use crate::scene::{mac_of, reply, silent};

/// Everything that a server can say, and it also advertises itself as a router.
const OPTIONS: [&str; 8] = [
    "--dhcp-option=3,10.77.0.1",
    "--dhcp-option=6,10.77.0.3",
    "--dhcp-option=26,1400",
    "--dhcp-option=121,172.16.0.0/12,10.77.0.9,0.0.0.0/0,10.77.0.1",
    "--domain=example.org",
    "--dhcp-option=option6:dns-server,[fd77::53]",
    "--dhcp-option=option6:domain-search,example.net",
    "--enable-ra",
];

/// Long enough for half of two minutes, at which an IPv6 lease of dnsmasq is renewed.
const A_RENEWAL_OF_IPV6: Duration = Duration::from_secs(90);

/// The recorded call, for the name `mv3`; `change` makes another one of it.
fn recorded(change: impl FnOnce(&mut Value)) -> Result<Value> {
    let calls = recording::calls("macvlandhcp")?;
    let mut document = calls.first().context("a call")?.request()?;
    change(&mut document);
    Ok(document)
}

impl World<'_> {
    /// Attaches a container as the document says; returns the reply for `mv3`.
    fn attach(&self, netns: &Netns, document: &Value) -> Result<Value> {
        let call = self.scene.program(&["setup"], netns.path(), document);
        Ok(reply(&call.run_in(self.host)?)?["mv3"].clone())
    }

    fn detach(&self, netns: &Netns, document: &Value) -> Result<()> {
        let call = self.scene.program(&["teardown"], netns.path(), document);
        silent(&call.run_in(self.host)?)
    }
}

fn reaches(netns: &Netns, address: &str) -> Result<()> {
    let address = address.parse()?;
    let reached = eventually(SOON, || ping(netns, address).unwrap_or(false));
    ensure!(
        reached,
        "no echo of {address}: {}",
        netns.sh("ip addr; ip route; ip -6 route")?
    );
    Ok(())
}

#[test]
fn the_recorded_call_gets_what_the_server_has() {
    lab::run(|host| {
        let world = World::on(host, Wire::Parent, &OPTIONS)?;
        let container = host.container("c1")?;
        let before = world.scene.snapshot()?;
        let document = recorded(|_| {})?;
        let block = world.attach(&container, &document)?;
        let own = addresses(&container)?.join(" ");
        ensure!(own.starts_with("10.77.0."), "{own}");
        assert_eq!(
            block,
            json!({
                "dns_search_domains": ["example.org"],
                "dns_server_ips": ["10.77.0.3"],
                "interfaces": {"eth0": {
                    "mac_address": mac_of(&container, "eth0")?,
                    "subnets": [{"gateway": "10.77.0.1", "ipnet": format!("{own}/16")}],
                }},
            })
        );
        let routes = container.sh("ip route")?;
        for route in [
            "default via 10.77.0.1 dev eth0 proto static metric 99",
            "172.16.0.0/12 via 10.77.0.9 dev eth0",
        ] {
            ensure!(routes.contains(route), "{routes}");
        }
        ensure!(
            container
                .sh("ip -details link show eth0")?
                .contains("mtu 1400")
        );
        reaches(&container, "10.77.0.1")?;
        reaches(&world.server, &own)?;
        let log = world.log("dnsmasq.log");
        let name = document["container_hostname"].as_str().unwrap_or_default();
        ensure!(
            log.contains(&format!("client provides name: {name}")),
            "{log}"
        );
        assert_eq!(world.leased(), [own]);
        world.detach(&container, &document)?;
        assert_eq!(world.leased(), [""; 0]);
        assert_eq!(world.kept(), json!({}));
        assert_eq!(container.sh("ip -br link | wc -l")?.trim(), "1");
        world.scene.assert_same_as(&before);
        Ok(())
    });
}

#[test]
fn both_families_and_two_containers() {
    lab::run(|host| {
        let world = World::on(host, Wire::Parent, &OPTIONS)?;
        let both = |id: &str| {
            recorded(|document| {
                document["container_id"] = json!(id);
                document["network_info"]["mv3"]["ipv6_enabled"] = json!(true);
            })
        };
        let (one, two) = (host.container("c1")?, host.container("c2")?);
        let block = world.attach(&one, &both("one")?)?;
        assert_eq!(block["dns_server_ips"], json!(["10.77.0.3", "fd77::53"]));
        assert_eq!(
            block["dns_search_domains"],
            json!(["example.org", "example.net"])
        );
        let subnets = |block: &Value, family: usize| {
            let text = block["interfaces"]["eth0"]["subnets"][family]["ipnet"].clone();
            let text = text.as_str().unwrap_or_default().to_owned();
            text.split('/').next().unwrap_or_default().to_owned()
        };
        let others = world.attach(&two, &both("two")?)?;
        ensure!(
            one.sh("ip -6 addr show eth0")?
                .contains(&subnets(&block, 1)),
            "{block}"
        );
        for family in [0, 1] {
            // On the link and beyond it, and each other.
            reaches(&one, ["10.77.0.1", "fd77::1"][family])?;
            reaches(&world.server, &subnets(&block, family))?;
            reaches(&one, &subnets(&others, family))?;
        }
        assert_eq!(world.leased().len(), 4, "{:?}", world.leased());
        world.detach(&one, &both("one")?)?;
        world.detach(&two, &both("two")?)?;
        ensure!(
            eventually(SOON, || world.leased().is_empty()),
            "{:?}",
            world.leased()
        );
        assert_eq!(world.kept(), json!({}));
        Ok(())
    });
}

/// The server is away when the lease of IPv6 is to be renewed, and back half a minute before it is to be rebound.
#[test]
fn leases_of_both_families_are_renewed_by_a_server_that_comes_back() {
    let quick = [
        "--dhcp-option-force=option:T1,3",
        "--dhcp-option-force=option:T2,6",
    ];
    lab::run(|host| {
        let mut world = World::on(host, Wire::Parent, &quick)?;
        let document = recorded(|document| {
            document["network_info"]["mv3"]["ipv6_enabled"] = json!(true);
        })?;
        let container = host.container("c1")?;
        world.attach(&container, &document)?;
        let leased = world.leased();
        assert_eq!(leased.len(), 2, "{leased:?}");
        let renewed = || world.granted() >= 3;
        ensure!(eventually(SOON, renewed), "{}", world.log("proxy.log"));
        world.dnsmasq = None;
        std::thread::sleep(Duration::from_secs(62));
        let before = world.granted();
        world.serve("10.77.0", &quick)?;
        let renewed = || {
            let log = world.log("dnsmasq.log");
            world.granted() > before && log.contains("DHCPRENEW(eth0)")
        };
        ensure!(
            eventually(A_RENEWAL_OF_IPV6, renewed),
            "{}\n{}",
            world.log("proxy.log"),
            world.log("dnsmasq.log")
        );
        assert_eq!(world.leased(), leased);
        let inside = container.sh("ip -oneline addr show eth0 scope global")?;
        for address in &leased {
            ensure!(inside.contains(address), "{inside}");
        }
        world.detach(&container, &document)?;
        ensure!(
            eventually(SOON, || world.leased().is_empty()),
            "{:?}",
            world.leased()
        );
        Ok(())
    });
}
