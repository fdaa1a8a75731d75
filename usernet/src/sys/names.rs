//! The host's resolv.conf, after we have given up every file.
//!
//! Who writes resolv.conf replaces it: a new file takes the name, or the name is a symbolic link to a file that is
//! replaced. So what must be kept open is not the file but every directory on the way to it (a [`Trail`]). They are kept
//! by the process in the guest's namespace ([`super::opener`]), which never sees a packet: the process that forwards
//! hears from inotify that a name has changed, asks the other one, and is sent the bytes. Landlock lets that other
//! process read files below these directories and do nothing else to any file.
//!
//! A link that is changed to lead into another directory than before cannot be followed: there is no way there any more.
//! A resolv.conf that is a mount, as engines give one to their containers, is never replaced, only written to: it is kept
//! open itself.
#![expect(
    clippy::disallowed_methods,
    reason = "files are looked for here, before the sandbox closes"
)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::stat::Mode;

use crate::limits;

/// Where every resolver looks.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Links on the way, at most.
const LINKS: usize = 8;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    directory: PathBuf,
    name: OsString,
}

/// The names on the way to a file, the first one first.
fn places(path: &Path) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let mut next = place(path);
    while let Some(place) = next.filter(|place| !places.contains(place) && places.len() < LINKS) {
        let link = std::fs::read_link(place.directory.join(&place.name));
        next = link.ok().and_then(|link| target(&place.directory, &link));
        places.push(place);
    }
    places
}

/// Where a link in a directory leads.
fn target(directory: &Path, link: &Path) -> Option<Place> {
    place(&directory.join(link))
}

/// A path as directory and name, without dots. A `..` behind a link to a directory means something else to the kernel;
/// nobody writes that.
fn place(path: &Path) -> Option<Place> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir | Component::Prefix(_) => {}
            Component::RootDir | Component::Normal(_) => plain.push(component),
        }
    }
    Some(Place {
        directory: plain.parent()?.to_owned(),
        name: plain.file_name()?.to_owned(),
    })
}

/// The way to a file that can be gone when nothing can be opened by its path any more.
#[derive(Debug)]
pub enum Trail {
    /// By these directories.
    Steps(Vec<Step>),
    /// It is a mount.
    Mount(File),
}

/// A directory on the way.
#[derive(Debug)]
pub struct Step {
    place: Place,
    directory: OwnedFd,
}

impl Trail {
    /// The way as it is now. Directories that are not there are left out.
    #[must_use]
    pub fn find(path: &Path) -> Option<Self> {
        let places = places(path);
        let last = places.last()?;
        if is_mount(&last.directory.join(&last.name)) {
            return File::open(path).ok().map(Self::Mount);
        }
        let steps = places.into_iter().filter_map(|place| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let directory = open(&place.directory, flags, Mode::empty()).ok()?;
            Some(Step { place, directory })
        });
        Some(Self::Steps(steps.collect()))
    }

    /// Directories in which files must be readable.
    pub fn directories(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let steps = match self {
            Self::Steps(steps) => steps.as_slice(),
            Self::Mount(_) => &[],
        };
        steps.iter().map(|step| step.directory.as_fd())
    }

    /// What the file says now, or as much as is of interest.
    ///
    /// # Errors
    /// There is none, or it is where we cannot go.
    pub fn read(&self) -> Result<Vec<u8>, Errno> {
        let told = |error: std::io::Error| super::failure::errno(&error);
        match self {
            Self::Mount(file) => {
                let mut text = vec![0; limits::RESOLV_CONF];
                let len = file.read_at(&mut text, 0).map_err(told)?;
                text.truncate(len);
                Ok(text)
            }
            Self::Steps(steps) => {
                let mut text = Vec::new();
                let file = File::from(follow(steps)?);
                let most = limits::RESOLV_CONF as u64;
                file.take(most).read_to_end(&mut text).map_err(told)?;
                Ok(text)
            }
        }
    }
}

/// Open what the first step's name leads to now.
fn follow(steps: &[Step]) -> Result<OwnedFd, Errno> {
    let mut step = steps.first().ok_or(Errno::ENOENT)?;
    let mut name = step.place.name.clone();
    for _ in 0..LINKS {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&step.directory, name.as_os_str(), flags, Mode::empty()) {
            Err(Errno::ELOOP) => {}
            other => return other,
        }
        let link = readlinkat(&step.directory, name.as_os_str())?;
        let next = target(&step.place.directory, Path::new(&link)).ok_or(Errno::ENOENT)?;
        let known = |step: &&Step| step.place.directory == next.directory;
        step = steps.iter().find(known).ok_or(Errno::EXDEV)?;
        name = next.name;
    }
    Err(Errno::ELOOP)
}

