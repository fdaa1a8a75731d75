//! The conversation on the control socket (`--conf-path`): tables of listeners, shown and replaced.
//!
//! This is version 2 of the protocol between pasta and its client `pesto`. Numbers are big-endian, sizes fixed:
//!
//! ```text
//! we      magic[8] version u32, size of a table's name u32, size of an interface's name u32
//!         for each table:  id u8, name[128], capabilities u32, count u32, count rules
//!         0 u8
//! client  for each table that it replaces:  id u8, count u32, count rules
//!         0 u8, then it closes; or it closes at once
//! rule    address[16] target address[16] interface[16] first u16 last u16 target u16 protocol u8 flags u8
//! ```
//!
//! The client computes new tables from what we sent and from its own command line. It is not told what became of them: an
//! error is logged here. Nothing of a conversation counts until its last byte has come, so that a client that gives up
//! changes nothing.
//!
//! A rule for every address has the unspecified IPv6 address and a flag, if both families are on; with one family it has
//! that family's unspecified address, and no flag. We know the second only as the first ([`plain`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::config::{Listener, Off};
use crate::event::{Side, Transport};
use crate::limits;
use crate::ports::Surroundings;
use crate::ports::follow::Sides;

const MAGIC: &[u8; 8] = b"basil:s\0";
const VERSION: u32 = 2;
const NAME: usize = 128;
const INTERFACE: usize = 16;
const RULE: usize = 56;

/// What can be asked of a table.
const IPV4: u32 = 1;
const IPV6: u32 = 2;
const TCP: u32 = 4;
const UDP: u32 = 8;
const FOLLOW: u32 = 16;
const BIND_INTERFACE: u32 = 32;

/// Flags of a rule.
const EVERY_ADDRESS: u8 = 1;
const BEST_EFFORT: u8 = 2;
const FOLLOWS: u8 = 4;

/// The tables, in the order they are sent.
pub const TABLES: [(Side, &str); 2] = [(Side::Host, "HOST"), (Side::Guest, "SPLICE")];

const fn id(side: Side) -> u8 {
    match side {
        Side::Host => 1,
        Side::Guest => 3,
    }
}

/// What a client did not do right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// No such table.
    #[error("there is no table {0}")]
    Table(u8),
    /// The same table again.
    #[error("table {0} comes twice")]
    Twice(&'static str),
    /// Too many rules.
    #[error("{0} rules for one table (maximum {max})", max = limits::RULES_PER_SIDE)]
    TooMany(u32),
    /// A rule that means nothing.
    #[error("rule {number} of table {table}: {problem}")]
    Rule {
        /// Whose.
        table: &'static str,
        /// Counted from 1.
        number: usize,
        /// Why.
        problem: RuleProblem,
    },
    /// It closed in the middle.
    #[error("the client closed in the middle of its tables")]
    Cut,
}

/// Why a rule means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the message says it")]
pub enum RuleProblem {
    #[error("protocol {0} is neither TCP (6) nor UDP (17)")]
    Protocol(u8),
    #[error("unknown flags {0:#x}")]
    Flags(u8),
    #[error("ports {0}-{1}")]
    Ports(u16, u16),
    #[error("{0} ports from {1} on are more than there are")]
    Targets(u16, u16),
    #[error("no interface has this name")]
    Interface,
    #[error("listening address not allowed")]
    Address,
}

/// Tables that a client sent; none: as it is.
pub type Tables = Sides<Option<Vec<Listener>>>;

/// One conversation.
#[derive(Debug)]
pub struct Session {
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    expected: Expected,
    surroundings: Surroundings,
    tables: Tables,
    began: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Table,
    Count(Side),
    Rules(Side, usize),
    Nothing,
}

/// How a conversation goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    More,
    /// That was all.
    Done(Tables),
}

impl Session {
    /// A client has come.
    #[must_use]
    pub fn new(table: &[Listener], surroundings: Surroundings, off: Off) -> Self {
        Self {
            output: greeting(table, surroundings, off),
            written: 0,
            input: Vec::new(),
            expected: Expected::Table,
            surroundings,
            tables: Tables::default(),
            began: false,
        }
    }

