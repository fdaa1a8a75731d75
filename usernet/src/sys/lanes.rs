//! Which of the tap's queues frames cross, so that a flood of the guest's does not drown its own streams.
//!
//! What the guest sends waits in the tap until we read it, a thousand frames at most, and what comes then is lost. One
//! queue for all means that whoever sends most gets through most: half a million refused SYNs a second leave a stream
//! two hundredths of its throughput. So the tap gets several queues when its one is not emptied for some milliseconds and
//! small frames are what is in it; before, they would cost each new flow a part of a microsecond. The kernel puts a flow's
//! frames into the queue by which we last wrote to that flow (`tun_flow_update`, drivers/net/tun.c), and frames of flows
//! that we never wrote to into one that their hash names:
//!
//! ```text
//! guest's frames    what we wrote to their flow        queue    read
//!   under way       Lane::Steady                       0        up to 64 in a round, or all
//!   refused         Lane::Last                         1        few, while there is something in queue 0
//!   datagrams       Lane::Common                       2 to 15  likewise
//!   unknown         nothing                            0 to 15, by hash
//! ```
//!
//! What is lost of a flood is lost before it costs us anything. If the other queues are not emptied for twenty milli-
//! seconds beside flows that are under way, they are *held*: nobody is woken for them, and they are visited once a
//! millisecond for a quarter of it, until they have been found empty a few times. New flows that come by queue 0 are
//! rationed meanwhile. On a kernel or a tap with one queue all this is void.

use std::time::{Duration, Instant};

use crate::event::Lane;

/// Frames that are read from a queue before others have their turn.
const FRAMES: usize = 64;
/// The same for frames of flows that are not under way, beside some that are, or while they are held.
const BESIDE: usize = 4;
/// The same for flows that are under way, while the others are behind: as many as the tap holds, since what is lost now is
/// lost of the wrong ones.
const ALL: usize = 1000;
/// How long the others may be behind before they are held: longer than it takes to open some hundred flows at once.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long nothing may be under way until they are let go: a stream that has suffered says nothing for a while.
const SILENCE: Duration = Duration::from_secs(1);
/// How long the only queue may be behind before it gets others, and the mean size of its frames then, bytes.
const HASTE: Duration = Duration::from_millis(4);
const SMALL: u64 = 2048;
/// How often queues that are held are visited.
const PERIOD: Duration = Duration::from_millis(1);
/// How long a visit takes at most.
const VISIT: Duration = Duration::from_micros(250);
/// So many visits find nothing left before the queues are let go.
const CALM: u32 = 16;

/// What is known of the queues.
#[derive(Debug)]
pub struct Lanes {
    habits: Vec<Habit>,
    /// The last round in which the steady queue was not empty, and when that was.
    steady: u64,
    steady_at: Option<Instant>,
    /// Of another queue there was more than its share in this round.
    cut: bool,
    /// Since when that has been so in each round.
    behind: Option<Instant>,
    held: Option<Held>,
    /// The queue that a visit begins with.
    first: u32,
    /// Frames of the others, in all.
    read: u64,
    /// The tap can have more queues.
    can_widen: bool,
    /// Frames and bytes of the only queue since it has been behind.
    crowd: (u64, u64),
}

/// Queues that are visited instead of waited for.
#[derive(Debug, Clone, Copy)]
struct Held {
    next: Instant,
    /// Visits that left nothing, one after another.
    calm: u32,
}

/// What to do about the other queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Let the tap have all its queues, and tell [`Lanes::widened`].
    Widen,
    /// Do not wait for them any more.
    Hold,
    /// Wait for them again.
    Release,
}

/// How many frames a queue has had of late. A guest that waits for each answer sends one at a time, and to ask for
/// another would be one call in seven.
#[derive(Debug, Clone, Default)]
struct Habit {
    /// The last round that read frames.
    round: u64,
    /// How many it read.
    frames: usize,
}

impl Lanes {
    /// For so many queues, or more.
    #[must_use]
    pub fn new(queues: usize, can_widen: bool) -> Self {
        Self {
            can_widen,
            crowd: (0, 0),
            habits: vec![Habit::default(); queues],
            steady: 0,
            steady_at: None,
            cut: false,
            behind: None,
            held: None,
            first: 0,
            read: 0,
        }
    }

