//! What a listing of nftables says: base chains, rules and sets of everybody, read as far as it takes to say what becomes
//! of a packet.
//!
//! Messages are read as bytes: the crate that encodes ours does not know the expressions of others, and takes long over
//! large rulesets. An expression that is not understood is kept by its name ([`Expression::Other`]).
//!
//! ```text
//! nfgenmsg, then attributes:
//!   chain       TABLE 1, NAME 3, HOOK 4 (HOOKNUM 1, PRIORITY 2), POLICY 5, TYPE 7
//!   rule        TABLE 1, CHAIN 2, EXPRESSIONS 4: LIST_ELEM 1 of NAME 1, DATA 2
//!   elements    TABLE 1, SET 2, ELEMENTS 3: LIST_ELEM 1 of KEY 1, DATA 2, FLAGS 3, KEY_END 10
//!   data        VALUE 1, or VERDICT 2 of CODE 1, CHAIN 2
//! ```
//! Numbers are big-endian there; values are as the packet has them, or in the order of the processor.

use super::notice::{attribute, attributes};

/// `NFPROTO_*` of a table: `inet`, `ip`, `ip6` and others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family(pub u8);

impl Family {
    /// Tables for both families.
    pub const INET: Self = Self(1);
    /// Tables for IPv4.
    pub const IP: Self = Self(2);
    /// Tables for IPv6.
    pub const IP6: Self = Self(10);

    /// Its name, as `nft` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            1 => "inet",
            2 => "ip",
            3 => "arp",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "unknown",
        }
    }
}

/// A table, by family and name.
pub type Table = (Family, String);

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Where it is.
    pub table: Table,
    /// Its name.
    pub name: String,
    /// Where packets enter it, if they do by themselves.
    pub base: Option<Base>,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `NF_INET_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// Whether what no rule judges is dropped.
    pub drops: bool,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it is.
    pub table: Table,
    /// The chain that it belongs to.
    pub chain: String,
    /// What it does, in order.
    pub expressions: Vec<Expression>,
}

/// A part of a rule. Registers are offsets in octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// A property of the packet is loaded.
    Meta {
        /// `NFT_META_*`.
        key: u32,
        /// The register.
        to: usize,
    },
    /// A property of the connection is loaded.
    Ct {
        /// `NFT_CT_*`.
        key: u32,
        /// The register.
        to: usize,
    },
    /// Octets of a header are loaded.
    Payload {
        /// 0 link layer, 1 network, 2 transport.
        base: u32,
        /// The first octet.
        offset: usize,
        /// How many.
        length: usize,
        /// The register.
        to: usize,
    },
    /// The rule ends here unless a register compares so.
    Compare {
        /// 0 equal, 1 not equal, 2 less, 3 at most, 4 greater, 5 at least.
        operator: u32,
        /// The register.
        from: usize,
        /// What it is compared with.
        with: Vec<u8>,
    },
    /// The rule ends here unless a register is in a range, or out of it.
    Range {
        /// Whether it must be out of it.
        outside: bool,
        /// The register.
        from: usize,
        /// The first value.
        first: Vec<u8>,
        /// The last value.
        last: Vec<u8>,
    },
    /// A register becomes another one, masked and inverted.
    Bitwise {
        /// The source.
        from: usize,
        /// The target.
        to: usize,
        /// What stays.
        mask: Vec<u8>,
        /// What is inverted.
        xor: Vec<u8>,
    },
    /// A register is looked for in a set or map. The rule ends here if that does not find it (or does).
    Lookup {
        /// The set.
        set: String,
        /// The register.
        from: usize,
        /// Where the value of a map goes.
        to: Option<usize>,
        /// Whether it must not be there.
        inverted: bool,
    },
    /// A register gets a value.
    Value {
        /// The register.
        to: usize,
        /// The value.
        value: Vec<u8>,
    },
    /// The packet is judged.
    Verdict(Verdict),
    /// The rule ends here unless the connection has one of these states: `--ctstate` of iptables.
    ConnectionState {
        /// `XT_CONNTRACK_STATE_*`.
        states: u16,
        /// Whether it must have none.
        inverted: bool,
    },
    /// The rule ends here unless the destination port is in this range: `--dport` of iptables.
    Port {
        /// The first port.
        first: u16,
        /// The last one.
        last: u16,
    },
    /// It has no bearing on where the packet goes.
    NoEffect,
    /// Anything else, by its name.
    Other(String),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Accept,
    /// It vanishes, or is refused.
    Drop,
    /// Another chain judges, and the next rule if that does not.
    Jump(String),
    /// Another chain judges, and nobody else in this one.
    Goto(String),
    /// The chain ends here.
    Return,
    /// The next rule judges.
    Continue,
    /// Some program judges.
    Queue,
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its key, or where an interval begins or ends.
    pub key: Vec<u8>,
    /// The last key, where each part of the key is an interval.
    pub last: Option<Vec<u8>>,
    /// Whether it is the first key behind an interval.
    pub ends: bool,
    /// What it leads to.
    pub leads_to: Data,
}

/// What an element leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Nothing: it is of a set.
    None,
    /// A value.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEW…`.
