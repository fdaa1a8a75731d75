//! The decision: what somebody who asks gets to hear. The heart of the program.
//!
//! [`decide`] sees a name as a [key](crate::name), not a message, so that the fast path over bytes
//! ([`crate::fast`]) and the full path over messages ([`crate::full`]) come to the same answers.
//!
//! # Which names are ours
//!
//! A question's name, less the search domain, is looked up in the networks that the asker may see. In order:
//! names of containers; wildcards; services; `NAME.NETWORK`; the names of the host. An existing name answers for
//! every type, if only that there is nothing of it: a name must not seem to be absent because of the type asked
//! for. Reverse names are ours as far as our networks reach.
//!
//! Everything else is forwarded, unless it is below the search domain, nothing may be forwarded at all, or the
//! asker is in internal networks only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::name;
use crate::zones::{Asker, NameAt, Network, Route, Servers, Service, Zones};

/// The record types that we know something about.
#[expect(missing_docs, reason = "they are well known")]
pub mod kind {
    pub const A: u16 = 1;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// The classes of questions that we answer.
#[expect(missing_docs, reason = "they are well known")]
pub mod class {
    pub const IN: u16 = 1;
    pub const ANY: u16 = 255;
}

/// What follows the names that are ours in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchDomain {
    /// Whole labels, as a key.
    Labels(Box<[u8]>),
    /// Any text, with a dot at its end, in lower case; it may begin within a label. The empty text is behind every name.
    Text(String),
}

impl SearchDomain {
    /// From the command line. A dot is added behind it if there is none.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if let Some(key) = text.strip_prefix('.').and_then(name::key) {
            return Self::Labels(key.into());
        }
        let mut text = text.to_lowercase();
        if !text.is_empty() && !text.ends_with('.') {
            text.push('.');
        }
        Self::Text(text)
    }

    /// The name that stands over what we deny, as a key.
    #[must_use]
    pub fn apex(&self) -> Option<&[u8]> {
        match self {
            Self::Labels(key) => Some(key),
            Self::Text(_) => None,
        }
    }

    /// What is left of a name without it, if it ends in it.
    pub(crate) fn strip<'a>(&self, key: &'a [u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        match self {
            Self::Labels(domain) => name::before(key, domain),
            Self::Text(domain) if domain.is_empty() => Some(key),
            Self::Text(domain) => {
                let text = format!("{}.", name::text(key));
                let rest = text.strip_suffix(domain.as_str())?;
                *buffer = name::key(rest).unwrap_or_default();
                Some(buffer)
            }
        }
    }
}

/// What does not depend on the zones.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The search domain.
    pub domain: SearchDomain,
    /// Whether anything is forwarded.
    pub forward: bool,
    /// Whether several addresses take turns in coming first.
    pub rotate: bool,
    /// Whether the names of the host are ours.
    pub host_names: bool,
}

/// A question. The name is a key: in lower case.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What is asked for.
    pub name: &'a [u8],
    /// The type of record.
    pub kind: u16,
    /// The class.
    pub class: u16,
    /// Which of several addresses comes first, modulo their number.
    pub turn: u16,
}

/// What the asker gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The addresses in [`Found`]; none if there is nothing of the type. The name exists.
    Addresses,
    /// The names in [`Found`], one PTR record each.
    Pointers,
    /// The services in [`Found`].
    Services,
    /// The name does not exist.
    NoName,
    /// We do not do that.
    Refused,
    /// Ask these servers; the host's if there are none.
    Forward(Option<Servers>),
}

/// Where [`decide`] puts records. Used again and again, so that answers cost no allocations.
#[derive(Debug, Default)]
pub struct Found {
    /// IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
    /// Names, as keys: the network and the position in it.
    pub names: Vec<(u32, NameAt)>,
    /// Services.
    pub services: Vec<Service>,
}

/// Names of the host, as containers know it.
const HOST_NAMES: [&[u8]; 2] = [
    b"\x04host\x0acontainers\x08internal",
    b"\x04host\x06docker\x08internal",
];

