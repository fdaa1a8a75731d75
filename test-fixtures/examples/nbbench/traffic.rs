//! Packets and bytes through a published port, beside few and many networks.
//!
//! One thread in a namespace "outside", wired to the host by a veth pair, sends to the port as fast as it can; one in
//! the container receives. What is counted is what arrives.

use std::fmt::Write as _;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt,
};
use test_fixtures::netns::Netns;

use crate::site::{CONTAINER_PORT, Layout, Ports, Site, Tool, host_port};
use crate::{Options, median, note};

const FEW: usize = 1;
const MANY: usize = 200;

const ROUNDS: usize = 9;
const ROUNDS_QUICK: usize = 3;

/// How long a flow is looked at, once it runs.
const WINDOW: Duration = Duration::from_millis(700);

/// How long it takes until it does.
const START: Duration = Duration::from_millis(100);

const TICK: Duration = Duration::from_millis(20);

/// Bytes of data in a datagram.
const DATAGRAM: usize = 64;

/// Datagrams in a system call.
const BATCH: usize = 64;

/// Bytes that wait in the receiver's socket: the sender shall not depend on when it is scheduled.
const RECEIVE_BUFFER: usize = 16 << 20;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A host with containers, and a machine outside.
pub(crate) struct Lane<'a> {
    networks: usize,
    pub(crate) site: Site<'a>,
    pub(crate) outside: Netns,
    /// By [`UNITS`], then by round.
    rates: [Vec<f64>; 2],
}

/// What is measured, and what of it makes one of the unit.
const UNITS: [(&str, f64); 2] = [("udp kpps", 1e3), ("tcp Gbit/s", 1e9 / 8.0)];

pub(crate) fn report(options: &Options, netavark: &Tool, ours: &Tool) -> Result<String> {
    let rounds = if options.quick { ROUNDS_QUICK } else { ROUNDS };
    let mut lanes = Vec::new();
    for networks in [FEW, MANY] {
        for tool in [netavark, ours] {
            note(&format!("{networks} networks by {}", tool.name));
            lanes.push(lane(tool, networks)?);
        }
    }
    note(&format!("{rounds} rounds of traffic"));
    for round in 0..=rounds {
        for lane in &mut lanes {
            let container = lane.site.container(0).context("there is no container")?;
            let rates = [
                packets_per_second(&lane.outside, container)?,
                bytes_per_second(&lane.outside, container)?,
            ];
            if round > 0 {
                for (rates, rate) in lane.rates.iter_mut().zip(rates) {
                    rates.push(rate);
                }
            }
        }
        lanes.reverse();
    }
    Ok(table(&lanes, rounds))
}

fn lane<'a>(tool: &'a Tool, networks: usize) -> Result<Lane<'a>> {
    let name = format!("traffic-{networks}");
    wired(tool, &name, networks, Layout::Each)
}

/// A host with so many containers, and a machine outside.
pub(crate) fn wired<'a>(
    tool: &'a Tool,
    name: &str,
    containers: usize,
    layout: Layout,
) -> Result<Lane<'a>> {
    let networks = layout.networks(containers);
    let mut site = Site::new(tool, name, networks)?;
    let outside = site.new_netns("outside")?;
    site.host().sh(&format!(
        "ip link add uplink type veth peer name eth0 netns {}
         ip addr add {HOST}/24 dev uplink
         ip link set uplink up",
        outside
            .path()
            .file_name()
            .context("a namespace has a name")?
            .display()
    ))?;
    outside.sh("ip link set lo up; ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up")?;
    site.fill(containers, Ports::TcpAndUdp)?;
    Ok(Lane {
        networks,
        site,
        outside,
        rates: [Vec::new(), Vec::new()],
    })
}

/// Datagrams that arrive in a second.
fn packets_per_second(outside: &Netns, container: &Netns) -> Result<f64> {
    let receiver = container.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CONTAINER_PORT))
            .context("cannot listen in the container")?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).context("cannot enlarge a buffer")?;
        socket
            .set_read_timeout(Some(TICK))
            .context("cannot set a time limit")?;
        Ok(socket)
    })?;
    let sender = outside.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot send")?;
        socket
            .connect(published(1)?)
            .context("cannot send to the port")?;
        Ok(socket)
    })?;
    measure(
        |stop| send_datagrams(&sender, stop),
        |until| receive_datagrams(&receiver, until),
    )
}

