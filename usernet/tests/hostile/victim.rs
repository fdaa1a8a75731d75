//! Somebody who only wants to work while others attack: a stream in each direction, and what the forwarder holds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::site::{Holding, Site, Way, wait_for};
use crate::wire::ATTACK;

/// Resident memory that nothing may exceed, kB: what is kept, two hundred bytes for each flow the table may have, and
/// what the kernel is given in between.
const RESIDENT: usize = 160 << 10;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The most that was held.
    pub(crate) most: Holding,
}

struct Stream {
    writes: TcpStream,
    reads: TcpStream,
    passed: AtomicU64,
}

impl Stream {
    fn new((writes, reads): (TcpStream, TcpStream)) -> Self {
        Self {
            writes,
            reads,
            passed: AtomicU64::new(0),
        }
    }

    fn write(&self, over: &AtomicBool) {
        let bytes = vec![5; 128 << 10];
        let mut to = &self.writes;
        while !over.load(Relaxed) && to.write_all(&bytes).is_ok() {}
        self.writes.shutdown(std::net::Shutdown::Write).ok();
    }

    fn read(&self) -> Result<()> {
        let mut room = vec![0; 256 << 10];
        let mut from = &self.reads;
        loop {
            let len = from.read(&mut room).context("the victim's stream")?;
            if len == 0 {
                return Ok(());
            }
            ensure!(room[..len].iter().all(|&byte| byte == 5), "other bytes");
            self.passed.fetch_add(len as u64, Relaxed);
        }
    }
}

/// Attack again and again for a while, beside two streams. They survive and carry what they are given, nothing grows
/// beyond its bounds, and afterwards everything works.
pub(crate) fn suffers(
    site: &Site<'_>,
    what: &str,
    mut attack: impl FnMut() -> Result<u64>,
) -> Result<Seen> {
    let up = Stream::new(site.pair(Way::Out4)?);
    let (guest, far) = site.pair(Way::In4)?;
    let down = Stream::new((far, guest));
    let before = site.us.holds()?;
    let over = AtomicBool::new(false);
    let mut most = before;
    thread::scope(|scope| -> Result<()> {
        let streams = [&up, &down];
        let readers = streams.map(|stream| scope.spawn(|| stream.read()));
        for stream in streams {
            scope.spawn(|| stream.write(&over));
        }
        let rates = |begin: Instant, from: [u64; 2]| {
            let now = streams.map(|stream| stream.passed.load(Relaxed));
            let seconds = begin.elapsed().as_secs_f64();
            [0, 1].map(|way| (now[way] - from[way]) as f64 / seconds / 1e6)
        };
        let counts = || streams.map(|stream| stream.passed.load(Relaxed));
        let result = (|| {
            thread::sleep(Duration::from_millis(300));
            let (begin, from) = (Instant::now(), counts());
            thread::sleep(ATTACK);
            let calm = rates(begin, from);
            let (begin, from) = (Instant::now(), counts());
            let mut done = 0;
            while begin.elapsed() < ATTACK {
                done += attack()?;
                let now = site.us.holds()?;
                most.descriptors = most.descriptors.max(now.descriptors);
                most.resident = most.resident.max(now.resident);
            }
            let seconds = begin.elapsed().as_secs_f64();
            let attacked = rates(begin, from);
            ensure!(
                attacked.iter().all(|&rate| rate > 0.0),
                "{what}: a stream stands still"
            );
            // Half is what they shall keep, and a fifth of that is for what machines do otherwise. Small runs judge no busy
            // machine, nor do unoptimised ones, whose streams wait for themselves.
            if crate::effort::full() && !cfg!(debug_assertions) {
                ensure!(
                    attacked[0] + attacked[1] > 0.4 * (calm[0] + calm[1]),
                    "{what}: MB/s up and down: {calm:.0?} before, {attacked:.0?} meanwhile"
                );
            }
            crate::say(&format!(
                "{what:32} {:9.0}/s  up {:5.0} MB/s x{:.2}  down {:5.0} MB/s x{:.2}  {} descriptors, {} kB",
                done as f64 / seconds,
                attacked[0],
                attacked[0] / calm[0],
                attacked[1],
                attacked[1] / calm[1],
                most.descriptors,
                most.resident,
            ));
            Ok(())
        })();
        over.store(true, Relaxed);
        for reader in readers {
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("a reader panics"))??;
        }
        result
    })?;
    ensure!(site.us.lives(), "{what}: it has ended");
    ensure!(most.resident < RESIDENT, "{what}: {most:?}");
    works(site).with_context(|| format!("after {what}"))?;
    Ok(Seen { most })
}

/// New connections of every kind.
pub(crate) fn works(site: &Site<'_>) -> Result<()> {
    for way in Way::ALL {
        let mut tried = None;
        // The guest's own table of neighbours, or the backlog of a listener, may still be full of the attack.
        wait_for(&format!("{way:?} works"), || {
            let result = talk(site, way);
            let good = result.is_ok();
            tried = result.err();
            good
        })
        .with_context(|| format!("{tried:?}"))?;
    }
    Ok(())
}

fn talk(site: &Site<'_>, way: Way) -> Result<()> {
    let (mut guest, mut far) = site.pair(way)?;
    guest.write_all(b"question")?;
    far.read_exact(&mut [0; 8])?;
    far.write_all(b"answer")?;
    guest.read_exact(&mut [0; 6])?;
    Ok(())
}
