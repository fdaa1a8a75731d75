use std::time::Duration;

use super::*;
use crate::event::{Event, Report};
use crate::forwarder::datagrams::tests::{GUEST, World, dropped, end, packet, published};
use crate::local::tests::config;
use crate::packet::checksum::Sum;

const MDNS: &str = "224.0.0.251:5353";

/// Groups that are to be heard from now on.
fn joins(outputs: &[Output]) -> Vec<(SocketId, SocketAddr)> {
    let joins = outputs.iter().filter_map(|output| {
        let Output::Join { socket, group } = output else {
            return None;
        };
        Some((*socket, *group))
    });
    joins.collect()
}

/// The guest says something of a group.
fn says(world: &mut World, kind: u8, group: [u8; 4]) -> Vec<Output> {
    let mut message = [&[kind, 0, 0, 0][..], &group].concat();
    let [a, b] = Sum::new().bytes(&message).checksum().to_be_bytes();
    message[2..4].copy_from_slice(&[a, b]);
    let to = IpAddr::from(group);
    let headers = build::ip(&World::link(), end(GUEST).ip(), to, 2, 1, message.len());
    let frame = [headers.as_bytes(), &message].concat();
    world.frame(&frame, crate::event::Segments::One, false)
}

#[test]
fn what_is_said_to_many() {
    // The third is everybody on the guest's network.
    for to in [
        MDNS,
        "255.255.255.255:9",
        "192.0.2.255:9",
        "[ff02::fb]:5353",
    ] {
        let mut world = World::new(&config());
        let from = if to.starts_with('[') {
            "[2001:db8::10]:5000"
        } else {
            GUEST
        };
        let outputs = world.udp(from, to, 4, b"hello");
        let [
            Output::Group {
                socket,
                local,
                to: sent,
                shared: false,
            },
        ] = outputs[..]
        else {
            panic!("{outputs:?}");
        };
        assert_eq!((local.port(), sent), (5000, end(to)), "{to}");
        let outputs = world.opened(socket, Ok("203.0.113.1:5000"));
        assert!(
            matches!(outputs[..], [Output::Send { ttl: Some(4), .. }]),
            "{outputs:?}"
        );
        // Anybody may answer, but not we ourselves.
        let outputs = world.receive(socket, &[b"here"]);
        let (frame, _) = world.whole(&outputs[0]);
        assert_eq!(packet(&frame).destination, end(from).ip());
        let outputs = world.receive_from(socket, "203.0.113.1:5000", &[b"echo"]);
        assert_eq!(outputs, dropped(Drop::Source));
    }
    let mut world = World::new(&config());
    // A socket's own time to live for groups is 1, and it is told of others only.
    let outputs = world.udp("192.0.2.10:5001", MDNS, 1, b"hello");
    let Some(Output::Group { socket, .. }) = outputs.first() else {
        panic!("{outputs:?}");
    };
    let outputs = world.opened(*socket, Ok("203.0.113.1:5001"));
    assert!(
        matches!(outputs[..], [Output::Send { ttl: None, .. }]),
        "{outputs:?}"
    );
}

/// Two groups are spoken to by one port, which stays ours until both are forgotten.
#[test]
fn one_port_to_two_groups() {
    let mut world = World::new(&config());
    let begin = world.now;
    let mut sockets = Vec::new();
    for (to, after) in [(MDNS, 0), ("239.255.255.250:1900", 20)] {
        world.now = begin + Duration::from_secs(after);
        let outputs = world.udp(GUEST, to, 1, b"hello");
        let Some(Output::Group { socket, .. }) = outputs.first() else {
            panic!("{outputs:?}");
        };
        world.opened(*socket, Ok("203.0.113.1:5000"));
        sockets.push(*socket);
    }
    world.now = begin + limits::UDP_TIMEOUT;
    world.forwarder.handle(world.now, Event::Timer);
    world.outputs();
    assert_eq!(world.forwarder.flows(), 1);
    let outputs = world.receive_from(sockets[1], "203.0.113.1:5000", &[b"echo"]);
    assert_eq!(outputs, dropped(Drop::Source));
}

/// Questions of echo are for one machine, whatever its address.
#[test]
fn an_echo_to_everybody_is_an_echo() {
    let mut world = World::new(&config());
    let outputs = world.ping("192.0.2.10", "192.0.2.255", 7, 1, 64);
    let echo = Transport::Echo;
    let asked =
        |output: &Output| matches!(output, Output::Connect { transport, .. } if *transport == echo);
    assert!(outputs.iter().any(asked), "{outputs:?}");
}

/// Nobody is told that a group is unreachable.
#[test]
fn a_group_that_cannot_be_reached() {
    let mut world = World::new(&config());
    let outputs = world.udp(GUEST, MDNS, 1, b"hello");
    let Some(Output::Group { socket, .. }) = outputs.first() else {
        panic!("{outputs:?}");
    };
    assert_eq!(world.opened(*socket, Err(libc::ENETUNREACH)), []);
    assert_eq!(world.forwarder.flows(), 0);
}

