//! Links that nobody asks us for but `replay`: what a real host would have.

use std::os::fd::RawFd;

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkVeth, LinkVrf};
use wire::names::InterfaceName;

use super::{Links, SysError, netlink};

impl Links {
    /// Makes a pair of interfaces, the other end in the namespace of this descriptor.
    pub(in crate::sys) async fn create_wire(
        &self,
        name: &InterfaceName,
        peer: &InterfaceName,
        namespace: RawFd,
    ) -> Result<(), SysError> {
        let mut other = LinkMessage::default();
        other
            .attributes
            .push(LinkAttribute::IfName(peer.to_string()));
        other.attributes.push(LinkAttribute::NetNsFd(namespace));
        let link = LinkVeth::new(name.as_str(), "")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
            .build();
        let made = self.handle.link().add(link).execute().await;
        made.map_err(netlink(format!("create {name}")))
    }

    /// Makes a VRF with this table.
    pub(in crate::sys) async fn create_vrf(
        &self,
        name: &InterfaceName,
        table: u32,
    ) -> Result<(), SysError> {
        let link = LinkVrf::new(name.as_str(), table).build();
        let made = self.handle.link().add(link).execute().await;
        made.map_err(netlink(format!("create VRF {name}")))
    }
}
