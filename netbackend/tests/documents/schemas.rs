//! Schemas say of a document what the parser says.

use clap::ValueEnum;
use netbackend::record::{self, Seen};
use netbackend::schema::Name;
use serde_json::{Value, json};
use test_fixtures::recording;
use wire::collection::{Collection, Leftover};
use wire::create::CreateRequest;
use wire::network::{Network, NetworkOptions};
use wire::status::{ErrorReply, Status};

use crate::validator::check;

/// Everything that Podman sent or got is as we say.
#[test]
fn every_recorded_document() {
    let mut seen = 0;
    for scenario in recording::scenarios().unwrap() {
        for call in recording::calls(&scenario).unwrap() {
            let at = format!("{scenario}/{}", call.name);
            let input = match call.verb.as_str() {
                "setup" => Name::SetupInput,
                "teardown" => Name::TeardownInput,
                "update" => continue, // reads nothing
                verb => panic!("{at}: unknown verb {verb}"),
            };
            check(&input.schema(), &call.request().unwrap())
                .unwrap_or_else(|why| panic!("{at}.in: {why}"));
            seen += 1;
            if let Some(output) = call.output {
                let failed = !output["error"].is_null();
                let name = if failed {
                    Name::Error
                } else {
                    Name::SetupOutput
                };
                check(&name.schema(), &output).unwrap_or_else(|why| panic!("{at}.out: {why}"));
                seen += 1;
            }
        }
    }
    assert!(seen > 70, "{seen}");
}

/// A request with every field that there is.
fn full_request() -> Value {
    let options = json!({
        "interface_name": "eth0", "static_ips": ["10.1.0.2", "fd01::2"], "static_mac": "92:d0:c6:0a:29:33",
        "aliases": ["a"], "options": {"host_interface_name": "x"},
    });
    json!({
        "container_id": "c", "container_name": "n", "container_hostname": "h",
        "networks": {"one": options},
        "network_info": {"one": full_network()},
        "port_mappings": [{"host_ip": "", "host_port": 80, "container_port": 80, "protocol": "tcp", "range": 1}],
        "dns_servers": ["1.1.1.1"],
    })
}

fn full_network() -> Value {
    json!({
        "name": "one", "id": "1", "driver": "bridge", "network_interface": "br", "created": "2026-11-20T17:48:13Z",
        "subnets": [{"subnet": "10.1.0.0/16", "gateway": "10.1.0.1", "lease_range": {"start_ip": "10.1.0.9", "end_ip": "10.1.0.99"}}],
        "routes": [{"destination": "10.2.0.0/16", "gateway": "10.1.0.3", "metric": 5, "route_type": "unicast"}],
        "ipv6_enabled": false, "internal": false, "dns_enabled": false, "network_dns_servers": ["fd01::9"],
        "labels": {"a": "b"}, "options": {"mtu": "1400"}, "ipam_options": {"driver": "host-local"},
    })
}

fn full_create() -> Value {
    json!({
        "network": full_network(),
        "used": {"interfaces": ["a"], "names": {"a": "b"}, "subnets": ["10.0.0.0/8"]},
        "options": {
            "subnet_pools": [{"base": "10.0.0.0/8", "size": 24}],
            "default_interface_name": "podman", "check_used_subnets": true,
        },
    })
}

/// The paths of all values in a document.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    for (key, value) in value.as_object().into_iter().flatten() {
        pointers(value, &format!("{at}/{key}"), all);
    }
    for (n, value) in value.as_array().into_iter().flatten().enumerate() {
        pointers(value, &format!("{at}/{n}"), all);
    }
}

