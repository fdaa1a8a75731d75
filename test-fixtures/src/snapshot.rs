//! Everything about a host that setting up a network may change, as sorted lines of text.
//!
//! A line begins with its kind: `link`, `address`, `route`, `rule`, `vlan`, `nft`, `sysctl`, `file`, `process`. Left out is
//! what differs between two looks at the same state: indexes, lifetimes, counters, carrier, and what the kernel adds for
//! IPv6 by itself and in its own time (link-local addresses, `ff00::/8`).

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Netns;

/// The state of a host at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    lines: Vec<String>,
}

impl Snapshot {
    /// Looks at the namespace `netns`, the files below `directories`, and all processes of the lab.
    pub fn take(netns: &Netns, directories: &[&Path]) -> Result<Self> {
        let mut lines = Vec::new();
        links(netns, &mut lines)?;
        routes(netns, &mut lines)?;
        vlans(netns, &mut lines)?;
        sysctls(netns, &mut lines)?;
        lines.sort_unstable();
        nft(netns, &mut lines)?;
        for directory in directories {
            files(directory, &mut lines)?;
        }
        processes(&mut lines)?;
        Ok(Self { lines })
    }

    /// The lines, in order.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Without the lines that `drop` names: differences which a test knows and judges elsewhere.
    #[must_use]
    pub fn without(mut self, drop: impl Fn(&str) -> bool) -> Self {
        self.lines.retain(|line| !drop(line));
        self
    }

    /// What is in `before` only, as `- line`, and in `self` only, as `+ line`.
    pub fn since(&self, before: &Self) -> Vec<String> {
        diff(&before.lines, &self.lines)
    }

    /// Panics with the differences if there are any.
    #[track_caller]
    pub fn assert_same_as(&self, before: &Self) {
        let changes = self.since(before);
        assert!(
            changes.is_empty(),
            "the host has changed:\n{}",
            changes.join("\n")
        );
    }
}

/// Lines that are in one list only or more often in one list, in the order of the lists.
fn diff(before: &[String], after: &[String]) -> Vec<String> {
    let mut balance = BTreeMap::<&str, i64>::new();
    for line in after {
        *balance.entry(line).or_default() += 1;
    }
    for line in before {
        *balance.entry(line).or_default() -= 1;
    }
    let mut only = |lines: &[String], sign: char, step: i64| {
        let mut changes = Vec::new();
        for line in lines {
            if let Some(count) = balance.get_mut(line.as_str())
                && *count * step > 0
            {
                *count -= step;
                changes.push(format!("{sign} {line}"));
            }
        }
        changes
    };
    let mut changes = only(before, '-', -1);
    changes.extend(only(after, '+', 1));
    changes
}

fn links(netns: &Netns, lines: &mut Vec<String>) -> Result<()> {
    for link in json(netns, "ip -json -details addr show")? {
        let name = text(&link["ifname"]);
        let mut line = format!("link {name}");
        for key in [
            "address",
            "mtu",
            "master",
            "link",
            "link_netnsid",
            "group",
            "txqlen",
            "promiscuity",
        ] {
            if !link[key].is_null() {
                line.push_str(&format!(" {key}={}", text(&link[key])));
            }
        }
        let flags: Vec<_> = items(&link["flags"])
            .map(text)
            .filter(|flag| !["LOWER_UP", "NO-CARRIER", "M-DOWN"].contains(&flag.as_str()))
            .collect();
        line.push_str(&format!(" flags={}", flags.join(",")));
        let info = &link["linkinfo"];
        for (kind, data) in [
            ("info_kind", "info_data"),
            ("info_slave_kind", "info_slave_data"),
        ] {
            if !info[kind].is_null() {
                line.push_str(&format!(
                    " kind={}{}",
                    text(&info[kind]),
                    options(&info[data])
                ));
            }
        }
        lines.push(line);
        for address in items(&link["addr_info"]) {
            let local = text(&address["local"]);
            if local.starts_with("fe80:") {
                continue;
            }
            let mut line = format!("address {name} {local}/{}", text(&address["prefixlen"]));
            for key in ["address", "broadcast", "scope", "label"] {
                if !address[key].is_null() && address[key] != link["ifname"] {
                    line.push_str(&format!(" {key}={}", text(&address[key])));
                }
            }
            lines.push(line);
        }
    }
    Ok(())
}

