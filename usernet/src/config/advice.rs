//! What is wrong with a value, and what would be right.
//!
//! The first line of an error is one that callers look for: it names the value, but not always the option, nor the
//! reason. Both are in a second line, which is made here and nowhere else:
//!
//! ```text
//! Invalid --log-size: 100
//! --log-size: 100 is too small: give 40960 bytes or more
//! ```
//!
//! An option is named as it was written. Errors that name it themselves get no second line.

use std::net::IpAddr;

use super::{ConfigError, LogFile, MTU_MAX, MTU_MIN_V4, MTU_MIN_V6};
use crate::cli::{Given, Id};
use crate::limits;

/// An error of an option's value, with the second line.
pub(super) fn of_option(error: ConfigError, given: &Given) -> ConfigError {
    match advice(&error, given) {
        Some(advice) => ConfigError::Advised {
            error: Box::new(error),
            option: given.name.clone(),
            advice,
        },
        None => error,
    }
}

/// An error that came up after all options were read, with the second line.
pub(super) fn of_options(error: ConfigError, all: &[Given]) -> ConfigError {
    match culprit(&error, all) {
        Some(given) => of_option(error, given),
        None => error,
    }
}

/// The option that such an error is about.
fn culprit<'a>(error: &ConfigError, all: &'a [Given]) -> Option<&'a Given> {
    let last = |ids: &[Id]| all.iter().rfind(|given| ids.contains(&given.id));
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the other errors are found in one option"
    )]
    match error {
        ConfigError::RedundantLength => last(&[Id::Netmask]),
        ConfigError::NoSuchInterface(_) => last(&[Id::Interface]),
        ConfigError::OutboundInterface(name) => all.iter().rfind(|given| {
            matches!(given.id, Id::OutboundIf4 | Id::OutboundIf6) && given.value == name.as_str()
        }),
        ConfigError::MtuTooSmall(_) => last(&[Id::Mtu]),
        ConfigError::Ports(error) => {
            let mut ports = all.iter().filter(|given| is_ports(given.id));
            ports.nth(error.place?)
        }
        _ => None,
    }
}

const fn is_ports(id: Id) -> bool {
    matches!(id, Id::TcpPorts | Id::UdpPorts | Id::TcpNs | Id::UdpNs)
}

/// Why, and what would be right; none where the error says both.
fn advice(error: &ConfigError, given: &Given) -> Option<String> {
    match error {
        ConfigError::Ports(error) => error.error.advice(),
        ConfigError::RedundantLength => {
            Some("the address has a prefix length already: leave one of them out".to_owned())
        }
        ConfigError::MtuTooSmall(_) => Some(format!(
            "IPv6 alone was asked for: give {MTU_MIN_V6} or more"
        )),
        ConfigError::Invalid { .. }
        | ConfigError::InterfaceName(_)
        | ConfigError::NoSuchInterface(_)
        | ConfigError::OutboundInterface(_)
        | ConfigError::MtuTooLarge(_)
        | ConfigError::Dns(_)
        | ConfigError::Search(_) => {
            let text = given.value.to_string_lossy();
            Some(format!(
                "{}: give {}",
                why(given.id, &text)?,
                right(given.id)?
            ))
        }
        ConfigError::Machine(_)
        | ConfigError::NeedsConfigNet(_)
        | ConfigError::Incompatible(..)
        | ConfigError::StatsInBackground
        | ConfigError::NetnsAndRest
        | ConfigError::NoIpv6
        | ConfigError::Advised { .. } => None,
    }
}

/// What is wrong with the value of an option.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the other options have no value that could be wrong"
)]
fn why(id: Id, text: &str) -> Option<String> {
    let said = match id {
        Id::Stats => why_number(text, 0),
        Id::LogSize => why_number(text, LogFile::SIZE_MIN),
        Id::Mtu => why_number(text, 0),
        Id::RunAs => "the user or the group is empty".to_owned(),
        Id::ConfPath => "the path is empty".to_owned(),
        Id::Address => why_guest_address(text),
        Id::Netmask => why_netmask(text),
        Id::MacAddr | Id::NsMacAddr => why_mac(text).to_owned(),
        Id::Dns => why_address(text).unwrap_or_else(|| "there are as many already".to_owned()),
        Id::Gateway | Id::Outbound | Id::DnsForward | Id::DnsHost => why_address(text)?,
        Id::MapHostLoopback | Id::MapGuestAddr => why_address(text)?,
        Id::NsIfname => why_new_name(text)?,
        Id::Interface => {
            why_name(text).unwrap_or_else(|| "the host has no such interface".to_owned())
        }
        Id::OutboundIf4 => why_name(text).unwrap_or_else(|| without_address("IPv4")),
        Id::OutboundIf6 => why_name(text).unwrap_or_else(|| without_address("IPv6")),
        Id::Search => why_domain(text).unwrap_or_else(|| "there are as many already".to_owned()),
        Id::Hostname | Id::Fqdn => why_domain(text)?,
        _ => return None,
    };
    Some(said)
}

