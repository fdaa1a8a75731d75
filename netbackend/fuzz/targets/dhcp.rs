//! Bytes that may be packets, calls or a file of leases: whatever they are, nothing happens that must not.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/robust/leases.rs"]
mod leases;

fuzz_target!(|input: &[u8]| {
    if let Err(why) = leases::happen(input) {
        panic!("{why}");
    }
});
