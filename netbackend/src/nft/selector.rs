//! Which packet or connection property an expression reads.
//!
//! One table a protocol: a new selector is a new line. Offsets are those of the protocol headers.

use netlink_packet_netfilter::nftables::MetaKey as KernelMeta;
use nftables::expr::{
    CT, CTDir, Expression, Fib, FibFlag, FibResult, MetaKey, NamedExpression, Payload, PayloadField,
};

use super::DataType;
use super::error::Reason;

/// A property, the type of its values, and what must be known of a packet before it may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) load: Load,
    pub(super) datatype: DataType,
    pub(super) needs: Option<Needs>,
}

/// How the kernel gets at the property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Meta(KernelMeta),
    /// Key, and direction where the key has one.
    Ct(u32, Option<u8>),
    /// Flags: what to look up.
    FibAddressType(u32),
    /// Base, offset and length in bytes.
    Payload(u32, u32, u32),
}

/// A header is read only from packets that carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Network protocol, as `NFPROTO_*`.
    Network(u8),
    /// Transport protocol, as `IPPROTO_*`.
    Transport(u8),
}

pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;

/// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// `NFT_CT_*`.
pub(super) const CT_MARK: u32 = 3;
const CT_KEYS: &[(&str, u32, DataType)] = &[
    ("state", 0, DataType::CtState),
    ("direction", 1, DataType::CtDirection),
    ("status", 2, DataType::CtStatus),
    ("mark", CT_MARK, DataType::Mark),
];

const NETWORK_FIELDS: &[(&str, &str, u8, u32, u32, DataType)] = &[
    ("ip", "saddr", NFPROTO_IPV4, 12, 4, DataType::Ipv4Addr),
    ("ip", "daddr", NFPROTO_IPV4, 16, 4, DataType::Ipv4Addr),
    ("ip6", "saddr", NFPROTO_IPV6, 8, 16, DataType::Ipv6Addr),
    ("ip6", "daddr", NFPROTO_IPV6, 24, 16, DataType::Ipv6Addr),
];

/// Protocols with ports; `th` stands for whichever it is.
const PORT_PROTOCOLS: &[(&str, Option<u8>)] = &[
    ("th", None),
    ("tcp", Some(6)),
    ("udp", Some(17)),
    ("sctp", Some(132)),
    ("dccp", Some(33)),
    ("udplite", Some(136)),
];

/// The selector that `expression` is.
pub(super) fn selector(expression: &Expression<'_>) -> Result<Selector, Reason> {
    let found = match expression {
        Expression::Named(NamedExpression::Meta(meta)) => meta_selector(meta.key),
        Expression::Named(NamedExpression::CT(ct)) => ct_selector(ct),
        Expression::Named(NamedExpression::Fib(fib)) => fib_selector(fib),
        Expression::Named(NamedExpression::Payload(Payload::PayloadField(field))) => {
            payload_selector(field)
        }
        _ => None,
    };
    found.ok_or_else(|| Reason::unsupported(expression))
}

fn meta_selector(key: MetaKey) -> Option<Selector> {
    let (key, datatype) = match key {
        MetaKey::Iifname => (KernelMeta::Iifname, DataType::Ifname),
        MetaKey::Oifname => (KernelMeta::Oifname, DataType::Ifname),
        MetaKey::Iif => (KernelMeta::Iif, DataType::IfIndex),
        MetaKey::Oif => (KernelMeta::Oif, DataType::IfIndex),
        MetaKey::L4proto => (KernelMeta::L4Proto, DataType::InetProto),
        MetaKey::Nfproto => (KernelMeta::Nfproto, DataType::NfProto),
        MetaKey::Mark => (KernelMeta::Mark, DataType::Mark),
        _ => return None,
    };
    Some(Selector {
        load: Load::Meta(key),
        datatype,
        needs: None,
    })
}

fn ct_selector(ct: &CT<'_>) -> Option<Selector> {
    let (_, key, datatype) = CT_KEYS.iter().find(|(name, ..)| *name == ct.key)?;
    let direction = ct.dir.map(|direction| match direction {
        CTDir::Original => 0,
        CTDir::Reply => 1,
    });
    ct.family.is_none().then_some(Selector {
        load: Load::Ct(*key, direction),
        datatype: *datatype,
        needs: None,
    })
}

fn fib_selector(fib: &Fib) -> Option<Selector> {
    let flags = fib.flags.iter().fold(0, |bits, flag| {
        bits | match flag {
            FibFlag::Saddr => 1,
            FibFlag::Daddr => 2,
            FibFlag::Mark => 4,
            FibFlag::Iif => 8,
            FibFlag::Oif => 16,
        }
    });
    matches!(fib.result, FibResult::Type).then_some(Selector {
        load: Load::FibAddressType(flags),
        datatype: DataType::FibAddressType,
        needs: None,
    })
}

fn payload_selector(field: &PayloadField<'_>) -> Option<Selector> {
    if let Some((_, _, protocol, offset, len, datatype)) = NETWORK_FIELDS
        .iter()
        .find(|(protocol, name, ..)| *protocol == field.protocol && *name == field.field)
    {
        return Some(Selector {
            load: Load::Payload(NETWORK, *offset, *len),
            datatype: *datatype,
            needs: Some(Needs::Network(*protocol)),
        });
    }
    let (_, protocol) = PORT_PROTOCOLS
        .iter()
        .find(|(name, _)| *name == field.protocol)?;
    let offset = match field.field.as_ref() {
        "sport" => 0,
        "dport" => 2,
        _ => return None,
    };
    Some(Selector {
        load: Load::Payload(TRANSPORT, offset, 2),
        datatype: DataType::InetService,
        needs: protocol.map(Needs::Transport),
    })
}
