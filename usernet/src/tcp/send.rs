//! Bytes of the host's socket for the guest.
//!
//! ```text
//!   base          una              nxt          max
//!    |  discarded   |   in flight    | sent before |  in the socket, perhaps
//!    |  before long |                | (timed out) |
//! ```
//!
//! Nothing is held here: the socket has every byte from `base` on, and sending or sending again is to peek at an offset
//! from there. What the guest acknowledged is discarded in portions (`Sender::discard`).
//!
//! The guest is at the other end of a queue in memory, so there is no congestion window; what is in flight is bounded by
//! the guest's window alone, except after a timeout, which says that the queue overflows (`Sender::cap`).
//! Three duplicate acknowledgements resend from the first missing byte, and each partial acknowledgement until
//! the end of what was in flight resends again (RFC 6582, without its windows).

use std::time::{Duration, Instant};

use super::seq::Seq;
use crate::limits;

/// One direction of a connection: host to guest.
#[derive(Debug)]
pub(super) struct Sender {
    /// The first number that is not acknowledged.
    pub(super) una: Seq,
    /// What is sent next.
    pub(super) nxt: Seq,
    /// The number behind the last one ever sent.
    pub(super) max: Seq,
    /// The number of the first byte in the socket.
    base: Seq,
    /// What the guest allows beyond `una`, and the most it ever did.
    window: u32,
    largest: u32,
    /// The segment that the window is from (RFC 9293, 3.10.7.4).
    window_seq: Seq,
    window_ack: Seq,
    scale: u8,
    /// The guest's maximum segment size.
    pub(super) mss: u16,
    /// Most bytes of payload in one frame.
    chunk: u32,
    /// The number of our FIN: the end of the stream was seen.
    pub(super) fin: Option<Seq>,
    /// The socket may have more than `max`.
    pub(super) readable: bool,
    /// The socket's peer has ended: what is there is all.
    pub(super) ending: bool,
    /// It had urgent data: what is there may be less than all.
    pub(super) urgent: bool,
    /// The socket is being asked: from where, how much.
    peeking: Option<Peek>,
    peeks: u8,
    /// When what is acknowledged must be discarded, if there is any.
    discard_at: Option<Instant>,
    duplicates: u8,
    recover: Option<Seq>,
    resend: bool,
    /// What may be in flight after a timeout, bytes.
    cap: Option<u32>,
    rtt: Rtt,
    /// Timeouts without progress.
    tries: u8,
    /// When to send again, or to probe the window.
    at: Option<Instant>,
}

/// A question to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peek {
    /// The number of the first byte.
    pub(super) seq: Seq,
    /// From `base`.
    pub(super) offset: u32,
    /// Most bytes.
    pub(super) max: u32,
}

/// What a timer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    /// Nothing.
    Nothing,
    /// Ask the guest for its window.
    Probe,
    /// `nxt` went back: send again.
    Again,
    /// The guest does not answer any more.
    GivenUp,
}

/// What became of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acked {
    /// Fine, new or not.
    Good,
    /// It acknowledges what was never sent, or what was acknowledged longer ago than a window (RFC 5961, 5.2).
    Never,
}

impl Sender {
    /// With this initial number, before the guest's options are known.
    pub(super) fn new(iss: Seq) -> Self {
        Self {
            una: iss,
            nxt: iss,
            max: iss,
            base: iss.plus(1),
            window: 0,
            largest: 0,
            window_seq: Seq(0),
            window_ack: iss,
            scale: 0,
            mss: limits::MSS_MIN,
            chunk: u32::from(limits::MSS_MIN),
            fin: None,
            readable: false,
            ending: false,
            urgent: false,
            peeking: None,
            peeks: 0,
            discard_at: None,
            duplicates: 0,
            recover: None,
            resend: false,
            cap: None,
            rtt: Rtt::new(),
            tries: 0,
            at: None,
        }
    }

