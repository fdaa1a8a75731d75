//! Running out: of descriptors while it serves, and of room on the disk while engines write.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::machine::{
    Client, Daemon, GATEWAY, GATEWAY_2, Machine, PATIENCE, line, on, program_path, within,
};
use crate::message::Query;
use crate::upstream::{Connection, Upstream};
use test_fixtures::program::Program;

// Descriptors.

fn start_with_descriptors(machine: &Machine<'_>, count: usize) -> Result<Daemon> {
    let limit = format!(r#"ulimit -n {count}; exec "$@""#);
    machine.start_as(
        Program::new("sh")
            .args(["-c", &limit, "sh"])
            .arg(program_path())
            .arg("--config")
            .arg(&machine.dir)
            .args(["-p", "53", "run"]),
    )
}

/// Idle connections of many clients, as many as there are descriptors for; they stay as long as what is returned.
fn flood(machine: &Machine<'_>, daemon: &Daemon, count: usize) -> Result<Vec<Connection>> {
    let idle: Vec<_> = (0..4 * count)
        .map_while(|number| {
            let address = format!("10.88.{}.{}", 1 + number / 200, 2 + number % 200);
            machine.client(&address).connect().ok()
        })
        .collect();
    within(PATIENCE, || {
        daemon
            .descriptors()
            .is_ok_and(|open| open.len() + 2 >= count)
    })?;
    Ok(idle)
}

fn says_within(client: &Client, question: &str, expected: &str, limit: Duration) -> Result<()> {
    let client = client.patience(Duration::from_millis(300));
    within(limit, || {
        client.says(question).is_ok_and(|said| said == expected)
    })?;
    Ok(())
}

/// While all descriptors are taken by idle connections: UDP as ever, TCP within a moment since the idlest make room.
#[test]
fn a_flood_of_connections_is_survived() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = start_with_descriptors(machine, 64)?;
        assert_eq!(
            machine.web().says("db A")?,
            "NOERROR 10.88.0.3",
            "all is open"
        );
        let before = daemon.descriptors()?.len();
        let idle = flood(machine, &daemon, 64)?;
        for _ in 0..20 {
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        }
        let cpu = daemon.cpu()?;
        std::thread::sleep(Duration::from_millis(500));
        let spent = daemon.cpu()? - cpu;
        assert!(
            spent < Duration::from_millis(250),
            "{spent:?} in half a second"
        );
        drop(idle);
        within(PATIENCE, || {
            daemon
                .descriptors()
                .is_ok_and(|now| now.len() <= before + 1)
        })?;
        assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// A network comes while no descriptor is left for its sockets: it is served as soon as there are some, without
/// another signal. A file that cannot be read for want of a descriptor is read then, too.
#[test]
fn a_network_that_comes_without_descriptors_is_served_later() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = start_with_descriptors(machine, 64)?;
        let idle = flood(machine, &daemon, 64)?;
        machine.network(
            "late",
            &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "late")),
        )?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        drop(idle);
        let late = machine.client("10.89.0.2");
        says_within(&late, "late A", "NOERROR 10.89.0.2", Duration::from_secs(8))?;
        assert_eq!(late.says_by_tcp("late A")?, "NOERROR 10.89.0.2");
        Ok(())
    });
}

/// What is forwarded needs descriptors, too: when they are back, so is forwarding.
#[test]
fn forwarding_comes_back_with_the_descriptors() {
    on!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        let daemon = start_with_descriptors(machine, 64)?;
        let idle = flood(machine, &daemon, 64)?;
        let _maybe = machine
            .web()
            .patience(Duration::from_millis(300))
            .says("first.example A");
        drop(idle);
        says_within(
            &machine.web(),
            "second.example A",
            "NOERROR 192.0.2.80",
            Duration::from_secs(6),
        )?;
        Ok(())
    });
}

// Room on the disk.

/// The directory on a small disk of its own, with the usual network.
fn small_disk(machine: &Machine<'_>) -> Result<()> {
    machine.host.sh(&format!(
        "mount -t tmpfs -o size=64k small {0}; mkdir {1}",
        machine.dir.parent().expect("it has one").display(),
        machine.dir.display()
    ))?;
    machine.usual_network()
}

fn fill(machine: &Machine<'_>) -> Result<()> {
    let mut filler = File::create(machine.dir.with_file_name("filler"))?;
    while filler.write_all(&[0; 512]).is_ok() {}
    Ok(())
}

fn make_room(machine: &Machine<'_>) -> Result<()> {
    Ok(std::fs::remove_file(machine.dir.with_file_name("filler"))?)
}

/// What engines do when a container goes: cut the file, then write the rest of it; without room, nothing or a part.
fn rewrite(machine: &Machine<'_>, text: &str) -> Result<u64> {
    let mut file = File::create(machine.dir.join("net"))?;
    fill(machine)?; // somebody else was faster
    let written = text.lines().try_for_each(|line| writeln!(file, "{line}"));
    ensure!(written.is_err(), "there was room");
    Ok(file.metadata()?.len())
}

