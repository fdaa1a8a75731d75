//! The command line, as it is written.
//!
//! Callers depend on the rules of `getopt_long` to the letter: an option is tried before it is used, and an error is
//! searched for its words. So the rules are here, over one table of options ([`OPTIONS`]), from which the help text
//! comes too:
//!
//! - `--long value`, `--long=value`, `-s value`, `-svalue`; short options without a value can stand together (`-4q`).
//! - A long option may be cut short as long as it stays the only one.
//! - `--` ends the options; so does the first word that is not one. What follows is a process, or a command with its
//!   own options.
//! - `--help` and `--version` count once everything before them was understood; what follows is not looked at.
//!
//! No option has a meaning here: [`crate::config`] gives it one.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use thiserror::Error;

pub mod stats;

/// One for each option, in the order of the help text.
#[expect(missing_docs, reason = "each is explained in `OPTIONS`")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    Debug,
    Trace,
    Stats,
    Quiet,
    Foreground,
    Stderr,
    LogFile,
    LogSize,
    RunAs,
    ConfPath,
    Help,
    Version,
    NsIfname,
    Pcap,
    Pid,
    Mtu,
    Address,
    Netmask,
    MacAddr,
    Gateway,
    Interface,
    Outbound,
    OutboundIf4,
    OutboundIf6,
    Dns,
    Search,
    Hostname,
    Fqdn,
    DhcpDns,
    DhcpSearch,
    MapHostLoopback,
    MapGuestAddr,
    DnsForward,
    DnsHost,
    NoTcp,
    NoUdp,
    NoIcmp,
    NoDhcp,
    NoNdp,
    NoDhcpv6,
    NoRa,
    Freebind,
    NoMapGw,
    ChrootFallback,
    Ipv4Only,
    Ipv6Only,
    TcpPorts,
    UdpPorts,
    TcpNs,
    UdpNs,
    HostLoToNsLo,
    Userns,
    Netns,
    NetnsOnly,
    NoNetnsQuit,
    NoPidns,
    ConfigNet,
    NoCopyRoutes,
    NoCopyAddrs,
    NsMacAddr,
    NoSplice,
    SpliceOnly,
    Machine,
}

/// An option.
#[derive(Debug)]
pub struct Definition {
    /// Which.
    pub id: Id,
    /// `--long`.
    pub long: &'static str,
    /// `-s`.
    pub short: Option<u8>,
    /// What its value is called; none: it has no value.
    pub argument: Option<&'static str>,
    /// What it does; lines of the help text and of the manual. Empty: not shown, the option belongs to another program.
    pub help: &'static str,
}

const fn flag(id: Id, long: &'static str, short: Option<u8>, help: &'static str) -> Definition {
    let argument = None;
    Definition {
        id,
        long,
        short,
        argument,
        help,
    }
}

const fn value(
    id: Id,
    long: &'static str,
    short: Option<u8>,
    argument: &'static str,
    help: &'static str,
) -> Definition {
    let argument = Some(argument);
    Definition {
        id,
        long,
        short,
        argument,
        help,
    }
}

/// An option for virtual machines. It is understood, so that the error can say why it is none of ours.
const fn machine(long: &'static str, short: Option<u8>, argument: bool) -> Definition {
    let argument = if argument { Some("VALUE") } else { None };
    Definition {
        id: Id::Machine,
        long,
        short,
        argument,
        help: "",
    }
}

