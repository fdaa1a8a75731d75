//! Bytes that may be a request: it is refused, or its plan is one that can be carried out.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/robust/pure.rs"]
mod pure;

fuzz_target!(|document: &[u8]| {
    if let Err(why) = pure::plan(document) {
        panic!("{why}");
    }
});
