//! What we answer ourselves: the link's own questions.
//!
//! The guest believes to be on a link with a router that knows everything. That router is here: it has every address
//! that is not the guest's (ARP, neighbour discovery), tells the guest's addresses to those who ask (DHCP, DHCPv6,
//! router advertisements), and never refuses.
//!
//! [`Local::arp`] and [`Local::packet`] are given what the forwarder has parsed of a frame and say whether it was for
//! them. Everything they know is in [`Config`], except the link-layer addresses of real neighbours on the host's link,
//! which the shell tells by [`crate::event::Event::Neighbour`]: a guest that asks for one of these is told the real
//! link-layer address, although frames for it come to us like all others. When it changes the guest is told unasked, and
//! so it is when what it was told is not true any more: mostly because its own first packet made the host ask for the
//! neighbour.
//!
//! Router advertisements go out when asked for, and unasked every few minutes ([`Local::deadline`], [`Local::timer`]),
//! unless we configured the guest's addresses ourselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::config::{Config, Family};
use crate::event::{Drop, Headers, Lane, Offload, Output, Payload};
use crate::limits;
use crate::packet::arp::{self, Operation};
use crate::packet::build::{self, Link};
use crate::packet::ndp::{self, NeighbourAdvertisement, RouterAdvertisement};
use crate::packet::{Mac, eth, ip, udp};

mod dhcp;
mod dhcpv6;

/// The services of the link.
#[derive(Debug)]
pub struct Local {
    neighbours: BTreeMap<IpAddr, Mac>,
    /// What the guest has asked for.
    told: Told,
    advertise_at: Option<Instant>,
    random: u64,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// It is for somebody else.
    Elsewhere,
    /// It was for us, and this is the answer.
    Reply(Output),
    /// It was for us, and there is nothing to say.
    Silent,
    /// It was for us, and wrong or unwanted.
    Dropped(Drop),
}

