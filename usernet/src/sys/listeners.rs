//! The listening sockets of a run, while it runs: they follow the other side's, and the table behind them may be replaced.
//!
//! What to close and what to open is decided by [`crate::ports::follow`]; the sockets themselves belong to the loop. Many
//! are opened in slices, so that traffic goes on between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::event_loop::{Listening as Socket, Loop};
use super::listen::{self, Bound, Listening};
use super::options;
use super::scan::Scan;
use crate::account;
use crate::config::{Level, Listener, Notice};
use crate::event::{ListenerId, Side};
use crate::limits;
use crate::ports::follow::{self, Look, Seen, Sides, Spot};

/// The sockets, and what they are for.
#[derive(Debug)]
pub struct Listeners {
    wanted: Listening,
    /// Places in the loop.
    open: BTreeMap<Spot, Vec<u32>>,
    /// How many those are.
    sockets: u64,
    /// Descriptors that these and flows share.
    descriptors: u64,
    /// What `open` means; none: not known any more.
    ours: Option<Sides<Seen>>,
    /// To be opened, as soon as traffic allows.
    waiting: VecDeque<Spot>,
    look: Sides<Look>,
    scans: Sides<Option<Scan>>,
    /// What was told already, of those that follow or need not be had.
    told: BTreeSet<&'static str>,
    /// Listeners of the table of which it was told that they cannot be had.
    refused: BTreeSet<u32>,
}