/// Every option.
pub const OPTIONS: &[Definition] = &[
    flag(
        Id::Debug,
        "debug",
        Some(b'd'),
        "Tell everything, with times, on standard error",
    ),
    flag(
        Id::Trace,
        "trace",
        None,
        "As --debug, and a line for every packet and event",
    ),
    value(
        Id::Stats,
        "stats",
        None,
        "SECONDS",
        "Show counts of events at most so often; needs --foreground before it",
    ),
    flag(
        Id::Quiet,
        "quiet",
        Some(b'q'),
        "Tell warnings and errors only",
    ),
    flag(
        Id::Foreground,
        "foreground",
        Some(b'f'),
        "Stay in the foreground; messages go to standard error",
    ),
    flag(
        Id::Stderr,
        "stderr",
        Some(b'e'),
        "Accepted for old callers, does nothing",
    ),
    value(
        Id::LogFile,
        "log-file",
        Some(b'l'),
        "PATH",
        "Write messages to this file, and not to the system's log",
    ),
    value(
        Id::LogSize,
        "log-size",
        None,
        "BYTES",
        "The most that the log file may grow to, 40960 or more\ndefault: 1048576",
    ),
    value(
        Id::RunAs,
        "runas",
        None,
        "UID[:GID]",
        "Run as this user and group, numbers or names\ndefault: nobody, when started by the root of the system",
    ),
    value(
        Id::ConfPath,
        "conf-path",
        Some(b'c'),
        "PATH",
        "Socket through which ports can be added and removed later",
    ),
    flag(Id::Help, "help", Some(b'h'), "Show this text"),
    flag(Id::Version, "version", None, "Show the version"),
    value(
        Id::NsIfname,
        "ns-ifname",
        Some(b'I'),
        "NAME",
        "Name of the guest's interface\ndefault: that of the host's interface, otherwise tap0",
    ),
    machine("fd", Some(b'F'), true),
    value(
        Id::Pcap,
        "pcap",
        Some(b'p'),
        "PATH",
        "Write every frame of the link to this file, for tcpdump and its like",
    ),
    value(
        Id::Pid,
        "pid",
        Some(b'P'),
        "PATH",
        "Write the process id to this file",
    ),
    value(
        Id::Mtu,
        "mtu",
        Some(b'm'),
        "BYTES",
        "Largest IP packet of the guest's interface; 0: leave it alone\ndefault: 65520",
    ),
    value(
        Id::Address,
        "address",
        Some(b'a'),
        "ADDRESS[/LENGTH]",
        "The guest's address; once for IPv4, once for IPv6\ndefault: those of the host's interface",
    ),
    value(
        Id::Netmask,
        "netmask",
        Some(b'n'),
        "MASK",
        "Netmask of the guest's IPv4 address, with dots or as a number of bits",
    ),
    value(
        Id::MacAddr,
        "mac-addr",
        Some(b'M'),
        "MAC",
        "Our own link-layer address\ndefault: 9a:55:9a:55:9a:55",
    ),
    value(
        Id::Gateway,
        "gateway",
        Some(b'g'),
        "ADDRESS",
        "The guest's gateway; once for IPv4, once for IPv6\ndefault: that of the host; with its other routes",
    ),
    value(
        Id::Interface,
        "interface",
        Some(b'i'),
        "NAME",
        "The host's interface whose addresses and routes the guest gets\n\
         default: that of --outbound-if4 or --outbound-if6, otherwise of the first default route",
    ),
    value(
        Id::Outbound,
        "outbound",
        Some(b'o'),
        "ADDRESS",
        "The host's address that connections leave from; once for IPv4, once for IPv6",
    ),
    value(
        Id::OutboundIf4,
        "outbound-if4",
        None,
        "NAME",
        "The host's interface that IPv4 connections leave by",
    ),
    value(
        Id::OutboundIf6,
        "outbound-if6",
        None,
        "NAME",
        "The host's interface that IPv6 connections leave by",
    ),
    value(
        Id::Dns,
        "dns",
        Some(b'D'),
        "ADDRESS",
        "Name server that the guest is told of; can be given several times; none: no server",
    ),
    value(
        Id::Search,
        "search",
        Some(b'S'),
        "DOMAIN",
        "Search domain that the guest is told of, up to six; none: no domain",
    ),
    value(
        Id::Hostname,
        "hostname",
        Some(b'H'),
        "NAME",
        "Host name that the guest is told of",
    ),
    value(
        Id::Fqdn,
        "fqdn",
        None,
        "NAME",
        "Full name that the guest is told of",
    ),
    flag(
        Id::DhcpDns,
        "dhcp-dns",
        None,
        "Tell the guest of name servers, by DHCP, DHCPv6 and router advertisements",
    ),
    machine("no-dhcp-dns", None, false),
    flag(
        Id::DhcpSearch,
        "dhcp-search",
        None,
        "Tell the guest of search domains, likewise",
    ),
    machine("no-dhcp-search", None, false),
    value(
        Id::MapHostLoopback,
        "map-host-loopback",
        None,
        "ADDRESS",
        "The guest's name for the host's loopback address; once for IPv4, once for IPv6; none: no such name\n\
         default: the gateway",
    ),
    value(
        Id::MapGuestAddr,
        "map-guest-addr",
        None,
        "ADDRESS",
        "The guest's name for the host's address that equals its own; once for IPv4, once for IPv6",
    ),
    value(
        Id::DnsForward,
        "dns-forward",
        None,
        "ADDRESS",
        "Queries to this address go to the host's name server; once for IPv4, once for IPv6",
    ),
    value(
        Id::DnsHost,
        "dns-host",
        None,
        "ADDRESS",
        "The host's name server; once for IPv4, once for IPv6\ndefault: the first in resolv.conf",
    ),
    flag(Id::NoTcp, "no-tcp", None, "No TCP"),
    flag(Id::NoUdp, "no-udp", None, "No UDP"),
    flag(
        Id::NoIcmp,
        "no-icmp",
        None,
        "No ICMP and ICMPv6, neighbour discovery included",
    ),
    flag(Id::NoDhcp, "no-dhcp", None, "No answers to DHCP"),
    flag(
        Id::NoNdp,
        "no-ndp",
        None,
        "No answers to neighbour discovery",
    ),
    flag(Id::NoDhcpv6, "no-dhcpv6", None, "No answers to DHCPv6"),
    flag(Id::NoRa, "no-ra", None, "No router advertisements"),
    flag(
        Id::Freebind,
        "freebind",
        None,
        "Ports may be published on addresses that the host does not have",
    ),
    flag(
        Id::NoMapGw,
        "no-map-gw",
        None,
        "The gateway is not the guest's name for the host's loopback address",
    ),
    flag(
        Id::ChrootFallback,
        "chroot-fallback",
        None,
        "Use chroot where the root file system cannot be exchanged",
    ),
    flag(Id::Ipv4Only, "ipv4-only", Some(b'4'), "IPv4 only"),
    flag(Id::Ipv6Only, "ipv6-only", Some(b'6'), "IPv6 only"),
    machine("one-off", Some(b'1'), false),
    value(
        Id::TcpPorts,
        "tcp-ports",
        Some(b't'),
        "SPEC",
        "TCP ports of the host that lead to the guest; can be given several times\n\
         none\n\
         [[ADDRESS][%INTERFACE]/]ITEM[,ITEM]... with ITEM one of\n\
         \x20 80          a port\n\
         \x20 80-90       ports\n\
         \x20 8080:80     a port, to another one of the guest; ranges likewise\n\
         \x20 80:ADDRESS[/PORT]  a port, to another address behind the guest\n\
         \x20 ~85         not this port, not these ports\n\
         \x20 all         every port that is free and not ephemeral\n\
         \x20 auto        ports (of this SPEC) while the guest listens on them\n\
         default: auto",
    ),
    value(
        Id::UdpPorts,
        "udp-ports",
        Some(b'u'),
        "SPEC",
        "UDP ports of the host that lead to the guest\ndefault: auto",
    ),
    value(
        Id::TcpNs,
        "tcp-ns",
        Some(b'T'),
        "SPEC",
        "TCP ports of the guest's loopback that lead to the host's; SPEC without an address\ndefault: auto",
    ),
    value(
        Id::UdpNs,
        "udp-ns",
        Some(b'U'),
        "SPEC",
        "UDP ports of the guest's loopback that lead to the host's; SPEC without an address\ndefault: auto",
    ),
    flag(
        Id::HostLoToNsLo,
        "host-lo-to-ns-lo",
        None,
        "Connections to the host's loopback arrive on the guest's",
    ),
    value(Id::Userns, "userns", None, "PATH", "User namespace to join"),
    value(
        Id::Netns,
        "netns",
        None,
        "PATH|NAME",
        "Network namespace of the guest; a name stands for /run/netns/NAME",
    ),
    flag(
        Id::NetnsOnly,
        "netns-only",
        None,
        "Join and make no user namespace; implied by --netns without --userns",
    ),
    flag(
        Id::NoNetnsQuit,
        "no-netns-quit",
        None,
        "Stay when the path of the network namespace is gone",
    ),
    flag(
        Id::NoPidns,
        "no-pidns",
        None,
        "The command is not put in a new process namespace",
    ),
    flag(
        Id::ConfigNet,
        "config-net",
        None,
        "Configure the guest's interface",
    ),
    flag(
        Id::NoCopyRoutes,
        "no-copy-routes",
        None,
        "Deprecated: of the routes, only the default one is copied",
    ),
    flag(
        Id::NoCopyAddrs,
        "no-copy-addrs",
        None,
        "Deprecated: one address is copied",
    ),
    value(
        Id::NsMacAddr,
        "ns-mac-addr",
        None,
        "MAC",
        "Link-layer address of the guest's interface",
    ),
    flag(
        Id::NoSplice,
        "no-splice",
        None,
        "Loopback connections go through the guest's interface too",
    ),
    flag(
        Id::SpliceOnly,
        "splice-only",
        None,
        "Loopback connections only, and no interface",
    ),
    machine("socket", Some(b's'), true),
    machine("vhost-user", None, false),
    machine("print-capabilities", None, false),
    machine("socket-path", None, true),
    machine("repair-path", None, true),
    machine("migrate-exit", None, false),
    machine("migrate-no-linger", None, false),
];

