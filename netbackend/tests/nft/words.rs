//! Short constructors for the values of the crate `nftables`, and the ruleset that the tests apply.

use std::collections::HashSet;

use netbackend::nft::{Command, VerdictMap};
use nftables::expr::{
    BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Map as MapExpression, Meta, MetaKey,
    NamedExpression, Payload, PayloadField, Prefix, Range, SetItem, Verdict,
};
use nftables::schema::{
    Chain, Element, FlushObject, Map, NfCmd, NfListObject, Rule, Set, SetFlag, SetType,
    SetTypeValue, Table,
};
use nftables::stmt::{
    Counter, JumpTarget, Mangle, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement,
    VerdictMap as Vmap,
};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook, RejectCode};

pub(crate) type E = Expression<'static>;
pub(crate) type S = Statement<'static>;

pub(crate) const TABLE: &str = "netavark";
const INET: NfFamily = NfFamily::INet;

pub(crate) fn add(object: NfListObject<'static>) -> Command {
    NfCmd::Add(object).into()
}

pub(crate) fn delete(object: NfListObject<'static>) -> Command {
    NfCmd::Delete(object).into()
}

pub(crate) fn table() -> Table<'static> {
    Table {
        family: INET,
        name: TABLE.into(),
        handle: None,
    }
}

pub(crate) fn chain(name: &'static str) -> Chain<'static> {
    Chain {
        family: INET,
        table: TABLE.into(),
        name: name.into(),
        ..Chain::default()
    }
}

pub(crate) fn base(
    name: &'static str,
    kind: NfChainType,
    hook: NfHook,
    priority: i32,
) -> Chain<'static> {
    Chain {
        _type: Some(kind),
        hook: Some(hook),
        prio: Some(priority),
        ..chain(name)
    }
}

pub(crate) fn rule(chain: &'static str, statements: Vec<S>) -> NfListObject<'static> {
    NfListObject::Rule(Rule {
        family: INET,
        table: TABLE.into(),
        chain: chain.into(),
        expr: statements.into(),
        ..Rule::default()
    })
}

fn type_value(types: &[SetType]) -> SetTypeValue<'static> {
    match types {
        [one] => SetTypeValue::Single(*one),
        many => SetTypeValue::Concatenated(many.to_vec().into()),
    }
}

fn flags(interval: bool) -> Option<HashSet<SetFlag>> {
    interval.then(|| HashSet::from([SetFlag::Interval]))
}

pub(crate) fn set(name: &'static str, key: &[SetType], interval: bool) -> Set<'static> {
    Set {
        family: INET,
        table: TABLE.into(),
        name: name.into(),
        set_type: type_value(key),
        flags: flags(interval),
        ..Set::default()
    }
}

pub(crate) fn map(
    name: &'static str,
    key: &[SetType],
    data: &[SetType],
    interval: bool,
) -> Map<'static> {
    Map {
        family: INET,
        table: TABLE.into(),
        name: name.into(),
        set_type: type_value(key),
        map: type_value(data),
        flags: flags(interval),
        ..Map::default()
    }
}

pub(crate) fn add_set(name: &'static str, key: &[SetType], interval: bool) -> Command {
    add(NfListObject::Set(Box::new(set(name, key, interval))))
}

pub(crate) fn add_map(
    name: &'static str,
    key: &[SetType],
    data: &[SetType],
    interval: bool,
) -> Command {
    add(NfListObject::Map(Box::new(map(name, key, data, interval))))
}

pub(crate) fn verdict_map(name: &'static str, key: &[SetType], interval: bool) -> Command {
    Command::AddVerdictMap(VerdictMap {
        family: INET,
        table: TABLE.into(),
        name: name.into(),
        key: type_value(key),
        interval,
        size: None,
    })
}

pub(crate) fn elements(set: &'static str, elements: Vec<E>) -> NfListObject<'static> {
    NfListObject::Element(Element {
        family: INET,
        table: TABLE.into(),
        name: set.into(),
        elem: elements.into(),
    })
}

pub(crate) fn add_elements(set: &'static str, list: Vec<E>) -> Command {
    add(elements(set, list))
}

pub(crate) fn flush_chain(name: &'static str) -> Command {
    NfCmd::Flush(FlushObject::Chain(chain(name))).into()
}

pub(crate) fn s(text: &str) -> E {
    Expression::String(text.to_owned().into())
}

pub(crate) fn n(number: u32) -> E {
    Expression::Number(number)
}

pub(crate) fn pair(key: E, data: E) -> E {
    Expression::List(vec![key, data])
}

pub(crate) fn concat(parts: Vec<E>) -> E {
    Expression::Named(NamedExpression::Concat(parts))
}

pub(crate) fn prefix(address: &str, len: u32) -> E {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(s(address)),
        len,
    }))
}

