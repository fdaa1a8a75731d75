//! Ports of the host that are published and held by somebody else, too.

use std::collections::BTreeMap;

use wire::names::ContainerId;

use super::Finding;
use super::facts::{Facts, Listener};
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

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    if facts.filter.driver == FirewallDriver::None {
        return Vec::new();
    }
    let mut published: BTreeMap<
        (&'static str, u16),
        Vec<(Option<std::net::IpAddr>, bool, &ContainerId)>,
    > = BTreeMap::new();
    for container in &facts.containers {
        for ((set, parts), _) in container_elements(container, &facts.networks) {
            let v4 = match set {
                Set::Publish4 | Set::PublishAt4 => true,
                Set::Publish6 | Set::PublishAt6 => false,
                _ => continue,
            };
            let protocol = parts
                .iter()
                .find_map(|part| pick!(part, Part::Protocol(protocol) => protocol.name()));
            let port = parts
                .iter()
                .find_map(|part| pick!(part, Part::Port(port) => *port));
            let address = parts
                .iter()
                .find_map(|part| pick!(part, Part::Address(address) => *address));
            if let (Some(protocol), Some(port)) = (protocol, port) {
                published
                    .entry((protocol, port))
                    .or_default()
                    .push((address, v4, &container.id));
            }
        }
    }
    let mut findings: BTreeMap<(u32, u16, &'static str), Finding> = BTreeMap::new();
    for listener in &facts.listeners {
        let key = (listener.protocol.name(), listener.port);
        for (address, v4, container) in published.get(&key).into_iter().flatten() {
            if meets(listener, *address, *v4)
                && let Some(finding) = taken(listener, container, facts)
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

/// Whether some packets are meant for both.
fn meets(listener: &Listener, published: Option<std::net::IpAddr>, v4: bool) -> bool {
    let bound = listener.address;
    match published {
        None if bound.is_unspecified() => bound.is_ipv6() || v4,
        None => bound.is_ipv4() == v4,
        Some(address) => {
            bound == address || bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4())
        }
    }
}

fn taken(listener: &Listener, container: &ContainerId, facts: &Facts) -> Option<Finding> {
    let holder = listener.holder.as_ref()?;
    if ENGINES.contains(&holder.name.as_str()) {
        return None;
    }
    let (protocol, port) = (listener.protocol.name(), listener.port);
    Some(Finding::warning(
        "port-taken",
        format!(
            "{} listens at {} port {port}/{protocol}, which container {container} publishes",
            holder.told(),
            listener.address
        ),
        "who connects reaches the container and not that program",
        vec![facts.caller.here(holder.end())],
    ))
}