    /// The guest's SYN: its segment size, the scale of its windows, and the first of them.
    pub(super) fn begin(&mut self, mss: u16, ip_header: u32, scale: u8, seq: Seq, window: u16) {
        let most = limits::IP_MAX - ip_header - 20;
        self.mss = mss.max(limits::MSS_MIN);
        let cut = u32::from(self.mss);
        self.chunk = (most / cut).max(1) * cut;
        self.chunk = self.chunk.min(most);
        self.scale = scale;
        self.window_seq = seq;
        self.window = u32::from(window);
        self.largest = self.window;
    }

    /// Our SYN was sent: the first time, and again.
    pub(super) fn syn_sent(&mut self, now: Instant) {
        self.nxt = self.una.plus(1);
        self.max = self.nxt;
        if self.tries == 0 {
            self.rtt.start(self.nxt, now);
        } else {
            self.rtt.stop();
        }
        self.at = Some(now + backoff(limits::RTO_FIRST, self.tries));
    }

    /// Our SYN is not answered; false when it has been sent often enough.
    pub(super) fn syn_again(&mut self, now: Instant) -> bool {
        if self.at.is_none_or(|at| at > now) {
            return true;
        }
        self.tries += 1;
        self.tries <= limits::SYN_RETRIES
    }

    /// The SYN's timer has run out.
    pub(super) fn due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// An acknowledgement, with the window of its segment, which has the number `seq` and carries data or not.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        seq: Seq,
        ack: Seq,
        window: u16,
        bare: bool,
    ) -> Acked {
        if ack > self.max || ack < self.una.minus(self.largest.max(1 << 16)) {
            return Acked::Never;
        }
        if ack < self.una {
            return Acked::Good;
        }
        let window = u32::from(window) << self.scale;
        if ack > self.una {
            self.progress(now, ack);
        } else if bare && window == self.window && self.max > self.una {
            self.duplicate();
        }
        let newer = self.window_seq < seq || self.window_seq == seq && self.window_ack <= ack;
        if newer {
            self.update_window(now, seq, ack, window);
        }
        Acked::Good
    }

    /// What the guest does not need any more, if it is worth a system call, or if the socket is about to be closed.
    pub(super) fn discard(&mut self, now: Instant, closing: bool) -> Option<u32> {
        let data_end = self.fin.map_or(self.una, |fin| self.una.min(fin));
        let len = data_end.since(self.base);
        let outstanding = self.max.since(self.base);
        let enough = (outstanding / 4).max(limits::DISCARD_BYTES);
        let often = self.peeks >= limits::DISCARD_PEEKS;
        let late = self.discard_at.is_some_and(|at| at <= now);
        if len == 0 {
            self.discard_at = None;
            return None;
        }
        if !(closing || often || late || len >= enough) {
            return None;
        }
        self.base = self.base.plus(len);
        self.peeks = 0;
        self.discard_at = None;
        Some(len)
    }

    /// The next question for the socket, if there may be something and the guest may have it.
    pub(super) fn ask(&mut self) -> Option<Peek> {
        if self.peeking.is_some() {
            return None;
        }
        let (seq, max) = if self.resend {
            let known = self.known_end().since(self.una);
            let shut = self.window == 0;
            (
                self.una,
                if shut {
                    known.min(u32::from(self.mss))
                } else {
                    known
                },
            )
        } else {
            (self.nxt, self.allowed())
        };
        if max == 0 {
            return None;
        }
        let peek = Peek {
            seq,
            offset: seq.since(self.base),
            max: max.min(self.chunk),
        };
        self.peeking = Some(peek);
        self.peeks = self.peeks.saturating_add(1);
        Some(peek)
    }

    /// It would ask.
    pub(super) fn wants(&self) -> bool {
        self.resend && self.known_end() > self.una || self.allowed() > 0
    }

    /// The socket's answer: so many bytes. Yields the question, and whether the FIN goes with them.
    pub(super) fn answered(&mut self, now: Instant, len: u32) -> Option<(Peek, bool)> {
        let peek = self.peeking.take()?;
        self.resend &= peek.seq != self.una;
        let end = peek.seq.plus(len);
        let all = len < peek.max && (len == 0 || !self.urgent);
        if all && end >= self.max {
            self.readable = false;
            if (self.ending || len == 0) && self.fin.is_none() {
                self.fin = Some(end);
            }
        }
        if len == 0 {
            return None;
        }
        if end > self.max {
            self.rtt.start(end, now);
        } else {
            self.rtt.stop();
        }
        let fin = self.fin == Some(end);
        let end = if fin { end.plus(1) } else { end };
        if peek.seq == self.nxt || self.nxt < end {
            self.nxt = end;
        }
        self.max = self.max.max(end);
        self.arm(now);
        Some((peek, fin))
    }

    /// The socket has nothing for now.
    pub(super) fn nothing(&mut self) {
        let Some(peek) = self.peeking.take() else {
            return;
        };
        self.resend &= peek.seq != self.una;
        self.readable &= peek.seq.plus(peek.max) <= self.max;
    }

    /// The question could not be asked.
    pub(super) fn unasked(&mut self) {
        self.peeking = None;
    }

    /// The FIN goes alone now: its number.
    pub(super) fn take_fin(&mut self, now: Instant) -> Option<Seq> {
        let fin = self.fin?;
        let again = self.resend && self.una == fin;
        let first = self.nxt == fin && self.una.plus(self.window) > fin;
        if self.peeking.is_some() || !(again || first) {
            return None;
        }
        self.resend = false;
        self.nxt = fin.plus(1);
        self.max = self.max.max(self.nxt);
        self.arm(now);
        Some(fin)
    }

    /// The guest has everything, the FIN too.
    pub(super) fn done(&self) -> bool {
        self.fin.is_some_and(|fin| self.una > fin)
    }

    /// Something waits that the window does not allow: watch it.
    pub(super) fn watch(&mut self, now: Instant) {
        let waiting =
            self.readable || self.fin.is_some_and(|fin| self.nxt <= fin) || self.nxt < self.max;
        if self.at.is_none() && waiting && self.allowed() == 0 && self.una == self.nxt {
            self.at = Some(now + self.rtt.timeout());
        }
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.at, self.discard_at) {
            (Some(at), Some(discard)) => Some(at.min(discard)),
            (at, discard) => at.or(discard),
        }
    }

    /// Look again.
    pub(super) fn timer(&mut self, now: Instant) -> Timeout {
        if !self.due(now) {
            return Timeout::Nothing;
        }
        self.tries = self.tries.saturating_add(1);
        let next = now + backoff(self.rtt.timeout(), self.tries);
        if self.window == 0 {
            self.at = Some(next);
            if self.una == self.max {
                return Timeout::Probe;
            }
            // What is in flight was inside a window once, and the guest's word that it is closed may be older than that
            // it is open: only data gets through to a guest that is waiting for them (as Linux does).
            self.resend = true;
            self.rtt.stop();
            return Timeout::Again;
        }
        if self.una == self.max {
            self.at = None;
            self.tries = 0;
            return Timeout::Nothing;
        }
        if self.tries > limits::RETRIES {
            return Timeout::GivenUp;
        }
        self.at = Some(next);
        self.nxt = self.una;
        self.cap = Some(self.chunk.min(4 * u32::from(self.mss)));
        self.recover = None;
        self.resend = false;
        self.duplicates = 0;
        self.rtt.stop();
        Timeout::Again
    }

    /// A connection that is open begins without the timer of its SYN.
    pub(super) fn open(&mut self, now: Instant, ack: Seq) {
        self.progress(now, ack);
    }

    /// Forget timers: the connection only lingers.
    pub(super) fn rest(&mut self) {
        self.at = None;
        self.discard_at = None;
    }

    fn progress(&mut self, now: Instant, ack: Seq) {
        let acked = ack.since(self.una);
        self.rtt.sample(now, ack);
        self.una = ack;
        self.discard_at = (ack > self.base).then(|| now + limits::DISCARD_DELAY);
        self.nxt = self.nxt.max(ack);
        self.tries = 0;
        self.duplicates = 0;
        match self.recover {
            Some(end) if ack < end => self.resend = true,
            _ => {
                self.recover = None;
                self.resend = false;
            }
        }
        self.cap = self
            .cap
            .map(|cap| cap.saturating_add(acked))
            .filter(|&cap| cap < self.largest);
        self.at = (self.una != self.max).then(|| now + self.rtt.timeout());
    }

    fn duplicate(&mut self) {
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates == 3 && self.recover.is_none() {
            self.resend_from_here();
        }
    }

    /// What is in flight is lost.
    fn resend_from_here(&mut self) {
        self.recover = Some(self.max);
        self.resend = true;
        self.rtt.stop();
    }

    fn update_window(&mut self, now: Instant, seq: Seq, ack: Seq, window: u32) {
        if self.window == 0 && window > 0 {
            self.tries = 0;
            self.at = (self.una != self.max).then(|| now + self.rtt.timeout());
            // What was under way when a window closed behind it was thrown away, for want of memory.
            if self.una < self.max && self.recover.is_none() {
                self.resend_from_here();
            }
        }
        self.window = window;
        self.largest = self.largest.max(window);
        self.window_seq = seq;
        self.window_ack = ack;
    }

    /// The end of the bytes that are in the socket for sure.
    fn known_end(&self) -> Seq {
        self.fin.map_or(self.max, |fin| self.max.min(fin))
    }

    /// Bytes that may be asked for from `nxt` on.
    fn allowed(&self) -> u32 {
        let there = if self.readable && self.fin.is_none() {
            u32::MAX
        } else {
            self.known_end().since(self.nxt)
        };
        let limit = self.cap.map_or(self.window, |cap| cap.min(self.window));
        let flying = self.nxt.since(self.una);
        let room = limit.saturating_sub(flying);
        let whole = u32::from(self.mss).min(self.largest / 2);
        if flying > 0 && room < whole && room < there {
            return 0;
        }
        let room = if room > u32::from(self.mss) && room < there {
            room - room % u32::from(self.mss)
        } else {
            room
        };
        room.min(there)
    }

    fn arm(&mut self, now: Instant) {
        if self.at.is_none() {
            self.at = Some(now + backoff(self.rtt.timeout(), self.tries));
        }
    }
}

