//! DHCP for IPv6: RFC 8415, one address (IA_NA) for each client. Routes come from router advertisements, not from here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, NtpSuboption, ORO, OptionCode,
    Status,
};
use dhcproto::{Decodable, Decoder, Encodable};
use ipnet::Ipv6Net;
use wire::names::MacAddr;

use super::{
    Action, Destination, Dice, Event, Identity, MAX_LISTED, Moment, Outgoing, Server, Terms, sieve,
    times,
};

/// The port of clients.
pub const CLIENT_PORT: u16 = 546;
/// The port of servers.
pub const SERVER_PORT: u16 = 547;
/// All servers and relay agents on the link.
pub const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// First and longest time between transmissions (RFC 8415, 7.6).
type Pace = (Duration, Duration);
const SOLICIT: Pace = (Duration::from_secs(1), Duration::from_secs(3600));
const REQUEST: Pace = (Duration::from_secs(1), Duration::from_secs(30));
const RENEW: Pace = (Duration::from_secs(10), Duration::from_secs(600));
const REBIND: Pace = (Duration::from_secs(10), Duration::from_secs(600));
/// How often an advertised address is asked for.
const REQUESTS: u32 = 10;
/// The preference of a server that need not be compared with others.
const FOREMOST: u8 = 255;
/// Shares of the preferred lifetime, in permille, that T1 and T2 are by default (RFC 8415, 21.4).
const SHARES: [u64; 2] = [500, 800];
/// Our identifier is made of the MAC address (DUID-LL, hardware type Ethernet), so that an administrator can know
/// it beforehand.
const DUID_LL: [u8; 4] = [0, 3, 0, 1];

/// One lease.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    dice: Dice,
    xid: u32,
    phase: Phase,
}

#[derive(Debug, Clone)]
enum Phase {
    Search {
        best: Option<Advertised>,
        retry: Retry,
    },
    Request {
        from: Advertised,
        retry: Retry,
    },
    Bound(Terms),
    Renew {
        terms: Terms,
        retry: Retry,
    },
    Rebind {
        terms: Terms,
        retry: Retry,
    },
}

#[derive(Debug, Clone)]
struct Advertised {
    preference: u8,
    duid: Vec<u8>,
    address: Ipv6Addr,
}

impl Advertised {
    fn terms(&self, now: Moment) -> Terms {
        let server = Server {
            address: Ipv4Addr::UNSPECIFIED,
            mac: MacAddr([0; 6]),
            duid: self.duid.clone(),
        };
        Terms::unconfirmed(IpAddr::V6(self.address).into(), server, now)
    }
}

/// Retransmission as in RFC 8415, 15.
#[derive(Debug, Clone)]
struct Retry {
    began: Moment,
    tries: u32,
    pause: Duration,
    sent: Moment,
    next: Moment,
}

impl Retry {
    fn at(now: Moment) -> Self {
        Self {
            began: now,
            tries: 0,
            pause: Duration::ZERO,
            sent: now,
            next: now,
        }
    }

    fn sent(&mut self, now: Moment, (first, longest): Pace, dice: &mut Dice) {
        let pause = if self.tries == 0 {
            first
        } else {
            self.pause * 2
        };
        self.pause = dice.about(pause.min(longest));
        self.tries = self.tries.saturating_add(1);
        self.sent = now;
        self.next = now.saturating_add(self.pause);
    }
}

