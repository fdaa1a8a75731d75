//! Sets, maps and their elements.
//!
//! Keys and data are fixed-size byte strings; the parts of a concatenation are each padded to four bytes. Of keys that
//! are intervals the kernel has two representations:
//!
//! - a concatenation (pipapo) has a first and a last key in one element;
//! - a single type (red-black tree) has an element where the interval starts, and another, flagged as an end, at the
//!   first key behind it; none when it reaches to the last key there is.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetAttribute, SetDescription,
    SetElementAttribute, SetElementFlags, SetElementList, SetFlags, SetMessage,
};
use nftables::expr::{Expression, NamedExpression};
use nftables::schema::{Element, Map, Set};
use nftables::types::NfFamily;

use super::kernel::verdict_data;
use super::{Encoder, LIST_LEN_MAX, Pair};
use crate::nft::error::Reason;
use crate::nft::schema::{Data, Shape};
use crate::nft::{DataType, VerdictMap};

/// The kernel puts a number in place of `%d`.
pub(super) const ANONYMOUS_NAME: &str = "__set%d";

impl Encoder<'_> {
    pub(super) fn set(&mut self, set: &Set<'_>, flags: u16) -> Result<(), Reason> {
        if set.timeout.is_some()
            || set.gc_interval.is_some()
            || set.policy.is_some()
            || set.comment.is_some()
        {
            return Err(Reason::unsupported(set));
        }
        let shape = self.shape(set.family, &set.table, &set.name)?;
        self.declare(set.family, &set.table, &set.name, &shape, set.size, flags);
        self.initial_elements(
            set.family,
            &set.table,
            &set.name,
            &shape,
            set.elem.as_deref(),
        )
    }

    pub(super) fn map(&mut self, map: &Map<'_>, flags: u16) -> Result<(), Reason> {
        if map.timeout.is_some()
            || map.gc_interval.is_some()
            || map.policy.is_some()
            || map.comment.is_some()
        {
            return Err(Reason::unsupported(map));
        }
        let shape = self.shape(map.family, &map.table, &map.name)?;
        self.declare(map.family, &map.table, &map.name, &shape, map.size, flags);
        self.initial_elements(
            map.family,
            &map.table,
            &map.name,
            &shape,
            map.elem.as_deref(),
        )
    }

    pub(super) fn verdict_map(&mut self, map: &VerdictMap, flags: u16) -> Result<(), Reason> {
        let shape = Shape::of_verdict_map(map);
        self.declare(map.family, &map.table, &map.name, &shape, map.size, flags);
        Ok(())
    }

    fn declare(
        &mut self,
        family: NfFamily,
        table: &str,
        name: &str,
        shape: &Shape,
        size: Option<u32>,
        flags: u16,
    ) {
        let id = self.take_set_id();
        let attributes = declaration(table, name, id, shape, SetFlags::empty(), size);
        self.push(
            family,
            flags,
            NfTablesMessage::NewSet(SetMessage { attributes }),
        );
    }

    fn initial_elements(
        &mut self,
        family: NfFamily,
        table: &str,
        name: &str,
        shape: &Shape,
        elements: Option<&[Expression<'_>]>,
    ) -> Result<(), Reason> {
        let Some(elements) = elements else {
            return Ok(());
        };
        let element = Element {
            family,
            table: table.into(),
            name: name.into(),
            elem: elements.into(),
        };
        self.elements(&element, shape, netlink_packet_core::NLM_F_CREATE)
    }
}

