//! Fragments: the guest's made whole, and datagrams to the guest cut.
//!
//! A guest cuts a datagram that is larger than the link's MTU. Its parts are copied until they are complete; then the
//! datagram goes on as bytes of our own ([`crate::event::Payload::Bytes`]). Parts that overlap make the whole datagram
//! suspect, and it is forgotten (RFC 5722, and for IPv4 as well); the same part twice does no harm (RFC 8200, 4.5).
//! What waits is bounded in number, bytes and time ([`limits`]); the oldest gives way.
//!
//! In the other direction the payload stays in the arena: each fragment is a header and a span.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use crate::event::{Drop, Lane, Offload, Output, Payload, Span};
use crate::limits;
use crate::packet::build::{self, Link};
use crate::packet::ip::{self, Fragment, Packet};

/// The datagrams of the guest that are not whole.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// In the order in which they began.
    partial: VecDeque<Partial>,
    bytes: usize,
}

/// A datagram that has become whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// What the payload is; for IPv6 an extension header may follow ([`ip::transport`]).
    pub protocol: u8,
    /// That of the first fragment.
    pub hop_limit: u8,
    /// What the fragments carried.
    pub payload: Vec<u8>,
}

/// What the fragments of one datagram have in common (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    /// IPv4 only.
    protocol: Option<u8>,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    began: Instant,
    /// In order of place, without overlap.
    parts: Vec<Part>,
    bytes: usize,
    /// Where the last part ends, once it has come.
    total: Option<usize>,
    /// Protocol and hop limit of the first part.
    first: Option<(u8, u8)>,
}

#[derive(Debug)]
struct Part {
    at: usize,
    bytes: Vec<u8>,
}

impl Part {
    fn end(&self) -> usize {
        self.at.saturating_add(self.bytes.len())
    }
}

impl Reassembly {
    /// A fragment of the guest. If it was the one that was missing, this is the datagram.
    ///
    /// # Errors
    ///
    /// [`Drop::Malformed`] for one that cannot be part of any datagram, [`Drop::Fragment`] for one that overlaps
    /// others or is one too many: the datagram is forgotten.
    pub fn add(&mut self, now: Instant, packet: &Packet<'_>) -> Result<Option<Whole>, Drop> {
        let fragment = packet.fragment.ok_or(Drop::Malformed)?;
        let at = usize::from(fragment.offset);
        let end = at.saturating_add(packet.payload.len());
        let odd = fragment.more && !packet.payload.len().is_multiple_of(8);
        if packet.payload.is_empty() || odd || end > usize::from(u16::MAX) {
            return Err(Drop::Malformed);
        }
        self.expire(now);
        let place = self.place(now, packet, fragment);
        let partial = self.partial.get_mut(place).ok_or(Drop::Fragment)?;
        let before = partial.bytes;
        let added = partial.add(packet, fragment, at);
        let grown = partial.bytes.saturating_sub(before);
        let done = partial.is_whole();
        self.bytes = self.bytes.saturating_add(grown);
        if added.is_err() || done {
            let partial = self.forget(place).ok_or(Drop::Fragment)?;
            added?;
            return Ok(partial.whole());
        }
        while self.bytes > limits::PARTIAL_BYTES {
            self.forget(0);
        }
        Ok(None)
    }

    /// Datagrams that are not whole, and the bytes of their fragments.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.partial.len(), self.bytes)
    }

    /// When the oldest of them will be given up.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let oldest = self.partial.front()?;
        Some(oldest.began + limits::FRAGMENT_TIMEOUT)
    }

    /// Give up what is too old.
    pub fn expire(&mut self, now: Instant) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.forget(0);
        }
    }

    /// Where the datagram of this fragment is, perhaps from now on.
    fn place(&mut self, now: Instant, packet: &Packet<'_>, fragment: Fragment) -> usize {
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            id: fragment.id,
            protocol: packet.source.is_ipv4().then_some(packet.protocol),
        };
        if let Some(place) = self.partial.iter().position(|other| other.key == key) {
            return place;
        }
        if self.partial.len() >= limits::PARTIAL_DATAGRAMS {
            self.forget(0);
        }
        self.partial.push_back(Partial {
            key,
            began: now,
            parts: Vec::new(),
            bytes: 0,
            total: None,
            first: None,
        });
        self.partial.len().saturating_sub(1)
    }

    fn forget(&mut self, place: usize) -> Option<Partial> {
        let partial = self.partial.remove(place)?;
        self.bytes = self.bytes.saturating_sub(partial.bytes);
        Some(partial)
    }
}

