//! Who holds which ports of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use wire::state::Protocol;

use crate::doctor::facts::{Holder, Listener};
use crate::sys::files;

/// Whether systemd manages this host.
const SYSTEMD: &str = "/run/systemd/system";

/// Sockets of the current network namespace that are bound to these ports, and those who hold them.
pub(super) fn listeners(wanted: &BTreeSet<(Protocol, u16)>) -> Vec<Listener> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<(u64, Listener)> = Vec::new();
    for (file, protocol) in [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ] {
        let text = files::read(&Path::new("/proc/thread-self/net").join(file));
        for line in text.ok().flatten().unwrap_or_default().lines().skip(1) {
            let Some((inode, address, port)) = bound(line, protocol) else {
                continue;
            };
            if wanted.contains(&(protocol, port)) {
                let listener = Listener {
                    protocol,
                    address,
                    port,
                    holder: None,
                };
                found.push((inode, listener));
            }
        }
    }
    let holders = holders(found.iter().map(|(inode, _)| *inode).collect());
    for (inode, listener) in &mut found {
        listener.holder = holders.get(inode).map(|pid| holder(*pid));
    }
    found.into_iter().map(|(_, listener)| listener).collect()
}

/// Inode, local address and port of a line of `/proc/net/tcp` and its like, if it is of a socket that listens.
fn bound(line: &str, protocol: Protocol) -> Option<(u64, IpAddr, u16)> {
    /// `TCP_LISTEN`, and `TCP_CLOSE` for a socket of datagrams that is connected to nobody.
    const LISTEN: &str = "0A";
    const CLOSE: &str = "07";
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (local, state) = (columns.next()?, columns.nth(1)?);
    let listens = if protocol == Protocol::Tcp {
        LISTEN
    } else {
        CLOSE
    };
    if state != listens {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let inode = columns.nth(5)?.parse().ok()?;
    Some((
        inode,
        parse_address(address)?,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

/// Words of 32 bits in the order of the processor.
fn parse_address(text: &str) -> Option<IpAddr> {
    let mut octets = Vec::with_capacity(16);
    for start in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let v4: Option<[u8; 4]> = octets.as_slice().try_into().ok();
    let v6: Option<[u8; 16]> = octets.as_slice().try_into().ok();
    v4.map(Ipv4Addr::from)
        .map(IpAddr::from)
        .or_else(|| v6.map(Ipv6Addr::from).map(IpAddr::from))
}

/// The first process that holds each of these sockets. This looks at all processes until all are found.
fn holders(mut sockets: BTreeSet<u64>) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    for name in files::names(Path::new("/proc")).unwrap_or_default() {
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        if sockets.is_empty() {
            break;
        }
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let inode = target.to_str().and_then(|target| {
                target
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .parse()
                    .ok()
            });
            if let Some(inode) = inode.filter(|inode| sockets.remove(inode)) {
                found.insert(inode, pid);
            }
        }
    }
    found
}

fn holder(pid: u32) -> Holder {
    let read = |file: &str| {
        let text = files::read(&Path::new("/proc").join(pid.to_string()).join(file));
        text.ok().flatten().unwrap_or_default()
    };
    let name = read("comm").trim().to_owned();
    let parent = read("stat")
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
    let unit = read("cgroup")
        .lines()
        .find_map(|line| {
            let path = line.rsplit_once(':')?.1.strip_prefix("/system.slice/")?;
            let unit = path.split('/').next()?;
            Some(unit.to_owned())
        })
        .filter(|unit| unit.ends_with(".service"));
    // What a service has started in passing is not the service.
    let is_service = parent == Some(1) && Path::new(SYSTEMD).exists();
    Holder {
        pid,
        name,
        unit: unit.filter(|_| is_service),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let tcp = "   0: 0101467F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        let (inode, address, port) = bound(tcp, Protocol::Tcp).expect("it listens");
        assert_eq!((inode, port), (4711, 8080));
        assert!(address.is_ipv4());
        assert_eq!(bound(&tcp.replace(" 0A ", " 01 "), Protocol::Tcp), None);
        assert_eq!(bound("sl local_address", Protocol::Udp), None);
        let six = "00000000000000000000000001000000";
        if cfg!(target_endian = "little") {
            assert_eq!(parse_address(six), Some(Ipv6Addr::LOCALHOST.into()));
        }
    }
}
