//! Attaching a container to its networks.
//!
//! Order: links of all attachments, then the packet filter in one transaction, then the container's
//! interfaces go up; state files and records; at last names, because starting the DNS responder is
//! what fails most often and what takes longest.

use std::collections::{BTreeMap, BTreeSet};

use wire::legacy::{NetworkFile, PortsFile};
use wire::names::{InterfaceName, MacAddr, NetworkId};
use wire::state::{
    Action, AttachmentRecord, ContainerRecord, DnsRecord, Isolation, Journal, NetworkRecord,
    OtherMade, OtherRecord, Protocol, SubnetRecord, VERSION,
};
use wire::status::{NetAddress, NetInterface, Status, StatusBlock};

use super::bridge::{self, Attached, Surroundings};
use super::firewall::{self, Change, ChangeKind};
use super::step::{Side, Step, TrackedPort, Wanted};
use super::{Obstacle, Plan, PlanError, Planned, answer, layout, names, plugin, sublink};
use crate::observed::{FirewallDriver, Observed, Settings, TableState};
use crate::request::{
    Address, Attachment, BridgeAttachment, Mode, PluginAttachment, SetupRequest, SublinkAttachment,
};

/// Plans a setup.
///
/// # Errors
/// Something on the host is in the way; the error names the network.
pub fn plan(
    request: &SetupRequest,
    observed: &Observed,
    settings: &Settings,
) -> Result<Plan, PlanError> {
    let mut made = Made::default();
    for (number, attachment) in request.attachments.iter().enumerate() {
        let network = attachment.network();
        let in_network = |why| PlanError {
            network: network.clone(),
            why,
        };
        match attachment {
            Attachment::Bridge(bridge) => made.add(number, bridge, request, observed, settings),
            Attachment::Sublink(link) => made.add_sublink(number, link, request, observed),
            Attachment::Plugin(plugin) => made.add_plugin(plugin, observed),
        }
        .map_err(in_network)?;
    }
    let record = container_record(request, observed, &made);
    let change = change(observed, &made, &record, settings);
    let mut steps: Vec<Planned> = Vec::new();
    if let Ok(link) = "lo".parse() {
        steps.push(
            Step::SetUp {
                side: Side::Container,
                link,
            }
            .into(),
        );
    }
    steps.append(&mut made.before_filter);
    let filtered = observed
        .networks
        .values()
        .chain(&made.networks)
        .any(|network| network.filtered);
    let trusted = trusted(&made.networks, settings);
    steps.extend(trusted.map(Planned::from));
    if filtered && !change.is_idle() {
        steps.push(Step::Firewall(change).into());
    }
    steps.append(&mut made.after_filter);
    let tracked = tracked_ports(request.ports.iter());
    if !tracked.is_empty()
        && made
            .attachments
            .iter()
            .any(|attachment| !attachment.ports.is_empty())
    {
        steps.push(Step::ForgetConnections(tracked).into());
    }
    steps.append(&mut made.files);
    if !made.names.is_empty() {
        steps.append(&mut made.names);
        steps.push(Step::NotifyDns(names::service(settings, Wanted::Required)).into());
    }
    let path = layout::container(&settings.config, &record.id);
    steps.push(
        Step::WriteFile {
            path,
            content: json(&record),
        }
        .into(),
    );
    let container = ContainerRecord {
        attachments: made.attachments,
        others: made.others,
        ..record
    };
    let journal = Journal {
        version: VERSION,
        action: Action::Setup,
        container,
        networks: made.networks,
    };
    Ok(Plan {
        journal,
        steps,
        status: made.status,
        warnings: made.warnings,
    })
}

/// What the attachments planned so far amount to.
#[derive(Default)]
struct Made {
    before_filter: Vec<Planned>,
    after_filter: Vec<Planned>,
    files: Vec<Planned>,
    names: Vec<Planned>,
    bridges: BTreeSet<InterfaceName>,
    attachments: Vec<AttachmentRecord>,
    others: Vec<OtherRecord>,
    networks: Vec<NetworkRecord>,
    status: Status,
    warnings: Vec<String>,
}

