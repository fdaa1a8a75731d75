//! The way to the guest's namespaces, and how we learn that they are gone.
//!
//! # The way
//!
//! Only a process of its own enters the guest's network namespace ([`super::start`]): whoever has left the namespace it
//! was started in, in a user namespace below, cannot go back. The namespace's file is opened there, used, and closed:
//! what we hold is the namespace (the tap keeps it), not the mount, so that a plain `umount` of the file works.
//!
//! A user namespace that is named is joined before anything else that needs rights. Real root needs no joining: it has
//! all rights below, and entering as root lets it open a `/dev/net/tun` that only root may open.
//!
//! # The end
//!
//! Whoever made the namespace unmounts its file and unlinks it. inotify tells so within milliseconds. Where inotify does
//! not work (a user may have 128 instances), the file is looked up once a second, through a descriptor of its directory.
//! A file below `/proc/PID` is never unlinked: there the process is watched.

use std::cell::Cell;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, statfs};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, setgroups, setresgid, setresuid};

use super::failure::{Failure, errno};
use super::names::Marks;
use super::process;
use crate::config::RunAs;

/// How often a file is looked up that nobody tells us of.
const PERIOD: TimeSpec = TimeSpec::new(1, 0);
/// File systems that tell nothing of what the kernel does in them (linux/magic.h).
const SILENT: [FsType; 3] = [PROC_SUPER_MAGIC, FsType(0x6265_6572), FsType(0x1cd1)];

/// How a directory is opened to look for names in it, and for nothing else.
const PLACE: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Which namespace is the guest's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// That of a file.
    Path(PathBuf),
    /// That of a process.
    Process(Pid),
    /// A new one, for a command; without words, for a login shell.
    Command(Vec<OsString>),
}

/// Who we are after the start, if that is somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The user.
    pub user: Uid,
    /// The only group.
    pub group: Gid,
}

/// The first thing that the program does: let go of what its caller forgot to close, and make room for as many
/// descriptors as we may have. Standard input, output and error are open: the runtime sees to that before `main`.
pub fn prepare() {
    process::close_inherited();
    process::set_ignored(Signal::SIGPIPE, true);
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // The limit that there is has to do.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap_or_default();
    }
}

/// Whether we are root of the machine, not only of a user namespace.
#[must_use]
pub fn is_real_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<&str> = map.split_ascii_whitespace().collect();
    geteuid().is_root() && words == ["0", "0", "4294967295"]
}

/// `nobody`, as the machine has it.
#[must_use]
pub fn nobody() -> Ids {
    const OVERFLOW: u32 = 65534; // user_namespaces(7)
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = users.lines().find_map(|line| line.strip_prefix("nobody:"));
    let mut fields = fields.into_iter().flat_map(|f| f.split(':').skip(1));
    let mut number = || fields.next()?.parse().ok();
    Ids {
        user: Uid::from_raw(number().unwrap_or(OVERFLOW)),
        group: Gid::from_raw(number().unwrap_or(OVERFLOW)),
    }
}

/// The user and group that were asked for: numbers, or names as the machine has them.
pub fn identify(wanted: &RunAs) -> Result<Ids, Failure> {
    let unknown = |name: &str| Failure::Told(format!("Unknown user or group: {name}"));
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let users = read("/etc/passwd");
    let (user, own_group) = match (wanted.user.parse(), entry(&users, &wanted.user)) {
        (Ok(number), found) => (number, found.and_then(|(_, group)| group).unwrap_or(number)),
        (Err(_), Some((number, group))) => (number, group.unwrap_or(number)),
        (Err(_), None) => return Err(unknown(&wanted.user)),
    };
    let group = match &wanted.group {
        None => own_group,
        Some(group) => match (group.parse(), entry(&read("/etc/group"), group)) {
            (Ok(number), _) | (Err(_), Some((number, _))) => number,
            (Err(_), None) => return Err(unknown(group)),
        },
    };
    Ok(Ids {
        user: Uid::from_raw(user),
        group: Gid::from_raw(group),
    })
}

/// The third field and the fourth, if it is a number, of the line of passwd(5) or group(5) with this name or number.
fn entry(lines: &str, wanted: &str) -> Option<(u32, Option<u32>)> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        let group = fields.next().and_then(|field| field.parse().ok());
        let found = name == wanted || number == wanted;
        found.then(|| Some((number.parse().ok()?, group))).flatten()
    })
}

