//! Detaching a container from networks.
//!
//! What was recorded at setup decides; the request only says which networks to leave. Without a record
//! (it was lost, or netavark attached the container) the request has to do. Every step is one that does
//! no harm when its object is gone already, so the plan fits any half-built state, too: this is also how
//! a call that was killed is cleaned up after.
//!
//! Order: names first, so that nobody resolves what is about to vanish; then interfaces, then the packet
//! filter, then records; the bridge last, so that packets for its subnets have nowhere else to go while
//! rules vanish. The last port of a bridge is only set down with the interfaces, and goes with the bridge: the kernel takes
//! some 15 ms to get rid of either, and no longer for both at once.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use wire::names::{ContainerId, InterfaceName, NetworkId};
use wire::state::{
    Action, AttachmentRecord, ContainerRecord, DetachedRoute, Journal, LeaseRecord, NetworkRecord,
    OtherMade, OtherRecord, VERSION,
};
use wire::status::Status;
use wire::zone;

use super::firewall::{self, Change, ChangeKind};
use super::setup::{json, tracked_ports};
use super::step::{Lease, PluginRun, PluginVerb, Side, Step, Wanted};
use super::{Plan, Planned, layout, names};
use crate::observed::{Settings, TableState, TeardownObserved};
use crate::request::{
    Detachment, Link, Mode, PluginCall, RouteTarget, StaticRoute, TeardownRequest,
};

/// Plans a teardown.
#[must_use]
pub fn plan(request: &TeardownRequest, observed: &TeardownObserved, settings: &Settings) -> Plan {
    let parting = Parting::of(request, observed);
    let mut steps: Vec<Planned> = forget_names(request, &parting.leaving, observed, settings)
        .into_iter()
        .map(Planned::from)
        .collect();
    steps.extend(parting.detach(request, observed));
    steps.extend(parting.forget(request, observed, settings));
    steps.extend(parting.end(observed, settings));
    let last = conclude(&parting.rest, &parting.ended, observed, settings);
    steps.extend(last.into_iter().map(Planned::from));
    Plan {
        journal: parting.journal(),
        steps,
        status: Status::new(),
        warnings: Vec::new(),
    }
}

/// What goes and what stays.
struct Parting<'a> {
    /// Attachments to bridges that are on record.
    leaving: Vec<AttachmentRecord>,
    /// Attachments by other drivers that are on record.
    leaving_others: Vec<OtherRecord>,
    /// Networks of the request of which nothing is on record.
    unrecorded: Vec<&'a Detachment>,
    /// Networks on record that have no container left.
    ended: Vec<&'a NetworkRecord>,
    /// What remains of the container.
    rest: ContainerRecord,
}

impl<'a> Parting<'a> {
    fn of(request: &'a TeardownRequest, observed: &'a TeardownObserved) -> Self {
        let asked = |id: &NetworkId| request.networks.iter().any(|network| network.id == *id);
        let records = observed.container.iter();
        let (leaving, staying): (Vec<_>, Vec<_>) = records
            .flat_map(|record| record.attachments.iter().cloned())
            .partition(|attachment| asked(&attachment.network));
        let records = observed.container.iter();
        let (leaving_others, staying_others): (Vec<_>, Vec<_>) = records
            .flat_map(|record| record.others.iter().cloned())
            .partition(|other| asked(&other.network));
        let is_recorded = |network: &&Detachment| {
            let mut bridges = leaving.iter().map(|attachment| &attachment.network);
            let mut others = leaving_others.iter().map(|other| &other.network);
            bridges.any(|id| *id == network.id) || others.any(|id| *id == network.id)
        };
        let networks = request.networks.iter();
        let unrecorded = networks.filter(|network| !is_recorded(network)).collect();
        Self {
            unrecorded,
            ended: ended_networks(request, observed, &staying),
            leaving,
            leaving_others,
            rest: ContainerRecord {
                version: VERSION,
                id: request.container.clone(),
                name: observed
                    .container
                    .iter()
                    .find_map(|record| record.name.clone()),
                attachments: staying,
                others: staying_others,
            },
        }
    }

