//! What the packet filters of others do with a packet that containers need to pass.
//!
//! # Theory of operation
//!
//! A packet is judged by all base chains of a hook, whatever table they are in, and any of them may drop it. Our own
//! chains are compared with what they should be; those of others are gone through with a made-up packet, rule by rule,
//! as the kernel would. What is not known of the packet (its source port, say), or not understood of a rule, makes the
//! outcome of the rule uncertain: it may have applied or not, and both are followed. So the result is a set of
//! outcomes. Only when no way leads to "accept" it is said that a chain drops.
//!
//! Registers of the kernel hold 64 octets; each of ours is known or not.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::nft::listing::{Data, Element, Expression, Family, Rule, Table, VERDICT, Verdict};

/// A packet that could come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The interface that it comes in by, and its number.
    pub from: (String, u32),
    /// The interface that it leaves by; none if it is for the host.
    pub to: Option<(String, u32)>,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Its destination port.
    pub port: u16,
    /// What it is to connection tracking.
    pub state: State,
}

/// What a packet is to connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The first of a connection.
    New,
    /// The first of a connection to a published port.
    Published,
    /// An answer.
    Established,
}

/// What may become of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes {
    /// It may be accepted.
    pub accept: bool,
    /// It may be dropped.
    pub drop: bool,
    /// No rule may have judged it.
    pub none: bool,
}

/// Rules by table and chain, and the elements of sets by table and name, as far as they are known.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    chains: BTreeMap<(Table, String), Vec<Rule>>,
    sets: BTreeMap<(Table, String), Vec<Element>>,
}

/// Whether a rule goes on behind an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Perhaps,
}

impl Truth {
    fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    fn inverted(self, inverted: bool) -> Self {
        match (self, inverted) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (same, _) => same,
        }
    }
}

/// Chains may call each other so deep (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// How many rules are gone through for a packet at most.
const RULES: usize = 20_000;

impl Rules {
    /// Puts rules in their chains, in their order.
    #[must_use]
    pub fn new(rules: Vec<Rule>, sets: BTreeMap<(Table, String), Vec<Element>>) -> Self {
        let mut chains: BTreeMap<(Table, String), Vec<Rule>> = BTreeMap::new();
        for rule in rules {
            let key = (rule.table.clone(), rule.chain.clone());
            chains.entry(key).or_default().push(rule);
        }
        Self { chains, sets }
    }

    /// The rules of a chain.
    #[must_use]
    pub fn of(&self, table: &Table, chain: &str) -> &[Rule] {
        let key = (table.clone(), chain.to_owned());
        self.chains.get(&key).map_or(&[], Vec::as_slice)
    }

    /// What a base chain may do with a packet; `drops` is its policy. A chain that does not see the family accepts.
    #[must_use]
    pub fn judge(&self, table: &Table, chain: &str, drops: bool, packet: &Packet) -> Outcomes {
        let sees = match table.0 {
            Family::INET => true,
            Family::IP => packet.source.is_ipv4(),
            Family::IP6 => packet.source.is_ipv6(),
            _ => false,
        };
        if !sees {
            return Outcomes {
                accept: true,
                ..Outcomes::default()
            };
        }
        let mut left = RULES;
        let mut outcomes = self.walk(table, chain, packet, 0, &mut left);
        if std::mem::take(&mut outcomes.none) {
            outcomes.drop |= drops;
            outcomes.accept |= !drops;
        }
        outcomes
    }

