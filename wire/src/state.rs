//! Records that a call of netbackend leaves for later calls, below the engine's state directory.
//!
//! ```text
//! <config>/netbackend/lock                            taken by every call for its whole run
//! <config>/netbackend/journal                         [`Journal`] of the call that is under way
//! <config>/netbackend/containers/<container id>       [`ContainerRecord`]
//! <config>/netbackend/networks/<network id>/network   [`NetworkRecord`]
//! <config>/netbackend/networks/<network id>/members/<container id>   empty: attached to this network
//! <config>/netbackend/bridges/<bridge>/<network id>   empty: this network uses this bridge
//! ```
//! They tell what was made and with which facts, so that it can be taken away when the request, the
//! namespace or the kernel objects are gone. All are JSON, replaced whole by rename.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::{ContainerId, InterfaceName, MacAddr, NetworkId, NetworkName};

/// The version of these documents; a reader refuses a higher one.
pub const VERSION: u32 = 1;

/// A container and everything it is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The container.
    pub id: ContainerId,
    /// Its name, as the engine gave it; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its attachments to bridges, oldest first: the order decides which network carries a published port.
    pub attachments: Vec<AttachmentRecord>,
    /// Its attachments by other drivers, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherRecord>,
}

impl ContainerRecord {
    /// A record of nothing.
    #[must_use]
    pub fn new(id: ContainerId) -> Self {
        Self {
            version: VERSION,
            id,
            name: None,
            attachments: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Whether it tells of no attachment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attachments.is_empty() && self.others.is_empty()
    }

    /// The namespace that it tells of: its path, and its inode.
    #[must_use]
    pub fn netns(&self) -> Option<(&str, u64)> {
        let bridges = self.attachments.iter();
        let bridges = bridges.map(|attachment| (attachment.netns.as_str(), attachment.netns_inode));
        let others = self.others.iter();
        let others = others.map(|other| (other.netns.as_str(), other.netns_inode));
        bridges.chain(others).next()
    }
}

/// An attachment to a network of another driver than `bridge`: it has no port, no rules and no names on the
/// host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherRecord {
    /// The id of the network.
    pub network: NetworkId,
    /// Its name.
    pub name: NetworkName,
    /// The namespace, as the engine gave it; plugins are given it again.
    pub netns: String,
    /// The inode of the namespace in nsfs, which tells whether it is still the same.
    pub netns_inode: u64,
    /// The metric of its default routes, if it has any.
    pub default_metric: Option<u32>,
    /// What was made.
    pub made: OtherMade,
}

/// What a driver other than `bridge` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherMade {
    /// A link inside the container, on top of one of the host.
    Sublink(SublinkRecord),
    /// Whatever a plugin does.
    Plugin(PluginRecord),
}

/// A link on top of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SublinkRecord {
    /// The interface inside the container.
    pub interface: InterfaceName,
    /// The name that it may have for a moment while it is made; only in the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temporary: Option<InterfaceName>,
    /// Routes inside the container that do not vanish with the interface.
    pub detached_routes: Vec<DetachedRoute>,
    /// The lease of its address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseRecord>,
}

/// What it takes to have a plugin undo its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRecord {
    /// Its name.
    pub driver: String,
    /// Where the program was found.
    pub program: String,
    /// What it was given on standard input.
    pub input: String,
}

/// What it takes to give a lease back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The interface of the host by which servers are reached: the bridge or the parent.
    pub host_interface: InterfaceName,
    /// The MAC address that it was given to.
    pub mac: MacAddr,
    /// The host name that the server was told, which may be empty.
    pub hostname: String,
    /// Whether an IPv6 address was asked for, too.
    #[serde(default)]
    pub v6: bool,
}

