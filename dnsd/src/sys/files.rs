//! The configuration directory and `resolv.conf`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::load::{self, Files, Stamp, Taken};
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

/// The configuration directory, and a way to it that needs no capabilities.
///
/// Its path may lead through directories of somebody else, which are closed to us as soon as our capabilities are gone.
/// Then the directory that it is in stays open, so that ours may be removed and made anew, or if that is closed, too,
/// ours itself. Otherwise nothing stays open: it would keep a mount busy.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    /// How it is reached now.
    way: PathBuf,
    parent: Option<Arc<OwnedFd>>,
    itself: Option<Arc<OwnedFd>>,
}

impl Directory {
    /// Opens what may have to stay open. The directory need not exist.
    #[must_use]
    pub fn open(path: PathBuf) -> Self {
        let open = |path: &Path| {
            let mut options = File::options();
            options.read(true).custom_flags(libc::O_PATH);
            options.open(path).ok().map(|file| Arc::new(file.into()))
        };
        Self {
            parent: path.parent().and_then(open),
            itself: open(&path),
            way: path.clone(),
            path,
        }
    }

    /// Finds the way, now that our capabilities are gone, and lets go of what is not needed for it.
    pub fn settle(&mut self) {
        let is_open = |way: &Path| fs::metadata(way.join(".")).is_ok();
        let below = |open: &Arc<OwnedFd>, name: &OsStr| {
            PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())).join(name)
        };
        let (parent, itself) = (self.parent.take(), self.itself.take());
        if is_open(&self.path) {
            return;
        }
        if let (Some(open), Some(name)) = (parent, self.path.file_name()) {
            self.way = below(&open, name);
            self.parent = Some(open).filter(|_| is_open(&self.way));
        }
        if let (None, Some(open)) = (&self.parent, itself) {
            self.way = below(&open, OsStr::new("."));
            self.itself = Some(open);
        }
    }

    /// The path for everything that is done with it.
    #[must_use]
    pub fn way(&self) -> &Path {
        &self.way
    }

    /// What people call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads the directory for the first time; waits for files that are being written.
///
/// # Errors
/// The directory cannot be read.
pub fn first_look(directory: &Path, files: &mut Files) -> io::Result<Seen> {
    loop {
        let seen = look(directory, files)?;
        if !seen.unfinished {
            return Ok(seen);
        }
        std::thread::sleep(load::PAUSE);
    }
}

/// Reads what is new in the directory.
///
/// # Errors
/// The directory cannot be read; nothing has changed then.
pub fn look(directory: &Path, files: &mut Files) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let mut names = BTreeSet::new();
    let mut skipped = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = match entry.file_name().into_string() {
            Ok(name) => name,
            Err(name) => {
                skipped.push(format!("{}: its name is not UTF-8", name.display()));
                continue;
            }
        };
        if name == PID_FILE {
            continue;
        }
        match look_at(&entry.path(), &name, files, &mut seen) {
            Found::File => drop(names.insert(name)),
            Found::Other => skipped.push(format!("{name}: it is not a file")),
            Found::Nothing => {}
        }
    }
    seen.networks = !names.is_empty();
    seen.changed |= files.keep(&names);
    files.skip(skipped);
    Ok(seen)
}

/// Reads what is new in some files of the directory. If the directory is gone, it does not say that its files are.
pub fn look_at_some(directory: &Path, names: &BTreeSet<String>, files: &mut Files) -> Seen {
    let mut seen = Seen::default();
    for name in names {
        let found = look_at(&directory.join(name), name, files, &mut seen);
        if found != Found::File && directory.is_dir() {
            seen.changed |= files.forget(name);
        }
    }
    seen.networks = !files.is_empty();
    seen
}

/// What has a name in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A file, read or not.
    File,
    /// Neither a file nor a directory.
    Other,
    /// A directory, or nothing any more.
    Nothing,
}

/// Reads a file, if it has to be.
fn look_at(path: &Path, name: &str, files: &mut Files, seen: &mut Seen) -> Found {
    let content = fs::metadata(path).and_then(|metadata| {
        let stamp = stamp(&metadata);
        match metadata.is_file() && files.wants(name, stamp) {
            true => Ok((metadata, Some((stamp, read(path)?)))),
            false => Ok((metadata, None)),
        }
    });
    match content {
        Ok((_, Some((stamp, content)))) => match files.take(name, stamp, now_ns(), &content) {
            Taken::Changed => seen.changed = true,
            Taken::Unfinished => seen.unfinished = true,
            Taken::Same | Taken::Unusable => {}
        },
        Ok((metadata, None)) if metadata.is_dir() => return Found::Nothing,
        Ok((metadata, None)) if !metadata.is_file() => return Found::Other,
        Ok((_, None)) => {}
        // It has vanished meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => {
            files.fail(name, format!("it cannot be read: {error}"));
            seen.short |= is_shortage(&error);
        }
    }
    Found::File
}

/// Should a pipe have taken the place of the file, this does not wait for somebody to open its other end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
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
