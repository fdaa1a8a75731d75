//! What a call would do: written by `plan --json`, for people and scripts.

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// A call that was planned and not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Plan {
    /// What would be changed, in this order.
    pub steps: Vec<Planned>,
    /// What the packet filter would be told, as a script of the program `nft`; empty for nothing.
    pub nft: String,
    /// What the call would reply.
    pub status: Status,
    /// What the user should know although nothing is wrong enough to fail.
    pub warnings: Vec<String>,
}

/// A change, and for whose sake it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Planned {
    /// The name of the network; null if the change serves all networks of the call.
    pub network: Option<String>,
    /// The change in words, which may be others in the next version.
    pub step: String,
}
