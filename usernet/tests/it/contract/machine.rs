//! What a test runs on: a host as most are, with a machine outside, and guests of it.
//!
//! The host has one uplink, an address of each family, a router that is known by its link-local address in IPv6, and
//! a name server outside. No address of it is tentative.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

use crate::attached::{Daemon, open_tun, wait_for};

/// Runs the closure on a machine of its own: `on!(|machine| { ...; Ok(()) })`, the whole body of a test.
macro_rules! on {
    ($body:expr) => {
        $crate::contract::differences::judge(|| {
            test_fixtures::lab::run(|host| {
                let body: fn(&$crate::contract::machine::Machine<'_>) -> anyhow::Result<()> = $body;
                body(&$crate::contract::machine::Machine::set_up(host)?)
            })
        })
    };
}
pub(crate) use on;

/// The host's router, in IPv6.
pub(crate) const ROUTER_V6: &str = "fe80::2";

/// The address by which guests know the host.
pub(crate) const MAP_GUEST: &str = "169.254.1.2";

/// How long an answer may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The host's address on its uplink.
    pub(crate) fn host(self) -> IpAddr {
        address(self.of(Host::V4, Host::V6))
    }

    /// That of the machine outside.
    pub(crate) fn outside(self) -> IpAddr {
        address(self.of(Host::OUTSIDE_V4, Host::OUTSIDE_V6))
    }

    pub(crate) fn loopback(self) -> IpAddr {
        address(self.of("127.0.0.1", "::1"))
    }

    pub(crate) fn any(self) -> IpAddr {
        address(self.of("0.0.0.0", "::"))
    }

    /// The option of `ip`, and of ours.
    pub(crate) fn option(self) -> &'static str {
        self.of("-4", "-6")
    }

    /// One or the other.
    pub(crate) fn of<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }
}

/// An address that a test has written.
pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A host, and what surrounds it.
pub(crate) struct Machine<'a> {
    pub(crate) host: &'a Host,
    pub(crate) outside: Netns,
}

impl<'a> Machine<'a> {
    pub(crate) fn set_up(host: &'a Host) -> Result<Self> {
        open_tun(host)?;
        for scope in ["all", "default"] {
            host.set_sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        // Root of a user namespace has only one group to name.
        host.set_sysctl("ipv4/ping_group_range", "0 2147483647")
            .or_else(|_| host.set_sysctl("ipv4/ping_group_range", "0 0"))?;
        let outside = host.outside()?;
        outside.sh(&format!("ip addr add {ROUTER_V6}/64 dev eth0 nodad"))?;
        host.sh(&format!(
            "ip -6 route replace default via {ROUTER_V6} dev {}",
            Host::UPLINK
        ))?;
        let machine = Self { host, outside };
        machine.resolv_conf(&format!("nameserver {}\n", Host::OUTSIDE_V4))?;
        Ok(machine)
    }

    /// Gives the host another list of name servers.
    pub(crate) fn resolv_conf(&self, text: &str) -> Result<()> {
        static BOUND: AtomicU32 = AtomicU32::new(0);
        let path = self.host.dir("etc")?.join("resolv.conf");
        fs::write(&path, text)?;
        if BOUND.fetch_add(1, Ordering::Relaxed) == 0 {
            self.host
                .sh(&format!("mount --bind {} /etc/resolv.conf", path.display()))?;
        }
        Ok(())
    }

    /// A container's namespace.
    pub(crate) fn guest(&self) -> Result<Netns> {
        self.host.container("guest")
    }

    /// The daemon that Podman starts for `--network pasta:OPTIONS -p PUBLISHED`. It adds no pid file; the test does.
    pub(crate) fn podman(
        &self,
        guest: &Netns,
        options: &[&str],
        published: &[&str],
    ) -> Result<Daemon> {
        let words = podman(guest.path(), options, published);
        self.start(words.iter().map(|word| &**word))
    }

    /// A daemon with these words and a pid file.
    pub(crate) fn start<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> Result<Daemon> {
        let file = self.pid_file()?;
        let finished = program().arg("--pid").arg(&file).args(words).run()?;
        ensure!(finished.success(), "not started: {finished}");
        let text = fs::read_to_string(&file)?;
        let pid = text.trim().parse().context("the pid file")?;
        Ok(Daemon { pid, finished })
    }

    /// A path for another pid file.
    pub(crate) fn pid_file(&self) -> Result<PathBuf> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(self.host.dir("pids")?.join(format!("pid{count}")))
    }
}

