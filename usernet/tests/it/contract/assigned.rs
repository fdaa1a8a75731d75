//! What a guest has when we are ready: addresses, routes, MTU, names.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use anyhow::{Context, Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::traffic::{Protocol, Server, serve, tcp_ask, udp_ask};

use super::machine::{
    Family, MAP_GUEST, Machine, ROUTER_V6, connect, datagrams, global, listen, on,
};

/// The addresses of a guest with these options.
fn addresses(machine: &Machine<'_>, options: &[&str]) -> Result<[Vec<String>; 2]> {
    let guest = machine.guest()?;
    let _daemon = machine.podman(&guest, options, &[])?;
    Ok([global(&guest, Family::V4)?, global(&guest, Family::V6)?])
}

/// The default route of a guest with these options.
fn default_route(machine: &Machine<'_>, family: Family, options: &[&str]) -> Result<String> {
    let guest = machine.guest()?;
    let _daemon = machine.podman(&guest, options, &[])?;
    guest.sh(&format!("ip {} route show default", family.option()))
}

/// What `ip link` says of the interface of a guest with these options.
fn link(machine: &Machine<'_>, options: &[&str], interface: &str) -> Result<String> {
    let guest = machine.guest()?;
    let _daemon = machine.podman(&guest, options, &[])?;
    guest.sh(&format!("ip -o link show dev {interface}"))
}

fn contains(text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "no {part:?} in {text:?}");
    Ok(())
}

#[test]
fn default_address_v4() {
    on!(|machine| {
        let [v4, _] = addresses(machine, &[])?;
        ensure!(v4 == ["192.0.2.1/24"], "{v4:?}");
        Ok(())
    });
}

#[test]
fn default_address_v6() {
    on!(|machine| {
        let [_, v6] = addresses(machine, &[])?;
        ensure!(v6 == ["2001:db8:5::1/64"], "{v6:?}");
        Ok(())
    });
}

/// The first address of each family is the one that Podman writes into `/etc/hosts`.
#[test]
fn the_first_of_several_addresses_stays_the_first() {
    on!(|machine| {
        machine.host.sh(
            "ip addr add 192.0.2.7/24 dev uplink; ip addr add 2001:db8:5::7/64 dev uplink nodad",
        )?;
        let [v4, v6] = addresses(machine, &[])?;
        ensure!(v4 == ["192.0.2.1/24", "192.0.2.7/24"], "{v4:?}");
        let host = global(machine.host, Family::V6)?;
        ensure!(v6 == host, "{v6:?}");
        Ok(())
    });
}

#[test]
fn address_assignment_v4() {
    on!(|machine| {
        let [v4, v6] = addresses(machine, &["-a", "198.51.100.1"])?;
        ensure!(v4 == ["198.51.100.1/24"], "{v4:?}");
        ensure!(v6.len() == 1, "{v6:?}");
        Ok(())
    });
}

#[test]
fn address_assignment_v6() {
    on!(|machine| {
        let [v4, v6] = addresses(machine, &["-a", "2001:db8::1"])?;
        ensure!(v6 == ["2001:db8::1/64"], "{v6:?}");
        ensure!(v4.len() == 1, "{v4:?}");
        Ok(())
    });
}

#[test]
fn no_ipv4() {
    on!(|machine| {
        let [v4, v6] = addresses(machine, &["-6"])?;
        ensure!(v4.is_empty() && v6.len() == 1, "{v4:?} {v6:?}");
        Ok(())
    });
}

#[test]
fn no_ipv6() {
    on!(|machine| {
        let [v4, v6] = addresses(machine, &["-4"])?;
        ensure!(v6.is_empty() && v4.len() == 1, "{v4:?} {v6:?}");
        Ok(())
    });
}

#[test]
fn default_route_v4() {
    on!(|machine| {
        let route = default_route(machine, Family::V4, &[])?;
        contains(&route, "default via 192.0.2.2 dev uplink")
    });
}

#[test]
fn default_route_v6() {
    on!(|machine| {
        let route = default_route(machine, Family::V6, &[])?;
        contains(&route, &format!("default via {ROUTER_V6} dev uplink"))
    });
}

