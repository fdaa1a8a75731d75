//! Zone files to tables: which files to read, and what they say.
//!
//! # When a file is read
//!
//! A file is known by its [`Stamp`]. It is read again when that changes. The kernel's clock for time stamps ticks
//! every few milliseconds, and files are rewritten in place: one that changed less than [`YOUNG`] before it was
//! read may change again without a new stamp, so it is read again at the next look.
//!
//! # Half-written files
//!
//! Writers truncate a file and write it line by line, or append a line. So a file that is empty or ends within
//! a line may not be finished, nor may one that is young and has fewer lines than before: what was known stays, and
//! the caller is asked to look again soon. When nothing was written for `PATIENCE` the file is taken as it is,
//! however often it was looked at; one that has just lost lines when it is not young any more. But what is taken is
//! never worse than nothing: without a header, or if it ends within a line and has lost others, as a full disk leaves
//! it, the network stays as it was until the file is written again or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use memchr::{memchr_iter, memmem};
use wire::zone::{ZoneError, scan};

use crate::name;
use crate::zones::{
    self, Builder, Collect, ContainerKey, Extender, Head, Network, Route, Service, Zones,
};

/// How long a file is young.
pub const YOUNG: Duration = Duration::from_millis(20);

/// When to look again at an unfinished file.
pub const PAUSE: Duration = Duration::from_millis(10);

/// How long after it was first seen, and after it was last written, to wait for an unfinished file to be finished.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long to wait at most, whatever is written meanwhile and whatever the clock does.
const LONGEST: Duration = Duration::from_millis(500);

/// A file that has grown by more than this is read from its beginning: so many times a name and an address would be
/// put into a table in which all behind them has to move.
const GROWTH: usize = 256;

/// Begins the extension that names servers for a domain, and is for the whole network.
const ROUTE: &str = "route=";

/// Problems that are listed for one file; more are only counted.
const PROBLEMS: usize = 8;

/// The identity of the content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields of stat")]
pub struct Stamp {
    pub inode: u64,
    pub size: u64,
    pub modified_ns: i128,
    pub changed_ns: i128,
}

/// What the files said when they were read last.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, File>,
    /// What is in the directory and is no zone file, as problems.
    skipped: Vec<String>,
}

#[derive(Debug, Default)]
struct File {
    stamp: Stamp,
    /// A hash of what was in it when the network was made.
    digest: u64,
    /// How many bytes that was.
    length: usize,
    /// The time of reading was too close to that of writing to rely on the stamp.
    young: bool,
    network: Option<Arc<Network>>,
    /// What is wrong with the lines that the network was made of.
    problems: Vec<String>,
    /// Why what is there now is of no use, if it is not what the network was made of.
    trouble: Vec<String>,
    /// When it was first seen unfinished, since it was last finished.
    unfinished: Option<i128>,
    lines: usize,
}

impl File {
    fn read(&mut self, name: &str, content: &[u8], lines: usize) -> Taken {
        let digest = zones::hash(content);
        self.trouble.clear();
        if self.digest == digest && self.network.is_some() {
            return Taken::Same;
        }
        let (network, problems) = match (&self.network, self.tail(content)) {
            (Some(old), Some(tail)) => {
                let (network, more) = extended(old, self.lines + 1, tail);
                let problems = self.problems.drain(..).chain(more);
                (Some(network), problems.take(PROBLEMS).collect())
            }
            _ => network(name, content),
        };
        let Some(network) = network else {
            self.trouble = problems;
            return Taken::Unusable;
        };
        (self.digest, self.length, self.lines) = (digest, content.len(), lines);
        (self.network, self.problems) = (Some(Arc::new(network)), problems);
        Taken::Changed
    }

