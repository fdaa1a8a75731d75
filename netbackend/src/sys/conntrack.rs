//! Tracked connections of published ports.
//!
//! The first packet of a connection decides where it is sent. UDP has no end of connection: as long as
//! a client goes on sending, its packets go where they went, be it to a container that is gone or to
//! the host itself. So connections of a port are forgotten when the port comes or goes.
//!
//! What is forgotten is narrow: connections to this port that were translated, or that ended on the
//! host. Others that merely use the port number, such as the resolver queries of containers, stay.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple, Protocol,
    Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::{SysError, files};
use crate::plan::step::TrackedPort;

/// How many connections of this namespace are tracked.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// All of them as text. A kernel may be built without it.
const LIST: &str = "/proc/net/nf_conntrack";

/// As long as there are no more connections than this, the text is looked at before the kernel is asked for a dump.
const FEW: u32 = 1024;

/// `CTA_TUPLE_ORIG` of linux/netfilter/nfnetlink_conntrack.h: addresses and ports as the opener sees them.
const CTA_TUPLE_ORIG: u16 = 1;
/// `CTA_FILTER` of linux/netfilter/nfnetlink_conntrack.h: which parts of the tuple must match.
const CTA_FILTER: u16 = 25;
/// `CTA_FILTER_ORIG_FLAGS`.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// `CTA_FILTER_F_CTA_PROTO_NUM`: the protocol must match.
const MATCH_PROTOCOL: u32 = 1 << 3;
/// Marks attributes that hold others (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;

/// A tracked connection, as the packets of its opener show it and as those of its answerer do.
struct Connection {
    original: Vec<Tuple>,
    to: (IpAddr, u16),
    answered_by: IpAddr,
}

/// Forgets the connections of these UDP ports. Tells how many there were.
///
/// # Errors
/// The kernel does not list or delete connections.
pub(super) fn forget(ports: &[TrackedPort], local: &BTreeSet<IpAddr>) -> Result<usize, SysError> {
    let failed = |source| SysError::Io {
        context: "forget tracked connections".to_owned(),
        source,
    };
    let wanted: BTreeSet<u16> = ports.iter().map(|port| port.port).collect();
    let socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
    let mut forgotten = 0;
    for connection in list(&socket).map_err(failed)? {
        let translated = connection.answered_by != connection.to.0;
        if wanted.contains(&connection.to.1) && (translated || local.contains(&connection.to.0)) {
            forgotten += usize::from(delete(&socket, connection).map_err(failed)?);
        }
    }
    Ok(forgotten)
}

/// Whether a connection to one of these ports may be tracked: a look before the expensive question.
///
/// A dump locks every bucket of the table, of which there are up to 262,144 however few connections there are: about
/// 10 ms for each family. The text takes no locks: 0.2 ms and a microsecond a connection. On most hosts some
/// connection or other is tracked, if only the bridge's report of its groups.
pub(super) fn maybe_any(ports: &[TrackedPort]) -> bool {
    let content = |path: &str| files::read(path.as_ref()).ok().flatten();
    match content(COUNT).and_then(|count| count.trim().parse::<u32>().ok()) {
        Some(0) => false,
        Some(..=FEW) => {
            content(LIST).is_none_or(|list| list.lines().any(|line| is_to_any(line, ports)))
        }
        Some(_) | None => true,
    }
}

/// Whether a line of the kernel's text is about a UDP connection to one of these ports.
fn is_to_any(line: &str, ports: &[TrackedPort]) -> bool {
    let mut words = line.split_ascii_whitespace().skip(2);
    let udp = words.next() == Some("udp");
    let to = words.find_map(|word| word.strip_prefix("dport="));
    udp && to.is_none_or(|to| ports.iter().any(|port| port.port.to_string() == to))
}

fn list(socket: &Socket) -> io::Result<Vec<Connection>> {
    let mut connections = Vec::new();
    let tuple = Tuple::Proto(vec![ProtoTuple::Protocol(Protocol::Udp)]);
    let flags = DefaultNla::new(CTA_FILTER_ORIG_FLAGS, MATCH_PROTOCOL.to_ne_bytes().to_vec());
    // The crate's own attributes drop the mark of nesting of what they do not know.
    let request = ConntrackMessage::Other {
        message_type: ConntrackMessageType::Get.into(),
        attributes: vec![
            DefaultNla::new(CTA_TUPLE_ORIG | NESTED, bytes(&tuple)),
            DefaultNla::new(CTA_FILTER | NESTED, bytes(&flags)),
        ],
    };
    // The kernel does not filter both families at once.
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        send(
            socket,
            NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request.clone()),
            NLM_F_DUMP,
        )?;
        receive(socket, |message| connections.extend(connection(message)))?;
    }
    Ok(connections)
}

