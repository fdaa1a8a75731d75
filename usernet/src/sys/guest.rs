//! Configures the guest's side of the link, called by a process that is in the guest's network namespace.
//!
//! ```text
//! lo up ─▶ MAC, MTU, no automatic link-local address ─▶ up ─▶ link-local address ─▶ addresses ─▶ routes
//! ```
//!
//! An engine looks at the guest as soon as we are ready, and connects: no address may be on probation then. So each is
//! added with `IFA_F_NODAD`, the link-local one included, which for that is made by us and not by the kernel, from the
//! link-layer address and as the kernel would make it. Nothing is written below `/proc/sys`, which may be read-only.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::facts;
use super::netlink::{Netlink, NetlinkError};
use crate::config::change::Change;
use crate::config::{Config, Family, HostLink, Route};

/// `lo` is the first interface of every namespace.
const LOOPBACK: u32 = 1;
/// Routes that depend on each other are tried so often; each time at least one more must succeed.
const ROUTE_PASSES: u32 = 16;

/// How often, and how long in between, to look whether the kernel delivers to new addresses: 200 ms in all.
const DELIVERY_LOOKS: u32 = 200;
const DELIVERY_PAUSE: Duration = Duration::from_millis(1);

const NO_LINK_LOCAL: &str = "Couldn't set IPv6 link-local address in namespace";

/// The guest's side, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guest {
    /// Index of the interface; none without a tap.
    pub index: Option<u32>,
    /// Its link-layer address.
    pub mac: Option<[u8; 6]>,
    /// Its link-local address, if it is configured by us.
    pub link_local: Option<Ipv6Addr>,
    /// Routes that could not be set: what they lead to is not on the guest's link.
    pub left_out: Vec<Route>,
    /// IPv6 is switched off in the namespace, so that it has IPv4 only.
    pub without_v6: bool,
}

/// Brings `lo` up, and prepares the interface. With `config_net`, configures it; otherwise the guest does.
///
/// # Errors
/// The kernel refuses something that the guest cannot be without.
pub fn configure(config: &Config, config_net: bool) -> Result<Guest, NetlinkError> {
    let mut netlink = Netlink::open()?;
    netlink
        .change(up(LOOPBACK), 0)
        .map_err(failed("Couldn't bring up loopback interface in namespace"))?;
    if config.splice_only {
        return Ok(Guest::default());
    }
    let link = find(&mut netlink, &config.link.name)?;
    let mac = config.link.guest_mac.or(link.mac);
    if let Some(mac) = config.link.guest_mac {
        set(
            &mut netlink,
            link.index,
            LinkAttribute::Address(mac.to_vec()),
        )
        .map_err(failed("Couldn't set MAC address in namespace"))?;
    }
    let mut guest = Guest {
        index: Some(link.index),
        mac,
        ..Guest::default()
    };
    if config_net {
        configure_link(&mut netlink, config, &mut guest)?;
    }
    Ok(guest)
}

/// The index of an interface.
///
/// # Errors
/// There is none of this name.
pub fn index(netlink: &mut Netlink, name: &str) -> Result<u32, NetlinkError> {
    find(netlink, name).map(|link| link.index)
}

/// Makes changes in their order. How many could not be made: what is gone already need not go.
pub fn change(netlink: &mut Netlink, index: u32, changes: &[Change]) -> usize {
    let mut failed = 0;
    let mut routes: Vec<Route> = Vec::new();
    for change in changes {
        // Routes in a row may need each other.
        if let Change::AddRoute(route) = change {
            routes.push(route.clone());
            continue;
        }
        failed += add_routes(netlink, index, &std::mem::take(&mut routes)).len();
        let result = match change {
            Change::AddAddress(address) => add_address(netlink, index, *address),
            Change::RemoveAddress(address) => netlink.change(
                RouteNetlinkMessage::DelAddress(address_message(index, *address)),
                0,
            ),
            Change::AddRoute(_) => Ok(()),
            Change::RemoveRoute(route) => {
                let message = RouteNetlinkMessage::DelRoute(route_message(index, route));
                netlink.change(message, 0)
            }
        };
        let gone = [Errno::ESRCH, Errno::EADDRNOTAVAIL, Errno::EEXIST];
        failed += usize::from(result.is_err_and(|error| !gone.contains(&error)));
    }
    failed + add_routes(netlink, index, &routes).len()
}

