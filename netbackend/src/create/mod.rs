//! From a network as the user wants it to one that `setup` can carry out.
//!
//! The engine has chosen name and id. What is missing is filled in: the bridge's name, subnets, gateways,
//! the driver that gives addresses, the time. What contradicts itself, the networks that are there
//! already, or the rules of `setup`, is refused, since nobody can mend a stored network later. Callers
//! compare some of the texts with what they expect (`network already exists` above all), so they are
//! netavark's to the letter.
//!
//! Networks of unknown drivers are the business of a plugin, which completes them itself; only that it
//! has not made another network of them is checked.
//!
//! - [`options`]: which options a driver has, and which values they take.
//! - [`subnets`]: subnets that are free, and whether given ones can be.
//!
//! Everything is decided here from the request and [`Facts`]. A seed stands for chance.

pub mod error;
pub mod options;
pub mod subnets;
pub mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wire::create::{CreateRequest, Used};
use wire::names::{InterfaceName, NetworkName};
use wire::network::{Network, Route};

pub use self::error::CreateError;
use crate::request::static_route;

/// What names begin and go on with.
const NAME_PATTERN: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]*";

/// What bridges are called when the request does not say.
const DEFAULT_INTERFACE_NAME: &str = "podman";

/// What has to be known beside the request.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The names of the host's links.
    pub links: BTreeSet<String>,
    /// The time since 1970, UTC.
    pub now: Duration,
    /// Entropy, from which IPv6 subnets are made.
    pub seed: [u8; 16],
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The network is complete.
    Complete(Box<Network>),
    /// The plugin of this name, which is the network's driver, has to complete it.
    Plugin(Box<Network>),
}

/// Reads the document of `create`.
///
/// # Errors
/// Not JSON, a field of the wrong type, or one that is missing; the error names its path.
pub fn parse(document: &[u8]) -> Result<CreateRequest, CreateError> {
    let mut json = serde_json::Deserializer::from_slice(document);
    let request = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." {
            String::new()
        } else {
            format!("{path}: ")
        };
        CreateError::Document(format!("{at}{}", error.into_inner()))
    })?;
    json.end()
        .map_err(|error| CreateError::Document(error.to_string()))?;
    Ok(request)
}

/// Completes a network.
///
/// # Errors
/// The first thing that cannot be, in netavark's order.
pub fn create(request: CreateRequest, facts: &Facts) -> Result<Created, CreateError> {
    let CreateRequest {
        mut network,
        used,
        options,
    } = request;
    check_name(&network, &used)?;
    if let Some(name) = &network.network_interface {
        check_interface(name)?;
    }
    check_ipam(&network)?;
    let mut check_used = options.check_used_subnets;
    match network.driver.as_str() {
        "bridge" => {
            options::rename(&mut network)?;
            let bridge = options::bridge(&mut network)?;
            check_used &= bridge.checked;
            name_bridge(&mut network, &used, &options, &bridge, facts)?;
            let taken = subnets::Taken {
                used: &used.subnets,
                check: check_used,
            };
            bridge_ipam(&mut network, &bridge, &taken, &options, facts)?;
        }
        "macvlan" | "ipvlan" => sublink(&mut network, facts)?,
        _ => return Ok(Created::Plugin(Box::new(network))),
    }
    finish(&mut network, &used, check_used)?;
    network.created = Some(time::rfc3339(facts.now));
    Ok(Created::Complete(Box::new(network)))
}

/// Accepts what a plugin made of a network.
///
/// # Errors
/// It is another network.
pub fn accept(wanted: &Network, mut made: Network, facts: &Facts) -> Result<Network, CreateError> {
    let fields = [
        ("name", &wanted.name, &made.name),
        ("id", &wanted.id, &made.id),
        ("driver", &wanted.driver, &made.driver),
    ];
    for (field, before, after) in fields {
        if before != after {
            return Err(CreateError::PluginChanged {
                driver: wanted.driver.clone(),
                field,
                before: before.clone(),
                after: after.clone(),
            });
        }
    }
    made.created = made.created.or_else(|| Some(time::rfc3339(facts.now)));
    Ok(made)
}

fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(inner)
}

fn check_name(network: &Network, used: &Used) -> Result<(), CreateError> {
    let Network { name, id, .. } = network;
    if name.is_empty() {
        return Err(CreateError::NoName);
    }
    if !is_name(name) {
        return Err(CreateError::Name(name.clone()));
    }
    if used.names.contains_key(name) {
        return Err(CreateError::Exists(name.clone()));
    }
    if let Err(why) = name.parse::<NetworkName>() {
        return Err(CreateError::Field { field: "name", why });
    }
    if id.is_empty() {
        return Err(CreateError::NoId);
    }
    if id.len() != 64 || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(CreateError::Id(id.clone()));
    }
    Ok(())
}

fn check_interface(name: &str) -> Result<(), CreateError> {
    let field = "network_interface";
    match name.parse::<InterfaceName>() {
        Ok(_) => Ok(()),
        Err(why) => Err(CreateError::Field { field, why }),
    }
}

fn ipam(network: &Network) -> Option<&str> {
    let options = network.ipam_options.as_ref()?;
    let driver = options.get("driver").map(String::as_str);
    driver.filter(|driver| !driver.is_empty())
}

