//! `aardvark.pid`, by which engines find the daemon: they read it without trimming and believe it.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::machine::{GATEWAY, Machine, on};

/// A number that no process has, that parses, and that a signal cannot reach.
const NOBODY: &str = "2147483647";

fn content(machine: &Machine<'_>) -> Result<String> {
    Ok(fs::read_to_string(machine.dir.join("aardvark.pid"))?)
}

#[test]
fn holds_digits_only() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        assert_eq!(content(machine)?, daemon.pid.to_string());
        assert!(daemon.alive());
        Ok(())
    });
}

#[test]
fn is_readable_by_all() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mode = fs::metadata(machine.dir.join("aardvark.pid"))?
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o644);
        Ok(())
    });
}

#[test]
fn is_the_only_file_beside_the_networks() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let mut names: Vec<_> = fs::read_dir(&machine.dir)?
            .map(|entry| entry.map(|entry| entry.file_name().into_string().unwrap()))
            .collect::<Result<_, _>>()?;
        names.sort_unstable();
        assert_eq!(names, ["aardvark.pid", "net"]);
        Ok(())
    });
}

#[test]
fn a_stale_number_is_replaced() {
    on!(|machine| {
        machine.usual_network()?;
        for stale in ["4194300", NOBODY, "nonsense", ""] {
            fs::write(machine.dir.join("aardvark.pid"), stale)?;
            let daemon = machine.start()?;
            assert_eq!(content(machine)?, daemon.pid.to_string(), "after {stale:?}");
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
            daemon.signal(Signal::SIGKILL)?;
            assert!(daemon.ends_within(Duration::from_secs(10)));
        }
        Ok(())
    });
}

/// A number that a foreign process has got since.
#[test]
fn a_foreign_process_is_left_alone() {
    on!(|machine| {
        machine.usual_network()?;
        let mut foreign = Command::new("sleep").arg("60").spawn()?;
        fs::write(machine.dir.join("aardvark.pid"), foreign.id().to_string())?;
        let daemon = machine.start()?;
        assert_eq!(content(machine)?, daemon.pid.to_string());
        assert!(foreign.try_wait()?.is_none());
        foreign.kill()?;
        Ok(())
    });
}

#[test]
fn a_second_start_does_not_take_it_over() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let second = machine.try_start()?;
        assert_eq!(second.code(), Some(1), "{second}");
        assert_eq!(content(machine)?, daemon.pid.to_string());
        assert!(daemon.alive());
        Ok(())
    });
}

#[test]
fn a_failed_start_leaves_none() {
    on!(|machine| {
        machine.usual_network()?;
        let _other = UdpSocket::bind((GATEWAY, 53))?;
        let finished = machine.try_start()?;
        assert_eq!(finished.code(), Some(1), "{finished}");
        assert!(
            !machine.dir.join("aardvark.pid").exists(),
            "{}",
            content(machine)?
        );
        Ok(())
    });
}

fn stopped_by(machine: &Machine<'_>, signal: Signal) -> Result<()> {
    machine.usual_network()?;
    let daemon = machine.start()?;
    daemon.signal(signal)?;
    assert!(daemon.ends_within(Duration::from_secs(10)));
    assert_eq!(content(machine)?, NOBODY);
    // And the next engine's call starts a new one.
    machine.start()?;
    assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
    Ok(())
}

#[test]
fn after_a_terminate_signal_it_names_nobody() {
    on!(|machine| stopped_by(machine, Signal::SIGTERM));
}

#[test]
fn after_an_interrupt_it_names_nobody() {
    on!(|machine| stopped_by(machine, Signal::SIGINT));
}

#[test]
fn survives_a_kill_and_is_replaced() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        daemon.signal(Signal::SIGKILL)?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        assert_eq!(content(machine)?, daemon.pid.to_string());
        let next = machine.start()?;
        assert_eq!(content(machine)?, next.pid.to_string());
        Ok(())
    });
}

#[test]
fn goes_with_the_last_network() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.remove_network("net")?;
        daemon.hup()?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        assert!(!machine.dir.join("aardvark.pid").exists());
        Ok(())
    });
}

/// An empty file makes an engine start another daemon.
#[test]
fn is_never_seen_half_written() {
    on!(|machine| {
        machine.usual_network()?;
        let file = machine.dir.join("aardvark.pid");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(text) = fs::read_to_string(&file) {
                        assert!(text.parse::<u32>().is_ok(), "{text:?}");
                    }
                }
            });
            // Whatever comes of it, the watcher ends.
            let started = (0..40).try_for_each(|_| -> Result<()> {
                let started = Command::new(crate::machine::program_path())
                    .arg("--config")
                    .arg(&machine.dir)
                    .args(["-p", "53", "run"])
                    .stderr(Stdio::null())
                    .status()?;
                ensure!(started.success());
                let daemon = machine.running()?;
                daemon.signal(Signal::SIGKILL)?;
                ensure!(daemon.ends_within(Duration::from_secs(10)));
                fs::remove_file(&file).ok();
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            watcher.join().expect("the file always had a number");
            started
        })
    });
}
