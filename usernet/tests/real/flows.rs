//! What becomes of a connection when one end is done, busy, or gone.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use test_fixtures::lab;

use crate::effort::{STALL, full, sized, tell};
use crate::site::{POOL, Site, Way, wait_for};
use crate::stream::{Meter, give, take, take_on};

/// More than a window, less than all buffers on the way.
const SOME: u64 = 3 << 20;

/// Say everything, close that half, and hear an answer of the other half afterwards.
fn half_close(first: &mut TcpStream, second: &mut TcpStream) -> Result<()> {
    let nobody = Meter::default();
    thread::scope(|scope| {
        let speaking = scope.spawn(|| {
            give(first, 1, SOME, &nobody)?;
            first.shutdown(Shutdown::Write)?;
            take(first, 2, u64::MAX, &nobody)
        });
        let heard = take(second, 1, u64::MAX, &nobody)?;
        ensure!(heard.bytes == SOME, "{heard:?}");
        // The other half stays open however long it is silent.
        thread::sleep(Duration::from_millis(300));
        give(second, 2, SOME, &nobody)?;
        second.shutdown(Shutdown::Write)?;
        let answer = speaking.join().expect("no panic")?;
        ensure!(answer.bytes == SOME, "{answer:?}");
        Ok(())
    })
}

#[test]
fn either_end_may_be_done_first() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let before = site.us.holds()?.descriptors;
        for way in Way::ALL {
            let (mut guest, mut far) = site.pair(way)?;
            half_close(&mut guest, &mut far).with_context(|| format!("{way:?}, the guest"))?;
            let (mut guest, mut far) = site.pair(way)?;
            half_close(&mut far, &mut guest).with_context(|| format!("{way:?}, the host"))?;
        }
        site.us.lets_go(before + POOL)
    });
}

/// One half ends while the other one is busy.
#[test]
fn one_half_ends_while_the_other_is_busy() {
    lab::run(|host| {
        let site = Site::new(host)?;
        for way in Way::ALL {
            let (guest, far) = site.pair(way)?;
            let nobody = Meter::default();
            let both = [(&guest, &far, 1, 1 << 10), (&far, &guest, 2, 24 << 20)];
            thread::scope(|scope| {
                let threads = both.map(|(mut from, mut to, key, bytes)| {
                    let nobody = &nobody;
                    let giving = scope.spawn(move || {
                        give(&mut from, key, bytes, nobody)?;
                        from.shutdown(Shutdown::Write)?;
                        anyhow::Ok(())
                    });
                    let taking = scope.spawn(move || take(&mut to, key, u64::MAX, nobody));
                    (giving, taking, bytes)
                });
                for (giving, taking, bytes) in threads {
                    giving.join().expect("no panic")?;
                    let taken = taking.join().expect("no panic")?;
                    ensure!(taken.bytes == bytes, "{way:?}: {taken:?}");
                }
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// What one direction of one connection did while its reader slept, and after.
fn stop_and_resume(mut from: &TcpStream, mut to: &TcpStream, what: &str) -> Result<()> {
    let bytes = sized(32 << 20, 256 << 20);
    if !full() {
        setsockopt(&from, sockopt::SndBuf, &(64 << 10))?;
        setsockopt(&to, sockopt::RcvBuf, &(64 << 10))?;
    }
    let sleep = sized(Duration::from_secs(3), Duration::from_secs(60));
    let (given, taken) = (Meter::default(), Meter::default());
    thread::scope(|scope| {
        let giving = scope.spawn(|| {
            let passed = give(&mut from, 5, bytes, &given)?;
            from.shutdown(Shutdown::Write)?;
            anyhow::Ok(passed)
        });
        let first = take(&mut to, 5, 1 << 20, &taken)?;
        thread::sleep(sleep);
        let before = given.bytes();
        ensure!(
            before < bytes,
            "{what}: buffers hold everything: nothing stood still"
        );
        let resumed = Instant::now();
        // The stream goes on where it was: its first part was a whole number of pieces.
        let mut rest = Rest {
            stream: to,
            first: None,
        };
        let second = take_on(&mut rest, 5, first.bytes, u64::MAX, &taken)?;
        let end = first.bytes + second.bytes;
        let given = giving.join().expect("no panic")?;
        ensure!(end == bytes && given.bytes == bytes, "{what}: {second:?}");
        let first_byte = rest.first.context("nothing came")? - resumed;
        tell(&format!(
            "{what}: stopped {sleep:?} with {before} bytes under way; first byte after {first_byte:?}, \
             the other {} in {:?}, longest pause {:?}",
            bytes - before,
            resumed.elapsed(),
            second.pause
        ));
        let pause = second.pause.max(first_byte);
        ensure!(!full() || pause < STALL, "{what}: stalls for {pause:?}");
        Ok(())
    })
}

/// Remembers when something came.
struct Rest<'a> {
    stream: &'a TcpStream,
    first: Option<Instant>,
}

impl Read for Rest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.stream.read(buffer)?;
        self.first.get_or_insert_with(Instant::now);
        Ok(got)
    }
}

#[test]
fn a_reader_stops_and_goes_on() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let pairs =
            Way::ALL.map(|way| anyhow::Ok((way, site.pair(way)?, site_pair_again(&site, way)?)));
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for pair in pairs {
                let (way, up, down) = pair?;
                threads.push(scope.spawn(move || {
                    stop_and_resume(&up.0, &up.1, &format!("{way:?}, guest to host"))
                }));
                threads.push(scope.spawn(move || {
                    stop_and_resume(&down.1, &down.0, &format!("{way:?}, host to guest"))
                }));
            }
            for thread in threads {
                thread.join().expect("no panic")?;
            }
            Ok(())
        })
    });
}

