//! The look that the doctor takes at records and host. Nothing is changed by it.
//!
//! The lock of the state directory is shared with other looks, so that no call is caught halfway; setups and teardowns wait
//! as long as the look takes. All links, addresses, routes, chains and rules are listed once each; only what is inside of
//! containers takes a few questions for each of them.

mod dump;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use wire::names::{ContainerId, NetworkId};
use wire::state::Protocol;
use wire::zone::scan;

use super::netns::Namespace;
use super::nft::NftError;
use super::state::Everything;
use super::{Host, SysError, dns, engine, files, filter, gc, reload, xtables};
use crate::cli::{DNS_BINARY, Options};
use crate::doctor::Misplaced;
use crate::doctor::facts::{Damaged, Facts, Filter, Network, Process, Responder};
use crate::doctor::packet::Rules;
use crate::doctor::remedy::{Caller, Command};
use crate::gc as leftovers;
use crate::nft::listing::{Element, Expression, Family, Rule, Table};
use crate::observed::{FirewallDriver, Settings};
use crate::plan::firewall::{self, Elements, Part};
use crate::plan::layout;
use crate::plan::ruleset::{self, Difference, TABLE};

/// How long a call may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often we look whether it is through.
const TICK: Duration = Duration::from_millis(5);

/// Sets of others with more elements than this are not understood.
const LARGE: usize = 10_000;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum NotSeen {
    #[error(transparent)]
    Sys(#[from] SysError),
    #[error(transparent)]
    Reload(#[from] reload::ReloadError),
    #[error("{}", elsewhere(.0))]
    Misplaced(#[from] Misplaced),
    #[error("{}: permission denied, expected to be called by root{}", .path.display(), told(.own))]
    Forbidden { path: PathBuf, own: Option<Command> },
    #[error("{}: a call has held the lock for {} s; see `fuser -v {}`", .0.display(), PATIENCE.as_secs(), .0.display())]
    Busy(PathBuf),
}

fn told(own: &Option<Command>) -> String {
    let own = own.as_ref();
    let own = own.map(|command| format!("; for containers of your own: `{command}`"));
    own.unwrap_or_default()
}

fn elsewhere(misplaced: &Misplaced) -> String {
    let what = match misplaced {
        Misplaced::Bridges(bridges) => {
            let bridges = bridges.join(", ");
            format!("none of the bridges on record ({bridges}) is in this network namespace")
        }
        Misplaced::Containers(_) => {
            "none of the containers on record has its interface in this network namespace"
                .to_owned()
        }
    };
    format!(
        "{what}: run this where they are, for an ordinary user by `podman unshare --rootless-netns`"
    )
}

/// Reads records and host.
///
/// # Errors
/// The kernel or the state directory cannot be read, or this is the wrong network namespace.
pub async fn look(settings: Settings, caller: Caller, by_program: bool) -> Result<Facts, NotSeen> {
    let _lock = share_lock(&settings.config, &caller)?;
    let driver = reload::recorded_driver(&settings)?.unwrap_or(FirewallDriver::Nftables);
    let settings = Settings {
        firewall: driver,
        ..settings
    };
    let mut host = Host::look(settings)?;
    let all = host.state.everything()?;
    let left = gc::facts(&mut host).await?;
    let host_network = dump::host().map_err(SysError::io("list links, addresses and routes"))?;
    let inside = inside(&all);
    let mut caller = caller;
    if let Err(misplaced) = leftovers::find(&left, false) {
        if is_elsewhere(&all, &left, &inside) {
            return Err(misplaced.into());
        }
        caller.force_gc = matches!(misplaced, Misplaced::Bridges(_)) && left.namespaces.is_empty();
    }
    let found = leftovers::find(&left, true)?;
    let responder = responder(&host.settings, &all);
    let listeners = sockets::listeners(&ports(&all));
    let filter = filter_of(&mut host, &all, &left, by_program).await?;
    Ok(Facts {
        caller,
        damaged: damaged(&host, &all),
        settings: kernel_settings(&all, &host_network),
        networks: all.networks,
        containers: all.containers,
        leftovers: found,
        namespaces: left.namespaces,
        host: host_network,
        inside,
        filter,
        responder,
        listeners,
    })
}

/// How we were called, as far as a remedy has to repeat it.
#[must_use]
pub fn caller(options: &Options) -> Caller {
    let program = std::env::args_os().next().unwrap_or_default();
    // What `podman unshare` says to those that it starts.
    let unshared = super::input::variable("_CONTAINERS_ROOTLESS_UID").is_some();
    let mut words = Vec::new();
    if options.rootless {
        words.push("--rootless=true".to_owned());
    }
    let binary = options.aardvark_binary.display().to_string();
    if binary != DNS_BINARY {
        words.push(format!("--aardvark-binary={binary}"));
    }
    Caller {
        program: program.to_string_lossy().into_owned(),
        config: options.reload_settings().config,
        rootless: options.rootless || unshared,
        is_root: geteuid().is_root(),
        options: words,
        force_gc: false,
    }
}

/// Waits until no call is under way. Without a lock, there is none.
fn share_lock(config: &Path, caller: &Caller) -> Result<Option<Flock<File>>, NotSeen> {
    let path = layout::lock(config);
    let failed = |source| SysError::Io {
        context: format!("lock {}", path.display()),
        source,
    };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if files::is_gone(&error) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !caller.is_root => {
            let own = caller.own();
            return Err(NotSeen::Forbidden { path, own });
        }
        Err(error) => return Err(failed(error).into()),
    };
    let begin = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, Errno::EWOULDBLOCK)) if begin.elapsed() < PATIENCE => file = back,
            Err((_, Errno::EWOULDBLOCK)) => return Err(NotSeen::Busy(path)),
            Err((_, errno)) => return Err(failed(errno.into()).into()),
        }
        std::thread::sleep(TICK);
    }
}