impl Made {
    fn add(
        &mut self,
        number: usize,
        attachment: &BridgeAttachment,
        request: &SetupRequest,
        observed: &Observed,
        settings: &Settings,
    ) -> Result<(), Obstacle> {
        let network = &attachment.network;
        let fresh = self.bridges.contains(&network.bridge);
        let surroundings = Surroundings {
            number,
            bridge_number: self.attachments.len(),
            fresh,
            metrics: &self.metrics(observed),
            request,
            observed,
            settings,
        };
        let attached = bridge::attach(attachment, &surroundings)?;
        let Attached {
            before_filter,
            after_filter,
            creates_bridge,
            mac,
            mut record,
        } = attached;
        let name = &network.name;
        self.before_filter
            .extend(Planned::each(name, before_filter));
        self.after_filter.extend(Planned::each(name, after_filter));
        if creates_bridge {
            self.bridges.insert(network.bridge.clone());
        }
        let listen = names::listen(attachment, observed)?;
        if let Some(names) = names::names(attachment, request, observed, &mut self.warnings)? {
            record.zone_file = Some(names.file.clone());
            let path = layout::zones(&settings.config).join(names.file);
            let step = Step::AddNames {
                path,
                header: names.header,
                entry: names.entry,
            };
            self.names.extend(Planned::each(name, [step]));
        }
        if !observed.networks.contains_key(&network.id) {
            let owns_bridge = creates_bridge || fresh || owned_before(attachment, observed);
            let record =
                network_record(attachment, owns_bridge, listen.clone(), observed, settings);
            self.files
                .extend(Planned::each(name, network_files(&record, settings)));
            self.networks.push(record);
        }
        self.files.extend(Planned::each(
            name,
            attachment_files(attachment, request, settings),
        ));
        self.status.insert(
            network.name.to_string(),
            status_block(attachment, mac, &listen, request),
        );
        self.attachments.push(record);
        Ok(())
    }

    /// The metrics of the default routes that the container has so far.
    fn metrics(&self, observed: &Observed) -> BTreeSet<u32> {
        let earlier = observed.container.iter();
        let bridges = earlier
            .clone()
            .flat_map(|record| &record.attachments)
            .chain(&self.attachments)
            .filter_map(|other| other.default_metric);
        let others = earlier
            .flat_map(|record| &record.others)
            .chain(&self.others)
            .filter_map(|other| other.default_metric);
        bridges.chain(others).collect()
    }

    fn add_sublink(
        &mut self,
        number: usize,
        attachment: &SublinkAttachment,
        request: &SetupRequest,
        observed: &Observed,
    ) -> Result<(), Obstacle> {
        let metrics = self.metrics(observed);
        let attached = sublink::attach(number, attachment, &metrics, request, observed)?;
        let name = &attachment.network.name;
        self.before_filter
            .extend(Planned::each(name, attached.before_filter));
        self.after_filter
            .extend(Planned::each(name, attached.after_filter));
        let interfaces = interfaces(&attachment.interface, attached.mac, &attachment.addresses);
        let block = StatusBlock {
            interfaces: Some(interfaces),
            ..answer::empty_block()
        };
        self.status.insert(name.to_string(), block);
        self.others.push(attached.record);
        Ok(())
    }

    fn add_plugin(
        &mut self,
        attachment: &PluginAttachment,
        observed: &Observed,
    ) -> Result<(), Obstacle> {
        let (step, record) = plugin::attach(attachment, observed)?;
        self.before_filter
            .extend(Planned::each(&attachment.network, [step]));
        self.others.push(record);
        Ok(())
    }
}

/// Whether a bridge that exists already was made by us for another network, or by netavark.
fn owned_before(attachment: &BridgeAttachment, observed: &Observed) -> bool {
    let network = &attachment.network;
    let others = observed.networks.values().chain(&observed.bridge_peers);
    let ours = others
        .filter(|other| other.bridge == network.bridge)
        .any(|other| other.owns_bridge);
    network.mode == Mode::Managed && (ours || observed.netavark_networks.contains(&network.id))
}

/// The container as it is when the call is done.
fn container_record(request: &SetupRequest, observed: &Observed, made: &Made) -> ContainerRecord {
    let mut record = observed
        .container
        .clone()
        .unwrap_or_else(|| ContainerRecord::new(request.container.clone()));
    record.version = VERSION;
    let name = &request.container_name;
    record.name = (!name.is_empty()).then(|| name.clone());
    record.attachments.extend(made.attachments.iter().cloned());
    // A plugin that attaches the container once more does so in place of what it did before.
    let again = |other: &OtherRecord| made.others.iter().any(|new| new.network == other.network);
    record.others.retain(|other| !again(other));
    record
        .others
        .extend(made.others.iter().cloned().map(finished));
    record
}

