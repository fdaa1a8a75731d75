//! Connections: several questions on one, what is wrong on one, many of them.

use std::io::Write;
use std::time::{Duration, Instant};

use test_fixtures::program::Program;

use crate::machine::{Machine, on, program_path, quickly};
use crate::message::{Message, Query, Reply};
use crate::upstream::{Connection, Do, Upstream, framed};

fn ask(connection: &mut Connection, question: &str) -> anyhow::Result<String> {
    let query = Query::new(question);
    connection.send(&query)?;
    let answer = connection.receive()?;
    assert_eq!(answer.id, query.id);
    Ok(answer.to_string())
}

#[test]
fn several_questions_one_after_the_other() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut connection = machine.web().connect()?;
        for _ in 0..50 {
            assert_eq!(ask(&mut connection, "db A")?, "NOERROR 10.88.0.3");
            assert_eq!(ask(&mut connection, "web AAAA")?, "NOERROR fd10:88::2");
            assert_eq!(ask(&mut connection, "nobody.dns.podman A")?, "NXDOMAIN");
        }
        Ok(())
    });
}

#[test]
fn questions_sent_at_once_are_answered_in_order() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut connection = machine.web().connect()?;
        let queries: Vec<_> = (0..100)
            .map(|number| Query::new(if number % 2 == 0 { "db A" } else { "web A" }))
            .collect();
        let bytes: Vec<u8> = queries
            .iter()
            .flat_map(|query| framed(&query.bytes()))
            .collect();
        connection.stream.write_all(&bytes)?;
        for query in &queries {
            assert_eq!(connection.receive()?.id, query.id);
        }
        Ok(())
    });
}

#[test]
fn a_forwarded_question_keeps_its_place() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Later(Duration::from_millis(300), asked.answer("192.0.2.80"))
        })?;
        machine.usual_network()?;
        machine.start()?;
        let mut connection = machine.web().connect()?;
        let queries = ["www.example A", "db A"].map(Query::new);
        for query in &queries {
            connection.send(query)?;
        }
        let answers = [connection.receive()?, connection.receive()?];
        assert_eq!(
            answers.each_ref().map(ToString::to_string),
            ["NOERROR 192.0.2.80", "NOERROR 10.88.0.3"]
        );
        assert_eq!(
            [answers[0].id, answers[1].id],
            [queries[0].id, queries[1].id]
        );
        Ok(())
    });
}

#[test]
fn a_question_in_pieces() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut connection = machine.web().connect()?;
        for byte in framed(&Query::new("db A").bytes()) {
            connection.stream.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(connection.receive()?.to_string(), "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn nonsense_is_skipped() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut connection = machine.web().connect()?;
        connection.stream.write_all(&framed(b"nonsense"))?;
        assert_eq!(ask(&mut connection, "db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn an_idle_connection_is_closed_after_three_seconds() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut fresh = machine.web().connect()?;
        let mut used = machine.web().connect()?;
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(ask(&mut used, "db A")?, "NOERROR 10.88.0.3");
        let begin = Instant::now();
        let after = fresh.closed_after(Duration::from_secs(5))?;
        assert!(
            (1.0..2.5).contains(&after.as_secs_f64()),
            "{after:?} of waiting"
        );
        used.closed_after(Duration::from_secs(5))?;
        let after = begin.elapsed();
        assert!(
            (2.5..4.0).contains(&after.as_secs_f64()),
            "{after:?} after a question"
        );
        Ok(())
    });
}

#[test]
fn a_half_message_is_closed_after_three_seconds() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut connection = machine.web().connect()?;
        connection.stream.write_all(&[0, 60, 1, 2, 3])?;
        let after = connection.closed_after(Duration::from_secs(6))?;
        assert!((2.5..4.5).contains(&after.as_secs_f64()), "{after:?}");
        Ok(())
    });
}

/// However slowly it arrives: the time is for the message, not for each of its bytes.
#[test]
fn a_message_in_slow_pieces_is_closed_after_three_seconds() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut connection = machine.web().connect()?;
        let begin = Instant::now();
        for byte in [0, 60, 1, 2, 3] {
            connection.stream.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(500));
        }
        connection.closed_after(Duration::from_secs(6))?;
        let after = begin.elapsed().as_secs_f64();
        assert!((2.5..4.0).contains(&after), "{after}");
        Ok(())
    });
}

/// Connections that say nothing make room before one that waits for a server.
#[test]
fn who_waits_for_a_server_is_not_idle() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Later(Duration::from_secs(1), asked.answer("192.0.2.80"))
        })?;
        machine.usual_network()?;
        machine.start()?;
        let mut waiting = machine.web().connect()?;
        waiting.send(&Query::new("www.example A"))?;
        std::thread::sleep(Duration::from_millis(100));
        let _idle: Vec<_> = (0..100)
            .map_while(|_| machine.web().connect().ok())
            .collect();
        assert_eq!(waiting.receive()?.to_string(), "NOERROR 192.0.2.80");
        Ok(())
    });
}