/// Decides about a question.
#[must_use]
pub fn decide(
    zones: &Zones,
    policy: &Policy,
    asker: &Asker,
    question: &Question<'_>,
    found: &mut Found,
) -> Verdict {
    found.ipv4.clear();
    found.ipv6.clear();
    found.names.clear();
    if !matches!(question.class, class::IN | class::ANY)
        || matches!(question.kind, kind::AXFR | kind::IXFR)
    {
        return Verdict::Refused;
    }
    if question.kind == kind::PTR
        && let Some(address) = name::reverse_address(question.name)
        && let Some(verdict) = pointers(zones, asker, address, found)
    {
        return verdict;
    }
    let mut buffer = Vec::new();
    let inside = policy.domain.strip(question.name, &mut buffer);
    let key = inside.unwrap_or(question.name);
    if inside == Some(&[]) && !question.name.is_empty() {
        return Verdict::Addresses;
    }
    if let Some(verdict) = ours(zones, policy, asker, key, question, found) {
        return verdict;
    }
    if inside.is_some() || !policy.forward || asker.internal_only {
        return Verdict::NoName;
    }
    Verdict::Forward(servers(zones, asker, question.name))
}

/// Names of an address in the first network that has it. Addresses between those that we know are known not
/// to exist.
fn pointers(zones: &Zones, asker: &Asker, address: IpAddr, found: &mut Found) -> Option<Verdict> {
    for n in &asker.networks {
        let network = zones.network(*n);
        let names = network
            .names_of(address)
            .filter(|name| is_host_name(network.name_of(*name)));
        found.names.extend(names.map(|name| (*n, name)));
        if !found.names.is_empty() {
            return Some(Verdict::Pointers);
        }
    }
    zones.covers(address).then_some(Verdict::NoName)
}

/// Not a wildcard, and not the raw form of a name that has an ASCII form beside it.
fn is_host_name(key: &[u8]) -> bool {
    key.is_ascii() && !key.starts_with(b"\x01*")
}

fn ours(
    zones: &Zones,
    policy: &Policy,
    asker: &Asker,
    key: &[u8],
    question: &Question<'_>,
    found: &mut Found,
) -> Option<Verdict> {
    let all = |find: &dyn Fn(&Network) -> Option<NameAt>, found: &mut Found| {
        let mut exists = false;
        for n in &asker.networks {
            let network = zones.network(*n);
            if let Some(name) = find(network) {
                exists = true;
                let before = (found.ipv4.len(), found.ipv6.len());
                collect(network, name, question.kind, found);
                // Turns are taken within a network: the asker's own stays first.
                if policy.rotate {
                    rotate(&mut found.ipv4[before.0..], question.turn);
                    rotate(&mut found.ipv6[before.1..], question.turn);
                }
            }
        }
        exists
    };
    let exists = !key.is_empty()
        && (all(&|network| network.find(key), found)
            || all(&|network| network.find_wildcard(key), found)
            || all(&|network| below_network(network, key), found)
            || (policy.host_names && host_name(zones, asker, question, found)));
    if exists {
        return Some(Verdict::Addresses);
    }
    services(zones, asker, key, question.kind, found)
}

/// `NAME.NETWORK`
pub(crate) fn below_network(network: &Network, key: &[u8]) -> Option<NameAt> {
    let rest = name::before(key, network.key.as_deref()?)?;
    network.find(rest)
}

