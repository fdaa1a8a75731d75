//! What the incumbent has nothing of. Each test holds only what follows from the feature's description.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::machine::{GATEWAY, GATEWAY_2, Machine, line, ours, program, quickly, receive};
use crate::message::{Message, Query, Reply};
use crate::upstream::{Do, Upstream};

fn start(machine: &Machine<'_>) -> anyhow::Result<crate::machine::Daemon> {
    machine.usual_network()?;
    machine.start()
}

// The memory of forwarded answers.

#[test]
fn an_answer_is_remembered() {
    ours!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        start(machine)?;
        for _ in 0..5 {
            assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
            assert_eq!(
                machine.client("10.88.0.3").says("WWW.example A")?,
                "NOERROR 192.0.2.80"
            );
            assert_eq!(
                machine.web().says_by_tcp("www.example A")?,
                "NOERROR 192.0.2.80"
            );
        }
        assert_eq!(upstream.asked().len(), 1);
        Ok(())
    });
}

#[test]
fn a_remembered_answer_grows_old() {
    ours!(|machine| {
        let upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Send(Reply::to(&asked.bytes).a(3, "192.0.2.80").bytes())
        })?;
        start(machine)?;
        let ask = || machine.web().udp(&Query::new("www.example A"));
        assert_eq!(ask()?.answers[0].ttl, 3);
        thread::sleep(Duration::from_millis(1500));
        let ttl = ask()?.answers[0].ttl;
        assert!((1..=2).contains(&ttl), "{ttl}");
        thread::sleep(Duration::from_millis(2000));
        assert_eq!(ask()?.answers[0].ttl, 3);
        assert_eq!(upstream.asked().len(), 2);
        Ok(())
    });
}

#[test]
fn a_time_to_live_of_zero_is_not_remembered() {
    ours!(|machine| {
        let upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Send(Reply::to(&asked.bytes).a(0, "192.0.2.80").bytes())
        })?;
        start(machine)?;
        for _ in 0..3 {
            machine.web().says("www.example A")?;
        }
        assert_eq!(upstream.asked().len(), 3);
        Ok(())
    });
}

#[test]
fn a_no_is_remembered_as_long_as_its_soa_says() {
    ours!(|machine| {
        let upstream = Upstream::start("198.51.100.1", |asked| {
            let reply = Reply::to(&asked.bytes).rcode(3);
            Do::Send(
                if asked.name().starts_with("with.") {
                    reply.soa(60)
                } else {
                    reply
                }
                .bytes(),
            )
        })?;
        start(machine)?;
        for _ in 0..3 {
            assert_eq!(machine.web().says("with.example A")?, "NXDOMAIN");
            assert_eq!(machine.web().says("without.example A")?, "NXDOMAIN");
        }
        assert_eq!(upstream.count("with.example"), 1);
        assert_eq!(upstream.count("without.example"), 3);
        Ok(())
    });
}

#[test]
fn a_failure_is_not_remembered() {
    ours!(|machine| {
        let upstream = Upstream::start("198.51.100.1", |asked| {
            if asked.number == 0 {
                Do::Send(Reply::to(&asked.bytes).rcode(2).bytes())
            } else {
                Do::Send(asked.answer("192.0.2.80"))
            }
        })?;
        start(machine)?;
        assert_eq!(machine.web().says("www.example A")?, "SERVFAIL");
        thread::sleep(Duration::from_millis(1100));
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        assert_eq!(upstream.asked().len(), 2);
        Ok(())
    });
}

