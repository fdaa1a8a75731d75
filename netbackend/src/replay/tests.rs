use serde_json::json;

use super::*;
use crate::request::{Policy, parse};

fn request(network: Value, ports: Value) -> SetupRequest {
    let mut info = json!({
        "name": "n", "id": "1".repeat(64), "driver": "bridge", "network_interface": "br0", "dns_enabled": false,
        "internal": false, "ipv6_enabled": false, "ipam_options": {"driver": "host-local"},
        "subnets": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.1"}],
    });
    for (key, value) in network.as_object().unwrap() {
        info[key] = value.clone();
    }
    let document = json!({
        "container_id": "c", "container_name": "web", "port_mappings": ports, "network_info": {"n": info},
        "networks": {"n": {"interface_name": "eth0", "static_ips": ["10.9.0.2"]}},
    });
    let policy = Policy {
        default_isolation: None,
    };
    SetupRequest::new(parse(document.to_string().as_bytes()).unwrap(), &policy).unwrap()
}

fn asked(network: Value, ports: Value, servers: &[&str]) -> Vec<String> {
    let request = request(network, ports);
    let status =
        json!({"n": {"dns_search_domains": null, "dns_server_ips": servers, "interfaces": {}}});
    let status: Status = serde_json::from_value(status).unwrap();
    let (wanted, not_asked) = checks(&request, &scenery(&request), &status);
    let wanted = wanted
        .into_iter()
        .map(|(question, answered)| format!("{} {question}", if answered { "+" } else { "-" }));
    wanted.chain(not_asked).collect()
}

#[test]
fn what_must_work_follows_from_the_request() {
    let port = |host: &str, protocol: &str, range: u16| json!([{"host_ip": host, "host_port": 80, "container_port": 8080, "protocol": protocol, "range": range}]);
    let gateway = "+ container pings gateway 10.9.0.1".to_owned();
    let out = "+ container pings outside 192.0.2.2".to_owned();
    let none = json!([]);
    assert_eq!(asked(json!({}), none.clone(), &[]), [gateway.clone(), out]);
    assert_eq!(
        asked(json!({"internal": true}), port("", "tcp", 1), &[]),
        [
            gateway.clone(),
            "- container pings outside 192.0.2.2".to_owned()
        ]
    );
    assert_eq!(
        asked(json!({"dns_enabled": true}), none.clone(), &["10.9.0.1"])[1],
        "+ container asks 10.9.0.1 for web, which is 10.9.0.2"
    );
    assert_eq!(
        asked(json!({}), port("", "udp", 3), &[])[2..],
        [
            "+ outside asks 192.0.2.1:80/udp, which is 10.9.0.2:8080",
            "+ outside asks 192.0.2.1:82/udp, which is 10.9.0.2:8082"
        ]
    );
    assert_eq!(
        asked(json!({}), port("127.0.0.1", "tcp", 1), &[])[2],
        "+ host asks 127.0.0.1:80/tcp, which is 10.9.0.2:8080"
    );
    assert_eq!(
        asked(json!({}), port("203.0.113.9", "tcp", 1), &[])[2],
        "+ outside asks 203.0.113.9:80/tcp, which is 10.9.0.2:8080"
    );
    assert_eq!(
        asked(json!({}), port("", "sctp", 1), &[])[2],
        "port 80/sctp: nobody here speaks it"
    );
    let no_route = json!({"options": {"no_default_route": "true"}});
    assert_eq!(asked(no_route, none.clone(), &[]), [gateway]);
    let vlan = json!({"options": {"vlan": "7"}});
    assert_eq!(asked(vlan, none, &[]).len(), 1);
}

