//! The DHCP proxy as its client sees it: a service of its own that asks DHCP servers on behalf of containers and renews
//! leases.
//!
//! Whichever proxy listens is asked: ours ([`super::proxy`]) or netavark's. Wishes for the default route stand in fields
//! that only ours knows, and says so; after another one the route is corrected here. An IPv6 address is asked for where
//! the network has `ipv6_enabled`, at the same time; a container does without one if the proxy finds no server for it.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join;
use wire::proxy::{Lease as Message, NetworkConfig, Version};
use wire::status::NetAddress;

use super::SysError;
use super::apply::Change;
use super::link::Links;
use super::link::leased::default_by;
use super::netns::Namespace;
use super::proxy;
use super::proxy::grpc::{self, CallError};
use crate::dhcp::record::{Recorded, Records};
use crate::gc::Whereabouts;
use crate::plan::answer::{Answer, Leased};
use crate::plan::step::{Lease, Step, Wanted};

/// Where the proxy has its socket and its record.
const DIRECTORY: &str = "/run/podman";
/// Where the proxy listens.
const SOCKET: &str = "/run/podman/nv-proxy.sock";
/// No proxy takes that long; without a limit, one that hangs would hang the engine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The metric that netavark's proxy gives to every default route.
const NETAVARK_METRIC: u32 = 100;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum DhcpError {
    #[error(
        "unable to obtain lease: socket \"{SOCKET}\": {0}, is the netavark-dhcp-proxy.socket unit enabled?"
    )]
    NoProxy(io::Error),
    #[error("unable to obtain lease: get DHCP lease: {0}")]
    NoLease(String),
    #[error("unable to release lease: {0}")]
    NoRelease(String),
}

/// Asks for an address. The proxy gives it to the interface, with a default route.
pub(super) async fn take(lease: &Lease, netns: &Path) -> Result<Change, SysError> {
    let leased = obtain(lease, netns).await?;
    let give_back = Step::GiveBackLease {
        lease: lease.clone(),
        wanted: Wanted::BestEffort,
    };
    let answer = Answer::Lease(lease.interface.clone(), leased);
    Ok(Change::Answered(vec![give_back], answer))
}

/// Gives an address back. A proxy that does not run, or is killed over it, does so itself when it starts the next time
/// and finds that the container is gone.
pub(super) async fn give_back(
    lease: &Lease,
    wanted: Wanted,
    netns: &Path,
) -> Result<Change, SysError> {
    match (release(lease, netns).await, wanted) {
        (Ok(()), _) => Ok(Change::Made(Vec::new())),
        (Err(error @ (CallError::Connect(_) | CallError::Transport(_))), _) => {
            tracing::warn!("release the lease of {}: {SOCKET}: {error}", lease.mac);
            Ok(Change::AlreadySo)
        }
        (Err(error), Wanted::Required) => Err(DhcpError::NoRelease(error.to_string()).into()),
        (Err(error), Wanted::BestEffort) => {
            tracing::debug!("{error}");
            Ok(Change::AlreadySo)
        }
    }
}

/// Leases on record with the proxy, and where their interfaces are.
pub(super) fn on_record() -> Vec<(Recorded, Whereabouts)> {
    let records = proxy::on_record(Path::new(DIRECTORY)).unwrap_or_else(|error| {
        tracing::warn!("leases below {DIRECTORY}: {error}: they are left alone");
        Records::default()
    });
    let leases = records.leases.into_iter();
    leases
        .map(|lease| {
            let whereabouts = proxy::whereabouts(&lease);
            (lease, whereabouts)
        })
        .collect()
}

/// Whether there is a record of leases.
pub(super) fn has_record() -> bool {
    Path::new(DIRECTORY).join(proxy::LEASES).exists()
}

/// Gives back a lease whose interface is gone: the proxy does, or we do if none runs.
pub(super) async fn give_back_stale(lease: &Recorded) -> Result<(), SysError> {
    match ask("Teardown", &lease.config).await {
        Ok(_) => Ok(()),
        Err(CallError::Connect(_)) => proxy::stand_in(Path::new(DIRECTORY), lease).await,
        Err(error) => Err(DhcpError::NoRelease(error.to_string()).into()),
    }
}

