//! The DNS responder: does it run, does it answer where it should, does it know everybody?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use wire::names::{ContainerId, NetworkId};
use wire::state::Protocol;

use super::facts::{Facts, Holder, Listener};
use super::ports::is_engine;
use super::records::{is_interrupted, reload};
use super::remedy::Command;
use super::{Finding, listed};

/// Addresses and ports at which containers ask.
type Wanted = BTreeSet<(IpAddr, u16)>;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = zones(facts);
    let wanted = wanted(facts);
    if !wanted.is_empty() {
        findings.extend(responder(&wanted, facts));
    }
    findings
}

/// Where the responder should answer: for networks that have a bridge, and names. One that lacks its file of names is
/// another finding.
fn wanted(facts: &Facts) -> Wanted {
    let attachments = facts
        .containers
        .iter()
        .flat_map(|container| &container.attachments);
    let named = attachments.filter(|on| {
        let file = on.zone_file.as_ref();
        file.is_some_and(|file| matches!(facts.responder.zones.get(file), Some(Ok(_))))
    });
    let with_names: BTreeSet<&NetworkId> = named.map(|on| &on.network).collect();
    let served = facts.networks.values().filter(|network| {
        let bridge = network.bridge.as_str();
        with_names.contains(&network.id) && facts.host.links.contains_key(bridge)
    });
    served
        .filter_map(|network| network.dns.as_ref())
        .flat_map(|dns| dns.listen.iter().map(|address| (*address, dns.port)))
        .collect()
}

fn responder(wanted: &Wanted, facts: &Facts) -> Vec<Finding> {
    let responder = &facts.responder;
    let taken: Vec<(&Listener, &Holder)> = facts
        .listeners
        .iter()
        .filter(|listener| {
            let at = |(address, port): &(IpAddr, u16)| {
                *port == listener.port && binds(listener.address, *address)
            };
            wanted.iter().any(at)
        })
        .filter_map(|listener| Some((listener, listener.holder.as_ref()?)))
        .filter(|(_, holder)| !is_responder(holder.pid, facts) && !is_engine(&holder.name))
        .collect();
    match &responder.process {
        Some(process) if process.stopped => vec![Finding::broken(
            "responder-stopped",
            format!("the DNS responder, process {}, is stopped", process.pid),
            "containers resolve no names",
            vec![facts.caller.host(&format!("kill -CONT {}", process.pid))],
        )],
        Some(process) if !process.here => vec![Finding::broken(
            "responder-elsewhere",
            format!(
                "the DNS responder, process {}, is in another network namespace",
                process.pid
            ),
            "containers of this one resolve no names",
            vec![
                facts.caller.host(&format!("kill {}", process.pid)),
                start(wanted, facts),
            ],
        )],
        Some(process) => silent(wanted, process.pid, &taken, facts)
            .into_iter()
            .collect(),
        None if !taken.is_empty() => vec![port_taken(&taken, vec![start(wanted, facts)], facts)],
        // Whoever takes the call back starts it.
        None if is_interrupted(facts) => Vec::new(),
        None => vec![dead(wanted, facts)],
    }
}

pub(super) fn is_responder(pid: u32, facts: &Facts) -> bool {
    let responder = &facts.responder;
    responder
        .process
        .as_ref()
        .is_some_and(|process| process.pid == pid)
        || responder.unnamed.contains(&pid)
}

/// Whether a socket at `bound` takes what is sent to `address`.
fn binds(bound: IpAddr, address: IpAddr) -> bool {
    // A socket of all IPv6 addresses takes IPv4 as well, as a rule.
    bound == address || bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4())
}

/// The way that a setup starts it.
fn start(wanted: &Wanted, facts: &Facts) -> Command {
    let responder = &facts.responder;
    let Some(binary) = &responder.binary else {
        // The engine knows where it is.
        return facts.caller.engine("network reload --all");
    };
    let port = wanted.iter().next().map_or(53, |(_, port)| *port);
    let command = Command::words("").arg(binary.display()).arg("--config");
    let command = command.arg(responder.directory.display());
    facts.caller.here(command.with(&format!("-p {port} run")))
}

fn dead(wanted: &Wanted, facts: &Facts) -> Finding {
    let responder = &facts.responder;
    let file = responder.directory.join("aardvark.pid");
    if let [pid] = responder.unnamed.as_slice() {
        let write = Command::words("sh -c").arg(format!("echo {pid} >{}", file.display()));
        return Finding::broken(
            "responder-unknown",
            format!(
                "the DNS responder runs as process {pid}, but {} does not say so",
                file.display()
            ),
            "it is not told of containers that come and go, and another one cannot start beside it",
            vec![facts.caller.here(write)],
        );
    }
    let addresses = listed(wanted.iter().map(|(address, _)| address));
    let what = match &responder.pid_file {
        None => "the DNS responder does not run".to_owned(),
        // What a responder leaves that ends by itself.
        Some(pid) if pid.trim() == "2147483647" => "the DNS responder has ended".to_owned(),
        Some(pid) => format!(
            "the DNS responder does not run: there is no such process {} as {} says",
            pid.trim(),
            file.display()
        ),
    };
    let why = format!("containers resolve no names: nobody answers at {addresses}");
    Finding::broken("responder-dead", what, why, vec![start(wanted, facts)])
}