    /// What the file has grown by, if that is all that has changed, and not much, and it says nothing about the network.
    fn tail<'a>(&self, content: &'a [u8]) -> Option<&'a [u8]> {
        let (before, tail) = content.split_at_checked(self.length)?;
        let little = links(tail) <= GROWTH && memmem::find(tail, ROUTE.as_bytes()).is_none();
        let same = little && before.ends_with(b"\n") && zones::hash(before) == self.digest;
        same.then_some(tail)
    }

    /// Whether more is to be written to it, as far as can be seen.
    fn may_grow(&mut self, age: i128, now_ns: i128, content: &[u8], lines: usize) -> bool {
        let young = age < ns(YOUNG);
        let cut = scan::is_unfinished(content) && (self.network.is_some() || young);
        let lost_lines = young && lines < self.lines;
        if !cut && !lost_lines {
            return false;
        }
        let waited = now_ns - *self.unfinished.get_or_insert(now_ns);
        (0..ns(LONGEST)).contains(&waited) && (waited < ns(PATIENCE) || age < ns(PATIENCE))
    }
}

fn ns(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// How many times there is at most a name and an address in one line, for all lines together.
fn links(lines: &[u8]) -> usize {
    let most = |line: &[u8]| (memchr_iter(b',', line).count() + 2).pow(2) / 4;
    lines.split(|byte| *byte == b'\n').map(most).sum()
}

/// What became of a file that was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Its content is served from the next snapshot on.
    Changed,
    /// It says what it said.
    Same,
    /// It is not finished: look again after [`PAUSE`].
    Unfinished,
    /// It is of no use; what was served before stays.
    Unusable,
}

impl Files {
    /// Whether a file has to be read.
    #[must_use]
    pub fn wants(&self, name: &str, stamp: Stamp) -> bool {
        let known = self.files.get(name);
        known.is_none_or(|file| file.young || file.stamp != stamp)
    }

    /// Takes the content of a file. `now_ns` is the time of reading, on the clock of the stamps.
    pub fn take(&mut self, name: &str, stamp: Stamp, now_ns: i128, content: &[u8]) -> Taken {
        let file = self.files.entry(name.to_owned()).or_default();
        let age = now_ns - stamp.modified_ns.max(stamp.changed_ns);
        let lines = count_lines(content);
        if file.may_grow(age, now_ns, content, lines) {
            file.young = true;
            return Taken::Unfinished;
        }
        file.unfinished = None;
        (file.stamp, file.young) = (stamp, age < ns(YOUNG));
        if scan::is_unfinished(content) && file.network.is_some() && lines < file.lines {
            let problem = "it ends within a line and has lost others: what was known stays";
            file.trouble = vec![problem.to_owned()];
            return Taken::Unusable;
        }
        file.read(name, content, lines)
    }

    /// Notes that a file is there and cannot be read. What was known stays; it is read when it can be.
    pub fn fail(&mut self, name: &str, problem: String) {
        let file = self.files.entry(name.to_owned()).or_default();
        file.trouble = vec![problem];
        file.young = true;
    }

    /// Notes what is in the directory and is no zone file.
    pub fn skip(&mut self, problems: Vec<String>) {
        self.skipped = problems;
    }

    /// Forgets a file that is gone. Says whether it was there.
    pub fn forget(&mut self, name: &str) -> bool {
        self.files.remove(name).is_some()
    }

    /// Forgets files that are gone. Says whether there were any.
    pub fn keep(&mut self, names: &BTreeSet<String>) -> bool {
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        self.files.len() != before
    }

    /// Whether no file is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What is wrong with the files, as `file: problem`.
    pub fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let of_files = self.files.iter().flat_map(|(name, file)| {
            let problems = match file.trouble.is_empty() {
                true => &file.problems,
                false => &file.trouble,
            };
            let named = move |problem| format!("{name}: {problem}");
            problems.iter().map(named)
        });
        of_files.chain(self.skipped.iter().cloned())
    }

    /// The snapshot of what is known now.
    #[must_use]
    pub fn zones(&self) -> Zones {
        Zones::new(
            self.files
                .values()
                .filter_map(|file| file.network.clone())
                .collect(),
        )
    }
}

