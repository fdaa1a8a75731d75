//! Flows that run beside something, and what became of every packet of them.
//!
//! A machine outside sends through a published port of a host to a container:
//!
//! - *One flow* of numbered datagrams, each sent back. Its connection is tracked, so rules have little to say.
//! - *A flow each*: a datagram from a new port, which is waited for to come back before the next. Every rule and map is asked
//!   anew, and as only one is under way, no queue can be too short for it.
//! - A TCP connection, which tells by what it has to send again.
//!
//! Datagrams go at a rate that the machine carries with ease. Still, one may be lost that no rule is to blame for: when
//! the machine is busy otherwise, the queue of a processor or of a socket may be full. The kernel counts these, and so do
//! we ([`Passed::counted`]): what is lost and not counted is the work of rules. So is what comes to the host itself
//! because nothing leads it on ([`Passed::astray`]).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};

use crate::netns::Netns;

/// Between two datagrams of the one flow, at least.
const PAUSE: Duration = Duration::from_micros(50);

/// How long nothing may come before nothing more will.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a datagram may take there and back on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that may wait in a socket: a receiver that is not scheduled for a second shall not matter.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Where flows run.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// The machine that sends.
    pub outside: &'a Netns,
    /// The host in between.
    pub host: &'a Netns,
    /// The container that answers.
    pub container: &'a Netns,
    /// The published port of the host that leads to [`Self::udp_target`].
    pub udp: SocketAddr,
    /// The one that leads to [`Self::tcp_target`].
    pub tcp: SocketAddr,
    /// The container's port for datagrams.
    pub udp_target: u16,
    /// The container's port for the connection.
    pub tcp_target: u16,
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagrams {
    /// Those that were sent.
    pub sent: u64,
    /// Those of them that came to the container.
    pub arrived: u64,
    /// Those of them that came back.
    pub answered: u64,
}

impl Datagrams {
    fn new(sent: u64, arrived: u64, answered: u64) -> Self {
        Self {
            sent,
            arrived,
            answered,
        }
    }

    /// Those that were lost on the way there or back.
    pub fn lost(self) -> u64 {
        self.sent - self.answered
    }
}

/// What became of all flows.
#[derive(Clone, Debug)]
pub struct Passed {
    /// How long they ran.
    pub time: Duration,
    /// The datagrams of the one flow.
    pub one: Datagrams,
    /// The datagrams that were a flow each.
    pub each: Datagrams,
    /// Bytes of the connection that arrived.
    pub tcp_bytes: u64,
    /// Whether all did, and the connection came to its end.
    pub tcp_whole: bool,
    /// Its segments that were sent again...
    pub tcp_again: u64,
    /// ...and those of them that the receiver had already.
    pub tcp_needless: u64,
    /// By how much the kernel's counters of what is not delivered have grown; those that have not are left out.
    pub counters: BTreeMap<String, u64>,
}

impl Passed {
    /// Datagrams that were lost on the way there or back.
    pub fn lost(&self) -> u64 {
        self.one.lost() + self.each.lost()
    }

    /// Packets that were dropped because a queue was full: that of a socket, or of a processor, which shows at the
    /// interface.
    pub fn counted(&self) -> u64 {
        self.sum(|name| name.ends_with(" dropped") || name.ends_with(" RcvbufErrors"))
    }

    /// Packets that came to the host itself, where nobody waits for them: no rule led them on.
    pub fn astray(&self) -> u64 {
        self.sum(|name| name == "host Udp NoPorts")
    }

    fn sum(&self, of: impl Fn(&str) -> bool) -> u64 {
        let some = self.counters.iter().filter(|(name, _)| of(name));
        some.map(|(_, count)| count).sum()
    }
}

impl Course<'_> {
    /// Does something while flows run.
    ///
    /// # Errors
    /// Those of the work; the flows cannot begin.
    pub fn beside(&self, work: impl FnOnce() -> Result<()>) -> Result<Passed> {
        let ends = Ends::open(self)?;
        let before = Counters::take(self)?;
        let begin = Instant::now();
        let mut passed = ends.run(self, work)?;
        passed.time = begin.elapsed();
        let mut counters = Counters::take(self)?.since(&before);
        passed.tcp_again = counters.remove("outside Tcp RetransSegs").unwrap_or(0);
        passed.tcp_needless = counters.remove("outside TcpExt TCPDSACKRecv").unwrap_or(0);
        passed.counters = counters;
        Ok(passed)
    }
}

/// The sockets of the flows.
struct Ends {
    sender: UdpSocket,
    receiver: UdpSocket,
    listener: TcpListener,
    stream: TcpStream,
}

