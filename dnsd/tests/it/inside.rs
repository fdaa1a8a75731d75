//! What can be seen of the inside: counters, the log, the state on a signal. All of it for people and their tools; the
//! incumbent has only a log.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::machine::{Daemon, GATEWAY, GATEWAY_2, Machine, PATIENCE, line, ours, quickly, within};
use crate::message::Query;
use crate::upstream::Upstream;

// Counters.

fn metrics_path(machine: &Machine<'_>) -> PathBuf {
    machine.dir.with_file_name("metrics.sock")
}

fn start_with_metrics(machine: &Machine<'_>) -> Result<Daemon> {
    machine.usual_network()?;
    machine.start_as(
        machine
            .program()
            .arg("run")
            .env("DNSD_METRICS", metrics_path(machine)),
    )
}

/// The body of what the socket says.
fn metrics(machine: &Machine<'_>) -> Result<String> {
    let mut stream = UnixStream::connect(metrics_path(machine))?;
    stream.set_read_timeout(Some(Duration::from_secs(4)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
    ensure!(head.starts_with("HTTP/1.0 200 "), "{head}");
    ensure!(
        head.contains("Content-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    ensure!(
        head.contains(&format!("Content-Length: {}", body.len())),
        "{head}"
    );
    Ok(body.to_owned())
}

/// Names and values of the text format, of which every line is checked.
fn samples(text: &str) -> Result<Vec<(String, u64)>> {
    ensure!(text.ends_with('\n'), "no end of line at the end");
    let mut samples: Vec<(String, u64)> = Vec::new();
    let mut lines = text.lines();
    while let Some(help) = lines.next() {
        let help = help.strip_prefix("# HELP ").context("HELP comes first")?;
        let (name, meaning) = help.split_once(' ').context("a help text")?;
        ensure!(
            !meaning.trim().is_empty() && meaning.trim() == meaning,
            "{help:?}"
        );
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        ensure!(
            name.chars().all(plain) && name.starts_with("dnsd_"),
            "{name}"
        );
        let kind = lines.next().context("TYPE follows")?;
        ensure!(kind == format!("# TYPE {name} counter"), "{kind}");
        let sample = lines.next().context("a sample follows")?;
        let (of, value) = sample.split_once(' ').context("a value")?;
        ensure!(of == name && name.ends_with("_total"), "{sample}");
        ensure!(
            samples.iter().all(|(known, _)| known != name),
            "{name} twice"
        );
        samples.push((name.to_owned(), value.parse()?));
    }
    Ok(samples)
}

fn counter(machine: &Machine<'_>, name: &str) -> Result<u64> {
    let samples = samples(&metrics(machine)?)?;
    let found = samples.iter().find(|(known, _)| known == name);
    Ok(found.with_context(|| format!("no {name}"))?.1)
}

#[test]
fn counters_are_prometheus_text_and_rise() {
    ours!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        start_with_metrics(machine)?;
        let before = samples(&metrics(machine)?)?;
        assert!(
            before.len() >= 10 && before.iter().all(|(_, value)| *value == 0),
            "{before:?}"
        );
        for _ in 0..7 {
            machine.web().says("db A")?;
            machine.web().says_by_tcp("db A")?;
            machine.web().says("www.example A")?;
        }
        for (name, expected) in [
            ("dnsd_queries_udp_total", 14),
            ("dnsd_queries_tcp_total", 7),
            ("dnsd_answered_total", 14),
            ("dnsd_forwarded_total", 1),
            ("dnsd_answered_cache_total", 6),
            ("dnsd_failed_total", 0),
        ] {
            assert_eq!(counter(machine, name)?, expected, "{name}");
        }
        Ok(())
    });
}

/// The path is one of the starter's, and nothing stays there.
#[test]
fn the_socket_of_counters_goes_with_the_daemon() {
    ours!(|machine| {
        machine.usual_network()?;
        let start = || {
            let script = format!(
                r#"cd {}; exec "$@""#,
                machine.dir.with_file_name("").display()
            );
            let program = test_fixtures::program::Program::new("sh")
                .args(["-c", &script, "sh"])
                .arg(crate::machine::program_path())
                .arg("--config")
                .arg(&machine.dir)
                .args(["-p", "53", "run"])
                .env("DNSD_METRICS", "metrics.sock");
            machine.start_as(program)
        };
        let daemon = start()?;
        assert_eq!(counter(machine, "dnsd_failed_total")?, 0);
        daemon.signal(Signal::SIGTERM)?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        assert!(!metrics_path(machine).exists());
        // Not if it is somebody else's by then.
        let daemon = start()?;
        std::fs::remove_file(metrics_path(machine))?;
        std::fs::write(metrics_path(machine), "precious")?;
        machine.remove_network("net")?;
        daemon.hup()?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        assert!(metrics_path(machine).exists());
        Ok(())
    });
}

#[test]
fn counters_are_off_unless_asked_for() {
    ours!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert!(!metrics_path(machine).exists());
        Ok(())
    });
}

