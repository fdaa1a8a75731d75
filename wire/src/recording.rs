//! A call of a network backend as it was: written by `record`, read by `replay` and by people.
//!
//! What was on standard input and output is kept as it stood, so that the order of what has no order is the same when it
//! is said again. Of the environment only what changes the answer is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The version of these documents; a reader refuses a higher one.
pub const VERSION: u32 = 1;

/// One call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Recording {
    /// The version of this document.
    pub version: u32,
    /// When the call began, in RFC 3339, UTC.
    pub time: String,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The program that was called.
    pub program: String,
    /// Its arguments, without its own name.
    pub arguments: Vec<String>,
    /// Variables of the environment that it minds.
    pub environment: BTreeMap<String, String>,
    /// The document on its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<serde_json::Value>"))]
    pub request: Option<Box<RawValue>>,
    /// What was on its standard input, if that was something else than one document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The document on its standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<serde_json::Value>"))]
    pub reply: Option<Box<RawValue>>,
    /// What was on its standard output, if that was something else than one document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The code it ended with.
    pub exit_code: Option<i32>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
    /// Whether input or output was too long to be kept whole.
    #[serde(default)]
    pub cut: bool,
}
