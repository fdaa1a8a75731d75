//! From the document that an engine wrote to what it means here.
//!
//! Every rule about user input stands in this file and in its parts [`sublink`] and [`plugin`]. [`SetupRequest`] is the outcome for `setup`: its
//! existence proves that every field was understood, so that nothing on the host changes for a request
//! that could not be carried out. [`TeardownRequest`] is as lenient as can be: what a teardown needs is
//! mostly in the records that `setup` left, and a detail that has become invalid must not stop it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;
use wire::names::{ContainerId, InterfaceName, MacAddr, NameError, NetworkId, NetworkName};
use wire::network::{Generation, Network, NetworkOptions, PerNetworkOptions, PortMapping, Route};
use wire::state::{DetachedRouteKind, Isolation, Protocol, PublishedPort};

pub mod plugin;
pub mod sublink;

pub use self::plugin::{PluginAttachment, PluginCall};
pub use self::sublink::{SublinkAttachment, SublinkDetachment, SublinkKind, SublinkNetwork};

/// The metric of routes for which none is given.
const DEFAULT_METRIC: u32 = 100;

/// What holds for the call as a whole, from the command line and the environment.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The isolation of networks that do not say, if the administrator chose one.
    pub default_isolation: Option<Isolation>,
}

/// A container and the networks that it is to be attached to.
#[derive(Debug, Clone)]
pub struct SetupRequest {
    /// The container.
    pub container: ContainerId,
    /// Its first DNS name.
    pub container_name: String,
    /// Its attachments, in the order in which they are made.
    pub attachments: Vec<Attachment>,
    /// The ports it publishes.
    pub ports: Vec<PublishedPort>,
    /// The port mappings as they were written, for the state files of netavark.
    pub raw_ports: Option<Vec<PortMapping>>,
    /// Its own resolvers.
    pub dns_servers: Option<Vec<IpAddr>>,
    /// Its host name, for DHCP servers; may be empty.
    pub hostname: String,
}

/// One attachment of a container to a network.
#[derive(Debug, Clone)]
pub enum Attachment {
    /// To a bridge.
    Bridge(BridgeAttachment),
    /// By a link on top of one of the host: macvlan or ipvlan.
    Sublink(SublinkAttachment),
    /// By somebody else's program.
    Plugin(PluginAttachment),
}

impl Attachment {
    /// The name of the network.
    #[must_use]
    pub fn network(&self) -> &NetworkName {
        match self {
            Self::Bridge(bridge) => &bridge.network.name,
            Self::Sublink(sublink) => &sublink.network.name,
            Self::Plugin(plugin) => &plugin.network,
        }
    }

    /// The id of the network.
    #[must_use]
    pub fn id(&self) -> &NetworkId {
        match self {
            Self::Bridge(bridge) => &bridge.network.id,
            Self::Sublink(sublink) => &sublink.network.id,
            Self::Plugin(plugin) => &plugin.id,
        }
    }

    /// The name of the interface inside the container, unless it is a plugin's affair.
    #[must_use]
    pub fn interface(&self) -> Option<&InterfaceName> {
        match self {
            Self::Bridge(bridge) => Some(&bridge.interface),
            Self::Sublink(sublink) => Some(&sublink.interface),
            Self::Plugin(_) => None,
        }
    }
}

/// An attachment to a bridge.
#[derive(Debug, Clone)]
pub struct BridgeAttachment {
    /// The network.
    pub network: BridgeNetwork,
    /// The name of the interface inside the container.
    pub interface: InterfaceName,
    /// The name of the interface on the host, if it was asked for.
    pub host_interface: Option<InterfaceName>,
    /// The MAC address inside the container, if it was asked for.
    pub mac: Option<MacAddr>,
    /// Its addresses, in the order of the subnets.
    pub addresses: Vec<Address>,
    /// Whether a DHCP server gives it an address.
    pub lease: bool,
    /// Whether one for IPv6 does, too.
    pub lease6: bool,
    /// Further DNS names, unchecked.
    pub aliases: Vec<String>,
}

