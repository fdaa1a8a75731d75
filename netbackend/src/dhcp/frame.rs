//! Ethernet frames with DHCP for IPv4, built and taken apart: RFC 894, 791, 768.
//!
//! The checksum of UDP is not looked at: a server on the same host leaves it to the network card, and then it is
//! wrong in what we see. That of the IPv4 header is.

use std::net::Ipv4Addr;

use wire::names::MacAddr;

/// The port of servers.
pub const SERVER_PORT: u16 = 67;
/// The port of clients.
pub const CLIENT_PORT: u16 = 68;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;
/// Everything of "flags and fragment offset" but "don't fragment".
const FRAGMENTED: u16 = 0x3fff;
const TIME_TO_LIVE: u8 = 64;

/// Who sends a frame, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The sender's MAC address.
    pub source_mac: MacAddr,
    /// The receiver's MAC address.
    pub destination_mac: MacAddr,
    /// The sender's address.
    pub source: Ipv4Addr,
    /// The receiver's address.
    pub destination: Ipv4Addr,
}

/// A frame from a client to a server. None if the payload is too long for a packet.
#[must_use]
pub fn build(route: &Route, payload: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(UDP + payload.len()).ok()?;
    let length = u16::try_from(IPV4 + UDP + payload.len()).ok()?;
    let mut header = [0u8; IPV4];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[8] = TIME_TO_LIVE;
    header[9] = PROTOCOL_UDP;
    header[12..16].copy_from_slice(&route.source.octets());
    header[16..20].copy_from_slice(&route.destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(ETHERNET + usize::from(length));
    frame.extend_from_slice(&route.destination_mac.0);
    frame.extend_from_slice(&route.source_mac.0);
    frame.extend_from_slice(&ETHERTYPE_IPV4);
    frame.extend_from_slice(&header);
    frame.extend_from_slice(&CLIENT_PORT.to_be_bytes());
    frame.extend_from_slice(&SERVER_PORT.to_be_bytes());
    frame.extend_from_slice(&udp_length.to_be_bytes());
    // No checksum, which IPv4 allows.
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(payload);
    Some(frame)
}

/// The sender's MAC address and the payload of a frame, if it holds a whole datagram to a client.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<(MacAddr, &[u8])> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
    if ethernet.get(12..14)? != ETHERTYPE_IPV4 {
        return None;
    }
    let mac = MacAddr(ethernet.get(6..12)?.try_into().ok()?);
    let first = *packet.first()?;
    let header_length = usize::from(first & 0x0f) * 4;
    let header = packet
        .get(..header_length)
        .filter(|header| header.len() >= IPV4)?;
    let length = usize::from(u16_at(header, 2)?);
    let sound = first >> 4 == 4
        && header.get(9) == Some(&PROTOCOL_UDP)
        && u16_at(header, 6)? & FRAGMENTED == 0
        && checksum(header) == 0;
    // What comes after the packet is padding of the frame.
    let datagram = packet.get(header_length..length)?;
    let udp_length = usize::from(u16_at(datagram, 4)?);
    if !sound || u16_at(datagram, 2)? != CLIENT_PORT {
        return None;
    }
    Some((mac, datagram.get(UDP..udp_length)?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(bytes))
}

/// The internet checksum (RFC 1071) of a header, 0 if it includes a right one.
fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUTE: Route = Route {
        source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddr([0xff; 6]),
        source: Ipv4Addr::UNSPECIFIED,
        destination: Ipv4Addr::BROADCAST,
    };

    fn to_client(payload: &[u8]) -> Vec<u8> {
        let mut frame = build(&ROUTE, payload).expect("it is short");
        frame[ETHERNET + IPV4..][..4].copy_from_slice(&[0, 67, 0, 68]);
        frame
    }

    proptest! {
        #[test]
        fn what_is_built_can_be_parsed(payload: Vec<u8>, padding in 0usize..20) {
            let mut frame = to_client(&payload);
            frame.resize(frame.len() + padding, 0);
            prop_assert_eq!(parse(&frame), Some((ROUTE.source_mac, payload.as_slice())));
        }

        #[test]
        fn damaged_headers_are_refused_or_harmless(at in 0usize..42, value: u8, cut in 0usize..60) {
            let mut frame = to_client(b"payload");
            frame[at] = value;
            let end = cut.min(frame.len());
            let _ = parse(&frame[..end]);
            if (ETHERNET..ETHERNET + IPV4).contains(&at) && frame != to_client(b"payload") {
                prop_assert_eq!(parse(&frame), None);
            }
        }

        #[test]
        fn anything_can_be_parsed(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn a_frame_to_a_server_is_not_for_us() {
        let frame = build(&ROUTE, b"x").expect("it is short");
        assert_eq!(parse(&frame), None);
    }
}
