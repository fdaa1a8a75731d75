//! Broken hosts: the doctor names what is broken and nothing else, what it gives as a remedy is run, and then all is well.
//!
//! Every test begins with a host whose traffic has been seen to work and on which the doctor finds nothing. Remedies that
//! are the engine's are run by a stand-in that does what Podman does: `network reload` tears a container down and sets it up
//! again with the same request, `network disconnect` tears it down on one network.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

use crate::daemon::{BUS, Firewalld};
use crate::lab::{self, Host};
use crate::legacy::{ACCEPT, DROP, set_policies};
use crate::scene::{Network, Request, Scene, netbackend};
use crate::traffic::{Server, Tcp, answers, eventually, pings, resolves, servers};

/// Where the stand-in for the engine and its requests are.
const ENGINE: &str = "/run/lab/engine";

/// The engine, as far as remedies need it.
const PODMAN: &str = r#"#!/bin/sh
set -e
cd /run/lab/engine
call() { "$NETBACKEND" --config /run/lab/networks --aardvark-binary="$DNSD" "$@" >>log; }
verb="$1 $2"; shift 2
case "$verb" in
"network reload")
    [ "$1" = --all ] && set -- $(ls | sed -n 's/\.json$//p' | grep -v /)
    for id; do
        call -f $id.json teardown /run/netns/$id
        call -f $id.json setup /run/netns/$id
    done ;;
"network disconnect")
    [ "$1" = -f ] && shift
    call -f $2.$1.json teardown /run/netns/$2 ;;
*)
    echo "podman $verb: not a remedy" >&2; exit 1 ;;
esac
"#;

/// A host with containers and an engine: `c1` on `net1`, which publishes port 80 as 8080, and `c2` on `net1` and on
/// `net2`, which is internal.
struct Patient<'a> {
    scene: Scene<'a>,
    outside: Netns,
    c1: Netns,
    c2: Netns,
    _servers: Vec<Server>,
}

impl<'a> Patient<'a> {
    fn new(host: &'a Host) -> Result<Self> {
        Self::with(Scene::new(host)?)
    }

    fn with(scene: Scene<'a>) -> Result<Self> {
        let host = scene.host;
        let outside = host.outside()?;
        // Places behind those that the host has addresses with.
        outside.sh("ip addr add 198.51.100.1/32 dev lo; ip addr add 2001:db8:6::1/128 dev lo")?;
        // New namespaces begin with these switched on, where there is br_netfilter.
        host.sh("cd /proc/sys/net/bridge && echo 0 | tee bridge-nf-call-ip*tables || true")?;
        let (c1, c2) = (host.container("c1")?, host.container("c2")?);
        let net1 = Network::new(1).dns();
        let one = Request::new("c1").on(&net1, 2).publish("", 8080, 80, "tcp");
        let two = Request::new("c2")
            .on(&net1, 3)
            .on(&Network::new(2).internal(), 3);
        let patient = Self {
            _servers: [
                servers(&c1, Tcp, &[80], "c1")?,
                servers(&outside, Tcp, &[9000], "out")?,
            ]
            .into_iter()
            .flatten()
            .collect(),
            scene,
            outside,
            c1,
            c2,
        };
        patient.install_engine()?;
        patient.attach(&patient.c1, "c1", &one)?;
        patient.attach(&patient.c2, "c2", &two)?;
        Ok(patient)
    }

    fn install_engine(&self) -> Result<()> {
        fs::create_dir_all(ENGINE)?;
        let text = PODMAN
            .replace("$NETBACKEND", env!("CARGO_BIN_EXE_netbackend"))
            .replace("$DNSD", &self.scene.aardvark.display().to_string());
        let podman = Path::new(ENGINE).join("podman");
        fs::write(&podman, text)?;
        Ok(fs::set_permissions(&podman, Permissions::from_mode(0o755))?)
    }

    /// Attaches a container, whose request the engine keeps.
    fn attach(&self, netns: &Netns, id: &str, request: &Request) -> Result<()> {
        self.scene.setup(netns, request)?;
        fs::write(
            Path::new(ENGINE).join(format!("{id}.json")),
            request.json().to_string(),
        )?;
        Ok(())
    }

    fn doctor(&self, arguments: &[&str]) -> Result<Finished> {
        self.program("doctor")
            .args(arguments)
            .run_in(self.scene.host)
    }

    fn program(&self, verb: &str) -> Program {
        netbackend()
            .arg("--config")
            .arg(&self.scene.config)
            .arg(format!(
                "--aardvark-binary={}",
                self.scene.aardvark.display()
            ))
            .arg(verb)
            .timeout(Duration::from_secs(30))
    }

