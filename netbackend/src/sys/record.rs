//! Stands between an engine and its backend, and writes down what passes. See [`crate::record`].
//!
//! The relay waits for four things at once: input from the engine, room for it at the backend, output of the backend, and
//! signals, of which one tells that the backend has ended. Standard error is not touched: the backend has the engine's
//! own.
//!
//! Engines read our output when we have ended. So the pipe is made to hold all of it, as the backend did it with the pipe
//! to us.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::{SysError, input};
use crate::record::{self, Ended, Kept, Seen};

/// How much is passed on at once.
const PIECE: usize = 64 << 10;

/// Has all calls of a backend that a command makes recorded, and becomes that command.
///
/// # Errors
/// The directory cannot be prepared, or the command not be started.
pub fn command(
    directory: &Path,
    backend: Option<&Path>,
    command: &[OsString],
) -> Result<Ended, SysError> {
    let Some((program, arguments)) = command.split_first() else {
        let missing = io::Error::new(ErrorKind::InvalidInput, "expected a command after \"--\"");
        return Err(SysError::io("record")(missing));
    };
    let failed = |error| SysError::io(format!("prepare {}", directory.display()))(error);
    fs::create_dir_all(directory).map_err(failed)?;
    let directory = fs::canonicalize(directory).map_err(failed)?;
    if record::is_backend(program.as_ref()) {
        return call(&directory, program.as_ref(), arguments);
    }
    let before = std::env::var_os(record::HELPERS).map(PathBuf::from);
    let helpers = helpers(&directory, backend, before.as_deref()).map_err(failed)?;
    let error = Command::new(program)
        .args(arguments)
        .env(record::HELPERS, helpers)
        .exec();
    let program = program.to_string_lossy();
    Err(SysError::io(format!("start {program}"))(error))
}

/// A directory where engines find us in place of the backend, and everything else where it was.
fn helpers(directory: &Path, backend: Option<&Path>, before: Option<&Path>) -> io::Result<PathBuf> {
    let helpers = directory.join("bin");
    fs::create_dir_all(&helpers)?;
    let own = std::env::current_exe()?;
    let found = match backend {
        Some(backend) => fs::canonicalize(backend)?,
        None => installed(before, &helpers).unwrap_or_else(|| own.clone()),
    };
    for entry in before.map(fs::read_dir).into_iter().flatten().flatten() {
        let entry = entry?;
        if entry.file_name() != record::BACKEND && before != Some(&helpers) {
            let link = helpers.join(entry.file_name());
            drop(fs::remove_file(&link));
            symlink(entry.path(), link)?;
        }
    }
    let script = record::script(&own, &found, directory);
    let staging = helpers.join(format!(".{}", std::process::id()));
    fs::write(&staging, script)?;
    fs::set_permissions(&staging, fs::Permissions::from_mode(0o755))?;
    fs::rename(&staging, helpers.join(record::BACKEND))?;
    Ok(helpers)
}

/// The backend that an engine would call, looked for where engines do.
fn installed(before: Option<&Path>, helpers: &Path) -> Option<PathBuf> {
    let before = before.map(Path::to_owned);
    let mut directories = before.into_iter().chain(helper_directories());
    directories.find_map(|place| {
        let program = place.join(record::BACKEND);
        (place.is_absolute() && place != helpers && program.is_file()).then_some(program)
    })
}

/// Where engines look for helpers: what the file says that they read last, of those that say it.
fn helper_directories() -> Vec<PathBuf> {
    let said = configuration().into_iter().rev().find_map(|path| {
        let file = fs::read(path).ok()?;
        record::helper_directories(&String::from_utf8_lossy(&file))
    });
    said.unwrap_or_else(|| record::HELPER_DIRECTORIES.map(PathBuf::from).into())
}

