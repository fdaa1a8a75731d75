//! DNS messages, written and read here and not by the library the program uses: two readers of RFC 1035 see more.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};

pub(crate) const A: u16 = 1;
pub(crate) const PTR: u16 = 12;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
const SOA: u16 = 6;
const SRV: u16 = 33;
const OPT: u16 = 41;

/// Types by the names that the tests write.
const TYPES: [(&str, u16); 16] = [
    ("A", A),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", SOA),
    ("PTR", PTR),
    ("MX", 15),
    ("TXT", TXT),
    ("AAAA", AAAA),
    ("SRV", SRV),
    ("DS", 43),
    ("DNSKEY", 48),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("AXFR", 252),
    ("ANY", 255),
    ("TYPE65280", 65280),
];

/// A question with its header, and what EDNS adds.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) id: u16,
    /// The header's second word: QR, opcode, AA, TC, RD, RA, Z, AD, CD, rcode.
    pub(crate) flags: u16,
    name: Vec<u8>,
    kind: u16,
    class: u16,
    opt: Option<Opt>,
}

#[derive(Clone, Debug)]
struct Opt {
    size: u16,
    version: u8,
    dnssec_ok: bool,
    options: Vec<u8>,
}

pub(crate) const RD: u16 = 0x0100;
pub(crate) const RA: u16 = 0x0080;
pub(crate) const QR: u16 = 0x8000;
pub(crate) const AA: u16 = 0x0400;
pub(crate) const TC: u16 = 0x0200;
pub(crate) const AD: u16 = 0x0020;
pub(crate) const CD: u16 = 0x0010;

impl Query {
    /// `name type`, as in `web.dns.podman AAAA`. Bytes of the name stand for themselves, dots separate labels.
    pub(crate) fn new(question: &str) -> Self {
        let (name, kind) = question.rsplit_once(' ').expect("`name type`");
        let kind = TYPES
            .iter()
            .find(|(text, _)| *text == kind)
            .unwrap_or_else(|| panic!("type {kind} is not in the list"))
            .1;
        Self {
            id: next_id(),
            flags: RD,
            name: wire_name(name.as_bytes()),
            kind,
            class: 1,
            opt: None,
        }
    }

    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn class(mut self, class: u16) -> Self {
        self.class = class;
        self
    }

    /// Adds an OPT record with the size of datagram that the client takes.
    pub(crate) fn edns(mut self, size: u16) -> Self {
        self.opt = Some(Opt {
            size,
            version: 0,
            dnssec_ok: false,
            options: Vec::new(),
        });
        self
    }

    pub(crate) fn dnssec_ok(mut self) -> Self {
        self.opt.as_mut().expect("after `edns`").dnssec_ok = true;
        self
    }

    pub(crate) fn edns_version(mut self, version: u8) -> Self {
        self.opt.as_mut().expect("after `edns`").version = version;
        self
    }

    /// Adds an option to the OPT record.
    pub(crate) fn option(mut self, code: u16, value: &[u8]) -> Self {
        let options = &mut self.opt.as_mut().expect("after `edns`").options;
        options.extend(code.to_be_bytes());
        options.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
        options.extend(value);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [self.id, self.flags, 1, 0, 0, u16::from(self.opt.is_some())] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(&self.name);
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        if let Some(opt) = &self.opt {
            bytes.push(0);
            bytes.extend(OPT.to_be_bytes());
            bytes.extend(opt.size.to_be_bytes());
            bytes.extend([0, opt.version, u8::from(opt.dnssec_ok) << 7, 0]);
            bytes.extend(
                u16::try_from(opt.options.len())
                    .expect("short")
                    .to_be_bytes(),
            );
            bytes.extend(&opt.options);
        }
        bytes
    }
}

/// Different for queries close in time, without a source of chance.
fn next_id() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0x1a2b);
    NEXT.fetch_add(0x0101, Ordering::Relaxed)
}

