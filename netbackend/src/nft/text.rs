//! Transactions as a script that `nft -f -` accepts, one command a line.
//!
//! Interface names are quoted, so that one called `tcp` or `10.0.0.1` stays a name; which strings are interface names
//! follows from the type of the selector or, for elements, from the schema. What the encoder would refuse is written as
//! JSON, which nft refuses as well: printing never fails, and nothing is dropped.

use std::borrow::Cow;

use nftables::expr::{
    BinaryOperation, Expression, Fib, FibFlag, FibResult, NamedExpression, Payload, PayloadField,
    SetItem, Verdict,
};
use nftables::schema::{
    Chain, Element, FlushObject, Map, NfCmd, NfListObject, Rule, Set, SetFlag, SetTypeValue, Table,
};
use nftables::stmt::{Counter, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde::Serialize;

use super::error::describe;
use super::selector::selector;
use super::{Command, Data, DataType, Schema, Shape, Transaction, VerdictMap};

/// All commands of a transaction.
pub fn script(transaction: &Transaction) -> String {
    let mut script = String::new();
    for command in transaction.commands() {
        script.push_str(&line(transaction.schema(), command));
        script.push('\n');
    }
    script
}

/// One command, without a line end.
pub fn line(schema: &Schema, command: &Command) -> String {
    match command {
        Command::Nf(command) => nf_line(schema, command),
        Command::AddVerdictMap(map) => format!("add {}", verdict_map(map)),
        Command::CreateVerdictMap(map) => format!("create {}", verdict_map(map)),
    }
}

/// One command as an error shows it: long lists of elements are cut.
pub fn summary(schema: &Schema, command: &Command) -> String {
    const LONGEST: usize = 200;
    let line = line(schema, command);
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn nf_line(schema: &Schema, command: &NfCmd<'_>) -> String {
    match command {
        NfCmd::Add(object) => format!("add {}", declared(schema, object)),
        NfCmd::Create(object) => format!("create {}", declared(schema, object)),
        NfCmd::Insert(object) => format!("insert {}", declared(schema, object)),
        NfCmd::Delete(NfListObject::Element(elements)) => {
            format!("delete {}", element(schema, elements))
        }
        NfCmd::Delete(object) => format!("delete {}", name_of(object)),
        NfCmd::Flush(FlushObject::Table(table)) => format!("flush {}", table_name(table)),
        NfCmd::Flush(FlushObject::Chain(chain)) => format!("flush {}", chain_name(chain)),
        NfCmd::Flush(FlushObject::Set(set)) => format!("flush {}", set_name(set)),
        NfCmd::Flush(FlushObject::Map(map)) => format!("flush {}", map_name(map)),
        NfCmd::Flush(FlushObject::Ruleset(_)) => "flush ruleset".to_owned(),
        _ => describe(command),
    }
}

fn declared(schema: &Schema, object: &NfListObject<'_>) -> String {
    match object {
        NfListObject::Table(table) => table_name(table),
        NfListObject::Chain(chain) => chain_declaration(chain),
        NfListObject::Rule(rule) => rule_line(rule),
        NfListObject::Set(set) => set_declaration(schema, set),
        NfListObject::Map(map) => map_declaration(schema, map),
        NfListObject::Element(elements) => element(schema, elements),
        _ => describe(object),
    }
}

fn name_of(object: &NfListObject<'_>) -> String {
    match object {
        NfListObject::Table(table) => table_name(table),
        NfListObject::Chain(chain) => chain_name(chain),
        NfListObject::Set(set) => set_name(set),
        NfListObject::Map(map) => map_name(map),
        _ => describe(object),
    }
}

fn table_name(table: &Table<'_>) -> String {
    format!("table {} {}", family(table.family), table.name)
}

fn chain_name(chain: &Chain<'_>) -> String {
    format!(
        "chain {} {} {}",
        family(chain.family),
        chain.table,
        chain.name
    )
}

fn set_name(set: &Set<'_>) -> String {
    format!("set {} {} {}", family(set.family), set.table, set.name)
}

fn map_name(map: &Map<'_>) -> String {
    format!("map {} {} {}", family(map.family), map.table, map.name)
}

fn chain_declaration(chain: &Chain<'_>) -> String {
    let (Some(kind), Some(hook), Some(priority)) = (chain._type, chain.hook, chain.prio) else {
        return chain_name(chain);
    };
    let policy = match chain.policy {
        None => "",
        Some(NfChainPolicy::Accept) => " policy accept;",
        Some(NfChainPolicy::Drop) => " policy drop;",
    };
    format!(
        "{} {{ type {} hook {} priority {priority};{policy} }}",
        chain_name(chain),
        chain_type(kind),
        hook_name(hook),
    )
}

fn set_declaration(schema: &Schema, set: &Set<'_>) -> String {
    let shape = schema.shape(set.family, &set.table, &set.name);
    let interval = set
        .flags
        .as_ref()
        .is_some_and(|flags| flags.contains(&SetFlag::Interval));
    format!(
        "{} {{ type {};{}{} }}",
        set_name(set),
        datatypes(&set.set_type),
        flags_and_size(interval, set.size),
        initial_elements(shape, set.elem.as_deref()),
    )
}

fn map_declaration(schema: &Schema, map: &Map<'_>) -> String {
    let shape = schema.shape(map.family, &map.table, &map.name);
    let interval = map
        .flags
        .as_ref()
        .is_some_and(|flags| flags.contains(&SetFlag::Interval));
    format!(
        "{} {{ type {} : {};{}{} }}",
        map_name(map),
        datatypes(&map.set_type),
        datatypes(&map.map),
        flags_and_size(interval, map.size),
        initial_elements(shape, map.elem.as_deref()),
    )
}

fn verdict_map(map: &VerdictMap) -> String {
    format!(
        "map {} {} {} {{ type {} : verdict;{} }}",
        family(map.family),
        map.table,
        map.name,
        datatypes(&map.key),
        flags_and_size(map.interval, map.size),
    )
}

fn datatypes(value: &SetTypeValue<'_>) -> String {
    let name = |datatype: &_| DataType::from(*datatype).facts().name;
    match value {
        SetTypeValue::Single(one) => name(one).to_owned(),
        SetTypeValue::Concatenated(many) => many.iter().map(name).collect::<Vec<_>>().join(" . "),
    }
}

fn flags_and_size(interval: bool, size: Option<u32>) -> String {
    let flags = if interval { " flags interval;" } else { "" };
    let size = size
        .map(|size| format!(" size {size};"))
        .unwrap_or_default();
    format!("{flags}{size}")
}

fn initial_elements(shape: Option<&Shape>, elements: Option<&[Expression<'_>]>) -> String {
    match elements {
        None | Some([]) => String::new(),
        Some(elements) => format!(" elements = {}", element_list(shape, elements)),
    }
}

fn element(schema: &Schema, elements: &Element<'_>) -> String {
    let shape = schema.shape(elements.family, &elements.table, &elements.name);
    format!(
        "element {} {} {} {}",
        family(elements.family),
        elements.table,
        elements.name,
        element_list(shape, &elements.elem),
    )
}

fn element_list(shape: Option<&Shape>, elements: &[Expression<'_>]) -> String {
    let elements: Vec<String> = elements
        .iter()
        .map(|element| one_element(shape, element))
        .collect();
    format!("{{ {} }}", elements.join(", "))
}

fn one_element(shape: Option<&Shape>, element: &Expression<'_>) -> String {
    let keys = shape.map(|shape| shape.key.as_slice());
    let data = match shape.and_then(|shape| shape.data.as_ref()) {
        Some(Data::Value(types)) => Some(types.as_slice()),
        Some(Data::Verdict) | None => None,
    };
    match element {
        Expression::List(pair) if pair.len() == 2 => {
            format!("{} : {}", values(keys, &pair[0]), values(data, &pair[1]))
        }
        key => values(keys, key),
    }
}

/// A value, or the values of a concatenation, of the given types; without types, strings are quoted.
fn values(types: Option<&[DataType]>, expression: &Expression<'_>) -> String {
    let datatype =
        |index: usize| types.map_or(Some(DataType::Ifname), |types| types.get(index).copied());
    match expression {
        Expression::Named(NamedExpression::Concat(parts)) => {
            let parts = parts
                .iter()
                .enumerate()
                .map(|(index, part)| value(datatype(index), part));
            parts.collect::<Vec<_>>().join(" . ")
        }
        one => value(datatype(0), one),
    }
}

fn value(datatype: Option<DataType>, expression: &Expression<'_>) -> String {
    match expression {
        Expression::String(text) if text.starts_with('@') => text.to_string(),
        Expression::String(text) if datatype == Some(DataType::Ifname) => format!("\"{text}\""),
        Expression::String(text) => text.to_string(),
        Expression::Number(number) => number.to_string(),
        Expression::List(list) => {
            let list: Vec<String> = list.iter().map(|one| value(datatype, one)).collect();
            list.join(",")
        }
        Expression::Range(range) => {
            let [first, last] = &range.range;
            format!("{}-{}", value(datatype, first), value(datatype, last))
        }
        Expression::Named(NamedExpression::Prefix(prefix)) => {
            format!("{}/{}", value(datatype, &prefix.addr), prefix.len)
        }
        Expression::Verdict(verdict) => verdict_text(verdict).into_owned(),
        other => describe(other),
    }
}

fn verdict_text<'a>(verdict: &'a Verdict<'_>) -> Cow<'a, str> {
    match verdict {
        Verdict::Accept => "accept".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Continue => "continue".into(),
        Verdict::Return => "return".into(),
        Verdict::Jump(jump) => format!("jump {}", jump.target).into(),
        Verdict::Goto(goto) => format!("goto {}", goto.target).into(),
    }
}

fn rule_line(rule: &Rule<'_>) -> String {
    let mut line = format!("rule {} {} {}", family(rule.family), rule.table, rule.chain);
    for part in rule.expr.iter() {
        line.push(' ');
        line.push_str(&statement(part));
    }
    if let Some(comment) = &rule.comment {
        line.push_str(&format!(" comment \"{comment}\""));
    }
    line
}

fn statement(statement: &Statement<'_>) -> String {
    match statement {
        Statement::Accept(_) => "accept".to_owned(),
        Statement::Drop(_) => "drop".to_owned(),
        Statement::Continue(_) => "continue".to_owned(),
        Statement::Return(_) => "return".to_owned(),
        Statement::Notrack => "notrack".to_owned(),
        Statement::Jump(jump) => format!("jump {}", jump.target),
        Statement::Goto(goto) => format!("goto {}", goto.target),
        Statement::Match(matching) => match_text(matching),
        Statement::Counter(Counter::Anonymous(_)) => "counter".to_owned(),
        Statement::Mangle(mangle) => {
            format!(
                "{} set {}",
                property(&mangle.key),
                operand(&types_of(&mangle.key), &mangle.value)
            )
        }
        Statement::SNAT(Some(nat)) => nat_text("snat", nat),
        Statement::DNAT(Some(nat)) => nat_text("dnat", nat),
        Statement::Masquerade(None) => "masquerade".to_owned(),
        Statement::Reject(reject) => reject_text(reject.as_ref()),
        Statement::VerdictMap(map) => {
            format!(
                "{} vmap {}",
                property(&map.key),
                operand(&types_of(&map.key), &map.data)
            )
        }
        other => describe(other),
    }
}

fn match_text(matching: &Match<'_>) -> String {
    let operator = match matching.op {
        Operator::EQ if is_plain(&matching.left) => "",
        // Without an operator, a bit mask would be tested for any of the bits.
        Operator::EQ => "== ",
        Operator::IN => "",
        Operator::NEQ => "!= ",
        Operator::AND
        | Operator::OR
        | Operator::XOR
        | Operator::LSHIFT
        | Operator::RSHIFT
        | Operator::LT
        | Operator::GT
        | Operator::LEQ
        | Operator::GEQ => return describe(matching),
    };
    let right = operand(&types_of(&matching.left), &matching.right);
    format!("{} {operator}{right}", property(&matching.left))
}

fn is_plain(left: &Expression<'_>) -> bool {
    let is_mask = selector(left).is_ok_and(|selector| selector.datatype.is_bitmask());
    !is_mask && !matches!(left, Expression::BinaryOperation(_))
}

/// The types of what stands left of a set, a map or a comparison.
fn types_of(left: &Expression<'_>) -> Vec<DataType> {
    match left {
        Expression::Named(NamedExpression::Concat(parts)) => {
            parts.iter().flat_map(types_of).collect()
        }
        Expression::BinaryOperation(operation) => match operation.as_ref() {
            BinaryOperation::AND(inner, _) => types_of(inner),
            BinaryOperation::OR(_)
            | BinaryOperation::XOR(..)
            | BinaryOperation::LSHIFT(..)
            | BinaryOperation::RSHIFT(..) => Vec::new(),
        },
        single => selector(single)
            .map(|selector| selector.datatype)
            .into_iter()
            .collect(),
    }
}

/// What a property is compared with, looked up in or set to.
fn operand(types: &[DataType], expression: &Expression<'_>) -> String {
    match expression {
        Expression::Named(NamedExpression::Set(items)) => {
            let items: Vec<String> = items.iter().map(|item| set_item(types, item)).collect();
            format!("{{ {} }}", items.join(", "))
        }
        expression if selector(expression).is_ok() => property(expression),
        Expression::BinaryOperation(_) => property(expression),
        expression => values(Some(types), expression),
    }
}

fn set_item(types: &[DataType], item: &SetItem<'_>) -> String {
    match item {
        SetItem::Element(key) => values(Some(types), key),
        SetItem::Mapping(key, data) => {
            format!("{} : {}", values(Some(types), key), values(Some(&[]), data))
        }
        SetItem::MappingStatement(..) => describe(item),
    }
}

/// A selector, a concatenation of selectors, or arithmetic on one.
fn property(expression: &Expression<'_>) -> String {
    match expression {
        Expression::Named(NamedExpression::Concat(parts)) => {
            parts.iter().map(property).collect::<Vec<_>>().join(" . ")
        }
        Expression::Named(NamedExpression::Meta(meta)) => meta_text(&plain_name(&meta.key)),
        Expression::Named(NamedExpression::CT(ct)) => match ct.dir {
            Some(direction) => format!("ct {} {}", plain_name(&direction), ct.key),
            None => format!("ct {}", ct.key),
        },
        Expression::Named(NamedExpression::Fib(fib)) => fib_text(fib),
        Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
            protocol,
            field,
        }))) => {
            format!("{protocol} {field}")
        }
        Expression::BinaryOperation(operation) => arithmetic(operation),
        Expression::Number(number) => number.to_string(),
        other => describe(other),
    }
}

