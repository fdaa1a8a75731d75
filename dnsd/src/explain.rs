//! `check` and `query`: what a directory says, and what the daemon would answer, without a daemon.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, bail};
use hickory_proto::op::{Message, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use crate::answer::{self, Policy};
use crate::cli;
use crate::load::Files;
use crate::name;
use crate::respond::{self, Outcome, Scratch};
use crate::sys::{files, print, serve};
use crate::zones::{Asker, Zones};

/// Explains a directory.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub fn check(check: &cli::Check) -> anyhow::Result<()> {
    let files = read(&check.directory)?;
    let zones = files.zones();
    let mut text = String::new();
    for network in zones.networks() {
        let internal = if network.internal { " (internal)" } else { "" };
        writeln!(text, "network {}{internal}", network.name)?;
        writeln!(text, "  listens on {}", list(&network.listen))?;
        if !network.servers.is_empty() {
            writeln!(text, "  servers    {}", list(&network.servers))?;
        }
        for route in &network.routes {
            writeln!(
                text,
                "  {} is asked of {}",
                name::text(&route.domain),
                list(&route.servers)
            )?;
        }
        for at in network.names() {
            let addresses = [list(network.ipv4(at)), list(network.ipv6(at))].join(" ");
            writeln!(
                text,
                "  {:<24} {}",
                name::text(network.name_of(at)),
                addresses.trim()
            )?;
        }
        for service in &network.services {
            writeln!(
                text,
                "  {:<24} {}:{}",
                name::text(&service.name),
                name::text(&service.target),
                service.port
            )?;
        }
    }
    let problems: Vec<_> = files.problems().collect();
    print(&text)?;
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n"))
}

fn list<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

/// What is read, as the daemon does when it starts.
fn read(directory: &Path) -> anyhow::Result<Files> {
    let mut files = Files::default();
    files::first_look(directory, &mut files)
        .with_context(|| format!("read {}", directory.display()))?;
    Ok(files)
}

/// Answers a question.
///
/// # Errors
/// The directory cannot be read, or there is no such question.
pub fn query(query: &cli::Query, options: &cli::Options) -> anyhow::Result<()> {
    let files = read(&query.directory)?;
    let zones = files.zones();
    if zones.networks().is_empty() {
        let problems: Vec<_> = files.problems().collect();
        bail!("there is no network\n{}", problems.join("\n"));
    }
    let at = query.at.or_else(|| asked(&zones, query.from));
    let asker = zones.asker(query.from, at.context("no network has an address")?);
    // The order of addresses would depend on chance.
    let policy = Policy {
        rotate: false,
        ..serve::policy(&options.filter_search_domain)
    };
    let mut reply = Vec::new();
    let outcome = respond::respond(
        &zones,
        &policy,
        &asker,
        &question(query)?.to_vec()?,
        true,
        &mut Scratch::default(),
        &mut reply,
    );
    let mut text = who(&zones, &asker, query);
    let key = name::key(&query.name).unwrap_or_default();
    match outcome {
        Outcome::Reply => {
            let reply = Message::from_vec(&reply).context("our own reply")?;
            text += &records(&reply)?;
            text += &why_here(&zones, &policy, &asker, &key);
            if reply.metadata.response_code == ResponseCode::NXDomain {
                text += why_nowhere(&policy, &asker, &key);
            }
        }
        Outcome::Forward(Some(servers)) => {
            let whose = whose(&zones, &asker, &key);
            writeln!(text, "not ours: {} would be asked, {whose}", list(&servers))?;
        }
        Outcome::Forward(None) => text += "not ours: the servers of the host would be asked\n",
        Outcome::Drop => text += "no answer\n",
    }
    Ok(print(&text)?)
}

/// The address that a container asks: that of the first of its networks, of its own family if there is one. Somebody
/// else asks that of the first network of all.
fn asked(zones: &Zones, from: IpAddr) -> Option<IpAddr> {
    let asker = zones.asker(from, from);
    let own = asker.networks.first().map(|n| zones.network(*n));
    let network = own.or_else(|| Some(zones.networks().first()?))?;
    let alike = |address: &&IpAddr| address.is_ipv4() == from.is_ipv4();
    let listen = &network.listen;
    listen
        .iter()
        .find(alike)
        .or_else(|| listen.first())
        .copied()
}

fn question(query: &cli::Query) -> anyhow::Result<Message> {
    let kind: RecordType = query
        .kind
        .to_uppercase()
        .parse()
        .map_err(|_| anyhow::anyhow!("\"{}\" is not a type of record", query.kind))?;
    let mut asked = Name::from_utf8(&query.name).context("the name")?;
    asked.set_fqdn(true);
    let mut message = Message::query();
    message.queries.push(Question::query(asked, kind));
    message.metadata.recursion_desired = true;
    Ok(message)
}

fn records(reply: &Message) -> anyhow::Result<String> {
    let mut text = format!("answer: {}\n", reply.metadata.response_code);
    for record in &reply.answers {
        writeln!(text, "  {record}")?;
    }
    Ok(text)
}

/// Where the name of an answer is known from, for each network that knows it; nothing for reverse names.
fn why_here(zones: &Zones, policy: &Policy, asker: &Asker, key: &[u8]) -> String {
    let mut buffer = Vec::new();
    let rest = policy.domain.strip(key, &mut buffer).unwrap_or(key);
    let mut text = String::new();
    for network in asker.networks.iter().map(|n| zones.network(*n)) {
        let known = if network.find(rest).is_some() {
            "is a name".to_owned()
        } else if let Some(wildcard) = network.find_wildcard(rest) {
            format!("is covered by {}", name::text(network.name_of(wildcard)))
        } else if answer::below_network(network, rest).is_some() {
            "ends in the name of the network and begins with a name".to_owned()
        } else if !network.services(rest).is_empty() {
            "is a service".to_owned()
        } else {
            continue;
        };
        text += &format!("{} {known} in network {}\n", name::text(rest), network.name);
    }
    text
}

/// Why nobody else is asked for a name that nobody has.
fn why_nowhere(policy: &Policy, asker: &Asker, key: &[u8]) -> &'static str {
    if policy.domain.strip(key, &mut Vec::new()).is_some() {
        "nobody has the name, and what ends in the search domain is asked of nobody else\n"
    } else if asker.internal_only {
        "nobody has the name, and nothing is forwarded for internal networks\n"
    } else if !policy.forward {
        "nobody has the name, and AARDVARK_NO_PROXY forbids to ask others\n"
    } else {
        "" // reverse names between our addresses
    }
}

/// Whose servers would be asked.
fn whose(zones: &Zones, asker: &Asker, key: &[u8]) -> String {
    let networks = asker.networks.iter().map(|n| zones.network(*n));
    if let Some(route) = answer::route(networks, key) {
        format!("the servers of {}", name::text(&route.domain))
    } else if asker.servers.is_some() {
        "the container's own".to_owned()
    } else {
        "those of its networks".to_owned()
    }
}

fn who(zones: &Zones, asker: &Asker, query: &cli::Query) -> String {
    let networks: Vec<_> = asker
        .networks
        .iter()
        .map(|n| &*zones.network(*n).name)
        .collect();
    let networks = networks.join(", ");
    if asker.known {
        let cut_off = if asker.internal_only {
            "; nothing is forwarded for it"
        } else {
            ""
        };
        format!(
            "{} is a container, which may see {networks}{cut_off}\n",
            query.from
        )
    } else {
        format!(
            "{} is not a container: it may see the network of the address that it asks, {networks}\n",
            query.from
        )
    }
}
