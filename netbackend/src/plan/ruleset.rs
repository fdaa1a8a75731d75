//! The rules of table `inet netavark`, and the transactions that change it.
//!
//! The table keeps the name that netavark gave it: people look there, and Podman's tests do. Base
//! chains keep their names, too, so that a policy or a rule that an administrator put on them goes on
//! to work. What is inside is ours:
//!
//! ```text
//! RAW          loopback destinations that did not come from ourselves vanish
//! PREROUTING,  for addresses of the host: PUBLISH
//! OUTPUT
//! PUBLISH      resolvers on another port, then ports of one address, then ports of all addresses
//! LOOPBACK     published ports of ::1 that cannot be served are refused
//! INPUT        resolvers are reached even where the policy is to drop
//! FORWARD      established connections, then by bridge: FROM-..., or FROM-OUTSIDE
//! POSTROUTING  answers to ourselves and to other containers pass by us; then by subnet: MASQUERADE
//!              or SNAT
//! ```
//! Whether a table has these rules is told by the chain `NETBACKEND-1` and by the number of rules in
//! the base chains: a change of the rules must change that name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::LazyLock;

use nftables::expr::{
    CT, Expression, Fib, FibFlag, FibResult, Map as MapExpression, Meta, MetaKey, NamedExpression,
    Payload, PayloadField, Prefix, Verdict,
};
use nftables::schema::{self, FlushObject, NfCmd, NfListObject, SetFlag, SetType, SetTypeValue};
use nftables::stmt::{
    JumpTarget, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement,
    VerdictMap as VmapStatement,
};
use nftables::types::{NfChainType, NfFamily, NfHook, RejectCode};

use super::firewall::{Chain, Elements, Key, Part, Set, Value};
use crate::nft::{Command, Schema, Transaction, VerdictMap};

/// The name of the table.
pub const TABLE: &str = "netavark";

/// A chain without rules that tells of which version the rules are.
pub const MARKER: &str = "NETBACKEND-1";

const FAMILY: NfFamily = NfFamily::INet;

/// The priority of raw rules, before connection tracking (`NF_IP_PRI_RAW`).
const PRIORITY_RAW: i32 = -300;
/// The priority of destination translation (`NF_IP_PRI_NAT_DST`).
const PRIORITY_DNAT: i32 = -100;
/// The priority of filters (`NF_IP_PRI_FILTER`).
const PRIORITY_FILTER: i32 = 0;
/// The priority of source translation (`NF_IP_PRI_NAT_SRC`).
const PRIORITY_SNAT: i32 = 100;

/// A chain of the table, and its rules.
struct ChainRules {
    name: &'static str,
    base: Option<(NfChainType, NfHook, i32)>,
    rules: Vec<Vec<Statement<'static>>>,
}

/// All chains with the number of their rules; those of a sound table have at least as many uses.
pub fn expected_rules() -> impl Iterator<Item = (&'static str, u32)> {
    let count = |chain: &ChainRules| u32::try_from(chain.rules.len()).unwrap_or(u32::MAX);
    RULES.iter().map(move |chain| (chain.name, count(chain)))
}

/// The transaction that adds and removes elements of a sound table.
#[must_use]
pub fn elements(remove: &Elements, add: &Elements) -> Transaction {
    let gone = grouped(remove).map(|element| NfCmd::Delete(NfListObject::Element(element)));
    let come = grouped(add).map(|element| NfCmd::Add(NfListObject::Element(element)));
    Transaction::new(SCHEMA.clone(), gone.chain(come).map(Command::Nf).collect())
}

/// What of the wanted elements a table has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// The elements that it lacks.
    pub missing: Elements,
    /// The sets that have others besides, or are not there.
    pub excess: BTreeSet<Set>,
}

impl Difference {
    /// The difference to a table that has nothing.
    #[must_use]
    pub fn all(elements: &Elements) -> Self {
        Self {
            missing: elements.clone(),
            excess: SETS.iter().copied().collect(),
        }
    }
}

