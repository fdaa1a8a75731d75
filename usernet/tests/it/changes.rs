//! What the host becomes while we run: a network that comes after us, and other name servers.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;

use crate::attached::{Daemon, children, run, state, status, usernet, wait_for};

/// A daemon with a log file.
fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<(Daemon, PathBuf)> {
    let log = host.dir("follow")?.join("log");
    let program = usernet(words)
        .args(["-t", "8080:80", "-u", "none", "-T", "none", "-U", "none"])
        .args(["--no-map-gw", "--log-file"])
        .arg(&log);
    Ok((Daemon::of(program, host, guest)?, log))
}

/// What the guest's network looks like.
fn look(guest: &Netns) -> Result<String> {
    guest.sh("ip -o addr show dev tap0; ip route; ip -6 route")
}

/// The process that may change the guest has that right and no other.
fn keeper(daemon: &Daemon) -> Result<Option<i32>> {
    let rights = |pid: &i32| status(*pid, "CapEff").is_ok_and(|set| set == "0000000000001000");
    let mut near = children(daemon.pid)?;
    for child in near.clone() {
        near.extend(children(child)?);
    }
    Ok(near.into_iter().find(rights))
}

/// What cannot be done any more is said, and the rest goes on.
#[test]
fn helpers_that_are_killed_are_missed() {
    run(|host| {
        let guest = host.container("guest")?;
        let (daemon, log) = start(host, &guest, &["--quiet"])?;
        wait_for("the keeper is locked in", || {
            keeper(&daemon).is_ok_and(|found| found.is_some())
        })?;
        let told =
            |words: &str| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(words));
        let end = |pid| kill(Pid::from_raw(pid), Signal::SIGKILL);
        end(keeper(&daemon)?.context("no keeper")?)?;
        wait_for("the keeper is missed", || {
            told("changes the guest's addresses is gone")
        })?;
        for child in children(daemon.pid)? {
            end(child)?;
        }
        wait_for("the opener is missed", || {
            told("in the guest's namespace is gone")
        })?;
        ensure!(daemon.lives());
        Ok(())
    });
}

#[test]
fn the_network_comes_later() {
    run(|host| {
        let guest = host.container("guest")?;
        let (daemon, log) = start(host, &guest, &["--map-guest-addr", "169.254.1.2"])?;
        let local = look(&guest)?;
        ensure!(local.contains("169.254.2.1/16"), "{local}");
        ensure!(local.contains("default via 169.254.2.2"), "{local}");
        wait_for("the keeper is locked in", || {
            keeper(&daemon).is_ok_and(|found| found.is_some())
        })?;
        let keeper = keeper(&daemon)?.context("no keeper")?;
        wait_for("the keeper is locked in", || {
            status(keeper, "Seccomp").is_ok_and(|mode| mode == "2")
        })?;
        ensure!(status(keeper, "CapBnd")? == "0000000000000000");
        ensure!(status(keeper, "NoNewPrivs")? == "1");

        let outside = host.outside()?;
        wait_for("the guest has the host's network", || {
            look(&guest).is_ok_and(|now| {
                now.contains("192.0.2.1/24")
                    && now.contains("default via 192.0.2.2")
                    && now.contains("2001:db8:5::1/64")
                    && now.contains("default via 2001:db8:5::2")
            })
        })?;
        let now = look(&guest)?;
        ensure!(!now.contains("169.254.2"), "{now}");
        ensure!(!now.contains("tentative"), "{now}");
        for (address, name) in [
            ("192.0.2.2:7000", "169.254.1.2:7001"),
            ("[2001:db8:5::2]:7000", ""),
        ] {
            let far = outside.enter(|| Ok(std::net::TcpListener::bind(address)?))?;
            guest
                .enter(|| Ok(std::net::TcpStream::connect(address)?))
                .with_context(|| address.to_owned())?;
            far.accept()?;
            if !name.is_empty() {
                let near = host.enter(|| Ok(std::net::TcpListener::bind("192.0.2.1:7001")?))?;
                guest
                    .enter(|| Ok(std::net::TcpStream::connect(name)?))
                    .with_context(|| name.to_owned())?;
                near.accept()?;
            }
        }
        // From outside, and seen as what it is.
        let inside = guest.enter(|| Ok(std::net::TcpListener::bind("[::]:80")?))?;
        outside.enter(|| Ok(std::net::TcpStream::connect("192.0.2.1:8080")?))?;
        let peer = inside.accept()?.1.ip().to_canonical();
        ensure!(peer.to_string() == Host::OUTSIDE_V4, "{peer}");
        let told = std::fs::read_to_string(&log)?;
        ensure!(
            told.contains("IPv4: the network has come on uplink"),
            "{told}"
        );
        ensure!(
            told.contains("IPv6: the network has come on uplink"),
            "{told}"
        );
        // Both families have all they need: nobody may change anything any more.
        wait_for("the keeper ends", || {
            state(keeper).is_none_or(|state| state == 'Z')
        })?;
        ensure!(daemon.lives());
        Ok(())
    });
}

