//! What a crashed engine left behind: from facts about records and the host to a list of findings.
//!
//! An engine that dies with its containers calls no teardown. Their interfaces go with their namespaces;
//! records, ports, rules and names stay, and so do networks without containers. A call of ours that was
//! killed is another matter: its journal tells the next call, whatever that is.
//!
//! # What counts as dead
//!
//! A container on a bridge lives as long as the host's end of its interface is there: the kernel takes
//! that away with the namespace, and nobody else has its MAC address. One on another driver's network
//! lives as long as its namespace does: it is where it was, or somebody is in it, holds it, or has it mounted
//! elsewhere. A network lives while a container is on it.
//!
//! What netavark left is told by less. Its containers are dead when their bridge is gone or has no port.
//! A zone file that nobody has on record is stale when none of the addresses that it names is the host's.
//! Single names that netavark left in a zone file that is in use cannot be told from living ones; they are
//! left alone.
//!
//! An interface on a bridge of ours that no record tells of may be somebody else's (netavark's, say). It is
//! only taken away when nobody could come back to the namespace of its other end: there is no process in
//! it, no descriptor of it, and it is mounted nowhere.
//!
//! # What must not happen
//!
//! In the wrong network namespace everything looks dead. So nothing is touched, unless the caller knows better
//! ([`Misplaced`]), when bridges are on record and none of them is there; and, since bridges of others may have
//! the same names, when no container has its interface there while namespaces of some still exist.
//!
//! # Leases
//!
//! DHCP leases go with the containers on whose records they are, by the steps of their teardown. Those that remain are in
//! the file of the DHCP proxy, which gives them back itself, sooner or later, if it runs. A lease is stale when its
//! interface is not there any more, whether with the namespace or without it, and the interface of the host is, by which
//! it can be given back. A running proxy is told; in the place of one that does not run, `gc` does its work.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use thiserror::Error;
use wire::collection::Leftover;
use wire::legacy::{NetworkFile, PortsFile};
use wire::names::{ContainerId, InterfaceName, MacAddr, NetworkId, NetworkName};
use wire::state::{AttachmentRecord, ContainerRecord, NetworkRecord};

use crate::dhcp::record::Recorded;
use crate::observed::Settings;
use crate::plan::layout;
use crate::plan::step::{Side, Step};

/// What is there.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The container of a call that was killed.
    pub interrupted: Option<ContainerId>,
    /// Our records of containers.
    pub containers: Vec<ContainerRecord>,
    /// Containers that have a record which cannot be read.
    pub unreadable: BTreeSet<ContainerId>,
    /// Our records of networks.
    pub networks: BTreeMap<NetworkId, NetworkRecord>,
    /// Which containers are said to be on which network.
    pub members: BTreeMap<NetworkId, BTreeSet<ContainerId>>,
    /// Which networks are said to use which bridge.
    pub bridge_users: BTreeMap<InterfaceName, BTreeSet<NetworkId>>,
    /// Netavark's files of networks.
    pub netavark_networks: Vec<NetworkFile>,
    /// Netavark's files of containers.
    pub netavark_ports: Vec<PortsFile>,
    /// Zone files, and where they say that their responder answers; nothing for a file that cannot be read.
    pub zones: BTreeMap<String, Vec<IpAddr>>,
    /// The host's links.
    pub links: BTreeMap<InterfaceName, MacAddr>,
    /// Bridges that have no ports.
    pub empty_bridges: BTreeSet<InterfaceName>,
    /// The host's addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Namespaces on record that are not gone, by inode, and those that cannot be told to be.
    pub namespaces: BTreeSet<u64>,
    /// Ports of our bridges whose other end is where nobody can come back to.
    pub abandoned: Vec<(InterfaceName, InterfaceName, MacAddr)>,
    /// Bridges of ours with other ports that no record tells of.
    pub strangers: BTreeSet<InterfaceName>,
    /// Whether a responder runs in another namespace than ours.
    pub responder_elsewhere: bool,
    /// Leases that the DHCP proxy has on record, and where their interfaces are.
    pub leases: Vec<(Recorded, Whereabouts)>,
}

/// Where the interface of a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Where it was.
    There,
    /// It is gone, or another one is in its place.
    Gone,
    /// That cannot be told.
    Unknown,
}

