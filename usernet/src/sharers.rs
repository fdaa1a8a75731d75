//! UDP flows that share a port: how many, and which of them is missed least.
//!
//! Linux walks all sockets of a port when one more is bound to it (`udp_lib_lport_inuse`, net/ipv4/udp.c): 5 microseconds
//! behind a thousand, 216 behind fifteen thousand. A guest that speaks to everybody from one port, or everybody who speaks
//! to a published one, would take the processor from all others. So a port has [`limits::SHARERS`] flows at most.
//!
//! They stand in a ring. The first in it gives way, unless it was used since it was last looked at: then it goes to the
//! end. No more than [`limits::SHARERS_SEEN`] are looked at for a new one, whose own place is the end.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::event::{FlowId, Side};
use crate::limits;

/// A port of one of the two namespaces.
pub type Port = (Side, u16);

/// All ports that UDP flows have.
#[derive(Debug, Default)]
pub struct Sharers {
    rings: BTreeMap<Port, Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Flows that have not ended.
    flows: usize,
    /// With their deadlines when they were last looked at. Those that have ended since are still here.
    turns: VecDeque<(FlowId, Instant)>,
}

impl Sharers {
    /// A flow has the port. Which one gives way, if any: `deadline` tells that of a flow which has not ended.
    pub fn opened(
        &mut self,
        port: Port,
        id: FlowId,
        deadline: impl Fn(FlowId) -> Option<Instant>,
    ) -> Option<FlowId> {
        let ring = self.rings.entry(port).or_default();
        ring.flows += 1;
        if ring.turns.len() >= 2 * limits::SHARERS {
            ring.turns.retain(|(id, _)| deadline(*id).is_some());
        }
        let victim = (ring.flows > limits::SHARERS)
            .then(|| ring.victim(&deadline))
            .flatten();
        ring.turns.extend(deadline(id).map(|now| (id, now)));
        victim
    }

    /// A flow that had the port has ended.
    pub fn closed(&mut self, port: Port) {
        if let Some(ring) = self.rings.get_mut(&port) {
            ring.flows -= 1;
            if ring.flows == 0 {
                self.rings.remove(&port);
            }
        }
    }
}

impl Ring {
    fn victim(&mut self, deadline: impl Fn(FlowId) -> Option<Instant>) -> Option<FlowId> {
        let mut looks = limits::SHARERS_SEEN;
        while let Some((id, then)) = self.turns.pop_front() {
            let Some(now) = deadline(id) else { continue };
            looks -= 1;
            if looks == 0 || now == then {
                return Some(id);
            }
            self.turns.push_back((id, now));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PORT: Port = (Side::Host, 5000);

    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn begin() -> Instant {
        Instant::now()
    }

    fn id(index: usize) -> FlowId {
        FlowId {
            index: u32::try_from(index).unwrap(),
            generation: 0,
        }
    }

    #[test]
    fn the_oldest_that_was_not_used_gives_way() {
        let mut sharers = Sharers::default();
        let begin = begin();
        for index in 0..limits::SHARERS {
            assert_eq!(sharers.opened(PORT, id(index), |_| Some(begin)), None);
        }
        assert_eq!(
            sharers.opened((Side::Guest, 5000), id(0), |_| Some(begin)),
            None
        );
        // The first two were used, and the third has ended.
        let deadline = |flow: FlowId| match flow.index {
            0 | 1 => Some(begin + Duration::from_secs(1)),
            2 => None,
            _ => Some(begin),
        };
        sharers.closed(PORT);
        assert_eq!(sharers.opened(PORT, id(9000), deadline), None);
        assert_eq!(sharers.opened(PORT, id(9001), deadline), Some(id(3)));
        sharers.closed(PORT);
        assert_eq!(sharers.opened(PORT, id(9002), deadline), Some(id(4)));
    }

    #[test]
    fn somebody_gives_way_where_all_are_used() {
        let mut sharers = Sharers::default();
        let begin = begin();
        for index in 0..limits::SHARERS {
            sharers.opened(PORT, id(index), |_| Some(begin));
        }
        let used = |_| Some(begin + Duration::from_secs(1));
        let last = limits::SHARERS_SEEN - 1;
        assert_eq!(sharers.opened(PORT, id(9000), used), Some(id(last)));
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let mut sharers = Sharers::default();
        let begin = begin();
        for index in 0..10 * limits::SHARERS {
            sharers.opened(PORT, id(index), |flow| {
                (flow == id(0) || flow == id(index)).then_some(begin)
            });
            if index > 0 {
                sharers.closed(PORT);
            }
        }
        assert!(sharers.rings[&PORT].turns.len() <= 2 * limits::SHARERS);
        sharers.closed(PORT);
        assert!(sharers.rings.is_empty());
    }
}