/// An address first, and the way out later, as DHCP clients do it.
#[test]
fn the_network_comes_in_pieces() {
    run(|host| {
        let guest = host.container("guest")?;
        let (_daemon, _) = start(host, &guest, &["-4"])?;
        host.sh("ip link add uplink type veth peer name other; ip link set uplink up; ip link set other up")?;
        host.sh("ip addr add 192.0.2.1/24 dev uplink")?;
        wait_for("the address", || {
            look(&guest).is_ok_and(|now| now.contains("192.0.2.1/24"))
        })?;
        host.sh("ip route add 198.51.100.0/24 via 192.0.2.3; ip route add default via 192.0.2.2 metric 7")?;
        wait_for("the routes", || {
            look(&guest).is_ok_and(|now| {
                now.contains("default via 192.0.2.2 dev tap0 metric 7")
                    && now.contains("198.51.100.0/24 via 192.0.2.3")
            })
        })?;
        let now = look(&guest)?;
        ensure!(!now.contains("169.254.2"), "{now}");
        Ok(())
    });
}

/// Groups that the guest listened to while there was no link are heard on the one that comes.
#[test]
fn groups_wait_for_the_network() {
    run(|host| {
        let guest = host.container("guest")?;
        let (_daemon, _) = start(host, &guest, &["-4"])?;
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let near = guest.enter(|| Ok(UdpSocket::bind("0.0.0.0:5353")?))?;
        near.join_multicast_v4(&group, &Ipv4Addr::new(169, 254, 2, 1))?;
        near.set_multicast_loop_v4(false)?;
        near.set_read_timeout(Some(Duration::from_secs(5)))?;
        near.send_to(b"nobody is there", (group, 5353))?;
        let outside = host.outside()?;
        wait_for("the host listens", || {
            let all = host.sh("ip maddr show dev uplink");
            all.is_ok_and(|all| all.contains("224.0.0.251"))
        })?;
        let far = outside.enter(|| Ok(UdpSocket::bind("0.0.0.0:5353")?))?;
        far.join_multicast_v4(&group, &Ipv4Addr::new(192, 0, 2, 2))?;
        far.set_multicast_loop_v4(false)?;
        far.set_read_timeout(Some(Duration::from_secs(5)))?;
        far.send_to(b"news", (group, 5353))?;
        let mut room = [0; 100];
        let (len, from) = near.recv_from(&mut room).context("no news")?;
        ensure!(&room[..len] == b"news" && from.to_string() == "192.0.2.2:5353");
        near.send_to(b"thanks", (group, 5353))?;
        let (len, from) = far.recv_from(&mut room).context("no thanks")?;
        ensure!(&room[..len] == b"thanks" && from.to_string() == "192.0.2.1:5353");
        Ok(())
    });
}

/// No router can be heard on a link without IPv6: it is not waited for.
#[test]
fn a_host_without_ipv6_is_not_waited_for() {
    run(|host| {
        let guest = host.container("guest")?;
        let (daemon, _) = start(host, &guest, &[])?;
        wait_for("the keeper is locked in", || {
            keeper(&daemon).is_ok_and(|found| found.is_some())
        })?;
        host.sh(
            "ip link add uplink type veth peer name other; ip link set other up
             echo 1 > /proc/sys/net/ipv6/conf/uplink/disable_ipv6; ip link set uplink up
             ip addr add 192.0.2.1/24 dev uplink; ip route add default via 192.0.2.2",
        )?;
        wait_for("the network", || {
            look(&guest).is_ok_and(|now| now.contains("default via 192.0.2.2"))
        })?;
        wait_for("the keeper ends", || {
            keeper(&daemon).is_ok_and(|found| found.is_none())
        })?;
        ensure!(daemon.lives());
        kill(Pid::from_raw(daemon.pid), Signal::SIGTERM)?;
        daemon.ended()?;
        // Where that was so for longer, it never begins.
        let second = host.container("second")?;
        let (daemon, log) = start(host, &second, &[])?;
        ensure!(
            keeper(&daemon)?.is_none(),
            "{}",
            std::fs::read_to_string(log)?
        );
        Ok(())
    });
}

