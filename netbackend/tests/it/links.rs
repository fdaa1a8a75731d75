//! What a container and the host get: interfaces, addresses, routes and kernel settings.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_fixtures::netns::Netns;

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene, mac_of};
use crate::traffic::{pings, resolves};

/// A field of `ip -json link show`.
fn link(netns: &Netns, name: &str, field: &str) -> Result<Value> {
    let links: Value =
        serde_json::from_str(&netns.sh(&format!("ip -json -details link show {name}"))?)?;
    Ok(links[0][field].clone())
}

fn mtu(netns: &Netns, name: &str) -> Result<u64> {
    link(netns, name, "mtu")?
        .as_u64()
        .context("an MTU is a number")
}

/// A container `c1` on this network, as host 2.
fn on(scene: &Scene<'_>, network: &Network) -> Result<(Netns, Request, Value)> {
    let container = scene.host.container("c1")?;
    let request = Request::new("c1").on(network, 2);
    let status = scene.setup(&container, &request)?;
    Ok((container, request, status))
}

#[test]
fn interfaces_are_as_the_reply_says() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (container, _, status) = on(&scene, &Network::new(1))?;
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
        for (netns, name, kind) in [
            (&**host, "br1", "bridge"),
            (host, "veth0", "veth"),
            (&container, "eth0", "veth"),
        ] {
            assert_eq!(link(netns, name, "linkinfo")?["info_kind"], kind);
            ensure!(
                link(netns, name, "flags")?.to_string().contains("\"UP\""),
                "{name} is down"
            );
        }
        assert_eq!(link(host, "veth0", "master")?, "br1");
        let addresses = host.sh("ip -br addr show br1")?;
        ensure!(
            addresses.contains("10.70.1.1/24") && addresses.contains("fd70:1::1/64"),
            "{addresses}"
        );
        ensure!(host.sh("ip -4 addr show br1")?.contains("brd 10.70.1.255"));
        ensure!(container.sh("ip -br link show lo")?.contains("UP"));
        Ok(())
    });
}

/// The bridge keeps its MAC address when the port comes and goes that has the lowest one: neighbours know the gateway by
/// it.
#[test]
fn the_bridge_keeps_its_mac_address() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let network = Network::v4(1);
        let (_container, _, _) = on(&scene, &network)?;
        let mac = mac_of(host, "br1")?;
        ensure!(
            mac != mac_of(host, "veth0")?,
            "the bridge has the address of its port"
        );
        host.sh(
            "ip link add low type dummy 2>/dev/null || ip link add low type veth peer name low2
             ip link set low address 02:00:00:00:00:00 master br1 up",
        )?;
        assert_eq!(mac_of(host, "br1")?, mac);
        host.sh("ip link del low")?;
        assert_eq!(mac_of(host, "br1")?, mac);
        let second = host.container("c2")?;
        let request = Request::new("c2").on(&network, 3);
        scene.setup(&second, &request)?;
        assert_eq!(mac_of(host, "br1")?, mac);
        scene.teardown(&second, &request)?;
        assert_eq!(mac_of(host, "br1")?, mac);
        Ok(())
    });
}

/// The last container takes the bridge with it, but not a port of somebody else, nor the bridge under it.
#[test]
fn a_port_of_somebody_else_keeps_the_bridge() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let network = Network::v4(1);
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&network, 2);
        scene.setup(&container, &request)?;
        host.sh(
            "ip link add theirs type veth peer name theirs2 && ip link set theirs master br1 up",
        )?;
        scene.teardown(&container, &request)?;
        let links = host.sh("ip -br link show")?;
        ensure!(!links.contains("veth0"), "{links}");
        assert_eq!(link(host, "theirs", "master")?, "br1");
        host.sh("ip link del theirs")?;
        scene.setup(&container, &request)?;
        scene.teardown(&container, &request)?;
        let links = host.sh("ip -br link show")?;
        ensure!(!links.contains("veth0"), "{links}");
        Ok(())
    });
}