/// The files that engines read, in their order (containers.conf(5)).
fn configuration() -> Vec<PathBuf> {
    let variable = |name| input::variable(name).filter(|value| !value.is_empty());
    let mut files = Vec::new();
    if let Some(only) = variable("CONTAINERS_CONF") {
        files.push(only.into());
    } else {
        files.push("/usr/share/containers/containers.conf".into());
        files.extend(below(Path::new("/etc")));
        let own = variable("XDG_CONFIG_HOME").map(PathBuf::from);
        let own = own.or_else(|| Some(Path::new(&variable("HOME")?).join(".config")));
        let own = own.filter(|_| !nix::unistd::geteuid().is_root());
        files.extend(own.into_iter().flat_map(|own| below(&own)));
    }
    files.extend(variable("CONTAINERS_CONF_OVERRIDE").map(PathBuf::from));
    files
}

/// The file of a place, and those that are put beside it, by their names.
fn below(place: &Path) -> Vec<PathBuf> {
    let file = place.join("containers/containers.conf");
    let beside = fs::read_dir(file.with_extension("conf.d"));
    let paths = beside.into_iter().flatten().flatten();
    let mut beside: Vec<_> = paths.map(|entry| entry.path()).collect();
    beside.retain(|path| path.extension() == Some("conf".as_ref()));
    beside.sort();
    beside.insert(0, file);
    beside
}

/// Calls a backend and writes down how that went. That it cannot be written down is only logged: whoever called wants
/// the answer.
///
/// # Errors
/// The backend cannot be started.
pub fn call(directory: &Path, backend: &Path, arguments: &[OsString]) -> Result<Ended, SysError> {
    let (began, start) = (SystemTime::now(), Instant::now());
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    let mut seen = Seen {
        began: began.duration_since(UNIX_EPOCH).unwrap_or_default(),
        program: text(backend.as_os_str()),
        arguments: arguments.iter().map(|one| text(one)).collect(),
        environment: environment(),
        ..Seen::default()
    };
    let failed = |error| SysError::io(format!("start {}", backend.display()))(error);
    let mut relay = Relay::start(backend, arguments).map_err(failed)?;
    let ended = relay.run().map_err(failed)?;
    seen.took = start.elapsed();
    seen.ended = ended;
    (seen.input, seen.output) = (relay.input.kept, relay.output.kept);
    if let Err(error) = write(directory, seen) {
        tracing::error!("write a recording to {}: {error}", directory.display());
    }
    Ok(ended)
}

fn environment() -> BTreeMap<String, String> {
    let known = record::VARIABLES.iter();
    known
        .filter_map(|name| Some(((*name).to_owned(), input::variable(name)?)))
        .collect()
}

