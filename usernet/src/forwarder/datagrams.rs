//! Datagrams and echoes: finding their flow, making it, ending it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::counting::Fortune;
use super::{Forwarder, Kind, Live};
use crate::addr::{self, Guest, Host};
use crate::config::Listener;
use crate::event::{
    Drop, Errno, Failure, FlowId, Headers, Limited, ListenerId, Offload, Output, Payload, Report,
    Segments, Side, SocketId, Span, Transport,
};
use crate::flow::{Class, Tuple};
use crate::icmp as echo;
use crate::limits;
use crate::names;
use crate::packet::build::Link;
use crate::packet::{Mac, icmp, ip, udp};
use crate::sharers::Port;
use crate::sources::Source;
use crate::udp::{Delivery, Flow, Opened, Relay, Sending};

/// Where the payload of the guest's packet is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// In the arena, from here on.
    Arena(u32),
    /// Nowhere that lasts.
    Ours,
}

impl Place {
    /// What lies `offset` bytes behind the beginning.
    fn payload(self, bytes: &[u8], offset: u32) -> Payload {
        match self {
            _ if bytes.is_empty() => Payload::None,
            Self::Arena(at) => Payload::Span(Span {
                at: at.wrapping_add(offset),
                len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            }),
            Self::Ours => Payload::Bytes(bytes.to_vec()),
        }
    }
}

/// Datagrams that arrived at a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrivals<'a> {
    pub listener: ListenerId,
    pub spans: &'a [Span],
    pub arena: &'a [u8],
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub ttl: Option<u8>,
}

/// Datagrams that arrived at a flow's socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub spans: &'a [Span],
    pub arena: &'a [u8],
    pub peer: SocketAddr,
    pub ttl: Option<u8>,
}

/// What a packet of the guest says.
#[derive(Debug)]
struct Said {
    tuple: Tuple,
    sending: Sending,
    /// Of an echo request.
    sequence: u16,
}

impl<'a> Arrivals<'a> {
    fn received(&self) -> Received<'a> {
        Received {
            spans: self.spans,
            arena: self.arena,
            peer: self.peer,
            ttl: self.ttl,
        }
    }
}

impl Forwarder {
    /// A part of a datagram of the guest.
    pub(super) fn fragment(
        &mut self,
        now: Instant,
        mac: Mac,
        packet: &ip::Packet<'_>,
    ) -> Result<(), Drop> {
        if !matches!(packet.protocol, ip::UDP | ip::ICMP | ip::ICMPV6) && packet.source.is_ipv4() {
            return Err(Drop::Fragment);
        }
        let Some(whole) = self.fragments.add(now, packet)? else {
            return Ok(());
        };
        let (protocol, payload) = match packet.source.is_ipv6() {
            true => {
                let transport = ip::transport(whole.protocol, &whole.payload)?;
                if transport.fragment.is_some() {
                    return Err(Drop::Malformed);
                }
                (transport.protocol, transport.payload)
            }
            false => (whole.protocol, &whole.payload[..]),
        };
        let packet = ip::Packet {
            protocol,
            hop_limit: whole.hop_limit,
            fragment: None,
            payload,
            ..*packet
        };
        self.datagram(now, mac, &packet, Place::Ours, Offload::default())
    }

