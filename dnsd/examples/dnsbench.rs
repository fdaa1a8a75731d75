//! Measures responders of one configuration in turns. `hack/bench-dnsd` builds this and runs it in namespaces of its
//! own; the words after the options are the responders, the first of which is what the others are compared with.
//!
//! One round starts each responder afresh, measures and stops it; rounds repeat, so that what disturbs the machine
//! disturbs all. A figure is the median of the rounds, a ratio that of the medians. The generator is one thread, which
//! sends and receives up to 64 datagrams with one call and keeps a fixed number outstanding.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a tool that runs programs, measures and prints; what fails ends it"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrIn,
    SockaddrStorage, bind, connect, recvmmsg, sendmmsg, sendmsg, setsockopt, socket,
};
use nix::unistd::Pid;

/// Where names outside are asked, and where nobody answers.
const UPSTREAM: &str = "127.0.0.153";
/// The gateway of the data sets with one network.
const GATEWAY: &str = "10.88.0.1";

fn main() -> Result<()> {
    let mut options = Options::default();
    let mut servers = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match &*word {
            "--rounds" => options.rounds = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            "--reloads" => options.reloads = value()?.parse()?,
            "--only" => options.only = value()?.split(',').map(ToOwned::to_owned).collect(),
            "--work" => options.work = value()?.into(),
            _ => servers.push(Responder::named(&word)?),
        }
    }
    ensure!(!servers.is_empty(), "no responders");
    let mut bench = Bench {
        options,
        servers,
        figures: Vec::new(),
    };
    fs::create_dir_all(&bench.options.work)?;
    bench.all()?;
    bench.print();
    Ok(())
}

#[derive(Debug)]
struct Options {
    rounds: usize,
    seconds: f64,
    reloads: usize,
    only: Vec<String>,
    work: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 5,
            seconds: 1.5,
            reloads: 100,
            only: Vec::new(),
            work: "/tmp/bench-dnsd".into(),
        }
    }
}

// The responders.

#[derive(Clone, Debug)]
enum Kind {
    /// Takes aardvark-dns's command line and directory.
    Compatible(PathBuf),
    Dnsmasq,
    Unbound,
}

#[derive(Clone, Debug)]
struct Responder {
    name: String,
    kind: Kind,
}

impl Responder {
    fn named(word: &str) -> Result<Self> {
        let (name, kind) = match word.split_once('=') {
            Some((name, path)) => (name, Kind::Compatible(path.into())),
            None if word == "dnsmasq" => (word, Kind::Dnsmasq),
            None if word == "unbound" => (word, Kind::Unbound),
            None => bail!("{word}: NAME=PATH, dnsmasq or unbound expected"),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
        })
    }

    fn command(&self, work: &Path) -> Command {
        let mut command = match &self.kind {
            Kind::Compatible(path) => {
                let mut command = Command::new(path);
                command
                    .arg("--config")
                    .arg(work.join("networks"))
                    .args(["-p", "53", "run"]);
                command
            }
            Kind::Dnsmasq => {
                let mut command = Command::new("dnsmasq");
                command.arg("-k").arg("-C").arg(work.join("dnsmasq.conf"));
                command
            }
            Kind::Unbound => {
                let mut command = Command::new("unbound");
                command.arg("-d").arg("-c").arg(work.join("unbound.conf"));
                command
            }
        };
        command
            .env("RUST_LOG", "WARN")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts it; back when it answers for the first name of the data. With the times of both.
    fn start(&self, work: &Path, data: &Data) -> Result<Running> {
        let begin = Instant::now();
        let mut child = self
            .command(work)
            .spawn()
            .with_context(|| self.name.clone())?;
        let mut ready = None;
        let pid = if matches!(self.kind, Kind::Compatible(_)) {
            let status = child.wait()?;
            ensure!(status.success(), "{} does not start: {status}", self.name);
            ready = Some(begin.elapsed());
            let file = work.join("networks/aardvark.pid");
            let begin = Instant::now();
            loop {
                // Old versions write it after their parent's end.
                if let Some(pid) = fs::read_to_string(&file)
                    .ok()
                    .and_then(|text| text.parse().ok())
                {
                    break pid;
                }
                ensure!(
                    begin.elapsed() < Duration::from_secs(2),
                    "{} has no pid file",
                    self.name
                );
            }
        } else {
            i32::try_from(child.id())?
        };
        let mut running = Running {
            pid: Pid::from_raw(pid),
            child: (!matches!(self.kind, Kind::Compatible(_))).then_some(child),
            ready,
            first: Duration::ZERO,
        };
        if let Err(error) = answers_within(data, &data.first_name(), Duration::from_secs(30)) {
            let ended = running
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok()?);
            bail!("{error} ({ended:?})");
        }
        running.first = begin.elapsed();
        Ok(running)
    }

    /// Adds a container and asks for a reload.
    fn add(&self, work: &Path, running: &Running, name: &str, address: &str) -> Result<()> {
        let (file, text) = match self.kind {
            Kind::Compatible(_) => (
                work.join("networks/net0"),
                format!("{name:0>64} {address}  {name}\n"),
            ),
            Kind::Dnsmasq => (work.join("hosts"), format!("{address} {name}.dns.podman\n")),
            Kind::Unbound => (work.join("local-data"), unbound_line(name, address)),
        };
        let mut file = fs::File::options().append(true).open(file)?;
        file.write_all(text.as_bytes())?;
        Ok(kill(running.pid, Signal::SIGHUP)?)
    }
}

