//! Findings from made-up facts: what a lab cannot have, or has too seldom.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use wire::state::Protocol;

use super::facts::{Filter, Holder, Link, Listener, Network, Process, Responder, Route};
use super::packet::{Packet, Rules, State};
use super::remedy::Caller;
use super::*;
use crate::nft::listing::{Base, Chain, Data, Element, Expression, Family, Rule, Table, Verdict};
use crate::observed::FirewallDriver;
use crate::plan::firewall::{all_elements, merge_subnets};
use crate::plan::ruleset::{self, Difference, TABLE};

fn link(index: u32, kind: &str) -> Link {
    Link {
        index,
        kind: kind.to_owned(),
        mac: None,
        up: true,
        controller: None,
        mtu: 1500,
        hairpin: false,
        addresses: BTreeSet::new(),
    }
}

fn route(destination: &str, interface: u32) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: None,
        interface: Some(interface),
        metric: 0,
        by_kernel: false,
        refuses: false,
    }
}

/// Our table as it should be.
fn our_table() -> (Vec<Chain>, Vec<Rule>) {
    let whole = ruleset::rebuild(&BTreeMap::new(), &Difference::default(), &[]);
    let bytes = crate::nft::netlink::encode(&whole, 1).unwrap();
    let messages = || crate::nft::notice::messages(bytes.bytes());
    let chains = messages().filter_map(crate::nft::listing::chain);
    let rules = messages().filter_map(crate::nft::listing::rule);
    (chains.collect(), rules.collect())
}

/// A healthy host: network `one` on `br1`, with a container `c1` that publishes port 80, and a way out by `up0`.
fn healthy() -> Facts {
    let network = json!({
        "version": 1, "id": "oneid", "name": "one", "bridge": "br1", "managed": true, "owns_bridge": true,
        "sysctl_file": null, "vrf": null, "internal": false, "isolation": "none", "filtered": true,
        "subnets": [{"subnet": "10.9.1.0/24", "gateway": "10.9.1.1"}], "may_overlap": false, "outbound_addr4": null,
        "outbound_addr6": null, "dns": {"listen": ["10.9.1.1"], "port": 53}, "no_loopback6": false,
    });
    let network: wire::state::NetworkRecord = serde_json::from_value(network).unwrap();
    let container = json!({"version": 1, "id": "c1", "attachments": [{
        "network": "oneid", "netns": "/run/netns/x", "netns_inode": 7, "interface": "eth0", "host_interface": "veth0",
        "host_mac": "02:00:00:00:00:01", "addresses": ["10.9.1.2/24"], "detached_routes": [], "zone_file": "one",
        "default_metric": 100, "ports": [
            {"host_address": null, "host_port": 80, "container_port": 80, "count": 1, "protocol": "tcp"}],
    }]});
    let networks = BTreeMap::from([(network.id.clone(), network)]);
    let containers = vec![serde_json::from_value(container).unwrap()];
    let mut wanted = all_elements(&networks, &containers);
    merge_subnets(&mut wanted);
    let (chains, rules) = our_table();
    let listener = |protocol| Listener {
        protocol,
        address: "10.9.1.1".parse().unwrap(),
        port: 53,
        holder: Some(holder(50, "dnsd")),
    };
    Facts {
        caller: Caller {
            program: "netbackend".to_owned(),
            config: "/c".into(),
            ..Caller::default()
        },
        networks,
        containers,
        damaged: Vec::new(),
        leftovers: Vec::new(),
        namespaces: [7].into(),
        host: host(),
        inside: BTreeMap::from([(7, inside())]),
        settings: settings(),
        filter: Filter {
            driver: FirewallDriver::Nftables,
            by_program: false,
            chains,
            rules: Rules::new(rules, BTreeMap::new()),
            wanted,
            difference: Difference::default(),
            refusal: None,
            iptables: true,
            firewalld: None,
        },
        responder: Responder {
            directory: "/c/aardvark-dns".into(),
            binary: Some("/usr/bin/dnsd".into()),
            pid_file: Some("50".to_owned()),
            process: Some(Process {
                pid: 50,
                stopped: false,
                here: true,
            }),
            unnamed: Vec::new(),
            zones: BTreeMap::from([("one".to_owned(), Ok(["c1".parse().unwrap()].into()))]),
        },
        listeners: vec![listener(Protocol::Tcp), listener(Protocol::Udp)],
    }
}

