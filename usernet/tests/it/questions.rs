//! Running instances are asked (`usernet stats`).

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use anyhow::{Context, Result, ensure};
use ask::{Form, Question};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Backlog, listen};
use nix::unistd::Pid;
use serde_json::Value;
use test_fixtures::lab::{self, Host};
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

use crate::attached::{Daemon, run, state, status, usernet, wait_for};

/// An instance with a control socket.
struct Site {
    pid: i32,
    socket: PathBuf,
}

impl Site {
    fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<Self> {
        let directory = host.dir("questions")?;
        let name = guest.path().file_name().context("a name")?;
        let socket = directory.join(name);
        let program = usernet(words).args(["--no-map-gw", "--quiet", "--conf-path"]);
        let daemon = Daemon::of(program.arg(&socket), host, guest)?;
        Ok(Self {
            pid: daemon.pid,
            socket,
        })
    }

    /// What it says, as a document.
    fn json(&self) -> Result<Value> {
        let finished = stats(["--json", &self.pid.to_string()])?;
        ensure!(finished.success(), "{finished}");
        Ok(serde_json::from_str(&finished.stdout)?)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap_or_default();
    }
}

fn stats<const N: usize>(words: [&str; N]) -> Result<Finished> {
    let program = Program::new(env!("CARGO_BIN_EXE_usernet"));
    program.arg("stats").args(words).run()
}

const PORTS: [&str; 8] = ["-t", "8080:80", "-u", "5353:53", "-T", "none", "-U", "none"];

/// The only flow of a kind among those that are listed.
fn flow<'a>(answer: &'a Value, kind: &str) -> Option<&'a Value> {
    let mut flows = answer["flows"]["top"].as_array()?.iter();
    flows.find(|flow| flow["kind"] == kind)
}

#[test]
fn flows_bytes_drops_listeners_and_limits_are_told() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let far = outside.enter(|| Ok(TcpListener::bind("192.0.2.2:7000")?))?;
        let inside = guest.enter(|| Ok(TcpListener::bind("[::]:80")?))?;
        let site = Site::start(host, &guest, &PORTS)?;

        // By the tap: 100000 bytes there, 7 back. By the splice: 4 bytes in.
        let mut stream = guest.enter(|| Ok(TcpStream::connect("192.0.2.2:7000")?))?;
        let (mut accepted, _) = far.accept()?;
        let answer = thread::spawn(move || -> Result<TcpStream> {
            accepted.read_exact(&mut vec![0; 100_000])?;
            accepted.write_all(b"goodbye")?;
            Ok(accepted)
        });
        stream.write_all(&[7; 100_000])?;
        stream.read_exact(&mut [0; 7])?;
        let _kept = answer.join().expect("the server panicked")?;
        let mut near = host.enter(|| Ok(TcpStream::connect("127.0.0.1:8080")?))?;
        let (mut spliced, _) = inside.accept()?;
        near.write_all(b"four")?;
        spliced.read_exact(&mut [0; 4])?;
        // A datagram out, and one in to a guest that answers.
        let socket = guest.enter(|| Ok(UdpSocket::bind("0.0.0.0:53")?))?;
        let caller = outside.enter(|| Ok(UdpSocket::bind("192.0.2.2:6000")?))?;
        caller.send_to(b"three", "192.0.2.1:5353")?;
        let (len, from) = socket.recv_from(&mut [0; 16])?;
        socket.send_to(b"reply", from)?;
        ensure!((len, caller.recv(&mut [0; 16])?) == (5, 5));

        wait_for("what the guest has acknowledged is counted", || {
            let told = site.json().unwrap_or_default();
            flow(&told, "tcp").is_some_and(|tcp| tcp["bytes_to_guest"] == 7)
        })?;
        let told = site.json()?;
        ensure!(told["version"] == 1 && told["pid"] == site.pid, "{told:#}");
        let tcp = flow(&told, "tcp").context("a connection")?;
        let (from, to) = (stream.local_addr()?.to_string(), "192.0.2.2:7000");
        ensure!(tcp["from"] == *from && tcp["to"] == to, "{tcp}");
        ensure!(tcp["direction"] == "out" && tcp["state"] == "open", "{tcp}");
        ensure!(tcp["bytes_to_host"] == 100_000, "{tcp}");
        let splice = flow(&told, "tcp splice").context("a splice")?;
        let from = near.local_addr()?.to_string();
        ensure!(
            splice["from"] == *from && splice["direction"] == "in",
            "{splice}"
        );
        ensure!(
            splice["to"] == "192.0.2.1:80" && splice["bytes_to_guest"] == 4,
            "{splice}"
        );
        let udp = flow(&told, "udp").context("datagrams")?;
        ensure!(
            udp["from"] == "192.0.2.2:6000" && udp["state"] == "open",
            "{udp}"
        );
        ensure!(
            (&udp["bytes_to_guest"], &udp["bytes_to_host"]) == (&5.into(), &5.into()),
            "{udp}"
        );
        ensure!(told["flows"]["now"] == 3, "{told:#}");
        ensure!(
            told["flows"]["top"][0]["kind"] == "tcp",
            "most first: {told:#}"
        );
        let rules = told["listeners"].as_array().context("a list")?;
        let ports: Vec<_> = rules.iter().map(|rule| &rule["first"]).collect();
        ensure!(ports == [8080, 5353], "{rules:?}");
        ensure!(
            rules.iter().all(|rule| rule["sockets"].as_u64() > Some(0)),
            "{rules:?}"
        );
        let flows = &told["limits"][0];
        ensure!(flows["name"] == "flows" && flows["now"] == 3, "{flows}");

        // A frame that the interface does not take.
        guest.sh(&format!("ip link set {} down", Host::UPLINK))?;
        caller.send_to(b"three", "192.0.2.1:5353")?;
        let refused = || {
            Some(site.json().ok()?["counters"]["dropped"]["refused_by_the_tap"].as_u64() > Some(0))
        };
        wait_for("it is counted", || refused() == Some(true))?;
        Ok(())
    });
}