fn unbound_line(name: &str, address: &str) -> String {
    format!("local-data: \"{name}.dns.podman. 0 IN A {address}\"\n")
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    child: Option<std::process::Child>,
    ready: Option<Duration>,
    first: Duration,
}

impl Running {
    /// User and system time of it and the children it waits for or has, in seconds.
    fn cpu(&self) -> f64 {
        let ticks = |pid: &str, fields: std::ops::Range<usize>| -> f64 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat
                .rsplit(") ")
                .next()
                .unwrap_or("")
                .split(' ')
                .skip(fields.start)
                .take(fields.len());
            fields.filter_map(|field| field.parse::<f64>().ok()).sum()
        };
        let pid = self.pid.to_string();
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children: f64 = children
            .split_whitespace()
            .map(|child| ticks(child, 11..13))
            .sum();
        (ticks(&pid, 11..15) + children) / 100.0
    }

    fn status(&self, key: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let value = line
            .and_then(|line| line.split_whitespace().next())
            .context("no such line")?;
        Ok(value.parse()?)
    }

    fn resident_mb(&self) -> Result<f64> {
        Ok(self.status("VmRSS")? / 1024.0)
    }

    fn descriptors(&self) -> Result<f64> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid))?.count() as f64)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill(self.pid, Signal::SIGTERM).ok();
        if let Some(child) = &mut self.child {
            let begin = Instant::now();
            while child.try_wait().is_ok_and(|status| status.is_none()) {
                if begin.elapsed() > Duration::from_secs(3) {
                    child.kill().ok();
                }
                thread::sleep(Duration::from_millis(5));
            }
            return;
        }
        let begin = Instant::now();
        while kill(self.pid, None).is_ok() {
            if begin.elapsed() > Duration::from_secs(3) {
                kill(self.pid, Signal::SIGKILL).ok();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

// The data.

/// One network with many containers, or many networks with few.
#[derive(Clone, Copy, Debug)]
struct Data {
    networks: u32,
    containers: u32,
}

impl Data {
    fn gateway(self, network: u32) -> String {
        if self.networks == 1 {
            GATEWAY.to_owned()
        } else {
            format!("10.89.{network}.1")
        }
    }

    fn address(self, network: u32, container: u32) -> String {
        if self.networks == 1 {
            format!("10.88.{}.{}", 1 + container / 250, 2 + container % 250)
        } else {
            format!("10.89.{network}.{}", 2 + container)
        }
    }

    fn name(self, network: u32, container: u32) -> String {
        if self.networks == 1 {
            format!("ctr{container}")
        } else {
            format!("ctr{network}-{container}")
        }
    }

    fn first_name(self) -> String {
        format!("{}.dns.podman", self.name(0, 0))
    }

    fn client(self) -> SocketAddr {
        (self.address(0, 0).parse::<IpAddr>().unwrap(), 0).into()
    }

    fn server(self) -> SocketAddr {
        (self.gateway(0).parse::<IpAddr>().unwrap(), 53).into()
    }

    /// All names of the first network, in an order that is not theirs.
    fn questions(self) -> Questions {
        let count = self.containers;
        let names = (0..count).map(|n| format!("{}.dns.podman", self.name(0, n * 7919 % count)));
        Questions::Listed(names.map(|name| query(&name)).collect())
    }

    /// The configuration of every responder.
    fn write(self, work: &Path) -> Result<()> {
        let directory = work.join("networks");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let (mut hosts, mut local, mut listen, mut interfaces) =
            (String::new(), String::new(), String::new(), String::new());
        for network in 0..self.networks {
            let gateway = self.gateway(network);
            let mut text = format!("{gateway}\n");
            writeln!(listen, "listen-address={gateway}")?;
            writeln!(interfaces, "  interface: {gateway}")?;
            for container in 0..self.containers {
                let (name, address) = (
                    self.name(network, container),
                    self.address(network, container),
                );
                let id = format!("{network:06x}{container:06x}");
                writeln!(text, "{id}{:052x} {address}  {name},{id}", 7)?;
                writeln!(hosts, "{address} {name}.dns.podman {id}.dns.podman")?;
                local += &unbound_line(&name, &address);
                local += &unbound_line(&id, &address);
            }
            fs::write(directory.join(format!("net{network}")), text)?;
        }
        fs::write(work.join("hosts"), hosts)?;
        fs::write(work.join("local-data"), local)?;
        let work = work.display();
        fs::write(
            format!("{work}/dnsmasq.conf"),
            format!(
                "port=53\nbind-interfaces\n{listen}no-hosts\nno-resolv\naddn-hosts={work}/hosts\nserver={UPSTREAM}\n\
                 local=/dns.podman/\ncache-size=10000\ndns-forward-max=10000\nuser=root\npid-file={work}/dnsmasq.pid\n"
            ),
        )?;
        fs::write(
            format!("{work}/unbound.conf"),
            format!(
                "server:\n{interfaces}  port: 53\n  access-control: 0.0.0.0/0 allow\n  do-daemonize: no\n  username: \"\"\n\
                 \x20 chroot: \"\"\n  directory: \"{work}\"\n  pidfile: \"\"\n  use-syslog: no\n  logfile: \"/dev/null\"\n\
                 \x20 module-config: \"iterator\"\n  do-not-query-localhost: no\n  num-threads: 1\n  so-rcvbuf: 4m\n\
                 \x20 minimal-responses: yes\n  local-zone: \"dns.podman.\" static\n  include: \"{work}/local-data\"\n\
                 forward-zone:\n  name: \".\"\n  forward-addr: {UPSTREAM}\nremote-control:\n  control-enable: no\n"
            ),
        )?;
        Ok(())
    }
}

/// A question for an address, with the id zero.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// What a generator asks.
#[derive(Clone, Debug)]
enum Questions {
    /// These, again and again.
    Listed(Vec<Vec<u8>>),
    /// A name that was never asked before.
    New { seed: u64 },
}

impl Questions {
    fn put(&self, number: u64, id: u16, buffer: &mut Vec<u8>) {
        buffer.clear();
        match self {
            Self::Listed(list) => {
                let count = u64::try_from(list.len()).unwrap();
                buffer.extend(&list[usize::try_from(number % count).unwrap()]);
            }
            Self::New { seed } => {
                let name = format!("h{seed:06x}{number:08x}.ext{}.example", number % 97);
                buffer.extend(query(&name));
            }
        }
        buffer[..2].copy_from_slice(&id.to_be_bytes());
    }
}

fn answers_within(data: &Data, name: &str, limit: Duration) -> Result<()> {
    let socket = UdpSocket::bind(data.client())?;
    socket.connect(data.server())?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let begin = Instant::now();
    let mut bytes = query(name);
    let mut buffer = [0; 1500];
    for id in 0..=u16::MAX {
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        socket.send(&bytes).ok(); // refused as long as nobody listens
        if let Ok(length) = socket.recv(&mut buffer)
            && length > 12
            && buffer[3] & 15 == 0
            && buffer[7] > 0
        {
            return Ok(());
        }
        ensure!(begin.elapsed() < limit, "no answer for {name}");
        thread::sleep(Duration::from_micros(50));
    }
    bail!("no answer for {name}")
}

// The generators.

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    answered: u64,
    failed: u64,
    lost: u64,
    seconds: f64,
    p50_us: f64,
}

const BATCH: usize = 64;

/// A socket of the closed loop: which ids are outstanding.
struct Lane {
    socket: std::os::fd::OwnedFd,
    waiting: Vec<bool>,
    outstanding: usize,
    next: u16,
}

fn lane(from: SocketAddr, to: SocketAddr) -> Result<Lane> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, RcvBufForce, &(4 << 20)).ok();
    setsockopt(&socket, SndBufForce, &(4 << 20)).ok();
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(Lane {
        socket,
        waiting: vec![false; 65536],
        outstanding: 0,
        next: 0,
    })
}

