//! What happens where there is no more.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::program::Program;

use crate::attached::{self, Daemon, run, wait_for};

/// Files that the program may have open.
const FILES: usize = 400;
/// Without these there is no start: our own, and some for flows.
const LEAST: usize = 64 + 21 + 16;

/// The program with few descriptors, for `words` to follow.
fn with_few(words: &[&str]) -> Program {
    Program::new("sh")
        .args(["-c", &format!("ulimit -n {FILES} && exec \"$@\""), "sh"])
        .args([env!("CARGO_BIN_EXE_usernet"), "--config-net"])
        .args(words)
}

/// The same with a published port and a log file.
fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<(Daemon, std::path::PathBuf)> {
    let log = host.dir("limits")?.join("log");
    let program = with_few(words)
        .args(["--no-map-gw", "-t", "8080:80", "--quiet", "--log-file"])
        .arg(&log);
    Ok((Daemon::of(program, host, guest)?, log))
}

fn open_files(daemon: &Daemon) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid))?.count())
}

/// With few files there is a start that serves, or none and a word about the limit; never one that serves nobody.
#[test]
fn a_small_limit_is_enough_or_an_error() {
    run(|host| {
        let _outside = host.outside()?;
        let limited = |files: usize, words: &[&str]| {
            let limit = format!("ulimit -n {files} && exec \"$@\"");
            let quiet = ["-q", "-u", "none", "-T", "none", "-U", "none"];
            attached::usernet(words)
                .args(quiet)
                .under(["sh", "-c", &limit, "sh"])
        };
        let ports = ["-t", "8080-8099:80-99"];
        for files in [20, 26, 96, LEAST + 19] {
            let guest = host.container("guest")?;
            let refused = Daemon::of(limited(files, &ports), host, &guest);
            let error = format!("{:?}", refused.err().context("it has started")?);
            let said = format!(
                "ulimit -Hn) is {files}, and at least {} are needed",
                LEAST + 20
            );
            ensure!(error.contains(&said), "{error}");
        }
        for (files, ports) in [
            (LEAST + 20, ports),
            (LEAST, ["-t", "none"]),
            (LEAST, ["-t", "all"]),
        ] {
            let guest = host.container("guest")?;
            let daemon = Daemon::of(limited(files, &ports), host, &guest)?;
            let listener = host.enter(|| Ok(TcpListener::bind("127.0.0.1:7000")?))?;
            let mut clients = Vec::new();
            for _ in 0..10 {
                let client = guest.enter(|| Ok(TcpStream::connect("192.0.2.2:7000")?))?;
                clients.push((client, listener.accept()?));
            }
            drop(guest);
            daemon.ended()?;
        }
        Ok(())
    });
}

/// Neither kind of flow runs into the limit: it is known beforehand, and the log names it.
#[test]
fn descriptors_are_never_missing() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let (daemon, log) = start(host, &guest, &[])?;
        datagrams(&outside, &guest)?;
        let said = std::fs::read_to_string(&log)?;
        let limit = "The limit of open files (RLIMIT_NOFILE, ulimit -n) leaves ";
        ensure!(said.contains(limit), "{said}");
        ensure!(
            said.contains("the one that is missed least gives way"),
            "{said}"
        );
        streams(host, &guest, &daemon)?;
        let said = std::fs::read_to_string(&log)?;
        ensure!(said.contains("no new ones"), "{said}");
        ensure!(!said.contains("Too many open files"), "{said}");
        ensure!(said.lines().count() < 200, "{said}");
        ensure!(open_files(&daemon)? <= FILES);
        drop(guest);
        daemon.ended()?;
        Ok(())
    });
}

/// More ports than there may be files: as many are bound as leave some files to connections, and the limit is named.
#[test]
fn all_ports_are_as_many_as_there_may_be_files() {
    run(|host| {
        let _outside = host.outside()?;
        for (words, limit, sides) in [
            (&["-t", "all"][..], "HOST TCP", [true, false]),
            (&["-T", "all"], "SPLICE TCP", [false, true]),
            (
                &["-t", "all", "-u", "all", "-U", "all"],
                "HOST TCP",
                [true, true],
            ),
        ] {
            let guest = host.container("guest")?;
            let program = with_few(words).arg("--quiet");
            let daemon = Daemon::of(program, host, &guest)?;
            let said = &daemon.finished.stderr;
            ensure!(
                said.contains(&format!("Listen failed for {limit} port *")),
                "{said}"
            );
            ensure!(
                said.contains("limit of open files (RLIMIT_NOFILE, ulimit -Hn) leaves"),
                "{said}"
            );
            let count = |at: &Netns| Ok::<_, anyhow::Error>(at.sh("ss -Htuln")?.lines().count());
            let bound = [count(host)?, count(&guest)?];
            let many = bound.iter().sum::<usize>();
            ensure!(
                bound.map(|bound| bound > 0) == sides,
                "{words:?}: {bound:?}"
            );
            ensure!(
                many > FILES / 4 && many < FILES / 4 * 3,
                "{words:?}: {bound:?}"
            );
            if words == ["-t", "all"] {
                let listener = guest.enter(|| Ok(TcpListener::bind("0.0.0.0:7")?))?;
                let mut client = host.enter(|| Ok(TcpStream::connect("127.0.0.1:7")?))?;
                let (mut server, _) = listener.accept()?;
                server.write_all(b"here")?;
                client.read_exact(&mut [0; 4])?;
            }
            drop(guest);
            daemon.ended()?;
        }
        Ok(())
    });
}

