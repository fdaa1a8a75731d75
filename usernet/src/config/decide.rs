//! What follows from the options and from the host.
//!
//! Each family is decided by itself, in this order: the *template*, that is the host's interface that the guest's one
//! is modelled after; the addresses; the gateway; the routes; the names for what the guest cannot reach by address. A
//! family without a template is in local mode: an address that is valid nowhere else (IPv4), or none but the link-local
//! one (IPv6), and a gateway which is us.

use std::net::IpAddr;

use ipnet::IpNet;

use super::resolv::{self, ResolvConf};
use super::wishes::{self, Wishes};
use super::{
    Announce, Config, ConfigError, Facts, Families, Family, HostAddress, HostLink, HostRoute,
    LOCAL_ADDRESS, LOCAL_GATEWAY, LOCAL_GATEWAY_V6, LOCAL_NAME, Level, Link, MTU_MIN_V4,
    MTU_MIN_V6, Notice, Off, Route, Run, advice, report,
};
use crate::cli::Options;
use crate::limits;
use crate::ports::{self, Surroundings};

/// `RT_SCOPE_LINK`: addresses of this scope and of narrower ones are of no use to a guest.
const SCOPE_LINK: u8 = 253;
/// `RTN_UNICAST`
const KIND_UNICAST: u8 = 1;
/// `RTPROT_BOOT`: what `ip route` sets.
const PROTOCOL_BOOT: u8 = 3;
/// The kernel's ephemeral ports where it does not say: those of IANA.
const EPHEMERAL: (u16, u16) = (49_152, 65_535);

/// One run, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// For the forwarder.
    pub config: Config,
    /// For everybody else.
    pub run: Run,
    /// To be told, in order.
    pub notices: Vec<Notice>,
    /// The servers that queries of each family may go to.
    pub resolvers: Families<Vec<IpAddr>>,
}

/// Decides everything.
///
/// # Errors
/// An option cannot be meant, or cannot be done on this host.
pub fn decide(options: &Options, facts: &Facts) -> Result<Decision, ConfigError> {
    decide_from(options, facts).map_err(|error| advice::of_options(error, &options.given))
}

fn decide_from(options: &Options, facts: &Facts) -> Result<Decision, ConfigError> {
    let mut wishes = wishes::read(options)?;
    let mut notices = std::mem::take(&mut wishes.notices);
    let on = families_on(&wishes, facts, &mut notices)?;
    let resolv = resolv::parse(&facts.resolv_conf);
    let context = Context {
        wishes: &wishes,
        facts,
        resolv: &resolv,
    };
    let mut family = |version: Version, on: bool| {
        on.then(|| context.family(version, &mut notices))
            .transpose()
    };
    let families = Families {
        v4: family(Version::V4, on.0)?,
        v6: family(Version::V6, on.1)?,
    };
    let surroundings = Surroundings {
        v4: families.v4.is_some(),
        v6: families.v6.is_some(),
        ephemeral: facts.ephemeral.unwrap_or(EPHEMERAL),
    };
    let off = context.off(&families);
    let specs: Vec<_> = wishes
        .ports
        .iter()
        .map(|(direction, text)| (*direction, text.as_str()))
        .collect();
    let config = Config {
        link: context.link(&families),
        listeners: ports::listeners(&specs, &surroundings, &off)?,
        off,
        announce: context.announce(&families, &mut notices),
        families,
        splice: wishes.splice,
        splice_only: wishes.splice_only,
        loopback_to_loopback: wishes.loopback_to_loopback,
    };
    if !config.splice_only {
        notices.extend(report::warnings(&config.families, facts));
    }
    notices.extend(report::lines(&config, facts));
    Ok(Decision {
        resolvers: context.resolvers(),
        config,
        run: wishes.run,
        notices,
    })
}