/// Everything between a link that is down and one that works.
fn configure_link(
    netlink: &mut Netlink,
    config: &Config,
    guest: &mut Guest,
) -> Result<(), NetlinkError> {
    let index = guest.index.unwrap_or_default();
    if config.link.mtu != 0 {
        set(netlink, index, LinkAttribute::Mtu(config.link.mtu))
            .map_err(failed("Couldn't set MTU in namespace"))?;
    }
    // A kernel without IPv6 refuses, and then there is nothing to prevent.
    let manual = set(netlink, index, automatic_link_local(In6AddrGenMode::None));
    netlink
        .change(up(index), 0)
        .map_err(failed("Couldn't bring up interface in namespace"))?;
    let v4 = config.families.v4.as_ref();
    let mut v6 = config.families.v6.as_ref();
    if v6.is_some() {
        match add_link_local(netlink, index, guest.mac.filter(|_| manual.is_ok())) {
            Ok(()) => {}
            Err(error) if is_off(error) && v4.is_some() => (v6, guest.without_v6) = (None, true),
            Err(error) => return Err(failed(NO_LINK_LOCAL)(error)),
        }
        // After an administrator has taken the link down, the kernel makes the address as always.
        let _ignored = set(netlink, index, automatic_link_local(In6AddrGenMode::Eui64));
    }
    add_addresses(netlink, v4, v6, index)?;
    for family in [v4, v6].into_iter().flatten() {
        guest
            .left_out
            .extend(add_routes(netlink, index, &family.routes));
    }
    guest.link_local = read_link_local(netlink, index)?;
    let v6 = v6.iter().flat_map(|v6| &v6.addresses);
    let v6 = v6.filter_map(|address| match address.addr() {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    let v6: Vec<_> = v6.chain(guest.link_local).collect();
    await_delivery(netlink, &v6);
    Ok(())
}

/// The first IPv6 address of the link, if its link-layer address is known and the kernel makes none.
fn add_link_local(netlink: &mut Netlink, index: u32, mac: Option<[u8; 6]>) -> Result<(), Errno> {
    let address = mac.map(|mac| IpNet::new_assert(link_local(mac).into(), 64));
    address.map_or(Ok(()), |address| add_address(netlink, index, address))
}

/// What the kernel says of an IPv6 address where there is no IPv6: switched off for the link, or not there at all.
const fn is_off(error: Errno) -> bool {
    matches!(
        error,
        Errno::EACCES | Errno::EPERM | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT
    )
}

/// What can be done about an error of [`configure`], if that does not go without saying.
#[must_use]
pub fn remedy(error: &NetlinkError) -> Option<&'static str> {
    (error.what == NO_LINK_LOCAL && is_off(error.source)).then_some(
        "IPv6 is switched off in the guest's namespace, and IPv4 is not wanted: there, sysctl -w \
         net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0, or here, no --ipv6-only",
    )
}

/// Until packets to these addresses are the guest's own. The kernel makes the routes for that a moment after the
/// addresses (`addrconf_dad_work`), on a busy machine some milliseconds; what comes before is lost. Not for ever: an
/// address may be gone again, and then there is nothing to wait for.
fn await_delivery(netlink: &mut Netlink, addresses: &[Ipv6Addr]) {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    let message = RouteNetlinkMessage::GetRoute(message);
    for _ in 0..DELIVERY_LOOKS {
        let Ok(routes) = netlink.dump("routes", &message) else {
            return;
        };
        let own: Vec<_> = routes.iter().filter_map(delivered).collect();
        if addresses.iter().all(|address| own.contains(address)) {
            return;
        }
        std::thread::sleep(DELIVERY_PAUSE);
    }
}

/// Whose packets a route gives to the namespace itself.
fn delivered(message: &RouteNetlinkMessage) -> Option<Ipv6Addr> {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return None;
    };
    if route.header.kind != RouteType::Local {
        return None;
    }
    let mut attributes = route.attributes.iter();
    attributes.find_map(|attribute| {
        let RouteAttribute::Destination(RouteAddress::Inet6(address)) = attribute else {
            return None;
        };
        Some(*address)
    })
}

