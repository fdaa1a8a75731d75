//! Neighbours of the host's link: the guest is told their link-layer addresses, and when they change.

use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;

use crate::attached::{run, start, wait_for};

const V4: &str = "192.0.2.3";
const V6: &str = "2001:db8:5::3";
const GATEWAY: &str = Host::OUTSIDE_V4;
const OTHER_MAC: &str = "02:00:00:00:00:33";

/// The machine outside has one more address of each family, which is no gateway, and says when it has another card.
fn neighbour(host: &Host) -> Result<Netns> {
    let outside = host.outside()?;
    outside.sh(&format!(
        "ip addr add {V4}/24 dev eth0; ip addr add {V6}/64 dev eth0 nodad"
    ))?;
    outside.set_sysctl("ipv4/conf/eth0/arp_notify", "1")?;
    outside.set_sysctl("ipv6/conf/eth0/ndisc_notify", "1")?;
    Ok(outside)
}

/// The word that follows another one.
fn after(text: &str, word: &str) -> Option<String> {
    let mut words = text.split_whitespace().skip_while(|found| *found != word);
    words.nth(1).map(ToOwned::to_owned)
}

/// What somebody knows of an address.
fn knows(at: &Netns, address: &str) -> Result<Option<String>> {
    let text = at.sh(&format!("ip neigh show to {address}"))?;
    Ok(after(&text, "lladdr"))
}

fn mac(at: &Netns, link: &str) -> Result<String> {
    let text = at.sh(&format!("ip -o link show dev {link}"))?;
    after(&text, "link/ether").context("no address")
}

/// Say something, which makes the kernel ask for the neighbour.
fn speak(at: &Netns, to: &str) -> Result<()> {
    at.enter(|| {
        let any = if to.contains(':') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(any)?;
        let address: std::net::IpAddr = to.parse()?;
        socket.send_to(b"hello", (address, 9))?;
        Ok(())
    })
}

fn until_known(at: &Netns, address: &str, mac: &str) -> Result<()> {
    wait_for(&format!("{address} is known as {mac}"), || {
        knows(at, address).is_ok_and(|known| known.as_deref() == Some(mac))
    })
}

/// Known to the host before we came, and then another card. The gateway is us, whatever it is in the world.
#[test]
fn real_addresses_and_their_changes() {
    run(|host| {
        let outside = neighbour(host)?;
        let card = mac(&outside, "eth0")?;
        for address in [V4, V6, GATEWAY] {
            speak(host, address)?;
            until_known(host, address, &card)?;
        }
        let guest = host.container("guest")?;
        let daemon = start(host, &guest, &[])?;
        for address in [V4, V6] {
            speak(&guest, address)?;
            until_known(&guest, address, &card)?;
        }
        speak(&guest, GATEWAY)?;
        wait_for("the gateway answers", || {
            knows(&guest, GATEWAY).is_ok_and(|known| known.is_some())
        })?;
        let ours = knows(&guest, GATEWAY)?.context("no gateway")?;
        ensure!(ours != card, "{ours}");
        // Frames to the neighbour come to us all the same.
        let far = outside.enter(|| Ok(std::net::TcpListener::bind((V4, 7000))?))?;
        guest.enter(|| Ok(std::net::TcpStream::connect((V4, 7000))?))?;
        far.accept()?;

        // A guest's kernel that asks nobody hears of it too.
        outside.sh(&format!("ip link set eth0 address {OTHER_MAC}"))?;
        for address in [V4, V6] {
            until_known(host, address, OTHER_MAC)?;
            until_known(&guest, address, OTHER_MAC)?;
        }
        ensure!(knows(&guest, GATEWAY)? == Some(ours));
        ensure!(daemon.lives());
        Ok(())
    });
}

/// The host asks for the neighbour because of what the guest says: it was told our address first.
#[test]
fn neighbours_that_the_host_learns_later() {
    run(|host| {
        let outside = neighbour(host)?;
        let card = mac(&outside, "eth0")?;
        let guest = host.container("guest")?;
        let daemon = start(host, &guest, &[])?;
        for address in [V4, V6] {
            ensure!(knows(host, address)?.is_none());
            speak(&guest, address)?;
            until_known(&guest, address, &card)?;
            // And nobody knows it any more.
            host.sh(&format!("ip neigh del {address} dev uplink"))?;
            wait_for("it is ours again", || {
                let known = knows(&guest, address);
                known.is_ok_and(|known| known.is_some_and(|known| known != card))
            })?;
        }
        ensure!(daemon.lives());
        Ok(())
    });
}

