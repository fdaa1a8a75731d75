//! The three spellings of a transaction must mean the same: `nft` is the judge.
//!
//! Each ruleset is made in fresh network namespaces, by netlink, by script and by JSON, and `nft` lists them. Needs root
//! and nft (another one by `NFT=path`); fails without.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a failing helper is a failing test, and tests have effects of their own"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use netbackend::nft::netlink::encode;
use netbackend::nft::{Command, Schema, Transaction, json, text};
use netbackend::sys::nft::{NftError, NftSocket, apply_with_program};
use nftables::schema::{FlushObject, NfCmd, NfListObject, SetType};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

#[path = "nft/words.rs"]
mod words;
use words::*;

/// Runs `test` in a network namespace of its own.
fn in_namespace<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        test()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn nft() -> PathBuf {
    std::env::var_os("NFT").map_or_else(|| PathBuf::from("nft"), PathBuf::from)
}

fn run_nft(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Process::new(nft())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// What nft says of the namespace, as text and as JSON without handles.
#[derive(Debug, PartialEq)]
struct Listing {
    text: Vec<String>,
    json: Vec<Value>,
}

fn listing() -> Listing {
    let text = run_nft(&["-s", "list", "ruleset"], "").unwrap();
    let json: Value =
        serde_json::from_str(&run_nft(&["-s", "-j", "list", "ruleset"], "").unwrap()).unwrap();
    let mut json = json["nftables"].as_array().unwrap().clone();
    for object in &mut json {
        for body in object.as_object_mut().unwrap().values_mut() {
            body.as_object_mut().unwrap().remove("handle");
        }
    }
    Listing {
        text: text.lines().map(str::to_owned).collect(),
        json,
    }
}

fn apply(transactions: &[Transaction]) {
    let mut socket = NftSocket::open().unwrap();
    for transaction in transactions {
        socket.apply(transaction).unwrap();
    }
}

/// nft 1.0.6 reads the JSON of a map with concatenated data as a set.
fn json_has_concatenated_data() -> bool {
    in_namespace(|| {
        let port = [SetType::Ipv4Addr, SetType::InetService];
        let commands = vec![
            add(NfListObject::Table(table())),
            add_map("m", &port, &port, false),
        ];
        let document = json(&Transaction::new(Schema::default(), commands)).to_string();
        run_nft(&["-j", "-f", "-"], &document).unwrap();
        run_nft(&["list", "ruleset"], "").unwrap().contains("map m")
    })
}

fn declares(command: &Command) -> bool {
    matches!(
        command,
        Command::AddVerdictMap(_)
            | Command::Nf(NfCmd::Add(NfListObject::Set(_) | NfListObject::Map(_)))
    )
}

/// By JSON; what this nft cannot read, by script.
fn apply_json(transactions: &[Transaction], by_script: bool) {
    for transaction in transactions {
        let schema = transaction.schema().clone();
        let head = match transaction.commands().iter().rposition(declares) {
            Some(last) if by_script => last + 1,
            _ => 0,
        };
        let (script, rest) = transaction.commands().split_at(head);
        apply_with_program(&nft(), &Transaction::new(schema.clone(), script.to_vec())).unwrap();
        let document = json(&Transaction::new(schema, rest.to_vec()));
        if let Err(error) = run_nft(&["-j", "-f", "-"], &document.to_string()) {
            panic!("{error}\n{document:#}");
        }
    }
}

fn script(transactions: &[Transaction]) -> String {
    transactions.iter().map(text::script).collect()
}

/// Makes the same changes in three namespaces and compares what nft lists.
fn check(transactions: Vec<Vec<Command>>) -> Listing {
    let schema = Schema::declared(&transactions.concat());
    let transactions: Vec<Transaction> = transactions
        .into_iter()
        .map(|commands| Transaction::new(schema.clone(), commands))
        .collect();
    let by_script = !json_has_concatenated_data();
    let (first, second, third) = (transactions.clone(), transactions.clone(), transactions);
    let by_netlink = in_namespace(move || {
        apply(&first);
        listing()
    });
    let by_text = in_namespace(move || {
        for transaction in &second {
            if let Err(error) = apply_with_program(&nft(), transaction) {
                panic!("{error}\n{}", script(&second));
            }
        }
        listing()
    });
    let by_json = in_namespace(move || {
        apply_json(&third, by_script);
        listing()
    });
    assert_same(&by_netlink, &by_text, "netlink, script");
    assert_same(&by_json, &by_text, "JSON, script");
    by_netlink
}

fn assert_same(left: &Listing, right: &Listing, what: &str) {
    for (left, right) in left.text.iter().zip(&right.text) {
        assert_eq!(left, right, "{what}");
    }
    for (left, right) in left.json.iter().zip(&right.json) {
        assert_eq!(left, right, "{what}");
    }
    assert_eq!(left, right, "{what}");
}

#[test]
fn full_ruleset() {
    let listing = check(vec![ruleset()]);
    assert!(listing.text.len() > 200);
}

/// The lists could agree where the instructions differ, in the registers of a translation for instance.
///
/// Before a lookup of `meta l4proto` in a concatenation with intervals, nft 1.0.6 swaps the bytes of one byte, which the
/// kernel does not do: it counts the pairs. Later ones leave that out, and so do we.
#[test]
fn full_ruleset_has_the_instructions_that_nft_makes() {
    let instructions = || {
        let listed = run_nft(&["--debug=netlink", "list", "ruleset"], "").unwrap();
        let instructions = listed
            .lines()
            .filter(|line| line.starts_with("  [") && !line.contains("byteorder"));
        instructions.map(str::to_owned).collect::<Vec<_>>()
    };
    let by_netlink = in_namespace(move || {
        apply(&[with_schema(ruleset())]);
        instructions()
    });
    let by_script = in_namespace(move || {
        apply_with_program(&nft(), &with_schema(ruleset())).unwrap();
        instructions()
    });
    assert!(by_netlink.len() > 100);
    assert_eq!(by_netlink, by_script);
}

#[test]
fn full_ruleset_twice_changes_nothing_but_rules() {
    let mut again: Vec<Command> = RULE_CHAINS.iter().map(|chain| flush_chain(chain)).collect();
    again.extend(ruleset());
    let twice = check(vec![ruleset(), again]);
    assert_same(&twice, &check(vec![ruleset()]), "twice, once");
}

/// JSON has no quotes to tell them apart with, so this is about netlink and script only.
#[test]
fn an_interface_may_be_called_like_a_protocol() {
    let commands = || {
        let mut commands = declarations();
        commands.push(add_elements(
            "bridges",
            vec![s("tcp"), s("drop"), s("10.0.0.1")],
        ));
        commands.push(add_elements(
            "own",
            vec![concat(vec![s("udp"), s("accept")])],
        ));
        commands.push(add(rule(
            "RAW",
            vec![
                ne(iif(), s("tcp")),
                eq(oif(), any_of(vec![s("udp"), s("vmap")])),
                DROP,
            ],
        )));
        Transaction::new(Schema::default(), commands)
    };
    let by_netlink = in_namespace(move || {
        apply(&[commands()]);
        listing()
    });
    let by_script = in_namespace(move || {
        apply_with_program(&nft(), &commands()).unwrap();
        listing()
    });
    assert_same(&by_netlink, &by_script, "netlink, script");
}

#[test]
fn one_rule_of_each_kind() {
    let mut commands = declarations();
    commands.extend(odds_and_ends());
    check(vec![commands]);
}

#[test]
fn elements_are_deleted() {
    let taken = vec![
        delete(elements("bridges", vec![s("podman0"), s("10.0.0.1")])),
        delete(elements(
            "ports",
            vec![range(n(8000), n(8999)), range(n(60000), n(65535))],
        )),
        delete(elements("nets4", vec![prefix("10.0.0.0", 8)])),
        delete(elements("publish4", vec![concat(vec![s("tcp"), n(8080)])])),
        delete(elements(
            "outbound4",
            vec![pair(
                concat(vec![s("podman1"), prefix("10.88.0.0", 16)]),
                go("MASQUERADE"),
            )],
        )),
        delete(elements(
            "forward",
            vec![pair(s("podman1"), go("FROM-OPEN"))],
        )),
    ];
    let listing = check(vec![ruleset(), taken]);
    assert!(!listing.text.concat().contains("10.88.0.2 . 80, "));
}

#[test]
fn objects_are_flushed_and_deleted() {
    let kind = [SetType::Ifname];
    let taken = vec![
        NfCmd::Flush(FlushObject::Set(Box::new(set("bridges", &kind, false)))).into(),
        NfCmd::Flush(FlushObject::Map(Box::new(map(
            "forward", &kind, &kind, false,
        ))))
        .into(),
        flush_chain("FROM-OPEN"),
        delete(NfListObject::Set(Box::new(set("protos", &kind, false)))),
        delete(NfListObject::Map(Box::new(map(
            "mark_of", &kind, &kind, false,
        )))),
        delete(NfListObject::Chain(chain("NETBACKEND-1"))),
    ];
    check(vec![ruleset(), taken.clone()]);
    let flushed = check(vec![
        ruleset(),
        taken,
        vec![NfCmd::Flush(FlushObject::Table(table())).into()],
    ]);
    assert!(flushed.text.concat().contains("chain FROM-OUTSIDE {\t}"));
    check(vec![ruleset(), vec![delete(NfListObject::Table(table()))]]);
    check(vec![
        ruleset(),
        vec![NfCmd::Flush(FlushObject::Ruleset(None)).into()],
    ]);
}

#[test]
fn policy_survives_when_not_mentioned() {
    let dropping = nftables::schema::Chain {
        policy: Some(nftables::types::NfChainPolicy::Drop),
        ..base(
            "FORWARD",
            nftables::types::NfChainType::Filter,
            nftables::types::NfHook::Forward,
            0,
        )
    };
    let commands = vec![
        add(NfListObject::Table(table())),
        add(NfListObject::Chain(dropping)),
    ];
    let listing = check(vec![commands, declarations()]);
    assert!(listing.text.concat().contains("policy drop"));
}

#[test]
fn ten_thousand_elements() {
    in_namespace(|| {
        let schema = Schema::declared(&declarations());
        let mut socket = NftSocket::open().unwrap();
        socket
            .apply(&Transaction::new(schema.clone(), declarations()))
            .unwrap();
        let many = add_elements("publish_addr4", (0..10_000).map(published).collect());
        socket.apply(&Transaction::new(schema, vec![many])).unwrap();
        let listed = run_nft(&["-j", "list", "map", "inet", TABLE, "publish_addr4"], "").unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(
            listed["nftables"][1]["map"]["elem"]
                .as_array()
                .unwrap()
                .len(),
            10_000
        );
    });
}

fn published(index: u32) -> E {
    let address = format!("10.{}.{}.1", index / 250, index % 250);
    pair(
        concat(vec![s(&address), s("tcp"), n(index)]),
        concat(vec![s("10.88.0.2"), n(80)]),
    )
}

fn refusal(commands: Vec<Command>) -> NftError {
    in_namespace(move || {
        let schema = Schema::declared(&declarations());
        let mut socket = NftSocket::open().unwrap();
        socket
            .apply(&Transaction::new(schema.clone(), ruleset()))
            .unwrap();
        let before = listing();
        let error = socket
            .apply(&Transaction::new(schema.clone(), commands))
            .unwrap_err();
        assert_eq!(listing(), before);
        // The socket is still of use.
        socket
            .apply(&Transaction::new(
                schema,
                vec![add(NfListObject::Table(table()))],
            ))
            .unwrap();
        error
    })
}

#[test]
fn the_first_refused_command_is_named() {
    let missing = [SetType::Ifname];
    let error = refusal(vec![
        add(NfListObject::Table(table())),
        delete(NfListObject::Set(Box::new(set("missing", &missing, false)))),
        delete(NfListObject::Chain(chain("absent"))),
    ]);
    assert_eq!(error.errno(), Some(Errno::ENOENT));
    assert!(
        error
            .to_string()
            .contains("`delete set inet netavark missing`"),
        "{error}"
    );
}

#[test]
fn an_element_for_a_missing_set_is_refused() {
    let commands = vec![
        delete(NfListObject::Set(Box::new(set(
            "isolated",
            &[SetType::Ifname],
            false,
        )))),
        add_elements("isolated", vec![s("podman0")]),
    ];
    let error = refusal(commands);
    assert_eq!(error.errno(), Some(Errno::ENOENT));
    assert!(
        error
            .to_string()
            .contains("`add element inet netavark isolated { \"podman0\" }`"),
        "{error}"
    );
}

#[test]
fn other_data_under_a_taken_key_is_refused() {
    let other = || {
        elements(
            "publish4",
            vec![pair(
                concat(vec![s("tcp"), n(8080)]),
                concat(vec![s("10.88.0.7"), n(80)]),
            )],
        )
    };
    for command in [NfCmd::Create(other()).into(), add(other())] {
        assert_eq!(refusal(vec![command]).errno(), Some(Errno::EEXIST));
    }
}

#[test]
fn creating_what_exists_is_refused() {
    let taken: [Command; 3] = [
        NfCmd::Create(NfListObject::Table(table())).into(),
        NfCmd::Create(NfListObject::Chain(chain("PUBLISH"))).into(),
        NfCmd::Create(elements("bridges", vec![s("podman0")])).into(),
    ];
    for command in taken {
        assert_eq!(refusal(vec![command]).errno(), Some(Errno::EEXIST));
    }
}

#[test]
fn the_program_reports_its_errors() {
    in_namespace(|| {
        let commands = vec![delete(NfListObject::Table(table()))];
        let transaction = Transaction::new(Schema::default(), commands);
        let error = apply_with_program(&nft(), &transaction).unwrap_err();
        assert!(matches!(error, NftError::Program { .. }), "{error:?}");
        assert!(error.to_string().contains("No such file"), "{error}");
        assert!(matches!(
            apply_with_program(Path::new("/nonexistent/nft"), &transaction),
            Err(NftError::Socket {
                step: "run nft",
                ..
            })
        ));
    });
}

#[test]
fn chains_are_asked_for() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        assert!(!socket.table_exists(TABLE).unwrap());
        assert_eq!(socket.chain_names(TABLE).unwrap(), Vec::<String>::new());
        assert_eq!(socket.chain_uses(TABLE, &["PUBLISH"]).unwrap(), [None]);
        socket
            .apply(&Transaction::new(Schema::default(), ruleset()))
            .unwrap();
        run_nft(&["add table inet other; add chain inet other x"], "").unwrap();
        assert!(socket.table_exists(TABLE).unwrap());
        let names = socket.chain_names(TABLE).unwrap();
        assert_eq!(names.len(), 12);
        assert!(names.iter().any(|name| name == "FROM-OUTSIDE"));
        let uses = socket
            .chain_uses(TABLE, &["NETBACKEND-1", "absent", "PUBLISH", "SNAT"])
            .unwrap();
        // Five rules and two gotos; four rules and two elements.
        assert_eq!(uses, [Some(0), None, Some(7), Some(6)]);
        let many = vec!["PUBLISH"; 2000];
        assert_eq!(
            socket.chain_uses(TABLE, &many).unwrap(),
            vec![Some(7); 2000]
        );
        assert_eq!(socket.chain_uses(TABLE, &[]).unwrap(), []);
    });
}

