//! Headers of the frames we send: addressed, lengths and checksums in place, payload to follow.
//!
//! TCP and UDP get a partial checksum, the folded sum of the pseudo header, which is what a frame with
//! [`crate::event::Offload::partial_checksum`] has (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): the sum over the rest is taken by
//! whoever needs it, and for a guest on this machine nobody does. The length in the pseudo header and in the IP header is
//! that of the whole frame, also for a train that is to be cut ([`crate::event::Segments`]).
//!
//! IPv4: no options, identification 0 and not to be cut, except for [`fragment()`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::checksum::{self, Sum};
use super::{Mac, arp, eth, icmp, ip, length16, tcp, udp};
use crate::event::Headers;

/// The two ends of the link, as a frame has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// From whom.
    pub source: Mac,
    /// To whom.
    pub destination: Mac,
}

/// Ethernet, IP and TCP headers of a segment with `length` bytes of payload. `header.source` and `header.destination`
/// are the ports.
#[must_use]
pub fn tcp(
    link: &Link,
    source: IpAddr,
    destination: IpAddr,
    header: &tcp::Header,
    length: usize,
) -> Headers {
    let options = header.options.to_bytes();
    let options = options.as_slice();
    let segment = tcp::LEN
        .saturating_add(options.len())
        .saturating_add(length);
    let sum = checksum::pseudo_header(source, destination, ip::TCP, segment);
    let mut headers = ip(link, source, destination, ip::TCP, ip::HOP_LIMIT, segment);
    headers.push(&header.fixed_bytes(options.len(), sum.folded()));
    headers.push(options);
    headers
}

/// Ethernet, IP and UDP headers of a datagram, or a train of them, with `length` bytes of payload.
#[must_use]
pub fn udp(
    link: &Link,
    source: SocketAddr,
    destination: SocketAddr,
    hop_limit: u8,
    length: usize,
) -> Headers {
    let segment = udp::LEN.saturating_add(length);
    let sum = checksum::pseudo_header(source.ip(), destination.ip(), ip::UDP, segment);
    let mut headers = ip(
        link,
        source.ip(),
        destination.ip(),
        ip::UDP,
        hop_limit,
        segment,
    );
    headers.push(&udp_bytes(
        source.port(),
        destination.port(),
        segment,
        sum.folded(),
    ));
    headers
}

/// As [`udp()`], with the checksum complete: for receivers that read frames before their kernel has completed anything
/// (clients of DHCP), and for datagrams that are cut.
#[must_use]
pub fn udp_complete(
    link: &Link,
    source: SocketAddr,
    destination: SocketAddr,
    hop_limit: u8,
    payload: &[u8],
) -> Headers {
    let segment = udp::LEN.saturating_add(payload.len());
    let mut headers = ip(
        link,
        source.ip(),
        destination.ip(),
        ip::UDP,
        hop_limit,
        segment,
    );
    headers.push(&udp_header(source, destination, &[payload]));
    headers
}

/// A UDP header with its checksum complete over a payload in pieces, of which only the last may be odd.
#[must_use]
pub fn udp_header(
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[&[u8]],
) -> [u8; udp::LEN] {
    let length = payload
        .iter()
        .fold(udp::LEN, |sum, piece| sum.saturating_add(piece.len()));
    let bare = udp_bytes(source.port(), destination.port(), length, 0);
    let sum = checksum::pseudo_header(source.ip(), destination.ip(), ip::UDP, length).bytes(&bare);
    let sum = payload.iter().fold(sum, |sum, piece| sum.bytes(piece));
    // Zero would mean that there is none.
    let checksum = match sum.checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    udp_bytes(source.port(), destination.port(), length, checksum)
}

fn udp_bytes(source: u16, destination: u16, length: usize, checksum: u16) -> [u8; udp::LEN] {
    let [s0, s1] = source.to_be_bytes();
    let [d0, d1] = destination.to_be_bytes();
    let [l0, l1] = length16(length).to_be_bytes();
    let [c0, c1] = checksum.to_be_bytes();
    [s0, s1, d0, d1, l0, l1, c0, c1]
}