const NEW_CHAIN: u16 = 10 << 8 | 3;
const NEW_RULE: u16 = 10 << 8 | 6;
const NEW_ELEMENTS: u16 = 10 << 8 | 12;
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// Family and attributes of a message of this kind.
fn body(message: &[u8], wanted: u16) -> Option<(Family, &[u8])> {
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let body = message.get(HEADER..).filter(|_| kind == wanted)?;
    Some((Family(*body.first()?), body.get(GENERIC..)?))
}

/// The chain that a message tells of.
#[must_use]
pub fn chain(message: &[u8]) -> Option<Chain> {
    let (family, attributes) = body(message, NEW_CHAIN)?;
    let base = || {
        let hook = attribute(attributes, 4)?;
        Some(Base {
            kind: text(attribute(attributes, 7)?),
            hook: number(attribute(hook, 1)?)?,
            // NF_DROP
            drops: attribute(attributes, 5).and_then(number) == Some(0),
        })
    };
    Some(Chain {
        table: (family, text(attribute(attributes, 1)?)),
        name: text(attribute(attributes, 3)?),
        base: base(),
    })
}

/// The rule that a message tells of.
#[must_use]
pub fn rule(message: &[u8]) -> Option<Rule> {
    let (family, of_rule) = body(message, NEW_RULE)?;
    let list = attribute(of_rule, 4).unwrap_or_default();
    let each = attributes(list).map(|(_, element)| {
        let name = attribute(element, 1).map(text).unwrap_or_default();
        let data = attribute(element, 2).unwrap_or_default();
        expression(&name, data).unwrap_or(Expression::Other(name))
    });
    Some(Rule {
        table: (family, text(attribute(of_rule, 1)?)),
        chain: text(attribute(of_rule, 2)?),
        expressions: each.collect(),
    })
}

/// The set that a message tells of, and its elements.
#[must_use]
pub fn elements(message: &[u8]) -> Option<((Table, String), Vec<Element>)> {
    let (family, of_list) = body(message, NEW_ELEMENTS)?;
    let table = text(attribute(of_list, 1)?);
    let set = text(attribute(of_list, 2)?);
    let list = attribute(of_list, 3).unwrap_or_default();
    let each = attributes(list).map(|(_, element)| Element {
        key: value(element, 1).unwrap_or_default(),
        last: value(element, 10),
        ends: attribute(element, 3)
            .and_then(number)
            .is_some_and(|flags| flags & 1 != 0),
        leads_to: leads_to(attribute(element, 2)),
    });
    Some((((family, table), set), each.collect()))
}

fn leads_to(data: Option<&[u8]>) -> Data {
    let Some(data) = data else { return Data::None };
    match attribute(data, 2).and_then(verdict_of) {
        Some(verdict) => Data::Verdict(verdict),
        None => Data::Value(attribute(data, 1).unwrap_or_default().to_vec()),
    }
}

