//! Follows changes of the configuration directory and of `resolv.conf`.
//!
//! The directory is watched for files that were written, moved or deleted. For `resolv.conf` everything on the way
//! to it is, step by step from the root: each directory for the next name, through every link, as far as there is
//! something, and the file at its end (it may be mounted there from elsewhere). The way may lead elsewhere after any
//! event, so it is walked again then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use super::files::PID_FILE;
use super::raw;

/// What has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Zone files, by name.
    pub files: BTreeSet<String>,
    /// More zone files than those, or which ones is not known.
    pub more: bool,
    /// The servers of the host.
    pub servers: bool,
}

/// Watches.
#[derive(Debug)]
pub struct Watch {
    inotify: AsyncFd<Descriptor>,
    directory: WatchDescriptor,
    servers: PathBuf,
    way: Way,
}

/// What is watched on the way to a file: directories, each with the names in it that the way leads through, and the
/// file, without one.
type Way = BTreeMap<WatchDescriptor, BTreeSet<OsString>>;

/// What the runtime needs to wait.
#[derive(Debug)]
struct Descriptor(Inotify);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Links that lead to links: as many as the kernel follows.
const LINKS: usize = 40;

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The kernel has no more watches, or the directory is gone.
    pub fn new(directory: &Path, servers: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut watch = Self {
            directory: inotify.add_watch(directory, of_directory())?,
            inotify: raw::wait_for(Descriptor(inotify))?,
            servers: servers.to_owned(),
            way: Way::new(),
        };
        watch.follow();
        Ok(watch)
    }

    /// Watches the directory that is there now, if it was removed and made anew.
    pub fn renew(&mut self, directory: &Path) {
        if let Ok(watched) = self.add_watch(directory, of_directory())
            && watched != self.directory
        {
            let old = std::mem::replace(&mut self.directory, watched);
            if !self.way.contains_key(&old) {
                self.remove(old);
            }
        }
    }

    /// Walks the way to the file with the servers, as far as it goes. Each directory is watched before what is in it is
    /// looked at.
    pub fn follow(&mut self) {
        let mut way = Way::new();
        let mut links = 0;
        let mut at = PathBuf::from("/");
        let mut rest: Vec<OsString> = parts(&self.servers);
        while let Some(name) = rest.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            if let Ok(watched) = self.add_watch(&at, on_the_way()) {
                way.entry(watched).or_default().insert(name.clone());
            }
            at.push(name);
            if let Ok(target) = std::fs::read_link(&at) {
                links += 1;
                if links > LINKS {
                    break;
                }
                at.pop();
                if target.has_root() {
                    at = PathBuf::from("/");
                }
                rest.extend(parts(&target));
            }
        }
        if rest.is_empty()
            && let Ok(watched) = self.add_watch(&at, on_the_way())
        {
            way.entry(watched).or_default();
        }
        let before = std::mem::replace(&mut self.way, way);
        for old in before.into_keys() {
            if !self.way.contains_key(&old) && old != self.directory {
                self.remove(old);
            }
        }
    }

    fn add_watch(&self, path: &Path, flags: AddWatchFlags) -> nix::Result<WatchDescriptor> {
        self.inotify.get_ref().0.add_watch(path, flags)
    }

    fn remove(&self, old: WatchDescriptor) {
        let _ = self.inotify.get_ref().0.rm_watch(old); // it may have gone with what it watched
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// The kernel does not say any more.
    pub async fn changed(&self) -> io::Result<Changed> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let Ok(events) = ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?)) else {
                continue;
            };
            let changed = self.sort(&events?);
            if changed != Changed::default() {
                return Ok(changed);
            }
        }
    }

    /// What has changed until now.
    #[must_use]
    pub fn changed_now(&self) -> Changed {
        let events = self.inotify.get_ref().0.read_events();
        self.sort(&events.unwrap_or_default())
    }

    fn sort(&self, events: &[InotifyEvent]) -> Changed {
        let mut changed = Changed::default();
        for event in events {
            self.add(event, &mut changed);
        }
        changed
    }

    fn add(&self, event: &InotifyEvent, changed: &mut Changed) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            changed.more = true;
            changed.servers = true;
            return;
        }
        if event.wd == self.directory {
            match event.name.as_ref().map(|name| name.to_str()) {
                Some(Some(PID_FILE)) => {}
                Some(Some(name)) => drop(changed.files.insert(name.to_owned())),
                Some(None) | None => changed.more = true,
            }
        }
        if let Some(names) = self.way.get(&event.wd) {
            let name = event.name.as_ref();
            let ours = name.is_none_or(|name| names.is_empty() || names.contains(name));
            changed.servers |= ours && !event.mask.contains(AddWatchFlags::IN_IGNORED);
        }
    }
}

/// What is on the way may be the directory as well, so both add to what is watched for.
fn of_directory() -> AddWatchFlags {
    AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD)
}

fn on_the_way() -> AddWatchFlags {
    of_directory()
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
}

/// The names in a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}
