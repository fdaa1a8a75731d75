//! DHCP for IPv4: RFC 2131, options of RFC 2132, routes of RFC 3442.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use ipnet::Ipv4Net;
use wire::names::MacAddr;
use wire::proxy::LeasedRoute;

use super::{
    Action, Destination, Dice, Event, Identity, MAX_LISTED, Moment, Outgoing, Server, Terms, sieve,
    times,
};

/// The first retransmission. RFC 2131 says 4 s, which would leave just one within the 8 s that a caller waits.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// What grows with each refusal in a row, to about a minute. Servers may offer one address to several clients at once and
/// then refuse all but one, so the first few refusals cost little.
const FIRST_PAUSE: Duration = Duration::from_millis(125);
/// The longest time between retransmissions.
const LONGEST_RETRY: Duration = Duration::from_secs(64);
/// The shortest time between retransmissions while there is a lease (RFC 2131, 4.4.5).
const SHORTEST_RENEWAL: Duration = Duration::from_secs(60);
/// How often an offer is asked for before others are looked for.
const REQUESTS: u32 = 4;
/// How often a lease of a former process is asked for before it is trusted.
const REBOOTS: u32 = 3;
/// What fits into a frame of 1500 bytes.
const LARGEST_MESSAGE: u16 = 1472;
/// Shares of the lifetime, in permille, that T1 and T2 are by default (RFC 2131, 4.4.5).
const SHARES: [u64; 2] = [500, 875];

/// What is asked for; routes before gateways, as RFC 3442 has it.
const WANTED: [OptionCode; 10] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::Hostname,
    OptionCode::DomainName,
    OptionCode::InterfaceMtu,
    OptionCode::BroadcastAddr,
    OptionCode::NtpServers,
    OptionCode::AddressLeaseTime,
];

/// One lease.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    dice: Dice,
    xid: u32,
    /// When the exchange began, for the server to see how long we have waited.
    began: Moment,
    /// Refusals in a row.
    refusals: u32,
    phase: Phase,
}

#[derive(Debug, Clone)]
enum Phase {
    /// INIT and SELECTING: looking for a server.
    Search(Retry),
    /// REQUESTING: an offer is asked for. Of its terms only address and server are known.
    Request {
        offer: Terms,
        sent: Moment,
        retry: Retry,
    },
    /// REBOOTING: the lease of a former process is asked for.
    Reboot {
        terms: Terms,
        sent: Moment,
        retry: Retry,
    },
    Bound(Terms),
    Renew {
        terms: Terms,
        sent: Moment,
        next: Moment,
    },
    Rebind {
        terms: Terms,
        sent: Moment,
        next: Moment,
    },
}

#[derive(Debug, Clone)]
struct Retry {
    tries: u32,
    next: Moment,
}

impl Retry {
    fn at(next: Moment) -> Self {
        Self { tries: 0, next }
    }

    /// Counts a transmission and sets the time of the next one.
    fn sent(&mut self, now: Moment, dice: &mut Dice) {
        let pause = FIRST_RETRY * 2u32.saturating_pow(self.tries.min(5));
        self.next = now.saturating_add(dice.about(pause.min(LONGEST_RETRY)));
        self.tries = self.tries.saturating_add(1);
    }
}

