//! One run: who opens, how much each says, how it ends, on which link.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::socket::tcp;
use usernet::config::{Announce, Config, Families, Family, Link as TapLink, Listener, Off};
use usernet::event::{
    Errno, Event, ListenerId, Offload, Output, Payload, Pending, Readiness, Side, SocketId, Span,
    Transport,
};
use usernet::forwarder::Forwarder;
use usernet::tcp::seq::Seq;

use crate::guest::{self, Guest};
use crate::host::Socket;
use crate::link::{Link, Quality};
use crate::random::Random;

/// Who begins, or breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Guest,
    Host,
    Nobody,
}

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mixed,
    Loss,
    Duplicates,
    Disorder,
    Delay,
    Everything,
    ZeroWindow,
    TinyWindow,
    SmallMtu,
    BothWays,
    HalfClosed,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    seed: u64,
    v6: bool,
    mtu: u32,
    opens: Who,
    /// Bytes that each says.
    guest_says: usize,
    host_says: usize,
    /// Each ends only when it has read the other's end.
    guest_polite: bool,
    host_polite: bool,
    /// Somebody resets when so many bytes have arrived at it.
    breaks: Who,
    breaks_at: usize,
    /// The host's connect fails.
    refused: Option<i32>,
    guest_rx: usize,
    guest_tx: usize,
    host_room: usize,
    /// How long programs pause, microseconds.
    pause: (u64, u64),
    /// Who reads nothing for how many microseconds, once something has arrived there: its window closes.
    sleeps: Who,
    sleep: u64,
    up: Quality,
    down: Quality,
}

