//! The UDP side: a few threads, one for every two processors. Each has a socket of its own for every listen address
//! (the kernel spreads the askers over them), sockets towards servers, and flights of its own; nothing is shared but
//! the snapshot and kept answers.
//!
//! A turn of the loop: wait; read what there is, a batch at a time; decide; send replies and questions in batches.
//! A single query costs three system calls, many at once a fraction of one each. See `Pace` for the waiting.
//!
//! The main thread sends [`Command`]s and wakes the worker after them, and also when there is a new snapshot, so that
//! the old one can go.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

use super::log::Seldom;
use super::raw::{Inbox, Outbox};
use super::shared::{Counters, Shared, State, count};
use super::upstreams::Upstreams;
use crate::budget::Who;
use crate::forward::{
    self, Arrived, Asked, Client, Fetch, Finished, Forwarder, Health, SOCKETS, Waiter,
};
use crate::limits;
use crate::packet::{self, Plain, flag, rcode};
use crate::respond::{self, Outcome, Scratch};
use crate::zones::{Asker, Servers};

/// Datagrams in a batch.
const BATCH: usize = 32;

/// Batches that are read from a socket before others have their turn.
const ROUNDS: usize = 4;

/// Questions that arrive together and leave from one socket: with one for each, answers cost more to read.
const SAME_SOCKET: usize = 8;

/// Askers that are remembered.
const ASKERS: usize = 64;

const WAKE: u64 = 0;
pub(super) const FIRST_UPSTREAM: u64 = 1;

/// Listeners are numbered from here.
pub const FIRST_LISTENER: u64 = 1 << 16;

/// What the main thread wants.
#[derive(Debug)]
pub enum Command {
    /// Listen on a socket.
    Listen(u64, IpAddr, UdpSocket),
    /// Stop listening.
    Stop(u64),
    /// Pass on an answer that was fetched by TCP, or what there is of it.
    Deliver(Fetch, Option<Vec<u8>>),
    /// Say what is known about servers.
    Report(mpsc::Sender<BTreeMap<SocketAddr, Health>>),
}

/// A question to be asked again by TCP.
#[derive(Debug)]
pub struct TcpJob {
    /// The question.
    pub fetch: Fetch,
    /// Where the answer goes.
    pub worker: usize,
}

/// How the main thread reaches a worker.
#[derive(Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    /// What it has counted.
    pub counters: Arc<Counters>,
}

impl Handle {
    /// Sends a command.
    pub fn send(&self, command: Command) {
        drop(self.commands.send(command));
        self.wake();
    }

    /// For a task that sends a command later.
    pub fn parts(&self) -> (mpsc::Sender<Command>, Arc<EventFd>) {
        (self.commands.clone(), self.wake.clone())
    }

    /// Makes the worker look at the snapshot.
    pub fn wake(&self) {
        let _ = self.wake.write(1);
    }
}

struct Listener {
    address: IpAddr,
    socket: UdpSocket,
}

struct Worker {
    number: usize,
    shared: Arc<Shared>,
    generation: u64,
    state: Arc<State>,
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: mpsc::Receiver<Command>,
    jobs: tokio::sync::mpsc::Sender<TcpJob>,
    counters: Arc<Counters>,
    listeners: BTreeMap<u64, Listener>,
    upstreams: Upstreams,
    /// From which socket the next questions go.
    upstream: u8,
    forwarder: Forwarder,
    askers: Vec<Option<(IpAddr, IpAddr, Asker)>>,
    inbox: Inbox,
    replies: Outbox,
    /// Where the replies go.
    out_listener: u64,
    questions: Outbox,
    answers: Option<Inbox>,
    pace: Pace,
    scratch: Scratch,
    out: Vec<u8>,
    key: Vec<u8>,
    random: Random,
}

/// Starts a worker.
///
/// # Errors
/// The kernel has no room for it.
pub fn start(
    number: usize,
    shared: &Arc<Shared>,
    jobs: tokio::sync::mpsc::Sender<TcpJob>,
) -> anyhow::Result<Handle> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = Arc::new(EventFd::from_flags(flags)?);
    epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
    let (sender, commands) = mpsc::channel();
    let handle = Handle {
        commands: sender,
        wake: wake.clone(),
        counters: Arc::default(),
    };
    let (shared, counters) = (shared.clone(), handle.counters.clone());
    let begin = move || Worker::new(number, shared, epoll, wake, commands, jobs, counters).run();
    std::thread::Builder::new()
        .name(format!("udp-{number}"))
        .stack_size(256 * 1024)
        .spawn(begin)?;
    Ok(handle)
}