/// Whether the interfaces of containers are in another namespace: not here, but the containers have them, or may have.
fn is_elsewhere(
    all: &Everything,
    left: &leftovers::Facts,
    inside: &BTreeMap<u64, Network>,
) -> bool {
    let attachments = || {
        let containers = all.containers.iter();
        containers.flat_map(|container| &container.attachments)
    };
    let here = attachments().any(|on| filter::is_alive(on, &left.links) && on.netns_inode != 0);
    let there = attachments().any(|on| {
        let has = |network: &Network| network.links.contains_key(on.interface.as_str());
        let stands = left.namespaces.contains(&on.netns_inode);
        stands && inside.get(&on.netns_inode).is_none_or(has)
    });
    !here && there
}

/// Links, addresses and routes inside of the containers that can be entered.
fn inside(all: &Everything) -> BTreeMap<u64, Network> {
    let mut found = BTreeMap::new();
    let attachments = all
        .containers
        .iter()
        .flat_map(|container| &container.attachments);
    for attachment in attachments.filter(|on| on.netns_inode != 0) {
        let inode = attachment.netns_inode;
        if found.contains_key(&inode) {
            continue;
        }
        let Ok(namespace) = Namespace::open(attachment.netns.as_ref()) else {
            continue;
        };
        if namespace.facts().inode != inode || !namespace.may_return() {
            continue;
        }
        match namespace.enter(dump::container) {
            Ok(Ok(network)) => drop(found.insert(inode, network)),
            Ok(Err(error)) => tracing::debug!("{}: {error}", attachment.netns),
            Err(error) => tracing::debug!("{}: {error}", attachment.netns),
        }
    }
    found
}

/// Files that cannot be read, and whose they are.
fn damaged(host: &Host, all: &Everything) -> Vec<Damaged> {
    let config = &host.settings.config;
    let problems = all.problems.iter().filter_map(|problem| {
        let (path, why) = problem.strip_prefix("record ")?.split_once(": ")?;
        let path = PathBuf::from(path);
        Some(Damaged {
            containers: concerned(&path, config),
            path,
            why: why.to_owned(),
        })
    });
    let journal = host.state.journal().err().map(|error| Damaged {
        path: layout::journal(config),
        why: error.to_string(),
        containers: Vec::new(),
    });
    problems.chain(journal).collect()
}

