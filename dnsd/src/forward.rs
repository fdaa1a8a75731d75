//! Questions on their way to servers and back; one of these in each worker, without sockets and clocks.
//!
//! # A flight
//!
//! A question that we cannot answer becomes a flight: it has a random id and one of a few sockets with random
//! ports, and goes to the servers of its list one after the other. All of them together get 5 s, so each gets 5 s
//! divided by their number; in its slot a server is asked three times, from the same port. Equal questions to the
//! same servers while it is under way join it. Any answer is final, whatever its code. When all slots are over
//! the flight waits for late answers until 5.2 s after its start; then its clients hear SERVFAIL.
//!
//! ```text
//! ask ─▶ slot of a server ──answer──▶ finished
//!            │ over       ▲  ▲ broken answer: next server at once
//!            └────────────┴──┘
//!            └─ no server left ─▶ waiting ──5.2 s──▶ failed
//! ```
//! # Health
//!
//! A server that has been silent for a whole slot, to everybody, is dead: it is passed over until it answers again.
//! Now and then a flight asks it beside another server. If all are dead, all are asked as if they lived.
//!
//! # What is believed
//!
//! An answer counts if it comes to the flight's socket, from a server that this flight has asked, with its id
//! and its question. Everything else is counted and ignored.
//!
//! # Loops
//!
//! A question that comes back to us by way of a server joins its own flight, or that of its first round: at most
//! one more question is sent for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::limits;
use crate::packet::{self, HEADER, Structure, flag, rcode};
use crate::zones::Servers;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Which of our sockets it asked.
    pub listener: u64,
    /// Its address and port.
    pub address: SocketAddr,
    /// The id of its query.
    pub id: u16,
}

/// What to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub struct Send {
    /// From which socket of the family of `to`.
    pub socket: u8,
    /// To which server.
    pub to: SocketAddr,
    /// Whose [`Forwarder::query`].
    pub flight: u32,
}

/// What became of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is under way.
    Sent,
    /// An equal one is.
    Joined,
    /// Too many are.
    Refused,
    /// There is nobody to ask.
    Nobody,
}

/// A flight that is over.
#[derive(Debug)]
pub struct Finished {
    /// The query, with our id.
    pub query: Vec<u8>,
    /// Whom it was sent to.
    pub servers: Servers,
    /// Who wants to know.
    pub clients: Vec<Client>,
}

/// What an arriving message is to us.
#[derive(Debug)]
pub enum Arrived {
    /// The answer to a flight.
    Answer(Finished),
    /// Part of the answer to a flight; all of it has to be fetched by TCP, from the server that sent it.
    Truncated(Finished, SocketAddr),
    /// Nothing that we asked for.
    Stray,
    /// An answer that cannot be read; the next server is asked.
    Broken,
}

/// All flights of a worker.
#[derive(Debug)]
pub struct Forwarder {
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    by_wire: HashMap<(u8, u16), u32>,
    by_question: HashMap<u64, u32>,
    timers: BTreeSet<(Instant, u32)>,
    waiting: HashMap<IpAddr, u32>,
    sockets: [u32; limits::UPSTREAM_SOCKETS as usize],
    health: BTreeMap<SocketAddr, Health>,
    secret: RandomState,
    /// To be sent now.
    pub sends: Vec<Send>,
}

#[derive(Debug)]
struct Flight {
    query: Vec<u8>,
    servers: Servers,
    /// With the time from which they wait.
    clients: Vec<(Client, Instant)>,
    started: Instant,
    timer: Instant,
    slot_started: Instant,
    slot_ends: Instant,
    /// The server whose slot it is; none when all are over.
    current: Option<usize>,
    /// Servers that had their slot, as bits.
    tried: u32,
    /// Servers that were asked, as bits.
    asked: u32,
    repeats: u8,
    socket: u8,
    question: u64,
}

/// What is known about a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Health {
    /// When it answered last.
    pub answered: Option<Instant>,
    /// When to try again, if it is dead, and how long to wait then.
    pub dead: Option<(Instant, Duration)>,
    /// How many slots it was silent for.
    pub silences: u64,
    /// How many answers it gave.
    pub answers: u64,
    /// How many of them were SERVFAIL or REFUSED.
    pub refusals: u64,
}

