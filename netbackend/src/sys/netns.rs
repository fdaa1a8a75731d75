//! Network namespaces.

use std::cell::OnceCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use super::{SysError, sysctl};
use crate::observed::Netns;

/// An open network namespace, and our own to come back to.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    own: File,
    facts: Netns,
    proc: OnceCell<Option<OwnedFd>>,
}

impl Namespace {
    /// Opens the namespace that is bound to this path.
    ///
    /// # Errors
    /// The path cannot be opened. That it is a network namespace is only found out by entering it.
    pub fn open(path: &Path) -> Result<Self, SysError> {
        // A path of a process that has ended may lead to a pipe by now, which would have us wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(SysError::NetnsPath)?;
        let inode = file.metadata().map_err(SysError::NetnsPath)?.ino();
        let own = File::open("/proc/thread-self/ns/net")
            .map_err(SysError::io("open own network namespace"))?;
        Ok(Self {
            file,
            own,
            facts: Netns {
                path: path.display().to_string(),
                inode,
            },
            proc: OnceCell::new(),
        })
    }

    /// Whether it is the one that we are in.
    pub(super) fn is_own(&self) -> Result<bool, SysError> {
        let own = self.own.metadata().map_err(SysError::NetnsPath)?;
        Ok(own.ino() == self.facts.inode)
    }

    /// What is known of it.
    #[must_use]
    pub fn facts(&self) -> &Netns {
        &self.facts
    }

    /// Its descriptor, to name it to the kernel.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Where to find the kernel settings, once inside: in a `/proc` of our own if the kernel lets us have one.
    pub(super) fn proc(&self) -> PathBuf {
        let own = self.proc.get_or_init(|| {
            let own = sysctl::own_proc();
            own.inspect_err(|error| tracing::debug!("no /proc of our own: {error}"))
                .ok()
        });
        own.as_ref().map_or_else(
            || sysctl::PROC.into(),
            |own| format!("/proc/self/fd/{}", own.as_raw_fd()).into(),
        )
    }

    /// Runs `work` inside the namespace. It must not wait for anything.
    ///
    /// # Errors
    /// It is not a network namespace, or we may not enter it.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, SysError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| SysError::Setns(io::Error::from(errno)))?;
        let outcome = work();
        if let Err(errno) = setns(&self.own, CloneFlags::CLONE_NEWNET) {
            // Going on would change the container where the host is meant.
            tracing::error!("cannot return to the own network namespace: {errno}");
            std::process::abort();
        }
        Ok(outcome)
    }
}
