//! Who may be asked.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;

/// What is known of a process to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Who started it.
    pub parent: i32,
    /// What it calls itself.
    pub name: String,
    blocked: u64,
    stopped: bool,
}

impl Process {
    /// Look at one.
    #[must_use]
    pub fn look(pid: i32) -> Option<Self> {
        let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        Some(Self {
            pid,
            parent: of("PPid:")?.parse().ok()?,
            name: of("Name:")?.to_owned(),
            blocked: u64::from_str_radix(of("SigBlk:")?, 16).ok()?,
            stopped: of("State:")?.starts_with(['T', 't']),
        })
    }

    /// It waits for these signals otherwise than by a handler.
    #[must_use]
    pub fn waits_for(&self, signals: &[Signal]) -> bool {
        let bit = |signal: &Signal| 1 << (*signal as i32 - 1);
        signals.iter().all(|signal| self.blocked & bit(signal) != 0)
    }

    /// Somebody has stopped it (`SIGSTOP`, a debugger).
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// It is in another network namespace than this thread, if the kernel says so to us: to root, and to who could trace
    /// it.
    #[must_use]
    pub fn is_elsewhere(&self) -> Option<bool> {
        let of = |whose: &str| {
            let metadata = std::fs::metadata(format!("/proc/{whose}/ns/net")).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        Some(of(&self.pid.to_string())? != of("thread-self")?)
    }
}

/// The processes that may be daemons which wait for these signals: by their names, without those that they have
/// started themselves, in the order of their numbers.
///
/// # Errors
/// There is no `/proc`.
pub fn find(signals: &[Signal], named: fn(&str) -> bool) -> io::Result<Vec<Process>> {
    let entries = std::fs::read_dir("/proc")?;
    let pids: BTreeSet<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let found: Vec<_> = pids
        .into_iter()
        .filter_map(Process::look)
        .filter(|process| process.waits_for(signals) && named(&process.name))
        .collect();
    let numbers: BTreeSet<i32> = found.iter().map(|process| process.pid).collect();
    let first = |process: &Process| !numbers.contains(&process.parent);
    Ok(found.into_iter().filter(first).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_here_is_known() {
        let here = Process::look(std::process::id().try_into().unwrap()).unwrap();
        assert_eq!(here.is_elsewhere(), Some(false));
        let gone = Process { pid: 0, ..here };
        assert_eq!(gone.is_elsewhere(), None);
    }
}