/// Something left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A call that was killed.
    Interrupted(ContainerId),
    /// A container that is dead on these networks; the rest of its record lives.
    Container(ContainerRecord, Vec<String>),
    /// A container said to be on a network that it has no record of.
    Member(NetworkId, Option<NetworkName>, ContainerId),
    /// A port of a bridge, by its MAC address, that no record tells of and nobody can use.
    Port(InterfaceName, InterfaceName, MacAddr),
    /// A network without containers.
    Network(Box<NetworkRecord>),
    /// A network without a record said to use a bridge.
    BridgeUser(InterfaceName, NetworkId),
    /// A dead container's file of netavark's, of a network by its id and name.
    Ports(NetworkId, ContainerId, String),
    /// A dead network's file of netavark's, and its bridge.
    NetworkFile(NetworkId, String),
    /// A zone file that nobody answers for.
    Zone(String),
    /// A lease whose interface is gone.
    Lease(Box<Recorded>),
    /// Rules, though no network is there.
    Rules,
}

/// The look at the host was taken from the wrong place, as it seems.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Misplaced {
    /// There is none of these bridges.
    #[error(
        "none of the bridges on record ({}) is in this network namespace: run this where they are, or give --force if that namespace is gone for good", .0.join(", ")
    )]
    Bridges(Vec<String>),
    /// There is none of the interfaces of these containers, whose own namespaces still exist.
    #[error(
        "none of the containers on record has its interface in this network namespace, but namespaces of some still exist ({}): run this where their bridges are, or give --force if they are gone for good", .0.join(", ")
    )]
    Containers(Vec<String>),
}

/// Everything left behind, in the order in which it has to go.
///
/// # Errors
/// All bridges on record are missing, and the caller does not know why.
pub fn find(facts: &Facts, force: bool) -> Result<Vec<Finding>, Misplaced> {
    if !force {
        check_place(facts)?;
    }
    let mut findings: Vec<Finding> = facts
        .interrupted
        .iter()
        .cloned()
        .map(Finding::Interrupted)
        .collect();
    findings.extend(stray_members(facts));
    findings.extend(
        facts
            .containers
            .iter()
            .filter_map(|container| dead(container, facts)),
    );
    findings.extend(stale_leases(facts));
    let ports = facts.abandoned.iter().cloned();
    findings.extend(ports.map(|(bridge, port, mac)| Finding::Port(bridge, port, mac)));
    findings.extend(idle_networks(facts));
    findings.extend(stray_bridge_users(facts));
    findings.extend(netavark(facts));
    findings.extend(stale_zones(facts));
    Ok(findings)
}

fn check_place(facts: &Facts) -> Result<(), Misplaced> {
    let ours = facts.networks.values();
    let ours = ours.map(|network| network.bridge.to_string());
    let netavarks = facts.netavark_networks.iter();
    let netavarks = netavarks.map(|network| network.bridge_name.clone());
    let bridges: BTreeSet<String> = ours.chain(netavarks).collect();
    let is_there = |bridge: &String| facts.links.keys().any(|link| link.as_str() == bridge);
    if !bridges.is_empty() && !bridges.iter().any(is_there) {
        return Err(Misplaced::Bridges(bridges.into_iter().collect()));
    }
    let containers = facts.containers.iter();
    let attachments = containers.flat_map(|container| {
        let attachments = container.attachments.iter();
        attachments.map(move |attachment| (container, attachment))
    });
    let mut astray = BTreeSet::new();
    for (container, attachment) in attachments {
        if is_alive(attachment, facts) {
            return Ok(());
        }
        if facts.namespaces.contains(&attachment.netns_inode) {
            astray.insert(container.id.to_string());
        }
    }
    if astray.is_empty() {
        Ok(())
    } else {
        Err(Misplaced::Containers(astray.into_iter().collect()))
    }
}

fn is_alive(attachment: &AttachmentRecord, facts: &Facts) -> bool {
    facts.links.get(&attachment.host_interface) == Some(&attachment.host_mac)
}

