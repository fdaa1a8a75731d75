//! What hosts and routers tell each other of multicast groups: IGMP (RFC 2236, RFC 3376) and MLD (RFC 2710, RFC 3810).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{self, Sum};
use super::ip::{self, Packet};
use crate::event::Drop;

/// Protocol number of IGMP.
pub const IGMP: u8 = 2;
/// Bytes of a query of IGMPv3 and of MLDv2.
pub const QUERY: (usize, usize) = (12, 28);
/// Queries go to all systems.
pub const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// What a host says of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// It listens, or still does. Of which senders is not looked at.
    Joins(IpAddr),
    /// It does not any more.
    Leaves(IpAddr),
}

/// Whether a packet is about groups.
#[must_use]
pub fn is_about(packet: &Packet<'_>) -> bool {
    match packet.protocol {
        IGMP => packet.source.is_ipv4(),
        ip::ICMPV6 => matches!(packet.payload.first(), Some(130..=132 | 143)),
        _ => false,
    }
}

/// What a packet says, told one by one; queries of others say nothing.
///
/// # Errors
///
/// [`Drop::Checksum`], [`Drop::Malformed`].
pub fn parse<'a>(packet: &Packet<'a>) -> Result<impl Iterator<Item = Membership> + use<'a>, Drop> {
    let bytes = packet.payload;
    let fits = match packet.source {
        IpAddr::V4(_) => Sum::new().bytes(bytes).folded() == 0xffff,
        IpAddr::V6(_) => checksum::fits(packet.source, packet.destination, ip::ICMPV6, bytes),
    };
    if !fits {
        return Err(Drop::Checksum);
    }
    let (head, rest) = bytes.split_first_chunk::<8>().ok_or(Drop::Malformed)?;
    let [kind, _, _, _, a, b, c, d] = *head;
    let v4 = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    let six = || {
        rest.first_chunk()
            .map(|group| Ipv6Addr::from(*group).into())
    };
    let (one, records) = match kind {
        // Reports of IGMPv1 and v2, and of MLDv1.
        0x12 | 0x16 => (Some(Membership::Joins(v4)), 0),
        0x17 => (Some(Membership::Leaves(v4)), 0),
        131 => (six().map(Membership::Joins), 0),
        132 => (six().map(Membership::Leaves), 0),
        0x22 | 143 => (None, u16::from_be_bytes([c, d])),
        _ => (None, 0),
    };
    let records = Records {
        rest,
        left: records,
        length: if packet.source.is_ipv4() { 4 } else { 16 },
    };
    let all = one.into_iter().chain(records);
    Ok(all.filter(|said| said.group().is_multicast()))
}

impl Membership {
    /// Which group.
    #[must_use]
    pub const fn group(self) -> IpAddr {
        match self {
            Self::Joins(group) | Self::Leaves(group) => group,
        }
    }
}

/// Group records of IGMPv3 and MLDv2: type, length of auxiliary data in words, number of sources, group, both.
struct Records<'a> {
    rest: &'a [u8],
    left: u16,
    /// Of an address.
    length: usize,
}

impl Iterator for Records<'_> {
    type Item = Membership;

    fn next(&mut self) -> Option<Membership> {
        self.left = self.left.checked_sub(1)?;
        let (head, rest) = self.rest.split_first_chunk::<4>()?;
        let [kind, words, high, low] = *head;
        let sources = usize::from(u16::from_be_bytes([high, low]));
        let (group, rest) = rest.split_at_checked(self.length)?;
        let group = match <[u8; 16]>::try_from(group) {
            Ok(six) => Ipv6Addr::from(six).into(),
            Err(_) => Ipv4Addr::from(<[u8; 4]>::try_from(group).ok()?).into(),
        };
        let behind = sources
            .saturating_mul(self.length)
            .saturating_add(usize::from(words).saturating_mul(4));
        self.rest = rest.get(behind..)?;
        // "Only from nobody" is leaving, in the state and as a change.
        Some(match kind {
            1 | 3 if sources == 0 => Membership::Leaves(group),
            _ => Membership::Joins(group),
        })
    }
}

/// A general query of IGMPv3: who listens to what? Answered within ten seconds.
#[must_use]
pub fn query_v4(interval: u8) -> [u8; QUERY.0] {
    let message = |c0, c1| [0x11, 100, c0, c1, 0, 0, 0, 0, 2, interval, 0, 0];
    let [c0, c1] = Sum::new().bytes(&message(0, 0)).checksum().to_be_bytes();
    message(c0, c1)
}