/// What one container's servers say is not told to a container with others.
#[test]
fn memories_of_different_servers_are_kept_apart() {
    ours!(|machine| {
        let _one = Upstream::answering("198.51.100.1", "192.0.2.1")?;
        let _two = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        machine.network(
            "a",
            &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
        )?;
        machine.network(
            "b",
            &format!(
                "{GATEWAY_2} 198.51.100.2\n{}",
                line(2, "10.89.0.2", "", "db")
            ),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.1");
        assert_eq!(
            machine.client("10.89.0.2").says("www.example A")?,
            "NOERROR 192.0.2.2"
        );
        Ok(())
    });
}

/// The wish for signatures makes another question.
#[test]
fn signatures_are_not_forgotten() {
    ours!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        start(machine)?;
        machine.web().udp(&Query::new("www.example A"))?;
        machine
            .web()
            .udp(&Query::new("www.example A").edns(1232).dnssec_ok())?;
        assert_eq!(upstream.asked().len(), 2);
        Ok(())
    });
}

#[test]
fn equal_questions_at_once_are_one() {
    ours!(|machine| {
        let upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Later(Duration::from_millis(250), asked.answer("192.0.2.80"))
        })?;
        start(machine)?;
        let sockets: Vec<_> = (0..30)
            .map(|_| machine.web().socket())
            .collect::<Result<_, _>>()?;
        let queries: Vec<_> = sockets
            .iter()
            .map(|_| Query::new("www.example A"))
            .collect();
        for (socket, query) in sockets.iter().zip(&queries) {
            socket.send(&query.bytes())?;
        }
        for (socket, query) in sockets.iter().zip(&queries) {
            let answer = receive(socket, Duration::from_secs(2))?.expect("an answer for each");
            let answer = Message::read(&answer)?;
            assert_eq!(
                (answer.id, &*answer.to_string()),
                (query.id, "NOERROR 192.0.2.80")
            );
        }
        // One a worker, when several take a question at the same moment.
        let asked = upstream.asked().len();
        assert!(asked <= 2, "{asked} for 30 questions");
        Ok(())
    });
}

/// Many different answers with long lives: memory has a limit.
#[test]
fn the_memory_is_bounded() {
    ours!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Send(Reply::to(&asked.bytes).txt(86400, &"x".repeat(250)).bytes())
        })?;
        let daemon = start(machine)?;
        let socket = machine.web().socket()?;
        let resident = || -> anyhow::Result<u64> {
            Ok(daemon.status("VmRSS")?.trim_end_matches(" kB").parse()?)
        };
        let before = resident()?;
        for number in 0..40_000 {
            socket.send(&Query::new(&format!("w{number}.example TXT")).bytes())?;
            receive(&socket, Duration::from_secs(2))?;
        }
        let after = resident()?;
        assert!(after < before + 12_000, "{before} kB, then {after} kB");
        Ok(())
    });
}

#[test]
fn a_memory_is_as_fast_as_a_local_name() {
    const LATER: Duration = Duration::from_secs(1);
    ours!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Later(LATER, asked.answer("192.0.2.80"))
        })?;
        start(machine)?;
        machine.web().says("www.example A")?;
        quickly(LATER / 2, |_| machine.web().says("www.example A").map(drop))
    });
}

// More names.

#[test]
fn a_name_with_its_network() {
    ours!(|machine| {
        let upstream = Upstream::refusing("198.51.100.1", 3)?;
        let both = |number: u32| line(1, &format!("10.{number}.0.2"), "", "web");
        machine.network(
            "front",
            &format!("{GATEWAY}\n{}{}", both(88), line(2, "10.88.0.3", "", "db")),
        )?;
        machine.network(
            "back",
            &format!(
                "{GATEWAY_2}\n{}{}",
                both(89),
                line(3, "10.89.0.3", "", "db")
            ),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("db.front A")?, "NOERROR 10.88.0.3");
        assert_eq!(machine.web().says("db.back A")?, "NOERROR 10.89.0.3");
        assert_eq!(
            machine.web().says("db.back.dns.podman A")?,
            "NOERROR 10.89.0.3"
        );
        // Only of networks that the client is in.
        let db = machine.client("10.88.0.3");
        assert_eq!(db.says("db.front A")?, "NOERROR 10.88.0.3");
        assert_eq!(db.says("db.back A")?, "NXDOMAIN");
        assert_eq!(upstream.count("db.front"), 0);
        Ok(())
    });
}

