//! Flags, codes, EDNS and size of local answers; questions that are none.

use std::time::Duration;

use anyhow::Result;

use crate::machine::{GATEWAY, Machine, line, on};
use crate::message::{AA, AD, CD, Message, QR, Query, RA, RD, TC};

#[test]
fn recursion_is_available_when_desired() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        for question in ["db A", "db AAAA", "nobody.dns.podman A"] {
            let answer = machine.web().udp(&Query::new(question))?;
            assert!(
                answer.has(QR) && answer.has(RD) && answer.has(RA),
                "{answer:?}"
            );
            assert!(!answer.has(AA) && !answer.has(TC), "{answer:?}");
            let answer = machine.web().udp(&Query::new(question).flags(0))?;
            assert!(
                answer.has(QR) && !answer.has(RD) && !answer.has(RA),
                "{answer:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn checking_disabled_is_copied() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert!(
            machine
                .web()
                .udp(&Query::new("db A").flags(RD | CD))?
                .has(CD)
        );
        assert!(!machine.web().udp(&Query::new("db A"))?.has(CD));
        Ok(())
    });
}

#[test]
fn nothing_local_is_authenticated() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert!(
            !machine
                .web()
                .udp(&Query::new("db A").flags(RD | AD))?
                .has(AD)
        );
        Ok(())
    });
}

#[test]
fn names_are_compressed() {
    on!(|machine| {
        machine.network(
            "net",
            &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "aone")),
        )?;
        machine.start()?;
        assert_eq!(machine.web().udp(&Query::new("aone A"))?.length, 38);
        Ok(())
    });
}

/// Nothing comes back, and the program lives.
fn check_dropped(machine: &Machine<'_>, bytes: &[u8]) -> Result<()> {
    machine.usual_network()?;
    machine.start()?;
    assert!(machine.web().gets_nothing(bytes)?);
    assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
    Ok(())
}

/// What comes back, as text.
fn check_answered(machine: &Machine<'_>, bytes: &[u8], expected: &str) -> Result<()> {
    machine.usual_network()?;
    machine.start()?;
    let answer = machine.web().raw(bytes, Duration::from_secs(2))?;
    let answer = Message::read(&answer.ok_or_else(|| anyhow::anyhow!("no answer"))?)?;
    assert_eq!(answer.to_string(), expected);
    assert_eq!(answer.id, u16::from_be_bytes([bytes[0], bytes[1]]));
    Ok(())
}

#[test]
fn a_short_header_is_dropped() {
    on!(|machine| check_dropped(machine, &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0]));
}

#[test]
fn a_cut_name_is_dropped() {
    on!(|machine| {
        let query = Query::new("db A").bytes();
        check_dropped(machine, &query[..query.len() - 6])
    });
}

#[test]
fn two_opt_records_are_dropped() {
    on!(|machine| {
        let mut query = Query::new("db A").edns(1232).bytes();
        let opt = query[query.len() - 11..].to_vec();
        query.extend(opt);
        query[11] = 2;
        check_dropped(machine, &query)
    });
}

#[test]
fn an_answer_is_no_question() {
    on!(|machine| check_dropped(machine, &Query::new("db A").flags(QR | RD).bytes()));
}

#[test]
fn bytes_after_the_question_mean_nothing() {
    on!(|machine| {
        let query = [&Query::new("db A").bytes(), &b"more bytes"[..]].concat();
        check_answered(machine, &query, "NOERROR 10.88.0.3")
    });
}

#[test]
fn other_operations_are_not_implemented() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        for opcode in [1, 2, 4, 5, 6] {
            let answer = machine
                .web()
                .udp(&Query::new("db A").flags(RD | opcode << 11))?;
            assert_eq!(answer.to_string(), "NOTIMP", "opcode {opcode}");
            assert_eq!(answer.flags >> 11 & 15, opcode);
        }
        Ok(())
    });
}

#[test]
fn other_classes_are_refused() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        for class in [2, 3, 4, 254] {
            let answer = machine.web().udp(&Query::new("db A").class(class))?;
            assert_eq!(answer.to_string(), "REFUSED", "class {class}");
        }
        Ok(())
    });
}

