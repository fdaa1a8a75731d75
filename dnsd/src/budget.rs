//! Who may wait: one rule for everything that waits for a server.
//!
//! Whatever waits is counted for the container that asks, and in total. A container that has its share waits for
//! itself. When the total is used up, whoever holds most gives way with what has waited for longest, so however
//! many ask, one that asks for little finds room.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::zones::{Asker, ContainerKey};

/// Who asks: a container with all its addresses, or an address that no container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// One that we know.
    Container(ContainerKey),
    /// Anybody else.
    Address(IpAddr),
}

impl Who {
    /// Who asks from an address.
    #[must_use]
    pub fn of(asker: &Asker, address: IpAddr) -> Self {
        asker.owner.map_or(Self::Address(address), Self::Container)
    }
}

/// What waits, with a `T` for each.
#[derive(Debug)]
pub struct Budget<T> {
    total: usize,
    share: u32,
    holders: HashMap<Who, Holder, foldhash::fast::RandomState>,
    /// The last one gives way first: it holds most, and of those the longest.
    ranking: BTreeSet<(u32, Reverse<u64>, Who)>,
    /// By the number of the holder and their own.
    waits: BTreeMap<(u64, u64), T>,
    next: u64,
}

#[derive(Debug)]
struct Holder {
    number: u64,
    count: u32,
}

/// Something that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    who: Who,
    holder: u64,
    number: u64,
}

/// Whether there is room for one more.
#[derive(Debug, PartialEq, Eq)]
pub enum Room<T> {
    /// There is.
    Free,
    /// There is, since this gave way.
    Taken(Ticket, T),
    /// Not for this one: it has its share.
    None,
}

impl<T> Budget<T> {
    /// Room for `total`, of which nobody gets more than `share`.
    #[must_use]
    pub fn new(total: usize, share: u32) -> Self {
        Self {
            total,
            share,
            holders: HashMap::default(),
            ranking: BTreeSet::new(),
            waits: BTreeMap::new(),
            next: 0,
        }
    }

    /// Makes room for one more.
    pub fn room(&mut self, who: Who) -> Room<T> {
        let holder = self.holders.get(&who);
        if holder.is_some_and(|holder| holder.count >= self.share) {
            return Room::None;
        }
        if self.waits.len() < self.total {
            return Room::Free;
        }
        let Some((ticket, what)) = self.give_way() else {
            return Room::None;
        };
        Room::Taken(ticket, what)
    }

    fn give_way(&mut self) -> Option<(Ticket, T)> {
        let (_, _, who) = *self.ranking.last()?;
        let holder = self.holders.get(&who)?.number;
        let (_, number) = *self.waits.range((holder, 0)..).next()?.0;
        let ticket = Ticket {
            who,
            holder,
            number,
        };
        Some((ticket, self.leave(ticket)?))
    }

    /// Counts one that waits.
    pub fn enter(&mut self, who: Who, what: T) -> Ticket {
        let number = self.next;
        self.next += 1;
        let new = Holder { number, count: 0 };
        let holder = self.holders.entry(who).or_insert(new);
        let first = Reverse(holder.number);
        if holder.count > 0 {
            self.ranking.remove(&(holder.count, first, who));
        }
        holder.count += 1;
        self.ranking.insert((holder.count, first, who));
        self.waits.insert((holder.number, number), what);
        Ticket {
            who,
            holder: holder.number,
            number,
        }
    }

    /// It waits no longer. Nothing if it gave way before.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let what = self.waits.remove(&(ticket.holder, ticket.number))?;
        if let Some(holder) = self.holders.get_mut(&ticket.who) {
            let first = Reverse(holder.number);
            self.ranking.remove(&(holder.count, first, ticket.who));
            holder.count -= 1;
            if holder.count > 0 {
                self.ranking.insert((holder.count, first, ticket.who));
            } else {
                self.holders.remove(&ticket.who);
            }
        }
        if self.waits.is_empty() && self.holders.capacity() > 1024 {
            self.holders = HashMap::default();
        }
        Some(what)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waits.len()
    }

    /// Whether nobody does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(n: u8) -> Who {
        Who::Address([10, 0, 0, n].into())
    }

    #[test]
    fn who_has_its_share_gets_no_more() {
        let mut budget = Budget::new(10, 2);
        let first = budget.enter(who(1), 1);
        budget.enter(who(1), 2);
        assert_eq!(budget.room(who(1)), Room::None);
        assert_eq!(budget.room(who(2)), Room::Free);
        assert_eq!(budget.leave(first), Some(1));
        assert_eq!(budget.leave(first), None);
        assert_eq!(budget.room(who(1)), Room::Free);
    }

    #[test]
    fn who_holds_most_gives_way_with_its_oldest() {
        let mut budget = Budget::new(6, 4);
        for n in 0..3 {
            budget.enter(who(1), n);
        }
        for n in 10..13 {
            budget.enter(who(2), n);
        }
        let mut given = Vec::new();
        for n in 3..9 {
            let Room::Taken(_, what) = budget.room(who(n)) else {
                panic!("{n}");
            };
            given.push(what);
            budget.enter(who(n), n.into());
        }
        // First those with three, then with two; then the one that has waited for longest.
        assert_eq!(given, [0, 10, 1, 11, 2, 12]);
        assert_eq!(budget.len(), 6);
    }

    /// As many as there are ask a dead server; one with little to ask is heard, and never at the cost of more than
    /// the others hold.
    #[test]
    fn nobody_starves() {
        let mut budget = Budget::new(100, 20);
        for round in 0..1000u32 {
            let who = who(u8::try_from(round % 30).unwrap());
            if budget.room(who) != Room::None {
                budget.enter(who, round);
            }
            assert!(budget.len() <= 100);
            assert_eq!(
                budget.ranking.iter().map(|(count, ..)| *count).sum::<u32>(),
                u32::try_from(budget.len()).unwrap()
            );
        }
        assert!(budget.ranking.last().unwrap().0 <= 5);
        let mine = budget.enter(who(99), 7);
        for n in 0..50 {
            budget.room(who(n));
            budget.enter(who(n), 0);
        }
        assert_eq!(budget.leave(mine), Some(7));
    }
}
