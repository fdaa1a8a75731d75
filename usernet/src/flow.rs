//! The table of flows: bounded, found by what the guest's packets say or by a [`FlowId`]; walked only for who asks what
//! there is, a part at a time.
//!
//! Slots are allocated [`limits::SLAB`] at a time when they are first needed, and used again with the next generation, so
//! that an event of the shell for a flow that has ended finds nothing.
//!
//! There is a limit of flows and one of descriptors, of which a flow counts as many as it may come to have: so a flow that
//! is let in will not fail for want of one.
//!
//! Every flow is in one of five lists ([`Class`]), ordered by last use. When the table is full, the one that is missed
//! least gives way: the oldest connection that only lingers, then the oldest unfinished handshake, then the datagram flow
//! unused for longest if datagrams have more than half of the table, then a stream that was idle for
//! [`limits::STREAM_EVICTABLE`], then any datagram flow. If there is none, the new flow is not made.

use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;

use crate::addr::Guest;
use crate::event::{FlowId, Limited, Side, Transport};
use crate::limits;

/// What identifies a flow on the tap: everything is as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The guest's end; for echo the port is the identifier.
    pub guest: Guest,
    /// The other end; for echo the port is 0.
    pub far: Guest,
    /// Which of the port spaces.
    pub transport: Transport,
}

/// How much a flow would be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Ended, and answers what comes late.
    Lingering,
    /// A TCP connection whose handshake is not finished.
    HalfOpen,
    /// UDP and echo.
    Datagram,
    /// A TCP connection.
    Stream,
    /// A TCP connection that keeps bytes for a socket that takes none. Its last use is when the socket last took some.
    Stalled,
}

const CLASSES: usize = 5;
const NONE: u32 = u32::MAX;
const GENERATIONS: u32 = 1 << 24;

/// The table.
#[derive(Debug)]
pub struct Table<F> {
    slabs: Vec<Box<[Slot<F>]>>,
    free: u32,
    len: u32,
    limit: u32,
    /// That all flows have, or may come to have.
    descriptors: u32,
    most_descriptors: u32,
    keys: HashTable<u32>,
    hash: Keyed,
    lists: [List; CLASSES],
}

#[derive(Debug)]
struct Slot<F> {
    entry: Option<Entry<F>>,
    generation: u32,
    /// The next free slot, or the neighbours in the list of the class.
    next: u32,
    previous: u32,
}

/// A flow and what the table knows of it.
#[derive(Debug)]
pub struct Entry<F> {
    /// The flow.
    pub flow: F,
    tuple: Option<Tuple>,
    class: Class,
    descriptors: u32,
    used: Instant,
    began: Instant,
    /// Bytes of payload to the host and to the guest.
    moved: [u64; 2],
}

/// Flows that the guest began and nobody has answered yet, as far as they matter: each of them is forgotten in time.
#[derive(Debug, Default)]
pub struct Unanswered {
    count: u32,
    /// Until when time has made up for them.
    since: Option<Instant>,
    /// While it is crowded: how many may be begun, and until when time has added to them.
    ration: Option<(Instant, u32)>,
    crowded: bool,
}

impl Unanswered {
    /// Others suffer from what the guest sends, or not any more.
    pub fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
        self.ration = None;
    }

    /// While it is crowded, answers make up for nothing.
    fn rationed(&mut self, now: Instant) -> bool {
        let (since, left) = self
            .ration
            .get_or_insert((now, limits::BEGUN_CROWDED_AT_ONCE));
        let passed = now.saturating_duration_since(*since).as_millis();
        let millis = u32::try_from(passed).unwrap_or(u32::MAX);
        *since += Duration::from_millis(millis.into());
        let gained = millis.saturating_mul(limits::BEGUN_CROWDED);
        *left = left
            .saturating_add(gained)
            .min(limits::BEGUN_CROWDED_AT_ONCE);
        let none = *left == 0;
        *left = left.saturating_sub(1);
        none
    }

    /// The guest begins a flow: whether it may.
    pub fn one_more(&mut self, now: Instant) -> bool {
        if self.crowded && self.rationed(now) {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let each = Duration::from_secs(1) / limits::UNANSWERED_PER_SECOND;
        let passed = now.saturating_duration_since(since).as_nanos() / each.as_nanos();
        let forgotten = u32::try_from(passed).unwrap_or(u32::MAX);
        if forgotten >= self.count {
            (self.count, self.since) = (0, Some(now));
        } else {
            self.count -= forgotten;
            self.since = Some(since + each * forgotten);
        }
        let room = self.count < limits::UNANSWERED;
        self.count += u32::from(room);
        room
    }

    /// How many of them still count.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Somebody answered.
    pub fn one_less(&mut self) {
        self.count = self.count.saturating_sub(1);
    }
}

