//! nftables as values: what a transaction says, and its three spellings.
//!
//! # Model
//!
//! A [`Transaction`] is an ordered list of [`Command`]s which the kernel takes as a whole or not at all. Commands,
//! rules, statements and expressions are those of the crate `nftables`, which models the JSON interface of the
//! program `nft`. That crate cannot say "map whose data is a verdict", hence [`VerdictMap`] beside it.
//!
//! The value has three spellings which must mean the same; `tests/nft_oracle.rs` compares them in the kernel:
//!
//! - [`netlink`]: the bytes of one nfnetlink batch. This is how changes are made; no program is needed.
//! - [`text`]: a script for `nft -f -`, one command a line. For people, golden files and the fall-back.
//! - [`json()`]: a document for `nft -j -f -`.
//!
//! # Types of elements
//!
//! On the wire an element is bare bytes: `80` is two bytes in a set of ports, four in a set of marks. The program `nft`
//! asks the kernel for each set before it writes to it. We do not ask, we know: a [`Schema`] holds the types of all
//! sets and maps we declare, and every transaction carries one. A transaction that declares a set itself learns it.
//!
//! What the kernel tells of changes is read by [`notice`], chains of others
//! that drop by [`foreign`], elements by [`elements`], whole listings of everybody by [`listing`].
//!
//! # Subset
//!
//! What the encoder does not know it refuses with an [`EncodeError`] that names it; it never leaves anything out.
//! To add a selector (`ip dscp`, `meta skuid`), add a line to the tables of `selector.rs`; for a new kind of value a
//! variant of [`DataType`]; for a new statement an arm in `netlink/rule.rs` and one in `text.rs`.
//! Not supported: rules by handle or index, counters and quotas as objects, flow tables, time-outs of elements.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums of the crate reach far beyond our subset; what no arm names is refused"
)]

use std::borrow::Cow;
use std::collections::HashSet;

use nftables::expr::{Expression, Verdict};
use nftables::schema::{Map, NfCmd, NfListObject, SetFlag, SetTypeValue};
use nftables::types::NfFamily;
use serde_json::{Value, json};

mod datatype;
mod error;
pub mod elements;
pub mod foreign;
pub mod legacy;
pub mod listing;
pub mod netlink;
pub mod notice;
mod schema;
mod selector;
pub mod text;

pub use datatype::DataType;
pub use error::{EncodeError, Reason};
pub use schema::{Data, Schema, Shape};

/// One change to the ruleset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Whatever the crate `nftables` can say.
    Nf(NfCmd<'static>),
    /// Declare a verdict map; one of the same type may be there already.
    AddVerdictMap(VerdictMap),
    /// Declare a verdict map; fails when the name is taken.
    CreateVerdictMap(VerdictMap),
}

impl From<NfCmd<'static>> for Command {
    fn from(command: NfCmd<'static>) -> Self {
        Self::Nf(command)
    }
}

/// The declaration of a map from keys to verdicts. Its elements, its flushing and its deletion are ordinary
/// commands about an element or a map of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictMap {
    /// Family of the table.
    pub family: NfFamily,
    /// Table that holds the map.
    pub table: Cow<'static, str>,
    /// Name of the map.
    pub name: Cow<'static, str>,
    /// Type of the keys.
    pub key: SetTypeValue<'static>,
    /// Whether keys may be prefixes and ranges.
    pub interval: bool,
    /// Greatest number of elements, when limited.
    pub size: Option<u32>,
}

impl VerdictMap {
    /// The nearest thing that the crate can say; its data type means nothing.
    fn as_map(&self) -> Map<'static> {
        Map {
            family: self.family,
            table: self.table.clone(),
            name: self.name.clone(),
            set_type: self.key.clone(),
            flags: self.interval.then(|| HashSet::from([SetFlag::Interval])),
            size: self.size,
            ..Map::default()
        }
    }
}

/// Commands that take effect together, and the types of the sets they speak of.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    schema: Schema,
    commands: Vec<Command>,
}

impl Transaction {
    /// A transaction about the sets in `schema` and those that `commands` declare.
    pub fn new(mut schema: Schema, commands: Vec<Command>) -> Self {
        schema.learn(&commands);
        Self { schema, commands }
    }

    /// The changes, in the order in which they are made.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The types of all sets the transaction knows.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }
}

/// The document for `nft -j -f -`.
///
/// For people and other programs. nft 1.0.6 reads a map whose data is a concatenation as a *set* without a word, and
/// even 1.1.7 takes an interface called `tcp` for a protocol; so what is to be applied goes as [`text::script`].
pub fn json(transaction: &Transaction) -> Value {
    let commands: Vec<Value> = transaction.commands.iter().map(json_command).collect();
    json!({ "nftables": commands })
}

fn json_command(command: &Command) -> Value {
    match command {
        Command::Nf(command) => json_nf(command),
        Command::AddVerdictMap(map) => json!({ "add": { "map": json_verdict_map(map) } }),
        Command::CreateVerdictMap(map) => json!({ "create": { "map": json_verdict_map(map) } }),
    }
}

fn json_verdict_map(map: &VerdictMap) -> Value {
    let mut value = json!(map.as_map());
    value["map"] = json!("verdict");
    value
}

/// The crate's own spelling, put right where nft does not read it: statements and verdicts without arguments have
/// to be objects (`{"accept": null}`), but a unit variant is written as a string.
fn json_nf(command: &NfCmd<'static>) -> Value {
    let mut value = json!(command);
    match command {
        NfCmd::Add(object)
        | NfCmd::Create(object)
        | NfCmd::Insert(object)
        | NfCmd::Delete(object) => {
            let Some(inner) = value
                .as_object_mut()
                .and_then(|verbs| verbs.values_mut().next())
            else {
                return value;
            };
            match object {
                NfListObject::Element(element) => {
                    put_verdicts_right(&element.elem, &mut inner["element"]["elem"]);
                }
                NfListObject::Rule(_) => put_statements_right(&mut inner["rule"]["expr"]),
                _ => {}
            }
        }
        _ => {}
    }
    value
}

fn put_verdicts_right(elements: &[Expression<'static>], written: &mut Value) {
    let Some(written) = written.as_array_mut() else {
        return;
    };
    for (element, written) in elements.iter().zip(written) {
        if let Expression::List(pair) = element
            && let Some(Expression::Verdict(verdict)) = pair.get(1)
            && !matches!(verdict, Verdict::Jump(_) | Verdict::Goto(_))
        {
            put_right(&mut written[1]);
        }
    }
}

fn put_statements_right(statements: &mut Value) {
    for statement in statements.as_array_mut().into_iter().flatten() {
        put_right(statement);
        let pairs = statement
            .pointer_mut("/vmap/data/set")
            .and_then(Value::as_array_mut);
        for pair in pairs.into_iter().flatten() {
            put_right(&mut pair[1]);
        }
    }
}

/// `"accept"` becomes `{"accept": null}`.
fn put_right(value: &mut Value) {
    if let Value::String(name) = value {
        *value = json!({ name.as_str(): null });
    }
}

#[cfg(test)]
mod tests;