/// Requests are nobody else's business than the caller's.
fn write(directory: &Path, seen: Seen) -> io::Result<()> {
    let name = record::file_name(seen.began, std::process::id(), &seen.arguments);
    let mut text = serde_json::to_string_pretty(&record::recording(seen))?;
    text.push('\n');
    let staging = directory.join(format!(".{name}"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staging)?;
    file.write_all(text.as_bytes())?;
    fs::rename(staging, directory.join(name))
}

/// Ends as the program did whose place we take.
///
/// # Errors
/// The signal that ended it does not end us.
pub fn end_by(signal: i32) -> io::Result<()> {
    let signal = Signal::try_from(signal)?;
    // One dump of memory is enough, and it is not ours.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
    let mut only = SigSet::empty();
    only.add(signal);
    only.thread_unblock()?;
    raise(signal)?;
    Err(io::Error::other(format!("{signal} is ignored")))
}

/// A backend at work.
struct Relay {
    child: Child,
    signals: SignalFd,
    input: Inlet,
    output: Outlet,
}

/// From the engine to the backend.
#[derive(Default)]
struct Inlet {
    /// Where it goes; nothing when the end has been passed on, or nobody wants more.
    to: Option<ChildStdin>,
    /// What has been read and not been taken yet.
    waiting: Vec<u8>,
    /// Whether the engine has said all.
    over: bool,
    kept: Kept,
}

/// From the backend to the engine.
#[derive(Default)]
struct Outlet {
    from: Option<ChildStdout>,
    passed: usize,
    kept: Kept,
}

impl Relay {
    fn start(backend: &Path, arguments: &[OsString]) -> io::Result<Self> {
        let mut watched = forwarded();
        watched.add(Signal::SIGCHLD);
        let before = watched.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&watched, flags)?;
        let mut command = Command::new(backend);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let prepare = move || {
            before.thread_set_mask()?;
            // Who kills us without asking means the backend.
            set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: the closure runs between fork and exec and makes two system calls, `rt_sigprocmask`, by
        // `pthread_sigmask`, and `prctl`, both async-signal-safe; it neither allocates nor takes a lock.
        #[expect(unsafe_code, reason = "there is no safe way to run something there")]
        unsafe {
            command.pre_exec(prepare);
        }
        let mut child = command.spawn()?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        for pipe in to
            .iter()
            .map(AsFd::as_fd)
            .chain(from.iter().map(AsFd::as_fd))
        {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            child,
            signals,
            input: Inlet {
                to,
                ..Inlet::default()
            },
            output: Outlet {
                from,
                ..Outlet::default()
            },
        })
    }

    fn run(&mut self) -> io::Result<Ended> {
        loop {
            let (readable, writable) = self.wait()?;
            if writable {
                self.input.pass_on();
            }
            if readable {
                self.input.read();
            }
            self.output.pass_on();
            if let Some(status) = self.heed_signals()? {
                // What it wrote last may have come since.
                self.output.pass_on();
                return Ok(ended(status));
            }
        }
    }

    /// Waits until something can be done: whether there is input, and whether the backend takes what there is.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let stdin = io::stdin();
        let mut wanted = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let reads = self.input.to.is_some() && self.input.waiting.is_empty() && !self.input.over;
        if reads {
            wanted.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        } else if let Some(to) = &self.input.to {
            wanted.push(PollFd::new(to.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(from) = &self.output.from {
            wanted.push(PollFd::new(from.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready =
            self.input.to.is_some() && wanted.get(1).and_then(PollFd::any).unwrap_or_default();
        Ok((reads && ready, !reads && ready))
    }

    /// Passes signals on. Returns how the backend ended if it did.
    fn heed_signals(&mut self) -> io::Result<Option<ExitStatus>> {
        while let Some(info) = self.signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            // Those that come from a terminal come to all of its group.
            let from_kernel = info.ssi_code > 0;
            let signal = Signal::try_from(number)?;
            if signal != Signal::SIGCHLD && !from_kernel {
                let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default());
                // It may have ended and not been waited for; the number is still its own.
                if let Err(errno) = kill(pid, signal) {
                    tracing::debug!("pass on {signal}: {errno}");
                }
            }
        }
        self.child.try_wait()
    }
}

impl Inlet {
    fn read(&mut self) {
        let mut piece = vec![0; PIECE];
        match io::stdin().lock().read(&mut piece) {
            Ok(0) => self.over = true,
            Ok(length) => {
                piece.truncate(length);
                self.kept.add(&piece);
                self.waiting = piece;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.over = true,
        }
        self.pass_on();
    }

    fn pass_on(&mut self) {
        let Some(to) = &mut self.to else { return };
        while !self.waiting.is_empty() {
            match to.write(&self.waiting) {
                Ok(length) => drop(self.waiting.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.to = None;
                    return;
                }
            }
        }
        if self.over {
            self.to = None;
        }
    }
}

impl Outlet {
    /// Passes on all that is there.
    fn pass_on(&mut self) {
        let mut piece = vec![0; PIECE];
        while let Some(from) = &mut self.from {
            match from.read(&mut piece) {
                Ok(0) => self.from = None,
                Ok(length) => {
                    let piece = piece.get(..length).unwrap_or_default();
                    self.kept.add(piece);
                    self.passed += length;
                    if input::pass_on(piece, self.passed).is_err() {
                        // Nobody listens to us, so nobody shall listen to the backend.
                        self.from = None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.from = None,
            }
        }
    }
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::Code(1),
    }
}

/// Signals that mean the backend when they are sent to us.
fn forwarded() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        set.add(signal);
    }
    set
}
