//! From the engine's call to the first answer: what the parent says, what the daemon holds, what stops it.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::program::{Finished, Program};
use test_fixtures::traffic::eventually;

use crate::machine::{
    GATEWAY, GATEWAY_2, GATEWAY_V6, Machine, PATIENCE, line, on, program_path, within,
};
use crate::upstream::Upstream;

#[test]
fn ready_when_the_parent_exits() {
    on!(|machine| {
        machine.usual_network()?;
        for _ in 0..10 {
            let finished = machine.try_start()?;
            assert!(finished.success(), "{finished}");
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
            let daemon = machine.running()?;
            daemon.signal(Signal::SIGKILL)?;
            assert!(daemon.ends_within(Duration::from_secs(10)));
        }
        Ok(())
    });
}

#[test]
fn ready_for_tcp_when_the_parent_exits() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// A first answer must not be an old one, nor none, with much to load.
#[test]
fn ready_with_ten_thousand_names() {
    on!(|machine| {
        let mut text = format!("{GATEWAY}\n");
        for number in 0..10_000 {
            let address = format!("10.88.{}.{}", 1 + number / 250, 2 + number % 250);
            text.push_str(&line(number, &address, "", &format!("c{number}")));
        }
        machine.network("net", &text)?;
        let finished = machine.try_start()?;
        assert!(finished.success(), "{finished}");
        assert_eq!(
            machine.client("10.88.1.2").says("c9999 A")?,
            "NOERROR 10.88.40.251"
        );
        Ok(())
    });
}

#[test]
fn says_nothing_and_lets_go_of_its_output() {
    on!(|machine| {
        machine.usual_network()?;
        let finished = machine.try_start()?;
        assert!(finished.success(), "{finished}");
        assert_eq!((&*finished.stdout, &*finished.stderr), ("", ""));
        assert!(!finished.held_open, "an engine would wait for ever");
        Ok(())
    });
}

#[test]
fn null_on_the_standard_descriptors() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        for (number, target) in daemon.descriptors()?.into_iter().take(3) {
            assert_eq!(target, "/dev/null", "descriptor {number}");
        }
        Ok(())
    });
}

/// Starts it from a shell that has more descriptors open.
fn start_with_descriptors(machine: &Machine<'_>, redirections: &str) -> Result<Finished> {
    Program::new("sh")
        .args(["-c", &format!(r#"exec "$@" {redirections}"#), "sh"])
        .arg(program_path())
        .arg("--config")
        .arg(&machine.dir)
        .args(["-p", "53", "run"])
        .timeout(Duration::from_secs(20))
        .run()
}

#[test]
fn inherited_files_are_closed() {
    on!(|machine| {
        machine.usual_network()?;
        let finished = start_with_descriptors(machine, "5</etc/passwd 9</etc/group")?;
        assert!(finished.success(), "{finished}");
        for (number, target) in machine.running()?.descriptors()? {
            assert!(
                !target.starts_with("/etc/"),
                "descriptor {number} is {target}"
            );
        }
        Ok(())
    });
}

/// `podman run` hangs when any copy of its pipe survives.
#[test]
fn inherited_copies_of_the_output_are_closed() {
    on!(|machine| {
        machine.usual_network()?;
        let finished = start_with_descriptors(machine, "5>&2 7>&1")?;
        assert!(finished.success(), "{finished}");
        assert!(!finished.held_open);
        Ok(())
    });
}

#[test]
fn a_session_of_its_own() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        // Its parent, its session and no terminal. The session is made right after the start was told to have worked.
        let wanted = ["1".to_owned(), daemon.pid.to_string(), "0".to_owned()];
        within(PATIENCE, || {
            daemon.proc("stat").is_ok_and(|stat| {
                let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
                fields.len() > 4 && [fields[1], fields[3], fields[4]] == wanted
            })
        })?;
        Ok(())
    });
}

#[test]
fn no_mount_is_kept_busy() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let cwd = fs::read_link(format!("/proc/{}/cwd", daemon.pid))?;
        assert_eq!(cwd.to_string_lossy(), "/");
        Ok(())
    });
}

/// It fails with what `wanted` says on standard error, and nothing of it stays.
#[track_caller]
fn check_fails(machine: &Machine<'_>, wanted: &[&str]) {
    let finished = machine.try_start().expect("it runs");
    assert_eq!(finished.code(), Some(1), "{finished}");
    for text in wanted {
        assert!(finished.stderr.contains(text), "no {text:?}: {finished}");
    }
    assert!(!finished.held_open);
    let ps = machine.host.sh("ps -eo args").expect("ps runs");
    let program = program_path();
    assert!(!ps.contains(&*program.to_string_lossy()), "{ps}");
}

