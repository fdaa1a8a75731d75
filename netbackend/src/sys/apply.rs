//! Carries plans out.
//!
//! [`setup`] does the steps in order and stops at the first that fails; then what was done is undone in
//! reverse order, and nothing else: a step that found its work done already has no undo. [`teardown`]
//! does every step, whatever becomes of the others, and reports all that failed.
//!
//! How a step is done is a parameter, so that tests can let any of them fail; [`Host::perform`] is how
//! it is really done.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use wire::names::{InterfaceName, MacAddr, NetworkName};
use wire::state::Journal;
use wire::zone;

use super::link::Links;
use super::{Host, SysError, conntrack, dhcp, dns, files, link, plugin, sysctl};
use crate::observed::FirewallDriver;
use crate::plan::answer::Answer;
use crate::plan::firewall::{Change as FilterChange, ChangeKind};
use crate::plan::step::{
    DnsService, NewBridge, NewSublink, NewVeth, Side, Step, Sysctl, TrackedPort, Wanted,
};
use crate::plan::{Plan, Planned, layout};
use crate::request::StaticRoute;

/// How long the kernel may take to delete the links of a namespace that nobody uses any more.
const DYING: Duration = Duration::from_secs(2);

/// What a step has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Something, and these steps take it back.
    Made(Vec<Step>),
    /// The same, and this goes into the reply.
    Answered(Vec<Step>, Answer),
    /// Nothing: it was so before.
    AlreadySo,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}{why}", network.as_ref().filter(|_| !why.speaks_for_itself()).map(|network| format!("network \"{network}\": ")).unwrap_or_default())]
pub struct StepError {
    /// The network for whose sake it was done.
    pub network: Option<NetworkName>,
    /// What went wrong.
    pub why: SysError,
}

/// A setup that was done, and what it takes to take it back.
#[derive(Debug)]
pub struct Applied {
    undo: Vec<Step>,
    answers: Vec<(Option<NetworkName>, Answer)>,
}

impl Applied {
    /// What has turned out on the way, with the network that it is about.
    #[must_use]
    pub fn answers(&self) -> &[(Option<NetworkName>, Answer)] {
        &self.answers
    }
}

/// Carries out a setup.
///
/// # Errors
/// The first step that failed; what came before it has been taken back.
pub async fn setup<P>(plan: &Plan, mut perform: P) -> Result<Applied, StepError>
where
    P: AsyncFnMut(&Step) -> Result<Change, SysError>,
{
    let mut undo = Vec::new();
    let mut answers = Vec::new();
    for Planned { network, step } in &plan.steps {
        match perform(step).await {
            Ok(Change::Made(steps)) => undo.extend(steps.into_iter().rev()),
            Ok(Change::Answered(steps, answer)) => {
                undo.extend(steps.into_iter().rev());
                answers.push((network.clone(), answer));
            }
            Ok(Change::AlreadySo) => tracing::debug!("already so: {step}"),
            Err(why) => {
                unwind(undo, perform).await;
                return Err(StepError {
                    network: network.clone(),
                    why,
                });
            }
        }
    }
    Ok(Applied { undo, answers })
}

/// Takes back a setup that was done.
pub async fn take_back<P>(applied: Applied, perform: P)
where
    P: AsyncFnMut(&Step) -> Result<Change, SysError>,
{
    unwind(applied.undo, perform).await;
}

/// Undoes steps, the last one first; but the DNS responder is told when all its files are as before.
/// What cannot be undone is logged: there is nobody to ask.
async fn unwind<P>(undo: Vec<Step>, mut perform: P)
where
    P: AsyncFnMut(&Step) -> Result<Change, SysError>,
{
    let (tell, change): (Vec<_>, Vec<_>) = undo
        .into_iter()
        .rev()
        .partition(|step| matches!(step, Step::NotifyDns(_)));
    for step in change.iter().chain(&tell) {
        if let Err(error) = perform(step).await {
            tracing::error!("undo: {step}: {error}");
        }
    }
}

