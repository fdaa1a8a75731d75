//! Servers and clients.
//!
//! The first byte of a TCP connection says what the client wants: [`SINK`] counts, [`SOURCE`] sends, [`ECHO`] returns each
//! byte, [`ONCE`] answers one byte and waits for the end, [`GIVE`] sends a megabyte and ends, [`TAKE`] answers one byte when
//! it has read a megabyte. The first four bytes of a datagram say how often it is answered:
//! 0 never, 1 each, k every k-th.

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use test_fixtures::netns::Netns;

use crate::site::{HOST, PUBLISHED, Site};

const SINK: u8 = b'S';
const SOURCE: u8 = b'R';
const ECHO: u8 = b'E';
const ONCE: u8 = b'1';
const GIVE: u8 = b'G';
const TAKE: u8 = b'T';
const MEGABYTE: usize = 1_000_000;

const HOST_PORT: u16 = 7001;
const BUFFER: usize = 128 << 10;
/// What is not measured at the beginning of each load.
const WARM_UP: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);
/// Datagrams that one call sends, and that one call receives at most.
const BATCH: usize = 16;
const RECEIVED: usize = 64;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// From the guest to the host's address.
    GuestToHost,
    /// From the host to its own address, a published port.
    HostToGuest,
    /// The same by the host's loopback.
    Loopback,
    /// From the guest over the network.
    GuestToPeer(&'static str),
    /// From over the network to the host's address there, a published port.
    PeerToGuest(&'static str),
}

impl Target {
    fn address(self) -> SocketAddr {
        let (host, port) = match self {
            Self::GuestToHost => (HOST, HOST_PORT),
            Self::HostToGuest => (HOST, PUBLISHED),
            Self::Loopback => ("127.0.0.1", PUBLISHED),
            Self::GuestToPeer(peer) => (peer, HOST_PORT),
            Self::PeerToGuest(host) => (host, PUBLISHED),
        };
        let host: Ipv4Addr = host.parse().unwrap_or(Ipv4Addr::LOCALHOST);
        SocketAddr::V4(SocketAddrV4::new(host, port))
    }

    fn client(self, site: &Site) -> &Netns {
        match self {
            Self::GuestToHost | Self::GuestToPeer(_) => site.guest(),
            Self::HostToGuest | Self::Loopback => &site.host,
            Self::PeerToGuest(_) => &site.outside,
        }
    }

    fn counters(self, site: &Site) -> &Counters {
        match self {
            Self::GuestToHost => &site.servers.host,
            Self::HostToGuest | Self::Loopback | Self::PeerToGuest(_) => &site.servers.guest,
            Self::GuestToPeer(_) => &site.servers.peer,
        }
    }
}

/// What one server received.
#[derive(Default)]
pub(crate) struct Counters {
    tcp_bytes: AtomicU64,
    datagrams: AtomicU64,
}

/// The servers of a site. They run as long as the process.
pub(crate) struct Servers {
    host: Arc<Counters>,
    guest: Arc<Counters>,
    peer: Arc<Counters>,
}

impl Servers {
    /// Listen in all namespaces.
    pub(crate) fn start(host: &Netns, guest: &Netns, outside: &Netns) -> Result<Self> {
        let address: Ipv4Addr = HOST.parse()?;
        Ok(Self {
            peer: serve(outside, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, HOST_PORT))?,
            host: serve(host, SocketAddrV4::new(address, HOST_PORT))?,
            guest: serve(guest, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PUBLISHED))?,
        })
    }
}

fn serve(netns: &Netns, at: SocketAddrV4) -> Result<Arc<Counters>> {
    let counters = Arc::new(Counters::default());
    let (listener, socket) = netns.enter(|| Ok((TcpListener::bind(at)?, UdpSocket::bind(at)?)))?;
    listener.set_nonblocking(true)?;
    // Room for bursts: what is measured is the way, not the patience of this server.
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(4 << 20))?;
    let count = Arc::clone(&counters);
    thread::spawn(move || serve_tcp(&listener, &count));
    let count = Arc::clone(&counters);
    thread::spawn(move || serve_udp(&socket, &count));
    Ok(counters)
}

