//! The directory changes under a running daemon: on SIGHUP, and without.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::machine::{
    Client, Daemon, GATEWAY, GATEWAY_2, Machine, PATIENCE, effort, line, line_with, on, receive,
    report, within,
};
use crate::message::Query;
use crate::upstream::Upstream;

/// `client` comes to hear `expected`.
fn comes_to_say(client: Client, question: &str, expected: &str) -> Result<()> {
    let client = client.patience(Duration::from_millis(200));
    let mut last = String::new();
    within(PATIENCE, || {
        last = client
            .says(question)
            .unwrap_or_else(|error| error.to_string());
        last == expected
    })
    .map_err(|error| error.context(format!("{question}: {last}, not {expected}")))
    .map(drop)
}

fn append(machine: &Machine<'_>, network: &str, text: &str) -> Result<()> {
    use std::io::Write;
    let mut file = fs::File::options()
        .append(true)
        .open(machine.dir.join(network))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// The sockets it listens on, by the kernel's numbers.
fn sockets(daemon: &Daemon) -> Result<BTreeSet<String>> {
    let mut listening = BTreeSet::new();
    for (file, state) in [("udp", "07"), ("udp6", "07"), ("tcp", "0A"), ("tcp6", "0A")] {
        for line in daemon.proc(&format!("net/{file}"))?.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if fields[1].ends_with(":0035") && fields[3] == state {
                listening.insert(format!("socket:[{}]", fields[9]));
            }
        }
    }
    let own: BTreeSet<_> = daemon
        .descriptors()?
        .into_iter()
        .map(|(_, target)| target)
        .collect();
    Ok(listening.intersection(&own).cloned().collect())
}

#[test]
fn a_container_comes_and_goes() {
    on!(|machine| {
        let _upstream = Upstream::refusing("198.51.100.1", 3)?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        append(machine, "net", &line(9, "10.88.0.9", "", "new"))?;
        daemon.hup()?;
        comes_to_say(machine.web(), "new A", "NOERROR 10.88.0.9")?;
        assert_eq!(
            machine.client("10.88.0.9").says("db A")?,
            "NOERROR 10.88.0.3"
        );
        machine.usual_network()?;
        daemon.hup()?;
        comes_to_say(machine.web(), "new A", "NXDOMAIN")?;
        comes_to_say(machine.web(), "9.0.88.10.in-addr.arpa PTR", "NXDOMAIN")
    });
}

/// An address that one container leaves and another gets, in a file of the same length.
#[test]
fn a_container_replaces_another() {
    on!(|machine| {
        let _upstream = Upstream::refusing("198.51.100.1", 3)?;
        let text = |name: &str| format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", name));
        machine.network("net", &text("aaa"))?;
        let daemon = machine.start()?;
        for (old, new) in [("aaa", "bbb"), ("bbb", "ccc"), ("ccc", "aaa")].repeat(5) {
            machine.network("net", &text(new))?;
            daemon.hup()?;
            comes_to_say(machine.web(), &format!("{new} A"), "NOERROR 10.88.0.2")?;
            comes_to_say(machine.web(), &format!("{old} A"), "NXDOMAIN")?;
        }
        Ok(())
    });
}

#[test]
fn a_network_comes_and_goes() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let client = machine.client("10.89.0.2");
        for _ in 0..3 {
            machine.network(
                "other",
                &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "far")),
            )?;
            daemon.hup()?;
            comes_to_say(client, "far A", "NOERROR 10.89.0.2")?;
            machine.remove_network("other")?;
            daemon.hup()?;
            within(PATIENCE, || UdpSocket::bind((GATEWAY_2, 53)).is_ok())?;
        }
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn a_network_comes_with_tcp() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.network(
            "other",
            &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "far")),
        )?;
        daemon.hup()?;
        let client = machine.client("10.89.0.2");
        within(PATIENCE, || {
            client
                .says_by_tcp("far A")
                .is_ok_and(|said| said == "NOERROR 10.89.0.2")
        })?;
        Ok(())
    });
}

#[test]
fn a_container_joins_a_network() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.network(
            "other",
            &format!(
                "{GATEWAY_2}\n{}{}",
                line(1, "10.89.0.2", "", "web,alias"),
                line(5, "10.89.0.3", "", "far")
            ),
        )?;
        daemon.hup()?;
        comes_to_say(machine.web(), "far A", "NOERROR 10.89.0.3")?;
        comes_to_say(machine.web(), "alias A", "NOERROR 10.89.0.2")
    });
}