/// A network may be called like a domain: its names come first, others are forwarded.
#[test]
fn public_names_are_not_hidden_by_a_network() {
    ours!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.network(
            "com",
            &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("example.com A")?, "NOERROR 192.0.2.80");
        assert_eq!(machine.web().says("web A")?, "NOERROR 10.88.0.2");
        Ok(())
    });
}

#[test]
fn answers_are_rotated() {
    ours!(|machine| {
        let text: String = (2..6)
            .map(|n| line(n, &format!("10.88.0.{n}"), "", &format!("c{n},app")))
            .collect();
        machine.network("net", &format!("{GATEWAY}\n{text}"))?;
        machine.start()?;
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..40 {
            first.insert(machine.web().data("app A")?[0].clone());
        }
        assert!(first.len() >= 3, "{first:?}");
        Ok(())
    });
}

/// A container in networks a and b asks for a name in both: what is in the network it asks from comes first.
#[test]
fn the_same_network_first() {
    ours!(|machine| {
        for (network, gateway, second) in [("a", GATEWAY, 88), ("b", GATEWAY_2, 89)] {
            let text = format!(
                "{gateway}\n{}{}",
                line(1, &format!("10.{second}.0.2"), "", "web"),
                line(2, &format!("10.{second}.0.3"), "", "db")
            );
            machine.network(network, &text)?;
        }
        machine.start()?;
        for _ in 0..10 {
            assert_eq!(machine.client("10.88.0.2").data("db A")?[0], "10.88.0.3");
            assert_eq!(machine.client("10.89.0.2").data("db A")?[0], "10.89.0.3");
        }
        Ok(())
    });
}

#[test]
fn the_name_of_the_host() {
    ours!(|machine| {
        let upstream = Upstream::refusing("198.51.100.1", 3)?;
        start(machine)?;
        assert_eq!(
            machine.web().says("host.containers.internal A")?,
            "NOERROR 10.88.0.1"
        );
        assert_eq!(upstream.count("host.containers.internal"), 0);
        Ok(())
    });
}

// Seeing inside.

/// It goes on answering: what it writes is for people.
#[test]
fn the_state_on_a_signal() {
    ours!(|machine| {
        let daemon = start(machine)?;
        for _ in 0..20 {
            daemon.signal(Signal::SIGUSR1)?;
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        }
        assert!(daemon.alive());
        Ok(())
    });
}