/// One attachment of a container to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// The id of the network.
    pub network: NetworkId,
    /// The namespace, as the engine gave it; for people.
    pub netns: String,
    /// The inode of the namespace in nsfs, which tells whether it is still the same.
    pub netns_inode: u64,
    /// The interface inside the container.
    pub interface: InterfaceName,
    /// The host end of the veth pair.
    pub host_interface: InterfaceName,
    /// The MAC address of the host end, which tells our interface from another of the same name.
    pub host_mac: MacAddr,
    /// The addresses of the container.
    pub addresses: Vec<IpNet>,
    /// The ports that it publishes on this network.
    pub ports: Vec<PublishedPort>,
    /// Routes inside the container that do not vanish with the interface.
    pub detached_routes: Vec<DetachedRoute>,
    /// The zone file that names the container, if any.
    pub zone_file: Option<String>,
    /// The metric of its default routes, if it has any.
    pub default_metric: Option<u32>,
    /// The lease of its address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseRecord>,
}

/// A route without a next hop, which the kernel does not tie to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedRoute {
    /// Where it leads to.
    pub destination: IpNet,
    /// Its metric.
    pub metric: u32,
    /// What becomes of packets.
    pub kind: DetachedRouteKind,
}

/// What becomes of packets that a route without a next hop matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetachedRouteKind {
    /// They vanish.
    Blackhole,
    /// They are answered with "host unreachable".
    Unreachable,
    /// They are answered with "administratively prohibited".
    Prohibit,
}

/// One published port or a range of consecutive ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PublishedPort {
    /// The address of the host: none for every address, the unspecified one for a whole family.
    pub host_address: Option<IpAddr>,
    /// The first port on the host.
    pub host_port: u16,
    /// The first port in the container.
    pub container_port: u16,
    /// How many ports, at least one.
    pub count: u16,
    /// Their protocol.
    pub protocol: Protocol,
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Protocol {
    /// Transmission control protocol.
    Tcp,
    /// User datagram protocol.
    Udp,
    /// Stream control transmission protocol.
    Sctp,
}

impl Protocol {
    /// Its name, as nftables and Podman write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number (IANA protocol numbers).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// How a network is closed off from other networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Isolation {
    /// Reaches every network that is not strict.
    None,
    /// Reaches no other isolated network.
    Normal,
    /// Reaches no other network.
    Strict,
}

/// The facts about a network that were in force when its first container came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: NetworkName,
    /// Its bridge.
    pub bridge: InterfaceName,
    /// Whether the bridge is managed; an unmanaged one belongs to somebody else altogether.
    pub managed: bool,
    /// Whether the bridge was made by us or by netavark, and goes with its last container.
    pub owns_bridge: bool,
    /// The file for systemd-sysctl that keeps our settings of the bridge, if there is one.
    pub sysctl_file: Option<String>,
    /// The VRF that the bridge belongs to.
    pub vrf: Option<InterfaceName>,
    /// Whether the network is closed to the outside.
    pub internal: bool,
    /// How it is closed off from other networks.
    pub isolation: Isolation,
    /// Whether it has firewall rules: managed, and a firewall driver other than `none`.
    pub filtered: bool,
    /// Its subnets.
    pub subnets: Vec<SubnetRecord>,
    /// Whether other networks may have the same subnets: it is in a VLAN or in a VRF.
    pub may_overlap: bool,
    /// The source address of outgoing IPv4 traffic instead of the interface's.
    pub outbound_addr4: Option<Ipv4Addr>,
    /// The source address of outgoing IPv6 traffic instead of the interface's.
    pub outbound_addr6: Option<Ipv6Addr>,
    /// Where its resolver answers, if it has one.
    pub dns: Option<DnsRecord>,
    /// Whether the bridge layer hides published ports of `::1` (`bridge-nf-call-ip6tables`).
    pub no_loopback6: bool,
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRecord {
    /// Its network address and prefix length.
    pub subnet: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
}

/// Where the resolver of a network answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// The addresses that containers ask.
    pub listen: Vec<IpAddr>,
    /// The port it is bound to; requests to port 53 are redirected when it is another.
    pub port: u16,
}

/// What a call is about to do; there from before its first change until after its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// What is under way.
    pub action: Action,
    /// The container, with just the attachments that come or go.
    pub container: ContainerRecord,
    /// The networks that come or go with it.
    pub networks: Vec<NetworkRecord>,
}

/// What a call is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Attachments come.
    Setup,
    /// Attachments go.
    Teardown,
}
