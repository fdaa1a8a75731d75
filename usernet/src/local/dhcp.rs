//! DHCP (RFC 2131) and BOOTP (RFC 951), the server's side.
//!
//! There is one client and one address, and the client gets it, whatever it asks for: a refusal would only make it try
//! again. Nothing is remembered, since nothing can run out or change. The lease never ends.
//!
//! The reader is our own and knows three options. Replies are built by hand as well: the crate that `netbackend` uses for
//! its client panics on some malformed options, and this program takes packets from whoever runs in the container.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Handled, frame};
use crate::config::{Config, Family};
use crate::event::Drop;
use crate::limits;
use crate::packet::build::{self, Link};
use crate::packet::{Mac, eth, ip, ndp};

/// Port of the server.
pub(super) const SERVER_PORT: u16 = 67;
/// Port of the client.
const CLIENT_PORT: u16 = 68;

/// Bytes before the options, the magic number not counted.
const FIXED: usize = 236;
/// RFC 2131, 3: what follows are options.
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Options of a BOOTP reply, the magic number counted, have room for so many bytes at least (RFC 951, 3).
const VENDOR_AREA: usize = 64;
/// IP and UDP headers, the fixed part and the magic number: what of a datagram is not options.
const NOT_OPTIONS: usize = 20 + 8 + FIXED + 4;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    hops: u8,
    id: [u8; 4],
    /// The client cannot take a datagram for an address it does not have yet.
    broadcast: bool,
    flags: [u8; 2],
    client: Ipv4Addr,
    relay: [u8; 4],
    hardware: [u8; 16],
    /// None: BOOTP.
    kind: Option<u8>,
    /// Option 80: no second round is wanted.
    rapid: bool,
    /// Option 57: the longest datagram it takes, bytes.
    longest: Option<u16>,
}

/// Answer a message to the server's port.
pub(super) fn handle(config: &Config, link: &Link, message: &[u8]) -> Handled {
    let Some(family) = config.families.v4.as_ref().filter(|_| !config.off.dhcp) else {
        return Handled::Dropped(Drop::Disabled);
    };
    let Some(request) = parse(message) else {
        return Handled::Dropped(Drop::Malformed);
    };
    let Some(lease) = Lease::of(family) else {
        return Handled::Dropped(Drop::Disabled);
    };
    let kind = match request.kind {
        Some(DISCOVER) if request.rapid => ACK,
        Some(DISCOVER) => OFFER,
        Some(REQUEST) | None => ACK,
        Some(_) => return Handled::Silent,
    };
    let reply = reply(config, &lease, &request, kind);
    let (destination, mac): (_, Mac) = if request.broadcast {
        (Ipv4Addr::BROADCAST, eth::BROADCAST)
    } else {
        (lease.address, link.destination)
    };
    let link = Link {
        destination: mac,
        ..*link
    };
    let source = SocketAddr::new(lease.server.into(), SERVER_PORT);
    let destination = SocketAddr::new(destination.into(), CLIENT_PORT);
    let headers = build::udp_complete(&link, source, destination, ip::HOP_LIMIT, &reply);
    Handled::Reply(frame(headers, reply))
}

fn parse(message: &[u8]) -> Option<Request> {
    let fixed = message.first_chunk::<FIXED>()?;
    // A request, from Ethernet.
    if fixed[0] != 1 || fixed[1] != 1 || fixed[2] != 6 {
        return None;
    }
    let mut request = Request {
        hops: fixed[3],
        id: [fixed[4], fixed[5], fixed[6], fixed[7]],
        broadcast: fixed[10] & 0x80 != 0,
        flags: [fixed[10], fixed[11]],
        client: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
        relay: [fixed[24], fixed[25], fixed[26], fixed[27]],
        hardware: *fixed.get(28..)?.first_chunk()?,
        kind: None,
        rapid: false,
        longest: None,
    };
    let options = message.get(FIXED..)?;
    if let Some(options) = options.strip_prefix(&MAGIC) {
        parse_options(options, &mut request);
    }
    Some(request)
}

/// Options up to the end, or up to the first that makes no sense.
fn parse_options(mut options: &[u8], request: &mut Request) {
    while let [code, rest @ ..] = options {
        options = match (code, rest) {
            (0, rest) => rest,
            (255, _) => return,
            (code, [length, rest @ ..]) => {
                let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else {
                    return;
                };
                match (code, value) {
                    (53, [kind]) => request.kind = Some(*kind),
                    (57, [high, low]) => request.longest = Some(u16::from_be_bytes([*high, *low])),
                    (80, []) => request.rapid = true,
                    _ => {}
                }
                rest
            }
            (_, []) => return,
        };
    }
}

