//! Port specifications: what `-t`, `-u`, `-T` and `-U` say, as listeners.
//!
//! ```text
//! spec   = "none" | [ where "/" ] item *( "," item )
//! where  = address [ "%" interface ] | [ "*" ] [ "%" interface ]
//! item   = range [ ":" target ] | "~" range | "all" [ ":" address ] | "auto"
//! range  = port [ "-" port ]
//! target = [ address "/" ] range | address
//! ```
//!
//! A target's range is as long as the one it belongs to. `~` takes ports away, wherever it stands. A specification
//! without a range to include means every port that is not ephemeral, as far as it is free (*best effort*); otherwise
//! each port must be had. `auto` makes all of its specification *follow*: a port is listened on while somebody listens
//! on the other side.
//!
//! Two listeners on the same port conflict if one's address covers the other's. Interfaces do not count: what the
//! kernel would choose between them is nothing to rely on.
//!
//! The messages are looked for by people and scripts, and therefore those of pasta.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

use crate::config::{Listener, Off};
use crate::event::{Side, Transport};
use crate::limits;

pub mod set;
pub mod follow;
mod mistake;

/// An option that takes a specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `-t`
    TcpToGuest,
    /// `-u`
    UdpToGuest,
    /// `-T`
    TcpToHost,
    /// `-U`
    UdpToHost,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::TcpToGuest,
        Self::UdpToGuest,
        Self::TcpToHost,
        Self::UdpToHost,
    ];

    const fn option(self) -> &'static str {
        match self {
            Self::TcpToGuest => "-t",
            Self::UdpToGuest => "-u",
            Self::TcpToHost => "-T",
            Self::UdpToHost => "-U",
        }
    }

    const fn side(self) -> Side {
        match self {
            Self::TcpToGuest | Self::UdpToGuest => Side::Host,
            Self::TcpToHost | Self::UdpToHost => Side::Guest,
        }
    }

    const fn transport(self) -> Transport {
        match self {
            Self::TcpToGuest | Self::TcpToHost => Transport::Tcp,
            Self::UdpToGuest | Self::UdpToHost => Transport::Udp,
        }
    }

    const fn is_off(self, off: &Off) -> bool {
        match self {
            Self::TcpToGuest | Self::TcpToHost => off.tcp,
            Self::UdpToGuest | Self::UdpToHost => off.udp,
        }
    }
}

/// What the meaning of a specification depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// IPv4 is on.
    pub v4: bool,
    /// IPv6 is on.
    pub v6: bool,
    /// The kernel's ephemeral ports, first and last.
    pub ephemeral: (u16, u16),
}

/// Which specification makes no listeners, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{error}")]
pub struct SpecError {
    /// Its place among those that were given; none: that of an option that was not.
    pub place: Option<usize>,
    /// Why.
    pub error: PortError,
}

/// Why there are no listeners.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PortError {
    /// Not the grammar.
    #[error("Invalid port specifier '{0}'")]
    Invalid(String),
    /// `none` after something else.
    #[error("{0} none conflicts with previous options")]
    None(&'static str),
    /// The guest's side has no addresses to choose from.
    #[error("Listening address not allowed for {option} {spec}")]
    Where {
        /// `-T` or `-U`
        option: &'static str,
        /// What was written.
        spec: String,
    },
    /// A listener that cannot be.
    #[error("{problem}\nUnable to add rule {rule}")]
    Rule {
        /// Why.
        problem: RuleProblem,
        /// Which.
        rule: String,
    },
}

/// Why a listener cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the message says it")]
pub enum RuleProblem {
    #[error("Forwarding rule attempts to map from port 0")]
    FromZero,
    #[error("Forwarding rule attempts to map to port 0")]
    ToZero,
    #[error("{0} forward, but {0} not enabled")]
    FamilyOff(&'static str),
    #[error("Can't add {0} forwarding rule, {0} not enabled")]
    TransportOff(&'static str),
    #[error(
        "Dual stack forward to {family} address {target} unsupported\nDid you mean {instead}/... instead?"
    )]
    DualStack {
        family: &'static str,
        target: IpAddr,
        instead: &'static str,
    },
    #[error(
        "Forward from {} ({from}) to {} ({to}) unsupported",
        family(*from),
        family(*to)
    )]
    Families { from: IpAddr, to: IpAddr },
    #[error("Multicast target address {0} for forwarding rule")]
    Multicast(IpAddr),
    #[error("Forwarding configuration conflict: {rule} versus {other}")]
    Conflict { rule: String, other: String },
    #[error("Too many rules (maximum {0})")]
    TooMany(usize),
    #[error("Too many listening sockets (maximum {0})")]
    TooManySockets(usize),
}

