//! What happens on which event.
//!
//! The forwarder takes frames apart, finds the flow, lets it handle what concerns it, and looks after it: its list and
//! deadline, its place in the queue of flows that have something to say at the end of the round.
//!
//! A round: events as they come, then [`Event::BatchEnd`]; then `poll` lets one flow after the other say what follows.
//! A flow that asked its socket for bytes goes to the end of the queue when it has them, so that many flows share a round
//! fairly. When the round's bytes are used up ([`limits::ROUND_BYTES`]) the rest waits for the next round, which
//! [`Forwarder::deadline`] then says is due at once.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use crate::addr::{self, Guest, Host, Translation};
use crate::config::{Config, Families, Listener, Off};
use crate::deadlines::Deadlines;
use crate::event::{
    Drop, Errno, Event, FlowId, Lane, ListenerId, Offload, Output, Payload, Pending, Readiness,
    Report, Side, SocketId, Span, Transport,
};
use crate::flow::{Class, Table, Tuple, Unanswered};
use crate::fragments::Reassembly;
use crate::groups::Groups;
use crate::limits;
use crate::local::{Handled, Local};
use crate::names::Resolvers;
use crate::packet::build::{self, Link};
use crate::packet::{Mac, checksum, eth, group, icmp, ip, tcp as wire};
use crate::sharers::Sharers;
use crate::sources::Sources;
use crate::splice::{Ends, Splice};
use crate::stations::Stations;
use crate::stats::Counters;
use crate::tcp::segment::Segment;
use crate::tcp::seq::Seq;
use crate::tcp::{self, Cx, Fate, Flushed, Shared, Tcp};
use crate::udp::{Flow, Member, Relay};

mod datagrams;
mod multicast;
mod counting;
mod survey;

use counting::Fortune;
use datagrams::{Arrivals, Place, Received};
pub use survey::Survey;

/// The pure core of the program.
#[derive(Debug)]
pub struct Forwarder {
    config: Config,
    local: Local,
    translation: Translation,
    resolvers: Resolvers,
    sources: Sources,
    sharers: Sharers,
    groups: Groups,
    /// How often the host's link was another one.
    era: u16,
    /// What others see of flows to groups: what comes back from there is our own.
    /// More than one flow may leave by the same port.
    loops: BTreeMap<SocketAddr, u32>,
    listeners: Vec<Listener>,
    off: Off,
    splice: bool,
    splice_only: bool,
    our_mac: Mac,
    stations: Stations,
    seed: u64,
    flows: Table<Live>,
    deadlines: Deadlines,
    /// Flows whose time has come, while they are looked at.
    due: Vec<u32>,
    out: VecDeque<Output>,
    /// Flows with something to say at the end of the round.
    dirty: VecDeque<FlowId>,
    /// Flows for which the round was too short.
    later: VecDeque<FlowId>,
    flushing: bool,
    /// Whose turn it is in a flush, and how many bytes it has asked for.
    turn: Option<(FlowId, u32)>,
    shared: Shared,
    unanswered: Unanswered,
    fragments: Reassembly,
    fragment_id: u32,
    counters: Counters,
    /// When the first event came, and the last one.
    began: Option<Instant>,
    now: Option<Instant>,
}

/// What a forwarder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Flows.
    pub flows: u32,
    /// Flows whose handshake is not finished.
    pub half_open: u32,
    /// Bytes kept, as the sum that is compared with [`limits::KEPT_BYTES`].
    pub kept: usize,
    /// Bytes kept, flow by flow.
    pub kept_by_flows: usize,
    /// Datagrams that are not whole.
    pub datagrams: usize,
    /// Bytes of their fragments.
    pub fragment_bytes: usize,
    /// Flows that wait for a time.
    pub deadlines: usize,
    /// Places in the queues of flows that have something to say.
    pub queued: usize,
}

/// A flow in the table.
#[derive(Debug)]
struct Live {
    kind: Kind,
    class: Class,
    /// It is in one of the queues.
    queued: bool,
    /// Where the guest's frames of this flow come from, if there were any.
    station: Option<Mac>,
}

#[derive(Debug)]
enum Kind {
    /// In a box: it is several times as large as the others, of which there may be more.
    Tcp(Box<Tcp>),
    Splice(Splice),
    Datagram(Flow),
    Relay(Relay),
    Member(Member),
}

/// The MTU that the kernel gives a tap that was not told one.
const MTU_DEFAULT: u32 = 1500;

