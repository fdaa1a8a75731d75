//! The types of values: names, sizes, and the bytes they have in registers and sets.

use std::net::{Ipv4Addr, Ipv6Addr};

use nftables::expr::{Expression, NamedExpression, Prefix};
use nftables::schema::SetType;

use super::error::{Reason, describe};

/// The type of a value in a set, a map or a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ipv6_addr`
    Ipv6Addr,
    /// `ether_addr`
    EtherAddr,
    /// `inet_proto`: number of a transport protocol.
    InetProto,
    /// `inet_service`: a port.
    InetService,
    /// `mark`: of a packet or a connection.
    Mark,
    /// `ifname`
    Ifname,
    /// `nf_proto`: family of a packet.
    NfProto,
    /// `iface_index`
    IfIndex,
    /// `ct_state`, a bit mask.
    CtState,
    /// `ct_status`, a bit mask.
    CtStatus,
    /// `ct_dir`
    CtDirection,
    /// `fib_addrtype`
    FibAddressType,
}

/// What the kernel and nft say about a type.
pub(super) struct Facts {
    /// The name in a script.
    pub(super) name: &'static str,
    /// `enum datatypes` of nft's datatype.h; the kernel stores it for nft.
    pub(super) id: u32,
    /// Bytes, before padding.
    pub(super) len: usize,
    /// nft's `enum byteorder`: 0 when it makes no difference, 1 host, 2 big endian.
    pub(super) order: u32,
    /// The names of values.
    symbols: &'static [(&'static str, u32)],
}

const fn facts(
    name: &'static str,
    id: u32,
    len: usize,
    order: u32,
    symbols: &'static [(&'static str, u32)],
) -> Facts {
    Facts {
        name,
        id,
        len,
        order,
        symbols,
    }
}

/// The first spelling of a number is the one that nft prints.
const PROTOCOLS: &[(&str, u32)] = &[
    ("tcp", 6),
    ("udp", 17),
    ("sctp", 132),
    ("icmp", 1),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("dccp", 33),
    ("udplite", 136),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
];
const FAMILIES: &[(&str, u32)] = &[("ipv4", 2), ("ipv6", 10)];
/// `NF_CT_STATE_*`.
const CT_STATES: &[(&str, u32)] = &[
    ("invalid", 1),
    ("established", 2),
    ("related", 4),
    ("new", 8),
    ("untracked", 64),
];
/// `IPS_*` of nf_conntrack_common.h.
const CT_STATUSES: &[(&str, u32)] = &[
    ("expected", 1),
    ("seen-reply", 2),
    ("assured", 4),
    ("confirmed", 8),
    ("snat", 16),
    ("dnat", 32),
    ("dying", 512),
];
const CT_DIRECTIONS: &[(&str, u32)] = &[("original", 0), ("reply", 1)];
/// `RTN_*` of rtnetlink.h.
const ADDRESS_TYPES: &[(&str, u32)] = &[
    ("unicast", 1),
    ("local", 2),
    ("broadcast", 3),
    ("anycast", 4),
    ("multicast", 5),
    ("blackhole", 6),
    ("unreachable", 7),
    ("prohibit", 8),
];

impl DataType {
    pub(super) fn facts(self) -> Facts {
        match self {
            Self::Ipv4Addr => facts("ipv4_addr", 7, 4, 2, &[]),
            Self::Ipv6Addr => facts("ipv6_addr", 8, 16, 2, &[]),
            Self::EtherAddr => facts("ether_addr", 9, 6, 2, &[]),
            Self::InetProto => facts("inet_proto", 12, 1, 0, PROTOCOLS),
            Self::InetService => facts("inet_service", 13, 2, 2, &[]),
            Self::Mark => facts("mark", 19, 4, 1, &[]),
            Self::Ifname => facts("ifname", 41, 16, 1, &[]),
            Self::NfProto => facts("nf_proto", 2, 1, 0, FAMILIES),
            Self::IfIndex => facts("iface_index", 20, 4, 1, &[]),
            Self::CtState => facts("ct_state", 26, 4, 1, CT_STATES),
            Self::CtStatus => facts("ct_status", 28, 4, 1, CT_STATUSES),
            Self::CtDirection => facts("ct_dir", 27, 1, 0, CT_DIRECTIONS),
            Self::FibAddressType => facts("fib_addrtype", 38, 4, 1, ADDRESS_TYPES),
        }
    }

    /// Whether a list of values means "any of these bits".
    pub(super) fn is_bitmask(self) -> bool {
        matches!(self, Self::CtState | Self::CtStatus)
    }