/// The containers that a file in the state directory is about.
fn concerned(path: &Path, config: &Path) -> Vec<ContainerId> {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let Some(own) = name(path) else {
        return Vec::new();
    };
    if path.parent() == Some(&layout::containers(config)) {
        return own.parse().into_iter().collect();
    }
    if path.parent() == Some(&layout::all_firewall_ports(config)) {
        let container = own.split_once('_').map(|(_, container)| container.parse());
        return container.into_iter().flatten().collect();
    }
    let network = if path.parent() == Some(&layout::firewall_networks(config)) {
        Some(own)
    } else {
        path.parent().and_then(name)
    };
    let network: Option<NetworkId> = network.and_then(|network| network.parse().ok());
    let members = network.map(|network| files::names(&layout::members(config, &network)));
    let members = members.and_then(Result::ok).unwrap_or_default();
    members
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// Settings of the host that matter to these networks. Those that there are not are left out.
fn kernel_settings(all: &Everything, host: &Network) -> BTreeMap<String, String> {
    let mut names: Vec<String> = [
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.all.route_localnet",
        "net.bridge.bridge-nf-call-iptables",
        "net.bridge.bridge-nf-call-ip6tables",
        "net.netfilter.nf_conntrack_max",
        "net.netfilter.nf_conntrack_count",
    ]
    .map(ToOwned::to_owned)
    .into();
    let bridges = all.networks.values().map(|network| network.bridge.as_str());
    let links: BTreeSet<&str> = bridges
        .chain(host.way_out(true).map(|(name, _)| name))
        .collect();
    for link in links {
        for key in ["forwarding", "rp_filter", "route_localnet"] {
            names.push(crate::doctor::setting("ipv4", link, key));
        }
    }
    let read = |name: String| {
        let path = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        let text = files::read(&Path::new("/proc/sys").join(path))
            .ok()
            .flatten()?;
        Some((name, text))
    };
    names.into_iter().filter_map(read).collect()
}

/// Ports that are published, or that responders answer at.
fn ports(all: &Everything) -> BTreeSet<(Protocol, u16)> {
    let mut ports = BTreeSet::new();
    for network in all.networks.values() {
        let dns = network.dns.iter();
        ports.extend(dns.flat_map(|dns| [(Protocol::Udp, dns.port), (Protocol::Tcp, dns.port)]));
    }
    for container in &all.containers {
        let elements = firewall::container_elements(container, &all.networks);
        ports.extend(elements.keys().filter_map(|(_, parts)| {
            let protocol = parts
                .iter()
                .find_map(|part| pick!(part, Part::Protocol(protocol) => *protocol))?;
            let port = parts
                .iter()
                .find_map(|part| pick!(part, Part::Port(port) => *port))?;
            Some((protocol, port))
        }));
    }
    ports
}

fn responder(settings: &Settings, all: &Everything) -> Responder {
    let directory = layout::zones(&settings.config);
    let (pid_file, process) = dns::look(&directory);
    let wanted = all.networks.values().any(|network| network.dns.is_some());
    let unnamed = if process.is_none() && wanted {
        dns::responders(&directory)
    } else {
        Vec::new()
    };
    let mut zones = BTreeMap::new();
    let names = files::names(&directory).unwrap_or_default();
    for name in names.into_iter().filter(|name| name != "aardvark.pid") {
        let text = files::read(&directory.join(&name)).map(Option::unwrap_or_default);
        let read = text
            .map_err(|error| error.to_string())
            .and_then(|text| named(&text));
        zones.insert(name, read);
    }
    Responder {
        directory,
        binary: engine::responder(&settings.dns_binary),
        pid_file,
        process: process.map(|(pid, stopped, here)| Process { pid, stopped, here }),
        unnamed,
        zones,
    }
}

/// The containers that a zone file names. A line that cannot be read names nobody.
fn named(text: &str) -> Result<BTreeSet<ContainerId>, String> {
    let zone = scan::scan(text.as_bytes()).map_err(|error| error.to_string())?;
    let lines = zone.lines.filter_map(Result::ok);
    Ok(lines.filter_map(|line| line.id.parse().ok()).collect())
}

async fn filter_of(
    host: &mut Host,
    all: &Everything,
    left: &leftovers::Facts,
    by_program: bool,
) -> Result<Filter, NotSeen> {
    let driver = host.settings.firewall;
    let mut containers = all.containers.clone();
    for container in &mut containers {
        container
            .attachments
            .retain(|on| filter::is_alive(on, &left.links));
    }
    let mut wanted = firewall::all_elements(&all.networks, &containers);
    firewall::merge_subnets(&mut wanted);
    let mut filter = Filter {
        driver,
        by_program,
        chains: Vec::new(),
        rules: Rules::default(),
        wanted,
        difference: Difference::default(),
        refusal: None,
        iptables: has_program("iptables"),
        firewalld: None,
    };
    if filter.wanted.is_empty() || driver == FirewallDriver::None {
        return Ok(filter);
    }
    if driver == FirewallDriver::Firewalld {
        filter.firewalld = Some(matches!(host.firewalld().await, Ok(Some(_))));
    }
    let listed = list_filter(host, &mut filter);
    let lacks = [Errno::EINVAL, Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT];
    if let Err(SysError::Nft(error)) = &listed
        && error_number(error).is_some_and(|errno| lacks.contains(&errno))
    {
        filter.refusal = Some(error.to_string());
    } else {
        listed?;
    }
    Ok(filter)
}

fn error_number(error: &NftError) -> Option<Errno> {
    if let NftError::Socket { source, .. } = error {
        return source.raw_os_error().map(Errno::from_raw);
    }
    error.errno()
}

fn list_filter(host: &mut Host, filter: &mut Filter) -> Result<(), SysError> {
    let (mut chains, mut rules) = host.nft()?.listing()?;
    let sets = sets(host, &rules)?;
    for (more_chains, more_rules) in xtables::listings() {
        chains.extend(more_chains);
        rules.extend(more_rules);
    }
    let ours = (Family::INET, TABLE.to_owned());
    let mut names = chains
        .iter()
        .filter(|chain| chain.table == ours)
        .map(|chain| chain.name.as_str());
    let marked = names.any(|name| name == ruleset::MARKER);
    if filter.driver == FirewallDriver::Nftables {
        if marked {
            filter.difference = host.difference(&filter.wanted)?;
        } else {
            filter.refusal = refusal(host, &filter.wanted, &chains)?;
        }
    }
    filter.chains = chains;
    filter.rules = Rules::new(rules, sets);
    Ok(())
}

/// Why the kernel would not take our rules, if it would not.
fn refusal(
    host: &mut Host,
    wanted: &Elements,
    chains: &[crate::nft::listing::Chain],
) -> Result<Option<String>, SysError> {
    let ours = (Family::INET, TABLE.to_owned());
    if chains.iter().any(|chain| chain.table == ours) {
        return Ok(None);
    }
    let whole = ruleset::rebuild(wanted, &Difference::all(wanted), &[]);
    match host.nft()?.check(&whole) {
        Ok(()) => Ok(None),
        Err(error @ NftError::Refused { .. }) => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// The sets that rules of others look into.
fn sets(
    host: &mut Host,
    rules: &[Rule],
) -> Result<BTreeMap<(Table, String), Vec<Element>>, SysError> {
    let ours = (Family::INET, TABLE.to_owned());
    let strangers = rules.iter().filter(|rule| rule.table != ours);
    let wanted: BTreeSet<(Table, String)> = strangers
        .flat_map(|rule| {
            let sets = rule
                .expressions
                .iter()
                .filter_map(|expression| pick!(expression, Expression::Lookup { set, .. } => set));
            sets.map(|set| (rule.table.clone(), set.clone()))
        })
        .collect();
    let mut sets = BTreeMap::new();
    for (table, set) in wanted {
        if let Some(elements) = host.nft()?.elements_of(&table, &set, LARGE)? {
            sets.insert((table, set), elements);
        }
    }
    Ok(sets)
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}
