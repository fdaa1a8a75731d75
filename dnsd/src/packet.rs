//! Messages as bytes: what the fast path and the forwarder need to see of them, without copying.
//!
//! ```text
//! 0        2        4        6        8        10       12
//! | id     | flags  | QD     | AN     | NS     | AR     | question: name, type, class | records ...
//!           QR opcode(4) AA TC RD | RA Z AD CD rcode(4)
//! ```

/// The bytes before the question.
pub const HEADER: usize = 12;

/// What we offer to receive, and the most that we send by UDP: fits through paths with tunnels.
pub const UDP_SIZE: u16 = 1232;

/// The longest message without EDNS by UDP.
pub const PLAIN_UDP_SIZE: usize = 512;

/// Bits of the second 16 bits.
pub mod flag {
    /// An answer, not a question.
    pub const QR: u16 = 0x8000;
    /// The kind of operation; 0 is a query.
    pub const OPCODE: u16 = 0x7800;
    /// The answer did not fit.
    pub const TC: u16 = 0x0200;
    /// Please ask others.
    pub const RD: u16 = 0x0100;
    /// We do ask others.
    pub const RA: u16 = 0x0080;
    /// The data is authentic.
    pub const AD: u16 = 0x0020;
    /// Do not check that it is.
    pub const CD: u16 = 0x0010;
}

/// Response codes.
#[expect(missing_docs, reason = "they are well known")]
pub mod rcode {
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
}

/// A 16-bit number.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Writes a 16-bit number over what is there.
pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Writes the name of the question, without its end, as somebody else has written it.
pub fn put_name(message: &mut [u8], name: &[u8]) {
    if u16_at(message, 4) == Some(1)
        && let Some(place) = message.get_mut(HEADER..HEADER + name.len())
        && place.eq_ignore_ascii_case(name)
    {
        place.copy_from_slice(name);
    }
}

/// What a client says about itself in the OPT record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// What it can receive by UDP.
    pub size: u16,
    /// Whether it wants signatures.
    pub dnssec: bool,
    /// Whether there are options; then what is answered may depend on them.
    pub options: bool,
}

/// The longest answer that a client takes.
#[must_use]
pub fn limit(edns: Option<Edns>, tcp: bool) -> usize {
    if tcp {
        return usize::from(u16::MAX);
    }
    edns.map_or(PLAIN_UDP_SIZE, |edns| {
        usize::from(edns.size.min(UDP_SIZE)).max(PLAIN_UDP_SIZE)
    })
}

/// A query in its plainest form: one question without compression, nothing else but perhaps an OPT record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// To be repeated in the answer.
    pub id: u16,
    /// See [`flag`].
    pub flags: u16,
    /// The type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// Where the question ends.
    pub end: usize,
    /// The OPT record.
    pub edns: Option<Edns>,
}

impl Plain {
    /// Reads a query and writes its name as a key. Nothing if it is not plain.
    pub fn parse(bytes: &[u8], key: &mut Vec<u8>) -> Option<Self> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let flags = u16::from_be_bytes([header[2], header[3]]);
        if flags & (flag::QR | flag::OPCODE) != 0 || header[4..11] != [0, 1, 0, 0, 0, 0, 0] {
            return None;
        }
        let end = question_name(bytes, key)?;
        let edns = match header[11] {
            0 => None,
            1 => Some(opt(bytes, end + 4)?),
            _ => return None,
        };
        Some(Self {
            id: u16::from_be_bytes([header[0], header[1]]),
            flags,
            kind: u16_at(bytes, end)?,
            class: u16_at(bytes, end + 2)?,
            end: end + 4,
            edns,
        })
    }
}