pub(crate) fn range(first: E, last: E) -> E {
    Expression::Range(Box::new(Range {
        range: [first, last],
    }))
}

pub(crate) fn any_of(items: Vec<E>) -> E {
    Expression::Named(NamedExpression::Set(
        items.into_iter().map(SetItem::Element).collect(),
    ))
}

pub(crate) fn go(target: &'static str) -> E {
    Expression::Verdict(Verdict::Goto(JumpTarget {
        target: target.into(),
    }))
}

pub(crate) fn meta(key: MetaKey) -> E {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(crate) fn iif() -> E {
    meta(MetaKey::Iifname)
}

pub(crate) fn oif() -> E {
    meta(MetaKey::Oifname)
}

pub(crate) fn l4() -> E {
    meta(MetaKey::L4proto)
}

pub(crate) fn mark() -> E {
    meta(MetaKey::Mark)
}

pub(crate) fn ct(key: &'static str) -> E {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        ..CT::default()
    }))
}

pub(crate) fn field(protocol: &'static str, field: &'static str) -> E {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

pub(crate) fn dport() -> E {
    field("th", "dport")
}

pub(crate) fn fib_local() -> S {
    let fib = Fib {
        result: FibResult::Type,
        flags: HashSet::from([FibFlag::Daddr]),
    };
    eq(Expression::Named(NamedExpression::Fib(fib)), s("local"))
}

pub(crate) fn or(left: E, right: E) -> E {
    Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![left, right])))
}

pub(crate) fn and(left: E, right: E) -> E {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(left, right)))
}

pub(crate) fn mapped(key: E, map: &'static str) -> E {
    Expression::Named(NamedExpression::Map(Box::new(MapExpression {
        key,
        data: s(map),
    })))
}

fn matches(left: E, op: Operator, right: E) -> S {
    Statement::Match(Match { left, right, op })
}

pub(crate) fn eq(left: E, right: E) -> S {
    matches(left, Operator::EQ, right)
}

pub(crate) fn ne(left: E, right: E) -> S {
    matches(left, Operator::NEQ, right)
}

pub(crate) fn is(left: E, right: E) -> S {
    matches(left, Operator::IN, right)
}

pub(crate) fn goto(target: &'static str) -> S {
    Statement::Goto(JumpTarget {
        target: target.into(),
    })
}

pub(crate) fn jump(target: &'static str) -> S {
    Statement::Jump(JumpTarget {
        target: target.into(),
    })
}

pub(crate) const ACCEPT: S = Statement::Accept(None);
pub(crate) const DROP: S = Statement::Drop(None);
pub(crate) const RETURN: S = Statement::Return(None);
pub(crate) const MASQUERADE: S = Statement::Masquerade(None);

pub(crate) fn vmap(key: E, data: E) -> S {
    Statement::VerdictMap(Vmap { key, data })
}

pub(crate) fn mangle(key: E, value: E) -> S {
    Statement::Mangle(Mangle { key, value })
}

pub(crate) fn reject(kind: Option<RejectType>, code: Option<RejectCode>) -> S {
    Statement::Reject(Some(Reject::new(kind, code)))
}

pub(crate) fn nat(
    family: Option<NATFamily>,
    address: Option<E>,
    port: Option<u32>,
) -> NAT<'static> {
    NAT {
        addr: address,
        family,
        port: port.map(n),
        flags: None,
    }
}

pub(crate) fn dnat(family: NATFamily, address: E, port: Option<u32>) -> S {
    Statement::DNAT(Some(nat(Some(family), Some(address), port)))
}

pub(crate) fn snat(family: NATFamily, address: E) -> S {
    Statement::SNAT(Some(nat(Some(family), Some(address), None)))
}

use SetType::{
    Ifname, InetProto as Proto, InetService as Port, Ipv4Addr as Ip4, Ipv6Addr as Ip6, Mark,
};

