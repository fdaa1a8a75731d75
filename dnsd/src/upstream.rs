//! The servers of the host: what `resolv.conf` says.
//!
//! A line counts if its first word is `nameserver`; its second word is the address, an IPv6 one perhaps with a zone
//! (`fe80::1%eth0`). Everything from `#` or `;` on is a comment. Only the first three servers count. A line that
//! makes no sense is a problem, never a failure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// How many servers count.
pub const MOST: usize = 3;

/// The servers, and what is wrong with the text. `index_of` finds the number of an interface.
pub fn parse(
    text: &[u8],
    index_of: impl Fn(&str) -> Option<u32>,
) -> (Vec<SocketAddr>, Vec<String>) {
    let mut servers = Vec::new();
    let mut problems = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line
            .split(|byte| matches!(byte, b'#' | b';'))
            .next()
            .unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(word) = words.next() else { continue };
        match server(word, &index_of) {
            Some(server) if servers.len() < MOST => servers.push(server),
            Some(_) => {}
            None => problems.push(format!("\"{word}\" is not the address of a server")),
        }
    }
    (servers, problems)
}

fn server(word: &str, index_of: &impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 53));
    }
    let (address, zone) = word.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = zone.parse().ok().or_else(|| index_of(zone))?;
    Some(SocketAddrV6::new(address, 53, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str], problems: usize) {
        let (servers, found) = parse(text.as_bytes(), |name| (name == "eth0").then_some(2));
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, expected, "{text:?}");
        assert_eq!(found.len(), problems, "{text:?}: {found:?}");
    }

    #[test]
    fn lines() {
        check("", &[], 0);
        check(
            "nameserver 1.1.1.1\n nameserver\t::1 9.9.9.9",
            &["1.1.1.1:53", "[::1]:53"],
            0,
        );
        check(
            "search x\noptions ndots:5\nnameserver 1.1.1.1#x\n;nameserver 2.2.2.2\n#nameserver 3.3.3.3",
            &["1.1.1.1:53"],
            0,
        );
        check(
            "nameserver 1.1.1.1;c\nnameservers 2.2.2.2\nNameserver 3.3.3.3\nnameserver",
            &["1.1.1.1:53"],
            0,
        );
        check(
            "nameserver fe80::1%eth0\nnameserver fe80::2%7\nnameserver fe80::3%nix",
            &["[fe80::1%2]:53", "[fe80::2%7]:53"],
            1,
        );
        check("nameserver 1.1.1.1%eth0\nnameserver x\n\u{fc}", &[], 2);
        check(
            "nameserver 1.1.1.1\nnameserver 1.1.1.1\nnameserver 3.3.3.3\nnameserver 4.4.4.4",
            &["1.1.1.1:53", "1.1.1.1:53", "3.3.3.3:53"],
            0,
        );
    }
}