fn dead(container: &ContainerRecord, facts: &Facts) -> Option<Finding> {
    let mut gone = container.clone();
    gone.attachments
        .retain(|attachment| !is_alive(attachment, facts));
    gone.others
        .retain(|other| !facts.namespaces.contains(&other.netns_inode));
    if gone.is_empty() {
        return None;
    }
    let bridges = gone.attachments.iter();
    let bridges = bridges.map(|attachment| network_name(&attachment.network, facts));
    let others = gone.others.iter().map(|other| other.name.to_string());
    let names = bridges.chain(others).collect();
    Some(Finding::Container(gone, names))
}

fn network_name(id: &NetworkId, facts: &Facts) -> String {
    facts
        .networks
        .get(id)
        .map_or_else(|| id.to_string(), |network| network.name.to_string())
}

fn is_on(container: &ContainerId, network: &NetworkId, facts: &Facts) -> bool {
    let mut containers = facts.containers.iter();
    facts.unreadable.contains(container)
        || containers.any(|record| {
            let mut attachments = record.attachments.iter();
            record.id == *container && attachments.any(|attachment| attachment.network == *network)
        })
}

/// While there is an interface that no record tells of, it may be that of a member without one.
fn stray_members(facts: &Facts) -> Vec<Finding> {
    let strangers = |id: &NetworkId| {
        let network = facts.networks.get(id);
        network.is_some_and(|network| facts.strangers.contains(&network.bridge))
    };
    let all = facts.members.iter();
    let all =
        all.flat_map(|(network, members)| members.iter().map(move |member| (network, member)));
    all.filter(|(network, member)| !is_on(member, network, facts) && !strangers(network))
        .map(|(id, member)| {
            let name = facts.networks.get(id).map(|network| network.name.clone());
            Finding::Member(id.clone(), name, member.clone())
        })
        .collect()
}

fn stale_leases(facts: &Facts) -> impl Iterator<Item = Finding> {
    let is_stale = |lease: &Recorded, whereabouts: Whereabouts| {
        whereabouts == Whereabouts::Gone && facts.links.contains_key(&lease.host)
    };
    let leases = facts.leases.iter();
    leases
        .filter(move |(lease, whereabouts)| is_stale(lease, *whereabouts))
        .map(|(lease, _)| Finding::Lease(Box::new(lease.clone())))
}

/// Networks with no container at all, nor an interface that may be one's. Those whose last container is dead go with it.
fn idle_networks(facts: &Facts) -> Vec<Finding> {
    let has_member = |id: &NetworkId| {
        let mut members = facts.members.get(id).into_iter().flatten();
        let mut containers = facts.containers.iter();
        members.any(|member| is_on(member, id, facts))
            || containers.any(|container| is_on(&container.id, id, facts))
            || !facts.unreadable.is_empty()
    };
    let has_stranger = |network: &NetworkRecord| facts.strangers.contains(&network.bridge);
    let idle = facts
        .networks
        .values()
        .filter(|network| !has_member(&network.id) && !has_stranger(network));
    idle.map(|network| Finding::Network(Box::new(network.clone())))
        .collect()
}

fn stray_bridge_users(facts: &Facts) -> Vec<Finding> {
    let all = facts.bridge_users.iter();
    let all = all.flat_map(|(bridge, users)| users.iter().map(move |user| (bridge, user)));
    all.filter(|(_, user)| !facts.networks.contains_key(*user))
        .map(|(bridge, user)| Finding::BridgeUser(bridge.clone(), user.clone()))
        .collect()
}

/// What netavark left of networks whose bridge is gone or has no port. Of what we wrote in its stead our
/// own records tell.
fn netavark(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for network in &facts.netavark_networks {
        let Ok(id) = network.network_id.parse::<NetworkId>() else {
            continue;
        };
        let bridge = facts
            .links
            .keys()
            .find(|link| link.as_str() == network.bridge_name);
        let lives = bridge.is_some_and(|bridge| !facts.empty_bridges.contains(bridge));
        if lives || facts.networks.contains_key(&id) {
            continue;
        }
        let mut ports = facts.netavark_ports.iter();
        let of_network = |ports: &&PortsFile| ports.network_id == network.network_id;
        for file in ports.by_ref().filter(of_network) {
            if let Ok(container) = file.container_id.parse() {
                let name = file.network_name.clone();
                findings.push(Finding::Ports(id.clone(), container, name));
            }
        }
        findings.push(Finding::NetworkFile(id, network.bridge_name.clone()));
    }
    findings
}