/// All sets and maps with their names.
pub fn set_names() -> impl Iterator<Item = (Set, &'static str)> {
    SETS.iter().map(|set| (*set, set_name(*set)))
}

/// The transaction that makes the table sound, whatever was in it, with just these elements.
/// `stale` are chains of other layouts, which go.
///
/// Rules are replaced. They are looked up by the generation in force when a packet comes in, so no packet sees any but
/// the old or the new ones. Elements are looked up as they are at the moment, and a packet that comes just when the
/// kernel replaces an element by its like may see neither. So sets keep the elements that they have, unless there are
/// others, too, which only the flush of the set takes away.
#[must_use]
pub fn rebuild(elements: &Elements, difference: &Difference, stale: &[String]) -> Transaction {
    let mut commands = vec![add(NfListObject::Table(table()))];
    commands.push(Command::Nf(NfCmd::Flush(FlushObject::Table(table()))));
    // Chains before maps: nft 1.0.6 makes elements of an interval map along with the map.
    commands.extend(
        RULES
            .iter()
            .map(|rules| add(NfListObject::Chain(based(rules)))),
    );
    for set in SETS {
        commands.push(declaration(*set));
        if difference.excess.contains(set) {
            commands.push(Command::Nf(NfCmd::Flush(match shape(*set).1 {
                None => FlushObject::Set(Box::new(plain_set(*set))),
                Some(_) => FlushObject::Map(Box::new(plain_map(*set))),
            })));
        }
    }
    // Nothing leads to them any more, now that rules and elements are gone.
    for name in stale {
        commands.push(Command::Nf(NfCmd::Delete(NfListObject::Chain(chain(
            Cow::Owned(name.clone()),
        )))));
    }
    for ChainRules { name, rules, .. } in RULES.iter() {
        for expr in rules {
            let rule = schema::Rule {
                family: FAMILY,
                table: TABLE.into(),
                chain: (*name).into(),
                expr: expr.clone().into(),
                ..schema::Rule::default()
            };
            commands.push(add(NfListObject::Rule(rule)));
        }
    }
    let comes =
        |key: &Key| difference.excess.contains(&key.0) || difference.missing.contains_key(key);
    let mut come = elements.clone();
    come.retain(|key, _| comes(key));
    commands.extend(grouped(&come).map(|element| add(NfListObject::Element(element))));
    Transaction::new(SCHEMA.clone(), commands)
}

/// The transaction that removes what is ours; all of the table if nothing else is in it.
#[must_use]
pub fn clear(chains: &[String]) -> Transaction {
    let ours = |name: &String| RULES.iter().any(|chain| chain.name == name.as_str());
    if chains.iter().all(|name| ours(name) || is_stale(name)) {
        return Transaction::new(
            SCHEMA.clone(),
            vec![Command::Nf(NfCmd::Delete(NfListObject::Table(table())))],
        );
    }
    let mut commands: Vec<Command> = Vec::new();
    let present = || {
        chains
            .iter()
            .filter(|name| ours(name))
            .map(|name| chain(Cow::Owned(name.clone())))
    };
    commands.extend(present().map(|chain| Command::Nf(NfCmd::Flush(FlushObject::Chain(chain)))));
    for set in SETS {
        commands.push(declaration(*set));
        commands.push(Command::Nf(NfCmd::Delete(match shape(*set).1 {
            None => NfListObject::Set(Box::new(plain_set(*set))),
            Some(_) => NfListObject::Map(Box::new(plain_map(*set))),
        })));
    }
    commands.extend(present().map(|chain| Command::Nf(NfCmd::Delete(NfListObject::Chain(chain)))));
    Transaction::new(SCHEMA.clone(), commands)
}

/// Chains of other layouts among these: those of netavark, which nothing leads to once the rules are ours.
#[must_use]
pub fn stale_chains(chains: &[String]) -> Vec<String> {
    chains
        .iter()
        .filter(|name| is_stale(name))
        .cloned()
        .collect()
}

fn is_stale(name: &str) -> bool {
    let other = ["nv_", "NETAVARK-", "NETBACKEND-"];
    name != MARKER && other.iter().any(|start| name.starts_with(start))
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let declarations: Vec<Command> = SETS.iter().map(|set| declaration(*set)).collect();
    Schema::declared(&declarations)
});

