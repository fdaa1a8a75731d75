//! The steps for one bridge and for one attachment to it.
//!
//! Links are made, but not switched on inside the container, before the packet filter knows of them,
//! so that nothing passes unfiltered; [`Attached::after_filter`] does the rest.

use std::collections::BTreeSet;

use ipnet::IpNet;
use wire::names::{InterfaceName, MacAddr};
use wire::state::AttachmentRecord;

use super::Obstacle;
use super::address::Addressing;
use super::layout;
use super::step::{Lease, NewBridge, NewVeth, Side, Step, Sysctl};
use crate::observed::{BridgeLink, Observed, Settings};
use crate::request::{BridgeAttachment, BridgeNetwork, Mode, SetupRequest, sublink};

/// What has to be done for one attachment.
#[derive(Debug)]
pub struct Attached {
    /// What is done before the packet filter knows.
    pub before_filter: Vec<Step>,
    /// What is done after.
    pub after_filter: Vec<Step>,
    /// Whether the bridge is made by this call.
    pub creates_bridge: bool,
    /// The MAC address inside the container.
    pub mac: MacAddr,
    /// What goes on record.
    pub record: AttachmentRecord,
}

/// What an attachment depends on besides itself.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Its number in the request.
    pub number: usize,
    /// Its number among attachments to bridges.
    pub bridge_number: usize,
    /// Whether an earlier attachment of the same request already makes the bridge.
    pub fresh: bool,
    /// The metrics of the default routes that the container has by then.
    pub metrics: &'a BTreeSet<u32>,
    /// The request that it is part of.
    pub request: &'a SetupRequest,
    /// The facts about the host.
    pub observed: &'a Observed,
    /// What holds for the call.
    pub settings: &'a Settings,
}

/// Plans an attachment.
///
/// # Errors
/// The bridge or the VRF is missing or is something else.
pub fn attach(
    attachment: &BridgeAttachment,
    surroundings: &Surroundings<'_>,
) -> Result<Attached, Obstacle> {
    let Surroundings {
        number,
        bridge_number,
        fresh,
        metrics,
        request,
        observed,
        settings,
    } = *surroundings;
    let network = &attachment.network;
    let existing = bridge_link(network, observed)?;
    let exists = existing.is_some() || fresh;
    let entropy = observed.entropy.get(number).copied().unwrap_or_default();
    let [bridge_mac, host_mac, random_mac] = entropy.map(MacAddr::local);
    let mut before = Vec::new();
    let creates_bridge = !exists && network.mode == Mode::Managed;
    if creates_bridge {
        before.extend(create_bridge(network, bridge_mac, observed, settings));
    } else if network.vlan.is_some() && !existing.is_some_and(|bridge| bridge.vlan_filtering) {
        before.push(Step::FilterVlans(network.bridge.clone()));
    }
    let addressing = Addressing::from(attachment);
    let veth = NewVeth {
        host_name_given: attachment.host_interface.is_some(),
        host: host_name(attachment, bridge_number, observed),
        host_mac,
        container: attachment.interface.clone(),
        container_mac: {
            let derived = || addressing.derived_mac(&network.id, &request.container);
            attachment.mac.or_else(derived).unwrap_or(random_mac)
        },
        bridge: network.bridge.clone(),
        mtu: mtu(network, existing, observed),
    };
    let metric = addressing.default_metric(metrics);
    let lease = attachment
        .lease
        .then(|| lease(attachment, &veth, metric, request));
    let record = AttachmentRecord {
        default_metric: metric,
        lease: lease.as_ref().map(Lease::record),
        ..record(attachment, &veth, surroundings)
    };
    before.extend(host_end(network, &veth, observed));
    before.extend(container_end(attachment));
    Ok(Attached {
        before_filter: before,
        after_filter: addressing.switch_on(metric, lease),
        creates_bridge,
        mac: veth.container_mac,
        record,
    })
}

/// The name of the end on the host: the one that was asked for, or the next free one.
fn host_name(
    attachment: &BridgeAttachment,
    bridge_number: usize,
    observed: &Observed,
) -> InterfaceName {
    let given = attachment.host_interface.as_ref();
    let name = given.or_else(|| observed.veth_names.get(bridge_number));
    name.unwrap_or(&attachment.interface).clone()
}