impl Ends {
    fn open(course: &Course<'_>) -> Result<Self> {
        let receiver = course
            .container
            .enter(|| datagram_socket((Ipv4Addr::UNSPECIFIED, course.udp_target).into()))?;
        let listener = course.container.enter(|| {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, course.tcp_target)).context("listen")
        })?;
        let sender = course.outside.enter(|| new_flow(course.udp))?;
        let stream = course
            .outside
            .enter(|| TcpStream::connect(course.tcp).context("connect"))?;
        Ok(Self {
            sender,
            receiver,
            listener,
            stream,
        })
    }

    fn run(self, course: &Course<'_>, work: impl FnOnce() -> Result<()>) -> Result<Passed> {
        let [stop, over, answered] = [const { AtomicBool::new(false) }; 3];
        let (stop, over, answered) = (&stop, &over, &answered);
        thread::scope(|scope| {
            let answering = scope.spawn(|| answer(&self.receiver, over));
            let returning = scope.spawn(|| Seen::default().listen(&self.sender, answered));
            let reading = scope.spawn(|| read_all(&self.listener));
            let sending = scope.spawn(|| send_numbers(&self.sender, stop));
            let asking = scope.spawn(|| course.outside.enter(|| ask_anew(course.udp, stop)));
            let writing = scope.spawn(|| write_paced(&self.stream, stop));
            let done = work();
            stop.store(true, Ordering::Relaxed);
            let sent = sending.join().expect("the sender does not panic");
            let asked = asking.join().expect("the asker does not panic");
            let written = writing.join().expect("the writer does not panic");
            let read = reading.join().expect("the reader does not panic");
            over.store(true, Ordering::Relaxed);
            let [one, each] = answering.join().expect("the answerer does not panic");
            // Not before: it may have had much to answer, and no processor to do so.
            answered.store(true, Ordering::Relaxed);
            let returned = returning.join().expect("the listener does not panic");
            done?;
            let ((asked, back), (read, ended)) = (asked?, read?);
            Ok(Passed {
                time: Duration::ZERO,
                one: Datagrams::new(sent, one.count, returned.count),
                each: Datagrams::new(asked, each.count, back),
                tcp_bytes: read,
                tcp_whole: ended && read == written,
                tcp_again: 0,
                tcp_needless: 0,
                counters: BTreeMap::new(),
            })
        })
    }
}

/// Numbers that have come; each counts once.
#[derive(Debug, Default)]
struct Seen {
    numbers: Vec<bool>,
    count: u64,
}

impl Seen {
    fn add(&mut self, number: u64) {
        let index = usize::try_from(number).expect("a test does not send that many");
        if self.numbers.len() <= index {
            self.numbers.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.numbers[index], true) {
            self.count += 1;
        }
    }

    /// Takes what comes until it is over and silent.
    fn listen(mut self, socket: &UdpSocket, over: &AtomicBool) -> Self {
        while let Some((kind, number, _)) = receive(socket, over) {
            if kind == ONE {
                self.add(number);
            }
        }
        self
    }
}

/// Whether a datagram is of the one flow, or a flow of its own.
const ONE: u8 = 1;
const EACH: u8 = 2;

fn datagram(kind: u8, number: u64) -> [u8; 9] {
    let mut data = [kind; 9];
    data[1..].copy_from_slice(&number.to_be_bytes());
    data
}

/// The next datagram; `None` when it is over and nothing more comes.
fn receive(socket: &UdpSocket, over: &AtomicBool) -> Option<(u8, u64, SocketAddr)> {
    let mut data = [0; 9];
    loop {
        match socket.recv_from(&mut data) {
            Ok((9, peer)) => {
                let [kind, number @ ..] = data;
                return Some((kind, u64::from_be_bytes(number), peer));
            }
            // Somebody refused an earlier one; that it is lost shows by its absence.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) if over.load(Ordering::Relaxed) => return None,
            Err(_) => {}
        }
    }
}

fn answer(socket: &UdpSocket, over: &AtomicBool) -> [Seen; 2] {
    let [mut one, mut each] = [Seen::default(), Seen::default()];
    while let Some((kind, number, peer)) = receive(socket, over) {
        if kind == ONE { &mut one } else { &mut each }.add(number);
        socket.send_to(&datagram(kind, number), peer).ok(); // that it is lost shows
    }
    [one, each]
}

fn send_numbers(socket: &UdpSocket, stop: &AtomicBool) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        if socket.send(&datagram(ONE, number)).is_ok() {
            number += 1;
        }
        thread::sleep(PAUSE);
    }
    number
}

/// Sends a datagram from a new port, and waits for it to come back; again and again. Returns how many were sent, and
/// how many came back.
fn ask_anew(to: SocketAddr, stop: &AtomicBool) -> Result<(u64, u64)> {
    let (mut sent, mut answered) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let socket = new_flow(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(&datagram(EACH, sent)).context("send")?;
        let mut data = [0; 9];
        let back = socket.recv(&mut data);
        answered += u64::from(back.is_ok() && data == datagram(EACH, sent));
        sent += 1;
    }
    Ok((sent, answered))
}