impl Forwarder {
    /// For one run. The seed keys the hash of the flow table and the initial sequence numbers: it must not be guessed.
    #[must_use]
    pub fn new(config: &Config, seed: u64) -> Self {
        let mtu = match config.link.mtu {
            0 => MTU_DEFAULT,
            mtu => mtu,
        };
        Self {
            config: config.clone(),
            local: Local::new(seed),
            translation: Translation::new(config),
            resolvers: Resolvers::new(config),
            sources: Sources::default(),
            sharers: Sharers::default(),
            groups: Groups::default(),
            era: 0,
            loops: BTreeMap::new(),
            listeners: config.listeners.clone(),
            off: config.off,
            splice: config.splice,
            splice_only: config.splice_only,
            our_mac: config.link.our_mac,
            stations: Stations::new(config.link.guest_mac),
            seed,
            flows: Table::new(limits::FLOWS, seed),
            deadlines: Deadlines::default(),
            due: Vec::new(),
            out: VecDeque::new(),
            dirty: VecDeque::new(),
            later: VecDeque::new(),
            flushing: false,
            turn: None,
            shared: Shared::new(mtu),
            unanswered: Unanswered::default(),
            fragments: Reassembly::default(),
            fragment_id: (seed >> 32) as u32,
            counters: Counters::default(),
            began: None,
            now: None,
        }
    }

    /// The guest's side was configured, and has this link-local address.
    pub fn has_link_local(&mut self, address: Ipv6Addr) {
        self.translation.has_link_local(address);
    }

    /// Descriptors that flows may have.
    pub fn limit_descriptors(&mut self, most: u32) {
        self.flows.set_most_descriptors(most);
    }

    /// Flows at most.
    pub fn limit_flows(&mut self, limit: u32) {
        self.flows.set_limit(limit);
    }

    /// Flows that are under way suffer from what the guest sends beside them: new ones are rationed, until they do not.
    pub fn set_crowded(&mut self, crowded: bool) {
        self.unanswered.set_crowded(crowded);
    }

    /// The link has several lanes from now on: tell each stream again what was acknowledged, by the lane that is its own.
    pub fn widened(&mut self, now: Instant) {
        let ids: Vec<_> = self.flows.ids().take(limits::LANES_SHOWN).collect();
        for id in ids {
            self.with_tcp(now, id, |tcp, cx| tcp.again(cx));
        }
    }

    /// What is listened on has changed. [`ListenerId`] is the place in this list.
    pub fn set_listeners(&mut self, listeners: Vec<Listener>) {
        self.listeners = listeners;
    }

    /// The host's name servers, for queries of each family in the order of their turns.
    pub fn set_resolvers(&mut self, resolvers: Families<Vec<IpAddr>>) {
        self.resolvers.set(resolvers);
    }

    /// The host has another network or other name servers. Flows stay as they are; the link, what is listened on and what
    /// the guest's link-layer address is do not change.
    pub fn reconfigure(&mut self, config: &Config, resolvers: Families<Vec<IpAddr>>) {
        self.translation.reconfigure(config);
        self.resolvers.set(resolvers);
        self.off = config.off;
        self.config = Config {
            link: self.config.link.clone(),
            ..config.clone()
        };
        if let Some(now) = self.now {
            self.local.restart(&self.config, now);
        }
    }

