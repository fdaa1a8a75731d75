//! The zone file: one per network, written by the network backend, read by the DNS responder.
//!
//! ```text
//! file  = header LF *( entry LF )
//! header = listen *("," listen) [ " " server *("," server) ]
//! entry  = id " " [v4 *("," v4)] " " [v6 *("," v6)] " " [name *("," name)] [ " " server *("," server) ]
//! ```
//! One space separates columns; an empty column is two spaces in a row. The file of an internal network
//! carries `%int` behind the network's name.
//!
//! [`Zone`] is the whole file as one value, for whoever writes it. [`scan`] reads it line by line without
//! copying, and goes on after lines that it does not understand, for whoever has to serve the rest.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::names::{ContainerId, NetworkName};

pub mod scan;

/// The name of the zone file of a network.
#[must_use]
pub fn file_name(network: &NetworkName, internal: bool) -> String {
    if internal {
        format!("{network}%int")
    } else {
        network.to_string()
    }
}

/// The first line of a zone file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The addresses to answer on; never empty.
    pub listen: Vec<IpAddr>,
    /// The resolvers of the network.
    pub servers: Vec<IpAddr>,
}

/// A container in a zone file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The container.
    pub id: ContainerId,
    /// Its IPv4 addresses on this network.
    pub ipv4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses on this network.
    pub ipv6: Vec<Ipv6Addr>,
    /// Its names, see [`usable_name`].
    pub names: Vec<String>,
    /// Its own resolvers.
    pub servers: Vec<IpAddr>,
}

/// A whole zone file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its first line.
    pub header: Header,
    /// Its containers, in the order of the file.
    pub entries: Vec<Entry>,
}

/// Why a text is not a zone file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ZoneError {
    /// There is no first line.
    #[error("no header line")]
    NoHeader,
    /// A column does not hold what it should.
    #[error("line {line}: {column}: \"{text}\" is not valid")]
    Column {
        /// Counted from 1.
        line: usize,
        /// What the column is for.
        column: &'static str,
        /// What it holds.
        text: String,
    },
    /// An entry has too few columns.
    #[error("line {line}: {found} columns, at least 4 are needed")]
    Columns {
        /// Counted from 1.
        line: usize,
        /// How many there are.
        found: usize,
    },
}

/// Whether a name can stand in a zone file: not empty, without the separators and other characters that
/// no name has.
#[must_use]
pub fn usable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| matches!(c, ',' | ' ') || c.is_control())
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            f.write_char(',')?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.listen)?;
        if !self.servers.is_empty() {
            f.write_char(' ')?;
            list(f, &self.servers)?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.id)?;
        list(f, &self.ipv4)?;
        f.write_char(' ')?;
        list(f, &self.ipv6)?;
        f.write_char(' ')?;
        list(f, &self.names)?;
        if !self.servers.is_empty() {
            f.write_char(' ')?;
            list(f, &self.servers)?;
        }
        Ok(())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.header)?;
        self.entries
            .iter()
            .try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

/// What is left of a zone file's text when the lines of a container are taken out: the new text, or
/// nothing when only the header would remain. Lines that cannot be read are kept as they are.
#[must_use]
pub fn without(text: &str, container: &ContainerId) -> Option<String> {
    let mut lines = text.lines();
    let header = lines.next()?;
    let kept: Vec<&str> = lines
        .filter(|line| !line.is_empty() && line.split(' ').next() != Some(container.as_str()))
        .collect();
    if kept.is_empty() {
        return None;
    }
    let mut rest = String::with_capacity(text.len());
    for line in std::iter::once(header).chain(kept) {
        rest.push_str(line);
        rest.push('\n');
    }
    Some(rest)
}

/// The text of a zone file with other resolvers of the network, and nothing more in its first line: a
/// reader that knows no extensions would refuse the file for what follows an empty column. Other lines are
/// kept as they are.
///
/// # Errors
/// There is no first line, or it names no address to answer on.
pub fn with_servers(text: &str, servers: &[IpAddr]) -> Result<(Header, String), ZoneError> {
    let (number, first) = text
        .lines()
        .enumerate()
        .find(|(_, line)| !line.is_empty())
        .ok_or(ZoneError::NoHeader)?;
    let listen = first.split(' ').next().unwrap_or_default();
    let header = Header {
        listen: column(number + 1, "listen address", listen)?,
        servers: servers.to_vec(),
    };
    if header.listen.is_empty() {
        return Err(ZoneError::NoHeader);
    }
    let mut rest = format!("{header}\n");
    for line in text.lines().skip(number + 1) {
        rest.push_str(line);
        rest.push('\n');
    }
    Ok((header, rest))
}

fn column<T: std::str::FromStr>(
    line: usize,
    column: &'static str,
    text: &str,
) -> Result<Vec<T>, ZoneError> {
    let parse = |item: &str| {
        item.parse().map_err(|_| ZoneError::Column {
            line,
            column,
            text: item.to_owned(),
        })
    };
    text.split(',')
        .filter(|_| !text.is_empty())
        .map(parse)
        .collect()
}