/// Sends datagrams, those of one length with one call, so that the generator is no slower than what it measures: the
/// kernel cuts them apart on the generator's side (`UDP_SEGMENT`). Says how many were sent; these are the first.
fn send_together(socket: &std::os::fd::OwnedFd, datagrams: &mut [Vec<u8>]) -> usize {
    datagrams.sort_by_key(Vec::len);
    let mut done = 0;
    for alike in datagrams.chunk_by(|a, b| a.len() == b.len()) {
        let slices: Vec<_> = alike.iter().map(|buffer| IoSlice::new(buffer)).collect();
        let length = u16::try_from(alike[0].len()).unwrap();
        let cut = [ControlMessage::UdpGsoSegments(&length)];
        let flags = MsgFlags::MSG_DONTWAIT;
        match sendmsg::<()>(socket.as_raw_fd(), &slices, &cut, flags, None) {
            Ok(_) => done += alike.len(),
            Err(_) => break, // full, or the responder is gone: seen as lost
        }
    }
    done
}

/// Keeps `window` questions outstanding on each of `sockets` sockets.
fn udp_load(
    from: SocketAddr,
    to: SocketAddr,
    questions: &Questions,
    seconds: f64,
    sockets: usize,
    window: usize,
) -> Result<Load> {
    let mut lanes = (0..sockets)
        .map(|_| lane(from, to))
        .collect::<Result<Vec<_>>>()?;
    let mut room = Room::new();
    let (mut load, mut number) = (Load::default(), 0);
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    let mut last = begin;
    while Instant::now() < end {
        let mut progress = false;
        for lane in &mut lanes {
            lane.send(&mut room, questions, &mut number, window)?;
            progress |= lane.receive(&mut room, &mut load);
        }
        if progress {
            last = Instant::now();
            continue;
        }
        await_answers(&lanes)?;
        if last.elapsed() > Duration::from_millis(500) {
            for lane in &mut lanes {
                load.lost += u64::try_from(std::mem::take(&mut lane.outstanding))?;
                lane.waiting.fill(false);
            }
            last = Instant::now();
        }
    }
    load.seconds = begin.elapsed().as_secs_f64();
    Ok(load)
}

