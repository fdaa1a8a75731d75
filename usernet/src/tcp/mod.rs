//! One TCP connection between the guest, which talks segments, and a socket of the host.
//!
//! # Life
//!
//! ```text
//!   guest's SYN            connection accepted on the host
//!       │ Connect                 │ Adopt, SYN to the guest
//!       ▼                         ▼
//!   Connecting ─────refused──▶  SynSent ──RST or silence──▶ socket reset
//!       │ connected    RST        │ SYN/ACK
//!       ▼                         │
//!   SynReceived ──ACK──▶ Open ◀───┘
//!                          │ both FINs have been seen and acknowledged
//!                          ▼
//!                       Draining, until the socket has everything
//!                          ▼
//!                       Lingering for a moment, longer if our FIN was the first
//! ```
//!
//! The guest gets its SYN/ACK only when the host's connection stands, so that a round trip time or a refusal it measures is
//! the truth. The two directions of an open connection know nothing of each other: `send` carries the socket's bytes
//! to the guest and its end as a FIN, `receive` the guest's bytes to the socket and its FIN as a shutdown. So a
//! connection may stay half-closed for ever. A reset of either side is a reset of the other.
//!
//! # When things are sent
//!
//! Events change the state; [`Tcp::flush`] says what follows from it, at the end of the round. So acknowledgements ride
//! on data, and ten segments that came together are acknowledged once.
//!
//! # What it follows
//!
//! RFC 9293 with 5961 (sequence attacks), 6298 (timer), 7323 (window scale; no timestamps: the guest's round trip is
//! measured with one segment at a time), 6582 (partial acknowledgements). Not implemented: SACK (loss on the tap is an
//! overflow of the guest's queue, rare and in trains), Fast Open, ECN, and that data is urgent: it is data (RFC 6093).

mod receive;
mod send;
pub mod segment;
pub mod seq;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use self::receive::Receiver;
use self::segment::{Reply, Segment};
use self::send::{Acked, Sender, Timeout};
use self::seq::Seq;
use crate::event::{Errno, FlowId, Lane, Output, Payload, Readiness, Side, SocketId, Span};
use crate::flow::{Class, Tuple};
use crate::limits;
use crate::packet::build::Link;
use crate::packet::tcp::Flags;

const FIN: Flags = Flags::FIN;
const SYN: Flags = Flags::SYN;
const RST: Flags = Flags::RST;
const PSH: Flags = Flags::PSH;
const ACK: Flags = Flags::ACK;

/// What a connection may use while it handles an event.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The time.
    pub now: Instant,
    /// The connection's name.
    pub id: FlowId,
    /// What the shell shall do.
    pub out: &'a mut VecDeque<Output>,
    /// The tap.
    pub link: Link,
    /// What all connections share.
    pub shared: &'a mut Shared,
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// Bytes kept ([`limits::KEPT_BYTES`]).
    pub kept: usize,
    /// Bytes that may still be asked for in this round ([`limits::ROUND_BYTES`]).
    pub round: u32,
    /// Of those, what the question of just now took.
    charged: u32,
    /// Challenges sent since `challenged` ([`limits::CHALLENGES`]).
    challenges: u32,
    challenged: Option<Instant>,
    /// Bytes of an IP packet on the tap.
    pub mtu: u32,
}

impl Shared {
    /// Nothing used yet.
    #[must_use]
    pub fn new(mtu: u32) -> Self {
        Self {
            kept: 0,
            round: limits::ROUND_BYTES,
            charged: 0,
            challenges: 0,
            challenged: None,
            mtu,
        }
    }

    /// One more answer to a segment nobody should have sent is fine.
    fn challenge(&mut self, now: Instant) -> bool {
        let fresh = self
            .challenged
            .is_none_or(|since| now.saturating_duration_since(since).as_secs() >= 1);
        if fresh {
            self.challenged = Some(now);
            self.challenges = 0;
        }
        self.challenges += 1;
        self.challenges <= limits::CHALLENGES
    }
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Stays,
    /// It is over: nothing is open any more.
    Gone,
    /// It is over, and the segment begins another one.
    Again,
    /// It goes on without the guest, and the segment begins another one.
    Apart,
}

