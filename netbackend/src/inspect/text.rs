//! The document for people.
//!
//! A line for each thing in columns that fit what is in them, and below it what is wrong with it. Names come from users:
//! control characters in them do not reach the terminal.

use wire::inspection::{Attachment, Container, Inspection, Network, Part, State};
use wire::state::{Isolation, PublishedPort};

/// All of it.
#[must_use]
pub fn text(inspection: &Inspection) -> String {
    let mut out = String::new();
    if let Some(uplink) = &inspection.uplink {
        let line = format!(
            "Uplink {}  {}",
            uplink.interface,
            joined(&uplink.addresses, " ")
        );
        put(&mut out, line.trim_end());
    }
    if inspection.networks.is_empty() && inspection.containers.is_empty() {
        out.push_str("Nothing is on record.\n");
    }
    for network in &inspection.networks {
        out.push('\n');
        network_lines(&mut out, network, inspection);
    }
    for container in &inspection.containers {
        out.push('\n');
        container_lines(&mut out, container);
    }
    if !inspection.problems.is_empty() {
        out.push_str("\nProblems\n");
        for problem in &inspection.problems {
            put(&mut out, &format!("  {}", printable(problem)));
        }
    }
    out.trim_start_matches('\n').to_owned()
}

/// What a published port looks like: `0.0.0.0:8080-8089->80-89/tcp`.
#[must_use]
pub fn port(port: &PublishedPort) -> String {
    let host = match port.host_address {
        None => "*".to_owned(),
        Some(address @ std::net::IpAddr::V4(_)) => address.to_string(),
        Some(address @ std::net::IpAddr::V6(_)) => format!("[{address}]"),
    };
    format!(
        "{host}:{}->{}/{}",
        port_range(port.host_port, port),
        port_range(port.container_port, port),
        port.protocol.name()
    )
}

/// The ports of a range that begins with this one.
#[must_use]
pub fn port_range(first: u16, port: &PublishedPort) -> String {
    match port.count {
        0 | 1 => first.to_string(),
        count => format!("{first}-{}", first.saturating_add(count - 1)),
    }
}

/// What is special about who may talk to a network, in a word or two; nothing for an open one.
#[must_use]
pub fn reach(network: &Network) -> Option<&'static str> {
    if network.internal {
        return Some("internal");
    }
    match network.isolation? {
        Isolation::None => None,
        Isolation::Normal => Some("isolated"),
        Isolation::Strict => Some("isolated (strict)"),
    }
}

/// The text without characters that a terminal would act on.
#[must_use]
pub fn printable(text: &str) -> String {
    let shown = |letter: char| {
        if letter.is_control() {
            letter.escape_default().to_string()
        } else {
            letter.to_string()
        }
    };
    text.chars().map(shown).collect()
}

fn joined<T: ToString>(items: &[T], separator: &str) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(separator)
}

fn put(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn field(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        put(out, &format!("  {name:<12}{}", printable(value)));
    }
}

fn network_lines(out: &mut String, network: &Network, all: &Inspection) {
    put(out, &format!("Network {}", printable(&network.name)));
    field(out, "id", &network.id);
    let marks = [
        network.unmanaged.then_some("unmanaged"),
        reach(network),
        network.vrf.is_some().then_some("in a VRF"),
    ];
    let marks: Vec<&str> = marks.into_iter().flatten().collect();
    let place = network.host_interface.as_deref().unwrap_or("");
    let carrier = format!("{} {place}", network.driver);
    let carrier = [carrier.trim_end(), &marks.join(", ")].join("  ");
    field(out, "driver", carrier.trim_end());
    field(out, "vrf", network.vrf.as_deref().unwrap_or(""));
    for subnet in &network.subnets {
        let gateway = subnet.gateway.map(|gateway| format!("  gateway {gateway}"));
        let gateway = gateway.unwrap_or_default();
        field(out, "subnet", &format!("{}{gateway}", subnet.subnet));
    }
    field(out, "goes out as", &joined(&network.outbound, " "));
    if let Some(dns) = &network.dns {
        let port = match dns.port {
            53 => String::new(),
            port => format!("  port {port}"),
        };
        field(
            out,
            "resolver",
            &format!("{}{port}", joined(&dns.listen, " ")),
        );
    }
    let named = |id: &String| {
        let mut containers = all.containers.iter();
        let found = containers.find(|container| container.id == *id);
        found.map_or_else(|| id.clone(), |container| container.name.clone())
    };
    let names: Vec<String> = network.containers.iter().map(named).collect();
    field(out, "containers", &joined(&names, " "));
    parts(out, &network.parts);
}

fn container_lines(out: &mut String, container: &Container) {
    put(out, &format!("Container {}", printable(&container.name)));
    field(out, "id", &container.id);
    let state = match container.namespace {
        State::There => "",
        State::Wrong | State::Missing => "  gone",
        State::Unknown => "  not known",
    };
    field(out, "namespace", &format!("{}{state}", container.netns));
    for attachment in &container.attachments {
        attachment_lines(out, attachment);
    }
}

fn attachment_lines(out: &mut String, on: &Attachment) {
    let interface = on.interface.as_deref().unwrap_or("?");
    let host = on.host_interface.as_ref();
    let host = host.map(|host| format!(" ({host} on the host)"));
    let line = format!("{interface}{} on {}", host.unwrap_or_default(), on.network);
    field(out, "interface", &line);
    field(out, "  mac", on.mac.as_deref().unwrap_or(""));
    let lease = if on.leased { "  by DHCP" } else { "" };
    field(
        out,
        "  address",
        &format!("{}{lease}", joined(&on.addresses, " ")),
    );
    for published in &on.ports {
        field(out, "  port", &port(published));
    }
    field(out, "  names", &on.names.join(" "));
    parts(out, &on.parts);
}

/// What is wrong, or that nothing is.
fn parts(out: &mut String, parts: &[Part]) {
    let good = parts.iter().filter(|part| part.state == State::There);
    if !parts.is_empty() && good.count() == parts.len() {
        field(out, "on the host", "all there");
        return;
    }
    for part in parts {
        let word = match part.state {
            State::There => continue,
            State::Wrong => "WRONG",
            State::Missing => "MISSING",
            State::Unknown => "unknown",
        };
        let note = part.note.as_ref().map(|note| format!(": {note}"));
        field(
            out,
            word,
            &format!("{}{}", part.part, note.unwrap_or_default()),
        );
    }
}
