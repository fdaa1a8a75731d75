//! DHCPv6 (RFC 8415), the server's side: one client, one address, for ever.
//!
//! Nothing is remembered. A client that asks for another address than ours is told that it is not of this link, and
//! begins anew.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Handled, frame};
use crate::config::{Config, Family};
use crate::event::Drop;
use crate::packet::build::{self, Link};
use crate::packet::{Mac, ip, ndp};

/// Port of the server.
pub(super) const SERVER_PORT: u16 = 547;
/// Port of the client.
const CLIENT_PORT: u16 = 546;
/// Where clients write to.
pub(super) const ALL_AGENTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// What a client wants (RFC 8415, 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Solicit,
    Request,
    Confirm,
    Renew,
    Rebind,
    Information,
}

const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDR: u16 = 5;
const STATUS: u16 = 13;
const DNS: u16 = 23;
const SEARCH: u16 = 24;
const FQDN: u16 = 39;

const SUCCESS: u16 = 0;
const NO_ADDRESSES: u16 = 2;
const NOT_ON_LINK: u16 = 4;

/// What a client says.
#[derive(Debug, Clone, Copy)]
struct Message<'a> {
    kind: Kind,
    transaction: [u8; 3],
    client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
    /// The first set of addresses it asks for: identifier and the options inside.
    wanted: Option<([u8; 4], &'a [u8])>,
}

/// Answer a message to the server's port, sent to all servers.
pub(super) fn handle(config: &Config, link: &Link, source: Ipv6Addr, message: &[u8]) -> Handled {
    let Some(family) = config.families.v6.as_ref().filter(|_| !config.off.dhcpv6) else {
        return Handled::Dropped(Drop::Disabled);
    };
    let message = match parse(message) {
        Ok(Some(message)) => message,
        Ok(None) => return Handled::Silent,
        Err(reason) => return Handled::Dropped(reason),
    };
    let server = server_id(config.link.our_mac);
    if !is_for_us(&message, &server) {
        return Handled::Silent;
    }
    let reply = reply(config, family, &message, &server);
    let from = SocketAddr::new(family.ours, SERVER_PORT);
    let to = SocketAddr::new(source.into(), CLIENT_PORT);
    let headers = build::udp_complete(link, from, to, ip::HOP_LIMIT, &reply);
    Handled::Reply(frame(headers, reply))
}

/// Our name, a DUID of the kind that needs no memory (RFC 8415, 11.4).
fn server_id(mac: Mac) -> Vec<u8> {
    [&[0, 3, 0, 1], &mac[..]].concat()
}

/// RFC 8415, 16: which messages must name a client or a server, and which must not.
fn is_for_us(message: &Message<'_>, server: &[u8]) -> bool {
    match message.kind {
        Kind::Solicit | Kind::Confirm | Kind::Rebind => {
            message.client.is_some() && message.server.is_none()
        }
        Kind::Request | Kind::Renew => message.client.is_some() && message.server == Some(server),
        Kind::Information => message.server.is_none_or(|named| named == server),
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Message<'_>>, Drop> {
    let (head, options) = bytes.split_first_chunk::<4>().ok_or(Drop::Malformed)?;
    let [kind, a, b, c] = *head;
    let kind = match kind {
        1 => Kind::Solicit,
        3 => Kind::Request,
        4 => Kind::Confirm,
        5 => Kind::Renew,
        6 => Kind::Rebind,
        11 => Kind::Information,
        _ => return Ok(None),
    };
    let mut message = Message {
        kind,
        transaction: [a, b, c],
        client: None,
        server: None,
        wanted: None,
    };
    for option in Options(options) {
        match option? {
            (CLIENT_ID, value) => message.client = Some(value),
            (SERVER_ID, value) => message.server = Some(value),
            (IA_NA, value) if message.wanted.is_none() => {
                let (fixed, inside) = value.split_first_chunk::<12>().ok_or(Drop::Malformed)?;
                let [i0, i1, i2, i3, ..] = *fixed;
                message.wanted = Some(([i0, i1, i2, i3], inside));
            }
            _ => {}
        }
    }
    Ok(Some(message))
}

/// Codes and values.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u16, &'a [u8]), Drop>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some(([c0, c1, l0, l1], rest)) = self.0.split_first_chunk::<4>() else {
            self.0 = &[];
            return Some(Err(Drop::Malformed));
        };
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            self.0 = &[];
            return Some(Err(Drop::Malformed));
        };
        self.0 = rest;
        Some(Ok((u16::from_be_bytes([*c0, *c1]), value)))
    }
}

