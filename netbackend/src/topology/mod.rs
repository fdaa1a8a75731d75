//! A picture of networks, containers and ports, made of what [`crate::inspect`] found.
//!
//! ```text
//!   Inspection ──▶ graph ──▶ JSON, Mermaid          (who is joined to whom; others draw)
//!        └──────▶ layout ──▶ SVG                    (where everything is; drawn by ourselves)
//! ```
//!
//! [`layout`] decides all places in whole pixels, from estimated widths of text, so the same networks always give the
//! same picture. How it looks:
//!
//! ```text
//!  ┌ host ────────────────────────────────────────────┐   the way out on top
//!  └┬─┬───────────────────────────────────────────────┘
//!   │ │  ┌ network ─────────────────────────────────┐     a lane for each network: open ones first
//!   │ └──┼──────────┬ports─┐                        │
//!   ├────┤ name     │ card │  card   card   ◀───────┼─┐   ports are tabs on the cards that have them
//!   │    └──────────┴───┬──┴────────────────────────┘ │   tags tell of members whose card is elsewhere
//!   │                   └─────────────────────────────┤
//!   │    ┌ network ─────────────────────────────────┐ │
//!   └────┤ name       card    card        tag ◀─────┼─┘
//!        └──────────────────────────────────────────┘
//! ```
//! A container is drawn once, in the lane of the network that it publishes ports on, or its first. Each further network
//! has a tag of it, and a line in that network's colour leads there, below the row of the card and through a gutter on
//! the right. In the gutter lines share a track where they do not overlap.

pub mod layout;
pub mod mermaid;
pub mod svg;
mod measure;

use std::collections::BTreeMap;
use std::net::IpAddr;

use wire::inspection::{Attachment, Container, Inspection, Network, Part, State};
use wire::state::{Protocol, PublishedPort};
use wire::topology::{Edge, EdgeKind, Node, NodeKind, Topology};

use crate::inspect::natural;
use crate::inspect::text::{port_range, printable, reach};

/// The graph.
#[must_use]
pub fn graph(inspection: &Inspection) -> Topology {
    let networks = networks(inspection);
    let mut nodes = vec![host(inspection)];
    nodes.extend(networks.iter().map(network_node));
    nodes.extend(inspection.containers.iter().map(container_node));
    let mut edges: Vec<Edge> = networks
        .iter()
        .filter(|network| goes_out(network))
        .map(|network| Edge {
            from: network_id(&network.id),
            to: HOST.to_owned(),
            kind: EdgeKind::Uplink,
            label: network.host_interface.clone().unwrap_or_default(),
        })
        .collect();
    for container in &inspection.containers {
        let node = container_id(&container.id);
        edges.extend(container.attachments.iter().map(|on| Edge {
            from: node.clone(),
            to: network_id(&on.network_id),
            kind: EdgeKind::Attached,
            label: endpoint(on),
        }));
        edges.extend(ports(container).into_iter().map(|label| Edge {
            from: HOST.to_owned(),
            to: node.clone(),
            kind: EdgeKind::Published,
            label,
        }));
    }
    Topology { nodes, edges }
}

/// The id of the host's node.
const HOST: &str = "host";

fn network_id(id: &str) -> String {
    format!("network-{id}")
}

fn container_id(id: &str) -> String {
    format!("container-{id}")
}

fn host(inspection: &Inspection) -> Node {
    let uplink = inspection.uplink.as_ref();
    let details = uplink.map(|uplink| {
        let addresses = uplink.addresses.iter().map(ToString::to_string);
        std::iter::once(uplink.interface.clone())
            .chain(addresses)
            .collect()
    });
    let state = if uplink.is_some() {
        State::There
    } else {
        State::Missing
    };
    Node {
        id: HOST.to_owned(),
        kind: NodeKind::Host,
        label: "host".to_owned(),
        details: details.unwrap_or_default(),
        marks: Vec::new(),
        state,
    }
}

fn network_node(network: &Network) -> Node {
    let subnets = network.subnets.iter().map(|one| one.subnet.to_string());
    Node {
        id: network_id(&network.id),
        kind: NodeKind::Network,
        label: printable(&network.name),
        details: std::iter::once(carrier(network)).chain(subnets).collect(),
        marks: marks(network),
        state: worst(&network.parts),
    }
}

fn container_node(container: &Container) -> Node {
    let details = container.attachments.iter();
    Node {
        id: container_id(&container.id),
        kind: NodeKind::Container,
        label: printable(&container.name),
        details: details
            .map(|on| format!("{} {}", printable(&on.network), endpoint(on)))
            .collect(),
        marks: Vec::new(),
        state: container_state(container),
    }
}

