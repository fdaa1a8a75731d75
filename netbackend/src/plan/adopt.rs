//! Networks and containers that netavark set up, in our terms.
//!
//! When the table is written anew, containers that netavark still cares for must keep their ports. Its
//! state files tell enough for that.

use std::collections::BTreeMap;

use ipnet::IpNet;
use wire::legacy::{NetworkFile, PortsFile};
use wire::names::{ContainerId, MacAddr, NetworkId};
use wire::state::{
    AttachmentRecord, ContainerRecord, DnsRecord, Isolation, NetworkRecord, SubnetRecord, VERSION,
};

use crate::request;

/// Adds what these files tell and what has no record of ours. Files that make no sense are left out.
pub fn adopt(
    networks: &mut BTreeMap<NetworkId, NetworkRecord>,
    containers: &mut Vec<ContainerRecord>,
    network_files: Vec<NetworkFile>,
    ports_files: Vec<PortsFile>,
) {
    let mut places: BTreeMap<ContainerId, usize> = containers
        .iter()
        .enumerate()
        .map(|(place, container)| (container.id.clone(), place))
        .collect();
    for file in &ports_files {
        if let Some((id, attachment)) = attachment(file) {
            let place = *places.entry(id.clone()).or_insert(containers.len());
            add(containers, place, id, attachment);
        }
    }
    let mut by_network: BTreeMap<&str, &PortsFile> = BTreeMap::new();
    for ports in &ports_files {
        by_network.entry(&ports.network_id).or_insert(ports);
    }
    for file in network_files {
        let (name, listen) = match by_network.get(file.network_id.as_str()) {
            Some(ports) => (ports.network_name.as_str(), ports.dns_server_ips.clone()),
            None => ("", Vec::new()),
        };
        if let Some(network) = network(&file, name, listen) {
            networks.entry(network.id.clone()).or_insert(network);
        }
    }
}

/// Adds an attachment to the container at this place; beyond the last one, there is a new one.
fn add(
    containers: &mut Vec<ContainerRecord>,
    place: usize,
    id: ContainerId,
    attachment: AttachmentRecord,
) {
    let Some(container) = containers.get_mut(place) else {
        containers.push(ContainerRecord {
            attachments: vec![attachment],
            ..ContainerRecord::new(id)
        });
        return;
    };
    if container
        .attachments
        .iter()
        .all(|known| known.network != attachment.network)
    {
        container.attachments.push(attachment);
    }
}

fn network(file: &NetworkFile, name: &str, listen: Vec<std::net::IpAddr>) -> Option<NetworkRecord> {
    let subnets = file.subnets.iter().flatten();
    Some(NetworkRecord {
        version: VERSION,
        id: file.network_id.parse().ok()?,
        name: name.parse().ok()?,
        bridge: file.bridge_name.parse().ok()?,
        managed: true,
        owns_bridge: true,
        sysctl_file: None,
        vrf: None,
        internal: file.internal,
        isolation: match file.isolation.as_str() {
            "Strict" => Isolation::Strict,
            "Normal" => Isolation::Normal,
            _ => Isolation::None,
        },
        filtered: true,
        subnets: subnets
            .map(|subnet| SubnetRecord {
                subnet: *subnet,
                gateway: None,
            })
            .collect(),
        may_overlap: false,
        outbound_addr4: file.outbound_addr4,
        outbound_addr6: file.outbound_addr6,
        dns: (!listen.is_empty()).then_some(DnsRecord {
            listen,
            port: file.dns_port,
        }),
        no_loopback6: false,
    })
}

/// Netavark does not write down which interfaces it made; none of ours has the MAC address of zeros.
fn attachment(file: &PortsFile) -> Option<(ContainerId, AttachmentRecord)> {
    let placeholder = "veth".parse().ok()?;
    let v4 = file
        .container_ip_v4
        .zip(file.subnet_v4)
        .map(|(address, subnet)| (address.into(), subnet.prefix_len()));
    let v6 = file
        .container_ip_v6
        .zip(file.subnet_v6)
        .map(|(address, subnet)| (address.into(), subnet.prefix_len()));
    let addresses = v4
        .into_iter()
        .chain(v6)
        .filter_map(|(address, prefix)| IpNet::new(address, prefix).ok())
        .collect();
    let attachment = AttachmentRecord {
        network: file.network_id.parse().ok()?,
        netns: String::new(),
        netns_inode: 0,
        interface: "eth0".parse().ok()?,
        host_interface: placeholder,
        host_mac: MacAddr([0; 6]),
        addresses,
        ports: request::published_ports(file.port_mappings.as_deref().unwrap_or_default()).ok()?,
        detached_routes: Vec::new(),
        zone_file: None,
        default_metric: None,
        lease: None,
    };
    Some((file.container_id.parse().ok()?, attachment))
}
