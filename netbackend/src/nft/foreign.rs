//! Chains of others that drop what our rules accept.
//!
//! A packet must be accepted by every base chain of its hook, in whatever table. What one accepts, another whose
//! policy is to drop still drops, unless a rule of its own accepts it. We cannot know its rules' mind, but we can say
//! that it is there.
//!
//! ```text
//! nfgenmsg, then attributes: NFTA_CHAIN_TABLE 1, _NAME 3, _HOOK 4 (nested: NFTA_HOOK_HOOKNUM 1), _POLICY 5
//! ```

use std::fmt;

use super::listing::{number, text};
use super::notice::attribute;

/// A base chain whose policy is to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropChain {
    family: &'static str,
    table: String,
    name: String,
    /// What it is asked about.
    pub hook: Hook,
}

/// The hooks that matter to containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets for the host: questions to its resolver.
    Input,
    /// Packets that pass through.
    Forward,
}

impl fmt::Display for DropChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "chain {} {} {} has the policy to drop",
            self.family, self.table, self.name
        )
    }
}

impl DropChain {
    pub(super) fn new(family: &'static str, table: &str, name: &str, hook: Hook) -> Self {
        Self {
            family,
            table: table.to_owned(),
            name: name.to_owned(),
            hook,
        }
    }
}

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN`.
const NEW_CHAIN: u16 = 10 << 8 | 3;
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// `NF_DROP`.
const DROP: u32 = 0;

/// The chain that a message tells of, if it drops and is not of one of these tables.
#[must_use]
pub fn drop_chain(message: &[u8], known: &[&str]) -> Option<DropChain> {
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let body = message.get(HEADER..)?;
    let attributes = body.get(GENERIC..)?;
    if kind != NEW_CHAIN || number(attribute(attributes, 5)?)? != DROP {
        return None;
    }
    // NFPROTO_INET, _IPV4, _IPV6
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    // NF_INET_LOCAL_IN, NF_INET_FORWARD
    let hook = match number(attribute(attribute(attributes, 4)?, 1)?)? {
        1 => Hook::Input,
        2 => Hook::Forward,
        _ => return None,
    };
    let table = text(attribute(attributes, 1)?);
    let name = text(attribute(attributes, 3)?);
    (!known.contains(&table.as_str())).then_some(DropChain {
        family,
        table,
        name,
        hook,
    })
}
