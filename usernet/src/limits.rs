//! Every bound, with its unit and its reason.

use std::time::Duration;

/// Neighbours of the host's link whose link-layer addresses are kept for ARP and neighbour discovery. As many as the
/// kernel keeps before it thinks about taking some away (`gc_thresh3`).
pub const NEIGHBOURS: usize = 1024;

/// Options area of a DHCP reply, bytes. What a client takes that says nothing is less (RFC 2131, 2: 312).
pub const DHCP_OPTIONS: usize = 576;

/// Between two router advertisements that nobody asked for (RFC 4861, 6.2.1: `MinRtrAdvInterval` and
/// `MaxRtrAdvInterval`).
pub const ADVERTISEMENT_PAUSE: (Duration, Duration) =
    (Duration::from_secs(200), Duration::from_secs(600));
