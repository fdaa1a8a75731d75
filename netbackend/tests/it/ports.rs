//! Published ports: who reaches them, by which address, and as whom the container sees them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use test_fixtures::netns::Netns;
use test_fixtures::traffic::{any_v4, ask, serve};

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene};
use crate::traffic::{Protocol, Tcp, Udp, answers, at, closed, pings, servers};

/// Whether bridged packets go through the packet filter.
fn set_bridge_filter(host: &Host, value: &str) -> Result<()> {
    host.set_sysctl("bridge/bridge-nf-call-iptables", value)?;
    host.set_sysctl("bridge/bridge-nf-call-ip6tables", value)
}

/// A container on network 1 that publishes 8080 for its port 80, TCP and UDP, a neighbour, and one on network 2.
struct Published<'a> {
    host: &'a Host,
    outside: Netns,
    web: Netns,
    neighbour: Netns,
    stranger: Netns,
    _servers: Vec<test_fixtures::traffic::Server>,
}

impl<'a> Published<'a> {
    fn new(host: &'a Host, isolate: &str) -> Result<Self> {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let [one, two] = [1, 2].map(|number| Network::new(number).option("isolate", isolate));
        let [web, neighbour, stranger] =
            ["web", "neighbour", "stranger"].map(|n| host.container(n));
        let (web, neighbour, stranger) = (web?, neighbour?, stranger?);
        let request = Request::new("web")
            .on(&one, 2)
            .publish("", 8080, 80, "tcp")
            .publish("", 8080, 80, "udp");
        scene.setup(&web, &request)?;
        scene.setup(&neighbour, &Request::new("neighbour").on(&one, 3))?;
        scene.setup(&stranger, &Request::new("stranger").on(&two, 2))?;
        let mut running = servers(&web, Tcp, &[80], "web")?;
        running.extend(servers(&web, Udp, &[80], "web")?);
        Ok(Self {
            host,
            outside,
            web,
            neighbour,
            stranger,
            _servers: running,
        })
    }

    /// Everybody reaches the port at every address of the host that they have a way to.
    fn is_reached(&self, protocol: Protocol) -> Result<()> {
        let (v4, v6) = ("192.0.2.1:8080", "[2001:db8:5::1]:8080");
        let gateways = ("10.70.1.1", "fd70:1::1");
        let cases: &[(&Netns, &str, &str)] = &[
            (&self.outside, v4, Host::OUTSIDE_V4),
            (&self.outside, v6, Host::OUTSIDE_V6),
            (self.host, v4, Host::V4),
            (self.host, v6, Host::V6),
            (self.host, "127.0.0.1:8080", gateways.0),
            (self.host, "127.8.9.10:8080", gateways.0),
            (self.host, "10.70.1.1:8080", gateways.0),
            (self.host, "[fd70:1::1]:8080", gateways.1),
            // From the same network, the answer must come back by way of the host.
            (&self.web, v4, gateways.0),
            (&self.web, v6, gateways.1),
            (&self.web, "10.70.1.1:8080", gateways.0),
            (&self.neighbour, v4, gateways.0),
            (&self.neighbour, v6, gateways.1),
            (&self.stranger, v4, gateways.0),
            (&self.stranger, v6, gateways.1),
        ];
        for (from, to, peer) in cases {
            answers(from, protocol, to, "web", peer)?;
        }
        Ok(())
    }
}

#[test]
fn everybody_reaches_a_published_port() {
    lab::run(|host| {
        set_bridge_filter(host, "0")?;
        let published = Published::new(host, "false")?;
        published.is_reached(Tcp)?;
        published.is_reached(Udp)?;
        answers(host, Tcp, "[::1]:8080", "web", "fd70:1::1")?;
        answers(host, Udp, "[::1]:8080", "web", "fd70:1::1")
    });
}