fn backoff(timeout: Duration, tries: u8) -> Duration {
    timeout
        .saturating_mul(1 << tries.min(16))
        .min(limits::RTO_MAX)
}

/// The round trip to the guest (RFC 6298).
#[derive(Debug)]
struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// The number whose acknowledgement is timed (Karn: not of what was sent twice).
    timed: Option<(Seq, Instant)>,
}

impl Rtt {
    fn new() -> Self {
        Self {
            smoothed: None,
            variation: Duration::ZERO,
            timed: None,
        }
    }

    fn start(&mut self, end: Seq, now: Instant) {
        self.timed.get_or_insert((end, now));
    }

    fn stop(&mut self) {
        self.timed = None;
    }

    fn sample(&mut self, now: Instant, ack: Seq) {
        let Some((_, sent)) = self.timed.filter(|&(end, _)| end <= ack) else {
            return;
        };
        self.timed = None;
        let sample = now.saturating_duration_since(sent);
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variation = sample / 2;
            }
            Some(smoothed) => {
                let difference = smoothed.abs_diff(sample);
                self.variation = (self.variation * 3 + difference) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
    }

    fn timeout(&self) -> Duration {
        let Some(smoothed) = self.smoothed else {
            return limits::RTO_FIRST;
        };
        (smoothed + 4 * self.variation).clamp(limits::RTO_MIN, limits::RTO_MAX)
    }
}