    /// Takes the interfaces away.
    fn detach(&self, request: &TeardownRequest, observed: &TeardownObserved) -> Vec<Planned> {
        let container = &request.container;
        let mut steps = Vec::new();
        for attachment in &self.leaving {
            let mut networks = request.networks.iter();
            let network = networks.find(|network| network.id == attachment.network);
            let last = self.goes_with_bridge(attachment, observed);
            let detach = detach(attachment, container, observed, last);
            steps.extend(detach.into_iter().map(|step| Planned {
                network: network.map(|network| network.name.clone()),
                step,
            }));
        }
        for other in &self.leaving_others {
            let detach = detach_other(other, request, observed);
            steps.extend(Planned::each(&other.name, detach));
        }
        for network in &self.unrecorded {
            let detach = detach_unrecorded(network, container, observed);
            steps.extend(Planned::each(&network.name, detach));
        }
        steps
    }

    /// Takes away what is left outside of interfaces: files of netavark, from whose rest the table may be written anew, then
    /// elements of the packet filter, then records.
    fn forget(
        &self,
        request: &TeardownRequest,
        observed: &TeardownObserved,
        settings: &Settings,
    ) -> Vec<Planned> {
        let container = &request.container;
        let mut steps = Vec::new();
        for network in &self.unrecorded {
            let files = forget_unrecorded(container, network, observed, settings);
            steps.extend(Planned::each(&network.name, files));
        }
        steps.extend(change_filter(&self.rest, &self.ended, observed).map(Planned::from));
        steps.extend(distrusted(&self.ended, observed, settings).map(Planned::from));
        steps.extend(forget_connections(&self.leaving).map(Planned::from));
        let networks = request.networks.iter();
        for network in networks.filter(|network| network.bridge().is_some()) {
            let records = forget_attachment(container, &network.id, settings);
            steps.extend(Planned::each(&network.name, records));
        }
        steps
    }

    /// Takes away the networks that nobody is on any more.
    fn end(&self, observed: &TeardownObserved, settings: &Settings) -> Vec<Planned> {
        let mut steps = Vec::new();
        for network in &self.ended {
            let port = self.last_port(network);
            let end = end_network(network, port, observed, settings);
            steps.extend(Planned::each(&network.name, end));
        }
        for network in &self.unrecorded {
            steps.extend(Planned::each(
                &network.name,
                end_unrecorded(network, observed),
            ));
        }
        steps
    }

    /// Whether it is by the last port of a bridge, which goes with it.
    fn goes_with_bridge(&self, attachment: &AttachmentRecord, observed: &TeardownObserved) -> bool {
        let mut ended = self.ended.iter();
        ended.any(|network| network.id == attachment.network && bridge_ends(network, observed))
    }

    /// The port by which the container is on a network.
    fn last_port(&self, network: &NetworkRecord) -> Option<&AttachmentRecord> {
        let mut leaving = self.leaving.iter();
        leaving.find(|attachment| attachment.network == network.id)
    }

    /// What somebody else needs to know to finish this.
    fn journal(self) -> Journal {
        Journal {
            version: VERSION,
            action: Action::Teardown,
            container: ContainerRecord {
                attachments: self.leaving,
                others: self.leaving_others,
                ..self.rest
            },
            networks: self.ended.into_iter().cloned().collect(),
        }
    }
}

/// Puts on record what remains of the container, and removes what only running networks need.
fn conclude(
    rest: &ContainerRecord,
    ended: &[&NetworkRecord],
    observed: &TeardownObserved,
    settings: &Settings,
) -> Vec<Step> {
    let config = &settings.config;
    let path = layout::container(config, &rest.id);
    let mut steps = Vec::new();
    if none_left(ended, observed) {
        steps.push(remove_file(layout::firewall_driver(config), config));
    }
    steps.push(if rest.is_empty() {
        remove_file(path, config)
    } else {
        Step::WriteFile {
            path,
            content: json(rest),
        }
    });
    steps
}