#[test]
fn everybody_reaches_a_published_port_through_the_bridge_filter() {
    lab::run(|host| {
        set_bridge_filter(host, "1")?;
        let published = Published::new(host, "false")?;
        published.is_reached(Tcp)?;
        published.is_reached(Udp)?;
        // The bridge layer loses the answers to ::1, so nobody shall wait for them.
        for protocol in [Tcp, Udp] {
            let begin = Instant::now();
            let refused = ask(
                host,
                protocol,
                None,
                at("[::1]:8080"),
                Duration::from_secs(3),
            );
            ensure!(
                refused.is_err() && begin.elapsed() < Duration::from_secs(1),
                "{refused:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_published_port_is_reached_across_isolation() {
    lab::run(|host| {
        let published = Published::new(host, "strict")?;
        published.is_reached(Tcp)?;
        published.is_reached(Udp)?;
        let _servers = servers(&published.web, Tcp, &[81], "hidden")?;
        answers(
            &published.neighbour,
            Tcp,
            "10.70.1.2:81",
            "hidden",
            "10.70.1.3",
        )?;
        closed(&published.stranger, Tcp, "10.70.1.2:81")
    });
}

/// Ranges map port by port, in both families, and end where they end.
#[test]
fn ranges() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&Network::new(1), 2)
            .publish_range("", 8100, 5100, "tcp", 3)
            .publish_range("", 8200, 5200, "udp", 3);
        scene.setup(&container, &request)?;
        for (protocol, published, first) in [(Tcp, 8100, 5100), (Udp, 8200, 5200)] {
            for n in 0..3 {
                let tag = format!("port{n}");
                let _servers = servers(&container, protocol, &[first + n], &tag)?;
                let port = published + n;
                answers(
                    &outside,
                    protocol,
                    &format!("192.0.2.1:{port}"),
                    &tag,
                    Host::OUTSIDE_V4,
                )?;
                answers(
                    &outside,
                    protocol,
                    &format!("[2001:db8:5::1]:{port}"),
                    &tag,
                    Host::OUTSIDE_V6,
                )?;
            }
        }
        let _servers = servers(&container, Tcp, &[5099, 5103], "beyond")?;
        closed(&outside, Tcp, "192.0.2.1:8099")?;
        closed(&outside, Tcp, "192.0.2.1:8103")
    });
}

/// A host address takes the port at that address alone; 0.0.0.0 and :: are all addresses of one family.
#[test]
fn host_addresses() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        host.sh(
            "ip addr add 192.0.2.10/24 dev uplink; ip addr add 2001:db8:5::10/64 dev uplink nodad",
        )?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&Network::new(1), 2)
            .publish("192.0.2.10", 8001, 80, "tcp")
            .publish("2001:db8:5::10", 8002, 80, "tcp")
            .publish("0.0.0.0", 8003, 80, "tcp")
            .publish("::", 8004, 80, "tcp")
            .publish("192.0.2.10", 8005, 80, "udp")
            .publish("2001:db8:5::10", 8006, 80, "udp");
        scene.setup(&container, &request)?;
        let _servers = (
            servers(&container, Tcp, &[80], "c1")?,
            servers(&container, Udp, &[80], "c1")?,
        );
        let (v4, v6) = (
            ["192.0.2.1", "192.0.2.10"],
            ["[2001:db8:5::1]", "[2001:db8:5::10]"],
        );
        let cases = [
            (Tcp, 8001, vec![v4[1]]),
            (Tcp, 8002, vec![v6[1]]),
            (Tcp, 8003, v4.to_vec()),
            (Tcp, 8004, v6.to_vec()),
            (Udp, 8005, vec![v4[1]]),
            (Udp, 8006, vec![v6[1]]),
        ];
        for (protocol, port, open) in cases {
            for address in v4.into_iter().chain(v6) {
                let to = format!("{address}:{port}");
                let peer = if v4.contains(&address) {
                    Host::OUTSIDE_V4
                } else {
                    Host::OUTSIDE_V6
                };
                if open.contains(&address) {
                    answers(&outside, protocol, &to, "c1", peer)?;
                } else {
                    closed(&outside, protocol, &to)?;
                }
            }
        }
        Ok(())
    });
}