/// Protocol and metric are those of the host's route.
#[test]
fn a_route_is_copied_with_its_origin() {
    on!(|machine| {
        machine.host.sh(
            "ip route replace default via 192.0.2.2 proto dhcp metric 100
                         ip route del default via 192.0.2.2 metric 0 || true
                         ip route add 203.0.113.0/24 via 192.0.2.2",
        )?;
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        let routes = guest.sh("ip route")?;
        contains(
            &routes,
            "default via 192.0.2.2 dev uplink proto dhcp metric 100",
        )?;
        contains(&routes, "203.0.113.0/24 via 192.0.2.2 dev uplink")
    });
}

#[test]
fn default_route_assignment_v4() {
    on!(|machine| {
        let options = ["-a", "198.51.100.2", "-g", "198.51.100.1"];
        let route = default_route(machine, Family::V4, &options)?;
        contains(&route, "default via 198.51.100.1 dev uplink")?;
        ensure!(route.lines().count() == 1, "{route}");
        Ok(())
    });
}

#[test]
fn default_route_assignment_v6() {
    on!(|machine| {
        let options = ["-a", "2001:db8::2", "-g", "2001:db8::1"];
        let route = default_route(machine, Family::V6, &options)?;
        contains(&route, "default via 2001:db8::1 dev uplink")?;
        ensure!(route.lines().count() == 1, "{route}");
        Ok(())
    });
}

#[test]
fn default_mtu() {
    on!(|machine| contains(&link(machine, &[], "uplink")?, "mtu 65520"));
}

#[test]
fn mtu_assignment() {
    on!(|machine| contains(&link(machine, &["-m", "1280"], "uplink")?, "mtu 1280"));
}

#[test]
fn loopback_is_up() {
    on!(|machine| contains(&link(machine, &[], "lo")?, "<LOOPBACK,UP"));
}

#[test]
fn the_interface_is_named_as_that_of_the_host() {
    on!(|machine| {
        machine
            .host
            .sh("ip link set uplink down; ip link set uplink name enp0s31f6
             ip link set enp0s31f6 up; ip addr replace 2001:db8:5::1/64 dev enp0s31f6 nodad
             ip route replace default via 192.0.2.2
             ip -6 route replace default via fe80::2 dev enp0s31f6")?;
        contains(&link(machine, &[], "enp0s31f6")?, "state U")
    });
}

/// The options of `containers.conf` come first.
#[test]
fn options_of_the_configuration_file() {
    on!(|machine| {
        let options = ["-I", "myname", "--ns-mac-addr", "02:00:00:00:00:01"];
        contains(&link(machine, &options, "myname")?, "02:00:00:00:00:01")
    });
}

#[test]
fn options_of_the_command_line_win_by_being_later() {
    on!(|machine| {
        let options = [
            ["-I", "first", "--ns-mac-addr", "02:00:00:00:00:01"],
            ["-I", "second", "--ns-mac-addr", "02:00:00:00:00:02"],
        ];
        contains(
            &link(machine, &options.concat(), "second")?,
            "02:00:00:00:00:02",
        )
    });
}

/// A question for the address of `a.example`.
const QUESTION: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01";

/// The address in every answer.
const ANSWER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04");
    answer.extend(ANSWER.octets());
    answer
}

/// A name server for one question of each protocol.
fn name_server(at: &Netns, address: SocketAddr) -> Result<()> {
    let datagrams = datagrams(at, address)?;
    let listener = listen(at, address)?;
    thread::spawn(move || -> Result<()> {
        let mut question = [0; 512];
        let (length, peer) = datagrams.recv_from(&mut question)?;
        datagrams.send_to(&answer(&question[..length]), peer)?;
        let (mut stream, _) = listener.accept()?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let question = &mut question[..usize::from(u16::from_be_bytes(length))];
        stream.read_exact(question)?;
        let answer = answer(question);
        stream.write_all(&u16::try_from(answer.len())?.to_be_bytes())?;
        stream.write_all(&answer)?;
        Ok(())
    });
    Ok(())
}

