//! Conversations of one TCP connection, packet by packet, with the numbers of the RFCs.
//!
//! The guest's numbers count from its SYN, ours from our SYN. What the forwarder does is written down as one line each:
//! frames as tcpdump would (`S. 0:0 ack 1 win 65535`), the rest as what is asked of the socket.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test: an instant to count from, and numbers that parse"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use usernet::config::{Announce, Config, Families, Family, Link, Listener, Off};
use usernet::event::{
    Errno, Event, FlowId, Lane, ListenerId, Offload, Output, Pending, Readiness, Report, Side,
    SocketId, Span, Transport,
};
use usernet::forwarder::Forwarder;
use usernet::packet::tcp::{Flags, Header, Options};
use usernet::packet::{self, build, checksum, eth, icmp, ip, tcp};

const GUEST: &str = "10.0.2.100:40000";
const FAR: &str = "198.51.100.7:80";
const ISS: u32 = 0xffff_fff0;

/// Link-layer addresses of the guest's.
const STATION: packet::Mac = [2, 0, 0, 0, 0, 1];
const OTHER: packet::Mac = [2, 0, 0, 0, 0, 2];

const S: Flags = Flags::SYN;
const A: Flags = Flags::ACK;
const F: Flags = Flags::FIN;
const R: Flags = Flags::RST;

fn config() -> Config {
    let family = Family {
        addresses: vec!["10.0.2.100/24".parse().unwrap()],
        gateway: None,
        routes: Vec::new(),
        ours: "10.0.2.2".parse().unwrap(),
        template: None,
        dns_forward: None,
        dns_host: None,
        map_host_loopback: None,
        map_guest: None,
        outbound: None,
        outbound_interface: None,
        fixed: true,
    };
    let listener = Listener {
        side: Side::Host,
        transport: Transport::Tcp,
        address: None,
        interface: None,
        first: 8080,
        last: 8080,
        target: 40000,
        target_address: None,
        best_effort: false,
        follow: false,
    };
    Config {
        link: Link {
            name: "tap0".into(),
            our_mac: [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
            guest_mac: None,
            mtu: 1500,
        },
        families: Families {
            v4: Some(family),
            v6: None,
        },
        off: Off::default(),
        announce: Announce::default(),
        listeners: vec![listener],
        splice: true,
        splice_only: false,
        loopback_to_loopback: false,
    }
}

struct Bench {
    forwarder: Forwarder,
    now: Instant,
    guest: SocketAddr,
    far: SocketAddr,
    socket: SocketId,
    /// Our initial number, once seen.
    iss: Option<u32>,
    /// The guest's link-layer address, and where the last frame went.
    station: packet::Mac,
    towards: packet::Mac,
    /// Whose turn the last frame was.
    lane: Lane,
}

impl Bench {
    fn new() -> Self {
        Self::on(1500)
    }

    /// A link of that MTU.
    fn on(mtu: u32) -> Self {
        let mut config = config();
        config.link.mtu = mtu;
        Self {
            forwarder: Forwarder::new(&config, 7),
            now: Instant::now(),
            guest: GUEST.parse().unwrap(),
            far: FAR.parse().unwrap(),
            socket: SocketId {
                flow: FlowId {
                    index: 0,
                    generation: 0,
                },
                side: Side::Host,
            },
            iss: None,
            station: STATION,
            towards: eth::BROADCAST,
            lane: Lane::Common,
        }
    }

    /// The guest's connection stands; both numbers are at 1.
    fn open(options: Options) -> Self {
        Self::new().begin(options)
    }

    fn begin(mut self, options: Options) -> Self {
        let bench = &mut self;
        bench.syn(options);
        assert_eq!(bench.lines(), ["connect 198.51.100.7:80"]);
        bench.connected();
        assert_eq!(bench.lines().len(), 1);
        bench.says(A, 1, 1, 1000, b"");
        bench.round();
        assert!(bench.lines()[0].starts_with("peek 0+"));
        bench.peeked(Err(libc::EAGAIN));
        assert_eq!(bench.lines(), [""; 0]);
        self
    }

    fn opened() -> Self {
        Self::open(Options {
            mss: Some(1460),
            window_scale: Some(0),
            ..Options::default()
        })
    }

    fn handle(&mut self, event: Event<'_>) {
        self.forwarder.handle(self.now, event);
    }

    fn syn(&mut self, options: Options) {
        self.segment(S, 0, 0, 1000, options, b"");
    }

    fn says(&mut self, flags: Flags, seq: u32, ack: u32, window: u16, payload: &[u8]) {
        self.segment(flags, seq, ack, window, Options::default(), payload);
    }

    /// A frame of the guest; the arena has it at 1000.
    fn segment(
        &mut self,
        flags: Flags,
        seq: u32,
        ack: u32,
        window: u16,
        options: Options,
        payload: &[u8],
    ) {
        let header = Header {
            source: self.guest.port(),
            destination: self.far.port(),
            sequence: ISS.wrapping_add(seq),
            acknowledgement: self.iss.unwrap_or(0).wrapping_add(ack),
            flags,
            window,
            options,
        };
        let link = build::Link {
            source: self.station,
            destination: [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
        };
        let (from, to) = (self.guest.ip(), self.far.ip());
        let headers = build::tcp(&link, from, to, &header, payload.len());
        let mut bytes = headers.as_bytes().to_vec();
        bytes.extend(payload);
        let offload = Offload {
            partial_checksum: true,
            ..Offload::default()
        };
        self.handle(Event::Frame {
            bytes: &bytes,
            at: 1000,
            offload,
        });
    }

    /// What epoll says of the socket: letters of readable, writable, ended, failed, urgent.
    fn ready(&mut self, letters: &str, error: Option<i32>) {
        let readiness = Readiness {
            readable: letters.contains('r'),
            writable: letters.contains('w'),
            ended: letters.contains('e'),
            failed: letters.contains('f'),
            urgent: letters.contains('u'),
        };
        let (socket, error) = (self.socket, error.map(Errno));
        self.handle(Event::Ready {
            socket,
            readiness,
            error,
        });
    }

    fn connected(&mut self) {
        self.ready("w", None);
    }

    fn readable(&mut self, ended: bool) {
        self.ready(if ended { "re" } else { "r" }, None);
    }

    fn failed(&mut self, error: i32) {
        self.ready("wf", Some(error));
    }

    fn peeked(&mut self, result: Result<u32, i32>) {
        let result = result.map(|len| Span { at: 0, len }).map_err(Errno);
        let socket = self.socket;
        self.handle(Event::Peeked { socket, result });
    }

    fn written(&mut self, taken: u32, rest: &[u8]) {
        let (socket, result) = (self.socket, Ok(taken));
        self.handle(Event::Written {
            socket,
            result,
            rest,
        });
    }

    /// The socket takes all that it is asked to take of what was kept, if anything.
    fn takes_kept(&mut self, lines: &[String]) -> Option<u32> {
        let mut lines = lines.iter();
        let len = lines.find_map(|line| line.strip_prefix("write kept "))?;
        let len = len.parse().unwrap();
        self.written(len, b"");
        self.round();
        Some(len)
    }

    fn round(&mut self) {
        self.handle(Event::BatchEnd);
    }

    /// Time passes; nothing else happens.
    fn wait(&mut self, millis: u64) -> Vec<String> {
        let until = self.now + Duration::from_millis(millis);
        let mut lines = Vec::new();
        while let Some(at) = self.forwarder.deadline().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.handle(Event::Timer);
            self.round();
            lines.extend(self.lines());
        }
        self.now = until;
        lines
    }

    /// The acknowledgement and the window that the guest hears after what it said.
    fn hears(&mut self) -> (u32, u32) {
        self.round();
        let mut lines = self.lines();
        lines.extend(self.wait(5));
        told(&lines).expect("what the guest said is acknowledged")
    }

    /// The socket has room and takes all that was kept. How much that was, and the window that the guest was told last with
    /// this acknowledgement, if it was.
    fn drains(&mut self, ack: u32) -> (u32, u32) {
        self.connected();
        let (mut window, mut written) = (0, 0);
        loop {
            let lines = self.lines();
            if let Some((acknowledged, told)) = told(&lines) {
                assert_eq!(acknowledged, ack, "nothing new came");
                window = told;
            }
            let Some(len) = self.takes_kept(&lines) else {
                return (written, window);
            };
            written += len;
        }
    }

    /// What is asked, without reports.
    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(output) = self.forwarder.poll() {
            lines.extend(self.line(&output));
        }
        lines
    }

    fn line(&mut self, output: &Output) -> Option<String> {
        Some(match output {
            Output::Frame {
                headers,
                payload,
                offload,
                lane,
            } => {
                self.lane = *lane;
                self.frame(headers.as_bytes(), payload, *offload)?
            }
            Output::Connect {
                to, socket, mss, ..
            } => {
                self.socket = *socket;
                let mss = mss.map(|mss| format!(" mss {mss}"));
                format!("connect {to}{}", mss.unwrap_or_default())
            }
            Output::Adopt { socket, .. } => {
                self.socket = *socket;
                "adopt".into()
            }
            Output::Refuse(_) => "refuse".into(),
            Output::Peek { offset, max, .. } => format!("peek {offset}+{max}"),
            Output::Discard { len, .. } => format!("discard {len}"),
            Output::Write { data, .. } => format!("write {}", data.len),
            Output::WriteKept { data, .. } => format!("write kept {}", data.len()),
            Output::Shutdown(_) => "shutdown".into(),
            Output::Close { reset: false, .. } => "close".into(),
            Output::Close { reset: true, .. } => "reset".into(),
            Output::Report(Report::TableFull { limit, evicted, .. }) => {
                format!("full {limit} {evicted}")
            }
            Output::Report(_) => return None,
            Output::Send { .. }
            | Output::Group { .. }
            | Output::Join { .. }
            | Output::Pump { .. } => panic!("{output:?}"),
        })
    }

    fn frame(
        &mut self,
        frame: &[u8],
        payload: &usernet::event::Payload,
        offload: Offload,
    ) -> Option<String> {
        let (header, rest) = eth::parse(frame).unwrap();
        if header.kind != eth::IPV4 {
            return None;
        }
        self.towards = header.destination;
        let len = match payload {
            usernet::event::Payload::Span(span) => span.len as usize,
            usernet::event::Payload::Bytes(bytes) => bytes.len(),
            usernet::event::Payload::None | usernet::event::Payload::Gather(_) => 0,
        };
        let mut whole = rest.to_vec();
        whole.resize(rest.len() + len, 0);
        let packet = ip::parse(&whole).unwrap();
        if packet.protocol == ip::ICMP {
            return Some(format!("icmp {} {}", packet.payload[0], packet.payload[1]));
        }
        assert_eq!(
            (packet.source, packet.destination),
            (self.far.ip(), self.guest.ip())
        );
        assert!(offload.partial_checksum);
        let (header, _, _) = tcp::parse(packet.payload).unwrap();
        assert_eq!(
            (header.source, header.destination),
            (self.far.port(), self.guest.port())
        );
        if header.flags.has(S) {
            self.iss = Some(header.sequence);
        }
        let mut line = format!(
            "{:?} {}+{len}",
            header.flags,
            header.sequence.wrapping_sub(self.iss.unwrap_or(0)),
        );
        if header.flags.has(A) {
            let ack = header.acknowledgement.wrapping_sub(ISS);
            line += &format!(" ack {ack} win {}", header.window);
        }
        if let Some(mss) = header.options.mss {
            line += &format!(" mss {mss}");
        }
        if let Some(scale) = header.options.window_scale {
            line += &format!(" scale {scale}");
        }
        Some(line)
    }
}

