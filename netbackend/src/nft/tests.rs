//! What needs no kernel: bytes that must not change unnoticed, text, and refusals.

use nftables::expr::{Meta, NamedExpression, Payload, PayloadField, Prefix, RT};
use nftables::schema::{Chain, Element, Rule, Set, SetType, Table};
use nftables::stmt::{JumpTarget, Match, Operator, Statement};
use nftables::types::{NfChainType, NfHook};

use super::*;
use crate::nft::netlink::encode;

fn add(object: NfListObject<'static>) -> Command {
    NfCmd::Add(object).into()
}

fn s(text: &'static str) -> Expression<'static> {
    Expression::String(text.into())
}

fn concat(parts: Vec<Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(parts))
}

fn iifname() -> Expression<'static> {
    let key = nftables::expr::MetaKey::Iifname;
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

fn prefix(address: &'static str, len: u32) -> Expression<'static> {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(s(address)),
        len,
    }))
}

fn table() -> Command {
    add(NfListObject::Table(Table {
        name: "t".into(),
        family: NfFamily::INet,
        handle: None,
    }))
}

fn rule(expr: Vec<Statement<'static>>) -> Command {
    add(NfListObject::Rule(Rule {
        family: NfFamily::INet,
        table: "t".into(),
        chain: "c".into(),
        expr: expr.into(),
        ..Rule::default()
    }))
}

fn matching(
    left: Expression<'static>,
    op: Operator,
    right: Expression<'static>,
) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn set(key: Vec<SetType>) -> Command {
    add(NfListObject::Set(Box::new(Set {
        family: NfFamily::INet,
        table: "t".into(),
        name: "s".into(),
        set_type: SetTypeValue::Concatenated(key.into()),
        ..Set::default()
    })))
}

fn outbound() -> Command {
    Command::AddVerdictMap(VerdictMap {
        family: NfFamily::INet,
        table: "t".into(),
        name: "v".into(),
        key: SetTypeValue::Concatenated(vec![SetType::Ifname, SetType::Ipv4Addr].into()),
        interval: true,
        size: Some(8),
    })
}

fn elements(set: &'static str, elements: Vec<Expression<'static>>) -> Command {
    add(NfListObject::Element(Element {
        family: NfFamily::INet,
        table: "t".into(),
        name: set.into(),
        elem: elements.into(),
    }))
}