fn stale_zones(facts: &Facts) -> Vec<Finding> {
    if facts.responder_elsewhere {
        return Vec::new();
    }
    let recorded: BTreeSet<String> = facts
        .networks
        .values()
        .flat_map(|network| [true, false].map(|internal| zone_file(&network.name, internal)))
        .collect();
    let is_stale = |(file, listen): &(&String, &Vec<IpAddr>)| {
        !recorded.contains(*file)
            && !listen.is_empty()
            && listen
                .iter()
                .all(|address| !facts.addresses.contains(address))
    };
    let stale = facts.zones.iter().filter(is_stale);
    stale.map(|(file, _)| Finding::Zone(file.clone())).collect()
}

fn zone_file(network: &NetworkName, internal: bool) -> String {
    wire::zone::file_name(network, internal)
}

impl Finding {
    /// What takes it away. Interrupted calls and containers have plans of their own, rules are made from what is left, and
    /// leases are another daemon's. A record goes last, so that what it tells of is found again if this is killed.
    #[must_use]
    pub fn steps(&self, settings: &Settings) -> Vec<Step> {
        let config = &settings.config;
        let remove = |path| Step::RemoveFile {
            path,
            keep: config.clone(),
        };
        match self {
            Self::Interrupted(_) | Self::Container(..) | Self::Rules | Self::Lease(_) => Vec::new(),
            Self::Member(network, name, container) => {
                let zones = layout::zones(config);
                let names = name.iter().flat_map(|name| {
                    [true, false].map(|internal| Step::RemoveNames {
                        path: zones.join(zone_file(name, internal)),
                        container: container.clone(),
                    })
                });
                let files = [
                    remove(layout::firewall_ports(config, network, container)),
                    remove(layout::member(config, network, container)),
                ];
                names.chain(files).collect()
            }
            Self::Port(_, port, mac) => vec![Step::DeleteLink {
                side: Side::Host,
                name: port.clone(),
                mac: Some(*mac),
            }],
            Self::Network(network) => end_network(network, settings),
            Self::BridgeUser(bridge, network) => {
                vec![remove(layout::bridge_user(config, bridge, network))]
            }
            Self::Ports(network, container, _) => {
                vec![remove(layout::firewall_ports(config, network, container))]
            }
            Self::NetworkFile(network, bridge) => {
                let mut steps: Vec<Step> =
                    bridge.parse().map(Step::DeleteBridge).into_iter().collect();
                steps.push(remove(layout::firewall_network(config, network)));
                steps
            }
            Self::Zone(file) => vec![remove(layout::zones(config).join(file))],
        }
    }

    /// The finding for programs.
    #[must_use]
    pub fn document(&self) -> Leftover {
        match self {
            Self::Interrupted(container) => Leftover::Interrupted {
                container: container.to_string(),
            },
            Self::Container(container, networks) => Leftover::Container {
                container: container.id.to_string(),
                networks: networks.clone(),
            },
            Self::Member(network, _, container) => Leftover::Member {
                container: container.to_string(),
                network_id: network.to_string(),
            },
            Self::Port(bridge, port, _) => Leftover::Port {
                bridge: bridge.to_string(),
                port: port.to_string(),
            },
            Self::Network(network) => Leftover::Network {
                network: network.name.to_string(),
                network_id: network.id.to_string(),
                bridge: network.bridge.to_string(),
            },
            Self::BridgeUser(bridge, network) => Leftover::BridgeUser {
                bridge: bridge.to_string(),
                network_id: network.to_string(),
            },
            Self::Ports(network, container, name) => Leftover::NetavarkContainer {
                container: container.to_string(),
                network: name.clone(),
                network_id: network.to_string(),
            },
            Self::NetworkFile(network, bridge) => Leftover::NetavarkNetwork {
                network_id: network.to_string(),
                bridge: bridge.clone(),
            },
            Self::Zone(file) => Leftover::Zone { file: file.clone() },
            Self::Lease(lease) => Leftover::Lease {
                container: lease.config.container_id.clone(),
                interface: lease.container.to_string(),
                mac_address: lease.mac,
                address: lease.terms.address.addr(),
            },
            Self::Rules => Leftover::Rules,
        }
    }
}

