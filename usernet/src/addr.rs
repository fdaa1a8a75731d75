//! Endpoints as the guest sees them and as the host sees them, and what makes one of the other.
//!
//! The two are different types: an address that was not translated does not fit where a translated one belongs. The
//! translation is made once, when a flow begins ([`Translation::to_host`], [`Translation::to_guest`]); what each side
//! sees of the other then stands in the flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use crate::config::{Config, Families, Family};
use crate::event::Transport;
use crate::heard::Heard;

pub use crate::config::{Guest, Host};

/// The translation between the two, and what was learnt of the guest's addresses.
#[derive(Debug)]
pub struct Translation {
    families: Families<Family>,
    v4: Learnt<Ipv4Addr>,
    v6: Learnt<Ipv6Addr>,
    link_local: Learnt<Ipv6Addr>,
    loopback_to_loopback: bool,
}

/// An address of the guest: the assigned one, or another one that it uses while that is silent ([`crate::heard`]).
#[derive(Debug, Clone, Copy)]
struct Learnt<A> {
    assigned: Option<A>,
    current: Heard<Option<A>>,
}

impl<A: Copy + Eq> Learnt<A> {
    const fn new(assigned: Option<A>) -> Self {
        Self {
            assigned,
            current: Heard::given(assigned),
        }
    }

    fn hear(&mut self, now: Instant, source: A) {
        if self.assigned == Some(source) {
            self.current = Heard::now(now, Some(source));
        } else {
            self.current.hear(now, Some(source));
        }
    }

    /// What was learnt stays, unless the guest was given another address.
    fn reassign(&mut self, assigned: Option<A>) {
        if assigned != self.assigned {
            *self = Self::new(assigned);
        }
    }
}

impl Translation {
    /// As the run begins.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let (v4, v6) = assigned(&config.families);
        Self {
            v4: Learnt::new(v4),
            v6: Learnt::new(v6),
            link_local: Learnt::new(None),
            families: config.families.clone(),
            loopback_to_loopback: config.loopback_to_loopback,
        }
    }

    /// The configuration is another one.
    pub fn reconfigure(&mut self, config: &Config) {
        let (v4, v6) = assigned(&config.families);
        self.v4.reassign(v4);
        self.v6.reassign(v6);
        self.families = config.families.clone();
        self.loopback_to_loopback = config.loopback_to_loopback;
    }

    /// Whether this is the guest's name for the host's name servers ([`crate::names`]).
    #[must_use]
    pub fn is_names(&self, destination: Guest, transport: Transport) -> bool {
        let (seen, port) = (destination.0.ip(), destination.0.port());
        transport != Transport::Echo
            && matches!(port, 53 | 853)
            && self
                .families
                .of(seen)
                .is_some_and(|family| family.dns_forward == Some(seen))
    }

    /// The guest was given this link-local address.
    pub fn has_link_local(&mut self, address: Ipv6Addr) {
        self.link_local = Learnt::new(Some(address));
    }

    /// The guest sent a packet from this address: inbound traffic is sent to where it speaks from, unless the user gave an
    /// address.
    pub fn learn(&mut self, now: Instant, source: IpAddr) {
        if !is_unicast(source) || source.is_loopback() {
            return;
        }
        let fixed = self.families.of(source).is_none_or(|family| family.fixed);
        match source {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                self.link_local.hear(now, address);
            }
            IpAddr::V4(address) if !fixed => self.v4.hear(now, address),
            IpAddr::V6(address) if !fixed => self.v6.hear(now, address),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }

    /// The guest's address for traffic from `shown`: link-local addresses talk to link-local ones, if one is known.
    #[must_use]
    pub fn current(&self, shown: IpAddr) -> Option<IpAddr> {
        match shown {
            IpAddr::V4(_) => self.v4.current.name.map(IpAddr::V4),
            IpAddr::V6(peer) if peer.is_unicast_link_local() => self
                .link_local
                .current
                .name
                .or(self.v6.current.name)
                .map(IpAddr::V6),
            IpAddr::V6(_) => self.v6.current.name.map(IpAddr::V6),
        }
    }

    /// What the host calls the destination of a packet of the guest; none: it leads nowhere.
    #[must_use]
    pub fn to_host(&self, destination: Guest, transport: Transport) -> Option<Host> {
        let seen = destination.0.ip();
        let port = destination.0.port();
        let family = self.families.of(seen)?;
        let address = if self.is_names(destination, transport) {
            family.dns_host?
        } else if family.map_host_loopback == Some(seen) {
            loopback(seen)
        } else if family.map_guest == Some(seen) {
            family.assigned()?
        } else if seen.is_loopback() || seen.is_unspecified() {
            return None;
        } else {
            seen
        };
        Some(Host(SocketAddr::new(address, port)))
    }

    /// Where flows to the host side are bound, if not by the kernel's choice: the address of `-o`.
    #[must_use]
    pub fn outbound(&self, to: Host) -> Option<SocketAddr> {
        let outbound = self.families.of(to.0.ip())?.outbound?;
        (!to.0.ip().is_loopback()).then(|| SocketAddr::new(outbound, 0))
    }

    /// The guest's name for a peer on the host side; none: the family is off.
    #[must_use]
    pub fn to_guest(&self, peer: Host) -> Option<Guest> {
        let seen = canonical(peer.0);
        let source = seen.ip();
        let family = self.families.of(source)?;
        let current = match source {
            IpAddr::V4(_) => self.v4.current.name.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.current.name.map(IpAddr::V6),
        };
        let shown = if source == loopback(source) && family.map_host_loopback.is_some() {
            family.map_host_loopback?
        } else if family.has(source) && family.map_guest.is_some() {
            family.map_guest?
        } else if source.is_loopback()
            || source.is_unspecified()
            || family.has(source)
            || current == Some(source)
        {
            family.ours
        } else {
            source
        };
        Some(Guest(SocketAddr::new(shown, seen.port())))
    }

    /// Whether this is everybody on a network of the guest's.
    #[must_use]
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        let family = self.families.of(address);
        let networks = family.into_iter().flat_map(|family| &family.addresses);
        address == IpAddr::V4(Ipv4Addr::BROADCAST)
            || networks.into_iter().any(|network| {
                let long = network.addr().is_ipv4() && network.prefix_len() < 31;
                long && network.broadcast() == address
            })
    }

    /// Where in the guest's namespace a connection to `local` of the host's loopback arrives, when sockets are spliced.
    #[must_use]
    pub fn spliced(&self, local: SocketAddr) -> Option<IpAddr> {
        let local = canonical(local).ip();
        if self.loopback_to_loopback {
            return Some(if local.is_loopback() {
                local
            } else {
                loopback(local)
            });
        }
        match local {
            IpAddr::V4(_) => self.v4.current.name.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.current.name.map(IpAddr::V6),
        }
    }
}

