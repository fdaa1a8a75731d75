//! DNS names of a container, and what it is told to resolve with.

use std::net::IpAddr;

use wire::names::ContainerId;
use wire::zone::{self, Entry, Header};

use super::Obstacle;
use crate::observed::{Observed, Settings};
use crate::request::{BridgeAttachment, Mode, SetupRequest};

/// The search domain of containers whose names are resolved.
const SEARCH_DOMAIN: &str = "dns.podman";

/// What goes into the zone file of a network.
#[derive(Debug)]
pub struct Names {
    /// The name of the file.
    pub file: String,
    /// Its first line.
    pub header: Header,
    /// The container's line.
    pub entry: Entry,
}

/// The names of an attachment, if its network resolves any, and a warning for each name that cannot be.
///
/// # Errors
/// An unmanaged bridge has no address on which a resolver could answer.
pub fn names(
    attachment: &BridgeAttachment,
    request: &SetupRequest,
    observed: &Observed,
    warnings: &mut Vec<String>,
) -> Result<Option<Names>, Obstacle> {
    let listen = listen(attachment, observed)?;
    if listen.is_empty() {
        return Ok(None);
    }
    let network = &attachment.network;
    Ok(Some(Names {
        file: zone::file_name(&network.name, network.internal),
        header: Header {
            listen,
            servers: network.dns_servers.clone(),
        },
        entry: entry(&request.container, attachment, request, warnings),
    }))
}

fn entry(
    id: &ContainerId,
    attachment: &BridgeAttachment,
    request: &SetupRequest,
    warnings: &mut Vec<String>,
) -> Entry {
    let addresses = || {
        attachment
            .addresses
            .iter()
            .map(|address| address.address.addr())
    };
    let mut names = Vec::new();
    for name in std::iter::once(&request.container_name).chain(&attachment.aliases) {
        if zone::usable_name(name) {
            names.push(name.clone());
        } else {
            warnings.push(format!("invalid network alias \"{name}\": names cannot be empty or contain a comma, space or line break"));
        }
    }
    Entry {
        id: id.clone(),
        ipv4: addresses()
            .filter_map(|address| pick!(address, IpAddr::V4(v4) => v4))
            .collect(),
        ipv6: addresses()
            .filter_map(|address| pick!(address, IpAddr::V6(v6) => v6))
            .collect(),
        names,
        servers: request.dns_servers.clone().unwrap_or_default(),
    }
}

/// Where the resolver of an attachment's network answers; nowhere if there is none.
///
/// # Errors
/// An unmanaged bridge has no address on which it could.
pub fn listen(attachment: &BridgeAttachment, observed: &Observed) -> Result<Vec<IpAddr>, Obstacle> {
    let network = &attachment.network;
    if !network.dns || !observed.dns_available {
        return Ok(Vec::new());
    }
    if network.mode == Mode::Managed {
        return Ok(network
            .subnets
            .iter()
            .filter_map(|subnet| subnet.gateway)
            .collect());
    }
    let addresses = observed
        .bridges
        .get(&network.bridge)
        .map(|bridge| bridge.addresses.clone())
        .unwrap_or_default();
    if addresses.is_empty() {
        Err(Obstacle::NoDnsAddress(network.bridge.clone()))
    } else {
        Ok(addresses)
    }
}

/// Search domains and resolvers for a container, given where the resolver of its network answers.
#[must_use]
pub fn resolvers(listen: &[IpAddr], request: &SetupRequest) -> (Vec<String>, Vec<IpAddr>) {
    if listen.is_empty() {
        return (Vec::new(), request.dns_servers.clone().unwrap_or_default());
    }
    (vec![SEARCH_DOMAIN.to_owned()], listen.to_vec())
}

/// How the DNS responder is reached.
#[must_use]
pub fn service(settings: &Settings, wanted: super::step::Wanted) -> super::step::DnsService {
    super::step::DnsService {
        directory: super::layout::zones(&settings.config),
        binary: settings.dns_binary.clone(),
        port: settings.dns_port,
        rootless: settings.rootless,
        wanted,
    }
}