    fn walk(
        &self,
        table: &Table,
        chain: &str,
        packet: &Packet,
        depth: usize,
        left: &mut usize,
    ) -> Outcomes {
        let mut all = Outcomes::default();
        if depth > DEPTH {
            return UNKNOWN;
        }
        for rule in self.of(table, chain) {
            if *left == 0 {
                return UNKNOWN;
            }
            *left -= 1;
            let (applies, verdict) = self.apply(rule, packet);
            if applies == Truth::No {
                continue;
            }
            let goes_to =
                |name: &str, left: &mut usize| self.walk(table, name, packet, depth + 1, left);
            let mut ends = true;
            match verdict {
                Known::Verdict(Verdict::Accept) => all.accept = true,
                Known::Verdict(Verdict::Drop) => all.drop = true,
                Known::Verdict(Verdict::Return) => all.none = true,
                Known::Verdict(Verdict::Continue) => ends = false,
                Known::Verdict(Verdict::Jump(name)) => {
                    let there = goes_to(&name, left);
                    all.accept |= there.accept;
                    all.drop |= there.drop;
                    ends = !there.none;
                }
                Known::Verdict(Verdict::Goto(name)) => all = all.or(goes_to(&name, left)),
                Known::Verdict(Verdict::Queue) | Known::Anything => {
                    (all, ends) = (all.or(UNKNOWN), false);
                }
            }
            if ends && applies == Truth::Yes {
                return all;
            }
        }
        all.none = true;
        all
    }

    /// Whether a rule applies, and what it says then.
    fn apply(&self, rule: &Rule, packet: &Packet) -> (Truth, Known) {
        let mut registers = Registers::default();
        let mut applies = Truth::Yes;
        let mut verdict = Known::Verdict(Verdict::Continue);
        for expression in &rule.expressions {
            let goes_on = match expression {
                Expression::Verdict(says) => {
                    verdict = Known::Verdict(says.clone());
                    Truth::Yes
                }
                Expression::Lookup {
                    set,
                    from,
                    to,
                    inverted,
                } => {
                    let elements = self.sets.get(&(rule.table.clone(), set.clone()));
                    let found = find(elements, &registers, *from);
                    match (&found, to) {
                        (Found::Element(element), Some(to)) => match &element.leads_to {
                            Data::Verdict(says) => verdict = Known::Verdict(says.clone()),
                            Data::Value(value) => registers.put(*to, value),
                            Data::None => {}
                        },
                        (Found::Perhaps, Some(VERDICT)) => verdict = Known::Anything,
                        (Found::Perhaps, Some(to)) => registers.forget(*to, 16),
                        (Found::Perhaps | Found::Nothing | Found::Element(_), _) => {}
                    }
                    found.truth().inverted(*inverted)
                }
                Expression::Meta { .. }
                | Expression::Ct { .. }
                | Expression::Payload { .. }
                | Expression::Compare { .. }
                | Expression::Range { .. }
                | Expression::Bitwise { .. }
                | Expression::Value { .. }
                | Expression::ConnectionState { .. }
                | Expression::Port { .. }
                | Expression::NoEffect
                | Expression::Other(_) => registers.take(expression, packet),
            };
            match goes_on {
                Truth::No => return (Truth::No, verdict),
                Truth::Perhaps => applies = Truth::Perhaps,
                Truth::Yes => {}
            }
        }
        (applies, verdict)
    }
}

const UNKNOWN: Outcomes = Outcomes {
    accept: true,
    drop: true,
    none: true,
};

impl Outcomes {
    fn or(self, other: Self) -> Self {
        Self {
            accept: self.accept || other.accept,
            drop: self.drop || other.drop,
            none: self.none || other.none,
        }
    }
}

/// What a rule says, if that is known.
enum Known {
    Verdict(Verdict),
    Anything,
}

/// What became of a look into a set.
enum Found<'a> {
    Element(&'a Element),
    Nothing,
    Perhaps,
}

impl Found<'_> {
    fn truth(&self) -> Truth {
        match self {
            Self::Element(_) => Truth::Yes,
            Self::Nothing => Truth::No,
            Self::Perhaps => Truth::Perhaps,
        }
    }
}

