//! Multicast by demand: the groups that the guest listens to.
//!
//! A guest tells its routers which groups it listens to ([`crate::packet::group`]), but not on which ports, and an
//! ordinary socket of the host hears one port. So a group is joined on the ports that are known: those that everybody
//! uses for it (the table below), those that the guest itself sends to it, and those that are published, whose listeners
//! hear what is sent to groups that somebody on the host has joined. Each port is a socket that is bound to the group, so
//! that it takes nothing away from anybody; leaving is closing it.
//!
//! We are the router of the link, and ask who still listens as long as anybody does ([`limits::GROUP_QUERY`]). A group of
//! which nothing was heard for [`limits::GROUP_TIMEOUT`] is left, and so is one that the guest leaves: it has one kernel,
//! which says so after the last of its listeners. When the host has another link, all are joined there
//! ([`Groups::move_all`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use crate::event::FlowId;
use crate::limits;

/// Ports that stand for what a group is used for.
const KNOWN: &[(&str, u16)] = &[
    ("224.0.0.251", 5353), // multicast DNS (RFC 6762)
    ("ff02::fb", 5353),
    ("224.0.0.252", 5355), // link-local multicast name resolution (RFC 4795)
    ("ff02::1:3", 5355),
    ("239.255.255.250", 1900), // simple service discovery (UPnP device architecture)
    ("ff02::c", 1900),
    ("ff05::c", 1900),
    ("239.255.255.250", 3702), // WS-Discovery
    ("ff02::c", 3702),
    ("224.0.1.129", 319), // precision time protocol (IEEE 1588)
    ("224.0.1.129", 320),
    ("224.0.1.187", 5683), // constrained application protocol (RFC 7252)
    ("ff02::fd", 5683),
];

/// The port of a socket that hears nothing itself: it is there so that the listeners of published ports do.
pub const LISTENERS: u16 = 0;

/// The groups.
#[derive(Debug, Default)]
pub struct Groups {
    joined: BTreeMap<IpAddr, Joined>,
    /// Where the guest has sent to lately, joined or not.
    spoken: VecDeque<(IpAddr, u16)>,
    query_at: Option<Instant>,
}

#[derive(Debug)]
struct Joined {
    heard: Instant,
    ports: BTreeMap<u16, FlowId>,
}

impl Groups {
    /// The guest listens to a group. The ports to hear it on from now on; none for a group too many.
    pub fn join(&mut self, now: Instant, group: IpAddr, published: bool) -> Vec<u16> {
        if let Some(joined) = self.joined.get_mut(&group) {
            joined.heard = now;
            return Vec::new();
        }
        if self.joined.len() >= limits::GROUPS || is_of_the_link(group) {
            return Vec::new();
        }
        let heard = now;
        let ports = BTreeMap::new();
        self.joined.insert(group, Joined { heard, ports });
        self.query_at = self.query_at.or(Some(now + limits::GROUP_QUERY));
        self.ports(group, BTreeSet::new(), published)
    }

    /// The ports that a group is to be heard on: these, and those that are known.
    fn ports(&self, group: IpAddr, mut ports: BTreeSet<u16>, published: bool) -> Vec<u16> {
        let known = KNOWN.iter().filter(|(known, _)| is(known, group));
        ports.extend(known.map(|&(_, port)| port));
        let spoken = self.spoken.iter().filter(|(known, _)| *known == group);
        ports.extend(spoken.map(|&(_, port)| port));
        ports.extend(published.then_some(LISTENERS));
        ports.into_iter().take(limits::GROUP_PORTS).collect()
    }

    /// The host's link of a family is another one: the groups with the ports to hear them on there, and the flows that
    /// heard them here.
    pub fn move_all(&self, v6: bool, published: bool) -> Vec<(IpAddr, Vec<u16>, Vec<FlowId>)> {
        let joined = self.joined.iter();
        let joined = joined.filter(|(group, _)| group.is_ipv6() == v6);
        let again = joined.map(|(group, joined)| {
            let ports = joined.ports.keys().copied().collect();
            let flows = joined.ports.values().copied().collect();
            (*group, self.ports(*group, ports, published), flows)
        });
        again.collect()
    }

    /// The guest sends to a group. Whether it is to be heard on that port from now on.
    pub fn speaks(&mut self, group: IpAddr, port: u16) -> bool {
        if self.spoken.front() != Some(&(group, port)) {
            self.spoken.retain(|spoken| *spoken != (group, port));
            self.spoken.push_front((group, port));
            self.spoken.truncate(limits::GROUPS);
        }
        let joined = self.joined.get(&group);
        joined.is_some_and(|joined| {
            !joined.ports.contains_key(&port) && joined.ports.len() < limits::GROUP_PORTS
        })
    }

    /// A group is heard on a port by this flow.
    pub fn opened(&mut self, group: IpAddr, port: u16, flow: FlowId) {
        if let Some(joined) = self.joined.get_mut(&group) {
            joined.ports.insert(port, flow);
        }
    }

    /// A flow that heard a group has ended for another reason.
    pub fn closed(&mut self, group: IpAddr, port: u16) {
        if let Some(joined) = self.joined.get_mut(&group) {
            joined.ports.remove(&port);
        }
    }

