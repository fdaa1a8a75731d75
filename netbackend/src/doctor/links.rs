//! Bridges, and the interfaces of containers on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use wire::names::{ContainerId, NetworkId};
use wire::state::{AttachmentRecord, ContainerRecord, NetworkRecord};

use super::facts::{Facts, Link, Network, Route};
use super::records::reload;
use super::remedy::Command;
use super::{Finding, listed};

/// What is looked up for each network.
struct Known<'a> {
    /// Who is on which network.
    members: BTreeMap<&'a NetworkId, BTreeSet<&'a ContainerId>>,
    /// Where the host's routes lead to, and by which link.
    routes: BTreeSet<(IpNet, u32)>,
}

impl<'a> Known<'a> {
    fn new(facts: &'a Facts) -> Self {
        let mut members: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for container in &facts.containers {
            for attachment in &container.attachments {
                let of = members.entry(&attachment.network).or_default();
                of.insert(&container.id);
            }
        }
        let routes = facts.host.routes.iter();
        let routes = routes.filter_map(|route| Some((route.destination, route.interface?)));
        Self {
            members,
            routes: routes.collect(),
        }
    }
}

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let known = Known::new(facts);
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for network in facts.networks.values() {
        let subnets: Vec<IpNet> = network.subnets.iter().map(|subnet| subnet.subnet).collect();
        if seen.insert((&network.bridge, subnets)) {
            findings.extend(bridge(network, &known, facts));
        }
    }
    for container in &facts.containers {
        for attachment in &container.attachments {
            findings.extend(attached(container, attachment, facts));
        }
    }
    findings.extend(no_answers_to_loopback6(facts));
    findings
}

/// Where the bridge layer shows answers to `::1` to the packet filter, they are translated too early. Networks that come
/// when it does so already have rules for that.
fn no_answers_to_loopback6(facts: &Facts) -> Option<Finding> {
    const NAME: &str = "net.bridge.bridge-nf-call-ip6tables";
    let networks = facts
        .networks
        .values()
        .filter(|network| accepts_loopback6(network));
    let names: Vec<_> = networks.map(|network| &network.name).collect();
    if names.is_empty() || facts.setting(NAME) != Some(1) {
        return None;
    }
    Some(Finding::broken(
        "bridge-filter",
        format!("{NAME} is 1, and was 0 when {} came", listed(names)),
        "connections to ports published on [::1] time out",
        vec![facts.caller.sysctl(NAME, "0")],
    ))
}

/// The name of a setting of an interface. Names with dots are written with slashes between the parts.
pub(crate) fn setting(family: &str, link: &str, key: &str) -> String {
    if link.contains('.') {
        format!("net/{family}/conf/{link}/{key}")
    } else {
        format!("net.{family}.conf.{link}.{key}")
    }
}

fn bridge(network: &NetworkRecord, known: &Known<'_>, facts: &Facts) -> Vec<Finding> {
    let name = network.bridge.as_str();
    let on = || {
        known
            .members
            .get(&network.id)
            .into_iter()
            .flatten()
            .copied()
    };
    let Some(link) = facts.host.links.get(name) else {
        return vec![missing(network, on(), facts)];
    };
    if link.kind != "bridge" {
        let what = format!(
            "interface {name} of network {} is of kind {}, expected a bridge",
            network.name, link.kind
        );
        let why = format!("{}; its maker may need it", no_network(on()));
        let mut remedy = rename(name, facts);
        remedy.push(reload(&facts.caller, on()));
        return vec![Finding::broken("bridge-missing", what, why, remedy)];
    }
    let mut findings: Vec<Finding> = off(network, link, facts).into_iter().collect();
    // What nobody of ours has made may be as its maker wants it.
    if !network.owns_bridge {
        return findings;
    }
    if findings.is_empty() && is_alone(network, facts) {
        findings.extend(no_address(network, link, facts));
        findings.extend(no_route(network, link, known, facts));
    }
    if findings.is_empty() {
        findings.extend(no_loopback6(network, link, facts));
    }
    findings.extend(no_localnet(network, facts));
    findings.extend(strict(name, facts));
    findings
}