impl PortError {
    /// What is wrong with a specification, and what would be right; none where the message says it.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Invalid(text) => Some(mistake::of(text)),
            Self::None(_) => {
                Some("none means no ports at all: leave it out, or the others".to_owned())
            }
            Self::Where { .. } => {
                Some("the guest's loopback is listened on: give ports alone".to_owned())
            }
            Self::Rule { problem, .. } => problem.advice(),
        }
    }
}

impl RuleProblem {
    fn advice(&self) -> Option<String> {
        Some(match self {
            Self::FromZero | Self::ToZero => "give ports from 1 to 65535".to_owned(),
            Self::FamilyOff(family) => {
                format!("{family} is off here: give an address of the other family, or none")
            }
            Self::TransportOff(transport) => format!("{transport} is off here: leave the rule out"),
            Self::DualStack { .. } => return None,
            Self::Families { from, .. } => {
                format!("give a target of {}, as the address is", family(*from))
            }
            Self::Multicast(target) => {
                format!("{target} is the address of a group: give that of a host")
            }
            Self::Conflict { .. } => {
                "two listeners cannot have one port: give another port, or leave one out".to_owned()
            }
            Self::TooMany(_) => "each range is one rule: give ranges, as 8000-8100".to_owned(),
            Self::TooManySockets(_) => "each port is one socket: give fewer ports".to_owned(),
        })
    }
}

const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// The listeners of all specifications, in the order of the command line. An option that is not there means `auto`.
///
/// # Errors
/// A specification is not understood, or two of them do not go together.
pub fn listeners(
    specs: &[(Direction, &str)],
    surroundings: &Surroundings,
    off: &Off,
) -> Result<Vec<Listener>, SpecError> {
    let absent = Direction::ALL
        .into_iter()
        .filter(|direction| specs.iter().all(|(given, _)| given != direction));
    let absent = absent.map(|direction| (direction, "auto"));
    let mut rules = Vec::new();
    for (place, (direction, text)) in specs.iter().copied().chain(absent).enumerate() {
        add(&mut rules, direction, text, surroundings).map_err(|error| SpecError {
            place: (place < specs.len()).then_some(place),
            error,
        })?;
    }
    rules.retain(|rule| {
        let direction = Direction::ALL.into_iter().find(|&of| is_of(rule, of));
        !direction.is_some_and(|direction| direction.is_off(off))
    });
    Ok(rules)
}

/// One more specification.
fn add(
    rules: &mut Vec<Listener>,
    direction: Direction,
    text: &str,
    surroundings: &Surroundings,
) -> Result<(), PortError> {
    if text == "none" {
        if rules.iter().any(|rule| is_of(rule, direction)) {
            return Err(PortError::None(direction.option()));
        }
        return Ok(());
    }
    for rule in parse(direction, text, surroundings)? {
        check(&rule, rules, surroundings).map_err(|problem| PortError::Rule {
            problem,
            rule: Rule(&rule).to_string(),
        })?;
        rules.push(rule);
    }
    Ok(())
}

/// The listeners of a table that was made elsewhere, if they can be.
///
/// # Errors
/// One of them cannot be, or not together with others.
pub fn table(
    rules: Vec<Listener>,
    surroundings: &Surroundings,
    off: &Off,
) -> Result<Vec<Listener>, PortError> {
    for (place, rule) in rules.iter().enumerate() {
        let before = rules.get(..place).unwrap_or_default();
        let on = match rule.transport {
            Transport::Tcp if off.tcp => Err(RuleProblem::TransportOff("TCP")),
            Transport::Udp if off.udp => Err(RuleProblem::TransportOff("UDP")),
            Transport::Tcp | Transport::Udp | Transport::Echo => Ok(()),
        };
        on.and_then(|()| check(rule, before, surroundings))
            .map_err(|problem| PortError::Rule {
                problem,
                rule: Rule(rule).to_string(),
            })?;
    }
    Ok(rules)
}

fn is_of(rule: &Listener, direction: Direction) -> bool {
    rule.side == direction.side() && rule.transport == direction.transport()
}