/// Our own addresses on the first network of the asker.
fn host_name(zones: &Zones, asker: &Asker, question: &Question<'_>, found: &mut Found) -> bool {
    let network = asker
        .networks
        .first()
        .filter(|_| asker.known && HOST_NAMES.contains(&question.name));
    let Some(network) = network else { return false };
    for address in &zones.network(*network).listen {
        match address {
            IpAddr::V4(address) if wants(question.kind, kind::A) => found.ipv4.push(*address),
            IpAddr::V6(address) if wants(question.kind, kind::AAAA) => found.ipv6.push(*address),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
    true
}

fn services(
    zones: &Zones,
    asker: &Asker,
    key: &[u8],
    wanted: u16,
    found: &mut Found,
) -> Option<Verdict> {
    found.services.clear();
    for n in &asker.networks {
        add_new(&mut found.services, zones.network(*n).services(key));
    }
    if found.services.is_empty() {
        return None;
    }
    Some(if wants(wanted, kind::SRV) {
        Verdict::Services
    } else {
        Verdict::Addresses
    })
}

fn wants(asked: u16, record: u16) -> bool {
    asked == record || asked == kind::ANY
}

fn collect(network: &Network, name: NameAt, asked: u16, found: &mut Found) {
    if wants(asked, kind::A) {
        add_new(&mut found.ipv4, network.ipv4(name));
    }
    if wants(asked, kind::AAAA) {
        add_new(&mut found.ipv6, network.ipv6(name));
    }
}

/// Within a network addresses and services are distinct; several networks seldom have the same one.
fn add_new<T: PartialEq + Clone>(found: &mut Vec<T>, new: &[T]) {
    if found.is_empty() {
        found.extend_from_slice(new);
        return;
    }
    let before = found.len();
    for address in new {
        if !found[..before].contains(address) {
            found.push(address.clone());
        }
    }
}

fn rotate<T>(addresses: &mut [T], turn: u16) {
    if addresses.len() > 1 {
        let first = usize::from(turn) % addresses.len();
        addresses.rotate_left(first);
    }
}

/// Whom to ask: the servers of the domain, else the container's, else those of all its networks.
fn servers(zones: &Zones, asker: &Asker, key: &[u8]) -> Option<Servers> {
    if !asker.known {
        return None;
    }
    let networks = || asker.networks.iter().map(|n| zones.network(*n));
    if let Some(route) = route(networks(), key) {
        return Some(route.servers.clone());
    }
    if let Some(servers) = &asker.servers {
        return Some(servers.clone());
    }
    let mut lists = networks().filter(|network| !network.servers.is_empty() && !network.internal);
    let first = lists.next()?.servers.clone();
    let mut all = first.to_vec();
    for network in lists {
        all.extend_from_slice(&network.servers);
    }
    Some(if all.len() == first.len() {
        first
    } else {
        all.into()
    })
}

/// The longest domain with servers that a name is in; those of the asker's own network among equal ones.
pub(crate) fn route<'a>(
    networks: impl Iterator<Item = &'a Network>,
    key: &[u8],
) -> Option<&'a Route> {
    let mut best: Option<&Route> = None;
    for network in networks.filter(|network| !network.internal) {
        let mut routes = network.routes.iter();
        let found = routes.find(|route| name::before(key, &route.domain).is_some());
        let longer =
            |route: &&Route| best.is_none_or(|best| best.domain.len() < route.domain.len());
        best = found.filter(longer).or(best);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zones::tests::zones;

    fn policy() -> Policy {
        Policy {
            domain: SearchDomain::new(".dns.podman"),
            forward: true,
            rotate: false,
            host_names: true,
        }
    }

    /// What `source` hears when it asks 10.0.0.1.
    fn ask(zones: &Zones, policy: &Policy, source: &str, name: &str, kind: u16) -> String {
        let asker = zones.asker(source.parse().unwrap(), "10.0.0.1".parse().unwrap());
        let key = name::key(name).unwrap_or_default();
        let question = Question {
            name: &key,
            kind,
            class: class::IN,
            turn: 0,
        };
        let mut found = Found::default();
        match decide(zones, policy, &asker, &question, &mut found) {
            Verdict::Addresses => {
                let v4 = found.ipv4.iter().map(ToString::to_string);
                v4.chain(found.ipv6.iter().map(ToString::to_string))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            Verdict::Pointers => {
                let text = |(n, name): &(u32, NameAt)| name::text(zones.network(*n).name_of(*name));
                found.names.iter().map(text).collect::<Vec<_>>().join(" ")
            }
            Verdict::Services => found
                .services
                .iter()
                .map(|s| format!("{}:{}", name::text(&s.target), s.port))
                .collect(),
            Verdict::NoName => "no name".to_owned(),
            Verdict::Refused => "refused".to_owned(),
            Verdict::Forward(servers) => {
                let servers =
                    servers.map(|list| list.iter().map(|server| server.ip()).collect::<Vec<_>>());
                format!("ask {servers:?}")
            }
        }
    }

    fn example() -> Zones {
        zones(&[
            (
                "one",
                "10.0.0.1,fd::1 1.1.1.1 route=corp.example@10.1.1.1\n\
                c1 10.0.0.2 fd::2 web,b\u{fc}cher,*.app.local\n\
                c2 10.0.0.3  db,a.b 9.9.9.9\n\
                c3 10.0.0.4  api  srv=_http._tcp:80\n",
            ),
            ("two", "10.0.1.1\nc1 10.0.1.2  web\nc9 10.0.1.3  far\n"),
            ("in%int", "10.0.2.1\nc8 10.0.2.2  in\n"),
        ])
    }

    #[test]
    fn names() {
        let (zones, policy) = (example(), policy());
        let check = |name: &str, kind: u16, expected: &str| {
            assert_eq!(
                ask(&zones, &policy, "10.0.0.2", name, kind),
                expected,
                "{name} {kind}"
            );
        };
        check("web", kind::A, "10.0.0.2 10.0.1.2");
        check("web.dns.podman", kind::AAAA, "fd::2");
        check("db", kind::AAAA, "");
        check("db", 15, "");
        check("a.b.dns.podman.", kind::A, "10.0.0.3");
        check("web", kind::ANY, "10.0.0.2 10.0.1.2 fd::2");
        check("far", kind::A, "10.0.1.3");
        check("xn--bcher-kva", kind::A, "10.0.0.2");
        check("b\u{fc}cher", kind::A, "10.0.0.2");
        check("x.y.app.local", kind::A, "10.0.0.2");
        check("app.local", kind::A, "ask Some([1.1.1.1])");
        check("web.two", kind::A, "10.0.1.2");
        check("db.two", kind::A, "ask Some([1.1.1.1])");
        check("dns.podman", kind::A, "");
        check("nobody.dns.podman", kind::A, "no name");
        check("xdns.podman", kind::A, "ask Some([1.1.1.1])");
        check("", kind::A, "ask Some([1.1.1.1])");
        check("_http._tcp.api", kind::SRV, "api:80");
        check("_http._tcp.api", kind::A, "");
        check("www.corp.example", kind::A, "ask Some([10.1.1.1])");
        check("host.containers.internal", kind::A, "10.0.0.1");
        check("host.containers.internal", kind::AAAA, "fd::1");
        check("web", kind::AXFR, "refused");
    }

    #[test]
    fn reverse_names() {
        let (zones, policy) = (example(), policy());
        let check = |source: &str, name: &str, expected: &str| {
            assert_eq!(
                ask(&zones, &policy, source, name, kind::PTR),
                expected,
                "{name}"
            );
        };
        check("10.0.0.3", "2.0.0.10.in-addr.arpa", "web xn--bcher-kva");
        check("10.0.0.3", "1.0.0.10.in-addr.arpa", "no name");
        check("10.0.0.3", "9.9.9.9.in-addr.arpa", "ask Some([9.9.9.9])");
        check("10.0.0.3", "3.1.0.10.in-addr.arpa", "no name");
    }

    #[test]
    fn askers() {
        let zones = example();
        let mut policy = policy();
        let check = |policy: &Policy, source: &str, name: &str, expected: &str| {
            assert_eq!(
                ask(&zones, policy, source, name, kind::A),
                expected,
                "{source} {name}"
            );
        };
        check(&policy, "10.0.0.3", "far", "ask Some([9.9.9.9])");
        check(&policy, "10.0.2.2", "web", "no name");
        check(&policy, "10.0.2.2", "in", "10.0.2.2");
        check(&policy, "192.0.2.1", "web", "10.0.0.2");
        check(&policy, "192.0.2.1", "far", "ask None");
        check(&policy, "192.0.2.1", "host.containers.internal", "ask None");
        policy.forward = false;
        check(&policy, "192.0.2.1", "far", "no name");
        policy.domain = SearchDomain::new("dns.podman");
        check(&policy, "192.0.2.1", "webdns.podman", "10.0.0.2");
        policy.domain = SearchDomain::new("");
        policy.forward = true;
        check(&policy, "192.0.2.1", "far", "no name");
        check(&policy, "192.0.2.1", "web", "10.0.0.2");
    }
}
