//! The look at the host before planning.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use wire::names::{InterfaceName, MacAddr, NetworkId};
use wire::state::{ContainerRecord, NetworkRecord};
use wire::zone;

use super::{Host, SysError, files, link, plugin};
use crate::observed::{
    BridgeFilter, BridgeLink, FirewallDriver, LinkKind, Observed, TableState, TeardownObserved,
};
use crate::plan::{layout, ruleset};
use crate::request::{
    Attachment, BridgeAttachment, Link, Mode, PluginCall, SetupRequest, TeardownRequest,
};

/// Whether systemd manages this host.
const SYSTEMD: &str = "/run/systemd/system";

/// The facts for a setup.
///
/// # Errors
/// The kernel or the state directory cannot be read.
pub async fn setup(host: &mut Host, request: &SetupRequest) -> Result<Observed, SysError> {
    let netns = host.inside()?.namespace.facts().clone();
    let wanted: BTreeSet<&InterfaceName> = request
        .bridges()
        .map(|attachment| &attachment.network.bridge)
        .collect();
    let container = host.state.container(&request.container)?;
    let ids = request.bridges().map(|attachment| &attachment.network.id);
    let networks = networks(host, ids, container.as_ref())?;
    let mut bridge_peers = Vec::new();
    for bridge in &wanted {
        bridge_peers.extend(host.state.bridge_users(bridge)?);
    }
    let ids = || {
        request
            .bridges()
            .map(|attachment| attachment.network.id.clone())
    };
    let dns_available = host.settings.dns_binary.is_file();
    let bridges = bridges(host, request).await?;
    let default_parent = default_parent(host, request).await?;
    let plugins = request
        .attachments
        .iter()
        .filter_map(|attachment| pick!(attachment, Attachment::Plugin(plugin) => &plugin.call));
    Ok(Observed {
        parents: parents(host, request, default_parent.as_ref()).await?,
        default_parent,
        taken: taken(host, request).await?,
        plugins: plugins_of(host, plugins),
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
        // Who has nothing to do with bridges can do without the packet filter.
        table: if wanted.is_empty() {
            TableState::Sound
        } else {
            table(host)?
        },
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
    let (mut shared_networks, bridge_peers) = others_on(host, request, &networks)?;
    let netavark_attached = attached_by_netavark(host, request, container.as_ref());
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
    let plugins = request
        .networks
        .iter()
        .filter_map(|network| pick!(&network.link, Link::Plugin(call) => call));
    let mut leaving = request.networks.iter();
    let filters = !networks.is_empty() || leaving.any(|network| network.bridge().is_some());
    let zone_files = zone_files(host, request, container.as_ref());
    Ok(TeardownObserved {
        networks,
        shared_networks,
        bridge_peers,
        netavark_attached,
        other_networks,
        netns_alive: host.container.is_some(),
        table: if filters {
            table(host)?
        } else {
            TableState::Sound
        },
        plugins: plugins_of(host, plugins),
        zone_files,
        container,
    })
}

/// Which of these networks other containers are on, and which other networks use their bridges.
fn others_on(
    host: &Host,
    request: &TeardownRequest,
    networks: &BTreeMap<NetworkId, NetworkRecord>,
) -> Result<(BTreeSet<NetworkId>, Vec<NetworkRecord>), SysError> {
    let state = &host.state;
    let mut shared = BTreeSet::new();
    let mut peers = Vec::new();
    for (id, network) in networks {
        if state.has_other_member(id, &request.container)?
            || state.has_other_netavark_ports(id, &request.container)?
        {
            shared.insert(id.clone());
        }
        let users = state.bridge_users(&network.bridge)?.into_iter();
        peers.extend(users.filter(|peer| !networks.contains_key(&peer.id)));
    }
    Ok((shared, peers))
}

/// The networks to which netavark has attached the container.
fn attached_by_netavark(
    host: &Host,
    request: &TeardownRequest,
    container: Option<&ContainerRecord>,
) -> BTreeSet<NetworkId> {
    let recorded = |id: &NetworkId| {
        let mut records = container.iter().flat_map(|record| &record.attachments);
        records.any(|attachment| attachment.network == *id)
    };
    let ids = request.networks.iter().map(|network| &network.id);
    ids.filter(|id| !recorded(id) && host.state.netavark_ports(id, &request.container))
        .cloned()
        .collect()
}

/// The zone files that are there and may name the container.
fn zone_files(
    host: &Host,
    request: &TeardownRequest,
    container: Option<&ContainerRecord>,
) -> BTreeSet<String> {
    let zones = layout::zones(&host.settings.config);
    let attachments = container.iter().flat_map(|record| &record.attachments);
    let recorded = attachments.filter_map(|attachment| attachment.zone_file.clone());
    let named = request
        .networks
        .iter()
        .flat_map(|network| [true, false].map(|internal| zone::file_name(&network.name, internal)));
    recorded
        .chain(named)
        .filter(|file| zones.join(file).is_file())
        .collect()
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
    for attachment in request.bridges() {
        let network = &attachment.network;
        let with_addresses = network.mode == Mode::Unmanaged && network.dns;
        if let Some(link) = host.links.bridge(&network.bridge, with_addresses).await? {
            bridges.insert(network.bridge.clone(), link);
        }
    }
    Ok(bridges)
}

/// The interface of the default route, if a network wants to be on top of it.
async fn default_parent(
    host: &Host,
    request: &SetupRequest,
) -> Result<Option<InterfaceName>, SysError> {
    let mut sublinks = request.sublinks();
    if sublinks.all(|link| link.network.parent.is_some()) {
        return Ok(None);
    }
    host.links.way_out().await
}

async fn parents(
    host: &Host,
    request: &SetupRequest,
    default: Option<&InterfaceName>,
) -> Result<BTreeMap<InterfaceName, MacAddr>, SysError> {
    let mut parents = BTreeMap::new();
    for link in request.sublinks() {
        let parent = link.network.parent.as_ref().or(default);
        if let Some(parent) = parent
            && let Some(mac) = host.links.mac_of(parent).await?
        {
            parents.insert(parent.clone(), mac);
        }
    }
    Ok(parents)
}

/// The wanted names of links that the container has already.
async fn taken(host: &Host, request: &SetupRequest) -> Result<BTreeSet<InterfaceName>, SysError> {
    let mut taken = BTreeSet::new();
    for link in request.sublinks() {
        let links = &host.inside()?.links;
        if links.kind(&link.interface).await?.is_some() {
            taken.insert(link.interface.clone());
        }
    }
    Ok(taken)
}

/// The programs of plugins that there are.
fn plugins_of<'a>(
    host: &Host,
    calls: impl Iterator<Item = &'a PluginCall>,
) -> BTreeMap<String, PathBuf> {
    let find = |call: &PluginCall| {
        let program = plugin::find(&host.settings.plugin_directories, &call.driver)?;
        Some((call.driver.clone(), program))
    };
    calls.filter_map(find).collect()
}

async fn vrfs(
    host: &Host,
    request: &SetupRequest,
) -> Result<BTreeMap<InterfaceName, LinkKind>, SysError> {
    let mut vrfs = BTreeMap::new();
    for vrf in request
        .bridges()
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
    let networks = request.bridges().map(|attachment| &attachment.network);
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
    let forwards = |attachment: &BridgeAttachment| {
        let network = &attachment.network;
        network.forwards_ipv6() && !bridges.contains_key(&network.bridge)
    };
    if !request.bridges().any(forwards) || setting("net/ipv6/conf/all/forwarding", "1") {
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
    let count = request.bridges().count();
    if count == 0 {
        return Ok(Vec::new());
    }
    let given = |name: &InterfaceName| {
        let mut attachments = request.bridges();
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
