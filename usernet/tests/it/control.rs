//! The control socket (`--conf-path`), with a client of our own; [`the_real_client`] is pasta's.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::program::Program;

use crate::attached::{Daemon, run, usernet, wait_for};

const HOST: u8 = 1;
const SPLICE: u8 = 3;

/// A forwarder with a control socket and a log.
struct Site {
    daemon: Daemon,
    socket: PathBuf,
    log: PathBuf,
}

impl Site {
    fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<Self> {
        let directory = host.dir("control")?;
        let (socket, log) = (directory.join("socket"), directory.join("log"));
        let program = usernet(words)
            .arg("--conf-path")
            .arg(&socket)
            .arg("--log-file")
            .arg(&log);
        let daemon = Daemon::of(program, host, guest)?;
        Ok(Self {
            daemon,
            socket,
            log,
        })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A client, and what it was told that there is.
    fn session(&self) -> Result<(Client, [Vec<Rule>; 2])> {
        let mut client = Client::connect(&self.socket)?;
        let tables = client.tables()?;
        Ok((client, tables))
    }

    fn tables(&self) -> Result<[Vec<Rule>; 2]> {
        Ok(self.session()?.1)
    }

    /// Send tables as the real client does, and wait until the log says so.
    fn replace(&self, tables: &[(u8, &[Rule])]) -> Result<()> {
        let before = self.log().len();
        let (mut client, _) = self.session()?;
        if let Err(error) = client.send(tables) {
            // Whoever sends nonsense is not heard to the end.
            ensure!(error.downcast_ref().map(std::io::Error::kind) == Some(ErrorKind::BrokenPipe));
        }
        wait_for("the log tells of it", || {
            self.log()[before..].contains("forwarding rules")
        })
    }
}

type Rule = [u8; 56];

/// `tcp 8080` or `udp 53`, for every address of both families.
fn rule(table: u8, protocol: u8, port: u16, target: u16) -> Rule {
    let mut rule = [0; 56];
    if table == SPLICE {
        rule[32..34].copy_from_slice(b"lo");
    }
    rule[48..50].copy_from_slice(&port.to_be_bytes());
    rule[50..52].copy_from_slice(&port.to_be_bytes());
    rule[52..54].copy_from_slice(&target.to_be_bytes());
    (rule[54], rule[55]) = (protocol, 1);
    rule
}

struct Client(UnixStream);

impl Client {
    fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(stream))
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// What there is, of HOST and of SPLICE.
    fn tables(&mut self) -> Result<[Vec<Rule>; 2]> {
        let greeting = self.read::<20>()?;
        ensure!(&greeting == b"basil:s\0\0\0\0\x02\0\0\0\x80\0\0\0\x10");
        let mut tables = [Vec::new(), Vec::new()];
        for (table, (id, name)) in tables.iter_mut().zip([(HOST, "HOST"), (SPLICE, "SPLICE")]) {
            ensure!(self.read()? == [id]);
            let text = self.read::<128>()?;
            ensure!(text.starts_with(name.as_bytes()) && text[name.len()] == 0);
            ensure!(self.read()? == [0, 0, 0, 0x3f]);
            let count = u32::from_be_bytes(self.read()?);
            for _ in 0..count {
                table.push(self.read()?);
            }
        }
        ensure!(self.read()? == [0]);
        Ok(tables)
    }

    fn send(&mut self, tables: &[(u8, &[Rule])]) -> Result<()> {
        for (id, rules) in tables {
            self.0.write_all(&[*id])?;
            let count = u32::try_from(rules.len())?;
            self.0.write_all(&count.to_be_bytes())?;
            for rule in *rules {
                self.0.write_all(rule)?;
            }
        }
        Ok(self.0.write_all(&[0])?)
    }
}

/// A server that says who it is.
fn serve(at: &Netns, address: &str, name: &'static str) -> Result<()> {
    let listener = at.enter(|| Ok(TcpListener::bind(address)?))?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.write_all(name.as_bytes()).unwrap_or_default();
        }
    });
    Ok(())
}

