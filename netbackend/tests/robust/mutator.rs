//! Makes bad documents out of good ones, always the same ones for the same seed.

use serde_json::{Map, Value, json};

/// A small generator (SplitMix64); what matters is that it repeats.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A document that may be bad in a few places.
pub(crate) fn mutate(seeds: &[Value], random: &mut Random) -> Vec<u8> {
    let mut document = random.one_of(seeds).clone();
    for _ in 0..=random.below(4) {
        let depth = random.below(6) + 1;
        change(&mut document, depth, seeds, random);
    }
    let mut bytes = document.to_string().into_bytes();
    if random.below(8) == 0 {
        damage(&mut bytes, random);
    }
    bytes
}

/// Bytes that may be bad in a few places, with parts of others.
pub(crate) fn mutate_bytes(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.one_of(seeds).clone();
    for _ in 0..random.below(5) {
        let place = random.below(bytes.len()) + 1;
        let place = place.min(bytes.len() - 1);
        match random.below(8) {
            0 => bytes.truncate(place.max(2)),
            1 => bytes.insert(place, *random.one_of(&[0, 1, 4, 16, 127, 128, 255])),
            2 => drop(bytes.remove(place)),
            3 => {
                let other = random.one_of(seeds);
                let from = random.below(other.len());
                let length = random.below(other.len() - from) + 1;
                bytes.splice(place..place, other[from..from + length].iter().copied());
            }
            4 => bytes.extend(vec![*random.one_of(&[0, 53, 255]); random.below(600)]),
            5 => bytes[place] = *random.one_of(&[0, 1, 4, 16, 127, 128, 255]),
            _ => bytes[place] ^= 1 << random.below(8),
        }
        if bytes.len() < 2 {
            break;
        }
    }
    bytes
}