#[test]
fn a_socket_of_counters_that_cannot_be_had_is_no_error() {
    ours!(|machine| {
        machine.usual_network()?;
        machine.start_as(
            machine
                .program()
                .arg("run")
                .env("DNSD_METRICS", "/nowhere/metrics.sock"),
        )?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// The socket of a daemon that was killed is replaced; a file that is none is not.
#[test]
fn the_socket_of_a_dead_daemon_is_replaced() {
    ours!(|machine| {
        let daemon = start_with_metrics(machine)?;
        daemon.signal(Signal::SIGKILL)?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        let daemon = start_with_metrics(machine)?;
        daemon.signal(Signal::SIGTERM)?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        let path = metrics_path(machine);
        std::fs::write(&path, "precious")?;
        start_with_metrics(machine)?;
        assert_eq!(std::fs::read_to_string(&path)?, "precious");
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// Those who connect and say nothing, or do not read, hold up nobody and are let go.
#[test]
fn a_silent_reader_of_counters_disturbs_nobody() {
    ours!(|machine| {
        let daemon = start_with_metrics(machine)?;
        // What opens descriptors after the start has done so once each part has answered.
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        counter(machine, "dnsd_answered_total")?;
        let before = daemon.descriptors()?.len();
        let silent: Vec<_> = (0..100)
            .map(|_| UnixStream::connect(metrics_path(machine)))
            .collect::<Result<_, _>>()?;
        let mut gone = UnixStream::connect(metrics_path(machine))?;
        gone.write_all(b"x")?;
        drop(gone);
        quickly(Duration::from_millis(500), |_| {
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
            assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
            assert!(counter(machine, "dnsd_answered_total")? >= 2);
            Ok(())
        })?;
        within(PATIENCE, || {
            daemon.descriptors().is_ok_and(|now| now.len() <= before)
        })?;
        drop(silent);
        assert!(counter(machine, "dnsd_answered_total")? >= 2);
        Ok(())
    });
}

// The log.

/// Takes the place of the system's log, where the program looks for it.
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    reader: Option<thread::JoinHandle<()>>,
    /// Keeps the place, read or not.
    _socket: UnixDatagram,
}

impl Log {
    /// Before the program starts. With `read` false nobody reads, and the queue is soon full.
    fn start(machine: &Machine<'_>, read: bool) -> Result<Self> {
        let path = Path::new("/run/log");
        // As on machines with systemd; the queue is a tenth of that otherwise.
        std::fs::write("/proc/sys/net/unix/max_dgram_qlen", "512")?;
        let socket = UnixDatagram::bind(path)?;
        if Path::new("/dev/log").exists() {
            machine.host.sh("mount --bind /run/log /dev/log")?;
        }
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut log = Self {
            lines: Arc::default(),
            stop: Arc::default(),
            reader: None,
            _socket: socket.try_clone()?,
        };
        if read {
            let (lines, stop) = (log.lines.clone(), log.stop.clone());
            log.reader = Some(thread::spawn(move || read_log(&socket, &lines, &stop)));
        }
        Ok(log)
    }

    /// Lines so far that have all the parts.
    fn lines(&self, parts: &[&str]) -> Vec<String> {
        let lines = self.lines.lock().expect("no holder panics");
        let has = |line: &&String| parts.iter().all(|part| line.contains(part));
        lines.iter().filter(has).cloned().collect()
    }

    /// A line with all the parts that comes in time.
    fn awaits(&self, parts: &[&str]) -> Result<String> {
        within(PATIENCE, || !self.lines(parts).is_empty())
            .with_context(|| format!("{parts:?} not in {:#?}", self.lines(&[])))?;
        Ok(self.lines(parts).swap_remove(0))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader.join().ok(); // its panic has been printed
        }
    }
}

fn read_log(socket: &UnixDatagram, lines: &Mutex<Vec<String>>, stop: &AtomicBool) {
    let mut buffer = [0; 8192];
    while !stop.load(Ordering::Relaxed) {
        if let Ok(length) = socket.recv(&mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
            lines.lock().expect("no holder panics").push(line);
        }
    }
}

fn start_at_level(machine: &Machine<'_>, level: &str) -> Result<Daemon> {
    machine.start_as(machine.program().arg("run").env("RUST_LOG", level))
}

#[test]
fn queries_are_not_logged_unless_asked_for() {
    ours!(|machine| {
        let log = Log::start(machine, true)?;
        machine.usual_network()?;
        let daemon = start_at_level(machine, "INFO")?;
        machine.web().says("db A")?;
        daemon.signal(Signal::SIGUSR1)?;
        log.awaits(&["queries_udp"])?;
        assert_eq!(log.lines(&["10.88.0.2", "asks"]), [""; 0]);
        Ok(())
    });
}

#[test]
fn queries_are_logged_with_the_name_of_the_container() {
    ours!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        let log = Log::start(machine, true)?;
        machine.usual_network()?;
        let daemon = start_at_level(machine, "DEBUG")?;
        machine.web().says("db A")?;
        let line = log.awaits(&["10.88.0.2:", "(web)", "10.88.0.1", "db", "answered"])?;
        // Facility user, severity debug, the time, our name and number.
        let text = line.strip_prefix("<15>").context("facility and severity")?;
        let (time, text) = text.split_at_checked(15).context("a time")?;
        assert!(
            text.starts_with(&format!(" aardvark-dns[{}]: ", daemon.pid)),
            "{line}"
        );
        // The clock may have gone on by a minute, and by a day at midnight.
        let times = machine
            .host
            .sh("for ago in 0 60; do LC_ALL=C date -d \"-$ago seconds\" '+%b %e %H:%M:'; done")?;
        assert!(
            times.lines().any(|now| time.starts_with(now)),
            "{time} is not one of {times}"
        );
        machine.client("10.88.0.3").says_by_tcp("www.example A")?;
        log.awaits(&["10.88.0.3:", "(db)", "www.example", "forwarded"])?;
        machine.client("10.88.0.77").says("web A")?;
        log.awaits(&["10.88.0.77:", "(unknown)", "web", "answered"])?;
        Ok(())
    });
}

/// Whoever chooses names chooses no lines of the log.
#[test]
fn a_name_is_one_line_of_the_log() {
    ours!(|machine| {
        let log = Log::start(machine, true)?;
        machine.usual_network()?;
        start_at_level(machine, "DEBUG")?;
        machine.web().says("a\n<8>forged: \x1b[31m.dns.podman A")?;
        let line = log.awaits(&["forged"])?;
        assert!(!line.contains('\n') && !line.contains('\x1b'), "{line:?}");
        Ok(())
    });
}

/// Nobody reads the log and its queue is full: answers come as fast as ever.
#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    ours!(|machine| {
        let log = Log::start(machine, false)?;
        machine.usual_network()?;
        let daemon = start_at_level(machine, "DEBUG")?;
        quickly(Duration::from_secs(2), |_| {
            for _ in 0..500 {
                assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
            }
            Ok(())
        })?;
        quickly(Duration::from_secs(2), |_| {
            for _ in 0..10 {
                daemon.signal(Signal::SIGUSR1)?;
                assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
            }
            Ok(())
        })?;
        drop(log);
        Ok(())
    });
}