pub(crate) fn wire_name(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text
        .split(|byte| *byte == b'.')
        .filter(|label| !label.is_empty())
    {
        wire.push(u8::try_from(label.len()).expect("a label has at most 63 bytes"));
        wire.extend(label);
    }
    wire.push(0);
    wire
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) questions: Vec<Question>,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additional: Vec<Record>,
    /// Of the message in bytes.
    pub(crate) length: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// As in the message, with a dot after every label.
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) class: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    /// As a zone file has it, for the types the tests use.
    pub(crate) data: String,
    pub(crate) raw: Vec<u8>,
}

impl Message {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { bytes, at: 0 };
        let [id, flags, questions, answers, authority, additional] = {
            let mut words = [0; 6];
            for word in &mut words {
                *word = reader.u16()?;
            }
            words
        };
        let questions = (0..questions)
            .map(|_| reader.question())
            .collect::<Result<_>>()?;
        let mut section = |count| {
            (0..count)
                .map(|_| reader.record())
                .collect::<Result<Vec<_>>>()
        };
        let message = Self {
            id,
            flags,
            questions,
            answers: section(answers)?,
            authority: section(authority)?,
            additional: section(additional)?,
            length: bytes.len(),
        };
        ensure!(reader.at == bytes.len(), "bytes after the message");
        Ok(message)
    }

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn rcode(&self) -> u16 {
        let high = self.opt().map_or(0, |opt| opt.ttl >> 24);
        self.flags & 15 | u16::try_from(high).expect("eight bits") << 4
    }

    pub(crate) fn opt(&self) -> Option<&Record> {
        self.additional.iter().find(|record| record.kind == OPT)
    }

    /// The data of the answers, in order.
    pub(crate) fn data(&self) -> Vec<&str> {
        self.answers.iter().map(|record| &*record.data).collect()
    }

    /// The SOA of a negative answer.
    pub(crate) fn soa(&self) -> Option<&Record> {
        self.authority.iter().find(|record| record.kind == SOA)
    }
}

/// `NOERROR 10.88.0.2 10.88.0.3`; `tc` after the code when the answer is cut. Addresses sorted: their order is a
/// matter of its own tests.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CODES: [&str; 6] = [
            "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
        ];
        match CODES.get(usize::from(self.rcode())) {
            Some(code) => write!(f, "{code}")?,
            None if self.rcode() == 16 => write!(f, "BADVERS")?,
            None => write!(f, "RCODE{}", self.rcode())?,
        }
        if self.has(TC) {
            write!(f, " tc")?;
        }
        let mut data = self.data();
        data.sort_unstable();
        for item in data {
            write!(f, " {item}")?;
        }
        Ok(())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<&[u8]> {
        let taken = self
            .bytes
            .get(self.at..self.at + length)
            .context("the message ends too early")?;
        self.at += length;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn name(&mut self) -> Result<String> {
        let mut text = String::new();
        let mut jumps = 0;
        let mut back = None;
        loop {
            let length = self.take(1)?[0];
            match length {
                0 => break,
                1..=63 => {
                    for byte in self.take(length.into())? {
                        match byte {
                            b'!'..=b'~' => text.push(char::from(*byte)),
                            _ => text.push_str(&format!("\\{byte:03}")),
                        }
                    }
                    text.push('.');
                }
                192..=255 => {
                    let low = self.take(1)?[0];
                    back.get_or_insert(self.at);
                    self.at = usize::from(length & 63) << 8 | usize::from(low);
                    jumps += 1;
                    ensure!(jumps < 20, "a name that never ends");
                }
                64..=191 => bail!("label of an unknown kind"),
            }
        }
        self.at = back.unwrap_or(self.at);
        if text.is_empty() {
            text.push('.');
        }
        Ok(text)
    }

    fn question(&mut self) -> Result<Question> {
        Ok(Question {
            name: self.name()?,
            kind: self.u16()?,
            class: self.u16()?,
        })
    }

    fn record(&mut self) -> Result<Record> {
        let name = self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let ttl = u32::from(self.u16()?) << 16 | u32::from(self.u16()?);
        let length = self.u16()?;
        let begin = self.at;
        let raw = self.take(length.into())?.to_vec();
        let end = self.at;
        let data = match kind {
            A => Ipv4Addr::from(<[u8; 4]>::try_from(&*raw)?).to_string(),
            AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(&*raw)?).to_string(),
            PTR | 2 | 5 => {
                self.at = begin;
                self.name()?
            }
            SRV => {
                self.at = begin;
                let (priority, weight, port) = (self.u16()?, self.u16()?, self.u16()?);
                format!("{priority} {weight} {port} {}", self.name()?)
            }
            TXT => String::from_utf8_lossy(raw.get(1..).unwrap_or_default()).into_owned(),
            _ => format!("{} bytes", raw.len()),
        };
        ensure!(
            matches!(kind, TXT | SOA | OPT) || self.at == end || kind > 33,
            "record data of another length"
        );
        self.at = end;
        Ok(Record {
            name,
            kind,
            class,
            ttl,
            data,
            raw,
        })
    }
}

