//! Our own table: is it what the records call for?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use wire::names::ContainerId;

use super::facts::Facts;
use super::records::is_interrupted;
use super::remedy::Command;
use super::{Finding, listed};
use crate::gc;
use crate::nft::listing::{Expression, Family, Table, rule};
use crate::nft::netlink::encode;
use crate::nft::notice::messages;
use crate::observed::FirewallDriver;
use crate::plan::firewall::{Elements, Key, Part, Value, container_elements};
use crate::plan::ruleset::{self, Difference, TABLE};

/// The rules that each chain should have, as the kernel tells of them.
static EXPECTED: LazyLock<BTreeMap<String, Vec<Vec<Expression>>>> = LazyLock::new(|| {
    let whole = ruleset::rebuild(&Elements::new(), &Difference::default(), &[]);
    let mut chains: BTreeMap<String, Vec<Vec<Expression>>> = ruleset::expected_rules()
        .map(|(chain, _)| (chain.to_owned(), Vec::new()))
        .collect();
    // Our own rules can be encoded: they are every time the table is written.
    let bytes = encode(&whole, 1).map(|batch| batch.bytes().to_vec());
    for rule in messages(&bytes.unwrap_or_default()).filter_map(rule) {
        chains.entry(rule.chain).or_default().push(rule.expressions);
    }
    chains
});

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    match facts.filter.driver {
        FirewallDriver::None => Vec::new(),
        FirewallDriver::Firewalld => firewalld(facts).into_iter().collect(),
        FirewallDriver::Nftables if facts.filter.wanted.is_empty() => Vec::new(),
        FirewallDriver::Nftables => table(facts),
    }
}

fn firewalld(facts: &Facts) -> Option<Finding> {
    if facts.filter.firewalld != Some(false) || facts.filter.wanted.is_empty() {
        return None;
    }
    Some(Finding::broken(
        "firewalld",
        "containers were set up with the driver firewalld, and it does not run",
        "nothing is forwarded to published ports, and nothing translated",
        vec![
            facts.caller.host("systemctl start firewalld"),
            reload(facts),
        ],
    ))
}

fn reload(facts: &Facts) -> Command {
    facts.caller.netbackend("firewall-reload")
}

fn ours() -> Table {
    (Family::INET, TABLE.to_owned())
}

fn table(facts: &Facts) -> Vec<Finding> {
    let filter = &facts.filter;
    if let Some(refusal) = &filter.refusal {
        return vec![refused(refusal, facts)];
    }
    let table = ours();
    let chains: BTreeSet<&str> = filter
        .chains
        .iter()
        .filter(|chain| chain.table == table)
        .map(|chain| chain.name.as_str())
        .collect();
    if !EXPECTED.keys().any(|name| chains.contains(name.as_str())) {
        return vec![Finding::broken(
            "table-missing",
            format!("table inet {TABLE} is not there"),
            "containers reach nobody outside, nobody reaches their ports, and nothing keeps networks apart",
            vec![reload(facts)],
        )];
    }
    let mut findings = Vec::new();
    findings.extend(chains_and_rules(&chains, facts));
    findings.extend(policies(facts));
    findings.extend(missing(facts));
    findings.extend(excess(facts));
    findings
}

/// `modprobe` loads what a rule needs; a kernel that is built without it needs another one.
fn refused(refusal: &str, facts: &Facts) -> Finding {
    let modules = "modprobe -a nf_tables nf_nat nft_chain_nat nft_ct nft_nat nft_masq nft_fib_inet nft_reject_inet bridge veth";
    Finding::broken(
        "kernel",
        format!("the kernel does not take our rules: {refusal}"),
        "it lacks a module, or was built without it",
        vec![facts.caller.host(modules), reload(facts)],
    )
}

