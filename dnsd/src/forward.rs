//! Questions on their way to servers and back; one of these in each worker, without sockets and clocks.
//!
//! # A flight
//!
//! A question that we cannot answer becomes a flight: it has a random id and one of a few sockets with random
//! ports, and goes to the servers of its list one after the other. All of them together get 5 s, so each gets 5 s
//! divided by their number; in its slot a server is asked three times, from the same port. Equal questions to the
//! same servers, in whatever letter case, join it for a while. Any answer is final, whatever its code. When all slots
//! are over the flight waits for late answers; each client hears SERVFAIL 5.2 s after its question.
//!
//! ```text
//! ask ─▶ slot of a server ──answer──▶ finished
//!            │ over       ▲  │ cut answer      ▲
//!            │            │  └──▶ fetching ────┘
//!            └────────────┴── broken answer: next server at once
//!            └─ no server left ─▶ waiting ──5.2 s──▶ failed
//! ```
//! # Health
//!
//! A server that has been silent for a whole slot, to everybody, is dead: it is passed over until it answers again.
//! Now and then it is asked a question that another server answers: a probe, a flight that nobody waits for, so that
//! it may be slower than the others. If all are dead, all are asked as if they lived.
//!
//! # What is believed
//!
//! An answer counts if it comes to the flight's socket, from a server that this flight has asked, with its id
//! and its question. Everything else is counted and ignored.
//!
//! # Loops
//!
//! A question that comes back to us by way of a server joins its own flight, or that of its first round. If it
//! comes back changed in more than letter case each time, the number of flights of one asker for one name ends it.
//! Joining never causes a question, so whatever comes back, no flight lives on itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::budget::{Budget, Room, Ticket, Who};
use crate::limits;
use crate::packet::{self, HEADER, Structure, flag, rcode};
use crate::zones::Servers;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Whose share it takes.
    pub who: Who,
    /// Which of our sockets it asked.
    pub listener: u64,
    /// Its address and port.
    pub address: SocketAddr,
    /// The id of its query.
    pub id: u16,
}

/// A client and what it asked.
#[derive(Debug)]
pub struct Waiter {
    /// Where the answer goes.
    pub client: Client,
    /// How it writes the name, if not as the flight does.
    pub name: Option<Box<[u8]>>,
    since: Instant,
    ticket: Ticket,
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
    pub clients: Vec<Waiter>,
    /// The beginning of the answer, if the whole of it was not to be had.
    pub cut: Option<Vec<u8>>,
}

/// A flight whose answer has to be fetched by TCP.
#[derive(Debug)]
pub struct Fetch {
    flight: u32,
    serial: u64,
    /// Who asked first.
    pub who: Who,
    /// The query.
    pub query: Vec<u8>,
    /// Who has the answer.
    pub server: SocketAddr,
}

/// What an arriving message is to us.
#[derive(Debug)]
pub enum Arrived {
    /// The answer to a flight.
    Answer(Finished),
    /// Part of the answer to a flight, which goes on until [`Forwarder::fetched`].
    Truncated(Fetch),
    /// A dead server lives again.
    Probed,
    /// Nothing that we asked for.
    Stray,
    /// An answer that cannot be read; the next server is asked.
    Broken,
}

/// How many sockets there may be at a time, of each family.
pub const SOCKETS: usize = (limits::UPSTREAM_SOCKETS + limits::WORN_SOCKETS) as usize;

/// All flights of a worker.
#[derive(Debug)]
pub struct Forwarder {
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    serial: u64,
    by_wire: HashMap<(u8, u16), u32>,
    /// The latest flight for a name and type, which leads to the others.
    by_question: HashMap<u64, u32>,
    timers: BTreeSet<(Instant, u32)>,
    waiting: Budget<u32>,
    sockets: [u32; SOCKETS],
    health: BTreeMap<SocketAddr, Health>,
    secret: RandomState,
    name: Vec<u8>,
    /// To be sent now.
    pub sends: Vec<Send>,
    /// How many questions gave way to others.
    pub gave_way: u64,
}