#[test]
fn an_address_moves_to_another_network() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        fs::rename(machine.dir.join("net"), machine.dir.join("renamed"))?;
        daemon.hup()?;
        thread::sleep(Duration::from_millis(200));
        comes_to_say(machine.web(), "db A", "NOERROR 10.88.0.3")?;
        assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn servers_of_network_and_container_change() {
    on!(|machine| {
        let _one = Upstream::answering("198.51.100.1", "192.0.2.1")?;
        let _two = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        let _three = Upstream::answering("198.51.100.3", "192.0.2.3")?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        assert_eq!(machine.web().says("a.example A")?, "NOERROR 192.0.2.1");
        machine.network(
            "net",
            &format!(
                "{GATEWAY} 198.51.100.2\n{}",
                line(1, "10.88.0.2", "", "web")
            ),
        )?;
        daemon.hup()?;
        comes_to_say(machine.web(), "a.example A", "NOERROR 192.0.2.2")?;
        let own = line_with(1, "10.88.0.2", "", "web", "198.51.100.3");
        machine.network("net", &format!("{GATEWAY} 198.51.100.2\n{own}"))?;
        daemon.hup()?;
        comes_to_say(machine.web(), "a.example A", "NOERROR 192.0.2.3")
    });
}

#[test]
fn a_busy_address_is_tried_again() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let other = UdpSocket::bind((GATEWAY_2, 53))?;
        machine.network(
            "other",
            &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "far")),
        )?;
        daemon.hup()?;
        thread::sleep(Duration::from_millis(200));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        drop(other);
        daemon.hup()?;
        comes_to_say(machine.client("10.89.0.2"), "far A", "NOERROR 10.89.0.2")
    });
}

/// A bridge gets its address after the engine's call.
#[test]
fn an_address_that_comes_later_is_tried_again() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.network(
            "other",
            &format!("10.77.0.1\n{}", line(5, "10.77.0.2", "", "far")),
        )?;
        daemon.hup()?;
        thread::sleep(Duration::from_millis(200));
        machine.host.sh("ip addr add 10.77.0.1/16 dev lo")?;
        let client = Client::new("10.77.0.2".parse()?, "10.77.0.1:53".parse()?);
        comes_to_say(client, "far A", "NOERROR 10.77.0.2")
    });
}

#[test]
fn sockets_stay_open() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let before = sockets(&daemon)?;
        assert!(before.len() >= 4, "two addresses, UDP and TCP: {before:?}");
        for number in 9..40 {
            append(
                machine,
                "net",
                &line(number, &format!("10.88.0.{number}"), "", "more"),
            )?;
            daemon.hup()?;
            thread::sleep(Duration::from_millis(10));
        }
        comes_to_say(
            machine.web(),
            "39.0.88.10.in-addr.arpa PTR",
            "NOERROR more.",
        )?;
        assert_eq!(sockets(&daemon)?, before);
        Ok(())
    });
}

#[test]
fn a_connection_survives() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let mut connection = machine.web().connect()?;
        for number in 9..20 {
            append(
                machine,
                "net",
                &line(number, &format!("10.88.0.{number}"), "", "more"),
            )?;
            daemon.hup()?;
            thread::sleep(Duration::from_millis(30));
            connection.send(&Query::new("db A"))?;
            assert_eq!(connection.receive()?.to_string(), "NOERROR 10.88.0.3");
        }
        Ok(())
    });
}

/// A forwarded question that is on its way during a reload gets its answer.
#[test]
fn a_forwarded_question_survives() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            crate::upstream::Do::Later(Duration::from_millis(300), asked.answer("192.0.2.80"))
        })?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        let socket = machine.web().socket()?;
        socket.send(&Query::new("www.example A").bytes())?;
        for number in 9..14 {
            thread::sleep(Duration::from_millis(20));
            append(
                machine,
                "net",
                &line(number, &format!("10.88.0.{number}"), "", "more"),
            )?;
            daemon.hup()?;
        }
        assert!(receive(&socket, Duration::from_secs(2))?.is_some());
        Ok(())
    });
}