/// What is heard there; nothing from nobody.
fn hear(from: &Netns, to: &str) -> String {
    let hear = || -> Result<String> {
        let mut stream = from.enter(|| Ok(TcpStream::connect(to)?))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    hear().unwrap_or_default()
}

const NONE: [&str; 8] = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"];
const PUBLISHED: [&str; 8] = ["-t", "8080:80", "-u", "none", "-T", "none", "-U", "none"];

/// A guest with a server on port 80, the outside, and a forwarder for it.
fn set_up(host: &Host, words: &[&str]) -> Result<(Netns, Netns, Site)> {
    let outside = host.outside()?;
    let guest = host.container("guest")?;
    serve(&guest, "[::]:80", "guest")?;
    let site = Site::start(host, &guest, words)?;
    Ok((outside, guest, site))
}

#[test]
fn tables_are_shown_and_replaced() {
    run(|host| {
        serve(host, "127.0.0.1:81", "host")?;
        let words = ["-t", "8080:80", "-u", "none", "-T", "9000:81", "-U", "none"];
        let (_outside, guest, site) = set_up(host, &words)?;
        let mode = std::fs::metadata(&site.socket)?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");

        let [first, second] = [rule(HOST, 6, 8080, 80), rule(SPLICE, 6, 9000, 81)];
        ensure!(site.tables()? == [vec![first], vec![second]]);
        ensure!(hear(host, "127.0.0.1:8080") == "guest");
        ensure!(hear(&guest, "127.0.0.1:9000") == "host");

        let third = rule(HOST, 6, 8081, 80);
        let fourth = rule(SPLICE, 6, 9001, 81);
        site.replace(&[(HOST, &[first, third]), (SPLICE, &[fourth])])?;
        ensure!(site.tables()? == [vec![first, third], vec![fourth]]);
        ensure!(hear(host, "127.0.0.1:8080") == "guest");
        ensure!(hear(host, "[::1]:8081") == "guest");
        ensure!(hear(&guest, "127.0.0.1:9001") == "host");
        ensure!(hear(&guest, "127.0.0.1:9000").is_empty());

        // A table that is not sent stays.
        site.replace(&[(HOST, &[third])])?;
        ensure!(site.tables()? == [vec![third], vec![fourth]]);
        ensure!(hear(host, "127.0.0.1:8080").is_empty());
        ensure!(hear(host, "127.0.0.1:8081") == "guest");
        Ok(())
    });
}

/// Whatever stays is never refused, and who is connected stays connected, also when his port goes.
#[test]
fn what_stays_does_not_notice() {
    run(|host| {
        let (_outside, guest, site) = set_up(host, &NONE)?;
        let echo = guest.enter(|| Ok(TcpListener::bind("[::]:82")?))?;
        let (stays, goes) = (rule(HOST, 6, 8080, 80), rule(HOST, 6, 8082, 82));
        site.replace(&[(HOST, &[stays, goes])])?;
        let mut connections = Vec::new();
        for address in ["127.0.0.1:8082", "192.0.2.1:8082"] {
            let near = host.enter(|| Ok(TcpStream::connect(address)?))?;
            connections.push((near, echo.accept()?.0));
        }
        let asker = thread::spawn(|| {
            let ask = |_: &u32| TcpStream::connect("127.0.0.1:8080").is_err();
            (0..400).filter(ask).count()
        });
        for round in 0..10 {
            // Also from another place in the table.
            site.replace(&[(HOST, &[rule(HOST, 6, 8090 + round, 80), stays])])?;
            site.replace(&[(HOST, &[stays])])?;
        }
        let refused = asker.join().expect("the asker panicked");
        ensure!(refused == 0, "{refused} were refused");
        for (near, far) in &mut connections {
            far.write_all(b"there")?;
            near.write_all(b"and back")?;
            let (mut there, mut back) = ([0; 5], [0; 8]);
            near.read_exact(&mut there)?;
            far.read_exact(&mut back)?;
            ensure!(&there == b"there" && &back == b"and back");
        }
        Ok(())
    });
}

/// Traffic goes on, the next client waits, and in the end has its turn.
#[test]
fn a_client_that_stalls() {
    run(|host| {
        let (_outside, _guest, site) = set_up(host, &PUBLISHED)?;
        let (mut stalls, [before, _]) = site.session()?;
        stalls.0.write_all(&[HOST, 0, 0])?;
        ensure!(hear(host, "127.0.0.1:8080") == "guest");
        ensure!(site.tables()? == [before, Vec::new()]);
        // It was told to go.
        ensure!(stalls.0.read(&mut [0])? == 0);
        ensure!(site.log().contains("has not said what it wants"));
        ensure!(hear(host, "127.0.0.1:8080") == "guest");
        Ok(())
    });
}

#[test]
fn what_is_wrong_changes_nothing() {
    run(|host| {
        let (_outside, _guest, site) = set_up(host, &PUBLISHED)?;
        let check = |tables: &[(u8, &[Rule])], expected: &str| -> Result<()> {
            site.replace(tables)?;
            ensure!(site.log().contains(expected), "{}", site.log());
            ensure!(hear(host, "127.0.0.1:8080") == "guest");
            let [table, _] = site.tables()?;
            ensure!(table == [rule(HOST, 6, 8080, 80)]);
            Ok(())
        };
        let one = rule(HOST, 6, 8081, 80);
        check(&[(2, &[])], "there is no table 2")?;
        check(
            &[(HOST, &[one, one])],
            "Forwarding configuration conflict: TCP [*]:8081  =>  80  versus TCP [*]:8081  =>  80",
        )?;
        check(
            &[(HOST, &[rule(HOST, 6, 8081, 0)])],
            "Forwarding rule attempts to map to port 0",
        )?;
        check(
            &[(HOST, &[rule(HOST, 132, 8081, 80)])],
            "protocol 132 is neither",
        )?;
        // Closed in the middle.
        let (mut client, _) = site.session()?;
        client.0.write_all(&[HOST, 0, 0, 0, 0])?;
        drop(client);
        wait_for("it is told", || site.log().contains("in the middle"))?;
        ensure!(hear(host, "127.0.0.1:8080") == "guest");
        Ok(())
    });
}

/// One port that cannot be had does not take others with it, and is named.
#[test]
fn a_port_that_is_taken_is_named() {
    run(|host| {
        let (_outside, _guest, site) = set_up(host, &NONE)?;
        let _taken = host.enter(|| Ok(TcpListener::bind("127.0.0.1:8081")?))?;
        let rules = [8080, 8081, 8082].map(|port| rule(HOST, 6, port, 80));
        site.replace(&[(HOST, &rules)])?;
        wait_for("all others are there", || {
            hear(host, "127.0.0.1:8080") == "guest" && hear(host, "127.0.0.1:8082") == "guest"
        })?;
        let expected = "Listen failed for HOST TCP port */8081: Address already in use";
        ensure!(site.log().contains(expected), "{}", site.log());
        Ok(())
    });
}

/// More ports than are opened in one go.
#[test]
fn many_ports() {
    run(|host| {
        let (_outside, guest, site) = set_up(host, &NONE)?;
        let mut all = rule(HOST, 6, 10_000, 10_000);
        all[50..52].copy_from_slice(&11_999_u16.to_be_bytes());
        let mut inside = all;
        inside[32..34].copy_from_slice(b"lo");
        site.replace(&[(HOST, &[all]), (SPLICE, &[inside])])?;
        let count = |at: &Netns| {
            let listed = at.sh("ss -Htln | wc -l");
            listed.map_or(0, |text| text.trim().parse().unwrap_or(0))
        };
        wait_for("all are there", || {
            count(host) == 2000 && count(&guest) == 2001
        })?;
        site.replace(&[(HOST, &[]), (SPLICE, &[])])?;
        wait_for("all are gone", || count(host) == 0 && count(&guest) == 1)?;
        ensure!(site.daemon.lives());
        Ok(())
    });
}

/// What a new table follows is followed.
#[test]
fn a_table_that_follows() {
    run(|host| {
        let (_outside, guest, site) = set_up(host, &NONE)?;
        let mut follows = rule(HOST, 6, 1, 1);
        follows[50..52].copy_from_slice(&20_000_u16.to_be_bytes());
        follows[55] |= 2 | 4;
        site.replace(&[(HOST, &[follows])])?;
        serve(&guest, "[::]:8080", "guest")?;
        wait_for("it is followed", || hear(host, "127.0.0.1:8080") == "guest")?;
        site.replace(&[(HOST, &[])])?;
        wait_for("it is gone", || hear(host, "127.0.0.1:8080").is_empty())
    });
}

#[test]
fn the_path_is_taken_or_left_over() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let other = host.container("other")?;
        let empty: [Vec<Rule>; 2] = Default::default();
        let first = Site::start(host, &guest, &NONE)?;
        let error = Site::start(host, &other, &NONE).err();
        let error = error.context("two have one socket")?.to_string();
        let expected = format!("Socket path {} already in use", first.socket.display());
        ensure!(error.contains(&expected), "{error}");
        ensure!(first.tables()? == empty);

        kill(Pid::from_raw(first.daemon.pid), Signal::SIGKILL)?;
        first.daemon.ended()?;
        ensure!(first.socket.exists());
        let second = Site::start(host, &other, &NONE)?;
        ensure!(second.tables()? == empty);

        // Who does not start leaves nothing.
        let third = host.container("third")?;
        let _taken = TcpListener::bind("127.0.0.1:8080")?;
        kill(Pid::from_raw(second.daemon.pid), Signal::SIGTERM)?;
        second.daemon.ended()?;
        ensure!(Site::start(host, &third, &["-t", "8080"]).is_err());
        ensure!(!second.socket.exists());

        // Never somebody's file.
        std::fs::write(&second.socket, "precious")?;
        ensure!(Site::start(host, &other, &NONE).is_err());
        ensure!(std::fs::read_to_string(&second.socket)? == "precious");
        Ok(())
    });
}