static RULES: LazyLock<Vec<ChainRules>> = LazyLock::new(rules);

fn add(object: NfListObject<'static>) -> Command {
    Command::Nf(NfCmd::Add(object))
}

fn table() -> schema::Table<'static> {
    schema::Table {
        family: FAMILY,
        name: TABLE.into(),
        handle: None,
    }
}

fn chain(name: Cow<'static, str>) -> schema::Chain<'static> {
    schema::Chain {
        family: FAMILY,
        table: TABLE.into(),
        name,
        ..schema::Chain::default()
    }
}

/// A base chain is declared without a policy, so that one that an administrator set stays in force.
fn based(rules: &ChainRules) -> schema::Chain<'static> {
    let mut chain = chain(rules.name.into());
    if let Some((kind, hook, priority)) = rules.base {
        (chain._type, chain.hook, chain.prio) = (Some(kind), Some(hook), Some(priority));
    }
    chain
}

/// What a map leads to.
#[derive(Clone, Copy)]
enum Leads {
    Verdict,
    Value(&'static [SetType]),
}

/// All sets and maps, in the order in which they are declared.
const SETS: &[Set] = &[
    Set::Bridges,
    Set::Closed,
    Set::Isolated,
    Set::Internal,
    Set::Own,
    Set::NoLoopback6,
    Set::From,
    Set::FromVrf4,
    Set::FromVrf6,
    Set::Outbound4,
    Set::Outbound6,
    Set::Snat4,
    Set::Snat6,
    Set::Subnets4,
    Set::Subnets6,
    Set::Dns4,
    Set::Dns6,
    Set::DnsRedirect4,
    Set::DnsRedirect6,
    Set::PublishAt4,
    Set::PublishAt6,
    Set::Publish4,
    Set::Publish6,
    Set::LoopbackOnly4,
    Set::LoopbackOnly6,
];

const fn set_name(set: Set) -> &'static str {
    match set {
        Set::Bridges => "bridges",
        Set::Closed => "closed",
        Set::Isolated => "isolated",
        Set::Internal => "internal",
        Set::Own => "own",
        Set::NoLoopback6 => "no_loopback6",
        Set::From => "forward_from",
        Set::FromVrf4 => "vrf_from4",
        Set::FromVrf6 => "vrf_from6",
        Set::Outbound4 => "outbound4",
        Set::Outbound6 => "outbound6",
        Set::Snat4 => "snat4",
        Set::Snat6 => "snat6",
        Set::Subnets4 => "subnets4",
        Set::Subnets6 => "subnets6",
        Set::Dns4 => "dns4",
        Set::Dns6 => "dns6",
        Set::DnsRedirect4 => "dns_redirect4",
        Set::DnsRedirect6 => "dns_redirect6",
        Set::PublishAt4 => "publish_at4",
        Set::PublishAt6 => "publish_at6",
        Set::Publish4 => "publish4",
        Set::Publish6 => "publish6",
        Set::LoopbackOnly4 => "loopback_only4",
        Set::LoopbackOnly6 => "loopback_only6",
    }
}

const fn chain_name(chain: Chain) -> &'static str {
    match chain {
        Chain::FromOpen => "FROM-OPEN",
        Chain::FromIsolated => "FROM-ISOLATED",
        Chain::FromStrict => "FROM-STRICT",
        Chain::FromInternal => "FROM-INTERNAL",
        Chain::Masquerade => "MASQUERADE",
        Chain::Snat4 => "SNAT4",
        Chain::Snat6 => "SNAT6",
    }
}