fn new_flow(to: SocketAddr) -> Result<UdpSocket> {
    let socket = datagram_socket((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.connect(to).context("connect")?;
    Ok(socket)
}

fn datagram_socket(at: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at).with_context(|| format!("bind {at}"))?;
    socket.set_read_timeout(Some(SILENCE))?;
    // Not everybody may exceed the limit of the system.
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER))
        .context("enlarge a buffer")?;
    Ok(socket)
}

/// A block every few hundred microseconds. Returns how many bytes; none that were refused.
fn write_paced(mut stream: &TcpStream, stop: &AtomicBool) -> u64 {
    let block = [0; 8 << 10];
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) && stream.write_all(&block).is_ok() {
        written += block.len() as u64;
        thread::sleep(4 * PAUSE);
    }
    stream.shutdown(Shutdown::Write).ok(); // it may be broken
    written
}

/// Returns how many bytes came, and whether the connection came to its end.
fn read_all(listener: &TcpListener) -> Result<(u64, bool)> {
    let (mut stream, _) = listener.accept().context("nobody came")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 64 << 10];
    let mut count = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((count, true)),
            Ok(some) => count += some as u64,
            Err(_) => return Ok((count, false)),
        }
    }
}

/// What the kernel counts, by place and name.
struct Counters(BTreeMap<String, u64>);

/// Those of a namespace, by file below `/proc/net` and group.
const OF_A_NAMESPACE: [(&str, &str, &[&str]); 4] = [
    (
        "snmp",
        "Ip",
        &[
            "InHdrErrors",
            "InAddrErrors",
            "InUnknownProtos",
            "InDiscards",
            "OutDiscards",
            "OutNoRoutes",
        ],
    ),
    (
        "snmp",
        "Udp",
        &[
            "NoPorts",
            "RcvbufErrors",
            "SndbufErrors",
            "InCsumErrors",
            "MemErrors",
        ],
    ),
    ("snmp", "Tcp", &["RetransSegs"]),
    ("netstat", "TcpExt", &["TCPDSACKRecv"]),
];

impl Counters {
    fn take(course: &Course<'_>) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (place, netns) in [
            ("outside", course.outside),
            ("host", course.host),
            ("container", course.container),
        ] {
            let own = netns
                .enter(of_a_namespace)
                .with_context(|| format!("read counters of {place}"))?;
            all.extend(
                own.into_iter()
                    .map(|(name, count)| (format!("{place} {name}"), count)),
            );
        }
        // By processor, shared by the whole machine.
        let queues = fs::read_to_string("/proc/net/softnet_stat").context("read softnet_stat")?;
        let full = queues
            .lines()
            .filter_map(|line| hexadecimal(line.split(' ').nth(1)?));
        all.insert("machine: processor queue full".to_owned(), full.sum());
        Ok(Self(all))
    }

    /// What has grown, and by how much.
    fn since(self, before: &Self) -> BTreeMap<String, u64> {
        let grown = self.0.into_iter().map(|(name, count)| {
            let earlier = before.0.get(&name).copied().unwrap_or(0);
            (name, count.saturating_sub(earlier))
        });
        grown.filter(|(_, growth)| *growth > 0).collect()
    }
}

/// The counters of the namespace that the thread is in.
fn of_a_namespace() -> Result<BTreeMap<String, u64>> {
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    let mut all = BTreeMap::new();
    for (file, group, names) in OF_A_NAMESPACE {
        let text = read(file)?;
        let found = columns(&text, &format!("{group}:"));
        all.extend(
            found
                .into_iter()
                .filter(|(name, _)| names.contains(name))
                .map(|(name, count)| (format!("{group} {name}"), count)),
        );
    }
    all.insert("interfaces dropped".to_owned(), dropped(&read("dev")?));
    // Only where connections are tracked, and the kernel tells.
    if let Ok(text) = read("stat/nf_conntrack") {
        for name in ["invalid", "insert_failed", "drop", "early_drop"] {
            all.insert(format!("conntrack {name}"), per_processor(&text, name));
        }
    }
    Ok(all)
}

/// A line of names and one of numbers that begin alike.
fn columns<'a>(text: &'a str, start: &str) -> Vec<(&'a str, u64)> {
    let mut lines = text.lines().filter(|line| line.starts_with(start));
    let [names, counts] = [lines.next(), lines.next()].map(Option::unwrap_or_default);
    let pairs = names.split(' ').zip(counts.split(' '));
    pairs
        .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
        .collect()
}

/// What all interfaces dropped when it came in or was to go out.
fn dropped(text: &str) -> u64 {
    let by_one = |line: &str| {
        let (_, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts.split_whitespace().flat_map(str::parse).collect();
        Some(counts.get(3)? + counts.get(11)?)
    };
    text.lines().filter_map(by_one).sum()
}

/// The sum of a column that has a line for each processor, in hexadecimal.
fn per_processor(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let mut names = lines.next().unwrap_or_default().split_whitespace();
    let Some(column) = names.position(|found| found == name) else {
        return 0;
    };
    lines
        .filter_map(|line| hexadecimal(line.split_whitespace().nth(column)?))
        .sum()
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
