//! Everything that happens to a request before anything happens to the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use netbackend::nft::netlink::encode;
use netbackend::nft::{Transaction, text};
use netbackend::observed::{
    BridgeFilter, BridgeLink, FirewallDriver, LinkKind, Netns, Observed, Settings, TableState,
    TeardownObserved,
};
use netbackend::plan::firewall::ChangeKind;
use netbackend::plan::ruleset::Difference;
use netbackend::plan::step::Step;
use netbackend::plan::{Plan, firewall, ruleset, setup, teardown};
use netbackend::request::{self, Mode, Policy, SetupRequest, TeardownRequest};
use wire::names::MacAddr;

/// Plans setup and teardown of a document, if it is a request. Says whether it was.
///
/// # Errors
/// A request that was accepted and cannot be carried out, or would do harm.
pub(crate) fn plan(document: &[u8]) -> Result<bool, String> {
    let Ok(options) = request::parse(document) else {
        return Ok(false);
    };
    let settings = settings();
    let leaving = TeardownRequest::new(&options).ok();
    if let Some(request) = &leaving {
        check(&teardown::plan(request, &nothing(), &settings))?;
    }
    let Ok(request) = SetupRequest::new(
        options,
        &Policy {
            default_isolation: None,
        },
    ) else {
        return Ok(false);
    };
    let leaving = leaving.ok_or("fit for a setup, but not for a teardown")?;
    for table in [TableState::Sound, TableState::Unsound] {
        // What is in the way on this host is not wrong with the request.
        let Ok(plan) = setup::plan(&request, &host(&request, table), &settings) else {
            continue;
        };
        check(&plan)?;
        let journal = serde_json::to_string(&plan.journal).map_err(|error| error.to_string())?;
        let read = serde_json::from_str(&journal)
            .map_err(|error| format!("the journal cannot be read: {error}"))?;
        if plan.journal != read {
            return Err(format!(
                "another journal is read than was written: {journal}"
            ));
        }
        check(&teardown::plan(&leaving, &after(&plan, table), &settings))?;
    }
    Ok(true)
}

