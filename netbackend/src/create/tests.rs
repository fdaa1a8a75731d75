use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use serde_json::{Value, json};
use wire::network::NetworkOptions;

use super::*;
use crate::request::{Policy, SetupRequest};

fn facts() -> Facts {
    Facts {
        links: ["lo", "eth0", "podman1"].map(str::to_owned).into(),
        now: Duration::from_secs(1_795_196_893),
        seed: [7; 16],
    }
}

/// A request like those of Podman, with fields set by JSON pointers. Null takes a field away.
fn request(changes: &[(&str, Value)]) -> Value {
    let mut request = json!({
        "network": {
            "name": "web", "id": "a".repeat(64), "driver": "bridge",
            "ipv6_enabled": false, "internal": false, "dns_enabled": true,
            "options": {}, "ipam_options": {},
        },
        "used": {"interfaces": [], "names": {}, "subnets": []},
        "options": {
            "subnet_pools": [{"base": "10.89.0.0/16", "size": 24}, {"base": "10.90.0.0/15", "size": 24}],
            "default_interface_name": "podman",
            "check_used_subnets": true,
        },
    });
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        request.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    request
}

fn outcome(request: &Value) -> Result<Created, CreateError> {
    create(parse(request.to_string().as_bytes())?, &facts())
}

fn network(changes: &[(&str, Value)]) -> Value {
    match outcome(&request(changes)) {
        Ok(Created::Complete(network)) => json!(network),
        other => panic!("{changes:?}: {other:?}"),
    }
}

fn error(changes: &[(&str, Value)]) -> String {
    outcome(&request(changes)).unwrap_err().to_string()
}

