//! Names that are not ours: who is asked, in which order, for how long, and what is believed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::machine::{GATEWAY, GATEWAY_2, Machine, line, line_with, on, quickly, receive};
use crate::message::{Message, Query, RA, RD, Reply, TC};
use crate::upstream::{Do, Upstream};

/// Much less than what a question to a dead server waits.
const SOON: Duration = Duration::from_millis(500);
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

/// The usual network, running, with these servers in resolv.conf.
fn start(machine: &Machine<'_>, servers: &[&str]) -> Result<crate::machine::Daemon> {
    let text: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    machine.resolv_conf(&text)?;
    machine.usual_network()?;
    machine.start()
}

#[test]
fn by_udp_and_tcp() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        start(machine, &["198.51.100.1"])?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        assert_eq!(
            machine.web().says_by_tcp("www.other A")?,
            "NOERROR 192.0.2.80"
        );
        assert_eq!(
            machine.client("fd10:88::2").says("www.six A")?,
            "NOERROR 192.0.2.80"
        );
        assert_eq!(upstream.count("www.example"), 1);
        Ok(())
    });
}

#[test]
fn to_an_ipv6_server() {
    on!(|machine| {
        let _upstream = Upstream::answering("fd00:53::1", "192.0.2.80")?;
        start(machine, &["fd00:53::1"])?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        assert_eq!(
            machine.web().says_by_tcp("www.other A")?,
            "NOERROR 192.0.2.80"
        );
        Ok(())
    });
}

#[test]
fn the_answer_is_passed_on() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Send(
                Reply::to(&asked.bytes)
                    .a(77, "192.0.2.1")
                    .a(77, "192.0.2.2")
                    .bytes(),
            )
        })?;
        start(machine, &["198.51.100.1"])?;
        let query = Query::new("WWW.Example A");
        let answer = machine.web().udp(&query)?;
        assert_eq!(answer.to_string(), "NOERROR 192.0.2.1 192.0.2.2");
        assert!(answer.has(RD) && answer.has(RA));
        assert_eq!(answer.questions[0].name, "WWW.Example.");
        assert!(
            answer
                .answers
                .iter()
                .all(|record| record.ttl == 77 && record.name == "WWW.Example.")
        );
        Ok(())
    });
}

#[test]
fn the_authority_of_a_negative_answer_is_passed_on() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Send(Reply::to(&asked.bytes).rcode(NXDOMAIN).soa(60).bytes())
        })?;
        start(machine, &["198.51.100.1"])?;
        let answer = machine.web().udp(&Query::new("www.example A"))?;
        assert_eq!(answer.to_string(), "NXDOMAIN");
        assert_eq!(answer.soa().expect("the SOA").ttl, 60);
        Ok(())
    });
}

#[test]
fn recursion_is_shown_available() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            let mut bytes = asked.answer("192.0.2.80");
            bytes[3] &= 0x7f;
            Do::Send(bytes)
        })?;
        start(machine, &["198.51.100.1"])?;
        assert!(machine.web().udp(&Query::new("www.example A"))?.has(RA));
        Ok(())
    });
}

#[test]
fn the_question_sent_is_the_client_s() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        start(machine, &["198.51.100.1"])?;
        machine
            .web()
            .udp(&Query::new("wWw.ExAmPlE A").edns(1232).dnssec_ok())?;
        let sent = upstream.asked()[0].message();
        assert_eq!(sent.questions[0].name, "wWw.ExAmPlE.");
        assert_eq!((sent.questions[0].kind, sent.questions[0].class), (1, 1));
        assert!(sent.has(RD));
        assert_eq!(sent.opt().expect("EDNS").ttl & 0x8000, 0x8000);
        Ok(())
    });
}

/// Whoever wants to slip in an answer has to guess both.
#[test]
fn ports_are_random() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        start(machine, &["198.51.100.1"])?;
        for number in 0..20 {
            machine.web().says(&format!("www{number}.example A"))?;
        }
        let ports: BTreeSet<_> = upstream
            .asked()
            .iter()
            .map(|asked| asked.from.port())
            .collect();
        assert!(ports.len() >= 4, "{ports:?}");
        Ok(())
    });
}

#[test]
fn ids_are_not_the_client_s() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        start(machine, &["198.51.100.1"])?;
        let mut equal = 0;
        for number in 0..20 {
            let query = Query::new(&format!("www{number}.example A"));
            machine.web().udp(&query)?;
            equal += usize::from(upstream.asked()[number].message().id == query.id);
        }
        assert!(equal < 3, "{equal} of 20");
        Ok(())
    });
}

// Who is asked.

/// Servers 1 to 4 with 192.0.2.1 to 192.0.2.4 as their answers.
fn four_servers() -> Result<[Upstream; 4]> {
    Ok([
        Upstream::answering("198.51.100.1", "192.0.2.1")?,
        Upstream::answering("198.51.100.2", "192.0.2.2")?,
        Upstream::answering("198.51.100.3", "192.0.2.3")?,
        Upstream::answering("198.51.100.4", "192.0.2.4")?,
    ])
}

