//! Why a specification is none, for those who wrote it.
//!
//! The grammar is that of [the module above](super), and what is understood is decided there; here is only said of the
//! first item that is not, what is missing or too much.

use super::{Ports, parse_address, parse_range, parse_target};

/// What is wrong with the part of a specification that is not understood, and what would be right.
pub(super) fn of(text: &str) -> String {
    let mut items = text.split(',');
    match items.find(|item| Ports::parse(item).is_none()) {
        None | Some("") => {
            "an item is empty: give ports with commas between them, as 80,443".to_owned()
        }
        Some(item) => of_item(item),
    }
}

fn of_item(item: &str) -> String {
    if let Some(range) = item.strip_prefix('~') {
        return of_range(range);
    }
    if let Some(address) = item.strip_prefix("all:") {
        return no_address(address);
    }
    if let Some(wrong) = of_colon(item) {
        return wrong;
    }
    match item.split_once(':') {
        Some((ports, target)) if parse_range(ports).is_some() => of_target(ports, target),
        Some((ports, _)) if !item.contains('/') => of_range(ports),
        _ => match item.split_once('/') {
            Some((before, _)) => no_address(before),
            None => of_range(item),
        },
    }
}

/// An address is set apart by a slash. Others write a colon.
fn of_colon(item: &str) -> Option<String> {
    if parse_address(item).is_some() {
        return Some(format!("{item} has no ports: give them too, as {item}/80"));
    }
    let (address, ports) = item.rsplit_once(':')?;
    let (address, host) = match address.rsplit_once(':') {
        Some((rest, port)) if parse_address(rest).is_some() => (rest, format!("{port}:{ports}")),
        _ => (address, ports.to_owned()),
    };
    parse_address(address)?;
    Some(format!(
        "a slash parts the address from the ports: give {address}/{host}"
    ))
}

fn of_target(ports: &str, target: &str) -> String {
    if let Some((address, range)) = target.split_once('/') {
        if parse_address(address).is_none() {
            return no_address(address);
        }
        if parse_range(range).is_none() {
            return of_range(range);
        }
    }
    match (parse_range(ports), parse_target(target)) {
        (Some((first, last)), Some((_, Some((to, end))))) => {
            let (from, to) = (u32::from(last - first) + 1, u32::from(end - to) + 1);
            format!("{from} ports cannot lead to {to}: give as many there")
        }
        _ if target.contains(|letter: char| letter != '-' && !letter.is_ascii_digit()) => {
            format!(
                "'{target}' is neither ports nor an address: give one of them, as 80 or 10.0.0.1"
            )
        }
        _ => of_range(target),
    }
}

fn no_address(text: &str) -> String {
    format!("'{text}' is no address: give one as 127.0.0.1, ::1 or 127.0.0.1%lo")
}

fn of_range(text: &str) -> String {
    match text.split_once('-') {
        Some((first, last)) if first.is_empty() || last.is_empty() => {
            format!("'{text}' is half a range: give its first and its last port, as 80-90")
        }
        Some((first, last)) => [first, last]
            .into_iter()
            .find_map(of_port)
            .unwrap_or_else(|| format!("{text} begins after its end: give {last}-{first}")),
        None => of_port(text).unwrap_or_else(|| format!("'{text}' is no port")),
    }
}

/// None: it is a port.
fn of_port(text: &str) -> Option<String> {
    if super::parse_port(text).is_some() {
        return None;
    }
    let what = match text {
        "" => "a port is missing".to_owned(),
        _ => format!("'{text}' is no port"),
    };
    Some(format!("{what}: give a number from 1 to 65535"))
}
