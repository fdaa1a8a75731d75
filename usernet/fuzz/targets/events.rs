//! Any series of events: the frames are made from the choices of the input, the kernel answers as it says.
#![no_main]

#[path = "../../tests/events/model/mod.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|input: &[u8]| model::events(input));