fn mss(mss: u16) -> Options {
    Options {
        mss: Some(mss),
        ..Options::default()
    }
}

/// What a frame acknowledges.
fn acknowledged(line: &str) -> Option<u32> {
    line.split(' ').nth(3)?.parse().ok()
}

/// Whoever makes the guest's MTU small means the whole way.
#[test]
fn a_small_segment_size_is_the_hosts_too() {
    for (said, expected) in [
        (65_480, "connect 198.51.100.7:80"),
        (1_460, "connect 198.51.100.7:80"),
        (1_459, "connect 198.51.100.7:80 mss 1459"),
        (1_240, "connect 198.51.100.7:80 mss 1240"),
        (1, "connect 198.51.100.7:80 mss 536"),
    ] {
        let mut bench = Bench::new();
        bench.syn(mss(said));
        assert_eq!(bench.lines(), [expected]);
    }
}

#[test]
fn the_guest_connects_and_both_end() {
    let mut bench = Bench::new();
    bench.syn(Options {
        mss: Some(1460),
        window_scale: Some(7),
        ..Options::default()
    });
    assert_eq!(bench.lines(), ["connect 198.51.100.7:80"]);
    bench.syn(mss(1460));
    assert_eq!(
        bench.lines(),
        [""; 0],
        "a SYN again is swallowed while the host connects"
    );
    bench.syn(Options {
        mss: Some(1460),
        window_scale: Some(7),
        ..Options::default()
    });
    bench.connected();
    assert_eq!(bench.lines(), ["S. 0+0 ack 1 win 65535 mss 1460 scale 7"]);
    bench.says(A, 1, 1, 1000, b"");
    bench.says(A, 1, 1, 1000, b"hello");
    assert_eq!(bench.lines(), ["write 5"]);
    bench.written(5, b"");
    bench.round();
    assert_eq!(
        bench.lines(),
        ["peek 0+64240"],
        "44 segments fit in a packet"
    );
    bench.peeked(Ok(3));
    assert_eq!(
        bench.lines(),
        ["P. 1+3 ack 6 win 2048"],
        "the acknowledgement rides along"
    );
    bench.says(A, 6, 4, 1000, b"");
    bench.says(A | F, 6, 4, 1000, b"");
    bench.round();
    assert_eq!(bench.lines(), ["shutdown"], "one segment ends both ways");
    bench.readable(true);
    bench.round();
    assert_eq!(bench.lines(), ["peek 3+64240"]);
    bench.peeked(Ok(0));
    bench.round();
    assert_eq!(bench.lines(), ["FP. 4+0 ack 7 win 2048"]);
    bench.says(A, 7, 5, 1000, b"");
    assert_eq!(bench.lines(), ["discard 3", "close"]);
    assert_eq!(bench.wait(60_000), [""; 0]);
    assert_eq!(bench.forwarder.flows(), 0);
}

