//! Links, addresses and routes of one network namespace, over rtnetlink.

pub(super) mod leased;
mod removal;
mod stage;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgeVlanInfoFlags, InfoBridge, InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan,
    InfoPortData, InfoPortKind, InfoVeth, InfoVrf, IpVlanMode, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::{Handle, LinkBridge, LinkBridgeVlan, LinkUnspec, LinkVeth, RouteMessageBuilder};
use wire::names::{InterfaceName, MacAddr};
use wire::state::DetachedRouteKind;

use self::removal::{Outcome, Removals};
use super::SysError;
use crate::inspect::LinkFacts;
use crate::observed::{BridgeLink, LinkKind};
use crate::plan::step::{NewBridge, NewSublink, NewVeth};
use crate::request::sublink::{IpvlanMode, MacvlanMode};
use crate::request::{RouteTarget, StaticRoute, SublinkKind};

/// Metrics higher than those of routes to `::1` that somebody else may have: ours are the last resort. Routes of the same
/// metric would take each other's place, so each bridge has its own.
const LOOPBACK6_METRIC: u32 = 2048;

/// The table of addresses that are our own (`RT_TABLE_LOCAL`).
const RT_TABLE_LOCAL: u32 = 255;

/// Numbers of groups of links that go at once are this and the bridge's own.
const GROUPS: u32 = 0x6e62_0000;

/// A connection to the routing part of one namespace's kernel side.
pub struct Links {
    handle: Handle,
    /// Indexes of interfaces that we have seen. They change only when an interface is deleted.
    indexes: RefCell<BTreeMap<InterfaceName, u32>>,
    /// Who asks for deletions and waits, if the namespace is the one that we stay in.
    removals: Option<Removals>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("indexes", &self.indexes)
            .finish_non_exhaustive()
    }
}

fn netlink(context: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> SysError {
    let context = context.into();
    move |error| {
        if let rtnetlink::Error::NetlinkError(message) = error {
            let errno = -message.raw_code();
            return SysError::Netlink { context, errno };
        }
        let why = error.to_string();
        SysError::NetlinkOther { context, why }
    }
}

/// Whether the error says that the object does not exist.
pub(super) fn is_gone(error: &SysError) -> bool {
    matches!(
        error.errno(),
        Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::ENXIO)
    )
}

/// Turns "does not exist" into nothing.
fn if_there<T>(outcome: Result<T, SysError>) -> Result<Option<T>, SysError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there is a link of this name in the current namespace, that of the host. Unlike a netlink
/// request, the question takes no lock that somebody else may hold.
pub(super) fn exists(link: &InterfaceName) -> Result<bool, SysError> {
    match if_nametoindex(link.as_str()) {
        Ok(_) => Ok(true),
        Err(Errno::ENODEV) => Ok(false),
        Err(errno) => Err(SysError::Netlink {
            context: format!("get interface {link}"),
            errno: errno as i32,
        }),
    }
}

/// What a link message says of the link's kind.
fn kind(message: &LinkMessage) -> LinkKind {
    let kind =
        infos(message).find_map(|info| pick!(info, LinkInfo::Kind(kind) => kind.to_string()));
    LinkKind(kind.unwrap_or_else(|| "physical".to_owned()))
}

fn infos(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let attributes = message.attributes.iter();
    let infos = attributes
        .filter_map(|attribute| pick!(attribute, LinkAttribute::LinkInfo(infos) => infos));
    infos.flatten()
}

fn data(message: &LinkMessage) -> Option<&InfoData> {
    infos(message).find_map(|info| pick!(info, LinkInfo::Data(data) => data))
}

fn mtu(message: &LinkMessage) -> Option<u32> {
    message
        .attributes
        .iter()
        .find_map(|attribute| pick!(attribute, LinkAttribute::Mtu(mtu) => *mtu))
}

fn mac(message: &LinkMessage) -> Option<MacAddr> {
    let octets = message
        .attributes
        .iter()
        .find_map(|attribute| pick!(attribute, LinkAttribute::Address(octets) => octets));
    octets
        .and_then(|octets| octets.as_slice().try_into().ok())
        .map(MacAddr)
}

