//! What is on record of networks and containers, and what of it is there: from facts to a document.
//!
//! Records tell what was made; the kernel tells what there is. [`inspection`] lays one beside the other: each network
//! and each attachment is a list of [`Part`]s, things that its records call for, with the state that the host shows
//! them in. A part whose place nobody may look into (the rules, for an ordinary user; a namespace that is gone) is
//! unknown and says why. Nothing is repaired and nothing is locked: a call that is under way may be seen half done.
//!
//! [`text`] prints the document for people; what is wrong stands where it is wrong.

pub mod text;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use wire::inspection::{
    Attachment, Container, Dns, Inspection, Network, Part, State, Subnet, Uplink,
};
use wire::names::{ContainerId, InterfaceName, MacAddr, NetworkId};
use wire::state::{AttachmentRecord, ContainerRecord, NetworkRecord, OtherMade, OtherRecord};

use crate::doctor::listed;
use crate::plan::firewall::{self, Elements};

/// How much of an id stands for a container without a name.
const SHORT: usize = 12;

/// What is there.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The networks on record.
    pub networks: BTreeMap<NetworkId, NetworkRecord>,
    /// The containers on record.
    pub containers: Vec<ContainerRecord>,
    /// What could not be read, and why.
    pub problems: Vec<String>,
    /// Zone files by name, and the names that each gives to containers.
    pub zones: BTreeMap<String, BTreeMap<ContainerId, Vec<String>>>,
    /// The links of the host.
    pub links: BTreeMap<InterfaceName, LinkFacts>,
    /// The interface of its default route.
    pub uplink: Option<InterfaceName>,
    /// The links in each namespace on record that is still there, by its inode, or why they cannot be seen.
    pub namespaces: BTreeMap<u64, Result<BTreeMap<InterfaceName, LinkFacts>, String>>,
    /// What the packet filter has.
    pub rules: Rules,
    /// Whether a responder runs that reads the zone files; nothing if that cannot be told.
    pub responder: Option<bool>,
}

/// A link, as the kernel shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its index.
    pub index: u32,
    /// Its kind.
    pub kind: String,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// Whether it is set up.
    pub up: bool,
    /// The index of the bridge that it is a port of.
    pub bridge: Option<u32>,
    /// The index, in the namespace that it was made from, of the link that it is on top of.
    pub parent: Option<u32>,
    /// Its addresses, without link-local ones.
    pub addresses: Vec<IpNet>,
}

/// What the packet filter has of what the records call for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rules {
    /// The rules are there; these elements are not.
    Sound(Elements),
    /// The table has lost rules, or is not there at all.
    #[default]
    Broken,
    /// That cannot be told, for this reason.
    Unknown(String),
}

/// Everything.
#[must_use]
pub fn inspection(facts: &Facts) -> Inspection {
    let mut networks: Vec<Network> = facts
        .networks
        .values()
        .map(|network| bridge_network(network, facts))
        .collect();
    networks.extend(other_networks(facts));
    networks.sort_by_cached_key(|one| (natural(&one.name), one.id.clone()));
    let containers = facts.containers.iter();
    let mut containers: Vec<Container> = containers.map(|one| described(one, facts)).collect();
    containers.sort_by_cached_key(|one| (natural(&one.name), one.id.clone()));
    let uplink = facts.uplink.as_ref().map(|interface| Uplink {
        interface: interface.to_string(),
        addresses: facts
            .links
            .get(interface)
            .map(|link| link.addresses.clone())
            .unwrap_or_default(),
    });
    Inspection {
        uplink,
        networks,
        containers,
        problems: facts.problems.clone(),
    }
}

/// Something to sort names by so that `web10` comes after `web9`: pieces of text, each with the number behind it.
#[must_use]
pub fn natural(name: &str) -> Vec<(String, u64)> {
    let mut pieces: Vec<(String, String)> = vec![Default::default()];
    for letter in name.chars() {
        let digit = letter.is_ascii_digit();
        if !digit && pieces.last().is_some_and(|(_, digits)| !digits.is_empty()) {
            pieces.push(Default::default());
        }
        if let Some((text, digits)) = pieces.last_mut() {
            if digit { digits } else { text }.push(letter);
        }
    }
    let numbered = pieces.into_iter();
    numbered
        .map(|(text, digits)| (text, digits.parse().unwrap_or(u64::MAX)))
        .collect()
}