/// An option that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Which one.
    pub id: Id,
    /// As messages name it: `-t`, `--mtu`.
    pub name: String,
    /// Its value; empty without one.
    pub value: OsString,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The options, in order.
    pub given: Vec<Given>,
    /// The words after them: a process, or a command.
    pub rest: Vec<OsString>,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To forward.
    Run(Options),
    /// `--help`
    Help,
    /// `--version`
    Version,
}

/// Why the command line is not understood. The texts are those of `getopt_long`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the message says it")]
pub enum UsageError {
    #[error("unrecognized option '--{0}'")]
    UnknownLong(String),
    #[error("invalid option -- '{0}'")]
    UnknownShort(char),
    #[error("option '--{given}' is ambiguous; possibilities:{possibilities}")]
    Ambiguous {
        given: String,
        possibilities: String,
    },
    #[error("option '--{0}' doesn't allow an argument")]
    NoArgument(&'static str),
    #[error("option '--{0}' requires an argument")]
    LongNeedsArgument(&'static str),
    #[error("option requires an argument -- '{0}'")]
    ShortNeedsArgument(char),
}

/// Understands the words after the program's name.
///
/// # Errors
/// One of them is no option, or lacks its value, or has one too many.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    let mut words = words.into_iter();
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let found = match word.as_bytes() {
            b"--" => {
                options.rest = words.collect();
                break;
            }
            [b'-', b'-', long @ ..] => vec![parse_long(long, &mut words)?],
            [b'-', cluster @ ..] if !cluster.is_empty() => parse_short(cluster, &mut words)?,
            _ => {
                options.rest = std::iter::once(word).chain(words).collect();
                break;
            }
        };
        for given in found {
            if given.id == Id::Help {
                return Ok(Request::Help);
            }
            if given.id == Id::Version {
                return Ok(Request::Version);
            }
            options.given.push(given);
        }
    }
    Ok(Request::Run(options))
}

