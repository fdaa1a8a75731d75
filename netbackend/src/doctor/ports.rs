//! Ports of the host that are published and held by somebody else, too.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wire::names::ContainerId;

use super::Finding;
use super::facts::{Facts, Holder, Listener};
use super::names::is_responder;
use super::remedy::Command;
use crate::observed::FirewallDriver;
use crate::plan::firewall::{Part, Set, container_elements};

/// Programs that hold ports on behalf of an engine: so that nobody else gets them, or to forward them.
const ENGINES: [&str; 8] = [
    "conmon",
    "podman",
    "rootlessport",
    "rootlessport-c",
    "pasta",
    "pasta.avx2",
    "usernet",
    "slirp4netns",
];

/// Whether a program holds ports on behalf of an engine. It is nothing to put an end to.
pub(super) fn is_engine(name: &str) -> bool {
    ENGINES.contains(&name)
}

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    if facts.filter.driver == FirewallDriver::None {
        return Vec::new();
    }
    let published = published(facts);
    let mut findings: BTreeMap<(u32, u16, &'static str), Finding> = BTreeMap::new();
    for listener in &facts.listeners {
        let key = (listener.protocol.name(), listener.port);
        for at in published.get(&key).into_iter().flatten() {
            if meets(listener, at)
                && let Some(finding) = taken(listener, at.container, facts)
            {
                let holder = listener.holder.as_ref().map_or(0, |holder| holder.pid);
                findings
                    .entry((holder, listener.port, key.0))
                    .or_insert(finding);
            }
        }
    }
    findings.into_values().collect()
}

/// A published port.
struct At<'a> {
    /// The address of the host, unless it is any of them.
    address: Option<IpAddr>,
    v4: bool,
    container: &'a ContainerId,
}

/// Who publishes which ports, by protocol and port.
fn published(facts: &Facts) -> BTreeMap<(&'static str, u16), Vec<At<'_>>> {
    let mut published: BTreeMap<(&'static str, u16), Vec<At<'_>>> = BTreeMap::new();
    for container in &facts.containers {
        for (set, parts) in container_elements(container, &facts.networks).into_keys() {
            let v4 = matches!(set, Set::Publish4 | Set::PublishAt4);
            if !v4 && !matches!(set, Set::Publish6 | Set::PublishAt6) {
                continue;
            }
            let mut each = parts.iter();
            let protocol = each.find_map(|part| pick!(part, Part::Protocol(of) => of.name()));
            let mut each = parts.iter();
            let port = each.find_map(|part| pick!(part, Part::Port(port) => *port));
            let mut each = parts.iter();
            let address = each.find_map(|part| pick!(part, Part::Address(address) => *address));
            if let (Some(protocol), Some(port)) = (protocol, port) {
                let at = At {
                    address,
                    v4,
                    container: &container.id,
                };
                published.entry((protocol, port)).or_default().push(at);
            }
        }
    }
    published
}

/// Whether some packets are meant for both.
fn meets(listener: &Listener, at: &At<'_>) -> bool {
    let bound = listener.address;
    // A socket of all IPv6 addresses takes IPv4 as well, as a rule.
    let any_of = |v4: bool| bound.is_unspecified() && (bound.is_ipv6() || v4);
    match at.address {
        None => bound.is_ipv4() == at.v4 || any_of(at.v4),
        Some(address) => bound == address || any_of(address.is_ipv4()),
    }
}

fn taken(listener: &Listener, container: &ContainerId, facts: &Facts) -> Option<Finding> {
    let holder = listener.holder.as_ref()?;
    if is_engine(&holder.name) {
        return None;
    }
    let (protocol, port) = (listener.protocol.name(), listener.port);
    let (why, remedy) = if is_responder(holder.pid, facts) {
        let why = "containers that ask for names reach the container and not the DNS responder, unless it publishes the port on one address of the host only";
        (why, Vec::new())
    } else {
        let why = "who connects reaches the container and not that program; unless it may end, have one of them listen elsewhere";
        (why, vec![facts.caller.here(look_or_end(holder))])
    };
    Some(Finding::warning(
        "port-taken",
        format!(
            "{} listens at {} port {port}/{protocol}, which container {container} publishes",
            holder.told(),
            listener.address
        ),
        why,
        remedy,
    ))
}

/// The container works, and who is in its way may be what the host is reached or finds names by: services are shown and not
/// stopped.
fn look_or_end(holder: &Holder) -> Command {
    match &holder.unit {
        Some(unit) if !holder.is_init() => Command::words("systemctl status").arg(unit),
        Some(_) | None => holder.end(),
    }
}
