//! Transactions as an nfnetlink batch: the bytes of one `send` to a `NETLINK_NETFILTER` socket.
//!
//! ```text
//! NFNL_MSG_BATCH_BEGIN            first sequence number
//!   NFT_MSG_NEWTABLE …            one or more messages a command, numbered on; the last one asks for an answer
//!   NFT_MSG_NEWSETELEM …          many elements a message
//! NFNL_MSG_BATCH_END
//! ```
//!
//! The kernel answers with the sequence number of each message that it refused, and [`Batch::command_of`] tells which
//! command that was. It applies all of the batch or nothing.
//!
//! Attributes and messages are those of the crate `netlink-packet-netfilter`; expressions which it lacks (ct, fib, nat,
//! masq, reject, range, counter) go through its `Expressions::Other`. An attribute's length is 16 bits and the
//! crate does not check, so lists of elements are split in time, see `set.rs`.
//!
//! Numbers without a source in this directory are of linux/netfilter/nf_tables.h.

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, ExpressionAttribute, Hook, HookNumber, InetHookNumber,
    ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementList,
    SetElementMessage, SetMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage};
use nftables::expr::Expression;
use nftables::schema::{Chain, Element, FlushObject, NfCmd, NfListObject, Rule, Table};
use nftables::types::{NfChainPolicy, NfFamily, NfHook};

use super::error::{EncodeError, Reason};
use super::schema::{Schema, Shape, family_number};
use super::text;
use super::{Command, Transaction};

mod kernel;
mod rule;
mod set;

/// The bytes of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    first_sequence: u32,
    /// The command behind each message between begin and end.
    origins: Vec<usize>,
}

impl Batch {
    /// What to send.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The index of the command which the message with this sequence number belongs to; `None` for begin and end.
    pub fn command_of(&self, sequence: u32) -> Option<usize> {
        let offset = sequence.checked_sub(self.first_sequence)?.checked_sub(1)?;
        self.origins.get(usize::try_from(offset).ok()?).copied()
    }

    /// The sequence number that the kernel acknowledges when it took the batch; `None` when it changes nothing.
    pub fn acknowledged(&self) -> Option<u32> {
        let messages = u32::try_from(self.origins.len()).ok()?;
        (messages > 0).then(|| self.first_sequence.wrapping_add(messages))
    }

    /// The sequence number for what is sent next.
    pub fn next_sequence(&self) -> u32 {
        let messages = u32::try_from(self.origins.len()).unwrap_or(u32::MAX);
        self.first_sequence.wrapping_add(messages).wrapping_add(2)
    }
}

/// Encodes a transaction; its first message carries `first_sequence`.
pub fn encode(transaction: &Transaction, first_sequence: u32) -> Result<Batch, EncodeError> {
    let mut encoder = Encoder {
        schema: transaction.schema(),
        next_set_id: 1,
        messages: Vec::new(),
    };
    let mut origins = Vec::new();
    for (index, command) in transaction.commands().iter().enumerate() {
        encoder.command(command).map_err(|reason| EncodeError {
            command: text::summary(transaction.schema(), command),
            reason,
        })?;
        origins.resize(encoder.messages.len(), index);
    }
    if let Some(last) = encoder.messages.last_mut() {
        last.flags |= NLM_F_ACK;
    }
    Ok(Batch {
        bytes: batch_bytes(encoder.messages, first_sequence),
        first_sequence,
        origins,
    })
}

/// Asks for one chain; `sequence` comes back with the answer.
pub fn chain_request(table: &str, chain: &str, sequence: u32) -> Vec<u8> {
    request(
        NfTablesMessage::GetChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(table.to_owned()),
                ChainAttribute::Name(chain.to_owned()),
            ],
        }),
        0,
        sequence,
    )
}

/// Asks for all chains of all tables of all families.
pub fn all_chains_dump(sequence: u32) -> Vec<u8> {
    let body = NfTablesMessage::GetChain(ChainMessage {
        attributes: Vec::new(),
    });
    let mut bytes = Vec::new();
    let message = NetfilterMessage::new(header(0, 0), body);
    append(&mut bytes, message, NLM_F_DUMP, sequence);
    bytes
}

/// Asks for all rules of all tables of all families.
pub fn all_rules_dump(sequence: u32) -> Vec<u8> {
    let body = NfTablesMessage::GetRule(RuleMessage {
        attributes: Vec::new(),
    });
    let mut bytes = Vec::new();
    let message = NetfilterMessage::new(header(0, 0), body);
    append(&mut bytes, message, NLM_F_DUMP, sequence);
    bytes
}

