//! The TCP side: tasks of the main thread. One accepts on each listen address, one serves each connection.
//!
//! A connection is read as far as there is something; all questions in it are answered in order, replies that belong
//! to one read leave in one write. A forwarded question holds up those behind it. A connection ends when three
//! seconds bring no whole message. When there are too many, one makes room: of the same container if it has its
//! share, else of the container that has most; one that waits for its client rather than one that waits for a
//! server, the one that has done so for longest.
//!
//! A forwarded question is an exchange of its own with a server, as are cut answers that workers want to have
//! whole. Equal ones share one, and there is a budget of them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Duration, sleep, timeout, timeout_at};

use super::log::Seldom;
use super::shared::{Counters, Shared, State, count};
use super::worker::{self, Random};
use crate::budget::{Budget, Room, Ticket, Who};
use crate::forward::{self, Fetch};
use crate::limits;
use crate::packet::{self, Plain, Structure};
use crate::respond::{self, Outcome, Scratch};
use crate::zones::{Asker, Servers};

/// What all connections share.
#[derive(Debug)]
pub struct Tcp {
    shared: Arc<Shared>,
    /// What was counted here.
    pub counters: Counters,
    connections: Mutex<Connections>,
    exchanges: Mutex<Exchanges>,
    /// An exchange is over.
    over: Notify,
    random: Mutex<Random>,
    /// Servers that were silent, and until when they are passed over. Apart from what is known about them by UDP.
    dead: Mutex<BTreeMap<SocketAddr, Instant>>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    all: HashMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    who: Who,
    /// Whether it waits for a server.
    busy: bool,
    active: Instant,
    task: AbortHandle,
}

/// Questions under way to servers.
#[derive(Debug)]
struct Exchanges {
    /// Each one ends when what it has here is dropped.
    budget: Budget<oneshot::Sender<()>>,
    running: HashMap<Question, watch::Receiver<Option<Answer>>>,
}

/// What equal questions have in common: their servers and all bytes but the id, the name in lower case.
type Question = (Servers, Vec<u8>);

/// What came of a question: nothing if no server answers.
type Answer = Option<Arc<[u8]>>;

/// The place of an exchange among others, until dropped.
struct Place {
    tcp: Arc<Tcp>,
    ticket: Ticket,
    question: Question,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut exchanges = lock(&self.tcp.exchanges);
        exchanges.budget.leave(self.ticket);
        exchanges.running.remove(&self.question);
        drop(exchanges);
        self.tcp.over.notify_waiters();
    }
}

/// How a question gets its answer.
enum Start {
    Started(watch::Receiver<Option<Answer>>),
    Joined(watch::Receiver<Option<Answer>>),
    /// Its asker has its share.
    Full,
}