    /// Flows now.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.flows.len()
    }

    /// What is held, counted twice where it is kept in sums. Walks the table: for tests.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let kept = |live: &Live| match &live.kind {
            Kind::Tcp(tcp) => tcp.kept(),
            Kind::Splice(_) | Kind::Datagram(_) | Kind::Relay(_) | Kind::Member(_) => 0,
        };
        let (datagrams, fragment_bytes) = self.fragments.held();
        Audit {
            flows: self.flows.len(),
            half_open: self.flows.count(Class::HalfOpen),
            kept: self.shared.kept,
            kept_by_flows: self.flows.iter().map(kept).sum(),
            datagrams,
            fragment_bytes,
            deadlines: self.deadlines.len(),
            queued: self.dirty.len() + self.later.len(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, event: Event<'_>) {
        if self.began.replace(self.began.unwrap_or(now)).is_none() {
            self.local.start(&self.config, now);
        }
        self.now = Some(now);
        self.count_event(&event);
        match event {
            Event::Frame { bytes, at, offload } => self.framed(now, bytes, at, offload),
            Event::BatchEnd => self.batch_end(now),
            Event::Connection {
                listener,
                pending,
                peer,
                local,
            } => self.accepted(now, listener, pending, (peer, local)),
            Event::Opened { socket, result } => self.opened(now, socket, result),
            Event::Ready {
                socket,
                readiness,
                error,
            } => self.ready(now, socket, readiness, error),
            Event::Peeked { socket, result } => self.peeked(now, socket, result),
            Event::Written {
                socket,
                result,
                rest,
            } => self.written(now, socket, result, rest),
            Event::Pumped {
                flow, from, result, ..
            } => self.pumped(now, flow, from, result),
            Event::Timer => self.timer(now),
            Event::Datagrams {
                socket,
                spans,
                arena,
                peer,
                ttl,
            } => {
                let received = Received {
                    spans,
                    arena,
                    peer,
                    ttl,
                };
                self.received(now, socket, received);
            }
            Event::Arrivals {
                listener,
                spans,
                arena,
                peer,
                local,
                ttl,
            } => {
                let arrivals = Arrivals {
                    listener,
                    spans,
                    arena,
                    peer,
                    local,
                    ttl,
                };
                self.arrived(now, arrivals);
            }
            Event::Failure { socket, failure } => self.failure(now, socket, &failure),
            Event::Neighbour { address, mac } => self.neighbour(address, mac),
        }
    }

    /// What the shell shall do next.
    pub fn poll(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.out.pop_front() {
                self.count_output(&output);
                return Some(output);
            }
            if !self.flushing {
                return None;
            }
            match self.dirty.pop_front() {
                Some(id) => self.flush(id),
                None => self.flushing = false,
            }
        }
    }

    /// When to tell [`Event::Timer`] if nothing else happens before. A time that has passed means: after this round.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.later.is_empty() {
            let flows = self.deadlines.next();
            let local = self.local.deadline();
            let fragments = self.fragments.deadline();
            let groups = self.groups.deadline();
            let all = [flows, local, fragments, groups];
            all.into_iter().flatten().min()
        } else {
            self.now
        }
    }

    fn framed(&mut self, now: Instant, bytes: &[u8], at: u32, offload: Offload) {
        let result = self.frame(now, bytes, at, offload);
        self.tell_drop(result);
    }

    fn received(&mut self, now: Instant, socket: SocketId, received: Received<'_>) {
        let result = self.datagrams(now, socket, received);
        self.tell_drop(result);
    }

    fn arrived(&mut self, now: Instant, arrivals: Arrivals<'_>) {
        let result = self.arrivals(now, arrivals);
        self.tell_drop(result);
    }

    /// A packet was forwarded, or not.
    fn tell_drop(&mut self, result: Result<(), Drop>) {
        if let Err(reason) = result {
            self.report(Report::Dropped(reason));
        }
    }

    fn report(&mut self, report: Report) {
        self.out.push_back(Output::Report(report));
    }

    fn frame(&mut self, now: Instant, bytes: &[u8], at: u32, offload: Offload) -> Result<(), Drop> {
        let (header, rest) = eth::parse(bytes)?;
        self.stations.hear(now, header.source);
        match header.kind {
            eth::IPV4 | eth::IPV6 => {}
            eth::ARP => {
                let handled = self.local.arp(&self.config, rest);
                return self.handled(handled).map(|_| ());
            }
            _ => return Err(Drop::Protocol),
        }
        let packet = ip::parse(rest)?;
        let place = at.wrapping_add(offset_of(bytes, packet.payload));
        self.translation.learn(now, packet.source);
        self.stations.hear_packet(now, header.source, packet.source);
        // Nobody's frames come from a group; an answer to one would go to many.
        let mac = match eth::is_group(header.source) {
            true => self.stations.of(packet.source),
            false => header.source,
        };
        match packet.protocol {
            _ if packet.fragment.is_some() => self.fragment(now, mac, &packet),
            ip::TCP if self.off.tcp => Err(Drop::Disabled),
            ip::TCP => self.tcp(now, mac, &packet, place, offload),
            _ if group::is_about(&packet) => self.membership(now, &packet),
            _ => {
                let handled = self.local.packet(&self.config, mac, &packet, offload);
                if self.handled(handled)? {
                    return Ok(());
                }
                let place = Place::Arena(place);
                self.datagram(now, mac, &packet, place, offload)
            }
        }
    }

    /// Give the guest the answer of the link itself; false: it was not for the link.
    fn handled(&mut self, handled: Handled) -> Result<bool, Drop> {
        match handled {
            Handled::Elsewhere => return Ok(false),
            Handled::Reply(output) => self.out.push_back(output),
            Handled::Silent => {}
            Handled::Dropped(reason) => return Err(reason),
        }
        Ok(true)
    }

    fn tcp(
        &mut self,
        now: Instant,
        mac: Mac,
        packet: &ip::Packet<'_>,
        at: u32,
        offload: Offload,
    ) -> Result<(), Drop> {
        let (source, destination) = (packet.source, packet.destination);
        if !offload.partial_checksum
            && !checksum::fits(source, destination, ip::TCP, packet.payload)
        {
            return Err(Drop::Checksum);
        }
        let (from, to, segment) = Segment::parse(packet.payload, at)?;
        if !addr::is_unicast(source) || source.is_loopback() || from == 0 {
            return Err(Drop::Source);
        }
        if !addr::is_unicast(destination) || destination.is_loopback() || to == 0 {
            return Err(Drop::Destination);
        }
        let tuple = Tuple {
            guest: Guest(SocketAddr::new(source, from)),
            far: Guest(SocketAddr::new(destination, to)),
            transport: Transport::Tcp,
        };
        if let Some(id) = self.flows.find(&tuple) {
            self.follow(id, mac, &segment);
            let fate = self.with_tcp(now, id, |tcp, cx| tcp.segment(cx, &segment));
            match fate {
                Some(Fate::Again) => {}
                Some(Fate::Apart) => self.flows.forget_tuple(id),
                _ => return Ok(()),
            }
        }
        if segment.opens() {
            return self.open(now, mac, tuple, &segment);
        }
        if let Some(reply) = tcp::reset_for(&tuple, &segment) {
            let (headers, offload) = reply.build(&self.link(mac));
            self.out.push_back(Output::Frame {
                headers,
                payload: Payload::None,
                offload,
                lane: Lane::Last,
            });
        }
        Ok(())
    }

    /// The guest's end of a connection is where its segments come from, if they are its own.
    fn follow(&mut self, id: FlowId, mac: Mac, segment: &Segment<'_>) {
        if let Some(Live {
            kind: Kind::Tcp(tcp),
            station,
            ..
        }) = self.flows.get_mut(id)
            && *station != Some(mac)
            && tcp.may_have_said(segment)
        {
            *station = Some(mac);
        }
    }

    /// The guest wants a connection.
    fn open(
        &mut self,
        now: Instant,
        mac: Mac,
        tuple: Tuple,
        syn: &Segment<'_>,
    ) -> Result<(), Drop> {
        let to = self
            .to_host(now, tuple.far, Transport::Tcp)
            .ok_or(Drop::Destination)?;
        if !self.unanswered.one_more(now) {
            return Err(Drop::Unanswered);
        }
        if !self.make_room(now, Class::HalfOpen) {
            return Ok(());
        }
        let iss = self.initial(now, &tuple);
        let mss = passed_on(syn.mss, to.0.is_ipv4());
        let tcp = Tcp::from_guest(now, tuple, iss, self.shared.mtu, syn);
        let id = self.insert(now, Some(tuple), Kind::Tcp(Box::new(tcp)));
        self.heard_from(id, mac);
        // Who does not speak TLS (port 853) answers questions all the same.
        if tuple.far.0.port() == 53 && self.translation.is_names(tuple.far, Transport::Tcp) {
            self.resolvers.connects(now, id, to.0.ip());
        }
        self.out.push_back(Output::Connect {
            socket: SocketId::host(id),
            transport: Transport::Tcp,
            local: self.translation.outbound(to),
            to: to.0,
            mss,
            shared: false,
        });
        Ok(())
    }

    /// Somebody connected to a listener, and is refused if there is nobody to connect him with.
    fn accepted(
        &mut self,
        now: Instant,
        listener: ListenerId,
        pending: Pending,
        (peer, local): (SocketAddr, SocketAddr),
    ) {
        let taken = self.connection(now, listener, pending, peer, local);
        if taken.is_none() {
            self.out.push_back(Output::Refuse(pending));
        }
    }

    /// What the host calls a destination of the guest's new flow.
    fn to_host(&self, now: Instant, far: Guest, transport: Transport) -> Option<Host> {
        if self.translation.is_names(far, transport) {
            let server = self.resolvers.choose(now, far.0.ip())?;
            return Some(Host(SocketAddr::new(server, far.0.port())));
        }
        self.translation.to_host(far, transport)
    }

    /// Somebody connected to a listener; none: nobody to connect him with.
    fn connection(
        &mut self,
        now: Instant,
        listener: ListenerId,
        pending: Pending,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Option<()> {
        let listener = self.listeners.get(listener.0 as usize)?;
        let (peer, local) = (addr::canonical(peer), addr::canonical(local));
        let port = listener
            .target
            .checked_add(local.port().checked_sub(listener.first)?)?;
        let target = listener.target_address;
        let to = match listener.side {
            Side::Guest => local.ip().is_loopback().then_some((Side::Host, local.ip())),
            Side::Host if peer.ip().is_loopback() && self.splice && target.is_none() => {
                Some((Side::Guest, self.translation.spliced(local)?))
            }
            Side::Host => None,
        };
        match to {
            Some((side, address)) => {
                let to = SocketAddr::new(address, port);
                self.splice(now, pending, side, Ends { peer, to })
            }
            None if listener.side == Side::Guest || self.splice_only => None,
            None => {
                let far = self.translation.to_guest(Host(peer))?;
                let address = target.or_else(|| self.translation.current(far.0.ip()))?;
                let tuple = Tuple {
                    guest: Guest(SocketAddr::new(address, port)),
                    far,
                    transport: Transport::Tcp,
                };
                self.inbound(now, pending, tuple)
            }
        }
    }

    fn inbound(&mut self, now: Instant, pending: Pending, tuple: Tuple) -> Option<()> {
        let tuple = self.free(tuple)?;
        if !self.make_room(now, Class::HalfOpen) {
            return None;
        }
        let iss = self.initial(now, &tuple);
        let tcp = Tcp::from_host(now, tuple, iss);
        let id = self.insert(now, Some(tuple), Kind::Tcp(Box::new(tcp)));
        let socket = SocketId::host(id);
        self.out.push_back(Output::Adopt { pending, socket });
        self.with_tcp(now, id, |tcp, cx| tcp.begin(cx));
        Some(())
    }

    /// The endpoints for a new connection to the guest. Where another one has them, which is over for the guest, they
    /// are taken from it. Where it is not, as when two published ports lead to one port of the guest and a client calls
    /// both from one port, the guest sees another port of the client's.
    fn free(&mut self, tuple: Tuple) -> Option<Tuple> {
        let Some(id) = self.flows.find(&tuple) else {
            return Some(tuple);
        };
        let fate = match &self.flows.get(id)?.kind {
            Kind::Tcp(tcp) => tcp.replaceable(),
            Kind::Splice(_) | Kind::Datagram(_) | Kind::Relay(_) | Kind::Member(_) => None,
        };
        match fate {
            Some(Fate::Apart) => self.flows.forget_tuple(id),
            Some(_) => self.remove(id),
            None => return self.aside(tuple),
        }
        Some(tuple)
    }

    /// The same with another port of the far end that nobody has: one of the dynamic ones (RFC 6335, 6), not to be
    /// guessed.
    fn aside(&self, tuple: Tuple) -> Option<Tuple> {
        let mut hasher = DefaultHasher::new();
        (self.seed, tuple).hash(&mut hasher);
        let [first, second, ..] = hasher.finish().to_ne_bytes();
        let start = u16::from_ne_bytes([first, second]);
        let ports = (0..limits::OTHER_PORTS).map(|n| start.wrapping_add(n) | 0xc000);
        let tuples = ports.map(|port| Tuple {
            far: Guest(SocketAddr::new(tuple.far.0.ip(), port)),
            ..tuple
        });
        let mut free = tuples.filter(|other| self.flows.find(other).is_none());
        free.next()
    }

    /// Connect a socket of `side` for the other side's accepted one.
    fn splice(&mut self, now: Instant, pending: Pending, side: Side, ends: Ends) -> Option<()> {
        if !self.make_room_for(now, Class::HalfOpen, limits::SPLICE_DESCRIPTORS) {
            return None;
        }
        let splice = Splice::new(side).between(ends);
        let flow = self.insert(now, None, Kind::Splice(splice));
        self.flows.set_descriptors(flow, limits::SPLICE_DESCRIPTORS);
        let (accepted, socket) = (side.other(), SocketId { flow, side });
        self.out.push_back(Output::Adopt {
            pending,
            socket: SocketId {
                flow,
                side: accepted,
            },
        });
        self.out.push_back(Output::Connect {
            socket,
            transport: Transport::Tcp,
            local: None,
            to: ends.to,
            mss: None,
            shared: false,
        });
        Some(())
    }

    fn opened(&mut self, now: Instant, socket: SocketId, result: Result<SocketAddr, Errno>) {
        let handled = self.datagram_opened(socket, result);
        if let (false, Err(error)) = (handled, result) {
            self.not_opened(now, socket, error);
        }
    }

    /// There is no socket to connect.
    fn not_opened(&mut self, now: Instant, socket: SocketId, error: Errno) {
        let Some(live) = self.flows.get(socket.flow) else {
            return;
        };
        match &live.kind {
            Kind::Tcp(_) => self.refuse(now, socket.flow, error, false),
            Kind::Splice(_) => {
                self.remove(socket.flow);
                let socket = SocketId {
                    flow: socket.flow,
                    side: socket.side.other(),
                };
                self.out.push_back(Output::Close {
                    socket,
                    reset: true,
                });
            }
            Kind::Datagram(_) | Kind::Relay(_) | Kind::Member(_) => {}
        }
    }

    fn ready(
        &mut self,
        now: Instant,
        socket: SocketId,
        readiness: Readiness,
        error: Option<Errno>,
    ) {
        let Some(live) = self.flows.get_mut(socket.flow) else {
            return;
        };
        match &mut live.kind {
            Kind::Tcp(tcp) if tcp.is_connecting() && readiness.failed => {
                let error = error.unwrap_or(Errno(libc::ECONNREFUSED));
                self.refuse(now, socket.flow, error, true);
            }
            Kind::Tcp(tcp) => {
                if tcp.is_connecting() {
                    self.resolvers.connected(socket.flow);
                }
                self.with_tcp(now, socket.flow, |tcp, cx| tcp.ready(cx, readiness, error));
            }
            Kind::Splice(splice) => {
                let fate = splice.ready(socket.side, readiness, error);
                self.after(now, socket.flow, fate);
            }
            Kind::Datagram(_) | Kind::Relay(_) | Kind::Member(_) => {}
        }
    }

    fn peeked(&mut self, now: Instant, socket: SocketId, result: Result<Span, Errno>) {
        self.with_tcp(now, socket.flow, |tcp, cx| tcp.peeked(cx, result));
    }

    fn written(&mut self, now: Instant, socket: SocketId, result: Result<u32, Errno>, rest: &[u8]) {
        self.with_tcp(now, socket.flow, |tcp, cx| tcp.written(cx, result, rest));
    }

    fn pumped(
        &mut self,
        now: Instant,
        id: FlowId,
        from: Side,
        result: Result<crate::event::PumpStop, Errno>,
    ) {
        let Some(live) = self.flows.get_mut(id) else {
            return;
        };
        let Kind::Splice(splice) = &mut live.kind else {
            return;
        };
        let (fate, flushed) = splice.pumped(id, &mut self.out, from, result);
        if flushed == Flushed::Waits && !live.queued {
            live.queued = true;
            self.later.push_back(id);
        }
        self.after(now, id, fate);
    }

    /// The host's neighbours are others, of which the guest may be told.
    fn neighbour(&mut self, address: IpAddr, mac: Option<Mac>) {
        let guest = self.stations.last();
        let told = self.local.neighbour(&self.config, guest, address, mac);
        self.out.extend(told);
    }

    fn timer(&mut self, now: Instant) {
        let guest = self.stations.last();
        let advertisement = self.local.timer(&self.config, now, guest);
        self.out.extend(advertisement);
        self.fragments.expire(now);
        self.groups_due(now);
        // Each flow once: a deadline that is not moved by being looked at waits for the next time.
        let mut due = std::mem::take(&mut self.due);
        due.extend(std::iter::from_fn(|| self.deadlines.expired(now)));
        for index in due.drain(..) {
            let Some(id) = self.flows.at(index) else {
                continue;
            };
            if !self.datagrams_due(now, id) {
                self.with_tcp(now, id, |tcp, cx| tcp.timer(cx));
            }
        }
        self.due = due;
    }

    /// The guest learns why it gets no connection, as its kernel would have learnt from a router.
    fn refuse(&mut self, now: Instant, id: FlowId, error: Errno, open: bool) {
        let Some(Live {
            kind: Kind::Tcp(tcp),
            ..
        }) = self.flows.get(id)
        else {
            return;
        };
        let tuple = *tcp.tuple();
        self.resolvers.not_connected(now, id, error);
        let answer = refusal(error, tuple.guest.0.is_ipv4());
        match answer {
            Refusal::Silence => {}
            Refusal::Reset => {
                self.with_tcp(now, id, |tcp, cx| {
                    tcp.refuse(cx);
                    Fate::Stays
                });
            }
            Refusal::Unreachable(kind, code) => {
                let (syn, link) = (tcp.syn(), self.link_of(id));
                self.unreachable(&link, &tuple, syn, kind, code);
            }
        }
        if matches!(error.0, libc::EMFILE | libc::ENFILE | libc::EADDRNOTAVAIL)
            && let Some(to) = self.translation.to_host(tuple.far, Transport::Tcp)
        {
            self.report(Report::NoSocket {
                transport: Transport::Tcp,
                to: to.0,
                error,
            });
        }
        self.remove(id);
        if open {
            let socket = SocketId::host(id);
            let reset = true;
            self.out.push_back(Output::Close { socket, reset });
        }
    }

    /// An ICMP error about the guest's SYN, quoted.
    fn unreachable(&mut self, link: &Link, tuple: &Tuple, syn: Seq, kind: u8, code: u8) {
        let (guest, far) = (tuple.guest.0, tuple.far.0);
        let header = wire::Header {
            source: guest.port(),
            destination: far.port(),
            sequence: syn.0,
            flags: wire::Flags::SYN,
            ..wire::Header::default()
        };
        let quoted = build::tcp(link, guest.ip(), far.ip(), &header, 0);
        let quote = quoted.as_bytes().get(eth::LEN..).unwrap_or_default();
        let error = icmp::Error {
            kind,
            code,
            rest: 0,
            quote,
        };
        let headers = build::icmp_error(link, far.ip(), guest.ip(), &error);
        self.out.push_back(Output::Frame {
            headers,
            payload: Payload::Bytes(quote.to_vec()),
            offload: Offload::default(),
            lane: Lane::Last,
        });
    }

    fn batch_end(&mut self, now: Instant) {
        self.end_stalled(now);
        self.shared.round = limits::ROUND_BYTES;
        // Who waited comes first, or those whose guests answer at once would use up each round.
        self.later.append(&mut self.dirty);
        std::mem::swap(&mut self.later, &mut self.dirty);
        self.turn = None;
        self.flushing = true;
    }

    /// Make room for the bytes of flows that work.
    fn end_stalled(&mut self, now: Instant) {
        for _ in 0..limits::STALLED_ENDED {
            if self.shared.kept < limits::KEPT_CROWDED {
                return;
            }
            let stalled = self.flows.unused(Class::Stalled, now, limits::STALLED_FOR);
            let Some(id) = stalled else { return };
            self.evict(now, id);
            self.report(Report::TooMuchKept);
        }
    }

    /// Let a flow say what there is to say.
    fn flush(&mut self, id: FlowId) {
        let (Some(now), Some(live)) = (self.now, self.flows.get_mut(id)) else {
            return;
        };
        live.queued = false;
        let left = self.shared.round;
        let link = link(self.our_mac, live.station(&self.stations));
        let (flushed, deadline) = match &mut live.kind {
            Kind::Splice(splice) => (splice.flush(id, &mut self.out), None),
            Kind::Tcp(tcp) => {
                let mut cx = Cx {
                    now,
                    id,
                    out: &mut self.out,
                    link,
                    shared: &mut self.shared,
                };
                (tcp.flush(&mut cx), tcp.deadline())
            }
            Kind::Datagram(_) | Kind::Relay(_) | Kind::Member(_) => return,
        };
        if flushed == Flushed::Waits {
            live.queued = true;
            self.later.push_back(id);
        }
        let before = self.turn.filter(|(whose, _)| *whose == id);
        let asked = left.saturating_sub(self.shared.round);
        self.turn = Some((id, before.map_or(0, |(_, bytes)| bytes) + asked));
        if let Some(deadline) = deadline {
            self.deadlines.set(id.index, deadline);
        }
    }

    /// Let a TCP flow handle something, and look after it.
    fn with_tcp(
        &mut self,
        now: Instant,
        id: FlowId,
        handle: impl FnOnce(&mut Tcp, &mut Cx<'_>) -> Fate,
    ) -> Option<Fate> {
        let live = self.flows.get_mut(id)?;
        let link = link(self.our_mac, live.station(&self.stations));
        let Kind::Tcp(tcp) = &mut live.kind else {
            return None;
        };
        let mut cx = Cx {
            now,
            id,
            out: &mut self.out,
            link,
            shared: &mut self.shared,
        };
        let fate = handle(tcp, &mut cx);
        self.after(now, id, fate);
        Some(fate)
    }

    /// A flow has handled something.
    fn after(&mut self, now: Instant, id: FlowId, fate: Fate) {
        let Some(live) = self.flows.get_mut(id) else {
            return;
        };
        if matches!(fate, Fate::Gone | Fate::Again) {
            if let Kind::Splice(splice) = &live.kind {
                splice.close(id, &mut self.out);
            }
            self.remove(id);
            return;
        }
        let (class, deadline, used) = match &mut live.kind {
            Kind::Tcp(tcp) => (tcp.class(), tcp.deadline(), tcp.used()),
            Kind::Splice(splice) => (splice.class(), None, true),
            Kind::Datagram(_) | Kind::Relay(_) | Kind::Member(_) => return,
        };
        if !live.queued {
            live.queued = true;
            let turn = limits::TURN_BYTES;
            match self.turn {
                Some((whose, bytes)) if whose == id && bytes < turn && self.flushing => {
                    self.dirty.push_front(id);
                }
                _ => self.dirty.push_back(id),
            }
        }
        if let Some(deadline) = deadline {
            self.deadlines.set(id.index, deadline);
        }
        if class != live.class {
            let asked = matches!(&live.kind, Kind::Tcp(tcp) if tcp.is_guests());
            if live.class == Class::HalfOpen && asked {
                self.unanswered.one_less();
            }
            live.class = class;
            self.flows.set_class(id, now, class);
        } else if used {
            self.flows.touch(id, now);
        }
    }

    fn insert(&mut self, now: Instant, tuple: Option<Tuple>, kind: Kind) -> FlowId {
        let class = Class::HalfOpen;
        self.counters.count(kind.counter(Fortune::Made));
        self.flows.insert(now, tuple, class, Live::new(kind, class))
    }

    /// A frame to this link-layer address of the guest's.
    fn link(&self, destination: Mac) -> Link {
        link(self.our_mac, destination)
    }

    /// Frames of this flow.
    fn link_of(&self, id: FlowId) -> Link {
        let live = self.flows.get(id);
        let last = || self.stations.last();
        self.link(live.map_or_else(last, |live| live.station(&self.stations)))
    }

    /// The guest's frames of this flow come from there.
    fn heard_from(&mut self, id: FlowId, mac: Mac) {
        if let Some(live) = self.flows.get_mut(id) {
            live.station = Some(mac);
        }
    }

    fn remove(&mut self, id: FlowId) {
        self.deadlines.remove(id.index);
        if let Some(now) = self.now {
            self.resolvers.withdrawn(now, id);
        }
        if let Some(live) = self.flows.remove(id) {
            self.counters.count(live.kind.counter(Fortune::Ended));
        }
    }

    /// Room for one more flow, if another one can give way.
    fn make_room(&mut self, now: Instant, class: Class) -> bool {
        self.make_room_for(now, class, 1)
    }

    /// Room for a flow with so many descriptors, if others can give way: no more than one for each descriptor.
    fn make_room_for(&mut self, now: Instant, class: Class, descriptors: u32) -> bool {
        for _ in 0..=descriptors {
            let Some((of, limit)) = self.flows.crowded(class, descriptors) else {
                return true;
            };
            let victim = self.flows.victim(class, now);
            let evicted = victim.is_some();
            if let Some(id) = victim {
                self.evict(now, id);
            }
            self.report(Report::TableFull { limit, of, evicted });
            if !evicted {
                return false;
            }
        }
        false
    }

    fn evict(&mut self, now: Instant, id: FlowId) {
        let Some(live) = self.flows.get(id) else {
            return;
        };
        self.counters.count(live.kind.counter(Fortune::Evicted));
        match &live.kind {
            Kind::Tcp(_) => {
                self.with_tcp(now, id, |tcp, cx| tcp.abort(cx));
            }
            Kind::Splice(_) => self.after(now, id, Fate::Gone),
            Kind::Datagram(_) | Kind::Relay(_) | Kind::Member(_) => self.end_datagrams(id),
        }
    }

    /// The initial sequence number (RFC 9293, 3.4.1): a clock of 4 microseconds and a keyed hash.
    fn initial(&self, now: Instant, tuple: &Tuple) -> Seq {
        let mut hasher = DefaultHasher::new();
        (self.seed, tuple).hash(&mut hasher);
        let began = self.began.unwrap_or(now);
        let ticks = now.saturating_duration_since(began).as_micros() / 4;
        let low = |number: u128| u32::try_from(number & 0xffff_ffff).unwrap_or(0);
        Seq(low(u128::from(hasher.finish()))).plus(low(ticks))
    }
}

impl Live {
    fn new(kind: Kind, class: Class) -> Self {
        Self {
            kind,
            class,
            queued: false,
            station: None,
        }
    }

    /// Where frames for the guest's end go. A guest that does not answer there may have moved: every other time it is
    /// looked for where its address was heard last.
    fn station(&self, stations: &Stations) -> Mac {
        let (guest, lost) = match &self.kind {
            Kind::Tcp(tcp) => (Some(tcp.tuple().guest), tcp.is_looked_for()),
            Kind::Datagram(flow) => (Some(flow.tuple().guest), false),
            Kind::Splice(_) | Kind::Relay(_) | Kind::Member(_) => (None, false),
        };
        let known = || guest.map_or_else(|| stations.last(), |guest| stations.of(guest.0.ip()));
        self.station.filter(|_| !lost).unwrap_or_else(known)
    }
}

fn link(source: Mac, destination: Mac) -> Link {
    Link {
        source,
        destination,
    }
}

/// What the guest is told of a connection that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Nothing: it asks again, or its own patience ends.
    Silence,
    /// Nobody listens.
    Reset,
    /// Type and code of an ICMP error.
    Unreachable(u8, u8),
}

