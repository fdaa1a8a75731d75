//! Reading the host and configuring the guest, with the kernel's own tables in throw-away namespaces.

use anyhow::Result;
use test_fixtures::lab;
use test_fixtures::netns::Netns;
use usernet::cli::{self, Request};
use usernet::config::{Decision, Facts, HostRoute, decide};
use usernet::sys::guest::Guest;
use usernet::sys::{facts, guest};

/// An uplink `eth7` with two addresses of each family.
const UPLINK: &str = "
    ip link set lo up
    ip link add eth7 address 02:00:00:00:0e:07 type veth peer name far
    ip link set far up; ip link set eth7 up
    ip addr add 10.9.1.5/24 dev eth7; ip addr add 10.9.2.7/28 dev eth7
    ip -6 addr add 2001:db8:9::5/64 dev eth7 nodad; ip -6 addr add 2001:db8:9::6/64 dev eth7 nodad";

fn read(host: &Netns) -> Result<Facts> {
    host.enter(|| Ok(facts::read()?))
}

fn decided(line: &str, facts: &Facts) -> Result<Decision> {
    let Request::Run(options) = cli::parse(line.split_whitespace().map(Into::into))? else {
        anyhow::bail!("{line} runs nothing");
    };
    Ok(decide(&options, facts)?)
}

#[track_caller]
fn route<'a>(facts: &'a Facts, destination: &str) -> &'a HostRoute {
    let mut routes = facts.routes.iter();
    let found = routes.find(|route| route.destination.to_string() == destination);
    found.unwrap_or_else(|| panic!("no {destination} in {:?}", facts.routes))
}

#[test]
fn links_addresses_and_routes_of_the_host() {
    lab::run(|host| {
        host.sh(UPLINK)?;
        host.sh(
            "ip route add default via 10.9.1.1 metric 100 proto dhcp
             ip route add 192.0.2.0/24 via 10.9.1.3 table 77
             ip route add 198.51.100.0/24 nexthop via 10.9.1.3 weight 1 nexthop via 10.9.2.3 weight 5
             ip route add blackhole 203.0.113.0/24
             ip route add 100.64.0.0/10 via 172.31.0.1 dev eth7 onlink
             ip -6 addr add 2001:db8:9::7/64 dev eth7 nodad preferred_lft 0",
        )?;
        host.set_sysctl("ipv4/ip_local_port_range", "20000 30000")?;
        let facts = read(host)?;
        let link = facts.links.iter().find(|link| link.name == "eth7");
        let link = link.expect("the uplink is there");
        assert_eq!(link.mac, Some([2, 0, 0, 0, 14, 7]));
        assert!(!link.loopback && link.mtu == 1500);
        assert!(facts.links.iter().any(|link| link.loopback));
        let addresses = facts.addresses.iter();
        let own: Vec<_> = addresses
            .filter(|address| address.link == link.index)
            .map(|found| format!("{} {} {}", found.address, found.scope, found.deprecated))
            .collect();
        assert_eq!(
            own,
            [
                "10.9.1.5/24 0 false",
                "10.9.2.7/28 0 false",
                "2001:db8:9::7/64 0 true",
                "2001:db8:9::6/64 0 false",
                "2001:db8:9::5/64 0 false",
                "fe80::ff:fe00:e07/64 253 false",
            ]
        );
        let new = |age: Option<std::time::Duration>| age.is_some_and(|age| age.as_secs() < 60);
        let mut addresses = facts.addresses.iter();
        assert!(addresses.all(|address| new(address.age)), "{facts:?}");
        let default = route(&facts, "0.0.0.0/0");
        assert_eq!(default.metric, Some(100));
        assert_eq!((default.protocol, default.link), (16, Some(link.index)));
        assert_eq!(default.gateway, Some("10.9.1.1".parse()?));
        let several = route(&facts, "198.51.100.0/24");
        assert!(several.multipath);
        assert_eq!(several.gateway, Some("10.9.2.3".parse()?));
        assert_eq!(several.link, Some(link.index));
        assert_eq!(route(&facts, "203.0.113.0/24").kind, 6);
        assert!(route(&facts, "100.64.0.0/10").onlink);
        // Not the routes of another table.
        let mut routes = facts.routes.iter();
        assert!(routes.all(|route| route.destination.to_string() != "192.0.2.0/24"));
        assert_eq!(facts.ephemeral, Some((20000, 30000)));
        assert!(facts.ipv6);
        Ok(())
    });
}

