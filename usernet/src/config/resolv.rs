//! The text of resolv.conf.

use std::net::IpAddr;

use crate::limits;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ResolvConf {
    /// Name servers, in order, without zones.
    pub(super) servers: Vec<IpAddr>,
    /// Search domains, of the last line that has any.
    pub(super) search: Vec<String>,
}

/// Reads it. Lines that nobody understands are skipped, as the resolver does.
pub(super) fn parse(text: &[u8]) -> ResolvConf {
    let text = String::from_utf8_lossy(text);
    let mut found = ResolvConf::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                // The zone names an interface of the host, which means nothing to the guest.
                let address = words.next().and_then(|word| word.split('%').next());
                let address = address.and_then(|address| address.parse::<IpAddr>().ok());
                let room = found.servers.len() < limits::NAME_SERVERS;
                found.servers.extend(address.filter(|_| room));
            }
            Some("search" | "domain") => {
                let domains = words.take(limits::SEARCH_DOMAINS);
                found.search = domains.map(str::to_owned).collect();
            }
            Some(_) | None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_domains() {
        let text = b"# nameserver 1.1.1.1\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\n\
                     nameserver what\nsearch a.example b.example\noptions edns0\n\xff\nnameserver\t10.0.0.1 \n";
        let found = parse(text);
        let servers: Vec<_> = found.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53", "fe80::1", "10.0.0.1"]);
        assert_eq!(found.search, ["a.example", "b.example"]);
        assert_eq!(parse(b""), ResolvConf::default());
    }
}
