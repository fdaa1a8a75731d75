//! From inside the sandbox, in the place of the forwarder.

use anyhow::{Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, listen, socket};
use std::os::fd::AsRawFd;
use test_fixtures::program::{Finished, Program};

use crate::attached::{Daemon, as_engine, children, path, program, run, status};

fn netns(path: &std::path::Path) -> String {
    format!("netns={}", path.display())
}

/// Each of these is the last thing that a process does.
#[test]
fn a_call_that_is_not_ours_is_the_end() {
    run(|host| {
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
    run(|_| {
        let address = UnixAddr::new_abstract(b"usernet-test")?;
        let server = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(server.as_raw_fd(), &address)?;
        listen(&server, nix::sys::socket::Backlog::new(1)?)?;
        enclosed(&program().arg("attempt=enclosed").run()?)?;
        // The same for somebody who is root of a user namespace only, as an engine is.
        let example = path().display().to_string();
        let words = ["--user", "--map-root-user", &example, "attempt=enclosed"];
        enclosed(&Program::new("unshare").args(words).run()?)?;
        drop(server);
        Ok(())
    });
}

fn enclosed(finished: &Finished) -> Result<()> {
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
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "splice"])?;
        let opener = children(daemon.pid)?;
        ensure!(opener.len() == 1, "{opener:?}");
        crate::attached::wait_for("the sandbox is closed", || {
            status(opener[0], "Seccomp").is_ok_and(|mode| mode == "2")
        })?;
        let open = std::fs::read_dir(format!("/proc/{}/fd", opener[0]))?.count();
        ensure!(open == 4, "the standard three and the channel, not {open}");
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

#[test]
fn sockets_of_the_guest_are_there_after_all_that() {
    run(|host| {
        let guest = host.container("guest")?;
        guest.sh("ip link set lo up")?;
        let server = guest.enter(|| Ok(std::net::TcpListener::bind("127.0.0.1:7000")?))?;
        let counter =
            std::thread::spawn(move || (0..100).filter(|_| server.accept().is_ok()).count());
        let finished = program()
            .args([&*netns(guest.path()), "foreground", "splice"])
            .arg("attempt=guest-socket")
            .run()?;
        ensure!(finished.success(), "{finished}");
        ensure!(counter.join().is_ok_and(|count| count == 100));
        Ok(())
    });
}

/// An outer container that allows nothing: less of a wall, and words about it, but a network.
#[test]
fn what_is_refused_is_named_and_done_without() {
    run(|host| {
        let script = format!(
            "for kind in user mnt ipc uts pid; do echo 0 > /proc/sys/user/max_${{kind}}_namespaces; done
             {} netns=$PWD/ns pid=pid splice
             grep Seccomp: /proc/$(cat pid)/status; grep CapEff /proc/$(cat pid)/status
             kill $(cat pid)
             while kill -0 $(cat pid) 2>/dev/null; do sleep 0.1; done",
            path().display()
        );
        let finished = as_engine(host, &script)?;
        ensure!(finished.success() && !finished.held_open, "{finished}");
        let expected = "Seccomp:\t2\nCapEff:\t0000000000000000\n";
        ensure!(finished.stdout == expected, "{finished}");
        let no_space = nix::errno::Errno::ENOSPC.desc();
        let words = ["user", "mount", "ipc", "uts"]
            .map(|stage| format!("sandbox: no {stage} isolation: {no_space}\n"))
            .concat();
        let expected = format!(
            "sandbox: no PID namespace of our own: {no_space}\n{words}\
             sandbox: no root isolation: the mounts are not ours\n"
        );
        ensure!(finished.stderr == expected, "{finished}");
        Ok(())
    });
}