/// Who waits until the kernel has done away with links is not who called: the engine's pipes end with the call.
#[test]
fn who_waits_for_the_kernel_holds_no_pipe() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&Network::v4(1), 2);
        scene.setup(&container, &request)?;
        let log = host.dir("strace")?.join("log");
        let call = scene.program(&["teardown"], container.path(), request.json());
        let strace = ["strace", "-f", "-qq", "-e", "trace=close,sendto", "-o"].map(OsString::from);
        call.under(strace.into_iter().chain([log.clone().into()]))
            .run_in(host)?;
        let log = fs::read_to_string(log)?;
        let lines = || log.lines().filter_map(|line| line.split_once(' '));
        let (caller, _) = lines().next().context("a line")?;
        let asks = lines().find(|(who, call)| *who != caller && call.contains("sendto("));
        let (asker, _) = asks.with_context(|| log.clone())?;
        for standard in 0..=2 {
            let closed = format!("close({standard}"); // or unfinished
            let closes =
                |(who, call): (&str, &str)| who == asker && call.trim().starts_with(&closed);
            ensure!(lines().any(closes), "{log}");
        }
        Ok(())
    });
}

#[test]
fn names_and_addresses_that_were_asked_for() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let wanted = json!({
            "interface_name": "lan7",
            "static_mac": "02-11-22-33-44-55",
            "static_ips": ["10.70.1.20", "fd70:1::20", "10.70.1.21", "fd70:1::21"],
            "options": {"host_interface_name": "outer7"},
        });
        let request = Request::new("c1").on_with(&Network::new(1), 2, &wanted);
        let status = scene.setup(&container, &request)?;
        let interface = &status["net1"]["interfaces"]["lan7"];
        assert_eq!(interface["mac_address"], "02:11:22:33:44:55");
        assert_eq!(mac_of(&container, "lan7")?, "02:11:22:33:44:55");
        assert_eq!(link(host, "outer7", "master")?, "br1");
        // Subnets outer, addresses inner.
        let order = [
            "10.70.1.20/24",
            "10.70.1.21/24",
            "fd70:1::20/64",
            "fd70:1::21/64",
        ];
        let given: Vec<_> = interface["subnets"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|subnet| subnet["ipnet"].as_str().unwrap_or_default())
            .collect();
        assert_eq!(given, order);
        for address in ["10.70.1.20", "10.70.1.21", "fd70:1::20", "fd70:1::21"] {
            pings(host, address)?;
        }
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

#[test]
fn kernel_settings() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (container, ..) = on(&scene, &Network::new(1))?;
        let inside = host.container("inside")?;
        scene.setup(
            &inside,
            &Request::new("inside").on(&Network::new(2).internal(), 2),
        )?;
        let cases = [
            (&**host, "ipv4/ip_forward", "1"),
            (host, "ipv6/conf/all/forwarding", "1"),
            (host, "ipv4/conf/br1/route_localnet", "1"),
            (host, "ipv4/conf/br1/rp_filter", "2"),
            (host, "ipv6/conf/br1/accept_dad", "0"),
            (host, "ipv6/conf/br1/accept_ra", "0"),
            (host, "ipv6/conf/veth0/accept_dad", "0"),
            (&container, "ipv4/conf/eth0/rp_filter", "2"),
            (&container, "ipv4/conf/eth0/arp_notify", "1"),
            (&container, "ipv6/conf/eth0/accept_dad", "0"),
            (&container, "ipv6/conf/eth0/autoconf", "0"),
            (host, "ipv4/conf/br2/forwarding", "0"),
            (host, "ipv4/conf/br2/route_localnet", "0"),
            (host, "ipv6/conf/br2/forwarding", "0"),
            (host, "ipv4/conf/br2/rp_filter", "2"),
        ];
        for (netns, key, value) in cases {
            assert_eq!(netns.sysctl(key)?.as_deref(), Some(value), "{key}");
        }
        Ok(())
    });
}

