use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::config::{Config, Listener};
use crate::event::Event;
use crate::limits;
use crate::local::tests::{config, start};
use crate::packet::build::{self, Link};
use crate::packet::{checksum, eth};

pub(in crate::forwarder) const GUEST: &str = "192.0.2.10:5000";
const GUEST_V6: &str = "[2001:db8::10]:5000";
const FAR: &str = "198.51.100.1:7000";
const FAR_V6: &str = "[2001:db8:1::1]:7000";

pub(in crate::forwarder) fn end(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

/// A forwarder, and a shell that only keeps an arena.
pub(in crate::forwarder) struct World {
    pub(in crate::forwarder) forwarder: Forwarder,
    arena: Vec<u8>,
    pub(in crate::forwarder) now: Instant,
}

impl World {
    pub(in crate::forwarder) fn new(config: &Config) -> Self {
        Self {
            forwarder: Forwarder::new(config, 7),
            arena: Vec::new(),
            now: start(),
        }
    }

    pub(in crate::forwarder) fn link() -> Link {
        Link {
            source: [2, 0, 0, 0, 0, 7],
            destination: config().link.our_mac,
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let at = u32::try_from(self.arena.len()).unwrap();
        self.arena.extend_from_slice(bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        Span { at, len }
    }

    pub(in crate::forwarder) fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.forwarder.poll()).collect()
    }

    pub(in crate::forwarder) fn frame(
        &mut self,
        frame: &[u8],
        segments: Segments,
        partial_checksum: bool,
    ) -> Vec<Output> {
        let at = self.keep(frame).at;
        let offload = Offload {
            partial_checksum,
            segments,
        };
        let bytes = frame;
        self.forwarder
            .handle(self.now, Event::Frame { bytes, at, offload });
        self.outputs()
    }

    pub(in crate::forwarder) fn udp(
        &mut self,
        from: &str,
        to: &str,
        ttl: u8,
        payload: &[u8],
    ) -> Vec<Output> {
        self.udp_of(Self::link(), from, to, ttl, payload)
    }

    fn udp_of(&mut self, link: Link, from: &str, to: &str, ttl: u8, payload: &[u8]) -> Vec<Output> {
        let headers = build::udp_complete(&link, end(from), end(to), ttl, payload);
        let frame = [headers.as_bytes(), payload].concat();
        self.frame(&frame, Segments::One, false)
    }

    pub(in crate::forwarder) fn ping(
        &mut self,
        from: &str,
        to: &str,
        id: u16,
        sequence: u16,
        ttl: u8,
    ) -> Vec<Output> {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let kind = if to.is_ipv6() { 128 } else { 8 };
        let head = icmp::head(kind, 0, icmp::echo_rest(id, sequence));
        let headers = build::icmp(&Self::link(), from, to, ttl, &head, b"data");
        let frame = [headers.as_bytes(), b"data"].concat();
        self.frame(&frame, Segments::One, false)
    }

    pub(in crate::forwarder) fn opened(
        &mut self,
        socket: SocketId,
        result: Result<&str, i32>,
    ) -> Vec<Output> {
        let result = result.map(end).map_err(Errno);
        self.forwarder
            .handle(self.now, Event::Opened { socket, result });
        self.outputs()
    }

    pub(in crate::forwarder) fn receive(
        &mut self,
        socket: SocketId,
        datagrams: &[&[u8]],
    ) -> Vec<Output> {
        let flow = self.forwarder.flow(socket.flow);
        let peer = flow.filter(|flow| !flow.is_group()).map(Flow::to);
        let peer = peer.map_or_else(|| FAR.to_owned(), |peer| peer.0.to_string());
        self.receive_from(socket, &peer, datagrams)
    }

    pub(in crate::forwarder) fn receive_from(
        &mut self,
        socket: SocketId,
        peer: &str,
        datagrams: &[&[u8]],
    ) -> Vec<Output> {
        let spans: Vec<_> = datagrams.iter().map(|bytes| self.keep(bytes)).collect();
        let event = Event::Datagrams {
            socket,
            spans: &spans,
            arena: &self.arena,
            peer: end(peer),
            ttl: Some(60),
        };
        self.forwarder.handle(self.now, event);
        self.outputs()
    }

    pub(in crate::forwarder) fn arrive(
        &mut self,
        peer: &str,
        local: &str,
        bytes: &[u8],
    ) -> Vec<Output> {
        let spans = [self.keep(bytes)];
        let event = Event::Arrivals {
            listener: ListenerId(0),
            spans: &spans,
            arena: &self.arena,
            peer: end(peer),
            local: end(local),
            ttl: None,
        };
        self.forwarder.handle(self.now, event);
        self.outputs()
    }

    fn fail(&mut self, socket: SocketId, failure: Failure<'_>) -> Vec<Output> {
        self.forwarder
            .handle(self.now, Event::Failure { socket, failure });
        self.outputs()
    }

    fn bytes(&self, payload: &Payload) -> Vec<u8> {
        let slice = |span: &Span| &self.arena[span.at as usize..][..span.len as usize];
        match payload {
            Payload::None => Vec::new(),
            Payload::Span(span) => slice(span).to_vec(),
            Payload::Gather(spans) => spans.iter().flat_map(slice).copied().collect(),
            Payload::Bytes(bytes) => bytes.clone(),
        }
    }

    /// A frame to the guest, whole.
    pub(in crate::forwarder) fn whole(&self, output: &Output) -> (Vec<u8>, Offload) {
        let Output::Frame {
            headers,
            payload,
            offload,
            ..
        } = output
        else {
            panic!("no frame: {output:?}");
        };
        let payload = self.bytes(payload);
        ([headers.as_bytes(), &payload].concat(), *offload)
    }

    /// A flow of the guest whose socket is there.
    pub(in crate::forwarder) fn flow(&mut self, from: &str, to: &str) -> SocketId {
        let socket = connected(&self.udp(from, to, 64, b"one")).0;
        self.opened(socket, Ok(from));
        socket
    }

    fn later(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.forwarder.handle(self.now, Event::Timer);
        let mut outputs = self.outputs();
        // Router advertisements are none of our business.
        outputs.retain(|output| !matches!(output, Output::Frame { .. }));
        outputs
    }
}

/// Socket, own address, and peer of the one connection asked for.
pub(in crate::forwarder) fn connected(
    outputs: &[Output],
) -> (SocketId, Option<SocketAddr>, SocketAddr) {
    match outputs.first() {
        Some(Output::Connect {
            socket, local, to, ..
        }) => (*socket, *local, *to),
        other => panic!("no connection: {other:?}"),
    }
}

pub(in crate::forwarder) fn packet(frame: &[u8]) -> ip::Packet<'_> {
    ip::parse(eth::parse(frame).unwrap().1).unwrap()
}

