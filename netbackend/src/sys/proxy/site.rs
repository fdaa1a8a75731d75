//! Where a lease is put to use: an interface in a container's namespace.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use wire::names::{InterfaceName, MacAddr};
use wire::proxy::{LeasedRoute, NetworkConfig, Version};

use super::super::link::leased::default_by;
use super::super::link::{Links, is_gone};
use super::super::netns::Namespace;
use super::super::{SysError, files};
use super::port::{self, LONGEST, Port};
use crate::dhcp::record::Recorded;
use crate::dhcp::{Outgoing, Terms};
use crate::gc::Whereabouts;

/// The metric of routes for callers that name none: that of netavark's proxy.
const DEFAULT_METRIC: u32 = 100;
/// A lower MTU than every host has to take (RFC 791) is a mistake or worse.
const LOWEST_MTU: u32 = 576;
/// How long the answer to the release of an IPv6 address is waited for, each of two times.
const RELEASE_PATIENCE: Duration = Duration::from_millis(300);
/// How long, and how often, an interface of the host that is not ready yet is waited for: longer than it takes to find
/// out that nobody else has its link-local address.
const EARLY: Duration = Duration::from_millis(100);
const EARLY_TRIES: u32 = 25;

/// An interface in a namespace, and the one on the host that leads to the same servers.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) config: NetworkConfig,
    pub(super) mac: MacAddr,
    pub(super) container: InterfaceName,
    pub(super) host: InterfaceName,
    pub(super) netns_inode: u64,
}

impl Site {
    /// Where a lease on record is put to use.
    pub(super) fn of(lease: &Recorded) -> Self {
        Self {
            config: lease.config.clone(),
            mac: lease.mac,
            container: lease.container.clone(),
            host: lease.host.clone(),
            netns_inode: lease.netns_inode,
        }
    }

    /// Whether the namespace is still the one it was.
    pub(super) fn is_there(&self) -> bool {
        files::inode(Path::new(&self.config.ns_path)) == Some(self.netns_inode)
    }

