//! A connection between two sockets, one in each namespace: loopback traffic, which never touches the tap.
//!
//! The shell moves the bytes ([`Output::Pump`]); what is here is when to move them. Readiness is told as edges, once, so
//! each way remembers what it was told: `Way::readable` of the socket it reads and `Way::room` of the one it writes.
//! A pump takes back the one that stopped it, and only that one:
//!
//! | it stopped because | what must happen before the next pump |
//! | --- | --- |
//! | the source said `EAGAIN` ([`PumpStop::Empty`]) | an edge of the source: readable |
//! | the target said `EAGAIN` ([`PumpStop::Full`]) | an edge of the target: writable |
//! | its share was used up | nothing: the next round |
//!
//! No wake-up is lost: an edge that the kernel made after that `EAGAIN` is told after the answer, and sets the mark again;
//! one from before it, told late, costs one pump that moves nothing. The end of a stream is passed on as a shutdown
//! when everything before it was delivered; an error of either socket resets both.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::event::{Errno, FlowId, Output, PumpStop, Readiness, Side, SocketId};
use crate::flow::Class;
use crate::tcp::{Fate, Flushed};

/// One connection.
#[derive(Debug)]
pub struct Splice {
    /// The side whose socket is being connected.
    connecting: Option<Side>,
    began: Side,
    from_host: Way,
    from_guest: Way,
    ends: Option<Ends>,
}

/// Between whom, for who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Who called.
    pub peer: SocketAddr,
    /// Where on the other side that leads.
    pub to: SocketAddr,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// The socket it reads may have bytes or its end.
    readable: bool,
    /// The socket it writes may have room.
    room: bool,
    /// It is over.
    ended: bool,
    /// The shell is asked to move bytes.
    asked: bool,
}

impl Splice {
    /// The socket of `side` is being connected; the other one was accepted.
    #[must_use]
    pub fn new(side: Side) -> Self {
        let way = || Way {
            readable: true,
            room: true,
            ..Way::default()
        };
        Self {
            connecting: Some(side),
            began: side.other(),
            from_host: way(),
            from_guest: way(),
            ends: None,
        }
    }

    /// The same, between these.
    #[must_use]
    pub fn between(self, ends: Ends) -> Self {
        Self {
            ends: Some(ends),
            ..self
        }
    }

    /// The side whose socket was accepted.
    #[must_use]
    pub fn began(&self) -> Side {
        self.began
    }

    /// Between whom, if that was told.
    #[must_use]
    pub fn ends(&self) -> Option<Ends> {
        self.ends
    }

    /// What it does, in a word.
    #[must_use]
    pub fn state(&self) -> &'static str {
        if self.connecting.is_some() {
            "connecting"
        } else if self.from_host.ended || self.from_guest.ended {
            "half-closed"
        } else {
            "open"
        }
    }

    /// The list of the table it belongs to.
    #[must_use]
    pub fn class(&self) -> Class {
        if self.connecting.is_some() {
            Class::HalfOpen
        } else {
            Class::Stream
        }
    }

    /// The side whose socket is being connected, if that is not done.
    #[must_use]
    pub fn connecting(&self) -> Option<Side> {
        self.connecting
    }

    /// A socket changed.
    pub fn ready(&mut self, side: Side, readiness: Readiness, error: Option<Errno>) -> Fate {
        if readiness.failed && error.is_some_and(|error| error.0 != 0) {
            return Fate::Gone;
        }
        if self.connecting == Some(side) {
            if readiness.writable && !readiness.failed {
                self.connecting = None;
            }
            return Fate::Stays;
        }
        if readiness.readable || readiness.ended || readiness.failed || readiness.urgent {
            self.way(side).readable = true;
        }
        if readiness.writable {
            self.way(side.other()).room = true;
        }
        Fate::Stays
    }

    /// What follows from what is known, at the end of a round.
    pub fn flush(&mut self, id: FlowId, out: &mut VecDeque<Output>) -> Flushed {
        if self.connecting.is_some() {
            return Flushed::All;
        }
        for from in [Side::Host, Side::Guest] {
            let way = self.way(from);
            if way.readable && way.room && !way.ended && !way.asked {
                way.asked = true;
                out.push_back(Output::Pump { flow: id, from });
            }
        }
        Flushed::All
    }

    /// The shell moved what it could. `Waits`: it could have moved more.
    pub fn pumped(
        &mut self,
        id: FlowId,
        out: &mut VecDeque<Output>,
        from: Side,
        result: Result<PumpStop, Errno>,
    ) -> (Fate, Flushed) {
        let way = self.way(from);
        way.asked = false;
        let Ok(stopped) = result else {
            return (Fate::Gone, Flushed::All);
        };
        match stopped {
            PumpStop::Empty => way.readable = false,
            PumpStop::Full => way.room = false,
            PumpStop::Share => return (Fate::Stays, Flushed::Waits),
            PumpStop::End => {
                way.ended = true;
                let (flow, side) = (id, from.other());
                out.push_back(Output::Shutdown(SocketId { flow, side }));
            }
        }
        let fate = if self.done() { Fate::Gone } else { Fate::Stays };
        (fate, Flushed::All)
    }

    /// It is over: close both sockets, with a reset unless both directions came to their end.
    pub fn close(&self, id: FlowId, out: &mut VecDeque<Output>) {
        let reset = !self.done();
        for side in [Side::Host, Side::Guest] {
            let socket = SocketId { flow: id, side };
            out.push_back(Output::Close { socket, reset });
        }
    }

    fn done(&self) -> bool {
        self.from_host.ended && self.from_guest.ended
    }

    fn way(&mut self, from: Side) -> &mut Way {
        match from {
            Side::Host => &mut self.from_host,
            Side::Guest => &mut self.from_guest,
        }
    }
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Host => Self::Guest,
            Self::Guest => Self::Host,
        }
    }
}