impl<F> Entry<F> {
    /// Since when it is there.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// When it was last used, to [`limits::USE_GRAIN`].
    #[must_use]
    pub fn used(&self) -> Instant {
        self.used
    }

    /// Bytes of payload to the host and to the guest.
    #[must_use]
    pub fn moved(&self) -> [u64; 2] {
        self.moved
    }
}

#[derive(Debug, Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
    len: u32,
}

/// The hash of tuples, keyed: a guest that chooses ports must not be able to choose buckets.
#[derive(Debug)]
struct Keyed {
    seed: u64,
    shared: SharedSeed,
}

impl Keyed {
    fn of(&self, tuple: &Tuple) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        tuple.hash(&mut hasher);
        hasher.finish()
    }
}

impl<F> Table<F> {
    /// An empty table for at most `limit` flows, which allocates nothing.
    #[must_use]
    pub fn new(limit: u32, seed: u64) -> Self {
        let list = List {
            oldest: NONE,
            newest: NONE,
            len: 0,
        };
        Self {
            slabs: Vec::new(),
            free: NONE,
            len: 0,
            limit: limit.min(limits::FLOWS),
            descriptors: 0,
            most_descriptors: u32::MAX,
            keys: HashTable::new(),
            hash: Keyed {
                seed: seed.rotate_left(32),
                shared: SharedSeed::from_u64(seed),
            },
            lists: [list; CLASSES],
        }
    }

