//! Two processes: the one that was called waits until the other is ready, and ends.
//!
//! The caller waits for the end of our output, then for our exit status. So the *starter* stays until the *daemon* has
//! done everything that can fail, and the daemon has let go of standard output and error before it says that it is
//! ready. What the daemon says until then goes to standard error directly, except what it learns after letting go,
//! which the starter says for it. The daemon dies with the starter until it is ready.
//!
//! The pid file is opened before the sandbox closes the file system, and filled by the starter with the number that it,
//! and so its caller, knows the daemon by: the daemon itself may have the number 1 of a new PID namespace.

use std::fs::{File, remove_file};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid, pipe2, setsid};

use super::failure::{Failure, errno};
use super::process::{self, Fork};

/// What the daemon says when it is ready; before it there may be text for the user.
const READY: u8 = 0;
/// The most text that the starter passes on.
const TEXT: u64 = 16 << 10;

/// A pid file, opened. If it was not there before and gets no number, it is not there afterwards.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
    /// To be removed if we fail.
    ours: bool,
}

impl PidFile {
    /// Open it, empty.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let open = |new: bool| {
            let mut options = File::options();
            let options = options.write(true).mode(0o644);
            options
                .create_new(new)
                .create(!new)
                .truncate(!new)
                .open(path)
        };
        let (file, ours) = match open(true) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => (open(false), false),
            other => (other, true),
        };
        let what = || Failure::of(format!("Couldn't open PID file {}", path.display()));
        Ok(Self {
            path: path.to_owned(),
            file: file.map_err(|error| what()(errno(&error)))?,
            ours,
        })
    }

    fn fill(mut self, pid: Pid) -> Result<(), Failure> {
        let what = || Failure::of(format!("Couldn't write PID file {}", self.path.display()));
        (&self.file)
            .write_all(format!("{pid}\n").as_bytes())
            .map_err(|error| what()(errno(&error)))?;
        self.ours = false;
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.ours {
            // Who locked himself in before he failed cannot reach it.
            remove_file(&self.path).unwrap_or_default();
        }
    }
}

/// Which of the two processes we are now.
#[derive(Debug)]
pub enum Role {
    /// The one that was called: everything is done, and this is its exit code.
    Starter(u8),
    /// The one that forwards.
    Forwarder(Ready),
}

/// The way to say that we are ready.
#[derive(Debug)]
pub struct Ready {
    pid_file: Option<PidFile>,
    /// Our own number.
    pid: Pid,
    /// Of a daemon: the pipe to the starter, and what takes the place of its streams.
    daemon: Option<(File, File)>,
}

/// Stay in the foreground.
#[must_use]
pub fn stay(pid_file: Option<PidFile>) -> Role {
    Role::Forwarder(Ready {
        pid_file,
        pid: getpid(),
        daemon: None,
    })
}

/// Go to the background. Returns in the daemon, and in the starter when the daemon is ready or has failed.
///
/// The pid file is the starter's. The daemon gets a PID namespace of its own; where that is refused, the second value says so.
pub fn fork(pid_file: Option<PidFile>) -> Result<(Role, Option<String>), Failure> {
    let what = || Failure::of("Couldn't go to the background");
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Failure::of("Couldn't open /dev/null")(errno(&error)))?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(what())?;
    let refused = unshare(CloneFlags::CLONE_NEWPID).err();
    let refused = refused.map(|error| format!("no PID namespace of our own: {}", error.desc()));
    match process::fork().map_err(what())? {
        Fork::Parent(pid) => {
            drop(writer);
            let code = wait_until_ready(pid, reader, pid_file)?;
            Ok((Role::Starter(code), refused))
        }
        Fork::Child => {
            die_with_parent(true);
            if let Some(mut file) = pid_file {
                file.ours = false;
            }
            let ready = Ready {
                pid_file: None,
                pid: getpid(),
                daemon: Some((File::from(writer), null)),
            };
            Ok((Role::Forwarder(ready), refused))
        }
    }
}

/// To be told again whenever we have become somebody else.
pub fn die_with_parent(wanted: bool) {
    // Cannot fail with a signal that exists.
    prctl::set_pdeathsig(wanted.then_some(Signal::SIGKILL)).unwrap_or_default();
}

/// In the starter: wait, pass text on, write the pid file. The exit code.
fn wait_until_ready(pid: Pid, reader: OwnedFd, pid_file: Option<PidFile>) -> Result<u8, Failure> {
    let mut said = Vec::new();
    let read = File::from(reader).take(TEXT).read_to_end(&mut said);
    let ready = read.is_ok() && said.pop() == Some(READY);
    if !ready {
        return match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) if code != 0 => Ok(u8::try_from(code).unwrap_or(1)),
            // All others have said themselves why.
            Ok(WaitStatus::Signaled(_, signal, _)) => Err(Failure::Told(format!(
                "The process in the background was ended by {signal} before it was ready"
            ))),
            _ => Ok(1),
        };
    }
    // Nobody to tell, if it cannot be written.
    std::io::stderr().write_all(&said).unwrap_or_default();
    let filled = pid_file.map_or(Ok(()), |file| file.fill(pid));
    if filled.is_err() {
        // A failed start leaves nothing behind.
        kill(pid, Signal::SIGKILL).unwrap_or_default();
    }
    filled.map(|()| 0)
}

impl Ready {
    /// Whether this is the background.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.daemon.is_some()
    }

    /// Leave the caller's session and streams. Afterwards nothing may be written to standard error. If it fails, that is
    /// still there.
    pub fn detach(&self) -> Result<(), Failure> {
        let Some((_, null)) = &self.daemon else {
            return Ok(());
        };
        // Fails for the leader of a group only, which a new process is not, except as the first of a PID namespace,
        // where it has left the group already.
        setsid().map(drop).unwrap_or_default();
        let what = || Failure::of("Couldn't let go of standard streams");
        dup2_stdin(null).map_err(what())?;
        dup2_stdout(null).map_err(what())?;
        dup2_stderr(null).map_err(what())
    }

    /// Say that we are ready, and `text` to the user before.
    pub fn tell(self, text: &str) -> Result<(), Failure> {
        let Some((mut pipe, _)) = self.daemon else {
            std::io::stderr()
                .write_all(text.as_bytes())
                .unwrap_or_default();
            return self.pid_file.map_or(Ok(()), |file| file.fill(self.pid));
        };
        // A starter that was killed meanwhile does not want to know.
        let said = [text.as_bytes(), &[READY]].concat();
        pipe.write_all(&said).unwrap_or_default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon that does this without being ready.
    #[expect(clippy::zombie_processes, reason = "the starter waits for it")]
    fn daemon(script: &str) -> (Pid, OwnedFd) {
        let (reader, _) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let mut shell = std::process::Command::new("sh");
        let child = shell.args(["-c", script]).spawn().expect("a shell");
        let pid = child.id().try_into().expect("a number");
        (Pid::from_raw(pid), reader)
    }

    #[test]
    fn an_end_that_nobody_could_tell_of_is_told() {
        for (script, expected) in [("exit 3", 3), ("exit 0", 1)] {
            let (pid, reader) = daemon(script);
            let code = wait_until_ready(pid, reader, None);
            assert_eq!(code.expect("the daemon has told itself"), expected);
        }
        let (pid, reader) = daemon("kill -9 $$");
        let failure = wait_until_ready(pid, reader, None).expect_err("it was killed");
        let said = "The process in the background was ended by SIGKILL before it was ready";
        assert_eq!(failure.to_string(), said);
    }
}