/// The table of one file, and what is wrong with the file. There is none without a header.
#[must_use]
pub fn network(file_name: &str, content: &[u8]) -> (Option<Network>, Vec<String>) {
    let scan = match scan::scan(content) {
        Ok(scan) => scan,
        Err(error) => return (None, vec![error.to_string()]),
    };
    let (network_name, internal) = match file_name.strip_suffix("%int") {
        Some(network_name) => (network_name, true),
        None => (file_name, false),
    };
    let mut problems = Problems::default();
    let mut head = Head {
        name: network_name.into(),
        internal,
        listen: scan.header.listen.clone().into_boxed_slice(),
        servers: scan.header.servers.iter().map(|ip| server(*ip)).collect(),
        routes: Box::default(),
    };
    let mut routes = Vec::new();
    add_routes(&mut routes, scan.extensions, 1, &mut problems);
    let mut builder = Builder::with_room(count_lines(content));
    routes.extend(add_all(&mut builder, scan.lines, &mut problems));
    // The longest domain that matches counts, and of equal ones the first.
    let length = |route: &Route| std::cmp::Reverse(route.domain.len());
    routes.sort_by(|a, b| {
        length(a)
            .cmp(&length(b))
            .then_with(|| a.domain.cmp(&b.domain))
    });
    routes.dedup_by(|later, first| later.domain == first.domain);
    head.routes = routes.into_boxed_slice();
    (Some(builder.build(head)), problems.list())
}

/// The table of a file that has grown by some lines, of which the first has this number.
fn extended(old: &Network, number: usize, tail: &[u8]) -> (Network, Vec<String>) {
    let mut extender = Extender::of(old, count_lines(tail));
    let mut problems = Problems::default();
    // There are none about the network, see `File::tail`.
    add_all(&mut extender, scan::lines(tail, number), &mut problems);
    (extender.build(), problems.list())
}

fn count_lines(content: &[u8]) -> usize {
    memchr_iter(b'\n', content).count()
}

/// Says what the lines have for the whole network.
fn add_all<'a>(
    to: &mut impl Collect,
    lines: impl Iterator<Item = Result<scan::Line<'a>, ZoneError>>,
    problems: &mut Problems,
) -> Vec<Route> {
    let mut room = Room::default();
    for line in lines {
        let added = line.and_then(|line| add(to, &line, &mut room, problems));
        if let Err(error) = added {
            problems.add(|| error.to_string());
        }
    }
    room.routes
}

/// Memory that is used again for every line.
#[derive(Debug, Default)]
struct Room {
    addresses: scan::Addresses,
    names: Vec<u32>,
    key: Vec<u8>,
    servers: Vec<SocketAddr>,
    /// Not used again, but collected.
    routes: Vec<Route>,
}

fn add(
    builder: &mut impl Collect,
    line: &scan::Line<'_>,
    room: &mut Room,
    problems: &mut Problems,
) -> Result<(), ZoneError> {
    line.read(&mut room.addresses)?;
    room.names.clear();
    for text in line.names() {
        match name::write_key(text, &mut room.key) {
            true => room.names.push(builder.name(&room.key)),
            false => {
                problems.add(|| format!("line {}: nobody can ask for \"{text}\"", line.number));
            }
        }
        let ascii = name::ascii_key(text);
        room.names.extend(ascii.map(|key| builder.name(&key)));
    }
    let servers = room.addresses.servers.iter();
    room.servers.clear();
    room.servers.extend(servers.map(|address| server(*address)));
    let servers = builder.servers(&room.servers);
    let owner = ContainerKey::of(line.id);
    for address in &room.addresses.ipv4 {
        builder.host(owner, (*address).into(), &room.names, servers);
    }
    for address in &room.addresses.ipv6 {
        builder.host(owner, (*address).into(), &room.names, servers);
    }
    add_routes(&mut room.routes, line.extensions, line.number, problems);
    let extensions = line.extensions.split(' ').filter(|text| !text.is_empty());
    for extension in extensions {
        let services = extension
            .strip_prefix("srv=")
            .map(|text| services(text, line));
        match services {
            Some(Some(services)) => services
                .into_iter()
                .for_each(|service| builder.service(service)),
            Some(None) => problems.add(|| {
                format!(
                    "line {}: \"{extension}\" is not srv=_NAME._PROTOCOL:PORT",
                    line.number
                )
            }),
            None => {}
        }
    }
    Ok(())
}

