//! The namespaces of one contender: `host`, where the forwarder runs, with a way out to `outside`; and `guest`, behind the
//! forwarder.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use test_fixtures::netns::Netns;

use crate::far::{FAR, Link, NEAR};
use crate::load::Servers;

/// The host's address, for the guest.
pub(crate) const HOST: &str = "10.99.0.2";
/// The other end of the host's way out.
const GATEWAY: &str = "10.99.0.1";
const GUEST: &str = "10.0.2.100";
/// The port that is published, and listened on in the guest.
pub(crate) const PUBLISHED: u16 = 7002;

/// A forwarder to measure.
pub(crate) struct Contender {
    kind: Kind,
    /// What the table calls it.
    pub(crate) label: String,
}

enum Kind {
    /// Anything with the command line of pasta.
    Pasta(PathBuf),
    Slirp(PathBuf),
    /// The kernel's own link and translation: the limit.
    Veth,
    /// No forwarder: the host itself in the guest's place.
    Direct,
}

impl FromStr for Contender {
    type Err = anyhow::Error;

    /// `veth`, `direct`, `pasta:PATH[:LABEL]` or `slirp4netns:PATH[:LABEL]`.
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, ':');
        let kind = parts.next().unwrap_or_default();
        let path = parts.next();
        let label = parts.next().unwrap_or(kind).to_owned();
        let kind = match (kind, path) {
            ("veth", _) => Kind::Veth,
            ("direct", _) => Kind::Direct,
            ("pasta", Some(path)) => Kind::Pasta(path.into()),
            ("slirp4netns", Some(path)) => Kind::Slirp(path.into()),
            _ => bail!(
                "{text}: expected veth, direct, pasta:PATH[:LABEL] or slirp4netns:PATH[:LABEL]"
            ),
        };
        Ok(Self { kind, label })
    }
}

/// A path over the network.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    /// Of an empty packet. Zero: nothing but the kernel in between.
    pub(crate) round_trip: Duration,
    /// What an end may send, where the round trip is not zero.
    pub(crate) mbit_s: u32,
    /// Of all namespaces.
    pub(crate) control: &'static str,
    /// The most that `tcp_rmem` and `tcp_wmem` of all namespaces allow, bytes.
    pub(crate) buffers: u32,
}

/// Namespaces and what runs in them.
pub(crate) struct Site {
    contender: Contender,
    number: usize,
    /// Where the forwarder runs.
    pub(crate) host: Netns,
    /// What it forwards for.
    guest: Netns,
    /// The network behind the host.
    pub(crate) outside: Netns,
    /// A second way there.
    link: Option<Link>,
    /// Servers in both.
    pub(crate) servers: Servers,
    running: Option<Running>,
}

enum Running {
    Daemon(i32),
    Child(Child),
    Kernel,
    Nothing,
}