/// Asks for all elements of a set or map of any family, by the number of that (`NFPROTO_*`).
pub fn any_element_dump(family: u8, table: &str, set: &str, sequence: u32) -> Vec<u8> {
    let body = NfTablesMessage::GetSetElement(SetElementMessage {
        attributes: vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(set.to_owned()),
        ],
    });
    let mut bytes = Vec::new();
    let message = NetfilterMessage::new(header(family, 0), body);
    append(&mut bytes, message, NLM_F_DUMP, sequence);
    bytes
}

/// Asks for all chains of all `inet` tables.
pub fn chain_dump(sequence: u32) -> Vec<u8> {
    request(
        NfTablesMessage::GetChain(ChainMessage {
            attributes: Vec::new(),
        }),
        NLM_F_DUMP,
        sequence,
    )
}

/// Asks for all elements of a set or map.
pub fn element_dump(table: &str, set: &str, sequence: u32) -> Vec<u8> {
    request(
        NfTablesMessage::GetSetElement(SetElementMessage {
            attributes: vec![
                SetElementList::Table(table.to_owned()),
                SetElementList::Set(set.to_owned()),
            ],
        }),
        NLM_F_DUMP,
        sequence,
    )
}

/// Asks for one `inet` table.
pub fn table_request(table: &str, sequence: u32) -> Vec<u8> {
    request(
        NfTablesMessage::GetTable(TableMessage {
            attributes: vec![TableAttribute::Name(table.to_owned())],
        }),
        0,
        sequence,
    )
}

fn request(body: NfTablesMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = NetfilterMessage::new(header(family_number(NfFamily::INet), 0), body);
    append(&mut bytes, message, flags, sequence);
    bytes
}

struct Message {
    family: u8,
    flags: u16,
    body: NfTablesMessage,
}

struct Encoder<'a> {
    schema: &'a Schema,
    /// Sets need a number that is unique in the batch.
    next_set_id: u32,
    messages: Vec<Message>,
}

/// What `add`, `create` and `insert` mean to the kernel.
const ADD: u16 = NLM_F_CREATE;
const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Bytes of a list of elements or expressions: it is one attribute, which is at most 65,535 long.
const LIST_LEN_MAX: usize = 60_000;

