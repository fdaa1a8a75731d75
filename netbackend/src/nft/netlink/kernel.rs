//! The kernel's expressions, one constructor each.
//!
//! A rule is a list of small instructions on sixteen registers of four bytes. `Register` 1 to 4 name four registers at
//! once; both names of the same register mean the same, and we pick the one that nft picks.

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload,
    Register, Verdict as KernelVerdict, VerdictAttribute,
};
use nftables::expr::Verdict;

/// The register that starts `slot` words of four bytes into the data registers.
pub(super) fn register(slot: u32) -> Register {
    /// `NFT_REG_1`, `NFT_REG32_00`.
    const WHOLE: u32 = 1;
    const WORD: u32 = 8;
    if slot.is_multiple_of(4) {
        (WHOLE + slot / 4).into()
    } else {
        (WORD + slot).into()
    }
}

pub(super) fn meta(key: MetaKey, to: Register) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(to)])
}

pub(super) fn set_meta(key: MetaKey, from: Register) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::SourceRegister(from)])
}

pub(super) fn payload(base: u32, offset: u32, len: u32, to: Register) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(to),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(len),
    ])
}

pub(super) fn compare(operator: Operator, from: Register, with: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(from),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(with)),
    ])
}

/// `register = (register & mask) ^ xor`
pub(super) fn bitwise(register: Register, mask: Vec<u8>, xor: Vec<u8>) -> Expressions {
    let len = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register),
        Bitwise::DestinationRegister(register),
        Bitwise::Length(len),
        Bitwise::Op(0),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(xor)),
    ])
}

pub(super) fn immediate(to: Register, value: Vec<u8>) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(to),
        Immediate::Data(DataAttribute::Value(value)),
    ])
}

pub(super) fn verdict(verdict: &Verdict<'_>) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(verdict_data(verdict)),
    ])
}

pub(super) fn verdict_data(verdict: &Verdict<'_>) -> DataAttribute {
    // NF_DROP, NF_ACCEPT
    let (code, chain) = match verdict {
        Verdict::Drop => (KernelVerdict::Other(0), None),
        Verdict::Accept => (KernelVerdict::Other(1), None),
        Verdict::Continue => (KernelVerdict::Continue, None),
        Verdict::Return => (KernelVerdict::Return, None),
        Verdict::Jump(jump) => (KernelVerdict::Jump, Some(&jump.target)),
        Verdict::Goto(goto) => (KernelVerdict::Goto, Some(&goto.target)),
    };
    let chain = chain.map(|chain| VerdictAttribute::Chain(chain.to_string()));
    DataAttribute::Verdict(
        [VerdictAttribute::Code(code)]
            .into_iter()
            .chain(chain)
            .collect(),
    )
}

/// A set of the table by name, or an anonymous one of this batch by number.
#[derive(Clone, Debug)]
pub(super) enum SetName {
    Named(String),
    Anonymous(u32),
}

/// Goes on with the rule when the registers from `from` on are in the set (not in it, when `inverted`).
pub(super) fn lookup(set: &SetName, from: Register, inverted: bool) -> Expressions {
    let mut attributes = lookup_in(set, from);
    if inverted {
        attributes.push(Lookup::Flags(1));
    }
    Expressions::Lookup(attributes)
}

/// Loads what the map has for the registers from `from` on into `to`.
pub(super) fn map(set: &SetName, from: Register, to: Register) -> Expressions {
    let mut attributes = lookup_in(set, from);
    attributes.push(Lookup::DestinationRegister(to));
    Expressions::Lookup(attributes)
}

fn lookup_in(set: &SetName, from: Register) -> Vec<Lookup> {
    let mut attributes = vec![Lookup::SourceRegister(from)];
    match set {
        SetName::Named(name) => attributes.insert(0, Lookup::Set(name.clone())),
        SetName::Anonymous(id) => {
            attributes.insert(0, Lookup::Set(super::set::ANONYMOUS_NAME.to_owned()));
            attributes.push(Lookup::SetId(*id));
        }
    }
    attributes
}

pub(super) fn ct(key: u32, direction: Option<u8>, to: Register) -> Expressions {
    let mut attributes = vec![number(1, to.into()), number(2, key)];
    attributes.extend(direction.map(|direction| DefaultNla::new(3, vec![direction])));
    other("ct", attributes)
}

pub(super) fn set_ct(key: u32, from: Register) -> Expressions {
    other("ct", vec![number(2, key), number(4, from.into())])
}

pub(super) fn fib_address_type(flags: u32, to: Register) -> Expressions {
    /// `NFT_FIB_RESULT_ADDRTYPE`
    const ADDRESS_TYPE: u32 = 3;
    other(
        "fib",
        vec![
            number(1, to.into()),
            number(2, ADDRESS_TYPE),
            number(3, flags),
        ],
    )
}

/// Goes on when the register lies from `first` to `last` (not there, when `inverted`).
pub(super) fn range(from: Register, inverted: bool, first: Vec<u8>, last: Vec<u8>) -> Expressions {
    let attributes = vec![
        number(1, from.into()),
        number(2, inverted.into()),
        value(3, first),
        value(4, last),
    ];
    other("range", attributes)
}

/// Which address a translation changes: `NFT_NAT_SNAT`, `NFT_NAT_DNAT`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Nat {
    Source = 0,
    Destination = 1,
}

pub(super) fn nat(
    kind: Nat,
    family: u8,
    address: Option<Register>,
    port: Option<Register>,
) -> Expressions {
    let mut attributes = vec![number(1, kind as u32), number(2, family.into())];
    attributes.extend(address.map(|register| number(3, register.into())));
    attributes.extend(port.map(|register| number(5, register.into())));
    other("nat", attributes)
}

pub(super) fn reject(kind: u32, code: u8) -> Expressions {
    other(
        "reject",
        vec![number(1, kind), DefaultNla::new(2, vec![code])],
    )
}

pub(super) fn counter() -> Expressions {
    let zero = |kind| DefaultNla::new(kind, vec![0; 8]);
    other("counter", vec![zero(1), zero(2)])
}

/// An expression that takes no attributes.
pub(super) fn bare(name: &str) -> Expressions {
    other(name, Vec::new())
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes,
    }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// A nested `NFTA_DATA_VALUE`.
fn value(kind: u16, bytes: Vec<u8>) -> DefaultNla {
    use netlink_packet_core::Emitable;
    let inner = DataAttribute::Value(bytes);
    let mut buffer = vec![0; inner.buffer_len()];
    inner.emit(&mut buffer);
    DefaultNla::new(kind | NLA_F_NESTED, buffer)
}
