//! Any frames, byte by byte.
#![no_main]

#[path = "../../tests/events/model/mod.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|input: &[u8]| model::packets(input));