/// Looks a name up, with both protocols.
fn look_up(guest: &Netns, server: SocketAddr) -> Result<()> {
    let any = if server.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    let asker = datagrams(guest, (any.any(), 0))?;
    asker.connect(server).context("connecting")?;
    asker.send(QUESTION)?;
    let mut received = [0; 512];
    let length = asker.recv(&mut received).context("by UDP")?;
    ensure!(received[..length].ends_with(&ANSWER.octets()), "by UDP");
    let mut stream = connect(guest, server)?;
    stream.write_all(&u16::try_from(QUESTION.len())?.to_be_bytes())?;
    stream.write_all(QUESTION)?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received).context("by TCP")?;
    ensure!(received.ends_with(&ANSWER.octets()), "by TCP");
    Ok(())
}

#[test]
fn name_server_forwarding() {
    on!(|machine| {
        name_server(&machine.outside, "192.0.2.2:53".parse()?)?;
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        look_up(&guest, "169.254.1.1:53".parse()?)
    });
}

#[test]
fn custom_name_server_forwarding_v4() {
    on!(|machine| {
        name_server(&machine.outside, "192.0.2.2:53".parse()?)?;
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &["--dns-forward", "198.51.100.1"], &[])?;
        look_up(&guest, "198.51.100.1:53".parse()?)
    });
}

#[test]
fn custom_name_server_forwarding_v6() {
    on!(|machine| {
        machine.resolv_conf("nameserver 2001:db8:5::2\n")?;
        name_server(&machine.outside, "[2001:db8:5::2]:53".parse()?)?;
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &["--dns-forward", "2001:db8::53"], &[])?;
        look_up(&guest, "[2001:db8::53]:53".parse()?)
    });
}

/// As with systemd-resolved: the server listens on the host's loopback only.
#[test]
fn a_name_server_on_loopback() {
    on!(|machine| {
        machine.resolv_conf("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n")?;
        name_server(machine.host, "127.0.0.53:53".parse()?)?;
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        look_up(&guest, "169.254.1.1:53".parse()?)
    });
}

/// Without Podman: another server than the host's, by another address.
#[test]
fn another_name_server() {
    on!(|machine| {
        machine.resolv_conf("nameserver 203.0.113.1\n")?;
        name_server(&machine.outside, "192.0.2.2:53".parse()?)?;
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &["--dns-host", Host::OUTSIDE_V4], &[])?;
        look_up(&guest, "169.254.1.1:53".parse()?)
    });
}

/// A server of the host that listens on every address.
fn on_the_host(machine: &Machine<'_>) -> Result<[Server; 2]> {
    let at = (Family::V4.any(), 7000).into();
    Ok([
        serve(machine.host, Protocol::Tcp, at, "host")?,
        serve(machine.host, Protocol::Udp, at, "host")?,
    ])
}

/// `host.containers.internal` is not the guest's own address, and leads to the host.
#[test]
fn the_host_has_a_name() {
    on!(|machine| {
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        let _servers = on_the_host(machine)?;
        let to = format!("{MAP_GUEST}:7000").parse()?;
        for reply in [tcp_ask(&guest, to)?, udp_ask(&guest, to)?] {
            ensure!(reply.tag == "host", "{reply}");
        }
        Ok(())
    });
}

/// With an address of its own, the guest reaches the host by the host's address.
#[test]
fn the_host_has_a_name_for_a_guest_with_another_address() {
    on!(|machine| {
        let options = ["-a", "192.168.0.2", "-g", "192.168.0.1", "-n", "24"];
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &options, &[])?;
        let own = global(&guest, Family::V4)?;
        ensure!(own == ["192.168.0.2/24"], "{own:?}");
        let _servers = on_the_host(machine)?;
        let to = format!("{}:7000", Host::V4).parse()?;
        for reply in [tcp_ask(&guest, to)?, udp_ask(&guest, to)?] {
            ensure!(reply.tag == "host", "{reply}");
        }
        Ok(())
    });
}

/// Without an uplink it starts as well, as at boot.
#[test]
fn local_mode() {
    on!(|machine| {
        machine.host.sh("ip link set uplink down")?;
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        let v4 = global(&guest, Family::V4)?;
        ensure!(v4 == ["169.254.2.1/16"], "{v4:?}");
        contains(
            &guest.sh("ip route show default")?,
            "default via 169.254.2.2 dev tap0",
        )?;
        contains(
            &guest.sh("ip -6 route show default")?,
            "default via fe80::1 dev tap0",
        )
    });
}