fn name(message: &LinkMessage) -> Option<InterfaceName> {
    let name = message
        .attributes
        .iter()
        .find_map(|attribute| pick!(attribute, LinkAttribute::IfName(name) => name));
    name.and_then(|name| name.parse().ok())
}

/// What a link message tells, but for addresses, which come by another.
fn facts(message: &LinkMessage) -> LinkFacts {
    let attributes = || message.attributes.iter();
    LinkFacts {
        index: message.header.index,
        kind: kind(message).0,
        mac: mac(message),
        up: message.header.flags.contains(LinkFlags::Up),
        bridge: attributes()
            .find_map(|attribute| pick!(attribute, LinkAttribute::Controller(index) => *index)),
        parent: attributes()
            .find_map(|attribute| pick!(attribute, LinkAttribute::Link(index) => *index)),
        addresses: Vec::new(),
    }
}

/// The address of a message, unless it is a link-local one. On a link to one other host that is in another attribute.
fn address(message: &AddressMessage) -> Option<IpNet> {
    let attributes = || message.attributes.iter();
    let local = attributes()
        .find_map(|attribute| pick!(attribute, AddressAttribute::Local(address) => *address));
    let other = attributes()
        .find_map(|attribute| pick!(attribute, AddressAttribute::Address(address) => *address));
    let address = local.or(other).filter(|address| !is_link_local(*address))?;
    IpNet::new(address, message.header.prefix_len).ok()
}