/// An address of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address, with the prefix length of its subnet.
    pub address: IpNet,
    /// The gateway of its subnet.
    pub gateway: Option<IpAddr>,
}

/// A network of the driver `bridge`.
#[derive(Debug, Clone)]
pub struct BridgeNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its id.
    pub id: NetworkId,
    /// Its bridge.
    pub bridge: InterfaceName,
    /// Whether the bridge, its addresses and its rules are ours to make.
    pub mode: Mode,
    /// Whether the network is closed to the outside.
    pub internal: bool,
    /// Whether names are resolved on it.
    pub dns: bool,
    /// Its resolvers.
    pub dns_servers: Vec<IpAddr>,
    /// Its subnets, as network addresses.
    pub subnets: Vec<Subnet>,
    /// Routes for its containers.
    pub routes: Vec<StaticRoute>,
    /// The MTU, unless it is found out.
    pub mtu: Option<u32>,
    /// The metric of default routes.
    pub metric: u32,
    /// Whether containers get default routes.
    pub default_route: bool,
    /// How it is closed off from other networks.
    pub isolation: Isolation,
    /// The VLAN of its containers.
    pub vlan: Option<u16>,
    /// The VRF of its bridge.
    pub vrf: Option<InterfaceName>,
    /// The source of outgoing IPv4 traffic.
    pub outbound_addr4: Option<Ipv4Addr>,
    /// The source of outgoing IPv6 traffic.
    pub outbound_addr6: Option<Ipv6Addr>,
}

impl BridgeNetwork {
    /// Whether it has IPv6 subnets.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        let mut subnets = self.subnets.iter();
        subnets.any(|subnet| subnet.subnet.addr().is_ipv6())
    }

    /// Whether the host has to forward IPv6 for it.
    #[must_use]
    pub fn forwards_ipv6(&self) -> bool {
        self.mode == Mode::Managed && !self.internal && self.has_ipv6()
    }
}

/// Who cares for a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// We do.
    Managed,
    /// Its owner does: it must exist and is left as it is.
    Unmanaged,
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Network address and prefix length.
    pub subnet: IpNet,
    /// The gateway.
    pub gateway: Option<IpAddr>,
}

/// A static route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticRoute {
    /// Where it leads to.
    pub destination: IpNet,
    /// What becomes of packets.
    pub target: RouteTarget,
    /// Its metric.
    pub metric: u32,
}

/// What becomes of packets that a route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteTarget {
    /// They go to a next hop.
    Via(IpAddr),
    /// They go nowhere.
    Detached(DetachedRouteKind),
}

/// What a teardown goes by when no record is left.
#[derive(Debug, Clone)]
pub struct TeardownRequest {
    /// The container.
    pub container: ContainerId,
    /// The networks to leave.
    pub networks: Vec<Detachment>,
}

/// One network to leave.
#[derive(Debug, Clone)]
pub struct Detachment {
    /// Its name.
    pub name: NetworkName,
    /// Its id.
    pub id: NetworkId,
    /// How the container is attached to it.
    pub link: Link,
}

/// How a container is attached to a network that it leaves.
#[derive(Debug, Clone)]
pub enum Link {
    /// To a bridge.
    Bridge {
        /// The bridge, if the name is usable.
        bridge: Option<InterfaceName>,
        /// Whether the bridge is ours to remove.
        mode: Mode,
        /// The interface inside the container.
        interface: InterfaceName,
    },
    /// By a link on top of one of the host.
    Sublink(SublinkDetachment),
    /// By somebody else's program.
    Plugin(PluginCall),
}

impl Detachment {
    /// The bridge and who cares for it, if there is one.
    #[must_use]
    pub fn bridge(&self) -> Option<(Option<&InterfaceName>, Mode)> {
        pick!(&self.link, Link::Bridge { bridge, mode, .. } => (bridge.as_ref(), *mode))
    }
}