#[test]
fn instances_are_found_by_number_by_socket_and_all() {
    run(|host| {
        let _outside = host.outside()?;
        let guests = [host.container("one")?, host.container("two")?];
        let none = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"];
        let (first, second) = (
            Site::start(host, &guests[0], &PORTS)?,
            Site::start(host, &guests[1], &none)?,
        );
        let socket = second.socket.to_string_lossy().into_owned();
        let told: Value = serde_json::from_str(&stats(["--json", &socket])?.stdout)?;
        ensure!(told["pid"] == second.pid, "{told:#}");
        // Nothing has become of the rules.
        ensure!(
            told["listeners"] == Value::from(Vec::<Value>::new()),
            "{told:#}"
        );

        let told: Value = serde_json::from_str(&stats(["--json", "--all"])?.stdout)?;
        let pids = |told: &Value| -> Vec<i64> {
            let list = told.as_array().into_iter().flatten();
            list.filter_map(|one| one["pid"].as_i64()).collect()
        };
        // Others are beside us, in other network namespaces, which do not answer.
        let (one, two) = (i64::from(first.pid), i64::from(second.pid));
        let found = pids(&told);
        ensure!(found.contains(&one) && found.contains(&two), "{found:?}");

        let both = stats([&first.pid.to_string(), &socket])?;
        for pid in [first.pid, second.pid] {
            ensure!(both.stdout.contains(&format!("pid {pid}, up ")), "{both}");
        }
        ensure!(both.stdout.contains("TCP [*]:8080"), "{both}");

        // Gone without a word: nothing is left that disturbs.
        kill(Pid::from_raw(second.pid), Signal::SIGKILL)?;
        wait_for("it ends", || {
            state(second.pid).is_none_or(|state| state == 'Z')
        })?;
        let gone = stats([&second.pid.to_string()])?;
        ensure!(gone.code() == Some(1) && gone.stdout.is_empty(), "{gone}");
        ensure!(stats([&first.pid.to_string()])?.success());
        Ok(())
    });
}

#[test]
fn others_are_not_harmed() {
    run(|_| {
        let mut other = Command::new("sleep").arg("60").spawn()?;
        let pid = other.id();
        let finished = stats([&pid.to_string()])?;
        ensure!(finished.code() == Some(1), "{finished}");
        let expected = format!("process {pid} does not answer questions");
        ensure!(finished.stderr.contains(&expected), "{finished}");
        ensure!(other.try_wait()?.is_none(), "it was ended");
        other.kill()?;
        other.wait()?;
        let gone = stats([&pid.to_string()])?;
        ensure!(
            gone.stderr == format!("there is no process {pid}\n"),
            "{gone}"
        );
        Ok(())
    });
}

#[test]
fn another_user_may_not_ask() {
    lab::run_with_users(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let site = Site::start(host, &guest, &PORTS)?;
        let finished = Program::new("setpriv")
            .args(["--reuid", "1", "--regid", "1", "--clear-groups"])
            .args([env!("CARGO_BIN_EXE_usernet"), "stats"])
            .arg(site.pid.to_string())
            .run()?;
        ensure!(
            finished.code() == Some(1) && finished.stdout.is_empty(),
            "{finished}"
        );
        ensure!(finished.stderr.contains("is not yours"), "{finished}");
        Ok(())
    });
}