    /// A whole packet of the guest that is not TCP, nor for the link itself.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        mac: Mac,
        packet: &ip::Packet<'_>,
        place: Place,
        offload: Offload,
    ) -> Result<(), Drop> {
        let said = match packet.protocol {
            ip::UDP if self.off.udp => return Err(Drop::Disabled),
            ip::ICMP | ip::ICMPV6 if self.off.icmp => return Err(Drop::Disabled),
            ip::UDP => self.udp(packet, place, offload)?,
            ip::ICMP | ip::ICMPV6 => icmp(packet, place)?,
            _ => return Err(Drop::Protocol),
        };
        if let Some(id) = self.send(now, said)? {
            self.heard_from(id, mac);
        }
        Ok(())
    }

    fn udp(
        &mut self,
        packet: &ip::Packet<'_>,
        place: Place,
        offload: Offload,
    ) -> Result<Said, Drop> {
        let (header, payload) = udp::parse(packet.payload)?;
        if !udp::fits(packet, header, offload) {
            return Err(Drop::Checksum);
        }
        if header.source == 0 {
            return Err(Drop::Source);
        }
        if header.destination == 0 {
            return Err(Drop::Destination);
        }
        let (from, to) = (header.source, header.destination);
        let tuple = if self.is_group(packet.destination) {
            self.group_tuple(packet, from, to)?
        } else {
            tuple(packet, from, to, Transport::Udp)?
        };
        let segment = match offload.segments {
            Segments::Udp(size) if size > 0 && payload.len() > usize::from(size) => Some(size),
            Segments::Udp(_) | Segments::Tcp(_) | Segments::One => None,
        };
        let sending = Sending {
            header: Headers::new(),
            data: place.payload(payload, 8),
            segment,
            ttl: packet.hop_limit,
        };
        Ok(Said {
            tuple,
            sending,
            sequence: 0,
        })
    }

    /// Send what the guest says on its flow, which may be a new one; none: there is no room for it.
    fn send(&mut self, now: Instant, said: Said) -> Result<Option<FlowId>, Drop> {
        let Said {
            tuple,
            sending,
            sequence,
        } = said;
        let id = match self.find(now, &tuple) {
            Some(id) => id,
            None => match self.begin(now, tuple)? {
                Some(id) => id,
                None => return Ok(None),
            },
        };
        if let Some(Live {
            kind: Kind::Datagram(flow),
            ..
        }) = self.flows.get_mut(id)
        {
            flow.send(now, id, &mut self.out, sending);
            flow.sequence = sequence;
            if let Some(waits) = &mut flow.asks {
                *waits = true;
                self.resolvers.asked(now, flow.to().0.ip());
            }
            self.flows.touch(id, now);
        }
        Ok(Some(id))
    }

    /// The flow of the guest's packet. One that asks a name server which does not answer gives way to a new one, and so
    /// does one whose socket is of a link that the host does not have any more.
    fn find(&mut self, now: Instant, tuple: &Tuple) -> Option<FlowId> {
        let id = self.flows.find(tuple)?;
        let flow = self.flow(id)?;
        let (waits, server) = (flow.asks == Some(true), flow.to().0.ip());
        let left = flow.is_of_a_link() && flow.era != self.era;
        if left || waits && self.resolvers.has_better(now, tuple.far.0.ip(), server) {
            self.end_datagrams(id);
            return None;
        }
        Some(id)
    }

    /// A flow of the guest; none: there is no room.
    fn begin(&mut self, now: Instant, tuple: Tuple) -> Result<Option<FlowId>, Drop> {
        let group = tuple.transport == Transport::Udp && self.is_group(tuple.far.0.ip());
        let to = match group {
            true => Some(Host(tuple.far.0)),
            false => self.to_host(now, tuple.far, tuple.transport),
        };
        let to = to.ok_or(Drop::Destination)?;
        let any = match to.0 {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let mut local = self.translation.outbound(to).unwrap_or(any);
        if !self.unanswered.one_more(now) {
            return Err(Drop::Unanswered);
        }
        let source = self.source(&tuple, to);
        local.set_port(source.port);
        if !self.make_room(now, Class::Datagram) {
            return Ok(None);
        }
        let mut flow = match group {
            true => Flow::to_group(now, tuple, local, source.shared),
            false => Flow::from_guest(now, tuple, to, local, source.shared),
        };
        let asks = self.translation.is_names(tuple.far, tuple.transport);
        flow.asks = asks.then_some(false);
        Ok(Some(self.keep(flow, now)))
    }

    /// The port that a new flow of the guest leaves by.
    fn source(&self, tuple: &Tuple, to: Host) -> Source {
        let guest = tuple.guest.0;
        if tuple.transport != Transport::Udp {
            return Source {
                port: guest.port(),
                shared: false,
            };
        }
        let published = self.listeners.iter().find_map(|listener| {
            let ours = listener.side == Side::Host && listener.transport == Transport::Udp;
            let offset = guest.port().checked_sub(listener.target)?;
            let port = listener.first.checked_add(offset)?;
            (ours && port <= listener.last).then_some(port)
        });
        self.sources.choose(guest, to.0, published)
    }

    fn keep(&mut self, mut flow: Flow, now: Instant) -> FlowId {
        flow.era = self.era;
        let (tuple, deadline) = (*flow.tuple(), flow.deadline());
        let live = Live::new(Kind::Datagram(flow), Class::Datagram);
        self.counters.count(live.kind.counter(Fortune::Made));
        let id = self.flows.insert(now, Some(tuple), Class::Datagram, live);
        self.deadlines.set(id.index, deadline);
        let connect = self.flow(id).and_then(|flow| flow.connect(id));
        self.out.extend(connect);
        id
    }

    fn flow(&self, id: FlowId) -> Option<&Flow> {
        match &self.flows.get(id)?.kind {
            Kind::Datagram(flow) => Some(flow),
            Kind::Tcp(_) | Kind::Splice(_) | Kind::Relay(_) | Kind::Member(_) => None,
        }
    }

    /// The shell has answered; false: not about a flow of datagrams.
    pub(super) fn datagram_opened(
        &mut self,
        socket: SocketId,
        result: Result<SocketAddr, Errno>,
    ) -> bool {
        let flow = match self.flows.get_mut(socket.flow).map(|live| &mut live.kind) {
            Some(Kind::Datagram(flow)) => flow,
            Some(Kind::Relay(_) | Kind::Member(_)) => {
                if let Err(error) = result {
                    self.lacks_socket(socket, error);
                }
                return true;
            }
            Some(Kind::Tcp(_) | Kind::Splice(_)) | None => return false,
        };
        let opened = flow.opened(socket.flow, &mut self.out, result);
        let (tuple, to, source) = (*flow.tuple(), flow.to().0, flow.source());
        if let Some(source) = source {
            if flow.is_group() {
                let flows = self.loops.entry(source).or_default();
                *flows = flows.saturating_add(1);
            }
            if tuple.transport == Transport::Udp {
                if !flow.is_inbound() {
                    self.sources.opened(tuple.guest.0, to, source.port());
                }
                self.share((Side::Host, source.port()), socket.flow);
            }
        } else if let (Opened::Failed, Err(error)) = (opened, result) {
            self.unopened(socket, error);
        }
        true
    }

    /// A relay or a member of a group has no socket. A relay can do with another port.
    fn lacks_socket(&mut self, socket: SocketId, error: Errno) {
        let again = match self.flows.get_mut(socket.flow).map(|live| &mut live.kind) {
            Some(Kind::Relay(relay)) => relay.connect_again(socket, error),
            Some(Kind::Datagram(_) | Kind::Tcp(_) | Kind::Splice(_) | Kind::Member(_)) | None => {
                None
            }
        };
        match again {
            // What it was asked for to send waits already.
            Some(output) => self.out.push_front(output),
            None => self.end_datagrams(socket.flow),
        }
    }

    /// A flow of the guest has no socket: the guest, and who reads our log, are told why.
    fn unopened(&mut self, socket: SocketId, error: Errno) {
        let Some(flow) = self.flow(socket.flow) else {
            return;
        };
        let (tuple, to) = (*flow.tuple(), flow.to().0);
        let (asks, many) = (flow.asks.is_some(), flow.is_group());
        let (far, transport) = (tuple.far.0, tuple.transport);
        if let (true, Some(now)) = (asks && names::blames(error), self.now) {
            self.resolvers.failed(now, to.ip());
        }
        if let Some((kind, code)) = echo::local(error, far.is_ipv6()).filter(|_| !many) {
            let verdict = echo::Verdict {
                kind,
                code,
                rest: 0,
                offender: far.ip(),
            };
            let link = self.link_of(socket.flow);
            let output = self.flow(socket.flow);
            let output = output.map(|flow| echo::error(&link, flow, verdict, &[]));
            self.out.extend(output);
        }
        if !matches!(error.0, libc::ENETUNREACH | libc::EHOSTUNREACH) {
            self.report(Report::NoSocket {
                transport,
                to,
                error,
            });
        }
        self.remove(socket.flow);
    }

    /// A flow's socket has received something.
    pub(super) fn datagrams(
        &mut self,
        now: Instant,
        socket: SocketId,
        received: Received<'_>,
    ) -> Result<(), Drop> {
        let Received { spans, arena, .. } = received;
        if let Some((side, local)) = self.strayed(socket, received.peer) {
            return self.redirect(now, side, local, received);
        }
        if self.listener_of(socket.flow).is_none() {
            // What a relay is given is counted when it goes out.
            self.flows.credit(socket.flow, Side::Guest, total(spans));
        }
        let flow = match self.flows.get_mut(socket.flow).map(|live| &mut live.kind) {
            Some(Kind::Datagram(flow)) => flow,
            Some(Kind::Relay(relay)) => {
                relay.pass(now, socket.flow, &mut self.out, socket.side, spans);
                self.flows.touch(socket.flow, now);
                return Ok(());
            }
            Some(Kind::Member(member)) => {
                let group = member.group;
                self.flows.touch(socket.flow, now);
                return self.give_members(group, received);
            }
            Some(Kind::Tcp(_) | Kind::Splice(_)) | None => return Ok(()),
        };
        if flow.heard(now) {
            self.unanswered.one_less();
        }
        let (tuple, group) = (*flow.tuple(), flow.is_group());
        if let Some(waits) = &mut flow.asks {
            *waits = false;
            self.resolvers.answered(flow.to().0.ip());
        }
        self.flows.touch(socket.flow, now);
        let far = match group {
            true => self.answer(received.peer)?,
            false => tuple.far.0,
        };
        let mut delivery = self.delivery(self.link_of(socket.flow), received.ttl);
        match tuple.transport {
            Transport::Echo => {
                let mut result = Ok(());
                for &span in spans {
                    let replied = echo::reply(&mut delivery, &tuple, span, arena);
                    result = result.and(replied);
                }
                result
            }
            Transport::Udp | Transport::Tcp => delivery.datagrams(far, tuple.guest.0, spans, arena),
        }
    }

    /// Where a datagram belongs that reached a flow's socket although somebody else than its peer has sent it: a socket
    /// has its port before it has its peer, and between the two calls it takes what was for a listener or for nobody.
    fn strayed(&self, socket: SocketId, peer: SocketAddr) -> Option<(Side, SocketAddr)> {
        let (to, local) = match &self.flows.get(socket.flow)?.kind {
            Kind::Datagram(flow)
                if flow.tuple().transport == Transport::Udp && !flow.is_group() =>
            {
                (flow.to().0, flow.source()?)
            }
            Kind::Relay(relay) if socket.side == relay.listener => (relay.peer, relay.local),
            // Its port is its own: what was for somebody else was for nobody.
            Kind::Relay(relay) => (relay.to, SocketAddr::new(relay.to.ip(), 0)),
            Kind::Datagram(_) | Kind::Tcp(_) | Kind::Splice(_) | Kind::Member(_) => return None,
        };
        let peer = addr::canonical(peer);
        let same = to.port() == peer.port() && to.ip() == peer.ip();
        // A socket for IPv6 hears IPv4, too, until it has its peer; at which address, nobody knows any more.
        let local = match (local, peer) {
            (SocketAddr::V6(_), SocketAddr::V4(_)) => {
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, local.port()))
            }
            _ => local,
        };
        // What is sent to no address goes to the host itself.
        (!same && !to.ip().is_unspecified()).then_some((socket.side, local))
    }

    /// What a listener would have heard at this address, if there is one.
    fn redirect(
        &mut self,
        now: Instant,
        side: Side,
        local: SocketAddr,
        received: Received<'_>,
    ) -> Result<(), Drop> {
        if local.is_ipv4() != addr::canonical(received.peer).is_ipv4() {
            return Err(Drop::Source);
        }
        let hears = |listener: &Listener| {
            let any = |address: IpAddr| address.is_unspecified() || address == local.ip();
            (listener.side, listener.transport) == (side, Transport::Udp)
                && (listener.first..=listener.last).contains(&local.port())
                && listener.address.is_none_or(any)
        };
        let place = self.listeners.iter().position(hears);
        let place = place.and_then(|place| u32::try_from(place).ok());
        let Received {
            spans,
            arena,
            peer,
            ttl,
        } = received;
        self.arrivals(
            now,
            Arrivals {
                listener: ListenerId(place.ok_or(Drop::Source)?),
                spans,
                arena,
                peer,
                local,
                ttl,
            },
        )
    }

    pub(super) fn delivery(&mut self, link: Link, ttl: Option<u8>) -> Delivery<'_> {
        Delivery {
            out: &mut self.out,
            link,
            mtu: self.shared.mtu as usize,
            fragment_id: &mut self.fragment_id,
            ttl,
        }
    }

    /// Somebody has sent datagrams to a published port.
    pub(super) fn arrivals(&mut self, now: Instant, arrivals: Arrivals<'_>) -> Result<(), Drop> {
        let (peer, local) = (
            addr::canonical(arrivals.peer),
            addr::canonical(arrivals.local),
        );
        // A socket that is connected to no address is connected to the host itself.
        if !addr::is_unicast(peer.ip()) {
            return Err(Drop::Source);
        }
        let listener = self.listeners.get(arrivals.listener.0 as usize);
        let listener = listener.ok_or(Drop::Destination)?;
        let port = local
            .port()
            .checked_sub(listener.first)
            .and_then(|offset| listener.target.checked_add(offset))
            .ok_or(Drop::Destination)?;
        let (side, target) = (listener.side, listener.target_address);
        if local.ip().is_multicast() && side == Side::Host {
            if self.groups.hears(local.ip(), local.port()) {
                // A socket for that alone hears it as well.
                return Ok(());
            }
            let group = SocketAddr::new(local.ip(), port);
            return self.give_members(group, arrivals.received());
        }
        // Nobody can answer from everybody's address.
        let local = match self.translation.is_broadcast(local.ip()) {
            true => SocketAddr::from((Ipv4Addr::UNSPECIFIED, local.port())),
            false => local,
        };
        let spliced = match side {
            Side::Guest => local.ip().is_loopback().then(|| local.ip()),
            Side::Host if peer.ip().is_loopback() && self.splice && target.is_none() => {
                self.translation.spliced(local)
            }
            Side::Host => None,
        };
        if let Some(address) = spliced {
            let to = SocketAddr::new(address, port);
            self.relay(now, side, (local, peer), to, arrivals.spans);
            return Ok(());
        }
        if side == Side::Guest || self.splice_only {
            return Err(Drop::Destination);
        }
        let far = self.translation.to_guest(Host(peer)).ok_or(Drop::Source)?;
        let address = target
            .or_else(|| self.translation.current(far.0.ip()))
            .filter(|address| address.is_ipv4() == far.0.is_ipv4())
            .ok_or(Drop::Destination)?;
        let tuple = Tuple {
            guest: Guest(SocketAddr::new(address, port)),
            far,
            transport: Transport::Udp,
        };
        self.inbound_flow(now, tuple, Host(peer), local);
        let mac = match self.flows.find(&tuple) {
            Some(id) => {
                self.flows.credit(id, Side::Guest, total(arrivals.spans));
                self.link_of(id).destination
            }
            None => self.stations.of(address),
        };
        let mut delivery = self.delivery(self.link(mac), arrivals.ttl);
        delivery.datagrams(far.0, tuple.guest.0, arrivals.spans, arrivals.arena)
    }

    /// Datagrams of `ends.1` to the listening address `ends.0` go to `to` in the other namespace.
    fn relay(
        &mut self,
        now: Instant,
        side: Side,
        ends: (SocketAddr, SocketAddr),
        to: SocketAddr,
        spans: &[Span],
    ) {
        // Nothing on the tap has a loopback address, so that no other flow has this tuple.
        let tuple = Tuple {
            guest: Guest(ends.0),
            far: Guest(ends.1),
            transport: Transport::Udp,
        };
        let id = match self.flows.find(&tuple) {
            Some(id) if self.listener_of(id) == Some(side) => id,
            other => {
                if let Some(id) = other {
                    self.end_datagrams(id);
                }
                if !self.make_room(now, Class::Datagram) {
                    return;
                }
                self.keep_relay(now, side, tuple, to)
            }
        };
        if let Some(Live {
            kind: Kind::Relay(relay),
            ..
        }) = self.flows.get_mut(id)
        {
            relay.pass(now, id, &mut self.out, side, spans);
            self.flows.touch(id, now);
        }
    }

    fn listener_of(&self, id: FlowId) -> Option<Side> {
        match &self.flows.get(id)?.kind {
            Kind::Relay(relay) => Some(relay.listener),
            Kind::Tcp(_) | Kind::Splice(_) | Kind::Datagram(_) | Kind::Member(_) => None,
        }
    }

    /// A new relay: what is sent after the two connections are asked for finds them there, or is lost.
    fn keep_relay(&mut self, now: Instant, side: Side, tuple: Tuple, to: SocketAddr) -> FlowId {
        let relay = Relay::new(now, side, (tuple.guest.0, tuple.far.0), to);
        let deadline = relay.deadline();
        let live = Live::new(Kind::Relay(relay), Class::Datagram);
        self.counters.count(live.kind.counter(Fortune::Made));
        let flow = self.flows.insert(now, Some(tuple), Class::Datagram, live);
        self.deadlines.set(flow.index, deadline);
        self.share((side, tuple.guest.0.port()), flow);
        if let Some(Kind::Relay(relay)) = self.flows.get(flow).map(|live| &live.kind) {
            let sides = [side, side.other()].into_iter();
            let sockets = sides.map(|side| SocketId { flow, side });
            self.out.extend(sockets.map(|socket| relay.connect(socket)));
        }
        flow
    }

    /// A flow whose answers leave with the address that the peer has called.
    fn inbound_flow(&mut self, now: Instant, tuple: Tuple, peer: Host, local: SocketAddr) {
        let found = self.flows.find(&tuple);
        let fits = found
            .and_then(|id| self.flow(id))
            .is_some_and(|flow| flow.to() == peer && flow.answers_from(local));
        let id = match found {
            Some(id) if fits => id,
            other => {
                // The peer calls another of our addresses now: that is the one to answer with.
                if let Some(id) = other {
                    self.end_datagrams(id);
                }
                if !self.make_room(now, Class::Datagram) {
                    return;
                }
                self.keep(Flow::from_host(now, tuple, peer, local), now)
            }
        };
        if let Some(Live {
            kind: Kind::Datagram(flow),
            ..
        }) = self.flows.get_mut(id)
        {
            flow.heard(now);
            self.flows.touch(id, now);
        }
    }

    /// The host's kernel knows what became of a datagram.
    pub(super) fn failure(&mut self, now: Instant, socket: SocketId, failure: &Failure<'_>) {
        let Some(flow) = self.flow(socket.flow) else {
            return;
        };
        if flow.asks.is_some() && names::blames(failure.error) {
            let server = flow.to().0.ip();
            self.resolvers.failed(now, server);
        }
        let Some(flow) = self.flow(socket.flow).filter(|flow| !flow.is_group()) else {
            return;
        };
        if let Some(verdict) = echo::verdict(flow, &self.translation, failure) {
            let link = self.link_of(socket.flow);
            let output = echo::error(&link, flow, verdict, failure.payload);
            self.out.push_back(output);
        }
    }

    /// Its deadline has come, perhaps too early; false: it is not a flow of datagrams.
    pub(super) fn datagrams_due(&mut self, now: Instant, id: FlowId) -> bool {
        let deadline = match self.flows.get(id).map(|live| &live.kind) {
            Some(Kind::Datagram(flow)) => flow.deadline(),
            Some(Kind::Relay(relay)) => relay.deadline(),
            Some(Kind::Tcp(_) | Kind::Splice(_) | Kind::Member(_)) | None => return false,
        };
        if deadline > now {
            self.deadlines.set(id.index, deadline);
        } else {
            self.end_datagrams(id);
        }
        true
    }

    /// Forget what a flow has beside its socket.
    fn let_go(&mut self, id: FlowId) {
        match self.flows.get(id).map(|live| &live.kind) {
            Some(Kind::Datagram(flow)) => {
                let (guest, to) = (flow.tuple().guest.0, flow.to().0);
                let transport = flow.tuple().transport;
                let (group, inbound) = (flow.is_group(), flow.is_inbound());
                let Some(source) = flow.source() else { return };
                if group && let Some(flows) = self.loops.get_mut(&source) {
                    *flows = flows.saturating_sub(1);
                    if *flows == 0 {
                        self.loops.remove(&source);
                    }
                }
                if transport == Transport::Udp {
                    self.sharers.closed((Side::Host, source.port()));
                    if !inbound {
                        self.sources.closed(guest, to, source.port());
                    }
                }
            }
            Some(Kind::Relay(relay)) => {
                self.sharers.closed((relay.listener, relay.local.port()));
            }
            Some(Kind::Member(member)) => {
                let group = member.group;
                self.groups.closed(group.ip(), group.port());
            }
            Some(Kind::Tcp(_) | Kind::Splice(_)) | None => {}
        }
    }

    /// A flow has a port, which others may have, too. If too many do, one of them gives way.
    fn share(&mut self, port: Port, id: FlowId) {
        let flows = &self.flows;
        let deadline = |id| match &flows.get(id)?.kind {
            Kind::Datagram(flow) => Some(flow.deadline()),
            Kind::Relay(relay) => Some(relay.deadline()),
            Kind::Tcp(_) | Kind::Splice(_) | Kind::Member(_) => None,
        };
        let victim = self.sharers.opened(port, id, deadline);
        if let Some(live) = victim.and_then(|id| self.flows.get(id)) {
            self.counters.count(live.kind.counter(Fortune::Evicted));
        }
        if let Some(id) = victim {
            self.end_datagrams(id);
            self.report(Report::TableFull {
                limit: u32::try_from(limits::SHARERS).unwrap_or(u32::MAX),
                of: Limited::Port(port.1),
                evicted: true,
            });
        }
    }

    pub(super) fn end_datagrams(&mut self, id: FlowId) {
        let sides = match self.listener_of(id) {
            Some(_) => &[Side::Host, Side::Guest][..],
            None => &[Side::Host],
        };
        self.let_go(id);
        self.remove(id);
        self.out.extend(sides.iter().map(|&side| Output::Close {
            socket: SocketId { flow: id, side },
            reset: false,
        }));
    }
}

