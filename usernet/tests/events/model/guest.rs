//! Frames that a guest might send: well-formed ones with fields of its choice, and what it knows of its connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use usernet::event::{Headers, Offload, Segments};
use usernet::packet::arp::{self, Operation};
use usernet::packet::build::{self, Link};
use usernet::packet::checksum::{Sum, pseudo_header};
use usernet::packet::tcp::{Flags, Header, Options};
use usernet::packet::{eth, icmp, ip};

use super::choices::Choices;

pub(crate) const OURS: [u8; 6] = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];
const LINK: Link = Link {
    source: [2, 0, 0, 0, 0, 1],
    destination: OURS,
};

/// What was heard of a connection: where the next segment fits.
#[derive(Debug, Default, Clone, Copy)]
struct Heard {
    /// What the forwarder expects.
    expects: u32,
    /// The number behind the last one it sent.
    sent: u32,
}

/// A frame, and what the kernel says of it.
pub(crate) type Frame = (Vec<u8>, Offload);

#[derive(Debug, Default)]
pub(crate) struct Guest {
    heard: BTreeMap<(SocketAddr, SocketAddr), Heard>,
}

const PARTIAL: Offload = Offload {
    partial_checksum: true,
    segments: Segments::One,
};

impl Guest {
    /// The forwarder said this.
    pub(crate) fn hears(&mut self, packet: &ip::Packet<'_>, header: &Header, payload: usize) {
        let us = SocketAddr::new(packet.destination, header.destination);
        let them = SocketAddr::new(packet.source, header.source);
        if self.heard.len() > 200 {
            self.heard.pop_first();
        }
        let heard = self.heard.entry((us, them)).or_default();
        let flags = header.flags;
        let len = payload + usize::from(flags.has(Flags::SYN)) + usize::from(flags.has(Flags::FIN));
        let len = u32::try_from(len).expect("a packet");
        heard.sent = header.sequence.wrapping_add(len);
        if flags.has(Flags::ACK) {
            heard.expects = header.acknowledgement;
        }
    }

    /// The next frame.
    pub(crate) fn frame(&mut self, choices: &mut Choices<'_>) -> Frame {
        match choices.below(16) {
            0..=4 => self.reply(choices),
            5..=7 => tcp(choices),
            8..=9 => udp(choices),
            10 => echo(choices),
            11 => fragment(choices),
            12 => neighbour(choices),
            13 => dhcp(choices),
            14 => extended(choices),
            _ => raw(choices),
        }
    }

    /// A segment of a connection of which something was heard.
    fn reply(&mut self, choices: &mut Choices<'_>) -> Frame {
        let known = choices.below(self.heard.len());
        let Some((&(us, them), heard)) = self.heard.iter().nth(known) else {
            return tcp(choices);
        };
        let flags = choices.pick(&[
            Flags::ACK,
            Flags::ACK,
            Flags::ACK | Flags::PSH,
            Flags::ACK | Flags::FIN,
            Flags::RST,
            Flags::RST | Flags::ACK,
            Flags::SYN | Flags::ACK,
            Flags::SYN,
            Flags(0),
            Flags(0xff),
        ]);
        let seq = heard.expects.wrapping_add(near(choices));
        let ack = heard.sent.wrapping_add(near(choices));
        let length = choices.size(60_000);
        segment(choices, (us, them), (flags, seq, ack), length)
    }
}

/// Mostly zero, sometimes a little, sometimes far off.
fn near(choices: &mut Choices<'_>) -> u32 {
    match choices.byte() {
        0..160 => 0,
        offset @ 160..190 => u32::from(offset - 159),
        offset @ 190..220 => 0u32.wrapping_sub(u32::from(offset - 189)),
        offset @ 220..240 => u32::from(offset - 219) * 1460,
        offset @ 240..250 => 0u32.wrapping_sub(u32::from(offset - 239) * 5000),
        250..253 => 1 << 31,
        _ => u32::from(choices.word()) << 16,
    }
}

/// One of few pairs of endpoints, so that flows meet.
fn ends(choices: &mut Choices<'_>) -> (SocketAddr, SocketAddr) {
    let kinds = choices.byte();
    let six = kinds & 1 != 0;
    let own: IpAddr = if six {
        "2001:db8::64".parse().expect("an address")
    } else {
        Ipv4Addr::new(10, 0, 2, 100).into()
    };
    let guest = if kinds & 0xe0 == 0xe0 {
        choices.address(six)
    } else {
        own
    };
    let far = choices.address(six);
    let port = 40_000 + u16::from(kinds >> 1 & 7);
    let ports = [80, 80, 53, 853, 67, 547, 546, 0, 7, 5353];
    let to = choices.pick(&ports);
    (SocketAddr::new(guest, port), SocketAddr::new(far, to))
}