/// Table, chains, sets and maps of the ruleset.
pub(crate) fn declarations() -> Vec<Command> {
    use NfChainType::{Filter, NAT as Nat};
    let chains = [
        base("RAW", Filter, NfHook::Prerouting, -300),
        base("INPUT", Filter, NfHook::Input, 0),
        base("FORWARD", Filter, NfHook::Forward, 0),
        base("PREROUTING", Nat, NfHook::Prerouting, -100),
        base("OUTPUT", Nat, NfHook::Output, -100),
        base("POSTROUTING", Nat, NfHook::Postrouting, 100),
    ];
    let plain = [
        "NETBACKEND-1",
        "FROM-OUTSIDE",
        "FROM-OPEN",
        "PUBLISH",
        "MASQUERADE",
        "SNAT",
    ];
    let mut commands = vec![add(NfListObject::Table(table()))];
    commands.extend(
        chains
            .into_iter()
            .map(|chain| add(NfListObject::Chain(chain))),
    );
    commands.extend(plain.map(|name| add(NfListObject::Chain(chain(name)))));
    commands.extend(
        ["bridges", "isolated", "closed", "internal"].map(|name| add_set(name, &[Ifname], false)),
    );
    commands.extend([
        add_set("own", &[Ifname, Ifname], false),
        verdict_map("forward", &[Ifname], false),
        verdict_map("outbound4", &[Ifname, Ip4], true),
        verdict_map("outbound6", &[Ifname, Ip6], true),
        add_map("snat4", &[Ifname, Ip4], &[Ip4], true),
        add_map("snat6", &[Ifname, Ip6], &[Ip6], true),
        add_set("dns4", &[Proto, Ip4, Port], false),
        add_map("dns_redirect4", &[Ip4, Proto, Port], &[Ip4, Port], false),
        add_map("publish4", &[Proto, Port], &[Ip4, Port], false),
        add_map("publish_addr4", &[Ip4, Proto, Port], &[Ip4, Port], false),
        add_map("publish6", &[Proto, Port], &[Ip6, Port], false),
        add_map("publish_range4", &[Proto, Port], &[Ip4], true),
        add_set("loopback_only4", &[Ip4, Proto, Port], false),
        add_set("ports", &[Port], true),
        add_set("nets4", &[Ip4], true),
        add_set("nets6", &[Ip6], true),
        add_set("protos", &[Proto], false),
        add_set("marks", &[Mark, Mark], false),
        add_map("mark_of", &[Ip6], &[Mark], false),
        add_map("twin", &[Ip4, Mark], &[Ifname], false),
    ]);
    commands
}

/// The chains of the ruleset that have rules.
pub(crate) const RULE_CHAINS: [&str; 11] = [
    "RAW",
    "INPUT",
    "FORWARD",
    "FROM-OUTSIDE",
    "FROM-OPEN",
    "PREROUTING",
    "OUTPUT",
    "PUBLISH",
    "POSTROUTING",
    "MASQUERADE",
    "SNAT",
];

