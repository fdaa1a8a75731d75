//! Network namespaces.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use super::{SysError, sysctl};
use crate::observed::Netns;

/// An open network namespace, and our own to come back to.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    own: File,
    facts: Netns,
    proc: OnceCell<Option<OwnedFd>>,
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
            proc: OnceCell::new(),
        })
    }

    /// Whether it is the one that we are in.
    pub(super) fn is_own(&self) -> Result<bool, SysError> {
        let own = self.own.metadata().map_err(SysError::NetnsPath)?;
        Ok(own.ino() == self.facts.inode)
    }

    /// Whether we could come back from another namespace. Who is root of a user namespace only cannot, unless the
    /// network namespace belongs to that.
    pub(super) fn may_return(&self) -> bool {
        setns(&self.own, CloneFlags::CLONE_NEWNET).is_ok()
    }

    /// Its descriptor, to name it to the kernel for as long as it is borrowed.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
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

    /// Where to find the kernel settings, once inside: in a `/proc` of our own if the kernel lets us have one.
    pub(super) fn proc(&self) -> PathBuf {
        let own = self.proc.get_or_init(|| {
            let own = sysctl::own_proc();
            own.inspect_err(|error| tracing::debug!("no /proc of our own: {error}"))
                .ok()
        });
        own.as_ref().map_or_else(
            || sysctl::PROC.into(),
            |own| format!("/proc/self/fd/{}", own.as_raw_fd()).into(),
        )
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

/// A way to each network namespace that somebody could come back to: one with a process in it, one that a process has a
/// descriptor of, or one that is mounted anywhere. By their inodes.
///
/// # Errors
/// We may not see all of them.
pub(super) fn inhabited() -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut mounts: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for name in super::files::names(Path::new("/proc"))? {
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let process = Path::new("/proc").join(name);
        match visit(&process, &mut found, &mut mounts) {
            Err(error) if !has_ended(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    for process in mounts.values() {
        let table = match fs::read_to_string(process.join("mountinfo")) {
            Ok(table) => table,
            Err(error) if has_ended(&error) => continue,
            Err(error) => return Err(error),
        };
        for (namespace, place) in table.lines().filter_map(mounted) {
            let place = place.strip_prefix("/").unwrap_or(&place);
            let path = process.join("root").join(place);
            found.entry(namespace.to_owned()).or_insert(path);
        }
    }
    let numbered = found
        .into_iter()
        .filter_map(|(name, path)| Some((inode(&name)?, path)));
    Ok(numbered.collect())
}

/// The inode in the name that the kernel has for a namespace, as in `net:[4026531840]`.
fn inode(name: &str) -> Option<u64> {
    name.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Notes the namespaces of a process: that it is in, those that it has descriptors of, and that of its mounts.
fn visit(
    process: &Path,
    found: &mut BTreeMap<String, PathBuf>,
    mounts: &mut BTreeMap<PathBuf, PathBuf>,
) -> io::Result<()> {
    let own = process.join("ns/net");
    let mut places = vec![own];
    let descriptors = process.join("fd");
    for number in super::files::names(&descriptors)? {
        places.push(descriptors.join(number));
    }
    for place in places {
        let target = match fs::read_link(&place) {
            Ok(target) => target,
            Err(error) if has_ended(&error) => continue,
            Err(error) => return Err(error),
        };
        let target = target.to_string_lossy().into_owned();
        if target.starts_with("net:[") {
            found.entry(target).or_insert(place);
        }
    }
    let table = fs::read_link(process.join("ns/mnt"))?;
    mounts.entry(table).or_insert_with(|| process.to_path_buf());
    Ok(())
}

/// A process that ends meanwhile is none that matters; a thread of the kernel has no namespaces.
fn has_ended(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH | libc::EINVAL)
    )
}

/// The network namespace that a line of a mount table speaks of, and where it is mounted.
fn mounted(line: &str) -> Option<(&str, PathBuf)> {
    let mut columns = line.split(' ').skip(3);
    let (root, place) = (columns.next()?, columns.next()?);
    root.starts_with("net:[")
        .then(|| (root, place.replace("\\040", " ").into()))
}
