//! Datagrams to many and from anywhere: groups, everybody on the link, source ports, what is larger than the link.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;

use crate::attached::{self, Daemon, run, wait_for};

const MDNS: &str = "224.0.0.251:5353";
const SSDP: &str = "239.255.255.250:1900";
/// The guest has the host's addresses.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn start(host: &Host, guest: &Netns, words: &[&str]) -> Result<Daemon> {
    attached::start(host, guest, &[&["--no-map-gw"], words].concat())
}

fn bind(at: &Netns, address: &str) -> Result<UdpSocket> {
    let socket = at.enter(|| UdpSocket::bind(address).with_context(|| address.to_owned()))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// The next datagram.
#[track_caller]
fn next(at: &UdpSocket) -> Result<(Vec<u8>, SocketAddr)> {
    let mut room = vec![0; 70_000];
    let line = std::panic::Location::caller().line();
    let came = at.recv_from(&mut room);
    let (len, peer) = came.with_context(|| format!("nothing came in line {line}"))?;
    room.truncate(len);
    Ok((room, peer))
}

/// Nothing comes, although what was asked for before has come.
fn silent(at: &UdpSocket) -> Result<()> {
    at.set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut room = [0; 100];
    let came = at.recv_from(&mut room);
    ensure!(came.is_err(), "{came:?}");
    Ok(())
}

/// Until the link-local addresses of both may be used.
fn settle(host: &Host, outside: &Netns) -> Result<()> {
    wait_for("duplicate address detection", || {
        [host, outside].into_iter().all(|at| {
            let shown = at.sh("ip -o -6 addr show up scope link");
            shown.is_ok_and(|all| all.contains("fe80") && !all.contains("tentative"))
        })
    })
}

fn index(at: &Netns, link: &str) -> Result<u32> {
    at.enter(|| Ok(if_nametoindex(link)?))
}

/// As UPnP does it: many are asked, one answers for itself.
#[test]
fn services_answer_from_their_own_addresses() {
    run(|host| {
        let outside = host.outside()?;
        outside.sh("nft add table ip t
             nft add chain ip t c '{ type filter hook input priority 0; }'
             nft add rule ip t c ip daddr 239.255.255.250 ip ttl 4 counter")?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &[])?;
        let device = bind(&outside, "0.0.0.0:1900")?;
        device.join_multicast_v4(&Ipv4Addr::new(239, 255, 255, 250), &OUTSIDE)?;
        let asker = bind(&guest, "0.0.0.0:0")?;
        asker.set_multicast_ttl_v4(4)?;
        asker.send_to(b"who?", SSDP)?;
        let (question, from) = next(&device)?;
        ensure!(question == b"who?" && from.ip() == HOST, "{from}");
        ensure!(from.port() == asker.local_addr()?.port(), "{from}");
        let counted = outside.sh("nft list table ip t")?;
        ensure!(counted.contains("packets 1 "), "{counted}");
        // From another port than the one that was asked, and from a second device.
        let own = bind(&outside, "192.0.2.2:0")?;
        own.send_to(b"me", from)?;
        device.send_to(b"me too", from)?;
        let (answer, who) = next(&asker)?;
        ensure!(answer == b"me" && who == own.local_addr()?, "{who}");
        let (answer, who) = next(&asker)?;
        ensure!(answer == b"me too" && who.to_string() == "192.0.2.2:1900");
        // And now to it alone.
        asker.send_to(b"thanks", who)?;
        ensure!(next(&device)?.0 == b"thanks");
        Ok(())
    });
}

/// As mDNS does it: everybody listens, and speaks from the same port. The host has a responder as well.
#[test]
fn the_guest_hears_groups_that_it_listens_to() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &[])?;
        let far = bind(&outside, "0.0.0.0:5353")?;
        let group = Ipv4Addr::new(224, 0, 0, 251);
        far.join_multicast_v4(&group, &OUTSIDE)?;
        let near = bind(&guest, "0.0.0.0:5353")?;
        let listens = || {
            host.sh("ip maddr show dev uplink")
                .map(|all| all.contains("224.0.0.251"))
        };
        ensure!(!listens()?);
        near.join_multicast_v4(&group, &HOST)?;
        wait_for("the host listens", || listens().is_ok_and(|it| it))?;
        far.send_to(b"hello", MDNS)?;
        far.set_multicast_loop_v4(false)?;
        let (said, from) = next(&near)?;
        ensure!(
            said == b"hello" && from.to_string() == "192.0.2.2:5353",
            "{from}"
        );
        near.set_multicast_loop_v4(false)?;
        near.set_multicast_ttl_v4(255)?;
        near.send_to(b"hello too", MDNS)?;
        let answer = loop {
            let (said, from) = next(&far)?;
            // What it said itself comes first.
            if said != b"hello" {
                break (said, from);
            }
        };
        ensure!(answer.0 == b"hello too");
        ensure!(answer.1.to_string() == "192.0.2.1:5353", "{}", answer.1);
        silent(&near)?;
        drop(near);
        wait_for("nobody listens", || listens().is_ok_and(|it| !it))?;
        Ok(())
    });
}