fn tcp(choices: &mut Choices<'_>) -> Frame {
    let ends = ends(choices);
    let flags = choices.pick(&[Flags::SYN, Flags::SYN, Flags::ACK, Flags::RST, Flags(0xc2)]);
    let seq = u32::from(choices.word()) << 16;
    let length = if choices.once_in(8) {
        choices.size(1460)
    } else {
        0
    };
    segment(choices, ends, (flags, seq, 0), length)
}

fn segment(
    choices: &mut Choices<'_>,
    (from, to): (SocketAddr, SocketAddr),
    (flags, sequence, acknowledgement): (Flags, u32, u32),
    length: usize,
) -> Frame {
    let options = if flags.has(Flags::SYN) {
        Options {
            mss: choices.pick(&[
                Some(1460),
                None,
                Some(0),
                Some(1),
                Some(65_495),
                Some(u16::MAX),
            ]),
            window_scale: choices.pick(&[Some(7), None, Some(0), Some(14), Some(255)]),
            sack_permitted: choices.once_in(2),
            ..Options::default()
        }
    } else {
        Options::default()
    };
    let header = Header {
        source: from.port(),
        destination: to.port(),
        sequence,
        acknowledgement,
        flags,
        window: choices.pick(&[u16::MAX, 1000, 0, 1, 64, 1460]),
        options,
    };
    let headers = build::tcp(&LINK, from.ip(), to.ip(), &header, length);
    let segments = if length > 1460 {
        Segments::Tcp(1460)
    } else {
        Segments::One
    };
    filled(&headers, length, segments)
}

/// So many bytes behind these headers.
fn filled(headers: &Headers, length: usize, segments: Segments) -> Frame {
    let mut frame = headers.as_bytes().to_vec();
    frame.resize(frame.len() + length, 0x55);
    let offload = Offload {
        partial_checksum: true,
        segments,
    };
    (frame, offload)
}

fn udp(choices: &mut Choices<'_>) -> Frame {
    let (from, to) = ends(choices);
    let length = choices.size(60_000);
    let ttl = choices.pick(&[64, 64, 1, 0, 255]);
    let headers = build::udp(&LINK, from, to, ttl, length);
    let segments = choices.pick(&[
        Segments::One,
        Segments::One,
        Segments::Udp(100),
        Segments::Udp(0),
        Segments::Udp(1),
        Segments::Tcp(9),
    ]);
    filled(&headers, length, segments)
}

fn echo(choices: &mut Choices<'_>) -> Frame {
    let (from, to) = ends(choices);
    let request = if from.is_ipv4() {
        icmp::v4::ECHO
    } else {
        icmp::v6::ECHO
    };
    let kind = choices.pick(&[request, request, request, 0, 3, 11, 129, 1, 2]);
    let rest = icmp::echo_rest(choices.word() % 8, choices.word());
    let head = icmp::head(kind, 0, rest);
    let data = vec![0x55; choices.size(60_000)];
    let headers = build::icmp(&LINK, from.ip(), to.ip(), 64, &head, &data);
    let mut frame = headers.as_bytes().to_vec();
    frame.extend(data);
    (frame, Offload::default())
}

fn fragment(choices: &mut Choices<'_>) -> Frame {
    let (from, to) = ends(choices);
    let length = choices.size(9000);
    let place = ip::Fragment {
        id: u32::from(choices.byte() % 4),
        offset: u16::from(choices.byte()) * choices.pick(&[8, 184, 256]),
        more: choices.once_in(2),
    };
    let protocols = if from.is_ipv4() {
        [ip::UDP, ip::UDP, ip::ICMP, ip::TCP]
    } else {
        [ip::UDP, ip::UDP, ip::ICMPV6, 44]
    };
    let protocol = choices.pick(&protocols);
    let headers = build::fragment(&LINK, from.ip(), to.ip(), protocol, 64, length, place);
    let mut frame = headers.as_bytes().to_vec();
    let payload = frame.len();
    frame.resize(payload + length, 0);
    // A UDP header without a checksum, for what becomes whole.
    let head = [0x9c, 0x40, 0, 80, 0, choices.byte(), 0, 0];
    let fits = head.len().min(length);
    frame[payload..payload + fits].copy_from_slice(&head[..fits]);
    (frame, Offload::default())
}

/// ARP, or neighbour discovery.
fn neighbour(choices: &mut Choices<'_>) -> Frame {
    if choices.once_in(2) {
        return discovery(choices);
    }
    let four = |choices: &mut Choices<'_>| match choices.address(false) {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let message = arp::Message {
        operation: choices.pick(&[Operation::Request, Operation::Reply]),
        sender_mac: LINK.source,
        sender: four(choices),
        target_mac: [0; 6],
        target: four(choices),
    };
    let frame = build::arp(&LINK, message).as_bytes().to_vec();
    (frame, Offload::default())
}