    /// What is found, with the exit code that belongs to it. Looking changes nothing.
    fn findings(&self) -> Result<Vec<Value>> {
        let finished = self.doctor(&["--json"])?;
        let report: Value =
            serde_json::from_str(&finished.stdout).with_context(|| finished.to_string())?;
        let findings = report["findings"]
            .as_array()
            .with_context(|| finished.to_string())?
            .clone();
        let broken = findings
            .iter()
            .any(|finding| finding["severity"] == "broken");
        ensure!(finished.code() == Some(i32::from(broken)), "{finished}");
        ensure!(
            report["healthy"] == !broken && finished.stderr.is_empty(),
            "{finished}"
        );
        Ok(findings)
    }

    fn is_healthy(&self) -> Result<()> {
        let mut last = self.findings();
        // The responder reads its files in its own time.
        let healthy = eventually(Duration::from_secs(3), || {
            last = self.findings();
            last.as_ref().is_ok_and(Vec::is_empty)
        });
        ensure!(healthy, "{}", Value::from(last?));
        Ok(())
    }

    /// All traffic that there should be.
    fn works(&self) -> Result<()> {
        let host = self.scene.host;
        answers(&self.outside, Tcp, "192.0.2.1:8080", "c1", "192.0.2.2")?;
        answers(
            &self.outside,
            Tcp,
            "[2001:db8:5::1]:8080",
            "c1",
            "2001:db8:5::2",
        )?;
        answers(host, Tcp, "127.0.0.1:8080", "c1", "10.70.1.1")?;
        answers(host, Tcp, "[::1]:8080", "c1", "fd70:1::1")?;
        answers(&self.c1, Tcp, "192.0.2.2:9000", "out", "192.0.2.1")?;
        answers(
            &self.c1,
            Tcp,
            "[2001:db8:5::2]:9000",
            "out",
            "2001:db8:5::1",
        )?;
        answers(&self.c1, Tcp, "198.51.100.1:9000", "out", "192.0.2.1")?;
        answers(
            &self.c1,
            Tcp,
            "[2001:db8:6::1]:9000",
            "out",
            "2001:db8:5::1",
        )?;
        answers(&self.c1, Tcp, "192.0.2.1:8080", "c1", "10.70.1.1")?;
        pings(&self.c2, "10.70.1.2")?;
        pings(&self.c1, "fd70:1::3")?;
        pings(&self.c2, "10.70.2.1")?;
        resolves(&self.c1, "10.70.1.1", "c2", "A", "10.70.1.3")?;
        resolves(&self.c2, "fd70:1::1", "c1", "AAAA", "fd70:1::2")
    }

    /// Runs the commands of findings as they are, in a shell of the host.
    fn follow(&self, findings: &[Value]) -> Result<()> {
        for finding in findings {
            let commands = finding["remedy"].as_array().context("a list")?;
            ensure!(!commands.is_empty(), "no remedy: {finding}");
            tell(finding);
            for command in commands {
                let command = command.as_str().context("a text")?;
                let script = format!("PATH={ENGINE}:$PATH\n{command}");
                self.scene
                    .host
                    .sh(&script)
                    .with_context(|| format!("remedy `{command}`"))?;
            }
        }
        Ok(())
    }

    /// What is broken must be these, each once. The same is told in words.
    fn suffers(&self, codes: &[&str]) -> Result<Vec<Value>> {
        let before = self.scene.snapshot()?;
        let findings = self.findings()?;
        let found: Vec<_> = findings
            .iter()
            .filter_map(|finding| finding["code"].as_str())
            .collect();
        ensure!(
            found == codes,
            "expected {codes:?}, found {}",
            Value::from(findings)
        );
        let words = self.doctor(&[])?.stdout;
        for finding in &findings {
            let what = finding["what"].as_str().context("a text")?;
            ensure!(words.contains(what), "{words}");
            for command in finding["remedy"].as_array().into_iter().flatten() {
                let line = format!("        {}\n", command.as_str().context("a text")?);
                ensure!(words.contains(&line), "{words}");
            }
        }
        before.assert_same_as(&self.scene.snapshot()?);
        Ok(findings)
    }
}

/// A line of a table for who looks on (`--nocapture`): what was broken, which is the test's name, what was found, and the
/// remedy.
#[expect(
    clippy::print_stdout,
    reason = "the harness shows it when it is asked to"
)]
fn tell(finding: &Value) {
    let thread = std::thread::current();
    let broken = thread.name().unwrap_or_default();
    println!("{broken} | {} | {}", finding["code"], finding["remedy"]);
}