/// Short connections are served by this thread, long ones by threads of their own.
fn serve_tcp(listener: &TcpListener, counters: &Arc<Counters>) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))?;
    let mut waiting: HashMap<u64, TcpStream> = HashMap::new();
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let count = epoll
            .wait(&mut events, EpollTimeout::NONE)
            .unwrap_or_default();
        for event in &events[..count] {
            if event.data() == u64::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    let key = u64::try_from(stream.as_raw_fd())?;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
                    waiting.insert(key, stream);
                }
                continue;
            }
            let Some(mut stream) = waiting.remove(&event.data()) else {
                continue;
            };
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) if byte[0] == ONCE => {
                    stream.write_all(&byte).ok();
                    waiting.insert(event.data(), stream);
                }
                Ok(1) => {
                    epoll.delete(&stream)?;
                    let counters = Arc::clone(counters);
                    thread::spawn(move || serve_long(stream, byte[0], &counters));
                }
                _ => {}
            }
        }
    }
}

fn serve_long(mut stream: TcpStream, wish: u8, counters: &Counters) -> Result<()> {
    stream.set_nonblocking(false)?;
    let mut buffer = vec![0; BUFFER];
    match wish {
        SINK => loop {
            let len = stream.read(&mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            counters.tcp_bytes.fetch_add(len as u64, Ordering::Relaxed);
        },
        SOURCE => loop {
            stream.write_all(&buffer)?;
        },
        GIVE => Ok(stream.write_all(&vec![0; MEGABYTE])?),
        TAKE => {
            stream.read_exact(&mut vec![0; MEGABYTE])?;
            Ok(stream.write_all(&[0])?)
        }
        _ => loop {
            let len = stream.read(&mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..len])?;
        },
    }
}

fn serve_udp(socket: &UdpSocket, counters: &Counters) -> Result<()> {
    let mut buffers = vec![[0; 2048]; RECEIVED];
    let mut headers = MultiHeaders::preallocate(RECEIVED, None);
    let mut since = 0;
    loop {
        let mut pieces: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
        let wait = MsgFlags::MSG_WAITFORONE;
        let Ok(received) =
            recvmmsg::<_, SockaddrIn, _>(socket.as_raw_fd(), &mut headers, &mut pieces, wait, None)
        else {
            continue;
        };
        let received: Vec<_> = received
            .map(|message| (message.bytes, message.address))
            .collect();
        counters
            .datagrams
            .fetch_add(received.len() as u64, Ordering::Relaxed);
        for (data, (len, from)) in buffers.iter().zip(received) {
            let Some(from) = from else { continue };
            let every = u32::from_ne_bytes(data[..4].try_into()?);
            since += 1;
            if every == 1 {
                socket.send_to(&data[..len], SocketAddrV4::from(from)).ok();
            } else if every > 1 && since >= every {
                since = 0;
                socket.send_to(&data[..16], SocketAddrV4::from(from)).ok();
            }
        }
    }
}

/// What one load measured; what does not apply is absent.
#[derive(Default)]
pub(crate) struct Sample {
    gbit_s: Option<f64>,
    cpu_s_per_gb: Option<f64>,
    per_second: Option<f64>,
    kpps: Option<f64>,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    cpu_us: Option<f64>,
    first_ms: Option<f64>,
    megabyte_ms: Option<f64>,
}

