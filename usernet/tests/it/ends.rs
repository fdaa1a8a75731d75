//! When we end, and what is free then.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;

use crate::attached::{Daemon, as_engine, children, path, run, wait_for};

fn netns(path: &Path) -> String {
    format!("netns={}", path.display())
}

/// As Podman does it: the new instance is started at once, on the same port, while the old one ends.
#[test]
fn unlinked_and_started_again_on_the_same_port() {
    run(|host| {
        let mut daemons = Vec::new();
        for round in 0..20 {
            let guest = host.container(&format!("guest{round}"))?;
            let words = [&netns(guest.path()), "tcp=8080", "splice"];
            daemons.push(Daemon::start(host, &words)?);
            drop(guest); // lazily unmounted and unlinked
        }
        daemons
            .iter()
            .try_for_each(|daemon| daemon.ended().map(drop))
    });
}

/// All of our processes are gone with the namespace.
#[test]
fn unlinked_nobody_is_left() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "tcp=8080", "splice"])?;
        let opener = children(daemon.pid)?;
        ensure!(opener.len() == 1, "{opener:?}");
        drop(guest);
        daemon.ended()?;
        ensure!(crate::attached::state(opener[0]).is_none_or(|state| state == 'Z'));
        Ok(())
    });
}

#[test]
fn the_mount_of_the_namespace_is_not_held() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "splice"])?;
        host.sh("umount /run/netns/guest")?;
        ensure!(daemon.lives());
        host.sh("rm /run/netns/guest")?;
        daemon.ended()?;
        Ok(())
    });
}

/// A user may have few inotify instances; here, in a user namespace as an engine has it, none at all.
#[test]
fn without_inotify_the_path_is_looked_up() {
    run(|host| {
        let script = format!(
            "echo 0 > /proc/sys/user/max_inotify_instances
             {} --config-net --foreground --quiet --netns $PWD/ns --pid pid & us=$!
             while ! test -s pid; do sleep 0.01; done
             ls -l /proc/$us/fd | grep -c inotify || true
             sleep 1.5; kill -0 $us && echo lives
             umount -l ns; rm ns
             wait $us; echo $?",
            env!("CARGO_BIN_EXE_usernet")
        );
        let finished = as_engine(host, &script)?;
        ensure!(finished.stdout == "0\nlives\n0\n", "{finished}");
        ensure!(finished.stderr.is_empty(), "{finished}");
        Ok(())
    });
}

/// Stop it while more happens in the directory of the namespace's file than inotify keeps.
fn stop_and_fill(daemon: &Daemon, guest: &Path) -> Result<()> {
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?;
    kill(Pid::from_raw(daemon.pid), Signal::SIGSTOP)?;
    // The same event twice is one.
    let directory = guest.parent().context("a directory")?;
    for number in 0..=most.trim().parse()? {
        let file = directory.join(format!("other{}", number % 2));
        std::fs::write(&file, "")?;
        std::fs::remove_file(&file)?;
    }
    Ok(())
}

/// What was lost is looked up.
#[test]
fn unlinked_when_nobody_could_be_told() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "splice"])?;
        stop_and_fill(&daemon, guest.path())?;
        kill(Pid::from_raw(daemon.pid), Signal::SIGCONT)?;
        std::thread::sleep(Duration::from_millis(300));
        ensure!(daemon.lives(), "the namespace is still there");
        stop_and_fill(&daemon, guest.path())?;
        drop(guest);
        kill(Pid::from_raw(daemon.pid), Signal::SIGCONT)?;
        daemon.ended()?;
        Ok(())
    });
}

/// And what was made anew under the same name is another one.
#[test]
fn made_anew_when_nobody_could_be_told() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "splice"])?;
        stop_and_fill(&daemon, guest.path())?;
        drop(guest);
        let _another = host.container("guest")?;
        kill(Pid::from_raw(daemon.pid), Signal::SIGCONT)?;
        daemon.ended()?;
        Ok(())
    });
}