/// Why a request cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The document is not JSON of the right shape.
    #[error("failed to load network options: IO error: {at}{why}")]
    Document {
        /// The path of the field, with a colon, or nothing.
        at: String,
        /// What is wrong there.
        why: String,
    },
    /// The container id cannot be used.
    #[error("container_id: {0}")]
    ContainerId(NameError),
    /// A name of `networks` has no description.
    #[error("network info for network {0} not found")]
    NoInfo(String),
    /// A published port cannot be.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A network or an attachment cannot be.
    #[error("network \"{network}\": {why}")]
    Network {
        /// Which network.
        network: String,
        /// What is wrong with it.
        why: NetworkError,
    },
}

/// What is wrong with a network or an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum NetworkError {
    #[error("{field}: {why}")]
    Name { field: &'static str, why: NameError },
    #[error("{field}: \"{name}\" must not contain \"*\", \"\\\"\" and \"\\\\\"")]
    NotFilterable { field: &'static str, name: String },
    #[error("no container interface name given")]
    NoInterface,
    #[error("interface_name: \"{0}\" is used for two networks")]
    SameInterface(InterfaceName),
    #[error("no bridge interface name given")]
    NoBridge,
    #[error("no static ips provided")]
    NoAddresses,
    #[error("static_ips: {0} is given twice")]
    SameAddress(IpAddr),
    #[error(
        "not all static IPs matched a subnet: expected {expected}, got {got}: {address} is in none of {subnets}"
    )]
    OutsideSubnets {
        expected: usize,
        got: usize,
        address: IpAddr,
        subnets: String,
    },
    #[error("static_ips: {0} is the address of the gateway")]
    GatewayAddress(IpAddr),
    #[error("unsupported ipam driver {0}")]
    Ipam(String),
    #[error("cannot use dhcp ipam driver without using the option mode=unmanaged")]
    ManagedDhcp,
    #[error("ipam driver dhcp is not supported with ipvlan")]
    IpvlanDhcp,
    #[error("overlapping subnets: {0} and {1}")]
    Overlap(IpNet, IpNet),
    #[error("duplicate subnet defined: {0}")]
    Duplicate(IpNet),
    #[error("unable to parse \"{key}\": {why}")]
    Option { key: &'static str, why: String },
    #[error("invalid isolate option \"{0}\", expected true, false or strict")]
    Isolate(String),
    #[error("mode: \"{0}\" is not a mode of bridge, expected managed or unmanaged")]
    Mode(String),
    #[error("mode: \"{mode}\" is not a mode of {driver}, expected {expected}")]
    SublinkMode {
        driver: &'static str,
        mode: String,
        expected: &'static str,
    },
    #[error("vlan must be between 0 and 4094, got {0}")]
    Vlan(u32),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(
        "dns server {0} is the gateway of the network, which would cause aardvark-dns to forward queries to itself"
    )]
    DnsLoop(IpAddr),
}

/// What is wrong with a route.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum RouteError {
    #[error("route {0} requires a gateway for type unicast")]
    WithoutGateway(IpNet),
    #[error("route {destination} must not have a gateway for type {kind}")]
    WithGateway { destination: IpNet, kind: String },
    #[error("route {destination}: the gateway {gateway} is of another family")]
    Family { destination: IpNet, gateway: IpAddr },
    #[error(
        "route {destination}: unknown route type \"{kind}\", expected unicast, blackhole, unreachable or prohibit"
    )]
    Type { destination: IpNet, kind: String },
}

