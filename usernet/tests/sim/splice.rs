//! A connection between two sockets, and a shell that pumps: whatever stops it and whenever edges are told, every byte
//! and both ends arrive.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use usernet::event::{Errno, Event, ListenerId, Output, Pending, PumpStop, Side, SocketId};
use usernet::forwarder::Forwarder;

use crate::host::Socket;
use crate::random::Random;
use crate::world::{Plan, Program};

struct World {
    random: Random,
    start: Instant,
    /// Rounds.
    now: u64,
    forwarder: Forwarder,
    sockets: BTreeMap<SocketId, Socket>,
    /// What was read from each side and not yet written.
    held: BTreeMap<Side, VecDeque<u8>>,
    pending: Option<Socket>,
    /// Rounds until the connect ends.
    connects: u64,
    refused: bool,
    room: usize,
    share: usize,
}

pub(crate) fn run(seed: u64) {
    let mut random = Random::new(seed);
    let room = random.pick(&[1, 100, 5_000, 100_000]);
    let (most, share) = (
        random.pick(&[0, 10, 3_000, 60_000]),
        random.pick(&[10, 10_000]),
    );
    let says = most.min(room * 300);
    let polite = random.within(0, 2);
    let mut client = Program::new(random.size(0, says), polite == 1, seed ^ 1);
    let mut server = Program::new(random.size(0, says), polite == 2, seed ^ 2);
    let mut world = World {
        start: Instant::now(),
        now: 0,
        forwarder: Forwarder::new(&Plan::v4().config(), seed),
        sockets: BTreeMap::new(),
        held: BTreeMap::new(),
        pending: Some(Socket::new(room)),
        connects: random.within(0, 20),
        refused: random.permille(50),
        room,
        share,
        random,
    };
    world.accept();
    let breaks = world
        .random
        .permille(100)
        .then(|| world.random.within(0, 200));
    while !client.over() || !server.over() {
        world.turn(Side::Host, &mut client);
        world.turn(Side::Guest, &mut server);
        if breaks == Some(world.now) {
            world.break_one();
        }
        world.round();
        assert!(world.now < 1_000_000, "hangs: {client:?} {server:?}");
    }
    for _ in 0..4 {
        world.round();
    }
    assert_eq!(world.forwarder.flows(), 0, "the flow stays");
    assert!(world.sockets.values().all(|socket| socket.closed.is_some()));
    assert!(server.says.starts_with(&client.heard) && client.says.starts_with(&server.heard));
    if !world.refused && breaks.is_none_or(|at| at > world.now) {
        assert!(!client.broken && !server.broken, "reset for nothing");
        assert_eq!((&client.heard, &server.heard), (&server.says, &client.says));
    }
}

impl World {
    fn at(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn accept(&mut self) {
        let address = |port| SocketAddr::new("127.0.0.1".parse().expect("an address"), port);
        let event = Event::Connection {
            listener: ListenerId(0),
            pending: Pending(1),
            peer: address(50_000),
            local: address(8081),
        };
        self.handle(event);
    }

    fn handle(&mut self, event: Event<'_>) {
        self.forwarder.handle(self.at(), event);
        while let Some(output) = self.forwarder.poll() {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Adopt { socket, .. } => {
                let adopted = self.pending.take().expect("once");
                self.sockets.insert(socket, adopted);
            }
            Output::Connect { socket, to, .. } => {
                assert_eq!(to.to_string(), "10.0.2.100:81");
                self.sockets.insert(socket, Socket::new(self.room));
            }
            Output::Pump { flow, from } => {
                let result = self.pump(from);
                let event = Event::Pumped {
                    flow,
                    from,
                    moved: 0,
                    result,
                };
                self.forwarder.handle(self.at(), event);
            }
            Output::Shutdown(socket) => self.socket(socket.side).outgoing_end = true,
            Output::Close { socket, reset } => {
                self.socket(socket.side).close(reset);
            }
            Output::Report(_) => {}
            Output::Frame { .. }
            | Output::Refuse(_)
            | Output::Peek { .. }
            | Output::Discard { .. }
            | Output::Write { .. }
            | Output::WriteKept { .. }
            | Output::Send { .. } => panic!("unexpected: {output:?}"),
        }
    }

    fn socket(&mut self, side: Side) -> &mut Socket {
        let found = self.sockets.iter_mut().find(|(id, _)| id.side == side);
        found.expect("exists").1
    }

    #[expect(clippy::unwrap_in_result, reason = "a test's numbers fit")]
    fn pump(&mut self, from: Side) -> Result<PumpStop, Errno> {
        let mut moved = 0;
        let mut held = self.held.remove(&from).unwrap_or_default();
        let stopped = loop {
            if !held.is_empty() {
                let bytes: Vec<u8> = held.iter().copied().collect();
                let taken = self.socket(from.other()).write(&bytes)?;
                held.drain(..taken);
                moved += taken;
                if !held.is_empty() {
                    break PumpStop::Full;
                }
            }
            if moved >= self.share {
                break PumpStop::Share;
            }
            let most = u32::try_from(self.random.size(1, 5_000)).expect("small");
            match self.socket(from).peek(0, most) {
                Ok(bytes) if bytes.is_empty() => break PumpStop::End,
                Ok(bytes) => {
                    let len = u32::try_from(bytes.len()).expect("small");
                    self.socket(from).discard(len);
                    held.extend(bytes);
                }
                Err(Errno(libc::EAGAIN)) => break PumpStop::Empty,
                Err(error) => return Err(error),
            }
        };
        self.held.insert(from, held);
        Ok(stopped)
    }

    /// The program at the other end of a socket acts, or rests.
    fn turn(&mut self, side: Side, program: &mut Program) {
        let connecting = side == Side::Guest && self.now < self.connects;
        if connecting || program.over() || self.random.permille(300) {
            return;
        }
        if side == Side::Guest && self.refused {
            program.broken = true;
            return;
        }
        let portion = self.random.size(1, 2_000);
        let socket = self.socket(side);
        if socket.closed == Some(true) || socket.is_broken() {
            program.broken = true;
        } else {
            program.talk(socket, portion);
        }
    }

    fn break_one(&mut self) {
        let side = self.random.pick(&[Side::Host, Side::Guest]);
        let socket = self.socket(side);
        if socket.closed.is_none() {
            socket.fail(libc::ECONNRESET);
        }
    }

    fn round(&mut self) {
        self.now += 1;
        if self.now == self.connects.max(1) {
            let refused = self.refused;
            let socket = self.socket(Side::Guest);
            match refused {
                true => socket.fail(libc::ECONNREFUSED),
                false => socket.connected(),
            }
        }
        let ids: Vec<SocketId> = self.sockets.keys().copied().collect();
        for socket in ids {
            // An edge may be told late, after other edges and pumps.
            if self.random.permille(300) {
                continue;
            }
            let edge = self.sockets.get_mut(&socket).and_then(Socket::take_edge);
            if let Some((readiness, error)) = edge {
                self.handle(Event::Ready {
                    socket,
                    readiness,
                    error,
                });
            }
        }
        if self.forwarder.deadline().is_some_and(|at| at <= self.at()) {
            self.handle(Event::Timer);
        }
        self.handle(Event::BatchEnd);
    }
}
