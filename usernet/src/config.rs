//! What the user asked for and what the host is like, and everything that follows from both.
//!
//! Two layers: [`crate::cli`] yields what was written; [`Facts`] are what `sys` read of the host (netlink, resolv.conf,
//! kernel settings). A pure function makes the [`Config`] of both, or tells which word is wrong. Nothing downstream
//! looks at options again.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use crate::ports::SpecError;

mod advice;
mod wishes;

mod decide;
pub mod change;
mod report;
mod resolv;

pub use decide::{Decision, decide, rename};
pub use report::changed as report_change;

/// A value for each address family that is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Families<T> {
    /// IPv4.
    pub v4: Option<T>,
    /// IPv6.
    pub v6: Option<T>,
}

impl<T> Default for Families<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T> Families<T> {
    /// The value for the family of an address.
    pub fn of(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(_) => self.v4.as_ref(),
            IpAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// The families that have another value there.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Families<()>
    where
        T: PartialEq,
    {
        Families {
            v4: (self.v4 != other.v4).then_some(()),
            v6: (self.v6 != other.v6).then_some(()),
        }
    }

    /// Sets the value for the family of an address.
    pub fn set(&mut self, address: IpAddr, value: T) {
        match address {
            IpAddr::V4(_) => self.v4 = Some(value),
            IpAddr::V6(_) => self.v6 = Some(value),
        }
    }
}

/// Everything about one run that the forwarder needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The link.
    pub link: Link,
    /// Addresses of each family.
    pub families: Families<Family>,
    /// What is switched off.
    pub off: Off,
    /// What DHCP, DHCPv6 and router advertisements say beyond addresses.
    pub announce: Announce,
    /// What shall be listened on, in both namespaces.
    pub listeners: Vec<Listener>,
    /// Loopback traffic goes from socket to socket.
    pub splice: bool,
    /// No tap at all.
    pub splice_only: bool,
    /// Connections to loopback arrive on the guest's loopback.
    pub loopback_to_loopback: bool,
}

/// The tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name in the guest, 1 to 15 bytes.
    pub name: String,
    /// Our side's link-layer address.
    pub our_mac: [u8; 6],
    /// The guest's, if it shall be set.
    pub guest_mac: Option<[u8; 6]>,
    /// Bytes of an IP packet; 0: as the kernel has it (1500).
    pub mtu: u32,
}

/// Addresses of one family, as the guest has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The guest's addresses, the primary one first. Empty only for IPv6 in local mode.
    pub addresses: Vec<IpNet>,
    /// The guest's default gateway, as shown to it.
    pub gateway: Option<IpAddr>,
    /// Routes of the guest, in the order to add them.
    pub routes: Vec<Route>,
    /// Our own address on the link: sender of what comes from nowhere else (IPv4: the gateway; IPv6: link-local).
    pub ours: IpAddr,
    /// The interface of the host that the addresses come from; none: local mode.
    pub template: Option<String>,
    /// Traffic to this address, port 53 or 853, goes to `dns_host`.
    pub dns_forward: Option<IpAddr>,
    /// The host's name server.
    pub dns_host: Option<IpAddr>,
    /// The guest's name for the host's loopback address.
    pub map_host_loopback: Option<IpAddr>,
    /// The guest's name for the address of the host that equals its own.
    pub map_guest: Option<IpAddr>,
    /// Source address of flows to the host side.
    pub outbound: Option<IpAddr>,
    /// Interface that flows to the host side are bound to.
    pub outbound_interface: Option<String>,
    /// The user gave the address: it is not learnt from the guest's packets.
    pub fixed: bool,
}

impl Family {
    /// The address that the guest was given, if any.
    #[must_use]
    pub fn assigned(&self) -> Option<IpAddr> {
        self.addresses.first().map(IpNet::addr)
    }

    /// Whether the guest has this address, so that it would take who speaks with it for itself.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        let mut addresses = self.addresses.iter();
        addresses.any(|network| network.addr() == address)
    }
}

