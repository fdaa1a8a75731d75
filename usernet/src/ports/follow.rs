//! Which sockets a table of listeners means, given what is listened on in both namespaces.
//!
//! A listener that *follows* (`auto`) has a socket for each of its ports that leads to a port on which somebody listens on
//! the other side. Who listens is looked up once a second, and [`follow`] says what to close and what to open then.
//!
//! What we listen on ourselves does not count ([`ours`]): otherwise a port forwarded to the guest would be forwarded back
//! by the opposite `auto`, and neither would ever end. A UDP port is wanted for a TCP listener of the same number too, as
//! with DNS or HTTP/3, where clients may try either. And a UDP port that somebody else has is left to him where ours would
//! take all addresses: the kernel lets two sockets share a port that are both willing to (`SO_REUSEADDR`), and one of
//! them would miss its datagrams.
//!
//! A table may be replaced while we run. Sockets that the new one needs as well stay as they are ([`carried`]), so that
//! nobody is refused meanwhile.

use std::collections::BTreeMap;

use super::set::PortSet;
use crate::config::Listener;
use crate::event::{Side, Transport};

/// One of a table's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The place of its listener in the table.
    pub rule: u32,
    /// Its port.
    pub port: u16,
}

/// What is listened on in one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// TCP sockets that listen.
    pub tcp: PortSet,
    /// UDP sockets that are bound and have no peer.
    pub udp: PortSet,
}

impl Seen {
    /// The set of a transport.
    pub const fn of(&mut self, transport: Transport) -> &mut PortSet {
        match transport {
            Transport::Tcp => &mut self.tcp,
            Transport::Udp | Transport::Echo => &mut self.udp,
        }
    }

    fn without(mut self, others: &Self) -> Self {
        self.tcp.take(&others.tcp);
        self.udp.take(&others.udp);
        self
    }
}

/// Something of each namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sides<T> {
    /// The host's.
    pub host: T,
    /// The guest's.
    pub guest: T,
}

impl<T> Sides<T> {
    /// That of a side.
    pub const fn of(&self, side: Side) -> &T {
        match side {
            Side::Host => &self.host,
            Side::Guest => &self.guest,
        }
    }

    /// That of a side, to be changed.
    pub const fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Host => &mut self.host,
            Side::Guest => &mut self.guest,
        }
    }
}

/// What to look for in each namespace, so that [`follow`] can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

impl Look {
    /// Nothing is looked for.
    #[must_use]
    pub const fn is_nothing(self) -> bool {
        !self.tcp && !self.udp
    }
}

/// What must be looked at; nothing: no listener follows.
#[must_use]
pub fn look(rules: &[Listener]) -> Sides<Look> {
    let mut look = Sides::<Look>::default();
    for rule in rules.iter().filter(|rule| rule.follow) {
        look.of_mut(rule.side.other()).tcp = true;
        if rule.transport == Transport::Udp {
            look.of_mut(rule.side.other()).udp = true;
            look.of_mut(rule.side).udp = true;
        }
    }
    look
}

/// What we listen on.
#[must_use]
pub fn ours<T>(rules: &[Listener], open: &BTreeMap<Spot, T>) -> Sides<Seen> {
    let mut ours = Sides::<Seen>::default();
    for spot in open.keys() {
        if let Some(rule) = rules.get(spot.rule as usize) {
            ours.of_mut(rule.side).of(rule.transport).insert(spot.port);
        }
    }
    ours
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// First.
    pub close: Vec<Spot>,
    /// Then.
    pub open: Vec<Spot>,
}

/// What to do so that all listeners that follow do so. `seen` is all that is listened on, `ours` our part of it.
#[must_use]
pub fn follow<T>(
    rules: &[Listener],
    open: &BTreeMap<Spot, T>,
    seen: Sides<Seen>,
    ours: &Sides<Seen>,
) -> Change {
    let others = Sides {
        host: seen.host.without(&ours.host),
        guest: seen.guest.without(&ours.guest),
    };
    let mut change = Change::default();
    for (place, rule) in (0..).zip(rules) {
        if !rule.follow {
            continue;
        }
        let wanted = wanted(rule, &others);
        let spot = |port| Spot { rule: place, port };
        let sockets = open.range(spot(rule.first)..=spot(rule.last));
        let closed = sockets.map(|(spot, _)| *spot);
        change
            .close
            .extend(closed.filter(|spot| !wanted.contains(spot.port)));
        let opened = wanted.between(rule.first, rule.last).map(spot);
        change
            .open
            .extend(opened.filter(|spot| !open.contains_key(spot)));
    }
    change
}

