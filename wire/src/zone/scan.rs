//! A zone file read line by line.
//!
//! One bad line takes only itself away: it is yielded as an error, and reading goes on. Only a file without a
//! header is of no use. Bytes that are not UTF-8 make a line bad.
//!
//! Columns beyond those of the format are extensions, `key=value`, in a header and in entries:
//!
//! ```text
//! 10.89.0.1 8.8.8.8 route=corp.example@10.1.1.1+10.1.1.2
//! f352 10.89.0.2  web 9.9.9.9
//! f352   web  srv=_http._tcp:8080 route=corp.example@10.1.1.1+10.1.1.2
//! ```
//!
//! Readers that do not know extensions (aardvark-dns) ignore them, but not only them: an entry of more than five
//! columns loses its servers there, and a header whose column of servers is empty is an error, for which the whole
//! file is rejected. So whoever writes extensions best writes them to lines of their own, as in the last line: without
//! addresses such a line means nothing to those readers, and it goes with the other lines of its container. Those who
//! rewrite headers (`netavark update`) keep no extensions there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use memchr::memchr;

use super::{Header, ZoneError, column};

/// Whether a file looks as if somebody were still writing it: it is empty, or ends within a line.
#[must_use]
pub fn is_unfinished(text: &[u8]) -> bool {
    text.last() != Some(&b'\n')
}

/// A zone file whose header has been read.
#[derive(Debug, Clone)]
pub struct Scan<'a> {
    /// Its first line.
    pub header: Header,
    /// What follows the known columns of the header.
    pub extensions: &'a str,
    /// The entries.
    pub lines: Lines<'a>,
}

/// Lines with entries.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
}

/// Lines from the middle of a file, of which the first has this number.
#[must_use]
pub fn lines(text: &[u8], first: usize) -> Lines<'_> {
    Lines {
        rest: text,
        number: first.saturating_sub(1),
    }
}

/// An entry in its columns. They stay text until [`Line::read`] is called.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Counted from 1.
    pub number: usize,
    /// The container, as it is written.
    pub id: &'a str,
    /// What follows the known columns.
    pub extensions: &'a str,
    ipv4: &'a str,
    ipv6: &'a str,
    names: &'a str,
    servers: &'a str,
}

/// The addresses in a line; memory that is used again for every line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Its IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
    /// Its own resolvers.
    pub servers: Vec<IpAddr>,
}

impl<'a> Line<'a> {
    /// Reads the addresses.
    ///
    /// # Errors
    /// One of them is none: the whole line is of no use.
    pub fn read(&self, addresses: &mut Addresses) -> Result<(), ZoneError> {
        let Addresses {
            ipv4,
            ipv6,
            servers,
        } = addresses;
        read(self.number, "IPv4 address", self.ipv4, ipv4)?;
        read(self.number, "IPv6 address", self.ipv6, ipv6)?;
        read(self.number, "DNS server", self.servers, servers)
    }

    /// Its names, without empty ones.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.names.split(',').filter(|item| !item.is_empty())
    }
}

fn read<T: FromStr>(
    number: usize,
    column: &'static str,
    text: &str,
    items: &mut Vec<T>,
) -> Result<(), ZoneError> {
    items.clear();
    if text.is_empty() {
        return Ok(());
    }
    for item in text.split(',') {
        items.push(item.parse().map_err(|_| wrong(number, column, item))?);
    }
    Ok(())
}

/// Splits off the header.
///
/// # Errors
/// There is none, or it is not valid.
pub fn scan(text: &[u8]) -> Result<Scan<'_>, ZoneError> {
    let mut rest = text;
    let mut number = 0;
    let line = next_line(&mut rest, &mut number).ok_or(ZoneError::NoHeader)?;
    let line = utf8(line, number)?;
    let (listen, more) = line.split_once(' ').unwrap_or((line, ""));
    let (servers, extensions) = more.split_once(' ').unwrap_or((more, ""));
    let header = Header {
        listen: column(number, "listen address", listen)?,
        servers: column(number, "network DNS server", servers)?,
    };
    if header.listen.is_empty() {
        return Err(ZoneError::NoHeader);
    }
    Ok(Scan {
        header,
        extensions,
        lines: Lines { rest, number },
    })
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, ZoneError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = next_line(&mut self.rest, &mut self.number)?;
        Some(utf8(line, self.number).and_then(|text| entry(self.number, text)))
    }
}

/// The next line that is not empty.
fn next_line<'a>(rest: &mut &'a [u8], number: &mut usize) -> Option<&'a [u8]> {
    while !rest.is_empty() {
        let end = memchr(b'\n', rest);
        let (line, after) = end.map_or((*rest, &[][..]), |end| (&rest[..end], &rest[end + 1..]));
        *rest = after;
        *number += 1;
        if !line.is_empty() {
            return Some(line);
        }
    }
    None
}