/// The attributes that declare a set or map.
pub(super) fn declaration(
    table: &str,
    name: &str,
    id: u32,
    shape: &Shape,
    extra: SetFlags,
    size: Option<u32>,
) -> Vec<SetAttribute> {
    let mut attributes = vec![
        SetAttribute::Table(table.to_owned()),
        SetAttribute::Name(name.to_owned()),
        SetAttribute::Flags(set_flags(shape) | extra),
        SetAttribute::KeyType(type_id(&shape.key)),
        SetAttribute::KeyLen(total_len(&shape.key)),
    ];
    match &shape.data {
        None => {}
        Some(Data::Verdict) => {
            /// `NFT_DATA_VERDICT`
            const VERDICT: u32 = 0xffff_ff00;
            attributes.extend([SetAttribute::DataType(VERDICT), SetAttribute::DataLen(0)]);
        }
        Some(Data::Value(types)) => attributes.extend([
            SetAttribute::DataType(type_id(types)),
            SetAttribute::DataLen(total_len(types)),
        ]),
    }
    attributes.push(SetAttribute::Id(id));
    let description = description(shape, size);
    if !description.is_empty() {
        attributes.push(SetAttribute::Description(description));
    }
    attributes.push(SetAttribute::UserData(user_data(shape)));
    attributes
}

fn set_flags(shape: &Shape) -> SetFlags {
    let mut flags = SetFlags::empty();
    flags.set(SetFlags::Map, shape.data.is_some());
    flags.set(SetFlags::Interval, shape.interval);
    flags.set(SetFlags::Concat, shape.interval && shape.key.len() > 1);
    flags
}

/// nft packs the types of a concatenation into one number, six bits each.
fn type_id(types: &[DataType]) -> u32 {
    types
        .iter()
        .fold(0, |id, datatype| id << 6 | datatype.facts().id)
}

fn total_len(types: &[DataType]) -> u32 {
    let len: usize = match types {
        [one] => one.facts().len,
        many => many
            .iter()
            .map(|datatype| datatype.facts().len.next_multiple_of(4))
            .sum(),
    };
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn description(shape: &Shape, size: Option<u32>) -> Vec<SetDescription> {
    let mut description: Vec<SetDescription> = size.map(SetDescription::Size).into_iter().collect();
    if shape.interval && shape.key.len() > 1 {
        description.push(SetDescription::Concat(
            shape.key.iter().map(|part| field(*part)).collect(),
        ));
    }
    description
}

/// One field of a concatenation: `NFTA_LIST_ELEM` around `NFTA_SET_FIELD_LEN`.
fn field(datatype: DataType) -> DefaultNla {
    let len = u32::try_from(datatype.facts().len).unwrap_or(u32::MAX);
    let inner = DefaultNla::new(1, len.to_be_bytes().to_vec());
    let mut buffer = vec![0; inner.buffer_len()];
    inner.emit(&mut buffer);
    DefaultNla::new(1 | NLA_F_NESTED, buffer)
}

/// What nft stores with a set so as to print it: the byte order of keys (0) and data (1). Records are type, length,
/// value, the value in host byte order.
fn user_data(shape: &Shape) -> Vec<u8> {
    let mut bytes = vec![0, 4];
    bytes.extend(byte_order(&shape.key).to_ne_bytes());
    let data = match &shape.data {
        None => return bytes,
        Some(Data::Verdict) => 0,
        Some(Data::Value(types)) => byte_order(types),
    };
    bytes.extend([1, 4]);
    bytes.extend(data.to_ne_bytes());
    bytes
}

fn byte_order(types: &[DataType]) -> u32 {
    match types {
        [one] => one.facts().order,
        _ => 0,
    }
}

/// One element of the user as the kernel's elements: two for an interval in a red-black tree.
type Elements = Vec<ListAttribute<SetElementAttribute>>;

/// Encodes elements, in the order given.
pub(super) fn element_lists(
    shape: &Shape,
    elements: &[Pair<'_, '_>],
) -> Result<Vec<Elements>, Reason> {
    elements
        .iter()
        .map(|(key, data)| one_element(shape, key, *data))
        .collect()
}

/// The attributes of as many messages as it takes.
pub(super) fn element_messages(
    table: &str,
    name: &str,
    anonymous_id: Option<u32>,
    elements: Vec<Elements>,
) -> Vec<Vec<SetElementList>> {
    let mut messages = Vec::new();
    let mut pending: Elements = Vec::new();
    let mut len = 0;
    let finish = |elements: Elements| {
        let mut attributes = vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(name.to_owned()),
        ];
        attributes.extend(anonymous_id.map(SetElementList::SetId));
        attributes.push(SetElementList::Elements(elements));
        attributes
    };
    for element in elements {
        let more = element.as_slice().buffer_len();
        if len + more > LIST_LEN_MAX {
            messages.push(finish(std::mem::take(&mut pending)));
            len = 0;
        }
        len += more;
        pending.extend(element);
    }
    if !pending.is_empty() {
        messages.push(finish(pending));
    }
    messages
}