/// Carries out a teardown. Returns what failed.
pub async fn teardown<P>(plan: &Plan, mut perform: P) -> Vec<StepError>
where
    P: AsyncFnMut(&Step) -> Result<Change, SysError>,
{
    let mut errors = Vec::new();
    for Planned { network, step } in &plan.steps {
        match perform(step).await {
            Ok(Change::Made(_) | Change::Answered(..)) => {}
            Ok(Change::AlreadySo) => tracing::debug!("already so: {step}"),
            Err(why) => errors.push(StepError {
                network: network.clone(),
                why,
            }),
        }
    }
    errors
}

impl Host {
    /// Writes down what a plan is about to do.
    ///
    /// # Errors
    /// It cannot be written; nothing has happened then.
    pub fn begin(&self, journal: &Journal) -> Result<(), SysError> {
        self.state.begin(journal)
    }

    /// Does a step.
    ///
    /// # Errors
    /// What the kernel or the file system says, with the step's object.
    pub async fn perform(&mut self, step: &Step) -> Result<Change, SysError> {
        tracing::debug!("{step}");
        match step {
            Step::CreateBridge(new) => self.create_bridge(new).await,
            Step::CreateVeth(new) => self.create_veth(new).await,
            Step::CreateSublink(new) => self.create_sublink(new).await,
            Step::DeleteLink { side, name, mac } => self.delete_link(*side, name, *mac).await,
            Step::DeleteBridge(bridge) => self.delete_bridge(bridge).await,
            Step::SetDown { name, mac } => self.links.set_down(name, *mac).await.map(gone),
            Step::DeleteLastPort { name, mac, bridge } => {
                self.delete_last_port(name, *mac, bridge).await
            }
            Step::FilterVlans(bridge) => self.links.filter_vlans(bridge, true).await.map(made),
            Step::SetPortVlan { port, vlan } => {
                self.links.set_port_vlan(port, *vlan).await.map(made)
            }
            Step::SetHairpin(port) => self.links.set_hairpin(port).await.map(made),
            Step::AddAddress {
                side,
                link,
                address,
                at_once,
            } => self.add_address(*side, link, *address, *at_once).await,
            Step::SetUp { side, link } => self.set_up(*side, link).await,
            Step::Sysctl(sysctl) => self.sysctl(sysctl),
            Step::AddDefaultRoute {
                link,
                gateway,
                metric,
            } => self.add_default_route(link, *gateway, *metric).await,
            Step::AddRoute(route) => self.add_route(route).await,
            Step::DeleteRoute(route) => self.inside()?.links.delete_route(route).await.map(gone),
            Step::TakeLease(lease) => dhcp::take(lease, &self.netns).await,
            Step::GiveBackLease { lease, wanted } => {
                dhcp::give_back(lease, *wanted, &self.netns).await
            }
            Step::RunPlugin(run) => plugin::perform(run, &self.netns),
            Step::AcceptLoopback6(bridge) => self.links.accept_loopback6(bridge).await.map(made),
            Step::Firewall(change) => self.filter(change).await,
            Step::Trust { subnets, trusted } => Ok(self.trust(subnets, *trusted).await),
            Step::ForgetConnections(ports) => self.forget_connections(ports).await,
            Step::WriteFile { path, content } => self.write_file(path, content),
            Step::CreateFile { path, content } => self.create_file(path, content),
            Step::RemoveFile { path, keep } => remove_file(path, keep),
            Step::AddNames {
                path,
                header,
                entry,
            } => self.add_names(path, header, entry),
            Step::RemoveNames { path, container } => self.remove_names(path, container),
            Step::NotifyDns(service) => notify(service),
        }
    }

