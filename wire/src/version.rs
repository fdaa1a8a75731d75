//! Which program this is: written by `version`. Podman shows it in `podman info`.

use serde::{Deserialize, Serialize};

/// A program as it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Version {
    /// The version of netavark that it takes the place of, and its own behind a plus sign.
    pub version: String,
    /// The commit that it was built from.
    pub commit: String,
    /// When it was built.
    pub build_time: String,
    /// What it was built for: processor and system.
    pub target: String,
    /// Who filters packets unless somebody says otherwise.
    pub default_fw_driver: String,
}
