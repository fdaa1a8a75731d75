//! What planning may know about the host.
//!
//! The values here are facts, read once under the lock by `sys::observe` and never again: a plan is a
//! function of the request and of these. Only what the request touches is looked at, so that the size
//! of the host does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use wire::names::{InterfaceName, MacAddr, NetworkId};
use wire::state::{ContainerRecord, NetworkRecord};

/// What the command line and the environment say about the call.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The state directory of the engine.
    pub config: PathBuf,
    /// Whether the engine runs as an ordinary user: no files outside the state directory.
    pub rootless: bool,
    /// The DNS responder.
    pub dns_binary: PathBuf,
    /// The port that the DNS responder is bound to.
    pub dns_port: u16,
    /// Who filters packets.
    pub firewall: FirewallDriver,
    /// Where plugins are looked for, in this order.
    pub plugin_directories: Vec<PathBuf>,
}

/// Who filters and translates packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirewallDriver {
    /// Rules in the kernel, table `inet netavark`.
    Nftables,
    /// firewalld, by its zones and policies.
    Firewalld,
    /// Nobody.
    None,
}

impl FirewallDriver {
    /// Its name, as it stands in the state directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Firewalld => "firewalld",
            Self::None => "none",
        }
    }
}

/// The facts for a call of `setup`.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The namespace of the container.
    pub netns: Netns,
    /// The wanted bridges that exist.
    pub bridges: BTreeMap<InterfaceName, BridgeLink>,
    /// The wanted VRFs that exist.
    pub vrfs: BTreeMap<InterfaceName, LinkKind>,
    /// The MTU of the interface of the default route, by the VRF whose table was read (or none).
    pub default_mtu: BTreeMap<Option<InterfaceName>, u32>,
    /// Interfaces whose IPv6 default route comes from router advertisements, which the kernel stops to
    /// accept once it forwards. Only if forwarding is still off and a new bridge needs it.
    pub advertised: BTreeSet<InterfaceName>,
    /// Records of the wanted networks that have containers, and of those that the container is on.
    pub networks: BTreeMap<NetworkId, NetworkRecord>,
    /// Further networks that use a wanted bridge.
    pub bridge_peers: Vec<NetworkRecord>,
    /// The record of the container, if it is attached to something already.
    pub container: Option<ContainerRecord>,
    /// Wanted networks that netavark left state files of.
    pub netavark_networks: BTreeSet<NetworkId>,
    /// Those of the wanted parents of links that exist, with their MAC addresses.
    pub parents: BTreeMap<InterfaceName, MacAddr>,
    /// The interface of the default route; only if a network wants a parent and does not say which.
    pub default_parent: Option<InterfaceName>,
    /// Wanted names of links on top of others that the container has already.
    pub taken: BTreeSet<InterfaceName>,
    /// The programs of the wanted drivers that there are, by name.
    pub plugins: BTreeMap<String, PathBuf>,
    /// Names for the host ends of the new veth pairs, one for each attachment to a bridge.
    pub veth_names: Vec<InterfaceName>,
    /// Entropy for MAC addresses, three times six octets for each attachment.
    pub entropy: Vec<[[u8; 6]; 3]>,
    /// The state of the packet filter.
    pub table: TableState,
    /// Whether the DNS responder is installed.
    pub dns_available: bool,
    /// Whether systemd runs, whose sysctl service would override our settings of a new interface.
    pub systemd: bool,
    /// Whether bridged packets pass through the packet filter.
    pub bridge_filter: BridgeFilter,
}

/// The namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    /// The path that the engine gave.
    pub path: String,
    /// Its inode in nsfs.
    pub inode: u64,
}

/// The kind of a link, as the kernel names it (`IFLA_INFO_KIND`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkKind(pub String);

/// A link that has the name of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeLink {
    /// What it is.
    pub kind: LinkKind,
    /// Its MTU in octets.
    pub mtu: u32,
    /// Whether it tells VLANs apart.
    pub vlan_filtering: bool,
    /// Its addresses other than link-local ones.
    pub addresses: Vec<IpAddr>,
}

/// The state of table `inet netavark`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableState {
    /// It has our rules; only elements come and go.
    Sound,
    /// It is not there, is another's, or has lost rules: all of it is written anew.
    Unsound,
}

/// Whether br_netfilter passes bridged packets to the packet filter (`net.bridge.bridge-nf-call-*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgeFilter {
    /// IPv4 packets.
    pub ipv4: bool,
    /// IPv6 packets.
    pub ipv6: bool,
}

/// The facts for a call of `teardown`.
#[derive(Debug, Clone)]
pub struct TeardownObserved {
    /// The record of the container, if there is one.
    pub container: Option<ContainerRecord>,
    /// Records of the networks that the container is on and of the networks to leave.
    pub networks: BTreeMap<NetworkId, NetworkRecord>,
    /// Those of them, and of netavark's, that other containers are attached to.
    pub shared_networks: BTreeSet<NetworkId>,
    /// Further networks that use a bridge of these.
    pub bridge_peers: Vec<NetworkRecord>,
    /// Networks to leave on which netavark attached this container.
    pub netavark_attached: BTreeSet<NetworkId>,
    /// Whether networks other than these have containers.
    pub other_networks: bool,
    /// Whether the namespace of the container is still there.
    pub netns_alive: bool,
    /// The state of the packet filter.
    pub table: TableState,
    /// The programs of drivers of networks to leave, by name.
    pub plugins: BTreeMap<String, PathBuf>,
    /// The zone files that exist.
    pub zone_files: BTreeSet<String>,
}
