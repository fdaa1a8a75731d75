//! How much a peer over the network may have on the way to a stream socket.
//!
//! The kernel gives a socket more room to receive when the reader took much within a round trip (`tcp_rcv_space_adjust`).
//! From what was taken it subtracts what waits (since Linux 6.16), and it does so at each look, too. We look before we
//! take, when all that came together still waits, so with packets that come in bursts, as at the beginning of a transfer,
//! the difference is zero and the window stays where it began: seen with a round trip of 20 ms, 40 Mbit/s of 1000.
//!
//! So we count as the kernel does for other readers: what the guest took within one round trip may be an eighth of the
//! window, later a quarter (`LARGE`): the next flight may be twice as large, what is told now is for the one behind it,
//! and small packets take more room than their bytes. If it is more, the window doubles at least. `SO_RCVLOWAT` is what makes it: to wait for so many bytes there must be room for them. The kernel
//! keeps the room when the mark is taken back, goes on adjusting it, and allows half of `tcp_rmem`'s maximum. Nobody
//! else's memory is taken by it: what the guest does not take stays below a few round trips' worth.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::raw;

/// What a socket offers at first, bytes: half of the default of `tcp_rmem`. Only a beginning: less costs a call, more
/// a round trip.
const FIRST: u32 = 64 << 10;
/// A window, bytes, from which on no more than four times the need is offered: below, room is cheap and a round trip is
/// not.
const LARGE: u32 = 1 << 20;
/// `tcpi_rtt` and `tcpi_rcv_rtt` in `struct tcp_info` (linux/tcp.h), microseconds.
const ROUND_TRIP: usize = 68;
const RECEIVE_ROUND_TRIP: usize = 92;
const INFO: usize = RECEIVE_ROUND_TRIP + 4;

/// What is known of one socket's window.
#[derive(Debug)]
pub struct Growth {
    /// What the socket offers at least, bytes.
    window: u32,
    /// Bytes taken since `begin`, which is less than a round trip ago.
    taken: u32,
    begin: Instant,
    /// As long as nobody knows, for ever.
    round_trip: Duration,
}

impl Growth {
    /// Of a new socket.
    pub fn new(now: Instant) -> Self {
        Self {
            window: FIRST,
            taken: 0,
            begin: now,
            round_trip: Duration::MAX,
        }
    }

    /// Bytes were taken from this socket: make it offer more if that is due.
    pub fn take(&mut self, fd: BorrowedFd<'_>, now: Instant, len: u32) {
        if !self.count(now, len) {
            return;
        }
        if let Some(window) = self.grow(now, round_trip(fd)) {
            offer(fd, window);
        }
    }

    /// Whether so much was taken that the window matters.
    fn count(&mut self, now: Instant, len: u32) -> bool {
        if now.saturating_duration_since(self.begin) >= self.round_trip {
            self.begin = now;
            self.taken = 0;
        }
        self.taken = self.taken.saturating_add(len);
        self.taken > self.window / self.factor()
    }

    fn factor(&self) -> u32 {
        if self.window < LARGE { 8 } else { 4 }
    }

    /// The window that is wanted, if it took less than a round trip.
    fn grow(&mut self, now: Instant, round_trip: Option<Duration>) -> Option<u32> {
        self.round_trip = round_trip?;
        if now.saturating_duration_since(self.begin) >= self.round_trip {
            return None;
        }
        let double = self.window.saturating_mul(2);
        self.window = self.taken.saturating_mul(self.factor()).max(double);
        Some(self.window)
    }
}

/// The lesser of the kernel's two estimates, of which one may not be there: an end that is slow to answer makes both seem
/// longer.
fn round_trip(fd: BorrowedFd<'_>) -> Option<Duration> {
    let mut info = [0; INFO];
    raw::tcp_info(fd, &mut info).ok()?;
    let micros = [ROUND_TRIP, RECEIVE_ROUND_TRIP]
        .into_iter()
        .filter_map(|at| {
            let bytes = info.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes)).filter(|&micros| micros > 0)
        });
    Some(Duration::from_micros(micros.min()?.into()))
}

/// Room for so many bytes. What is refused costs speed, not correctness.
fn offer(fd: BorrowedFd<'_>, window: u32) {
    let mark = |bytes| raw::set_int(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes);
    if mark(i32::try_from(window).unwrap_or(i32::MAX)).is_ok() {
        mark(1).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(20);

    /// Flights of a round trip, each of them taken in portions; the windows that are asked for.
    fn windows(flights: &[u32], portion: u32) -> Vec<u32> {
        let start = Instant::now();
        let mut growth = Growth::new(start);
        let mut windows = Vec::new();
        for (flight, trip) in flights.iter().zip(0..) {
            for at in (0..*flight).step_by(portion as usize) {
                let now = start + TRIP * trip + Duration::from_micros(u64::from(at / 100));
                if growth.count(now, portion.min(flight - at)) {
                    windows.extend(growth.grow(now, Some(TRIP)));
                }
            }
        }
        windows
    }

    #[test]
    fn grows_ahead_of_flights_that_double() {
        let flights = [
            14 << 10,
            28 << 10,
            56 << 10,
            112 << 10,
            224 << 10,
            448 << 10,
        ];
        let found = windows(&flights, 4 << 10);
        let doubled: Vec<u32> = (17..=21).map(|power| 1 << power).collect();
        assert_eq!(found, doubled);
    }

    #[test]
    fn stays_when_the_flights_do() {
        assert_eq!(windows(&[8 << 10; 1000], 2 << 10), [0; 0]);
        assert_eq!(windows(&[40 << 10; 1000], 2 << 10).len(), 3);
        assert_eq!(windows(&[500 << 10; 1000], 60 << 10).len(), 4);
    }

    #[test]
    fn a_slow_stream_needs_no_more() {
        let start = Instant::now();
        let mut growth = Growth::new(start);
        let grown = (0..10_000).filter_map(|i| {
            let now = start + TRIP * 2 * i;
            growth
                .count(now, 8_000)
                .then(|| growth.grow(now, Some(TRIP)))
        });
        assert_eq!(grown.flatten().count(), 0);
    }

    #[test]
    fn an_unknown_round_trip_changes_nothing() {
        let start = Instant::now();
        let mut growth = Growth::new(start);
        assert!(growth.count(start, 20 << 10));
        assert_eq!(growth.grow(start, None), None);
        assert_eq!(growth.window, FIRST);
    }
}
