//! UDP flows, and what echo flows have in common with them.
//!
//! A flow is a pair of endpoints of the guest's view and a connected socket of the host: what the guest sends from its
//! end to the other goes out there, what the socket receives comes back. The first datagram of either side makes it. Of
//! the guest, the socket keeps the source port if the host has it to give ([`crate::sources`]), else the kernel chooses
//! one. Of a listener, the socket has the address that the peer has called, so that answers leave with it.
//!
//! What the guest sends to a group, or to everybody on the link, has a flow as well, whose socket is not connected: who
//! answers is not who was asked. A [`Member`] is a socket that hears a group ([`crate::groups`]).
//!
//! The datagram that makes a flow waits for the socket ([`Flow::opened`]), which is there before the next event.
//! Trains stay trains in both directions: the guest's are sent as one, and datagrams of one size that arrive together
//! become one frame that the guest's kernel cuts ([`crate::event::Segments::Udp`]). Bytes stay in the arena.
//!
//! A datagram of the host's loopback to a published port, and one of the guest's loopback to a forwarded one, does not
//! touch the tap: a [`Relay`] has a socket in each namespace, one with the address that was called.
//!
//! A flow ends when it was not used for a while ([`limits::UDP_TIMEOUT`], [`limits::UDP_STREAM_TIMEOUT`]). Its deadline
//! is not moved at every datagram: when it comes, the flow knows whether it was used.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::addr::{Host, canonical};
use crate::event::{
    Drop, Errno, FlowId, Headers, Lane, Offload, Output, Payload, Segments, Side, SocketId, Span,
    Transport,
};
use crate::flow::Tuple;
use crate::fragments::{self, Datagram};
use crate::limits;
use crate::packet::build::{self, Link};
use crate::packet::{ip, udp};

/// Time to live of a new socket: Linux's default, and that of the guest's packets if nobody asks for another.
const TTL: u8 = 64;

/// That of a new socket for multicast.
const MULTICAST_TTL: u8 = 1;

/// A UDP or an echo flow of the tap.
#[derive(Debug)]
pub struct Flow {
    tuple: Tuple,
    to: Host,
    /// It leads to a group or to everybody.
    group: bool,
    inbound: bool,
    socket: Socket,
    /// What the socket sends with.
    ttl: u8,
    /// Times that the guest and the host have spoken, as far as it matters.
    spoken: (u8, u8),
    used: Instant,
    /// Of the last echo request.
    pub sequence: u16,
    /// Which of the host's links there was when the socket was made.
    pub era: u16,
    /// It carries questions to the host's name servers, and the last one was not answered yet.
    pub asks: Option<bool>,
}

#[derive(Debug)]
enum Socket {
    /// Asked for.
    Coming {
        /// Where it shall be bound; none: by the kernel's choice.
        local: SocketAddr,
        /// Another port would do as well.
        any_port: bool,
        /// Another socket of ours has the port.
        shared: bool,
        /// What to send as soon as it is there.
        waiting: Option<Box<Output>>,
    },
    /// There, with this address.
    Open(SocketAddr),
}

/// What follows from the shell's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The flow lives.
    Fine,
    /// There will be no socket.
    Failed,
}

/// Something of the guest to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    /// What precedes the payload (an echo header).
    pub header: Headers,
    /// The payload.
    pub data: Payload,
    /// It is a train of datagrams of so many bytes.
    pub segment: Option<u16>,
    /// The guest's time to live.
    pub ttl: u8,
}

impl Flow {
    /// The guest's first packet: the other end is called `to` on the host, and `local` would be the best source.
    #[must_use]
    pub fn from_guest(
        now: Instant,
        tuple: Tuple,
        to: Host,
        local: SocketAddr,
        shared: bool,
    ) -> Self {
        Self::new(now, tuple, to, local, (true, shared))
    }

    /// The same, to a group or to everybody.
    #[must_use]
    pub fn to_group(now: Instant, tuple: Tuple, local: SocketAddr, shared: bool) -> Self {
        let to = Host(tuple.far.0);
        let mut flow = Self::from_guest(now, tuple, to, local, shared);
        flow.group = true;
        if to.0.ip().is_multicast() {
            flow.ttl = MULTICAST_TTL;
        }
        flow
    }

