//! Subnets: free ones for networks that have none, and whether given ones can be.
//!
//! IPv4 subnets come from the pools, in order, the first that is free. The search jumps over what is in
//! its way, so it takes as many steps as there are obstacles, however large the pool. IPv6 subnets are
//! unique local ones with random global and subnet ids (RFC 4193), drawn until one is free.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha512};
use wire::create::SubnetPool;
use wire::network::{Network, Subnet};

use super::CreateError;

/// How many IPv6 subnets are drawn. Of 2^56 there is a free one at once, unless somebody took most of fd00::/8.
const DRAWS: u32 = 256;

/// What is taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken<'a> {
    /// By whom ever.
    pub used: &'a [IpNet],
    /// Whether that matters.
    pub check: bool,
}

/// Whether two subnets have an address in common.
#[must_use]
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// Gives a network the subnets that it lacks: one if it has none, and one of each family if it is to have IPv6.
///
/// # Errors
/// None is free, or a pool cannot be divided as it says.
pub fn fill(
    network: &mut Network,
    pools: &[SubnetPool],
    taken: &Taken<'_>,
    seed: &[u8; 16],
) -> Result<(), CreateError> {
    let subnets = network.subnets.get_or_insert_with(Vec::new);
    let has = |subnets: &[Subnet], v6: bool| {
        subnets
            .iter()
            .any(|subnet| subnet.subnet.addr().is_ipv6() == v6)
    };
    let plain = |subnet| Subnet {
        subnet,
        gateway: None,
        lease_range: None,
    };
    if subnets.is_empty() || network.ipv6_enabled && !has(subnets, false) {
        subnets.push(plain(free4(pools, taken)?));
    }
    if network.ipv6_enabled && !has(subnets, true) {
        subnets.push(plain(free6(taken, seed)?));
    }
    Ok(())
}

fn free4(pools: &[SubnetPool], taken: &Taken<'_>) -> Result<IpNet, CreateError> {
    for pool in pools {
        let IpNet::V4(base) = pool.base else {
            continue;
        };
        if pool.size < base.prefix_len() || pool.size > 32 {
            return Err(CreateError::PoolSize {
                base: pool.base,
                size: pool.size,
                most: 32,
            });
        }
        if let Some(subnet) = free_in(base, pool.size, taken) {
            return Ok(subnet);
        }
    }
    Err(CreateError::NoFreeSubnet)
}

/// The first free subnet of a range. What is in the way of a candidate is jumped over.
fn free_in(base: Ipv4Net, size: u8, taken: &Taken<'_>) -> Option<IpNet> {
    let last = u64::from(u32::from(base.broadcast()));
    let step = 1_u64 << (32 - size);
    let mut start = u64::from(u32::from(base.network()));
    while start + (step - 1) <= last {
        let first = Ipv4Addr::from(u32::try_from(start).ok()?);
        let candidate = IpNet::V4(Ipv4Net::new(first, size).ok()?);
        let mut obstacles = taken.used.iter().filter(|_| taken.check);
        let Some(obstacle) = obstacles.find(|used| overlap(used, &candidate)) else {
            return Some(candidate);
        };
        let end = match obstacle.broadcast() {
            IpAddr::V4(end) => u64::from(u32::from(end)),
            IpAddr::V6(_) => return None,
        };
        start = (end.max(start) / step + 1) * step;
    }
    None
}

/// A random subnet that is free, whether or not overlaps matter: nobody has a reason to want this one.
fn free6(taken: &Taken<'_>, seed: &[u8; 16]) -> Result<IpNet, CreateError> {
    (0..DRAWS)
        .filter_map(|number| {
            let digest = Sha512::new()
                .chain_update(seed)
                .chain_update(number.to_be_bytes())
                .finalize();
            let mut octets = [0; 16];
            octets[0] = 0xfd;
            octets[1..8].copy_from_slice(&digest[..7]);
            Ipv6Net::new(Ipv6Addr::from(octets), 64).ok().map(IpNet::V6)
        })
        .find(|subnet| !taken.used.iter().any(|used| overlap(used, subnet)))
        .ok_or(CreateError::NoFreeSubnet6)
}

/// Checks the subnets of a network and gives them gateways, unless nobody would use them.
///
/// # Errors
/// Two overlap, one is taken, or a gateway or lease range is not in its subnet.
pub fn check(network: &mut Network, taken: &Taken<'_>) -> Result<(), CreateError> {
    let wants_gateway = !network.internal || network.dns_enabled;
    let mut subnets = network.subnets.take().unwrap_or_default();
    for subnet in &mut subnets {
        subnet.subnet = subnet.subnet.trunc();
    }
    for (n, one) in subnets.iter().enumerate() {
        for other in &subnets[..n] {
            if other.subnet == one.subnet {
                return Err(CreateError::Duplicate(one.subnet));
            }
            if overlap(&other.subnet, &one.subnet) {
                return Err(CreateError::Overlap(other.subnet, one.subnet));
            }
        }
    }
    for subnet in &mut subnets {
        let is_used = |used: &IpNet| overlap(used, &subnet.subnet);
        if taken.check && taken.used.iter().any(is_used) {
            return Err(CreateError::SubnetUsed(subnet.subnet));
        }
        check_gateway(subnet, wants_gateway)?;
        check_lease_range(subnet)?;
        network.ipv6_enabled |= subnet.subnet.addr().is_ipv6();
    }
    network.subnets = Some(subnets).filter(|subnets| !subnets.is_empty());
    Ok(())
}

fn check_gateway(subnet: &mut Subnet, wanted: bool) -> Result<(), CreateError> {
    let net = subnet.subnet;
    match subnet.gateway {
        Some(gateway) if !net.contains(&gateway) => Err(CreateError::Gateway {
            gateway,
            subnet: net,
        }),
        None if wanted => {
            subnet.gateway = Some(first_address(&net)?);
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

fn first_address(subnet: &IpNet) -> Result<IpAddr, CreateError> {
    let too_small = |prefix| CreateError::NoGateway {
        subnet: *subnet,
        prefix,
    };
    match subnet {
        IpNet::V4(net) if net.prefix_len() >= 31 => Err(too_small(31)),
        IpNet::V6(net) if net.prefix_len() == 128 => Err(too_small(128)),
        IpNet::V4(net) => Ok(Ipv4Addr::from(u32::from(net.network()) + 1).into()),
        IpNet::V6(net) => Ok(Ipv6Addr::from(u128::from(net.network()) + 1).into()),
    }
}

fn check_lease_range(subnet: &Subnet) -> Result<(), CreateError> {
    let Some(range) = &subnet.lease_range else {
        return Ok(());
    };
    for (end, address) in [("start ip", range.start_ip), ("end ip", range.end_ip)] {
        if let Some(address) = address.filter(|address| !subnet.subnet.contains(address)) {
            return Err(CreateError::Lease {
                end,
                address,
                subnet: subnet.subnet,
            });
        }
    }
    match (range.start_ip, range.end_ip) {
        (Some(start), Some(end)) if start > end => Err(CreateError::LeaseOrder { start, end }),
        _ => Ok(()),
    }
}