/// The guest's kernel makes of it what ours said: no route, no such machine, not permitted. A peer that was silent stays
/// silent, and what we lack ourselves (descriptors, memory) is worth another SYN.
fn refusal(error: Errno, v4: bool) -> Refusal {
    let (kind, net, host, forbidden) = if v4 {
        (icmp::v4::UNREACHABLE, 0, 1, 13)
    } else {
        (icmp::v6::UNREACHABLE, 0, 3, 1)
    };
    match error.0 {
        libc::ENETUNREACH | libc::ENETDOWN => Refusal::Unreachable(kind, net),
        libc::EHOSTUNREACH | libc::EHOSTDOWN => Refusal::Unreachable(kind, host),
        libc::EACCES | libc::EPERM => Refusal::Unreachable(kind, forbidden),
        libc::ETIMEDOUT
        | libc::EMFILE
        | libc::ENFILE
        | libc::ENOBUFS
        | libc::ENOMEM
        | libc::EAGAIN => Refusal::Silence,
        _ => Refusal::Reset,
    }
}

/// The segment size of the guest's for the host's side. It matters only where it is small: then the guest's MTU was made
/// small for the sake of a way that loses larger packets.
fn passed_on(mss: Option<u16>, v4: bool) -> Option<u16> {
    let (v4_sizes, v6_sizes) = limits::MSS_PASSED_ON;
    let sizes = if v4 { v4_sizes } else { v6_sizes };
    mss.filter(|mss| *mss < sizes.end)
        .map(|mss| mss.max(sizes.start))
}