/// Ethernet, IP and ICMP headers of a message: `head` is put into the headers, with its checksum, `rest` follows.
/// `head` has the first four bytes of the message at least, an even number, and finds room ([`icmp::LEN`] or some more).
#[must_use]
pub fn icmp(
    link: &Link,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    head: &[u8],
    rest: &[u8],
) -> Headers {
    let length = head.len().saturating_add(rest.len());
    let (protocol, sum) = match destination {
        IpAddr::V4(_) => (ip::ICMP, Sum::new()),
        IpAddr::V6(_) => (
            ip::ICMPV6,
            checksum::pseudo_header(source, destination, ip::ICMPV6, length),
        ),
    };
    let mut headers = ip(link, source, destination, protocol, hop_limit, length);
    let (before, after) = head.split_at_checked(4).unwrap_or((head, &[]));
    let [kind, code] = before.first_chunk().copied().unwrap_or_default();
    let sum = sum.bytes(&[kind, code]).bytes(after).bytes(rest);
    let [c0, c1] = sum.checksum().to_be_bytes();
    headers.push(&[kind, code, c0, c1]);
    headers.push(after);
    headers
}

/// Ethernet and ARP headers; nothing follows.
#[must_use]
pub fn arp(link: &Link, message: arp::Message) -> Headers {
    let mut headers = ethernet(link, eth::ARP);
    headers.push(&message.to_bytes());
    headers
}

/// Ethernet and IP headers of a packet with `length` bytes of payload. Addresses of different families make a packet of
/// IPv6 with one of them mapped.
#[must_use]
pub fn ip(
    link: &Link,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    length: usize,
) -> Headers {
    let whole = ip::Fragment {
        id: 0,
        offset: 0,
        more: false,
    };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut headers = ethernet(link, eth::IPV4);
            headers.push(&ipv4(
                source,
                destination,
                protocol,
                hop_limit,
                length,
                0x4000,
                whole,
            ));
            headers
        }
        (source, destination) => {
            let mut headers = ethernet(link, eth::IPV6);
            headers.push(&ipv6(
                mapped(source),
                mapped(destination),
                protocol,
                hop_limit,
                length,
            ));
            headers
        }
    }
}

/// Ethernet and IP headers of a part of a datagram.
#[must_use]
pub fn fragment(
    link: &Link,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    length: usize,
    fragment: ip::Fragment,
) -> Headers {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut headers = ethernet(link, eth::IPV4);
            headers.push(&ipv4(
                source,
                destination,
                protocol,
                hop_limit,
                length,
                0,
                fragment,
            ));
            headers
        }
        (source, destination) => {
            let mut headers = ethernet(link, eth::IPV6);
            let length = length.saturating_add(ip::FRAGMENT_LEN);
            headers.push(&ipv6(
                mapped(source),
                mapped(destination),
                44,
                hop_limit,
                length,
            ));
            let [o0, o1] = ((fragment.offset & 0xfff8) | u16::from(fragment.more)).to_be_bytes();
            let [i0, i1, i2, i3] = fragment.id.to_be_bytes();
            headers.push(&[protocol, 0, o0, o1, i0, i1, i2, i3]);
            headers
        }
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn ethernet(link: &Link, kind: u16) -> Headers {
    let mut headers = Headers::new();
    let header = eth::Header {
        destination: link.destination,
        source: link.source,
        kind,
    };
    headers.push(&header.to_bytes());
    headers
}

/// An IPv4 header: RFC 791, 3.1. `flags` are those of its fourth word.
fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    hop_limit: u8,
    length: usize,
    flags: u16,
    fragment: ip::Fragment,
) -> [u8; ip::IPV4_LEN] {
    let [l0, l1] = length16(length.saturating_add(ip::IPV4_LEN)).to_be_bytes();
    let [_, _, i0, i1] = fragment.id.to_be_bytes();
    let more = if fragment.more { 0x2000 } else { 0 };
    let [f0, f1] = (flags | more | (fragment.offset / 8)).to_be_bytes();
    let [s0, s1, s2, s3] = source.octets();
    let [d0, d1, d2, d3] = destination.octets();
    let header = |c0, c1| {
        [
            0x45, 0, l0, l1, i0, i1, f0, f1, hop_limit, protocol, c0, c1, s0, s1, s2, s3, d0, d1,
            d2, d3,
        ]
    };
    let [c0, c1] = Sum::new().bytes(&header(0, 0)).checksum().to_be_bytes();
    header(c0, c1)
}

/// An IPv6 header: RFC 8200, 3.
fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    hop_limit: u8,
    length: usize,
) -> [u8; ip::IPV6_LEN] {
    let [l0, l1] = length16(length).to_be_bytes();
    let mut header = [0; ip::IPV6_LEN];
    let first = [0x60, 0, 0, 0, l0, l1, protocol, hop_limit];
    let parts = first
        .into_iter()
        .chain(source.octets())
        .chain(destination.octets());
    for (to, from) in header.iter_mut().zip(parts) {
        *to = from;
    }
    header
}

