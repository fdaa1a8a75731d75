//! From inside the sandbox, in the place of the forwarder.

use anyhow::{Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, listen, socket};
use std::os::fd::AsRawFd;
use test_fixtures::lab;

use crate::attached::{Daemon, children, open_tun, program, status};

fn netns(path: &std::path::Path) -> String {
    format!("netns={}", path.display())
}

/// Each of these is the last thing that a process does.
#[test]
fn a_call_that_is_not_ours_is_the_end() {
    lab::run(|host| {
        let guest = host.container("guest")?;
        let attempt = |what: &str| {
            program()
                .args([&*netns(guest.path()), "foreground", "splice"])
                .arg(format!("attempt={what}"))
                .run()
        };
        for what in ["nothing", "internet"] {
            let finished = attempt(what)?;
            ensure!(finished.code() == Some(0), "{what}: {finished}");
        }
        let refused = [
            "file",
            "root",
            "proc",
            "signal",
            "identity",
            "capability",
            "mount",
            "namespace",
            "user-namespace",
            "packet",
            "netlink",
            "unix",
            "execute",
        ];
        for what in refused {
            let finished = attempt(what)?;
            let killed = finished.signal() == Some(libc::SIGSYS);
            ensure!(killed, "{what}: {finished}");
        }
        Ok(())
    });
}

/// The other walls, without the last one in front of them.
#[test]
fn without_the_table_of_calls_it_is_refused_as_well() {
    lab::run(|host| {
        let address = UnixAddr::new_abstract(b"usernet-test")?;
        let server = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(server.as_raw_fd(), &address)?;
        listen(&server, nix::sys::socket::Backlog::new(1)?)?;
        enclosed(&program())?;
        // The same for somebody who is not root of the machine.
        open_tun(host)?;
        Ok(())
    });
}

fn enclosed(program: &test_fixtures::program::Program) -> Result<()> {
    let finished = program.clone().arg("attempt=enclosed").run()?;
    ensure!(finished.success(), "{finished}");
    let lines: Vec<&str> = finished.stderr.lines().collect();
    let missing: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("sandbox:"))
        .collect();
    let possible: Vec<_> = lines
        .iter()
        .filter(|line| line.ends_with(": possible"))
        .collect();
    ensure!(missing.is_empty(), "{finished}");
    ensure!(possible.is_empty(), "{finished}");
    Ok(())
}

#[test]
fn both_processes_have_nothing() {
    lab::run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "splice"])?;
        let opener = children(daemon.pid)?;
        ensure!(opener.len() == 1, "{opener:?}");
        crate::attached::wait_for("the sandbox is closed", || {
            status(opener[0], "Seccomp").is_ok_and(|mode| mode == "2")
        })?;
        for pid in [daemon.pid, opener[0]] {
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                let set_is = status(pid, set)?;
                ensure!(set_is == "0000000000000000", "{set} {set_is}");
            }
            ensure!(status(pid, "NoNewPrivs")? == "1");
            ensure!(status(pid, "Seccomp")? == "2");
            let ids = status(pid, "Uid")?;
            ensure!(!ids.split('\t').any(|id| id == "0") || !nix::unistd::geteuid().is_root());
            let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
            ensure!(mounts.lines().count() == 1, "{mounts}");
            ensure!(mounts.contains(" ro,"), "{mounts}");
            for kind in ["user", "mnt", "ipc", "uts"] {
                let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
                let ours = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
                ensure!(theirs != ours, "{kind}");
            }
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
            let core = limits.lines().find(|line| line.starts_with("Max core"));
            ensure!(core.is_some_and(|line| line.split_whitespace().nth(4) == Some("0")));
        }
        Ok(())
    });
}