impl Partial {
    fn add(&mut self, packet: &Packet<'_>, fragment: Fragment, at: usize) -> Result<(), Drop> {
        let end = at.saturating_add(packet.payload.len());
        let place = self.parts.partition_point(|part| part.at < at);
        let next = self.parts.get(place);
        if next.is_some_and(|next| next.at == at && next.bytes == packet.payload) {
            return Ok(());
        }
        let before = place
            .checked_sub(1)
            .and_then(|before| self.parts.get(before));
        let last = self.parts.last().map_or(0, Part::end);
        let overlaps = before.is_some_and(|before| before.end() > at)
            || next.is_some_and(|next| next.at < end)
            || self
                .total
                .is_some_and(|total| end > total || !fragment.more)
            || (!fragment.more && last > end);
        if overlaps || self.parts.len() >= limits::FRAGMENTS {
            return Err(Drop::Fragment);
        }
        if !fragment.more {
            self.total = Some(end);
        }
        if at == 0 {
            self.first = Some((packet.protocol, packet.hop_limit));
        }
        self.bytes = self.bytes.saturating_add(packet.payload.len());
        let bytes = packet.payload.to_vec();
        self.parts.insert(place, Part { at, bytes });
        Ok(())
    }

    /// Without overlap, as many bytes as the end says are all of them.
    fn is_whole(&self) -> bool {
        self.total == Some(self.bytes)
    }

    fn whole(self) -> Option<Whole> {
        let (protocol, hop_limit) = self.first?;
        let mut payload = Vec::with_capacity(self.bytes);
        for part in &self.parts {
            payload.extend_from_slice(&part.bytes);
        }
        Some(Whole {
            protocol,
            hop_limit,
            payload,
        })
    }
}

/// A datagram to the guest that does not fit the link.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What it is.
    pub protocol: u8,
    /// Time to live.
    pub hop_limit: u8,
    /// The transport header, checksum complete.
    pub head: &'a [u8; 8],
    /// What follows it.
    pub payload: Span,
}