impl Plan {
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let opens = random.pick(&[Who::Guest, Who::Host]);
        let bad = random.pick(&[0, 0, 5, 30, 100]);
        let mut quality = || Quality {
            loss_permille: bad.min(random.within(0, 100)),
            twice_permille: bad.min(random.within(0, 100)),
            delay: random.pick(&[(10, 10), (10, 500), (100, 20_000), (20_000, 20_000)]),
        };
        let (up, down) = (quality(), quality());
        let sizes = [0, 1, 10, 1000, 20_000, 100_000, 400_000];
        let says = |random: &mut Random| {
            let most = random.pick(&sizes);
            random.size(most / 2, most)
        };
        let guest_says = says(&mut random);
        let host_says = says(&mut random);
        let polite = random.within(0, 2);
        Self {
            seed,
            v6: random.permille(300),
            mtu: random.pick(&[1280, 1500, 9000, 65_520]),
            opens,
            guest_says,
            host_says,
            guest_polite: polite == 1,
            host_polite: polite == 2,
            breaks: random.pick(&[Who::Nobody, Who::Nobody, Who::Nobody, Who::Guest, Who::Host]),
            breaks_at: random.size(0, 50_000),
            refused: random
                .permille(50)
                .then_some(random.pick(&[libc::ECONNREFUSED, libc::EHOSTUNREACH])),
            guest_rx: random.pick(&[600, 4_000, 65_000, 300_000]),
            guest_tx: random.pick(&[600, 4_000, 65_000, 300_000]),
            host_room: random.pick(&[100, 4_000, 65_000, 1_000_000]),
            pause: random.pick(&[(1, 10), (10, 1_000), (1_000, 200_000)]),
            sleeps: Who::Nobody,
            sleep: random.within(60_000_000, 90_000_000),
            up,
            down,
        }
    }

    /// The same seed, and what this kind of run is about.
    pub(crate) fn of(kind: Kind, seed: u64) -> Self {
        let mut plan = Self::from_seed(seed);
        let mut random = Random::new(!seed);
        let mut quality = |loss, twice, delay| {
            let mut permille = |most| random.within(most / 10, most);
            plan.up = Quality {
                loss_permille: permille(loss),
                twice_permille: permille(twice),
                delay,
            };
            plan.down = Quality {
                loss_permille: permille(loss),
                twice_permille: permille(twice),
                delay,
            };
        };
        match kind {
            Kind::Mixed => {}
            Kind::Loss => quality(100, 0, (10, 10)),
            Kind::Duplicates => quality(0, 100, (10, 10)),
            Kind::Disorder => quality(0, 0, (10, 20_000)),
            Kind::Delay => quality(0, 0, (100_000, 100_000)),
            Kind::Everything => quality(100, 100, (100, 20_000)),
            Kind::ZeroWindow => {
                plan.sleeps = random.pick(&[Who::Guest, Who::Host]);
                plan.guest_says = plan.guest_says.max(100_000);
                plan.host_says = plan.host_says.max(100_000);
            }
            Kind::TinyWindow => {
                plan.guest_rx = random.size(64, 600);
                plan.host_room = random.size(1, 600);
                plan.guest_says = plan.guest_says.min(20_000);
                plan.host_says = plan.host_says.min(20_000);
            }
            Kind::SmallMtu => {
                plan.v6 = false;
                plan.mtu = random.pick(&[576, 296, 128]);
                // smoltcp knows no selective acknowledgements: every loss costs it a timeout.
                plan.guest_says = plan.guest_says.min(40_000);
                plan.host_says = plan.host_says.min(100_000);
            }
            Kind::BothWays => {
                plan.guest_says = plan.guest_says.max(200_000);
                plan.host_says = plan.host_says.max(200_000);
                (plan.guest_polite, plan.host_polite) = (false, false);
            }
            Kind::HalfClosed => {
                plan.guest_polite = random.permille(500);
                plan.host_polite = !plan.guest_polite;
                plan.guest_says = plan.guest_says.max(10_000);
                plan.host_says = plan.host_says.max(10_000);
            }
        }
        plan
    }

    /// Somebody is to reset or to refuse.
    pub(crate) fn is_violent(&self) -> bool {
        self.breaks != Who::Nobody || self.refused.is_some() && self.opens == Who::Guest
    }

    /// Any plan for IPv4.
    pub(crate) fn v4() -> Self {
        Self {
            v6: false,
            ..Self::from_seed(0)
        }
    }

    fn ends(&self) -> (IpAddr, IpAddr, IpAddr) {
        let parse = |text: &str| text.parse().expect("an address");
        if self.v6 {
            (
                parse("2001:db8::2"),
                parse("fe80::1"),
                parse("2001:db8:9::9"),
            )
        } else {
            (
                parse("10.0.2.100"),
                parse("10.0.2.2"),
                parse("198.51.100.7"),
            )
        }
    }

    pub(crate) fn config(&self) -> Config {
        let (guest, ours, _) = self.ends();
        let prefix = if self.v6 { 64 } else { 24 };
        let family = Family {
            addresses: vec![ipnet::IpNet::new(guest, prefix).expect("a prefix")],
            gateway: Some(ours),
            routes: Vec::new(),
            ours,
            template: None,
            dns_forward: None,
            dns_host: None,
            map_host_loopback: None,
            map_guest: None,
            outbound: None,
            outbound_interface: None,
            fixed: true,
        };
        Config {
            link: TapLink {
                name: "tap0".into(),
                our_mac: [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
                guest_mac: None,
                mtu: self.mtu,
            },
            families: Families {
                v4: (!self.v6).then(|| family.clone()),
                v6: self.v6.then_some(family),
            },
            off: Off {
                ra: true,
                ..Off::default()
            },
            announce: Announce::default(),
            listeners: vec![Listener {
                side: Side::Host,
                transport: Transport::Tcp,
                address: None,
                interface: None,
                first: 8080,
                last: 8090,
                target: 80,
                target_address: None,
                best_effort: false,
                follow: false,
            }],
            splice: true,
            splice_only: false,
            loopback_to_loopback: false,
        }
    }
}

/// A program: what it says and what it heard.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) says: Vec<u8>,
    said: usize,
    ended: bool,
    pub(crate) heard: Vec<u8>,
    /// It read the other's end.
    heard_end: bool,
    /// It learnt that the connection is broken.
    pub(crate) broken: bool,
    polite: bool,
    wakes: u64,
    /// Times it found nothing to do: it looks less often.
    idle: u32,
    /// It has slept.
    slept: bool,
}