impl Links {
    /// Connects to the current namespace. Within a runtime only.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open(whose: &str) -> Result<Self, SysError> {
        let failed = SysError::io(format!("open a netlink socket for the {whose}"));
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(failed)?;
        drop(tokio::spawn(connection));
        Ok(Self {
            handle,
            indexes: RefCell::default(),
            removals: None,
        })
    }

    /// The same for the namespace of the host, in which we are whenever we delete something there.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub(super) fn of_host() -> Result<Self, SysError> {
        Ok(Self {
            removals: Some(Removals::default()),
            ..Self::open("host")?
        })
    }

    async fn message(&self, link: &InterfaceName) -> Result<LinkMessage, SysError> {
        let mut request = self.handle.link().get().match_name(link.to_string());
        request
            .message_mut()
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let found = request
            .execute()
            .try_next()
            .await
            .map_err(netlink(format!("get interface {link}")))?;
        let message = found.ok_or_else(|| SysError::Netlink {
            context: format!("get interface {link}"),
            errno: libc::ENODEV,
        })?;
        self.indexes
            .borrow_mut()
            .insert(link.clone(), message.header.index);
        Ok(message)
    }

    async fn index(&self, link: &InterfaceName) -> Result<u32, SysError> {
        let known = self.indexes.borrow().get(link).copied();
        match known {
            Some(index) => Ok(index),
            None => Ok(self.message(link).await?.header.index),
        }
    }

    fn forget(&self, link: &InterfaceName) {
        self.indexes.borrow_mut().remove(link);
    }

    /// The link that has the name of a bridge, if there is one. Addresses only if they are wanted.
    pub(super) async fn bridge(
        &self,
        bridge: &InterfaceName,
        with_addresses: bool,
    ) -> Result<Option<BridgeLink>, SysError> {
        let Some(message) = if_there(self.message(bridge).await)? else {
            return Ok(None);
        };
        let vlan_filtering = match data(&message) {
            Some(InfoData::Bridge(infos)) => infos.contains(&InfoBridge::VlanFiltering(true)),
            _ => false,
        };
        let addresses = if with_addresses {
            self.addresses(message.header.index).await?
        } else {
            Vec::new()
        };
        Ok(Some(BridgeLink {
            kind: kind(&message),
            mtu: mtu(&message).unwrap_or_default(),
            vlan_filtering,
            addresses,
        }))
    }

    /// The kernel's list of addresses of an interface; without strict checks it has those of others, too.
    async fn address_messages(&self, index: u32) -> Result<Vec<AddressMessage>, SysError> {
        let mut request = self.handle.address().get();
        request.message_mut().header.index = index;
        let messages = request.execute().try_collect().await;
        messages.map_err(netlink("list addresses"))
    }

    /// Addresses of an interface, without link-local ones.
    async fn addresses(&self, index: u32) -> Result<Vec<IpAddr>, SysError> {
        let messages = self.address_messages(index).await?;
        let attributes = messages
            .iter()
            .filter(|message| message.header.index == index)
            .flat_map(|message| &message.attributes);
        let addresses = attributes.filter_map(
            |attribute| pick!(attribute, AddressAttribute::Address(address) => *address),
        );
        Ok(addresses
            .filter(|address| !is_link_local(*address))
            .collect())
    }

    /// The addresses of all interfaces.
    pub(super) async fn all_addresses(&self) -> Result<BTreeSet<IpAddr>, SysError> {
        let request = self.handle.address().get();
        let messages: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(netlink("list addresses"))?;
        let attributes = messages.iter().flat_map(|message| &message.attributes);
        Ok(attributes
            .filter_map(
                |attribute| pick!(attribute, AddressAttribute::Address(address) => *address),
            )
            .collect())
    }

    /// The kind of a link, if there is one of this name.
    pub(super) async fn kind(&self, link: &InterfaceName) -> Result<Option<LinkKind>, SysError> {
        Ok(if_there(self.message(link).await)?.map(|message| kind(&message)))
    }

    /// Whether a link of this name has this MAC address.
    pub(super) async fn has(
        &self,
        link: &InterfaceName,
        wanted: MacAddr,
    ) -> Result<bool, SysError> {
        Ok(
            if_there(self.message(link).await)?
                .is_some_and(|message| mac(&message) == Some(wanted)),
        )
    }

    /// Names and MAC addresses of all links.
    pub(super) async fn all(&self) -> Result<BTreeMap<InterfaceName, MacAddr>, SysError> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(netlink("list interfaces"))?;
        Ok(messages
            .iter()
            .filter_map(|message| Some((name(message)?, mac(message)?)))
            .collect())
    }

    /// What there is to see of all links.
    pub(super) async fn facts(&self) -> Result<BTreeMap<InterfaceName, LinkFacts>, SysError> {
        let request = self.handle.link().get().execute();
        let messages: Vec<_> = request
            .try_collect()
            .await
            .map_err(netlink("list interfaces"))?;
        let mut all: BTreeMap<InterfaceName, LinkFacts> = messages
            .iter()
            .filter_map(|message| Some((name(message)?, facts(message))))
            .collect();
        let request = self.handle.address().get().execute();
        let addresses: Vec<_> = request
            .try_collect()
            .await
            .map_err(netlink("list addresses"))?;
        for message in addresses {
            let mut links = all.values_mut();
            let link = links.find(|link| link.index == message.header.index);
            if let (Some(link), Some(address)) = (link, address(&message)) {
                link.addresses.push(address);
            }
        }
        Ok(all)
    }

    /// The MTU of the interface of the first default route, in the main table or that of a VRF.
    pub(super) async fn default_mtu(
        &self,
        vrf: Option<&InterfaceName>,
    ) -> Result<Option<u32>, SysError> {
        let table = match vrf {
            None => u32::from(RouteHeader::RT_TABLE_MAIN),
            Some(vrf) => match if_there(self.message(vrf).await)?.as_ref().and_then(data) {
                Some(InfoData::Vrf(infos)) => infos
                    .iter()
                    .find_map(|info| pick!(info, InfoVrf::TableId(table) => *table))
                    .unwrap_or_default(),
                _ => return Ok(None),
            },
        };
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if let Some(index) = self.default_interface(family, table).await? {
                let link = self.by_index(index).await?;
                return Ok(link.as_ref().and_then(mtu));
            }
        }
        Ok(None)
    }

    async fn default_interface(
        &self,
        family: AddressFamily,
        table: u32,
    ) -> Result<Option<u32>, SysError> {
        let routes = self.default_routes(family, table).await?;
        Ok(routes.iter().find_map(interface))
    }

    /// The interfaces that IPv6 default routes of router advertisements lead to.
    pub(super) async fn advertised_ways_out(&self) -> Result<BTreeSet<InterfaceName>, SysError> {
        let table = u32::from(RouteHeader::RT_TABLE_MAIN);
        let routes = self.default_routes(AddressFamily::Inet6, table).await?;
        let advertised = routes
            .iter()
            .filter(|route| route.header.protocol == RouteProtocol::Ra);
        let mut names = BTreeSet::new();
        for index in advertised.filter_map(interface) {
            let link = self.by_index(index).await?;
            names.extend(link.as_ref().and_then(name));
        }
        Ok(names)
    }

    async fn by_index(&self, index: u32) -> Result<Option<LinkMessage>, SysError> {
        let request = self.handle.link().get().match_index(index);
        let link = request.execute().try_next().await;
        link.map_err(netlink("get interface of the default route"))
    }

    async fn default_routes(
        &self,
        family: AddressFamily,
        table: u32,
    ) -> Result<Vec<RouteMessage>, SysError> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        wanted.header.kind = RouteType::Unicast;
        wanted.attributes.push(RouteAttribute::Table(table));
        let routes = self
            .handle
            .route()
            .get(wanted)
            .execute()
            .try_collect::<Vec<_>>()
            .await;
        // The table does not exist before it has a route.
        let Some(routes) = if_there(routes.map_err(netlink("list routes")))? else {
            return Ok(Vec::new());
        };
        let default = |route: &RouteMessage| {
            route.header.destination_prefix_length == 0 && in_table(route, table)
        };
        Ok(routes.into_iter().filter(default).collect())
    }

    pub(super) async fn create_bridge(&self, new: &NewBridge) -> Result<(), SysError> {
        let mut link = LinkBridge::new(new.name.as_str()).address(new.mac.0.to_vec());
        if let Some(mtu) = new.mtu {
            link = link.mtu(mtu);
        }
        if new.vlan_filtering {
            link = link.vlan_filtering(true);
        }
        if let Some(vrf) = &new.vrf {
            let index = self
                .index(vrf)
                .await
                .map_err(|error| in_context("get vrf to set up bridge interface", error))?;
            link = link.controller(index);
        }
        self.handle
            .link()
            .add(link.build())
            .execute()
            .await
            .map_err(netlink(format!("create bridge {}", new.name)))
    }

    /// Makes the pair in one request, the peer directly in the namespace of this descriptor.
    pub(super) async fn create_veth(
        &self,
        new: &NewVeth,
        container: RawFd,
    ) -> Result<(), SysError> {
        let bridge = self.index(&new.bridge).await?;
        // Otherwise the kernel makes one queue a processor, to use only one of them in the end: taking the
        // others back costs an RCU grace period at each end.
        let queues = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
        let mut peer = LinkMessage::default();
        peer.attributes.extend(queues.clone());
        peer.attributes
            .push(LinkAttribute::IfName(new.container.to_string()));
        peer.attributes
            .push(LinkAttribute::Address(new.container_mac.0.to_vec()));
        peer.attributes.extend(new.mtu.map(LinkAttribute::Mtu));
        peer.attributes.push(LinkAttribute::NetNsFd(container));
        let mut link = LinkVeth::new(new.host.as_str(), "")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(new.host_mac.0.to_vec())
            .controller(bridge);
        if let Some(mtu) = new.mtu {
            link = link.mtu(mtu);
        }
        let mut message = link.build();
        message.attributes.extend(queues);
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(netlink("create veth pair"))
    }

    /// Makes a link on top of one of ours, directly in the namespace of this descriptor, which `inside` is
    /// connected to. Returns its MAC address.
    ///
    /// Before 6.13 the kernel refuses a name that is taken here, where the link is never going to be. Then it
    /// comes to be under another name, and gets its own one there.
    pub(super) async fn create_sublink(
        &self,
        new: &NewSublink,
        inside: &Self,
        container: RawFd,
    ) -> Result<Option<MacAddr>, SysError> {
        let parent = self.index(&new.parent).await?;
        let context = format!("create {} interface", new.kind.driver());
        let create = async |name: &InterfaceName| {
            let message = sublink(new, name, parent, container);
            let created = self.handle.link().add(message).execute().await;
            created.map_err(netlink(context.clone()))
        };
        match (create(&new.name).await, &new.temporary) {
            (Ok(()), _) => {}
            (Err(error), Some(temporary)) if error.errno() == Some(libc::EEXIST) => {
                if if_there(inside.message(&new.name).await)?.is_some() {
                    let name = &new.name;
                    let context = format!(
                        "{context}: interface {name} already exists on container namespace"
                    );
                    return Err(in_context(&context, error));
                }
                create(temporary).await?;
                inside.rename_or_delete(temporary, &new.name).await?;
            }
            (Err(error), _) => return Err(error),
        }
        let made = inside.message(&new.name).await;
        if made.is_err() {
            drop(inside.delete(&new.name, None).await);
        }
        made.map(|message| mac(&message))
    }

    /// Gives a link its final name. If that is impossible, the link goes.
    async fn rename_or_delete(
        &self,
        link: &InterfaceName,
        wanted: &InterfaceName,
    ) -> Result<(), SysError> {
        let renamed = async {
            let mut message = LinkUnspec::new_with_index(self.index(link).await?).build();
            let name = LinkAttribute::IfName(wanted.to_string());
            message.attributes.push(name);
            let changed = self.handle.link().set(message).execute().await;
            changed.map_err(netlink(format!("rename interface {link} to {wanted}")))
        };
        let renamed = renamed.await;
        if renamed.is_err() {
            self.delete(link, None).await?;
        }
        self.forget(link);
        renamed
    }

    /// The interface of the first default route, if there is one.
    pub(super) async fn way_out(&self) -> Result<Option<InterfaceName>, SysError> {
        let table = u32::from(RouteHeader::RT_TABLE_MAIN);
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if let Some(index) = self.default_interface(family, table).await? {
                let link = self.by_index(index).await?;
                return Ok(link.as_ref().and_then(name));
            }
        }
        Ok(None)
    }

    /// The MAC address of a link, if there is one of this name; zeros if it has none.
    pub(super) async fn mac_of(&self, link: &InterfaceName) -> Result<Option<MacAddr>, SysError> {
        let message = if_there(self.message(link).await)?;
        Ok(message.map(|message| mac(&message).unwrap_or(MacAddr([0; 6]))))
    }

    /// Deletes a link. Tells whether it was there, with this MAC address if one is given.
    pub(super) async fn delete(
        &self,
        link: &InterfaceName,
        wanted: Option<MacAddr>,
    ) -> Result<bool, SysError> {
        self.forget(link);
        let Some(message) = if_there(self.message(link).await)? else {
            return Ok(false);
        };
        self.forget(link);
        if wanted.is_some() && mac(&message) != wanted {
            return Ok(false);
        }
        let index = message.header.index;
        let mut what = LinkMessage::default();
        what.header.index = index;
        let context = format!("delete interface {link}");
        Ok(if_there(self.remove(what, &[index], context).await)?.is_some())
    }

    /// Asks for the deletion of links, and returns when they are gone.
    async fn remove(
        &self,
        what: LinkMessage,
        gone: &[u32],
        context: String,
    ) -> Result<(), SysError> {
        if let Some(removals) = &self.removals {
            match removals.remove(what.clone(), gone.iter().copied().collect()) {
                Ok(Outcome::Gone) => return Ok(()),
                Ok(Outcome::Refused(errno)) => return Err(SysError::Netlink { context, errno }),
                Ok(Outcome::Unknown) => {}
                Err(error) => tracing::debug!("{context} by a copy of this process: {error}"),
            }
        }
        let mut request = self.handle.link().del(what.header.index);
        *request.message_mut() = what;
        request.execute().await.map_err(netlink(context))
    }

    /// Deletes a port, if it has this MAC address, and its bridge, in one request. Tells whether it did: if not, nothing has
    /// changed that matters.
    ///
    /// The kernel deletes several links at once only by their group. A number that comes from that of the bridge, which no
    /// other bridge gets in this namespace, makes sure that nothing else is in it, even when an earlier call was killed
    /// between the requests.
    pub(super) async fn delete_with_bridge(
        &self,
        port: &InterfaceName,
        mac_of_port: MacAddr,
        bridge: &InterfaceName,
    ) -> Result<bool, SysError> {
        let names = [port, bridge];
        for name in names {
            self.forget(name);
        }
        let (Some(port), Some(bridge)) = (
            if_there(self.message(port).await)?,
            if_there(self.message(bridge).await)?,
        ) else {
            return Ok(false);
        };
        for name in names {
            self.forget(name);
        }
        if mac(&port) != Some(mac_of_port) {
            return Ok(false);
        }
        let group = LinkAttribute::Group(GROUPS.wrapping_add(bridge.header.index));
        for link in [&port, &bridge] {
            let mut request = LinkUnspec::new_with_index(link.header.index).build();
            request.attributes.push(group.clone());
            if let Err(error) = self.handle.link().set(request).execute().await {
                tracing::debug!("put links into a group: {error}");
                return Ok(false);
            }
        }
        let mut what = LinkMessage::default();
        what.attributes.push(group);
        let gone = [port.header.index, bridge.header.index];
        let context = "delete a group of links".to_owned();
        let deleted = self.remove(what, &gone, context).await;
        Ok(deleted
            .inspect_err(|error| tracing::debug!("{error}"))
            .is_ok())
    }

    /// The links that belong to a bridge.
    pub(super) async fn ports(
        &self,
        bridge: &InterfaceName,
    ) -> Result<Vec<InterfaceName>, SysError> {
        let index = self.index(bridge).await?;
        let mut request = self.handle.link().get();
        request
            .message_mut()
            .attributes
            .push(LinkAttribute::Controller(index));
        let messages: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(netlink("list bridge ports"))?;
        let belongs = |message: &&LinkMessage| {
            message
                .attributes
                .contains(&LinkAttribute::Controller(index))
        };
        Ok(messages.iter().filter(belongs).filter_map(name).collect())
    }

    /// The ports of a bridge that are ends of veth pairs: name, MAC address, and the kernel's number for the
    /// namespace of the other end.
    pub(super) async fn veth_ports(
        &self,
        bridge: &InterfaceName,
    ) -> Result<Vec<(InterfaceName, MacAddr, i32)>, SysError> {
        let mut veths = Vec::new();
        for port in self.ports(bridge).await? {
            let Some(message) = if_there(self.message(&port).await)? else {
                continue;
            };
            let mut attributes = message.attributes.iter();
            let namespace = attributes
                .find_map(|attribute| pick!(attribute, LinkAttribute::LinkNetNsId(id) => *id));
            if kind(&message).0 == "veth"
                && let (Some(mac), Some(namespace)) = (mac(&message), namespace)
            {
                veths.push((port, mac, namespace));
            }
        }
        Ok(veths)
    }

    /// The kernel's number for a namespace as seen from here, if it has one.
    pub(super) async fn namespace_number(
        &self,
        namespace: BorrowedFd<'_>,
    ) -> Result<Option<i32>, SysError> {
        let mut message = NsidMessage::default();
        let descriptor = u32::try_from(namespace.as_raw_fd()).unwrap_or(u32::MAX);
        message.attributes.push(NsidAttribute::Fd(descriptor));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let failed = |error| netlink("get the number of a namespace")(error);
        let mut handle = self.handle.clone();
        let mut answers = handle.request(request).map_err(failed)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(failed(rtnetlink::Error::NetlinkError(error)));
            }
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) =
                answer.payload
            {
                let mut attributes = answer.attributes.iter();
                let id =
                    attributes.find_map(|attribute| pick!(attribute, NsidAttribute::Id(id) => *id));
                return Ok(id.filter(|id| *id >= 0));
            }
        }
        Ok(None)
    }

    pub(super) async fn filter_vlans(
        &self,
        bridge: &InterfaceName,
        on: bool,
    ) -> Result<(), SysError> {
        let mut message = LinkUnspec::new_with_index(self.index(bridge).await?).build();
        let data = InfoData::Bridge(vec![InfoBridge::VlanFiltering(on)]);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(data),
        ]));
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(netlink(format!("switch VLAN filtering of {bridge}")))
    }

    pub(super) async fn set_port_vlan(
        &self,
        port: &InterfaceName,
        vlan: u16,
    ) -> Result<(), SysError> {
        let flags = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
        let message = LinkBridgeVlan::new(self.index(port).await?)
            .vlan(vlan, flags)
            .build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(netlink(format!("add {port} to VLAN {vlan}")))
    }

    pub(super) async fn set_hairpin(&self, port: &InterfaceName) -> Result<(), SysError> {
        let mut message = LinkUnspec::new_with_index(self.index(port).await?).build();
        let data = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]);
        let infos = vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(data),
        ];
        message.attributes.push(LinkAttribute::LinkInfo(infos));
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(netlink(format!("set hairpin mode of {port}")))
    }

    pub(super) async fn set_up(&self, link: &InterfaceName) -> Result<(), SysError> {
        let message = if link.as_str() == "lo" {
            LinkUnspec::new_with_index(1)
        } else {
            LinkUnspec::new_with_index(self.index(link).await?)
        };
        self.handle
            .link()
            .set(message.up().build())
            .execute()
            .await
            .map_err(netlink(format!("set {link} up")))
    }

    /// Sets a link down that has this MAC address. Tells whether there is such a one.
    pub(super) async fn set_down(
        &self,
        link: &InterfaceName,
        wanted: MacAddr,
    ) -> Result<bool, SysError> {
        self.forget(link);
        let Some(message) = if_there(self.message(link).await)? else {
            return Ok(false);
        };
        if mac(&message) != Some(wanted) {
            return Ok(false);
        }
        let down = LinkUnspec::new_with_index(message.header.index).down();
        let done = self.handle.link().set(down.build()).execute().await;
        Ok(if_there(done.map_err(netlink(format!("set {link} down"))))?.is_some())
    }

    /// Adds an address. Tells whether it was not there before.
    pub(super) async fn add_address(
        &self,
        link: &InterfaceName,
        address: IpNet,
        at_once: bool,
    ) -> Result<bool, SysError> {
        let index = self.index(link).await?;
        let mut request = self
            .handle
            .address()
            .add(index, address.addr(), address.prefix_len());
        if at_once && address.addr().is_ipv6() {
            // With accept_dad=0 alone, the kernel still waits until the link has its carrier.
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        }
        match request.execute().await {
            Ok(()) => Ok(true),
            Err(error) => match netlink(format!("add address {address} to {link}"))(error) {
                error if error.errno() == Some(libc::EEXIST) => Ok(false),
                error => Err(error),
            },
        }
    }

    pub(super) async fn add_default_route(
        &self,
        link: &InterfaceName,
        gateway: IpAddr,
        metric: u32,
    ) -> Result<(), SysError> {
        let unspecified: IpAddr = if gateway.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let context = format!("add default route via {gateway} dev {link} metric {metric}");
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(unspecified, 0)
            .map_err(|error| invalid(&context, error))?;
        let builder = builder
            .gateway(gateway)
            .map_err(|error| invalid(&context, error))?
            .output_interface(self.index(link).await?);
        let route = builder
            .priority(metric)
            .protocol(RouteProtocol::Static)
            .build();
        self.handle
            .route()
            .add(route)
            .execute()
            .await
            .map_err(netlink(context))
    }

    pub(super) async fn add_route(&self, route: &StaticRoute) -> Result<(), SysError> {
        let context = format!("add {route}");
        self.handle
            .route()
            .add(message(route, &context)?)
            .execute()
            .await
            .map_err(netlink(context))
    }

    /// Deletes a route. Tells whether it was there.
    pub(super) async fn delete_route(&self, route: &StaticRoute) -> Result<bool, SysError> {
        let context = format!("delete {route}");
        let deleted = self
            .handle
            .route()
            .del(message(route, &context)?)
            .execute()
            .await
            .map_err(netlink(context));
        Ok(if_there(deleted)?.is_some())
    }

    /// Lets answers to `::1` that come in on a bridge be delivered: the kernel accepts them only where
    /// a local route for `::1` leads to the interface.
    pub(super) async fn accept_loopback6(&self, bridge: &InterfaceName) -> Result<(), SysError> {
        let index = self.index(bridge).await?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::LOCALHOST, 128)
            .output_interface(index)
            .table_id(RT_TABLE_LOCAL)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .priority(LOOPBACK6_METRIC.saturating_add(index))
            .protocol(RouteProtocol::Static)
            .build();
        let context = format!("add local route ::1 dev {bridge}");
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(netlink(context))
    }
}

