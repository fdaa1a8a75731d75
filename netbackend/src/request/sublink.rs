//! Networks of the drivers `macvlan` and `ipvlan`.

use std::collections::BTreeMap;
use std::fmt;

use wire::names::{InterfaceName, MacAddr, NetworkId, NetworkName};
use wire::network::{Network, NetworkOptions, PerNetworkOptions};
use wire::state::{DetachedRoute, LeaseRecord};

use super::{
    Address, Ipam, NetworkError, Options, RouteTarget, StaticRoute, host_local, interface, ipam,
    named, routes, static_mac, static_route, subnets,
};

/// The metric of default routes for which none is given: such a network is the way out before any bridge.
const DEFAULT_METRIC: u32 = 99;

/// An attachment by a link on top of one of the host.
#[derive(Debug, Clone)]
pub struct SublinkAttachment {
    /// The network.
    pub network: SublinkNetwork,
    /// The name of the interface inside the container.
    pub interface: InterfaceName,
    /// Its MAC address, if it was asked for and the driver has a say in it.
    pub mac: Option<MacAddr>,
    /// Its addresses, in the order of the subnets.
    pub addresses: Vec<Address>,
    /// Whether a DHCP server gives it an address.
    pub lease: bool,
    /// Whether one for IPv6 does, too.
    pub lease6: bool,
}

/// A network of the driver `macvlan` or `ipvlan`.
#[derive(Debug, Clone)]
pub struct SublinkNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its id.
    pub id: NetworkId,
    /// The interface of the host below; that of the default route if none is given.
    pub parent: Option<InterfaceName>,
    /// Driver and mode.
    pub kind: SublinkKind,
    /// Whether containers get no default routes because the network is closed to the outside.
    pub internal: bool,
    /// Routes for its containers.
    pub routes: Vec<StaticRoute>,
    /// The MTU, unless it is the parent's.
    pub mtu: Option<u32>,
    /// The metric of default routes.
    pub metric: u32,
    /// Whether containers get default routes.
    pub default_route: bool,
}

/// The driver of a link on top of another one, and how it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SublinkKind {
    /// Each link has a MAC address of its own.
    Macvlan {
        /// Who hears whom.
        mode: MacvlanMode,
        /// The number of links from which on broadcasts are delivered later, in one go; never for -1.
        broadcast_cutoff: Option<i32>,
    },
    /// All links have the MAC address of their parent.
    Ipvlan(IpvlanMode),
}

/// Who hears whom among links of the driver `macvlan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Links of the same parent hear each other.
    Bridge,
    /// They never do.
    Private,
    /// They do if the switch outside sends frames back.
    Vepa,
    /// There is just one link, with the MAC address of the parent.
    Passthru,
    /// They hear only senders that were told to them.
    Source,
}

/// At which layer links of the driver `ipvlan` meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// As on a switch.
    L2,
    /// As behind a router.
    L3,
    /// As behind a router that filters packets.
    L3s,
}

/// What a teardown goes by when there is no record.
#[derive(Debug, Clone)]
pub struct SublinkDetachment {
    /// The interface inside the container.
    pub interface: InterfaceName,
    /// Routes that do not vanish with it.
    pub detached_routes: Vec<DetachedRoute>,
    /// Its lease, if it has one and its MAC address and parent are known.
    pub lease: Option<LeaseRecord>,
}

impl SublinkKind {
    /// Whether links resolve neighbours, as at layer 2.
    #[must_use]
    pub fn answers_neighbours(self) -> bool {
        !matches!(self, Self::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s))
    }

    /// The name of the driver.
    #[must_use]
    pub fn driver(self) -> &'static str {
        match self {
            Self::Macvlan { .. } => "macvlan",
            Self::Ipvlan(_) => "ipvlan",
        }
    }

    /// Whether the link has the MAC address of its parent, whatever was asked for.
    #[must_use]
    pub fn shares_mac(self) -> bool {
        match self {
            Self::Macvlan { mode, .. } => mode == MacvlanMode::Passthru,
            Self::Ipvlan(_) => true,
        }
    }
}

impl fmt::Display for SublinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self {
            Self::Macvlan { mode, .. } => match mode {
                MacvlanMode::Bridge => "bridge",
                MacvlanMode::Private => "private",
                MacvlanMode::Vepa => "vepa",
                MacvlanMode::Passthru => "passthru",
                MacvlanMode::Source => "source",
            },
            Self::Ipvlan(mode) => match mode {
                IpvlanMode::L2 => "l2",
                IpvlanMode::L3 => "l3",
                IpvlanMode::L3s => "l3s",
            },
        };
        write!(f, "{} in mode {mode}", self.driver())?;
        match self {
            Self::Macvlan {
                broadcast_cutoff: Some(links),
                ..
            } => write!(f, ", broadcast cutoff {links}"),
            Self::Macvlan { .. } | Self::Ipvlan(_) => Ok(()),
        }
    }
}

