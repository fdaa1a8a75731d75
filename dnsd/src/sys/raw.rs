//! What has no safe call: batches of datagrams, and a few calls about the process. All `unsafe` of this program is
//! in this file.
//!
//! An [`Inbox`] and an [`Outbox`] own buffers and addresses and the arrays that describe them to the kernel. The
//! arrays hold addresses of the buffers, which never move: they are allocated once and neither grow nor shrink.
//!
//! An outbox sends datagrams of one length to one receiver as one large datagram, which the kernel cuts at the very
//! end of its way (`UDP_SEGMENT`, Linux 4.18): most of the cost of sending is the way. What does not take that
//! (devices that cannot add checksums, some tunnels) says so, and is sent one by one from then on.
#![expect(unsafe_code, reason = "see above")]

use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use tokio::io::unix::AsyncFd;

// Sizes and families of addresses are small numbers, for which the kernel has types of its own.
#[expect(clippy::cast_possible_truncation, reason = "28")]
const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "16")]
const IPV4_SIZE: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "2")]
const IPV4: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "10")]
const IPV6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;

/// Room for datagrams and for the addresses that they come from.
pub struct Inbox {
    buffers: Box<[u8]>,
    size: usize,
    addresses: Box<[libc::sockaddr_in6]>,
    headers: Box<[libc::mmsghdr]>,
    /// The headers lead here.
    _vectors: Box<[libc::iovec]>,
    /// How many are filled.
    len: usize,
}

// SAFETY: the pointers in the arrays lead to memory that the value owns and that moves with it to no other place.
unsafe impl Send for Inbox {}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Buffers that begin at the same place in their pages would be kept in the same few places of the processor's cache.
const STAGGER: usize = 64;

impl Inbox {
    /// Room for `count` datagrams of at most `size` bytes.
    #[must_use]
    pub fn new(count: usize, size: usize) -> Self {
        let stride = size + STAGGER;
        let mut buffers = vec![0; count * stride].into_boxed_slice();
        let mut addresses = vec![no_address(); count].into_boxed_slice();
        let mut vectors = vec![no_vector(); count].into_boxed_slice();
        let mut headers = vec![no_header(); count].into_boxed_slice();
        for (n, buffer) in buffers.chunks_exact_mut(stride).enumerate() {
            vectors[n].iov_base = buffer.as_mut_ptr().cast();
            vectors[n].iov_len = size;
            let header = &mut headers[n].msg_hdr;
            header.msg_name = ptr::from_mut(&mut addresses[n]).cast();
            header.msg_iov = &raw mut vectors[n];
            header.msg_iovlen = 1;
        }
        Self {
            buffers,
            size,
            addresses,
            headers,
            _vectors: vectors,
            len: 0,
        }
    }

    /// Waits for nothing; says how many datagrams there were.
    ///
    /// # Errors
    /// There are none, or the socket has failed.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.len = 0;
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = ADDRESS_SIZE;
        }
        let count = u32::try_from(self.headers.len()).unwrap_or_default();
        // SAFETY: the headers describe buffers and addresses that live as long as `self`, with their true sizes.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
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
        let start = n * (self.size + STAGGER);
        let bytes = &self.buffers[start..start + length];
        Some((bytes, from_kernel(&self.addresses[n])?))
    }
}

/// Datagrams to be sent.
pub struct Outbox {
    buffer: Box<[u8]>,
    used: usize,
    letters: Vec<Letter>,
    /// How many of them each header is about.
    groups: Vec<usize>,
    room: usize,
    whole: bool,
    addresses: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

/// A datagram in the buffer.
#[derive(Debug, Clone, Copy)]
struct Letter {
    to: SocketAddr,
    at: usize,
    length: usize,
}

/// Tells the kernel where to cut.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    segment: u16,
}

// SAFETY: the pointers in the arrays lead to memory that the value owns and that moves with it to no other place.
unsafe impl Send for Outbox {}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("letters", &self.letters)
            .finish_non_exhaustive()
    }
}

/// A longer datagram would have to be cut in pieces by the kernel in another way.
const SEGMENT: usize = 1232;

/// As many as fit into one datagram, and no more than the kernel cuts from one (64).
const SEGMENTS: usize = 65_507 / SEGMENT;

impl Outbox {
    /// Room for `count` datagrams of at most `size` bytes.
    #[must_use]
    pub fn new(count: usize, size: usize) -> Self {
        let (buffer, room) = (vec![0; count * size].into_boxed_slice(), count);
        let mut addresses = vec![no_address(); count].into_boxed_slice();
        let mut vectors = vec![no_vector(); count].into_boxed_slice();
        let mut headers = vec![no_header(); count].into_boxed_slice();
        for (header, address) in headers.iter_mut().zip(&mut addresses) {
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
        }
        for vector in &mut vectors {
            vector.iov_len = 0;
        }
        Self {
            buffer,
            used: 0,
            letters: Vec::with_capacity(room),
            groups: Vec::with_capacity(room),
            room,
            whole: true,
            addresses,
            controls: vec![no_control(); room].into_boxed_slice(),
            vectors,
            headers,
        }
    }

