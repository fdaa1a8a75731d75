//! A network with a DHCP server on a machine of its own, and the proxy. (Also part of `tests/robust`.)
//!
//! The server is behind the wire, so that the host's own network stack has no part in it. Renewals of IPv4 come within
//! seconds if the server says so (T1 and T2), although no lease of dnsmasq is shorter than two minutes. For IPv6 it
//! cannot say so: they come after most of a minute.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netbackend::sys::dhcp::call_proxy;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use test_fixtures::netns::Netns;
use test_fixtures::traffic::eventually;
use wire::proxy::NetworkConfig;

use crate::lab::Host;

pub(crate) const PROXY_DIR: &str = "/run/podman";
/// The time in which whatever takes seconds has to happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A process that ends with the test.
#[derive(Debug)]
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    pub(crate) fn start(
        netns: &Netns,
        log: &Path,
        program: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let output = fs::File::options().create(true).append(true).open(log)?;
        netns.enter(|| {
            let child = Command::new(program)
                .args(arguments)
                .env("RUST_LOG", "netavark=debug")
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output)
                .spawn()
                .with_context(|| format!("cannot start {program}"))?;
            Ok(Self(child))
        })
    }

    /// Ends it by a signal, and waits.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.0.id().try_into()?), signal)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// How containers get to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// By the bridge `br1`.
    Bridge,
    /// By the host's interface `up0`.
    Parent,
}

/// A host, the server, and the proxy.
#[derive(Debug)]
pub(crate) struct Lan<'a> {
    pub(crate) host: &'a Host,
    pub(crate) server: Netns,
    pub(crate) dnsmasq: Option<Daemon>,
    pub(crate) proxy: Option<Daemon>,
    pub(crate) directory: PathBuf,
}

impl<'a> Lan<'a> {
    /// With these options for the server.
    pub(crate) fn new(host: &'a Host, wire: Wire, options: &[&str]) -> Result<Self> {
        let server = host.container("server")?;
        host.sh(match wire {
            Wire::Bridge => {
                "ip link add br1 type bridge
                 ip link set br1 up
                 ip link add port type veth peer name eth0 netns server
                 ip link set port master br1 up"
            }
            Wire::Parent => {
                "ip link add up0 type veth peer name eth0 netns server
                 ip link set up0 up"
            }
        })?;
        server.sh("ip link set lo up
                   ip addr add 10.77.0.1/16 dev eth0
                   ip addr add fd77::1/64 dev eth0 nodad
                   ip link set eth0 up")?;
        let mut lan = Self {
            host,
            server,
            dnsmasq: None,
            proxy: None,
            directory: host.dir("dhcp")?,
        };
        lan.serve("10.77.0", options)?;
        lan.start_proxy(&[])?;
        Ok(lan)
    }

    /// Starts the server with the addresses 10 to 250 below this prefix.
    pub(crate) fn serve(&mut self, prefix: &str, options: &[&str]) -> Result<()> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let range = format!("--dhcp-range={prefix}.10,{prefix}.250,255.255.0.0,2m");
        let leases = format!("--dhcp-leasefile={}", file("leases"));
        let own = [
            "--no-daemon",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=eth0",
            "--no-ping",
            "--log-dhcp",
            "--user=root",
        ];
        let mut arguments: Vec<&str> = own.to_vec();
        arguments.extend([
            &*range,
            &*leases,
            "--dhcp-range=fd77::100,fd77::1ff,64,2m",
            "--dhcp-authoritative",
        ]);
        arguments.extend(options);
        self.dnsmasq = Some(Daemon::start(
            &self.server,
            &self.directory.join("dnsmasq.log"),
            "/usr/sbin/dnsmasq",
            &arguments,
        )?);
        Ok(())
    }

    pub(crate) fn start_proxy(&mut self, arguments: &[&str]) -> Result<()> {
        let all = [&["dhcp-proxy", "--dir", PROXY_DIR], arguments].concat();
        let log = self.directory.join("proxy.log");
        self.proxy = Some(Daemon::start(
            self.host,
            &log,
            env!("CARGO_BIN_EXE_netbackend"),
            &all,
        )?);
        // Once it answers, it has read what another one left.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let nothing = NetworkConfig::default();
        let answers = || runtime.block_on(call_proxy("Clean", &nothing)).is_ok();
        ensure!(
            eventually(SOON, answers),
            "the proxy does not listen: {}",
            self.log("proxy.log")
        );
        Ok(())
    }

    pub(crate) fn kill_proxy(&mut self) -> Result<()> {
        self.proxy
            .as_mut()
            .context("it runs")?
            .signal(Signal::SIGKILL)
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    /// The addresses that the server holds leased.
    pub(crate) fn leased(&self) -> Vec<String> {
        let text = self.log("leases");
        let words = text
            .lines()
            .filter(|line| !line.starts_with("duid"))
            .filter_map(|line| line.split(' ').nth(2));
        words.map(str::to_owned).collect()
    }

    /// The proxy's file.
    pub(crate) fn kept(&self) -> Value {
        let text =
            fs::read_to_string(Path::new(PROXY_DIR).join("nv-proxy.lease")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// How often the server has granted a lease.
    pub(crate) fn granted(&self) -> usize {
        self.log("dnsmasq.log").matches("DHCPACK(").count()
    }
}

pub(crate) fn socket() -> PathBuf {
    Path::new(PROXY_DIR).join("nv-proxy.sock")
}
