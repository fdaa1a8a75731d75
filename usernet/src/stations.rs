//! Which link-layer address frames for the guest go to.
//!
//! The guest may have several: a bridge over the tap, or a macvlan for each of its own containers. A flow answers where
//! its own frames come from. What has not heard the guest yet (a caller from outside, an announcement) goes where frames
//! with the guest's address came from last, and if none has, where any came from.
//!
//! Both are believed only so quickly ([`crate::heard`]). IP addresses are remembered as long as there is room, and then in the place of a silent one.

use std::net::IpAddr;
use std::time::Instant;

use crate::addr;
use crate::heard::Heard;
use crate::limits;
use crate::packet::{Mac, eth};

/// The guest's link-layer addresses.
#[derive(Debug)]
pub struct Stations {
    /// Of whatever address.
    last: Heard<Mac>,
    /// At most [`limits::STATIONS`], in no order.
    some: Vec<(IpAddr, Heard<Mac>)>,
}

impl Stations {
    /// The guest was given this one, or nothing is known.
    #[must_use]
    pub fn new(given: Option<Mac>) -> Self {
        Self {
            last: Heard::given(given.unwrap_or(eth::BROADCAST)),
            some: Vec::new(),
        }
    }

    /// A frame came from there.
    pub fn hear(&mut self, now: Instant, mac: Mac) {
        if !eth::is_group(mac) {
            self.last.hear(now, mac);
        }
    }

    /// And it had a packet of this address.
    pub fn hear_packet(&mut self, now: Instant, mac: Mac, source: IpAddr) {
        if let Some((_, heard)) = self.some.iter_mut().find(|(known, _)| *known == source) {
            if !eth::is_group(mac) {
                heard.hear(now, mac);
            }
            return;
        }
        if eth::is_group(mac) || !addr::is_unicast(source) || source.is_loopback() {
            return;
        }
        let fresh = (source, Heard::now(now, mac));
        if self.some.len() < limits::STATIONS {
            self.some.push(fresh);
        } else if let Some(place) = self.some.iter().position(|(_, old)| old.is_silent(now)) {
            self.some.swap_remove(place);
            self.some.push(fresh);
        }
    }

    /// Where packets for this address of the guest go.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Mac {
        let known = self.some.iter().find(|(known, _)| *known == address);
        known.map_or(self.last, |(_, heard)| *heard).name
    }

    /// Where the guest is, whatever its address.
    #[must_use]
    pub fn last(&self) -> Mac {
        self.last.name
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FIRST: Mac = [2, 0, 0, 0, 0, 1];
    const SECOND: Mac = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn another_one_is_believed_after_a_silence() {
        let mut stations = Stations::new(None);
        let now = crate::local::tests::start();
        let at = |millis| now + Duration::from_millis(millis);
        assert_eq!(stations.last(), eth::BROADCAST);
        stations.hear(now, FIRST);
        stations.hear_packet(now, FIRST, ip("192.0.2.10"));
        stations.hear(at(199), SECOND);
        stations.hear_packet(at(199), SECOND, ip("192.0.2.10"));
        assert_eq!(stations.last(), FIRST);
        assert_eq!(stations.of(ip("192.0.2.10")), FIRST);
        stations.hear(at(200), SECOND);
        stations.hear_packet(at(200), SECOND, ip("192.0.2.10"));
        assert_eq!(stations.last(), SECOND);
        assert_eq!(stations.of(ip("192.0.2.10")), SECOND);
        stations.hear(at(500), eth::BROADCAST);
        stations.hear_packet(at(500), eth::BROADCAST, ip("192.0.2.10"));
        assert_eq!(stations.last(), SECOND);
        assert_eq!(stations.of(ip("192.0.2.10")), SECOND);
    }

    #[test]
    fn addresses_that_are_in_use_stay_when_there_are_many() {
        let mut stations = Stations::new(Some(FIRST));
        let now = crate::local::tests::start();
        let later = now + limits::SILENCE;
        let place = |n: usize| IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()]);
        for n in 0..limits::STATIONS {
            stations.hear_packet(now, SECOND, place(n));
        }
        stations.hear_packet(now, SECOND, ip("198.51.100.1"));
        assert_eq!(stations.of(ip("198.51.100.1")), FIRST, "there is no room");
        stations.hear_packet(later, SECOND, place(0));
        stations.hear_packet(later, SECOND, ip("198.51.100.1"));
        assert_eq!(stations.of(ip("198.51.100.1")), SECOND);
        assert_eq!(stations.of(place(0)), SECOND);
        assert_eq!(stations.of(place(1)), FIRST, "it has made room");
        assert_eq!(stations.some.len(), limits::STATIONS);
        stations.hear_packet(later, SECOND, ip("0.0.0.0"));
        assert_eq!(stations.of(ip("0.0.0.0")), FIRST);
    }
}