#[test]
fn a_bridge_gets_all_that_it_lacks() {
    assert_eq!(
        network(&[]),
        json!({
            "name": "web", "id": "a".repeat(64), "driver": "bridge", "network_interface": "podman2",
            "created": "2026-11-20T17:48:13.000000000Z",
            "subnets": [{"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}],
            "ipv6_enabled": false, "internal": false, "dns_enabled": true,
            "options": {}, "ipam_options": {"driver": "host-local"},
        })
    );
}

#[test]
fn the_reply_keeps_the_order_of_fields() {
    let Ok(Created::Complete(network)) =
        outcome(&request(&[("/network/labels", json!({"a": "b"}))]))
    else {
        panic!("it is complete");
    };
    let text = serde_json::to_string(&network).unwrap();
    let keys = [
        "name",
        "id",
        "driver",
        "network_interface",
        "created",
        "subnets",
        "ipv6_enabled",
        "internal",
        "dns_enabled",
        "labels",
        "options",
        "ipam_options",
    ];
    let places: Vec<_> = keys
        .iter()
        .map(|key| text.find(&format!("\"{key}\":")))
        .collect();
    assert!(
        places.is_sorted() && places.iter().all(Option::is_some),
        "{text}"
    );
    assert!(!text.contains("null"), "{text}");
}

#[test]
fn bridges_are_named_apart() {
    let check = |changes: &[(&str, Value)], expected: &str| {
        assert_eq!(
            network(changes)["network_interface"],
            expected,
            "{changes:?}"
        );
    };
    check(
        &[("/used/interfaces", json!(["podman2", "podman4"]))],
        "podman3",
    );
    check(
        &[("/used/names", json!({"podman2": "x", "podman3": "y"}))],
        "podman4",
    );
    check(&[("/options/default_interface_name", json!("br"))], "br1");
    check(&[("/options/default_interface_name", json!("eth"))], "eth1");
    check(
        &[("/options/default_interface_name", Value::Null)],
        "podman2",
    );
    check(
        &[("/network/network_interface", json!("my-br.0"))],
        "my-br.0",
    );
    // A VLAN or a bridge of somebody else's may be shared.
    for options in [json!({"vlan": "5"}), json!({"mode": "unmanaged"})] {
        check(
            &[
                ("/network/network_interface", json!("shared")),
                ("/used/interfaces", json!(["shared"])),
                ("/network/options", options),
            ],
            "shared",
        );
    }
}

#[test]
fn free_subnets() {
    let check = |changes: &[(&str, Value)], expected: Value| {
        let network = network(changes);
        let subnets: Vec<_> = network["subnets"].as_array().unwrap().iter().collect();
        let subnets: Vec<_> = subnets.iter().map(|subnet| &subnet["subnet"]).collect();
        assert_eq!(json!(subnets), expected, "{changes:?}");
    };
    let used = |subnets: Value| ("/used/subnets", subnets);
    check(
        &[used(json!(["10.89.0.0/24", "10.89.2.0/24"]))],
        json!(["10.89.1.0/24"]),
    );
    check(&[used(json!(["10.89.0.0/17"]))], json!(["10.89.128.0/24"]));
    check(
        &[used(json!(["10.89.0.77/32", "10.89.1.9/32"]))],
        json!(["10.89.2.0/24"]),
    );
    check(
        &[used(json!(["10.89.0.0/16", "10.90.0.0/16"]))],
        json!(["10.91.0.0/24"]),
    );
    check(
        &[used(json!(["10.89.0.0/16", "fd00::/8"]))],
        json!(["10.90.0.0/24"]),
    );
    let unchecked = ("/options/check_used_subnets", json!(false));
    check(
        &[used(json!(["10.89.0.0/16"])), unchecked],
        json!(["10.89.0.0/24"]),
    );
    let vlan = ("/network/options/vlan", json!("7"));
    check(
        &[used(json!(["10.89.0.0/16"])), vlan],
        json!(["10.89.0.0/24"]),
    );
    let pools = (
        "/options/subnet_pools",
        json!([{"base": "fd00::/16", "size": 64}, {"base": "10.1.0.0/16", "size": 16}]),
    );
    check(&[pools], json!(["10.1.0.0/16"]));
    // However large the pool and however many are taken.
    let many: Vec<_> = (0..255).map(|n| format!("10.{n}.0.0/16")).collect();
    let pools = (
        "/options/subnet_pools",
        json!([{"base": "10.0.0.0/8", "size": 30}]),
    );
    check(&[used(json!(many)), pools], json!(["10.255.0.0/30"]));
    let pools = (
        "/options/subnet_pools",
        json!([{"base": "0.0.0.0/0", "size": 32}]),
    );
    let half = json!(["0.0.0.0/1", "128.0.0.0/2"]);
    check(
        &[
            used(half),
            pools,
            ("/network/internal", json!(true)),
            ("/network/dns_enabled", json!(false)),
        ],
        json!(["192.0.0.0/32"]),
    );
}

#[test]
fn both_families() {
    let families = |changes: &[(&str, Value)]| -> Vec<bool> {
        let network = network(changes);
        assert_eq!(network["ipv6_enabled"], json!(true));
        let subnets = network["subnets"].as_array().unwrap();
        let is_v6 = |subnet: &Value| subnet["subnet"].as_str().unwrap().contains(':');
        subnets.iter().map(is_v6).collect()
    };
    let v6 = ("/network/ipv6_enabled", json!(true));
    let subnets = |subnets: Value| ("/network/subnets", subnets);
    assert_eq!(families(std::slice::from_ref(&v6)), [false, true]);
    assert_eq!(
        families(&[v6.clone(), subnets(json!([{"subnet": "10.5.0.0/24"}]))]),
        [false, true]
    );
    assert_eq!(
        families(&[v6.clone(), subnets(json!([{"subnet": "fd01::/64"}]))]),
        [true, false]
    );
    // Found out, nothing is added then.
    assert_eq!(
        families(&[subnets(json!([{"subnet": "fd01::/64"}]))]),
        [true]
    );
}

#[test]
fn gateways() {
    let gateway = |changes: &[(&str, Value)]| network(changes)["subnets"][0]["gateway"].clone();
    let subnets = |subnets: Value| ("/network/subnets", subnets);
    let internal = ("/network/internal", json!(true));
    let nameless = ("/network/dns_enabled", json!(false));
    assert_eq!(
        gateway(&[subnets(json!([{"subnet": "10.5.0.9/24"}]))]),
        "10.5.0.1"
    );
    assert_eq!(
        gateway(&[subnets(json!([{"subnet": "fd01::/127"}]))]),
        "fd01::1"
    );
    assert_eq!(
        gateway(&[subnets(
            json!([{"subnet": "10.5.0.0/24", "gateway": "10.5.0.9"}])
        )]),
        "10.5.0.9"
    );
    assert_eq!(gateway(std::slice::from_ref(&internal)), "10.89.0.1");
    assert_eq!(gateway(&[internal, nameless]), Value::Null);
}

#[test]
fn options_are_made_plain() {
    let options = |given: Value| network(&[("/network/options", given)])["options"].clone();
    assert_eq!(
        options(json!({"isolate": "", "no_default_route": "T"})),
        json!({"isolate": "true", "no_default_route": "true"})
    );
    assert_eq!(
        options(json!({"isolate": "strict", "no_default_route": "0"})),
        json!({"isolate": "strict", "no_default_route": "false"})
    );
    let all = json!({
        "mtu": "0", "metric": "7", "mode": "managed", "vlan": "4094", "vrf": "blue",
        "outbound_addr4": "192.0.2.1", "outbound_addr6": "2001:db8::1", "isolate": "true",
    });
    assert_eq!(options(all.clone()), all);
    let docker = network(&[(
        "/network/options",
        json!({"com.docker.network.driver.mtu": "1400", "com.docker.network.bridge.name": "dbr"}),
    )]);
    assert_eq!(docker["options"], json!({"mtu": "1400"}));
    assert_eq!(docker["network_interface"], "dbr");
}

#[test]
fn networks_of_other_drivers() {
    let driver = |name: &str| ("/network/driver", json!(name));
    let subnets = ("/network/subnets", json!([{"subnet": "10.5.0.0/24"}]));
    let plain = network(&[driver("macvlan")]);
    assert_eq!(plain["ipam_options"], json!({"driver": "dhcp"}));
    assert_eq!(plain["dns_enabled"], json!(false));
    assert_eq!(
        plain
            .get("subnets")
            .or_else(|| plain.get("network_interface")),
        None
    );
    for name in ["macvlan", "ipvlan"] {
        let given = network(&[
            driver(name),
            subnets.clone(),
            ("/network/network_interface", json!("eth0")),
        ]);
        assert_eq!(given["ipam_options"], json!({"driver": "host-local"}));
        assert_eq!(given["subnets"][0]["gateway"], "10.5.0.1");
        assert_eq!(given["dns_enabled"], json!(false));
    }
    let none = network(&[
        driver("ipvlan"),
        ("/network/ipam_options/driver", json!("none")),
    ]);
    assert_eq!(none["ipam_options"], json!({"driver": "none"}));
    let options = json!({"mode": "vepa", "bclim": "-1", "mtu": "1400", "metric": "5", "no_default_route": "1"});
    let given = network(&[driver("macvlan"), ("/network/options", options)]);
    assert_eq!(given["options"]["no_default_route"], "true");
    let Ok(Created::Plugin(plugin)) = outcome(&request(&[
        driver("mine"),
        ("/network/options/any", json!("x")),
    ])) else {
        panic!("a plugin has to do it");
    };
    assert_eq!(plugin.subnets, None);
}

#[test]
fn bridges_without_addresses() {
    let ipam = |name: &str| ("/network/ipam_options/driver", json!(name));
    let none = network(&[ipam("none")]);
    assert_eq!(none["dns_enabled"], json!(false));
    assert_eq!(none.get("subnets"), None);
    let dhcp = network(&[ipam("dhcp"), ("/network/options/mode", json!("unmanaged"))]);
    assert_eq!(dhcp["ipam_options"], json!({"driver": "dhcp"}));
    assert_eq!(dhcp.get("subnets"), None);
}

#[test]
fn plugins_complete_their_own_networks_only() {
    let Ok(Created::Plugin(wanted)) = outcome(&request(&[("/network/driver", json!("mine"))]))
    else {
        panic!("a plugin has to do it");
    };
    let same = accept(
        &wanted,
        Network {
            internal: true,
            ..(*wanted).clone()
        },
        &facts(),
    )
    .unwrap();
    assert!(same.internal);
    assert_eq!(
        same.created.as_deref(),
        Some("2026-11-20T17:48:13.000000000Z")
    );
    for (change, field) in [
        (
            (|network: &mut Network| "x".clone_into(&mut network.name)) as fn(&mut Network),
            "name",
        ),
        (|network| "x".clone_into(&mut network.id), "id"),
        (|network| "x".clone_into(&mut network.driver), "driver"),
    ] {
        let mut other = (*wanted).clone();
        change(&mut other);
        let error = accept(&wanted, other, &facts()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!(
                "plugin \"mine\" failed: it changed the {field} of the network from"
            )) && error.ends_with("to \"x\""),
            "{error}"
        );
    }
}

/// What is changed of a good request, and the text that says what is wrong with it, word for word: callers look for some
/// of them.
const ERRORS: &[(&str, &str)] = &[
    (r#"{"/network/name": ""}"#, "Network name must be supplied"),
    (
        r#"{"/network/name": "a b"}"#,
        "Invalid characters in network name \"a b\": must match [a-zA-Z0-9][a-zA-Z0-9_.-]*",
    ),
    (
        r#"{"/network/name": "-a"}"#,
        "Invalid characters in network name \"-a\": must match [a-zA-Z0-9][a-zA-Z0-9_.-]*",
    ),
    (
        r#"{"/used/names": {"web": "1"}}"#,
        "network already exists web",
    ),
    (
        r#"{"/network/name": "aardvark.pid"}"#,
        "name: \"aardvark.pid\" must be text without \"/\", \"%\" and control characters, other than \"aardvark.pid\"",
    ),
    (r#"{"/network/id": ""}"#, "Network id must be supplied"),
    (
        r#"{"/network/id": "abc"}"#,
        "Invalid network id \"abc\": must be 64 hexadecimal digits",
    ),
    (
        r#"{"/network/network_interface": "a234567890123456"}"#,
        "network_interface: \"a234567890123456\" has 16 bytes, at most 15 are allowed",
    ),
    (
        r#"{"/network/network_interface": "a/b"}"#,
        "network_interface: \"a/b\" must be text without \"/\", \":\", \"%\", white space and control characters",
    ),
    (
        r#"{"/network/network_interface": ""}"#,
        "network_interface: must not be empty",
    ),
    (
        r#"{"/network/network_interface": ".."}"#,
        "network_interface: \"..\" must be text without \"/\", \":\", \"%\", white space and control characters",
    ),
    (
        r#"{"/network/network_interface": "a*"}"#,
        "bridge name a* invalid: must match [a-zA-Z0-9][a-zA-Z0-9_.-]*",
    ),
    (
        r#"{"/network/network_interface": "br", "/used/interfaces": ["br"]}"#,
        "bridge name br already in use",
    ),
    (
        r#"{"/options/default_interface_name": "a23456789012345"}"#,
        "network_interface: \"a234567890123451\" has 16 bytes, at most 15 are allowed",
    ),
    (
        r#"{"/network/ipam_options/driver": "magic"}"#,
        "unsupported ipam driver magic",
    ),
    (
        r#"{"/network/ipam_options/driver": "none", "/network/subnets": [{"subnet": "10.1.0.0/24"}]}"#,
        "None ipam driver is set but subnets are given",
    ),
    (
        r#"{"/network/ipam_options/driver": "dhcp"}"#,
        "cannot use dhcp ipam driver without using the option mode=unmanaged",
    ),
    (
        r#"{"/network/ipam_options/driver": "dhcp", "/network/subnets": [{"subnet": "10.1.0.0/24"}], "/network/options": {"mode": "unmanaged"}}"#,
        "ipam driver dhcp is set but subnets are given",
    ),
    (
        r#"{"/network/driver": "macvlan", "/network/ipam_options/driver": "dhcp", "/network/subnets": [{"subnet": "10.1.0.0/24"}]}"#,
        "ipam driver dhcp is set but subnets are given",
    ),
    (
        r#"{"/network/driver": "macvlan", "/network/ipam_options/driver": "host-local"}"#,
        "ipam driver host-local is set for macvlan but no subnets are given",
    ),
    (
        r#"{"/network/driver": "ipvlan"}"#,
        "ipam driver dhcp is not supported with ipvlan",
    ),
    (
        r#"{"/network/driver": "ipvlan", "/network/ipam_options/driver": "dhcp", "/network/subnets": [{"subnet": "10.1.0.0/24"}]}"#,
        "ipam driver dhcp is not supported with ipvlan",
    ),
    (
        r#"{"/network/driver": "macvlan", "/network/network_interface": "eth9"}"#,
        "parent interface eth9 does not exist",
    ),
    (
        r#"{"/network/options": {"what": "1"}}"#,
        "unsupported bridge network option: what",
    ),
    (
        r#"{"/network/driver": "macvlan", "/network/options": {"isolate": "1"}}"#,
        "unsupported vlan network option: isolate",
    ),
    (
        r#"{"/network/driver": "ipvlan", "/network/subnets": [{"subnet": "10.1.0.0/24"}], "/network/options": {"bclim": "1"}}"#,
        "unsupported vlan network option: bclim",
    ),
    (
        r#"{"/network/options": {"mtu": "abc"}}"#,
        "unable to parse \"mtu\": invalid digit found in string",
    ),
    (
        r#"{"/network/options": {"mtu": ""}}"#,
        "unable to parse \"mtu\": cannot parse integer from empty string",
    ),
    (
        r#"{"/network/options": {"metric": "-1"}}"#,
        "unable to parse \"metric\": invalid digit found in string",
    ),
    (
        r#"{"/network/options": {"com.docker.network.driver.mtu": "x"}}"#,
        "unable to parse \"mtu\": invalid digit found in string",
    ),
    (
        r#"{"/network/options": {"com.docker.network.driver.mtu": "1", "mtu": "2"}}"#,
        "option \"com.docker.network.driver.mtu\" is \"1\", but \"mtu\" is \"2\"",
    ),
    (
        r#"{"/network/options": {"com.docker.network.bridge.name": "a"}, "/network/network_interface": "b"}"#,
        "option \"com.docker.network.bridge.name\" is \"a\", but \"network_interface\" is \"b\"",
    ),
    (
        r#"{"/network/options": {"no_default_route": "maybe"}}"#,
        "unable to parse \"no_default_route\": provided string was not `true` or `false`",
    ),
    (
        r#"{"/network/options": {"isolate": "maybe"}}"#,
        "invalid isolate option \"maybe\"",
    ),
    (
        r#"{"/network/options": {"vlan": "4095"}}"#,
        "vlan must be between 0 and 4094",
    ),
    (
        r#"{"/network/options": {"vlan": "x"}}"#,
        "unable to parse \"vlan\": invalid digit found in string",
    ),
    (
        r#"{"/network/options": {"vrf": "a\"b"}}"#,
        "unable to parse \"vrf\": \"a\"b\" must not contain \"*\", \"\\\"\" and \"\\\\\"",
    ),
    (
        r#"{"/network/options": {"outbound_addr4": "::1"}}"#,
        "unable to parse \"outbound_addr4\": invalid IPv4 address syntax",
    ),
    (
        r#"{"/network/options": {"outbound_addr6": "1.1.1.1"}}"#,
        "unable to parse \"outbound_addr6\": invalid IPv6 address syntax",
    ),
    (
        r#"{"/network/options": {"mode": "magic"}}"#,
        "mode: \"magic\" is not a mode of bridge, expected managed or unmanaged",
    ),
    (
        r#"{"/network/driver": "macvlan", "/network/options": {"mode": "l2"}}"#,
        "mode: \"l2\" is not a mode of macvlan, expected bridge, private, vepa, passthru or source",
    ),
    (
        r#"{"/network/driver": "ipvlan", "/network/subnets": [{"subnet": "10.1.0.0/24"}], "/network/options": {"mode": "vepa"}}"#,
        "mode: \"vepa\" is not a mode of ipvlan, expected l2, l3 or l3s",
    ),
    (
        r#"{"/used/subnets": ["10.0.0.0/8"]}"#,
        "could not find free subnet from subnet pools",
    ),
    (
        r#"{"/options/subnet_pools": []}"#,
        "could not find free subnet from subnet pools",
    ),
    (
        r#"{"/options/subnet_pools": [{"base": "10.0.0.0/16", "size": 15}]}"#,
        "subnet pool 10.0.0.0/16: size 15 must be between its prefix length and 32",
    ),
    (
        r#"{"/used/subnets": ["fd00::/8"], "/network/ipv6_enabled": true}"#,
        "could not find free IPv6 subnet in fd00::/8",
    ),
    (
        r#"{"/network/network_dns_servers": ["1.1.1.1"], "/network/dns_enabled": false}"#,
        "cannot set NetworkDNSServers if DNS is not enabled for the network",
    ),
    (
        r#"{"/network/network_dns_servers": ["10.89.0.1"]}"#,
        "dns server 10.89.0.1 is the gateway of the network, which would cause aardvark-dns to forward queries to itself",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.0/16"}, {"subnet": "10.1.1.0/24"}]}"#,
        "overlapping subnets: 10.1.0.0/16 and 10.1.1.0/24",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.0/16"}, {"subnet": "10.1.0.0/16"}]}"#,
        "duplicate subnet defined: 10.1.0.0/16",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.1.0/24"}], "/used/subnets": ["10.1.0.0/16"]}"#,
        "subnet 10.1.1.0/24 is already used on the host or by another config",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.0/16"}], "/used/subnets": ["10.1.1.1/32"]}"#,
        "subnet 10.1.0.0/16 is already used on the host or by another config",
    ),
    (
        r#"{"/network/driver": "macvlan", "/network/subnets": [{"subnet": "10.1.0.0/16"}], "/used/subnets": ["10.1.1.1/32"]}"#,
        "subnet 10.1.0.0/16 is already used on the host or by another config",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.0/16", "gateway": "10.2.0.1"}]}"#,
        "gateway 10.2.0.1 not in subnet 10.1.0.0/16",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.0/16", "gateway": "fd00::1"}]}"#,
        "gateway fd00::1 not in subnet 10.1.0.0/16",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.1/32"}]}"#,
        "could not create gateway for subnet 10.1.0.1/32 because it has a 31 or greater subnet prefix",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "fd01::1/128"}]}"#,
        "could not create gateway for subnet fd01::1/128 because it has a 128 or greater subnet prefix",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.0/24", "lease_range": {"start_ip": "10.1.1.1"}}]}"#,
        "lease range start ip 10.1.1.1 not in subnet 10.1.0.0/24",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.0/24", "lease_range": {"end_ip": "fd01::1"}}]}"#,
        "lease range end ip fd01::1 not in subnet 10.1.0.0/24",
    ),
    (
        r#"{"/network/subnets": [{"subnet": "10.1.0.0/24", "lease_range": {"start_ip": "10.1.0.9", "end_ip": "10.1.0.8"}}]}"#,
        "lease range start ip 10.1.0.9 is greater than end ip 10.1.0.8",
    ),
    (
        r#"{"/network/routes": [{"destination": "10.1.0.9/24", "gateway": "10.89.0.5"}]}"#,
        "route destination 10.1.0.9/24 is not a network address, expected 10.1.0.0/24",
    ),
    (
        r#"{"/network/routes": [{"destination": "10.1.0.0/24"}]}"#,
        "route 10.1.0.0/24 requires a gateway for type unicast",
    ),
    (
        r#"{"/network/routes": [{"destination": "10.1.0.0/24", "gateway": "10.89.0.5", "route_type": "blackhole"}]}"#,
        "route 10.1.0.0/24 must not have a gateway for type blackhole",
    ),
    (
        r#"{"/network/routes": [{"destination": "10.1.0.0/24", "gateway": "fd01::5"}]}"#,
        "route 10.1.0.0/24: the gateway fd01::5 is of another family",
    ),
    (
        r#"{"/network/routes": [{"destination": "10.1.0.0/24", "route_type": "magic"}]}"#,
        "route 10.1.0.0/24: unknown route type \"magic\", expected unicast, blackhole, unreachable or prohibit",
    ),
];