#[test]
fn asked_to_stay_we_stay() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "stay"])?;
        drop(guest);
        std::thread::sleep(Duration::from_millis(300));
        ensure!(daemon.lives());
        kill(Pid::from_raw(daemon.pid), Signal::SIGTERM)?;
        daemon.ended()?;
        Ok(())
    });
}

#[test]
fn politely_ended_as_the_first_process_of_a_namespace() {
    run(|host| {
        for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
            let guest = host.container("guest")?;
            let daemon = Daemon::start(host, &[&netns(guest.path()), "splice"])?;
            kill(Pid::from_raw(daemon.pid), signal)?;
            daemon.ended()?;
        }
        Ok(())
    });
}

#[test]
fn in_the_foreground_the_exit_code_is_seen() {
    run(|host| {
        for way in ["unlink", "SIGTERM", "SIGQUIT"] {
            let guest = host.container("guest")?;
            let file = host.dir("foreground")?.join(way);
            let mut us = Command::new(path())
                .args([&netns(guest.path()), "foreground", "splice"])
                .arg(format!("pid={}", file.display()))
                .spawn()?;
            wait_for("the pid file is written", || {
                std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
            })?;
            ensure!(std::fs::read_to_string(&file)?.trim() == us.id().to_string());
            let opener = children(i32::try_from(us.id())?)?;
            let pid = Pid::from_raw(i32::try_from(us.id())?);
            match way {
                "unlink" => drop(guest),
                "SIGTERM" => kill(pid, Signal::SIGTERM)?,
                _ => kill(pid, Signal::SIGQUIT)?,
            }
            ensure!(us.wait()?.code() == Some(0), "{way}");
            // Here no PID namespace takes it along.
            ensure!(opener.len() == 1);
            wait_for("the process in the guest ends", || {
                crate::attached::state(opener[0]).is_none()
            })?;
        }
        Ok(())
    });
}

#[test]
fn killed_nothing_is_left() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "splice", "tcp=8080"])?;
        let opener = children(daemon.pid)?;
        kill(Pid::from_raw(daemon.pid), Signal::SIGKILL)?;
        daemon.ended()?;
        wait_for("the process in the guest ends", || {
            crate::attached::state(opener[0]).is_none()
        })?;
        wait_for("the tap is gone", || guest.sh("ip link show tap0").is_err())?;
        let again = Daemon::start(host, &[&netns(guest.path()), "splice", "tcp=8080"])?;
        ensure!(again.lives());
        Ok(())
    });
}

/// The program itself, in the foreground.
struct Foreground {
    process: Child,
    files: PathBuf,
}

impl Foreground {
    /// Started with these words, and ready.
    fn start(host: &Host, words: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let files = host.dir(&format!("foreground{number}"))?;
        let said = std::fs::File::create(files.join("said"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_usernet"));
        command.args(["--config-net", "--foreground", "--quiet", "--pid"]);
        command
            .arg(files.join("pid"))
            .arg("--log-file")
            .arg(files.join("log"));
        let process = command.args(words).stderr(said).spawn()?;
        wait_for("the pid file is written", || {
            std::fs::read_to_string(files.join("pid")).is_ok_and(|text| text.ends_with('\n'))
        })?;
        Ok(Self { process, files })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.process.id())?))
    }

    /// How it ended, and what it said. Its files stay.
    fn ended(mut self) -> Result<(ExitStatus, String)> {
        wait_for("the program ends", || {
            !matches!(self.process.try_wait(), Ok(None))
        })?;
        for name in ["pid", "log"] {
            ensure!(self.files.join(name).exists(), "no {name}");
        }
        let said = std::fs::read_to_string(self.files.join("said"))?;
        Ok((self.process.wait()?, said))
    }

    /// It ended with nothing to say.
    fn ended_well(self) -> Result<()> {
        let (status, said) = self.ended()?;
        let well = status.code() == Some(0) && said.is_empty();
        ensure!(well, "{status} {said}");
        Ok(())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        self.process.kill().unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}