async fn obtain(lease: &Lease, netns: &Path) -> Result<Leased, SysError> {
    let v6 = async {
        let wanted = lease.v6.then(|| call("Setup", lease, netns, Version::V6));
        match wanted {
            Some(asked) => Some(asked.await),
            None => None,
        }
    };
    let (v4, v6) = join(call("Setup", lease, netns, Version::V4), v6).await;
    let v6 = match v6.transpose() {
        Err(CallError::Status(why)) => {
            tracing::warn!("no IPv6 address for {}: {why}", lease.interface);
            Ok(None)
        }
        // A proxy that dies over it does not mean that there is no server.
        outcome => outcome,
    };
    let done = match (v4, v6) {
        (Ok(v4), Ok(v6)) => correct(lease, netns, &v4).await.map(|()| (v4, v6)),
        (Err(CallError::Connect(error)), _) => Err(DhcpError::NoProxy(error).into()),
        (Err(error), _) | (_, Err(error)) => Err(DhcpError::NoLease(error.to_string()).into()),
    };
    match done {
        Ok((v4, v6)) => Ok(leased(std::iter::once(&v4).chain(&v6))),
        Err(error) => {
            // A lease that could be had is of no use without the other.
            if let Err(error) = release(lease, netns).await {
                tracing::debug!("{error}");
            }
            Err(error)
        }
    }
}

async fn release(lease: &Lease, netns: &Path) -> Result<(), CallError> {
    let v4 = call("Teardown", lease, netns, Version::V4).await;
    if lease.v6 {
        call("Teardown", lease, netns, Version::V6).await?;
    }
    v4.map(drop)
}

async fn call(
    method: &str,
    lease: &Lease,
    netns: &Path,
    version: Version,
) -> Result<Message, CallError> {
    let config = NetworkConfig {
        host_iface: lease.host_interface.to_string(),
        container_iface: lease.interface.to_string(),
        container_mac_addr: lease.mac.to_string(),
        domain_name: String::new(),
        host_name: lease.hostname.clone(),
        version,
        ns_path: netns.display().to_string(),
        container_id: lease.container.to_string(),
        metric: lease.metric,
        no_default_route: lease.metric.is_none(),
        keep_mtu: lease.keep_mtu,
    };
    ask(method, &config).await
}

/// Calls the proxy with a request of one's own; for tests.
///
/// # Errors
/// What the proxy or the way to it says.
#[doc(hidden)]
pub async fn call_proxy(method: &str, config: &NetworkConfig) -> Result<Message, String> {
    ask(method, config).await.map_err(|error| error.to_string())
}

async fn ask(method: &str, config: &NetworkConfig) -> Result<Message, CallError> {
    let called = grpc::call(Path::new(SOCKET), method, config);
    let late = |_| Err(CallError::Transport("the proxy does not answer".to_owned()));
    tokio::time::timeout(PATIENCE, called)
        .await
        .unwrap_or_else(late)
}

/// Sees to the default route after a proxy that does not know our wishes.
async fn correct(lease: &Lease, netns: &Path, message: &Message) -> Result<(), SysError> {
    let first = message.gateways.first().and_then(|text| text.parse().ok());
    let Some(gateway) = first.filter(|_| !message.obeyed && lease.metric != Some(NETAVARK_METRIC))
    else {
        return Ok(());
    };
    let links = Namespace::open(netns)?.enter(|| Links::open("container"))??;
    let route = default_by(gateway);
    links
        .delete_leased_route(&lease.interface, &route, NETAVARK_METRIC)
        .await?;
    if let Some(metric) = lease.metric {
        links
            .add_leased_route(&lease.interface, &route, metric)
            .await?;
    }
    Ok(())
}

/// What the container has got, for the reply.
fn leased<'a>(messages: impl Iterator<Item = &'a Message>) -> Leased {
    let mut leased = Leased::default();
    for message in messages {
        let gateway = message.gateways.first().and_then(|text| text.parse().ok());
        let address = message.address();
        leased
            .addresses
            .extend(address.map(|ipnet| NetAddress { gateway, ipnet }));
        let servers = message
            .dns_servers
            .iter()
            .filter_map(|text| text.parse::<IpAddr>().ok());
        leased.servers.extend(servers);
        let domain = &message.domain_name;
        if !domain.is_empty() && !leased.domains.contains(domain) {
            leased.domains.push(domain.clone());
        }
    }
    leased
}
