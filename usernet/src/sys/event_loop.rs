//! Waiting, and carrying events and outputs between the kernel and the forwarder.
//!
//! A round: wait until something is ready or a deadline passes; read what is there, in bounded batches; after each event
//! do what the forwarder asks; at the end tell it that the batch is over, send what was held back, and forget the arena.
//! Whoever has more to say than its share of a round is still ready in the next one.
#![expect(
    clippy::disallowed_methods,
    reason = "the clock is read here, once a round"
)]

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::AddressFamily;

use super::alarm::Alarm;
use super::arena::Arena;
use super::frames::{Frames, joined};
use super::lanes::{Lanes, Switch};
use super::opener::Opener;
use super::options::{self, Options, Peer};
use super::raw::{self, Inbox};
use super::resting::Resting;
use super::sockets::{Sockets, errno};
use super::splice;
use super::token::Token;
use crate::config::{Config, Families};
use crate::event::{
    Event, Failure, FlowId, Headers, Lane, ListenerId, Offload, Output, Payload, Pending,
    Readiness, Report, Side, SocketId, Span, Transport,
};
use crate::forwarder::Forwarder;
use crate::neighbours::News;
use crate::stats::{Counter, Counters};

/// Batches of datagrams for a published port that are read before others have their turn: more than a socket's buffer of
/// the usual size holds.
const ARRIVALS: usize = 32;
/// Connections that are accepted before others have their turn.
const ACCEPTS: usize = 32;
/// Things that one wait tells.
const EVENTS: usize = 64;
/// The most datagrams and bytes the kernel takes as one train (`UDP_MAX_SEGMENTS`, and what an IP packet holds).
const TRAIN: usize = 64;
const TRAIN_BYTES: usize = 65_000;
/// Bytes of a datagram's beginning that an error queue gives back.
const QUOTE: usize = 1500;
/// Entries of an error queue that are read at once.
const QUOTES: usize = 16;

/// A listening socket: one of those of a range.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub fd: OwnedFd,
    /// TCP or UDP.
    pub transport: Transport,
    /// Its range, as the forwarder knows it.
    pub range: ListenerId,
}

/// Who is told what the forwarder reports.
pub type Reporter = Box<dyn FnMut(Report)>;

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The tap is gone.
    Tap,
    /// One of the descriptors given to [`Loop::watch`] became ready.
    Watch(u32),
    /// The time given to [`Loop::wake_at`] has come.
    Due,
    /// The time given to [`Loop::look_at`] has come.
    Look,
    /// The answer to [`Loop::ask_names`] is there.
    Names,
}

/// Everything the loop holds.
///
/// When it ends, listeners are closed first: see [`super::start::Running`].
pub struct Loop {
    listeners: Vec<Option<Listening>>,
    /// Places in the list that are not used.
    unused: Vec<u32>,
    resting: Resting,
    forwarder: Forwarder,
    shell: Shell,
    inbox: Inbox,
    spans: Vec<Span>,
    alarm: Alarm,
    rounds: u64,
    lanes: Lanes,
    now: Instant,
    /// When to return from [`Loop::run`].
    due: Option<Instant>,
    /// The same, for who follows the host.
    look_at: Option<Instant>,
    /// Which kind of thing our caller was told of last ([`Loop::called`]).
    turn: usize,
}

impl std::fmt::Debug for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loop")
            .field("shell", &self.shell)
            .finish_non_exhaustive()
    }
}