/// Whether traffic suffers before anything is mended.
#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    Fails,
    Works,
}

/// A healthy host is broken by a script. The doctor finds just these; its remedies are run; all is well again.
fn broken(host: &Host, script: &str, codes: &[&str], traffic: Traffic) -> Result<()> {
    let patient = Patient::new(host)?;
    patient.is_healthy().context("before")?;
    patient.works().context("before")?;
    host.sh(script)?;
    let works = patient.works();
    match traffic {
        Fails => ensure!(works.is_err(), "nothing is broken"),
        Works => works.context("broken")?,
    }
    let findings = patient.suffers(codes)?;
    patient.follow(&findings)?;
    patient.is_healthy().context("after")?;
    patient.works().context("after")
}

use Traffic::{Fails, Works};

#[test]
fn rule_deleted() {
    let script =
        "h=$(nft -a list chain inet netavark PREROUTING | sed -n 's/.*goto PUBLISH # handle //p')
        nft delete rule inet netavark PREROUTING handle $h";
    lab::run(|host| broken(host, script, &["rules-missing"], Fails));
}

#[test]
fn rule_replaced() {
    let script =
        "h=$(nft -a list chain inet netavark PREROUTING | sed -n 's/.*goto PUBLISH # handle //p')
        nft replace rule inet netavark PREROUTING handle $h fib daddr type local return";
    lab::run(|host| broken(host, script, &["rules-missing"], Fails));
}

#[test]
fn rules_of_an_inner_chain_flushed() {
    let script = "nft flush chain inet netavark MASQUERADE";
    lab::run(|host| broken(host, script, &["rules-missing"], Fails));
}

#[test]
fn table_flushed() {
    lab::run(|host| {
        broken(
            host,
            "nft flush table inet netavark",
            &["rules-missing"],
            Fails,
        )
    });
}

#[test]
fn ruleset_flushed() {
    lab::run(|host| broken(host, "nft flush ruleset", &["table-missing"], Fails));
}

#[test]
fn element_deleted() {
    let script = "nft delete element inet netavark publish4 '{ tcp . 8080 : 10.70.1.2 . 80 }'";
    lab::run(|host| broken(host, script, &["elements-missing"], Fails));
}

#[test]
fn element_added() {
    let script = "nft add element inet netavark publish4 '{ tcp . 8081 : 10.70.1.9 . 80 }'";
    lab::run(|host| broken(host, script, &["elements-unknown"], Works));
}

#[test]
fn chain_policy_changed() {
    let script = "nft chain inet netavark RAW '{ policy drop; }'";
    lab::run(|host| broken(host, script, &["chain-policy"], Fails));
}

#[test]
fn forwarding_off() {
    lab::run(|host| {
        broken(
            host,
            "sysctl -qw net.ipv4.ip_forward=0",
            &["forwarding"],
            Fails,
        )
    });
}

#[test]
fn forwarding_of_ipv6_off() {
    let script = "sysctl -qw net.ipv6.conf.all.forwarding=0";
    lab::run(|host| broken(host, script, &["forwarding"], Fails));
}

#[test]
fn forwarding_of_an_interface_off() {
    let script = "sysctl -qw net.ipv4.conf.uplink.forwarding=0";
    lab::run(|host| broken(host, script, &["forwarding"], Fails));
}

#[test]
fn bridge_down() {
    lab::run(|host| broken(host, "ip link set br1 down", &["bridge-down"], Fails));
}

#[test]
fn bridge_address_gone() {
    let script = "ip addr del 10.70.1.1/24 dev br1";
    lab::run(|host| broken(host, script, &["bridge-address"], Fails));
}

#[test]
fn bridge_addresses_gone() {
    let script = "ip addr del 10.70.1.1/24 dev br1; ip addr del fd70:1::1/64 dev br1";
    lab::run(|host| broken(host, script, &["bridge-address"], Fails));
}

#[test]
fn bridge_route_gone() {
    lab::run(|host| broken(host, "ip route del 10.70.1.0/24", &["bridge-route"], Fails));
}

#[test]
fn loopback_route_gone() {
    let script = "ip -6 route del local ::1 dev br1 table local";
    lab::run(|host| broken(host, script, &["loopback-route"], Fails));
}

#[test]
fn bridge_gone() {
    lab::run(|host| broken(host, "ip link del br1", &["bridge-missing"], Fails));
}

#[test]
fn all_bridges_gone() {
    let codes = ["bridge-missing", "bridge-missing"];
    lab::run(|host| broken(host, "ip link del br1; ip link del br2", &codes, Fails));
}