#[test]
fn busy_udp_port() {
    on!(|machine| {
        machine.usual_network()?;
        let _other = UdpSocket::bind((GATEWAY, 53))?;
        check_fails(
            machine,
            &[
                "failed to bind udp listener on 10.88.0.1:53",
                "Address already in use",
            ],
        );
        Ok(())
    });
}

#[test]
fn busy_tcp_port() {
    on!(|machine| {
        machine.usual_network()?;
        let _other = TcpListener::bind((GATEWAY, 53))?;
        check_fails(
            machine,
            &[
                "failed to bind tcp listener on 10.88.0.1:53",
                "Address already in use",
            ],
        );
        Ok(())
    });
}

#[test]
fn busy_ipv6_port() {
    on!(|machine| {
        machine.usual_network()?;
        let _other = UdpSocket::bind((GATEWAY_V6, 53))?;
        check_fails(machine, &["failed to bind udp listener on [fd10:88::1]:53"]);
        Ok(())
    });
}

#[test]
fn all_busy_ports_are_named() {
    on!(|machine| {
        machine.usual_network()?;
        machine.network(
            "other",
            &format!("{GATEWAY_2}\n{}", line(3, "10.89.0.2", "", "c")),
        )?;
        let _first = UdpSocket::bind((GATEWAY, 53))?;
        let _second = TcpListener::bind((GATEWAY_2, 53))?;
        check_fails(
            machine,
            &[
                "failed to bind udp listener on 10.88.0.1:53",
                "failed to bind tcp listener on 10.89.0.1:53",
            ],
        );
        Ok(())
    });
}

#[test]
fn an_address_that_is_not_there() {
    on!(|machine| {
        machine.network(
            "net",
            &format!("10.77.0.1\n{}", line(1, "10.77.0.2", "", "web")),
        )?;
        check_fails(machine, &["failed to bind udp listener on 10.77.0.1:53"]);
        Ok(())
    });
}

/// Whoever has to mend it wants to know whom to stop.
#[test]
fn who_has_the_port_is_named() {
    on!(|machine| {
        machine.usual_network()?;
        let _other = UdpSocket::bind(("0.0.0.0", 53))?;
        let owner = format!("process {} (", std::process::id());
        check_fails(machine, &[&owner, "has 0.0.0.0:53"]);
        Ok(())
    });
}

/// What would fail when nobody listens any more is refused while somebody does, and leaves no pid file.
#[test]
fn too_few_descriptors() {
    on!(|machine| {
        machine.usual_network()?;
        for limit in ["9", "12", "20"] {
            let finished = Program::new("sh")
                .args(["-c", r#"ulimit -n "$0"; exec "$@""#, limit])
                .arg(program_path())
                .arg("--config")
                .arg(&machine.dir)
                .args(["-p", "53", "run"])
                .run()?;
            assert_eq!(finished.code(), Some(1), "{finished}");
            let told = ["descriptors", "Too many open files", "os error 24"];
            assert!(
                told.iter().any(|text| finished.stderr.contains(text)),
                "{finished}"
            );
            assert!(!machine.dir.join("aardvark.pid").exists(), "{limit}");
        }
        Ok(())
    });
}

/// Bridges get their address, and IPv6 addresses leave their trial, a moment after the call.
#[test]
fn an_address_that_comes_a_moment_later() {
    on!(|machine| {
        machine.network(
            "net",
            &format!("10.77.0.1\n{}", line(1, "10.77.0.2", "", "web")),
        )?;
        let finished = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(250));
                machine.host.sh("ip addr add 10.77.0.1/16 dev lo")
            });
            machine.try_start()
        })?;
        assert!(finished.success(), "{finished}");
        Ok(())
    });
}

#[test]
fn a_missing_directory() {
    on!(|machine| {
        fs::remove_dir(&machine.dir)?;
        check_fails(machine, &[""]);
        let finished = machine.try_start()?;
        assert!(!finished.stderr.is_empty());
        Ok(())
    });
}

#[test]
fn a_file_for_a_directory() {
    on!(|machine| {
        fs::remove_dir(&machine.dir)?;
        fs::write(&machine.dir, "")?;
        check_fails(machine, &[""]);
        Ok(())
    });
}

