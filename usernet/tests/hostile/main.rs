//! A guest, or a peer, that means harm, and the executable between them.
//!
//! The guest has raw sockets. What it does is done beside two streams that work: they go on, descriptors and memory stay
//! within bounds, and afterwards everything works. How much of their throughput is left is printed with
//! `USERNET_EFFORT=full`, and judged if this is built with optimisation.
#![expect(
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "these tests are about the operating system, and print rates"
)]

#[expect(dead_code, reason = "others use more of it")]
#[path = "../real/effort.rs"]
mod effort;
#[expect(dead_code, reason = "others use more of it")]
#[path = "../events/model/mod.rs"]
mod model;
#[expect(dead_code, reason = "others use more of it")]
#[path = "../real/site.rs"]
mod site;

mod guest;
mod peer;
mod victim;
mod wire;

/// For people.
fn say(line: &str) {
    effort::tell(line);
}