/// What the client gets.
#[derive(Debug)]
struct Lease {
    address: Ipv4Addr,
    mask: Ipv4Addr,
    gateway: Ipv4Addr,
    /// The gateway is not in the address's subnet.
    distant: bool,
    server: Ipv4Addr,
}

impl Lease {
    fn of(family: &Family) -> Option<Self> {
        let net = match family.addresses.first()? {
            ipnet::IpNet::V4(net) => net,
            ipnet::IpNet::V6(_) => return None,
        };
        let (IpAddr::V4(gateway), IpAddr::V4(server)) = (family.gateway?, family.ours) else {
            return None;
        };
        Some(Self {
            address: net.addr(),
            mask: net.netmask(),
            gateway,
            distant: !net.contains(&gateway),
            server,
        })
    }
}

fn reply(config: &Config, lease: &Lease, request: &Request, kind: u8) -> Vec<u8> {
    let mut bytes = vec![2, 1, 6, request.hops];
    bytes.extend(request.id);
    bytes.extend([0, 0]);
    bytes.extend(request.flags);
    bytes.extend(request.client.octets());
    bytes.extend(lease.address.octets());
    bytes.extend(lease.server.octets());
    bytes.extend(request.relay);
    bytes.extend(request.hardware);
    bytes.resize(FIXED, 0);
    bytes.extend(MAGIC);
    bytes.extend(options(config, lease, request, kind));
    bytes.push(255);
    bytes.resize(bytes.len().max(FIXED + VENDOR_AREA), 0);
    bytes
}

/// The options, those that must be there first; of the others, what there is room for.
fn options(config: &Config, lease: &Lease, request: &Request, kind: u8) -> Vec<u8> {
    let longest = usize::from(request.longest.unwrap_or_default()).max(576);
    let mut options = Options {
        bytes: Vec::new(),
        // One byte for the end.
        room: (longest - NOT_OPTIONS).min(limits::DHCP_OPTIONS) - 1,
    };
    options.push(53, &[kind]);
    options.push(54, &lease.server.octets());
    options.push(51, &[0xff; 4]);
    options.push(1, &lease.mask.octets());
    options.push(3, &lease.gateway.octets());
    if lease.distant {
        options.push(121, &routes(lease));
    }
    if request.rapid && kind == ACK {
        options.push(80, &[]);
    }
    if let Ok(mtu @ 1..) = u16::try_from(config.link.mtu) {
        options.push(26, &mtu.to_be_bytes());
    }
    options.push_announced(config);
    options.bytes
}

/// Routes for option 121 (RFC 3442), which replaces option 3: the gateway is on the link, everything else is behind it.
fn routes(lease: &Lease) -> Vec<u8> {
    let mut routes = vec![32];
    routes.extend(lease.gateway.octets());
    routes.extend([0; 4]);
    routes.push(0);
    routes.extend(lease.gateway.octets());
    routes
}

struct Options {
    bytes: Vec<u8>,
    room: usize,
}

impl Options {
    /// Add an option if it fits; a long one in pieces (RFC 3396).
    fn push(&mut self, code: u8, value: &[u8]) {
        let pieces = value.len().div_ceil(255).max(1);
        if self.bytes.len() + value.len() + 2 * pieces > self.room {
            return;
        }
        if value.is_empty() {
            self.bytes.extend([code, 0]);
        }
        for piece in value.chunks(255) {
            let length = u8::try_from(piece.len()).expect("chunks of at most 255 bytes");
            self.bytes.extend([code, length]);
            self.bytes.extend(piece);
        }
    }

    fn push_announced(&mut self, config: &Config) {
        let announce = &config.announce;
        let servers: Vec<u8> = announce
            .dns
            .iter()
            .filter_map(|server| match server {
                IpAddr::V4(server) => Some(server.octets()),
                IpAddr::V6(_) => None,
            })
            .flatten()
            .collect();
        if !servers.is_empty() {
            self.push(6, &servers);
        }
        if let Some(name) = announce.hostname.as_deref().filter(|name| !name.is_empty()) {
            self.push(12, name.as_bytes());
        }
        if let Some(name) = announce.fqdn.as_deref().and_then(ndp::domain_name) {
            // RFC 4702, 2: the name is in the form of DNS messages (E); result codes are 255.
            self.push(81, &[&[0x04, 255, 255], &name[..]].concat());
        }
        let domains: Vec<u8> = announce
            .search
            .iter()
            .filter_map(|domain| ndp::domain_name(domain))
            .flatten()
            .collect();
        if !domains.is_empty() {
            self.push(119, &domains);
        }
    }
}
