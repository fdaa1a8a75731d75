//! What firewalld is told of, from the elements of networks and containers.
//!
//! With the driver `firewalld` there is no table of ours. These objects of firewalld take its place; names and form are
//! netavark's, so that either program finds what the other left:
//!
//! | object | from → to | holds |
//! | --- | --- | --- |
//! | zone `netavark_zone` | | subnets of networks that are not internal |
//! | policy `netavark_policy` | zone → anywhere | accepts and masquerades what leaves |
//! | policy `netavark_zone_acc` | anywhere → zone | masquerades, so that answers come back by us |
//! | policy `netavark_portfwd` | anywhere → host | published ports, resolvers on another port |
//! | policy `netavark_host_fwd` | host → anywhere | published ports, for ourselves at 127.0.0.1 |
//!
//! Zone and policies are permanent, what they hold is not: a reload of firewalld empties them, and
//! `firewalld-reload` fills them again. Each call sets all of it, from the records; what somebody else put into objects
//! of these names goes.
//!
//! Not to be had this way: isolation, a chosen source address, `[::1]`, and rules about internal networks. firewalld
//! before 2.0 refuses to forward ports to other machines in a policy that leads to the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::firewall::{Elements, Key, Part, Set, Value};

/// The zone of containers.
pub const ZONE: &str = "netavark_zone";
/// The zone that subnets are put into when the rules are ours and firewalld runs beside them.
pub const TRUSTED: &str = "trusted";

/// A policy as it is created.
#[derive(Debug)]
pub struct Policy {
    /// Its name.
    pub name: &'static str,
    /// Where traffic comes from.
    pub from: &'static str,
    /// Where it goes to.
    pub to: &'static str,
    /// What becomes of it.
    pub target: &'static str,
    /// Whether its source address is translated.
    pub masquerade: bool,
}

/// The policy of published ports.
pub const PORT_FORWARD: &str = "netavark_portfwd";
/// The policy of published ports for ourselves.
pub const HOST_FORWARD: &str = "netavark_host_fwd";

/// All policies.
pub const POLICIES: [Policy; 4] = [
    policy("netavark_policy", ZONE, "ANY", "ACCEPT", true),
    policy(PORT_FORWARD, "ANY", "HOST", "CONTINUE", false),
    policy(HOST_FORWARD, "HOST", "ANY", "CONTINUE", false),
    policy("netavark_zone_acc", "ANY", ZONE, "CONTINUE", true),
];

const fn policy(
    name: &'static str,
    from: &'static str,
    to: &'static str,
    target: &'static str,
    masquerade: bool,
) -> Policy {
    Policy {
        name,
        from,
        to,
        target,
        masquerade,
    }
}

/// A forwarded port in firewalld's form: port or range, protocol, port or range of the target, address of the target.
pub type ForwardPort = (String, String, String, String);

/// What the zone and the policies hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Sources of the zone.
    pub sources: BTreeSet<String>,
    /// Ports of all addresses of the host.
    pub forward_ports: BTreeSet<ForwardPort>,
    /// Ports of one address of the host, and resolvers.
    pub port_rules: BTreeSet<String>,
    /// Ports of 127.0.0.1, for ourselves.
    pub host_rules: BTreeSet<String>,
}

/// Consecutive ports that lead to consecutive ports of one address.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: Option<IpAddr>,
    protocol: &'static str,
    first: u16,
    last: u16,
    address: IpAddr,
    target: u16,
}

/// What firewalld is to hold for these elements.
#[must_use]
pub fn contents(elements: &Elements) -> Contents {
    let mut contents = Contents::default();
    for (set, parts) in elements.keys() {
        if matches!(set, Set::Outbound4 | Set::Outbound6)
            && let [Part::Subnet(subnet)] = parts.as_slice()
        {
            contents.sources.insert(subnet.to_string());
        }
    }
    let served = |address: IpAddr| {
        let subnets = contents.sources.iter();
        let mut subnets = subnets.filter_map(|subnet| subnet.parse::<IpNet>().ok());
        subnets.any(|subnet| subnet.contains(&address))
    };
    let spans = spans(elements, |set| {
        matches!(set, Set::DnsRedirect4 | Set::DnsRedirect6)
    });
    let resolvers: Vec<String> = spans
        .filter(|span| span.protocol == "udp" && served(span.address))
        .filter_map(|span| span.at.map(|at| span.rule(at)))
        .collect();
    contents.port_rules.extend(resolvers);
    for span in spans_of_ports(elements) {
        add(&mut contents, &span);
    }
    contents
}

fn spans_of_ports(elements: &Elements) -> impl Iterator<Item = Span> {
    spans(elements, |set| {
        matches!(
            set,
            Set::Publish4 | Set::Publish6 | Set::PublishAt4 | Set::PublishAt6
        )
    })
}

fn add(contents: &mut Contents, span: &Span) {
    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    match span.at {
        None => {
            contents.forward_ports.insert((
                range(span.first, span.last),
                span.protocol.to_owned(),
                range(span.target, span.target + (span.last - span.first)),
                span.address.to_string(),
            ));
            if span.address.is_ipv4() {
                contents.host_rules.insert(span.rule(LOOPBACK));
            }
        }
        Some(at) if at.is_loopback() => {
            if at.is_ipv4() {
                contents.host_rules.insert(span.rule(at));
            }
        }
        Some(at) => {
            contents.port_rules.insert(span.rule(at));
        }
    }
}