/// Somebody else's link is not taken away. It gets another name, under which it can be switched on again.
fn rename(name: &str, facts: &Facts) -> Vec<Command> {
    let mut numbers = 0_u8..=u8::MAX;
    let is_free = |free: &String| !facts.host.links.contains_key(free);
    let free = numbers.find_map(|number| Some(format!("other{number}")).filter(is_free));
    let run = |words: String| facts.caller.host(&words);
    let down = run(format!("ip link set {name} down"));
    let renamed = free.map(|free| run(format!("ip link set {name} name {free}")));
    std::iter::once(down).chain(renamed).collect()
}

/// Whether a bridge has the gateways of this network: those of the first network that came are its addresses. The gateways of
/// others, in VLANs, are other machines.
fn is_alone(network: &NetworkRecord, facts: &Facts) -> bool {
    let on = facts.networks.values();
    let mut on = on.filter(|other| other.bridge == network.bridge);
    !network.may_overlap && on.all(|other| other.id == network.id)
}

fn no_network<'a>(containers: impl Iterator<Item = &'a ContainerId>) -> String {
    format!("containers on it reach nobody: {}", listed(containers))
}

fn missing<'a>(
    network: &NetworkRecord,
    on: impl Iterator<Item = &'a ContainerId> + Clone,
    facts: &Facts,
) -> Finding {
    let name = &network.bridge;
    let what = format!("bridge {name} of network {} is gone", network.name);
    let remedy = if network.managed {
        vec![reload(&facts.caller, on.clone())]
    } else {
        let make = format!("ip link add {name} type bridge");
        vec![facts.caller.host(&make), reload(&facts.caller, on.clone())]
    };
    Finding::broken("bridge-missing", what, no_network(on), remedy)
}

/// A link that is off loses its IPv6 addresses, and the routes to them.
fn off(network: &NetworkRecord, link: &Link, facts: &Facts) -> Option<Finding> {
    if link.up {
        return None;
    }
    let name = &network.bridge;
    let mut remedy = vec![facts.caller.host(&format!("ip link set {name} up"))];
    if network.owns_bridge && is_alone(network, facts) {
        remedy.extend(
            absent(network, link).map(|address| add_address(name.as_str(), address, facts)),
        );
        remedy.extend(
            accepts_loopback6(network).then(|| accept_loopback6(name.as_str(), link, facts)),
        );
    }
    let what = format!("bridge {name} of network {} is switched off", network.name);
    let why = "containers on it reach nobody, not even each other";
    Some(Finding::broken("bridge-down", what, why, remedy))
}

/// The addresses that a bridge should have and has not.
fn absent<'a>(network: &'a NetworkRecord, link: &'a Link) -> impl Iterator<Item = IpNet> + 'a {
    let wanted = network.subnets.iter().filter_map(|subnet| {
        let gateway = subnet.gateway?;
        IpNet::new(gateway, subnet.subnet.prefix_len()).ok()
    });
    wanted.filter(|address| !link.addresses.contains(address))
}

fn add_address(link: &str, address: IpNet, facts: &Facts) -> Command {
    let at_once = nodad(&address);
    let words = format!("ip addr add {address} dev {link}{at_once}");
    facts.caller.host(&words)
}

fn no_address(network: &NetworkRecord, link: &Link, facts: &Facts) -> Option<Finding> {
    let name = network.bridge.as_str();
    let absent: Vec<IpNet> = absent(network, link).collect();
    if absent.is_empty() {
        return None;
    }
    let mut remedy: Vec<Command> = absent
        .iter()
        .map(|address| add_address(name, *address, facts))
        .collect();
    if let Some(process) = facts
        .responder
        .process
        .as_ref()
        .filter(|_| network.dns.is_some())
    {
        remedy.push(facts.caller.host(&format!("kill -HUP {}", process.pid)));
    }
    let what = format!(
        "bridge {name} of network {} has lost {}",
        network.name,
        listed(&absent)
    );
    let why = "it is the gateway of the containers, and where they ask for names";
    Some(Finding::broken("bridge-address", what, why, remedy))
}

fn accepts_loopback6(network: &NetworkRecord) -> bool {
    let v6 = network
        .subnets
        .iter()
        .any(|subnet| subnet.subnet.addr().is_ipv6());
    v6 && !network.internal && !network.no_loopback6 && network.owns_bridge
}

