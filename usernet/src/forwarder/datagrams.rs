//! Datagrams and echoes: finding their flow, making it, ending it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::counting::Fortune;
use super::{Forwarder, Kind, Live};
use crate::addr::{self, Guest, Host};
use crate::event::{
    Drop, Errno, Failure, FlowId, Headers, ListenerId, Offload, Output, Payload, Report, Segments,
    Side, SocketId, Span, Transport,
};
use crate::flow::{Class, Tuple};
use crate::icmp as echo;
use crate::packet::{icmp, ip, udp};
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
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub ttl: Option<u8>,
}

impl Forwarder {
    /// A part of a datagram of the guest.
    pub(super) fn fragment(&mut self, now: Instant, packet: &ip::Packet<'_>) -> Result<(), Drop> {
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
        self.datagram(now, &packet, Place::Ours, Offload::default())
    }

    /// A whole packet of the guest that is not TCP, nor for the link itself.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        packet: &ip::Packet<'_>,
        place: Place,
        offload: Offload,
    ) -> Result<(), Drop> {
        match packet.protocol {
            ip::UDP if self.off.udp => Err(Drop::Disabled),
            ip::ICMP | ip::ICMPV6 if self.off.icmp => Err(Drop::Disabled),
            ip::UDP => self.udp(now, packet, place, offload),
            ip::ICMP | ip::ICMPV6 => self.icmp(now, packet, place),
            _ => Err(Drop::Protocol),
        }
    }

    fn udp(
        &mut self,
        now: Instant,
        packet: &ip::Packet<'_>,
        place: Place,
        offload: Offload,
    ) -> Result<(), Drop> {
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
        let tuple = tuple(packet, header.source, header.destination, Transport::Udp)?;
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
        self.send(now, tuple, sending, None)
    }

    fn icmp(&mut self, now: Instant, packet: &ip::Packet<'_>, place: Place) -> Result<(), Drop> {
        let icmp::Message::Echo(request) = icmp::parse(packet)? else {
            return Err(Drop::Protocol);
        };
        let tuple = tuple(packet, request.id, 0, Transport::Echo)?;
        let sending = Sending {
            header: echo::request(&request, packet.source.is_ipv6()),
            data: place.payload(request.data, 8),
            segment: None,
            ttl: packet.hop_limit,
        };
        self.send(now, tuple, sending, Some(request.sequence))
    }

    /// Send what the guest says on its flow, which may be a new one.
    fn send(
        &mut self,
        now: Instant,
        tuple: Tuple,
        sending: Sending,
        sequence: Option<u16>,
    ) -> Result<(), Drop> {
        let id = match self.flows.find(&tuple) {
            Some(id) => id,
            None => match self.begin(now, tuple)? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        if let Some(Live {
            kind: Kind::Datagram(flow),
            ..
        }) = self.flows.get_mut(id)
        {
            flow.send(now, id, &mut self.out, sending);
            flow.sequence = sequence.unwrap_or(0);
            self.flows.touch(id, now);
        }
        Ok(())
    }

    /// A flow of the guest; none: there is no room.
    fn begin(&mut self, now: Instant, tuple: Tuple) -> Result<Option<FlowId>, Drop> {
        let to = self.translation.to_host(tuple.far, tuple.transport);
        let to = to.ok_or(Drop::Destination)?;
        let any = match to.0 {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let mut local = self.translation.outbound(to).unwrap_or(any);
        local.set_port(tuple.guest.0.port());
        if !self.unanswered.one_more(now) {
            return Err(Drop::Unanswered);
        }
        if !self.make_room(now, Class::Datagram) {
            return Ok(None);
        }
        Ok(Some(
            self.keep(Flow::from_guest(now, tuple, to, local), now),
        ))
    }

    fn keep(&mut self, flow: Flow, now: Instant) -> FlowId {
        let (tuple, deadline) = (*flow.tuple(), flow.deadline());
        let live = Live {
            kind: Kind::Datagram(flow),
            class: Class::Datagram,
            queued: false,
        };
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
            Kind::Tcp(_) | Kind::Splice(_) | Kind::Relay(_) => None,
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
            Some(Kind::Relay(_)) => {
                if result.is_err() {
                    self.end_datagrams(socket.flow);
                }
                return true;
            }
            Some(Kind::Tcp(_) | Kind::Splice(_)) | None => return false,
        };
        let opened = flow.opened(socket.flow, &mut self.out, result);
        let (Opened::Failed, Err(error)) = (opened, result) else {
            return true;
        };
        let far = flow.tuple().far.0;
        let (transport, to) = (flow.tuple().transport, flow.to().0);
        if let Some((kind, code)) = echo::local(error, far.is_ipv6()) {
            let verdict = echo::Verdict {
                kind,
                code,
                rest: 0,
                offender: far.ip(),
            };
            let output = echo::error(&self.link, flow, verdict, &[]);
            self.out.push_back(output);
        }
        if !matches!(error.0, libc::ENETUNREACH | libc::EHOSTUNREACH) {
            self.report(Report::NoSocket {
                transport,
                to,
                error,
            });
        }
        self.remove(socket.flow);
        true
    }

    /// A flow's socket has received something.
    pub(super) fn datagrams(
        &mut self,
        now: Instant,
        socket: SocketId,
        spans: &[Span],
        arena: &[u8],
        ttl: Option<u8>,
    ) -> Result<(), Drop> {
        let flow = match self.flows.get_mut(socket.flow).map(|live| &mut live.kind) {
            Some(Kind::Datagram(flow)) => flow,
            Some(Kind::Relay(relay)) => {
                relay.pass(now, socket.flow, &mut self.out, socket.side, spans);
                self.flows.touch(socket.flow, now);
                return Ok(());
            }
            Some(Kind::Tcp(_) | Kind::Splice(_)) | None => return Ok(()),
        };
        if flow.heard(now) {
            self.unanswered.one_less();
        }
        let tuple = *flow.tuple();
        self.flows.touch(socket.flow, now);
        let mut delivery = self.delivery(ttl);
        match tuple.transport {
            Transport::Echo => {
                let mut result = Ok(());
                for &span in spans {
                    let replied = echo::reply(&mut delivery, &tuple, span, arena);
                    result = result.and(replied);
                }
                result
            }
            Transport::Udp | Transport::Tcp => {
                delivery.datagrams(tuple.far.0, tuple.guest.0, spans, Some(arena))
            }
        }
    }

    fn delivery(&mut self, ttl: Option<u8>) -> Delivery<'_> {
        Delivery {
            out: &mut self.out,
            link: self.link,
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
        let mut delivery = self.delivery(arrivals.ttl);
        delivery.datagrams(far.0, tuple.guest.0, arrivals.spans, None)
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
            Kind::Tcp(_) | Kind::Splice(_) | Kind::Datagram(_) => None,
        }
    }

    /// A new relay: what is sent after the two connections are asked for finds them there, or is lost.
    fn keep_relay(&mut self, now: Instant, side: Side, tuple: Tuple, to: SocketAddr) -> FlowId {
        let relay = Relay::new(now, side);
        let deadline = relay.deadline();
        let live = Live {
            kind: Kind::Relay(relay),
            class: Class::Datagram,
            queued: false,
        };
        self.counters.count(live.kind.counter(Fortune::Made));
        let flow = self.flows.insert(now, Some(tuple), Class::Datagram, live);
        self.deadlines.set(flow.index, deadline);
        let ends = [
            (side, Some(tuple.guest.0), tuple.far.0),
            (side.other(), None, to),
        ];
        for (side, local, to) in ends {
            self.out.push_back(Output::Connect {
                socket: SocketId { flow, side },
                transport: Transport::Udp,
                local,
                to,
                mss: None,
            });
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
    pub(super) fn failure(&mut self, socket: SocketId, failure: &Failure<'_>) {
        let Some(flow) = self.flow(socket.flow) else {
            return;
        };
        if let Some(verdict) = echo::verdict(flow, &self.translation, failure) {
            let output = echo::error(&self.link, flow, verdict, failure.payload);
            self.out.push_back(output);
        }
    }

    /// Its deadline has come, perhaps too early; false: it is not a flow of datagrams.
    pub(super) fn datagrams_due(&mut self, now: Instant, id: FlowId) -> bool {
        let deadline = match self.flows.get(id).map(|live| &live.kind) {
            Some(Kind::Datagram(flow)) => flow.deadline(),
            Some(Kind::Relay(relay)) => relay.deadline(),
            Some(Kind::Tcp(_) | Kind::Splice(_)) | None => return false,
        };
        if deadline > now {
            self.deadlines.set(id.index, deadline);
        } else {
            self.end_datagrams(id);
        }
        true
    }

    pub(super) fn end_datagrams(&mut self, id: FlowId) {
        let sides = match self.listener_of(id) {
            Some(_) => &[Side::Host, Side::Guest][..],
            None => &[Side::Host],
        };
        self.remove(id);
        self.out.extend(sides.iter().map(|&side| Output::Close {
            socket: SocketId { flow: id, side },
            reset: false,
        }));
    }
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
mod tests;