#[test]
fn the_container_s_servers_before_the_network_s_before_the_host_s() {
    on!(|machine| {
        let servers = four_servers()?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY} 198.51.100.2\n{}{}",
                line_with(1, "10.88.0.2", "", "web", "198.51.100.3"),
                line(2, "10.88.0.3", "", "db")
            ),
        )?;
        machine.network(
            "plain",
            &format!("{GATEWAY_2}\n{}", line(3, "10.89.0.2", "", "c")),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("www.a A")?, "NOERROR 192.0.2.3");
        assert_eq!(
            machine.client("10.88.0.3").says("www.b A")?,
            "NOERROR 192.0.2.2"
        );
        assert_eq!(
            machine.client("10.89.0.2").says("www.c A")?,
            "NOERROR 192.0.2.1"
        );
        assert_eq!(
            servers.each_ref().map(|server| server.asked().len()),
            [1, 1, 1, 0]
        );
        Ok(())
    });
}

/// An unknown client gets the host's servers, whatever the network it asks at has.
#[test]
fn an_unknown_client_uses_the_host_s() {
    on!(|machine| {
        let _servers = four_servers()?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY} 198.51.100.2\n{}",
                line(1, "10.88.0.2", "", "web")
            ),
        )?;
        machine.start()?;
        let host = machine.client("10.90.0.77").at(GATEWAY);
        assert_eq!(host.says("www.example A")?, "NOERROR 192.0.2.1");
        Ok(())
    });
}

#[test]
fn lists_are_not_mixed() {
    on!(|machine| {
        let host = Upstream::answering("198.51.100.1", "192.0.2.1")?;
        let _own = Upstream::silent("198.51.100.3")?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY} 198.51.100.1\n{}",
                line_with(1, "10.88.0.2", "", "web", "198.51.100.3")
            ),
        )?;
        machine.start()?;
        assert!(
            machine
                .web()
                .gets_nothing(&Query::new("www.example A").bytes())?
        );
        assert_eq!(host.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn the_servers_of_all_networks() {
    on!(|machine| {
        let _two = Upstream::silent("198.51.100.2")?;
        let _three = Upstream::answering("198.51.100.3", "192.0.2.3")?;
        let web = |number: u32| line(1, &format!("10.{number}.0.2"), "", "web");
        machine.network("a", &format!("{GATEWAY} 198.51.100.2\n{}", web(88)))?;
        machine.network("b", &format!("{GATEWAY_2} 198.51.100.3\n{}", web(89)))?;
        machine.start()?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.3");
        Ok(())
    });
}

#[test]
fn the_container_s_servers_are_used_in_full() {
    on!(|machine| {
        let _four = Upstream::answering("198.51.100.4", "192.0.2.4")?;
        let text = line_with(
            1,
            "10.88.0.2",
            "",
            "web",
            "198.51.100.1,198.51.100.2,198.51.100.3,198.51.100.4",
        );
        machine.network("net", &format!("{GATEWAY}\n{text}"))?;
        machine.start()?;
        let web = machine.web().patience(Duration::from_secs(6));
        assert_eq!(web.says("www.example A")?, "NOERROR 192.0.2.4");
        Ok(())
    });
}

/// The column of an internal network names nobody; the plain network's does.
#[test]
fn servers_named_in_an_internal_network_do_not_count() {
    on!(|machine| {
        let servers = four_servers()?;
        machine.network(
            "in%int",
            &format!(
                "{GATEWAY} 198.51.100.4\n{}",
                line_with(1, "10.88.0.2", "", "web", "198.51.100.3")
            ),
        )?;
        machine.network(
            "out",
            &format!(
                "{GATEWAY_2} 198.51.100.2\n{}",
                line(1, "10.89.0.2", "", "web")
            ),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.2");
        assert_eq!(servers[3].asked().len() + servers[2].asked().len(), 0);
        Ok(())
    });
}

// Order and time.

#[test]
fn always_the_first_first() {
    on!(|machine| {
        let servers = four_servers()?;
        start(machine, &["198.51.100.2", "198.51.100.1"])?;
        for number in 0..6 {
            assert_eq!(
                machine.web().says(&format!("w{number}.example A"))?,
                "NOERROR 192.0.2.2"
            );
        }
        assert_eq!(servers[0].asked().len(), 0);
        Ok(())
    });
}

/// The time of a question whose first server is silent and whose second answers.
fn silent_then_good(machine: &Machine<'_>, tcp: bool) -> Result<()> {
    let silent = Upstream::silent("198.51.100.1")?;
    let _good = Upstream::answering("198.51.100.2", "192.0.2.2")?;
    start(machine, &["198.51.100.1", "198.51.100.2"])?;
    let web = machine.web().patience(Duration::from_secs(5));
    let begin = Instant::now();
    let said = if tcp {
        web.says_by_tcp("www.example A")
    } else {
        web.says("www.example A")
    }?;
    let elapsed = begin.elapsed().as_secs_f64();
    assert_eq!(said, "NOERROR 192.0.2.2");
    assert!((2.0..3.99).contains(&elapsed), "{elapsed} s");
    assert!(!silent.asked().is_empty() && silent.asked().iter().all(|asked| asked.tcp == tcp));
    Ok(())
}

#[test]
fn a_silent_server_costs_its_share_of_the_time() {
    on!(|machine| silent_then_good(machine, false));
}

#[test]
fn a_silent_server_costs_its_share_of_the_time_by_tcp() {
    on!(|machine| silent_then_good(machine, true));
}

/// A server that was silent over UDP gets its full time over TCP: one may be blocked and not the other.
#[test]
fn silence_over_udp_says_nothing_about_tcp() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.1")?;
        let _good = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        start(machine, &["198.51.100.1", "198.51.100.2"])?;
        let web = machine.web().patience(Duration::from_secs(5));
        assert_eq!(web.says("www.example A")?, "NOERROR 192.0.2.2");
        let begin = Instant::now();
        assert_eq!(web.says_by_tcp("www.other A")?, "NOERROR 192.0.2.2");
        let elapsed = begin.elapsed().as_secs_f64();
        assert!((2.0..3.99).contains(&elapsed), "{elapsed} s");
        Ok(())
    });
}