fn accept_loopback6(name: &str, link: &Link, facts: &Facts) -> Command {
    // Metrics of several bridges must differ.
    let metric = 2048_u32.saturating_add(link.index);
    facts.caller.host(&format!(
        "ip -6 route add local ::1 dev {name} table local metric {metric}"
    ))
}

fn no_loopback6(network: &NetworkRecord, link: &Link, facts: &Facts) -> Option<Finding> {
    let name = network.bridge.as_str();
    if !accepts_loopback6(network) || facts.host.loopback6.contains(&link.index) {
        return None;
    }
    Some(Finding::broken(
        "loopback-route",
        format!(
            "bridge {name} of network {} has lost its local route for ::1",
            network.name
        ),
        "ports published by its containers do not answer on [::1]",
        vec![accept_loopback6(name, link, facts)],
    ))
}

/// The way to the containers, which comes and goes with the address.
fn no_route(
    network: &NetworkRecord,
    link: &Link,
    known: &Known<'_>,
    facts: &Facts,
) -> Vec<Finding> {
    let name = network.bridge.as_str();
    let has = |subnet: IpNet| known.routes.contains(&(subnet, link.index));
    let find = |address: IpNet, gateway: IpAddr| {
        let subnet = address.trunc();
        if network.vrf.is_some() || !link.addresses.contains(&address) || has(subnet) {
            return None;
        }
        let source = if gateway.is_ipv4() {
            format!(" scope link src {gateway}")
        } else {
            String::new()
        };
        let add = format!("ip route add {subnet} dev {name} proto kernel{source}");
        Some(Finding::broken(
            "bridge-route",
            format!(
                "there is no route to {subnet} by bridge {name} of network {}",
                network.name
            ),
            "nothing finds its way to the containers",
            vec![facts.caller.host(&add)],
        ))
    };
    let subnets = network.subnets.iter();
    let gateways = subnets.filter_map(|subnet| {
        let gateway = subnet.gateway?;
        Some((
            IpNet::new(gateway, subnet.subnet.prefix_len()).ok()?,
            gateway,
        ))
    });
    gateways
        .filter_map(|(address, gateway)| find(address, gateway))
        .collect()
}

fn no_localnet(network: &NetworkRecord, facts: &Facts) -> Option<Finding> {
    let v4 = network
        .subnets
        .iter()
        .any(|subnet| subnet.subnet.addr().is_ipv4());
    let name = setting("ipv4", network.bridge.as_str(), "route_localnet");
    if network.internal || !v4 || facts.setting(&name).unwrap_or(1) != 0 {
        return None;
    }
    let everywhere = setting("ipv4", "all", "route_localnet");
    if facts.setting(&everywhere) == Some(1) {
        return None;
    }
    Some(Finding::broken(
        "route-localnet",
        format!("{name} is 0"),
        format!(
            "ports published by containers on {} do not answer on 127.0.0.1",
            network.name
        ),
        vec![facts.caller.sysctl(&name, "1")],
    ))
}

/// The stricter of two settings is in force; 2 is loose, but higher.
fn strict(bridge: &str, facts: &Facts) -> Option<Finding> {
    let name = setting("ipv4", bridge, "rp_filter");
    let own = facts.setting(&name)?;
    let everywhere = facts
        .setting(&setting("ipv4", "all", "rp_filter"))
        .unwrap_or(0);
    if own.max(everywhere) != 1 {
        return None;
    }
    Some(Finding::warning(
        "rp-filter",
        format!("{name} is {own}, which with net.ipv4.conf.all.rp_filter={everywhere} is strict"),
        "packets of containers on several networks are dropped when the way back is another one",
        vec![facts.caller.sysctl(&name, "2")],
    ))
}

