//! The forwarder, the shell around it, and what must hold.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use usernet::cli::{self, Request};
use usernet::config::{self, Config, Facts};
use usernet::event::{
    Errno, Event, Failure, ListenerId, Offload, Output, Payload, PumpStop, Readiness, Report,
    Segments, SocketId, Span, Transport,
};
use usernet::forwarder::{Audit, Forwarder};
use usernet::limits;
use usernet::packet::checksum::{Sum, pseudo_header};
use usernet::packet::{eth, group, ip, tcp, udp};

use super::choices::Choices;
use super::guest::{Frame, Guest};
use super::kernel::{Kernel, Life};

/// Command lines of which one holds for the whole run.
const LINES: [&str; 5] = [
    "-m 1500",
    "-m 65520 --map-guest-addr 10.0.2.3 --dns-forward 169.254.1.1 --dns-host 127.0.0.53",
    "-m 1280 --map-host-loopback 10.0.2.2 --no-splice",
    "-4 -m 576",
    "-m 1500 --no-map-gw --host-lo-to-ns-lo -o 192.0.2.1",
];

/// And what is the same for all.
const ALWAYS: &str = "-f --config-net -a 10.0.2.100 -n 24 -g 10.0.2.2 -a 2001:db8::64 -g fe80::1 \
    -D 10.0.2.3 -S example.org -t 8080-8082:80-82 -u 5300-5301:53-54 -T 9000 -U 9001 --netns /x/y";

/// Bytes of the arena, as the shell has them.
const ARENA: usize = 2 << 20;

/// Flows at most: so few that they get in each other's way.
const LIMITS: [u32; 4] = [8, 1, 3, 64];

/// Rounds that a deadline may take to go away when nothing else happens.
const ROUNDS: usize = 64;

pub(crate) struct Machine {
    forwarder: Forwarder,
    guest: Guest,
    kernel: Kernel,
    arena: Vec<u8>,
    now: Instant,
    mtu: usize,
    limit: u32,
    listeners: u32,
    /// The host's loopback has a name for the guest.
    loopback: bool,
    /// Somebody called a listener: who, answers go to; or whom, the other namespace's loopback.
    called: bool,
    /// Events since the last end of a batch.
    batch: usize,
}

static CONFIGS: LazyLock<Vec<Config>> = LazyLock::new(|| LINES.map(config).into());

fn config(line: &str) -> Config {
    let words = format!("{ALWAYS} {line}");
    let request = cli::parse(words.split_whitespace().map(Into::into)).expect("a command line");
    let Request::Run(options) = request else {
        panic!("{words} runs nothing");
    };
    let facts = Facts {
        ipv6: true,
        ..Facts::default()
    };
    config::decide(&options, &facts).expect("possible").config
}

impl Machine {
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    pub(crate) fn new(choices: &mut Choices<'_>) -> Self {
        let first = usize::from(choices.byte());
        let line = LINES[first % LINES.len()];
        let config = &CONFIGS[first % LINES.len()];
        let mut forwarder = Forwarder::new(config, 7);
        let limit = LIMITS[first / LINES.len() % LIMITS.len()];
        forwarder.limit_flows(limit);
        Self {
            forwarder,
            guest: Guest::default(),
            kernel: Kernel::default(),
            arena: Vec::new(),
            now: Instant::now(),
            mtu: config.link.mtu as usize,
            limit,
            listeners: u32::try_from(config.listeners.len()).expect("few"),
            loopback: !line.contains("no-map-gw"),
            called: false,
            batch: 0,
        }
    }

    /// Something happens.
    pub(crate) fn event(&mut self, choices: &mut Choices<'_>) {
        match choices.below(20) {
            0..=6 => {
                let frame = self.guest.frame(choices);
                self.frame(frame, choices);
            }
            7..=8 => self.stream_changes(choices),
            9 => self.peer_talks(choices),
            10 => self.connection(choices),
            11 => self.datagrams(choices),
            12 => self.arrivals(choices),
            13 => self.failure(choices),
            14 => self.neighbour(choices),
            15 => self.stale(choices),
            16 => self.kernel_gets_room(choices),
            17 => self.end_round(choices),
            18 => self.due(choices),
            _ => {
                let most = choices.pick(&[1, 5, 50, 500, 10_000, 70_000]);
                self.now += Duration::from_millis(u64::from(choices.byte()) * most);
            }
        }
        if self.batch > 16 || choices.once_in(2) {
            self.end_round(choices);
        }
    }

