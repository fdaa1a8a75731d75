//! The forwarder under events and frames that follow from a seed: what a fuzzer does, for as long as a test may take.
//!
//! `USERNET_EVENTS=100000` sets the number of runs of each kind, `USERNET_EVENTS_SEED=7` does one.
#![expect(clippy::disallowed_methods, reason = "a variable chooses the runs")]

mod model;

use std::ops::Range;

fn runs(usual: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("USERNET_EVENTS_SEED") {
        return seed..seed + 1;
    }
    0..number("USERNET_EVENTS").unwrap_or(usual)
}

/// Bytes that follow from a seed (splitmix64).
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

fn check(seed: u64, input: &[u8], run: fn(&[u8])) {
    let done = std::panic::catch_unwind(|| run(input));
    assert!(done.is_ok(), "USERNET_EVENTS_SEED={seed}: {input:02x?}");
}

#[test]
fn any_events() {
    for seed in runs(1_000) {
        let input = bytes(seed, 64 << (seed % 7));
        check(seed, &input, model::events);
    }
}

#[test]
fn damaged_packets() {
    let seeds = model::seeds();
    for seed in runs(3_000) {
        let chance = bytes(seed, 64);
        let place = usize::from(chance[0]) % seeds.len();
        let mut input = seeds[place].1.clone();
        let next = (place + usize::from(chance[1] % 8)) % seeds.len();
        input.extend(&seeds[next].1[1..]);
        for damage in chance[2..].chunks_exact(4).take(usize::from(chance[3] % 8)) {
            let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % input.len();
            input[at] = damage[2];
        }
        check(seed, &input, model::packets);
    }
}