/// With a network there is nobody who may change the guest.
#[test]
fn a_host_with_a_network_is_not_waited_for() {
    run(|host| {
        let _outside = host.outside()?;
        let guest = host.container("guest")?;
        let (daemon, _) = start(host, &guest, &[])?;
        ensure!(children(daemon.pid)?.len() == 1);
        ensure!(keeper(&daemon)?.is_none());
        Ok(())
    });
}

/// Answers with its name until the end of the test.
struct Server(Arc<AtomicBool>);

impl Server {
    fn start(at: &Netns, address: &str, name: &'static str) -> Result<Self> {
        let socket = at.enter(|| Ok(UdpSocket::bind(address)?))?;
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        thread::spawn(move || {
            let mut room = [0; 1500];
            while !ends.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut room) {
                    socket.send_to(name.as_bytes(), peer).ok();
                }
            }
        });
        Ok(Self(end))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ask once; who answers.
fn ask(socket: &UdpSocket, to: &str) -> Option<String> {
    let mut room = [0; 1500];
    socket.send_to(b"who?", to).ok()?;
    let (len, _) = socket.recv_from(&mut room).ok()?;
    String::from_utf8(room[..len].to_vec()).ok()
}

fn client(guest: &Netns, address: &str) -> Result<UdpSocket> {
    let socket = guest.enter(|| Ok(UdpSocket::bind(address)?))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(socket)
}

