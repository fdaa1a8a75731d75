//! The policy table of the module, and what a container publishes.

use super::*;

fn network(name: &str, internal: bool, isolation: Isolation) -> NetworkRecord {
    NetworkRecord {
        version: 1,
        id: name.parse().unwrap(),
        name: name.parse().unwrap(),
        bridge: format!("br-{name}").parse().unwrap(),
        managed: true,
        owns_bridge: true,
        sysctl_file: None,
        vrf: None,
        internal,
        isolation,
        filtered: true,
        subnets: Vec::new(),
        may_overlap: false,
        outbound_addr4: None,
        outbound_addr6: None,
        dns: None,
        no_loopback6: false,
    }
}

fn port(
    host_address: Option<&str>,
    host_port: u16,
    container_port: u16,
    count: u16,
) -> PublishedPort {
    PublishedPort {
        host_address: host_address.map(|address| address.parse().unwrap()),
        host_port,
        container_port,
        count,
        protocol: Protocol::Tcp,
    }
}

fn attachment(network: &str, addresses: &[&str], ports: Vec<PublishedPort>) -> AttachmentRecord {
    AttachmentRecord {
        network: network.parse().unwrap(),
        netns: "/run/netns/c1".to_owned(),
        netns_inode: 7,
        interface: "eth0".parse().unwrap(),
        host_interface: "veth0".parse().unwrap(),
        host_mac: wire::names::MacAddr([2; 6]),
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        ports,
        detached_routes: Vec::new(),
        zone_file: None,
        default_metric: None,
        lease: None,
    }
}

fn container(attachments: Vec<AttachmentRecord>) -> ContainerRecord {
    ContainerRecord {
        attachments,
        ..ContainerRecord::new("c1".parse().unwrap())
    }
}

fn networks(names: &[&str]) -> BTreeMap<NetworkId, NetworkRecord> {
    let open = names
        .iter()
        .map(|name| network(name, false, Isolation::None));
    open.map(|network| (network.id.clone(), network)).collect()
}

/// Elements as text, `set key -> value`.
fn text(elements: &Elements) -> Vec<String> {
    let part = |part: &Part| match part {
        Part::Interface(name) => name.to_string(),
        Part::Address(address) => address.to_string(),
        Part::Subnet(subnet) => subnet.to_string(),
        Part::Protocol(protocol) => protocol.name().to_owned(),
        Part::Port(port) => port.to_string(),
    };
    let value = |value: &Option<Value>| match value {
        None => String::new(),
        Some(Value::Goto(chain)) => format!(" -> {chain:?}"),
        Some(Value::Address(address)) => format!(" -> {address}"),
        Some(Value::Socket(address, port)) => format!(" -> {address} {port}"),
    };
    let line = |((set, parts), to): (&Key, &Option<Value>)| {
        let parts: Vec<String> = parts.iter().map(part).collect();
        format!("{set:?} {}{}", parts.join(" . "), value(to))
    };
    elements.iter().map(line).collect()
}

/// Whether the elements of two networks let a new connection through, as the rules read them.
fn reaches(from: &NetworkRecord, to: &NetworkRecord) -> bool {
    let mut elements = network_elements(from);
    elements.extend(network_elements(to));
    let bridge = |network: &NetworkRecord| vec![Part::Interface(network.bridge.clone())];
    let within = |set| elements.contains_key(&(set, bridge(to)));
    match elements.get(&(Set::From, bridge(from))) {
        Some(Some(Value::Goto(Chain::FromOpen))) => !within(Set::Closed),
        Some(Some(Value::Goto(Chain::FromIsolated))) => !within(Set::Isolated),
        Some(Some(Value::Goto(Chain::FromStrict))) => !within(Set::Bridges),
        Some(Some(Value::Goto(Chain::FromInternal))) => false,
        other => panic!("{from:?} is judged by {other:?}"),
    }
}

#[test]
fn who_reaches_whom() {
    let kinds = [
        (false, Isolation::None),
        (false, Isolation::Normal),
        (false, Isolation::Strict),
        (true, Isolation::None),
    ];
    let expected = [
        [true, true, false, false],
        [true, false, false, false],
        [false, false, false, false],
        [false, false, false, false],
    ];
    for (row, from) in kinds.iter().zip(expected) {
        for (to, expected) in kinds.iter().zip(from) {
            let (a, b) = (network("a", row.0, row.1), network("b", to.0, to.1));
            assert_eq!(reaches(&a, &b), expected, "{row:?} to {to:?}");
        }
    }
}

#[test]
fn a_port_is_published_for_each_family_and_host_address() {
    let check = |ports: Vec<PublishedPort>, expected: &[&str]| {
        let container = container(vec![attachment("n", &["10.0.0.2/24", "fd00::2/64"], ports)]);
        assert_eq!(
            text(&container_elements(&container, &networks(&["n"]))),
            expected
        );
    };
    check(
        vec![port(None, 8080, 80, 1)],
        &[
            "Publish4 tcp . 8080 -> 10.0.0.2 80",
            "Publish6 tcp . 8080 -> fd00::2 80",
        ],
    );
    check(
        vec![port(Some("0.0.0.0"), 1, 2, 1)],
        &["Publish4 tcp . 1 -> 10.0.0.2 2"],
    );
    check(
        vec![port(Some("::"), 1, 2, 1)],
        &["Publish6 tcp . 1 -> fd00::2 2"],
    );
    check(
        vec![port(Some("192.0.2.1"), 1, 2, 1)],
        &["PublishAt4 tcp . 192.0.2.1 . 1 -> 10.0.0.2 2"],
    );
    check(
        vec![port(Some("0.0.0.0"), 9000, 9000, 2)],
        &[
            "Publish4 tcp . 9000 -> 10.0.0.2 9000",
            "Publish4 tcp . 9001 -> 10.0.0.2 9001",
        ],
    );
}