/// A listener whose queue is full: who calls waits.
fn deaf() -> Result<(TcpListener, Vec<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listen(&listener, Backlog::new(0)?)?;
    let address = listener.local_addr()?;
    Ok((listener, vec![TcpStream::connect(address)?]))
}

#[test]
fn who_does_not_listen_stops_nobody() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let site = Site::start(host, &guest, &PORTS)?;
        let (listener, _waiting) = deaf()?;
        let question = Question {
            port: listener.local_addr()?.port(),
            form: Form::Json,
            most: ask::MOST,
            token: 1,
        };
        let process = ask::sys::open(site.pid)?;
        // Without anything to say, to nobody, and to somebody who does not listen.
        kill(Pid::from_raw(site.pid), ask::sys::SIGNAL)?;
        ask::sys::send(
            &process,
            &Question {
                port: 1,
                ..question
            },
        )?;
        // A signal that comes while another one waits is lost.
        let calls = format!("0100007F:{:04X} 02 ", question.port);
        wait_for("it calls who does not listen", || {
            let sent = ask::sys::send(&process, &question);
            let sockets = std::fs::read_to_string("/proc/net/tcp");
            sent.is_ok() && sockets.is_ok_and(|sockets| sockets.contains(&calls))
        })?;
        let far = outside.enter(|| Ok(TcpListener::bind("192.0.2.2:7000")?))?;
        let mut stream = guest.enter(|| Ok(TcpStream::connect("192.0.2.2:7000")?))?;
        let (mut accepted, _) = far.accept()?;
        stream.write_all(b"x")?;
        accepted.read_exact(&mut [0])?;
        // His turn is over some time.
        ensure!(stats([&site.pid.to_string()])?.success());
        wait_for("it rests", || {
            status(site.pid, "State").is_ok_and(|state| state.starts_with('S'))
        })
    });
}

/// The instance calls who listens at the port of the question.
#[test]
fn who_has_not_asked_is_told_nothing() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let site = Site::start(host, &guest, &PORTS)?;
        test_fixtures::questions::answers_only_who_has_asked(site.pid)
    });
}

/// Its loopback is another one.
#[test]
fn who_is_in_another_namespace_is_told_so() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let site = Site::start(host, &guest, &PORTS)?;
        let finished = guest.enter(|| stats([&site.pid.to_string()]))?;
        ensure!(
            finished.code() == Some(1) && finished.stdout.is_empty(),
            "{finished}"
        );
        let expected = "is in another network namespace";
        ensure!(finished.stderr.contains(expected), "{finished}");
        Ok(())
    });
}

/// A directory with a program of that name.
fn program_called(host: &Host, name: &str) -> Result<PathBuf> {
    let directory = host.dir("programs")?;
    let path = directory.join(name);
    std::fs::write(&path, "#!/bin/sh\necho mine \"$@\"\n")?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(directory)
}

fn called(path: &Path, programs: &Path) -> Program {
    let words = [
        "--quiet", "-t", "none", "-u", "none", "-T", "none", "-U", "none",
    ];
    let found = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    Program::new(path).env("PATH", found).args(words)
}

/// What pasta's command line means is what it means there.
#[test]
fn pasta_runs_a_command_of_that_name() {
    run(|host| {
        crate::attached::open_tun(host)?;
        let programs = program_called(host, "stats")?;
        let pasta = host.dir("called")?.join("pasta");
        symlink(env!("CARGO_BIN_EXE_usernet"), &pasta)?;
        let finished = called(&pasta, &programs).args(["stats", "--all"]).run()?;
        ensure!(finished.stdout == "mine --all\n", "{finished}");
        let name = called(&PathBuf::from(env!("CARGO_BIN_EXE_usernet")), &programs);
        let finished = name.args(["--", "stats", "--all"]).run()?;
        ensure!(finished.stdout == "mine --all\n", "{finished}");
        Ok(())
    });
}

/// A guest's program runs with no signal blocked or ignored that is ours alone.
#[test]
fn a_command_is_asked_by_its_own_signals() {
    run(|host| {
        crate::attached::open_tun(host)?;
        let mut shell: Child = Command::new(env!("CARGO_BIN_EXE_usernet"))
            .args(["--quiet", "--", "grep", "SigBlk", "/proc/self/status"])
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        shell
            .stdout
            .take()
            .context("piped")?
            .read_to_string(&mut said)?;
        shell.wait()?;
        ensure!(said == "SigBlk:\t0000000000000000\n", "{said}");
        Ok(())
    });
}