/// The name servers of a run whose host has another resolv.conf now, and what is told of them. Nothing else changes.
///
/// # Errors
/// As [`decide`], of which this is a part.
pub fn rename(
    options: &Options,
    resolv_conf: &[u8],
    config: &Config,
) -> Result<(Config, Families<Vec<IpAddr>>), ConfigError> {
    let wishes = wishes::read(options)?;
    let resolv = resolv::parse(resolv_conf);
    let context = Context {
        wishes: &wishes,
        facts: &Facts::default(),
        resolv: &resolv,
    };
    let mut config = config.clone();
    let families = [
        (Version::V4, &mut config.families.v4),
        (Version::V6, &mut config.families.v6),
    ];
    for (version, family) in families {
        if let Some(family) = family {
            let names = context.names(version, family.gateway);
            family.dns_forward = names.dns_forward;
            family.dns_host = names.dns_host;
        }
    }
    config.announce = context.announce(&config.families, &mut Vec::new());
    Ok((config, context.resolvers()))
}

/// Whether IPv4 and IPv6 are on.
fn families_on(
    wishes: &Wishes,
    facts: &Facts,
    notices: &mut Vec<Notice>,
) -> Result<(bool, bool), ConfigError> {
    if !wishes.v4 && !facts.ipv6 {
        return Err(ConfigError::NoIpv6);
    }
    let (v4, mut v6) = (wishes.v4, wishes.v6 && facts.ipv6);
    let mtu = wishes.mtu;
    let mut small = |family, minimum| {
        let text = format!("MTU {mtu} is too small for {family} (minimum {minimum})");
        let level = Level::Warning;
        notices.push(Notice { level, text });
    };
    if v4 && (1..MTU_MIN_V4).contains(&mtu) {
        small("IPv4", MTU_MIN_V4);
    }
    if v6 && (1..MTU_MIN_V6).contains(&mtu) {
        small("IPv6", MTU_MIN_V6);
        if !v4 {
            return Err(ConfigError::MtuTooSmall(mtu));
        }
        v6 = !wishes.run.config_net;
    }
    Ok((v4, v6))
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    const fn has(self, address: IpAddr) -> bool {
        matches!(
            (self, address),
            (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_))
        )
    }

    fn of<T>(self, families: &Families<T>) -> Option<&T> {
        match self {
            Self::V4 => families.v4.as_ref(),
            Self::V6 => families.v6.as_ref(),
        }
    }
}

struct Context<'a> {
    wishes: &'a Wishes,
    facts: &'a Facts,
    resolv: &'a ResolvConf,
}

