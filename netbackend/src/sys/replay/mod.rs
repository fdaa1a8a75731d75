//! Carries out a recorded request once more, on a host of its own. See [`crate::replay`].
//!
//! The first process makes new namespaces (network, mount and process, and user if it may not otherwise) and starts
//! itself anew as the first process in them. That one makes the host and has the backend called. All processes end
//! with it, and the kernel takes the namespaces down after them, so nothing can be left of a replay, however it ends.

mod probe;
mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};
use serde_json::Value;
use wire::replay::{Call, Report};

use self::stage::Stage;
use super::{SysError, engine, files, input};
use crate::record::BACKEND;
use crate::replay::{self, Case, NotACase};
use crate::request::{self, Policy, RequestError, SetupRequest};

/// The program that runs, whatever its path is where it runs.
const OWN: &str = "/proc/self/exe";

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How long what is to go may take to go.
const END_LIMIT: Duration = Duration::from_secs(3);

/// How often something is looked at that is awaited.
const TICK: Duration = Duration::from_millis(1);

/// Why a replay did not come to an end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is the message of its source")]
pub enum NotReplayed {
    #[error(transparent)]
    Sys(#[from] SysError),
    #[error("{path}: {why}")]
    Case { path: String, why: NotACase },
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// What to look for where an ordinary user gets no namespaces.
const NOT_PERMITTED: &str = "make namespaces (expected root, or user namespaces to be permitted: user.max_user_namespaces, \
     kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)";

/// Starts this call anew, as the first process of new namespaces. Returns the code that it ended with.
///
/// # Errors
/// The kernel grants no namespaces.
pub fn in_namespaces() -> Result<i32, SysError> {
    let wanted = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let failed = |what: &str| SysError::io(format!("{what} for a throw-away host"));
    match unshare(wanted) {
        Ok(()) => {}
        Err(Errno::EPERM) => {
            let (user, group) = (geteuid(), getegid());
            unshare(wanted | CloneFlags::CLONE_NEWUSER)
                .map_err(|errno| failed(NOT_PERMITTED)(errno.into()))?;
            for (file, text) in [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("0 {user} 1")),
                ("gid_map", format!("0 {group} 1")),
            ] {
                let path = Path::new("/proc/self").join(file);
                fs::write(path, text).map_err(failed("become root"))?;
            }
        }
        Err(errno) => return Err(failed("make namespaces")(errno.into())),
    }
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    arguments.push("--inside".into());
    let status = Command::new(OWN).args(arguments).status();
    let status = status.map_err(failed("start the first process"))?;
    Ok(status.code().unwrap_or(1))
}

/// What is replayed, and by whom.
#[derive(Debug, Clone)]
pub struct Replay<'a> {
    /// The file.
    pub file: &'a Path,
    /// The backend; this program if there is none.
    pub backend: Option<&'a Path>,
    /// The DNS responder to use, if it is there; else the one that engines call.
    pub responder: &'a Path,
    /// Where plugins are.
    pub plugins: &'a [PathBuf],
    /// The program to change the packet filter by, if any.
    pub nft: Option<&'a Path>,
    /// What else the command line says.
    pub policy: Policy,
}

/// Replays, as the first process of new namespaces.
///
/// # Errors
/// The file is no case, or the host cannot be made.
pub async fn run(replay: &Replay<'_>) -> Result<Report, NotReplayed> {
    if std::process::id() != 1 {
        let why = io::Error::new(
            ErrorKind::InvalidInput,
            "expected to be the first process of a throw-away host",
        );
        return Err(SysError::io("replay --inside")(why).into());
    }
    // Whoever waits for the report is gone, then.
    set_pdeathsig(Signal::SIGKILL).map_err(|errno| SysError::io("replay")(errno.into()))?;
    let path = replay.file.display().to_string();
    let text = fs::read_to_string(replay.file).map_err(SysError::io(format!("read {path}")))?;
    let case = replay::case(&text).map_err(|why| NotReplayed::Case { path, why })?;
    let options = request::parse(case.request.as_bytes())?;
    let container = options.container_name.clone();
    let networks: Vec<String> = options
        .networks
        .entries
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    // What cannot be understood is for the backend to refuse, on a host with nothing special.
    let understood = SetupRequest::new(options, &replay.policy).ok();
    let scenery = understood.as_ref().map(replay::scenery);
    let stage = Stage::set(scenery.as_ref()).await?;
    let calls = Calls::new(&case, &stage, replay)?;
    let before = stage.snapshot().await?;
    let mut report = Report {
        container,
        networks,
        ..Report::default()
    };
    (report.plan, report.nft) = calls.plan()?;
    let (setup, reply) = calls.make("setup")?;
    report.setup = setup;
    report.status = reply
        .clone()
        .and_then(|reply| serde_json::from_value(reply).ok());
    if let Some((_, Some(recorded))) = &case.recorded {
        let now = reply.unwrap_or_default();
        report.differs = Some(replay::differences(recorded, &now));
    }
    if let (Some(request), Some(scenery), Some(status), Some(0)) = (
        &understood,
        &scenery,
        &report.status,
        report.setup.exit_code,
    ) {
        let (wanted, not_asked) = replay::checks(request, scenery, status);
        report.not_asked = not_asked;
        let asked = wanted
            .iter()
            .map(|(question, answered)| probe::ask(&stage, question, *answered));
        report.checks = asked.collect();
    }
    report.teardown = Some(calls.make("teardown")?.0);
    report.left = left(&stage, &before).await?;
    let expected = case.recorded.and_then(|(code, _)| code).unwrap_or(0);
    report.good = report.setup.exit_code == Some(expected)
        && report.checks.iter().all(|check| check.good)
        && report.teardown.iter().all(|call| call.exit_code == Some(0))
        && report.left.is_empty();
    Ok(report)
}

