//! The sockets that the shell would have, as far as the forwarder can tell: what they have to give, what they take, and
//! whether they are still there. What is asked of a socket that a real kernel would not have is a failure.

use std::collections::BTreeMap;

use usernet::event::{Errno, FlowId, Pending, PumpStop, Side, SocketId, Transport};

use super::choices::Choices;

/// Where in its life a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Being connected.
    Coming,
    /// Connected.
    Open,
    /// The shell could not make it: what is asked of it comes to nothing.
    Never,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) transport: Transport,
    pub(crate) life: Life,
    /// Bytes that the peer sent and that were not discarded.
    pub(crate) incoming: u64,
    /// The peer sends no more.
    pub(crate) ended: bool,
    /// Bytes it takes before it is full.
    pub(crate) room: usize,
    /// It was told to send no more.
    shut: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Kernel {
    sockets: BTreeMap<SocketId, Socket>,
    /// The last generation of each place that was ever seen.
    generations: BTreeMap<u32, u32>,
    pending: BTreeMap<u32, bool>,
    next_pending: u32,
}

const GENERATIONS: u32 = 1 << 24;

impl Kernel {
    /// A connection was accepted.
    pub(crate) fn accept(&mut self) -> Pending {
        self.next_pending += 1;
        self.pending.insert(self.next_pending, true);
        Pending(self.next_pending)
    }

    /// It is adopted or refused, once.
    pub(crate) fn take(&mut self, pending: Pending) {
        let open = self.pending.insert(pending.0, false);
        assert_eq!(open, Some(true), "{pending:?} is not pending");
    }

    /// Accepted connections that nobody has taken.
    pub(crate) fn pending(&self) -> usize {
        self.pending.values().filter(|open| **open).count()
    }

    /// The name begins to mean something.
    pub(crate) fn make(&mut self, id: SocketId, transport: Transport, life: Life) {
        let FlowId { index, generation } = id.flow;
        let before = self.generations.insert(index, generation);
        let next = before.map_or(0, |before| (before + 1) % GENERATIONS);
        let same = before == Some(generation);
        assert!(same || generation == next, "{id:?} after {before:?}");
        let socket = Socket {
            transport,
            life,
            incoming: 0,
            ended: false,
            room: 1 << 16,
            shut: false,
        };
        let old = self.sockets.insert(id, socket);
        assert!(
            old.is_none_or(|old| old.life == Life::Never),
            "{id:?} is made twice"
        );
    }

    /// A socket that may be named.
    pub(crate) fn named(&mut self, id: SocketId) -> &mut Socket {
        let socket = self.sockets.get_mut(&id);
        let socket = socket.unwrap_or_else(|| panic!("{id:?} was never there"));
        assert_ne!(socket.life, Life::Closed, "{id:?} is closed");
        socket
    }

    /// A stream that may be used.
    fn stream(&mut self, id: SocketId) -> &mut Socket {
        let socket = self.named(id);
        assert_eq!(socket.transport, Transport::Tcp, "{id:?}");
        socket
    }

    /// Bytes from `offset` on; none: nothing for now.
    pub(crate) fn peek(&mut self, id: SocketId, offset: u32, max: u32) -> Option<u32> {
        let socket = self.stream(id);
        assert!(max > 0, "{id:?} is asked for nothing");
        let there = socket.incoming.checked_sub(u64::from(offset));
        let there = there.unwrap_or_else(|| panic!("{id:?} peeks behind what was there"));
        let len = u32::try_from(there.min(u64::from(max))).expect("less than max");
        (len > 0 || socket.ended).then_some(len)
    }

    pub(crate) fn discard(&mut self, id: SocketId, len: u32) {
        let socket = self.stream(id);
        assert!(len > 0, "{id:?} discards nothing");
        let left = socket.incoming.checked_sub(u64::from(len));
        socket.incoming = left.unwrap_or_else(|| panic!("{id:?} discards what is not there"));
    }

    /// Bytes taken of `len`.
    pub(crate) fn write(&mut self, id: SocketId, len: usize) -> usize {
        let socket = self.stream(id);
        assert!(!socket.shut, "{id:?} is written to behind its end");
        assert!(len > 0, "{id:?} is written nothing");
        let taken = len.min(socket.room);
        socket.room -= taken;
        taken
    }

    pub(crate) fn shutdown(&mut self, id: SocketId) {
        let socket = self.stream(id);
        assert!(!socket.shut, "{id:?} is ended twice");
        socket.shut = true;
    }

    pub(crate) fn close(&mut self, id: SocketId) {
        self.named(id).life = Life::Closed;
    }

    /// What a transfer may come to.
    pub(crate) fn pump(
        &mut self,
        flow: FlowId,
        from: Side,
        choices: &mut Choices<'_>,
    ) -> (u64, Result<PumpStop, Errno>) {
        for side in [Side::Host, Side::Guest] {
            let life = self.stream(SocketId { flow, side }).life;
            assert_eq!(life, Life::Open, "{flow:?} {side:?}");
        }
        let source = self.stream(SocketId { flow, side: from });
        let ended = source.ended;
        let stopped = match choices.below(6) {
            0 | 1 if ended => PumpStop::End,
            0 | 1 => PumpStop::Empty,
            2 => PumpStop::Full,
            3 if choices.more() => PumpStop::Share,
            4 if choices.more() => return (0, Err(Errno(libc::ECONNRESET))),
            _ => PumpStop::Empty,
        };
        let moved = std::mem::take(&mut source.incoming);
        let to = SocketId {
            flow,
            side: from.other(),
        };
        assert!(!self.stream(to).shut, "{to:?} is written to behind its end");
        (moved, Ok(stopped))
    }

    /// Sockets that are there, in order.
    pub(crate) fn open(&self) -> impl Iterator<Item = (SocketId, &Socket)> {
        self.sockets
            .iter()
            .filter(|(_, socket)| matches!(socket.life, Life::Coming | Life::Open))
            .map(|(id, socket)| (*id, socket))
    }

    /// One of the sockets that are there.
    pub(crate) fn some(&self, choices: &mut Choices<'_>, datagrams: bool) -> Option<SocketId> {
        let fits = |socket: &Socket| (socket.transport != Transport::Tcp) == datagrams;
        let all: Vec<_> = self
            .open()
            .filter(|(_, socket)| fits(socket))
            .map(|(id, _)| id)
            .collect();
        (!all.is_empty()).then(|| choices.pick(&all))
    }

    /// A name that was closed.
    pub(crate) fn some_closed(&self, choices: &mut Choices<'_>) -> Option<SocketId> {
        let all: Vec<_> = self
            .sockets
            .iter()
            .filter(|(id, socket)| {
                socket.life == Life::Closed && !self.open().any(|(other, _)| other.flow == id.flow)
            })
            .map(|(id, _)| *id)
            .collect();
        (!all.is_empty()).then(|| choices.pick(&all))
    }

    /// Forget sockets that were closed long ago, for speed.
    pub(crate) fn tidy(&mut self) {
        while self.sockets.len() > 256 {
            let mut all = self.sockets.iter();
            let Some(id) =
                all.find_map(|(id, socket)| (socket.life == Life::Closed).then_some(*id))
            else {
                return;
            };
            self.sockets.remove(&id);
        }
    }
}
