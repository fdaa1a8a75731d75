//! Much of everything: bytes, connections, starts. Nothing is lost, and nothing is left.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use test_fixtures::lab;
use test_fixtures::lab::Host;

use crate::effort::{STALL, full, sized, tell};
use crate::site::{Holding, POOL, Site, Us, Way, wait_for};
use crate::stream::{Meter, Passed, give, take};

/// Growth that is no leak: pieces of tables that are there for good, kB.
const GROWTH: usize = 1_500;

/// What is kept for a reader that was slow for once, kB ([`usernet::limits::WINDOW_MAX`]).
const KEPT: usize = 4 << 10;

/// What bytes need on their way, code that had not run included, kB: the arena of 2 MB, and what is kept for a reader that a
/// busy machine made slow, of which the allocator does not give everything back (9 MB were seen, once).
const NEEDED: usize = 16_000;

/// One direction of one connection.
fn transfer(
    mut from: &TcpStream,
    mut to: &TcpStream,
    key: u64,
    bytes: u64,
) -> Result<(Passed, Passed)> {
    let nobody = Meter::default();
    thread::scope(|scope| {
        let giving = scope.spawn(|| {
            let passed = give(&mut from, key, bytes, &nobody)?;
            from.shutdown(Shutdown::Write)?;
            anyhow::Ok(passed)
        });
        let taken = take(&mut to, key, u64::MAX, &nobody)?;
        Ok((giving.join().expect("no panic")?, taken))
    })
}

fn told(what: &str, begin: Instant, (given, taken): &(Passed, Passed)) -> Result<()> {
    ensure!(
        given.bytes == taken.bytes && given.hash == taken.hash,
        "{what}: {given:?} {taken:?}"
    );
    let seconds = begin.elapsed().as_secs_f64();
    tell(&format!(
        "{what}: {} bytes in {seconds:.1} s, SHA-256 {}… at both ends, longest pause {:?}",
        taken.bytes,
        &taken.hash[..16],
        taken.pause
    ));
    ensure!(
        !full() || taken.pause < STALL,
        "{what}: stalled for {:?}",
        taken.pause
    );
    Ok(())
}

fn transfers(host: &Host, way: Way) -> Result<()> {
    let site = Site::new(host)?;
    let before = site.us.holds()?;
    let bytes = sized(24_000_000, 10_000_000_000);
    for (to_host, key) in [(true, 1), (false, 2)] {
        let begin = Instant::now();
        let (guest, far) = site.pair(way)?;
        let (from, to, what) = if to_host {
            (&guest, &far, "guest to host")
        } else {
            (&far, &guest, "host to guest")
        };
        let passed = transfer(from, to, key, bytes)?;
        told(&format!("{way:?}, {what}"), begin, &passed)?;
    }
    // Both directions have made what they need once.
    let warm = site.us.holds()?;
    let begin = Instant::now();
    let (guest, far) = site.pair(way)?;
    thread::scope(|scope| {
        let up = scope.spawn(|| transfer(&guest, &far, 3, bytes / 4));
        let down = transfer(&far, &guest, 4, bytes / 4)?;
        told(
            &format!("{way:?}, both at once, host to guest"),
            begin,
            &down,
        )?;
        let up = up.join().expect("no panic")?;
        told(&format!("{way:?}, both at once, guest to host"), begin, &up)
    })?;
    drop((guest, far));
    flat(&site, &format!("{way:?}, transfers"), before, warm)
}

/// What is held now is what was held before. Memory that one transfer needed is kept for the next, which needs no more.
fn flat(site: &Site<'_>, what: &str, before: Holding, warm: Holding) -> Result<()> {
    site.us.lets_go(before.descriptors + POOL)?;
    let after = site.us.holds()?;
    tell(&format!(
        "{what}: {before:?} before, {warm:?} after the first ones, {after:?} at the end"
    ));
    ensure!(
        // What is kept for a slow reader differs by more than that from one small transfer to the next.
        (!full() || after.resident < warm.resident + GROWTH + KEPT)
            && after.resident < before.resident + NEEDED,
        "{what}: {before:?}, {warm:?}, then {after:?}"
    );
    Ok(())
}

#[test]
fn bytes_out_4() {
    lab::run(|host| transfers(host, Way::Out4));
}

#[test]
fn bytes_out_6() {
    lab::run(|host| transfers(host, Way::Out6));
}

#[test]
fn bytes_in_4() {
    lab::run(|host| transfers(host, Way::In4));
}

#[test]
fn bytes_in_6() {
    lab::run(|host| transfers(host, Way::In6));
}

#[test]
fn bytes_splice_in_4() {
    lab::run(|host| transfers(host, Way::SpliceIn4));
}

#[test]
fn bytes_splice_in_6() {
    lab::run(|host| transfers(host, Way::SpliceIn6));
}

#[test]
fn bytes_splice_out_4() {
    lab::run(|host| transfers(host, Way::SpliceOut4));
}

/// How a connection ends: who closes first takes turns, and now and then one is cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Caller,
    Callee,
    Reset,
}

impl End {
    fn of(number: usize) -> Self {
        match number % 10 {
            0 => Self::Reset,
            odd if odd % 2 == 1 => Self::Caller,
            _ => Self::Callee,
        }
    }
}

/// Answer connections, one after the other, for ever: a word, and the end as the word says.
fn answer(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut word = [0; 8];
        stream.read_exact(&mut word)?;
        stream.write_all(&word)?;
        if End::of(usize::try_from(u64::from_le_bytes(word))?) != End::Callee {
            // The other end comes first, one way or another.
            stream.read_exact(&mut [0]).unwrap_or_default();
        }
    }
}

