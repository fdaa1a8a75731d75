//! Where records and state files lie below the engine's state directory.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha512};
use wire::names::{ContainerId, InterfaceName, NetworkId, NetworkName};

/// Our own directory; it goes with the last network.
#[must_use]
pub fn own(config: &Path) -> PathBuf {
    config.join("netbackend")
}

/// The lock that every call holds.
#[must_use]
pub fn lock(config: &Path) -> PathBuf {
    own(config).join("lock")
}

/// What a call is about to do.
#[must_use]
pub fn journal(config: &Path) -> PathBuf {
    own(config).join("journal")
}

/// The file that tells that firewalld may hold something of ours.
#[must_use]
pub fn firewalld(config: &Path) -> PathBuf {
    own(config).join("firewalld")
}

/// Where files are written before they take the place of others.
#[must_use]
pub fn staging(config: &Path) -> PathBuf {
    own(config).join("new")
}

/// The directory of container records.
#[must_use]
pub fn containers(config: &Path) -> PathBuf {
    own(config).join("containers")
}

/// The record of a container.
#[must_use]
pub fn container(config: &Path, id: &ContainerId) -> PathBuf {
    containers(config).join(id.as_str())
}

/// The directory of networks.
#[must_use]
pub fn networks(config: &Path) -> PathBuf {
    own(config).join("networks")
}

/// The record of a network.
#[must_use]
pub fn network(config: &Path, id: &NetworkId) -> PathBuf {
    networks(config).join(id.as_str()).join("network")
}

/// The directory that tells which containers are attached to a network.
#[must_use]
pub fn members(config: &Path, network: &NetworkId) -> PathBuf {
    networks(config).join(network.as_str()).join("members")
}

/// The file that tells that a container is attached to a network.
#[must_use]
pub fn member(config: &Path, network: &NetworkId, container: &ContainerId) -> PathBuf {
    members(config, network).join(container.as_str())
}

/// The directory of bridges.
#[must_use]
pub fn bridges(config: &Path) -> PathBuf {
    own(config).join("bridges")
}

/// The directory that tells which networks use a bridge.
#[must_use]
pub fn bridge(config: &Path, bridge: &InterfaceName) -> PathBuf {
    bridges(config).join(bridge.as_str())
}

/// The file that tells that a network uses a bridge.
#[must_use]
pub fn bridge_user(config: &Path, bridge: &InterfaceName, network: &NetworkId) -> PathBuf {
    self::bridge(config, bridge).join(network.as_str())
}

/// The directory of zone files.
#[must_use]
pub fn zones(config: &Path) -> PathBuf {
    config.join("aardvark-dns")
}

/// The lock under which zone files are written.
#[must_use]
pub fn zone_lock(config: &Path) -> PathBuf {
    config.join("aardvark.lock")
}

/// The directory of netavark's firewall state.
#[must_use]
pub fn firewall(config: &Path) -> PathBuf {
    config.join("firewall")
}

/// The file that names the firewall driver.
#[must_use]
pub fn firewall_driver(config: &Path) -> PathBuf {
    firewall(config).join("firewall-driver")
}

/// The directory of netavark's state files of networks.
#[must_use]
pub fn firewall_networks(config: &Path) -> PathBuf {
    firewall(config).join("networks")
}

/// The directory of netavark's state files of containers.
#[must_use]
pub fn all_firewall_ports(config: &Path) -> PathBuf {
    firewall(config).join("ports")
}

/// Netavark's state file of a network.
#[must_use]
pub fn firewall_network(config: &Path, network: &NetworkId) -> PathBuf {
    firewall_networks(config).join(network.as_str())
}

/// Netavark's state file of a container on a network.
#[must_use]
pub fn firewall_ports(config: &Path, network: &NetworkId, container: &ContainerId) -> PathBuf {
    all_firewall_ports(config).join(format!("{network}_{container}"))
}

/// The file that keeps systemd-sysctl from overriding the settings of a bridge.
#[must_use]
pub fn sysctl_file(bridge: &InterfaceName) -> PathBuf {
    Path::new("/run/sysctl.d").join(format!("10-netavark-{bridge}.conf"))
}

/// The first 13 upper-case hexadecimal digits of the SHA-512 of a network's name.
#[must_use]
pub fn network_hash(name: &NetworkName) -> String {
    let digest = Sha512::digest(name.as_str().as_bytes());
    let mut text: String = digest
        .iter()
        .take(7)
        .map(|octet| format!("{octet:02X}"))
        .collect();
    text.truncate(13);
    text
}