#[test]
fn a_guest_without_options() {
    let mut bench = Bench::open(Options::default());
    bench.readable(false);
    bench.says(A, 1, 1, 65535, b"");
    bench.round();
    assert_eq!(bench.lines(), ["peek 0+65392"], "122 segments of 536 bytes");
    bench.peeked(Ok(600));
    assert_eq!(
        bench.lines(),
        ["P. 1+600 ack 1 win 65535"],
        "no scale, and 65535 at most"
    );
}

#[test]
fn refusals_are_what_the_kernel_would_have_said() {
    for (error, expected) in [
        (libc::ECONNREFUSED, "R. 0+0 ack 1"),
        (libc::EHOSTUNREACH, "icmp 3 1"),
        (libc::ENETUNREACH, "icmp 3 0"),
        (libc::EACCES, "icmp 3 13"),
    ] {
        let mut bench = Bench::new();
        bench.syn(mss(1460));
        bench.lines();
        bench.failed(error);
        let lines = bench.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        let reset = expected.starts_with('R');
        assert!(
            reset && lines[0].starts_with('R') && lines[0].contains(" ack 1 ")
                || lines[0] == expected
        );
        assert_eq!(lines[1], "reset");
        assert_eq!(bench.forwarder.flows(), 0);
    }
    let mut bench = Bench::new();
    bench.syn(mss(1460));
    bench.lines();
    bench.failed(libc::ETIMEDOUT);
    assert_eq!(bench.lines(), ["reset"], "the guest's own patience ends");
    let socket = bench.socket;
    bench.syn(mss(1460));
    bench.lines();
    assert_ne!(
        bench.socket, socket,
        "the place is used again under another name"
    );
    bench.handle(Event::Opened {
        socket: bench.socket,
        result: Err(Errno(libc::EMFILE)),
    });
    assert_eq!(bench.lines(), [""; 0], "the guest asks again");
    assert_eq!(bench.forwarder.flows(), 0);
}

#[test]
fn unknown_segments_are_reset_and_resets_are_not() {
    let mut bench = Bench::new();
    bench.says(A, 5, 77, 1000, b"");
    assert_eq!(bench.lines(), ["R 77+0"]);
    bench.says(F, 5, 0, 1000, b"xy");
    assert_eq!(bench.lines(), ["R. 0+0 ack 8 win 0"]);
    bench.says(R, 5, 0, 1000, b"");
    bench.says(S | A, 5, 9, 1000, b"");
    assert_eq!(bench.lines(), ["R 9+0"]);
}

fn inbound() -> Bench {
    let mut bench = Bench::new();
    bench.handle(Event::Connection {
        listener: ListenerId(0),
        pending: Pending(3),
        peer: FAR.parse().unwrap(),
        local: "192.0.2.1:8080".parse().unwrap(),
    });
    assert_eq!(bench.lines(), ["adopt", "S 0+0 mss 1460 scale 7"]);
    bench
}

#[test]
fn a_published_port_gets_a_syn() {
    let mut bench = inbound();
    bench.segment(S | A, 0, 1, 1000, mss(1460), b"");
    bench.round();
    assert_eq!(
        bench.lines(),
        ["peek 0+1000"],
        "the client may have spoken already"
    );
    bench.peeked(Ok(10));
    assert_eq!(bench.lines(), ["P. 1+10 ack 1 win 65535"]);
}

/// Whom the guest sees in our SYNs.
fn callers(bench: &mut Bench) -> Vec<SocketAddr> {
    let mut callers = Vec::new();
    while let Some(output) = bench.forwarder.poll() {
        if let Output::Frame { headers, .. } = output {
            let (_, rest) = eth::parse(headers.as_bytes()).unwrap();
            let packet = ip::parse(rest).unwrap();
            let (header, ..) = tcp::parse(packet.payload).unwrap();
            assert_eq!(header.flags, S);
            callers.push(SocketAddr::new(packet.source, header.source));
        }
    }
    callers
}

/// Several published ports or addresses lead to one port of the guest, and a client calls all of them from one port.
#[test]
fn one_caller_of_several_ports() {
    let mut bench = inbound();
    let far: SocketAddr = FAR.parse().unwrap();
    let mut seen = vec![far];
    for last in 2..=70 {
        bench.handle(Event::Connection {
            listener: ListenerId(0),
            pending: Pending(3),
            peer: far,
            local: SocketAddr::from(([192, 0, 2, last], 8080)),
        });
        let callers = callers(&mut bench);
        // Of the many that have other ports, there is an end.
        assert_eq!(callers.len(), usize::from(last <= 65), "{last}");
        seen.extend(callers);
    }
    assert!(seen.iter().all(|caller| caller.ip() == far.ip()));
    assert!(seen[1..].iter().all(|caller| caller.port() >= 0xc000));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 65);
}

#[test]
fn a_published_port_is_refused_by_the_guest() {
    let mut bench = inbound();
    bench.says(R | A, 0, 7, 0, b"");
    assert_eq!(bench.lines(), [""; 0], "not for our SYN");
    bench.says(R | A, 0, 1, 0, b"");
    assert_eq!(bench.lines(), ["reset"]);
    assert_eq!(bench.forwarder.flows(), 0);
}

#[test]
fn a_syn_is_sent_again_and_given_up() {
    let mut bench = inbound();
    let lines = bench.wait(63_999);
    assert_eq!(
        lines, ["S 0+0 mss 1460 scale 7"; 6],
        "after 1, 2, 4, 8, 16 and 32 seconds"
    );
    assert_eq!(bench.wait(120_000), ["reset"]);
    assert_eq!(bench.forwarder.flows(), 0);
}