/// The same of MLDv2, with the option that routers shall look at it, without which it is not valid: what follows an IPv6
/// header whose next header is [`HOP_BY_HOP`].
#[must_use]
pub fn query_v6(source: Ipv6Addr, destination: Ipv6Addr, interval: u8) -> [u8; 8 + QUERY.1] {
    let mut query = [0; QUERY.1];
    let delay = 10_000_u16.to_be_bytes();
    let [kind, _, _, _, d0, d1, .., robustness, code, _, _] = &mut query;
    (*kind, [*d0, *d1]) = (130, delay);
    (*robustness, *code) = (2, interval);
    let sum = checksum::pseudo_header(source.into(), destination.into(), ip::ICMPV6, QUERY.1);
    let [c0, c1] = sum.bytes(&query).checksum().to_be_bytes();
    let [_, _, s0, s1, ..] = &mut query;
    (*s0, *s1) = (c0, c1);
    let mut whole = [0; 8 + QUERY.1];
    let (options, message) = whole.split_at_mut(8);
    // Router alert with value 0 (RFC 2711), and padding of two bytes.
    options.copy_from_slice(&[ip::ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
    message.copy_from_slice(&query);
    whole
}

/// The next header of a packet with [`query_v6`].
pub const HOP_BY_HOP: u8 = 0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet<'a>(source: &str, payload: &'a [u8]) -> Packet<'a> {
        let source: IpAddr = source.parse().unwrap();
        let destination = if source.is_ipv4() {
            "224.0.0.22"
        } else {
            "ff02::16"
        };
        Packet {
            source,
            destination: destination.parse().unwrap(),
            protocol: if source.is_ipv4() { IGMP } else { ip::ICMPV6 },
            hop_limit: 1,
            traffic_class: 0,
            dont_fragment: true,
            fragment: None,
            headers: &[],
            payload,
        }
    }

    fn v4(mut message: Vec<u8>) -> Result<Vec<Membership>, Drop> {
        let [a, b] = Sum::new().bytes(&message).checksum().to_be_bytes();
        message[2..4].copy_from_slice(&[a, b]);
        parse(&packet("192.0.2.1", &message)).map(Iterator::collect)
    }

    fn v6(mut message: Vec<u8>) -> Vec<Membership> {
        let head = packet("fe80::1", &[]);
        let sum = checksum::pseudo_header(head.source, head.destination, 58, message.len());
        let [a, b] = sum.bytes(&message).checksum().to_be_bytes();
        message[2..4].copy_from_slice(&[a, b]);
        parse(&packet("fe80::1", &message)).unwrap().collect()
    }

    fn joins(text: &str) -> Membership {
        Membership::Joins(text.parse().unwrap())
    }

    fn leaves(text: &str) -> Membership {
        Membership::Leaves(text.parse().unwrap())
    }

    #[test]
    fn reports() {
        let mdns = [224, 0, 0, 251];
        let one = |kind| [vec![kind, 0, 0, 0], mdns.to_vec()].concat();
        assert_eq!(v4(one(0x16)).unwrap(), [joins("224.0.0.251")]);
        assert_eq!(v4(one(0x12)).unwrap(), [joins("224.0.0.251")]);
        assert_eq!(v4(one(0x17)).unwrap(), [leaves("224.0.0.251")]);
        assert_eq!(v4(one(0x11)).unwrap(), []);
        // Three records: to all senders, to none any more, to one, with a word of auxiliary data.
        let mut three = vec![0x22, 0, 0, 0, 0, 0, 0, 3];
        three.extend([4, 0, 0, 0, 224, 0, 0, 251]);
        three.extend([3, 0, 0, 0, 224, 0, 0, 252]);
        three.extend([1, 1, 0, 1, 232, 0, 0, 1, 10, 0, 0, 1, 9, 9, 9, 9]);
        let expected = [
            joins("224.0.0.251"),
            leaves("224.0.0.252"),
            joins("232.0.0.1"),
        ];
        assert_eq!(v4(three.clone()).unwrap(), expected);
        // Cut off, and not a group.
        three.truncate(three.len() - 1);
        assert_eq!(v4(three).unwrap(), expected[..2]);
        assert_eq!(v4(vec![0x16, 0, 0, 0, 10, 0, 0, 1]).unwrap(), []);
        assert_eq!(v4(vec![0x16, 0, 0, 0]), Err(Drop::Malformed));
        let wrong = [0x16, 0, 1, 1, 224, 0, 0, 251];
        assert!(matches!(
            parse(&packet("10.0.0.1", &wrong)).err(),
            Some(Drop::Checksum)
        ));
    }

    #[test]
    fn reports_of_ipv6() {
        let group: Ipv6Addr = "ff02::fb".parse().unwrap();
        let one = |kind| [vec![kind, 0, 0, 0, 0, 0, 0, 0], group.octets().to_vec()].concat();
        assert_eq!(v6(one(131)), [joins("ff02::fb")]);
        assert_eq!(v6(one(132)), [leaves("ff02::fb")]);
        let mut record = vec![143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0];
        record.extend(group.octets());
        assert_eq!(v6(record), [joins("ff02::fb")]);
    }

    proptest! {
        /// Every record takes eight bytes at least, whatever it says of itself.
        #[test]
        fn any_bytes(kind in 0u8.., rest in proptest::collection::vec(any::<u8>(), 0..400)) {
            for kind in [0x16, 0x22, kind] {
                let said = v4([&[kind, 0, 0, 0][..], &rest].concat());
                prop_assert!(said.is_err() || said.unwrap().len() <= 1 + rest.len() / 8);
            }
            if rest.len() >= 4 {
                let said = v6([&[143, 0, 0, 0][..], &rest].concat());
                prop_assert!(said.len() <= rest.len() / 20);
            }
        }
    }

    #[test]
    fn queries_fit() {
        assert_eq!(Sum::new().bytes(&query_v4(125)).folded(), 0xffff);
        let (source, all) = ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
        let query = query_v6(source, all, 125);
        assert!(checksum::fits(
            source.into(),
            all.into(),
            ip::ICMPV6,
            &query[8..]
        ));
    }
}