/// Makes the outside machine send packets for the host's loopback addresses, and the host accept them.
fn attack_loopback(host: &Host, outside: &Netns) -> Result<()> {
    outside.sh("ip addr del 127.0.0.1/8 dev lo
         ip route add 127.0.0.0/8 via 192.0.2.1 src 192.0.2.2")?;
    outside.set_sysctl("ipv4/conf/eth0/route_localnet", "1")?;
    host.set_sysctl("ipv4/conf/uplink/route_localnet", "1")
}

/// What is published on 127.0.0.1 is for the host alone, whatever neighbours send.
#[test]
fn loopback_ports_stay_on_the_host() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        attack_loopback(host, &outside)?;
        let container = host.container("c1")?;
        let _local = serve(host, Tcp, at("127.0.0.1:9"), "host")?;
        answers(&outside, Tcp, "127.0.0.1:9", "host", Host::OUTSIDE_V4)
            .context("the attack does not work, so it proves nothing")?;

        let request = Request::new("c1")
            .on(&Network::new(1), 2)
            .publish("127.0.0.1", 8443, 443, "tcp")
            .publish("::1", 8443, 443, "tcp")
            .publish("127.0.0.1", 8444, 444, "udp");
        scene.setup(&container, &request)?;
        let _servers = (
            servers(&container, Tcp, &[443, 81], "c1")?,
            servers(&container, Udp, &[444], "c1")?,
        );
        answers(host, Tcp, "127.0.0.1:8443", "c1", "10.70.1.1")?;
        answers(host, Udp, "127.0.0.1:8444", "c1", "10.70.1.1")?;
        // Sent to the loopback address by way of the host, to an address of the host, and to the container by a route.
        outside.sh(
            "ip route add 10.70.1.0/24 via 192.0.2.1; ip route add fd70:1::/64 via 2001:db8:5::1",
        )?;
        answers(&outside, Tcp, "10.70.1.2:81", "c1", Host::OUTSIDE_V4)?;
        for to in [
            "127.0.0.1:8443",
            "192.0.2.1:8443",
            "10.70.1.2:443",
            "[2001:db8:5::1]:8443",
            "[fd70:1::2]:443",
        ] {
            closed(&outside, Tcp, to)?;
        }
        for to in ["127.0.0.1:8444", "192.0.2.1:8444", "10.70.1.2:444"] {
            closed(&outside, Udp, to)?;
        }
        closed(&outside, Tcp, "127.0.0.1:9").context("a service of the host itself")
    });
}

/// The bridge accepts loopback addresses for the host's own sake; containers must not profit.
#[test]
fn containers_do_not_reach_the_loopback_of_the_host() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let request =
            Request::new("c1")
                .on(&Network::v4(1), 2)
                .publish("127.0.0.1", 8443, 443, "tcp");
        scene.setup(&container, &request)?;
        let _local = serve(host, Tcp, at("127.0.0.1:9"), "host")?;
        let _servers = servers(&container, Tcp, &[443], "c1")?;
        container.sh("ip addr del 127.0.0.1/8 dev lo
             ip route add 127.0.0.0/8 via 10.70.1.1 src 10.70.1.2")?;
        container.set_sysctl("ipv4/conf/eth0/route_localnet", "1")?;
        closed(&container, Tcp, "127.0.0.1:9")?;
        closed(&container, Tcp, "127.0.0.1:8443")
    });
}

/// UDP that goes on is not tied to whoever had the port before.
#[test]
fn running_udp_flows_follow_the_port() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let flow = |to: &str| {
            let from = Some(any_v4(5000));
            ask(&outside, Udp, from, at(to), Duration::from_secs(3)).map(|reply| reply.tag)
        };
        let to = "192.0.2.1:7000";
        let network = Network::v4(1);
        let _own = serve(host, Udp, any_v4(7000), "host")?;
        assert_eq!(flow(to)?, "host");

        let first = host.container("first")?;
        let published = |address| {
            Request::new("c1")
                .on(&network, address)
                .publish("", 7000, 70, "udp")
        };
        scene.setup(&first, &published(2))?;
        let server = servers(&first, Udp, &[70], "first")?;
        assert_eq!(flow(to)?, "first");

        // The container starts anew with another address.
        scene.teardown(&first, &published(2))?;
        drop((server, first));
        let second = host.container("second")?;
        scene.setup(&second, &published(3))?;
        let _server = servers(&second, Udp, &[70], "second")?;
        assert_eq!(flow(to)?, "second");

        scene.teardown(&second, &published(3))?;
        assert_eq!(flow(to)?, "host");
        Ok(())
    });
}

