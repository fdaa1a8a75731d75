//! What needs kernel features that the machine at hand may lack: VLANs on bridges, and VRFs.

use anyhow::ensure;
use serde_json::json;

use crate::lab;
use crate::scene::{Network, Request, Scene};
use crate::traffic::{Tcp, answers, closed, pings, resolves, servers};

/// Two networks on one bridge, each in its VLAN: neither sees the other's frames.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_vlans_on_one_bridge() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let network = |number| {
            let network = Network::v4(number).option("vlan", &format!("{}", 40 + number));
            network.set("network_interface", "shared")
        };
        let [first, second, third] = ["c1", "c2", "c3"].map(|name| host.container(name));
        let (first, second, third) = (first?, second?, third?);
        let one = Request::new("c1").on(&network(1), 2);
        let two = Request::new("c2").on(&network(1), 3);
        let three = Request::new("c3").on(&network(2), 2);
        scene.setup(&first, &one)?;
        scene.setup(&second, &two)?;
        scene.setup(&third, &three)?;
        ensure!(
            host.sh("ip -d link show shared")?
                .contains("vlan_filtering 1")
        );
        for (port, vlan) in [("veth0", 41), ("veth1", 41), ("veth2", 42)] {
            let vlans = host.sh(&format!("bridge vlan show dev {port}"))?;
            ensure!(
                vlans.contains(&format!("{vlan} PVID Egress Untagged")),
                "{port}: {vlans}"
            );
        }
        pings(&first, "10.70.1.3")?;
        third.sh("ip addr add 10.70.1.9/24 dev eth0")?;
        ensure!(
            pings(&third, "10.70.1.3").is_err(),
            "the VLANs are connected"
        );
        for (netns, request) in [(&first, &one), (&second, &two), (&third, &three)] {
            scene.teardown(netns, request)?;
        }
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// An unmanaged bridge gets the filter for VLANs switched on, and nothing else.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_vlan_on_an_unmanaged_bridge() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        host.sh("ip link add br1 type bridge; ip link set br1 up")?;
        let container = host.container("c1")?;
        let network = Network::v4(1)
            .option("vlan", "50")
            .option("mode", "unmanaged");
        let request = Request::new("c1").on(&network, 2);
        scene.setup(&container, &request)?;
        ensure!(host.sh("ip -d link show br1")?.contains("vlan_filtering 1"));
        ensure!(
            host.sh("bridge vlan show dev veth0")?
                .contains("50 PVID Egress Untagged")
        );
        scene.teardown(&container, &request)?;
        ensure!(host.sh("ip link show br1")?.contains("UP"));
        Ok(())
    });
}

/// The MTU is that of the way out of the VRF, not of the host's.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_mtu_of_a_vrf() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let _outside = host.outside()?;
        host.sh("ip link add vrf0 type vrf table 100; ip link set vrf0 up
             ip link add out type dummy; ip link set out mtu 3000 master vrf0 up
             ip addr add 198.51.100.1/24 dev out
             ip route add default via 198.51.100.2 table 100")?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&Network::v4(1).option("vrf", "vrf0"), 2);
        scene.setup(&container, &request)?;
        let link = container.sh("ip link show eth0")?;
        ensure!(link.contains("mtu 3000"), "{link}");
        scene.teardown(&container, &request)
    });
}

/// The responder answers at the gateways of a network in a VRF.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_names_in_a_vrf() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        host.sh("ip link add vrf1 type vrf table 101; ip link set vrf1 up")?;
        let before = scene.snapshot()?;
        let [first, second] = ["first", "second"].map(|name| host.container(name));
        let (first, second) = (first?, second?);
        let inside = Network::new(1).option("vrf", "vrf1").dns();
        let one = Request::new("first").on(&inside, 2);
        let two = Request::new("second").on(&Network::new(2).dns(), 2);
        scene.setup(&second, &two)?;
        scene.setup(&first, &one)?;
        resolves(&second, "10.70.2.1", "second", "A", "10.70.2.2")?;
        for server in ["10.70.1.1", "fd70:1::1"] {
            resolves(&first, server, "first", "A", "10.70.1.2")?;
            resolves(&first, server, "+tcp first", "AAAA", "fd70:1::2")?;
        }
        scene.teardown(&first, &one)?;
        resolves(&second, "fd70:2::1", "second", "AAAA", "fd70:2::2")?;
        scene.teardown(&second, &two)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// Networks in different VRFs may have the same subnet.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_same_subnet_in_two_vrfs() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        host.sh("ip link add vrf1 type vrf table 101; ip link set vrf1 up
             ip link add vrf2 type vrf table 102; ip link set vrf2 up")?;
        let before = scene.snapshot()?;
        let subnets = json!([{"subnet": "10.70.1.0/24", "gateway": "10.70.1.1"}]);
        let [first, second] = ["c1", "c2"].map(|name| host.container(name));
        let (first, second) = (first?, second?);
        let one = Request::new("c1").on(&Network::v4(1).option("vrf", "vrf1"), 2);
        let other = Network::v4(2).option("vrf", "vrf2").set("subnets", subnets);
        let two = Request::new("c2").on_with(&other, 2, &json!({"static_ips": ["10.70.1.3"]}));
        scene.setup(&first, &one)?;
        scene.setup(&second, &two)?;
        let _servers = servers(&second, Tcp, &[7], "c2")?;
        pings(&first, "10.70.1.1")?;
        pings(&second, "10.70.1.1")?;
        closed(&first, Tcp, "10.70.1.3:7")?;
        answers(&second, Tcp, "10.70.1.3:7", "c2", "10.70.1.3")?;
        scene.teardown(&first, &one)?;
        pings(&second, "10.70.1.1")?;
        scene.teardown(&second, &two)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}