fn icmp(packet: &ip::Packet<'_>, place: Place) -> Result<Said, Drop> {
    let icmp::Message::Echo(request) = icmp::parse(packet)? else {
        return Err(Drop::Protocol);
    };
    Ok(Said {
        tuple: tuple(packet, request.id, 0, Transport::Echo)?,
        sending: Sending {
            header: echo::request(&request, packet.source.is_ipv6()),
            data: place.payload(request.data, 8),
            segment: None,
            ttl: packet.hop_limit,
        },
        sequence: request.sequence,
    })
}

fn total(spans: &[Span]) -> u64 {
    spans.iter().map(|span| u64::from(span.len)).sum()
}

/// The endpoints of a packet of the guest.
fn tuple(packet: &ip::Packet<'_>, from: u16, to: u16, transport: Transport) -> Result<Tuple, Drop> {
    let (source, destination) = (packet.source, packet.destination);
    if !addr::is_unicast(source) || source.is_loopback() {
        return Err(Drop::Source);
    }
    if !addr::is_unicast(destination) || destination.is_loopback() {
        return Err(Drop::Destination);
    }
    Ok(Tuple {
        guest: Guest(SocketAddr::new(source, from)),
        far: Guest(SocketAddr::new(destination, to)),
        transport,
    })
}

#[cfg(test)]
pub(super) mod tests;
