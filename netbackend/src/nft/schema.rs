//! The types of sets and maps.

use std::collections::{BTreeMap, HashSet};

use nftables::schema::{NfCmd, NfListObject, SetFlag, SetTypeValue};
use nftables::types::NfFamily;

use super::{Command, DataType, VerdictMap};

/// The shapes of all sets and maps that a program declares, by family, table and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    shapes: BTreeMap<(u8, String, String), Shape>,
}

/// What the elements of a set or map look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Type of the keys; more than one for a concatenation.
    pub key: Vec<DataType>,
    /// What a key leads to; nothing in a set.
    pub data: Option<Data>,
    /// Whether keys may be prefixes and ranges.
    pub interval: bool,
}

/// What the keys of a map lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Values; more than one type for a concatenation.
    Value(Vec<DataType>),
    /// A verdict.
    Verdict,
}

impl Schema {
    /// The sets and maps which `commands` declare.
    pub fn declared(commands: &[Command]) -> Self {
        let mut schema = Self::default();
        schema.learn(commands);
        schema
    }

    /// Adds the sets and maps which `commands` declare.
    pub fn learn(&mut self, commands: &[Command]) {
        for command in commands {
            match command {
                Command::AddVerdictMap(map) | Command::CreateVerdictMap(map) => {
                    self.insert(
                        map.family,
                        &map.table,
                        &map.name,
                        Shape::of_verdict_map(map),
                    );
                }
                Command::Nf(NfCmd::Add(object) | NfCmd::Create(object)) => {
                    self.learn_object(object);
                }
                Command::Nf(_) => {}
            }
        }
    }

    /// What is known of a set or map.
    pub fn shape(&self, family: NfFamily, table: &str, name: &str) -> Option<&Shape> {
        self.shapes
            .get(&(family_number(family), table.to_owned(), name.to_owned()))
    }

    fn learn_object(&mut self, object: &NfListObject<'static>) {
        match object {
            NfListObject::Set(set) => {
                let shape = Shape {
                    key: datatypes(&set.set_type),
                    data: None,
                    interval: has_interval(set.flags.as_ref()),
                };
                self.insert(set.family, &set.table, &set.name, shape);
            }
            NfListObject::Map(map) => {
                let shape = Shape {
                    key: datatypes(&map.set_type),
                    data: Some(Data::Value(datatypes(&map.map))),
                    interval: has_interval(map.flags.as_ref()),
                };
                self.insert(map.family, &map.table, &map.name, shape);
            }
            _ => {}
        }
    }

    fn insert(&mut self, family: NfFamily, table: &str, name: &str, shape: Shape) {
        self.shapes.insert(
            (family_number(family), table.to_owned(), name.to_owned()),
            shape,
        );
    }
}

impl Shape {
    /// The shape of a verdict map.
    pub(super) fn of_verdict_map(map: &VerdictMap) -> Self {
        Self {
            key: datatypes(&map.key),
            data: Some(Data::Verdict),
            interval: map.interval,
        }
    }
}

fn has_interval(flags: Option<&HashSet<SetFlag>>) -> bool {
    flags.is_some_and(|flags| flags.contains(&SetFlag::Interval))
}

fn datatypes(value: &SetTypeValue<'_>) -> Vec<DataType> {
    match value {
        SetTypeValue::Single(one) => vec![(*one).into()],
        SetTypeValue::Concatenated(many) => many.iter().map(|one| (*one).into()).collect(),
    }
}

/// `NFPROTO_*` of linux/netfilter.h.
pub(super) fn family_number(family: NfFamily) -> u8 {
    match family {
        NfFamily::INet => 1,
        NfFamily::IP => 2,
        NfFamily::ARP => 3,
        NfFamily::NetDev => 5,
        NfFamily::Bridge => 7,
        NfFamily::IP6 => 10,
    }
}