/// Walks down to some place and changes it.
fn change(value: &mut Value, depth: usize, seeds: &[Value], random: &mut Random) {
    let here = depth == 0;
    match value {
        Value::Object(members) if !here && !members.is_empty() => {
            let key = nth_key(members, random.below(members.len()));
            match random.below(12) {
                0 => drop(members.remove(&key)),
                1 => {
                    let member = members.get(&key).cloned().unwrap_or_default();
                    members.insert(hostile_text(random), member);
                }
                2 => {
                    let member = members.remove(&key).unwrap_or_default();
                    members.insert(hostile_text(random), member);
                }
                _ => change(&mut members[&key], depth - 1, seeds, random),
            }
        }
        Value::Array(items) if !here && !items.is_empty() => {
            let index = random.below(items.len());
            match random.below(8) {
                0 => drop(items.remove(index)),
                1 => {
                    let item = items[index].clone();
                    items.resize(items.len() + random.below(40), item);
                }
                2 => items.reverse(),
                _ => change(&mut items[index], depth - 1, seeds, random),
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => *value = hostile(value, seeds, random),
    }
}

fn nth_key(members: &Map<String, Value>, index: usize) -> String {
    members.keys().nth(index).cloned().unwrap_or_default()
}

/// Something else in the place of a value; often of its own type, so that the rules behind the types are met, too.
fn hostile(value: &Value, seeds: &[Value], random: &mut Random) -> Value {
    let plausible = [
        "",
        "0.0.0.0",
        "::",
        "::1",
        "127.0.0.1",
        "10.88.0.1",
        "10.88.0.2",
        "255.255.255.255",
        "224.0.0.1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "10.0.0.0/0",
        "::/0",
        "10.88.0.0/32",
        "10.88.0.0/31",
        "fd00::/128",
        "fd00::/64",
        "0.0.0.0/0",
        "true",
        "strict",
        "false",
        "unmanaged",
        "managed",
        "none",
        "dhcp",
        "host-local",
        "bridge",
        "macvlan",
        "ipvlan",
        "plugin",
        "../plugin",
        "up0",
        "passthru",
        "private",
        "vepa",
        "source",
        "l2",
        "l3s",
        "-1",
        "tcp",
        "udp",
        "sctp",
        "blackhole",
        "prohibit",
        "unreachable",
        "unicast",
        "lo",
        "all",
        "default",
        "eth0",
        "4094",
        "4095",
        "1",
        "0",
        "65535",
        "-1",
        "02:00:00:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "1.2.3.4:5",
        "10.88.0.0/33",
        "interface_accept",
    ];
    let options = [
        "mtu",
        "metric",
        "isolate",
        "vlan",
        "vrf",
        "mode",
        "no_default_route",
        "host_interface_name",
        "outbound_addr4",
        "outbound_addr6",
        "bclim",
        "com.docker.network.driver.mtu",
        "driver",
    ];
    match random.below(14) {
        0..4 => json!(random.one_of(&plausible)),
        4 => json!(hostile_text(random)),
        5 => hostile_number(random),
        6 => random
            .one_of(&[
                json!(null),
                json!(true),
                json!(false),
                json!([]),
                json!({}),
                json!([[]]),
                json!({ "": {} }),
            ])
            .clone(),
        7 => json!({ *random.one_of(&options): random.one_of(&plausible) }),
        8 => json!([random.one_of(&plausible), random.one_of(&plausible)]),
        9 => nested(random.below(300)),
        10 => any_part(random.one_of(seeds), random).clone(),
        11 => json!({ "subnet": random.one_of(&plausible), "gateway": random.one_of(&plausible) }),
        12 => {
            json!({ "destination": random.one_of(&plausible), "gateway": random.one_of(&plausible), "metric": hostile_number(random) })
        }
        _ => match value {
            Value::Number(_) => hostile_number(random),
            Value::Bool(value) => json!(!value),
            Value::String(text) => json!(format!("{text}{}", random.one_of(&plausible))),
            Value::Null | Value::Array(_) | Value::Object(_) => Value::Null,
        },
    }
}

fn hostile_text(random: &mut Random) -> String {
    let texts = [
        "../../etc/passwd",
        "/",
        "..",
        ".",
        "a/b",
        "a%int",
        "a\0b",
        "\u{7f}",
        "\n",
        "a b",
        "a,b",
        "é",
        "\u{202e}",
        "$(reboot)",
        "'; --",
        "\"",
        "\\",
        "{",
        "}",
        "podman0\u{0}",
        "aardvark.pid",
        "-x",
        "0",
        "lock",
        "journal",
        "network",
        "members",
        "a:b",
        "%s%n",
        "*",
    ];
    match random.below(8) {
        0 => "x".repeat(random.below(20_000)),
        1 => random.one_of(&texts).repeat(random.below(30)),
        _ => (*random.one_of(&texts)).to_owned(),
    }
}

fn hostile_number(random: &mut Random) -> Value {
    let numbers = [
        json!(0),
        json!(-1),
        json!(1),
        json!(53),
        json!(80),
        json!(65_535),
        json!(65_536),
        json!(4_294_967_295_u64),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(1e300),
        json!(-0.0),
        json!(32_768),
        json!(8080),
    ];
    random.one_of(&numbers).clone()
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, level| {
        if level % 2 == 0 {
            json!([inner])
        } else {
            json!({ "a": inner })
        }
    })
}

fn any_part<'a>(value: &'a Value, random: &mut Random) -> &'a Value {
    let inner: Vec<&Value> = match value {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    if inner.is_empty() || random.below(4) == 0 {
        value
    } else {
        any_part(inner[random.below(inner.len())], random)
    }
}

/// Bytes that are no JSON any more, or none that was meant.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let place = random.below(bytes.len().max(1));
    match random.below(6) {
        0 => bytes.truncate(place),
        1 => bytes.insert(place, 0xff),
        2 => bytes.insert(place, 0),
        3 => bytes.extend_from_slice(b" {}"),
        4 => {
            let deep = b"[".repeat(random.below(100_000));
            bytes.splice(place..place, deep);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}