impl Span {
    /// The rule in the words that firewalld itself would use.
    fn rule(&self, at: IpAddr) -> String {
        let family = if at.is_ipv4() { "ipv4" } else { "ipv6" };
        format!(
            "rule family=\"{family}\" destination address=\"{at}\" forward-port port=\"{}\" protocol=\"{}\" to-port=\"{}\" to-addr=\"{}\"",
            range(self.first, self.last),
            self.protocol,
            range(self.target, self.target + (self.last - self.first)),
            self.address
        )
    }
}

fn range(first: u16, last: u16) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

/// The elements of some maps, those of consecutive ports as one. They come in the order of their ports.
fn spans(elements: &Elements, of: impl Fn(Set) -> bool) -> impl Iterator<Item = Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut before = None;
    let some = elements
        .iter()
        .filter(|((set, _), _)| of(*set))
        .filter_map(|(key, value)| Some((key.0, single(key, value.as_ref())?)));
    for (set, span) in some {
        match spans.last_mut() {
            Some(last) if before == Some(set) && last.is_followed_by(&span) => {
                last.last = span.last;
            }
            _ => spans.push(span),
        }
        before = Some(set);
    }
    spans.into_iter()
}

impl Span {
    fn is_followed_by(&self, next: &Self) -> bool {
        (self.at, self.protocol, self.address) == (next.at, next.protocol, next.address)
            && u32::from(next.first) == u32::from(self.last) + 1
            && u32::from(next.target) == u32::from(self.target) + u32::from(next.first - self.first)
    }
}

fn single((_, parts): &Key, value: Option<&Value>) -> Option<Span> {
    let (protocol, at, port) = match parts.as_slice() {
        [Part::Protocol(protocol), Part::Port(port)] => (protocol, None, *port),
        [
            Part::Protocol(protocol),
            Part::Address(at),
            Part::Port(port),
        ] => (protocol, Some(*at), *port),
        _ => return None,
    };
    let (address, target) = pick!(value?, Value::Socket(address, target) => (*address, *target))?;
    Some(Span {
        at,
        protocol: protocol.name(),
        first: port,
        last: port,
        address,
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::state::Protocol::{Tcp, Udp};

    fn elements(list: &[(Set, Vec<Part>, Option<Value>)]) -> Elements {
        let owned = list.iter().cloned();
        owned
            .map(|(set, parts, value)| ((set, parts), value))
            .collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn ranges_are_one_and_loopback_is_for_ourselves() {
        let to = |port| Some(Value::Socket(address("10.1.0.2"), port));
        let any = |port| vec![Part::Protocol(Tcp), Part::Port(port)];
        let at = |host: &str, port| {
            vec![
                Part::Protocol(Udp),
                Part::Address(address(host)),
                Part::Port(port),
            ]
        };
        let subnet = "10.1.0.0/24".parse().expect("a subnet");
        let found = contents(&elements(&[
            (
                Set::Outbound4,
                vec![Part::Subnet(subnet)],
                Some(Value::Goto(super::super::firewall::Chain::Masquerade)),
            ),
            (Set::Publish4, any(8080), to(80)),
            (Set::Publish4, any(8081), to(81)),
            (Set::Publish4, any(8082), to(90)),
            (Set::PublishAt4, at("192.0.2.1", 53), to(53)),
            (Set::PublishAt4, at("127.0.0.1", 54), to(54)),
            (
                Set::DnsRedirect4,
                at("10.1.0.1", 53),
                Some(Value::Socket(address("10.1.0.1"), 1053)),
            ),
        ]));
        let forward = |ports: &str, to: &str| {
            let [ports, to] = [ports, to].map(str::to_owned);
            (ports, "tcp".to_owned(), to, "10.1.0.2".to_owned())
        };
        assert_eq!(
            found.forward_ports,
            [forward("8080-8081", "80-81"), forward("8082", "90")].into()
        );
        assert_eq!(found.sources, ["10.1.0.0/24".to_owned()].into());
        let rule = |at: &str, port: &str, protocol: &str, to: &str, target: &str| {
            format!(
                "rule family=\"ipv4\" destination address=\"{at}\" forward-port port=\"{port}\" protocol=\"{protocol}\" to-port=\"{to}\" to-addr=\"{target}\""
            )
        };
        assert_eq!(
            found.port_rules,
            [
                rule("10.1.0.1", "53", "udp", "1053", "10.1.0.1"),
                rule("192.0.2.1", "53", "udp", "53", "10.1.0.2"),
            ]
            .into()
        );
        assert_eq!(
            found.host_rules,
            [
                rule("127.0.0.1", "8080-8081", "tcp", "80-81", "10.1.0.2"),
                rule("127.0.0.1", "8082", "tcp", "90", "10.1.0.2"),
                rule("127.0.0.1", "54", "udp", "54", "10.1.0.2"),
            ]
            .into()
        );
    }
}
