//! Kernel settings below `/proc/sys`.
//!
//! A mounted `/proc` shows everybody the settings of their own network namespace, but keeps the names that were looked up
//! in one table. So `net/ipv4/conf/eth0` of every container is in the same chain of that table, and who looks it up for a
//! new container walks past all others: 5 ms with a thousand of them. In a `/proc` of our own there are none. It is never
//! attached to a path and goes when it is closed; making and closing it takes 0.1 ms.
#![expect(unsafe_code, reason = "nix does not know fsopen and its companions")]

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where everybody finds the settings.
pub(super) const PROC: &str = "/proc";

/// `FSOPEN_CLOEXEC` of linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
/// `FSCONFIG_CMD_CREATE` of linux/mount.h.
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
/// `FSMOUNT_CLOEXEC` of linux/mount.h.
const FSMOUNT_CLOEXEC: libc::c_uint = 1;

/// Sets a kernel setting of the current namespaces. Returns its value before, or nothing if it was the same: it may be
/// read-only.
pub(super) fn set(proc: &Path, key: &str, value: &str) -> io::Result<Option<String>> {
    let path = proc.join("sys").join(key);
    let (mut file, refusal) = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => (file, None),
        Err(error) => (File::open(&path)?, Some(error)),
    };
    let mut before = String::new();
    file.read_to_string(&mut before)?;
    if before.trim() == value {
        return Ok(None);
    }
    if let Some(error) = refusal {
        return Err(error);
    }
    file.write_all_at(value.as_bytes(), 0)?;
    Ok(Some(before.trim().to_owned()))
}

/// Makes a `/proc` of our own. Before Linux 5.8 it is the same as all others, which does no harm.
///
/// # Errors
/// We may not mount one: in a user namespace that does not own the process namespace, say.
pub(super) fn own_proc() -> io::Result<OwnedFd> {
    let name: &CStr = c"proc";
    // SAFETY: the name is terminated and outlives the call, which keeps no pointer to it.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
    let context = descriptor(context)?;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value, for which null pointers stand; the descriptor is open.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            null,
            null,
            0,
        )
    };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call takes numbers only; the descriptor is open.
    let mount =
        unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
    descriptor(mount)
}

/// The descriptor that a system call has returned, or its error.
fn descriptor(returned: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(returned) {
        Ok(number @ 0..) => {
            // SAFETY: the kernel has just opened it for us; nobody else knows of it.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        }
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}