/// Options of a kind of link; not its clocks, nor what spanning tree and carrier make of it.
fn options(data: &Value) -> String {
    let volatile = [
        "state",
        "root_id",
        "bridge_id",
        "designated_bridge",
        "designated_root",
        "id",
        "no",
        "topology_change",
        "topology_change_detected",
        "root_port",
        "root_path_cost",
        "designated_port",
        "designated_cost",
        "config_pending",
        "topology_change_ack",
    ];
    let mut options: Vec<_> = data
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !key.ends_with("timer") && !volatile.contains(&key.as_str()))
        .map(|(key, value)| format!(" {key}={}", text(value)))
        .collect();
    options.sort_unstable();
    options.concat()
}

fn routes(netns: &Netns, lines: &mut Vec<String>) -> Result<()> {
    let commands = [
        ("route", "ip -o -4 route show table all"),
        ("route", "ip -o -6 route show table all"),
        ("rule", "ip -o -4 rule"),
        ("rule", "ip -o -6 rule"),
    ];
    for (kind, command) in commands {
        // A family that the kernel lacks or that is disabled has no routes.
        for line in netns.sh(&format!("{command} || true"))?.lines() {
            let own = [
                "fe80::",
                "ff00::",
                "local fe80:",
                "anycast fe80:",
                "multicast ff00:",
            ];
            if own.iter().any(|start| line.starts_with(start)) {
                continue;
            }
            let words = line
                .split_whitespace()
                .filter(|word| *word != "linkdown" && *word != "\\");
            lines.push(format!("{kind} {}", words.collect::<Vec<_>>().join(" ")));
        }
    }
    Ok(())
}

fn vlans(netns: &Netns, lines: &mut Vec<String>) -> Result<()> {
    // Kernels without bridge VLAN filtering refuse the question.
    for port in json(netns, "bridge -json vlan show 2>/dev/null || echo '[]'")? {
        for vlan in items(&port["vlans"]) {
            lines.push(format!("vlan {} {vlan}", text(&port["ifname"])));
        }
    }
    Ok(())
}

fn sysctls(netns: &Netns, lines: &mut Vec<String>) -> Result<()> {
    let per_link = [
        (
            "ipv4",
            &["arp_notify", "forwarding", "route_localnet", "rp_filter"][..],
        ),
        (
            "ipv6",
            &[
                "accept_dad",
                "accept_ra",
                "autoconf",
                "disable_ipv6",
                "forwarding",
            ][..],
        ),
    ];
    let found = netns.enter(|| {
        let mut found = Vec::new();
        for (family, keys) in per_link {
            // No directory: no such family.
            let links = fs::read_dir(format!("/proc/sys/net/{family}/conf"))
                .into_iter()
                .flatten();
            for link in links {
                let link = link.context("cannot list sysctls")?.path();
                for key in keys {
                    // A link may go away meanwhile.
                    if let Ok(value) = fs::read_to_string(link.join(key)) {
                        let name = link.file_name().unwrap_or_default();
                        found.push(format!(
                            "sysctl {family}/conf/{}/{key} = {}",
                            name.display(),
                            value.trim()
                        ));
                    }
                }
            }
        }
        Ok(found)
    })?;
    lines.extend(found);
    for key in [
        "ipv4/ip_forward",
        "bridge/bridge-nf-call-iptables",
        "bridge/bridge-nf-call-ip6tables",
    ] {
        if let Some(value) = netns.sysctl(key)? {
            lines.push(format!("sysctl {key} = {value}"));
        }
    }
    Ok(())
}

fn nft(netns: &Netns, lines: &mut Vec<String>) -> Result<()> {
    let mut table = String::new();
    for line in netns.sh("nft --stateless list ruleset")?.lines() {
        if line.starts_with("table ") {
            line.trim_end_matches(" {").clone_into(&mut table);
        }
        let line = line.trim();
        if !line.is_empty() && line != "}" {
            lines.push(format!("nft {table}: {line}"));
        }
    }
    Ok(())
}

