//! UDP (RFC 768).

use super::{checksum, ip};
use crate::event::{Drop, Offload};

/// Length of the header, bytes.
pub const LEN: usize = 8;
/// Most bytes of a datagram over IPv4: an IP packet has no more.
pub const MAX_V4: usize = 65_507;

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Port of the sender; 0: no answer is wanted.
    pub source: u16,
    /// Port of the receiver.
    pub destination: u16,
    /// The checksum as it stands there; over IPv4 zero: none.
    pub checksum: u16,
}

/// Header and payload of a datagram.
///
/// # Errors
///
/// [`Drop::Malformed`] for a length that does not fit.
pub fn parse(datagram: &[u8]) -> Result<(Header, &[u8]), Drop> {
    let header = datagram.first_chunk::<LEN>().ok_or(Drop::Malformed)?;
    let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let payload = datagram.get(LEN..length).ok_or(Drop::Malformed)?;
    let header = Header {
        source: u16::from_be_bytes([s0, s1]),
        destination: u16::from_be_bytes([d0, d1]),
        checksum: u16::from_be_bytes([c0, c1]),
    };
    Ok((header, payload))
}

/// Whether the datagram's checksum is right, or none is wanted: RFC 768 lets an IPv4 sender leave it out, RFC 8200, 8.1
/// does not let an IPv6 one.
#[must_use]
pub fn fits(packet: &ip::Packet<'_>, header: Header, offload: Offload) -> bool {
    if offload.partial_checksum {
        return true;
    }
    if header.checksum == 0 {
        return packet.source.is_ipv4();
    }
    // What follows the datagram's own length is no part of it (and counts for nothing else).
    let length = packet
        .payload
        .get(4..6)
        .and_then(|length| length.first_chunk::<2>());
    let length = length.map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
    let datagram = packet.payload.get(..length).unwrap_or_default();
    checksum::fits(packet.source, packet.destination, ip::UDP, datagram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        let datagram = [0, 53, 0x80, 0, 0, 10, 1, 2, b'h', b'i', 0, 0];
        let header = Header {
            source: 53,
            destination: 0x8000,
            checksum: 0x0102,
        };
        assert_eq!(parse(&datagram), Ok((header, &b"hi"[..])));
        assert_eq!(parse(&datagram[..9]), Err(Drop::Malformed));
        assert_eq!(parse(&datagram[..7]), Err(Drop::Malformed));
        let mut short = datagram;
        short[5] = 7;
        assert_eq!(parse(&short), Err(Drop::Malformed));
        short[5] = 8;
        assert_eq!(parse(&short).unwrap().1, b"");
    }
}
