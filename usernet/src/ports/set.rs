//! A set of ports.

use std::fmt;

const WORDS: usize = 1 << 10;

/// Some of the 65536 ports: a bit each, 8 kB, however many there are.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; WORDS]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.between(0, u16::MAX)).finish()
    }
}

impl PortSet {
    /// Add a port.
    pub fn insert(&mut self, port: u16) {
        if let Some(word) = self.0.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    /// Whether a port is there.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.word(port / 64) & (1 << (port % 64)) != 0
    }

    /// Add all of another set's.
    pub fn add(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0.iter()) {
            *word |= more;
        }
    }

    /// Take away all of another set's.
    pub fn take(&mut self, other: &Self) {
        for (word, less) in self.0.iter_mut().zip(other.0.iter()) {
            *word &= !less;
        }
    }

    /// Those from the first to the last one given, both included, in order.
    pub fn between(&self, first: u16, last: u16) -> impl Iterator<Item = u16> {
        let words = first / 64..=last / 64;
        words
            .map(|place| (place, self.word(place)))
            .filter(|(_, word)| *word != 0)
            .flat_map(|(place, word)| {
                (0..64).filter_map(move |bit| (word & (1 << bit) != 0).then_some(place * 64 + bit))
            })
            .filter(move |port| (first..=last).contains(port))
    }

    fn word(&self, place: u16) -> u64 {
        self.0.get(usize::from(place)).copied().unwrap_or(0)
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::default();
        ports.into_iter().for_each(|port| set.insert(port));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_edges_are_ports_too() {
        let all = PortSet::from_iter([0, 63, 64, 65534, 65535]);
        assert_eq!(format!("{all:?}"), "{0, 63, 64, 65534, 65535}");
        let some: Vec<_> = all.between(63, 65534).collect();
        assert_eq!(some, [63, 64, 65534]);
        assert!(all.contains(0) && !all.contains(1));
    }

    proptest! {
        #[test]
        fn as_any_set(
            one in prop::collection::btree_set(0..200_u16, 0..60),
            other in prop::collection::btree_set(0..200_u16, 0..60),
            first in 0..200_u16,
            length in 0..200_u16,
        ) {
            let mut set = PortSet::from_iter(one.iter().copied());
            let more = PortSet::from_iter(other.iter().copied());
            set.take(&more);
            let left: BTreeSet<_> = set.between(0, u16::MAX).collect();
            prop_assert_eq!(&left, &(&one - &other));
            set.add(&more);
            let last = first + length;
            let found: Vec<_> = set.between(first, last).collect();
            let expected: Vec<_> = (&one | &other).range(first..=last).copied().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