/// The types of a set's keys and, for maps, of what they lead to.
const fn shape(set: Set) -> (&'static [SetType], Option<Leads>) {
    use SetType::{
        Ifname, InetProto as Proto, InetService as Port, Ipv4Addr as V4, Ipv6Addr as V6,
    };
    match set {
        Set::Bridges | Set::Closed | Set::Isolated | Set::Internal => (&[Ifname], None),
        Set::NoLoopback6 => (&[V6], None),
        Set::Own => (&[Ifname, Ifname], None),
        Set::From => (&[Ifname], Some(Leads::Verdict)),
        Set::Outbound4 | Set::FromVrf4 => (&[V4], Some(Leads::Verdict)),
        Set::Outbound6 | Set::FromVrf6 => (&[V6], Some(Leads::Verdict)),
        Set::Snat4 => (&[V4], Some(Leads::Value(&[V4]))),
        Set::Snat6 => (&[V6], Some(Leads::Value(&[V6]))),
        Set::Subnets4 => (&[V4], None),
        Set::Subnets6 => (&[V6], None),
        Set::Dns4 | Set::LoopbackOnly4 => (&[Proto, V4, Port], None),
        Set::Dns6 | Set::LoopbackOnly6 => (&[Proto, V6, Port], None),
        Set::DnsRedirect4 | Set::PublishAt4 => {
            (&[Proto, V4, Port], Some(Leads::Value(&[V4, Port])))
        }
        Set::DnsRedirect6 | Set::PublishAt6 => {
            (&[Proto, V6, Port], Some(Leads::Value(&[V6, Port])))
        }
        Set::Publish4 => (&[Proto, Port], Some(Leads::Value(&[V4, Port]))),
        Set::Publish6 => (&[Proto, Port], Some(Leads::Value(&[V6, Port]))),
    }
}

/// Whether keys are subnets.
const fn interval(set: Set) -> bool {
    matches!(
        set,
        Set::FromVrf4
            | Set::FromVrf6
            | Set::Outbound4
            | Set::Outbound6
            | Set::Snat4
            | Set::Snat6
            | Set::Subnets4
            | Set::Subnets6
            | Set::NoLoopback6
    )
}

fn types(types: &'static [SetType]) -> SetTypeValue<'static> {
    match types {
        [one] => SetTypeValue::Single(*one),
        many => SetTypeValue::Concatenated(many.into()),
    }
}

fn flags(set: Set) -> Option<HashSet<SetFlag>> {
    interval(set).then(|| HashSet::from([SetFlag::Interval]))
}

fn plain_set(set: Set) -> schema::Set<'static> {
    schema::Set {
        family: FAMILY,
        table: TABLE.into(),
        name: set_name(set).into(),
        set_type: types(shape(set).0),
        flags: flags(set),
        ..schema::Set::default()
    }
}

fn plain_map(set: Set) -> schema::Map<'static> {
    let map = match shape(set).1 {
        Some(Leads::Value(value)) => types(value),
        Some(Leads::Verdict) | None => SetTypeValue::Single(SetType::Mark),
    };
    schema::Map {
        family: FAMILY,
        table: TABLE.into(),
        name: set_name(set).into(),
        set_type: types(shape(set).0),
        map,
        flags: flags(set),
        ..schema::Map::default()
    }
}

fn declaration(set: Set) -> Command {
    match shape(set) {
        (_, None) => add(NfListObject::Set(Box::new(plain_set(set)))),
        (_, Some(Leads::Value(_))) => add(NfListObject::Map(Box::new(plain_map(set)))),
        (key, Some(Leads::Verdict)) => Command::AddVerdictMap(VerdictMap {
            family: FAMILY,
            table: TABLE.into(),
            name: set_name(set).into(),
            key: types(key),
            interval: interval(set),
            size: None,
        }),
    }
}

/// One element command for each set.
fn grouped(elements: &Elements) -> impl Iterator<Item = schema::Element<'static>> + use<> {
    let mut sets: BTreeMap<Set, Vec<Expression<'static>>> = BTreeMap::new();
    for ((set, parts), value) in elements {
        sets.entry(*set)
            .or_default()
            .push(element(parts, value.as_ref()));
    }
    sets.into_iter().map(|(set, elem)| schema::Element {
        family: FAMILY,
        table: TABLE.into(),
        name: set_name(set).into(),
        elem: elem.into(),
    })
}