/// Whether every address the client names is the one it has here.
fn is_on_link(inside: &[u8], ours: Ipv6Addr) -> bool {
    Options(inside)
        .flatten()
        .all(|(code, value)| code != IA_ADDR || value.first_chunk::<16>() == Some(&ours.octets()))
}

fn reply(config: &Config, family: &Family, message: &Message<'_>, server: &[u8]) -> Vec<u8> {
    let kind = match message.kind {
        Kind::Solicit => ADVERTISE,
        Kind::Request | Kind::Confirm | Kind::Renew | Kind::Rebind | Kind::Information => REPLY,
    };
    let [a, b, c] = message.transaction;
    let mut bytes = vec![kind, a, b, c];
    if let Some(client) = message.client {
        push(&mut bytes, CLIENT_ID, client);
    }
    push(&mut bytes, SERVER_ID, server);
    let ours = match family.assigned() {
        Some(IpAddr::V6(ours)) => Some(ours),
        Some(IpAddr::V4(_)) | None => None,
    };
    if let Some((id, inside)) = message.wanted {
        push_addresses(&mut bytes, message.kind, ours, id, inside);
    }
    push_announced(&mut bytes, config);
    bytes
}

fn push_addresses(
    bytes: &mut Vec<u8>,
    kind: Kind,
    ours: Option<Ipv6Addr>,
    id: [u8; 4],
    inside: &[u8],
) {
    let on_link = ours.is_some_and(|ours| is_on_link(inside, ours));
    let mut set = [&id[..], &[0xff; 8]].concat();
    match (kind, ours) {
        (Kind::Information, _) => return,
        (Kind::Confirm, _) => {
            // RFC 8415, 18.3.3: the answer is a status of the whole message.
            push(
                bytes,
                STATUS,
                &status(if on_link { SUCCESS } else { NOT_ON_LINK }),
            );
            return;
        }
        (_, None) => push(&mut set, STATUS, &status(NO_ADDRESSES)),
        (Kind::Request | Kind::Renew | Kind::Rebind, Some(_)) if !on_link => {
            push(&mut set, STATUS, &status(NOT_ON_LINK));
        }
        (_, Some(ours)) => push(
            &mut set,
            IA_ADDR,
            &[&ours.octets()[..], &[0xff; 8]].concat(),
        ),
    }
    push(bytes, IA_NA, &set);
}

fn status(code: u16) -> [u8; 2] {
    code.to_be_bytes()
}

fn push_announced(bytes: &mut Vec<u8>, config: &Config) {
    let mut servers = Vec::new();
    for server in &config.announce.dns {
        if let IpAddr::V6(server) = server {
            servers.extend(server.octets());
        }
    }
    if !servers.is_empty() {
        push(bytes, DNS, &servers);
    }
    let domains: Vec<u8> = config
        .announce
        .search
        .iter()
        .filter_map(|domain| ndp::domain_name(domain))
        .flatten()
        .collect();
    if !domains.is_empty() {
        push(bytes, SEARCH, &domains);
    }
    if let Some(name) = config.announce.fqdn.as_deref().and_then(ndp::domain_name) {
        // RFC 4704, 4.1: we update no zone (no flag is set).
        push(bytes, FQDN, &[&[0], &name[..]].concat());
    }
}

/// Add an option; one that is too long is none (nobody names so many servers).
fn push(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else {
        return;
    };
    bytes.extend(code.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(value);
}
