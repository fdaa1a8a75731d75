//! The Internet checksum (RFC 1071): the complement of the one's complement sum of 16-bit words.
//!
//! The sum does not depend on byte order (RFC 1071, 2.(B)), so it is taken over words of eight bytes as the machine reads
//! them and put into network order once, at the end.

use std::net::IpAddr;

/// A sum that is not finished, in the machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum(u64);

impl Sum {
    /// Nothing added yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Add bytes. Only the last ones added may be odd in number: they count as if followed by a zero.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (chunks, rest) = bytes.as_chunks::<32>();
        let mut lanes = [self.0, 0, 0, 0];
        for chunk in chunks {
            let (words, _) = chunk.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane = add(*lane, u64::from_ne_bytes(*word));
            }
        }
        let mut sum = lanes.into_iter().fold(0, add);
        let (words, rest) = rest.as_chunks::<8>();
        for word in words {
            sum = add(sum, u64::from_ne_bytes(*word));
        }
        let mut last = [0_u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Self(add(sum, u64::from_ne_bytes(last)))
    }

    /// Add a 16-bit number.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(add(self.0, u64::from(word.to_be())))
    }

    /// The sum in 16 bits, as a header has it: what a partial checksum is.
    #[must_use]
    pub fn folded(self) -> u16 {
        let sum = (self.0 >> 32).wrapping_add(self.0 & 0xffff_ffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        u16::from_be(u16::try_from(sum & 0xffff).unwrap_or_default())
    }

    /// The checksum.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// Sum with the carry brought round.
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(u64::from(carry))
}

/// The pseudo header of a transport protocol: RFC 9293, 3.1 for IPv4, RFC 8200, 8.1 for IPv6. Both add the same words.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Sum {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    address(address(Sum::new(), source), destination)
        .bytes(&length.to_be_bytes())
        .word(u16::from(protocol))
}

fn address(sum: Sum, address: IpAddr) -> Sum {
    match address {
        IpAddr::V4(address) => sum.bytes(&address.octets()),
        IpAddr::V6(address) => sum.bytes(&address.octets()),
    }
}

/// Whether a transport segment's complete checksum is right.
#[must_use]
pub fn fits(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> bool {
    pseudo_header(source, destination, protocol, segment.len())
        .bytes(segment)
        .folded()
        == 0xffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 to the letter.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_rfcs_own_example() {
        let sum = Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    proptest! {
        #[test]
        fn as_the_slow_one(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(Sum::new().bytes(&bytes).folded(), slow(&bytes));
        }

        #[test]
        fn in_pieces(
            first in proptest::collection::vec(any::<[u8; 2]>(), 0..100),
            second in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let first = first.concat();
            let whole = [first.clone(), second.clone()].concat();
            prop_assert_eq!(Sum::new().bytes(&first).bytes(&second).folded(), slow(&whole));
        }
    }
}
