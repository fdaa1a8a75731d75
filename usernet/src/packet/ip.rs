//! IPv4 (RFC 791) and IPv6 (RFC 8200), as one.
//!
//! Of IPv4 options nothing is understood and nothing kept. IPv6 extension headers are stepped over up to the transport
//! header or to a fragment header, behind which nothing can be read before the datagram is whole ([`transport`] goes on
//! from there). A fragment header of a packet that is whole (RFC 6946) counts as any other extension header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;
use crate::event::Drop;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Hop limit of what we send, and the one that proves that a neighbour's message crossed no router (RFC 4861).
pub const HOP_LIMIT: u8 = 255;
/// Length of an IPv4 header without options, bytes.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header without extensions, bytes.
pub const IPV6_LEN: usize = 40;
/// Length of an IPv6 fragment header, bytes.
pub const FRAGMENT_LEN: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What the payload is ([`TCP`], …).
    pub protocol: u8,
    /// Time to live.
    pub hop_limit: u8,
    /// Differentiated services and congestion bits.
    pub traffic_class: u8,
    /// Nobody on the way may cut it. Always so for IPv6.
    pub dont_fragment: bool,
    /// It is a part of a datagram.
    pub fragment: Option<Fragment>,
    /// All headers before the payload: the payload begins `headers.len()` behind the Ethernet header.
    pub headers: &'a [u8],
    /// What it carries, without the link's padding.
    pub payload: &'a [u8],
}

/// Which part of a datagram a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// What all fragments of one datagram have in common, beside addresses and protocol.
    pub id: u32,
    /// Where its payload belongs, bytes from the beginning of the datagram's.
    pub offset: u16,
    /// It is not the last one.
    pub more: bool,
}

/// The packet in a frame.
///
/// # Errors
///
/// [`Drop::Malformed`] and, for an IPv4 header, [`Drop::Checksum`]; [`Drop::Destination`] for a source route, which
/// would make the destination another one.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Drop> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes, Trust::Nothing),
        Some(6) => parse_v6(bytes, Trust::Nothing),
        Some(_) | None => Err(Drop::Malformed),
    }
}

/// The beginning of a packet as an ICMP error quotes it: its payload is cut off, and its checksum may be anything.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_quoted(bytes: &[u8]) -> Result<Packet<'_>, Drop> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes, Trust::Lengths),
        Some(6) => parse_v6(bytes, Trust::Lengths),
        Some(_) | None => Err(Drop::Malformed),
    }
}

/// What of a header is not to be held against the bytes at hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Nothing,
    Lengths,
}

fn parse_v4(bytes: &[u8], trust: Trust) -> Result<Packet<'_>, Drop> {
    let fixed = bytes.first_chunk::<IPV4_LEN>().ok_or(Drop::Malformed)?;
    let header_len = usize::from(fixed[0] & 0x0f).saturating_mul(4);
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let whole = match bytes.get(..total) {
        Some(whole) => whole,
        None if trust == Trust::Lengths => bytes,
        None => return Err(Drop::Malformed),
    };
    if header_len < IPV4_LEN {
        return Err(Drop::Malformed);
    }
    let (headers, payload) = whole.split_at_checked(header_len).ok_or(Drop::Malformed)?;
    if trust == Trust::Nothing && Sum::new().bytes(headers).folded() != 0xffff {
        return Err(Drop::Checksum);
    }
    let place = u16::from_be_bytes([fixed[6], fixed[7]]);
    let fragment = Fragment {
        id: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
        offset: (place & 0x1fff).saturating_mul(8),
        more: place & 0x2000 != 0,
    };
    Ok(Packet {
        source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        protocol: fixed[9],
        hop_limit: fixed[8],
        traffic_class: fixed[1],
        dont_fragment: place & 0x4000 != 0,
        fragment: (fragment.more || fragment.offset != 0).then_some(fragment),
        headers,
        payload,
    })
}

fn parse_v6(bytes: &[u8], trust: Trust) -> Result<Packet<'_>, Drop> {
    let (fixed, rest) = bytes
        .split_first_chunk::<IPV6_LEN>()
        .ok_or(Drop::Malformed)?;
    let (source, destinations) = fixed
        .get(8..)
        .and_then(|addresses| addresses.split_first_chunk::<16>())
        .ok_or(Drop::Malformed)?;
    let destination = destinations.first_chunk::<16>().ok_or(Drop::Malformed)?;
    let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let rest = match rest.get(..length) {
        Some(rest) => rest,
        None if trust == Trust::Lengths => rest,
        None => return Err(Drop::Malformed),
    };
    let transport = transport(fixed[6], rest)?;
    let headers_len = IPV6_LEN
        .saturating_add(rest.len())
        .saturating_sub(transport.payload.len());
    Ok(Packet {
        source: Ipv6Addr::from(*source).into(),
        destination: Ipv6Addr::from(*destination).into(),
        protocol: transport.protocol,
        hop_limit: fixed[7],
        traffic_class: fixed[0] << 4 | fixed[1] >> 4,
        dont_fragment: true,
        fragment: transport.fragment,
        headers: bytes.get(..headers_len).ok_or(Drop::Malformed)?,
        payload: transport.payload,
    })
}

/// What IPv6 extension headers lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport<'a> {
    /// What the payload is. Of a fragment: of the datagram's beginning.
    pub protocol: u8,
    /// It is a part of a datagram.
    pub fragment: Option<Fragment>,
    /// What follows.
    pub payload: &'a [u8],
}