fn chains_and_rules(chains: &BTreeSet<&str>, facts: &Facts) -> Option<Finding> {
    let table = ours();
    let mut wrong = Vec::new();
    for (name, expected) in EXPECTED.iter() {
        if !chains.contains(name.as_str()) {
            wrong.push(format!("chain {name} is gone"));
            continue;
        }
        let mut found: Vec<&[Expression]> = facts
            .filter
            .rules
            .of(&table, name)
            .iter()
            .map(|rule| rule.expressions.as_slice())
            .collect();
        let lacking = if facts.filter.by_program {
            expected.len().saturating_sub(found.len())
        } else {
            let is_missing = |rule: &&Vec<Expression>| {
                let place = found.iter().position(|other| other == &rule.as_slice());
                place.map(|place| found.remove(place)).is_none()
            };
            expected.iter().filter(is_missing).count()
        };
        if lacking > 0 {
            wrong.push(format!(
                "chain {name} lacks {lacking} of {} rules",
                expected.len()
            ));
        }
    }
    if wrong.is_empty() {
        return None;
    }
    Some(Finding::broken(
        "rules-missing",
        format!("table inet {TABLE}: {}", wrong.join(", ")),
        "somebody has taken rules away or changed them: packets are not judged or translated as they should be",
        vec![reload(facts)],
    ))
}

/// The policies of chains that judge what passes are an administrator's business; in all others a rule accepts nothing.
fn policies(facts: &Facts) -> Vec<Finding> {
    let table = ours();
    let chains = facts
        .filter
        .chains
        .iter()
        .filter(|chain| chain.table == table);
    let drops = chains.filter(|chain| {
        let free = ["FORWARD", "INPUT"].contains(&chain.name.as_str());
        !free && chain.base.as_ref().is_some_and(|base| base.drops)
    });
    let each = drops.map(|chain| {
        let accept = Command::words("nft chain inet").arg(TABLE).arg(&chain.name);
        Finding::broken(
            "chain-policy",
            format!("chain inet {TABLE} {} has the policy to drop", chain.name),
            "it accepts nothing by itself: connections end here",
            vec![facts.caller.here(accept.arg("{ policy accept; }"))],
        )
    });
    each.collect()
}

/// Elements that are not there, told by whom they are for.
fn missing(facts: &Facts) -> Option<Finding> {
    let missing = &facts.filter.difference.missing;
    if missing.is_empty() {
        return None;
    }
    let mut owners: BTreeMap<Key, &ContainerId> = BTreeMap::new();
    for container in &facts.containers {
        let elements = container_elements(container, &facts.networks);
        owners.extend(elements.into_keys().map(|key| (key, &container.id)));
    }
    let names: BTreeMap<_, _> = ruleset::set_names().collect();
    let told = missing.iter().map(|(key, value)| {
        let set = names.get(&key.0).copied().unwrap_or_default();
        let of = owners
            .get(key)
            .map(|id| format!(" for container {id}"))
            .unwrap_or_default();
        format!("{set} {}{of}", element(key, value.as_ref()))
    });
    Some(Finding::broken(
        "elements-missing",
        format!("table inet {TABLE} lacks {}", listed(told)),
        "published ports or networks are not known to the rules",
        vec![reload(facts)],
    ))
}

fn element((_, parts): &Key, value: Option<&Value>) -> String {
    let part = |part: &Part| match part {
        Part::Interface(name) => name.to_string(),
        Part::Address(address) => address.to_string(),
        Part::Subnet(subnet) => subnet.to_string(),
        Part::Protocol(protocol) => protocol.name().to_owned(),
        Part::Port(port) => port.to_string(),
    };
    let key: Vec<String> = parts.iter().map(part).collect();
    let leads = match value {
        Some(Value::Socket(address, port)) => format!(" to {address} port {port}"),
        Some(Value::Address(address)) => format!(" to {address}"),
        Some(Value::Goto(_)) | None => String::new(),
    };
    format!("{}{leads}", key.join(" "))
}

fn excess(facts: &Facts) -> Option<Finding> {
    let excess = &facts.filter.difference.excess;
    let is_gone = |left: &gc::Finding| matches!(left, gc::Finding::Container(..));
    // Elements of containers that are gone, or never quite came, go with them.
    if excess.is_empty() || facts.leftovers.iter().any(is_gone) || is_interrupted(facts) {
        return None;
    }
    let names: BTreeMap<_, _> = ruleset::set_names().collect();
    let told = excess.iter().filter_map(|set| names.get(set));
    Some(Finding::warning(
        "elements-unknown",
        format!(
            "table inet {TABLE} has elements that no record tells of: {}",
            listed(told)
        ),
        "ports may lead to containers that are gone, or somebody has added them",
        vec![reload(facts)],
    ))
}