impl Listeners {
    /// Those that were bound at the start become the loop's.
    ///
    /// # Errors
    /// Nobody can wait for them.
    pub fn new(
        wanted: Listening,
        descriptors: u64,
        bound: Vec<Bound>,
        diagnosis: Vec<(Side, OwnedFd)>,
        forwarding: &mut Loop,
    ) -> Result<Self, Errno> {
        let mut scans = Sides::<Option<Scan>>::default();
        for (side, socket) in diagnosis {
            *scans.of_mut(side) = Some(Scan::new(socket));
        }
        let mut listeners = Self {
            look: follow::look(&wanted.listeners),
            wanted,
            open: BTreeMap::new(),
            sockets: 0,
            descriptors,
            ours: None,
            waiting: VecDeque::new(),
            scans,
            told: BTreeSet::new(),
            refused: BTreeSet::new(),
        };
        for bound in bound {
            let (rule, port) = (bound.listener, bound.port);
            listeners.add(Spot { rule, port }, bound.fd, forwarding)?;
        }
        listeners.leave_to_flows(forwarding);
        Ok(listeners)
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &[Listener] {
        &self.wanted.listeners
    }

    /// The table, and how many sockets are open for each rule.
    #[must_use]
    pub fn open(&self) -> Vec<account::Listening> {
        let mut sockets = vec![0; self.wanted.listeners.len()];
        for (spot, places) in &self.open {
            if let Some(sockets) = sockets.get_mut(spot.rule as usize) {
                *sockets += places.len();
            }
        }
        let rules = self.wanted.listeners.iter().cloned().zip(sockets);
        rules
            .map(|(rule, sockets)| account::Listening { rule, sockets })
            .collect()
    }

    /// Whether somebody has to be followed.
    #[must_use]
    pub const fn follows(&self) -> bool {
        !self.look.host.is_nothing() || !self.look.guest.is_nothing()
    }

    /// Whether [`Self::open_some`] has something to do.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Look who listens, close what leads to nobody any more, and note what is to be opened.
    pub fn follow(&mut self, forwarding: &mut Loop) -> Vec<Notice> {
        let seen = self
            .scan(Side::Host)
            .and_then(|host| self.scan(Side::Guest).map(|guest| Sides { host, guest }));
        let seen = match seen {
            Ok(seen) => seen,
            // The kernel could not tell all at once: what we know will do.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => return Vec::new(),
            Err(error) => {
                let text = format!("Couldn't ask who listens: {}", error.desc());
                return self.once("scan", text);
            }
        };
        let rules = &self.wanted.listeners;
        let ours = self
            .ours
            .get_or_insert_with(|| follow::ours(rules, &self.open));
        let change = follow::follow(rules, &self.open, seen, ours);
        for spot in change.close {
            self.close(spot, forwarding);
        }
        let follows = |spot: &Spot| rule(&self.wanted, *spot).is_some_and(|rule| rule.follow);
        self.waiting.retain(|spot| !follows(spot));
        self.waiting.extend(change.open);
        self.leave_to_flows(forwarding);
        Vec::new()
    }

    fn scan(&mut self, side: Side) -> Result<Seen, Errno> {
        let look = *self.look.of(side);
        if look.is_nothing() {
            return Ok(Seen::default());
        }
        let scan = self.scans.of_mut(side).as_mut();
        scan.ok_or(Errno::EOPNOTSUPP)?.read(look)
    }

    /// Open a slice of what waits to be opened. What is said of those that cannot be.
    pub fn open_some(&mut self, forwarding: &mut Loop) -> Vec<Notice> {
        let mut notices = Vec::new();
        let slice = self.waiting.len().min(limits::LISTENERS_AT_ONCE);
        for spot in self.waiting.drain(..slice).collect::<Vec<_>>() {
            let Some(rule) = rule(&self.wanted, spot).cloned() else {
                continue;
            };
            if let Err(error) = self.open_one(spot, &rule, forwarding) {
                notices.extend(self.refused(&rule, spot, error));
            }
        }
        self.leave_to_flows(forwarding);
        notices
    }

    fn open_one(
        &mut self,
        spot: Spot,
        rule: &Listener,
        forwarding: &mut Loop,
    ) -> Result<(), Errno> {
        if self.sockets >= most_listeners(self.descriptors) {
            return Err(Errno::EMFILE);
        }
        let fds = match rule.side {
            Side::Host => listen::bind_port(&self.wanted, rule, spot.port, &mut options::open),
            Side::Guest => {
                listen::bind_port(&self.wanted, rule, spot.port, &mut |family, transport| {
                    forwarding.guest_socket(family, transport)
                })
            }
        };
        for fd in fds? {
            self.add(spot, fd, forwarding)?;
        }
        Ok(())
    }

    /// Nobody asked for these ports by their numbers, unless the listener is neither best effort nor follows.
    fn refused(&mut self, rule: &Listener, spot: Spot, error: Errno) -> Vec<Notice> {
        let failure = listen::refused_later(rule, spot.port, error);
        if !rule.best_effort && !rule.follow {
            let first = self.refused.insert(spot.rule);
            let notice = first.then(|| warning(failure.to_string()));
            return notice.into_iter().collect();
        }
        if error == Errno::EACCES {
            self.once("privileged", failure.to_string())
        } else if error == Errno::EADDRINUSE {
            Vec::new()
        } else {
            self.once("listen", failure.to_string())
        }
    }

    fn once(&mut self, what: &'static str, text: String) -> Vec<Notice> {
        let first = self.told.insert(what);
        first.then(|| warning(text)).into_iter().collect()
    }

    fn add(&mut self, spot: Spot, fd: OwnedFd, forwarding: &mut Loop) -> Result<(), Errno> {
        let Some(rule) = rule(&self.wanted, spot) else {
            return Ok(());
        };
        let place = forwarding.listen(Socket {
            fd,
            transport: rule.transport,
            range: ListenerId(spot.rule),
        })?;
        self.open.entry(spot).or_default().push(place);
        self.sockets += 1;
        self.ours = None;
        Ok(())
    }

    /// What listeners do not take.
    fn leave_to_flows(&self, forwarding: &mut Loop) {
        let left = self.descriptors.saturating_sub(self.sockets);
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        forwarding.forwarder().limit_descriptors(left);
    }

    fn close(&mut self, spot: Spot, forwarding: &mut Loop) {
        for place in self.open.remove(&spot).into_iter().flatten() {
            forwarding.close_listener(place);
            self.sockets -= 1;
        }
        self.ours = None;
    }

    /// Another table from now on. Sockets that it has too stay open.
    pub fn replace(&mut self, table: Vec<Listener>, forwarding: &mut Loop) {
        let old = std::mem::replace(&mut self.wanted.listeners, table);
        let table = &self.wanted.listeners;
        for (spot, places) in std::mem::take(&mut self.open) {
            let Some(new) = follow::carried(&old, table, spot) else {
                for place in places {
                    forwarding.close_listener(place);
                    self.sockets -= 1;
                }
                continue;
            };
            for place in &places {
                forwarding.move_listener(*place, ListenerId(new.rule));
            }
            self.open.insert(new, places);
        }
        forwarding.forwarder().set_listeners(table.clone());
        self.waiting = follow::missing(table, &self.open).into();
        self.look = follow::look(table);
        self.ours = None;
        self.refused.clear();
    }
}

/// Of descriptors that are shared with flows, listeners may have so many: three of four, and not the last ones.
#[must_use]
pub fn most_listeners(descriptors: u64) -> u64 {
    let others = descriptors.saturating_sub(limits::FLOW_DESCRIPTORS);
    others.min(descriptors / 4 * 3)
}

fn rule(wanted: &Listening, spot: Spot) -> Option<&Listener> {
    wanted.listeners.get(spot.rule as usize)
}

const fn warning(text: String) -> Notice {
    Notice {
        level: Level::Warning,
        text,
    }
}