#[test]
fn interface_gone() {
    lab::run(|host| broken(host, "ip link del veth0", &["interface-missing"], Fails));
}

#[test]
fn interface_gone_inside() {
    lab::run(|host| {
        broken(
            host,
            "ip -n c1 link del eth0",
            &["interface-missing"],
            Fails,
        )
    });
}

#[test]
fn interface_detached() {
    lab::run(|host| {
        broken(
            host,
            "ip link set veth0 nomaster",
            &["interface-detached"],
            Fails,
        )
    });
}

#[test]
fn interface_down() {
    lab::run(|host| broken(host, "ip link set veth0 down", &["interface-down"], Fails));
}

#[test]
fn interface_down_inside() {
    lab::run(|host| {
        broken(
            host,
            "ip -n c1 link set eth0 down",
            &["interface-down"],
            Fails,
        )
    });
}

#[test]
fn address_gone_inside() {
    let script = "ip -n c1 addr del 10.70.1.2/24 dev eth0";
    lab::run(|host| broken(host, script, &["container-address"], Fails));
}

#[test]
fn default_route_gone() {
    lab::run(|host| {
        broken(
            host,
            "ip -n c1 route del default",
            &["default-route"],
            Fails,
        )
    });
}

/// Without a default route of the host. Only people know its next hop: `route`, which they add.
fn no_way_out(host: &Host, ip: &str, route: &str) -> Result<()> {
    let patient = Patient::new(host)?;
    patient.is_healthy().context("before")?;
    patient.works().context("before")?;
    host.sh(&format!("{ip} route del default"))?;
    ensure!(patient.works().is_err(), "nothing is broken");
    let findings = patient.suffers(&["uplink-route"])?;
    ensure!(findings[0]["severity"] == "broken", "{findings:?}");
    assert_eq!(findings[0]["remedy"], serde_json::json!([]));
    let why = findings[0]["why"].as_str().context("a text")?;
    let advice = format!("`{ip} route add default via GATEWAY dev uplink`");
    ensure!(why.contains(&advice) && why.contains("net1;"), "{why}");
    tell(&findings[0]);
    // A rule to a table that has none is no way out.
    host.sh(&format!(
        "{ip} rule add to {} lookup 7000",
        BEYOND[usize::from(ip == "ip -6")]
    ))?;
    patient.suffers(&["uplink-route"])?;
    host.sh(&format!("{ip} {route} table 7000"))?;
    patient.works().context("by another table")?;
    patient.is_healthy().context("by another table")?;
    host.sh(&format!("{ip} route flush table 7000; {ip} {route}"))?;
    patient.is_healthy().context("after")?;
    patient.works().context("after")
}

/// What is behind those that the host has addresses with.
const BEYOND: [&str; 2] = ["198.51.100.0/24", "2001:db8:6::/64"];

#[test]
fn default_route_of_the_host_gone() {
    lab::run(|host| no_way_out(host, "ip", "route add default via 192.0.2.2"));
}

#[test]
fn default_route_of_the_host_gone_for_ipv6() {
    lab::run(|host| no_way_out(host, "ip -6", "route add default via 2001:db8:5::2"));
}

/// Who is offline on purpose may use containers, with a word; internal networks take no notice.
#[test]
fn offline_on_purpose() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        host.sh("ip link set uplink down")?;
        let findings = patient.suffers(&["uplink-route"])?;
        ensure!(findings[0]["severity"] == "warning", "{findings:?}");
        pings(&patient.c2, "10.70.1.2")?;
        let net1 = Network::new(1).dns();
        patient.scene.teardown(
            &patient.c1,
            &Request::new("c1").on(&net1, 2).publish("", 8080, 80, "tcp"),
        )?;
        let internal = Network::new(2).internal();
        patient.scene.teardown(
            &patient.c2,
            &Request::new("c2").on(&net1, 3).on(&internal, 3),
        )?;
        patient
            .scene
            .setup(&patient.c2, &Request::new("c2").on(&internal, 3))?;
        patient.is_healthy()
    });
}

#[test]
fn responder_killed() {
    let script = "kill -9 $(cat /run/lab/networks/aardvark-dns/aardvark.pid); sleep 0.1";
    lab::run(|host| broken(host, script, &["responder-dead"], Fails));
}

#[test]
fn responder_killed_and_its_number_in_use() {
    let script = "cd /run/lab/networks/aardvark-dns; kill -9 $(cat aardvark.pid); echo 1 >aardvark.pid; sleep 0.1";
    lab::run(|host| broken(host, script, &["responder-dead"], Fails));
}

#[test]
fn pid_file_of_the_responder_lost() {
    let script = "rm /run/lab/networks/aardvark-dns/aardvark.pid";
    lab::run(|host| broken(host, script, &["responder-unknown"], Works));
}

