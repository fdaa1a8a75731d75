//! Echo flows, and the errors that the guest is told of its datagrams.
//!
//! The kernel's echo sockets put their own port where the identifier stands and compute the checksum; so the guest's
//! identifier, if the host had another user of it, is put back into the replies. A flow is an identifier and the address
//! it asks ([`crate::udp::Flow`] keeps it).
//!
//! What the host's kernel learnt of a datagram's fate ([`crate::event::Event::Failure`]) becomes the ICMP message that
//! the guest would have got from a router: the sender as the guest calls it, and its own packet quoted.

use std::net::{IpAddr, SocketAddr};

use crate::addr::{Host, Translation};
use crate::event::{
    Drop, Errno, Failure, Headers, Lane, Offload, Output, Payload, Span, Transport,
};
use crate::flow::Tuple;
use crate::limits;
use crate::packet::build::{self, Link};
use crate::packet::{eth, icmp, ip};
use crate::udp::{Delivery, Flow, bytes, ip_header};

/// The header of the guest's request, for an echo socket.
#[must_use]
pub fn request(echo: &icmp::Echo<'_>, six: bool) -> Headers {
    let kind = if six { icmp::v6::ECHO } else { icmp::v4::ECHO };
    let mut header = Headers::new();
    let rest = icmp::echo_rest(echo.id, echo.sequence);
    header.push(&icmp::head(kind, 0, rest));
    header
}

/// Give the guest the reply that an echo socket received.
///
/// # Errors
///
/// [`Drop::Malformed`], [`Drop::Protocol`] for what is no reply.
pub fn reply(
    delivery: &mut Delivery<'_>,
    tuple: &Tuple,
    span: Span,
    arena: &[u8],
) -> Result<(), Drop> {
    let (far, guest) = (tuple.far.0.ip(), tuple.guest.0);
    let message = bytes(arena, span).ok_or(Drop::Malformed)?;
    let (header, data) = message
        .split_first_chunk::<{ icmp::LEN }>()
        .ok_or(Drop::Malformed)?;
    let [kind, _, _, _, _, _, s0, s1] = *header;
    let (expected, protocol) = match guest {
        SocketAddr::V4(_) => (icmp::v4::ECHO_REPLY, ip::ICMP),
        SocketAddr::V6(_) => (icmp::v6::ECHO_REPLY, ip::ICMPV6),
    };
    if kind != expected {
        return Err(Drop::Protocol);
    }
    let length = ip_header(far).saturating_add(message.len());
    if length > limits::IP_MAX as usize {
        return Err(Drop::Malformed);
    }
    let rest = icmp::echo_rest(guest.port(), u16::from_be_bytes([s0, s1]));
    let head = icmp::head(kind, 0, rest);
    let hops = delivery.hop_limit();
    let headers = build::icmp(&delivery.link, far, guest.ip(), hops, &head, data);
    let payload = Span {
        at: span.at.saturating_add(8),
        len: span.len.saturating_sub(8),
    };
    if length > delivery.mtu {
        let head = headers.as_bytes().last_chunk().ok_or(Drop::Malformed)?;
        delivery.fragments(far, guest.ip(), protocol, head, payload);
        return Ok(());
    }
    delivery.out.push_back(Output::Frame {
        headers,
        payload: Payload::Span(payload),
        offload: Offload::default(),
        lane: Lane::Common,
    });
    Ok(())
}

/// What an ICMP error says, before the quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// MTU or pointer.
    pub rest: u32,
    /// Who says so, as the guest calls him.
    pub offender: IpAddr,
}