#[test]
fn errors() {
    for (changes, expected) in ERRORS {
        let changes: BTreeMap<&str, Value> = serde_json::from_str(changes).unwrap();
        let changes: Vec<_> = changes.into_iter().collect();
        assert_eq!(error(&changes), *expected, "{changes:?}");
    }
}

#[test]
fn documents_that_are_none() {
    let check = |document: &str, expected: &str| {
        let error = parse(document.as_bytes()).unwrap_err().to_string();
        let rest = error.strip_prefix("failed to load network create: IO error: ");
        assert!(
            rest.is_some_and(|rest| rest.contains(expected)),
            "{document}: {error}"
        );
    };
    check("", "EOF");
    check("{}", "missing field `network`");
    check("[] 1", "");
    let without = |pointer: &str, key: &str| {
        let mut request = request(&[]);
        request
            .pointer_mut(pointer)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(key);
        request.to_string()
    };
    for (pointer, keys) in [
        ("", &["network", "used", "options"][..]),
        ("/used", &["interfaces", "names", "subnets"]),
        ("/options", &["subnet_pools", "check_used_subnets"]),
        (
            "/network",
            &[
                "name",
                "id",
                "driver",
                "internal",
                "dns_enabled",
                "ipv6_enabled",
            ],
        ),
    ] {
        for key in keys {
            check(&without(pointer, key), &format!("missing field `{key}`"));
        }
    }
    for (pointer, value, path) in [
        (
            "/network/network_dns_servers",
            json!(["a.b"]),
            "network.network_dns_servers[0]",
        ),
        (
            "/network/routes",
            json!([{"destination": "10.0.0.0"}]),
            "network.routes[0].destination",
        ),
        (
            "/network/routes",
            json!([{"destination": "10.0.0.0/8", "gateway": "x"}]),
            "network.routes[0].gateway",
        ),
        (
            "/network/subnets",
            json!([{"subnet": "x"}]),
            "network.subnets[0].subnet",
        ),
        ("/used/subnets", json!(["x"]), "used.subnets[0]"),
    ] {
        check(
            &request(&[(pointer, value)]).to_string(),
            &format!("{path}: invalid IP address syntax"),
        );
    }
}

