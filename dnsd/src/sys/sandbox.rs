//! What the kernel refuses us once we are ready, before anything is read from the network.
//!
//! 1. Capabilities: all but that to listen on low ports go before other threads exist (see `raw`).
//! 2. Files (Landlock, where the kernel has it): none is made, written or removed but in the configuration directory
//!    and where the socket of the counters is, and no program is executed.
//! 3. System calls: all threads have started, so none is needed that starts threads, processes or programs, mounts,
//!    traces, or changes who we are. What is not in the table gives EPERM.
//!
//! The filter also sets "no new privileges".

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// What the daemon calls, by what it is for.
const ALLOWED: &[&[libc::c_long]] = &[
    // memory and threads that there are
    &[
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_madvise,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_rseq,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
    ],
    // time and chance
    &[
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_getrandom,
    ],
    // files: zones, resolv.conf, the pid file
    &[
        libc::SYS_openat,
        libc::SYS_close,
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_getdents64,
        libc::SYS_readlinkat,
        libc::SYS_unlinkat,
        libc::SYS_fcntl,
        libc::SYS_ioctl,
        libc::SYS_inotify_add_watch,
        libc::SYS_inotify_rm_watch,
    ],
    // waiting
    &[
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_eventfd2,
        libc::SYS_ppoll,
    ],
    // sockets
    &[
        libc::SYS_socket,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept4,
        libc::SYS_connect,
        libc::SYS_shutdown,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_getsockopt,
        libc::SYS_setsockopt,
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvmmsg,
    ],
    // older forms of the above
    #[cfg(target_arch = "x86_64")]
    &[
        libc::SYS_open,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_readlink,
        libc::SYS_unlink,
        libc::SYS_epoll_wait,
        libc::SYS_poll,
    ],
];

/// Has the kernel refuse this thread, and those that it starts from now on, to change files elsewhere.
///
/// # Errors
/// A directory cannot be opened, or the kernel's rules are full. That the kernel has no Landlock is no error.
pub fn confine<'a>(directories: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<()> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = reading
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveFile
        | AccessFs::MakeReg
        | AccessFs::MakeSock;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new("/")?, reading))?
        .add_rule(PathBeneath::new(
            PathFd::new("/dev/null")?,
            AccessFs::WriteFile,
        ))?;
    for directory in directories {
        let context = || directory.display().to_string();
        let opened = PathFd::new(directory).with_context(context)?;
        rules = rules.add_rule(PathBeneath::new(opened, writing))?;
    }
    rules.restrict_self()?;
    Ok(())
}

/// Has all system calls refused that are not in the table, to all threads.
///
/// # Errors
/// The kernel cannot filter, or not on this processor.
pub fn restrain() -> anyhow::Result<()> {
    let rules = ALLOWED
        .iter()
        .flat_map(|group| group.iter())
        .map(|call| (*call, Vec::new()));
    let architecture = std::env::consts::ARCH
        .try_into()
        .context("this processor")?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(
        rules.collect::<BTreeMap<_, _>>(),
        refuse,
        SeccompAction::Allow,
        architecture,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter_all_threads(&program)?)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tries what is refused")]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// In a thread of its own, which alone is confined.
    #[test]
    fn files_are_changed_in_the_directory_only() {
        let tried = std::thread::spawn(|| {
            let base = std::env::temp_dir().join(format!("dnsd-confined-{}", std::process::id()));
            let (inside, outside) = (base.join("inside"), base.join("outside"));
            fs::create_dir_all(&inside).unwrap();
            fs::write(&outside, "x").unwrap();
            let before = Command::new("true").status().is_ok();
            confine([&*inside]).unwrap();
            let tried = (
                before,
                fs::read(&outside).is_ok(),
                fs::write(inside.join("pid"), "1").is_ok(),
                fs::remove_file(inside.join("pid")).is_ok(),
                fs::write(&outside, "y").is_err(),
                fs::remove_file(&outside).is_err(),
                Command::new("true").status().is_err(),
            );
            (tried, base)
        });
        let (tried, base) = tried.join().unwrap();
        fs::remove_dir_all(base).unwrap();
        assert_eq!(tried, (true, true, true, true, true, true, true));
    }
}