/// The request for a link on top of another one.
fn sublink(new: &NewSublink, name: &InterfaceName, parent: u32, container: RawFd) -> LinkMessage {
    let (kind, data) = match new.kind {
        SublinkKind::Macvlan {
            mode,
            broadcast_cutoff,
        } => {
            let mode = match mode {
                MacvlanMode::Bridge => MacVlanMode::Bridge,
                MacvlanMode::Private => MacVlanMode::Private,
                MacvlanMode::Vepa => MacVlanMode::Vepa,
                MacvlanMode::Passthru => MacVlanMode::Passthrough,
                MacvlanMode::Source => MacVlanMode::Source,
            };
            let mut infos = vec![InfoMacVlan::Mode(mode)];
            infos.extend(broadcast_cutoff.map(InfoMacVlan::BcCutoff));
            (InfoKind::MacVlan, InfoData::MacVlan(infos))
        }
        SublinkKind::Ipvlan(mode) => {
            let mode = match mode {
                IpvlanMode::L2 => IpVlanMode::L2,
                IpvlanMode::L3 => IpVlanMode::L3,
                IpvlanMode::L3s => IpVlanMode::L3S,
            };
            let infos = vec![InfoIpVlan::Mode(mode)];
            (InfoKind::IpVlan, InfoData::IpVlan(infos))
        }
    };
    let mut message = LinkMessage::default();
    message.attributes.extend([
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Link(parent),
        LinkAttribute::NetNsFd(container),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
    ]);
    let mac = new.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec()));
    message.attributes.extend(mac);
    message.attributes.extend(new.mtu.map(LinkAttribute::Mtu));
    message
}

