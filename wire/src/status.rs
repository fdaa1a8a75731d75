//! The reply: what `setup` prints on success, and what every sub-command prints on failure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The reply of `setup`: a block for each requested network, and no others, since Podman counts them.
pub type Status = BTreeMap<String, StatusBlock>;

/// What a container got from one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetInterface {
    /// Its MAC address. Plugins have their own ways of writing one; an interface may have none ("").
    pub mac_address: String,
    /// Its addresses.
    pub subnets: Option<Vec<NetAddress>>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetAddress {
    /// The gateway of the subnet.
    pub gateway: Option<IpAddr>,
    /// The address of the container (not of the subnet) with the subnet's prefix length.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub ipnet: IpNet,
}

/// The error document. Podman refuses any further key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorReply {
    /// What went wrong, for people.
    pub error: String,
}

impl ErrorReply {
    /// The longest text, in bytes. Podman reads our output when we have ended, so a document that does not
    /// fit into a pipe (64 KiB) would have us wait for ever, and JSON can make six bytes of one.
    const LIMIT: usize = 8 << 10;

    /// The document for this text, or for its beginning if it quotes too much of the input.
    #[must_use]
    pub fn new(mut error: String) -> Self {
        if error.len() > Self::LIMIT {
            let end = (0..=Self::LIMIT)
                .rev()
                .find(|end| error.is_char_boundary(*end));
            error.truncate(end.unwrap_or_default());
            error.push_str("...");
        }
        Self { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fits_into_a_pipe() {
        assert_eq!(ErrorReply::new("short".to_owned()).error, "short");
        for text in ["x", "\u{1}", "\u{20ac}", "\""] {
            let reply = ErrorReply::new(text.repeat(100_000));
            assert!(serde_json::to_string(&reply).unwrap().len() < 64 << 10);
            assert!(reply.error.starts_with(text) && reply.error.ends_with("..."));
        }
    }
}