#[test]
fn class_any_is_answered() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let answer = machine.web().udp(&Query::new("db A").class(255))?;
        assert_eq!(answer.to_string(), "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn no_question_is_malformed() {
    on!(|machine| check_answered(
        machine,
        &[0x12, 0x34, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "FORMERR"
    ));
}

#[test]
fn two_questions_are_malformed() {
    on!(|machine| {
        let mut query = Query::new("db A").bytes();
        let second = query[12..].to_vec();
        query.extend(second);
        query[5] = 2;
        check_answered(machine, &query, "FORMERR")
    });
}

#[test]
fn no_edns_without_edns() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert!(machine.web().udp(&Query::new("db A"))?.opt().is_none());
        let answer = machine.web().udp(&Query::new("db A").edns(4096))?;
        assert!(answer.opt().is_some());
        assert_eq!(answer.to_string(), "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn the_edns_record_is_our_own() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let query = Query::new("db A")
            .edns(4096)
            .option(10, b"12345678")
            .option(65001, b"x");
        let answer = machine.web().udp(&query)?;
        let opt = answer.opt().expect("an OPT record");
        assert_eq!(opt.raw, b"", "options that mean nothing to us");
        assert_eq!(opt.class, 1232, "the size we take");
        Ok(())
    });
}

#[test]
fn the_wish_for_signatures_is_copied() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let answer = machine
            .web()
            .udp(&Query::new("db A").edns(1232).dnssec_ok())?;
        assert_eq!(answer.opt().expect("an OPT record").ttl & 0x8000, 0x8000);
        let answer = machine.web().udp(&Query::new("db A").edns(1232))?;
        assert_eq!(answer.opt().expect("an OPT record").ttl & 0x8000, 0);
        Ok(())
    });
}

#[test]
fn other_versions_of_edns_are_told_so() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let answer = machine
            .web()
            .udp(&Query::new("db A").edns(1232).edns_version(1))?;
        assert_eq!(answer.to_string(), "BADVERS");
        assert_eq!(answer.opt().expect("an OPT record").ttl >> 16 & 255, 0);
        Ok(())
    });
}

/// A name with `count` addresses.
fn crowded(machine: &Machine<'_>, count: u32) -> Result<()> {
    let mut text = format!("{GATEWAY}\n");
    for number in 0..count {
        text.push_str(&line(number, &format!("10.88.1.{number}"), "", "app"));
    }
    machine.network("net", &text)?;
    machine.start()?;
    Ok(())
}

#[test]
fn a_large_answer_is_cut_at_512_bytes() {
    on!(|machine| {
        crowded(machine, 200)?;
        let answer = machine.client("10.88.1.2").udp(&Query::new("app A"))?;
        assert!(
            answer.has(TC) && answer.length <= 512,
            "{} bytes",
            answer.length
        );
        assert!(
            answer.answers.len() >= 25,
            "{} records",
            answer.answers.len()
        );
        Ok(())
    });
}

#[test]
fn a_large_answer_is_cut_at_the_size_the_client_takes() {
    on!(|machine| {
        crowded(machine, 200)?;
        let client = machine.client("10.88.1.2");
        for size in [0, 512, 700, 1232] {
            let answer = client.udp(&Query::new("app A").edns(size))?;
            assert!(answer.has(TC), "{size}");
            assert!(
                answer.length <= usize::from(size).max(512),
                "{size}: {}",
                answer.length
            );
            assert!(
                answer.length >= usize::from(size).max(512) - 16,
                "{size}: {}",
                answer.length
            );
            assert!(answer.opt().is_some(), "{size}");
        }
        // One that takes more than a path is sure to carry.
        let answer = client.udp(&Query::new("app A").edns(65535))?;
        assert!(answer.length <= 4096);
        Ok(())
    });
}

#[test]
fn what_fits_is_not_cut() {
    on!(|machine| {
        crowded(machine, 70)?;
        let answer = machine
            .client("10.88.1.2")
            .udp(&Query::new("app A").edns(1232))?;
        assert!(!answer.has(TC));
        assert_eq!(answer.answers.len(), 70);
        Ok(())
    });
}

#[test]
fn a_large_answer_is_whole_over_tcp() {
    on!(|machine| {
        crowded(machine, 200)?;
        for query in [Query::new("app A"), Query::new("app A").edns(512)] {
            let answer = machine.client("10.88.1.2").tcp(&query)?;
            assert!(!answer.has(TC));
            assert_eq!(answer.answers.len(), 200);
        }
        Ok(())
    });
}

/// Answers depend on the question alone, not on what was asked before or beside it.
#[test]
fn many_clients_at_once() {
    on!(|machine| {
        let mut text = format!("{GATEWAY}\n");
        for number in 2..250 {
            text.push_str(&line(
                number,
                &format!("10.88.0.{number}"),
                "",
                &format!("c{number}"),
            ));
        }
        machine.network("net", &text)?;
        machine.start()?;
        std::thread::scope(|scope| {
            for start in 0..8 {
                scope.spawn(move || {
                    for number in (2 + start..250).step_by(8) {
                        let client = machine.client(&format!("10.88.0.{number}"));
                        let said = client.says(&format!("c{number} A")).unwrap();
                        assert_eq!(said, format!("NOERROR 10.88.0.{number}"));
                    }
                });
            }
        });
        Ok(())
    });
}
