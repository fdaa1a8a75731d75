//! Links that go while somebody else waits for the kernel.
//!
//! The kernel answers `RTM_DELLINK` when nothing in it reads the links any more (`netdev_run_todo`: an RCU barrier, after two
//! grace periods). Long before that nobody can find them, and it says so to whoever listens (`RTNLGRP_LINK`). Of the 40 ms
//! that a bridge and its port take to go, those after the announcement are half, and no business of the caller.
//!
//! So a copy of ourselves asks and waits for the answer, and we go on at the announcement, or at the answer if that is
//! first: an error, for one. The copy lets go of the engine's pipes, which then end when we do, and ends by itself when the
//! kernel has answered. It keeps all other descriptors, and with them the lock of the state directory, which we give back
//! for both when we end; if we are killed instead, the next call gets it when the kernel is done, and finds links that are
//! there or are gone, not some that are about to go. Where no copy can be made, the caller asks by itself.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2, read};

/// The group of notifications about links (`RTNLGRP_LINK`), as a bit.
const LINKS: u32 = 1;

/// What became of a request to delete links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// They are gone.
    Gone,
    /// The kernel refused, with this error number.
    Refused(i32),
    /// Nobody knows whether it was asked.
    Unknown,
}

/// The copies of ourselves that may still wait.
#[derive(Debug, Default)]
pub(super) struct Removals {
    waiting: RefCell<Vec<Pid>>,
}

impl Removals {
    /// Has the kernel delete links of the current namespace, and returns when it has said that all of these are gone.
    ///
    /// # Errors
    /// There is no socket, pipe or process for it; nothing was asked.
    pub(super) fn remove(&self, what: LinkMessage, gone: BTreeSet<u32>) -> io::Result<Outcome> {
        self.reap();
        let mut news = Socket::new(NETLINK_ROUTE)?;
        news.bind(&SocketAddr::new(0, LINKS))?;
        let request = request(what);
        let line = self.ask(&Socket::new(NETLINK_ROUTE)?, &request)?;
        await_either(&news, &line, gone)
    }

    /// Starts who asks and waits. Returns where the answer comes.
    fn ask(&self, socket: &Socket, request: &[u8]) -> io::Result<OwnedFd> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        #[expect(
            unsafe_code,
            reason = "a copy needs no program of its own to be found and started"
        )]
        // SAFETY: the child, whose other threads do not exist, calls `ask_and_end`, which makes system calls, allocates
        // nothing, takes no lock and does not return.
        let forked = unsafe { fork() }?;
        match forked {
            ForkResult::Child => ask_and_end(socket.as_raw_fd(), theirs.as_raw_fd(), request),
            ForkResult::Parent { child } => {
                self.waiting.borrow_mut().push(child);
                Ok(ours)
            }
        }
    }

    /// Takes leave of those that have ended.
    fn reap(&self) {
        let lives = |child: &Pid| {
            let state = waitpid(*child, Some(WaitPidFlag::WNOHANG));
            state.is_ok_and(|state| state.pid().is_none())
        };
        self.waiting.borrow_mut().retain(lives);
    }
}

