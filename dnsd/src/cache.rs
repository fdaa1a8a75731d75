//! Answers of servers, kept as long as they say.
//!
//! An answer is found again by the servers that were asked, the question, and what of the query has an influence
//! on it: whether there is EDNS, and the bits RD, CD, AD and DO. When the servers change, nothing old is found. What
//! is given out has the times to live reduced by its age, the asker's id and its spelling of the name.
//!
//! Kept are answers and absences (RFC 2308: the time is in the SOA record; without one, nothing is kept). When
//! the bytes are used up, what was put in first goes first, but what was used since is spared once.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use crate::limits;
use crate::packet::{self, HEADER, Plain, Structure, flag, rcode};
use crate::zones::Servers;

/// What an answer is found by.
pub type Key = Vec<u8>;

/// Kept answers.
#[derive(Debug)]
pub struct Cache {
    entries: HashMap<Box<[u8]>, Entry>,
    order: VecDeque<Box<[u8]>>,
    bytes: usize,
    limit: usize,
    secret: RandomState,
}

#[derive(Debug)]
struct Entry {
    message: Box<[u8]>,
    ttls: Box<[u16]>,
    stored: Instant,
    ttl: u32,
    used: bool,
}

/// What an entry takes beyond its bytes, roughly.
const OVERHEAD: usize = 160;

impl Entry {
    fn size(&self, key: &[u8]) -> usize {
        2 * key.len() + self.message.len() + 2 * self.ttls.len() + OVERHEAD
    }
}

const SOA: u16 = 6;

impl Cache {
    /// A cache of so many bytes; none are none.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            limit,
            secret: RandomState::new(),
        }
    }

    /// Writes the key of a query. `name` is the question's name as a key.
    pub fn key(&self, servers: &Servers, plain: &Plain, name: &[u8], key: &mut Key) {
        let bits = plain.flags & (flag::RD | flag::CD | flag::AD);
        let edns = plain.edns.map_or(0, |edns| 1 + u16::from(edns.dnssec));
        key.clear();
        key.extend_from_slice(&self.secret.hash_one(servers).to_be_bytes());
        for part in [bits | edns, plain.kind, plain.class] {
            key.extend_from_slice(&part.to_be_bytes());
        }
        key.extend_from_slice(name);
    }

    /// Writes the answer to a query, if there is one that is still good.
    pub fn get(
        &mut self,
        key: &[u8],
        query: &[u8],
        plain: &Plain,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        let age = now.saturating_duration_since(entry.stored).as_secs();
        let Some(age) = u32::try_from(age).ok().filter(|age| *age < entry.ttl) else {
            return false;
        };
        entry.used = true;
        out.clear();
        out.extend_from_slice(&entry.message);
        out[..2].copy_from_slice(&plain.id.to_be_bytes());
        out[HEADER..plain.end].copy_from_slice(&query[HEADER..plain.end]);
        for at in entry.ttls.iter().map(|at| usize::from(*at)) {
            let ttl: [u8; 4] = out[at..at + 4].try_into().unwrap_or_default();
            let left = u32::from_be_bytes(ttl).saturating_sub(age);
            out[at..at + 4].copy_from_slice(&left.to_be_bytes());
        }
        true
    }

    /// Keeps an answer, if it may be kept.
    pub fn put(&mut self, key: &[u8], message: &[u8], plain: &Plain, now: Instant) {
        if message.len() > limits::CACHE_ENTRY {
            return;
        }
        let Some(structure) = Structure::parse(message).filter(|it| it.questions_end == plain.end)
        else {
            return;
        };
        let Some(ttl) = lifetime(message, &structure) else {
            return;
        };
        let (message, ttls) = without_options(message, &structure);
        let entry = Entry {
            message,
            ttls,
            stored: now,
            ttl,
            used: false,
        };
        let size = entry.size(key);
        if size > self.limit {
            return;
        }
        self.bytes += size;
        match self.entries.insert(key.into(), entry) {
            Some(old) => self.bytes -= old.size(key),
            None => self.order.push_back(key.into()),
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.limit {
            let Some(key) = self.order.pop_front() else {
                return;
            };
            let spared = self
                .entries
                .get_mut(&key)
                .is_some_and(|entry| std::mem::take(&mut entry.used));
            if spared {
                self.order.push_back(key);
            } else if let Some(old) = self.entries.remove(&key) {
                self.bytes -= old.size(&key);
            }
        }
    }

    /// How many answers are kept, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}

/// For how many seconds an answer may be kept.
fn lifetime(message: &[u8], structure: &Structure) -> Option<u32> {
    let flags = packet::u16_at(message, 2)?;
    let code = flags & 0x000f;
    if flags & flag::TC != 0 || !matches!(code, rcode::NOERROR | rcode::NXDOMAIN) {
        return None;
    }
    let records = || structure.records.iter().filter(|record| record.kind != 41);
    let negative = code == rcode::NXDOMAIN || records().all(|record| record.section != 0);
    let mut ttl = records()
        .map(|record| record.ttl)
        .min()?
        .min(limits::CACHE_TTL);
    if negative {
        let soa = records().find(|record| record.section == 1 && record.kind == SOA)?;
        let minimum: [u8; 4] = message.get(soa.end - 4..soa.end)?.try_into().ok()?;
        ttl = ttl
            .min(u32::from_be_bytes(minimum))
            .min(limits::CACHE_NEGATIVE_TTL);
    }
    (ttl > 0).then_some(ttl)
}

/// A copy of a message, its OPT record without options (they were for one asker), and where its times to live are.
fn without_options(message: &[u8], structure: &Structure) -> (Box<[u8]>, Box<[u16]>) {
    let mut copy = message[..structure.end].to_vec();
    if let Some(opt) = structure.opt() {
        let length_at = opt.ttl_at + 4;
        if opt.end == structure.end {
            copy.truncate(length_at + 2);
            packet::put_u16(&mut copy, length_at, 0);
        }
    }
    let records = structure.records.iter().filter(|record| record.kind != 41);
    let ttls = records
        .filter_map(|record| u16::try_from(record.ttl_at).ok())
        .collect();
    (copy.into_boxed_slice(), ttls)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "some instant is needed to begin with"
)]
mod tests {
    use std::time::Duration;