impl Health {
    /// Adds what somebody else knows about the same server.
    pub fn add(&mut self, other: &Self) {
        self.answered = self.answered.max(other.answered);
        self.dead = self.dead.or(other.dead);
        self.silences += other.silences;
        self.answers += other.answers;
        self.refusals += other.refusals;
    }
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            flights: Vec::new(),
            free: Vec::new(),
            by_wire: HashMap::new(),
            by_question: HashMap::new(),
            timers: BTreeSet::new(),
            waiting: HashMap::new(),
            sockets: [0; limits::UPSTREAM_SOCKETS as usize],
            health: BTreeMap::new(),
            secret: RandomState::new(),
            sends: Vec::new(),
        }
    }
}

impl Forwarder {
    /// Sends a question on its way, or joins it to an equal one. Nobody can guess the `socket`, below
    /// [`limits::UPSTREAM_SOCKETS`], nor the numbers that `random` gives.
    pub fn ask(
        &mut self,
        now: Instant,
        client: Client,
        query: &[u8],
        servers: &Servers,
        socket: u8,
        random: impl FnMut() -> u32,
    ) -> Asked {
        if servers.is_empty() {
            return Asked::Nobody;
        }
        let waiting = self
            .waiting
            .get(&client.address.ip())
            .copied()
            .unwrap_or_default();
        if waiting >= limits::WAITING_PER_CLIENT {
            return Asked::Refused;
        }
        let question = self.secret.hash_one((servers, &query[2..]));
        if let Some(flight) = self.by_question.get(&question).copied()
            && let Some(flight) = self.flight_mut(flight)
            && flight.query[2..] == query[2..]
            && flight.servers == *servers
        {
            if !flight.clients.iter().any(|(known, _)| *known == client) {
                flight.clients.push((client, now));
                *self.waiting.entry(client.address.ip()).or_default() += 1;
            }
            return Asked::Joined;
        }
        if self.flights.len() - self.free.len() >= limits::WAITING {
            return Asked::Refused;
        }
        let Some(id) = self.pick(socket, random) else {
            return Asked::Refused;
        };
        *self.waiting.entry(client.address.ip()).or_default() += 1;
        let mut query = query.to_vec();
        packet::put_u16(&mut query, 0, id);
        let flight = Flight {
            query,
            servers: servers.clone(),
            clients: vec![(client, now)],
            started: now,
            timer: now,
            slot_started: now,
            slot_ends: now,
            current: None,
            tried: 0,
            asked: 0,
            repeats: 0,
            socket,
            question,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            u32::try_from(self.flights.len() - 1).unwrap_or_default()
        });
        self.flights[at as usize] = Some(flight);
        self.by_wire.insert((socket, id), at);
        self.by_question.insert(question, at);
        self.sockets[usize::from(socket)] += 1;
        self.next_server(now, at);
        Asked::Sent
    }

    /// The query of a flight, as it is sent.
    #[must_use]
    pub fn query(&self, flight: u32) -> &[u8] {
        let flight = self.flights.get(flight as usize).and_then(Option::as_ref);
        flight.map_or(&[], |flight| &flight.query)
    }

    /// Looks at a message that arrived on a socket.
    pub fn arrived(
        &mut self,
        now: Instant,
        socket: u8,
        from: SocketAddr,
        message: &[u8],
    ) -> Arrived {
        let Some(id) = packet::u16_at(message, 0) else {
            return Arrived::Stray;
        };
        let Some(at) = self.by_wire.get(&(socket, id)).copied() else {
            return Arrived::Stray;
        };
        let Some(flight) = self.flight_mut(at) else {
            return Arrived::Stray;
        };
        let server = flight.servers.iter().position(|server| same(*server, from));
        let Some(server) = server.filter(|n| flight.asked & bit(*n) != 0) else {
            return Arrived::Stray;
        };
        if !answers(&flight.query, message) {
            return Arrived::Stray;
        }
        let address = flight.servers[server];
        let current = flight.current == Some(server);
        let health = self.health.entry(address).or_default();
        health.answered = Some(now);
        health.dead = None;
        health.answers += 1;
        health.refusals += u64::from(is_refusal(message));
        if message[2] & (flag::TC >> 8) as u8 != 0 {
            let finished = self.remove(at).map(Flight::finish);
            return finished.map_or(Arrived::Stray, |finished| {
                Arrived::Truncated(finished, address)
            });
        }
        if Structure::parse(message).is_none() {
            if current {
                self.next_server(now, at);
            }
            return Arrived::Broken;
        }
        let finished = self.remove(at).map(Flight::finish);
        finished.map_or(Arrived::Stray, Arrived::Answer)
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(when, _)| *when)
    }

    /// Repeats questions, goes on to other servers, and gives flights up.
    pub fn expire(&mut self, now: Instant) -> Vec<Finished> {
        let mut failed = Vec::new();
        while let Some((when, at)) = self
            .timers
            .first()
            .copied()
            .filter(|(when, _)| *when <= now)
        {
            self.timers.remove(&(when, at));
            let Some(flight) = self.flight_mut(at) else {
                continue;
            };
            match flight.current {
                None => failed.extend(self.give_up(now, at)),
                Some(server) if now >= flight.slot_ends => {
                    let (address, since) = (flight.servers[server], flight.slot_started);
                    self.silent(now, address, since);
                    self.next_server(now, at);
                }
                Some(server) => {
                    flight.repeats += 1;
                    let repeated =
                        flight.slot_started + limits::REPEAT * (u32::from(flight.repeats) + 1);
                    let timer = if flight.repeats < 2 {
                        repeated.min(flight.slot_ends)
                    } else {
                        flight.slot_ends
                    };
                    self.send(at, server);
                    self.set_timer(at, timer);
                }
            }
        }
        failed
    }

    /// Tells those that have waited long enough. Those that joined later get a round of their own: heard too early,
    /// a failure would be final for them.
    fn give_up(&mut self, now: Instant, at: u32) -> Option<Finished> {
        let flight = self.flight_mut(at)?;
        let patient = |since: &Instant| now.duration_since(*since) < limits::TIMED_OUT;
        let (rest, over): (Vec<_>, Vec<_>) = std::mem::take(&mut flight.clients)
            .into_iter()
            .partition(|(_, since)| patient(since));
        let Some(earliest) = rest.iter().map(|(_, since)| *since).min() else {
            flight.clients = over;
            return self.remove(at).map(Flight::finish);
        };
        flight.clients = rest;
        flight.started = earliest;
        flight.tried = 0;
        let finished = Finished {
            query: flight.query.clone(),
            servers: flight.servers.clone(),
            clients: over.iter().map(|(client, _)| *client).collect(),
        };
        for client in &finished.clients {
            self.leave(client.address.ip());
        }
        self.next_server(now, at);
        Some(finished)
    }

    /// A question of a client is over.
    fn leave(&mut self, address: IpAddr) {
        if let Some(count) = self.waiting.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&address);
            }
        }
    }

    /// Whether no flight uses a socket: it can be replaced.
    #[must_use]
    pub fn is_idle(&self, socket: u8) -> bool {
        self.sockets[usize::from(socket)] == 0
    }

    /// What is known about the servers.
    #[must_use]
    pub fn health(&self) -> &BTreeMap<SocketAddr, Health> {
        &self.health
    }

    /// How many flights are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An id that is not in use on a socket.
    fn pick(&self, socket: u8, mut random: impl FnMut() -> u32) -> Option<u16> {
        (0..64).find_map(|_| {
            let [high, low, ..] = random().to_be_bytes();
            let id = u16::from_be_bytes([high, low]);
            (!self.by_wire.contains_key(&(socket, id))).then_some(id)
        })
    }

    fn flight_mut(&mut self, at: u32) -> Option<&mut Flight> {
        self.flights.get_mut(at as usize).and_then(Option::as_mut)
    }

    /// Begins the slot of the next server: those that live first, then those that are dead.
    fn next_server(&mut self, now: Instant, at: u32) {
        let Some(flight) = self.flight_mut(at) else {
            return;
        };
        let (servers, tried, started) = (flight.servers.clone(), flight.tried, flight.started);
        let count = servers.len().min(limits::SERVERS);
        let open = |n: &usize| tried & bit(*n) == 0;
        let is_dead = |health: &BTreeMap<SocketAddr, Health>, n: usize| {
            health
                .get(&servers[n])
                .is_some_and(|health| health.dead.is_some())
        };
        let living = (0..count).filter(open).find(|n| !is_dead(&self.health, *n));
        if living.is_some() {
            for n in (0..count).filter(open) {
                if self.may_probe(now, servers[n]) {
                    self.send(at, n);
                }
            }
        }
        let Some(next) = living.or_else(|| (0..count).find(open)) else {
            if let Some(flight) = self.flight_mut(at) {
                flight.current = None;
            }
            self.set_timer(at, (started + limits::GIVE_UP).max(now));
            return;
        };
        let slot = limits::ALL_SERVERS / u32::try_from(count).unwrap_or(1);
        if let Some(flight) = self.flight_mut(at) {
            flight.current = Some(next);
            flight.tried |= bit(next);
            flight.repeats = 0;
            flight.slot_started = now;
            flight.slot_ends = now + slot;
        }
        self.send(at, next);
        self.set_timer(at, now + limits::REPEAT.min(slot));
    }

    /// Whether it is time to see if a dead server lives again.
    fn may_probe(&mut self, now: Instant, server: SocketAddr) -> bool {
        let Some(health) = self.health.get_mut(&server) else {
            return false;
        };
        match health.dead {
            Some((when, pause)) if now >= when => {
                let pause = (pause * 2).min(limits::PROBE_MOST);
                health.dead = Some((now + pause, pause));
                true
            }
            Some(_) | None => false,
        }
    }

    fn silent(&mut self, now: Instant, server: SocketAddr, since: Instant) {
        if self.health.len() >= limits::HEALTH {
            self.health.retain(|_, health| health.dead.is_some());
        }
        let health = self.health.entry(server).or_default();
        health.silences += 1;
        if health.dead.is_none() && health.answered.is_none_or(|when| when < since) {
            health.dead = Some((now + limits::PROBE, limits::PROBE));
        }
    }

    fn send(&mut self, at: u32, server: usize) {
        let Some(flight) = self.flight_mut(at) else {
            return;
        };
        flight.asked |= bit(server);
        let send = Send {
            socket: flight.socket,
            to: flight.servers[server],
            flight: at,
        };
        self.sends.push(send);
    }

    fn set_timer(&mut self, at: u32, timer: Instant) {
        let Some(flight) = self.flight_mut(at) else {
            return;
        };
        let old = std::mem::replace(&mut flight.timer, timer);
        self.timers.remove(&(old, at));
        self.timers.insert((timer, at));
    }

    fn remove(&mut self, at: u32) -> Option<Flight> {
        let flight = self.flights.get_mut(at as usize)?.take()?;
        self.free.push(at);
        // Its place may be another flight's before they are sent.
        self.sends.retain(|send| send.flight != at);
        self.timers.remove(&(flight.timer, at));
        let id = packet::u16_at(&flight.query, 0).unwrap_or_default();
        self.by_wire.remove(&(flight.socket, id));
        if self.by_question.get(&flight.question) == Some(&at) {
            self.by_question.remove(&flight.question);
        }
        self.sockets[usize::from(flight.socket)] -= 1;
        for (client, _) in &flight.clients {
            self.leave(client.address.ip());
        }
        if self.is_empty() {
            // Memory of a busy time is not kept for a quiet one.
            self.flights = Vec::new();
            self.free = Vec::new();
        }
        Some(flight)
    }
}

