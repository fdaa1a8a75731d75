//! What is done beside forwarding: listeners follow the other side's, a client of the control socket replaces them,
//! counters are shown, and questions are answered.
//!
//! The loop returns to [`super::run`] when one of these is due, at a time or because a descriptor is ready. Nothing here
//! waits, and what could take long is done in slices. With nothing to do there is no time either, so that an idle forwarder
//! sleeps.

use std::io::Write;
use std::time::{Duration, Instant};

use ask::Question;

use super::answers::Answers;
use super::control::{Control, Heard};
use super::event_loop::Loop;
use super::listeners::Listeners;
use crate::config::{Level, Listener, Notice, Off};
use crate::control::{self, Session, Tables};
use crate::event::Side;
use crate::limits;
use crate::ports::{self, Rule, Surroundings};
use crate::stats::{Counters, Table};

/// All of it.
#[derive(Debug)]
pub struct Chores {
    listeners: Listeners,
    control: Option<Control>,
    surroundings: Surroundings,
    off: Off,
    /// When to look who listens.
    follow: Option<Instant>,
    stats: Option<Stats>,
    answers: Answers,
}

/// What the chores depend on, beside sockets.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Which families are on.
    pub surroundings: Surroundings,
    /// What is switched off.
    pub off: Off,
    /// How often counters are shown.
    pub stats: Option<Duration>,
}

/// Counters, as they were shown last.
#[derive(Debug)]
struct Stats {
    interval: Duration,
    began: Instant,
    shown: Instant,
    counters: Counters,
}

impl Chores {
    /// With a first look: what is listened on already is forwarded when we are ready. What there is to say about it.
    pub fn new(
        listeners: Listeners,
        control: Option<Control>,
        rules: Rules,
        forwarding: &mut Loop,
    ) -> (Self, Vec<Notice>) {
        let now = Instant::now();
        let stats = rules.stats.map(|interval| Stats {
            interval,
            began: now,
            shown: now,
            counters: Counters::default(),
        });
        let mut chores = Self {
            listeners,
            control,
            surroundings: rules.surroundings,
            off: rules.off,
            follow: None,
            stats,
            answers: Answers::new(now),
        };
        let mut notices = Vec::new();
        if chores.listeners.follows() {
            notices = chores.follow(now, forwarding);
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
        if let Some(control) = &mut self.control {
            let heard = control.due(now, forwarding);
            notices.extend(self.heard(heard, now, forwarding));
        }
        if let Some(stats) = &mut self.stats {
            stats.due(now, forwarding);
        }
        let listeners = &self.listeners;
        self.answers.due(now, forwarding, || listeners.open());
        self.set_alarm(forwarding);
        notices
    }

    /// Somebody asks what there is.
    pub fn asked(&mut self, question: Question, forwarding: &mut Loop) {
        self.answers.ask(question);
        self.set_alarm(forwarding);
    }

    /// Something watched is ready. What there is to say about it.
    pub fn ready(&mut self, number: u32, forwarding: &mut Loop) -> Vec<Notice> {
        let now = Instant::now();
        if number == Answers::NUMBER {
            self.answers.ready(forwarding);
            self.set_alarm(forwarding);
        }
        let Some(control) = &mut self.control else {
            return Vec::new();
        };
        let heard = match number {
            Control::LISTENER => control.come(now, forwarding, || {
                Session::new(self.listeners.table(), self.surroundings, self.off)
            }),
            Control::CLIENT => control.ready(forwarding),
            _ => Heard::Nothing,
        };
        let notices = self.heard(heard, now, forwarding);
        self.set_alarm(forwarding);
        notices
    }

    fn heard(&mut self, heard: Heard, now: Instant, forwarding: &mut Loop) -> Vec<Notice> {
        match heard {
            Heard::Nothing => Vec::new(),
            Heard::Wrong(text) => vec![refused(&text)],
            Heard::Tables(tables) => self.replace(tables, now, forwarding),
        }
    }

    /// Another table, if it can be one.
    fn replace(&mut self, tables: Tables, now: Instant, forwarding: &mut Loop) -> Vec<Notice> {
        let Tables { host, guest } = tables;
        let mut rules = host.unwrap_or_else(|| self.of(Side::Host));
        rules.extend(guest.unwrap_or_else(|| self.of(Side::Guest)));
        let table = match ports::table(rules, &self.surroundings, &self.off) {
            Ok(table) if table == self.listeners.table() => return Vec::new(),
            Ok(table) => table,
            Err(error) => return vec![refused(&error.to_string())],
        };
        let mut notices = report(&table);
        self.listeners.replace(table, forwarding);
        notices.extend(self.follow(now, forwarding));
        notices.extend(self.listeners.open_some(forwarding));
        notices
    }

    fn of(&self, side: Side) -> Vec<Listener> {
        let rules = self.listeners.table().iter();
        rules.filter(|rule| rule.side == side).cloned().collect()
    }

    fn follow(&mut self, now: Instant, forwarding: &mut Loop) -> Vec<Notice> {
        let follows = self.listeners.follows();
        self.follow = follows.then(|| now + limits::FOLLOW_INTERVAL);
        self.listeners.follow(forwarding)
    }

    fn set_alarm(&self, forwarding: &mut Loop) {
        let slice = self.listeners.waits().then(Instant::now);
        let client = self.control.as_ref().and_then(Control::deadline);
        let stats = self
            .stats
            .as_ref()
            .map(|stats| stats.shown + stats.interval);
        let answer = self.answers.deadline(Instant::now());
        let times = [self.follow, slice, client, stats, answer];
        forwarding.wake_at(times.into_iter().flatten().min());
    }
}

impl Stats {
    /// Show all, if it is time. Who does not read it does not want to know.
    fn due(&mut self, now: Instant, forwarding: &mut Loop) {
        if now < self.shown + self.interval {
            return;
        }
        let counters = forwarding.counters();
        let forwarder = forwarding.forwarder();
        let table = Table {
            now: &counters,
            before: &self.counters,
            elapsed: (now - self.began, now - self.shown),
            flows: forwarder.flows(),
        };
        let text = table.to_string();
        std::io::stderr()
            .write_all(text.as_bytes())
            .unwrap_or_default();
        self.shown = now;
        self.counters = counters;
    }
}

fn refused(why: &str) -> Notice {
    Notice {
        level: Level::Warning,
        text: format!("New forwarding rules refused: {why}"),
    }
}

fn report(table: &[Listener]) -> Vec<Notice> {
    let lines = control::TABLES.iter().flat_map(|(side, name)| {
        let rules = table.iter().filter(|rule| rule.side == *side);
        let rules = rules.map(|rule| format!("    {}", Rule(rule)));
        std::iter::once(format!("New forwarding rules for {name}:")).chain(rules)
    });
    let level = Level::Info;
    lines.map(|text| Notice { level, text }).collect()
}