    /// The guest sends a frame.
    pub(crate) fn frame(&mut self, (bytes, offload): Frame, choices: &mut Choices<'_>) {
        if self.arena.len() + bytes.len() > ARENA {
            self.end_round(choices);
        }
        let at = u32::try_from(self.arena.len()).expect("small");
        self.arena.extend(&bytes);
        let event = Event::Frame {
            bytes: &bytes,
            at,
            offload,
        };
        self.tell(event, 0, choices);
    }

    /// The batch is over: nothing refers to the arena any more.
    fn end_round(&mut self, choices: &mut Choices<'_>) {
        self.tell(Event::BatchEnd, 0, choices);
        self.arena.clear();
        self.batch = 0;
        self.kernel.tidy();
    }

    /// The deadline, if it has passed.
    fn due(&mut self, choices: &mut Choices<'_>) {
        // What the kernel has not been able to give it may not give several times.
        let most = ROUNDS + choices.left();
        for _ in 0..most {
            if self.forwarder.deadline().is_none_or(|at| at > self.now) {
                return;
            }
            self.tell(Event::Timer, 0, choices);
            self.end_round(choices);
        }
        panic!("the deadline does not go away");
    }

    /// Milliseconds pass, as they do in the shell.
    pub(crate) fn passes(&mut self, milliseconds: u64) {
        let until = self.now + Duration::from_millis(milliseconds);
        while let Some(at) = self.forwarder.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.due(&mut Choices(&[]));
        }
        self.now = until;
        self.end_round(&mut Choices(&[]));
    }

    /// Every socket that is being connected is connected, and has something to say.
    pub(crate) fn obliges(&mut self) {
        let coming: Vec<_> = self
            .kernel
            .open()
            .filter(|(_, socket)| socket.life == Life::Coming && socket.transport == Transport::Tcp)
            .map(|(id, _)| id)
            .collect();
        for id in coming {
            let socket = self.kernel.named(id);
            socket.life = Life::Open;
            socket.incoming = 3000;
            let readiness = Readiness {
                writable: true,
                readable: true,
                ..Readiness::default()
            };
            self.ready(id, readiness, None, &mut Choices(&[]));
        }
        self.end_round(&mut Choices(&[]));
    }

    fn ready(
        &mut self,
        socket: SocketId,
        readiness: Readiness,
        error: Option<i32>,
        choices: &mut Choices<'_>,
    ) {
        let event = Event::Ready {
            socket,
            readiness,
            error: error.map(Errno),
        };
        self.tell(event, 0, choices);
    }

    fn stream_changes(&mut self, choices: &mut Choices<'_>) {
        let Some(id) = self.kernel.some(choices, false) else {
            return;
        };
        let bits = choices.byte();
        let failed = bits & 0x70 == 0x70;
        let errors = [
            libc::ECONNRESET,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::EMFILE,
            0,
        ];
        let error = failed.then(|| choices.pick(&errors));
        let readiness = Readiness {
            readable: bits & 1 != 0,
            writable: bits & 2 != 0,
            ended: bits & 0x0c == 0x0c,
            failed,
            urgent: bits & 0x30 == 0x30,
        };
        let socket = self.kernel.named(id);
        if readiness.writable && socket.life == Life::Coming && !failed {
            socket.life = Life::Open;
        }
        if socket.life == Life::Coming && !failed {
            return;
        }
        socket.ended |= readiness.ended;
        self.ready(id, readiness, error, choices);
    }

    /// Bytes, and perhaps the end, come in at a stream.
    fn peer_talks(&mut self, choices: &mut Choices<'_>) {
        let Some(id) = self.kernel.some(choices, false) else {
            return;
        };
        let bytes = choices.size(1 << 17) as u64;
        let ends = choices.once_in(8);
        let socket = self.kernel.named(id);
        if socket.life != Life::Open || socket.ended {
            return;
        }
        socket.incoming = (socket.incoming + bytes).min(1 << 22);
        socket.ended = ends;
        let readiness = Readiness {
            readable: true,
            ended: ends,
            ..Readiness::default()
        };
        self.ready(id, readiness, None, choices);
    }

    fn kernel_gets_room(&mut self, choices: &mut Choices<'_>) {
        let Some(id) = self.kernel.some(choices, false) else {
            return;
        };
        let room = choices.size(1 << 16);
        let socket = self.kernel.named(id);
        if socket.life != Life::Open {
            return;
        }
        socket.room = room;
        let readiness = Readiness {
            writable: true,
            ..Readiness::default()
        };
        self.ready(id, readiness, None, choices);
    }

    fn connection(&mut self, choices: &mut Choices<'_>) {
        let (six, port) = (choices.once_in(2), 8080 + choices.word() % 4);
        let ports = [port, 9000, 0, 65_535];
        let (peer, local) = both(choices, six);
        let event = Event::Connection {
            listener: ListenerId(choices.byte().into()).min(ListenerId(self.listeners)),
            pending: self.kernel.accept(),
            peer: SocketAddr::new(peer, 50_000 + choices.word() % 4),
            local: SocketAddr::new(local, choices.pick(&ports)),
        };
        self.called = true;
        self.tell(event, 0, choices);
        self.called = false;
        assert_eq!(self.kernel.pending(), 0, "a connection waits for ever");
    }

    /// Datagrams in the arena, as a receive would put them there.
    fn spans(&mut self, choices: &mut Choices<'_>) -> Vec<Span> {
        let (count, size) = (1 + choices.below(70), choices.size(65_535));
        let mut spans = Vec::new();
        for place in 0..count {
            let len = if place + 1 == count && choices.once_in(2) {
                choices.size(size)
            } else {
                size
            };
            if self.arena.len() + len > ARENA {
                break;
            }
            let at = u32::try_from(self.arena.len()).expect("small");
            self.arena
                .resize(self.arena.len() + len, choices.pick(&[0, 0, 129]));
            let len = u32::try_from(len).expect("small");
            spans.push(Span { at, len });
        }
        spans
    }

    /// Outputs that so many datagrams may make.
    fn share(&self, spans: &[Span]) -> usize {
        let fragment = self.mtu.saturating_sub(48).max(16);
        spans
            .iter()
            .map(|span| 2 + span.len as usize / fragment)
            .sum()
    }

    fn datagrams(&mut self, choices: &mut Choices<'_>) {
        let Some(socket) = self.kernel.some(choices, true) else {
            return;
        };
        let spans = self.spans(choices);
        let arena = self.arena.clone();
        let event = Event::Datagrams {
            socket,
            spans: &spans,
            arena: &arena,
            peer: SocketAddr::new(choices.address(false), 80),
            ttl: choices.pick(&[None, Some(64), Some(0)]),
        };
        // A socket that has its port and not yet its peer hears who calls a listener there.
        self.called = true;
        self.tell(event, self.share(&spans), choices);
        self.called = false;
    }

    fn arrivals(&mut self, choices: &mut Choices<'_>) {
        let spans = self.spans(choices);
        let (six, port) = (choices.once_in(2), 5300 + choices.word() % 3);
        let (peer, local) = both(choices, six);
        let arena = self.arena.clone();
        let event = Event::Arrivals {
            listener: ListenerId(choices.byte().into()).min(ListenerId(self.listeners)),
            spans: &spans,
            arena: &arena,
            peer: SocketAddr::new(peer, choices.pick(&[50_000, 50_001, 0])),
            local: SocketAddr::new(local, choices.pick(&[port, 9001, 0])),
            ttl: choices.pick(&[None, Some(64)]),
        };
        self.called = true;
        self.tell(event, self.share(&spans), choices);
        self.called = false;
    }

    fn failure(&mut self, choices: &mut Choices<'_>) {
        let Some(socket) = self.kernel.some(choices, true) else {
            return;
        };
        let six = choices.once_in(2);
        let most = choices.size(1500);
        let icmp = (
            choices.byte() % 16,
            choices.byte() % 16,
            choices.word().into(),
        );
        let errors = [
            libc::ECONNREFUSED,
            libc::EHOSTUNREACH,
            libc::EMSGSIZE,
            libc::EACCES,
            0,
        ];
        let failure = Failure {
            error: Errno(choices.pick(&errors)),
            icmp: choices.once_in(2).then_some(icmp),
            offender: choices.once_in(2).then(|| choices.address(six)),
            destination: SocketAddr::new(choices.address(six), 80),
            payload: choices.bytes(most),
        };
        self.tell(Event::Failure { socket, failure }, 0, choices);
    }

    fn neighbour(&mut self, choices: &mut Choices<'_>) {
        let six = choices.once_in(2);
        let event = Event::Neighbour {
            address: choices.address(six),
            mac: choices.once_in(2).then_some([4; 6]),
        };
        self.tell(event, 0, choices);
    }

    /// What is told of a flow that has ended is ignored.
    fn stale(&mut self, choices: &mut Choices<'_>) {
        let Some(socket) = self.kernel.some_closed(choices) else {
            return;
        };
        let spans = [Span { at: 0, len: 0 }];
        let arena = [];
        let peer = SocketAddr::from(([198, 51, 100, 7], 80));
        let event = match choices.below(6) {
            0 => Event::Ready {
                socket,
                readiness: Readiness {
                    readable: true,
                    writable: true,
                    ended: true,
                    failed: true,
                    urgent: false,
                },
                error: Some(Errno(libc::ECONNRESET)),
            },
            1 => Event::Peeked {
                socket,
                result: Ok(Span { at: 0, len: 1 }),
            },
            2 => Event::Written {
                socket,
                result: Ok(1),
                rest: &[1],
            },
            3 => Event::Pumped {
                flow: socket.flow,
                from: socket.side,
                moved: 1,
                result: Ok(PumpStop::End),
            },
            4 => Event::Datagrams {
                socket,
                spans: &spans,
                arena: &arena,
                peer,
                ttl: None,
            },
            _ => Event::Failure {
                socket,
                failure: Failure {
                    error: Errno(libc::ECONNREFUSED),
                    icmp: None,
                    offender: None,
                    destination: peer,
                    payload: &[],
                },
            },
        };
        // The flow itself may linger, and is then looked at once more.
        let held = |forwarder: &Forwarder| Audit {
            queued: 0,
            ..forwarder.audit()
        };
        let before = held(&self.forwarder);
        self.forwarder.handle(self.now, event);
        let output = self.forwarder.poll();
        assert_eq!(output, None, "{socket:?} has ended");
        assert_eq!(held(&self.forwarder), before, "{socket:?} has ended");
    }

    /// Tell the forwarder something, do what it asks for, and see that all is well. `share`: outputs that the event
    /// itself accounts for.
    fn tell(&mut self, event: Event<'_>, share: usize, choices: &mut Choices<'_>) {
        self.batch += 1;
        let flows = self.forwarder.flows() as usize;
        let round = matches!(event, Event::BatchEnd);
        // A round has so many bytes; a frame of them has three outputs, and the smallest is that of a guest that takes
        // no more than the least segments.
        let bytes = (limits::ROUND_BYTES / u32::from(limits::MSS_MIN)) as usize;
        let most = share + 64 + 32 * flows + if round { 3 * bytes } else { 0 };
        self.forwarder.handle(self.now, event);
        let mut count = 0;
        while let Some(output) = self.forwarder.poll() {
            self.perform(output, choices);
            count += 1;
            assert!(count <= most, "{count} outputs of one event");
        }
        self.check();
    }

    fn check(&self) {
        let held = self.forwarder.audit();
        let most = limits::KEPT_BYTES + limits::IP_MAX as usize;
        assert!(held.flows <= self.limit, "{held:?}");
        assert_eq!(held.kept, held.kept_by_flows, "{held:?}");
        assert!(held.kept <= most, "{held:?}");
        assert!(held.deadlines <= held.flows as usize, "{held:?}");
        assert!(held.datagrams <= limits::PARTIAL_DATAGRAMS, "{held:?}");
        assert!(held.fragment_bytes <= limits::PARTIAL_BYTES, "{held:?}");
        // One for each flow that is there, and those of flows that ended in this batch.
        assert!(
            held.queued <= (self.batch + 1) * (2 * self.limit as usize + 2),
            "{held:?}"
        );
    }

    fn answer(&mut self, event: Event<'_>) {
        self.forwarder.handle(self.now, event);
    }

    fn perform(&mut self, output: Output, choices: &mut Choices<'_>) {
        match output {
            Output::Frame {
                headers,
                payload,
                offload,
                ..
            } => self.transmit(headers.as_bytes(), &payload, offload),
            Output::Connect {
                socket,
                transport,
                local,
                to,
                ..
            } => self.connect(socket, transport, local, to, choices),
            Output::Group {
                socket, local, to, ..
            } => self.connect(socket, Transport::Udp, Some(local), to, choices),
            Output::Join { socket, group } => {
                self.connect(socket, Transport::Udp, Some(group), group, choices);
            }
            Output::Adopt { pending, socket } => self.adopt(pending, socket, choices),
            Output::Refuse(pending) => self.kernel.take(pending),
            Output::Peek {
                socket,
                offset,
                max,
            } => self.peek(socket, offset, max, choices),
            Output::Discard { socket, len } => self.kernel.discard(socket, len),
            Output::Write { socket, data } => {
                let bytes = self.bytes(data).to_vec();
                self.write(socket, &bytes, choices);
            }
            Output::WriteKept { socket, data } => self.write(socket, &data, choices),
            Output::Send {
                socket,
                header,
                data,
                segment,
                ..
            } => self.send(socket, header.as_bytes().len(), &data, segment),
            Output::Shutdown(socket) => self.kernel.shutdown(socket),
            Output::Close { socket, .. } => self.kernel.close(socket),
            Output::Pump { flow, from } => {
                let (moved, result) = self.kernel.pump(flow, from, choices);
                self.answer(Event::Pumped {
                    flow,
                    from,
                    moved,
                    result,
                });
            }
            Output::Report(report) => self.reported(report),
            #[expect(unreachable_patterns, reason = "outputs may be added")]
            other => panic!("what is {other:?}?"),
        }
    }

    fn reported(&self, report: Report) {
        if let Report::TableFull { limit, .. } = report {
            assert!(
                limit == self.limit || limit == limits::HALF_OPEN,
                "{report:?}"
            );
        }
    }

    fn connect(
        &mut self,
        socket: SocketId,
        transport: Transport,
        local: Option<SocketAddr>,
        to: SocketAddr,
        choices: &mut Choices<'_>,
    ) {
        if let Some(local) = local {
            assert_eq!(local.is_ipv4(), to.is_ipv4(), "{local} to {to}");
        }
        assert!(!to.ip().is_unspecified(), "{to}");
        assert_eq!(to.ip(), to.ip().to_canonical(), "{to} is IPv4");
        assert!(
            !to.ip().is_loopback() || self.called || self.loopback,
            "{to} is the host's own"
        );
        let errors = [
            libc::EADDRINUSE,
            libc::EACCES,
            libc::ENETUNREACH,
            libc::EMFILE,
            libc::ECONNREFUSED,
        ];
        let result = if choices.once_in(6) {
            Err(Errno(choices.pick(&errors)))
        } else {
            Ok(local.unwrap_or_else(|| SocketAddr::new(to.ip(), 0)))
        };
        let life = match (result, transport) {
            (Err(_), _) => Life::Never,
            (Ok(_), Transport::Tcp) => Life::Coming,
            (Ok(_), Transport::Udp | Transport::Echo) => Life::Open,
        };
        self.kernel.make(socket, transport, life);
        self.answer(Event::Opened { socket, result });
    }

    fn adopt(
        &mut self,
        pending: usernet::event::Pending,
        socket: SocketId,
        choices: &mut Choices<'_>,
    ) {
        self.kernel.take(pending);
        let fails = choices.once_in(16);
        let life = if fails { Life::Never } else { Life::Open };
        self.kernel.make(socket, Transport::Tcp, life);
        if fails {
            let readiness = Readiness {
                failed: true,
                ..Readiness::default()
            };
            self.answer(Event::Ready {
                socket,
                readiness,
                error: Some(Errno(libc::ENOMEM)),
            });
        }
    }

    fn peek(&mut self, socket: SocketId, offset: u32, max: u32, choices: &mut Choices<'_>) {
        let there = self.kernel.peek(socket, offset, max);
        let short = self.arena.len() + max as usize > ARENA;
        let result = match choices.byte() {
            200..=220 => Err(Errno(libc::ENOBUFS)),
            _ if short => Err(Errno(libc::ENOBUFS)),
            221..=225 => Err(Errno(libc::ECONNRESET)),
            226..=228 => Err(Errno(libc::EINTR)),
            _ => there.ok_or(Errno(libc::EAGAIN)),
        };
        let result = result.map(|len| {
            let at = u32::try_from(self.arena.len()).expect("small");
            self.arena.resize(self.arena.len() + len as usize, 0x77);
            Span { at, len }
        });
        self.answer(Event::Peeked { socket, result });
    }

    fn write(&mut self, socket: SocketId, bytes: &[u8], choices: &mut Choices<'_>) {
        let taken = self.kernel.write(socket, bytes.len());
        let taken = if choices.once_in(8) {
            choices.size(taken)
        } else {
            taken
        };
        let result = match choices.byte() {
            250..=252 => Err(Errno(libc::EPIPE)),
            253..=255 => Err(Errno(libc::EAGAIN)),
            _ => Ok(taken),
        };
        let rest = &bytes[result.unwrap_or(0)..];
        let result = result.map(|taken| u32::try_from(taken).expect("small"));
        self.answer(Event::Written {
            socket,
            result,
            rest,
        });
    }

    fn send(&mut self, id: SocketId, header: usize, data: &Payload, segment: Option<u16>) {
        let len = header + self.len(data);
        let socket = self.kernel.named(id);
        assert_ne!(socket.transport, Transport::Tcp, "{id:?}");
        assert_eq!(header > 0, socket.transport == Transport::Echo, "{id:?}");
        assert!(len <= limits::IP_MAX as usize, "{len} bytes");
        assert!(segment.is_none_or(|size| usize::from(size) < len && size > 0));
    }

    fn bytes(&self, span: Span) -> &[u8] {
        let all = self.arena.get(span.at as usize..);
        let bytes = all.and_then(|rest| rest.get(..span.len as usize));
        bytes.unwrap_or_else(|| panic!("{span:?} is not in the arena"))
    }

    fn len(&self, payload: &Payload) -> usize {
        self.spelled(payload).len()
    }

    fn spelled(&self, payload: &Payload) -> Vec<u8> {
        match payload {
            Payload::None => Vec::new(),
            Payload::Span(span) => self.bytes(*span).to_vec(),
            Payload::Gather(spans) => spans
                .iter()
                .flat_map(|span| self.bytes(*span).iter().copied())
                .collect(),
            Payload::Bytes(bytes) => bytes.clone(),
        }
    }

    /// A frame for the guest.
    fn transmit(&mut self, headers: &[u8], payload: &Payload, offload: Offload) {
        let mut frame = headers.to_vec();
        frame.extend(self.spelled(payload));
        let (header, rest) = eth::parse(&frame).expect("a frame");
        if header.kind == eth::ARP {
            assert_eq!(offload, Offload::default());
            return;
        }
        let packet = ip::parse(rest).unwrap_or_else(|drop| panic!("{drop:?}: {rest:02x?}"));
        let whole = packet.headers.len() + packet.payload.len();
        assert_eq!(whole, rest.len(), "{packet:?}");
        assert!(
            rest.len() <= self.mtu || offload.segments != Segments::One,
            "{} bytes for a link of {}",
            rest.len(),
            self.mtu
        );
        if packet.fragment.is_some() {
            return;
        }
        checksum(&packet, offload);
        if packet.protocol == ip::TCP {
            let (header, len, payload) = tcp::parse(packet.payload).expect("a segment");
            if let Segments::Tcp(cut) = offload.segments {
                let cut = usize::from(cut);
                assert!(cut > 0 && cut < payload.len(), "{cut} of {}", payload.len());
                let part = packet.headers.len() + len + cut;
                assert!(part <= self.mtu, "{part} bytes for a link of {}", self.mtu);
            }
            let payload = payload.len();
            self.guest.hears(&packet, &header, payload);
        }
    }

    /// The guest is silent, sockets take everything and end: nothing stays.
    pub(crate) fn end(&mut self) {
        let none = &mut Choices(&[]);
        self.end_round(none);
        for _ in 0..4 {
            let streams: Vec<_> = self
                .kernel
                .open()
                .filter(|(_, socket)| socket.transport == Transport::Tcp)
                .map(|(id, socket)| (id, socket.life))
                .collect();
            for (id, life) in streams {
                if self.kernel.open().all(|(other, _)| other != id) {
                    continue;
                }
                let socket = self.kernel.named(id);
                socket.ended = true;
                socket.room = usize::MAX / 2;
                let coming = life == Life::Coming;
                let readiness = Readiness {
                    readable: true,
                    writable: true,
                    ended: true,
                    failed: coming,
                    urgent: false,
                };
                let error = coming.then_some(libc::ETIMEDOUT);
                self.ready(id, readiness, error, none);
            }
            self.end_round(none);
        }
        self.silence();
        let held = self.forwarder.audit();
        assert_eq!(
            (held.flows, held.kept, held.deadlines),
            (0, 0, 0),
            "{held:?}"
        );
        assert_eq!(held.datagrams, 0, "{held:?}");
        assert_eq!(self.kernel.pending(), 0);
        let left: Vec<_> = self.kernel.open().map(|(id, _)| id).collect();
        assert_eq!(left, [], "sockets stay open");
    }

    /// Time passes until no flow is left, but no more than there is patience for.
    fn silence(&mut self) {
        let until = self.now + Duration::from_secs(3600);
        let mut rounds = 0;
        while self.forwarder.flows() > 0 || self.forwarder.audit().datagrams > 0 {
            let next = self.forwarder.deadline().expect("something waits");
            assert!(next < until, "a flow stays: {:?}", self.forwarder.audit());
            self.now = self.now.max(next);
            self.due(&mut Choices(&[]));
            rounds += 1;
            assert!(rounds < 20_000, "time does not pass");
        }
    }
}