fn element(parts: &[Part], value: Option<&Value>) -> Expression<'static> {
    let key = concat(parts.iter().map(part).collect());
    match value {
        None => key,
        Some(Value::Goto(chain)) => {
            let target = JumpTarget {
                target: chain_name(*chain).into(),
            };
            Expression::List(vec![key, Expression::Verdict(Verdict::Goto(target))])
        }
        Some(Value::Address(address)) => Expression::List(vec![key, text(address.to_string())]),
        Some(Value::Socket(address, port)) => {
            let socket = concat(vec![
                text(address.to_string()),
                Expression::Number((*port).into()),
            ]);
            Expression::List(vec![key, socket])
        }
    }
}

fn part(part: &Part) -> Expression<'static> {
    match part {
        Part::Interface(name) => text(name.to_string()),
        Part::Address(address) => text(address.to_string()),
        Part::Subnet(subnet) => Expression::Named(NamedExpression::Prefix(Prefix {
            addr: Box::new(text(subnet.addr().to_string())),
            len: subnet.prefix_len().into(),
        })),
        Part::Protocol(protocol) => text(protocol.name().to_owned()),
        Part::Port(port) => Expression::Number((*port).into()),
    }
}

fn text(text: String) -> Expression<'static> {
    Expression::String(text.into())
}

fn concat(mut parts: Vec<Expression<'static>>) -> Expression<'static> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Expression::Named(NamedExpression::Concat(parts)),
    }
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

fn is(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn equals(left: Expression<'static>, right: &'static str) -> Statement<'static> {
    is(left, Operator::EQ, Expression::String(right.into()))
}

fn among(left: Expression<'static>, set: Set) -> Statement<'static> {
    is(left, Operator::EQ, reference(set))
}

fn reference(set: Set) -> Expression<'static> {
    text(format!("@{}", set_name(set)))
}

fn within(left: Expression<'static>, address: &'static str, len: u32) -> Statement<'static> {
    let addr = Box::new(Expression::String(address.into()));
    is(
        left,
        Operator::EQ,
        Expression::Named(NamedExpression::Prefix(Prefix { addr, len })),
    )
}