/// What a plan says to the packet filter can be said, and its files lie where they belong.
fn check(plan: &Plan) -> Result<(), String> {
    for planned in &plan.steps {
        match &planned.step {
            Step::Firewall(change) => {
                encodes(&match change.kind {
                    ChangeKind::Elements => ruleset::elements(&change.remove, &change.add),
                    ChangeKind::Rebuild => {
                        let mut elements = change.add.clone();
                        firewall::merge_subnets(&mut elements);
                        ruleset::rebuild(&elements, &Difference::all(&elements), &[])
                    }
                    ChangeKind::Clear => ruleset::clear(&[]),
                })?;
            }
            Step::WriteFile { path, .. }
            | Step::CreateFile { path, .. }
            | Step::RemoveFile { path, .. }
            | Step::RemoveNames { path, .. } => {
                below(path)?;
            }
            Step::AddNames {
                path,
                header,
                entry,
            } => {
                below(path)?;
                let lines = format!("{header}\n{entry}\n");
                if lines.lines().count() != 2 || lines.contains(['\0', '\r']) {
                    return Err(format!("a zone file of two lines is {lines:?}"));
                }
            }
            Step::CreateSublink(new) => {
                let temporary = new.temporary.as_ref().ok_or("no temporary name")?;
                if temporary == &new.name {
                    return Err(format!("the temporary name is the name: {temporary}"));
                }
            }
            Step::RunPlugin(run) => {
                if !run.input.starts_with('{') {
                    return Err(format!("a plugin is told {}", run.input));
                }
            }
            Step::CreateBridge(_)
            | Step::CreateVeth(_)
            | Step::DeleteLink { .. }
            | Step::DeleteBridge(_)
            | Step::SetDown { .. }
            | Step::DeleteLastPort { .. }
            | Step::FilterVlans(_)
            | Step::SetPortVlan { .. }
            | Step::SetHairpin(_)
            | Step::Trust { .. }
            | Step::AddAddress { .. }
            | Step::SetUp { .. }
            | Step::Sysctl(_)
            | Step::AddDefaultRoute { .. }
            | Step::AddRoute(_)
            | Step::DeleteRoute(_)
            | Step::TakeLease(_)
            | Step::GiveBackLease { .. }
            | Step::AcceptLoopback6(_)
            | Step::ForgetConnections(_)
            | Step::NotifyDns(_) => {}
        }
    }
    drop(plan.to_string());
    serde_json::to_string(&plan.status)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn encodes(transaction: &Transaction) -> Result<(), String> {
    drop(text::script(transaction));
    encode(transaction, 1)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn below(path: &Path) -> Result<(), String> {
    let own = path.starts_with("/run/config") || path.parent() == Some(Path::new("/run/sysctl.d"));
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let text = path.as_os_str().to_string_lossy();
    // The names that the program itself gives to files are not those of anything else.
    let reserved = [
        "/run/config/netbackend/lock",
        "/run/config/netbackend/journal",
        "/run/config/aardvark-dns/aardvark.pid",
    ];
    if own && plain && !text.contains(['\0', '\n']) && !reserved.contains(&text.as_ref()) {
        return Ok(());
    }
    Err(format!("a file at {}", path.display()))
}

fn settings() -> Settings {
    Settings {
        config: PathBuf::from("/run/config"),
        rootless: false,
        dns_binary: PathBuf::from("/usr/lib/podman/aardvark-dns"),
        dns_port: 53,
        firewall: FirewallDriver::Nftables,
        plugin_directories: Vec::new(),
    }
}

fn plugins() -> BTreeMap<String, PathBuf> {
    BTreeMap::from([("plugin".to_owned(), "/usr/lib/netavark/plugin".into())])
}

/// A host that has what a request takes for granted.
fn host(request: &SetupRequest, table: TableState) -> Observed {
    let networks = || request.bridges().map(|attachment| &attachment.network);
    let parents = request
        .sublinks()
        .filter_map(|link| link.network.parent.clone());
    let kind = |name: &str| LinkKind(name.to_owned());
    let bridge = BridgeLink {
        kind: kind("bridge"),
        mtu: 1500,
        vlan_filtering: false,
        addresses: vec![[10, 95, 0, 1].into()],
    };
    let unmanaged = networks().filter(|network| network.mode == Mode::Unmanaged);
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
            .map(|vrf| (vrf, kind("vrf")))
            .collect(),
        default_mtu: BTreeMap::from([(None, 1400)]),
        advertised: BTreeSet::new(),
        parents: parents.map(|parent| (parent, MacAddr([0x30; 6]))).collect(),
        default_parent: "eth7".parse().ok(),
        taken: BTreeSet::new(),
        plugins: plugins(),
        networks: BTreeMap::new(),
        bridge_peers: Vec::new(),
        container: None,
        netavark_networks: BTreeSet::new(),
        veth_names: (0..request.attachments.len())
            .filter_map(|n| format!("veth{n}").parse().ok())
            .collect(),
        entropy: vec![[[7; 6]; 3]; request.attachments.len()],
        table,
        dns_available: true,
        systemd: true,
        bridge_filter: BridgeFilter {
            ipv4: true,
            ipv6: true,
        },
    }
}

/// A host that knows nothing of the container.
fn nothing() -> TeardownObserved {
    TeardownObserved {
        container: None,
        networks: BTreeMap::new(),
        shared_networks: BTreeSet::new(),
        bridge_peers: Vec::new(),
        netavark_attached: BTreeSet::new(),
        other_networks: true,
        netns_alive: true,
        table: TableState::Sound,
        plugins: plugins(),
        zone_files: BTreeSet::new(),
    }
}

/// A host on which a plan was carried out.
fn after(plan: &Plan, table: TableState) -> TeardownObserved {
    let networks = &plan.journal.networks;
    let attachments = &plan.journal.container.attachments;
    TeardownObserved {
        container: Some(plan.journal.container.clone()),
        networks: networks
            .iter()
            .map(|network| (network.id.clone(), network.clone()))
            .collect(),
        zone_files: attachments
            .iter()
            .filter_map(|attachment| attachment.zone_file.clone())
            .collect(),
        table,
        ..nothing()
    }
}
