//! Forwarding, subnets that are in each other's way, and how long packets may be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use wire::names::{ContainerId, NetworkId};
use wire::state::NetworkRecord;

use super::facts::{Facts, Link, Route};
use super::links::setting;
use super::remedy::Command;
use super::{Finding, listed};

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = forwarding(facts);
    findings.extend(shared_subnets(facts));
    findings.extend(foreign_routes(facts));
    findings.extend(shared_addresses(facts));
    findings.extend(too_long(facts));
    findings.extend(tracked(facts));
    findings
}

/// The networks whose packets leave the host, of a family.
pub(super) fn open(facts: &Facts, v4: bool) -> impl Iterator<Item = &NetworkRecord> {
    facts.networks.values().filter(move |network| {
        let mut subnets = network.subnets.iter();
        let concerned = subnets.any(|subnet| subnet.subnet.addr().is_ipv4() == v4);
        concerned && network.owns_bridge && !network.internal
    })
}

fn forwarding(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (v4, name) in [
        (true, "net.ipv4.ip_forward"),
        (false, "net.ipv6.conf.all.forwarding"),
    ] {
        let networks: Vec<&NetworkRecord> = open(facts, v4).collect();
        if networks.is_empty() {
            continue;
        }
        if facts.setting(name) == Some(0) {
            let mut remedy = vec![facts.caller.sysctl(name, "1")];
            if v4 {
                remedy.extend(close_again(facts));
            }
            let names = networks.iter().map(|network| &network.name);
            findings.push(Finding::broken(
                "forwarding",
                format!("{name} is 0"),
                format!("containers reach nobody but their own network, and nobody reaches their ports: {}", listed(names)),
                remedy,
            ));
        } else if v4 {
            findings.extend(per_interface(&networks, facts));
        }
    }
    findings
}

/// The kernel switches forwarding of all interfaces with that of the host, internal networks included.
fn close_again(facts: &Facts) -> impl Iterator<Item = Command> {
    let internal = facts
        .networks
        .values()
        .filter(|network| network.internal && network.managed);
    internal.map(|network| {
        facts
            .caller
            .sysctl(&setting("ipv4", network.bridge.as_str(), "forwarding"), "0")
    })
}

fn per_interface(networks: &[&NetworkRecord], facts: &Facts) -> Vec<Finding> {
    let way_out = facts.host.way_out(true).map(|(name, _)| name);
    let bridges = networks.iter().map(|network| network.bridge.as_str());
    let interfaces: BTreeSet<&str> = bridges.chain(way_out).collect();
    let closed = interfaces.into_iter().filter_map(|link| {
        let name = setting("ipv4", link, "forwarding");
        (facts.setting(&name) == Some(0)).then(|| {
            Finding::broken(
                "forwarding",
                format!("{name} is 0"),
                format!("what comes in by {link} is not passed on"),
                vec![facts.caller.sysctl(&name, "1")],
            )
        })
    });
    closed.collect()
}

fn members<'a>(facts: &'a Facts, network: &'a NetworkId) -> impl Iterator<Item = &'a ContainerId> {
    let containers = facts.containers.iter();
    let on = containers.filter(move |container| {
        let mut attachments = container.attachments.iter();
        attachments.any(|attachment| attachment.network == *network)
    });
    on.map(|container| &container.id)
}

/// A subnet cannot be changed; its network has to be left for another one.
fn leave(network: &NetworkRecord, facts: &Facts) -> Vec<Command> {
    let each = members(facts, &network.id).map(|container| {
        let words = format!("network disconnect -f {} {container}", network.name);
        facts.caller.engine(&words)
    });
    // Rules of a subnet go with the network that leaves, whoever else has it.
    each.chain([facts.caller.netbackend("firewall-reload")])
        .collect()
}

