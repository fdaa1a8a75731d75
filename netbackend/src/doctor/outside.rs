//! Whether the host itself has a way to the world, without which containers have none.
//!
//! A way is a default route of the main table, or of another one that a rule leads to; halves of a default route, as VPNs
//! have them, and the many wide routes of a router are one, too ([`Network::leads_outside`]). A host may well have none on
//! purpose. It looks as if it should have one where an interface has an address in a subnet of others and there is no next
//! hop at all: that is broken. All else is a warning.

use std::net::IpAddr;

use wire::state::NetworkRecord;

use super::facts::{Facts, Link, Network};
use super::routes::open;
use super::{Finding, Severity, listed};

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let families = [true, false].into_iter();
    families.filter_map(|v4| no_way(v4, facts)).collect()
}

fn no_way(v4: bool, facts: &Facts) -> Option<Finding> {
    let networks = open(facts, v4).filter(|network| promises(network, facts));
    let names: Vec<_> = networks.map(|network| &network.name).collect();
    if names.is_empty() || facts.host.leads_outside(v4) {
        return None;
    }
    let uplinks = uplinks(v4, &facts.host);
    // Many hosts know nothing of IPv6 but addresses that everybody may give himself.
    if uplinks.is_empty() && !v4 {
        return None;
    }
    let mut routes = facts.host.routes.iter();
    let leaves = routes.any(|route| {
        let next = |gateway: IpAddr| gateway.is_ipv4() == v4;
        route.gateway.is_some_and(next)
    });
    let severity = if uplinks.is_empty() || leaves {
        Severity::Warning
    } else {
        Severity::Broken
    };
    let family = if v4 { "IPv4" } else { "IPv6" };
    let who = if facts.caller.rootless {
        "this network namespace"
    } else {
        "the host"
    };
    Some(Finding::new(
        severity,
        "uplink-route",
        format!("{who} has no default route for {family}"),
        format!(
            "containers reach only what {who} has other routes to: {}; {}",
            listed(names),
            advice(v4, severity, &uplinks, facts)
        ),
        // Nothing here tells the next hop.
        Vec::new(),
    ))
}

fn advice(v4: bool, severity: Severity, uplinks: &[&str], facts: &Facts) -> String {
    let purpose = match severity {
        Severity::Broken => "",
        Severity::Warning => "all is well if that is on purpose; else ",
    };
    if facts.caller.rootless {
        return format!(
            "{purpose}end all containers that are on networks and start them again once the host has one: pasta and its like take over what there is when the first one starts"
        );
    }
    let Some(uplink) = uplinks.first() else {
        return format!("{purpose}bring up the interface by which others are reached");
    };
    let (ip, listens) = if v4 {
        ("ip", String::new())
    } else {
        // The kernel is told by routers, but does not listen to them where it forwards (Documentation/networking/ip-sysctl).
        let setting = super::setting("ipv6", uplink, "accept_ra");
        let listens = format!(
            "; routers that announce themselves are heard only with {setting} = 2, or by a program that listens to them"
        );
        ("ip -6", listens)
    };
    format!(
        "{purpose}have whatever configures {} do so again, or add it by `{ip} route add default via GATEWAY dev {uplink}`{listens}",
        listed(uplinks)
    )
}

/// Whether some container was given a default route into this network, which others have for it then.
fn promises(network: &NetworkRecord, facts: &Facts) -> bool {
    let containers = facts.containers.iter();
    let mut attachments = containers.flat_map(|container| &container.attachments);
    network.vrf.is_none()
        && attachments.any(|on| on.network == network.id && on.default_metric.is_some())
}

/// Interfaces that lead to others than containers and virtual machines, with an address that others know.
fn uplinks(v4: bool, host: &Network) -> Vec<&str> {
    let links = host.links.iter();
    let out = links.filter(|(name, link)| {
        let mut addresses = link.addresses.iter();
        link.up
            && link.controller.is_none()
            && name.as_str() != "lo"
            && link.kind != "dummy"
            && (link.kind != "bridge" || has_outer_port(link, host))
            && addresses.any(|address| address.addr().is_ipv4() == v4 && is_global(address.addr()))
    });
    out.map(|(name, _)| name.as_str()).collect()
}

/// Whether a bridge has a port that is not the end of a container or of a virtual machine.
fn has_outer_port(bridge: &Link, host: &Network) -> bool {
    let mut links = host.links.values();
    links.any(|link| {
        link.controller == Some(bridge.index) && !["veth", "tun"].contains(&link.kind.as_str())
    })
}

/// Private addresses of IPv4 are translated by somebody further out. Those of IPv6 are not, as a rule.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => address.segments()[0] & 0xe000 == 0x2000,
    }
}