impl Flight {
    fn finish(self) -> Finished {
        Finished {
            query: self.query,
            servers: self.servers,
            clients: self.clients.into_iter().map(|(client, _)| client).collect(),
        }
    }
}

fn bit(server: usize) -> u32 {
    1u32.checked_shl(u32::try_from(server).unwrap_or(u32::MAX))
        .unwrap_or_default()
}

/// The kernel fills in flow labels, and scopes of its own.
fn same(server: SocketAddr, from: SocketAddr) -> bool {
    server.ip() == from.ip() && server.port() == from.port()
}

/// Whether an answer says that its server cannot or will not answer.
#[must_use]
pub fn is_refusal(answer: &[u8]) -> bool {
    let code = packet::u16_at(answer, 2).unwrap_or_default() & 15;
    code == rcode::SERVFAIL || code == rcode::REFUSED
}

/// Whether a message is an answer to a query as far as its header and question go. An answer without a
/// question is one.
#[must_use]
pub fn answers(query: &[u8], message: &[u8]) -> bool {
    let (Some(header), Some(asked)) = (message.get(..HEADER), query.get(..HEADER)) else {
        return false;
    };
    if header[..2] != asked[..2] || header[2] & 0xf8 != (asked[2] & 0x78) | 0x80 {
        return false;
    }
    if header[4..6] == [0, 0] {
        return true;
    }
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    let ends =
        packet::question_name(message, &mut theirs).zip(packet::question_name(query, &mut ours));
    let Some((end, our_end)) = ends else {
        return false;
    };
    header[4..6] == [0, 1]
        && theirs == ours
        && message.get(end..end + 4) == query.get(our_end..our_end + 4)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "some instant is needed to begin with"
)]
mod tests {
    use super::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01";

