//! What is understood, and what is said about what is not.

use serde_json::{Value, json};

use super::*;

/// A request that is fine, for tests to spoil.
fn sample() -> Value {
    json!({
        "container_id": "c1",
        "container_name": "web",
        "networks": {"net": {"interface_name": "eth0", "static_ips": ["10.0.0.2", "fd00::2"]}},
        "network_info": {"net": {
            "name": "net", "id": "abc", "driver": "bridge", "network_interface": "br0",
            "internal": false, "ipv6_enabled": true, "dns_enabled": false,
            "subnets": [{"subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}, {"subnet": "fd00::/64", "gateway": "fd00::1"}]
        }}
    })
}

fn understand(document: &Value) -> Result<SetupRequest, RequestError> {
    let policy = Policy {
        default_isolation: None,
    };
    SetupRequest::new(parse(document.to_string().as_bytes())?, &policy)
}

/// The first attachment, which is to a bridge.
fn bridge(request: &SetupRequest) -> &BridgeAttachment {
    request.bridges().next().unwrap()
}

/// The sample with one value put in place of another, by JSON pointer.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = sample();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[key] = value;
    document
}

const NET: &str = "/network_info/net";

/// A field of a good request, what is written there instead, and what is said about it.
const ERRORS: &[(&str, &str, &str)] = &[
    (
        "/container_id",
        r#""../x""#,
        "container_id: \"../x\" must match [A-Za-z0-9_.-]+",
    ),
    (
        "/network_info",
        r#"{}"#,
        "network info for network net not found",
    ),
    (
        "/networks/net/interface_name",
        r#""""#,
        "network \"net\": no container interface name given",
    ),
    (
        "/networks/net/interface_name",
        r#""a-very-long-interface-name""#,
        "network \"net\": interface_name: \"a-very-long-interface-name\" has 26 bytes, at most 15 are allowed",
    ),
    (
        "/networks/net/static_ips",
        r#"[]"#,
        "network \"net\": no static ips provided",
    ),
    (
        "/networks/net/static_ips",
        r#"["10.0.0.2", "10.0.0.2"]"#,
        "network \"net\": static_ips: 10.0.0.2 is given twice",
    ),
    (
        "/networks/net/static_ips",
        r#"["10.0.0.2", "10.0.1.2"]"#,
        "network \"net\": not all static IPs matched a subnet: expected 2, got 1: 10.0.1.2 is in none of 10.0.0.0/24, fd00::/64",
    ),
    (
        "/networks/net/static_ips",
        r#"["10.0.0.1"]"#,
        "network \"net\": static_ips: 10.0.0.1 is the address of the gateway",
    ),
    (
        "/networks/net/static_mac",
        r#""92:d0""#,
        "network \"net\": static_mac: \"92:d0\" is not a MAC address, expected six octets such as 92:d0:c6:0a:29:33",
    ),
    (
        "/network_info/net/network_interface",
        r#"null"#,
        "network \"net\": no bridge interface name given",
    ),
    (
        "/network_info/net/ipam_options",
        r#"{"driver": "foo"}"#,
        "network \"net\": unsupported ipam driver foo",
    ),
    (
        "/network_info/net/ipam_options",
        r#"{"driver": "dhcp"}"#,
        "network \"net\": cannot use dhcp ipam driver without using the option mode=unmanaged",
    ),
    (
        "/network_info/net/subnets",
        r#"[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/16"}]"#,
        "network \"net\": overlapping subnets: 10.0.0.0/24 and 10.0.0.0/16",
    ),
    (
        "/network_info/net/subnets",
        r#"[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.9/24"}]"#,
        "network \"net\": duplicate subnet defined: 10.0.0.0/24",
    ),
    (
        "/network_info/net/routes",
        r#"[{"destination": "10.1.0.0/16"}]"#,
        "network \"net\": route 10.1.0.0/16 requires a gateway for type unicast",
    ),
    (
        "/network_info/net/routes",
        r#"[{"destination": "10.1.0.0/16", "gateway": "10.0.0.9", "route_type": "blackhole"}]"#,
        "network \"net\": route 10.1.0.0/16 must not have a gateway for type blackhole",
    ),
    (
        "/network_info/net/routes",
        r#"[{"destination": "10.1.0.0/16", "gateway": "fd00::9"}]"#,
        "network \"net\": route 10.1.0.0/16: the gateway fd00::9 is of another family",
    ),
];

#[test]
fn what_is_wrong_is_named() {
    for (pointer, value, expected) in ERRORS {
        let value = serde_json::from_str(value).unwrap();
        let error = understand(&with(pointer, value)).unwrap_err().to_string();
        assert_eq!(error, *expected, "{pointer}");
    }
}

#[test]
fn wrong_options_are_named() {
    let check = |key: &str, value: &str, expected: &str| {
        let error = understand(&with(&format!("{NET}/options"), json!({key: value}))).unwrap_err();
        assert_eq!(error.to_string(), format!("network \"net\": {expected}"));
    };
    check(
        "mtu",
        "x",
        "unable to parse \"mtu\": invalid digit found in string: \"x\"",
    );
    check(
        "metric",
        "-1",
        "unable to parse \"metric\": invalid digit found in string: \"-1\"",
    );
    check(
        "no_default_route",
        "maybe",
        "unable to parse \"no_default_route\": expected true or false, got \"maybe\"",
    );
    check(
        "isolate",
        "maybe",
        "invalid isolate option \"maybe\", expected true, false or strict",
    );
    check(
        "mode",
        "bridged",
        "mode: \"bridged\" is not a mode of bridge, expected managed or unmanaged",
    );
    check("vlan", "4095", "vlan must be between 0 and 4094, got 4095");
    check(
        "vrf",
        "a/b",
        "vrf: \"a/b\" must be text without \"/\", \":\", \"%\", white space and control characters",
    );
    check(
        "outbound_addr4",
        "fd00::1",
        "unable to parse \"outbound_addr4\": invalid IPv4 address syntax: \"fd00::1\"",
    );
}

#[test]
fn documents_that_are_not_requests_are_refused_by_field() {
    let check = |document: &str, expected: &str| {
        let error = parse(document.as_bytes()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!(
                "failed to load network options: IO error: {expected}"
            )),
            "{error}"
        );
    };
    check("", "EOF while parsing a value");
    check("null", "invalid type: null");
    check(
        "{\"container_id\": 7}",
        "container_id: invalid type: integer `7`, expected a string",
    );
    check(&format!("{} x", sample()), "trailing characters");
    let wrong = with(
        &format!("{NET}/subnets"),
        json!([{"subnet": "10.0.0.0/33"}]),
    )
    .to_string();
    check(
        &wrong,
        "network_info.net.subnets[0].subnet: invalid IP address syntax",
    );
    let twice = r#"{"container_id":"c","container_name":"c","network_info":{},"networks":[{"name":"a","interface_name":"eth0"},{"name":"a","interface_name":"eth1"}]}"#;
    check(twice, "networks: network \"a\" is given twice");
}