    /// Flows at most.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Change the limit. Flows beyond a lower one stay until they end.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit.min(limits::FLOWS);
    }

    /// Descriptors at most.
    #[must_use]
    pub fn most_descriptors(&self) -> u32 {
        self.most_descriptors
    }

    /// Change how many descriptors there may be. Flows beyond a lower limit stay until they end.
    pub fn set_most_descriptors(&mut self, most: u32) {
        self.most_descriptors = most;
    }

    /// Flows now.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Flows of a class now.
    #[must_use]
    pub fn count(&self, class: Class) -> u32 {
        self.lists[class as usize].len
    }

    /// The flow of a tuple.
    #[must_use]
    pub fn find(&self, tuple: &Tuple) -> Option<FlowId> {
        let hash = self.hash.of(tuple);
        let index = *self
            .keys
            .find(hash, |&index| self.tuple(index) == Some(tuple))?;
        Some(self.id(index))
    }

    /// The flow of this id, if it has not ended.
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<&F> {
        let slot = self.slot(id.index)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.entry.as_ref().map(|entry| &entry.flow)
    }

    /// The flow of this id, if it has not ended, to be changed.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut F> {
        let slot = self.slot_mut(id.index)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.entry.as_mut().map(|entry| &mut entry.flow)
    }

    /// So many bytes of the flow's have gone to this side.
    pub fn credit(&mut self, id: FlowId, to: Side, bytes: u64) {
        if let Some(entry) = self.entry_mut(id) {
            let [to_host, to_guest] = &mut entry.moved;
            let moved = match to {
                Side::Host => to_host,
                Side::Guest => to_guest,
            };
            *moved = moved.wrapping_add(bytes);
        }
    }

    /// Descriptors that flows have, or may come to have.
    #[must_use]
    pub fn descriptors(&self) -> u32 {
        self.descriptors
    }

    /// Places, from 0 on; some have no flow.
    #[must_use]
    pub fn places(&self) -> u32 {
        u32::try_from(self.slabs.len() * limits::SLAB).unwrap_or(u32::MAX)
    }

    /// The flow of this place, and what the table knows of it.
    #[must_use]
    pub fn entry_at(&self, place: u32) -> Option<&Entry<F>> {
        self.slot(place)?.entry.as_ref()
    }

    /// All of them. For tests: nothing that happens may walk the table.
    pub fn iter(&self) -> impl Iterator<Item = &F> {
        let slots = self.slabs.iter().flatten();
        slots.filter_map(|slot| slot.entry.as_ref().map(|entry| &entry.flow))
    }

    /// The ids of all flows.
    pub fn ids(&self) -> impl Iterator<Item = FlowId> {
        let slots = self.slabs.iter().flatten().zip(0..);
        let used = slots.filter(|(slot, _)| slot.entry.is_some());
        used.map(|(_, index)| self.id(index))
    }

    /// The id of the flow that has this place now.
    #[must_use]
    pub fn at(&self, index: u32) -> Option<FlowId> {
        let slot = self.slot(index)?;
        slot.entry.as_ref()?;
        Some(self.id(index))
    }

    /// Add a flow with one descriptor. There must be room ([`Self::full`]) and no other flow of the tuple.
    ///
    /// # Panics
    ///
    /// When the caller did not make room: more than 2^32 flows.
    pub fn insert(&mut self, now: Instant, tuple: Option<Tuple>, class: Class, flow: F) -> FlowId {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let slot = self.slot_mut(index).expect("the free list has places");
        let next = slot.next;
        slot.entry = Some(Entry {
            flow,
            tuple,
            class,
            descriptors: 1,
            used: now,
            began: now,
            moved: [0; 2],
        });
        self.descriptors += 1;
        self.free = next;
        self.len += 1;
        self.link(index, class);
        if let Some(tuple) = tuple {
            let hash = self.hash.of(&tuple);
            let (keys, slabs, keyed) = (&mut self.keys, &self.slabs, &self.hash);
            keys.insert_unique(hash, index, |&other| {
                keyed.of(tuple_at(slabs, other).expect("what is in the keys has one"))
            });
        }
        self.id(index)
    }

    /// Take a flow out.
    pub fn remove(&mut self, id: FlowId) -> Option<F> {
        self.get(id)?;
        self.forget_tuple(id);
        let entry = self.entry(id)?;
        let (class, descriptors) = (entry.class, entry.descriptors);
        self.unlink(id.index, class);
        self.len -= 1;
        self.descriptors -= descriptors;
        let free = self.free;
        let slot = self.slot_mut(id.index)?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        slot.next = free;
        let flow = slot.entry.take()?.flow;
        self.free = id.index;
        Some(flow)
    }

    /// The flow has so many descriptors.
    pub fn set_descriptors(&mut self, id: FlowId, count: u32) {
        if let Some(entry) = self.entry_mut(id) {
            let before = std::mem::replace(&mut entry.descriptors, count);
            self.descriptors = self.descriptors - before + count;
        }
    }

    /// The flow is not to be found by its tuple any more.
    pub fn forget_tuple(&mut self, id: FlowId) {
        let Some(tuple) = self.entry_mut(id).and_then(|entry| entry.tuple.take()) else {
            return;
        };
        let hash = self.hash.of(&tuple);
        if let Ok(found) = self.keys.find_entry(hash, |&index| index == id.index) {
            found.remove();
        }
    }

    /// The flow was used.
    pub fn touch(&mut self, id: FlowId, now: Instant) {
        let Some(entry) = self.entry_mut(id) else {
            return;
        };
        if now.saturating_duration_since(entry.used) < limits::USE_GRAIN {
            return;
        }
        entry.used = now;
        let class = entry.class;
        self.unlink(id.index, class);
        self.link(id.index, class);
    }

    /// The flow would be missed more, or less, than before.
    pub fn set_class(&mut self, id: FlowId, now: Instant, class: Class) {
        let Some(entry) = self.entry_mut(id) else {
            return;
        };
        let before = entry.class;
        entry.class = class;
        entry.used = now;
        self.unlink(id.index, before);
        self.link(id.index, class);
    }

    /// No room for one more.
    #[must_use]
    pub fn full(&self) -> bool {
        self.len >= self.limit
    }

    /// Too few descriptors are left for a flow with so many.
    #[must_use]
    pub fn lacks(&self, descriptors: u32) -> bool {
        self.descriptors.saturating_add(descriptors) > self.most_descriptors
    }

    /// The flow that gives way to a new one of this class, when there is no room for it; the caller ends it.
    #[must_use]
    pub fn victim(&self, class: Class, now: Instant) -> Option<FlowId> {
        if class == Class::HalfOpen && self.count(class) >= limits::HALF_OPEN {
            return self.oldest(class);
        }
        let datagrams = self.count(Class::Datagram);
        let crowded =
            datagrams > self.limit.min(self.most_descriptors) / 2 || class == Class::Datagram;
        self.oldest(Class::Lingering)
            .or_else(|| self.oldest(Class::HalfOpen))
            .or_else(|| self.oldest(Class::Datagram).filter(|_| crowded))
            .or_else(|| self.unused(Class::Stalled, now, limits::STREAM_EVICTABLE))
            .or_else(|| self.unused(Class::Stream, now, limits::STREAM_EVICTABLE))
            .or_else(|| self.oldest(Class::Datagram))
    }

    /// Why a new flow of this class with so many descriptors needs another one to give way, and the limit.
    #[must_use]
    pub fn crowded(&self, class: Class, descriptors: u32) -> Option<(Limited, u32)> {
        if self.full() {
            return Some((Limited::Flows, self.limit));
        }
        if self.lacks(descriptors) {
            return Some((Limited::Descriptors, self.most_descriptors));
        }
        let half_open = class == Class::HalfOpen && self.count(class) >= limits::HALF_OPEN;
        half_open.then_some((Limited::HalfOpen, limits::HALF_OPEN))
    }

    /// The flow of this class that was not used for longest, if it was so long.
    #[must_use]
    pub fn unused(&self, class: Class, now: Instant, long: Duration) -> Option<FlowId> {
        self.oldest(class).filter(|id| {
            let used = self.entry(*id).map_or(now, |entry| entry.used);
            now.saturating_duration_since(used) >= long
        })
    }

    fn oldest(&self, class: Class) -> Option<FlowId> {
        self.at(self.lists[class as usize].oldest)
    }

    fn id(&self, index: u32) -> FlowId {
        let generation = self.slot(index).map_or(0, |slot| slot.generation);
        FlowId { index, generation }
    }

    fn tuple(&self, index: u32) -> Option<&Tuple> {
        tuple_at(&self.slabs, index)
    }

    fn entry(&self, id: FlowId) -> Option<&Entry<F>> {
        let slot = self.slot(id.index)?;
        slot.entry
            .as_ref()
            .filter(|_| slot.generation == id.generation)
    }

    fn entry_mut(&mut self, id: FlowId) -> Option<&mut Entry<F>> {
        let slot = self.slot_mut(id.index)?;
        let same = slot.generation == id.generation;
        slot.entry.as_mut().filter(|_| same)
    }

    fn slot(&self, index: u32) -> Option<&Slot<F>> {
        slot_at(&self.slabs, index)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<F>> {
        let index = index as usize;
        self.slabs
            .get_mut(index / limits::SLAB)?
            .get_mut(index % limits::SLAB)
    }

    fn grow(&mut self) {
        let first = u32::try_from(self.slabs.len() * limits::SLAB).expect("fewer than the limit");
        let slots = (first..).take(limits::SLAB).map(|index| Slot {
            entry: None,
            generation: 0,
            next: index + 1,
            previous: NONE,
        });
        let mut slab: Box<[Slot<F>]> = slots.collect();
        if let Some(last) = slab.last_mut() {
            last.next = NONE;
        }
        self.slabs.push(slab);
        self.free = first;
    }

    fn link(&mut self, index: u32, class: Class) {
        let before = self.lists[class as usize].newest;
        if let Some(slot) = self.slot_mut(index) {
            slot.previous = before;
            slot.next = NONE;
        }
        if let Some(slot) = self.slot_mut(before) {
            slot.next = index;
        }
        let list = &mut self.lists[class as usize];
        if before == NONE {
            list.oldest = index;
        }
        list.newest = index;
        list.len += 1;
    }

    fn unlink(&mut self, index: u32, class: Class) {
        let Some((previous, next)) = self.slot(index).map(|slot| (slot.previous, slot.next)) else {
            return;
        };
        if let Some(slot) = self.slot_mut(previous) {
            slot.next = next;
        }
        if let Some(slot) = self.slot_mut(next) {
            slot.previous = previous;
        }
        let list = &mut self.lists[class as usize];
        if list.oldest == index {
            list.oldest = next;
        }
        if list.newest == index {
            list.newest = previous;
        }
        list.len -= 1;
    }
}

