//! Sequence numbers: 32 bits that wrap (RFC 9293, 3.4).

use std::cmp::Ordering;

/// A sequence number. Comparisons hold for numbers less than 2^31 apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seq(pub u32);

impl Seq {
    /// The number of bytes from `earlier` to here; none if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u32 {
        let distance = self.0.wrapping_sub(earlier.0);
        if distance < 1 << 31 { distance } else { 0 }
    }

    /// So many bytes later.
    #[must_use]
    pub fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// So many bytes earlier.
    #[must_use]
    pub fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// One byte earlier: the number of a probe that nobody accepts and everybody answers.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// The later of two.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if self < other { other } else { self }
    }

    /// The earlier of two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other < self { other } else { self }
    }
}

impl PartialOrd for Seq {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(match self.0.wrapping_sub(other.0) {
            0 => Ordering::Equal,
            1..0x8000_0000 => Ordering::Greater,
            _ => Ordering::Less,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let last = Seq(u32::MAX);
        let next = last.plus(2);
        assert_eq!(next, Seq(1));
        assert!(last < next);
        assert!(next > last);
        assert_eq!(next.since(last), 2);
        assert_eq!(last.since(next), 0);
        assert_eq!(last.max(next), next);
        assert_eq!(last.min(next), last);
        assert_eq!(Seq(0).before(), last);
    }
}
