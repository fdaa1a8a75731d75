//! What may change while a run goes on, and what that means to the guest.
//!
//! A family in local mode waits for the host's network. When it comes, everything is decided anew, from the same options
//! and from what the host is like now ([`decide()`](super::decide())), and the families that waited take what was decided; the rest
//! of the run stays as it is ([`adopt`]). Of a guest that we configure, the difference is a list of [`Change`]s, for the
//! process that may make them ([`to_bytes`], [`from_bytes`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;

use super::{Config, Facts, Families, Family, Route};
use crate::limits;

/// One change of the guest's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It gets an address.
    AddAddress(IpNet),
    /// It loses one.
    RemoveAddress(IpNet),
    /// It gets a route.
    AddRoute(Route),
    /// It loses one.
    RemoveRoute(Route),
}

/// Bytes of a change on its way.
pub const CHANGE: usize = 40;

/// Whether a family has all that a host's network gives: an interface to copy, and a way out. An address without a way
/// out may be the first half of what is coming.
#[must_use]
pub fn is_settled(family: &Family) -> bool {
    family.template.is_some() && family.gateway.is_some()
}

/// The families that still wait for the host's network.
#[must_use]
pub fn waiting(config: &Config) -> Families<()> {
    let waits = |family: &Option<Family>| {
        let family = family.as_ref()?;
        (!config.splice_only && !is_settled(family)).then_some(())
    };
    Families {
        v4: waits(&config.families.v4),
        v6: waits(&config.families.v6),
    }
}

/// The run with what was decided `anew` for the families that were waiting. None goes back to local mode.
#[must_use]
pub fn adopt(now: &Config, anew: &Config, waiting: &Families<()>) -> Config {
    let choose = |now: &Option<Family>, anew: &Option<Family>, waits: Option<()>| {
        let network = anew.as_ref().filter(|family| family.template.is_some());
        let taken = network.filter(|_| waits.is_some()).or(now.as_ref());
        taken.cloned()
    };
    let mut config = now.clone();
    config.families = Families {
        v4: choose(&now.families.v4, &anew.families.v4, waiting.v4),
        v6: choose(&now.families.v6, &anew.families.v6, waiting.v6),
    };
    config.announce.clone_from(&anew.announce);
    if waiting.v4.is_some() {
        config.off.dhcp = anew.off.dhcp;
    }
    config
}

/// Until when IPv6 is waited for on a host that has IPv4: as long as a router on that link may be silent, since the link
/// could hear one, which is since it has an address of IPv6 (its link-local one, at first). A link without any hears
/// nobody; but it may be about to get one, if it has only just got the address of IPv4. None: IPv4 is not there either.
#[must_use]
pub fn routers_silent_until(config: &Config, facts: &Facts, now: Instant) -> Option<Instant> {
    let name = config.families.v4.as_ref()?.template.as_ref()?;
    let link = facts.links.iter().find(|link| link.name == *name)?.index;
    let addresses = facts.addresses.iter().filter(|found| found.link == link);
    let age = |v6: bool| {
        let those = addresses.clone();
        let those = those.filter(|found| found.address.addr().is_ipv6() == v6);
        those.filter_map(|found| found.age).max()
    };
    let (patience, age) = match age(true) {
        Some(age) => (limits::SECOND_FAMILY, age),
        None => (limits::SETTLING, age(false)?),
    };
    Some(now + patience.saturating_sub(age))
}

/// Which families wait, and for how long still. One that has found its network is followed a little longer, since
/// addresses and routes come one after the other. When one family is there, the other one is waited for as long as
/// routers may be silent ([`routers_silent_until`]; DHCP servers as long), and then the host has only one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    v4: Option<Wait>,
    v6: Option<Wait>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For its network.
    Open(Option<Instant>),
    /// For what else may come.
    Settling(Instant),
}

impl Waiting {
    /// At the start of a run. `until`: see [`routers_silent_until`].
    #[must_use]
    pub fn new(config: &Config, until: Option<Instant>, now: Instant) -> Self {
        let families = waiting(config);
        let mut waiting = Self {
            v4: families.v4.map(|()| Wait::Open(None)),
            v6: families.v6.map(|()| Wait::Open(None)),
        };
        waiting.update(config, until, now);
        waiting
    }

