//! Packet filters of others that drop what containers need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wire::names::NetworkId;
use wire::state::NetworkRecord;

use super::facts::{Facts, Link};
use super::packet::{Packet, State};
use super::remedy::Command;
use super::{Finding, listed};
use crate::nft::legacy;
use crate::nft::listing::{Chain, Family};
use crate::observed::FirewallDriver;
use crate::plan::ruleset::TABLE;

/// firewalld is told of the subnets; what it does with them is its business unless it surely drops them.
const FIREWALLD: &str = "firewalld";

/// `NF_INET_LOCAL_IN`, `NF_INET_FORWARD`.
const INPUT: u32 = 1;
const FORWARD: u32 = 2;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Out,
    Answer,
    Published,
    Names,
}

impl Purpose {
    fn text(self) -> &'static str {
        match self {
            Self::Out => "containers reach nobody outside",
            Self::Answer => "containers get no answers from outside",
            Self::Published => "published ports are not reached",
            Self::Names => "containers resolve no names",
        }
    }
}

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    if facts.filter.driver == FirewallDriver::None {
        return Vec::new();
    }
    let packets = packets(facts);
    let strangers = facts.filter.chains.iter().filter(|chain| {
        let ours = chain.table.0 == Family::INET && chain.table.1 == TABLE;
        let base = chain.base.as_ref();
        !ours
            && base.is_some_and(|base| base.kind != "nat" && [INPUT, FORWARD].contains(&base.hook))
    });
    strangers
        .filter_map(|chain| judge(chain, &packets, facts))
        .collect()
}

/// Made-up packets of a network.
struct Probes<'a> {
    bridge: &'a str,
    packets: Vec<(Purpose, Packet)>,
}

/// The ways out of the host, and the networks with published ports.
struct Surroundings<'a> {
    out4: Option<(String, u32)>,
    out6: Option<(String, u32)>,
    publishing: BTreeSet<&'a NetworkId>,
}

impl<'a> Surroundings<'a> {
    fn new(facts: &'a Facts) -> Self {
        let out = |v4: bool| {
            let (name, link) = facts.host.way_out(v4)?;
            Some((name.to_owned(), link.index))
        };
        let containers = facts.containers.iter();
        let attachments = containers.flat_map(|container| &container.attachments);
        let publishing = attachments.filter(|on| !on.ports.is_empty());
        Self {
            out4: out(true),
            out6: out(false),
            publishing: publishing.map(|on| &on.network).collect(),
        }
    }
}

fn packets(facts: &Facts) -> Vec<Probes<'_>> {
    let surroundings = Surroundings::new(facts);
    let networks = facts.networks.values();
    let filtered = networks.filter(|network| network.filtered && network.vrf.is_none());
    let each = filtered.filter_map(|network| {
        let bridge = network.bridge.as_str();
        let link = facts.host.links.get(bridge)?;
        let packets = of_network(network, link, &surroundings);
        Some(Probes { bridge, packets })
    });
    each.collect()
}

fn of_network(
    network: &NetworkRecord,
    link: &Link,
    surroundings: &Surroundings<'_>,
) -> Vec<(Purpose, Packet)> {
    let mut packets = Vec::new();
    let bridge = (network.bridge.to_string(), link.index);
    for subnet in &network.subnets {
        let v4 = subnet.subnet.addr().is_ipv4();
        let Some(container) = subnet.subnet.hosts().nth(2) else {
            continue;
        };
        let names = |gateway: IpAddr| Packet {
            from: bridge.clone(),
            to: None,
            source: container,
            destination: gateway,
            protocol: UDP,
            port: port(network),
            state: State::New,
        };
        let listens = |gateway: &IpAddr| {
            network
                .dns
                .as_ref()
                .is_some_and(|dns| dns.listen.contains(gateway))
        };
        let gateway = subnet.gateway.filter(listens);
        packets.extend(gateway.map(|gateway| (Purpose::Names, names(gateway))));
        let out = if v4 {
            &surroundings.out4
        } else {
            &surroundings.out6
        };
        let Some(out) = out.as_ref().filter(|_| !network.internal) else {
            continue;
        };
        let passing = |state: State, inwards: bool| {
            let (from, to) = if inwards {
                (out, &bridge)
            } else {
                (&bridge, out)
            };
            let (source, destination) = if inwards {
                (outside(v4), container)
            } else {
                (container, outside(v4))
            };
            Packet {
                from: from.clone(),
                to: Some(to.clone()),
                source,
                destination,
                protocol: TCP,
                port: UNCOMMON,
                state,
            }
        };
        packets.push((Purpose::Out, passing(State::New, false)));
        packets.push((Purpose::Answer, passing(State::Established, true)));
        if surroundings.publishing.contains(&network.id) {
            packets.push((Purpose::Published, passing(State::Published, true)));
        }
    }
    packets
}

