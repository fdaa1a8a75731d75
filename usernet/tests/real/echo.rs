//! ping and traceroute.

use anyhow::{Context, Result, ensure};
use test_fixtures::lab;
use test_fixtures::lab::Host;
use test_fixtures::program::Program;

use crate::site::{MAP_GUEST, Site, call};

/// The guest's echoes are the host's, which must be allowed to.
fn allow(site: &Site<'_>) -> Result<()> {
    site.host
        .set_sysctl("ipv4/ping_group_range", "0 2147483647")
}

/// A network behind the machine outside, whose only other machine is called `beyond`.
fn beyond(site: &Site<'_>) -> Result<test_fixtures::netns::Netns> {
    let beyond = site.host.container("beyond")?;
    site.outside.sh(
        "ip link add inner type veth peer name eth0 netns /run/netns/beyond
         ip addr add 198.51.100.1/24 dev inner; ip addr add 2001:db8:51::1/64 dev inner nodad
         ip link set inner up
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0
         sysctl -qw net.ipv6.icmp.ratelimit=0",
    )?;
    beyond.sh("ip link set lo up; ip addr add 198.51.100.2/24 dev eth0
         ip addr add 2001:db8:51::2/64 dev eth0 nodad; ip link set eth0 up
         ip route add default via 198.51.100.1; ip route add default via 2001:db8:51::1
         sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")?;
    Ok(beyond)
}

/// With `-w`, ping sends until it has all answers, or fails; without it, it waits for the last one no longer than two
/// round trips.
#[test]
fn pings_of_all_sizes() {
    lab::run(|host| {
        for mtu in ["65520", "1500"] {
            let site = Site::with(host, &["--mtu", mtu])?;
            allow(&site)?;
            for at in [Host::OUTSIDE_V4, Host::OUTSIDE_V6, MAP_GUEST] {
                for size in ["0", "1", "56", "1472", "1473", "9000", "60000"] {
                    let ping = ["ping", "-n", "-c3", "-i0.01", "-w20", "-s", size, at];
                    call(&site.guest, &ping).with_context(|| format!("MTU {mtu}"))?;
                }
            }
            site.end()?;
        }
        Ok(())
    });
}

/// Many at once, each with its own identifier; and one with many sequence numbers.
#[test]
fn pings_side_by_side() {
    lab::run(|host| {
        let site = Site::new(host)?;
        allow(&site)?;
        let script = format!(
            "one() {{ ping -q -n -c5 -i0.05 -w20 $1 && echo answered; }}
             for i in $(seq 20); do one {} & one {} & done; wait",
            Host::OUTSIDE_V4,
            Host::OUTSIDE_V6
        );
        let said = site.guest.sh(&script)?;
        ensure!(said.matches("answered").count() == 40, "{said}");
        let flood = ["ping", "-q", "-n", "-f", "-c500", "-w20", Host::OUTSIDE_V4];
        call(&site.guest, &flood).map(drop)
    });
}

/// Who says that it is unreachable, and that the time to live was up, is seen by the guest.
#[test]
fn errors_come_back() {
    lab::run(|host| {
        let site = Site::new(host)?;
        allow(&site)?;
        let _beyond = beyond(&site)?;
        site.outside.sh(
            "ip route add unreachable 203.0.113.0/24; ip route add unreachable 2001:db8:bad::/48",
        )?;
        let check = |words: &[&str], expected: &str| -> Result<()> {
            // Several, since kernels limit how many errors they send.
            let ping = ["-n", "-c4", "-i0.5", "-W9"];
            let finished = Program::new("ping")
                .args([&ping, words].concat())
                .run_in(&site.guest)?;
            ensure!(finished.code() == Some(1), "{words:?}: {finished}");
            let told = |line: &str| expected.split("...").all(|part| line.contains(part));
            ensure!(finished.stdout.lines().any(told), "{words:?}: {finished}");
            Ok(())
        };
        check(
            &["-t1", "198.51.100.2"],
            "From 192.0.2.2...Time to live exceeded",
        )?;
        check(
            &["-t1", "2001:db8:51::2"],
            "From 2001:db8:5::2...Time exceeded: Hop limit",
        )?;
        check(
            &["203.0.113.1"],
            "From 192.0.2.2...Destination Host Unreachable",
        )?;
        check(
            &["2001:db8:bad::1"],
            "From 2001:db8:5::2...Destination unreachable: No route",
        )?;
        // Nobody has this address: the host's kernel says so itself.
        check(&["192.0.2.99"], "icmp_seq=...Destination Host Unreachable")?;
        check(
            &["2001:db8:5::99"],
            "icmp_seq=...Destination unreachable: Address unreachable",
        )?;
        for at in ["198.51.100.2", "2001:db8:51::2"] {
            let said = call(&site.guest, &["ping", "-n", "-c1", "-W3", "-t2", at])?;
            ensure!(said.contains("1 received"), "{said}");
        }
        Ok(())
    });
}

/// Hop by hop, by datagrams to ports where nobody listens, and by echoes.
#[test]
fn routes_are_traced() {
    lab::run(|host| {
        let site = Site::new(host)?;
        allow(&site)?;
        let _beyond = beyond(&site)?;
        let cases = [
            (
                &["traceroute", "-n", "-q2", "-w3"][..],
                "198.51.100.2",
                "192.0.2.2",
            ),
            (
                &["traceroute", "-n", "-q2", "-w3", "-I"],
                "198.51.100.2",
                "192.0.2.2",
            ),
            (
                &["traceroute6", "-n", "-q2", "-w3"],
                "2001:db8:51::2",
                "2001:db8:5::2",
            ),
        ];
        for (words, target, router) in cases {
            let said = call(&site.guest, &[&["busybox"], words, &[target]].concat())?;
            let hops: Vec<Vec<&str>> = said
                .lines()
                .skip(1)
                .map(|line| line.split_whitespace().collect())
                .collect();
            ensure!(hops.len() == 2, "{words:?}: {said}");
            ensure!(
                hops[0][..2] == ["1", router] && hops[1][..2] == ["2", target],
                "{said}"
            );
            ensure!(!said.contains('*'), "{said}");
        }
        Ok(())
    });
}
