//! When we end, and what is free then.

use std::process::Command;

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::program::Program;

use crate::attached::{Daemon, children, path, run, wait_for};

fn netns(path: &std::path::Path) -> String {
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
        let directory = host.dir("engine")?;
        let script = format!(
            "echo 0 > /proc/sys/user/max_inotify_instances
             cd {} && touch ns && unshare --net=ns true
             {} netns=$PWD/ns pid=pid
             ls -l /proc/$(cat pid)/fd | grep -c timerfd
             ls -l /proc/$(cat pid)/fd | grep -c inotify || true
             sleep 1.5; kill -0 $(cat pid) && echo lives
             umount -l ns; rm ns
             while kill -0 $(cat pid) 2>/dev/null; do sleep 0.1; done; echo ended",
            directory.display(),
            path().display()
        );
        let finished = Program::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-ec",
                &*script,
            ])
            .run()?;
        ensure!(finished.stdout == "1\n0\nlives\nended\n", "{finished}");
        ensure!(finished.stderr.is_empty(), "{finished}");
        Ok(())
    });
}

#[test]
fn asked_to_stay_we_stay() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "stay"])?;
        drop(guest);
        std::thread::sleep(std::time::Duration::from_millis(300));
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

/// Deleting the interface ends the forwarder, with an error.
#[test]
fn the_tap_is_removed_by_the_guest() {
    run(|host| {
        let guest = host.container("guest")?;
        let file = host.dir("tap")?.join("pid");
        let mut us = Command::new(path())
            .args([&netns(guest.path()), "foreground"])
            .arg(format!("pid={}", file.display()))
            .spawn()?;
        wait_for("the pid file is written", || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        })?;
        guest.sh("ip link del tap0")?;
        ensure!(us.wait()?.code() == Some(1));
        Ok(())
    });
}