/// What was said at the end of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Everything.
    All,
    /// A socket is asked: its answer comes first.
    Asked,
    /// This round has no room for more.
    Waits,
}

/// Where in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    SynReceived,
    SynSent,
    Open,
    /// Over for the guest; the socket has not taken everything yet.
    Draining,
    Lingering,
}

/// One connection.
#[derive(Debug)]
pub struct Tcp {
    tuple: Tuple,
    phase: Phase,
    send: Sender,
    receive: Receiver,
    /// Windows are scaled, both ways (RFC 7323, 2.2).
    scaled: bool,
    /// When the guest was last heard.
    heard: Instant,
    /// Keep-alive probes since then.
    asked: u8,
    /// Our FIN said that the guest's had been seen: once it is acknowledged, nothing can come any more.
    last: Option<bool>,
    /// When a connection that lingers is gone.
    until: Option<Instant>,
    /// The guest began it.
    guests: bool,
    /// Something of the guest's was new, or it took something, since somebody asked.
    used: bool,
    looked_for: bool,
}

impl Tcp {
    /// The guest's SYN was seen, and the socket is being connected.
    #[must_use]
    pub fn from_guest(now: Instant, tuple: Tuple, iss: Seq, mtu: u32, syn: &Segment<'_>) -> Self {
        let mut tcp = Self::new(now, tuple, iss, Phase::Connecting);
        tcp.meet(mtu, syn);
        tcp
    }

    /// The host accepted a connection.
    #[must_use]
    pub fn from_host(now: Instant, tuple: Tuple, iss: Seq) -> Self {
        let mut tcp = Self::new(now, tuple, iss, Phase::SynSent);
        tcp.send.readable = true;
        tcp
    }

    /// The guest gets a SYN.
    pub fn begin(&mut self, cx: &mut Cx<'_>) -> Fate {
        self.say_syn(cx);
        Fate::Stays
    }

    fn new(now: Instant, tuple: Tuple, iss: Seq, phase: Phase) -> Self {
        Self {
            tuple,
            phase,
            send: Sender::new(iss),
            receive: Receiver::new(),
            scaled: false,
            heard: now,
            asked: 0,
            last: None,
            until: None,
            guests: phase == Phase::Connecting,
            used: false,
            looked_for: false,
        }
    }