#[derive(Debug)]
struct Flight {
    serial: u64,
    query: Vec<u8>,
    /// Where its name ends.
    name_end: usize,
    servers: Servers,
    /// Who began it.
    who: Who,
    clients: Vec<Waiter>,
    phase: Phase,
    timer: Instant,
    /// When a server was asked last.
    sent: Instant,
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
    /// Flights for the same name and type.
    later: Option<u32>,
    earlier: Option<u32>,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Servers are asked.
    Asking,
    /// Nobody waits for it but us.
    Probe,
    /// It is fetched by TCP; this is its beginning.
    Fetching(Vec<u8>),
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
    /// From its questions to its answers, in all.
    pub waited: Duration,
    /// From a question to its answer, at most.
    pub slowest: Duration,
}

impl Health {
    /// From a question to its answer, on average.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let answers = u32::try_from(self.answers).unwrap_or(u32::MAX);
        self.waited.checked_div(answers)
    }

    /// Adds what somebody else knows about the same server.
    pub fn add(&mut self, other: &Self) {
        self.answered = self.answered.max(other.answered);
        self.dead = self.dead.or(other.dead);
        self.silences += other.silences;
        self.answers += other.answers;
        self.refusals += other.refusals;
        self.waited += other.waited;
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            flights: Vec::new(),
            free: Vec::new(),
            serial: 0,
            by_wire: HashMap::new(),
            by_question: HashMap::new(),
            timers: BTreeSet::new(),
            waiting: Budget::new(limits::WAITING, limits::WAITING_SHARE),
            sockets: [0; SOCKETS],
            health: BTreeMap::new(),
            secret: RandomState::new(),
            name: Vec::new(),
            sends: Vec::new(),
            gave_way: 0,
        }
    }
}

/// What there is already of a question.
enum Known {
    /// A flight to join.
    Flight(u32),
    /// Its asker has sent it too often.
    TooOften,
    Nothing,
}

impl Forwarder {
    /// Sends a question on its way, or joins it to an equal one. Nobody can guess the `socket`, below [`SOCKETS`],
    /// nor the numbers that `random` gives.
    pub fn ask(
        &mut self,
        now: Instant,
        client: Client,
        query: &[u8],
        servers: &Servers,
        socket: u8,
        mut random: impl FnMut() -> u32,
    ) -> Asked {
        if servers.is_empty() {
            return Asked::Nobody;
        }
        if !self.make_room(client.who) {
            return Asked::Refused;
        }
        let end = packet::question_name(query, &mut self.name);
        let name_end = end.unwrap_or(HEADER);
        let rest = query.get(name_end..(name_end + 4).min(query.len()));
        let question = self.secret.hash_one((end.map(|_| &self.name), rest));
        match self.known(now, question, client, query, servers, name_end) {
            Known::Flight(at) => {
                self.join(now, at, client, query, name_end);
                return Asked::Joined;
            }
            Known::TooOften => return Asked::Refused,
            Known::Nothing => {}
        }
        let Some(at) = self.take_off(now, client.who, query, servers, socket, &mut random) else {
            return Asked::Refused;
        };
        self.link(at, question, name_end);
        self.join(now, at, client, query, name_end);
        self.next_server(now, at);
        self.probe_dead(now, at, &mut random);
        Asked::Sent
    }

    /// Whether there is room for a question; perhaps since somebody else's gives way.
    fn make_room(&mut self, who: Who) -> bool {
        match self.waiting.room(who) {
            Room::Free => true,
            Room::None => false,
            Room::Taken(ticket, at) => {
                self.gave_way += 1;
                if let Some(flight) = self.flight_mut(at) {
                    flight.clients.retain(|waiter| waiter.ticket != ticket);
                    if flight.clients.is_empty() {
                        self.remove(at);
                    }
                }
                true
            }
        }
    }