/// Whether no network has containers any more.
fn none_left(ended: &[&NetworkRecord], observed: &TeardownObserved) -> bool {
    !observed.other_networks && ended.len() == observed.networks.len()
}

/// The networks on record that have no container left.
fn ended_networks<'a>(
    request: &TeardownRequest,
    observed: &'a TeardownObserved,
    staying: &[AttachmentRecord],
) -> Vec<&'a NetworkRecord> {
    let ends = |network: &&NetworkRecord| {
        request
            .networks
            .iter()
            .any(|wanted| wanted.id == network.id)
            && !observed.shared_networks.contains(&network.id)
            && staying
                .iter()
                .all(|attachment| attachment.network != network.id)
    };
    observed.networks.values().filter(ends).collect()
}

fn forget_names(
    request: &TeardownRequest,
    leaving: &[AttachmentRecord],
    observed: &TeardownObserved,
    settings: &Settings,
) -> Vec<Step> {
    let recorded = leaving
        .iter()
        .filter_map(|attachment| attachment.zone_file.clone());
    let named = request
        .networks
        .iter()
        .flat_map(|network| [true, false].map(|internal| zone::file_name(&network.name, internal)))
        .filter(|file| observed.zone_files.contains(file));
    // The responder may still know of a file that is gone, if somebody removed it or a call was killed.
    let mut files: Vec<String> = recorded.chain(named).collect();
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Vec::new();
    }
    let zones = layout::zones(&settings.config);
    let remove = |file: String| Step::RemoveNames {
        path: zones.join(file),
        container: request.container.clone(),
    };
    let notify = Step::NotifyDns(names::service(settings, Wanted::BestEffort));
    files.into_iter().map(remove).chain([notify]).collect()
}

fn detach(
    attachment: &AttachmentRecord,
    container: &ContainerId,
    observed: &TeardownObserved,
    goes_with_bridge: bool,
) -> Vec<Step> {
    let lease = attachment.lease.as_ref();
    let mut steps = give_back(container, &attachment.interface, lease, observed);
    steps.extend(delete_routes(&attachment.detached_routes, observed));
    // Either end takes the other with it; that of the host is there even when the namespace is not.
    let name = attachment.host_interface.clone();
    let mac = attachment.host_mac;
    steps.push(if goes_with_bridge {
        Step::SetDown { name, mac }
    } else {
        Step::DeleteLink {
            side: Side::Host,
            name,
            mac: Some(mac),
        }
    });
    steps
}

/// A lease goes back even when the namespace is gone, but then nobody waits for it any more.
fn give_back(
    container: &ContainerId,
    interface: &InterfaceName,
    lease: Option<&LeaseRecord>,
    observed: &TeardownObserved,
) -> Vec<Step> {
    let wanted = if observed.netns_alive {
        Wanted::Required
    } else {
        Wanted::BestEffort
    };
    let lease = lease.map(|record| Lease::recorded(container, interface, record));
    let step = lease.map(|lease| Step::GiveBackLease { lease, wanted });
    step.into_iter().collect()
}

/// Those that do not vanish with their interface.
fn delete_routes(routes: &[DetachedRoute], observed: &TeardownObserved) -> Vec<Step> {
    if !observed.netns_alive {
        return Vec::new();
    }
    let delete = |route: &DetachedRoute| {
        Step::DeleteRoute(StaticRoute {
            destination: route.destination,
            target: RouteTarget::Detached(route.kind),
            metric: route.metric,
        })
    };
    routes.iter().map(delete).collect()
}

fn delete_inside(name: &InterfaceName, observed: &TeardownObserved) -> Option<Step> {
    observed.netns_alive.then(|| Step::DeleteLink {
        side: Side::Container,
        name: name.clone(),
        mac: None,
    })
}