pub(in crate::forwarder) fn dropped(reason: Drop) -> Vec<Output> {
    vec![Output::Report(Report::Dropped(reason))]
}

pub(in crate::forwarder) fn published() -> Config {
    let mut config = config();
    config.listeners.push(Listener {
        side: Side::Host,
        transport: Transport::Udp,
        address: None,
        interface: None,
        first: 8000,
        last: 8010,
        target: 5000,
        target_address: None,
        best_effort: false,
        follow: false,
    });
    config
}

#[test]
fn a_peer_without_an_address_is_nobody() {
    let mut world = World::new(&published());
    for peer in ["0.0.0.0:9", "224.0.0.1:9"] {
        let outputs = world.arrive(peer, "192.0.2.99:8001", b"hi");
        assert_eq!(outputs, dropped(Drop::Source), "{peer}");
    }
}

#[test]
fn the_first_datagram_waits_for_its_socket() {
    for (guest, far, any) in [
        (GUEST, FAR, "0.0.0.0:5000"),
        (GUEST_V6, FAR_V6, "[::]:5000"),
    ] {
        let mut world = World::new(&config());
        let outputs = world.udp(guest, far, 64, b"hello");
        assert_eq!(outputs.len(), 1);
        let (socket, local, to) = connected(&outputs);
        assert_eq!((local, to), (Some(end(any)), end(far)));
        let outputs = world.opened(socket, Ok(guest));
        let [
            Output::Send {
                data,
                ttl,
                segment,
                header,
                ..
            },
        ] = &outputs[..]
        else {
            panic!("{outputs:?}");
        };
        assert_eq!(world.bytes(data), b"hello");
        assert_eq!((*ttl, *segment, header.as_bytes()), (None, None, &b""[..]));
        let outputs = world.udp(guest, far, 3, b"");
        let [
            Output::Send {
                data: Payload::None,
                ttl: Some(3),
                ..
            },
        ] = outputs[..]
        else {
            panic!("{outputs:?}");
        };
        let outputs = world.udp(guest, far, 3, b"x");
        assert!(matches!(outputs[..], [Output::Send { ttl: None, .. }]));
        assert_eq!(world.forwarder.flows(), 1);
    }
}

#[test]
fn a_port_that_is_not_to_be_had() {
    for error in [libc::EACCES, libc::EADDRINUSE] {
        let mut world = World::new(&config());
        let (socket, ..) = connected(&world.udp(GUEST, FAR, 64, b"hello"));
        let outputs = world.opened(socket, Err(error));
        assert_eq!(connected(&outputs).1, Some(end("0.0.0.0:0")));
        let outputs = world.opened(socket, Ok("192.0.2.10:40000"));
        assert!(matches!(outputs[..], [Output::Send { .. }]));
        world.udp("192.0.2.10:123", FAR, 64, b"hello");
    }
    let mut world = World::new(&config());
    let (socket, ..) = connected(&world.udp(GUEST, FAR, 64, b"hello"));
    world.opened(socket, Err(libc::EACCES));
    let outputs = world.opened(socket, Err(libc::EACCES));
    assert!(matches!(
        outputs[..],
        [
            Output::Frame { .. },
            Output::Report(Report::NoSocket { .. })
        ]
    ));
    assert_eq!(world.forwarder.flows(), 0);
}

