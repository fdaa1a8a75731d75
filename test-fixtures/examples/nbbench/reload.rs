//! The time of writing all rules anew, and what it does to flows through a published port.
//!
//! A UDP flow of numbered datagrams and a TCP connection run from a machine outside to the first container while a
//! program reloads. Datagrams are sent at a rate that the host carries with ease, so that none is lost but by rules that are
//! missing; between two of them pass 50 µs or more. The TCP connection tells by its retransmissions.
//!
//! Both programs reload the same host, set up by ours, from the same state files, which are those of netavark: to set up
//! so many containers takes netavark very long.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use test_fixtures::netns::Netns;

use crate::site::{CONTAINER_PORT, Layout, Tool};
use crate::traffic::{Lane, published, wired};
use crate::{Options, median, note};

/// The containers of the record, and of a quick look.
const CONTAINERS: usize = 1000;
const CONTAINERS_QUICK: usize = 100;

const ROUNDS: usize = 15;
/// Netavark adds rules with each reload, and takes longer each time.
const ROUNDS_NETAVARK: usize = 1;

const PAUSE: Duration = Duration::from_micros(50);
const SILENCE: Duration = Duration::from_millis(500);
const RECEIVE_BUFFER: usize = 16 << 20;

/// What came of one program's reloads.
struct Outcome {
    /// Of the first reload, after somebody took the table away.
    flushed: f64,
    walls: Vec<f64>,
    cpus: Vec<f64>,
    flows: Flows,
    /// Rules and elements before the first reload and after the last.
    rules: [usize; 2],
    same: bool,
}

/// What two flows saw.
struct Flows {
    sent: u64,
    received: u64,
    tcp_bytes: u64,
    retransmitted: u64,
}

pub(crate) fn report(options: &Options, netavark: &Tool, ours: &Tool) -> Result<String> {
    let containers = if options.quick {
        CONTAINERS_QUICK
    } else {
        CONTAINERS
    };
    let lane = wired(ours, "reload", containers, Layout::Spread)?;
    let mut outcomes = Vec::new();
    for (tool, rounds) in [(ours, ROUNDS), (netavark, ROUNDS_NETAVARK)] {
        note(&format!(
            "reload of {containers} containers by {}",
            tool.name
        ));
        outcomes.push((tool.name, outcome(&lane, tool, rounds)?));
    }
    Ok(table(&outcomes, containers))
}

fn outcome(lane: &Lane<'_>, tool: &Tool, rounds: usize) -> Result<Outcome> {
    let listing = || lane.site.host().sh("nft list table inet netavark");
    lane.site.host().sh("nft delete table inet netavark")?;
    let flushed = lane.site.reload(tool)?.wall;
    let before = listing()?;
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    let flows = beside_flows(lane, || {
        for _ in 0..rounds {
            let cost = lane.site.reload(tool)?;
            walls.push(cost.wall);
            cpus.push(cost.cpu);
        }
        Ok(())
    })?;
    let after = listing()?;
    Ok(Outcome {
        flushed,
        walls,
        cpus,
        flows,
        rules: [&before, &after].map(|text| text.lines().count()),
        same: before == after,
    })
}

