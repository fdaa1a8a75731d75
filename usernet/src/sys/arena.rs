//! One piece of memory for all payloads of a round.
//!
//! Frames and datagrams are read into it one behind the other; outputs name them as [`Span`]s. When a round is over
//! nothing refers to it any more and it starts from the beginning. Only pages that were used take memory, and small
//! rounds use the first ones over and over, so they stay in the cache. So do large ones of a guest that is given bytes of
//! sockets: what one frame has carried is given back before the next is peeked at.

use std::ops::Range;

use crate::event::Span;

/// Bytes of the arena: several of the largest frames, so that a burst needs few rounds.
const SIZE: usize = 2 << 20;

/// The most that one read needs: 64 kB and headers, rounded.
pub const READ_MAX: usize = 66 << 10;

/// The memory and how much of it is in use.
#[derive(Debug)]
pub struct Arena {
    memory: Box<[u8]>,
    used: usize,
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// Memory that takes none until it is used.
    #[must_use]
    pub fn new() -> Self {
        Self {
            memory: vec![0; SIZE].into_boxed_slice(),
            used: 0,
        }
    }

    /// Nothing refers to what was read: begin anew.
    pub fn reset(&mut self) {
        self.used = 0;
    }

    /// Whether another read of the largest size fits.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.room() >= READ_MAX
    }

    /// Bytes that are free.
    #[must_use]
    pub fn room(&self) -> usize {
        self.memory.len() - self.used
    }

    /// What is free.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.memory[self.used..]
    }

    /// The first `len` bytes of what was free are in use now.
    pub fn keep(&mut self, len: usize) -> Span {
        let at = self.used;
        self.used = (at + len).min(self.memory.len());
        span(at..at + len)
    }

    /// Nothing refers to the last that was kept: the next takes its place.
    pub fn give_back(&mut self, last: Span) {
        if (last.at + last.len) as usize == self.used {
            self.used = last.at as usize;
        }
    }

    /// The bytes of a span; none if it is not one of ours.
    #[must_use]
    pub fn bytes(&self, span: Span) -> &[u8] {
        let at = span.at as usize;
        self.memory
            .get(at..at + span.len as usize)
            .unwrap_or_default()
    }

    /// Everything, for those who index it by spans.
    #[must_use]
    pub fn all(&self) -> &[u8] {
        &self.memory
    }
}

/// A range of the arena as a span.
pub fn span(range: Range<usize>) -> Span {
    Span {
        at: u32::try_from(range.start).expect("the arena is smaller than 4 GB"),
        len: u32::try_from(range.len()).expect("the arena is smaller than 4 GB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_is_given_back() {
        let mut arena = Arena::new();
        let (first, second) = (arena.keep(10), arena.keep(20));
        arena.give_back(first);
        assert_eq!(arena.keep(5).at, 30);
        arena.reset();
        arena.keep(10);
        arena.keep(20);
        arena.give_back(second);
        assert_eq!(arena.keep(5).at, second.at);
        assert_eq!(arena.room(), SIZE - 15);
    }
}