/// Step over the extension headers that begin with one of kind `next`.
///
/// # Errors
///
/// [`Drop::Malformed`], or [`Drop::Destination`] for a source route that has not ended (RFC 5095).
pub fn transport(next: u8, bytes: &[u8]) -> Result<Transport<'_>, Drop> {
    let mut protocol = next;
    let mut payload = bytes;
    loop {
        // Every extension header has at least eight bytes, so that this ends.
        let (header, rest) = match protocol {
            HOP_BY_HOP | ROUTING | OPTIONS | FRAGMENT => payload
                .split_first_chunk::<FRAGMENT_LEN>()
                .ok_or(Drop::Malformed)?,
            _ => {
                return Ok(Transport {
                    protocol,
                    fragment: None,
                    payload,
                });
            }
        };
        if protocol == FRAGMENT {
            let place = u16::from_be_bytes([header[2], header[3]]);
            let fragment = Fragment {
                id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                offset: place & 0xfff8,
                more: place & 1 != 0,
            };
            if fragment.more || fragment.offset != 0 {
                return Ok(Transport {
                    protocol: header[0],
                    fragment: Some(fragment),
                    payload: rest,
                });
            }
            payload = rest;
        } else {
            if protocol == ROUTING && header[3] != 0 {
                return Err(Drop::Destination);
            }
            let further = usize::from(header[1]).saturating_mul(8);
            payload = rest.get(further..).ok_or(Drop::Malformed)?;
        }
        protocol = header[0];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `ping -c1 -s8 127.0.0.1` sent, as a packet socket showed it.
    const PING: &str = "45000024572140004001e5b57f0000017f0000010800ca63218b00010001020304050607";

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
        let len = usize::from(bytes[0] & 15) * 4;
        bytes[10..12].fill(0);
        let sum = Sum::new().bytes(&bytes[..len]).checksum();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn padding_is_not_payload() {
        let mut bytes = hex(PING);
        bytes.extend([0xaa; 10]);
        let packet = parse(&bytes).unwrap();
        assert_eq!(packet.source, "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(packet.destination, "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!((packet.protocol, packet.hop_limit), (ICMP, 64));
        assert!(packet.dont_fragment && packet.fragment.is_none());
        assert_eq!((packet.headers.len(), packet.payload.len()), (20, 16));
    }

    #[test]
    fn options_are_stepped_over() {
        let mut bytes = hex(PING);
        bytes[0] = 0x46;
        bytes.splice(20..20, [1, 1, 1, 0]);
        bytes[3] = 0x28;
        let bytes = with_checksum(bytes);
        let packet = parse(&bytes).unwrap();
        assert_eq!((packet.headers.len(), packet.payload.len()), (24, 16));
        assert_eq!(packet.payload[0], 8);
    }

    #[test]
    fn wrong_in_many_ways() {
        let good = hex(PING);
        let check = |change: &dyn Fn(&mut Vec<u8>), expected: Drop| {
            let mut bytes = good.clone();
            change(&mut bytes);
            assert_eq!(parse(&bytes), Err(expected));
        };
        check(&Vec::clear, Drop::Malformed);
        check(&|b| b.truncate(19), Drop::Malformed);
        check(&|b| b[0] = 0x44, Drop::Malformed);
        check(&|b| b[0] = 0x75, Drop::Malformed);
        check(&|b| b[0] = 0x4f, Drop::Malformed);
        check(&|b| b[3] = 0x25, Drop::Malformed);
        check(&|b| b[3] = 19, Drop::Malformed);
        check(&|b| b[8] = 63, Drop::Checksum);
        let mut quoted = good;
        quoted.truncate(28);
        quoted[10] = 0;
        assert_eq!(parse_quoted(&quoted).unwrap().payload.len(), 8);
    }

    #[test]
    fn fragments() {
        let mut bytes = hex(PING);
        bytes[6..8].copy_from_slice(&[0x20, 0x03]);
        let bytes = with_checksum(bytes);
        let expected = Fragment {
            id: 0x5721,
            offset: 24,
            more: true,
        };
        assert_eq!(parse(&bytes).unwrap().fragment, Some(expected));
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0x6a,
            0xb0,
            0,
            0,
            0,
            u8::try_from(rest.len()).unwrap(),
            next,
            64,
        ];
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn v6_extension_headers() {
        let hop_by_hop = [60, 0, 5, 2, 0, 0, 1, 0];
        let options = [44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let atomic = [17, 0, 0, 0, 0, 0, 0, 9];
        let rest = [&hop_by_hop[..], &options, &atomic, b"datagram"].concat();
        let bytes = v6(0, &rest);
        let packet = parse(&bytes).unwrap();
        assert_eq!((packet.protocol, packet.payload), (UDP, &b"datagram"[..]));
        assert_eq!((packet.headers.len(), packet.fragment), (72, None));
        assert_eq!(packet.traffic_class, 0xab);
    }

    #[test]
    fn v6_fragment() {
        let bytes = v6(44, &[17, 0, 0x05, 0xa9, 1, 2, 3, 4, 0xff]);
        let packet = parse(&bytes).unwrap();
        let expected = Fragment {
            id: 0x0102_0304,
            offset: 0x5a8,
            more: true,
        };
        assert_eq!((packet.protocol, packet.fragment), (UDP, Some(expected)));
        assert_eq!(packet.payload, [0xff]);
    }

    #[test]
    fn v6_wrong_in_many_ways() {
        assert_eq!(
            parse(&v6(0, &[17, 1, 0, 0, 0, 0, 0, 0])),
            Err(Drop::Malformed)
        );
        assert_eq!(parse(&v6(0, &[17, 0, 0])), Err(Drop::Malformed));
        assert_eq!(
            parse(&v6(43, &[17, 0, 0, 1, 0, 0, 0, 0])),
            Err(Drop::Destination)
        );
        assert_eq!(parse(&v6(17, b"cut")[..42]), Err(Drop::Malformed));
        assert!(parse_quoted(&v6(17, b"cut")[..42]).is_ok());
    }
}
