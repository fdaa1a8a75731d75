//! What of a message reaches the decoder.
//!
//! `dhcproto` 0.15 panics on some malformed options (a status code shorter than two bytes, a route with a prefix longer
//! than 32 bits, and others), gives up a whole message for one text that is not UTF-8, and looks into options that
//! nobody has asked for. What comes from the network is passed through here first: only options that we use, of the
//! right shape, remain.

/// The fixed part of a DHCP message for IPv4 and the magic number.
const FIXED: usize = 240;
/// Place and value of the length of MAC addresses, which the decoder trusts.
const HLEN: (usize, u8) = (2, 6);
const PAD: u8 = 0;
const END: u8 = 255;

/// A message for IPv4 with sound options only; none if there is no whole message.
pub(super) fn v4(message: &[u8]) -> Option<Vec<u8>> {
    let (fixed, mut rest) = message.split_at_checked(FIXED)?;
    if fixed.get(HLEN.0) != Some(&HLEN.1) {
        return None;
    }
    let mut sound = fixed.to_vec();
    while let Some((&code, after)) = rest.split_first() {
        if code == END {
            break;
        }
        if code == PAD {
            rest = after;
            continue;
        }
        let (&length, after) = after.split_first()?;
        let (value, after) = after.split_at_checked(length.into())?;
        if is_sound4(code, value) {
            sound.extend([code, length]);
            sound.extend(value);
        }
        rest = after;
    }
    sound.push(END);
    Some(sound)
}

fn is_sound4(code: u8, value: &[u8]) -> bool {
    match code {
        // Message type.
        53 => value.len() == 1,
        // MTU.
        26 => value.len() == 2,
        // Mask, broadcast address, lifetime, server, T1, T2.
        1 | 28 | 51 | 54 | 58 | 59 => value.len() == 4,
        // Gateways, resolvers, time servers.
        3 | 6 | 42 => !value.is_empty() && value.len().is_multiple_of(4),
        // Host name and domain.
        12 | 15 => !value.is_empty() && std::str::from_utf8(value).is_ok(),
        121 => are_routes(value),
        _ => false,
    }
}

/// Prefix length, as many bytes of the destination as it takes, and the gateway (RFC 3442).
fn are_routes(mut value: &[u8]) -> bool {
    while let Some((&prefix, after)) = value.split_first() {
        let length = usize::from(prefix.div_ceil(8)) + 4;
        match after.get(length..) {
            Some(rest) if prefix <= 32 => value = rest,
            _ => return false,
        }
    }
    true
}

/// Where an option of IPv6 stands.
#[derive(Clone, Copy)]
enum Level {
    Message,
    Association,
    Address,
}

/// A message for IPv6 with sound options only; none if there is no whole message.
pub(super) fn v6(message: &[u8]) -> Option<Vec<u8>> {
    let (header, options) = message.split_at_checked(4)?;
    let mut sound = header.to_vec();
    sound.extend(options6(options, Level::Message)?);
    Some(sound)
}

fn options6(mut rest: &[u8], level: Level) -> Option<Vec<u8>> {
    let mut sound = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk::<4>()?;
        let [a, b, c, d] = *head;
        let (value, after) = after.split_at_checked(u16::from_be_bytes([c, d]).into())?;
        let code = u16::from_be_bytes([a, b]);
        if let Some(value) = sound6(code, value, level) {
            sound.extend([a, b]);
            sound.extend(u16::try_from(value.len()).ok()?.to_be_bytes());
            sound.extend(value);
        }
        rest = after;
    }
    Some(sound)
}

/// The value of an option, with sound options only if it holds others.
fn sound6(code: u16, value: &[u8], level: Level) -> Option<Vec<u8>> {
    let nested = |fixed: usize, level: Level| {
        let (fixed, options) = value.split_at_checked(fixed)?;
        Some([fixed, &options6(options, level)?].concat())
    };
    let is_sound = match (level, code) {
        (Level::Message, 3) => return nested(12, Level::Association),
        (Level::Association, 5) => return nested(24, Level::Address),
        // Client, server.
        (Level::Message, 1 | 2) => !value.is_empty(),
        // Preference.
        (Level::Message, 7) => value.len() == 1,
        // Status.
        (_, 13) => value.len() >= 2 && std::str::from_utf8(&value[2..]).is_ok(),
        // Resolvers.
        (Level::Message, 23) => !value.is_empty() && value.len().is_multiple_of(16),
        // Domains.
        (Level::Message, 24) => !value.is_empty(),
        (Level::Message, 56) => are_time_servers(value),
        _ => false,
    };
    is_sound.then(|| value.to_vec())
}

/// Addresses of time servers (RFC 5908): suboptions 1 and 2.
fn are_time_servers(value: &[u8]) -> bool {
    let (each, rest) = value.as_chunks::<20>();
    let is_one = |server: &[u8; 20]| matches!(server, [0, 1 | 2, 0, 16, ..]);
    !value.is_empty() && rest.is_empty() && each.iter().all(is_one)
}