#[test]
fn simultaneous_open() {
    let mut bench = inbound();
    bench.syn(mss(1460));
    assert_eq!(bench.lines(), ["S. 0+0 ack 1 win 65535 mss 1460"]);
    bench.says(A, 1, 1, 1000, b"");
    bench.round();
    assert_eq!(bench.lines(), ["peek 0+1000"]);
}

#[test]
fn simultaneous_close() {
    let mut bench = Bench::opened();
    bench.readable(true);
    bench.round();
    bench.lines();
    bench.peeked(Ok(0));
    bench.round();
    assert_eq!(bench.lines(), ["FP. 1+0 ack 1 win 2048"]);
    bench.says(A | F, 1, 1, 1000, b"");
    bench.round();
    assert_eq!(bench.lines(), ["shutdown", ". 2+0 ack 2 win 2048"]);
    bench.says(A, 2, 2, 1000, b"");
    bench.round();
    assert_eq!(bench.lines(), ["close"]);
    bench.says(A | F, 1, 1, 1000, b"");
    bench.round();
    assert_eq!(
        bench.lines(),
        [". 2+0 ack 2 win 2048"],
        "its FIN again is answered"
    );
    bench.wait(2_000);
    assert_eq!(bench.forwarder.flows(), 0);
}

#[test]
fn half_closed_for_ever() {
    let mut bench = Bench::opened();
    bench.says(A | F, 1, 1, 1000, b"bye");
    assert_eq!(bench.lines(), ["write 3"]);
    bench.written(3, b"");
    bench.round();
    assert_eq!(bench.lines(), ["shutdown"]);
    assert_eq!(bench.wait(5), [". 1+0 ack 5 win 2048"]);
    for hour in 0..3 {
        for _ in 0..120 {
            bench.wait(30_000);
            bench.says(A, 5, 1 + hour * 4, 1000, b"");
        }
        bench.readable(false);
        bench.round();
        bench.lines();
        bench.peeked(Ok(4));
        assert_eq!(
            bench.lines(),
            [format!("P. {}+4 ack 5 win 2048", 1 + hour * 4)]
        );
        bench.says(A, 5, 5 + hour * 4, 1000, b"");
    }
    assert_eq!(bench.forwarder.flows(), 1);
}

#[test]
fn attacks_by_number_are_challenged() {
    let mut bench = Bench::opened();
    bench.says(R, 2, 0, 0, b"");
    bench.round();
    assert_eq!(
        bench.lines(),
        [". 1+0 ack 1 win 2048"],
        "in the window, but not the next number"
    );
    bench.says(R, 0x4000_0000, 0, 0, b"");
    bench.round();
    assert_eq!(bench.lines(), [""; 0], "outside");
    bench.says(S, 1, 0, 1000, b"");
    bench.round();
    assert_eq!(bench.lines(), [". 1+0 ack 1 win 2048"]);
    bench.says(A, 1, 0x1000_0000, 1000, b"x");
    bench.round();
    assert_eq!(
        bench.lines(),
        [". 1+0 ack 1 win 2048"],
        "acknowledges what was not sent"
    );
    bench.says(A, 0x4000_0000, 1, 1000, b"x");
    bench.round();
    assert_eq!(bench.lines(), [". 1+0 ack 1 win 2048"], "far outside");
    bench.says(R, 1, 0, 0, b"");
    assert_eq!(bench.lines(), ["reset"]);
}

#[test]
fn challenges_are_limited() {
    let mut bench = Bench::opened();
    let mut answers = 0;
    for _ in 0..5_000 {
        bench.says(R, 2, 0, 0, b"");
        bench.round();
        answers += bench.lines().len();
    }
    assert_eq!(answers, 1_000);
}

#[test]
fn a_fin_twice_and_data_behind_it() {
    let mut bench = Bench::opened();
    bench.says(A | F, 1, 1, 1000, b"ab");
    bench.written(2, b"");
    bench.round();
    assert_eq!(bench.lines(), ["write 2", "shutdown"]);
    assert_eq!(bench.wait(5), [". 1+0 ack 4 win 2048"]);
    bench.says(A | F, 4, 1, 1000, b"more");
    bench.says(A, 4, 1, 1000, b"more");
    bench.round();
    assert_eq!(bench.lines(), [""; 0], "nothing follows an end");
    bench.says(A | F, 3, 1, 1000, b"");
    bench.round();
    assert_eq!(bench.lines(), [". 1+0 ack 4 win 2048"]);
}

#[test]
fn out_of_order_segments_are_kept() {
    let mut bench = Bench::opened();
    bench.says(A, 4, 1, 1000, b"def");
    bench.round();
    assert_eq!(bench.lines(), [". 1+0 ack 1 win 2048"]);
    bench.says(A | F, 10, 1, 1000, b"jkl");
    bench.says(A, 6, 1, 1000, b"fghij");
    bench.round();
    assert_eq!(bench.lines(), [". 1+0 ack 1 win 2048"]);
    bench.says(A, 1, 1, 1000, b"abc");
    assert_eq!(bench.lines(), ["write 3"]);
    bench.written(3, b"");
    assert_eq!(bench.lines(), ["write kept 9"]);
    bench.written(9, b"");
    bench.round();
    assert_eq!(bench.lines(), ["shutdown", ". 1+0 ack 14 win 2048"]);
}

#[test]
fn what_came_early_and_lies_behind_the_end_is_forgotten() {
    let mut bench = Bench::opened();
    bench.says(A, 5, 1, 1000, b"efgh");
    bench.says(A, 9, 1, 1000, b"ijkl");
    bench.round();
    bench.lines();
    // The end is in the middle of what came early.
    bench.says(A | F, 1, 1, 1000, b"abcdef");
    assert_eq!(bench.lines(), ["write 6"]);
    bench.written(4, b"ef");
    bench.round();
    bench.lines();
    bench.connected();
    assert_eq!(bench.lines(), ["write kept 2"]);
    bench.written(2, b"");
    assert_eq!(bench.lines(), ["shutdown"]);
    bench.connected();
    bench.round();
    let lines = bench.lines();
    assert!(
        !lines.iter().any(|line| line.starts_with("write")),
        "{lines:?}"
    );
}

#[test]
fn a_full_socket_closes_the_window_and_opens_it() {
    let mut bench = Bench::opened();
    let payload = [0; 60_000];
    bench.says(A, 1, 1, 1000, &payload);
    bench.written(0, &payload);
    bench.round();
    let (mut ack, mut window) = (0, u32::MAX);
    for _ in 0..20 {
        if let Some(line) = bench.lines().pop() {
            ack = acknowledged(&line).unwrap();
            window = line.rsplit(' ').next().unwrap().parse().unwrap();
        }
        bench.says(A, ack, 1, 1000, &payload);
        bench.round();
    }
    assert_eq!(window, 0, "what is kept is what was promised");
    bench.connected();
    let (mut kept, mut opened) = (0, false);
    loop {
        let lines = bench.lines();
        opened |= lines.iter().any(|line| acknowledged(line) == Some(ack));
        let Some(len) = bench.takes_kept(&lines) else {
            break;
        };
        kept += len;
    }
    assert!(opened, "the guest is told");
    assert_eq!(kept + 1, ack, "every byte that was acknowledged");
}