    /// The bytes of one value, unpadded.
    pub(super) fn encode(self, value: &Expression<'_>) -> Result<Vec<u8>, Reason> {
        let wrong = || Reason::Value {
            value: describe(value),
            datatype: self.facts().name,
        };
        match value {
            Expression::String(text) => self.encode_name(text).ok_or_else(wrong),
            Expression::Number(number) => self.encode_number(*number).ok_or_else(wrong),
            _ => Err(Reason::unsupported(value)),
        }
    }

    /// The first and the last value of a prefix, a range or a single value.
    pub(super) fn encode_span(self, value: &Expression<'_>) -> Result<(Vec<u8>, Vec<u8>), Reason> {
        match value {
            Expression::Named(NamedExpression::Prefix(prefix)) => {
                let (first, mask) = self.encode_prefix(prefix)?;
                let last = first
                    .iter()
                    .zip(&mask)
                    .map(|(byte, mask)| byte | !mask)
                    .collect();
                Ok((first, last))
            }
            Expression::Range(range) => {
                Ok((self.encode(&range.range[0])?, self.encode(&range.range[1])?))
            }
            _ => {
                let bytes = self.encode(value)?;
                Ok((bytes.clone(), bytes))
            }
        }
    }

    /// The address of a prefix, bits behind the prefix cleared, and its mask.
    pub(super) fn encode_prefix(self, prefix: &Prefix<'_>) -> Result<(Vec<u8>, Vec<u8>), Reason> {
        let address = self.encode(&prefix.addr)?;
        let bits = prefix.len as usize;
        if !matches!(self, Self::Ipv4Addr | Self::Ipv6Addr) || bits > address.len() * 8 {
            return Err(Reason::Value {
                value: describe(prefix),
                datatype: self.facts().name,
            });
        }
        let mask: Vec<u8> = (0..address.len())
            .map(|index| match bits.saturating_sub(index * 8) {
                0 => 0,
                rest @ 1..8 => !(0xff_u8 >> rest),
                _ => 0xff,
            })
            .collect();
        let first = address
            .iter()
            .zip(&mask)
            .map(|(byte, mask)| byte & mask)
            .collect();
        Ok((first, mask))
    }

    fn encode_name(self, name: &str) -> Option<Vec<u8>> {
        match self {
            Self::Ipv4Addr => Some(name.parse::<Ipv4Addr>().ok()?.octets().to_vec()),
            Self::Ipv6Addr => Some(name.parse::<Ipv6Addr>().ok()?.octets().to_vec()),
            Self::EtherAddr => ether_address(name),
            Self::Ifname => interface_name(name),
            Self::InetService | Self::Mark | Self::IfIndex => {
                self.encode_number(name.parse().ok()?)
            }
            Self::InetProto
            | Self::NfProto
            | Self::CtState
            | Self::CtStatus
            | Self::CtDirection
            | Self::FibAddressType => {
                let symbols = self.facts().symbols;
                let (_, number) = symbols.iter().find(|(symbol, _)| *symbol == name)?;
                self.encode_number(*number)
            }
        }
    }

    fn encode_number(self, number: u32) -> Option<Vec<u8>> {
        match self {
            Self::InetProto | Self::NfProto | Self::CtDirection => {
                Some(vec![u8::try_from(number).ok()?])
            }
            Self::InetService => Some(u16::try_from(number).ok()?.to_be_bytes().to_vec()),
            Self::Mark | Self::IfIndex | Self::CtState | Self::CtStatus | Self::FibAddressType => {
                Some(number.to_ne_bytes().to_vec())
            }
            Self::Ipv4Addr | Self::Ipv6Addr | Self::EtherAddr | Self::Ifname => None,
        }
    }
}

impl From<SetType> for DataType {
    fn from(value: SetType) -> Self {
        match value {
            SetType::Ipv4Addr => Self::Ipv4Addr,
            SetType::Ipv6Addr => Self::Ipv6Addr,
            SetType::EtherAddr => Self::EtherAddr,
            SetType::InetProto => Self::InetProto,
            SetType::InetService => Self::InetService,
            SetType::Mark => Self::Mark,
            SetType::Ifname => Self::Ifname,
        }
    }
}

/// A name padded to `IFNAMSIZ`. A star or a quote would mean something else in a script.
fn interface_name(name: &str) -> Option<Vec<u8>> {
    if name.is_empty() || name.len() > 15 || name.contains(['*', '"', '\\', '\0']) {
        return None;
    }
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    Some(bytes)
}

fn ether_address(text: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes.filter(|bytes| bytes.len() == 6)
}
