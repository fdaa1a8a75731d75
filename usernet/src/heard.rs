//! What the guest says of itself, and how quickly it is believed.
//!
//! Whoever sends frames or packets under many names does not turn away what belongs to the name that works: another one
//! takes its place only when it has been silent for [`limits::SILENCE`].

use std::time::Instant;

use crate::limits;

/// A name of the guest, and when it was last used.
#[derive(Debug, Clone, Copy)]
pub struct Heard<T> {
    /// The name.
    pub name: T,
    /// Never, of one that was given.
    at: Option<Instant>,
}

impl<T: PartialEq> Heard<T> {
    /// The guest was given this one.
    #[must_use]
    pub const fn given(name: T) -> Self {
        Self { name, at: None }
    }

    /// It uses this one.
    #[must_use]
    pub const fn now(now: Instant, name: T) -> Self {
        Self {
            name,
            at: Some(now),
        }
    }

    /// Whether another name may take its place.
    #[must_use]
    pub fn is_silent(&self, now: Instant) -> bool {
        self.at
            .is_none_or(|at| now.saturating_duration_since(at) >= limits::SILENCE)
    }

    /// A name was used, this or another one.
    pub fn hear(&mut self, now: Instant, name: T) {
        if self.name == name || self.is_silent(now) {
            *self = Self::now(now, name);
        }
    }
}