impl Local {
    /// Services that know no neighbour yet. `seed` decides when router advertisements go out.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            neighbours: BTreeMap::new(),
            told: Told::default(),
            advertise_at: None,
            random: seed | 1,
        }
    }

    /// The run begins.
    pub fn start(&mut self, config: &Config, now: Instant) {
        if !config.off.ra && config.families.v6.is_some() {
            self.advertise_at = Some(now + self.pause());
        }
    }

    /// The configuration is another one: the guest is told at once.
    pub fn restart(&mut self, config: &Config, now: Instant) {
        let may_be = |address: &IpAddr| may_be_neighbour(config, *address).is_some();
        self.neighbours.retain(|address, _| may_be(address));
        let wanted = !config.off.ra && config.families.v6.is_some();
        self.advertise_at = wanted.then_some(now);
    }

    /// Answer an ARP message: the payload of a frame of type [`eth::ARP`].
    #[must_use]
    pub fn arp(&mut self, config: &Config, bytes: &[u8]) -> Handled {
        let Some(family) = &config.families.v4 else {
            return Handled::Dropped(Drop::Disabled);
        };
        let message = match arp::parse(bytes) {
            Ok(message) => message,
            Err(reason) => return Handled::Dropped(reason),
        };
        let announcement = message.sender == message.target;
        if message.operation != Operation::Request
            || announcement
            || is_guests(family, message.target.into())
        {
            return Handled::Silent;
        }
        let mac = self.tell(config, message.target.into());
        let reply = arp::Message {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: message.target,
            target_mac: message.sender_mac,
            target: message.sender,
        };
        let link = Link {
            source: config.link.our_mac,
            destination: message.sender_mac,
        };
        Handled::Reply(frame(build::arp(&link, reply), Vec::new()))
    }

    /// Answer a packet, if it is for the link itself. Not for fragments.
    #[must_use]
    pub fn packet(
        &mut self,
        config: &Config,
        from: Mac,
        packet: &ip::Packet<'_>,
        offload: Offload,
    ) -> Handled {
        let link = Link {
            source: config.link.our_mac,
            destination: from,
        };
        match packet.protocol {
            ip::UDP => service(config, &link, packet, offload),
            ip::ICMPV6 => match packet.payload.first() {
                Some(133..=136) => self.neighbour_discovery(config, &link, packet),
                Some(_) | None => Handled::Elsewhere,
            },
            _ => Handled::Elsewhere,
        }
    }

    fn neighbour_discovery(
        &mut self,
        config: &Config,
        link: &Link,
        packet: &ip::Packet<'_>,
    ) -> Handled {
        if config.off.ndp {
            return Handled::Dropped(Drop::Disabled);
        }
        let Some(family) = &config.families.v6 else {
            return Handled::Dropped(Drop::Disabled);
        };
        let message = match ndp::parse(packet) {
            Ok(message) => message,
            Err(reason) => return Handled::Dropped(reason),
        };
        match message {
            ndp::Message::NeighbourSolicitation { target } => {
                // The guest asking whether an address is free (RFC 4862, 5.4) is not contradicted.
                if packet.source.is_unspecified() || is_guests(family, target.into()) {
                    return Handled::Silent;
                }
                let advertisement = NeighbourAdvertisement {
                    target,
                    mac: self.tell(config, target.into()),
                    solicited: true,
                };
                Handled::Reply(discovery(
                    link,
                    family.ours,
                    packet.source,
                    &advertisement.to_bytes(),
                ))
            }
            ndp::Message::RouterSolicitation if config.off.ra => Handled::Dropped(Drop::Disabled),
            ndp::Message::RouterSolicitation => {
                Handled::Reply(router_advertisement(config, family, link, packet.source))
            }
            ndp::Message::Other => Handled::Silent,
        }
    }

    /// The link-layer address that the guest is told for an address.
    #[must_use]
    pub fn mac_of(&self, config: &Config, address: IpAddr) -> Mac {
        let real = self.neighbours.get(&address);
        real.copied().unwrap_or(config.link.our_mac)
    }

    /// The same, and it is told.
    fn tell(&mut self, config: &Config, address: IpAddr) -> Mac {
        self.told.note(address);
        self.mac_of(config, address)
    }

    /// The host's kernel knows something new of a neighbour. If it is another one, or the guest was told something else
    /// before, the result tells it. `guest` is its link-layer address, or everybody's.
    pub fn neighbour(
        &mut self,
        config: &Config,
        guest: Mac,
        address: IpAddr,
        mac: Option<Mac>,
    ) -> Option<Output> {
        let family = may_be_neighbour(config, address)?;
        let before = self.mac_of(config, address);
        let known = match mac {
            Some(mac)
                if self.neighbours.len() < limits::NEIGHBOURS
                    || self.neighbours.contains_key(&address) =>
            {
                self.neighbours.insert(address, mac)
            }
            Some(_) => None,
            None => {
                self.neighbours.remove(&address);
                None
            }
        };
        let after = self.mac_of(config, address);
        let concerns_it = known.is_some() || self.told.has(address);
        (before != after && concerns_it)
            .then(|| announcement(config, family, guest, address, after))
    }

    /// When [`Local::timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.advertise_at
    }

    /// The router advertisement that is due, if one is.
    pub fn timer(&mut self, config: &Config, now: Instant, guest: Mac) -> Option<Output> {
        let family = config.families.v6.as_ref()?;
        if self.advertise_at.is_none_or(|at| now < at) {
            return None;
        }
        self.advertise_at = Some(now + self.pause());
        let link = Link {
            source: config.link.our_mac,
            destination: guest,
        };
        Some(router_advertisement(
            config,
            family,
            &link,
            ndp::ALL_NODES.into(),
        ))
    }

    fn pause(&mut self) -> Duration {
        let (least, most) = limits::ADVERTISEMENT_PAUSE;
        // Xorshift, 64 bits: not to be guessed by nobody, only not in step with others.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let spread = u64::try_from((most - least).as_millis()).unwrap_or(u64::MAX);
        least + Duration::from_millis(self.random % spread)
    }
}

/// Addresses that the guest was told something of. Of more than are kept, all are taken for told.
#[derive(Debug, Default)]
struct Told {
    some: BTreeSet<IpAddr>,
    more: bool,
}

