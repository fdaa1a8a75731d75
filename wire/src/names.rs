//! Names that end up as file names, kernel objects or link-layer addresses: checked once, here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a usable name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text has more bytes than the kernel or the file system takes.
    #[error("\"{text}\" has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// What was given.
        text: String,
        /// Its length in bytes.
        length: usize,
        /// The longest that is accepted, in bytes.
        limit: usize,
    },
    /// The text is `.` or `..`, or has a character that is not allowed.
    #[error("\"{text}\" must {rule}")]
    Characters {
        /// What was given.
        text: String,
        /// What would be accepted.
        rule: &'static str,
    },
    /// The text is not six hexadecimal octets.
    #[error("\"{0}\" is not a MAC address, expected six octets such as 92:d0:c6:0a:29:33")]
    Mac(String),
}

fn checked(
    text: &str,
    limit: usize,
    rule: &'static str,
    reserved: &[&str],
    allowed: impl Fn(char) -> bool,
) -> Result<String, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong {
            text: text.to_owned(),
            length: text.len(),
            limit,
        });
    }
    if text == "." || text == ".." || reserved.contains(&text) || !text.chars().all(allowed) {
        return Err(NameError::Characters {
            text: text.to_owned(),
            rule,
        });
    }
    Ok(text.to_owned())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $limit:expr, $rule:expr, $reserved:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                checked(text, $limit, $rule, &$reserved, $allowed).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a network: free text that is also the name of its zone file.
    ///
    /// 250 bytes leave room for the `%int` of internal networks within the 255 of a file name. Beside the
    /// zone files lies the pid file of their server.
    NetworkName,
    250,
    "be text without \"/\", \"%\" and control characters, other than \"aardvark.pid\"",
    ["aardvark.pid"],
    |c| c != '/' && c != '%' && !c.is_control()
);
name!(
    /// The id of a network, 64 hexadecimal digits when Podman made it.
    NetworkId,
    128,
    "match [A-Za-z0-9_.-]+",
    [],
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
);
name!(
    /// The id of a container, 64 hexadecimal digits when Podman made it.
    ContainerId,
    128,
    "match [A-Za-z0-9_.-]+",
    [],
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
);
name!(
    /// The name of a network interface, as the kernel takes it (`dev_valid_name`, net/core/dev.c), except
    /// for `%`: of a name with `%d` the kernel makes another one, which nobody would know.
    InterfaceName,
    15,
    "be text without \"/\", \":\", \"%\", white space and control characters",
    [],
    |c| !matches!(c, '/' | ':' | '%') && !c.is_whitespace() && !c.is_control()
);

/// A link-layer address of six octets, in the order of transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// A locally administered unicast address made of six octets of entropy (IEEE 802, 8.2).
    #[must_use]
    pub fn local(entropy: [u8; 6]) -> Self {
        let [first, rest @ ..] = entropy;
        let [a, b, c, d, e] = rest;
        Self([(first & 0xfc) | 0x02, a, b, c, d, e])
    }
}

impl FromStr for MacAddr {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Mac(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(wrong)?;
            let digits =
                (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            *octet = u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| digits)
                .ok_or_else(wrong)?;
        }
        if parts.next().is_some() {
            Err(wrong())
        } else {
            Ok(Self(octets))
        }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for text in ["", ".", "..", "a/b", "../x", "a\0b", "n%int"] {
            assert!(text.parse::<NetworkName>().is_err(), "{text:?}");
        }
        for text in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(text.parse::<ContainerId>().is_err(), "{text:?}");
        }
        assert!("my net.1".parse::<NetworkName>().is_ok());
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        assert!("eth0".parse::<InterfaceName>().is_ok());
        assert!("a23456789012345".parse::<InterfaceName>().is_ok());
        for text in [
            "",
            "a234567890123456",
            "a b",
            "a:b",
            "a/b",
            "..",
            "a\n",
            "br%d",
        ] {
            assert!(text.parse::<InterfaceName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn mac_addresses_in_both_spellings() {
        let mac = MacAddr([0x92, 0xd0, 0xc6, 0x0a, 0x29, 0x33]);
        assert_eq!("92:d0:c6:0a:29:33".parse(), Ok(mac));
        assert_eq!("92-D0-C6-0a-29-33".parse(), Ok(mac));
        assert_eq!(mac.to_string(), "92:d0:c6:0a:29:33");
        for text in [
            "",
            "92:d0:c6:0a:29",
            "92:d0:c6:0a:29:33:44",
            "92:d0:c6:0a:29:+3",
            "92:d0:c6:0a:29:033",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text:?}");
        }
    }
}
