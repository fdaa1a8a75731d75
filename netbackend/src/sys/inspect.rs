//! Reads what [`crate::inspect`] lays side by side: records, links, namespaces, rules, names. Nothing is locked, nothing
//! is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use wire::names::{ContainerId, InterfaceName};
use wire::state::ContainerRecord;
use wire::zone::scan;

use super::link::Links;
use super::netns::{self, Namespace};
use super::state::Everything;
use super::{Host, SysError, dns, files, observe, reload};
use crate::inspect::{Facts, LinkFacts, Rules};
use crate::observed::{FirewallDriver, Settings, TableState};
use crate::plan::{firewall, layout};

/// Looks at everything on record and at its traces on the host.
///
/// # Errors
/// The records cannot be listed, or the host's interfaces.
pub async fn facts(settings: &Settings) -> Result<Facts, SysError> {
    let driver = reload::recorded_driver(settings);
    let (firewall, unsure) = match driver {
        Ok(driver) => (driver.unwrap_or(FirewallDriver::Nftables), None),
        Err(error) => (FirewallDriver::None, Some(error.to_string())),
    };
    let mut host = Host::look(Settings {
        firewall,
        ..settings.clone()
    })?;
    let Everything {
        networks,
        containers,
        mut problems,
    } = host.state.everything()?;
    problems.extend(unsure);
    let zones = layout::zones(&settings.config);
    let mut facts = Facts {
        zones: read_zones(&zones, &mut problems),
        responder: dns::runs_here(&zones),
        links: host.links.facts().await?,
        uplink: host.links.way_out().await?,
        namespaces: namespaces(&containers).await,
        networks,
        containers,
        problems,
        rules: Rules::default(),
    };
    facts.rules = rules(&mut host, &facts);
    Ok(facts)
}

fn rules(host: &mut Host, facts: &Facts) -> Rules {
    match host.settings.firewall {
        FirewallDriver::Nftables => {}
        FirewallDriver::Firewalld => return Rules::Unknown("they are firewalld's".to_owned()),
        FirewallDriver::None => return Rules::Unknown("no driver filters packets".to_owned()),
    }
    let mut wanted = firewall::all_elements(&facts.networks, &facts.containers);
    firewall::merge_subnets(&mut wanted);
    let look = |host: &mut Host| match observe::table(host)? {
        TableState::Unsound => Ok(Rules::Broken),
        TableState::Sound => Ok(Rules::Sound(host.missing_elements(&wanted)?)),
    };
    look(host).unwrap_or_else(|error: SysError| Rules::Unknown(error.to_string()))
}

/// The names in each zone file; a file that is being written gives those that it has so far.
fn read_zones(
    directory: &Path,
    problems: &mut Vec<String>,
) -> BTreeMap<String, BTreeMap<ContainerId, Vec<String>>> {
    let mut zones = BTreeMap::new();
    for file in files::names(directory).unwrap_or_default() {
        if file == dns::PID_FILE {
            continue;
        }
        let path = directory.join(&file);
        let text = files::read(&path).map(Option::unwrap_or_default);
        let mut names: BTreeMap<ContainerId, Vec<String>> = BTreeMap::new();
        match text.as_ref().map(|text| scan::scan(text.as_bytes())) {
            Ok(Ok(zone)) => {
                for line in zone.lines.flatten() {
                    if let Ok(id) = line.id.parse() {
                        let known = names.entry(id).or_default();
                        known.extend(line.names().map(str::to_owned));
                    }
                }
            }
            Ok(Err(error)) => problems.push(format!("{}: {error}", path.display())),
            Err(error) => problems.push(format!("{}: {error}", path.display())),
        }
        zones.insert(file, names);
    }
    zones
}

/// The links in each namespace on record that is still there.
async fn namespaces(
    containers: &[ContainerRecord],
) -> BTreeMap<u64, Result<BTreeMap<InterfaceName, LinkFacts>, String>> {
    let mut found = BTreeMap::new();
    let mut elsewhere = None;
    for (path, inode) in containers.iter().flat_map(places) {
        if inode == 0 || found.contains_key(&inode) {
            continue;
        }
        let here = open_same(path.as_ref(), inode);
        let namespace = here.or_else(|| {
            // One whose path is gone may live on with its processes. That takes a look at every one of them.
            let all = elsewhere.get_or_insert_with(|| netns::inhabited().unwrap_or_default());
            open_same(all.get(&inode)?, inode)
        });
        if let Some(namespace) = namespace {
            let links = links_in(&namespace).await;
            found.insert(inode, links.map_err(|error| error.to_string()));
        }
    }
    found
}

fn open_same(path: &Path, inode: u64) -> Option<Namespace> {
    let namespace = Namespace::open(path).ok()?;
    (namespace.facts().inode == inode).then_some(namespace)
}

/// The namespaces of a container: one, unless it came back in another while it was still on record.
fn places(container: &ContainerRecord) -> BTreeSet<(PathBuf, u64)> {
    let bridges = container.attachments.iter();
    let bridges = bridges.map(|on| (PathBuf::from(&on.netns), on.netns_inode));
    let others = container.others.iter();
    bridges
        .chain(others.map(|on| (PathBuf::from(&on.netns), on.netns_inode)))
        .collect()
}

async fn links_in(namespace: &Namespace) -> Result<BTreeMap<InterfaceName, LinkFacts>, SysError> {
    let links = namespace.enter(|| Links::open("container"))??;
    links.facts().await
}
