//! One change to the host.
//!
//! Steps name what they act on, never by index, so that a list of them can be printed, compared and
//! taken back. `sys::apply` carries a step out and answers with the steps that undo it, or that there
//! was nothing to do.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use wire::names::{ContainerId, InterfaceName, MacAddr};
use wire::state::Protocol;
use wire::zone;

use super::firewall::Change;
use crate::request::{StaticRoute, SublinkKind};

/// In which network namespace a change takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// That of the host, in which we run.
    Host,
    /// That of the container.
    Container,
}

/// One change to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A bridge comes to be.
    CreateBridge(NewBridge),
    /// A pair of veth interfaces comes to be, one in either namespace.
    CreateVeth(NewVeth),
    /// A link on top of one of the host comes to be inside the container.
    CreateSublink(NewSublink),
    /// An interface goes. One on the host goes only if it has this MAC address.
    DeleteLink {
        /// Where.
        side: Side,
        /// Its name.
        name: InterfaceName,
        /// Its MAC address, where the name alone does not prove that it is ours.
        mac: Option<MacAddr>,
    },
    /// A bridge goes, unless something else is attached to it.
    DeleteBridge(InterfaceName),
    /// An interface of the host carries nothing any more, if it has this MAC address.
    SetDown {
        /// Its name.
        name: InterfaceName,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// The last port of a bridge goes, if it has this MAC address, and the bridge with it, unless something else is attached to
    /// it. The kernel waits for nobody to use them any more, once for both.
    DeleteLastPort {
        /// The port.
        name: InterfaceName,
        /// Its MAC address.
        mac: MacAddr,
        /// The bridge.
        bridge: InterfaceName,
    },
    /// A bridge begins to tell VLANs apart.
    FilterVlans(InterfaceName),
    /// A port of a bridge becomes an untagged member of a VLAN, and nothing else's by default.
    SetPortVlan {
        /// The port.
        port: InterfaceName,
        /// The VLAN.
        vlan: u16,
    },
    /// A port of a bridge gets frames back that came in on it.
    SetHairpin(InterfaceName),
    /// An interface gets an address.
    AddAddress {
        /// Where.
        side: Side,
        /// The interface.
        link: InterfaceName,
        /// The address and the prefix length of its subnet.
        address: IpNet,
        /// Whether an IPv6 address is in use at once. Else the kernel makes sure first that nobody has it.
        at_once: bool,
    },
    /// An interface is switched on.
    SetUp {
        /// Where.
        side: Side,
        /// The interface.
        link: InterfaceName,
    },
    /// A kernel setting takes a value.
    Sysctl(Sysctl),
    /// The container gets a default route.
    AddDefaultRoute {
        /// Its interface.
        link: InterfaceName,
        /// The next hop.
        gateway: IpAddr,
        /// The metric.
        metric: u32,
    },
    /// The container gets a route.
    AddRoute(StaticRoute),
    /// The container loses a route.
    DeleteRoute(StaticRoute),
    /// A DHCP server is asked for an address, which is used from then on.
    TakeLease(Lease),
    /// A DHCP server gets an address back.
    GiveBackLease {
        /// The lease.
        lease: Lease,
        /// Whether it is an error if nobody takes it.
        wanted: Wanted,
    },
    /// A program does the work of a driver.
    RunPlugin(PluginRun),
    /// `::1` is also accepted as a destination on a bridge, as `route_localnet` does for 127.0.0.0/8.
    AcceptLoopback6(InterfaceName),
    /// The packet filter changes, in one transaction.
    Firewall(Change),
    /// firewalld, if it runs, lets pass what comes from subnets, or asks about it again.
    Trust {
        /// The subnets.
        subnets: Vec<IpNet>,
        /// Whether it lets it pass.
        trusted: bool,
    },
    /// Connections through these ports of the host are forgotten.
    ForgetConnections(Vec<TrackedPort>),
    /// A file comes to be; an existing one is replaced.
    WriteFile {
        /// Its path.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// A file comes to be unless it exists.
    CreateFile {
        /// Its path.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// A file goes, and directories that it leaves empty.
    RemoveFile {
        /// Its path.
        path: PathBuf,
        /// The directory above which nothing is removed.
        keep: PathBuf,
    },
    /// A container gets names.
    AddNames {
        /// The zone file.
        path: PathBuf,
        /// Its first line, for the case that there is none.
        header: zone::Header,
        /// The container.
        entry: zone::Entry,
    },
    /// A container loses its names.
    RemoveNames {
        /// The zone file.
        path: PathBuf,
        /// The container.
        container: ContainerId,
    },
    /// The DNS responder learns of changes, and is started if it does not run.
    NotifyDns(DnsService),
}

/// A bridge that is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBridge {
    /// Its name.
    pub name: InterfaceName,
    /// Its MAC address. It is given at the beginning so that the bridge never takes that of a port.
    pub mac: MacAddr,
    /// Its MTU, unless it follows its ports.
    pub mtu: Option<u32>,
    /// The VRF that it belongs to.
    pub vrf: Option<InterfaceName>,
    /// Whether it tells VLANs apart.
    pub vlan_filtering: bool,
}

/// A pair of veth interfaces that is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVeth {
    /// The name on the host.
    pub host: InterfaceName,
    /// The MAC address on the host.
    pub host_mac: MacAddr,
    /// The name in the container.
    pub container: InterfaceName,
    /// The MAC address in the container.
    pub container_mac: MacAddr,
    /// The bridge that the host end belongs to.
    pub bridge: InterfaceName,
    /// The MTU of both, unless it is the kernel's.
    pub mtu: Option<u32>,
    /// Whether the name on the host was asked for.
    pub host_name_given: bool,
}

