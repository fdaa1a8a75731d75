//! Listeners that rest.
//!
//! A connection that cannot be accepted for want of a descriptor stays in the listener's queue, so that the listener
//! wakes us again at once, for ever. Such a listener is not waited for until [`limits::ACCEPT_PAUSE`] has passed; then it
//! has another try. Callers wait in its queue meanwhile.

use std::time::Instant;

use nix::errno::Errno;

use crate::limits;

/// Those that rest, all until the same time.
#[derive(Debug, Default)]
pub struct Resting {
    /// Places in the loop's list, each once or more.
    places: Vec<u32>,
    until: Option<Instant>,
}

impl Resting {
    /// Whether an error of `accept` holds until something is freed.
    #[must_use]
    pub const fn is_for(error: Errno) -> bool {
        matches!(
            error,
            Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM
        )
    }

    /// One that is not waited for any more.
    pub fn rest(&mut self, place: u32, now: Instant) {
        self.places.push(place);
        self.until.get_or_insert(now + limits::ACCEPT_PAUSE);
    }

    /// When [`Self::rested`] has something to say.
    #[must_use]
    pub const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Those that are to be waited for again.
    pub fn rested(&mut self, now: Instant) -> Vec<u32> {
        if self.until.is_none_or(|until| now < until) {
            return Vec::new();
        }
        self.until = None;
        std::mem::take(&mut self.places)
    }
}

/// What there is too little of, in words, after the kernel's own.
#[must_use]
pub fn limit(error: Errno) -> &'static str {
    if error == Errno::EMFILE {
        ": our limit of open files (RLIMIT_NOFILE, ulimit -n) is reached"
    } else if error == Errno::ENFILE {
        ": the machine's limit of open files (sysctl fs.file-max) is reached"
    } else {
        ""
    }
}
