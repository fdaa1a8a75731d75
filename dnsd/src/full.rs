//! The long way to a reply: any message, read and written by `hickory-proto`.
//!
//! What cannot be understood gets no answer, nor does an answer: two responders could otherwise keep each other
//! busy for ever. What can be understood but is not a query of one question is refused with the code for it.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record};

use crate::answer::{self, Found, Policy, Question, Verdict};
use crate::name;
use crate::packet::{self, HEADER, UDP_SIZE, flag, rcode};
use crate::respond::{Outcome, Scratch};
use crate::zones::{Asker, Zones};

/// Replies to any message.
pub fn respond(
    zones: &Zones,
    policy: &Policy,
    asker: &Asker,
    query: &[u8],
    tcp: bool,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Outcome {
    let (Some(header), Some(flags)) = (query.get(..HEADER), packet::u16_at(query, 2)) else {
        return Outcome::Drop;
    };
    if flags & flag::QR != 0 {
        return Outcome::Drop;
    }
    if flags & flag::OPCODE != 0 {
        return bare(header, flags, rcode::NOTIMP, out);
    }
    if header[4..6] != [0, 1] {
        return bare(header, flags, rcode::FORMERR, out);
    }
    let Ok(message) = Message::from_vec(query) else {
        return Outcome::Drop;
    };
    let [asked] = message.queries.as_slice() else {
        return Outcome::Drop;
    };
    let bad_version = message
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() != 0);
    if bad_version {
        return write(
            &reply(&message, asked, ResponseCode::BADVERS),
            tcp,
            &message,
            out,
        );
    }
    scratch.key.clear();
    for label in asked.name.iter() {
        scratch
            .key
            .push(u8::try_from(label.len()).unwrap_or_default());
        scratch.key.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    let question = Question {
        name: &scratch.key,
        kind: asked.query_type.into(),
        class: asked.query_class.into(),
        turn: message.metadata.id,
    };
    let verdict = answer::decide(zones, policy, asker, &question, &mut scratch.found);
    let code = match verdict {
        Verdict::Forward(servers) => return Outcome::Forward(servers),
        Verdict::Addresses | Verdict::Pointers | Verdict::Services => ResponseCode::NoError,
        Verdict::NoName => ResponseCode::NXDomain,
        Verdict::Refused => ResponseCode::Refused,
    };
    let mut answer = reply(&message, asked, code);
    answer.answers = records(zones, &verdict, &asked.name, &scratch.found);
    let negative =
        verdict == Verdict::NoName || verdict == Verdict::Addresses && answer.answers.is_empty();
    if let Some(apex) = policy.domain.apex().filter(|_| negative) {
        answer.authorities.extend(authority(apex));
    }
    if verdict == Verdict::Services {
        answer.additionals = service_addresses(zones, asker, asked, &scratch.found);
    }
    write(&answer, tcp, &message, out)
}

/// A reply of nothing but a header.
fn bare(header: &[u8], flags: u16, code: u16, out: &mut Vec<u8>) -> Outcome {
    out.clear();
    out.extend_from_slice(&header[..2]);
    out.extend_from_slice(&packet::reply_flags(flags, code).to_be_bytes());
    out.resize(HEADER, 0);
    Outcome::Reply
}

fn reply(query: &Message, asked: &Query, code: ResponseCode) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = query.metadata.recursion_desired;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    reply.metadata.response_code = code;
    reply.queries.push(asked.clone());
    reply.edns = query.edns.as_ref().map(|edns| {
        let mut own = Edns::new();
        own.set_max_payload(UDP_SIZE);
        own.set_dnssec_ok(edns.flags().dnssec_ok);
        own
    });
    reply
}

