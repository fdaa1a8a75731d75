//! What is taken from a process of ours, in order, each right after its last use.
//!
//! | stage | what is gone afterwards |
//! | --- | --- |
//! | user | rights in the caller's user namespace, and making others: there is one of our own, with nobody mapped |
//! | mount, ipc, uts | the caller's mounts, IPC objects and host name |
//! | root | every file: an empty read-only file system is all there is |
//! | identity | being root, if we were the machine's |
//! | capabilities | all, in all five sets |
//! | privileges | gaining any by executing a program (`no_new_privs`) |
//! | memory | core dumps, and reading our memory from outside |
//! | files | a second lock on files: Landlock denies every access, and abstract sockets and signals to others |
//! | calls | every system call that is not in [`calls`] |
//!
//! The PID namespace comes from [`super::daemon`], since only a new process can be in one.
//!
//! An outer container may refuse some of it. Then we do without and say what is missing: a container with less of a wall
//! around its forwarder is better than one without network. Not to become who we shall be is an error.

pub mod calls;

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{chdir, chroot, pivot_root};

use super::attach::{self, Ids};
use super::failure::Failure;
use super::process;

/// A stage that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name in the table above.
    pub stage: &'static str,
    /// Why.
    pub why: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sandbox: no {} isolation: {}", self.stage, self.why)
    }
}

/// What differs between runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sandbox {
    /// Who to become.
    pub identity: Option<Ids>,
    /// A command shall be killed with us. The kernel asks Landlock whether a dying process may signal its child.
    pub has_command: bool,
    /// Where the root cannot be replaced, as on an initial RAM disk, it is only changed.
    pub chroot_fallback: bool,
    /// The right to change the network namespace we are in is kept, and with it the user namespace that owns it
    /// ([`super::keeper`]).
    pub network_admin: bool,
}

impl Sandbox {
    /// All stages but the last.
    ///
    /// # Errors
    /// We are still somebody that we shall not be.
    pub fn enclose(&self) -> Result<Vec<Missing>, Failure> {
        self.enclose_but(&[])
    }

    /// The same; but files below these directories, which are open, stay readable.
    ///
    /// # Errors
    /// As [`Self::enclose`].
    pub fn enclose_but(&self, readable: &[BorrowedFd<'_>]) -> Result<Vec<Missing>, Failure> {
        let mut missing = Missed::default();
        if self.leave_namespaces(&mut missing) {
            missing.note("root", empty_root(self.chroot_fallback));
        } else {
            missing.say("root", "the mounts are not ours".to_owned());
        }
        if let Some(ids) = self.identity {
            process::drop_bounding();
            if self.network_admin {
                missing.note("capabilities", process::keep_capabilities());
            }
            attach::become_user(ids)?;
            if !self.network_admin {
                missing.note("user", unshare(CloneFlags::CLONE_NEWUSER));
            }
        }
        process::drop_bounding();
        let kept = self.network_admin.then_some(process::NET_ADMIN);
        missing.note("capabilities", process::drop_capabilities(kept));
        missing.note("privileges", prctl::set_no_new_privs());
        missing.note("memory", prctl::set_dumpable(false));
        missing.note("memory", setrlimit(Resource::RLIMIT_CORE, 0, 0));
        if let Err(why) = deny_files(self.has_command, readable) {
            missing.say("files", why);
        }
        Ok(missing.0)
    }

    /// A user namespace of our own gives the right to the other three wherever it is allowed. Elsewhere we may have that
    /// right from the namespace we are in; real root leaves the user namespace only after becoming somebody else.
    /// Whether the mounts are ours now.
    fn leave_namespaces(&self, missing: &mut Missed) -> bool {
        let user = CloneFlags::CLONE_NEWUSER;
        let others = [
            ("mount", CloneFlags::CLONE_NEWNS),
            ("ipc", CloneFlags::CLONE_NEWIPC),
            ("uts", CloneFlags::CLONE_NEWUTS),
        ];
        let all = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        if self.identity.is_none() && !self.network_admin {
            match unshare(user | all) {
                Ok(()) => return true,
                refused => missing.note("user", refused),
            }
        }
        if unshare(all).is_err() {
            for (stage, flag) in others {
                missing.note(stage, unshare(flag));
            }
        }
        missing.0.iter().all(|missing| missing.stage != "mount")
    }
}

/// Stages that were refused so far.
#[derive(Debug, Default)]
struct Missed(Vec<Missing>);

impl Missed {
    fn note(&mut self, stage: &'static str, result: Result<(), Errno>) {
        if let Err(error) = result {
            self.say(stage, error.desc().to_owned());
        }
    }

    fn say(&mut self, stage: &'static str, why: String) {
        self.0.push(Missing { stage, why });
    }
}

/// Replace the root by a read-only file system of nothing but its own directory, and let go of everything else.
fn empty_root(chroot_fallback: bool) -> Result<(), Errno> {
    let none = None::<&str>;
    // What we do to mounts stays in here.
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let options = Some("nr_inodes=2,size=4k,mode=500");
    let on = |place: &&str| mount(Some("none"), *place, Some("tmpfs"), flags, options);
    let places = ["/tmp", "/proc", "/dev", "/run"];
    let mut last = Errno::ENOENT;
    let place = places.into_iter().find(|place| {
        let mounted = on(place);
        last = mounted.err().unwrap_or(last);
        mounted.is_ok()
    });
    chdir(place.ok_or(last)?)?;
    match pivot_root(".", ".") {
        // The old root is on top of the new one now.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        Err(Errno::EINVAL) if chroot_fallback => {
            mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
            chroot(".")?;
        }
        Err(error) => return Err(error),
    }
    chdir("/")
}

/// Landlock: nothing below any directory may be opened, executed or changed, but for reading files of some.
fn deny_files(has_command: bool, readable: &[BorrowedFd<'_>]) -> Result<(), String> {
    use landlock::{
        ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    };
    let rules = readable
        .iter()
        .map(|directory| Ok::<_, RulesetError>(PathBeneath::new(directory, AccessFs::ReadFile)));
    let scope = if has_command {
        Scope::AbstractUnixSocket.into()
    } else {
        Scope::from_all(ABI::V6)
    };
    let enforced = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.scope(scope))
        .and_then(Ruleset::create)
        .and_then(|created| created.add_rules(rules))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| error.to_string())?;
    match enforced.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has no Landlock".to_owned()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}