/// The port of the responder. Questions to port 53 are translated before they are judged.
fn port(network: &NetworkRecord) -> u16 {
    network.dns.as_ref().map_or(53, |dns| dns.port)
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// A port that no rule is likely to be about.
const UNCOMMON: u16 = 54_321;

/// An address that is nobody's (RFC 5737, RFC 3849).
fn outside(v4: bool) -> IpAddr {
    if v4 {
        IpAddr::from([203, 0, 113, 77])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x77])
    }
}

/// What is dropped, and whose.
#[derive(Default)]
struct Dropped<'a>(BTreeMap<Purpose, BTreeSet<&'a str>>);

impl<'a> Dropped<'a> {
    fn note(&mut self, purpose: Purpose, bridge: &'a str) {
        self.0.entry(purpose).or_default().insert(bridge);
    }

    fn bridges(&self) -> BTreeSet<&'a str> {
        self.0.values().flatten().copied().collect()
    }

    fn told(&self) -> String {
        let each = self.0.iter();
        let each = each.map(|(what, bridges)| format!("{} ({})", what.text(), listed(bridges)));
        each.collect::<Vec<_>>().join("; ")
    }
}

/// What a chain drops for sure, and what it may drop by its policy.
fn sort<'a>(chain: &Chain, probes: &'a [Probes<'a>], facts: &Facts) -> (Dropped<'a>, Dropped<'a>) {
    let (mut surely, mut perhaps) = (Dropped::default(), Dropped::default());
    let Some(base) = &chain.base else {
        return (surely, perhaps);
    };
    for probe in probes {
        let passes = base.hook == FORWARD;
        let packets = probe.packets.iter();
        for (purpose, packet) in packets.filter(|(_, packet)| packet.to.is_some() == passes) {
            let rules = &facts.filter.rules;
            let outcomes = rules.judge(&chain.table, &chain.name, base.drops, packet);
            if outcomes.drop && !outcomes.accept {
                surely.note(*purpose, probe.bridge);
            } else if outcomes.drop && base.drops {
                perhaps.note(*purpose, probe.bridge);
            }
        }
    }
    (surely, perhaps)
}

fn judge(chain: &Chain, probes: &[Probes<'_>], facts: &Facts) -> Option<Finding> {
    let (surely, perhaps) = sort(chain, probes, facts);
    let name = spelled(chain);
    if !surely.0.is_empty() {
        let drops = chain.base.as_ref().is_some_and(|base| base.drops);
        let policy = if drops {
            ", whose policy is to drop,"
        } else {
            ""
        };
        let bridges = listed(surely.bridges());
        let what = format!("chain {name}{policy} drops packets of {bridges}");
        let remedy = let_pass(chain, &surely, facts);
        return Some(Finding::broken("foreign-drop", what, surely.told(), remedy));
    }
    if perhaps.0.is_empty() || chain.table.1 == FIREWALLD {
        return None;
    }
    let bridges = listed(perhaps.bridges());
    let what = format!("chain {name} has the policy to drop, and may drop packets of {bridges}");
    let why = format!(
        "not all of its rules are understood; if they do not accept: {}",
        perhaps.told()
    );
    let remedy = let_pass(chain, &perhaps, facts);
    Some(Finding::warning("foreign-policy", what, why, remedy))
}

fn spelled(chain: &Chain) -> String {
    match chain.table.1.strip_prefix(legacy::PREFIX) {
        Some(table) => format!("{} {table} {}", legacy_program(chain), chain.name),
        None => format!("{} {} {}", chain.table.0.name(), chain.table.1, chain.name),
    }
}

fn legacy_program(chain: &Chain) -> &'static str {
    if chain.table.0 == Family::IP6 {
        legacy::Family::V6.program()
    } else {
        legacy::Family::V4.program()
    }
}

