//! The DHCP proxy: a service of its own that asks DHCP servers on behalf of containers and renews leases.

use std::io;
use std::path::Path;

use tokio::net::UnixStream;

use super::SysError;
use super::apply::Change;
use crate::plan::answer::{Answer, Leased};
use crate::plan::step::{Lease, Step, Wanted};

/// Where the proxy listens.
const SOCKET: &str = "/run/podman/nv-proxy.sock";

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

/// Gives an address back.
pub(super) async fn give_back(
    lease: &Lease,
    wanted: Wanted,
    netns: &Path,
) -> Result<Change, SysError> {
    match (release(lease, netns).await, wanted) {
        (Ok(()), _) => Ok(Change::Made(Vec::new())),
        (Err(error), Wanted::Required) => Err(error.into()),
        (Err(error), Wanted::BestEffort) => {
            tracing::debug!("{error}");
            Ok(Change::AlreadySo)
        }
    }
}

/// The part of the proxy's client that asks. (It connects, and has nothing to say yet.)
async fn obtain(_lease: &Lease, _netns: &Path) -> Result<Leased, DhcpError> {
    let _proxy = connect().await?;
    Err(DhcpError::NoLease(
        "this program does not speak to the proxy yet".to_owned(),
    ))
}

/// The part of the proxy's client that gives back.
async fn release(_lease: &Lease, _netns: &Path) -> Result<(), DhcpError> {
    connect().await.map(drop)
}

async fn connect() -> Result<UnixStream, DhcpError> {
    UnixStream::connect(SOCKET)
        .await
        .map_err(DhcpError::NoProxy)
}
