//! Recorded requests, carried out once more where they do no harm.
//!
//! ```text
//!  container ──── the networks of the request ──── host ──── uplink ──── outside
//!   a namespace                              a namespace with        a namespace
//!                                            nothing else in it
//! ```
//! From the request follows what must be there for it ([`scenery`]): parents of links, bridges that are not ours to make,
//! addresses that ports are published on. From request and reply follows what must then work ([`checks`]): gateways
//! answer, the outside is reached or is not, published ports lead to the container, its names are known. `sys::replay` makes
//! the host, has the backend called as it was called then, asks, has it all torn down and compares the host with what it
//! was before.
//!
//! What is not there, and what such a request ends with: a DHCP server, the plugins and other containers of the time.
//!
//! A recording may come from anybody. It says what is asked of the backend, and never what is run: programs, directories of
//! programs and variables that name some are not taken from it.

pub mod message;
pub mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde_json::Value;
use wire::names::InterfaceName;
use wire::recording::{Recording, VERSION};
use wire::state::{Protocol, PublishedPort};
use wire::status::Status;

use crate::record;
use crate::request::{Attachment, BridgeAttachment, Mode, SetupRequest};

/// Networks to the outside, of which the first is taken that no network of the request overlaps.
const WIRES4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(192, 0, 2, 0),
    Ipv4Addr::new(198, 51, 100, 0),
    Ipv4Addr::new(203, 0, 113, 0),
];

/// The name of the uplink where the request names none.
const UPLINK: &str = "uplink";

/// What is to be done again.
#[derive(Debug, Clone)]
pub struct Case {
    /// The request, as it stood.
    pub request: String,
    /// The arguments of the call.
    pub arguments: Vec<String>,
    /// Its environment, as far as it is on record and does not name what is run.
    pub environment: BTreeMap<String, String>,
    /// The code and the reply of a set-up on record.
    pub recorded: Option<(Option<i32>, Option<Value>)>,
}

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum NotACase {
    #[error("expected a recording or a request: {0}")]
    Json(serde_json::Error),
    #[error("version {0} was written by a later program, this one understands {VERSION}")]
    Version(u32),
    #[error("a call of \"{0}\" cannot be replayed, expected setup or teardown")]
    Verb(String),
    #[error("the recording has no request, or not all of it")]
    NoRequest,
}

/// Reads a recording, or a request by itself.
///
/// # Errors
/// It is neither, or not one of a set-up or a teardown.
pub fn case(file: &str) -> Result<Case, NotACase> {
    let document: Value = serde_json::from_str(file).map_err(NotACase::Json)?;
    if document.get("networks").is_some() {
        return Ok(Case {
            request: file.to_owned(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            recorded: None,
        });
    }
    let recording: Recording = serde_json::from_str(file).map_err(NotACase::Json)?;
    if recording.version > VERSION {
        return Err(NotACase::Version(recording.version));
    }
    let verb = record::verb(&recording.arguments).unwrap_or_default();
    if !["setup", "teardown"].contains(&verb) {
        return Err(NotACase::Verb(verb.to_owned()));
    }
    let request = recording.request.filter(|_| !recording.cut);
    let reply = recording
        .reply
        .map(|reply| serde_json::from_str(reply.get()));
    let reply = reply.transpose().map_err(NotACase::Json)?;
    let is_setup = verb == "setup";
    Ok(Case {
        request: request.ok_or(NotACase::NoRequest)?.get().to_owned(),
        environment: recording
            .environment
            .into_iter()
            .filter(|(name, _)| HARMLESS.contains(&name.as_str()))
            .collect(),
        recorded: is_setup.then_some((recording.exit_code, reply)),
        arguments: recording.arguments,
    })
}

/// Variables on record that a call gets again. Others could name programs and libraries.
const HARMLESS: [&str; 4] = [
    "NETAVARK_DNS_PORT",
    "NETAVARK_FW",
    "NETBACKEND_ISOLATE_DEFAULT",
    "RUST_LOG",
];

/// The arguments of a call with other places (state directory, verb and namespace), and with the programs that `ours` names
/// instead of those on record: whoever replays a file need not trust who wrote it.
#[must_use]
pub fn arguments(recorded: &[String], config: &str, ours: &[String], rest: &[&str]) -> Vec<String> {
    const REPLACED: [&str; 8] = [
        "-c",
        "--config",
        "-a",
        "--aardvark-binary",
        "-f",
        "--file",
        "--nft",
        "--plugin-directory",
    ];
    let mut arguments = vec!["--config".to_owned(), config.to_owned()];
    arguments.extend(ours.iter().cloned());
    let verb = record::verb(recorded).unwrap_or_default();
    let mut recorded = recorded.iter().take_while(|word| *word != verb);
    while let Some(word) = recorded.next() {
        let name = word.split('=').next().unwrap_or_default();
        if !REPLACED.contains(&name) {
            arguments.push(word.clone());
        } else if !word.contains('=') {
            recorded.next();
        }
    }
    arguments.extend(rest.iter().map(|word| (*word).to_owned()));
    arguments
}

/// What has to be on a host for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenery {
    /// Wires to the outside, by their names on the host. The first is the uplink.
    pub wires: Vec<InterfaceName>,
    /// The host's addresses on the uplink, IPv4 and IPv6.
    pub host: [IpNet; 2],
    /// The outside's addresses there.
    pub outside: [IpNet; 2],
    /// Gateways that are outside, by the wire that leads there.
    pub gateways: Vec<(usize, IpNet)>,
    /// More addresses of the host.
    pub published: Vec<IpAddr>,
    /// Bridges of somebody else, with their addresses.
    pub bridges: Vec<(InterfaceName, Vec<IpNet>)>,
    /// VRFs.
    pub vrfs: Vec<InterfaceName>,
}

