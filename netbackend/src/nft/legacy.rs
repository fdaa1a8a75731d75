//! The packet filter of before nftables (x_tables), which programs named `iptables-legacy` still write.
//!
//! Its chains drop what ours accept just as those of nftables do, and no listing of nftables shows them. The kernel names
//! its tables in `/proc/net/ip_tables_names`, and gives one out in answer to two questions: how large it is and where its
//! chains end ([`Info`]), then all entries. The last entry of a built-in chain is its policy.
//!
//! ```text
//! struct ipt_getinfo      name 32 octets, then u32: valid hooks, 5 entries, 5 underflows, number of entries, size
//! struct ipt_get_entries  name 32 octets, u32 size, 4 of padding, then entries
//! entry                   at 88 (ip6: 140) u16: where the target is; there, after 32 octets: i32 verdict
//!                         at 90 (142) u16: where the next entry is; from 112 (168) to the target: matches
//! match, target           u16 length, name of 29 octets, revision, then its own
//! struct ipt_ip           source, destination, masks of both; interfaces in and out, masks of both (16 octets each);
//!                         u16 protocol, (ip6: u8 class,) u8 flags, u8 inverted
//! ```
//! [`Info::listing`] puts all of it into the words of nftables, so that one reader understands both.

use super::foreign::{DropChain, Hook};
use super::listing::{self, Base, Chain, Expression, Rule, Verdict};

/// The table that filters.
pub const TABLE: &str = "filter";

/// Octets of the answer to the first question, and those before the entries in the answer to the second.
pub const INFO: usize = 84;
/// See [`INFO`].
pub const ENTRIES: usize = 40;

/// `-NF_DROP - 1`.
const DROP: i32 = -1;

/// What the tables' names begin with in a listing.
pub const PREFIX: &str = "iptables-legacy/";

/// One of its two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The program that writes its tables.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables-legacy",
            Self::V6 => "ip6tables-legacy",
        }
    }

    /// The file that names its tables.
    #[must_use]
    pub fn names(self) -> &'static str {
        match self {
            Self::V4 => "/proc/net/ip_tables_names",
            Self::V6 => "/proc/net/ip6_tables_names",
        }
    }

    fn target_offset(self) -> usize {
        match self {
            Self::V4 => 88,
            Self::V6 => 140,
        }
    }

    /// Where the matches of an entry begin.
    fn matches_offset(self) -> usize {
        match self {
            Self::V4 => 112,
            Self::V6 => 168,
        }
    }

    /// Octets of an address, and where the protocol and the flags are.
    fn header(self) -> (usize, usize, usize) {
        match self {
            Self::V4 => (4, 80, 82),
            Self::V6 => (16, 128, 131),
        }
    }

    /// The flag of an entry that it goes to a chain instead of calling it.
    fn goes(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 4,
        }
    }

    fn table(self) -> listing::Table {
        let family = match self {
            Self::V4 => listing::Family::IP,
            Self::V6 => listing::Family::IP6,
        };
        (family, format!("{PREFIX}{TABLE}"))
    }
}

/// Where the table's chains end, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    starts: [u32; 5],
    ends: [u32; 5],
    /// Octets of all entries.
    pub size: u32,
}

/// The question for a table: its name, and room for the answer.
#[must_use]
pub fn question(length: usize, size: u32) -> Vec<u8> {
    let mut bytes = TABLE.as_bytes().to_vec();
    bytes.resize(32, 0);
    bytes.extend(size.to_ne_bytes());
    bytes.resize(length, 0);
    bytes
}

impl Info {
    /// What the answer to the first question says.
    #[must_use]
    pub fn parse(answer: &[u8]) -> Option<Self> {
        let (mut starts, mut ends) = ([0; 5], [0; 5]);
        for (number, start) in starts.iter_mut().enumerate() {
            *start = word(answer, 36 + 4 * number)?;
        }
        for (number, end) in ends.iter_mut().enumerate() {
            *end = word(answer, 56 + 4 * number)?;
        }
        let size = word(answer, 80)?;
        Some(Self { starts, ends, size })
    }

