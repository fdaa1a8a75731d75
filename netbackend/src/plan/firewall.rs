//! Which elements a network and a container have in the packet filter.
//!
//! The rules never change ([`super::ruleset`]); what comes and goes is elements of sets and maps, keyed
//! by interface, address, protocol and port. So neither a change nor a packet depends on how many
//! networks and containers there are:
//!
//! - A network has a handful of elements, by the name of its bridge and by its subnets.
//! - A container has one element for each published port and family.
//!
//! A [`Change`] is the difference that a call makes. It is applied as such when the table is as we left
//! it. When it is not (somebody flushed it, netavark wrote it, a record is stale), all elements are
//! computed anew from the records, and rules and elements are replaced in one transaction.
//!
//! Who may talk to whom, for new connections (established ones were judged when they were new):
//!
//! | from \ to | open | isolated | strict | internal | outside |
//! | --- | --- | --- | --- | --- | --- |
//! | open | yes | yes | no | no | yes |
//! | isolated | yes | no | no | no | yes |
//! | strict | no | no | no | no | yes |
//! | internal | no | no | no | no | no |
//! | outside | yes | yes | yes | no | |
//!
//! The same network is always reached, and so is a published port, whoever publishes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use wire::names::{InterfaceName, NetworkId};
use wire::state::{
    AttachmentRecord, ContainerRecord, Isolation, NetworkRecord, Protocol, PublishedPort,
};

/// The sets and maps of the table. For each pair the first is for IPv4, the second for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Bridges of all networks.
    Bridges,
    /// Bridges that open networks do not reach: strict and internal ones.
    Closed,
    /// Bridges that isolated networks do not reach: isolated, strict and internal ones.
    Isolated,
    /// Bridges of internal networks.
    Internal,
    /// Where traffic that stays within a network comes in and goes out.
    Own,
    /// Subnets that `::1` cannot be translated for.
    NoLoopback6,
    /// Which chain judges traffic from a bridge.
    From,
    /// Which chain judges traffic from a subnet. Inside a VRF all bridges look the same.
    FromVrf4,
    /// See [`Set::FromVrf4`].
    FromVrf6,
    /// Subnets whose outgoing traffic is translated, and how.
    Outbound4,
    /// See [`Set::Outbound4`].
    Outbound6,
    /// Source addresses for those that have one chosen.
    Snat4,
    /// See [`Set::Snat4`].
    Snat6,
    /// Subnets of all networks.
    Subnets4,
    /// See [`Set::Subnets4`].
    Subnets6,
    /// Protocol, address and port of resolvers.
    Dns4,
    /// See [`Set::Dns4`].
    Dns6,
    /// Resolvers that are bound to another port than 53.
    DnsRedirect4,
    /// See [`Set::DnsRedirect4`].
    DnsRedirect6,
    /// Ports published on one address of the host.
    PublishAt4,
    /// See [`Set::PublishAt4`].
    PublishAt6,
    /// Ports published on all addresses of the host.
    Publish4,
    /// See [`Set::Publish4`].
    Publish6,
    /// Ports of containers that are published on loopback addresses alone.
    LoopbackOnly4,
    /// See [`Set::LoopbackOnly4`].
    LoopbackOnly6,
}

/// A chain that an element leads to. Those that judge stand in the order of their strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// Judges traffic from open networks.
    FromOpen,
    /// Judges traffic from isolated networks.
    FromIsolated,
    /// Judges traffic from strict networks.
    FromStrict,
    /// Judges traffic from internal networks.
    FromInternal,
    /// Gives outgoing traffic the address of the interface it leaves by.
    Masquerade,
    /// Gives outgoing IPv4 traffic a chosen address.
    Snat4,
    /// Gives outgoing IPv6 traffic a chosen address.
    Snat6,
}

/// A part of the key of an element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// An interface.
    Interface(InterfaceName),
    /// An address.
    Address(IpAddr),
    /// A subnet.
    Subnet(IpNet),
    /// A protocol.
    Protocol(Protocol),
    /// A port.
    Port(u16),
}

/// What an element of a map leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A chain, without return.
    Goto(Chain),
    /// An address.
    Address(IpAddr),
    /// An address and a port.
    Socket(IpAddr, u16),
}

/// The set and the key of an element.
pub type Key = (Set, Vec<Part>);

/// Elements by key, with what they lead to if they are of a map.
pub type Elements = BTreeMap<Key, Option<Value>>;

/// What a call changes in the packet filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Elements that go.
    pub remove: Elements,
    /// Elements that come; a key may be in both.
    pub add: Elements,
    /// What is known of the table.
    pub kind: ChangeKind,
}

/// How a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChangeKind {
    /// The table is as we left it: just the elements.
    #[default]
    Elements,
    /// It is not: everything anew, from the records.
    Rebuild,
    /// Nobody needs it any more.
    Clear,
}

