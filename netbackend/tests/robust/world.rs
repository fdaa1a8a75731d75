//! A lab with the program on it, as a library with steps that can be made to fail, and as an executable.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netbackend::observed::{FirewallDriver, Settings};
use netbackend::plan::step::Step;
use netbackend::request::{self, Policy, SetupRequest, TeardownRequest};
use netbackend::sys::apply::{self, Change};
use netbackend::sys::{self, SysError, call};
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};
use test_fixtures::recording::{Call, Places};
use test_fixtures::snapshot::Snapshot;
use test_fixtures::traffic::{self, Protocol, Server};

use crate::lab::{self, Host};
use crate::requests::Plain;

/// How long what happens in its own time may take: a responder that ends, an address that is checked.
const SETTLED: Duration = Duration::from_secs(10);

/// A host, the program's state directory on it, and a machine outside.
#[derive(Debug)]
pub(crate) struct World<'a> {
    /// The host.
    pub(crate) host: &'a Host,
    /// The state directory.
    pub(crate) config: PathBuf,
    /// Where plugins are.
    pub(crate) plugins: PathBuf,
    /// How many seconds the plugin takes, in calls of the executable.
    pub(crate) plugin_delay: &'static str,
    outside: Netns,
    firewall: FirewallDriver,
}

/// Which step of a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None.
    Never,
    /// The one with this number, before it has done anything.
    Before(usize),
    /// The one with this number, after it has been done.
    After(usize),
    /// None, but the reply cannot be written.
    Reply,
}

/// What came of a call of the library.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether the call came to the step that was to fail.
    pub(crate) reached: bool,
    /// What failed.
    pub(crate) errors: Vec<String>,
    /// Which steps that were done have an undo.
    pub(crate) has_undo: Vec<bool>,
}

impl Outcome {
    /// Nothing has failed.
    pub(crate) fn is_good(&self) -> Result<()> {
        ensure!(self.errors.is_empty(), "failed: {:?}", self.errors);
        Ok(())
    }

    /// What was to fail has failed, and nothing else.
    pub(crate) fn is_injected(&self) -> Result<()> {
        let injected = matches!(self.errors.as_slice(), [error] if error.contains("injected"));
        ensure!(injected, "what failed is {:?}", self.errors);
        Ok(())
    }
}

impl<'a> World<'a> {
    /// The lab with an outside machine.
    pub(crate) fn new(host: &'a Host) -> Result<Self> {
        let world = Self {
            host,
            config: host.dir("config")?,
            plugins: host.dir("plugins")?,
            plugin_delay: "0",
            outside: host.outside()?,
            firewall: FirewallDriver::Nftables,
        };
        world.install_plugin()?;
        // The kernel adds this one in its own time.
        let local = || host.sh("ip -6 route show table local");
        let ready = traffic::eventually(SETTLED, || {
            local().is_ok_and(|routes| routes.contains(Host::V6))
        });
        ensure!(ready, "no uplink: {}", local()?);
        Ok(world)
    }

    /// The same with another firewall driver.
    pub(crate) fn with_firewall(self, firewall: FirewallDriver) -> Self {
        Self { firewall, ..self }
    }