/// What an option takes.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the other options have no value that could be wrong"
)]
fn right(id: Id) -> Option<String> {
    let least = LogFile::SIZE_MIN;
    let (servers, domains) = (limits::NAME_SERVERS, limits::SEARCH_DOMAINS);
    let name = limits::INTERFACE_NAME;
    Some(match id {
        Id::Stats => "a number of seconds, as 10".to_owned(),
        Id::LogSize => format!("{least} bytes or more"),
        Id::Mtu => format!("{MTU_MIN_V4} to {MTU_MAX} bytes, or 0 to leave it alone"),
        Id::RunAs => "UID or UID:GID, numbers or names".to_owned(),
        Id::ConfPath => "the path of a socket that can be made".to_owned(),
        Id::Address => "an address that a host can have, as 10.0.0.2/24".to_owned(),
        Id::Netmask => "a number of bits up to 32, or a mask as 255.255.255.0".to_owned(),
        Id::MacAddr | Id::NsMacAddr => "six bytes as 02:00:00:00:00:01".to_owned(),
        Id::Gateway => "an address that a host can have, as 10.0.0.1".to_owned(),
        Id::Outbound => "an address of this host".to_owned(),
        Id::Dns => format!("the address of a name server, at most {servers} of them, or none"),
        Id::DnsHost => "the address of a name server that this host reaches".to_owned(),
        Id::DnsForward => "an address that a host can have, as 169.254.1.1".to_owned(),
        Id::MapHostLoopback | Id::MapGuestAddr => {
            "an address that a host can have, as 169.254.1.2, or none".to_owned()
        }
        Id::NsIfname => format!("1 to {name} bytes without spaces, '/', ':' and '%'"),
        Id::Interface | Id::OutboundIf4 | Id::OutboundIf6 => {
            "one that `ip address` shows here".to_owned()
        }
        Id::Search => format!("a domain as example.org, at most {domains} of them, or none"),
        Id::Hostname | Id::Fqdn => "a name as host.example.org".to_owned(),
        _ => return None,
    })
}

/// The value was refused, so what is not too small is too large.
fn why_number(text: &str, least: u64) -> String {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        _ if text.is_empty() => "the number is missing".to_owned(),
        _ if !digits => format!("'{text}' is no number"),
        Ok(number) if number < least => format!("{number} is too small"),
        Ok(_) | Err(_) => format!("{text} is too large"),
    }
}

/// None: it is an address, and not a special one.
fn why_address(text: &str) -> Option<String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let prefixed = text
            .split_once('/')
            .is_some_and(|(address, _)| is_address(address));
        return Some(match prefixed {
            _ if text.is_empty() => "the address is missing".to_owned(),
            true => format!("'{text}' has a prefix length"),
            false => format!("'{text}' is no address"),
        });
    };
    let kind = match address {
        _ if address.is_unspecified() => "every address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "the address of a group",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Some(format!("{address} is {kind}"))
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn why_guest_address(text: &str) -> String {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    why_address(address).unwrap_or_else(|| format!("'{length}' is no prefix length of {address}"))
}

fn why_netmask(text: &str) -> String {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(IpAddr::V4(_)) => format!("{text} has ones after zeros"),
        Ok(IpAddr::V6(_)) => format!("{text} is none of IPv4"),
        Err(_) if digits => format!("{text} bits are too many"),
        Err(_) => format!("'{text}' is neither"),
    }
}

fn why_mac(text: &str) -> &'static str {
    let hex = |part: &str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    let first = text.get(..2).map(|byte| u8::from_str_radix(byte, 16));
    if text.split(':').count() != 6 || !text.split(':').all(hex) {
        "it is not six pairs of hexadecimal digits with colons"
    } else if matches!(first, Some(Ok(byte)) if byte & 1 == 1) {
        "it is the address of a group, as the first byte is odd"
    } else {
        "it is all zeros"
    }
}

/// None: we may give this name to an interface. `%d` asks the kernel for a number.
pub(super) fn why_new_name(text: &str) -> Option<String> {
    let number = || "the kernel takes '%' for the place of a number".to_owned();
    why_name(text).or_else(|| text.contains('%').then(number))
}

/// None: an interface may have this name.
pub(super) fn why_name(text: &str) -> Option<String> {
    let other = |letter: &char| "/:\u{7f}".contains(*letter) || *letter <= ' ';
    match text.chars().find(other) {
        _ if text.is_empty() => Some("the name is empty".to_owned()),
        _ if text.len() > limits::INTERFACE_NAME => {
            Some(format!("the name has {} bytes", text.len()))
        }
        _ if text == "." || text == ".." => Some("the name stands for a directory".to_owned()),
        Some(letter) => Some(format!("the name has {letter:?}")),
        None => None,
    }
}

fn without_address(family: &str) -> String {
    format!("the host has no such interface, or no {family} address there")
}

/// None: it can stand in a DNS message, with labels of at most 63 bytes, 253 in all.
pub(super) fn why_domain(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let bad = |letter: &char| !letter.is_ascii_graphic();
    let long = |label: &&str| label.len() > 63;
    if let Some(letter) = name.chars().find(bad) {
        Some(format!("the name has {letter:?}"))
    } else if name.is_empty() {
        Some("the name is empty".to_owned())
    } else if name.len() > 253 {
        Some(format!("the name has {} bytes, of 253", name.len()))
    } else if let Some(label) = name.split('.').find(long) {
        Some(format!("'{label}' has {} bytes, of 63", label.len()))
    } else if name.split('.').any(str::is_empty) {
        Some("there is nothing between two dots".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