#[test]
fn an_empty_transaction_is_nothing() {
    in_namespace(|| {
        NftSocket::open()
            .unwrap()
            .apply(&Transaction::default())
            .unwrap();
        assert_eq!(listing().json.len(), 1);
    });
}

/// `cargo test --release --test nft_oracle -- --ignored --nocapture measurements`
#[test]
#[ignore = "prints times"]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn measurements() {
    println!("{}", run_nft(&["--version"], "").unwrap().trim());
    let full = || Transaction::new(Schema::default(), ruleset());
    let bytes = encode(&full(), 1).unwrap().bytes().len();
    let encoding = median(|| timed(|| drop(encode(&full(), 1).unwrap())));
    println!("encode the full ruleset: {encoding:?}, {bytes} bytes");
    let empty = || with_schema([declarations(), rules()].concat());
    for (what, transaction) in [("without elements", empty()), ("with elements", full())] {
        let by_netlink = median(|| {
            let transaction = transaction.clone();
            in_namespace(move || timed(|| NftSocket::open().unwrap().apply(&transaction).unwrap()))
        });
        let by_program = median(|| {
            let transaction = transaction.clone();
            in_namespace(move || timed(|| apply_with_program(&nft(), &transaction).unwrap()))
        });
        println!("fresh namespace, ruleset {what}: {by_netlink:?}, by program {by_program:?}");
    }
    for size in [0, 1000, 10_000] {
        in_namespace(move || measure_with(size));
    }
    in_namespace(measure_intervals);
}