#[test]
fn nothing_but_name_service_listens_unless_asked() {
    ours!(|machine| {
        let daemon = start(machine)?;
        let sockets = daemon.proc("net/unix")?;
        let own = daemon.descriptors()?;
        for line in sockets.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (flags, inode) = (fields[3], format!("socket:[{}]", fields[6]));
            let listening = flags == "00010000";
            assert!(
                !listening || own.iter().all(|(_, target)| *target != inode),
                "{line}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_directory_is_checked() {
    ours!(|machine| {
        machine.usual_network()?;
        let finished = program().arg("check").arg(&machine.dir).run()?;
        assert!(finished.success(), "{finished}");
        machine.network("wrong", "10.89.0.1\nonly three columns\n")?;
        let finished = program().arg("check").arg(&machine.dir).run()?;
        assert_eq!(finished.code(), Some(1), "{finished}");
        let said = finished.stdout + &finished.stderr;
        assert!(
            said.contains("wrong") && said.contains('2'),
            "file and line: {said}"
        );
        Ok(())
    });
}

#[test]
fn a_name_is_looked_up_without_a_daemon() {
    ours!(|machine| {
        machine.usual_network()?;
        machine.network(
            "other",
            &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "far")),
        )?;
        let query = |name: &str, from: &str| {
            let finished = program()
                .arg("query")
                .arg(&machine.dir)
                .args([name, "--from", from])
                .run()
                .unwrap();
            finished.stdout + &finished.stderr
        };
        assert!(query("db", "10.88.0.2").contains("10.88.0.3"));
        assert!(!query("far", "10.88.0.2").contains("10.89.0.2"));
        assert!(query("far", "10.89.0.2").contains("10.89.0.2"));
        // No daemon was started or asked.
        assert!(!machine.dir.join("aardvark.pid").exists());
        Ok(())
    });
}

/// And it is said why: which network knows the name, and how, or whose servers would be asked.
#[test]
fn the_reason_of_an_answer() {
    ours!(|machine| {
        machine.network(
            "front",
            &format!(
                "{GATEWAY} 198.51.100.1 route=corp.example@198.51.100.2\n{}{}{}",
                line(1, "10.88.0.2", "", "web"),
                line(2, "10.88.0.3", "", "db,*.app.local").replace('\n', "  srv=_a._tcp:1\n"),
                crate::machine::line_with(3, "10.88.0.4", "", "own", "198.51.100.3"),
            ),
        )?;
        machine.network(
            "in%int",
            &format!("{GATEWAY_2}\n{}", line(4, "10.89.0.2", "", "x")),
        )?;
        let query = |name: &str, kind: &str, from: &str| {
            let asked = program().arg("query").arg(&machine.dir);
            asked
                .args([name, kind, "--from", from])
                .run()
                .map(|finished| finished.stdout)
        };
        for (name, kind, from, why) in [
            ("db", "A", "10.88.0.2", "db is a name in network front"),
            (
                "DB.dns.podman",
                "A",
                "10.88.0.2",
                "db is a name in network front",
            ),
            (
                "a.app.local",
                "A",
                "10.88.0.2",
                "a.app.local is covered by *.app.local in network front",
            ),
            (
                "db.front",
                "A",
                "10.88.0.2",
                "ends in the name of the network",
            ),
            (
                "_a._tcp.db",
                "SRV",
                "10.88.0.2",
                "_a._tcp.db is a service in network front",
            ),
            (
                "no.dns.podman",
                "A",
                "10.88.0.2",
                "the search domain is asked of nobody else",
            ),
            (
                "www.example",
                "A",
                "10.89.0.2",
                "nothing is forwarded for internal networks",
            ),
            (
                "www.example",
                "A",
                "10.88.0.2",
                "198.51.100.1:53 would be asked, those of its networks",
            ),
            (
                "a.corp.example",
                "A",
                "10.88.0.2",
                "198.51.100.2:53 would be asked, the servers of corp.example",
            ),
            (
                "www.example",
                "A",
                "10.88.0.4",
                "198.51.100.3:53 would be asked, the container's own",
            ),
            (
                "www.example",
                "A",
                "192.0.2.1",
                "the servers of the host would be asked",
            ),
        ] {
            let said = query(name, kind, from)?;
            assert!(said.contains(why), "{name} {kind} from {from}: {said}");
        }
        Ok(())
    });
}

#[test]
fn changes_are_visible_at_once() {
    ours!(|machine| {
        let _upstream = Upstream::refusing("198.51.100.1", 3)?;
        let daemon = start(machine)?;
        let slow = AtomicUsize::new(0);
        for number in 9..59 {
            let text = line(
                number,
                &format!("10.88.0.{number}"),
                "",
                &format!("c{number}"),
            );
            use std::io::Write;
            let mut file = std::fs::File::options()
                .append(true)
                .open(machine.dir.join("net"))?;
            file.write_all(text.as_bytes())?;
            drop(file);
            daemon.hup()?;
            thread::sleep(Duration::from_millis(20));
            if machine.web().says(&format!("c{number} A"))? != format!("NOERROR 10.88.0.{number}") {
                slow.fetch_add(1, Ordering::Relaxed);
            }
        }
        let slow = slow.into_inner();
        assert!(slow <= 5, "{slow} of 50 names not there after 20 ms");
        Ok(())
    });
}
