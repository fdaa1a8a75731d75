//! A host with containers, all set up by one program.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde_json::json;
use test_fixtures::netns::Netns;

/// For how long nothing may be sent until nothing more will be.
const QUIET: Duration = Duration::from_secs(2);
/// For how long that is waited for; with a thousand containers it takes five seconds.
const QUIET_LIMIT: Duration = Duration::from_secs(120);

/// A program with netavark's command line.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    path: PathBuf,
    version: String,
}

impl Tool {
    pub(crate) fn new(name: &'static str, path: &Path) -> Result<Self> {
        let output = Command::new(path).arg("--version").output();
        let output = output.with_context(|| format!("cannot run {}", path.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self {
            name,
            path: path.to_path_buf(),
            version,
        })
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.version)
    }
}

/// How containers are spread over networks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All on one.
    One,
    /// On so many that none has more than 250: a bridge has room for 1,023.
    Spread,
    /// Each on its own.
    Each,
}

impl Layout {
    /// How many networks so many containers are on.
    pub(crate) fn networks(self, containers: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Spread => containers / 250 + 1,
            Self::Each => containers,
        }
    }
}

/// Which ports a container publishes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    Tcp,
    TcpAndUdp,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::TcpAndUdp => "tcp+udp",
        })
    }
}

/// An empty namespace, in which nobody looks for routers. Solicitations are repeated for hours, and those of a thousand
/// containers are passed on to all of their neighbours: at no time would there be quiet.
fn netns(name: &str) -> Result<Netns> {
    let netns = Netns::create(name)?;
    netns.set_sysctl("ipv6/conf/default/router_solicitations", "0")?;
    Ok(netns)
}

/// What a call took, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    /// From before its start to after its end.
    pub(crate) wall: f64,
    /// Of the processor, by the program and all it started and waited for.
    pub(crate) cpu: f64,
}

/// A host namespace, and a state directory of its own, in which one program sets up containers.
pub(crate) struct Site<'a> {
    pub(crate) tool: &'a Tool,
    name: String,
    host: Netns,
    config: PathBuf,
    networks: usize,
    containers: Vec<Netns>,
}

impl<'a> Site<'a> {
    /// A host without containers; those to come will be on this many networks in turns.
    pub(crate) fn new(tool: &'a Tool, name: &str, networks: usize) -> Result<Self> {
        let name = format!("{}-{name}", tool.name);
        let host = netns(&name)?;
        host.sh("ip link set lo up")?;
        let config = Path::new("/run/bench").join(&name);
        fs::create_dir_all(&config).context("cannot make a state directory")?;
        Ok(Self {
            tool,
            name,
            host,
            config,
            networks,
            containers: Vec::new(),
        })
    }

    pub(crate) fn host(&self) -> &Netns {
        &self.host
    }

    /// Sets up containers until there are so many. They stay.
    pub(crate) fn fill(&mut self, containers: usize, ports: Ports) -> Result<()> {
        while self.containers.len() < containers {
            let number = self.containers.len();
            let netns = self.new_netns(&format!("c{number}"))?;
            self.call("setup", number, ports, &netns)?;
            self.containers.push(netns);
        }
        Ok(())
    }

    pub(crate) fn container(&self, number: usize) -> Option<&Netns> {
        self.containers.get(number)
    }

    /// An empty namespace for a container.
    pub(crate) fn new_netns(&self, suffix: &str) -> Result<Netns> {
        netns(&format!("{}-{suffix}", self.name))
    }

    /// Waits until the kernel has done what it does in its own time for new interfaces (multicast reports, address
    /// checks), since it is not what calls cost later: until nothing is sent any more.
    pub(crate) fn quiet_down(&self) -> Result<()> {
        let begin = Instant::now();
        let mut before = self.packets()?;
        while begin.elapsed() < QUIET_LIMIT {
            thread::sleep(QUIET);
            let now = self.packets()?;
            if now == before {
                return Ok(());
            }
            before = now;
        }
        bail!(
            "interfaces of {} still send after {QUIET_LIMIT:?}",
            self.name
        )
    }

