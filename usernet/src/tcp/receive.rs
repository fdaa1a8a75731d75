//! Bytes of the guest for the host's socket.
//!
//! What comes in order is written to the socket at once, from where the frame lies. What the socket does not take, and
//! what is written behind it, is kept and written when the socket says that it has room; what came too early waits in
//! `Receiver::gaps`. Both are bounded by the window that was promised, and all flows together by
//! [`limits::KEPT_BYTES`].
//!
//! The window is what the guest may be ahead of the *socket*: it slides as the socket takes bytes, grows while it takes
//! all, shrinks when it does not, and its right edge never moves left (RFC 9293, 3.8.6).

use std::collections::VecDeque;
use std::time::Instant;

use super::Cx;
use super::seq::Seq;
use crate::event::{Output, SocketId, Span};
use crate::limits;

/// One direction of a connection: guest to host.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The next number that we expect.
    pub(super) next: Seq,
    /// The right edge of the window: the guest may have what lies before it on its way.
    edge: Seq,
    /// The edge as the guest was told it last: rounded down to units of the scale, it may lie before the other.
    told: Seq,
    /// The last acknowledgement that the guest was told.
    acked: Seq,
    /// What is promised beyond what the socket took, bytes.
    promise: u32,
    /// Bytes the socket took since the promise changed.
    smooth: u32,
    /// The scale of our windows; 0 if the guest has none.
    scale: u8,
    /// Two full segments, or [`limits::ACK_BYTES`] if that is less.
    ack_bytes: u32,
    /// A window below this may keep the guest from sending: one of its segments, or more.
    little: u32,
    /// The number of the guest's FIN.
    fin: Option<Seq>,
    /// It has been reached.
    ended: bool,
    /// The socket was told.
    shut: bool,
    /// The socket said that it is full.
    full: bool,
    /// Bytes that the socket is being asked to take, and whether they were kept ones.
    writing: Option<(u32, bool)>,
    kept: VecDeque<Vec<u8>>,
    kept_len: u32,
    /// Segments that came too early, by number; they do not overlap.
    gaps: VecDeque<(Seq, Vec<u8>)>,
    ack_now: bool,
    /// The last that came was none of what we expect.
    astray: bool,
    /// How many such have come since the first of them ([`limits::STRAY_TIME`]).
    strays: u8,
    strays_since: Option<Instant>,
    ack_at: Option<Instant>,
    /// The socket took something since somebody asked.
    progressed: bool,
}

impl Receiver {
    /// Before the guest's SYN is known.
    pub(super) fn new() -> Self {
        Self {
            next: Seq(0),
            edge: Seq(0),
            told: Seq(0),
            acked: Seq(0),
            promise: limits::WINDOW_START,
            smooth: 0,
            scale: 0,
            ack_bytes: limits::ACK_BYTES,
            little: limits::WINDOW_LITTLE,
            fin: None,
            ended: false,
            shut: false,
            full: false,
            writing: None,
            kept: VecDeque::new(),
            kept_len: 0,
            gaps: VecDeque::new(),
            ack_now: false,
            astray: false,
            strays: 0,
            strays_since: None,
            ack_at: None,
            progressed: false,
        }
    }

    /// The guest's SYN had this number, and allows our windows to be scaled or not; it takes segments of `mss` bytes and
    /// sends none of more than `largest`.
    pub(super) fn begin(&mut self, irs: Seq, scaled: bool, mss: u16, largest: u16) {
        self.next = irs.plus(1);
        self.acked = irs;
        self.scale = if scaled { limits::WINDOW_SCALE } else { 0 };
        self.ack_bytes = limits::ACK_BYTES.min(2 * u32::from(mss));
        self.little = limits::WINDOW_LITTLE.max(largest.into());
        self.edge = self.next.plus(self.promise.min(0xffff));
        self.told = self.edge;
        self.ack_now = true;
    }

    /// Everything the guest had to say is in the socket.
    pub(super) fn done(&self) -> bool {
        self.shut
    }

