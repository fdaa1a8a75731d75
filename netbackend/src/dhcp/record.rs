//! Leases on record: what a proxy that starts anew, or the collector of what was left, finds in the file of leases.
//!
//! The file is another program's word: whatever cannot be understood is left out and counted, and takes nothing else
//! with it. A lease without our part was written by netavark, which leaves too little to go on with.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use wire::names::{InterfaceName, MacAddr};
use wire::proxy::{KeptLease, NetworkConfig, Version};

use super::{Moment, Terms};

/// Netavark leaves zero bytes before what it has written last.
const PADDING: [char; 3] = ['\0', '\n', ' '];

/// A lease on record that can be gone on with, or given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// As it stands in the file.
    pub kept: KeptLease,
    /// The request.
    pub config: NetworkConfig,
    /// The MAC address that it was leased to.
    pub mac: MacAddr,
    /// The interface of the container.
    pub container: InterfaceName,
    /// The interface of the host that leads to the server.
    pub host: InterfaceName,
    /// The inode of the container's namespace.
    pub netns_inode: u64,
    /// What was leased.
    pub terms: Terms,
    /// That the server did not say so yet.
    pub unconfirmed: bool,
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// What can be gone on with.
    pub leases: Vec<Recorded>,
    /// Addresses (or what stands there) of leases that lack what it takes.
    pub incomplete: Vec<String>,
}

/// The file is no object of lists.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Damaged(#[from] serde_json::Error);

/// The leases of a file. A lease is as old as the calendar says; one that begins in the future begins now.
///
/// # Errors
/// It is not such a file.
pub fn read(text: &str, now: Moment, calendar: Duration) -> Result<Records, Damaged> {
    let text = text.trim_matches(PADDING);
    let mut records = Records::default();
    if text.is_empty() {
        return Ok(records);
    }
    let all: BTreeMap<String, Vec<Value>> = serde_json::from_str(text)?;
    for value in all.into_values().flatten() {
        let address = value["yiaddr"].as_str().unwrap_or("?").to_owned();
        let kept = serde_json::from_value(value).ok();
        match kept.and_then(|kept| recorded(kept, now, calendar)) {
            Some(lease) => records.leases.push(lease),
            None => records.incomplete.push(address),
        }
    }
    Ok(records)
}

/// The text of the file without one of its leases. Everything else stays as it is, whether we understand it or not.
///
/// # Errors
/// It is not such a file.
pub fn without(text: &str, lease: &KeptLease) -> Result<String, Damaged> {
    let text = text.trim_matches(PADDING);
    if text.is_empty() {
        return Ok(String::new());
    }
    let mut all: BTreeMap<String, Vec<Value>> = serde_json::from_str(text)?;
    for leases in all.values_mut() {
        leases.retain(|value| KeptLease::deserialize(value).ok().as_ref() != Some(lease));
    }
    all.retain(|_, leases| !leases.is_empty());
    Ok(serde_json::to_string(&all)?)
}

fn recorded(kept: KeptLease, now: Moment, calendar: Duration) -> Option<Recorded> {
    let ours = kept.netbackend.as_ref()?;
    let terms = terms(&kept, now, calendar)?;
    let is_v6 = ours.config.version == Version::V6;
    Some(Recorded {
        config: ours.config.clone(),
        mac: ours.config.container_mac_addr.parse().ok()?,
        container: ours.config.container_iface.parse().ok()?,
        host: ours.config.host_iface.parse().ok()?,
        netns_inode: ours.netns_inode,
        unconfirmed: ours.unconfirmed,
        terms: (terms.address.addr().is_ipv6() == is_v6).then_some(terms)?,
        kept,
    })
}

/// The terms of a lease on record.
#[must_use]
pub fn terms(kept: &KeptLease, now: Moment, calendar: Duration) -> Option<Terms> {
    let ours = kept.netbackend.as_ref()?;
    let age = calendar.saturating_sub(Duration::from_secs(ours.since));
    let (digits, _) = ours.server_duid.as_bytes().as_chunks::<2>();
    let duid = digits
        .iter()
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    // Where the machine has started since then, it began before our clock did.
    let since = now.saturating_sub(age);
    Terms::from_lease(
        &kept.lease,
        ours.routes.clone(),
        ours.server_mac,
        duid,
        since,
    )
}