/// An `/etc` and a `/run/resolve` of our own.
fn own_etc(host: &Host, resolv_conf: &str) -> Result<()> {
    host.sh(
        "mkdir /run/lab/etc && cp -a /etc/passwd /etc/group /run/lab/etc && mount -t tmpfs etc /etc
         cp -a /run/lab/etc/* /etc && mkdir /run/resolve",
    )?;
    write(Path::new("/etc/resolv.conf"), resolv_conf)
}

/// As everybody writes it: whole, or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text)?;
    Ok(std::fs::rename(fresh, path)?)
}

const FORWARD: &str = "169.254.1.1:53";
const FORWARD_V6: &str = "[2001:db8:53::1]:53";
const WORDS: [&str; 4] = [
    "--dns-forward",
    "169.254.1.1",
    "--dns-forward",
    "2001:db8:53::1",
];

#[test]
fn name_servers_change() {
    run(|host| {
        let outside = host.outside()?;
        outside
            .sh("ip addr add 192.0.2.3/24 dev eth0; ip addr add 2001:db8:5::3/64 dev eth0 nodad")?;
        own_etc(host, "nameserver 192.0.2.2\n")?;
        let _one = Server::start(&outside, "192.0.2.2:53", "one")?;
        let _two = Server::start(&outside, "192.0.2.3:53", "two")?;
        let _six = Server::start(&outside, "[2001:db8:5::3]:53", "six")?;
        let guest = host.container("guest")?;
        let (daemon, log) = start(host, &guest, &WORDS)?;
        let answers = |from: &str, to: &str, who: &str| {
            wait_for(who, || {
                let answer = client(&guest, from)
                    .ok()
                    .and_then(|socket| ask(&socket, to));
                answer.is_some_and(|answer| answer == who)
            })
        };
        let (v4, v6) = ("0.0.0.0:0", "[::]:0");
        answers(v4, FORWARD, "one")?;
        // Who speaks the other family answers as well.
        answers(v6, FORWARD_V6, "one")?;
        write(Path::new("/etc/resolv.conf"), "nameserver 192.0.2.3\n")?;
        answers(v4, FORWARD, "two")?;
        write(Path::new("/etc/resolv.conf"), "nameserver 2001:db8:5::3\n")?;
        answers(v4, FORWARD, "six")?;
        answers(v6, FORWARD_V6, "six")?;
        let told = std::fs::read_to_string(&log)?;
        ensure!(
            told.contains("Name servers of the host: 192.0.2.3"),
            "{told}"
        );
        ensure!(daemon.lives());
        // Neither process can open anything else.
        ensure!(children(daemon.pid)?.len() == 1);
        Ok(())
    });
}

/// resolv.conf changes when it has been read and is not yet watched: between them we wait for who reads the pid file.
#[test]
fn name_servers_change_at_the_start() {
    run(|host| {
        let outside = host.outside()?;
        outside.sh("ip addr add 192.0.2.3/24 dev eth0")?;
        own_etc(host, "nameserver 192.0.2.2\n")?;
        let _one = Server::start(&outside, "192.0.2.2:53", "one")?;
        let _two = Server::start(&outside, "192.0.2.3:53", "two")?;
        let guest = host.container("guest")?;
        let file = host.dir("start")?.join("pid");
        host.sh(&format!("mkfifo {}", file.display()))?;
        let mut starter = Command::new(env!("CARGO_BIN_EXE_usernet"))
            .args(["--config-net", "--quiet", "-t", "none", "-u", "none"])
            .args(WORDS)
            .arg("--pid")
            .arg(&file)
            .arg("--netns")
            .arg(guest.path())
            .spawn()?;
        let opens = format!("{} ", libc::SYS_openat);
        let waits = || {
            let call = std::fs::read_to_string(format!("/proc/{}/syscall", starter.id()));
            call.is_ok_and(|call| call.starts_with(&opens))
        };
        wait_for("it waits for a reader", || {
            waits() && {
                thread::sleep(Duration::from_millis(20));
                waits()
            }
        })?;
        write(Path::new("/etc/resolv.conf"), "nameserver 192.0.2.3\n")?;
        std::fs::read_to_string(&file)?;
        ensure!(starter.wait()?.success());
        wait_for("the second one answers", || {
            let socket = client(&guest, "0.0.0.0:0").ok();
            socket.and_then(|socket| ask(&socket, FORWARD)) == Some("two".to_owned())
        })
    });
}

/// A link into another directory, as systemd-resolved has it.
#[test]
fn name_servers_behind_a_link() {
    run(|host| {
        let outside = host.outside()?;
        outside.sh("ip addr add 192.0.2.3/24 dev eth0")?;
        own_etc(host, "")?;
        std::fs::remove_file("/etc/resolv.conf")?;
        std::os::unix::fs::symlink("../run/resolve/stub", "/etc/resolv.conf")?;
        write(Path::new("/run/resolve/stub"), "nameserver 192.0.2.2\n")?;
        let _one = Server::start(&outside, "192.0.2.2:53", "one")?;
        let _two = Server::start(&outside, "192.0.2.3:53", "two")?;
        let guest = host.container("guest")?;
        // Without loopback traffic to be spliced, the process that reads is there for this alone.
        let (_daemon, _) = start(host, &guest, &[&WORDS[..], &["--no-splice"]].concat())?;
        ensure!(ask(&client(&guest, "0.0.0.0:0")?, FORWARD).as_deref() == Some("one"));
        write(Path::new("/run/resolve/stub"), "nameserver 192.0.2.3\n")?;
        wait_for("the other one answers", || {
            let answer = client(&guest, "0.0.0.0:0").map(|socket| ask(&socket, FORWARD));
            answer.is_ok_and(|answer| answer.as_deref() == Some("two"))
        })
    });
}

/// A mount, as engines give to their containers: written to, under another name.
#[test]
fn name_servers_in_a_mount() {
    run(|host| {
        let outside = host.outside()?;
        outside.sh("ip addr add 192.0.2.3/24 dev eth0")?;
        own_etc(host, "")?;
        let source = Path::new("/run/resolve/container");
        write(source, "nameserver 192.0.2.2\n")?;
        host.sh("mount --bind /run/resolve/container /etc/resolv.conf")?;
        let _one = Server::start(&outside, "192.0.2.2:53", "one")?;
        let _two = Server::start(&outside, "192.0.2.3:53", "two")?;
        let guest = host.container("guest")?;
        let (_daemon, _) = start(host, &guest, &WORDS)?;
        ensure!(ask(&client(&guest, "0.0.0.0:0")?, FORWARD).as_deref() == Some("one"));
        std::fs::write(source, "nameserver 192.0.2.3\n")?;
        wait_for("the other one answers", || {
            let answer = client(&guest, "0.0.0.0:0").map(|socket| ask(&socket, FORWARD));
            answer.is_ok_and(|answer| answer.as_deref() == Some("two"))
        })
    });
}

/// The first server is there and says nothing. The guest asks again, from the same port and from another one.
#[test]
fn a_silent_name_server() {
    run(|host| {
        let outside = host.outside()?;
        outside.sh("ip addr add 192.0.2.3/24 dev eth0")?;
        own_etc(host, "nameserver 192.0.2.2\nnameserver 192.0.2.3\n")?;
        let _silent = outside.enter(|| Ok(UdpSocket::bind("192.0.2.2:53")?))?;
        let _two = Server::start(&outside, "192.0.2.3:53", "two")?;
        let guest = host.container("guest")?;
        let (_daemon, _) = start(host, &guest, &WORDS)?;
        let socket = client(&guest, "0.0.0.0:0")?;
        // Longer than it is waited for.
        ensure!(ask(&socket, FORWARD).is_none());
        ensure!(ask(&socket, FORWARD).as_deref() == Some("two"));
        ensure!(ask(&client(&guest, "0.0.0.0:0")?, FORWARD).as_deref() == Some("two"));
        Ok(())
    });
}