fn find<'a>(elements: Option<&'a Vec<Element>>, registers: &Registers, from: usize) -> Found<'a> {
    let Some(elements) = elements else {
        return Found::Perhaps;
    };
    let Some(length) = elements.first().map(|element| element.key.len()) else {
        return Found::Nothing;
    };
    if elements.iter().any(|element| element.last.is_some()) {
        return Found::Perhaps;
    }
    let Some(key) = registers.known(from, length) else {
        return Found::Perhaps;
    };
    if !elements.iter().any(|element| element.ends) {
        let same = elements.iter().find(|element| element.key == key);
        return same.map_or(Found::Nothing, Found::Element);
    }
    // The nearest mark at or below the key is the beginning of an interval that it is in, or the end of one.
    let below = elements.iter().filter(|element| element.key <= key);
    match below.max_by(|one, other| one.key.cmp(&other.key).then(other.ends.cmp(&one.ends))) {
        Some(element) if !element.ends => Found::Element(element),
        Some(_) | None => Found::Nothing,
    }
}

/// Octets that are known or not.
struct Registers([Option<u8>; 64]);

impl Default for Registers {
    fn default() -> Self {
        Self([None; 64])
    }
}

impl Registers {
    fn put(&mut self, to: usize, value: &[u8]) {
        for (slot, octet) in self.0.iter_mut().skip(to).zip(value) {
            *slot = Some(*octet);
        }
    }

    fn forget(&mut self, to: usize, length: usize) {
        for slot in self.0.iter_mut().skip(to).take(length) {
            *slot = None;
        }
    }

    fn known(&self, from: usize, length: usize) -> Option<Vec<u8>> {
        self.0
            .get(from..from.checked_add(length)?)?
            .iter()
            .copied()
            .collect()
    }

    fn slice(&self, from: usize, length: usize) -> &[Option<u8>] {
        self.0
            .get(from..from.saturating_add(length))
            .unwrap_or_default()
    }

    /// Does what an expression does, and says whether the rule goes on.
    fn take(&mut self, expression: &Expression, packet: &Packet) -> Truth {
        match expression {
            Expression::Meta { key, to } => {
                self.load(*to, meta(*key, packet));
                Truth::Yes
            }
            Expression::Ct { key, to } => {
                self.load(*to, connection(*key, packet.state));
                Truth::Yes
            }
            Expression::Payload {
                base,
                offset,
                length,
                to,
            } => {
                let header = header(*base, packet);
                for n in 0..*length {
                    let octet = header.get(offset + n).copied().flatten();
                    if let Some(slot) = self.0.get_mut(to + n) {
                        *slot = octet;
                    }
                }
                Truth::Yes
            }
            Expression::Compare {
                operator,
                from,
                with,
            } => compare(*operator, self.slice(*from, with.len()), with),
            Expression::Range {
                outside,
                from,
                first,
                last,
            } => match self.known(*from, first.len()) {
                Some(value) => Truth::of((*first <= value && value <= *last) != *outside),
                None => Truth::Perhaps,
            },
            Expression::Bitwise {
                from,
                to,
                mask,
                xor,
            } => {
                self.mask(*from, *to, mask, xor);
                Truth::Yes
            }
            Expression::Value { to, value } => {
                self.put(*to, value);
                Truth::Yes
            }
            Expression::ConnectionState { states, inverted } => {
                has_state(*states, packet.state).inverted(*inverted)
            }
            Expression::Port { first, last } => Truth::of((*first..=*last).contains(&packet.port)),
            Expression::NoEffect | Expression::Verdict(_) => Truth::Yes,
            Expression::Lookup { .. } | Expression::Other(_) => Truth::Perhaps,
        }
    }

    fn load(&mut self, to: usize, value: Option<Vec<u8>>) {
        match value {
            Some(value) => self.put(to, &value),
            None => self.forget(to, 16),
        }
    }

    fn mask(&mut self, from: usize, to: usize, mask: &[u8], xor: &[u8]) {
        let before = self.0;
        for (n, (mask, xor)) in mask.iter().zip(xor).enumerate() {
            let octet = before.get(from + n).copied().flatten();
            let octet = match (octet, mask) {
                (_, 0) => Some(*xor),
                (octet, mask) => octet.map(|octet| octet & mask ^ xor),
            };
            if let Some(slot) = self.0.get_mut(to + n) {
                *slot = octet;
            }
        }
    }
}