/// Builds a reply to the query in `query`, as a scripted upstream does.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    /// The question back, nothing answered.
    pub(crate) fn to(query: &[u8]) -> Self {
        let mut reader = Reader {
            bytes: query,
            at: 12,
        };
        let mut bytes = query[..12].to_vec();
        if reader.question().is_ok() {
            bytes.extend(&query[12..reader.at]);
        } else {
            bytes[5] = 0;
        }
        bytes[2] |= 0x80;
        bytes[3] = 0x80;
        bytes[4] = 0;
        bytes[6..12].fill(0);
        Self { bytes }
    }

    pub(crate) fn rcode(mut self, rcode: u8) -> Self {
        self.bytes[3] = self.bytes[3] & 0xf0 | rcode;
        self
    }

    pub(crate) fn truncated(mut self) -> Self {
        self.bytes[2] |= 2;
        self
    }

    pub(crate) fn id(mut self, id: u16) -> Self {
        self.bytes[..2].copy_from_slice(&id.to_be_bytes());
        self
    }

    /// Another name in the question: its first letter changed.
    pub(crate) fn other_question(mut self) -> Self {
        self.bytes[13] = if self.bytes[13] == b'q' { b'z' } else { b'q' };
        self
    }

    fn record(mut self, section: usize, kind: u16, ttl: u32, data: &[u8]) -> Self {
        let count = 6 + 2 * section;
        let old = u16::from_be_bytes([self.bytes[count], self.bytes[count + 1]]);
        self.bytes[count..count + 2].copy_from_slice(&(old + 1).to_be_bytes());
        self.bytes.extend([0xc0, 12]);
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend([0, 1]);
        self.bytes.extend(ttl.to_be_bytes());
        self.bytes
            .extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        self.bytes.extend(data);
        self
    }

    pub(crate) fn a(self, ttl: u32, address: &str) -> Self {
        let address: Ipv4Addr = address.parse().expect("an IPv4 address");
        self.record(0, A, ttl, &address.octets())
    }

    pub(crate) fn txt(self, ttl: u32, text: &str) -> Self {
        let mut data = vec![u8::try_from(text.len()).expect("at most 255")];
        data.extend(text.as_bytes());
        self.record(0, TXT, ttl, &data)
    }

    /// The SOA of a negative answer, with `minimum` as TTL and minimum.
    pub(crate) fn soa(self, minimum: u32) -> Self {
        let mut data = wire_name(b"ns.example");
        data.extend(wire_name(b"admin.example"));
        for number in [1, 7200, 900, 86400, minimum] {
            data.extend(u32::to_be_bytes(number));
        }
        self.record(1, SOA, minimum, &data)
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}
