//! Follows changes of the configuration directory and of `resolv.conf`.
//!
//! The directory is watched for files that were written, moved or deleted. For `resolv.conf` everything on the way
//! to it is: the directory of the path, of every link that it leads through, and the file at its end (it may be
//! mounted there from elsewhere). Links may have changed with any event, so the way is walked again after it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use super::files::PID_FILE;
use super::raw;

/// What has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// A zone file.
    pub directory: bool,
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
            let mut changed = Changed::default();
            match ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?)) {
                Ok(events) => events?
                    .iter()
                    .for_each(|event| self.sort(event, &mut changed)),
                Err(_) => continue,
            }
            if changed != Changed::default() {
                return Ok(changed);
            }
        }
    }

    fn sort(&self, event: &InotifyEvent, changed: &mut Changed) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            *changed = Changed {
                directory: true,
                servers: true,
            };
        } else if event.wd == self.directory {
            changed.directory |= event.name.as_ref().is_some_and(|name| name != PID_FILE);
        } else if self.way.contains(&event.wd) && !event.mask.contains(AddWatchFlags::IN_IGNORED) {
            changed.servers = true;
        }
    }
}
