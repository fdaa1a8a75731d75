//! Stand-in until the core is merged.
use crate::event::{Event, Output};
use std::time::Instant;
/// Decides.
#[derive(Debug)]
pub struct Forwarder;
impl Forwarder {
    /// Take an event.
    pub fn handle(&mut self, _: Instant, _: Event<'_>) {}
    /// Next output.
    pub fn poll(&mut self) -> Option<Output> {
        None
    }
    /// When to wake.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }
}