fn state(states: &[&'static str]) -> Statement<'static> {
    let list = states
        .iter()
        .map(|state| Expression::String((*state).into()))
        .collect();
    is(ct("state"), Operator::IN, Expression::List(list))
}

fn translated() -> Statement<'static> {
    is(
        ct("status"),
        Operator::IN,
        Expression::String("dnat".into()),
    )
}

fn goto(name: &'static str) -> Statement<'static> {
    Statement::Goto(JumpTarget {
        target: name.into(),
    })
}

fn vmap(key: Expression<'static>, set: Set) -> Statement<'static> {
    Statement::VerdictMap(VmapStatement {
        key,
        data: reference(set),
    })
}

fn looked_up(family: NATFamily, key: Expression<'static>, set: Set) -> Option<NAT<'static>> {
    let map = MapExpression {
        key,
        data: reference(set),
    };
    let addr = Some(Expression::Named(NamedExpression::Map(Box::new(map))));
    Some(NAT {
        addr,
        family: Some(family),
        port: None,
        flags: None,
    })
}

const ACCEPT: Statement<'static> = Statement::Accept(None);
const DROP: Statement<'static> = Statement::Drop(None);
const RETURN: Statement<'static> = Statement::Return(None);

/// `iifname . oifname`: traffic that stays within a network.
fn stays() -> Statement<'static> {
    among(
        concat(vec![meta(MetaKey::Iifname), meta(MetaKey::Oifname)]),
        Set::Own,
    )
}

/// `meta l4proto . ip daddr . th dport`.
fn destination(ip: &'static str) -> Expression<'static> {
    concat(vec![
        meta(MetaKey::L4proto),
        payload(ip, "daddr"),
        payload("th", "dport"),
    ])
}

fn masquerade() -> Statement<'static> {
    Statement::Masquerade(None)
}

fn rules() -> Vec<ChainRules> {
    use NfChainType::{Filter, NAT as Nat};
    let plain = |name, rules| ChainRules {
        name,
        base: None,
        rules,
    };
    let base = |name, kind, hook, priority, rules| ChainRules {
        name,
        base: Some((kind, hook, priority)),
        rules,
    };
    let local = || {
        let fib = Fib {
            result: FibResult::Type,
            flags: HashSet::from([FibFlag::Daddr]),
        };
        vec![
            equals(Expression::Named(NamedExpression::Fib(fib)), "local"),
            goto("PUBLISH"),
        ]
    };
    vec![
        plain(MARKER, Vec::new()),
        plain("FROM-OPEN", from(Set::Closed)),
        plain("FROM-ISOLATED", from(Set::Isolated)),
        plain("FROM-STRICT", from(Set::Bridges)),
        plain("FROM-INTERNAL", vec![vec![stays(), ACCEPT], vec![DROP]]),
        plain("FROM-OUTSIDE", from_outside()),
        plain("PUBLISH", publish()),
        plain("MASQUERADE", outgoing(masquerade())),
        plain("SNAT4", outgoing(snat("ip", NATFamily::IP, Set::Snat4))),
        plain("SNAT6", outgoing(snat("ip6", NATFamily::IP6, Set::Snat6))),
        base("RAW", Filter, NfHook::Prerouting, PRIORITY_RAW, raw()),
        base(
            "PREROUTING",
            Nat,
            NfHook::Prerouting,
            PRIORITY_DNAT,
            vec![local()],
        ),
        base("OUTPUT", Nat, NfHook::Output, PRIORITY_DNAT, vec![local()]),
        base(
            "LOOPBACK",
            Filter,
            NfHook::Output,
            PRIORITY_FILTER,
            loopback(),
        ),
        base("INPUT", Filter, NfHook::Input, PRIORITY_FILTER, input()),
        base(
            "FORWARD",
            Filter,
            NfHook::Forward,
            PRIORITY_FILTER,
            forward(),
        ),
        base(
            "POSTROUTING",
            Nat,
            NfHook::Postrouting,
            PRIORITY_SNAT,
            postrouting(),
        ),
    ]
}

/// Nobody but ourselves may send to our loopback addresses. The kernel drops such packets by itself
/// only while no destination translation comes first and `route_localnet` is off.
fn raw() -> Vec<Vec<Statement<'static>>> {
    let foreign = || {
        is(
            meta(MetaKey::Iifname),
            Operator::NEQ,
            Expression::String("lo".into()),
        )
    };
    vec![vec![
        foreign(),
        within(payload("ip", "daddr"), "127.0.0.0", 8),
        DROP,
    ]]
}

fn input() -> Vec<Vec<Statement<'static>>> {
    let dns = |ip, set| {
        vec![
            among(meta(MetaKey::Iifname), Set::Bridges),
            among(destination(ip), set),
            ACCEPT,
        ]
    };
    vec![dns("ip", Set::Dns4), dns("ip6", Set::Dns6)]
}

fn forward() -> Vec<Vec<Statement<'static>>> {
    vec![
        vec![state(&["established", "related"]), ACCEPT],
        vec![vmap(meta(MetaKey::Iifname), Set::From)],
        vec![vmap(payload("ip", "saddr"), Set::FromVrf4)],
        vec![vmap(payload("ip6", "saddr"), Set::FromVrf6)],
        vec![
            among(meta(MetaKey::Oifname), Set::Bridges),
            goto("FROM-OUTSIDE"),
        ],
    ]
}

/// What a network may reach: itself, published ports, and everything but some bridges.
fn from(unreachable: Set) -> Vec<Vec<Statement<'static>>> {
    vec![
        vec![stays(), ACCEPT],
        vec![translated(), ACCEPT],
        vec![state(&["invalid"]), DROP],
        vec![among(meta(MetaKey::Oifname), unreachable), DROP],
        vec![ACCEPT],
    ]
}

