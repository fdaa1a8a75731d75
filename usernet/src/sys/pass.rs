//! Packets with descriptors, between us and our process in the guest's namespace.
//!
//! A pair of `SOCK_SEQPACKET` sockets: a packet arrives whole or not at all, and an empty one is the other's end.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

use super::process;

/// Descriptors in one packet (the kernel's limit is 253, `SCM_MAX_FD`).
pub const MAX: usize = 64;

/// Both ends.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// Send bytes and copies of descriptors.
pub fn send(to: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
    let control = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &control };
    let parts = [IoSlice::new(bytes)];
    sendmsg::<()>(
        to.as_raw_fd(),
        &parts,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// Receive a packet; how many bytes it had. Descriptors are added to `fds`.
pub fn receive(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    wait: bool,
) -> Result<usize, Errno> {
    let mut control = cmsg_space!([RawFd; MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = if wait {
        MsgFlags::MSG_CMSG_CLOEXEC
    } else {
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT
    };
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            fds.extend(numbers.into_iter().map(process::adopt));
        }
    }
    Ok(message.bytes)
}