/// Addresses at which a responder that runs does not answer.
fn silent(
    wanted: &Wanted,
    pid: u32,
    taken: &[(&Listener, &Holder)],
    facts: &Facts,
) -> Option<Finding> {
    let missing = unserved(wanted, pid, facts);
    if missing.is_empty() {
        return None;
    }
    let tell = facts.caller.host(&format!("kill -HUP {pid}"));
    let is_in_the_way = |(listener, _): &&(&Listener, &Holder)| {
        let mut missing = missing.iter();
        missing.any(|address| binds(listener.address, *address))
    };
    let in_the_way: Vec<_> = taken.iter().filter(is_in_the_way).copied().collect();
    if !in_the_way.is_empty() {
        return Some(port_taken(&in_the_way, vec![tell], facts));
    }
    let at = listed(&missing);
    Some(Finding::broken(
        "responder-silent",
        format!("the DNS responder, process {pid}, does not listen at {at}"),
        "containers that ask there resolve no names",
        vec![tell],
    ))
}

/// Where it does not listen although it could: an address that is gone is another finding, whose remedy tells it.
fn unserved(wanted: &Wanted, pid: u32, facts: &Facts) -> Vec<IpAddr> {
    let addresses = facts.host.links.values().flat_map(|link| &link.addresses);
    let addresses: BTreeSet<IpAddr> = addresses.map(IpNet::addr).collect();
    let of_responder = facts.listeners.iter().filter(|listener| {
        let holder = listener.holder.as_ref();
        holder.is_none_or(|holder| holder.pid == pid)
    });
    let served: BTreeSet<(Protocol, IpAddr, u16)> = of_responder
        .map(|listener| (listener.protocol, listener.address, listener.port))
        .collect();
    let is_served = |address: IpAddr, port: u16| {
        let mut protocols = [Protocol::Udp, Protocol::Tcp].into_iter();
        protocols.all(|protocol| served.contains(&(protocol, address, port)))
    };
    let missing = wanted
        .iter()
        .filter(|(address, port)| !is_served(*address, *port));
    let missing = missing.map(|(address, _)| *address);
    missing
        .filter(|address| addresses.contains(address))
        .collect()
}

fn port_taken(taken: &[(&Listener, &Holder)], then: Vec<Command>, facts: &Facts) -> Finding {
    let holders: BTreeMap<u32, &Holder> = taken
        .iter()
        .map(|(_, holder)| (holder.pid, *holder))
        .collect();
    let sockets: BTreeSet<String> = taken
        .iter()
        .map(|(listener, _)| format!("{} port {}", listener.address, listener.port))
        .collect();
    let names: BTreeSet<String> = holders.values().map(|holder| holder.told()).collect();
    let mut remedy = Vec::new();
    for holder in holders.values() {
        remedy.push(facts.caller.here(holder.end()));
        if !holder.is_init() {
            let wait = format!("timeout 10 tail --pid={} -f /dev/null", holder.pid);
            remedy.push(facts.caller.host(&wait));
        }
    }
    remedy.extend(then);
    Finding::broken(
        "responder-port-taken",
        format!("{} is taken by {}", listed(sockets), listed(names)),
        "the DNS responder cannot answer there, and containers resolve no names; let that program listen on other addresses",
        remedy,
    )
}

impl Holder {
    pub(super) fn told(&self) -> String {
        format!("{} (process {})", self.name, self.pid)
    }

    /// Whether it is the first process, which holds sockets for services that are not started yet.
    pub(super) fn is_init(&self) -> bool {
        self.pid == 1
    }

    /// What ends it, or tells for whom it is held.
    pub(super) fn end(&self) -> Command {
        match &self.unit {
            _ if self.is_init() => Command::words("systemctl list-sockets --all"),
            Some(unit) => Command::words("systemctl stop").arg(unit),
            None => Command::words("kill").arg(self.pid),
        }
    }
}

/// Containers that should be in a zone file and are not.
fn zones(facts: &Facts) -> Vec<Finding> {
    let mut missing: BTreeMap<&str, BTreeSet<&ContainerId>> = BTreeMap::new();
    let nobody = BTreeSet::new();
    for container in &facts.containers {
        for attachment in &container.attachments {
            let alive = facts.namespaces.contains(&attachment.netns_inode);
            let Some(file) = attachment.zone_file.as_ref().filter(|_| alive) else {
                continue;
            };
            let named = match facts.responder.zones.get(file) {
                Some(Ok(named)) => named,
                Some(Err(_)) => continue,
                None => &nobody,
            };
            if !named.contains(&container.id) {
                missing.entry(file).or_default().insert(&container.id);
            }
        }
    }
    let each = missing.into_iter().map(|(file, containers)| {
        let path = facts.responder.directory.join(file);
        let gone = if facts.responder.zones.contains_key(file) {
            "does not name"
        } else {
            "is gone, which named"
        };
        Finding::broken(
            "names-missing",
            format!("{} {gone} {}", path.display(), listed(&containers)),
            "nobody finds them by their names",
            vec![reload(&facts.caller, containers)],
        )
    });
    let mut findings: Vec<Finding> = each.collect();
    findings.extend(unreadable(facts));
    findings
}

fn unreadable(facts: &Facts) -> Vec<Finding> {
    let zones = facts.responder.zones.iter();
    let each = zones.filter_map(|(file, read)| {
        let why = read.as_ref().err()?;
        let attachments = facts.containers.iter().filter(|container| {
            let mut attachments = container.attachments.iter();
            attachments.any(|on| on.zone_file.as_ref() == Some(file))
        });
        let ids: BTreeSet<&ContainerId> = attachments.map(|container| &container.id).collect();
        let path = facts.responder.directory.join(file);
        Some(Finding::broken(
            "names-damaged",
            format!("{} cannot be read: {why}", path.display()),
            "the DNS responder knows nobody of this network",
            vec![facts.caller.remove(&path), reload(&facts.caller, ids)],
        ))
    });
    each.collect()
}
