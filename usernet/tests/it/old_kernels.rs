//! Frames over a tap that takes less than today's kernels do: packets are cut and completed by us.
//!
//! The loop of the library over a tap that the test makes, since no kernel here refuses what the program asks for.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use test_fixtures::lab::{self, Host};
use test_fixtures::netns::Netns;
use usernet::cli::{self, Request};
use usernet::config::{Decision, Families, decide};
use usernet::event::{ListenerId, Side};
use usernet::forwarder::Forwarder;
use usernet::sys::event_loop::{Ended, Listening, Loop};
use usernet::sys::frames::{Abilities, Frames};
use usernet::sys::options::Options;
use usernet::sys::tap;
use usernet::sys::{facts, guest, listen};

use crate::attached::wait_for;
use crate::podman::{heard, server, talk};

/// Before virtio headers, and before trains of datagrams (Linux 6.2).
const KERNELS: [Abilities; 2] = [
    Abilities {
        header: false,
        udp_segments: false,
    },
    Abilities {
        header: true,
        udp_segments: false,
    },
];

/// A loop that forwards for a guest.
struct Forwarding {
    guest: Netns,
    end: OwnedFd,
    runs: JoinHandle<Result<()>>,
}

impl Forwarding {
    /// Ports 8080 lead to the guest's 80.
    fn start(host: &Host, abilities: Abilities, mtu: u32) -> Result<Self> {
        let guest = host.container("guest")?;
        let words = format!(
            "--config-net --no-map-gw --no-splice -m {mtu} -t 8080:80 -u 8080:80 --netns /x/y"
        );
        let Request::Run(wishes) = cli::parse(words.split(' ').map(Into::into))? else {
            bail!("{words} runs nothing");
        };
        let Decision { mut config, .. } = host.enter(|| Ok(decide(&wishes, &facts::read()?)?))?;
        let name = config.link.name.clone();
        let tap = guest.enter(|| {
            Ok(if abilities.header {
                tap::create(&name)?
            } else {
                tap::create_plain(&name)?
            })
        })?;
        let configured = guest.enter(|| Ok(guest::configure(&config, true)?))?;
        config.link.guest_mac = configured.mac;
        // The kernel makes the routes to its own IPv6 addresses a moment after the addresses.
        wait_for("the guest has its routes", || {
            let routes = guest.sh("ip -6 route show table local type local");
            routes.is_ok_and(|routes| routes.contains("2001:db8:5::1 "))
        })?;
        let wanted = listen::Listening {
            listeners: config.listeners.clone(),
            families: Families {
                v4: Some(()),
                v6: Some(()),
            },
            freebind: false,
            most: None,
        };
        let bound = host.enter(|| Ok(listen::bind_all(&wanted, Side::Host)?.sockets))?;
        let (end, watched) = nix::unistd::pipe()?;
        let runs = host.enter(|| {
            Ok(thread::spawn(move || {
                let frames = Frames::with(tap, abilities, None);
                let forwarder = Forwarder::new(&config, 1);
                let options = Options::default().probe();
                let report = Box::new(|_| {});
                let mut forwarding = Loop::new(forwarder, Some(frames), options, None, report)?;
                for socket in bound {
                    let listener = config.listeners.get(socket.listener as usize);
                    forwarding.listen(Listening {
                        fd: socket.fd,
                        transport: listener.context("no such listener")?.transport,
                        range: ListenerId(socket.listener),
                    })?;
                }
                forwarding.watch(1, &end)?;
                ensure!(forwarding.run()? == Ended::Watch(1));
                Ok(())
            }))
        })?;
        Ok(Self {
            guest,
            end: watched,
            runs,
        })
    }

    fn stop(self) -> Result<()> {
        drop(self.end);
        self.runs
            .join()
            .unwrap_or_else(|_| bail!("the loop panicked"))
    }
}

