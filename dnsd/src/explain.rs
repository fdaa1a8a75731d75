//! `check` and `query`: what a directory says, and what the daemon would answer, without a daemon.

use std::fmt::Write;

use anyhow::{Context, bail};
use hickory_proto::op::{Message, Query as Question};
use hickory_proto::rr::{Name, RecordType};

use crate::answer::{Policy, SearchDomain};
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
    match outcome {
        Outcome::Reply => {
            let reply = Message::from_vec(&reply).context("our own reply")?;
            writeln!(text, "answer: {}", reply.metadata.response_code)?;
            for record in reply.answers {
                writeln!(text, "  {record}")?;
            }
        }
        Outcome::Forward(Some(servers)) => {
            writeln!(text, "not ours: {} would be asked", list(&servers))?;
        }
        Outcome::Forward(None) => {
            writeln!(text, "not ours: the servers of the host would be asked")?;
        }
        Outcome::Drop => writeln!(text, "no answer")?,
    }
    Ok(print(&text)?)
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