fn request(what: LinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::DelLink(what));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Waits until these links are gone or an answer is there.
fn await_either(news: &Socket, line: &OwnedFd, mut gone: BTreeSet<u32>) -> io::Result<Outcome> {
    // Without news there is still the answer.
    let mut listening = true;
    loop {
        let mut wanted = [
            PollFd::new(line.as_fd(), PollFlags::POLLIN),
            PollFd::new(news.as_fd(), PollFlags::POLLIN),
        ];
        let wanted = &mut wanted[..if listening { 2 } else { 1 }];
        match poll(wanted, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |at: usize| wanted.get(at).and_then(PollFd::any) == Some(true);
        if ready(0) {
            return Ok(answer(line));
        }
        if ready(1) {
            match news.recv_from_full() {
                Ok((bytes, _)) => strike(&bytes, &mut gone),
                // There was more than there was room for (`ENOBUFS`).
                Err(_) => listening = false,
            }
            if gone.is_empty() {
                return Ok(Outcome::Gone);
            }
        }
    }
}

fn answer(line: &OwnedFd) -> Outcome {
    let mut number = [0; 4];
    match read(line, &mut number) {
        Ok(4) => match i32::from_ne_bytes(number) {
            0 => Outcome::Gone,
            errno => Outcome::Refused(errno),
        },
        Ok(_) | Err(_) => Outcome::Unknown,
    }
}

/// Strikes the links out that these notifications say are gone. That one has left its bridge is also told as a deletion,
/// but of the bridge's family.
fn strike(mut notifications: &[u8], gone: &mut BTreeSet<u32>) {
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(notifications) {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = message.payload
            && link.header.interface_family == AddressFamily::Unspec
        {
            gone.remove(&link.header.index);
        }
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        let next = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
        notifications = notifications.get(next..).unwrap_or_default();
    }
}

/// What the copy does: asks, waits, tells the error number, ends.
fn ask_and_end(socket: RawFd, line: RawFd, request: &[u8]) -> ! {
    #[expect(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "what may run after a fork is what makes system calls and nothing else"
    )]
    // SAFETY: the two descriptors are open here, and those that are closed are not used again. Pointers and lengths are those
    // of slices that live to the end.
    unsafe {
        for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            if standard != socket && standard != line {
                libc::close(standard);
            }
        }
        let sent = libc::send(socket, request.as_ptr().cast(), request.len(), 0);
        let mut reply = [0_u8; 256];
        let received = libc::recv(socket, reply.as_mut_ptr().cast(), reply.len(), 0);
        if sent >= 0
            && let Ok(received) = usize::try_from(received)
            && let Some(number) = error_number(reply.get(..received).unwrap_or_default())
        {
            let number = number.to_ne_bytes();
            libc::write(line, number.as_ptr().cast(), number.len());
        }
        libc::_exit(0)
    }
}

/// The error number of an acknowledgement (`struct nlmsgerr`), which is 0 if all went well.
fn error_number(reply: &[u8]) -> Option<i32> {
    let kind = reply.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    let error = reply.get(16..20)?.try_into().ok().map(i32::from_ne_bytes)?;
    (i32::from(kind) == libc::NLMSG_ERROR).then_some(-error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(family: AddressFamily, index: u32) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.interface_family = family;
        link.header.index = index;
        request(link)
    }

    #[test]
    fn links_are_gone_when_it_is_told_of_each() {
        let mut gone = BTreeSet::from([3, 4]);
        let left_its_bridge = notification(AddressFamily::Bridge, 3);
        strike(&left_its_bridge, &mut gone);
        assert_eq!(gone, BTreeSet::from([3, 4]));
        let both = [4, 5, 3].map(|index| notification(AddressFamily::Unspec, index));
        strike(&both[0], &mut gone);
        assert_eq!(gone, BTreeSet::from([3]));
        strike(&both.concat(), &mut gone);
        assert!(gone.is_empty());
    }

    #[test]
    fn what_is_no_notification_strikes_nothing() {
        let mut gone = BTreeSet::from([3]);
        let whole = notification(AddressFamily::Unspec, 3);
        for length in 0..whole.len() {
            strike(&whole[..length], &mut gone);
        }
        strike(&[0xff; 64], &mut gone);
        assert_eq!(gone, BTreeSet::from([3]));
    }

    #[test]
    fn an_acknowledgement_has_an_error_number() {
        let reply = |kind: u16, error: i32| {
            let mut reply = vec![0; 20];
            reply[4..6].copy_from_slice(&kind.to_ne_bytes());
            reply[16..].copy_from_slice(&error.to_ne_bytes());
            reply
        };
        assert_eq!(error_number(&reply(2, 0)), Some(0));
        assert_eq!(error_number(&reply(2, -95)), Some(95));
        assert_eq!(error_number(&reply(3, -95)), None);
        assert_eq!(error_number(&reply(2, 0)[..19]), None);
    }
}