fn in_context(context: &str, error: SysError) -> SysError {
    match error.errno() {
        Some(errno) => SysError::Netlink {
            context: context.to_owned(),
            errno,
        },
        None => error,
    }
}

fn interface(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| pick!(attribute, RouteAttribute::Oif(index) => *index))
}

fn in_table(route: &RouteMessage, table: u32) -> bool {
    let attribute = route
        .attributes
        .iter()
        .find_map(|attribute| pick!(attribute, RouteAttribute::Table(table) => *table));
    attribute.unwrap_or_else(|| route.header.table.into()) == table
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn invalid(context: &str, error: impl fmt::Debug) -> SysError {
    SysError::NetlinkOther {
        context: context.to_owned(),
        why: format!("{error:?}"),
    }
}

fn message(route: &StaticRoute, context: &str) -> Result<RouteMessage, SysError> {
    let (address, prefix) = (route.destination.addr(), route.destination.prefix_len());
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, prefix)
        .map_err(|error| invalid(context, error))?;
    let builder = builder
        .priority(route.metric)
        .protocol(RouteProtocol::Static);
    Ok(match route.target {
        RouteTarget::Via(gateway) => builder
            .gateway(gateway)
            .map_err(|error| invalid(context, error))?
            .build(),
        RouteTarget::Detached(DetachedRouteKind::Blackhole) => {
            builder.kind(RouteType::BlackHole).build()
        }
        RouteTarget::Detached(DetachedRouteKind::Unreachable) => {
            builder.kind(RouteType::Unreachable).build()
        }
        RouteTarget::Detached(DetachedRouteKind::Prohibit) => {
            builder.kind(RouteType::Prohibit).build()
        }
    })
}