fn with_schema(commands: Vec<Command>) -> Transaction {
    Transaction::new(Schema::declared(&declarations()), commands)
}

#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn measure_with(size: u32) {
    let mut socket = NftSocket::open().unwrap();
    let mut apply = |transaction: &Transaction| timed(|| socket.apply(transaction).unwrap());
    apply(&with_schema(ruleset()));
    if size > 0 {
        let fill = add_elements("publish_addr4", (0..size).map(published).collect());
        println!(
            "{size} elements at once: {:?}",
            apply(&with_schema(vec![fill]))
        );
    }
    let one = || elements("publish_addr4", vec![published(20_000)]);
    let (add_one, delete_one) = (
        with_schema(vec![add(one())]),
        with_schema(vec![delete(one())]),
    );
    let times = (0..51).map(|_| (apply(&add_one), apply(&delete_one)));
    let (added, deleted): (Vec<_>, Vec<_>) = times.unzip();
    println!(
        "{size} there, add one: {:?}, delete one: {:?}",
        middle(added),
        middle(deleted)
    );

    let flushes = || RULE_CHAINS.iter().map(|chain| flush_chain(chain)).collect();
    let rules_again = with_schema([flushes(), rules()].concat());
    println!(
        "{size} there, flush and add all rules: {:?}",
        median(|| apply(&rules_again))
    );
    let all_again = with_schema([declarations(), flushes(), rules()].concat());
    println!(
        "{size} there, declare, flush, add all rules: {:?}",
        median(|| apply(&all_again))
    );
    let declare = with_schema(declarations());
    println!(
        "{size} there, declare all: {:?}",
        median(|| apply(&declare))
    );
    let by_program = median(|| {
        let time = timed(|| apply_with_program(&nft(), &add_one).unwrap());
        apply(&delete_one);
        time
    });
    println!("{size} there, add one by program: {by_program:?}");
    let uses = median(|| timed(|| drop(socket.chain_uses(TABLE, &RULE_CHAINS).unwrap())));
    let names = median(|| timed(|| drop(socket.chain_names(TABLE).unwrap())));
    println!("{size} there, uses of 11 chains: {uses:?}, all chain names: {names:?}");
}