#[test]
fn a_window_too_small_for_a_segment_is_told_when_it_opens() {
    let mss = 54_000;
    let mut bench = Bench::on(65_520).begin(Options {
        mss: Some(mss),
        window_scale: Some(0),
        ..Options::default()
    });
    let payload = [0; 54_000];
    bench.says(A, 1, 1, 1000, &payload);
    bench.written(0, &payload);
    let (mut ack, mut known) = bench.hears();
    // The guest sends whole segments only, until there is no room for one.
    while known >= u32::from(mss) {
        bench.says(A, ack, 1, 1000, &payload);
        (ack, known) = bench.hears();
    }
    assert!(known > 32 << 10, "little for this guest only: {known}");
    let (written, told) = bench.drains(ack);
    assert_eq!(written + 1, ack, "every byte that was acknowledged");
    assert!(told >= u32::from(mss), "the guest knows of {told}");
}

/// Windows are told in units of 128 bytes. One that is a segment by our count and less than that as it was told keeps the
/// guest from sending all the same.
#[test]
fn a_window_rounded_to_less_than_a_segment_is_told_when_it_opens() {
    let mss = 65_480;
    let mut bench = Bench::on(65_520).begin(Options {
        mss: Some(mss),
        window_scale: Some(0),
        ..Options::default()
    });
    let payload = [0; 65_480];
    let (mut ack, mut known) = (1, 2048 << 7);
    // The socket takes all, until much is promised; then nothing, and half of the promise is regretted.
    while known < 4 << 20 {
        bench.says(A, ack, 1, 1000, &payload);
        bench.written(u32::from(mss), b"");
        (ack, known) = bench.hears();
    }
    bench.says(A, ack, 1, 1000, &payload);
    bench.written(0, &payload);
    (ack, known) = bench.hears();
    while known >= u32::from(mss) {
        let left = known.saturating_sub(u32::from(mss) + 20) as usize;
        bench.says(A, ack, 1, 1000, &payload[..left.clamp(1, payload.len())]);
        (ack, known) = bench.hears();
    }
    assert_eq!(known, 65_408, "a segment, by our count");
    (_, known) = bench.drains(ack);
    assert!(known > 4 * u32::from(mss), "the guest knows of {known}");
}

/// The last acknowledgement and window in these lines, of a guest with our scale.
fn told(lines: &[String]) -> Option<(u32, u32)> {
    let line = lines.iter().rfind(|line| acknowledged(line).is_some())?;
    let window: u32 = line.rsplit(' ').next()?.parse().ok()?;
    Some((acknowledged(line)?, window << 7))
}

#[test]
fn tiny_segments_do_not_push_the_window() {
    let mut bench = Bench::opened();
    bench.says(A, 1, 1, 1000, b"x");
    bench.written(0, b"x");
    let mut ack = 2;
    for _ in 0..400_000 {
        bench.says(A, ack, 1, 1000, b"xyz");
        bench.round();
        bench.lines();
        let lines = bench.wait(5);
        ack = lines
            .iter()
            .find_map(|line| acknowledged(line))
            .unwrap_or(ack);
    }
    assert!((262_144..327_936).contains(&ack), "{ack}");
}

#[test]
fn a_closed_window_is_probed() {
    let mut bench = Bench::opened();
    bench.says(A, 1, 1, 0, b"");
    bench.readable(false);
    bench.round();
    assert_eq!(bench.lines(), [""; 0]);
    let probes = bench.wait(5_000);
    assert!(
        probes.len() >= 2 && probes.iter().all(|line| line == ". 0+0 ack 1 win 2048"),
        "{probes:?}"
    );
    bench.says(A, 1, 1, 500, b"");
    bench.round();
    assert_eq!(bench.lines(), ["peek 0+500"]);
}

#[test]
fn lost_data_is_sent_again() {
    let mut bench = Bench::opened();
    bench.readable(false);
    bench.says(A, 1, 1, 10_000, b"");
    bench.round();
    assert_eq!(bench.lines(), ["peek 0+8760"]);
    bench.peeked(Ok(3000));
    assert_eq!(bench.lines(), ["P. 1+3000 ack 1 win 2048"]);
    for _ in 0..3 {
        bench.says(A, 1, 1, 10_000, b"");
    }
    bench.round();
    assert_eq!(bench.lines(), ["peek 0+3000"], "three duplicates");
    bench.peeked(Ok(3000));
    assert_eq!(bench.lines(), ["P. 1+3000 ack 1 win 2048"]);
    let lines = bench.wait(1_500);
    assert_eq!(lines, ["peek 0+3000"], "and by the clock");
}

/// The kernel shows the bytes before an urgent one, and those from there on when asked again.
#[test]
fn a_look_that_ends_at_urgent_data_is_not_the_end() {
    let mut bench = Bench::opened();
    bench.ready("reu", None);
    bench.round();
    assert_eq!(bench.lines(), ["peek 0+1000"]);
    bench.peeked(Ok(3));
    bench.round();
    assert_eq!(bench.lines(), ["P. 1+3 ack 1 win 2048", "peek 3+997"]);
    bench.peeked(Ok(4));
    bench.round();
    assert_eq!(bench.lines(), ["P. 4+4 ack 1 win 2048", "peek 7+993"]);
    bench.peeked(Ok(0));
    bench.round();
    assert_eq!(bench.lines(), ["FP. 8+0 ack 1 win 2048"]);
}

/// What the guest has is forgotten after a moment, and then nothing is due for long.
#[test]
fn what_is_due_is_done_once() {
    let mut bench = Bench::opened();
    bench.readable(false);
    bench.round();
    assert_eq!(bench.lines(), ["peek 0+1000"]);
    bench.peeked(Ok(100));
    assert_eq!(bench.lines(), ["P. 1+100 ack 1 win 2048"]);
    bench.says(A, 1, 101, 1000, b"");
    bench.round();
    assert_eq!(bench.lines(), [""; 0]);
    let due = bench.forwarder.deadline().unwrap();
    assert_eq!(due, bench.now + usernet::limits::DISCARD_DELAY);
    bench.now = due;
    bench.handle(Event::Timer);
    let next = bench.forwarder.deadline().unwrap();
    assert!(next > due + Duration::from_secs(1), "{:?}", next - due);
    assert_eq!(bench.lines(), ["discard 100"]);
}