impl Change {
    /// The change from `before` to `after`: what is in both stays untouched.
    #[must_use]
    pub fn between(before: &Elements, after: &Elements, kind: ChangeKind) -> Self {
        let missing = |other: &Elements, (key, value): &(&Key, &Option<Value>)| {
            other.get(*key) != Some(*value)
        };
        let only = |these: &Elements, others: &Elements| {
            let these = these.iter().filter(|element| missing(others, element));
            these
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        Self {
            remove: only(before, after),
            add: only(after, before),
            kind,
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.kind == ChangeKind::Elements && self.add.is_empty() && self.remove.is_empty()
    }

    /// The change that takes this one back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let kind = match self.kind {
            ChangeKind::Elements => ChangeKind::Elements,
            ChangeKind::Rebuild | ChangeKind::Clear => ChangeKind::Rebuild,
        };
        Self {
            remove: self.add.clone(),
            add: self.remove.clone(),
            kind,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ChangeKind::Elements => "one transaction",
            ChangeKind::Rebuild => "one transaction that writes all rules",
            ChangeKind::Clear => "one transaction that takes the table away",
        };
        write!(
            f,
            "packet filter, {what}: {} elements come, {} go",
            self.add.len(),
            self.remove.len()
        )
    }
}

/// The elements of a network that has containers.
#[must_use]
pub fn network_elements(network: &NetworkRecord) -> Elements {
    let mut elements = Elements::new();
    if !network.filtered {
        return elements;
    }
    let bridge = || Part::Interface(network.bridge.clone());
    let source = network
        .vrf
        .clone()
        .unwrap_or_else(|| network.bridge.clone());
    let mut put = |set, parts, value| {
        elements.insert((set, parts), value);
    };
    put(Set::Bridges, vec![bridge()], None);
    put(Set::Own, vec![Part::Interface(source), bridge()], None);
    for set in closed_sets(network) {
        put(*set, vec![bridge()], None);
    }
    // Inside a VRF all networks arrive by the VRF device, which tells nothing about the network.
    let in_vrf = network.vrf.is_some();
    if !in_vrf {
        put(Set::From, vec![bridge()], Some(Value::Goto(judge(network))));
    }
    for subnet in &network.subnets {
        let key = || vec![Part::Subnet(subnet.subnet)];
        let v4 = subnet.subnet.addr().is_ipv4();
        put(family(v4, Set::Subnets4, Set::Subnets6), key(), None);
        if in_vrf {
            let judge = Some(Value::Goto(judge(network)));
            put(family(v4, Set::FromVrf4, Set::FromVrf6), key(), judge);
        }
        if network.no_loopback6 && !v4 {
            put(Set::NoLoopback6, key(), None);
        }
        if !network.internal {
            let outbound = if v4 {
                network.outbound_addr4.map(IpAddr::V4)
            } else {
                network.outbound_addr6.map(IpAddr::V6)
            };
            let chain = match (outbound, v4) {
                (None, _) => Chain::Masquerade,
                (Some(_), true) => Chain::Snat4,
                (Some(_), false) => Chain::Snat6,
            };
            if let Some(address) = outbound {
                put(
                    family(v4, Set::Snat4, Set::Snat6),
                    key(),
                    Some(Value::Address(address)),
                );
            }
            put(
                family(v4, Set::Outbound4, Set::Outbound6),
                key(),
                Some(Value::Goto(chain)),
            );
        }
    }
    elements.extend(dns_elements(network));
    elements
}

/// The elements of several networks. Where they share a bridge or a subnet, the strictest one decides.
pub fn networks_elements<'a>(networks: impl Iterator<Item = &'a NetworkRecord>) -> Elements {
    let mut elements = Elements::new();
    for (key, value) in networks.flat_map(network_elements) {
        let stricter = match (elements.get(&key), &value) {
            (Some(Some(Value::Goto(known))), Some(Value::Goto(chain))) => chain > known,
            _ => true,
        };
        if stricter {
            elements.insert(key, value);
        }
    }
    elements
}

fn closed_sets(network: &NetworkRecord) -> &'static [Set] {
    if network.internal {
        return &[Set::Closed, Set::Isolated, Set::Internal];
    }
    match network.isolation {
        Isolation::None => &[],
        Isolation::Normal => &[Set::Isolated],
        Isolation::Strict => &[Set::Closed, Set::Isolated],
    }
}

fn judge(network: &NetworkRecord) -> Chain {
    if network.internal {
        return Chain::FromInternal;
    }
    match network.isolation {
        Isolation::None => Chain::FromOpen,
        Isolation::Normal => Chain::FromIsolated,
        Isolation::Strict => Chain::FromStrict,
    }
}

fn family(v4: bool, set4: Set, set6: Set) -> Set {
    if v4 { set4 } else { set6 }
}