impl Worker {
    fn new(
        number: usize,
        shared: Arc<Shared>,
        epoll: Epoll,
        wake: Arc<EventFd>,
        commands: mpsc::Receiver<Command>,
        jobs: tokio::sync::mpsc::Sender<TcpJob>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            number,
            generation: shared.generation(),
            state: shared.state(),
            shared,
            epoll,
            wake,
            commands,
            jobs,
            counters,
            listeners: BTreeMap::new(),
            upstreams: Upstreams::default(),
            upstream: 0,
            forwarder: Forwarder::default(),
            askers: (0..ASKERS).map(|_| None).collect(),
            inbox: Inbox::new(BATCH, limits::QUERY),
            replies: Outbox::new(BATCH, limits::QUERY),
            out_listener: 0,
            questions: Outbox::new(BATCH, limits::QUERY),
            answers: None,
            pace: Pace::default(),
            scratch: Scratch::default(),
            out: Vec::new(),
            key: Vec::new(),
            random: Random::default(),
        }
    }

    fn run(&mut self) {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let awake = self.pace.stays_awake(Instant::now());
            let timeout = if awake {
                EpollTimeout::ZERO
            } else {
                self.timeout()
            };
            // An error is an interruption.
            let count = self.epoll.wait(&mut events, timeout).unwrap_or_default();
            if awake && count == 0 {
                std::thread::yield_now();
                continue;
            }
            self.refresh();
            for event in &events[..count] {
                match event.data() {
                    WAKE => self.obey(),
                    listener @ FIRST_LISTENER.. => self.serve(listener),
                    upstream => self.collect(upstream - FIRST_UPSTREAM),
                }
            }
            if !self.forwarder.is_empty() {
                self.expire();
            }
            self.send_questions();
        }
    }

    /// Until something has to be done, rounded up.
    fn timeout(&self) -> EpollTimeout {
        let Some(deadline) = self.forwarder.deadline() else {
            return EpollTimeout::NONE;
        };
        let wait = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    fn refresh(&mut self) {
        let generation = self.shared.generation();
        if generation != self.generation {
            self.generation = generation;
            self.state = self.shared.state();
            self.askers.fill_with(|| None);
        }
    }

    fn obey(&mut self) {
        let _ = self.wake.read();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Listen(key, address, socket) => {
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
                    if let Err(error) = self.epoll.add(&socket, event) {
                        tracing::error!("cannot wait for queries to {address}: {error}");
                    }
                    if getsockopt(&socket, UdpGsoSegment).is_err() {
                        self.replies.never_whole();
                        self.questions.never_whole();
                    }
                    self.listeners.insert(key, Listener { address, socket });
                }
                Command::Stop(key) => drop(self.listeners.remove(&key)),
                Command::Deliver(fetch, answer) => self.fetched(&fetch, answer),
                Command::Report(to) => drop(to.send(self.forwarder.health().clone())),
            }
        }
        self.flush();
    }

    /// Queries of clients.
    fn serve(&mut self, key: u64) {
        for _ in 0..ROUNDS {
            let Some(listener) = self.listeners.get(&key) else {
                return;
            };
            let address = listener.address;
            let Ok(count) = self.inbox.receive(listener.socket.as_fd()) else {
                return;
            };
            self.received(key, address, count);
            if count < BATCH {
                return;
            }
        }
    }

    fn received(&mut self, key: u64, address: IpAddr, count: usize) {
        self.pace.queries(count, Instant::now());
        self.out_listener = key;
        for n in 0..count {
            if n % SAME_SOCKET == 0 {
                self.upstream = self.upstreams.pick(self.random.next());
            }
            self.query(key, address, n);
        }
        self.flush();
    }

    fn query(&mut self, listener: u64, asked: IpAddr, n: usize) {
        let Some((query, from)) = self.inbox.get(n) else {
            return;
        };
        count(&self.counters.queries_udp);
        self.counters.asked(query);
        let slot = asker_slot(from.ip());
        let remembered = matches!(&self.askers[slot], Some((source, to, _)) if *source == from.ip() && *to == asked);
        if !remembered {
            self.askers[slot] = Some((from.ip(), asked, self.state.zones.asker(from.ip(), asked)));
        }
        let Some((_, _, asker)) = &self.askers[slot] else {
            return;
        };
        let State { zones, policy, .. } = &*self.state;
        let (scratch, out) = (&mut self.scratch, &mut self.out);
        let outcome = respond::respond(zones, policy, asker, query, false, scratch, out);
        super::note(zones, &self.scratch.key, from, asked, &outcome);
        match outcome {
            Outcome::Reply => {
                count(&self.counters.answered);
                self.counters.said(&self.out);
                self.replies.push(from, &self.out);
            }
            Outcome::Drop => count(&self.counters.dropped),
            Outcome::Forward(servers) => {
                let who = Who::of(asker, from.ip());
                self.forward(listener, n, who, servers);
            }
        }
    }

    /// Asks others, unless their answer is known.
    fn forward(&mut self, listener: u64, n: usize, who: Who, servers: Option<Servers>) {
        let Some((_, from)) = self.inbox.get(n) else {
            return;
        };
        let Some(servers) = self.state.servers(servers, from.ip()) else {
            self.refuse_loop(n);
            return;
        };
        let now = Instant::now();
        if self.find_kept(n, &servers, now) {
            count(&self.counters.answered_cache);
            self.counters.said(&self.out);
            self.replies.push(from, &self.out);
            return;
        }
        let Some((query, from)) = self.inbox.get(n) else {
            return;
        };
        if servers.is_empty() {
            self.shared.failures().add(query);
        }
        let client = Client {
            who,
            listener,
            address: from,
            id: packet::u16_at(query, 0).unwrap_or_default(),
        };
        let random = &mut self.random;
        let socket = self.upstream;
        let mut random = || random.next();
        let asked = self
            .forwarder
            .ask(now, client, query, &servers, socket, &mut random);
        let gave_way = self.forwarder.gave_way;
        self.counters.gave_way.store(gave_way, Ordering::Relaxed);
        count(match asked {
            Asked::Sent => &self.counters.forwarded,
            Asked::Joined => &self.counters.joined,
            Asked::Refused => &self.counters.refused,
            Asked::Nobody => &self.counters.nobody,
        });
    }

    /// A server asks what we would ask that server alone: it hears so at once, and asks no more.
    fn refuse_loop(&mut self, n: usize) {
        count(&self.counters.loops);
        if let Some((query, from)) = self.inbox.get(n) {
            let failure = failure(query, &mut self.scratch.key);
            self.counters.said(&failure);
            self.replies.push(from, &failure);
        }
    }

    /// Writes the kept answer to a query in the inbox.
    fn find_kept(&mut self, n: usize, servers: &Servers, now: Instant) -> bool {
        let Some((query, _)) = self.inbox.get(n) else {
            return false;
        };
        let Some(plain) = Plain::parse(query, &mut self.scratch.key) else {
            return false;
        };
        let mut cache = self.shared.cache();
        cache.key(servers, &plain, &self.scratch.key, &mut self.key);
        let found = cache.get(&self.key, query, &plain, now, &mut self.out);
        drop(cache);
        if found {
            packet::truncate(&mut self.out, client_limit(&plain));
        }
        found
    }

    /// Answers of servers.
    fn collect(&mut self, upstream: u64) {
        let number = usize::try_from(upstream).unwrap_or_default();
        let mut batch = self
            .answers
            .take()
            .unwrap_or_else(|| Inbox::new(BATCH / 2, usize::from(u16::MAX)));
        for _ in 0..ROUNDS {
            let Some(socket) = self.upstreams.socket(number) else {
                break;
            };
            let Ok(count) = batch.receive(socket.as_fd()) else {
                break;
            };
            let now = Instant::now();
            for n in 0..count {
                if let Some((answer, from)) = batch.get(n) {
                    self.arrived(now, number, from, answer);
                }
            }
            if count < BATCH / 2 {
                break;
            }
        }
        self.flush();
        self.answers = Some(batch);
    }

    fn arrived(&mut self, now: Instant, number: usize, from: SocketAddr, answer: &[u8]) {
        let socket = u8::try_from(number % SOCKETS).unwrap_or_default();
        match self.forwarder.arrived(now, socket, from, answer) {
            Arrived::Answer(finished) => {
                if forward::is_refusal(answer) {
                    self.shared.failures().add(&finished.query);
                }
                self.keep(&finished, answer, now);
                self.deliver(&finished, answer);
            }
            Arrived::Truncated(fetch) => {
                count(&self.counters.truncated);
                let worker = self.number;
                if let Err(error) = self.jobs.try_send(TcpJob { fetch, worker }) {
                    self.fetched(&error.into_inner().fetch, None);
                }
            }
            Arrived::Probed => {}
            Arrived::Stray => count(&self.counters.stray),
            Arrived::Broken => count(&self.counters.broken),
        }
    }

    /// What came of asking by TCP.
    fn fetched(&mut self, fetch: &Fetch, answer: Option<Vec<u8>>) {
        let Some(mut finished) = self.forwarder.fetched(fetch) else {
            return;
        };
        if let Some(answer) = answer {
            self.keep(&finished, &answer, Instant::now());
            self.deliver(&finished, &answer);
        } else if let Some(cut) = finished.cut.take() {
            self.deliver(&finished, &cut);
        }
    }

    fn keep(&mut self, finished: &Finished, answer: &[u8], now: Instant) {
        if let Some(plain) = Plain::parse(&finished.query, &mut self.scratch.key) {
            let mut cache = self.shared.cache();
            cache.key(&finished.servers, &plain, &self.scratch.key, &mut self.key);
            cache.put(&self.key, answer, &plain, now);
        }
    }

    /// Passes an answer on to those who wait for it.
    fn deliver(&mut self, finished: &Finished, answer: &[u8]) {
        let limit = query_limit(&finished.query, &mut self.scratch.key);
        let mut reply = answer.to_vec();
        restore_flags(&mut reply);
        packet::truncate(&mut reply, limit);
        let plain = finished
            .clients
            .iter()
            .any(|it| it.name.is_some())
            .then(|| reply.clone());
        for Waiter { client, name, .. } in &finished.clients {
            if let Some(name) = name {
                packet::put_name(&mut reply, name);
            }
            packet::put_u16(&mut reply, 0, client.id);
            self.reply(client.listener, client.address, &reply);
            if let (Some(_), Some(plain)) = (name, &plain) {
                reply.copy_from_slice(plain);
            }
        }
    }

    fn reply(&mut self, listener: u64, to: SocketAddr, reply: &[u8]) {
        if self.out_listener != listener || self.replies.is_full() {
            self.flush();
            self.out_listener = listener;
        }
        self.counters.said(reply);
        if reply.len() <= limits::QUERY {
            self.replies.push(to, reply);
        } else if let Some(listener) = self.listeners.get(&listener) {
            drop(listener.socket.send_to(reply, to));
        }
    }

    fn flush(&mut self) {
        if let Some(listener) = self.listeners.get(&self.out_listener) {
            self.replies.send(listener.socket.as_fd());
        }
    }

    fn expire(&mut self) {
        static SAID: Seldom = Seldom::new();
        for mut finished in self.forwarder.expire(Instant::now()) {
            if let Some(cut) = finished.cut.take() {
                self.deliver(&finished, &cut);
                continue;
            }
            count(&self.counters.failed);
            self.shared.failures().add(&finished.query);
            if SAID.now() {
                tracing::warn!("no server of {:?} answers", finished.servers);
            }
            let failure = failure(&finished.query, &mut self.scratch.key);
            self.deliver(&finished, &failure);
        }
        self.flush();
    }

    fn send_questions(&mut self) {
        let mut sends = std::mem::take(&mut self.forwarder.sends);
        if sends.is_empty() {
            return;
        }
        let number = |send: &forward::Send| Upstreams::number(send.socket, send.to.is_ipv4());
        sends.sort_by_key(number);
        for same in sends.chunk_by(|a, b| number(a) == number(b)) {
            let Some(socket) = self.upstreams.open(number(&same[0]), &self.epoll) else {
                continue;
            };
            for send in same {
                if self.questions.is_full() {
                    self.questions.send(socket.as_fd());
                }
                self.questions
                    .push(send.to, self.forwarder.query(send.flight));
            }
            self.questions.send(socket.as_fd());
            self.upstreams.used(same[0].socket, same.len());
        }
        self.upstreams.replace_worn(&self.forwarder);
        sends.clear();
        self.forwarder.sends = sends;
    }
}