#[test]
fn a_silent_guest_is_asked_and_given_up() {
    let mut bench = Bench::opened();
    assert_eq!(bench.wait(31_000), [". 0+0 ack 1 win 2048"]);
    let lines = bench.wait(600_000);
    assert_eq!(lines.len(), 9, "seven more, and the resets: {lines:?}");
    assert_eq!(lines[7..], ["R. 1+0 ack 1 win 2048", "reset"]);
    assert_eq!(bench.forwarder.flows(), 0);
}

#[test]
fn a_reset_of_the_host_is_one_of_the_guest() {
    let mut bench = Bench::opened();
    bench.failed(libc::ECONNRESET);
    assert_eq!(bench.lines(), ["R. 1+0 ack 1 win 2048", "reset"]);
    assert_eq!(bench.forwarder.flows(), 0);
}

/// A guest with one address for three name servers.
fn with_names() -> Bench {
    let mut config = config();
    let family = config.families.v4.as_mut().unwrap();
    family.dns_forward = Some("169.254.1.1".parse().unwrap());
    let mut bench = Bench::new();
    bench.forwarder = Forwarder::new(&config, 7);
    bench.forwarder.set_resolvers(Families {
        v4: ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
            .map(|server| server.parse().unwrap())
            .to_vec()
            .into(),
        v6: None,
    });
    bench
}

/// Connect to the name servers from another port: which of them is called.
fn ask(bench: &mut Bench, port: u16) -> String {
    bench.guest.set_port(bench.guest.port() + 1);
    bench.far = SocketAddr::new("169.254.1.1".parse().unwrap(), port);
    bench.iss = None;
    bench.syn(mss(1460));
    let lines = bench.lines();
    lines.concat().replace("connect 10.0.0.", "")
}

/// Name servers are asked by connections as they are by datagrams: one that refuses or does not answer is passed over.
#[test]
fn a_name_server_that_cannot_be_connected_to_is_passed_over() {
    let mut bench = with_names();
    assert_eq!(ask(&mut bench, 853), "1:853");
    bench.failed(libc::ECONNREFUSED);
    bench.lines();
    assert_eq!(ask(&mut bench, 53), "1:53", "which is another service");
    bench.failed(libc::EMFILE);
    bench.lines();
    assert_eq!(ask(&mut bench, 53), "1:53", "which was not its fault");
    bench.failed(libc::ECONNREFUSED);
    bench.lines();
    assert_eq!(ask(&mut bench, 53), "2:53", "the one before has refused");
    bench.failed(libc::ETIMEDOUT);
    bench.lines();
    assert_eq!(ask(&mut bench, 53), "3:53", "the kernel has given up");
    bench.connected();
    bench.lines();
    bench.says(R, 1, 0, 0, b"");
    bench.lines();
    bench.wait(3000);
    assert_eq!(ask(&mut bench, 53), "3:53", "which has answered");
    bench.wait(28_000);
    assert_eq!(
        ask(&mut bench, 53),
        "1:53",
        "silent, and the others have their chance"
    );
    assert_eq!(ask(&mut bench, 53), "1:53");
    bench.wait(1900);
    assert_eq!(ask(&mut bench, 53), "1:53");
    bench.wait(200);
    assert_eq!(
        ask(&mut bench, 53),
        "2:53",
        "no answer yet, and somebody asks again"
    );
}

/// What the guest gives up, and what we lack ourselves, says nothing of a server.
#[test]
fn a_name_server_is_not_blamed_for_others() {
    let mut bench = with_names();
    assert_eq!(ask(&mut bench, 53), "1:53");
    bench.says(R, 1, 0, 0, b"");
    assert_eq!(bench.lines(), ["reset"]);
    bench.wait(3000);
    assert_eq!(ask(&mut bench, 53), "1:53", "the guest went away");
    bench.failed(libc::EADDRINUSE);
    bench.lines();
    bench.wait(3000);
    assert_eq!(ask(&mut bench, 53), "1:53", "we had no port");
    // One more flow than there may be: the connection that is not made yet gives way.
    bench.forwarder.limit_flows(1);
    let guest = bench.guest;
    bench.far = FAR.parse().unwrap();
    bench.guest.set_port(999);
    bench.syn(mss(1460));
    let outputs: Vec<_> = std::iter::from_fn(|| bench.forwarder.poll()).collect();
    let evicted = outputs.iter().any(|output| {
        matches!(
            output,
            Output::Report(Report::TableFull { evicted: true, .. })
        )
    });
    assert!(evicted, "{outputs:?}");
    bench.forwarder.limit_flows(100);
    bench.guest = guest;
    bench.wait(3000);
    assert_eq!(ask(&mut bench, 53), "1:53", "it gave way");
}

#[test]
fn a_flood_of_syns_evicts_its_own() {
    let mut bench = Bench::opened();
    let mut resets = 0;
    for port in 1..20_000_u16 {
        bench.guest.set_port(port);
        bench.syn(mss(1460));
        while let Some(output) = bench.forwarder.poll() {
            resets += usize::from(matches!(output, Output::Close { reset: true, .. }));
        }
    }
    let limit = usernet::limits::HALF_OPEN;
    assert_eq!(bench.forwarder.flows(), limit + 1);
    // Of those that nobody answers no more are tried than there is patience for.
    let tried = usernet::limits::UNANSWERED;
    assert_eq!(resets, (tried - limit) as usize);
    bench.guest.set_port(20_000);
    bench.syn(mss(1460));
    assert_eq!(bench.lines(), [""; 0], "one more");
    bench.now += Duration::from_millis(1);
    bench.syn(mss(1460));
    let last = std::iter::from_fn(|| bench.forwarder.poll()).last();
    assert!(matches!(last, Some(Output::Connect { .. })), "{last:?}");
    bench.guest = GUEST.parse().unwrap();
    bench.says(A, 1, 1, 1000, b"hello");
    bench.socket.flow = FlowId {
        index: 0,
        generation: 0,
    };
    assert_eq!(bench.lines(), ["write 5"], "the one that works still does");
}