/// Whether something is mounted there.
fn is_mount(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.as_os_str();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4).map(OsStr::new) == Some(path))
}

/// What inotify was asked to tell of names.
#[derive(Debug, Default)]
pub struct Marks(Vec<(WatchDescriptor, OsString)>);

impl Marks {
    /// Ask it to tell when something on the way to a file changes.
    #[must_use]
    pub fn set(inotify: &Inotify, path: &Path) -> Self {
        // A directory may be watched for something else already.
        let add = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        let whole = AddWatchFlags::IN_CLOSE_WRITE | add;
        let changes = whole | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        let mut marks = Vec::new();
        for place in places(path) {
            let watch = inotify.add_watch(&place.directory, changes | AddWatchFlags::IN_ONLYDIR);
            marks.extend(watch.ok().map(|watch| (watch, place.name)));
        }
        if is_mount(path) {
            // Written to by another name, in a directory that we do not see.
            let watch = inotify.add_watch(path, whole);
            marks.extend(watch.ok().map(|watch| (watch, OsString::new())));
        }
        Self(marks)
    }

    /// Whether it tells of one of them, or that it cannot tell of all.
    #[must_use]
    pub fn concern(&self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return !self.0.is_empty();
        }
        let name = event.name.clone().unwrap_or_default();
        self.0
            .iter()
            .any(|(watch, marked)| *watch == event.wd && *marked == name)
    }
}

/// An inotify instance for names alone, where there is no other one.
#[derive(Debug)]
pub struct Ears {
    inotify: Inotify,
    marks: Marks,
}

impl Ears {
    /// For what is on the way to a file.
    ///
    /// # Errors
    /// There are too many instances.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let marks = Marks::set(&inotify, path);
        Ok(Self { inotify, marks })
    }

    /// Readable when [`Self::hear`] has something to say.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Whether something has changed.
    #[must_use]
    pub fn hear(&self) -> bool {
        let events = self.inotify.read_events().unwrap_or_default();
        events.iter().any(|event| self.marks.concern(event))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory that is gone afterwards.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("usernet-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) {
            let fresh = self.0.join("fresh");
            std::fs::create_dir_all(self.0.join(name).parent().unwrap()).unwrap();
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(fresh, self.0.join(name)).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_replaced() {
        let scratch = Scratch::new("replaced");
        scratch.write("resolv.conf", "one");
        let path = scratch.0.join("resolv.conf");
        let ears = Ears::open(&path).unwrap();
        let trail = Trail::find(&path).unwrap();
        assert_eq!(trail.read().unwrap(), b"one");
        assert!(!ears.hear());
        scratch.write("resolv.conf", "two");
        assert!(ears.hear() && !ears.hear());
        assert_eq!(trail.read().unwrap(), b"two");
        scratch.write("other", "two");
        assert!(!ears.hear(), "of no concern");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(trail.read(), Err(Errno::ENOENT));
    }

    /// As systemd has it.
    #[test]
    fn links_are_followed_where_they_led_before() {
        let scratch = Scratch::new("links");
        scratch.write("run/resolve/stub", "stub");
        scratch.write("run/resolve/full", "full");
        scratch.write("etc/old", "old");
        scratch.write("elsewhere/file", "elsewhere");
        let path = scratch.0.join("etc/resolv.conf");
        let link = |to: &str| {
            let fresh = scratch.0.join("etc/fresh");
            symlink(to, &fresh).unwrap();
            std::fs::rename(fresh, &path).unwrap();
        };
        link("../run/resolve/stub");
        let ears = Ears::open(&path).unwrap();
        let trail = Trail::find(&path).unwrap();
        assert_eq!(trail.read().unwrap(), b"stub");
        scratch.write("run/resolve/stub", "new stub");
        assert!(ears.hear());
        assert_eq!(trail.read().unwrap(), b"new stub");
        link(&scratch.0.join("run/resolve/full").to_string_lossy());
        assert!(ears.hear());
        assert_eq!(trail.read().unwrap(), b"full");
        link("old");
        assert_eq!(trail.read().unwrap(), b"old");
        link("../elsewhere/file");
        assert_eq!(trail.read(), Err(Errno::EXDEV));
        link("resolv.conf");
        assert_eq!(trail.read(), Err(Errno::ELOOP));
    }
}