/// `_http._tcp:8080` for every name of the container.
fn services(text: &str, line: &scan::Line<'_>) -> Option<Vec<Service>> {
    let (service, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let service = name::key(service).filter(|key| key.get(1) == Some(&b'_'))?;
    let of = |text: &str| {
        let target = name::key(text).filter(|key| !key.starts_with(b"\x01*"))?;
        let name = [service.as_slice(), &target].concat();
        Some(Service {
            name: (name.len() <= name::LONGEST).then_some(name)?.into(),
            target: target.into(),
            port,
        })
    };
    Some(line.names().filter_map(of).collect())
}

/// `route=corp.example@10.1.1.1+10.1.1.2` in a header or an entry, for the whole network either way. Keys that we do
/// not know are for others.
fn add_routes(routes: &mut Vec<Route>, extensions: &str, number: usize, problems: &mut Problems) {
    for text in extensions
        .split(' ')
        .filter_map(|text| text.strip_prefix(ROUTE))
    {
        match route(text) {
            Some(route) => routes.push(route),
            None => problems.add(|| {
                format!("line {number}: \"route={text}\" is not route=DOMAIN@SERVER+SERVER")
            }),
        }
    }
}

fn route(text: &str) -> Option<Route> {
    let (domain, servers) = text.split_once('@')?;
    let servers: Result<Vec<SocketAddr>, _> = servers
        .split('+')
        .map(|text| text.parse().map(server))
        .collect();
    Some(Route {
        domain: name::key(domain)?.into(),
        servers: servers.ok()?.into(),
    })
}

/// Servers of containers and networks are asked on the usual port.
fn server(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 53)
}

/// The first few problems of a file, and how many more there are.
#[derive(Debug, Default)]
struct Problems {
    listed: Vec<String>,
    more: usize,
}

impl Problems {
    fn add(&mut self, problem: impl FnOnce() -> String) {
        if self.listed.len() < PROBLEMS {
            self.listed.push(problem());
        } else {
            self.more += 1;
        }
    }

