//! The system calls that are left, each with who makes it.
//!
//! There are three tables: for the process that forwards, and for those in the guest's namespace, which make sockets
//! and, while the host has no network, may change addresses.
//! Any other call ends the process (`SIGSYS`): what calls something that we never call is not us any more, and no answer
//! could be of use to it. Arguments are checked where one kind of object would be another power: no netlink and no
//! packet sockets, no memory that can be executed, no file that can be written.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::super::trim;
use super::Missing;

/// A system call, who makes it, and how it looks there.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its number.
    pub number: libc::c_long,
    /// The file below `src` that makes it, or [`STD`].
    pub caller: &'static str,
    /// What the call looks like there; for the runtime, why.
    pub word: &'static str,
    only: Only,
}

/// Arguments that are allowed.
#[derive(Debug, Clone, Copy)]
enum Only {
    /// Any.
    Any,
    /// The first is an Internet family.
    Internet,
    /// The second is this number.
    Command(u64),
    /// The third has no `PROT_EXEC`.
    NotExecutable,
    /// The third is no flag of `open` to write or to make something.
    Reading,
}

/// Rust's runtime, its allocator, and the C library below them.
pub const STD: &str = "std";

const fn call(number: libc::c_long, caller: &'static str, word: &'static str) -> Call {
    Call {
        number,
        caller,
        word,
        only: Only::Any,
    }
}

const fn only(only: Only, call: Call) -> Call {
    Call { only, ..call }
}

/// The type of this number differs between C libraries.
const FIONREAD: u64 = 0x541b;

/// What all processes need to live and to end, and to talk to each other.
const COMMON: &[Call] = &[
    call(libc::SYS_brk, STD, "the allocator grows"),
    only(
        Only::NotExecutable,
        call(libc::SYS_mmap, STD, "the allocator takes large blocks"),
    ),
    call(libc::SYS_munmap, STD, "and gives them back"),
    call(libc::SYS_close, STD, "descriptors are dropped"),
    call(libc::SYS_exit_group, STD, "the end"),
    call(libc::SYS_rt_sigreturn, STD, "after a signal"),
    call(libc::SYS_restart_syscall, STD, "after stop and continue"),
    call(libc::SYS_recvmsg, "sys/pass.rs", "recvmsg::<()>("),
    call(libc::SYS_sendmsg, "sys/pass.rs", "sendmsg::<()>("),
    #[cfg(debug_assertions)]
    only(
        Only::Command(libc::F_GETFD as u64),
        call(libc::SYS_fcntl, STD, "looks at descriptors it closes"),
    ),
];

/// Sockets of the Internet.
const SOCKET: Call = only(
    Only::Internet,
    call(libc::SYS_socket, "sys/options.rs", "socket("),
);

/// What the process needs beyond that which makes sockets and reads resolv.conf.
const OPENER: &[Call] = &[
    SOCKET,
    only(
        Only::Reading,
        call(libc::SYS_openat, "sys/names.rs", "openat("),
    ),
    call(libc::SYS_readlinkat, "sys/names.rs", "readlinkat("),
    call(libc::SYS_read, "sys/names.rs", ".read_to_end("),
    call(libc::SYS_pread64, "sys/names.rs", ".read_at("),
];

/// What the process needs beyond that which may change the guest's addresses: a socket that it has.
const KEEPER: &[Call] = &[
    call(libc::SYS_sendto, "sys/netlink.rs", ".send("),
    call(libc::SYS_recvfrom, "sys/netlink.rs", ".recv_from_full("),
];