fn utf8(line: &[u8], number: usize) -> Result<&str, ZoneError> {
    str::from_utf8(line).map_err(|_| ZoneError::Column {
        line: number,
        column: "text",
        text: String::from_utf8_lossy(line).into_owned(),
    })
}

fn entry(number: usize, text: &str) -> Result<Line<'_>, ZoneError> {
    let columns = || {
        let (id, rest) = split(text)?;
        let (ipv4, rest) = split(rest)?;
        let (ipv6, rest) = split(rest)?;
        Some((id, ipv4, ipv6, rest))
    };
    let Some((id, ipv4, ipv6, rest)) = columns() else {
        return Err(ZoneError::Columns {
            line: number,
            found: text.split(' ').count(),
        });
    };
    let (names, more) = split(rest).unwrap_or((rest, ""));
    // A fifth column counts if it is the last one, or if all that follow are extensions.
    let (servers, extensions) = match split(more) {
        None => (more, ""),
        Some((servers, rest)) if rest.split(' ').all(is_extension) => (servers, rest),
        Some(_) => ("", ""),
    };
    if id.is_empty() {
        return Err(wrong(number, "container id", id));
    }
    Ok(Line {
        number,
        id,
        extensions,
        ipv4,
        ipv6,
        names,
        servers,
    })
}

/// What is before and behind the next space.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = memchr(b' ', text.as_bytes())?;
    Some((&text[..end], &text[end + 1..]))
}

fn is_extension(column: &str) -> bool {
    column
        .split_once('=')
        .is_some_and(|(key, _)| !key.is_empty())
}

fn wrong(line: usize, column: &'static str, text: &str) -> ZoneError {
    ZoneError::Column {
        line,
        column,
        text: text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::zone::Zone;

    #[test]
    fn a_bad_line_takes_only_itself_away() {
        let text = b"10.89.0.1 8.8.8.8\na 10.89.0.2  web\nb 10.89.0.x  bad\nc short\n\xff\xfe\n\nd 10.89.0.3  db 9.9.9.9\n";
        let scan = scan(text).unwrap();
        assert_eq!(scan.header.servers.len(), 1);
        let mut addresses = Addresses::default();
        let lines: Vec<_> = scan
            .lines
            .map(|line| line.and_then(|line| line.read(&mut addresses).map(|()| line.number)))
            .collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines.iter().filter(|line| line.is_ok()).count(), 2);
        assert_eq!(lines[4], Ok(7));
        assert_eq!(addresses.servers.len(), 1);
    }

    #[test]
    fn the_fifth_column_counts_if_it_is_the_last_or_before_extensions() {
        let servers = |entry: &str| {
            let text = format!("10.0.0.1\n{entry}\n");
            let line = scan(text.as_bytes())
                .unwrap()
                .lines
                .next()
                .unwrap()
                .unwrap();
            let mut addresses = Addresses::default();
            line.read(&mut addresses).unwrap();
            (addresses.servers.len(), line.extensions.to_owned())
        };
        assert_eq!(servers("a 10.0.0.2  n"), (0, String::new()));
        assert_eq!(servers("a 10.0.0.2  n 9.9.9.9,8.8.8.8"), (2, String::new()));
        assert_eq!(servers("a 10.0.0.2  n 9.9.9.9 x"), (0, String::new()));
        assert_eq!(
            servers("a 10.0.0.2  n 9.9.9.9 srv=_a._tcp:1 b=c"),
            (1, "srv=_a._tcp:1 b=c".to_owned())
        );
    }

    #[test]
    fn a_carriage_return_makes_the_header_bad() {
        assert!(scan(b"10.0.0.1\r\na 10.0.0.2  n\n").is_err());
        assert!(scan(b"\n\n").is_err());
        assert!(scan(b"\n10.0.0.1").is_ok());
    }

    proptest! {
        #[test]
        fn nothing_crashes(text in prop::collection::vec(prop_oneof![Just(b' '), Just(b'\n'), Just(b','), Just(b'1'), Just(b'.'), any::<u8>()], 0..200)) {
            if let Ok(scan) = scan(&text) {
                prop_assert!(scan.lines.count() <= text.len());
            }
        }

        #[test]
        fn what_is_written_is_read(names in prop::collection::vec("[a-z0-9.-]{1,9}", 0..3), v4 in prop::collection::vec(any::<Ipv4Addr>(), 0..3)) {
            let text = format!("10.0.0.1\nid {} ::1 {}\n", v4.iter().map(ToString::to_string).collect::<Vec<_>>().join(","), names.join(","));
            let zone: Zone = text.parse().unwrap();
            let line = scan(text.as_bytes()).unwrap().lines.next().unwrap().unwrap();
            let mut addresses = Addresses::default();
            line.read(&mut addresses).unwrap();
            prop_assert_eq!(&zone.entries[0].ipv4, &addresses.ipv4);
            prop_assert_eq!(&zone.entries[0].names, &line.names().collect::<Vec<_>>());
        }
    }
}