#[test]
fn ports_are_normalised_or_refused() {
    let ports = |mappings: Value| {
        understand(&with("/port_mappings", mappings)).map(|request| request.ports)
    };
    let check = |mapping: Value, expected: &str| {
        assert_eq!(ports(json!([mapping])).unwrap_err().to_string(), expected);
    };
    check(
        json!({"host_ip": "abcd", "host_port": 8080, "container_port": 80}),
        "invalid host ip \"abcd\" provided for port 8080",
    );
    check(
        json!({}),
        "port_mappings: neither host_port nor container_port is given",
    );
    check(
        json!({"host_port": 0, "container_port": 80}),
        "port_mappings: port 0 cannot be published",
    );
    check(
        json!({"host_port": 80, "protocol": "icmp"}),
        "port_mappings: unknown protocol \"icmp\" for port 80, expected tcp, udp or sctp",
    );
    check(
        json!({"host_port": 65535, "range": 2}),
        "port_mappings: 2 ports from 65535 on go beyond 65535",
    );
    let twice = json!([{"host_port": 80, "container_port": 1}, {"host_port": 79, "range": 3}]);
    assert_eq!(
        ports(twice).unwrap_err().to_string(),
        "port_mappings: host port 80 is mapped twice to different container ports"
    );

    let both = ports(
        json!([{"host_port": 53, "protocol": "tcp,udp", "range": 0}, {"container_port": 53}]),
    )
    .unwrap();
    let expected: Vec<(u16, u16, u16, Protocol)> =
        vec![(53, 53, 1, Protocol::Tcp), (53, 53, 1, Protocol::Udp)];
    let got: Vec<_> = both
        .iter()
        .map(|port| {
            (
                port.host_port,
                port.container_port,
                port.count,
                port.protocol,
            )
        })
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn addresses_follow_the_order_of_subnets() {
    let request = understand(&with(
        "/networks/net/static_ips",
        json!(["fd00::2", "10.0.0.3", "10.0.0.2"]),
    ))
    .unwrap();
    let addresses: Vec<String> = bridge(&request)
        .addresses
        .iter()
        .map(|address| address.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.3/24", "10.0.0.2/24", "fd00::2/64"]);
}

#[test]
fn isolation_depends_on_the_generation() {
    let isolation = |document: &Value, default_isolation| {
        let policy = Policy { default_isolation };
        let options = parse(document.to_string().as_bytes()).unwrap();
        bridge(&SetupRequest::new(options, &policy).unwrap())
            .network
            .isolation
    };
    let object = sample();
    let array = with(
        "/networks",
        json!([{"name": "net", "interface_name": "eth0", "static_ips": ["10.0.0.2"]}]),
    );
    assert_eq!(isolation(&object, None), Isolation::None);
    assert_eq!(isolation(&array, None), Isolation::Strict);
    assert_eq!(
        isolation(&object, Some(Isolation::Strict)),
        Isolation::Strict
    );
    assert_eq!(isolation(&array, Some(Isolation::None)), Isolation::None);
}

#[test]
fn a_resolver_must_not_be_the_gateway() {
    let mut document = with("/dns_servers", json!(["10.0.0.1"]));
    assert!(
        understand(&document).is_ok(),
        "names are not resolved on this network"
    );
    document["network_info"]["net"]["dns_enabled"] = json!(true);
    let error = understand(&document).unwrap_err().to_string();
    assert!(
        error.contains("would cause aardvark-dns to forward queries to itself"),
        "{error}"
    );
}

#[test]
fn truth_values_in_the_spellings_of_go() {
    for (text, expected) in [
        ("true", false),
        ("1", false),
        ("T", false),
        ("false", true),
        ("0", true),
        ("", true),
    ] {
        let request = understand(&with(
            &format!("{NET}/options"),
            json!({"no_default_route": text}),
        ))
        .unwrap();
        assert_eq!(bridge(&request).network.default_route, expected, "{text}");
    }
}

#[test]
fn a_teardown_does_not_mind_what_only_a_setup_needs() {
    let mut document = with(
        &format!("{NET}/options"),
        json!({"mtu": "x", "isolate": "maybe"}),
    );
    document["networks"]["net"]["static_ips"] = json!(["1.2.3.4"]);
    document["port_mappings"] = json!([{"host_ip": "abcd", "host_port": 1}]);
    let options = parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(TeardownRequest::new(&options).unwrap().networks.len(), 1);
}

/// The sample as a network of another driver, with these options and this IPAM driver.
fn other(driver: &str, options: Value, ipam: &str) -> Value {
    let mut document = sample();
    let network = &mut document["network_info"]["net"];
    network["driver"] = json!(driver);
    network["options"] = options;
    network["ipam_options"] = json!({"driver": ipam});
    document
}

fn sublink(document: &Value) -> Result<SublinkAttachment, String> {
    let request = understand(document).map_err(|error| error.to_string())?;
    Ok(request.sublinks().next().unwrap().clone())
}

#[test]
fn modes_of_links_on_top_of_others() {
    use super::sublink::{IpvlanMode, MacvlanMode};
    let macvlan = |mode| SublinkKind::Macvlan {
        mode,
        broadcast_cutoff: None,
    };
    let cases = [
        ("macvlan", "", macvlan(MacvlanMode::Bridge)),
        ("macvlan", "bridge", macvlan(MacvlanMode::Bridge)),
        ("macvlan", "private", macvlan(MacvlanMode::Private)),
        ("macvlan", "vepa", macvlan(MacvlanMode::Vepa)),
        ("macvlan", "passthru", macvlan(MacvlanMode::Passthru)),
        ("macvlan", "source", macvlan(MacvlanMode::Source)),
        ("ipvlan", "", SublinkKind::Ipvlan(IpvlanMode::L2)),
        ("ipvlan", "l2", SublinkKind::Ipvlan(IpvlanMode::L2)),
        ("ipvlan", "l3", SublinkKind::Ipvlan(IpvlanMode::L3)),
        ("ipvlan", "l3s", SublinkKind::Ipvlan(IpvlanMode::L3s)),
    ];
    for (driver, mode, kind) in cases {
        let link = sublink(&other(driver, json!({"mode": mode}), "")).unwrap();
        assert_eq!(link.network.kind, kind, "{driver} {mode}");
    }
    let wrong = [
        (
            other("macvlan", json!({"mode": "l2"}), ""),
            "network \"net\": mode: \"l2\" is not a mode of macvlan, expected bridge, private, vepa, passthru or source",
        ),
        (
            other("ipvlan", json!({"mode": "bridge"}), ""),
            "network \"net\": mode: \"bridge\" is not a mode of ipvlan, expected l2, l3 or l3s",
        ),
        (
            other("macvlan", json!({"bclim": "many"}), ""),
            "network \"net\": unable to parse \"bclim\": invalid digit found in string: \"many\"",
        ),
        (
            other("ipvlan", json!({}), "dhcp"),
            "network \"net\": ipam driver dhcp is not supported with ipvlan",
        ),
        (
            other("macvlan", json!({}), "foo"),
            "network \"net\": unsupported ipam driver foo",
        ),
    ];
    for (document, expected) in wrong {
        assert_eq!(sublink(&document).unwrap_err(), expected);
    }
}

#[test]
fn options_of_links_on_top_of_others() {
    let options = json!({"bclim": "-1", "mtu": "1400", "no_default_route": "true", "vlan": "x", "isolate": "x"});
    let link = sublink(&other("macvlan", options, "")).unwrap();
    let cutoff =
        pick!(link.network.kind, SublinkKind::Macvlan { broadcast_cutoff, .. } => broadcast_cutoff);
    assert_eq!(cutoff, Some(Some(-1)));
    assert_eq!(link.network.mtu, Some(1400));
    assert_eq!(
        (link.network.metric, link.network.default_route),
        (99, false)
    );
    assert_eq!(link.addresses.len(), 2);
    let link = sublink(&other(
        "macvlan",
        json!({"mtu": "0", "metric": "7"}),
        "dhcp",
    ))
    .unwrap();
    assert_eq!((link.network.mtu, link.network.metric), (None, 7));
    assert!(link.lease && link.addresses.is_empty());
    let link = sublink(&other("ipvlan", json!({}), "none")).unwrap();
    assert!(!link.lease && link.addresses.is_empty());
}

/// What a plugin makes of a network is its own affair: we have no opinion of any field.
#[test]
fn a_plugin_is_told_everything() {
    let mut document = other("my-driver", json!({"mtu": "x", "own": "1"}), "foo");
    document["networks"]["net"]["static_ips"] = json!(["1.2.3.4"]);
    document["port_mappings"] = json!([{"host_port": 1, "container_port": 2, "protocol": "tcp"}]);
    let request = understand(&document).unwrap();
    let call = pick!(&request.attachments[0], Attachment::Plugin(plugin) => &plugin.call).unwrap();
    assert_eq!(call.driver, "my-driver");
    let told: Value = serde_json::from_str(&call.input).unwrap();
    assert_eq!(told["container_id"], "c1");
    assert_eq!(told["container_name"], "web");
    assert_eq!(told["port_mappings"][0]["container_port"], 2);
    assert_eq!(
        without_nulls(&told["network"]),
        document["network_info"]["net"]
    );
    assert_eq!(
        without_nulls(&told["network_options"]),
        document["networks"]["net"]
    );
    let options = parse(document.to_string().as_bytes()).unwrap();
    let leaving = TeardownRequest::new(&options).unwrap();
    let same = pick!(&leaving.networks[0].link, Link::Plugin(call) => call);
    assert_eq!(same, Some(call));
}

/// A document as it was before what it lacks was put in.
fn without_nulls(document: &Value) -> Value {
    if let Some(object) = document.as_object() {
        let given = object.iter().filter(|(_, value)| !value.is_null());
        let given = given.map(|(key, value)| (key.clone(), without_nulls(value)));
        return Value::Object(given.collect());
    }
    match document.as_array() {
        Some(list) => list.iter().map(without_nulls).collect(),
        None => document.clone(),
    }
}