    /// The guest's FIN has been seen in order.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// A segment of so many numbers may be looked at (RFC 9293, 3.10.7.4). One without any may lie at the edge itself, where
    /// a guest is that has used its window.
    pub(super) fn acceptable(&self, seq: Seq, len: u32) -> bool {
        let window = self.edge.since(self.next);
        let inside = |seq: Seq| seq >= self.next && seq.since(self.next) < window;
        match (len, window) {
            (0, _) => seq >= self.next && seq.since(self.next) <= window,
            (_, 0) => false,
            (len, _) => {
                inside(seq)
                    || inside(seq.plus(len - 1))
                    || seq < self.next && seq.plus(len - 1) >= self.next
            }
        }
    }

    /// The guest may be ahead by nothing.
    pub(super) fn closed_window(&self, seq: Seq) -> bool {
        seq == self.next && self.edge == self.next
    }

    /// Say again what we expect, to somebody who sent none of it.
    pub(super) fn acknowledge(&mut self, now: Instant) {
        self.ack_now = true;
        self.astray = true;
        let recent = self
            .strays_since
            .is_some_and(|since| now.saturating_duration_since(since) < limits::STRAY_TIME);
        if !recent {
            (self.strays, self.strays_since) = (0, Some(now));
        }
        self.strays = self.strays.saturating_add(1);
    }

    /// Nothing but what we do not expect has come since the guest was last told what we do, and much of it of late.
    pub(super) fn astray(&self) -> bool {
        let many = self.strays >= limits::STRAYS;
        many && self.astray && self.acked == self.next && self.gaps.is_empty()
    }

    /// Payload of an acceptable segment, and whether the guest ends behind it.
    pub(super) fn data(&mut self, cx: &mut Cx<'_>, seq: Seq, payload: &[u8], at: u32, fin: bool) {
        let len = u32::try_from(payload.len()).unwrap_or(0);
        if fin && self.fin.is_none() && seq.plus(len) >= self.next {
            self.fin = Some(seq.plus(len));
        }
        let skip = self.next.since(seq).min(len);
        let end = self.end_of(seq.plus(len));
        let first = seq.plus(skip);
        let take = end.since(first);
        if take < len || first > self.next {
            self.ack_now = true;
        }
        let range = skip as usize..(skip + take) as usize;
        let bytes = payload.get(range).unwrap_or_default();
        if first > self.next {
            self.keep_gap(cx, first, bytes);
        } else if !bytes.is_empty() {
            self.in_order(cx, bytes, at.wrapping_add(skip));
        }
        if self.writing.is_none() {
            self.proceed(cx);
        }
    }

    /// The socket took so many bytes and left the rest.
    pub(super) fn written(&mut self, cx: &mut Cx<'_>, taken: u32, rest: &[u8]) {
        let Some((_, kept)) = self.writing.take() else {
            return;
        };
        self.progressed |= taken > 0;
        if !kept {
            self.next = self.next.plus(taken);
        }
        if rest.is_empty() {
            self.took_all(taken);
        } else {
            self.full = true;
            self.smooth = 0;
            self.promise = (self.promise / 2).max(limits::WINDOW_START);
            if kept {
                self.count(cx, rest.len());
                self.kept.push_front(rest.to_vec());
            } else {
                self.keep(cx, rest);
            }
        }
        self.proceed(cx);
    }

    /// The socket has room.
    pub(super) fn writable(&mut self, cx: &mut Cx<'_>) {
        self.full = false;
        if self.writing.is_none() {
            self.proceed(cx);
        }
    }

    /// Much is kept, and the socket takes nothing, or the guest does not say what is missing.
    pub(super) fn stalled(&self) -> bool {
        (self.full || !self.gaps.is_empty()) && self.held() >= limits::STALLED_BYTES
    }

