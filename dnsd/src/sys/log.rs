//! The log: lines to syslog, in the form of RFC 3164.
//!
//! What is logged again and again is said once in a while, or once: see [`Seldom`] and [`News`].

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Where the local log listens.
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// How long a line waits for room in the log's queue, in milliseconds.
const ROOM: u16 = 20;

/// Starts logging as `RUST_LOG` says. No log is no error.
pub fn start() {
    let level = std::env::var("RUST_LOG").map_or(LevelFilter::INFO, |text| level(&text));
    let socket = UnixDatagram::unbound().ok().filter(|socket| {
        let connected = SOCKETS.iter().any(|path| socket.connect(path).is_ok());
        connected && socket.set_nonblocking(true).is_ok()
    });
    drop(tracing::subscriber::set_global_default(Syslog {
        level,
        socket,
        stuck: AtomicBool::new(false),
    }));
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
    socket: Option<UnixDatagram>,
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
            "<{}>aardvark-dns[{}]: {}",
            8 + severity,
            std::process::id(),
            text.0
        );
        if let Some(socket) = &self.socket {
            self.send(socket, line.as_bytes(), *event.metadata().level());
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Syslog {
    /// The log's queue is short (ten lines by default). What people have asked for fills it: then we wait a moment
    /// for room, but not again until there was some, and never for a line about each query.
    fn send(&self, socket: &UnixDatagram, line: &[u8], level: Level) {
        let mut sent = socket.send(line);
        let full = |sent: &io::Result<usize>| matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if full(&sent) && level <= Level::INFO && !self.stuck.load(Ordering::Relaxed) {
            let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut room, ROOM).is_ok_and(|ready| ready > 0) {
                sent = socket.send(line);
            }
        }
        if level <= Level::INFO {
            self.stuck.store(full(&sent), Ordering::Relaxed);
        }
    }
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