fn await_answers(lanes: &[Lane]) -> Result<()> {
    let sockets = lanes.iter().map(|lane| lane.socket.as_fd());
    let mut waits: Vec<_> = sockets
        .map(|socket| PollFd::new(socket, PollFlags::POLLIN))
        .collect();
    poll(&mut waits, PollTimeout::from(20_u8))?;
    Ok(())
}

/// Where datagrams lie on their way.
struct Room {
    headers: MultiHeaders<SockaddrIn>,
    sent: Vec<Vec<u8>>,
    received: Vec<[u8; 1500]>,
}

impl Room {
    fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            sent: vec![Vec::new(); BATCH],
            received: vec![[0; 1500]; BATCH],
        }
    }
}

impl Lane {
    /// Asks as many questions as the window and the socket have room for, from `number` on.
    fn send(
        &mut self,
        room: &mut Room,
        questions: &Questions,
        number: &mut u64,
        window: usize,
    ) -> Result<()> {
        while self.outstanding < window {
            let count = (window - self.outstanding).min(BATCH);
            let sent = &mut room.sent[..count];
            for (offset, buffer) in sent.iter_mut().enumerate() {
                let id = self.next.wrapping_add(u16::try_from(offset)?);
                questions.put(*number + u64::try_from(offset)?, id, buffer);
            }
            let done = send_together(&self.socket, sent);
            for buffer in &sent[..done] {
                self.waiting[id(buffer)] = true;
            }
            self.next = self.next.wrapping_add(u16::try_from(count)?);
            self.outstanding += done;
            *number += u64::try_from(count)?;
            if done < count {
                break;
            }
        }
        Ok(())
    }

    /// Takes answers that are there. Says whether there are any.
    fn receive(&mut self, room: &mut Room, load: &mut Load) -> bool {
        let buffers = room.received.iter_mut();
        let mut slices: Vec<_> = buffers.map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let results = recvmmsg(fd, &mut room.headers, slices.iter_mut(), flags, None);
        let Ok(results) = results else { return false };
        let lengths: Vec<_> = results.map(|result| result.bytes).collect();
        let mut progress = false;
        for (buffer, length) in room.received.iter().zip(lengths) {
            if length >= 12 && std::mem::take(&mut self.waiting[id(buffer)]) {
                self.outstanding -= 1;
                load.answered += 1;
                load.failed += u64::from(buffer[3] & 15 != 0);
                progress = true;
            }
        }
        progress
    }
}

fn id(datagram: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([datagram[0], datagram[1]]))
}

/// One question at a time.
fn one_at_a_time(
    from: SocketAddr,
    to: SocketAddr,
    questions: &Questions,
    seconds: f64,
) -> Result<Load> {
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (mut load, mut times) = (Load::default(), Vec::new());
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1500]);
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed().as_secs_f64() < seconds {
        let id = u16::try_from(number & 0xffff)?;
        questions.put(number, id, &mut bytes);
        let sent = Instant::now();
        socket.send(&bytes)?;
        let answered = loop {
            match socket.recv(&mut buffer) {
                Ok(_) if buffer[..2] == bytes[..2] => break true,
                Ok(_) => {} // late, to a question given up
                Err(_) => break false,
            }
        };
        if answered {
            times.push(sent.elapsed().as_secs_f64() * 1e6);
            load.answered += 1;
        } else {
            load.lost += 1;
        }
        number += 1;
    }
    load.seconds = begin.elapsed().as_secs_f64();
    load.p50_us = median(&mut times);
    Ok(load)
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    outstanding: usize,
}

