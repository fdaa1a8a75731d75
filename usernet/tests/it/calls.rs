//! Which of the system calls that are left to a locked-in process it makes: `strace` looks on.
//!
//! A row of the table ([`calls`]) that no process here ever needs is one too many. Rows of Rust's runtime are for what
//! may happen to it, and are left alone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::traffic::{Protocol, ask, serve, tcp_ask};
use usernet::sys::sandbox::calls::{STD, Table};

use crate::attached::{open_tun, run, wait_for};

/// Calls that take a special kernel or a long time to be made, and what makes them.
const ELSEWHERE: [(Table, libc::c_long, &str); 2] = [
    (
        Table::Forwarder,
        libc::SYS_newfstatat,
        "inotify has failed us: ends::without_inotify_the_path_is_looked_up, ends::unlinked_when_nobody_could_be_told",
    ),
    (
        Table::Forwarder,
        libc::SYS_ioctl,
        "no SO_PEEK_OFF for TCP, before Linux 6.9: what looks past an offset then",
    ),
];

/// The numbers of the calls that the locked-in processes of each table have made.
#[derive(Debug, Default)]
struct Seen(BTreeMap<&'static str, Vec<libc::c_long>>);

impl Seen {
    /// Lines of `strace -f -n`: `PID [NUMBER] name(…`. Whoever waits by epoll forwards; whoever makes Internet sockets or
    /// reads files otherwise is the opener; the other one is the keeper.
    fn add(&mut self, trace: &str) {
        let mut processes: BTreeMap<&str, Vec<(libc::c_long, &str)>> = BTreeMap::new();
        for line in trace.lines() {
            let Some((pid, rest)) = line.split_once(" [") else {
                continue;
            };
            let Some((number, call)) = rest.split_once("] ") else {
                continue;
            };
            let Ok(number) = number.trim().parse::<libc::c_long>() else {
                continue;
            };
            match processes.entry(pid.trim()) {
                Entry::Vacant(entry) if call.starts_with("seccomp(SECCOMP_SET_MODE_FILTER") => {
                    entry.insert(Vec::new());
                }
                Entry::Vacant(_) => {}
                Entry::Occupied(mut entry) => entry.get_mut().push((number, call)),
            }
        }
        for made in processes.into_values() {
            let makes = |name: &str| made.iter().any(|(_, call)| call.starts_with(name));
            let table = if makes("epoll_") {
                Table::Forwarder
            } else if makes("socket(") || makes("openat(") {
                Table::Opener
            } else {
                Table::Keeper
            };
            let numbers = made.iter().map(|(number, _)| *number);
            self.0.entry(name(table)).or_default().extend(numbers);
        }
    }

    fn missing(&self) -> Vec<String> {
        let rows = Table::ALL.into_iter().flat_map(|table| {
            let calls = table.calls().filter(|call| call.caller != STD);
            calls.map(move |call| (table, call))
        });
        let rows = rows.filter(|(table, call)| {
            let seen = self.0.get(name(*table));
            let elsewhere = |(of, number, _): &(Table, _, _)| of == table && *number == call.number;
            !seen.is_some_and(|seen| seen.contains(&call.number))
                && !ELSEWHERE.iter().any(elsewhere)
        });
        rows.map(|(table, call)| format!("{}: {} of {}", name(table), call.word, call.caller))
            .collect()
    }
}

const fn name(table: Table) -> &'static str {
    match table {
        Table::Forwarder => "forwarder",
        Table::Opener => "opener",
        Table::Keeper => "keeper",
    }
}

/// The program in the foreground, looked at.
struct Traced {
    strace: Child,
    files: PathBuf,
}

impl Traced {
    fn start(host: &Host, name: &str, words: &[&str]) -> Result<Self> {
        let files = host.dir(name)?;
        let strace = Command::new("timeout")
            .args(["120", "strace", "-f", "-n", "-qq", "-o"])
            .arg(files.join("trace"))
            .arg(env!("CARGO_BIN_EXE_usernet"))
            .args(["--config-net", "--foreground", "--trace", "--pid"])
            .arg(files.join("pid"))
            .arg("--log-file")
            .arg(files.join("log"))
            .arg("--pcap")
            .arg(files.join("pcap"))
            .args(words)
            .spawn()
            .context("strace: see hack/deps")?;
        Ok(Self { strace, files })
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.files.join(name)).unwrap_or_default()
    }

    /// Its number, once it is ready.
    fn ready(&self) -> Result<Pid> {
        wait_for("the pid file is written", || {
            self.read("pid").ends_with('\n')
        })?;
        Ok(Pid::from_raw(self.read("pid").trim().parse()?))
    }

    /// When it has ended, what it did.
    fn ended(mut self) -> Result<String> {
        let status = self.strace.wait()?;
        ensure!(status.success(), "{status}: {}", self.read("log"));
        Ok(self.read("trace"))
    }
}