/// A document with one value replaced or taken away, in all ways.
fn mutations(document: &Value) -> Vec<Value> {
    let others = [
        Value::Null,
        json!(true),
        json!(7),
        json!(-1),
        json!(300),
        json!(70_000),
        json!(5_000_000_000_u64),
        json!("text"),
        json!("10.0.0.1"),
        json!("10.0.0.0/8"),
        json!("fd01::/64"),
        json!([7]),
        json!({}),
        json!({"x": 7}),
        json!({"x": "y"}),
    ];
    let mut all = Vec::new();
    pointers(document, "", &mut all);
    let mut mutations = Vec::new();
    for pointer in &all {
        for other in &others {
            let mut changed = document.clone();
            *changed.pointer_mut(pointer).unwrap() = other.clone();
            mutations.push(changed);
        }
        let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
        let mut changed = document.clone();
        if let Some(object) = changed.pointer_mut(parent).and_then(Value::as_object_mut) {
            object.remove(key);
            object.insert("unknown".to_owned(), json!(1));
            // A map takes no numbers, a document ignores what it does not know.
            mutations.push(changed);
        }
    }
    mutations
}

/// Parser and schema agree on every mutation.
#[track_caller]
fn agree<T: serde::de::DeserializeOwned>(name: Name, document: &Value) {
    let schema = name.schema();
    check(&schema, document).unwrap();
    serde_json::from_value::<T>(document.clone())
        .map(drop)
        .unwrap();
    let mut refused = 0;
    for changed in mutations(document) {
        let parsed = serde_json::from_value::<T>(changed.clone()).map(drop);
        let checked = check(&schema, &changed);
        assert_eq!(
            parsed.is_ok(),
            checked.is_ok(),
            "{changed:#}\nparser: {parsed:?}\nschema: {checked:?}"
        );
        refused += usize::from(checked.is_err());
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn requests() {
    agree::<NetworkOptions>(Name::SetupInput, &full_request());
}

#[test]
fn requests_with_a_list_of_networks() {
    let mut request = full_request();
    let mut network = request["networks"]["one"].take();
    network["name"] = json!("one");
    request["networks"] = json!([network]);
    agree::<NetworkOptions>(Name::TeardownInput, &request);
}

#[test]
fn requests_to_create() {
    agree::<CreateRequest>(Name::CreateInput, &full_create());
}

/// What is written has the form that is told, with and without everything that can be missing.
#[test]
fn replies() {
    let network: Network = serde_json::from_value(full_network()).unwrap();
    check(&Name::CreateOutput.schema(), &json!(network)).unwrap();
    for pointer in [
        "/created",
        "/subnets",
        "/routes",
        "/labels",
        "/options",
        "/subnets/0/gateway",
    ] {
        let mut changed = full_network();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed
            .pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(key);
        let network: Network = serde_json::from_value(changed).unwrap();
        check(&Name::CreateOutput.schema(), &json!(network)).unwrap();
    }
    let status = json!({"one": {
        "dns_search_domains": ["dns.podman"], "dns_server_ips": ["10.1.0.1"],
        "interfaces": {"eth0": {"mac_address": "92:d0:c6:0a:29:33", "subnets": [{"gateway": null, "ipnet": "10.1.0.2/16"}]}},
    }});
    let parsed: Status = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(json!(parsed), status);
    check(&Name::SetupOutput.schema(), &status).unwrap();
    let nothing: Status = serde_json::from_value(
        json!({"one": {"dns_search_domains": null, "dns_server_ips": null, "interfaces": null}}),
    )
    .unwrap();
    check(&Name::SetupOutput.schema(), &json!(nothing)).unwrap();
    for wrong in [json!({"one": {}}), json!({"one": 1}), json!([])] {
        check(&Name::SetupOutput.schema(), &wrong).unwrap_err();
    }
    check(
        &Name::Error.schema(),
        &json!(ErrorReply::new("no".to_owned())),
    )
    .unwrap();
    check(&Name::Error.schema(), &json!({})).unwrap_err();
}

/// Documents within a recording may be anything; the rest may not.
#[test]
fn recordings_of_calls() {
    let mut seen = Seen::default();
    seen.input.add(br#"{"b": [1], "a": null}"#);
    seen.output.add(b"no document");
    let mut written = json!(record::recording(seen));
    check(&Name::Recording.schema(), &written).unwrap();
    assert_eq!(written["request"], json!({"b": [1], "a": null}));
    let report = json!(wire::replay::Report::default());
    check(&Name::Report.schema(), &report).unwrap();
    written["arguments"] = json!([1]);
    check(&Name::Recording.schema(), &written).unwrap_err();
}

#[test]
fn diagnoses() {
    let finding = wire::diagnosis::Finding {
        severity: wire::diagnosis::Severity::Warning,
        code: "port-taken".to_owned(),
        what: "a".to_owned(),
        why: "b".to_owned(),
        remedy: vec!["kill 1234".to_owned()],
    };
    let mut written = json!(wire::diagnosis::Diagnosis {
        healthy: true,
        config: "/c".to_owned(),
        networks: 1,
        containers: 2,
        findings: vec![finding],
    });
    check(&Name::Diagnosis.schema(), &written).unwrap();
    written["findings"][0]["severity"] = json!("fatal");
    check(&Name::Diagnosis.schema(), &written).unwrap_err();
}

/// Each kind of leftover has its own fields, and a collection is one of a dry run or not.
#[test]
fn collections() {
    let found = json!([
        {"kind": "interrupted", "container": "c"},
        {"kind": "container", "container": "c", "networks": ["n"]},
        {"kind": "member", "container": "c", "network_id": "i"},
        {"kind": "port", "bridge": "b", "port": "p"},
        {"kind": "network", "network": "n", "network_id": "i", "bridge": "b"},
        {"kind": "bridge_user", "bridge": "b", "network_id": "i"},
        {"kind": "netavark_container", "container": "c", "network": "n", "network_id": "i"},
        {"kind": "netavark_network", "network_id": "i", "bridge": "b"},
        {"kind": "zone", "file": "f"},
        {
            "kind": "lease", "container": "c", "interface": "eth0", "mac_address": "92:d0:c6:0a:29:33",
            "address": "10.1.0.2",
        },
        {"kind": "rules"},
    ]);
    let kinds: Vec<Leftover> = serde_json::from_value(found.clone()).unwrap();
    assert_eq!(json!(kinds), found);
    for key in ["found", "removed"] {
        let whole = json!({key: &found});
        let read: Collection = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!(json!(read), whole);
        check(&Name::Collection.schema(), &whole).unwrap();
    }
    for leftover in found.as_array().unwrap() {
        for field in leftover.as_object().unwrap().keys() {
            let mut changed = leftover.clone();
            changed[field] = json!(7);
            check(&Name::Collection.schema(), &json!({"found": [changed]})).unwrap_err();
            changed.as_object_mut().unwrap().remove(field);
            check(&Name::Collection.schema(), &json!({"found": [changed]})).unwrap_err();
        }
    }
    check(&Name::Collection.schema(), &json!({})).unwrap_err();
}

#[test]
fn plans() {
    let mut written = json!(wire::plan::Plan {
        steps: vec![wire::plan::Planned {
            network: None,
            step: "do".to_owned(),
        }],
        nft: String::new(),
        status: Status::default(),
        warnings: Vec::new(),
    });
    check(&Name::Plan.schema(), &written).unwrap();
    written["steps"][0]["network"] = json!("one");
    check(&Name::Plan.schema(), &written).unwrap();
    written["steps"][0]["step"] = json!(null);
    check(&Name::Plan.schema(), &written).unwrap_err();
}

/// Every value is explained, and the whole fits into a page of documentation.
#[test]
fn every_field_is_described() {
    let all = netbackend::schema::all();
    assert_eq!(all.as_object().unwrap().len(), Name::value_variants().len());
    let mut paths = Vec::new();
    pointers(&all, "", &mut paths);
    let mut fields = 0;
    for path in paths.iter().filter(|path| path.ends_with("/properties")) {
        for (field, schema) in all.pointer(path).unwrap().as_object().unwrap() {
            if path.contains("/allOf/") {
                continue; // the name that an element of a list has in addition
            }
            if schema["const"].is_string() {
                // The word for a variant, which is explained as a whole.
                let variant = all.pointer(path.strip_suffix("/properties").unwrap());
                assert!(variant.unwrap()["description"].is_string(), "{path}");
                continue;
            }
            assert!(schema["description"].is_string(), "{path}/{field} {schema}");
            fields += 1;
        }
    }
    assert!(fields > 80, "{fields}");
}