    /// Sends all datagrams one by one from now on: the kernel does not know how to cut.
    pub fn never_whole(&mut self) {
        self.whole = false;
    }

    /// Whether there is no room for another datagram.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.letters.len() == self.room
    }

    /// Adds a datagram to be sent, if there is room for it.
    pub fn push(&mut self, to: SocketAddr, bytes: &[u8]) {
        let (at, length) = (self.used, bytes.len());
        if self.is_full() || length > self.buffer.len() - at {
            return;
        }
        self.buffer[at..at + length].copy_from_slice(bytes);
        self.used += length;
        self.letters.push(Letter { to, at, length });
    }

    /// Sends what was added. What cannot be sent is left out: the asker asks again.
    pub fn send(&mut self, socket: BorrowedFd<'_>) {
        if self.whole && self.letters.len() > 1 {
            self.letters
                .sort_unstable_by_key(|letter| (letter.to, letter.length));
        }
        let (mut done, mut whole) = (0, self.whole);
        while done < self.letters.len() {
            let headers = self.describe(done, whole);
            // SAFETY: the headers describe parts of the buffer and addresses that live as long as `self`, with their
            // true sizes.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    headers,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => done += self.groups[..sent].iter().sum::<usize>(),
                Err(_) => match io::Error::last_os_error().raw_os_error() {
                    // Too long for this way only.
                    Some(libc::EMSGSIZE) if self.groups[0] > 1 => whole = false,
                    Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP) if self.groups[0] > 1 => {
                        (whole, self.whole) = (false, false);
                    }
                    _ => done += self.groups[0],
                },
            }
        }
        self.letters.clear();
        self.used = 0;
    }

    /// Describes the datagrams from one on to the kernel; says how many headers that took.
    fn describe(&mut self, from: usize, whole: bool) -> u32 {
        let alike = |a: &Letter, b: &Letter| {
            whole && a.to == b.to && a.length == b.length && a.length <= SEGMENT
        };
        let groups = self.letters[from..].chunk_by(alike);
        let (mut count, mut vector) = (0, 0);
        self.groups.clear();
        for group in groups.flat_map(|group| group.chunks(SEGMENTS)) {
            let header = &mut self.headers[count].msg_hdr;
            header.msg_namelen = to_kernel(group[0].to, &mut self.addresses[count]);
            header.msg_iov = &raw mut self.vectors[vector];
            header.msg_iovlen = group.len() as _;
            header.msg_control = ptr::null_mut();
            header.msg_controllen = 0;
            if group.len() > 1 {
                let control = &mut self.controls[count];
                control.segment = u16::try_from(group[0].length).unwrap_or_default();
                header.msg_control = ptr::from_mut(control).cast();
                header.msg_controllen = size_of::<Control>() as _;
            }
            self.groups.push(group.len());
            for letter in group {
                let bytes = &mut self.buffer[letter.at..letter.at + letter.length];
                self.vectors[vector].iov_base = bytes.as_mut_ptr().cast();
                self.vectors[vector].iov_len = letter.length;
                vector += 1;
            }
            count += 1;
        }
        u32::try_from(count).unwrap_or_default()
    }
}

fn no_address() -> libc::sockaddr_in6 {
    // SAFETY: plain data of the kernel's, for which zero is a value.
    unsafe { mem::zeroed() }
}

fn no_vector() -> libc::iovec {
    // SAFETY: as above.
    unsafe { mem::zeroed() }
}

fn no_header() -> libc::mmsghdr {
    // SAFETY: as above.
    unsafe { mem::zeroed() }
}

fn no_control() -> Control {
    // SAFETY: as above.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    // SAFETY: computes a size.
    header.cmsg_len = unsafe { libc::CMSG_LEN(2) } as _;
    header.cmsg_level = libc::SOL_UDP;
    header.cmsg_type = libc::UDP_SEGMENT;
    Control { header, segment: 0 }
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
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if closed == 0 {
        return;
    }
    // Before Linux 5.9, or refused by a filter.
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let open: Vec<RawFd> = numbers.collect();
    for descriptor in open
        .into_iter()
        .filter(|it| u32::try_from(*it).is_ok_and(|it| it >= first))
    {
        // SAFETY: as above; the descriptor that listed them is closed already, which is an error without effect.
        unsafe { libc::close(descriptor) };
    }
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

/// What a clock on the wall shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Counted from 0.
    pub month: usize,
    /// Counted from 1.
    pub day: usize,
    /// Hours, minutes and seconds.
    pub clock: [usize; 3],
}

/// The time now, where we are.
#[must_use]
pub fn local_time() -> LocalTime {
    // SAFETY: plain data of the C library's, for which zero is a value.
    let mut now: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: stores nothing.
    let seconds = unsafe { libc::time(ptr::null_mut()) };
    // SAFETY: both values live as long as the call, and nothing here changes the environment.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut now) };
    let number = |number: i32| usize::try_from(number).unwrap_or_default();
    LocalTime {
        month: number(now.tm_mon),
        day: number(now.tm_mday),
        clock: [now.tm_hour, now.tm_min, now.tm_sec].map(number),
    }
}