#[test]
fn what_is_heard() {
    let mut world = World::new(&config());
    let asked = joins(&says(&mut world, 0x16, [224, 0, 0, 251]));
    let [(socket, group)] = asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(group, end(MDNS));
    assert_eq!(world.opened(socket, Ok(MDNS)), []);
    let outputs = world.receive(socket, &[b"news"]);
    let (frame, _) = world.whole(&outputs[0]);
    assert_eq!(frame[..6], [1, 0, 0x5e, 0, 0, 251]);
    let ip = packet(&frame);
    assert_eq!((ip.destination, ip.hop_limit), (end(MDNS).ip(), 60));
    // Said again, and not heard twice.
    assert_eq!(joins(&says(&mut world, 0x16, [224, 0, 0, 251])), []);
    assert_eq!(joins(&world.udp(GUEST, MDNS, 1, b"x")), []);
    // What the guest itself sends there is answered there.
    let outputs = world.udp(GUEST, "224.0.0.251:7000", 1, b"x");
    assert_eq!(joins(&outputs)[0].1, end("224.0.0.251:7000"));
    let outputs = says(&mut world, 0x17, [224, 0, 0, 251]);
    let closed = |output: &&Output| matches!(output, Output::Close { .. });
    assert_eq!(outputs.iter().filter(closed).count(), 2);
}

/// A socket that could not be had is asked for again when the guest speaks again, and nothing stays behind.
#[test]
fn a_group_that_cannot_be_joined() {
    let mut world = World::new(&config());
    let (socket, _) = joins(&says(&mut world, 0x16, [224, 0, 0, 251]))[0];
    world.opened(socket, Err(libc::ENODEV));
    assert_eq!(world.forwarder.flows(), 0);
    assert_eq!(joins(&world.udp(GUEST, MDNS, 1, b"x")).len(), 1);
}

/// The host has another link for IPv4: groups are heard there, and what the guest sends to many leaves there.
#[test]
fn another_link() {
    let mut world = World::new(&config());
    let (heard, _) = joins(&says(&mut world, 0x16, [224, 0, 0, 251]))[0];
    world.opened(heard, Ok(MDNS));
    let mut said = Vec::new();
    for (from, to) in [(GUEST, MDNS), ("[2001:db8::10]:5000", "[fe80::9]:9")] {
        let outputs = world.udp(from, to, 1, b"x");
        let socket = match outputs.first() {
            Some(Output::Group { socket, .. } | Output::Connect { socket, .. }) => *socket,
            other => panic!("{other:?}"),
        };
        said.push(socket);
        world.opened(socket, Ok("203.0.113.1:5000"));
    }
    world.flow("192.0.2.10:6000", "198.51.100.1:9");
    let six = Families {
        v4: None,
        v6: Some(()),
    };
    world.forwarder.move_links(&six);
    assert_eq!(world.outputs(), []);
    let four = Families {
        v4: Some(()),
        v6: None,
    };
    world.forwarder.move_links(&four);
    let close = |socket| Output::Close {
        socket,
        reset: false,
    };
    let outputs = world.outputs();
    assert_eq!(outputs[0], close(heard));
    assert_eq!(joins(&outputs)[0].1, end(MDNS));
    assert_eq!(outputs.len(), 2);
    let outputs = world.udp(GUEST, MDNS, 1, b"x");
    assert_eq!(outputs[0], close(said[0]));
    assert!(matches!(outputs[1], Output::Group { .. }), "{outputs:?}");
    let outputs = world.udp("[2001:db8::10]:5000", "[fe80::9]:9", 1, b"x");
    assert_eq!(outputs[0], close(said[1]));
    // Who is known everywhere is reached as before.
    let outputs = world.udp("192.0.2.10:6000", "198.51.100.1:9", 64, b"x");
    assert!(matches!(outputs[..], [Output::Send { .. }]), "{outputs:?}");
}

#[test]
fn who_still_listens_is_asked() {
    let mut world = World::new(&config());
    says(&mut world, 0x16, [224, 0, 0, 251]);
    let mut queries = 0;
    let mut ends = 0;
    for _ in 0..3 {
        world.now += limits::GROUP_QUERY + Duration::from_secs(1);
        world.forwarder.handle(world.now, Event::Timer);
        for output in world.outputs() {
            ends += usize::from(matches!(output, Output::Close { .. }));
            if let Output::Frame { .. } = &output {
                let (frame, _) = world.whole(&output);
                queries += usize::from(ip::parse(&frame[14..]).unwrap().hop_limit == 1);
            }
        }
    }
    // Both families twice; the third time nobody had answered for too long.
    assert_eq!((queries, ends), (4, 1));
}

/// A published port has a listener, which hears groups once somebody on the host has joined them.
#[test]
fn a_published_port() {
    let mut world = World::new(&published());
    let asked = joins(&says(&mut world, 0x16, [239, 1, 2, 3]));
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1, end("239.1.2.3:0"));
    // The listener of 8000 to 8010 has it already.
    assert_eq!(joins(&world.udp(GUEST, "239.1.2.3:8001", 1, b"x")), []);
    let outputs = world.arrive("198.51.100.1:9", "239.1.2.3:8001", b"film");
    let (frame, _) = world.whole(&outputs[0]);
    assert_eq!(packet(&frame).destination, end("239.1.2.3:0").ip());
    assert_eq!(frame[14 + 20 + 2..14 + 20 + 4], 5001_u16.to_be_bytes());
    let outputs = world.arrive("198.51.100.1:9", "239.1.2.4:8001", b"other film");
    assert_eq!(
        outputs,
        vec![Output::Report(Report::Dropped(Drop::Destination))]
    );
}