/// The same where a process of the host has the port: nothing is taken away from it.
#[test]
fn the_hosts_own_responder_stays() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let own = host.enter(shared_5353)?;
        own.set_read_timeout(Some(Duration::from_secs(5)))?;
        own.join_multicast_v4(&group, &HOST)?;
        let _daemon = start(host, &guest, &[])?;
        let far = bind(&outside, "0.0.0.0:5353")?;
        far.join_multicast_v4(&group, &OUTSIDE)?;
        far.set_multicast_loop_v4(false)?;
        let near = bind(&guest, "0.0.0.0:5353")?;
        near.join_multicast_v4(&group, &HOST)?;
        near.set_multicast_loop_v4(false)?;
        near.send_to(b"question", MDNS)?;
        let (said, from) = next(&far)?;
        ensure!(
            said == b"question" && from.to_string() == "192.0.2.1:5353",
            "{from}"
        );
        // The host is on the link as well.
        ensure!(next(&own)?.0 == b"question");
        wait_for("two of us listen", || {
            let all = host.sh("ip maddr show dev uplink");
            all.is_ok_and(|all| all.contains("224.0.0.251 users 2"))
        })?;
        far.send_to(b"to all", MDNS)?;
        ensure!(next(&own)?.0 == b"to all");
        ensure!(next(&near)?.0 == b"to all");
        far.send_to(b"to you", from)?;
        ensure!(next(&own)?.0 == b"to you");
        Ok(())
    });
}

/// A socket as responders of multicast DNS have it.
fn shared_5353() -> Result<UdpSocket> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 5353))?;
    Ok(fd.into())
}

#[test]
fn groups_of_ipv6() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &[])?;
        settle(host, &outside)?;
        let group: Ipv6Addr = "ff02::fb".parse()?;
        let (there, here) = (index(&outside, "eth0")?, index(&guest, "uplink")?);
        let far = bind(&outside, "[::]:5353")?;
        far.join_multicast_v6(&group, there)?;
        far.set_multicast_loop_v6(false)?;
        let near = bind(&guest, "[::]:5353")?;
        near.join_multicast_v6(&group, here)?;
        near.set_multicast_loop_v6(false)?;
        wait_for("the host listens", || {
            let all = host.sh("ip maddr show dev uplink");
            all.is_ok_and(|all| all.contains("ff02::fb"))
        })?;
        near.send_to(b"question", SocketAddrV6::new(group, 5353, 0, here))?;
        let (said, from) = next(&far)?;
        ensure!(said == b"question" && from.port() == 5353, "{from}");
        far.send_to(b"to all", SocketAddrV6::new(group, 5353, 0, there))?;
        let (said, from) = next(&near)?;
        ensure!(said == b"to all" && from.port() == 5353, "{from}");
        Ok(())
    });
}

/// Of a guest with an address of its own, the host's link shows the host's: what the guest says is not told to it.
#[test]
fn nobody_hears_himself() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &["-a", "10.9.9.9/24", "-g", "10.9.9.1"])?;
        let (group, own) = (Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(10, 9, 9, 9));
        let far = bind(&outside, "0.0.0.0:5353")?;
        far.join_multicast_v4(&group, &OUTSIDE)?;
        let near = bind(&guest, "0.0.0.0:5353")?;
        near.join_multicast_v4(&group, &own)?;
        near.set_multicast_loop_v4(false)?;
        near.send_to(b"hello", MDNS)?;
        ensure!(next(&far)?.0 == b"hello");
        silent(&near)?;
        far.send_to(b"hello", MDNS)?;
        near.set_read_timeout(Some(Duration::from_secs(5)))?;
        ensure!(next(&near)?.1.to_string() == "192.0.2.2:5353");
        Ok(())
    });
}

