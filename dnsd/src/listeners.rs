//! Which addresses to begin and to stop listening on.
//!
//! A listener is known by its address alone: networks that share an address share its sockets, and an address
//! that moves to another network keeps them. Whose it is, is looked up for each query.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// What has to change.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// To be stopped, first.
    pub stop: Vec<IpAddr>,
    /// To be started, IPv4 first.
    pub start: Vec<IpAddr>,
}

/// From what is running to what is wanted.
#[must_use]
pub fn change(wanted: &BTreeSet<IpAddr>, running: &BTreeSet<IpAddr>) -> Change {
    Change {
        stop: running.difference(wanted).copied().collect(),
        start: wanted.difference(running).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_left_alone() {
        let set = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<BTreeSet<IpAddr>>()
        };
        let change = change(
            &set(&["fd::1", "10.0.0.1", "10.0.0.2"]),
            &set(&["10.0.0.2", "10.0.0.3"]),
        );
        assert_eq!(change.stop, ["10.0.0.3".parse::<IpAddr>().unwrap()]);
        let start: Vec<_> = change.start.iter().map(ToString::to_string).collect();
        assert_eq!(start, ["10.0.0.1", "fd::1"]);
    }
}
