//! Made-up hosts: records, and a host on which everything is as they say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::IpNet;
use netbackend::inspect::{Facts, LinkFacts, Rules};
use serde_json::{Value, json};
use wire::names::{ContainerId, MacAddr, NetworkId};
use wire::state::{ContainerRecord, NetworkRecord};

/// The file of this name among the golden ones.
pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/pictures")
        .join(name)
}

/// A host to put networks and containers on.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) facts: Facts,
    indexes: u32,
}

impl World {
    /// A host with a way out.
    pub(crate) fn new() -> Self {
        let mut world = Self::default();
        world.facts.rules = Rules::Sound(BTreeMap::new());
        world.facts.responder = Some(true);
        world.link(
            "enp1s0",
            "physical",
            &["192.0.2.10/24", "2001:db8:1::10/64"],
        );
        world.facts.uplink = Some("enp1s0".parse().unwrap());
        world
    }

    fn link_facts(&mut self, kind: &str, addresses: &[&str]) -> LinkFacts {
        self.indexes += 1;
        let octet = u8::try_from(self.indexes).unwrap();
        LinkFacts {
            index: self.indexes,
            kind: kind.to_owned(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, octet])),
            up: true,
            bridge: None,
            parent: None,
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        }
    }

    fn link(&mut self, name: &str, kind: &str, addresses: &[&str]) {
        let facts = self.link_facts(kind, addresses);
        self.facts.links.insert(name.parse().unwrap(), facts);
    }

    /// A network on a bridge, with fields of its record set.
    pub(crate) fn network(&mut self, name: &str, subnets: &[&str], fields: &Value) -> &mut Self {
        let number = self.facts.networks.len() + 1;
        let bridge = format!("podman{number}");
        let nets: Vec<IpNet> = subnets.iter().map(|one| one.parse().unwrap()).collect();
        let gateway = |net: &IpNet| net.hosts().nth(usize::from(net.addr().is_ipv6())).unwrap();
        let described: Vec<Value> = nets
            .iter()
            .map(|net| json!({"subnet": net, "gateway": gateway(net)}))
            .collect();
        let mut record = json!({
            "version": 1, "id": format!("{number:064x}"), "name": name, "bridge": bridge, "managed": true,
            "owns_bridge": true, "sysctl_file": null, "vrf": null, "internal": false, "isolation": "none",
            "filtered": true, "subnets": described, "may_overlap": false, "outbound_addr4": null,
            "outbound_addr6": null, "dns": null, "no_loopback6": false,
        });
        for (key, value) in fields.as_object().into_iter().flatten() {
            record[key] = value.clone();
        }
        let record: NetworkRecord = serde_json::from_value(record).unwrap();
        self.facts.networks.insert(record.id.clone(), record);
        let gateways: Vec<String> = nets
            .iter()
            .map(|net| format!("{}/{}", gateway(net), net.prefix_len()))
            .collect();
        let gateways: Vec<&str> = gateways.iter().map(String::as_str).collect();
        self.link(&bridge, "bridge", &gateways);
        self
    }

    /// A container without networks.
    pub(crate) fn container(&mut self, name: &str) -> &mut Self {
        let id = format!("{:064x}", 0xc0ff_ee00 + self.facts.containers.len());
        let mut record = ContainerRecord::new(id.parse().unwrap());
        record.name = Some(name.to_owned());
        let inode = self.inode();
        self.facts.containers.push(record);
        self.facts.namespaces.insert(inode, Ok(BTreeMap::new()));
        self
    }

    /// The inode of the namespace of the container that is put there next, or was last.
    fn inode(&self) -> u64 {
        let numbers: BTreeSet<u64> = self.facts.namespaces.keys().copied().collect();
        let next = self.facts.containers.len() == numbers.len();
        4_026_532_000 + numbers.len() as u64 - u64::from(!next)
    }

    fn last_inode(&self) -> u64 {
        *self.facts.namespaces.keys().next_back().unwrap()
    }

    fn network_id(&self, network: &str) -> NetworkId {
        let mut networks = self.facts.networks.values();
        let found = networks.find(|one| one.name.as_str() == network);
        found.unwrap().id.clone()
    }

    /// The last container on one more network with a bridge, with ports as `host address host container count protocol`.
    pub(crate) fn on(&mut self, network: &str, addresses: &[&str], ports: &[Value]) -> &mut Self {
        let id = self.network_id(network);
        let record = self.facts.networks[&id].clone();
        let inode = self.last_inode();
        let veth = format!("veth{}", self.indexes);
        let mut host = self.link_facts("veth", &[]);
        host.bridge = Some(self.facts.links[&record.bridge].index);
        let mac = host.mac.unwrap();
        self.facts.links.insert(veth.parse().unwrap(), host);
        let inner = self.link_facts("veth", addresses);
        let container = self.facts.containers.last_mut().unwrap();
        let interface = format!("eth{}", container.attachments.len());
        let attachment = json!({
            "network": id, "netns": format!("/run/netns/netns-{inode}"), "netns_inode": inode, "interface": interface,
            "host_interface": veth, "host_mac": mac, "addresses": addresses, "ports": ports, "detached_routes": [],
            "zone_file": record.dns.as_ref().map(|_| network), "default_metric": 100,
        });
        container
            .attachments
            .push(serde_json::from_value(attachment).unwrap());
        let (container, name) = (container.id.clone(), container.name.clone().unwrap());
        self.inner(inode, &interface, inner);
        if record.dns.is_some() {
            let short: String = container.as_str().chars().take(12).collect();
            self.names(network, container, vec![name, short]);
        }
        self
    }

    fn inner(&mut self, inode: u64, interface: &str, link: LinkFacts) {
        let links = self.facts.namespaces.get_mut(&inode).unwrap();
        let links = links.as_mut().unwrap();
        links.insert(interface.parse().unwrap(), link);
    }

    fn names(&mut self, zone: &str, container: ContainerId, names: Vec<String>) {
        let zone = self.facts.zones.entry(zone.to_owned()).or_default();
        zone.insert(container, names);
    }

    /// The last container on a network of links on top of the way out.
    pub(crate) fn on_macvlan(&mut self, network: &str, address: &str) -> &mut Self {
        let inode = self.last_inode();
        let parent = self.facts.links[&"enp1s0".parse().unwrap()].index;
        let mut link = self.link_facts("macvlan", &[address]);
        link.parent = Some(parent);
        let container = self.facts.containers.last_mut().unwrap();
        let interface = format!(
            "eth{}",
            container.attachments.len() + container.others.len()
        );
        let made = json!({"interface": interface, "detached_routes": [], "lease": {
            "host_interface": "enp1s0", "mac": link.mac, "hostname": ""}});
        let other = json!({
            "network": format!("{:064x}", 0xabc), "name": network, "netns": "/run/netns/x", "netns_inode": inode,
            "default_metric": 99, "made": {"sublink": made},
        });
        container
            .others
            .push(serde_json::from_value(other).unwrap());
        self.inner(inode, &interface, link);
        self
    }
}