/// The number of `reloads`, each with a changed file and seen to have happened, while questions are asked without a
/// pause, ten times as many at least; none goes unanswered.
fn reload_under_load(machine: &Machine<'_>, reloads: u32) -> Result<()> {
    machine.usual_network()?;
    let daemon = machine.start()?;
    let stop = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        let askers: Vec<_> = ["10.88.0.2", "10.88.0.3"]
            .map(|address| {
                let (stop, asked) = (&stop, &asked);
                scope.spawn(move || -> Result<()> {
                    let socket = machine.client(address).socket()?;
                    while !stop.load(Ordering::Relaxed) {
                        let query = Query::new("db A");
                        socket.send(&query.bytes())?;
                        let answer = receive(&socket, PATIENCE)?;
                        let number = asked.fetch_add(1, Ordering::Relaxed);
                        let answer =
                            answer.ok_or_else(|| anyhow::anyhow!("question {number} is lost"))?;
                        let answer = crate::message::Message::read(&answer)?;
                        anyhow::ensure!(
                            answer.id == query.id && answer.to_string() == "NOERROR 10.88.0.3"
                        );
                    }
                    Ok(())
                })
            })
            .into_iter()
            .collect();
        let client = machine.client("10.88.0.3");
        let reload = |number: u32| -> Result<()> {
            machine.usual_network()?;
            let name = format!("n{number}");
            append(machine, "net", &line(9, "10.88.1.9", "", &name))?;
            daemon.hup()?;
            comes_to_say(client, &format!("{name}.dns.podman A"), "NOERROR 10.88.1.9")
        };
        let reloaded = (0..reloads).try_for_each(reload);
        let enough = usize::try_from(reloads)? * 10;
        while reloaded.is_ok()
            && asked.load(Ordering::Relaxed) < enough
            && !askers.iter().any(thread::ScopedJoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        for asker in askers {
            asker.join().expect("it does not panic")?;
        }
        reloaded?;
        anyhow::ensure!(daemon.alive());
        let asked = asked.load(Ordering::Relaxed);
        report(&format!("{reloads} reloads, {asked} questions, none lost"));
        anyhow::ensure!(asked >= enough, "only {asked} questions");
        Ok(())
    })
}

/// A network of ten thousand names, reloaded again and again with another container each time: memory and descriptors
/// stay as they are.
#[test]
fn a_large_network_reloaded_often_takes_no_more_memory() {
    on!(|machine| {
        let containers: String = (0..5000)
            .map(|n| {
                let (high, low) = (n / 250, n % 250 + 1);
                let names = format!("container-{n},{n:012x}");
                line(n, &format!("10.88.{}.{low}", 10 + high), "", &names)
            })
            .collect();
        let write = |number: u32| {
            let last = line(9999, "10.88.1.9", "", &format!("n{number},{number:012x}"));
            machine.network("net", &format!("{GATEWAY}\n{containers}{last}"))
        };
        write(0)?;
        let daemon = machine.start()?;
        // Without the pages of its program, of which any number may have been touched, more so if it is not optimized.
        let resident =
            || -> Result<u64> { Ok(daemon.status("RssAnon")?.trim_end_matches(" kB").parse()?) };
        let client = machine.client("10.88.1.9");
        let reload = |number: u32| -> Result<()> {
            write(number)?;
            daemon.hup()?;
            comes_to_say(
                client,
                &format!("n{number}.dns.podman A"),
                "NOERROR 10.88.1.9",
            )
        };
        (1..20).try_for_each(reload)?;
        thread::sleep(Duration::from_millis(100)); // what the watch has seen is read, too
        let (before, descriptors) = (resident()?, daemon.descriptors()?);
        let reloads = 100 * effort();
        (20..20 + reloads).try_for_each(reload)?;
        let mut after = 0;
        let given_back = within(PATIENCE, || {
            after = resident().unwrap_or(u64::MAX);
            after <= before + 2048
        });
        report(&format!(
            "{reloads} reloads of 10,002 names: {before} kB, then {after} kB"
        ));
        assert!(given_back.is_ok(), "{before} kB, then {after} kB");
        assert!(after <= 6144, "{before} kB, then {after} kB");
        within(PATIENCE, || {
            daemon.descriptors().is_ok_and(|now| now == descriptors)
        })
        .with_context(|| format!("{:?}, then {:?}", descriptors, daemon.descriptors()))?;
        Ok(())
    });
}

/// The file is rewritten in place, as engines do: seen half-written, it must not change anything.
#[test]
fn no_question_is_lost_in_a_thousand_reloads() {
    on!(|machine| reload_under_load(machine, 1000 * effort()));
}

/// Without a change of the file in between: reloading itself loses nothing.
#[test]
fn no_question_is_lost_in_a_thousand_reloads_of_the_same() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let socket = machine.web().socket()?;
        for _ in 0..1000 * effort() {
            daemon.hup()?;
            socket.send(&Query::new("db A").bytes())?;
            assert!(receive(&socket, Duration::from_secs(2))?.is_some());
        }
        Ok(())
    });
}