    /// The configuration may be another one, and time has passed.
    pub fn update(&mut self, config: &Config, until: Option<Instant>, now: Instant) {
        let settled = |family: &Option<Family>| family.as_ref().is_some_and(is_settled);
        let (v4, v6) = (settled(&config.families.v4), settled(&config.families.v6));
        self.v4 = self.v4.and_then(|wait| wait.update(v4, v6, None, now));
        self.v6 = self.v6.and_then(|wait| wait.update(v6, v4, until, now));
    }

    /// Nobody waits any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// When to look again if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let ends = [self.v4, self.v6].into_iter().flatten();
        ends.filter_map(Wait::end).min()
    }

    /// Those that wait.
    #[must_use]
    pub fn families(&self) -> Families<()> {
        Families {
            v4: self.v4.map(drop),
            v6: self.v6.map(drop),
        }
    }
}

impl Wait {
    fn update(
        self,
        settled: bool,
        other: bool,
        until: Option<Instant>,
        now: Instant,
    ) -> Option<Self> {
        let after = match self {
            Self::Open(_) if settled => Self::Settling(now + limits::SETTLING),
            Self::Open(_) if other && until.is_some() => Self::Open(until),
            Self::Open(None) if other => Self::Open(Some(now + limits::SECOND_FAMILY)),
            Self::Open(_) | Self::Settling(_) => self,
        };
        let over = after.end().is_some_and(|end| end <= now);
        (!over).then_some(after)
    }

    const fn end(self) -> Option<Instant> {
        match self {
            Self::Open(end) => end,
            Self::Settling(end) => Some(end),
        }
    }
}

/// What leads the guest from one configuration to another, in order: no route needs an address that is gone, and no
/// address is taken before there is another one.
#[must_use]
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let families = [
        (&before.families.v4, &after.families.v4),
        (&before.families.v6, &after.families.v6),
    ];
    let mut changes = Vec::new();
    for (before, after) in families {
        let (Some(before), Some(after)) = (before, after) else {
            continue;
        };
        let gone = without(&before.routes, &after.routes);
        changes.extend(gone.cloned().map(Change::RemoveRoute));
        let new: Vec<_> = without(&after.addresses, &before.addresses).collect();
        // The kernel tells IPv6 addresses in the reverse order of their coming.
        if new.first().is_some_and(|address| address.addr().is_ipv6()) {
            changes.extend(new.into_iter().rev().copied().map(Change::AddAddress));
        } else {
            changes.extend(new.into_iter().copied().map(Change::AddAddress));
        }
        let new = without(&after.routes, &before.routes);
        changes.extend(new.cloned().map(Change::AddRoute));
        let gone = without(&before.addresses, &after.addresses);
        changes.extend(gone.copied().map(Change::RemoveAddress));
    }
    changes
}

/// Those of `these` that are not among `others`. Few against few: routes of one interface.
fn without<'a, T: PartialEq>(these: &'a [T], others: &'a [T]) -> impl Iterator<Item = &'a T> {
    these.iter().filter(|item| !others.contains(item))
}

const ROUTE: u8 = 1;
const REMOVE: u8 = 2;
const GATEWAY: u8 = 4;
const METRIC: u8 = 8;
const ONLINK: u8 = 16;
const DESTINATION_V6: u8 = 32;
const GATEWAY_V6: u8 = 64;

/// A change for another process: flags, prefix length, protocol, nothing, metric, destination, gateway.
#[must_use]
pub fn to_bytes(change: &Change) -> [u8; CHANGE] {
    let (mut flags, network, route) = match change {
        Change::AddAddress(network) => (0, *network, None),
        Change::RemoveAddress(network) => (REMOVE, *network, None),
        Change::AddRoute(route) => (ROUTE, route.destination, Some(route)),
        Change::RemoveRoute(route) => (ROUTE | REMOVE, route.destination, Some(route)),
    };
    flags |= flag(network.addr().is_ipv6(), DESTINATION_V6);
    let mut bytes = [0; CHANGE];
    let (head, addresses) = bytes.split_at_mut(8);
    let (destination, by) = addresses.split_at_mut(16);
    destination.copy_from_slice(&octets(network.addr()));
    let mut metric = 0;
    if let Some(route) = route {
        flags |= flag(route.onlink, ONLINK);
        flags |= flag(route.metric.is_some(), METRIC);
        metric = route.metric.unwrap_or(0);
        if let Some(gateway) = route.gateway {
            flags |= GATEWAY | flag(gateway.is_ipv6(), GATEWAY_V6);
            by.copy_from_slice(&octets(gateway));
        }
    }
    let protocol = route.map_or(0, |route| route.protocol);
    let [a, b, c, d] = metric.to_le_bytes();
    head.copy_from_slice(&[flags, network.prefix_len(), protocol, 0, a, b, c, d]);
    bytes
}