/// All addresses. The kernel tells IPv4 addresses in the order of their coming and IPv6 addresses in the reverse order;
/// who takes the first one for the primary one shall be right.
fn add_addresses(
    netlink: &mut Netlink,
    v4: Option<&Family>,
    v6: Option<&Family>,
    index: u32,
) -> Result<(), NetlinkError> {
    let v4 = v4.into_iter().flat_map(|family| &family.addresses);
    let v6 = v6
        .into_iter()
        .flat_map(|family| family.addresses.iter().rev());
    for &address in v4.chain(v6) {
        match add_address(netlink, index, address) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(source) => {
                let family = if address.addr().is_ipv4() {
                    "IPv4"
                } else {
                    "IPv6"
                };
                let what = format!("Couldn't set {family} address {address} in namespace");
                return Err(NetlinkError { what, source });
            }
        }
    }
    Ok(())
}

/// All routes that can be set: one may need another one first.
fn add_routes(netlink: &mut Netlink, index: u32, routes: &[Route]) -> Vec<Route> {
    let mut left: Vec<Route> = routes.to_vec();
    for _ in 0..ROUTE_PASSES {
        let before = left.len();
        left.retain(|route| {
            let added = netlink.change(add_route(index, route), NLM_F_CREATE | NLM_F_EXCL);
            !matches!(added, Ok(()) | Err(Errno::EEXIST))
        });
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    // A gateway that no other route leads to: we answer for every address of the link.
    left.retain(|route| {
        let mut onlink = route.clone();
        onlink.onlink = true;
        let wanted = route.gateway.is_some() && !route.onlink;
        let added = netlink.change(add_route(index, &onlink), NLM_F_CREATE | NLM_F_EXCL);
        !(wanted && matches!(added, Ok(()) | Err(Errno::EEXIST)))
    });
    left
}

/// The interface of a name.
fn find(netlink: &mut Netlink, name: &str) -> Result<HostLink, NetlinkError> {
    let links = facts::links(netlink)?;
    let found = links.into_iter().find(|link| link.name == name);
    found.ok_or_else(|| NetlinkError {
        what: format!("Couldn't find interface {name} in namespace"),
        source: Errno::ENODEV,
    })
}

/// The link-local address, once it may be used.
fn read_link_local(netlink: &mut Netlink, index: u32) -> Result<Option<Ipv6Addr>, NetlinkError> {
    let addresses = facts::addresses(netlink)?;
    let mut own = addresses.iter().filter(|address| address.link == index);
    Ok(own.find_map(|address| match address.address.addr() {
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }))
}

/// The address that the kernel makes of a link-layer address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let bytes = [
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ];
    Ipv6Addr::from(bytes)
}

fn up(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::NewLink(message)
}

fn set(netlink: &mut Netlink, index: u32, attribute: LinkAttribute) -> Result<(), Errno> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(attribute);
    netlink.change(RouteNetlinkMessage::SetLink(message), 0)
}

fn automatic_link_local(mode: In6AddrGenMode) -> LinkAttribute {
    let mode = AfSpecInet6::AddrGenMode(mode);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])
}

fn add_address(netlink: &mut Netlink, index: u32, address: IpNet) -> Result<(), Errno> {
    let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
    netlink.change(message, NLM_F_CREATE | NLM_F_EXCL)
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let ip = address.addr();
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.header.scope = match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => AddressScope::Link,
        IpAddr::V4(_) | IpAddr::V6(_) => AddressScope::Universe,
    };
    message.attributes = vec![
        AddressAttribute::Local(ip),
        AddressAttribute::Address(ip),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    message
}

fn add_route(index: u32, route: &Route) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewRoute(route_message(index, route))
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
    let destination = route.destination.addr();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(destination),
        destination_prefix_length: route.destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(route.protocol),
        scope: match (route.gateway, destination) {
            (None, IpAddr::V4(_)) => RouteScope::Link,
            (None, IpAddr::V6(_)) | (Some(_), _) => RouteScope::Universe,
        },
        kind: RouteType::Unicast,
        flags: if route.onlink && route.gateway.is_some() {
            RouteFlags::Onlink
        } else {
            RouteFlags::empty()
        },
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Oif(index));
    if route.destination.prefix_len() > 0 {
        let destination = RouteAddress::from(route.destination.network());
        message
            .attributes
            .push(RouteAttribute::Destination(destination));
    }
    message
        .attributes
        .extend(route.gateway.map(|gateway| match (destination, gateway) {
            (IpAddr::V4(_), IpAddr::V6(gateway)) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), _) => {
                RouteAttribute::Gateway(RouteAddress::from(gateway))
            }
        }));
    message
        .attributes
        .extend(route.metric.map(RouteAttribute::Priority));
    message
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn failed(what: &str) -> impl FnOnce(Errno) -> NetlinkError {
    let what = what.to_owned();
    |source| NetlinkError { what, source }
}