    /// Somebody's first datagram to the listening address `local`.
    #[must_use]
    pub fn from_host(now: Instant, tuple: Tuple, peer: Host, local: SocketAddr) -> Self {
        Self::new(now, tuple, peer, local, (false, true))
    }

    fn new(
        now: Instant,
        tuple: Tuple,
        to: Host,
        local: SocketAddr,
        (any_port, shared): (bool, bool),
    ) -> Self {
        Self {
            tuple,
            to,
            group: false,
            inbound: !any_port,
            socket: Socket::Coming {
                local,
                any_port,
                shared,
                waiting: None,
            },
            ttl: TTL,
            spoken: (0, 0),
            used: now,
            sequence: 0,
            era: 0,
            asks: None,
        }
    }

    /// The endpoints as the guest sees them.
    #[must_use]
    pub fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// The other end as the host sees it.
    #[must_use]
    pub fn to(&self) -> Host {
        self.to
    }

    /// Replies leave with this address and port, as far as is known.
    #[must_use]
    pub fn answers_from(&self, local: SocketAddr) -> bool {
        match &self.socket {
            Socket::Coming { local: own, .. } | Socket::Open(own) => {
                (own.ip().is_unspecified() || own.ip() == local.ip()) && own.port() == local.port()
            }
        }
    }

    /// Somebody else began it.
    #[must_use]
    pub fn is_inbound(&self) -> bool {
        self.inbound
    }

    /// It leads to a group or to everybody: anybody may answer.
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.group
    }

    /// Its socket belongs to one link of the host's: groups are there, and addresses that mean nothing elsewhere.
    #[must_use]
    pub fn is_of_a_link(&self) -> bool {
        let local = match self.to.0.ip() {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        self.group || local
    }

    /// The address that others see, once it is known.
    #[must_use]
    pub fn source(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Coming { .. } => None,
            Socket::Open(address) => Some(*address),
        }
    }

    /// Ask for the socket.
    #[must_use]
    pub fn connect(&self, id: FlowId) -> Option<Output> {
        let Socket::Coming { local, shared, .. } = self.socket else {
            return None;
        };
        let (socket, to) = (SocketId::host(id), self.to.0);
        Some(if self.group {
            Output::Group {
                socket,
                local,
                to,
                shared,
            }
        } else {
            Output::Connect {
                socket,
                transport: self.tuple.transport,
                local: Some(local),
                to,
                mss: None,
                shared,
            }
        })
    }

    /// The shell has answered.
    pub fn opened(
        &mut self,
        id: FlowId,
        out: &mut VecDeque<Output>,
        result: Result<SocketAddr, Errno>,
    ) -> Opened {
        let Socket::Coming {
            local,
            any_port,
            shared,
            waiting,
        } = &mut self.socket
        else {
            return Opened::Fine;
        };
        match result {
            Ok(address) => {
                out.extend(waiting.take().map(|waiting| *waiting));
                self.socket = Socket::Open(canonical(address));
                Opened::Fine
            }
            Err(Errno(libc::EACCES | libc::EADDRINUSE)) if *any_port && local.port() != 0 => {
                local.set_port(0);
                *shared = false;
                out.extend(self.connect(id));
                Opened::Fine
            }
            Err(_) => Opened::Failed,
        }
    }

    /// The guest has sent something.
    pub fn send(&mut self, now: Instant, id: FlowId, out: &mut VecDeque<Output>, what: Sending) {
        self.used = now;
        self.spoken.0 = self.spoken.0.saturating_add(1);
        // A socket takes no time to live of zero.
        let ttl = what.ttl.max(1);
        let output = Output::Send {
            socket: SocketId::host(id),
            header: what.header,
            data: what.data,
            segment: what.segment,
            ttl: (ttl != self.ttl).then_some(ttl),
        };
        self.ttl = ttl;
        match &mut self.socket {
            Socket::Open(_) => out.push_back(output),
            Socket::Coming { waiting, .. } => *waiting = Some(Box::new(output)),
        }
    }

    /// Whether both sides have spoken.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.spoken.0.min(self.spoken.1) > 0
    }

    /// Something has arrived for the guest; whether it is the first.
    pub fn heard(&mut self, now: Instant) -> bool {
        self.used = now;
        self.spoken.1 = self.spoken.1.saturating_add(1);
        self.spoken.1 == 1
    }

    /// What the guest's packets last lived for.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    /// When the flow is forgotten if it is not used before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.used + self.timeout()
    }

    fn timeout(&self) -> Duration {
        match self.tuple.transport {
            Transport::Echo => limits::ECHO_TIMEOUT,
            Transport::Udp | Transport::Tcp => timeout(self.spoken),
        }
    }
}