/// A change of another process; none if it makes no sense.
#[must_use]
pub fn from_bytes(bytes: &[u8; CHANGE]) -> Option<Change> {
    let ([flags, length, protocol, _, metric @ ..], addresses) = bytes.split_first_chunk::<8>()?;
    let (destination, by) = addresses.split_first_chunk::<16>()?;
    let by: &[u8; 16] = by.try_into().ok()?;
    let has = |bit| flags & bit != 0;
    let network = IpNet::new(address(destination, has(DESTINATION_V6)), *length).ok()?;
    if !has(ROUTE) {
        return Some(match has(REMOVE) {
            true => Change::RemoveAddress(network),
            false => Change::AddAddress(network),
        });
    }
    let route = Route {
        destination: network,
        gateway: has(GATEWAY).then(|| address(by, has(GATEWAY_V6))),
        metric: has(METRIC).then(|| u32::from_le_bytes(*metric)),
        protocol: *protocol,
        onlink: has(ONLINK),
    };
    Some(match has(REMOVE) {
        true => Change::RemoveRoute(route),
        false => Change::AddRoute(route),
    })
}

const fn flag(condition: bool, bit: u8) -> u8 {
    if condition { bit } else { 0 }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(bytes: &[u8; 16], six: bool) -> IpAddr {
    let [a, b, c, d, ..] = *bytes;
    if six {
        Ipv6Addr::from(*bytes).into()
    } else {
        Ipv4Addr::new(a, b, c, d).into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{HostAddress, HostLink};

    fn route(destination: &str, gateway: Option<&str>) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            gateway: gateway.map(|text| text.parse().unwrap()),
            metric: Some(100),
            protocol: 16,
            onlink: false,
        }
    }

    #[test]
    fn there_and_back() {
        let address = |text: &str| text.parse().unwrap();
        let plain = Route {
            metric: None,
            onlink: true,
            ..route("0.0.0.0/0", Some("fe80::1"))
        };
        for change in [
            Change::AddAddress(address("192.0.2.1/24")),
            Change::RemoveAddress(address("2001:db8::1/64")),
            Change::AddRoute(route("2001:db8:1::/48", None)),
            Change::RemoveRoute(route("::/0", Some("2001:db8::2"))),
            Change::AddRoute(plain),
        ] {
            assert_eq!(from_bytes(&to_bytes(&change)), Some(change));
        }
        let mut wrong = to_bytes(&Change::AddAddress(address("192.0.2.1/24")));
        wrong[1] = 33;
        assert_eq!(from_bytes(&wrong), None);
    }

    fn config(v4: Family) -> Config {
        let mut config = crate::local::tests::config();
        config.families = Families {
            v4: Some(v4),
            v6: config.families.v6,
        };
        config
    }

    fn family(address: &str, gateway: &str, template: Option<&str>) -> Family {
        Family {
            addresses: vec![address.parse().unwrap()],
            gateway: Some(gateway.parse().unwrap()),
            routes: vec![route("0.0.0.0/0", Some(gateway))],
            template: template.map(str::to_owned),
            ..crate::local::tests::config().families.v4.unwrap()
        }
    }

    /// Only what waited changes, and the guest is never without an address.
    #[test]
    fn a_network_that_comes() {
        let local = config(family("169.254.2.1/16", "169.254.2.2", None));
        let mut anew = config(family("192.0.2.1/24", "192.0.2.2", Some("eth0")));
        anew.families.v6 = None;
        anew.announce.dns = vec!["192.0.2.53".parse().unwrap()];
        let waits = waiting(&local);
        assert_eq!(waits.v4, Some(()));
        let after = adopt(&local, &anew, &waits);
        assert_eq!(after.families.v4, anew.families.v4);
        assert_eq!(after.families.v6, local.families.v6);
        assert_eq!(after.announce, anew.announce);
        assert_eq!(waiting(&after).v4, None);
        let expected = [
            Change::RemoveRoute(route("0.0.0.0/0", Some("169.254.2.2"))),
            Change::AddAddress("192.0.2.1/24".parse().unwrap()),
            Change::AddRoute(route("0.0.0.0/0", Some("192.0.2.2"))),
            Change::RemoveAddress("169.254.2.1/16".parse().unwrap()),
        ];
        assert_eq!(changes(&local, &after), expected);
        assert_eq!(changes(&after, &after), []);
    }

    /// The second family is given up after a while, the first one never.
    #[test]
    fn how_long_is_waited() {
        let now = crate::local::tests::start();
        let mut both = config(family("169.254.2.1/16", "169.254.2.2", None));
        let mut waits = Waiting::new(&both, None, now);
        assert_eq!(waits.deadline(), None);
        both.families.v4 = Some(family("192.0.2.1/24", "192.0.2.2", Some("eth0")));
        waits.update(&both, None, now);
        assert_eq!(waits.deadline(), Some(now + limits::SETTLING));
        let later = now + limits::SETTLING;
        waits.update(&both, None, later);
        assert_eq!(waits.families().v4, None);
        assert_eq!(waits.families().v6, Some(()));
        assert_eq!(waits.deadline(), Some(now + limits::SECOND_FAMILY));
        waits.update(&both, None, now + limits::SECOND_FAMILY);
        assert!(waits.is_over());
    }

    /// Routers have been silent for a while already, or nobody could hear them.
    #[test]
    fn since_when_is_waited() {
        let now = crate::local::tests::start();
        let mut both = config(family("192.0.2.1/24", "192.0.2.2", Some("eth0")));
        let link = |index, name: &str| HostLink {
            index,
            name: name.to_owned(),
            mac: None,
            mtu: 1500,
            loopback: false,
        };
        let address = |link, text: &str, age| HostAddress {
            link,
            address: text.parse().unwrap(),
            scope: 0,
            deprecated: false,
            age: Some(Duration::from_secs(age)),
        };
        let check = |config: &Config, v4_age, v6_age: Option<u64>| {
            let mut facts = Facts {
                links: vec![link(1, "docker0"), link(2, "eth0")],
                addresses: vec![
                    address(1, "fe80::9/64", 1),
                    address(2, "192.0.2.1/24", v4_age),
                ],
                ..Facts::default()
            };
            let v6 = v6_age.map(|age| address(2, "fe80::1/64", age));
            facts.addresses.extend(v6);
            let until = routers_silent_until(config, &facts, now)?;
            Some((until - now).as_secs())
        };
        assert_eq!(check(&both, 1, Some(1)), Some(599));
        assert_eq!(check(&both, 7000, Some(500)), Some(100));
        assert_eq!(check(&both, 1, Some(7000)), Some(0));
        assert_eq!(check(&both, 1, None), Some(4));
        assert_eq!(check(&both, 7000, None), Some(0));
        let mut waits = Waiting::new(&both, Some(now + Duration::from_secs(4)), now);
        assert_eq!(waits.families().v6, Some(()));
        // It gets a link-local address meanwhile.
        let until = now + limits::SECOND_FAMILY;
        waits.update(&both, Some(until), now + Duration::from_secs(2));
        assert_eq!(waits.deadline(), Some(until));
        waits.update(&both, Some(until), until);
        assert!(waits.is_over());
        assert!(Waiting::new(&both, Some(now), now).is_over());
        both.families.v4 = Some(family("169.254.2.1/16", "169.254.2.2", None));
        assert_eq!(check(&both, 7000, None), None);
        assert!(!Waiting::new(&both, None, now).is_over());
    }

    /// The address may come before the way out: both are taken, one after the other.
    #[test]
    fn half_a_network() {
        let mut half = family("192.0.2.1/24", "192.0.2.2", Some("eth0"));
        half.gateway = None;
        assert_eq!(waiting(&config(half)).v4, Some(()));
    }
}