fn compare(operator: u32, found: &[Option<u8>], with: &[u8]) -> Truth {
    let differs = found
        .iter()
        .zip(with)
        .any(|(found, with)| found.is_some_and(|found| found != *with));
    let all: Option<Vec<u8>> = found.iter().copied().collect();
    let order = match &all {
        Some(all) if all.len() == with.len() => all.as_slice().cmp(with),
        _ if differs && operator <= 1 => return Truth::of(operator == 1),
        _ => return Truth::Perhaps,
    };
    Truth::of(match operator {
        0 => order == Ordering::Equal,
        1 => order != Ordering::Equal,
        2 => order == Ordering::Less,
        3 => order != Ordering::Greater,
        4 => order == Ordering::Greater,
        5 => order != Ordering::Less,
        _ => return Truth::Perhaps,
    })
}

/// The value of `NFT_META_*`, as it is loaded.
fn meta(key: u32, packet: &Packet) -> Option<Vec<u8>> {
    let name = |name: &str| {
        let mut octets = name.as_bytes().to_vec();
        octets.resize(16, 0);
        octets
    };
    let v4 = packet.source.is_ipv4();
    match key {
        // PROTOCOL, an ethertype
        1 => Some(if v4 { vec![8, 0] } else { vec![0x86, 0xdd] }),
        // MARK: nobody has set one.
        3 => Some(vec![0; 4]),
        4 => Some(packet.from.1.to_ne_bytes().to_vec()),
        5 => packet.to.as_ref().map(|to| to.1.to_ne_bytes().to_vec()),
        6 => Some(name(&packet.from.0)),
        7 => packet.to.as_ref().map(|to| name(&to.0)),
        // NFPROTO
        15 => Some(vec![if v4 { Family::IP.0 } else { Family::IP6.0 }]),
        16 => Some(vec![packet.protocol]),
        _ => None,
    }
}

/// The value of `NFT_CT_*`, as it is loaded.
fn connection(key: u32, state: State) -> Option<Vec<u8>> {
    match (key, state) {
        (0, State::New | State::Published) => Some(8_u32.to_ne_bytes().to_vec()),
        (0, State::Established) => Some(2_u32.to_ne_bytes().to_vec()),
        // STATUS: IPS_DST_NAT
        (2, State::New) => Some(0_u32.to_ne_bytes().to_vec()),
        (2, State::Published) => Some(0x20_u32.to_ne_bytes().to_vec()),
        // MARK
        (3, _) => Some(vec![0; 4]),
        _ => None,
    }
}

/// Whether a connection has one of these `XT_CONNTRACK_STATE_*`.
fn has_state(states: u16, state: State) -> Truth {
    let bits = match state {
        State::New => 8,
        State::Published => 8 | 1 << 7,
        State::Established => 2,
    };
    Truth::of(states & bits != 0)
}

/// What is known of a header, by `NFT_PAYLOAD_*_HEADER`.
fn header(base: u32, packet: &Packet) -> Vec<Option<u8>> {
    let known = |octets: &[u8]| octets.iter().copied().map(Some).collect::<Vec<_>>();
    let [high, low] = packet.port.to_be_bytes();
    match (base, packet.source, packet.destination) {
        (1, IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![None; 20];
            put(&mut header, 0, &known(&[0x45]));
            put(&mut header, 9, &known(&[packet.protocol]));
            put(&mut header, 12, &known(&source.octets()));
            put(&mut header, 16, &known(&destination.octets()));
            header
        }
        (1, IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![None; 40];
            put(&mut header, 6, &known(&[packet.protocol]));
            put(&mut header, 8, &known(&source.octets()));
            put(&mut header, 24, &known(&destination.octets()));
            header
        }
        (2, ..) => vec![None, None, Some(high), Some(low)],
        _ => Vec::new(),
    }
}

fn put(header: &mut [Option<u8>], at: usize, octets: &[Option<u8>]) {
    for (slot, octet) in header.iter_mut().skip(at).zip(octets) {
        *slot = *octet;
    }
}
