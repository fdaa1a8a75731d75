//! The DNS responder: told of changes by a signal, started when it does not run.
//!
//! It is known by its pid file, whose content may be stale: the number may belong to another process by
//! now. So it is only taken for the responder if its command line mentions the directory. It starts by
//! forking; the part that we see ends with success once its sockets are bound.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{files, guard};
use crate::plan::step::DnsService;

/// The name of the pid file in the directory of zone files.
pub(super) const PID_FILE: &str = "aardvark.pid";

/// Whether systemd manages this host.
const SYSTEMD: &str = "/run/systemd/system";

/// How long a responder may take from the end of its first process to its first look at signals.
const START_LIMIT: Duration = Duration::from_secs(1);

/// How long a responder may take to end. It takes a few milliseconds; a busy machine needs more.
const END_LIMIT: Duration = Duration::from_secs(1);

/// How long a responder may take until it answers.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// How long a responder that was killed may take until it is gone.
const DYING: Duration = Duration::from_millis(200);

/// How often a responder is looked at that is awaited.
const TICK: Duration = Duration::from_millis(1);

/// Tells the responder to read its directory again, or starts it.
///
/// # Errors
/// It does not start; the text is its own, or says why it could not be run.
pub(super) fn notify(service: &DnsService) -> Result<(), String> {
    if let Some(pid) = signal(&service.directory)? {
        check_namespace(pid);
        return Ok(());
    }
    if has_zones(&service.directory) {
        start(service)
    } else {
        Ok(())
    }
}

/// Tells the responder to read its directory again, if it runs. Returns its process.
///
/// # Errors
/// It may not be signalled.
pub(super) fn signal(directory: &Path) -> Result<Option<Pid>, String> {
    let Some(pid) = running(directory) else {
        return Ok(None);
    };
    wait_for_handler(pid);
    match kill(pid, Signal::SIGHUP) {
        Ok(()) => Ok(Some(pid)),
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(format!("signal aardvark-dns, process {pid}: {errno}")),
    }
}

/// Waits until a responder that has just been started handles or blocks our signal, which would end it
/// before. One that never does is given up: it is signalled all the same, and started anew by the call
/// after that.
fn wait_for_handler(pid: Pid) {
    let limit = Instant::now() + START_LIMIT;
    while hears(pid, Signal::SIGHUP) == Some(false) && Instant::now() < limit {
        std::thread::sleep(TICK);
    }
}

/// Whether a process handles or blocks a signal, if it can be told.
fn hears(pid: Pid, signal: Signal) -> Option<bool> {
    let status = files::read(format!("/proc/{pid}/status").as_ref()).ok()??;
    // Signal n is bit n - 1.
    let has = |line: &str| {
        let mask = u64::from_str_radix(line.trim(), 16).ok()?;
        Some(mask >> (signal as u32 - 1) & 1 == 1)
    };
    let masks = ["SigBlk:", "SigIgn:", "SigCgt:"];
    let lines = status
        .lines()
        .filter_map(|line| masks.iter().find_map(|mask| line.strip_prefix(mask)));
    Some(lines.filter_map(has).any(|heard| heard))
}

/// Whether there is anything to serve.
fn has_zones(directory: &Path) -> bool {
    files::has_entry_but(directory, &[PID_FILE]).unwrap_or(true)
}

/// The process of the responder, if it lives.
fn running(directory: &Path) -> Option<Pid> {
    let text = files::read(&directory.join(PID_FILE)).ok().flatten()?;
    responder(text.trim(), directory)
}

/// The process with this number, if it is a responder of this directory.
fn responder(process: &str, directory: &Path) -> Option<Pid> {
    let pid: i32 = process.parse().ok().filter(|pid| *pid > 1)?;
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = command_line
        .split(|byte| *byte == 0)
        .any(|word| word == directory.as_os_str().as_bytes());
    ours.then(|| Pid::from_raw(pid))
}

/// Whether a responder runs, but in another namespace than ours.
pub(super) fn is_elsewhere(directory: &Path) -> bool {
    let theirs = running(directory).and_then(|pid| namespace(&pid.to_string(), "net"));
    theirs.is_some() && theirs != namespace("thread-self", "net")
}