fn lease(
    attachment: &BridgeAttachment,
    veth: &NewVeth,
    metric: Option<u32>,
    request: &SetupRequest,
) -> Lease {
    Lease {
        container: request.container.clone(),
        interface: attachment.interface.clone(),
        host_interface: attachment.network.bridge.clone(),
        mac: veth.container_mac,
        hostname: request.hostname.clone(),
        metric,
        v6: attachment.lease6,
        keep_mtu: attachment.network.mtu.is_some(),
    }
}

/// What goes on record, as far as it is known before routes and leases are.
fn record(
    attachment: &BridgeAttachment,
    veth: &NewVeth,
    surroundings: &Surroundings<'_>,
) -> AttachmentRecord {
    let network = &attachment.network;
    let addresses = attachment.addresses.iter();
    let netns = &surroundings.observed.netns;
    AttachmentRecord {
        network: network.id.clone(),
        netns: netns.path.clone(),
        netns_inode: netns.inode,
        interface: attachment.interface.clone(),
        host_interface: veth.host.clone(),
        host_mac: veth.host_mac,
        addresses: addresses.map(|address| address.address).collect(),
        ports: match network.mode {
            Mode::Managed => surroundings.request.ports.clone(),
            Mode::Unmanaged => Vec::new(),
        },
        detached_routes: sublink::detached(&network.routes),
        zone_file: None,
        default_metric: None,
        lease: None,
    }
}

fn bridge_link<'a>(
    network: &BridgeNetwork,
    observed: &'a Observed,
) -> Result<Option<&'a BridgeLink>, Obstacle> {
    if let Some(vrf) = &network.vrf {
        match observed.vrfs.get(vrf) {
            None => return Err(Obstacle::NoVrf(vrf.clone())),
            Some(kind) if kind.0 != "vrf" => {
                return Err(Obstacle::NotAVrf {
                    vrf: vrf.clone(),
                    kind: kind.0.clone(),
                });
            }
            Some(_) => {}
        }
    }
    match observed.bridges.get(&network.bridge) {
        Some(link) if link.kind.0 == "bridge" => Ok(Some(link)),
        Some(link) => Err(Obstacle::NotABridge {
            bridge: network.bridge.clone(),
            kind: link.kind.0.clone(),
        }),
        None if network.mode == Mode::Unmanaged => Err(Obstacle::NoBridge(network.bridge.clone())),
        None => Ok(None),
    }
}

/// The MTU of the veth pair: what was asked for, or that of the bridge, or that of the way out.
fn mtu(network: &BridgeNetwork, existing: Option<&BridgeLink>, observed: &Observed) -> Option<u32> {
    let way_out = || observed.default_mtu.get(&network.vrf).copied();
    network
        .mtu
        .or_else(|| existing.map(|bridge| bridge.mtu))
        .or_else(way_out)
}

/// The settings of the host that a managed bridge needs, in the order in which they are made.
fn bridge_sysctls(network: &BridgeNetwork) -> Vec<(String, &'static str)> {
    let bridge = &network.bridge;
    let v6 = network.has_ipv6();
    let mut settings = Vec::new();
    if network.internal {
        settings.push((format!("net/ipv4/conf/{bridge}/forwarding"), "0"));
        if v6 {
            settings.push((format!("net/ipv6/conf/{bridge}/forwarding"), "0"));
        }
    } else {
        settings.push(("net/ipv4/ip_forward".to_owned(), "1"));
        if v6 {
            settings.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
        }
        settings.push((format!("net/ipv4/conf/{bridge}/route_localnet"), "1"));
    }
    if v6 {
        settings.push((format!("net/ipv6/conf/{bridge}/accept_dad"), "0"));
        settings.push((format!("net/ipv6/conf/{bridge}/accept_ra"), "0"));
    }
    settings.push((format!("net/ipv4/conf/{bridge}/rp_filter"), "2"));
    settings
}

/// Whether systemd-sysctl has to be told of our settings.
pub(super) fn wants_sysctl_file(observed: &Observed, settings: &Settings) -> bool {
    observed.systemd && !settings.rootless
}

