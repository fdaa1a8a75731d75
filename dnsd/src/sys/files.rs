//! The configuration directory and `resolv.conf`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::load::{Files, Stamp, Taken};
use crate::upstream;

/// The one file of the directory that is not a network.
pub const PID_FILE: &str = "aardvark.pid";

/// The servers of the host.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a look at the directory found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Something is served differently from now on.
    pub changed: bool,
    /// A file is being written: look again soon.
    pub unfinished: bool,
    /// There are files of networks.
    pub networks: bool,
    /// A file was not read for want of descriptors: look again later.
    pub short: bool,
}

/// Whether there are too few descriptors, which passes.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Reads what is new in the directory.
///
/// # Errors
/// The directory cannot be read; nothing has changed then.
pub fn look(directory: &Path, files: &mut Files) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            tracing::warn!(
                "{}: the file name is not UTF-8, skipped",
                entry.path().display()
            );
            continue;
        };
        if name != PID_FILE && look_at(&entry.path(), &name, files, &mut seen) {
            names.insert(name);
        }
    }
    seen.networks = !names.is_empty();
    seen.changed |= files.keep(&names);
    Ok(seen)
}

/// Reads what is new in some files of the directory. If the directory is gone, it does not say that its files are.
pub fn look_at_some(directory: &Path, names: &BTreeSet<String>, files: &mut Files) -> Seen {
    let mut seen = Seen::default();
    for name in names {
        if !look_at(&directory.join(name), name, files, &mut seen) && directory.is_dir() {
            seen.changed |= files.forget(name);
        }
    }
    seen.networks = !files.is_empty();
    seen
}

/// Reads a file, if it has to be. Says whether it is there.
fn look_at(path: &Path, name: &str, files: &mut Files, seen: &mut Seen) -> bool {
    let Ok(metadata) = fs::metadata(path) else {
        return false;
    };
    if metadata.is_dir() {
        return false;
    }
    let stamp = stamp(&metadata);
    if !files.wants(name, stamp) {
        return true;
    }
    match fs::read(path) {
        Ok(content) => match files.take(name, stamp, now_ns(), &content) {
            Taken::Changed => seen.changed = true,
            Taken::Unfinished => seen.unfinished = true,
            Taken::Same | Taken::Unusable => {}
        },
        // It has vanished meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(error) => {
            tracing::error!("{}: {error}", path.display());
            seen.short |= is_shortage(&error);
        }
    }
    true
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn now_ns() -> i128 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i128::try_from(now.as_nanos()).unwrap_or_default()
}

/// The servers of the host, and what is wrong with the file. `None` if there is no file to read.
pub fn host_servers(path: &Path) -> (Option<Vec<SocketAddr>>, Vec<String>) {
    match fs::read(path) {
        Ok(text) => {
            let index_of = |name: &str| nix::net::if_::if_nametoindex(name).ok();
            let (servers, problems) = upstream::parse(&text, index_of);
            (Some(servers), problems)
        }
        Err(error) => (None, vec![error.to_string()]),
    }
}