impl Sample {
    /// Each figure with its name and unit. Processor time is that of the forwarder.
    pub(crate) fn figures(&self) -> Vec<(&'static str, f64)> {
        [
            ("Gbit/s", self.gbit_s),
            ("cpu s/GB", self.cpu_s_per_gb),
            ("per s", self.per_second),
            ("kpps", self.kpps),
            ("p50 us", self.p50_us),
            ("p99 us", self.p99_us),
            ("cpu us each", self.cpu_us),
            ("first byte ms", self.first_ms),
            ("1 MB ms", self.megabyte_ms),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// Count something for a while, with the forwarder's processor time.
fn watch(site: &Site, seconds: f64, count: impl Fn() -> u64) -> (f64, f64, f64) {
    watch_after(WARM_UP, site, seconds, count)
}

/// The same after a beginning of so long.
fn watch_after(
    beginning: Duration,
    site: &Site,
    seconds: f64,
    count: impl Fn() -> u64,
) -> (f64, f64, f64) {
    thread::sleep(beginning);
    let (begin, before, cpu) = (Instant::now(), count(), site.cpu());
    thread::sleep(Duration::from_secs_f64(seconds));
    let (after, cpu_after) = (count(), site.cpu());
    (
        (after - before) as f64,
        begin.elapsed().as_secs_f64(),
        cpu_after - cpu,
    )
}

fn dial(netns: &Netns, to: SocketAddr, wish: u8) -> Result<TcpStream> {
    netns.enter(|| open(to, wish))
}

/// Connect in the namespace of this thread.
fn open(to: SocketAddr, wish: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[wish])?;
    Ok(stream)
}

/// As much as passes, in one direction, by so many connections.
pub(crate) fn bulk(
    site: &Site,
    target: Target,
    streams: usize,
    up: bool,
    seconds: f64,
) -> Result<Sample> {
    bulk_after(WARM_UP, site, target, streams, up, seconds)
}

/// The same after a beginning of so long: with a long round trip windows take their time to grow.
pub(crate) fn bulk_after(
    beginning: Duration,
    site: &Site,
    target: Target,
    streams: usize,
    up: bool,
    seconds: f64,
) -> Result<Sample> {
    let stop = Arc::new(AtomicBool::new(false));
    let mine = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for _ in 0..streams {
        let wish = if up { SINK } else { SOURCE };
        let stream = dial(target.client(site), target.address(), wish)?;
        let (stop, mine) = (Arc::clone(&stop), Arc::clone(&mine));
        threads.push(thread::spawn(move || move_bytes(stream, up, &stop, &mine)));
    }
    let counter = if up {
        &target.counters(site).tcp_bytes
    } else {
        &*mine
    };
    let (bytes, time, cpu) =
        watch_after(beginning, site, seconds, || counter.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().ok();
    }
    thread::sleep(Duration::from_millis(100));
    let gb = bytes / 1e9;
    Ok(Sample {
        gbit_s: Some(gb * 8.0 / time),
        cpu_s_per_gb: (gb > 0.01).then(|| cpu / gb),
        ..Sample::default()
    })
}

/// The beginning of a connection: how long from `connect` to the first byte and to a megabyte, down; up, until the peer
/// says that it has one. What takes longer than our patience counts as that long.
pub(crate) fn beginning(site: &Site, target: Target, up: bool) -> Result<Sample> {
    target.client(site).enter(|| {
        let begin = Instant::now();
        let elapsed = |result: std::io::Result<()>| match result {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(Some(begin.elapsed().as_secs_f64() * 1e3)),
        };
        let mut sample = Sample::default();
        let mut buffer = vec![0; MEGABYTE];
        let mut stream = open(target.address(), if up { TAKE } else { GIVE })?;
        let all = if up {
            stream
                .write_all(&buffer)
                .and_then(|()| stream.read_exact(&mut [0]))
        } else {
            let (first, rest) = buffer.split_at_mut(1);
            sample.first_ms = elapsed(stream.read_exact(first))?;
            stream.read_exact(rest)
        };
        sample.megabyte_ms = elapsed(all)?;
        Ok(sample)
    })
}

fn move_bytes(mut stream: TcpStream, up: bool, stop: &AtomicBool, mine: &AtomicU64) {
    let mut buffer = vec![0; BUFFER];
    while !stop.load(Ordering::Relaxed) {
        let result = if up {
            stream.write(&buffer)
        } else {
            stream.read(&mut buffer)
        };
        match result {
            Ok(len) if len > 0 => mine.fetch_add(len as u64, Ordering::Relaxed),
            _ => break,
        };
    }
    // With a reset, so that what is queued does not run into the next measurement.
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).ok();
}

/// One byte there and back, again and again.
pub(crate) fn round_trips(site: &Site, target: Target, seconds: f64) -> Result<Sample> {
    let mut stream = dial(target.client(site), target.address(), ECHO)?;
    ping_pong(site, seconds, || {
        let mut byte = [0];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        Ok(true)
    })
}

/// The same with datagrams of 64 bytes.
pub(crate) fn udp_round_trips(site: &Site, target: Target, seconds: f64) -> Result<Sample> {
    let socket = target
        .client(site)
        .enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    socket.connect(target.address())?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut data = [0; 64];
    data[..4].copy_from_slice(&1_u32.to_ne_bytes());
    ping_pong(site, seconds, || {
        socket.send(&data)?;
        let mut reply = [0; 64];
        Ok(socket.recv(&mut reply).is_ok())
    })
}

fn ping_pong(site: &Site, seconds: f64, mut turn: impl FnMut() -> Result<bool>) -> Result<Sample> {
    let warm = Instant::now() + Duration::from_millis(100);
    while Instant::now() < warm {
        turn()?;
    }
    let cpu = site.cpu();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut times = Vec::with_capacity(1 << 20);
    let mut last = Instant::now();
    while last < end {
        let answered = turn()?;
        let now = Instant::now();
        if answered {
            times.push((now - last).as_secs_f64() * 1e6);
        }
        last = now;
    }
    ensure!(!times.is_empty(), "nothing came back");
    let cpu = site.cpu() - cpu;
    times.sort_by(f64::total_cmp);
    Ok(Sample {
        p50_us: times.get(times.len() / 2).copied(),
        p99_us: times.get(times.len() * 99 / 100).copied(),
        cpu_us: Some(cpu / times.len() as f64 * 1e6),
        ..Sample::default()
    })
}

/// Connect, one byte each way, close; by so many clients.
pub(crate) fn connections(
    site: &Site,
    target: Target,
    clients: usize,
    seconds: f64,
) -> Result<Sample> {
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let failed = AtomicU64::new(0);
    let (done_count, time, cpu) = thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                target.client(site).enter(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let counter = if once(target.address()).is_ok() {
                            &done
                        } else {
                            &failed
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            });
        }
        let measured = watch(site, seconds, || done.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        measured
    });
    let failed = failed.load(Ordering::Relaxed);
    if failed > 0 {
        eprintln!("{}: {failed} connections failed", site.label());
    }
    ensure!(done_count > 0.0, "no connection was made");
    Ok(Sample {
        per_second: Some(done_count / time),
        cpu_us: Some(cpu / done_count * 1e6),
        ..Sample::default()
    })
}