/// Where systemd would override the settings of a new bridge, a file tells it not to.
#[test]
fn sysctl_file() {
    lab::run(|host| {
        fs::create_dir_all("/run/systemd/system")?;
        fs::create_dir("/run/sysctl.d")?;
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let file = || fs::read_to_string("/run/sysctl.d/10-netavark-br1.conf");
        let expected = "# autogenerated by netavark\n\
                        net/ipv4/ip_forward = 1\n\
                        net/ipv6/conf/all/forwarding = 1\n\
                        net/ipv4/conf/br1/route_localnet = 1\n\
                        net/ipv6/conf/br1/accept_dad = 0\n\
                        net/ipv6/conf/br1/accept_ra = 0\n\
                        net/ipv4/conf/br1/rp_filter = 2\n";
        let network = Network::new(1);
        let (first, one, _) = on(&scene, &network)?;
        assert_eq!(file()?, expected);
        let second = host.container("c2")?;
        let two = Request::new("c2").on(&network, 3);
        scene.setup(&second, &two)?;
        scene.teardown(&first, &one)?;
        assert_eq!(file()?, expected);
        scene.teardown(&second, &two)?;
        scene.assert_same_as(&before);
        drop(first);
        // Internal networks have one, too, and it goes as well.
        let (container, request, _) = on(&scene, &Network::v4(1).internal())?;
        assert_eq!(
            file()?,
            "# autogenerated by netavark\nnet/ipv4/conf/br1/forwarding = 0\nnet/ipv4/conf/br1/rp_filter = 2\n"
        );
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// Settings are only written where they differ: it does not matter then that they cannot be.
#[test]
fn read_only_settings() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&Network::v4(1), 2);
        host.sh("mount -o bind,ro /proc/sys /proc/sys")?;
        assert_eq!(
            scene.fails("setup", container.path(), &request)?,
            "network \"net1\": set sysctl net/ipv4/ip_forward: IO error: Read-only file system (os error 30)"
        );
        host.sh("umount /proc/sys")?;
        host.set_sysctl("ipv4/ip_forward", "1")?;
        host.set_sysctl("ipv4/conf/default/route_localnet", "1")?;
        for netns in [&**host, &container] {
            netns.set_sysctl("ipv4/conf/default/rp_filter", "2")?;
            netns.set_sysctl("ipv4/conf/default/arp_notify", "1")?;
        }
        host.sh("mount -o bind,ro /proc/sys /proc/sys")?;
        scene.setup(&container, &request)?;
        pings(host, "10.70.1.2")?;
        scene.teardown(&container, &request)
    });
}

#[test]
fn metrics_of_default_routes() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        for (network, metric) in [
            (Network::new(1), 100),
            (Network::new(1).option("metric", "200"), 200),
        ] {
            let (container, request, _) = on(&scene, &network)?;
            for (family, gateway) in [("-4", "10.70.1.1"), ("-6", "fd70:1::1")] {
                let route = container.sh(&format!("ip {family} route show default"))?;
                let expected =
                    format!("default via {gateway} dev eth0 proto static metric {metric}");
                ensure!(route.starts_with(&expected), "{route}");
            }
            scene.teardown(&container, &request)?;
        }
        Ok(())
    });
}

#[test]
fn no_default_route() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        for value in ["true", "1"] {
            let network = Network::new(1).option("no_default_route", value);
            let (container, request, _) = on(&scene, &network)?;
            ensure!(
                container
                    .sh("ip route show default; ip -6 route show default")?
                    .is_empty()
            );
            pings(host, "10.70.1.2")?;
            scene.teardown(&container, &request)?;
        }
        Ok(())
    });
}