/// Ports of a listener that lead to somebody.
fn wanted(rule: &Listener, others: &Sides<Seen>) -> PortSet {
    let there = others.of(rule.side.other());
    let here = others.of(rule.side);
    let udp = rule.transport == Transport::Udp;
    let mut targets = there.tcp.clone();
    if udp {
        targets.add(&there.udp);
    }
    let last = rule.target.saturating_add(rule.last - rule.first);
    let ports = targets
        .between(rule.target, last)
        .filter_map(|target| rule.first.checked_add(target - rule.target));
    ports
        .filter(|&port| !(udp && rule.address.is_none() && here.udp.contains(port)))
        .collect()
}

/// Sockets that listeners which do not follow still need.
#[must_use]
pub fn missing<T>(rules: &[Listener], open: &BTreeMap<Spot, T>) -> Vec<Spot> {
    let mut missing = Vec::new();
    for (rule, listener) in (0..).zip(rules) {
        if !listener.follow {
            let spots = (listener.first..=listener.last).map(|port| Spot { rule, port });
            missing.extend(spots.filter(|spot| !open.contains_key(spot)));
        }
    }
    missing
}

/// Which socket of the new table is the same as one of the old table.
#[must_use]
pub fn carried(old: &[Listener], new: &[Listener], spot: Spot) -> Option<Spot> {
    let before = old.get(spot.rule as usize)?;
    let (rule, _) = (0..).zip(new).find(|(_, rule)| {
        (rule.first..=rule.last).contains(&spot.port)
            && rule.side == before.side
            && rule.transport == before.transport
            && rule.address == before.address
            && rule.interface == before.interface
    })?;
    Some(Spot {
        rule,
        port: spot.port,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Off;
    use crate::ports::{Direction, Surroundings, listeners};

    /// The table of a command line.
    fn table(line: &str) -> Vec<Listener> {
        let options = ["-t", "-u", "-T", "-U"];
        let words: Vec<_> = line.split_whitespace().collect();
        let absent = options.iter().filter(|option| !words.contains(option));
        let absent: Vec<_> = absent.flat_map(|option| [*option, "none"]).collect();
        let words = [words, absent].concat();
        let specs = words.chunks(2).map(|pair| {
            let place = options.iter().position(|option| *option == pair[0]);
            (Direction::ALL[place.unwrap()], pair[1])
        });
        let surroundings = Surroundings {
            v4: true,
            v6: true,
            ephemeral: (32768, 60999),
        };
        listeners(&specs.collect::<Vec<_>>(), &surroundings, &Off::default()).unwrap()
    }

    /// `host tcp 80 81 udp 53 guest tcp 8080`
    fn seen(text: &str) -> Sides<Seen> {
        let mut seen = Sides::<Seen>::default();
        let (mut side, mut transport) = (Side::Host, Transport::Tcp);
        for word in text.split_whitespace() {
            match word {
                "host" => side = Side::Host,
                "guest" => side = Side::Guest,
                "tcp" => transport = Transport::Tcp,
                "udp" => transport = Transport::Udp,
                port => seen
                    .of_mut(side)
                    .of(transport)
                    .insert(port.parse().unwrap()),
            }
        }
        seen
    }

    /// The kernel's view of it: what is there, and us.
    fn with(mut others: Sides<Seen>, ours: &Sides<Seen>) -> Sides<Seen> {
        for side in [Side::Host, Side::Guest] {
            others.of_mut(side).tcp.add(&ours.of(side).tcp);
            others.of_mut(side).udp.add(&ours.of(side).udp);
        }
        others
    }

    #[derive(Default)]
    struct World {
        rules: Vec<Listener>,
        open: BTreeMap<Spot, ()>,
    }

    impl World {
        fn new(line: &str) -> Self {
            let rules = table(line);
            let missing = missing(&rules, &BTreeMap::<_, ()>::new());
            let open = missing.into_iter().map(|spot| (spot, ())).collect();
            Self { rules, open }
        }

        /// One look at what others listen on; what we listen on then, as `-t80`.
        fn step(&mut self, others: &str) -> String {
            let ours = ours(&self.rules, &self.open);
            let change = follow(&self.rules, &self.open, with(seen(others), &ours), &ours);
            for spot in change.close {
                assert!(self.open.remove(&spot).is_some());
            }
            for spot in change.open {
                assert!(self.open.insert(spot, ()).is_none());
            }
            let names = self.open.keys().map(|spot| {
                let rule = &self.rules[spot.rule as usize];
                let option = match (rule.side, rule.transport) {
                    (Side::Host, Transport::Tcp) => "-t",
                    (Side::Host, _) => "-u",
                    (Side::Guest, Transport::Tcp) => "-T",
                    (Side::Guest, _) => "-U",
                };
                format!("{option}{}", spot.port)
            });
            names.collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn a_listener_comes_and_goes() {
        let mut world = World::new("-t auto");
        assert_eq!(world.step(""), "");
        assert_eq!(world.step("guest tcp 80 8080 udp 53"), "-t80 -t8080");
        assert_eq!(world.step("guest tcp 8080"), "-t8080");
        assert_eq!(world.step("guest tcp 8080"), "-t8080");
        assert_eq!(world.step("host tcp 22"), "");
    }

    #[test]
    fn nothing_goes_round_in_circles() {
        let mut world = World::new("-t auto -u auto -T auto -U auto");
        let both = "host tcp 22 guest tcp 80";
        for _ in 0..3 {
            assert_eq!(world.step(both), "-t80 -u80 -T22 -U22");
        }
        // Both sides have one of their own: each keeps it, as far as it can be had.
        let mut world = World::new("-t auto -T auto");
        for _ in 0..3 {
            assert_eq!(world.step("guest tcp 80"), "-t80");
        }
        assert_eq!(world.step(""), "");
    }

    #[test]
    fn a_fixed_port_of_the_other_direction_is_not_followed() {
        let mut world = World::new("-t auto -T 9000");
        assert_eq!(world.step("host tcp 9000"), "-T9000");
        assert_eq!(world.step("guest tcp 80"), "-t80 -T9000");
    }

    #[test]
    fn udp_follows_tcp_too_and_shares_with_nobody() {
        let mut world = World::new("-u auto");
        assert_eq!(world.step("guest tcp 443 udp 53"), "-u53 -u443");
        assert_eq!(world.step("guest udp 53 host tcp 53"), "-u53");
        let mut world = World::new("-u auto");
        assert_eq!(world.step("guest tcp 443 udp 53 host udp 53"), "-u443");
        let mut world = World::new("-u 192.0.2.1/auto");
        assert_eq!(world.step("guest udp 53 host udp 53"), "-u53");
    }

    #[test]
    fn ranges_and_targets_bound_what_is_followed() {
        let mut world = World::new("-t 8000-8010:9000-9010,auto");
        assert_eq!(
            world.step("guest tcp 8001 9000 9010 9011 80"),
            "-t8000 -t8010"
        );
        let mut world = World::new("-t auto,~80");
        assert_eq!(
            world.step("guest tcp 79 80 81 32768 61000"),
            "-t79 -t81 -t61000"
        );
        let mut world = World::new("-t 80 -t 8000,auto");
        assert_eq!(world.step(""), "-t80");
        assert_eq!(world.step("guest tcp 8000"), "-t80 -t8000");
    }

    #[test]
    fn only_what_matters_is_looked_at() {
        let check = |line: &str, expected: &str| {
            let look = look(&table(line));
            let names = |side: &str, look: Look| {
                let tcp = look.tcp.then(|| format!("{side} tcp"));
                let udp = look.udp.then(|| format!("{side} udp"));
                tcp.into_iter().chain(udp).collect::<Vec<_>>()
            };
            let found = [names("host", look.host), names("guest", look.guest)].concat();
            assert_eq!(found.join(", "), expected, "{line}");
        };
        check("-t 80", "");
        check("-t auto", "guest tcp");
        check("-T auto", "host tcp");
        check("-u auto", "host udp, guest tcp, guest udp");
    }

    #[test]
    fn a_new_table_keeps_what_it_needs() {
        let old = table("-t 80 -t 1000-1005 -T 22 -t 127.0.0.1/443");
        let new = table("-T 22 -t 127.0.0.1/443:8443 -t 1003-1009 -t 0.0.0.0/80");
        let carried = |text: &str| {
            let (rule, port) = text.split_once('/').unwrap();
            let spot = Spot {
                rule: rule.parse().unwrap(),
                port: port.parse().unwrap(),
            };
            carried(&old, &new, spot).map(|spot| format!("{}/{}", spot.rule, spot.port))
        };
        assert_eq!(carried("0/80"), None); // another address
        assert_eq!(carried("1/1002"), None);
        assert_eq!(carried("1/1003").as_deref(), Some("2/1003"));
        assert_eq!(carried("2/22").as_deref(), Some("0/22"));
        assert_eq!(carried("3/443").as_deref(), Some("1/443"));
        assert_eq!(carried("9/1"), None);
    }

    #[test]
    fn what_is_missing_is_what_does_not_follow() {
        let rules = table("-t 80-82 -t 90,auto");
        let open = BTreeMap::from([(Spot { rule: 0, port: 81 }, ())]);
        let ports: Vec<_> = missing(&rules, &open).iter().map(|s| s.port).collect();
        assert_eq!(ports, [80, 82]);
    }

    /// A table of rules for every address: ranges that do not overlap.
    fn ranges() -> impl Strategy<Value = Vec<Listener>> {
        let rule = (1_u16..20, 0_u16..15, any::<bool>(), any::<bool>());
        prop::collection::vec(rule, 0..6).prop_map(|rules| {
            let mut next = 1_u16;
            let mut table = Vec::new();
            for (gap, length, host, follow) in rules {
                let (first, last) = (next + gap, next + gap + length);
                next = last;
                table.push(Listener {
                    side: if host { Side::Host } else { Side::Guest },
                    transport: Transport::Tcp,
                    address: None,
                    interface: None,
                    first,
                    last,
                    target: first + 100,
                    target_address: None,
                    best_effort: false,
                    follow,
                });
            }
            table
        })
    }

    /// All that a table means.
    fn settle(
        rules: &[Listener],
        mut open: BTreeMap<Spot, u32>,
        seen: &Sides<Seen>,
    ) -> BTreeMap<Spot, u32> {
        open.extend(
            missing(rules, &open)
                .into_iter()
                .map(|spot| (spot, u32::MAX)),
        );
        let ours = ours(rules, &open);
        let change = follow(rules, &open, with(seen.clone(), &ours), &ours);
        open.retain(|spot, _| !change.close.contains(spot));
        open.extend(change.open.into_iter().map(|spot| (spot, u32::MAX)));
        open
    }

    proptest! {
        #[test]
        fn a_changed_table_is_as_if_it_had_been_there(
            old in ranges(),
            new in ranges(),
            host in prop::collection::vec(1_u16..250, 0..60),
            guest in prop::collection::vec(1_u16..250, 0..60),
        ) {
            let seen = |ports: Vec<u16>| Seen { tcp: PortSet::from_iter(ports), udp: PortSet::default() };
            let seen = Sides { host: seen(host), guest: seen(guest) };
            let before = settle(&old, BTreeMap::new(), &seen);
            let before: BTreeMap<_, _> = (0..).zip(before).map(|(n, (spot, _))| (spot, n)).collect();
            let kept = before.iter().filter_map(|(spot, number)| Some((carried(&old, &new, *spot)?, *number)));
            let kept: Vec<_> = kept.collect();
            let open: BTreeMap<_, _> = kept.iter().copied().collect();
            prop_assert_eq!(open.len(), kept.len(), "two sockets became one");
            for (spot, number) in &open {
                let was = before.iter().find(|(_, other)| *other == number).map(|(spot, _)| spot);
                prop_assert_eq!(was.map(|was| was.port), Some(spot.port));
            }
            let changed = settle(&new, open, &seen);
            let fresh = settle(&new, BTreeMap::new(), &seen);
            prop_assert!(changed.keys().eq(fresh.keys()));
        }
    }
}