impl std::str::FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(n, line)| (n + 1, line))
            .filter(|(_, line)| !line.is_empty());
        let (number, first) = lines.next().ok_or(ZoneError::NoHeader)?;
        let mut columns = first.split(' ');
        let header = Header {
            listen: column(number, "listen address", columns.next().unwrap_or_default())?,
            servers: column(
                number,
                "network DNS server",
                columns.next().unwrap_or_default(),
            )?,
        };
        if header.listen.is_empty() {
            return Err(ZoneError::NoHeader);
        }
        let entries = lines
            .map(|(number, line)| entry(number, line))
            .collect::<Result<_, _>>()?;
        Ok(Self { header, entries })
    }
}

fn entry(line: usize, text: &str) -> Result<Entry, ZoneError> {
    let columns: Vec<&str> = text.split(' ').collect();
    let [id, ipv4, ipv6, names, rest @ ..] = columns.as_slice() else {
        return Err(ZoneError::Columns {
            line,
            found: columns.len(),
        });
    };
    let servers = if let [servers] = rest {
        column(line, "DNS server", servers)?
    } else {
        Vec::new()
    };
    Ok(Entry {
        id: id.parse().map_err(|_| ZoneError::Column {
            line,
            column: "container id",
            text: (*id).to_owned(),
        })?,
        ipv4: column(line, "IPv4 address", ipv4)?,
        ipv6: column(line, "IPv6 address", ipv6)?,
        names: names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        servers,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZONE: &str = "10.89.0.1,fd10:88:a::1 8.8.8.8,1.1.1.1\n\
        f352 10.89.0.2 fd10:88:a::2 web,f35256b5e2f7 9.9.9.9\n\
        e5df 10.89.0.3  db,primary\n\
        7b46  fd10:88:a::9 only-v6\n";

    #[test]
    fn reads_and_writes_the_same_text() {
        let zone: Zone = ZONE.parse().unwrap();
        assert_eq!(zone.header.listen.len(), 2);
        assert_eq!(zone.entries[1].names, ["db", "primary"]);
        assert!(zone.entries[2].ipv4.is_empty());
        assert_eq!(zone.to_string(), ZONE);
    }

    #[test]
    fn only_whole_ids_are_taken_out() {
        let id = |text: &str| text.parse::<ContainerId>().unwrap();
        assert_eq!(without(ZONE, &id("f35")).as_deref(), Some(ZONE));
        let rest = without(ZONE, &id("f352")).unwrap();
        assert_eq!(rest.lines().count(), 3);
        let rest = without(&rest, &id("e5df")).unwrap();
        assert_eq!(without(&rest, &id("7b46")), None);
        assert_eq!(without("", &id("7b46")), None);
    }

    #[test]
    fn resolvers_of_the_network_are_replaced_and_nothing_else() {
        let servers = |text: &str| -> Vec<IpAddr> {
            text.split_whitespace()
                .map(|server| server.parse().unwrap())
                .collect()
        };
        let (header, text) = with_servers(ZONE, &servers("9.9.9.9 2620:fe::fe")).unwrap();
        assert_eq!(header.servers.len(), 2);
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, "10.89.0.1,fd10:88:a::1 9.9.9.9,2620:fe::fe");
        assert_eq!(rest, ZONE.split_once('\n').unwrap().1);
        let (_, text) = with_servers(ZONE, &[]).unwrap();
        assert!(text.starts_with("10.89.0.1,fd10:88:a::1\nf352 "));
        let damaged = "10.0.0.1 x route=y@z\nno entry\n";
        let (_, text) = with_servers(damaged, &servers("1.1.1.1")).unwrap();
        assert_eq!(text, "10.0.0.1 1.1.1.1\nno entry\n");
        for text in ["", "\n\n", " 8.8.8.8\n"] {
            assert_eq!(
                with_servers(text, &[]),
                Err(ZoneError::NoHeader),
                "{text:?}"
            );
        }
        assert!(with_servers("10.0.0.x\n", &[]).is_err());
    }

    #[test]
    fn wrong_lines_are_named() {
        let error = |text: &str| text.parse::<Zone>().unwrap_err().to_string();
        assert_eq!(error("\n"), "no header line");
        assert_eq!(
            error("10.0.0.1\nabc 10.0.0.2"),
            "line 2: 2 columns, at least 4 are needed"
        );
        assert_eq!(
            error("10.0.0.1\nabc 10.0.0.x  n"),
            "line 2: IPv4 address: \"10.0.0.x\" is not valid"
        );
    }

    proptest! {
        #[test]
        fn every_zone_survives_the_round_trip(
            listen in prop::collection::vec(any::<IpAddr>(), 1..3),
            servers in prop::collection::vec(any::<IpAddr>(), 0..3),
            ipv4 in prop::collection::vec(any::<Ipv4Addr>(), 0..3),
            ipv6 in prop::collection::vec(any::<Ipv6Addr>(), 0..3),
            names in prop::collection::vec("[a-z0-9._-]{1,12}", 0..4),
        ) {
            let entry = Entry { id: "c1".parse().unwrap(), ipv4, ipv6, names, servers: servers.clone() };
            let zone = Zone { header: Header { listen, servers }, entries: vec![entry] };
            prop_assert_eq!(zone.to_string().parse::<Zone>(), Ok(zone));
        }
    }
}