/// The loopback address of the family.
#[must_use]
pub fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// An address of a socket for both families: IPv4 in the clothes of IPv6 is IPv4. The scope of a link-local address
/// stays: on the host it names the link.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(_) => address,
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, address.port()),
    }
}

/// Many machines' address: a group's, or the limited broadcast.
#[must_use]
pub fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// One machine's address: neither unspecified nor multicast nor the limited broadcast. Nor IPv4 in the clothes of IPv6,
/// which no packet has (RFC 4038, 4.2), and which a socket would take for IPv4: the host's loopback under another name.
#[must_use]
pub fn is_unicast(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    let mapped = address != address.to_canonical();
    !(address.is_unspecified() || address.is_multicast() || broadcast || mapped)
}

/// The addresses that the guest was given.
fn assigned(families: &Families<Family>) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let assigned = |family: &Option<Family>| family.as_ref().and_then(Family::assigned);
    let v4 = match assigned(&families.v4) {
        Some(IpAddr::V4(address)) => Some(address),
        Some(IpAddr::V6(_)) | None => None,
    };
    let v6 = match assigned(&families.v6) {
        Some(IpAddr::V6(address)) => Some(address),
        Some(IpAddr::V4(_)) | None => None,
    };
    (v4, v6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Announce, Link, Off};

    fn family(text: &str, ours: &str) -> Family {
        Family {
            addresses: vec![text.parse().unwrap()],
            gateway: None,
            routes: Vec::new(),
            ours: ours.parse().unwrap(),
            template: None,
            dns_forward: None,
            dns_host: None,
            map_host_loopback: None,
            map_guest: None,
            outbound: None,
            outbound_interface: None,
            fixed: false,
        }
    }

    /// A host whose address is the guest's too, and everything mapped.
    fn translation() -> Translation {
        let second = "10.0.1.5/24".parse().unwrap();
        let mut v4 = family("10.0.0.5/24", "10.0.0.1");
        v4.addresses.push(second);
        let v4 = Family {
            dns_forward: Some("169.254.1.1".parse().unwrap()),
            dns_host: Some("127.0.0.53".parse().unwrap()),
            map_host_loopback: Some("10.0.0.1".parse().unwrap()),
            map_guest: Some("169.254.1.2".parse().unwrap()),
            ..v4
        };
        Translation::new(&Config {
            link: Link {
                name: "tap0".into(),
                our_mac: [0; 6],
                guest_mac: None,
                mtu: 0,
            },
            families: Families {
                v4: Some(v4),
                v6: Some(family("2001:db8::5/64", "fe80::1")),
            },
            off: Off::default(),
            announce: Announce::default(),
            listeners: Vec::new(),
            splice: true,
            splice_only: false,
            loopback_to_loopback: false,
        })
    }

    #[test]
    fn addresses_of_one_machine() {
        let check = |text: &str, expected: bool| {
            assert_eq!(is_unicast(text.parse().unwrap()), expected, "{text}");
        };
        check("198.51.100.7", true);
        check("2001:db8::1", true);
        check("255.255.255.255", false);
        check("224.0.0.1", false);
        check("ff02::1", false);
        check("::", false);
        check("::ffff:127.0.0.1", false);
        check("::ffff:198.51.100.7", false);
    }

    #[test]
    fn destinations_of_the_guest() {
        let translation = translation();
        let check = |seen: &str, expected: Option<&str>| {
            let guest = Guest(seen.parse().unwrap());
            let host = translation.to_host(guest, Transport::Tcp);
            let expected = expected.map(|text| Host(text.parse().unwrap()));
            assert_eq!(host, expected, "{seen}");
        };
        check("169.254.1.1:53", Some("127.0.0.53:53"));
        check("169.254.1.1:853", Some("127.0.0.53:853"));
        check("169.254.1.1:80", Some("169.254.1.1:80"));
        check("10.0.0.1:22", Some("127.0.0.1:22"));
        check("169.254.1.2:22", Some("10.0.0.5:22"));
        check("127.0.0.1:22", None);
        check("0.0.0.0:22", None);
        check("[::1]:22", None);
        check("198.51.100.7:22", Some("198.51.100.7:22"));
        check("[2001:db8:1::1]:22", Some("[2001:db8:1::1]:22"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn peers_as_the_guest_sees_them() {
        let mut translation = translation();
        let check = |translation: &Translation, peer: &str, shown: &str, to: &str| {
            let guest = translation.to_guest(Host(peer.parse().unwrap())).unwrap();
            assert_eq!(guest, Guest(shown.parse().unwrap()), "{peer}");
            let current = translation.current(guest.0.ip());
            assert_eq!(current, Some(to.parse().unwrap()), "{peer}");
        };
        check(&translation, "127.0.0.1:9", "10.0.0.1:9", "10.0.0.5");
        check(&translation, "127.0.0.2:9", "10.0.0.1:9", "10.0.0.5");
        check(&translation, "10.0.0.5:9", "169.254.1.2:9", "10.0.0.5");
        check(&translation, "10.0.1.5:9", "169.254.1.2:9", "10.0.0.5");
        check(&translation, "198.51.100.7:9", "198.51.100.7:9", "10.0.0.5");
        check(
            &translation,
            "[::ffff:198.51.100.7]:9",
            "198.51.100.7:9",
            "10.0.0.5",
        );
        check(
            &translation,
            "[2001:db8::5]:9",
            "[fe80::1]:9",
            "2001:db8::5",
        );
        let now = Instant::now();
        translation.learn(now, "fe80::77".parse().unwrap());
        translation.learn(now, "10.0.0.6".parse().unwrap());
        translation.learn(now, "0.0.0.0".parse().unwrap());
        check(&translation, "[2001:db8::5]:9", "[fe80::1]:9", "fe80::77");
        check(
            &translation,
            "[2001:db8:1::1]:9",
            "[2001:db8:1::1]:9",
            "2001:db8::5",
        );
        check(&translation, "10.0.0.6:9", "10.0.0.1:9", "10.0.0.6");
    }
    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn of_many_names_the_one_that_works_is_believed() {
        let address = |last| Ipv4Addr::new(10, 0, 0, last);
        let begin = Instant::now();
        let at = |ms| begin + std::time::Duration::from_millis(ms);
        let mut learnt = Learnt::new(Some(address(5)));
        learnt.hear(at(0), address(5));
        learnt.hear(at(100), address(6));
        assert_eq!(learnt.current.name, Some(address(5)));
        learnt.hear(at(150), address(5));
        learnt.hear(at(349), address(6));
        assert_eq!(learnt.current.name, Some(address(5)));
        learnt.hear(at(350), address(6));
        learnt.hear(at(351), address(7));
        assert_eq!(learnt.current.name, Some(address(6)));
        learnt.hear(at(352), address(5));
        learnt.hear(at(353), address(6));
        assert_eq!(learnt.current.name, Some(address(5)));
        learnt.reassign(Some(address(5)));
        assert!(!learnt.current.is_silent(at(353)));
        learnt.reassign(Some(address(8)));
        assert_eq!(learnt.current.name, Some(address(8)));
    }
}
