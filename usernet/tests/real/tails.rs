//! What comes after much on one connection: a last byte, an answer, an end, urgent data. Nothing of it waits for more.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, send};
use test_fixtures::lab;

use crate::effort::{full, sized, tell};
use crate::site::{Site, Way};

/// Those in which bytes go from socket to socket, and one by the tap.
const WAYS: [Way; 3] = [Way::SpliceIn4, Way::SpliceOut4, Way::In4];

/// One connection of each way, from either end.
fn everywhere(test: impl Fn(&mut TcpStream, &mut TcpStream, &str) -> Result<()> + Copy + 'static) {
    lab::run(move |host| {
        let site = Site::new(host)?;
        for way in WAYS {
            for up in [true, false] {
                let (mut guest, mut far) = site.pair(way)?;
                for stream in [&guest, &far] {
                    stream.set_nodelay(true)?;
                }
                let (from, to, what) = if up {
                    (&mut guest, &mut far, format!("{way:?} up"))
                } else {
                    (&mut far, &mut guest, format!("{way:?} down"))
                };
                test(from, to, &what).context(what)?;
            }
        }
        Ok(())
    });
}

/// So much is passed on, and read.
fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> Result<()> {
    let piece = [7; 128 << 10];
    thread::scope(|scope| {
        let giving = scope.spawn(|| {
            let mut left = bytes;
            while left > 0 {
                let len = left.min(piece.len());
                from.write_all(&piece[..len])?;
                left -= len;
            }
            anyhow::Ok(())
        });
        let mut all = vec![0; bytes];
        to.read_exact(&mut all)?;
        ensure!(all == vec![7; bytes], "wrong bytes");
        giving.join().expect("no panic")
    })
}

/// One byte there, one byte back; how long that took.
fn exchange(from: &mut TcpStream, to: &mut TcpStream) -> Result<Duration> {
    let begin = Instant::now();
    let mut byte = [0];
    from.write_all(&[1])?;
    to.read_exact(&mut byte)?;
    to.write_all(&byte)?;
    from.read_exact(&mut byte)?;
    Ok(begin.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_byte_after_much() {
    everywhere(|from, to, what| {
        let mut times = Vec::new();
        for round in 0..sized(10, 200) {
            pass(from, to, 10_000_000)?;
            // At once, and when everything has come to rest.
            thread::sleep(Duration::from_micros(700) * (round % 5));
            let begin = Instant::now();
            from.write_all(&[9])?;
            let mut byte = [0];
            to.read_exact(&mut byte)?;
            ensure!(byte == [9]);
            times.push(begin.elapsed());
        }
        let longest = times.iter().copied().max().unwrap_or_default();
        tell(&format!(
            "{what}: a byte after 10 MB: median {:?}, longest {longest:?}",
            median(times)
        ));
        Ok(())
    });
}

/// Questions and answers are as quick as before, which is judged on a machine of our own.
#[test]
fn answers_after_much() {
    everywhere(|from, to, what| {
        let ask = |from: &mut TcpStream, to: &mut TcpStream| -> Result<Duration> {
            let times: Result<_> = (0..300).map(|_| exchange(from, to)).collect();
            Ok(median(times?))
        };
        ask(from, to)?;
        let before = ask(from, to)?;
        pass(from, to, sized(20_000_000, 1_000_000_000))?;
        let after = ask(from, to)?;
        tell(&format!(
            "{what}: an answer {before:?} before, {after:?} after much"
        ));
        ensure!(
            !full() || after < 10 * before,
            "{before:?} before, then {after:?}"
        );
        Ok(())
    });
}

/// The end of one direction is an end at once, and the other direction goes on.
#[test]
fn an_end_after_much() {
    everywhere(|from, to, _| {
        pass(from, to, 20_000_000)?;
        from.write_all(b"last")?;
        from.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        to.read_to_end(&mut rest)?;
        ensure!(rest == b"last", "{rest:?}");
        pass(to, from, 20_000_000)?;
        to.write_all(b"back")?;
        to.shutdown(Shutdown::Write)?;
        rest.clear();
        from.read_to_end(&mut rest)?;
        ensure!(rest == b"back", "{rest:?}");
        Ok(())
    });
}

/// Urgent bytes are bytes: between others, as the last ones, and with nothing behind them for a while.
#[test]
fn urgent_bytes_after_much() {
    everywhere(|from, to, _| {
        pass(from, to, 20_000_000)?;
        thread::scope(|scope| {
            let saying = scope.spawn(|| {
                let mut said = Vec::new();
                for round in 0..20_u8 {
                    let piece = vec![round; 1 + 20_000 * usize::from(round)];
                    from.write_all(&piece)?;
                    send(from.as_raw_fd(), b"URGENT", MsgFlags::MSG_OOB)?;
                    said.extend(piece);
                    said.extend(b"URGENT");
                    thread::sleep(Duration::from_millis(u64::from(round % 3)));
                }
                from.shutdown(Shutdown::Write)?;
                anyhow::Ok(said)
            });
            let mut heard = Vec::new();
            to.read_to_end(&mut heard)?;
            let said = saying.join().expect("no panic")?;
            ensure!(heard == said, "{} bytes of {}", heard.len(), said.len());
            Ok(())
        })
    });
}
