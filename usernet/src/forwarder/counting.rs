//! What goes in and out, counted.

use super::{Forwarder, Kind};
use crate::event::{Event, Output, Payload, Report, Side, Transport};
use crate::stats::{Counter, Counters};

impl Forwarder {
    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn count_event(&mut self, event: &Event<'_>) {
        let counters = &mut self.counters;
        match event {
            Event::Frame { bytes, .. } => {
                counters.count(Counter::Frames);
                counters.count(Counter::FramesToHost);
                counters.add(Counter::FrameBytesToHost, bytes.len() as u64);
            }
            Event::BatchEnd => counters.count(Counter::Rounds),
            Event::Connection { .. } => counters.count(Counter::Connections),
            Event::Ready { .. } => counters.count(Counter::Readiness),
            Event::Written {
                socket,
                result: Ok(len),
                ..
            } => {
                counters.add(Counter::StreamBytesToHost, u64::from(*len));
                self.flows.credit(socket.flow, Side::Host, u64::from(*len));
            }
            Event::Pumped {
                flow, from, moved, ..
            } => {
                let counter = match from {
                    Side::Host => Counter::SplicedToGuest,
                    Side::Guest => Counter::SplicedToHost,
                };
                counters.add(counter, *moved);
                self.flows.credit(*flow, from.other(), *moved);
            }
            Event::Datagrams { .. } => counters.count(Counter::Datagrams),
            Event::Arrivals { .. } => counters.count(Counter::Arrivals),
            Event::Failure { .. } => counters.count(Counter::Failures),
            Event::Timer => counters.count(Counter::Timers),
            Event::Opened { .. }
            | Event::Peeked { .. }
            | Event::Written { .. }
            | Event::Neighbour { .. } => {}
        }
    }

    pub(super) fn count_output(&mut self, output: &Output) {
        let counters = &mut self.counters;
        match output {
            Output::Frame {
                headers, payload, ..
            } => {
                let bytes = headers.as_bytes().len() as u64 + len(payload);
                counters.count(Counter::FramesToGuest);
                counters.add(Counter::FrameBytesToGuest, bytes);
            }
            Output::Discard { socket, len } => {
                counters.add(Counter::StreamBytesToGuest, u64::from(*len));
                self.flows.credit(socket.flow, Side::Guest, u64::from(*len));
            }
            Output::Send {
                socket,
                header,
                data,
                segment,
                ..
            } => {
                let bytes = header.as_bytes().len() as u64 + len(data);
                let datagrams = segment.map_or(1, |size| bytes.div_ceil(u64::from(size.max(1))));
                let (many, much) = match socket.side {
                    Side::Host => (Counter::DatagramsToHost, Counter::DatagramBytesToHost),
                    Side::Guest => (Counter::DatagramsToGuest, Counter::DatagramBytesToGuest),
                };
                counters.add(many, datagrams);
                counters.add(much, bytes);
                self.flows.credit(socket.flow, socket.side, bytes);
            }
            Output::Report(report) => match report {
                Report::Dropped(reason) => counters.count((*reason).into()),
                Report::TableFull { evicted: false, .. } => counters.count(Counter::TableFull),
                Report::TableFull { evicted: true, .. } => {}
                Report::TooMuchKept => counters.count(Counter::TooMuchKept),
                Report::NoSocket { .. } => counters.count(Counter::NoSocket),
                // The shell's own word.
                Report::NoGuestSockets | Report::GuestSocketsLate | Report::NotAccepted { .. } => {}
            },
            Output::Connect { .. }
            | Output::Group { .. }
            | Output::Join { .. }
            | Output::Adopt { .. }
            | Output::Refuse(_)
            | Output::Peek { .. }
            | Output::Write { .. }
            | Output::WriteKept { .. }
            | Output::Shutdown(_)
            | Output::Close { .. }
            | Output::Pump { .. } => {}
        }
    }
}

fn len(payload: &Payload) -> u64 {
    match payload {
        Payload::None => 0,
        Payload::Span(span) => u64::from(span.len),
        Payload::Gather(spans) => spans.iter().map(|span| u64::from(span.len)).sum(),
        Payload::Bytes(bytes) => bytes.len() as u64,
    }
}

/// What can happen to a flow.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fortune {
    Made,
    Ended,
    Evicted,
}

impl Kind {
    pub(super) fn counter(&self, fortune: Fortune) -> Counter {
        use Counter::*;
        let [made, ended, evicted] = match self {
            Self::Tcp(_) => [TcpMade, TcpEnded, TcpEvicted],
            Self::Splice(_) => [SpliceMade, SpliceEnded, SpliceEvicted],
            Self::Relay(_) => [RelayMade, RelayEnded, RelayEvicted],
            Self::Member(_) => [UdpMade, UdpEnded, UdpEvicted],
            Self::Datagram(flow) => match flow.tuple().transport {
                Transport::Echo => [EchoMade, EchoEnded, EchoEvicted],
                Transport::Udp | Transport::Tcp => [UdpMade, UdpEnded, UdpEvicted],
            },
        };
        match fortune {
            Fortune::Made => made,
            Fortune::Ended => ended,
            Fortune::Evicted => evicted,
        }
    }
}