/// A guest, and the program in the foreground serving it by its path.
fn serving(host: &Host, name: &str, words: &[&str]) -> Result<(Netns, Foreground)> {
    let guest = host.container(name)?;
    let path = guest.path().to_string_lossy().into_owned();
    let us = Foreground::start(host, &[words, &["--netns", &*path]].concat())?;
    Ok((guest, us))
}

#[test]
fn the_program_ends_well_with_the_path() {
    run(|host| {
        let (guest, us) = serving(host, "guest", &[])?;
        drop(guest);
        us.ended_well()
    });
}

/// Whoever read our messages may go before us.
#[test]
fn nobody_reads_what_is_said() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let pid = host.dir("unread")?.join("pid");
        let mut command = Command::new(env!("CARGO_BIN_EXE_usernet"));
        command.args(["--config-net", "--foreground", "--trace", "--pid"]);
        command.arg(&pid).arg("--netns").arg(guest.path());
        let mut us = command.stderr(std::process::Stdio::piped()).spawn()?;
        wait_for("the pid file is written", || {
            std::fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'))
        })?;
        drop(us.stderr.take());
        guest.sh("ping -n -q -c 3 -i 0.2 -W 5 192.0.2.2 || true")?;
        kill(Pid::from_raw(i32::try_from(us.id())?), Signal::SIGTERM)?;
        let ended = us.wait()?;
        ensure!(ended.code() == Some(0), "{ended}");
        Ok(())
    });
}

/// SIGINT does what it does by default.
#[test]
fn the_program_ends_by_signals() {
    run(|host| {
        for signal in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
            let (_guest, us) = serving(host, signal.as_str(), &["--no-netns-quit"])?;
            us.signal(signal)?;
            let (status, said) = us.ended()?;
            let expected = if signal == Signal::SIGINT {
                (None, Some(libc::SIGINT))
            } else {
                (Some(0), None)
            };
            ensure!(
                (status.code(), status.signal()) == expected,
                "{signal}: {status}"
            );
            ensure!(said.is_empty(), "{said}");
        }
        Ok(())
    });
}

/// An interface that is only switched off comes back. One that is deleted does not: that is an error, which is told.
#[test]
fn the_guest_deletes_its_interface() {
    run(|host| {
        let outside = host.outside()?;
        let (guest, mut us) = serving(host, "guest", &["--no-map-gw"])?;
        guest.sh("ip link set uplink down; ip link set uplink up
                  ip route replace default via 192.0.2.2 dev uplink")?;
        let far = crate::podman::server(&outside, "192.0.2.2:7000")?;
        crate::podman::talk(&guest, "192.0.2.2:7000")?;
        crate::podman::heard(far)?;
        ensure!(us.process.try_wait()?.is_none());
        guest.sh("ip link del uplink")?;
        let (status, said) = us.ended()?;
        ensure!(status.code() == Some(1), "{status}");
        ensure!(said == "The guest's interface is gone\n", "{said}");
        Ok(())
    });
}

/// Both at once is no error: this is how a container goes whose engine cleans up.
#[test]
fn the_interface_is_deleted_and_the_path_unlinked() {
    run(|host| {
        let (guest, us) = serving(host, "guest", &["-I", "uplink"])?;
        us.signal(Signal::SIGSTOP)?;
        guest.sh("ip link del uplink")?;
        drop(guest);
        us.signal(Signal::SIGCONT)?;
        us.ended_well()
    });
}

/// By number and by a path below `/proc`; whose namespace it is goes, not the file.
#[test]
fn the_process_of_the_guest_ends() {
    run(|host| {
        for by_path in [false, true] {
            let guest = host.container(&format!("guest{by_path}"))?;
            let mut owner = guest.enter(|| Ok(Command::new("sleep").arg("60").spawn()?))?;
            let number = owner.id().to_string();
            let path = format!("/proc/{number}/ns/net");
            let words = if by_path {
                ["--netns", &*path]
            } else {
                ["--netns-only", &*number]
            };
            let us = Foreground::start(host, &words)?;
            owner.kill()?;
            owner.wait()?;
            let begin = Instant::now();
            us.ended_well()?;
            ensure!(begin.elapsed() < Duration::from_secs(1));
        }
        Ok(())
    });
}
