//! What a kernel without offloads would have done: complete checksums, and cut large frames into packets.
//!
//! For taps that do not take frames with a virtio header, or not all kinds of them (kernels older than 6.2 know no
//! trains of datagrams), and for captures, which show what a wire would. It copies; nothing here is on the way of a
//! kernel that people use, unless somebody captures.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::event::Segments;
use crate::packet::checksum::{Sum, pseudo_header};
use crate::packet::{eth, ip, tcp, udp};

/// The frames that one frame with a partial checksum stands for: Ethernet, IP without extension headers, TCP or UDP.
/// Anything else comes back as it is.
pub fn complete(headers: &[u8], payload: &[u8], segments: Segments) -> Vec<Vec<u8>> {
    let Some(shape) = Shape::of(headers) else {
        return vec![[headers, payload].concat()];
    };
    let size = match segments {
        Segments::One => payload.len(),
        Segments::Tcp(size) | Segments::Udp(size) => usize::from(size),
    };
    if payload.is_empty() {
        return vec![shape.frame(headers, payload, Place::ONLY)];
    }
    let pieces = payload.chunks(size.max(1));
    let count = pieces.len();
    pieces
        .enumerate()
        .map(|(number, piece)| {
            let place = Place {
                number,
                offset: number.saturating_mul(size),
                last: number + 1 == count,
            };
            shape.frame(headers, piece, place)
        })
        .collect()
}

/// Where the payload of such a frame begins; 0 for anything else.
#[must_use]
pub fn payload_of(frame: &[u8]) -> usize {
    let end = |shape: Shape| {
        if shape.protocol == ip::UDP {
            return Some(shape.transport + udp::LEN);
        }
        let words = frame.get(shape.transport + 12)? >> 4;
        Some(shape.transport + usize::from(words) * 4)
    };
    let end = Shape::of(frame).and_then(end).unwrap_or_default();
    if end > frame.len() { 0 } else { end }
}

/// Where the parts of a frame are.
#[derive(Clone, Copy)]
struct Shape {
    v6: bool,
    transport: usize,
    protocol: u8,
}

/// Where a packet stands in its train.
#[derive(Clone, Copy)]
struct Place {
    number: usize,
    /// Payload before it, bytes.
    offset: usize,
    last: bool,
}

impl Place {
    const ONLY: Self = Self {
        number: 0,
        offset: 0,
        last: true,
    };
}

impl Shape {
    fn of(headers: &[u8]) -> Option<Self> {
        let kind = headers.get(12..14)?;
        let v6 = kind == eth::IPV6.to_be_bytes();
        if !v6 && kind != eth::IPV4.to_be_bytes() {
            return None;
        }
        let (transport, protocol) = if v6 {
            (eth::LEN + ip::IPV6_LEN, *headers.get(20)?)
        } else {
            let words = headers.get(eth::LEN)? & 0xf;
            (eth::LEN + usize::from(words) * 4, *headers.get(23)?)
        };
        let least = match protocol {
            ip::TCP => tcp::LEN,
            ip::UDP => udp::LEN,
            _ => return None,
        };
        let long = transport >= eth::LEN + ip::IPV4_LEN && headers.len() >= transport + least;
        long.then_some(Self {
            v6,
            transport,
            protocol,
        })
    }

    /// One packet.
    fn frame(self, headers: &[u8], piece: &[u8], place: Place) -> Vec<u8> {
        let mut frame = [headers, piece].concat();
        let segment = frame.len() - self.transport;
        if self.protocol == ip::TCP {
            advance(&mut frame[self.transport..], place);
        } else {
            put(&mut frame, self.transport + 4, segment);
        }
        if self.v6 {
            put(&mut frame, eth::LEN + 4, segment);
        } else {
            put(
                &mut frame,
                eth::LEN + 2,
                segment + self.transport - eth::LEN,
            );
            let first = u16::from_be_bytes([frame[eth::LEN + 4], frame[eth::LEN + 5]]);
            let id = usize::from(first).wrapping_add(place.number) & 0xffff;
            put(&mut frame, eth::LEN + 4, id);
            put(&mut frame, eth::LEN + 10, 0);
            let sum = Sum::new().bytes(&frame[eth::LEN..self.transport]);
            put(&mut frame, eth::LEN + 10, usize::from(sum.checksum()));
        }
        self.put_checksum(&mut frame);
        frame
    }

    fn put_checksum(self, frame: &mut [u8]) {
        let at = self.transport + if self.protocol == ip::TCP { 16 } else { 6 };
        put(frame, at, 0);
        let (source, destination) = self.addresses(frame);
        let segment = &frame[self.transport..];
        let sum = pseudo_header(source, destination, self.protocol, segment.len());
        let checksum = match sum.bytes(segment).checksum() {
            // For UDP zero would mean that there is none (RFC 768); for TCP both mean the same.
            0 => 0xffff,
            checksum => checksum,
        };
        put(frame, at, usize::from(checksum));
    }

    fn addresses(self, frame: &[u8]) -> (IpAddr, IpAddr) {
        let v4 = |at: usize| {
            frame[at..]
                .first_chunk::<4>()
                .map(|a| IpAddr::V4(Ipv4Addr::from(*a)))
        };
        let v6 = |at: usize| {
            frame[at..]
                .first_chunk::<16>()
                .map(|a| IpAddr::V6(Ipv6Addr::from(*a)))
        };
        let pair = if self.v6 {
            v6(eth::LEN + 8).zip(v6(eth::LEN + 24))
        } else {
            v4(eth::LEN + 12).zip(v4(eth::LEN + 16))
        };
        pair.expect("the shape was checked against the headers' length")
    }
}