    /// The chains whose policy is to drop, by the answer to the second question.
    #[must_use]
    pub fn drop_chains(&self, family: Family, answer: &[u8]) -> Vec<DropChain> {
        let entries = answer.get(ENTRIES..).unwrap_or_default();
        // NF_INET_LOCAL_IN, NF_INET_FORWARD
        let hooks = [(1, "INPUT", Hook::Input), (2, "FORWARD", Hook::Forward)];
        let drops = |end: u32| -> Option<bool> {
            let entry = entries.get(usize::try_from(end).ok()?..)?;
            let offset = entry.get(family.target_offset()..)?.first_chunk()?;
            let target = usize::from(u16::from_ne_bytes(*offset));
            let verdict = entry.get(target + 32..)?.first_chunk()?;
            Some(i32::from_ne_bytes(*verdict) == DROP)
        };
        let dropping = hooks.into_iter().filter(|(number, ..)| {
            let end: Option<&u32> = self.ends.get(*number);
            end.and_then(|end| drops(*end)) == Some(true)
        });
        dropping
            .map(|(_, name, hook)| DropChain::new(family.program(), TABLE, name, hook))
            .collect()
    }
}

/// An entry of a table, and where it is.
struct Entry<'a> {
    at: usize,
    bytes: &'a [u8],
    target: &'a [u8],
}

fn each(family: Family, entries: &[u8]) -> Vec<Entry<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(bytes) = entries.get(at..).filter(|rest| !rest.is_empty()) {
        let offset = family.target_offset();
        let (Some(target), Some(next)) = (half(bytes, offset), half(bytes, offset + 2)) else {
            break;
        };
        let (Some(bytes), Some(of_target)) = (bytes.get(..next), bytes.get(target..next)) else {
            break;
        };
        found.push(Entry {
            at,
            bytes,
            target: of_target,
        });
        at += next.max(1);
    }
    found
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let half: &[u8; 2] = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*half).into())
}

/// A name that zeros follow.
fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default())
        .into_owned()
}

/// The name of a match or a target, and what is its own.
fn extension(bytes: &[u8]) -> Option<(String, &[u8])> {
    Some((name(bytes.get(2..31)?), bytes.get(32..)?))
}

impl Info {
    /// Chains and rules, by the answer to the second question.
    #[must_use]
    pub fn listing(&self, family: Family, answer: &[u8]) -> (Vec<Chain>, Vec<Rule>) {
        let entries = each(family, answer.get(ENTRIES..).unwrap_or_default());
        let base = |at: usize| {
            let hooks = [(1, "INPUT"), (2, "FORWARD")];
            let starts = |number: usize| {
                self.starts
                    .get(number)
                    .copied()
                    .and_then(|start| usize::try_from(start).ok())
            };
            hooks
                .into_iter()
                .find(|(number, _)| starts(*number) == Some(at))
        };
        let table = family.table();
        let dropping = self.drop_chains(family, answer);
        let (mut chains, mut rules, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut current = String::new();
        for entry in &entries {
            let of_target = extension(entry.target);
            let user = of_target
                .as_ref()
                .filter(|(name, _)| name == "ERROR")
                .map(|(_, own)| name(own));
            if let Some((number, of_base)) = base(entry.at) {
                of_base.clone_into(&mut current);
                let hook = if number == 1 {
                    Hook::Input
                } else {
                    Hook::Forward
                };
                let base = Base {
                    kind: "filter".to_owned(),
                    hook: u32::try_from(number).unwrap_or_default(),
                    // The last entry of the chain is its policy, and says so, too.
                    drops: dropping.iter().any(|chain| chain.hook == hook),
                };
                chains.push(chain_of(&table, &current, Some(base)));
            } else if let Some(user) = user {
                current = user;
                starts.push((entry.at + entry.bytes.len(), current.clone()));
                chains.push(chain_of(&table, &current, None));
                continue;
            }
            rules.push((current.clone(), entry));
        }
        let rules = rules.into_iter().map(|(chain, entry)| Rule {
            table: table.clone(),
            chain,
            expressions: expressions(family, entry, &starts),
        });
        let rules = rules.collect();
        (chains, rules)
    }
}

fn chain_of(table: &listing::Table, name: &str, base: Option<Base>) -> Chain {
    Chain {
        table: table.clone(),
        name: name.to_owned(),
        base,
    }
}

/// What an entry asks and says, in the words of nftables.
fn expressions(family: Family, entry: &Entry<'_>, starts: &[(usize, String)]) -> Vec<Expression> {
    let (.., flags) = family.header();
    let (flags, inverted) = match entry.bytes.get(flags..) {
        Some([flags, inverted, ..]) => (*flags, *inverted),
        Some(_) | None => (0, 0),
    };
    let mut all = interfaces(family, entry, inverted);
    all.extend(addresses(family, entry, inverted));
    all.extend(protocol(family, entry, inverted));
    all.extend(matches(family, entry));
    all.push(target(entry, flags & family.goes() != 0, starts));
    all
}

fn part<'a>(entry: &Entry<'a>, at: usize, length: usize) -> &'a [u8] {
    entry.bytes.get(at..at + length).unwrap_or_default()
}

