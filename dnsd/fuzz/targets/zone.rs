//! Any bytes as a zone file: nothing panics, every name is found again, and a file that has grown by lines is what it
//! would be if it were read at once.
#![no_main]

use std::collections::BTreeSet;

use dnsd::load::{Files, Stamp};

fn stamp(size: usize) -> Stamp {
    Stamp {
        size: size as u64,
        ..Stamp::default()
    }
}

/// Names and addresses of all networks.
fn told(files: &Files) -> BTreeSet<String> {
    let zones = files.zones();
    let networks = zones.networks().iter();
    let lines = networks.flat_map(|network| {
        network.names().map(|name| {
            assert_eq!(network.find(network.name_of(name)), Some(name));
            let (v4, v6) = (network.ipv4(name), network.ipv6(name));
            format!("{:?} {v4:?} {v6:?}", network.name_of(name))
        })
    });
    lines.collect()
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    const OLD: i128 = 1 << 60;
    let mut whole = Files::default();
    whole.take("n", stamp(input.len()), OLD, input);
    let expected = told(&whole);
    let ends = input.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    if let Some((end, _)) = ends.last().filter(|(end, _)| end + 1 == input.len()) {
        let half = input[..end].iter().rposition(|byte| *byte == b'\n');
        if let Some(half) = half {
            let mut grown = Files::default();
            grown.take("n", stamp(half + 1), OLD, &input[..=half]);
            grown.take("n", stamp(input.len()), OLD, input);
            assert_eq!(told(&grown), expected);
        }
    }
});