    /// Where the interface is. A path below `/proc` may just be another process's business by now.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        let found = self
            .namespace()
            .and_then(|namespace| namespace.enter(|| port::mac_of(&self.container)));
        match found {
            Ok(Ok(mac)) if mac == self.mac => Whereabouts::There,
            Ok(Err(error)) if error.raw_os_error() != Some(libc::ENODEV) => Whereabouts::Unknown,
            Ok(_) => Whereabouts::Gone,
            Err(SysError::NetnsPath(error))
                if files::is_gone(&error) && !self.config.ns_path.starts_with("/proc/") =>
            {
                Whereabouts::Gone
            }
            Err(_) => Whereabouts::Unknown,
        }
    }

    fn namespace(&self) -> Result<Namespace, SysError> {
        let namespace = Namespace::open(Path::new(&self.config.ns_path))?;
        if namespace.facts().inode == self.netns_inode {
            return Ok(namespace);
        }
        Err(SysError::NetnsPath(std::io::Error::from_raw_os_error(
            libc::ENOENT,
        )))
    }

    /// Opens a socket to speak with servers through.
    pub(super) fn port(&self) -> Result<Port, SysError> {
        let opened = self.namespace()?.enter(|| {
            if port::mac_of(&self.container)? != self.mac {
                // Another one has taken its place.
                return Err(std::io::Error::from_raw_os_error(libc::ENODEV));
            }
            Port::open(&self.container, self.mac, self.config.version)
        })?;
        opened.map_err(SysError::io(format!("open a socket on {}", self.container)))
    }

    fn links(&self) -> Result<Links, SysError> {
        self.namespace()?.enter(|| Links::open("container"))?
    }

    /// Switches the interface on, which it must be for packets to pass.
    pub(super) async fn switch_on(&self) -> Result<(), SysError> {
        self.links()?.set_up(&self.container).await
    }

    /// Makes the interface fit the new terms instead of the old ones. What is the same is added once more, in case
    /// somebody took it away.
    pub(super) async fn change(
        &self,
        old: Option<&Terms>,
        new: Option<&Terms>,
    ) -> Result<(), SysError> {
        let links = match self.links() {
            Err(SysError::NetnsPath(_)) if new.is_none() => return Ok(()),
            links => links?,
        };
        let link = &self.container;
        let metric = self.config.metric.unwrap_or(DEFAULT_METRIC);
        if let Some(new) = new {
            if let Some(mtu) = new
                .mtu
                .filter(|mtu| *mtu >= LOWEST_MTU && !self.config.keep_mtu)
            {
                links.lower_mtu(link, mtu).await?;
            }
            links.add_address(link, new.address, false).await?;
        }
        let wanted = new.map(|terms| self.routes(terms)).unwrap_or_default();
        let obsolete = old.map(|terms| self.routes(terms)).unwrap_or_default();
        for route in obsolete.iter().filter(|route| !wanted.contains(route)) {
            links.delete_leased_route(link, route, metric).await?;
        }
        if let Some(old) = old
            && new.is_none_or(|new| new.address != old.address)
        {
            match links.delete_address(link, old.address).await {
                Err(error) if is_gone(&error) => false,
                outcome => outcome?,
            };
        }
        // After the old address is gone: routes of the same subnet go with it.
        for route in &wanted {
            links.add_leased_route(link, route, metric).await?;
        }
        Ok(())
    }

    /// The routes of a lease: on the link first, since gateways may lie behind them.
    fn routes(&self, terms: &Terms) -> Vec<LeasedRoute> {
        let own = terms.address.addr();
        let mut routes = terms.routes.clone();
        routes.retain(|route| route.gateway != Some(own));
        routes.sort_by_key(|route| route.gateway.is_some());
        if !self.config.no_default_route {
            let gateways: Vec<IpAddr> = terms
                .gateways
                .iter()
                .copied()
                .filter(|gateway| *gateway != own)
                .collect();
            let first = |v6| port::of_family(&gateways, v6).next();
            routes.extend(
                [first(false), first(true)]
                    .into_iter()
                    .flatten()
                    .map(default_by),
            );
        }
        routes
    }

    /// Gives an address back, through the namespace if it is there, else through the host.
    pub(super) async fn release(&self, outgoing: &Outgoing) {
        let inside = self.port().and_then(|port| {
            let sent = port
                .send(outgoing)
                .map_err(SysError::io("send the release"));
            sent.map(|()| port)
        });
        match inside {
            Ok(port) => self.confirm(&port, outgoing).await,
            Err(error) => {
                tracing::debug!("release {} through the host: {error}", self.mac);
                if let Err(error) = self.release_from_host(outgoing).await {
                    tracing::warn!(
                        "release the lease of {} through {}: {error}",
                        self.mac,
                        self.host
                    );
                }
            }
        }
    }

    /// An interface that has come up a moment ago cannot send yet.
    async fn release_from_host(&self, outgoing: &Outgoing) -> std::io::Result<()> {
        if port::send_to_self(&self.host, outgoing)? {
            return Ok(());
        }
        let port = Port::open(&self.host, self.mac, self.config.version)?;
        for _ in 0..EARLY_TRIES {
            match port.send(outgoing) {
                Err(error) if port::is_early(&error, self.config.version) => {
                    tokio::time::sleep(EARLY).await;
                }
                outcome => return outcome,
            }
        }
        port.send(outgoing)
    }

    /// Servers of IPv6 confirm that an address was given back; without an answer it is sent once more.
    async fn confirm(&self, port: &Port, outgoing: &Outgoing) {
        if self.config.version == Version::V4 {
            return;
        }
        for _ in 0..2 {
            let mut buffer = [0; LONGEST];
            let answer = tokio::time::timeout(RELEASE_PATIENCE, port.receive(&mut buffer)).await;
            if answer.is_ok() {
                return;
            }
            drop(port.send(outgoing));
        }
    }
}