/// What has to be there for this request.
#[must_use]
pub fn scenery(request: &SetupRequest) -> Scenery {
    let mut wires: Vec<InterfaceName> = Vec::new();
    let mut gateways = Vec::new();
    for link in request.sublinks() {
        let parent = link.network.parent.clone();
        let parent = parent.or_else(|| wires.first().cloned().or_else(|| UPLINK.parse().ok()));
        let Some(parent) = parent else { continue };
        let known = wires.iter().position(|wire| *wire == parent);
        let number = known.unwrap_or(wires.len());
        if known.is_none() {
            wires.push(parent);
        }
        let of_link = link
            .addresses
            .iter()
            .filter_map(|address| IpNet::new(address.gateway?, address.address.prefix_len()).ok());
        gateways.extend(of_link.map(|gateway| (number, gateway)));
    }
    if wires.is_empty() {
        wires.extend(UPLINK.parse::<InterfaceName>());
    }
    let mut bridges: BTreeMap<InterfaceName, Vec<IpNet>> = BTreeMap::new();
    for on in request
        .bridges()
        .filter(|on| on.network.mode == Mode::Unmanaged)
    {
        let addresses = bridges.entry(on.network.bridge.clone()).or_default();
        addresses.extend(
            on.network
                .subnets
                .iter()
                .filter_map(|subnet| IpNet::new(subnet.gateway?, subnet.subnet.prefix_len()).ok()),
        );
    }
    let vrfs = request.bridges().filter_map(|on| on.network.vrf.clone());
    let mut vrfs: Vec<InterfaceName> = vrfs.collect();
    vrfs.sort();
    vrfs.dedup();
    let published = request.ports.iter().filter_map(|port| port.host_address);
    let mut published: Vec<IpAddr> = published
        .filter(|address| !address.is_unspecified() && !address.is_loopback())
        .collect();
    published.sort();
    published.dedup();
    let [host, outside] = ends(request);
    Scenery {
        wires,
        host,
        outside,
        gateways,
        published,
        bridges: bridges.into_iter().collect(),
        vrfs,
    }
}