fn one(called: SocketAddr, number: usize) -> Result<()> {
    let mut stream = TcpStream::connect(called)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let word = (number as u64).to_le_bytes();
    stream.write_all(&word)?;
    let mut back = [0; 8];
    stream.read_exact(&mut back)?;
    ensure!(back == word);
    match End::of(number) {
        End::Caller => {}
        End::Callee => ensure!(stream.read(&mut [0])? == 0),
        End::Reset => {
            let abort = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&stream, sockopt::Linger, &abort)?;
        }
    }
    Ok(())
}

/// By eight ports, so that the kernels' tables of recent connections do not run out of pairs.
fn connections(host: &Host, way: Way) -> Result<()> {
    let site = Site::new(host)?;
    for port in 0..8 {
        let listener = site.listen(way, port)?;
        thread::spawn(move || answer(&listener));
    }
    let count = sized(1_000, 100_000);
    let mut before = None;
    let (mut most, begin) = (Holding::default(), Instant::now());
    for round in 0..10 {
        site.caller(way).enter(|| {
            let first = round * count / 10;
            for number in first..first + count / 10 {
                let port = u16::try_from(number / 7 % 8)?;
                one(way.called(port), number)
                    .with_context(|| format!("{way:?}, number {number}"))?;
            }
            Ok(())
        })?;
        // The first tenth makes the tables; after it nothing grows.
        let now = site.us.holds()?;
        before.get_or_insert(now);
        most.descriptors = most.descriptors.max(now.descriptors);
        most.resident = most.resident.max(now.resident);
    }
    let before = before.context("no round")?;
    let seconds = begin.elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs(2));
    let after = site.us.holds()?;
    tell(&format!(
        "{way:?}: {count} connections one after another in {seconds:.1} s: {before:?} after the first tenth, \
         most {most:?}, {after:?} at the end"
    ));
    ensure!(
        after.resident < before.resident + GROWTH,
        "{way:?}: {before:?}, then {after:?}"
    );
    ensure!(
        after.descriptors <= before.descriptors.max(after_idle(before)),
        "{way:?}: {before:?}, then {after:?}"
    );
    Ok(())
}

/// Sockets that are kept ready come and go.
fn after_idle(before: Holding) -> usize {
    before.descriptors + POOL
}

#[test]
fn connections_out_4() {
    lab::run(|host| connections(host, Way::Out4));
}

#[test]
fn connections_out_6() {
    lab::run(|host| connections(host, Way::Out6));
}

#[test]
fn connections_in_4() {
    lab::run(|host| connections(host, Way::In4));
}

#[test]
fn connections_in_6() {
    lab::run(|host| connections(host, Way::In6));
}

#[test]
fn connections_splice_in_4() {
    lab::run(|host| connections(host, Way::SpliceIn4));
}

#[test]
fn connections_splice_out_4() {
    lab::run(|host| connections(host, Way::SpliceOut4));
}

/// Everything that a start could leave on the machine: processes, sockets, links, mounts, files, namespaces.
fn inventory(host: &Host) -> Result<String> {
    host.sh(
        "ls /proc | grep '^[0-9]' | while read p; do cat /proc/$p/comm 2>/dev/null || true; done | sort | uniq -c |
           grep -vE ' (sh|ls|grep|cat|sort|uniq|sed|real-.*)$' || true
         ss -Hanp | grep -v '^nl' || true
         ip -br link; findmnt -rno TARGET; find /run -not -path '/run/lab/pids*'
         readlink /proc/[0-9]*/ns/* 2>/dev/null | sort -u | cut -d: -f1 | uniq -c",
    )
}

#[test]
fn starts_leave_nothing() {
    lab::run(|host| {
        let outside = host.outside()?;
        let first = host.container("first")?;
        drop(first);
        host.dir("pids")?;
        let before = inventory(host)?;
        let begin = Instant::now();
        let count = sized(20, 200);
        for round in 0..count {
            let guest = host.container(&format!("guest{round}"))?;
            let us = Us::start(host, &guest, &[])?;
            let processes = us.processes()?;
            ensure!(processes.len() == 2, "{processes:?}");
            // Some are ended by a signal, some by their namespace, some in the middle of a conversation.
            let open = (round % 2 == 0)
                .then(|| {
                    let listener = guest.enter(|| Ok(TcpListener::bind("[::]:80")?))?;
                    let stream = outside.enter(|| Ok(TcpStream::connect("192.0.2.1:8080")?))?;
                    anyhow::Ok((listener, stream))
                })
                .transpose()?;
            if round % 3 == 0 {
                let pid = nix::unistd::Pid::from_raw(us.pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
                wait_for("the daemon ends", || !us.lives())?;
            }
            drop(open);
            drop(guest);
            wait_for("all processes end", || {
                processes
                    .iter()
                    .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
            })?;
        }
        tell(&format!("{count} starts and ends in {:?}", begin.elapsed()));
        // Connections that ended a moment ago are remembered by the kernel for a minute, as always.
        let forgotten = |text: &str| {
            text.lines()
                .filter(|line| !line.contains("TIME-WAIT"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let mut after = String::new();
        let same = wait_for("everything is as before", || {
            after = inventory(host).unwrap_or_default();
            forgotten(&after) == forgotten(&before)
        });
        same.with_context(|| format!("--- before\n{before}\n--- after\n{after}"))
    });
}
