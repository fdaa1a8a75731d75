//! When it ends, with which code, and what stays.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::netns::Netns;

use super::machine::{Machine, executable, on, podman, program};
use crate::attached::wait_for;

/// One in the foreground, ready.
struct Foreground {
    process: Child,
    pid_file: PathBuf,
}

impl Foreground {
    fn start(machine: &Machine<'_>, words: &[&str]) -> Result<Self> {
        let pid_file = machine.pid_file()?;
        let process = Command::new(executable())
            .args(["-f", "-q", "--config-net", "-t", "none", "-u", "none"])
            .args(["-T", "none", "-U", "none", "--pid"])
            .arg(&pid_file)
            .args(words)
            .stdin(Stdio::null())
            .spawn()?;
        wait_for("the pid file is written", || {
            fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == process.id().to_string())
        })?;
        Ok(Self { process, pid_file })
    }

    fn serving(machine: &Machine<'_>, guest: &Netns, words: &[&str]) -> Result<Self> {
        let netns = guest.path().to_string_lossy();
        Self::start(machine, &[words, &["--netns", &*netns]].concat())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.process.id().try_into()?), signal)?)
    }

    /// How it ends, soon. The pid file stays.
    fn end(mut self) -> Result<ExitStatus> {
        let mut status = None;
        wait_for("it ends", || {
            status = self.process.try_wait().unwrap_or_default();
            status.is_some()
        })?;
        ensure!(self.pid_file.exists(), "the pid file is gone");
        Ok(status.unwrap_or_default())
    }
}

#[test]
fn the_namespace_is_gone() {
    on!(|machine| {
        let guest = machine.guest()?;
        let us = Foreground::serving(machine, &guest, &[])?;
        drop(guest);
        ensure!(us.end()?.code() == Some(0));
        Ok(())
    });
}

/// What Podman's own test asks: a daemon, found by its pid file, is gone within five seconds.
#[test]
fn the_container_is_gone() {
    on!(|machine| {
        let guest = machine.guest()?;
        let file = machine.host.dir("own")?.join("pid");
        let own = ["--pid", &*file.to_string_lossy()];
        let words = podman(guest.path(), &own, &["-t", "8080-8080:80-80"]);
        let finished = program().args(words).run()?;
        ensure!(finished.success(), "{finished}");
        let pid = fs::read_to_string(&file)?.trim().parse()?;
        kill(Pid::from_raw(pid), None)?;
        drop(guest);
        wait_for("it ends", || kill(Pid::from_raw(pid), None).is_err())?;
        // The next one is started at once.
        let again = machine.guest()?;
        machine.podman(&again, &[], &["-t", "8080-8080:80-80"])?;
        Ok(())
    });
}

#[test]
fn the_process_is_gone() {
    on!(|machine| {
        let mut process = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()?;
        let path = format!("/proc/{}/ns/net", process.id());
        let own = fs::read_link("/proc/self/ns/net")?;
        wait_for("it has a namespace", || {
            fs::read_link(&path).is_ok_and(|other| other != own)
        })?;
        let us = Foreground::start(machine, &["--netns", &path])?;
        process.kill()?;
        process.wait()?;
        ensure!(us.end()?.code() == Some(0));
        Ok(())
    });
}

#[test]
fn asked_to_stay() {
    on!(|machine| {
        let guest = machine.guest()?;
        let mut us = Foreground::serving(machine, &guest, &["--no-netns-quit"])?;
        drop(guest);
        std::thread::sleep(Duration::from_millis(1500));
        ensure!(us.process.try_wait()?.is_none(), "it has ended");
        us.signal(Signal::SIGTERM)?;
        ensure!(us.end()?.code() == Some(0));
        Ok(())
    });
}

#[test]
fn signals() {
    on!(|machine| {
        for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
            let guest = machine.guest()?;
            let us = Foreground::serving(machine, &guest, &[])?;
            us.signal(signal)?;
            ensure!(us.end()?.code() == Some(0), "{signal}");
        }
        let guest = machine.guest()?;
        let us = Foreground::serving(machine, &guest, &[])?;
        us.signal(Signal::SIGINT)?;
        ensure!(us.end()?.signal() == Some(Signal::SIGINT as i32));
        Ok(())
    });
}

/// As Podman ends the process of all bridge networks of a user.
#[test]
fn a_daemon_is_ended_politely() {
    on!(|machine| {
        for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
            let guest = machine.guest()?;
            let daemon = machine.podman(&guest, &[], &["-t", "8080-8080:80-80"])?;
            kill(Pid::from_raw(daemon.pid), signal)?;
            daemon.ended()?;
        }
        Ok(())
    });
}

#[test]
fn the_tap_is_removed() {
    on!(|machine| {
        let guest = machine.guest()?;
        let us = Foreground::serving(machine, &guest, &[])?;
        guest.sh("ip link del uplink")?;
        ensure!(us.end()?.code() == Some(1));
        Ok(())
    });
}

/// Down and up again is no end.
#[test]
fn the_tap_is_down_for_a_while() {
    on!(|machine| {
        let guest = machine.guest()?;
        let daemon = machine.podman(&guest, &[], &["-u", "8080-8080:80-80"])?;
        guest.sh("ip link set uplink down")?;
        let sender = super::machine::datagrams(
            &machine.outside,
            "0.0.0.0:0".parse::<std::net::SocketAddr>()?,
        )?;
        sender.send_to(b"lost", "192.0.2.1:8080")?;
        std::thread::sleep(Duration::from_millis(300));
        guest.sh("ip link set uplink up")?;
        let receiver =
            super::machine::datagrams(&guest, "0.0.0.0:80".parse::<std::net::SocketAddr>()?)?;
        sender.send_to(b"found", "192.0.2.1:8080")?;
        let mut bytes = [0; 16];
        let length = receiver.recv(&mut bytes)?;
        ensure!(&bytes[..length] == b"found" && daemon.lives());
        Ok(())
    });
}

#[test]
fn the_code_of_a_command() {
    on!(|_machine| {
        let run = |script: &str| {
            program()
                .args(["-q", "--config-net", "--", "sh", "-c", script])
                .run()
        };
        ensure!(run("exit 0")?.code() == Some(0));
        ensure!(run("exit 7")?.code() == Some(7));
        let killed = run("sh -c 'kill -9 $$'; exit $?")?;
        ensure!(killed.code() == Some(137), "{killed}");
        // Its output is its own.
        let said = run("echo out; echo err >&2")?;
        ensure!(said.stdout == "out\n" && said.stderr == "err\n", "{said}");
        Ok(())
    });
}
