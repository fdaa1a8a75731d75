//! Why a command cannot be encoded.

use serde::Serialize;

/// A command that [`encode`](super::netlink::encode) refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode `{command}`: {reason}")]
pub struct EncodeError {
    /// The command as text.
    pub command: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Outside of the subset that is supported.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The schema lacks the set, so that the types of its elements are not known.
    #[error("set {0} is not in the schema")]
    UnknownSet(String),
    /// A value that its type cannot hold.
    #[error("{value} is not a value of type {datatype}")]
    Value {
        /// The value, as JSON.
        value: String,
        /// The name that nft has for the type.
        datatype: &'static str,
    },
    /// Two matches of a rule exclude each other: `ip` after `ip6`, `tcp` after `udp`.
    #[error("protocol {needed} is needed, but an earlier match said {established}")]
    Conflict {
        /// Number of the protocol that the expression at hand needs.
        needed: u8,
        /// Number of the protocol that the rule has settled on before.
        established: u8,
    },
}

impl Reason {
    /// `value` is outside of the supported subset.
    pub(super) fn unsupported(value: &impl Serialize) -> Self {
        Self::Unsupported(describe(value))
    }
}

/// The JSON spelling of a piece of a command.
pub(super) fn describe(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}