/// The second question need not wait again.
#[test]
fn a_silent_server_is_remembered() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.1")?;
        let _good = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        start(machine, &["198.51.100.1", "198.51.100.2"])?;
        let web = machine.web().patience(Duration::from_secs(5));
        assert_eq!(web.says("www.example A")?, "NOERROR 192.0.2.2");
        let begin = Instant::now();
        assert_eq!(web.says("www.other A")?, "NOERROR 192.0.2.2");
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        Ok(())
    });
}

#[test]
fn a_lost_datagram_is_sent_again() {
    on!(|machine| {
        let upstream = Upstream::start("198.51.100.1", |asked| {
            if asked.number == 0 {
                Do::Nothing
            } else {
                Do::Send(asked.answer("192.0.2.80"))
            }
        })?;
        start(machine, &["198.51.100.1"])?;
        let begin = Instant::now();
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "{:?}",
            begin.elapsed()
        );
        assert_eq!(upstream.asked().len(), 2);
        Ok(())
    });
}

/// Three tries at 0, 0.33 and 0.67 seconds are usual; the second must not be late.
#[test]
fn a_silent_server_is_asked_again_within_its_share() {
    on!(|machine| {
        let silent = Upstream::silent("198.51.100.1")?;
        start(machine, &["198.51.100.1"])?;
        machine
            .web()
            .gets_nothing(&Query::new("www.example A").bytes())?;
        let asked = silent.asked();
        assert!((2..=4).contains(&asked.len()), "{} datagrams", asked.len());
        let pause = asked[1].at - asked[0].at;
        assert!(pause < Duration::from_millis(800), "{pause:?}");
        assert!(pause > Duration::from_millis(100), "{pause:?}");
        Ok(())
    });
}

#[test]
fn a_connection_that_ends_without_an_answer_moves_on_at_once() {
    on!(|machine| {
        let _closing = Upstream::start("198.51.100.1", |asked| {
            if asked.tcp { Do::Close } else { Do::Nothing }
        })?;
        let _good = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        start(machine, &["198.51.100.1", "198.51.100.2"])?;
        let begin = Instant::now();
        assert_eq!(
            machine.web().says_by_tcp("www.example A")?,
            "NOERROR 192.0.2.2"
        );
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        Ok(())
    });
}

#[test]
fn a_refused_connection_moves_on_at_once() {
    on!(|machine| {
        let _good = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        start(machine, &["198.51.100.1", "198.51.100.2"])?;
        let begin = Instant::now();
        assert_eq!(
            machine.web().says_by_tcp("www.example A")?,
            "NOERROR 192.0.2.2"
        );
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        Ok(())
    });
}

fn final_code(machine: &Machine<'_>, rcode: u8, expected: &str) -> Result<()> {
    let _first = Upstream::refusing("198.51.100.1", rcode)?;
    let second = Upstream::answering("198.51.100.2", "192.0.2.2")?;
    start(machine, &["198.51.100.1", "198.51.100.2"])?;
    assert_eq!(machine.web().says("single A")?, expected);
    assert_eq!(machine.web().says_by_tcp("other A")?, expected);
    assert_eq!(second.asked().len(), 0);
    Ok(())
}

#[test]
fn refused_is_final() {
    on!(|machine| final_code(machine, REFUSED, "REFUSED"));
}

#[test]
fn nxdomain_is_final() {
    on!(|machine| final_code(machine, NXDOMAIN, "NXDOMAIN"));
}

#[test]
fn servfail_is_final() {
    on!(|machine| final_code(machine, SERVFAIL, "SERVFAIL"));
}

// What is believed.

/// The first server sends what `lie` makes before the truth: the truth is what arrives.
fn lie_then_truth(
    machine: &Machine<'_>,
    lie: impl Fn(Reply) -> Reply + Send + Sync + 'static,
) -> Result<()> {
    let _upstream = Upstream::start("198.51.100.1", move |asked| {
        let lied = lie(Reply::to(&asked.bytes).a(300, "203.0.113.66")).bytes();
        Do::SendAll(vec![lied, asked.answer("192.0.2.80")])
    })?;
    start(machine, &["198.51.100.1"])?;
    assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
    Ok(())
}

#[test]
fn an_answer_with_another_id_is_not_believed() {
    on!(|machine| lie_then_truth(machine, |reply| reply.id(0xdead)));
}

#[test]
fn an_answer_to_another_question_is_not_believed() {
    on!(|machine| lie_then_truth(machine, Reply::other_question));
}

#[test]
fn an_answer_from_elsewhere_is_not_believed() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            if asked.number == 0 {
                Do::SendFrom(
                    "198.51.100.9:53".parse().unwrap(),
                    asked.answer("203.0.113.66"),
                )
            } else {
                Do::Send(asked.answer("192.0.2.80"))
            }
        })?;
        start(machine, &["198.51.100.1"])?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        Ok(())
    });
}