/// A route of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; prefix length 0: everywhere.
    pub destination: IpNet,
    /// By whom; none: on the link.
    pub gateway: Option<IpAddr>,
    /// Priority; none: the kernel's default.
    pub metric: Option<u32>,
    /// `RTPROT_*`, as the host's route has it.
    pub protocol: u8,
    /// The gateway is on the link whatever the addresses say.
    pub onlink: bool,
}

/// What is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one option of the command line each"
)]
pub struct Off {
    /// `--no-tcp`
    pub tcp: bool,
    /// `--no-udp`
    pub udp: bool,
    /// `--no-icmp`
    pub icmp: bool,
    /// `--no-dhcp`
    pub dhcp: bool,
    /// `--no-ndp`
    pub ndp: bool,
    /// `--no-dhcpv6`
    pub dhcpv6: bool,
    /// `--no-ra`, or the guest is configured by us
    pub ra: bool,
}

/// What DHCP, DHCPv6 and router advertisements say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announce {
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// DHCP option 12.
    pub hostname: Option<String>,
    /// DHCP option 81, DHCPv6 option 39.
    pub fqdn: Option<String>,
}

/// A range of ports that is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens: on the host for published ports, in the guest for `-T` and `-U`.
    pub side: crate::event::Side,
    /// TCP or UDP.
    pub transport: crate::event::Transport,
    /// The address; none: every address of both families.
    pub address: Option<IpAddr>,
    /// The interface.
    pub interface: Option<String>,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// The port that `first` leads to.
    pub target: u16,
    /// The address it leads to; none: the guest's.
    pub target_address: Option<IpAddr>,
    /// Some ports may be taken.
    pub best_effort: bool,
    /// Only while somebody listens on the other side.
    pub follow: bool,
}

/// Everything about one run that the forwarder need not know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one option of the command line each"
)]
pub struct Run {
    /// Whose network.
    pub attach: Attach,
    /// With which privileges.
    pub userns: UserNamespace,
    /// The guest's side is configured by us.
    pub config_net: bool,
    /// No process of our own goes to the background. Always so with a command.
    pub foreground: bool,
    /// The path of the namespace may vanish without ending us.
    pub stay_without_netns: bool,
    /// The command stays in our process namespace.
    pub no_pidns: bool,
    /// `IP_FREEBIND` on listeners.
    pub freebind: bool,
    /// `chroot` where `pivot_root` does not work.
    pub chroot_fallback: bool,
    /// What is told: messages of this level and of worse ones.
    pub verbosity: Level,
    /// The log file, instead of the system's log.
    pub log_file: Option<LogFile>,
    /// Counts of events, at most so often, seconds.
    pub stats: Option<u32>,
    /// Frames are written there.
    pub pcap: Option<PathBuf>,
    /// The process id is written there.
    pub pid_file: Option<PathBuf>,
    /// The control socket.
    pub conf_path: Option<PathBuf>,
    /// Who to be.
    pub run_as: Option<RunAs>,
}

/// Whose network we serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attach {
    /// The network namespace at a path.
    Path(PathBuf),
    /// That of a process.
    Process(u32),
    /// That of a command which we start; no words: a login shell.
    Command(Vec<OsString>),
}

impl Default for Attach {
    fn default() -> Self {
        Self::Command(Vec::new())
    }
}

/// The user namespace that we work in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UserNamespace {
    /// The one we are in.
    #[default]
    Stay,
    /// This one, joined before the network namespace.
    Join(PathBuf),
    /// A new one.
    New,
}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// A person must act.
    Error,
    /// Something does not work as it should.
    Warning,
    /// The life of the program.
    #[default]
    Info,
    /// A line for each decision.
    Debug,
    /// A line for each packet.
    Trace,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub level: Level,
    /// One line.
    pub text: String,
}

/// A log file of bounded size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Where.
    pub path: PathBuf,
    /// Bytes at most.
    pub size: u64,
}

impl LogFile {
    /// The least that it can be bounded to, bytes: the header and a useful number of lines.
    pub const SIZE_MIN: u64 = 40_960;
    /// Its bound if none is given, bytes.
    pub const SIZE_DEFAULT: u64 = 1 << 20;
}

/// A user and a group: numbers or names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// The user.
    pub user: String,
    /// The group; none: the user's.
    pub group: Option<String>,
}

