//! When to look at which flow again.
//!
//! A binary heap with one entry for each flow that waits for something, and each flow's place in it. A deadline that
//! moves later, as the retransmission timer does with every acknowledgement, costs nothing: the entry stays, and the flow
//! that is woken too early says its true deadline then. One that moves earlier rises in the heap. So the heap is never
//! larger than the table of flows.

use std::time::Instant;

/// Not in the heap.
const NOWHERE: u32 = u32::MAX;

/// Deadlines of flows, by their place in the table.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: Vec<(Instant, u32)>,
    /// Where in the heap each flow is.
    places: Vec<u32>,
}

impl Deadlines {
    /// Wake this flow at `when` or earlier.
    pub fn set(&mut self, flow: u32, when: Instant) {
        let index = flow as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, NOWHERE);
        }
        let place = self.places[index];
        if place == NOWHERE {
            self.heap.push((when, flow));
            self.rise(self.heap.len() - 1);
        } else if when < self.heap[place as usize].0 {
            self.heap[place as usize].0 = when;
            self.rise(place as usize);
        }
    }

    /// Forget this flow.
    pub fn remove(&mut self, flow: u32) {
        let Some(&place) = self.places.get(flow as usize) else {
            return;
        };
        if place == NOWHERE {
            return;
        }
        self.places[flow as usize] = NOWHERE;
        let place = place as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.sink(place);
            self.rise(place);
        }
    }

    /// The next time to look.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&(when, _)| when)
    }

    /// Flows that wait for something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// None waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// A flow whose time has come, taken out.
    pub fn expired(&mut self, now: Instant) -> Option<u32> {
        let &(when, flow) = self.heap.first()?;
        if when > now {
            return None;
        }
        self.remove(flow);
        Some(flow)
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.heap.swap(parent, place);
            self.note(place);
            place = parent;
        }
        self.note(place);
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let mut least = 2 * place + 1;
            if least >= self.heap.len() {
                break;
            }
            if least + 1 < self.heap.len() && self.heap[least + 1].0 < self.heap[least].0 {
                least += 1;
            }
            if self.heap[place].0 <= self.heap[least].0 {
                break;
            }
            self.heap.swap(place, least);
            self.note(place);
            place = least;
        }
        self.note(place);
    }

    fn note(&mut self, place: usize) {
        let flow = self.heap[place].1;
        self.places[flow as usize] =
            u32::try_from(place).expect("one entry for each flow, whose number has 32 bits");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn wakes_in_order_and_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadlines = Deadlines::default();
        let mut state = 7u64;
        let mut model = std::collections::BTreeMap::new();
        for round in 0..20_000u64 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let flow = u32::try_from(state >> 58).expect("six bits");
            let when = round + (state >> 33) % 50;
            match (state >> 20) % 4 {
                0 => {
                    deadlines.remove(flow);
                    model.remove(&flow);
                }
                1 => {
                    let woken = deadlines.expired(at(round));
                    match woken {
                        Some(flow) => {
                            let due = model.remove(&flow).expect("waits");
                            assert!(due <= round, "{flow} woken at {round} for {due}");
                            assert!(model.values().all(|&other| other >= due));
                        }
                        None => assert!(model.values().all(|&due| due > round)),
                    }
                }
                _ => {
                    deadlines.set(flow, at(when));
                    let due = model.entry(flow).or_insert(when);
                    *due = when.min(*due);
                }
            }
            assert_eq!(deadlines.next(), model.values().min().map(|&ms| at(ms)));
        }
    }
}