    fn list(mut self) -> Vec<String> {
        if self.more > 0 {
            self.listed.push(format!("{} more problems", self.more));
        }
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: i128 = 1_000_000_000;

    const MILLISECOND: i128 = 1_000_000;

    fn stamp(size: u64) -> Stamp {
        Stamp {
            size,
            ..Stamp::default()
        }
    }

    fn names(files: &Files) -> usize {
        files
            .zones()
            .networks()
            .iter()
            .map(|network| network.len())
            .sum()
    }

    #[test]
    fn files_are_read_when_their_stamp_changes_or_they_were_young() {
        let mut files = Files::default();
        assert!(files.wants("a", stamp(1)));
        assert_eq!(
            files.take("a", stamp(1), OLD, b"10.0.0.1\nc 10.0.0.2  n\n"),
            Taken::Changed
        );
        assert!(!files.wants("a", stamp(1)) && files.wants("a", stamp(2)));
        assert_eq!(
            files.take("a", stamp(2), 5, b"10.0.0.1\nc 10.0.0.2  n\n"),
            Taken::Same
        );
        assert!(files.wants("a", stamp(2)), "it was young");
    }

    #[test]
    fn unfinished_files_leave_what_was_there() {
        let mut files = Files::default();
        files.take("a", stamp(1), OLD, b"10.0.0.1\nc 10.0.0.2  n\n");
        for (size, content) in [
            (0, &b""[..]),
            (2, b"10"),
            (3, b"10.0.0.1\nc 10.0.0.2  n\nd 10.0"),
        ] {
            for later in 0..50 {
                let now = OLD + later * MILLISECOND;
                assert_eq!(
                    files.take("a", stamp(size), now, content),
                    Taken::Unfinished
                );
                assert!(files.wants("a", stamp(size)));
                assert_eq!(names(&files), 1);
            }
            files.files.get_mut("a").unwrap().unfinished = None;
        }
        files.take("a", stamp(0), OLD, b"");
        let later = OLD + 50 * MILLISECOND;
        assert_eq!(files.take("a", stamp(0), later, b""), Taken::Unusable);
        assert_eq!(names(&files), 1, "no header: as it was");
        assert!(files.keep(&BTreeSet::new()));
        assert_eq!(names(&files), 0);
    }

    #[test]
    fn a_file_that_was_cut_for_good_takes_nothing_away() {
        let mut files = Files::default();
        let text = b"10.0.0.1\nc 10.0.0.2  n\nd 10.0.0.3  m\n";
        files.take("a", stamp(1), OLD, text);
        for length in 1..text.len() {
            for later in [0, ns(PATIENCE)] {
                files.take("a", stamp(1), OLD + later, &text[..length]);
            }
            // Behind a whole line nothing shows that there were more.
            let expected = match length {
                9 => 0,
                23 => 1,
                _ => 2,
            };
            assert_eq!(names(&files), expected, "{length}");
            files.take("a", stamp(1), OLD, text);
            assert_eq!(names(&files), 2);
        }
    }

    /// As long as somebody writes to it, however often it is looked at, but not for ever.
    #[test]
    fn patience_is_time_since_the_last_write() {
        let mut files = Files::default();
        let text = b"10.0.0.1\nc 10.0.0.2  n\nd 10.0.0.3  m\n";
        let at = |ms: i128| Stamp {
            modified_ns: OLD + ms * MILLISECOND,
            ..Stamp::default()
        };
        let take = |files: &mut Files, written: i128, now: i128, content: &[u8]| {
            files.take("a", at(written), OLD + now * MILLISECOND, content)
        };
        assert_eq!(take(&mut files, 0, 100, text), Taken::Changed);
        assert_eq!(take(&mut files, 200, 201, &text[..5]), Taken::Unfinished);
        assert_eq!(take(&mut files, 240, 249, &text[..5]), Taken::Unfinished);
        assert_eq!(take(&mut files, 240, 289, &text[..5]), Taken::Unfinished);
        assert_eq!(take(&mut files, 240, 290, &text[..5]), Taken::Unusable);
        // Between two lines: until it is not young.
        assert_eq!(take(&mut files, 300, 319, &text[..23]), Taken::Unfinished);
        assert_eq!(names(&files), 2);
        assert_eq!(take(&mut files, 300, 320, &text[..23]), Taken::Changed);
        assert_eq!(names(&files), 1);
        // A clock that was set back.
        for (now, taken) in [
            (400, Taken::Unfinished),
            (899, Taken::Unfinished),
            (900, Taken::Unusable),
        ] {
            assert_eq!(take(&mut files, 9000, now, b""), taken, "{now}");
        }
        take(&mut files, 9000, 1000, b"");
        assert_eq!(take(&mut files, 9000, 999, b""), Taken::Unusable);
    }

    #[test]
    fn what_is_wrong_is_about_what_is_there() {
        let mut files = Files::default();
        let good = b"10.0.0.1\nbad\nc 10.0.0.2  n\n";
        let problems = |files: &Files| files.problems().collect::<Vec<_>>();
        files.take("a", stamp(1), OLD, good);
        let before = problems(&files);
        assert_eq!(files.take("a", stamp(2), OLD, b"x\n"), Taken::Unusable);
        assert_ne!(problems(&files), before);
        assert_eq!(files.take("a", stamp(3), OLD, good), Taken::Same);
        assert_eq!(problems(&files), before);
        files.fail("a", "gone wrong".to_owned());
        assert_eq!(problems(&files), ["a: gone wrong"]);
        assert!(files.wants("a", stamp(3)));
        assert_eq!(files.take("a", stamp(3), OLD, good), Taken::Same);
        assert_eq!(problems(&files), before);
    }

    #[test]
    fn much_is_read_from_the_beginning() {
        let mut files = Files::default();
        let begin = "10.0.0.1\nc 10.0.0.2  n\n";
        files.take("a", stamp(1), OLD, begin.as_bytes());
        let file = &files.files["a"];
        let grown = |lines: usize, names: usize| {
            let line = format!("d 10.0.0.3  {}\n", vec!["n"; names].join(","));
            file.tail((begin.to_owned() + &line.repeat(lines)).as_bytes())
                .is_some()
        };
        assert!(grown(1, 1) && grown(60, 3) && grown(1, 30));
        assert!(!grown(300, 1) && !grown(60, 10) && !grown(1, 1000));
        let line = format!("d {0}  {0}\n", vec!["10.0.0.3"; 30].join(","));
        assert!(file.tail((begin.to_owned() + &line).as_bytes()).is_none());
    }

    #[test]
    fn a_last_line_without_end_counts_in_the_end() {
        let mut files = Files::default();
        assert_eq!(
            files.take("a", stamp(1), OLD, b"10.0.0.1\nc 10.0.0.2  n"),
            Taken::Changed
        );
        assert_eq!(names(&files), 1);
    }

    #[test]
    fn extensions_are_understood_and_problems_named() {
        let text = "10.0.0.1 8.8.8.8 route=corp.example@10.1.1.1+10.1.1.2 route=x other=1\nc 10.0.0.2  web,a..b  srv=_http._tcp:80 srv=bad\nd 10.0.0.x  y\n";
        let (network, problems) = network("n", text.as_bytes());
        let network = network.unwrap();
        assert_eq!(network.routes[0].servers.len(), 2);
        assert_eq!(network.services(b"\x05_http\x04_tcp\x03web")[0].port, 80);
        assert_eq!(problems.len(), 4, "{problems:?}");
    }

    #[test]
    fn a_file_that_has_grown_is_read_from_there() {
        let mut files = Files::default();
        let begin = "10.0.0.1\nc 10.0.0.2  n\nbad\n";
        files.take("a", stamp(1), OLD, begin.as_bytes());
        let more = format!("{begin}d 10.0.0.3  m\nworse\n");
        assert_eq!(
            files.take("a", stamp(2), OLD, more.as_bytes()),
            Taken::Changed
        );
        assert_eq!(files.take("a", stamp(3), OLD, more.as_bytes()), Taken::Same);
        assert_eq!(names(&files), 2);
        let problems: Vec<_> = files.problems().collect();
        assert!(problems[0].contains("line 3") && problems[1].contains("line 5"));
        let other = more.replace("10.0.0.2", "10.0.0.9");
        files.take(
            "a",
            stamp(4),
            OLD,
            format!("{other}e 10.0.0.4  o\n").as_bytes(),
        );
        let zones = files.zones();
        let n = zones.network(0).find(b"\x01n").unwrap();
        assert_eq!(zones.network(0).ipv4(n)[0].octets()[3], 9);
        assert_eq!(names(&files), 3);
    }

    /// All that can be asked of a network.
    fn told(network: Network) -> String {
        let zones = Zones::new(vec![Arc::new(network)]);
        let network = zones.network(0);
        let mut told = String::new();
        for name in network.names() {
            let key = network.name_of(name);
            assert_eq!(network.find(key), Some(name));
            let (v4, v6) = (network.ipv4(name), network.ipv6(name));
            told += &format!("{key:?} {v4:?} {v6:?} {:?}\n", network.services(key));
            for address in v4
                .iter()
                .map(|a| IpAddr::V4(*a))
                .chain(v6.iter().map(|a| IpAddr::V6(*a)))
            {
                let names: Vec<_> = network.names_of(address).collect();
                let asker = zones.asker(address, address);
                told += &format!(
                    "{address} {names:?} {asker:?} {}\n",
                    network.owners_of(address)
                );
            }
        }
        told + &format!(
            "{:?} {}",
            network.services,
            zones.covers(IpAddr::V4([10, 0, 0, 5].into()))
        )
    }

    fn entry() -> impl Strategy<Value = String> {
        let names = prop::collection::vec(
            prop::sample::select(vec!["a", "b", "c", "a.b", "*.w", "B", "x..y"]),
            0..4,
        );
        let servers = prop::sample::select(vec![
            "",
            "",
            " 9.9.9.9",
            " 8.8.8.8,9.9.9.9",
            " srv=_x._tcp:1",
            "  srv=_x._tcp:1",
        ]);
        let v4 = prop::collection::vec(2u8..9, 0..3);
        let v6 = prop::collection::vec(2u8..9, 0..3);
        (0u8..5, v4, v6, names, servers).prop_map(|(id, v4, v6, names, servers)| {
            let list = |prefix: &str, items: Vec<u8>| {
                let items: Vec<_> = items.iter().map(|n| format!("{prefix}{n}")).collect();
                items.join(",")
            };
            let (v4, v6) = (list("10.0.0.", v4), list("fd::", v6));
            format!("id{id} {v4} {v6} {}{servers}\n", names.join(","))
        })
    }

    /// Readers that know no extensions ignore such lines: they have no addresses, and more than five columns.
    #[test]
    fn extensions_may_have_lines_of_their_own() {
        let text = "10.0.0.1\nc 10.0.0.2  web 9.9.9.9\nc   web  srv=_http._tcp:80 route=a@10.1.1.1\n\
                    d   db  route=b.a@10.1.1.2 route=a@10.1.1.1 route=a@10.1.1.3\n";
        let (network, problems) = network("n", text.as_bytes());
        let network = network.unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(network.services(b"\x05_http\x04_tcp\x03web").len(), 1);
        let routes: Vec<_> = network.routes.iter().map(|route| &*route.domain).collect();
        assert_eq!(routes, [&b"\x01b\x01a"[..], b"\x01a"]);
        let routes_of = |text: &str| {
            let mut files = Files::default();
            for part in text.split_inclusive('\n').scan(String::new(), |all, line| {
                all.push_str(line);
                Some(all.clone())
            }) {
                files.take("n", stamp(1), OLD, part.as_bytes());
            }
            files.zones().network(0).routes.len()
        };
        assert_eq!(routes_of(text), 2, "line by line");
        assert_eq!(network.routes[1].servers[0].ip().to_string(), "10.1.1.1");
        let zones = Zones::new(vec![Arc::new(network)]);
        let at = |text: &str| text.parse().unwrap();
        let asker = zones.asker(at("10.0.0.2"), at("10.0.0.1"));
        assert_eq!(asker.servers.unwrap()[0].ip().to_string(), "9.9.9.9");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn grown_by_lines_is_like_read_at_once(
            before in prop::collection::vec(entry(), 0..8),
            tail in prop::collection::vec(entry(), 1..8),
        ) {
            let before = format!("10.0.0.1\n{}", before.concat());
            let tail = tail.concat();
            let (old, _) = network("n", before.as_bytes());
            let (extended, _) = extended(&old.unwrap(), count_lines(before.as_bytes()) + 1, tail.as_bytes());
            let (whole, _) = network("n", format!("{before}{tail}").as_bytes());
            prop_assert_eq!(told(extended), told(whole.unwrap()));
        }

        #[test]
        fn no_content_crashes(parts in prop::collection::vec(prop::sample::select(vec![
            &b" "[..], b"\n", b",", b"10.0.0.1", b"fd::1", b"web", b"*.x",
            b"srv=_a._b:1", b"route=a@1.1.1.1", b"\xff", b"c\xc3\xbc"]), 0..60)) {
            let text = parts.concat();
            let (network, _) = network("n", &text);
            if let Some(network) = network {
                let zones = Zones::new(vec![Arc::new(network)]);
                let network = zones.network(0);
                for name in network.names() {
                    prop_assert_eq!(network.find(network.name_of(name)), Some(name));
                    for address in network.ipv4(name) {
                        prop_assert!(network.names_of((*address).into()).any(|other| other == name));
                    }
                }
            }
        }
    }
}
