//! Documents for the program: recorded ones, variations of them, and plain ones of our own.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// A container with one network of our own making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    /// Number of the network: name `net<n>`, bridge `br<n>`, subnet `10.100.<n>.0/24`.
    pub(crate) network: u8,
    /// Number of the container: its id is `container<n>`, its name `c<n>`, its address ends in it.
    pub(crate) container: u8,
    /// The host port that leads to its port 80, or 0.
    pub(crate) port: u16,
    /// Whether names are resolved.
    pub(crate) dns: bool,
}

impl Plain {
    /// The container's id.
    pub(crate) fn id(self) -> String {
        format!("container{}", self.container)
    }

    /// The container's address.
    pub(crate) fn address(self) -> IpAddr {
        [10, 100, self.network, self.container].into()
    }

    /// The document.
    pub(crate) fn document(self) -> String {
        let (network, ports) = (format!("net{}", self.network), self.port_mappings());
        json!({
            "container_id": self.id(),
            "container_name": format!("c{}", self.container),
            "port_mappings": ports,
            "networks": { &network: { "static_ips": [self.address()], "interface_name": "eth0" } },
            "network_info": { &network: {
                "name": network,
                "id": format!("{network}id"),
                "driver": "bridge",
                "network_interface": format!("br{}", self.network),
                "subnets": [{ "subnet": format!("10.100.{}.0/24", self.network), "gateway": format!("10.100.{}.1", self.network) }],
                "ipv6_enabled": false,
                "internal": false,
                "dns_enabled": self.dns,
                "ipam_options": { "driver": "host-local" }
            }}
        })
        .to_string()
    }

    fn port_mappings(self) -> Value {
        if self.port == 0 {
            return json!([]);
        }
        json!([{ "host_ip": "", "host_port": self.port, "container_port": 80, "protocol": "tcp", "range": 1 }])
    }
}

/// A container with a network of each kind, `driver` being `macvlan` or `ipvlan`; the plugin is that of [`crate::world`].
pub(crate) fn mixed(driver: &str) -> String {
    of_kinds("mixed", 2, &["bridge", "plugin", driver])
}

/// A container as host `number` on a network of each of these drivers: `a`, 10.101.0.0/24 on bridge `bra`, `b` of a plugin,
/// `c` on `up0`. It publishes port 8097 + `number`.
pub(crate) fn of_kinds(id: &str, number: u8, drivers: &[&str]) -> String {
    let (mut wanted, mut info) = (json!({}), json!({}));
    for driver in drivers {
        let (name, octet, interface) = match *driver {
            "bridge" => ("a", 0, "bra"),
            "plugin" => ("b", 1, ""),
            _ => ("c", 2, "up0"),
        };
        wanted[name] = json!({
            "static_ips": [format!("10.101.{octet}.{number}")], "interface_name": format!("eth{octet}"),
        });
        info[name] = json!({
            "name": name,
            "id": format!("{name}id"),
            "driver": driver,
            "network_interface": interface,
            "subnets": [{ "subnet": format!("10.101.{octet}.0/24"), "gateway": format!("10.101.{octet}.1") }],
            "routes": [{ "destination": format!("10.102.{octet}.0/24"), "route_type": "blackhole" }],
            "ipv6_enabled": false,
            "internal": false,
            "dns_enabled": true,
            "ipam_options": { "driver": "host-local" }
        });
    }
    let port = 8097 + u16::from(number);
    json!({
        "container_id": id,
        "container_name": id,
        "port_mappings": [{ "host_ip": "", "host_port": port, "container_port": 80, "protocol": "tcp", "range": 1 }],
        "networks": wanted,
        "network_info": info,
    })
    .to_string()
}

/// Another container on all networks of this request: its addresses differ in one bit, it publishes nothing.
pub(crate) fn neighbour(document: &str) -> Result<String> {
    let mut request = parse(document)?;
    request["container_id"] = json!("neighbour");
    request["container_name"] = json!("neighbour");
    request["port_mappings"] = json!([]);
    for wanted in members(&mut request["networks"]) {
        for address in wanted["static_ips"].as_array_mut().into_iter().flatten() {
            *address = json!(nearby(
                address.as_str().context("an address is text")?.parse()?
            ));
        }
        wanted["aliases"] = json!(["neighbour"]);
        let wanted = wanted
            .as_object_mut()
            .context("an attachment is an object")?;
        wanted.remove("static_mac");
        wanted.remove("options");
    }
    Ok(request.to_string())
}

fn nearby(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ 64).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ 64).into()),
    }
}

/// What has to be on the host before the networks of a request can be set up: bridges and VRFs that are somebody else's.
pub(crate) fn prerequisites(document: &str) -> Result<Vec<String>> {
    let mut request = parse(document)?;
    let mut commands = Vec::new();
    for network in members(&mut request["network_info"]) {
        let options = &network["options"];
        if let Some(vrf) = options["vrf"].as_str() {
            commands.push(format!("ip link show {vrf} >/dev/null 2>&1 || ip link add {vrf} type vrf table 1000; ip link set {vrf} up"));
        }
        if network["driver"] == "macvlan" || network["driver"] == "ipvlan" {
            let parent = network["network_interface"].as_str().context("a parent")?;
            commands.push(format!(
                "ip link show {parent} >/dev/null 2>&1 && exit
                 ip link add {parent} address 0a:00:00:00:00:02 type veth peer name peer
                 ip link set {parent} up; ip link set peer up"
            ));
        }
        if options["mode"] == "unmanaged" {
            let bridge = network["network_interface"]
                .as_str()
                .context("an unmanaged network names its bridge")?;
            let subnet = &network["subnets"][0];
            let gateway = subnet["gateway"].as_str().context("a gateway")?;
            commands.push(format!(
                "ip link show {bridge} >/dev/null 2>&1 || ip link add {bridge} address 0a:00:00:00:00:01 type bridge
                 ip addr replace {gateway}/24 dev {bridge}; ip link set {bridge} up"
            ));
        }
    }
    Ok(commands)
}

/// The container that a document is about.
pub(crate) fn container_id(document: &str) -> Result<String> {
    let request = parse(document)?;
    Ok(request["container_id"]
        .as_str()
        .context("an id")?
        .to_owned())
}

/// Whether two documents are about the same container and the same networks.
pub(crate) fn same_attachments(one: &str, other: &str) -> Result<bool> {
    let key = |document: &str| -> Result<(Value, Vec<String>)> {
        let request = parse(document)?;
        let names = request["networks"]
            .as_object()
            .map(|networks| networks.keys().cloned().collect());
        Ok((request["container_id"].clone(), names.unwrap_or_default()))
    };
    Ok(key(one)? == key(other)?)
}

fn members(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_object_mut().into_iter().flat_map(Map::values_mut)
}

fn parse(document: &str) -> Result<Value> {
    serde_json::from_str(document).context("a recorded request is JSON")
}
