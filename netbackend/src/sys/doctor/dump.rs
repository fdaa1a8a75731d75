//! All links, addresses and routes of the current network namespace, one dump each.
//!
//! Containers are looked into one after the other, each inside of its namespace, where nothing may wait for a runtime.
//! A dump waits for nobody but the kernel.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel tells more than anybody asks, and more with each version"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::doctor::facts::{Link, Network, Route};

/// The longest datagram: dumps come in up to 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// Tries of a dump that was interrupted by somebody else's change.
const TRIES: usize = 10;

/// `NLM_F_DUMP_INTR`.
const INTERRUPTED: u16 = 0x10;

/// The table of addresses that are our own (`RT_TABLE_LOCAL`).
const LOCAL: u32 = 255;

/// The table of all other routes, unless rules tell of further ones (`RT_TABLE_MAIN`).
const MAIN: u32 = 254;

/// Links, addresses and routes of the namespace of this thread.
pub(super) fn host() -> io::Result<Network> {
    let dumper = Dumper::open()?;
    let mut network = dumper.network()?;
    network.loopback6 = dumper.loopback6()?;
    for (v4, family) in [(true, AddressFamily::Inet), (false, AddressFamily::Inet6)] {
        if !network.leads_outside(v4) {
            network.detours.extend(dumper.detours(family)?);
        }
    }
    Ok(network)
}

/// The same without what containers do not have.
pub(super) fn container() -> io::Result<Network> {
    Dumper::open()?.network()
}

struct Dumper(Socket);

impl Dumper {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // So that routes of one table only are listed.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self(socket))
    }

    fn network(&self) -> io::Result<Network> {
        let mut wanted = LinkMessage::default();
        let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        wanted.attributes.push(mask);
        let mut links = BTreeMap::new();
        let mut names = BTreeMap::new();
        for message in self.dump(RouteNetlinkMessage::GetLink(wanted))? {
            let RouteNetlinkMessage::NewLink(message) = message else {
                continue;
            };
            if let Some((name, link)) = link(&message) {
                names.insert(link.index, name.clone());
                links.insert(name, link);
            }
        }
        for message in self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            let RouteNetlinkMessage::NewAddress(message) = message else {
                continue;
            };
            let link = names
                .get(&message.header.index)
                .and_then(|name| links.get_mut(name));
            if let (Some(link), Some(address)) = (link, address(&message)) {
                let link: &mut Link = link;
                link.addresses.insert(address);
            }
        }
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let messages = self.routes(family, MAIN)?;
            routes.extend(messages.iter().filter_map(route));
        }
        Ok(Network {
            links,
            routes,
            ..Network::default()
        })
    }

    /// The links to which local routes for `::1` lead.
    fn loopback6(&self) -> io::Result<BTreeSet<u32>> {
        let one = IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST));
        let routes = self.routes(AddressFamily::Inet6, LOCAL)?;
        let ours = routes
            .iter()
            .filter_map(route)
            .filter(|route| route.destination == one);
        Ok(ours.filter_map(|route| route.interface).collect())
    }

    fn routes(&self, family: AddressFamily, table: u32) -> io::Result<Vec<RouteMessage>> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        wanted.attributes.push(RouteAttribute::Table(table));
        let routes = self.dump_if_any(RouteNetlinkMessage::GetRoute(wanted))?;
        Ok(routes
            .into_iter()
            .filter_map(|message| pick!(message, RouteNetlinkMessage::NewRoute(route) => route))
            .collect())
    }

    /// The routes of all tables but the main one that rules of a family lead to.
    fn detours(&self, family: AddressFamily) -> io::Result<Vec<Route>> {
        let mut wanted = RuleMessage::default();
        wanted.header.family = family;
        let rules = self.dump_if_any(RouteNetlinkMessage::GetRule(wanted))?;
        let tables: BTreeSet<u32> = rules
            .iter()
            .filter_map(|message| pick!(message, RouteNetlinkMessage::NewRule(rule) => rule))
            .filter_map(table)
            .collect();
        let mut routes = Vec::new();
        for table in tables {
            let messages = self.routes(family, table)?;
            routes.extend(messages.iter().filter_map(route));
        }
        Ok(routes)
    }

    /// Nothing where there is nothing to list: a table does not exist before it has a route, and the family may be switched
    /// off.
    fn dump_if_any(&self, question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        match self.dump(question) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
                Ok(Vec::new())
            }
            listed => listed,
        }
    }

    fn dump(&self, question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        for _ in 0..TRIES {
            self.0.send(&bytes, 0)?;
            if let Some(found) = self.answers()? {
                return Ok(found);
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// `None` when what is listed changed meanwhile.
    fn answers(&self) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        let (mut found, mut intact) = (Vec::new(), true);
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            self.0.recv(&mut buffer, 0)?;
            for bytes in crate::nft::notice::messages(&buffer) {
                let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else {
                    continue;
                };
                intact &= message.header.flags & INTERRUPTED == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok(intact.then_some(found)),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    _ => {}
                }
            }
        }
    }
}