    /// Bytes for the client.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.output.get(self.written..).unwrap_or_default()
    }

    /// The client has taken some.
    pub fn wrote(&mut self, len: usize) {
        self.written = self.written.saturating_add(len);
    }

    /// Bytes of the client.
    ///
    /// # Errors
    /// They mean nothing: the conversation is over.
    pub fn input(&mut self, bytes: &[u8]) -> Result<Progress, ControlError> {
        self.began |= !bytes.is_empty();
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while self.expected != Expected::Nothing {
            let Some((item, after)) = rest.split_at_checked(self.expected.len()) else {
                self.input = rest.to_vec();
                return Ok(Progress::More);
            };
            rest = after;
            self.expected = self.item(item)?;
        }
        Ok(Progress::Done(std::mem::take(&mut self.tables)))
    }

    /// The client has closed.
    ///
    /// # Errors
    /// It had begun to send tables.
    pub const fn closed(&self) -> Result<(), ControlError> {
        if self.began && !matches!(self.expected, Expected::Nothing) {
            Err(ControlError::Cut)
        } else {
            Ok(())
        }
    }

    /// One item; what is expected after it.
    fn item(&mut self, item: &[u8]) -> Result<Expected, ControlError> {
        match (self.expected, item) {
            (Expected::Table, [0]) | (Expected::Nothing, _) => Ok(Expected::Nothing),
            (Expected::Table, _) => {
                let found = item.first().copied().unwrap_or(0);
                let mut tables = TABLES.into_iter();
                let table = tables.find(|(side, _)| id(*side) == found);
                let (side, name) = table.ok_or(ControlError::Table(found))?;
                if self.tables.of(side).is_some() {
                    return Err(ControlError::Twice(name));
                }
                *self.tables.of_mut(side) = Some(Vec::new());
                Ok(Expected::Count(side))
            }
            (Expected::Count(side), _) => {
                let count = u32::from_be_bytes(array(item, 0));
                let most = u32::try_from(limits::RULES_PER_SIDE).unwrap_or(u32::MAX);
                if count > most {
                    return Err(ControlError::TooMany(count));
                }
                Ok(next(side, usize::try_from(count).unwrap_or(0)))
            }
            (Expected::Rules(side, left), _) => {
                let rules = self.tables.of_mut(side).get_or_insert_default();
                let rule = decode(side, item, self.surroundings).map_err(|problem| {
                    ControlError::Rule {
                        table: name(side),
                        number: rules.len().saturating_add(1),
                        problem,
                    }
                })?;
                rules.push(rule);
                Ok(next(side, left.saturating_sub(1)))
            }
        }
    }
}

impl Expected {
    /// Bytes of the item.
    const fn len(self) -> usize {
        match self {
            Self::Table => 1,
            Self::Count(_) => 4,
            Self::Rules(..) => RULE,
            Self::Nothing => 0,
        }
    }
}

const fn next(side: Side, left: usize) -> Expected {
    match left {
        0 => Expected::Table,
        left => Expected::Rules(side, left),
    }
}

/// What a side's table is called.
#[must_use]
pub const fn name(side: Side) -> &'static str {
    match side {
        Side::Host => TABLES[0].1,
        Side::Guest => TABLES[1].1,
    }
}

fn greeting(table: &[Listener], surroundings: Surroundings, off: Off) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for number in [VERSION, 128, 16] {
        bytes.extend(number.to_be_bytes());
    }
    let capabilities = [
        (surroundings.v4, IPV4),
        (surroundings.v6, IPV6),
        (!off.tcp, TCP),
        (!off.udp, UDP),
        (true, FOLLOW),
        (true, BIND_INTERFACE),
    ];
    let capabilities = capabilities.iter().filter(|(on, _)| *on);
    let capabilities = capabilities.fold(0, |all, (_, bit)| all | bit);
    for (side, name) in TABLES {
        let rules: Vec<_> = table.iter().filter(|rule| rule.side == side).collect();
        bytes.push(id(side));
        bytes.extend(padded::<NAME>(name));
        bytes.extend(u32::to_be_bytes(capabilities));
        let count = u32::try_from(rules.len()).unwrap_or(u32::MAX);
        bytes.extend(count.to_be_bytes());
        for rule in rules {
            bytes.extend(encode(rule, surroundings));
        }
    }
    bytes.push(0);
    bytes
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(text.as_bytes()) {
        *to = *from;
    }
    bytes
}

