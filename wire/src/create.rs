//! The request of `create`: a network as the user wants it, and what it must not collide with.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::network::Network;

/// What an engine writes to standard input of `create`. The reply is the [`Network`], completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateRequest {
    /// The network, with name, id, driver and its three flags; the rest may be missing.
    pub network: Network,
    /// What other networks and the host have taken.
    pub used: Used,
    /// What the administrator configured.
    pub options: CreateOptions,
}

/// What other networks and the host have taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Used {
    /// Bridges and interfaces.
    pub interfaces: Vec<String>,
    /// The ids of networks by their names.
    pub names: BTreeMap<String, String>,
    /// Subnets.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub subnets: Vec<IpNet>,
}

/// What the administrator configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateOptions {
    /// Where IPv4 subnets are taken from.
    pub subnet_pools: Vec<SubnetPool>,
    /// What names of bridges begin with.
    #[serde(default)]
    pub default_interface_name: Option<String>,
    /// Whether subnets may not overlap with those that are taken.
    pub check_used_subnets: bool,
}

/// A range that is divided into subnets of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SubnetPool {
    /// The range.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub base: IpNet,
    /// The prefix length of its subnets.
    pub size: u8,
}
