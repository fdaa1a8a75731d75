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
//! ```

use super::foreign::{DropChain, Hook};

/// The table that filters.
pub const TABLE: &str = "filter";

/// Octets of the answer to the first question, and those before the entries in the answer to the second.
pub const INFO: usize = 84;
/// See [`INFO`].
pub const ENTRIES: usize = 40;

/// `-NF_DROP - 1`.
const DROP: i32 = -1;

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
}

/// Where the table's chains end, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
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
        let mut ends = [0; 5];
        for (number, end) in ends.iter_mut().enumerate() {
            *end = word(answer, 56 + 4 * number)?;
        }
        let size = word(answer, 80)?;
        Some(Self { ends, size })
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
}