/// The rules of the ruleset.
pub(crate) fn rules() -> Vec<Command> {
    let own = || eq(concat(vec![iif(), oif()]), s("@own"));
    let published = || is(ct("status"), s("dnat"));
    let ip4 = |name| concat(vec![field("ip", name), l4(), dport()]);
    let port = || concat(vec![l4(), dport()]);
    let multicast4 = || eq(field("ip", "daddr"), prefix("224.0.0.0", 4));
    let multicast6 = || eq(field("ip6", "daddr"), prefix("ff00::", 8));
    let family = |name| eq(meta(MetaKey::Nfproto), s(name));
    let rules = [
        (
            "RAW",
            vec![
                ne(iif(), s("lo")),
                eq(field("ip", "daddr"), prefix("127.0.0.0", 8)),
                DROP,
            ],
        ),
        (
            "INPUT",
            vec![
                eq(iif(), s("@bridges")),
                eq(
                    concat(vec![l4(), field("ip", "daddr"), dport()]),
                    s("@dns4"),
                ),
                ACCEPT,
            ],
        ),
        (
            "FORWARD",
            vec![
                is(
                    ct("state"),
                    Expression::List(vec![s("established"), s("related")]),
                ),
                ACCEPT,
            ],
        ),
        ("FORWARD", vec![vmap(iif(), s("@forward"))]),
        ("FORWARD", vec![eq(oif(), s("@internal")), DROP]),
        (
            "FORWARD",
            vec![eq(oif(), s("@bridges")), goto("FROM-OUTSIDE")],
        ),
        ("FROM-OUTSIDE", vec![published(), ACCEPT]),
        ("FROM-OUTSIDE", vec![is(ct("state"), s("invalid")), DROP]),
        (
            "FROM-OUTSIDE",
            vec![eq(ip4("daddr"), s("@loopback_only4")), DROP],
        ),
        ("FROM-OPEN", vec![own(), ACCEPT]),
        ("FROM-OPEN", vec![published(), ACCEPT]),
        ("FROM-OPEN", vec![is(ct("state"), s("invalid")), DROP]),
        ("FROM-OPEN", vec![eq(oif(), s("@closed")), DROP]),
        ("FROM-OPEN", vec![ACCEPT]),
        ("PREROUTING", vec![fib_local(), goto("PUBLISH")]),
        ("OUTPUT", vec![fib_local(), goto("PUBLISH")]),
        (
            "PUBLISH",
            vec![dnat(
                NATFamily::IP,
                mapped(ip4("daddr"), "@dns_redirect4"),
                None,
            )],
        ),
        (
            "PUBLISH",
            vec![dnat(
                NATFamily::IP,
                mapped(ip4("daddr"), "@publish_addr4"),
                None,
            )],
        ),
        (
            "PUBLISH",
            vec![
                family("ipv4"),
                dnat(NATFamily::IP, mapped(port(), "@publish4"), None),
            ],
        ),
        (
            "PUBLISH",
            vec![
                family("ipv6"),
                dnat(NATFamily::IP6, mapped(port(), "@publish6"), None),
            ],
        ),
        (
            "PUBLISH",
            vec![
                family("ipv4"),
                dnat(NATFamily::IP, mapped(port(), "@publish_range4"), None),
            ],
        ),
        ("POSTROUTING", vec![published(), own(), MASQUERADE]),
        (
            "POSTROUTING",
            vec![
                published(),
                eq(field("ip", "saddr"), prefix("127.0.0.0", 8)),
                MASQUERADE,
            ],
        ),
        (
            "POSTROUTING",
            vec![vmap(
                concat(vec![iif(), field("ip", "saddr")]),
                s("@outbound4"),
            )],
        ),
        (
            "POSTROUTING",
            vec![vmap(
                concat(vec![iif(), field("ip6", "saddr")]),
                s("@outbound6"),
            )],
        ),
        ("MASQUERADE", vec![own(), RETURN]),
        ("MASQUERADE", vec![multicast4(), RETURN]),
        ("MASQUERADE", vec![multicast6(), RETURN]),
        ("MASQUERADE", vec![MASQUERADE]),
        ("SNAT", vec![own(), RETURN]),
        ("SNAT", vec![multicast4(), RETURN]),
        (
            "SNAT",
            vec![snat(
                NATFamily::IP,
                mapped(concat(vec![iif(), field("ip", "saddr")]), "@snat4"),
            )],
        ),
        (
            "SNAT",
            vec![snat(
                NATFamily::IP6,
                mapped(concat(vec![iif(), field("ip6", "saddr")]), "@snat6"),
            )],
        ),
    ];
    rules
        .into_iter()
        .map(|(chain, statements)| add(rule(chain, statements)))
        .collect()
}