fn subnet4() -> impl Strategy<Value = IpNet> {
    // Near each other, so that they meet.
    (0_u32..1 << 20, 14_u8..=32).prop_map(|(bits, prefix)| {
        let address = std::net::Ipv4Addr::from(0x0a50_0000 + (bits << 4));
        IpNet::from(Ipv4Net::new(address, prefix).unwrap()).trunc()
    })
}

fn subnet6() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 12_u8..=64).prop_map(|(bits, prefix)| {
        let address = std::net::Ipv6Addr::from(0xfd << 120 | bits >> 8);
        IpNet::from(Ipv6Net::new(address, prefix).unwrap()).trunc()
    })
}

/// A container on a network, with an address of each subnet that is not the gateway's.
fn setup_of(network: &Network) -> Value {
    let address = |subnet: &wire::network::Subnet| {
        let gateway = subnet.gateway;
        let other = |address: &IpAddr| Some(*address) != gateway;
        subnet.subnet.hosts().find(other).unwrap().to_string()
    };
    let addresses: Vec<_> = network.subnets.iter().flatten().map(address).collect();
    json!({
        "container_id": "c1", "container_name": "c1",
        "networks": [{"name": network.name, "interface_name": "eth0", "static_ips": addresses}],
        "network_info": {&network.name: network},
    })
}