/// By how often both sides have spoken.
fn timeout(spoken: (u8, u8)) -> Duration {
    if spoken.0.min(spoken.1) >= 2 {
        limits::UDP_STREAM_TIMEOUT
    } else {
        limits::UDP_TIMEOUT
    }
}

/// A socket that hears a group.
#[derive(Debug)]
pub struct Member {
    /// The group and the port.
    pub group: SocketAddr,
}

/// A UDP flow between two sockets, one in each namespace.
#[derive(Debug)]
pub struct Relay {
    /// Where the listener is that made it.
    pub listener: Side,
    /// What was called there.
    pub local: SocketAddr,
    /// Who called.
    pub peer: SocketAddr,
    /// Where that leads, in the other namespace.
    pub to: SocketAddr,
    /// What is called there sees the caller's port, unless somebody has it there: none.
    source: Option<SocketAddr>,
    spoken: (u8, u8),
    used: Instant,
}

impl Relay {
    /// Whether both sides have spoken.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.spoken.0.min(self.spoken.1) > 0
    }

    /// Of a listener of this side, that was called at `local` by `peer`, for `to` on the other side.
    #[must_use]
    pub fn new(
        now: Instant,
        listener: Side,
        (local, peer): (SocketAddr, SocketAddr),
        to: SocketAddr,
    ) -> Self {
        let source = SocketAddr::new(to.ip(), peer.port());
        Self {
            listener,
            local,
            peer,
            to,
            // Who is called where it calls from would hear itself.
            source: (source != to).then_some(source),
            spoken: (0, 0),
            used: now,
        }
    }

    /// Ask for the socket of this side.
    #[must_use]
    pub fn connect(&self, socket: SocketId) -> Output {
        let here = socket.side == self.listener;
        let (local, to) = match here {
            true => (Some(self.local), self.peer),
            false => (self.source, self.to),
        };
        Output::Connect {
            socket,
            transport: Transport::Udp,
            local,
            to,
            mss: None,
            shared: here,
        }
    }

    /// There was no such socket. Ask for another one, if a port was what it lacked.
    pub fn connect_again(&mut self, socket: SocketId, error: Errno) -> Option<Output> {
        let lacks = matches!(
            error.0,
            libc::EACCES | libc::EADDRINUSE | libc::EADDRNOTAVAIL
        );
        if socket.side == self.listener || !lacks {
            return None;
        }
        self.source.take()?;
        Some(self.connect(socket))
    }

    /// Datagrams came from this side, at its socket or at the listener: they leave at the other.
    pub fn pass(
        &mut self,
        now: Instant,
        flow: FlowId,
        out: &mut VecDeque<Output>,
        from: Side,
        spans: &[Span],
    ) {
        self.used = now;
        let spoken = match from {
            Side::Guest => &mut self.spoken.0,
            Side::Host => &mut self.spoken.1,
        };
        *spoken = spoken.saturating_add(1);
        let socket = SocketId {
            flow,
            side: from.other(),
        };
        out.extend(spans.iter().map(|&span| Output::Send {
            socket,
            header: Headers::new(),
            data: whole(span),
            segment: None,
            ttl: None,
        }));
    }

    /// When it is forgotten if it is not used before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.used + timeout(self.spoken)
    }
}

/// One datagram as a payload.
fn whole(span: Span) -> Payload {
    match span.len {
        0 => Payload::None,
        _ => Payload::Span(span),
    }
}

/// The way to the guest.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// Where frames go.
    pub out: &'a mut VecDeque<Output>,
    /// The link.
    pub link: Link,
    /// Bytes of an IP packet.
    pub mtu: usize,
    /// The last fragmented datagram's number.
    pub fragment_id: &'a mut u32,
    /// The time to live that the datagrams came with.
    pub ttl: Option<u8>,
}

