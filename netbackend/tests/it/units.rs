//! The units for systemd in `units/`: they are sound, and those of the DHCP proxy do what they are for.

use std::fs::{self, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use netbackend::cli::Cli;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use test_fixtures::program::Program;
use test_fixtures::traffic::eventually;

use crate::dhcp::{World, network, request};
use crate::lab;
use crate::lan::{SOON, socket};

/// Where our units say that the program is.
const INSTALLED: &str = "/usr/libexec/netbackend/netavark";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("units")
}

/// A unit file: sections, keys, values.
struct Unit(Vec<(String, String, String)>);

impl Unit {
    fn read(name: &str) -> Result<Self> {
        let text = fs::read_to_string(directory().join(name)).context(name.to_owned())?;
        let mut section = None;
        let mut all = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(title) = line.strip_prefix('[') {
                section = Some(title.strip_suffix(']').context(line.to_owned())?.to_owned());
                continue;
            }
            let (key, value) = line.split_once('=').context(line.to_owned())?;
            let section = section.clone().context("a line before any section")?;
            ensure!(!value.is_empty() && key.trim() == key, "{name}: {line}");
            all.push((section, key.to_owned(), value.to_owned()));
        }
        Ok(Self(all))
    }

    fn value(&self, section: &str, key: &str) -> Result<&str> {
        let found = self.0.iter().find(|(s, k, _)| s == section && k == key);
        let (.., value) = found.with_context(|| format!("no {key} in {section}"))?;
        Ok(value)
    }
}

fn unit_names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "README.md" {
            names.push(name);
        }
    }
    Ok(names)
}

#[test]
fn units_start_what_there_is() -> Result<()> {
    let names = unit_names()?;
    let page = fs::read_to_string(directory().join("README.md"))?;
    for name in &names {
        ensure!(page.contains(name), "{name} is not explained");
        let unit = Unit::read(name)?;
        if name.ends_with(".service") {
            let command = unit.value("Service", "ExecStart")?;
            let words: Vec<_> = command.split(' ').collect();
            assert_eq!(words[0], INSTALLED, "{name}");
            Cli::try_parse_from(words).with_context(|| format!("{name}: {command}"))?;
        }
    }
    ensure!(names.len() >= 5, "{names:?}");
    Ok(())
}

/// What systemd itself says, where it is installed.
#[test]
fn systemd_understands_the_units() {
    lab::run(|host| {
        let copies = host.dir("units")?;
        let mut command = Program::new("systemd-analyze").args(["verify", "--man=no"]);
        for name in unit_names()? {
            let text = fs::read_to_string(directory().join(&name))?;
            let copy = copies.join(&name);
            // It looks whether the program is there.
            fs::write(
                &copy,
                text.replace(INSTALLED, env!("CARGO_BIN_EXE_netbackend")),
            )?;
            command = command.arg(&copy);
        }
        if host.sh("command -v systemd-analyze || true")?.is_empty() {
            return Ok(());
        }
        let finished = command
            .env("SYSTEMD_UNIT_PATH", format!("{}:", copies.display()))
            .run_in(host)?;
        ensure!(
            finished.success() && finished.stderr.is_empty(),
            "{finished}"
        );
        Ok(())
    });
}