/// What the guest is to be told of a failure, if anything.
#[must_use]
pub fn verdict(flow: &Flow, translation: &Translation, failure: &Failure<'_>) -> Option<Verdict> {
    let far = flow.tuple().far.0.ip();
    let six = far.is_ipv6();
    // Of a name server of the other family, the guest is told in the words of its own.
    let message = failure.icmp.filter(|_| flow.to().0.is_ipv6() == six);
    let Some((kind, code, info)) = message else {
        let (kind, code) = local(failure.error, six)?;
        return Some(Verdict {
            kind,
            code,
            rest: 0,
            offender: far,
        });
    };
    let rest = match (six, kind, code) {
        (false, icmp::v4::UNREACHABLE, icmp::v4::TOO_BIG) => info & 0xffff,
        (false, icmp::v4::PARAMETER, _) => (info & 0xff) << 24,
        (false, icmp::v4::UNREACHABLE | icmp::v4::TIME_EXCEEDED, _) => 0,
        (true, icmp::v6::TOO_BIG | icmp::v6::PARAMETER, _) => info,
        (true, icmp::v6::UNREACHABLE | icmp::v6::TIME_EXCEEDED, _) => 0,
        _ => return None,
    };
    let offender = match failure.offender.map(|offender| offender.to_canonical()) {
        Some(offender) if offender != flow.to().0.ip() && offender.is_ipv6() == six => {
            let shown = translation.to_guest(Host(SocketAddr::new(offender, 0)));
            shown.map_or(far, |shown| shown.0.ip())
        }
        _ => far,
    };
    Some(Verdict {
        kind,
        code,
        rest,
        offender,
    })
}

/// Type and code for an error number that no message told of.
#[must_use]
pub fn local(error: Errno, six: bool) -> Option<(u8, u8)> {
    let (unreachable, net, host, forbidden, port) = if six {
        (icmp::v6::UNREACHABLE, 0, 3, 1, icmp::v6::PORT)
    } else {
        (icmp::v4::UNREACHABLE, 0, 1, 13, icmp::v4::PORT)
    };
    let code = match error.0 {
        libc::ECONNREFUSED => port,
        libc::ENETUNREACH | libc::ENETDOWN => net,
        libc::EHOSTUNREACH | libc::EHOSTDOWN => host,
        libc::EACCES | libc::EPERM => forbidden,
        _ => return None,
    };
    Some((unreachable, code))
}

/// The ICMP error: the guest's packet, whose payload began with `payload`, is quoted.
#[must_use]
pub fn error(link: &Link, flow: &Flow, verdict: Verdict, payload: &[u8]) -> Output {
    let tuple = flow.tuple();
    let (guest, far) = (tuple.guest.0, tuple.far.0);
    let most = match guest {
        SocketAddr::V4(_) => limits::QUOTE.0,
        SocketAddr::V6(_) => limits::QUOTE.1,
    };
    let (headers, payload) = match tuple.transport {
        Transport::Echo => quote_echo(link, flow, bounded(payload, most)),
        Transport::Udp | Transport::Tcp => {
            let payload = bounded(payload, most);
            let headers = build::udp_complete(link, guest, far, flow.ttl(), payload);
            (headers, payload)
        }
    };
    let mut quote = headers
        .as_bytes()
        .get(eth::LEN..)
        .unwrap_or_default()
        .to_vec();
    quote.extend_from_slice(payload);
    quote.truncate(most);
    let error = icmp::Error {
        kind: verdict.kind,
        code: verdict.code,
        rest: verdict.rest,
        quote: &quote,
    };
    let headers = build::icmp_error(link, verdict.offender, guest.ip(), &error);
    Output::Frame {
        headers,
        payload: Payload::Bytes(quote),
        offload: Offload::default(),
        lane: Lane::Last,
    }
}

/// Headers of the guest's request. The kernel quotes it from the ICMP header on; for what it failed to send itself it
/// may not, and then the last request was it.
fn quote_echo<'a>(link: &Link, flow: &Flow, payload: &'a [u8]) -> (Headers, &'a [u8]) {
    let (guest, far) = (flow.tuple().guest.0, flow.tuple().far.0);
    let kind = match guest {
        SocketAddr::V4(_) => icmp::v4::ECHO,
        SocketAddr::V6(_) => icmp::v6::ECHO,
    };
    let (sequence, data) = match payload.split_first_chunk::<{ icmp::LEN }>() {
        Some(([first, 0, _, _, _, _, s0, s1], data)) if *first == kind => {
            (u16::from_be_bytes([*s0, *s1]), data)
        }
        _ => (flow.sequence, &[][..]),
    };
    let head = icmp::head(kind, 0, icmp::echo_rest(guest.port(), sequence));
    let headers = build::icmp(link, guest.ip(), far.ip(), flow.ttl(), &head, data);
    (headers, data)
}

fn bounded(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(..most).unwrap_or(bytes)
}