/// Whoever keeps the log starts anew, and later makes it a stream: lines go there.
#[test]
fn a_log_that_starts_anew_is_found() {
    ours!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let log = Log::start(machine, true)?;
        let says = |seen: &dyn Fn() -> bool| {
            within(PATIENCE, || {
                daemon.signal(Signal::SIGUSR1).ok();
                thread::sleep(Duration::from_millis(100));
                seen()
            })
        };
        says(&|| !log.lines(&["queries_udp"]).is_empty())?;
        drop(log);
        machine
            .host
            .sh("umount /dev/log 2>/dev/null || true; rm /run/log")?;
        let log = Log::start(machine, true)?;
        says(&|| !log.lines(&["queries_udp"]).is_empty())?;
        drop(log);
        machine
            .host
            .sh("umount /dev/log 2>/dev/null || true; rm /run/log")?;
        let stream = std::os::unix::net::UnixListener::bind("/run/log")?;
        if Path::new("/dev/log").exists() {
            machine.host.sh("mount --bind /run/log /dev/log")?;
        }
        stream.set_nonblocking(true)?;
        let connection = std::cell::OnceCell::new();
        says(&|| {
            stream.accept().is_ok_and(|(taken, _)| {
                drop(connection.set(taken));
                true
            })
        })?;
        let mut connection = connection.into_inner().context("a connection")?;
        daemon.signal(Signal::SIGUSR1)?;
        connection.set_nonblocking(false)?;
        connection.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut all = Vec::new();
        connection.read_to_end(&mut all).ok(); // nothing more comes in time
        let text = String::from_utf8(all)?;
        let lines: Vec<_> = text.split_terminator('\0').collect();
        assert!(text.ends_with('\0') && lines.len() > 10, "{text:?}");
        assert!(
            lines.iter().all(|line| line.starts_with("<14>")),
            "{lines:?}"
        );
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// What stays wrong is not said again whenever something else changes.
#[test]
fn a_problem_is_in_the_log_once() {
    ours!(|machine| {
        let log = Log::start(machine, true)?;
        machine.usual_network()?;
        for number in 0..20 {
            machine.network(&format!("bad{number}"), "nonsense\n")?;
        }
        machine.resolv_conf("nameserver 198.51.100.1\nnameserver nonsense\n")?;
        let daemon = machine.start()?;
        let mut text = std::fs::read_to_string(machine.dir.join("net"))?;
        for number in 9..20 {
            text += &line(number, &format!("10.88.0.{number}"), "", "more");
            machine.network("net", &text)?;
            daemon.hup()?;
            thread::sleep(Duration::from_millis(20));
        }
        machine.network("bad7", "other nonsense\n")?;
        log.awaits(&["bad7: ", "other"])?;
        machine.network("worse", "nonsense\n")?;
        log.awaits(&["worse: "])?;
        machine.network("net", "nonsense\n")?;
        log.awaits(&[" net: "])?;
        for (name, lines) in [("bad3: ", 1), ("bad7: ", 2), ("/etc/resolv.conf: ", 1)] {
            assert_eq!(log.lines(&[name]).len(), lines, "{:#?}", log.lines(&[name]));
        }
        Ok(())
    });
}

/// All queries are in the log as long as somebody reads it.
#[test]
fn the_log_has_all_queries_if_somebody_reads_it() {
    ours!(|machine| {
        let log = Log::start(machine, true)?;
        machine.usual_network()?;
        start_at_level(machine, "DEBUG")?;
        for number in 0..300 {
            machine
                .web()
                .udp(&Query::new(&format!("n{number}.dns.podman A")))?;
        }
        within(PATIENCE, || {
            (0..300).all(|number| !log.lines(&[&format!(" n{number}.dns.podman")]).is_empty())
        })?;
        Ok(())
    });
}

// The state.

#[test]
fn the_state_has_networks_servers_and_counters() {
    ours!(|machine| {
        let _answering = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        let log = Log::start(machine, true)?;
        machine.usual_network()?;
        machine.network(
            "other%int",
            &format!(
                "{GATEWAY_2}\n{}bad line\n",
                line(7, "10.89.0.2", "", "inside")
            ),
        )?;
        let daemon = machine.start()?;
        machine.web().says("www.example A")?;
        daemon.signal(Signal::SIGUSR1)?;
        log.awaits(&["network net:", "5 names", GATEWAY])?;
        log.awaits(&["network other, internal", "1 names", GATEWAY_2])?;
        log.awaits(&["problem: other%int: line 3"])?;
        log.awaits(&["servers of the host", "198.51.100.1:53"])?;
        log.awaits(&["server 198.51.100.1:53: answers, 1 answers"])?;
        log.awaits(&["kept answers: 1 "])?;
        log.awaits(&["queries_udp: 1"])?;
        Ok(())
    });
}

/// Whatever fails most, by name and by server.
#[test]
fn the_state_has_what_fails_most() {
    ours!(|machine| {
        let _refusing = Upstream::refusing("198.51.100.1", 2)?;
        let _silent = Upstream::silent("198.51.100.2")?;
        let log = Log::start(machine, true)?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY} 198.51.100.1 route=quiet.example@198.51.100.2\n{}",
                line(1, "10.88.0.2", "", "web"),
            ),
        )?;
        let daemon = machine.start()?;
        for _ in 0..5 {
            assert_eq!(machine.web().says("often.example A")?, "SERVFAIL");
        }
        machine.web().says("often.example AAAA")?;
        machine.web().says_by_tcp("seldom.example A")?;
        let patient = machine.web().patience(Duration::from_secs(8));
        assert_eq!(patient.says("a.quiet.example TXT")?, "SERVFAIL");
        assert_eq!(patient.says_by_tcp("a.quiet.example TXT")?, "SERVFAIL");
        daemon.signal(Signal::SIGUSR1)?;
        log.awaits(&["failed: often.example A: 5 times"])?;
        log.awaits(&["failed: often.example AAAA: 1 times"])?;
        log.awaits(&["failed: seldom.example A: 1 times"])?;
        log.awaits(&["failed: a.quiet.example TXT: 2 times"])?;
        log.awaits(&["server 198.51.100.1:53: answers, 6 answers (6 refused or failed)"])?;
        log.awaits(&[
            "server 198.51.100.2:53: silent",
            "last never",
            "1 times silent",
        ])?;
        log.awaits(&["server 198.51.100.2:53 by TCP: silent"])?;
        let order: Vec<_> = log
            .lines(&["failed: "])
            .into_iter()
            .filter(|line| line.contains("example"))
            .collect();
        assert!(order[0].contains("often.example A:"), "{order:?}");
        Ok(())
    });
}

/// The list of failures is as long as it is, whatever fails.
#[test]
fn the_memory_of_failures_is_bounded() {
    ours!(|machine| {
        let _refusing = Upstream::refusing("198.51.100.1", 5)?;
        let log = Log::start(machine, true)?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        for number in 0..3000 {
            machine.web().says(&format!("n{number}.example A"))?;
            if number % 10 == 0 {
                machine.web().says("always.example A")?;
            }
        }
        let begin = log.lines(&[]).len();
        daemon.signal(Signal::SIGUSR1)?;
        let line = log.awaits(&["failed: always.example A: "])?;
        log.awaits(&["queries_udp"])?;
        assert!(line.contains(" 3") || line.contains(" 4"), "{line}");
        let failed = log.lines(&["failed: "]);
        let names = failed
            .iter()
            .filter(|line| line.contains(".example"))
            .count();
        assert!(
            names <= 20,
            "{names} of {} lines",
            log.lines(&[]).len() - begin
        );
        Ok(())
    });
}