impl Client {
    /// A client that looks for a server at once.
    #[must_use]
    pub fn new(identity: Identity, now: Moment, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            identity,
            xid: dice.number() & 0xff_ffff,
            dice,
            phase: Phase::Search {
                best: None,
                retry: Retry::at(now),
            },
        }
    }

    /// A client that goes on with the lease of a former process: it renews it at once.
    #[must_use]
    pub fn resume(identity: Identity, terms: Terms, now: Moment, seed: u64) -> Self {
        let mut client = Self::new(identity, now, seed);
        client.phase = Phase::Renew {
            terms,
            retry: Retry::at(now),
        };
        client
    }

    /// When it wants to be woken.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        match &self.phase {
            Phase::Search { retry, .. } | Phase::Request { retry, .. } => retry.next,
            Phase::Bound(terms) => terms.renewal(),
            Phase::Renew { terms, retry } => retry.next.min(terms.rebinding()),
            Phase::Rebind { terms, retry } => retry.next.min(terms.expiry()),
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
            Phase::Search { .. } | Phase::Request { .. } => None,
            Phase::Bound(terms) | Phase::Renew { terms, .. } | Phase::Rebind { terms, .. } => {
                Some(terms)
            }
        }
    }

    /// Lets something happen.
    pub fn handle(&mut self, now: Moment, event: Event<'_>) -> Vec<Action> {
        match event {
            Event::Wake if now < self.deadline() => Vec::new(),
            Event::Wake => self.wake(now),
            Event::Received { from, payload } => match self.understood(payload) {
                Some(message) => self.received(now, from, &message),
                None => Vec::new(),
            },
        }
    }

    fn wake(&mut self, now: Moment) -> Vec<Action> {
        if self.terms().is_some_and(|terms| now >= terms.expiry()) {
            return self.lose(now, "the lease has ended");
        }
        match self.phase.clone() {
            // The first pause is for servers to be compared in.
            Phase::Search {
                best: Some(best), ..
            } => self.ask(now, best),
            Phase::Search { best: None, retry } => self.solicit(now, retry),
            Phase::Request { retry, .. } if retry.tries >= REQUESTS => self.lose(now, ""),
            Phase::Request { from, retry } => self.request(now, from, retry),
            Phase::Bound(terms) => {
                self.xid = self.dice.number() & 0xff_ffff;
                self.extend(now, terms, Retry::at(now))
            }
            Phase::Renew { terms, .. } if now >= terms.rebinding() => {
                self.xid = self.dice.number() & 0xff_ffff;
                self.extend(now, terms, Retry::at(now))
            }
            Phase::Renew { terms, retry } | Phase::Rebind { terms, retry } => {
                self.extend(now, terms, retry)
            }
        }
    }

    fn lose(&mut self, now: Moment, why: &'static str) -> Vec<Action> {
        let had_lease = self.terms().is_some();
        self.xid = self.dice.number() & 0xff_ffff;
        let mut actions = Vec::new();
        if had_lease {
            actions.push(Action::Lost(why));
        }
        actions.extend(self.solicit(now, Retry::at(now)));
        actions
    }

    fn solicit(&mut self, now: Moment, mut retry: Retry) -> Vec<Action> {
        retry.sent(now, SOLICIT, &mut self.dice);
        let message = self.message(now, &retry, MessageType::Solicit, None, None);
        self.phase = Phase::Search { best: None, retry };
        send(&message)
    }

    fn ask(&mut self, now: Moment, from: Advertised) -> Vec<Action> {
        self.xid = self.dice.number() & 0xff_ffff;
        let mut actions = vec![Action::Chosen(Box::new(from.terms(now)))];
        actions.extend(self.request(now, from, Retry::at(now)));
        actions
    }

    fn request(&mut self, now: Moment, from: Advertised, mut retry: Retry) -> Vec<Action> {
        retry.sent(now, REQUEST, &mut self.dice);
        let message = self.message(
            now,
            &retry,
            MessageType::Request,
            Some(&from.duid),
            Some(from.address),
        );
        self.phase = Phase::Request { from, retry };
        send(&message)
    }

    fn extend(&mut self, now: Moment, terms: Terms, mut retry: Retry) -> Vec<Action> {
        let address = Some(v6(&terms));
        if now >= terms.rebinding() {
            retry.sent(now, REBIND, &mut self.dice);
            let message = self.message(now, &retry, MessageType::Rebind, None, address);
            self.phase = Phase::Rebind { terms, retry };
            send(&message)
        } else {
            retry.sent(now, RENEW, &mut self.dice);
            let duid = Some(terms.server.duid.as_slice());
            let message = self.message(now, &retry, MessageType::Renew, duid, address);
            self.phase = Phase::Renew { terms, retry };
            send(&message)
        }
    }

    fn received(&mut self, now: Moment, from: MacAddr, message: &Message) -> Vec<Action> {
        let Some(duid) = server_of(message) else {
            return Vec::new();
        };
        match (self.phase.clone(), message.msg_type()) {
            (Phase::Search { best, retry }, MessageType::Advertise) => {
                self.advertised(now, duid, message, best, retry)
            }
            (Phase::Request { from: asked, retry }, MessageType::Reply) if asked.duid == duid => {
                match self.terms_of(message, from, retry.sent) {
                    Ok(terms) => self.bind(terms),
                    // The first pause keeps us from asking a server that cannot do better in a loop.
                    Err(Refusal::Address) => {
                        self.phase = Phase::Search {
                            best: None,
                            retry: Retry {
                                next: retry.next.max(now),
                                ..Retry::at(now)
                            },
                        };
                        Vec::new()
                    }
                    Err(Refusal::Message) => Vec::new(),
                }
            }
            (
                Phase::Renew { terms, retry } | Phase::Rebind { terms, retry },
                MessageType::Reply,
            ) => match self.terms_of(message, from, retry.sent) {
                Ok(terms) => self.bind(terms),
                Err(Refusal::Address) => self.refused(now, duid, &terms),
                Err(Refusal::Message) => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn advertised(
        &mut self,
        now: Moment,
        duid: Vec<u8>,
        message: &Message,
        best: Option<Advertised>,
        retry: Retry,
    ) -> Vec<Action> {
        let Ok(terms) = self.terms_of(message, MacAddr([0; 6]), now) else {
            return Vec::new();
        };
        let preference = match message.opts().get(OptionCode::Preference) {
            Some(DhcpOption::Preference(preference)) => *preference,
            _ => 0,
        };
        let new = Advertised {
            preference,
            duid,
            address: v6(&terms),
        };
        if preference == FOREMOST || retry.tries > 1 {
            return self.ask(now, new);
        }
        let best = best
            .filter(|best| best.preference >= preference)
            .unwrap_or(new);
        self.phase = Phase::Search {
            best: Some(best),
            retry,
        };
        Vec::new()
    }

    /// A server that does not know our lease (any more) is asked for the same address anew; one that denies it to us
    /// takes it away.
    fn refused(&mut self, now: Moment, duid: Vec<u8>, terms: &Terms) -> Vec<Action> {
        let mut actions = vec![Action::Lost("the server refused the address")];
        let from = Advertised {
            preference: 0,
            duid,
            address: v6(terms),
        };
        actions.extend(self.ask(now, from));
        actions
    }

    fn bind(&mut self, terms: Terms) -> Vec<Action> {
        self.phase = Phase::Bound(terms.clone());
        vec![Action::Bound(Box::new(terms))]
    }

    fn duid(&self) -> Vec<u8> {
        [&DUID_LL[..], &self.identity.mac.0].concat()
    }

    /// The number of our address at the server: one for each MAC address.
    fn iaid(&self) -> u32 {
        let [_, _, low @ ..] = self.identity.mac.0;
        u32::from_be_bytes(low)
    }

    fn understood(&self, payload: &[u8]) -> Option<Message> {
        let sound = sieve::v6(payload)?;
        let message = Message::decode(&mut Decoder::new(&sound)).ok()?;
        let for_us = message.xid_num() == self.xid
            && matches!(message.opts().get(OptionCode::ClientId), Some(DhcpOption::ClientId(duid)) if *duid == self.duid());
        for_us.then_some(message)
    }

    fn message(
        &self,
        now: Moment,
        retry: &Retry,
        kind: MessageType,
        server: Option<&[u8]>,
        address: Option<Ipv6Addr>,
    ) -> Message {
        let mut message = Message::new(kind);
        message.set_xid_num(self.xid);
        let mut inner = DhcpOptions::new();
        if let Some(addr) = address {
            inner.insert(DhcpOption::IAAddr(IAAddr {
                addr,
                preferred_life: 0,
                valid_life: 0,
                opts: DhcpOptions::new(),
            }));
        }
        // In hundredths of a second.
        let elapsed = now.saturating_sub(retry.began).as_millis() / 10;
        let options = message.opts_mut();
        options.insert(DhcpOption::ClientId(self.duid()));
        if let Some(duid) = server {
            options.insert(DhcpOption::ServerId(duid.to_vec()));
        }
        options.insert(DhcpOption::ElapsedTime(
            u16::try_from(elapsed).unwrap_or(u16::MAX),
        ));
        options.insert(DhcpOption::IANA(IANA {
            id: self.iaid(),
            t1: 0,
            t2: 0,
            opts: inner,
        }));
        if kind != MessageType::Release {
            let opts = vec![
                OptionCode::DomainNameServers,
                OptionCode::DomainSearchList,
                OptionCode::NtpServer,
            ];
            options.insert(DhcpOption::ORO(ORO { opts }));
        }
        message
    }

    fn terms_of(&self, message: &Message, from: MacAddr, since: Moment) -> Result<Terms, Refusal> {
        refusal(message.opts())?;
        let associations = message.opts().iter();
        let association = associations
            .filter_map(|option| pick!(option, DhcpOption::IANA(association) => association))
            .find(|association| association.id == self.iaid())
            .ok_or(Refusal::Address)?;
        refusal(&association.opts)?;
        let leased = association.opts.iter();
        let leased = leased
            .filter_map(|option| pick!(option, DhcpOption::IAAddr(leased) => leased))
            .find(|leased| is_usable(leased))
            .ok_or(Refusal::Address)?;
        let lifetime = leased.valid_life;
        let (t1, t2) = (association.t1, association.t2);
        let (t1, t2) = if t1 == 0 || t2 == 0 {
            times(leased.preferred_life.max(1), t1, t2, SHARES)
        } else {
            times(lifetime, t1, t2, SHARES)
        };
        let address = Ipv6Net::new(leased.addr, 128).map_err(|_| Refusal::Message)?;
        Ok(Terms {
            address: address.into(),
            gateways: Vec::new(),
            routes: Vec::new(),
            mtu: None,
            dns: resolvers(message.opts()),
            ntp: time_servers(message.opts()),
            domain: domain(message.opts()),
            host_name: String::new(),
            broadcast: None,
            next_server: Ipv4Addr::UNSPECIFIED,
            server: Server {
                address: Ipv4Addr::UNSPECIFIED,
                mac: from,
                duid: server_of(message).unwrap_or_default(),
            },
            since,
            t1: t1.max(1),
            t2: t2.max(1),
            lifetime,
        })
    }

    /// Gives the lease back, or what has been asked for.
    #[must_use]
    pub fn release(mut self) -> Option<Outgoing> {
        let terms = if let Phase::Request { from, .. } = &self.phase {
            from.terms(Moment::ZERO)
        } else {
            self.terms()?.clone()
        };
        self.xid = self.dice.number() & 0xff_ffff;
        let retry = Retry::at(Moment::ZERO);
        let duid = Some(terms.server.duid.as_slice());
        let message = self.message(
            Moment::ZERO,
            &retry,
            MessageType::Release,
            duid,
            Some(v6(&terms)),
        );
        Some(Outgoing {
            to: everybody(),
            payload: message.to_vec().ok()?,
        })
    }
}

/// Why an answer has no lease in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// There is none for us.
    Address,
    /// The answer as a whole is of no use, for now.
    Message,
}

fn refusal(options: &DhcpOptions) -> Result<(), Refusal> {
    let Some(DhcpOption::StatusCode(code)) = options.get(OptionCode::StatusCode) else {
        return Ok(());
    };
    let denied = [Status::NoAddrsAvail, Status::NoBinding, Status::NotOnLink];
    if denied.contains(&code.status) {
        Err(Refusal::Address)
    } else if code.status == Status::Success {
        Ok(())
    } else {
        Err(Refusal::Message)
    }
}

fn everybody() -> Destination {
    Destination::Servers {
        source: Ipv4Addr::UNSPECIFIED,
    }
}

fn send(message: &Message) -> Vec<Action> {
    // What we write ourselves has no field that is too long.
    let payload = message.to_vec().ok();
    let to = everybody();
    payload
        .map(|payload| Action::Send(Outgoing { to, payload }))
        .into_iter()
        .collect()
}

fn v6(terms: &Terms) -> Ipv6Addr {
    match terms.address.addr() {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    }
}

fn is_usable(leased: &IAAddr) -> bool {
    let address = leased.addr;
    let lasts = leased.valid_life > 0 && leased.preferred_life <= leased.valid_life;
    lasts
        && !(address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_unicast_link_local())
}

fn server_of(message: &Message) -> Option<Vec<u8>> {
    let option = message.opts().get(OptionCode::ServerId)?;
    // RFC 8415, 11.1: at most 130 octets.
    let duid = pick!(option, DhcpOption::ServerId(duid) => duid)?;
    (1..=130).contains(&duid.len()).then(|| duid.clone())
}

fn resolvers(options: &DhcpOptions) -> Vec<IpAddr> {
    match options.get(OptionCode::DomainNameServers) {
        Some(DhcpOption::DomainNameServers(list)) => list
            .iter()
            .take(MAX_LISTED)
            .copied()
            .map(IpAddr::V6)
            .collect(),
        _ => Vec::new(),
    }
}

fn time_servers(options: &DhcpOptions) -> Vec<IpAddr> {
    let Some(DhcpOption::NtpServer(list)) = options.get(OptionCode::NtpServer) else {
        return Vec::new();
    };
    let addresses = list.iter().filter_map(|server| match server {
        NtpSuboption::ServerAddress(address) | NtpSuboption::MulticastAddress(address) => {
            Some(IpAddr::V6(*address))
        }
        NtpSuboption::FQDN(_) => None,
    });
    addresses.take(MAX_LISTED).collect()
}

fn domain(options: &DhcpOptions) -> String {
    match options.get(OptionCode::DomainSearchList) {
        Some(DhcpOption::DomainSearchList(list)) => {
            let first = list.first().map(ToString::to_string).unwrap_or_default();
            first.trim_end_matches('.').to_owned()
        }
        _ => String::new(),
    }
}
