//! Where messages go.
//!
//! | | before we are ready | afterwards, background | foreground |
//! | --- | --- | --- | --- |
//! | by default | standard error, system's log | system's log | both |
//! | `--debug`, `--trace` | standard error, with times | nowhere | standard error, with times |
//! | `--log-file` | the file; warnings on standard error too | the file | as before |
//!
//! Everything is opened before the sandbox closes, and a message that cannot be written is lost: nothing waits for it,
//! except that the start gives the system's log time to take what there is to say of it.
#![expect(
    clippy::disallowed_methods,
    reason = "this is where messages leave the program"
)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::config::{Level, LogFile, Notice, Run};
use crate::log::{self, RateLimit, Verdict};

/// How long the start waits for the system's log, whose queue may hold ten datagrams. Only once.
const PATIENCE: Duration = Duration::from_millis(100);
/// Where the system's log listens.
const SYSTEM_LOG: &str = "/dev/log";

/// The destinations of one run.
#[derive(Debug)]
pub struct Log {
    start: Instant,
    verbosity: Level,
    tag: String,
    file: Option<BoundedFile>,
    system: Option<UnixDatagram>,
    /// The system's log is waited for.
    patient: bool,
    stderr: bool,
    sites: BTreeMap<&'static str, RateLimit>,
}

impl Log {
    /// Opens what the run writes to. `tag` is the program's name, `version` and `executable` are for the file's header.
    ///
    /// # Errors
    /// The log file cannot be made.
    pub fn open(run: &Run, tag: &str, version: &str, executable: &str) -> io::Result<Self> {
        let pid = std::process::id();
        let header = format!("{tag} {version}: {executable} ({pid})\n");
        let file = run.log_file.as_ref();
        let file = file
            .map(|file| BoundedFile::create(file, &header))
            .transpose()?;
        let mut system = None;
        if file.is_none() && run.verbosity < Level::Debug {
            let socket = UnixDatagram::unbound().and_then(|socket| {
                socket.connect(SYSTEM_LOG)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(socket)
            });
            // A container has no system log: standard error is all there is.
            system = socket.ok();
        }
        Ok(Self {
            start: Instant::now(),
            verbosity: run.verbosity,
            tag: tag.to_owned(),
            file,
            system,
            patient: true,
            stderr: true,
            sites: BTreeMap::new(),
        })
    }

    /// From now on nothing is waited for. To be called before the sandbox closes.
    pub fn hurry(&mut self) {
        self.patient = false;
        if let Some(system) = &self.system {
            // Never refused for a socket.
            system.set_nonblocking(true).unwrap_or_default();
        }
    }

    /// From now on nothing is written to standard error.
    pub fn to_background(&mut self) {
        self.stderr = false;
    }

    /// Writes notices.
    pub fn notices(&mut self, notices: &[Notice]) {
        for notice in notices {
            self.write(notice.level, &notice.text);
        }
    }

    /// Writes a message.
    pub fn write(&mut self, level: Level, text: &str) {
        if level > self.verbosity {
            return;
        }
        let since_start = self.start.elapsed();
        if let Some(file) = &mut self.file {
            let _lost = file.append(&log::stamped(since_start, level, text));
        }
        if let Some(system) = &self.system {
            let sent = system.send(log::syslog(&self.tag, level, text).as_bytes());
            if sent.is_err() && self.patient {
                self.hurry();
            }
        }
        if !self.stderr || (self.file.is_some() && level > Level::Warning) {
            return;
        }
        let line = if self.verbosity >= Level::Debug {
            log::stamped(since_start, level, text)
        } else {
            format!("{text}\n")
        };
        // Not eprint: it ends us when who reads it has gone.
        io::stderr().write_all(line.as_bytes()).unwrap_or_default();
    }

    /// Writes a message that peers can provoke. `site` names the kind of it.
    pub fn limited(&mut self, now: Instant, site: &'static str, level: Level, text: &str) {
        if level > self.verbosity {
            return;
        }
        match self.sites.entry(site).or_default().count(now) {
            Verdict::Write { suppressed: 0 } => self.write(level, text),
            Verdict::Write { suppressed } => {
                self.write(level, &format!("{text} ({suppressed} more before)"));
            }
            Verdict::Suppress => {}
        }
    }
}

/// A file that begins with a header and forgets its oldest lines.
#[derive(Debug)]
struct BoundedFile {
    file: File,
    header: String,
    len: u64,
    most: u64,
}

impl BoundedFile {
    fn create(wanted: &LogFile, header: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).read(true).write(true);
        let file = options.mode(0o600).open(&wanted.path)?;
        let mut new = Self {
            file,
            header: header.to_owned(),
            len: 0,
            most: wanted.size,
        };
        new.put(header.as_bytes())?;
        Ok(new)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.len)?;
        self.len = self.len.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.len + line.len() as u64 > self.most {
            self.forget()?;
        }
        self.put(line.as_bytes())
    }

    /// Moves the newest lines to where the oldest were. A reader may see some twice, and none is torn.
    fn forget(&mut self) -> io::Result<()> {
        let mut all = vec![0; usize::try_from(self.len).unwrap_or_default()];
        self.file.read_exact_at(&mut all, 0)?;
        self.len = self.header.len() as u64;
        self.put(log::newest(&all, self.header.len()))?;
        self.file.set_len(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("usernet-{name}-{}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn a_log_file_is_bounded_and_sorted() {
        let path = scratch("log");
        let run = Run {
            verbosity: Level::Trace,
            log_file: Some(LogFile {
                path: path.clone(),
                size: 100 * 1024,
            }),
            ..Run::default()
        };
        let mut before = Log::open(&run, "pasta", "1", "before").expect("it can be opened");
        before.to_background();
        before.write(Level::Error, "from before");
        let mut log = Log::open(&run, "pasta", "1", "/usr/bin/pasta").expect("it can be opened");
        log.to_background();
        for number in 0..20_000 {
            log.write(Level::Trace, &format!("line number {number}"));
        }
        let text = fs::read_to_string(&path).expect("whole characters");
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        fs::remove_file(&path).expect("it can be removed");
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            (50 * 1024..=100 * 1024).contains(&text.len()),
            "{}",
            text.len()
        );
        let (header, lines) = text.split_once('\n').expect("a header");
        assert_eq!(
            header,
            format!("pasta 1: /usr/bin/pasta ({})", std::process::id())
        );
        let stamps: Vec<f64> = lines
            .lines()
            .map(|line| line.split(':').next().and_then(|stamp| stamp.parse().ok()))
            .map(|stamp| stamp.expect("every line has its time"))
            .collect();
        assert!(stamps.is_sorted());
        let last = lines.lines().last().expect("lines");
        assert!(last.ends_with("line number 19999"), "{last}");
    }
}
