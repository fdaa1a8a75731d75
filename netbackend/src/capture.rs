//! Captures of a container's traffic: which packets are wanted, and what addresses are called.
//!
//! A filter is written as for tcpdump, with these words:
//!
//! ```text
//!  filter = term *( "or" term )          term = factor *( ["and"] factor )
//!  factor = "not" factor | "(" filter ")" | protocol | "host" ADDRESS | "net" SUBNET | ["src" | "dst"] "port" NUMBER
//!  protocol = "arp" | "ip" | "ip6" | "tcp" | "udp" | "sctp" | "icmp" | "icmp6"
//! ```
//! It is judged here, packet by packet: [`Packet::read`] takes of a frame what words can ask for. Ports are in the first
//! fragment only, so later ones fit no port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use wire::inspection::Inspection;

/// No capture has more names.
const MOST_NAMES: usize = 4096;

/// A filter nests no deeper.
const DEEPEST: usize = 32;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// Which packets are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Those of this kind of frame.
    Frame(u16),
    /// Those of this protocol over either IP.
    Protocol(u8),
    /// Those from or to this subnet.
    Net(IpNet),
    /// Those from or to this port, or just one of them.
    Port(Option<End>, u16),
    /// Those that another filter does not want.
    Not(Box<Self>),
    /// Those that all of these want; all packets if there is none.
    All(Vec<Self>),
    /// Those that any of these wants.
    Any(Vec<Self>),
}

/// An end of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum FilterError {
    #[error("filter: expected {expected} at \"{found}\"")]
    Unexpected {
        expected: &'static str,
        found: String,
    },
    #[error("filter: more than {DEEPEST} of \"not\" and \"(\" within each other")]
    Deep,
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut words = Words {
            words: spaced
                .split_whitespace()
                .map(str::to_ascii_lowercase)
                .collect(),
            next: 0,
        };
        if words.words.is_empty() {
            return Ok(Self::All(Vec::new()));
        }
        let filter = words.any(0)?;
        match words.peek() {
            None => Ok(filter),
            Some(_) => Err(words.unexpected("and, or, or the end")),
        }
    }
}

struct Words {
    words: Vec<String>,
    next: usize,
}

impl Words {
    fn peek(&self) -> Option<&str> {
        self.words.get(self.next).map(String::as_str)
    }

    fn take(&mut self, word: &str) -> bool {
        let is = self.peek() == Some(word);
        self.next += usize::from(is);
        is
    }

    fn unexpected(&self, expected: &'static str) -> FilterError {
        let found = self.peek().unwrap_or("the end").to_owned();
        FilterError::Unexpected { expected, found }
    }