/// All networks that there are: those on record, and those that containers tell of. Open ones first.
fn networks(inspection: &Inspection) -> Vec<Network> {
    let known = inspection.networks.iter();
    let mut all: BTreeMap<String, Network> =
        known.map(|one| (one.id.clone(), one.clone())).collect();
    let attachments = inspection.containers.iter().flat_map(|container| {
        let attachments = container.attachments.iter();
        attachments.map(move |on| (container, on))
    });
    for (container, on) in attachments {
        let network = all
            .entry(on.network_id.clone())
            .or_insert_with(|| unrecorded(on));
        if !network.containers.contains(&container.id) {
            network.containers.push(container.id.clone());
        }
    }
    let mut all: Vec<Network> = all.into_values().collect();
    all.sort_by(|one, other| {
        let closed = |network: &Network| (network.internal, network.driver != "bridge");
        let name = |network: &Network| natural(&network.name);
        let order = closed(one).cmp(&closed(other));
        order.then_with(|| (name(one), &one.id).cmp(&(name(other), &other.id)))
    });
    all
}

/// A network that only its container tells of.
fn unrecorded(on: &Attachment) -> Network {
    Network {
        name: on.network.clone(),
        id: on.network_id.clone(),
        driver: "unknown".to_owned(),
        host_interface: None,
        unmanaged: false,
        internal: false,
        isolation: None,
        vrf: None,
        subnets: Vec::new(),
        outbound: Vec::new(),
        dns: None,
        containers: Vec::new(),
        parts: vec![Part {
            part: "record of the network".to_owned(),
            state: State::Missing,
            note: None,
        }],
    }
}

fn carrier(network: &Network) -> String {
    match &network.host_interface {
        Some(interface) => format!("{} {interface}", network.driver),
        None => network.driver.clone(),
    }
}

fn marks(network: &Network) -> Vec<String> {
    let reach = reach(network).map(str::to_owned);
    let unmanaged = network.unmanaged.then(|| "unmanaged".to_owned());
    let vrf = network.vrf.as_ref().map(|vrf| format!("vrf {vrf}"));
    let names = network.dns.as_ref().map(|_| "names".to_owned());
    [reach, unmanaged, vrf, names]
        .into_iter()
        .flatten()
        .collect()
}

/// Whether what is on a network reaches the outside.
fn goes_out(network: &Network) -> bool {
    !network.internal
}

fn endpoint(on: &Attachment) -> String {
    let addresses = on.addresses.iter().map(|one| one.addr().to_string());
    let interface = on.interface.iter().cloned();
    interface.chain(addresses).collect::<Vec<_>>().join(" ")
}

/// The ports that a container publishes, each once whatever networks it is on record with, and protocols together:
/// `80→8080/tcp+udp`.
fn ports(container: &Container) -> Vec<String> {
    let mut merged: BTreeMap<(u16, u16, u16, Option<IpAddr>), Vec<Protocol>> = BTreeMap::new();
    let published = container.attachments.iter().flat_map(|on| &on.ports);
    for port in published {
        let key = (
            port.host_port,
            port.container_port,
            port.count,
            port.host_address,
        );
        let protocols = merged.entry(key).or_default();
        if !protocols.contains(&port.protocol) {
            protocols.push(port.protocol);
        }
    }
    let label = |((host_port, container_port, count, host_address), mut protocols): (
        (u16, u16, u16, Option<IpAddr>),
        Vec<Protocol>,
    )| {
        protocols.sort_unstable();
        let port = PublishedPort {
            host_address,
            host_port,
            container_port,
            count,
            protocol: Protocol::Tcp,
        };
        let names: Vec<&str> = protocols.iter().map(|protocol| protocol.name()).collect();
        let at = match host_address {
            None => String::new(),
            Some(address @ IpAddr::V4(_)) => format!("{address}:"),
            Some(address @ IpAddr::V6(_)) => format!("[{address}]:"),
        };
        format!(
            "{at}{}→{}/{}",
            port_range(port.host_port, &port),
            port_range(port.container_port, &port),
            names.join("+")
        )
    };
    merged.into_iter().map(label).collect()
}

fn worst(parts: &[Part]) -> State {
    let order = |part: &Part| match part.state {
        State::There => 0,
        State::Unknown => 1,
        State::Wrong => 2,
        State::Missing => 3,
    };
    let worst = parts.iter().max_by_key(|part| order(part));
    worst.map_or(State::There, |part| part.state)
}

fn container_state(container: &Container) -> State {
    let parts = container.attachments.iter().flat_map(|on| &on.parts);
    worst(&parts.cloned().collect::<Vec<_>>())
}

/// What is wrong, for who points at it.
fn complaints<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<String> {
    let bad = parts.filter(|part| matches!(part.state, State::Wrong | State::Missing));
    bad.map(|part| {
        let word = if part.state == State::Wrong {
            "wrong"
        } else {
            "missing"
        };
        let note = part.note.as_ref().map(|note| format!(": {note}"));
        format!(
            "{word}: {}{}",
            printable(&part.part),
            printable(&note.unwrap_or_default())
        )
    })
    .collect()
}