/// Subnets in the order of their addresses, the wider first: those within another come behind it.
fn shared_subnets(facts: &Facts) -> Vec<Finding> {
    let networks = facts
        .networks
        .values()
        .filter(|network| network.managed && !network.may_overlap);
    let mut subnets: Vec<(IpNet, &NetworkRecord)> = networks
        .flat_map(|network| {
            network
                .subnets
                .iter()
                .map(move |subnet| (subnet.subnet, network))
        })
        .collect();
    subnets.sort_by_key(|(subnet, network)| (subnet.network(), subnet.prefix_len(), &network.id));
    let mut findings = Vec::new();
    let mut widest: Option<(IpNet, &NetworkRecord)> = None;
    for (subnet, network) in subnets {
        match widest {
            Some((wide, other)) if wide.contains(&subnet) => {
                if other.bridge != network.bridge {
                    findings.push(shared_subnet((wide, other), (subnet, network), facts));
                }
            }
            Some(_) | None => widest = Some((subnet, network)),
        }
    }
    findings
}

fn shared_subnet(
    (wide, other): (IpNet, &NetworkRecord),
    (subnet, network): (IpNet, &NetworkRecord),
    facts: &Facts,
) -> Finding {
    let what = if wide == subnet {
        format!(
            "networks {} and {} both have the subnet {subnet}",
            other.name, network.name
        )
    } else {
        format!(
            "subnet {subnet} of network {} is within {wide} of {}",
            network.name, other.name
        )
    };
    // The one with fewer containers is the cheaper one to leave.
    let count = |network: &NetworkRecord| members(facts, &network.id).count();
    let smaller = if count(other) < count(network) {
        other
    } else {
        network
    };
    let why = format!(
        "packets to one go to the other; make network {} anew with another subnet",
        smaller.name
    );
    Finding::broken("subnet-shared", what, why, leave(smaller, facts))
}

/// Routes into a subnet of ours that do not lead to its bridge.
fn foreign_routes(facts: &Facts) -> Vec<Finding> {
    let mut by_address: BTreeMap<IpAddr, Vec<&Route>> = BTreeMap::new();
    for route in &facts.host.routes {
        by_address
            .entry(route.destination.network())
            .or_default()
            .push(route);
    }
    let ours: BTreeSet<u32> = facts
        .networks
        .values()
        .filter_map(|network| facts.host.links.get(network.bridge.as_str()))
        .map(|link| link.index)
        .collect();
    let is_ours = |route: &Route| route.interface.is_some_and(|index| ours.contains(&index));
    let mut findings = Vec::new();
    for network in facts
        .networks
        .values()
        .filter(|network| network.managed && network.vrf.is_none())
    {
        for subnet in network.subnets.iter().map(|subnet| subnet.subnet) {
            let within = by_address.range(subnet.network()..=subnet.broadcast());
            for route in within.flat_map(|(_, routes)| routes) {
                if takes(route, subnet) && !is_ours(route) {
                    findings.push(foreign_route(route, subnet, network, facts));
                }
            }
        }
    }
    findings
}

/// Whether a route is preferred to that of the bridge for some addresses of a subnet.
fn takes(route: &Route, subnet: IpNet) -> bool {
    /// The metric of routes that the kernel makes for IPv6 addresses (`IP6_RT_PRIO_ADDRCONF`).
    const KERNELS: u32 = 256;
    let bridges = if subnet.addr().is_ipv4() { 0 } else { KERNELS };
    let (narrow, wide) = (route.destination.prefix_len(), subnet.prefix_len());
    narrow > wide || narrow == wide && route.metric <= bridges
}

fn foreign_route(route: &Route, subnet: IpNet, network: &NetworkRecord, facts: &Facts) -> Finding {
    let link = route.interface.and_then(|index| facts.host.by_index(index));
    let via = route
        .gateway
        .map(|gateway| format!(" via {gateway}"))
        .unwrap_or_default();
    let dev = link
        .map(|(name, _)| format!(" dev {name}"))
        .unwrap_or_default();
    let words = format!("{}{via}{dev}", route.destination);
    let what = format!(
        "route {words} leads into {subnet} of network {}",
        network.name
    );
    let why = "packets to containers with these addresses go elsewhere";
    if route.by_kernel {
        let why = format!(
            "{why}: the host has an address there; make the network anew with another subnet"
        );
        return Finding::broken("route-over-subnet", what, why, leave(network, facts));
    }
    let delete = format!("ip route del {words} metric {}", route.metric);
    let why = format!(
        "{why}; if somebody needs it, such as a VPN, keep it and make network {} anew with another subnet",
        network.name
    );
    Finding::broken(
        "route-over-subnet",
        what,
        why,
        vec![facts.caller.host(&delete)],
    )
}

