//! What flows there are, for who asks: counted by kind and state, and those that moved most.
//!
//! The table may be large, and whoever asks must not hold up traffic. So it is walked a part at a time
//! ([`limits::SURVEY_PLACES`]), with rounds in between: a flow that begins or ends meanwhile may be in the answer or not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::{Forwarder, Kind};
use crate::account::{Bound, Line};
use crate::event::{Side, Transport};
use crate::flow::{Class, Tuple};
use crate::limits;

/// A walk through the table.
#[derive(Debug)]
pub struct Survey {
    next: u32,
    most: usize,
    sums: BTreeMap<(&'static str, &'static str), u32>,
    /// By bytes and place.
    top: BTreeMap<(u64, u32), Line>,
}

impl Survey {
    /// The beginning of one that lists so many flows.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            next: 0,
            most,
            sums: BTreeMap::new(),
            top: BTreeMap::new(),
        }
    }

    fn add(&mut self, place: u32, line: Line) {
        *self.sums.entry((line.kind, line.state)).or_default() += 1;
        let bytes = line
            .moved
            .iter()
            .fold(0, |sum: u64, n| sum.wrapping_add(*n));
        self.top.insert((bytes, place), line);
        if self.top.len() > self.most {
            self.top.pop_first();
        }
    }

    /// Flows by kind and state; and those that moved most, in that order.
    #[must_use]
    pub fn found(self) -> (BTreeMap<(&'static str, &'static str), u32>, Vec<Line>) {
        (self.sums, self.top.into_values().rev().collect())
    }
}

impl Forwarder {
    /// The next part; whether that was the last one.
    pub fn survey(&self, now: Instant, survey: &mut Survey) -> bool {
        let end = self.flows.places();
        let last = end.min(survey.next.saturating_add(limits::SURVEY_PLACES));
        for place in survey.next..last {
            if let Some(line) = self.line(now, place) {
                survey.add(place, line);
            }
        }
        survey.next = last;
        last == end
    }

    fn line(&self, now: Instant, place: u32) -> Option<Line> {
        let entry = self.flows.entry_at(place)?;
        let (kind, state, [from, to], inbound) = match &entry.flow.kind {
            Kind::Tcp(tcp) => {
                let ends = ends(tcp.tuple(), tcp.is_guests());
                ("tcp", tcp.state(), ends, !tcp.is_guests())
            }
            Kind::Splice(splice) => {
                let ends = splice.ends();
                let ends = [ends.map(|ends| ends.peer), ends.map(|ends| ends.to)];
                let inbound = splice.began() == Side::Host;
                ("tcp splice", splice.state(), ends, inbound)
            }
            Kind::Datagram(flow) => {
                let kind = match flow.tuple().transport {
                    Transport::Echo => "echo",
                    Transport::Udp | Transport::Tcp => "udp",
                };
                let ends = ends(flow.tuple(), !flow.is_inbound());
                (kind, spoken(flow.is_answered()), ends, flow.is_inbound())
            }
            Kind::Relay(relay) => {
                let ends = [Some(relay.peer), Some(relay.local)];
                let inbound = relay.listener == Side::Host;
                ("udp splice", spoken(relay.is_answered()), ends, inbound)
            }
            Kind::Member(member) => ("group", "open", [None, Some(member.group)], true),
        };
        let long = |since| now.saturating_duration_since(since);
        Some(Line {
            kind,
            state,
            inbound,
            from,
            to,
            host: self.host_end(&entry.flow.kind),
            age: long(entry.began()),
            idle: long(entry.used()),
            moved: entry.moved(),
        })
    }

    /// What the host calls the far end, where the guest calls it otherwise.
    fn host_end(&self, kind: &Kind) -> Option<SocketAddr> {
        let (tuple, host) = match kind {
            Kind::Tcp(tcp) => {
                let far = tcp.tuple().far;
                // Which name server it was is not kept.
                let names = self.translation.is_names(far, Transport::Tcp);
                let host = self.translation.to_host(far, Transport::Tcp);
                (tcp.tuple(), host.filter(|_| !names)?)
            }
            Kind::Datagram(flow) => (flow.tuple(), flow.to()),
            Kind::Splice(_) | Kind::Relay(_) | Kind::Member(_) => return None,
        };
        (host.0 != tuple.far.0).then_some(host.0)
    }

    /// How much of what is bounded is used.
    #[must_use]
    pub fn bounds(&self) -> Vec<Bound> {
        let (partial, partial_bytes) = self.fragments.held();
        let bound = |name, now: usize, most: usize| Bound {
            name,
            now: now as u64,
            most: most as u64,
        };
        let count = |name, now: u32, most: u32| bound(name, now as usize, most as usize);
        vec![
            count("flows", self.flows.len(), self.flows.limit()),
            count(
                "flows' descriptors",
                self.flows.descriptors(),
                self.flows.most_descriptors(),
            ),
            count(
                "handshakes",
                self.flows.count(Class::HalfOpen),
                limits::HALF_OPEN,
            ),
            count(
                "unanswered flows of the guest",
                self.unanswered.count(),
                limits::UNANSWERED,
            ),
            bound(
                "bytes kept for sockets",
                self.shared.kept,
                limits::KEPT_BYTES,
            ),
            bound("datagrams in fragments", partial, limits::PARTIAL_DATAGRAMS),
            bound("bytes of fragments", partial_bytes, limits::PARTIAL_BYTES),
        ]
    }
}

/// Who called, and whom, as the guest sees them.
fn ends(tuple: &Tuple, guests: bool) -> [Option<SocketAddr>; 2] {
    let (guest, far) = (Some(tuple.guest.0), Some(tuple.far.0));
    // The identifier of an echo is no port of the far end's.
    if guests { [guest, far] } else { [far, guest] }
}

const fn spoken(answered: bool) -> &'static str {
    if answered { "open" } else { "one way" }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(kind: &'static str, bytes: u64) -> Line {
        Line {
            kind,
            state: "open",
            inbound: false,
            from: None,
            to: None,
            host: None,
            age: Duration::ZERO,
            idle: Duration::ZERO,
            moved: [bytes, 1],
        }
    }

    #[test]
    fn those_that_moved_most_are_kept() {
        let mut survey = Survey::new(3);
        for (place, bytes) in [5, 900, 7, 900, 3, 40].into_iter().enumerate() {
            let kind = if bytes == 7 { "udp" } else { "tcp" };
            survey.add(u32::try_from(place).unwrap(), line(kind, bytes));
        }
        let (sums, top) = survey.found();
        let bytes: Vec<_> = top.iter().map(|line| line.moved[0]).collect();
        assert_eq!(bytes, [900, 900, 40]);
        assert_eq!(
            sums.into_iter().collect::<Vec<_>>(),
            [(("tcp", "open"), 5), (("udp", "open"), 1)]
        );
    }

    #[test]
    fn nothing_may_be_asked_for() {
        let mut survey = Survey::new(0);
        survey.add(0, line("tcp", 1));
        let (sums, top) = survey.found();
        assert_eq!((sums.len(), top.len()), (1, 0));
    }
}
