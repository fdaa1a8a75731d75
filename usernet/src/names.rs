//! Which of the host's name servers is asked.
//!
//! The guest has one address for all of them. A server that does not answer is seen by this: somebody asks again, later
//! than [`limits::NAMES_PATIENCE`] after a question that has no answer. Then the server is passed over for a while, and
//! the question goes to the next one; whoever asks from the port of before gets a new flow for that. A server that
//! refuses (an ICMP message, a reset) is passed over at once. When all are, the one that was seen first has the next try.
//!
//! A connection to a server is such a question, and its being made the answer. One that ends before because of the guest or
//! of us says nothing of the server ([`blames`], [`Resolvers::withdrawn`]).
//!
//! The servers of the guest's own family come first, then those of the other: an answer is an answer.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use crate::config::{Config, Families};
use crate::event::{Errno, FlowId};
use crate::limits;

/// The servers, and what is known of them.
#[derive(Debug, Default)]
pub struct Resolvers {
    order: Families<Vec<IpAddr>>,
    /// Few: [`limits::NAME_SERVERS`].
    seen: Vec<(IpAddr, Seen)>,
    /// Connections that are being made, the oldest first: the latest of them, [`limits::NAMES_CONNECTING`] at most.
    connecting: VecDeque<Attempt>,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    flow: FlowId,
    server: IpAddr,
    since: Instant,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The first question since the last answer.
    asked: Option<Instant>,
    /// It is passed over since.
    failed: Option<Instant>,
}

impl Resolvers {
    /// The first server of each family, and none behind it.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let first = |family: &Option<crate::config::Family>| {
            let server = family.as_ref().and_then(|family| family.dns_host);
            server.map(|server| vec![server])
        };
        let mut resolvers = Self::default();
        resolvers.set(Families {
            v4: first(&config.families.v4),
            v6: first(&config.families.v6),
        });
        resolvers
    }

    /// The host has these servers now, in the order of their turns.
    pub fn set(&mut self, order: Families<Vec<IpAddr>>) {
        let mut seen = Vec::new();
        for &server in order.v4.iter().chain(&order.v6).flatten() {
            if seen.iter().all(|(known, _)| *known != server) {
                seen.push((server, self.of(server).copied().unwrap_or_default()));
            }
        }
        self.order = order;
        self.seen = seen;
    }

    /// The server for a question of the guest to an address of this family.
    #[must_use]
    pub fn choose(&self, now: Instant, family: IpAddr) -> Option<IpAddr> {
        let order = self.order.of(family)?;
        let failed = |server: &IpAddr| self.of(*server).and_then(|seen| seen.since(now));
        let good = order.iter().find(|server| failed(server).is_none());
        let oldest = || order.iter().min_by_key(|server| failed(server));
        good.or_else(oldest).copied()
    }

    /// A question was sent.
    pub fn asked(&mut self, now: Instant, server: IpAddr) {
        if let Some(seen) = self.of_mut(server) {
            let passed_over = seen.since(now).is_some();
            if passed_over {
                // All are, and this one was the first: now it is the last.
                (seen.asked, seen.failed) = (None, Some(now));
                return;
            }
            if seen.failed.is_some() || seen.is_silent(now) {
                *seen = Seen::default();
            }
            seen.asked = seen.asked.or(Some(now));
        }
    }

    /// Whether another server would be asked instead of this one, of which somebody still waits for an answer.
    #[must_use]
    pub fn has_better(&self, now: Instant, family: IpAddr, server: IpAddr) -> bool {
        let passed_over = self.of(server).is_none_or(|seen| seen.since(now).is_some());
        passed_over && self.choose(now, family) != Some(server)
    }

    /// It has answered.
    pub fn answered(&mut self, server: IpAddr) {
        if let Some(seen) = self.of_mut(server) {
            *seen = Seen::default();
        }
    }

    /// It cannot be asked.
    pub fn failed(&mut self, now: Instant, server: IpAddr) {
        if let Some(seen) = self.of_mut(server) {
            *seen = Seen {
                asked: None,
                failed: Some(now),
            };
        }
    }

    /// A flow connects to a server.
    pub fn connects(&mut self, now: Instant, flow: FlowId, server: IpAddr) {
        self.asked(now, server);
        if self.connecting.len() >= limits::NAMES_CONNECTING
            && let Some(oldest) = self.connecting.pop_front()
        {
            self.withdraw(now, oldest);
        }
        self.connecting.push_back(Attempt {
            flow,
            server,
            since: now,
        });
    }

    /// A flow is connected, to a server or to anybody.
    pub fn connected(&mut self, flow: FlowId) {
        if let Some(attempt) = self.take(flow) {
            self.answered(attempt.server);
        }
    }

    /// A flow cannot be connected, to a server or to anybody.
    pub fn not_connected(&mut self, now: Instant, flow: FlowId, error: Errno) {
        match self.take(flow) {
            Some(attempt) if blames(error) => self.failed(now, attempt.server),
            Some(attempt) => self.withdraw(now, attempt),
            None => {}
        }
    }

    /// A flow has ended, to a server or to anybody.
    pub fn withdrawn(&mut self, now: Instant, flow: FlowId) {
        if let Some(attempt) = self.take(flow) {
            self.withdraw(now, attempt);
        }
    }

    /// What is not waited for any more is no question, unless the server has been silent for long enough.
    fn withdraw(&mut self, now: Instant, attempt: Attempt) {
        let Attempt { server, since, .. } = attempt;
        let others = self
            .connecting
            .iter()
            .filter(|other| other.server == server);
        let first = others.map(|other| other.since).min();
        if let Some(seen) = self.of_mut(server)
            && seen.asked == Some(since)
            && !seen.is_silent(now)
        {
            seen.asked = first;
        }
    }

    /// The attempt of this flow; it is none any more.
    fn take(&mut self, flow: FlowId) -> Option<Attempt> {
        let mut attempts = self.connecting.iter();
        let place = attempts.position(|attempt| attempt.flow == flow)?;
        self.connecting.remove(place)
    }

    fn of(&self, server: IpAddr) -> Option<&Seen> {
        let found = self.seen.iter().find(|(known, _)| *known == server);
        found.map(|(_, seen)| seen)
    }

    fn of_mut(&mut self, server: IpAddr) -> Option<&mut Seen> {
        let found = self.seen.iter_mut().find(|(known, _)| *known == server);
        found.map(|(_, seen)| seen)
    }
}

