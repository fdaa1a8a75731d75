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
///
/// # Errors
/// `EMFILE`: we may not have so many. The packet is lost, and none of its descriptors stays open.
pub fn receive(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    wait: bool,
) -> Result<usize, Errno> {
    match receive_some(from, buffer, fds, wait)? {
        (len, true) => Ok(len),
        (_, false) => Err(Errno::EMFILE),
    }
}

/// The same; the second value says whether there was room for the packet's descriptors. Otherwise it comes without any.
pub fn receive_some(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    wait: bool,
) -> Result<(usize, bool), Errno> {
    let mut control = cmsg_space!([RawFd; MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = if wait {
        MsgFlags::MSG_CMSG_CLOEXEC
    } else {
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT
    };
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let len = message.bytes;
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        drop(first_of(&control));
        return Ok((len, false));
    }
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            fds.extend(numbers.into_iter().map(process::adopt));
        }
    }
    Ok((len, true))
}

/// The descriptors for which there was room, of a packet that had more. The kernel has written one header at most, with
/// the length of what it has opened (`scm_detach_fds`, net/core/scm.c): size, level, kind, numbers.
fn first_of(control: &[u8]) -> Vec<OwnedFd> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    let len = control
        .first_chunk()
        .map_or(0, |len| usize::from_ne_bytes(*len));
    let numbers = control.get(HEAD..len).unwrap_or_default();
    let (numbers, _) = numbers.as_chunks();
    let numbers = numbers.iter().map(|number| RawFd::from_ne_bytes(*number));
    numbers.map(process::adopt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, pipe};
    use std::os::fd::AsFd as _;

    /// As where there are no more descriptors: the kernel opens some of them and says that it has left some out.
    #[test]
    fn of_a_packet_that_does_not_fit_nothing_stays_open() {
        let (ours, theirs) = pair().unwrap();
        let (mut reader, writer) = pipe().unwrap();
        let numbers = [writer.as_raw_fd(); MAX + 10];
        send(theirs.as_fd(), b"some", &numbers).unwrap();
        send(theirs.as_fd(), b"more", &numbers).unwrap();
        drop(writer);
        let (mut bytes, mut fds) = ([0; 10], Vec::new());
        let received = receive_some(ours.as_fd(), &mut bytes, &mut fds, true);
        assert_eq!(received, Ok((4, false)));
        let received = receive(ours.as_fd(), &mut bytes, &mut fds, true);
        assert_eq!(received, Err(Errno::EMFILE));
        assert!(fds.is_empty());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