#[test]
fn names_are_asked_where_the_host_asks() {
    let mut config = config();
    let family = config.families.v4.as_mut().unwrap();
    family.dns_forward = Some([169, 254, 1, 1].into());
    family.dns_host = Some([127, 0, 0, 53].into());
    let mut world = World::new(&config);
    let (socket, _, to) = connected(&world.udp(GUEST, "169.254.1.1:53", 64, b"?"));
    assert_eq!(to, end("127.0.0.53:53"));
    world.opened(socket, Ok("127.0.0.1:5000"));
    let outputs = world.receive(socket, &[b"!"]);
    let (frame, _) = world.whole(&outputs[0]);
    assert_eq!(packet(&frame).source, end("169.254.1.1:53").ip());
    let (_, _, to) = connected(&world.udp(GUEST, "169.254.1.1:54", 64, b"?"));
    assert_eq!(to, end("169.254.1.1:54"));
}

#[test]
fn what_leads_nowhere() {
    let mut world = World::new(&config());
    for to in ["127.0.0.1:53", "198.51.100.1:0", "224.0.0.251:0"] {
        assert_eq!(world.udp(GUEST, to, 64, b"x"), dropped(Drop::Destination));
    }
    let outputs = world.udp("127.0.0.1:1", FAR, 64, b"x");
    assert_eq!(outputs, dropped(Drop::Source));
    let mut off = config();
    off.off.udp = true;
    let outputs = World::new(&off).udp(GUEST, FAR, 64, b"x");
    assert_eq!(outputs, dropped(Drop::Disabled));
    assert_eq!(world.forwarder.flows(), 0);
}

#[test]
fn a_wrong_checksum() {
    let mut world = World::new(&config());
    let headers = build::udp_complete(&World::link(), end(GUEST), end(FAR), 64, b"hello");
    let frame = [headers.as_bytes(), b"hullo"].concat();
    let outputs = world.frame(&frame, Segments::One, false);
    assert_eq!(outputs, dropped(Drop::Checksum));
}

#[test]
fn trains_out() {
    let mut world = World::new(&config());
    let socket = world.flow(GUEST, FAR);
    let payload = vec![5; 3000];
    let headers = build::udp(&World::link(), end(GUEST), end(FAR), 64, payload.len());
    let frame = [headers.as_bytes(), &payload[..]].concat();
    let outputs = world.frame(&frame, Segments::Udp(1200), true);
    let [
        Output::Send {
            socket: on,
            segment: Some(1200),
            data: Payload::Span(span),
            ..
        },
    ] = outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert_eq!((on, span.len), (socket, 3000));
    let outputs = world.frame(&frame, Segments::Udp(3000), true);
    assert!(matches!(outputs[..], [Output::Send { segment: None, .. }]));
}

#[test]
fn trains_in() {
    let mut world = World::new(&config());
    let socket = world.flow(GUEST, FAR);
    let (a, b) = ([1; 100], [2; 60]);
    let outputs = world.receive(socket, &[&a, &a, &b, &a, b"", b"", &a, &a]);
    let sizes: Vec<_> = outputs
        .iter()
        .map(|output| {
            let (frame, offload) = world.whole(output);
            assert!(offload.partial_checksum);
            let packet = packet(&frame);
            assert_eq!((packet.hop_limit, packet.fragment), (60, None));
            let (header, payload) = udp::parse(packet.payload).unwrap();
            assert_eq!((header.source, header.destination), (7000, 5000));
            (payload.len(), offload.segments)
        })
        .collect();
    let expected = [
        (260, Segments::Udp(100)),
        (100, Segments::One),
        (0, Segments::One),
        (0, Segments::One),
        (200, Segments::Udp(100)),
    ];
    assert_eq!(sizes, expected);
}

#[test]
fn trains_are_bounded() {
    let mut world = World::new(&config());
    let socket = world.flow(GUEST, FAR);
    let small = [1_u8; 10];
    let outputs = world.receive(socket, &[&small[..]; 150]);
    let lens: Vec<_> = outputs
        .iter()
        .map(|o| world.whole(o).0.len() - 42)
        .collect();
    assert_eq!(lens, [640, 640, 220]);
    let large = [1_u8; 30_000];
    let outputs = world.receive(socket, &[&large[..]; 3]);
    let lens: Vec<_> = outputs
        .iter()
        .map(|o| world.whole(o).0.len() - 42)
        .collect();
    assert_eq!(lens, [60_000, 30_000]);
}

#[test]
fn larger_than_the_link() {
    let mut config = config();
    config.link.mtu = 1500;
    for (guest, far) in [(GUEST, FAR), (GUEST_V6, FAR_V6)] {
        let mut world = World::new(&config);
        let socket = world.flow(guest, far);
        let payload: Vec<u8> = (0..5000_u16).map(|i| (i % 251) as u8).collect();
        let outputs = world.receive(socket, &[&payload, &payload]);
        assert_eq!(outputs.len(), 8);
        let mut reassembly = crate::fragments::Reassembly::default();
        let mut whole = Vec::new();
        for output in &outputs {
            let (frame, offload) = world.whole(output);
            assert_eq!(offload, Offload::default());
            assert!(frame.len() - eth::LEN <= 1500);
            whole.extend(reassembly.add(world.now, &packet(&frame)).unwrap());
        }
        assert_eq!(whole.len(), 2);
        for datagram in whole {
            let (source, destination) = (end(far).ip(), end(guest).ip());
            let bytes = &datagram.payload;
            assert!(checksum::fits(source, destination, ip::UDP, bytes));
            assert_eq!(udp::parse(bytes).unwrap().1, payload);
        }
    }
}