pub(super) fn attachment(
    info: &Network,
    wanted: &PerNetworkOptions,
) -> Result<SublinkAttachment, NetworkError> {
    let mut network = network(info)?;
    let interface = interface(&wanted.interface_name)?;
    let subnets = subnets(info)?;
    let ipam = ipam(info)?;
    let addresses = match (ipam, network.kind) {
        (Ipam::HostLocal, _) => host_local(info, wanted, &subnets)?,
        (Ipam::Dhcp, SublinkKind::Ipvlan(_)) => return Err(NetworkError::IpvlanDhcp),
        (Ipam::Dhcp, SublinkKind::Macvlan { .. }) => Vec::new(),
        (Ipam::None, _) => {
            network.routes.clear();
            Vec::new()
        }
    };
    let mac = static_mac(wanted)?;
    Ok(SublinkAttachment {
        mac: mac.filter(|_| !network.kind.shares_mac()),
        network,
        interface,
        addresses,
        lease: ipam == Ipam::Dhcp,
        lease6: ipam == Ipam::Dhcp && info.ipv6_enabled,
    })
}

fn network(info: &Network) -> Result<SublinkNetwork, NetworkError> {
    let empty = BTreeMap::new();
    let options = Options(info.options.as_ref().unwrap_or(&empty));
    let parent = info
        .network_interface
        .as_deref()
        .filter(|name| !name.is_empty());
    Ok(SublinkNetwork {
        name: named("name", &info.name)?,
        id: named("id", &info.id)?,
        parent: parent
            .map(|name| named("network_interface", name))
            .transpose()?,
        kind: kind(info, &options)?,
        internal: info.internal,
        routes: routes(info)?,
        mtu: options.parsed("mtu")?.filter(|mtu| *mtu != 0),
        metric: options.parsed("metric")?.unwrap_or(DEFAULT_METRIC),
        default_route: !options.flag("no_default_route")?,
    })
}

fn kind(info: &Network, options: &Options<'_>) -> Result<SublinkKind, NetworkError> {
    let mode = options.text("mode");
    let wrong = |driver, expected| {
        let mode = mode.unwrap_or_default().to_owned();
        Err(NetworkError::SublinkMode {
            driver,
            mode,
            expected,
        })
    };
    if info.driver == "ipvlan" {
        let mode = match mode {
            None | Some("l2") => IpvlanMode::L2,
            Some("l3") => IpvlanMode::L3,
            Some("l3s") => IpvlanMode::L3s,
            Some(_) => return wrong("ipvlan", "l2, l3 or l3s"),
        };
        return Ok(SublinkKind::Ipvlan(mode));
    }
    let mode = match mode {
        None | Some("bridge") => MacvlanMode::Bridge,
        Some("private") => MacvlanMode::Private,
        Some("vepa") => MacvlanMode::Vepa,
        Some("passthru") => MacvlanMode::Passthru,
        Some("source") => MacvlanMode::Source,
        Some(_) => return wrong("macvlan", "bridge, private, vepa, passthru or source"),
    };
    Ok(SublinkKind::Macvlan {
        mode,
        broadcast_cutoff: options.parsed("bclim")?,
    })
}

/// The routes among these that do not vanish with the interface.
pub(crate) fn detached(routes: &[StaticRoute]) -> Vec<DetachedRoute> {
    let detached = |route: &StaticRoute| match route.target {
        RouteTarget::Via(_) => None,
        RouteTarget::Detached(kind) => Some(DetachedRoute {
            destination: route.destination,
            metric: route.metric,
            kind,
        }),
    };
    routes.iter().filter_map(detached).collect()
}

pub(super) fn detachment(
    options: &NetworkOptions,
    info: &Network,
    wanted: &PerNetworkOptions,
) -> Result<SublinkDetachment, NetworkError> {
    let routes = info.routes.iter().flatten();
    let routes: Vec<StaticRoute> = routes
        .filter_map(|route| static_route(route).ok())
        .collect();
    let lease = || {
        let parent = info.network_interface.as_deref()?;
        let mac = wanted.static_mac.as_deref()?;
        Some(LeaseRecord {
            host_interface: parent.parse().ok()?,
            mac: mac.parse().ok()?,
            hostname: options.container_hostname.clone().unwrap_or_default(),
            v6: info.ipv6_enabled,
        })
    };
    let leased = ipam(info).is_ok_and(|ipam| ipam == Ipam::Dhcp);
    Ok(SublinkDetachment {
        interface: interface(&wanted.interface_name)?,
        detached_routes: detached(&routes),
        lease: leased.then(lease).flatten(),
    })
}