#[test]
fn flows_that_keep_much_for_sockets_that_take_nothing_give_way() {
    let mut bench = Bench::new();
    let (piece, crowded) = (vec![1; 60_000], usernet::limits::KEPT_CROWDED);
    let scaled = Options {
        mss: Some(60_000),
        window_scale: Some(7),
        ..Options::default()
    };
    let mut flows: u16 = 0;
    let mut outputs = Vec::new();
    while bench.forwarder.audit().kept < crowded {
        flows += 1;
        bench.guest.set_port(flows);
        bench.iss = None;
        bench.segment(S, 0, 0, 1000, scaled, b"");
        bench.lines();
        bench.connected();
        bench.lines();
        bench.says(A, 1, 1, 1000, b"");
        for part in 0..4 {
            bench.says(A, 1 + part * 60_000, 1, 1000, &piece);
            if bench
                .lines()
                .last()
                .is_some_and(|line| line == "write 60000")
            {
                bench.written(0, &piece);
            }
            bench.round();
            outputs.extend(bench.lines());
        }
    }
    let resets = |outputs: &[String]| outputs.iter().filter(|line| *line == "reset").count();
    assert_eq!(resets(&outputs), 0, "all of them are young");
    assert_eq!(bench.forwarder.flows(), u32::from(flows));
    bench.now += usernet::limits::STALLED_FOR;
    bench.round();
    let outputs: Vec<_> = std::iter::from_fn(|| bench.forwarder.poll()).collect();
    let resets = outputs.iter().filter_map(|output| {
        let Output::Close {
            socket,
            reset: true,
        } = output
        else {
            return None;
        };
        Some(socket.flow.index)
    });
    assert_eq!(
        resets.collect::<Vec<_>>(),
        [0],
        "the oldest, and no more than needed"
    );
    assert!(bench.forwarder.audit().kept < crowded);
}

/// RFC 5961, 5.2.
#[test]
fn data_with_an_acknowledgement_of_long_ago_is_somebody_elses() {
    let mut bench = Bench::opened();
    bench.says(A, 1, 0x9000_0000, 1000, b"evil");
    bench.round();
    assert_eq!(bench.lines(), [". 1+0 ack 1 win 2048"]);
    bench.says(A, 1, 1, 1000, b"good");
    assert_eq!(bench.lines(), ["write 4"]);
}

#[test]
fn a_full_table_says_so_and_lets_idle_streams_go() {
    let mut bench = Bench::opened();
    bench.forwarder.limit_flows(1);
    bench.guest.set_port(1);
    bench.syn(mss(1460));
    assert_eq!(bench.lines(), ["full 1 false"], "the one there is in use");
    let (new, old) = (bench.guest, GUEST.parse().unwrap());
    // That the guest says it is still there is no use of it.
    for seconds in [0, 30] {
        bench.guest = old;
        bench.wait(30_500);
        bench.says(A, 1, 1, 1000, b"");
        bench.round();
        assert_eq!(bench.lines(), [""; 0], "asked after {seconds} s");
    }
    bench.guest = new;
    bench.syn(mss(1460));
    bench.guest = old;
    assert_eq!(
        bench.lines(),
        [
            "R. 1+0 ack 1 win 2048",
            "reset",
            "full 1 true",
            "connect 198.51.100.7:80"
        ]
    );
}

