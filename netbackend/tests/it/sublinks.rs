//! Networks of the drivers `macvlan` and `ipvlan`: what containers get, whom they reach in each mode, and that nothing is
//! left.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoMacVlan, LinkAttribute, LinkInfo};
use serde_json::{Value, json};
use test_fixtures::netns::Netns;
use test_fixtures::traffic::{eventually, ping};

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene, mac_of, silent};
use crate::traffic::{Server, Tcp, Udp, answers, servers};

/// How long an IPv6 address may take until it is sure to be nobody else's.
const SETTLED: Duration = Duration::from_secs(10);

/// A machine on the wire `up0`, which is the gateway of network 1. It is behind a switch, `sw`.
fn lan(host: &Host) -> Result<Netns> {
    let lan = host.container("lan")?;
    host.sh("ip link add up0 type veth peer name port netns lan; ip link set up0 up")?;
    lan.sh("ip link add sw address 02:00:00:00:00:99 type bridge
         ip link set port master sw up; ip link set sw up; ip link set lo up
         ip addr add 10.70.1.1/24 dev sw; ip addr add fd70:1::1/64 dev sw nodad")?;
    Ok(lan)
}

/// Network 1 of a driver on `up0`.
fn network(driver: &str) -> Network {
    Network::new(1)
        .set("driver", driver)
        .set("network_interface", "up0")
}

/// A container on this network, as host `number`.
fn start(scene: &Scene<'_>, network: &Network, number: u8) -> Result<(Netns, Request, Value)> {
    let name = format!("c{number}");
    let container = scene.host.container(&name)?;
    let request = Request::new(&name).on(network, number);
    let status = scene.setup(&container, &request)?;
    Ok((container, request, status))
}

/// `to` answers `from` once addresses have settled.
fn reaches(from: &Netns, to: &str) -> Result<()> {
    let address = to.parse()?;
    let reached = eventually(SETTLED, || ping(from, address).unwrap_or(false));
    ensure!(reached, "no echo of {to} to {}", from.path().display());
    Ok(())
}

/// `to` does not answer `from`, where addresses have settled.
fn is_cut_off(from: &Netns, to: &str) -> Result<()> {
    let answered = ping(from, to.parse()?)?;
    ensure!(!answered, "{to} answers {}", from.path().display());
    Ok(())
}

/// Both reach the gateway, in both families.
fn reach_gateway(containers: &[&Netns]) -> Result<()> {
    for container in containers {
        reaches(container, "10.70.1.1")?;
        reaches(container, "fd70:1::1")?;
    }
    Ok(())
}

/// Containers 2 and 3 reach each other in both families, with both protocols.
fn meet(second: &Netns, third: &Netns) -> Result<()> {
    let _servers = (server(second, "c2")?, server(third, "c3")?);
    for (from, own, to, tag) in [
        (second, "10.70.1.2", "10.70.1.3", "c3"),
        (third, "10.70.1.3", "10.70.1.2", "c2"),
        (second, "fd70:1::2", "fd70:1::3", "c3"),
        (third, "fd70:1::3", "fd70:1::2", "c2"),
    ] {
        reaches(from, to)?;
        let to = SocketAddr::new(to.parse()?, 7).to_string();
        for protocol in [Tcp, Udp] {
            answers(from, protocol, &to, tag, own)?;
        }
    }
    Ok(())
}

/// Containers 2 and 3 do not reach each other, in neither family.
fn do_not_meet(second: &Netns, third: &Netns) -> Result<()> {
    for (from, to) in [
        (second, "10.70.1.3"),
        (third, "10.70.1.2"),
        (second, "fd70:1::3"),
        (third, "fd70:1::2"),
    ] {
        is_cut_off(from, to)?;
    }
    Ok(())
}

fn server(netns: &Netns, tag: &str) -> Result<(Vec<Server>, Vec<Server>)> {
    Ok((
        servers(netns, Tcp, &[7], tag)?,
        servers(netns, Udp, &[7], tag)?,
    ))
}

fn details(netns: &Netns, link: &str) -> Result<Value> {
    let links: Value =
        serde_json::from_str(&netns.sh(&format!("ip -json -details link show {link}"))?)?;
    Ok(links[0].clone())
}

fn is_as_the_reply_says(host: &Host, driver: &str, mac_of_parent: bool) -> Result<()> {
    let scene = Scene::new(host)?;
    let _lan = lan(host)?;
    let before = scene.snapshot()?;
    let (container, request, status) = start(&scene, &network(driver), 2)?;
    let mac = mac_of(&container, "eth0")?;
    assert_eq!(
        status,
        json!({"net1": {
            "dns_search_domains": [],
            "dns_server_ips": [],
            "interfaces": {"eth0": {"mac_address": mac, "subnets": [
                {"gateway": "10.70.1.1", "ipnet": "10.70.1.2/24"},
                {"gateway": "fd70:1::1", "ipnet": "fd70:1::2/64"},
            ]}},
        }})
    );
    assert_eq!(mac == mac_of(host, "up0")?, mac_of_parent);
    let link = details(&container, "eth0")?;
    assert_eq!(link["linkinfo"]["info_kind"], driver);
    ensure!(link["flags"].to_string().contains("\"UP\""), "{link}");
    assert_eq!(
        container.sysctl("ipv6/conf/eth0/autoconf")?.as_deref(),
        Some("0")
    );
    for (family, gateway) in [("-4", "10.70.1.1"), ("-6", "fd70:1::1")] {
        let route = container.sh(&format!("ip {family} route show default"))?;
        let expected = format!("default via {gateway} dev eth0 proto static metric 99");
        ensure!(route.starts_with(&expected), "{route}");
    }
    reach_gateway(&[&container])?;
    scene.teardown(&container, &request)?;
    assert_eq!(container.sh("ip -br link | wc -l")?.trim(), "1");
    // Once more is nothing to complain of.
    scene.teardown(&container, &request)?;
    scene.assert_same_as(&before);
    Ok(())
}

#[test]
fn macvlan_is_as_the_reply_says() {
    lab::run(|host| is_as_the_reply_says(host, "macvlan", false));
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_ipvlan_is_as_the_reply_says() {
    lab::run(|host| is_as_the_reply_says(host, "ipvlan", true));
}

/// Options of both drivers, seen from inside.
fn options(host: &Host, driver: &str) -> Result<()> {
    let scene = Scene::new(host)?;
    let _lan = lan(host)?;
    let before = scene.snapshot()?;
    let routes = json!([
        {"destination": "10.89.0.0/24", "gateway": "10.70.1.77"},
        {"destination": "fd89::/64", "gateway": "fd70:1::77", "metric": 7},
        {"destination": "10.91.0.0/24", "route_type": "blackhole"},
    ]);
    let default = "ip route show default; ip -6 route show default";
    let cases = [
        (
            network(driver).option("mtu", "1400"),
            "ip link show eth0",
            "mtu 1400",
        ),
        (
            network(driver).option("mtu", "0"),
            "ip link show eth0",
            "mtu 1500",
        ),
        (
            network(driver).option("metric", "200"),
            "ip -4 route show default",
            "metric 200",
        ),
        (
            network(driver).option("metric", "200"),
            "ip -6 route show default",
            "metric 200",
        ),
        (
            network(driver).set("routes", routes.clone()),
            "ip route",
            "10.89.0.0/24 via 10.70.1.77 dev eth0 proto static metric 100",
        ),
        (
            network(driver).set("routes", routes.clone()),
            "ip -6 route",
            "fd89::/64 via fd70:1::77 dev eth0 proto static metric 7",
        ),
        (
            network(driver).set("routes", routes),
            "ip route",
            "blackhole 10.91.0.0/24 proto static metric 100",
        ),
        (
            network(driver).option("no_default_route", "true"),
            default,
            "",
        ),
        (network(driver).internal(), default, ""),
        (
            network(driver).internal(),
            "ip -br addr show eth0",
            "10.70.1.2/24",
        ),
        (
            network(driver).set("ipam_options", json!({"driver": "none"})),
            default,
            "",
        ),
        (
            network(driver).set("ipam_options", json!({"driver": "none"})),
            "ip -br -4 addr show dev eth0",
            "",
        ),
        (
            network(driver).set("ipam_options", json!({"driver": "none"})),
            "ip -br link show eth0",
            "UP",
        ),
        (network(driver).dns(), default, "via 10.70.1.1"),
    ];
    for (network, command, expected) in cases {
        let (container, request, status) = start(&scene, &network, 2)?;
        let found = container.sh(command)?;
        let good = if expected.is_empty() {
            found.is_empty()
        } else {
            found.contains(expected)
        };
        ensure!(good, "{network:?}: {command}: {found}");
        assert_eq!(status["net1"]["dns_server_ips"], json!([]));
        scene.teardown(&container, &request)?;
        let left = container.sh("ip -o link; ip route show table all; ip -6 route")?;
        assert_eq!(
            left.lines().filter(|line| !line.contains("lo")).count(),
            0,
            "{left}"
        );
        scene.assert_same_as(&before);
    }
    Ok(())
}

#[test]
fn options_of_macvlan() {
    lab::run(|host| options(host, "macvlan"));
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_options_of_ipvlan() {
    lab::run(|host| options(host, "ipvlan"));
}

/// Packets of the size that was asked for pass, larger ones do not.
fn size_of_packets(host: &Host, driver: &str) -> Result<()> {
    let scene = Scene::new(host)?;
    let _lan = lan(host)?;
    let before = scene.snapshot()?;
    let (container, request, _) = start(&scene, &network(driver).option("mtu", "1400"), 2)?;
    reach_gateway(&[&container])?;
    for (gateway, headers) in [("10.70.1.1", 28), ("fd70:1::1", 48)] {
        let ping = |size: u32| {
            container.sh(&format!(
                "ping -c 1 -W 3 -M do -s {} {gateway}",
                size - headers
            ))
        };
        ping(1400)?;
        ensure!(ping(1401).is_err(), "a larger packet passes to {gateway}");
    }
    scene.teardown(&container, &request)?;
    scene.assert_same_as(&before);
    Ok(())
}

#[test]
fn size_of_packets_of_macvlan() {
    lab::run(|host| size_of_packets(host, "macvlan"));
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_size_of_packets_of_ipvlan() {
    lab::run(|host| size_of_packets(host, "ipvlan"));
}

/// From how many links on a broadcast is put off; without the option it is as the kernel wants it.
#[test]
fn broadcast_cutoff() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let _lan = lan(host)?;
        for (asked, expected) in [(None, None), (Some("3"), Some(3)), (Some("-1"), Some(-1))] {
            let usual = network("macvlan");
            let network = match asked {
                Some(links) => usual.option("bclim", links),
                None => usual,
            };
            let (container, request, _) = start(&scene, &network, 2)?;
            assert_eq!(cutoff(&container, "eth0")?, expected, "{asked:?}");
            scene.teardown(&container, &request)?;
        }
        Ok(())
    });
}

/// What the kernel says, if it is not the usual value; not every `ip` prints it.
fn cutoff(netns: &Netns, link: &str) -> Result<Option<i32>> {
    let ask = async || -> Result<Option<i32>> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let mut links = handle.link().get().match_name(link.to_owned()).execute();
        let link = links.try_next().await?.context("no such link")?;
        for attribute in link.attributes {
            let LinkAttribute::LinkInfo(infos) = attribute else {
                continue;
            };
            for info in infos {
                if let LinkInfo::Data(InfoData::MacVlan(items)) = info {
                    return Ok(items.iter().find_map(the_cutoff));
                }
            }
        }
        Ok(None)
    };
    netns.enter(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build()?.block_on(ask())
    })
}