fn compare(inverted: bool, with: &[u8]) -> Expression {
    Expression::Compare {
        operator: inverted.into(),
        from: 0,
        with: with.to_vec(),
    }
}

/// `IPT_INV_VIA_IN` and `_VIA_OUT` are 1 and 2. A name may be a beginning of one; its mask tells.
fn interfaces(family: Family, entry: &Entry<'_>, inverted: u8) -> Vec<Expression> {
    let names = 4 * family.header().0;
    let of = |number: usize, key: u32, bit: u8| {
        let mask = part(entry, names + 32 + 16 * number, 16);
        let known = mask.iter().filter(|octet| **octet != 0).count();
        let name = part(entry, names + 16 * number, known);
        let load = Expression::Meta { key, to: 0 };
        (known > 0).then(|| [load, compare(inverted & bit != 0, name)])
    };
    let both = [of(0, 6, 1), of(1, 7, 2)];
    both.into_iter().flatten().flatten().collect()
}

/// `IPT_INV_SRCIP` and `_DSTIP` are 8 and 16.
fn addresses(family: Family, entry: &Entry<'_>, inverted: u8) -> Vec<Expression> {
    let length = family.header().0;
    // Where a header has the source; the destination follows.
    let place = match family {
        Family::V4 => 12,
        Family::V6 => 8,
    };
    let of = |number: usize, bit: u8| {
        let mask = part(entry, (2 + number) * length, length);
        let load = Expression::Payload {
            base: 1,
            offset: place + number * length,
            length,
            to: 0,
        };
        let masked = Expression::Bitwise {
            from: 0,
            to: 0,
            mask: mask.to_vec(),
            xor: vec![0; length],
        };
        let address = part(entry, number * length, length);
        let asks = mask.iter().any(|octet| *octet != 0);
        asks.then(|| [load, masked, compare(inverted & bit != 0, address)])
    };
    let both = [of(0, 8), of(1, 16)];
    both.into_iter().flatten().flatten().collect()
}

/// `IPT_INV_PROTO` is 64; protocol 0 is any.
fn protocol(family: Family, entry: &Entry<'_>, inverted: u8) -> Vec<Expression> {
    let (_, at, _) = family.header();
    let number = half(entry.bytes, at).and_then(|number| u8::try_from(number).ok());
    let Some(number) = number.filter(|number| *number != 0) else {
        return Vec::new();
    };
    vec![
        Expression::Meta { key: 16, to: 0 },
        compare(inverted & 64 != 0, &[number]),
    ]
}

