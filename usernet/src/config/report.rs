//! What a run does, in words. People paste it into reports.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::{Config, Facts, Families, Family, Level, Notice};
use crate::event::Side;
use crate::ports::Rule;

/// The report, line by line.
pub(super) fn lines(config: &Config, facts: &Facts) -> Vec<Notice> {
    let mut text = String::new();
    // A string takes everything.
    let _ = write(&mut text, config, facts);
    notices(&text)
}

/// What was asked for and cannot work on this host.
pub(super) fn warnings(families: &Families<Family>, facts: &Facts) -> Vec<Notice> {
    let families = [families.v4.as_ref(), families.v6.as_ref()];
    let families = families.into_iter().flatten();
    // The same name for the host's loopback is asked first.
    let named = |family: &&Family| family.map_guest != family.map_host_loopback;
    let lost = families.filter(named);
    let lost = lost.filter(|family| family.fixed && !is_hosts(family, facts));
    let texts =
        lost.filter_map(|family| Some(leads_nowhere(family.map_guest?, family.assigned()?)));
    let level = Level::Warning;
    texts.map(|text| Notice { level, text }).collect()
}

fn leads_nowhere(name: IpAddr, guest: IpAddr) -> String {
    format!(
        "--map-guest-addr {name} leads nowhere: {guest} (--address) is none of the host's addresses. \
         The guest reaches the host by those; for its loopback, give --map-host-loopback {name}"
    )
}

/// Whether the host has the guest's address too.
fn is_hosts(family: &Family, facts: &Facts) -> bool {
    let mut addresses = facts.addresses.iter();
    addresses.any(|found| family.assigned() == Some(found.address.addr()))
}

/// What is told when families have found the host's network.
#[must_use]
pub fn changed(before: &Config, after: &Config) -> Vec<Notice> {
    let families = [
        ("IPv4", &before.families.v4, &after.families.v4),
        ("IPv6", &before.families.v6, &after.families.v6),
    ];
    let mut text = String::new();
    for (name, before, after) in families {
        let Some(after) = after.as_ref().filter(|_| before != after) else {
            continue;
        };
        let was = before.as_ref().and_then(|family| family.template.as_ref());
        let now = after.template.as_deref().unwrap_or_default();
        // A string takes everything.
        let _ = match was {
            None => writeln!(
                text,
                "{name}: the network has come on {now}, end of local mode"
            ),
            Some(_) => writeln!(text, "{name}: the network on {now} has changed"),
        };
        // An address that was not given is a copy of the host's.
        let _ = write_family(&mut text, name, after, !after.fixed);
    }
    notices(&text)
}

fn notices(text: &str) -> Vec<Notice> {
    let lines = text.lines().map(|line| Notice {
        level: Level::Info,
        text: line.to_owned(),
    });
    lines.collect()
}

fn write(text: &mut String, config: &Config, facts: &Facts) -> fmt::Result {
    let families = [
        ("IPv4", config.families.v4.as_ref()),
        ("IPv6", config.families.v6.as_ref()),
    ];
    let families = families.map(|(name, family)| Some((name, family?)));
    for (name, family) in families.iter().flatten() {
        if let Some(template) = &family.template {
            writeln!(text, "Template interface: {template} ({name})")?;
        }
        if let Some(interface) = &family.outbound_interface {
            writeln!(text, "Outbound interface: {interface} ({name})")?;
        }
        if let Some(address) = &family.outbound {
            writeln!(text, "Outbound address: {address} ({name})")?;
        }
    }
    if !config.splice_only {
        write_link(text, config)?;
    }
    for (name, family) in families.into_iter().flatten() {
        write_family(text, name, family, is_hosts(family, facts))?;
    }
    if !config.announce.dns.is_empty() {
        writeln!(text, "DNS:")?;
    }
    for server in &config.announce.dns {
        writeln!(text, "    {server}")?;
    }
    if !config.announce.search.is_empty() {
        writeln!(text, "DNS search list:")?;
    }
    for domain in &config.announce.search {
        writeln!(text, "    {domain}")?;
    }
    write_rules(text, config, Side::Host, "Inbound forwarding:")?;
    write_rules(text, config, Side::Guest, "Outbound forwarding:")
}

fn write_link(text: &mut String, config: &Config) -> fmt::Result {
    let link = &config.link;
    writeln!(text, "Namespace interface: {}", link.name)?;
    writeln!(text, "MAC:")?;
    writeln!(text, "    host: {}", Mac(link.our_mac))?;
    if let Some(mac) = link.guest_mac {
        writeln!(text, "    guest: {}", Mac(mac))?;
    }
    Ok(())
}

/// `hosts`: the host has the guest's address too.
fn write_family(text: &mut String, name: &str, family: &Family, hosts: bool) -> fmt::Result {
    writeln!(text, "{name}:")?;
    for address in &family.addresses {
        writeln!(text, "    address: {address}")?;
    }
    if let Some(gateway) = family.gateway {
        writeln!(text, "    router: {gateway}")?;
    }
    writeln!(text, "    our address: {}", family.ours)?;
    if let Some(address) = family.map_host_loopback {
        let loopback = if address.is_ipv4() {
            "127.0.0.1"
        } else {
            "::1"
        };
        writeln!(text, "    NAT to host {loopback}: {address}")?;
    }
    if let (Some(address), Some(guest), true) = (family.map_guest, family.assigned(), hosts) {
        writeln!(text, "    NAT to host {guest}: {address}")?;
    }
    if let (Some(address), Some(host)) = (family.dns_forward, family.dns_host) {
        writeln!(text, "    DNS forwarded to {host}: {address}")?;
    }
    Ok(())
}

fn write_rules(text: &mut String, config: &Config, side: Side, title: &str) -> fmt::Result {
    let mut rules = config.listeners.iter().filter(|rule| rule.side == side);
    if let Some(first) = rules.next() {
        writeln!(text, "{title}\n    {}", Rule(first))?;
    }
    rules.try_for_each(|rule| writeln!(text, "    {}", Rule(rule)))
}

/// A link-layer address.
struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