/// Addresses that follow each other have slots that do.
fn asker_slot(address: IpAddr) -> usize {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    usize::from(last) % ASKERS
}

/// What a client takes of an answer that is not ours: what it says, as the server has been told.
fn client_limit(plain: &Plain) -> usize {
    let size = plain
        .edns
        .map_or(packet::PLAIN_UDP_SIZE, |edns| usize::from(edns.size));
    size.max(packet::PLAIN_UDP_SIZE)
}

fn query_limit(query: &[u8], key: &mut Vec<u8>) -> usize {
    if let Some(plain) = Plain::parse(query, key) {
        return client_limit(&plain);
    }
    let size = packet::Structure::parse(query).and_then(|structure| {
        let opt = structure.opt()?;
        packet::u16_at(query, opt.ttl_at - 2)
    });
    size.map_or(packet::PLAIN_UDP_SIZE, |size| {
        usize::from(size).max(packet::PLAIN_UDP_SIZE)
    })
}

/// Who asked for recursion hears that there is some.
pub(super) fn restore_flags(reply: &mut [u8]) {
    if let Some(flags) = packet::u16_at(reply, 2)
        && flags & flag::RD != 0
    {
        packet::put_u16(reply, 2, flags | flag::RA);
    }
}

/// The answer to a query that nobody answers.
pub(super) fn failure(query: &[u8], key: &mut Vec<u8>) -> Vec<u8> {
    let flags = packet::u16_at(query, 2).unwrap_or_default();
    let end =
        packet::question_name(query, key).map_or(packet::HEADER, |end| (end + 4).min(query.len()));
    let mut reply = query[..end].to_vec();
    packet::put_u16(&mut reply, 2, packet::reply_flags(flags, rcode::SERVFAIL));
    for (at, count) in [
        (4, u16::from(end > packet::HEADER)),
        (6, 0),
        (8, 0),
        (10, 0),
    ] {
        packet::put_u16(&mut reply, at, count);
    }
    if let Some(edns) = Plain::parse(query, key).and_then(|plain| plain.edns) {
        reply.extend_from_slice(&packet::own_opt(edns.dnssec));
        packet::put_u16(&mut reply, 10, 1);
    }
    reply
}

