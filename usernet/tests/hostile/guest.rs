//! What a guest with raw sockets can do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;

use anyhow::{Result, ensure};
use test_fixtures::lab::{self, Host};
use usernet::packet::arp::{self, Operation};
use usernet::packet::tcp::{Flags, Header};
use usernet::packet::{build, icmp, ip};

use crate::effort::sized;
use crate::model;
use crate::site::{OUTSIDE_PORT, Site, Way};
use crate::victim::suffers;
use crate::wire::Wire;

/// Numbers that follow from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn word(&mut self) -> u16 {
        u16::try_from(self.next() >> 48).expect("16 bits")
    }
}

/// Frames of one turn of an attack.
const TURN: u64 = 10_000;

/// Nobody is there: the machine outside forwards nothing.
const SILENT: [u8; 4] = [198, 51, 100, 7];

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn outside() -> Ipv4Addr {
    Host::OUTSIDE_V4.parse().expect("an address")
}

/// An attack is a busy process of the same machine. This one sends nothing: what the streams keep beside it is the measure
/// of what they keep beside the others.
#[test]
fn nothing_but_a_busy_loop() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let mut random = Random(3);
        suffers(&site, "a busy loop", || {
            for _ in 0..TURN * 100 {
                std::hint::black_box(random.next());
            }
            Ok(TURN * 100)
        })?;
        site.end()
    });
}

#[test]
fn malformed_frames_of_every_kind() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let wire = Wire::open(&site.guest)?;
        let mut random = Random(1);
        suffers(&site, "malformed frames", || {
            for _ in 0..TURN {
                let choices: Vec<u8> = (0..8).flat_map(|_| random.next().to_le_bytes()).collect();
                let mut frame = model::frame(&choices);
                frame.truncate(1500);
                for _ in 0..random.next() % 4 {
                    let place = usize::from(random.word()) % frame.len().max(1);
                    if let Some(byte) = frame.get_mut(place) {
                        *byte = random.word().to_le_bytes()[0];
                    }
                }
                if random.next().is_multiple_of(4) {
                    frame.truncate(usize::from(random.word()) % 100);
                }
                wire.send(&frame)?;
            }
            Ok(TURN)
        })?;
        site.end()
    });
}

/// Open connections from ever other ports, to somebody who does not answer, or refuses.
fn flood(site: &Site<'_>, what: &str, to: impl Fn(u16) -> SocketAddr) -> Result<()> {
    let wire = Wire::open(&site.guest)?;
    let mut count: u16 = 0;
    let least = sized(1, 10);
    let mut turns = 0;
    let seen = suffers(site, what, || {
        loop {
            for _ in 0..TURN {
                count = count.wrapping_add(1);
                // Not the ports of the victims, nor those of new connections.
                wire.syn(at(wire.own, 1024 + count % 15_000), to(count))?;
            }
            turns += 1;
            if turns % least == 0 {
                return Ok(TURN * least);
            }
        }
    })?;
    // Half-open connections have a limit of their own.
    ensure!(seen.most.descriptors < 2_048 + 1_000, "{seen:?}");
    Ok(())
}

#[test]
fn syns_to_nobody() {
    lab::run(|host| {
        let site = Site::new(host)?;
        flood(&site, "SYNs to nobody", |count| {
            at(SILENT, 1 + count / 15_000)
        })?;
        site.end()
    });
}

#[test]
fn syns_to_somebody_who_refuses() {
    lab::run(|host| {
        let site = Site::new(host)?;
        flood(&site, "SYNs that are refused", |count| {
            at(outside(), 1 + count / 15_000)
        })?;
        site.end()
    });
}

#[test]
fn a_scan_of_ports() {
    lab::run(|host| {
        let site = Site::new(host)?;
        flood(&site, "port scan", |count| at(outside(), count.max(1)))?;
        site.end()
    });
}

