//! `check` and `query`: what a directory says, and what the daemon would answer, without a daemon.

use std::fmt::Write;

use anyhow::{Context, bail};
use hickory_proto::op::{Message, Query as Question};
use hickory_proto::rr::{Name, RecordType};

use crate::answer::{self, Policy, SearchDomain};
use crate::cli;
use crate::load::Files;
use crate::name;
use crate::respond::{self, Outcome, Scratch};
use crate::sys::{files, print};
use crate::zones::{Asker, Zones};

/// Explains a directory.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub fn check(check: &cli::Check) -> anyhow::Result<()> {
    let mut files = Files::default();
    files::look(&check.directory, &mut files)
        .with_context(|| format!("read {}", check.directory.display()))?;
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

/// Answers a question.
///
/// # Errors
/// The directory cannot be read, or there is no such question.
pub fn query(query: &cli::Query, options: &cli::Options) -> anyhow::Result<()> {
    let mut files = Files::default();
    files::look(&query.directory, &mut files)
        .with_context(|| format!("read {}", query.directory.display()))?;
    let zones = files.zones();
    let guess = zones
        .networks()
        .first()
        .and_then(|network| network.listen.first().copied());
    let at = query.at.or(guess).context("there is no network")?;
    let asker = zones.asker(query.from, at);
    let mut message = Message::query();
    let kind: RecordType = query
        .kind
        .to_uppercase()
        .parse()
        .map_err(|_| anyhow::anyhow!("\"{}\" is not a type of record", query.kind))?;
    let mut asked = Name::from_utf8(&query.name).context("the name")?;
    asked.set_fqdn(true);
    message.queries.push(Question::query(asked, kind));
    message.metadata.recursion_desired = true;
    let policy = Policy {
        domain: SearchDomain::new(&options.filter_search_domain),
        forward: true,
        rotate: false,
        host_names: true,
    };
    let mut reply = Vec::new();
    let outcome = respond::respond(
        &zones,
        &policy,
        &asker,
        &message.to_vec()?,
        true,
        &mut Scratch::default(),
        &mut reply,
    );
    let mut text = who(&zones, &asker, query);
    let key = name::key(&query.name).unwrap_or_default();
    match outcome {
        Outcome::Reply => {
            let reply = Message::from_vec(&reply).context("our own reply")?;
            writeln!(text, "answer: {}", reply.metadata.response_code)?;
            for record in reply.answers {
                writeln!(text, "  {record}")?;
            }
            text += &why_here(&zones, &policy, &asker, &key);
        }
        Outcome::Forward(Some(servers)) => {
            let whose = whose(&zones, &asker, &key);
            writeln!(text, "not ours: {} would be asked, {whose}", list(&servers))?;
        }
        Outcome::Forward(None) => {
            writeln!(text, "not ours: the servers of the host would be asked")?;
        }
        Outcome::Drop => writeln!(text, "no answer")?,
    }
    Ok(print(&text)?)
}

/// Where the name of an answer is known from, for each network that knows it; nothing for reverse names.
fn why_here(zones: &Zones, policy: &Policy, asker: &Asker, key: &[u8]) -> String {
    let mut buffer = Vec::new();
    let inside = policy.domain.strip(key, &mut buffer);
    let rest = inside.unwrap_or(key);
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
    if text.is_empty() && inside.is_some() {
        text = "nobody has the name, and what ends in the search domain is asked of nobody else\n"
            .to_owned();
    } else if text.is_empty() && asker.internal_only {
        text = "nobody has the name, and nothing is forwarded for internal networks\n".to_owned();
    }
    text
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
