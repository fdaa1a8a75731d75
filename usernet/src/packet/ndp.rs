//! Neighbour discovery (RFC 4861), as far as a router that knows every answer needs it.

use std::net::{IpAddr, Ipv6Addr};

use super::{Mac, checksum, ip};
use crate::event::Drop;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Every node on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A message of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Who has this address?
    NeighbourSolicitation {
        /// The address.
        target: Ipv6Addr,
    },
    /// Who is a router?
    RouterSolicitation,
    /// Something that concerns nobody here.
    Other,
}

/// The message in a packet whose protocol is [`ip::ICMPV6`].
///
/// # Errors
///
/// What RFC 4861, 6.1.1 and 7.1.1 say is to be discarded.
pub fn parse(packet: &ip::Packet<'_>) -> Result<Message, Drop> {
    let (header, rest) = packet
        .payload
        .split_first_chunk::<4>()
        .ok_or(Drop::Malformed)?;
    let [kind, code, _, _] = *header;
    if !(ROUTER_SOLICITATION..=NEIGHBOUR_ADVERTISEMENT).contains(&kind) {
        return Ok(Message::Other);
    }
    if packet.hop_limit != ip::HOP_LIMIT || code != 0 {
        return Err(Drop::Malformed);
    }
    if !checksum::fits(
        packet.source,
        packet.destination,
        ip::ICMPV6,
        packet.payload,
    ) {
        return Err(Drop::Checksum);
    }
    let (_, rest) = rest.split_first_chunk::<4>().ok_or(Drop::Malformed)?;
    match kind {
        ROUTER_SOLICITATION => {
            check_options(rest)?;
            Ok(Message::RouterSolicitation)
        }
        NEIGHBOUR_SOLICITATION => {
            let (target, options) = rest.split_first_chunk::<16>().ok_or(Drop::Malformed)?;
            check_options(options)?;
            let target = Ipv6Addr::from(*target);
            if target.is_multicast() {
                return Err(Drop::Malformed);
            }
            Ok(Message::NeighbourSolicitation { target })
        }
        _ => Ok(Message::Other),
    }
}

/// Every option has a length, and not more than there is.
fn check_options(mut options: &[u8]) -> Result<(), Drop> {
    while !options.is_empty() {
        let length = options.get(1).copied().ok_or(Drop::Malformed)?;
        if length == 0 {
            return Err(Drop::Malformed);
        }
        options = options
            .get(usize::from(length).saturating_mul(8)..)
            .ok_or(Drop::Malformed)?;
    }
    Ok(())
}

/// "This address is at that link-layer address", said by a router, to replace what was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourAdvertisement {
    /// The address.
    pub target: Ipv6Addr,
    /// Where it is.
    pub mac: Mac,
    /// It answers a solicitation.
    pub solicited: bool,
}

impl NeighbourAdvertisement {
    /// The message, its checksum left out.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let flags = if self.solicited { 0xe0 } else { 0xa0 };
        let mut bytes = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
        bytes.extend(self.target.octets());
        bytes.extend([2, 1]);
        bytes.extend(self.mac);
        bytes
    }
}

/// "I am a router."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterAdvertisement<'a> {
    /// Our link-layer address.
    pub mac: Mac,
    /// The /64 to make addresses of; none: no prefix is told.
    pub prefix: Option<Ipv6Addr>,
    /// Bytes of an IP packet; none: as the link has it.
    pub mtu: Option<u32>,
    /// Name servers (RFC 8106).
    pub dns: &'a [IpAddr],
    /// Search domains (RFC 8106).
    pub search: &'a [String],
}

/// A time without end, for prefixes and name servers, seconds.
const FOREVER: [u8; 4] = [0xff; 4];