impl Delivery<'_> {
    pub(crate) fn hop_limit(&self) -> u8 {
        self.ttl.unwrap_or(ip::HOP_LIMIT)
    }

    /// Give the guest datagrams of one peer.
    ///
    /// # Errors
    ///
    /// [`Drop::Malformed`] if some did not fit an IP packet.
    pub fn datagrams(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        spans: &[Span],
        arena: &[u8],
    ) -> Result<(), Drop> {
        let overhead = ip_header(to.ip()).saturating_add(udp::LEN);
        let mut rest = spans;
        let mut result = Ok(());
        while let Some(first) = rest.first() {
            let count = train(rest, overhead, self.mtu);
            let (run, later) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = later;
            if run.len() > 1 {
                self.train(from, to, run, first.len);
            } else if overhead.saturating_add(first.len as usize) <= self.mtu {
                self.whole(from, to, *first);
            } else {
                let cut = self.cut(from, to, *first, arena);
                result = result.and(cut);
            }
        }
        result
    }

    fn train(&mut self, from: SocketAddr, to: SocketAddr, run: &[Span], size: u32) {
        let total = run
            .iter()
            .fold(0, |sum: usize, span| sum.saturating_add(span.len as usize));
        self.out.push_back(Output::Frame {
            headers: build::udp(&self.link, from, to, self.hop_limit(), total),
            payload: gather(run),
            offload: Offload {
                partial_checksum: true,
                segments: Segments::Udp(u16::try_from(size).unwrap_or(u16::MAX)),
            },
            lane: Lane::Common,
        });
    }

    fn whole(&mut self, from: SocketAddr, to: SocketAddr, span: Span) {
        let headers = build::udp(&self.link, from, to, self.hop_limit(), span.len as usize);
        self.out.push_back(Output::Frame {
            headers,
            payload: whole(span),
            offload: Offload {
                partial_checksum: true,
                segments: Segments::One,
            },
            lane: Lane::Common,
        });
    }

    fn cut(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        span: Span,
        arena: &[u8],
    ) -> Result<(), Drop> {
        if span.len as usize > udp::MAX_V4 {
            return Err(Drop::Malformed);
        }
        let bytes = bytes(arena, span).ok_or(Drop::Malformed)?;
        let head = build::udp_header(from, to, &[bytes]);
        self.fragments(from.ip(), to.ip(), ip::UDP, &head, span);
        Ok(())
    }

    pub(crate) fn fragments(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        head: &[u8; 8],
        payload: Span,
    ) {
        *self.fragment_id = self.fragment_id.wrapping_add(1);
        let datagram = Datagram {
            source,
            destination,
            protocol,
            hop_limit: self.hop_limit(),
            head,
            payload,
        };
        fragments::cut(self.out, &self.link, self.mtu, *self.fragment_id, &datagram);
    }
}

/// The bytes of a span.
pub(crate) fn bytes(arena: &[u8], span: Span) -> Option<&[u8]> {
    let rest = arena.get(span.at as usize..)?;
    rest.get(..span.len as usize)
}

/// The length of the IP header to this address.
pub(crate) fn ip_header(to: IpAddr) -> usize {
    match to {
        IpAddr::V4(_) => ip::IPV4_LEN,
        IpAddr::V6(_) => ip::IPV6_LEN,
    }
}

/// How many of these datagrams, from the first on, one frame can hold as a train: all of one size but the last.
fn train(spans: &[Span], overhead: usize, mtu: usize) -> usize {
    let Some((first, rest)) = spans.split_first() else {
        return 0;
    };
    let mut total = overhead.saturating_add(first.len as usize);
    let mut count = 1_usize;
    if first.len == 0 || total > mtu {
        return count;
    }
    for span in rest.iter().take(limits::TRAIN.saturating_sub(1)) {
        total = total.saturating_add(span.len as usize);
        if span.len == 0 || span.len > first.len || total > limits::IP_MAX as usize {
            break;
        }
        count = count.saturating_add(1);
        if span.len < first.len {
            break;
        }
    }
    count
}

/// Spans as a payload: those that lie side by side, as datagrams that were received as a train do, are one.
fn gather(run: &[Span]) -> Payload {
    let mut joined: Option<Span> = None;
    for span in run {
        joined = match joined {
            None => Some(*span),
            Some(before) if before.at.checked_add(before.len) == Some(span.at) => Some(Span {
                at: before.at,
                len: before.len.saturating_add(span.len),
            }),
            Some(_) => return Payload::Gather(run.to_vec()),
        };
    }
    joined.map_or(Payload::None, Payload::Span)
}