/// What the process that forwards needs beyond that.
const FORWARDER: &[Call] = &[
    SOCKET,
    call(libc::SYS_mremap, STD, "the allocator moves large blocks"),
    call(libc::SYS_madvise, STD, "the allocator gives pages back"),
    call(libc::SYS_getrandom, STD, "seeds of hash tables"),
    call(libc::SYS_clock_gettime, STD, "clocks that need a call"),
    call(libc::SYS_sigaltstack, STD, "the main thread ends"),
    call(
        libc::SYS_write,
        STD,
        "standard error, the capture, the starter",
    ),
    call(libc::SYS_pwrite64, "sys/log.rs", "write_all_at("),
    call(libc::SYS_pread64, "sys/log.rs", "read_exact_at("),
    call(libc::SYS_ftruncate, "sys/log.rs", "set_len("),
    call(libc::SYS_read, "sys/start.rs", "read_signal("),
    call(libc::SYS_newfstatat, "sys/attach.rs", "fstatat(directory"),
    call(libc::SYS_wait4, "sys/spawn.rs", "waitpid("),
    call(libc::SYS_readv, "sys/frames.rs", "readv("),
    call(libc::SYS_writev, "sys/frames.rs", "writev("),
    call(libc::SYS_recvmmsg, "sys/raw.rs", "libc::recvmmsg("),
    call(libc::SYS_recvfrom, "sys/raw.rs", "libc::recv("),
    call(libc::SYS_accept4, "sys/raw.rs", "libc::accept4("),
    call(libc::SYS_setsockopt, "sys/raw.rs", "libc::setsockopt("),
    call(libc::SYS_getsockopt, "sys/raw.rs", "libc::getsockopt("),
    only(
        Only::Command(FIONREAD),
        call(libc::SYS_ioctl, "sys/raw.rs", "libc::FIONREAD"),
    ),
    only(
        Only::Command(libc::TUNGETIFF),
        call(libc::SYS_ioctl, "sys/process.rs", "libc::TUNGETIFF"),
    ),
    only(
        Only::Command(libc::TUNSETIFF),
        call(libc::SYS_ioctl, "sys/process.rs", "libc::TUNSETIFF"),
    ),
    call(libc::SYS_bind, "sys/options.rs", "bind("),
    call(libc::SYS_listen, "sys/listen.rs", "listen(&fd"),
    call(libc::SYS_connect, "sys/options.rs", "connect("),
    call(libc::SYS_getsockname, "sys/options.rs", "getsockname::<"),
    call(libc::SYS_shutdown, "sys/sockets.rs", "socket::shutdown("),
    call(libc::SYS_sendto, "sys/sockets.rs", "socket::send("),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_poll, "sys/sockets.rs", "poll("),
    #[cfg(not(target_arch = "x86_64"))]
    call(libc::SYS_ppoll, "sys/sockets.rs", "poll("),
    call(libc::SYS_splice, "sys/splice.rs", "splice("),
    call(libc::SYS_pipe2, "sys/splice.rs", "pipe2("),
    only(
        Only::Command(libc::F_SETPIPE_SZ as u64),
        call(libc::SYS_fcntl, "sys/splice.rs", "F_SETPIPE_SZ("),
    ),
    call(libc::SYS_timerfd_settime, "sys/alarm.rs", "timer.set("),
    call(libc::SYS_epoll_ctl, "sys/event_loop.rs", "epoll"),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_epoll_wait, "sys/event_loop.rs", "epoll.wait("),
    #[cfg(not(target_arch = "x86_64"))]
    call(libc::SYS_epoll_pwait, "sys/event_loop.rs", "epoll.wait("),
];

/// Which of our processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// The one that forwards.
    Forwarder,
    /// The one in the guest's namespace that makes sockets.
    Opener,
    /// The one in the guest's namespace that changes addresses and routes.
    Keeper,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 3] = [Self::Forwarder, Self::Opener, Self::Keeper];
}

impl Table {
    /// What it may call.
    pub fn calls(self) -> impl Iterator<Item = &'static Call> {
        let more: &[Call] = match self {
            Self::Forwarder => FORWARDER,
            Self::Opener => OPENER,
            Self::Keeper => KEEPER,
        };
        COMMON.iter().chain(more)
    }
}

/// Allow nothing but a table from now on. To be called when nothing is left to be done but what it is for.
pub fn restrict(table: Table) -> Result<(), Missing> {
    let missing = |why: String| Missing {
        stage: "calls",
        why,
    };
    let program = compile(table).map_err(|error| missing(error.to_string()))?;
    // The start is over: what follows is the loop.
    trim::unmap_code();
    seccompiler::apply_filter(&program).map_err(|error| missing(error.to_string()))
}

fn compile(table: Table) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = BTreeMap::new();
    for call in table.calls() {
        let rules: &mut Vec<_> = rules.entry(call.number).or_default();
        rules.extend(call.only.rules()?);
    }
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture,
    )?;
    filter.try_into()
}

impl Only {
    /// No rule means any arguments, several mean one of them.
    fn rules(self) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        use SeccompCmpOp::{Eq, MaskedEq};
        let exec = u64::from(libc::PROT_EXEC.unsigned_abs());
        let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
        let writing = u64::from(writing.unsigned_abs());
        let conditions = match self {
            Self::Any => Vec::new(),
            Self::Internet => [libc::AF_INET, libc::AF_INET6]
                .map(|family| (0, Eq, u64::from(family.unsigned_abs())))
                .to_vec(),
            Self::Command(number) => vec![(1, Eq, number)],
            Self::NotExecutable => vec![(2, MaskedEq(exec), 0)],
            Self::Reading => vec![(2, MaskedEq(writing), 0)],
        };
        let rule = |(place, operator, value)| {
            let length = SeccompCmpArgLen::Dword;
            let condition = SeccompCondition::new(place, length, operator, value)?;
            SeccompRule::new(vec![condition])
        };
        conditions.into_iter().map(rule).collect()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "reads the sources")]
mod tests {
    use std::path::Path;

    use super::*;

    /// A row whose caller does not call it any more has to go.
    #[test]
    fn every_call_has_its_caller() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let calls = Table::ALL.into_iter().flat_map(Table::calls);
        for call in calls.filter(|call| call.caller != STD) {
            let text = std::fs::read_to_string(sources.join(call.caller)).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            assert!(code.contains(call.word), "{call:?} is not called there");
        }
    }

    /// Two rows about one call allow what either allows, but "any" would be lost.
    #[test]
    fn a_call_is_listed_twice_only_with_arguments() {
        for table in Table::ALL {
            for call in table.calls().filter(|call| matches!(call.only, Only::Any)) {
                let rows = table.calls().filter(|row| row.number == call.number);
                assert_eq!(rows.count(), 1, "{call:?}");
            }
        }
    }

    #[test]
    fn the_tables_compile() {
        for table in Table::ALL {
            compile(table).unwrap();
        }
    }
}