    fn client(n: u16) -> Client {
        Client {
            listener: 0,
            address: SocketAddr::new([10, 0, 0, 2].into(), 1000 + n),
            id: n,
        }
    }

    fn servers(list: &[&str]) -> Servers {
        list.iter()
            .map(|text| SocketAddr::new(text.parse().unwrap(), 53))
            .collect()
    }

    struct World {
        forwarder: Forwarder,
        start: Instant,
        seed: u32,
    }

    impl World {
        fn new() -> Self {
            Self {
                forwarder: Forwarder::default(),
                start: Instant::now(),
                seed: 1,
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn ask(&mut self, ms: u64, n: u16, query: &[u8], list: &[&str]) -> Asked {
            let now = self.at(ms);
            let seed = &mut self.seed;
            self.forwarder
                .ask(now, client(n), query, &servers(list), 3, || {
                    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *seed
                })
        }

        /// The last bytes of the addresses of the servers asked since.
        fn sent(&mut self) -> Vec<u8> {
            let sends = std::mem::take(&mut self.forwarder.sends);
            sends
                .iter()
                .map(|send| {
                    send.to
                        .to_string()
                        .split([':', '.'])
                        .nth(3)
                        .unwrap()
                        .parse()
                        .unwrap()
                })
                .collect()
        }

        fn run(&mut self, until: u64) -> Vec<(u64, u8)> {
            let mut sent = Vec::new();
            while let Some(when) = self
                .forwarder
                .deadline()
                .filter(|when| *when <= self.at(until))
            {
                let failed = self.forwarder.expire(when);
                let ms = u64::try_from((when - self.start).as_millis()).unwrap();
                sent.extend(self.sent().into_iter().map(|server| (ms, server)));
                sent.extend(failed.iter().map(|_| (ms, 0)));
            }
            sent
        }

        fn answer(&mut self, ms: u64, from: &str, change: impl Fn(&mut Vec<u8>)) -> Arrived {
            let flight = self.forwarder.flights.iter().flatten().next().unwrap();
            let (mut message, socket) = (flight.query.clone(), flight.socket);
            message[2] |= 0x80;
            change(&mut message);
            let now = self.at(ms);
            self.forwarder.arrived(
                now,
                socket,
                SocketAddr::new(from.parse().unwrap(), 53),
                &message,
            )
        }
    }

    #[test]
    fn servers_are_asked_in_turn_and_the_client_hears_of_failure_late() {
        let mut world = World::new();
        assert_eq!(world.ask(0, 1, QUERY, &["1.1.1.1", "1.1.1.2"]), Asked::Sent);
        assert_eq!(world.sent(), [1]);
        assert_eq!(
            world.run(6000),
            [
                (333, 1),
                (666, 1),
                (2500, 2),
                (2833, 2),
                (3166, 2),
                (5200, 0)
            ]
        );
        assert!(
            world.forwarder.is_empty()
                && world.forwarder.waiting.is_empty()
                && world.forwarder.by_question.is_empty()
        );
    }

    #[test]
    fn who_joins_late_waits_as_long() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1"]);
        world.run(5000);
        assert_eq!(world.ask(5000, 2, QUERY, &["1.1.1.1"]), Asked::Joined);
        let events = world.run(20_000);
        let failures: Vec<_> = events
            .iter()
            .filter(|(_, server)| *server == 0)
            .map(|(ms, _)| *ms)
            .collect();
        assert_eq!(failures, [5200, 10_200]);
        assert!(world.forwarder.is_empty() && world.forwarder.waiting.is_empty());
    }