#[test]
fn fragments_of_the_guest() {
    let mut config = config();
    config.link.mtu = 1280;
    for (guest, far) in [(GUEST, FAR), (GUEST_V6, FAR_V6)] {
        let mut world = World::new(&config);
        let payload: Vec<u8> = (0..3000_u16).map(|i| (i % 251) as u8).collect();
        let span = world.keep(&payload);
        let head = build::udp_header(end(guest), end(far), &[&payload]);
        let datagram = crate::fragments::Datagram {
            source: end(guest).ip(),
            destination: end(far).ip(),
            protocol: ip::UDP,
            hop_limit: 9,
            head: &head,
            payload: span,
        };
        let mut parts = std::collections::VecDeque::new();
        crate::fragments::cut(&mut parts, &World::link(), 1280, 77, &datagram);
        assert_eq!(parts.len(), 3);
        let mut outputs = Vec::new();
        for part in parts.iter().rev() {
            assert!(outputs.is_empty());
            let (frame, _) = world.whole(part);
            outputs = world.frame(&frame, Segments::One, false);
        }
        let (socket, _, to) = connected(&outputs);
        assert_eq!(to, end(far));
        let outputs = world.opened(socket, Ok(guest));
        let [
            Output::Send {
                data: Payload::Bytes(bytes),
                ttl: Some(9),
                ..
            },
        ] = &outputs[..]
        else {
            panic!("{outputs:?}");
        };
        assert_eq!(bytes, &payload);
    }
}

#[test]
fn a_part_alone_is_given_up() {
    let mut world = World::new(&config());
    let part = ip::Fragment {
        id: 1,
        offset: 0,
        more: true,
    };
    let (from, to) = (end(GUEST).ip(), end(FAR).ip());
    let headers = build::fragment(&World::link(), from, to, ip::UDP, 64, 8, part);
    let frame = [headers.as_bytes(), &[0; 8]].concat();
    assert_eq!(world.frame(&frame, Segments::One, false), []);
    let due = world.now + limits::FRAGMENT_TIMEOUT;
    assert_eq!(world.forwarder.deadline(), Some(due));
    world.later(limits::FRAGMENT_TIMEOUT);
    assert_ne!(world.forwarder.deadline(), Some(due));
}

#[test]
fn a_published_port() {
    let mut world = World::new(&published());
    let outputs = world.arrive("203.0.113.5:999", "192.0.2.99:8001", b"hi");
    let (socket, local, to) = connected(&outputs);
    assert_eq!(local, Some(end("192.0.2.99:8001")));
    assert_eq!(to, end("203.0.113.5:999"));
    let (frame, _) = world.whole(&outputs[1]);
    let ports = udp::parse(packet(&frame).payload).unwrap().0;
    assert_eq!((ports.source, ports.destination), (999, 5001));
    assert_eq!(packet(&frame).destination, end(GUEST).ip());
    assert_eq!(packet(&frame).source, to.ip());
    world.opened(socket, Ok("192.0.2.99:8001"));

    // More of the same, in the clothes of IPv6: no new socket.
    let outputs = world.arrive("[::ffff:203.0.113.5]:999", "[::ffff:192.0.2.99]:8001", b"");
    assert!(matches!(outputs[..], [Output::Frame { .. }]));
    let outputs = world.udp("192.0.2.10:5001", "203.0.113.5:999", 64, b"answer");
    assert!(matches!(outputs[..], [Output::Send { socket: on, .. }] if on == socket));

    // Another of our addresses: that one answers from now on.
    let outputs = world.arrive("203.0.113.5:999", "198.51.100.9:8001", b"hi");
    assert!(matches!(outputs[0], Output::Close { socket: on, .. } if on == socket));
    assert_eq!(connected(&outputs[1..]).1, Some(end("198.51.100.9:8001")));
    assert_eq!(world.forwarder.flows(), 1);
}

/// A socket has its port before it has its peer, and hears others in between.
#[test]
fn what_was_for_a_listener_is_not_the_peers() {
    for (peer, other, local) in [
        ("203.0.113.5:999", "203.0.113.6:999", "192.0.2.99:8001"),
        ("127.0.0.1:999", "127.0.0.1:998", "127.0.0.1:8001"),
    ] {
        let mut world = World::new(&published());
        let (socket, ..) = connected(&world.arrive(peer, local, b"hi"));
        world.opened(socket, Ok(local));
        let outputs = world.receive_from(socket, other, &[b"hello"]);
        assert_eq!(connected(&outputs).2, end(other));
        assert_eq!(world.forwarder.flows(), 2);
        let outputs = world.receive_from(socket, peer, &[b"again"]);
        assert_eq!(outputs.len(), 1, "{outputs:?}");
    }
    // A socket for IPv6 without a peer hears IPv4.
    let mut world = World::new(&published());
    let local = "[2001:db8::99]:8001";
    let (socket, ..) = connected(&world.arrive("[2001:db8::5]:999", local, b"hi"));
    world.opened(socket, Ok(local));
    let outputs = world.receive_from(socket, "203.0.113.6:998", &[b"hello"]);
    let (_, from, to) = connected(&outputs);
    assert_eq!(
        (from, to),
        (Some(end("0.0.0.0:8001")), end("203.0.113.6:998"))
    );
    // Nobody listens where the guest has sent from.
    let mut world = World::new(&config());
    let socket = world.flow(GUEST, FAR);
    let outputs = world.receive_from(socket, "198.51.100.9:7000", &[b"hello"]);
    assert_eq!(outputs, dropped(Drop::Source));
}