#[test]
fn static_routes() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let routes = json!([
            {"destination": "10.89.0.0/24", "gateway": "10.70.1.77"},
            {"destination": "10.90.0.0/24", "gateway": "10.70.1.78", "metric": 7},
            {"destination": "fd89::/64", "gateway": "fd70:1::77"},
            {"destination": "10.91.0.0/24", "route_type": "blackhole"},
            {"destination": "10.92.0.0/24", "route_type": "unreachable", "metric": 9},
            {"destination": "fd91::/64", "route_type": "prohibit"},
        ]);
        let expected = [
            (
                "-4",
                "10.89.0.0/24 via 10.70.1.77 dev eth0 proto static metric 100",
            ),
            (
                "-4",
                "10.90.0.0/24 via 10.70.1.78 dev eth0 proto static metric 7",
            ),
            (
                "-6",
                "fd89::/64 via fd70:1::77 dev eth0 proto static metric 100",
            ),
            ("-4", "blackhole 10.91.0.0/24 proto static metric 100"),
            ("-4", "unreachable 10.92.0.0/24 proto static metric 9"),
            ("-6", "prohibit fd91::/64 dev lo proto static metric 100"),
        ];
        for network in [Network::new(1), Network::new(1).internal()] {
            let (container, request, _) = on(&scene, &network.set("routes", routes.clone()))?;
            let all = || container.sh("ip -4 route; ip -6 route");
            let present = all()?;
            for (family, route) in expected {
                ensure!(
                    container.sh(&format!("ip {family} route"))?.contains(route),
                    "no {route} in\n{present}"
                );
            }
            scene.teardown(&container, &request)?;
            ensure!(all()?.is_empty(), "left over:\n{}", all()?);
        }
        Ok(())
    });
}

/// A route through another network of the same container.
#[test]
fn static_route_through_another_network() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let routes = json!([{"destination": "10.89.0.0/24", "gateway": "10.70.1.77"}]);
        let request = Request::new("c1")
            .on(&Network::v4(1), 2)
            .on(&Network::v4(2).set("routes", routes), 2);
        scene.setup(&container, &request)?;
        let route = container.sh("ip route show 10.89.0.0/24")?;
        ensure!(route.contains("via 10.70.1.77 dev eth0"), "{route}");
        scene.teardown(&container, &request)
    });
}

/// What was asked for, else what the bridge has, else what the way out has.
#[test]
fn mtus() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (container, request, _) = on(&scene, &Network::v4(1))?;
        assert_eq!(
            (
                mtu(host, "br1")?,
                mtu(host, "veth0")?,
                mtu(&container, "eth0")?
            ),
            (1500, 1500, 1500)
        );
        scene.teardown(&container, &request)?;
        drop(container);

        let _outside = host.outside()?;
        host.sh("ip link set uplink mtu 1400")?;
        let (container, request, _) = on(&scene, &Network::v4(1))?;
        assert_eq!(
            (mtu(host, "veth0")?, mtu(&container, "eth0")?),
            (1400, 1400)
        );
        scene.teardown(&container, &request)?;
        drop(container);

        let chosen = Network::v4(1).option("mtu", "1300");
        let (container, request, _) = on(&scene, &chosen)?;
        assert_eq!(
            (
                mtu(host, "br1")?,
                mtu(host, "veth0")?,
                mtu(&container, "eth0")?
            ),
            (1300, 1300, 1300)
        );
        // Without the option, the bridge decides; with another one, it stays as it is.
        let second = host.container("c2")?;
        let two = Request::new("c2").on(&Network::v4(1), 3);
        scene.setup(&second, &two)?;
        assert_eq!((mtu(host, "br1")?, mtu(&second, "eth0")?), (1300, 1300));
        scene.teardown(&second, &two)?;
        let two = Request::new("c2").on(&Network::v4(1).option("mtu", "1280"), 3);
        scene.setup(&second, &two)?;
        assert_eq!((mtu(host, "veth0")?, mtu(&second, "eth0")?), (1300, 1280));
        scene.teardown(&second, &two)?;
        scene.teardown(&container, &request)
    });
}