/// A published port hears groups too, and the group stays the destination.
#[test]
fn a_published_port_hears_groups() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &["-u", "7001:7000"])?;
        let group = Ipv4Addr::new(239, 1, 2, 3);
        // Bound to the group: what is sent to the guest's own address it would not get.
        let near = bind(&guest, "239.1.2.3:7000")?;
        near.join_multicast_v4(&group, &HOST)?;
        wait_for("the host listens", || {
            let all = host.sh("ip maddr show dev uplink");
            all.is_ok_and(|all| all.contains("239.1.2.3"))
        })?;
        let far = bind(&outside, "192.0.2.2:0")?;
        far.send_to(b"film", "239.1.2.3:7001")?;
        let (said, from) = next(&near)?;
        ensure!(said == b"film" && from == far.local_addr()?, "{from}");
        silent(&near)?;
        Ok(())
    });
}

#[test]
fn everybody_on_the_link() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &[])?;
        let far = bind(&outside, "0.0.0.0:9999")?;
        let near = bind(&guest, "0.0.0.0:0")?;
        near.set_broadcast(true)?;
        for to in ["255.255.255.255:9999", "192.0.2.255:9999"] {
            near.send_to(to.as_bytes(), to)?;
            let (said, from) = next(&far)?;
            ensure!(said == to.as_bytes() && from.ip() == HOST, "{from}");
            far.send_to(b"here", from)?;
            let (said, from) = next(&near)?;
            ensure!(
                said == b"here" && from.to_string() == "192.0.2.2:9999",
                "{from}"
            );
        }
        Ok(())
    });
}

/// Two containers ask the same server from the same port: each gets its own answers.
#[test]
fn one_source_port_for_two_containers() {
    run(|host| {
        let outside = host.outside()?;
        let server = bind(&outside, "192.0.2.2:7000")?;
        let other = bind(&outside, "192.0.2.2:7001")?;
        let (one, two) = (host.container("one")?, host.container("two")?);
        let _daemons = [start(host, &one, &[])?, start(host, &two, &[])?];
        let guests = [bind(&one, "0.0.0.0:6000")?, bind(&two, "0.0.0.0:6000")?];
        let mut ports = Vec::new();
        for (guest, name) in guests.iter().zip([b"one", b"two"]) {
            guest.send_to(name, "192.0.2.2:7000")?;
            let (said, from) = next(&server)?;
            ensure!(said == name);
            // Whomever it asks, it is known by one port.
            guest.send_to(name, "192.0.2.2:7001")?;
            ensure!(next(&other)?.1 == from);
            ports.push(from);
        }
        ensure!(
            ports[0].port() == 6000 && ports[1].port() != 6000,
            "{ports:?}"
        );
        for (to, name) in ports.iter().zip(["one", "two"]) {
            server.send_to(name.as_bytes(), to)?;
        }
        for (guest, name) in guests.iter().zip(["one", "two"]) {
            ensure!(next(guest)?.0 == name.as_bytes());
            silent(guest)?;
        }
        Ok(())
    });
}

/// Ports that are not for us to have: another one does as well.
#[test]
fn source_ports_that_are_not_to_be_had() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let server = bind(&outside, "192.0.2.2:7000")?;
        let _taken = bind(host, "0.0.0.0:6000")?;
        let _daemon = start(host, &guest, &[])?;
        for from in ["0.0.0.0:123", "0.0.0.0:6000"] {
            let near = bind(&guest, from)?;
            near.send_to(b"time?", "192.0.2.2:7000")?;
            let (_, peer) = next(&server)?;
            ensure!(peer.port() != near.local_addr()?.port(), "{peer}");
            server.send_to(b"now", peer)?;
            ensure!(next(&near)?.1.to_string() == "192.0.2.2:7000");
        }
        Ok(())
    });
}