/// A link on top of another one that is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSublink {
    /// Driver and mode.
    pub kind: SublinkKind,
    /// The interface of the host below.
    pub parent: InterfaceName,
    /// The name in the container.
    pub name: InterfaceName,
    /// The name that it gets first if the kernel takes the other one for taken because the host has it.
    pub temporary: Option<InterfaceName>,
    /// The MAC address, unless it is that of the parent.
    pub mac: Option<MacAddr>,
    /// The MTU, unless it is that of the parent.
    pub mtu: Option<u32>,
}

/// An address that a DHCP server is asked for, or gets back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The container, by whose id the server knows it.
    pub container: ContainerId,
    /// The interface inside the container.
    pub interface: InterfaceName,
    /// The interface of the host by which servers are reached.
    pub host_interface: InterfaceName,
    /// The MAC address that asks.
    pub mac: MacAddr,
    /// The host name that the server is told; may be empty.
    pub hostname: String,
    /// The metric of the default route, if there is to be one.
    pub metric: Option<u32>,
    /// Whether an IPv6 address is asked for, too.
    pub v6: bool,
    /// Whether the MTU is the network's and not the server's to say.
    pub keep_mtu: bool,
}

/// A run of a plugin. The path of the namespace is that of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRun {
    /// The name of the driver.
    pub driver: String,
    /// The program, if there is one.
    pub program: Option<PathBuf>,
    /// What it is to do.
    pub verb: PluginVerb,
    /// The document on its standard input.
    pub input: String,
}

/// What a plugin is to do, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginVerb {
    /// Complete a network of its own. It may take as long as the user wants to wait.
    Create,
    /// Attach. The same.
    Setup,
    /// Detach. The same.
    Teardown,
    /// Detach what did not come to be, on behalf of somebody who does not know or did not ask: not for ever.
    TakeBack,
}

impl PluginVerb {
    /// Its name, as plugins are given it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Setup => "setup",
            Self::Teardown | Self::TakeBack => "teardown",
        }
    }
}

/// A kernel setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Where.
    pub side: Side,
    /// Its path below /proc/sys.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Whether networking works without it.
    pub optional: bool,
}

/// A published port of the host whose connections are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrackedPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// How the DNS responder is reached and started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsService {
    /// Its directory.
    pub directory: PathBuf,
    /// The program.
    pub binary: PathBuf,
    /// The port that it is bound to.
    pub port: u16,
    /// Whether it runs on behalf of an ordinary user.
    pub rootless: bool,
    /// Whether it has to run: the last network takes it away.
    pub wanted: Wanted,
}

/// Whether the DNS responder has to run after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Names were added: it must answer, or the change fails.
    Required,
    /// Names were removed: what goes wrong is only logged.
    BestEffort,
}