/// Bytes of one TCP connection that arrive in a second.
fn bytes_per_second(outside: &Netns, container: &Netns) -> Result<f64> {
    let listener = container.enter(|| {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, CONTAINER_PORT))
            .context("cannot listen in the container")
    })?;
    let mut sender =
        outside.enter(|| TcpStream::connect(published(0)?).context("cannot reach the port"))?;
    let (mut receiver, _) = listener.accept().context("cannot accept")?;
    sender
        .set_write_timeout(Some(TICK))
        .context("cannot set a time limit")?;
    receiver
        .set_read_timeout(Some(TICK))
        .context("cannot set a time limit")?;
    let mut buffer = vec![0; 1 << 18];
    measure(
        |stop| {
            let block = vec![0; 1 << 17];
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = sender.write(&block)
                    && error.kind() != ErrorKind::WouldBlock
                {
                    return Err(error).context("cannot send");
                }
            }
            Ok(())
        },
        |until| {
            let mut bytes = 0;
            while Instant::now() < until {
                match receiver.read(&mut buffer) {
                    Ok(length) => bytes += length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("cannot receive"),
                }
            }
            Ok(bytes)
        },
    )
}

/// What arrives in a second, when one thread sends until it is told to stop and this one receives until a moment.
fn measure(
    send: impl FnOnce(&AtomicBool) -> Result<()> + Send,
    mut receive: impl FnMut(Instant) -> Result<usize>,
) -> Result<f64> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&stop));
        let mut count = || {
            receive(Instant::now() + START)?;
            let begin = Instant::now();
            let arrived = receive(begin + WINDOW)?;
            let seconds = begin.elapsed().as_secs_f64();
            let arrived = u32::try_from(arrived / 16).context("too much arrived to count")?;
            Ok(f64::from(arrived) * 16.0 / seconds)
        };
        let rate = count();
        stop.store(true, Ordering::Relaxed);
        sending
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        rate
    })
}

fn send_datagrams(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    let data = [0; DATAGRAM];
    let slices = vec![[IoSlice::new(&data)]; BATCH];
    let nowhere_else: Vec<Option<SockaddrIn>> = vec![None; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let none: [ControlMessage<'_>; 0] = [];
    while !stop.load(Ordering::Relaxed) {
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            &nowhere_else,
            none,
            MsgFlags::empty(),
        );
        match sent {
            // A refusal is about an earlier datagram, when the receiver was not there yet.
            Ok(_) | Err(Errno::ECONNREFUSED | Errno::ENOBUFS | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno).context("cannot send"),
        }
    }
    Ok(())
}

fn receive_datagrams(socket: &UdpSocket, until: Instant) -> Result<usize> {
    let mut buffers = vec![[0_u8; DATAGRAM]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut count = 0;
    while Instant::now() < until {
        let mut slices: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        match recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            slices.iter_mut(),
            MsgFlags::MSG_WAITFORONE,
            None,
        ) {
            Ok(received) => count += received.count(),
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno).context("cannot receive"),
        }
    }
    Ok(count)
}

/// A port of the first container.
pub(crate) fn published(which: usize) -> Result<SocketAddr> {
    let port = u16::try_from(host_port(0) + which).context("no such port")?;
    Ok((HOST, port).into())
}

fn table(lanes: &[Lane<'_>], rounds: usize) -> String {
    let median_of = |tool: &str, networks: usize, which: usize| {
        let lane = lanes
            .iter()
            .find(|lane| lane.site.tool.name == tool && lane.networks == networks);
        let rates = lane.and_then(|lane| lane.rates.get(which));
        median(rates.cloned().unwrap_or_default())
    };
    let mut text = format!(
        "Through a published port from outside: medians of {rounds} rounds in turns\n\
         networks            |  netavark      ours | ours/netavark\n"
    );
    for (which, (unit, size)) in UNITS.iter().enumerate() {
        let [theirs, ours] = ["netavark", "ours"]
            .map(|tool| [FEW, MANY].map(|networks| median_of(tool, networks, which) / size));
        for (networks, (theirs, ours)) in [FEW, MANY].iter().zip(theirs.iter().zip(ours)) {
            writeln!(
                text,
                "{networks:8} {unit:10} | {theirs:9.2} {ours:9.2} | {:13.2}",
                ours / theirs
            )
            .expect("a string takes everything");
        }
        writeln!(
            text,
            "{:8} {unit:10} | {:9.2} {:9.2} |",
            format!("{MANY}/{FEW}"),
            theirs[1] / theirs[0],
            ours[1] / ours[0]
        )
        .expect("a string takes everything");
    }
    text
}