impl Client {
    /// A client that looks for a server at once.
    #[must_use]
    pub fn new(identity: Identity, now: Moment, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            identity,
            xid: dice.number(),
            dice,
            began: now,
            refusals: 0,
            phase: Phase::Search(Retry::at(now)),
        }
    }

    /// A client that goes on with the lease of a former process.
    #[must_use]
    pub fn resume(identity: Identity, terms: Terms, now: Moment, seed: u64) -> Self {
        let mut client = Self::new(identity, now, seed);
        client.phase = Phase::Reboot {
            terms,
            sent: now,
            retry: Retry::at(now),
        };
        client
    }

    /// When it wants to be woken.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        match &self.phase {
            Phase::Search(retry) | Phase::Request { retry, .. } => retry.next,
            Phase::Reboot { retry, terms, .. } => retry.next.min(terms.expiry()),
            Phase::Bound(terms) => terms.renewal(),
            Phase::Renew { next, terms, .. } => (*next).min(terms.rebinding()),
            Phase::Rebind { next, terms, .. } => (*next).min(terms.expiry()),
        }
    }

    /// Whether it waits for an answer.
    #[must_use]
    pub fn listens(&self) -> bool {
        !matches!(self.phase, Phase::Bound(_))
    }

    /// The lease that it holds.
    #[must_use]
    pub fn terms(&self) -> Option<&Terms> {
        match &self.phase {
            Phase::Search(_) | Phase::Request { .. } => None,
            Phase::Reboot { terms, .. }
            | Phase::Bound(terms)
            | Phase::Renew { terms, .. }
            | Phase::Rebind { terms, .. } => Some(terms),
        }
    }

    /// Lets something happen.
    pub fn handle(&mut self, now: Moment, event: Event<'_>) -> Vec<Action> {
        match event {
            Event::Wake if now < self.deadline() => Vec::new(),
            Event::Wake => self.wake(now),
            Event::Received { from, payload } => match self.understood(payload) {
                Some((kind, message)) => self.received(now, from, kind, &message),
                None => Vec::new(),
            },
        }
    }

    fn wake(&mut self, now: Moment) -> Vec<Action> {
        if self.terms().is_some_and(|terms| now >= terms.expiry()) {
            return self.lose(now, "the lease has ended");
        }
        match self.phase.clone() {
            Phase::Search(retry) => self.discover(now, retry),
            Phase::Request { retry, .. } if retry.tries >= REQUESTS => {
                self.search(now);
                self.discover(now, Retry::at(now))
            }
            Phase::Request { offer, retry, .. } => self.request(now, offer, retry),
            Phase::Reboot { terms, retry, .. } if retry.tries >= REBOOTS => {
                self.phase = Phase::Bound(terms);
                if now >= self.deadline() {
                    self.wake(now)
                } else {
                    Vec::new()
                }
            }
            Phase::Reboot { terms, retry, .. } => self.reboot(now, terms, retry),
            Phase::Bound(terms) => {
                self.xid = self.dice.number();
                self.began = now;
                self.extend(now, terms)
            }
            Phase::Renew { terms, .. } | Phase::Rebind { terms, .. } => self.extend(now, terms),
        }
    }

    fn search(&mut self, now: Moment) {
        self.xid = self.dice.number();
        self.began = now;
        self.phase = Phase::Search(Retry::at(now));
    }

    /// Begins anew: at once, but later and later when servers keep refusing what they have offered.
    fn lose(&mut self, now: Moment, why: &'static str) -> Vec<Action> {
        let had_lease = self.terms().is_some();
        self.search(now);
        let mut actions = Vec::new();
        if had_lease {
            actions.push(Action::Lost(why));
        }
        if self.refusals > 1 {
            let pause = FIRST_PAUSE * 2u32.saturating_pow(self.refusals.min(9));
            let next = now.saturating_add(self.dice.about(pause));
            self.phase = Phase::Search(Retry::at(next));
        } else {
            actions.extend(self.discover(now, Retry::at(now)));
        }
        actions
    }

    fn discover(&mut self, now: Moment, mut retry: Retry) -> Vec<Action> {
        // Some servers and switches are heard only one way: every other time we ask for a broadcast.
        let broadcast = retry.tries % 2 == 1;
        retry.sent(now, &mut self.dice);
        self.phase = Phase::Search(retry);
        let mut message = self.message(now, MessageType::Discover, Ipv4Addr::UNSPECIFIED);
        if broadcast {
            message.set_flags(Flags::default().set_broadcast());
        }
        send(&message, everybody(Ipv4Addr::UNSPECIFIED))
    }

    fn request(&mut self, now: Moment, offer: Terms, mut retry: Retry) -> Vec<Action> {
        let broadcast = retry.tries % 2 == 1;
        retry.sent(now, &mut self.dice);
        let mut message = self.message(now, MessageType::Request, Ipv4Addr::UNSPECIFIED);
        let options = message.opts_mut();
        options.insert(DhcpOption::RequestedIpAddress(v4(&offer)));
        options.insert(DhcpOption::ServerIdentifier(offer.server.address));
        if broadcast {
            message.set_flags(Flags::default().set_broadcast());
        }
        self.phase = Phase::Request {
            offer,
            sent: now,
            retry,
        };
        send(&message, everybody(Ipv4Addr::UNSPECIFIED))
    }

    fn reboot(&mut self, now: Moment, terms: Terms, mut retry: Retry) -> Vec<Action> {
        retry.sent(now, &mut self.dice);
        let mut message = self.message(now, MessageType::Request, Ipv4Addr::UNSPECIFIED);
        let address = v4(&terms);
        message
            .opts_mut()
            .insert(DhcpOption::RequestedIpAddress(address));
        self.phase = Phase::Reboot {
            terms,
            sent: now,
            retry,
        };
        send(&message, everybody(Ipv4Addr::UNSPECIFIED))
    }

    /// Renews or rebinds, as the time is.
    fn extend(&mut self, now: Moment, terms: Terms) -> Vec<Action> {
        let address = v4(&terms);
        let message = self.message(now, MessageType::Request, address);
        let rebinds = now >= terms.rebinding();
        let until = if rebinds {
            terms.expiry()
        } else {
            terms.rebinding()
        };
        let half = until.saturating_sub(now) / 2;
        let next = now.saturating_add(self.dice.about(half.max(SHORTEST_RENEWAL)));
        let server = &terms.server;
        let to = Destination::Server {
            source: address,
            address: server.address,
            mac: server.mac,
        };
        let sent = now;
        if rebinds {
            self.phase = Phase::Rebind { terms, sent, next };
            send(&message, everybody(address))
        } else {
            self.phase = Phase::Renew { terms, sent, next };
            send(&message, to)
        }
    }

    fn received(
        &mut self,
        now: Moment,
        from: MacAddr,
        kind: MessageType,
        message: &Message,
    ) -> Vec<Action> {
        match (self.phase.clone(), kind) {
            (Phase::Search(_), MessageType::Offer) => match offer(message, from, now) {
                Some(offer) => {
                    let mut actions = vec![Action::Chosen(Box::new(offer.clone()))];
                    actions.extend(self.request(now, offer, Retry::at(now)));
                    actions
                }
                None => Vec::new(),
            },
            (Phase::Request { offer, sent, .. }, MessageType::Ack) => {
                if server_of(message) == Some(offer.server.address) {
                    self.bind(from, message, sent)
                } else {
                    Vec::new()
                }
            }
            (
                Phase::Reboot { sent, .. } | Phase::Renew { sent, .. } | Phase::Rebind { sent, .. },
                MessageType::Ack,
            ) => self.bind(from, message, sent),
            (Phase::Request { offer, .. }, MessageType::Nak) => {
                if server_of(message) == Some(offer.server.address) {
                    self.refusals = self.refusals.saturating_add(1);
                    self.lose(now, "the server refused the address")
                } else {
                    Vec::new()
                }
            }
            (
                Phase::Reboot { .. } | Phase::Renew { .. } | Phase::Rebind { .. },
                MessageType::Nak,
            ) => {
                self.refusals = self.refusals.saturating_add(1);
                self.lose(now, "the server refused the address")
            }
            _ => Vec::new(),
        }
    }

    fn bind(&mut self, from: MacAddr, message: &Message, since: Moment) -> Vec<Action> {
        let Some(terms) = terms_of(message, from, since) else {
            return Vec::new();
        };
        self.refusals = 0;
        self.phase = Phase::Bound(terms.clone());
        vec![Action::Bound(Box::new(terms))]
    }

    /// A message of a server to us.
    fn understood(&self, payload: &[u8]) -> Option<(MessageType, Message)> {
        let sound = sieve::v4(payload)?;
        let message = Message::decode(&mut Decoder::new(&sound)).ok()?;
        let for_us = message.opcode() == Opcode::BootReply
            && message.xid() == self.xid
            && message.chaddr() == self.identity.mac.0;
        let kind = message.opts().msg_type()?;
        for_us.then_some((kind, message))
    }

    fn message(&self, now: Moment, kind: MessageType, own: Ipv4Addr) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message =
            Message::new_with_id(self.xid, own, none, none, none, &self.identity.mac.0);
        let waited = now.saturating_sub(self.began).as_secs();
        message.set_secs(u16::try_from(waited).unwrap_or(u16::MAX));
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        // Type 0: not a hardware address.
        let id = std::iter::once(0).chain(self.identity.container.bytes().take(254));
        options.insert(DhcpOption::ClientIdentifier(id.collect()));
        if kind != MessageType::Release {
            options.insert(DhcpOption::MaxMessageSize(LARGEST_MESSAGE));
            options.insert(DhcpOption::ParameterRequestList(WANTED.to_vec()));
            if !self.identity.host_name.is_empty() {
                options.insert(DhcpOption::Hostname(self.identity.host_name.clone()));
            }
        }
        message
    }

    /// Gives the lease back, or what has been asked for.
    #[must_use]
    pub fn release(mut self) -> Option<Outgoing> {
        let terms = if let Phase::Request { offer, .. } = &self.phase {
            offer.clone()
        } else {
            self.terms()?.clone()
        };
        self.xid = self.dice.number();
        self.began = Moment::ZERO;
        let address = v4(&terms);
        let mut message = self.message(Moment::ZERO, MessageType::Release, address);
        let server = &terms.server;
        message
            .opts_mut()
            .insert(DhcpOption::ServerIdentifier(server.address));
        let to = Destination::Server {
            source: address,
            address: server.address,
            mac: server.mac,
        };
        Some(Outgoing {
            to,
            payload: message.to_vec().ok()?,
        })
    }
}

