//! The few messages that are sent to ask: echo requests, and questions for an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The types of an echo and its reply, RFC 792 and RFC 4443.
const ECHO4: (u8, u8) = (8, 0);
const ECHO6: (u8, u8) = (128, 129);

/// Record types and the class of the Internet, RFC 1035 and RFC 3596.
const A: u16 = 1;
const AAAA: u16 = 28;
const IN: u16 = 1;

/// An echo request. The kernel fills in the checksum for IPv6, since it knows the addresses.
#[must_use]
pub fn echo(to: IpAddr, id: u16) -> Vec<u8> {
    let kind = if to.is_ipv4() { ECHO4.0 } else { ECHO6.0 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    message.extend(b"replay--");
    if to.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        if let Some(place) = message.get_mut(2..4) {
            place.copy_from_slice(&sum);
        }
    }
    message
}

/// Whether what a raw socket received is the reply to that request. With IPv4 the header comes with it.
#[must_use]
pub fn is_echo_reply(received: &[u8], to: IpAddr, id: u16) -> bool {
    let header = match received.first() {
        Some(first) if to.is_ipv4() => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let kind = if to.is_ipv4() { ECHO4.1 } else { ECHO6.1 };
    let message = received.get(header..).unwrap_or_default();
    message.first() == Some(&kind) && message.get(4..6) == Some(&id.to_be_bytes())
}

/// The Internet checksum, RFC 1071, of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks_exact(2).map(|pair| {
        let pair = pair.try_into().unwrap_or_default();
        u32::from(u16::from_be_bytes(pair))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// The question for the addresses of a name, of the family of this one. Nothing if it cannot be asked for.
#[must_use]
pub fn question(id: u16, name: &str, like: IpAddr) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    // Recursion is wanted; there is one question and nothing else.
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    let kind = if like.is_ipv4() { A } else { AAAA };
    message.extend(kind.to_be_bytes());
    message.extend(IN.to_be_bytes());
    Some(message)
}

/// The response code and the addresses of a reply to that question; nothing if it is another message, or torn.
#[must_use]
pub fn addresses(reply: &[u8], id: u16) -> Option<(u8, Vec<IpAddr>)> {
    let word = |at: usize| {
        let pair = reply.get(at..at + 2)?;
        Some(u16::from_be_bytes(pair.try_into().ok()?))
    };
    let is_reply = word(0)? == id && word(2)? & 0x8000 != 0;
    if !is_reply {
        return None;
    }
    let code = (word(2)? & 0x000f) as u8;
    let (questions, answers) = (word(4)?, word(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(reply, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = after_name(reply, at)?;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = reply.get(at + 10..at + 10 + length)?;
        match kind {
            A => found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            AAAA => found.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            _ => {}
        }
        at += 10 + length;
    }
    Some((code, found))
}

/// Where a name ends that begins here. What it refers to is not read.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length < 64 => at += 1 + usize::from(length),
            length if length >= 192 => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_and_their_replies() {
        let four = IpAddr::from([127, 0, 0, 1]);
        let sent = echo(four, 7);
        assert_eq!(checksum(&sent), 0, "the sum of a whole message is zero");
        let mut received = vec![0x45; 20];
        received.extend([0, 0, 1, 2, 0, 7, 0, 1]);
        assert!(is_echo_reply(&received, four, 7));
        assert!(!is_echo_reply(&received, four, 8));
        let six = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert!(is_echo_reply(&[129, 0, 0, 0, 0, 7], six, 7));
        assert!(!is_echo_reply(&echo(six, 7), six, 7), "our own request");
        assert!(!is_echo_reply(&[], six, 7));
    }

    #[test]
    fn a_reply_gives_its_addresses() {
        let four = IpAddr::from([10, 0, 0, 1]);
        let asked = question(9, "web.dns.podman", four).unwrap();
        assert_eq!(addresses(&asked, 9), None, "no reply");
        let mut reply = asked;
        reply[2] = 0x81;
        reply[7] = 2;
        let name = [0xc0, 12];
        for (kind, data) in [(5_u16, &b"\x01x\0"[..]), (A, &[10, 0, 0, 1])] {
            reply.extend(name);
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1, 0, 0, 0, 0]);
            reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            reply.extend(data);
        }
        assert_eq!(addresses(&reply, 9), Some((0, vec![four])));
        assert_eq!(addresses(&reply, 8), None);
        for length in 0..reply.len() {
            assert_eq!(addresses(&reply[..length], 9), None, "torn at {length}");
        }
        assert_eq!(question(1, "a..b", four), None);
        assert_eq!(question(1, &"x".repeat(64), four), None);
    }
}
