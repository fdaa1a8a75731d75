//! Recorded requests and fixed facts about a host, and the plan that must come of them: steps, script
//! for the packet filter, reply. `UPDATE=1` rewrites the files below `golden/`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use netbackend::nft::text;
use netbackend::observed::{
    BridgeFilter, BridgeLink, FirewallDriver, LinkKind, Netns, Observed, Settings, TableState,
    TeardownObserved,
};
use netbackend::plan::firewall::{Change, ChangeKind, Elements};
use netbackend::plan::ruleset::Difference;
use netbackend::plan::step::Step;
use netbackend::plan::{Plan, ruleset, setup, teardown};
use netbackend::request::{self, Mode, Policy, SetupRequest, TeardownRequest};
use test_fixtures::{golden, recording};
use wire::names::MacAddr;
use wire::state::ContainerRecord;

fn settings() -> Settings {
    Settings {
        config: PathBuf::from("/run/containers/networks"),
        rootless: false,
        dns_binary: PathBuf::from("/usr/lib/podman/aardvark-dns"),
        dns_port: 53,
        firewall: FirewallDriver::Nftables,
        plugin_directories: Vec::new(),
    }
}

/// A host with nothing on it but what a request takes for granted.
fn host(request: &SetupRequest) -> Observed {
    let networks = || request.bridges().map(|attachment| &attachment.network);
    let parents = request
        .sublinks()
        .filter_map(|link| link.network.parent.clone());
    let unmanaged = networks().filter(|network| network.mode == Mode::Unmanaged);
    let bridge = BridgeLink {
        kind: LinkKind("bridge".to_owned()),
        mtu: 1500,
        vlan_filtering: false,
        addresses: vec!["10.95.0.1".parse().unwrap()],
    };
    let octet = |n: usize| u8::try_from(n).unwrap();
    Observed {
        netns: Netns {
            path: "/run/netns/c1".to_owned(),
            inode: 4_026_532_000,
        },
        bridges: unmanaged
            .map(|network| (network.bridge.clone(), bridge.clone()))
            .collect(),
        vrfs: networks()
            .filter_map(|network| network.vrf.clone())
            .map(|vrf| (vrf, LinkKind("vrf".to_owned())))
            .collect(),
        default_mtu: BTreeMap::from([(None, 1400)]),
        advertised: BTreeSet::from(["uplink".parse().unwrap()]),
        parents: parents.map(|parent| (parent, MacAddr([0x30; 6]))).collect(),
        default_parent: None,
        taken: BTreeSet::new(),
        plugins: BTreeMap::from([("custom".to_owned(), "/usr/lib/netavark/custom".into())]),
        networks: BTreeMap::new(),
        bridge_peers: Vec::new(),
        container: None,
        netavark_networks: BTreeSet::new(),
        veth_names: (0..request.attachments.len())
            .map(|n| format!("veth{n}").parse().unwrap())
            .collect(),
        entropy: (0..request.attachments.len())
            .map(|n| [[octet(n); 6], [0x10 + octet(n); 6], [0x20 + octet(n); 6]])
            .collect(),
        table: TableState::Sound,
        dns_available: true,
        systemd: false,
        bridge_filter: BridgeFilter::default(),
    }
}

/// What the host looks like when a setup is done and nothing else is there.
fn after(plan: &Plan) -> TeardownObserved {
    let container = plan.journal.container.clone();
    let zone_file = |step: &Step| {
        let Step::AddNames { path, .. } = step else {
            return None;
        };
        Some(path.file_name()?.to_str()?.to_owned())
    };
    TeardownObserved {
        networks: plan
            .journal
            .networks
            .iter()
            .map(|network| (network.id.clone(), network.clone()))
            .collect(),
        container: Some(container),
        shared_networks: BTreeSet::new(),
        bridge_peers: Vec::new(),
        netavark_attached: BTreeSet::new(),
        other_networks: true,
        netns_alive: true,
        table: TableState::Sound,
        plugins: BTreeMap::from([("custom".to_owned(), "/usr/lib/netavark/custom".into())]),
        zone_files: plan
            .steps
            .iter()
            .filter_map(|planned| zone_file(&planned.step))
            .collect(),
    }
}

fn print(plan: &Plan) -> String {
    let mut out = plan.to_string();
    for planned in &plan.steps {
        if let Step::Firewall(Change { remove, add, .. }) = &planned.step {
            let script = text::script(&ruleset::elements(remove, add));
            write!(out, "\nPacket filter:\n{script}").unwrap();
        }
    }
    if !plan.status.is_empty() {
        let status = serde_json::to_string_pretty(&plan.status).unwrap();
        write!(out, "\nStatus:\n{status}\n").unwrap();
    }
    for warning in &plan.warnings {
        writeln!(out, "\nWarning: {warning}").unwrap();
    }
    out
}

fn golden_file(scenario: &str, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(scenario)
        .join(name)
}

const SCENARIOS: [&str; 25] = [
    "default",
    "ports",
    "dual",
    "v6only",
    "internal",
    "isolate",
    "opts",
    "noroute",
    "static",
    "two",
    "dns",
    "unmanaged",
    "vethname",
    "pod",
    "connect",
    "reload",
    "noipam",
    "vrf",
    "disdns",
    "sctp",
    "hostip6",
    "macvlan",
    "macvlanopts",
    "macvlandhcp",
    "ipvlan",
];

#[test]
fn every_recording_is_planned_as_before() {
    let policy = Policy {
        default_isolation: None,
    };
    for scenario in SCENARIOS.into_iter().chain(["gwopts"]) {
        for call in recording::calls(scenario).unwrap() {
            if call.verb != "setup" {
                continue;
            }
            let options = request::parse(call.input.as_bytes()).unwrap();
            let request = SetupRequest::new(options.clone(), &policy).unwrap();
            let plan = setup::plan(&request, &host(&request), &settings()).unwrap();
            golden::assert_matches(
                golden_file(scenario, &format!("{}.txt", call.name)),
                &print(&plan),
            );
            let leave = TeardownRequest::new(&options).unwrap();
            let plan = teardown::plan(&leave, &after(&plan), &settings());
            let name = format!("{}-undone.txt", call.name);
            golden::assert_matches(golden_file(scenario, &name), &print(&plan));
        }
    }
}

#[test]
fn the_rules_are_as_before() {
    let script = text::script(&ruleset::rebuild(
        &Elements::new(),
        &Difference::all(&Elements::new()),
        &[],
    ));
    golden::assert_matches(golden_file("rules", "table.nft"), &script);
}

#[test]
fn planning_repeats_exactly() {
    let call = recording::calls("ports").unwrap().remove(0);
    let options = request::parse(call.input.as_bytes()).unwrap();
    let policy = Policy {
        default_isolation: None,
    };
    let request = SetupRequest::new(options, &policy).unwrap();
    let plan = || setup::plan(&request, &host(&request), &settings()).unwrap();
    assert_eq!(plan(), plan());
}

#[test]
fn a_container_without_attachments_has_no_elements() {
    let nobody = ContainerRecord::new("c".parse().unwrap());
    let none = netbackend::plan::firewall::container_elements(&nobody, &BTreeMap::new());
    assert!(Change::between(&none, &none, ChangeKind::Elements).is_idle());
}
