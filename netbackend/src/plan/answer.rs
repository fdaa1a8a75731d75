//! What only turns out while a plan is carried out, and how it becomes part of the reply.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wire::names::{InterfaceName, MacAddr, NetworkName};
use wire::status::{NetAddress, Status, StatusBlock};

/// What a step has brought to light.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The MAC address of an interface inside the container.
    Mac(InterfaceName, MacAddr),
    /// The address and more that a DHCP server gave to an interface.
    Lease(InterfaceName, Leased),
    /// What a plugin has to say about its network.
    Block(StatusBlock),
}

/// What came of asking a DHCP server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leased {
    /// Addresses, with gateways.
    pub addresses: Vec<NetAddress>,
    /// Resolvers.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub domains: Vec<String>,
}

/// The reply, given what was planned to be in it and what has turned out. A container with resolvers of its
/// own is not told of those of DHCP servers.
#[must_use]
pub fn reply(
    mut status: Status,
    answers: &[(Option<NetworkName>, Answer)],
    own_resolvers: bool,
) -> Status {
    for (network, answer) in answers {
        let Some(network) = network else { continue };
        let block = status
            .entry(network.to_string())
            .or_insert_with(empty_block);
        match answer {
            Answer::Mac(interface, mac) => {
                if let Some(known) = interface_of(block, interface) {
                    known.mac_address = mac.to_string();
                }
            }
            Answer::Lease(interface, leased) => {
                if let Some(known) = interface_of(block, interface) {
                    known.subnets = Some(leased.addresses.clone());
                }
                add_names(block, leased, own_resolvers);
            }
            Answer::Block(said) => *block = said.clone(),
        }
    }
    status
}

/// A block that says nothing.
#[must_use]
pub fn empty_block() -> StatusBlock {
    StatusBlock {
        dns_search_domains: Some(Vec::new()),
        dns_server_ips: Some(Vec::new()),
        interfaces: Some(BTreeMap::new()),
    }
}

fn interface_of<'a>(
    block: &'a mut StatusBlock,
    interface: &InterfaceName,
) -> Option<&'a mut wire::status::NetInterface> {
    block.interfaces.as_mut()?.get_mut(interface.as_str())
}

fn add_names(block: &mut StatusBlock, leased: &Leased, own_resolvers: bool) {
    let domains = block.dns_search_domains.get_or_insert_default();
    domains.extend(leased.domains.iter().cloned());
    if !own_resolvers {
        let servers = block.dns_server_ips.get_or_insert_default();
        servers.extend(&leased.servers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::status::NetInterface;

    fn planned() -> Status {
        let interface = NetInterface {
            mac_address: MacAddr([2; 6]).to_string(),
            subnets: Some(Vec::new()),
        };
        let block = StatusBlock {
            interfaces: Some(BTreeMap::from([("eth0".to_owned(), interface)])),
            ..empty_block()
        };
        Status::from([("net".to_owned(), block)])
    }

    fn network(name: &str) -> Option<NetworkName> {
        Some(name.parse().unwrap())
    }

    #[test]
    fn a_lease_fills_the_block() {
        let address = NetAddress {
            gateway: None,
            ipnet: "10.0.0.2/24".parse().unwrap(),
        };
        let leased = Leased {
            addresses: vec![address.clone()],
            servers: vec!["10.0.0.1".parse().unwrap()],
            domains: vec!["lan".to_owned()],
        };
        let eth0: InterfaceName = "eth0".parse().unwrap();
        let answers = [
            (network("net"), Answer::Mac(eth0.clone(), MacAddr([4; 6]))),
            (network("net"), Answer::Lease(eth0, leased.clone())),
        ];
        for own in [false, true] {
            let block = reply(planned(), &answers, own).remove("net").unwrap();
            let interface = block.interfaces.unwrap().remove("eth0").unwrap();
            assert_eq!(interface.mac_address, "04:04:04:04:04:04");
            assert_eq!(interface.subnets, Some(vec![address.clone()]));
            let servers = if own {
                Vec::new()
            } else {
                leased.servers.clone()
            };
            assert_eq!(block.dns_server_ips, Some(servers));
            assert_eq!(block.dns_search_domains, Some(leased.domains.clone()));
        }
    }

    #[test]
    fn a_plugin_speaks_for_itself() {
        let said = StatusBlock {
            dns_search_domains: None,
            dns_server_ips: None,
            interfaces: None,
        };
        let status = reply(
            planned(),
            &[(network("other"), Answer::Block(said.clone()))],
            false,
        );
        assert_eq!(status.len(), 2);
        assert_eq!(status["other"], said);
    }
}