    /// How many packets interfaces of the host have sent and received.
    fn packets(&self) -> Result<u64> {
        let text = self
            .host
            .enter(|| fs::read_to_string("/proc/thread-self/net/dev").context("count packets"))?;
        let packets = |line: &str| {
            let (_, counts) = line.split_once(':')?;
            let counts: Vec<u64> = counts.split_whitespace().flat_map(str::parse).collect();
            Some(counts.get(1)? + counts.get(9)?)
        };
        Ok(text.lines().filter_map(packets).sum())
    }

    /// Attaches or detaches the container with this number. Containers that are to stay have the lowest numbers.
    pub(crate) fn call(
        &self,
        command: &str,
        number: usize,
        ports: Ports,
        netns: &Netns,
    ) -> Result<Cost> {
        let request = request(number, self.networks, ports);
        let mut program = self.program(self.tool, command);
        program.arg(netns.path());
        self.host
            .enter(|| timed(&mut program, &request))
            .with_context(|| format!("{command} of container {number} by {}", self.tool.name))
    }

    /// Writes all rules anew, by this or another program.
    pub(crate) fn reload(&self, tool: &Tool) -> Result<Cost> {
        let mut program = self.program(tool, "firewall-reload");
        self.host
            .enter(|| timed(&mut program, ""))
            .with_context(|| format!("reload by {}", tool.name))
    }

    fn program(&self, tool: &Tool, command: &str) -> Command {
        let mut program = Command::new(&tool.path);
        program
            .arg("--config")
            .arg(&self.config)
            .args(["--rootless", "false", "--aardvark-binary", "/nonexistent"])
            .arg(command)
            .env("NETAVARK_FW", "nftables")
            .env("DBUS_SYSTEM_BUS_ADDRESS", "") // no firewalld
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        program
    }
}

/// Everything a call reads or prints fits into a pipe, so one side after the other can be dealt with.
fn timed(program: &mut Command, input: &str) -> Result<Cost> {
    let cpu = children_cpu()?;
    let begin = Instant::now();
    let mut child = program.spawn().context("cannot start")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .context("cannot write the request")?;
    }
    let status = child.wait().context("cannot wait")?;
    let wall = begin.elapsed();
    let cpu = children_cpu()?.saturating_sub(cpu);
    if !status.success() {
        let said = child
            .wait_with_output()
            .context("cannot read what it said")?;
        let words = [said.stdout, said.stderr].concat();
        let words = String::from_utf8_lossy(&words);
        bail!("{status}: {words}");
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Cost {
        wall: milliseconds(wall),
        cpu: milliseconds(cpu),
    })
}

/// The processor time of all children that have ended; only one runs at a time.
fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot read the time of children")?;
    let duration = |time: TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
        Duration::from_micros(seconds * 1_000_000 + micros)
    };
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

/// The host port of the first port of the container with this number; the second is the next.
pub(crate) fn host_port(number: usize) -> usize {
    10_000 + 2 * number
}

/// The port that it leads to.
pub(crate) const CONTAINER_PORT: u16 = 80;

/// What an engine asks for when it starts the container with this number.
fn request(number: usize, networks: usize, ports: Ports) -> String {
    let network = number % networks;
    let host = number / networks + 2;
    let port = |protocol: &str, host_port: usize| json!({"host_ip": "", "container_port": CONTAINER_PORT, "host_port": host_port, "range": 1, "protocol": protocol});
    let mut mappings = vec![port("tcp", host_port(number))];
    if ports == Ports::TcpAndUdp {
        mappings.push(port("udp", host_port(number) + 1));
    }
    let name = format!("n{network}");
    // Up to 4,096 networks of 4,094 addresses each.
    let prefix = (10 << 24) + (network << 12);
    let address = |host: usize| {
        let all = prefix + host;
        format!(
            "{}.{}.{}.{}",
            all >> 24,
            all >> 16 & 255,
            all >> 8 & 255,
            all & 255
        )
    };
    json!({
        "container_id": format!("{:064x}", number + 1),
        "container_name": format!("c{number}"),
        "port_mappings": mappings,
        "networks": {&name: {"static_ips": [address(host)], "interface_name": "eth0"}},
        "network_info": {&name: {
            "name": name,
            "id": format!("{:064x}", network + 1),
            "driver": "bridge",
            "network_interface": format!("podman{network}"),
            "subnets": [{"subnet": format!("{}/20", address(0)), "gateway": address(1)}],
            "ipv6_enabled": false,
            "internal": false,
            "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
        }},
    })
    .to_string()
}