fn matches(family: Family, entry: &Entry<'_>) -> Vec<Expression> {
    let end = entry.bytes.len() - entry.target.len();
    let mut rest = entry
        .bytes
        .get(family.matches_offset()..end)
        .unwrap_or_default();
    let mut all = Vec::new();
    while let Some(length) = half(rest, 0).filter(|length| *length >= 32) {
        let Some(one) = rest.get(..length) else { break };
        all.extend(extension(one).map(|(name, own)| match name.as_str() {
            "comment" => Expression::NoEffect,
            "conntrack" => listing::connection_state(own).unwrap_or(Expression::Other(name)),
            "tcp" | "udp" => ports(own).unwrap_or(Expression::Other(name)),
            _ => Expression::Other(name),
        }));
        rest = rest.get(length..).unwrap_or_default();
    }
    all
}

/// `struct xt_tcp` and `xt_udp` begin alike: the first and the last source port, then those of the destination. What
/// follows must ask for nothing.
fn ports(own: &[u8]) -> Option<Expression> {
    let port = |at: usize| half(own, at).and_then(|port| u16::try_from(port).ok());
    let (from, to) = (port(4)?, port(6)?);
    let all =
        (port(0)?, port(2)?) == (0, u16::MAX) && own.get(8..12)?.iter().all(|octet| *octet == 0);
    all.then_some(Expression::Port {
        first: from,
        last: to,
    })
}