/// Whether a responder runs in our namespace; nothing if one runs whose namespace we may not know.
pub(super) fn runs_here(directory: &Path) -> Option<bool> {
    let Some(pid) = running(directory) else {
        return Some(false);
    };
    let theirs = namespace(&pid.to_string(), "net")?;
    Some(Some(theirs) == namespace("thread-self", "net"))
}

/// What the pid file says, and the process that it means, if that is a responder: its number, whether it is stopped,
/// and whether it is in our network namespace.
pub(super) fn look(directory: &Path) -> (Option<String>, Option<(u32, bool, bool)>) {
    let text = files::read(&directory.join(PID_FILE)).ok().flatten();
    let pid = text
        .as_ref()
        .and_then(|text| responder(text.trim(), directory));
    let process = pid.and_then(|pid| {
        let number = pid.to_string();
        // Of one that we may not ask it cannot be said that it is elsewhere.
        let theirs = namespace(&number, "net");
        let here = theirs.is_none() || theirs == namespace("thread-self", "net");
        let stat = files::read(format!("/proc/{number}/stat").as_ref())
            .ok()
            .flatten()?;
        // The name in brackets may have brackets itself.
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        Some((number.parse().ok()?, matches!(state, 'T' | 't'), here))
    });
    (text, process)
}

/// Responders of a directory in our network namespace, whatever the pid file says. This looks at all processes.
pub(super) fn responders(directory: &Path) -> Vec<u32> {
    let own = namespace("thread-self", "net");
    let names = files::names(Path::new("/proc")).unwrap_or_default();
    let ours = names
        .iter()
        .filter(|name| responder(name, directory).is_some());
    let here = ours.filter(|name| namespace(name, "net") == own);
    here.filter_map(|name| name.parse().ok()).collect()
}

/// A responder in another namespace answers nobody, but restarting it would take it away from others.
fn check_namespace(pid: Pid) {
    let (theirs, ours) = (
        namespace(&pid.to_string(), "net"),
        namespace("thread-self", "net"),
    );
    if let (Some(theirs), Some(ours)) = (theirs, ours)
        && theirs != ours
    {
        tracing::error!(
            "aardvark-dns (process {pid}) runs in network namespace {}, not in ours ({}): names will not be resolved until it is ended",
            theirs.display(),
            ours.display()
        );
    }
}

fn start(service: &DnsService) -> Result<(), String> {
    let mut command = match systemd_run() {
        Some(program) => {
            let mut command = Command::new(program);
            command.args(["-q", "--scope"]);
            if service.rootless {
                command.arg("--user");
            }
            command.arg(&service.binary);
            command
        }
        None => Command::new(&service.binary),
    };
    command
        .arg("--config")
        .arg(&service.directory)
        .arg("-p")
        .arg(service.port.to_string())
        .arg("run");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.env("RUST_LOG", super::input::log_level());
    // Until it has written its pid file [`end_unknown`] finds all that outlives us.
    guard::end_with_us(&mut command);
    let failed = |error: io::Error| {
        format!(
            "aardvark-dns failed to start: {}: {error}",
            service.binary.display()
        )
    };
    let mut child = command.spawn().map_err(failed)?;
    let (status, text) = outcome(&mut child).map_err(failed)?;
    let text = String::from_utf8_lossy(&text);
    match (status.success(), text.trim()) {
        (true, _) => Ok(()),
        (false, "") => Err("aardvark-dns exited unexpectedly without error message".to_owned()),
        (false, text) => Err(format!("aardvark-dns failed to start: {text}")),
    }
}