#[test]
fn an_answer_from_another_port_is_not_believed() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            if asked.number == 0 {
                Do::SendFrom(
                    "198.51.100.1:5300".parse().unwrap(),
                    asked.answer("203.0.113.66"),
                )
            } else {
                Do::Send(asked.answer("192.0.2.80"))
            }
        })?;
        start(machine, &["198.51.100.1"])?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        Ok(())
    });
}

#[test]
fn our_question_coming_back_is_no_answer() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            Do::SendAll(vec![asked.bytes.clone(), asked.answer("192.0.2.80")])
        })?;
        start(machine, &["198.51.100.1"])?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        Ok(())
    });
}

/// A server that does nothing but lie has not answered: its lies are neither passed on nor remembered.
fn nothing_but_lies(
    machine: &Machine<'_>,
    lie: impl Fn(&crate::upstream::Asked) -> Do + Send + Sync + 'static,
) -> Result<()> {
    let _liar = Upstream::start("198.51.100.1", lie)?;
    start(machine, &["198.51.100.1"])?;
    assert!(
        machine
            .web()
            .gets_nothing(&Query::new("www.example A").bytes())?
    );
    drop(_liar);
    let _honest = Upstream::answering("198.51.100.1", "192.0.2.80")?;
    let web = machine.web().patience(Duration::from_secs(8));
    assert_eq!(web.says("other.example A")?, "NOERROR 192.0.2.80");
    assert_eq!(web.says("www.example A")?, "NOERROR 192.0.2.80");
    Ok(())
}

#[test]
fn a_server_with_wrong_ids() {
    on!(|machine| nothing_but_lies(machine, |asked| {
        let id = u16::from_be_bytes([asked.bytes[0], asked.bytes[1]]);
        Do::Send(
            Reply::to(&asked.bytes)
                .a(300, "203.0.113.66")
                .id(!id)
                .bytes(),
        )
    }));
}

#[test]
fn a_server_with_wrong_questions() {
    on!(|machine| nothing_but_lies(machine, |asked| {
        let reply = Reply::to(&asked.bytes).other_question();
        Do::Send(reply.a(300, "203.0.113.66").bytes())
    }));
}

#[test]
fn a_server_with_another_address() {
    on!(|machine| nothing_but_lies(machine, |asked| {
        let elsewhere = "198.51.100.9:53".parse().unwrap();
        Do::SendFrom(elsewhere, asked.answer("203.0.113.66"))
    }));
}

#[test]
fn a_server_with_another_port() {
    on!(|machine| nothing_but_lies(machine, |asked| {
        let elsewhere = "198.51.100.1:5300".parse().unwrap();
        Do::SendFrom(elsewhere, asked.answer("203.0.113.66"))
    }));
}

/// By TCP nobody else can answer: whoever lies is left for the next server at once.
fn lies_by_tcp(
    machine: &Machine<'_>,
    lie: impl Fn(Reply) -> Reply + Send + Sync + 'static,
) -> Result<()> {
    let _liar = Upstream::start("198.51.100.1", move |asked| {
        Do::Send(lie(Reply::to(&asked.bytes).a(300, "203.0.113.66")).bytes())
    })?;
    let _honest = Upstream::answering("198.51.100.2", "192.0.2.2")?;
    start(machine, &["198.51.100.1", "198.51.100.2"])?;
    let begin = Instant::now();
    let said = machine.web().says_by_tcp("www.example A")?;
    assert_eq!(said, "NOERROR 192.0.2.2");
    assert!(begin.elapsed() < Duration::from_secs(1));
    Ok(())
}

#[test]
fn a_wrong_id_by_tcp() {
    on!(|machine| lies_by_tcp(machine, |reply| reply.id(0xdead)));
}

#[test]
fn a_wrong_question_by_tcp() {
    on!(|machine| lies_by_tcp(machine, Reply::other_question));
}

#[test]
fn nonsense_does_not_reach_the_client() {
    on!(|machine| {
        let _first = Upstream::start("198.51.100.1", |asked| {
            let mut bytes = Reply::to(&asked.bytes).a(1, "203.0.113.66").bytes();
            bytes.truncate(bytes.len() - 3);
            Do::Send(bytes)
        })?;
        let _second = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        start(machine, &["198.51.100.1", "198.51.100.2"])?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.2");
        Ok(())
    });
}

// Truncation and size.

/// Answers 200 bytes of text by UDP with TC and nothing else, the whole by TCP.
fn truncating(records: usize) -> Result<Upstream> {
    Upstream::start("198.51.100.1", move |asked| {
        let mut reply = Reply::to(&asked.bytes);
        if asked.tcp {
            for number in 0..records {
                reply = reply.txt(60, &format!("{number:0>100}"));
            }
        } else {
            reply = reply.truncated();
        }
        Do::Send(reply.bytes())
    })
}

/// The client sees that there is more, or all of it.
#[test]
fn a_truncated_answer_is_never_taken_for_the_whole() {
    on!(|machine| {
        let _upstream = truncating(2)?;
        start(machine, &["198.51.100.1"])?;
        let answer = machine.web().udp(&Query::new("www.example TXT"))?;
        assert!(answer.has(TC) || answer.answers.len() == 2, "{answer:?}");
        let answer = machine.web().tcp(&Query::new("www.example TXT"))?;
        assert_eq!((answer.has(TC), answer.answers.len()), (false, 2));
        Ok(())
    });
}