fn arithmetic(operation: &BinaryOperation<'_>) -> String {
    match operation {
        BinaryOperation::AND(left, right) => format!("{} & {}", property(left), property(right)),
        BinaryOperation::OR(parts) => parts.iter().map(property).collect::<Vec<_>>().join(" | "),
        BinaryOperation::XOR(..) | BinaryOperation::LSHIFT(..) | BinaryOperation::RSHIFT(..) => {
            describe(operation)
        }
    }
}

/// nft prints the keys about interfaces without `meta`, so we do.
fn meta_text(key: &str) -> String {
    match key {
        "iif" | "oif" | "iifname" | "oifname" => key.to_owned(),
        _ => format!("meta {key}"),
    }
}

fn fib_text(fib: &Fib) -> String {
    let order = [
        FibFlag::Saddr,
        FibFlag::Daddr,
        FibFlag::Mark,
        FibFlag::Iif,
        FibFlag::Oif,
    ];
    let flags: Vec<String> = order
        .iter()
        .filter(|flag| fib.flags.contains(flag))
        .map(plain_name)
        .collect();
    let result = match fib.result {
        FibResult::Oif => "oif",
        FibResult::Oifname => "oifname",
        FibResult::Type => "type",
    };
    format!("fib {} {result}", flags.join(" . "))
}

