//! Plugins: programs that do the work of drivers we do not know.
//!
//! A plugin is named like its driver and lies in one of the directories that the engine names. It is called
//! with `setup NETNS`, `teardown NETNS` or `create`, reads one document and writes one; what it says on standard error
//! is for the user. It ends with us: when a call is killed, the next one has the plugin tear down what
//! there is, and that must not be undone by a former self that still runs. It is in the process group of a
//! guard (`guard.rs`), so that what it has started ends with it, when it is interrupted as well as when we are killed.
//! What it leaves behind when it has come to its end lives on.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use wire::network::Network;
use wire::status::StatusBlock;

use super::SysError;
use super::apply::Change;
use super::guard::{self, Guard};
use super::input::Pending;
use crate::plan::answer::Answer;
use crate::plan::step::{PluginRun, PluginVerb, Step};

/// How much a plugin may say. It becomes part of our reply, which has to fit into a pipe (of up to 1 MiB, see
/// `input::reply`): the engine reads it when we have ended.
const REPLY_LIMIT: usize = 256 << 10;

/// How long a plugin may take to take back what did not come to be.
const TAKE_BACK_LIMIT: Duration = Duration::from_secs(30);

/// How long a plugin that was asked to end may take to do so.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How often a plugin is looked at that says nothing.
const TICK: Duration = Duration::from_millis(5);

/// Why a plugin has not done its work.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum PluginError {
    #[error(
        "unknown network driver \"{0}\", expected bridge, macvlan, ipvlan or the name of a plugin"
    )]
    Unknown(String),
    #[error("plugin directory not provided")]
    NoDirectory,
    #[error("plugin for driver \"{0}\" not found in plugin directories")]
    NotFound(String),
    #[error("plugin \"{driver}\" failed: IO error: {source}")]
    Start { driver: String, source: io::Error },
    #[error("plugin \"{driver}\" failed: IO error: {source}")]
    Io { driver: String, source: io::Error },
    #[error("plugin \"{driver}\" failed: exit code {code}, message: {message}")]
    Said {
        driver: String,
        code: i32,
        message: String,
    },
    #[error(
        "plugin \"{driver}\" failed: plugin \"{driver}\": exit code {code}, parse error: {why}"
    )]
    Unparsable {
        driver: String,
        code: i32,
        why: String,
    },
    #[error("plugin \"{0}\" killed by signal")]
    Killed(String),
    #[error("plugin \"{0}\" failed: interrupted by a signal")]
    Interrupted(String),
    #[error("plugin \"{driver}\" failed: it still ran after {seconds} s")]
    Late { driver: String, seconds: u64 },
    #[error("plugin \"{driver}\" failed: JSON Decoding error: {why}")]
    Reply { driver: String, why: String },
}

impl PluginError {
    /// Whether there may be something that the plugin has not taken back itself, as one does that fails in good
    /// order, with an error document.
    fn leaves_work(&self) -> bool {
        match self {
            Self::NoDirectory
            | Self::NotFound(_)
            | Self::Unknown(_)
            | Self::Start { .. }
            | Self::Said { .. } => false,
            Self::Unparsable { .. }
            | Self::Io { .. }
            | Self::Killed(_)
            | Self::Interrupted(_)
            | Self::Late { .. }
            | Self::Reply { .. } => true,
        }
    }
}

/// The program of a driver: a file of this name that somebody may run.
pub(super) fn find(directories: &[PathBuf], driver: &str) -> Option<PathBuf> {
    let mut parts = Path::new(driver).components();
    let plain = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(name)), None) if name == driver
    );
    let mut programs = directories.iter().map(|directory| directory.join(driver));
    programs
        .find(|program| {
            let facts = std::fs::metadata(program);
            facts.is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
        })
        .filter(|_| plain)
}

/// Has a plugin complete a network of its own.
///
/// # Errors
/// There is no such plugin, or it fails.
pub fn create(
    directories: &[PathBuf],
    driver: &str,
    network: &Network,
) -> Result<Network, PluginError> {
    if directories.is_empty() {
        return Err(PluginError::NoDirectory);
    }
    let program = find(directories, driver);
    let program = program.ok_or_else(|| PluginError::NotFound(driver.to_owned()))?;
    let run = PluginRun {
        driver: driver.to_owned(),
        program: Some(program),
        verb: PluginVerb::Create,
        input: serde_json::json!(network).to_string(),
    };
    let said = outcome(&run, Path::new(""))?;
    serde_json::from_slice(&said).map_err(|why| PluginError::Reply {
        driver: run.driver,
        why: why.to_string(),
    })
}

/// Has a plugin do its work. A setup that did not come to its end by itself is taken back.
pub(super) fn perform(run: &PluginRun, netns: &Path) -> Result<Change, SysError> {
    if run.verb != PluginVerb::Setup {
        return Ok(outcome(run, netns).map(|_| Change::Made(Vec::new()))?);
    }
    let take_back = PluginRun {
        verb: PluginVerb::TakeBack,
        ..run.clone()
    };
    match outcome(run, netns).and_then(|said| block(run, &said)) {
        Ok(block) => {
            let undo = vec![Step::RunPlugin(take_back)];
            Ok(Change::Answered(undo, Answer::Block(block)))
        }
        Err(error) => {
            if error.leaves_work() {
                let undone = outcome(&take_back, netns).map(drop);
                undone.unwrap_or_else(|error| tracing::error!("undo: {error}"));
            }
            Err(error.into())
        }
    }
}