/// A bridge that exists is used as it is and stays.
#[test]
fn a_bridge_that_exists() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        host.sh(
            "ip link add br1 address 02:00:00:00:00:77 type bridge; ip link set br1 mtu 1350
             ip addr add 10.70.1.1/24 dev br1; ip link set br1 up",
        )?;
        let before = scene.snapshot()?;
        let (container, request, _) = on(&scene, &Network::v4(1))?;
        assert_eq!(mtu(&container, "eth0")?, 1350);
        assert_eq!(mac_of(host, "br1")?, "02:00:00:00:00:77");
        pings(host, "10.70.1.2")?;
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// In unmanaged mode, nothing but a port is added to the host, also with names.
#[test]
fn unmanaged_bridges_are_left_alone() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        host.sh(
            "ip link add br1 address 02:00:00:00:00:77 type bridge
             ip addr add 10.70.1.5/24 dev br1; ip addr add fd70:1::5/64 dev br1 nodad; ip link set br1 up",
        )?;
        let before = scene.snapshot()?;
        let network = Network::new(1).option("mode", "unmanaged").dns();
        let (container, request, status) = on(&scene, &network)?;
        assert_eq!(
            status["net1"]["dns_server_ips"],
            json!(["10.70.1.5", "fd70:1::5"])
        );
        resolves(&container, "10.70.1.5", "c1", "A", "10.70.1.2")?;
        let rules = host.sh("nft list ruleset")?;
        ensure!(rules.is_empty(), "{rules}");
        assert_eq!(host.sysctl("ipv4/ip_forward")?.as_deref(), Some("0"));
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// The array form's order is that of the interfaces, whatever they are called.
#[test]
fn order_of_networks() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let [one, two] = [1, 2].map(Network::v4);
        for (order, indexes) in [([&one, &two], [2, 3]), ([&two, &one], [2, 3])] {
            let container = host.container("c1")?;
            let request = Request::new("c1")
                .on(order[0], 2)
                .on(order[1], 2)
                .in_array_form();
            scene.setup(&container, &request)?;
            for (n, index) in indexes.into_iter().enumerate() {
                assert_eq!(link(&container, &format!("eth{n}"), "ifindex")?, index);
            }
            let first = container.sh("ip -br -4 addr show eth0")?;
            let expected = request.json()["networks"][0]["static_ips"][0].clone();
            ensure!(
                first.contains(expected.as_str().unwrap_or_default()),
                "{first}"
            );
            scene.teardown(&container, &request)?;
            scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// A host with IPv6 switched off is told so.
#[test]
fn ipv6_switched_off() {
    lab::run(|host: &Host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        for (netns, to, address) in [
            (&**host, "bridge", "fd70:1::1/64 on br1"),
            (&container, "container", "fd70:1::2/64 on eth0"),
        ] {
            let before = scene.snapshot()?;
            netns.set_sysctl("ipv6/conf/default/disable_ipv6", "1")?;
            let error = scene.fails(
                "setup",
                container.path(),
                &Request::new("c1").on(&Network::new(1), 2),
            )?;
            assert_eq!(
                error,
                format!(
                    "network \"net1\": address {address}: add ip addr to {to}: failed to add ipv6 address, \
                     is ipv6 enabled in the kernel?: Netlink error: Permission denied (os error 13)"
                )
            );
            netns.set_sysctl("ipv6/conf/default/disable_ipv6", "0")?;
            scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// An IPv6 address works as soon as the reply is out: the first connection would choose another source, or none.
#[test]
fn ipv6_addresses_work_at_once() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        for number in 2..10 {
            let container = host.container(&format!("c{number}"))?;
            let request = Request::new(&format!("c{number}")).on(&Network::new(1), number);
            scene.setup(&container, &request)?;
            for (netns, link) in [(&**host, "br1"), (&container, "eth0")] {
                let waiting = netns.sh(&format!(
                    "ip -6 addr show dev {link} scope global tentative"
                ))?;
                ensure!(waiting.is_empty(), "{waiting}");
            }
        }
        Ok(())
    });
}
