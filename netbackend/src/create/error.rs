//! Why a network cannot be created. Most texts are netavark's, to the letter.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;
use wire::names::NameError;

use super::NAME_PATTERN;
use crate::request::RouteError;

/// Why a network cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum CreateError {
    #[error("failed to load network create: IO error: {0}")]
    Document(String),
    #[error("Network name must be supplied")]
    NoName,
    #[error("Invalid characters in network name \"{0}\": must match {NAME_PATTERN}")]
    Name(String),
    #[error("network already exists {0}")]
    Exists(String),
    #[error("Network id must be supplied")]
    NoId,
    #[error("Invalid network id \"{0}\": must be 64 hexadecimal digits")]
    Id(String),
    #[error("{field}: {why}")]
    Field { field: &'static str, why: NameError },
    #[error("bridge name {0} already in use")]
    BridgeUsed(String),
    #[error("bridge name {0} invalid: must match {NAME_PATTERN}")]
    BridgeName(String),
    #[error("parent interface {0} does not exist")]
    NoParent(String),
    #[error("unsupported ipam driver {0}")]
    Ipam(String),
    #[error("None ipam driver is set but subnets are given")]
    NoneWithSubnets,
    #[error("ipam driver dhcp is set but subnets are given")]
    DhcpWithSubnets,
    #[error("ipam driver host-local is set for {0} but no subnets are given")]
    NoSubnets(String),
    #[error("ipam driver dhcp is not supported with ipvlan")]
    IpvlanDhcp,
    #[error("cannot use dhcp ipam driver without using the option mode=unmanaged")]
    ManagedDhcp,
    #[error("unsupported {drivers} network option: {key}")]
    UnknownOption { drivers: &'static str, key: String },
    #[error("unable to parse \"{key}\": {why}")]
    Option { key: String, why: String },
    #[error("option \"{docker}\" is \"{other}\", but \"{key}\" is \"{value}\"")]
    Contradiction {
        docker: &'static str,
        other: String,
        key: &'static str,
        value: String,
    },
    #[error("vlan must be between 0 and 4094")]
    Vlan,
    #[error("invalid isolate option \"{0}\"")]
    Isolate(String),
    #[error("mode: \"{mode}\" is not a mode of {driver}, expected {expected}")]
    Mode {
        driver: String,
        mode: String,
        expected: &'static str,
    },
    #[error("could not find free subnet from subnet pools")]
    NoFreeSubnet,
    #[error("could not find free IPv6 subnet in fd00::/8")]
    NoFreeSubnet6,
    #[error("subnet pool {base}: size {size} must be between its prefix length and {most}")]
    PoolSize { base: IpNet, size: u8, most: u8 },
    #[error("cannot set NetworkDNSServers if DNS is not enabled for the network")]
    ServersWithoutDns,
    #[error(
        "dns server {0} is the gateway of the network, which would cause aardvark-dns to forward queries to itself"
    )]
    DnsLoop(IpAddr),
    #[error("overlapping subnets: {0} and {1}")]
    Overlap(IpNet, IpNet),
    #[error("duplicate subnet defined: {0}")]
    Duplicate(IpNet),
    #[error("subnet {0} is already used on the host or by another config")]
    SubnetUsed(IpNet),
    #[error("gateway {gateway} not in subnet {subnet}")]
    Gateway { gateway: IpAddr, subnet: IpNet },
    #[error(
        "could not create gateway for subnet {subnet} because it has a {prefix} or greater subnet prefix"
    )]
    NoGateway { subnet: IpNet, prefix: u8 },
    #[error("lease range {end} {address} not in subnet {subnet}")]
    Lease {
        end: &'static str,
        address: IpAddr,
        subnet: IpNet,
    },
    #[error("lease range start ip {start} is greater than end ip {end}")]
    LeaseOrder { start: IpAddr, end: IpAddr },
    #[error("route destination {0} is not a network address, expected {net}", net = .0.trunc())]
    RouteDestination(IpNet),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(
        "plugin \"{driver}\" failed: it changed the {field} of the network from \"{before}\" to \"{after}\""
    )]
    PluginChanged {
        driver: String,
        field: &'static str,
        before: String,
        after: String,
    },
}
