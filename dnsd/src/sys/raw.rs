//! What has no safe call: batches of datagrams, and a few calls about the process. All `unsafe` of this program is
//! in this file.
//!
//! A [`Batch`] owns buffers and addresses and the arrays that describe them to the kernel. The arrays hold
//! addresses of the buffers, which never move: they are allocated once and neither grow nor shrink.
#![expect(unsafe_code, reason = "see above")]

use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use tokio::io::unix::AsyncFd;

/// Room for datagrams and for the addresses that they come from or go to.
pub struct Batch {
    buffers: Box<[u8]>,
    size: usize,
    addresses: Box<[libc::sockaddr_in6]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// How many are filled.
    len: usize,
}

// SAFETY: the pointers in the arrays lead to memory that the value owns and that moves with it to no other place.
unsafe impl Send for Batch {}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

// Sizes and families of addresses are small numbers, for which the kernel has types of its own.
#[expect(clippy::cast_possible_truncation, reason = "28")]
const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "16")]
const IPV4_SIZE: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "2")]
const IPV4: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "10")]
const IPV6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;

impl Batch {
    /// Room for `count` datagrams of at most `size` bytes.
    #[must_use]
    pub fn new(count: usize, size: usize) -> Self {
        // SAFETY: plain data of the kernel's, for which zero is a value.
        let address = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let vector = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let header = unsafe { mem::zeroed() };
        let mut batch = Self {
            buffers: vec![0; count * size].into_boxed_slice(),
            size,
            addresses: vec![address; count].into_boxed_slice(),
            vectors: vec![vector; count].into_boxed_slice(),
            headers: vec![header; count].into_boxed_slice(),
            len: 0,
        };
        for n in 0..count {
            batch.vectors[n].iov_base = batch.buffers[n * size..].as_mut_ptr().cast();
            let header = &mut batch.headers[n].msg_hdr;
            header.msg_name = ptr::from_mut(&mut batch.addresses[n]).cast();
            header.msg_iov = &raw mut batch.vectors[n];
            header.msg_iovlen = 1;
        }
        batch
    }

    /// Waits for nothing; says how many datagrams there were.
    ///
    /// # Errors
    /// There are none, or the socket has failed.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive_flags(socket, libc::MSG_DONTWAIT)
    }

    /// Waits for a first datagram as long as the socket has been told to, and takes what else there is then.
    ///
    /// # Errors
    /// None came, or the socket has failed.
    pub fn wait_and_receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive_flags(socket, libc::MSG_WAITFORONE)
    }

    fn receive_flags(&mut self, socket: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<usize> {
        self.len = 0;
        for (header, vector) in self.headers.iter_mut().zip(&mut self.vectors) {
            header.msg_hdr.msg_namelen = ADDRESS_SIZE;
            vector.iov_len = self.size;
        }
        let count = u32::try_from(self.headers.len()).unwrap_or_default();
        // SAFETY: the headers describe buffers and addresses that live as long as `self`, with their true sizes.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                flags as _,
                ptr::null_mut(),
            )
        };
        self.len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.len)
    }

    /// A datagram and where it came from. Nothing if it was cut, or the address is of no use.
    #[must_use]
    pub fn get(&self, n: usize) -> Option<(&[u8], SocketAddr)> {
        let header = self.headers[..self.len].get(n)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let length = (header.msg_len as usize).min(self.size);
        let bytes = &self.buffers[n * self.size..n * self.size + length];
        Some((bytes, from_kernel(&self.addresses[n])?))
    }

    /// Whether there is room for another datagram.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.headers.len()
    }

    /// Adds a datagram to be sent, if there is room for it.
    pub fn push(&mut self, to: SocketAddr, bytes: &[u8]) {
        if self.is_full() || bytes.len() > self.size {
            return;
        }
        let n = self.len;
        self.buffers[n * self.size..n * self.size + bytes.len()].copy_from_slice(bytes);
        self.vectors[n].iov_len = bytes.len();
        self.headers[n].msg_hdr.msg_namelen = to_kernel(to, &mut self.addresses[n]);
        self.len += 1;
    }

    /// Sends what was added. What cannot be sent is left out: the asker asks again.
    pub fn send(&mut self, socket: BorrowedFd<'_>) {
        let mut done = 0;
        while done < self.len {
            let rest = &mut self.headers[done..self.len];
            let count = u32::try_from(rest.len()).unwrap_or_default();
            // SAFETY: the headers describe buffers and addresses that live as long as `self`, with their true sizes.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    count,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            };
            done += usize::try_from(sent).unwrap_or(1).max(1);
        }
        self.len = 0;
    }
}

