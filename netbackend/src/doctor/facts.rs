//! What the doctor looks at: what should be (the records) and what is (the host), read once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use wire::names::{ContainerId, MacAddr, NetworkId};
use wire::state::{ContainerRecord, NetworkRecord, Protocol};

use super::packet::Rules;
use super::remedy::Caller;
use crate::gc;
use crate::nft::listing::Chain;
use crate::observed::FirewallDriver;
use crate::plan::firewall::Elements;
use crate::plan::ruleset::Difference;

/// Everything that is looked at.
#[derive(Debug, Clone)]
pub struct Facts {
    /// How we were called.
    pub caller: Caller,
    /// The records of networks that have containers.
    pub networks: BTreeMap<NetworkId, NetworkRecord>,
    /// The records of containers.
    pub containers: Vec<ContainerRecord>,
    /// Files that cannot be read.
    pub damaged: Vec<Damaged>,
    /// What crashed engines and calls have left.
    pub leftovers: Vec<gc::Finding>,
    /// Namespaces on record that are where they were, or somewhere else, by inode.
    pub namespaces: BTreeSet<u64>,
    /// The host's links, addresses and routes.
    pub host: Network,
    /// What is inside of containers that could be looked into, by the inode of their namespace.
    pub inside: BTreeMap<u64, Network>,
    /// Kernel settings, by their names as `sysctl` has them. Those that there are not are missing.
    pub settings: BTreeMap<String, String>,
    /// The packet filter.
    pub filter: Filter,
    /// The DNS responder.
    pub responder: Responder,
    /// Who holds ports of the host that matter.
    pub listeners: Vec<Listener>,
}

/// A file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub why: String,
    /// The containers that it tells of, as far as its name and place say.
    pub containers: Vec<ContainerId>,
}

/// Links, addresses and routes of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Links by name.
    pub links: BTreeMap<String, Link>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// Routes of other tables that rules lead to, of families that have no way outside by the main one.
    pub detours: Vec<Route>,
    /// The numbers of links that `::1` is accepted on.
    pub loopback6: BTreeSet<u32>,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its kind, as the kernel names it.
    pub kind: String,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// Whether it is switched on.
    pub up: bool,
    /// The number of the bridge or VRF that it belongs to.
    pub controller: Option<u32>,
    /// Its MTU in octets.
    pub mtu: u32,
    /// Whether, as a port of a bridge, it gets frames back that came in on it.
    pub hairpin: bool,
    /// Its addresses.
    pub addresses: BTreeSet<IpNet>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads to.
    pub destination: IpNet,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The number of its interface.
    pub interface: Option<u32>,
    /// Its metric.
    pub metric: u32,
    /// Whether the kernel made it, for an address.
    pub by_kernel: bool,
    /// Whether it sends packets nowhere, such as one of type unreachable.
    pub refuses: bool,
}

/// What a look at the packet filter has brought.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Who filters packets, by the records.
    pub driver: FirewallDriver,
    /// Whether rules are written by the program `nft`, which words them differently.
    pub by_program: bool,
    /// Base chains and others, of everybody.
    pub chains: Vec<Chain>,
    /// Rules and sets of everybody.
    pub rules: Rules,
    /// What the records call for.
    pub wanted: Elements,
    /// How the table differs from that, if it is there.
    pub difference: Difference,
    /// Why the kernel does not take our rules, if they are not there and it would not.
    pub refusal: Option<String>,
    /// Whether there is a program `iptables`, whose tables are best changed by itself.
    pub iptables: bool,
    /// Whether firewalld runs; nothing if nobody asked.
    pub firewalld: Option<bool>,
}

/// The DNS responder.
#[derive(Debug, Clone, Default)]
pub struct Responder {
    /// The directory of zone files.
    pub directory: PathBuf,
    /// The program, if it was found.
    pub binary: Option<PathBuf>,
    /// What its pid file says.
    pub pid_file: Option<String>,
    /// The process with that number, if it is a responder of this directory.
    pub process: Option<Process>,
    /// Responders of this directory that the file does not name, in our namespace.
    pub unnamed: Vec<u32>,
    /// Zone files: who is named, or why they cannot be read.
    pub zones: BTreeMap<String, Result<BTreeSet<ContainerId>, String>>,
}

/// The process of a responder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Whether it is stopped (by a signal or a debugger).
    pub stopped: bool,
    /// Whether it is in our network namespace.
    pub here: bool,
}

/// A socket that is bound to a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its address; the unspecified one for all.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Who holds it, if we may know.
    pub holder: Option<Holder>,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// The unit of systemd that it belongs to, if it is a service.
    pub unit: Option<String>,
}

impl Network {
    /// The link with this number.
    #[must_use]
    pub fn by_index(&self, index: u32) -> Option<(&str, &Link)> {
        let mut links = self.links.iter();
        let found = links.find(|(_, link)| link.index == index);
        found.map(|(name, link)| (name.as_str(), link))
    }

    /// The interface of the first default route of a family.
    #[must_use]
    pub fn way_out(&self, v4: bool) -> Option<(&str, &Link)> {
        let default = |route: &&Route| {
            route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4() == v4
        };
        let best = self.routes.iter().filter(default);
        let best = best.min_by_key(|route| route.metric)?;
        self.by_index(best.interface?)
    }
}

impl Network {
    /// Whether packets of a family find a way to most of the world.
    #[must_use]
    pub fn leads_outside(&self, v4: bool) -> bool {
        let mut routes = self.routes.iter().chain(&self.detours);
        routes.any(|route| route.destination.addr().is_ipv4() == v4 && route.is_wide())
    }
}

impl Route {
    /// Whether it is a default route, a part of one, or one of the many that a router may have instead. Subnets of
    /// organisations are narrower, or private.
    fn is_wide(&self) -> bool {
        let prefix_len = self.destination.prefix_len();
        let is_wide = match self.destination.network() {
            IpAddr::V4(address) => prefix_len <= 8 && !address.is_private(),
            // 2000::/3 is what is routed of IPv6.
            IpAddr::V6(address) => {
                prefix_len <= 3 || prefix_len <= 20 && address.segments()[0] & 0xe000 == 0x2000
            }
        };
        is_wide && !self.refuses && (prefix_len == 0 || !self.by_kernel)
    }
}

impl Facts {
    /// A kernel setting as a number.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.trim().parse().ok()
    }

    /// The name of a network, or its id.
    #[must_use]
    pub fn network_name(&self, id: &NetworkId) -> String {
        let network = self.networks.get(id);
        network.map_or_else(|| id.to_string(), |network| network.name.to_string())
    }
}