impl Connection {
    fn open(from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            outstanding: 0,
        })
    }
}

/// Ten questions outstanding on each of ten connections.
fn tcp_load(from: SocketAddr, to: SocketAddr, questions: &Questions, seconds: f64) -> Result<Load> {
    let mut connections = (0..10)
        .map(|_| Connection::open(from, to))
        .collect::<Result<Vec<_>>>()?;
    let (mut load, mut number) = (Load::default(), 0_u64);
    let (mut bytes, mut output, mut buffer) = (Vec::new(), Vec::new(), vec![0; 65536]);
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < seconds {
        for connection in &mut connections {
            output.clear();
            while connection.outstanding < 10 {
                questions.put(number, u16::try_from(number & 0xffff)?, &mut bytes);
                output.extend(u16::try_from(bytes.len())?.to_be_bytes());
                output.extend(&bytes);
                connection.outstanding += 1;
                number += 1;
            }
            let written = output.is_empty() || connection.stream.write_all(&output).is_ok();
            match connection.stream.read(&mut buffer) {
                Err(error) if written && error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Ok(length @ 1..) => connection.input.extend(&buffer[..length]),
                // Some take only so many questions on one.
                Ok(_) | Err(_) => {
                    *connection = Connection::open(from, to)?;
                    continue;
                }
            }
            let mut at = 0;
            while let Some(head) = connection.input.get(at..at + 2) {
                let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
                if connection.input.len() < at + 2 + length {
                    break;
                }
                at += 2 + length;
                connection.outstanding -= 1;
                load.answered += 1;
            }
            connection.input.drain(..at);
        }
        if connections
            .iter()
            .all(|connection| connection.outstanding == 10)
        {
            let mut waits: Vec<_> = connections
                .iter()
                .map(|connection| PollFd::new(connection.stream.as_fd(), PollFlags::POLLIN))
                .collect();
            poll(&mut waits, PollTimeout::from(20_u8))?;
        }
    }
    load.seconds = begin.elapsed().as_secs_f64();
    Ok(load)
}

