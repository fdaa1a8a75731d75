//! What a test runs on: a lab with bridges' addresses, a resolv.conf of its own, and the program's directory.
//!
//! All addresses are on the loopback interface: the program knows its clients by their source address alone, so a
//! client is a socket bound to one. Real clients in namespaces of their own are in [`crate::clients`].

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::{ReceiveTimeout, ReuseAddr, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use test_fixtures::lab::Host;
use test_fixtures::program::{Finished, Program};
use test_fixtures::traffic::eventually;

use crate::message::{Message, Query};
use crate::upstream::Connection;

/// Runs the closure on a machine of its own: `on!(|machine| { ...; Ok(()) })`, the whole body of a test.
macro_rules! on {
    ($body:expr) => {
        $crate::differences::judge(|| {
            test_fixtures::lab::run(|host| {
                let body: fn(&$crate::machine::Machine<'_>) -> anyhow::Result<()> = $body;
                body(&$crate::machine::Machine::set_up(host)?)
            })
        })
    };
}

/// [`on`] for what only our program has.
macro_rules! ours {
    ($body:expr) => {
        $crate::differences::only_ours(|| {
            test_fixtures::lab::run(|host| {
                let body: fn(&$crate::machine::Machine<'_>) -> anyhow::Result<()> = $body;
                body(&$crate::machine::Machine::set_up(host)?)
            })
        })
    };
}

pub(crate) use {on, ours};

/// The bridges' addresses, which networks listen on.
pub(crate) const GATEWAY: &str = "10.88.0.1";
pub(crate) const GATEWAY_2: &str = "10.89.0.1";
pub(crate) const GATEWAY_3: &str = "10.90.0.1";
pub(crate) const GATEWAY_V6: &str = "fd10:88::1";
pub(crate) const GATEWAY_V6_2: &str = "fd10:89::1";

/// The name server that resolv.conf names at first; 198.51.100.0/24 is all there for more.
pub(crate) const UPSTREAM: &str = "198.51.100.1";

/// How long a client waits for an answer that must come, and for one that must not. No measure of anything: a machine that
/// does much else may leave us waiting for seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
const IMPATIENCE: Duration = Duration::from_millis(1200);

/// The name and addresses of a container; [`Machine::network`] makes lines of them.
pub(crate) fn id(number: u32) -> String {
    format!("{number:012x}{:052x}", 0xc0ffee)
}

/// A line of a network's file.
pub(crate) fn line(number: u32, v4: &str, v6: &str, names: &str) -> String {
    format!("{} {v4} {v6} {names}\n", id(number))
}

/// The line of a container with name servers of its own.
pub(crate) fn line_with(number: u32, v4: &str, v6: &str, names: &str, servers: &str) -> String {
    format!("{} {v4} {v6} {names} {servers}\n", id(number))
}

#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) host: &'a Host,
    /// The program's directory.
    pub(crate) dir: PathBuf,
}

impl<'a> Machine<'a> {
    pub(crate) fn set_up(host: &'a Host) -> Result<Self> {
        private_etc()?;
        let addresses = Program::new("ip")
            .args(["-batch", "-"])
            .stdin(
                "             addr add 10.88.0.1/16 dev lo
             addr add 10.89.0.1/16 dev lo
             addr add 10.90.0.1/16 dev lo
             addr add 198.51.100.1/24 dev lo
             addr add fd10:88::1/64 dev lo nodad
             addr add fd10:88::2/64 dev lo nodad
             addr add fd10:88::3/64 dev lo nodad
             addr add fd10:89::1/64 dev lo nodad
             addr add fd10:89::2/64 dev lo nodad
             addr add fd00:53::1/64 dev lo nodad
             addr add fd00:53::2/64 dev lo nodad\n",
            )
            .run()?;
        ensure!(addresses.success(), "{addresses}");
        for address in [
            "fd10:88::1",
            "fd10:88::2",
            "fd10:88::3",
            "fd10:89::1",
            "fd10:89::2",
            "fd00:53::1",
        ] {
            // The kernel makes their routes in its own time; a datagram before that is lost.
            within(PATIENCE, || reaches_itself(address).unwrap_or(false))?;
        }
        let machine = Self {
            host,
            dir: host.dir("networks")?.join("aardvark-dns"),
        };
        fs::create_dir(&machine.dir)?;
        machine.resolv_conf(&format!("nameserver {UPSTREAM}\n"))?;
        Ok(machine)
    }

    /// Writes the file of a network, in place as engines do.
    pub(crate) fn network(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.dir.join(name), text).with_context(|| format!("network {name}"))
    }

    /// One network `net` at [`GATEWAY`] with `web` at .2 and `db` at .3, the former with IPv6.
    pub(crate) fn usual_network(&self) -> Result<()> {
        self.network(
            "net",
            &format!(
                "{GATEWAY},{GATEWAY_V6}\n{}{}",
                line(1, "10.88.0.2", "fd10:88::2", "web,www,000000000001"),
                line(2, "10.88.0.3", "", "db,000000000002"),
            ),
        )
    }

    pub(crate) fn remove_network(&self, name: &str) -> Result<()> {
        fs::remove_file(self.dir.join(name)).with_context(|| format!("network {name}"))
    }

    pub(crate) fn resolv_conf(&self, text: &str) -> Result<()> {
        fs::write("/etc/resolv.conf", text).context("/etc/resolv.conf")
    }

    /// The program with the options that engines give it, without the sub-command.
    pub(crate) fn program(&self) -> Program {
        program()
            .arg("--config")
            .arg(&self.dir)
            .args(["-p", "53"])
            .timeout(Duration::from_secs(20))
    }

    /// What came of starting it.
    pub(crate) fn try_start(&self) -> Result<Finished> {
        self.program().arg("run").run()
    }

    /// Starts it, as an engine does: reads its output to the end.
    pub(crate) fn start(&self) -> Result<Daemon> {
        self.start_as(self.program().arg("run"))
    }

    /// [`Self::start`] with a program that has more options or variables.
    pub(crate) fn start_as(&self, program: Program) -> Result<Daemon> {
        let finished = program.run()?;
        ensure!(finished.success(), "it does not start: {finished}");
        if crate::differences::is_old_incumbent() {
            thread::sleep(Duration::from_millis(300)); // it is ready some time after its parent says so
            return self.running();
        }
        ensure!(!finished.held_open, "the daemon holds its output open");
        self.running()
    }

    /// The daemon that the pid file names.
    pub(crate) fn running(&self) -> Result<Daemon> {
        // Versions before the handshake write the file after their parent's end.
        let pid = self.dir.join("aardvark.pid");
        eventually(Duration::from_secs(1), || {
            fs::read(&pid).is_ok_and(|bytes| !bytes.is_empty())
        });
        let text = fs::read_to_string(pid).context("pid file")?;
        Ok(Daemon {
            pid: Pid::from_raw(
                text.parse::<i32>()
                    .with_context(|| format!("pid file {text:?}"))?,
            ),
        })
    }

    /// A client at an address, asking the gateway of its network.
    pub(crate) fn client(&self, address: &str) -> Client {
        let address: IpAddr = address.parse().expect("an address");
        let gateway = match address {
            IpAddr::V4(v4) if v4.octets()[1] == 89 => GATEWAY_2,
            IpAddr::V4(v4) if v4.octets()[1] == 90 => GATEWAY_3,
            IpAddr::V4(_) => GATEWAY,
            IpAddr::V6(v6) if v6.segments()[1] == 0x89 => GATEWAY_V6_2,
            IpAddr::V6(_) => GATEWAY_V6,
        };
        let gateway: IpAddr = gateway.parse().expect("an address");
        Client::new(address, (gateway, 53).into())
    }

    /// `web` of [`Self::usual_network`].
    pub(crate) fn web(&self) -> Client {
        self.client("10.88.0.2")
    }
}

/// The program under test, without arguments.
pub(crate) fn program() -> Program {
    Program::under_test("DNSD", env!("CARGO_BIN_EXE_dnsd"))
}

/// How many times as much a test of endurance does as usual: the variable DNSD_EFFORT, else once.
pub(crate) fn effort() -> u32 {
    std::env::var("DNSD_EFFORT").map_or(1, |times| times.parse().expect("DNSD_EFFORT is a number"))
}

/// Prints what a test of endurance has seen, if it was to do more than usual.
pub(crate) fn report(seen: &str) {
    if effort() > 1 {
        writeln!(std::io::stderr(), "{seen}").expect("standard error can be written");
    }
}

/// The path of the program under test.
pub(crate) fn program_path() -> OsString {
    std::env::var_os("DNSD").unwrap_or_else(|| env!("CARGO_BIN_EXE_dnsd").into())
}

/// What programs of the lab read below /etc, on a file system where resolv.conf can be replaced, renamed over and
/// linked like on a real host.
fn private_etc() -> Result<()> {
    let etc = Path::new("/run/lab/etc");
    fs::create_dir_all(etc)?;
    for name in [
        "alternatives",
        "group",
        "hosts",
        "ld.so.cache",
        "nsswitch.conf",
        "passwd",
        "protocols",
        "services",
    ] {
        let from = Path::new("/etc").join(name);
        if from.exists() {
            let copied = Program::new("cp").arg("-a").arg(from).arg(etc).run()?;
            ensure!(copied.success(), "{copied}");
        }
    }
    // Whatever the machine has there asks nobody but the name servers.
    fs::write(
        etc.join("nsswitch.conf"),
        "passwd: files\nhosts: files dns\n",
    )?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n")?;
    mount(
        Some(etc),
        "/etc",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .context("cannot mount a private /etc")
}

fn reaches_itself(address: &str) -> Result<bool> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.send_to(b"?", socket.local_addr()?)?;
    Ok(receive(&socket, Duration::from_millis(50))?.is_some())
}

/// The running program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Daemon {
    pub(crate) pid: Pid,
}

