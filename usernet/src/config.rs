//! What the user asked for and what the host is like, and everything that follows from both.
//!
//! Two layers: [`crate::cli`] yields what was written; [`Facts`] are what `sys` read of the host (netlink, resolv.conf,
//! kernel settings). A pure function makes the [`Config`] of both, or tells which word is wrong. Nothing downstream
//! looks at options again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// A value for each address family that is on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Families<T> {
    /// IPv4.
    pub v4: Option<T>,
    /// IPv6.
    pub v6: Option<T>,
}

impl<T> Families<T> {
    /// The value for the family of an address.
    pub fn of(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(_) => self.v4.as_ref(),
            IpAddr::V6(_) => self.v6.as_ref(),
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
