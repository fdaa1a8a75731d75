//! A command with namespaces of its own.
//!
//! The user namespace is made by us ([`super::attach::create_user`]), the network namespace by the process that sets up
//! the guest's side. Everything is up when the command starts: it is the last thing that is done. It is the first
//! process of a PID namespace with its own `/proc`, host name and mounts, has our standard input, output and error, and
//! is killed when we end without it.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, execvp, gethostname, pipe2, read, sethostname, write};

use super::failure::Failure;
use super::process::{self, Fork};

/// Hosts have names of at most 64 bytes (`__NEW_UTS_LEN`).
const HOST_NAME: usize = 64;

/// The command, running.
#[derive(Debug)]
pub struct Command {
    /// Readable when it has ended.
    pub fd: OwnedFd,
    pid: Pid,
}

impl Command {
    /// Its exit code, or 128 and the signal that ended it. To be called when it has ended.
    #[must_use]
    pub fn code(&self) -> u8 {
        let code = match waitpid(self.pid, None) {
            Ok(WaitStatus::Exited(_, code)) => code,
            Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
            Ok(_) | Err(_) => 1,
        };
        u8::try_from(code & 0xff).unwrap_or(1)
    }
}

/// Start a command in a network namespace.
pub fn start(
    words: &[OsString],
    network: &OwnedFd,
    pid_namespace: bool,
) -> Result<Command, Failure> {
    let words = words_of(words)?;
    let name = words.program.to_string_lossy().into_owned();
    let what = || Failure::of(format!("Failed to start command or shell {name}"));
    if pid_namespace {
        unshare(CloneFlags::CLONE_NEWPID).map_err(what())?;
    }
    // Closed by a successful exec, so that what can be read is the error.
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(what())?;
    match process::fork().map_err(what())? {
        Fork::Parent(pid) => {
            drop(writer);
            let mut error = [0; 4];
            if read(&reader, &mut error) == Ok(4) {
                return Err(what()(Errno::from_raw(i32::from_le_bytes(error))));
            }
            let fd = process::pidfd(pid).map_err(what())?;
            Ok(Command { fd, pid })
        }
        Fork::Child => {
            let error = become_command(&words, network, pid_namespace);
            // Whoever would read this is gone if it cannot be written.
            write(&writer, &(error as i32).to_le_bytes()).unwrap_or_default();
            process::exit(127);
        }
    }
}

/// What is executed.
struct Words {
    program: CString,
    arguments: Vec<CString>,
}

/// The user's words, or those of a login shell.
fn words_of(words: &[OsString]) -> Result<Words, Failure> {
    let c_string = |word: &OsString| CString::new(word.as_bytes());
    let invalid = |_| Failure::Told("Command contains a zero byte".to_owned());
    let arguments: Result<Vec<_>, _> = words.iter().map(c_string).collect();
    let arguments = arguments.map_err(invalid)?;
    if let Some(program) = arguments.first().cloned() {
        return Ok(Words { program, arguments });
    }
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    let shell = shell.unwrap_or_else(|| "/bin/sh".into());
    let name = shell.as_bytes().rsplit(|byte| *byte == b'/').next();
    let login = [b"-", name.unwrap_or(b"sh")].concat();
    Ok(Words {
        program: c_string(&shell).map_err(invalid)?,
        arguments: vec![CString::new(login).map_err(invalid)?],
    })
}

/// In the new process: go where the command shall be, and become it. Returns why not.
fn become_command(words: &Words, network: &OwnedFd, pid_namespace: bool) -> Errno {
    let prepared = prctl::set_pdeathsig(Signal::SIGKILL)
        .and_then(|()| setns(network.as_fd(), CloneFlags::CLONE_NEWNET))
        .and_then(|()| {
            let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
            unshare(flags | CloneFlags::CLONE_NEWIPC)
        });
    if let Err(error) = prepared {
        return error;
    }
    surround(pid_namespace);
    process::set_ignored(Signal::SIGPIPE, false);
    SigSet::empty().thread_set_mask().unwrap_or_default();
    match execvp(&words.program, &words.arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// What surrounds the command. Without some of it, which an outer container may refuse, it runs all the same.
fn surround(pid_namespace: bool) {
    let private = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap_or_default();
    if pid_namespace {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).unwrap_or_default();
    }
    let host = gethostname().unwrap_or_default();
    let mut name = [b"pasta-", host.as_bytes()].concat();
    name.truncate(HOST_NAME);
    sethostname(std::ffi::OsStr::from_bytes(&name)).unwrap_or_default();
}
