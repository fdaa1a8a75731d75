//! A call from request to reply.
//!
//! A call that was killed left a journal. The next one, whosever it is, first takes back what the
//! journal tells of: for a setup because nobody heard of its success, for a teardown because it was to
//! go anyway. The journal goes when the reply is out. That of a teardown stays if some of its steps
//! failed, and then is good for one more try.

use std::collections::BTreeMap;
use std::path::Path;

use wire::names::{ContainerId, NetworkId};
use wire::state::{
    AttachmentRecord, ContainerRecord, Journal, NetworkRecord, OtherMade, OtherRecord, VERSION,
};

use super::apply::{self, Applied, Change, StepError};
use super::{Host, SysError, dns, observe, state};
use crate::plan::firewall::{Change as FilterChange, ChangeKind};
use crate::plan::step::{PluginRun, PluginVerb, Step};
use crate::plan::{self, Plan, PlanError, layout};
use crate::request::{
    Detachment, Link, Mode, PluginCall, SetupRequest, SublinkDetachment, TeardownRequest,
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is the message of its source")]
pub enum CallError {
    #[error(transparent)]
    Sys(#[from] SysError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Step(#[from] StepError),
}

/// Sees to it that nothing is left of calls that were killed.
///
/// # Errors
/// The state directory or the kernel cannot be asked. What goes wrong with the repair itself is logged.
pub async fn repair(host: &mut Host) -> Result<(), SysError> {
    let journal = match host.state.journal() {
        Ok(Some(journal)) => journal,
        Ok(None) => return Ok(()),
        Err(error) => {
            // It stands in the way of every call, and nobody can tell any more what it was to say.
            tracing::error!("{error}: what an interrupted call did is not taken back");
            host.rebuilt = true;
            host.state.end();
            return Ok(());
        }
    };
    tracing::warn!(
        "a call for container {} was interrupted: taking back what it did",
        journal.container.id
    );
    let recorded = state::logged(host.state.container(&journal.container.id));
    let request = leave(host, &journal.container, &journal.networks)?;
    let container = merged(recorded, &journal);
    let mut networks: BTreeMap<NetworkId, NetworkRecord> = BTreeMap::new();
    for id in container
        .attachments
        .iter()
        .map(|attachment| &attachment.network)
    {
        let network = state::logged(host.state.network(id));
        networks.extend(network.map(|network| (id.clone(), network)));
    }
    networks.extend(
        journal
            .networks
            .iter()
            .map(|network| (network.id.clone(), network.clone())),
    );
    if let Some((netns, inode)) = journal.container.netns() {
        host.enter_same(Path::new(netns), inode);
    }
    let observed = observe::teardown_with(host, &request, Some(container), networks)?;
    let plan = plan::teardown::plan(&request, &observed, &host.settings);
    dns::end_unknown(&layout::zones(&host.settings.config));
    for error in apply::teardown(&plan, async |step| unattended(host, step).await).await {
        tracing::warn!("{error}");
    }
    host.container = None;
    host.state.end();
    Ok(())
}

/// Does a step of a teardown that nobody asked for: whoever did ask for something is waiting.
///
/// # Errors
/// Those of the step.
pub async fn unattended(host: &mut Host, step: &Step) -> Result<Change, SysError> {
    let Step::RunPlugin(run) = step else {
        return host.perform(step).await;
    };
    host.perform(&Step::RunPlugin(PluginRun {
        verb: PluginVerb::TakeBack,
        ..run.clone()
    }))
    .await
}

/// The record of a container as it would be had the call come to its end.
fn merged(recorded: Option<ContainerRecord>, journal: &Journal) -> ContainerRecord {
    let under_way = &journal.container;
    let id = &journal.container.id;
    let mut merged = recorded.unwrap_or_else(|| ContainerRecord::new(id.clone()));
    merged.version = VERSION;
    merged.attachments.retain(|attachment| {
        let mut under_way = under_way.attachments.iter();
        !under_way.any(|other| other.network == attachment.network)
    });
    merged.others.retain(|attachment| {
        let mut under_way = under_way.others.iter();
        !under_way.any(|other| other.network == attachment.network)
    });
    merged.attachments.extend(under_way.attachments.clone());
    merged.others.extend(under_way.others.clone());
    merged
}

/// The request to leave the networks of these attachments.
fn leave(
    host: &Host,
    container: &ContainerRecord,
    networks: &[NetworkRecord],
) -> Result<TeardownRequest, SysError> {
    let mut detachments = Vec::new();
    for attachment in &container.attachments {
        let known = networks
            .iter()
            .find(|network| network.id == attachment.network)
            .cloned();
        let network = match known {
            Some(network) => Some(network),
            None => state::logged(host.state.network(&attachment.network)),
        };
        detachments.push(detachment(attachment, network)?);
    }
    detachments.extend(container.others.iter().map(other_detachment));
    Ok(TeardownRequest {
        container: container.id.clone(),
        networks: detachments,
    })
}

fn other_detachment(other: &OtherRecord) -> Detachment {
    let link = match &other.made {
        OtherMade::Sublink(link) => Link::Sublink(SublinkDetachment {
            interface: link.interface.clone(),
            detached_routes: link.detached_routes.clone(),
            lease: link.lease.clone(),
        }),
        OtherMade::Plugin(plugin) => Link::Plugin(PluginCall {
            driver: plugin.driver.clone(),
            input: plugin.input.clone(),
        }),
    };
    Detachment {
        name: other.name.clone(),
        id: other.network.clone(),
        link,
    }
}

/// What is known of an attachment. Without a record of the network its id has to do for a name.
fn detachment(
    attachment: &AttachmentRecord,
    network: Option<NetworkRecord>,
) -> Result<Detachment, SysError> {
    let interface = attachment.interface.clone();
    let id = attachment.network.clone();
    Ok(match network {
        Some(network) => Detachment {
            name: network.name,
            id,
            link: Link::Bridge {
                bridge: Some(network.bridge),
                mode: if network.managed {
                    Mode::Managed
                } else {
                    Mode::Unmanaged
                },
                interface,
            },
        },
        None => Detachment {
            name: id
                .as_str()
                .parse()
                .map_err(|why: wire::names::NameError| SysError::Record {
                    path: id.to_string(),
                    why: format!("{why}"),
                })?,
            id,
            link: Link::Bridge {
                bridge: None,
                mode: Mode::Unmanaged,
                interface,
            },
        },
    })
}

/// Attaches a container. The journal stays, for the caller to end it when the reply is out.
///
/// # Errors
/// Whatever is in the way; the host is as it was before then.
pub async fn setup<P>(
    host: &mut Host,
    request: &SetupRequest,
    netns: &Path,
    mut perform: P,
) -> Result<(Plan, Applied), CallError>
where
    P: AsyncFnMut(&mut Host, &Step) -> Result<Change, SysError>,
{
    replace_stale(host, request, netns).await?;
    host.ask_firewalld(request).await?;
    host.enter_container(netns)?;
    let observed = observe::setup(host, request).await?;
    let plan = plan::setup::plan(request, &observed, &host.settings)?;
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    host.warn_of_drops(&plan.journal.networks);
    host.begin(&plan.journal)?;
    match apply::setup(&plan, async |step| perform(host, step).await).await {
        Ok(applied) => Ok((plan, applied)),
        Err(error) => {
            host.state.end();
            Err(error.into())
        }
    }
}

/// A container that comes again on a network without having left it, in another namespace: its engine
/// or the host died. What is left of its former life goes first.
async fn replace_stale(
    host: &mut Host,
    request: &SetupRequest,
    netns: &Path,
) -> Result<(), CallError> {
    let Some(record) = host.state.container(&request.container)? else {
        return Ok(());
    };
    let inode = super::netns::Namespace::open(netns)?.facts().inode;
    let wanted = |id: &NetworkId| {
        let mut attachments = request.attachments.iter();
        attachments.any(|attachment| attachment.id() == id)
    };
    let mut stale = ContainerRecord::new(request.container.clone());
    for attachment in record.attachments {
        if wanted(&attachment.network)
            && (attachment.netns_inode != inode || !host.is_attached(&attachment).await?)
        {
            stale.attachments.push(attachment);
        }
    }
    let others = record.others.into_iter();
    let others = others.filter(|other| wanted(&other.network) && other.netns_inode != inode);
    stale.others.extend(others);
    if let Some((path, inode)) = stale.netns() {
        tracing::warn!(
            "container {} is still on record: taking away what is left of it",
            request.container
        );
        host.enter_same(Path::new(path), inode);
        let request = leave(host, &stale, &[])?;
        let errors = detach(host, &request, unattended).await?;
        errors
            .into_iter()
            .for_each(|error| tracing::warn!("{error}"));
    }
    Ok(())
}

/// Detaches a container. Returns what failed: the journal stays then, so that the next call tries once
/// more. By then the records are gone that would tell a repeated teardown what there is to do.
///
/// # Errors
/// Nothing could be done at all: the state directory cannot be read or written.
pub async fn detach<P>(
    host: &mut Host,
    request: &TeardownRequest,
    mut perform: P,
) -> Result<Vec<StepError>, SysError>
where
    P: AsyncFnMut(&mut Host, &Step) -> Result<Change, SysError>,
{
    let observed = observe::teardown(host, request)?;
    let plan = plan::teardown::plan(request, &observed, &host.settings);
    host.begin(&plan.journal)?;
    let errors = apply::teardown(&plan, async |step| perform(host, step).await).await;
    if errors.is_empty() {
        host.state.end();
    }
    Ok(errors)
}

/// Detaches a container that is gone from all networks of this record.
///
/// # Errors
/// As for [`detach`].
pub async fn detach_dead<P>(
    host: &mut Host,
    container: &ContainerRecord,
    perform: P,
) -> Result<Vec<StepError>, SysError>
where
    P: AsyncFnMut(&mut Host, &Step) -> Result<Change, SysError>,
{
    host.container = None;
    if let Some((netns, inode)) = container.netns() {
        host.enter_same(Path::new(netns), inode);
        host.netns = netns.into();
    }
    let request = leave(host, container, &[])?;
    let failed = detach(host, &request, perform).await;
    host.container = None;
    failed
}

/// What remains to be done when the reply is out, or when a call failed.
pub async fn conclude(mut host: Host) {
    if host.rebuilt
        && let Err(error) = collect_dead(&mut host).await
    {
        tracing::warn!("remove what dead containers left: {error}");
    }
    dns::wait_for_end(&layout::zones(&host.settings.config));
    host.state.close();
}

/// Removes what is on record of containers whose interfaces are gone. It takes a look at every record,
/// so it is done only when something was found amiss.
///
/// # Errors
/// The records cannot be read.
pub async fn collect_dead(host: &mut Host) -> Result<Vec<ContainerId>, SysError> {
    let dead = host.dead().await?;
    host.container = None;
    for container in &dead {
        tracing::warn!("container {} is gone: removing what it left", container.id);
        if let Some((netns, _)) = container.netns() {
            host.netns = netns.into();
        }
        let request = leave(host, container, &[])?;
        let observed = observe::teardown(host, &request)?;
        let mut plan = plan::teardown::plan(&request, &observed, &host.settings);
        plan.steps
            .retain(|planned| !matches!(planned.step, Step::Firewall(_)));
        for error in apply::teardown(&plan, async |step| unattended(host, step).await).await {
            tracing::warn!("{error}");
        }
    }
    if !dead.is_empty() {
        let all = host.state.everything()?;
        let kind = if all.networks.is_empty() {
            ChangeKind::Clear
        } else {
            ChangeKind::Rebuild
        };
        host.perform(&Step::Firewall(FilterChange {
            kind,
            ..FilterChange::default()
        }))
        .await?;
    }
    Ok(dead.into_iter().map(|container| container.id).collect())
}