/// The TCP header of a piece: its number, and what only the first or the last piece says.
fn advance(segment: &mut [u8], place: Place) {
    let Some(number) = segment.get_mut(4..8) else {
        return;
    };
    let offset = u32::try_from(place.offset).unwrap_or_default();
    let first = u32::from_be_bytes([number[0], number[1], number[2], number[3]]);
    number.copy_from_slice(&first.wrapping_add(offset).to_be_bytes());
    let Some(flags) = segment.get_mut(13) else {
        return;
    };
    if !place.last {
        *flags &= !(tcp::Flags::FIN.0 | tcp::Flags::PSH.0);
    }
    if place.number > 0 {
        *flags &= !tcp::Flags::CWR.0;
    }
}

fn put(frame: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).unwrap_or(u16::MAX);
    if let Some(bytes) = frame.get_mut(at..at + 2) {
        bytes.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::packet::build::{self, Link};
    use crate::packet::checksum::fits;

    const LINK: Link = Link {
        source: [2; 6],
        destination: [4; 6],
    };

    fn check(source: &str, destination: &str) {
        let source: SocketAddr = source.parse().unwrap();
        let destination: SocketAddr = destination.parse().unwrap();
        let payload: Vec<u8> = (0..=255).cycle().take(3001).collect();
        let headers = build::udp(&LINK, source, destination, 64, payload.len());
        let frames = complete(headers.as_bytes(), &payload, Segments::Udp(1000));
        assert_eq!(frames.len(), 4);
        let mut whole = Vec::new();
        for frame in &frames {
            ip::parse(&frame[eth::LEN..]).unwrap();
            let transport = &frame[frame.len() - usize::from(packet_len(frame))..];
            assert!(fits(source.ip(), destination.ip(), ip::UDP, transport));
            let (_, data) = udp::parse(transport).unwrap();
            whole.extend_from_slice(data);
        }
        assert_eq!(whole, payload);
    }

    /// The length that the UDP header has.
    fn packet_len(frame: &[u8]) -> u16 {
        let at = if frame[12..14] == eth::IPV6.to_be_bytes() {
            54
        } else {
            34
        } + 4;
        u16::from_be_bytes([frame[at], frame[at + 1]])
    }

    #[test]
    fn trains_of_datagrams() {
        check("192.0.2.1:53", "192.0.2.2:5353");
        check("[2001:db8::1]:53", "[2001:db8::2]:5353");
    }

    #[test]
    fn segments_of_a_stream() {
        let (source, destination) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let header = tcp::Header {
            source: 80,
            destination: 4000,
            sequence: u32::MAX - 500,
            flags: tcp::Flags::ACK.with(tcp::Flags::FIN),
            ..tcp::Header::default()
        };
        let payload = vec![7; 2500];
        let headers = build::tcp(&LINK, source, destination, &header, payload.len());
        let frames = complete(headers.as_bytes(), &payload, Segments::Tcp(1000));
        let mut expected = u32::MAX - 500;
        for (i, frame) in frames.iter().enumerate() {
            assert!(fits(source, destination, ip::TCP, &frame[34..]));
            let (header, _, data) = tcp::parse(&frame[34..]).unwrap();
            assert_eq!(header.sequence, expected);
            assert_eq!(header.flags.has(tcp::Flags::FIN), i == 2);
            expected = expected.wrapping_add(u32::try_from(data.len()).unwrap());
        }
        assert_eq!(expected, (u32::MAX - 500).wrapping_add(2500));
    }

    /// As a guest's kernel leaves it to us: IPv4 with options, TCP with time stamps, a train.
    #[test]
    fn a_frame_of_a_guest() {
        let mut frame = [[2; 12].as_slice(), &[8, 0], &[0x46, 0, 0, 0, 0xff, 0xff]].concat();
        frame.extend([
            0x40,
            0,
            64,
            ip::TCP,
            0,
            0,
            192,
            0,
            2,
            1,
            192,
            0,
            2,
            2,
            1,
            1,
            1,
            0,
        ]);
        let flags = tcp::Flags::ACK.with(tcp::Flags::CWR).with(tcp::Flags::PSH);
        frame.extend([
            0, 80, 0, 81, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, flags.0, 1, 1, 7, 7, 0, 0,
        ]);
        frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        let end = payload_of(&frame);
        assert_eq!(end, frame.len());
        frame.extend([9; 250]);
        assert_eq!(payload_of(&frame), end);
        let (headers, payload) = frame.split_at(end);
        let frames = complete(headers, payload, Segments::Tcp(100));
        let mut seen = Vec::new();
        for frame in &frames {
            let packet = ip::parse(&frame[eth::LEN..]).unwrap();
            assert!(fits(
                packet.source,
                packet.destination,
                ip::TCP,
                packet.payload
            ));
            let (header, _, data) = tcp::parse(packet.payload).unwrap();
            assert_eq!(header.options.timestamps, Some((1, 2)));
            let has = |flag| header.flags.has(flag);
            let id = u16::from_be_bytes([frame[18], frame[19]]);
            seen.push((id, data.len(), has(tcp::Flags::CWR), has(tcp::Flags::PSH)));
        }
        let expected = [
            (0xffff, 100, true, false),
            (0, 100, false, false),
            (1, 50, false, true),
        ];
        assert_eq!(seen, expected);
        for cut in 0..end {
            assert!(payload_of(&frame[..cut]) <= cut);
        }
        assert_eq!(payload_of(&[0xff; 60]), 0);
    }
}
