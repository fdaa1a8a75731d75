//! The steps for one link on top of another one: macvlan and ipvlan.
//!
//! Such a link is made inside the container's namespace right away and is all there is: it has no part on
//! the host, passes no packet filter of ours, and goes with the namespace. So its record is for the call
//! that is killed, and for leases.

use std::collections::BTreeSet;

use wire::names::{InterfaceName, MacAddr};
use wire::state::{OtherMade, OtherRecord, SublinkRecord};

use super::Obstacle;
use super::address::Addressing;
use super::step::{Lease, NewSublink, Side, Step, Sysctl};
use crate::observed::Observed;
use crate::request::{SetupRequest, SublinkAttachment, sublink};

/// What has to be done for one attachment.
#[derive(Debug)]
pub(super) struct Attached {
    /// What is done before the packet filter knows.
    pub before_filter: Vec<Step>,
    /// What is done after.
    pub after_filter: Vec<Step>,
    /// The MAC address that the interface is going to have, as far as can be told.
    pub mac: MacAddr,
    /// What goes into the journal.
    pub record: OtherRecord,
}

/// Plans the attachment with this number, where the container has default routes of these metrics.
///
/// # Errors
/// The parent is missing, or the container has an interface of this name.
pub(super) fn attach(
    number: usize,
    attachment: &SublinkAttachment,
    metrics: &BTreeSet<u32>,
    request: &SetupRequest,
    observed: &Observed,
) -> Result<Attached, Obstacle> {
    let network = &attachment.network;
    let (parent, parent_mac) = parent(attachment, observed)?;
    if observed.taken.contains(&attachment.interface) {
        let driver = network.kind.driver();
        let interface = attachment.interface.clone();
        return Err(Obstacle::InterfaceExists { driver, interface });
    }
    let addressing = Addressing::from(attachment);
    let [random_mac, random_name, _] = observed.entropy.get(number).copied().unwrap_or_default();
    let new = NewSublink {
        kind: network.kind,
        parent: parent.clone(),
        name: attachment.interface.clone(),
        temporary: temporary_name(random_name),
        mac: (!network.kind.shares_mac()).then(|| {
            let derived = || addressing.derived_mac(&network.id, &request.container);
            let chosen = attachment.mac.or_else(derived);
            chosen.unwrap_or_else(|| MacAddr::local(random_mac))
        }),
        mtu: network.mtu,
    };
    let mac = new.mac.unwrap_or(parent_mac);
    let metric = addressing.default_metric(metrics);
    let lease = attachment.lease.then(|| Lease {
        container: request.container.clone(),
        interface: attachment.interface.clone(),
        host_interface: parent,
        mac,
        hostname: request.hostname.clone(),
        metric,
        v6: attachment.lease6,
        keep_mtu: network.mtu.is_some(),
    });
    let record = OtherRecord {
        network: network.id.clone(),
        name: network.name.clone(),
        netns: observed.netns.path.clone(),
        netns_inode: observed.netns.inode,
        default_metric: metric,
        made: OtherMade::Sublink(SublinkRecord {
            interface: attachment.interface.clone(),
            temporary: new.temporary.clone(),
            detached_routes: sublink::detached(&network.routes),
            lease: lease.as_ref().map(Lease::record),
        }),
    };
    Ok(Attached {
        before_filter: make(attachment, new),
        after_filter: addressing.switch_on(metric, lease),
        mac,
        record,
    })
}

/// The interface below, and its MAC address.
fn parent(
    attachment: &SublinkAttachment,
    observed: &Observed,
) -> Result<(InterfaceName, MacAddr), Obstacle> {
    let parent = attachment.network.parent.as_ref();
    let parent = parent
        .or(observed.default_parent.as_ref())
        .ok_or(Obstacle::NoDefaultRoute)?;
    let mac = observed.parents.get(parent).copied();
    let mac = mac.ok_or_else(|| Obstacle::NoParent(parent.clone()))?;
    Ok((parent.clone(), mac))
}

/// A name that nobody else has: it is as long as 48 bits of entropy in base 36.
fn temporary_name(entropy: [u8; 6]) -> Option<InterfaceName> {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number = entropy
        .iter()
        .fold(0_u64, |number, octet| number << 8 | u64::from(*octet));
    let mut name = "mv-".to_owned();
    for _ in 0..10 {
        let digit = usize::try_from(number % 36).ok()?;
        name.push(char::from(*DIGITS.get(digit)?));
        number /= 36;
    }
    name.parse().ok()
}

fn make(attachment: &SublinkAttachment, new: NewSublink) -> Vec<Step> {
    let link = &attachment.interface;
    let mut steps = vec![
        Step::CreateSublink(new),
        Step::Sysctl(Sysctl {
            side: Side::Container,
            key: format!("net/ipv6/conf/{link}/autoconf"),
            value: "0".to_owned(),
            optional: true,
        }),
    ];
    let address = |address: &crate::request::Address| Step::AddAddress {
        side: Side::Container,
        link: link.clone(),
        address: address.address,
        at_once: false,
    };
    steps.extend(attachment.addresses.iter().map(address));
    steps
}