/// Become somebody else for good.
pub fn become_user(ids: Ids) -> Result<(), Failure> {
    let what = || format!("Couldn't become user {}, group {}", ids.user, ids.group);
    setgroups(&[]).map_err(Failure::of(what()))?;
    setresgid(ids.group, ids.group, ids.group).map_err(Failure::of(what()))?;
    setresuid(ids.user, ids.user, ids.user).map_err(Failure::of(what()))
}

/// Join the user namespace of a file. To be in it already is fine.
pub fn join_user(path: &Path) -> Result<(), Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(Failure::of(format!(
        "Couldn't open user namespace {}",
        path.display()
    )))?;
    let theirs = fstat(&file).map(identity);
    let ours = fstatat(AT_FDCWD, "/proc/self/ns/user", AtFlags::empty()).map(identity);
    if theirs.is_ok() && theirs == ours {
        return Ok(());
    }
    setns(&file, CloneFlags::CLONE_NEWUSER)
        .map_err(Failure::of("Couldn't switch to pasta namespaces"))
}

/// Make a user namespace of our own with us as its root. Maps that cannot be written leave us nobody there.
pub fn create_user() -> Result<Vec<String>, Failure> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(Failure::of("Couldn't create user namespace"))?;
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("0 {group} 1")),
        ("uid_map", format!("0 {user} 1")),
    ];
    let write = |(file, text): (&str, String)| {
        let path = format!("/proc/self/{file}");
        let error = std::fs::write(&path, text).err()?;
        Some(format!("Couldn't write {path}: {}", errno(&error).desc()))
    };
    Ok(maps.into_iter().filter_map(write).collect())
}

/// Enter the network namespace of a file.
pub fn enter_network(path: &Path) -> Result<(), Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let what = format!("Couldn't open network namespace {}", path.display());
    let file = open(path, flags, Mode::empty()).map_err(Failure::of(what))?;
    setns(&file, CloneFlags::CLONE_NEWNET)
        .map_err(Failure::of("Couldn't switch to pasta namespaces"))
}