#[test]
fn an_empty_directory_is_no_error() {
    on!(|machine| {
        let finished = machine.try_start()?;
        assert_eq!(finished.code(), Some(0), "{finished}");
        assert!(!machine.dir.join("aardvark.pid").exists());
        Ok(())
    });
}

#[test]
fn nothing_usable_is_an_error() {
    on!(|machine| {
        machine.network("net", "not an address\n")?;
        check_fails(machine, &[""]);
        Ok(())
    });
}

#[test]
fn what_is_unusable_is_named() {
    on!(|machine| {
        machine.network("net-of-nonsense", "not an address\n")?;
        check_fails(machine, &["net-of-nonsense"]);
        Ok(())
    });
}

#[test]
fn one_bad_network_is_left_out() {
    on!(|machine| {
        machine.usual_network()?;
        machine.network("bad", "10.89.0.1\nonly three columns\n")?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        let said = machine.client("10.89.0.2").says("db A");
        // Its network is none of ours: nobody answers, or somebody who has asked in vain.
        assert!(
            said.as_ref().map_or(true, |said| said == "SERVFAIL"),
            "{said:?}"
        );
        Ok(())
    });
}

#[test]
fn without_resolv_conf() {
    on!(|machine| {
        machine.usual_network()?;
        fs::remove_file("/etc/resolv.conf")?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn with_nonsense_in_resolv_conf() {
    on!(|machine| {
        machine.usual_network()?;
        machine.resolv_conf(
            "nameserver 1.2.3\nnameserver 198.51.100.2%lo\nnameserver\nnameserver 198.51.100.1\n",
        )?;
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.start()?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        Ok(())
    });
}

/// The first child of a process.
fn child_of(parent: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let child = children.split_whitespace().next()?;
    Some(Pid::from_raw(child.parse().ok()?))
}

#[test]
fn a_daemon_that_dies_before_it_is_ready_is_an_error() {
    on!(|machine| {
        let mut text = format!("{GATEWAY}\n");
        for number in 0..150_000_u32 {
            let [_, a, b, c] = number.to_be_bytes();
            text.push_str(&line(
                number,
                &format!("11.{a}.{b}.{c}"),
                "",
                &format!("c{number}"),
            ));
        }
        machine.network("net", &text)?;
        let mut parent = Command::new(program_path())
            .arg("--config")
            .arg(&machine.dir)
            .args(["-p", "53", "run"])
            .stderr(Stdio::null())
            .spawn()?;
        let begin = Instant::now();
        let child = loop {
            if let Some(child) = child_of(parent.id()) {
                break child;
            }
            anyhow::ensure!(begin.elapsed() < Duration::from_secs(5), "no child");
        };
        kill(child, Signal::SIGKILL).context("the child has ended")?;
        // Whoever waits for another sign than the end of its child waits for ever.
        let ends = eventually(Duration::from_secs(10), || {
            parent.try_wait().is_ok_and(|ended| ended.is_some())
        });
        if !ends {
            parent.kill()?;
        }
        assert_eq!(parent.wait()?.code(), Some(1));
        Ok(())
    });
}

/// Engines send it as soon as there is a number to send it to.
#[test]
fn an_early_reload_kills_nobody() {
    on!(|machine| {
        machine.usual_network()?;
        let file = machine.dir.join("aardvark.pid");
        for round in 0..50 {
            let mut parent = Command::new(program_path())
                .arg("--config")
                .arg(&machine.dir)
                .args(["-p", "53", "run"])
                .stderr(Stdio::null())
                .spawn()?;
            let begin = Instant::now();
            let pid = loop {
                if let Some(pid) = fs::read_to_string(&file)
                    .ok()
                    .and_then(|pid| pid.parse().ok())
                {
                    break Pid::from_raw(pid);
                }
                anyhow::ensure!(begin.elapsed() < Duration::from_secs(5), "no pid file");
            };
            kill(pid, Signal::SIGHUP).ok();
            assert_eq!(parent.wait()?.code(), Some(0), "start {round}");
            assert_eq!(
                machine.web().says("db A")?,
                "NOERROR 10.88.0.3",
                "start {round}"
            );
            let daemon = machine.running()?;
            daemon.signal(Signal::SIGKILL)?;
            assert!(daemon.ends_within(Duration::from_secs(10)));
            fs::remove_file(&file)?;
        }
        Ok(())
    });
}