    /// The socket took something since this was last asked.
    pub(super) fn progressed(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// Bytes that are kept, in order or not yet.
    pub(super) fn held(&self) -> usize {
        let gaps: usize = self.gaps.iter().map(|(_, bytes)| bytes.len()).sum();
        gaps + self.kept_len as usize
    }

    /// What is kept is forgotten.
    pub(super) fn release(&mut self, cx: &mut Cx<'_>) {
        cx.shared.kept -= self.held();
        self.gaps.clear();
        self.kept.clear();
        self.kept_len = 0;
    }

    /// Something must be said to the guest now; if only later, remember when.
    pub(super) fn due(&mut self, now: Instant, kept: usize) -> bool {
        let waiting = self.next.since(self.acked);
        if self.ack_now || waiting >= self.ack_bytes || self.opened(kept) {
            return true;
        }
        if waiting > 0 && self.ack_at.is_none() {
            self.ack_at = Some(now + limits::ACK_DELAY);
        }
        false
    }

    /// Something that the guest was not told is here.
    pub(super) fn untold(&self) -> bool {
        self.ack_now || self.next != self.acked
    }

    /// When the acknowledgement may wait no longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ack_at
    }

    /// That time has come.
    pub(super) fn timer(&mut self, now: Instant) {
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_at = None;
            self.ack_now = true;
        }
    }

    /// A segment goes out: its acknowledgement and window.
    pub(super) fn tell(&mut self, kept: usize) -> (Seq, u16) {
        self.ack_now = false;
        self.astray = false;
        self.ack_at = None;
        self.acked = self.next;
        let target = self.target(kept);
        let edge = target.max(self.edge);
        let left = edge.since(self.next);
        let unit = 1 << self.scale;
        // Rounded up, so that the edge does not seem to move left; but a guest of tiny segments would push it ahead of
        // it with each of them, so not for ever (RFC 7323, 2.4).
        let units = if edge.since(target) < limits::WINDOW_START / 4 {
            left.div_ceil(unit)
        } else {
            left / unit
        };
        let window = u16::try_from(units).unwrap_or(u16::MAX);
        self.told = self.next.plus(u32::from(window) << self.scale);
        self.edge = self.edge.max(self.told);
        (self.next, window)
    }

    /// The window of our SYN, which is never scaled.
    pub(super) fn tell_first(&mut self) -> (Seq, u16) {
        self.ack_now = false;
        self.acked = self.next;
        (self.next, u16::MAX)
    }

    fn in_order(&mut self, cx: &mut Cx<'_>, bytes: &[u8], at: u32) {
        if self.full || !self.kept.is_empty() {
            self.keep(cx, bytes);
            return;
        }
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        self.writing = Some((len, false));
        cx.out.push_back(Output::Write {
            socket: SocketId::host(cx.id),
            data: Span { at, len },
        });
    }

    /// What is next in order goes to the socket; the end, too.
    fn proceed(&mut self, cx: &mut Cx<'_>) {
        self.close_gaps(cx);
        if self.fin == Some(self.next) && !self.ended {
            self.forget_gaps(cx);
            // Acknowledged in a moment, since most peers end in answer to it, and then one segment does for both.
            self.next = self.next.plus(1);
            self.ended = true;
        }
        if self.full {
            return;
        }
        if let Some(data) = self.kept.pop_front() {
            let len = u32::try_from(data.len()).unwrap_or(0);
            self.kept_len -= len;
            cx.shared.kept -= data.len();
            self.writing = Some((len, true));
            let socket = SocketId::host(cx.id);
            cx.out.push_back(Output::WriteKept { socket, data });
        } else if self.ended && !self.shut {
            self.shut = true;
            cx.out.push_back(Output::Shutdown(SocketId::host(cx.id)));
        }
    }

    /// Keep bytes that are next in order, as many as may be kept.
    fn keep(&mut self, cx: &mut Cx<'_>, bytes: &[u8]) {
        let room = limits::KEPT_BYTES.saturating_sub(cx.shared.kept);
        if bytes.len() > room {
            self.ack_now = true;
        }
        let mut bytes = &bytes[..bytes.len().min(room)];
        self.next = self.next.plus(u32::try_from(bytes.len()).unwrap_or(0));
        self.count(cx, bytes.len());
        while !bytes.is_empty() {
            let last = self.kept.back().map_or(limits::KEPT_PIECE, Vec::len);
            if last >= limits::KEPT_PIECE {
                self.kept.push_back(Vec::new());
            }
            let Some(piece) = self.kept.back_mut() else {
                return;
            };
            let (now, later) = bytes.split_at(bytes.len().min(limits::KEPT_PIECE - piece.len()));
            piece.extend_from_slice(now);
            bytes = later;
        }
    }

    fn count(&mut self, cx: &mut Cx<'_>, bytes: usize) {
        self.kept_len += u32::try_from(bytes).unwrap_or(0);
        cx.shared.kept += bytes;
    }

    fn keep_gap(&mut self, cx: &mut Cx<'_>, seq: Seq, bytes: &[u8]) {
        let place = self.gaps.partition_point(|&(other, _)| other <= seq);
        let before = place.checked_sub(1).and_then(|place| self.gaps.get(place));
        let covered = before.map_or(0, |(at, bytes)| end(*at, bytes).since(seq));
        let limit = self.gaps.get(place).map_or(self.edge, |&(seq, _)| seq);
        let until = limit
            .since(seq)
            .min(u32::try_from(bytes.len()).unwrap_or(0));
        let new = bytes
            .get(covered as usize..until as usize)
            .unwrap_or_default();
        if new.is_empty() || cx.shared.kept + new.len() > limits::KEPT_BYTES {
            return;
        }
        if covered == 0 && before.is_some_and(|(at, bytes)| end(*at, bytes) == seq) {
            if let Some((_, bytes)) = self.gaps.get_mut(place - 1) {
                bytes.extend_from_slice(new);
                cx.shared.kept += new.len();
            }
        } else if self.gaps.len() < limits::GAPS {
            self.gaps.insert(place, (seq.plus(covered), new.to_vec()));
            cx.shared.kept += new.len();
        }
    }

    /// Segments that have become next in order.
    fn close_gaps(&mut self, cx: &mut Cx<'_>) {
        while let Some(&(seq, _)) = self.gaps.front() {
            if seq > self.next {
                return;
            }
            let Some((seq, bytes)) = self.gaps.pop_front() else {
                return;
            };
            cx.shared.kept -= bytes.len();
            self.ack_now = true;
            let skip = self.next.since(seq) as usize;
            // What lies behind the end, if the guest has changed its mind about it, is nothing.
            let until = self.end_of(end(seq, &bytes)).since(seq) as usize;
            if let Some(new) = bytes.get(skip..until) {
                self.keep(cx, new);
            }
        }
    }

    /// The end is reached: what came too early would lie behind it.
    fn forget_gaps(&mut self, cx: &mut Cx<'_>) {
        for (_, bytes) in self.gaps.drain(..) {
            cx.shared.kept -= bytes.len();
        }
    }

    /// Nothing beyond the window or behind the end.
    fn end_of(&self, end: Seq) -> Seq {
        let end = end.min(self.edge);
        self.fin.map_or(end, |fin| end.min(fin))
    }

    fn took_all(&mut self, taken: u32) {
        self.smooth = self.smooth.saturating_add(taken);
        if self.kept.is_empty() && self.smooth >= self.promise {
            self.smooth = 0;
            self.promise = (self.promise * 2).min(limits::WINDOW_MAX);
        }
    }

    /// The promise, as long as not too much is kept.
    fn room(&self, kept: usize) -> u32 {
        let share = u32::try_from(limits::KEPT_BYTES.saturating_sub(kept) / 8).unwrap_or(u32::MAX);
        self.promise.min(share)
    }

    /// Where the right edge would be now: the promise, from what the socket took.
    fn target(&self, kept: usize) -> Seq {
        self.next.minus(self.kept_len).plus(self.room(kept))
    }

    /// The guest knows of little room, and there is more. While it knows of much, acknowledgements of what it sends
    /// tell it in time. What is little depends on its segments: a sender waits for room for a whole one (RFC 9293,
    /// 3.8.6.2.1), Linux 200 ms and more.
    fn opened(&self, kept: usize) -> bool {
        if self.ended {
            return false;
        }
        let known = self.told.since(self.next);
        let more = self.target(kept).since(self.told);
        let worth = (self.room(kept) / 8).max(self.ack_bytes);
        known < self.little && more >= worth.max(1 << self.scale)
    }
}

fn end(seq: Seq, bytes: &[u8]) -> Seq {
    seq.plus(u32::try_from(bytes.len()).unwrap_or(0))
}
