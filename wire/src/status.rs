//! The reply: what `setup` prints on success, and what every sub-command prints on failure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::MacAddr;

/// The reply of `setup`: a block for each requested network, and no others, since Podman counts them.
pub type Status = BTreeMap<String, StatusBlock>;

/// What a container got from one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusBlock {
    /// Search domains for its resolv.conf.
    pub dns_search_domains: Option<Vec<String>>,
    /// Resolvers for its resolv.conf. Podman drops the host's own when there is any.
    pub dns_server_ips: Option<Vec<IpAddr>>,
    /// Its interfaces on this network, by name.
    pub interfaces: Option<BTreeMap<String, NetInterface>>,
}

/// One interface inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetInterface {
    /// Its MAC address.
    pub mac_address: MacAddr,
    /// Its addresses.
    pub subnets: Option<Vec<NetAddress>>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetAddress {
    /// The gateway of the subnet.
    pub gateway: Option<IpAddr>,
    /// The address of the container (not of the subnet) with the subnet's prefix length.
    pub ipnet: IpNet,
}

/// The error document. Podman refuses any further key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What went wrong, for people.
    pub error: String,
}