impl Step {
    /// The file of systemd-sysctl or a setting of the kernel, as text.
    pub(crate) fn sysctl(side: Side, key: String, value: &str) -> Self {
        Self::Sysctl(Sysctl {
            side,
            key,
            value: value.to_owned(),
            optional: false,
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Container => "container",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge(new) => write!(f, "host: create bridge {new}"),
            Self::CreateVeth(new) => write!(f, "host: create veth {new}"),
            Self::CreateSublink(new) => write!(f, "container: create {new}"),
            Self::DeleteLink {
                side,
                name,
                mac: Some(mac),
            } => write!(f, "{side}: delete interface {name} if its MAC is {mac}"),
            Self::DeleteLink {
                side,
                name,
                mac: None,
            } => write!(f, "{side}: delete interface {name}"),
            Self::DeleteBridge(name) => write!(f, "host: delete bridge {name}"),
            Self::SetDown { name, mac } => write!(f, "host: {name} down if its MAC is {mac}"),
            Self::DeleteLastPort { name, mac, bridge } => write!(
                f,
                "host: delete interface {name} if its MAC is {mac}, and with it bridge {bridge}"
            ),
            Self::FilterVlans(bridge) => write!(f, "host: switch on VLAN filtering of {bridge}"),
            Self::SetPortVlan { port, vlan } => {
                write!(f, "host: {port} becomes untagged member of VLAN {vlan}")
            }
            Self::SetHairpin(port) => write!(f, "host: hairpin mode for {port}"),
            Self::AddAddress {
                side,
                link,
                address,
                ..
            } => write!(f, "{side}: address {address} on {link}"),
            Self::SetUp { side, link } => write!(f, "{side}: {link} up"),
            Self::Sysctl(sysctl) => write!(
                f,
                "{}: sysctl {} = {}",
                sysctl.side, sysctl.key, sysctl.value
            ),
            Self::AddDefaultRoute {
                link,
                gateway,
                metric,
            } => write!(
                f,
                "container: default route via {gateway} dev {link} metric {metric}"
            ),
            Self::AddRoute(route) => write!(f, "container: add {route}"),
            Self::DeleteRoute(route) => write!(f, "container: delete {route}"),
            Self::TakeLease(lease) => {
                let by = &lease.host_interface;
                write!(f, "dhcp: address for {lease} by {by}")?;
                match lease.metric {
                    Some(metric) => write!(f, ", default route metric {metric}"),
                    None => f.write_str(", no default route"),
                }
            }
            Self::GiveBackLease { lease, .. } => {
                write!(f, "dhcp: give back the address of {lease}")
            }
            Self::RunPlugin(run) => write!(f, "plugin: {} {}", run.driver, run.verb.name()),
            Self::AcceptLoopback6(bridge) => write!(f, "host: local route ::1 on {bridge}"),
            Self::Firewall(change) => write!(f, "host: {change}"),
            Self::Trust { subnets, trusted } => {
                let verb = if *trusted { "trust" } else { "no longer trust" };
                write!(f, "host: firewalld, if it runs: {verb}")?;
                subnets.iter().try_for_each(|subnet| write!(f, " {subnet}"))
            }
            Self::ForgetConnections(ports) => {
                f.write_str("host: forget tracked connections of")?;
                ports
                    .iter()
                    .try_for_each(|port| write!(f, " {}/{}", port.port, port.protocol.name()))
            }
            Self::WriteFile { path, .. } => write!(f, "file: write {}", path.display()),
            Self::CreateFile { path, .. } => write!(f, "file: create {}", path.display()),
            Self::RemoveFile { path, .. } => write!(f, "file: remove {}", path.display()),
            Self::AddNames { path, entry, .. } => {
                write!(f, "dns: add \"{entry}\" to {}", path.display())
            }
            Self::RemoveNames { path, container } => {
                write!(f, "dns: remove {container} from {}", path.display())
            }
            Self::NotifyDns(service) => {
                write!(f, "dns: reload or start {}", service.binary.display())
            }
        }
    }
}

impl fmt::Display for NewBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with MAC {}", self.name, self.mac)?;
        with(f, "MTU", self.mtu.as_ref())?;
        with(f, "in VRF", self.vrf.as_ref())?;
        if self.vlan_filtering {
            f.write_str(", VLAN filtering")?;
        }
        Ok(())
    }
}

impl fmt::Display for NewVeth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            host_mac,
            container,
            container_mac,
            bridge,
            ..
        } = self;
        write!(
            f,
            "{host} ({host_mac}) on {bridge}, peer {container} ({container_mac}) in the container"
        )?;
        with(f, "MTU", self.mtu.as_ref())
    }
}

impl fmt::Display for NewSublink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}, {}", self.name, self.parent, self.kind)?;
        with(f, "MAC", self.mac.as_ref())?;
        with(f, "MTU", self.mtu.as_ref())
    }
}

/// What is special about a new link.
fn with(f: &mut fmt::Formatter<'_>, what: &str, value: Option<&impl fmt::Display>) -> fmt::Result {
    value
        .iter()
        .try_for_each(|value| write!(f, ", {what} {value}"))
}

/// Who has it.
impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.interface, self.mac)
    }
}

impl fmt::Display for StaticRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use wire::state::DetachedRouteKind as Kind;

        use crate::request::RouteTarget;
        let Self {
            destination,
            target,
            metric,
        } = self;
        match target {
            RouteTarget::Via(gateway) => {
                write!(f, "route {destination} via {gateway} metric {metric}")
            }
            RouteTarget::Detached(Kind::Blackhole) => {
                write!(f, "blackhole route {destination} metric {metric}")
            }
            RouteTarget::Detached(Kind::Unreachable) => {
                write!(f, "unreachable route {destination} metric {metric}")
            }
            RouteTarget::Detached(Kind::Prohibit) => {
                write!(f, "prohibit route {destination} metric {metric}")
            }
        }
    }
}
