//! Follows changes of the configuration directory and of `resolv.conf`.
//!
//! The directory is watched for files that were written, moved or deleted. For `resolv.conf` everything on the way
//! to it is: the directory of the path, of every link that it leads through, and the file at its end (it may be
//! mounted there from elsewhere). Links may have changed with any event, so the way is walked again after it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

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
    way: Vec<WatchDescriptor>,
}

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
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        let watched = inotify.add_watch(directory, flags)?;
        let mut watch = Self {
            inotify: raw::wait_for(Descriptor(inotify))?,
            directory: watched,
            servers: servers.to_owned(),
            way: Vec::new(),
        };
        watch.follow();
        Ok(watch)
    }

    /// Walks the way to the file with the servers.
    pub fn follow(&mut self) {
        let mut way: Vec<WatchDescriptor> = Vec::new();
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        let mut path = self.servers.clone();
        for _ in 0..LINKS {
            let parent = path
                .parent()
                .map_or_else(|| PathBuf::from("/"), Path::to_owned);
            way.extend(self.inotify.get_ref().0.add_watch(&parent, flags));
            match std::fs::read_link(&path) {
                Ok(target) => path = parent.join(target),
                Err(_) => break,
            }
        }
        way.extend(self.inotify.get_ref().0.add_watch(&path, flags));
        for old in self
            .way
            .iter()
            .filter(|old| !way.contains(old) && **old != self.directory)
        {
            let _ = self.inotify.get_ref().0.rm_watch(*old);
        }
        self.way = way;
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
        } else if event.wd == self.directory {
            match event.name.as_ref().map(|name| name.to_str()) {
                Some(Some(PID_FILE)) => {}
                Some(Some(name)) => drop(changed.files.insert(name.to_owned())),
                Some(None) | None => changed.more = true,
            }
        } else if self.way.contains(&event.wd) && !event.mask.contains(AddWatchFlags::IN_IGNORED) {
            changed.servers = true;
        }
    }
}
