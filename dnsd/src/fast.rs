//! The short way to a reply: plain questions, answered from bytes to bytes.
//!
//! It writes what [`crate::full`] would write, byte for byte, or leaves the query to it: a test asks both the same
//! questions. Left to the full path are messages that are not [`Plain`], services, and answers with names that
//! could be compressed in more than one way, or with so many records that the encoder stops compressing.

use crate::answer::{self, Found, Policy, Question, Verdict, kind};
use crate::packet::{self, HEADER, Plain, flag, rcode};
use crate::respond::{Outcome, Scratch};
use crate::zones::{Asker, Zones};

/// More records than this are left to the full path.
const MOST_RECORDS: usize = 50;

/// Longer names may have so many labels that the encoder does not remember the last ones, to point to them.
const LONG_NAME: usize = 100;

/// The owner of every record is the question's name, right behind the header.
const OWNER: [u8; 2] = [0xc0, 12];

/// Replies to a plain query, if it can.
pub fn respond(
    zones: &Zones,
    policy: &Policy,
    asker: &Asker,
    query: &[u8],
    tcp: bool,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Option<Outcome> {
    let plain = Plain::parse(query, &mut scratch.key)?;
    let question = Question {
        name: &scratch.key,
        kind: plain.kind,
        class: plain.class,
        turn: plain.id,
    };
    let verdict = answer::decide(zones, policy, asker, &question, &mut scratch.found);
    let code = match verdict {
        Verdict::Forward(servers) => return Some(Outcome::Forward(servers)),
        Verdict::Services => return None,
        Verdict::Addresses | Verdict::Pointers => rcode::NOERROR,
        Verdict::NoName => rcode::NXDOMAIN,
        Verdict::Refused => rcode::REFUSED,
    };
    let limit = packet::limit(plain.edns, tcp) - plain.edns.map_or(0, |_| 11);
    out.clear();
    out.extend_from_slice(&query[..plain.end]);
    let written = match verdict {
        Verdict::Addresses => addresses(&scratch.found, limit, out)?,
        Verdict::Pointers => pointers(zones, &scratch.found, limit, out)?,
        Verdict::Services | Verdict::NoName | Verdict::Refused | Verdict::Forward(_) => {
            Written::default()
        }
    };
    let negative = verdict == Verdict::NoName
        || verdict == Verdict::Addresses && written.records == 0 && !written.truncated;
    if let Some(apex) = policy.domain.apex().filter(|_| negative) {
        authority(&query[HEADER..plain.end - 4], apex, out)?;
        packet::put_u16(out, 8, 1);
    }
    if let Some(edns) = plain.edns {
        out.extend_from_slice(&packet::own_opt(edns.dnssec));
    }
    let truncated = if written.truncated { flag::TC } else { 0 };
    packet::put_u16(out, 2, packet::reply_flags(plain.flags, code) | truncated);
    packet::put_u16(out, 6, written.records);
    Some(Outcome::Reply)
}

/// The SOA record of a negative answer. Its owner is the search domain: a pointer into the question, if it ends
/// in it as it is written here; if it ends in something similar, nothing.
fn authority(name: &[u8], apex: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if name.len() > LONG_NAME {
        return None;
    }
    let labels = &name[..name.len() - 1];
    if crate::name::before(labels, apex).is_some() {
        let at = u16::try_from(HEADER + labels.len() - apex.len()).ok()?;
        out.extend_from_slice(&(0xc000 | at).to_be_bytes());
    } else if last_label(labels).eq_ignore_ascii_case(last_label(apex)) {
        return None;
    } else {
        out.extend_from_slice(apex);
        out.push(0);
    }
    out.extend_from_slice(&[0, 6, 0, 1, 0, 0, 0, 0, 0, 22]);
    out.resize(out.len() + 22, 0);
    Some(())
}

fn last_label(labels: &[u8]) -> &[u8] {
    let mut rest = labels;
    while let Some(parent) = crate::name::parent(rest).filter(|parent| !parent.is_empty()) {
        rest = parent;
    }
    rest
}

#[derive(Debug, Default)]
struct Written {
    records: u16,
    truncated: bool,
}

impl Written {
    /// Adds a record with data of a fixed size, if it fits.
    fn record(&mut self, out: &mut Vec<u8>, limit: usize, kind: u16, data: &[&[u8]]) {
        let length: usize = data.iter().map(|part| part.len()).sum();
        if self.truncated || out.len() + HEADER + length > limit {
            self.truncated = true;
            return;
        }
        let [_, kind] = kind.to_be_bytes();
        // Names have at most 255 bytes and addresses 16.
        let length = u8::try_from(length).unwrap_or_default();
        out.extend_from_slice(&OWNER);
        out.extend_from_slice(&[0, kind, 0, 1, 0, 0, 0, 0, 0, length]);
        for part in data {
            out.extend_from_slice(part);
        }
        self.records += 1;
    }
}

fn addresses(found: &Found, limit: usize, out: &mut Vec<u8>) -> Option<Written> {
    if found.ipv4.len() + found.ipv6.len() > MOST_RECORDS {
        return None;
    }
    let mut written = Written::default();
    for address in &found.ipv4 {
        written.record(out, limit, kind::A, &[&address.octets()]);
    }
    for address in &found.ipv6 {
        written.record(out, limit, kind::AAAA, &[&address.octets()]);
    }
    Some(written)
}

fn pointers(zones: &Zones, found: &Found, limit: usize, out: &mut Vec<u8>) -> Option<Written> {
    let keys = || {
        found
            .names
            .iter()
            .map(|(n, name)| zones.network(*n).name_of(*name))
    };
    let simple = |key: &[u8]| usize::from(key[0]) + 1 == key.len() && key != b"\x04arpa";
    if found.names.len() > MOST_RECORDS || !keys().all(simple) {
        return None;
    }
    let mut written = Written::default();
    for key in keys() {
        written.record(out, limit, kind::PTR, &[key, &[0]]);
    }
    Some(written)
}