/// Writes the name of the question as a key and says where it ends. Nothing for compressed names.
pub fn question_name(bytes: &[u8], key: &mut Vec<u8>) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length == 0 {
            break;
        }
        if length > 63 || at + length >= HEADER + crate::name::LONGEST {
            return None;
        }
        at += length + 1;
    }
    key.clear();
    // Lengths are below 64, so lower case leaves them alone.
    key.extend(bytes[HEADER..at].iter().map(u8::to_ascii_lowercase));
    Some(at + 1)
}

/// The type of the question. Nothing for compressed names.
pub fn question_kind(bytes: &[u8]) -> Option<u16> {
    let mut at = HEADER;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return u16_at(bytes, at + 1),
            length @ 1..=63 => at += length + 1,
            _ => return None,
        }
    }
}

/// An OPT record of version 0, without options or with a cookie of eight bytes, as `dig` sends it.
fn opt(bytes: &[u8], at: usize) -> Option<Edns> {
    let fixed: &[u8; 11] = bytes.get(at..at + 11)?.try_into().ok()?;
    if fixed[..3] != [0, 0, 41] || fixed[5] != 0 || fixed[6] != 0 {
        return None;
    }
    let options = match fixed[9..] {
        [0, 0] => false,
        [0, 12] if bytes.get(at + 11..at + 15)? == [0, 10, 0, 8] && bytes.len() >= at + 23 => true,
        _ => return None,
    };
    Some(Edns {
        size: u16::from_be_bytes([fixed[3], fixed[4]]),
        dnssec: fixed[7] & 0x80 != 0,
        options,
    })
}

/// The OPT record of our answers.
#[must_use]
pub fn own_opt(dnssec: bool) -> [u8; 11] {
    let [high, low] = UDP_SIZE.to_be_bytes();
    [
        0,
        0,
        41,
        high,
        low,
        0,
        0,
        if dnssec { 0x80 } else { 0 },
        0,
        0,
        0,
    ]
}

/// The flags of our answers to a query with these flags.
#[must_use]
pub fn reply_flags(flags: u16, rcode: u16) -> u16 {
    let available = if flags & flag::RD != 0 { flag::RA } else { 0 };
    flag::QR | flags & (flag::OPCODE | flag::RD | flag::CD) | available | rcode
}

/// A record of a message.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// Where it begins.
    pub start: usize,
    /// Its type.
    pub kind: u16,
    /// Where its time to live is; class and type are before, length and data behind it.
    pub ttl_at: usize,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// Where it ends.
    pub end: usize,
    /// 0: answers, 1: authority, 2: additional.
    pub section: u8,
}

/// A message whose structure has been looked at from end to end.
#[derive(Debug)]
pub struct Structure {
    /// Where the question section ends.
    pub questions_end: usize,
    /// All records, in order.
    pub records: Vec<Record>,
    /// Where the last record ends.
    pub end: usize,
}

impl Structure {
    /// Walks through a message. Nothing if a record is cut or a name is not one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let count = |at| u16_at(bytes, at).map(usize::from);
        let mut at = HEADER;
        for _ in 0..count(4)? {
            at = skip_name(bytes, at)? + 4;
        }
        let questions_end = at;
        let mut records = Vec::with_capacity((count(6)? + count(8)? + count(10)?).min(64));
        for (section, count_at) in [(0u8, 6), (1, 8), (2, 10)] {
            for _ in 0..count(count_at)? {
                let start = at;
                let fixed = skip_name(bytes, at)?;
                let kind = u16_at(bytes, fixed)?;
                let ttl_at = fixed + 4;
                let ttl = u32_at(bytes, ttl_at)?;
                at = fixed + 10 + usize::from(u16_at(bytes, fixed + 8)?);
                records.push(Record {
                    start,
                    kind,
                    ttl_at,
                    ttl,
                    end: at,
                    section,
                });
            }
        }
        (at <= bytes.len()).then_some(Self {
            questions_end,
            records,
            end: at,
        })
    }

    /// The OPT record.
    #[must_use]
    pub fn opt(&self) -> Option<&Record> {
        self.records
            .iter()
            .find(|record| record.section == 2 && record.kind == 41)
    }
}