    /// There are so many queues now, and will be no more.
    pub fn widened(&mut self, queues: usize) {
        self.habits.resize(queues, Habit::default());
        self.can_widen = false;
        self.behind = None;
    }

    /// How many frames of other queues were read so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    /// The queues of flows that are not under way.
    pub fn others(&self) -> impl Iterator<Item = u32> + use<> {
        let count = u32::try_from(self.habits.len()).unwrap_or(1).max(1) - 1;
        let first = self.first;
        (0..count).map(move |i| 1 + (first + i) % count)
    }

    /// How many frames to read of a queue that has some: what is left there wakes us again.
    pub fn begin(&mut self, queue: u32, now: Instant, round: u64) -> usize {
        let beside = queue != STEADY && self.steady + 1 >= round && self.steady > 0;
        if queue == STEADY {
            self.steady = round;
            self.steady_at = Some(now);
        }
        let Some(habit) = self.habits.get_mut(queue as usize) else {
            return 0;
        };
        let many = habit.frames > 1 || habit.round + 1 >= round;
        *habit = Habit { round, frames: 0 };
        match (beside, many) {
            _ if queue == STEADY && self.behind.is_some() && !self.can_widen => ALL,
            _ if queue != STEADY && self.held.is_some() => BESIDE,
            (_, false) => 1,
            (true, true) => BESIDE,
            (false, true) => FRAMES,
        }
    }

    /// So many frames and bytes were read, and whether there may be more.
    pub fn end(&mut self, queue: u32, (frames, bytes): (usize, usize), more: bool) {
        let Some(habit) = self.habits.get_mut(queue as usize) else {
            return;
        };
        habit.frames = frames;
        if queue != STEADY {
            self.read += frames as u64;
            self.cut |= more && frames > 1;
        } else if self.can_widen {
            self.crowd.0 += frames as u64;
            self.crowd.1 += bytes as u64;
            self.cut |= more && frames > 1;
        }
    }

    /// The round is over.
    pub fn end_round(&mut self, now: Instant) -> Option<Switch> {
        let cut = std::mem::take(&mut self.cut);
        let steady = self.steady_at.is_some_and(|at| now < at + SILENCE);
        if let Some(held) = &mut self.held {
            let over = !steady || held.calm >= CALM;
            if over {
                self.held = None;
                self.behind = None;
            }
            return over.then_some(Switch::Release);
        }
        if !cut {
            self.behind = None;
            self.crowd = (0, 0);
            return None;
        }
        if self.can_widen {
            return self.should_widen(now).then_some(Switch::Widen);
        }
        let since = *self.behind.get_or_insert(now);
        let hold = steady && now >= since + PATIENCE;
        hold.then(|| {
            let (next, calm) = (now, 0);
            self.held = Some(Held { next, calm });
            Switch::Hold
        })
    }

    /// The only queue is behind.
    fn should_widen(&mut self, now: Instant) -> bool {
        let since = *self.behind.get_or_insert(now);
        let (frames, bytes) = self.crowd;
        now >= since + HASTE && bytes < frames * SMALL
    }

    /// When the queues that are held are to be visited.
    #[must_use]
    pub fn visit(&self) -> Option<Instant> {
        self.held.map(|held| held.next)
    }

    /// Whether a visit that began then goes on, after some frames of each queue, or of none.
    pub fn goes_on(&mut self, began: Instant, now: Instant, empty: bool) -> bool {
        let goes_on = !empty && now < began + VISIT;
        if let Some(held) = self.held.as_mut().filter(|_| !goes_on) {
            held.next = now + (PERIOD - VISIT);
            held.calm = if empty { held.calm + 1 } else { 0 };
            self.first = self.first.wrapping_add(1) % 0xffff;
        }
        goes_on
    }
}

/// The queue of flows that are under way.
const STEADY: u32 = 0;