fn the_cutoff(item: &InfoMacVlan) -> Option<i32> {
    if let InfoMacVlan::BcCutoff(links) = item {
        Some(*links)
    } else {
        None
    }
}

#[test]
fn names_and_addresses_that_were_asked_for() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let lan = lan(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let wanted = json!({
            "interface_name": "lan7",
            "static_mac": "02-11-22-33-44-55",
            "static_ips": ["10.70.1.20", "fd70:1::20", "10.70.1.21"],
        });
        let request = Request::new("c1").on_with(&network("macvlan"), 2, &wanted);
        let status = scene.setup(&container, &request)?;
        let interface = &status["net1"]["interfaces"]["lan7"];
        assert_eq!(interface["mac_address"], "02:11:22:33:44:55");
        assert_eq!(mac_of(&container, "lan7")?, "02:11:22:33:44:55");
        assert_eq!(interface["subnets"].as_array().map(Vec::len), Some(3));
        for address in ["10.70.1.20", "10.70.1.21", "fd70:1::20"] {
            reaches(&lan, address)?;
        }
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// Each mode is what the kernel says it is. The first one is the usual one.
fn modes(host: &Host, driver: &str, modes: &[&str]) -> Result<()> {
    let scene = Scene::new(host)?;
    let _lan = lan(host)?;
    let before = scene.snapshot()?;
    let usual = network(driver);
    let named = modes
        .iter()
        .map(|mode| (*mode, usual.clone().option("mode", mode)));
    for (mode, network) in named.chain([(modes[0], usual.clone())]) {
        let (container, request, status) = start(&scene, &network, 2)?;
        let link = details(&container, "eth0")?;
        assert_eq!(link["linkinfo"]["info_data"]["mode"], mode);
        assert_eq!(
            status["net1"]["interfaces"]["eth0"]["mac_address"],
            link["address"]
        );
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
    }
    Ok(())
}

#[test]
fn modes_of_macvlan() {
    lab::run(|host| {
        modes(
            host,
            "macvlan",
            &["bridge", "private", "vepa", "passthru", "source"],
        )
    });
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_modes_of_ipvlan() {
    lab::run(|host| modes(host, "ipvlan", &["l2", "l3", "l3s"]));
}

/// Two containers in a mode, and the gateway; they leave in the end.
fn pair(
    host: &Host,
    driver: &str,
    mode: &str,
    check: impl FnOnce(&Netns, &Netns, &Netns) -> Result<()>,
) -> Result<()> {
    let scene = Scene::new(host)?;
    let lan = lan(host)?;
    let before = scene.snapshot()?;
    let network = network(driver).option("mode", mode);
    let (first, one, _) = start(&scene, &network, 2)?;
    let (second, two, _) = start(&scene, &network, 3)?;
    check(&first, &second, &lan)?;
    scene.teardown(&first, &one)?;
    scene.teardown(&second, &two)?;
    scene.assert_same_as(&before);
    Ok(())
}

#[test]
fn traffic_in_mode_bridge() {
    lab::run(|host| {
        pair(host, "macvlan", "bridge", |first, second, lan| {
            reach_gateway(&[first, second])?;
            meet(first, second)?;
            for address in ["10.70.1.2", "fd70:1::3"] {
                reaches(lan, address)?;
                is_cut_off(host, address)?;
            }
            Ok(())
        })
    });
}

#[test]
fn traffic_in_mode_private() {
    lab::run(|host| {
        pair(host, "macvlan", "private", |first, second, lan| {
            lan.sh("bridge link set dev port hairpin on")?;
            reach_gateway(&[first, second])?;
            reaches(lan, "fd70:1::3")?;
            do_not_meet(first, second)
        })
    });
}

#[test]
fn traffic_in_mode_vepa() {
    lab::run(|host| {
        pair(host, "macvlan", "vepa", |first, second, lan| {
            reach_gateway(&[first, second])?;
            do_not_meet(first, second)?;
            lan.sh("bridge link set dev port hairpin on")?;
            meet(first, second)
        })
    });
}

#[test]
fn traffic_in_mode_source() {
    lab::run(|host| {
        pair(host, "macvlan", "source", |first, second, _| {
            is_cut_off(first, "10.70.1.1")?;
            for container in [first, second] {
                container.sh("ip link set dev eth0 type macvlan macaddr add 02:00:00:00:00:99")?;
            }
            reach_gateway(&[first, second])?;
            do_not_meet(first, second)
        })
    });
}

/// There is room for one, which has the MAC address of the parent.
#[test]
fn traffic_in_mode_passthru() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let lan = lan(host)?;
        let before = scene.snapshot()?;
        let network = network("macvlan").option("mode", "passthru");
        let parent = mac_of(host, "up0")?;
        let wanted = json!({"static_mac": "02:11:22:33:44:55"});
        let first = host.container("c2")?;
        let one = Request::new("c2").on_with(&network, 2, &wanted);
        let status = scene.setup(&first, &one)?;
        assert_eq!(
            status["net1"]["interfaces"]["eth0"]["mac_address"],
            parent.as_str()
        );
        reach_gateway(&[&first])?;
        reaches(&lan, "fd70:1::2")?;
        let occupied = scene.snapshot()?;
        let second = host.container("c3")?;
        let refused = scene.fails("setup", second.path(), &Request::new("c3").on(&network, 3))?;
        ensure!(
            refused.starts_with("network \"net1\": create macvlan interface: Netlink error: "),
            "{refused}"
        );
        scene.assert_same_as(&occupied);
        reach_gateway(&[&first])?;
        scene.teardown(&first, &one)?;
        assert_eq!(mac_of(host, "up0")?, parent);
        scene.assert_same_as(&before);
        Ok(())
    });
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_traffic_in_mode_l2() {
    lab::run(|host| {
        pair(host, "ipvlan", "l2", |first, second, lan| {
            reach_gateway(&[first, second])?;
            meet(first, second)?;
            for address in ["10.70.1.2", "fd70:1::3"] {
                reaches(lan, address)?;
                is_cut_off(host, address)?;
            }
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_traffic_in_mode_l3() {
    lab::run(|host| {
        pair(host, "ipvlan", "l3", |first, second, lan| {
            routed(host, first, second, lan)
        })
    });
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_traffic_in_mode_l3s() {
    lab::run(|host| {
        pair(host, "ipvlan", "l3s", |first, second, lan| {
            routed(host, first, second, lan)
        })
    });
}

/// Behind a router nobody answers broadcasts, so the gateway has to know the way, and the host has to know the gateway.
fn routed(host: &Host, first: &Netns, second: &Netns, lan: &Netns) -> Result<()> {
    let parent = mac_of(host, "up0")?;
    for address in ["10.70.1.2", "10.70.1.3", "fd70:1::2", "fd70:1::3"] {
        lan.sh(&format!("ip neigh add {address} lladdr {parent} dev sw"))?;
    }
    host.sh("ip addr add 10.70.1.200/24 dev up0; ip addr add fd70:1::200/64 dev up0 nodad")?;
    meet(first, second)?;
    for address in ["10.70.1.2", "fd70:1::3"] {
        reaches(lan, address)?;
    }
    reach_gateway(&[first, second])?;
    host.sh("ip addr flush dev up0 scope global")?;
    Ok(())
}

/// The name that is wanted inside means nothing outside: older kernels mind it being taken there.
fn same_name_on_the_host(host: &Host, driver: &str) -> Result<()> {
    let scene = Scene::new(host)?;
    let _lan = lan(host)?;
    host.sh("ip link set up0 down; ip link set up0 name eth0; ip link set eth0 up")?;
    let before = scene.snapshot()?;
    let network = network(driver).set("network_interface", "eth0");
    let (container, request, _) = start(&scene, &network, 2)?;
    reach_gateway(&[&container])?;
    assert_eq!(container.sh("ip -br link | wc -l")?.trim(), "2");
    scene.teardown(&container, &request)?;
    scene.assert_same_as(&before);
    Ok(())
}

#[test]
fn same_name_on_the_host_of_macvlan() {
    lab::run(|host| same_name_on_the_host(host, "macvlan"));
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_same_name_on_the_host_of_macvlan() {
    lab::run(|host| same_name_on_the_host(host, "macvlan"));
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_same_name_on_the_host_of_ipvlan() {
    lab::run(|host| same_name_on_the_host(host, "ipvlan"));
}

#[test]
fn same_name_in_the_container_of_macvlan() {
    lab::run(|host| same_name_in_the_container(host, "macvlan"));
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_same_name_in_the_container_of_ipvlan() {
    lab::run(|host| same_name_in_the_container(host, "ipvlan"));
}

fn same_name_in_the_container(host: &Host, driver: &str) -> Result<()> {
    let scene = Scene::new(host)?;
    let _lan = lan(host)?;
    host.sh("ip link set up0 down; ip link set up0 name eth0; ip link set eth0 up")?;
    let before = scene.snapshot()?;
    let network = network(driver).set("network_interface", "eth0");
    let (container, request, _) = start(&scene, &network, 2)?;
    let attached = (scene.snapshot()?, container.sh("ip -o link")?);
    for request in [&request, &Request::new("other").on(&network, 3)] {
        assert_eq!(
            scene.fails("setup", container.path(), request)?,
            format!(
                "network \"net1\": create {driver} interface: interface eth0 already exists on container namespace: Netlink error: File exists (os error 17)"
            )
        );
        assert_eq!(container.sh("ip -o link")?, attached.1);
        scene.assert_same_as(&attached.0);
    }
    scene.teardown(&container, &request)?;
    scene.assert_same_as(&before);
    Ok(())
}

#[test]
fn the_parent() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let on = |network: &Network| Request::new("c1").on(network, 2);
        let none = network("macvlan").set("network_interface", "");
        let before = scene.snapshot()?;
        let refused = scene.fails("setup", container.path(), &on(&none))?;
        ensure!(
            refused.starts_with("network \"net1\": failed to get default route interface"),
            "{refused}"
        );
        assert_eq!(
            scene.fails("setup", container.path(), &on(&network("macvlan")))?,
            "network \"net1\": parent interface up0 does not exist"
        );
        let unfit = network("macvlan").set("network_interface", "lo");
        let refused = scene.fails("setup", container.path(), &on(&unfit))?;
        assert_eq!(
            refused,
            "network \"net1\": create macvlan interface: Netlink error: Invalid argument (os error 22)"
        );
        scene.assert_same_as(&before);
        let _lan = lan(host)?;
        host.sh("ip addr add 10.70.1.200/24 dev up0; ip route add default via 10.70.1.1")?;
        let before = scene.snapshot()?;
        scene.setup(&container, &on(&none))?;
        reach_gateway(&[&container])?;
        scene.teardown(&container, &on(&none))?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// With the namespace everything is gone; what is on record goes with the teardown, or with the next setup.
#[test]
fn the_namespace_is_gone() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let lan = lan(host)?;
        let before = scene.snapshot()?;
        let network = network("macvlan");
        let (container, request, _) = start(&scene, &network, 2)?;
        drop(container);
        let program = scene.program(&["teardown"], "/run/netns/c2".as_ref(), request.json());
        silent(&program.run_in(host)?)?;
        scene.assert_same_as(&before);
        for _ in 0..5 {
            // It has its MAC address again, while the kernel is still busy with the former namespace.
            let (container, _, _) = start(&scene, &network, 2)?;
            reaches(&lan, "10.70.1.2")?;
            drop(container);
        }
        silent(&program.run_in(host)?)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// A bridge and a link on top of another one in the same call: all or nothing, and the way out is the latter.
#[test]
fn together_with_a_bridge() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let _lan = lan(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let bridge = Network::new(2).dns();
        for unfit in [
            network("macvlan").set("network_interface", "lo"),
            network("macvlan").option("mtu", "100000"),
            network("macvlan").set(
                "routes",
                json!([{"destination": "10.5.0.0/24", "gateway": "10.9.9.9"}]),
            ),
        ] {
            for request in [
                Request::new("c1").on(&bridge, 2).on(&unfit, 2),
                Request::new("c1").on(&unfit, 2).on(&bridge, 2),
            ] {
                let request = request.publish("", 8080, 80, "tcp").in_array_form();
                scene.fails("setup", container.path(), &request)?;
                scene.assert_same_as(&before);
                assert_eq!(container.sh("ip -br link | wc -l")?.trim(), "1");
            }
        }
        let request = Request::new("c1").on(&bridge, 2).on(&network("macvlan"), 2);
        let status = scene.setup(&container, &request)?;
        assert_eq!(status.as_object().map(serde_json::Map::len), Some(2));
        let routes = container.sh("ip route show default")?;
        let metrics: Vec<_> = routes.lines().map(str::trim).collect();
        assert_eq!(
            metrics,
            [
                "default via 10.70.1.1 dev eth1 proto static metric 99",
                "default via 10.70.2.1 dev eth0 proto static metric 100",
            ]
        );
        reach_gateway(&[&container])?;
        reaches(host, "10.70.2.2")?;
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// `network connect` and `disconnect`: each network comes and goes by itself.
#[test]
fn one_after_the_other() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let _lan = lan(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let bridge = Request::new("c1").on(&Network::new(2), 2);
        let wanted = json!({"interface_name": "eth1"});
        let macvlan = Request::new("c1").on_with(&network("macvlan"), 2, &wanted);
        for (first, second) in [(&bridge, &macvlan), (&macvlan, &bridge)] {
            scene.setup(&container, first)?;
            scene.setup(&container, second)?;
            reach_gateway(&[&container])?;
            reaches(host, "10.70.2.2")?;
            scene.teardown(&container, first)?;
            assert_eq!(container.sh("ip -br link | wc -l")?.trim(), "2");
            scene.teardown(&container, second)?;
            scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// A link that somebody has deleted, or moved elsewhere, does not keep the container from leaving or from coming again.
#[test]
fn the_link_is_gone() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let _lan = lan(host)?;
        let before = scene.snapshot()?;
        let (container, request, _) = start(&scene, &network("macvlan"), 2)?;
        container.sh("ip link del eth0")?;
        scene.setup(&container, &request)?;
        reach_gateway(&[&container])?;
        container.sh("ip link del eth0")?;
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        // The wire goes, and every link on top of it.
        scene.setup(&container, &request)?;
        host.sh("ip link del up0")?;
        assert_eq!(container.sh("ip -br link | wc -l")?.trim(), "1");
        scene.teardown(&container, &request)?;
        ensure!(!scene.config.join("netbackend").exists());
        Ok(())
    });
}

/// Without a record (the state directory is gone, or netavark attached the container) the request has to do.
#[test]
fn the_record_is_gone() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let _lan = lan(host)?;
        let before = scene.snapshot()?;
        let routes = json!([{"destination": "10.91.0.0/24", "route_type": "blackhole"}]);
        let network = network("macvlan").set("routes", routes);
        let (container, request, _) = start(&scene, &network, 2)?;
        std::fs::remove_dir_all(scene.config.join("netbackend"))?;
        scene.teardown(&container, &request)?;
        let left = container.sh("ip -o link; ip route")?;
        assert_eq!(left.lines().count(), 1, "{left}");
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// Where nobody asks DHCP servers, the error says so, and nothing is left.
#[test]
fn dhcp_without_a_proxy() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let _lan = lan(host)?;
        host.sh("ip link add br1 address 02:00:00:00:00:98 type bridge; ip link set br1 up")?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let dhcp = json!({"driver": "dhcp"});
        let bridge = Network::new(1).set("ipam_options", dhcp.clone());
        let unmanaged = bridge.clone().option("mode", "unmanaged");
        for network in [
            network("macvlan").set("ipam_options", dhcp.clone()),
            unmanaged,
        ] {
            let network = network.set("subnets", Value::Null);
            let request = Request::new("c1").on(&network, 2);
            assert_eq!(
                scene.fails("setup", container.path(), &request)?,
                "unable to obtain lease: socket \"/run/podman/nv-proxy.sock\": No such file or directory (os error 2), is the netavark-dhcp-proxy.socket unit enabled?"
            );
            assert_eq!(container.sh("ip -br link | wc -l")?.trim(), "1");
            scene.assert_same_as(&before);
        }
        assert_eq!(
            scene.fails(
                "setup",
                container.path(),
                &Request::new("c1").on(&bridge, 2)
            )?,
            "network \"net1\": cannot use dhcp ipam driver without using the option mode=unmanaged"
        );
        let ipvlan = network("ipvlan").set("ipam_options", dhcp);
        assert_eq!(
            scene.fails(
                "setup",
                container.path(),
                &Request::new("c1").on(&ipvlan, 2)
            )?,
            "network \"net1\": ipam driver dhcp is not supported with ipvlan"
        );
        Ok(())
    });
}