/// A published port.
pub(crate) fn port(
    address: Option<&str>,
    host: u16,
    container: u16,
    count: u16,
    protocol: &str,
) -> Value {
    json!({"host_address": address, "host_port": host, "container_port": container, "count": count, "protocol": protocol})
}

/// Fields of a network with names.
pub(crate) fn with_names(gateway: &str) -> Value {
    json!({"dns": {"listen": [gateway], "port": 53}})
}

/// A shop: a front with names, an internal back, an isolated network, and one on the wire.
pub(crate) fn shop() -> World {
    let mut world = World::new();
    world
        .network(
            "front",
            &["10.89.0.0/24", "fd10:89::/64"],
            &with_names("10.89.0.1"),
        )
        .network(
            "back",
            &["10.89.1.0/24"],
            &json!({"internal": true, "isolation": "strict"}),
        )
        .network(
            "metrics",
            &["10.89.2.0/24"],
            &json!({"isolation": "strict", "outbound_addr4": "192.0.2.11"}),
        );
    world
        .container("web")
        .on(
            "front",
            &["10.89.0.2/24", "fd10:89::2/64"],
            &[
                port(None, 80, 8080, 1, "tcp"),
                port(None, 443, 8443, 1, "tcp"),
                port(None, 443, 8443, 1, "udp"),
            ],
        )
        .on("back", &["10.89.1.2/24"], &[]);
    world
        .container("shop-api")
        .on("front", &["10.89.0.3/24", "fd10:89::3/64"], &[])
        .on("back", &["10.89.1.3/24"], &[]);
    world.container("db").on("back", &["10.89.1.4/24"], &[]);
    world
        .container("prometheus")
        .on(
            "metrics",
            &["10.89.2.2/24"],
            &[port(Some("127.0.0.1"), 9090, 9090, 1, "tcp")],
        )
        .on("back", &["10.89.1.5/24"], &[]);
    world
        .container("printer")
        .on_macvlan("lan", "192.0.2.77/24");
    world
}