impl Told {
    fn note(&mut self, address: IpAddr) {
        if self.some.len() < limits::NEIGHBOURS {
            self.some.insert(address);
        } else {
            self.more |= !self.some.contains(&address);
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        self.more || self.some.contains(&address)
    }
}

/// The family of an address that the world may have: ours stay ours, and the guest's its own, whoever has them there.
fn may_be_neighbour(config: &Config, address: IpAddr) -> Option<&Family> {
    let family = config.families.of(address)?;
    let other = address == family.ours || is_mapped(family, address) || is_guests(family, address);
    (!other).then_some(family)
}

/// Whether an address was given to the guest.
fn is_guests(family: &Family, address: IpAddr) -> bool {
    family.addresses.iter().any(|net| net.addr() == address)
}

/// Whether an address stands for something else.
fn is_mapped(family: &Family, address: IpAddr) -> bool {
    [
        family.map_host_loopback,
        family.map_guest,
        family.dns_forward,
    ]
    .contains(&Some(address))
}

/// DHCP and DHCPv6.
fn service(config: &Config, link: &Link, packet: &ip::Packet<'_>, offload: Offload) -> Handled {
    let port = match packet.payload {
        [_, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => return Handled::Dropped(Drop::Malformed),
    };
    let for_us = match (port, packet.destination) {
        (dhcp::SERVER_PORT, IpAddr::V4(to)) => {
            to == Ipv4Addr::BROADCAST
                || config
                    .families
                    .v4
                    .as_ref()
                    .is_some_and(|family| family.ours == to)
        }
        (dhcpv6::SERVER_PORT, IpAddr::V6(to)) => to == dhcpv6::ALL_AGENTS,
        _ => false,
    };
    if !for_us {
        return Handled::Elsewhere;
    }
    match udp::parse(packet.payload) {
        Ok((header, _)) if !udp::fits(packet, header, offload) => Handled::Dropped(Drop::Checksum),
        Ok((_, message)) => match packet.source {
            IpAddr::V4(_) => dhcp::handle(config, link, message),
            IpAddr::V6(source) => dhcpv6::handle(config, link, source, message),
        },
        Err(reason) => Handled::Dropped(reason),
    }
}

fn frame(headers: Headers, payload: Vec<u8>) -> Output {
    Output::Frame {
        headers,
        payload: if payload.is_empty() {
            Payload::None
        } else {
            Payload::Bytes(payload)
        },
        offload: Offload::default(),
        lane: Lane::Common,
    }
}

fn discovery(link: &Link, source: IpAddr, destination: IpAddr, message: &[u8]) -> Output {
    let (head, rest) = message.split_at_checked(8).unwrap_or((message, &[]));
    let headers = build::icmp(link, source, destination, ip::HOP_LIMIT, head, rest);
    frame(headers, rest.to_vec())
}

fn router_advertisement(config: &Config, family: &Family, link: &Link, asker: IpAddr) -> Output {
    let destination = if asker.is_unspecified() {
        ndp::ALL_NODES.into()
    } else {
        asker
    };
    let advertisement = RouterAdvertisement {
        mac: config.link.our_mac,
        prefix: family.assigned().and_then(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }),
        mtu: (config.link.mtu != 0).then_some(config.link.mtu),
        dns: &config.announce.dns,
        search: &config.announce.search,
    };
    discovery(link, family.ours, destination, &advertisement.to_bytes())
}

/// Gratuitous ARP (RFC 5227, 3) or an unsolicited neighbour advertisement.
fn announcement(config: &Config, family: &Family, guest: Mac, address: IpAddr, mac: Mac) -> Output {
    let link = Link {
        source: config.link.our_mac,
        destination: guest,
    };
    match address {
        IpAddr::V4(address) => {
            let message = arp::Message {
                operation: Operation::Request,
                sender_mac: mac,
                sender: address,
                target_mac: [0; 6],
                target: address,
            };
            let link = Link {
                destination: eth::BROADCAST,
                ..link
            };
            frame(build::arp(&link, message), Vec::new())
        }
        IpAddr::V6(target) => {
            let advertisement = NeighbourAdvertisement {
                target,
                mac,
                solicited: false,
            };
            let all: Ipv6Addr = ndp::ALL_NODES;
            discovery(&link, family.ours, all.into(), &advertisement.to_bytes())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
