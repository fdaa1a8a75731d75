//! All rules anew, from the records.
//!
//! Whoever flushes the packet filter (a reload of nftables.service or of firewalld, an administrator) takes the rules of
//! running containers with it. A reload writes them anew: one look at the records and at the interfaces, then one
//! transaction that replaces the table. The kernel switches from the old rules to the new ones between two packets, so
//! there is no moment without rules, and doing it again changes nothing. Connections that are tracked stay tracked,
//! with their translations.
//!
//! What cannot be read does not keep the rest from coming back. It is named, and the call fails in the end, because some
//! container may be without its rules.

use std::path::Path;

use super::firewalld::Reloads;
use super::{Host, SysError, call, files};
use crate::observed::{FirewallDriver, Settings};
use crate::plan::firewall::{Change, ChangeKind};
use crate::plan::layout;
use crate::plan::step::Step;

/// The target that netavark's word of success has.
const TARGET: &str = "netavark::commands::firewall_reload";

/// Why a reload failed, altogether or in part.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum ReloadError {
    #[error(transparent)]
    Sys(#[from] SysError),
    #[error("firewall driver on record: \"{0}\", expected nftables, firewalld or none")]
    Driver(String),
    #[error("reloaded without what cannot be read: {}", .0.join("; "))]
    Damaged(Vec<String>),
}

/// Writes all rules anew from the records, for the driver that is on record. Nothing on record, nothing to do.
///
/// # Errors
/// The records cannot be read, or the rules not written. If only some records cannot be read, the others are in force.
pub async fn reload(settings: &Settings, nft: Option<&Path>) -> Result<(), ReloadError> {
    let Some(mut host) = open(settings, nft).await? else {
        tracing::debug!("no firewall driver on record: nothing to reload");
        return Ok(());
    };
    let problems = write_rules(&mut host).await;
    host.state.close();
    success(problems?)
}

/// Writes all rules anew if some are missing. Returns whether they were.
///
/// # Errors
/// As for [`reload`].
pub async fn restore(settings: &Settings, nft: Option<&Path>) -> Result<bool, ReloadError> {
    let Some(mut host) = open(settings, nft).await? else {
        return Ok(false);
    };
    let nftables = host.settings.firewall == FirewallDriver::Nftables;
    let restored = match host.has_rules().await {
        Ok(false) if nftables => write_rules(&mut host).await.map(Some),
        Ok(_) => Ok(None),
        Err(error) => Err(error),
    };
    host.state.close();
    restored?.map_or(Ok(false), |problems| success(problems).map(|()| true))
}

/// Writes all rules anew now, and after each reload of firewalld, until the bus is gone.
///
/// # Errors
/// There is no bus. What goes wrong with a reload is logged.
pub async fn with_firewalld(settings: &Settings, nft: Option<&Path>) -> Result<(), ReloadError> {
    let mut reloads = Reloads::listen().await?;
    loop {
        if let Err(error) = reload(settings, nft).await {
            tracing::error!("{error}");
        }
        if reloads.next().await.is_none() {
            return Ok(());
        }
    }
}

/// The host, with the driver that is on record, if there is one.
async fn open(settings: &Settings, nft: Option<&Path>) -> Result<Option<Host>, ReloadError> {
    let Some(firewall) = recorded_driver(settings)? else {
        return Ok(None);
    };
    let settings = Settings {
        firewall,
        ..settings.clone()
    };
    let mut host = Host::open(settings, nft.map(Path::to_path_buf))?;
    call::repair(&mut host).await?;
    Ok(Some(host))
}

fn success(problems: Vec<String>) -> Result<(), ReloadError> {
    match problems {
        problems if problems.is_empty() => {
            tracing::info!(target: TARGET, "Successfully reloaded firewall rules");
            Ok(())
        }
        problems => Err(ReloadError::Damaged(problems)),
    }
}

/// Returns what could not be read.
async fn write_rules(host: &mut Host) -> Result<Vec<String>, SysError> {
    if host.settings.firewall == FirewallDriver::None {
        return Ok(Vec::new());
    }
    let change = Change {
        kind: ChangeKind::Rebuild,
        ..Change::default()
    };
    host.trust_all().await;
    host.perform(&Step::Firewall(change)).await?;
    Ok(std::mem::take(&mut host.problems))
}

/// The driver on record: that of the last setup. `None`: nobody has set up anything.
pub(super) fn recorded_driver(settings: &Settings) -> Result<Option<FirewallDriver>, ReloadError> {
    let path = layout::firewall_driver(&settings.config);
    let text = files::read(&path).map_err(SysError::io(format!("read {}", path.display())))?;
    match text.as_deref().map(str::trim) {
        // The rules of netavark's old driver are ours to replace.
        Some("nftables" | "iptables") => Ok(Some(FirewallDriver::Nftables)),
        Some("firewalld") => Ok(Some(FirewallDriver::Firewalld)),
        Some("none") => Ok(Some(FirewallDriver::None)),
        Some(other) => Err(ReloadError::Driver(other.to_owned())),
        // An ordinary user's containers leave no such file.
        None if layout::networks(&settings.config).exists() => Ok(Some(FirewallDriver::Nftables)),
        None => Ok(None),
    }
}
