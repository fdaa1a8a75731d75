//! Ethernet (IEEE 802.3, type field). No tags: a tagged frame has a type that nobody here knows.

use std::net::IpAddr;

use super::Mac;
use crate::event::Drop;

/// Length of the header, bytes.
pub const LEN: usize = 14;
/// The type of IPv4.
pub const IPV4: u16 = 0x0800;
/// The type of ARP.
pub const ARP: u16 = 0x0806;
/// The type of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Everybody on the link.
pub const BROADCAST: Mac = [0xff; 6];

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What is inside ([`IPV4`], …).
    pub kind: u16,
}

impl Header {
    /// The header as the link has it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LEN] {
        let [d0, d1, d2, d3, d4, d5] = self.destination;
        let [s0, s1, s2, s3, s4, s5] = self.source;
        let [k0, k1] = self.kind.to_be_bytes();
        [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, k0, k1]
    }
}

/// Header and what it carries, padding included.
///
/// # Errors
///
/// [`Drop::Malformed`] for a frame without a whole header.
pub fn parse(frame: &[u8]) -> Result<(Header, &[u8]), Drop> {
    let (header, payload) = frame.split_first_chunk::<LEN>().ok_or(Drop::Malformed)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, k0, k1] = *header;
    let header = Header {
        destination: [d0, d1, d2, d3, d4, d5],
        source: [s0, s1, s2, s3, s4, s5],
        kind: u16::from_be_bytes([k0, k1]),
    };
    Ok((header, payload))
}

/// Whether a link-layer address names a group (or everybody), not one station.
#[must_use]
pub fn is_group(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

/// The link-layer address of a multicast or broadcast IP address (RFC 1112, 6.4; RFC 2464, 7).
#[must_use]
pub fn group(address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(address) if address.is_broadcast() => Some(BROADCAST),
        IpAddr::V4(address) if address.is_multicast() => {
            let [_, b, c, d] = address.octets();
            Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(address) if address.is_multicast() => {
            let [.., a, b, c, d] = address.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let header = Header {
            destination: [1, 2, 3, 4, 5, 6],
            source: [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
            kind: IPV6,
        };
        let mut frame = header.to_bytes().to_vec();
        frame.extend(b"x");
        assert_eq!(parse(&frame), Ok((header, &b"x"[..])));
        assert_eq!(parse(&frame[..13]), Err(Drop::Malformed));
    }

    #[test]
    fn groups() {
        let check = |address: &str, expected: Option<Mac>| {
            assert_eq!(group(address.parse().unwrap()), expected, "{address}");
        };
        check("239.255.255.250", Some([0x01, 0, 0x5e, 0x7f, 0xff, 0xfa]));
        check("255.255.255.255", Some(BROADCAST));
        check("ff02::fb", Some([0x33, 0x33, 0, 0, 0, 0xfb]));
        check("192.0.2.1", None);
        check("2001:db8::1", None);
        assert!(is_group(BROADCAST) && !is_group([2, 0, 0, 0, 0, 1]));
    }
}
