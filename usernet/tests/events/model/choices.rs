//! An input as a series of choices. What is chosen when the input has come to its end is the harmless case: zero.

use std::net::IpAddr;

/// The rest of an input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl<'a> Choices<'a> {
    /// There is something left.
    pub(crate) fn more(&self) -> bool {
        !self.0.is_empty()
    }

    /// Choices left.
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Less than `count`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// Once in `count`; never when there is nothing left.
    pub(crate) fn once_in(&mut self, count: u8) -> bool {
        self.byte() % count == count - 1
    }

    /// One of them; the first is the harmless one.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// At most so many bytes as they are.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A size: mostly small, sometimes as large as it gets.
    pub(crate) fn size(&mut self, most: usize) -> usize {
        let first = usize::from(self.byte());
        let size = match first {
            0..128 => first,
            128..192 => (first - 127) * 23,
            192..240 => (first - 191) * 1365,
            _ => usize::MAX,
        };
        size.min(most)
    }

    /// An address somebody could think of.
    pub(crate) fn address(&mut self, six: bool) -> IpAddr {
        let text = if six {
            self.pick(&SIX)
        } else {
            self.pick(&FOUR)
        };
        text.parse().expect("an address")
    }
}

const FOUR: [&str; 12] = [
    "198.51.100.7",
    "10.0.2.2",
    "10.0.2.100",
    "10.0.2.3",
    "169.254.1.1",
    "127.0.0.1",
    "224.0.0.251",
    "255.255.255.255",
    "10.0.2.255",
    "0.0.0.0",
    "198.51.100.8",
    "240.0.0.1",
];

const SIX: [&str; 12] = [
    "2001:db8:9::9",
    "fe80::1",
    "2001:db8::64",
    "fe80::64",
    "2001:db8:1::53",
    "::1",
    "ff02::fb",
    "ff02::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:198.51.100.7",
    "2001:db8:9::a",
];