#[test]
fn responder_stopped() {
    let script = "kill -STOP $(cat /run/lab/networks/aardvark-dns/aardvark.pid)";
    lab::run(|host| broken(host, script, &["responder-stopped"], Fails));
}

#[test]
fn zone_file_gone() {
    let script =
        "cd /run/lab/networks/aardvark-dns; rm net1; kill -HUP $(cat aardvark.pid); sleep 0.5";
    lab::run(|host| broken(host, script, &["names-missing"], Fails));
}

#[test]
fn name_of_a_container_gone() {
    let script = "cd /run/lab/networks/aardvark-dns; sed -i '/^c2 /d' net1; kill -HUP $(cat aardvark.pid); sleep 0.5";
    lab::run(|host| broken(host, script, &["names-missing"], Fails));
}

#[test]
fn zone_file_damaged() {
    let script =
        "cd /run/lab/networks/aardvark-dns; echo x >net1; kill -HUP $(cat aardvark.pid); sleep 0.5";
    lab::run(|host| broken(host, script, &["names-damaged"], Works));
}

#[test]
fn port_of_the_responder_taken() {
    let script = "kill $(cat /run/lab/networks/aardvark-dns/aardvark.pid); sleep 0.5
        dnsmasq --conf-file=/dev/null --pid-file=/run/lab/dnsmasq.pid --user=root --no-resolv --no-hosts \
            --bind-interfaces --listen-address=10.70.1.1";
    lab::run(|host| broken(host, script, &["responder-port-taken"], Fails));
}

#[test]
fn published_port_taken() {
    let script = "socat TCP-LISTEN:8080,fork,reuseaddr SYSTEM:true </dev/null >/dev/null 2>&1 &
        sleep 0.5";
    lab::run(|host| broken(host, script, &["port-taken"], Works));
}

/// As Docker leaves it.
#[test]
fn docker_drops_what_is_forwarded() {
    let script = "nft -f - <<'END'
table ip filter {
    chain DOCKER-USER {
        counter return
    }
    chain DOCKER-FORWARD {
        oifname docker0 ct state established,related counter accept
        iifname docker0 counter accept
    }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        counter jump DOCKER-USER
        counter jump DOCKER-FORWARD
    }
}
END";
    lab::run(|host| broken(host, script, &["foreign-drop"], Fails));
}

/// As people write it for a server.
#[test]
fn a_table_of_somebody_drops() {
    let script = "nft -f - <<'END'
table inet filter {
    set allowed { type inet_service; flags interval; elements = { 22, 80-90 } }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iif lo accept
        ip protocol icmp accept
        meta l4proto 58 accept
        tcp dport @allowed accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        iifname { \"virbr0\", \"virbr1\" } accept
    }
}
END";
    lab::run(|host| broken(host, script, &["foreign-drop", "foreign-drop"], Fails));
}

/// Rules of its own at the end of a chain that accepts.
#[test]
fn a_rule_of_somebody_refuses() {
    let script = "nft -f - <<'END'
table ip mine {
    chain forward {
        type filter hook forward priority 10;
        ct state established accept
        iifname uplink ct status dnat accept
        ip saddr 10.0.0.0/8 jump judge
    }
    chain judge {
        ip daddr 10.0.0.0/8 return
        reject
    }
}
END";
    lab::run(|host| broken(host, script, &["foreign-drop"], Fails));
}

/// The packet filter of before nftables. Where its program is not installed, the policy is taken back instead.
#[test]
fn iptables_legacy_drops_what_is_forwarded() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        host.enter(|| set_policies([ACCEPT; 3]))?;
        patient.is_healthy()?;
        host.enter(|| set_policies([ACCEPT, DROP, ACCEPT]))?;
        ensure!(patient.works().is_err());
        let findings = patient.suffers(&["foreign-drop"])?;
        let what = findings[0]["what"].as_str().context("a text")?;
        ensure!(
            what.starts_with("chain iptables-legacy filter FORWARD"),
            "{what}"
        );
        let remedy = serde_json::json!([
            "iptables-legacy -I FORWARD -i br1 -j ACCEPT",
            "iptables-legacy -I FORWARD -o br1 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        ]);
        assert_eq!(findings[0]["remedy"], remedy);
        if host.sh("command -v iptables-legacy").is_ok() {
            patient.follow(&findings)?;
        } else {
            host.enter(|| set_policies([ACCEPT; 3]))?;
        }
        patient.is_healthy()?;
        patient.works()
    });
}