impl Tcp {
    /// No connections yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            counters: Counters::default(),
            connections: Mutex::default(),
            exchanges: Mutex::new(Exchanges {
                budget: Budget::new(limits::WAITING_TCP, limits::WAITING_TCP_SHARE),
                running: HashMap::new(),
            }),
            over: Notify::new(),
            random: Mutex::default(),
            dead: Mutex::default(),
        }
    }

    /// Accepts connections for ever, whatever happens.
    pub async fn listen(self: Arc<Self>, address: IpAddr, listener: TcpListener) {
        static SAID: Seldom = Seldom::new();
        loop {
            match listener.accept().await {
                Ok((stream, client)) => self.admit(address, stream, client),
                Err(error) => {
                    if SAID.now() {
                        tracing::warn!("cannot accept connections to {address}: {error}");
                    }
                    self.evict(None);
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, address: IpAddr, stream: TcpStream, client: SocketAddr) {
        let asker = self.shared.state().zones.asker(client.ip(), address);
        let who = Who::of(&asker, client.ip());
        self.make_room(who);
        let mut connections = lock(&self.connections);
        let number = connections.next;
        connections.next += 1;
        let this = self.clone();
        let task = tokio::spawn(async move {
            // An error of the connection is its end, which is all there is to say about it.
            drop(this.serve(number, address, stream, client).await);
            lock(&this.connections).all.remove(&number);
        });
        let connection = Connection {
            who,
            busy: false,
            active: Instant::now(),
            task: task.abort_handle(),
        };
        connections.all.insert(number, connection);
    }

    fn make_room(&self, who: Who) {
        let mut counts: HashMap<Who, usize> = HashMap::new();
        for connection in lock(&self.connections).all.values() {
            *counts.entry(connection.who).or_default() += 1;
        }
        if counts.get(&who).copied().unwrap_or_default() >= limits::CONNECTIONS_SHARE {
            self.evict(Some(who));
        } else if counts.values().sum::<usize>() >= limits::CONNECTIONS {
            let most = counts.into_iter().max_by_key(|(_, count)| *count);
            self.evict(most.map(|(who, _)| who));
        }
    }

    /// Ends the connection that its client has left silent for longest; if there is none, the one that waits for a
    /// server for longest.
    fn evict(&self, who: Option<Who>) {
        let mut connections = lock(&self.connections);
        let candidates = connections
            .all
            .iter()
            .filter(|(_, connection)| who.is_none_or(|who| connection.who == who));
        let first = candidates
            .min_by_key(|(_, connection)| (connection.busy, connection.active))
            .map(|(number, _)| *number);
        if let Some(connection) = first.and_then(|number| connections.all.remove(&number)) {
            connection.task.abort();
        }
    }

    fn active(&self, number: u64, busy: bool) {
        if let Some(connection) = lock(&self.connections).all.get_mut(&number) {
            connection.busy = busy;
            connection.active = Instant::now();
        }
    }

    async fn serve(
        self: &Arc<Self>,
        number: u64,
        address: IpAddr,
        mut stream: TcpStream,
        client: SocketAddr,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut session = Session {
            tcp: self,
            number,
            address,
            client,
            asker: None,
            scratch: Scratch::default(),
            reply: Vec::new(),
        };
        let mut input = Vec::with_capacity(1024);
        let mut output = Vec::new();
        let mut ends = tokio::time::Instant::now() + limits::IDLE;
        loop {
            let read = timeout_at(ends, stream.read_buf(&mut input)).await??;
            if read == 0 {
                return Ok(());
            }
            let mut done = 0;
            while let Some(query) = message(&input[done..]) {
                done += 2 + query.len();
                session.answer(query, &mut output).await;
                if output.len() > usize::from(u16::MAX) {
                    send(&mut stream, &mut output).await?;
                }
            }
            if done > 0 {
                input.drain(..done);
                self.active(number, false);
                send(&mut stream, &mut output).await?;
                ends = tokio::time::Instant::now() + limits::IDLE;
            }
        }
    }

    /// Asks servers by TCP, or waits for the answer to an equal question. The answer is as it came: its id is another
    /// one.
    async fn ask(self: &Arc<Self>, who: Who, query: &[u8], servers: &Servers) -> Option<Arc<[u8]>> {
        if servers.is_empty() {
            return None;
        }
        let patience = tokio::time::Instant::now() + limits::ALL_SERVERS;
        loop {
            let mut over = std::pin::pin!(self.over.notified());
            over.as_mut().enable(); // before the look, or its end might be missed
            match self.start(who, query, servers, limits::ALL_SERVERS) {
                Start::Started(mut answer) => {
                    return answer.wait_for(Option::is_some).await.ok()?.clone()?;
                }
                Start::Joined(mut answer) => {
                    // If whoever asked first had to give way, we ask.
                    if let Ok(answer) = answer.wait_for(Option::is_some).await {
                        return answer.clone()?;
                    }
                }
                Start::Full => timeout_at(patience, over).await.ok()?,
            }
        }
    }

    /// The whole of an answer that was cut, if there is room to ask for it.
    pub async fn fetch(self: &Arc<Self>, fetch: &Fetch) -> Option<Vec<u8>> {
        let servers: Servers = [fetch.server].into();
        let start = self.start(fetch.who, &fetch.query, &servers, limits::FETCH);
        let (Start::Started(mut answer) | Start::Joined(mut answer)) = start else {
            return None;
        };
        let found = answer.wait_for(Option::is_some).await.ok()?.clone()??;
        let mut found = found.to_vec();
        found[..2].copy_from_slice(&fetch.query[..2]);
        Some(found)
    }

    /// Begins an exchange, or finds an equal one.
    fn start(self: &Arc<Self>, who: Who, query: &[u8], servers: &Servers, time: Duration) -> Start {
        let question = (servers.clone(), common(query));
        let mut exchanges = lock(&self.exchanges);
        if let Some(answer) = exchanges.running.get(&question) {
            return Start::Joined(answer.clone());
        }
        // What gives way ends when this is dropped.
        let _gives_way = match exchanges.budget.room(who) {
            Room::None => return Start::Full,
            Room::Free => None,
            Room::Taken(_, exchange) => {
                count(&self.counters.gave_way);
                Some(exchange)
            }
        };
        let (end, ended) = oneshot::channel();
        let (sender, answer) = watch::channel(None);
        let place = Place {
            ticket: exchanges.budget.enter(who, end),
            question: question.clone(),
            tcp: self.clone(),
        };
        exchanges.running.insert(question, answer.clone());
        drop(exchanges);
        let (query, servers) = (query.to_vec(), servers.clone());
        tokio::spawn(async move {
            let asked = place.tcp.ask_all(&query, &servers, time);
            tokio::select! {
                found = asked => drop(sender.send_replace(Some(found))),
                _ = ended => {}
                () = sender.closed() => {}
            }
            drop(place);
        });
        Start::Started(answer)
    }

    /// Asks one server after the other: those that were silent last, and not for long, so that the client hears of
    /// failure soon.
    async fn ask_all(&self, query: &[u8], servers: &Servers, time: Duration) -> Answer {
        let count = servers.len().min(limits::SERVERS);
        let slot = time / u32::try_from(count).ok().filter(|count| *count > 0)?;
        let now = Instant::now();
        let is_dead = |server: &SocketAddr| {
            lock(&self.dead)
                .get(server)
                .is_some_and(|until| *until > now)
        };
        let (dead, living): (Vec<_>, Vec<_>) = servers[..count].iter().copied().partition(is_dead);
        let living = living.into_iter().map(|server| (server, slot));
        let dead = dead
            .into_iter()
            .map(|server| (server, slot / limits::DEAD_TCP));
        for (server, slot) in living.chain(dead) {
            match timeout(slot, self.exchange(query, server)).await {
                Ok(Ok(answer)) => {
                    lock(&self.dead).remove(&server);
                    return Some(answer.into());
                }
                Ok(Err(error)) => tracing::debug!("{server} by TCP: {error}"),
                Err(_) => self.silent(server),
            }
        }
        None
    }

    /// Once the time is over it gets all of its share again, however often it was asked meanwhile.
    fn silent(&self, server: SocketAddr) {
        let now = Instant::now();
        let mut dead = lock(&self.dead);
        if dead.len() >= limits::HEALTH {
            dead.clear();
        }
        let until = dead.entry(server).or_insert(now);
        if *until <= now {
            *until = now + limits::PROBE_MOST;
        }
    }

    /// Servers that are silent by TCP.
    pub fn dead(&self) -> Vec<SocketAddr> {
        let now = Instant::now();
        let dead = lock(&self.dead);
        let silent = dead.iter().filter(|(_, until)| **until > now);
        silent.map(|(server, _)| *server).collect()
    }

    /// Asks one server.
    async fn exchange(&self, query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
        let [high, low, ..] = lock(&self.random).next().to_ne_bytes();
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(query);
        framed[2..4].copy_from_slice(&[high, low]);
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        if !forward::answers(&framed[2..], &answer) || Structure::parse(&answer).is_none() {
            return Err(io::Error::other("not the answer to our question"));
        }
        Ok(answer)
    }

    /// Keeps an answer.
    fn keep(&self, query: &[u8], servers: &Servers, answer: &[u8]) {
        let (mut name, mut key) = (Vec::new(), Vec::new());
        if let Some(plain) = Plain::parse(query, &mut name) {
            let mut cache = self.shared.cache();
            cache.key(servers, &plain, &name, &mut key);
            cache.put(&key, answer, &plain, Instant::now());
        }
    }

    fn kept(&self, query: &[u8], servers: &Servers, reply: &mut Vec<u8>) -> bool {
        let (mut name, mut key) = (Vec::new(), Vec::new());
        let Some(plain) = Plain::parse(query, &mut name) else {
            return false;
        };
        let mut cache = self.shared.cache();
        cache.key(servers, &plain, &name, &mut key);
        cache.get(&key, query, &plain, Instant::now(), reply)
    }
}

/// What a connection keeps from question to question.
struct Session<'a> {
    tcp: &'a Arc<Tcp>,
    number: u64,
    address: IpAddr,
    client: SocketAddr,
    asker: Option<(u64, Arc<State>, Asker)>,
    scratch: Scratch,
    reply: Vec<u8>,
}

impl Session<'_> {
    /// Adds the reply to a question to the output.
    async fn answer(&mut self, query: &[u8], output: &mut Vec<u8>) {
        let counters = &self.tcp.counters;
        count(&counters.queries_tcp);
        counters.asked(query);
        self.refresh();
        let Some((_, state, asker)) = &self.asker else {
            return;
        };
        let outcome = respond::respond(
            &state.zones,
            &state.policy,
            asker,
            query,
            true,
            &mut self.scratch,
            &mut self.reply,
        );
        super::note(
            &state.zones,
            &self.scratch.key,
            self.client,
            self.address,
            &outcome,
        );
        match outcome {
            Outcome::Reply => count(&counters.answered),
            Outcome::Drop => {
                count(&counters.dropped);
                return;
            }
            Outcome::Forward(servers) => {
                let who = Who::of(asker, self.client.ip());
                let servers = state.servers(servers, self.client.ip());
                self.asker = None; // nothing old is held on to while we wait
                self.forward(query, who, servers).await;
            }
        }
        self.tcp.counters.said(&self.reply);
        let length = u16::try_from(self.reply.len()).unwrap_or_default();
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(&self.reply[..usize::from(length)]);
    }

    /// Sees to it that the asker is known in the snapshot of now.
    fn refresh(&mut self) {
        let generation = self.tcp.shared.generation();
        if self
            .asker
            .as_ref()
            .is_none_or(|(known, _, _)| *known != generation)
        {
            let state = self.tcp.shared.state();
            let asker = state.zones.asker(self.client.ip(), self.address);
            self.asker = Some((generation, state, asker));
        }
    }

    async fn forward(&mut self, query: &[u8], who: Who, servers: Option<Servers>) {
        let counters = &self.tcp.counters;
        let Some(servers) = servers else {
            count(&counters.loops);
            self.reply = worker::failure(query, &mut self.scratch.key);
            return;
        };
        if self.tcp.kept(query, &servers, &mut self.reply) {
            count(&counters.answered_cache);
            return;
        }
        count(&counters.forwarded);
        self.tcp.active(self.number, true);
        if let Some(answer) = self.tcp.ask(who, query, &servers).await {
            if forward::is_refusal(&answer) {
                self.tcp.shared.failures().add(query);
            }
            self.tcp.keep(query, &servers, &answer);
            self.reply = answer.to_vec();
            self.reply[..2].copy_from_slice(&query[..2]);
            if let Some(end) = packet::question_name(query, &mut self.scratch.key) {
                packet::put_name(&mut self.reply, &query[packet::HEADER..end]);
            }
            worker::restore_flags(&mut self.reply);
        } else {
            count(&counters.failed);
            self.tcp.shared.failures().add(query);
            self.reply = worker::failure(query, &mut self.scratch.key);
        }
    }
}

/// What equal queries have in common.
fn common(query: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut common = query.get(2..).unwrap_or_default().to_vec();
    if packet::question_name(query, &mut name).is_some() {
        common[packet::HEADER - 2..][..name.len()].copy_from_slice(&name);
    }
    common
}

/// The first message of a stream, if it is whole.
fn message(input: &[u8]) -> Option<&[u8]> {
    let length = packet::u16_at(input, 0)?;
    input.get(2..2 + usize::from(length))
}

async fn send(stream: &mut TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    timeout(limits::IDLE, stream.write_all(output)).await??;
    output.clear();
    output.shrink_to(4096);
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