fn block(run: &PluginRun, said: &[u8]) -> Result<StatusBlock, PluginError> {
    serde_json::from_slice(said).map_err(|why| PluginError::Reply {
        driver: run.driver.clone(),
        why: why.to_string(),
    })
}

/// Runs a plugin to its good end; returns what it said.
fn outcome(run: &PluginRun, netns: &Path) -> Result<Vec<u8>, PluginError> {
    let driver = || run.driver.clone();
    let program = run.program.as_ref();
    let program = program.ok_or_else(|| PluginError::Unknown(driver()))?;
    let failed = |source| PluginError::Start {
        driver: driver(),
        source,
    };
    let guard = Guard::stand_by().map_err(failed)?;
    let mut child = start(program, run.verb, netns, &guard).map_err(failed)?;
    let (status, said) = match finish(&mut child, run) {
        Ok(finished) => finished,
        Err(error) => {
            end(&mut child, guard.group());
            return Err(error);
        }
    };
    drop(guard);
    let Some(code) = status.code() else {
        tracing::warn!("plugin {program:?}: signal {:?}", status.signal());
        return Err(PluginError::Killed(driver()));
    };
    if code == 0 {
        return Ok(said);
    }
    #[derive(serde::Deserialize)]
    struct Complaint {
        error: String,
    }
    Err(match serde_json::from_slice::<Complaint>(&said) {
        Ok(Complaint { error: message }) => PluginError::Said {
            driver: driver(),
            code,
            message,
        },
        Err(why) => PluginError::Unparsable {
            driver: driver(),
            code,
            why: why.to_string(),
        },
    })
}

fn start(program: &Path, verb: PluginVerb, netns: &Path, guard: &Guard) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg(verb.name());
    if verb != PluginVerb::Create {
        command.arg(netns);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(guard.group().as_raw());
    guard::end_with_us(&mut command);
    command.spawn()
}

/// The conversation with a plugin.
struct Talk<'a> {
    stdin: Option<ChildStdin>,
    unsent: &'a [u8],
    stdout: Option<ChildStdout>,
    said: Vec<u8>,
}

/// Tells a plugin what it is to know and hears it out, until it ends, or must.
fn finish(child: &mut Child, run: &PluginRun) -> Result<(ExitStatus, Vec<u8>), PluginError> {
    let driver = || run.driver.clone();
    let failed = |source| PluginError::Io {
        driver: driver(),
        source,
    };
    let begin = Instant::now();
    let pending = (run.verb == PluginVerb::Setup).then(Pending::watch);
    let mut talk = Talk {
        stdin: child.stdin.take(),
        unsent: run.input.as_bytes(),
        stdout: child.stdout.take(),
        said: Vec::new(),
    };
    talk.prepare().map_err(failed)?;
    loop {
        // What is said before the end is there at the end.
        let ended = child.try_wait().map_err(failed)?;
        talk.go_on().map_err(failed)?;
        if let Some(status) = ended {
            return Ok((status, talk.said));
        }
        if pending.as_ref().is_some_and(Pending::is_there) {
            return Err(PluginError::Interrupted(driver()));
        }
        if run.verb == PluginVerb::TakeBack && begin.elapsed() > TAKE_BACK_LIMIT {
            let seconds = TAKE_BACK_LIMIT.as_secs();
            return Err(PluginError::Late {
                driver: driver(),
                seconds,
            });
        }
        talk.wait().map_err(failed)?;
    }
}

impl Talk<'_> {
    fn prepare(&self) -> io::Result<()> {
        let nonblocking = FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        if let Some(stdin) = &self.stdin {
            fcntl(stdin, nonblocking)?;
        }
        if let Some(stdout) = &self.stdout {
            fcntl(stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(())
    }

    /// Writes and reads as much as is possible at once.
    fn go_on(&mut self) -> io::Result<()> {
        if let Some(stdin) = &mut self.stdin {
            match stdin.write(self.unsent) {
                Ok(count) => self.unsent = self.unsent.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It does not want to know.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.unsent = &[],
                Err(error) => return Err(error),
            }
        }
        if self.unsent.is_empty() {
            self.stdin = None;
        }
        if let Some(stdout) = &mut self.stdout {
            let room = (REPLY_LIMIT + 1).saturating_sub(self.said.len());
            let mut part = stdout.take(u64::try_from(room).unwrap_or_default());
            match part.read_to_end(&mut self.said) {
                Ok(_) => self.stdout = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if self.said.len() > REPLY_LIMIT {
            let why = format!("it says more than {REPLY_LIMIT} bytes");
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    /// Waits until something is possible, but not long: the end makes no sound.
    fn wait(&self) -> io::Result<()> {
        let mut wanted = Vec::new();
        if let Some(stdin) = &self.stdin {
            wanted.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(stdout) = &self.stdout {
            wanted.push(PollFd::new(stdout.as_fd(), PollFlags::POLLIN));
        }
        if wanted.is_empty() {
            std::thread::sleep(TICK / 5);
            return Ok(());
        }
        let patience = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        match poll(&mut wanted, patience) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Ends a plugin and what it has started: first it is asked to.
fn end(child: &mut Child, group: Pid) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        tell(group, signal);
        let limit = Instant::now() + END_LIMIT;
        while Instant::now() < limit {
            if !matches!(child.try_wait(), Ok(None)) {
                // What it has started may have other plans.
                tell(group, Signal::SIGKILL);
                return;
            }
            std::thread::sleep(TICK);
        }
    }
}

fn tell(group: Pid, signal: Signal) {
    if let Err(errno) = killpg(group, signal) {
        tracing::debug!("signal process group {group}: {errno}");
    }
}