fn link(message: &LinkMessage) -> Option<(String, Link)> {
    let mut name = None;
    let mut link = Link {
        index: message.header.index,
        kind: "physical".to_owned(),
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        controller: None,
        mtu: 0,
        hairpin: false,
        addresses: BTreeSet::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found.clone()),
            LinkAttribute::Address(octets) => {
                link.mac = octets.as_slice().try_into().ok().map(wire::names::MacAddr);
            }
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| kind(info, &mut link)),
            _ => {}
        }
    }
    Some((name?, link))
}

fn kind(info: &LinkInfo, link: &mut Link) {
    match info {
        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
        LinkInfo::PortData(InfoPortData::BridgePort(infos)) => {
            link.hairpin = infos.contains(&InfoBridgePort::HairpinMode(true));
        }
        _ => {}
    }
}

fn address(message: &AddressMessage) -> Option<IpNet> {
    let mut attributes = message.attributes.iter();
    // On a point-to-point link, the other one is the peer's.
    let local = attributes
        .clone()
        .find_map(|attribute| pick!(attribute, AddressAttribute::Local(address) => *address));
    let address = || {
        attributes
            .find_map(|attribute| pick!(attribute, AddressAttribute::Address(address) => *address))
    };
    let address = local.or_else(address)?;
    IpNet::new(address, message.header.prefix_len).ok()
}

/// The table that a rule leads to, if it is one that is not looked into anyway. Those of VRFs are not told by rules.
fn table(rule: &RuleMessage) -> Option<u32> {
    let mut attributes = rule.attributes.iter();
    let table = attributes
        .find_map(|attribute| pick!(attribute, RuleAttribute::Table(table) => *table))
        .unwrap_or_else(|| rule.header.table.into());
    let further = rule.header.action == RuleAction::ToTable && ![0, MAIN, LOCAL].contains(&table);
    further.then_some(table)
}

fn route(message: &RouteMessage) -> Option<Route> {
    let v4 = message.header.address_family == AddressFamily::Inet;
    let nowhere: IpAddr = if v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let of = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let mut route = Route {
        destination: IpNet::new(nowhere, message.header.destination_prefix_length).ok()?,
        gateway: None,
        interface: None,
        metric: 0,
        by_kernel: message.header.protocol == RouteProtocol::Kernel,
        refuses: matches!(
            message.header.kind,
            RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit | RouteType::Throw
        ),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination =
                    IpNet::new(of(address)?, message.header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(address) => route.gateway = of(address),
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::MultiPath(hops) if route.interface.is_none() => {
                route.interface = hops.first().map(|hop| hop.interface_index);
            }
            _ => {}
        }
    }
    // Groups of receivers and the like are nobody's way.
    let counts = !matches!(
        message.header.kind,
        RouteType::Multicast | RouteType::Anycast | RouteType::Broadcast
    );
    counts.then_some(route)
}