    /// The list of the table it belongs to.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.phase {
            Phase::Connecting | Phase::SynReceived | Phase::SynSent => Class::HalfOpen,
            Phase::Open | Phase::Draining if self.receive.stalled() => Class::Stalled,
            Phase::Open | Phase::Draining => Class::Stream,
            Phase::Lingering => Class::Lingering,
        }
    }

    /// Where in its life, in a word.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Connecting => "connecting",
            Phase::SynReceived | Phase::SynSent => "handshake",
            Phase::Open | Phase::Draining if self.receive.stalled() => "stalled",
            Phase::Open if self.receive.ended() || self.send.fin.is_some() => "half-closed",
            Phase::Open => "open",
            Phase::Draining => "draining",
            Phase::Lingering => "lingering",
        }
    }

    /// It was used since this was last asked: bytes moved, or for a connection that keeps many of them, the socket took
    /// some. Questions whether the guest is still there are no use of a connection, nor are their answers.
    pub fn used(&mut self) -> bool {
        let progressed = self.receive.progressed();
        let used = std::mem::take(&mut self.used);
        progressed || used && self.class() != Class::Stalled
    }

    /// The guest began it.
    #[must_use]
    pub fn is_guests(&self) -> bool {
        self.guests
    }

    /// The two ends as the guest sees them.
    #[must_use]
    pub fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// Whether the guest's end of it may have said this: what it sends is near what is expected, and so is what it
    /// acknowledges. A segment of before counts, since the answer to it may have been lost.
    #[must_use]
    pub fn may_have_said(&self, segment: &Segment<'_>) -> bool {
        let near = |a: Seq, b: Seq| a.since(b).max(b.since(a)) <= limits::WINDOW_MAX;
        let answers = segment.has(ACK) && near(segment.ack, self.send.max);
        match self.phase {
            Phase::Connecting => segment.opens(),
            Phase::SynSent => answers,
            Phase::SynReceived if segment.opens() => near(segment.seq, self.receive.next),
            Phase::SynReceived | Phase::Open | Phase::Draining | Phase::Lingering => {
                answers && near(segment.seq, self.receive.next)
            }
        }
    }

    /// The guest has not answered: every other time it is asked, it is to be looked for elsewhere.
    #[must_use]
    pub fn is_looked_for(&self) -> bool {
        self.looked_for
    }

    /// Another connection may take its endpoints, because it is over for the guest: what becomes of it then.
    #[must_use]
    pub fn replaceable(&self) -> Option<Fate> {
        match self.phase {
            Phase::Draining => Some(Fate::Apart),
            Phase::Lingering => Some(Fate::Again),
            Phase::Connecting | Phase::SynReceived | Phase::SynSent | Phase::Open => None,
        }
    }

    /// Bytes that are kept for the socket, in order or not yet.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.receive.held()
    }

    /// When to look at it again.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let alive = match self.phase {
            Phase::Open => Some(self.heard + limits::KEEPALIVE * (u32::from(self.asked) + 1)),
            Phase::Connecting
            | Phase::SynReceived
            | Phase::SynSent
            | Phase::Draining
            | Phase::Lingering => None,
        };
        let times = [
            alive,
            self.until,
            self.send.deadline(),
            self.receive.deadline(),
        ];
        times.into_iter().flatten().min()
    }

    /// The guest said something.
    pub fn segment(&mut self, cx: &mut Cx<'_>, segment: &Segment<'_>) -> Fate {
        self.heard = cx.now;
        self.asked = 0;
        self.looked_for = false;
        let before = self.send.una;
        let fate = match self.phase {
            Phase::Connecting => self.while_connecting(cx, segment),
            Phase::SynSent => self.while_syn_sent(cx, segment),
            Phase::SynReceived => self.while_syn_received(cx, segment),
            Phase::Open => self.while_open(cx, segment),
            Phase::Draining | Phase::Lingering => self.while_over(cx, segment),
        };
        self.used |= !segment.is_empty() || self.send.una != before;
        fate
    }

    /// The number of the guest's SYN.
    #[must_use]
    pub fn syn(&self) -> Seq {
        self.receive.next.before()
    }

    /// The guest gets a reset for its SYN.
    pub fn refuse(&mut self, cx: &mut Cx<'_>) {
        self.say(cx, self.send.una, RST | ACK);
    }

    /// The socket is connected, readable, writable, ended or broken.
    pub fn ready(&mut self, cx: &mut Cx<'_>, readiness: Readiness, error: Option<Errno>) -> Fate {
        let broken = readiness.failed && error.is_some_and(|error| error.0 != 0);
        if self.phase == Phase::Lingering {
            return Fate::Stays;
        }
        if broken {
            return self.abort(cx);
        }
        self.send.ending |= readiness.ended || readiness.failed;
        self.send.urgent |= readiness.urgent;
        self.send.readable |= readiness.readable || readiness.ended || readiness.failed;
        if !readiness.writable {
            return Fate::Stays;
        }
        if self.phase == Phase::Connecting {
            self.phase = Phase::SynReceived;
            self.send.readable = true;
            self.say_syn(cx);
        } else {
            self.receive.writable(cx);
        }
        self.settle(cx)
    }

    /// The socket's connection is not yet known to stand or fail.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// The socket's answer to a question.
    pub fn peeked(&mut self, cx: &mut Cx<'_>, result: Result<Span, Errno>) -> Fate {
        let charged = std::mem::take(&mut cx.shared.charged);
        let span = match result {
            Ok(span) => span,
            Err(error) if is_later(error) => {
                cx.shared.round += charged;
                self.send.nothing();
                return Fate::Stays;
            }
            Err(Errno(libc::ENOBUFS)) => {
                cx.shared.round = 0;
                self.send.unasked();
                return Fate::Stays;
            }
            Err(_) => return self.abort(cx),
        };
        // What was not there leaves the round to others.
        cx.shared.round += charged.saturating_sub(span.len);
        let Some((peek, fin)) = self.send.answered(cx.now, span.len) else {
            return Fate::Stays;
        };
        let span = Span {
            len: span.len.min(peek.max),
            ..span
        };
        let flags = if fin { self.fin_flags() } else { ACK | PSH };
        let reply = self.reply(cx, peek.seq, flags, span.len);
        let (headers, offload) = reply.build(&cx.link);
        cx.out.push_back(Output::Frame {
            headers,
            payload: Payload::Span(span),
            offload,
            lane: Lane::Steady,
        });
        Fate::Stays
    }

    /// The socket took so many bytes, and left the rest.
    pub fn written(&mut self, cx: &mut Cx<'_>, result: Result<u32, Errno>, rest: &[u8]) -> Fate {
        match result {
            Ok(taken) => self.receive.written(cx, taken, rest),
            Err(error) if is_later(error) => self.receive.written(cx, 0, rest),
            Err(_) => return self.abort(cx),
        }
        self.settle(cx)
    }

    /// Acknowledge once more what was acknowledged.
    pub fn again(&mut self, cx: &mut Cx<'_>) -> Fate {
        if self.phase == Phase::Open {
            self.say(cx, self.send.nxt, ACK);
        }
        Fate::Stays
    }

    /// A deadline may have passed.
    pub fn timer(&mut self, cx: &mut Cx<'_>) -> Fate {
        match self.phase {
            Phase::Connecting => return Fate::Stays,
            Phase::SynReceived | Phase::SynSent => return self.syn_timer(cx),
            Phase::Lingering if self.until.is_some_and(|until| until <= cx.now) => {
                return Fate::Gone;
            }
            Phase::Open | Phase::Draining | Phase::Lingering => {}
        }
        self.receive.timer(cx.now);
        self.discard(cx);
        match self.send.timer(cx.now) {
            Timeout::Nothing => {}
            Timeout::Again => self.looked_for = !self.looked_for,
            Timeout::Probe => {
                self.looked_for = !self.looked_for;
                self.probe(cx);
            }
            Timeout::GivenUp => return self.abort(cx),
        }
        let silence = cx.now.saturating_duration_since(self.heard);
        if self.phase == Phase::Open && silence >= limits::KEEPALIVE * (u32::from(self.asked) + 1) {
            if self.asked >= limits::KEEPALIVE_TRIES {
                return self.abort(cx);
            }
            self.asked += 1;
            self.looked_for = !self.looked_for;
            self.probe(cx);
        }
        Fate::Stays
    }

    /// Say what there is to say at the end of a round.
    pub fn flush(&mut self, cx: &mut Cx<'_>) -> Flushed {
        if matches!(
            self.phase,
            Phase::Connecting | Phase::SynReceived | Phase::SynSent
        ) {
            return Flushed::All;
        }
        let spent = cx.shared.round == 0;
        self.discard(cx);
        if self.phase == Phase::Open
            && !spent
            && let Some(peek) = self.send.ask()
        {
            cx.shared.charged = peek.max.min(cx.shared.round);
            cx.shared.round -= cx.shared.charged;
            cx.out.push_back(Output::Peek {
                socket: SocketId::host(cx.id),
                offset: peek.offset,
                max: peek.max,
            });
            return Flushed::Asked;
        }
        if let Some(fin) = self.send.take_fin(cx.now) {
            let flags = self.fin_flags();
            self.say(cx, fin, flags);
        }
        // Behind our own end nothing follows that could carry the acknowledgement of the guest's.
        let last = self.last.is_some() && self.receive.untold();
        if last || self.receive.due(cx.now, cx.shared.kept) {
            self.say(cx, self.send.nxt, ACK);
        }
        if self.phase != Phase::Open {
            return Flushed::All;
        }
        self.send.watch(cx.now);
        if spent && self.send.wants() {
            Flushed::Waits
        } else {
            Flushed::All
        }
    }

    /// The socket may forget what the guest has, if that is worth a call by now.
    fn discard(&mut self, cx: &mut Cx<'_>) {
        if self.phase == Phase::Open
            && let Some(len) = self.send.discard(cx.now, false)
        {
            let socket = SocketId::host(cx.id);
            cx.out.push_back(Output::Discard { socket, len });
        }
    }

    /// End it here and now, because of us: both sides are reset.
    pub fn abort(&mut self, cx: &mut Cx<'_>) -> Fate {
        if !matches!(self.phase, Phase::Draining | Phase::Lingering) {
            self.say(cx, self.send.max, RST | ACK);
        }
        self.close(cx, true);
        Fate::Gone
    }

    fn while_connecting(&mut self, cx: &mut Cx<'_>, segment: &Segment<'_>) -> Fate {
        if segment.has(RST) && segment.seq == self.receive.next {
            self.close(cx, true);
            return Fate::Gone;
        }
        // The guest's SYN again is swallowed; another one replaces it, for the same destination.
        if segment.opens() {
            self.meet(cx.shared.mtu, segment);
        }
        Fate::Stays
    }

    fn while_syn_sent(&mut self, cx: &mut Cx<'_>, segment: &Segment<'_>) -> Fate {
        let ours = segment.ack == self.send.max;
        if segment.has(ACK) && !ours {
            if !segment.has(RST) {
                self.say_reset(cx, segment.ack);
            }
            return Fate::Stays;
        }
        if segment.has(RST) {
            if !segment.has(ACK) {
                return Fate::Stays;
            }
            self.close(cx, true);
            return Fate::Gone;
        }
        if !segment.has(SYN) {
            return Fate::Stays;
        }
        self.meet(cx.shared.mtu, segment);
        if segment.has(ACK) {
            self.send.open(cx.now, segment.ack);
            self.phase = Phase::Open;
        } else {
            // Simultaneous open (RFC 9293, 3.5): our SYN again, now with an acknowledgement.
            self.phase = Phase::SynReceived;
            self.say_syn(cx);
        }
        Fate::Stays
    }

    fn while_syn_received(&mut self, cx: &mut Cx<'_>, segment: &Segment<'_>) -> Fate {
        if segment.has(SYN) && !segment.has(RST) && segment.seq.plus(1) == self.receive.next {
            if segment.has(ACK) && segment.ack == self.send.max {
                self.send.open(cx.now, segment.ack);
                self.phase = Phase::Open;
            } else {
                self.say_syn(cx);
            }
            return Fate::Stays;
        }
        if !self.receive.acceptable(segment.seq, segment.len()) {
            if !segment.has(RST) {
                self.say_syn(cx);
            }
            return Fate::Stays;
        }
        if segment.has(RST) {
            if segment.seq != self.receive.next {
                self.challenge(cx);
                return Fate::Stays;
            }
            self.close(cx, true);
            return Fate::Gone;
        }
        if segment.has(SYN) || !segment.has(ACK) {
            return Fate::Stays;
        }
        if segment.ack != self.send.max {
            self.say_reset(cx, segment.ack);
            return Fate::Stays;
        }
        self.send.open(cx.now, segment.ack);
        self.phase = Phase::Open;
        self.while_open(cx, segment)
    }

    fn while_open(&mut self, cx: &mut Cx<'_>, segment: &Segment<'_>) -> Fate {
        if !self.acceptable(segment) {
            self.unacceptable(cx, segment);
            return Fate::Stays;
        }
        if segment.has(RST) {
            if segment.seq != self.receive.next {
                self.challenge(cx);
                return Fate::Stays;
            }
            self.close(cx, true);
            return Fate::Gone;
        }
        if segment.has(SYN) {
            self.challenge(cx);
            return Fate::Stays;
        }
        if !segment.has(ACK) {
            return Fate::Stays;
        }
        let (seq, ack, window) = (segment.seq, segment.ack, segment.window);
        let bare = segment.is_empty();
        if self.send.acknowledged(cx.now, seq, ack, window, bare) == Acked::Never {
            self.challenge(cx);
            return Fate::Stays;
        }
        if !bare && !self.receive.ended() {
            let (payload, at) = (segment.payload, segment.at);
            self.receive.data(cx, seq, payload, at, segment.has(FIN));
        }
        self.settle(cx)
    }

    /// The guest has everything and said everything: only its last FIN may come again, or its next connection.
    fn while_over(&mut self, cx: &mut Cx<'_>, segment: &Segment<'_>) -> Fate {
        if segment.opens() && segment.seq > self.receive.next {
            return self.replaceable().unwrap_or(Fate::Stays);
        }
        if !segment.has(RST) && !segment.is_empty() {
            self.unacceptable(cx, segment);
        }
        Fate::Stays
    }

    /// In the window, or good enough for its acknowledgement when there is none.
    fn acceptable(&self, segment: &Segment<'_>) -> bool {
        self.receive.acceptable(segment.seq, segment.len())
            || segment.payload.is_empty() && self.receive.closed_window(segment.seq)
    }

    fn unacceptable(&mut self, cx: &mut Cx<'_>, segment: &Segment<'_>) {
        if segment.has(RST) {
            return;
        }
        if self.receive.closed_window(segment.seq) && segment.has(ACK) {
            let (seq, ack, window) = (segment.seq, segment.ack, segment.window);
            self.send.acknowledged(cx.now, seq, ack, window, false);
        }
        if !segment.is_empty() && !segment.has(SYN) || cx.shared.challenge(cx.now) {
            self.receive.acknowledge(cx.now);
        }
    }

    /// Both directions at their ends: close the socket.
    fn settle(&mut self, cx: &mut Cx<'_>) -> Fate {
        if self.phase == Phase::Open && self.send.done() && self.receive.ended() {
            self.phase = Phase::Draining;
            self.send.rest();
            if self.receive.untold() {
                self.say(cx, self.send.nxt, ACK);
            }
        }
        if self.phase != Phase::Draining || !self.receive.done() {
            return Fate::Stays;
        }
        self.close(cx, false);
        let linger = match self.last {
            Some(true) => limits::LINGER_SHORT,
            _ => limits::LINGER,
        };
        self.phase = Phase::Lingering;
        self.until = Some(cx.now + linger);
        Fate::Stays
    }

    /// Close the socket. Unread bytes would make the kernel send a reset instead of a FIN.
    fn close(&mut self, cx: &mut Cx<'_>, reset: bool) {
        if self.phase == Phase::Lingering {
            return;
        }
        let socket = SocketId::host(cx.id);
        if !reset && let Some(len) = self.send.discard(cx.now, true) {
            cx.out.push_back(Output::Discard { socket, len });
        }
        cx.out.push_back(Output::Close { socket, reset });
        self.receive.release(cx);
    }

    fn syn_timer(&mut self, cx: &mut Cx<'_>) -> Fate {
        if !self.send.due(cx.now) {
            return Fate::Stays;
        }
        if !self.send.syn_again(cx.now) {
            self.close(cx, true);
            return Fate::Gone;
        }
        self.looked_for = !self.looked_for;
        self.say_syn(cx);
        Fate::Stays
    }

    /// The guest's SYN: what it says of itself. It may take larger segments than fit the link.
    fn meet(&mut self, mtu: u32, syn: &Segment<'_>) {
        let (v4, v6) = limits::MSS_DEFAULT;
        let (default, ip_header) = match self.tuple.guest.0 {
            SocketAddr::V4(_) => (v4, 20),
            SocketAddr::V6(_) => (v6, 40),
        };
        let fits = u16::try_from(mtu.saturating_sub(ip_header + 20)).unwrap_or(u16::MAX);
        let mss = syn.mss.unwrap_or(default);
        let scale = syn.scale.unwrap_or(0);
        // It may take less than it sends, up to what we have announced.
        let largest = mss.max(fits);
        self.receive
            .begin(syn.seq, syn.scale.is_some(), mss, largest);
        self.send
            .begin(mss.min(fits), ip_header, scale, syn.seq, syn.window);
        self.scaled = syn.scale.is_some();
    }

    fn say_syn(&mut self, cx: &mut Cx<'_>) {
        let ip_header = if self.tuple.guest.0.is_ipv4() { 20 } else { 40 };
        let mss = cx.shared.mtu.clamp(576, limits::IP_MAX) - ip_header - 20;
        let first = self.phase == Phase::SynSent;
        let (ack, window) = if first {
            (Seq(0), u16::MAX)
        } else {
            self.receive.tell_first()
        };
        let mut reply = self.bare(self.send.una, ack, if first { SYN } else { SYN | ACK });
        reply.window = window;
        reply.mss = u16::try_from(mss).ok();
        reply.scale = (first || self.scaled).then_some(limits::WINDOW_SCALE);
        self.send.syn_sent(cx.now);
        put(cx, &reply, Lane::Steady);
    }

    /// Say what only a guest that has forgotten us, or one whose window opened, answers with more than we know.
    fn probe(&mut self, cx: &mut Cx<'_>) {
        self.say(cx, self.send.una.before(), ACK);
    }

    /// Our FIN goes, alone or behind data.
    fn fin_flags(&mut self) -> Flags {
        let ended = self.receive.ended();
        self.last.get_or_insert(ended);
        FIN | ACK | PSH
    }

    fn challenge(&mut self, cx: &mut Cx<'_>) {
        if cx.shared.challenge(cx.now) {
            self.receive.acknowledge(cx.now);
        }
    }

    fn say(&mut self, cx: &mut Cx<'_>, seq: Seq, flags: Flags) {
        let lane = self.lane();
        let reply = self.reply(cx, seq, flags, 0);
        put(cx, &reply, lane);
    }

    fn say_reset(&self, cx: &mut Cx<'_>, seq: Seq) {
        put(cx, &self.bare(seq, Seq(0), RST), Lane::Last);
    }

    /// Who is only called to order is not under way.
    fn lane(&self) -> Lane {
        if self.receive.astray() {
            Lane::Last
        } else {
            Lane::Steady
        }
    }

    fn reply(&mut self, cx: &Cx<'_>, seq: Seq, flags: Flags, len: u32) -> Reply {
        let (ack, window) = self.receive.tell(cx.shared.kept);
        let mut reply = self.bare(seq, ack, flags);
        reply.window = window;
        reply.len = len;
        reply
    }

    fn bare(&self, seq: Seq, ack: Seq, flags: Flags) -> Reply {
        Reply {
            from: self.tuple.far.0,
            to: self.tuple.guest.0,
            seq,
            ack,
            flags,
            window: 0,
            mss: None,
            scale: None,
            len: 0,
            cut: self.send.mss,
        }
    }
}