#[test]
fn next_hop_objects_with_and_without_the_kernels_translation() {
    lab::run(|host| {
        host.sh(UPLINK)?;
        host.sh("ip nexthop add id 1 via 10.9.1.3 dev eth7
             ip nexthop add id 2 via 10.9.2.3 dev eth7
             ip nexthop add id 3 group 1,1/2,9
             ip route add 192.0.2.0/24 nhid 1; ip route add 198.51.100.0/24 nhid 3")?;
        for translation in ["1", "0"] {
            host.set_sysctl("ipv4/nexthop_compat_mode", translation)?;
            let facts = read(host)?;
            let one = route(&facts, "192.0.2.0/24");
            assert_eq!(one.gateway, Some("10.9.1.3".parse()?), "{translation}");
            assert!(one.link.is_some() && !one.multipath);
            let several = route(&facts, "198.51.100.0/24");
            assert_eq!(several.gateway, Some("10.9.2.3".parse()?), "{translation}");
            assert!(several.link.is_some() && several.multipath);
        }
        Ok(())
    });
}

#[test]
fn a_list_of_many_buffers_is_read_whole() {
    lab::run(|host| {
        host.sh(UPLINK)?;
        host.sh("for high in $(seq 0 19); do for low in $(seq 0 249); do
                 echo route add 172.16.$high.$low/32 via 10.9.1.3
             done; done | ip -batch -")?;
        let facts = read(host)?;
        let routes = facts.routes.iter();
        let many = routes.filter(|route| route.destination.prefix_len() == 32);
        assert_eq!(many.count(), 5000);
        Ok(())
    });
}

/// A guest with `eth7`, configured for `line` as decided on `host`; and what `ip` says of it at once.
fn configured(host: &Netns, guest: &Netns, line: &str) -> Result<(Guest, String)> {
    guest.sh("ip link add eth7 type veth peer name far; ip link set far up")?;
    let decision = decided(line, &read(host)?)?;
    let configured =
        guest.enter(|| Ok(guest::configure(&decision.config, decision.run.config_net)?))?;
    let shown =
        guest.sh("ip -o addr show dev eth7; ip -o link show dev eth7; ip -o link show lo")?;
    Ok((configured, shown))
}

/// The addresses in the order of the kernel.
fn addresses(shown: &str) -> Vec<&str> {
    let lines = shown.lines().map(str::split_whitespace);
    lines
        .filter_map(|mut words| {
            let family = words.nth(2)?;
            family.starts_with("inet").then(|| words.next()).flatten()
        })
        .collect()
}

#[test]
fn the_guest_is_as_the_host_and_at_once() {
    lab::run(|host| {
        host.sh(UPLINK)?;
        host.sh("ip route add default via 10.9.1.1 metric 100 proto dhcp
             ip route add 192.0.2.0/24 via 198.51.100.9 dev eth7 onlink
             ip route add 100.64.0.0/10 dev eth7 scope link
             ip -6 route add default via fe80::1 dev eth7")?;
        let guest = Netns::create("guest")?;
        let line = "--config-net --ns-mac-addr 02:00:00:00:00:99 --netns /x/y";
        let (configured, shown) = configured(host, &guest, line)?;
        assert!(!shown.contains("tentative"), "{shown}");
        assert!(shown.contains("link/ether 02:00:00:00:00:99"), "{shown}");
        assert!(shown.contains("mtu 65520"), "{shown}");
        assert!(shown.contains("<LOOPBACK,UP"), "{shown}");
        assert_eq!(
            addresses(&shown),
            [
                "10.9.1.5/24",
                "10.9.2.7/28",
                "2001:db8:9::6/64",
                "2001:db8:9::5/64",
                "fe80::ff:fe00:99/64"
            ]
        );
        assert_eq!(configured.link_local, Some("fe80::ff:fe00:99".parse()?));
        assert_eq!(configured.mac, Some([2, 0, 0, 0, 0, 0x99]));
        assert_eq!(configured.left_out, []);
        let routes = guest.sh("ip route show dev eth7; ip -6 route show dev eth7")?;
        let routes: Vec<_> = routes.lines().map(str::trim_end).collect();
        assert_eq!(
            routes,
            [
                "default via 10.9.1.1 proto dhcp metric 100",
                "10.9.1.0/24 proto kernel scope link src 10.9.1.5",
                "10.9.2.0/28 proto kernel scope link src 10.9.2.7",
                "100.64.0.0/10 scope link",
                "192.0.2.0/24 via 198.51.100.9 onlink",
                "2001:db8:9::/64 proto kernel metric 256 pref medium",
                "fe80::/64 proto kernel metric 256 pref medium",
                "default via fe80::1 metric 1024 pref medium",
            ]
        );
        // The link-local address comes back by itself after the link was down.
        guest.sh("ip link set eth7 down; ip link set eth7 up")?;
        let shown = guest.sh("ip -6 -o addr show dev eth7 scope link")?;
        assert!(shown.contains("fe80::ff:fe00:99/64"), "{shown}");
        Ok(())
    });
}

#[test]
fn local_mode_and_a_gateway_elsewhere() {
    lab::run(|host| {
        let guest = Netns::create("guest")?;
        let line = "--config-net -I eth7 -m 1400 -g 192.0.2.1 -n 24 -a 10.1.1.1 --netns /x/y";
        let (configured, shown) = configured(host, &guest, line)?;
        assert!(!shown.contains("tentative"), "{shown}");
        assert!(shown.contains("mtu 1400"), "{shown}");
        let own = addresses(&shown);
        assert_eq!(own.first(), Some(&"10.1.1.1/24"));
        assert_eq!(own.len(), 2, "{shown}");
        assert_eq!(configured.left_out, []);
        let routes = guest.sh("ip route show default; ip -6 route show default")?;
        assert!(
            routes.contains("default via 192.0.2.1 dev eth7"),
            "{routes}"
        );
        assert!(routes.contains("default via fe80::1 dev eth7"), "{routes}");
        Ok(())
    });
}

#[test]
fn ipv4_only_leaves_no_address_of_the_other_family() {
    lab::run(|host| {
        host.sh(UPLINK)?;
        host.sh("ip route add default via 10.9.1.1")?;
        let guest = Netns::create("guest")?;
        let (configured, shown) = configured(host, &guest, "--config-net -4 --netns /x/y")?;
        assert_eq!(addresses(&shown), ["10.9.1.5/24", "10.9.2.7/28"]);
        assert_eq!(configured.link_local, None);
        Ok(())
    });
}

#[test]
fn without_config_net_only_loopback_comes_up() {
    lab::run(|host| {
        host.sh(UPLINK)?;
        host.sh("ip route add default via 10.9.1.1")?;
        let guest = Netns::create("guest")?;
        let line = "--ns-mac-addr 02:00:00:00:00:99 --netns /x/y";
        let (configured, shown) = configured(host, &guest, line)?;
        assert_eq!(addresses(&shown), [""; 0]);
        assert!(shown.contains("state DOWN"), "{shown}");
        assert!(shown.contains("<LOOPBACK,UP"), "{shown}");
        assert_eq!(configured.mac, Some([2, 0, 0, 0, 0, 0x99]));
        Ok(())
    });
}
