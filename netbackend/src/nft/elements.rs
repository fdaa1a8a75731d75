//! Elements of sets in messages, theirs and ours, as bytes that are equal if the elements are.
//!
//! The crate that encodes messages also reads them, but takes a millisecond for each element of a long list.
//!
//! ```text
//! nfgenmsg, then NFTA_SET_ELEM_LIST_ELEMENTS 3: NFTA_LIST_ELEM 1 for each element:
//!   NFTA_SET_ELEM_KEY 1: NFTA_DATA_VALUE 1
//!   NFTA_SET_ELEM_DATA 2: NFTA_DATA_VALUE 1, or NFTA_DATA_VERDICT 2: NFTA_VERDICT_CODE 1, _CHAIN 2
//!   NFTA_SET_ELEM_FLAGS 3: NFT_SET_ELEM_INTERVAL_END 1
//! ```

use super::notice::{attribute, attributes};

/// An element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Whether it is the end of an interval, and not in it.
    pub ends: bool,
    key: Vec<u8>,
    leads_to: Vec<u8>,
}

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM`.
const NEW_ELEMENTS: u16 = 10 << 8 | 12;
const HEADERS: usize = 16 + 4;

/// The elements of a message; `None` if it is about something else.
#[must_use]
pub fn identities(message: &[u8]) -> Option<Vec<Identity>> {
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    if kind != NEW_ELEMENTS {
        return None;
    }
    let list = attribute(message.get(HEADERS..)?, 3).unwrap_or_default();
    let elements = attributes(list).map(|(_, element)| identity(element));
    Some(elements.collect())
}

fn identity(element: &[u8]) -> Identity {
    let part = |bytes, kind| attribute(bytes, kind).unwrap_or_default();
    let data = part(element, 2);
    let verdict = part(data, 2);
    Identity {
        ends: part(element, 3).last().is_some_and(|flags| flags & 1 != 0),
        key: part(part(element, 1), 1).to_vec(),
        leads_to: [part(data, 1), part(verdict, 1), part(verdict, 2)].concat(),
    }
}