/// What performs outputs.
struct Shell {
    epoll: Epoll,
    frames: Option<Frames>,
    arena: Arena,
    sockets: Sockets,
    options: Options,
    guest_sockets: Option<Opener>,
    pending: Vec<Option<OwnedFd>>,
    /// What the forwarder had kept, while it is told what the socket took of it.
    kept: Vec<u8>,
    train: Train,
    /// The last answer to a peek.
    peeked: Option<Span>,
    report: Reporter,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell")
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

/// Datagrams of one size for one socket, to be sent together.
#[derive(Debug, Default)]
struct Train {
    socket: Option<SocketId>,
    size: u32,
    bytes: usize,
    spans: Vec<Span>,
    /// The last one was shorter: nothing can follow.
    full: bool,
}

impl Loop {
    /// A loop with a tap, or without one if there is only loopback traffic.
    pub fn new(
        forwarder: Forwarder,
        frames: Option<Frames>,
        options: Options,
        guest_sockets: Option<Opener>,
        report: Reporter,
    ) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let can_widen = frames.as_ref().is_some_and(Frames::can_widen);
        let queues = frames.iter().flat_map(Frames::queues);
        let queues = queues.zip(0..).map(|(fd, queue)| {
            let token = Token::Tap(queue).encode();
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
        });
        let queues = queues.collect::<Result<Vec<()>, _>>()?.len();
        if let Some(opener) = &guest_sockets {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Opener.encode());
            epoll.add(opener.fd(), event)?;
        }
        let alarm = Alarm::new()?;
        let event = EpollEvent::new(
            EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            Token::Timer.encode(),
        );
        epoll.add(alarm.fd(), event)?;
        Ok(Self {
            listeners: Vec::new(),
            unused: Vec::new(),
            resting: Resting::default(),
            forwarder,
            shell: Shell {
                epoll,
                frames,
                arena: Arena::new(),
                sockets: Sockets::default(),
                options,
                guest_sockets,
                pending: Vec::new(),
                kept: Vec::new(),
                train: Train::default(),
                peeked: None,
                report,
            },
            inbox: Inbox::new(),
            spans: Vec::new(),
            alarm,
            rounds: 0,
            lanes: Lanes::new(queues, can_widen),
            now: Instant::now(),
            due: None,
            look_at: None,
            turn: 0,
        })
    }

    /// Return from [`Loop::run`] at this time, once.
    pub fn look_at(&mut self, when: Option<Instant>) {
        self.look_at = when;
    }

    /// Ask for the host's resolv.conf, if there is somebody who can read it.
    pub fn ask_names(&mut self) {
        if let Some(opener) = &mut self.shell.guest_sockets {
            // Who is gone is noticed with the next socket that is wanted.
            opener.ask_names().unwrap_or_default();
        }
    }

    /// What the host's resolv.conf says, after [`Ended::Names`].
    pub fn names(&mut self) -> Option<Result<Vec<u8>, Errno>> {
        self.shell.guest_sockets.as_mut()?.names()
    }

    /// The host's name servers, and its links that the guest's one stands for.
    pub fn begin(&mut self, resolvers: Families<Vec<IpAddr>>, links: Families<u32>) {
        self.forwarder.set_resolvers(resolvers);
        self.shell.options.links = links;
    }

    /// The host has another network or other name servers.
    pub fn reconfigure(
        &mut self,
        config: &Config,
        resolvers: Families<Vec<IpAddr>>,
        links: Families<u32>,
    ) {
        self.forwarder.reconfigure(config, resolvers);
        self.perform();
        self.move_links(links);
    }

    /// The links that the guest's one stands for are these.
    pub fn move_links(&mut self, links: Families<u32>) {
        let before = std::mem::replace(&mut self.shell.options.links, links);
        let moved = before.differs(&self.shell.options.links);
        if moved != Families::default() {
            self.forwarder.move_links(&moved);
            self.perform();
        }
    }

    /// The host's neighbours are others.
    pub fn neighbours(&mut self, news: Vec<News>) {
        for (address, mac) in news {
            self.handle(Event::Neighbour { address, mac });
        }
        self.end_round();
    }

    /// Listen on this from now on. Returns its place.
    pub fn listen(&mut self, listening: Listening) -> Result<u32, Errno> {
        let place = match self.unused.last() {
            Some(place) => *place,
            None => u32::try_from(self.listeners.len()).map_err(|_| Errno::EMFILE)?,
        };
        let token = Token::Listener(place).encode();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.shell.epoll.add(&listening.fd, event)?;
        if self.unused.pop().is_some() {
            self.listeners[place as usize] = Some(listening);
        } else {
            self.listeners.push(Some(listening));
        }
        Ok(place)
    }

    /// Close a listening socket.
    pub fn close_listener(&mut self, place: u32) {
        if let Some(listening) = self.listeners.get_mut(place as usize)
            && listening.take().is_some()
        {
            self.unused.push(place);
        }
    }

    /// A listening socket belongs to another range from now on.
    pub fn move_listener(&mut self, place: u32, range: ListenerId) {
        if let Some(Some(listening)) = self.listeners.get_mut(place as usize) {
            listening.range = range;
        }
    }

    /// The forwarder, to be told something that is no event, or to be asked.
    pub const fn forwarder(&mut self) -> &mut Forwarder {
        &mut self.forwarder
    }

    /// What was counted, by the forwarder and by us.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.forwarder.counters().clone();
        let frames = self.shell.frames.as_ref();
        counters.add(Counter::TapRefused, frames.map_or(0, Frames::refused));
        counters
    }

    /// A new socket in the guest's namespace.
    ///
    /// # Errors
    /// There is nobody to make it, or he cannot.
    pub fn guest_socket(
        &mut self,
        family: AddressFamily,
        transport: Transport,
    ) -> Result<OwnedFd, Errno> {
        let opener = self.shell.guest_sockets.as_mut();
        opener.ok_or(Errno::ENETUNREACH)?.take(family, transport)
    }

    /// Return from [`Loop::run`] at this time. If that is now, nothing is waited for: our own time is that of the last round,
    /// and an alarm takes a millisecond at least.
    pub fn wake_at(&mut self, time: Option<Instant>) {
        self.due = time;
        self.now = Instant::now();
    }

    /// Return from [`Loop::run`] when this can be read.
    pub fn watch<Fd: AsFd>(&mut self, number: u32, fd: Fd) -> Result<(), Errno> {
        let token = Token::Other(number).encode();
        self.shell
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
    }

    /// The same when it can be written.
    pub fn watch_writable<Fd: AsFd>(&mut self, number: u32, fd: Fd) -> Result<(), Errno> {
        let token = Token::Other(number).encode();
        self.shell
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLOUT, token))
    }

    /// Not any more.
    pub fn unwatch<Fd: AsFd>(&mut self, fd: Fd) -> Result<(), Errno> {
        self.shell.epoll.delete(fd)
    }

    /// Forward until something watched is ready, its time has come, or the tap is gone. Everything else that the kernel
    /// told together with it is done before. What is always ready keeps nothing else from its turn.
    pub fn run(&mut self) -> Result<Ended, Errno> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let patience = self.patience()?;
            let count = match self.shell.epoll.wait(&mut events, patience) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error),
            };
            self.now = Instant::now();
            self.rounds += 1;
            let (mut tap, mut watched) = (None, None);
            for event in &events[..count] {
                match self.wake(Token::decode(event.data()), event.events()) {
                    Some(Ended::Watch(number)) => watched = watched.or(Some(number)),
                    ended => tap = tap.or(ended),
                }
            }
            if self.lanes.visit().is_some_and(|next| next <= self.now) {
                tap = tap.or_else(|| self.visit());
            }
            if self
                .forwarder
                .deadline()
                .is_some_and(|deadline| deadline <= self.now)
            {
                self.handle(Event::Timer);
            }
            self.wake_rested();
            self.end_round();
            if let Some(switch) = self.lanes.end_round(self.now) {
                self.switch(switch);
            }
            if let Some(ended) = tap.or_else(|| self.called(watched)) {
                return Ok(ended);
            }
        }
    }

    /// What our caller has to do, if anything: of several things the one whose turn was longest ago. The kernel tells
    /// again of what is watched, and the others are still due.
    fn called(&mut self, watched: Option<u32>) -> Option<Ended> {
        let is_now = |time: Option<Instant>| time.is_some_and(|time| time <= self.now);
        let mut all = [
            watched.map(Ended::Watch),
            is_now(self.due).then_some(Ended::Due),
            is_now(self.look_at).then_some(Ended::Look),
            self.shell.has_names().then_some(Ended::Names),
        ];
        let kinds = all.len();
        let mut turns = (1..=kinds).map(|turn| (self.turn + turn) % kinds);
        self.turn = turns.find(|kind| all[*kind].is_some())?;
        let ended = all[self.turn].take();
        if matches!(ended, Some(Ended::Look)) {
            self.look_at = None;
        }
        ended
    }

    /// Whether to wait: not if a deadline has passed, or if there is something to tell our caller.
    fn patience(&mut self) -> Result<EpollTimeout, Errno> {
        if self.shell.has_names() {
            return Ok(EpollTimeout::ZERO);
        }
        let (resting, visit) = (self.resting.until(), self.lanes.visit());
        let ours = [self.due, self.look_at, resting, visit];
        let deadlines = ours.into_iter().chain([self.forwarder.deadline()]);
        match deadlines.flatten().min() {
            None => Ok(EpollTimeout::NONE),
            Some(deadline) if deadline <= self.now => Ok(EpollTimeout::ZERO),
            Some(deadline) => {
                self.alarm.wake_at(deadline, self.now)?;
                Ok(EpollTimeout::NONE)
            }
        }
    }

    fn wake(&mut self, token: Token, flags: EpollFlags) -> Option<Ended> {
        match token {
            Token::Flow(id) => self.socket_ready(id, flags),
            Token::Listener(place) => self.listener_ready(place),
            Token::Tap(queue) => return self.read_frames(queue),
            Token::Opener => self.shell.tend_opener(),
            Token::Timer => self.alarm.rang(),
            Token::Other(number) => return Some(Ended::Watch(number)),
        }
        None
    }

    /// Tell the forwarder something and do what it asks for.
    fn handle(&mut self, event: Event<'_>) {
        self.forwarder.handle(self.now, event);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(output) = self.forwarder.poll() {
            if let Some(answer) = self.shell.perform(output) {
                self.forwarder.handle(self.now, answer);
            }
        }
    }

    /// The batch is over: what was held back goes out, and nothing refers to the arena any more.
    fn end_round(&mut self) {
        // Of what was read only the train is still to be sent. What follows finds the arena empty: it may have been read
        // full, each time.
        self.shell.send_train();
        self.shell.arena.reset();
        self.handle(Event::BatchEnd);
        self.shell.send_train();
        if let Some(frames) = &mut self.shell.frames {
            frames.flush_capture();
        }
        self.shell.arena.reset();
        self.shell.peeked = None;
    }

    fn make_room(&mut self) {
        if !self.shell.arena.has_room() {
            self.end_round();
        }
    }

    /// Frames of a queue of the tap, its share of this round.
    fn read_frames(&mut self, queue: u32) -> Option<Ended> {
        let share = self.lanes.begin(queue, self.now, self.rounds);
        let mut total = 0;
        for count in 0..share {
            self.make_room();
            let frames = self.shell.frames.as_mut()?;
            let (span, offload) = match frames.read(queue, &mut self.shell.arena) {
                Ok(frame) => frame,
                Err(Errno::EAGAIN | Errno::EINTR | Errno::EIO) => {
                    self.lanes.end(queue, (count, total), false);
                    return None;
                }
                Err(_) => return Some(Ended::Tap),
            };
            total += span.len as usize;
            let bytes = self.shell.arena.bytes(span);
            self.forwarder.handle(
                self.now,
                Event::Frame {
                    bytes,
                    at: span.at,
                    offload,
                },
            );
            self.perform();
        }
        self.lanes.end(queue, (share, total), true);
        None
    }

    /// Frames of the queues that nobody waits for, for a while.
    fn visit(&mut self) -> Option<Ended> {
        loop {
            let before = self.lanes.read();
            for queue in self.lanes.others() {
                let ended = self.read_frames(queue);
                if ended.is_some() {
                    return ended;
                }
            }
            let empty = self.lanes.read() == before;
            if !self.lanes.goes_on(self.now, Instant::now(), empty) {
                return None;
            }
        }
    }

    /// Wait for the tap's other queues, or do not, or let it have some.
    fn switch(&mut self, switch: Switch) {
        let flags = match switch {
            Switch::Widen => return self.widen(),
            Switch::Hold => EpollFlags::empty(),
            Switch::Release => EpollFlags::EPOLLIN,
        };
        self.forwarder.set_crowded(switch == Switch::Hold);
        let queues = self.shell.frames.iter().flat_map(Frames::queues);
        for (fd, queue) in queues.zip(0..).skip(1) {
            let mut event = EpollEvent::new(flags, Token::Tap(queue).encode());
            // It is there since the tap was made wider.
            self.shell.epoll.modify(fd, &mut event).unwrap_or_default();
        }
    }

    fn widen(&mut self) {
        let Some(frames) = &mut self.shell.frames else {
            return;
        };
        frames.widen();
        let mut queues = 1;
        for (fd, queue) in frames.queues().zip(0..).skip(1) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Tap(queue).encode());
            // A queue that nobody waits for would swallow what its hash names; memory for that is not lacking in practice.
            self.shell.epoll.add(fd, event).unwrap_or_default();
            queues += 1;
        }
        self.lanes.widened(queues);
        self.forwarder.widened(self.now);
        self.perform();
    }

    fn socket_ready(&mut self, id: SocketId, flags: EpollFlags) {
        let Some(socket) = self.shell.sockets.find(id) else {
            return;
        };
        if socket.transport != Transport::Tcp {
            if flags.contains(EpollFlags::EPOLLERR) {
                self.read_errors(id);
            }
            if flags.contains(EpollFlags::EPOLLIN) {
                self.read_datagrams(id);
            }
            return;
        }
        socket.urgent |= flags.contains(EpollFlags::EPOLLPRI);
        let failed = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let error = match failed.then(|| raw::take_error(socket.fd())) {
            None | Some(0) => None,
            Some(number) => Some(crate::event::Errno(number)),
        };
        let readiness = Readiness {
            readable: flags.contains(EpollFlags::EPOLLIN),
            writable: flags.contains(EpollFlags::EPOLLOUT),
            ended: flags.contains(EpollFlags::EPOLLRDHUP),
            failed,
            urgent: flags.contains(EpollFlags::EPOLLPRI),
        };
        self.handle(Event::Ready {
            socket: id,
            readiness,
            error,
        });
    }

    /// A batch of datagrams of a flow.
    fn read_datagrams(&mut self, id: SocketId) {
        self.make_room();
        let Some(socket) = self.shell.sockets.find(id) else {
            return;
        };
        let stride = super::arena::READ_MAX;
        let base = self.shell.arena.keep(0).at as usize;
        let result = self
            .inbox
            .receive(socket.fd(), self.shell.arena.spare(), stride);
        let Ok(count) = result else { return };
        self.shell.arena.keep(count * stride);
        let mut first = 0;
        while first < count {
            let head = self.inbox.message(first, stride);
            let mut next = first;
            self.spans.clear();
            while next < count {
                let message = self.inbox.message(next, stride);
                if next > first && (message.peer != head.peer || message.ttl != head.ttl) {
                    break;
                }
                cut(
                    &mut self.spans,
                    base + message.at,
                    message.len,
                    message.segment,
                );
                next += 1;
            }
            if let Some(peer) = head.peer {
                let arena = self.shell.arena.all();
                let event = Event::Datagrams {
                    socket: id,
                    spans: &self.spans,
                    arena,
                    peer,
                    ttl: head.ttl,
                };
                self.forwarder.handle(self.now, event);
                self.perform();
            }
            first = next;
        }
    }

    fn read_errors(&mut self, id: SocketId) {
        let mut quote = [0; QUOTE];
        for _ in 0..QUOTES {
            let Some(socket) = self.shell.sockets.find(id) else {
                return;
            };
            let Ok(queued) = raw::queued_error(socket.fd(), &mut quote) else {
                break;
            };
            let Some(destination) = queued.destination else {
                continue;
            };
            let icmp = matches!(queued.origin, 2 | 3).then_some((
                queued.kind.0,
                queued.kind.1,
                queued.info,
            ));
            let failure = Failure {
                error: crate::event::Errno(queued.error),
                icmp,
                offender: queued.offender,
                destination,
                payload: quote.get(..queued.len).unwrap_or_default(),
            };
            self.handle(Event::Failure {
                socket: id,
                failure,
            });
        }
        // Without this the error would wake us again although its queue is empty.
        if let Some(socket) = self.shell.sockets.find(id) {
            raw::take_error(socket.fd());
        }
    }

    fn listener_ready(&mut self, place: u32) {
        match self.listener(place).map(|listening| listening.transport) {
            Some(Transport::Tcp) => self.accept(place),
            Some(Transport::Udp | Transport::Echo) => self.read_arrivals(place),
            None => {}
        }
    }

    fn listener(&self, place: u32) -> Option<&Listening> {
        self.listeners.get(place as usize)?.as_ref()
    }

    fn accept(&mut self, place: u32) {
        for _ in 0..ACCEPTS {
            let Some(listening) = self.listener(place) else {
                return;
            };
            let listener = listening.range;
            let (fd, peer) = match raw::accept(listening.fd.as_fd()) {
                Ok(accepted) => accepted,
                Err(error) => return self.not_accepted(place, errno(error)),
            };
            let Some(local) = options::local_address(fd.as_fd()) else {
                continue;
            };
            let pending = self.shell.hold(fd);
            self.handle(Event::Connection {
                listener,
                pending,
                peer,
                local,
            });
        }
    }

    /// Without room for one more, the listener rests: what waits there would wake us at once.
    fn not_accepted(&mut self, place: u32, error: Errno) {
        let Some(listening) = self.listener(place).filter(|_| Resting::is_for(error)) else {
            return;
        };
        if self.shell.epoll.delete(&listening.fd).is_ok() {
            self.resting.rest(place, self.now);
        }
        let error = crate::event::Errno(error as i32);
        (self.shell.report)(Report::NotAccepted { error });
    }

    fn wake_rested(&mut self) {
        for place in self.resting.rested(self.now) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener(place).encode());
            if let Some(listening) = self.listener(place) {
                // One that came to its place meanwhile is waited for already.
                self.shell
                    .epoll
                    .add(&listening.fd, event)
                    .unwrap_or_default();
            }
        }
    }

    /// Datagrams for a published port, all that wait: who sent the first of them has a socket of ours to itself from then
    /// on, and what that socket receives must not overtake what was sent before it was there.
    fn read_arrivals(&mut self, place: u32) {
        for _ in 0..ARRIVALS {
            if !self.read_some_arrivals(place) {
                return;
            }
        }
    }

    /// A batch of them; whether there was anything.
    fn read_some_arrivals(&mut self, place: u32) -> bool {
        self.make_room();
        let Some(Some(listening)) = self.listeners.get(place as usize) else {
            return false;
        };
        let listener = listening.range;
        let stride = super::arena::READ_MAX;
        let base = self.shell.arena.keep(0).at as usize;
        let result = self
            .inbox
            .receive(listening.fd.as_fd(), self.shell.arena.spare(), stride);
        let Ok(count @ 1..) = result else {
            return false;
        };
        self.shell.arena.keep(count * stride);
        let port = options::local_address(listening.fd.as_fd()).map_or(0, |a| a.port());
        for i in 0..count {
            let message = self.inbox.message(i, stride);
            let (Some(peer), Some(local)) = (message.peer, message.local) else {
                continue;
            };
            self.spans.clear();
            cut(
                &mut self.spans,
                base + message.at,
                message.len,
                message.segment,
            );
            let event = Event::Arrivals {
                listener,
                spans: &self.spans,
                arena: self.shell.arena.all(),
                peer,
                local: SocketAddr::new(local, port),
                ttl: message.ttl,
            };
            self.forwarder.handle(self.now, event);
            self.perform();
        }
        true
    }
}