/// The queue to write a frame by, of so many; `flow` is any number that frames of a flow have in common.
#[must_use]
pub fn queue(lane: Lane, flow: u16, queues: usize) -> usize {
    match (lane, queues) {
        (Lane::Steady, _) | (_, 0 | 1) => STEADY as usize,
        (Lane::Last, _) | (_, 2) => 1,
        (Lane::Common, queues) => 2 + usize::from(flow) % (queues - 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_queue_takes_all() {
        for lane in [Lane::Steady, Lane::Common, Lane::Last] {
            assert_eq!(queue(lane, 77, 1), 0);
            assert!(queue(lane, 77, 2) < 2);
        }
    }

    #[test]
    fn only_flows_under_way_have_the_first() {
        for flow in 0..100 {
            assert!((2..8).contains(&queue(Lane::Common, flow, 8)));
            assert_eq!(queue(Lane::Last, flow, 8), 1);
            assert_eq!(queue(Lane::Steady, flow, 8), 0);
        }
    }

    #[test]
    fn others_have_less_beside_flows_under_way() {
        let mut lanes = Lanes::new(8, false);
        let now = Instant::now();
        assert_eq!(lanes.begin(3, now, 10), 1);
        assert_eq!(lanes.begin(3, now, 11), FRAMES);
        lanes.begin(STEADY, now, 12);
        assert_eq!(lanes.begin(3, now, 12), BESIDE);
        assert_eq!(lanes.begin(3, now, 13), BESIDE);
        assert_eq!(lanes.begin(3, now, 14), FRAMES);
    }

    /// A round of a millisecond, in which the queues have more than their share.
    fn crowded(lanes: &mut Lanes, now: Instant, round: u64, steady: bool) -> Option<Switch> {
        if steady {
            lanes.begin(STEADY, now, round);
        }
        let share = lanes.begin(5, now, round);
        lanes.end(5, (share, 60 * share), true);
        lanes.end_round(now)
    }

    #[test]
    fn held_and_let_go() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut lanes = Lanes::new(8, false);
        let held = (1..200).find(|&ms| crowded(&mut lanes, at(ms), ms, true).is_some());
        assert_eq!(held, Some(21));
        assert_eq!(lanes.visit(), Some(at(21)));
        assert!(lanes.goes_on(at(103), at(103), false));
        assert!(!lanes.goes_on(at(103), at(103) + VISIT, false));
        assert_eq!(lanes.visit(), Some(at(104)));
        lanes.begin(STEADY, at(104), 104);
        for visit in 0..CALM {
            assert_eq!(lanes.end_round(at(104)), None, "{visit}");
            assert!(!lanes.goes_on(at(104), at(104), true));
        }
        assert_eq!(lanes.end_round(at(105)), Some(Switch::Release));
        assert_eq!(lanes.visit(), None);
    }

    #[test]
    fn nobody_is_held_for_nobody() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut lanes = Lanes::new(8, false);
        assert!((1..500).all(|ms| crowded(&mut lanes, at(ms), ms, false).is_none()));
        let held = (500..900).find(|&ms| crowded(&mut lanes, at(ms), ms, true).is_some());
        assert_eq!(held, Some(500));
        lanes.end_round(at(1499));
        assert!(lanes.visit().is_some());
        assert_eq!(lanes.end_round(at(1500)), Some(Switch::Release));
    }

    #[test]
    fn small_frames_widen_the_tap() {
        let begin = Instant::now();
        let widens = |size: usize, most: u64| {
            let mut lanes = Lanes::new(1, true);
            (1..most).find(|&round| {
                let now = begin + Duration::from_millis(round);
                let share = lanes.begin(STEADY, now, round);
                lanes.end(STEADY, (share, size * share), true);
                lanes.end_round(now) == Some(Switch::Widen)
            })
        };
        assert_eq!(widens(60, 100), Some(5));
        assert_eq!(widens(60_000, 1000), None);
        let mut lanes = Lanes::new(1, true);
        lanes.widened(16);
        assert_eq!(lanes.others().count(), 15);
    }

    #[test]
    fn every_other_queue_is_visited() {
        let mut lanes = Lanes::new(8, false);
        lanes.first = 5;
        assert_eq!(lanes.others().collect::<Vec<_>>(), [6, 7, 1, 2, 3, 4, 5]);
        assert_eq!(Lanes::new(1, false).others().count(), 0);
        assert_eq!(Lanes::new(0, false).others().count(), 0);
    }
}
