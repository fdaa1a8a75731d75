//! Waking at a deadline, without setting a timer at each wait.
//!
//! Deadlines move at nearly every packet, mostly to later, and setting a timer is dear in a virtual machine. So the timer
//! is set when a deadline comes earlier than what it is set to, never when one moves to later: it then wakes us once for
//! nothing.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// The least that a timer is set to. Thousands of connections that end each have a deadline of their own, and one wake-up
/// does for all those of a millisecond.
const LEAST: Duration = Duration::from_millis(1);

/// One timer of the kernel (`timerfd_create(2)`). Edge-triggered, so that nobody has to read it.
#[derive(Debug)]
pub struct Alarm {
    timer: TimerFd,
    set: Option<Instant>,
}

impl Alarm {
    /// A timer that is off.
    pub fn new() -> Result<Self, Errno> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self { timer, set: None })
    }

    /// What becomes readable.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Wake at `deadline` or before, or after `LEAST`; `now` is not later than the time it is.
    pub fn wake_at(&mut self, deadline: Instant, now: Instant) -> Result<(), Errno> {
        if self.set.is_some_and(|set| set <= deadline) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(now).max(LEAST);
        let once = Expiration::OneShot(TimeSpec::from_duration(left));
        self.timer.set(once, TimerSetTimeFlags::empty())?;
        self.set = Some(deadline);
        Ok(())
    }

    /// It has woken us.
    pub fn rang(&mut self) {
        self.set = None;
    }
}