/// The first datagram at a listener is larger than the guest's link.
#[test]
fn larger_than_the_link() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &["--mtu", "1500", "-u", "9000"])?;
        let near = bind(&guest, "[::]:9000")?;
        for (from, to) in [
            ("192.0.2.2:0", "192.0.2.1:9000"),
            ("[2001:db8:5::2]:0", "[2001:db8:5::1]:9000"),
        ] {
            let far = bind(&outside, from)?;
            let sent: Vec<u8> = (0..251).cycle().take(20_000).collect();
            far.send_to(&sent, to)?;
            let (came, peer) = next(&near)?;
            ensure!(came == sent, "{} bytes", came.len());
            near.send_to(&sent, peer)?;
            ensure!(next(&far)?.0 == sent);
        }
        // No datagram came with a checksum left out or wrong.
        let counted = guest.sh("cat /proc/net/snmp /proc/net/snmp6")?;
        ensure!(
            counted.contains("Udp6InCsumErrors                \t0"),
            "{counted}"
        );
        Ok(())
    });
}

/// Addresses that mean something on the host's link only: the guest's link stands for that one.
#[test]
fn link_local_addresses() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let link_local = |at: &Netns, link: &str| -> Result<Ipv6Addr> {
            let shown = at.sh(&format!("ip -6 -o addr show dev {link} scope link"))?;
            let word = shown
                .split_whitespace()
                .find(|word| word.starts_with("fe80"));
            Ok(word
                .and_then(|word| word.split('/').next())
                .context("none")?
                .parse()?)
        };
        settle(host, &outside)?;
        let _daemon = start(host, &guest, &["-u", "8080", "-t", "8080"])?;
        let (here, there) = (index(&guest, "uplink")?, index(&outside, "eth0")?);
        let far_address = link_local(&outside, "eth0")?;
        let far = bind(&outside, "[::]:7000")?;
        let near = bind(&guest, "[::]:8080")?;
        near.send_to(b"hello", SocketAddrV6::new(far_address, 7000, 0, here))?;
        let (said, from) = next(&far)?;
        ensure!(said == b"hello", "{from}");
        far.send_to(b"hello too", from)?;
        let (_, from) = next(&near)?;
        ensure!(from.ip() == far_address, "{from}");
        // From outside to the host's own, and answered on the same pair.
        let host_address = link_local(host, "uplink")?;
        let caller = bind(&outside, "[::]:0")?;
        caller.send_to(b"knock", SocketAddrV6::new(host_address, 8080, 0, there))?;
        let (said, from) = next(&near)?;
        ensure!(said == b"knock" && from.ip() == far_address, "{from}");
        near.send_to(b"come in", from)?;
        let (said, from) = next(&caller)?;
        ensure!(said == b"come in" && from.ip() == host_address, "{from}");
        // The guest has said nothing from its link-local address yet, and is called there.
        let inside = guest.enter(|| Ok(std::net::TcpListener::bind("[::]:8080")?))?;
        let to = SocketAddrV6::new(host_address, 8080, 0, there);
        outside.enter(|| Ok(std::net::TcpStream::connect(to)?))?;
        let (accepted, peer) = inside.accept()?;
        ensure!(peer.ip() == far_address, "{peer}");
        let own = link_local(&guest, "uplink")?;
        ensure!(accepted.local_addr()?.ip() == own);
        let listener = outside.enter(|| Ok(std::net::TcpListener::bind("[::]:7001")?))?;
        let to = SocketAddrV6::new(far_address, 7001, 0, here);
        guest.enter(|| Ok(std::net::TcpStream::connect(to)?))?;
        listener.accept()?;
        Ok(())
    });
}

/// A listener may be there before its address is.
#[test]
fn an_address_that_comes_later() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let words = ["-u", "192.0.2.77/9001"];
        let refused = start(host, &guest, &words);
        ensure!(refused.is_err(), "without --freebind");
        let _daemon = start(host, &guest, &[&["--freebind"], &words[..]].concat())?;
        host.sh("ip addr add 192.0.2.77/32 dev uplink")?;
        let near = bind(&guest, "0.0.0.0:9001")?;
        let far = bind(&outside, "192.0.2.2:0")?;
        far.send_to(b"hello", "192.0.2.77:9001")?;
        let (_, peer) = next(&near)?;
        near.send_to(b"hello too", peer)?;
        ensure!(next(&far)?.1.to_string() == "192.0.2.77:9001");
        Ok(())
    });
}
