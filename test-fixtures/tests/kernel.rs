//! What we lean on in the kernel, each as small as it goes. When one of these fails, the design is wrong on that kernel,
//! whatever the rest of the tests say.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_fixtures::lab::{self, Host};
use test_fixtures::netns::Netns;
use test_fixtures::program::Program;
use test_fixtures::snapshot::Snapshot;
use test_fixtures::traffic::{Protocol, any_v4, any_v6, ask, eventually, serve, udp_ask};

/// A bridge `br0` (10.88.0.1/16, fd00:88::1/64) and a container on it at .2 and ::2, by the shortest way.
fn bridged(host: &Host) -> Result<Netns> {
    let container = host.container("c1")?;
    host.sh("ip link add br0 address 02:00:00:00:00:01 type bridge
         ip addr add 10.88.0.1/16 dev br0; ip addr add fd00:88::1/64 dev br0 nodad
         ip link set br0 up
         ip link add veth0 type veth peer name eth0 netns c1
         ip link set veth0 master br0 up")?;
    container.sh(
        "ip addr add 10.88.0.2/16 dev eth0; ip addr add fd00:88::2/64 dev eth0 nodad
         ip link set lo up; ip link set eth0 up
         ip route add default via 10.88.0.1; ip route add default via fd00:88::1",
    )?;
    Ok(container)
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address written in this file")
}

/// Teardown deletes the end on the host and need not enter the container.
#[test]
fn deleting_one_end_of_a_veth_deletes_the_other() {
    lab::run(|host| {
        let container = bridged(host)?;
        host.sh("ip link del veth0")?;
        ensure!(!container.sh("ip -br link")?.contains("eth0"));
        Ok(())
    });
}

/// Teardown of a container whose namespace is gone finds the host end gone, after a moment.
#[test]
fn the_end_of_a_namespace_deletes_the_host_end() {
    lab::run(|host| {
        drop(bridged(host)?);
        let gone = || {
            host.sh("ip -br link")
                .is_ok_and(|links| !links.contains("veth0"))
        };
        ensure!(eventually(Duration::from_secs(5), gone));
        Ok(())
    });
}

/// One script to `nft -f` is one transaction: a rule that fails takes everything before it back.
#[test]
fn an_nft_script_is_applied_whole_or_not_at_all() {
    lab::run(|host| {
        host.sh("nft add table inet kept; nft add chain inet kept c")?;
        let before = Snapshot::take(host, &[])?;
        let script = "add table inet t\nadd chain inet t c\nflush table inet kept\ndelete chain inet kept c\n\
                      add rule inet t c jump nowhere\n";
        let finished = Program::new("nft")
            .args(["-f", "-"])
            .stdin(script)
            .run_in(host)?;
        ensure!(!finished.success(), "{finished}");
        Snapshot::take(host, &[])?.assert_same_as(&before);
        Ok(())
    });
}

/// Adding what exists is no error, so a script of add, flush, add ends in the same state from wherever it starts.
#[test]
fn adding_an_existing_chain_again_changes_nothing() {
    lab::run(|host| {
        let script = "add table inet t\n\
                      add chain inet t c { type filter hook input priority 0; policy accept; }\n\
                      flush chain inet t c\n\
                      add rule inet t c tcp dport 1 drop\n";
        let nft = Program::new("nft").args(["-f", "-"]).stdin(script);
        ensure!(nft.run_in(host)?.success());
        let once = Snapshot::take(host, &[])?;
        ensure!(nft.run_in(host)?.success());
        Snapshot::take(host, &[])?.assert_same_as(&once);
        Ok(())
    });
}

/// A published port answers on 127.0.0.1 of the host: with `route_localnet` on the bridge, a packet from loopback to a
/// container is translated, masqueraded and routed out.
#[test]
fn route_localnet_lets_loopback_reach_a_container() {
    lab::run(|host| {
        let container = bridged(host)?;
        let _server = serve(&container, Protocol::Tcp, any_v4(80), "c1")?;
        nat(
            host,
            "ip",
            "tcp dport 8080 dnat to 10.88.0.2:80",
            "ip saddr 127.0.0.0/8 oifname br0 masquerade",
        )?;
        let at_once = Duration::from_millis(500);
        let question = || ask(host, Protocol::Tcp, None, at("127.0.0.1:8080"), at_once);
        ensure!(question().is_err(), "without route_localnet");
        host.set_sysctl("ipv4/conf/br0/route_localnet", "1")?;
        let reply = question()?;
        ensure!(
            reply.tag == "c1" && reply.peer.ip() == at("10.88.0.1:0").ip(),
            "{reply}"
        );
        Ok(())
    });
}

/// `[::1]` has no `route_localnet`. A second local route of `::1` through the bridge makes the kernel accept packets
/// from `::1` there, so that DNAT and masquerade reach a container, as long as bridged packets do not pass through
/// the IPv6 hooks: `br_netfilter` undoes the translation of answers before `ip6_rcv`, which drops packets to `::1` that
/// come from outside.
#[test]
fn a_local_route_through_the_bridge_lets_v6_loopback_reach_a_container() {
    lab::run(|host| {
        let container = bridged(host)?;
        let _server = serve(&container, Protocol::Tcp, any_v6(80), "c1")?;
        nat(
            host,
            "ip6",
            "tcp dport 8080 dnat to [fd00:88::2]:80",
            "ip6 saddr ::1 oifname br0 masquerade",
        )?;
        let question = || {
            ask(
                host,
                Protocol::Tcp,
                None,
                at("[::1]:8080"),
                Duration::from_millis(500),
            )
        };
        let hooks = "bridge/bridge-nf-call-ip6tables";
        let has_hooks = host.sysctl(hooks)?.is_some();
        if has_hooks {
            host.set_sysctl(hooks, "0")?;
        }
        ensure!(question().is_err(), "without the route");
        host.sh("ip -6 route add local ::1 dev br0 table local metric 2048")?;
        let reply = question()?;
        ensure!(
            reply.tag == "c1" && reply.peer.ip() == at("[fd00:88::1]:0").ip(),
            "{reply}"
        );
        if has_hooks {
            host.set_sysctl(hooks, "1")?;
            ensure!(question().is_err(), "with {hooks}=1");
        }
        Ok(())
    });
}

/// The chain `postrouting` knows where a forwarded packet came in, so one rule can tell the bridge's own traffic from
/// the rest.
#[test]
fn postrouting_sees_the_incoming_interface() {
    lab::run(|host| {
        let container = bridged(host)?;
        let outside = host.outside()?;
        host.set_sysctl("ipv4/ip_forward", "1")?;
        nat(
            host,
            "ip",
            "counter",
            "iifname br0 oifname uplink masquerade",
        )?;
        let _server = serve(&outside, Protocol::Udp, any_v4(53), "outside")?;
        let from_container = udp_ask(&container, at("192.0.2.2:53"))?;
        ensure!(
            from_container.peer.ip() == at("192.0.2.1:0").ip(),
            "{from_container}"
        );
        Ok(())
    });
}

/// A bridge without an address of its own takes the lowest of its ports', and forgets it with them; one created with an
/// address keeps it, so its neighbours' caches stay right.
#[test]
fn a_bridge_keeps_the_mac_it_was_created_with() {
    lab::run(|host| {
        let mac =
            |bridge: &str| host.sh(&format!("ip -br link show {bridge} | awk '{{ print $3 }}'"));
        let _container = bridged(host)?;
        host.sh("ip link add br1 type bridge")?;
        let (fixed, floating) = (mac("br0")?, mac("br1")?);
        ensure!(fixed.trim() == "02:00:00:00:00:01", "{fixed}");
        host.sh(
            "ip link add p0 address 00:00:5e:00:53:01 type veth peer name p1 address 00:00:5e:00:53:02
             ip link set p0 master br0; ip link set p1 master br1",
        )?;
        ensure!(mac("br0")? == fixed);
        ensure!(mac("br1")? != floating, "it follows its port");
        host.sh("ip link del p0")?;
        ensure!(mac("br0")? == fixed);
        Ok(())
    });
}

/// One message creates both ends, the inner one in the container with its final name and address.
#[test]
fn a_veth_is_created_with_its_peer_in_place() {
    lab::run(|host| {
        let container = host.container("c1")?;
        host.sh("ip link add veth0 type veth peer name eth0 address 02:00:00:00:00:02 netns c1")?;
        let peer = container.sh("ip -o link show eth0")?;
        ensure!(peer.contains("02:00:00:00:00:02"), "{peer}");
        Ok(())
    });
}

/// A UDP flow that began before its port was published stays untranslated until its conntrack entry goes. It has an
/// entry if any rule translates or looks at connections: an empty chain of type nat does not make the kernel track.
#[test]
fn a_known_udp_flow_ignores_new_nat_rules() {
    lab::run(|host| {
        let container = bridged(host)?;
        let outside = host.outside()?;
        host.set_sysctl("ipv4/ip_forward", "1")?;
        nat(
            host,
            "ip",
            "counter",
            "ip saddr 10.88.0.0/16 oifname uplink masquerade",
        )?;
        let _own = serve(host, Protocol::Udp, any_v4(5000), "host")?;
        let _server = serve(&container, Protocol::Udp, any_v4(5000), "c1")?;
        let question = || {
            let from = Some(at("192.0.2.2:40000"));
            ask(
                &outside,
                Protocol::Udp,
                from,
                at("192.0.2.1:5000"),
                Duration::from_secs(1),
            )
        };
        ensure!(question()?.tag == "host", "the flow before");
        host.sh("nft add rule ip t prerouting udp dport 5000 dnat to 10.88.0.2:5000")?;
        ensure!(
            question()?.tag == "host",
            "the flow that began before the rule"
        );
        host.sh("conntrack -D -p udp --orig-port-dst 5000 >/dev/null 2>&1")?;
        ensure!(
            question()?.tag == "c1",
            "the flow after its entry was deleted"
        );
        Ok(())
    });
}

/// Debian's kernel has what the machine at hand may lack.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_has_vrf_vlan_filtering_and_ipvlan() {
    lab::run(|host| {
        host.sh("ip link add v0 type vrf table 10
             ip link add d0 type dummy
             ip link add link d0 name d0.7 type vlan id 7
             ip link add d1 type dummy; ip link add i0 link d1 type ipvlan mode l2
             ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0
             ip link set d0 master br0
             bridge vlan add dev d0 vid 9 pvid untagged")?;
        let snapshot = Snapshot::take(host, &[])?;
        let vlan = snapshot
            .lines()
            .iter()
            .find(|line| line.starts_with("vlan d0 "));
        ensure!(
            vlan.context("no vlan line")?.contains("\"vlan\":9"),
            "{:#?}",
            snapshot.lines()
        );
        Ok(())
    });
}

/// SCTP is translated like TCP.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_sctp_is_translated() {
    lab::run(|host| {
        let container = bridged(host)?;
        let outside = host.outside()?;
        host.set_sysctl("ipv4/ip_forward", "1")?;
        nat(
            host,
            "ip",
            "sctp dport 7000 dnat to 10.88.0.2:7001",
            "counter",
        )?;
        let _server = serve(&container, Protocol::Sctp, any_v4(7001), "c1")?;
        let reply = ask(
            &outside,
            Protocol::Sctp,
            None,
            at("192.0.2.1:7000"),
            Duration::from_secs(5),
        )?;
        ensure!(
            reply.tag == "c1" && reply.peer.ip() == at("192.0.2.2:0").ip(),
            "{reply}"
        );
        Ok(())
    });
}

/// A table with the three NAT chains, one rule for destinations (in `prerouting` and `output`) and one for sources.
fn nat(host: &Host, family: &str, destination: &str, source: &str) -> Result<()> {
    let script = format!(
        "table {family} t {{
           chain prerouting {{ type nat hook prerouting priority dstnat; {destination}; }}
           chain output {{ type nat hook output priority -100; {destination}; }}
           chain postrouting {{ type nat hook postrouting priority srcnat; {source}; }}
         }}"
    );
    let finished = Program::new("nft")
        .args(["-f", "-"])
        .stdin(script)
        .run_in(host)?;
    ensure!(finished.success(), "{finished}");
    Ok(())
}