fn attached(
    container: &ContainerRecord,
    attachment: &AttachmentRecord,
    facts: &Facts,
) -> Vec<Finding> {
    // Netavark's records do not tell the interface.
    if attachment.netns_inode == 0 {
        return Vec::new();
    }
    let name = attachment.host_interface.as_str();
    let link = facts.host.links.get(name);
    let Some(link) = link.filter(|link| link.mac == Some(attachment.host_mac)) else {
        return lost(container, attachment, facts).into_iter().collect();
    };
    let mut findings: Vec<Finding> = detached(container, attachment, link, facts)
        .into_iter()
        .collect();
    let id = &container.id;
    if !link.up {
        findings.push(Finding::broken(
            "interface-down",
            format!("interface {name} of container {id} is switched off"),
            format!("{} reaches nobody", attachment.interface),
            vec![facts.caller.host(&format!("ip link set {name} up"))],
        ));
    }
    if link.controller.is_some() {
        findings.extend(no_hairpin(container, attachment, link, facts));
    }
    if let Some(inside) = facts.inside.get(&attachment.netns_inode) {
        findings.extend(within(container, attachment, link, inside, facts));
    }
    findings
}

fn lost(
    container: &ContainerRecord,
    attachment: &AttachmentRecord,
    facts: &Facts,
) -> Option<Finding> {
    // Without its namespace it is gone altogether, which is another finding.
    if !facts.namespaces.contains(&attachment.netns_inode) {
        return None;
    }
    let network = facts.network_name(&attachment.network);
    Some(Finding::broken(
        "interface-missing",
        format!(
            "interface {} of container {} on {network} is gone",
            attachment.host_interface, container.id
        ),
        format!(
            "{} is gone with it: the container is not on the network any more",
            attachment.interface
        ),
        vec![reload(&facts.caller, [&container.id])],
    ))
}

fn detached(
    container: &ContainerRecord,
    attachment: &AttachmentRecord,
    link: &Link,
    facts: &Facts,
) -> Option<Finding> {
    let network = facts.networks.get(&attachment.network)?;
    // Without a bridge there is nothing to be attached to.
    let bridge = facts.host.links.get(network.bridge.as_str())?;
    if link.controller == Some(bridge.index) {
        return None;
    }
    let name = &attachment.host_interface;
    // The VLAN of a port is not on record.
    let remedy = if network.may_overlap && network.vrf.is_none() {
        reload(&facts.caller, [&container.id])
    } else {
        facts
            .caller
            .host(&format!("ip link set {name} master {}", network.bridge))
    };
    Some(Finding::broken(
        "interface-detached",
        format!(
            "interface {name} of container {} is not a port of bridge {}",
            container.id, network.bridge
        ),
        format!("{} reaches nobody", attachment.interface),
        vec![remedy],
    ))
}

/// A packet that the bridge layer shows to the packet filter may have to leave where it came from.
fn no_hairpin(
    container: &ContainerRecord,
    attachment: &AttachmentRecord,
    link: &Link,
    facts: &Facts,
) -> Option<Finding> {
    let managed = facts.networks.get(&attachment.network)?.managed;
    let of = |v4: bool, key: &str| {
        let mut addresses = attachment.addresses.iter();
        let concerned = addresses.any(|address| address.addr().is_ipv4() == v4);
        concerned && facts.setting(&format!("net.bridge.bridge-nf-call-{key}")) == Some(1)
    };
    let filtered = of(true, "iptables") || of(false, "ip6tables");
    if !managed || !filtered || link.hairpin || attachment.ports.is_empty() {
        return None;
    }
    let name = &attachment.host_interface;
    Some(Finding::broken(
        "hairpin",
        format!(
            "bridged packets go through the packet filter, but {name} of container {} does not take back what it sent",
            container.id
        ),
        "br_netfilter came later than the container: it does not reach the ports that it publishes itself",
        vec![
            facts
                .caller
                .host(&format!("ip link set {name} type bridge_slave hairpin on")),
        ],
    ))
}

/// What is inside of the container.
fn within(
    container: &ContainerRecord,
    attachment: &AttachmentRecord,
    outer: &Link,
    inside: &Network,
    facts: &Facts,
) -> Vec<Finding> {
    let (id, name) = (&container.id, attachment.interface.as_str());
    let Some(link) = inside.links.get(name) else {
        let network = facts.network_name(&attachment.network);
        return vec![Finding::broken(
            "interface-missing",
            format!("container {id} has no interface {name}"),
            format!("it is not on {network} any more"),
            vec![reload(&facts.caller, [id])],
        )];
    };
    let reach = unreached(id, attachment, link, inside, facts);
    reach
        .into_iter()
        .chain(mismatched(id, attachment, link, outer, facts))
        .collect()
}