/// One specification, not `none`.
fn parse(
    direction: Direction,
    text: &str,
    surroundings: &Surroundings,
) -> Result<Vec<Listener>, PortError> {
    // A slash can belong to a target too; what is before it is then no address.
    let split = text.split_once('/');
    let split = split.and_then(|(before, after)| Some((parse_where(before)?, after)));
    let ((address, interface), ports) = split.unwrap_or(((None, None), text));
    let interface = match (direction.side(), split.is_some()) {
        (Side::Host, _) => interface.map(str::to_owned),
        (Side::Guest, false) => Some("lo".to_owned()),
        (Side::Guest, true) => {
            return Err(PortError::Where {
                option: direction.option(),
                spec: text.to_owned(),
            });
        }
    };
    let ports = Ports::parse(ports).ok_or_else(|| PortError::Invalid(ports.to_owned()))?;
    let best_effort = ports.include.is_empty();
    let ranges = ports.ranges(surroundings);
    Ok(ranges
        .into_iter()
        .map(|range| Listener {
            side: direction.side(),
            transport: direction.transport(),
            address,
            interface: interface.clone(),
            first: range.first,
            last: range.last,
            target: range.target,
            target_address: range.address,
            best_effort,
            follow: ports.follow,
        })
        .collect())
}

/// `where`, if it is one.
fn parse_where(text: &str) -> Option<(Option<IpAddr>, Option<&str>)> {
    let (address, interface) = match text.split_once('%') {
        Some((address, interface)) => (address, Some(interface)),
        None => (text, None),
    };
    if interface.is_some_and(|name| name.is_empty() || name.len() > limits::INTERFACE_NAME) {
        return None;
    }
    let address = match address {
        "" | "*" => None,
        address => Some(parse_address(address)?),
    };
    Some((address, interface))
}

fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .map_or(Some(text), |rest| rest.strip_suffix(']'))?;
    bare.parse().ok()
}

/// A range of ports and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    /// Where `first` leads.
    target: u16,
    /// None: the guest's own.
    address: Option<IpAddr>,
}

/// The part of a specification after the slash.
#[derive(Debug, Default)]
struct Ports {
    include: Vec<Range>,
    exclude: Vec<(u16, u16)>,
    /// `all:address`
    all_to: Option<IpAddr>,
    follow: bool,
}

impl Ports {
    fn parse(text: &str) -> Option<Self> {
        let mut ports = Self::default();
        for item in text.split(',') {
            if let Some(range) = item.strip_prefix('~') {
                ports.exclude.push(parse_range(range)?);
            } else if item == "auto" {
                ports.follow = true;
            } else if item == "all" {
                ports.all_to = None;
            } else if let Some(address) = item.strip_prefix("all:") {
                ports.all_to = specified(parse_address(address)?);
            } else {
                ports.include.push(parse_include(item)?);
            }
        }
        Some(ports)
    }

    /// What is left of the included ranges without the excluded ones.
    fn ranges(&self, surroundings: &Surroundings) -> Vec<Range> {
        let (low, high) = surroundings.ephemeral;
        let mut exclude = self.exclude.clone();
        let mut include = self.include.clone();
        if include.is_empty() {
            exclude.push((low, high));
            include.push(Range {
                first: 1,
                last: u16::MAX,
                target: 1,
                address: self.all_to,
            });
        }
        exclude.sort_unstable();
        include
            .into_iter()
            .flat_map(|range| without(range, &exclude))
            .collect()
    }
}

/// A range without some ports; `exclude` is sorted.
fn without(range: Range, exclude: &[(u16, u16)]) -> Vec<Range> {
    let mut left = Vec::new();
    let mut next = u32::from(range.first);
    let mut keep = |first: u32, end: u32| {
        let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(end.saturating_sub(1)))
        else {
            return;
        };
        if first <= last {
            let target = range.target.saturating_add(first - range.first);
            left.push(Range {
                first,
                last,
                target,
                ..range
            });
        }
    };
    let end = u32::from(range.last) + 1;
    for &(low, high) in exclude {
        let (low, after) = (u32::from(low), u32::from(high) + 1);
        if after <= next || low >= end {
            continue;
        }
        if low > next {
            keep(next, low);
        }
        next = next.max(after);
    }
    if next < end {
        keep(next, end);
    }
    left
}

/// `range [ ":" target ]`
fn parse_include(item: &str) -> Option<Range> {
    let (ports, target) = match item.split_once(':') {
        Some((ports, target)) => (ports, Some(target)),
        None => (item, None),
    };
    let (first, last) = parse_range(ports)?;
    let (address, range) = match target {
        None => (None, None),
        Some(target) => parse_target(target)?,
    };
    let (target, end) = range.unwrap_or((first, last));
    (end - target == last - first).then_some(Range {
        first,
        last,
        target,
        address: address.and_then(specified),
    })
}

