//! From a command to a daemon: the fork, the handshake with who started us, and the pid file.
//!
//! The starter waits until the process that it started ends and its standard error is closed. So the parent stays
//! until the child has bound all sockets and read all files, and the child lets go of standard error before it says
//! so. What goes wrong until then is said on standard error, with exit status 1; afterwards only to the log.
//!
//! The pid file holds nothing but digits. It appears whole, when everything else is ready; signals are blocked from
//! before the fork on, so that one that comes too early is only early. When the last network is gone, so is
//! the file. If we end while there are networks, it gets a number that no process has: who signals it then
//! starts a new daemon.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::FallocateFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd;

use super::files::PID_FILE;
use super::raw::{self, Fork};

/// Above the highest number of a process.
const NOBODY: &str = "2147483647";

/// The way to tell the parent.
#[derive(Debug)]
pub struct Parent {
    pipe: OwnedFd,
}

/// The signals that mean something to us.
#[must_use]
pub fn signals() -> SigSet {
    [
        Signal::SIGHUP,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGUSR1,
        ask::sys::SIGNAL,
    ]
    .into_iter()
    .collect()
}

/// Forks. Returns in the child; in the parent, when the child is ready.
///
/// # Errors
/// In the parent: the child has failed.
pub fn fork() -> anyhow::Result<Option<Parent>> {
    signals().thread_block().context("block signals")?;
    let (reader, writer) = unistd::pipe().context("make a pipe")?;
    match raw::fork().context("fork")? {
        Fork::Child => {
            drop(reader);
            Ok(Some(Parent { pipe: writer }))
        }
        Fork::Parent => {
            drop(writer);
            signals().thread_unblock().context("unblock signals")?;
            let mut byte = [0];
            match File::from(reader).read(&mut byte) {
                Ok(1) => Ok(None),
                Ok(_) => bail!("Error from child process"),
                Err(error) => Err(error).context("Error from child process"),
            }
        }
    }
}

/// Writes a small file whose place on the disk is fixed at once. Otherwise ext4 writes it to the disk before it
/// takes the place of another one, which takes longer than all else that we do at start.
fn write_allocated(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    let _ = nix::fcntl::fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 4096);
    file.write_all(text.as_bytes())
}

impl Parent {
    /// Leaves the directory and the streams of the starter for `null`, which is `/dev/null`.
    ///
    /// # Errors
    /// There is no root directory.
    pub fn detach(&self, null: &File) -> anyhow::Result<()> {
        std::env::set_current_dir("/").context("change to /")?;
        unistd::dup2_stdin(null).context("replace standard input")?;
        unistd::dup2_stdout(null).context("replace standard output")?;
        unistd::dup2_stderr(null).context("replace standard error")?;
        Ok(())
    }

    /// Says that we are ready, and leaves the session of the starter. In this order, since the kernel may take a
    /// millisecond to find the leader of a new session its place among all that runs.
    pub fn ready(self) {
        // A parent that was killed does not want to know.
        drop(File::from(self.pipe).write_all(&[1]));
        let _ = unistd::setsid(); // fails only for a leader of a group, which a child is not
    }
}

/// What takes the place of the starter's streams.
///
/// # Errors
/// There is no `/dev/null`.
pub fn null() -> anyhow::Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    options.open("/dev/null").context("open /dev/null")
}

/// The pid file of a directory.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// The pid file of a directory, which need not exist.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        Self {
            path: directory.join(PID_FILE),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes our number, unless a living daemon of the same directory is in there.
    ///
    /// # Errors
    /// There is one, or the file cannot be written.
    pub fn claim(&self, directory: &Path) -> anyhow::Result<()> {
        if let Some(pid) = self.living(directory) {
            bail!("{} is served by process {pid} already", directory.display());
        }
        let number = std::process::id().to_string();
        let context = || format!("write pid file {}", self.path.display());
        // In the directory a second file would be a network.
        let beside = directory
            .parent()
            .map(|parent| parent.join(format!(".aardvark-dns-{number}.pid")));
        let written = beside.is_some_and(|beside| {
            let moved =
                write_allocated(&beside, &number).and_then(|()| fs::rename(&beside, &self.path));
            if moved.is_err() {
                drop(fs::remove_file(&beside));
            }
            moved.is_ok()
        });
        if written {
            return Ok(());
        }
        fs::write(&self.path, &number).with_context(context)
    }

    /// The daemon that the file names, if it lives and serves the same directory.
    fn living(&self, directory: &Path) -> Option<u32> {
        let pid: u32 = fs::read_to_string(&self.path).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = || command.split(|byte| *byte == 0);
        let directory = directory.as_os_str().as_encoded_bytes();
        let is_it = |word: &[u8]| {
            let value = [&b"--config="[..], b"-c"]
                .iter()
                .find_map(|option| word.strip_prefix(*option));
            value.unwrap_or(word) == directory
        };
        let serves = words().any(|word| word == b"run") && words().any(is_it);
        (serves && pid != std::process::id()).then_some(pid)
    }

    /// There is no network left: neither is the file.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// We end, the networks stay.
    pub fn disown(&self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text == std::process::id().to_string()) {
            drop(
                File::options()
                    .write(true)
                    .open(&self.path)
                    .and_then(|mut file| file.write_all(NOBODY.as_bytes())),
            );
        }
    }
}
