//! The TCP side: tasks of the main thread. One accepts on each listen address, one serves each connection.
//!
//! A connection is read as far as there is something; all questions in it are answered in order, replies that belong
//! to one read leave in one write. A forwarded question holds up those behind it. A connection that has been
//! silent for three seconds ends. When there are too many, the one that has been silent for longest makes room:
//! first of the same client's, then of all.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Duration, sleep, timeout};

use super::log::Seldom;
use super::shared::{Counters, Shared, State, count};
use super::worker::{self, Random};
use crate::forward;
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
    waiting: Semaphore,
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
    client: IpAddr,
    active: Instant,
    task: AbortHandle,
}

impl Tcp {
    /// No connections yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            counters: Counters::default(),
            connections: Mutex::default(),
            waiting: Semaphore::new(limits::WAITING_TCP),
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
        let full = |connections: &Connections| {
            let of_client = connections
                .all
                .values()
                .filter(|other| other.client == client.ip())
                .count();
            (
                of_client >= limits::CONNECTIONS_PER_CLIENT,
                connections.all.len() >= limits::CONNECTIONS,
            )
        };
        let (of_client, of_all) = full(&lock(&self.connections));
        if of_client {
            self.evict(Some(client.ip()));
        } else if of_all {
            self.evict(None);
        }
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
            client: client.ip(),
            active: Instant::now(),
            task: task.abort_handle(),
        };
        connections.all.insert(number, connection);
    }

    /// Ends the connection that has been silent for longest.
    fn evict(&self, client: Option<IpAddr>) {
        let mut connections = lock(&self.connections);
        let of_client =
            |connection: &Connection| client.is_none_or(|client| connection.client == client);
        let oldest = connections
            .all
            .iter()
            .filter(|(_, connection)| of_client(connection));
        let oldest = oldest
            .min_by_key(|(_, connection)| connection.active)
            .map(|(number, _)| *number);
        if let Some(connection) = oldest.and_then(|number| connections.all.remove(&number)) {
            connection.task.abort();
        }
    }

    async fn serve(
        &self,
        number: u64,
        address: IpAddr,
        mut stream: TcpStream,
        client: SocketAddr,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut session = Session {
            tcp: self,
            address,
            client,
            asker: None,
            scratch: Scratch::default(),
            reply: Vec::new(),
        };
        let mut input = Vec::with_capacity(1024);
        let mut output = Vec::new();
        loop {
            let read = timeout(limits::IDLE, stream.read_buf(&mut input)).await??;
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
                if let Some(connection) = lock(&self.connections).all.get_mut(&number) {
                    connection.active = Instant::now();
                }
                send(&mut stream, &mut output).await?;
            }
        }
    }

    /// Asks servers by TCP, one after the other: those that were silent last, and not for long, so that the client
    /// hears of failure soon.
    async fn ask(&self, query: &[u8], servers: &Servers) -> Option<Vec<u8>> {
        let _permit = self.waiting.try_acquire().ok()?;
        let count = servers.len().min(limits::SERVERS);
        let slot = limits::ALL_SERVERS / u32::try_from(count).ok().filter(|count| *count > 0)?;
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
                    return Some(answer);
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

    /// Asks one server by TCP. The answer has the query's id.
    ///
    /// # Errors
    /// It does not answer, or not that question.
    pub async fn exchange(&self, query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
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
        answer[..2].copy_from_slice(&query[..2]);
        Ok(answer)
    }

    /// Keeps an answer.
    pub fn keep(&self, query: &[u8], servers: &Servers, answer: &[u8]) {
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
    tcp: &'a Tcp,
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
                let servers = state.servers(servers);
                self.asker = None; // nothing old is held on to while we wait
                self.forward(query, &servers).await;
            }
        }
        let length = u16::try_from(self.reply.len()).unwrap_or_default();
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(&self.reply[..usize::from(length)]);
    }

    async fn forward(&mut self, query: &[u8], servers: &Servers) {
        let counters = &self.tcp.counters;
        if self.tcp.kept(query, servers, &mut self.reply) {
            count(&counters.answered_cache);
            return;
        }
        count(&counters.forwarded);
        if let Some(answer) = self.tcp.ask(query, servers).await {
            if forward::is_refusal(&answer) {
                self.tcp.shared.failures().add(query);
            }
            self.tcp.keep(query, servers, &answer);
            self.reply = answer;
            worker::restore_flags(&mut self.reply);
        } else {
            count(&counters.failed);
            self.tcp.shared.failures().add(query);
            self.reply = worker::failure(query, &mut self.scratch.key);
        }
    }
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