fn one_element(
    shape: &Shape,
    key: &Expression<'_>,
    data: Option<&Expression<'_>>,
) -> Result<Elements, Reason> {
    let (first, last) = key_span(shape, key)?;
    let data = match (&shape.data, data) {
        (Some(Data::Verdict), Some(Expression::Verdict(verdict))) => Some(verdict_data(verdict)),
        (Some(Data::Value(types)), Some(data)) => {
            Some(DataAttribute::Value(encode_parts(types, data)?))
        }
        (None | Some(_), None) => None,
        (None | Some(Data::Verdict), Some(data)) => return Err(Reason::unsupported(data)),
    };
    let mut start = vec![SetElementAttribute::Key(DataAttribute::Value(first))];
    if shape.interval && shape.key.len() > 1 {
        start.push(SetElementAttribute::KeyEnd(vec![DefaultNla::new(
            1,
            last.clone(),
        )]));
    }
    start.extend(data.map(SetElementAttribute::Data));
    let mut elements = vec![ListAttribute::Element(start)];
    if shape.interval
        && shape.key.len() == 1
        && let Some(end) = successor(last)
    {
        elements.push(ListAttribute::Element(vec![
            SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
            SetElementAttribute::Key(DataAttribute::Value(end)),
        ]));
    }
    Ok(elements)
}

/// The first and the last key that an element stands for.
fn key_span(shape: &Shape, key: &Expression<'_>) -> Result<(Vec<u8>, Vec<u8>), Reason> {
    if !shape.interval {
        let bytes = encode_parts(&shape.key, key)?;
        return Ok((bytes.clone(), bytes));
    }
    let single = shape.key.len() == 1;
    if single && shape.key.iter().any(|datatype| datatype.facts().order == 1) {
        // In the tree, keys of host byte order would have to be turned around.
        return Err(Reason::unsupported(key));
    }
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for (datatype, part) in parts(&shape.key, key)? {
        let (low, high) = datatype.encode_span(part)?;
        if low > high {
            return Err(Reason::unsupported(part));
        }
        append_part(&mut first, low, single);
        append_part(&mut last, high, single);
    }
    Ok((first, last))
}

/// The bytes of a value or of a concatenation.
pub(super) fn encode_parts(types: &[DataType], value: &Expression<'_>) -> Result<Vec<u8>, Reason> {
    let mut bytes = Vec::new();
    for (datatype, part) in parts(types, value)? {
        append_part(&mut bytes, datatype.encode(part)?, types.len() == 1);
    }
    Ok(bytes)
}

fn append_part(bytes: &mut Vec<u8>, part: Vec<u8>, single: bool) {
    bytes.extend(part);
    if !single {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}

fn parts<'a, 'b>(
    types: &[DataType],
    value: &'a Expression<'b>,
) -> Result<Vec<(DataType, &'a Expression<'b>)>, Reason> {
    match (types, value) {
        (types, Expression::Named(NamedExpression::Concat(parts)))
            if types.len() == parts.len() =>
        {
            Ok(types.iter().copied().zip(parts).collect())
        }
        ([one], value) => Ok(vec![(*one, value)]),
        _ => Err(Reason::unsupported(value)),
    }
}

/// The key behind `key`, unless it is the last one.
fn successor(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(key);
        }
    }
    None
}
