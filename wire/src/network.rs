//! The request: what an engine writes to standard input of `setup` and `teardown`.
//!
//! Two generations exist. Podman 5 writes `networks` as an object keyed by network name, Podman 6 as an
//! array of objects that carry their name. Both are read into [`Networks`], in the order of the document.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Everything about one container that is to be attached to or detached from networks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkOptions {
    /// The id of the container.
    pub container_id: String,
    /// The name of the container, or of its pod; its first DNS name.
    pub container_name: String,
    /// The host name inside the container; only sent to DHCP servers.
    #[serde(default)]
    pub container_hostname: Option<String>,
    /// The networks to act on.
    pub networks: Networks,
    /// The descriptions of these networks, by name; others may be there.
    pub network_info: BTreeMap<String, Network>,
    /// The ports to publish on every network that can.
    #[serde(default)]
    pub port_mappings: Option<Vec<PortMapping>>,
    /// The container's own upstream resolvers.
    #[serde(default)]
    pub dns_servers: Option<Vec<IpAddr>>,
}

/// Which generation of engine wrote the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// `networks` is an object: Podman 5, isolation only when asked for.
    Object,
    /// `networks` is an array: Podman 6, strict isolation unless told otherwise.
    Array,
}

/// The networks of a request in the order of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    /// How they were written.
    pub generation: Generation,
    /// Network name and options; a name occurs once.
    pub entries: Vec<(String, PerNetworkOptions)>,
}

/// What one container wants of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PerNetworkOptions {
    /// The name of the interface inside the container.
    pub interface_name: String,
    /// The addresses to give to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_ips: Option<Vec<IpAddr>>,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_mac: Option<String>,
    /// Further DNS names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aliases: Option<Vec<String>>,
    /// Driver options of this attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
}

/// One published port, or a range of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PortMapping {
    /// The address of the host to listen on; empty for all.
    #[serde(default)]
    pub host_ip: Option<String>,
    /// The first port on the host.
    #[serde(default)]
    pub host_port: Option<u16>,
    /// The first port in the container.
    #[serde(default)]
    pub container_port: Option<u16>,
    /// `tcp`, `udp` or `sctp`, or several of them with commas.
    #[serde(default)]
    pub protocol: Option<String>,
    /// How many consecutive ports on both sides; 0 and 1 mean one.
    #[serde(default)]
    pub range: Option<u16>,
}

/// The description of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The driver: `bridge`, `macvlan`, `ipvlan` or the name of a plugin.
    pub driver: String,
    /// The bridge or the parent interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_interface: Option<String>,
    /// When it was created, RFC 3339. Never interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Its subnets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnets: Option<Vec<Subnet>>,
    /// Routes for its containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// Whether it has IPv6 subnets; `setup` goes by the subnets.
    pub ipv6_enabled: bool,
    /// Whether it is closed to the outside.
    pub internal: bool,
    /// Whether names of containers are resolved on it.
    pub dns_enabled: bool,
    /// Upstream resolvers of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_dns_servers: Option<Vec<IpAddr>>,
    /// Labels of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Driver options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
    /// Who chooses addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam_options: Option<BTreeMap<String, String>>,
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Subnet {
    /// Address and prefix length; host bits are tolerated.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub subnet: IpNet,
    /// The gateway, which the bridge gets as its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The part from which the engine leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_range: Option<LeaseRange>,
}

/// The part of a subnet from which the engine leases addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeaseRange {
    /// The first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ip: Option<IpAddr>,
    /// The last address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ip: Option<IpAddr>,
}

/// A static route for the containers of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Route {
    /// Where it leads to.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub destination: IpNet,
    /// The next hop; only unicast routes have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Its metric; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(max = u32::MAX)))]
    pub metric: Option<u32>,
    /// `unicast`, `blackhole`, `unreachable` or `prohibit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_type: Option<String>,
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NetworksVisitor)
    }
}

struct NetworksVisitor;

/// An element of the array form.
#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    options: PerNetworkOptions,
}

fn push<E: de::Error>(
    entries: &mut Vec<(String, PerNetworkOptions)>,
    name: String,
    options: PerNetworkOptions,
) -> Result<(), E> {
    if entries.iter().any(|(known, _)| *known == name) {
        return Err(E::custom(format_args!("network \"{name}\" is given twice")));
    }
    entries.push((name, options));
    Ok(())
}

impl<'de> Visitor<'de> for NetworksVisitor {
    type Value = Networks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object keyed by network name or an array of objects with a name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Networks, A::Error> {
        let mut entries = Vec::new();
        while let Some((name, options)) = map.next_entry()? {
            push(&mut entries, name, options)?;
        }
        Ok(Networks {
            generation: Generation::Object,
            entries,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Networks, A::Error> {
        let mut entries = Vec::new();
        while let Some(Named { name, options }) = seq.next_element()? {
            push(&mut entries, name, options)?;
        }
        Ok(Networks {
            generation: Generation::Array,
            entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(json: &str) -> Result<Networks, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    fn names(json: &str) -> Vec<String> {
        networks(json)
            .unwrap()
            .entries
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn both_generations_keep_the_order_of_the_document() {
        let object = r#"{"b":{"interface_name":"eth0"},"a":{"interface_name":"eth1"}}"#;
        assert_eq!(names(object), ["b", "a"]);
        assert_eq!(networks(object).unwrap().generation, Generation::Object);
        let array =
            r#"[{"name":"b","interface_name":"eth0"},{"name":"a","interface_name":"eth1","x":1}]"#;
        assert_eq!(names(array), ["b", "a"]);
        assert_eq!(networks(array).unwrap().generation, Generation::Array);
    }

    #[test]
    fn a_network_given_twice_is_refused() {
        for json in [
            r#"{"a":{"interface_name":"eth0"},"a":{"interface_name":"eth1"}}"#,
            r#"[{"name":"a","interface_name":"eth0"},{"name":"a","interface_name":"eth1"}]"#,
        ] {
            assert!(
                networks(json)
                    .unwrap_err()
                    .contains("network \"a\" is given twice")
            );
        }
    }

    #[test]
    fn null_counts_as_absent() {
        let json = r#"{"a":{"interface_name":"eth0","static_ips":null,"aliases":null,"options":null,"static_mac":null}}"#;
        assert_eq!(networks(json).unwrap().entries.len(), 1);
    }
}