/// The chain that Docker keeps for rules of others.
const FOR_USERS: &str = "DOCKER-USER";

/// Rules that let packets pass: by the program that the table is of, for it may not understand rules of another.
fn let_pass(chain: &Chain, dropped: &Dropped<'_>, facts: &Facts) -> Vec<Command> {
    let purposes: BTreeSet<Purpose> = dropped.0.keys().copied().collect();
    let rules = &facts.filter.rules;
    let for_users = chain.base.as_ref().is_some_and(|base| base.hook == FORWARD)
        && !rules.of(&chain.table, FOR_USERS).is_empty();
    let target = if for_users {
        FOR_USERS
    } else {
        chain.name.as_str()
    };
    if chain.table.1 == FIREWALLD {
        return vec![facts.caller.netbackend("firewall-reload")];
    }
    let is_legacy = chain.table.1.starts_with(legacy::PREFIX);
    let of_iptables =
        [Family::IP, Family::IP6].contains(&chain.table.0) && chain.table.1 == "filter";
    let program = match (chain.table.0, is_legacy) {
        (_, true) => legacy_program(chain),
        (Family::IP6, false) => "ip6tables",
        (_, false) => "iptables",
    };
    let by_iptables = is_legacy || of_iptables && facts.filter.iptables;
    let mut commands = Vec::new();
    for bridge in dropped.bridges() {
        let networks = facts.networks.values();
        let mut ports = networks.filter(|network| network.bridge.as_str() == bridge);
        let port = ports.next().map_or(53, port);
        let words: Vec<String> = if by_iptables {
            iptables_rules(program, target, (bridge, port), &purposes)
        } else {
            let (family, table) = (chain.table.0.name(), &chain.table.1);
            nft_rules(
                &format!("nft insert rule {family} {table} {target}"),
                (bridge, port),
                &purposes,
            )
        };
        commands.extend(words.iter().map(|words| facts.caller.host(words)));
    }
    commands
}

fn iptables_rules(
    program: &str,
    chain: &str,
    (bridge, port): (&str, u16),
    purposes: &BTreeSet<Purpose>,
) -> Vec<String> {
    let insert = format!("{program} -I {chain}");
    let mut rules = BTreeSet::new();
    for purpose in purposes {
        rules.insert(match purpose {
            Purpose::Out => format!("{insert} -i {bridge} -j ACCEPT"),
            Purpose::Answer | Purpose::Published => {
                format!(
                    "{insert} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"
                )
            }
            Purpose::Names => format!("{insert} -i {bridge} -p udp --dport {port} -j ACCEPT"),
        });
    }
    if purposes.contains(&Purpose::Names) {
        rules.insert(format!(
            "{insert} -i {bridge} -p tcp --dport {port} -j ACCEPT"
        ));
    }
    rules.into_iter().collect()
}

fn nft_rules(
    insert: &str,
    (bridge, port): (&str, u16),
    purposes: &BTreeSet<Purpose>,
) -> Vec<String> {
    let mut rules = Vec::new();
    for purpose in purposes {
        match purpose {
            Purpose::Out => rules.push(format!("{insert} iifname {bridge} accept")),
            Purpose::Answer => rules.push(format!(
                "{insert} oifname {bridge} ct state established,related accept"
            )),
            Purpose::Published => {
                rules.push(format!("{insert} oifname {bridge} ct status dnat accept"));
            }
            Purpose::Names => {
                rules.push(format!("{insert} iifname {bridge} udp dport {port} accept"));
                rules.push(format!("{insert} iifname {bridge} tcp dport {port} accept"));
            }
        }
    }
    rules
}