#[test]
fn checksums_are_looked_at_where_nobody_vouches_for_them() {
    let mut bench = Bench::new();
    let header = Header {
        source: 1,
        destination: 2,
        flags: S,
        ..Header::default()
    };
    let link = build::Link {
        source: [2, 0, 0, 0, 0, 1],
        destination: [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
    };
    let (from, to) = (bench.guest.ip(), bench.far.ip());
    let mut bytes = build::tcp(&link, from, to, &header, 0).as_bytes().to_vec();
    let offload = Offload::default();
    let at = 0;
    bench.handle(Event::Frame {
        bytes: &bytes,
        at,
        offload,
    });
    assert_eq!(bench.lines(), [""; 0]);
    let segment = checksum::Sum::new().bytes(&bytes[34..]).checksum();
    bytes[50..52].copy_from_slice(&segment.to_be_bytes());
    bench.handle(Event::Frame {
        bytes: &bytes,
        at,
        offload,
    });
    assert_eq!(bench.lines(), ["connect 198.51.100.7:2"]);
    assert_eq!(icmp::LEN, 8);
}

/// A container of the guest's own, say, on a macvlan over the tap: neither loses its answers because the other is busy.
#[test]
fn each_connection_answers_where_its_own_end_is() {
    let mut bench = Bench::opened();
    assert_eq!(bench.towards, STATION);
    let first = (bench.guest, bench.socket, bench.iss);
    bench.station = OTHER;
    (bench.guest, bench.iss) = ("10.0.2.101:40000".parse().unwrap(), None);
    let mut bench = bench.begin(mss(1460));
    assert_eq!(bench.towards, OTHER, "its first answer, too");
    for _ in 0..3 {
        bench.readable(false);
        bench.round();
        bench.lines();
        bench.peeked(Ok(3));
        assert_eq!(bench.lines().len(), 1);
        assert_eq!(bench.towards, OTHER);
        let second = (bench.guest, bench.socket, bench.iss);
        (bench.guest, bench.socket, bench.iss) = first;
        bench.station = STATION;
        bench.says(F | A, 50, 1, 1000, b"");
        bench.round();
        assert_eq!(bench.lines(), [". 1+0 ack 1 win 2048"]);
        assert_eq!(bench.towards, STATION);
        (bench.guest, bench.socket, bench.iss) = second;
        bench.station = OTHER;
    }
}

#[test]
fn who_guesses_numbers_does_not_turn_a_connection_away() {
    let mut bench = Bench::opened();
    bench.station = OTHER;
    bench.says(A, 0x4000_0000, 1, 1000, b"x");
    bench.round();
    assert_eq!(bench.lines(), [". 1+0 ack 1 win 2048"]);
    assert_eq!(bench.towards, STATION);
    bench.says(A, 1, 0x4000_0000, 1000, b"x");
    bench.round();
    assert_eq!(bench.lines(), [". 1+0 ack 1 win 2048"]);
    assert_eq!(bench.towards, STATION);
    // But who knows them is the one.
    bench.says(F | A, 50, 1, 1000, b"");
    bench.round();
    assert_eq!(bench.lines().len(), 1);
    assert_eq!(bench.towards, OTHER);
}

/// Its link-layer address was changed, and this connection waits for the other side.
#[test]
fn a_guest_that_has_moved_is_found() {
    let mut bench = Bench::opened();
    bench.wait(1000);
    bench.station = OTHER;
    let guest = std::mem::replace(&mut bench.guest, "10.0.2.100:40009".parse().unwrap());
    let socket = bench.socket;
    bench.syn(mss(1460));
    assert_eq!(bench.lines(), ["connect 198.51.100.7:80"]);
    (bench.guest, bench.socket) = (guest, socket);
    bench.readable(false);
    bench.round();
    bench.lines();
    bench.peeked(Ok(3));
    bench.round();
    assert_eq!(bench.lines(), ["P. 1+3 ack 1 win 2048"]);
    assert_eq!(bench.towards, STATION);
    assert_eq!(bench.wait(300), ["peek 0+3"]);
    bench.peeked(Ok(3));
    assert_eq!(bench.lines(), ["P. 1+3 ack 1 win 2048"]);
    assert_eq!(bench.towards, OTHER);
}

/// A guest that sends again what we have acknowledged meanwhile is under way; a flood of segments from nowhere is not.
#[test]
fn a_stray_segment_costs_a_stream_nothing() {
    let mut bench = Bench::opened();
    bench.says(A, 1, 1, 1000, b"hello");
    bench.written(5, b"");
    bench.lines();
    bench.wait(10);
    let again = |bench: &mut Bench| {
        bench.says(A, 1, 1, 1000, b"hello");
        bench.round();
        assert_eq!(bench.lines(), [". 1+0 ack 6 win 2048"]);
        bench.lane
    };
    for _ in 1..usernet::limits::STRAYS {
        assert_eq!(again(&mut bench), Lane::Steady);
    }
    assert_eq!(again(&mut bench), Lane::Last);
    bench.says(A, 6, 1, 1000, b"more");
    bench.written(4, b"");
    bench.round();
    bench.lines();
    assert_eq!(bench.wait(10), [". 1+0 ack 10 win 2048"]);
    assert_eq!(bench.lane, Lane::Steady, "what is expected");
    bench.wait(1000);
    for _ in 1..usernet::limits::STRAYS {
        bench.says(A, 1, 1, 1000, b"hello");
        bench.round();
        bench.lines();
        assert_eq!(bench.lane, Lane::Steady, "long after the others");
        bench.wait(1);
    }
}

#[test]
fn no_answer_goes_to_a_group() {
    let mut bench = Bench::opened();
    let guest = std::mem::replace(&mut bench.guest, "10.0.2.100:40009".parse().unwrap());
    bench.station = [3, 0, 0, 0, 0, 1];
    bench.says(A, 9, 9, 1000, b"");
    assert_eq!(bench.lines().len(), 1, "a reset");
    assert_eq!(bench.towards, STATION);
    bench.guest = guest;
    bench.says(F | A, 50, 1, 1000, b"");
    bench.round();
    assert_eq!(bench.lines().len(), 1);
    assert_eq!(bench.towards, STATION);
}

/// One more connection, from this port; what is needed to go on with it.
fn another(bench: &mut Bench, port: u16, window: u16) -> (SocketAddr, SocketId, Option<u32>) {
    bench.guest.set_port(port);
    bench.iss = None;
    let options = Options {
        mss: Some(1460),
        window_scale: Some(0),
        ..Options::default()
    };
    bench.segment(S, 0, 0, window, options, b"");
    bench.lines();
    bench.connected();
    bench.lines();
    bench.says(A, 1, 1, window, b"");
    bench.round();
    bench.lines();
    bench.peeked(Err(libc::EAGAIN));
    bench.lines();
    (bench.guest, bench.socket, bench.iss)
}

/// Seventeen windows of 64 kB use a round up, and are open again in the next one.
#[test]
fn who_waited_for_a_round_comes_first() {
    let mut bench = Bench::new();
    let window = 64_240;
    let flows: Vec<_> = (1..=20)
        .map(|port| another(&mut bench, port, window))
        .collect();
    for flow in &flows {
        (bench.guest, bench.socket, bench.iss) = *flow;
        bench.readable(false);
    }
    let mut sent = vec![0_u32; flows.len()];
    for _ in 0..20 {
        bench.round();
        let mut answered = Vec::new();
        while let Some(output) = bench.forwarder.poll() {
            if let Output::Peek { socket, max, .. } = output {
                let place = flows.iter().position(|flow| flow.1 == socket).unwrap();
                sent[place] += max;
                answered.push(place);
                let result = Ok(Span { at: 0, len: max });
                bench.handle(Event::Peeked { socket, result });
            }
        }
        for place in answered {
            (bench.guest, bench.socket, bench.iss) = flows[place];
            bench.says(A, 1, 1 + sent[place], window, b"");
        }
    }
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(least * 2 > *most, "{sent:?}");
}

/// What was not there is not taken from a round.
#[test]
fn small_answers_leave_the_round_to_others() {
    let mut bench = Bench::new();
    let flows: Vec<_> = (1..=40)
        .map(|port| another(&mut bench, port, 64_240))
        .collect();
    for flow in &flows {
        (bench.guest, bench.socket, bench.iss) = *flow;
        bench.readable(false);
    }
    bench.round();
    let mut asked = 0;
    while let Some(output) = bench.forwarder.poll() {
        if let Output::Peek { socket, .. } = output {
            asked += 1;
            let result = Ok(Span { at: 0, len: 1 });
            bench.handle(Event::Peeked { socket, result });
        }
    }
    assert_eq!(asked, flows.len());
}

/// A guest has used its window exactly, of which the first segment was lost, and acknowledges what it got.
#[test]
fn an_acknowledgement_at_the_edge_counts() {
    let mut bench = Bench::on(65_520).begin(Options {
        mss: Some(60_000),
        window_scale: Some(7),
        ..Options::default()
    });
    let end = 1 + (2048 << 7);
    bench.readable(false);
    bench.round();
    bench.lines();
    bench.peeked(Ok(1000));
    bench.lines();
    let mut at = 1 + 60_000;
    while at < end {
        let len = (end - at).min(60_000);
        bench.says(A, at, 1, 1000, &vec![0; len as usize]);
        at += len;
    }
    bench.round();
    bench.lines();
    bench.says(A, end, 1001, 1000, b"");
    bench.round();
    let mut lines = bench.lines();
    lines.extend(bench.wait(1000));
    assert!(
        !lines.iter().any(|line| line.starts_with("peek 0+")),
        "{lines:?}"
    );
}

/// A guest throws away what it has no memory for, says so, and says when it has some.
#[test]
fn what_was_thrown_away_is_sent_again_when_the_window_opens() {
    let mut bench = Bench::open(Options {
        mss: Some(1460),
        window_scale: Some(7),
        ..Options::default()
    });
    bench.readable(false);
    bench.round();
    bench.lines();
    bench.peeked(Ok(30_000));
    bench.lines();
    bench.peeked(Err(libc::EAGAIN));
    bench.lines();
    bench.says(A, 1, 1, 0, b"");
    bench.round();
    assert_eq!(bench.lines(), [""; 0]);
    bench.says(A, 1, 1, 1000, b"");
    bench.round();
    assert_eq!(bench.lines(), ["peek 0+30000"]);
}

/// A guest whose route makes it take small segments sends large ones all the same.
#[test]
fn a_window_too_small_for_what_the_guest_sends_is_told_when_it_opens() {
    let size = 54_000;
    let mut bench = Bench::on(65_520).begin(Options {
        mss: Some(1460),
        window_scale: Some(0),
        ..Options::default()
    });
    let payload = [0; 54_000];
    bench.says(A, 1, 1, 1000, &payload);
    bench.written(0, &payload);
    let (mut ack, mut known) = bench.hears();
    while known >= size {
        bench.says(A, ack, 1, 1000, &payload);
        (ack, known) = bench.hears();
    }
    (_, known) = bench.drains(ack);
    assert!(known >= size, "the guest knows of {known}");
}