#[test]
fn flows_are_forgotten() {
    let mut world = World::new(&config());
    let socket = world.flow(GUEST, FAR);
    world.receive(socket, &[b"x"]);
    let almost = limits::UDP_TIMEOUT - Duration::from_secs(1);
    assert_eq!(world.later(almost), []);
    // Used: the deadline that comes is too early.
    world.udp(GUEST, FAR, 64, b"two");
    assert_eq!(world.later(almost), []);
    world.receive(socket, &[b"y"]);
    assert_eq!(world.later(limits::UDP_TIMEOUT), []);
    assert_eq!(world.later(limits::UDP_TIMEOUT), []);
    assert_eq!(world.forwarder.flows(), 1);
    let outputs = world.later(limits::UDP_STREAM_TIMEOUT - 2 * limits::UDP_TIMEOUT);
    assert_eq!(
        outputs,
        [Output::Close {
            socket,
            reset: false
        }]
    );
    assert_eq!(world.forwarder.flows(), 0);
    assert_eq!(world.receive(socket, &[b"late"]), []);
}

#[test]
fn a_closed_port() {
    for (guest, far, icmp, expected) in [
        (GUEST, FAR, Some((3, 3, 0)), (3, 3, 0)),
        (GUEST, FAR, None, (3, 3, 0)),
        (GUEST, FAR, Some((3, 4, 1400)), (3, 4, 1400)),
        (GUEST_V6, FAR_V6, Some((1, 4, 0)), (1, 4, 0)),
        (GUEST_V6, FAR_V6, None, (1, 4, 0)),
        (GUEST_V6, FAR_V6, Some((2, 0, 1400)), (2, 0, 1400)),
    ] {
        let mut world = World::new(&config());
        let socket = world.flow(guest, far);
        let outputs = world.fail(
            socket,
            Failure {
                error: Errno(libc::ECONNREFUSED),
                icmp,
                offender: Some(end(far).ip()),
                destination: end(far),
                payload: &[7; 2000],
            },
        );
        let (frame, _) = world.whole(&outputs[0]);
        let packet = packet(&frame);
        assert_eq!(
            (packet.source, packet.destination),
            (end(far).ip(), end(guest).ip())
        );
        assert!(
            packet.headers.len() + packet.payload.len()
                <= if end(far).is_ipv6() { 1280 } else { 576 }
        );
        let icmp::Message::Error(error) = icmp::parse(&packet).unwrap() else {
            panic!("no error");
        };
        assert_eq!((error.kind, error.code, error.rest), expected);
        let quoted = ip::parse_quoted(error.quote).unwrap();
        assert_eq!(
            (quoted.source, quoted.destination),
            (end(guest).ip(), end(far).ip())
        );
        assert_eq!(quoted.payload[..4], [0x13, 0x88, 0x1b, 0x58]);
        assert_eq!(quoted.payload[8], 7);
    }
}