fn from_kernel(address: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match i32::from(address.sin6_family) {
        libc::AF_INET => {
            // The IPv4 form has its address where the other one has the flow label.
            let octets = address.sin6_flowinfo.to_ne_bytes();
            Some(SocketAddr::new(
                octets.into(),
                u16::from_be(address.sin6_port),
            ))
        }
        libc::AF_INET6 => {
            let ip = address.sin6_addr.s6_addr.into();
            Some(
                SocketAddrV6::new(
                    ip,
                    u16::from_be(address.sin6_port),
                    0,
                    address.sin6_scope_id,
                )
                .into(),
            )
        }
        _ => None,
    }
}

fn to_kernel(address: SocketAddr, place: &mut libc::sockaddr_in6) -> libc::socklen_t {
    place.sin6_port = address.port().to_be();
    match address {
        SocketAddr::V4(address) => {
            place.sin6_family = IPV4;
            place.sin6_flowinfo = u32::from_ne_bytes(address.ip().octets());
            place.sin6_addr.s6_addr = [0; 16]; // the padding of the IPv4 form, and more
            IPV4_SIZE
        }
        SocketAddr::V6(address) => {
            place.sin6_family = IPV6;
            place.sin6_flowinfo = 0;
            place.sin6_addr.s6_addr = address.ip().octets();
            place.sin6_scope_id = address.scope_id();
            ADDRESS_SIZE
        }
    }
}

/// Lets the runtime wait for a descriptor that `inner` owns.
///
/// # Errors
/// The kernel has no room for it.
pub fn wait_for<T: AsFd + AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: by `AsFd` the descriptor is open as long as `inner` lives, which nothing here replaces.
    unsafe { AsyncFd::register(inner) }.map_err(|error| error.into_parts().1)
}

/// The two halves of a fork.
#[derive(Debug)]
pub enum Fork {
    /// The one that was called.
    Parent,
    /// The new one.
    Child,
}

/// Splits the process in two.
///
/// # Errors
/// There is no room for another process.
pub fn fork() -> nix::Result<Fork> {
    // SAFETY: the program has one thread at this point (it is the first thing that it does), so the child may do
    // whatever the parent may.
    let forked = unsafe { nix::unistd::fork() }?;
    Ok(if forked.is_parent() {
        Fork::Parent
    } else {
        Fork::Child
    })
}

/// Closes all descriptors from `first` on.
pub fn close_from(first: RawFd) {
    let first = u32::try_from(first).unwrap_or_default();
    // SAFETY: called before anything was opened, so nothing that is owned is closed.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Large blocks are given back to the kernel when they are freed, whatever was freed before: a reload frees
/// megabytes. There is one arena, since only the main thread allocates much.
pub fn return_memory() {
    // SAFETY: sets a parameter of the allocator; there are no other threads yet.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 * 1024)
    };
    // SAFETY: as above.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Gives unused memory back to the kernel.
pub fn trim_memory() {
    // SAFETY: touches only free memory of the allocator.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Lets go of the pages of code that are mapped: most of it was for the start. What is needed again comes back
/// from the page cache. Data is left alone, also read-only data, which may hold addresses filled in at start.
pub fn release_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp")) = (words.next(), words.next()) else {
            continue;
        };
        if !words.last().is_some_and(|path| path.starts_with('/')) {
            continue;
        }
        let bounds = range.split_once('-').map(|(start, end)| {
            (
                usize::from_str_radix(start, 16),
                usize::from_str_radix(end, 16),
            )
        });
        if let Some((Ok(start), Ok(end))) = bounds {
            // SAFETY: a private mapping of a file that was never written to; its pages read the same when they
            // come back.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
}

/// The capability to listen on ports below 1024.
const NET_BIND_SERVICE: u32 = 10;

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

/// Gives up all capabilities but that to listen on low ports, for this thread and those that it starts.
///
/// # Errors
/// The kernel does not allow it.
pub fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = CapabilityHeader {
        version: VERSION_3,
        pid: 0,
    };
    let mut now = [CapabilityData::default(); 2];
    // SAFETY: version 3 fills two elements.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw const header, now.as_mut_ptr()) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    let keep = now[0].permitted & (1 << NET_BIND_SERVICE);
    let wanted = [
        CapabilityData {
            effective: keep,
            permitted: keep,
            inheritable: 0,
        },
        CapabilityData::default(),
    ];
    // SAFETY: version 3 reads two elements.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, wanted.as_ptr()) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