#[test]
fn record_of_a_container_damaged() {
    let script = "echo '{' >/run/lab/networks/netbackend/containers/c1";
    lab::run(|host| broken(host, script, &["record-damaged"], Works));
}

#[test]
fn record_of_a_network_damaged() {
    let script = "echo '{' >$(echo /run/lab/networks/netbackend/networks/*1/network)";
    lab::run(|host| broken(host, script, &["record-damaged"], Works));
}

#[test]
fn route_of_somebody_into_the_subnet() {
    let script = "ip route add 10.70.1.0/25 via 192.0.2.2";
    lab::run(|host| broken(host, script, &["route-over-subnet"], Fails));
}

#[test]
fn loopback_destinations_refused() {
    let script = "sysctl -qw net.ipv4.conf.br1.route_localnet=0";
    lab::run(|host| broken(host, script, &["route-localnet"], Fails));
}

#[test]
fn strict_reverse_path_filter() {
    let script = "sysctl -qw net.ipv4.conf.br1.rp_filter=1";
    lab::run(|host| broken(host, script, &["rp-filter"], Works));
}

#[test]
fn bridged_packets_are_filtered() {
    let script = "sysctl -qw net.bridge.bridge-nf-call-iptables=1";
    lab::run(|host| broken(host, script, &["hairpin"], Fails));
}

#[test]
fn bridged_packets_of_ipv6_are_filtered() {
    let script = "sysctl -qw net.bridge.bridge-nf-call-ip6tables=1";
    lab::run(|host| broken(host, script, &["hairpin", "bridge-filter"], Fails));
}

#[test]
fn uplink_takes_only_shorter_packets() {
    let codes = ["mtu-over-uplink"];
    lab::run(|host| broken(host, "ip link set uplink mtu 1400", &codes, Works));
}

#[test]
fn ends_of_an_interface_differ() {
    lab::run(|host| broken(host, "ip link set veth0 mtu 1300", &["mtu-mismatch"], Works));
}

/// Several things at once are each told.
#[test]
fn several_at_once() {
    let script = "nft flush ruleset; sysctl -qw net.ipv4.ip_forward=0; ip link set veth0 down
        kill -9 $(cat /run/lab/networks/aardvark-dns/aardvark.pid); sleep 0.1";
    let codes = [
        "interface-down",
        "forwarding",
        "table-missing",
        "responder-dead",
    ];
    lab::run(|host| broken(host, script, &codes, Fails));
}

/// A container whose processes have died without a word is taken away; the other one stays.
#[test]
fn engine_crashed() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        let (crashed, request) = (
            host.container("c3")?,
            Request::new("c3").on(&Network::new(3), 2),
        );
        patient.attach(&crashed, "c3", &request.publish("", 8083, 80, "tcp"))?;
        patient.is_healthy()?;
        drop(crashed);
        // The kernel takes namespaces down in its own time.
        let gone = || host.sh("ip link show veth3").is_err();
        ensure!(eventually(Duration::from_secs(5), gone));
        let findings = patient.suffers(&["container-gone"])?;
        let what = findings[0]["what"].as_str().context("a text")?;
        ensure!(what.contains("c3") && what.contains("net3"), "{what}");
        patient.follow(&findings)?;
        patient.is_healthy()?;
        patient.works()
    });
}

/// After a restart of everything, nothing on record is here.
#[test]
fn everything_crashed() {
    lab::run(|host| {
        let mut patient = Patient::new(host)?;
        patient.is_healthy()?;
        patient._servers.clear();
        host.sh(
            "kill -9 $(cat /run/lab/networks/aardvark-dns/aardvark.pid); ip link del br1; ip link del br2
             cd /run/netns; umount c1 c2; rm c1 c2",
        )?;
        // The kernel takes namespaces down in its own time.
        let gone = || host.sh("ip link show type veth | grep veth").is_err();
        ensure!(eventually(Duration::from_secs(5), gone));
        let findings = patient.findings()?;
        ensure!(
            findings
                .iter()
                .any(|finding| finding["code"] == "container-gone"),
            "{findings:?}"
        );
        let gone: Vec<_> = findings
            .into_iter()
            .filter(|finding| finding["code"] == "container-gone")
            .collect();
        patient.follow(&gone)?;
        patient.is_healthy()?;
        ensure!(host.sh("nft list ruleset")?.is_empty());
        Ok(())
    });
}