/// `[ address "/" ] range | address`
type Target = (Option<IpAddr>, Option<(u16, u16)>);

fn parse_target(text: &str) -> Option<Target> {
    if let Some((address, range)) = text.split_once('/') {
        return Some((Some(parse_address(address)?), Some(parse_range(range)?)));
    }
    match parse_address(text) {
        Some(address) => Some((Some(address), None)),
        None => Some((None, Some(parse_range(text)?))),
    }
}

/// The unspecified address as a target is the same as none.
fn specified(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified()).then_some(address)
}

/// `port [ "-" port ]`; port 0 is told apart later, with words of its own.
fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    (first <= last).then_some((first, last))
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Whether a listener can be added to those before it.
fn check(
    rule: &Listener,
    before: &[Listener],
    surroundings: &Surroundings,
) -> Result<(), RuleProblem> {
    if rule.first == 0 {
        return Err(RuleProblem::FromZero);
    }
    if rule.target == 0 {
        return Err(RuleProblem::ToZero);
    }
    check_families(rule, surroundings)?;
    if let Some(target) = rule.target_address
        && target.is_multicast()
    {
        return Err(RuleProblem::Multicast(target));
    }
    if let Some(other) = before.iter().find(|other| conflict(rule, other)) {
        return Err(RuleProblem::Conflict {
            rule: Rule(rule).to_string(),
            other: Rule(other).to_string(),
        });
    }
    let same_side = before.iter().filter(|other| other.side == rule.side);
    if same_side.count() >= limits::RULES_PER_SIDE {
        return Err(RuleProblem::TooMany(limits::RULES_PER_SIDE));
    }
    let ports = |rule: &Listener| usize::from(rule.last - rule.first) + 1;
    if before.iter().map(ports).sum::<usize>() + ports(rule) > limits::LISTENING_SOCKETS {
        return Err(RuleProblem::TooManySockets(limits::LISTENING_SOCKETS));
    }
    Ok(())
}

fn check_families(rule: &Listener, surroundings: &Surroundings) -> Result<(), RuleProblem> {
    match rule.address {
        Some(IpAddr::V4(_)) if !surroundings.v4 => return Err(RuleProblem::FamilyOff("IPv4")),
        Some(IpAddr::V6(_)) if !surroundings.v6 => return Err(RuleProblem::FamilyOff("IPv6")),
        Some(_) | None => {}
    }
    let dual = surroundings.v4 && surroundings.v6;
    match (rule.address, rule.target_address) {
        (Some(from), Some(to)) if from.is_ipv4() != to.is_ipv4() => {
            Err(RuleProblem::Families { from, to })
        }
        (None, Some(target)) if dual => Err(RuleProblem::DualStack {
            family: family(target),
            target,
            instead: if target.is_ipv4() { "0.0.0.0" } else { "[::]" },
        }),
        (None, Some(IpAddr::V4(_))) if !surroundings.v4 => Err(RuleProblem::FamilyOff("IPv4")),
        (None, Some(IpAddr::V6(_))) if !surroundings.v6 => Err(RuleProblem::FamilyOff("IPv6")),
        _ => Ok(()),
    }
}

fn conflict(one: &Listener, other: &Listener) -> bool {
    let covers = |wide: Option<IpAddr>, narrow: Option<IpAddr>| match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => {
            wide == narrow || (wide.is_unspecified() && wide.is_ipv4() == narrow.is_ipv4())
        }
    };
    one.side == other.side
        && one.transport == other.transport
        && one.first <= other.last
        && other.first <= one.last
        && (covers(one.address, other.address) || covers(other.address, one.address))
}

/// A listener, as messages show it.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a>(pub &'a Listener);

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.0;
        let transport = match rule.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
            Transport::Echo => "ICMP",
        };
        match rule.address {
            Some(address) => write!(f, "{transport} [{address}]")?,
            None => write!(f, "{transport} [*]")?,
        }
        if let Some(interface) = &rule.interface {
            write!(f, "%{interface}")?;
        }
        write!(f, ":{}  =>  ", Span(rule.first, rule.last))?;
        if let Some(address) = rule.target_address {
            write!(f, "{address}:")?;
        }
        let end = rule.target.saturating_add(rule.last - rule.first);
        write!(f, "{} ", Span(rule.target, end))?;
        if rule.best_effort {
            f.write_str(" (best effort)")?;
        }
        if rule.follow {
            f.write_str(" (auto-scan)")?;
        }
        Ok(())
    }
}

struct Span(u16, u16);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(first, last) if first == last => write!(f, "{first}"),
            Self(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests;