fn detach_other(
    other: &OtherRecord,
    request: &TeardownRequest,
    observed: &TeardownObserved,
) -> Vec<Step> {
    match &other.made {
        OtherMade::Sublink(link) => {
            let lease = link.lease.as_ref();
            let mut steps = give_back(&request.container, &link.interface, lease, observed);
            steps.extend(delete_routes(&link.detached_routes, observed));
            steps.extend(delete_inside(&link.interface, observed));
            let temporary = link.temporary.as_ref();
            steps.extend(temporary.and_then(|name| delete_inside(name, observed)));
            steps
        }
        OtherMade::Plugin(plugin) => {
            let network = |network: &&Detachment| network.id == other.network;
            let asked = request.networks.iter().find(network);
            let asked = asked.and_then(|network| pick!(&network.link, Link::Plugin(call) => call));
            let recorded = PluginCall {
                driver: plugin.driver.clone(),
                input: plugin.input.clone(),
            };
            let mut run = leave_plugin(asked.unwrap_or(&recorded), observed);
            run.program = run.program.or_else(|| Some((&plugin.program).into()));
            vec![Step::RunPlugin(run)]
        }
    }
}

fn leave_plugin(call: &PluginCall, observed: &TeardownObserved) -> PluginRun {
    PluginRun {
        driver: call.driver.clone(),
        program: observed.plugins.get(&call.driver).cloned(),
        verb: PluginVerb::Teardown,
        input: call.input.clone(),
    }
}

fn detach_unrecorded(
    network: &Detachment,
    container: &ContainerId,
    observed: &TeardownObserved,
) -> Vec<Step> {
    match &network.link {
        Link::Bridge { interface, .. } => delete_inside(interface, observed).into_iter().collect(),
        Link::Sublink(link) => {
            let lease = link.lease.as_ref();
            let mut steps = give_back(container, &link.interface, lease, observed);
            steps.extend(delete_routes(&link.detached_routes, observed));
            steps.extend(delete_inside(&link.interface, observed));
            steps
        }
        Link::Plugin(call) => vec![Step::RunPlugin(leave_plugin(call, observed))],
    }
}

fn change_filter(
    rest: &ContainerRecord,
    ended: &[&NetworkRecord],
    observed: &TeardownObserved,
) -> Option<Step> {
    let peers = || observed.bridge_peers.iter();
    let mut before = firewall::networks_elements(peers().chain(ended.iter().copied()));
    if let Some(record) = &observed.container {
        before.extend(firewall::container_elements(record, &observed.networks));
    }
    let mut after = firewall::networks_elements(peers());
    after.extend(firewall::container_elements(rest, &observed.networks));
    let filtered = observed.networks.values().any(|network| network.filtered);
    let overlap = ended.iter().any(|network| network.may_overlap);
    let kind = if none_left(ended, observed) {
        ChangeKind::Clear
    } else if observed.table == TableState::Unsound
        || overlap
        || !observed.netavark_attached.is_empty()
    {
        ChangeKind::Rebuild
    } else {
        ChangeKind::Elements
    };
    let change = Change::between(&before, &after, kind);
    ((filtered || !observed.netavark_attached.is_empty()) && !change.is_idle())
        .then_some(Step::Firewall(change))
}

/// The subnets of networks that end; but not those that others on the same bridge have, too.
fn distrusted(
    ended: &[&NetworkRecord],
    observed: &TeardownObserved,
    settings: &Settings,
) -> Option<Step> {
    let filtered = ended
        .iter()
        .filter(|network| network.filtered && !settings.rootless);
    let stays = |subnet: &IpNet| {
        let peers = observed.bridge_peers.iter();
        let mut subnets = peers.flat_map(|peer| &peer.subnets);
        subnets.any(|other| other.subnet == *subnet)
    };
    let subnets: Vec<_> = filtered
        .flat_map(|network| network.subnets.iter().map(|subnet| subnet.subnet))
        .filter(|subnet| !stays(subnet))
        .collect();
    (!subnets.is_empty()).then_some(Step::Trust {
        subnets,
        trusted: false,
    })
}