proptest! {
    /// Whatever is taken, what was chosen is free, and `setup` understands the network.
    #[test]
    fn what_is_chosen_is_free(
        used in prop::collection::vec(prop_oneof![4 => subnet4(), 1 => subnet6()], 0..40),
        interfaces in prop::collection::vec("podman[0-9]{1,2}", 0..30),
        names in prop::collection::btree_map("podman[0-9]{1,2}", "[a-f]", 0..30),
        links in prop::collection::btree_set("podman[0-9]", 0..10),
        pools in prop::collection::vec((12_u8..=20, 20_u8..=29), 1..4),
        ipv6 in any::<bool>(),
        internal in any::<bool>(),
        dns in any::<bool>(),
        seed in any::<[u8; 16]>(),
    ) {
        let pools: Vec<_> = pools
            .iter()
            .map(|(base, size)| json!({"base": IpNet::new("10.80.0.0".parse().unwrap(), *base).unwrap().trunc(), "size": size}))
            .collect();
        let document = request(&[
            ("/used/subnets", json!(used)),
            ("/used/interfaces", json!(interfaces)),
            ("/used/names", json!(names)),
            ("/options/subnet_pools", json!(pools)),
            ("/network/ipv6_enabled", json!(ipv6)),
            ("/network/internal", json!(internal)),
            ("/network/dns_enabled", json!(dns)),
        ]);
        let facts = Facts { links: links.clone(), seed, ..facts() };
        let request = parse(document.to_string().as_bytes()).unwrap();
        match create(request, &facts) {
            Ok(Created::Complete(network)) => {
                let subnets = network.subnets.as_deref().unwrap();
                prop_assert_eq!(subnets.len(), 1 + usize::from(ipv6));
                for subnet in subnets {
                    let shared = used.iter().find(|used| {
                        used.contains(&subnet.subnet) || subnet.subnet.contains(*used)
                    });
                    prop_assert_eq!(shared, None, "{:?}", subnet);
                    prop_assert_eq!(subnet.subnet, subnet.subnet.trunc());
                    prop_assert_eq!(subnet.gateway.is_some(), !internal || dns);
                }
                let name = network.network_interface.clone().unwrap();
                prop_assert!(!interfaces.contains(&name) && !names.contains_key(&name) && !links.contains(&name));
                let options: NetworkOptions = serde_json::from_value(setup_of(&network)).unwrap();
                let policy = Policy { default_isolation: None };
                let setup = SetupRequest::new(options, &policy);
                prop_assert!(setup.is_ok(), "{:?}: {:?}", network, setup);
            }
            // Then there is really none: each subnet of each pool meets another.
            Err(CreateError::NoFreeSubnet) => {
                for pool in &pools {
                    let base: IpNet = pool["base"].as_str().unwrap().parse().unwrap();
                    let size = u8::try_from(pool["size"].as_u64().unwrap()).unwrap();
                    let meets = |subnet: IpNet| used.iter().any(|used| subnets::overlap(used, &subnet));
                    prop_assert!(base.subnets(size).unwrap().all(meets));
                }
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// What is stored by `create` never fails at `setup` for its options, routes and addresses.
    #[test]
    fn setup_understands_what_was_created(
        subnets in prop::collection::vec((prop_oneof![subnet4(), subnet6()], any::<Option<u8>>()), 0..3),
        options in prop::collection::btree_map(
            prop_oneof![Just("mtu"), Just("metric"), Just("isolate"), Just("no_default_route"), Just("vlan"), Just("mode"),
                Just("vrf"), Just("outbound_addr4"), Just("outbound_addr6")],
            prop_oneof![Just("0"), Just("1"), Just("true"), Just("False"), Just(""), Just("strict"), Just("unmanaged"),
                Just("managed"), Just("blue"), Just("192.0.2.1"), Just("2001:db8::1"), Just("4095"), Just("70000")],
            0..3,
        ),
        ipam in prop_oneof![Just("host-local"), Just("none"), Just("")],
        kind in prop_oneof![Just(""), Just("unicast"), Just("blackhole"), Just("prohibit"), Just("other")],
        route in subnet4(),
        gateway in prop::option::of(prop_oneof![Just("10.89.0.7"), Just("fd01::7")]),
        internal in any::<bool>(),
    ) {
        let subnets: Vec<_> = subnets
            .iter()
            .filter(|(subnet, _)| match subnet {
                IpNet::V4(net) => net.prefix_len() < 30,
                IpNet::V6(net) => net.prefix_len() < 127,
            })
            .map(|(subnet, gateway)| {
                let gateway = gateway.and_then(|n| subnet.hosts().nth(n.into()));
                json!({"subnet": subnet, "gateway": gateway})
            })
            .collect();
        let mut route = json!({"destination": route, "route_type": kind});
        route["gateway"] = json!(gateway);
        let document = request(&[
            ("/network/subnets", json!(subnets)),
            ("/network/options", json!(options)),
            ("/network/ipam_options/driver", json!(ipam)),
            ("/network/routes", json!([route])),
            ("/network/internal", json!(internal)),
        ]);
        if let Ok(Created::Complete(network)) = outcome(&document) {
            let options: NetworkOptions = serde_json::from_value(setup_of(&network)).unwrap();
            let setup = SetupRequest::new(options, &Policy { default_isolation: None });
            prop_assert!(setup.is_ok(), "{:?}: {:?}", network, setup);
            // What is complete stays as it is, were it asked for again; but with IPv6 it gets IPv4, too.
            let mut own = network.subnets.iter().flatten();
            if network.ipv6_enabled && !own.any(|subnet| subnet.subnet.addr().is_ipv4()) {
                return Ok(());
            }
            let again = request(&[("/network", json!(network))]);
            let Ok(Created::Complete(same)) = outcome(&again) else {
                panic!("{:?}", outcome(&again));
            };
            prop_assert_eq!(same, network);
        }
    }
}