/// A call that was killed halfway: nothing of what it did is told, but that it was.
#[test]
fn call_killed() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        patient.is_healthy()?;
        let _netns = host.container("c3")?;
        let request = Request::new("c3")
            .on(&Network::new(3).dns(), 2)
            .publish("", 8083, 80, "tcp");
        fs::write("/run/lab/request", request.json().to_string())?;
        // The call waits for a responder that never says that it is ready.
        let script = format!(
            "kill -9 $(cat /run/lab/networks/aardvark-dns/aardvark.pid); sleep 0.1
             printf '#!/bin/sh\\nexec sleep 100\\n' >/run/lab/hangs; chmod +x /run/lab/hangs
             timeout -s KILL 1 {} --config /run/lab/networks --aardvark-binary=/run/lab/hangs -f /run/lab/request \\
                setup /run/netns/c3 || true",
            env!("CARGO_BIN_EXE_netbackend")
        );
        host.sh(&script)?;
        let findings = patient.suffers(&["call-interrupted"])?;
        patient.follow(&findings)?;
        patient.is_healthy()?;
        patient.works()
    });
}

/// firewalld refuses what it does not know, and is told of our subnets.
#[test]
fn beside_firewalld() {
    lab::run(|host| {
        let _firewalld = Firewalld::start(host, "")?;
        let patient = Patient::with(Scene::new(host)?.env("DBUS_SYSTEM_BUS_ADDRESS", BUS))?;
        patient.is_healthy()?;
        patient.works()?;
        let forget = "--zone=trusted --remove-source=10.70.1.0/24";
        host.sh(&format!(
            "DBUS_SYSTEM_BUS_ADDRESS={BUS} firewall-cmd {forget}"
        ))?;
        ensure!(patient.works().is_err());
        let findings = patient.findings()?;
        ensure!(
            !findings.is_empty()
                && findings
                    .iter()
                    .all(|finding| finding["code"] == "foreign-drop"),
            "{findings:?}"
        );
        patient.follow(&findings)?;
        patient.is_healthy()?;
        patient.works()
    });
}

/// Two networks that were made with one subnet.
#[test]
fn one_subnet_for_two_networks() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        patient.is_healthy()?;
        let netns = host.container("c3")?;
        let mut twin = Network::v4(3);
        twin = twin.set(
            "subnets",
            serde_json::json!([{"subnet": "10.70.1.0/24", "gateway": "10.70.1.1"}]),
        );
        let address = serde_json::json!({"static_ips": ["10.70.1.9"]});
        let request = Request::new("c3").on_with(&twin, 9, &address);
        patient.attach(&netns, "c3", &request)?;
        fs::write(
            Path::new(ENGINE).join("c3.net3.json"),
            request.json().to_string(),
        )?;
        let findings = patient.suffers(&["subnet-shared"])?;
        patient.follow(&findings)?;
        patient.is_healthy()?;
        patient.works()
    });
}

/// Where the interfaces of containers are not, nothing can be told.
#[test]
fn wrong_namespace() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        for script in [
            "",
            "ip link add br1 type bridge; ip addr add 10.70.1.1/24 dev br1; ip link set br1 up",
        ] {
            patient.outside.sh(script)?;
            let finished = patient.program("doctor").run_in(&patient.outside)?;
            ensure!(finished.code() == Some(2), "{finished}");
            ensure!(finished.stdout.contains("run this where"), "{finished}");
        }
        Ok(())
    });
}

/// Nothing there, nothing broken.
#[test]
fn a_host_without_containers_is_healthy() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let finished = netbackend()
            .arg("--config")
            .arg(&scene.config)
            .arg("doctor")
            .run_in(host)?;
        ensure!(finished.success(), "{finished}");
        let nothing = format!("nothing is on record in {}\n", scene.config.display());
        let expected = format!("healthy (networks: 0, containers: 0)\n{nothing}");
        assert_eq!(finished.stdout, expected);
        Ok(())
    });
}

/// Who may not look is told who may, and how to look at containers of one's own. Nothing is said to be well.
#[test]
fn an_ordinary_user_is_told_where_to_look() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        let program = Path::new(ENGINE).join("netbackend");
        fs::copy(env!("CARGO_BIN_EXE_netbackend"), &program)?;
        let words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let doctor = |json: &[&str]| {
            Program::new("setpriv")
                .args(words)
                .arg(&program)
                .arg("--config")
                .arg(&patient.scene.config)
                .arg("doctor")
                .args(json)
                .run_in(host)
        };
        let own = format!(
            "podman unshare --rootless-netns {} doctor",
            program.display()
        );
        let finished = doctor(&[])?;
        ensure!(finished.code() == Some(2), "{finished}");
        // Output goes into a pipe here, so people are told on standard error, too.
        ensure!(
            finished.stderr.starts_with("netbackend: ") && finished.stderr.contains(&own),
            "{finished}"
        );
        let finished = doctor(&["--json"])?;
        ensure!(finished.stderr.is_empty(), "{finished}");
        let document: Value = serde_json::from_str(&finished.stdout)?;
        let error = document["error"].as_str().context("a text")?;
        ensure!(
            error.contains("expected to be called by root"),
            "{finished}"
        );
        Ok(())
    });
}

