//! Options of networks: which ones a driver has, and which values they take.
//!
//! Truth values are understood as Go spells them, and an option that is just named is true; stored is what
//! every program understands, `true` or `false`.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use wire::names::InterfaceName;
use wire::network::Network;

use super::CreateError;

/// The options of Docker that mean one of ours.
const DOCKER_MTU: &str = "com.docker.network.driver.mtu";
const DOCKER_BRIDGE: &str = "com.docker.network.bridge.name";

/// What the options of a bridge network say about the rest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// Whether we care for the bridge.
    pub managed: bool,
    /// Whether its name and subnets must be its own: not when others look after the bridge, and not when a VLAN keeps
    /// networks apart.
    pub checked: bool,
}

/// Gives options of Docker the names that they have here.
///
/// # Errors
/// Both names are there, with different values.
pub fn rename(network: &mut Network) -> Result<(), CreateError> {
    let Some(options) = &mut network.options else {
        return Ok(());
    };
    let contradiction = |docker, key, other: &str, value: &str| CreateError::Contradiction {
        docker,
        other: other.to_owned(),
        key,
        value: value.to_owned(),
    };
    if let Some(mtu) = options.remove(DOCKER_MTU) {
        let value = options
            .entry("mtu".to_owned())
            .or_insert_with(|| mtu.clone());
        if *value != mtu {
            return Err(contradiction(DOCKER_MTU, "mtu", &mtu, value));
        }
    }
    if let Some(bridge) = options.remove(DOCKER_BRIDGE) {
        let name = network
            .network_interface
            .get_or_insert_with(|| bridge.clone());
        if *name != bridge {
            let error = contradiction(DOCKER_BRIDGE, "network_interface", &bridge, name);
            return Err(error);
        }
    }
    Ok(())
}

/// Checks the options of a bridge network.
///
/// # Errors
/// One is unknown, or its value is none.
pub fn bridge(network: &mut Network) -> Result<Bridge, CreateError> {
    let mut bridge = Bridge {
        managed: true,
        checked: true,
    };
    for (key, value) in network.options.iter_mut().flatten() {
        match key.as_str() {
            "mtu" | "metric" => drop(parsed::<u32>(key, value)?),
            "no_default_route" => flag(key, value)?,
            "isolate" => isolate(value)?,
            "vlan" => bridge.checked &= vlan(key, value)? == 0,
            "vrf" => vrf(key, value)?,
            "outbound_addr4" => drop(parsed::<Ipv4Addr>(key, value)?),
            "outbound_addr6" => drop(parsed::<Ipv6Addr>(key, value)?),
            "mode" => match value.as_str() {
                "" | "managed" => {}
                "unmanaged" => bridge.managed = false,
                _ => return Err(mode("bridge", value, "managed or unmanaged")),
            },
            _ => return Err(unknown("bridge", key)),
        }
    }
    bridge.checked &= bridge.managed;
    Ok(bridge)
}

/// Checks the options of a macvlan or ipvlan network.
///
/// # Errors
/// One is unknown, or its value is none.
pub fn sublink(network: &mut Network) -> Result<(), CreateError> {
    let driver = network.driver.clone();
    let macvlan = driver == "macvlan";
    let (modes, expected): (&[&str], _) = if macvlan {
        let expected = "bridge, private, vepa, passthru or source";
        (
            &["", "bridge", "private", "vepa", "passthru", "source"],
            expected,
        )
    } else {
        (&["", "l2", "l3", "l3s"], "l2, l3 or l3s")
    };
    for (key, value) in network.options.iter_mut().flatten() {
        match key.as_str() {
            "mtu" | "metric" => drop(parsed::<u32>(key, value)?),
            "no_default_route" => flag(key, value)?,
            "bclim" if macvlan => drop(parsed::<i32>(key, value)?),
            "mode" if modes.contains(&value.as_str()) => {}
            "mode" => return Err(mode(&driver, value, expected)),
            _ => return Err(unknown("vlan", key)),
        }
    }
    Ok(())
}

fn unknown(drivers: &'static str, key: &str) -> CreateError {
    let key = key.to_owned();
    CreateError::UnknownOption { drivers, key }
}

fn mode(driver: &str, mode: &str, expected: &'static str) -> CreateError {
    CreateError::Mode {
        driver: driver.to_owned(),
        mode: mode.to_owned(),
        expected,
    }
}

fn wrong(key: &str, why: impl Display) -> CreateError {
    CreateError::Option {
        key: key.to_owned(),
        why: why.to_string(),
    }
}

fn parsed<T: FromStr<Err: Display>>(key: &str, value: &str) -> Result<T, CreateError> {
    value.parse().map_err(|why| wrong(key, why))
}

fn vlan(key: &str, value: &str) -> Result<u32, CreateError> {
    match parsed(key, value)? {
        number @ 0..=4094 => Ok(number),
        _ => Err(CreateError::Vlan),
    }
}

/// `setup` names the device in rules, where some characters mean something else.
fn vrf(key: &str, value: &str) -> Result<(), CreateError> {
    let name: InterfaceName = parsed(key, value)?;
    if name.as_str().contains(['*', '"', '\\']) {
        return Err(wrong(
            key,
            format_args!("\"{name}\" must not contain \"*\", \"\\\"\" and \"\\\\\""),
        ));
    }
    Ok(())
}

/// The truth value that a text of Go's `strconv.ParseBool` stands for, or no text at all.
fn truth(value: &str) -> Option<bool> {
    match value {
        "" | "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn flag(key: &str, value: &mut String) -> Result<(), CreateError> {
    match truth(value) {
        Some(is_set) => *value = is_set.to_string(),
        None => drop(parsed::<bool>(key, value)?),
    }
    Ok(())
}

fn isolate(value: &mut String) -> Result<(), CreateError> {
    match truth(value) {
        Some(is_set) => *value = is_set.to_string(),
        None if value == "strict" => {}
        None => return Err(CreateError::Isolate(value.clone())),
    }
    Ok(())
}