/// What is wrong with a published port.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum PortError {
    #[error("invalid host ip \"{address}\" provided for port {port}")]
    HostAddress { address: String, port: u16 },
    #[error("port_mappings: neither host_port nor container_port is given")]
    NoPort,
    #[error("port_mappings: port 0 cannot be published")]
    Zero,
    #[error(
        "port_mappings: unknown protocol \"{protocol}\" for port {port}, expected tcp, udp or sctp"
    )]
    Protocol { protocol: String, port: u16 },
    #[error("port_mappings: {count} ports from {port} on go beyond 65535")]
    Range { port: u16, count: u16 },
    #[error("port_mappings: host port {0} is mapped twice to different container ports")]
    Twice(u16),
}

/// Reads the document of `setup` and `teardown`.
///
/// # Errors
/// Not JSON, a field of the wrong type, or one that is missing; the error names its path.
pub fn parse(document: &[u8]) -> Result<NetworkOptions, RequestError> {
    let mut json = serde_json::Deserializer::from_slice(document);
    let wrong = |at: String, why: String| RequestError::Document { at, why };
    let options = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." {
            String::new()
        } else {
            format!("{path}: ")
        };
        wrong(at, error.into_inner().to_string())
    })?;
    json.end()
        .map_err(|error| wrong(String::new(), error.to_string()))?;
    Ok(options)
}

impl SetupRequest {
    /// Understands a document as a request for `setup`.
    ///
    /// # Errors
    /// The first field that cannot be carried out, with its network and value.
    pub fn new(options: NetworkOptions, policy: &Policy) -> Result<Self, RequestError> {
        let container = options
            .container_id
            .parse()
            .map_err(RequestError::ContainerId)?;
        let generation = options.networks.generation;
        let ports = published_ports(options.port_mappings.as_deref().unwrap_or_default())?;
        let mut attachments: Vec<Attachment> = Vec::new();
        for (name, wanted) in &options.networks.entries {
            let info = options
                .network_info
                .get(name)
                .ok_or_else(|| RequestError::NoInfo(name.clone()))?;
            let in_network = |why| RequestError::Network {
                network: name.clone(),
                why,
            };
            let attachment = match info.driver.as_str() {
                "bridge" => {
                    bridge_attachment(info, wanted, generation, policy).map(Attachment::Bridge)
                }
                "macvlan" | "ipvlan" => sublink::attachment(info, wanted).map(Attachment::Sublink),
                _ => plugin::attachment(info, &options, wanted).map(Attachment::Plugin),
            };
            let attachment = attachment.map_err(in_network)?;
            let mut others = attachments.iter().filter_map(Attachment::interface);
            if let Some(interface) = attachment.interface()
                && others.any(|other| other == interface)
            {
                return Err(in_network(NetworkError::SameInterface(interface.clone())));
            }
            attachments.push(attachment);
        }
        let request = Self {
            container,
            container_name: options.container_name,
            attachments,
            ports,
            raw_ports: options.port_mappings,
            dns_servers: options.dns_servers,
            hostname: options.container_hostname.unwrap_or_default(),
        };
        request.check_dns_loops()?;
        Ok(request)
    }

    /// The attachments to bridges.
    pub fn bridges(&self) -> impl Iterator<Item = &BridgeAttachment> {
        let attachments = self.attachments.iter();
        attachments.filter_map(|attachment| pick!(attachment, Attachment::Bridge(bridge) => bridge))
    }

    /// The attachments by links on top of others.
    pub fn sublinks(&self) -> impl Iterator<Item = &SublinkAttachment> {
        let attachments = self.attachments.iter();
        attachments.filter_map(|attachment| pick!(attachment, Attachment::Sublink(link) => link))
    }

    /// A resolver that is our own gateway would ask itself for ever.
    fn check_dns_loops(&self) -> Result<(), RequestError> {
        let gateways: BTreeSet<IpAddr> = self
            .bridges()
            .filter(|attachment| attachment.network.dns)
            .flat_map(|attachment| {
                attachment
                    .network
                    .subnets
                    .iter()
                    .filter_map(|subnet| subnet.gateway)
            })
            .collect();
        for attachment in self.bridges() {
            let network = &attachment.network;
            let own = self
                .dns_servers
                .iter()
                .flatten()
                .chain(&network.dns_servers);
            if let Some(server) = own
                .filter(|_| network.dns)
                .find(|server| gateways.contains(server))
            {
                let why = NetworkError::DnsLoop(*server);
                return Err(RequestError::Network {
                    network: network.name.to_string(),
                    why,
                });
            }
        }
        Ok(())
    }
}

