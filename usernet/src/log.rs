//! Messages for people: how a line looks, and how many of a kind are written.

use std::time::{Duration, Instant};

use crate::config::Level;
use crate::limits;

/// `SECONDS.FFFF: [LEVEL: ]text`, with the time since the start.
#[must_use]
pub fn stamped(since_start: Duration, level: Level, text: &str) -> String {
    let (seconds, fraction) = (since_start.as_secs(), since_start.subsec_micros() / 100);
    let prefix = prefix(level);
    format!("{seconds}.{fraction:04}: {prefix}{text}\n")
}

const fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR: ",
        Level::Warning => "WARNING: ",
        Level::Info | Level::Debug | Level::Trace => "",
    }
}

/// A datagram for the system's log: facility daemon (3), and the severity.
#[must_use]
pub fn syslog(tag: &str, level: Level, text: &str) -> String {
    let severity = match level {
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{}>{tag}: {text}", (3 << 3) | severity)
}

/// How a peer is kept from filling a disk: so many lines a second of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateLimit {
    second: Option<Instant>,
    written: u32,
    suppressed: u32,
}

/// Whether a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is; so many before it were not.
    Write {
        /// Lines left out since the last one that was written.
        suppressed: u32,
    },
    /// It is not.
    Suppress,
}

impl RateLimit {
    /// Counts a line.
    pub fn count(&mut self, now: Instant) -> Verdict {
        let fresh = self
            .second
            .is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1));
        if fresh {
            (self.second, self.written) = (Some(now), 0);
        }
        if self.written >= limits::LINES_PER_SECOND {
            self.suppressed = self.suppressed.saturating_add(1);
            return Verdict::Suppress;
        }
        self.written += 1;
        Verdict::Write {
            suppressed: std::mem::take(&mut self.suppressed),
        }
    }
}

/// Which bytes stay of a full log: the header, and from the first whole line of the newest three quarters on.
#[must_use]
pub fn newest(log: &[u8], header: usize) -> &[u8] {
    let lines = log.get(header..).unwrap_or_default();
    let from = lines.len() / 4;
    let rest = lines.get(from..).unwrap_or_default();
    let end_of_line = rest.iter().position(|&byte| byte == b'\n');
    end_of_line.map_or(&[], |end| rest.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_lines_look() {
        let time = Duration::from_micros(12_034_567);
        assert_eq!(stamped(time, Level::Info, "hello"), "12.0345: hello\n");
        assert_eq!(
            stamped(time, Level::Warning, "careful"),
            "12.0345: WARNING: careful\n"
        );
        assert_eq!(syslog("pasta", Level::Error, "no"), "<27>pasta: no");
    }

    #[test]
    fn five_a_second() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut limit = RateLimit::default();
        let written = |limit: &mut RateLimit, at| {
            (0..20)
                .filter(|_| limit.count(start + Duration::from_millis(at)) != Verdict::Suppress)
                .count()
        };
        assert_eq!(written(&mut limit, 0), 5);
        assert_eq!(written(&mut limit, 999), 0);
        let verdict = limit.count(start + Duration::from_millis(1000));
        assert_eq!(verdict, Verdict::Write { suppressed: 35 });
        let verdict = limit.count(start + Duration::from_millis(1001));
        assert_eq!(verdict, Verdict::Write { suppressed: 0 });
    }

    #[test]
    fn whole_lines_stay() {
        let log = b"header\naaaa\nbbbb\ncccc\ndddd\n";
        assert_eq!(newest(log, 7), b"cccc\ndddd\n");
        assert_eq!(newest(b"header\n", 7), b"");
        assert_eq!(newest(b"", 7), b"");
    }
}
