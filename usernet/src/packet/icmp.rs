//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echoes and errors. Neighbour discovery has a module of its own.

use super::checksum::{self, Sum};
use super::ip::{self, Packet};
use crate::event::Drop;

/// Length of the header of the messages known here, bytes.
pub const LEN: usize = 8;

/// Numbers of ICMP.
pub mod v4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Code of [`UNREACHABLE`]: nobody listens at the port.
    pub const PORT: u8 = 3;
    /// Code of [`UNREACHABLE`]: larger than the next link, and must not be cut.
    pub const TOO_BIG: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time to live used up, or fragments missing.
    pub const TIME_EXCEEDED: u8 = 11;
    /// A header makes no sense.
    pub const PARAMETER: u8 = 12;
}

/// Numbers of ICMPv6.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Code of [`UNREACHABLE`]: nobody listens at the port.
    pub const PORT: u8 = 4;
    /// Larger than the next link.
    pub const TOO_BIG: u8 = 2;
    /// Hop limit used up, or fragments missing.
    pub const TIME_EXCEEDED: u8 = 3;
    /// A header makes no sense.
    pub const PARAMETER: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// An echo request.
    Echo(Echo<'a>),
    /// An echo reply.
    EchoReply(Echo<'a>),
    /// A datagram could not be delivered.
    Error(Error<'a>),
    /// Something else, of this type.
    Other(u8),
}

/// An echo request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Whose: the same in request and reply.
    pub id: u16,
    /// Which one.
    pub sequence: u16,
    /// What comes back.
    pub data: &'a [u8],
}

/// An error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error<'a> {
    /// Type: the numbers of the family.
    pub kind: u8,
    /// Code: finer than the type.
    pub code: u8,
    /// The second word: for some kinds MTU or pointer.
    pub rest: u32,
    /// The beginning of the packet that is meant ([`ip::parse_quoted`]).
    pub quote: &'a [u8],
}

/// The message in a packet whose protocol is that of its family's ICMP.
///
/// # Errors
///
/// [`Drop::Malformed`], [`Drop::Checksum`], and [`Drop::Protocol`] for the other family's ICMP.
pub fn parse<'a>(packet: &Packet<'a>) -> Result<Message<'a>, Drop> {
    let six = packet.source.is_ipv6();
    let (header, rest) = packet
        .payload
        .split_first_chunk::<LEN>()
        .ok_or(Drop::Malformed)?;
    let fits = match packet.protocol {
        ip::ICMP if !six => Sum::new().bytes(packet.payload).folded() == 0xffff,
        ip::ICMPV6 if six => checksum::fits(
            packet.source,
            packet.destination,
            ip::ICMPV6,
            packet.payload,
        ),
        _ => return Err(Drop::Protocol),
    };
    if !fits {
        return Err(Drop::Checksum);
    }
    let [kind, code, _, _, a, b, c, d] = *header;
    let echo = Echo {
        id: u16::from_be_bytes([a, b]),
        sequence: u16::from_be_bytes([c, d]),
        data: rest,
    };
    let error = Error {
        kind,
        code,
        rest: u32::from_be_bytes([a, b, c, d]),
        quote: rest,
    };
    Ok(match (six, kind) {
        (false, v4::ECHO) | (true, v6::ECHO) => Message::Echo(echo),
        (false, v4::ECHO_REPLY) | (true, v6::ECHO_REPLY) => Message::EchoReply(echo),
        (false, v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER)
        | (true, v6::UNREACHABLE..=v6::PARAMETER) => Message::Error(error),
        (_, kind) => Message::Other(kind),
    })
}

/// The beginning of a message, its checksum left out.
#[must_use]
pub fn head(kind: u8, code: u8, rest: u32) -> [u8; LEN] {
    let [a, b, c, d] = rest.to_be_bytes();
    [kind, code, 0, 0, a, b, c, d]
}

/// The second word of an echo.
#[must_use]
pub fn echo_rest(id: u16, sequence: u16) -> u32 {
    u32::from(id) << 16 | u32::from(sequence)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn check(source: &str, protocol: u8, payload: &[u8], expected: Result<Message<'_>, Drop>) {
        let source: IpAddr = source.parse().unwrap();
        let packet = Packet {
            source,
            destination: source,
            protocol,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: true,
            fragment: None,
            headers: &[],
            payload,
        };
        assert_eq!(parse(&packet), expected);
    }

    #[test]
    fn what_ping_sends() {
        // ping -c1 -s8, as a packet socket showed it.
        let echo = [
            0x08, 0x00, 0xca, 0x63, 0x21, 0x8b, 0x00, 0x01, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05,
            0x06, 0x07,
        ];
        let expected = Echo {
            id: 0x218b,
            sequence: 1,
            data: &[0, 1, 2, 3, 4, 5, 6, 7],
        };
        check("10.0.2.100", ip::ICMP, &echo, Ok(Message::Echo(expected)));
        check("10.0.2.100", ip::ICMP, &echo[..7], Err(Drop::Malformed));
        check("10.0.2.100", ip::ICMP, &echo[..14], Err(Drop::Checksum));
        check("10.0.2.100", ip::ICMPV6, &echo, Err(Drop::Protocol));
        let mut wrong = echo;
        wrong[15] = 0;
        check("10.0.2.100", ip::ICMP, &wrong, Err(Drop::Checksum));
        check("fe80::1", ip::ICMP, &echo, Err(Drop::Protocol));
        check("fe80::1", ip::ICMPV6, &echo, Err(Drop::Checksum));
    }

    #[test]
    fn a_closed_port() {
        // The answer to a datagram "hello" to [::1]:9.
        let error = [
            0x01, 0x04, 0xce, 0xe0, 0x00, 0x00, 0x00, 0x00, 0x60, 0x0b, 0xe4, 0xbc, 0x00, 0x0d,
            0x11, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x95, 0x82, 0x00, 0x09, 0x00, 0x0d, 0x00, 0x20,
            0x68, 0x65, 0x6c, 0x6c, 0x6f,
        ];
        let expected = Error {
            kind: v6::UNREACHABLE,
            code: v6::PORT,
            rest: 0,
            quote: &error[8..],
        };
        check("::1", ip::ICMPV6, &error, Ok(Message::Error(expected)));
        let quoted = ip::parse_quoted(expected.quote).unwrap();
        let (header, payload) = crate::packet::udp::parse(quoted.payload).unwrap();
        assert_eq!((header.destination, payload), (9, &b"hello"[..]));
        // Loopback leaves checksums partial, as the tap does.
        let partial = checksum::pseudo_header(quoted.source, quoted.destination, ip::UDP, 13);
        assert_eq!(header.checksum, partial.folded());
    }
}