/// Does something while datagrams and a TCP connection pass the ports of the first container.
fn beside_flows(lane: &Lane<'_>, work: impl FnOnce() -> Result<()>) -> Result<Flows> {
    let container = lane.site.container(0).context("there is no container")?;
    let receiver = container.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CONTAINER_PORT)).context("listen")?;
        socket.set_read_timeout(Some(SILENCE))?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).context("enlarge a buffer")?;
        Ok(socket)
    })?;
    let sender = lane.outside.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("send")?;
        socket.connect(published(1)?).context("connect")?;
        Ok(socket)
    })?;
    let listener = container
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, CONTAINER_PORT)).context("listen"))?;
    let stream = lane
        .outside
        .enter(|| TcpStream::connect(published(0)?).context("connect"))?;
    let before = retransmitted(&lane.outside)?;
    let stop = AtomicBool::new(false);
    let (sent, received, tcp_bytes) = thread::scope(|scope| -> Result<_> {
        let sending = scope.spawn(|| send_numbers(&sender, &stop));
        let receiving = scope.spawn(|| count_numbers(&receiver));
        let writing = scope.spawn(|| write_paced(stream, &stop));
        let reading = scope.spawn(|| read_all(&listener));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let sent = sending.join().expect("the sender does not panic");
        let received = receiving.join().expect("the receiver does not panic");
        let written = writing.join().expect("the writer does not panic")?;
        let read = reading.join().expect("the reader does not panic")?;
        ensure!(written == read, "TCP: {written} bytes written, {read} read");
        done.map(|()| (sent, received, read))
    })?;
    Ok(Flows {
        sent,
        received,
        tcp_bytes,
        retransmitted: retransmitted(&lane.outside)? - before,
    })
}

fn send_numbers(socket: &UdpSocket, stop: &AtomicBool) -> u64 {
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        if socket.send(&number.to_ne_bytes()).is_ok() {
            number += 1;
        }
        thread::sleep(PAUSE);
    }
    number
}

fn count_numbers(socket: &UdpSocket) -> u64 {
    let mut count = 0;
    let mut buffer = [0; 8];
    while socket.recv(&mut buffer).is_ok() {
        count += 1;
    }
    count
}

/// A block every few hundred microseconds: what is lost is sent again, and shows.
fn write_paced(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64> {
    let block = [0; 8 << 10];
    let mut written = 0;
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) || begin.elapsed() < SILENCE {
        stream.write_all(&block).context("the connection broke")?;
        written += block.len() as u64;
        thread::sleep(4 * PAUSE);
    }
    Ok(written)
}

fn read_all(listener: &TcpListener) -> Result<u64> {
    let (mut stream, _) = listener.accept().context("nobody came")?;
    let mut buffer = vec![0; 64 << 10];
    let mut count = 0;
    loop {
        match stream.read(&mut buffer).context("the connection broke")? {
            0 => return Ok(count),
            some => count += some as u64,
        }
    }
}

/// Segments that a namespace has sent again.
fn retransmitted(netns: &Netns) -> Result<u64> {
    let text = netns.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = lines.next().zip(lines.next()).context("no TCP counters")?;
    let found = names
        .split(' ')
        .zip(values.split(' '))
        .find(|(name, _)| *name == "RetransSegs");
    let (_, value) = found.context("no counter of retransmissions")?;
    value.parse().context("a counter is a number")
}

fn table(outcomes: &[(&str, Outcome)], containers: usize) -> String {
    let mut text = format!(
        "Reload of {containers} containers of two ports: milliseconds, medians; flows meanwhile\n\
         program  | flushed |    wall     cpu     last | udp sent     lost | tcp MiB  sent again | lines before    after\n"
    );
    for (name, outcome) in outcomes {
        let flows = &outcome.flows;
        let end = |wall: Option<&f64>| wall.copied().unwrap_or(f64::NAN);
        writeln!(
            text,
            "{name:8} | {:7.1} | {:7.1} {:7.1} {:8.1} | {:8} {:8} | {:7} {:11} | {:12} {:8} {}",
            outcome.flushed,
            median(outcome.walls.clone()),
            median(outcome.cpus.clone()),
            end(outcome.walls.last()),
            flows.sent,
            flows.sent - flows.received,
            flows.tcp_bytes >> 20,
            flows.retransmitted,
            outcome.rules[0],
            outcome.rules[1],
            if outcome.same { "(the same)" } else { "" },
        )
        .expect("a string takes everything");
    }
    if let [(_, ours), (_, netavark)] = outcomes {
        let [ours, netavark] = [ours, netavark].map(|outcome| outcome.flushed);
        writeln!(
            text,
            "ours/netavark, after a flush: 1/{:.0}",
            netavark / ours
        )
        .expect("a string takes everything");
    }
    text
}