/// Elements for every set and map of the ruleset.
pub(crate) fn contents() -> Vec<Command> {
    let endpoint = |address, port| concat(vec![s(address), n(port)]);
    let verdict = |verdict| Expression::Verdict(verdict);
    vec![
        add_elements("bridges", vec![s("podman0"), s("podman1"), s("10.0.0.1")]),
        add_elements("isolated", vec![s("podman2")]),
        add_elements("closed", vec![s("podman2"), s("fifteen-letters")]),
        add_elements("internal", vec![s("podman3")]),
        add_elements("own", vec![concat(vec![s("podman1"), s("podman1")])]),
        add_elements(
            "forward",
            vec![
                pair(s("podman1"), go("FROM-OPEN")),
                pair(s("podman4"), verdict(Verdict::Accept)),
                pair(s("podman5"), verdict(Verdict::Drop)),
                pair(s("podman6"), verdict(Verdict::Return)),
                pair(
                    s("podman7"),
                    verdict(Verdict::Jump(JumpTarget {
                        target: "FROM-OUTSIDE".into(),
                    })),
                ),
            ],
        ),
        add_elements(
            "outbound4",
            vec![
                pair(
                    concat(vec![s("podman1"), prefix("10.88.0.0", 16)]),
                    go("MASQUERADE"),
                ),
                pair(concat(vec![s("podman2"), s("10.89.0.5")]), go("SNAT")),
                pair(
                    concat(vec![s("podman2"), range(s("10.90.0.5"), s("10.90.0.77"))]),
                    go("SNAT"),
                ),
            ],
        ),
        add_elements(
            "outbound6",
            vec![pair(
                concat(vec![s("podman1"), prefix("fd00::", 63)]),
                go("MASQUERADE"),
            )],
        ),
        add_elements(
            "snat4",
            vec![pair(
                concat(vec![s("podman1"), prefix("10.88.0.0", 17)]),
                s("192.0.2.1"),
            )],
        ),
        add_elements(
            "snat6",
            vec![pair(
                concat(vec![s("podman1"), prefix("fd00::", 64)]),
                s("2001:db8::1"),
            )],
        ),
        add_elements("dns4", vec![concat(vec![s("udp"), s("10.88.0.1"), n(53)])]),
        add_elements(
            "dns_redirect4",
            vec![pair(
                concat(vec![s("10.88.0.1"), s("udp"), n(53)]),
                endpoint("10.88.0.1", 1153),
            )],
        ),
        add_elements(
            "publish4",
            vec![
                pair(concat(vec![s("tcp"), n(8080)]), endpoint("10.88.0.2", 80)),
                pair(concat(vec![s("sctp"), n(65535)]), endpoint("10.88.0.3", 1)),
            ],
        ),
        add_elements(
            "publish_addr4",
            vec![pair(
                concat(vec![s("192.0.2.7"), s("udp"), n(8080)]),
                endpoint("10.88.0.2", 80),
            )],
        ),
        add_elements(
            "publish6",
            vec![pair(
                concat(vec![s("tcp"), n(8080)]),
                endpoint("fd00::2", 80),
            )],
        ),
        add_elements(
            "publish_range4",
            vec![pair(
                concat(vec![s("tcp"), range(n(2000), n(2999))]),
                s("10.88.0.9"),
            )],
        ),
        add_elements(
            "loopback_only4",
            vec![concat(vec![s("10.88.0.2"), s("tcp"), n(80)])],
        ),
        add_elements(
            "ports",
            vec![
                n(22),
                range(n(8000), n(8999)),
                range(n(9000), n(9001)),
                range(n(60000), n(65535)),
            ],
        ),
        add_elements(
            "nets4",
            vec![
                prefix("10.0.0.0", 8),
                s("192.0.2.1"),
                prefix("240.0.0.0", 4),
            ],
        ),
        add_elements("nets6", vec![prefix("fd00::", 8), s("2001:db8::1")]),
        add_elements(
            "protos",
            vec![s("tcp"), s("udp"), s("icmp"), s("ipv6-icmp"), n(132)],
        ),
        add_elements("marks", vec![concat(vec![n(1), n(0x2000)])]),
        add_elements("mark_of", vec![pair(s("2001:db8::1"), n(7))]),
        add_elements(
            "twin",
            vec![pair(concat(vec![s("10.0.0.1"), n(7)]), s("podman1"))],
        ),
    ]
}

/// Declarations, rules and contents.
pub(crate) fn ruleset() -> Vec<Command> {
    let mut commands = declarations();
    commands.extend(rules());
    commands.extend(contents());
    commands
}

