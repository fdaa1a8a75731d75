//! Groups and everybody: what the guest sends there, what it hears from there, and which groups it listens to.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::counting::Fortune;
use super::datagrams::Received;
use super::{Forwarder, Kind, Live};
use crate::addr::{self, Guest, Host};
use crate::config::{Families, Listener};
use crate::event::{Drop, FlowId, Lane, Offload, Output, Payload, Side, SocketId, Transport};
use crate::flow::{Class, Tuple};
use crate::limits;
use crate::packet::build;
use crate::packet::group::{self, Membership};
use crate::packet::{eth, ip, ndp};
use crate::udp::Member;

impl Forwarder {
    /// Whether many machines have this address.
    pub(super) fn is_group(&self, address: IpAddr) -> bool {
        addr::is_group(address) || self.translation.is_broadcast(address)
    }

    /// The endpoints of a datagram of the guest to a group, which may be a group to listen to as well.
    pub(super) fn group_tuple(
        &mut self,
        packet: &ip::Packet<'_>,
        from: u16,
        to: u16,
    ) -> Result<Tuple, Drop> {
        let (source, destination) = (packet.source, packet.destination);
        if !addr::is_unicast(source) || source.is_loopback() {
            return Err(Drop::Source);
        }
        let on = match source {
            IpAddr::V4(_) => self.config.families.v4.is_some(),
            IpAddr::V6(_) => self.config.families.v6.is_some(),
        };
        if !on {
            return Err(Drop::Destination);
        }
        if destination.is_multicast()
            && let Some(now) = self.now
            && self.groups.speaks(destination, to)
        {
            self.hear(now, SocketAddr::new(destination, to));
        }
        Ok(Tuple {
            guest: Guest(SocketAddr::new(source, from)),
            far: Guest(SocketAddr::new(destination, to)),
            transport: Transport::Udp,
        })
    }

    /// Who answers to something that was sent to many, as the guest calls him.
    pub(super) fn answer(&self, peer: SocketAddr) -> Result<SocketAddr, Drop> {
        let peer = addr::canonical(peer);
        // Our own address is known without its link.
        if self
            .loops
            .contains_key(&SocketAddr::new(peer.ip(), peer.port()))
        {
            return Err(Drop::Source);
        }
        let shown = self.translation.to_guest(Host(peer));
        shown.map(|guest| guest.0).ok_or(Drop::Source)
    }

    /// Give the guest what somebody has sent to a group, if it listens.
    pub(super) fn give_members(
        &mut self,
        group: SocketAddr,
        received: Received<'_>,
    ) -> Result<(), Drop> {
        if !self.groups.has(group.ip()) {
            return Err(Drop::Destination);
        }
        let from = self.answer(received.peer)?;
        let mac = eth::group(group.ip()).unwrap_or(eth::BROADCAST);
        let mut delivery = self.delivery(self.link(mac), received.ttl);
        delivery.datagrams(from, group, received.spans, received.arena)
    }

    /// The guest says which groups it listens to.
    pub(super) fn membership(&mut self, now: Instant, packet: &ip::Packet<'_>) -> Result<(), Drop> {
        if self.off.udp {
            return Ok(());
        }
        for said in group::parse(packet)? {
            match said {
                Membership::Joins(group) => {
                    let published = self.everywhere().next().is_some();
                    for port in self.groups.join(now, group, published) {
                        self.hear(now, SocketAddr::new(group, port));
                    }
                }
                Membership::Leaves(group) => {
                    let flows = self.groups.leave(group);
                    self.stop(flows);
                }
            }
        }
        Ok(())
    }

    /// The links of these families that the guest's one stands for are others now: groups are heard there, and what the
    /// guest sends to many leaves there.
    pub fn move_links(&mut self, moved: &Families<()>) {
        let Some(now) = self.now else { return };
        self.era = self.era.wrapping_add(1);
        let published = self.everywhere().next().is_some();
        for v6 in [moved.v4.map(|()| false), moved.v6.map(|()| true)] {
            let Some(v6) = v6 else { continue };
            for (group, ports, flows) in self.groups.move_all(v6, published) {
                self.stop(flows);
                for port in ports {
                    self.hear(now, SocketAddr::new(group, port));
                }
            }
        }
    }

    fn stop(&mut self, flows: Vec<FlowId>) {
        for flow in flows {
            self.end_datagrams(flow);
        }
    }

    /// Published ports whose listeners hear whatever the host has joined.
    fn everywhere(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(|listener| {
            let host = listener.side == Side::Host && listener.address.is_none();
            host && listener.transport == Transport::Udp && !listener.follow
        })
    }

    /// Hear a group on a port, unless a listener does.
    fn hear(&mut self, now: Instant, group: SocketAddr) {
        let ours = |listener: &Listener| (listener.first..=listener.last).contains(&group.port());
        if self.everywhere().any(ours) || !self.make_room(now, Class::Datagram) {
            return;
        }
        let live = Live::new(Kind::Member(Member { group }), Class::Datagram);
        self.counters.count(live.kind.counter(Fortune::Made));
        let flow = self.flows.insert(now, None, Class::Datagram, live);
        self.groups.opened(group.ip(), group.port(), flow);
        let socket = SocketId::host(flow);
        self.out.push_back(Output::Join { socket, group });
    }

    /// Ask who still listens, if it is time to.
    pub(super) fn groups_due(&mut self, now: Instant) {
        let Some(flows) = self.groups.timer(now) else {
            return;
        };
        self.stop(flows);
        if self.groups.deadline().is_none() {
            return;
        }
        let link = |destination| self.link(destination);
        let families = &self.config.families;
        let mut frames = Vec::new();
        if let Some(family) = &families.v4 {
            let all = IpAddr::from(group::ALL_SYSTEMS);
            let mac = eth::group(all).unwrap_or(eth::BROADCAST);
            let query = group::query_v4(limits::GROUP_QUERY_SECONDS);
            let length = query.len();
            let headers = build::ip(&link(mac), family.ours, all, group::IGMP, 1, length);
            frames.push((headers, query.to_vec()));
        }
        if let Some(IpAddr::V6(ours)) = families.v6.as_ref().map(|family| family.ours) {
            let all = IpAddr::from(ndp::ALL_NODES);
            let mac = eth::group(all).unwrap_or(eth::BROADCAST);
            let query = group::query_v6(ours, ndp::ALL_NODES, limits::GROUP_QUERY_SECONDS);
            let (kind, length) = (group::HOP_BY_HOP, query.len());
            let headers = build::ip(&link(mac), ours.into(), all, kind, 1, length);
            frames.push((headers, query.to_vec()));
        }
        let frames = frames.into_iter().map(|(headers, query)| Output::Frame {
            headers,
            payload: Payload::Bytes(query),
            offload: Offload::default(),
            lane: Lane::Common,
        });
        self.out.extend(frames);
    }
}

#[cfg(test)]
mod tests;