/// Nothing is called that, or too much is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum NotChosen {
    #[error("no container or network on record is called \"{name}\"{}", suggestion(.known))]
    Nothing { name: String, known: Vec<String> },
    #[error("{0} is a network, expected a container")]
    Network(String),
    #[error("\"{name}\" is the beginning of several ids: {}", .ids.join(", "))]
    Several { name: String, ids: Vec<String> },
}

fn suggestion(known: &[String]) -> String {
    if known.is_empty() {
        ": nothing is on record".to_owned()
    } else {
        format!(", expected one of {}", listed(known))
    }
}

/// What concerns one container or one network, by its name, its id or an unambiguous beginning of the id: a container
/// with its networks, or a network with its containers.
///
/// # Errors
/// Nothing is called that, or the beginning is that of several ids.
pub fn choose(all: &Inspection, name: &str) -> Result<Inspection, NotChosen> {
    let containers = all.containers.iter().map(|one| (&one.name, &one.id));
    let networks = all.networks.iter().map(|one| (&one.name, &one.id));
    let known: Vec<_> = containers.chain(networks).collect();
    let exact = known
        .iter()
        .any(|(title, id)| *title == name || *id == name);
    let chosen: BTreeSet<&String> = known
        .iter()
        .filter(|(title, id)| *title == name || *id == name || (!exact && id.starts_with(name)))
        .map(|(_, id)| *id)
        .collect();
    if chosen.is_empty() {
        let known = known.iter().map(|(title, _)| (*title).clone()).collect();
        let name = name.to_owned();
        return Err(NotChosen::Nothing { name, known });
    }
    if !exact && chosen.len() > 1 {
        return Err(NotChosen::Several {
            name: name.to_owned(),
            ids: chosen.into_iter().cloned().collect(),
        });
    }
    let is_on = |container: &Container, network: &Network| {
        let mut attachments = container.attachments.iter();
        attachments.any(|on| on.network_id == network.id)
    };
    let named = |id: &String| chosen.contains(id);
    let networks = all.networks.iter().filter(|network| {
        let mut members = all.containers.iter().filter(|one| named(&one.id));
        named(&network.id) || members.any(|one| is_on(one, network))
    });
    let containers = all.containers.iter().filter(|container| {
        let mut wanted = all.networks.iter().filter(|one| named(&one.id));
        named(&container.id) || wanted.any(|network| is_on(container, network))
    });
    Ok(Inspection {
        uplink: all.uplink.clone(),
        networks: networks.cloned().collect(),
        containers: containers.cloned().collect(),
        problems: all.problems.clone(),
    })
}

/// The id of a container, by its name, its id or an unambiguous beginning of the id.
///
/// # Errors
/// As for [`choose`], or what is called that is a network.
pub fn container(all: &Inspection, name: &str) -> Result<String, NotChosen> {
    let chosen = choose(all, name)?;
    let named = |one: &&Container| one.name == name || one.id.starts_with(name);
    let mut found = chosen.containers.iter().filter(named);
    let network = || NotChosen::Network(name.to_owned());
    let first = found.next().map(|one| one.id.clone());
    first.ok_or_else(network)
}

/// Whether anything is missing or wrong.
#[must_use]
pub fn is_sound(inspection: &Inspection) -> bool {
    let networks = inspection.networks.iter().flat_map(|one| &one.parts);
    let attachments = inspection
        .containers
        .iter()
        .flat_map(|one| &one.attachments);
    let mut parts = networks.chain(attachments.flat_map(|on| &on.parts));
    parts.all(|part| matches!(part.state, State::There | State::Unknown))
}

fn part(part: impl Into<String>, state: State, note: Option<String>) -> Part {
    Part {
        part: part.into(),
        state,
        note,
    }
}

fn presence(what: impl Into<String>, there: bool) -> Part {
    let state = if there { State::There } else { State::Missing };
    part(what, state, None)
}

fn members<'a>(network: &'a NetworkId, facts: &'a Facts) -> Vec<String> {
    let is_on = |container: &&ContainerRecord| {
        let bridges = container.attachments.iter().map(|on| &on.network);
        let mut all = bridges.chain(container.others.iter().map(|on| &on.network));
        all.any(|id| id == network)
    };
    let members = facts.containers.iter().filter(is_on);
    members.map(|container| container.id.to_string()).collect()
}