/// Two containers with one address on a network.
fn shared_addresses(facts: &Facts) -> Vec<Finding> {
    let mut holders: BTreeMap<(&NetworkId, IpAddr), &ContainerId> = BTreeMap::new();
    let mut findings = Vec::new();
    let living = facts.containers.iter().flat_map(|container| {
        let attachments = container.attachments.iter();
        attachments.map(move |attachment| (container, attachment))
    });
    for (container, attachment) in living {
        if !facts.namespaces.contains(&attachment.netns_inode) {
            continue;
        }
        for address in attachment.addresses.iter().map(IpNet::addr) {
            let id = &container.id;
            let Some(holder) = holders.insert((&attachment.network, address), id) else {
                continue;
            };
            let name = facts.network_name(&attachment.network);
            findings.push(Finding::broken(
                "address-shared",
                format!("containers {holder} and {id} on network {name} both have {address}"),
                "packets to one go to the other",
                vec![
                    facts
                        .caller
                        .engine(&format!("network disconnect -f {name} {id}")),
                    facts.caller.engine(&format!("network connect {name} {id}")),
                ],
            ));
        }
    }
    findings
}

/// Containers whose packets are longer than what leaves the host.
fn too_long(facts: &Facts) -> Vec<Finding> {
    let outs = [true, false]
        .into_iter()
        .filter_map(|v4| facts.host.way_out(v4));
    let Some((out, limit)) = outs
        .map(|(name, link)| (name, link.mtu))
        .min_by_key(|(_, mtu)| *mtu)
    else {
        return Vec::new();
    };
    let is_open = |id: &NetworkId| {
        facts
            .networks
            .get(id)
            .is_some_and(|network| network.managed && !network.internal && network.vrf.is_none())
    };
    let mut long: BTreeMap<&NetworkId, (BTreeSet<&ContainerId>, Vec<Command>)> = BTreeMap::new();
    for container in &facts.containers {
        for attachment in container
            .attachments
            .iter()
            .filter(|on| is_open(&on.network))
        {
            let inside = facts.inside.get(&attachment.netns_inode);
            let link = inside.and_then(|inside| inside.links.get(attachment.interface.as_str()));
            let too_long = |link: &&Link| link.mtu > limit;
            if link.filter(too_long).is_none() {
                continue;
            }
            let (ids, remedy) = long.entry(&attachment.network).or_default();
            ids.insert(&container.id);
            let mtu = |name: &str| format!("ip link set {name} mtu {limit}");
            remedy.push(
                facts
                    .caller
                    .inside(&attachment.netns, &mtu(attachment.interface.as_str())),
            );
            remedy.push(facts.caller.host(&mtu(attachment.host_interface.as_str())));
        }
    }
    let each = long.into_iter().map(|(network, (ids, remedy))| {
        Finding::warning(
            "mtu-over-uplink",
            format!("containers on {} send packets longer than the {limit} octets that leave by {out}: {}", facts.network_name(network), listed(ids)),
            "connections stall wherever messages that a packet is too long get lost",
            remedy,
        )
    });
    each.collect()
}

/// Connection tracking that is about to be full, or is.
fn tracked(facts: &Facts) -> Option<Finding> {
    let limit = facts
        .setting("net.netfilter.nf_conntrack_max")
        .filter(|limit| *limit > 0)?;
    let count = facts.setting("net.netfilter.nf_conntrack_count")?;
    if facts.networks.is_empty() || count.saturating_mul(20) < limit.saturating_mul(19) {
        return None;
    }
    Some(Finding::warning(
        "connections-full",
        format!("{count} connections are tracked, of {limit} at most"),
        "new connections of containers and to their ports are dropped when there is no room",
        vec![facts.caller.sysctl(
            "net.netfilter.nf_conntrack_max",
            &limit.saturating_mul(2).to_string(),
        )],
    ))
}