fn forget_connections(leaving: &[AttachmentRecord]) -> Option<Step> {
    let tracked = tracked_ports(leaving.iter().flat_map(|attachment| &attachment.ports));
    (!tracked.is_empty()).then_some(Step::ForgetConnections(tracked))
}

/// A file below the configuration directory goes, with directories that it leaves empty.
fn remove_file(path: PathBuf, config: &Path) -> Step {
    Step::RemoveFile {
        path,
        keep: config.to_owned(),
    }
}

fn forget_attachment(
    container: &ContainerId,
    network: &NetworkId,
    settings: &Settings,
) -> Vec<Step> {
    let config = &settings.config;
    let remove = |path| remove_file(path, config);
    vec![
        remove(layout::firewall_ports(config, network, container)),
        remove(layout::member(config, network, container)),
    ]
}

/// Whether the bridge of a network that ends goes, too.
fn bridge_ends(network: &NetworkRecord, observed: &TeardownObserved) -> bool {
    let mut peers = observed.bridge_peers.iter();
    network.owns_bridge && !peers.any(|peer| peer.bridge == network.bridge)
}

fn end_network(
    network: &NetworkRecord,
    port: Option<&AttachmentRecord>,
    observed: &TeardownObserved,
    settings: &Settings,
) -> Vec<Step> {
    let config = &settings.config;
    let remove = |path| remove_file(path, config);
    let mut steps = vec![
        remove(layout::firewall_network(config, &network.id)),
        remove(layout::network(config, &network.id)),
        remove(layout::bridge_user(config, &network.bridge, &network.id)),
    ];
    if observed
        .bridge_peers
        .iter()
        .any(|peer| peer.bridge == network.bridge)
    {
        return steps;
    }
    if let Some(path) = &network.sysctl_file {
        let path = PathBuf::from(path);
        let keep = path.parent().map(Path::to_path_buf).unwrap_or_default();
        steps.push(Step::RemoveFile { path, keep });
    }
    if bridge_ends(network, observed) {
        let bridge = network.bridge.clone();
        steps.push(match port {
            Some(port) => Step::DeleteLastPort {
                name: port.host_interface.clone(),
                mac: port.host_mac,
                bridge,
            },
            None => Step::DeleteBridge(bridge),
        });
    }
    steps
}

/// Whether a network that netavark set up ends.
fn ends_unrecorded(network: &Detachment, observed: &TeardownObserved) -> bool {
    network
        .bridge()
        .is_some_and(|(_, mode)| mode == Mode::Managed)
        && observed.netavark_attached.contains(&network.id)
        && !observed.networks.contains_key(&network.id)
        && !observed.shared_networks.contains(&network.id)
}

/// The state files of a container that netavark attached, and of its network if that ends.
fn forget_unrecorded(
    container: &ContainerId,
    network: &Detachment,
    observed: &TeardownObserved,
    settings: &Settings,
) -> Vec<Step> {
    let config = &settings.config;
    let of_container = layout::firewall_ports(config, &network.id, container);
    let of_network =
        ends_unrecorded(network, observed).then(|| layout::firewall_network(config, &network.id));
    let remove = |path| remove_file(path, config);
    std::iter::once(of_container)
        .chain(of_network)
        .map(remove)
        .collect()
}

/// A network that netavark set up goes as netavark would have it: with its bridge, once that has no ports.
fn end_unrecorded(network: &Detachment, observed: &TeardownObserved) -> Option<Step> {
    let bridge = network.bridge().and_then(|(bridge, _)| bridge);
    bridge
        .filter(|_| ends_unrecorded(network, observed))
        .cloned()
        .map(Step::DeleteBridge)
}