fn bridge_network(network: &NetworkRecord, facts: &Facts) -> Network {
    let subnets = network.subnets.iter();
    let outbound4 = network.outbound_addr4.map(Into::into);
    let outbound6 = network.outbound_addr6.map(Into::into);
    Network {
        name: network.name.to_string(),
        id: network.id.to_string(),
        driver: "bridge".to_owned(),
        host_interface: Some(network.bridge.to_string()),
        unmanaged: !network.managed,
        internal: network.internal,
        isolation: network.filtered.then_some(network.isolation),
        vrf: network.vrf.as_ref().map(ToString::to_string),
        subnets: subnets
            .map(|subnet| Subnet {
                subnet: subnet.subnet,
                gateway: subnet.gateway,
            })
            .collect(),
        outbound: [outbound4, outbound6].into_iter().flatten().collect(),
        dns: network.dns.as_ref().map(|dns| Dns {
            listen: dns.listen.clone(),
            port: dns.port,
        }),
        containers: members(&network.id, facts),
        parts: bridge_parts(network, facts),
    }
}

fn bridge_parts(network: &NetworkRecord, facts: &Facts) -> Vec<Part> {
    let link = facts.links.get(&network.bridge);
    let what = format!("bridge {}", network.bridge);
    let mut parts = vec![match link {
        None => presence(what, false),
        Some(link) if link.kind != "bridge" => {
            part(what, State::Wrong, Some(format!("it is a {}", link.kind)))
        }
        Some(link) if !link.up => part(what, State::Wrong, Some("it is down".to_owned())),
        Some(_) => presence(what, true),
    }];
    let addresses = link.map(|link| link.addresses.as_slice());
    let gateways = network.subnets.iter().filter(|_| network.managed);
    for gateway in gateways.filter_map(|subnet| subnet.gateway) {
        let mut found = addresses.unwrap_or_default().iter();
        let there = found.any(|address| address.addr() == gateway);
        parts.push(presence(format!("gateway {gateway}"), there));
    }
    if network.filtered {
        let wanted = firewall::network_elements(network);
        parts.push(rules("rules of the network", &wanted, &facts.rules));
    }
    if network.dns.is_some() {
        parts.push(match facts.responder {
            Some(there) => presence("resolver", there),
            None => {
                let note = "its process belongs to another user".to_owned();
                part("resolver", State::Unknown, Some(note))
            }
        });
    }
    parts
}

fn rules(what: &str, wanted: &Elements, rules: &Rules) -> Part {
    match rules {
        Rules::Unknown(why) => part(what, State::Unknown, Some(why.clone())),
        Rules::Broken => {
            let note = "the table inet netavark has lost rules, or is not there".to_owned();
            part(what, State::Missing, Some(note))
        }
        Rules::Sound(missing) => {
            let gone = wanted
                .keys()
                .filter(|key| missing.contains_key(*key))
                .count();
            match gone {
                0 => presence(what, true),
                gone => {
                    let note = format!("{gone} of {} elements are missing", wanted.len());
                    part(what, State::Missing, Some(note))
                }
            }
        }
    }
}

/// Networks of other drivers have no record; containers tell of them.
fn other_networks(facts: &Facts) -> Vec<Network> {
    let mut networks: BTreeMap<NetworkId, Network> = BTreeMap::new();
    let others = facts.containers.iter().flat_map(|one| &one.others);
    for other in others {
        let network = other_network(other, facts);
        let known = networks
            .entry(other.network.clone())
            .or_insert_with(|| network.clone());
        if known.host_interface.is_none() {
            *known = network;
        }
    }
    networks.into_values().collect()
}