/// As Podman 6 does it, with pasta's own client.
#[test]
#[ignore = "needs PESTO, the path of pasta's client"]
fn the_real_client() {
    run(|host| {
        let pesto = std::env::var("PESTO").context("PESTO")?;
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        serve(&guest, "[::]:8080", "guest")?;
        serve(host, "127.0.0.1:9000", "host")?;
        let site = Site::start(host, &guest, &NONE)?;
        let call = |words: &str| -> Result<String> {
            let mut text = String::new();
            let finished = Program::new(&pesto)
                .args(words.split_whitespace())
                .arg(&site.socket)
                .run()?;
            let (code, stdout, stderr) = (finished.code(), &finished.stdout, &finished.stderr);
            write!(text, "{}{stdout}{stderr}", code.unwrap_or(-1))?;
            // What it sent is done as soon as we come to it.
            thread::sleep(Duration::from_millis(100));
            Ok(text.replace(&*site.socket.to_string_lossy(), "SOCKET"))
        };
        let check = |words: &str, expected: &str| -> Result<()> {
            let found = call(words)?;
            ensure!(found == expected, "{words}: {found}");
            Ok(())
        };
        check("--add -t 0.0.0.0/8080 -t [::]/8080", "0")?;
        ensure!(hear(host, "127.0.0.1:8080") == "guest" && hear(host, "[::1]:8080") == "guest");
        check("--add -T 9000", "0")?;
        ensure!(hear(&guest, "127.0.0.1:9000") == "host");
        check(
            "-s --add -u 5353:53",
            "0Previous configuration (SOCKET)\n  HOST\n    TCP [0.0.0.0]:8080  =>  8080 \n    \
             TCP [::]:8080  =>  8080 \n  SPLICE\n    TCP [*]%lo:9000  =>  9000 \n\
             Updated configuration (SOCKET)\n  HOST\n    TCP [0.0.0.0]:8080  =>  8080 \n    \
             TCP [::]:8080  =>  8080 \n    UDP [*]:5353  =>  53 \n  SPLICE\n    \
             TCP [*]%lo:9000  =>  9000 \n",
        )?;
        ensure!(call("--add -t [::]/8080")?.starts_with("1Forwarding configuration conflict"));
        check("--delete -t [::]/8080", "0")?;
        ensure!(hear(host, "[::1]:8080").is_empty() && hear(host, "127.0.0.1:8080") == "guest");
        check("--clear SPLICE", "0")?;
        ensure!(hear(&guest, "127.0.0.1:9000").is_empty());
        check("-t 8081:8080", "0")?;
        check(
            "",
            "0passt/pasta configuration (SOCKET)\n  HOST\n    TCP [*]:8081  =>  8080 \n  SPLICE\n",
        )?;
        ensure!(hear(host, "127.0.0.1:8081") == "guest");
        let error = host.enter(|| Ok(TcpStream::connect("127.0.0.1:8080").err()))?;
        ensure!(error.map(|error| error.kind()) == Some(ErrorKind::ConnectionRefused));
        Ok(())
    });
}

/// With one family "every address" looks otherwise, and what the client adds it can take away again.
#[test]
#[ignore = "needs PESTO, the path of pasta's client"]
fn the_real_client_and_one_family() {
    run(|host| {
        let pesto = std::env::var("PESTO").context("PESTO")?;
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        serve(&guest, "0.0.0.0:80", "guest")?;
        let words = ["-4", "-t", "8080:80", "-u", "none", "-T", "none", "-U"];
        let site = Site::start(host, &guest, &[&words[..], &["none"]].concat())?;
        for (words, there) in [
            ("--add -t 8081:80", [true, true]),
            ("--delete -t 8080:80", [false, true]),
            ("--delete -t 8081:80 -A -T 9000", [false, false]),
        ] {
            let client = Program::new(&pesto).args(words.split_whitespace());
            let finished = client.arg(&site.socket).run()?;
            ensure!(finished.success(), "{finished}");
            wait_for("it is done", || {
                ["127.0.0.1:8080", "127.0.0.1:8081"].map(|to| hear(host, to) == "guest") == there
            })?;
        }
        Ok(())
    });
}