fn host() -> Network {
    let mut bridge = link(2, "bridge");
    bridge.addresses = ["10.9.1.1/24".parse().unwrap()].into();
    let mut veth = link(3, "veth");
    veth.mac = Some("02:00:00:00:00:01".parse().unwrap());
    veth.controller = Some(2);
    let mut default = route("0.0.0.0/0", 1);
    default.gateway = Some("192.0.2.2".parse().unwrap());
    Network {
        links: BTreeMap::from([
            ("up0".to_owned(), link(1, "physical")),
            ("br1".to_owned(), bridge),
            ("veth0".to_owned(), veth),
        ]),
        routes: vec![default, route("10.9.1.0/24", 2)],
        ..Network::default()
    }
}

fn inside() -> Network {
    let mut eth = link(9, "veth");
    eth.addresses = ["10.9.1.2/24".parse().unwrap()].into();
    Network {
        links: BTreeMap::from([("eth0".to_owned(), eth)]),
        routes: vec![route("0.0.0.0/0", 9)],
        ..Network::default()
    }
}

fn settings() -> BTreeMap<String, String> {
    let one = [
        "net.ipv4.ip_forward",
        "net.ipv4.conf.br1.forwarding",
        "net.ipv4.conf.up0.forwarding",
        "net.ipv4.conf.br1.route_localnet",
    ];
    let mut all: BTreeMap<_, _> = one.map(|name| (name.to_owned(), "1\n".to_owned())).into();
    all.insert("net.ipv4.conf.br1.rp_filter".to_owned(), "2\n".to_owned());
    all
}

fn holder(pid: u32, name: &str) -> Holder {
    Holder {
        pid,
        name: name.to_owned(),
        unit: None,
    }
}

/// Breaks a healthy host; its one finding.
#[track_caller]
fn only(break_it: impl FnOnce(&mut Facts)) -> (&'static str, Vec<String>) {
    let mut facts = healthy();
    break_it(&mut facts);
    let findings = examine(&facts).findings;
    let [finding] = findings.as_slice() else {
        panic!("expected one finding: {findings:#?}");
    };
    let remedy = finding.remedy.iter().map(ToString::to_string);
    (finding.code, remedy.collect())
}

/// A base chain of hook forward that drops, with these rules.
fn stranger(facts: &mut Facts, table: Table, rules: Vec<Vec<Expression>>) {
    let chain = Chain {
        table: table.clone(),
        name: "FORWARD".to_owned(),
        base: Some(Base {
            kind: "filter".to_owned(),
            hook: 2,
            drops: true,
        }),
    };
    facts.filter.chains.push(chain);
    let rules = rules.into_iter().map(|expressions| Rule {
        table: table.clone(),
        chain: "FORWARD".to_owned(),
        expressions,
    });
    let mut all = our_table().1;
    all.extend(rules);
    facts.filter.rules = Rules::new(all, BTreeMap::new());
}

#[test]
fn a_healthy_host_has_no_findings() {
    let report = examine(&healthy());
    assert_eq!(report.findings, []);
    assert!(report.is_healthy());
    assert_eq!(report.text(), "healthy (networks: 1, containers: 1)\n");
}

#[test]
fn a_kernel_that_refuses_is_told_instead_of_a_table_that_is_gone() {
    let (code, remedy) = only(|facts| {
        facts.filter.chains.clear();
        facts.filter.refusal = Some("add rule: Operation not supported".to_owned());
    });
    assert_eq!(code, "kernel");
    assert!(
        remedy[0].starts_with("modprobe -a nf_tables "),
        "{remedy:?}"
    );
    assert_eq!(remedy[1], "netbackend --config /c firewall-reload");
}