/// The datagrams that one message holds.
fn cut(spans: &mut Vec<Span>, at: usize, len: usize, segment: Option<u16>) {
    let size = segment.map_or(len, usize::from).max(1);
    let mut start = 0;
    loop {
        let end = (start + size).min(len);
        spans.push(super::arena::span(at + start..at + end));
        start = end;
        if start >= len {
            break;
        }
    }
}

impl Shell {
    /// Take in new sockets of the guest's. If there will be no more, loopback traffic is refused from now on.
    fn tend_opener(&mut self) {
        if let Some(opener) = &mut self.guest_sockets
            && opener.tend().is_err()
        {
            self.guest_sockets = None;
            (self.report)(Report::NoGuestSockets);
        }
    }

    fn has_names(&self) -> bool {
        let opener = self.guest_sockets.as_ref();
        opener.is_some_and(Opener::has_names)
    }

    fn hold(&mut self, fd: OwnedFd) -> Pending {
        let place = self
            .pending
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.pending.push(None);
                self.pending.len() - 1
            });
        self.pending[place] = Some(fd);
        Pending(u32::try_from(place).expect("few are pending at a time"))
    }

    fn release(&mut self, pending: Pending) -> Option<OwnedFd> {
        self.pending.get_mut(pending.0 as usize)?.take()
    }

    /// Do one thing; some have an answer.
    fn perform(&mut self, output: Output) -> Option<Event<'_>> {
        match output {
            Output::Frame {
                headers,
                payload,
                offload,
                lane,
            } => self.frame(&headers, &payload, offload, lane),
            Output::Connect {
                socket,
                transport,
                local,
                to,
                mss,
                shared,
            } => {
                let peer = Peer { to, mss, shared };
                return Some(opened(socket, self.connect(socket, transport, local, peer)));
            }
            Output::Group {
                socket,
                local,
                to,
                shared,
            } => return Some(opened(socket, self.group(socket, local, to, shared))),
            Output::Join { socket, group } => {
                return Some(opened(socket, self.join(socket, group)));
            }
            Output::Adopt { pending, socket } => return self.adopt(pending, socket),
            Output::Refuse(pending) => self.refuse(pending),
            Output::Peek {
                socket,
                offset,
                max,
            } => return Some(self.peek(socket, offset, max)),
            Output::Discard { socket, len } => self.sockets.discard(socket, len),
            Output::Write { socket, data } => return Some(self.write(socket, data)),
            Output::WriteKept { socket, data } => return Some(self.write_kept(socket, data)),
            Output::Send {
                socket,
                header,
                data,
                segment,
                ttl,
            } => self.send(socket, &header, data, segment, ttl),
            Output::Shutdown(socket) => self.sockets.shutdown(socket),
            Output::Close { socket, reset } => self.close(socket, reset),
            Output::Pump { flow, from } => return self.pump(flow, from),
            Output::Report(report) => (self.report)(report),
        }
        None
    }

    fn refuse(&mut self, pending: Pending) {
        if let Some(fd) = self.release(pending) {
            splice::reset(fd);
        }
    }

    fn peek(&mut self, socket: SocketId, offset: u32, max: u32) -> Event<'_> {
        let result = self
            .sockets
            .peek(&self.options, socket, offset, max, &mut self.arena);
        self.peeked = result.ok();
        let result = result.map_err(|error| crate::event::Errno(error as i32));
        Event::Peeked { socket, result }
    }

    fn write(&mut self, socket: SocketId, data: Span) -> Event<'_> {
        let data = self.arena.bytes(data);
        let result = self.sockets.write(socket, data);
        written(socket, result, data)
    }

    fn write_kept(&mut self, socket: SocketId, data: Vec<u8>) -> Event<'_> {
        self.kept = data;
        let result = self.sockets.write(socket, &self.kept);
        written(socket, result, &self.kept)
    }

    fn pump(&mut self, flow: FlowId, from: Side) -> Option<Event<'_>> {
        let (source, sink, pipes) = self.sockets.pair(flow, from)?;
        let mut moved = 0;
        let result = pipes.pump(from, source, sink, &mut self.arena, &mut moved);
        let result = result.map_err(|error| crate::event::Errno(error as i32));
        Some(Event::Pumped {
            flow,
            from,
            moved,
            result,
        })
    }

    /// A frame that the guest does not take is lost, as on any link. What was peeked at for it is in no other one.
    fn frame(&mut self, headers: &Headers, payload: &Payload, offload: Offload, lane: Lane) {
        if let Some(frames) = &mut self.frames {
            frames
                .send(headers.as_bytes(), payload, offload, lane, &self.arena)
                .unwrap_or_default();
        }
        if let Payload::Span(span) = payload
            && self.peeked.take_if(|peeked| *peeked == *span).is_some()
        {
            self.arena.give_back(*span);
        }
    }

    fn connect(
        &mut self,
        socket: SocketId,
        transport: Transport,
        local: Option<SocketAddr>,
        peer: Peer,
    ) -> Result<SocketAddr, Errno> {
        let to = peer.to;
        let fd = match socket.side {
            Side::Host => {
                let fd = options::open(options::family(to), transport)?;
                self.options.bind_to_device(&fd, to)?;
                fd
            }
            Side::Guest => {
                let opener = self.guest_sockets.as_mut().ok_or(Errno::ENETUNREACH)?;
                let taken = opener.take(options::family(to), transport);
                if matches!(taken, Err(Errno::ETIMEDOUT)) {
                    (self.report)(Report::GuestSocketsLate);
                }
                taken?
            }
        };
        self.options.connect(&fd, transport, local, peer)?;
        let address = match transport {
            Transport::Tcp => None,
            Transport::Udp | Transport::Echo => options::local_address(fd.as_fd()),
        };
        self.sockets
            .insert(&self.epoll, socket, fd, transport, to.is_ipv6())?;
        let known = address.or(local);
        Ok(known.unwrap_or_else(|| SocketAddr::new(to.ip(), 0)))
    }

    fn group(
        &mut self,
        id: SocketId,
        local: SocketAddr,
        to: SocketAddr,
        shared: bool,
    ) -> Result<SocketAddr, Errno> {
        let fd = options::open(options::family(to), Transport::Udp)?;
        self.options.bind_to_device(&fd, to)?;
        let (address, to) = self.options.group(&fd, local, to, shared)?;
        self.sockets
            .insert(&self.epoll, id, fd, Transport::Udp, to.is_ipv6())?;
        if let Some(socket) = self.sockets.find(id) {
            socket.sends_to(to);
        }
        Ok(address)
    }

    fn join(&mut self, socket: SocketId, group: SocketAddr) -> Result<SocketAddr, Errno> {
        let fd = options::open(options::family(group), Transport::Udp)?;
        self.options.join(&fd, group)?;
        self.sockets
            .insert(&self.epoll, socket, fd, Transport::Udp, group.is_ipv6())?;
        Ok(group)
    }

    fn adopt(&mut self, pending: Pending, socket: SocketId) -> Option<Event<'static>> {
        let fd = self.release(pending)?;
        self.options.prepare_stream(fd.as_fd());
        match self
            .sockets
            .insert(&self.epoll, socket, fd, Transport::Tcp, false)
        {
            Ok(()) => None,
            Err(error) => Some(Event::Ready {
                socket,
                readiness: Readiness {
                    failed: true,
                    ..Readiness::default()
                },
                error: Some(crate::event::Errno(error as i32)),
            }),
        }
    }

    fn close(&mut self, socket: SocketId, reset: bool) {
        if self.train.socket == Some(socket) {
            self.send_train();
        }
        self.sockets.close(socket, reset);
    }

    /// Send datagrams, together with those before them where that is the same to the receiver.
    fn send(
        &mut self,
        id: SocketId,
        header: &Headers,
        data: Payload,
        segment: Option<u16>,
        ttl: Option<u8>,
    ) {
        let plain = header.as_bytes().is_empty() && segment.is_none() && ttl.is_none();
        if let (true, Payload::Span(span)) = (plain, &data) {
            if self.train.takes(id, *span) {
                return self.train.add(*span);
            }
            self.send_train();
            let trains = self.sockets.find(id).is_some_and(|socket| socket.trains);
            if trains && span.len > 0 {
                return self.train.begin(id, *span);
            }
        }
        self.send_train();
        let Some(socket) = self.sockets.find(id) else {
            return;
        };
        if let Some(ttl) = ttl {
            socket.set_ttl(ttl);
        }
        let arena = &self.arena;
        let mut parts = Vec::with_capacity(2);
        parts.push(IoSlice::new(header.as_bytes()));
        match &data {
            Payload::None => {}
            Payload::Span(span) => parts.push(IoSlice::new(arena.bytes(*span))),
            Payload::Gather(spans) => {
                parts.extend(joined(spans).map(|span| IoSlice::new(arena.bytes(span))));
            }
            Payload::Bytes(bytes) => parts.push(IoSlice::new(bytes)),
        }
        // A datagram that cannot be sent is lost; why, the error queue tells.
        let sent = raw::send(
            socket.fd(),
            &parts,
            segment.filter(|_| socket.trains),
            socket.to(),
        );
        if let (Err(_), Some(size)) = (sent, segment) {
            let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            for datagram in whole.chunks(usize::from(size).max(1)) {
                raw::send(socket.fd(), &[IoSlice::new(datagram)], None, socket.to())
                    .unwrap_or_default();
            }
        }
    }

    /// Send the train that was being put together.
    fn send_train(&mut self) {
        let Some(id) = self.train.socket.take() else {
            return;
        };
        let Some(socket) = self.sockets.find(id) else {
            return;
        };
        let arena = &self.arena;
        let spans = &self.train.spans;
        let mut parts = [IoSlice::new(&[]); TRAIN];
        let mut count = 0;
        for span in joined(spans).take(TRAIN) {
            parts[count] = IoSlice::new(arena.bytes(span));
            count += 1;
        }
        let segment = (spans.len() > 1)
            .then_some(self.train.size)
            .and_then(|size| u16::try_from(size).ok());
        let Err(error) = raw::send(socket.fd(), &parts[..count], segment, socket.to()) else {
            return;
        };
        if segment.is_none() {
            return;
        }
        if matches!(
            errno(error),
            Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP
        ) {
            socket.trains = false;
        }
        for span in spans {
            raw::send(
                socket.fd(),
                &[IoSlice::new(arena.bytes(*span))],
                None,
                socket.to(),
            )
            .unwrap_or_default();
        }
    }
}