impl Context<'_> {
    fn family(&self, version: Version, notices: &mut Vec<Notice>) -> Result<Family, ConfigError> {
        let wishes = self.wishes;
        let wished = version.of(&wishes.addresses);
        let template = self.template(version, notices)?;
        let copied = template.map(|link| self.addresses(version, link));
        let copied = copied.unwrap_or_default();
        // An interface without an address that a guest could use is no template.
        let template = template.filter(|_| !copied.is_empty() || wished.is_some());
        if template.is_none() {
            let family = version.name();
            let text = format!("{family}: no external interface as template, use local mode");
            let level = Level::Info;
            notices.push(Notice { level, text });
        }
        let addresses = match (wished, version) {
            (Some(&address), _) => vec![self.with_netmask(address)],
            (None, Version::V4) if copied.is_empty() => vec![local_address()],
            (None, _) => copied,
        };
        let gateway = self.gateway(version, template);
        let routes = match (wishes.run.config_net, template) {
            (false, _) => Vec::new(),
            (true, Some(link)) if version.of(&wishes.gateways).is_none() => {
                self.copied_routes(version, link, &addresses, notices)
            }
            (true, _) => gateway.map_or_else(Vec::new, |by| default_route(by, &addresses)),
        };
        let names = self.names(version, gateway);
        Ok(Family {
            addresses,
            ours: self.ours(version, gateway, template),
            gateway,
            routes,
            template: template.map(|link| link.name.clone()),
            dns_forward: names.dns_forward,
            dns_host: names.dns_host,
            map_host_loopback: names.map_host_loopback,
            map_guest: version.of(&wishes.map_guest).copied(),
            outbound: version.of(&wishes.outbound).copied(),
            outbound_interface: version.of(&wishes.outbound_interface).cloned(),
            fixed: wished.is_some(),
        })
    }

    /// The interface that the guest's is modelled after.
    fn template(
        &self,
        version: Version,
        notices: &mut Vec<Notice>,
    ) -> Result<Option<&HostLink>, ConfigError> {
        let outbound = version.of(&self.wishes.outbound_interface);
        let mut links = self.facts.links.iter();
        if let Some(name) = &self.wishes.interface {
            let found = links.find(|link| link.name == *name);
            let found = found.ok_or_else(|| ConfigError::NoSuchInterface(name.clone()))?;
            return Ok((!found.loopback).then_some(found));
        }
        if let Some(name) = outbound {
            let found = links.find(|link| link.name == *name);
            let usable = |link: &&HostLink| {
                !self.addresses(version, link).is_empty()
                    || version.of(&self.wishes.addresses).is_some()
            };
            let found = found.filter(usable);
            return found
                .map(Some)
                .ok_or_else(|| ConfigError::OutboundInterface(name.clone()));
        }
        let mut defaults = self.routes(version).filter(|(route, _)| is_default(route));
        if let Some((_, link)) = defaults.next() {
            if defaults.next().is_some() {
                let text = format!("Multiple default {} routes, picked first", version.name());
                let level = Level::Info;
                notices.push(Notice { level, text });
            }
            return Ok(Some(link));
        }
        let mut others = self.routes(version);
        let found = others.find(|(route, _)| !is_link_local(route.destination.addr()));
        Ok(found.map(|(_, link)| link))
    }

    /// Routes that forward packets out of an interface which is not the loopback one, and that interface.
    fn routes(&self, version: Version) -> impl Iterator<Item = (&HostRoute, &HostLink)> {
        let routes = self.facts.routes.iter();
        let routes = routes.filter(move |route| {
            version.has(route.destination.addr())
                && route.kind == KIND_UNICAST
                && !route.destination.addr().is_multicast()
        });
        routes.filter_map(|route| {
            let mut links = self.facts.links.iter();
            let link = links.find(|link| Some(link.index) == route.link)?;
            (!link.loopback).then_some((route, link))
        })
    }

    /// The addresses of an interface that the guest gets: all, in the host's order, if we set them; otherwise the one
    /// that DHCP can give, which is the most specific one.
    fn addresses(&self, version: Version, link: &HostLink) -> Vec<IpNet> {
        let usable = |address: &&HostAddress| {
            let ip = address.address.addr();
            address.link == link.index
                && version.has(ip)
                && address.scope < SCOPE_LINK
                && !address.deprecated
                && !is_link_local(ip)
                && !ip.is_loopback()
        };
        let addresses = self.facts.addresses.iter().filter(usable);
        let all: Vec<_> = addresses.map(|address| address.address).collect();
        if self.wishes.run.config_net && self.wishes.copy_addresses {
            return all;
        }
        let best = all.iter().copied().reduce(|best, address| {
            if address.prefix_len() > best.prefix_len() {
                address
            } else {
                best
            }
        });
        let best = best.map(|best| match best {
            IpNet::V4(_) => self.with_netmask(best),
            IpNet::V6(_) => IpNet::new(best.addr(), 64).unwrap_or(best),
        });
        best.into_iter().collect()
    }

    /// An IPv4 address that is not copied, with the length of `-n`.
    fn with_netmask(&self, address: IpNet) -> IpNet {
        let length = self.wishes.netmask.filter(|&length| length > 0);
        let length = length.filter(|_| address.addr().is_ipv4());
        let changed = length.and_then(|length| IpNet::new(address.addr(), length).ok());
        changed.unwrap_or(address)
    }

    /// The guest's default gateway: as told, or as the host's; in local mode us.
    fn gateway(&self, version: Version, template: Option<&HostLink>) -> Option<IpAddr> {
        if let Some(&gateway) = version.of(&self.wishes.gateways) {
            return Some(gateway);
        }
        let Some(template) = template else {
            return Some(local_gateway(version));
        };
        let mut defaults = self
            .routes(version)
            .filter(|(route, link)| is_default(route) && link.index == template.index);
        let gateway = defaults.next().and_then(|(route, _)| route.gateway);
        gateway.filter(|&gateway| version.has(gateway))
    }

    /// The host's routes by the template, those on the link first. What the kernel makes of the guest's addresses, or
    /// has by itself on every interface, is left to it.
    fn copied_routes(
        &self,
        version: Version,
        template: &HostLink,
        addresses: &[IpNet],
        notices: &mut Vec<Notice>,
    ) -> Vec<Route> {
        let by_template = self.routes(version).filter(|(route, link)| {
            let connected = addresses.iter().any(|own| own.trunc() == route.destination);
            let by_kernel = route.gateway.is_none() && connected;
            let of_the_link = version == Version::V6 && is_link_local(route.destination.addr());
            let wanted = self.wishes.copy_routes || is_default(route);
            link.index == template.index && wanted && !by_kernel && !of_the_link
        });
        let mut routes = Vec::new();
        for (route, _) in by_template {
            if let (true, Some(gateway)) = (route.multipath, route.gateway) {
                let destination = route.destination;
                let text = format!("Route {destination} has several gateways: using {gateway}");
                let level = Level::Info;
                notices.push(Notice { level, text });
            }
            routes.push(Route {
                destination: route.destination,
                gateway: route.gateway,
                metric: route.metric,
                protocol: route.protocol,
                // The chosen gateway may be one of another interface's: everybody answers on our link.
                onlink: route.onlink || route.multipath,
            });
        }
        routes.sort_by_key(|route| route.gateway.is_some());
        routes
    }

    /// Our own address on the link.
    fn ours(
        &self,
        version: Version,
        gateway: Option<IpAddr>,
        template: Option<&HostLink>,
    ) -> IpAddr {
        if version == Version::V4 {
            return gateway.unwrap_or_else(|| local_gateway(version));
        }
        if let Some(gateway) = gateway.filter(|&gateway| is_link_local(gateway)) {
            return gateway;
        }
        let mut addresses = self.facts.addresses.iter();
        let of_the_host = addresses.find(|address| {
            let of_template = template.is_some_and(|link| link.index == address.link);
            of_template && address.address.addr().is_ipv6() && is_link_local(address.address.addr())
        });
        of_the_host.map_or_else(|| local_gateway(version), |found| found.address.addr())
    }

    /// Names for the host's loopback address and its name server.
    fn names(&self, version: Version, gateway: Option<IpAddr>) -> Names {
        let wishes = self.wishes;
        let mapped = version.of(&wishes.map_host_loopback).copied();
        let map_host_loopback = mapped.or_else(|| gateway.filter(|_| wishes.map_gateway));
        let mut servers = self.resolv.servers.iter();
        let of_the_host = servers.find(|&&server| version.has(server)).copied();
        let wished = version.of(&wishes.dns.host).copied();
        // A query to the host's loopback, or to the gateway that stands for it, can be redirected only.
        let hidden = of_the_host
            .is_some_and(|server| server.is_loopback() || Some(server) == map_host_loopback);
        let implied = map_host_loopback.filter(|_| hidden && !wishes.dns.none);
        let dns_forward = version.of(&wishes.dns.forward).copied().or(implied);
        Names {
            map_host_loopback,
            dns_host: wished.or(of_the_host),
            dns_forward: dns_forward.filter(|_| !wishes.splice_only),
        }
    }

    /// Whom to ask, for queries of each family: those of the family first, since they know their own family best, then
    /// the others, which answer as well. Whom the user names is asked and nobody else.
    fn resolvers(&self) -> Families<Vec<IpAddr>> {
        let wished = &self.wishes.dns.host;
        let all = [wished.v4, wished.v6].into_iter().flatten();
        let servers: Vec<IpAddr> = match (wished.v4, wished.v6) {
            (None, None) => self.resolv.servers.clone(),
            _ => all.chain(self.resolv.servers.iter().copied()).collect(),
        };
        let order = |version: Version| {
            if let Some(&only) = version.of(wished) {
                return vec![only];
            }
            let (mut own, others): (Vec<_>, Vec<_>) =
                servers.iter().partition(|&&server| version.has(server));
            own.extend(others);
            own
        };
        Families {
            v4: Some(order(Version::V4)),
            v6: Some(order(Version::V6)),
        }
    }

    /// The tap.
    fn link(&self, families: &Families<Family>) -> Link {
        let families = [families.v4.as_ref(), families.v6.as_ref()];
        let mut families = families.into_iter().flatten();
        let template = families.find_map(|family| family.template.clone());
        let name = self.wishes.ifname.clone().or(template);
        Link {
            name: name.unwrap_or_else(|| LOCAL_NAME.to_owned()),
            our_mac: self.wishes.our_mac,
            guest_mac: self.wishes.guest_mac,
            mtu: self.wishes.mtu,
        }
    }

    fn off(&self, families: &Families<Family>) -> Off {
        let wishes = self.wishes;
        let mut off = wishes.off;
        off.ra |= wishes.run.config_net || wishes.splice_only;
        off.icmp |= wishes.splice_only;
        off.ndp |= wishes.splice_only;
        off.dhcpv6 |= wishes.splice_only;
        let v4 = families.v4.as_ref();
        let router = v4.and_then(|family| family.gateway);
        off.dhcp |= wishes.splice_only || router.is_none();
        off
    }

    /// What the guest is told. What `-D` and `-S` name is told even if nothing else is.
    fn announce(&self, families: &Families<Family>, notices: &mut Vec<Notice>) -> Announce {
        let dns = &self.wishes.dns;
        let both = [families.v4.as_ref(), families.v6.as_ref()];
        let known = both
            .iter()
            .flatten()
            .any(|family| family.dns_host.is_some());
        if !known && !dns.none && dns.servers.is_empty() && !self.wishes.splice_only {
            let text = "Couldn't get any nameserver address".to_owned();
            let level = Level::Warning;
            notices.push(Notice { level, text });
        }
        let mut servers = dns.servers.clone();
        if servers.is_empty() && dns.announce && !dns.none {
            let of_the_host = self.resolv.servers.iter();
            servers.extend(of_the_host.filter_map(|&server| reachable(server, families)));
        }
        let mut once = Vec::new();
        for server in servers {
            if families.of(server).is_some() && !once.contains(&server) {
                once.push(server);
            }
        }
        let mut search = dns.search.clone();
        if search.is_empty() && dns.announce_search && !dns.no_search {
            search.clone_from(&self.resolv.search);
        }
        search.truncate(limits::SEARCH_DOMAINS);
        Announce {
            dns: once,
            search,
            hostname: self.wishes.hostname.clone(),
            fqdn: self.wishes.fqdn.clone(),
        }
    }
}