#[test]
fn iptables_is_told_by_its_own_program() {
    let table = (Family::IP, "filter".to_owned());
    let (code, remedy) = only(|facts| stranger(facts, table, Vec::new()));
    let expected = [
        "iptables -I FORWARD -i br1 -j ACCEPT",
        "iptables -I FORWARD -o br1 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
    ];
    assert_eq!(code, "foreign-drop");
    assert_eq!(remedy, expected);
    let table = (Family::IP, "iptables-legacy/filter".to_owned());
    let (_, remedy) = only(|facts| stranger(facts, table, Vec::new()));
    let legacy = expected.map(|words| words.replace("iptables", "iptables-legacy"));
    assert_eq!(remedy, legacy);
}

#[test]
fn what_is_not_understood_is_a_warning() {
    let table = (Family::INET, "mine".to_owned());
    let perhaps = vec![
        Expression::Other("osf".to_owned()),
        Expression::Verdict(Verdict::Accept),
    ];
    let (code, _) = only(|facts| stranger(facts, table.clone(), vec![perhaps]));
    assert_eq!(code, "foreign-policy");
    let mut facts = healthy();
    let all = vec![Expression::Verdict(Verdict::Accept)];
    stranger(&mut facts, table, vec![all]);
    assert_eq!(examine(&facts).findings, []);
}

#[test]
fn engines_hold_ports_that_they_publish() {
    let listens = |name: &'static str| {
        move |facts: &mut Facts| {
            facts.listeners.push(Listener {
                protocol: Protocol::Tcp,
                address: "0.0.0.0".parse().unwrap(),
                port: 80,
                holder: Some(holder(99, name)),
            });
        }
    };
    let mut facts = healthy();
    listens("conmon")(&mut facts);
    assert_eq!(examine(&facts).findings, []);
    assert_eq!(
        only(listens("nginx")),
        ("port-taken", vec!["kill 99".to_owned()])
    );
    let (_, remedy) = only(|facts| {
        listens("nginx")(facts);
        let last = facts
            .listeners
            .last_mut()
            .and_then(|listener| listener.holder.as_mut());
        last.unwrap().unit = Some("nginx.service".to_owned());
    });
    assert_eq!(remedy, ["systemctl status nginx.service"]);
    let (_, remedy) = only(|facts| {
        listens("systemd")(facts);
        facts.listeners.last_mut().unwrap().holder = Some(holder(1, "systemd"));
    });
    assert_eq!(remedy, ["systemctl list-sockets --all"], "never `kill 1`");
}

/// A container that publishes port 53 is in the responder's way, which is not to be ended for it.
#[test]
fn the_responder_is_not_ended_for_a_port() {
    let (code, remedy) = only(|facts| {
        facts.containers[0].attachments[0].ports[0].host_port = 53;
    });
    assert_eq!((code, remedy), ("port-taken", Vec::new()));
}

/// A service that is started when somebody connects has its socket held by the first process.
#[test]
fn the_first_process_is_not_ended() {
    let (code, remedy) = only(|facts| {
        facts.responder.process = None;
        for listener in &mut facts.listeners {
            listener.holder = Some(holder(1, "systemd"));
        }
    });
    let start = "/usr/bin/dnsd --config /c/aardvark-dns -p 53 run";
    assert_eq!(code, "responder-port-taken");
    assert_eq!(remedy, ["systemctl list-sockets --all", start]);
}

