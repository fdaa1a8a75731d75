//! The configuration directory and `resolv.conf`.

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
}

/// Reads what is new in the directory.
///
/// # Errors
/// The directory cannot be read; nothing has changed then.
pub fn look(directory: &Path, files: &mut Files) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            tracing::warn!(
                "{}: the file name is not UTF-8, skipped",
                entry.path().display()
            );
            continue;
        };
        if name == PID_FILE {
            continue;
        }
        let path = entry.path();
        // A file that vanishes meanwhile is not there.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            continue;
        }
        let stamp = stamp(&metadata);
        if files.wants(&name, stamp) {
            let content = match fs::read(&path) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::error!("{}: {error}", path.display());
                    names.push(name);
                    continue;
                }
            };
            match files.take(&name, stamp, now_ns(), &content) {
                Taken::Changed => seen.changed = true,
                Taken::Unfinished => seen.unfinished = true,
                Taken::Same | Taken::Unusable => {}
            }
        }
        names.push(name);
    }
    seen.networks = !names.is_empty();
    seen.changed |= files.keep(&names);
    Ok(seen)
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