/// `--long`, `--long=value`, or the value is the next word.
fn parse_long(
    text: &[u8],
    words: &mut impl Iterator<Item = OsString>,
) -> Result<Given, UsageError> {
    let mut parts = text.splitn(2, |&byte| byte == b'=');
    let (name, attached) = (parts.next().unwrap_or_default(), parts.next());
    let definition = find_long(name, text)?;
    let value = match (definition.argument, attached) {
        (None, None) => OsString::new(),
        (None, Some(_)) => return Err(UsageError::NoArgument(definition.long)),
        (Some(_), Some(value)) => OsString::from_vec(value.to_vec()),
        (Some(_), None) => words
            .next()
            .ok_or(UsageError::LongNeedsArgument(definition.long))?,
    };
    Ok(Given {
        id: definition.id,
        name: format!("--{}", definition.long),
        value,
    })
}

/// The option that this is the name of, or the only one that it is the beginning of.
fn find_long(name: &[u8], text: &[u8]) -> Result<&'static Definition, UsageError> {
    let candidates: Vec<_> = OPTIONS
        .iter()
        .filter(|option| option.long.as_bytes().starts_with(name))
        .collect();
    let exact = candidates
        .iter()
        .find(|option| option.long.len() == name.len());
    let given = || String::from_utf8_lossy(text).into_owned();
    match (exact, candidates.as_slice()) {
        (Some(&option), _) | (None, &[option]) => Ok(option),
        (None, []) => Err(UsageError::UnknownLong(given())),
        (None, several) => Err(UsageError::Ambiguous {
            given: given(),
            possibilities: several.iter().fold(String::new(), |mut all, option| {
                let _ = write!(all, " '--{}'", option.long);
                all
            }),
        }),
    }
}

