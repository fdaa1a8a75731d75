//! The log: lines to syslog, in the form of RFC 3164 as it is used on one machine, without its name.
//!
//! What is logged again and again is said once in a while, or once: see [`Seldom`] and [`News`].

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use super::raw;

/// Where the local log listens.
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// How long a line waits for room in the log's queue, in milliseconds.
const ROOM: u16 = 20;

/// When to look again for somebody who keeps the log.
const AGAIN: Duration = Duration::from_secs(1);

/// Starts logging as `RUST_LOG` says. No log is no error. It is looked for with the first line, since most starts have
/// nothing to say.
pub fn start() {
    let level = std::env::var("RUST_LOG").map_or(LevelFilter::INFO, |text| level(&text));
    drop(tracing::subscriber::set_global_default(Syslog {
        level,
        line: Mutex::new(Line {
            log: None,
            tried: None,
        }),
        stuck: AtomicBool::new(false),
    }));
}

/// The way to whoever keeps the log.
#[derive(Debug)]
struct Log {
    socket: Socket,
    /// Lines follow each other without a border, so each gets an end.
    stream: bool,
}

fn connect() -> Option<Arc<Log>> {
    let connected = |path: &&str, kind| {
        let socket = Socket::new(Domain::UNIX, kind, None).ok()?;
        // One that does not take us in at once would hold us up.
        socket.set_nonblocking(true).ok()?;
        socket.connect(&SockAddr::unix(path).ok()?).ok()?;
        let stream = kind == Type::STREAM;
        Some(Arc::new(Log { socket, stream }))
    };
    let of_any_kind =
        |path| connected(&path, Type::DGRAM).or_else(|| connected(&path, Type::STREAM));
    SOCKETS.iter().copied().find_map(of_any_kind)
}

impl Log {
    fn send(&self, line: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(line)?;
        if sent == line.len() {
            return Ok(());
        }
        // What follows would be taken for its end.
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// The connection, if there is one, and when one was tried last.
#[derive(Debug)]
struct Line {
    log: Option<Arc<Log>>,
    tried: Option<Instant>,
}

impl Line {
    /// Another connection than one that has failed, but not too often.
    fn other_than(&mut self, failed: Option<&Arc<Log>>) -> Option<Arc<Log>> {
        let same = match (failed, &self.log) {
            (Some(failed), Some(log)) => Arc::ptr_eq(failed, log),
            (None, log) => log.is_none(),
            (Some(_), None) => true,
        };
        if same {
            let due = self.tried.is_none_or(|tried| tried.elapsed() > AGAIN);
            self.log = due.then(connect).flatten();
            if due {
                self.tried = Some(Instant::now());
            }
        }
        self.log.clone()
    }
}

/// The first word that is a level, or a level for us; else what is there without the variable.
fn level(text: &str) -> LevelFilter {
    let mut found = LevelFilter::INFO;
    for directive in text.split(',') {
        let (target, level) = directive.split_once('=').unwrap_or(("", directive));
        let ours = matches!(target.trim(), "" | "dnsd" | "aardvark_dns" | "aardvark-dns");
        if let Ok(level) = level.trim().parse()
            && !directive.is_empty()
            && ours
        {
            found = level;
        }
    }
    found
}

struct Syslog {
    level: LevelFilter,
    line: Mutex<Line>,
    /// Whoever reads the log has not made room in time.
    stuck: AtomicBool,
}

impl Subscriber for Syslog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("dnsd")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        // Facility 1 is "user".
        let severity = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let line = format!(
            "<{}>{} aardvark-dns[{}]: {}\0",
            8 + severity,
            time(raw::local_time()),
            std::process::id(),
            text.0
        );
        self.send(line.as_bytes(), *event.metadata().level());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Syslog {
    /// Says a line, which ends with a zero. If nobody takes it, whoever keeps the log may have started anew.
    fn send(&self, line: &[u8], level: Level) {
        let Ok(log) = self.line.lock().map(|line| line.log.clone()) else {
            return;
        };
        if let Some(log) = &log
            && self.say(log, line, level)
        {
            return;
        }
        let other = self.line.lock().ok();
        let other = other.and_then(|mut line| line.other_than(log.as_ref()));
        if let Some(log) = other {
            self.say(&log, line, level);
        }
    }

    /// The log's queue is short (ten lines by default). What people have asked for fills it: then we wait a moment
    /// for room, but not again until there was some, and never for a line about each query. Says whether somebody
    /// keeps this log.
    fn say(&self, log: &Log, line: &[u8], level: Level) -> bool {
        let line = &line[..line.len() - usize::from(!log.stream)];
        let mut sent = log.send(line);
        let full = |sent: &io::Result<()>| matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if full(&sent) && level <= Level::INFO && !self.stuck.load(Ordering::Relaxed) {
            let mut room = [PollFd::new(log.socket.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut room, ROOM).is_ok_and(|ready| ready > 0) {
                sent = log.send(line);
            }
        }
        if level <= Level::INFO {
            self.stuck.store(full(&sent), Ordering::Relaxed);
        }
        sent.is_ok() || full(&sent)
    }
}

/// `Nov  5 07:08:09`.
fn time(now: raw::LocalTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = MONTHS.get(now.month).unwrap_or(&"Jan");
    let [hour, minute, second] = now.clock;
    format!("{month} {:2} {hour:02}:{minute:02}:{second:02}", now.day)
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

/// Lets one of many equal lines through.
#[derive(Debug)]
pub struct Seldom {
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    /// Once in this time.
    const PAUSE: Duration = Duration::from_secs(10);

    /// Lets the next one through.
    #[expect(
        clippy::new_without_default,
        reason = "a default cannot be made at compile time"
    )]
    pub const fn new() -> Self {
        Self {
            last: Mutex::new(None),
        }
    }

    /// Whether to say it now.
    pub fn now(&self) -> bool {
        let Ok(mut last) = self.last.lock() else {
            return false;
        };
        let now = Instant::now();
        let due = last.is_none_or(|last| now.duration_since(last) > Self::PAUSE);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// Lets through what is new: problems that last are said once.
#[derive(Debug, Default)]
pub struct News {
    known: BTreeSet<String>,
}

impl News {
    /// Those of all lines that were not among the last ones.
    pub fn fresh(&mut self, lines: impl Iterator<Item = String>) -> Vec<String> {
        let now: BTreeSet<String> = lines.collect();
        let fresh = now.difference(&self.known).cloned().collect();
        self.known = now;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3164() {
        let now = raw::LocalTime {
            month: 10,
            day: 5,
            clock: [7, 8, 59],
        };
        assert_eq!(time(now), "Nov  5 07:08:59");
    }

    #[test]
    fn levels_of_netavark_and_filters_are_accepted() {
        for (text, expected) in [
            ("OFF", LevelFilter::OFF),
            ("DEBUG", LevelFilter::DEBUG),
            ("netavark=warn", LevelFilter::INFO),
            ("netavark=debug,error", LevelFilter::ERROR),
            ("aardvark_dns=trace", LevelFilter::TRACE),
            ("", LevelFilter::INFO),
        ] {
            assert_eq!(level(text), expected, "{text}");
        }
    }
}
