//! A guest that configures itself: DHCP, DHCPv6 and router advertisements.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, bail, ensure};
use dhcproto::v6::{self, DhcpOption, Message, MessageType};
use dhcproto::{Decodable as _, Decoder, Encodable as _};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::program::Program;
use test_fixtures::traffic::{Protocol, eventually, ping, serve, tcp_ask};

use super::machine::{Family, Machine, PATIENCE, datagrams, global, link_local, on, settle};
use crate::attached::Daemon;

/// A guest whose interface is there and down.
fn unconfigured(machine: &Machine<'_>, options: &[&str]) -> Result<(Netns, Daemon)> {
    let guest = machine.guest()?;
    let netns = guest.path().to_string_lossy().into_owned();
    let daemon = machine.start(["--netns", &*netns].iter().chain(options).copied())?;
    Ok((guest, daemon))
}

/// Every variable is kept, and the lease taken.
const SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
env > /run/lab/lease
ip addr add \"$ip/$mask\" dev \"$interface\"
[ -z \"$mtu\" ] || ip link set \"$interface\" mtu \"$mtu\"
ip route add default via \"$router\" dev \"$interface\"
";

/// What busybox was given: its variables.
fn lease(guest: &Netns, words: &[&str]) -> Result<String> {
    let script = "/run/lab/udhcpc";
    fs::write(script, SCRIPT)?;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755))?;
    guest.sh("ip link set uplink up")?;
    let finished = Program::new("busybox")
        .args(["udhcpc", "-f", "-q", "-n", "-i", "uplink", "-s", script])
        .args(words)
        .run_in(guest)?;
    ensure!(finished.success(), "{finished}");
    Ok(fs::read_to_string("/run/lab/lease")?)
}

fn has(lease: &str, line: &str) -> Result<()> {
    ensure!(
        lease.lines().any(|other| other == line),
        "no {line} in {lease}"
    );
    Ok(())
}

#[test]
fn dhcp_gives_what_the_host_has() {
    on!(|machine| {
        let (guest, _daemon) = unconfigured(machine, &["--no-map-gw"])?;
        let lease = lease(&guest, &["-O", "mtu"])?;
        for line in [
            "ip=192.0.2.1",
            "subnet=255.255.255.0",
            "router=192.0.2.2",
            "mtu=65520",
        ] {
            has(&lease, line)?;
        }
        let own = global(&guest, Family::V4)?;
        ensure!(own == global(machine.host, Family::V4)?, "{own:?}");
        let routes = guest.sh("ip route show default; ip link show dev uplink")?;
        ensure!(
            routes.contains("default via 192.0.2.2 dev uplink"),
            "{routes}"
        );
        ensure!(routes.contains("mtu 65520"), "{routes}");
        let at = (Family::V4.any(), 7000).into();
        let _server = serve(&machine.outside, Protocol::Tcp, at, "outside")?;
        let reply = tcp_ask(&guest, (Family::V4.outside(), 7000).into())?;
        ensure!(reply.peer.ip() == Family::V4.host(), "{reply}");
        Ok(())
    });
}

#[test]
fn dhcp_tells_names_if_asked_to() {
    on!(|machine| {
        let options = [
            ["--dhcp-dns", "--dhcp-search"],
            ["-D", "192.0.2.53"],
            ["-S", "example.org"],
            ["-S", "example.net"],
            ["-H", "box"],
            ["-m", "1400"],
        ];
        let (guest, _daemon) = unconfigured(machine, &options.concat())?;
        let lease = lease(&guest, &["-O", "mtu", "-O", "search", "-O", "hostname"])?;
        for line in [
            "dns=192.0.2.53",
            "search=example.org example.net",
            "hostname=box",
            "mtu=1400",
        ] {
            has(&lease, line)?;
        }
        Ok(())
    });
}

/// The host's servers are not told unasked.
#[test]
fn dhcp_is_silent_about_names() {
    on!(|machine| {
        let (guest, _daemon) = unconfigured(machine, &[])?;
        let lease = lease(&guest, &["-O", "search"])?;
        ensure!(
            !lease.contains("\ndns=") && !lease.contains("\nsearch="),
            "{lease}"
        );
        Ok(())
    });
}

#[test]
fn dhcp_can_be_off() {
    on!(|machine| {
        let (guest, _daemon) = unconfigured(machine, &["--no-dhcp"])?;
        let asked = lease(&guest, &["-t", "2", "-T", "1"]);
        ensure!(asked.is_err(), "a lease: {asked:?}");
        Ok(())
    });
}

/// A client of DHCPv6, as far as one address goes.
struct Client {
    socket: std::net::UdpSocket,
    servers: SocketAddrV6,
}

const CLIENT_ID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 7];

impl Client {
    fn new(guest: &Netns) -> Result<Self> {
        let own = link_local(guest, "uplink")?;
        let shown = guest.sh("ip -o link show dev uplink")?;
        let index = shown
            .split(':')
            .next()
            .context("an index")?
            .trim()
            .parse()?;
        let socket = datagrams(guest, SocketAddrV6::new(own, 546, 0, index))?;
        let all: Ipv6Addr = "ff02::1:2".parse()?;
        let servers = SocketAddrV6::new(all, 547, 0, index);
        Ok(Self { socket, servers })
    }