/// Neighbours of another link of the host are none of the guest's.
#[test]
fn neighbours_elsewhere() {
    run(|host| {
        let _outside = neighbour(host)?;
        host.sh("ip link add other type veth peer name far
             ip link set far up; ip link set other up
             ip neigh add 192.0.2.4 lladdr 02:00:00:00:00:44 dev other
             ip neigh add 192.0.2.5 lladdr 02:00:00:00:00:55 dev uplink")?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &[])?;
        speak(&guest, "192.0.2.5")?;
        until_known(&guest, "192.0.2.5", "02:00:00:00:00:55")?;
        speak(&guest, "192.0.2.4")?;
        wait_for("somebody answers", || {
            knows(&guest, "192.0.2.4").is_ok_and(|known| known.is_some())
        })?;
        let ours = knows(&guest, "192.0.2.4")?.unwrap_or_default();
        ensure!(!ours.ends_with("44"), "{ours}");
        host.sh("ip neigh replace 192.0.2.4 lladdr 02:00:00:00:00:45 dev other")?;
        host.sh("ip neigh replace 192.0.2.5 lladdr 02:00:00:00:00:56 dev uplink")?;
        until_known(&guest, "192.0.2.5", "02:00:00:00:00:56")?;
        ensure!(knows(&guest, "192.0.2.4")? == Some(ours));
        Ok(())
    });
}

/// A batch of commands for `ip`.
fn batch(at: &Netns, lines: impl Iterator<Item = String>) -> Result<()> {
    let path = std::path::Path::new("/run/lab/batch");
    let mut file = std::fs::File::create(path)?;
    for line in lines {
        writeln!(file, "{line}")?;
    }
    drop(file);
    at.sh("ip -batch /run/lab/batch").map(drop)
}

/// More happens than the kernel keeps for us: what is there is asked for again.
#[test]
fn notices_that_are_lost() {
    run(|host| {
        let _outside = neighbour(host)?;
        let guest = host.container("guest")?;
        let daemon = start(host, &guest, &[])?;
        let set = |low: u8, card: u8| {
            format!(
                "neigh replace 192.0.2.{low} lladdr 02:00:00:00:{card:02x}:{low:02x} dev uplink nud permanent"
            )
        };
        batch(host, (10..=180).map(|low| set(low, 1)))?;
        for address in ["192.0.2.60", "192.0.2.180"] {
            speak(&guest, address)?;
        }
        until_known(&guest, "192.0.2.60", "02:00:00:00:01:3c")?;
        until_known(&guest, "192.0.2.180", "02:00:00:00:01:b4")?;
        kill(Pid::from_raw(daemon.pid), Signal::SIGSTOP)?;
        for card in 2..30 {
            batch(host, (10..=180).map(|low| set(low, card)))?;
        }
        host.sh("ip neigh del 192.0.2.60 dev uplink")?;
        kill(Pid::from_raw(daemon.pid), Signal::SIGCONT)?;
        until_known(&guest, "192.0.2.180", "02:00:00:00:1d:b4")?;
        wait_for("the other one is forgotten", || {
            let known = knows(&guest, "192.0.2.60");
            known.is_ok_and(|known| known.is_some_and(|known| !known.ends_with(":3c")))
        })?;
        // And notices are heard again.
        batch(host, [set(180, 77)].into_iter())?;
        until_known(&guest, "192.0.2.180", "02:00:00:00:4d:b4")?;
        ensure!(daemon.lives());
        Ok(())
    });
}

/// An adapter is taken out and put in again: neighbours and groups are those of the new one, although the other one has
/// its name.
#[test]
fn a_link_that_comes_again() {
    run(|host| {
        let outside = neighbour(host)?;
        let guest = host.container("guest")?;
        let daemon = start(host, &guest, &[])?;
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let near = guest.enter(|| Ok(UdpSocket::bind("0.0.0.0:5353")?))?;
        near.join_multicast_v4(&group, &Ipv4Addr::new(192, 0, 2, 1))?;
        near.set_multicast_loop_v4(false)?;
        near.set_read_timeout(Some(Duration::from_secs(5)))?;
        let listens = || {
            let all = host.sh("ip maddr show dev uplink");
            all.is_ok_and(|all| all.contains("224.0.0.251"))
        };
        wait_for("the host listens", listens)?;
        near.send_to(b"before", (group, 5353))?;
        speak(&guest, V4)?;
        until_known(&guest, V4, &mac(&outside, "eth0")?)?;
        host.sh("ip link del uplink; ip link add other type veth peer name far")?;
        drop(outside);
        let outside = neighbour(host)?;
        wait_for("the host listens again", listens)?;
        let card = mac(&outside, "eth0")?;
        speak(host, V4)?;
        until_known(host, V4, &card)?;
        until_known(&guest, V4, &card)?;
        let far = outside.enter(|| Ok(UdpSocket::bind("0.0.0.0:5353")?))?;
        far.join_multicast_v4(&group, &Ipv4Addr::new(192, 0, 2, 2))?;
        far.set_multicast_loop_v4(false)?;
        far.set_read_timeout(Some(Duration::from_secs(5)))?;
        far.send_to(b"news", (group, 5353))?;
        let mut room = [0; 100];
        let (len, _) = near.recv_from(&mut room).context("no news")?;
        ensure!(&room[..len] == b"news");
        near.send_to(b"thanks", (group, 5353))?;
        let (len, _) = far.recv_from(&mut room).context("no thanks")?;
        ensure!(&room[..len] == b"thanks");
        // And once more, by which the notices of links are heard as at first.
        host.sh("ip link del uplink")?;
        drop(outside);
        let _outside = neighbour(host)?;
        wait_for("the host listens once more", listens)?;
        ensure!(daemon.lives());
        Ok(())
    });
}