/// A verdict, or a chain: positive verdicts are where its first entry is.
fn target(entry: &Entry<'_>, goes: bool, starts: &[(usize, String)]) -> Expression {
    let Some((name, own)) = extension(entry.target) else {
        return Expression::Other("target".to_owned());
    };
    let code = own.first_chunk().map(|code| i32::from_ne_bytes(*code));
    let verdict = match (name.as_str(), code) {
        ("", Some(DROP)) | ("REJECT", _) => Verdict::Drop,
        ("", Some(-2)) => Verdict::Accept,
        ("", Some(-5)) => Verdict::Return,
        ("", Some(-4)) => Verdict::Queue,
        ("", Some(place)) => {
            let at = usize::try_from(place).ok();
            match starts.iter().find(|(start, _)| Some(*start) == at) {
                Some((_, chain)) if goes => Verdict::Goto(chain.clone()),
                Some((_, chain)) => Verdict::Jump(chain.clone()),
                // To the next entry: it only counts.
                None => Verdict::Continue,
            }
        }
        _ => return Expression::Other(name),
    };
    Expression::Verdict(verdict)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of three policies, as the kernel makes it, but for the verdicts.
    fn table(family: Family, verdicts: [i32; 3]) -> (Vec<u8>, Vec<u8>) {
        let (entry, target) = match family {
            Family::V4 => (152_u32, 112_u16),
            Family::V6 => (208, 168),
        };
        let mut info = question(INFO, 0);
        info[56..76].copy_from_slice(
            &[u32::MAX, 0, entry, 2 * entry, u32::MAX]
                .map(u32::to_ne_bytes)
                .concat(),
        );
        info[80..84].copy_from_slice(&(3 * entry).to_ne_bytes());
        let mut entries = question(ENTRIES, 3 * entry);
        for verdict in verdicts {
            let mut bytes = vec![0; usize::try_from(entry).expect("it is short")];
            let offset = family.target_offset();
            bytes[offset..offset + 2].copy_from_slice(&target.to_ne_bytes());
            let at = usize::from(target) + 32;
            bytes[at..at + 4].copy_from_slice(&verdict.to_ne_bytes());
            entries.extend(bytes);
        }
        (info, entries)
    }

    #[test]
    fn policies_to_drop() {
        const ACCEPT: i32 = -2;
        for (family, verdicts, expected) in [
            (
                Family::V4,
                [ACCEPT, DROP, DROP],
                &["iptables-legacy filter FORWARD"][..],
            ),
            (
                Family::V6,
                [DROP, ACCEPT, DROP],
                &["ip6tables-legacy filter INPUT"],
            ),
            (Family::V4, [ACCEPT; 3], &[]),
        ] {
            let (info, entries) = table(family, verdicts);
            let info = Info::parse(&info).expect("it is long enough");
            let found = info.drop_chains(family, &entries);
            let words = |name: &&str| format!("chain {name} has the policy to drop");
            let expected: Vec<String> = expected.iter().map(words).collect();
            assert_eq!(
                found.iter().map(ToString::to_string).collect::<Vec<_>>(),
                expected
            );
            // Cut short anywhere, it has no policy.
            let cut = entries.get(..60).expect("it is longer");
            assert_eq!(info.drop_chains(family, cut), []);
        }
        assert_eq!(Info::parse(&[0; INFO - 1]), None);
    }

    /// `-A FORWARD -i br1 -s 10.9.0.0/16 ! -p udp -j ACCEPT`, `-A FORWARD -o up0 -g mine`, and `mine`, which refuses.
    #[test]
    fn rules_are_told_in_the_words_of_nftables() {
        let entry = |verdict: i32| {
            let mut bytes = vec![0; 152];
            bytes[88..90].copy_from_slice(&112_u16.to_ne_bytes());
            bytes[90..92].copy_from_slice(&152_u16.to_ne_bytes());
            bytes[112..114].copy_from_slice(&40_u16.to_ne_bytes());
            bytes[144..148].copy_from_slice(&verdict.to_ne_bytes());
            bytes
        };
        let named = |name: &[u8], own: &[u8]| {
            let mut bytes = entry(0);
            bytes[114..114 + name.len()].copy_from_slice(name);
            bytes[144..144 + own.len()].copy_from_slice(own);
            bytes
        };
        let mut accept = entry(-2);
        accept[0..4].copy_from_slice(&[10, 9, 0, 0]);
        accept[8..12].copy_from_slice(&[255, 255, 0, 0]);
        accept[16..20].copy_from_slice(b"br1\0");
        accept[48..52].copy_from_slice(&[255; 4]);
        accept[80..82].copy_from_slice(&17_u16.to_ne_bytes());
        accept[83] = 64;
        let mut goes = entry(4 * 152);
        goes[32..35].copy_from_slice(b"up0");
        goes[64..67].copy_from_slice(&[255; 3]);
        goes[82] = 2;
        let end = [entry(DROP), named(b"ERROR", b"mine"), named(b"REJECT", &[])];
        let entries = [vec![accept, goes], end.to_vec()].concat().concat();
        let mut info = question(INFO, 0);
        info[40..44].copy_from_slice(&u32::MAX.to_ne_bytes());
        info[64..68].copy_from_slice(&(2 * 152_u32).to_ne_bytes());
        let mut answer = question(ENTRIES, 0);
        answer.extend(entries);
        let (chains, rules) = Info::parse(&info).unwrap().listing(Family::V4, &answer);

        let names: Vec<&str> = chains.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["FORWARD", "mine"]);
        assert!(
            chains[0]
                .base
                .as_ref()
                .is_some_and(|base| base.hook == 2 && base.drops)
        );
        let load = |key| Expression::Meta { key, to: 0 };
        let accepts = [
            load(6),
            compare(false, b"br1\0"),
            Expression::Payload {
                base: 1,
                offset: 12,
                length: 4,
                to: 0,
            },
            Expression::Bitwise {
                from: 0,
                to: 0,
                mask: vec![255, 255, 0, 0],
                xor: vec![0; 4],
            },
            compare(false, &[10, 9, 0, 0]),
            load(16),
            compare(true, &[17]),
            Expression::Verdict(Verdict::Accept),
        ];
        assert_eq!(rules[0].expressions, accepts);
        let goes = [
            load(7),
            compare(false, b"up0"),
            Expression::Verdict(Verdict::Goto("mine".to_owned())),
        ];
        assert_eq!(rules[1].expressions, goes);
        let of = |rule: &Rule| (rule.chain.clone(), rule.expressions.last().cloned());
        let drops = || Some(Expression::Verdict(Verdict::Drop));
        assert_eq!(of(&rules[2]), ("FORWARD".to_owned(), drops()));
        assert_eq!(of(&rules[3]), ("mine".to_owned(), drops()));
    }
}
