//! Streams whose every byte is known from its place, with hashes of both ends.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// Bytes of one call.
const PIECE: usize = 128 << 10;
/// Bytes that have a stamp at their beginning.
const STAMPED: usize = 1 << 10;

/// What passed one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) bytes: u64,
    pub(crate) hash: String,
    /// The longest time between two calls that moved something; for a reader, one that it spent waiting.
    pub(crate) pause: Duration,
}

/// Bytes so far, for who watches.
#[derive(Debug, Default)]
pub(crate) struct Meter(AtomicU64);

impl Meter {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What all pieces of the stream called `key` look like, but for their stamps.
fn noise(key: u64) -> Vec<u8> {
    let words = (0..PIECE as u64 / 8).map(|place| {
        // SplitMix64: each word by itself, and no two alike.
        let mut z = (key << 48).wrapping_add(place);
        z = z.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    });
    words.flat_map(u64::to_le_bytes).collect()
}

/// The piece of a stream at `at`, a multiple of [`PIECE`]: noise, and now and then its own place in the stream. Copying
/// is cheap in builds for tests, too.
fn fill(noise: &[u8], at: u64, piece: &mut [u8]) {
    piece.copy_from_slice(&noise[..piece.len()]);
    for (stamp, place) in piece.chunks_exact_mut(STAMPED).zip(at / STAMPED as u64..) {
        stamp[..8].copy_from_slice(&place.to_le_bytes());
    }
}

/// The first bytes of a stream.
pub(crate) fn beginning(key: u64, bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    let noise = noise(key);
    for (piece, at) in all.chunks_mut(PIECE).zip((0..).step_by(PIECE)) {
        fill(&noise, at, piece);
    }
    all
}

/// As `sha256sum` prints it.
pub(crate) fn hash_of(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Write so many bytes of a stream.
pub(crate) fn give(to: &mut impl Write, key: u64, bytes: u64, meter: &Meter) -> Result<Passed> {
    let (mut buffer, noise) = (vec![0; PIECE], noise(key));
    let (mut at, mut hash) = (0, Sha256::new());
    let (mut last, mut pause) = (Instant::now(), Duration::ZERO);
    while at < bytes {
        let len = PIECE.min(usize::try_from(bytes - at)?);
        let piece = &mut buffer[..len];
        fill(&noise, at, piece);
        hash.update(&*piece);
        let mut rest = &*piece;
        while !rest.is_empty() {
            let written = to.write(rest).with_context(|| format!("writing at {at}"))?;
            pause = pause.max(last.elapsed());
            last = Instant::now();
            meter.add(written);
            rest = &rest[written..];
        }
        at += len as u64;
    }
    Ok(Passed {
        bytes,
        hash: hex(hash.finalize().as_slice()),
        pause,
    })
}

/// Read and compare so many bytes of a stream, or all to its end.
pub(crate) fn take(from: &mut impl Read, key: u64, most: u64, meter: &Meter) -> Result<Passed> {
    take_on(from, key, 0, most, meter)
}

/// The same from a piece behind its beginning.
pub(crate) fn take_on(
    from: &mut impl Read,
    key: u64,
    start: u64,
    most: u64,
    meter: &Meter,
) -> Result<Passed> {
    let (mut buffer, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    let noise = noise(key);
    let (mut at, mut hash) = (start, Sha256::new());
    let (mut last, mut pause) = (Instant::now(), Duration::ZERO);
    let mut filled = 0;
    loop {
        let room = PIECE.min(usize::try_from(most - at)?) - filled;
        let got = from
            .read(&mut buffer[filled..filled + room])
            .with_context(|| format!("reading at {}", at + filled as u64))?;
        // Who finds all that it asked for has come late itself, on a busy machine: nobody kept it waiting.
        if got < room {
            pause = pause.max(last.elapsed());
        }
        last = Instant::now();
        meter.add(got);
        filled += got;
        let whole = at + filled as u64 == most || got == 0;
        if filled < PIECE && !whole {
            continue;
        }
        fill(&noise, at, &mut expected[..filled]);
        ensure!(
            buffer[..filled] == expected[..filled],
            "wrong bytes behind {at}"
        );
        hash.update(&buffer[..filled]);
        at += filled as u64;
        filled = 0;
        if whole {
            break;
        }
    }
    Ok(Passed {
        bytes: at - start,
        hash: hex(hash.finalize().as_slice()),
        pause,
    })
}
