//! The look at the host before planning.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use wire::names::{InterfaceName, NetworkId};
use wire::state::{ContainerRecord, NetworkRecord};
use wire::zone;

use super::{Host, SysError, files, link};
use crate::observed::{
    BridgeFilter, BridgeLink, FirewallDriver, LinkKind, Observed, TableState, TeardownObserved,
};
use crate::plan::{layout, ruleset};
use crate::request::{Attachment, Mode, SetupRequest, TeardownRequest};

/// Whether systemd manages this host.
const SYSTEMD: &str = "/run/systemd/system";

/// The facts for a setup.
///
/// # Errors
/// The kernel or the state directory cannot be read.
pub async fn setup(host: &mut Host, request: &SetupRequest) -> Result<Observed, SysError> {
    let netns = host.inside()?.namespace.facts().clone();
    let wanted: BTreeSet<&InterfaceName> = request
        .attachments
        .iter()
        .map(|attachment| &attachment.network.bridge)
        .collect();
    let container = host.state.container(&request.container)?;
    let ids = request
        .attachments
        .iter()
        .map(|attachment| &attachment.network.id);
    let networks = networks(host, ids, container.as_ref())?;
    let mut bridge_peers = Vec::new();
    for bridge in &wanted {
        bridge_peers.extend(host.state.bridge_users(bridge)?);
    }
    let ids = || {
        request
            .attachments
            .iter()
            .map(|attachment| attachment.network.id.clone())
    };
    let dns_available = host.settings.dns_binary.is_file();
    let bridges = bridges(host, request).await?;
    Ok(Observed {
        netns,
        vrfs: vrfs(host, request).await?,
        default_mtu: default_mtu(host, request, &bridges).await?,
        advertised: advertised(host, request, &bridges).await?,
        bridges,
        netavark_networks: ids()
            .filter(|id| !networks.contains_key(id) && host.state.netavark_network(id))
            .collect(),
        networks,
        bridge_peers,
        container,
        veth_names: free_names(request)?,
        entropy: entropy(request.attachments.len())?,
        table: table(host)?,
        dns_available,
        systemd: Path::new(SYSTEMD).exists(),
        bridge_filter: BridgeFilter {
            ipv4: setting("net/bridge/bridge-nf-call-iptables", "1"),
            ipv6: setting("net/bridge/bridge-nf-call-ip6tables", "1"),
        },
    })
}

/// The facts for a teardown.
///
/// # Errors
/// The kernel or the state directory cannot be read.
pub fn teardown(host: &mut Host, request: &TeardownRequest) -> Result<TeardownObserved, SysError> {
    let mut damaged = false;
    let container = readable(host.state.container(&request.container), &mut damaged);
    let ids = request.networks.iter().map(|network| &network.id);
    let attached = attached_networks(container.as_ref());
    let mut networks = BTreeMap::new();
    for id in ids.chain(attached) {
        let record = readable(host.state.network(id), &mut damaged);
        networks.extend(record.map(|network| (id.clone(), network)));
    }
    let mut observed = teardown_with(host, request, container, networks)?;
    if damaged {
        // What they said of the table is lost; it is written anew from the others.
        observed.table = TableState::Unsound;
    }
    Ok(observed)
}

/// A record, if it can be read. A damaged one must not keep anybody from leaving.
fn readable<T>(record: Result<Option<T>, SysError>, damaged: &mut bool) -> Option<T> {
    record.unwrap_or_else(|error| {
        tracing::error!("{error}");
        *damaged = true;
        None
    })
}

/// The networks that a container is on.
fn attached_networks(container: Option<&ContainerRecord>) -> impl Iterator<Item = &NetworkId> {
    container.into_iter().flat_map(|record| {
        record
            .attachments
            .iter()
            .map(|attachment| &attachment.network)
    })
}