/// For each kernel, at Ethernet's MTU and at the largest.
fn everywhere(host: &Host, check: impl Fn(&Netns, &Netns) -> Result<()>) -> Result<()> {
    let outside = host.outside()?;
    for abilities in KERNELS {
        for mtu in [1500, 65520] {
            let forwarding = Forwarding::start(host, abilities, mtu)?;
            let checked = check(&outside, &forwarding.guest);
            checked.with_context(|| format!("{abilities:?}, MTU {mtu}"))?;
            forwarding.stop()?;
        }
    }
    Ok(())
}

#[test]
fn streams_of_both_directions() {
    lab::run(|host| {
        everywhere(host, |outside, guest| {
            let far = server(outside, "192.0.2.2:7000")?;
            talk(guest, "192.0.2.2:7000")?;
            heard(far)?;
            let near = server(guest, "[::]:80")?;
            talk(outside, "[2001:db8:5::1]:8080")?;
            heard(near)?;
            Ok(())
        })
    });
}

/// Trains of datagrams, made by the sender's kernel, arrive one by one and in order; small and empty ones too.
#[test]
fn datagrams_of_both_directions() {
    lab::run(|host| {
        everywhere(host, |outside, guest| {
            for (published, far) in [
                ("192.0.2.1:8080", "192.0.2.2:7000"),
                ("[2001:db8:5::1]:8080", "[2001:db8:5::2]:7000"),
            ] {
                let far = outside.enter(|| Ok(UdpSocket::bind(far)?))?;
                let any = if published.starts_with('[') {
                    "[::]:80"
                } else {
                    "0.0.0.0:80"
                };
                let near = guest.enter(|| Ok(UdpSocket::bind(any)?))?;
                near.set_read_timeout(Some(Duration::from_secs(10)))?;
                far.set_read_timeout(Some(Duration::from_secs(10)))?;
                let peer = exchange(&far, &near, published.parse()?)?;
                ensure!(peer == far.local_addr()?, "{peer}");
                exchange(&near, &far, peer)?;
            }
            Ok(())
        })
    });
}

/// Datagrams from one socket to the other, in trains and alone. Who sent them, as the receiver sees it.
fn exchange(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> Result<SocketAddr> {
    let mut buffer = [0; 2000];
    let mut peer = address;
    for size in [1000_u16, 1, 1400] {
        let train: Vec<Vec<u8>> = (0..20)
            .map(|number| vec![number; usize::from(size)])
            .collect();
        setsockopt(from, sockopt::UdpGsoSegment, &i32::from(size))?;
        from.send_to(&train.concat(), address)?;
        for expected in &train {
            let received = to.recv_from(&mut buffer);
            let (len, from) =
                received.with_context(|| format!("{} bytes to {address}", expected.len()))?;
            ensure!(buffer.get(..len) == Some(expected), "{len} bytes of {size}");
            peer = from;
        }
    }
    setsockopt(from, sockopt::UdpGsoSegment, &0)?;
    for expected in [&b""[..], b"alone"] {
        from.send_to(expected, address)?;
        let received = to.recv_from(&mut buffer);
        let (len, _) =
            received.with_context(|| format!("{} bytes to {address}", expected.len()))?;
        ensure!(buffer.get(..len) == Some(expected), "{len} bytes");
    }
    Ok(peer)
}

/// What the guest's kernel says of itself: the tap without a header has nothing to leave to us.
#[test]
fn a_plain_tap_negotiates_nothing() {
    lab::run(|host| {
        let tap = tap::create_plain("plain0")?;
        ensure!(tap.negotiated == tap::Negotiated::default());
        let shown = host.sh("ip -d link show plain0")?;
        ensure!(
            shown.contains("tun type tap") && !shown.contains("vnet_hdr on"),
            "{shown}"
        );
        drop(tap);
        let tap = tap::create("full0")?;
        ensure!(tap.negotiated.header && tap.negotiated.tcp_segments);
        let shown = host.sh("ip -d link show full0")?;
        ensure!(shown.contains("vnet_hdr on"), "{shown}");
        Ok(())
    });
}