/// What remains on record of an attachment that is made.
fn finished(mut record: OtherRecord) -> OtherRecord {
    if let OtherMade::Sublink(sublink) = &mut record.made {
        sublink.temporary = None;
    }
    record
}

/// What becomes of the packet filter: new networks and the container's ports.
fn change(
    observed: &Observed,
    made: &Made,
    record: &ContainerRecord,
    settings: &Settings,
) -> Change {
    if settings.firewall == FirewallDriver::None {
        return Change::default();
    }
    let mut networks: BTreeMap<NetworkId, NetworkRecord> = observed.networks.clone();
    // What another network on the same bridge has already stays when this call is taken back.
    let peers = || observed.bridge_peers.iter();
    let mut before = firewall::networks_elements(peers());
    before.extend(
        observed
            .container
            .iter()
            .flat_map(|container| firewall::container_elements(container, &networks)),
    );
    networks.extend(
        made.networks
            .iter()
            .map(|network| (network.id.clone(), network.clone())),
    );
    let mut after = firewall::networks_elements(peers().chain(&made.networks));
    after.extend(firewall::container_elements(record, &networks));
    let overlap = made.networks.iter().any(|network| network.may_overlap);
    let kind = match observed.table {
        TableState::Sound if !overlap => ChangeKind::Elements,
        TableState::Sound | TableState::Unsound => ChangeKind::Rebuild,
    };
    Change::between(&before, &after, kind)
}

/// The UDP ports among these: their connections outlive a change of the rules (TCP ones cannot).
pub(super) fn tracked_ports<'a>(
    ports: impl Iterator<Item = &'a wire::state::PublishedPort>,
) -> Vec<TrackedPort> {
    let udp = ports.filter(|port| port.protocol == Protocol::Udp);
    let each = udp.flat_map(|port| {
        let last = port.host_port.saturating_add(port.count.saturating_sub(1));
        (port.host_port..=last).map(|number| TrackedPort {
            protocol: port.protocol,
            port: number,
        })
    });
    each.collect::<BTreeSet<_>>().into_iter().collect()
}

fn network_record(
    attachment: &BridgeAttachment,
    owns_bridge: bool,
    listen: Vec<std::net::IpAddr>,
    observed: &Observed,
    settings: &Settings,
) -> NetworkRecord {
    let network = &attachment.network;
    let managed = network.mode == Mode::Managed;
    let sysctl_file = managed && owns_bridge && bridge::wants_sysctl_file(observed, settings);
    NetworkRecord {
        version: VERSION,
        id: network.id.clone(),
        name: network.name.clone(),
        bridge: network.bridge.clone(),
        managed,
        owns_bridge: managed && owns_bridge,
        sysctl_file: sysctl_file
            .then(|| layout::sysctl_file(&network.bridge).display().to_string()),
        vrf: network.vrf.clone(),
        internal: network.internal,
        isolation: network.isolation,
        filtered: managed && settings.firewall != FirewallDriver::None,
        subnets: network
            .subnets
            .iter()
            .map(|subnet| SubnetRecord {
                subnet: subnet.subnet,
                gateway: subnet.gateway,
            })
            .collect(),
        may_overlap: network.vlan.is_some() || network.vrf.is_some(),
        outbound_addr4: network.outbound_addr4,
        outbound_addr6: network.outbound_addr6,
        dns: (!listen.is_empty()).then_some(DnsRecord {
            listen,
            port: settings.dns_port,
        }),
        no_loopback6: observed.bridge_filter.ipv6,
    }
}

/// firewalld judges packets after us: it must not drop what we accept.
fn trusted(networks: &[NetworkRecord], settings: &Settings) -> Option<Step> {
    let beside = settings.firewall == FirewallDriver::Nftables && !settings.rootless;
    let subnets: Vec<_> = networks
        .iter()
        .filter(|network| beside && network.filtered)
        .flat_map(|network| network.subnets.iter().map(|subnet| subnet.subnet))
        .collect();
    (!subnets.is_empty()).then_some(Step::Trust {
        subnets,
        trusted: true,
    })
}

/// Whether netavark would keep firewall state of this network.
fn has_firewall_state(attachment: &BridgeAttachment, settings: &Settings) -> bool {
    let network = &attachment.network;
    !settings.rootless && network.mode == Mode::Managed && (!network.internal || network.dns)
}