#[test]
fn echoes() {
    for (guest, far, request, answer) in [
        ("192.0.2.10", "198.51.100.1", 8, 0),
        ("2001:db8::10", "2001:db8:1::1", 128, 129),
    ] {
        let mut world = World::new(&config());
        let outputs = world.ping(guest, far, 0x1234, 1, 64);
        let (socket, local, to) = connected(&outputs);
        assert_eq!(local.map(|local| local.port()), Some(0x1234));
        assert_eq!((to.ip(), to.port()), (far.parse().unwrap(), 0));
        let outputs = world.opened(socket, Err(libc::EADDRINUSE));
        assert_eq!(connected(&outputs).1.map(|local| local.port()), Some(0));
        let outputs = world.opened(socket, Ok("192.0.2.10:99"));
        let [
            Output::Send {
                header,
                data,
                ttl: None,
                ..
            },
        ] = &outputs[..]
        else {
            panic!("{outputs:?}");
        };
        assert_eq!(header.as_bytes(), [request, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert_eq!(world.bytes(data), b"data");

        // The kernel's own identifier comes back.
        let reply = [answer, 0, 0xaa, 0xaa, 0, 99, 0, 1, b'd', b'a', b't', b'a'];
        let outputs = world.receive(socket, &[&reply, &[request; 12], &[answer; 7]]);
        assert_eq!(outputs.len(), 2);
        let (frame, _) = world.whole(&outputs[0]);
        let packet = packet(&frame);
        assert_eq!(
            (packet.source, packet.hop_limit),
            (far.parse().unwrap(), 60)
        );
        let icmp::Message::EchoReply(echo) = icmp::parse(&packet).unwrap() else {
            panic!("no reply");
        };
        assert_eq!(
            (echo.id, echo.sequence, echo.data),
            (0x1234, 1, &b"data"[..])
        );

        assert_eq!(
            world.later(limits::ECHO_TIMEOUT - Duration::from_secs(1)),
            []
        );
        let outputs = world.later(Duration::from_secs(1));
        assert_eq!(
            outputs,
            [Output::Close {
                socket,
                reset: false
            }]
        );
    }
}

#[test]
fn a_large_echo_is_cut() {
    let mut config = config();
    config.link.mtu = 1280;
    for (guest, far, answer) in [
        ("192.0.2.10", "198.51.100.1", 0),
        ("2001:db8::10", "2001:db8:1::1", 129),
    ] {
        let mut world = World::new(&config);
        let (socket, ..) = connected(&world.ping(guest, far, 5, 1, 64));
        world.opened(socket, Ok("192.0.2.10:5"));
        let mut reply = vec![answer, 0, 0, 0, 0, 5, 0, 1];
        reply.extend((0..3000_u16).map(|i| (i % 253) as u8));
        let outputs = world.receive(socket, &[&reply]);
        let mut reassembly = crate::fragments::Reassembly::default();
        let mut whole = None;
        for output in &outputs {
            let (frame, _) = world.whole(output);
            whole = reassembly.add(world.now, &packet(&frame)).unwrap();
        }
        let whole = whole.expect("the last one completes it");
        let (frame, _) = world.whole(&outputs[0]);
        let packet = ip::Packet {
            fragment: None,
            payload: &whole.payload,
            ..packet(&frame)
        };
        let icmp::Message::EchoReply(echo) = icmp::parse(&packet).unwrap() else {
            panic!("no reply");
        };
        assert_eq!((echo.id, echo.data), (5, &reply[8..]));
    }
}

#[test]
fn traceroute_by_echoes() {
    let mut world = World::new(&config());
    let (socket, ..) = connected(&world.ping("192.0.2.10", "198.51.100.1", 9, 1, 1));
    let outputs = world.opened(socket, Ok("192.0.2.10:77"));
    assert!(matches!(outputs[..], [Output::Send { ttl: Some(1), .. }]));
    let outputs = world.ping("192.0.2.10", "198.51.100.1", 9, 2, 2);
    assert!(matches!(outputs[..], [Output::Send { ttl: Some(2), .. }]));
    for (payload, sequence) in [(&[8, 0, 0, 0, 0, 77, 0, 1][..], 1), (b"", 2)] {
        let failure = Failure {
            error: Errno(libc::EHOSTUNREACH),
            icmp: Some((11, 0, 0)),
            offender: Some([203, 0, 113, 1].into()),
            destination: end("198.51.100.1:0"),
            payload,
        };
        let outputs = world.fail(socket, failure);
        let (frame, _) = world.whole(&outputs[0]);
        let packet = packet(&frame);
        assert_eq!(packet.source, IpAddr::from([203, 0, 113, 1]));
        let icmp::Message::Error(error) = icmp::parse(&packet).unwrap() else {
            panic!("no error");
        };
        assert_eq!((error.kind, error.code), (11, 0));
        let quoted = ip::parse_quoted(error.quote).unwrap();
        let icmp::Message::Echo(echo) = icmp::parse(&quoted).unwrap() else {
            panic!("no request");
        };
        assert_eq!((echo.id, echo.sequence), (9, sequence));
    }
}

#[test]
fn the_table_is_bounded() {
    let mut world = World::new(&config());
    world.forwarder.limit_flows(2);
    let first = world.flow("192.0.2.10:1", FAR);
    world.flow("192.0.2.10:2", FAR);
    let outputs = world.udp("192.0.2.10:3", FAR, 64, b"x");
    assert_eq!(
        outputs[0],
        Output::Close {
            socket: first,
            reset: false
        }
    );
    assert_eq!(world.forwarder.flows(), 2);
}

/// The kernel walks all of them for each new one.
#[test]
fn flows_that_share_a_port_are_bounded() {
    let mut world = World::new(&config());
    let first = world.flow("192.0.2.10:1", FAR);
    for port in 1..limits::SHARERS {
        world.flow("192.0.2.10:1", &format!("198.51.100.9:{port}"));
    }
    // The first is used: the second gives way.
    world.later(Duration::from_secs(1));
    world.udp("192.0.2.10:1", FAR, 64, b"x");
    world.flow("192.0.2.10:1", "198.51.100.10:1");
    let bound = u32::try_from(limits::SHARERS).unwrap();
    assert_eq!(world.forwarder.flows(), bound);
    assert!(world.forwarder.flow(first.flow).is_some());
    world.flow("192.0.2.10:2", "198.51.100.10:1");
    assert_eq!(world.forwarder.flows(), bound + 1);
}

#[test]
fn loopback_does_not_touch_the_tap() {
    for (side, peer, local, target) in [
        (
            Side::Host,
            "127.0.0.1:999",
            "127.0.0.1:8001",
            "192.0.2.10:5001",
        ),
        (Side::Host, "[::1]:999", "[::1]:8001", "[2001:db8::10]:5001"),
        (
            Side::Guest,
            "127.0.0.1:999",
            "127.0.0.1:8001",
            "127.0.0.1:5001",
        ),
    ] {
        let mut config = published();
        config.listeners[0].side = side;
        let mut world = World::new(&config);
        let outputs = world.arrive(peer, local, b"hi");
        let (socket, own, to) = connected(&outputs);
        assert_eq!((socket.side, own, to), (side, Some(end(local)), end(peer)));
        let (other, own, to) = connected(&outputs[1..]);
        // The caller's port, at the address that is called.
        let source = Some(SocketAddr::new(end(target).ip(), 999));
        assert_eq!((other.side, own, to), (side.other(), source, end(target)));
        let [
            _,
            _,
            Output::Send {
                socket: on, data, ..
            },
        ] = &outputs[..]
        else {
            panic!("{outputs:?}");
        };
        assert_eq!((*on, world.bytes(data)), (other, b"hi".to_vec()));
        assert_eq!(world.opened(socket, Ok(local)), []);
        // Somebody has it there.
        let outputs = world.opened(other, Err(libc::EADDRINUSE));
        assert_eq!(connected(&outputs), (other, None, end(target)));
        assert_eq!(world.opened(other, Ok(target)), []);

        // Answers, and what still came to the listener; empty ones count.
        let stray = world.receive_from(other, FAR, &[b"no"]);
        assert!(
            !stray
                .iter()
                .any(|output| matches!(output, Output::Send { .. }))
        );
        let outputs = world.receive_from(other, target, &[b"a", b""]);
        let [
            Output::Send {
                socket: on,
                data: Payload::Span(_),
                ..
            },
            Output::Send {
                data: Payload::None,
                ..
            },
        ] = outputs[..]
        else {
            panic!("{outputs:?}");
        };
        assert_eq!(on, socket);
        let outputs = world.arrive(peer, local, b"more");
        assert!(matches!(outputs[..], [Output::Send { socket: on, .. }] if on == other));
        assert_eq!(world.forwarder.flows(), 1);

        let closed = [Side::Host, Side::Guest].map(|side| Output::Close {
            socket: SocketId {
                flow: socket.flow,
                side,
            },
            reset: false,
        });
        assert_eq!(world.later(limits::UDP_TIMEOUT), closed);
        let outputs = world.arrive(peer, local, b"again");
        let (socket, ..) = connected(&outputs);
        assert_eq!(world.opened(socket, Err(libc::EADDRINUSE)).len(), 2);
        assert_eq!(world.forwarder.flows(), 0);
    }
}

#[test]
fn forwarded_ports_of_the_guest_are_for_its_loopback() {
    let mut config = published();
    config.listeners[0].side = Side::Guest;
    let mut world = World::new(&config);
    let outputs = world.arrive("192.0.2.10:999", "192.0.2.10:8001", b"hi");
    assert_eq!(outputs, dropped(Drop::Destination));
}

/// Whomever the guest talks to from one port, it is known by one port of the host's.
#[test]
fn source_ports() {
    let asked = |outputs: &[Output]| match outputs.first() {
        Some(Output::Connect { local, shared, .. }) => (local.unwrap().port(), *shared),
        other => panic!("{other:?}"),
    };
    let mut world = World::new(&config());
    let first = world.udp(GUEST, FAR, 64, b"one");
    assert_eq!(asked(&first), (5000, false));
    let socket = connected(&first).0;
    let again = world.opened(socket, Err(libc::EADDRINUSE));
    assert_eq!(asked(&again), (0, false));
    world.opened(socket, Ok("192.0.2.10:40000"));
    let second = world.udp(GUEST, "198.51.100.2:7000", 64, b"two");
    assert_eq!(asked(&second), (40_000, true));
    world.opened(connected(&second).0, Ok("192.0.2.10:40000"));
    // When they are forgotten, so is the port.
    world.later(limits::UDP_TIMEOUT);
    assert_eq!(world.forwarder.flows(), 0);
    assert_eq!(asked(&world.udp(GUEST, FAR, 64, b"one")), (5000, false));
    // A published port is shared with its listener.
    let mut world = World::new(&published());
    let outputs = world.udp("192.0.2.10:5002", FAR, 64, b"one");
    assert_eq!(asked(&outputs), (8002, true));
}

/// A question without an answer, asked again from the same port, goes to the next server; of whichever family.
#[test]
fn name_servers_take_turns() {
    let mut config = config();
    let forward = |family: &mut Option<crate::config::Family>, address: &str| {
        family.as_mut().unwrap().dns_forward = Some(address.parse().unwrap());
    };
    forward(&mut config.families.v4, "169.254.1.1");
    forward(&mut config.families.v6, "2001:db8:53::1");
    let mut world = World::new(&config);
    let servers: Vec<IpAddr> = ["10.0.0.1", "10.0.0.2"]
        .map(|ip| ip.parse().unwrap())
        .into();
    world.forwarder.set_resolvers(crate::config::Families {
        v4: Some(servers.clone()),
        v6: Some(servers),
    });
    let to = |outputs: &[Output]| {
        outputs.iter().find_map(|output| {
            let Output::Connect { socket, to, .. } = output else {
                return None;
            };
            Some((*socket, to.to_string()))
        })
    };
    let first = world.udp(GUEST, "169.254.1.1:53", 64, b"?");
    let (socket, server) = to(&first).unwrap();
    assert_eq!(server, "10.0.0.1:53");
    world.opened(socket, Ok("192.0.2.10:5000"));
    assert_eq!(to(&world.udp(GUEST, "169.254.1.1:53", 64, b"?")), None);
    world.now += limits::NAMES_PATIENCE;
    let second = world.udp(GUEST, "169.254.1.1:53", 64, b"?");
    assert!(matches!(second[0], Output::Close { .. }), "{second:?}");
    let (socket, server) = to(&second).unwrap();
    assert_eq!(server, "10.0.0.2:53");
    world.opened(socket, Ok("192.0.2.10:5000"));
    world.receive_from(socket, "10.0.0.2:53", &[b"!"]);
    // Everybody goes there now, and who asks in IPv6 is answered in IPv6.
    let third = world.udp(GUEST_V6, "[2001:db8:53::1]:53", 64, b"?");
    let (socket, server) = to(&third).unwrap();
    assert_eq!(server, "10.0.0.2:53");
    world.opened(socket, Ok("192.0.2.10:5000"));
    let outputs = world.receive_from(socket, "10.0.0.2:53", &[b"!"]);
    let (frame, _) = world.whole(&outputs[0]);
    assert_eq!(packet(&frame).source, end("[2001:db8:53::1]:53").ip());
    // A server that refuses is passed over at once, and the guest is told in its own family's words.
    let failure = Failure {
        error: Errno(libc::ECONNREFUSED),
        icmp: Some((3, 3, 0)),
        offender: None,
        destination: end("10.0.0.2:53"),
        payload: b"?",
    };
    let outputs = world.fail(socket, failure);
    let (frame, _) = world.whole(&outputs[0]);
    assert_eq!(packet(&frame).payload[..2], [1, 4]);
    let fourth = world.udp("[2001:db8::10]:5001", "[2001:db8:53::1]:53", 64, b"?");
    assert_eq!(to(&fourth).unwrap().1, "10.0.0.1:53");
}

/// Too large for the link: cut, with the checksum of the whole, in both families.
#[test]
fn arrivals_that_do_not_fit() {
    let mut config = published();
    config.link.mtu = 1500;
    for (peer, local) in [
        ("198.51.100.1:9", "192.0.2.10:8000"),
        ("[2001:db8:1::1]:9", "[2001:db8::10]:8000"),
    ] {
        let mut world = World::new(&config);
        let outputs = world.arrive(peer, local, &vec![7; 4000]);
        let frames: Vec<_> = outputs
            .iter()
            .filter(|output| matches!(output, Output::Frame { .. }))
            .map(|output| world.whole(output).0)
            .collect();
        assert_eq!(frames.len(), 3, "{peer}");
        let parts = frames.iter().map(|frame| packet(frame).payload.to_vec());
        let whole = parts.collect::<Vec<_>>().concat();
        let (from, to) = (packet(&frames[0]).source, packet(&frames[0]).destination);
        assert!(checksum::fits(from, to, ip::UDP, &whole), "{peer}");
    }
}

/// The guest has a second link-layer address, of a container of its own, beside a busy first one.
#[test]
fn each_flow_answers_where_its_own_end_is() {
    let other = Link {
        source: [2, 0, 0, 0, 0, 8],
        ..World::link()
    };
    let towards = |outputs: &[Output]| match outputs.first() {
        Some(Output::Frame { headers, .. }) => {
            eth::parse(headers.as_bytes()).unwrap().0.destination
        }
        other => panic!("no frame: {other:?}"),
    };
    let mut world = World::new(&published());
    let first = world.flow(GUEST, FAR);
    let asked = world.udp_of(other, "192.0.2.11:5000", FAR, 64, b"one");
    let second = connected(&asked).0;
    world.opened(second, Ok("192.0.2.11:5000"));
    for _ in 0..3 {
        world.udp(GUEST, FAR, 64, b"more");
        let answer = world.receive(second, &[b"answer"]);
        assert_eq!(towards(&answer), other.source);
        let answer = world.receive(first, &[b"answer"]);
        assert_eq!(towards(&answer), World::link().source);
    }
    // Who calls from outside reaches the address that speaks now, at its own place.
    world.now += limits::SILENCE;
    world.udp_of(other, "192.0.2.11:5000", FAR, 64, b"more");
    let arrived = world.arrive("203.0.113.1:9", "192.0.2.99:8001", b"hi");
    let frames: Vec<_> = arrived.into_iter().skip(1).collect();
    let (frame, _) = world.whole(&frames[0]);
    assert_eq!(packet(&frame).destination, end("192.0.2.11:0").ip());
    assert_eq!(towards(&frames), other.source);
}
