//! The firewall state files of netavark.
//!
//! ```text
//! <config>/firewall/firewall-driver                             name of the driver, no newline
//! <config>/firewall/networks/<network id>                       [`NetworkFile`]
//! <config>/firewall/ports/<network id>_<container id>           [`PortsFile`]
//! ```
//! We write them so that netavark finds its way when it takes over running containers, and read them to
//! know of containers that netavark started.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::network::PortMapping;

/// A network that has running containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFile {
    /// Its subnets.
    pub subnets: Option<Vec<IpNet>>,
    /// Its bridge.
    pub bridge_name: String,
    /// Its id; older writers leave it out.
    #[serde(default)]
    pub network_id: String,
    /// The first 13 upper-case hexadecimal digits of the SHA-512 of its name.
    pub network_hash_name: String,
    /// `Strict`, `Normal` or `Never`.
    pub isolation: String,
    /// The port of the resolver.
    pub dns_port: u16,
    /// Whether it is internal; older writers leave it out.
    #[serde(default)]
    pub internal: bool,
    /// The source address of outgoing IPv4 traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound_addr4: Option<Ipv4Addr>,
    /// The source address of outgoing IPv6 traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound_addr6: Option<Ipv6Addr>,
}

/// A container on a network, and the ports that it publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsFile {
    /// The container.
    pub container_id: String,
    /// The network; older writers leave it out.
    #[serde(default)]
    pub network_id: String,
    /// The mappings as the engine gave them.
    pub port_mappings: Option<Vec<PortMapping>>,
    /// The name of the network.
    pub network_name: String,
    /// See [`NetworkFile::network_hash_name`].
    pub network_hash_name: String,
    /// The first IPv4 address of the container.
    pub container_ip_v4: Option<Ipv4Addr>,
    /// Its subnet.
    pub subnet_v4: Option<Ipv4Net>,
    /// The first IPv6 address of the container.
    pub container_ip_v6: Option<Ipv6Addr>,
    /// Its subnet.
    pub subnet_v6: Option<Ipv6Net>,
    /// The port of the resolver.
    pub dns_port: u16,
    /// The gateways of the subnets.
    pub dns_server_ips: Vec<IpAddr>,
    /// Whether the network is internal; older writers leave it out.
    #[serde(default)]
    pub internal: bool,
}
