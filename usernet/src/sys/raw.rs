//! System calls for which there is no safe and cheap one elsewhere: socket options, batches of datagrams with what the
//! kernel says about them, taking bytes without looking, the error queue.
#![expect(unsafe_code, reason = "see above")]

use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Messages that one call receives.
pub const BATCH: usize = 16;
/// Bytes of control data: local address, time to live, size of segments, with headers; or one extended error.
const CONTROL: usize = 192;

#[expect(clippy::cast_possible_truncation, reason = "28")]
const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "2")]
const FAMILY_V4: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "10")]
const FAMILY_V6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "4")]
const INT_SIZE: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

/// Set an option whose value is an `int`.
pub fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer leads to one int, and the size says so.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            INT_SIZE,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Set an option whose value is a structure.
pub fn set_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let size = libc::socklen_t::try_from(value.len()).unwrap_or_default();
    // SAFETY: the pointer leads to bytes that are borrowed during the call, and the size is theirs.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), size) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Let a socket receive only what a classic filter program lets through (`SO_ATTACH_FILTER`, socket(7)).
pub fn set_filter(fd: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    let size = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or(0);
    // SAFETY: the pointer leads to a structure of this size, which leads to as many instructions as it says; both are
    // borrowed during the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The pending error of a socket, taken from it (`SO_ERROR`).
pub fn take_error(fd: BorrowedFd<'_>) -> i32 {
    let mut value: libc::c_int = 0;
    let mut size = INT_SIZE;
    // SAFETY: value and size are valid for writing, size is that of value.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    if result == 0 { value } else { libc::EIO }
}

/// The beginning of what the kernel knows of a TCP connection (`TCP_INFO`, tcp(7)).
pub fn tcp_info<const LEN: usize>(fd: BorrowedFd<'_>, info: &mut [u8; LEN]) -> io::Result<()> {
    let mut size = libc::socklen_t::try_from(LEN).unwrap_or(0);
    // SAFETY: the array is valid for writing, and size is its size.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Take `len` bytes from a TCP stream without copying them (`MSG_TRUNC`, tcp(7)).
pub fn discard(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer.
    let result = unsafe {
        libc::recv(
            fd.as_raw_fd(),
            ptr::null_mut(),
            len,
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// How many bytes a stream has to read (`FIONREAD`).
pub fn unread(fd: BorrowedFd<'_>, count: &mut libc::c_int) -> io::Result<()> {
    // SAFETY: FIONREAD writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut *count) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Accept a connection (accept4(2)); who called, IPv4 in IPv6 as IPv4.
pub fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: integers, for which zero is a value.
    let mut from = unsafe { mem::zeroed::<libc::sockaddr_in6>() };
    let mut len = ADDRESS_SIZE;
    // SAFETY: the address is ours and `len` is its size.
    let result = unsafe {
        libc::accept4(
            fd.as_raw_fd(),
            (&raw mut from).cast(),
            &raw mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel gave us this descriptor just now.
    let fd = unsafe { OwnedFd::from_raw_fd(result) };
    let peer =
        address(&from, len).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    Ok((fd, peer))
}

/// Space for control messages, aligned as the kernel wants them.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Room for what the kernel says of received datagrams. The payload goes into a buffer of the caller's.
pub struct Inbox {
    addresses: Box<[libc::sockaddr_in6; BATCH]>,
    controls: Box<[Control; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

/// A received datagram, or several of the same size that the kernel had joined.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// Where it starts in the buffer.
    pub at: usize,
    /// Bytes.
    pub len: usize,
    /// Who sent it; none for a socket of another family.
    pub peer: Option<SocketAddr>,
    /// The address it was sent to, if the socket was asked to tell.
    pub local: Option<IpAddr>,
    /// Time to live or hop limit, if the socket was asked to tell.
    pub ttl: Option<u8>,
    /// It is several datagrams of so many bytes, the last one shorter.
    pub segment: Option<u16>,
    /// It was longer than the room for it.
    pub cut: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// Room for [`BATCH`] messages.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: all of these are integers, arrays of them and pointers, for which zero is a value.
        let zeroed = unsafe { mem::zeroed::<libc::sockaddr_in6>() };
        // SAFETY: as above.
        let header = unsafe { mem::zeroed::<libc::mmsghdr>() };
        Self {
            addresses: Box::new([zeroed; BATCH]),
            controls: Box::new([Control([0; CONTROL]); BATCH]),
            vectors: Box::new(
                [libc::iovec {
                    iov_base: ptr::null_mut(),
                    iov_len: 0,
                }; BATCH],
            ),
            headers: Box::new([header; BATCH]),
        }
    }

    /// Receive as many datagrams as there are, up to [`BATCH`] and as many as fit: each has `stride` bytes of `buffer`.
    pub fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        buffer: &mut [u8],
        stride: usize,
    ) -> io::Result<usize> {
        let wanted = (buffer.len() / stride).min(BATCH);
        for i in 0..wanted {
            self.vectors[i] = libc::iovec {
                iov_base: buffer[i * stride..].as_mut_ptr().cast(),
                iov_len: stride,
            };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = (&raw mut self.addresses[i]).cast();
            header.msg_namelen = ADDRESS_SIZE;
            header.msg_iov = &raw mut self.vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[i]).cast();
            header.msg_controllen = CONTROL;
            header.msg_flags = 0;
        }
        let count = libc::c_uint::try_from(wanted).unwrap_or_default();
        // SAFETY: the first `count` headers lead to addresses, control space and vectors of ours, and the vectors to
        // `stride` bytes each of `buffer`, which is borrowed for writing during the call.
        let result = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// One of the messages that the last call received.
    #[must_use]
    pub fn message(&self, i: usize, stride: usize) -> Message {
        let header = &self.headers[i];
        let mut message = Message {
            at: i * stride,
            len: header.msg_len as usize,
            peer: address(&self.addresses[i], header.msg_hdr.msg_namelen),
            local: None,
            ttl: None,
            segment: None,
            cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        };
        for (level, kind, data) in controls(&self.controls[i].0, header.msg_hdr.msg_controllen) {
            read_control(&mut message, level, kind, data);
        }
        message
    }
}

/// What one control message says.
fn read_control(message: &mut Message, level: i32, kind: i32, data: &[u8]) {
    match (level, kind) {
        (libc::SOL_IP, libc::IP_PKTINFO) => {
            // struct in_pktinfo: interface, address used locally, destination address
            message.local = bytes_at::<4>(data, 8).map(|a| IpAddr::V4(Ipv4Addr::from(a)));
        }
        (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
            message.local = bytes_at::<16>(data, 0).map(|a| unmapped(Ipv6Addr::from(a)));
        }
        (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
            message.ttl = int_at(data, 0).and_then(|v| u8::try_from(v).ok());
        }
        (libc::SOL_UDP, libc::UDP_GRO) => {
            message.segment = int_at(data, 0).and_then(|v| u16::try_from(v).ok());
        }
        _ => {}
    }
}

/// The control messages in a buffer (cmsg(3)): level, type, data.
fn controls(buffer: &[u8], len: usize) -> impl Iterator<Item = (i32, i32, &[u8])> {
    const HEADER: usize = 16; // struct cmsghdr of 64-bit kernels: length, level, type
    let mut rest = buffer.get(..len).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from_ne_bytes(bytes_at::<8>(rest, 0)?);
        let level = int_at(rest, 8)?;
        let kind = int_at(rest, 12)?;
        let data = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
        Some((level, kind, data))
    })
}

fn bytes_at<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at + N)?.try_into().ok()
}

fn int_at(data: &[u8], at: usize) -> Option<i32> {
    bytes_at::<4>(data, at).map(i32::from_ne_bytes)
}

/// IPv4 in IPv6 (`::ffff:a.b.c.d`) as IPv4: dual-stack sockets tell it so.
fn unmapped(address: Ipv6Addr) -> IpAddr {
    address.to_canonical()
}

/// An address as the kernel wrote it.
fn address(raw: &libc::sockaddr_in6, len: libc::socklen_t) -> Option<SocketAddr> {
    if len == 0 {
        return None;
    }
    match i32::from(raw.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in, which is smaller and needs no greater alignment.
            let v4 = unsafe { *(&raw const *raw).cast::<libc::sockaddr_in>() };
            Some(SocketAddr::V4(SocketAddrV4::new(
                Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)),
                u16::from_be(v4.sin_port),
            )))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(match unmapped(ip) {
                IpAddr::V4(v4) => SocketAddr::V4(SocketAddrV4::new(v4, port)),
                IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, raw.sin6_scope_id)),
            })
        }
        _ => None,
    }
}

