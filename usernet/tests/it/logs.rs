//! Where messages go, and how many.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

use crate::attached::{Daemon, run, wait_for};

/// A host whose `/dev` is the test's own, with little in it.
fn own_devices(host: &Host) -> Result<()> {
    host.sh(
        "mkdir /run/lab/dev && mount -t tmpfs dev /run/lab/dev && cd /run/lab/dev && mkdir net
         for node in null zero full urandom net/tun; do touch $node; mount -o bind /dev/$node $node; done
         mount -o move /run/lab/dev /dev",
    )?;
    Ok(())
}

/// The program under the name that callers use, ready; what it said before.
fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<(Daemon, Finished)> {
    let files = host.dir("logs")?;
    let (program, pid) = (files.join("pasta"), files.join("pid"));
    if !program.exists() {
        symlink(env!("CARGO_BIN_EXE_usernet"), &program)?;
    }
    let finished = Program::new(program)
        .args(["--config-net", "--no-map-gw"])
        .args(words)
        .args(["--pid".into(), pid.clone(), "--netns".into()])
        .arg(guest.path())
        .run()?;
    ensure!(finished.success(), "{finished}");
    let pid = std::fs::read_to_string(pid)?.trim().parse()?;
    let daemon = Daemon {
        pid,
        finished: finished.clone(),
    };
    Ok((daemon, finished))
}

/// Echoes that the host does not permit: a message each.
fn provoke(host: &Host, guest: &Netns) -> Result<()> {
    host.set_sysctl("ipv4/ping_group_range", "1 0")?;
    let ping = "ping -n -q -c 200 -i 0.002 -W 1 192.0.2.2 || true";
    guest.sh(ping).map(drop)
}

/// Lines about the echoes; how many of them were left out.
fn limited<'a>(lines: impl Iterator<Item = &'a str>) -> (usize, usize) {
    let lines = lines.filter(|line| line.contains("Permission denied"));
    let counts = lines.map(|line| {
        let more = line
            .rsplit_once(" (")
            .and_then(|(_, more)| more.split_once(" more before)"));
        more.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
    });
    counts.fold((0, 0), |(lines, all), more: usize| (lines + 1, all + more))
}

/// Datagrams up to one with these words in it.
fn read_until(log: &UnixDatagram, words: &str) -> Result<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    let mut buffer = [0; 2000];
    while !lines.last().is_some_and(|line| line.contains(words)) {
        let len = log.recv(&mut buffer);
        let len = len.with_context(|| format!("no {words} after {lines:#?}"))?;
        let line = buffer.get(..len).unwrap_or_default();
        lines.push(String::from_utf8_lossy(line).into_owned());
    }
    Ok(lines)
}

/// Opened before the sandbox closes, used behind it.
#[test]
fn the_systems_log() {
    run(|host| {
        let _outside = host.outside()?;
        own_devices(host)?;
        // Read meanwhile: its queue holds few.
        let log = UnixDatagram::bind("/dev/log")?;
        log.set_read_timeout(Some(Duration::from_secs(10)))?;
        let reader = thread::spawn(move || read_until(&log, "Permission denied"));
        let guest = host.container("guest")?;
        let (daemon, finished) = start(host, &guest, &[])?;
        provoke(host, &guest)?;
        let lines = reader
            .join()
            .unwrap_or_else(|_| bail!("the reader panicked"))?;
        // Facility daemon; what was said on standard error is information.
        let (last, before) = lines.split_last().context("no lines")?;
        ensure!(last.starts_with("<28>pasta: "), "{last}");
        let told: Vec<_> = finished.stderr.lines().collect();
        let logged: Vec<_> = before
            .iter()
            .filter_map(|line| line.strip_prefix("<30>pasta: "))
            .collect();
        ensure!(!told.is_empty() && told == logged, "{told:?} {logged:?}");
        drop(guest);
        daemon.ended()?;
        Ok(())
    });
}

/// `--debug` and a log file of one's own leave the system's log alone. Without one nothing is missing.
#[test]
fn not_the_systems_log() {
    run(|host| {
        let _outside = host.outside()?;
        own_devices(host)?;
        let guest = host.container("guest")?;
        let (daemon, _) = start(host, &guest, &[])?;
        drop(guest);
        daemon.ended()?;
        let log = UnixDatagram::bind("/dev/log")?;
        log.set_nonblocking(true)?;
        for words in [&["--debug"][..], &["--log-file", "/run/lab/logs/log"]] {
            let guest = host.container("guest")?;
            let (daemon, _) = start(host, &guest, words)?;
            provoke(host, &guest)?;
            drop(guest);
            daemon.ended()?;
            let received = log.recv(&mut [0; 10]);
            ensure!(received.is_err(), "{words:?}");
        }
        Ok(())
    });
}

/// Five lines a second of each kind, however many there are to write.
#[test]
fn a_file_with_few_lines() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let path = "/run/lab/logs/log";
        let (daemon, _) = start(host, &guest, &["--log-file", path])?;
        provoke(host, &guest)?;
        // One that counts those before it.
        thread::sleep(Duration::from_secs(1));
        provoke(host, &guest)?;
        let read = || std::fs::read_to_string(path).unwrap_or_default();
        wait_for("what was left out is counted", || {
            limited(read().lines()).1 > 0
        })?;
        let text = read();
        let (header, lines) = text.split_once('\n').context("no header")?;
        ensure!(
            header.starts_with("pasta ") && header.ends_with(')'),
            "{header}"
        );
        ensure!(
            header.contains(&*Path::new("/run/lab/logs/pasta").to_string_lossy()),
            "{header}"
        );
        let stamps = lines
            .lines()
            .map(|line| line.split_once(": ").context("no stamp"));
        let stamps = stamps
            .map(|found| Ok(found?.0.parse::<f64>()?))
            .collect::<Result<Vec<_>>>()?;
        ensure!(stamps.is_sorted(), "{text}");
        let (written, left_out) = limited(lines.lines());
        let last = lines.lines().last().and_then(|line| line.split_once('.'));
        let seconds: usize = last.context("no lines")?.0.parse()?;
        ensure!(written <= 5 * (seconds + 2), "{text}");
        ensure!(written + left_out > 100, "{text}");
        drop(guest);
        daemon.ended()?;
        Ok(())
    });
}