/// Datagrams of fifty thousand flows, the ends of each made of its number.
fn datagrams(
    host: &Host,
    what: &str,
    ends: impl Fn(u16, Ipv4Addr) -> (SocketAddr, SocketAddr),
) -> Result<()> {
    let site = Site::new(host)?;
    let wire = Wire::open(&site.guest)?;
    let mut count: u16 = 0;
    suffers(&site, what, || {
        for _ in 0..TURN {
            count = (count + 1) % 50_000;
            let (from, to) = ends(1024 + count, wire.own);
            wire.datagram(from, to, b"hello")?;
        }
        Ok(TURN)
    })?;
    site.end()
}

#[test]
fn datagrams_of_fifty_thousand_flows() {
    lab::run(|host| {
        datagrams(host, "datagrams of 50000 flows", |port, own| {
            let to = if port.is_multiple_of(2) {
                at(outside(), 9)
            } else {
                at(SILENT, 9)
            };
            (at(own, port), to)
        })
    });
}

/// All from one port, to everybody: sockets of one port are a list to the kernel.
#[test]
fn datagrams_from_one_port() {
    lab::run(|host| {
        datagrams(host, "datagrams from one port", |port, own| {
            (at(own, 5000), at(SILENT, port))
        })
    });
}

#[test]
fn sources_that_are_not_the_guests() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let wire = Wire::open(&site.guest)?;
        let mut random = Random(2);
        suffers(&site, "spoofed sources", || {
            for turn in 0..TURN {
                let address = Ipv4Addr::from_bits(u32::from(random.word()) << 16 | 0x0a01);
                let (from, to) = (at(address, random.word()), at(outside(), random.word()));
                if turn.is_multiple_of(2) {
                    wire.syn(from, to)?;
                } else {
                    wire.datagram(from, to, b"hello")?;
                }
            }
            Ok(TURN)
        })?;
        site.end()
    });
}

#[test]
fn fragments_that_never_become_whole() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let wire = Wire::open(&site.guest)?;
        let mut random = Random(3);
        suffers(&site, "fragments", || {
            for _ in 0..TURN {
                let payload = vec![0; 1400];
                let fragment = ip::Fragment {
                    id: u32::from(random.word()),
                    offset: (random.word() % 8000) & 0xfff8,
                    more: true,
                };
                let (from, to) = (wire.own.into(), outside().into());
                let len = payload.len();
                let headers = build::fragment(&wire.link, from, to, ip::UDP, 64, len, fragment);
                wire.send(&[headers.as_bytes(), &payload].concat())?;
            }
            Ok(TURN)
        })?;
        site.end()
    });
}

#[test]
fn questions_for_every_neighbour() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let wire = Wire::open(&site.guest)?;
        let mut random = Random(4);
        suffers(&site, "ARP and neighbour discovery", || {
            for _ in 0..TURN / 2 {
                let message = arp::Message {
                    operation: Operation::Request,
                    sender_mac: wire.link.source,
                    sender: wire.own,
                    target_mac: [0; 6],
                    target: Ipv4Addr::from_bits(u32::from(random.word()) | 0x0a0a_0000),
                };
                wire.send(build::arp(&wire.link, message).as_bytes())?;
                let mut solicitation = vec![135, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0];
                solicitation.extend(random.next().to_le_bytes());
                solicitation.extend([0, 9]);
                let (head, rest) = solicitation.split_at(icmp::LEN);
                let from = "fe80::7".parse()?;
                let to = "ff02::1:ff00:9".parse()?;
                let headers = build::icmp(&wire.link, from, to, 255, head, rest);
                wire.send(&[headers.as_bytes(), rest].concat())?;
            }
            Ok(TURN)
        })?;
        site.end()
    });
}