impl TeardownRequest {
    /// Understands a document as a request for `teardown`.
    ///
    /// # Errors
    /// Names that cannot be used at all; everything else is for the records.
    pub fn new(options: &NetworkOptions) -> Result<Self, RequestError> {
        let container = options
            .container_id
            .parse()
            .map_err(RequestError::ContainerId)?;
        let mut networks = Vec::new();
        for (name, wanted) in &options.networks.entries {
            let info = options
                .network_info
                .get(name)
                .ok_or_else(|| RequestError::NoInfo(name.clone()))?;
            let in_network = |why| RequestError::Network {
                network: name.clone(),
                why,
            };
            networks.push(detachment(options, info, wanted).map_err(in_network)?);
        }
        Ok(Self {
            container,
            networks,
        })
    }
}

fn detachment(
    options: &NetworkOptions,
    info: &Network,
    wanted: &PerNetworkOptions,
) -> Result<Detachment, NetworkError> {
    let link = match info.driver.as_str() {
        "bridge" => bridge_link(info, wanted)?,
        "macvlan" | "ipvlan" => Link::Sublink(sublink::detachment(options, info, wanted)?),
        _ => Link::Plugin(plugin::call(info, options, wanted)),
    };
    Ok(Detachment {
        name: named("name", &info.name)?,
        id: named("id", &info.id)?,
        link,
    })
}

fn bridge_link(info: &Network, wanted: &PerNetworkOptions) -> Result<Link, NetworkError> {
    let unmanaged = info
        .options
        .as_ref()
        .and_then(|options| options.get("mode"))
        .is_some_and(|mode| mode == "unmanaged");
    let bridge = info.network_interface.as_ref();
    Ok(Link::Bridge {
        bridge: bridge.and_then(|name| name.parse().ok()),
        mode: if unmanaged {
            Mode::Unmanaged
        } else {
            Mode::Managed
        },
        interface: interface(&wanted.interface_name)?,
    })
}

fn named<T: FromStr<Err = NameError>>(field: &'static str, text: &str) -> Result<T, NetworkError> {
    text.parse()
        .map_err(|why| NetworkError::Name { field, why })
}

/// The name of an interface that rules speak of. The kernel allows characters in it that mean something
/// else there.
fn filterable(field: &'static str, text: &str) -> Result<InterfaceName, NetworkError> {
    if text.contains(['*', '"', '\\']) {
        let name = text.to_owned();
        return Err(NetworkError::NotFilterable { field, name });
    }
    named(field, text)
}

fn interface(name: &str) -> Result<InterfaceName, NetworkError> {
    if name.is_empty() {
        return Err(NetworkError::NoInterface);
    }
    named("interface_name", name)
}

fn bridge_attachment(
    info: &Network,
    wanted: &PerNetworkOptions,
    generation: Generation,
    policy: &Policy,
) -> Result<BridgeAttachment, NetworkError> {
    let mut network = bridge_network(info, generation, policy)?;
    let interface = interface(&wanted.interface_name)?;
    let ipam = ipam(info)?;
    if ipam == Ipam::Dhcp && network.mode == Mode::Managed {
        return Err(NetworkError::ManagedDhcp);
    }
    let addresses = match ipam {
        Ipam::HostLocal => host_local(info, wanted, &network.subnets)?,
        Ipam::Dhcp => {
            network.subnets.clear();
            Vec::new()
        }
        Ipam::None => {
            network.subnets.clear();
            network.routes.clear();
            Vec::new()
        }
    };
    let host_interface = wanted
        .options
        .as_ref()
        .and_then(|options| options.get("host_interface_name"));
    Ok(BridgeAttachment {
        network,
        interface,
        host_interface: host_interface
            .filter(|name| !name.is_empty())
            .map(|name| named("options.host_interface_name", name))
            .transpose()?,
        mac: static_mac(wanted)?,
        addresses,
        lease: ipam == Ipam::Dhcp,
        lease6: ipam == Ipam::Dhcp && info.ipv6_enabled,
        aliases: wanted.aliases.clone().unwrap_or_default(),
    })
}