#[test]
fn a_truncated_answer_is_fetched_by_tcp() {
    on!(|machine| {
        let upstream = truncating(3)?;
        start(machine, &["198.51.100.1"])?;
        let answer = machine
            .web()
            .udp(&Query::new("www.example TXT").edns(1232))?;
        assert_eq!((answer.has(TC), answer.answers.len()), (false, 3));
        assert!(upstream.asked().iter().any(|asked| asked.tcp));
        Ok(())
    });
}

/// The server cuts by UDP and does nothing by TCP: the client hears of the cut answer, and may try by itself.
fn cut_and_no_tcp(machine: &Machine<'_>, by_tcp: Do, limit: Duration) -> Result<()> {
    let _upstream = Upstream::start("198.51.100.1", move |asked| {
        if asked.tcp {
            by_tcp.clone()
        } else {
            Do::Send(Reply::to(&asked.bytes).truncated().bytes())
        }
    })?;
    start(machine, &["198.51.100.1"])?;
    let begin = Instant::now();
    let web = machine.web().patience(Duration::from_secs(5));
    assert_eq!(web.says("www.example TXT")?, "NOERROR tc");
    assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
    assert_eq!(web.says("db A")?, "NOERROR 10.88.0.3");
    Ok(())
}

#[test]
fn a_truncated_answer_without_tcp_is_passed_on() {
    on!(|machine| cut_and_no_tcp(machine, Do::Close, Duration::from_secs(1)));
}

#[test]
fn a_truncated_answer_with_silence_by_tcp_is_passed_on() {
    on!(|machine| cut_and_no_tcp(machine, Do::Nothing, Duration::from_millis(4500)));
}

#[test]
fn what_was_fetched_by_tcp_is_cut_to_the_client_s_size() {
    on!(|machine| {
        let _upstream = truncating(30)?;
        start(machine, &["198.51.100.1"])?;
        let answer = machine.web().udp(&Query::new("www.example TXT"))?;
        assert!(answer.has(TC) && answer.length <= 512);
        let answer = machine
            .web()
            .udp(&Query::new("www.example TXT").edns(1232))?;
        assert!(answer.has(TC) && answer.length <= 1232);
        assert_eq!(
            machine
                .web()
                .tcp(&Query::new("www.example TXT"))?
                .answers
                .len(),
            30
        );
        Ok(())
    });
}

/// Servers send what they like, whatever was said about size.
fn large_datagrams(records: usize) -> Result<Upstream> {
    Upstream::start("198.51.100.1", move |asked| {
        let mut reply = Reply::to(&asked.bytes);
        for number in 0..records {
            reply = reply.txt(60, &format!("{number:0>100}"));
        }
        Do::Send(reply.bytes())
    })
}

#[test]
fn an_answer_that_is_too_large_is_cut() {
    on!(|machine| {
        let _upstream = large_datagrams(36)?; // 4 kB
        start(machine, &["198.51.100.1"])?;
        for (query, limit) in [
            (Query::new("a.example TXT"), 512),
            (Query::new("b.example TXT").edns(1232), 1232),
        ] {
            let answer = machine.web().udp(&query)?;
            assert!(
                answer.has(TC) && answer.length <= limit,
                "{}",
                answer.length
            );
        }
        Ok(())
    });
}

/// What a client takes is sent to it whole, in one datagram.
#[test]
fn an_answer_of_four_kilobytes_by_udp() {
    on!(|machine| {
        let _upstream = large_datagrams(35)?;
        start(machine, &["198.51.100.1"])?;
        for name in ["a.example", "a.example", "b.example"] {
            let query = Query::new(&format!("{name} TXT")).edns(4096);
            let answer = machine.web().udp(&query)?;
            assert_eq!((answer.has(TC), answer.answers.len()), (false, 35));
            assert!((3900..=4096).contains(&answer.length), "{}", answer.length);
        }
        // The same answer for one who takes less, whether it is remembered or not.
        let answer = machine.web().udp(&Query::new("a.example TXT").edns(1232))?;
        assert!(answer.has(TC) && answer.length <= 1232);
        Ok(())
    });
}

#[test]
fn an_answer_of_four_kilobytes_by_tcp() {
    on!(|machine| {
        let _upstream = large_datagrams(36)?;
        start(machine, &["198.51.100.1"])?;
        assert_eq!(
            machine
                .web()
                .tcp(&Query::new("a.example TXT"))?
                .answers
                .len(),
            36
        );
        Ok(())
    });
}

// When nobody answers.

/// Clients that give up after five seconds see a time-out.
fn silent_for_five_seconds(machine: &Machine<'_>) -> Result<bool> {
    let begin = Instant::now();
    let query = Query::new("www.example A").bytes();
    let answer = machine.web().raw(&query, Duration::from_millis(5050))?;
    // The kernel's time limit is coarse: an answer may come before it.
    Ok(answer.is_none() || begin.elapsed() > Duration::from_millis(5090))
}

#[test]
fn nothing_is_said_for_five_seconds() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.1")?;
        start(machine, &["198.51.100.1"])?;
        assert!(silent_for_five_seconds(machine)?);
        Ok(())
    });
}