/// Ethernet, IP and ICMP headers of an error about the packet that `quote` begins with.
#[must_use]
pub fn icmp_error(
    link: &Link,
    source: IpAddr,
    destination: IpAddr,
    error: &icmp::Error<'_>,
) -> Headers {
    let head = icmp::head(error.kind, error.code, error.rest);
    icmp(link, source, destination, ip::HOP_LIMIT, &head, error.quote)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::icmp::{Echo, Message};

    const LINK: Link = Link {
        source: [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
        destination: [2, 0, 0, 0, 0, 1],
    };

    fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (a.into(), b.into())),
        ]
    }

    /// A whole frame, and the packet in it.
    fn packet<'a>(frame: &'a mut Vec<u8>, headers: &Headers, payload: &[u8]) -> ip::Packet<'a> {
        frame.extend(headers.as_bytes());
        frame.extend(payload);
        let (header, rest) = eth::parse(frame).unwrap();
        assert_eq!(
            (header.source, header.destination),
            (LINK.source, LINK.destination)
        );
        ip::parse(rest).unwrap()
    }

    /// What a network card does that is asked to complete a checksum.
    fn complete(segment: &mut [u8], at: usize) {
        let checksum = Sum::new().bytes(segment).checksum();
        segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    proptest! {
        #[test]
        fn a_partial_checksum_can_be_completed(
            (source, destination) in addresses(),
            ports: (u16, u16),
            payload: Vec<u8>,
            mss: Option<u16>,
        ) {
            let header = tcp::Header {
                source: ports.0,
                destination: ports.1,
                flags: tcp::Flags::SYN,
                options: tcp::Options { mss, ..Default::default() },
                ..Default::default()
            };
            let headers = tcp(&LINK, source, destination, &header, payload.len());
            let mut frame = Vec::new();
            let packet = packet(&mut frame, &headers, &payload);
            prop_assert_eq!((packet.source, packet.destination), (source, destination));
            let mut segment = packet.payload.to_vec();
            complete(&mut segment, 16);
            prop_assert!(checksum::fits(source, destination, ip::TCP, &segment));
            let (read, _, rest) = tcp::parse(&segment).unwrap();
            prop_assert_eq!((read, rest), (header, &payload[..]));

            let ends = (SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1));
            let headers = udp(&LINK, ends.0, ends.1, 3, payload.len());
            let mut frame = Vec::new();
            let packet = self::packet(&mut frame, &headers, &payload);
            prop_assert_eq!(packet.hop_limit, 3);
            let mut segment = packet.payload.to_vec();
            complete(&mut segment, 6);
            prop_assert!(checksum::fits(source, destination, ip::UDP, &segment));
            let (read, rest) = udp::parse(&segment).unwrap();
            prop_assert_eq!((read.source, read.destination, rest), (ports.0, ports.1, &payload[..]));
        }

        #[test]
        fn a_complete_checksum_is(
            (source, destination) in addresses(),
            ports: (u16, u16),
            payload: Vec<u8>,
        ) {
            let ends = (SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1));
            let headers = udp_complete(&LINK, ends.0, ends.1, 255, &payload);
            let mut frame = Vec::new();
            let packet = packet(&mut frame, &headers, &payload);
            prop_assert!(checksum::fits(source, destination, ip::UDP, packet.payload));
        }

        #[test]
        fn echoes((source, destination) in addresses(), id: u16, sequence: u16, data: Vec<u8>) {
            let kind = if source.is_ipv4() { icmp::v4::ECHO } else { icmp::v6::ECHO };
            let head = icmp::head(kind, 0, icmp::echo_rest(id, sequence));
            let headers = icmp(&LINK, source, destination, 64, &head, &data);
            let mut frame = Vec::new();
            let packet = packet(&mut frame, &headers, &data);
            let echo = Echo { id, sequence, data: &data };
            prop_assert_eq!(icmp::parse(&packet), Ok(Message::Echo(echo)));
        }

        #[test]
        fn fragments((source, destination) in addresses(), id: u32, place in 0_u16..8000, more: bool) {
            prop_assume!(more || place > 0);
            let id = if source.is_ipv4() { id & 0xffff } else { id };
            let part = ip::Fragment { id, offset: place * 8, more };
            let headers = fragment(&LINK, source, destination, ip::UDP, 255, 4, part);
            let mut frame = Vec::new();
            let packet = packet(&mut frame, &headers, b"part");
            prop_assert_eq!(packet.fragment, Some(part));
            prop_assert_eq!((packet.protocol, packet.payload), (ip::UDP, &b"part"[..]));
        }
    }
}