fn files(path: &Path, lines: &mut Vec<String>) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let mut line = format!(
        "file {} {:o}",
        path.display(),
        metadata.permissions().mode()
    );
    if metadata.is_symlink() {
        let target =
            fs::read_link(path).with_context(|| format!("cannot read {}", path.display()))?;
        line.push_str(&format!(" -> {}", target.display()));
    } else if metadata.is_file() {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        match str::from_utf8(&content) {
            Ok(text) if text.len() <= 512 => line.push_str(&format!(" {text:?}")),
            _ => {
                let mut hasher = DefaultHasher::new();
                hasher.write(&content);
                line.push_str(&format!(
                    " {} bytes, hash {:016x}",
                    content.len(),
                    hasher.finish()
                ));
            }
        }
    }
    lines.push(line);
    if metadata.is_dir() {
        let entries =
            fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
        let mut entries = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        entries.sort_unstable();
        for entry in entries {
            files(&entry, lines)?;
        }
    }
    Ok(())
}

/// The lab has its own processes, so all of them count; not its first one and the test itself, nor the dead.
fn processes(lines: &mut Vec<String>) -> Result<()> {
    let own = fs::read_link("/proc/self/ns/net").context("cannot read the own namespace")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let path = entry.context("cannot list /proc")?.path();
        let pid = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != 1 && *pid != std::process::id()) else {
            continue;
        };
        // Whatever ends in between is not there; a zombie has no command line.
        let (Ok(command), Ok(namespace)) = (
            fs::read(path.join("cmdline")),
            fs::read_link(path.join("ns/net")),
        ) else {
            continue;
        };
        if command.is_empty() {
            continue;
        }
        let place = if namespace == own {
            ""
        } else {
            " (in another network namespace)"
        };
        let command = String::from_utf8_lossy(&command)
            .trim_end_matches('\0')
            .replace('\0', " ");
        found.push((command, place, pid));
    }
    found.sort_unstable();
    lines.extend(
        found
            .into_iter()
            .map(|(command, place, _)| format!("process {command}{place}")),
    );
    Ok(())
}

fn json(netns: &Netns, command: &str) -> Result<Vec<Value>> {
    let text = netns.sh(command)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("`{command}` printed {text:?}"))?;
    // Some versions print empty objects for what a filter left out.
    Ok(items(&value)
        .filter(|item| *item != &Value::Object(serde_json::Map::new()))
        .cloned()
        .collect())
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab;

    #[test]
    fn differences_are_counted() {
        let lines = |text: &str| {
            text.split_whitespace()
                .map(ToOwned::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            diff(&lines("a b b c"), &lines("a b d")),
            ["- b", "- c", "+ d"]
        );
        assert!(diff(&lines("a a"), &lines("a a")).is_empty());
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        lab::run(|host| {
            let state = host.dir("state")?;
            let before = Snapshot::take(host, &[&state])?;
            host.sh(
                "ip link add br0 type bridge; ip link set br0 up
                 ip addr add 10.9.0.1/24 dev br0; ip -6 addr add fd00:9::1/64 dev br0 nodad
                 ip rule add fwmark 7 table 77; ip route add unreachable 10.10.0.0/16 table 77
                 nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'
                 nft add rule inet t c tcp dport 1 counter drop
                 echo 1 > /proc/sys/net/ipv4/ip_forward
                 echo hello > /run/lab/state/f
                 setsid sleep 60 >/dev/null 2>&1 &",
            )?;
            let during = Snapshot::take(host, &[&state])?;
            let changes = during.since(&before).join("\n");
            for expected in [
                "+ link br0 ",
                "+ address br0 10.9.0.1/24",
                "+ address br0 fd00:9::1/64",
                "+ route unreachable 10.10.0.0/16 table 77",
                "+ rule 32765: from all fwmark 0x7 lookup 77",
                "+ nft table inet t: tcp dport 1 counter drop",
                "- sysctl ipv4/ip_forward = 0\n",
                "+ file /run/lab/state/f 100644 \"hello\\n\"",
                "+ process sleep 60",
            ] {
                assert!(changes.contains(expected), "no {expected} in\n{changes}");
            }
            Snapshot::take(host, &[&state])?.assert_same_as(&during);
            host.sh(
                "ip link del br0; ip rule del table 77; ip route flush table 77; nft flush ruleset
                 echo 0 > /proc/sys/net/ipv4/ip_forward; rm /run/lab/state/f; kill $(pidof sleep); sleep 0.1",
            )?;
            Snapshot::take(host, &[&state])?.assert_same_as(&before);
            Ok(())
        });
    }
}