/// The record of a new network and its place among the users of its bridge.
fn network_files(record: &NetworkRecord, settings: &Settings) -> Vec<Step> {
    let config = &settings.config;
    vec![
        Step::WriteFile {
            path: layout::network(config, &record.id),
            content: json(record),
        },
        Step::WriteFile {
            path: layout::bridge_user(config, &record.bridge, &record.id),
            content: String::new(),
        },
    ]
}

/// The state files of an attachment, in the form that netavark reads.
fn attachment_files(
    attachment: &BridgeAttachment,
    request: &SetupRequest,
    settings: &Settings,
) -> Vec<Step> {
    let (config, network) = (&settings.config, &attachment.network);
    let mut steps = vec![Step::WriteFile {
        path: layout::member(config, &network.id, &request.container),
        content: String::new(),
    }];
    if has_firewall_state(attachment, settings) {
        let driver = settings.firewall.name().to_owned();
        steps.push(Step::WriteFile {
            path: layout::firewall_driver(config),
            content: driver,
        });
        let content = json(&network_file(attachment, settings));
        steps.push(Step::CreateFile {
            path: layout::firewall_network(config, &network.id),
            content,
        });
        let content = json(&ports_file(attachment, request, settings));
        let path = layout::firewall_ports(config, &network.id, &request.container);
        steps.push(Step::WriteFile { path, content });
    }
    steps
}

fn network_file(attachment: &BridgeAttachment, settings: &Settings) -> NetworkFile {
    let network = &attachment.network;
    let isolation = match network.isolation {
        Isolation::None => "Never",
        Isolation::Normal => "Normal",
        Isolation::Strict => "Strict",
    };
    NetworkFile {
        subnets: (!network.subnets.is_empty())
            .then(|| network.subnets.iter().map(|subnet| subnet.subnet).collect()),
        bridge_name: network.bridge.to_string(),
        network_id: network.id.to_string(),
        network_hash_name: layout::network_hash(&network.name),
        isolation: isolation.to_owned(),
        dns_port: settings.dns_port,
        internal: network.internal,
        outbound_addr4: network.outbound_addr4,
        outbound_addr6: network.outbound_addr6,
    }
}

fn ports_file(
    attachment: &BridgeAttachment,
    request: &SetupRequest,
    settings: &Settings,
) -> PortsFile {
    use ipnet::IpNet;
    let network = &attachment.network;
    let v4 = attachment.addresses.iter().find_map(|a| {
        if let IpNet::V4(net) = a.address {
            Some(net)
        } else {
            None
        }
    });
    let v6 = attachment.addresses.iter().find_map(|a| {
        if let IpNet::V6(net) = a.address {
            Some(net)
        } else {
            None
        }
    });
    PortsFile {
        container_id: request.container.to_string(),
        network_id: network.id.to_string(),
        port_mappings: request.raw_ports.clone(),
        network_name: network.name.to_string(),
        network_hash_name: layout::network_hash(&network.name),
        container_ip_v4: v4.map(|net| net.addr()),
        subnet_v4: v4.map(|net| net.trunc()),
        container_ip_v6: v6.map(|net| net.addr()),
        subnet_v6: v6.map(|net| net.trunc()),
        dns_port: settings.dns_port,
        dns_server_ips: network
            .subnets
            .iter()
            .filter_map(|subnet| subnet.gateway)
            .collect(),
        internal: network.internal,
    }
}

/// The JSON text of a record. Records are plain data, which always can be written.
pub(crate) fn json<T: serde::Serialize>(record: &T) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

fn status_block(
    attachment: &BridgeAttachment,
    mac: MacAddr,
    listen: &[std::net::IpAddr],
    request: &SetupRequest,
) -> StatusBlock {
    let (domains, servers) = match names::resolvers(listen, request) {
        // The resolvers of the lease are added, unless the container has its own.
        (domains, _) if attachment.lease && listen.is_empty() => (domains, Vec::new()),
        resolvers => resolvers,
    };
    StatusBlock {
        dns_search_domains: Some(domains),
        dns_server_ips: Some(servers),
        interfaces: Some(interfaces(
            &attachment.interface,
            mac,
            &attachment.addresses,
        )),
    }
}

fn interfaces(
    name: &InterfaceName,
    mac: MacAddr,
    addresses: &[Address],
) -> BTreeMap<String, NetInterface> {
    let subnets = addresses.iter().map(|address| NetAddress {
        gateway: address.gateway,
        ipnet: address.address,
    });
    let interface = NetInterface {
        mac_address: mac.to_string(),
        subnets: Some(subnets.collect()),
    };
    BTreeMap::from([(name.to_string(), interface)])
}