fn once(to: SocketAddr) -> Result<()> {
    let mut stream = open(to, ONCE)?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

/// Datagrams of `size` bytes: as many as the sender can, or with a window of so many on the way.
pub(crate) fn udp(
    site: &Site,
    target: Target,
    size: usize,
    window: Option<u64>,
    seconds: f64,
) -> Result<Sample> {
    let socket = target
        .client(site)
        .enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    socket.connect(target.address())?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sender = thread::spawn(move || send_datagrams(&socket, size, window, &stopped));
    let counter = &target.counters(site).datagrams;
    let (count, time, cpu) = watch(site, seconds, || counter.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    sender.join().ok();
    thread::sleep(Duration::from_millis(100));
    ensure!(count > 0.0, "no datagram arrived");
    Ok(Sample {
        kpps: Some(count / time / 1e3),
        cpu_us: Some(cpu / count * 1e6),
        ..Sample::default()
    })
}

fn send_datagrams(
    socket: &UdpSocket,
    size: usize,
    window: Option<u64>,
    stop: &AtomicBool,
) -> Result<()> {
    let every = window.map_or(0, |window| (window / 4).max(2));
    let mut data = vec![0; size];
    data[..4].copy_from_slice(&u32::try_from(every)?.to_ne_bytes());
    let mut batch = vec![data; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let (mut sent, mut acknowledged) = (0_u64, 0_u64);
    let mut reply = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Some(window) = window {
            socket.set_nonblocking(true)?;
            while matches!(socket.recv(&mut reply), Ok(16)) {
                let number = u64::from_ne_bytes(reply[8..16].try_into()?);
                acknowledged = acknowledged.max(number + 1);
            }
            if sent - acknowledged + BATCH as u64 > window {
                socket.set_nonblocking(false)?;
                socket.set_read_timeout(Some(Duration::from_millis(5)))?;
                match socket.recv(&mut reply) {
                    Ok(16) => {
                        let number = u64::from_ne_bytes(reply[8..16].try_into()?);
                        acknowledged = acknowledged.max(number + 1);
                    }
                    // The end was lost: open the window again.
                    _ => acknowledged = sent,
                }
                continue;
            }
        }
        for (data, number) in batch.iter_mut().zip(sent..) {
            data[8..16].copy_from_slice(&number.to_ne_bytes());
        }
        let pieces: Vec<_> = batch.iter().map(|data| [IoSlice::new(data)]).collect();
        let nobody = [None::<SockaddrIn>; BATCH];
        let flags = MsgFlags::empty();
        if let Ok(results) = sendmmsg(socket.as_raw_fd(), &mut headers, &pieces, nobody, [], flags)
        {
            sent += results.count() as u64;
        }
    }
    Ok(())
}

/// So many connections that do nothing, each made and answered.
pub(crate) fn idle(site: &Site, target: Target, count: usize) -> Result<Vec<TcpStream>> {
    target.client(site).enter(|| {
        (0..count)
            .map(|_| {
                let mut stream = open(target.address(), ONCE)?;
                stream.read_exact(&mut [0])?;
                Ok(stream)
            })
            .collect()
    })
}

/// One request over a Unix socket, and its answer.
pub(crate) fn ask_unix(path: &Path, request: &str) -> Result<String> {
    let mut stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
    stream.write_all(request.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