/// Somebody guesses numbers of a connection that is not his (RFC 5961). It is silent, so that nothing but its own
/// numbers protects it.
#[test]
fn guesses_at_numbers() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let wire = Wire::open(&site.guest)?;
        let listener = site.listen(Way::Out4, 1)?;
        let (guest, far) = site.connect(Way::Out4, &listener)?;
        let (from, to) = (guest.local_addr()?, guest.peer_addr()?);
        let mut number: u32 = 0;
        suffers(&site, "guessed numbers", || {
            for turn in 0..TURN {
                number = number.wrapping_add(60_001);
                let flags = [Flags::RST, Flags::SYN, Flags::ACK, Flags::ACK | Flags::FIN];
                let flags = flags[usize::try_from(turn % 4)?];
                let payload: &[u8] = if turn % 8 == 2 { b"evil" } else { b"" };
                let header = Header {
                    sequence: number,
                    acknowledgement: number.wrapping_mul(3),
                    flags,
                    window: 100,
                    ..Header::default()
                };
                wire.segment(from, to, header, payload)?;
            }
            Ok(TURN)
        })?;
        converse(guest, far)?;
        site.end()
    });
}

/// A connection that was let alone works.
fn converse(mut guest: TcpStream, mut far: TcpStream) -> Result<()> {
    use std::io::{Read, Write};
    let mut heard = [0; 5];
    guest.write_all(b"hello")?;
    far.read_exact(&mut heard)?;
    ensure!(&heard == b"hello", "{heard:?}");
    far.write_all(b"world")?;
    guest.read_exact(&mut heard)?;
    ensure!(&heard == b"world", "{heard:?}");
    Ok(())
}

#[test]
fn segments_of_a_byte() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let wire = Wire::open(&site.guest)?;
        let listener = site.listen(Way::Out4, 1)?;
        let mut connection = wire.connect(at(outside(), OUTSIDE_PORT + 1), 2000, 1)?;
        let (far, _) = listener.accept()?;
        let sender = far.try_clone()?;
        thread::scope(|scope| {
            scope.spawn(|| {
                use std::io::Write;
                let mut to = &sender;
                while to.write_all(&[1; 10_000]).is_ok() {}
            });
            let result = suffers(&site, "segments of a byte", || {
                for _ in 0..TURN / 100 {
                    // It announced segments of one byte, and sends such.
                    connection.takes(u16::MAX)?;
                    for _ in 0..100 {
                        connection.says(Flags::ACK, u16::MAX, b"x")?;
                        connection.next = connection.next.wrapping_add(1);
                    }
                }
                Ok(TURN)
            });
            far.shutdown(std::net::Shutdown::Both)?;
            result
        })?;
        site.end()
    });
}

/// Guests that ask for much and read nothing.
#[test]
fn guests_that_do_not_read() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let listener = site.listen(Way::Out4, 1)?;
        let pairs: Result<Vec<_>> = (0..sized(100, 400))
            .map(|_| site.connect(Way::Out4, &listener))
            .collect();
        let pairs = pairs?;
        fill(pairs.iter().map(|(_, far)| far))?;
        suffers(&site, "guests that do not read", || {
            thread::sleep(crate::wire::ATTACK);
            Ok(0)
        })?;
        drop(pairs);
        site.end()
    });
}

/// Peers that read nothing of what the guest sends: what is kept for them is kept of a common store.
#[test]
fn peers_that_do_not_read() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let listener = site.listen(Way::Out4, 1)?;
        let pairs: Result<Vec<_>> = (0..sized(300, 600))
            .map(|_| site.connect(Way::Out4, &listener))
            .collect();
        let pairs = pairs?;
        fill(pairs.iter().map(|(guest, _)| guest))?;
        suffers(&site, "peers that do not read", || {
            thread::sleep(crate::wire::ATTACK);
            Ok(0)
        })?;
        drop(pairs);
        site.end()
    });
}

/// Write until nothing more goes in.
fn fill<'a>(streams: impl Iterator<Item = &'a TcpStream> + Clone) -> Result<()> {
    use std::io::Write;
    for stream in streams.clone() {
        stream.set_nonblocking(true)?;
    }
    for _ in 0..4 {
        for mut stream in streams.clone() {
            while stream.write(&[1; 64 << 10]).is_ok() {}
        }
        thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(())
}