    #[test]
    fn dead_servers_are_passed_over_and_probed() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1", "1.1.1.2"]);
        world.run(2600);
        assert!(matches!(
            world.answer(2600, "1.1.1.2", |_| {}),
            Arrived::Answer(_)
        ));
        world.sent();
        world.ask(2700, 2, QUERY, &["1.1.1.1", "1.1.1.2"]);
        assert_eq!(world.sent(), [2]);
        assert!(
            matches!(world.answer(2701, "1.1.1.1", |_| {}), Arrived::Stray),
            "it was not asked"
        );
        assert!(matches!(
            world.answer(2702, "1.1.1.2", |_| {}),
            Arrived::Answer(_)
        ));
        world.ask(4600, 3, QUERY, &["1.1.1.1", "1.1.1.2"]);
        assert_eq!(world.sent(), [1, 2], "a probe beside");
        assert!(matches!(
            world.answer(4601, "1.1.1.1", |_| {}),
            Arrived::Answer(_)
        ));
        world.ask(4700, 4, QUERY, &["1.1.1.1", "1.1.1.2"]);
        assert_eq!(world.sent(), [1], "it lives");
    }

    #[test]
    fn liars_are_not_believed() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1"]);
        assert!(matches!(world.answer(1, "1.1.1.9", |_| {}), Arrived::Stray));
        assert!(matches!(
            world.answer(1, "1.1.1.1", |message| message[0] ^= 1),
            Arrived::Stray
        ));
        assert!(matches!(
            world.answer(1, "1.1.1.1", |message| message[2] &= 0x7f),
            Arrived::Stray
        ));
        assert!(matches!(
            world.answer(1, "1.1.1.1", |message| message[13] = b'x'),
            Arrived::Stray
        ));
        assert!(matches!(
            world.answer(1, "1.1.1.1", |message| message[18] = 28),
            Arrived::Stray
        ));
        assert!(matches!(
            world.answer(1, "1.1.1.1", |message| message[2] |= 2),
            Arrived::Truncated(..)
        ));
    }

    #[test]
    fn unreadable_answers_lead_to_the_next_server() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1", "1.1.1.2"]);
        assert!(matches!(
            world.answer(1, "1.1.1.1", |message| message[7] = 9),
            Arrived::Broken
        ));
        assert_eq!(world.sent(), [1, 2]);
        assert!(matches!(
            world.answer(2, "1.1.1.2", |message| message[13] = b'W'),
            Arrived::Answer(_)
        ));
    }

    /// Two answers at once: one cannot be read, so that another server would be asked; the other is good. Then the
    /// place of the flight is free, and nothing of it may be sent as the next one's.
    #[test]
    fn what_is_over_is_not_sent() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1", "1.1.1.2"]);
        world.sent();
        assert!(matches!(
            world.answer(1, "1.1.1.1", |message| message[7] = 9),
            Arrived::Broken
        ));
        assert!(matches!(
            world.answer(1, "1.1.1.1", |message| message[3] = 5),
            Arrived::Answer(_)
        ));
        assert_eq!(world.sent(), [0u8; 0]);
        let health = world.forwarder.health().values().next().copied();
        let health = health.unwrap_or_default();
        assert_eq!((health.answers, health.refusals), (2, 1));
    }

    #[test]
    fn equal_questions_share_a_flight_and_clients_are_bounded() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1"]);
        assert_eq!(world.ask(1, 1, QUERY, &["1.1.1.1"]), Asked::Joined);
        assert_eq!(world.ask(1, 2, QUERY, &["1.1.1.1"]), Asked::Joined);
        assert_eq!(world.ask(1, 2, QUERY, &["1.1.1.2"]), Asked::Sent);
        assert_eq!(world.ask(1, 2, QUERY, &[]), Asked::Nobody);
        for n in 3..limits::WAITING_PER_CLIENT {
            let mut query = QUERY.to_vec();
            query[13..15].copy_from_slice(&[
                b'a' + u8::try_from(n / 26).unwrap(),
                b'a' + u8::try_from(n % 26).unwrap(),
            ]);
            assert_eq!(world.ask(2, 3, &query, &["1.1.1.1"]), Asked::Sent);
        }
        assert_eq!(world.ask(2, 9, QUERY, &["1.1.1.3"]), Asked::Refused);
        world.run(6000);
        assert!(world.forwarder.waiting.is_empty());
        assert!((0..limits::UPSTREAM_SOCKETS).all(|socket| world.forwarder.is_idle(socket)));
    }
}
