//! Who has an address that we cannot have: for the error message, from `/proc`.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A process that listens where we wanted to.
#[derive(Debug)]
pub struct Owner {
    pid: u32,
    name: String,
    address: SocketAddr,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, address } = self;
        write!(f, "process {pid} ({name}) has {address}")
    }
}

impl Owner {
    /// Whether it runs the same program as we do.
    #[must_use]
    pub fn is_like_us(&self) -> bool {
        fs::read_to_string("/proc/self/comm").is_ok_and(|ours| ours.trim_end() == self.name)
    }
}

/// Who listens where we wanted to. Nothing if it cannot be seen.
#[must_use]
pub fn of(protocol: &str, wanted: SocketAddr) -> Option<Owner> {
    let families: &[&str] = if wanted.is_ipv4() { &["", "6"] } else { &["6"] };
    let tables = families
        .iter()
        .map(|family| format!("/proc/net/{protocol}{family}"));
    let (inode, address) = tables
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| table.lines().find_map(|line| in_the_way(line, wanted)))?;
    let (pid, name) = process(&format!("socket:[{inode}]"))?;
    Some(Owner { pid, name, address })
}

/// The number and address of the socket in a line, if it has the port on the same address or on all.
fn in_the_way(line: &str, wanted: SocketAddr) -> Option<(u64, SocketAddr)> {
    let mut columns = line.split_ascii_whitespace();
    let (ip, port) = columns.nth(1)?.split_once(':')?;
    let address = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
    let same = address.ip() == wanted.ip() || address.ip().is_unspecified();
    let inode = columns.nth(7)?.parse().ok()?;
    (same && address.port() == wanted.port() && inode != 0).then_some((inode, address))
}

/// Words of 32 bits in the order of this machine's bytes.
fn address(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = digits.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    if digits.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut octets = [0; 16];
    for (at, place) in octets.chunks_exact_mut(4).enumerate() {
        place.copy_from_slice(&word(at)?);
    }
    Some(Ipv6Addr::from(octets).into())
}

/// The first process that has a descriptor of this kind.
fn process(descriptor: &str) -> Option<(u32, String)> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = numbers.find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut links = descriptors.into_iter().flatten().flatten();
        links.any(|link| fs::read_link(link.path()).is_ok_and(|to| to == Path::new(descriptor)))
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, name.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_on_all_addresses_is_in_the_way() {
        let wanted = "10.89.0.1:53".parse().unwrap();
        let line = |ip: &str, port: &str| {
            format!(
                "  12: {ip}:{port} 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0"
            )
        };
        let own = u32::from_ne_bytes([10, 89, 0, 1]);
        assert!(in_the_way(&line(&format!("{own:08X}"), "0035"), wanted).is_some());
        let all = in_the_way(&line("00000000", "0035"), wanted).unwrap();
        assert_eq!(all, (4711, "0.0.0.0:53".parse().unwrap()));
        assert!(in_the_way(&line(&"0".repeat(32), "0035"), wanted).is_some());
        assert!(in_the_way(&line("00000000", "0036"), wanted).is_none());
        assert!(in_the_way(&line(&format!("{:08X}", own ^ 1), "0035"), wanted).is_none());
        assert!(in_the_way("  sl  local_address rem_address   st", wanted).is_none());
    }
}