fn dns_elements(network: &NetworkRecord) -> Elements {
    let mut elements = Elements::new();
    let Some(dns) = &network.dns else {
        return elements;
    };
    for address in &dns.listen {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let parts = |port| {
                vec![
                    Part::Protocol(protocol),
                    Part::Address(*address),
                    Part::Port(port),
                ]
            };
            let v4 = address.is_ipv4();
            elements.insert((family(v4, Set::Dns4, Set::Dns6), parts(dns.port)), None);
            if dns.port != 53 {
                let target = Value::Socket(*address, dns.port);
                elements.insert(
                    (family(v4, Set::DnsRedirect4, Set::DnsRedirect6), parts(53)),
                    Some(target),
                );
            }
        }
    }
    elements
}

/// The elements of a container: its published ports.
///
/// A port is published once, on the first attachment that can: a filtered network that is not internal
/// and on which the container has an address of the family.
#[must_use]
pub fn container_elements(
    container: &ContainerRecord,
    networks: &BTreeMap<NetworkId, NetworkRecord>,
) -> Elements {
    let mut elements = Elements::new();
    for attachment in &container.attachments {
        let publishes = networks
            .get(&attachment.network)
            .is_some_and(|network| network.filtered && !network.internal);
        if publishes {
            publish(attachment, &mut elements);
        }
    }
    elements
}

/// The first address of either family.
fn first_addresses(attachment: &AttachmentRecord) -> impl Iterator<Item = IpAddr> {
    let first = |v4: bool| {
        attachment
            .addresses
            .iter()
            .map(IpNet::addr)
            .find(|address| address.is_ipv4() == v4)
    };
    first(true).into_iter().chain(first(false))
}

fn publish(attachment: &AttachmentRecord, elements: &mut Elements) {
    let open: BTreeSet<(Protocol, u16)> = attachment
        .ports
        .iter()
        .filter(|port| {
            !port
                .host_address
                .is_some_and(|address| address.is_loopback())
        })
        .flat_map(|port| each(port).map(|(_, container)| (port.protocol, container)))
        .collect();
    for address in first_addresses(attachment) {
        let v4 = address.is_ipv4();
        for port in attachment
            .ports
            .iter()
            .filter(|port| port.host_address.is_none_or(|host| host.is_ipv4() == v4))
        {
            let protocol = Part::Protocol(port.protocol);
            let at = port.host_address.filter(|host| !host.is_unspecified());
            for (host_port, container_port) in each(port) {
                let (set, key) = match at {
                    None => (
                        family(v4, Set::Publish4, Set::Publish6),
                        vec![protocol.clone(), Part::Port(host_port)],
                    ),
                    Some(host) => (
                        family(v4, Set::PublishAt4, Set::PublishAt6),
                        vec![protocol.clone(), Part::Address(host), Part::Port(host_port)],
                    ),
                };
                elements
                    .entry((set, key))
                    .or_insert(Some(Value::Socket(address, container_port)));
                let hidden = at.is_some_and(|host| host.is_loopback())
                    && !open.contains(&(port.protocol, container_port));
                let all = attachment.addresses.iter().map(IpNet::addr);
                for address in all.filter(|address| hidden && address.is_ipv4() == v4) {
                    let key = vec![
                        protocol.clone(),
                        Part::Address(address),
                        Part::Port(container_port),
                    ];
                    elements.insert(
                        (family(v4, Set::LoopbackOnly4, Set::LoopbackOnly6), key),
                        None,
                    );
                }
            }
        }
    }
}

/// Host port and container port of each member of a range.
fn each(port: &PublishedPort) -> impl Iterator<Item = (u16, u16)> + use<> {
    let (host, container) = (port.host_port, port.container_port);
    (0..port.count).map_while(move |n| Some((host.checked_add(n)?, container.checked_add(n)?)))
}

/// All elements that the records call for, and the published ports that several containers claim: the
/// first of them keeps it.
#[must_use]
pub fn all_elements(
    networks: &BTreeMap<NetworkId, NetworkRecord>,
    containers: &[ContainerRecord],
) -> Elements {
    let mut elements = networks_elements(networks.values());
    for container in containers {
        for (key, value) in container_elements(container, networks) {
            elements.entry(key).or_insert(value);
        }
    }
    elements
}

/// Takes out subnets that lie within another of the same set: intervals must not overlap. Networks in
/// different VLANs or VRFs may use the same addresses.
pub fn merge_subnets(elements: &mut Elements) {
    let subnets = |key: &Key| {
        if let [Part::Subnet(subnet)] = key.1.as_slice() {
            Some((key.0, *subnet))
        } else {
            None
        }
    };
    let all: BTreeSet<(Set, IpNet)> = elements.keys().filter_map(subnets).collect();
    elements.retain(|key, _| {
        let within = |(set, subnet): (Set, IpNet)| {
            (0..subnet.prefix_len()).rev().any(|prefix| {
                let wider = IpNet::new(subnet.addr(), prefix).map(|net| (set, net.trunc()));
                wider.is_ok_and(|wider| all.contains(&wider))
            })
        };
        !subnets(key).is_some_and(within)
    });
}

#[cfg(test)]
mod tests;