/// An address as the kernel reads it.
fn raw_address(address: SocketAddr) -> libc::sockaddr_in6 {
    // SAFETY: integers, for which zero is a value.
    let mut raw = unsafe { mem::zeroed::<libc::sockaddr_in6>() };
    match address {
        SocketAddr::V4(v4) => {
            let as_v4 = (&raw mut raw).cast::<libc::sockaddr_in>();
            let value = libc::sockaddr_in {
                sin_family: FAMILY_V4,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*v4.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_in is smaller than a sockaddr_in6 and needs no greater alignment.
            unsafe { as_v4.write(value) };
        }
        SocketAddr::V6(v6) => {
            raw.sin6_family = FAMILY_V6;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
        }
    }
    raw
}

/// Send what the slices hold to the connected peer of a datagram socket, or to somebody else, cut into datagrams of
/// `segment` bytes (`UDP_SEGMENT`, udp(7)).
pub fn send(
    fd: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    segment: Option<u16>,
    to: Option<SocketAddr>,
) -> io::Result<usize> {
    const SPACE: usize = 24; // CMSG_SPACE of a u16
    let mut control = Control([0; CONTROL]);
    // SAFETY: integers and pointers, for which zero is a value.
    let mut header = unsafe { mem::zeroed::<libc::msghdr>() };
    header.msg_iov = parts.as_ptr().cast_mut().cast();
    header.msg_iovlen = parts.len();
    let mut name = to.map(raw_address);
    if let Some(name) = &mut name {
        header.msg_name = (&raw mut *name).cast();
        header.msg_namelen = ADDRESS_SIZE;
    }
    if let Some(segment) = segment {
        control.0[..8].copy_from_slice(&18_usize.to_ne_bytes()); // CMSG_LEN of a u16
        control.0[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        control.0[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        control.0[16..18].copy_from_slice(&segment.to_ne_bytes());
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = SPACE;
    }
    // SAFETY: the vectors are IoSlices, which have the layout of iovec and are borrowed during the call; the control
    // space and the name are ours.
    let result = unsafe {
        libc::sendmsg(
            fd.as_raw_fd(),
            &raw const header,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// What an error queue holds (ip(7), `IP_RECVERR`).
#[derive(Debug, Clone, Copy)]
pub struct QueuedError {
    /// Bytes of the datagram's payload in the buffer.
    pub len: usize,
    /// Where the datagram was going.
    pub destination: Option<SocketAddr>,
    /// `ee_errno`.
    pub error: i32,
    /// `ee_origin`: 2 for ICMP, 3 for ICMPv6.
    pub origin: u8,
    /// `ee_type`, `ee_code`.
    pub kind: (u8, u8),
    /// `ee_info`: the MTU.
    pub info: u32,
    /// Who sent the ICMP message.
    pub offender: Option<IpAddr>,
}

/// Take one entry from a socket's error queue.
pub fn queued_error(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<QueuedError> {
    let mut control = Control([0; CONTROL]);
    // SAFETY: integers and pointers, for which zero is a value.
    let mut from = unsafe { mem::zeroed::<libc::sockaddr_in6>() };
    // SAFETY: as above.
    let mut header = unsafe { mem::zeroed::<libc::msghdr>() };
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = ADDRESS_SIZE;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL;
    // SAFETY: the header leads to an address, a vector over `buffer` and control space, all alive during the call.
    let result = unsafe {
        libc::recvmsg(
            fd.as_raw_fd(),
            &raw mut header,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    let len = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    let mut queued = QueuedError {
        len,
        destination: address(&from, header.msg_namelen),
        error: 0,
        origin: 0,
        kind: (0, 0),
        info: 0,
        offender: None,
    };
    for (level, kind, data) in controls(&control.0, header.msg_controllen) {
        if matches!(
            (level, kind),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        ) {
            read_error(&mut queued, data);
        }
    }
    Ok(queued)
}

/// `struct sock_extended_err`: errno, origin, type, code, padding, info, data; the offender's address follows.
fn read_error(queued: &mut QueuedError, data: &[u8]) {
    queued.error = int_at(data, 0).unwrap_or_default();
    if let Some([origin, kind, code]) = bytes_at::<3>(data, 4) {
        queued.origin = origin;
        queued.kind = (kind, code);
    }
    queued.info = bytes_at::<4>(data, 8).map_or(0, u32::from_ne_bytes);
    let family = bytes_at::<2>(data, 16).map(|f| i32::from(u16::from_ne_bytes(f)));
    queued.offender = match family {
        Some(libc::AF_INET) => bytes_at::<4>(data, 20).map(|a| IpAddr::V4(Ipv4Addr::from(a))),
        Some(libc::AF_INET6) => bytes_at::<16>(data, 24).map(|a| unmapped(Ipv6Addr::from(a))),
        _ => None,
    };
}