fn bytes(attribute: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes
}

fn delete(socket: &Socket, connection: Connection) -> io::Result<bool> {
    let family = if connection.to.0.is_ipv4() {
        NetfilterProtoFamily::IPv4
    } else {
        NetfilterProtoFamily::IPv6
    };
    let request =
        ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(connection.original)]);
    send(
        socket,
        NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request),
        NLM_F_ACK,
    )?;
    match receive(socket, |_| ()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn send(socket: &Socket, message: NetfilterMessage, flags: u16) -> io::Result<()> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
}

/// Reads until the end of a dump or an acknowledgement.
fn receive(socket: &Socket, mut each: impl FnMut(&ConntrackMessage)) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let malformed =
                |error: netlink_packet_core::DecodeError| io::Error::other(error.to_string());
            let message =
                NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(malformed)?;
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => {
                    return match error.raw_code() {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                NetlinkPayload::InnerMessage(message) => {
                    if let NetfilterMessageInner::Conntrack(inner) = &message.inner {
                        each(inner);
                    }
                }
                NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn connection(message: &ConntrackMessage) -> Option<Connection> {
    let ConntrackMessage::New(attributes) = message else {
        return None;
    };
    let original = attributes
        .iter()
        .find_map(|attribute| pick!(attribute, ConntrackAttribute::CtaTupleOrig(tuple) => tuple))?;
    let reply = attributes.iter().find_map(
        |attribute| pick!(attribute, ConntrackAttribute::CtaTupleReply(tuple) => tuple),
    )?;
    let to = addresses(original)
        .find_map(|part| pick!(part, IPTuple::DestinationAddress(address) => *address))?;
    let port = original
        .iter()
        .find_map(|part| pick!(part, Tuple::Proto(parts) => parts))?;
    let port = port
        .iter()
        .find_map(|part| pick!(part, ProtoTuple::DestinationPort(port) => *port))?;
    let answered_by = addresses(reply)
        .find_map(|part| pick!(part, IPTuple::SourceAddress(address) => *address))?;
    Some(Connection {
        original: original.clone(),
        to: (to, port),
        answered_by,
    })
}

fn addresses(tuple: &[Tuple]) -> impl Iterator<Item = &IPTuple> {
    tuple
        .iter()
        .filter_map(|part| pick!(part, Tuple::Ip(parts) => parts))
        .flatten()
}

#[cfg(test)]
mod tests {
    use wire::state::Protocol;

    use super::*;

    #[test]
    fn the_text_tells_udp_connections_to_a_port() {
        let check = |line, expected| {
            let port = |port| TrackedPort {
                protocol: Protocol::Udp,
                port,
            };
            assert_eq!(is_to_any(line, &[port(53), port(5353)]), expected, "{line}");
        };
        check(
            "ipv4     2 udp      17 29 src=192.0.2.2 dst=192.0.2.1 sport=4000 dport=5353 [UNREPLIED] src=10.0.0.2 dst=192.0.2.2 sport=53 dport=4000 mark=0 zone=0 use=2",
            true,
        );
        check(
            "ipv6     10 udp      17 29 src=2001:db8::2 dst=2001:db8::1 sport=5353 dport=53 src=2001:db8::1 dst=2001:db8::2 sport=53 dport=5353 mark=0 zone=0 use=2",
            true,
        );
        check(
            "ipv4     2 udp      17 29 src=192.0.2.2 dst=192.0.2.1 sport=5353 dport=4000 src=192.0.2.1 dst=192.0.2.2 sport=4000 dport=5353 mark=0 zone=0 use=2",
            false,
        );
        check(
            "ipv4     2 tcp      6 431999 ESTABLISHED src=192.0.2.2 dst=192.0.2.1 sport=4000 dport=5353 src=10.0.0.2 dst=192.0.2.2 sport=53 dport=4000 [ASSURED] mark=0 zone=0 use=2",
            false,
        );
        check(
            "ipv4     2 unknown  2 599 src=10.0.0.1 dst=224.0.0.22 [UNREPLIED] src=224.0.0.22 dst=10.0.0.1 mark=0 zone=0 use=2",
            false,
        );
    }
}
