//! Standard streams, environment and signals.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::SysError;

/// The target under which netavark logs; filters of users name it.
pub const LOG_TARGET: &str = "netavark";

/// All of a request: from a file, or from standard input, which is read to its end whatever happens,
/// since the engine may write all of it before it looks at us.
///
/// # Errors
/// The file or the stream cannot be read.
pub fn request(file: Option<&Path>) -> io::Result<Vec<u8>> {
    let mut document = Vec::new();
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => File::open(path)?.read_to_end(&mut document)?,
        None => io::stdin().lock().read_to_end(&mut document)?,
    };
    Ok(document)
}

/// Reads and drops what an engine writes that has called us in a wrong way: it would wait for ever.
pub fn drain() {
    let mut input = io::stdin().lock();
    if !input.is_terminal() {
        drop(io::copy(&mut input, &mut io::sink()));
    }
}

/// How much the kernel lets a pipe hold unless it is told to hold more.
const PIPE: usize = 64 << 10;

/// Writes the one document of this call to standard output. Engines read it when we have ended, so a pipe is
/// made to hold all of it; the kernel grants anybody 1 MiB.
///
/// # Errors
/// Nobody reads it, or the disk is full.
pub fn reply(text: &str) -> io::Result<()> {
    pass_on(text.as_bytes(), text.len())
}

/// Writes a piece of a document that has this length, or at least has it so far.
pub(super) fn pass_on(piece: &[u8], length: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if length > PIPE
        && let Ok(size) = length.try_into()
        && let Err(errno) = fcntl(&out, FcntlArg::F_SETPIPE_SZ(size))
    {
        // It is no pipe, or whoever called us has to read it while we write.
        tracing::debug!("make room for a reply of {size} bytes: {errno}");
    }
    out.write_all(piece)?;
    out.flush()
}

/// Writes a line to standard error, for who looks on.
pub fn note(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Writes a line to standard error if standard output goes elsewhere than to a terminal, where it would be seen.
pub fn note_beside_output(line: &str) {
    if !io::stdout().is_terminal() {
        note(line);
    }
}

/// Writes a file that the caller has named, in place of what is there.
///
/// # Errors
/// It cannot be made or written.
pub fn write(path: &Path, content: &[u8]) -> Result<(), SysError> {
    std::fs::write(path, content).map_err(SysError::io(format!("write {}", path.display())))
}

/// A variable of the environment.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Keeps descriptors that we inherited from programs that we start: theirs are only those we give them.
pub fn close_on_exec() {
    let Ok(names) = super::files::names(Path::new("/proc/self/fd")) else {
        return;
    };
    for descriptor in names
        .iter()
        .filter_map(|name| name.parse::<i32>().ok())
        .filter(|number| *number > 2)
    {
        #[expect(
            unsafe_code,
            reason = "there is no safe call for a descriptor that we do not own"
        )]
        // SAFETY: F_SETFD takes an integer and touches no memory; a descriptor that is closed by now
        // (the one of the directory) only gives EBADF.
        unsafe {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Starts logging to standard error, as `RUST_LOG` says; only errors without it. Directives for
/// `netavark` are for us, and so are the levels of Podman that tracing does not know.
pub fn start_logging() {
    let directives = variable("RUST_LOG").unwrap_or_default();
    let mut wanted = Vec::new();
    for directive in directives.split(',') {
        let directive = directive
            .trim()
            .replace("panic", "error")
            .replace("fatal", "error");
        wanted.extend(
            directive
                .strip_prefix(LOG_TARGET)
                .map(|rest| format!("netbackend{rest}")),
        );
        wanted.push(directive);
    }
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::ERROR.into())
        .parse_lossy(wanted.join(","));
    let subscriber = tracing_subscriber::fmt()
        .event_format(Line)
        .with_env_filter(filter)
        .with_writer(io::stderr);
    drop(subscriber.try_init());
}

/// One line of the log: `[LEVEL target] message`, the level padded to five columns.
struct Line;

impl<S, N> tracing_subscriber::fmt::FormatEvent<S, N> for Line
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &tracing_subscriber::fmt::FmtContext<'_, S, N>,
        mut writer: tracing_subscriber::fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let target = event.metadata().target();
        let target = target
            .strip_prefix("netbackend")
            .map_or_else(|| target.to_owned(), |rest| format!("{LOG_TARGET}{rest}"));
        write!(writer, "[{:5} {target}] ", event.metadata().level())?;
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The level that programs which we start shall log at.
pub(super) fn log_level() -> &'static str {
    let level = LevelFilter::current();
    if level == LevelFilter::TRACE {
        "TRACE"
    } else if level == LevelFilter::DEBUG {
        "DEBUG"
    } else if level == LevelFilter::INFO {
        "INFO"
    } else if level == LevelFilter::WARN {
        "WARN"
    } else {
        "ERROR"
    }
}

/// Signals that ask us to end, kept waiting until a step is done.
#[derive(Debug)]
pub struct Interrupts(Option<SignalFd>);

impl Interrupts {
    /// From now on such signals wait.
    #[must_use]
    pub fn hold() -> Self {
        let set = ends();
        let held = set.thread_block().and_then(|()| {
            SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        });
        Self(held.ok())
    }

    /// What becomes readable when one is waiting.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Whether one is waiting.
    ///
    /// # Errors
    /// One is.
    pub fn check(&self) -> Result<(), SysError> {
        let signal = self
            .0
            .as_ref()
            .and_then(|held| held.read_signal().ok().flatten());
        match signal {
            None => Ok(()),
            Some(info) => {
                let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                let name = Signal::try_from(number)
                    .map_or_else(|_| number.to_string(), |signal| signal.to_string());
                Err(SysError::Interrupted(name))
            }
        }
    }
}

/// Whether a signal waits that asks us to end. It goes on waiting, for [`Interrupts::check`].
#[derive(Debug)]
pub(super) struct Pending(Option<SignalFd>);

impl Pending {
    /// Looks at signals that are held; without [`Interrupts::hold`] there are none.
    pub(super) fn watch() -> Self {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Self(SignalFd::with_flags(&ends(), flags).ok())
    }

    /// Whether one is waiting.
    pub(super) fn is_there(&self) -> bool {
        let Some(held) = &self.0 else { return false };
        let mut wanted = [PollFd::new(held.as_fd(), PollFlags::POLLIN)];
        poll(&mut wanted, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}

/// The signals that ask us to end.
fn ends() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

impl Interrupts {
    /// Waits for one, and tells which.
    pub async fn wait(&self) -> String {
        use std::os::fd::AsFd;
        let descriptor = self
            .0
            .as_ref()
            .and_then(|held| held.as_fd().try_clone_to_owned().ok());
        #[expect(unsafe_code, reason = "the safe call is deprecated")]
        let watched = descriptor.and_then(|descriptor| {
            // SAFETY: the descriptor is owned by what watches it, which closes it and always names the same one.
            unsafe { tokio::io::unix::AsyncFd::register(descriptor) }.ok()
        });
        let Some(watched) = watched else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = watched.readable().await else {
                return std::future::pending().await;
            };
            if let Err(signal) = self.check() {
                return signal.to_string();
            }
            ready.clear_ready();
        }
    }
}

/// Checks that there is something at the path of a namespace, before the request is looked at.
///
/// # Errors
/// There is nothing, or it cannot be opened.
pub fn check_namespace(path: &Path) -> Result<(), SysError> {
    super::netns::Namespace::open(path).map(drop)
}