fn slot_at<F>(slabs: &[Box<[Slot<F>]>], index: u32) -> Option<&Slot<F>> {
    let index = index as usize;
    slabs.get(index / limits::SLAB)?.get(index % limits::SLAB)
}

fn tuple_at<F>(slabs: &[Box<[Slot<F>]>], index: u32) -> Option<&Tuple> {
    slot_at(slabs, index)?.entry.as_ref()?.tuple.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(port: u16) -> Tuple {
        Tuple {
            guest: Guest(([10, 0, 2, 100], port).into()),
            far: Guest(([198, 51, 100, 7], 80).into()),
            transport: Transport::Tcp,
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn who_begins_flows_in_a_crowd_has_some_at_once() {
        let begin = Instant::now();
        let mut unanswered = Unanswered::default();
        unanswered.set_crowded(true);
        let mut begun = |millis| {
            let now = begin + Duration::from_millis(millis);
            (0..1000).filter(|_| unanswered.one_more(now)).count()
        };
        assert_eq!([begun(0), begun(0), begun(1)], [64, 0, 4]);
        assert_eq!([begun(3), begun(1003)], [8, 64]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn descriptors_are_counted() {
        let now = Instant::now();
        let mut table = Table::new(100, 3);
        table.set_most_descriptors(8);
        let one = table.insert(now, Some(tuple(1)), Class::Stream, 1);
        assert_eq!(table.crowded(Class::Stream, 6), None);
        let six = table.insert(now, None, Class::Stream, 2);
        table.set_descriptors(six, 6);
        assert_eq!(table.crowded(Class::Stream, 1), None);
        let lacking = Some((Limited::Descriptors, 8));
        assert_eq!(table.crowded(Class::Stream, 2), lacking);
        table.remove(one);
        table.remove(one);
        assert_eq!(table.crowded(Class::Stream, 2), None);
        assert_eq!(table.crowded(Class::Stream, 3), lacking);
        table.remove(six);
        table.set_descriptors(six, 1);
        assert_eq!((table.descriptors, table.len()), (0, 0));
    }

    /// Whatever is done, the table says what a list would say.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn finds_what_is_in_it() {
        let now = Instant::now();
        let mut table = Table::new(1_000, 3);
        let mut model: Vec<(u16, FlowId)> = Vec::new();
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let port = u16::try_from(state >> 55).unwrap();
            let known = model.iter().position(|&(other, _)| other == port);
            assert_eq!(table.find(&tuple(port)), known.map(|place| model[place].1));
            match known {
                Some(place) => {
                    let (_, id) = model.swap_remove(place);
                    assert_eq!(table.remove(id), Some(port));
                    assert_eq!(table.get(id), None);
                    assert_eq!(table.remove(id), None);
                }
                None => {
                    let id = table.insert(now, Some(tuple(port)), Class::Stream, port);
                    assert_eq!(table.get(id), Some(&port));
                    model.push((port, id));
                }
            }
            assert_eq!(table.len() as usize, model.len());
        }
        assert!(
            table.slabs.len() <= 512 / limits::SLAB,
            "places are used again"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn who_is_missed_least_gives_way() {
        let now = Instant::now();
        let later = now + limits::STREAM_EVICTABLE;
        let mut table = Table::new(5, 3);
        let mut add = |port, class| table.insert(now, Some(tuple(port)), class, port);
        let (first, second) = (add(1, Class::Stream), add(2, Class::Stream));
        let (echo, half) = (add(3, Class::Datagram), add(4, Class::HalfOpen));
        let over = add(5, Class::Lingering);
        assert!(table.full());
        for expected in [over, half] {
            assert_eq!(table.victim(Class::Stream, now), Some(expected));
            table.remove(expected);
        }
        assert_eq!(
            table.victim(Class::Stream, now),
            Some(echo),
            "streams are in use"
        );
        assert_eq!(table.victim(Class::Stream, later), Some(first));
        assert_eq!(
            table.victim(Class::Datagram, later),
            Some(echo),
            "its own kind first"
        );
        table.touch(first, now + Duration::from_secs(30));
        assert_eq!(
            table.victim(Class::Stream, later),
            Some(second),
            "unused for longer"
        );
        table.remove(echo);
        assert_eq!(table.victim(Class::Stream, now), None);
    }
}
