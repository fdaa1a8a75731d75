//! A process group that ends when we do, however we end.
//!
//! The kernel tells our children that we are gone (`PR_SET_PDEATHSIG`), but not theirs. So a guard stands by: a copy of
//! ourselves that does nothing but wait until the other end of a pipe is closed, which nobody but us has. It leads
//! the group that others join, and then kills it, itself included. While we live it blocks all signals, since those to
//! the group are not meant for it, and we end it when it is no longer needed. Whoever leaves the group
//! (`setsid`) is not ended.
//!
//! The guard keeps all other descriptors that we had, and with them the lock of the state directory: the next call gets
//! the lock when the kill has been sent to the whole group, and repairs what nobody changes any more.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, setpgid};

/// The guard of a process group, until dropped. The group lives on then, with those that are in it.
#[derive(Debug)]
pub(super) struct Guard {
    leader: Pid,
    _line: OwnedFd,
}

impl Guard {
    /// Sets up a guard, as the leader of a new group.
    pub(super) fn stand_by() -> io::Result<Self> {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        #[expect(
            unsafe_code,
            reason = "a copy needs no program of its own to be found and started"
        )]
        // SAFETY: the child, whose other threads do not exist, closes a descriptor and calls `wait_and_kill`, which makes
        // system calls, allocates nothing, takes no lock and does not return.
        let forked = unsafe { fork() }?;
        match forked {
            ForkResult::Child => {
                drop(ours);
                wait_and_kill(&theirs)
            }
            ForkResult::Parent { child } => {
                let guard = Self {
                    leader: child,
                    _line: ours,
                };
                // The child does so, too. Whoever is first, the group is there now.
                setpgid(child, child)?;
                Ok(guard)
            }
        }
    }

    /// The number of the group.
    pub(super) fn group(&self) -> Pid {
        self.leader
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(errno) = kill(self.leader, Signal::SIGKILL) {
            tracing::debug!("end guard {}: {errno}", self.leader);
        }
        while waitpid(self.leader, None) == Err(Errno::EINTR) {}
    }
}

/// What the guard does.
fn wait_and_kill(line: &OwnedFd) -> ! {
    let prepared = SigSet::all().thread_set_mask();
    let own = Pid::from_raw(0);
    // Without a group of its own it would kill that of the engine.
    if prepared.and_then(|()| setpgid(own, own)).is_ok() {
        while read(line, &mut [0]) == Err(Errno::EINTR) {}
        let _: nix::Result<()> = kill(own, Signal::SIGKILL);
    }
    #[expect(unsafe_code, reason = "there is no safe call that runs no handlers")]
    // SAFETY: this ends the process at once and runs nothing that was registered in the one it is a copy of.
    unsafe {
        libc::_exit(1)
    }
}

/// Lets a child have the signals that we hold back, since what is blocked stays so across fork and exec, and lets it end
/// with us.
pub(super) fn end_with_us(command: &mut Command) {
    let prepare = || {
        SigSet::empty().thread_set_mask()?;
        set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes two system calls, `rt_sigprocmask`, by
    // `pthread_sigmask`, and `prctl`, both async-signal-safe; it neither allocates nor takes a lock.
    #[expect(unsafe_code, reason = "there is no safe way to run something there")]
    unsafe {
        command.pre_exec(prepare);
    }
}