/// The kernel's tables for concatenations with intervals grow with the width of the key, not with the elements.
#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn measure_intervals() {
    let mut socket = NftSocket::open().unwrap();
    let mut apply = |transaction: &Transaction| timed(|| socket.apply(transaction).unwrap());
    apply(&with_schema([declarations(), rules()].concat()));
    let net =
        |address: &str, len| pair(concat(vec![s("podman9"), prefix(address, len)]), go("SNAT"));
    for (map, first, second) in [
        ("outbound4", net("10.200.0.0", 16), net("10.201.0.0", 16)),
        ("outbound6", net("fd01::", 64), net("fd02::", 64)),
    ] {
        let change = |verb: fn(_) -> Command, element: &E| {
            with_schema(vec![verb(elements(map, vec![element.clone()]))])
        };
        let (add_first, delete_first) = (change(add, &first), change(delete, &first));
        let (add_second, delete_second) = (change(add, &second), change(delete, &second));
        let mut times: [Vec<Duration>; 4] = Default::default();
        for _ in 0..51 {
            for (step, times) in [&add_first, &add_second, &delete_second, &delete_first]
                .into_iter()
                .zip(&mut times)
            {
                times.push(apply(step));
            }
        }
        println!(
            "{map}: add first, second, delete second, first: {:?}",
            times.map(middle)
        );
    }
}

fn timed(action: impl FnOnce()) -> Duration {
    let start = Instant::now();
    action();
    start.elapsed()
}

fn median(mut measure: impl FnMut() -> Duration) -> Duration {
    middle((0..21).map(|_| measure()).collect())
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