/// Why there is no configuration. The messages are looked for by people and scripts: those that pasta has are its.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the message says it")]
pub enum ConfigError {
    #[error("Invalid {what}: {value}")]
    Invalid { what: &'static str, value: String },
    #[error("Invalid interface name: {0}")]
    InterfaceName(String),
    #[error("Invalid interface name {0}: No such device")]
    NoSuchInterface(String),
    #[error("External interface not usable: {0}")]
    OutboundInterface(String),
    #[error("MTU {0} too large (max {MTU_MAX})")]
    MtuTooLarge(u64),
    #[error("MTU {0} is too small for IPv6 (minimum {MTU_MIN_V6})")]
    MtuTooSmall(u32),
    #[error("Redundant prefix length specification")]
    RedundantLength,
    #[error("Cannot use DNS address {0}")]
    Dns(String),
    #[error("Cannot use DNS search domain {0}")]
    Search(String),
    #[error("{0} is for passt mode only, and virtual machines are not served by this program")]
    Machine(String),
    #[error("{0} needs --config-net")]
    NeedsConfigNet(String),
    #[error("{0} is incompatible with {1}")]
    Incompatible(&'static str, &'static str),
    #[error("Can't display statistics if not running in foreground")]
    StatsInBackground,
    #[error("Both --netns and PID or command given")]
    NetnsAndRest,
    #[error("IPv6 is not available in this kernel, but nothing else was asked for (-6)")]
    NoIpv6,
    #[error(transparent)]
    Ports(#[from] SpecError),
    #[error("{error}\n{option}: {advice}")]
    Advised {
        error: Box<Self>,
        option: String,
        advice: String,
    },
}

/// Bytes of the largest IP packet if nothing is said: what fits an Ethernet frame of 65535 bytes, in whole words of 32
/// bits.
pub const MTU_DEFAULT: u32 = 65_520;
/// The most that can be asked for.
pub const MTU_MAX: u32 = 65_521;
/// The least that IPv4 works with.
pub const MTU_MIN_V4: u32 = 68;
/// The least that IPv6 works with: below it the kernel takes IPv6 away from the interface.
pub const MTU_MIN_V6: u32 = 1280;
/// Our link-layer address if nothing is said: locally administered.
pub const OUR_MAC_DEFAULT: [u8; 6] = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];
/// The interface's name in local mode.
pub const LOCAL_NAME: &str = "tap0";

/// What the host is like, as far as a run depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Interfaces of the host.
    pub links: Vec<HostLink>,
    /// Addresses, in the order of the kernel.
    pub addresses: Vec<HostAddress>,
    /// Routes of the main table, in the order of the kernel.
    pub routes: Vec<HostRoute>,
    /// The text of the host's resolv.conf.
    pub resolv_conf: Vec<u8>,
    /// The kernel's range of ephemeral ports.
    pub ephemeral: Option<(u16, u16)>,
    /// The kernel has IPv6.
    pub ipv6: bool,
}

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Link-layer address, if it has six bytes.
    pub mac: Option<[u8; 6]>,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// It is the loopback interface.
    pub loopback: bool,
}

/// An address of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// Its interface.
    pub link: u32,
    /// Address and prefix length.
    pub address: IpNet,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// Deprecated.
    pub deprecated: bool,
    /// How long it has been there, if the kernel says so.
    pub age: Option<Duration>,
}

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Where to.
    pub destination: IpNet,
    /// By whom.
    pub gateway: Option<IpAddr>,
    /// The interface it leaves by; of several next hops the first one's.
    pub link: Option<u32>,
    /// It has several next hops; `gateway` is that of the highest weight.
    pub multipath: bool,
    /// Priority.
    pub metric: Option<u32>,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTNH_F_ONLINK` is set.
    pub onlink: bool,
}

/// The address of the guest in local mode, IPv4.
pub const LOCAL_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 2, 1), 16);
/// The gateway in local mode, IPv4.
pub const LOCAL_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 2);
/// The gateway in local mode, IPv6.
pub const LOCAL_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// An endpoint as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guest(pub SocketAddr);

/// An endpoint as the host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(pub SocketAddr);
