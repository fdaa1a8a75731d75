//! What `--pcap` writes, read again byte by byte.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use usernet::packet::checksum::fits;
use usernet::packet::{eth, ip, tcp, udp};

use crate::attached::{run, wait_for};
use crate::podman::{heard, server, start, talk};

/// A frame and when it was seen.
struct Frame {
    time: Duration,
    bytes: Vec<u8>,
}

/// Read a capture to its end, which is that of a frame.
fn read(path: &Path) -> Result<Vec<Frame>> {
    let bytes = std::fs::read(path)?;
    let number = |at: usize| {
        let word = bytes.get(at..at + 4).context("cut off")?;
        Ok::<_, anyhow::Error>(u32::from_le_bytes(word.try_into()?))
    };
    ensure!(number(0)? == 0xa1b2_c3d4 && number(20)? == 1);
    let (mut at, mut frames) = (24, Vec::new());
    while at < bytes.len() {
        let (kept, len) = (number(at + 8)?, number(at + 12)?);
        ensure!(kept == len && kept <= number(16)?, "{kept} of {len} bytes");
        let end = at + 16 + kept as usize;
        frames.push(Frame {
            time: Duration::new(number(at)?.into(), number(at + 4)? * 1000),
            bytes: bytes.get(at + 16..end).context("cut off")?.to_vec(),
        });
        at = end;
    }
    Ok(frames)
}

/// Every packet is one that a wire with this MTU carries, and its checksums are right.
fn check(frames: &[Frame], mtu: usize) -> Result<()> {
    for frame in frames.iter().filter(|frame| is_ip(&frame.bytes)) {
        let packet = frame.bytes.get(eth::LEN..).context("short")?;
        let packet = ip::parse(packet).map_err(|why| anyhow::anyhow!("{why:?}: {packet:?}"))?;
        let len = packet.headers.len() + packet.payload.len();
        ensure!(len <= mtu, "{len} bytes, of at most {mtu}");
        ensure!(packet.fragment.is_none());
        let (from, to) = (packet.source, packet.destination);
        if [ip::TCP, ip::UDP].contains(&packet.protocol) {
            ensure!(
                fits(from, to, packet.protocol, packet.payload),
                "{from} to {to}"
            );
        }
    }
    Ok(())
}

fn is_ip(frame: &[u8]) -> bool {
    let kind = frame.get(12..14);
    [eth::IPV4, eth::IPV6]
        .map(|kind| Some(kind.to_be_bytes()))
        .contains(&kind.and_then(|kind| kind.try_into().ok()))
}

/// What was said on each way of each connection, and the datagrams.
#[derive(Default)]
struct Said {
    streams: BTreeMap<(SocketAddr, SocketAddr), (u32, Vec<u8>)>,
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
}

fn said(frames: &[Frame]) -> Said {
    let mut said = Said::default();
    for frame in frames.iter().filter(|frame| is_ip(&frame.bytes)) {
        let packet = ip::parse(&frame.bytes[eth::LEN..]).expect("it was checked");
        let ends = |source, destination| {
            let from = SocketAddr::new(packet.source, source);
            (from, SocketAddr::new(packet.destination, destination))
        };
        if let (ip::UDP, Ok((header, data))) = (packet.protocol, udp::parse(packet.payload)) {
            let (_, to) = ends(header.source, header.destination);
            said.datagrams.push((to, data.to_vec()));
        }
        if let (ip::TCP, Ok((header, _, data))) = (packet.protocol, tcp::parse(packet.payload)) {
            let way = ends(header.source, header.destination);
            if header.flags.has(tcp::Flags::SYN) {
                let first = header.sequence.wrapping_add(1);
                said.streams.insert(way, (first, Vec::new()));
            } else if let Some((first, bytes)) = said.streams.get_mut(&way) {
                // What was sent again is there once.
                if header.sequence.wrapping_sub(*first) as usize == bytes.len() {
                    bytes.extend(data);
                }
            }
        }
    }
    said
}

/// Trains of packets cross the tap; in the capture are the packets, and all of what was said.
#[test]
fn everything_that_crossed_the_tap() {
    run(|host| {
        let outside = host.outside()?;
        for mtu in [1500, 65520] {
            let guest = host.container("guest")?;
            let path = host.dir("captures")?.join(mtu.to_string());
            let file = path.to_string_lossy();
            let begin = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            let daemon = start(
                host,
                guest.path(),
                &["--pcap", &file, "-m", &mtu.to_string()],
            )?;
            let mode = std::fs::metadata(&path)?.permissions().mode();
            ensure!(mode & 0o777 == 0o600, "{mode:o}");
            for address in ["192.0.2.2:7000", "[2001:db8:5::2]:7000"] {
                let far = server(&outside, address)?;
                talk(&guest, address)?;
                heard(far)?;
            }
            let datagrams = exchange_datagrams(&outside, &guest)?;
            // The last round is in the file before anybody sleeps.
            wait_for("all datagrams are in the file", || {
                read(&path).is_ok_and(|frames| said(&frames).datagrams.len() >= 2 * datagrams.len())
            })?;
            let frames = read(&path)?;
            let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            let early = Duration::from_micros(1);
            ensure!(
                frames
                    .iter()
                    .all(|frame| frame.time + early > begin && frame.time <= end)
            );
            ensure!(frames.is_sorted_by_key(|frame| frame.time));
            check(&frames, mtu)?;
            let said = said(&frames);
            let expected: Vec<u8> = (0..251).cycle().take(crate::podman::BYTES).collect();
            let big = said
                .streams
                .values()
                .filter(|(_, bytes)| *bytes == expected);
            ensure!(big.count() == 4, "two connections, each both ways");
            for to in ["192.0.2.2", "192.0.2.1"] {
                let to: IpAddr = to.parse()?;
                let there = said.datagrams.iter().filter(|(at, _)| at.ip() == to);
                ensure!(there.map(|(_, data)| data).eq(&datagrams), "to {to}");
            }
            drop(guest);
            daemon.ended()?;
        }
        Ok(())
    });
}

/// The guest sends datagrams of one size, and gets all of them back at once.
fn exchange_datagrams(
    outside: &test_fixtures::netns::Netns,
    guest: &test_fixtures::netns::Netns,
) -> Result<Vec<Vec<u8>>> {
    let far = outside.enter(|| Ok(UdpSocket::bind("192.0.2.2:7000")?))?;
    let near = guest.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    let datagrams: Vec<Vec<u8>> = (0..30).map(|number| vec![number; 1000]).collect();
    let mut peer = None;
    let mut buffer = [0; 2000];
    for datagram in &datagrams {
        near.send_to(datagram, "192.0.2.2:7000")?;
        peer = Some(far.recv_from(&mut buffer)?.1);
    }
    for datagram in &datagrams {
        far.send_to(datagram, peer.context("nobody called")?)?;
    }
    for _ in &datagrams {
        near.recv(&mut buffer)?;
    }
    Ok(datagrams)
}

#[test]
fn a_file_that_cannot_be_made() {
    run(|host| {
        let guest = host.container("guest")?;
        let words = ["--pcap", "/run/lab/nosuch/file"];
        let finished = crate::podman::call(guest.path(), &words)?;
        ensure!(finished.code() == Some(1), "{finished}");
        let expected = "Couldn't open pcap file /run/lab/nosuch/file: No such file or directory\n";
        ensure!(finished.stderr == expected, "{finished}");
        Ok(())
    });
}
