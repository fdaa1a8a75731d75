//! What is there when we say that we are ready, and what is said when we do not get there.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::netns::Netns;

use crate::attached::{
    Daemon, as_engine, children, open_tun, path, program, run, start, status, usernet, wait_for,
};

fn netns(path: &std::path::Path) -> String {
    format!("netns={}", path.display())
}

#[test]
fn a_path_gets_a_tap_and_the_caller_its_pipe_back() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "link=eth7", "splice"])?;
        ensure!(!daemon.finished.held_open, "somebody holds the output");
        ensure!(daemon.finished.stderr.is_empty(), "{}", daemon.finished);
        ensure!(daemon.lives());
        guest
            .sh("ip link show eth7 && ip link set eth7 up && ip -br link show eth7 | grep -w UP")?;
        ensure!(host.sh("ip -br link | grep -c eth7 || true")?.trim() == "0");
        Ok(())
    });
}

#[test]
fn the_tap_leaves_checksums_and_segments_to_us() {
    run(|host| {
        let guest = host.container("guest")?;
        let _daemon = Daemon::start(host, &[&netns(guest.path())])?;
        // The kernel under test has all of them.
        let features = guest.sh("ip -d link show tap0")?;
        ensure!(features.contains("vnet_hdr on"), "{features}");
        ensure!(features.contains("persist off"), "{features}");
        Ok(())
    });
}

#[test]
fn the_pid_is_the_one_that_the_caller_sees() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path())])?;
        let numbers = status(daemon.pid, "NSpid")?;
        let numbers: Vec<&str> = numbers.split_ascii_whitespace().collect();
        ensure!(numbers.len() == 2 || numbers.len() == 3, "{numbers:?}");
        ensure!(numbers.first() == Some(&daemon.pid.to_string().as_str()));
        ensure!(
            numbers.last() == Some(&"1"),
            "no PID namespace: {numbers:?}"
        );
        Ok(())
    });
}

#[test]
fn a_process_is_attached_to_and_its_end_is_ours() {
    run(|host| {
        let mut guest = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = [0; 6];
        let mut out = guest.stdout.take().expect("piped");
        std::io::Read::read_exact(&mut out, &mut line)?;
        let pid = guest.id();
        let daemon = Daemon::start(host, &[&format!("process={pid}")])?;
        host.sh(&format!(
            "nsenter --net=/proc/{pid}/ns/net ip link show tap0"
        ))?;
        ensure!(daemon.lives());
        guest.kill()?;
        daemon.ended()?;
        guest.wait()?;
        Ok(())
    });
}