/// What may come from outside: published ports, and what the policy allows, but nothing into internal
/// networks and nothing that is published on loopback addresses alone.
fn from_outside() -> Vec<Vec<Statement<'static>>> {
    vec![
        vec![among(meta(MetaKey::Oifname), Set::Internal), DROP],
        vec![translated(), ACCEPT],
        vec![state(&["invalid"]), DROP],
        vec![among(destination("ip"), Set::LoopbackOnly4), DROP],
        vec![among(destination("ip6"), Set::LoopbackOnly6), DROP],
    ]
}

fn publish() -> Vec<Vec<Statement<'static>>> {
    let dnat = |family, key, set| Statement::DNAT(looked_up(family, key, set));
    let any = || concat(vec![meta(MetaKey::L4proto), payload("th", "dport")]);
    let only = |family: &'static str| equals(meta(MetaKey::Nfproto), family);
    vec![
        vec![dnat(NATFamily::IP, destination("ip"), Set::DnsRedirect4)],
        vec![dnat(NATFamily::IP6, destination("ip6"), Set::DnsRedirect6)],
        vec![among(destination("ip"), Set::Dns4), RETURN],
        vec![among(destination("ip6"), Set::Dns6), RETURN],
        vec![dnat(NATFamily::IP, destination("ip"), Set::PublishAt4)],
        vec![dnat(NATFamily::IP6, destination("ip6"), Set::PublishAt6)],
        vec![only("ipv4"), dnat(NATFamily::IP, any(), Set::Publish4)],
        vec![only("ipv6"), dnat(NATFamily::IP6, any(), Set::Publish6)],
    ]
}

/// Answers to `::1` are lost in the bridge layer when it passes packets to the filter: refuse at once. Here the packet
/// has its new destination already, but not the interface that leads there.
fn loopback() -> Vec<Vec<Statement<'static>>> {
    let reject = |kind, code| Statement::Reject(Some(Reject::new(Some(kind), code)));
    let lost = || {
        vec![
            equals(payload("ip6", "saddr"), "::1"),
            translated(),
            among(payload("ip6", "daddr"), Set::NoLoopback6),
        ]
    };
    let mut tcp = lost();
    tcp.insert(0, equals(meta(MetaKey::L4proto), "tcp"));
    tcp.push(reject(RejectType::TCPReset, None));
    let mut other = lost();
    other.push(reject(RejectType::ICMPX, Some(RejectCode::PortUnreach)));
    vec![tcp, other]
}

fn postrouting() -> Vec<Vec<Statement<'static>>> {
    // The answer must come back through us: clients of the same network, or on another one.
    let neighbour = |ip, set| {
        let to_bridge = among(meta(MetaKey::Oifname), Set::Bridges);
        vec![
            translated(),
            to_bridge,
            among(payload(ip, "saddr"), set),
            masquerade(),
        ]
    };
    vec![
        neighbour("ip", Set::Subnets4),
        neighbour("ip6", Set::Subnets6),
        vec![
            translated(),
            within(payload("ip", "saddr"), "127.0.0.0", 8),
            masquerade(),
        ],
        vec![
            translated(),
            equals(payload("ip6", "saddr"), "::1"),
            masquerade(),
        ],
        vec![vmap(payload("ip", "saddr"), Set::Outbound4)],
        vec![vmap(payload("ip6", "saddr"), Set::Outbound6)],
    ]
}

/// What leaves a network is translated, except to groups of receivers.
fn outgoing(translation: Statement<'static>) -> Vec<Vec<Statement<'static>>> {
    // The bridge layer shows packets between ports of a bridge here without the interface that they came in by.
    let bridged = || is(meta(MetaKey::Iif), Operator::EQ, Expression::Number(0));
    vec![
        vec![stays(), RETURN],
        vec![
            bridged(),
            among(meta(MetaKey::Oifname), Set::Bridges),
            RETURN,
        ],
        vec![within(payload("ip", "daddr"), "224.0.0.0", 4), RETURN],
        vec![within(payload("ip6", "daddr"), "ff00::", 8), RETURN],
        vec![translation],
    ]
}

fn snat(ip: &'static str, family: NATFamily, set: Set) -> Statement<'static> {
    Statement::SNAT(looked_up(family, payload(ip, "saddr"), set))
}