/// The addresses of both ends of the uplink.
fn ends(request: &SetupRequest) -> [[IpNet; 2]; 2] {
    let addresses = request.attachments.iter().flat_map(|on| match on {
        Attachment::Bridge(bridge) => bridge.addresses.as_slice(),
        Attachment::Sublink(link) => link.addresses.as_slice(),
        Attachment::Plugin(_) => &[],
    });
    let taken: Vec<IpNet> = addresses.map(|address| address.address.trunc()).collect();
    let published: Vec<IpAddr> = request
        .ports
        .iter()
        .filter_map(|port| port.host_address)
        .collect();
    let is_free = |net: &IpNet| {
        !taken
            .iter()
            .any(|other| other.contains(net) || net.contains(other))
            && !published.iter().any(|address| net.contains(address))
    };
    let v4 = |base: Ipv4Addr, host: u8| {
        let [a, b, c, _] = base.octets();
        IpNet::new_assert(Ipv4Addr::new(a, b, c, host).into(), 24)
    };
    let base = WIRES4.into_iter().find(|base| is_free(&v4(*base, 0)));
    let base = base.unwrap_or(WIRES4[0]);
    let v6 = |host: u16| {
        IpNet::new_assert(
            Ipv6Addr::new(0x2001, 0xdb8, 0x7e, 0xa1, 0, 0, 0, host).into(),
            64,
        )
    };
    [[v4(base, 1), v6(1)], [v4(base, 2), v6(2)]]
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The container.
    Container,
    /// The host itself.
    Host,
    /// The machine outside.
    Outside,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Host => "host",
            Self::Outside => "outside",
        })
    }
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Does it answer pings of the container?
    Ping {
        /// Who that is.
        whom: &'static str,
        /// Where it is.
        to: IpAddr,
    },
    /// Does this lead to the container?
    Port {
        /// Who asks.
        from: Side,
        /// Where.
        at: SocketAddr,
        /// By which protocol.
        protocol: Protocol,
        /// Where the container listens.
        inside: SocketAddr,
    },
    /// Does the resolver tell the container these addresses?
    Name {
        /// Where the resolver is.
        server: IpAddr,
        /// The name.
        name: String,
        /// One of the addresses that it must have.
        address: IpAddr,
    },
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping { whom, to } => write!(f, "container pings {whom} {to}"),
            Self::Port {
                from,
                at,
                protocol,
                inside,
            } => {
                let protocol = protocol.name();
                write!(f, "{from} asks {at}/{protocol}, which is {inside}")
            }
            Self::Name {
                server,
                name,
                address,
            } => write!(f, "container asks {server} for {name}, which is {address}"),
        }
    }
}

/// A question, and whether it must be answered or must not be.
pub type Wanted = (Question, bool);

/// What must work after a set-up, and what cannot be asked.
#[must_use]
pub fn checks(
    request: &SetupRequest,
    scenery: &Scenery,
    status: &Status,
) -> (Vec<Wanted>, Vec<String>) {
    let mut wanted = Vec::new();
    let mut not_asked = Vec::new();
    for on in request.bridges() {
        if on.lease || on.network.vlan.is_some() || on.network.vrf.is_some() {
            let name = &on.network.name;
            not_asked.push(format!(
                "{name}: what is in a VLAN, in a VRF or leased is not asked for"
            ));
            continue;
        }
        wanted.extend(gateways(&on.addresses));
        let addresses = on.addresses.iter().map(|address| address.address.addr());
        let servers = status.get(on.network.name.as_str());
        let servers = servers.and_then(|block| block.dns_server_ips.clone());
        let server = servers.unwrap_or_default().into_iter().next();
        if let Some(server) = server.filter(|_| on.network.dns) {
            wanted.extend(addresses.map(|address| {
                let name = request.container_name.clone();
                let question = Question::Name {
                    server,
                    name,
                    address,
                };
                (question, true)
            }));
        }
    }
    for link in request.sublinks().filter(|link| !link.lease) {
        // Links at layer 3 do not resolve neighbours: whoever is outside would need a route back.
        if link.network.kind.answers_neighbours() {
            wanted.extend(gateways(&link.addresses));
        }
    }
    wanted.extend(ways_out(request, scenery));
    for port in &request.ports {
        if port.protocol == Protocol::Sctp {
            not_asked.push(format!(
                "port {}/sctp: nobody here speaks it",
                port.host_port
            ));
            continue;
        }
        wanted.extend(publications(port, request, scenery));
    }
    (wanted, not_asked)
}

