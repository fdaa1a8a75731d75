//! What crashed engines and calls have left behind: written by `gc --json`, for scripts.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::MacAddr;

/// What was found, or was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Collection {
    /// Nothing was changed: a dry run.
    Found {
        /// What would be taken away, in this order.
        found: Vec<Leftover>,
    },
    /// It is gone.
    Removed {
        /// What was taken away, in this order.
        removed: Vec<Leftover>,
    },
}

/// Something that nobody answers for any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Leftover {
    /// A call that was killed, which is taken back.
    Interrupted {
        /// The id of the container.
        container: String,
    },
    /// A container whose namespace is gone.
    Container {
        /// Its id.
        container: String,
        /// The names of the networks that it was on; on others it may live.
        networks: Vec<String>,
    },
    /// A container that is said to be on a network and has no record of it.
    Member {
        /// Its id.
        container: String,
        /// The id of the network.
        network_id: String,
    },
    /// A port of a bridge that no record tells of and nobody can use.
    Port {
        /// The interface of the bridge.
        bridge: String,
        /// The interface that is its port.
        port: String,
    },
    /// A network without containers.
    Network {
        /// Its name.
        network: String,
        /// Its id.
        network_id: String,
        /// The interface of its bridge.
        bridge: String,
    },
    /// A network without a record that is said to use a bridge.
    BridgeUser {
        /// The interface of the bridge.
        bridge: String,
        /// The id of the network.
        network_id: String,
    },
    /// A file of netavark's of a container that is gone.
    NetavarkContainer {
        /// The id of the container.
        container: String,
        /// The name of the network.
        network: String,
        /// The id of the network.
        network_id: String,
    },
    /// A file of netavark's of a network that is gone, and its bridge.
    NetavarkNetwork {
        /// The id of the network.
        network_id: String,
        /// The interface of the bridge.
        bridge: String,
    },
    /// A zone file that nobody answers for.
    Zone {
        /// Its name in the directory of zone files.
        file: String,
    },
    /// A lease whose interface is gone.
    Lease {
        /// The id of the container.
        container: String,
        /// The interface inside of it.
        interface: String,
        /// The MAC address that it was leased to.
        mac_address: MacAddr,
        /// What was leased.
        address: IpAddr,
    },
    /// Rules of the packet filter, though no network is there.
    Rules,
}