/// The facts for a teardown whose records are not those on file.
///
/// # Errors
/// The kernel or the state directory cannot be read.
pub fn teardown_with(
    host: &mut Host,
    request: &TeardownRequest,
    container: Option<ContainerRecord>,
    networks: BTreeMap<NetworkId, NetworkRecord>,
) -> Result<TeardownObserved, SysError> {
    let mut shared_networks = BTreeSet::new();
    let mut bridge_peers = Vec::new();
    for (id, network) in &networks {
        let state = &host.state;
        if state.has_other_member(id, &request.container)?
            || state.has_other_netavark_ports(id, &request.container)?
        {
            shared_networks.insert(id.clone());
        }
        let peers = host.state.bridge_users(&network.bridge)?;
        bridge_peers.extend(
            peers
                .into_iter()
                .filter(|peer| !networks.contains_key(&peer.id)),
        );
    }
    let attached = |id: &&NetworkId| {
        let recorded = container
            .iter()
            .flat_map(|record| &record.attachments)
            .any(|attachment| attachment.network == **id);
        !recorded && host.state.netavark_ports(id, &request.container)
    };
    let netavark_attached: BTreeSet<NetworkId> = request
        .networks
        .iter()
        .map(|network| &network.id)
        .filter(attached)
        .cloned()
        .collect();
    let mut known: BTreeSet<&NetworkId> = networks.keys().collect();
    for id in &netavark_attached {
        if host
            .state
            .has_other_netavark_ports(id, &request.container)?
        {
            shared_networks.insert(id.clone());
        } else {
            known.insert(id);
        }
    }
    let other_networks = host.state.has_network_but(&known)?;
    let zones = layout::zones(&host.settings.config);
    let recorded = container
        .iter()
        .flat_map(|record| &record.attachments)
        .filter_map(|attachment| attachment.zone_file.clone());
    let named = request
        .networks
        .iter()
        .flat_map(|network| [true, false].map(|internal| zone::file_name(&network.name, internal)));
    let zone_files = recorded
        .chain(named)
        .filter(|file| zones.join(file).is_file())
        .collect();
    Ok(TeardownObserved {
        networks,
        shared_networks,
        bridge_peers,
        netavark_attached,
        other_networks,
        netns_alive: host.container.is_some(),
        table: table(host)?,
        zone_files,
        container,
    })
}

/// Records of these networks and of those that the container is on.
fn networks<'a>(
    host: &Host,
    ids: impl Iterator<Item = &'a NetworkId>,
    container: Option<&'a ContainerRecord>,
) -> Result<BTreeMap<NetworkId, NetworkRecord>, SysError> {
    let mut networks = BTreeMap::new();
    for id in ids.chain(attached_networks(container)) {
        if let Some(network) = host.state.network(id)? {
            networks.insert(id.clone(), network);
        }
    }
    Ok(networks)
}

async fn bridges(
    host: &Host,
    request: &SetupRequest,
) -> Result<BTreeMap<InterfaceName, BridgeLink>, SysError> {
    let mut bridges = BTreeMap::new();
    for attachment in &request.attachments {
        let network = &attachment.network;
        let with_addresses = network.mode == Mode::Unmanaged && network.dns;
        if let Some(link) = host.links.bridge(&network.bridge, with_addresses).await? {
            bridges.insert(network.bridge.clone(), link);
        }
    }
    Ok(bridges)
}

async fn vrfs(
    host: &Host,
    request: &SetupRequest,
) -> Result<BTreeMap<InterfaceName, LinkKind>, SysError> {
    let mut vrfs = BTreeMap::new();
    for vrf in request
        .attachments
        .iter()
        .filter_map(|attachment| attachment.network.vrf.as_ref())
    {
        if let Some(kind) = host.links.kind(vrf).await? {
            vrfs.insert(vrf.clone(), kind);
        }
    }
    Ok(vrfs)
}

/// For networks whose bridge is not there yet: the others have its MTU. Routes are listed for this, and
/// there is one for each network, or even for each interface.
async fn default_mtu(
    host: &Host,
    request: &SetupRequest,
    bridges: &BTreeMap<InterfaceName, BridgeLink>,
) -> Result<BTreeMap<Option<InterfaceName>, u32>, SysError> {
    let mut found = BTreeMap::new();
    let networks = request
        .attachments
        .iter()
        .map(|attachment| &attachment.network);
    for network in networks.filter(|network| !bridges.contains_key(&network.bridge)) {
        if network.mtu.is_none()
            && !found.contains_key(&network.vrf)
            && let Some(mtu) = host.links.default_mtu(network.vrf.as_ref()).await?
        {
            found.insert(network.vrf.clone(), mtu);
        }
    }
    Ok(found)
}