/// One rule for each thing that a rule can say and the ruleset does not.
pub(crate) fn odds_and_ends() -> Vec<Command> {
    let tcp = || eq(l4(), s("tcp"));
    let filter = [
        vec![
            eq(field("tcp", "dport"), n(80)),
            reject(Some(RejectType::TCPReset), None),
        ],
        vec![tcp(), eq(field("tcp", "sport"), n(80)), ACCEPT],
        vec![
            eq(field("ip", "saddr"), s("10.0.0.1")),
            eq(field("ip", "daddr"), s("10.0.0.2")),
            DROP,
        ],
        vec![
            eq(field("ip", "saddr"), s("10.0.0.1")),
            Statement::Reject(None),
        ],
        vec![
            eq(field("ip6", "saddr"), s("fd00::1")),
            Statement::Reject(None),
        ],
        vec![reject(
            Some(RejectType::ICMPX),
            Some(RejectCode::AdminProhibited),
        )],
        vec![reject(
            Some(RejectType::ICMPX),
            Some(RejectCode::PortUnreach),
        )],
        vec![Statement::Reject(None)],
        vec![
            Statement::Counter(Counter::Anonymous(None)),
            Statement::Continue(None),
        ],
        vec![mangle(mark(), or(mark(), n(0x2000)))],
        vec![mangle(mark(), and(mark(), n(0x2000)))],
        vec![mangle(mark(), n(5))],
        vec![mangle(ct("mark"), n(0xdead))],
        vec![mangle(ct("mark"), mark())],
        vec![mangle(mark(), ct("mark"))],
        vec![eq(mark(), n(5)), ne(ct("mark"), n(6)), ACCEPT],
        vec![eq(and(mark(), n(0x2000)), n(0x2000)), ACCEPT],
        vec![
            ne(ct("state"), s("established")),
            eq(ct("state"), s("new")),
            ACCEPT,
        ],
        vec![eq(ct("direction"), s("original")), ACCEPT],
        vec![
            eq(dport(), range(n(1000), n(2000))),
            ne(dport(), range(n(1500), n(1501))),
            ACCEPT,
        ],
        vec![eq(dport(), s("@ports")), ACCEPT],
        vec![ne(iif(), s("@bridges")), ACCEPT],
        vec![eq(field("ip", "saddr"), s("@nets4")), ACCEPT],
        vec![ne(field("ip6", "saddr"), s("@nets6")), ACCEPT],
        vec![
            eq(l4(), any_of(vec![s("tcp"), s("udp")])),
            eq(dport(), n(53)),
            ACCEPT,
        ],
        vec![
            eq(dport(), any_of(vec![n(80), range(n(90), n(100))])),
            ACCEPT,
        ],
        vec![
            ne(
                field("ip", "saddr"),
                any_of(vec![prefix("10.0.0.0", 8), s("192.0.2.1")]),
            ),
            ACCEPT,
        ],
        vec![
            eq(
                concat(vec![field("ip", "saddr"), field("tcp", "dport")]),
                any_of(vec![concat(vec![s("10.0.0.1"), n(80)])]),
            ),
            ACCEPT,
        ],
        vec![vmap(
            iif(),
            Expression::Named(NamedExpression::Set(vec![
                SetItem::Mapping(s("a"), Expression::Verdict(Verdict::Accept)),
                SetItem::Mapping(s("b"), go("FROM-OPEN")),
            ])),
        )],
        vec![ne(field("ip", "saddr"), prefix("10.0.0.0", 9)), ACCEPT],
        vec![eq(field("ip6", "daddr"), prefix("2001:db8::", 33)), ACCEPT],
        vec![
            eq(field("ip", "saddr"), range(s("10.0.0.5"), s("10.0.0.9"))),
            ACCEPT,
        ],
        vec![
            ne(meta(MetaKey::Nfproto), s("ipv4")),
            eq(field("ip6", "saddr"), s("::1")),
            ACCEPT,
        ],
        vec![eq(concat(vec![mark(), ct("mark")]), s("@marks")), ACCEPT],
        vec![jump("FROM-OPEN")],
    ];
    let mut commands: Vec<Command> = filter
        .into_iter()
        .map(|statements| add(rule("FROM-OUTSIDE", statements)))
        .collect();
    commands.extend([
        add(rule(
            "RAW",
            vec![eq(field("udp", "dport"), n(53)), Statement::Notrack],
        )),
        add(rule(
            "PUBLISH",
            vec![dnat(NATFamily::IP, s("10.0.0.1"), None)],
        )),
        add(rule(
            "PUBLISH",
            vec![
                eq(field("tcp", "dport"), n(80)),
                dnat(NATFamily::IP, s("10.0.0.1"), Some(81)),
            ],
        )),
        add(rule(
            "PUBLISH",
            vec![tcp(), dnat(NATFamily::IP6, s("fd00::1"), Some(81))],
        )),
        add(rule(
            "PUBLISH",
            vec![tcp(), Statement::DNAT(Some(nat(None, None, Some(82))))],
        )),
        add(rule("SNAT", vec![snat(NATFamily::IP6, s("2001:db8::7"))])),
        NfCmd::Insert(rule("SNAT", vec![eq(oif(), s("inserted")), ACCEPT])).into(),
        add(NfListObject::Chain(Chain {
            policy: Some(NfChainPolicy::Drop),
            ..base("FORWARD", NfChainType::Filter, NfHook::Forward, 0)
        })),
    ]);
    commands
}