fn goto(chain: &'static str) -> Expression<'static> {
    Expression::Verdict(Verdict::Goto(JumpTarget {
        target: chain.into(),
    }))
}

fn transaction(commands: Vec<Command>) -> Transaction {
    Transaction::new(Schema::default(), commands)
}

/// The bytes in words of four, without begin and end of the batch; begin and end take twenty bytes each.
fn words(command: Command) -> String {
    let schema = Schema::declared(&[outbound(), set(vec![SetType::Ifname, SetType::InetService])]);
    let batch = encode(&Transaction::new(schema, vec![command]), 7).unwrap();
    let bytes = batch.bytes();
    let inner = &bytes[20..bytes.len() - 20];
    let word = |word: &[u8]| {
        word.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    inner.chunks(4).map(word).collect::<Vec<_>>().join(" ")
}

fn line(command: Command) -> String {
    let schema = Schema::declared(&[outbound(), set(vec![SetType::Ifname, SetType::InetService])]);
    text::line(&schema, &command)
}

#[test]
fn batch_frames_its_messages() {
    let batch = encode(
        &transaction(vec![
            table(),
            set(vec![SetType::Ifname; 2]),
            elements("s", Vec::new()),
        ]),
        7,
    )
    .unwrap();
    let kinds = |offset: usize| batch.bytes()[offset..offset + 16].to_vec();
    // Length, type 0x0010, request, sequence 7, port.
    assert_eq!(
        kinds(0),
        [20, 0, 0, 0, 0x10, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(batch.bytes()[16..20], [0, 0, 0, 10]);
    assert_eq!(
        kinds(batch.bytes().len() - 20),
        [20, 0, 0, 0, 0x11, 0, 1, 0, 10, 0, 0, 0, 0, 0, 0, 0]
    );
    let commands: Vec<_> = (6..11).map(|sequence| batch.command_of(sequence)).collect();
    assert_eq!(commands, [None, None, Some(0), Some(1), None]);
    assert_eq!(batch.acknowledged(), Some(9));
    assert_eq!(batch.next_sequence(), 11);
}

#[test]
fn nothing_to_do_is_not_acknowledged() {
    assert_eq!(
        encode(&Transaction::default(), 1).unwrap().acknowledged(),
        None
    );
}

#[test]
fn bytes_stay_as_they_are() {
    let check = |command, expected: &str| assert_eq!(words(command), expected);
    check(
        table(),
        "24000000 000a0504 08000000 00000000 01000000 06000100 74000000 08000200 00000000",
    );
    check(
        outbound(),
        "8c000000 090a0504 08000000 00000000 01000000 06000100 74000000 06000200 76000000 08000300 0000008c 08000400 00000a47 08000500 00000014 08000600 ffffff00 08000700 00000000 08000a00 00000001 28000980 08000100 00000008 1c000200 0c000180 08000100 00000010 0c000180 08000100 00000004 10000d00 00040000 00000104 00000000",
    );
    check(
        elements(
            "v",
            vec![Expression::List(vec![
                concat(vec![s("p"), prefix("10.88.0.0", 16)]),
                goto("c"),
            ])],
        ),
        "7c000000 0c0a0504 08000000 00000000 01000000 06000100 74000000 06000200 76000000 58000380 54000180 1c000180 18000100 70000000 00000000 00000000 00000000 0a580000 1c000a80 18000100 70000000 00000000 00000000 00000000 0a58ffff 18000280 14000280 08000100 fffffffc 06000200 63000000",
    );
    check(
        rule(vec![
            matching(iifname(), Operator::NEQ, s("lo")),
            matching(field("ip", "daddr"), Operator::EQ, prefix("127.0.0.0", 8)),
            Statement::Drop(None),
        ]),
        "64010000 060a050c 08000000 00000000 01000000 06000100 74000000 06000200 63000000 40010480 24000180 09000100 6d657461 00000000 14000280 08000200 00000006 08000100 00000001 38000180 08000100 636d7000 2c000280 08000100 00000001 08000200 00000001 18000380 14000100 6c6f0000 00000000 00000000 00000000 24000180 09000100 6d657461 00000000 14000280 08000200 0000000f 08000100 00000001 2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 05000100 02000000 34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000001 08000300 00000010 08000400 00000001 2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 05000100 7f000000 30000180 0e000100 696d6d65 64696174 65000000 1c000280 08000100 00000000 10000280 0c000280 08000100 00000000",
    );
}

#[test]
fn text_is_what_nft_reads() {
    let check = |command, expected: &str| assert_eq!(line(command), expected);
    check(table(), "add table inet t");
    check(
        add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: "t".into(),
            name: "c".into(),
            _type: Some(NfChainType::NAT),
            hook: Some(NfHook::Prerouting),
            prio: Some(-100),
            ..Chain::default()
        })),
        "add chain inet t c { type nat hook prerouting priority -100; }",
    );
    check(
        outbound(),
        "add map inet t v { type ifname . ipv4_addr : verdict; flags interval; size 8; }",
    );
    check(
        elements(
            "v",
            vec![Expression::List(vec![
                concat(vec![s("tcp"), prefix("10.88.0.0", 16)]),
                goto("c"),
            ])],
        ),
        "add element inet t v { \"tcp\" . 10.88.0.0/16 : goto c }",
    );
    check(
        rule(vec![
            matching(iifname(), Operator::NEQ, s("lo")),
            matching(field("ip", "daddr"), Operator::EQ, prefix("127.0.0.0", 8)),
            Statement::Drop(None),
        ]),
        "add rule inet t c iifname != \"lo\" ip daddr 127.0.0.0/8 drop",
    );
}

#[test]
fn json_verdicts_are_objects() {
    let drop = Expression::Verdict(Verdict::Drop);
    let commands = vec![
        elements("v", vec![Expression::List(vec![s("p"), drop])]),
        rule(vec![Statement::Notrack]),
        outbound(),
    ];
    let document = json(&transaction(commands));
    assert_eq!(
        document["nftables"][0]["add"]["element"]["elem"],
        json!([["p", { "drop": null }]])
    );
    assert_eq!(
        document["nftables"][1]["add"]["rule"]["expr"],
        json!([{ "notrack": null }])
    );
    assert_eq!(
        document["nftables"][2]["add"]["map"]["map"],
        json!("verdict")
    );
}

#[test]
fn refusals_name_what_they_refuse() {
    let check = |command: Command, expected: &str| {
        let schema =
            Schema::declared(&[outbound(), set(vec![SetType::Ifname, SetType::InetService])]);
        let error = encode(&Transaction::new(schema, vec![table(), command]), 1).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(
        rule(vec![matching(
            Expression::Named(NamedExpression::RT(RT::default())),
            Operator::EQ,
            s("x"),
        )]),
        "cannot encode `add rule inet t c {\"rt\":{\"key\":\"nexthop\"}} x`: unsupported: {\"rt\":{\"key\":\"nexthop\"}}",
    );
    check(
        rule(vec![Statement::Log(None)]),
        "cannot encode `add rule inet t c {\"log\":null}`: unsupported: {\"log\":null}",
    );
    check(
        elements("unknown", vec![s("x")]),
        "cannot encode `add element inet t unknown { \"x\" }`: set unknown is not in the schema",
    );
    check(
        rule(vec![matching(
            field("ip", "daddr"),
            Operator::EQ,
            s("fd00::1"),
        )]),
        "cannot encode `add rule inet t c ip daddr fd00::1`: \"fd00::1\" is not a value of type ipv4_addr",
    );
    check(
        rule(vec![matching(
            field("ip", "daddr"),
            Operator::EQ,
            prefix("10.0.0.0", 33),
        )]),
        "cannot encode `add rule inet t c ip daddr 10.0.0.0/33`: {\"addr\":\"10.0.0.0\",\"len\":33} is not a value of type ipv4_addr",
    );
    check(
        rule(vec![matching(
            iifname(),
            Operator::EQ,
            s("sixteen-letters-"),
        )]),
        "cannot encode `add rule inet t c iifname \"sixteen-letters-\"`: \"sixteen-letters-\" is not a value of type ifname",
    );
    check(
        rule(vec![matching(iifname(), Operator::EQ, s("a\" accept #"))]),
        "cannot encode `add rule inet t c iifname \"a\" accept #\"`: \"a\\\" accept #\" is not a value of type ifname",
    );
    check(
        rule(vec![
            matching(field("ip", "daddr"), Operator::EQ, s("10.0.0.1")),
            matching(field("ip6", "daddr"), Operator::EQ, s("fd00::1")),
        ]),
        "cannot encode `add rule inet t c ip daddr 10.0.0.1 ip6 daddr fd00::1`: protocol 10 is needed, but an earlier match said 2",
    );
    check(
        elements("s", vec![concat(vec![s("p"), Expression::Number(65536)])]),
        "cannot encode `add element inet t s { \"p\" . 65536 }`: 65536 is not a value of type inet_service",
    );
    check(
        elements("s", vec![s("p")]),
        "cannot encode `add element inet t s { \"p\" }`: unsupported: \"p\"",
    );
}

#[test]
fn long_lists_are_split_below_the_limit_of_an_attribute() {
    let many = (0..10_000)
        .map(|port| concat(vec![s("p"), Expression::Number(port)]))
        .collect();
    let schema = Schema::declared(&[set(vec![SetType::Ifname, SetType::InetService])]);
    let batch = encode(&Transaction::new(schema, vec![elements("s", many)]), 1).unwrap();
    let mut rest = batch.bytes();
    let mut messages = 0;
    while let Some(len) = rest.first_chunk::<4>() {
        let len = u32::from_ne_bytes(*len);
        assert!((20..65_535).contains(&len));
        messages += 1;
        rest = &rest[len as usize..];
    }
    assert!(messages > 4);
    assert_eq!(batch.command_of(messages - 1), Some(0));
    assert_eq!(batch.command_of(messages), None);
}

#[test]
fn a_rule_too_long_for_an_attribute_is_refused() {
    let long = transaction(vec![rule(vec![Statement::Notrack; 4000])]);
    let error = encode(&long, 1).unwrap_err();
    assert_eq!(
        error.reason,
        Reason::Unsupported("a rule of that length".to_owned())
    );
    assert!(error.command.len() < 250);
}