fn set_ipam(network: &mut Network, driver: &str) {
    network
        .ipam_options
        .get_or_insert_with(BTreeMap::new)
        .insert("driver".to_owned(), driver.to_owned());
}

fn has_subnets(network: &Network) -> bool {
    network
        .subnets
        .as_ref()
        .is_some_and(|subnets| !subnets.is_empty())
}

fn check_ipam(network: &Network) -> Result<(), CreateError> {
    match ipam(network) {
        None | Some("host-local" | "dhcp") => Ok(()),
        Some("none") if has_subnets(network) => Err(CreateError::NoneWithSubnets),
        Some("none") => Ok(()),
        Some(other) => Err(CreateError::Ipam(other.to_owned())),
    }
}

/// Checks the name of the bridge or gives it one.
fn name_bridge(
    network: &mut Network,
    used: &Used,
    options: &wire::create::CreateOptions,
    bridge: &options::Bridge,
    facts: &Facts,
) -> Result<(), CreateError> {
    if let Some(name) = &network.network_interface {
        check_interface(name)?;
        if bridge.checked && used.interfaces.contains(name) {
            return Err(CreateError::BridgeUsed(name.clone()));
        }
        if !is_name(name) {
            return Err(CreateError::BridgeName(name.clone()));
        }
        return Ok(());
    }
    let given = options.default_interface_name.as_deref();
    let prefix = given
        .filter(|prefix| !prefix.is_empty())
        .unwrap_or(DEFAULT_INTERFACE_NAME);
    let taken = |name: &String| {
        facts.links.contains(name)
            || used.interfaces.contains(name)
            || used.names.contains_key(name)
    };
    // There is one more candidate than there are names in the way.
    let most = facts.links.len() + used.interfaces.len() + used.names.len() + 1;
    let name = (1..=most)
        .map(|number| format!("{prefix}{number}"))
        .find(|name| !taken(name))
        .unwrap_or_default();
    check_interface(&name)?;
    if !is_name(&name) {
        return Err(CreateError::BridgeName(name));
    }
    network.network_interface = Some(name);
    Ok(())
}

/// Gives a bridge network subnets, unless somebody else is to give addresses.
fn bridge_ipam(
    network: &mut Network,
    bridge: &options::Bridge,
    taken: &subnets::Taken<'_>,
    options: &wire::create::CreateOptions,
    facts: &Facts,
) -> Result<(), CreateError> {
    match ipam(network) {
        Some("dhcp") if bridge.managed => Err(CreateError::ManagedDhcp),
        Some("dhcp") if has_subnets(network) => Err(CreateError::DhcpWithSubnets),
        Some("dhcp" | "none") => Ok(()),
        _ => {
            subnets::fill(network, &options.subnet_pools, taken, &facts.seed)?;
            set_ipam(network, "host-local");
            Ok(())
        }
    }
}

/// Completes a network of links on top of one of the host.
fn sublink(network: &mut Network, facts: &Facts) -> Result<(), CreateError> {
    if let Some(parent) = &network.network_interface
        && !facts.links.contains(parent)
    {
        return Err(CreateError::NoParent(parent.clone()));
    }
    network.dns_enabled = false;
    match (ipam(network), has_subnets(network)) {
        (None, false) | (Some("dhcp"), _) if network.driver == "ipvlan" => {
            return Err(CreateError::IpvlanDhcp);
        }
        (Some("dhcp"), true) => return Err(CreateError::DhcpWithSubnets),
        (Some("host-local"), false) => return Err(CreateError::NoSubnets(network.driver.clone())),
        (None, false) => set_ipam(network, "dhcp"),
        (None, true) => set_ipam(network, "host-local"),
        _ => {}
    }
    options::sublink(network)
}

/// What holds for every driver.
fn finish(network: &mut Network, used: &Used, check_used: bool) -> Result<(), CreateError> {
    if ipam(network) == Some("none") {
        network.dns_enabled = false;
    }
    let has_servers = network
        .network_dns_servers
        .as_ref()
        .is_some_and(|servers| !servers.is_empty());
    if has_servers && !network.dns_enabled {
        return Err(CreateError::ServersWithoutDns);
    }
    let taken = subnets::Taken {
        used: &used.subnets,
        check: check_used,
    };
    subnets::check(network, &taken)?;
    check_dns_loop(network)?;
    network.routes.iter().flatten().try_for_each(check_route)
}

/// A resolver that is the network's own gateway would ask itself for ever; `setup` refuses it.
fn check_dns_loop(network: &Network) -> Result<(), CreateError> {
    let subnets = network.subnets.iter().flatten();
    let gateways: BTreeSet<_> = subnets.filter_map(|subnet| subnet.gateway).collect();
    let mut servers = network.network_dns_servers.iter().flatten();
    match servers.find(|server| gateways.contains(server)) {
        Some(server) => Err(CreateError::DnsLoop(*server)),
        None => Ok(()),
    }
}

fn check_route(route: &Route) -> Result<(), CreateError> {
    let destination = route.destination;
    if destination != destination.trunc() {
        return Err(CreateError::RouteDestination(destination));
    }
    static_route(route)?;
    Ok(())
}

#[cfg(test)]
mod tests;
