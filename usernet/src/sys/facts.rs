//! Reads what the host is like: [`Facts`].
//!
//! Everything is read before anything else is done, in the network namespace that we were started in. The network is
//! read again when it changes, if that matters ([`super::follow`]).
#![expect(
    clippy::disallowed_methods,
    reason = "this is where the files of the host are read"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "kinds of messages and attributes are an open list"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
    RouteNextHopFlags, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use super::names::RESOLV_CONF;
use super::netlink::{Netlink, NetlinkError};
use super::options;
use crate::config::{Facts, HostAddress, HostLink, HostRoute};
use crate::event::Transport;
use crate::limits;

/// Reads all of it. What the kernel or the file system does not have is left out.
///
/// # Errors
/// Links, addresses or routes cannot be read.
pub fn read() -> Result<Facts, NetlinkError> {
    let mut netlink = Netlink::open()?;
    // Asked of the kernel and not of its files: /proc may be missing or covered.
    let socket = options::open(nix::sys::socket::AddressFamily::Inet6, Transport::Udp);
    let ipv6 = socket.err() != Some(Errno::EAFNOSUPPORT);
    Ok(Facts {
        resolv_conf: resolv_conf(),
        ephemeral: fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|text| ephemeral(&text)),
        ipv6,
        ..network(&mut netlink)?
    })
}

/// As much of it as is of interest ([`super::names::Trail::read`]).
fn resolv_conf() -> Vec<u8> {
    let mut text = fs::read(RESOLV_CONF).unwrap_or_default();
    text.truncate(limits::RESOLV_CONF);
    text
}

/// Reads what netlink tells, and nothing else.
///
/// # Errors
/// Links, addresses or routes cannot be read.
pub fn network(netlink: &mut Netlink) -> Result<Facts, NetlinkError> {
    Ok(Facts {
        links: links(netlink)?,
        addresses: addresses(netlink)?,
        routes: routes(netlink)?,
        ..Facts::default()
    })
}

/// Two numbers.
fn ephemeral(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The interfaces of this network namespace.
///
/// # Errors
/// The kernel refuses.
pub fn links(netlink: &mut Netlink) -> Result<Vec<HostLink>, NetlinkError> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let messages = netlink.dump("links", &request)?;
    let links = messages.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(message) => link(message),
        _ => None,
    });
    Ok(links.collect())
}

fn link(message: &LinkMessage) -> Option<HostLink> {
    let (mut name, mut mac, mut mtu) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(found) => mtu = *found,
            _ => {}
        }
    }
    Some(HostLink {
        index: message.header.index,
        name: name?,
        mac,
        mtu,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
    })
}

/// The addresses of this network namespace, in the kernel's order.
///
/// # Errors
/// The kernel refuses.
pub fn addresses(netlink: &mut Netlink) -> Result<Vec<HostAddress>, NetlinkError> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let messages = netlink.dump("addresses", &request)?;
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    let now = now.unwrap_or_default();
    let addresses = messages.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(message) => address(message, now),
        _ => None,
    });
    Ok(addresses.collect())
}

/// `now`: since the machine began.
fn address(message: &AddressMessage, now: Duration) -> Option<HostAddress> {
    let header = &message.header;
    let (mut local, mut peer, mut age) = (None, None, None);
    let mut deprecated = header.flags.contains(AddressHeaderFlags::Deprecated);
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link, `Address` is the other end.
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Address(found) => peer = Some(*found),
            AddressAttribute::Flags(flags) => {
                deprecated |= flags.contains(AddressFlags::Deprecated);
            }
            // In hundredths of a second, in a clock that comes round after 497 days.
            AddressAttribute::CacheInfo(info) => {
                let now = now.as_millis() / 10;
                let now = u32::try_from(now & u128::from(u32::MAX)).unwrap_or(0);
                // The kernel's ticks may be ahead of its clock by a little: made in the future is made now.
                let hundredths = now.wrapping_sub(info.cstamp);
                let hundredths = if hundredths > u32::MAX / 2 {
                    0
                } else {
                    hundredths
                };
                age = Some(Duration::from_millis(10) * hundredths);
            }
            _ => {}
        }
    }
    Some(HostAddress {
        link: header.index,
        address: IpNet::new(local.or(peer)?, header.prefix_len).ok()?,
        scope: u8::from(header.scope),
        deprecated,
        age,
    })
}

/// The routes of the main table, in the kernel's order.
fn routes(netlink: &mut Netlink) -> Result<Vec<HostRoute>, NetlinkError> {
    let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    let messages: Vec<_> = netlink
        .dump("routes", &request)?
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(message) => Some(message),
            _ => None,
        })
        .filter(|message| table(message) == u32::from(RouteHeader::RT_TABLE_MAIN))
        .collect();
    let by_object = messages.iter().any(|message| object(message).is_some());
    let objects = if by_object {
        nexthops(netlink)?
    } else {
        BTreeMap::new()
    };
    Ok(messages
        .iter()
        .filter_map(|message| route(message, &objects))
        .collect())
}

