//! The client side of DHCP for IPv4 and IPv6, on behalf of a container's interface. Pure: time and packets come in,
//! packets and leases go out.
//!
//! # Theory of operation
//!
//! A [`Client`] is one lease, from the search for a server until it is given back. It is driven by
//! [`Client::handle`]: by [`Event::Wake`] when [`Client::deadline`] has come, and by [`Event::Received`] for each
//! payload that came in. It answers with [`Action`]s. Moments are durations since any fixed moment in the past, so
//! a test can make years pass.
//!
//! ```text
//!            ┌────────────── NAK, expiry: Lost ◀─────────────┬───────────┐
//!            ▼                                               │           │
//!  start ─▶ search ─offer: Chosen─▶ request ─ACK: Bound─▶ bound ─T1─▶ renew ─T2─▶ rebind
//!                                     ▲                    ▲ ▲────ACK┴───────────┘
//!                           resume ─▶ reboot ──ACK, silence┘
//! ```
//!
//! Between `Chosen` and `Bound` the server may have leased the address although we do not know: who dies then leaves
//! a lease behind unless it has written down what was chosen. It can be given back without being confirmed.
//!
//! Where IPv4 and IPv6 differ: IPv4 asks anew for the address of a lease that a former process held (INIT-REBOOT of
//! RFC 2131), and goes on with it when nobody answers; IPv6 renews it at once (RFC 8415, 18.2.4), which has the same
//! effect. IPv4 packets are whole frames, since there is no address yet to send them from ([`frame`]); IPv6 has its
//! link-local addresses.
//!
//! Whatever is wrong with a packet makes it no answer: it is dropped and the next retransmission is due as before.
//! Retransmissions are spread by a few percent, from a seed, so that a hundred clients of one broken server do not
//! ask in step.
//!
//! Not implemented: the client does not probe whether an IPv4 address is in use (servers do), hence no DECLINE; no
//! temporary addresses, no prefixes, no authentication and no reconfiguration by the server.

pub mod frame;
pub mod record;
mod sieve;
pub mod v4;
pub mod v6;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use wire::names::MacAddr;
use wire::proxy::{Lease, LeasedRoute};

/// Time since some fixed moment in the past.
pub type Moment = Duration;

/// Seconds that mean "for ever" in both protocols.
pub const FOREVER: u32 = u32::MAX;

/// How many servers, gateways or routes are taken from one message.
const MAX_LISTED: usize = 16;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The MAC address of the container.
    pub mac: MacAddr,
    /// The id of the container.
    pub container: String,
    /// Its name, to tell the server; empty for none.
    pub host_name: String,
}

/// What happens to a client.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The deadline has come.
    Wake,
    /// A payload came in.
    Received {
        /// The MAC address of its sender.
        from: MacAddr,
        /// The payload of the UDP datagram.
        payload: &'a [u8],
    },
}

/// What a client wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An address is about to be asked for. From the moment in which that is sent, its server may hold it leased.
    Chosen(Box<Terms>),
    /// A payload is to be sent.
    Send(Outgoing),
    /// There is a lease, a new one or the same once more.
    Bound(Box<Terms>),
    /// The lease is over.
    Lost(&'static str),
}

/// A payload and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub to: Destination,
    /// The payload of a UDP datagram.
    pub payload: Vec<u8>,
}

/// Where a payload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To all servers on the link.
    Servers {
        /// The address to send from; unspecified if there is none yet.
        source: Ipv4Addr,
    },
    /// To one server (IPv4 only).
    Server {
        /// The address to send from.
        source: Ipv4Addr,
        /// Its address.
        address: Ipv4Addr,
        /// The MAC address that leads to it.
        mac: MacAddr,
    },
}

/// What a server has leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The address and the prefix length of its subnet.
    pub address: IpNet,
    /// Default gateways.
    pub gateways: Vec<IpAddr>,
    /// Other routes.
    pub routes: Vec<LeasedRoute>,
    /// The MTU of the link.
    pub mtu: Option<u32>,
    /// Resolvers.
    pub dns: Vec<IpAddr>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
    /// The domain of the network.
    pub domain: String,
    /// The name that the server has for the container.
    pub host_name: String,
    /// The broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// The next server, which the message names besides its sender.
    pub next_server: Ipv4Addr,
    /// Who leased it.
    pub server: Server,
    /// When it was asked for.
    pub since: Moment,
    /// Seconds until it is renewed.
    pub t1: u32,
    /// Seconds until any server is asked.
    pub t2: u32,
    /// Seconds until it ends.
    pub lifetime: u32,
}

/// Who leased an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its IPv4 address; unspecified for IPv6.
    pub address: Ipv4Addr,
    /// The MAC address that leads to it.
    pub mac: MacAddr,
    /// Its identifier for IPv6.
    pub duid: Vec<u8>,
}

impl Terms {
    /// What it takes to give back an address that was asked for, without word from the server whether it was leased.
    fn unconfirmed(address: IpNet, server: Server, since: Moment) -> Self {
        Self {
            address,
            gateways: Vec::new(),
            routes: Vec::new(),
            mtu: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            domain: String::new(),
            host_name: String::new(),
            broadcast: None,
            next_server: Ipv4Addr::UNSPECIFIED,
            server,
            since,
            t1: 0,
            t2: 0,
            lifetime: 0,
        }
    }

    fn after(&self, seconds: u32) -> Moment {
        if seconds == FOREVER {
            Moment::MAX
        } else {
            self.since
                .saturating_add(Duration::from_secs(seconds.into()))
        }
    }