/// By another port.
fn site_pair_again(site: &Site<'_>, way: Way) -> Result<(TcpStream, TcpStream)> {
    let listener = site.listen(way, 1)?;
    site.connect(way, &listener)
}

/// A reset, with bytes of the other end under way or without.
#[test]
fn a_program_that_dies_is_told_to_its_peer() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let before = site.us.holds()?.descriptors;
        for way in Way::ALL {
            for guest_dies in [true, false] {
                for busy in [true, false] {
                    let (guest, far) = site.pair(way)?;
                    let (dies, mut lives) = if guest_dies {
                        (guest, far)
                    } else {
                        (far, guest)
                    };
                    let case = format!("{way:?}, the guest dies: {guest_dies}, busy: {busy}");
                    if busy {
                        lives.write_all(&[7; 100_000])?;
                    }
                    let abort = libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    setsockopt(&dies, sockopt::Linger, &abort)?;
                    drop(dies);
                    reset(&mut lives).with_context(|| case)?;
                }
            }
        }
        site.us.lets_go(before + POOL)
    });
}

fn reset(stream: &mut TcpStream) -> Result<()> {
    loop {
        match stream.read(&mut [0; 1000]) {
            Ok(0) => bail!("an end, not a reset"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// All of us are killed: peers on the host's side hear of it from the kernel.
#[test]
fn killed_the_peers_are_told() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let pairs = Way::ALL.map(|way| site.pair(way));
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(site.us.pid),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        wait_for("the daemon is gone", || !site.us.lives())?;
        for pair in pairs {
            let (_guest, mut far) = pair?;
            // The end or a reset: whichever, it does not hang.
            let read = far.read(&mut [0]);
            ensure!(!matches!(read, Ok(1..)), "{read:?}");
            if let Err(error) = read {
                ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
            }
        }
        Ok(())
    });
}

/// The guest's machine goes without a word. Its peer keeps sending; we give the guest up, and say so.
#[test]
fn a_guest_that_vanishes_is_given_up() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let before = site.us.holds()?.descriptors;
        let (guest, mut far) = site.pair(Way::In4)?;
        site.guest.sh("ip link set uplink down")?;
        drop(guest);
        far.write_all(&[7; 1000])?;
        if !full() {
            // About three minutes: here only that nobody is told too early.
            far.set_read_timeout(Some(Duration::from_secs(1)))?;
            let read = far.read(&mut [0]).map_err(|error| error.kind());
            ensure!(read == Err(ErrorKind::WouldBlock), "{read:?}");
            return Ok(());
        }
        far.set_read_timeout(Some(Duration::from_secs(400)))?;
        let begin = Instant::now();
        reset(&mut far)?;
        tell(&format!(
            "a guest that vanished was given up after {:?}",
            begin.elapsed()
        ));
        site.us.lets_go(before + POOL)
    });
}