fn static_mac(wanted: &PerNetworkOptions) -> Result<Option<MacAddr>, NetworkError> {
    let mac = wanted.static_mac.as_deref().filter(|mac| !mac.is_empty());
    mac.map(|mac| named("static_mac", mac)).transpose()
}

/// Who chooses addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ipam {
    /// The engine.
    HostLocal,
    /// A DHCP server.
    Dhcp,
    /// Nobody.
    None,
}

fn ipam(info: &Network) -> Result<Ipam, NetworkError> {
    let driver = info
        .ipam_options
        .as_ref()
        .and_then(|options| options.get("driver"));
    match driver.map_or("host-local", String::as_str) {
        "host-local" | "" => Ok(Ipam::HostLocal),
        "none" => Ok(Ipam::None),
        "dhcp" => Ok(Ipam::Dhcp),
        other => Err(NetworkError::Ipam(other.to_owned())),
    }
}

fn routes(info: &Network) -> Result<Vec<StaticRoute>, NetworkError> {
    let routes = info.routes.iter().flatten().map(static_route);
    Ok(routes.collect::<Result<_, _>>()?)
}

fn bridge_network(
    info: &Network,
    generation: Generation,
    policy: &Policy,
) -> Result<BridgeNetwork, NetworkError> {
    let empty = BTreeMap::new();
    let options = Options(info.options.as_ref().unwrap_or(&empty));
    let subnets = subnets(info)?;
    Ok(BridgeNetwork {
        name: named("name", &info.name)?,
        id: named("id", &info.id)?,
        bridge: match info.network_interface.as_deref() {
            None | Some("") => return Err(NetworkError::NoBridge),
            Some(name) => filterable("network_interface", name)?,
        },
        mode: mode(options.text("mode"))?,
        internal: info.internal,
        dns: info.dns_enabled,
        dns_servers: info.network_dns_servers.clone().unwrap_or_default(),
        routes: routes(info)?,
        subnets,
        mtu: options.parsed("mtu")?.filter(|mtu| *mtu != 0),
        metric: options.parsed("metric")?.unwrap_or(DEFAULT_METRIC),
        default_route: !options.flag("no_default_route")?,
        isolation: isolation(options.text("isolate"), generation, policy)?,
        vlan: vlan(options.parsed("vlan")?)?,
        vrf: options
            .text("vrf")
            .map(|name| filterable("vrf", name))
            .transpose()?,
        outbound_addr4: options.parsed("outbound_addr4")?,
        outbound_addr6: options.parsed("outbound_addr6")?,
    })
}

/// The options of a network: text by key, where an empty text counts as absent.
struct Options<'a>(&'a BTreeMap<String, String>);

impl Options<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    fn parsed<T: FromStr>(&self, key: &'static str) -> Result<Option<T>, NetworkError>
    where
        T::Err: std::fmt::Display,
    {
        let wrong = |text: &str, why: T::Err| NetworkError::Option {
            key,
            why: format!("{why}: \"{text}\""),
        };
        self.text(key)
            .map(|text| text.parse().map_err(|why| wrong(text, why)))
            .transpose()
    }

    /// A truth value, in all the spellings of Go's `strconv.ParseBool`.
    fn flag(&self, key: &'static str) -> Result<bool, NetworkError> {
        match self.text(key) {
            None | Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
            Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
            Some(text) => Err(NetworkError::Option {
                key,
                why: format!("expected true or false, got \"{text}\""),
            }),
        }
    }
}