/// A client that does not read must not hold up others.
#[test]
fn no_socket_blocks() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        let mut sockets = 0;
        for (number, target) in daemon.descriptors()? {
            if target.starts_with("socket:") {
                let info = daemon.proc(&format!("fdinfo/{number}"))?;
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
                let flags = u32::from_str_radix(flags.unwrap_or_default().trim(), 8)?;
                assert!(flags & 0o4000 != 0, "{number} {target}: {flags:o}");
                sockets += 1;
            }
        }
        assert!(sockets >= 4);
        Ok(())
    });
}

/// A length that nothing follows once kept the incumbent busy for ever.
#[test]
fn a_cut_message_costs_no_time() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        for _ in 0..10 {
            let mut connection = machine.web().connect()?;
            connection.stream.write_all(&[0, 60])?;
        }
        let before = daemon.cpu()?;
        std::thread::sleep(Duration::from_secs(1));
        assert!(daemon.cpu()? - before < Duration::from_millis(50));
        assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn connections_of_the_whole_machine_at_once() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut connections: Vec<_> = (2..34)
            .map(|last| machine.client(&format!("10.88.0.{last}")).connect())
            .collect::<Result<_, _>>()?;
        for connection in &mut connections {
            assert_eq!(ask(connection, "db A")?, "NOERROR 10.88.0.3");
        }
        Ok(())
    });
}

#[test]
fn a_client_has_a_limited_number_of_connections() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let idle: Vec<_> = (0..1000)
            .map_while(|_| machine.web().connect().ok())
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let descriptors = daemon.descriptors()?.len();
        assert!(descriptors < 300, "{descriptors} descriptors");
        // Somebody else is served as if nothing was.
        let other = machine.client("10.88.0.3");
        quickly(Duration::from_millis(100), |_| {
            assert_eq!(other.says_by_tcp("db A")?, "NOERROR 10.88.0.3");
            assert_eq!(other.says("db A")?, "NOERROR 10.88.0.3");
            Ok(())
        })?;
        drop(idle);
        Ok(())
    });
}

#[test]
fn running_out_of_descriptors_is_survived() {
    on!(|machine| {
        machine.usual_network()?;
        let started = Program::new("sh")
            .args(["-c", r#"ulimit -n 40; exec "$@""#, "sh"])
            .arg(program_path())
            .arg("--config")
            .arg(&machine.dir)
            .args(["-p", "53", "run"]);
        machine.start_as(started)?;
        let idle: Vec<_> = (2..102)
            .map_while(|last| machine.client(&format!("10.88.0.{last}")).connect().ok())
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(
            machine.web().says("db A")?,
            "NOERROR 10.88.0.3",
            "meanwhile"
        );
        drop(idle);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(
            machine.web().says("db A")?,
            "NOERROR 10.88.0.3",
            "afterwards"
        );
        assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// A length of zero: the connection may end, the program does not.
#[test]
fn an_empty_message() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut connection = machine.web().connect()?;
        connection.stream.write_all(&framed(b""))?;
        assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// 64 KiB from upstream through the program to the client.
#[test]
fn the_largest_messages() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            let mut reply = Reply::to(&asked.bytes);
            if asked.tcp {
                for number in 0..240 {
                    reply = reply.txt(60, &format!("{number:0>250}"));
                }
            } else {
                reply = reply.truncated();
            }
            Do::Send(reply.bytes())
        })?;
        machine.usual_network()?;
        machine.start()?;
        let answer = machine.web().tcp(&Query::new("large.example TXT"))?;
        assert_eq!(answer.answers.len(), 240);
        assert!(answer.length > 60_000);
        Ok(())
    });
}

/// Whatever is in the datagram behind the length, the next question is answered.
fn after(machine: &Machine<'_>, bytes: &[u8]) -> anyhow::Result<()> {
    let mut connection = machine.web().connect()?;
    connection.stream.write_all(&framed(bytes))?;
    connection.send(&Query::new("db A"))?;
    let mut answer = connection.receive()?;
    if answer.to_string() != "NOERROR 10.88.0.3" {
        answer = connection.receive()?; // the first was about the nonsense
    }
    assert_eq!(answer.to_string(), "NOERROR 10.88.0.3");
    Ok(())
}

#[test]
fn a_wrong_message_of_any_kind_is_skipped() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let query = Query::new("web A").bytes();
        for length in 1..query.len() {
            after(machine, &query[..length])?;
        }
        assert!(Message::read(&query).is_ok());
        Ok(())
    });
}