/// What a service manager does with a socket and its service: it starts the one when somebody connects to the other,
/// with the capabilities that it may have, and again when it fails.
struct Manager {
    end: Arc<AtomicBool>,
    process: Arc<AtomicI32>,
    exits: Arc<Mutex<Vec<ExitStatus>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Manager {
    fn start(socket: &Unit, service: &Unit, log: &Path) -> Result<Self> {
        let path = socket
            .value("Socket", "ListenStream")?
            .replace("%t", "/run");
        let mode = u32::from_str_radix(socket.value("Socket", "SocketMode")?, 8)?;
        fs::create_dir_all(Path::new(&path).parent().context("a directory")?)?;
        let listener = UnixListener::bind(&path).context(path.clone())?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        ensure!(service.value("Service", "Restart")? == "on-failure");
        let manager = Self {
            end: Arc::default(),
            process: Arc::default(),
            exits: Arc::default(),
            thread: None,
        };
        let (end, process) = (Arc::clone(&manager.end), Arc::clone(&manager.process));
        let exits = Arc::clone(&manager.exits);
        let words = Self::command(service)?;
        let log = log.to_owned();
        let thread = thread::spawn(move || {
            let mut failed = false;
            while !end.load(Ordering::SeqCst) {
                let mut wait = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                if !failed && poll(&mut wait, PollTimeout::from(100u8))? == 0 {
                    continue;
                }
                let mut child = Command::new("setpriv")
                    .args(&words)
                    .env("RUST_LOG", "netavark=debug")
                    .stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)))
                    .stderr(fs::File::options().create(true).append(true).open(&log)?)
                    .spawn()?;
                process.store(child.id().try_into()?, Ordering::SeqCst);
                let status = child.wait()?;
                failed = !status.success();
                exits.lock().expect("nobody panics with it").push(status);
            }
            Ok(())
        });
        Ok(Self {
            thread: Some(thread),
            ..manager
        })
    }

    /// The arguments of `setpriv`. A shell moves the socket from its standard input to descriptor 3.
    fn command(service: &Unit) -> Result<Vec<String>> {
        let capabilities = service.value("Service", "CapabilityBoundingSet")?;
        let set = capabilities
            .to_lowercase()
            .split(' ')
            .fold("-all".to_owned(), |set, name| {
                format!("{set},+{}", name.trim_start_matches("cap_"))
            });
        ensure!(service.value("Service", "NoNewPrivileges")? == "yes");
        // The same, but idle for a second only.
        let start = service
            .value("Service", "ExecStart")?
            .replace(INSTALLED, env!("CARGO_BIN_EXE_netbackend"))
            .replace("-a 30", "-a 1");
        let script = format!("exec 3<&0 </dev/null; LISTEN_FDS=1 exec {start}");
        Ok([
            "--no-new-privs",
            &format!("--bounding-set={set}"),
            "sh",
            "-c",
            &script,
        ]
        .map(str::to_owned)
        .into())
    }

    /// How often the service has ended well, and how often not.
    fn ends(&self) -> (usize, usize) {
        let exits = self.exits.lock().expect("nobody panics with it");
        let good = exits.iter().filter(|status| status.success()).count();
        (good, exits.len() - good)
    }

    fn kill(&self) -> Result<()> {
        let process = self.process.load(Ordering::SeqCst);
        Ok(kill(Pid::from_raw(process), Signal::SIGKILL)?)
    }

    fn stop(mut self) -> Result<()> {
        self.end.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("it runs")?;
        let ended = thread.join();
        ended.map_err(|_| anyhow::anyhow!("the manager has panicked"))?
    }
}

#[test]
fn the_proxy_is_started_by_a_call_and_again_when_it_fails() {
    lab::run(|host| {
        let mut world = World::new(host, &["--dhcp-option=3,10.77.0.1"])?;
        let proxy = world.proxy.as_mut().context("it runs")?;
        proxy.signal(Signal::SIGTERM)?;
        let manager = Manager::start(
            &Unit::read("netavark-dhcp-proxy.socket")?,
            &Unit::read("netavark-dhcp-proxy.service")?,
            &world.directory.join("proxy.log"),
        )?;
        let mode = fs::metadata(socket())?.permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let container = host.container("c1")?;
        let request = request("web", &network());
        world.scene.setup(&container, &request)?;
        // With a lease it stays.
        thread::sleep(Duration::from_secs(3));
        assert_eq!(manager.ends(), (0, 0), "{}", world.log("proxy.log"));
        let granted = world.granted();
        manager.kill()?;
        let goes_on = || manager.ends() == (0, 1) && world.granted() > granted;
        ensure!(eventually(SOON, goes_on), "{}", world.log("proxy.log"));
        world.scene.teardown(&container, &request)?;
        assert_eq!(world.leased(), [""; 0]);
        let ended = || manager.ends() == (1, 1);
        ensure!(eventually(SOON, ended), "{}", world.log("proxy.log"));
        ensure!(socket().exists(), "the socket is not the proxy's to remove");
        // The next call finds it once more.
        world.scene.setup(&container, &request)?;
        world.scene.teardown(&container, &request)?;
        let ended = || manager.ends() == (2, 1);
        ensure!(eventually(SOON, ended), "{}", world.log("proxy.log"));
        assert_eq!(world.kept(), json!({}));
        manager.stop()
    });
}
