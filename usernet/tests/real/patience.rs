//! Programs that are slow, chatty or silent: nobody waits for anybody who does not wait.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use test_fixtures::lab;

use crate::effort::{STALL, full, sized, tell};
use crate::site::{Site, Way};
use crate::stream::{Meter, Passed, give, take};

/// Both ends of each direction of each way, to be called `speaker` and `listener`.
fn each(
    body: impl Fn(&mut TcpStream, &mut TcpStream, &str) -> Result<()>,
) -> impl Fn(&Site<'_>) -> Result<()> {
    move |site| {
        for way in Way::ALL {
            let (mut guest, mut far) = site.pair(way)?;
            body(&mut guest, &mut far, &format!("{way:?}, guest to host"))?;
            let (mut guest, mut far) = site.pair(way)?;
            body(&mut far, &mut guest, &format!("{way:?}, host to guest"))?;
        }
        Ok(())
    }
}

fn judge(what: &str, passed: &Passed, own: Duration) -> Result<()> {
    tell(&format!("{what}: longest pause {:?}", passed.pause));
    ensure!(!full() || passed.pause < own + STALL, "{what}: {passed:?}");
    Ok(())
}

/// A request in two small writes with Nagle's algorithm on, and a small answer: the second write waits for the
/// acknowledgement of the first.
#[test]
fn two_small_writes_and_an_answer() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let rounds = sized(8, 200);
        each(|caller, callee, what| {
            thread::scope(|scope| {
                let answering = scope.spawn(|| -> Result<()> {
                    let mut request = [0; 200];
                    for _ in 0..rounds {
                        callee.read_exact(&mut request)?;
                        callee.write_all(b"answer")?;
                    }
                    Ok(())
                });
                let mut times = Vec::new();
                for _ in 0..rounds {
                    let begin = Instant::now();
                    caller.write_all(&[1; 100])?;
                    caller.write_all(&[2; 100])?;
                    caller.read_exact(&mut [0; 6])?;
                    times.push(begin.elapsed());
                }
                answering.join().expect("no panic")?;
                times.sort_unstable();
                let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
                tell(&format!(
                    "{what}: write, write, read: median {median:?}, worst {worst:?}"
                ));
                ensure!(!full() || worst < STALL, "{what}: {worst:?}");
                Ok(())
            })
        })(&site)
    });
}

/// Bursts with silence between them.
#[test]
fn a_speaker_in_bursts() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let (bursts, silence) = (sized(3, 20), Duration::from_millis(sized(20, 100)));
        each(|speaker, listener, what| {
            let nobody = Meter::default();
            for size in [1_000, 70_000, 1_000_000] {
                thread::scope(|scope| {
                    let hearing = scope.spawn(|| take(listener, 3, size * bursts, &nobody));
                    let mut slow = Bursts {
                        stream: speaker,
                        left: size,
                        size,
                        silence,
                    };
                    give(&mut slow, 3, size * bursts, &nobody)?;
                    let heard = hearing.join().expect("no panic")?;
                    ensure!(heard.bytes == size * bursts, "{what}: {heard:?}");
                    judge(&format!("{what}: bursts of {size}"), &heard, silence)
                })?;
            }
            Ok(())
        })(&site)
    });
}

struct Bursts<'a> {
    stream: &'a mut TcpStream,
    left: u64,
    size: u64,
    silence: Duration,
}

impl Write for Bursts<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            thread::sleep(self.silence);
            self.left = self.size;
        }
        let most = bytes
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let written = self.stream.write(&bytes[..most])?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A reader that takes a little now and then, with an ordinary buffer and with a tiny one: the window opens and closes
/// all the time.
#[test]
fn a_slow_reader() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let nap = Duration::from_millis(5);
        for buffer in [None, Some(4 << 10)] {
            let piece = if buffer.is_some() { 4 << 10 } else { 256 << 10 };
            let bytes = piece * sized(10, 300);
            each(|speaker, listener, what| {
                if let Some(buffer) = buffer {
                    setsockopt(&*listener, sockopt::RcvBuf, &buffer)?;
                }
                let nobody = Meter::default();
                thread::scope(|scope| {
                    let speaking = scope.spawn(|| give(speaker, 4, bytes, &nobody));
                    let mut slow = Slow {
                        stream: listener,
                        piece: usize::try_from(piece)?,
                        left: 0,
                        nap,
                    };
                    let heard = take(&mut slow, 4, bytes, &nobody)?;
                    speaking.join().expect("no panic")?;
                    ensure!(heard.bytes == bytes, "{what}: {heard:?}");
                    judge(
                        &format!("{what}: slow reader, buffer {buffer:?}"),
                        &heard,
                        nap,
                    )
                })
            })(&site)?;
        }
        Ok(())
    });
}

struct Slow<'a> {
    stream: &'a mut TcpStream,
    piece: usize,
    left: usize,
    nap: Duration,
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            thread::sleep(self.nap);
            self.left = self.piece;
        }
        let most = buffer.len().min(self.left);
        let got = self.stream.read(&mut buffer[..most])?;
        self.left -= got;
        Ok(got)
    }
}

/// Silence, with and without keep-alive probes of the programs' own kernels, and then a word from either end.
#[test]
fn a_long_silence() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let silence = sized(Duration::from_secs(4), Duration::from_secs(130));
        let mut connections = Vec::new();
        for way in Way::ALL {
            for (port, alive) in [(0, false), (1, true)] {
                let listener = site.listen(way, port)?;
                let (guest, far) = site.connect(way, &listener)?;
                if alive {
                    keep_alive(&guest)?;
                    keep_alive(&far)?;
                }
                connections.push((format!("{way:?}, keep-alive: {alive}"), guest, far));
            }
        }
        let held = site.us.holds()?;
        thread::sleep(silence);
        for (what, mut guest, mut far) in connections {
            let begin = Instant::now();
            exchange(&mut guest, &mut far).with_context(|| format!("{what}, guest to host"))?;
            exchange(&mut far, &mut guest).with_context(|| format!("{what}, host to guest"))?;
            let took = begin.elapsed();
            tell(&format!(
                "{what}: silent for {silence:?}, then two words in {took:?}"
            ));
            ensure!(!full() || took < STALL, "{what}: {took:?}");
        }
        tell(&format!("silent with {held:?}"));
        Ok(())
    });
}

fn keep_alive(stream: &TcpStream) -> Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &1)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &1)?;
    Ok(setsockopt(stream, sockopt::TcpKeepCount, &2)?)
}

fn exchange(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    from.write_all(b"word")?;
    let mut word = [0; 4];
    to.read_exact(&mut word)?;
    ensure!(word == *b"word");
    Ok(())
}