impl Encoder<'_> {
    fn command(&mut self, command: &Command) -> Result<(), Reason> {
        match command {
            Command::AddVerdictMap(map) => self.verdict_map(map, ADD),
            Command::CreateVerdictMap(map) => self.verdict_map(map, CREATE),
            Command::Nf(NfCmd::Add(NfListObject::Rule(rule))) => {
                self.rule(rule, NLM_F_CREATE | NLM_F_APPEND)
            }
            Command::Nf(NfCmd::Insert(NfListObject::Rule(rule))) => self.rule(rule, NLM_F_CREATE),
            Command::Nf(NfCmd::Create(NfListObject::Rule(rule))) => {
                self.rule(rule, CREATE | NLM_F_APPEND)
            }
            Command::Nf(NfCmd::Add(object)) => self.add(object, ADD),
            Command::Nf(NfCmd::Create(object)) => self.add(object, CREATE),
            Command::Nf(NfCmd::Delete(object)) => self.delete(object),
            Command::Nf(NfCmd::Flush(object)) => self.flush(object),
            Command::Nf(other) => Err(Reason::unsupported(other)),
        }
    }

    fn add(&mut self, object: &NfListObject<'_>, flags: u16) -> Result<(), Reason> {
        match object {
            NfListObject::Table(table) => {
                let attributes = vec![
                    TableAttribute::Name(table.name.to_string()),
                    TableAttribute::Flags(TableFlags::empty()),
                ];
                self.push(
                    table.family,
                    flags,
                    NfTablesMessage::NewTable(TableMessage { attributes }),
                );
            }
            NfListObject::Chain(chain) => self.add_chain(chain, flags)?,
            NfListObject::Set(set) => self.set(set, flags)?,
            NfListObject::Map(map) => self.map(map, flags)?,
            NfListObject::Element(element) => {
                let shape = self.shape(element.family, &element.table, &element.name)?;
                self.elements(element, &shape, flags)?;
            }
            other => return Err(Reason::unsupported(other)),
        }
        Ok(())
    }

    fn add_chain(&mut self, chain: &Chain<'_>, flags: u16) -> Result<(), Reason> {
        if chain.dev.is_some() || chain.newname.is_some() {
            return Err(Reason::unsupported(chain));
        }
        let mut attributes = chain_attributes(chain);
        match (chain._type, chain.hook, chain.prio) {
            (Some(kind), Some(hook), Some(priority)) => {
                attributes.push(ChainAttribute::Type(text::chain_type(kind).to_owned()));
                attributes.push(ChainAttribute::Hook(vec![
                    Hook::Number(HookNumber::Inet(hook_number(hook)?)),
                    Hook::Priority(priority.cast_unsigned()),
                ]));
            }
            (None, None, None) => {}
            _ => return Err(Reason::unsupported(chain)),
        }
        // NF_DROP, NF_ACCEPT. Absent, an existing chain keeps its policy.
        if let Some(policy) = chain.policy {
            attributes.push(ChainAttribute::Policy(match policy {
                NfChainPolicy::Drop => 0,
                NfChainPolicy::Accept => 1,
            }));
        }
        self.push(
            chain.family,
            flags,
            NfTablesMessage::NewChain(ChainMessage { attributes }),
        );
        Ok(())
    }

    fn rule(&mut self, rule: &Rule<'_>, flags: u16) -> Result<(), Reason> {
        if rule.handle.is_some() || rule.index.is_some() {
            return Err(Reason::unsupported(rule));
        }
        let expressions: Vec<ListAttribute<ExpressionAttribute>> = rule::expressions(self, rule)?
            .into_iter()
            .map(Into::into)
            .collect();
        if expressions.as_slice().buffer_len() > LIST_LEN_MAX {
            return Err(Reason::Unsupported("a rule of that length".to_owned()));
        }
        let mut attributes = vec![
            RuleAttribute::Table(rule.table.to_string()),
            RuleAttribute::Chain(rule.chain.to_string()),
            RuleAttribute::Expressions(expressions),
        ];
        if let Some(comment) = &rule.comment {
            attributes.push(RuleAttribute::UserData(rule::comment(comment)?));
        }
        self.push(
            rule.family,
            flags,
            NfTablesMessage::NewRule(RuleMessage { attributes }),
        );
        Ok(())
    }

    fn delete(&mut self, object: &NfListObject<'_>) -> Result<(), Reason> {
        match object {
            NfListObject::Table(table) => {
                let attributes = table_attributes(table);
                self.push(
                    table.family,
                    0,
                    NfTablesMessage::DeleteTable(TableMessage { attributes }),
                );
            }
            NfListObject::Chain(chain) => {
                let attributes = chain_attributes(chain);
                self.push(
                    chain.family,
                    0,
                    NfTablesMessage::DeleteChain(ChainMessage { attributes }),
                );
            }
            NfListObject::Set(set) => self.delete_set(set.family, &set.table, &set.name),
            NfListObject::Map(map) => self.delete_set(map.family, &map.table, &map.name),
            NfListObject::Element(element) => self.delete_elements(element)?,
            other => return Err(Reason::unsupported(other)),
        }
        Ok(())
    }

    fn delete_set(&mut self, family: NfFamily, table: &str, name: &str) {
        let attributes = vec![
            SetAttribute::Table(table.to_owned()),
            SetAttribute::Name(name.to_owned()),
        ];
        self.push(
            family,
            0,
            NfTablesMessage::DeleteSet(SetMessage { attributes }),
        );
    }

    fn flush(&mut self, object: &FlushObject<'_>) -> Result<(), Reason> {
        match object {
            FlushObject::Table(table) => {
                let attributes = vec![RuleAttribute::Table(table.name.to_string())];
                self.push(
                    table.family,
                    0,
                    NfTablesMessage::DeleteRule(RuleMessage { attributes }),
                );
            }
            FlushObject::Chain(chain) => {
                let attributes = vec![
                    RuleAttribute::Table(chain.table.to_string()),
                    RuleAttribute::Chain(chain.name.to_string()),
                ];
                self.push(
                    chain.family,
                    0,
                    NfTablesMessage::DeleteRule(RuleMessage { attributes }),
                );
            }
            FlushObject::Set(set) => self.flush_set(set.family, &set.table, &set.name),
            FlushObject::Map(map) => self.flush_set(map.family, &map.table, &map.name),
            FlushObject::Ruleset(_) => self.messages.push(Message {
                family: 0,
                flags: 0,
                body: NfTablesMessage::DeleteTable(TableMessage {
                    attributes: Vec::new(),
                }),
            }),
            FlushObject::Meter(_) => return Err(Reason::unsupported(object)),
        }
        Ok(())
    }

    fn flush_set(&mut self, family: NfFamily, table: &str, name: &str) {
        let attributes = vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(name.to_owned()),
        ];
        self.push(
            family,
            0,
            NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }),
        );
    }

    fn elements(&mut self, element: &Element<'_>, shape: &Shape, flags: u16) -> Result<(), Reason> {
        let lists = set::element_lists(shape, &pairs(shape, &element.elem)?)?;
        for attributes in set::element_messages(&element.table, &element.name, None, lists) {
            self.push(
                element.family,
                flags,
                NfTablesMessage::NewSetElement(SetElementMessage { attributes }),
            );
        }
        Ok(())
    }

    fn delete_elements(&mut self, element: &Element<'_>) -> Result<(), Reason> {
        let shape = self.shape(element.family, &element.table, &element.name)?;
        let lists = set::element_lists(&shape, &pairs(&shape, &element.elem)?)?;
        for attributes in set::element_messages(&element.table, &element.name, None, lists) {
            self.push(
                element.family,
                0,
                NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }),
            );
        }
        Ok(())
    }

    fn shape(&self, family: NfFamily, table: &str, name: &str) -> Result<Shape, Reason> {
        let shape = self.schema.shape(family, table, name);
        shape
            .cloned()
            .ok_or_else(|| Reason::UnknownSet(name.to_owned()))
    }

    fn take_set_id(&mut self) -> u32 {
        let id = self.next_set_id;
        self.next_set_id += 1;
        id
    }

    fn push(&mut self, family: NfFamily, flags: u16, body: NfTablesMessage) {
        self.messages.push(Message {
            family: family_number(family),
            flags,
            body,
        });
    }
}