    fn any(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut terms = vec![self.all(depth)?];
        while self.take("or") {
            terms.push(self.all(depth)?);
        }
        Ok(one_or(terms, Filter::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut factors = vec![self.factor(depth)?];
        while self.peek().is_some_and(|word| word != "or" && word != ")") {
            self.take("and");
            factors.push(self.factor(depth)?);
        }
        Ok(one_or(factors, Filter::All))
    }

    fn factor(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > DEEPEST {
            return Err(FilterError::Deep);
        }
        if self.take("not") {
            return Ok(Filter::Not(Box::new(self.factor(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.any(depth + 1)?;
            if !self.take(")") {
                return Err(self.unexpected("\")\""));
            }
            return Ok(inner);
        }
        let end = if self.take("src") {
            Some(End::Source)
        } else if self.take("dst") {
            Some(End::Destination)
        } else {
            None
        };
        if end.is_some() || self.peek() == Some("port") {
            if !self.take("port") {
                return Err(self.unexpected("\"port\""));
            }
            return Ok(Filter::Port(end, self.value("a port number")?));
        }
        if self.take("host") {
            let address: IpAddr = self.value("an address")?;
            return Ok(Filter::Net(address.into()));
        }
        if self.take("net") {
            return Ok(Filter::Net(self.value("a subnet such as 10.88.0.0/16")?));
        }
        self.protocol()
    }

    fn protocol(&mut self) -> Result<Filter, FilterError> {
        let filter = match self.peek() {
            Some("arp") => Filter::Frame(ARP),
            Some("ip") => Filter::Frame(IP4),
            Some("ip6") => Filter::Frame(IP6),
            Some("tcp") => Filter::Protocol(TCP),
            Some("udp") => Filter::Protocol(UDP),
            Some("sctp") => Filter::Protocol(SCTP),
            Some("icmp") => Filter::Protocol(ICMP),
            Some("icmp6") => Filter::Protocol(ICMP6),
            _ => return Err(self.unexpected("a protocol, host, net, port, not or \"(\"")),
        };
        self.next += 1;
        Ok(filter)
    }

    fn value<T: std::str::FromStr>(&mut self, expected: &'static str) -> Result<T, FilterError> {
        let value = self.peek().and_then(|word| word.parse().ok());
        let value = value.ok_or_else(|| self.unexpected(expected))?;
        self.next += 1;
        Ok(value)
    }
}

fn one_or(mut filters: Vec<Filter>, several: fn(Vec<Filter>) -> Filter) -> Filter {
    match filters.len() {
        1 => filters.remove(0),
        _ => several(filters),
    }
}

impl Filter {
    /// Whether it wants a packet.
    #[must_use]
    pub fn wants(&self, packet: &Packet) -> bool {
        match self {
            Self::Frame(kind) => packet.frame == *kind,
            Self::Protocol(protocol) => packet.protocol == Some(*protocol),
            Self::Net(net) => packet
                .addresses
                .is_some_and(|(from, to)| net.contains(&from) || net.contains(&to)),
            Self::Port(end, port) => packet.ports.is_some_and(|(from, to)| match end {
                None => from == *port || to == *port,
                Some(End::Source) => from == *port,
                Some(End::Destination) => to == *port,
            }),
            Self::Not(filter) => !filter.wants(packet),
            Self::All(filters) => filters.iter().all(|filter| filter.wants(packet)),
            Self::Any(filters) => filters.iter().any(|filter| filter.wants(packet)),
        }
    }
}

/// Types of frames, IEEE 802.
const IP4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IP6: u16 = 0x86dd;
/// A VLAN tag, and one around others (802.1ad).
const VLANS: [u16; 2] = [0x8100, 0x88a8];

/// A VLAN tag that the kernel has taken out of a frame before it hands it over. Further ones within stay where they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Which kind of tag it is: the type of frames that it makes of them.
    pub protocol: u16,
    /// Priority, drop eligibility and the number of the VLAN.
    pub control: u16,
}

impl Tag {
    /// How long it is, in octets.
    pub const LENGTH: usize = 4;

    /// The frame as it was on the link: the tag is behind both MAC addresses. The buffer has room for it before the frame
    /// that it was taken from.
    #[must_use]
    pub fn restore(tag: Option<Self>, buffer: &mut [u8]) -> &[u8] {
        /// The octets of two MAC addresses.
        const ADDRESSES: usize = 12;
        let whole = Self::LENGTH + ADDRESSES;
        match tag {
            Some(tag) if buffer.len() >= whole => {
                buffer.copy_within(Self::LENGTH..whole, 0);
                buffer[ADDRESSES..ADDRESSES + 2].copy_from_slice(&tag.protocol.to_be_bytes());
                buffer[ADDRESSES + 2..whole].copy_from_slice(&tag.control.to_be_bytes());
                buffer
            }
            _ => buffer.get(Self::LENGTH..).unwrap_or_default(),
        }
    }
}

/// What can be asked of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packet {
    /// The type of its frame, behind VLAN tags.
    pub frame: u16,
    /// The protocol over IP.
    pub protocol: Option<u8>,
    /// Where it comes from and goes to; for ARP, who asks for whom.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The ports there.
    pub ports: Option<(u16, u16)>,
}

impl Packet {
    /// Reads an Ethernet frame, as far as it goes.
    #[must_use]
    pub fn read(frame: &[u8]) -> Self {
        let mut at = 12;
        let mut kind = word(frame, at).unwrap_or_default();
        while VLANS.contains(&kind) && at < 20 {
            at += 4;
            kind = word(frame, at).unwrap_or_default();
        }
        let rest = frame.get(at + 2..).unwrap_or_default();
        let packet = match kind {
            IP4 => ip4(rest),
            IP6 => ip6(rest),
            ARP => arp(rest),
            _ => None,
        };
        Self {
            frame: kind,
            ..packet.unwrap_or_default()
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}

fn four(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn sixteen(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// RFC 826, for addresses of four octets.
fn arp(packet: &[u8]) -> Option<Packet> {
    Some(Packet {
        addresses: Some((four(packet, 14)?, four(packet, 24)?)),
        ..Packet::default()
    })
}

fn ip4(packet: &[u8]) -> Option<Packet> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let protocol = *packet.get(9)?;
    let first = word(packet, 6)? & 0x1fff == 0;
    Some(Packet {
        frame: IP4,
        protocol: Some(protocol),
        addresses: Some((four(packet, 12)?, four(packet, 16)?)),
        ports: ports(protocol, packet.get(header..).filter(|_| first)),
    })
}

fn ip6(packet: &[u8]) -> Option<Packet> {
    let addresses = (sixteen(packet, 8)?, sixteen(packet, 24)?);
    let (mut protocol, mut at, mut first) = (*packet.get(6)?, 40, true);
    // Extension headers, RFC 8200: hop-by-hop 0, routing 43, fragment 44, destination 60.
    for _ in 0..8 {
        let length = match protocol {
            0 | 43 | 60 => packet
                .get(at + 1)
                .map(|units| (usize::from(*units) + 1) * 8),
            44 => {
                first = word(packet, at + 2).unwrap_or_default() & 0xfff8 == 0;
                Some(8)
            }
            _ => break,
        };
        let (Some(length), Some(next)) = (length, packet.get(at)) else {
            break;
        };
        (protocol, at) = (*next, at + length);
    }
    Some(Packet {
        frame: IP6,
        protocol: Some(protocol),
        addresses: Some(addresses),
        ports: ports(protocol, packet.get(at..).filter(|_| first)),
    })
}

fn ports(protocol: u8, payload: Option<&[u8]>) -> Option<(u16, u16)> {
    if ![TCP, UDP, SCTP].contains(&protocol) {
        return None;
    }
    let payload = payload?;
    Some((word(payload, 0)?, word(payload, 2)?))
}

/// What the addresses of containers and gateways are called, those of this container's networks first.
#[must_use]
pub fn names(all: &Inspection, container: &str) -> Vec<(IpAddr, String)> {
    let own = all.containers.iter().filter(|one| one.id == container);
    let networks: Vec<&String> = own
        .flat_map(|one| &one.attachments)
        .map(|on| &on.network_id)
        .collect();
    let mut near = Vec::new();
    let mut far = Vec::new();
    let mut put = |network: &String, address: IpAddr, name: String| {
        let list = if networks.contains(&network) {
            &mut near
        } else {
            &mut far
        };
        list.push((address, name));
    };
    for one in &all.containers {
        for on in &one.attachments {
            for address in &on.addresses {
                put(&on.network_id, address.addr(), one.name.clone());
            }
        }
    }
    for network in &all.networks {
        for gateway in network.subnets.iter().filter_map(|subnet| subnet.gateway) {
            put(&network.id, gateway, format!("gateway.{}", network.name));
        }
    }
    // The same address in two networks is that of the nearer one.
    let mut names: Vec<(IpAddr, String)> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (address, name) in near.into_iter().chain(far) {
        if names.len() < MOST_NAMES && seen.insert(address) {
            names.push((address, name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u16, rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend(rest);
        frame
    }

    fn tcp4() -> Vec<u8> {
        let mut ip = vec![
            0x46, 0, 0, 28, 0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        ip.extend([0; 4]);
        ip.extend([0x1f, 0x90, 0, 80]);
        frame(IP4, &ip)
    }

    fn udp6() -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
        ip.extend(Ipv6Addr::LOCALHOST.octets());
        ip.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        ip.extend([UDP, 0, 0, 0, 0, 0, 0, 0]);
        ip.extend([0, 53, 0x10, 0]);
        frame(IP6, &ip)
    }

    fn wants(filter: &str, packet: &[u8]) -> bool {
        filter
            .parse::<Filter>()
            .unwrap()
            .wants(&Packet::read(packet))
    }

    #[test]
    fn filters_tell_packets() {
        let mut arp = vec![0; 28];
        arp[14..18].copy_from_slice(&[10, 0, 0, 1]);
        arp[24..28].copy_from_slice(&[10, 0, 0, 9]);
        let tagged = [&tcp4()[..12], &[0x81, 0, 0, 7], &tcp4()[12..]].concat();
        let packets = [tcp4(), udp6(), frame(ARP, &arp), tagged];
        let check = |filter: &str, expected: [bool; 4]| {
            let wanted = packets.each_ref().map(|packet| wants(filter, packet));
            assert_eq!(wanted, expected, "{filter}");
        };
        check("", [true; 4]);
        check("ip", [true, false, false, true]);
        check("tcp and port 80", [true, false, false, true]);
        check("tcp port 8080", [true, false, false, true]);
        check("dst port 8080", [false; 4]);
        check("src port 53 or dst port 80", [true, true, false, true]);
        check("host 10.0.0.1", [true, false, true, true]);
        check("net fd00::/8", [false, true, false, false]);
        check("not arp and not (udp or tcp)", [false; 4]);
        check("not arp", [true, true, false, true]);
        check("ARP OR udp", [false, true, true, false]);
        check("icmp or icmp6 or sctp", [false; 4]);
    }

    #[test]
    fn tags_go_back_to_where_they_were() {
        let plain = tcp4();
        let tag = |protocol, control| Tag { protocol, control };
        let restored = |tag, frame: &[u8]| {
            let mut buffer = [&[0xee; Tag::LENGTH], frame].concat();
            Tag::restore(tag, &mut buffer).to_vec()
        };
        assert_eq!(restored(None, &plain), plain);
        let mut addressed = plain.clone();
        addressed[..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let once = restored(Some(tag(0x8100, 0xa064)), &addressed);
        let expected = [&addressed[..12], &[0x81, 0, 0xa0, 100], &addressed[12..]].concat();
        assert_eq!(once, expected);
        let twice = restored(Some(tag(0x88a8, 7)), &once);
        let expected = [&addressed[..12], &[0x88, 0xa8, 0, 7], &once[12..]].concat();
        assert_eq!(twice, expected);
        // The number 0 is one, too: it says that the frame has a priority only.
        assert_eq!(
            restored(Some(tag(0x8100, 0)), &plain).len(),
            plain.len() + 4
        );
        for frame in [&once, &twice] {
            assert_eq!(Packet::read(frame), Packet::read(&plain));
        }
        // A torn frame has no place for it.
        for length in 0..12 {
            assert_eq!(
                restored(Some(tag(0x8100, 7)), &plain[..length]),
                plain[..length]
            );
        }
        assert_eq!(
            restored(Some(tag(0x8100, 7)), &plain[..12])[12..],
            [0x81, 0, 0, 7]
        );
        assert!(Tag::restore(None, &mut []).is_empty());
    }

    #[test]
    fn what_is_no_filter_is_said() {
        let check = |filter: &str, expected: &str| {
            assert_eq!(filter.parse::<Filter>().unwrap_err().to_string(), expected);
        };
        check("port http", "filter: expected a port number at \"http\"");
        check("host", "filter: expected an address at \"the end\"");
        check("(tcp", "filter: expected \")\" at \"the end\"");
        check("tcp )", "filter: expected and, or, or the end at \")\"");
        check(
            "quic",
            "filter: expected a protocol, host, net, port, not or \"(\" at \"quic\"",
        );
        check("src tcp", "filter: expected \"port\" at \"tcp\"");
        let deep = "(".repeat(100_000);
        assert_eq!(deep.parse::<Filter>(), Err(FilterError::Deep));
    }

    #[test]
    fn torn_packets_are_read_as_far_as_they_go() {
        for whole in [tcp4(), udp6()] {
            for length in 0..whole.len() {
                let torn = Packet::read(&whole[..length]);
                assert!(torn.ports.is_none() || length == whole.len(), "{length}");
            }
            assert!(Packet::read(&whole).ports.is_some());
        }
        let mut later = tcp4();
        later[14 + 7] = 1;
        assert_eq!(Packet::read(&later).ports, None, "a later fragment");
    }
}