/// Whether an error is the server's: it refuses, resets, does not answer or is not to be reached. What we lack ourselves,
/// or what its datagrams are too large for, is not.
#[must_use]
pub fn blames(error: Errno) -> bool {
    matches!(
        error.0,
        libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::ETIMEDOUT
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENETUNREACH
    )
}

impl Seen {
    fn is_silent(&self, now: Instant) -> bool {
        self.asked
            .is_some_and(|asked| now.saturating_duration_since(asked) >= limits::NAMES_PATIENCE)
    }

    /// Since when it is passed over, if it is.
    fn since(&self, now: Instant) -> Option<Instant> {
        let silent = self.asked.filter(|_| self.is_silent(now));
        let since = self.failed.or(silent)?;
        let over = now.saturating_duration_since(since) >= limits::NAMES_PASSED_OVER;
        (!over).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn resolvers() -> Resolvers {
        let mut resolvers = Resolvers::default();
        resolvers.set(Families {
            v4: Some(vec![ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::1")]),
            v6: Some(vec![ip("fd00::1"), ip("10.0.0.1"), ip("10.0.0.2")]),
        });
        resolvers
    }

    #[test]
    fn who_is_silent_is_passed_over() {
        let mut resolvers = resolvers();
        let now = crate::local::tests::start();
        let at = |seconds| now + Duration::from_secs(seconds);
        let v4 = ip("0.0.0.0");
        assert_eq!(resolvers.choose(now, v4), Some(ip("10.0.0.1")));
        resolvers.asked(now, ip("10.0.0.1"));
        assert_eq!(resolvers.choose(at(1), v4), Some(ip("10.0.0.1")));
        assert!(!resolvers.has_better(at(1), v4, ip("10.0.0.1")));
        assert!(resolvers.has_better(at(2), v4, ip("10.0.0.1")));
        assert_eq!(resolvers.choose(at(2), v4), Some(ip("10.0.0.2")));
        resolvers.asked(at(2), ip("10.0.0.2"));
        resolvers.answered(ip("10.0.0.2"));
        assert_eq!(resolvers.choose(at(29), v4), Some(ip("10.0.0.2")));
        // It gets another chance, and loses it again.
        assert_eq!(resolvers.choose(at(30), v4), Some(ip("10.0.0.1")));
        resolvers.asked(at(30), ip("10.0.0.1"));
        assert_eq!(resolvers.choose(at(31), v4), Some(ip("10.0.0.1")));
        resolvers.failed(at(30), ip("10.0.0.1"));
        assert_eq!(resolvers.choose(at(31), v4), Some(ip("10.0.0.2")));
        resolvers.answered(ip("10.0.0.1"));
        assert_eq!(resolvers.choose(at(31), v4), Some(ip("10.0.0.1")));
    }

    #[test]
    fn the_other_family_and_nobody() {
        let mut resolvers = resolvers();
        let now = crate::local::tests::start();
        let v6 = ip("::");
        assert_eq!(resolvers.choose(now, v6), Some(ip("fd00::1")));
        resolvers.failed(now, ip("fd00::1"));
        assert_eq!(resolvers.choose(now, v6), Some(ip("10.0.0.1")));
        // All have failed: the first to fail is the first to be asked again.
        resolvers.failed(now + Duration::from_secs(1), ip("10.0.0.1"));
        resolvers.failed(now + Duration::from_secs(2), ip("10.0.0.2"));
        let later = now + Duration::from_secs(3);
        assert_eq!(resolvers.choose(later, v6), Some(ip("fd00::1")));
        resolvers.asked(later, ip("fd00::1"));
        assert_eq!(resolvers.choose(later, v6), Some(ip("10.0.0.1")));
        resolvers.set(Families::default());
        assert_eq!(resolvers.choose(later, v6), None);
    }

    /// An attempt that is given up by the guest or by us is no question, one that has lasted too long is.
    #[test]
    fn who_could_not_answer_is_not_blamed() {
        let mut resolvers = resolvers();
        let now = crate::local::tests::start();
        let at = |millis| now + Duration::from_millis(millis);
        let flow = |index| FlowId {
            index,
            generation: 0,
        };
        let (v4, server) = (ip("0.0.0.0"), ip("10.0.0.1"));
        resolvers.connects(now, flow(1), server);
        resolvers.withdrawn(at(1), flow(1));
        assert_eq!(resolvers.choose(at(9_000), v4), Some(server));
        resolvers.connects(at(9_000), flow(2), server);
        resolvers.not_connected(at(9_001), flow(2), Errno(libc::EMFILE));
        assert_eq!(resolvers.choose(at(18_000), v4), Some(server));
        // More than are watched: the oldest is forgotten, the others are not.
        for index in 0..=u32::try_from(limits::NAMES_CONNECTING).unwrap() {
            resolvers.connects(at(18_000 + u64::from(index)), flow(10 + index), server);
        }
        assert_eq!(resolvers.choose(at(20_000), v4), Some(server));
        assert_ne!(resolvers.choose(at(20_001), v4), Some(server));
        resolvers.withdrawn(at(20_001), flow(11));
        assert_ne!(resolvers.choose(at(20_001), v4), Some(server));
    }

    /// What is known of a server stays when the list changes.
    #[test]
    fn another_list() {
        let mut resolvers = resolvers();
        let now = crate::local::tests::start();
        resolvers.failed(now, ip("10.0.0.1"));
        resolvers.set(Families {
            v4: Some(vec![ip("10.0.0.1"), ip("10.0.0.9")]),
            v6: None,
        });
        let chosen = resolvers.choose(now, ip("0.0.0.0"));
        assert_eq!(chosen, Some(ip("10.0.0.9")));
    }
}
