//! The program under test in a lab.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use test_fixtures::lab::{self, Host};
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

/// [`lab::run`] once the program is built: cargo builds examples only when it is asked for all tests.
pub(crate) fn run<F>(body: F)
where
    F: FnOnce(&Host) -> Result<()>,
{
    static BUILT: OnceLock<()> = OnceLock::new();
    // Inside the lab nothing can be built, and outside it was.
    if std::env::var_os("TEST_LAB").is_none() {
        BUILT.get_or_init(|| build().unwrap_or_else(|error| panic!("no example: {error:?}")));
    }
    lab::run(body);
}

fn build() -> Result<()> {
    let example = path();
    let directory = example.ancestors().nth(2).context("target/PROFILE")?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let target = directory.parent().context("target")?;
    let finished = Program::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--package", "usernet"])
        .args(["--example", "attach", "--profile", profile])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .arg("--target-dir")
        .arg(target)
        .timeout(Duration::from_secs(900))
        .run()?;
    ensure!(finished.success(), "{finished}");
    Ok(())
}

/// The example of this crate.
pub(crate) fn program() -> Program {
    Program::new(path()).timeout(Duration::from_secs(20))
}

/// Where it is.
pub(crate) fn path() -> PathBuf {
    let this = std::env::current_exe().expect("a test knows its path");
    let directory = this.parent().and_then(Path::parent);
    directory
        .expect("tests are in deps")
        .join("examples/attach")
}

/// A lab where everybody may open `/dev/net/tun`, as on most machines.
pub(crate) fn open_tun(host: &Host) -> Result<()> {
    let finished = host.sh(
        "mkdir /run/lab/dev && mount -t tmpfs dev /run/lab/dev && mknod -m 666 /run/lab/dev/tun c 10 200
         mount -o bind /run/lab/dev/tun /dev/net/tun",
    );
    // Not root: it is as it is.
    finished.map(drop).or(Ok(()))
}

/// Runs a script as root of a user namespace only, as an engine is, in a directory with the file of a network
/// namespace, `ns`.
pub(crate) fn as_engine(host: &Host, script: &str) -> Result<Finished> {
    let directory = host.dir("engine")?;
    let prepare = format!(
        "cd {} && touch ns && unshare --net=ns true",
        directory.display()
    );
    Program::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-ec"])
        .arg(format!("{prepare}\n{script}"))
        .run()
}

/// The program itself, to configure the guest.
pub(crate) fn usernet(words: &[&str]) -> Program {
    Program::new(env!("CARGO_BIN_EXE_usernet"))
        .arg("--config-net")
        .args(words)
}

/// The program itself, quiet, without the ports that the words do not name.
pub(crate) fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<Daemon> {
    let kinds = ["-t", "-u", "-T", "-U"].into_iter();
    let others = kinds.filter(|kind| !words.contains(kind));
    let others = others.flat_map(|kind| [kind, "none"]);
    Daemon::of(usernet(words).arg("--quiet").args(others), host, guest)
}

/// A daemon that is ready.
pub(crate) struct Daemon {
    pub(crate) pid: i32,
    pub(crate) finished: Finished,
}

impl Daemon {
    /// Start one with these words and a pid file.
    pub(crate) fn start(host: &Host, words: &[&str]) -> Result<Self> {
        let file = pid_file(host)?;
        let finished = program()
            .args(words)
            .arg(format!("pid={}", file.display()))
            .run()?;
        if !finished.success() {
            bail!("not started: {finished}");
        }
        let text = std::fs::read_to_string(&file)?;
        let pid = text.strip_suffix('\n').context("no newline")?.parse()?;
        Ok(Self { pid, finished })
    }

    /// The program itself with its words, or what becomes it, in the background of this guest.
    pub(crate) fn of(program: Program, host: &Host, guest: &Netns) -> Result<Self> {
        let file = pid_file(host)?;
        let finished = program
            .arg("--pid")
            .arg(&file)
            .arg("--netns")
            .arg(guest.path())
            .run()?;
        ensure!(finished.success(), "{finished}");
        let pid = std::fs::read_to_string(&file)?.trim().parse()?;
        Ok(Self { pid, finished })
    }

    /// Whether the process is there and has not ended.
    pub(crate) fn lives(&self) -> bool {
        state(self.pid).is_some_and(|state| state != 'Z')
    }

    /// Wait until it has ended; how long that took.
    pub(crate) fn ended(&self) -> Result<Duration> {
        let begin = Instant::now();
        wait_for("the daemon ends", || !self.lives())?;
        Ok(begin.elapsed())
    }
}

fn pid_file(host: &Host) -> Result<PathBuf> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ok(host.dir("pids")?.join(count.to_string()))
}

/// The letter of a process' state.
pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Lines of `/proc/PID/status` that begin so.
pub(crate) fn status(pid: i32, name: &str) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(line
        .context("no such line")?
        .trim_matches([':', '\t', ' '])
        .to_owned())
}

/// Processes whose parent this is.
pub(crate) fn children(pid: i32) -> Result<Vec<i32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let Ok(child) = name.parse() else { continue };
        if status(child, "PPid").is_ok_and(|parent| parent == pid.to_string()) {
            children.push(child);
        }
    }
    Ok(children)
}

/// Not a measurement: whatever is waited for either happens or does not.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    for _ in 0..6000 {
        if done() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!("never: {what}")
}