/// The address of a listener, where "every address" has one form only.
#[must_use]
pub fn plain(address: Option<IpAddr>, surroundings: Surroundings) -> Option<IpAddr> {
    let alone = surroundings.v4 != surroundings.v6;
    address.filter(|address| !(alone && address.is_unspecified()))
}

fn encode(rule: &Listener, surroundings: Surroundings) -> Vec<u8> {
    let dual = surroundings.v4 && surroundings.v6;
    let (address, every) = match rule.address {
        Some(address) => (address, false),
        None if surroundings.v4 && !dual => (Ipv4Addr::UNSPECIFIED.into(), false),
        None => (Ipv6Addr::UNSPECIFIED.into(), dual),
    };
    let target = rule.target_address;
    let mut bytes = Vec::with_capacity(RULE);
    bytes.extend(mapped(address).octets());
    bytes.extend(target.map_or([0; 16], |target| mapped(target).octets()));
    let interface = rule.interface.as_deref().unwrap_or("");
    bytes.extend(padded::<INTERFACE>(interface));
    for port in [rule.first, rule.last, rule.target] {
        bytes.extend(port.to_be_bytes());
    }
    bytes.push(match rule.transport {
        Transport::Tcp => 6,
        Transport::Udp | Transport::Echo => 17,
    });
    let flags = [
        (every, EVERY_ADDRESS),
        (rule.best_effort, BEST_EFFORT),
        (rule.follow, FOLLOWS),
    ];
    let flags = flags.iter().filter(|(set, _)| *set);
    bytes.push(flags.fold(0, |all, (_, flag)| all | flag));
    bytes
}

const fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn decode(side: Side, bytes: &[u8], surroundings: Surroundings) -> Result<Listener, RuleProblem> {
    let number = |at| u16::from_be_bytes(array(bytes, at));
    let (first, last, target) = (number(48), number(50), number(52));
    let [protocol, flags] = array(bytes, 54);
    let transport = match protocol {
        6 => Transport::Tcp,
        17 => Transport::Udp,
        other => return Err(RuleProblem::Protocol(other)),
    };
    if flags & !(EVERY_ADDRESS | BEST_EFFORT | FOLLOWS) != 0 {
        return Err(RuleProblem::Flags(flags));
    }
    let length = last
        .checked_sub(first)
        .ok_or(RuleProblem::Ports(first, last))?;
    if target.checked_add(length).is_none() {
        return Err(RuleProblem::Targets(length.saturating_add(1), target));
    }
    let every = flags & EVERY_ADDRESS != 0;
    let address = address(array(bytes, 0));
    if every && !(address.is_ipv6() && address.is_unspecified()) {
        return Err(RuleProblem::Address);
    }
    let address = plain((!every).then_some(address), surroundings);
    let interface = interface(array(bytes, 32))?;
    if side == Side::Guest && (address.is_some() || interface.as_deref() != Some("lo")) {
        return Err(RuleProblem::Address);
    }
    let target_address = self::address(array(bytes, 16));
    Ok(Listener {
        side,
        transport,
        address,
        interface,
        first,
        last,
        target,
        target_address: (!target_address.is_unspecified()).then_some(target_address),
        best_effort: flags & BEST_EFFORT != 0,
        follow: flags & FOLLOWS != 0,
    })
}

fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