fn all_is_well(machine: &Machine<'_>, daemon: &Daemon) -> Result<()> {
    for _ in 0..5 {
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(50));
        let web = machine.web();
        ensure!(web.says("db A")? == "NOERROR 10.88.0.3");
        ensure!(web.says_by_tcp("web AAAA")? == "NOERROR fd10:88::2");
    }
    ensure!(daemon.alive());
    Ok(())
}

/// The disk is full when the file is written anew: what was known is served, for as long as it takes.
#[test]
fn a_full_disk_leaves_an_empty_file_and_drops_nothing() {
    on!(|machine| {
        small_disk(machine)?;
        let daemon = machine.start()?;
        let text = std::fs::read_to_string(machine.dir.join("net"))?;
        assert_eq!(rewrite(machine, &text)?, 0);
        all_is_well(machine, &daemon)?;
        make_room(machine)?;
        machine.network("net", &(text + &line(9, "10.88.0.9", "", "new")))?;
        daemon.hup()?;
        says_within(
            &machine.web(),
            "new A",
            "NOERROR 10.88.0.9",
            Duration::from_secs(2),
        )
    });
}

/// The file ends within the header, or within a line, as a full disk left it.
#[test]
fn a_full_disk_leaves_a_cut_file_and_drops_nothing() {
    on!(|machine| {
        small_disk(machine)?;
        let daemon = machine.start()?;
        let text = std::fs::read_to_string(machine.dir.join("net"))?;
        for length in [1, 5, 9, 15] {
            std::fs::write(machine.dir.join("net"), &text[..length])?;
            all_is_well(machine, &daemon)?;
        }
        Ok(())
    });
}

/// The first network of an engine, and no room for its content: nothing is served there, nothing else is harmed, and
/// it comes when there is room.
#[test]
fn a_network_that_found_no_room_comes_later() {
    on!(|machine| {
        small_disk(machine)?;
        let daemon = machine.start()?;
        fill(machine)?;
        let text = format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "late"));
        assert!(machine.network("late", &text).is_err());
        all_is_well(machine, &daemon)?;
        make_room(machine)?;
        machine.network("late", &text)?;
        daemon.hup()?;
        let late = machine.client("10.89.0.2");
        says_within(&late, "late A", "NOERROR 10.89.0.2", Duration::from_secs(2))
    });
}

/// No room for the pid file: either it is there and right, or the start fails, says so, and leaves nothing behind.
#[test]
fn a_full_disk_at_the_start_leaves_no_half_pid_file() {
    on!(|machine| {
        small_disk(machine)?;
        fill(machine)?;
        let finished = machine.try_start()?;
        let pid = machine.dir.join("aardvark.pid");
        if finished.success() {
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
            assert!(machine.running()?.alive());
            return Ok(());
        }
        assert_eq!(finished.code(), Some(1));
        assert!(finished.stderr.contains("pid"), "{}", finished.stderr);
        assert_eq!(std::fs::read_to_string(&pid).unwrap_or_default(), "");
        let nobody = machine
            .web()
            .raw(&Query::new("db A").bytes(), Duration::from_millis(200));
        assert!(nobody.is_err(), "refused, since nobody listens: {nobody:?}");
        // With room it starts, whatever is left there.
        make_room(machine)?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// Asked to end with a full disk, the file must not name a process that is gone.
#[test]
fn a_full_disk_at_the_end() {
    on!(|machine| {
        small_disk(machine)?;
        let daemon = machine.start()?;
        fill(machine)?;
        daemon.signal(Signal::SIGTERM)?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        let text = std::fs::read_to_string(machine.dir.join("aardvark.pid"))?;
        assert_eq!(text, "2147483647", "as after any end with networks");
        Ok(())
    });
}

/// Descriptors and memory are the same after all of it.
#[test]
fn a_gateway_in_many_networks_takes_its_descriptors_back() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        assert_eq!(
            machine.web().says("db A")?,
            "NOERROR 10.88.0.3",
            "all is open"
        );
        let before = daemon.descriptors()?.len();
        for round in 0..20 {
            let text = format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "x"));
            machine.network("more", &text)?;
            daemon.hup()?;
            let client = machine.client("10.89.0.2");
            says_within(&client, "x A", "NOERROR 10.89.0.2", Duration::from_secs(2))?;
            machine.remove_network("more")?;
            daemon.hup()?;
            within(PATIENCE, || {
                daemon.descriptors().is_ok_and(|now| now.len() == before)
            })
            .map_err(|error| anyhow::anyhow!("round {round}: {error}"))?;
        }
        assert_eq!(machine.web().at(GATEWAY).says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}
