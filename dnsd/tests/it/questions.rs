//! A running daemon is asked what it does (`dnsd stats`).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use test_fixtures::program::Finished;

use crate::machine::{Machine, PATIENCE, ours, program, within};
use crate::upstream::Upstream;

fn stats(machine: &Machine<'_>, words: &[&str]) -> Result<Finished> {
    program().arg("stats").args(words).arg(&machine.dir).run()
}

fn told(machine: &Machine<'_>) -> Result<Value> {
    let finished = stats(machine, &["--json"])?;
    ensure!(finished.success(), "{finished}");
    Ok(serde_json::from_str(&finished.stdout)?)
}

fn files(machine: &Machine<'_>) -> Result<Vec<String>> {
    let entries = fs::read_dir(&machine.dir)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[test]
fn queries_servers_and_networks_are_told() {
    ours!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        let before = files(machine)?;
        let web = machine.web();
        web.says("db A")?;
        web.says("db AAAA")?;
        web.says_by_tcp("db A")?;
        for _ in 0..2 {
            assert_eq!(web.says("www.example.org A")?, "NOERROR 192.0.2.80");
        }
        web.says("nobody.dns.podman A")?;
        // Another thread may not have counted yet what it has said.
        within(PATIENCE, || {
            told(machine).is_ok_and(|told| told["counters"]["said_noerror"] == 5)
        })?;
        let told = told(machine)?;
        ensure!(
            told["version"] == 1 && told["pid"] == daemon.pid.as_raw(),
            "{told:#}"
        );
        for (name, expected) in [
            ("queries_udp", 5),
            ("queries_tcp", 1),
            ("asked_a", 5),
            ("asked_aaaa", 1),
            ("said_nxdomain", 1),
            ("said_servfail", 0),
            ("forwarded", 1),
            ("answered_cache", 1),
        ] {
            ensure!(told["counters"][name] == expected, "{name}: {told:#}");
        }
        let server = &told["servers"][0];
        ensure!(server["address"] == "198.51.100.1:53", "{server}");
        ensure!(
            server["answers"] == 1 && server["silent"] == false,
            "{server}"
        );
        ensure!(server["mean_ms"].as_f64() > Some(0.0), "{server}");
        let network = &told["networks"][0];
        ensure!(
            network["name"] == "net" && network["internal"] == false,
            "{network}"
        );
        ensure!(network["listen"][0] == "10.88.0.1", "{network}");
        ensure!(network["names"].as_u64() > Some(2), "{network}");
        ensure!(told["cache"]["answers"] == 1, "{told:#}");
        ensure!(told["memory_bytes"].as_u64() > Some(100_000), "{told:#}");

        let text = stats(machine, &[])?;
        let first = format!("pid {}, up ", daemon.pid);
        ensure!(text.success() && text.stdout.starts_with(&first), "{text}");
        for word in [
            "net",
            "198.51.100.1:53",
            "answers",
            "asked aaaa",
            "resident",
        ] {
            ensure!(text.stdout.contains(word), "{word}: {text}");
        }
        // Any file more would be a network to aardvark-dns.
        assert_eq!(files(machine)?, before);
        Ok(())
    });
}

#[test]
fn what_fails_and_who_is_silent_is_told() {
    ours!(|machine| {
        let _upstream = Upstream::refusing("198.51.100.1", 2)?;
        machine.usual_network()?;
        let _daemon = machine.start()?;
        assert_eq!(machine.web().says("www.example.org A")?, "SERVFAIL");
        let told = told(machine)?;
        let failed = &told["failed"][0];
        ensure!(failed["question"] == "www.example.org A", "{told:#}");
        ensure!(failed["count"].as_u64() > Some(0), "{told:#}");
        ensure!(
            told["servers"][0]["refusals"].as_u64() > Some(0),
            "{told:#}"
        );
        Ok(())
    });
}

#[test]
fn a_signal_without_a_question_means_nothing() {
    ours!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        daemon.signal(Signal::SIGURG)?;
        machine.web().says("db A")?;
        ensure!(daemon.alive() && stats(machine, &[])?.success());
        Ok(())
    });
}

/// The daemon calls who listens at the port of the question.
#[test]
fn who_has_not_asked_is_told_nothing() {
    ours!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        test_fixtures::questions::answers_only_who_has_asked(daemon.pid.as_raw())
    });
}

#[test]
fn without_a_daemon_it_is_said_so() {
    ours!(|machine| {
        machine.usual_network()?;
        let none = stats(machine, &[])?;
        ensure!(none.code() == Some(1) && none.stdout.is_empty(), "{none}");
        ensure!(none.stderr.contains("no daemon serves"), "{none}");

        let daemon = machine.start()?;
        daemon.signal(Signal::SIGKILL)?;
        ensure!(daemon.ends_within(Duration::from_secs(4)));
        let gone = stats(machine, &["--json"])?;
        ensure!(gone.code() == Some(1) && gone.stdout.is_empty(), "{gone}");
        let said = format!("there is no process {}", daemon.pid);
        ensure!(gone.stderr.contains(&said), "{gone}");
        // The next one is not disturbed.
        let next = machine.start()?;
        let told = told(machine).context("the next one")?;
        ensure!(told["pid"] == next.pid.as_raw(), "{told:#}");
        Ok(())
    });
}