fn create_bridge(
    network: &BridgeNetwork,
    mac: MacAddr,
    observed: &Observed,
    settings: &Settings,
) -> Vec<Step> {
    let bridge = &network.bridge;
    let sysctls = bridge_sysctls(network);
    let mut steps = Vec::new();
    if wants_sysctl_file(observed, settings) {
        let lines = sysctls
            .iter()
            .map(|(key, value)| format!("{key} = {value}\n"));
        let content = std::iter::once("# autogenerated by netavark\n".to_owned())
            .chain(lines)
            .collect();
        steps.push(Step::CreateFile {
            path: layout::sysctl_file(bridge),
            content,
        });
    }
    steps.push(Step::CreateBridge(NewBridge {
        name: bridge.clone(),
        mac,
        mtu: network.mtu,
        vrf: network.vrf.clone(),
        vlan_filtering: network.vlan.is_some(),
    }));
    if network.forwards_ipv6() {
        // A host that forwards takes no advice from routers, unless told to: it would lose its way out.
        steps.extend(
            observed.advertised.iter().map(|link| {
                Step::sysctl(Side::Host, format!("net/ipv6/conf/{link}/accept_ra"), "2")
            }),
        );
    }
    steps.extend(
        sysctls
            .into_iter()
            .map(|(key, value)| Step::sysctl(Side::Host, key, value)),
    );
    for subnet in &network.subnets {
        if let Some(gateway) = subnet.gateway
            && let Ok(address) = IpNet::new(gateway, subnet.subnet.prefix_len())
        {
            steps.push(Step::AddAddress {
                side: Side::Host,
                link: bridge.clone(),
                address,
                at_once: true,
            });
        }
    }
    steps.push(Step::SetUp {
        side: Side::Host,
        link: bridge.clone(),
    });
    if network.has_ipv6() && !network.internal && !observed.bridge_filter.ipv6 {
        steps.push(Step::AcceptLoopback6(bridge.clone()));
    }
    steps
}

fn host_end(network: &BridgeNetwork, veth: &NewVeth, observed: &Observed) -> Vec<Step> {
    let mut steps = vec![Step::CreateVeth(veth.clone())];
    if let Some(vlan) = network.vlan {
        steps.push(Step::SetPortVlan {
            port: veth.host.clone(),
            vlan,
        });
    }
    // Bridged packets that the filter sends back where they came from get lost otherwise: a container
    // could not reach its own published ports.
    if network.mode == Mode::Managed && (observed.bridge_filter.ipv4 || observed.bridge_filter.ipv6)
    {
        steps.push(Step::SetHairpin(veth.host.clone()));
    }
    if network.mode == Mode::Managed && network.has_ipv6() {
        steps.push(Step::sysctl(
            Side::Host,
            format!("net/ipv6/conf/{}/accept_dad", veth.host),
            "0",
        ));
    }
    steps.push(Step::SetUp {
        side: Side::Host,
        link: veth.host.clone(),
    });
    steps
}

fn container_end(attachment: &BridgeAttachment) -> Vec<Step> {
    let (network, link) = (&attachment.network, &attachment.interface);
    let mut steps = Vec::new();
    if network.mode == Mode::Managed {
        steps.push(Step::Sysctl(Sysctl {
            side: Side::Container,
            key: format!("net/ipv6/conf/{link}/autoconf"),
            value: "0".to_owned(),
            optional: true,
        }));
        if network.has_ipv6() {
            steps.push(Step::sysctl(
                Side::Container,
                format!("net/ipv6/conf/{link}/accept_dad"),
                "0",
            ));
        }
        steps.push(Step::Sysctl(Sysctl {
            side: Side::Container,
            key: format!("net/ipv4/conf/{link}/arp_notify"),
            value: "1".to_owned(),
            optional: true,
        }));
        steps.push(Step::sysctl(
            Side::Container,
            format!("net/ipv4/conf/{link}/rp_filter"),
            "2",
        ));
    }
    steps.extend(attachment.addresses.iter().map(|address| Step::AddAddress {
        side: Side::Container,
        link: link.clone(),
        address: address.address,
        at_once: network.mode == Mode::Managed,
    }));
    steps
}
