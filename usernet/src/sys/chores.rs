//! What is done beside forwarding: listeners follow the other side's.
//!
//! The loop returns to [`super::run`] when one of these is due, at a time ([`Chores::due`]) or because a descriptor is
//! ready. Nothing here waits, and what could take long is done in slices. With nothing to do there is no time either, so
//! that an idle forwarder sleeps.

use std::time::Instant;

use super::event_loop::Loop;
use super::listeners::Listeners;
use crate::config::Notice;
use crate::limits;

/// All of it.
#[derive(Debug)]
pub struct Chores {
    listeners: Listeners,
    /// When to look who listens.
    follow: Option<Instant>,
}

impl Chores {
    /// With a first look: what is listened on already is forwarded when we are ready. What there is to say about it.
    pub fn new(listeners: Listeners, forwarding: &mut Loop) -> (Self, Vec<Notice>) {
        let mut chores = Self {
            listeners,
            follow: None,
        };
        let mut notices = Vec::new();
        if chores.listeners.follows() {
            notices = chores.follow(Instant::now(), forwarding);
            while chores.listeners.waits() {
                notices.extend(chores.listeners.open_some(forwarding));
            }
        }
        chores.set_alarm(forwarding);
        (chores, notices)
    }

    /// The alarm has come: do what is due. What there is to say about it.
    pub fn due(&mut self, forwarding: &mut Loop) -> Vec<Notice> {
        let now = Instant::now();
        let mut notices = Vec::new();
        if self.follow.is_some_and(|time| time <= now) {
            notices = self.follow(now, forwarding);
        }
        notices.extend(self.listeners.open_some(forwarding));
        self.set_alarm(forwarding);
        notices
    }

    fn follow(&mut self, now: Instant, forwarding: &mut Loop) -> Vec<Notice> {
        let follows = self.listeners.follows();
        self.follow = follows.then(|| now + limits::FOLLOW_INTERVAL);
        self.listeners.follow(forwarding)
    }

    fn set_alarm(&self, forwarding: &mut Loop) {
        let slice = self.listeners.waits().then(Instant::now);
        let times = [self.follow, slice].into_iter().flatten();
        forwarding.wake_at(times.min());
    }
}