/// Anybody may give a process any name.
#[test]
fn names_of_others_do_not_reach_the_terminal_as_they_are() {
    let mut facts = healthy();
    facts.listeners.push(Listener {
        protocol: Protocol::Tcp,
        address: "0.0.0.0".parse().unwrap(),
        port: 80,
        holder: Some(holder(99, "\u{1b}[2J\nbroken: x")),
    });
    let text = examine(&facts).text();
    let first = text.lines().next().unwrap();
    assert!(
        first.contains(r"\u{1b}[2J\nbroken: x (process 99)"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn a_link_of_somebody_else_is_renamed() {
    let (code, remedy) = only(|facts| {
        facts.host.links.get_mut("br1").unwrap().kind = "bond".to_owned();
        facts
            .host
            .links
            .insert("other0".to_owned(), link(8, "veth"));
    });
    let expected = [
        "ip link set br1 down",
        "ip link set br1 name other1",
        "podman network reload c1",
    ];
    assert_eq!(
        (code, remedy),
        ("bridge-missing", expected.map(str::to_owned).into())
    );
}

#[test]
fn where_nothing_is_on_record_is_said() {
    let mut facts = healthy();
    facts.networks.clear();
    facts.containers.clear();
    facts.listeners.clear();
    facts.caller.program = "nb".to_owned();
    facts.caller.is_root = true;
    let root = examine(&facts).text();
    let nothing = "healthy (networks: 0, containers: 0)\nnothing is on record in /c";
    assert_eq!(root, format!("{nothing}\n"));
    facts.caller.is_root = false;
    let user = examine(&facts).text();
    let command = "podman unshare --rootless-netns nb doctor";
    let hint = format!("{nothing}; for containers of your own:\n        {command}\n");
    assert_eq!(user, hint);
    assert_eq!(examine(&facts).document().config, "/c");
}

#[test]
fn a_responder_at_another_port_is_asked_there() {
    let table = (Family::INET, "mine".to_owned());
    let (code, remedy) = only(|facts| {
        for network in facts.networks.values_mut() {
            network.dns.as_mut().unwrap().port = 1153;
        }
        facts
            .listeners
            .iter_mut()
            .for_each(|listener| listener.port = 1153);
        stranger(facts, table, Vec::new());
        let chain = facts.filter.chains.last_mut().unwrap();
        chain.base.as_mut().unwrap().hook = 1;
    });
    let expected = [
        "nft insert rule inet mine FORWARD iifname br1 udp dport 1153 accept",
        "nft insert rule inet mine FORWARD iifname br1 tcp dport 1153 accept",
    ];
    assert_eq!(
        (code, remedy),
        ("foreign-drop", expected.map(str::to_owned).into())
    );
}

/// An engine that publishes port 53 keeps it for a container, which nobody is told to end.
#[test]
fn an_engine_at_the_port_of_the_responder_is_left_alone() {
    let (code, remedy) = only(|facts| {
        facts.responder.process = None;
        for listener in &mut facts.listeners {
            listener.address = "0.0.0.0".parse().unwrap();
            listener.holder = Some(holder(99, "conmon"));
        }
    });
    assert_eq!(code, "responder-dead");
    assert_eq!(remedy, ["/usr/bin/dnsd --config /c/aardvark-dns -p 53 run"]);
}

#[test]
fn a_responder_in_another_namespace_answers_nobody() {
    let (code, remedy) = only(|facts| {
        facts.listeners.clear();
        facts.responder.process.as_mut().unwrap().here = false;
    });
    assert_eq!(code, "responder-elsewhere");
    let start = "/usr/bin/dnsd --config /c/aardvark-dns -p 53 run";
    assert_eq!(remedy, ["kill 50", start]);
}

#[test]
fn ids_are_as_short_as_those_of_engines() {
    let id = "0123456789abcdef".repeat(4);
    let mut facts = healthy();
    facts.containers[0].id = id.parse().unwrap();
    facts
        .responder
        .zones
        .insert("one".to_owned(), Ok(BTreeSet::new()));
    let finding = &examine(&facts).findings[0];
    assert!(
        finding.what.ends_with(" does not name 0123456789ab"),
        "{}",
        finding.what
    );
    assert_eq!(
        finding.remedy[0].to_string(),
        "podman network reload 0123456789ab"
    );
}

#[test]
fn a_full_table_of_connections_is_a_warning() {
    let (code, remedy) = only(|facts| {
        let set = [("max", "1000"), ("count", "950")];
        let set = set.map(|(name, value)| {
            (
                format!("net.netfilter.nf_conntrack_{name}"),
                value.to_owned(),
            )
        });
        facts.settings.extend(set);
    });
    assert_eq!(code, "connections-full");
    assert_eq!(remedy, ["sysctl -w net.netfilter.nf_conntrack_max=2000"]);
}

#[test]
fn one_address_for_two_containers() {
    let (code, remedy) = only(|facts| {
        let mut twin = facts.containers[0].clone();
        twin.id = "c2".parse().unwrap();
        twin.attachments[0].ports.clear();
        twin.attachments[0].zone_file = None;
        facts.containers.push(twin);
    });
    assert_eq!(code, "address-shared");
    assert_eq!(
        remedy,
        [
            "podman network disconnect -f one c2",
            "podman network connect one c2"
        ]
    );
}

#[test]
fn firewalld_must_run_for_its_driver() {
    let (code, remedy) = only(|facts| {
        facts.filter.driver = FirewallDriver::Firewalld;
        facts.filter.firewalld = Some(false);
        facts.filter.chains.clear();
    });
    assert_eq!(code, "firewalld");
    assert_eq!(remedy[0], "systemctl start firewalld");
}

/// An ordinary user's remedies are for another namespace than the one that they are pasted in.
#[test]
fn remedies_of_a_user_go_where_the_containers_are() {
    let (_, remedy) = only(|facts| {
        facts.caller.rootless = true;
        facts.host.links.get_mut("veth0").unwrap().up = false;
    });
    assert_eq!(
        remedy,
        ["podman unshare --rootless-netns ip link set veth0 up"]
    );
}

/// Networks in VLANs of one bridge have their gateways elsewhere.
#[test]
fn gateways_of_networks_that_share_a_bridge_are_not_missed() {
    let mut facts = healthy();
    let mut second = facts.networks.values().next().unwrap().clone();
    second.id = "twoid".parse().unwrap();
    second.subnets[0] = wire::state::SubnetRecord {
        subnet: "10.9.2.0/24".parse().unwrap(),
        gateway: Some("10.9.2.1".parse().unwrap()),
    };
    facts.networks.insert(second.id.clone(), second);
    assert_eq!(examine(&facts).findings, []);
}

#[test]
fn rules_by_the_program_are_counted_only() {
    let mut facts = healthy();
    facts.filter.by_program = true;
    let mut rules = our_table().1;
    for rule in &mut rules {
        rule.expressions.push(Expression::NoEffect);
    }
    facts.filter.rules = Rules::new(rules.clone(), BTreeMap::new());
    assert_eq!(examine(&facts).findings, []);
    rules.retain(|rule| rule.chain != "PREROUTING");
    facts.filter.rules = Rules::new(rules, BTreeMap::new());
    assert_eq!(examine(&facts).findings[0].code, "rules-missing");
}

fn packet() -> Packet {
    Packet {
        from: ("br1".to_owned(), 2),
        to: Some(("up0".to_owned(), 1)),
        source: "10.9.1.2".parse().unwrap(),
        destination: "203.0.113.7".parse().unwrap(),
        protocol: 6,
        port: 443,
        state: State::New,
    }
}

/// What may become of a packet in a chain of these rules that drops the rest: (accepted, dropped).
fn judged(
    rules: Vec<Vec<Expression>>,
    sets: BTreeMap<(Table, String), Vec<Element>>,
) -> (bool, bool) {
    let table: Table = (Family::INET, "t".to_owned());
    let rules = rules.into_iter().map(|expressions| Rule {
        table: table.clone(),
        chain: "c".to_owned(),
        expressions,
    });
    let outcomes = Rules::new(rules.collect(), sets).judge(&table, "c", true, &packet());
    (outcomes.accept, outcomes.drop)
}

fn accept() -> Expression {
    Expression::Verdict(Verdict::Accept)
}

fn payload(offset: usize, length: usize) -> Expression {
    let base = if length == 2 { 2 } else { 1 };
    Expression::Payload {
        base,
        offset,
        length,
        to: 0,
    }
}

fn compare(operator: u32, with: &[u8]) -> Expression {
    Expression::Compare {
        operator,
        from: 0,
        with: with.to_vec(),
    }
}

/// The same of one rule.
#[track_caller]
fn assert_judged(rule: Vec<Expression>, expected: (bool, bool)) {
    let found = judged(vec![rule.clone()], BTreeMap::new());
    assert_eq!(found, expected, "{rule:?}");
}

#[test]
fn interfaces_and_addresses_are_judged_as_by_the_kernel() {
    let interface = |name: &[u8]| {
        vec![
            Expression::Meta { key: 6, to: 0 },
            compare(0, name),
            accept(),
        ]
    };
    let mask = |octets: [u8; 4]| Expression::Bitwise {
        from: 0,
        to: 0,
        mask: octets.to_vec(),
        xor: vec![0; 4],
    };
    for (rule, expected) in [
        (vec![accept()], (true, false)),
        (interface(b"br1\0"), (true, false)),
        (interface(b"br"), (true, false)),
        (interface(b"br2\0"), (false, true)),
        (
            vec![
                payload(12, 4),
                mask([255, 255, 0, 0]),
                compare(0, &[10, 9, 0, 0]),
                accept(),
            ],
            (true, false),
        ),
        (
            vec![
                payload(12, 4),
                mask([255, 255, 0, 0]),
                compare(1, &[10, 9, 0, 0]),
                accept(),
            ],
            (false, true),
        ),
    ] {
        assert_judged(rule, expected);
    }
}

#[test]
fn ports_are_judged_as_by_the_kernel() {
    for (rule, expected) in [
        // The destination port is known, the source port is not.
        (
            vec![payload(2, 2), compare(0, &[1, 187]), accept()],
            (true, false),
        ),
        (
            vec![payload(2, 2), compare(5, &[1, 188]), accept()],
            (false, true),
        ),
        (
            vec![payload(0, 2), compare(0, &[1, 187]), accept()],
            (true, true),
        ),
        (
            vec![
                Expression::Port {
                    first: 400,
                    last: 500,
                },
                accept(),
            ],
            (true, false),
        ),
    ] {
        assert_judged(rule, expected);
    }
}

#[test]
fn what_is_not_in_a_packet_is_judged_as_by_the_kernel() {
    for (rule, expected) in [
        (
            vec![Expression::Other("limit".to_owned()), accept()],
            (true, true),
        ),
        (
            vec![
                Expression::ConnectionState {
                    states: 2,
                    inverted: false,
                },
                accept(),
            ],
            (false, true),
        ),
        (
            vec![
                Expression::ConnectionState {
                    states: 2,
                    inverted: true,
                },
                accept(),
            ],
            (true, false),
        ),
        (
            vec![Expression::Verdict(Verdict::Jump("c".to_owned()))],
            (true, true),
        ),
        (vec![Expression::Verdict(Verdict::Queue)], (true, true)),
    ] {
        assert_judged(rule, expected);
    }
}

fn element(port: u16, ends: bool, leads_to: Data) -> Element {
    Element {
        key: port.to_be_bytes().to_vec(),
        last: None,
        ends,
        leads_to,
    }
}

/// The destination port is looked up in a set, or in a map to a register, of these elements.
fn looked_up(to: Option<usize>, inverted: bool, elements: Option<Vec<Element>>) -> (bool, bool) {
    let lookup = Expression::Lookup {
        set: "s".to_owned(),
        from: 0,
        to,
        inverted,
    };
    let mut rule = vec![payload(2, 2), lookup];
    rule.extend(to.is_none().then(accept));
    let sets =
        elements.map(|elements| (((Family::INET, "t".to_owned()), "s".to_owned()), elements));
    judged(vec![rule], sets.into_iter().collect())
}

#[test]
fn sets_are_looked_into() {
    let element = |port, ends| element(port, ends, Data::None);
    for (elements, inverted, expected) in [
        (vec![element(443, false)], false, (true, false)),
        (vec![element(443, false)], true, (false, true)),
        (vec![element(80, false)], false, (false, true)),
        (vec![], false, (false, true)),
        // 400 to 499
        (
            vec![element(400, false), element(500, true)],
            false,
            (true, false),
        ),
        (
            vec![element(0, true), element(400, false), element(443, true)],
            false,
            (false, true),
        ),
        // One interval ends where the next one begins.
        (
            vec![
                element(400, false),
                element(443, true),
                element(443, false),
                element(444, true),
            ],
            false,
            (true, false),
        ),
    ] {
        let found = looked_up(None, inverted, Some(elements.clone()));
        assert_eq!(found, expected, "{elements:?} {inverted}");
    }
    assert_eq!(looked_up(None, false, None), (true, true), "an unknown set");
}

#[test]
fn maps_are_looked_into() {
    let register = Some(crate::nft::listing::VERDICT);
    for (port, verdict, expected) in [
        (443, Verdict::Accept, (true, false)),
        (443, Verdict::Drop, (false, true)),
        (80, Verdict::Accept, (false, true)),
    ] {
        let elements = vec![element(port, false, Data::Verdict(verdict))];
        let found = looked_up(register, false, Some(elements.clone()));
        assert_eq!(found, expected, "{elements:?}");
    }
}

/// A chain that is called goes on behind the call, one that is gone to does not.
#[test]
fn chains_call_each_other() {
    let table: Table = (Family::INET, TABLE.to_owned());
    let judge = |call: Verdict, inner: Verdict| {
        let rule = |chain: &str, verdict: Verdict| Rule {
            table: table.clone(),
            chain: chain.to_owned(),
            expressions: vec![Expression::Verdict(verdict)],
        };
        let rules = vec![
            rule("a", call),
            rule("a", Verdict::Accept),
            rule("b", inner),
        ];
        let outcomes = Rules::new(rules, BTreeMap::new()).judge(&table, "a", true, &packet());
        (outcomes.accept, outcomes.drop)
    };
    let (jump, goto) = (
        || Verdict::Jump("b".to_owned()),
        || Verdict::Goto("b".to_owned()),
    );
    assert_eq!(judge(jump(), Verdict::Return), (true, false));
    assert_eq!(judge(jump(), Verdict::Drop), (false, true));
    assert_eq!(judge(goto(), Verdict::Return), (false, true));
    assert_eq!(judge(goto(), Verdict::Accept), (true, false));
}

/// Findings of a host that has these routes instead of its default route, after further changes.
#[track_caller]
fn without_way_out(routes: &[&str], change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = healthy();
    let uplink = facts.host.links.get_mut("up0").unwrap();
    uplink.addresses.insert("192.0.2.1/24".parse().unwrap());
    facts.host.routes.remove(0);
    let more = routes.iter().map(|destination| Route {
        gateway: Some("192.0.2.2".parse().unwrap()),
        ..route(destination, 1)
    });
    facts.host.routes.extend(more);
    change(&mut facts);
    examine(&facts).findings
}

#[track_caller]
fn is_uplink_route(findings: &[Finding], severity: Severity) {
    let [finding] = findings else {
        panic!("expected one finding: {findings:#?}");
    };
    assert_eq!((finding.code, finding.severity), ("uplink-route", severity));
    assert_eq!(finding.remedy, []);
}

#[test]
fn a_host_with_an_uplink_and_no_next_hop_is_broken() {
    let findings = without_way_out(&[], |_| {});
    is_uplink_route(&findings, Severity::Broken);
    assert!(
        findings[0]
            .why
            .contains("`ip route add default via GATEWAY dev up0`"),
        "{findings:?}"
    );
    let refusing = |facts: &mut Facts| {
        let mut refusing = route("0.0.0.0/0", 1);
        refusing.refuses = true;
        facts.host.routes.push(refusing);
    };
    is_uplink_route(&without_way_out(&[], refusing), Severity::Broken);
    // Subnets of 8 bits of one's own address are connected, and not the world.
    let connected = |facts: &mut Facts| {
        let mut connected = route("25.0.0.0/8", 1);
        connected.by_kernel = true;
        facts.host.routes.push(connected);
    };
    is_uplink_route(&without_way_out(&[], connected), Severity::Broken);
    let rootless = without_way_out(&[], |facts| facts.caller.rootless = true);
    is_uplink_route(&rootless, Severity::Broken);
    assert!(rootless[0].what.contains("namespace"), "{rootless:?}");
}

#[test]
fn who_may_be_offline_on_purpose_is_not_broken() {
    let routed = without_way_out(&["10.0.0.0/8", "198.51.100.7/32"], |_| {});
    is_uplink_route(&routed, Severity::Warning);
    let change = |change: fn(&mut Link)| {
        without_way_out(&[], |facts| {
            change(facts.host.links.get_mut("up0").unwrap());
        })
    };
    for offline in [
        change(|link| link.up = false),
        change(|link| link.addresses.clear()),
        change(|link| link.addresses = ["169.254.1.1/16".parse().unwrap()].into()),
        change(|link| link.kind = "dummy".to_owned()),
        // Somebody's bridge with nothing, or with containers, on it.
        change(|link| link.kind = "bridge".to_owned()),
    ] {
        is_uplink_route(&offline, Severity::Warning);
    }
    let with_port = without_way_out(&[], |facts| {
        facts.host.links.get_mut("up0").unwrap().kind = "bridge".to_owned();
        let mut port = link(20, "bond");
        port.controller = Some(1);
        facts.host.links.insert("bond0".to_owned(), port);
    });
    is_uplink_route(&with_port, Severity::Broken);
}

#[test]
fn ways_outside_that_are_no_default_route_of_the_main_table() {
    assert_eq!(without_way_out(&["0.0.0.0/1", "128.0.0.0/1"], |_| {}), []);
    assert_eq!(without_way_out(&["12.0.0.0/8"], |_| {}), []);
    let detour = |facts: &mut Facts| facts.host.detours.push(route("0.0.0.0/0", 1));
    assert_eq!(without_way_out(&[], detour), []);
}

#[test]
fn networks_that_lead_nowhere_need_no_way_outside() {
    let change = |change: fn(&mut wire::state::NetworkRecord)| {
        without_way_out(&[], |facts| {
            facts.networks.values_mut().for_each(change);
        })
    };
    let told = |findings: Vec<Finding>| {
        let mut findings = findings.into_iter();
        findings.any(|finding| finding.code == "uplink-route")
    };
    assert!(told(change(|_| {})));
    assert!(!told(change(|network| network.internal = true)));
    assert!(!told(change(
        |network| network.vrf = Some("red".parse().unwrap())
    )));
    assert!(!told(without_way_out(&[], |facts| {
        facts.containers[0].attachments[0].default_metric = None;
    })));
}

/// Of IPv6 only those hosts are told that have addresses of the world.
#[test]
fn a_host_with_ipv6_needs_a_way_outside_by_it() {
    let with = |address: &str| {
        let mut facts = healthy();
        let uplink = facts.host.links.get_mut("up0").unwrap();
        uplink.addresses.insert(address.parse().unwrap());
        let subnet = json!({"subnet": "fd09::/64", "gateway": null});
        let network = facts.networks.values_mut().next().unwrap();
        network
            .subnets
            .push(serde_json::from_value(subnet).unwrap());
        let mut findings = examine(&facts).findings;
        findings.retain(|finding| finding.code == "uplink-route");
        findings
    };
    assert_eq!(with("fe80::1/64"), []);
    assert_eq!(with("fd07::1/64"), []);
    let findings = with("2001:db8::1/64");
    is_uplink_route(&findings, Severity::Broken);
    assert!(
        findings[0].why.contains("net.ipv6.conf.up0.accept_ra = 2"),
        "{findings:?}"
    );
}
