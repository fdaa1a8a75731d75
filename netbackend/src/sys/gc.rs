//! Takes away what a crashed engine left behind.
//!
//! All of it happens under the lock of all calls, so setups and teardowns wait, or are waited for. Dead
//! containers leave like living ones, each with a journal, so a kill leaves what the next call repairs.
//! Everything else goes by single steps that are found again as long as they are not done. In the end the
//! rules are written anew from what is left, in one transaction. Leases are given back by their proxy, each on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::de::DeserializeOwned;
use wire::names::{ContainerId, InterfaceName, NetworkId};
use wire::state::ContainerRecord;
use wire::zone::scan;

use super::apply::Change;
use super::netns::{self, Namespace};
use super::{Host, SysError, call, dhcp, dns, files, link};
use crate::gc::{self, Facts, Finding, Misplaced};
use crate::observed::FirewallDriver;
use crate::plan::firewall::{Change as FilterChange, ChangeKind};
use crate::plan::step::{Step, Wanted};
use crate::plan::{layout, names, ruleset};

/// Why nothing was taken away.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is the message of its source")]
pub enum NotCollected {
    #[error(transparent)]
    Sys(#[from] SysError),
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
}

/// What was taken away, and what could not be.
#[derive(Debug, Default)]
pub struct Collected {
    /// What was found.
    pub findings: Vec<Finding>,
    /// What failed. It is found again by the next call.
    pub errors: Vec<String>,
}

/// Whether there can be anything at all.
#[must_use]
pub fn is_idle(config: &Path) -> bool {
    !config.exists() && !dhcp::has_record()
}

/// What there is to take away. Nothing is changed.
///
/// # Errors
/// Records or links cannot be listed, or this is the wrong place.
pub async fn look(host: &mut Host, force: bool) -> Result<Vec<Finding>, NotCollected> {
    let facts = facts(host).await?;
    let mut findings = gc::find(&facts, force)?;
    let remains = |network: &&NetworkId| {
        !findings
            .iter()
            .any(|finding| matches!(finding, Finding::Network(gone) if gone.id == **network))
    };
    let idle = facts.networks.keys().filter(remains).count() == 0
        && facts.containers.is_empty()
        && facts.unreadable.is_empty()
        && facts.interrupted.is_none();
    let netavarks = findings
        .iter()
        .filter(|finding| matches!(finding, Finding::NetworkFile(..)))
        .count();
    let idle = idle && netavarks == facts.netavark_networks.len();
    if idle && filters(host) {
        let chains = host.nft()?.chain_names(ruleset::TABLE);
        if !chains.map_err(SysError::from)?.is_empty() {
            findings.push(Finding::Rules);
        }
    }
    Ok(findings)
}

fn filters(host: &Host) -> bool {
    host.settings.firewall != FirewallDriver::None
}

/// Takes away what was left behind.
///
/// # Errors
/// It cannot be found out, or this is the wrong place. What fails afterwards is in the outcome.
pub async fn collect<P>(
    host: &mut Host,
    force: bool,
    mut perform: P,
) -> Result<Collected, NotCollected>
where
    P: AsyncFnMut(&mut Host, &Step) -> Result<Change, SysError>,
{
    let mut findings = look(host, force).await?;
    findings.retain(|finding| matches!(finding, Finding::Interrupted(_)));
    call::repair(host).await?;
    findings.extend(look(host, force).await?);
    let mut errors = Vec::new();
    let mut names_change = false;
    for finding in &findings {
        if let Finding::Container(container, _) = finding {
            errors.extend(leave(host, container, &mut perform).await?);
            continue;
        }
        if let Finding::Lease(lease) = finding {
            let done = dhcp::give_back_stale(lease).await;
            errors.extend(done.err().map(|error| error.to_string()));
            continue;
        }
        names_change |= matches!(
            finding,
            Finding::Zone(_) | Finding::Network(_) | Finding::Member(..)
        );
        for step in finding.steps(&host.settings) {
            note(perform(host, &step).await, &mut errors);
        }
    }
    if names_change {
        let tell = Step::NotifyDns(names::service(&host.settings, Wanted::BestEffort));
        note(perform(host, &tell).await, &mut errors);
    }
    let (ours, rules) = rules(host)?;
    if filters(host) && (ours || !findings.is_empty()) {
        note(perform(host, &rules).await, &mut errors);
    }
    Ok(Collected { findings, errors })
}

/// Takes a dead container off its networks. The journal of what fails is good for one more try, at once.
async fn leave<P>(
    host: &mut Host,
    container: &ContainerRecord,
    perform: P,
) -> Result<Vec<String>, SysError>
where
    P: AsyncFnMut(&mut Host, &Step) -> Result<Change, SysError>,
{
    let failed = call::detach_dead(host, container, perform).await?;
    if !failed.is_empty() {
        call::repair(host).await?;
    }
    Ok(failed.iter().map(ToString::to_string).collect())
}

fn note(outcome: Result<Change, SysError>, errors: &mut Vec<String>) {
    if let Err(error) = outcome {
        errors.push(error.to_string());
    }
}

/// The rules of what is on record now, and whether any of it is ours: those of netavark alone are its own business.
fn rules(host: &Host) -> Result<(bool, Step), SysError> {
    let all = host.state.everything()?;
    let kind = if all.networks.is_empty() {
        ChangeKind::Clear
    } else {
        ChangeKind::Rebuild
    };
    let rules = Step::Firewall(FilterChange {
        kind,
        ..FilterChange::default()
    });
    let mut containers = all
        .containers
        .iter()
        .flat_map(|container| &container.attachments);
    Ok((
        containers.any(|attachment| attachment.netns_inode != 0),
        rules,
    ))
}

pub(super) async fn facts(host: &mut Host) -> Result<Facts, SysError> {
    let mut facts = Facts {
        links: host.links.all().await?,
        addresses: host.links.all_addresses().await?,
        ..Facts::default()
    };
    let config = host.settings.config.clone();
    read_records(host, &mut facts)?;
    facts.namespaces = standing(&facts);
    facts.netavark_networks = documents(&layout::firewall_networks(&config))?;
    facts.netavark_ports = documents(&layout::all_firewall_ports(&config))?;
    facts.zones = zones(&layout::zones(&config))?;
    if !host.settings.rootless {
        facts.leases = dhcp::on_record();
    }
    facts.responder_elsewhere = dns::is_elsewhere(&layout::zones(&config));
    let bridges: BTreeSet<InterfaceName> = facts
        .netavark_networks
        .iter()
        .filter_map(|network| network.bridge_name.parse().ok())
        .collect();
    for bridge in bridges {
        match host.links.ports(&bridge).await {
            Ok(ports) if ports.is_empty() => drop(facts.empty_bridges.insert(bridge)),
            Ok(_) => {}
            Err(error) if link::is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    judge_ports(host, &mut facts).await?;
    Ok(facts)
}

/// Ports of our bridges that no record tells of: can anybody come back to their other ends?
async fn judge_ports(host: &Host, facts: &mut Facts) -> Result<(), SysError> {
    let containers = facts.containers.iter();
    let attachments = containers.flat_map(|container| &container.attachments);
    let known: BTreeSet<&InterfaceName> = attachments.map(|on| &on.host_interface).collect();
    let networks = facts.networks.values();
    let bridges: BTreeSet<&InterfaceName> = networks
        .filter(|network| network.owns_bridge && facts.links.contains_key(&network.bridge))
        .map(|network| &network.bridge)
        .collect();
    let mut unknown = Vec::new();
    for bridge in bridges {
        let ports = host.links.veth_ports(bridge).await?.into_iter();
        let ports = ports.filter(|(port, ..)| !known.contains(port));
        unknown.extend(ports.map(|port| (bridge.clone(), port)));
    }
    // A record that cannot be read, or a call that was killed, may tell of any of them.
    let unsure = !facts.unreadable.is_empty() || facts.interrupted.is_some();
    let inhabited = if unknown.is_empty() || unsure {
        None
    } else {
        inhabited(host).await?
    };
    for (bridge, (port, mac, namespace)) in unknown {
        if inhabited
            .as_ref()
            .is_some_and(|inhabited| !inhabited.contains(&namespace))
        {
            facts.abandoned.push((bridge, port, mac));
        } else {
            facts.strangers.insert(bridge);
        }
    }
    Ok(())
}

/// The kernel's numbers of all namespaces that somebody could come back to, unless some may be hidden from us.
async fn inhabited(host: &Host) -> Result<Option<BTreeSet<i32>>, SysError> {
    let paths = match netns::inhabited() {
        Ok(paths) => paths,
        Err(error) => {
            tracing::warn!(
                "list network namespaces: {error}: interfaces without a record are left alone"
            );
            return Ok(None);
        }
    };
    let mut numbers = BTreeSet::new();
    for path in paths.into_values() {
        match Namespace::open(&path) {
            Ok(namespace) => numbers.extend(host.links.namespace_number(namespace.as_fd()).await?),
            // Its process has ended meanwhile. Where it was, others may be.
            Err(SysError::NetnsPath(error)) if files::is_gone(&error) => return Ok(None),
            Err(error) => {
                tracing::warn!(
                    "{}: {error}: interfaces without a record are left alone",
                    path.display()
                );
                return Ok(None);
            }
        }
    }
    Ok(Some(numbers))
}

fn read_records(host: &Host, facts: &mut Facts) -> Result<(), SysError> {
    let config = &host.settings.config;
    facts.interrupted = match host.state.journal() {
        Ok(journal) => journal.map(|journal| journal.container.id),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    };
    for id in parsed::<ContainerId>(&layout::containers(config))? {
        match host.state.container(&id) {
            Ok(Some(container)) => facts.containers.push(container),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("{error}: it is left alone");
                facts.unreadable.insert(id);
            }
        }
    }
    for id in parsed::<NetworkId>(&layout::networks(config))? {
        let members = parsed(&layout::members(config, &id))?;
        facts
            .members
            .insert(id.clone(), members.into_iter().collect());
        match host.state.network(&id) {
            Ok(Some(network)) => drop(facts.networks.insert(id, network)),
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}: it is left alone"),
        }
    }
    for bridge in parsed::<InterfaceName>(&layout::bridges(config))? {
        let users = parsed(&layout::bridge(config, &bridge))?;
        facts
            .bridge_users
            .insert(bridge, users.into_iter().collect());
    }
    Ok(())
}

/// Namespaces on record that are not gone: those that are where they were, and those that somebody is in, holds
/// or has mounted elsewhere. That is asked only when it matters: it takes a look at every process.
fn standing(facts: &Facts) -> BTreeSet<u64> {
    let containers = facts.containers.iter();
    let all = containers.flat_map(|container| {
        let bridges = container.attachments.iter();
        let bridges = bridges.map(|on| (Path::new(&on.netns), on.netns_inode));
        let others = container.others.iter();
        bridges.chain(others.map(|on| (Path::new(&on.netns), on.netns_inode)))
    });
    let all: Vec<(&Path, u64)> = all.collect();
    let is_there = |(path, inode): &&(&Path, u64)| {
        Namespace::open(path).is_ok_and(|namespace| namespace.facts().inode == *inode)
    };
    let mut standing: BTreeSet<u64> = all
        .iter()
        .filter(is_there)
        .map(|(_, inode)| *inode)
        .collect();
    if all.iter().all(|(_, inode)| standing.contains(inode)) {
        return standing;
    }
    match netns::inhabited() {
        Ok(inhabited) => {
            let inodes = all.iter().map(|(_, inode)| *inode);
            standing.extend(inodes.filter(|inode| inhabited.contains_key(inode)));
        }
        Err(error) => {
            tracing::warn!(
                "list network namespaces: {error}: only those whose paths are gone count as gone"
            );
            let hidden = all.iter().filter(|(path, _)| path.exists());
            standing.extend(hidden.map(|(_, inode)| *inode));
        }
    }
    standing
}

/// The names in a directory that are names of this kind.
fn parsed<T: std::str::FromStr>(directory: &Path) -> Result<Vec<T>, SysError> {
    let names = listed(directory)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

fn listed(directory: &Path) -> Result<Vec<String>, SysError> {
    files::names(directory).map_err(SysError::io(format!("read {}", directory.display())))
}

/// The documents of a directory that can be read.
fn documents<T: DeserializeOwned>(directory: &Path) -> Result<Vec<T>, SysError> {
    let mut documents = Vec::new();
    for name in listed(directory)? {
        let path = directory.join(name);
        let text = files::read(&path).map(Option::unwrap_or_default);
        match text.map(|text| serde_json::from_str(&text)) {
            Ok(Ok(document)) => documents.push(document),
            Ok(Err(error)) => tracing::warn!("read {}: {error}", path.display()),
            Err(error) => tracing::warn!("read {}: {error}", path.display()),
        }
    }
    Ok(documents)
}

fn zones(directory: &Path) -> Result<BTreeMap<String, Vec<std::net::IpAddr>>, SysError> {
    let mut zones = BTreeMap::new();
    for name in listed(directory)? {
        let text = files::read(&directory.join(&name)).ok().flatten();
        let text = text.unwrap_or_default();
        if let Ok(zone) = scan::scan(text.as_bytes()) {
            zones.insert(name, zone.header.listen);
        }
    }
    Ok(zones)
}