impl Program {
    pub(crate) fn new(len: usize, polite: bool, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            says: (0..len).map(|_| random.next().to_le_bytes()[0]).collect(),
            said: 0,
            ended: false,
            heard: Vec::new(),
            heard_end: false,
            broken: false,
            polite,
            wakes: 0,
            idle: 0,
            slept: false,
        }
    }

    /// How far it is.
    fn progress(&self) -> (usize, usize, bool, bool, bool) {
        (
            self.said,
            self.heard.len(),
            self.ended,
            self.heard_end,
            self.broken,
        )
    }

    /// It had its turn: when it wants the next one.
    fn rest(&mut self, now: u64, pause: u64, before: (usize, usize, bool, bool, bool)) {
        self.idle = if self.progress() == before {
            self.idle + 1
        } else {
            0
        };
        self.wakes = now + (pause << self.idle.min(20)).min(pause.max(300_000));
    }

    /// Say and hear a portion over a socket of the model.
    pub(crate) fn talk(&mut self, socket: &mut Socket, portion: usize) {
        if !self.ended {
            let end = self.says.len().min(self.said + portion);
            self.said += socket.peer_sends(&self.says[self.said..end]);
        }
        self.heard.extend(socket.peer_reads(portion));
        self.heard_end |= socket.peer_at_end();
        if self.may_end() {
            socket.peer_ends();
            self.ended = true;
        }
    }

    /// It has something to read, and leaves it there. Not when it has ended: smoltcp forgets what is not read when the
    /// connection is over.
    fn falls_asleep(&mut self, now: u64, sleep: u64) -> bool {
        if self.slept || self.ended || self.heard.is_empty() {
            return false;
        }
        self.slept = true;
        self.wakes = now + sleep;
        true
    }

    fn may_end(&self) -> bool {
        self.said == self.says.len() && !self.ended && (self.heard_end || !self.polite)
    }

    pub(crate) fn over(&self) -> bool {
        self.broken || self.ended && self.heard_end
    }
}

pub(crate) struct World {
    plan: Plan,
    random: Random,
    start: Instant,
    /// Microseconds since then.
    now: u64,
    forwarder: Forwarder,
    guest: Guest,
    up: Link,
    down: Link,
    arena: Vec<u8>,
    sockets: BTreeMap<SocketId, Socket>,
    /// The flow's socket, once it exists.
    socket: Option<SocketId>,
    /// When the host's connect ends.
    connects: Option<u64>,
    /// The accepted connection before it is adopted.
    pending: Option<Socket>,
    guest_program: Program,
    host_program: Program,
    broke: bool,
    /// The host's FIN arrived at the guest: smoltcp forgets it when it closes.
    guest_saw_end: bool,
    /// The right edge of the window that the guest was told.
    edge: Option<Seq>,
    /// The guest sent beyond it.
    trespassed: bool,
    trace: bool,
}

/// How a run ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine,
    /// Somebody reset or refused, as planned, and both ends know.
    Reset,
    /// The guest's TCP forgot to send again what it had sent beyond the window.
    GuestStuck,
}