fn discovery(choices: &mut Choices<'_>) -> Frame {
    let (source, destination) = (choices.address(true), choices.address(true));
    let mut message = vec![
        choices.pick(&[135, 133, 136, 134, 143, 128]),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    if matches!(message[0], 135 | 136)
        && let IpAddr::V6(target) = choices.address(true)
    {
        message.extend(target.octets());
    }
    let most = choices.size(60);
    message.extend(choices.bytes(most));
    let (head, rest) = message.split_at(8);
    let hops = choices.pick(&[255, 255, 64]);
    let headers = build::icmp(&LINK, source, destination, hops, head, rest);
    let mut frame = headers.as_bytes().to_vec();
    frame.extend(rest);
    (frame, Offload::default())
}

/// A request of DHCP or DHCPv6: the parts that must fit, and options of the guest's choice.
fn dhcp(choices: &mut Choices<'_>) -> Frame {
    let six = choices.once_in(2);
    let (from, to, mut payload) = if six {
        let kind = choices.pick(&[1, 3, 5, 6, 4, 8, 11, 2]);
        ("[fe80::64]:546", "[ff02::1:2]:547", vec![kind, 1, 2, 3])
    } else {
        let mut bootp = vec![0; 240];
        bootp[..4].copy_from_slice(&[choices.pick(&[1, 2]), 1, 6, 0]);
        bootp[28..34].copy_from_slice(&LINK.source);
        bootp[236..].copy_from_slice(&[99, 130, 83, 99]);
        bootp.extend([53, 1, choices.pick(&[1, 3, 8, 4, 7])]);
        ("0.0.0.0:68", "255.255.255.255:67", bootp)
    };
    let most = choices.size(300);
    payload.extend(choices.bytes(most));
    let (from, to) = (from.parse().expect("one"), to.parse().expect("one"));
    let headers = build::udp_complete(&LINK, from, to, 64, &payload);
    let mut frame = headers.as_bytes().to_vec();
    frame.extend(payload);
    (frame, Offload::default())
}

/// Something behind extension headers of IPv6.
fn extended(choices: &mut Choices<'_>) -> Frame {
    let (from, to) = (choices.address(true), choices.address(true));
    let mut payload = Vec::new();
    let count = choices.below(5);
    let kinds: Vec<u8> = (0..count).map(|_| choices.pick(&[0, 43, 60, 44])).collect();
    let last = choices.pick(&[ip::UDP, ip::TCP, ip::ICMPV6, 59]);
    for place in 0..count {
        let next = kinds.get(place + 1).copied().unwrap_or(last);
        payload.extend([next, choices.pick(&[0, 0, 0, 1, 255])]);
        payload.extend([choices.byte() & 0x81, choices.byte() & 1, 0, 0, 0, 0]);
    }
    payload.extend([0x9c, 0x40, 0, 80, 0, 8, 0, 0]);
    let most = choices.size(40);
    payload.extend(choices.bytes(most));
    let first = kinds.first().copied().unwrap_or(last);
    let headers = build::ip(&LINK, from, to, first, 64, payload.len());
    let mut frame = headers.as_bytes().to_vec();
    frame.extend(payload);
    (frame, PARTIAL)
}

/// Bytes as they are, perhaps behind an Ethernet header.
fn raw(choices: &mut Choices<'_>) -> Frame {
    let kinds: [&[u8]; 5] = [&[8, 0], &[0x86, 0xdd], &[8, 6], &[], &[0x81, 0]];
    let kind = choices.pick(&kinds);
    let mut frame = Vec::new();
    if !kind.is_empty() {
        frame.extend(OURS);
        frame.extend(LINK.source);
        frame.extend(kind);
    }
    let most = choices.size(200);
    frame.extend(choices.bytes(most));
    mend(&mut frame);
    (frame, PARTIAL)
}

/// Make the checksums fit that are in the way of a fuzzer: those of IPv4 and of ICMP.
pub(crate) fn mend(frame: &mut [u8]) {
    let Ok((header, rest)) = eth::parse(frame) else {
        return;
    };
    let start = frame.len() - rest.len();
    let six = header.kind == eth::IPV6;
    let packet = &mut frame[start..];
    if !six {
        let Some(first) = packet.first() else { return };
        let len = usize::from(first & 15) * 4;
        if packet.len() < len || len < ip::IPV4_LEN {
            return;
        }
        packet[10..12].fill(0);
        let sum = Sum::new().bytes(&packet[..len]).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let Ok(parsed) = ip::parse(packet) else {
        return;
    };
    let (source, destination) = (parsed.source, parsed.destination);
    let (at, len) = (parsed.headers.len(), parsed.payload.len());
    if len < 8 || !matches!(parsed.protocol, ip::ICMP | ip::ICMPV6) || parsed.fragment.is_some() {
        return;
    }
    let message = &mut packet[at..at + len];
    message[2..4].fill(0);
    let sum = if six {
        pseudo_header(source, destination, ip::ICMPV6, len)
    } else {
        Sum::new()
    };
    let sum = sum.bytes(message).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}