#[test]
fn what_must_be_there_follows_from_the_request() {
    let names = |wires: &[InterfaceName]| wires.iter().map(ToString::to_string).collect::<Vec<_>>();
    let plain = scenery(&request(json!({}), json!([])));
    assert_eq!(names(&plain.wires), ["uplink"]);
    assert!(plain.bridges.is_empty() && plain.vrfs.is_empty());
    let ports = json!([{"host_ip": "192.0.2.77", "host_port": 1, "container_port": 1, "protocol": "tcp", "range": 1}]);
    let published = scenery(&request(json!({}), ports));
    assert_eq!(
        published.published,
        ["192.0.2.77".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        published.host[0].to_string(),
        "198.51.100.1/24",
        "another network than that of the port"
    );
    let foreign = scenery(&request(
        json!({"options": {"mode": "unmanaged", "vrf": "blue"}}),
        json!([]),
    ));
    assert_eq!(foreign.bridges[0].1[0].to_string(), "10.9.0.1/24");
    let link = json!({"driver": "macvlan", "network_interface": "up0", "subnets": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.1"}]});
    let link = scenery(&request(link, json!([])));
    assert_eq!(
        (names(&link.wires), link.gateways[0].1.to_string()),
        (vec!["up0".to_owned()], "10.9.0.1/24".to_owned())
    );
}

#[test]
fn arguments_get_other_places() {
    let check = |recorded: &str, expected: &str| {
        let words: Vec<String> = recorded.split_whitespace().map(str::to_owned).collect();
        let ours = ["--aardvark-binary=/a".to_owned()];
        let changed = arguments(&words, "/c", &ours, &["setup", "/n"]);
        assert_eq!(changed.join(" "), expected, "{recorded}");
    };
    check("", "--config /c --aardvark-binary=/a setup /n");
    check(
        "--config /run/x --rootless=true --aardvark-binary= --plugin-directory /p teardown /run/netns/y",
        "--config /c --aardvark-binary=/a --rootless=true setup /n",
    );
    check(
        "--nft /evil --nft=/evil --plugin-directory=/evil --firewall-driver none setup n",
        "--config /c --aardvark-binary=/a --firewall-driver none setup /n",
    );
    check(
        "-c /x -f /y --file=/z -a /b setup n",
        "--config /c --aardvark-binary=/a setup /n",
    );
}

#[test]
fn cases_are_recordings_and_requests() {
    let recording = |verb: &str, rest: Value| {
        let mut recording = json!({
            "version": 1, "time": "", "duration_us": 1, "program": "netavark", "arguments": [verb, "/n"], "environment": {},
            "request": {"z": 1, "a": 2}, "reply": {"n": {}}, "exit_code": 0, "signal": null,
        });
        for (key, value) in rest.as_object().unwrap() {
            recording[key] = value.clone();
        }
        case(&recording.to_string())
    };
    assert!(recording("setup", json!({})).unwrap().recorded.is_some());
    assert!(recording("teardown", json!({})).unwrap().recorded.is_none());
    assert!(matches!(
        recording("update", json!({})),
        Err(NotACase::Verb(_))
    ));
    assert!(matches!(
        recording("setup", json!({"version": 2})),
        Err(NotACase::Version(2))
    ));
    assert!(matches!(
        recording("setup", json!({"cut": true})),
        Err(NotACase::NoRequest)
    ));
    let variables = json!({"LD_PRELOAD": "/evil", "NETBACKEND_NFT": "/evil", "PATH": "/evil", "NETAVARK_FW": "none"});
    let case_with = recording("setup", json!({"environment": variables})).unwrap();
    assert_eq!(
        case_with.environment.keys().collect::<Vec<_>>(),
        ["NETAVARK_FW"]
    );
    let text = r#"{"networks": {"b": 1, "a": 2}}"#;
    assert_eq!(case(text).unwrap().request, text);
    assert!(matches!(case("[]"), Err(NotACase::Json(_))));
}

#[test]
fn replies_differ_in_what_matters() {
    let reply = |mac: &str, server: Value| json!({"n": {"dns_server_ips": server, "interfaces": {"eth0": {"mac_address": mac, "subnets": []}}}});
    assert!(differences(&reply("a", json!([])), &reply("b", Value::Null)).is_empty());
    assert_eq!(
        differences(&reply("a", json!(["10.9.0.1"])), &reply("a", json!([]))),
        ["/n/dns_server_ips: [\"10.9.0.1\"] on record, [] now"]
    );
}