    use super::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WeB\x00\x00\x01\x00\x01";

    fn answer(ttl: u8) -> Vec<u8> {
        let mut message = QUERY.to_vec();
        message[2] = 0x81;
        message[7] = 1;
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 10, 0, 0, 1]);
        message
    }

    fn servers() -> Servers {
        ["1.1.1.1:53".parse().unwrap()].into()
    }

    #[test]
    fn times_to_live_run_down() {
        let mut cache = Cache::new(10_000);
        let (mut name, mut key, mut out) = (Vec::new(), Vec::new(), Vec::new());
        let plain = Plain::parse(QUERY, &mut name).unwrap();
        cache.key(&servers(), &plain, &name, &mut key);
        let start = Instant::now();
        cache.put(&key, &answer(10), &plain, start);
        let mut other = QUERY.to_vec();
        other[..2].copy_from_slice(&[9, 9]);
        other[13] = b'w';
        let plain = Plain::parse(&other, &mut name).unwrap();
        assert!(cache.get(
            &key,
            &other,
            &plain,
            start + Duration::from_secs(3),
            &mut out
        ));
        assert_eq!(
            (&out[..2], &out[13..16], out[30]),
            (&[9u8, 9][..], &b"weB"[..], 7)
        );
        assert!(!cache.get(
            &key,
            &other,
            &plain,
            start + Duration::from_secs(10),
            &mut out
        ));
    }

    #[test]
    fn what_must_not_be_kept_is_not() {
        let mut cache = Cache::new(10_000);
        let mut name = Vec::new();
        let plain = Plain::parse(QUERY, &mut name).unwrap();
        let mut check = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = answer(10);
            change(&mut message);
            cache.put(b"key", &message, &plain, Instant::now());
            std::mem::take(&mut cache.entries).len()
        };
        assert_eq!(check(&|_| {}), 1);
        assert_eq!(check(&|message| message[30] = 0), 0, "no time to live");
        assert_eq!(check(&|message| message[3] = 2), 0, "SERVFAIL");
        assert_eq!(check(&|message| message[3] = 3), 0, "NXDOMAIN without SOA");
        assert_eq!(check(&|message| message[2] |= 2), 0, "truncated");
        assert_eq!(check(&|message| message[7] = 2), 0, "broken");
    }

    #[test]
    fn bytes_are_bounded() {
        let mut cache = Cache::new(20_000);
        let mut name = Vec::new();
        let plain = Plain::parse(QUERY, &mut name).unwrap();
        for n in 0..1000u16 {
            cache.put(&n.to_be_bytes(), &answer(10), &plain, Instant::now());
            assert!(cache.size().1 <= 20_000 && cache.order.len() == cache.entries.len());
        }
        assert!(cache.size().0 > 50);
    }

    #[test]
    fn bytes_are_bounded_when_answers_grow() {
        let mut cache = Cache::new(20_000);
        let mut name = Vec::new();
        let plain = Plain::parse(QUERY, &mut name).unwrap();
        let mut long = answer(10);
        long[7] = 40;
        for _ in 1..40 {
            long.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, 10, 0, 0, 1]);
        }
        for message in [answer(10), long, answer(10)] {
            for n in 0..80u16 {
                cache.put(&n.to_be_bytes(), &message, &plain, Instant::now());
                let sizes = cache.entries.iter().map(|(key, entry)| entry.size(key));
                assert_eq!(cache.size().1, sizes.sum::<usize>());
                assert!(cache.size().1 <= 20_000 && cache.order.len() == cache.entries.len());
            }
        }
    }
}