#[test]
fn a_burst_of_signals_costs_little() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        for _ in 0..2000 {
            daemon.hup()?;
        }
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

// Files seen while they are written.

/// With `text` seen at a reload, everything is as before; when the file is whole again, it counts.
fn seen_half_written(machine: &Machine<'_>, text: &str) -> Result<()> {
    machine.usual_network()?;
    machine.network(
        "other",
        &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "far")),
    )?;
    let daemon = machine.start()?;
    let before = sockets(&daemon)?;
    machine.network("net", text)?;
    daemon.hup()?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(10) {
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3", "{text:?}");
    }
    machine.usual_network()?;
    append(machine, "net", &line(9, "10.88.0.9", "", "new"))?;
    daemon.hup()?;
    comes_to_say(machine.web(), "new A", "NOERROR 10.88.0.9")?;
    assert_eq!(sockets(&daemon)?, before);
    Ok(())
}

#[test]
fn an_empty_file_is_being_written() {
    on!(|machine| seen_half_written(machine, ""));
}

#[test]
fn half_a_header_is_being_written() {
    on!(|machine| seen_half_written(machine, "10.88.0"));
}

#[test]
fn half_a_line_is_being_written() {
    on!(|machine| {
        let text = format!(
            "{GATEWAY},fd10:88::1\n{}",
            &line(1, "10.88.0.2", "", "web")[..40]
        );
        seen_half_written(machine, &text)
    });
}

/// A file is rewritten line by line, and any number of signals come between two lines.
#[test]
fn between_two_lines_it_is_being_written() {
    on!(|machine| {
        use std::io::Write;
        machine.usual_network()?;
        let daemon = machine.start()?;
        let text = fs::read_to_string(machine.dir.join("net"))?;
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(50)); // what was written is old
            let mut file = fs::File::create(machine.dir.join("net"))?;
            let mut soon = true; // what is not written in time counts as gone
            for line in text.split_inclusive('\n') {
                let written = Instant::now();
                file.write_all(line.as_bytes())?;
                for _ in 0..12 {
                    daemon.hup()?;
                    thread::sleep(Duration::from_micros(300));
                }
                let said = machine.web().says("db.dns.podman A")?;
                soon &= written.elapsed() < Duration::from_millis(15);
                assert!(said == "NOERROR 10.88.0.3" || !soon, "{said} behind {line}");
            }
        }
        comes_to_say(machine.web(), "db A", "NOERROR 10.88.0.3")
    });
}

/// The only network there is, cut to nothing for a moment: not the end of the daemon.
#[test]
fn the_only_network_empty_for_a_moment() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.network("net", "")?;
        daemon.hup()?;
        thread::sleep(Duration::from_millis(10));
        machine.usual_network()?;
        daemon.hup()?;
        assert!(!daemon.ends_within(Duration::from_millis(300)));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn a_file_that_became_nonsense_keeps_its_network() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.network("net", "nonsense\n")?;
        daemon.hup()?;
        thread::sleep(Duration::from_millis(300));
        assert!(daemon.alive());
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// Random cuts of the file between reloads never close a socket.
#[test]
fn cut_anywhere() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let before = sockets(&daemon)?;
        let whole = fs::read(machine.dir.join("net"))?;
        for length in (0..whole.len()).step_by(5) {
            fs::write(machine.dir.join("net"), &whole[..length])?;
            daemon.hup()?;
            thread::sleep(Duration::from_millis(2));
            fs::write(machine.dir.join("net"), &whole)?;
            daemon.hup()?;
        }
        comes_to_say(machine.web(), "db A", "NOERROR 10.88.0.3")?;
        assert_eq!(sockets(&daemon)?, before);
        Ok(())
    });
}

// Without a signal.

#[test]
fn a_change_is_noticed_without_a_signal() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        append(machine, "net", &line(9, "10.88.0.9", "", "new"))?;
        comes_to_say(machine.web(), "new A", "NOERROR 10.88.0.9")
    });
}

#[test]
fn a_network_is_noticed_without_a_signal() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        machine.network(
            "other",
            &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "far")),
        )?;
        comes_to_say(machine.client("10.89.0.2"), "far A", "NOERROR 10.89.0.2")
    });
}

#[test]
fn the_end_is_noticed_without_a_signal() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.remove_network("net")?;
        // It lingers for a while: who removes networks sends a signal, and wants to find a pid file until then.
        assert!(daemon.ends_within(PATIENCE));
        Ok(())
    });
}