fn nat_text(verb: &str, nat: &NAT<'_>) -> String {
    let family = match nat.family {
        None => "",
        Some(NATFamily::IP) => " ip",
        Some(NATFamily::IP6) => " ip6",
    };
    let address = match &nat.addr {
        None => String::new(),
        Some(Expression::Named(NamedExpression::Map(map))) => {
            format!(
                "{} map {}",
                property(&map.key),
                operand(&types_of(&map.key), &map.data)
            )
        }
        Some(Expression::String(address)) if nat.port.is_some() && address.contains(':') => {
            format!("[{address}]")
        }
        Some(address) => value(None, address),
    };
    let port = nat
        .port
        .as_ref()
        .map(|port| format!(":{}", value(None, port)))
        .unwrap_or_default();
    let flags = nat
        .flags
        .as_ref()
        .map(|flags| format!(" {}", describe(flags)))
        .unwrap_or_default();
    format!("{verb}{family} to {address}{port}{flags}")
}

fn reject_text(reject: Option<&Reject>) -> String {
    let Some(reject) = reject else {
        return "reject".to_owned();
    };
    let code = reject
        .expr
        .map(|code| plain_name(&code))
        .unwrap_or_default();
    match reject._type {
        None => "reject".to_owned(),
        Some(RejectType::TCPReset) => "reject with tcp reset".to_owned(),
        Some(RejectType::ICMPX) => format!("reject with icmpx {code}"),
        Some(RejectType::ICMP) => format!("reject with icmp {code}"),
        Some(RejectType::ICMPv6) => format!("reject with icmpv6 {code}"),
    }
}

/// The word that the crate's JSON has for a unit variant, which is that of the script as well.
fn plain_name(value: &impl Serialize) -> String {
    describe(value).trim_matches('"').to_owned()
}

fn family(family: NfFamily) -> &'static str {
    match family {
        NfFamily::IP => "ip",
        NfFamily::IP6 => "ip6",
        NfFamily::INet => "inet",
        NfFamily::ARP => "arp",
        NfFamily::Bridge => "bridge",
        NfFamily::NetDev => "netdev",
    }
}

pub(super) fn chain_type(kind: NfChainType) -> &'static str {
    match kind {
        NfChainType::Filter => "filter",
        NfChainType::Route => "route",
        NfChainType::NAT => "nat",
    }
}

fn hook_name(hook: NfHook) -> &'static str {
    match hook {
        NfHook::Ingress => "ingress",
        NfHook::Prerouting => "prerouting",
        NfHook::Forward => "forward",
        NfHook::Input => "input",
        NfHook::Output => "output",
        NfHook::Postrouting => "postrouting",
        NfHook::Egress => "egress",
    }
}