const HOUR: u64 = 3_600_000_000;

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let (address, ours, far) = plan.ends();
        let seed = plan.seed;
        let mtu = usize::try_from(plan.mtu).expect("small");
        let mut guest = Guest::new(address, ours, mtu, plan.guest_rx, plan.guest_tx, seed);
        if plan.breaks == Who::Host {
            // A reset is sent once. A guest that only listens learns of a lost one by asking.
            let minute = smoltcp::time::Duration::from_secs(60);
            guest.socket().set_keep_alive(Some(minute));
        }
        if plan.opens == Who::Guest {
            guest.connect((far, 7777).into(), 40_000);
        } else {
            guest.socket().listen(80).expect("a port");
        }
        Self {
            random: Random::new(seed ^ 0x5eed),
            start: Instant::now(),
            now: 0,
            forwarder: Forwarder::new(&plan.config(), seed),
            guest,
            up: Link::new(plan.up, seed ^ 1),
            down: Link::new(plan.down, seed ^ 2),
            arena: Vec::new(),
            sockets: BTreeMap::new(),
            socket: None,
            connects: None,
            pending: None,
            guest_program: Program::new(plan.guest_says, plan.guest_polite, seed ^ 3),
            host_program: Program::new(plan.host_says, plan.host_polite, seed ^ 4),
            broke: false,
            guest_saw_end: false,
            edge: None,
            trespassed: false,
            trace: std::env::var_os("USERNET_SIM_SEED").is_some(),
            plan: plan.clone(),
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        if self.plan.opens == Who::Host {
            self.pending = Some(Socket::new(self.plan.host_room));
            let (_, _, far) = self.plan.ends();
            let event = Event::Connection {
                listener: ListenerId(0),
                pending: Pending(1),
                peer: SocketAddr::new(far, 50_000),
                local: SocketAddr::new(far, 8080),
            };
            self.forwarder.handle(self.at(), event);
            self.drain();
        }
        while !self.over() {
            self.guest_turn();
            self.host_turn();
            self.forwarder_turn();
            self.advance();
            if self.now >= HOUR && self.trespassed {
                return Outcome::GuestStuck;
            }
            let state = self.guest.socket().state();
            assert!(
                self.over() || self.now < HOUR,
                "hangs: {}, {state}",
                self.state()
            );
        }
        self.settle();
        self.judge();
        if self.guest_program.broken || self.host_program.broken {
            Outcome::Reset
        } else {
            Outcome::Fine
        }
    }

    fn state(&self) -> String {
        let of = |program: &Program| {
            format!(
                "said {}/{} heard {} ended {} end {} broken {}",
                program.said,
                program.says.len(),
                program.heard.len(),
                program.ended,
                program.heard_end,
                program.broken
            )
        };
        format!(
            "guest: {}; host: {}",
            of(&self.guest_program),
            of(&self.host_program)
        )
    }

    fn at(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    fn over(&self) -> bool {
        self.guest_program.over() && self.host_program.over()
    }

    /// What still flies arrives, timers run out: the table must become empty.
    fn settle(&mut self) {
        let until = self.now + HOUR;
        while self.now < until && (self.forwarder.flows() > 0 || self.up.next().is_some()) {
            self.guest_turn();
            self.forwarder_turn();
            self.advance();
        }
        assert_eq!(self.forwarder.flows(), 0, "a flow stays");
        assert!(
            self.sockets.values().all(|socket| socket.closed.is_some()),
            "a socket stays open"
        );
    }

    fn judge(&self) {
        let (guest, host) = (&self.guest_program, &self.host_program);
        let state = self.state();
        assert!(
            host.says.starts_with(&guest.heard),
            "the guest heard something else: {state}"
        );
        assert!(
            guest.says.starts_with(&host.heard),
            "the host heard something else: {state}"
        );
        if self.broke || self.plan.refused.is_some() && self.plan.opens == Who::Guest {
            return;
        }
        assert!(!guest.broken && !host.broken, "reset for nothing: {state}");
        assert_eq!(guest.heard.len(), host.says.len(), "{state}");
        assert_eq!(host.heard.len(), guest.says.len(), "{state}");
    }

    fn advance(&mut self) {
        let micros = i64::try_from(self.now).expect("hours");
        let smoltcp = self
            .guest
            .poll_in(micros)
            .map(|delay| self.now + delay.total_micros());
        let deadline = self.forwarder.deadline().map(|at| {
            let due = at.saturating_duration_since(self.start);
            u64::try_from(due.as_nanos().div_ceil(1000)).expect("hours")
        });
        let program = |program: &Program| (!program.over()).then_some(program.wakes);
        let edge = self
            .sockets
            .values()
            .any(Socket::has_edge)
            .then_some(self.now);
        let times = [
            smoltcp,
            deadline,
            edge,
            self.up.next(),
            self.down.next(),
            self.connects,
            program(&self.guest_program),
            program(&self.host_program),
        ];
        let next = times.into_iter().flatten().min().unwrap_or(HOUR);
        self.now = next.max(self.now + 1);
    }

    fn pause(&mut self) -> u64 {
        self.random.within(self.plan.pause.0, self.plan.pause.1)
    }

    // The guest.

    fn guest_turn(&mut self) {
        while let Some(packet) = self.down.arrive(self.now) {
            self.guest.queues.incoming.push_back(packet);
        }
        let micros = i64::try_from(self.now).expect("hours");
        self.guest.poll(micros);
        self.guest_saw_end |= matches!(
            self.guest.socket().state(),
            tcp::State::CloseWait
                | tcp::State::LastAck
                | tcp::State::Closing
                | tcp::State::TimeWait
        );
        if self.guest_program.wakes <= self.now && !self.guest_program.over() {
            let sleeps = self.plan.sleeps == Who::Guest;
            if !(sleeps && self.guest_program.falls_asleep(self.now, self.plan.sleep)) {
                let (pause, before) = (self.pause(), self.guest_program.progress());
                self.guest_acts();
                self.guest_program.rest(self.now, pause, before);
            }
            self.guest.poll(micros);
        }
        while let Some(packet) = self.guest.queues.outgoing.pop_front() {
            self.trespassed |= self.beyond_window(&packet);
            self.up.send(self.now, packet);
        }
    }

    /// smoltcp's fast retransmission does not look at the window, and when a part of it is then acknowledged with a
    /// window of zero, it takes its probe timer in the place of its retransmission timer and never sends the rest: a run
    /// that hangs after that is its fault.
    fn beyond_window(&self, packet: &[u8]) -> bool {
        let packet = usernet::packet::ip::parse(packet).expect("smoltcp makes packets");
        let Ok((header, _, payload)) = usernet::packet::tcp::parse(packet.payload) else {
            return false;
        };
        let end = Seq(header.sequence).plus(u32::try_from(payload.len()).expect("small"));
        payload.len() > 1 && self.edge.is_some_and(|edge| end > edge)
    }

    /// What the guest may send, by what we told it.
    fn note_edge(&mut self, packet: &usernet::packet::ip::Packet<'_>) {
        use usernet::packet::tcp::{Flags, parse};
        let Ok((header, _, _)) = parse(packet.payload) else {
            return;
        };
        if !header.flags.has(Flags::ACK) || header.flags.has(Flags::RST) {
            return;
        }
        let scale = if header.flags.has(Flags::SYN) { 0 } else { 7 };
        let edge = Seq(header.acknowledgement).plus(u32::from(header.window) << scale);
        // By less than one unit it may: windows are rounded (RFC 7323, 2.4).
        let before = self.edge.unwrap_or(edge);
        assert!(edge.plus(127) >= before, "the right edge moves left");
        self.edge = Some(edge.max(before));
    }

    fn guest_acts(&mut self) {
        let portion = self.random.size(1, 30_000);
        let program = &mut self.guest_program;
        let socket = self.guest.socket();
        if self.plan.breaks == Who::Guest
            && program.heard.len() >= self.plan.breaks_at
            && socket.may_send()
        {
            socket.abort();
            program.broken = true;
            self.broke = true;
            return;
        }
        if socket.may_send() && program.said < program.says.len() {
            let end = program.says.len().min(program.said + portion);
            program.said += socket
                .send_slice(&program.says[program.said..end])
                .expect("open");
        }
        let mut room = vec![0; portion];
        match socket.recv_slice(&mut room) {
            Ok(len) => program.heard.extend(&room[..len]),
            Err(tcp::RecvError::Finished) => program.heard_end = true,
            Err(tcp::RecvError::InvalidState) => {}
        }
        program.heard_end |= self.guest_saw_end && socket.recv_queue() == 0;
        if program.may_end() && socket.may_send() {
            socket.close();
            program.ended = true;
        }
        let last = socket.state() == tcp::State::Closed && socket.recv_queue() == 0;
        if last && !(program.ended && program.heard_end) {
            // Closed after the handshake of a listening socket, a reset, or the acknowledgement of our FIN.
            program.broken = true;
        }
    }

    // The host.

    fn host_turn(&mut self) {
        if self.connects.is_some_and(|at| at <= self.now) {
            self.connects = None;
            let refused = self.plan.refused;
            if let Some(socket) = self.socket.and_then(|id| self.sockets.get_mut(&id)) {
                match refused {
                    Some(error) => socket.fail(error),
                    None => socket.connected(),
                }
            }
            if refused.is_some() {
                self.host_program.broken = true;
            }
        }
        if self.connects.is_none()
            && self.host_program.wakes <= self.now
            && !self.host_program.over()
        {
            let sleeps = self.plan.sleeps == Who::Host;
            if sleeps && self.host_program.falls_asleep(self.now, self.plan.sleep) {
                return;
            }
            let (pause, before) = (self.pause(), self.host_program.progress());
            self.host_acts();
            self.host_program.rest(self.now, pause, before);
        }
    }

    fn host_acts(&mut self) {
        let portion = self.random.size(1, 30_000);
        let program = &mut self.host_program;
        let socket = match self.socket {
            Some(id) => self.sockets.get_mut(&id),
            None => self.pending.as_mut(),
        };
        let Some(socket) = socket else {
            return;
        };
        if socket.closed == Some(true) {
            program.broken = true;
            return;
        }
        if self.plan.breaks == Who::Host
            && program.heard.len() >= self.plan.breaks_at
            && socket.closed.is_none()
            && self.socket.is_some()
        {
            socket.fail(libc::ECONNRESET);
            program.broken = true;
            self.broke = true;
            return;
        }
        program.talk(socket, portion);
    }

    // The forwarder, and what the shell does.

    fn forwarder_turn(&mut self) {
        self.arena.clear();
        while let Some(packet) = self.up.arrive(self.now) {
            let kind: [u8; 2] = if self.plan.v6 { [0x86, 0xdd] } else { [8, 0] };
            let at = self.arena.len();
            self.arena
                .extend([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 2, 0, 0, 0, 0, 1]);
            self.arena.extend(kind);
            self.arena.extend(&packet);
            let now = self.at();
            let event = Event::Frame {
                bytes: &self.arena[at..],
                at: u32::try_from(at).expect("small"),
                offload: Offload::default(),
            };
            self.show("up", &self.arena[at..]);
            self.forwarder.handle(now, event);
            self.drain();
        }
        let edges: Vec<_> = self
            .sockets
            .iter_mut()
            .filter_map(|(id, socket)| Some((*id, socket.take_edge()?)))
            .collect();
        for (socket, (readiness, error)) in edges {
            self.tell_ready(socket, readiness, error);
        }
        if self.forwarder.deadline().is_some_and(|at| at <= self.at()) {
            self.forwarder.handle(self.at(), Event::Timer);
            self.drain();
        }
        self.forwarder.handle(self.at(), Event::BatchEnd);
        self.drain();
    }

    fn tell_ready(&mut self, socket: SocketId, readiness: Readiness, error: Option<Errno>) {
        let event = Event::Ready {
            socket,
            readiness,
            error,
        };
        self.forwarder.handle(self.at(), event);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.forwarder.poll() {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Frame {
                headers,
                payload,
                offload,
                ..
            } => self.transmit(headers.as_bytes(), &payload, offload),
            Output::Connect { socket, to, .. } => {
                self.sockets
                    .insert(socket, Socket::new(self.plan.host_room));
                self.socket = Some(socket);
                self.connects = Some(self.now + self.random.within(0, 50_000));
                let result = Ok(SocketAddr::new(to.ip(), 1));
                self.forwarder
                    .handle(self.at(), Event::Opened { socket, result });
            }
            Output::Adopt { socket, .. } => {
                let adopted = self.pending.take().expect("was accepted");
                self.sockets.insert(socket, adopted);
                self.socket = Some(socket);
            }
            Output::Peek {
                socket,
                offset,
                max,
            } => {
                let full = self.random.permille(20);
                let bytes = if full {
                    Err(Errno(libc::ENOBUFS))
                } else {
                    self.sockets[&socket].peek(offset, max)
                };
                let result = bytes.map(|bytes| {
                    let at = u32::try_from(self.arena.len()).expect("small");
                    self.arena.extend(&bytes);
                    let len = u32::try_from(bytes.len()).expect("small");
                    Span { at, len }
                });
                self.forwarder
                    .handle(self.at(), Event::Peeked { socket, result });
            }
            Output::Discard { socket, len } => self.open(socket).discard(len),
            Output::Write { socket, data } => {
                let end = (data.at + data.len) as usize;
                let bytes = self.arena[data.at as usize..end].to_vec();
                self.write(socket, &bytes);
            }
            Output::WriteKept { socket, data } => self.write(socket, &data),
            Output::Shutdown(socket) => self.open(socket).outgoing_end = true,
            Output::Close { socket, reset } => self.open(socket).close(reset),
            Output::Report(report) => {
                if self.trace {
                    eprintln!("{:>9} {report:?}", self.now);
                }
            }
            Output::Refuse(_)
            | Output::Send { .. }
            | Output::Group { .. }
            | Output::Join { .. }
            | Output::Pump { .. } => {
                panic!("unexpected: {output:?}")
            }
        }
    }

    fn open(&mut self, id: SocketId) -> &mut Socket {
        let socket = self.sockets.get_mut(&id).expect("exists");
        assert_eq!(socket.closed, None, "uses a closed socket");
        socket
    }

    fn write(&mut self, socket: SocketId, bytes: &[u8]) {
        let result = self.open(socket).write(bytes);
        let taken = result.unwrap_or(0);
        let event = Event::Written {
            socket,
            result: result.map(|taken| u32::try_from(taken).expect("small")),
            rest: &bytes[taken..],
        };
        self.forwarder.handle(self.at(), event);
    }

    fn transmit(&mut self, headers: &[u8], payload: &Payload, offload: Offload) {
        let mut frame = headers.to_vec();
        match payload {
            Payload::None => {}
            Payload::Span(span) => {
                let end = (span.at + span.len) as usize;
                frame.extend(&self.arena[span.at as usize..end]);
            }
            Payload::Bytes(bytes) => frame.extend(bytes),
            Payload::Gather(_) => panic!("TCP gathers nothing"),
        }
        self.show("down", &frame);
        let packet = usernet::packet::ip::parse(&frame[14..]).expect("a packet");
        if packet.protocol != usernet::packet::ip::TCP {
            // smoltcp does not look at ICMP errors about TCP; Linux ends the attempt.
            assert!(
                self.plan.refused == Some(libc::EHOSTUNREACH),
                "an error for nothing"
            );
            self.guest.socket().abort();
            self.guest_program.broken = true;
            return;
        }
        self.note_edge(&packet);
        for packet in guest::transmit(&frame, offload) {
            self.down.send(self.now, packet);
        }
    }

    fn show(&self, direction: &str, frame: &[u8]) {
        if !self.trace {
            return;
        }
        let packet = usernet::packet::ip::parse(&frame[14..]).expect("a packet");
        match usernet::packet::tcp::parse(packet.payload) {
            Ok((header, _, payload)) if packet.protocol == 6 => eprintln!(
                "{:>9} {direction:4} {:?} {}+{} ack {} win {} {:?}",
                self.now,
                header.flags,
                header.sequence,
                payload.len(),
                header.acknowledgement,
                header.window,
                header.options.mss,
            ),
            _ => eprintln!("{:>9} {direction:4} {packet:?}", self.now),
        }
    }
}