fn records(zones: &Zones, verdict: &Verdict, owner: &Name, found: &Found) -> Vec<Record> {
    let record = |data| Record::from_rdata(owner.clone(), 0, data);
    match verdict {
        Verdict::Addresses => {
            let ipv4 = found.ipv4.iter().map(|address| RData::A(A(*address)));
            let ipv6 = found.ipv6.iter().map(|address| RData::AAAA(AAAA(*address)));
            ipv4.chain(ipv6).map(record).collect()
        }
        Verdict::Pointers => {
            let names = found
                .names
                .iter()
                .filter_map(|(n, at)| full_name(zones.network(*n).name_of(*at), None));
            names.map(|name| record(RData::PTR(PTR(name)))).collect()
        }
        Verdict::Services => {
            let service = |service: &crate::zones::Service| {
                let target = full_name(&service.target, Some(owner_tail(owner, &service.name)))?;
                Some(record(RData::SRV(SRV::new(0, 0, service.port, target))))
            };
            found.services.iter().filter_map(service).collect()
        }
        Verdict::NoName | Verdict::Refused | Verdict::Forward(_) => Vec::new(),
    }
}

/// Whoever keeps answers keeps none of these: the name may exist in a moment.
fn authority(apex: &[u8]) -> Option<Record> {
    let data = SOA::new(Name::root(), Name::root(), 0, 0, 0, 0, 0);
    Some(Record::from_rdata(
        full_name(apex, None)?,
        0,
        RData::SOA(data),
    ))
}

/// What the asker wrote behind the name of a service: the search domain, if it used it.
fn owner_tail(owner: &Name, service: &[u8]) -> Name {
    let labels = usize::from(owner.num_labels()).saturating_sub(name::labels(service).count());
    owner.trim_to(labels)
}

fn full_name(key: &[u8], tail: Option<Name>) -> Option<Name> {
    let name = Name::from_labels(name::labels(key)).ok()?;
    match tail {
        None => Some(name),
        Some(tail) => name.append_name(&tail).ok(),
    }
}

/// The addresses of the containers that offer a service, so that nobody has to ask again.
fn service_addresses(zones: &Zones, asker: &Asker, asked: &Query, found: &Found) -> Vec<Record> {
    let mut records = Vec::new();
    for service in &found.services {
        let Some(target) = full_name(
            &service.target,
            Some(owner_tail(&asked.name, &service.name)),
        ) else {
            continue;
        };
        for network in asker.networks.iter().map(|n| zones.network(*n)) {
            let Some(at) = network.find(&service.target) else {
                continue;
            };
            let ipv4 = network.ipv4(at).iter().map(|address| IpAddr::V4(*address));
            let ipv6 = network.ipv6(at).iter().map(|address| IpAddr::V6(*address));
            for address in ipv4.chain(ipv6) {
                let data = match address {
                    IpAddr::V4(address) => RData::A(A(address)),
                    IpAddr::V6(address) => RData::AAAA(AAAA(address)),
                };
                let mut record = Record::from_rdata(target.clone(), 0, data);
                record.dns_class = DNSClass::IN;
                if !records.contains(&record) {
                    records.push(record);
                }
            }
        }
    }
    records
}

/// Encodes a reply; if it is too long, with as many records as fit.
fn write(reply: &Message, tcp: bool, query: &Message, out: &mut Vec<u8>) -> Outcome {
    let edns = query.edns.as_ref().map(|edns| packet::Edns {
        size: edns.max_payload(),
        dnssec: false,
        options: false,
    });
    let limit = packet::limit(edns, tcp);
    let Ok(mut bytes) = reply.to_vec() else {
        return Outcome::Drop;
    };
    if bytes.len() > limit {
        let mut short = reply.clone();
        short.additionals.clear();
        short.metadata.truncation = true;
        let (mut fits, mut too_many) = (0, reply.answers.len() + 1);
        while fits + 1 < too_many {
            let half = usize::midpoint(fits, too_many);
            short.answers = reply.answers[..half].to_vec();
            match short.to_vec() {
                Ok(bytes) if bytes.len() <= limit => fits = half,
                Ok(_) | Err(_) => too_many = half,
            }
        }
        short.metadata.truncation = fits < reply.answers.len();
        short.answers = reply.answers[..fits].to_vec();
        bytes = match short.to_vec() {
            Ok(bytes) => bytes,
            Err(_) => return Outcome::Drop,
        };
    }
    out.clear();
    out.append(&mut bytes);
    Outcome::Reply
}
