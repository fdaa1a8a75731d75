//! Command lines as Podman 5.8 wrote them, with our namespaces in place of its own; and what is true once they are ready.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use anyhow::{Context, Result, ensure};
use test_fixtures::netns::Netns;

use super::machine::{Machine, on, program};
use crate::attached::{Daemon, state};

macro_rules! recorded {
    ($($name:ident $file:literal;)*) => { $(
        #[test]
        fn $name() {
            on!(|machine| {
                ready(machine, include_str!(concat!("../../../../test-fixtures/data/podman-5.8.6/pasta/", $file)))
            });
        }
    )* };
}

recorded! {
    default "default.argv";
    published_ports "published-ports.argv";
    rootless_bridge "rootless-bridge.argv";
    user_options "user-options.argv";
}

fn ready(machine: &Machine<'_>, recording: &str) -> Result<()> {
    let guest = machine.guest()?;
    let pid_file = machine.pid_file()?;
    let mut words: Vec<String> = recording.lines().map(ToOwned::to_owned).collect();
    let mut replace = |option: &str, value: String| {
        let at = words.iter().position(|word| word == option)?;
        words.get_mut(at + 1).map(|word| *word = value)
    };
    let netns = guest.path().to_string_lossy().into_owned();
    replace("--netns", netns).context("no --netns")?;
    if replace("--pid", pid_file.to_string_lossy().into_owned()).is_none() {
        words.extend(["--pid".to_owned(), pid_file.to_string_lossy().into_owned()]);
    }
    let finished = program().args(&words).run()?;
    // At once, before anything can settle.
    let shown = guest.sh(
        "ip addr show tentative scope global; ip -o link show lo; ip -o link show dev uplink",
    )?;
    ensure!(finished.success(), "{finished}");
    ensure!(!finished.held_open, "somebody holds the output");
    ensure!(
        finished.stdout.is_empty() && finished.stderr.is_empty(),
        "{finished}"
    );
    ensure!(!shown.contains("inet"), "tentative: {shown}");
    ensure!(
        shown.contains("<LOOPBACK,UP") && shown.contains(" uplink: <BROADCAST"),
        "{shown}"
    );
    ensure!(shown.contains(",UP,LOWER_UP> mtu 65520"), "{shown}");
    configured(&guest)?;
    bound(machine, &words)?;
    let text = std::fs::read_to_string(&pid_file)?;
    let daemon = Daemon {
        pid: text.trim().parse()?,
        finished,
    };
    ensure!(daemon.lives(), "{:?}", state(daemon.pid));
    // Podman's teardown: a lazy unmount, then the file is removed.
    drop(guest);
    daemon.ended()?;
    ensure!(pid_file.exists(), "the pid file is gone");
    free(machine, &words)
}

fn configured(guest: &Netns) -> Result<()> {
    let addresses = guest.sh("ip -o addr show dev uplink scope global")?;
    for address in ["192.0.2.1/24", "2001:db8:5::1/64"] {
        ensure!(addresses.contains(address), "{addresses}");
    }
    let routes = guest.sh("ip route; ip -6 route")?;
    for route in [
        "default via 192.0.2.2 dev uplink",
        "default via fe80::2 dev uplink",
    ] {
        ensure!(routes.contains(route), "{routes}");
    }
    Ok(())
}

/// Ports of the host in these words: protocol, address, port.
fn published(words: &[String]) -> Result<Vec<(bool, IpAddr, u16)>> {
    let mut ports = Vec::new();
    for pair in words.windows(2) {
        let [option, spec] = pair else { continue };
        let Some((host, _)) = spec.rsplit_once(':') else {
            continue;
        };
        if !matches!(&**option, "-t" | "-u") {
            continue;
        }
        let (address, range) = match host.rsplit_once('/') {
            Some((address, range)) => (address.parse()?, range),
            None => (Ipv4Addr::UNSPECIFIED.into(), host),
        };
        let (first, last) = range.split_once('-').context("a range")?;
        let range = first.parse::<u16>()?..=last.parse()?;
        ports.extend(range.map(|port| (option == "-u", address, port)));
    }
    Ok(ports)
}

fn bind(machine: &Machine<'_>, udp: bool, address: IpAddr, port: u16) -> Result<Option<ErrorKind>> {
    machine.host.enter(|| {
        let bound = if udp {
            UdpSocket::bind((address, port)).map(drop)
        } else {
            TcpListener::bind((address, port)).map(drop)
        };
        Ok(bound.err().map(|error| error.kind()))
    })
}

fn bound(machine: &Machine<'_>, words: &[String]) -> Result<()> {
    let ports = published(words)?;
    let mappings = words
        .iter()
        .filter(|word| word.contains("-") && word.contains(':'));
    ensure!(ports.is_empty() == (mappings.count() == 0), "{ports:?}");
    for (udp, address, port) in ports {
        let error = bind(machine, udp, address, port)?;
        ensure!(error == Some(ErrorKind::AddrInUse), "{port}: {error:?}");
    }
    Ok(())
}

fn free(machine: &Machine<'_>, words: &[String]) -> Result<()> {
    for (udp, address, port) in published(words)? {
        let error = bind(machine, udp, address, port)?;
        ensure!(error.is_none(), "{port} is not free: {error:?}");
    }
    Ok(())
}

/// The link-local address is used at once as well: by who comes from the network by IPv6.
#[test]
fn no_address_is_tentative() {
    on!(|machine| {
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        let shown = guest.sh("ip addr show tentative")?;
        ensure!(shown.is_empty(), "{shown}");
        Ok(())
    });
}

/// The range of a published port is bound: nobody else gets it.
#[test]
fn a_range_is_bound_as_a_whole() {
    on!(|machine| {
        let guest = machine.guest()?;
        let published = ["-t", "5700-5709:5700-5709"];
        let _daemon = machine.podman(&guest, &[], &published)?;
        for port in 5700..5710 {
            let error = bind(machine, false, Ipv4Addr::LOCALHOST.into(), port)?;
            ensure!(error == Some(ErrorKind::AddrInUse), "{port}: {error:?}");
        }
        Ok(())
    });
}

/// The namespace may be that of a process.
#[test]
fn by_the_path_of_a_process() {
    on!(|machine| {
        let mut process = std::process::Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()?;
        let path = format!("/proc/{}/ns/net", process.id());
        let own = std::fs::read_link("/proc/self/ns/net")?;
        crate::attached::wait_for("it has a namespace", || {
            std::fs::read_link(&path).is_ok_and(|other| other != own)
        })?;
        let words = super::machine::podman(path.as_ref(), &[], &[]);
        let daemon = machine.start(words.iter().map(|word| &**word))?;
        ensure!(daemon.lives());
        process.kill()?;
        process.wait()?;
        daemon.ended()?;
        Ok(())
    });
}