fn identity(stat: FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// How we learn that the guest's namespace is gone.
#[derive(Debug)]
pub enum Watch {
    /// The directory tells when the file goes.
    Told {
        /// On the directory.
        inotify: Inotify,
        /// The directory there.
        directory: WatchDescriptor,
        /// The directory itself, to look there when more has happened than inotify keeps.
        place: OwnedFd,
        /// The file.
        name: OsString,
        /// What it was.
        was: (u64, u64),
        /// What else it tells of.
        marks: Marks,
        /// And that it has.
        heard: Cell<bool>,
    },
    /// The file is looked up.
    LookedUp {
        /// When to look.
        timer: TimerFd,
        /// The directory.
        directory: OwnedFd,
        /// The file.
        name: OsString,
        /// What it was.
        was: (u64, u64),
    },
    /// The process that it belongs to.
    Process(OwnedFd),
}

impl Watch {
    /// Watch a file; nothing, if it goes only with us. To be called before the namespace is entered.
    pub fn arm(path: &Path) -> Result<Option<Self>, Failure> {
        let what = || {
            Failure::of(format!(
                "Couldn't open network namespace {}",
                path.display()
            ))
        };
        if let Some(owner) = process_of(path) {
            return match owner {
                Owner::Us => Ok(None),
                Owner::Other(pid) => Self::process(pid).map(Some),
            };
        }
        let (parent, name) = split(path).ok_or(Errno::EISDIR).map_err(what())?;
        let stat = fstatat(AT_FDCWD, path, AtFlags::empty()).map_err(what())?;
        match inotify(&parent) {
            Ok((inotify, directory, place)) => Ok(Some(Self::Told {
                inotify,
                directory,
                place,
                name,
                was: identity(stat),
                marks: Marks::default(),
                heard: Cell::new(false),
            })),
            Err(_) => Self::look_up(&parent, name, identity(stat)).map(Some),
        }
    }

    /// Watch a process.
    pub fn process(pid: Pid) -> Result<Self, Failure> {
        let fd =
            process::pidfd(pid).map_err(Failure::of(format!("Couldn't find process {pid}")))?;
        Ok(Self::Process(fd))
    }

    fn look_up(parent: &Path, name: OsString, was: (u64, u64)) -> Result<Self, Failure> {
        let what = || Failure::of(format!("Couldn't watch {}", parent.display()));
        let directory = open(parent, PLACE, Mode::empty()).map_err(what())?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(what())?;
        let period = Expiration::Interval(PERIOD);
        timer
            .set(period, TimerSetTimeFlags::empty())
            .map_err(what())?;
        Ok(Self::LookedUp {
            timer,
            directory,
            name,
            was,
        })
    }

    /// Readable when [`Self::is_gone`] has something to say.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Told { inotify, .. } => inotify.as_fd(),
            Self::LookedUp { timer, .. } => timer.as_fd(),
            Self::Process(fd) => fd.as_fd(),
        }
    }

    /// Tell of changes on the way to a file too, if there is an inotify instance to do so. Processes of one user have few
    /// of them.
    pub fn listen(&mut self, path: &Path) -> bool {
        match self {
            Self::Told { inotify, marks, .. } => {
                *marks = Marks::set(inotify, path);
                true
            }
            Self::LookedUp { .. } | Self::Process(_) => false,
        }
    }

    /// Whether [`Self::is_gone`] has heard of such changes since it was asked last.
    pub fn heard(&self) -> bool {
        match self {
            Self::Told { heard, .. } => heard.take(),
            Self::LookedUp { .. } | Self::Process(_) => false,
        }
    }

    /// Whether the namespace is gone. What the descriptor has told is forgotten by this.
    pub fn is_gone(&self) -> bool {
        let ends = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let ends = ends | AddWatchFlags::IN_UNMOUNT | AddWatchFlags::IN_IGNORED;
        match self {
            Self::Told {
                inotify,
                directory,
                place,
                name,
                was,
                marks,
                heard,
            } => inotify.read_events().is_ok_and(|events| {
                heard.set(heard.get() || events.iter().any(|event| marks.concern(event)));
                events.iter().any(|event| {
                    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                        // Another one may have been made under its name since.
                        let now = fstatat(place, name.as_os_str(), AtFlags::empty());
                        return match now.map(identity) {
                            Ok(now) => now != *was,
                            Err(error) => error == Errno::ENOENT,
                        };
                    }
                    let it = event.name.as_ref() == Some(name) || event.mask.intersects(ends);
                    event.wd == *directory && it
                })
            }),
            Self::LookedUp {
                timer,
                directory,
                name,
                was,
            } => {
                // How many periods have passed does not matter, nor that none has.
                timer.wait().unwrap_or_default();
                let now = fstatat(directory, name.as_os_str(), AtFlags::empty());
                now.map(identity) != Ok(*was)
            }
            Self::Process(fd) => process::has_ended(fd.as_fd()),
        }
    }
}

/// An inotify instance that tells when files leave a directory, and the directory.
fn inotify(directory: &Path) -> Result<(Inotify, WatchDescriptor, OwnedFd), Errno> {
    if SILENT.contains(&statfs(directory)?.filesystem_type()) {
        return Err(Errno::ENOTSUP);
    }
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let flags = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    let flags = flags | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    let watch = inotify.add_watch(directory, flags | AddWatchFlags::IN_ONLYDIR)?;
    Ok((inotify, watch, open(directory, PLACE, Mode::empty())?))
}

fn split(path: &Path) -> Option<(PathBuf, OsString)> {
    let parent = path.parent()?;
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    Some((parent.to_owned(), path.file_name()?.to_owned()))
}

/// Whose file of `/proc` a path is.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Us,
    Other(Pid),
}

fn process_of(path: &Path) -> Option<Owner> {
    let below = path.strip_prefix("/proc").ok()?;
    match below.components().next()?.as_os_str().to_str()? {
        "self" | "thread-self" => Some(Owner::Us),
        number => number.parse().ok().map(Pid::from_raw).map(Owner::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let users = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n";
        assert_eq!(entry(users, "nobody"), Some((65534, Some(65533))));
        assert_eq!(entry(users, "65534"), Some((65534, Some(65533))));
        assert_eq!(entry("wheel:x:10:me,you\n", "wheel"), Some((10, None)));
        assert_eq!(entry(users, "x"), None);
    }

    #[test]
    fn files_of_processes_are_known() {
        let check = |path: &str, expected| assert_eq!(process_of(Path::new(path)), expected);
        check("/proc/12/ns/net", Some(Owner::Other(Pid::from_raw(12))));
        check("/proc/self/ns/net", Some(Owner::Us));
        check("/proc/thread-self/ns/net", Some(Owner::Us));
        check("/run/netns/12", None);
        check("/proc", None);
        check("/proc/net", None);
    }
}