/// An upstream that gives every A question the same address, until dropped. `answers: false`: takes all, says nothing.
struct Upstream {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Upstream {
    fn start(answers: bool) -> Result<Self> {
        let socket = UdpSocket::bind((UPSTREAM, 53))?;
        setsockopt(&socket, RcvBufForce, &(4 << 20)).ok();
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // One set for each direction: sending leaves pointers to its own addresses behind, which receiving would write to.
            let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
            let mut sending = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
            let mut buffers = vec![[0_u8; 1500]; BATCH];
            while !stopped.load(Ordering::Relaxed) {
                let mut slices: Vec<_> = buffers
                    .iter_mut()
                    .map(|buffer| [IoSliceMut::new(buffer)])
                    .collect();
                let got: Vec<_> = match recvmmsg(
                    socket.as_raw_fd(),
                    &mut headers,
                    slices.iter_mut(),
                    MsgFlags::MSG_WAITFORONE,
                    None,
                ) {
                    Ok(results) => results
                        .map(|result| (result.bytes, result.address))
                        .collect(),
                    Err(_) => continue,
                };
                if !answers {
                    continue;
                }
                let mut lengths = Vec::new();
                for (buffer, (length, _)) in buffers.iter_mut().zip(&got) {
                    lengths.push(answer(buffer, *length));
                }
                let slices: Vec<_> = buffers
                    .iter()
                    .zip(&lengths)
                    .map(|(buffer, length)| [IoSlice::new(&buffer[..*length])])
                    .collect();
                let addresses: Vec<_> = got.iter().map(|(_, address)| *address).collect();
                let mut at = 0;
                while at < slices.len() {
                    match sendmmsg(
                        socket.as_raw_fd(),
                        &mut sending,
                        &slices[at..],
                        &addresses[at..],
                        [],
                        MsgFlags::empty(),
                    ) {
                        Ok(results) => at += results.count().max(1),
                        Err(_) => at += 1,
                    }
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Turns a question into its answer: the records after the question, such as EDNS, go.
fn answer(buffer: &mut [u8; 1500], length: usize) -> usize {
    let mut at = 12;
    while at < length && buffer[at] != 0 {
        at += usize::from(buffer[at]) + 1;
    }
    let end = at + 5;
    if end + 16 > buffer.len() || end > length {
        return length;
    }
    buffer[2] |= 0x80;
    buffer[3] = 0x80;
    buffer[6..12].copy_from_slice(&[0, 0, 0, 0, 0, 0]);
    if buffer[at + 2] == 1 {
        buffer[7] = 1;
        buffer[end..end + 16]
            .copy_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1]);
        return end + 16;
    }
    end
}

// The measurements.

#[derive(Debug)]
struct Bench {
    options: Options,
    servers: Vec<Responder>,
    /// Measurement, figure, responder, value.
    figures: Vec<(&'static str, &'static str, String, f64)>,
}

/// What is required of us: measurement, figure, bound, and whether more is better. A ratio to the first responder
/// unless absolute.
const TARGETS: [(&str, &str, f64, Bound); 14] = [
    ("udp-100", "q/s", 2.3, Bound::AtLeast),
    ("udp-100", "us CPU/q", 0.35, Bound::AtMost),
    ("tcp-100", "q/s", 1.5, Bound::AtLeast),
    ("rtt", "p50 us", 0.6, Bound::AtMost),
    ("forward", "q/s", 2.0, Bound::AtLeast),
    ("forward", "us CPU/q", 0.5, Bound::AtMost),
    ("reload-10000", "ms", 0.15, Bound::AtMost),
    ("reload-200x50", "ms", 0.05, Bound::AtMost),
    ("start-100", "ready ms", 0.7, Bound::AtMost),
    ("start-10000", "ready ms", 0.35, Bound::AtMost),
    ("memory-1x1", "MB", 2.5, Bound::Absolute),
    ("memory-200x50", "MB", 6.0, Bound::Absolute),
    ("reload-10000", "MB after", 8.0, Bound::Absolute),
    ("dead-upstream", "descriptors", 256.0, Bound::Absolute),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast,
    AtMost,
    Absolute,
}

impl Bench {
    fn wanted(&self, measurement: &str) -> bool {
        self.options.only.is_empty()
            || self
                .options
                .only
                .iter()
                .any(|only| measurement.starts_with(&**only))
    }

    fn note(
        &mut self,
        measurement: &'static str,
        figure: &'static str,
        server: &Responder,
        value: f64,
    ) {
        self.figures
            .push((measurement, figure, server.name.clone(), value));
    }

    /// Each responder in turn, several rounds, with the data in place.
    fn rounds(
        &mut self,
        measurement: &'static str,
        networks: u32,
        containers: u32,
        measure: impl Fn(&mut Self, &Responder, &Data) -> Result<()>,
    ) -> Result<()> {
        if !self.wanted(measurement) {
            return Ok(());
        }
        eprintln!("{measurement} ...");
        let data = Data {
            networks,
            containers,
        };
        let mut failed = Vec::new();
        for _ in 0..self.options.rounds {
            for server in self.servers.clone() {
                if failed.contains(&server.name) {
                    continue;
                }
                data.write(&self.options.work)?;
                if let Err(error) = measure(self, &server, &data) {
                    eprintln!("{measurement}: {} left out: {error:#}", server.name);
                    failed.push(server.name);
                }
            }
        }
        Ok(())
    }

    fn load(
        &mut self,
        measurement: &'static str,
        server: &Responder,
        running: &Running,
        run: impl FnOnce(&Options) -> Result<Load>,
    ) -> Result<()> {
        let before = running.cpu();
        let load = run(&self.options)?;
        let cpu = running.cpu() - before;
        ensure!(load.answered > 0, "nothing was answered");
        ensure!(kill(running.pid, None).is_ok(), "it did not survive");
        let answered = load.answered as f64;
        if load.p50_us > 0.0 {
            self.note(measurement, "p50 us", server, load.p50_us);
        } else {
            self.note(measurement, "q/s", server, answered / load.seconds);
            if load.lost > 0 {
                self.note(measurement, "lost", server, load.lost as f64);
            }
        }
        if load.failed > 0 {
            self.note(measurement, "failed", server, load.failed as f64);
        }
        self.note(measurement, "us CPU/q", server, cpu / answered * 1e6);
        Ok(())
    }

    fn all(&mut self) -> Result<()> {
        for (name, containers) in [("udp-100", 100), ("udp-5000", 5000)] {
            self.rounds(name, 1, containers, |bench, server, data| {
                let running = server.start(&bench.options.work, data)?;
                let questions = data.questions();
                bench.load(name, server, &running, |options| {
                    udp_load(
                        data.client(),
                        data.server(),
                        &questions,
                        options.seconds,
                        4,
                        64,
                    )
                })
            })?;
        }
        // Each asker has one question at a time: neither side can send several together.
        self.rounds("udp-each", 1, 100, |bench, server, data| {
            let running = server.start(&bench.options.work, data)?;
            let questions = data.questions();
            bench.load("udp-each", server, &running, |options| {
                udp_load(
                    data.client(),
                    data.server(),
                    &questions,
                    options.seconds,
                    64,
                    1,
                )
            })
        })?;
        self.rounds("tcp-100", 1, 100, |bench, server, data| {
            let running = server.start(&bench.options.work, data)?;
            let questions = data.questions();
            bench.load("tcp-100", server, &running, |options| {
                tcp_load(data.client(), data.server(), &questions, options.seconds)
            })
        })?;
        self.rounds("rtt", 1, 100, |bench, server, data| {
            let running = server.start(&bench.options.work, data)?;
            let questions = data.questions();
            bench.load("rtt", server, &running, |options| {
                one_at_a_time(data.client(), data.server(), &questions, options.seconds)
            })
        })?;
        self.forwarding()?;
        self.reloading()?;
        self.starting()?;
        self.memory()?;
        self.dead_upstream()
    }

    fn forwarding(&mut self) -> Result<()> {
        self.rounds("forward", 1, 100, |bench, server, data| {
            let _upstream = Upstream::start(true)?;
            let running = server.start(&bench.options.work, data)?;
            bench.load("forward", server, &running, |options| {
                udp_load(
                    data.client(),
                    data.server(),
                    &Questions::New { seed: 1 },
                    options.seconds,
                    4,
                    25,
                )
            })
        })?;
        self.rounds("forward-rtt", 1, 100, |bench, server, data| {
            let _upstream = Upstream::start(true)?;
            let running = server.start(&bench.options.work, data)?;
            bench.load("forward-rtt", server, &running, |options| {
                one_at_a_time(
                    data.client(),
                    data.server(),
                    &Questions::New { seed: 2 },
                    options.seconds,
                )
            })
        })?;
        self.rounds("cached", 1, 100, |bench, server, data| {
            let _upstream = Upstream::start(true)?;
            let running = server.start(&bench.options.work, data)?;
            let names = (0..100).map(|number| query(&format!("www{number}.example")));
            let questions = Questions::Listed(names.collect());
            one_at_a_time(data.client(), data.server(), &questions, 0.1)?;
            bench.load("cached", server, &running, |options| {
                udp_load(
                    data.client(),
                    data.server(),
                    &questions,
                    options.seconds,
                    4,
                    64,
                )
            })
        })
    }

    fn reloading(&mut self) -> Result<()> {
        for (name, networks, containers) in
            [("reload-10000", 1, 10_000), ("reload-200x50", 200, 50)]
        {
            self.rounds(name, networks, containers, |bench, server, data| {
                let running = server.start(&bench.options.work, data)?;
                let address = |number: usize| {
                    if networks == 1 {
                        format!("10.88.200.{}", number % 250)
                    } else {
                        format!("10.89.0.{}", 100 + number % 150)
                    }
                };
                for number in 0..3 {
                    thread::sleep(Duration::from_millis(100));
                    let begin = Instant::now();
                    server.add(
                        &bench.options.work,
                        &running,
                        &format!("new{number}"),
                        &address(number),
                    )?;
                    answers_within(
                        data,
                        &format!("new{number}.dns.podman"),
                        Duration::from_secs(30),
                    )?;
                    bench.note(name, "ms", server, begin.elapsed().as_secs_f64() * 1e3);
                }
                if networks == 1 && !matches!(server.kind, Kind::Unbound) {
                    for number in 3..bench.options.reloads {
                        server.add(
                            &bench.options.work,
                            &running,
                            &format!("new{number}"),
                            &address(number),
                        )?;
                        if number % 10 == 0 || number + 1 == bench.options.reloads {
                            answers_within(
                                data,
                                &format!("new{number}.dns.podman"),
                                Duration::from_secs(30),
                            )?;
                        }
                    }
                    bench.note(name, "MB after", server, running.resident_mb()?);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn starting(&mut self) -> Result<()> {
        for (name, containers) in [("start-100", 100), ("start-10000", 10_000)] {
            self.rounds(name, 1, containers, |bench, server, data| {
                let running = server.start(&bench.options.work, data)?;
                if let Some(ready) = running.ready {
                    bench.note(name, "ready ms", server, ready.as_secs_f64() * 1e3);
                }
                bench.note(name, "answer ms", server, running.first.as_secs_f64() * 1e3);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<()> {
        for (name, networks, containers) in [("memory-1x1", 1, 1), ("memory-200x50", 200, 50)] {
            self.rounds(name, networks, containers, |bench, server, data| {
                let running = server.start(&bench.options.work, data)?;
                thread::sleep(Duration::from_millis(500));
                bench.note(name, "MB", server, running.resident_mb()?);
                bench.note(
                    name,
                    "MB anonymous",
                    server,
                    running.status("RssAnon")? / 1024.0,
                );
                bench.note(name, "threads", server, running.status("Threads")?);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// 500 questions a second that nobody answers, for as long as the incumbent keeps them.
    fn dead_upstream(&mut self) -> Result<()> {
        self.rounds("dead-upstream", 1, 100, |bench, server, data| {
            let _upstream = Upstream::start(false)?;
            let running = server.start(&bench.options.work, data)?;
            let socket = UdpSocket::bind("10.88.1.3:0")?;
            socket.connect(data.server())?;
            let begin = Instant::now();
            let (mut descriptors, mut sent, mut buffer) = (0.0_f64, 0_u64, Vec::new());
            let questions = Questions::New { seed: 3 };
            let asker = thread::spawn(move || {
                while begin.elapsed() < Duration::from_secs(5) {
                    let due = u64::try_from(begin.elapsed().as_millis() / 2).unwrap();
                    while sent < due {
                        questions.put(sent, u16::try_from(sent & 0xffff).unwrap(), &mut buffer);
                        socket.send(&buffer).ok();
                        sent += 1;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            thread::sleep(Duration::from_secs(2));
            let load = one_at_a_time(data.client(), data.server(), &data.questions(), 1.0)?;
            while !asker.is_finished() {
                descriptors = descriptors.max(running.descriptors()?);
                thread::sleep(Duration::from_millis(50));
            }
            bench.note("dead-upstream", "descriptors", server, descriptors);
            bench.note("dead-upstream", "local p50 us", server, load.p50_us);
            bench.note("dead-upstream", "MB", server, running.resident_mb()?);
            Ok(())
        })
    }

    // The table.

    fn print(&self) {
        let mut medians: BTreeMap<(&str, &str, &str), f64> = BTreeMap::new();
        let mut order: Vec<(&str, &str)> = Vec::new();
        for (measurement, figure, _, _) in &self.figures {
            if !order.contains(&(measurement, figure)) {
                order.push((measurement, figure));
            }
        }
        for (measurement, figure) in &order {
            for server in &self.servers {
                let same = self
                    .figures
                    .iter()
                    .filter(|(m, f, s, _)| m == measurement && f == figure && *s == server.name);
                let mut values: Vec<_> = same.map(|(_, _, _, value)| *value).collect();
                if !values.is_empty() {
                    medians.insert((measurement, figure, &server.name), median(&mut values));
                }
            }
        }
        let first = &*self.servers[0].name;
        print!("{:14} {:13}", "measurement", "figure");
        for server in &self.servers {
            print!(" {:>18}", server.name);
        }
        println!("   wanted of dnsd");
        for (measurement, figure) in order {
            print!("{measurement:14} {figure:13}");
            let reference = medians.get(&(measurement, figure, first));
            for server in &self.servers {
                let Some(value) = medians.get(&(measurement, figure, &*server.name)) else {
                    print!(" {:>18}", "-");
                    continue;
                };
                let shown = if *value >= 100.0 {
                    format!("{value:.0}")
                } else {
                    format!("{value:.2}")
                };
                match reference {
                    Some(reference) if server.name != first && *reference > 0.0 => {
                        print!(" {shown:>10} {:>7}", format!("x{:.2}", value / reference));
                    }
                    _ => print!(" {shown:>18}"),
                }
            }
            println!(
                "   {}",
                verdict(measurement, figure, &medians, reference).unwrap_or_default()
            );
        }
        for (text, measurement, server, other_measurement, other) in [
            (
                "5,000 names to 100 (wanted: at least 0.95)",
                "udp-5000",
                "dnsd",
                "udp-100",
                "dnsd",
            ),
            (
                "cached to local (wanted: the same speed)",
                "cached",
                "dnsd",
                "udp-100",
                "dnsd",
            ),
            (
                "local names to unbound with one thread (wanted: more than 1)",
                "udp-100",
                "dnsd",
                "udp-100",
                "unbound",
            ),
        ] {
            let value = medians.get(&(measurement, "q/s", server));
            let other = medians.get(&(other_measurement, "q/s", other));
            if let (Some(value), Some(other)) = (value, other) {
                println!("dnsd, {text}: x{:.2}", value / other);
            }
        }
    }
}

fn verdict(
    measurement: &str,
    figure: &str,
    medians: &BTreeMap<(&str, &str, &str), f64>,
    reference: Option<&f64>,
) -> Option<String> {
    let (_, _, bound, kind) = TARGETS
        .iter()
        .find(|(m, f, _, _)| *m == measurement && *f == figure)?;
    let value = medians.get(&(measurement, figure, "dnsd"));
    let (sign, seen) = match kind {
        Bound::AtLeast => (
            ">= x",
            value
                .zip(reference)
                .map(|(value, reference)| value / reference),
        ),
        Bound::AtMost => (
            "<= x",
            value
                .zip(reference)
                .map(|(value, reference)| value / reference),
        ),
        Bound::Absolute => ("<= ", value.copied()),
    };
    let met = match seen {
        Some(seen)
            if (*kind == Bound::AtLeast && seen >= *bound)
                || (*kind != Bound::AtLeast && seen <= *bound) =>
        {
            " met"
        }
        Some(_) => " NOT MET",
        None => "",
    };
    Some(format!("{sign}{bound}{met}"))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        length => f64::midpoint(values[(length - 1) / 2], values[length / 2]),
    }
}