fn interface(bytes: [u8; INTERFACE]) -> Result<Option<String>, RuleProblem> {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (Some(name), Some(_)) = (parts.next(), parts.next()) else {
        return Err(RuleProblem::Interface);
    };
    let name = std::str::from_utf8(name).map_err(|_| RuleProblem::Interface)?;
    let wrong = name.contains(['/', ' ']) || name.chars().any(char::is_control);
    if wrong {
        return Err(RuleProblem::Interface);
    }
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

/// Bytes from a place on; zeros where there are none.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let end = at.saturating_add(N);
    let found = bytes.get(at..end).and_then(|some| some.try_into().ok());
    found.unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ports::{Direction, listeners};

    const BOTH: Surroundings = Surroundings {
        v4: true,
        v6: true,
        ephemeral: (32768, 60999),
    };
    const ONLY_V4: Surroundings = Surroundings { v6: false, ..BOTH };
    const ONLY_V6: Surroundings = Surroundings { v4: false, ..BOTH };

    fn table(surroundings: &Surroundings) -> Vec<Listener> {
        let specs = [
            (Direction::TcpToGuest, "8080-8081:80-81"),
            (Direction::UdpToGuest, "127.0.0.1/5353:53"),
            (Direction::TcpToHost, "9000"),
            (Direction::UdpToHost, "none"),
        ];
        listeners(&specs, surroundings, &Off::default()).unwrap()
    }

    /// `z` is eight zeros, as in a dump that one can read.
    fn bytes(text: &str) -> Vec<u8> {
        let words = text.split_whitespace();
        let bytes = words.flat_map(|word| match word {
            "z" => vec![0; 8],
            word => vec![u8::from_str_radix(word, 16).unwrap()],
        });
        bytes.collect()
    }

    /// What pasta of 2026-10-02 sent when it was started with the same specifications.
    const RECORDED: &str = "
        62 61 73 69 6c 3a 73 00 00 00 00 02 00 00 00 80 00 00 00 10
        01 48 4f 53 54 00 00 00 00 z z z z z z z z z z z z z z z 00 00 00 3f 00 00 00 02
        z z z z z z 1f 90 1f 91 00 50 06 01
        z 00 00 ff ff 7f 00 00 01 z z z z 14 e9 14 e9 00 35 11 00
        03 53 50 4c 49 43 45 00 00 z z z z z z z z z z z z z z z 00 00 00 3f 00 00 00 01
        z z z z 6c 6f 00 00 00 00 00 00 z 23 28 23 28 23 28 06 01
        00";

    #[test]
    fn the_greeting_is_as_pasta_sends_it() {
        let session = Session::new(&table(&BOTH), BOTH, Off::default());
        assert_eq!(session.output(), bytes(RECORDED));
    }

    /// The same, of `-t 80 -T 81` with one family.
    #[test]
    fn every_address_of_one_family() {
        let specs = [
            (Direction::TcpToGuest, "80"),
            (Direction::TcpToHost, "81"),
            (Direction::UdpToGuest, "none"),
            (Direction::UdpToHost, "none"),
        ];
        let check = |surroundings: &Surroundings, capabilities: &str, any: &str| {
            let rules = listeners(&specs, surroundings, &Off::default()).unwrap();
            let session = Session::new(&rules, *surroundings, Off::default());
            let name = "z z z z z z z z z z z z z z z";
            let expected = format!(
                "62 61 73 69 6c 3a 73 00 00 00 00 02 00 00 00 80 00 00 00 10
                 01 48 4f 53 54 00 00 00 00 {name} 00 00 00 {capabilities} 00 00 00 01
                 {any} z z z z 00 50 00 50 00 50 06 00
                 03 53 50 4c 49 43 45 00 00 {name} 00 00 00 {capabilities} 00 00 00 01
                 {any} z z 6c 6f 00 00 00 00 00 00 z 00 51 00 51 00 51 06 00
                 00"
            );
            assert_eq!(session.output(), bytes(&expected));
            for rule in &rules {
                let bytes = encode(rule, *surroundings);
                let back = decode(rule.side, &bytes, *surroundings).unwrap();
                assert_eq!(back, *rule);
            }
        };
        check(&ONLY_V4, "3d", "z 00 00 ff ff 00 00 00 00");
        check(&ONLY_V6, "3e", "z z");
    }

    #[test]
    fn what_is_off_is_not_offered() {
        let off = Off {
            udp: true,
            ..Off::default()
        };
        let session = Session::new(&[], BOTH, off);
        assert_eq!(
            session.output().get(149..154),
            Some(&[0, 0, 0, 0x37, 0][..])
        );
    }

    /// What the client sent to add a port to these tables.
    const ADDED: &str = "
        01 00 00 00 03
        z z z z z z 1f 90 1f 91 00 50 06 01
        z 00 00 ff ff 7f 00 00 01 z z z z 14 e9 14 e9 00 35 11 00
        z z z z z z 27 0f 27 0f 27 0f 06 01
        03 00 00 00 01
        z z z z 6c 6f 00 00 00 00 00 00 z 23 28 23 28 23 28 06 01
        00";

    #[test]
    fn a_new_table_in_pieces() {
        let added = bytes(ADDED);
        for size in 1..=added.len() {
            let mut session = Session::new(&table(&BOTH), BOTH, Off::default());
            let mut done = None;
            for piece in added.chunks(size) {
                assert_eq!(done, None);
                match session.input(piece).unwrap() {
                    Progress::More => assert_eq!(session.closed(), Err(ControlError::Cut)),
                    Progress::Done(tables) => done = Some(tables),
                }
            }
            let Some(Sides {
                host: Some(host),
                guest: Some(guest),
            }) = done
            else {
                panic!("{done:?}");
            };
            assert_eq!(session.closed(), Ok(()));
            let before = table(&BOTH);
            assert_eq!(host[..2], before[..2]);
            assert_eq!(
                (host[2].first, host[2].last, host[2].target),
                (9999, 9999, 9999)
            );
            assert_eq!(guest, before[2..]);
        }
    }

    #[test]
    fn who_sends_nothing_changes_nothing() {
        let mut session = Session::new(&[], BOTH, Off::default());
        assert_eq!(session.closed(), Ok(()));
        let len = session.output().len();
        session.wrote(20);
        assert_eq!(session.output().len(), len - 20);
        session.wrote(len);
        assert!(session.output().is_empty());
        assert_eq!(session.input(&[0]), Ok(Progress::Done(Tables::default())));
    }

    #[test]
    fn what_means_nothing_is_named() {
        let check = |text: &str, expected: &str| {
            let mut session = Session::new(&[], BOTH, Off::default());
            let error = session.input(&bytes(text)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check("02", "there is no table 2");
        check("01 00 00 00 00 01", "table HOST comes twice");
        check("01 00 00 01 00", "256 rules for one table (maximum 255)");
        let rule = |text: &str, expected: &str| {
            check(
                &format!("01 00 00 00 01 z z z z z z {text}"),
                &format!("rule 1 of table HOST: {expected}"),
            );
        };
        rule(
            "00 50 00 50 00 50 84 01",
            "protocol 132 is neither TCP (6) nor UDP (17)",
        );
        rule("00 50 00 50 00 50 06 09", "unknown flags 0x9");
        rule("00 50 00 4f 00 50 06 01", "ports 80-79");
        rule(
            "00 50 00 51 ff ff 06 01",
            "2 ports from 65535 on are more than there are",
        );
        check(
            "01 00 00 00 01 z 00 00 ff ff 7f 00 00 01 z z z z 00 50 00 50 00 50 06 01",
            "rule 1 of table HOST: listening address not allowed",
        );
        check(
            "03 00 00 00 01 z z z z z z 00 50 00 50 00 50 06 01",
            "rule 1 of table SPLICE: listening address not allowed",
        );
        check(
            "01 00 00 00 01 z z z z 41 41 41 41 41 41 41 41 41 41 41 41 41 41 41 41
             00 50 00 50 00 50 06 01",
            "rule 1 of table HOST: no interface has this name",
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20),
        ) {
            let mut session = Session::new(&[], BOTH, Off::default());
            for piece in pieces {
                match session.input(&piece) {
                    Ok(Progress::More) => prop_assert!(session.input.len() < RULE),
                    Ok(Progress::Done(_)) | Err(_) => break,
                }
            }
        }

        #[test]
        fn rules_come_back(
            udp in any::<bool>(),
            address in prop::option::of(any::<[u8; 16]>()),
            target_address in prop::option::of(any::<[u8; 4]>()),
            interface in prop::option::of("[a-z][a-z0-9.]{0,14}"),
            first in 1_u16..1000,
            length in 0_u16..1000,
            target in 1_u16..60000,
            best_effort in any::<bool>(),
            follow in any::<bool>(),
        ) {
            let rule = Listener {
                side: Side::Host,
                transport: if udp { Transport::Udp } else { Transport::Tcp },
                address: address.map(|bytes| Ipv6Addr::from(bytes).to_canonical()),
                interface,
                first,
                last: first + length,
                target,
                target_address: target_address.map(IpAddr::from).filter(|a| !a.is_unspecified()),
                best_effort,
                follow,
            };
            let bytes = encode(&rule, BOTH);
            prop_assert_eq!(bytes.len(), RULE);
            prop_assert_eq!(decode(Side::Host, &bytes, BOTH), Ok(rule));
        }
    }
}
