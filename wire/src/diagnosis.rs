//! What is broken on a host, why, and what to do about it: written by `doctor`, for people and scripts.

use serde::{Deserialize, Serialize};

/// What there is to say about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Diagnosis {
    /// Whether nothing is broken; warnings do not count.
    pub healthy: bool,
    /// The state directory that was looked at.
    pub config: String,
    /// How many networks are on record there.
    pub networks: usize,
    /// How many containers are on record there.
    pub containers: usize,
    /// What is not as it should be, the worst first.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing it is: a word of the troubleshooting table, which stays the same.
    pub code: String,
    /// What is the matter.
    pub what: String,
    /// What comes of it.
    pub why: String,
    /// Commands that mend it, as for a shell, in this order. There may be none.
    pub remedy: Vec<String>,
}

/// How bad a finding is. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Some container lacks something that it was promised.
    Broken,
    /// All works, but something is odd, or will not work for everybody.
    Warning,
}
