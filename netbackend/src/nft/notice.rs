//! What the kernel tells of changes of nftables (the multicast group `NFNLGRP_NFTABLES`).
//!
//! A transaction is told of as one message for each object that came or went, and at last one `NFT_MSG_NEWGEN`, which
//! names the process that made it. Only what matters for watching one table is read; messages that we do not understand
//! are passed over.
//!
//! ```text
//! nlmsghdr   len u32, type u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_*, flags u16, sequence u32, port u32
//! nfgenmsg   family u8, version u8, resource u16
//! nlattr *   len u16, type u16, data, padded to 4 bytes
//! ```

/// What a message says of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An object of it came or went.
    Touched,
    /// One of its rules went.
    RuleGone,
    /// What was told before was one transaction, of the process with this name (at most 15 bytes).
    Commit(String),
}

/// `sizeof(struct nlmsghdr)` and, behind it, `sizeof(struct nfgenmsg)`.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// `NFNL_SUBSYS_NFTABLES`, `NFPROTO_INET`.
const NFTABLES: u8 = 10;
const INET: u8 = 1;
/// `NFT_MSG_DELRULE`, `NFT_MSG_NEWGEN`.
const DELETE_RULE: u8 = 8;
const NEW_GENERATION: u8 = 15;
/// The attribute that names the table, in messages about any kind of object (`NFTA_*_TABLE`).
const TABLE: u16 = 1;
/// `NFTA_GEN_PROC_NAME`.
const PROCESS: u16 = 3;

/// What the messages of a datagram say of the `inet` table of this name.
#[must_use]
pub fn notices(datagram: &[u8], table: &str) -> Vec<Notice> {
    messages(datagram)
        .filter_map(|message| notice(message, table))
        .collect()
}

fn notice(message: &[u8], table: &str) -> Option<Notice> {
    let [kind, subsystem] = *message.get(4..6)?.first_chunk()?;
    let body = message.get(HEADER..)?;
    if subsystem != NFTABLES {
        return None;
    }
    let attributes = body.get(GENERIC..)?;
    if kind == NEW_GENERATION {
        return Some(Notice::Commit(
            text(attributes, PROCESS).unwrap_or_default(),
        ));
    }
    let ours = *body.first()? == INET && text(attributes, TABLE)? == table;
    match kind {
        _ if !ours => None,
        DELETE_RULE => Some(Notice::RuleGone),
        _ => Some(Notice::Touched),
    }
}

/// The text of the first attribute of a type.
fn text(attributes: &[u8], wanted: u16) -> Option<String> {
    let text = attribute(attributes, wanted)?;
    let end = text.iter().position(|byte| *byte == 0);
    let text = text.get(..end.unwrap_or(text.len()))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// The data of the first attribute of a type.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, data)| (kind == wanted).then_some(data))
}

/// Attributes with their types.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_TYPE_MASK`: without the flags for nested attributes and byte order.
    const TYPE: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = |head: &[u8]| {
            let length: Option<&[u8; 2]> = head.first_chunk();
            length.map(|len| u32::from(u16::from_ne_bytes(*len)))
        };
        let (attribute, behind) = split_first(rest, 4, length)?;
        rest = behind;
        let kind = u16::from_ne_bytes(*attribute.get(2..4)?.first_chunk()?);
        Some((kind & TYPE, attribute.get(4..)?))
    })
}

/// The messages of a datagram.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = |head: &[u8]| head.first_chunk().map(|len| u32::from_ne_bytes(*len));
        let (message, behind) = split_first(rest, 4, length)?;
        rest = behind;
        Some(message)
    })
}

/// The first of several records that begin with their length, and what is behind it and its padding to 4 bytes.
fn split_first(
    bytes: &[u8],
    least: usize,
    length: impl Fn(&[u8]) -> Option<u32>,
) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length(bytes)?).ok()?;
    if length < least {
        return None;
    }
    let first = bytes.get(..length)?;
    let behind = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((first, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, text: &str) -> Vec<u8> {
        let len = u16::try_from(4 + text.len() + 1).expect("short");
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(text.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u8, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let attributes = attributes.concat();
        let len = u32::try_from(HEADER + GENERIC + attributes.len()).expect("short");
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend([kind, NFTABLES]);
        bytes.resize(HEADER, 0);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn only_our_table_counts() {
        let datagram = [
            message(0, INET, &[attribute(TABLE, "netavark")]),
            message(DELETE_RULE, INET, &[attribute(TABLE, "netavark")]),
            message(DELETE_RULE, INET, &[attribute(TABLE, "netavark2")]),
            message(DELETE_RULE, 2, &[attribute(TABLE, "netavark")]),
            message(
                NEW_GENERATION,
                0,
                &[attribute(2, "abc"), attribute(PROCESS, "nft")],
            ),
        ]
        .concat();
        let expected = [
            Notice::Touched,
            Notice::RuleGone,
            Notice::Commit("nft".to_owned()),
        ];
        assert_eq!(notices(&datagram, "netavark"), expected);
    }

    #[test]
    fn damaged_datagrams_say_nothing() {
        let whole = message(DELETE_RULE, INET, &[attribute(TABLE, "netavark")]);
        for len in 0..whole.len() {
            assert_eq!(notices(&whole[..len], "netavark"), []);
        }
        let mut endless = whole;
        endless[..4].copy_from_slice(&0_u32.to_ne_bytes());
        assert_eq!(notices(&endless, "netavark"), []);
    }
}
