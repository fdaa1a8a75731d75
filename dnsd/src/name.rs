//! Names as they are compared: labels with their lengths, as in a message, in lower case, without the root.
//!
//! `web.dns.podman` is `\x03web\x03dns\x06podman`. What stands in a zone file is turned into this form once;
//! a question is in it already, but for its case.

use std::fmt::Write;

use hickory_proto::rr::Name;

/// The longest name, in bytes, without the byte of the root.
pub const LONGEST: usize = 254;

/// The key of a name that somebody wrote down. Nothing for names that no question can ask for.
#[must_use]
pub fn key(text: &str) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(text.len() + 1);
    write_key(text, &mut key).then_some(key)
}

/// Like [`key`], into memory that is there already. Says whether there is one.
pub fn write_key(text: &str, key: &mut Vec<u8>) -> bool {
    key.clear();
    if !text.is_ascii() {
        return write_labels(&text.to_lowercase(), key);
    }
    write_labels(text, key)
}

fn write_labels(text: &str, key: &mut Vec<u8>) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    for label in text.as_bytes().split(|byte| *byte == b'.') {
        let Some(length) = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length))
        else {
            return false;
        };
        key.push(length);
        key.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    key.len() <= LONGEST
}

/// The key of the form of a name with letters beyond ASCII that resolvers ask for (`xn--...`), if it is one.
#[must_use]
pub fn ascii_key(text: &str) -> Option<Vec<u8>> {
    if text.is_ascii() {
        return None;
    }
    let name = Name::from_utf8(text.to_lowercase()).ok()?;
    key(&name.to_ascii())
}

/// A key as text, for people: bytes that are not printable are escaped.
#[must_use]
pub fn text(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for label in labels(key) {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if byte.is_ascii_graphic() && *byte != b'\\' && *byte != b'.' {
                text.push(char::from(*byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\{byte:03}");
            }
        }
    }
    text
}

/// The labels of a key, first to last.
pub fn labels(key: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let mut found = Vec::with_capacity(8);
    let mut rest = key;
    while let Some((length, after)) = rest.split_first() {
        let length = usize::from(*length).min(after.len());
        found.push(&after[..length]);
        rest = &after[length..];
    }
    found.into_iter()
}

/// What stands before `suffix`, if the key ends with its labels.
#[must_use]
pub fn before<'a>(key: &'a [u8], suffix: &[u8]) -> Option<&'a [u8]> {
    let start = key.len().checked_sub(suffix.len())?;
    if &key[start..] != suffix {
        return None;
    }
    let mut at = 0;
    while at < start {
        at += usize::from(key[at]) + 1;
    }
    (at == start).then(|| &key[..start])
}

/// The key without its first label.
#[must_use]
pub fn parent(key: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*key.first()?);
    key.get(length + 1..)
}

/// The address that a reverse name (`2.0.89.10.in-addr.arpa`) stands for, if it is a full one.
#[must_use]
pub fn reverse_address(key: &[u8]) -> Option<std::net::IpAddr> {
    if let Some(digits) = before(key, b"\x07in-addr\x04arpa") {
        let mut octets = [0u8; 4];
        let mut rest = digits;
        for octet in octets.iter_mut().rev() {
            let (length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            *octet = decimal(label)?;
            rest = after;
        }
        return rest.is_empty().then(|| octets.into());
    }
    let digits = before(key, b"\x03ip6\x04arpa")?;
    let mut octets = [0u8; 16];
    if digits.len() != 64 {
        return None;
    }
    for (n, pair) in digits.chunks_exact(2).enumerate() {
        let [1, digit] = pair else { return None };
        let value = u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
        octets[15 - n / 2] |= value << (4 * (n % 2));
    }
    Some(octets.into())
}

/// A number from 0 to 255 without leading zeros.
fn decimal(label: &[u8]) -> Option<u8> {
    if label.len() > 3 || (label.len() > 1 && label[0] == b'0') {
        return None;
    }
    if !label.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(label).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_names_become_keys() {
        assert_eq!(key("Web").unwrap(), b"\x03web");
        assert_eq!(key("a.b.").unwrap(), b"\x01a\x01b");
        assert_eq!(key(""), None);
        assert_eq!(key("a..b"), None);
        assert_eq!(key(&"x".repeat(64)), None);
        assert_eq!(key(&"x.".repeat(128)), None);
        assert_eq!(ascii_key("b\u{fc}cher").unwrap(), b"\x0dxn--bcher-kva");
        assert_eq!(ascii_key("web"), None);
        assert_eq!(text(b"\x03we.\x01\x00"), "we\\046.\\000");
    }

    #[test]
    fn suffixes_end_at_labels() {
        let suffix = b"\x03dns\x06podman";
        assert_eq!(
            before(&key("web.dns.podman").unwrap(), suffix),
            Some(&b"\x03web"[..])
        );
        assert_eq!(before(&key("dns.podman").unwrap(), suffix), Some(&b""[..]));
        assert_eq!(before(&key("xdns.podman").unwrap(), suffix), None);
        assert_eq!(before(b"\x0e---\x03dns\x06podman", suffix), None);
    }

    #[test]
    fn reverse_names_are_addresses() {
        let address = |text: &str| reverse_address(&key(text).unwrap()).map(|a| a.to_string());
        assert_eq!(
            address("2.0.89.10.in-addr.arpa").as_deref(),
            Some("10.89.0.2")
        );
        assert_eq!(address("0.89.10.in-addr.arpa"), None);
        assert_eq!(address("1.2.0.89.10.in-addr.arpa"), None);
        assert_eq!(address("02.0.89.10.in-addr.arpa"), None);
        assert_eq!(address("256.0.89.10.in-addr.arpa"), None);
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.8.8.0.0.0.1.d.f.ip6.arpa";
        assert_eq!(address(v6).as_deref(), Some("fd10:88:a::2"));
        assert_eq!(address(&v6[2..]), None);
        assert_eq!(address("in-addr.arpa"), None);
    }
}