impl RouterAdvertisement<'_> {
    /// The message, its checksum left out.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Hop limit 255; addresses also by DHCPv6 (M); router for 65535 s; times for neighbours left open.
        let mut bytes = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 255, 0x80, 0xff, 0xff];
        bytes.extend([0; 8]);
        bytes.extend([1, 1]);
        bytes.extend(self.mac);
        if let Some(mtu) = self.mtu {
            bytes.extend([5, 1, 0, 0]);
            bytes.extend(mtu.to_be_bytes());
        }
        if let Some(prefix) = self.prefix {
            // On the link (L) and to make addresses of (A).
            bytes.extend([3, 4, 64, 0xc0]);
            bytes.extend(FOREVER);
            bytes.extend(FOREVER);
            bytes.extend([0; 4]);
            let [head @ .., _, _, _, _] = prefix.segments();
            for segment in head {
                bytes.extend(segment.to_be_bytes());
            }
            bytes.extend([0; 8]);
        }
        self.push_dns(&mut bytes);
        bytes
    }

    fn push_dns(&self, bytes: &mut Vec<u8>) {
        let mut servers = Vec::new();
        for server in self.dns {
            if let IpAddr::V6(server) = server {
                servers.extend(server.octets());
            }
        }
        push_lifetime_option(bytes, 25, &servers);
        let mut domains = Vec::new();
        for domain in self.search {
            domains.extend(domain_name(domain).unwrap_or_default());
        }
        push_lifetime_option(bytes, 31, &domains);
    }
}

/// An option with an endless lifetime, padded to eight bytes. What has no room in an option is not told at all.
fn push_lifetime_option(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let padded = value.len().next_multiple_of(8);
    let Ok(length) = u8::try_from((padded / 8).saturating_add(1)) else {
        return;
    };
    if value.is_empty() {
        return;
    }
    bytes.extend([kind, length, 0, 0]);
    bytes.extend(FOREVER);
    bytes.extend(value);
    bytes.extend(std::iter::repeat_n(0, padded.saturating_sub(value.len())));
}

/// A domain name in the form of DNS messages (RFC 1035, 3.1); none for a text that is no name.
#[must_use]
pub fn domain_name(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for label in text.strip_suffix('.').unwrap_or(text).split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if !(1..=63).contains(&length) {
            return None;
        }
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= 255).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::build;

    fn check(message: &[u8], hop_limit: u8, expected: Result<Message, Drop>) {
        let source: IpAddr = "fe80::2".parse().unwrap();
        let destination: IpAddr = "ff02::1:ff00:1".parse().unwrap();
        let link = build::Link {
            source: [2; 6],
            destination: [3; 6],
        };
        let headers = build::icmp(&link, source, destination, hop_limit, message, &[]);
        let packet = ip::parse(&headers.as_bytes()[14..]).unwrap();
        assert_eq!(parse(&packet), expected);
    }

    #[test]
    fn solicitations() {
        let target: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        let expected = Ok(Message::NeighbourSolicitation { target });
        check(&message, 255, expected);
        check(&message, 254, Err(Drop::Malformed));
        message.extend([1, 1, 2, 2, 2, 2, 2, 2]);
        check(&message, 255, expected);
        message[25] = 0;
        check(&message, 255, Err(Drop::Malformed));
        message[25] = 2;
        check(&message, 255, Err(Drop::Malformed));
        message[25] = 1;
        message[8] = 0xff;
        check(&message, 255, Err(Drop::Malformed));
        check(
            &[133, 0, 0, 0, 0, 0, 0, 0],
            255,
            Ok(Message::RouterSolicitation),
        );
        check(&[133, 1, 0, 0, 0, 0, 0, 0], 255, Err(Drop::Malformed));
        check(&[133, 0, 0, 0, 0, 0, 0, 0], 1, Err(Drop::Malformed));
        check(&[128, 0, 0, 0, 0, 0, 0, 0], 1, Ok(Message::Other));
    }

    #[test]
    fn names() {
        assert_eq!(domain_name("a.bc.").unwrap(), b"\x01a\x02bc\0");
        assert_eq!(domain_name("a..b"), None);
        assert_eq!(domain_name(""), None);
        assert_eq!(domain_name(&"x".repeat(64)), None);
    }

    #[test]
    fn a_router_advertisement_has_whole_options() {
        let advertisement = RouterAdvertisement {
            mac: [2, 0, 0, 0, 0, 1],
            prefix: Some("2001:db8:1:2:3::1".parse().unwrap()),
            mtu: Some(65520),
            dns: &[
                "2001:db8::53".parse().unwrap(),
                "192.0.2.53".parse().unwrap(),
            ],
            search: &["example.org".to_owned()],
        };
        let bytes = advertisement.to_bytes();
        assert_eq!(bytes.len(), 16 + 8 + 8 + 32 + 24 + 24);
        assert_eq!(check_options(&bytes[16..]), Ok(()));
        let prefix: Ipv6Addr = "2001:db8:1:2::".parse().unwrap();
        assert_eq!(bytes[48..64], prefix.octets());
    }
}