impl Daemon {
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid, signal).with_context(|| format!("{signal} to {}", self.pid))
    }

    /// Asks for a reload, which has no answer.
    pub(crate) fn hup(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }

    pub(crate) fn alive(&self) -> bool {
        kill(self.pid, None).is_ok()
    }

    /// Whether it ends within `limit`.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        eventually(limit, || !self.alive())
    }

    /// A file of `/proc/PID`.
    pub(crate) fn proc(&self, file: &str) -> Result<String> {
        let bytes = fs::read(format!("/proc/{}/{file}", self.pid))
            .with_context(|| format!("/proc/{}/{file}", self.pid))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A line of `/proc/PID/status`.
    pub(crate) fn status(&self, key: &str) -> Result<String> {
        let status = self.proc("status")?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("no {key} in its status"))
    }

    /// What its descriptors point to, in order.
    pub(crate) fn descriptors(&self) -> Result<Vec<(u32, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid))? {
            let entry = entry?;
            let number = entry.file_name().to_string_lossy().parse()?;
            if let Ok(target) = fs::read_link(entry.path()) {
                found.push((number, target.to_string_lossy().into_owned()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = self.proc("stat")?;
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }
}

/// A socket's worth of a container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    address: IpAddr,
    server: SocketAddr,
    patience: Duration,
}

impl Client {
    pub(crate) fn new(address: IpAddr, server: SocketAddr) -> Self {
        Self {
            address,
            server,
            patience: PATIENCE,
        }
    }

    /// The same client asking at another address.
    pub(crate) fn at(mut self, server: &str) -> Self {
        self.server.set_ip(server.parse().expect("an address"));
        self
    }

    pub(crate) fn port(mut self, port: u16) -> Self {
        self.server.set_port(port);
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What the answer to `name type` over UDP says, as [`Message`] prints it.
    pub(crate) fn says(&self, question: &str) -> Result<String> {
        Ok(self.udp(&Query::new(question))?.to_string())
    }

    /// [`Self::says`] over TCP.
    pub(crate) fn says_by_tcp(&self, question: &str) -> Result<String> {
        Ok(self.tcp(&Query::new(question))?.to_string())
    }

    /// The data of the answers in their order.
    pub(crate) fn data(&self, question: &str) -> Result<Vec<String>> {
        let message = self.udp(&Query::new(question))?;
        Ok(message.data().into_iter().map(ToOwned::to_owned).collect())
    }

    /// The answer over UDP.
    pub(crate) fn udp(&self, query: &Query) -> Result<Message> {
        let answer = self
            .raw(&query.bytes(), self.patience)?
            .with_context(|| format!("no answer to {query:?}"))?;
        let message = Message::read(&answer)?;
        ensure!(message.id == query.id, "the answer has another id");
        Ok(message)
    }

    /// The answer over TCP, on a connection of its own.
    pub(crate) fn tcp(&self, query: &Query) -> Result<Message> {
        let mut connection = self.connect()?;
        connection.send(query)?;
        let message = connection
            .receive()
            .with_context(|| format!("no answer to {query:?}"))?;
        ensure!(message.id == query.id, "the answer has another id");
        Ok(message)
    }

    /// Whether nothing comes back for a while.
    pub(crate) fn gets_nothing(&self, bytes: &[u8]) -> Result<bool> {
        Ok(self.raw(bytes, IMPATIENCE)?.is_none())
    }

    /// The datagram that comes back for a datagram, if one does in time.
    pub(crate) fn raw(&self, bytes: &[u8], patience: Duration) -> Result<Option<Vec<u8>>> {
        let socket = self.socket()?;
        socket.send(bytes)?;
        receive(&socket, patience)
    }

    /// A datagram socket from the client to the program.
    pub(crate) fn socket(&self) -> Result<UdpSocket> {
        let socket = UdpSocket::bind((self.address, 0))
            .with_context(|| format!("client at {}", self.address))?;
        socket.connect(self.server)?;
        Ok(socket)
    }

    /// A TCP connection.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let family = if self.address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, ReuseAddr, &true)?;
        let patience = TimeVal::milliseconds(i64::try_from(self.patience.as_millis())?);
        setsockopt(&socket, SendTimeout, &patience)?;
        setsockopt(&socket, ReceiveTimeout, &patience)?;
        bind(
            socket.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(self.address, 0)),
        )?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(self.server))
            .with_context(|| format!("no connection to {}", self.server))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Connection { stream })
    }
}

/// The next datagram, if one comes in time.
pub(crate) fn receive(socket: &UdpSocket, patience: Duration) -> Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 65536];
    socket.set_read_timeout(Some(patience))?;
    match socket.recv(&mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => bail!("receiving: {error}"),
    }
}

/// Holds until `limit` has passed; says when it first did.
pub(crate) fn within(limit: Duration, holds: impl FnMut() -> bool) -> Result<Duration> {
    let begin = Instant::now();
    ensure!(eventually(limit, holds), "not within {limit:?}");
    Ok(begin.elapsed())
}

/// At least one of several tries, each with its number, works and takes less than `limit`: the machine may be busy, and a
/// datagram may be lost.
pub(crate) fn quickly(limit: Duration, mut ask: impl FnMut(u32) -> Result<()>) -> Result<()> {
    let mut seen = Vec::new();
    for number in 0..5 {
        let begin = Instant::now();
        let outcome = ask(number);
        if outcome.is_ok() && begin.elapsed() < limit {
            return Ok(());
        }
        seen.push((begin.elapsed(), outcome));
    }
    bail!("never within {limit:?}: {seen:?}")
}