async fn advertised(
    host: &Host,
    request: &SetupRequest,
    bridges: &BTreeMap<InterfaceName, BridgeLink>,
) -> Result<BTreeSet<InterfaceName>, SysError> {
    let forwards = |attachment: &Attachment| {
        let network = &attachment.network;
        network.forwards_ipv6() && !bridges.contains_key(&network.bridge)
    };
    if !request.attachments.iter().any(forwards) || setting("net/ipv6/conf/all/forwarding", "1") {
        return Ok(BTreeSet::new());
    }
    let mut advertised = host.links.advertised_ways_out().await?;
    advertised.retain(|link| setting(&format!("net/ipv6/conf/{link}/accept_ra"), "1"));
    Ok(advertised)
}

/// Whether a kernel setting has this value.
fn setting(key: &str, value: &str) -> bool {
    let found = files::read(&Path::new("/proc/sys").join(key))
        .ok()
        .flatten();
    found.is_some_and(|found| found.trim() == value)
}

/// Names `vethN` that no interface has.
///
/// The lowest free number is wanted, as the kernel would choose it, but looking at all interfaces costs
/// more the more there are. So a free number is searched whose predecessor is taken: that is the lowest
/// one whenever the taken ones are without a gap, and a good one always.
fn free_names(request: &SetupRequest) -> Result<Vec<InterfaceName>, SysError> {
    let count = request.attachments.len();
    let given = |name: &InterfaceName| {
        let mut attachments = request.attachments.iter();
        attachments.any(|attachment| attachment.host_interface.as_ref() == Some(name))
    };
    let mut names = Vec::with_capacity(count);
    let mut next = first_free()?;
    while names.len() < count {
        let name = veth(next)?;
        if !given(&name) && !link::exists(&name)? {
            names.push(name);
        }
        next += 1;
    }
    Ok(names)
}

fn first_free() -> Result<u64, SysError> {
    let (mut taken, mut free) = (None, 0);
    while link::exists(&veth(free)?)? {
        taken = Some(free);
        free = free * 2 + 1;
    }
    let mut low = taken.map_or(free, |taken| taken + 1);
    while low < free {
        let middle = low + (free - low) / 2;
        if link::exists(&veth(middle)?)? {
            low = middle + 1;
        } else {
            free = middle;
        }
    }
    Ok(free)
}

fn veth(number: u64) -> Result<InterfaceName, SysError> {
    let wrong = |error: wire::names::NameError| SysError::NetlinkOther {
        context: "choose a veth name".to_owned(),
        why: error.to_string(),
    };
    format!("veth{number}").parse().map_err(wrong)
}

fn entropy(count: usize) -> Result<Vec<[[u8; 6]; 3]>, SysError> {
    let failed = |source| SysError::Io {
        context: "read /dev/urandom".to_owned(),
        source,
    };
    let mut source = File::open("/dev/urandom").map_err(failed)?;
    let mut all = vec![[[0; 6]; 3]; count];
    for octets in all.iter_mut().flatten() {
        source.read_exact(octets).map_err(failed)?;
    }
    Ok(all)
}

/// Whether our table has its rules. Only base chains are asked for, so the answer costs the same
/// whatever the table holds.
pub(super) fn table(host: &mut Host) -> Result<TableState, SysError> {
    if host.settings.firewall != FirewallDriver::Nftables {
        return Ok(TableState::Sound);
    }
    let expected: Vec<(&str, u32)> = ruleset::expected_rules().collect();
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let uses = host.nft()?.chain_uses(ruleset::TABLE, &names)?;
    let sound = expected
        .iter()
        .zip(uses)
        .all(|((_, rules), found)| found.is_some_and(|found| found >= *rules));
    Ok(if sound {
        TableState::Sound
    } else {
        TableState::Unsound
    })
}