fn everybody(source: Ipv4Addr) -> Destination {
    Destination::Servers { source }
}

fn send(message: &Message, to: Destination) -> Vec<Action> {
    // What we write ourselves has no field that is too long.
    let payload = message.to_vec().ok();
    payload
        .map(|payload| Action::Send(Outgoing { to, payload }))
        .into_iter()
        .collect()
}

fn v4(terms: &Terms) -> Ipv4Addr {
    match terms.address.addr() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn is_usable(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

fn offered(message: &Message) -> Option<Ipv4Addr> {
    Some(message.yiaddr()).filter(|address| is_usable(*address))
}

fn offer(message: &Message, from: MacAddr, now: Moment) -> Option<Terms> {
    let server = Server {
        address: server_of(message)?,
        mac: from,
        duid: Vec::new(),
    };
    let address = IpAddr::V4(offered(message)?);
    Some(Terms::unconfirmed(address.into(), server, now))
}

fn server_of(message: &Message) -> Option<Ipv4Addr> {
    let option = message.opts().get(OptionCode::ServerIdentifier)?;
    pick!(option, DhcpOption::ServerIdentifier(address) => *address)
        .filter(|address| is_usable(*address))
}

/// The value of an option, if it is there and of this form.
macro_rules! option {
    ($message:expr, $code:ident) => {
        match $message.opts().get(OptionCode::$code) {
            Some(DhcpOption::$code(value)) => Some(value.clone()),
            _ => None,
        }
    };
}

fn terms_of(message: &Message, from: MacAddr, since: Moment) -> Option<Terms> {
    let address = offered(message)?;
    let server = server_of(message)?;
    let lifetime = option!(message, AddressLeaseTime).filter(|lifetime| *lifetime > 0)?;
    let (t1, t2) = times(
        lifetime,
        option!(message, Renewal).unwrap_or_default(),
        option!(message, Rebinding).unwrap_or_default(),
        SHARES,
    );
    let prefix = match option!(message, SubnetMask) {
        Some(mask) => ipnet::ipv4_mask_to_prefix(mask)
            .ok()
            .filter(|prefix| *prefix > 0)?,
        None => default_prefix(address),
    };
    let (gateways, routes) = routes_of(message);
    let servers = |list: Option<Vec<Ipv4Addr>>| {
        let list = list
            .unwrap_or_default()
            .into_iter()
            .filter(|address| is_usable(*address));
        list.take(MAX_LISTED).map(IpAddr::V4).collect()
    };
    Some(Terms {
        address: Ipv4Net::new(address, prefix).ok()?.into(),
        gateways,
        routes,
        // RFC 2132, 5.1.
        mtu: option!(message, InterfaceMtu)
            .filter(|mtu| *mtu >= 68)
            .map(u32::from),
        dns: servers(option!(message, DomainNameServer)),
        ntp: servers(option!(message, NtpServers)),
        domain: text(option!(message, DomainName)),
        host_name: text(option!(message, Hostname)),
        broadcast: option!(message, BroadcastAddr),
        next_server: message.siaddr(),
        server: Server {
            address: server,
            mac: from,
            duid: Vec::new(),
        },
        since,
        t1,
        t2,
        lifetime,
    })
}

/// Gateways and other routes. Where routes are given, gateways of the older option do not count (RFC 3442).
fn routes_of(message: &Message) -> (Vec<IpAddr>, Vec<LeasedRoute>) {
    let Some(list) = option!(message, ClasslessStaticRoute) else {
        let gateways = option!(message, Router).unwrap_or_default().into_iter();
        let gateways = gateways
            .filter(|address| is_usable(*address))
            .take(MAX_LISTED);
        return (gateways.map(IpAddr::V4).collect(), Vec::new());
    };
    let (mut gateways, mut routes) = (Vec::new(), Vec::new());
    for (destination, gateway) in list.into_iter().take(MAX_LISTED) {
        if destination.prefix_len() == 0 {
            gateways.extend(is_usable(gateway).then_some(IpAddr::V4(gateway)));
        } else {
            routes.push(LeasedRoute {
                destination: destination.trunc().into(),
                gateway: is_usable(gateway).then_some(IpAddr::V4(gateway)),
            });
        }
    }
    (gateways, routes)
}

/// A name without what would mean something in a file of names.
fn text(name: Option<String>) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-._".contains(*c);
    name.unwrap_or_default()
        .chars()
        .filter(is_plain)
        .take(255)
        .collect()
}

/// The prefix length of an address without a mask, by its class.
fn default_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        192.. => 24,
    }
}