/// Connections of one container go on while others come and go, also while the table is written anew.
#[test]
fn established_connections_go_on() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let [stays, goes] = ["stays", "goes"].map(|name| host.container(name));
        let (stays, goes) = (stays?, goes?);
        let request = Request::new("stays")
            .on(&Network::new(1), 2)
            .publish("", 8080, 80, "tcp");
        scene.setup(&stays, &request)?;
        let _servers = (
            servers(&stays, Tcp, &[80], "stays")?,
            servers(&outside, Tcp, &[7], "outside")?,
        );
        let connect = |netns: &Netns, to: &str| {
            let to = at(to);
            netns
                .enter(|| TcpStream::connect(to).with_context(|| format!("cannot connect to {to}")))
        };
        let open = || -> Result<[TcpStream; 3]> {
            Ok([
                connect(&outside, "192.0.2.1:8080")?,
                connect(&outside, "[2001:db8:5::1]:8080")?,
                connect(&stays, "192.0.2.2:7")?,
            ])
        };
        let go_on = |connections: [TcpStream; 3]| -> Result<()> {
            for mut connection in connections {
                connection.set_read_timeout(Some(Duration::from_secs(3)))?;
                connection.write_all(b"still there?")?;
                let mut answer = [0; 64];
                ensure!(connection.read(&mut answer)? > 0, "the connection ended");
            }
            Ok(())
        };
        // On the same network, and on another one.
        for network in [1, 2].map(Network::new) {
            let other = Request::new("goes")
                .on(&network, 9)
                .publish("", 8090, 80, "tcp");
            let connections = open()?;
            scene.setup(&goes, &other)?;
            scene.teardown(&goes, &other)?;
            go_on(connections)?;
        }
        let other = Request::new("goes").on(&Network::new(2), 9);
        let connections = open()?;
        host.sh("nft flush table inet netavark")?;
        scene.setup(&goes, &other)?;
        go_on(connections)?;
        answers(&outside, Tcp, "192.0.2.1:8080", "stays", Host::OUTSIDE_V4)
    });
}

/// Replies leave by the way the request came, although the kernel is told to be strict about sources.
#[test]
fn two_networks_with_strict_reverse_path_filter() {
    lab::run(|host| {
        host.set_sysctl("ipv4/conf/all/rp_filter", "1")?;
        host.set_sysctl("ipv4/conf/default/rp_filter", "1")?;
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let container = host.container("c1")?;
        container.set_sysctl("ipv4/conf/all/rp_filter", "1")?;
        container.set_sysctl("ipv4/conf/default/rp_filter", "1")?;
        let request = Request::new("c1")
            .on(&Network::v4(1), 2)
            .on(&Network::v4(2), 2)
            .publish("", 8080, 80, "tcp");
        scene.setup(&container, &request)?;
        let _servers = servers(&container, Tcp, &[80], "c1")?;
        answers(&outside, Tcp, "192.0.2.1:8080", "c1", Host::OUTSIDE_V4)?;
        answers(host, Tcp, "192.0.2.1:8080", "c1", Host::V4)?;
        pings(host, "10.70.2.2")
    });
}

/// A container on an internal network and another one publishes on the other.
#[test]
fn internal_networks_publish_nothing() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let [closed_in, mixed] = ["closed", "mixed"].map(|name| host.container(name));
        let (closed_in, mixed) = (closed_in?, mixed?);
        let internal = Network::new(1).internal();
        let request = Request::new("closed")
            .on(&internal, 2)
            .publish("", 8080, 80, "tcp");
        scene.setup(&closed_in, &request)?;
        let request = Request::new("mixed")
            .on(&internal, 3)
            .on(&Network::new(2), 2)
            .publish("", 8090, 80, "tcp");
        scene.setup(&mixed, &request)?;
        let _servers = (
            servers(&closed_in, Tcp, &[80], "closed")?,
            servers(&mixed, Tcp, &[80], "mixed")?,
        );
        closed(&outside, Tcp, "192.0.2.1:8080")?;
        closed(host, Tcp, "127.0.0.1:8080")?;
        answers(&outside, Tcp, "192.0.2.1:8090", "mixed", Host::OUTSIDE_V4)?;
        answers(
            &outside,
            Tcp,
            "[2001:db8:5::1]:8090",
            "mixed",
            Host::OUTSIDE_V6,
        )
    });
}

/// Two containers cannot have the same port: the second is told, and nothing is left of it.
#[test]
fn a_port_that_is_taken() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let network = Network::v4(1);
        let [first, second] = ["first", "second"].map(|name| host.container(name));
        let (first, second) = (first?, second?);
        let request = |name, host| {
            Request::new(name)
                .on(&network, host)
                .publish("", 8080, 80, "tcp")
        };
        scene.setup(&first, &request("first", 2))?;
        let before = scene.snapshot()?;
        let error = scene.fails("setup", second.path(), &request("second", 3))?;
        ensure!(
            error.contains("8080/tcp: address already in use: container first"),
            "{error}"
        );
        scene.assert_same_as(&before);
        let _servers = servers(&first, Tcp, &[80], "first")?;
        answers(&outside, Tcp, "192.0.2.1:8080", "first", Host::OUTSIDE_V4)
    });
}