fn other_network(other: &OtherRecord, facts: &Facts) -> Network {
    let link = inside(other, facts);
    let parent = link.and_then(|link| link.parent);
    let parent = parent.and_then(|index| {
        let mut links = facts.links.iter();
        links.find(|(_, link)| link.index == index)
    });
    let parent = parent.map(|(name, _)| name.to_string());
    let driver = match (&other.made, link) {
        (OtherMade::Plugin(plugin), _) => plugin.driver.clone(),
        (OtherMade::Sublink(_), Some(link)) => link.kind.clone(),
        (OtherMade::Sublink(_), None) => "unknown".to_owned(),
    };
    let part = parent
        .as_ref()
        .map(|name| presence(format!("parent {name}"), true));
    let addresses = link.iter().flat_map(|link| &link.addresses);
    Network {
        name: other.name.to_string(),
        id: other.network.to_string(),
        driver,
        host_interface: parent,
        unmanaged: false,
        internal: false,
        isolation: None,
        vrf: None,
        subnets: addresses
            .map(|address| Subnet {
                subnet: address.trunc(),
                gateway: None,
            })
            .collect(),
        outbound: Vec::new(),
        dns: None,
        containers: members(&other.network, facts),
        parts: part.into_iter().collect(),
    }
}

/// The link of an attachment by another driver, if it can be seen.
fn inside<'a>(other: &OtherRecord, facts: &'a Facts) -> Option<&'a LinkFacts> {
    let OtherMade::Sublink(made) = &other.made else {
        return None;
    };
    let links = facts.namespaces.get(&other.netns_inode)?.as_ref().ok()?;
    links.get(&made.interface)
}

fn described(record: &ContainerRecord, facts: &Facts) -> Container {
    let (netns, inode) = record.netns().unwrap_or_default();
    let namespace = match facts.namespaces.get(&inode) {
        Some(_) => State::There,
        None if inode == 0 => State::Unknown,
        None => State::Missing,
    };
    let bridges = record.attachments.iter();
    let bridges = bridges.map(|on| bridge_attachment(record, on, facts));
    let others = record.others.iter().map(|on| other_attachment(on, facts));
    Container {
        name: container_name(record, facts),
        id: record.id.to_string(),
        netns: netns.to_owned(),
        namespace,
        attachments: bridges.chain(others).collect(),
    }
}

/// The name on record, else the first one that a resolver knows, else the beginning of the id.
fn container_name(record: &ContainerRecord, facts: &Facts) -> String {
    let named = || {
        let mut zones = facts.zones.values();
        zones.find_map(|zone| zone.get(&record.id)?.first())
    };
    let short = || record.id.as_str().chars().take(SHORT).collect();
    let name = record.name.as_ref().or_else(named);
    name.cloned().unwrap_or_else(short)
}

fn bridge_attachment(
    container: &ContainerRecord,
    on: &AttachmentRecord,
    facts: &Facts,
) -> Attachment {
    let network = facts.networks.get(&on.network);
    let names = on.zone_file.as_ref().and_then(|file| {
        let zone = facts.zones.get(file)?;
        zone.get(&container.id).cloned()
    });
    // Netavark does not write down which interfaces it made.
    let ours = on.netns_inode != 0;
    let links = facts.namespaces.get(&on.netns_inode);
    let inside = links.and_then(|links| links.as_ref().ok()?.get(&on.interface));
    let name = network.map_or_else(
        || on.network.to_string(),
        |network| network.name.to_string(),
    );
    Attachment {
        network: name,
        network_id: on.network.to_string(),
        interface: ours.then(|| on.interface.to_string()),
        host_interface: ours.then(|| on.host_interface.to_string()),
        mac: inside.and_then(|link| link.mac).map(|mac| mac.to_string()),
        addresses: if on.addresses.is_empty() {
            inside
                .map(|link| link.addresses.clone())
                .unwrap_or_default()
        } else {
            on.addresses.clone()
        },
        default_metric: on.default_metric,
        leased: on.lease.is_some(),
        ports: if publishes(network) {
            on.ports.clone()
        } else {
            Vec::new()
        },
        names: names.unwrap_or_default(),
        parts: attachment_parts(container, on, network, facts),
    }
}

/// Whether containers publish ports on a network; of one without a record nobody knows better.
fn publishes(network: Option<&NetworkRecord>) -> bool {
    network.is_none_or(|network| network.filtered && !network.internal)
}