    /// When it is to be renewed.
    #[must_use]
    pub fn renewal(&self) -> Moment {
        self.after(self.t1)
    }

    /// When any server is to be asked.
    #[must_use]
    pub fn rebinding(&self) -> Moment {
        self.after(self.t2)
    }

    /// When it ends.
    #[must_use]
    pub fn expiry(&self) -> Moment {
        self.after(self.lifetime)
    }

    /// Whether the container notices a change from the one to the other.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        self.address != other.address
            || self.gateways.first() != other.gateways.first()
            || self.routes != other.routes
            || self.mtu != other.mtu
    }

    /// In the words of the proxy.
    #[must_use]
    pub fn lease(&self, mac: MacAddr) -> Lease {
        let texts = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect();
        let v4 = |address: Ipv4Addr| {
            if self.address.addr().is_ipv6() {
                String::new()
            } else {
                address.to_string()
            }
        };
        Lease {
            t1: self.t1,
            t2: self.t2,
            lease_time: self.lifetime,
            mtu: self.mtu.unwrap_or_default(),
            domain_name: self.domain.clone(),
            mac_address: mac.to_string(),
            is_v6: self.address.addr().is_ipv6(),
            siaddr: v4(self.next_server),
            yiaddr: self.address.addr().to_string(),
            srv_id: v4(self.server.address),
            subnet_mask: match self.address {
                IpNet::V4(net) => net.netmask().to_string(),
                IpNet::V6(net) => net.prefix_len().to_string(),
            },
            broadcast_addr: self
                .broadcast
                .map(|address| address.to_string())
                .unwrap_or_default(),
            dns_servers: texts(&self.dns),
            gateways: texts(&self.gateways),
            ntp_servers: texts(&self.ntp),
            host_name: self.host_name.clone(),
            obeyed: false,
        }
    }

    /// From the words of the proxy, with what they leave out. None if there is no address in them.
    #[must_use]
    pub fn from_lease(
        lease: &Lease,
        routes: Vec<LeasedRoute>,
        server_mac: MacAddr,
        duid: Vec<u8>,
        since: Moment,
    ) -> Option<Self> {
        let addresses =
            |list: &[String]| list.iter().filter_map(|text| text.parse().ok()).collect();
        Some(Self {
            address: lease.address()?,
            gateways: addresses(&lease.gateways),
            routes,
            mtu: Some(lease.mtu).filter(|mtu| *mtu != 0),
            dns: addresses(&lease.dns_servers),
            ntp: addresses(&lease.ntp_servers),
            domain: lease.domain_name.clone(),
            host_name: lease.host_name.clone(),
            broadcast: lease.broadcast_addr.parse().ok(),
            next_server: lease.siaddr.parse().unwrap_or(Ipv4Addr::UNSPECIFIED),
            server: Server {
                address: lease.srv_id.parse().unwrap_or(Ipv4Addr::UNSPECIFIED),
                mac: server_mac,
                duid,
            },
            since,
            t1: lease.t1,
            t2: lease.t2,
            lifetime: lease.lease_time,
        })
    }
}

/// A client of either protocol.
#[derive(Debug)]
pub enum Client {
    /// For IPv4.
    V4(v4::Client),
    /// For IPv6.
    V6(v6::Client),
}

impl Client {
    /// Lets something happen.
    pub fn handle(&mut self, now: Moment, event: Event<'_>) -> Vec<Action> {
        match self {
            Self::V4(client) => client.handle(now, event),
            Self::V6(client) => client.handle(now, event),
        }
    }

    /// When it wants to be woken.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        match self {
            Self::V4(client) => client.deadline(),
            Self::V6(client) => client.deadline(),
        }
    }

    /// Whether it waits for an answer: else packets need not be received.
    #[must_use]
    pub fn listens(&self) -> bool {
        match self {
            Self::V4(client) => client.listens(),
            Self::V6(client) => client.listens(),
        }
    }

    /// The lease that it holds.
    #[must_use]
    pub fn terms(&self) -> Option<&Terms> {
        match self {
            Self::V4(client) => client.terms(),
            Self::V6(client) => client.terms(),
        }
    }

    /// Gives the lease back, or an address that was asked for, and is at an end. What it returns is to be sent.
    #[must_use]
    pub fn release(self) -> Option<Outgoing> {
        match self {
            Self::V4(client) => client.release(),
            Self::V6(client) => client.release(),
        }
    }
}

/// T1 and T2 as the server names them, if they make sense; else these shares (in permille) of the lifetime.
fn times(lifetime: u32, t1: u32, t2: u32, shares: [u64; 2]) -> (u32, u32) {
    if 0 < t1 && t1 <= t2 && t2 <= lifetime {
        return (t1, t2);
    }
    if lifetime == FOREVER {
        return (FOREVER, FOREVER);
    }
    let share =
        |permille: u64| u32::try_from(u64::from(lifetime) * permille / 1000).unwrap_or(FOREVER);
    (share(shares[0]), share(shares[1]))
}

/// Numbers that are as good as random for spreading packets: not for secrets.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// xorshift64*, by Marsaglia and Vigna.
    fn number(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let [_, _, _, _, high @ ..] = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
        u32::from_le_bytes(high)
    }

    /// A duration within a tenth of this one.
    fn about(&mut self, duration: Duration) -> Duration {
        duration * (900 + self.number() % 201) / 1000
    }
}

#[cfg(test)]
mod tests;
