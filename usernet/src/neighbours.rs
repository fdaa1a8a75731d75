//! The host's neighbours: what its kernel tells of them, and what of it is news.
//!
//! The kernel tells in two ways, through one socket. *Notices* (`RTNLGRP_NEIGH`) say what has changed, one entry each.
//! A *list* (`RTM_GETNEIGH`) is asked for once in the beginning, once for each family, and whenever notices were lost;
//! what we knew and the list does not have is gone. Only entries of the links that the guest's one stands for matter,
//! and only their link-layer addresses: that an entry is confirmed again and again is no news.
//!
//! The same socket tells when one of these links is gone, and while one is gone which links are made ([`links`]): an
//! adapter that is plugged in again, or a tunnel that is built anew, has its name and another index.
//!
//! [`Neighbours`] is told what came ([`Neighbours::take`], [`Neighbours::lost`]) and says what to send to the kernel
//! ([`Neighbours::request`]) and what the forwarder is to be told.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP_INTR, NlaBuffer, NlasIterator};

use crate::addr;
use crate::config::Families;
use crate::limits;
use crate::packet::Mac;

/// A neighbour, and its link-layer address; none: forgotten.
pub type News = (IpAddr, Option<Mac>);

/// `AF_INET`, `AF_INET6`
pub const FAMILIES: [u8; 2] = [2, 10];
/// `NLMSG_ERROR`, `NLMSG_DONE`
pub const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_GETLINK`
pub const LINK: u16 = 16;
/// See [`LINK`].
pub const LINK_GONE: u16 = 17;
const ASK_LINK: u16 = 18;
/// `IFLA_IFNAME`
const NAME: u16 = 3;
/// `RTM_NEWNEIGH`, `RTM_DELNEIGH`, `RTM_GETNEIGH`
pub const NEW: u16 = 28;
/// See [`NEW`].
pub const GONE: u16 = 29;
const LIST: u16 = 30;
/// States in which an entry has no address (`NUD_INCOMPLETE`, `NUD_FAILED`).
pub const UNKNOWN: u16 = 0x01 | 0x20;
/// `NTF_PROXY`: an address that the host answers for.
const PROXY: u8 = 0x08;
/// nlmsghdr; ndmsg: family, padding, link, state, flags, kind.
const HEADER: usize = 16;
const FIXED: usize = 12;

/// A request for the list of one link: nlmsghdr, ndmsg, and one attribute.
pub type Request = [u8; HEADER + FIXED + 8];

/// How often a list is asked for again that changed while it was told.
const ATTEMPTS: u32 = 8;

/// What the host's kernel knows of the links that matter.
#[derive(Debug, Default)]
pub struct Neighbours {
    links: Families<u32>,
    known: BTreeMap<IpAddr, Known>,
    /// Families whose list is still to be told, in this order.
    lists: VecDeque<u8>,
    /// How often all of them were begun with.
    attempts: u32,
    /// It changed while it was told, or notices were lost meanwhile.
    torn: bool,
    /// A list could not be told, so that nothing follows from what it does not have.
    partial: bool,
    /// What the kernel is telling now.
    told: Option<List>,
    sequence: u32,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    mac: Mac,
    /// Not heard of since the list began. What comes before that was there when notices were lost, or before.
    doubtful: bool,
}

/// An answer of the kernel.
#[derive(Debug, Clone, Copy)]
struct List {
    sequence: u32,
    /// It is what we ask for still.
    current: bool,
    begun: bool,
}

impl Neighbours {
    /// Follow these links from now on. Everything known is forgotten.
    pub fn follow(&mut self, links: Families<u32>) -> Vec<News> {
        self.links = links;
        self.attempts = 0;
        self.begin();
        let gone = std::mem::take(&mut self.known);
        gone.into_keys().map(|address| (address, None)).collect()
    }

    /// Notices were lost.
    pub fn lost(&mut self) {
        if self.lists.is_empty() {
            self.attempts = 0;
            self.begin();
        } else {
            self.torn = true;
        }
    }

    /// What to ask the kernel for now, if anything. It tells one list at a time.
    pub fn request(&mut self) -> Option<Request> {
        let family = *self.lists.front()?;
        let link = self.link(family)?;
        if self.told.is_some() {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.told = Some(List {
            sequence: self.sequence,
            current: true,
            begun: false,
        });
        Some(request(family, link, self.sequence))
    }

    /// The request could not be sent: what is known stays until something else is told.
    pub fn refused(&mut self) {
        self.told = None;
        self.lists.clear();
    }

    /// A datagram of the kernel: one notice, or a part of a list.
    pub fn take(&mut self, datagram: &[u8]) -> Vec<News> {
        let mut news = Vec::new();
        let mut rest = datagram;
        while let Some((header, body, after)) = split(rest) {
            rest = after;
            if let Some(list) = &mut self.told {
                list.begun |= list.sequence == header.sequence;
            }
            match header.kind {
                NEW | GONE => news.extend(self.entry(&header, body)),
                ERROR | DONE => news.extend(self.list_ends(&header)),
                _ => {}
            }
        }
        news
    }

    fn link(&self, family: u8) -> Option<u32> {
        let [v4, _] = FAMILIES;
        if family == v4 {
            self.links.v4
        } else {
            self.links.v6
        }
    }

    /// Ask for everything. A list that is being told is waited for, and does not count.
    fn begin(&mut self) {
        let wanted = FAMILIES.into_iter();
        let wanted = wanted.filter(|family| self.link(*family).is_some());
        self.lists = wanted.collect();
        self.attempts += 1;
        (self.torn, self.partial) = (false, false);
        if let Some(list) = &mut self.told {
            list.current = false;
        }
        for known in self.known.values_mut() {
            known.doubtful = true;
        }
    }

    /// What no list had is gone, unless they cannot be trusted.
    fn list_ends(&mut self, header: &Header) -> Vec<News> {
        let answers = |list: &mut List| list.sequence == header.sequence;
        let Some(list) = self.told.take_if(answers) else {
            return Vec::new();
        };
        self.partial |= header.kind == ERROR;
        if list.current {
            self.lists.pop_front();
        }
        if !self.lists.is_empty() {
            return Vec::new();
        }
        if self.torn && self.attempts < ATTEMPTS {
            self.begin();
        }
        if self.torn || self.partial || !self.lists.is_empty() {
            return Vec::new();
        }
        let gone = self.known.extract_if(.., |_, known| known.doubtful);
        gone.map(|(address, _)| (address, None)).collect()
    }

    /// Whether the list is still to come that says what is true of an address.
    fn doubts(&self, address: IpAddr) -> bool {
        let [v4, v6] = FAMILIES;
        let family = if address.is_ipv4() { v4 } else { v6 };
        let mut after = self.lists.iter();
        match self.told {
            Some(list) if list.current && list.begun => after.skip(1).any(|next| *next == family),
            _ => after.any(|next| *next == family),
        }
    }

    fn entry(&mut self, header: &Header, body: &[u8]) -> Option<News> {
        self.torn |= header.flags & NLM_F_DUMP_INTR != 0;
        let entry = entry(body)?;
        let link = match entry.address {
            IpAddr::V4(_) => self.links.v4,
            IpAddr::V6(_) => self.links.v6,
        };
        if link != Some(entry.link) {
            return None;
        }
        let address = entry.address;
        let Some(mac) = entry.mac.filter(|_| header.kind == NEW) else {
            return self.known.remove(&address).map(|_| (address, None));
        };
        let full = self.known.len() >= limits::NEIGHBOURS;
        if full && !self.known.contains_key(&address) {
            return None;
        }
        let doubtful = self.doubts(address);
        let before = self.known.insert(address, Known { mac, doubtful });
        (before.map(|known| known.mac) != Some(mac)).then_some((address, Some(mac)))
    }
}

/// A link, as the kernel told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It is there, with this name.
    There(u32, String),
    /// It is not there any more.
    Gone(u32),
}

/// What a datagram of the kernel says of links.
pub fn links(datagram: &[u8]) -> impl Iterator<Item = Link> {
    let mut rest = datagram;
    let messages = std::iter::from_fn(move || {
        let (header, body, after) = split(rest)?;
        rest = after;
        Some((header.kind, body))
    });
    // ifinfomsg: family, padding, kind, index, flags, changed. That a bridge lets go of a link is of its family.
    messages.filter_map(|(kind, body)| {
        let index = u32_at(body, 4).filter(|_| body.first() == Some(&0))?;
        match kind {
            LINK => Some(Link::There(index, name(body.get(16..)?)?)),
            LINK_GONE => Some(Link::Gone(index)),
            _ => None,
        }
    })
}

fn name(attributes: &[u8]) -> Option<String> {
    let named = NlasIterator::new(attributes).find_map(|attribute| {
        let attribute: NlaBuffer<&[u8]> = attribute.ok()?;
        (attribute.kind() == NAME).then(|| attribute.value().to_vec())
    })?;
    let text = named.strip_suffix(&[0])?;
    String::from_utf8(text.to_vec()).ok()
}

/// Ask for a link by its name. The answer is as the kernel tells of new ones.
#[must_use]
pub fn ask_link(name: &str) -> Vec<u8> {
    let mut bytes = vec![0; HEADER + 16];
    let length = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(NAME.to_ne_bytes());
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&ASK_LINK.to_ne_bytes());
    // NLM_F_REQUEST
    bytes[6..8].copy_from_slice(&1_u16.to_ne_bytes());
    bytes
}

/// What matters of an nlmsghdr.
struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// The next message, what is in it, and what follows it.
fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    let header = Header {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
    };
    let after = bytes.get(length.next_multiple_of(4)..);
    Some((header, body, after.unwrap_or_default()))
}

/// An entry of the kernel's table.
struct Entry {
    link: u32,
    address: IpAddr,
    mac: Option<Mac>,
}

fn entry(body: &[u8]) -> Option<Entry> {
    const DESTINATION: u16 = 1;
    const LINK_ADDRESS: u16 = 2;
    let (state, flags) = (u16_at(body, 8)?, *body.get(10)?);
    if flags & PROXY != 0 {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in NlasIterator::new(body.get(FIXED..)?) {
        let attribute: NlaBuffer<&[u8]> = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            DESTINATION => address = ip(value),
            LINK_ADDRESS => mac = Mac::try_from(value).ok(),
            _ => {}
        }
    }
    // Entries of groups, which need nobody to ask, are none of neighbours.
    let mac = mac.filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]);
    Some(Entry {
        link: u32_at(body, 4)?,
        address: address.filter(|address| addr::is_unicast(*address))?,
        mac: mac.filter(|_| state & UNKNOWN == 0),
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// `NLM_F_REQUEST | NLM_F_DUMP`, and `NDA_IFINDEX`: the kernel leaves other links out.
fn request(family: u8, link: u32, sequence: u32) -> Request {
    let mut bytes = [0; size_of::<Request>()];
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    let parts: [(usize, &[u8]); 7] = [
        (0, &length.to_ne_bytes()),
        (4, &LIST.to_ne_bytes()),
        (6, &0x301_u16.to_ne_bytes()),
        (8, &sequence.to_ne_bytes()),
        (16, &[family]),
        (28, &[8_u16.to_ne_bytes(), 8_u16.to_ne_bytes()].concat()),
        (32, &link.to_ne_bytes()),
    ];
    for (place, part) in parts {
        bytes[place..place + part.len()].copy_from_slice(part);
    }
    bytes
}

fn u16_at(bytes: &[u8], place: usize) -> Option<u16> {
    let bytes = bytes.get(place..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    let bytes = bytes.get(place..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests;