/// What administrators and other programs may well do is no illness.
#[test]
fn no_false_alarms() {
    let script = "
        nft insert rule inet netavark FORWARD ip saddr 203.0.113.9 drop
        nft chain inet netavark FORWARD '{ policy drop; }'
        nft -f - <<'END'
table inet filter {
    set ours { type ifname; elements = { br1, br2 } }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state { established, related } accept
        iif lo accept
        icmp type echo-request accept
        meta l4proto 58 accept
        iifname @ours meta l4proto { tcp, udp } th dport 53 accept
        iifname uplink accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname \"br*\" accept
        ct status dnat accept
    }
}
END
        ip route add 10.0.0.0/8 via 192.0.2.2
        ip route add 10.70.1.0/24 via 192.0.2.2 metric 50
        ip -n c1 route del default; ip -n c1 route add default via 10.70.1.1 metric 7
        ip link set br2 mtu 9000
        socat TCP-LISTEN:8081,fork,reuseaddr SYSTEM:true </dev/null >/dev/null 2>&1 &
        socat TCP-LISTEN:8080,bind=127.0.0.9,fork SYSTEM:true </dev/null >/dev/null 2>&1 &
        dnsmasq --conf-file=/dev/null --pid-file=/run/lab/dnsmasq.pid --user=root --no-resolv --no-hosts \
            --bind-interfaces --listen-address=127.0.0.53";
    lab::run(|host| {
        let patient = Patient::new(host)?;
        host.sh(script)?;
        patient.works()?;
        let findings = patient.suffers(&["port-taken"])?;
        // This one is told: who connects to it there reaches the container.
        ensure!(
            findings[0]["what"]
                .as_str()
                .is_some_and(|what| what.contains("127.0.0.9"))
        );
        Ok(())
    });
}

/// What a kernel does not have, the rules cannot use: the module is not loaded, and the kernel may not load it by itself.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_alone_a_module_is_missing() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        patient.is_healthy()?;
        patient.works()?;
        let keep = host.sh("cat /proc/sys/kernel/modprobe")?;
        host.sh("nft flush ruleset; sleep 1; rmmod nft_masq; echo /bin/false >/proc/sys/kernel/modprobe")?;
        let refused = patient.program("firewall-reload").run_in(host)?;
        ensure!(!refused.success(), "the module came back: {refused}");
        let findings = patient.suffers(&["kernel"])?;
        patient.follow(&findings)?;
        host.sh(&format!("echo {} >/proc/sys/kernel/modprobe", keep.trim()))?;
        patient.is_healthy()?;
        patient.works()
    });
}

/// Bridges that are ports of VRFs and in VLANs are judged by what they are.
#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_no_false_alarms() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        host.sh("ip link add red type vrf table 10; ip link set red up")?;
        let vlan = |number: u8| {
            let network = Network::v4(number).option("vlan", &format!("{}", 40 + number));
            network.set("network_interface", "shared")
        };
        let in_vrf = Network::new(5).option("vrf", "red");
        let [three, four, five] = ["c3", "c4", "c5"].map(|name| host.container(name));
        let (three, four, five) = (three?, four?, five?);
        patient.attach(&three, "c3", &Request::new("c3").on(&vlan(3), 2))?;
        patient.attach(&four, "c4", &Request::new("c4").on(&vlan(4), 2))?;
        patient.attach(&five, "c5", &Request::new("c5").on(&in_vrf, 2))?;
        patient.works()?;
        patient.suffers(&[]).map(drop)
    });
}

/// Many containers on a healthy host, of whom nothing is to be said.
#[test]
fn many_healthy_containers() {
    lab::run(|host| {
        let patient = Patient::new(host)?;
        let net = Network::new(3).dns();
        let mut containers = Vec::new();
        for number in 2..40_u8 {
            let id = format!("m{number}");
            let netns = host.container(&id)?;
            let port = 9000 + u16::from(number);
            let request = Request::new(&id)
                .on(&net, number)
                .publish("", port, 80, "udp");
            patient.attach(&netns, &id, &request)?;
            containers.push(netns);
        }
        patient.is_healthy()?;
        let finished = patient.doctor(&[])?;
        assert_eq!(finished.stdout, "healthy (networks: 3, containers: 40)\n");
        Ok(())
    });
}
