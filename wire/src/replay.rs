//! What came of a recorded request that was carried out once more: written by `replay`.

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// The whole story.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// The name of the container.
    pub container: String,
    /// The names of its networks.
    pub networks: Vec<String>,
    /// The steps of the plan.
    pub plan: Vec<String>,
    /// What the plan says to the packet filter.
    pub nft: String,
    /// The set-up.
    pub setup: Call,
    /// What it answered.
    pub status: Option<Status>,
    /// In what the answer is not the one on record; nothing if there is none on record.
    pub differs: Option<Vec<String>>,
    /// What was asked over the network.
    pub checks: Vec<Check>,
    /// What could not be asked, and why.
    pub not_asked: Vec<String>,
    /// The teardown.
    pub teardown: Option<Call>,
    /// What is left of it all on the host that was made for it.
    pub left: Vec<String>,
    /// Whether everything went as it should.
    pub good: bool,
}

/// A call of the backend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Call {
    /// The code it ended with; nothing if it was ended.
    pub exit_code: Option<i32>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The error that it told.
    pub error: Option<String>,
    /// What it wrote to standard error.
    pub log: String,
}

/// A question over the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Check {
    /// Who asks whom for what.
    pub check: String,
    /// Whether there must be an answer, or must be none.
    pub wanted: bool,
    /// Whether it went so.
    pub good: bool,
    /// What was answered, or why nothing was.
    pub answer: String,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}