/// Bytes that neither a socket nor a pipe holds, to a server that reads them, slowly at first, and to its end.
fn bulk(from: &Netns, to: SocketAddr, at: &Netns, bound: SocketAddr) -> Result<()> {
    let listener = at.enter(|| Ok(TcpListener::bind(bound)?))?;
    wait_for("it is connected", || {
        let stream = from.enter(|| Ok(TcpStream::connect(to)?));
        stream.is_ok_and(|mut near| {
            let Ok((mut far, _)) = listener.accept() else {
                return false;
            };
            let heard = thread::spawn(move || {
                let mut text = Vec::new();
                far.read_to_end(&mut text).map(|_| text.len())
            });
            let said = near.write_all(&vec![7; 8_000_000]);
            let ended = said.and_then(|()| near.shutdown(Shutdown::Write));
            ended.is_ok()
                && heard
                    .join()
                    .is_ok_and(|len| len.is_ok_and(|len| len == 8_000_000))
        })
    })
}

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// All kinds of traffic, both ways.
fn traffic(host: &Host, guest: &Netns, outside: &Netns) -> Result<()> {
    let _inside = [
        serve(guest, Protocol::Tcp, (ANY, 8080).into(), "guest")?,
        serve(guest, Protocol::Udp, (ANY, 53).into(), "guest")?,
        serve(host, Protocol::Tcp, (LOOPBACK, 9000).into(), "host")?,
        serve(outside, Protocol::Tcp, (ANY, 7000).into(), "outside")?,
        serve(outside, Protocol::Udp, (ANY, 7000).into(), "outside")?,
    ];
    wait_for("ports are followed", || {
        tcp_ask(outside, (HOST, 8080).into()).is_ok()
            && tcp_ask(guest, (LOOPBACK, 9000).into()).is_ok()
    })?;
    for (protocol, from, to) in [
        (Protocol::Tcp, &**host, SocketAddr::from((LOOPBACK, 8080))),
        (Protocol::Tcp, guest, (OUTSIDE, 7000).into()),
        (Protocol::Udp, guest, (OUTSIDE, 7000).into()),
        (Protocol::Udp, outside, (HOST, 8053).into()),
        (Protocol::Udp, &**host, (LOOPBACK, 8053).into()),
    ] {
        ask(from, protocol, None, to, Duration::from_secs(3))
            .with_context(|| format!("{protocol:?} {to}"))?;
    }
    // A log that runs over.
    for _ in 0..60 {
        tcp_ask(guest, (OUTSIDE, 7000).into())?;
    }
    bulk(guest, (OUTSIDE, 7001).into(), outside, (ANY, 7001).into()).context("bulk out")?;
    bulk(outside, (HOST, 8081).into(), guest, (ANY, 8081).into()).context("bulk in")?;
    bulk(host, (LOOPBACK, 8082).into(), guest, (ANY, 8082).into()).context("bulk spliced")
}

#[test]
fn every_call_that_is_left_is_made() {
    run(|host| {
        open_tun(host)?;
        let mut seen = Seen::default();
        host.sh(
            "mkdir /run/lab/etc && cp -a /etc/passwd /etc/group /run/lab/etc && mount -t tmpfs etc /etc
             cp -a /run/lab/etc/* /etc && mkdir /run/resolve",
        )?;
        let resolve = |server: &str| -> Result<()> {
            std::fs::write("/run/resolve/fresh", format!("nameserver {server}\n"))?;
            Ok(std::fs::rename("/run/resolve/fresh", "/run/resolve/stub")?)
        };
        resolve("192.0.2.2")?;
        symlink("../run/resolve/stub", "/etc/resolv.conf")?;
        let dns = ["--no-map-gw", "--dns-forward", "169.254.1.1"];

        // The network comes later.
        let guest = host.container("guest")?;
        let netns = guest.path().to_string_lossy().into_owned();
        let words = [
            "-t",
            "auto",
            "-u",
            "8053:53",
            "-T",
            "auto",
            "-U",
            "none",
            "--log-size",
            "40960",
        ];
        let words = [&words[..], &dns, &["--netns", &netns]].concat();
        let traced = Traced::start(host, "later", &words)?;
        let us = traced.ready()?;
        let outside = host.outside()?;
        wait_for("the guest has the host's network", || {
            guest
                .sh("ip addr; ip route")
                .is_ok_and(|now| now.contains("192.0.2.1/24"))
        })?;
        traffic(host, &guest, &outside)?;
        resolve("192.0.2.3")?;
        wait_for("it is heard of", || {
            traced
                .read("log")
                .contains("Name servers of the host: 192.0.2.3")
        })?;
        kill(us, Signal::SIGTERM)?;
        seen.add(&traced.ended()?);
        drop(guest);

        // A command, and a resolv.conf that is a mount.
        std::fs::remove_file("/etc/resolv.conf")?;
        std::fs::write("/etc/resolv.conf", "")?;
        host.sh("mount --bind /run/resolve/stub /etc/resolv.conf")?;
        let words = [
            &dns[..],
            &[
                "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--", "true",
            ],
        ]
        .concat();
        seen.add(&Traced::start(host, "command", &words)?.ended()?);

        let missing = seen.missing();
        ensure!(missing.is_empty(), "nobody made these: {missing:#?}");
        Ok(())
    });
}