    /// A plugin whose work can be seen from outside: a file for each container that it has attached. It has others
    /// do it, who must not when it has been taken back. `DELAY` is how many seconds they take for it.
    fn install_plugin(&self) -> Result<()> {
        let path = self.plugins.join("plugin");
        let state = self.config.join("plugin-state").display().to_string();
        let script = format!(
            "#!/bin/sh
             read -r input
             id=${{input#*container_id\\\":\\\"}}
             id=${{id%%\\\"*}}
             [ -n \"$id\" ] || exit 1
             case $1 in
             setup) (sleep ${{DELAY:-0}}; echo here >{state}-$id) & wait; echo '{{}}' ;;
             teardown) echo gone >{state}-$id ;;
             esac\n"
        );
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make it executable")
    }

    /// Whether the plugin has attached a container.
    pub(crate) fn attached_by_plugin(&self, id: &str) -> bool {
        let path = self.config.join(format!("plugin-state-{id}"));
        fs::read_to_string(path).is_ok_and(|text| text == "here\n")
    }

    /// Attaches a container, by the library.
    pub(crate) fn setup(&self, document: &str, netns: &Path, fault: Fault) -> Result<Outcome> {
        let request = SetupRequest::new(
            request::parse(document.as_bytes())?,
            &Policy {
                default_isolation: None,
            },
        )?;
        let mut injector = Injector::new(fault);
        let errors = runtime()?.block_on(async {
            let mut host = sys::Host::open(self.settings(), None)?;
            call::repair(&mut host).await?;
            let done = call::setup(&mut host, &request, netns, async |host, step| {
                injector.perform(host, step).await
            })
            .await;
            let errors = match done {
                Ok((_, applied)) => {
                    if fault == Fault::Reply {
                        apply::take_back(applied, async |step| host.perform(step).await).await;
                    }
                    host.state.end();
                    Vec::new()
                }
                Err(error) => vec![error.to_string()],
            };
            call::conclude(host).await;
            anyhow::Ok(errors)
        })?;
        Ok(injector.outcome(errors))
    }

    /// Detaches a container, by the library.
    pub(crate) fn teardown(&self, document: &str, netns: &Path, fault: Fault) -> Result<Outcome> {
        let request = TeardownRequest::new(&request::parse(document.as_bytes())?)?;
        let mut injector = Injector::new(fault);
        let errors = runtime()?.block_on(async {
            let mut host = sys::Host::open(self.settings(), None)?;
            call::repair(&mut host).await?;
            host.enter_container(netns)?;
            let errors = call::detach(&mut host, &request, async |host, step| {
                injector.perform(host, step).await
            })
            .await?;
            call::conclude(host).await;
            anyhow::Ok(errors)
        })?;
        Ok(injector.outcome(errors.iter().map(ToString::to_string).collect()))
    }

    /// Does something by the library, on a host that it takes over.
    pub(crate) fn by_library(
        &self,
        fault: Fault,
        body: impl AsyncFnOnce(sys::Host, &mut Injector) -> Result<Vec<String>>,
    ) -> Result<Outcome> {
        let mut injector = Injector::new(fault);
        let errors = runtime()?.block_on(async {
            let host = sys::Host::open(self.settings(), None)?;
            body(host, &mut injector).await
        })?;
        Ok(injector.outcome(errors))
    }

    fn settings(&self) -> Settings {
        Settings {
            config: self.config.clone(),
            rootless: false,
            dns_binary: lab::dnsd(),
            dns_port: 53,
            firewall: self.firewall,
            plugin_directories: vec![self.plugins.clone()],
        }
    }

    /// The arguments of the executable.
    pub(crate) fn arguments(&self, verb: &str, netns: &Path) -> Vec<String> {
        let (config, netns) = (
            self.config.display().to_string(),
            netns.display().to_string(),
        );
        vec![
            "--config".to_owned(),
            config,
            format!("--aardvark-binary={}", lab::dnsd().display()),
            "--plugin-directory".to_owned(),
            self.plugins.display().to_string(),
            format!("--firewall-driver={}", self.firewall.name()),
            verb.to_owned(),
            netns,
        ]
    }

    /// Runs the executable.
    pub(crate) fn run(
        &self,
        verb: &str,
        document: impl Into<Vec<u8>>,
        netns: &Path,
    ) -> Result<Finished> {
        Program::new(executable())
            .args(self.arguments(verb, netns))
            .env("DELAY", self.plugin_delay)
            .stdin(document)
            .run_in(self.host)
    }

    /// Makes a recorded call that changes a network, which must succeed.
    pub(crate) fn update(&self, call: &Call) -> Result<()> {
        let finished = Program::new(executable())
            .args(self.recorded_arguments(call))
            .stdin(call.input.as_str())
            .run_in(self.host)?;
        ensure!(finished.success(), "{}: {finished}", call.name);
        Ok(())
    }

    /// The arguments of a recorded call that is about no container.
    pub(crate) fn recorded_arguments(&self, call: &Call) -> Vec<String> {
        call.argv(Places {
            config: &self.config,
            netns: Path::new("/run/netns"),
            aardvark: &lab::dnsd(),
        })
    }

    /// Runs the executable, which must succeed.
    pub(crate) fn good(&self, verb: &str, document: &str, netns: &Path) -> Result<Finished> {
        let finished = self.run(verb, document, netns)?;
        ensure!(finished.success(), "{verb}: {finished}\nfor {document}");
        Ok(finished)
    }

    /// Attaches a container by the executable, with a server in it that answers with its id.
    pub(crate) fn start(&self, plain: Plain) -> Result<Living> {
        let netns = self.host.container(&plain.id())?;
        self.good("setup", &plain.document(), netns.path())?;
        let server = traffic::serve(
            &netns,
            Protocol::Tcp,
            SocketAddr::new(plain.address(), 80),
            &plain.id(),
        )?;
        Ok(Living {
            plain,
            netns,
            _server: server,
        })
    }

    /// Detaches it.
    pub(crate) fn stop(&self, living: Living) -> Result<()> {
        self.good("teardown", &living.plain.document(), living.netns.path())
            .map(drop)
    }

    /// Which container answers on a port of the host, asked from outside.
    pub(crate) fn who_answers(&self, port: u16) -> Result<String> {
        let to = SocketAddr::new(Host::V4.parse()?, port);
        let reply = traffic::tcp_ask(&self.outside, to).with_context(|| format!("port {port}"))?;
        Ok(reply.tag)
    }

    /// Fails unless a living container answers on its published port or, when it has none, the host at its address.
    pub(crate) fn check(&self, living: &Living) -> Result<()> {
        let expected = living.plain.id();
        let found = if living.plain.port == 0 {
            let to = SocketAddr::new(living.plain.address(), 80);
            traffic::tcp_ask(self.host, to)?.tag
        } else {
            self.who_answers(living.plain.port)?
        };
        ensure!(found == expected, "{found} answers for {expected}");
        Ok(())
    }

    /// The host, apart from an empty lock file that netavark, too, leaves behind, and the directory of a responder that
    /// takes its time to end. A responder that has no network left is waited for, so that none is taken for part of the
    /// host that is about to go.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let mut last = self.look()?;
        let begin = Instant::now();
        while !self.has_names()? && begin.elapsed() < SETTLED {
            if !last.lines().iter().any(|line| is_responder(line)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            last = self.look()?;
        }
        Ok(last)
    }

    /// Whether there are networks for a responder to serve.
    fn has_names(&self) -> Result<bool> {
        let Ok(files) = fs::read_dir(self.config.join("aardvark-dns")) else {
            return Ok(false);
        };
        for file in files {
            if file?.file_name() != "aardvark.pid" {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn look(&self) -> Result<Snapshot> {
        let snapshot = Snapshot::take(self.host, &[&self.config, Path::new("/run/sysctl.d")])?;
        Ok(snapshot.without(|line| {
            line.contains("/aardvark.lock ")
                || line.ends_with("/aardvark-dns 40755")
                || line.contains("/plugin-state-") && line.contains("gone")
        }))
    }

    /// Fails unless the host gets to be as it was.
    pub(crate) fn check_same_as(&self, before: &Snapshot, what: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let changes = self.snapshot()?.since(before);
            if changes.is_empty() {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < SETTLED,
                "{what}: the host has changed:\n{}",
                changes.join("\n")
            );
        }
    }

    /// The same, but forwarding of packets may have been switched on, which stays (and brings anycast routes).
    pub(crate) fn check_clean(&self, before: &Snapshot, what: &str) -> Result<()> {
        let begin = Instant::now();
        let before = without_forwarding(before.clone());
        loop {
            let changes = without_forwarding(self.snapshot()?).since(&before);
            if changes.is_empty() {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < SETTLED,
                "{what}: something is left or lost:\n{}",
                changes.join("\n")
            );
        }
    }
}

/// A container with a server in it.
#[derive(Debug)]
pub(crate) struct Living {
    /// Its request.
    pub(crate) plain: Plain,
    /// Its namespace.
    pub(crate) netns: Netns,
    _server: Server,
}

/// The program under test.
pub(crate) fn executable() -> String {
    std::env::var("NETBACKEND").unwrap_or_else(|_| env!("CARGO_BIN_EXE_netbackend").to_owned())
}

fn is_responder(line: &str) -> bool {
    line.starts_with("process ") && line.contains("/aardvark-dns ") && line.ends_with(" run")
}

fn without_forwarding(snapshot: Snapshot) -> Snapshot {
    snapshot.without(|line| {
        line.contains("forwarding = ")
            || line.contains("ip_forward = ")
            || line.starts_with("route anycast ")
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("make a runtime")
}

/// Does steps, except for the one that fails.
pub(crate) struct Injector {
    fault: Fault,
    reached: bool,
    has_undo: Vec<bool>,
}

impl Injector {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            reached: false,
            has_undo: Vec::new(),
        }
    }

    pub(crate) async fn perform(
        &mut self,
        host: &mut sys::Host,
        step: &Step,
    ) -> Result<Change, SysError> {
        let number = self.has_undo.len();
        self.has_undo.push(false);
        if self.fault == Fault::Before(number) {
            self.reached = true;
            return Err(injected());
        }
        let change = host.perform(step).await?;
        if self.fault == Fault::After(number) {
            self.reached = true;
            return Err(injected());
        }
        self.has_undo[number] = matches!(
            &change,
            Change::Made(undo) | Change::Answered(undo, _) if !undo.is_empty()
        );
        Ok(change)
    }

    fn outcome(self, errors: Vec<String>) -> Outcome {
        Outcome {
            reached: self.reached,
            errors,
            has_undo: self.has_undo,
        }
    }
}

fn injected() -> SysError {
    SysError::Io {
        context: "injected".to_owned(),
        source: std::io::Error::from_raw_os_error(libc::EIO),
    }
}