#[test]
fn a_process_in_a_user_namespace_is_attached_to() {
    run(|host| {
        open_tun(host)?;
        let mut guest = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .args(["sh", "-c", "echo ready; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = [0; 6];
        let mut out = guest.stdout.take().expect("piped");
        std::io::Read::read_exact(&mut out, &mut line)?;
        let pid = guest.id();
        let daemon = Daemon::start(host, &[&format!("process={pid}"), "splice"])?;
        let enter = format!("nsenter --user --net --preserve-credentials --target {pid}");
        host.sh(&format!("{enter} ip link show tap0"))?;
        // The path of another process' namespace means its life, too.
        let path = format!("netns=/proc/{pid}/ns/net");
        let user = format!("userns=/proc/{pid}/ns/user");
        let second = Daemon::start(host, &[&path, &user, "link=tap1"])?;
        ensure!(daemon.lives() && second.lives());
        guest.kill()?;
        daemon.ended()?;
        second.ended()?;
        guest.wait()?;
        Ok(())
    });
}

#[test]
fn a_command_has_its_network_and_its_code_is_ours() {
    run(|host| {
        open_tun(host)?;
        let script = "ip link show tap0 >/dev/null && echo pid $$; id -u; hostname; \
                      cat /proc/sys/net/ipv4/ping_group_range; ls /proc | grep -c '^[0-9]'; exit 7";
        let finished = program().args(["splice", "--", "sh", "-c", script]).run()?;
        ensure!(finished.code() == Some(7), "{finished}");
        let lines: Vec<&str> = finished.stdout.lines().collect();
        let name = nix::unistd::gethostname()?;
        let name = format!("pasta-{}", name.to_string_lossy());
        let range = lines.get(3).map(|range| range.replace('\t', " "));
        ensure!(lines[..3] == ["pid 1", "0", &*name], "{finished}");
        ensure!(range.as_deref() == Some("0 0"), "{finished}");
        ensure!(finished.stderr.is_empty(), "{finished}");
        Ok(())
    });
}

#[test]
fn a_command_that_is_killed_or_missing_is_told_of() {
    run(|host| {
        open_tun(host)?;
        let killed = program()
            .args(["--", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"])
            .run()?;
        ensure!(killed.code() == Some(137), "{killed}");
        let missing = program().args(["--", "/no/such/program"]).run()?;
        ensure!(missing.code() == Some(1), "{missing}");
        let text = "Failed to start command or shell /no/such/program: No such file or directory\n";
        ensure!(missing.stderr == text, "{missing}");
        Ok(())
    });
}

#[test]
fn a_command_ends_with_us() {
    run(|host| {
        open_tun(host)?;
        let mut us = Command::new(path())
            .args(["--", "sh", "-c", "echo ready; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = [0; 6];
        let mut out = us.stdout.take().expect("piped");
        std::io::Read::read_exact(&mut out, &mut line)?;
        let pid = i32::try_from(us.id())?;
        wait_for("the sandbox is closed", || {
            status(pid, "Seccomp").is_ok_and(|mode| mode == "2")
        })?;
        let command = children(pid)?;
        ensure!(command.len() == 1, "{command:?}");
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        ensure!(us.wait()?.code() == Some(0));
        wait_for("the command ends", || {
            crate::attached::state(command[0]).is_none()
        })?;
        Ok(())
    });
}

#[test]
fn what_fails_is_said_in_known_words() {
    run(|host| {
        let guest = host.container("guest")?;
        let check = |words: &[&str], expected: &str| -> Result<()> {
            let finished = program().args(words).run()?;
            ensure!(finished.code() == Some(1), "{finished}");
            ensure!(finished.stderr == expected, "{finished}");
            Ok(())
        };
        check(
            &["netns=/run/netns/none"],
            "Couldn't open network namespace /run/netns/none: No such file or directory\n",
        )?;
        check(
            &["netns=/etc/passwd"],
            "Couldn't switch to pasta namespaces: Invalid argument\n",
        )?;
        guest.sh("ip tuntap add tap3 mode tap")?;
        guest.sh("ip link add eth9 type veth peer name eth8")?;
        check(
            &[&netns(guest.path()), "link=eth9"],
            "TUNSETIFF ioctl on /dev/net/tun failed: Invalid argument\n\
             Failed to set up tap device in namespace\n",
        )
        .or_else(|_| {
            check(
                &[&netns(guest.path()), "link=eth9"],
                "TUNSETIFF ioctl on /dev/net/tun failed: Device or resource busy\n\
                 Failed to set up tap device in namespace\n",
            )
        })?;
        let _first = Daemon::start(host, &[&netns(guest.path()), "tcp=127.0.0.1/8080"])?;
        check(
            &[&netns(guest.path())],
            "TUNSETIFF ioctl on /dev/net/tun failed: Device or resource busy\n\
             Failed to set up tap device in namespace\n",
        )?;
        check(
            &[&netns(guest.path()), "link=tap1", "tcp=0.0.0.0/8080"],
            "Listen failed for HOST TCP port 0.0.0.0/8080: Address already in use\n\
             Couldn't listen on requested ports\n",
        )?;
        check(
            &[&netns(guest.path()), "link=tap1", "pid=/no/such/file"],
            "Couldn't open PID file /no/such/file: No such file or directory\n",
        )
    });
}

#[test]
fn listeners_are_there_on_both_sides() {
    run(|host| {
        let guest = host.container("guest")?;
        guest.sh("ip link set lo up")?;
        let words = [
            &netns(guest.path()),
            "tcp=8080",
            "tcp=::1/8081",
            "tcp-ns=80",
        ];
        let _daemon = Daemon::start(host, &words)?;
        let reach = |ip: &str, port: u16| {
            TcpStream::connect((ip.parse::<std::net::IpAddr>().expect("ip"), port)).is_ok()
        };
        ensure!(reach("127.0.0.1", 8080) && reach("::1", 8080) && reach("::1", 8081));
        ensure!(!reach("127.0.0.1", 8081));
        guest.enter(|| {
            ensure!(reach("127.0.0.1", 80) && reach("::1", 80));
            Ok(())
        })?;
        ensure!(TcpListener::bind("127.0.0.1:8080").is_err());
        Ok(())
    });
}

/// What the caller left open is closed, what it left closed is open, and there may be many descriptors.
#[test]
fn descriptors_are_as_they_shall_be() {
    run(|host| {
        let guest = host.container("guest")?;
        let file = host.dir("descriptors")?.join("pid");
        let start = format!(
            "ulimit -Sn 100; exec 9</etc/passwd 8>&1; {} {} pid={} 0<&- 1>&- 2>&-",
            path().display(),
            netns(guest.path()),
            file.display()
        );
        host.sh(&start)?;
        let pid = std::fs::read_to_string(&file)?;
        let pid = pid.trim();
        let open = host.sh(&format!("ls -l /proc/{pid}/fd"))?;
        for number in ["0", "1", "2"] {
            ensure!(open.contains(&format!(" {number} -> /dev/null")), "{open}");
        }
        ensure!(
            !open.contains("passwd") && !open.contains("pipe:"),
            "{open}"
        );
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<&str> = files.into_iter().flat_map(str::split_whitespace).collect();
        ensure!(words.get(3) == words.get(4) && words.len() > 4, "{words:?}");
        Ok(())
    });
}

#[test]
fn a_privileged_port_comes_with_a_hint() {
    run(|host| {
        let script = format!("exec {} netns=$PWD/ns tcp=0.0.0.0/80", path().display());
        let finished = as_engine(host, &script)?;
        ensure!(finished.code() == Some(1), "{finished}");
        let expected = "Listen failed for HOST TCP port 0.0.0.0/80: Permission denied\n\
                        Couldn't listen on requested ports\n\
                        ports below 1024 are for privileged processes: choose another, or as root: \
                        sysctl net.ipv4.ip_unprivileged_port_start=80\n";
        ensure!(finished.stderr == expected, "{finished}");
        Ok(())
    });
}

/// A range that follows the other side is not bound at the start, but both sides can be asked about their ports.
#[test]
fn what_follows_the_other_side_waits() {
    run(|host| {
        let guest = host.container("guest")?;
        let daemon = Daemon::start(host, &[&netns(guest.path()), "follow=8080"])?;
        ensure!(TcpListener::bind("127.0.0.1:8080").is_ok());
        let open = host.sh(&format!("ls -l /proc/{}/fd", daemon.pid))?;
        ensure!(open.matches("socket:").count() == 2, "{open}");
        Ok(())
    });
}

/// A guest without IPv6 has IPv4, and a warning says so; who wants nothing but IPv6 is told what to do.
#[test]
fn ipv6_may_be_switched_off_in_the_guest() {
    run(|host| {
        let outside = host.outside()?;
        for kind in ["all", "default"] {
            let guest = host.container("guest")?;
            guest.set_sysctl(&format!("ipv6/conf/{kind}/disable_ipv6"), "1")?;
            let daemon = start(host, &guest, &["--no-map-gw", "-t", "8080:80"])?;
            let expected = "IPv6 is switched off in the guest's namespace \
                            (net.ipv6.conf.all.disable_ipv6=1): it has IPv4 only\n";
            ensure!(daemon.finished.stderr == expected, "{}", daemon.finished);
            let far = outside.enter(|| Ok(TcpListener::bind("192.0.2.2:7000")?))?;
            let reach = |ns: &Netns, to| ns.enter(|| Ok(TcpStream::connect(to)?)).context(to);
            reach(&guest, "192.0.2.2:7000")?;
            far.accept()?;
            let near = guest.enter(|| Ok(TcpListener::bind("0.0.0.0:80")?))?;
            reach(host, "127.0.0.1:8080")?;
            near.accept()?;
            ensure!(guest.sh("ip -6 address show scope global")?.is_empty());
            drop(guest);
            daemon.ended()?;
        }
        let guest = host.container("guest")?;
        guest.set_sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        let finished = usernet(&["-q", "-6"])
            .arg("--netns")
            .arg(guest.path())
            .run()?;
        ensure!(finished.code() == Some(1), "{finished}");
        let said = &finished.stderr;
        let first = "Couldn't set IPv6 link-local address in namespace: Permission denied\n";
        ensure!(said.contains(first), "{said}");
        ensure!(
            said.contains("sysctl -w net.ipv6.conf.all.disable_ipv6=0"),
            "{said}"
        );
        Ok(())
    });
}

/// Neither what the host has nor what the guest gets is looked up in /proc.
#[test]
fn proc_may_be_missing() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let covered = "mount -t tmpfs none /proc && exec \"$@\"";
        let words = ["-q", "-t", "none", "-u", "none", "-T", "none", "-U", "none"];
        let program = usernet(&words).under(["unshare", "--mount", "sh", "-c", covered, "sh"]);
        let daemon = Daemon::of(program, host, &guest)?;
        let said = &daemon.finished.stderr;
        ensure!(
            said == "Couldn't get any nameserver address\n" || said.is_empty(),
            "{said}"
        );
        let addresses = guest.sh("ip address show scope global")?;
        ensure!(addresses.contains("inet 192.0.2.1/24"), "{addresses}");
        ensure!(addresses.contains("inet6 2001:db8:5::1/64"), "{addresses}");
        Ok(())
    });
}

/// Whatever fails in the background is said where the caller reads it.
#[test]
fn what_fails_in_the_background_is_said() {
    run(|host| {
        let script = format!(
            "exec {} -q --runas 5000 --netns $PWD/ns",
            env!("CARGO_BIN_EXE_usernet")
        );
        let finished = as_engine(host, &script)?;
        ensure!(finished.code() == Some(1), "{finished}");
        let said = "Couldn't become user 5000, group 5000: ";
        ensure!(finished.stderr.contains(said), "{finished}");
        Ok(())
    });
}

/// A pid file without a number is of no use; one that somebody made for us is his.
#[test]
fn a_failed_start_leaves_no_pid_file() {
    run(|host| {
        let guest = host.container("guest")?;
        let _busy = TcpListener::bind("0.0.0.0:8080")?;
        let file = host.dir("pid")?.join("file");
        let fails = |words: &[&str], said: &str| -> Result<()> {
            let program = usernet(&["-q", "-t", "8080", "--pid"]).arg(&file);
            let program = program.arg("--netns").arg(guest.path());
            let finished = program.args(words).run()?;
            ensure!(finished.code() == Some(1), "{finished}");
            ensure!(finished.stderr.contains(said), "{finished}");
            Ok(())
        };
        for words in [&[][..], &["-f"]] {
            fails(words, "Address already in use")?;
            ensure!(!file.exists(), "{words:?}");
            std::fs::write(&file, "1\n")?;
            fails(words, "Address already in use")?;
            ensure!(std::fs::read_to_string(&file)?.is_empty(), "{words:?}");
            std::fs::remove_file(&file)?;
        }
        fails(&["--netns", "/no/such"], "/no/such")?;
        ensure!(!file.exists());
        Ok(())
    });
}