    /// The guest does not listen to a group any more. The flows that end.
    pub fn leave(&mut self, group: IpAddr) -> Vec<FlowId> {
        let joined = self.joined.remove(&group);
        let ports = joined.map(|joined| joined.ports).unwrap_or_default();
        ports.into_values().collect()
    }

    /// Whether the guest listens to it.
    #[must_use]
    pub fn has(&self, group: IpAddr) -> bool {
        self.joined.contains_key(&group)
    }

    /// Whether a flow hears a group on a port.
    #[must_use]
    pub fn hears(&self, group: IpAddr, port: u16) -> bool {
        let joined = self.joined.get(&group);
        joined.is_some_and(|joined| joined.ports.contains_key(&port))
    }

    /// When [`Self::timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.query_at
    }

    /// If it is time to ask who still listens: the flows of groups that nobody has spoken of for too long.
    pub fn timer(&mut self, now: Instant) -> Option<Vec<FlowId>> {
        self.query_at.filter(|at| *at <= now)?;
        let old =
            |joined: &Joined| now.saturating_duration_since(joined.heard) >= limits::GROUP_TIMEOUT;
        let gone: Vec<_> = self
            .joined
            .iter()
            .filter(|(_, joined)| old(joined))
            .collect();
        let gone: Vec<IpAddr> = gone.into_iter().map(|(group, _)| *group).collect();
        let ended = gone
            .into_iter()
            .flat_map(|group| self.leave(group))
            .collect();
        self.query_at = (!self.joined.is_empty()).then(|| now + limits::GROUP_QUERY);
        Some(ended)
    }
}

fn is(text: &str, group: IpAddr) -> bool {
    text.parse() == Ok(group)
}

/// Groups of the link itself: those of neighbour discovery, which every address has, all nodes, all routers, and those
/// that never leave a machine.
fn is_of_the_link(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => matches!(group.octets(), [224, 0, 0, 1 | 2 | 22]),
        IpAddr::V6(group) => match group.segments() {
            [0xff02, 0, 0, 0, 0, 1, 0xff00..=0xffff, _] => true,
            [0xff02, 0, 0, 0, 0, 0, 0, 1 | 2 | 0x16] => true,
            [first, ..] => first & 0xf <= 1,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: FlowId = FlowId {
        index: 7,
        generation: 1,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ports_of_a_group() {
        let now = crate::local::tests::start();
        let mut groups = Groups::default();
        let (ssdp, own) = (ip("239.255.255.250"), ip("239.1.2.3"));
        assert_eq!(groups.join(now, ssdp, false), [1900, 3702]);
        assert!(groups.join(now, ssdp, false).is_empty());
        // Said before it listens, and afterwards.
        assert!(!groups.speaks(own, 7000));
        assert_eq!(groups.join(now, own, true), [LISTENERS, 7000]);
        groups.opened(own, 7000, FLOW);
        assert!(!groups.speaks(own, 7000) && groups.speaks(own, 7001));
        assert!(groups.hears(own, 7000) && !groups.hears(own, 7001));
        assert_eq!(groups.leave(own), [FLOW]);
        assert!(!groups.has(own) && groups.has(ssdp));
        for group in ["ff02::1:ff00:5", "ff02::1", "ff01::fb", "224.0.0.1"] {
            groups.join(now, ip(group), true);
            assert!(!groups.has(ip(group)), "{group}");
        }
    }

    /// Also those that could not be joined on the link before.
    #[test]
    fn the_link_is_another_one() {
        let now = crate::local::tests::start();
        let mut groups = Groups::default();
        let (mdns, six) = (ip("224.0.0.251"), ip("ff02::fb"));
        groups.join(now, mdns, false);
        groups.join(now, six, false);
        groups.opened(mdns, 7000, FLOW);
        let expected = [(mdns, vec![LISTENERS, 5353, 7000], vec![FLOW])];
        assert_eq!(groups.move_all(false, true), expected);
        let expected = [(six, vec![5353], Vec::new())];
        assert_eq!(groups.move_all(true, false), expected);
    }

    #[test]
    fn groups_are_few() {
        let now = crate::local::tests::start();
        let mut groups = Groups::default();
        for last in 0..=255 {
            groups.join(now, [239, 0, 0, last].into(), true);
            groups.speaks([239, 0, 1, last].into(), 1);
        }
        assert_eq!(groups.joined.len(), limits::GROUPS);
        assert_eq!(groups.spoken.len(), limits::GROUPS);
    }

    #[test]
    fn silence_is_leaving() {
        let now = crate::local::tests::start();
        let mut groups = Groups::default();
        assert_eq!(groups.deadline(), None);
        groups.join(now, ip("224.0.0.251"), false);
        groups.opened(ip("224.0.0.251"), 5353, FLOW);
        let mut at = now;
        while at < now + limits::GROUP_TIMEOUT {
            assert_eq!(groups.timer(at), (at > now).then(Vec::new));
            at += limits::GROUP_QUERY;
        }
        assert_eq!(groups.timer(at), Some(vec![FLOW]));
        assert_eq!(groups.deadline(), None);
    }
}
