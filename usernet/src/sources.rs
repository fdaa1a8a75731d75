//! Ports of the host that UDP flows of the guest leave by.
//!
//! The guest's own port, if nobody else has it: another container's forwarder may not have it either, or the answers to
//! one would be heard by the other. So the first flow of a guest's endpoint binds its port alone, and takes another one
//! if it is refused (privileged, or held by a process of the host or by a forwarder). All later flows of that endpoint
//! share what the first one got, so that peers see one port whoever they are; a published port is shared with its
//! listener. The port is given up with the last of the flows.
//!
//! Two flows that share a port differ in the peer. Where translation would make two peers of the guest one of the host,
//! the second flow gets a port of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What flows of the guest have of the host's ports. As many entries as there are flows.
#[derive(Debug, Default)]
pub struct Sources {
    /// By the guest's endpoint, and whether the socket is of IPv6.
    held: BTreeMap<(SocketAddr, bool), Held>,
    pairs: BTreeSet<(u16, SocketAddr)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    port: u16,
    flows: u32,
}

/// The port to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// 0: any.
    pub port: u16,
    /// Another socket of ours has it.
    pub shared: bool,
}

impl Sources {
    /// For a new flow; `published`: the port that leads to the guest's.
    #[must_use]
    pub fn choose(&self, guest: SocketAddr, to: SocketAddr, published: Option<u16>) -> Source {
        let held = self.held.get(&(guest, to.is_ipv6()));
        let known = held.map(|held| held.port).or(published);
        match known {
            Some(port) if self.pairs.contains(&(port, to)) => Source {
                port: 0,
                shared: false,
            },
            Some(port) => Source { port, shared: true },
            None => Source {
                port: guest.port(),
                shared: false,
            },
        }
    }

    /// The flow has a socket with this port.
    pub fn opened(&mut self, guest: SocketAddr, to: SocketAddr, port: u16) {
        if self.pairs.insert((port, to)) {
            let held = self.held.entry((guest, to.is_ipv6()));
            let held = held.or_insert(Held { port, flows: 0 });
            if held.port == port {
                held.flows = held.flows.saturating_add(1);
            }
        }
    }

    /// The flow has ended.
    pub fn closed(&mut self, guest: SocketAddr, to: SocketAddr, port: u16) {
        let key = (guest, to.is_ipv6());
        if self.pairs.remove(&(port, to))
            && let Some(held) = self.held.get_mut(&key)
            && held.port == port
        {
            held.flows = held.flows.saturating_sub(1);
            if held.flows == 0 {
                self.held.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn source(port: u16, shared: bool) -> Source {
        Source { port, shared }
    }

    #[test]
    fn one_port_for_all_peers() {
        let mut sources = Sources::default();
        let guest = end("10.0.0.5:5000");
        let (a, b, six) = (
            end("1.2.3.4:53"),
            end("1.2.3.5:53"),
            end("[2001:db8::1]:53"),
        );
        assert_eq!(sources.choose(guest, a, None), source(5000, false));
        // Somebody else has 5000.
        sources.opened(guest, a, 40000);
        assert_eq!(sources.choose(guest, b, None), source(40000, true));
        // Twice the same peer, as the host sees it.
        assert_eq!(sources.choose(guest, a, None), source(0, false));
        assert_eq!(sources.choose(guest, six, None), source(5000, false));
        sources.opened(guest, b, 40000);
        sources.opened(guest, a, 40001);
        sources.closed(guest, a, 40000);
        assert_eq!(sources.choose(guest, a, None), source(40000, true));
        sources.closed(guest, b, 40000);
        sources.closed(guest, a, 40001);
        assert_eq!(sources.choose(guest, a, None), source(5000, false));
    }

    #[test]
    fn a_published_port() {
        let mut sources = Sources::default();
        let (guest, to) = (end("10.0.0.5:53"), end("1.2.3.4:53"));
        assert_eq!(sources.choose(guest, to, Some(5353)), source(5353, true));
        sources.opened(guest, to, 5353);
        assert_eq!(sources.choose(guest, to, Some(5353)), source(0, false));
    }
}