    fn known(
        &self,
        now: Instant,
        question: u64,
        client: Client,
        query: &[u8],
        servers: &Servers,
        name_end: usize,
    ) -> Known {
        let flight = |at: u32| self.flights.get(at as usize).and_then(Option::as_ref);
        let mut next = self.by_question.get(&question).copied();
        let mut of_client = 0;
        // Those for other servers may be many; then a question may be sent twice.
        for _ in 0..64 {
            let Some((at, other)) = next.and_then(|at| Some((at, flight(at)?))) else {
                return Known::Nothing;
            };
            if other.may_be_joined(now)
                && other.name_end == name_end
                && other.servers == *servers
                && equal(&other.query, query, name_end)
            {
                return Known::Flight(at);
            }
            of_client += usize::from(other.who == client.who);
            if of_client >= limits::FLIGHTS_PER_NAME {
                return Known::TooOften;
            }
            next = other.earlier;
        }
        Known::Nothing
    }

    fn join(&mut self, now: Instant, at: u32, client: Client, query: &[u8], name_end: usize) {
        let Some(flight) = self.flights.get_mut(at as usize).and_then(Option::as_mut) else {
            return;
        };
        if flight.clients.iter().any(|known| known.client == client) {
            return;
        }
        let name = query.get(HEADER..name_end);
        let name = name.filter(|name| flight.query.get(HEADER..name_end) != Some(*name));
        flight.clients.push(Waiter {
            client,
            name: name.map(Into::into),
            since: now,
            ticket: self.waiting.enter(client.who, at),
        });
    }