fn mode(text: Option<&str>) -> Result<Mode, NetworkError> {
    match text {
        None | Some("managed") => Ok(Mode::Managed),
        Some("unmanaged") => Ok(Mode::Unmanaged),
        Some(other) => Err(NetworkError::Mode(other.to_owned())),
    }
}

fn vlan(number: Option<u32>) -> Result<Option<u16>, NetworkError> {
    match number {
        None | Some(0) => Ok(None),
        Some(number) => match u16::try_from(number) {
            Ok(vlan @ 1..=4094) => Ok(Some(vlan)),
            _ => Err(NetworkError::Vlan(number)),
        },
    }
}

fn isolation(
    text: Option<&str>,
    generation: Generation,
    policy: &Policy,
) -> Result<Isolation, NetworkError> {
    match text {
        Some("strict") => Ok(Isolation::Strict),
        Some("true" | "1") => Ok(Isolation::Normal),
        Some("false" | "0") => Ok(Isolation::None),
        Some(other) => Err(NetworkError::Isolate(other.to_owned())),
        None => Ok(policy.default_isolation.unwrap_or(match generation {
            Generation::Object => Isolation::None,
            Generation::Array => Isolation::Strict,
        })),
    }
}

fn subnets(info: &Network) -> Result<Vec<Subnet>, NetworkError> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for wanted in info.subnets.iter().flatten() {
        let subnet = wanted.subnet.trunc();
        for Subnet { subnet: other, .. } in &subnets {
            if *other == subnet {
                return Err(NetworkError::Duplicate(subnet));
            }
            if other.contains(&subnet) || subnet.contains(other) {
                return Err(NetworkError::Overlap(*other, subnet));
            }
        }
        subnets.push(Subnet {
            subnet,
            gateway: wanted.gateway,
        });
    }
    Ok(subnets)
}

/// What a route asks for.
///
/// # Errors
/// Its type and its gateway do not go together.
pub fn static_route(route: &Route) -> Result<StaticRoute, RouteError> {
    let destination = route.destination.trunc();
    let kind = route.route_type.as_deref().unwrap_or_default();
    let target = match (kind, route.gateway) {
        ("" | "unicast", Some(gateway)) if gateway.is_ipv4() != destination.addr().is_ipv4() => {
            return Err(RouteError::Family {
                destination,
                gateway,
            });
        }
        ("" | "unicast", Some(gateway)) => RouteTarget::Via(gateway),
        ("" | "unicast", None) => return Err(RouteError::WithoutGateway(destination)),
        ("blackhole" | "unreachable" | "prohibit", Some(_)) => {
            return Err(RouteError::WithGateway {
                destination,
                kind: kind.to_owned(),
            });
        }
        ("blackhole", None) => RouteTarget::Detached(DetachedRouteKind::Blackhole),
        ("unreachable", None) => RouteTarget::Detached(DetachedRouteKind::Unreachable),
        ("prohibit", None) => RouteTarget::Detached(DetachedRouteKind::Prohibit),
        _ => {
            return Err(RouteError::Type {
                destination,
                kind: kind.to_owned(),
            });
        }
    };
    Ok(StaticRoute {
        destination,
        target,
        metric: route.metric.unwrap_or(DEFAULT_METRIC),
    })
}

/// The addresses that the engine chose. A network that is described without subnets has none to put them in: the
/// interface stays without, as with netavark.
fn host_local(
    info: &Network,
    wanted: &PerNetworkOptions,
    subnets: &[Subnet],
) -> Result<Vec<Address>, NetworkError> {
    let wanted = wanted.static_ips.as_deref().unwrap_or_default();
    if info.subnets.is_none() && !wanted.is_empty() {
        return Ok(Vec::new());
    }
    addresses(wanted, subnets)
}

