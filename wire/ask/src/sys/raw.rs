//! What nobody has safe calls for.
#![expect(unsafe_code, reason = "nobody has safe calls for these")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{AskError, SIGNAL};
use crate::Question;

/// `siginfo_t` of a signal with a value (sigaction(2)), where pointers have 64 bits.
#[repr(C, align(8))]
struct Info {
    signal: i32,
    error: i32,
    code: i32,
    pad: i32,
    pid: i32,
    uid: u32,
    value: u64,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<Info>() == size_of::<libc::siginfo_t>());

/// The process of a number: what it means as long as this is open.
///
/// # Errors
/// There is none.
pub fn open(pid: i32) -> Result<OwnedFd, AskError> {
    // SAFETY: takes integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match Errno::result(result) {
        Ok(number) => {
            let number = RawFd::try_from(number).unwrap_or(-1);
            // SAFETY: a new descriptor that nobody else knows.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        }
        Err(Errno::ESRCH | Errno::EINVAL) => Err(AskError::Nobody(pid)),
        Err(error) => Err(AskError::Step("cannot look at the process", error.into())),
    }
}

/// Send a question.
///
/// # Errors
/// The process is gone, or somebody else's.
pub fn send(process: &OwnedFd, question: &Question) -> Result<(), Errno> {
    let info = Info {
        signal: SIGNAL as i32,
        error: 0,
        code: libc::SI_QUEUE,
        pad: 0,
        pid: nix::unistd::getpid().as_raw(),
        uid: nix::unistd::getuid().as_raw(),
        value: question.value(),
        rest: [0; 12],
    };
    // SAFETY: `info` is as large as the kernel's and lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            info.signal,
            &raw const info,
            0,
        )
    };
    Errno::result(result).map(drop)
}
