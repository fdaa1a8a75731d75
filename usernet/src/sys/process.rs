//! System calls about the process itself for which there is no safe one elsewhere.
#![expect(unsafe_code, reason = "see above")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid};

/// The two halves of a fork.
#[derive(Debug)]
pub enum Fork {
    /// The one that was called, and the number of the new one.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Split the process in two. It has one thread, always.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: this program never starts a thread, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// End at once, without what the parent registered to be done at its end.
pub fn exit(code: i32) -> ! {
    // SAFETY: has no demands.
    unsafe { libc::_exit(code) }
}

/// Close all descriptors from 3 on.
///
/// To be called before anything is opened.
pub fn close_inherited() {
    // SAFETY: nothing was opened yet, so nothing that is owned is closed.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } == 0 {
        return;
    }
    // Before Linux 5.9, or refused by a filter.
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let open: Vec<RawFd> = numbers.filter(|number| *number > 2).collect();
    for number in open {
        // SAFETY: as above; the one that listed them is closed already, which is an error without effect.
        unsafe { libc::close(number) };
    }
}

/// Close all descriptors from 3 on but one.
///
/// For a new process that uses nothing of its parent's and never returns to where they have owners.
pub fn close_all_but(kept: BorrowedFd<'_>) {
    let kept = u32::try_from(kept.as_raw_fd()).unwrap_or_default();
    for (first, last) in [(3, kept - 1), (kept + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: see above: no owner of these descriptors is used again in this process.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// How many descriptors we may have (`RLIMIT_NOFILE`).
#[must_use]
pub fn most_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// A descriptor that becomes readable when the process ends.
pub fn pidfd(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let number = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    Ok(adopt(number))
}

/// Whether the process of such a descriptor has ended.
#[must_use]
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut waits = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut waits, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The owner of a descriptor that the kernel has just given us.
pub fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: callers pass what a call of theirs returned as a new descriptor, once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// What happens on a signal: nothing, or what happens by default.
pub fn set_ignored(signal: Signal, ignored: bool) {
    let handler = if ignored {
        SigHandler::SigIgn
    } else {
        SigHandler::SigDfl
    };
    // SAFETY: neither of the two is a function of ours.
    // Fails only for signals that do not exist.
    let set = unsafe { nix::sys::signal::signal(signal, handler) };
    set.map(drop).unwrap_or_default();
}

/// `struct ifreq` (netdevice(7)) with flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc::c_short,
    unused: [u8; 22],
}

/// Make a descriptor of `/dev/net/tun` an interface (`TUNSETIFF`).
pub fn set_interface(fd: BorrowedFd<'_>, name: &str, flags: i32) -> Result<(), Errno> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        // One of them is the sign of a short.
        flags: u16::try_from(flags)
            .map_err(|_| Errno::EINVAL)?
            .cast_signed(),
        unused: [0; 22],
    };
    let room = request.name.get_mut(..name.len()).filter(|r| r.len() < 16);
    room.ok_or(Errno::ENAMETOOLONG)?
        .copy_from_slice(name.as_bytes());
    // SAFETY: the request is 40 bytes, as large as the kernel's.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result).map(drop)
}

/// The name that the interface of a queue has now (`TUNGETIFF`).
pub fn interface(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: 0,
        unused: [0; 22],
    };
    // SAFETY: the request is 40 bytes, as large as the kernel's.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    Errno::result(result)?;
    let name = request.name.split(|&byte| byte == 0).next();
    Ok(String::from_utf8_lossy(name.unwrap_or_default()).into_owned())
}

/// What the kernel may leave to us on frames (`TUNSETOFFLOAD`).
pub fn set_offload(fd: BorrowedFd<'_>, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: takes an integer.
    let result = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        )
    };
    Errno::result(result).map(drop)
}

/// The capability to give up what could be gained (`CAP_SETPCAP`).
const SETPCAP: u32 = 8;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

static VERSION_3: CapabilityHeader = CapabilityHeader {
    version: 0x2008_0522,
    pid: 0,
};

/// Whether we have a capability in our own user namespace.
#[must_use]
fn has_capability(number: u32) -> bool {
    let mut now = [CapabilityData::default(); 2];
    // SAFETY: version 3 fills two elements.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw const VERSION_3, now.as_mut_ptr()) };
    got == 0 && now[0].effective & (1 << number) != 0
}

/// Empty the bounding set, where we may.
pub fn drop_bounding() {
    if has_capability(SETPCAP) {
        // Numbers that this kernel does not have are refused: there ends the list.
        for number in 0..64 {
            // SAFETY: takes integers.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
                break;
            }
        }
    }
}

/// `CAP_NET_ADMIN`: change interfaces, addresses and routes.
pub const NET_ADMIN: u32 = 12;

/// Keep capabilities that are permitted although we become another user.
pub fn keep_capabilities() -> Result<(), Errno> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }).map(drop)
}

/// Give up all capabilities that we have, could have, or could pass on, but for one of them that we may keep.
pub fn drop_capabilities(kept: Option<u32>) -> Result<(), Errno> {
    // SAFETY: takes integers.
    let cleared = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    Errno::result(cleared)?;
    let mut left = [CapabilityData::default(); 2];
    if let Some(number) = kept {
        left[0].permitted = 1 << number;
        left[0].effective = 1 << number;
    }
    // SAFETY: version 3 reads two elements.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const VERSION_3, left.as_ptr()) };
    Errno::result(set).map(drop)
}