/// `-abc`: options without a value, and at most one with, at the end.
fn parse_short(
    cluster: &[u8],
    words: &mut impl Iterator<Item = OsString>,
) -> Result<Vec<Given>, UsageError> {
    let mut found = Vec::new();
    let mut rest = cluster;
    while let [letter, following @ ..] = rest {
        let definition = OPTIONS
            .iter()
            .find(|option| option.short == Some(*letter))
            .ok_or_else(|| UsageError::UnknownShort(char::from(*letter)))?;
        let (value, following) = match (definition.argument, following) {
            (None, following) => (OsString::new(), following),
            (Some(_), []) => {
                let next = words.next();
                let missing = UsageError::ShortNeedsArgument(char::from(*letter));
                (next.ok_or(missing)?, following)
            }
            (Some(_), value) => (OsString::from_vec(value.to_vec()), &[][..]),
        };
        let name = format!("-{}", char::from(*letter));
        found.push(Given {
            id: definition.id,
            name,
            value,
        });
        rest = following;
    }
    Ok(found)
}

/// The program that we are asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The forwarder of a namespace.
    Namespace,
    /// `passt`: that of a virtual machine.
    Machine,
    /// `slirp4netns`
    Slirp,
}

/// Tells by the name that we were called by, and what messages begin with.
#[must_use]
pub fn program(arg0: Option<&OsStr>) -> (Program, String) {
    let path = arg0.map(OsStr::as_bytes).unwrap_or_default();
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let name = String::from_utf8_lossy(base).into_owned();
    if name.contains("slirp4netns") {
        (Program::Slirp, name)
    } else if name.contains("passt") {
        (Program::Machine, name)
    } else if name.is_empty() {
        (Program::Namespace, "usernet".to_owned())
    } else {
        (Program::Namespace, name)
    }
}

/// How the program is called, and all of its options.
#[must_use]
pub fn help(name: &str) -> String {
    let stats = match name {
        "usernet" => "       usernet stats --help\n",
        _ => "",
    };
    let mut text = format!(
        "Usage: {name} [OPTION]... [COMMAND] [ARGUMENT]...\n\
        \x20      {name} [OPTION]... PID\n\
        \x20      {name} [OPTION]... --netns PATH|NAME\n{stats}\
         \n\
         Connects a network namespace through ordinary sockets. Without PID and --netns, runs\n\
         the command, or a shell, in a new one.\n\n"
    );
    for option in OPTIONS.iter().filter(|option| !option.help.is_empty()) {
        let short = match option.short {
            Some(letter) => format!("-{}, ", char::from(letter)),
            None => "    ".to_owned(),
        };
        let argument = option
            .argument
            .map(|argument| format!(" {argument}"))
            .unwrap_or_default();
        let _ = writeln!(text, "  {short}--{}{argument}", option.long);
        for line in option.help.lines() {
            let _ = writeln!(text, "        {line}");
        }
    }
    text
}

/// What `--version` prints. Engines show it whole, nobody reads it by machine.
#[must_use]
pub fn version(name: &str) -> String {
    let package = env!("CARGO_PKG_VERSION");
    let licence = "Licensed under the Apache License, Version 2.0";
    let what = match name {
        "usernet" => String::new(),
        _ => " (usernet)".to_owned(),
    };
    format!("{name} {package}{what}\n{licence}\n")
}

#[cfg(test)]
mod tests;