    fn ask(&self, kind: MessageType, server: Option<Vec<u8>>) -> Result<Message> {
        let mut message = Message::new_with_id(kind, [1, 2, 3]);
        let options = message.opts_mut();
        options.insert(DhcpOption::ClientId(CLIENT_ID.to_vec()));
        if let Some(server) = server {
            options.insert(DhcpOption::ServerId(server));
        }
        options.insert(DhcpOption::IANA(v6::IANA {
            id: 7,
            t1: 0,
            t2: 0,
            opts: v6::DhcpOptions::new(),
        }));
        self.socket.send_to(&message.to_vec()?, self.servers)?;
        let mut answer = [0; 1500];
        let length = self.socket.recv(&mut answer).context("no answer")?;
        Ok(Message::decode(&mut Decoder::new(&answer[..length]))?)
    }
}

/// The one address in an answer.
fn leased(message: &Message) -> Result<Ipv6Addr> {
    let Some(DhcpOption::IANA(association)) = message.opts().get(v6::OptionCode::IANA) else {
        bail!("no association in {message:?}");
    };
    match association.opts.get(v6::OptionCode::IAAddr) {
        Some(DhcpOption::IAAddr(address)) => Ok(address.addr),
        _ => bail!("no address in {message:?}"),
    }
}

#[test]
fn dhcpv6_gives_the_hosts_address() {
    on!(|machine| {
        let (guest, _daemon) = unconfigured(machine, &["--dhcp-dns", "-D", "2001:db8:5::53"])?;
        guest.sh("ip link set uplink up")?;
        settle(&guest)?;
        let client = Client::new(&guest)?;
        let offer = client.ask(MessageType::Solicit, None)?;
        ensure!(offer.msg_type() == MessageType::Advertise, "{offer:?}");
        let server = match offer.opts().get(v6::OptionCode::ServerId) {
            Some(DhcpOption::ServerId(server)) => server.clone(),
            other => bail!("no server: {other:?}"),
        };
        let reply = client.ask(MessageType::Request, Some(server))?;
        ensure!(reply.msg_type() == MessageType::Reply, "{reply:?}");
        ensure!(leased(&offer)? == Family::V6.host(), "{offer:?}");
        ensure!(leased(&reply)? == Family::V6.host(), "{reply:?}");
        let servers = match reply.opts().get(v6::OptionCode::DomainNameServers) {
            Some(DhcpOption::DomainNameServers(servers)) => servers.clone(),
            other => bail!("no name servers: {other:?}"),
        };
        ensure!(
            servers == ["2001:db8:5::53".parse::<Ipv6Addr>()?],
            "{servers:?}"
        );
        Ok(())
    });
}

/// The kernel believes our advertisement.
#[test]
fn an_advertisement_configures_the_kernel() {
    on!(|machine| {
        let (guest, _daemon) = unconfigured(machine, &[])?;
        guest.sh("ip link set uplink up")?;
        let configured = eventually(PATIENCE, || {
            global(&guest, Family::V6).is_ok_and(|own| !own.is_empty())
                && guest
                    .sh("ip -6 route show default")
                    .is_ok_and(|route| !route.is_empty())
        });
        let shown = guest.sh("ip -6 addr; ip -6 route")?;
        ensure!(configured, "{shown}");
        let own = global(&guest, Family::V6)?;
        ensure!(
            own.iter()
                .any(|own| own.starts_with("2001:db8:5:0:") || own.starts_with("2001:db8:5::")),
            "{own:?}"
        );
        ensure!(own.iter().all(|own| own.ends_with("/64")), "{own:?}");
        let route = guest.sh("ip -6 route show default")?;
        ensure!(route.starts_with("default via fe80::"), "{route}");
        ensure!(route.contains(" dev uplink proto ra"), "{route}");
        let mtu = guest.sysctl("ipv6/conf/uplink/mtu")?;
        // The link has 1500 bytes, and 65520 do not fit.
        ensure!(mtu.as_deref() == Some("1500"), "{mtu:?}");
        settle(&guest)?;
        let at = (Family::V6.any(), 7000).into();
        let _server = serve(&machine.outside, Protocol::Tcp, at, "outside")?;
        let reply = tcp_ask(&guest, (Family::V6.outside(), 7000).into())?;
        ensure!(reply.tag == "outside", "{reply}");
        Ok(())
    });
}

/// No advertisement where we configure the guest: it keeps the addresses that it was given.
#[test]
fn no_advertisement_for_a_configured_guest() {
    on!(|machine| {
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        settle(&guest)?;
        let asked = || {
            let counters = guest.sh("cat /proc/net/snmp6").unwrap_or_default();
            let line = counters
                .lines()
                .find_map(|line| line.strip_prefix("Icmp6OutRouterSolicits"));
            line.is_some_and(|count| count.trim() != "0")
        };
        ensure!(eventually(PATIENCE, asked), "nobody asked for one");
        // What is answered after it comes after an answer to it.
        ensure!(ping(&guest, Family::V6.outside())?);
        let own = global(&guest, Family::V6)?;
        ensure!(own == [format!("{}/64", Host::V6)], "{own:?}");
        let routes = guest.sh("ip -6 route show proto ra")?;
        ensure!(routes.is_empty(), "{routes}");
        Ok(())
    });
}
