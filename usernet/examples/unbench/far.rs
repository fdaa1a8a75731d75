//! A link with a delay, for kernels without netem: two taps and a thread that carries frames from one to the other.
//!
//! Frames keep their virtio headers, so that 64 kB segments cross in one call as they do on a veth, and are cut nowhere.
//! A frame is delivered half a round trip after it was read. Nothing is lost: the rate is kept down where frames are
//! made, by a token bucket on each tap, which holds the sender's TCP back as a network card does. What is on the way is
//! bounded by that rate and the delay.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use test_fixtures::netns::Netns;

/// The near end's address.
pub(crate) const NEAR: &str = "10.98.0.2";
/// The far end's address.
pub(crate) const FAR: &str = "10.98.0.1";

/// Bytes on the way in one direction, at most: several times what the rate allows. More is dropped and told.
const ON_THE_WAY: usize = 256 << 20;
const FRAME_MAX: usize = 66 << 10;

/// The link. Its thread ends when a tap is gone, with the process at the latest.
pub(crate) struct Link {
    /// One way, nanoseconds.
    delay: Arc<AtomicU64>,
}

impl Link {
    /// Connect two namespaces, each end sending so many Mbit/s at most.
    pub(crate) fn new(near: &Netns, far: &Netns, mbit_s: u32) -> Result<Self> {
        let ends = [(near, "n0", NEAR), (far, "f0", FAR)];
        let mut taps = Vec::new();
        for (netns, name, address) in ends {
            taps.push(netns.enter(|| {
                let tap = usernet::sys::tap::create_single(name, Errno::EOPNOTSUPP);
                let tap = tap.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
                Ok(tap.fd)
            })?);
            netns.sh(&format!(
                "ip addr add {address}/24 dev {name}; ip link set {name} up
                 tc qdisc add dev {name} root tbf rate {mbit_s}mbit burst 256kb limit 256mb"
            ))?;
        }
        let delay = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&delay);
        let (far, near) = (taps.pop().context("two")?, taps.pop().context("two")?);
        thread::spawn(move || carry(&near, &far, &told));
        Ok(Self { delay })
    }

    /// From now on, frames that are read need so long there and back.
    pub(crate) fn set_round_trip(&self, time: Duration) {
        let half = u64::try_from(time.as_nanos() / 2).unwrap_or(u64::MAX);
        self.delay.store(half, Ordering::Relaxed);
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    frames: VecDeque<(Instant, Box<[u8]>)>,
    bytes: usize,
}

impl Way {
    /// Take in what the tap has.
    fn read(&mut self, from: &OwnedFd, delay: Duration, buffer: &mut [u8]) -> Result<()> {
        // A bounded share, so that the other direction is not late.
        for _ in 0..32 {
            let len = match nix::unistd::read(from, buffer) {
                Ok(len) => len,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if self.bytes + len > ON_THE_WAY {
                eprintln!("the delaying link dropped a frame");
                continue;
            }
            self.bytes += len;
            let frame = buffer.get(..len).unwrap_or_default();
            self.frames
                .push_back((Instant::now() + delay, frame.into()));
        }
        Ok(())
    }

    /// Deliver what is due, and tell when the next frame is.
    fn deliver(&mut self, to: &OwnedFd) -> Option<Instant> {
        while let Some((due, _)) = self.frames.front() {
            if *due > Instant::now() {
                return Some(*due);
            }
            let (_, frame) = self.frames.pop_front()?;
            self.bytes -= frame.len();
            // A tap that is down takes nothing: so does a cable.
            nix::unistd::write(to, &frame).ok();
        }
        None
    }
}

fn carry(near: &OwnedFd, far: &OwnedFd, delay: &AtomicU64) -> Result<()> {
    // Sleeps end when they should, not up to 50 us later.
    nix::sys::prctl::set_timerslack(1)?;
    let (mut there, mut back) = (Way::default(), Way::default());
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        let next = [there.deliver(far), back.deliver(near)];
        let next = next.into_iter().flatten().min();
        let patience =
            next.map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
        let mut polls = [near, far].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        ppoll(&mut polls, patience, None).ok();
        let [near_ready, far_ready] = polls.map(|poll| poll.any().unwrap_or(false));
        let delay = Duration::from_nanos(delay.load(Ordering::Relaxed));
        if near_ready {
            there.read(near, delay, &mut buffer)?;
        }
        if far_ready {
            back.read(far, delay, &mut buffer)?;
        }
    }
}