/// Give the guest a datagram in fragments, each an IP packet of at most `mtu` bytes.
pub fn cut(out: &mut VecDeque<Output>, link: &Link, mtu: usize, id: u32, datagram: &Datagram<'_>) {
    let header = match datagram.destination {
        IpAddr::V4(_) => ip::IPV4_LEN,
        IpAddr::V6(_) => ip::IPV6_LEN + ip::FRAGMENT_LEN,
    };
    let room = (mtu.saturating_sub(header) / 8 * 8).max(16);
    let head = datagram.head.len();
    let total = head.saturating_add(datagram.payload.len as usize);
    let (mut at, mut taken) = (0_usize, 0_usize);
    while at < total {
        let length = room.min(total.saturating_sub(at));
        let fragment = Fragment {
            id,
            offset: u16::try_from(at).unwrap_or(u16::MAX),
            more: at.saturating_add(length) < total,
        };
        let mut headers = build::fragment(
            link,
            datagram.source,
            datagram.destination,
            datagram.protocol,
            datagram.hop_limit,
            length,
            fragment,
        );
        let mut bytes = length;
        if at == 0 {
            headers.push(datagram.head);
            bytes = bytes.saturating_sub(head);
        }
        let offset = |number| u32::try_from(number).unwrap_or(u32::MAX);
        out.push_back(Output::Frame {
            headers,
            payload: Payload::Span(Span {
                at: datagram.payload.at.saturating_add(offset(taken)),
                len: offset(bytes),
            }),
            offload: Offload::default(),
            lane: Lane::Common,
        });
        at = at.saturating_add(length);
        taken = taken.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::local::tests::start;

    fn part(id: u32, offset: u16, more: bool, payload: &[u8]) -> Packet<'_> {
        Packet {
            source: [192, 0, 2, 10].into(),
            destination: [198, 51, 100, 1].into(),
            protocol: ip::UDP,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: false,
            fragment: Some(Fragment { id, offset, more }),
            headers: &[],
            payload,
        }
    }

    proptest! {
        #[test]
        fn whole_in_any_order(
            payload in proptest::collection::vec(any::<u8>(), 9..4000),
            size in 1_usize..60,
            seed: u64,
        ) {
            let size = (size * 8).max(payload.len().div_ceil(limits::FRAGMENTS).next_multiple_of(8));
            let mut parts: Vec<_> = payload
                .chunks(size)
                .enumerate()
                .map(|(i, bytes)| (i * size, (i + 1) * size < payload.len(), bytes))
                .collect();
            prop_assume!(parts.len() > 1);
            let mut state = seed;
            for i in (1..parts.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                parts.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
            }
            let mut reassembly = Reassembly::default();
            let last = parts.len() - 1;
            for (i, (at, more, bytes)) in parts.into_iter().enumerate() {
                let packet = part(7, u16::try_from(at).unwrap(), more, bytes);
                let whole = reassembly.add(start(), &packet).unwrap();
                prop_assert_eq!(whole.is_some(), i == last);
                if let Some(whole) = whole {
                    prop_assert_eq!(&whole.payload, &payload);
                } else {
                    // Twice is once.
                    prop_assert_eq!(reassembly.add(start(), &packet), Ok(None));
                }
            }
            prop_assert_eq!((reassembly.bytes, reassembly.partial.len()), (0, 0));
        }
    }

    #[test]
    fn an_overlap_ends_the_datagram() {
        let bytes = [0; 32];
        let again = |first: Packet<'_>, second: Packet<'_>| {
            let mut reassembly = Reassembly::default();
            assert_eq!(reassembly.add(start(), &first), Ok(None));
            assert_eq!(reassembly.add(start(), &second), Err(Drop::Fragment));
            assert!(reassembly.partial.is_empty() && reassembly.bytes == 0);
        };
        again(
            part(1, 0, true, &bytes[..16]),
            part(1, 8, true, &bytes[..16]),
        );
        again(
            part(1, 8, true, &bytes[..16]),
            part(1, 0, true, &bytes[..16]),
        );
        again(
            part(1, 0, true, &bytes[..16]),
            part(1, 0, true, &bytes[..8]),
        );
        again(
            part(1, 16, false, &bytes[..16]),
            part(1, 24, true, &bytes[..16]),
        );
        again(
            part(1, 16, false, &bytes[..16]),
            part(1, 32, false, &bytes[..16]),
        );
        again(
            part(1, 16, true, &bytes[..16]),
            part(1, 8, false, &bytes[..8]),
        );
    }

    #[test]
    fn what_no_datagram_has() {
        let mut reassembly = Reassembly::default();
        for packet in [
            part(1, 0, true, &[0; 9]),
            part(1, 8, true, &[]),
            part(1, 65_528, false, &[0; 8]),
        ] {
            assert_eq!(reassembly.add(start(), &packet), Err(Drop::Malformed));
        }
        assert_eq!(reassembly.deadline(), None);
    }

    #[test]
    fn time_and_number_are_bounded() {
        let begin = start();
        let mut reassembly = Reassembly::default();
        let count = u32::try_from(limits::PARTIAL_DATAGRAMS).unwrap();
        for id in 0..=count {
            let now = begin + Duration::from_secs(u64::from(id == count));
            reassembly.add(now, &part(id, 0, true, &[1; 8])).unwrap();
        }
        assert_eq!(reassembly.partial.len(), limits::PARTIAL_DATAGRAMS);
        // The first has given way, the second has not.
        let missing = |id| part(id, 8, false, &[2; 3]);
        let now = begin + Duration::from_secs(2);
        assert!(reassembly.add(now, &missing(1)).unwrap().is_some());
        reassembly.expire(begin + limits::FRAGMENT_TIMEOUT);
        assert_eq!(reassembly.partial.len(), 1);
        let deadline = reassembly.deadline().unwrap();
        assert_eq!(reassembly.add(deadline, &missing(count)), Ok(None));
    }

    #[test]
    fn the_bytes_are_bounded() {
        let mut reassembly = Reassembly::default();
        let payload = vec![0; 65_528];
        for id in 0..200 {
            reassembly
                .add(start(), &part(id, 0, true, &payload))
                .unwrap();
            assert!(reassembly.bytes <= limits::PARTIAL_BYTES);
        }
    }
}