fn expression(name: &str, data: &[u8]) -> Option<Expression> {
    let get = |kind| attribute(data, kind).and_then(number);
    let octets = |kind| get(kind).and_then(|number| usize::try_from(number).ok());
    let at = |kind| get(kind).and_then(register);
    Some(match name {
        "meta" => Expression::Meta {
            key: get(2)?,
            to: at(1)?,
        },
        "ct" => Expression::Ct {
            key: get(2)?,
            to: at(1)?,
        },
        "payload" => Expression::Payload {
            base: get(2)?,
            offset: octets(3)?,
            length: octets(4)?,
            to: at(1)?,
        },
        "cmp" => Expression::Compare {
            operator: get(2)?,
            from: at(1)?,
            with: value(data, 3)?,
        },
        "range" => Expression::Range {
            outside: get(2)? == 1,
            from: at(1)?,
            first: value(data, 3)?,
            last: value(data, 4)?,
        },
        // Other operations than masks are shifts.
        "bitwise" if get(6).unwrap_or(0) == 0 => Expression::Bitwise {
            from: at(1)?,
            to: at(2)?,
            mask: value(data, 4)?,
            xor: value(data, 5)?,
        },
        "lookup" => Expression::Lookup {
            set: text(attribute(data, 1)?),
            from: at(2)?,
            // Verdicts of maps go to register 0.
            to: match get(3) {
                Some(0) => Some(VERDICT),
                Some(number) => Some(register(number)?),
                None => None,
            },
            inverted: get(5).unwrap_or(0) & 1 != 0,
        },
        "immediate" => immediate(get(1)?, attribute(data, 2)?)?,
        "reject" => Expression::Verdict(Verdict::Drop),
        "counter" | "log" | "notrack" | "quota" | "last" => Expression::NoEffect,
        "match" => extension(&text(attribute(data, 1)?), attribute(data, 3)?)?,
        "target" => target(&text(attribute(data, 1)?))?,
        _ => return None,
    })
}

/// The register for verdicts, which is none of the others.
pub const VERDICT: usize = usize::MAX;

fn immediate(to: u32, data: &[u8]) -> Option<Expression> {
    if let Some(verdict) = attribute(data, 2) {
        return verdict_of(verdict).map(Expression::Verdict);
    }
    Some(Expression::Value {
        to: register(to)?,
        value: attribute(data, 1)?.to_vec(),
    })
}

/// Matches of iptables that a table in its form carries.
fn extension(name: &str, info: &[u8]) -> Option<Expression> {
    match name {
        "comment" => Some(Expression::NoEffect),
        "conntrack" => connection_state(info),
        _ => None,
    }
}

/// `struct xt_conntrack_mtinfo3`, if it asks for states only.
#[must_use]
pub fn connection_state(info: &[u8]) -> Option<Expression> {
    /// `XT_CONNTRACK_STATE`.
    const STATE: u16 = 1;
    let half = |at: usize| {
        info.get(at..)?
            .first_chunk()
            .map(|half| u16::from_ne_bytes(*half))
    };
    let (flags, inverted, states) = (half(146)?, half(148)?, half(150)?);
    (flags == STATE).then_some(Expression::ConnectionState {
        states,
        inverted: inverted & STATE != 0,
    })
}

fn target(name: &str) -> Option<Expression> {
    match name {
        "REJECT" | "TARPIT" => Some(Expression::Verdict(Verdict::Drop)),
        "LOG" | "NFLOG" | "TRACE" | "MARK" | "CONNMARK" | "TCPMSS" => Some(Expression::NoEffect),
        _ => None,
    }
}

/// `NFT_REG_1` to `_4` are of 16 octets each, `NFT_REG32_00` and so on are their quarters.
fn register(number: u32) -> Option<usize> {
    let number = usize::try_from(number).ok()?;
    match number {
        1..=4 => Some((number - 1) * 16),
        8..=23 => Some((number - 8) * 4),
        _ => None,
    }
}

fn verdict_of(bytes: &[u8]) -> Option<Verdict> {
    let code = i32::from_be_bytes(*attribute(bytes, 1)?.first_chunk()?);
    let chain = || attribute(bytes, 2).map(text);
    // The upper half of NF_QUEUE is the number of the queue.
    Some(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 | -2 => Verdict::Continue,
        -5 => Verdict::Return,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        code if code & 0xff == 3 => Verdict::Queue,
        _ => return None,
    })
}

fn value(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    attribute(attribute(bytes, kind)?, 1).map(<[u8]>::to_vec)
}

pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .to_owned()
}