    async fn create_bridge(&self, new: &NewBridge) -> Result<Change, SysError> {
        self.links.create_bridge(new).await?;
        let delete = Step::DeleteLink {
            side: Side::Host,
            name: new.name.clone(),
            mac: Some(new.mac),
        };
        Ok(Change::Made(vec![delete]))
    }

    async fn create_veth(&self, new: &NewVeth) -> Result<Change, SysError> {
        let inside = self.inside()?;
        match self
            .links
            .create_veth(new, inside.namespace.descriptor())
            .await
        {
            Ok(()) => {
                let delete = Step::DeleteLink {
                    side: Side::Host,
                    name: new.host.clone(),
                    mac: Some(new.host_mac),
                };
                Ok(Change::Made(vec![delete]))
            }
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                let also = if new.host_name_given {
                    format!(" or {} exists on host namespace", new.host)
                } else {
                    String::new()
                };
                let context = format!(
                    "create veth pair: interface {} already exists on container namespace{also}",
                    new.container
                );
                Err(SysError::Netlink {
                    context,
                    errno: libc::EEXIST,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// That side of the connection.
    fn links_of(&self, side: Side) -> Result<&Links, SysError> {
        Ok(match side {
            Side::Host => &self.links,
            Side::Container => &self.inside()?.links,
        })
    }

    async fn delete_link(
        &self,
        side: Side,
        name: &InterfaceName,
        mac: Option<MacAddr>,
    ) -> Result<Change, SysError> {
        self.links_of(side)?.delete(name, mac).await.map(gone)
    }

    async fn add_default_route(
        &self,
        link: &InterfaceName,
        gateway: IpAddr,
        metric: u32,
    ) -> Result<Change, SysError> {
        let links = &self.inside()?.links;
        links
            .add_default_route(link, gateway, metric)
            .await
            .map(made)
    }

    async fn add_route(&self, route: &StaticRoute) -> Result<Change, SysError> {
        self.inside()?.links.add_route(route).await?;
        Ok(Change::Made(vec![Step::DeleteRoute(route.clone())]))
    }

    async fn forget_connections(&self, ports: &[TrackedPort]) -> Result<Change, SysError> {
        if !conntrack::maybe_any(ports) {
            return Ok(Change::AlreadySo);
        }
        let local = self.links.all_addresses().await?;
        let forgotten = conntrack::forget(ports, &local)?;
        tracing::debug!("{forgotten} connections forgotten");
        Ok(made(()))
    }

    async fn set_up(&self, side: Side, link: &InterfaceName) -> Result<Change, SysError> {
        match side {
            Side::Host => self.links.set_up(link).await.map(made),
            Side::Container => self.set_up_inside(link).await,
        }
    }

    /// Another link may still have the address that the new one is to have: the kernel takes the namespaces
    /// of dead containers down in its own time.
    async fn set_up_inside(&self, link: &InterfaceName) -> Result<Change, SysError> {
        let limit = Instant::now() + DYING;
        loop {
            match self.inside()?.links.set_up(link).await {
                Ok(()) => return Ok(Change::Made(Vec::new())),
                Err(error) if error.errno() == Some(libc::EADDRINUSE) && Instant::now() < limit => {
                    std::thread::sleep(DYING / 200);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn create_sublink(&self, new: &NewSublink) -> Result<Change, SysError> {
        let inside = self.inside()?;
        let netns = inside.namespace.descriptor();
        let mac = self.links.create_sublink(new, &inside.links, netns).await?;
        let delete = Step::DeleteLink {
            side: Side::Container,
            name: new.name.clone(),
            mac: None,
        };
        Ok(match mac {
            Some(mac) => Change::Answered(vec![delete], Answer::Mac(new.name.clone(), mac)),
            None => Change::Made(vec![delete]),
        })
    }

    async fn delete_bridge(&self, bridge: &InterfaceName) -> Result<Change, SysError> {
        let ports = match self.links.ports(bridge).await {
            Ok(ports) => ports,
            Err(error) if link::is_gone(&error) => return Ok(Change::AlreadySo),
            Err(error) => return Err(error),
        };
        if let Some(port) = ports.first() {
            tracing::warn!("bridge {bridge} is kept: {port} still belongs to it");
            return Ok(Change::AlreadySo);
        }
        self.links.delete(bridge, None).await.map(gone)
    }

    async fn delete_last_port(
        &self,
        name: &InterfaceName,
        mac: MacAddr,
        bridge: &InterfaceName,
    ) -> Result<Change, SysError> {
        let ports = self.links.ports(bridge).await;
        if ports.is_ok_and(|ports| ports.iter().eq([name]))
            && self.links.delete_with_bridge(name, mac, bridge).await?
        {
            return Ok(made(()));
        }
        let port = self.links.delete(name, Some(mac)).await;
        let bridge = self.delete_bridge(bridge).await?;
        Ok(if port? { made(()) } else { bridge })
    }

    async fn add_address(
        &self,
        side: Side,
        link: &InterfaceName,
        address: ipnet::IpNet,
        at_once: bool,
    ) -> Result<Change, SysError> {
        let links = self.links_of(side)?;
        match links.add_address(link, address, at_once).await {
            Ok(true) => Ok(Change::Made(Vec::new())),
            Ok(false) => Ok(Change::AlreadySo),
            Err(SysError::Netlink {
                errno: errno @ (libc::EACCES | libc::EPERM | libc::EOPNOTSUPP),
                ..
            }) if address.addr().is_ipv6() => {
                let to = if side == Side::Host {
                    "bridge"
                } else {
                    "container"
                };
                let context = format!(
                    "address {address} on {link}: add ip addr to {to}: failed to add ipv6 address, is ipv6 enabled in the kernel?"
                );
                Err(SysError::Netlink { context, errno })
            }
            Err(error) => Err(error),
        }
    }

    fn sysctl(&self, sysctl: &Sysctl) -> Result<Change, SysError> {
        let outcome = match sysctl.side {
            Side::Host => sysctl::set(Path::new(sysctl::PROC), &sysctl.key, &sysctl.value),
            Side::Container => {
                let namespace = &self.inside()?.namespace;
                let proc = namespace.proc();
                namespace.enter(|| sysctl::set(&proc, &sysctl.key, &sysctl.value))?
            }
        };
        match outcome {
            Ok(None) => Ok(Change::AlreadySo),
            Ok(Some(before)) if sysctl.side == Side::Host => {
                Ok(Change::Made(vec![Step::Sysctl(Sysctl {
                    value: before,
                    optional: true,
                    ..sysctl.clone()
                })]))
            }
            Ok(Some(_)) => Ok(Change::Made(Vec::new())),
            Err(error) if sysctl.optional => {
                tracing::debug!("set sysctl {}: {error}", sysctl.key);
                Ok(Change::AlreadySo)
            }
            Err(source) => Err(SysError::Io {
                context: format!("set sysctl {}", sysctl.key),
                source,
            }),
        }
    }

    fn write_file(&self, path: &Path, content: &str) -> Result<Change, SysError> {
        let context = || format!("write {}", path.display());
        let before = files::read(path).map_err(SysError::io(context()))?;
        if before.as_deref() == Some(content) {
            return Ok(Change::AlreadySo);
        }
        files::replace(path, content, &layout::staging(&self.settings.config))
            .map_err(SysError::io(context()))?;
        let path = path.to_path_buf();
        Ok(Change::Made(vec![match before {
            Some(content) => Step::WriteFile { path, content },
            None => Step::RemoveFile {
                path,
                keep: self.settings.config.clone(),
            },
        }]))
    }

    fn create_file(&self, path: &Path, content: &str) -> Result<Change, SysError> {
        let made = files::create(path, content)
            .map_err(SysError::io(format!("create {}", path.display())))?;
        if !made {
            return Ok(Change::AlreadySo);
        }
        // Above a path elsewhere nothing is removed.
        Ok(Change::Made(vec![Step::RemoveFile {
            path: path.to_path_buf(),
            keep: self.settings.config.clone(),
        }]))
    }

    fn add_names(
        &self,
        path: &Path,
        header: &zone::Header,
        entry: &zone::Entry,
    ) -> Result<Change, SysError> {
        let failed = || SysError::io(format!("write {}", path.display()));
        let _lock = self.state.zone_lock()?;
        // Netavark knows the file of an internal network by another name than we may find it under.
        if let Some(plain) = path.to_str().and_then(|text| text.strip_suffix("%int")) {
            drop(std::fs::rename(plain, path));
        }
        if !files::append(path, &format!("{entry}\n")).map_err(failed())? {
            let text = format!("{header}\n{entry}\n");
            files::replace(path, &text, &layout::staging(&self.settings.config))
                .map_err(failed())?;
        }
        Ok(Change::Made(vec![Step::RemoveNames {
            path: path.to_path_buf(),
            container: entry.id.clone(),
        }]))
    }

    fn remove_names(
        &self,
        path: &Path,
        container: &wire::names::ContainerId,
    ) -> Result<Change, SysError> {
        let context = || format!("write {}", path.display());
        let _lock = self.state.zone_lock()?;
        let Some(text) = files::read(path).map_err(SysError::io(context()))? else {
            return Ok(Change::AlreadySo);
        };
        match zone::without(&text, container) {
            Some(rest) if rest == text => return Ok(Change::AlreadySo),
            Some(rest) => files::replace(path, &rest, &layout::staging(&self.settings.config)),
            None => files::remove(path, &self.settings.config).map(drop),
        }
        .map_err(SysError::io(context()))?;
        Ok(Change::Made(Vec::new()))
    }

    /// Changes the packet filter. A change that the table does not fit, because it is not as the records
    /// say, is made by writing the table anew.
    async fn filter(&mut self, change: &FilterChange) -> Result<Change, SysError> {
        if self.settings.firewall == FirewallDriver::Firewalld {
            return self.tell_firewalld(change).await;
        }
        let changed = match change.kind {
            ChangeKind::Elements => match self.apply_elements(change) {
                Ok(()) => Change::Made(vec![Step::Firewall(change.inverse())]),
                Err(error) if error.is_mismatch() => {
                    tracing::info!(target: "netavark::firewall", "{error}: writing the whole table anew");
                    self.rebuild(&Self::whole(change.clone())).await?
                }
                Err(error) => return Err(error),
            },
            ChangeKind::Rebuild => self.rebuild(change).await?,
            ChangeKind::Clear => self.clear()?,
        };
        self.leave_firewalld().await;
        Ok(changed)
    }
}

/// A change that another step's undo covers, or that needs none.
fn made((): ()) -> Change {
    Change::Made(Vec::new())
}

fn remove_file(path: &Path, keep: &Path) -> Result<Change, SysError> {
    let failed = SysError::io(format!("remove {}", path.display()));
    files::remove(path, keep).map(gone).map_err(failed)
}

fn gone(was_there: bool) -> Change {
    if was_there {
        Change::Made(Vec::new())
    } else {
        Change::AlreadySo
    }
}

fn notify(service: &DnsService) -> Result<Change, SysError> {
    match (dns::notify(service), service.wanted) {
        (Ok(()), Wanted::Required) => {
            let service = DnsService {
                wanted: Wanted::BestEffort,
                ..service.clone()
            };
            Ok(Change::Made(vec![Step::NotifyDns(service)]))
        }
        (Ok(()), Wanted::BestEffort) => Ok(Change::Made(Vec::new())),
        (Err(error), Wanted::Required) => Err(SysError::Dns(error)),
        (Err(error), Wanted::BestEffort) => {
            tracing::warn!("{error}");
            Ok(Change::AlreadySo)
        }
    }
}
