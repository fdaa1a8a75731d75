//! A model of a stream socket of the kernel, with the program at its other end.

use std::collections::VecDeque;

use usernet::event::{Errno, Readiness};

/// A connected socket and its peer.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    /// Bytes the peer sent, not yet discarded by us.
    incoming: VecDeque<u8>,
    /// The peer has sent its end.
    incoming_end: bool,
    /// Bytes we wrote, not yet read by the peer.
    outgoing: VecDeque<u8>,
    /// We sent our end.
    pub(crate) outgoing_end: bool,
    /// Bytes that fit in each.
    pub(crate) room: usize,
    /// A write was cut short since the last writable edge.
    blocked: bool,
    /// Edges not yet told.
    edge: Readiness,
    error: Option<Errno>,
    /// We closed it: with a reset or not.
    pub(crate) closed: Option<bool>,
}

impl Socket {
    pub(crate) fn new(room: usize) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    /// What the shell's epoll would tell now.
    pub(crate) fn take_edge(&mut self) -> Option<(Readiness, Option<Errno>)> {
        let edge = std::mem::take(&mut self.edge);
        (edge != Readiness::default() && self.closed.is_none()).then_some((edge, self.error))
    }

    pub(crate) fn has_edge(&self) -> bool {
        self.edge != Readiness::default() && self.closed.is_none()
    }

    /// The connection stands.
    pub(crate) fn connected(&mut self) {
        self.edge.writable = true;
    }

    /// It failed, or the peer reset it.
    pub(crate) fn fail(&mut self, error: i32) {
        self.error = Some(Errno(error));
        self.edge = Readiness {
            readable: true,
            writable: true,
            ended: true,
            failed: true,
            urgent: false,
        };
    }

    // What the forwarder asks for.

    pub(crate) fn peek(&self, offset: u32, max: u32) -> Result<Vec<u8>, Errno> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let bytes: Vec<u8> = self
            .incoming
            .iter()
            .skip(offset as usize)
            .take(max as usize)
            .copied()
            .collect();
        if bytes.is_empty() && !self.incoming_end {
            return Err(Errno(libc::EAGAIN));
        }
        Ok(bytes)
    }

    pub(crate) fn discard(&mut self, len: u32) {
        assert!(
            len as usize <= self.incoming.len(),
            "discards what is not there"
        );
        self.incoming.drain(..len as usize);
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        assert!(!self.outgoing_end, "writes behind the end");
        assert!(!bytes.is_empty(), "writes nothing");
        if let Some(error) = self.error {
            return Err(error);
        }
        let taken = bytes.len().min(self.room - self.outgoing.len());
        self.outgoing.extend(&bytes[..taken]);
        self.blocked |= taken < bytes.len();
        Ok(taken)
    }

    pub(crate) fn close(&mut self, reset: bool) {
        assert_eq!(self.closed, None, "closed twice");
        assert!(
            reset || self.incoming.is_empty(),
            "the kernel resets: {} bytes are unread",
            self.incoming.len()
        );
        self.closed = Some(reset);
    }

    // What the peer does.

    /// Send what fits.
    pub(crate) fn peer_sends(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room - self.incoming.len());
        self.incoming.extend(&bytes[..taken]);
        self.edge.readable |= taken > 0;
        taken
    }

    pub(crate) fn peer_ends(&mut self) {
        self.incoming_end = true;
        self.edge.readable = true;
        self.edge.ended = true;
    }

    pub(crate) fn peer_reads(&mut self, most: usize) -> Vec<u8> {
        let bytes: Vec<u8> = self
            .outgoing
            .drain(..most.min(self.outgoing.len()))
            .collect();
        if self.blocked && self.outgoing.len() <= self.room / 2 {
            self.blocked = false;
            self.edge.writable = true;
        }
        bytes
    }

    /// It failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.error.is_some()
    }

    /// The peer has read everything and the end.
    pub(crate) fn peer_at_end(&self) -> bool {
        self.outgoing.is_empty() && self.outgoing_end
    }
}