/// The executable.
pub(crate) fn program() -> Program {
    Program::new(executable()).timeout(Duration::from_secs(20))
}

/// Where it is.
pub(crate) fn executable() -> OsString {
    std::env::var_os("PASTA").unwrap_or_else(|| env!("CARGO_BIN_EXE_usernet").into())
}

/// The words that Podman 5 and 6 write: what is not said in options or by published ports is said by Podman.
pub(crate) fn podman(netns: &Path, options: &[&str], published: &[&str]) -> Vec<String> {
    let own: Vec<&str> = options.iter().chain(published).copied().collect();
    let said = |names: &[&str]| own.iter().any(|word| names.contains(word));
    let mut words = vec!["--config-net"];
    words.extend(&own);
    if !said(&["--dns-forward"]) {
        words.extend(["--dns-forward", "169.254.1.1"]);
    }
    for (short, long) in [
        ("-t", "--tcp-ports"),
        ("-u", "--udp-ports"),
        ("-T", "--tcp-ns"),
        ("-U", "--udp-ns"),
    ] {
        if !said(&[short, long]) {
            words.extend([short, "none"]);
        }
    }
    if said(&["--map-gw"]) {
        words.retain(|word| *word != "--map-gw");
    } else {
        words.push("--no-map-gw");
    }
    if !said(&["-d", "--debug", "--trace"]) {
        words.push("--quiet");
    }
    let netns = netns.to_string_lossy();
    words.extend(["--netns", &netns]);
    if !said(&["--map-guest-addr"]) {
        words.extend(["--map-guest-addr", MAP_GUEST]);
    }
    words.into_iter().map(ToOwned::to_owned).collect()
}

/// Global addresses of a namespace, with their prefixes, in the order of the kernel.
pub(crate) fn global(netns: &Netns, family: Family) -> Result<Vec<String>> {
    let shown = netns.sh(&format!("ip -o {} addr show scope global", family.option()))?;
    let words = shown.lines().map(|line| line.split_whitespace().nth(3));
    Ok(words.flatten().map(ToOwned::to_owned).collect())
}

/// Waits until no address of a guest is tentative, as Podman's tests do.
pub(crate) fn settle(guest: &Netns) -> Result<()> {
    wait_for("an address is not tentative", || {
        guest
            .sh("ip addr show tentative")
            .is_ok_and(|shown| shown.is_empty())
    })
}

/// Bytes without a pattern, always the same ones.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next)
        .flatten()
        .take(count)
        .collect()
}

pub(crate) fn listen(netns: &Netns, at: impl Into<SocketAddr>) -> Result<TcpListener> {
    let at = at.into();
    netns
        .enter(|| Ok(TcpListener::bind(at)?))
        .with_context(|| format!("listening on {at}"))
}

pub(crate) fn connect(netns: &Netns, to: impl Into<SocketAddr>) -> Result<TcpStream> {
    let to = to.into();
    let stream = netns
        .enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A socket for datagrams that waits for each as long as it may take.
pub(crate) fn datagrams(netns: &Netns, at: impl Into<SocketAddr>) -> Result<UdpSocket> {
    let at = at.into();
    let socket = netns
        .enter(|| Ok(UdpSocket::bind(at)?))
        .with_context(|| format!("binding {at}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The address of an interface that only its link knows.
pub(crate) fn link_local(netns: &Netns, interface: &str) -> Result<Ipv6Addr> {
    let shown = netns.sh(&format!("ip -o -6 addr show dev {interface} scope link"))?;
    let word = shown.split_whitespace().nth(3);
    let Some((address, _)) = word.and_then(|word| word.split_once('/')) else {
        bail!("no link-local address: {shown}");
    };
    Ok(address.parse()?)
}

/// A failed call, and what it said.
pub(crate) fn refused(words: &[&str]) -> Result<Finished> {
    let finished = program().args(words).run()?;
    ensure!(finished.code() == Some(1), "{finished}");
    Ok(finished)
}
