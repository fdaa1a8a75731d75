//! What a DHCP lease changes: addresses and routes that come and go while a container runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::route::{RouteFlags, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use wire::names::InterfaceName;
use wire::proxy::LeasedRoute;

use super::{Links, SysError, if_there, invalid, is_gone, mtu, netlink};

impl Links {
    /// Takes an address away. Tells whether it was there.
    pub(in crate::sys) async fn delete_address(
        &self,
        link: &InterfaceName,
        address: IpNet,
    ) -> Result<bool, SysError> {
        let context = format!("delete address {address} from {link}");
        let Some(index) = if_there(self.index(link).await)? else {
            return Ok(false);
        };
        let messages = self.address_messages(index).await?;
        let wanted = AddressAttribute::Address(address.addr());
        let found = messages.into_iter().find(|message| {
            message.header.index == index
                && message.header.prefix_len == address.prefix_len()
                && message.attributes.contains(&wanted)
        });
        let Some(message) = found else {
            return Ok(false);
        };
        let deleted = self.handle.address().del(message).execute().await;
        match deleted.map_err(netlink(context)) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) || error.errno() == Some(libc::EADDRNOTAVAIL) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Adds a route. One with the same destination and metric stays: whoever comes first has it. A gateway outside of
    /// all subnets is taken to be on the link.
    pub(in crate::sys) async fn add_leased_route(
        &self,
        link: &InterfaceName,
        route: &LeasedRoute,
        metric: u32,
    ) -> Result<bool, SysError> {
        let context = || format!("add {}", describe(link, route, metric));
        let message = self.leased(link, route, metric).await?;
        let mut outcome = self
            .handle
            .route()
            .add(message.clone())
            .execute()
            .await
            .map_err(netlink(context()));
        if outcome
            .as_ref()
            .is_err_and(|error| error.errno() == Some(libc::ENETUNREACH))
        {
            let mut message = message;
            message.header.flags |= RouteFlags::Onlink;
            outcome = self
                .handle
                .route()
                .add(message)
                .execute()
                .await
                .map_err(netlink(context()));
        }
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a route away. Tells whether it was there.
    pub(in crate::sys) async fn delete_leased_route(
        &self,
        link: &InterfaceName,
        route: &LeasedRoute,
        metric: u32,
    ) -> Result<bool, SysError> {
        let Some(message) = if_there(self.leased(link, route, metric).await)? else {
            return Ok(false);
        };
        let deleted = self.handle.route().del(message).execute().await;
        let context = format!("delete {}", describe(link, route, metric));
        Ok(if_there(deleted.map_err(netlink(context)))?.is_some())
    }

    /// Lowers the MTU of a link to this one; a lower one stays.
    pub(in crate::sys) async fn lower_mtu(
        &self,
        link: &InterfaceName,
        wanted: u32,
    ) -> Result<(), SysError> {
        let message = self.message(link).await?;
        if mtu(&message).is_none_or(|current| current <= wanted) {
            return Ok(());
        }
        let change = LinkUnspec::new_with_index(message.header.index)
            .mtu(wanted)
            .build();
        let changed = self.handle.link().set(change).execute().await;
        changed.map_err(netlink(format!("set MTU of {link} to {wanted}")))
    }

    async fn leased(
        &self,
        link: &InterfaceName,
        route: &LeasedRoute,
        metric: u32,
    ) -> Result<RouteMessage, SysError> {
        let context = describe(link, route, metric);
        let destination = route.destination;
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.addr(), destination.prefix_len())
            .map_err(|error| invalid(&context, error))?
            .output_interface(self.index(link).await?)
            .priority(metric)
            .protocol(RouteProtocol::Static);
        builder = match route.gateway {
            Some(gateway) => builder
                .gateway(gateway)
                .map_err(|error| invalid(&context, error))?,
            None => builder.scope(RouteScope::Link),
        };
        Ok(builder.build())
    }
}

fn describe(link: &InterfaceName, route: &LeasedRoute, metric: u32) -> String {
    let via = route
        .gateway
        .map(|gateway| format!(" via {gateway}"))
        .unwrap_or_default();
    format!(
        "route {}{via} dev {link} metric {metric}",
        route.destination
    )
}

/// The route to everywhere by this gateway.
pub(in crate::sys) fn default_by(gateway: IpAddr) -> LeasedRoute {
    let everywhere = match gateway {
        IpAddr::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    LeasedRoute {
        destination: everywhere,
        gateway: Some(gateway),
    }
}
