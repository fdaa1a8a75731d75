//! Letting go of memory that only the start needed.
//!
//! Most code of a start is never run again, yet its pages stay mapped and count as ours for as long as we live. They
//! are the file's, unchanged: the kernel brings back, from its cache, those that are touched again.
#![expect(unsafe_code, reason = "see above")]

use std::ptr;

use nix::unistd::{SysconfVar, sysconf};

/// Unmap the pages of all code and constants, of the executable and its libraries (madvise(2), `MADV_DONTNEED`).
///
/// What could not be unmapped costs memory, nothing else.
pub fn unmap_code() {
    // SAFETY: the callback has the type that is asked for, keeps nothing it is given, and does not panic.
    unsafe { libc::dl_iterate_phdr(Some(object), ptr::null_mut()) };
}

/// One loaded object: its segments that nobody can have written to.
unsafe extern "C" fn object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader gives a valid description for the time of the call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    let Some(page) = sysconf(SysconfVar::PAGE_SIZE).ok().flatten() else {
        return 0;
    };
    let page = usize::try_from(page).unwrap_or(1 << 16);
    // SAFETY: the loader says how many headers there are.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let Ok(start) = usize::try_from(info.dlpi_addr + header.p_vaddr) else {
            continue;
        };
        let begin = start / page * page;
        let len = usize::try_from(header.p_memsz).unwrap_or_default();
        let end = (start + len).next_multiple_of(page);
        // SAFETY: a private mapping of a file that was never writable: its pages can be read again from the file.
        unsafe {
            libc::madvise(
                ptr::without_provenance_mut(begin),
                end - begin,
                libc::MADV_DONTNEED,
            )
        };
    }
    0
}
