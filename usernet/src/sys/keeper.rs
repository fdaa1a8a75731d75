//! Addresses and routes of the guest, after we have given up whatever would let us change them.
//!
//! The kernel asks for the right to change a network namespace twice: of who opened the netlink socket, and of who sends
//! the request. So a socket that was opened in time is not enough; somebody must keep the right. That is one more process
//! in the guest's namespace, made only for a guest that we configure and whose host has no network yet. It has
//! `CAP_NET_ADMIN` and no other right, its netlink socket, and the channel to us; it can make no socket and open no file,
//! it never sees a packet, and it understands [`Change`]s of one interface. It ends when the
//! channel is closed: when the network has come, or with us.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::failure::Failure;
use super::netlink::Netlink;
use super::sandbox::Sandbox;
use super::sandbox::calls::{self, Table};
use super::{guest, pass};
use crate::config::change::{self, CHANGE, Change};

/// Changes in one packet.
const CHANGES: usize = 64;

/// Our end.
#[derive(Debug)]
pub struct Keeper {
    channel: OwnedFd,
    /// Packets that were not answered yet.
    asked: usize,
    failed: u32,
}

impl Keeper {
    /// The keeper at the other end.
    #[must_use]
    pub fn new(channel: OwnedFd) -> Self {
        Self {
            channel,
            asked: 0,
            failed: 0,
        }
    }

    /// Readable when [`Self::answer`] has something to say.
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Ask for changes.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn order(&mut self, changes: &[Change]) -> Result<(), Errno> {
        for some in changes.chunks(CHANGES) {
            let bytes: Vec<u8> = some.iter().flat_map(change::to_bytes).collect();
            pass::send(self.channel.as_fd(), &bytes, &[])?;
            self.asked += 1;
        }
        Ok(())
    }

    /// Take in an answer; once all have come, how many changes were not made.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn answer(&mut self) -> Result<Option<u32>, Errno> {
        let mut bytes = [0; 4];
        match pass::receive(self.channel.as_fd(), &mut bytes, &mut Vec::new(), false) {
            Ok(4) => {}
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Ok(_) => return Err(Errno::ENOTCONN),
            Err(error) => return Err(error),
        }
        self.failed = self.failed.saturating_add(u32::from_le_bytes(bytes));
        self.asked = self.asked.saturating_sub(1);
        Ok((self.asked == 0).then(|| std::mem::take(&mut self.failed)))
    }
}

/// The life of the process, once nothing of its parent's is open any more.
///
/// # Errors
/// It could not be made ready.
pub fn live(channel: &OwnedFd, name: &str, sandbox: Sandbox) -> Result<(), Failure> {
    let told = |error: super::netlink::NetlinkError| Failure::Told(error.to_string());
    let mut netlink = Netlink::open().map_err(told)?;
    let index = guest::index(&mut netlink, name).map_err(told)?;
    let sandbox = Sandbox {
        network_admin: true,
        has_command: false,
        ..sandbox
    };
    // What is missing here is missing in the process that forwards, where it is told.
    sandbox.enclose()?;
    calls::restrict(Table::Keeper).unwrap_or_default();
    serve(channel, &mut netlink, index);
    Ok(())
}

fn serve(channel: &OwnedFd, netlink: &mut Netlink, index: u32) {
    let mut order = [0; CHANGE * CHANGES];
    loop {
        let len = match pass::receive(channel.as_fd(), &mut order, &mut Vec::new(), true) {
            Ok(0) => return,
            Ok(len) => len,
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        };
        let (some, _) = order[..len].as_chunks::<CHANGE>();
        let understood: Vec<Change> = some.iter().filter_map(change::from_bytes).collect();
        let failed = guest::change(netlink, index, &understood) + some.len() - understood.len();
        let failed = u32::try_from(failed).unwrap_or(u32::MAX);
        if pass::send(channel.as_fd(), &failed.to_le_bytes(), &[]).is_err() {
            return;
        }
    }
}
