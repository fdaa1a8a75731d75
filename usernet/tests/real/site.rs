//! The places, the program under test between them, and connections through it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::program::Program;

/// The host port that is published as [`GUEST_PORT`].
pub(crate) const PUBLISHED: u16 = 8080;
/// The port in the guest.
pub(crate) const GUEST_PORT: u16 = 80;
/// The port of the host's loopback that the guest reaches by its own.
pub(crate) const LOOPBACK: u16 = 9000;
/// A port of the machine outside.
pub(crate) const OUTSIDE_PORT: u16 = 7000;
/// The guest's name for the host.
pub(crate) const MAP_GUEST: &str = "169.254.1.2";
/// The guest's name for the host's name server.
pub(crate) const DNS_FORWARD: &str = "169.254.1.1";

/// How connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the guest, by the tap.
    Out4,
    /// The same, IPv6.
    Out6,
    /// From outside to a published port, by the tap.
    In4,
    /// The same, IPv6.
    In6,
    /// From the host's loopback to a published port, from socket to socket.
    SpliceIn4,
    /// The same, IPv6.
    SpliceIn6,
    /// From the guest's loopback to that of the host, from socket to socket.
    SpliceOut4,
}

impl Way {
    pub(crate) const ALL: [Self; 7] = [
        Self::Out4,
        Self::Out6,
        Self::In4,
        Self::In6,
        Self::SpliceIn4,
        Self::SpliceIn6,
        Self::SpliceOut4,
    ];

    /// The guest's program calls.
    pub(crate) fn outbound(self) -> bool {
        matches!(self, Self::Out4 | Self::Out6 | Self::SpliceOut4)
    }

    /// Whom the caller calls; `offset` is added to the port.
    pub(crate) fn called(self, offset: u16) -> SocketAddr {
        let (ip, port) = match self {
            Self::Out4 => (Host::OUTSIDE_V4, OUTSIDE_PORT),
            Self::Out6 => (Host::OUTSIDE_V6, OUTSIDE_PORT),
            Self::In4 => (Host::V4, PUBLISHED),
            Self::In6 => (Host::V6, PUBLISHED),
            Self::SpliceIn4 => ("127.0.0.1", PUBLISHED),
            Self::SpliceIn6 => ("::1", PUBLISHED),
            Self::SpliceOut4 => ("127.0.0.1", LOOPBACK),
        };
        SocketAddr::new(ip.parse().expect("an address"), port + offset)
    }

    /// Where the one who is called listens.
    pub(crate) fn listens(self, offset: u16) -> SocketAddr {
        if self.outbound() {
            return self.called(offset);
        }
        SocketAddr::new("::".parse().expect("an address"), GUEST_PORT + offset)
    }
}

/// Everything of one test.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) host: &'a Host,
    pub(crate) outside: Netns,
    pub(crate) guest: Netns,
    pub(crate) us: Us,
}

impl<'a> Site<'a> {
    /// With eight published ports and eight of the host's loopback.
    pub(crate) fn new(host: &'a Host) -> Result<Self> {
        Self::with(host, &[])
    }

    /// With further words of the command line.
    pub(crate) fn with(host: &'a Host, words: &[&str]) -> Result<Self> {
        many_descriptors();
        let outside = host.outside()?;
        // The kernel takes a second or two before a new link speaks IPv6: not ours to be measured.
        let ping = ["ping", "-q", "-n", "-c1", "-W1", Host::OUTSIDE_V6];
        wait_for("the link speaks IPv6", || call(host, &ping).is_ok())?;
        let guest = host.container("guest")?;
        let us = Us::start(host, &guest, words)?;
        Ok(Self {
            host,
            outside,
            guest,
            us,
        })
    }

    /// The guest goes, and we with it; the machine outside, too.
    pub(crate) fn end(self) -> Result<()> {
        let Self {
            host,
            outside,
            guest,
            us,
        } = self;
        drop((guest, outside));
        host.sh("ip link del uplink 2>/dev/null || true")?;
        wait_for("the daemon ends", || !us.lives())
    }

    /// Where the peer of the guest is.
    pub(crate) fn far(&self, way: Way) -> &Netns {
        match way {
            Way::Out4 | Way::Out6 | Way::In4 | Way::In6 => &self.outside,
            Way::SpliceIn4 | Way::SpliceIn6 | Way::SpliceOut4 => self.host,
        }
    }

    /// Where connections begin.
    pub(crate) fn caller(&self, way: Way) -> &Netns {
        if way.outbound() {
            &self.guest
        } else {
            self.far(way)
        }
    }

    /// Where they are accepted.
    pub(crate) fn callee(&self, way: Way) -> &Netns {
        if way.outbound() {
            self.far(way)
        } else {
            &self.guest
        }
    }

    /// Listen where connections of this way end.
    pub(crate) fn listen(&self, way: Way, offset: u16) -> Result<TcpListener> {
        let at = way.listens(offset);
        self.callee(way)
            .enter(|| TcpListener::bind(at).with_context(|| format!("cannot listen at {at}")))
    }

    /// A connection; the guest's end first.
    pub(crate) fn connect(
        &self,
        way: Way,
        listener: &TcpListener,
    ) -> Result<(TcpStream, TcpStream)> {
        let port = listener.local_addr()?.port();
        let to = way.called(port - way.listens(0).port());
        let calling = self
            .caller(way)
            .enter(|| TcpStream::connect(to).with_context(|| format!("to {to}")))?;
        let accepted = accept(listener, &calling)?;
        for stream in [&calling, &accepted] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(if way.outbound() {
            (calling, accepted)
        } else {
            (accepted, calling)
        })
    }