/// What the command line says of programs that the backend calls.
fn programs(replay: &Replay<'_>) -> Vec<String> {
    let responder = engine::responder(replay.responder).filter(|path| path.is_file());
    let responder = responder.unwrap_or_default();
    let mut words = vec![format!("--aardvark-binary={}", responder.display())];
    let plugins = replay.plugins.iter();
    words.extend(plugins.map(|directory| format!("--plugin-directory={}", directory.display())));
    let nft = replay.nft.iter();
    words.extend(nft.map(|program| format!("--nft={}", program.display())));
    words
}

/// What is there that was not before. What ends in its own time has some.
async fn left(stage: &Stage, before: &[String]) -> Result<Vec<String>, SysError> {
    let limit = Instant::now() + END_LIMIT;
    loop {
        let mut now = stage.snapshot().await?;
        now.retain(|line| !before.contains(line));
        if now.is_empty() || Instant::now() > limit {
            return Ok(now);
        }
        std::thread::sleep(TICK * 10);
    }
}

/// How the backend is called.
struct Calls<'a> {
    case: &'a Case,
    backend: PathBuf,
    programs: Vec<String>,
    netns: String,
    config: String,
    request: PathBuf,
}

impl<'a> Calls<'a> {
    fn new(case: &'a Case, stage: &Stage, replay: &Replay<'_>) -> Result<Self, SysError> {
        let request = stage.directory().join("request.json");
        fs::write(&request, &case.request).map_err(SysError::io("write the request"))?;
        Ok(Self {
            case,
            backend: replay.backend.unwrap_or_else(|| OWN.as_ref()).to_path_buf(),
            programs: programs(replay),
            netns: stage.container_path().display().to_string(),
            config: stage.config().display().to_string(),
            request,
        })
    }

    fn arguments(&self, words: &[&str]) -> Vec<String> {
        replay::arguments(&self.case.arguments, &self.config, &self.programs, words)
    }

    /// The steps of our own plan, and what it says to the packet filter; empty if there is none.
    fn plan(&self) -> Result<(Vec<String>, String), SysError> {
        let arguments = self.arguments(&["plan", "--json", "setup", &self.netns]);
        let (_, output) = self.call(OWN.as_ref(), &arguments)?;
        let plan: Value = serde_json::from_str(&output).unwrap_or_default();
        let steps = plan["steps"].as_array().into_iter().flatten();
        let steps = steps.filter_map(|step| step["step"].as_str().map(str::to_owned));
        Ok((
            steps.collect(),
            plan["nft"].as_str().unwrap_or_default().to_owned(),
        ))
    }

    /// A call of the backend, and the document that it answered.
    fn make(&self, verb: &str) -> Result<(Call, Option<Value>), SysError> {
        let arguments = self.arguments(&[verb, &self.netns]);
        let (mut call, output) = self.call(&self.backend, &arguments)?;
        let reply: Option<Value> = serde_json::from_str(&output).ok();
        let error = reply.as_ref().and_then(|reply| reply["error"].as_str());
        call.error = error.map(str::to_owned);
        Ok((call, reply))
    }

    fn call(&self, program: &Path, arguments: &[String]) -> Result<(Call, String), SysError> {
        let failed = |error| SysError::io(format!("start {}", program.display()))(error);
        let input = fs::File::open(&self.request).map_err(SysError::io("open the request"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(&self.case.environment)
            // The host's bus and its firewalld are not for us.
            .env("DBUS_SYSTEM_BUS_ADDRESS", "")
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in ["PATH", "RUST_LOG"] {
            if let Some(value) = input::variable(name) {
                command.env(name, value);
            }
        }
        let start = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let (exit_code, output, log) = outcome(&mut child, start + LIMIT).map_err(failed)?;
        let call = Call {
            exit_code,
            duration_us: start.elapsed().as_micros().try_into().unwrap_or(u64::MAX),
            error: None,
            log,
        };
        Ok((call, output))
    }
}

/// Waits for the end of a program, but not for ever, and for what it says. What others that it started hold open is not
/// waited for.
fn outcome(child: &mut Child, limit: Instant) -> io::Result<(Option<i32>, String, String)> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let pipes = [
        stdout.as_ref().map(AsFd::as_fd),
        stderr.as_ref().map(AsFd::as_fd),
    ];
    for pipe in pipes.into_iter().flatten() {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let (mut output, mut log) = (Vec::new(), Vec::new());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    loop {
        let ended = child.try_wait()?;
        take(&mut stdout, &mut output)?;
        take(&mut stderr, &mut log)?;
        if let Some(status) = ended {
            return Ok((status.code(), text(&output), text(&log)));
        }
        if Instant::now() > limit {
            child.kill()?;
            child.wait()?;
            log.extend(format!("{BACKEND} was ended after {} s\n", LIMIT.as_secs()).as_bytes());
            return Ok((None, text(&output), text(&log)));
        }
        std::thread::sleep(TICK / 4);
    }
}

/// Reads what is there.
fn take(pipe: &mut Option<impl Read>, text: &mut Vec<u8>) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    match open.read_to_end(text) {
        Ok(_) => *pipe = None,
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Files below a directory, with their own paths.
fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in files::names(directory).unwrap_or_default() {
        let path = directory.join(name);
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

/// What a process is called; nothing if it has ended.
fn process_name(pid: &str) -> Option<String> {
    let state: BTreeMap<String, String> = files::read(format!("/proc/{pid}/status").as_ref())
        .ok()??
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let ended = state
        .get("State")
        .is_none_or(|state| state.starts_with(['Z', 'X']));
    state.get("Name").filter(|_| !ended).cloned()
}