/// One container on one network.
pub(crate) fn one() -> World {
    let mut world = World::new();
    world.network("podman", &["10.88.0.0/16"], &json!({}));
    world.container("hello").on(
        "podman",
        &["10.88.0.2/16"],
        &[port(None, 8080, 80, 1, "tcp")],
    );
    world
}

/// Fifty containers on six networks, some of them on several.
pub(crate) fn crowd() -> World {
    let mut world = World::new();
    let names = ["edge", "app", "jobs", "store", "ops", "vault"];
    for (number, name) in names.iter().enumerate() {
        let fields = match *name {
            "vault" | "store" => json!({"internal": true}),
            "ops" => json!({"isolation": "normal"}),
            _ => with_names(&format!("10.89.{number}.1")),
        };
        let v6 = format!("fd10:89:{number}::/64");
        let v4 = format!("10.89.{number}.0/24");
        world.network(name, &[&v4, &v6], &fields);
    }
    for number in 0..50_u16 {
        let first = usize::from(number % 7).min(5);
        let (home, host) = (names[first], 10 + number);
        let address = |network: usize| format!("10.89.{network}.{host}/24");
        let v6 = |network: usize| format!("fd10:89:{network}::{host:x}/64");
        let mut ports = Vec::new();
        let open = !["vault", "store"].contains(&home);
        if open && number % 5 == 0 {
            ports.push(port(None, 8000 + number, 80, 1, "tcp"));
        }
        if open && number % 10 == 0 {
            ports.push(port(
                Some("192.0.2.10"),
                9000 + number,
                9000 + number,
                10,
                "udp",
            ));
        }
        world.container(&format!("{home}-worker-{number}")).on(
            home,
            &[&address(first), &v6(first)],
            &ports,
        );
        if number % 6 == 1 {
            let second = (first + 2) % names.len();
            world.on(names[second], &[&address(second)], &[]);
        }
        if number % 12 == 1 {
            let third = (first + 3) % names.len();
            world.on(names[third], &[&address(third)], &[]);
        }
    }
    world
}

/// Many containers with ports on one network.
pub(crate) fn busy() -> World {
    let mut world = World::new();
    world.network("podman", &["10.88.0.0/16"], &json!({}));
    for number in 0..14_u16 {
        let count = usize::from(number % 4);
        let ports: Vec<Value> = [80, 443, 8443]
            .map(|inner| port(None, 1000 * (number + 1) + inner, inner, 1, "tcp"))
            .into();
        let address = format!("10.88.0.{}/16", number + 2);
        world
            .container(&format!("site{number}"))
            .on("podman", &[&address], &ports[..count]);
    }
    world
}

/// Names that are long, mean something to others, or come from elsewhere.
pub(crate) fn hostile() -> World {
    let mut world = World::new();
    let long = "a-very-long-network-name-that-goes-on-and-on-until-nobody-reads-it";
    world.network(long, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "fd01::/64", "fd02::/64", "fd03::/64"], &json!({
        "isolation": "strict", "vrf": "vrf-of-customer", "dns": {"listen": ["10.1.0.1"], "port": 53},
        "outbound_addr4": "203.0.113.200", "managed": false,
    }));
    let ports: Vec<Value> = (0..40)
        .map(|n| {
            port(
                Some("2001:db8:ffff:ffff::1"),
                1000 + 20 * n,
                2000,
                10,
                "sctp",
            )
        })
        .collect();
    world
        .container("</text><script>alert('x')</script>&amp;\"\u{1b}[31m")
        .on(
            long,
            &[
                "10.1.0.2/16",
                "10.2.0.2/16",
                "10.3.0.2/16",
                "fd01::2/64",
                "fd02::2/64",
                "fd03:ffff:ffff:ffff:ffff:ffff:ffff:fff2/64",
            ],
            &ports,
        );
    world
        .container("數據庫伺服器-データベース-서버-база-данных-🐳🐳🐳")
        .on(long, &["10.1.0.3/16"], &[]);
    world.container("]; click n0 \"javascript:x\"\n  n9[").on(
        long,
        &["10.1.0.4/16"],
        &[port(None, 53, 53, 1, "udp")],
    );
    let inner = &world.facts.containers[1].attachments[0];
    let veth = inner.host_interface.clone();
    world.facts.links.get_mut(&veth).unwrap().up = false;
    world
}
