//! Addresses and routes inside a container, whichever link they are for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sha2::{Digest, Sha512};
use wire::names::{ContainerId, InterfaceName, MacAddr, NetworkId};
use wire::state::LeaseRecord;

use super::step::{Lease, Side, Step};
use crate::request::{Address, BridgeAttachment, StaticRoute, SublinkAttachment};

/// What a link inside a container gets once it is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addressing<'a> {
    /// The interface.
    link: &'a InterfaceName,
    /// Its addresses.
    addresses: &'a [Address],
    /// Whether a DHCP server gives it an address.
    leased: bool,
    /// Its static routes.
    routes: &'a [StaticRoute],
    /// The metric of default routes.
    metric: u32,
    /// Whether there are default routes at all.
    default_route: bool,
}

impl<'a> From<&'a BridgeAttachment> for Addressing<'a> {
    fn from(attachment: &'a BridgeAttachment) -> Self {
        let network = &attachment.network;
        Self {
            link: &attachment.interface,
            addresses: &attachment.addresses,
            leased: attachment.lease,
            routes: &network.routes,
            metric: network.metric,
            default_route: network.default_route && !network.internal,
        }
    }
}

impl<'a> From<&'a SublinkAttachment> for Addressing<'a> {
    fn from(attachment: &'a SublinkAttachment) -> Self {
        let network = &attachment.network;
        Self {
            link: &attachment.interface,
            addresses: &attachment.addresses,
            leased: attachment.lease,
            routes: &network.routes,
            metric: network.metric,
            default_route: network.default_route && !network.internal,
        }
    }
}

impl Addressing<'_> {
    /// The metric of the default routes: that of the network, or the next one that is free, so that the way
    /// out is that of the first network whichever the kernel sees first.
    pub(super) fn default_metric(&self, taken: &BTreeSet<u32>) -> Option<u32> {
        let mut gateways = self.addresses.iter().map(|address| address.gateway);
        let wanted =
            self.default_route && (self.leased || gateways.any(|gateway| gateway.is_some()));
        let mut free = (self.metric..=u32::MAX).filter(|metric| !taken.contains(metric));
        wanted.then(|| free.next()).flatten()
    }

    /// Switches the interface on and adds routes.
    pub(super) fn switch_on(&self, metric: Option<u32>, lease: Option<Lease>) -> Vec<Step> {
        let link = self.link;
        let mut steps = vec![Step::SetUp {
            side: Side::Container,
            link: link.clone(),
        }];
        if let Some(metric) = metric {
            let route = |gateway: IpAddr| Step::AddDefaultRoute {
                link: link.clone(),
                gateway,
                metric,
            };
            let gateways = [self.first_gateway(true), self.first_gateway(false)];
            steps.extend(gateways.into_iter().flatten().map(route));
        }
        steps.extend(lease.map(Step::TakeLease));
        steps.extend(self.routes.iter().cloned().map(Step::AddRoute));
        steps
    }

    fn first_gateway(&self, v4: bool) -> Option<IpAddr> {
        let mut gateways = self.addresses.iter().filter_map(|address| address.gateway);
        gateways.find(|gateway| gateway.is_ipv4() == v4)
    }
}

impl Addressing<'_> {
    /// A MAC address made of the network and the first address. So a container that comes again with its
    /// address comes with the same MAC address, and no neighbour is left with a stale one, which would cost it
    /// the connection for half a minute. One that gets its address from a DHCP server gets the same one by its
    /// id.
    pub(super) fn derived_mac(
        &self,
        network: &NetworkId,
        container: &ContainerId,
    ) -> Option<MacAddr> {
        let derived = |of: &dyn std::fmt::Display| {
            let digest = Sha512::digest(format!("{network} {of}"));
            digest.first_chunk().copied().map(MacAddr::local)
        };
        match self.addresses.first() {
            Some(address) => derived(&address.address.addr()),
            None if self.leased => derived(container),
            None => None,
        }
    }
}

impl Lease {
    /// What it takes to give back the lease of this record.
    pub(super) fn recorded(
        container: &ContainerId,
        interface: &InterfaceName,
        record: &LeaseRecord,
    ) -> Self {
        Self {
            container: container.clone(),
            interface: interface.clone(),
            host_interface: record.host_interface.clone(),
            mac: record.mac,
            hostname: record.hostname.clone(),
            metric: None,
            v6: record.v6,
            keep_mtu: true,
        }
    }

    /// What goes on record of it.
    pub(super) fn record(&self) -> LeaseRecord {
        LeaseRecord {
            host_interface: self.host_interface.clone(),
            mac: self.mac,
            hostname: self.hostname.clone(),
            v6: self.v6,
        }
    }
}