fn end_network(network: &NetworkRecord, settings: &Settings) -> Vec<Step> {
    let config = &settings.config;
    let remove = |path| Step::RemoveFile {
        path,
        keep: config.clone(),
    };
    let mut steps = Vec::new();
    if network.owns_bridge {
        steps.push(Step::DeleteBridge(network.bridge.clone()));
    }
    if let Some(path) = &network.sysctl_file {
        let path = std::path::PathBuf::from(path);
        let keep = path.parent().map(Into::into).unwrap_or_default();
        steps.push(Step::RemoveFile { path, keep });
    }
    let zones = [true, false].map(|internal| zone_file(&network.name, internal));
    steps.extend(zones.map(|file| remove(layout::zones(config).join(file))));
    steps.push(remove(layout::firewall_network(config, &network.id)));
    steps.push(remove(layout::bridge_user(
        config,
        &network.bridge,
        &network.id,
    )));
    steps.push(remove(layout::network(config, &network.id)));
    steps
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted(container) => {
                write!(f, "interrupted call for container {container}")
            }
            Self::Container(container, networks) => {
                write!(f, "container {} on {}", container.id, networks.join(", "))
            }
            Self::Member(network, _, container) => {
                write!(
                    f,
                    "container {container} on network {network}, without a record"
                )
            }
            Self::Port(bridge, port, _) => {
                write!(f, "interface {port} on {bridge}, without a record")
            }
            Self::Network(network) => {
                write!(
                    f,
                    "network {} on {}, without containers",
                    network.name, network.bridge
                )
            }
            Self::BridgeUser(bridge, network) => {
                write!(f, "network {network} on {bridge}, without a record")
            }
            Self::Ports(_, container, name) => {
                write!(f, "container {container} of netavark on {name}")
            }
            Self::NetworkFile(network, bridge) => {
                write!(f, "network {network} of netavark on {bridge}")
            }
            Self::Lease(lease) => {
                let address = lease.terms.address.addr();
                write!(
                    f,
                    "lease of {address} for container {}",
                    lease.config.container_id
                )
            }
            Self::Zone(file) => write!(f, "names of {file}"),
            Self::Rules => f.write_str("rules of no network"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::observed::FirewallDriver;

    fn network(name: &str, bridge: &str) -> NetworkRecord {
        let record = json!({
            "version": 1, "id": format!("{name}id"), "name": name, "bridge": bridge, "managed": true, "owns_bridge": true,
            "sysctl_file": null, "vrf": null, "internal": false, "isolation": "none", "filtered": true, "subnets": [],
            "may_overlap": false, "outbound_addr4": null, "outbound_addr6": null, "dns": null, "no_loopback6": false,
        });
        serde_json::from_value(record).unwrap()
    }

    fn container(id: &str, network: &str, link: &str) -> ContainerRecord {
        let record = json!({"version": 1, "id": id, "attachments": [{
            "network": network, "netns": "/run/netns/x", "netns_inode": 7, "interface": "eth0", "host_interface": link,
            "host_mac": "02:00:00:00:00:01", "addresses": [], "ports": [], "detached_routes": [], "zone_file": null,
            "default_metric": null,
        }]});
        serde_json::from_value(record).unwrap()
    }

    fn facts(links: &[&str]) -> Facts {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        let links = links.iter().map(|link| (link.parse().unwrap(), mac));
        let one = network("one", "br1");
        Facts {
            containers: vec![container("c1", "oneid", "veth1")],
            members: BTreeMap::from([(one.id.clone(), ["c1".parse().unwrap()].into())]),
            networks: BTreeMap::from([(one.id.clone(), one)]),
            links: links.collect(),
            ..Facts::default()
        }
    }

    fn found(facts: &Facts) -> Vec<String> {
        let findings = find(facts, false).unwrap();
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_interface_tells() {
        assert!(found(&facts(&["br1", "veth1"])).is_empty());
        assert_eq!(found(&facts(&["br1"])), ["container c1 on one"]);
        let mut other = facts(&["br1", "veth1"]);
        let veth: InterfaceName = "veth1".parse().unwrap();
        other.links.insert(veth, MacAddr([2, 0, 0, 0, 0, 9]));
        assert_eq!(
            found(&other),
            ["container c1 on one"],
            "another of that name"
        );
    }

    #[test]
    fn without_any_bridge_nothing_is_told() {
        let error = find(&facts(&["eth0"]), false).unwrap_err();
        assert_eq!(error, Misplaced::Bridges(vec!["br1".to_owned()]));
        assert_eq!(find(&facts(&["eth0"]), true).unwrap().len(), 1);
    }

    /// The bridge may be somebody else's, of the same name.
    #[test]
    fn a_namespace_without_its_interface_is_a_warning() {
        let mut elsewhere = facts(&["br1"]);
        elsewhere.namespaces.insert(7);
        let error = find(&elsewhere, false).unwrap_err();
        assert_eq!(error, Misplaced::Containers(vec!["c1".to_owned()]));
        assert_eq!(find(&elsewhere, true).unwrap().len(), 1);
        elsewhere.containers.push(container("c2", "oneid", "veth2"));
        let mac = "02:00:00:00:00:01".parse().unwrap();
        elsewhere.links.insert("veth2".parse().unwrap(), mac);
        assert_eq!(
            found(&elsewhere),
            ["container c1 on one"],
            "this is the place"
        );
    }

    #[test]
    fn strangers_and_unreadable_records_keep_networks() {
        let mut lost = facts(&["br1"]);
        lost.containers.clear();
        assert_eq!(
            found(&lost),
            [
                "container c1 on network oneid, without a record",
                "network one on br1, without containers"
            ]
        );
        lost.unreadable.insert("c1".parse().unwrap());
        assert!(found(&lost).is_empty());
        lost.unreadable.clear();
        lost.strangers.insert("br1".parse().unwrap());
        assert!(found(&lost).is_empty());
    }

    #[test]
    fn zone_files_are_judged_by_their_addresses() {
        let mut some = facts(&["br1", "veth1"]);
        let address: IpAddr = "10.9.0.1".parse().unwrap();
        some.zones = ["one", "old", "odd"]
            .map(|file| (file.to_owned(), vec![address]))
            .into();
        some.zones.insert("odd".to_owned(), Vec::new());
        assert_eq!(found(&some), ["names of old"]);
        some.responder_elsewhere = true;
        assert!(found(&some).is_empty());
        some.responder_elsewhere = false;
        some.addresses.insert(address);
        assert!(found(&some).is_empty());
    }

    #[test]
    fn leases_are_stale_without_their_interface() {
        let kept = json!({"yiaddr": "10.0.0.7", "subnet_mask": "255.0.0.0", "netbackend": {
            "config": {"host_iface": "up0", "container_iface": "eth0", "container_mac_addr": "02:00:00:00:00:07",
                "container_id": "c9"},
            "since": 0, "server_mac": "02:00:00:00:00:09", "netns_inode": 7,
        }});
        let file = json!({"02:00:00:00:00:07": [kept]}).to_string();
        let lease = crate::dhcp::record::read(&file, Duration::ZERO, Duration::ZERO)
            .unwrap()
            .leases
            .remove(0);
        let mut some = facts(&["br1", "veth1", "up0"]);
        for (whereabouts, expected) in [
            (Whereabouts::There, &[][..]),
            (Whereabouts::Unknown, &[]),
            (Whereabouts::Gone, &["lease of 10.0.0.7 for container c9"]),
        ] {
            some.leases = vec![(lease.clone(), whereabouts)];
            assert_eq!(found(&some), expected);
        }
        // It could not be given back from here.
        some.links.remove(&"up0".parse().unwrap());
        assert!(found(&some).is_empty());
    }

    /// What is found last is what is taken away last: a record goes after all that it tells of.
    #[test]
    fn records_go_last() {
        let settings = Settings {
            config: PathBuf::from("/c"),
            rootless: false,
            dns_binary: PathBuf::new(),
            dns_port: 53,
            firewall: FirewallDriver::Nftables,
            plugin_directories: Vec::new(),
        };
        let steps = Finding::Network(Box::new(network("one", "br1"))).steps(&settings);
        let last = layout::network(&settings.config, &"oneid".parse().unwrap());
        assert!(matches!(steps.last(), Some(Step::RemoveFile { path, .. }) if *path == last));
        assert!(matches!(steps.first(), Some(Step::DeleteBridge(_))));
    }
}