    /// A flight that nobody waits for yet.
    fn take_off(
        &mut self,
        now: Instant,
        who: Who,
        query: &[u8],
        servers: &Servers,
        socket: u8,
        random: impl FnMut() -> u32,
    ) -> Option<u32> {
        let id = self.pick(socket, random)?;
        let mut query = query.to_vec();
        packet::put_u16(&mut query, 0, id);
        self.serial += 1;
        let flight = Flight {
            serial: self.serial,
            query,
            name_end: 0,
            servers: servers.clone(),
            who,
            clients: Vec::new(),
            phase: Phase::Asking,
            timer: now,
            sent: now,
            slot_started: now,
            slot_ends: now,
            current: None,
            tried: 0,
            asked: 0,
            repeats: 0,
            socket,
            question: 0,
            later: None,
            earlier: None,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            u32::try_from(self.flights.len() - 1).unwrap_or_default()
        });
        self.flights[at as usize] = Some(flight);
        self.by_wire.insert((socket, id), at);
        self.sockets[usize::from(socket)] += 1;
        Some(at)
    }

    /// Lets others find a flight by its question.
    fn link(&mut self, at: u32, question: u64, name_end: usize) {
        let earlier = self.by_question.insert(question, at);
        if let Some(flight) = self.flight_mut(at) {
            flight.question = question;
            flight.name_end = name_end;
            flight.earlier = earlier;
        }
        if let Some(earlier) = earlier.and_then(|at| self.flight_mut(at)) {
            earlier.later = Some(at);
        }
    }

    fn unlink(&mut self, flight: &Flight) {
        if let Some(earlier) = flight.earlier.and_then(|at| self.flight_mut(at)) {
            earlier.later = flight.later;
        }
        if let Some(later) = flight.later.and_then(|at| self.flight_mut(at)) {
            later.earlier = flight.earlier;
        } else if flight.phase != Phase::Probe {
            match flight.earlier {
                Some(earlier) => self.by_question.insert(flight.question, earlier),
                None => self.by_question.remove(&flight.question),
            };
        }
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
        let Some((at, server)) = self.asked_for(socket, from, message) else {
            return Arrived::Stray;
        };
        let Some(flight) = self.flight_mut(at) else {
            return Arrived::Stray;
        };
        let address = flight.servers[server];
        let (current, probe) = (flight.current == Some(server), flight.phase == Phase::Probe);
        let waited = now.saturating_duration_since(flight.sent);
        let health = self.health_mut(address);
        health.waited += waited;
        health.slowest = health.slowest.max(waited);
        health.answered = Some(now);
        health.dead = None;
        health.answers += 1;
        health.refusals += u64::from(is_refusal(message));
        if probe {
            self.remove(at);
            return Arrived::Probed;
        }
        if message[2] & (flag::TC >> 8) as u8 != 0 {
            let fetch = self.fetch(now, at, address, message);
            return fetch.map_or(Arrived::Stray, Arrived::Truncated);
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

    /// The flight that a message is the answer to, and the server that sent it.
    fn asked_for(&self, socket: u8, from: SocketAddr, message: &[u8]) -> Option<(u32, usize)> {
        let id = packet::u16_at(message, 0)?;
        let at = *self.by_wire.get(&(socket, id))?;
        let flight = self.flights.get(at as usize)?.as_ref()?;
        let server = flight.servers.iter().position(|server| same(*server, from));
        let server = server.filter(|n| flight.asked & bit(*n) != 0)?;
        answers(&flight.query, message).then_some((at, server))
    }

    /// Goes on by TCP. Its clients wait, and others may join them.
    fn fetch(&mut self, now: Instant, at: u32, server: SocketAddr, cut: &[u8]) -> Option<Fetch> {
        self.leave_wire(at);
        // Whoever fetches knows its time; this is for the case that it does not say so.
        self.set_timer(at, now + limits::FETCH * 2);
        let flight = self.flight_mut(at)?;
        flight.phase = Phase::Fetching(cut.to_vec());
        Some(Fetch {
            flight: at,
            serial: flight.serial,
            who: flight.who,
            query: flight.query.clone(),
            server,
        })
    }

    /// Ends a flight after its answer was fetched, or could not be.
    pub fn fetched(&mut self, fetch: &Fetch) -> Option<Finished> {
        let serial = self.flight_mut(fetch.flight)?.serial;
        if serial != fetch.serial {
            return None;
        }
        self.remove(fetch.flight).map(Flight::finish)
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(when, _)| *when)
    }

    /// Repeats questions, goes on to other servers, and gives flights up.
    pub fn expire(&mut self, now: Instant) -> Vec<Finished> {
        let mut over = Vec::new();
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
            match (&flight.phase, flight.current) {
                (Phase::Probe, _) => drop(self.remove(at)),
                (Phase::Fetching(_), _) => over.extend(self.remove(at).map(Flight::finish)),
                (Phase::Asking, None) => over.extend(self.give_up(now, at)),
                (Phase::Asking, Some(server)) if now >= flight.slot_ends => {
                    let (address, since) = (flight.servers[server], flight.slot_started);
                    self.silent(now, address, since);
                    self.next_server(now, at);
                }
                (Phase::Asking, Some(server)) => self.repeat(now, at, server),
            }
        }
        over
    }

    fn repeat(&mut self, now: Instant, at: u32, server: usize) {
        let Some(flight) = self.flight_mut(at) else {
            return;
        };
        flight.repeats += 1;
        let repeated = flight.slot_started + limits::REPEAT * (u32::from(flight.repeats) + 1);
        let timer = if flight.repeats < 2 {
            repeated.min(flight.slot_ends)
        } else {
            flight.slot_ends
        };
        self.send(now, at, server);
        self.set_timer(at, timer);
    }

    /// Tells those that have waited long enough. Those that joined later wait on, for what may come late: heard too
    /// early, a failure would be final for them.
    fn give_up(&mut self, now: Instant, at: u32) -> Option<Finished> {
        let flight = self.flight_mut(at)?;
        let patient = |waiter: &Waiter| now.duration_since(waiter.since) < limits::TIMED_OUT;
        let (rest, over): (Vec<_>, Vec<_>) = std::mem::take(&mut flight.clients)
            .into_iter()
            .partition(patient);
        let Some(earliest) = rest.iter().map(|waiter| waiter.since).min() else {
            flight.clients = over;
            return self.remove(at).map(Flight::finish);
        };
        flight.clients = rest;
        let finished = Finished {
            query: flight.query.clone(),
            servers: flight.servers.clone(),
            clients: over,
            cut: None,
        };
        for waiter in &finished.clients {
            self.waiting.leave(waiter.ticket);
        }
        self.set_timer(at, earliest + limits::GIVE_UP);
        Some(finished)
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

    fn is_dead(&self, server: SocketAddr) -> bool {
        let health = self.health.get(&server);
        health.is_some_and(|health| health.dead.is_some())
    }

    /// Begins the slot of the next server: those that live first, then those that are dead.
    fn next_server(&mut self, now: Instant, at: u32) {
        let Some(flight) = self.flights.get(at as usize).and_then(Option::as_ref) else {
            return;
        };
        let (servers, tried) = (&flight.servers, flight.tried);
        let count = servers.len().min(limits::SERVERS);
        let open = |n: &usize| tried & bit(*n) == 0;
        let living = (0..count).filter(open).find(|n| !self.is_dead(servers[*n]));
        let Some(next) = living.or_else(|| (0..count).find(open)) else {
            let earliest = flight.clients.iter().map(|waiter| waiter.since).min();
            let over = earliest.map_or(now, |since| since + limits::GIVE_UP);
            if let Some(flight) = self.flight_mut(at) {
                flight.current = None;
            }
            self.set_timer(at, over.max(now));
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
        self.send(now, at, next);
        self.set_timer(at, now + limits::REPEAT.min(slot));
    }

    /// Asks the dead servers of a flight the same, if it is time to see whether they live and another server is
    /// asked, too.
    fn probe_dead(&mut self, now: Instant, at: u32, mut random: impl FnMut() -> u32) {
        let Some(flight) = self.flights.get(at as usize).and_then(Option::as_ref) else {
            return;
        };
        let (count, current) = (flight.servers.len().min(limits::SERVERS), flight.current);
        let lives = current.is_some_and(|n| !self.is_dead(flight.servers[n]));
        if self.health.is_empty() || !lives || count < 2 {
            return;
        }
        let (servers, socket, who) = (flight.servers.clone(), flight.socket, flight.who);
        for n in 0..count {
            if !self.may_probe(now, servers[n]) {
                continue;
            }
            let query = self.query(at).to_vec();
            let probe = self.take_off(now, who, &query, &servers, socket, &mut random);
            if let Some(probe) = probe {
                if let Some(flight) = self.flight_mut(probe) {
                    flight.phase = Phase::Probe;
                }
                self.send(now, probe, n);
                self.set_timer(probe, now + limits::ALL_SERVERS);
            }
        }
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

    /// What is known about a server. For a new one there is room: what is known about the one that has answered
    /// longest ago is forgotten.
    fn health_mut(&mut self, server: SocketAddr) -> &mut Health {
        if self.health.len() >= limits::HEALTH && !self.health.contains_key(&server) {
            let oldest = self.health.iter().min_by_key(|(_, health)| health.answered);
            if let Some(oldest) = oldest.map(|(server, _)| *server) {
                self.health.remove(&oldest);
            }
        }
        self.health.entry(server).or_default()
    }

    fn silent(&mut self, now: Instant, server: SocketAddr, since: Instant) {
        let health = self.health_mut(server);
        health.silences += 1;
        if health.dead.is_none() && health.answered.is_none_or(|when| when < since) {
            health.dead = Some((now + limits::PROBE, limits::PROBE));
        }
    }

    fn send(&mut self, now: Instant, at: u32, server: usize) {
        let Some(flight) = self.flight_mut(at) else {
            return;
        };
        flight.asked |= bit(server);
        flight.sent = now;
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

    /// What arrives for a flight is stray from now on, and nothing is sent for it.
    fn leave_wire(&mut self, at: u32) {
        let Some(flight) = self.flights.get(at as usize).and_then(Option::as_ref) else {
            return;
        };
        if matches!(flight.phase, Phase::Fetching(_)) {
            return; // it has left before
        }
        // Its place may be another flight's before they are sent.
        self.sends.retain(|send| send.flight != at);
        let id = packet::u16_at(&flight.query, 0).unwrap_or_default();
        self.by_wire.remove(&(flight.socket, id));
        self.sockets[usize::from(flight.socket)] -= 1;
    }

    fn remove(&mut self, at: u32) -> Option<Flight> {
        self.leave_wire(at);
        let flight = self.flights.get_mut(at as usize)?.take()?;
        self.free.push(at);
        self.timers.remove(&(flight.timer, at));
        self.unlink(&flight);
        for waiter in &flight.clients {
            self.waiting.leave(waiter.ticket);
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
    /// Whether others may wait for its answer, too.
    fn may_be_joined(&self, now: Instant) -> bool {
        let young = match self.phase {
            Phase::Asking => now.duration_since(self.sent) < limits::JOIN,
            Phase::Fetching(_) => true,
            Phase::Probe => false,
        };
        young && self.clients.len() < limits::CLIENTS_PER_FLIGHT
    }

    fn finish(self) -> Finished {
        Finished {
            query: self.query,
            servers: self.servers,
            clients: self.clients,
            cut: match self.phase {
                Phase::Fetching(cut) => Some(cut),
                Phase::Asking | Phase::Probe => None,
            },
        }
    }
}

/// Whether two queries differ in nothing but the id and the letter case of the name, which ends there.
fn equal(a: &[u8], b: &[u8], name_end: usize) -> bool {
    let names = a.get(HEADER..name_end).zip(b.get(HEADER..name_end));
    a.get(2..HEADER) == b.get(2..HEADER)
        && a.get(name_end..) == b.get(name_end..)
        && names.is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
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
            who: Who::Address([10, 0, 0, 2].into()),
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
        world.run(900);
        assert_eq!(world.ask(900, 2, QUERY, &["1.1.1.1"]), Asked::Joined);
        assert_eq!(world.run(20_000), [(5200, 0), (6100, 0)]);
        assert!(world.forwarder.is_empty() && world.forwarder.waiting.is_empty());
    }

    /// The servers may have come back since the others were asked.
    #[test]
    fn who_is_too_late_to_join_is_asked_for() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1"]);
        world.run(2000);
        assert_eq!(world.ask(2000, 2, QUERY, &["1.1.1.1"]), Asked::Sent);
        assert_eq!(world.ask(2001, 3, QUERY, &["1.1.1.1"]), Asked::Joined);
        world.run(20_000);
        assert!(world.forwarder.is_empty() && world.forwarder.by_question.is_empty());
    }

    /// Each question that is sent comes back, from another port and with another id.
    #[test]
    fn a_question_that_comes_back_ends() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1", "1.1.1.2"]);
        let (mut asked, mut n, mut ms) = (0, 1, 1);
        while let Some(when) = world.forwarder.deadline() {
            for _ in world.sent() {
                (asked, n) = (asked + 1, n + 1);
                let mut query = QUERY.to_vec();
                query[13..16].copy_from_slice([b"Web", b"wEb", b"weB", b"WEB"][usize::from(n % 4)]);
                assert_eq!(
                    world.ask(ms, n, &query, &["1.1.1.1", "1.1.1.2"]),
                    Asked::Joined
                );
            }
            world.forwarder.expire(when);
            ms = u64::try_from((when - world.start).as_millis()).unwrap() + 1;
        }
        assert_eq!(asked, 6);
    }

    /// It comes back with other options each time.
    #[test]
    fn a_question_that_changes_is_not_sent_for_ever() {
        let mut world = World::new();
        let (mut asked, mut n, mut ms) = (0, 0u16, 1);
        world.ask(0, 0, QUERY, &["1.1.1.1", "1.1.1.2"]);
        while let Some(when) = world.forwarder.deadline() {
            for _ in world.sent() {
                (asked, n) = (asked + 1, n + 1);
                let query = [QUERY, &n.to_be_bytes()].concat();
                world.ask(ms, n, &query, &["1.1.1.1", "1.1.1.2"]);
            }
            world.forwarder.expire(when);
            ms = u64::try_from((when - world.start).as_millis()).unwrap() + 1;
        }
        assert!(asked <= 6 * limits::FLIGHTS_PER_NAME, "{asked}");
    }

    #[test]
    fn each_client_s_spelling_is_known() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1"]);
        let mut query = QUERY.to_vec();
        query[13] = b'W';
        assert_eq!(world.ask(1, 2, &query, &["1.1.1.1"]), Asked::Joined);
        let Arrived::Answer(finished) = world.answer(2, "1.1.1.1", |_| {}) else {
            panic!("no answer");
        };
        let names: Vec<_> = finished
            .clients
            .iter()
            .map(|it| it.name.as_deref())
            .collect();
        assert_eq!(names, [None, Some(&b"\x03Web\x00"[..])]);
    }

    /// Its clients are counted until the whole is there, and others join them.
    #[test]
    fn a_cut_answer_keeps_its_clients() {
        let mut world = World::new();
        world.ask(0, 1, QUERY, &["1.1.1.1"]);
        let Arrived::Truncated(fetch) = world.answer(1, "1.1.1.1", |message| message[2] |= 2)
        else {
            panic!("it was cut");
        };
        assert_eq!(world.forwarder.waiting.len(), 1);
        assert!(world.forwarder.is_idle(3));
        assert_eq!(world.ask(2000, 2, QUERY, &["1.1.1.1"]), Asked::Joined);
        let finished = world.forwarder.fetched(&fetch).unwrap();
        assert_eq!(
            (finished.clients.len(), finished.cut.unwrap()[2]),
            (2, 0x83)
        );
        assert!(world.forwarder.fetched(&fetch).is_none());
        assert!(world.forwarder.is_empty() && world.forwarder.waiting.is_empty());
    }

    #[test]
    fn many_clients_of_one_question_begin_another_flight() {
        let mut world = World::new();
        let asked = (0..300).map(|n| world.ask(0, n, QUERY, &["1.1.1.1"]));
        assert_eq!(asked.filter(|asked| *asked == Asked::Sent).count(), 3);
        assert_eq!(world.forwarder.waiting.len(), 300);
    }

    #[test]
    fn the_memory_of_servers_is_bounded() {
        let mut forwarder = Forwarder::default();
        let now = Instant::now();
        for n in 0..3 * u32::try_from(limits::HEALTH).unwrap() {
            let server = SocketAddr::new(std::net::Ipv4Addr::from(n).into(), 53);
            if n % 2 == 0 {
                forwarder.silent(now, server, now);
            } else {
                forwarder.health_mut(server).answered = Some(now + Duration::from_millis(n.into()));
            }
        }
        assert_eq!(forwarder.health.len(), limits::HEALTH);
        assert!(
            forwarder
                .health
                .values()
                .all(|health| health.answered.is_some())
        );
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
        assert_eq!(world.sent(), [2, 1], "a probe beside");
        assert!(matches!(
            world.answer(4601, "1.1.1.2", |_| {}),
            Arrived::Answer(_)
        ));
        assert!(
            matches!(world.answer(4630, "1.1.1.1", |_| {}), Arrived::Probed),
            "slower than the other"
        );
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
        for n in 3..u16::try_from(limits::WAITING_SHARE).unwrap() {
            let mut query = QUERY.to_vec();
            let letter = |n: u16| b'a' + u8::try_from(n % 26).unwrap();
            query[13..15].copy_from_slice(&[letter(n / 26), letter(n)]);
            assert_eq!(world.ask(2, 3, &query, &["1.1.1.1"]), Asked::Sent);
        }
        assert_eq!(world.ask(2, 9, QUERY, &["1.1.1.3"]), Asked::Refused);
        world.run(6000);
        assert!(world.forwarder.waiting.is_empty());
        assert!(world.forwarder.sockets == [0; SOCKETS]);
    }
}
