//! Who is connected to whom, as a graph: written by `topology`, for programs that draw.

use serde::{Deserialize, Serialize};

use crate::inspection::State;

/// The host, networks and containers, and what joins them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Topology {
    /// The host first, then networks, then containers.
    pub nodes: Vec<Node>,
    /// Each names its ends by the ids of nodes.
    pub edges: Vec<Edge>,
}

/// Something to draw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    /// Unique among nodes: `host`, or the kind and the id of a network or container.
    pub id: String,
    /// What it is.
    pub kind: NodeKind,
    /// What people call it.
    pub label: String,
    /// What else is to be known of it: interfaces, subnets, addresses.
    pub details: Vec<String>,
    /// What is special about it: `internal`, `isolated`, `names` and so on.
    pub marks: Vec<String>,
    /// Whether all of it is there.
    pub state: State,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// The host, with its way out.
    Host,
    /// A network.
    Network,
    /// A container.
    Container,
}

/// What joins two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Edge {
    /// The id of a node.
    pub from: String,
    /// The id of another one.
    pub to: String,
    /// What joins them.
    pub kind: EdgeKind,
    /// Interface and addresses, or ports.
    pub label: String,
}

/// What joins two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum EdgeKind {
    /// A network that reaches the outside by the host.
    Uplink,
    /// A container on a network.
    Attached,
    /// Ports of the host that lead to a container.
    Published,
}
