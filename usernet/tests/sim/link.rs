//! One direction of the link: packets that arrive late, twice, in another order or not at all.

use std::collections::BTreeMap;

use crate::random::Random;

/// How bad it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quality {
    pub(crate) loss_permille: u64,
    pub(crate) twice_permille: u64,
    /// Delay of each packet, microseconds: from, to.
    pub(crate) delay: (u64, u64),
}

#[derive(Debug)]
pub(crate) struct Link {
    quality: Quality,
    random: Random,
    /// By time of arrival, microseconds, and number.
    flying: BTreeMap<(u64, u64), Vec<u8>>,
    number: u64,
}

impl Link {
    pub(crate) fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            random: Random::new(seed),
            flying: BTreeMap::new(),
            number: 0,
        }
    }

    pub(crate) fn send(&mut self, now: u64, packet: Vec<u8>) {
        if self.random.permille(self.quality.loss_permille) {
            return;
        }
        if self.random.permille(self.quality.twice_permille) {
            self.fly(now, packet.clone());
        }
        self.fly(now, packet);
    }

    fn fly(&mut self, now: u64, packet: Vec<u8>) {
        let (least, most) = self.quality.delay;
        let at = now + self.random.within(least, most);
        self.number += 1;
        self.flying.insert((at, self.number), packet);
    }

    pub(crate) fn next(&self) -> Option<u64> {
        self.flying.first_key_value().map(|(&(at, _), _)| at)
    }

    pub(crate) fn arrive(&mut self, now: u64) -> Option<Vec<u8>> {
        let entry = self.flying.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