impl Train {
    fn takes(&self, socket: SocketId, span: Span) -> bool {
        self.socket == Some(socket)
            && !self.full
            && span.len > 0
            && span.len <= self.size
            && self.spans.len() < TRAIN
            && self.bytes + span.len as usize <= TRAIN_BYTES
    }

    fn begin(&mut self, socket: SocketId, span: Span) {
        self.socket = Some(socket);
        self.size = span.len;
        self.bytes = 0;
        self.full = false;
        self.spans.clear();
        self.add(span);
    }

    fn add(&mut self, span: Span) {
        self.spans.push(span);
        self.bytes += span.len as usize;
        self.full = span.len < self.size;
    }
}

fn opened(socket: SocketId, result: Result<SocketAddr, Errno>) -> Event<'static> {
    let result = result.map_err(|error| crate::event::Errno(error as i32));
    Event::Opened { socket, result }
}

fn written(socket: SocketId, result: Result<u32, Errno>, data: &[u8]) -> Event<'_> {
    let taken = result.map_or(0, |taken| taken as usize);
    let rest = data.get(taken..).unwrap_or_default();
    let result = result.map_err(|error| crate::event::Errno(error as i32));
    Event::Written {
        socket,
        result,
        rest,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the other end needs a thread")]
mod tests {
    use super::super::{opener, pass};
    use super::*;
    use crate::config::Families;

    /// A loop with nothing to forward.
    fn forwarding(guest_sockets: Option<Opener>) -> Loop {
        let forwarder = Forwarder::new(&crate::local::tests::config(), 1);
        let report = Box::new(|report| panic!("{report:?}"));
        Loop::new(forwarder, None, Options::default(), guest_sockets, report).unwrap()
    }

    #[test]
    fn what_is_due_at_once_is_not_waited_for() {
        let mut forwarding = forwarding(None);
        forwarding.wake_at(Some(Instant::now()));
        assert_eq!(forwarding.patience(), Ok(EpollTimeout::ZERO));
    }

    /// Who took a socket has fetched them with it: the channel is silent.
    #[test]
    fn names_that_came_with_something_else_are_not_waited_for() {
        let (ours, theirs) = pass::pair().unwrap();
        let server = std::thread::spawn(move || opener::serve(&theirs, None));
        let mut forwarding = forwarding(Some(Opener::new(
            ours,
            Families::default(),
            opener::Sizes::of(1024),
        )));
        forwarding.ask_names();
        while !forwarding.shell.has_names() {
            forwarding.shell.tend_opener();
        }
        assert_eq!(forwarding.patience(), Ok(EpollTimeout::ZERO));
        assert_eq!(forwarding.run(), Ok(Ended::Names));
        assert_eq!(forwarding.names(), Some(Err(Errno::ENOENT)));
        drop(forwarding);
        server.join().unwrap();
    }

    #[test]
    fn what_is_always_ready_keeps_nobody_from_his_turn() {
        let mut forwarding = forwarding(None);
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(writer);
        forwarding.watch(7, &reader).unwrap();
        let now = Instant::now();
        let mut told = Vec::new();
        for _ in 0..6 {
            forwarding.wake_at(Some(now));
            forwarding.look_at(Some(now));
            told.push(forwarding.run().unwrap());
        }
        for ended in [Ended::Watch(7), Ended::Due, Ended::Look] {
            let count = told.iter().filter(|this| **this == ended).count();
            assert_eq!(count, 2, "{told:?}");
        }
    }
}