#[test]
fn what_is_published_on_loopback_alone_is_hidden_from_outside() {
    let elements = |ports| {
        let container = container(vec![attachment("n", &["10.0.0.2/24"], ports)]);
        text(&container_elements(&container, &networks(&["n"])))
    };
    let at = "PublishAt4 tcp . 127.0.0.1 . 8443 -> 10.0.0.2 443".to_owned();
    let hidden = "LoopbackOnly4 tcp . 10.0.0.2 . 443".to_owned();
    assert_eq!(
        elements(vec![port(Some("127.0.0.1"), 8443, 443, 1)]),
        [at.clone(), hidden.clone()]
    );
    let both = elements(vec![
        port(Some("127.0.0.1"), 8443, 443, 1),
        port(None, 443, 443, 1),
    ]);
    assert!(both.contains(&at) && !both.contains(&hidden), "{both:?}");
    let several = attachment(
        "n",
        &["10.0.0.2/24", "10.0.0.3/24"],
        vec![port(Some("127.0.0.1"), 8443, 443, 1)],
    );
    let several = container_elements(&container(vec![several]), &networks(&["n"]));
    let other = "LoopbackOnly4 tcp . 10.0.0.3 . 443".to_owned();
    assert_eq!(text(&several), [at, hidden, other]);
}

#[test]
fn the_oldest_attachment_carries_a_port_and_hands_it_over() {
    let ports = || vec![port(None, 80, 80, 1)];
    let first = attachment("a", &["10.0.0.2/24"], ports());
    let second = attachment("b", &["10.0.1.2/24"], ports());
    let networks = networks(&["a", "b"]);
    let both = container_elements(&container(vec![first, second.clone()]), &networks);
    let rest = container_elements(&container(vec![second]), &networks);
    assert_eq!(text(&both), ["Publish4 tcp . 80 -> 10.0.0.2 80"]);
    let change = Change::between(&both, &rest, ChangeKind::Elements);
    assert_eq!(text(&change.remove), ["Publish4 tcp . 80 -> 10.0.0.2 80"]);
    assert_eq!(text(&change.add), ["Publish4 tcp . 80 -> 10.0.1.2 80"]);
}

#[test]
fn internal_and_unfiltered_networks_publish_nothing() {
    let mut networks = networks(&["n"]);
    let container = container(vec![attachment(
        "n",
        &["10.0.0.2/24"],
        vec![port(None, 80, 80, 1)],
    )]);
    for network in networks.values_mut() {
        network.internal = true;
    }
    assert!(container_elements(&container, &networks).is_empty());
    for network in networks.values_mut() {
        (network.internal, network.filtered) = (false, false);
    }
    assert!(container_elements(&container, &networks).is_empty());
}

#[test]
fn a_change_is_taken_back_by_its_inverse() {
    let a = network_elements(&network("a", false, Isolation::Strict));
    let b = network_elements(&network("b", true, Isolation::None));
    let change = Change::between(&a, &b, ChangeKind::Elements);
    let mut elements = a.clone();
    for change in [&change, &change.inverse()] {
        elements.retain(|key, _| !change.remove.contains_key(key));
        elements.extend(change.add.clone());
    }
    assert_eq!(elements, a);
}

#[test]
fn subnets_within_others_are_left_out() {
    let subnet = |text: &str| (Set::Subnets4, vec![Part::Subnet(text.parse().unwrap())]);
    let all = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.168.0.0/24"];
    let mut elements: Elements = all.iter().map(|text| (subnet(text), None)).collect();
    merge_subnets(&mut elements);
    assert_eq!(
        text(&elements),
        ["Subnets4 10.0.0.0/8", "Subnets4 192.168.0.0/24"]
    );
}

#[test]
fn the_strictest_network_on_a_bridge_decides() {
    let mut open = network("a", false, Isolation::None);
    let mut internal = network("b", true, Isolation::None);
    let strict = network("c", false, Isolation::Strict);
    open.bridge = strict.bridge.clone();
    internal.bridge = strict.bridge.clone();
    let judge = |networks: &[&NetworkRecord]| {
        let key = (Set::From, vec![Part::Interface(strict.bridge.clone())]);
        networks_elements(networks.iter().copied()).remove(&key)
    };
    let goto = |chain| Some(Some(Value::Goto(chain)));
    assert_eq!(judge(&[&open]), goto(Chain::FromOpen));
    assert_eq!(judge(&[&open, &strict]), goto(Chain::FromStrict));
    assert_eq!(judge(&[&strict, &open]), goto(Chain::FromStrict));
    assert_eq!(
        judge(&[&internal, &strict, &open]),
        goto(Chain::FromInternal)
    );
}

#[test]
fn inside_a_vrf_the_subnet_tells_the_network() {
    let mut network = network("a", true, Isolation::None);
    network.vrf = Some("vrf0".parse().unwrap());
    network.subnets = ["10.1.0.0/24", "fd01::/64"]
        .map(|subnet| wire::state::SubnetRecord {
            subnet: subnet.parse().unwrap(),
            gateway: None,
        })
        .to_vec();
    let lines = text(&network_elements(&network));
    for line in [
        "FromVrf4 10.1.0.0/24 -> FromInternal",
        "FromVrf6 fd01::/64 -> FromInternal",
        "Own vrf0 . br-a",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line}: {lines:?}");
    }
    assert!(
        !lines.iter().any(|line| line.starts_with("From ")),
        "{lines:?}"
    );
}