/// A closed port answers at once, by ICMP. Clients of the incumbent wait nevertheless.
#[test]
fn nothing_is_said_for_five_seconds_when_refused() {
    on!(|machine| {
        start(machine, &["127.0.0.255"])?;
        assert!(silent_for_five_seconds(machine)?);
        Ok(())
    });
}

#[test]
fn after_that_it_is_a_failure() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.1")?;
        start(machine, &["198.51.100.1"])?;
        let begin = Instant::now();
        let web = machine.web().patience(Duration::from_secs(7));
        assert_eq!(web.says("www.example A")?, "SERVFAIL");
        let elapsed = begin.elapsed().as_secs_f64();
        assert!((5.1..6.0).contains(&elapsed), "{elapsed} s");
        Ok(())
    });
}

#[test]
fn by_tcp_it_is_a_failure_at_once() {
    on!(|machine| {
        start(machine, &["198.51.100.1"])?;
        let begin = Instant::now();
        assert_eq!(machine.web().says_by_tcp("www.example A")?, "SERVFAIL");
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        Ok(())
    });
}

/// By TCP, too, a silent server is passed over at the next question.
#[test]
fn a_server_that_is_silent_by_tcp_is_remembered() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.1")?;
        let _good = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        start(machine, &["198.51.100.1", "198.51.100.2"])?;
        let web = machine.web().patience(Duration::from_secs(5));
        assert_eq!(web.says_by_tcp("www.example A")?, "NOERROR 192.0.2.2");
        let begin = Instant::now();
        assert_eq!(web.says_by_tcp("www.other A")?, "NOERROR 192.0.2.2");
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        Ok(())
    });
}

/// All are silent: the first client waits for all, the next ones hear of it within about a second; and when one
/// comes back, it is heard.
#[test]
fn when_all_are_silent_by_tcp_it_is_a_failure_soon() {
    on!(|machine| {
        let silent = Upstream::silent("198.51.100.1")?;
        let _silent = Upstream::silent("198.51.100.2")?;
        start(machine, &["198.51.100.1", "198.51.100.2"])?;
        let web = machine.web().patience(Duration::from_secs(8));
        let ask = |name: &str, expected: &str| -> Result<Duration> {
            let begin = Instant::now();
            assert_eq!(web.says_by_tcp(&format!("{name} A"))?, expected);
            Ok(begin.elapsed())
        };
        let first = ask("first.example", "SERVFAIL")?.as_secs_f64();
        assert!((4.5..6.0).contains(&first), "{first}");
        for _ in 0..2 {
            let next = ask("next.example", "SERVFAIL")?.as_secs_f64();
            assert!((0.5..2.0).contains(&next), "{next}");
        }
        drop(silent);
        let _good = Upstream::answering("198.51.100.1", "192.0.2.1")?;
        let back = ask("next.example", "NOERROR 192.0.2.1")?;
        assert!(back < Duration::from_secs(2), "{back:?}");
        Ok(())
    });
}

#[test]
fn without_servers_nothing_is_said() {
    on!(|machine| {
        machine.resolv_conf("search example\n")?;
        machine.usual_network()?;
        machine.start()?;
        assert!(
            machine
                .web()
                .gets_nothing(&Query::new("www.example A").bytes())?
        );
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

// What must not happen.

/// Our own address among the servers: each question would come back for ever.
#[test]
fn our_own_address_is_not_asked() {
    on!(|machine| {
        let _good = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        let daemon = start(machine, &[GATEWAY, "198.51.100.2"])?;
        let before = daemon.descriptors()?.len();
        let begin = Instant::now();
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.2");
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        assert!(daemon.descriptors()?.len() < before + 20);
        Ok(())
    });
}

#[test]
fn a_loop_ends() {
    on!(|machine| {
        let daemon = start(machine, &[GATEWAY])?;
        let cpu = daemon.cpu()?;
        machine
            .web()
            .gets_nothing(&Query::new("www.example A").bytes())?;
        assert!(
            daemon.descriptors()?.len() < 100,
            "{}",
            daemon.descriptors()?.len()
        );
        assert!(daemon.cpu()? - cpu < Duration::from_millis(100));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn local_names_do_not_wait_for_dead_servers() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.1")?;
        start(machine, &["198.51.100.1"])?;
        let socket = machine.web().socket()?;
        for number in 0..300 {
            socket.send(&Query::new(&format!("w{number}.example A")).bytes())?;
        }
        quickly(SOON, |_| {
            let web = machine.web().patience(SOON);
            (0..20).try_for_each(|_| is(&web.says("db A")?, "NOERROR 10.88.0.3"))
        })
    });
}

fn is(said: &str, expected: &str) -> Result<()> {
    anyhow::ensure!(said == expected, "{said}, not {expected}");
    Ok(())
}

/// The container at 10.88.0.3 has an answer of its server, soon.
fn from_the_good_one(machine: &Machine<'_>) -> Result<()> {
    quickly(SOON, |number| {
        let client = machine.client("10.88.0.3").patience(SOON);
        let said = client.says(&format!("www{number}.example A"))?;
        is(&said, "NOERROR 192.0.2.1")
    })
}

/// One container's questions to a dead server do not keep another's from a good one.
#[test]
fn no_container_starves_another() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.3")?;
        let _good = Upstream::answering("198.51.100.1", "192.0.2.1")?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY}\n{}{}",
                line_with(1, "10.88.0.2", "", "web", "198.51.100.3"),
                line(2, "10.88.0.3", "", "db")
            ),
        )?;
        let daemon = machine.start()?;
        let socket = machine.web().socket()?;
        for number in 0..3000 {
            socket.send(&Query::new(&format!("w{number}.example A")).bytes())?;
            if number % 50 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        from_the_good_one(machine)?;
        let descriptors = daemon.descriptors()?.len();
        assert!(descriptors <= 256, "{descriptors} descriptors");
        Ok(())
    });
}