fn attachment_parts(
    container: &ContainerRecord,
    on: &AttachmentRecord,
    network: Option<&NetworkRecord>,
    facts: &Facts,
) -> Vec<Part> {
    let mut parts = Vec::new();
    if on.netns_inode == 0 {
        let note = "netavark set it up, and does not tell".to_owned();
        parts.push(part("interfaces", State::Unknown, Some(note)));
    } else {
        parts.push(host_end(on, network, facts));
        let (links, interface) = (facts.namespaces.get(&on.netns_inode), &on.interface);
        parts.extend(inner_parts(links, interface, &on.addresses));
    }
    if !on.ports.is_empty() {
        parts.extend(port_part(container, on, facts));
    }
    if let Some(file) = &on.zone_file {
        let zone = facts.zones.get(file);
        let there = zone.is_some_and(|zone| zone.contains_key(&container.id));
        parts.push(presence("names", there));
    }
    parts
}

/// Ports are published on the first network that can; elsewhere nothing is to be there.
fn port_part(container: &ContainerRecord, on: &AttachmentRecord, facts: &Facts) -> Option<Part> {
    let alone = ContainerRecord {
        attachments: vec![on.clone()],
        others: Vec::new(),
        ..container.clone()
    };
    let all = firewall::container_elements(container, &facts.networks);
    let mut wanted = firewall::container_elements(&alone, &facts.networks);
    wanted.retain(|key, value| all.get(key) == Some(value));
    (!wanted.is_empty()).then(|| rules("published ports", &wanted, &facts.rules))
}

fn host_end(on: &AttachmentRecord, network: Option<&NetworkRecord>, facts: &Facts) -> Part {
    let what = format!("interface {} of the host", on.host_interface);
    let Some(link) = facts.links.get(&on.host_interface) else {
        return presence(what, false);
    };
    if link.mac != Some(on.host_mac) {
        let found = link
            .mac
            .map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        let note = format!("its MAC address is {found}, not {}", on.host_mac);
        return part(what, State::Missing, Some(note));
    }
    let bridge = network.and_then(|network| Some((network, facts.links.get(&network.bridge)?)));
    let note = match bridge {
        Some((network, bridge)) if link.bridge != Some(bridge.index) => {
            format!("it is not a port of {}", network.bridge)
        }
        _ if !link.up => "it is down".to_owned(),
        _ => return presence(what, true),
    };
    part(what, State::Wrong, Some(note))
}

/// The container's end of an attachment, and its addresses.
fn inner_parts(
    links: Option<&Result<BTreeMap<InterfaceName, LinkFacts>, String>>,
    interface: &InterfaceName,
    addresses: &[IpNet],
) -> Vec<Part> {
    let what = format!("interface {interface} of the container");
    let links = match links {
        None => {
            let note = "its network namespace is gone".to_owned();
            return vec![part(what, State::Missing, Some(note))];
        }
        Some(Err(why)) => return vec![part(what, State::Unknown, Some(why.clone()))],
        Some(Ok(links)) => links,
    };
    let Some(link) = links.get(interface) else {
        return vec![presence(what, false)];
    };
    let end = if link.up {
        presence(what, true)
    } else {
        part(what, State::Wrong, Some("it is down".to_owned()))
    };
    let on_record = addresses.iter();
    let addresses =
        on_record.map(|one| presence(format!("address {one}"), link.addresses.contains(one)));
    std::iter::once(end).chain(addresses).collect()
}

fn other_attachment(on: &OtherRecord, facts: &Facts) -> Attachment {
    let link = inside(on, facts);
    let links = facts.namespaces.get(&on.netns_inode);
    let (interface, leased, parts) = match &on.made {
        OtherMade::Sublink(made) => (
            Some(made.interface.to_string()),
            made.lease.is_some(),
            inner_parts(links, &made.interface, &[]),
        ),
        OtherMade::Plugin(plugin) => {
            let note = format!("the plugin {} knows", plugin.driver);
            let parts = vec![part("interfaces", State::Unknown, Some(note))];
            (None, false, parts)
        }
    };
    Attachment {
        network: on.name.to_string(),
        network_id: on.network.to_string(),
        interface,
        host_interface: None,
        mac: link.and_then(|link| link.mac).map(|mac| mac.to_string()),
        addresses: link.map(|link| link.addresses.clone()).unwrap_or_default(),
        default_metric: on.default_metric,
        leased,
        ports: Vec::new(),
        names: Vec::new(),
        parts,
    }
}
