//! Counters on standard error (`--stats`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::attached::{run, wait_for};

/// The numbers of a line: in all, and in the last interval.
fn numbers(line: &str) -> Option<[u64; 2]> {
    let mut words = line.split_whitespace().rev();
    let (last, all) = (words.next()?, words.next()?);
    Some([all.parse().ok()?, last.parse().ok()?])
}

/// One table, and the next.
fn table(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Result<Vec<String>> {
    let mut table = Vec::new();
    for line in lines {
        let line = line?;
        if line.starts_with("counted in") && !table.is_empty() {
            return Ok(table);
        }
        table.push(line);
    }
    anyhow::bail!("the output ends: {table:?}")
}

#[test]
fn traffic_is_counted() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let far = outside.enter(|| Ok(TcpListener::bind("192.0.2.2:7000")?))?;
        let inside = guest.enter(|| Ok(TcpListener::bind("[::]:80")?))?;
        let file = host.dir("stats")?.join("pid");
        let mut us = Command::new(env!("CARGO_BIN_EXE_usernet"))
            .args([
                "--foreground",
                "--stats",
                "1",
                "--config-net",
                "--no-map-gw",
            ])
            .args([
                "--quiet", "-t", "8080:80", "-u", "none", "-T", "none", "-U", "none",
            ])
            .arg("--pid")
            .arg(&file)
            .arg("--netns")
            .arg(guest.path())
            .stderr(Stdio::piped())
            .spawn()?;
        wait_for("the pid file is written", || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        })?;
        let mut lines = BufReader::new(us.stderr.take().context("piped")?).lines();

        // By the tap: 100000 bytes there, 7 back.
        let mut stream = guest.enter(|| Ok(TcpStream::connect("192.0.2.2:7000")?))?;
        let (mut accepted, _) = far.accept()?;
        let answer = std::thread::spawn(move || -> Result<()> {
            accepted.read_exact(&mut vec![0; 100_000])?;
            Ok(accepted.write_all(b"goodbye")?)
        });
        stream.write_all(&[7; 100_000])?;
        stream.read_exact(&mut [0; 7])?;
        answer.join().expect("the server panicked")?;
        // Nobody there: refused, by our own answer.
        guest.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(b"three", "192.0.2.2:7001")?;
            Ok(())
        })?;
        // By the splice: 4 bytes in.
        let mut near = host.enter(|| Ok(TcpStream::connect("127.0.0.1:8080")?))?;
        let (mut spliced, _) = inside.accept()?;
        near.write_all(b"four")?;
        spliced.read_exact(&mut [0; 4])?;

        let first = table(&mut lines)?;
        ensure!(first[0].starts_with("counted in"), "{first:?}");
        let expected = [
            ("flows made    tcp ", 1),
            ("              tcp splice ", 1),
            ("              udp ", 1),
            ("              tcp bytes ", 100_000),
            ("              datagrams ", 1),
            ("              tcp splice bytes ", 4),
        ];
        // The kernels have their time to acknowledge.
        let mut last = first;
        for _ in 0..10 {
            let found = |(name, number): &(&str, u64)| {
                let mut named = last.iter().filter(|line| line.starts_with(name));
                named.any(|line| numbers(line).is_some_and(|[all, _]| all == *number))
            };
            if expected.iter().all(found) {
                us.kill()?;
                us.wait()?;
                return Ok(());
            }
            last = table(&mut lines)?;
        }
        us.kill()?;
        anyhow::bail!("not counted: {last:#?}")
    });
}