/// A container with two addresses, another one, and two servers of theirs.
fn two_containers(machine: &Machine<'_>) -> Result<crate::machine::Daemon> {
    machine.network(
        "net",
        &format!(
            "{GATEWAY}\n{}{}{}",
            line_with(1, "10.88.0.2", "", "web", "198.51.100.3"),
            line_with(1, "10.88.0.4", "", "web", "198.51.100.3"),
            line(2, "10.88.0.3", "", "db")
        ),
    )?;
    let daemon = machine.start()?;
    assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
    Ok(daemon)
}

/// Asks `count` questions a second for a while; says how many descriptors the program had at most.
fn ask_for_a_while(
    machine: &Machine<'_>,
    daemon: &crate::machine::Daemon,
    count: usize,
) -> Result<usize> {
    let socket = machine.web().socket()?;
    let mut most = 0;
    for round in 0..150 {
        for number in 0..count / 50 {
            socket.send(&Query::new(&format!("w{round}-{number}.example A")).bytes())?;
        }
        std::thread::sleep(Duration::from_millis(20));
        most = most.max(daemon.descriptors()?.len());
    }
    Ok(most)
}

/// The server cuts all answers, and by TCP it says nothing.
#[test]
fn cut_answers_take_few_descriptors() {
    on!(|machine| {
        let _cutting = Upstream::start("198.51.100.3", |asked| {
            if asked.tcp {
                Do::Nothing
            } else {
                Do::Send(Reply::to(&asked.bytes).truncated().bytes())
            }
        })?;
        let daemon = two_containers(machine)?;
        let most = ask_for_a_while(machine, &daemon, 500)?;
        assert!(most <= 256, "{most} descriptors");
        assert_eq!(machine.web().says("again.example A")?, "NOERROR tc");
        Ok(())
    });
}

#[test]
fn dead_servers_take_few_descriptors() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.3")?;
        let daemon = two_containers(machine)?;
        let most = ask_for_a_while(machine, &daemon, 500)?;
        assert!(most <= 256, "{most} descriptors");
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// Nor by TCP, with as many connections as it gets, from each of its addresses.
#[test]
fn no_container_starves_another_by_tcp() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.3")?;
        let _good = Upstream::answering("198.51.100.1", "192.0.2.1")?;
        two_containers(machine)?;
        let mut waiting = Vec::new();
        for number in 0..128 {
            let client = machine.client(["10.88.0.2", "10.88.0.4"][number % 2]);
            let mut connection = client.connect()?;
            connection.send(&Query::new(&format!("w{number}.example A")))?;
            waiting.push(connection);
        }
        std::thread::sleep(Duration::from_millis(300));
        quickly(SOON, |number| {
            let client = machine.client("10.88.0.3").patience(SOON);
            let said = client.says_by_tcp(&format!("www{number}.example A"))?;
            is(&said, "NOERROR 192.0.2.1")
        })
    });
}

/// Nor do many together: each has its share and all shares are taken.
#[test]
fn many_containers_do_not_starve_one() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.3")?;
        let _good = Upstream::answering("198.51.100.1", "192.0.2.1")?;
        let mut text = format!("{GATEWAY}\n{}", line(2, "10.88.0.3", "", "db"));
        for n in 10..30 {
            let address = format!("10.88.0.{n}");
            text += &line_with(n, &address, "", &format!("n{n}"), "198.51.100.3");
        }
        machine.network("net", &text)?;
        machine.start()?;
        let sockets: Vec<_> = (10..30)
            .map(|n| machine.client(&format!("10.88.0.{n}")).socket())
            .collect::<Result<_>>()?;
        for round in 0..520 {
            for socket in &sockets {
                // Each asks for a name of its own, or they would share flights.
                let own = format!("w{round}.{:?}.example A", socket.local_addr()?.ip());
                socket.send(&Query::new(&own.replace(':', "-")).bytes())?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        from_the_good_one(machine)
    });
}

/// Equal questions are asked once while they wait, by TCP as by UDP, and each client has its own spelling back.
#[test]
fn equal_questions_are_asked_once() {
    on!(|machine| {
        let upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Later(Duration::from_millis(200), asked.answer("192.0.2.80"))
        })?;
        start(machine, &["198.51.100.1"])?;
        let names = ["same.example", "SAME.example", "sAmE.eXample"];
        let queries: Vec<_> = (0..30)
            .map(|n| Query::new(&format!("{} A", names[n % 3])))
            .collect();
        let sockets: Vec<_> = queries
            .iter()
            .map(|_| machine.web().socket())
            .collect::<Result<_>>()?;
        for (socket, query) in sockets.iter().zip(&queries) {
            socket.send(&query.bytes())?;
        }
        for (socket, query) in sockets.iter().zip(&queries) {
            let answer = receive(socket, Duration::from_secs(2))?.unwrap_or_default();
            let answer = Message::read(&answer)?;
            let asked = Message::read(&query.bytes())?;
            assert_eq!((answer.id, answer.questions), (query.id, asked.questions));
        }
        assert_eq!(upstream.asked().len(), 1);
        let mut connections = Vec::new();
        for name in names.iter().cycle().take(30) {
            let query = Query::new(&format!("tcp.{name} A"));
            let mut connection = machine.web().connect()?;
            connection.send(&query)?;
            connections.push((connection, query));
        }
        for (connection, query) in &mut connections {
            let answer = connection.receive()?;
            let asked = Message::read(&query.bytes())?;
            assert_eq!((answer.id, answer.questions), (query.id, asked.questions));
        }
        assert_eq!(upstream.count("tcp.same.example"), 1);
        Ok(())
    });
}