/// A key and what it leads to.
type Pair<'a, 'b> = (&'a Expression<'b>, Option<&'a Expression<'b>>);

/// The keys and data of elements. A key alone is enough to delete from a map.
fn pairs<'a, 'b>(
    shape: &Shape,
    elements: &'a [Expression<'b>],
) -> Result<Vec<Pair<'a, 'b>>, Reason> {
    let pair = |element: &'a Expression<'b>| match element {
        Expression::List(pair) if pair.len() == 2 && shape.data.is_some() => {
            Ok((&pair[0], Some(&pair[1])))
        }
        Expression::List(_) => Err(Reason::unsupported(element)),
        key => Ok((key, None)),
    };
    elements.iter().map(pair).collect()
}

fn table_attributes(table: &Table<'_>) -> Vec<TableAttribute> {
    vec![TableAttribute::Name(table.name.to_string())]
}

fn chain_attributes(chain: &Chain<'_>) -> Vec<ChainAttribute> {
    vec![
        ChainAttribute::Table(chain.table.to_string()),
        ChainAttribute::Name(chain.name.to_string()),
    ]
}

fn hook_number(hook: NfHook) -> Result<InetHookNumber, Reason> {
    match hook {
        NfHook::Prerouting => Ok(InetHookNumber::PreRouting),
        NfHook::Input => Ok(InetHookNumber::LocalIn),
        NfHook::Forward => Ok(InetHookNumber::Forward),
        NfHook::Output => Ok(InetHookNumber::LocalOut),
        NfHook::Postrouting => Ok(InetHookNumber::PostRouting),
        NfHook::Ingress | NfHook::Egress => Err(Reason::unsupported(&hook)),
    }
}

fn header(family: u8, resource: u16) -> NetfilterHeader {
    NetfilterHeader::new(family.into(), 0, resource)
}

fn batch_bytes(messages: Vec<Message>, first_sequence: u32) -> Vec<u8> {
    /// `NFNL_SUBSYS_NFTABLES`, the subsystem that the batch is for.
    const SUBSYSTEM: u16 = 10;
    let mut bytes = Vec::new();
    let mut sequence = first_sequence;
    let begin = NetfilterMessage::new(header(0, SUBSYSTEM), ControlMessage::BatchBegin);
    append(&mut bytes, begin, 0, sequence);
    for Message {
        family,
        flags,
        body,
    } in messages
    {
        sequence = sequence.wrapping_add(1);
        append(
            &mut bytes,
            NetfilterMessage::new(header(family, 0), body),
            flags,
            sequence,
        );
    }
    let end = NetfilterMessage::new(header(0, SUBSYSTEM), ControlMessage::BatchEnd);
    append(&mut bytes, end, 0, sequence.wrapping_add(1));
    bytes
}

fn append(bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len(), 0);
    message.serialize(&mut bytes[start..]);
}
