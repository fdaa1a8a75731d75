//! Network namespaces.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::SysError;
use crate::observed::Netns;

/// An open network namespace, and our own to come back to.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    own: File,
    facts: Netns,
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
        })
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