/// Where in `whole` its part `part` begins.
fn offset_of(whole: &[u8], part: &[u8]) -> u32 {
    let distance = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    u32::try_from(distance).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::arp;

    #[test]
    fn the_link_answers() {
        let config = crate::local::tests::config();
        let now = crate::local::tests::start();
        let mut forwarder = Forwarder::new(&config, 1);
        let link = Link {
            source: [2, 0, 0, 0, 0, 7],
            destination: eth::BROADCAST,
        };
        let request = arp::Message {
            operation: arp::Operation::Request,
            sender_mac: link.source,
            sender: [192, 0, 2, 10].into(),
            target_mac: [0; 6],
            target: [192, 0, 2, 1].into(),
        };
        let frame = build::arp(&link, request);
        let event = Event::Frame {
            bytes: frame.as_bytes(),
            at: 0,
            offload: Offload::default(),
        };
        forwarder.handle(now, event);
        let Some(Output::Frame { headers, .. }) = forwarder.poll() else {
            panic!("no answer");
        };
        let (header, rest) = eth::parse(headers.as_bytes()).unwrap();
        assert_eq!(header.destination, link.source);
        assert_eq!(arp::parse(rest).unwrap().sender, request.target);
        assert_eq!(forwarder.poll(), None);

        let due = forwarder.deadline().expect("router advertisements go out");
        forwarder.handle(due, Event::Timer);
        assert!(matches!(forwarder.poll(), Some(Output::Frame { .. })));
    }
}