/// The table: a byte of the header, unless the number is greater.
fn table(message: &RouteMessage) -> u32 {
    let wide = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(table) = attribute {
            Some(*table)
        } else {
            None
        }
    });
    wide.unwrap_or_else(|| u32::from(message.header.table))
}

/// The next hop object of a route that says nothing else of where it leads.
fn object(message: &RouteMessage) -> Option<u32> {
    let mut object = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(_) | RouteAttribute::MultiPath(_) => return None,
            RouteAttribute::NhId(id) => object = Some(*id),
            _ => {}
        }
    }
    object
}

fn route(message: &RouteMessage, objects: &BTreeMap<u32, NextHop>) -> Option<HostRoute> {
    let header = &message.header;
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut link, mut metric, mut multipath) = (None, None, false);
    let mut gateway = gateway(&message.attributes);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            RouteAttribute::MultiPath(hops) => {
                link = link.or_else(|| hops.first().map(|hop| hop.interface_index));
                gateway = gateway.or_else(|| heaviest(hops));
                multipath = hops.len() > 1;
            }
            _ => {}
        }
    }
    if let Some(id) = object(message) {
        let hops = resolve(id, objects);
        link = hops.first().and_then(|hop| hop.link);
        gateway = hops.first().and_then(|hop| hop.gateway);
        multipath = hops.len() > 1;
    }
    Some(HostRoute {
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        gateway,
        link,
        multipath,
        metric,
        protocol: u8::from(header.protocol),
        kind: u8::from(header.kind),
        scope: u8::from(header.scope),
        onlink: header.flags.contains(RouteFlags::Onlink) || hops_onlink(&message.attributes),
    })
}

fn hops_onlink(attributes: &[RouteAttribute]) -> bool {
    attributes.iter().any(|attribute| {
        let RouteAttribute::MultiPath(hops) = attribute else {
            return false;
        };
        let mut flags = hops.iter().map(|hop| hop.flags);
        flags.any(|flags| flags.contains(RouteNextHopFlags::Onlink))
    })
}

/// The gateway of the highest weight; of several, the first.
fn heaviest(hops: &[RouteNextHop]) -> Option<IpAddr> {
    let best = hops
        .iter()
        .reduce(|best, hop| if hop.hops > best.hops { hop } else { best });
    best.and_then(|hop| gateway(&hop.attributes))
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// A next hop object (linux/nexthop.h), which netlink-packet-route does not know.
#[derive(Debug, Clone, Default)]
struct NextHop {
    link: Option<u32>,
    gateway: Option<IpAddr>,
    /// The members of a group with their weights.
    group: Vec<(u32, u8)>,
}

/// What an object stands for, the heaviest first.
fn resolve(id: u32, objects: &BTreeMap<u32, NextHop>) -> Vec<&NextHop> {
    let Some(object) = objects.get(&id) else {
        return Vec::new();
    };
    if object.group.is_empty() {
        return vec![object];
    }
    let mut members = object.group.clone();
    members.sort_by_key(|&(_, weight)| std::cmp::Reverse(weight));
    let members = members.iter().filter_map(|(id, _)| objects.get(id));
    members.collect()
}

/// All next hop objects. They are needed only where `net.ipv4.nexthop_compat_mode` is off: otherwise the kernel says
/// with each route what its object stands for.
fn nexthops(netlink: &mut Netlink) -> Result<BTreeMap<u32, NextHop>, NetlinkError> {
    // nlmsghdr with RTM_GETNEXTHOP, then nhmsg of eight bytes: family, scope, protocol, reserved, flags.
    const RTM_GETNEXTHOP: u16 = 106;
    let mut request = [0; 24];
    request[..4].copy_from_slice(&24_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETNEXTHOP.to_ne_bytes());
    let messages = netlink.dump_bytes("next hops", &request)?;
    let objects = messages
        .iter()
        .filter_map(|message| nexthop(message.get(24..)?));
    Ok(objects.collect())
}

/// The attributes of an object.
fn nexthop(attributes: &[u8]) -> Option<(u32, NextHop)> {
    const ID: u16 = 1;
    const GROUP: u16 = 2;
    const OIF: u16 = 5;
    const GATEWAY: u16 = 6;
    let (mut id, mut object) = (None, NextHop::default());
    for attribute in NlasIterator::new(attributes) {
        let attribute: NlaBuffer<&[u8]> = attribute.ok()?;
        let value = attribute.value();
        let number = || value.try_into().ok().map(u32::from_ne_bytes);
        match attribute.kind() {
            ID => id = number(),
            OIF => object.link = number(),
            // Entries of eight bytes: id, weight less one, three more.
            GROUP => {
                let entries = value.chunks_exact(8);
                let entries = entries.filter_map(|entry| {
                    let id = entry.get(..4)?.try_into().ok().map(u32::from_ne_bytes)?;
                    Some((id, *entry.get(4)?))
                });
                object.group = entries.collect();
            }
            GATEWAY => {
                let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
                object.gateway = v4
                    .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
                    .ok();
            }
            _ => {}
        }
    }
    Some((id?, object))
}