/// The interface is off, or lacks an address or a way out. One that is switched off loses its routes.
fn unreached(
    id: &ContainerId,
    attachment: &AttachmentRecord,
    link: &Link,
    inside: &Network,
    facts: &Facts,
) -> Option<Finding> {
    let name = attachment.interface.as_str();
    let run = |words: String| facts.caller.inside(&attachment.netns, &words);
    let wanted = attachment.addresses.iter();
    let absent: Vec<&IpNet> = wanted
        .filter(|wanted| !link.addresses.contains(wanted))
        .collect();
    let routes = no_default(attachment, inside, facts);
    let (code, what, why) = if !link.up {
        let what = format!("{name} of container {id} is switched off, inside of the container");
        ("interface-down", what, "it reaches nobody")
    } else if !absent.is_empty() {
        let what = format!("{name} of container {id} has lost {}", listed(&absent));
        let why = "who knows it by its name or by a published port does not reach it";
        ("container-address", what, why)
    } else if !routes.is_empty() {
        let gateways = listed(routes.iter().map(|(gateway, _)| gateway));
        let what = format!("container {id} has no default route via {gateways}");
        ("default-route", what, "it reaches its own network only")
    } else {
        return None;
    };
    let up = (!link.up).then(|| run(format!("ip link set {name} up")));
    let add = absent.iter().map(|address| {
        let at_once = nodad(address);
        run(format!("ip addr add {address} dev {name}{at_once}"))
    });
    let route = routes.iter().map(|(gateway, metric)| {
        run(format!(
            "ip route add default via {gateway} dev {name} metric {metric}"
        ))
    });
    let remedy = up.into_iter().chain(add).chain(route).collect();
    Some(Finding::broken(code, what, why, remedy))
}

/// The word that has the kernel use an IPv6 address at once.
fn nodad(address: &IpNet) -> &'static str {
    if address.addr().is_ipv6() {
        " nodad"
    } else {
        ""
    }
}

fn mismatched(
    id: &ContainerId,
    attachment: &AttachmentRecord,
    link: &Link,
    outer: &Link,
    facts: &Facts,
) -> Option<Finding> {
    if link.mtu <= outer.mtu {
        return None;
    }
    let (name, host) = (&attachment.interface, &attachment.host_interface);
    let (mtu, less) = (link.mtu, outer.mtu);
    Some(Finding::broken(
        "mtu-mismatch",
        format!("{name} of container {id} has an MTU of {mtu}, its other end {host} one of {less}"),
        "longer packets vanish in between",
        vec![facts.caller.host(&format!("ip link set {host} mtu {mtu}"))],
    ))
}

/// Gateways by which there should be a default route, and its metric, if there is none of the family at all.
fn no_default(
    attachment: &AttachmentRecord,
    inside: &Network,
    facts: &Facts,
) -> Vec<(IpAddr, u32)> {
    let (Some(metric), Some(network), None) = (
        attachment.default_metric,
        facts.networks.get(&attachment.network),
        &attachment.lease,
    ) else {
        return Vec::new();
    };
    let gateway = |v4: bool| {
        let subnets = network.subnets.iter();
        let on = |address: &&IpNet, subnet: &IpNet| subnet.contains(&address.addr());
        let mut mine = subnets.filter(|subnet| {
            let mut addresses = attachment.addresses.iter();
            addresses.any(|address| on(&address, &subnet.subnet))
        });
        mine.find_map(|subnet| subnet.gateway.filter(|gateway| gateway.is_ipv4() == v4))
    };
    let is_default = |route: &&Route, v4: bool| {
        route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4() == v4
    };
    let lacks = |v4: bool| {
        let has = inside.routes.iter().any(|route| is_default(&route, v4));
        gateway(v4).filter(|_| !has)
    };
    [true, false]
        .into_iter()
        .filter_map(lacks)
        .map(|gateway| (gateway, metric))
        .collect()
}