/// Assigns the wanted addresses to subnets: subnets outer, addresses inner, as the reply lists them.
fn addresses(wanted: &[IpAddr], subnets: &[Subnet]) -> Result<Vec<Address>, NetworkError> {
    if wanted.is_empty() {
        return Err(NetworkError::NoAddresses);
    }
    for (n, address) in wanted.iter().enumerate() {
        if wanted[..n].contains(address) {
            return Err(NetworkError::SameAddress(*address));
        }
    }
    let mut assigned = Vec::with_capacity(wanted.len());
    for subnet in subnets {
        for address in wanted
            .iter()
            .filter(|address| subnet.subnet.contains(*address))
        {
            if subnet.gateway == Some(*address) {
                return Err(NetworkError::GatewayAddress(*address));
            }
            let prefix = subnet.subnet.prefix_len();
            let address = IpNet::new(*address, prefix).map_err(|_| NetworkError::NoAddresses)?;
            assigned.push(Address {
                address,
                gateway: subnet.gateway,
            });
        }
    }
    let outside = wanted.iter().find(|address| {
        !subnets
            .iter()
            .any(|subnet| subnet.subnet.contains(*address))
    });
    if let Some(address) = outside {
        let list: Vec<String> = subnets
            .iter()
            .map(|subnet| subnet.subnet.to_string())
            .collect();
        let subnets = if list.is_empty() {
            "its subnets, since it has none".to_owned()
        } else {
            list.join(", ")
        };
        let (expected, got) = (wanted.len(), assigned.len());
        return Err(NetworkError::OutsideSubnets {
            expected,
            got,
            address: *address,
            subnets,
        });
    }
    Ok(assigned)
}

pub(crate) fn published_ports(mappings: &[PortMapping]) -> Result<Vec<PublishedPort>, PortError> {
    let mut ports = Vec::new();
    let mut known = BTreeSet::new();
    let mut targets: BTreeMap<(Protocol, Option<IpAddr>, u16), u16> = BTreeMap::new();
    for mapping in mappings {
        for port in published(mapping)? {
            for offset in 0..port.count {
                let key = (port.protocol, port.host_address, port.host_port + offset);
                let target = port.container_port + offset;
                if *targets.entry(key).or_insert(target) != target {
                    return Err(PortError::Twice(key.2));
                }
            }
            if known.insert(port.clone()) {
                ports.push(port);
            }
        }
    }
    Ok(ports)
}

fn published(mapping: &PortMapping) -> Result<Vec<PublishedPort>, PortError> {
    let (host_port, container_port) = match (mapping.host_port, mapping.container_port) {
        (Some(host), Some(container)) => (host, container),
        (Some(port), None) | (None, Some(port)) => (port, port),
        (None, None) => return Err(PortError::NoPort),
    };
    if host_port == 0 || container_port == 0 {
        return Err(PortError::Zero);
    }
    let count = mapping.range.unwrap_or(1).max(1);
    for port in [host_port, container_port] {
        if port.checked_add(count - 1).is_none() {
            return Err(PortError::Range { port, count });
        }
    }
    let host_address = match mapping.host_ip.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|_| {
            let address = text.to_owned();
            PortError::HostAddress {
                address,
                port: host_port,
            }
        })?),
    };
    let protocols = mapping
        .protocol
        .as_deref()
        .filter(|text| !text.is_empty())
        .unwrap_or("tcp");
    let port = |protocol| PublishedPort {
        host_address,
        host_port,
        container_port,
        count,
        protocol,
    };
    protocols
        .split(',')
        .map(|text| protocol(text.trim(), host_port).map(port))
        .collect()
}

fn protocol(text: &str, port: u16) -> Result<Protocol, PortError> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(PortError::Protocol {
            protocol: text.to_owned(),
            port,
        }),
    }
}

#[cfg(test)]
mod tests;