impl Site {
    /// Namespaces with servers, and no forwarder yet.
    pub(crate) fn new(number: usize, contender: &Contender) -> Result<Self> {
        let create = |name: &str| Netns::create(&format!("{name}{number}-{}", std::process::id()));
        let (host, guest, outside) = (create("host")?, create("guest")?, create("outside")?);
        for netns in [&host, &guest, &outside] {
            netns.sh("ip link set lo up
                sysctl -qw net.ipv4.tcp_rmem='4096 131072 6291456' net.ipv4.tcp_wmem='4096 16384 4194304' \
                    net.ipv4.ip_local_port_range='16384 65535' net.ipv4.tcp_max_tw_buckets=1000 net.ipv4.tcp_tw_reuse=1")?;
        }
        let link = outside.path().display();
        host.sh(&format!(
            "ip link add h0 type veth peer name o0 netns {link}
             ip addr add {HOST}/24 dev h0; ip link set h0 up
             nsenter --net={link} ip addr add {GATEWAY}/24 dev o0; nsenter --net={link} ip link set o0 up
             ip route add default via {GATEWAY}"
        ))?;
        let direct = matches!(contender.kind, Kind::Direct);
        let servers = Servers::start(&host, if direct { &host } else { &guest }, &outside)?;
        Ok(Self {
            contender: Contender {
                kind: match &contender.kind {
                    Kind::Pasta(path) => Kind::Pasta(path.clone()),
                    Kind::Slirp(path) => Kind::Slirp(path.clone()),
                    Kind::Veth => Kind::Veth,
                    Kind::Direct => Kind::Direct,
                },
                label: contender.label.clone(),
            },
            number,
            host,
            guest,
            outside,
            link: None,
            servers,
            running: None,
        })
    }

    /// The path over the network from now on: its round trip, the congestion control, and the buffers' limit, which is
    /// the same for all. Tells the addresses of this end and of the other one.
    pub(crate) fn set_path(&mut self, path: &Path) -> Result<(&'static str, &'static str)> {
        let (near, far) = if path.round_trip.is_zero() {
            (HOST, GATEWAY)
        } else {
            if self.link.is_none() {
                self.link = Some(Link::new(&self.host, &self.outside, path.mbit_s)?);
            }
            (NEAR, FAR)
        };
        if let Some(link) = &self.link {
            link.set_round_trip(path.round_trip);
        }
        for netns in [&self.host, &self.guest, &self.outside] {
            // The control is a property of routes here: the sysctl of a namespace takes only what the machine allows.
            netns.sh(&format!(
                "sysctl -qw net.ipv4.tcp_rmem='4096 131072 {limit}' net.ipv4.tcp_wmem='4096 16384 {limit}' \
                     net.ipv4.tcp_no_metrics_save=1
                 ip -4 route show | sed 's/ congctl [a-z]*//' | while read -r route; do
                     ip route change $route congctl {control}
                 done",
                limit = path.buffers,
                control = path.control
            ))?;
        }
        Ok((near, far))
    }

    /// Where programs run that use the forwarder.
    pub(crate) fn guest(&self) -> &Netns {
        match self.contender.kind {
            Kind::Direct => &self.host,
            Kind::Pasta(_) | Kind::Slirp(_) | Kind::Veth => &self.guest,
        }
    }

    /// What the table calls it.
    pub(crate) fn label(&self) -> &str {
        &self.contender.label
    }

    /// Start the forwarder, and tell how long it took until it said that it was ready.
    pub(crate) fn start(&mut self, mtu: u32) -> Result<Duration> {
        let begin = Instant::now();
        let running = match &self.contender.kind {
            Kind::Pasta(path) => self.start_pasta(path, mtu),
            Kind::Slirp(path) => self.start_slirp(path, mtu),
            Kind::Veth => self.start_veth(mtu),
            Kind::Direct => Ok(Running::Nothing),
        };
        self.running = Some(running.with_context(|| format!("cannot start {}", self.label()))?);
        Ok(begin.elapsed())
    }

    /// As Podman calls it, with addresses that are the same for all.
    fn start_pasta(&self, path: &std::path::Path, mtu: u32) -> Result<Running> {
        let file = PathBuf::from(format!(
            "/run/bench-{}-{}.pid",
            self.number,
            std::process::id()
        ));
        let (guest, file_name) = (self.guest.path().display(), file.display());
        let words = format!(
            "--config-net -4 -a {GUEST} -n 24 -g 10.0.2.2 -I tap0 -m {mtu} -t {PUBLISHED} -u {PUBLISHED} -T none -U none \
             --no-map-gw -q -P {file_name} --runas 0 --netns {guest}"
        );
        let mut command = Command::new(path);
        command.args(words.split_whitespace()).stdin(Stdio::null());
        let output = self
            .host
            .enter(|| command.output().context("cannot run it"))?;
        if !output.status.success() {
            bail!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let pid = fs::read_to_string(&file).context("it wrote no pid file")?;
        Ok(Running::Daemon(
            pid.trim().parse().context("the pid file holds no number")?,
        ))
    }

    fn start_slirp(&self, path: &std::path::Path, mtu: u32) -> Result<Running> {
        let api = format!("/run/bench-{}-{}.sock", self.number, std::process::id());
        let guest = self.guest.path().display();
        // The ready descriptor of a shell's pipe: the first line is there when the forwarder is.
        let script = format!(
            "exec 3>&1 >/dev/null; exec {} --configure --mtu={mtu} --enable-sandbox --enable-seccomp --ready-fd=3 \
             --api-socket {api} --netns-type=path {guest} tap0",
            path.display()
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = self
            .host
            .enter(|| command.spawn().context("cannot run it"))?;
        let mut ready = [0];
        let pipe = child.stdout.as_mut().context("no pipe")?;
        std::io::Read::read_exact(pipe, &mut ready).context("it did not become ready")?;
        for proto in ["tcp", "udp"] {
            let request = format!(
                r#"{{"execute":"add_hostfwd","arguments":{{"proto":"{proto}","host_addr":"0.0.0.0","host_port":{PUBLISHED},"guest_addr":"{GUEST}","guest_port":{PUBLISHED}}}}}"#
            );
            crate::load::ask_unix(std::path::Path::new(&api), &request)?;
        }
        Ok(Running::Child(child))
    }

    fn start_veth(&self, mtu: u32) -> Result<Running> {
        let guest = self.guest.path().display();
        self.host.sh(&format!(
            "ip link add vg mtu {mtu} type veth peer name tap0 netns {guest} mtu {mtu}
             ip addr add 10.0.2.2/24 dev vg; ip link set vg up
             nsenter --net={guest} ip addr add {GUEST}/24 dev tap0; nsenter --net={guest} ip link set tap0 up
             nsenter --net={guest} ip route add default via 10.0.2.2
             sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1
             nft 'table ip bench {{
               chain in {{ type nat hook prerouting priority -100; fib daddr type local meta l4proto {{ tcp, udp }} th dport {PUBLISHED} dnat to {GUEST}; }}
               chain local {{ type nat hook output priority -100; fib daddr type local meta l4proto {{ tcp, udp }} th dport {PUBLISHED} dnat to {GUEST}; }}
               chain out {{ type nat hook postrouting priority 100; ip saddr 10.0.2.0/24 oifname h0 masquerade; ip saddr 127.0.0.0/8 oifname vg masquerade; }}
             }}'"
        ))?;
        Ok(Running::Kernel)
    }

    /// End the forwarder, and wait until it is gone.
    pub(crate) fn stop(&mut self) {
        match self.running.take() {
            None | Some(Running::Nothing) => {}
            Some(Running::Daemon(pid)) => {
                let pid = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
                let end = Instant::now() + Duration::from_secs(5);
                while std::path::Path::new("/proc").join(pid.to_string()).exists()
                    && Instant::now() < end
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            Some(Running::Child(mut child)) => {
                child.kill().ok();
                child.wait().ok();
            }
            Some(Running::Kernel) => {
                self.host
                    .sh("ip link del vg; nft delete table ip bench")
                    .ok();
            }
        }
    }

    fn pid(&self) -> Option<i32> {
        match self.running.as_ref()? {
            Running::Daemon(pid) => Some(*pid),
            Running::Child(child) => i32::try_from(child.id()).ok(),
            Running::Kernel | Running::Nothing => None,
        }
    }

    /// Whether the forwarder still runs.
    pub(crate) fn alive(&self) -> bool {
        self.pid()
            .is_none_or(|pid| std::path::Path::new("/proc").join(pid.to_string()).exists())
    }

    /// The forwarder and its helpers.
    fn family(&self) -> Vec<i32> {
        let Some(pid) = self.pid() else {
            return Vec::new();
        };
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let mut family: Vec<i32> = children
            .split_whitespace()
            .filter_map(|c| c.parse().ok())
            .collect();
        family.push(pid);
        family
    }

    /// Seconds of processor time that the forwarder has used.
    pub(crate) fn cpu(&self) -> f64 {
        let nanoseconds = |pid: &i32| -> Option<f64> {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
            text.split_whitespace().next()?.parse().ok()
        };
        self.family().iter().filter_map(nanoseconds).sum::<f64>() / 1e9
    }

    /// Resident memory of the forwarder and its helpers.
    pub(crate) fn resident_mb(&self) -> Option<f64> {
        self.pid()?;
        let kilobytes = |pid: &i32| -> Option<f64> {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(self.family().iter().filter_map(kilobytes).sum::<f64>() / 1024.0)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}