/// Clock ticks (10 ms) of processor time that a process has had.
fn ticks(pid: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").context("no name")?.1;
    let mut fields = fields.split(' ').skip(11);
    let mut field = || -> Result<u64> { Ok(fields.next().context("too short")?.parse()?) };
    Ok(field()? + field()?)
}

fn limit_files(daemon: &Daemon, most: usize) -> Result<()> {
    let pid = daemon.pid.to_string();
    let finished = Program::new("prlimit")
        .args(["--pid", &pid, &format!("--nofile={most}:")])
        .run()?;
    ensure!(finished.success(), "{finished}");
    Ok(())
}

/// Without a descriptor for one more, callers wait, and we sleep. With one, they are served.
#[test]
fn callers_that_cannot_be_accepted_cost_nothing() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let control = host.dir("control")?.join("socket");
        let path = control.to_str().context("a path of ours")?;
        // As ourselves, so that our limits may be changed.
        let words = ["-c", path, "--runas", "0:0"];
        let (daemon, log) = start(host, &guest, &words)?;
        let listener = guest.enter(|| Ok(TcpListener::bind("0.0.0.0:80")?))?;
        limit_files(&daemon, 1)?;
        let mut client = host.enter(|| Ok(TcpStream::connect("127.0.0.1:8080")?))?;
        let mut other = std::os::unix::net::UnixStream::connect(&control)?;
        let said = |words: &str| std::fs::read_to_string(&log).is_ok_and(|log| log.contains(words));
        wait_for("both limits are named", || {
            said(
                "Couldn't accept a connection: Too many open files: our limit of open files (RLIMIT_NOFILE",
            ) && said("New forwarding rules refused: Too many open files: our limit")
        })?;
        let before = ticks(daemon.pid)?;
        std::thread::sleep(Duration::from_secs(1));
        let used = ticks(daemon.pid)? - before;
        ensure!(used < 20, "{used} ticks of 100");
        limit_files(&daemon, FILES)?;
        let (mut server, _) = listener.accept()?;
        server.write_all(b"here")?;
        client.read_exact(&mut [0; 4])?;
        other.read_exact(&mut [0; 4])?;
        let told = std::fs::read_to_string(&log)?;
        ensure!(told.lines().count() < 20, "{told}");
        ensure!(daemon.lives());
        Ok(())
    });
}

/// Twice as many datagram flows as there may be files: each is answered, since the oldest give way.
fn datagrams(outside: &Netns, guest: &Netns) -> Result<()> {
    let far = outside.enter(|| Ok(UdpSocket::bind("192.0.2.2:7000")?))?;
    let mut buffer = [0; 10];
    for number in 0..2 * FILES {
        let near = guest.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        near.set_read_timeout(Some(Duration::from_secs(10)))?;
        near.send_to(b"there", "192.0.2.2:7000")?;
        let (_, peer) = far.recv_from(&mut buffer)?;
        far.send_to(b"back", peer)?;
        ensure!(near.recv(&mut buffer)? == 4, "{number}");
    }
    Ok(())
}

/// Connections through loopback until one is refused. Those before it work, and there is room again when they end.
fn streams(host: &Host, guest: &Netns, daemon: &Daemon) -> Result<()> {
    let listener = guest.enter(|| Ok(TcpListener::bind("0.0.0.0:80")?))?;
    listener.set_nonblocking(true)?;
    let mut pairs: Vec<(TcpStream, TcpStream)> = Vec::new();
    for number in 0.. {
        ensure!(number < FILES, "as many as there may be files");
        let mut client = host.enter(|| Ok(TcpStream::connect("127.0.0.1:8080")?))?;
        let mut server = None;
        client.set_read_timeout(Some(Duration::from_millis(10)))?;
        wait_for("it is connected or refused", || {
            server = server.take().or_else(|| listener.accept().ok());
            let read = client.read(&mut [0]);
            let waits = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            server.is_some() || !waits
        })?;
        let Some((server, _)) = server else { break };
        server.set_nonblocking(false)?;
        pairs.push((client, server));
    }
    // Both sockets and both pipes of each are in use.
    let (say, mut heard) = (vec![7; 200_000], vec![0; 200_000]);
    let count = pairs.len();
    ensure!(count > FILES / 20, "{count} are too few");
    std::thread::scope(|scope| {
        for (one, other) in pairs.iter_mut().flat_map(|(client, server)| {
            let twins = client
                .try_clone()
                .and_then(|client| Ok((client, server.try_clone()?)));
            let twins = twins.expect("the test has descriptors");
            [(client, twins.1), (server, twins.0)].map(|(one, other)| (one.try_clone(), other))
        }) {
            let (mut one, mut other) = (one.expect("the test has descriptors"), other);
            let say = &say;
            scope.spawn(move || one.write_all(say));
            other.set_read_timeout(Some(Duration::from_secs(10)))?;
            other
                .read_exact(&mut heard)
                .context("a connection that was let in")?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let most = open_files(daemon)?;
    ensure!(most <= FILES, "{most}");
    drop(pairs);
    wait_for("there is room again", || {
        host.enter(|| Ok(TcpStream::connect("127.0.0.1:8080")?))
            .is_ok()
            && listener.accept().is_ok()
    })
}