struct Names {
    map_host_loopback: Option<IpAddr>,
    dns_host: Option<IpAddr>,
    dns_forward: Option<IpAddr>,
}

/// The address at which the guest reaches a name server of the host.
fn reachable(server: IpAddr, families: &Families<Family>) -> Option<IpAddr> {
    let family = families.of(server)?;
    if server.is_loopback() || Some(server) == family.map_host_loopback {
        return family.dns_forward;
    }
    Some(server)
}

/// The default route, and before it the way to its gateway where the addresses do not show it.
fn default_route(gateway: IpAddr, addresses: &[IpNet]) -> Vec<Route> {
    let known = addresses.iter().any(|own| own.contains(&gateway));
    let known = known || (gateway.is_ipv6() && is_link_local(gateway));
    let route = |destination, gateway| Route {
        destination,
        gateway,
        metric: None,
        protocol: PROTOCOL_BOOT,
        onlink: false,
    };
    let mut routes = Vec::new();
    if !known {
        routes.push(route(IpNet::from(gateway), None));
    }
    routes.push(route(everywhere(gateway), Some(gateway)));
    routes
}

fn everywhere(family: IpAddr) -> IpNet {
    match family {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn is_default(route: &HostRoute) -> bool {
    route.destination.prefix_len() == 0
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn local_address() -> IpNet {
    let (address, length) = LOCAL_ADDRESS;
    IpNet::new_assert(IpAddr::V4(address), length)
}

const fn local_gateway(version: Version) -> IpAddr {
    match version {
        Version::V4 => IpAddr::V4(LOCAL_GATEWAY),
        Version::V6 => IpAddr::V6(LOCAL_GATEWAY_V6),
    }
}

#[cfg(test)]
mod tests;