/// Waits until a program ends, but not for ever, and for what it says about itself. A descendant that
/// keeps its standard error open is not waited for.
fn outcome(child: &mut Child) -> io::Result<(ExitStatus, Vec<u8>)> {
    let limit = Instant::now() + READY_LIMIT;
    let mut stderr = child.stderr.take();
    if let Some(pipe) = &stderr {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let mut text = Vec::new();
    loop {
        let ended = child.try_wait()?;
        if let Some(pipe) = &mut stderr {
            match pipe.read_to_end(&mut text) {
                Ok(_) => stderr = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(status) = ended {
            return Ok((status, text));
        }
        if Instant::now() > limit {
            child.kill()?;
            child.wait()?;
            let seconds = READY_LIMIT.as_secs();
            return Err(io::Error::other(format!("not ready within {seconds} s")));
        }
        std::thread::sleep(TICK / 4);
    }
}

/// Ends responders that nobody will ever know of: a call that was killed had started them, and they had
/// not written their pid file yet. Only those in our namespaces are meant; a container may have its own
/// at the same path. This looks at all processes.
pub(super) fn end_unknown(directory: &Path) {
    if running(directory).is_none() {
        end_those_without_pid_file(directory);
    }
    forget_half_written(directory);
}

/// Removes what a responder writes beside its directory before it becomes the pid file, if there is no such process any
/// more.
fn forget_half_written(directory: &Path) {
    let Some(parent) = directory.parent() else {
        return;
    };
    for name in files::names(parent).unwrap_or_default() {
        let number = name
            .strip_prefix(".aardvark-dns-")
            .and_then(|rest| rest.strip_suffix(".pid"))
            .and_then(|number| number.parse::<u32>().ok());
        if let Some(number) =
            number.filter(|number| responder(&number.to_string(), directory).is_none())
            && let Err(error) = files::remove(&parent.join(&name), parent)
        {
            tracing::debug!("remove what process {number} left: {error}");
        }
    }
}

fn end_those_without_pid_file(directory: &Path) {
    let own = ["net", "mnt"].map(|kind| namespace("thread-self", kind));
    for name in files::names(Path::new("/proc")).unwrap_or_default() {
        let theirs = || ["net", "mnt"].map(|kind| namespace(&name, kind));
        if let Some(pid) = responder(&name, directory)
            && theirs() == own
        {
            tracing::warn!("process {pid} is an aardvark-dns that never came to serve: ending it");
            if let Err(errno) = kill(pid, Signal::SIGKILL) {
                tracing::debug!("{errno}");
            }
            let limit = Instant::now() + DYING;
            while responder(&name, directory).is_some() && Instant::now() < limit {
                std::thread::sleep(TICK);
            }
        }
    }
}

fn namespace(process: &str, kind: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()
}

/// The program that gives the responder a place of its own, so that it outlives the container's.
fn systemd_run() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").filter(|_| Path::new(SYSTEMD).exists())?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("systemd-run"))
        .find(|program| program.is_file())
}

/// Waits until the responder has ended that has nothing to serve any more, but not for long, and takes
/// its directory away. One that did not end by itself has left its pid file there.
pub(super) fn wait_for_end(directory: &Path) {
    if has_zones(directory) {
        return;
    }
    let limit = Instant::now() + END_LIMIT;
    while running(directory).is_some() {
        if Instant::now() > limit {
            return;
        }
        std::thread::sleep(TICK);
    }
    drop(std::fs::remove_file(directory.join(PID_FILE)));
    drop(std::fs::remove_dir(directory));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_dead_responders_left_goes() -> io::Result<()> {
        let config = std::env::temp_dir().join(format!("half-written-{}", std::process::id()));
        let zones = config.join("aardvark-dns");
        std::fs::create_dir_all(&zones)?;
        let mut lives = Command::new("sh")
            .args(["-c", "echo; read line", "--config"])
            .arg(&zones)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // Only what has spoken has its own command line for sure: `spawn` returns in the middle of exec.
        if let Some(said) = &mut lives.stdout {
            said.read_exact(&mut [0])?;
        }
        let kept = format!(".aardvark-dns-{}.pid", lives.id());
        let foreign = ".aardvark-dns-one.pid";
        for name in [&kept, ".aardvark-dns-4194304.pid", foreign] {
            std::fs::write(config.join(name), "")?;
        }
        forget_half_written(&zones);
        let left = files::names(&config)?;
        lives.kill()?;
        lives.wait()?;
        forget_half_written(&zones);
        let after = files::names(&config)?;
        std::fs::remove_dir_all(&config)?;
        let mut expected = vec![kept, foreign.to_owned(), "aardvark-dns".to_owned()];
        expected.sort();
        assert_eq!(left, expected);
        assert_eq!(after, [foreign, "aardvark-dns"]);
        Ok(())
    }
}