fn put(cx: &mut Cx<'_>, reply: &Reply, lane: Lane) {
    let (headers, offload) = reply.build(&cx.link);
    cx.out.push_back(Output::Frame {
        headers,
        payload: Payload::None,
        offload,
        lane,
    });
}

/// The reset for a segment that belongs to no connection (RFC 9293, 3.10.7.1); none for a reset.
#[must_use]
pub fn reset_for(tuple: &Tuple, segment: &Segment<'_>) -> Option<Reply> {
    if segment.has(RST) {
        return None;
    }
    let (seq, ack, flags) = if segment.has(ACK) {
        (segment.ack, Seq(0), RST)
    } else {
        (Seq(0), segment.seq.plus(segment.len()), RST | ACK)
    };
    Some(Reply {
        from: tuple.far.0,
        to: tuple.guest.0,
        seq,
        ack,
        flags,
        window: 0,
        mss: None,
        scale: None,
        len: 0,
        cut: u16::MAX,
    })
}

/// `EAGAIN` or `EINTR`: nothing is wrong.
fn is_later(error: Errno) -> bool {
    matches!(error.0, libc::EAGAIN | libc::EINTR)
}

impl SocketId {
    /// The socket of a flow on the host side.
    #[must_use]
    pub fn host(flow: FlowId) -> Self {
        Self {
            flow,
            side: Side::Host,
        }
    }
}