fn gateways(addresses: &[crate::request::Address]) -> impl Iterator<Item = Wanted> {
    let gateways = addresses.iter().filter_map(|address| address.gateway);
    gateways.map(|to| {
        (
            Question::Ping {
                whom: "gateway",
                to,
            },
            true,
        )
    })
}

/// The bridges that carry published ports and lead to the outside, where we know how.
fn open_bridges(request: &SetupRequest) -> impl Iterator<Item = &BridgeAttachment> {
    request.bridges().filter(|on| {
        let network = &on.network;
        !network.internal && network.vlan.is_none() && network.vrf.is_none() && !on.lease
    })
}

/// Whether the outside is reached, by family. Where links on top of others are the way out, that is their router's matter.
fn ways_out(request: &SetupRequest, scenery: &Scenery) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let only_bridges = request.bridges().count() == request.attachments.len();
    for outside in scenery.outside.iter().map(IpNet::addr) {
        let of_family = |on: &BridgeAttachment| {
            let mut addresses = on.addresses.iter();
            addresses.any(|one| one.address.addr().is_ipv4() == outside.is_ipv4())
        };
        let leads_out = |on: &&BridgeAttachment| {
            let network = &on.network;
            of_family(on) && network.default_route && network.mode == Mode::Managed
        };
        let way = open_bridges(request).filter(leads_out).count() > 0;
        let closed = request.bridges().all(|on| on.network.internal);
        let question = Question::Ping {
            whom: "outside",
            to: outside,
        };
        let no_ports_below = request.bridges().any(of_family);
        if only_bridges && no_ports_below && (way || closed) {
            wanted.push((question, way));
        }
    }
    wanted
}

/// Where a port is published, asked at the first and the last of a range.
fn publications(port: &PublishedPort, request: &SetupRequest, scenery: &Scenery) -> Vec<Wanted> {
    let managed = || open_bridges(request).filter(|on| on.network.mode == Mode::Managed);
    let mut wanted = Vec::new();
    for (host, place) in scenery.host.iter().map(IpNet::addr).zip([true, false]) {
        let inside = managed().find_map(|on| {
            let mut addresses = on.addresses.iter().map(|one| one.address.addr());
            addresses.find(|address| address.is_ipv4() == place)
        });
        let at = port.host_address.unwrap_or(host);
        let Some(inside) = inside.filter(|_| at.is_ipv4() == place) else {
            continue;
        };
        // The bridge layer may pass packets to [::1] to the filter; then they are refused on purpose.
        if at.is_ipv6() && at.is_loopback() {
            continue;
        }
        let (from, at) = if at.is_unspecified() {
            (Side::Outside, host)
        } else if at.is_loopback() {
            (Side::Host, at)
        } else {
            (Side::Outside, at)
        };
        let last = port.count.saturating_sub(1);
        let mut places = vec![0, last];
        places.dedup();
        for place in places {
            let question = Question::Port {
                from,
                at: SocketAddr::new(at, port.host_port.saturating_add(place)),
                protocol: port.protocol,
                inside: SocketAddr::new(inside, port.container_port.saturating_add(place)),
            };
            wanted.push((question, true));
        }
    }
    wanted
}

/// In what two replies differ. MAC addresses may: they are chosen anew where they do not follow from addresses.
#[must_use]
pub fn differences(recorded: &Value, now: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differ("", recorded, now, &mut found);
    found
}

fn differ(at: &str, recorded: &Value, now: &Value, found: &mut Vec<String>) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => false,
    };
    match (recorded, now) {
        (Value::Object(recorded), Value::Object(now)) => {
            let keys: std::collections::BTreeSet<_> = recorded.keys().chain(now.keys()).collect();
            for key in keys.into_iter().filter(|key| *key != "mac_address") {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
                let (recorded, now) = (of(recorded), of(now));
                let at = format!("{at}/{key}");
                differ(
                    &at,
                    &recorded.unwrap_or_default(),
                    &now.unwrap_or_default(),
                    found,
                );
            }
        }
        (recorded, now) if recorded == now || (empty(recorded) && empty(now)) => {}
        (recorded, now) => found.push(format!("{at}: {recorded} on record, {now} now")),
    }
}

#[cfg(test)]
mod tests;