/// A server that was dead and is slower than the one that is asked in its place.
#[test]
fn a_server_that_comes_back_is_asked_again_though_it_is_slow() {
    on!(|machine| {
        let silent = Upstream::silent("198.51.100.1")?;
        let _fast = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        start(machine, &["198.51.100.1", "198.51.100.2"])?;
        let web = machine.web().patience(Duration::from_secs(5));
        assert_eq!(web.says("first.example A")?, "NOERROR 192.0.2.2");
        drop(silent);
        let _slow = Upstream::start("198.51.100.1", |asked| {
            Do::Later(Duration::from_millis(30), asked.answer("192.0.2.1"))
        })?;
        let mut number = 0;
        crate::machine::within(Duration::from_secs(10), || {
            std::thread::sleep(Duration::from_millis(100));
            number += 1;
            web.says(&format!("w{number}.example A"))
                .is_ok_and(|said| said == "NOERROR 192.0.2.1")
        })?;
        Ok(())
    });
}

/// Whoever has learnt the ports cannot use them for long.
#[test]
fn ports_change() {
    on!(|machine| {
        let upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Send(Reply::to(&asked.bytes).rcode(NXDOMAIN).bytes())
        })?;
        start(machine, &["198.51.100.1"])?;
        let socket = machine.web().socket()?;
        for round in 0..1000 {
            for number in 0..20 {
                socket.send(&Query::new(&format!("w{round}-{number}.example A")).bytes())?;
            }
            for _ in 0..20 {
                receive(&socket, Duration::from_secs(1))?;
            }
        }
        let ports: BTreeSet<_> = upstream
            .asked()
            .iter()
            .map(|asked| asked.from.port())
            .collect();
        assert!(ports.len() > 24, "{} ports", ports.len());
        // None is taken by chance alone: each batch has several.
        let asked = upstream.asked();
        let changes = asked
            .windows(2)
            .filter(|pair| pair[0].from.port() != pair[1].from.port());
        assert!(changes.count() > asked.len() / 16);
        Ok(())
    });
}

/// A server that asks us what we ask it, each time spelt in another way, from `from`.
fn pointing_back(from: &'static str) -> Result<Upstream> {
    Upstream::start("198.51.100.3", move |asked| {
        let mut bytes = asked.bytes.clone();
        for (n, byte) in bytes[12..].iter_mut().enumerate() {
            if byte.is_ascii_alphabetic() && asked.number >> (n % 8) & 1 == 1 {
                *byte ^= 0x20;
            }
        }
        bytes[..2].copy_from_slice(
            &u16::try_from(asked.number % 65536)
                .expect("16 bits")
                .to_be_bytes(),
        );
        if let Ok(socket) = std::net::UdpSocket::bind((from, 0)) {
            socket.send_to(&bytes, (GATEWAY, 53)).ok();
        }
        Do::Nothing
    })
}

#[test]
fn a_server_that_points_back_is_asked_little() {
    on!(|machine| {
        for from in ["198.51.100.3", "198.51.100.4"] {
            let upstream = pointing_back(from)?;
            let daemon = start(machine, &["198.51.100.3"])?;
            machine
                .web()
                .raw(&Query::new("www.example A").bytes(), Duration::from_secs(7))?;
            std::thread::sleep(Duration::from_secs(1));
            let asked = upstream.asked().len();
            assert!(asked <= 12, "{asked} questions from {from}");
            daemon.signal(nix::sys::signal::Signal::SIGTERM)?;
            assert!(daemon.ends_within(Duration::from_secs(10)));
        }
        Ok(())
    });
}

/// Many questions on one socket, as glibc asks A and AAAA; answers in any order, each once.
#[test]
fn many_questions_at_once() {
    on!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        start(machine, &["198.51.100.1"])?;
        let socket = machine.web().socket()?;
        let queries: Vec<_> = (0..50)
            .map(|number| Query::new(&format!("w{number}.example A")))
            .collect();
        for query in &queries {
            socket.send(&query.bytes())?;
        }
        let mut seen = BTreeSet::new();
        for _ in &queries {
            let answer = receive(&socket, Duration::from_secs(3))?;
            let answer =
                Message::read(&answer.ok_or_else(|| anyhow::anyhow!("{} answers", seen.len()))?)?;
            assert_eq!(answer.to_string(), "NOERROR 192.0.2.80");
            seen.insert((answer.id, answer.questions[0].name.clone()));
        }
        let wanted: BTreeSet<_> = queries
            .iter()
            .enumerate()
            .map(|(number, query)| (query.id, format!("w{number}.example.")))
            .collect();
        assert_eq!(seen, wanted);
        Ok(())
    });
}