/// Both ends of what a listener got: a kernel never mixes IPv4 in the clothes of IPv6 with IPv6.
fn both(choices: &mut Choices<'_>, six: bool) -> (IpAddr, IpAddr) {
    let (peer, local) = (choices.address(six), choices.address(six));
    let v4 = |address: IpAddr| address.to_canonical().is_ipv4();
    if v4(peer) == v4(local) {
        (peer, local)
    } else {
        (peer, peer)
    }
}

/// The checksum of a transport header is whole, or as far as the kernel expects it.
fn checksum(packet: &ip::Packet<'_>, offload: Offload) {
    let (source, destination, protocol) = (packet.source, packet.destination, packet.protocol);
    let at = match protocol {
        ip::TCP => 16,
        ip::UDP => 6,
        ip::ICMP | ip::ICMPV6 | group::IGMP => 2,
        other => panic!("protocol {other}"),
    };
    let there = [packet.payload[at], packet.payload[at + 1]];
    let pseudo = match (protocol, source) {
        (ip::ICMP, IpAddr::V4(_)) => Sum::new(),
        _ => pseudo_header(source, destination, protocol, packet.payload.len()),
    };
    if offload.partial_checksum {
        assert_eq!(u16::from_be_bytes(there), pseudo.folded(), "{packet:?}");
    } else if there != [0, 0] || protocol != ip::UDP {
        assert_eq!(pseudo.bytes(packet.payload).folded(), 0xffff, "{packet:?}");
    }
    if protocol == ip::UDP {
        udp::parse(packet.payload).expect("a datagram");
    }
}
