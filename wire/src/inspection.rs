//! What is on record of networks and containers, and what of it is on the host: written by `inspect`, for people and
//! scripts.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::state::{Isolation, PublishedPort};

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Inspection {
    /// The interface that leads to the rest of the world, if there is one.
    pub uplink: Option<Uplink>,
    /// The networks, by name.
    pub networks: Vec<Network>,
    /// The containers, by name.
    pub containers: Vec<Container>,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// The host's way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Uplink {
    /// The interface of the default route.
    pub interface: String,
    /// Its addresses, without link-local ones.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub addresses: Vec<IpNet>,
}

/// A network that has containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// What carries it: `bridge`, `macvlan`, `ipvlan`, the name of a plugin, or `unknown` when its containers are gone.
    pub driver: String,
    /// The interface of the host that it is on: its bridge, or the parent of its links.
    pub host_interface: Option<String>,
    /// Whether the bridge is somebody else's.
    pub unmanaged: bool,
    /// Whether it is closed to the outside.
    pub internal: bool,
    /// How it is closed off from other networks; nothing where the packet filter has no say.
    pub isolation: Option<Isolation>,
    /// The VRF that its bridge belongs to.
    pub vrf: Option<String>,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// Chosen source addresses of outgoing traffic.
    pub outbound: Vec<IpAddr>,
    /// Where its resolver answers, if it has one.
    pub dns: Option<Dns>,
    /// The ids of its containers.
    pub containers: Vec<String>,
    /// What it is made of on the host.
    pub parts: Vec<Part>,
}

/// A subnet and the host's address in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Subnet {
    /// Its network address and prefix length.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub subnet: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
}

/// A resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Dns {
    /// The addresses that containers ask.
    pub listen: Vec<IpAddr>,
    /// The port it is bound to; port 53 is redirected to another one.
    pub port: u16,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Container {
    /// Its name; the first characters of its id if no name is on record.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Where its network namespace was when it was set up.
    pub netns: String,
    /// Whether that namespace is still there.
    pub namespace: State,
    /// The networks it is on, oldest first.
    pub attachments: Vec<Attachment>,
}

/// A container on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Attachment {
    /// The name of the network.
    pub network: String,
    /// The id of the network.
    pub network_id: String,
    /// The interface inside the container, if it is known.
    pub interface: Option<String>,
    /// The host's end of it, for networks with a bridge.
    pub host_interface: Option<String>,
    /// Its MAC address, if it is there.
    pub mac: Option<String>,
    /// Its addresses: those on record, or those found if none are on record.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub addresses: Vec<IpNet>,
    /// The metric of its default routes, if it has any.
    pub default_metric: Option<u32>,
    /// Whether its address is leased by DHCP.
    pub leased: bool,
    /// The ports that it publishes on this network.
    pub ports: Vec<PublishedPort>,
    /// The names that the resolver knows it by.
    pub names: Vec<String>,
    /// What it is made of on the host and in the container.
    pub parts: Vec<Part>,
}

/// Something that should be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Part {
    /// What it is, such as `bridge podman1`.
    pub part: String,
    /// Whether it is there.
    pub state: State,
    /// What is wrong with it, or why that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is, and as it should be.
    There,
    /// Something of that name is, but not as it should be.
    Wrong,
    /// It is not.
    Missing,
    /// That cannot be told.
    Unknown,
}