/// Where a name ends. Pointers must point back.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += usize::from(length) + 1,
            0xc0.. => {
                let target = u16_at(bytes, at)? & 0x3fff;
                return (usize::from(target) < start.max(HEADER + 1)).then_some(at + 2);
            }
            64..=0xbf => return None,
        }
        if at - start > crate::name::LONGEST {
            return None;
        }
    }
}

/// Makes an answer fit: whole records of the answer section, as many as there is room for, and the OPT record.
pub fn truncate(message: &mut Vec<u8>, limit: usize) {
    let Some(structure) = Structure::parse(message).filter(|_| message.len() > limit) else {
        return;
    };
    let opt: Vec<u8> = structure
        .opt()
        .map(|record| message[record.start..record.end].to_vec())
        .unwrap_or_default();
    let answers = structure
        .records
        .iter()
        .filter(|record| record.section == 0);
    let kept: Vec<_> = answers
        .take_while(|record| record.end + opt.len() <= limit)
        .collect();
    let end = kept
        .last()
        .map_or(structure.questions_end, |record| record.end);
    let count = u16::try_from(kept.len()).unwrap_or_default();
    message.truncate(end);
    message.extend_from_slice(&opt);
    put_u16(message, 6, count);
    put_u16(message, 8, 0);
    put_u16(message, 10, u16::from(!opt.is_empty()));
    message[2] |= (flag::TC >> 8) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WeB\x00\x00\x01\x00\x01";

    #[test]
    fn plain_queries_are_read() {
        let mut key = Vec::new();
        let query = Plain::parse(QUERY, &mut key).unwrap();
        assert_eq!(
            (query.id, query.kind, query.class, query.end),
            (0x1234, 1, 1, 21)
        );
        assert_eq!(key, b"\x03web");
        for cut in 0..QUERY.len() {
            assert_eq!(Plain::parse(&QUERY[..cut], &mut key), None, "{cut}");
        }
        let mut edns = QUERY.to_vec();
        edns[11] = 1;
        edns.extend_from_slice(&own_opt(true));
        let query = Plain::parse(&edns, &mut key).unwrap();
        assert_eq!(
            query.edns.map(|edns| (edns.size, edns.dnssec)),
            Some((1232, true))
        );
    }

    #[test]
    fn names_have_at_most_255_bytes() {
        let query = |last: u8| {
            let labels = [63, 63, 63, last]
                .map(|length| [&[length][..], &[b'x'; 63][..usize::from(length)]].concat());
            [&QUERY[..HEADER], &labels.concat(), &[0, 0, 1, 0, 1]].concat()
        };
        let mut key = Vec::new();
        assert!(question_name(&query(61), &mut key).is_some() && key.len() == 254);
        assert_eq!(question_name(&query(62), &mut key), None);
    }

    #[test]
    fn truncation_keeps_whole_records() {
        let mut message = QUERY.to_vec();
        message[7] = 3;
        message[11] = 1;
        for n in 0..3 {
            message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, n]);
        }
        message.extend_from_slice(&own_opt(false));
        let whole = message.clone();
        truncate(&mut message, whole.len());
        assert_eq!(message, whole);
        truncate(&mut message, whole.len() - 1);
        let structure = Structure::parse(&message).unwrap();
        assert_eq!(
            (structure.records.len(), structure.end),
            (3, whole.len() - 16)
        );
        assert_eq!(message[2] & 2, 2);
        assert!(structure.opt().is_some());
    }

    #[test]
    fn names_that_point_forward_or_to_themselves_are_none() {
        let mut message = QUERY.to_vec();
        message[7] = 1;
        message.extend_from_slice(&[0xc0, 21, 0, 1, 0, 1, 0, 0, 0, 9, 0, 0]);
        assert!(Structure::parse(&message).is_none());
    }
}
