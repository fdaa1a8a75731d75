//! Packets: reading them where they lie, and making their headers.
//!
//! Each layer has a module with a `parse` function, which takes the bytes that the layer below left over and returns a
//! plain value with the layer's meaning and what is left over for the layer above. A value that exists is well formed:
//! lengths fit, impossible combinations are gone. What is wrong is told as a [`crate::event::Drop`], which is an outcome
//! to count, not an error.
//!
//! ```text
//!   eth::parse(frame) ─▶ arp::parse
//!                     └▶ ip::parse ─▶ tcp::parse        ip::parse stops at a fragment: its payload is no transport
//!                                  ├▶ udp::parse        segment before crate::fragments has made it whole
//!                                  ├▶ icmp::parse
//!                                  └▶ ndp::parse
//! ```
//!
//! Transport checksums are not looked at by `parse`, since a frame that crossed the tap with
//! [`crate::event::Offload::partial_checksum`] has none: [`checksum::fits`] is the other half. The exceptions are the
//! IPv4 header, which the kernel always completes, and ICMP.
//!
//! The other direction is [`build`]: headers in place, to be followed by a payload that need not be at hand.
//!
//! Everything here takes bytes of a hostile guest. No slice is indexed and no sum can overflow; two lints see to it.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod checksum;
pub mod eth;
pub mod arp;
pub mod ip;
pub mod udp;
pub mod tcp;
pub mod icmp;
pub mod ndp;
pub mod group;
pub mod build;

/// A link-layer address.
pub type Mac = [u8; 6];

/// A length as a header has it. What does not fit is nothing we make: the forwarder bounds payloads by the size of an
/// IP packet.
pub(crate) fn length16(length: usize) -> u16 {
    debug_assert!(length <= usize::from(u16::MAX), "{length} bytes");
    u16::try_from(length).unwrap_or(u16::MAX)
}