/// Whether to sleep until the next query. To fall asleep and to be woken takes longer than an asker needs that asks
/// for one name after the other, so while single queries follow each other closely, we stay awake for a moment after
/// each. Where several wait at a time, more of them wait after a sleep, and cost less each.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    close: bool,
}

impl Pace {
    /// How long to stay awake.
    const AWAKE: Duration = Duration::from_micros(60);

    /// Queries that come within this, with the time it takes to be woken, follow each other closely.
    const CLOSE: Duration = Duration::from_micros(120);

    fn queries(&mut self, count: usize, now: Instant) {
        let after = self.last.map(|last| now.duration_since(last));
        self.close = count == 1 && after.is_some_and(|after| after < Self::CLOSE);
        self.last = Some(now);
    }

    fn stays_awake(&self, now: Instant) -> bool {
        self.close
            && self
                .last
                .is_some_and(|last| now.duration_since(last) < Self::AWAKE)
    }
}

/// Numbers from the kernel's generator, many at a time.
#[derive(Debug)]
pub(super) struct Random {
    bytes: [u8; 512],
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        Self {
            bytes: [0; 512],
            used: 512,
        }
    }
}

impl Random {
    pub(super) fn next(&mut self) -> u32 {
        if self.used + 4 > self.bytes.len() {
            // The generator fails only before the machine has started up.
            let _ = getrandom::fill(&mut self.bytes);
            self.used = 0;
        }
        let taken = &mut self.bytes[self.used..self.used + 4];
        self.used += 4;
        let number = u32::from_ne_bytes([taken[0], taken[1], taken[2], taken[3]]);
        taken.fill(0);
        number
    }
}