    /// One connection of a way, with a listener of its own.
    pub(crate) fn pair(&self, way: Way) -> Result<(TcpStream, TcpStream)> {
        let listener = self.listen(way, 0)?;
        self.connect(way, &listener)
    }
}

/// The other end of a connection, which may have been reset before it came through.
fn accept(listener: &TcpListener, calling: &TcpStream) -> Result<TcpStream> {
    let mut wanted = [
        PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        PollFd::new(calling.as_fd(), PollFlags::empty()), // errors are always told
    ];
    let patience = PollTimeout::try_from(PATIENCE)?;
    poll(&mut wanted, patience)?;
    if wanted[0].any() == Some(true) {
        return Ok(listener.accept()?.0);
    }
    match calling.take_error()? {
        Some(error) => Err(error).context("nobody is reached"),
        None => bail!("nobody is reached, and nobody says so"),
    }
}

/// Whoever hears nothing for so long will never hear anything: a test shall fail, not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// The soft limit of descriptors is a thousand on many machines, which programs that want more raise.
fn many_descriptors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the limit can be raised");
    });
}

/// The daemon.
#[derive(Debug)]
pub(crate) struct Us {
    pub(crate) pid: i32,
}

impl Us {
    /// The words that Podman writes, those of this test, and a pid file.
    pub(crate) fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<Self> {
        let file = host.dir("pids")?.join("usernet");
        let finished = Program::under_test("USERNET", env!("CARGO_BIN_EXE_usernet"))
            .args(["--config-net", "--no-map-gw", "--quiet"])
            .args(["-t", "8080-8087:80-87", "-u", "8080-8087:80-87"])
            .args(["-T", "9000-9007", "-U", "9000-9007"])
            .args(["--dns-forward", DNS_FORWARD])
            .args(["--map-guest-addr", MAP_GUEST])
            .args(words)
            .arg("--pid")
            .arg(&file)
            .arg("--netns")
            .arg(guest.path())
            .run()?;
        ensure!(finished.success(), "{finished}");
        let pid = fs::read_to_string(&file)?.trim().parse()?;
        Ok(Self { pid })
    }

    pub(crate) fn lives(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// The daemon, and the processes that it started.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        let children = format!("/proc/{0}/task/{0}/children", self.pid);
        let children = fs::read_to_string(&children).with_context(|| children)?;
        let children = children.split_ascii_whitespace().map(str::parse);
        let mut all = vec![self.pid];
        for child in children {
            all.push(child?);
        }
        Ok(all)
    }

    /// What all of them hold.
    pub(crate) fn holds(&self) -> Result<Holding> {
        let mut holding = Holding::default();
        for pid in self.processes()? {
            holding.descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = memory.lines().find(|line| line.starts_with("Rss:"));
            let words = line.context("no Rss")?.split_ascii_whitespace().nth(1);
            holding.resident += words.context("no size")?.parse::<usize>()?;
        }
        Ok(holding)
    }

    /// Wait until they hold no more than these descriptors.
    pub(crate) fn lets_go(&self, descriptors: usize) -> Result<()> {
        let mut last = 0;
        let done = wait_for("descriptors are closed", || {
            last = self.holds().map_or(usize::MAX, |now| now.descriptors);
            last <= descriptors
        });
        done.with_context(|| format!("{last} descriptors are open, {descriptors} were"))
    }
}

/// Sockets of the guest's that are kept ready for the next flows; they are not all there when we say that we are ready.
pub(crate) const POOL: usize = 2 * (32 + 8);

/// Descriptors, and resident memory in kB.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) descriptors: usize,
    pub(crate) resident: usize,
}

/// A program that runs beside the test and ends with it.
#[derive(Debug)]
pub(crate) struct Beside(Child);

impl Beside {
    /// What it prints is seen if the test fails.
    pub(crate) fn start(netns: &Netns, words: &[&str]) -> Result<Self> {
        let (program, arguments) = words.split_first().context("no words")?;
        let child = netns.enter(|| {
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot start {program}: see hack/deps"))
        })?;
        Ok(Self(child))
    }

    /// The same, for a server: it has started once it listens. `transport` is `t` or `u`.
    pub(crate) fn serve(netns: &Netns, transport: char, port: u16, words: &[&str]) -> Result<Self> {
        let server = Self::start(netns, words)?;
        wait_for(&format!("{words:?} listens"), || {
            let sockets = netns.sh(&format!("ss -Han{transport} state all 'sport = :{port}'"));
            sockets.is_ok_and(|sockets| sockets.contains("LISTEN") || sockets.contains("UNCONN"))
        })?;
        Ok(server)
    }

    /// Wait for its own end.
    pub(crate) fn ended(mut self) -> Result<()> {
        let mut status = None;
        wait_for("the program ends", || {
            status = self.0.try_wait().unwrap_or_default();
            status.is_some()
        })?;
        let status = status.context("no status")?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Not a measurement: whatever is waited for either happens or does not.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(30) {
        if done() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("never: {what}")
}

/// Run a program of Debian's to its end; what it printed.
pub(crate) fn call(netns: &Netns, words: &[&str]) -> Result<String> {
    call_with(netns, words, Vec::new())
}

/// The same, with input.
pub(crate) fn call_with(netns: &Netns, words: &[&str], input: Vec<u8>) -> Result<String> {
    let (program, arguments) = words.split_first().context("no words")?;
    let finished = Program::new(program)
        .args(arguments)
        .stdin(input)
        .run_in(netns)
        .with_context(|| format!("{program}: see hack/deps"))?;
    ensure!(finished.success(), "{words:?}: {finished}");
    Ok(finished.stdout)
}
