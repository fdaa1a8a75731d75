//! firewalld's part in a call.
//!
//! With the driver `firewalld` it holds what the records call for, in the place of our table; with the driver `nftables` it is
//! told to let pass what our table judges ([`super::firewalld`]). The driver may change from one call to the next while
//! containers run: then all of them move, and what the other driver had goes. Our table is found by its name. That
//! firewalld may hold something is told by a file, which is there from before it is first told something until it
//! has nothing more; or by the driver on record, if netavark was here before.
//!
//! What firewalld is told does not come to be at once, as a transaction does. If it refuses a part, it is told again what
//! it held before. If it ends, nothing remains of what it held; whatever was to go is gone then.

use ipnet::IpNet;

use super::apply::Change;
use super::filter::elements_after;
use super::{Host, SysError, files};
use crate::observed::FirewallDriver;
use crate::plan::firewall::{self, Change as FilterChange, ChangeKind};
use crate::plan::firewalld::{Contents, contents};
use crate::plan::layout;
use crate::plan::step::Step;
use crate::request::{Attachment, Mode, SetupRequest};

impl Host {
    /// Tells firewalld what it is to hold after this change. It takes the place of our table.
    pub(super) async fn tell_firewalld(
        &mut self,
        change: &FilterChange,
    ) -> Result<Change, SysError> {
        let mut living = self.living().await?;
        self.problems = std::mem::take(&mut living.problems);
        let mut before = firewall::all_elements(&living.networks, &living.containers);
        firewall::merge_subnets(&mut before);
        let wanted = match change.kind {
            ChangeKind::Clear => Contents::default(),
            ChangeKind::Elements | ChangeKind::Rebuild => {
                contents(&elements_after(change, &living)?)
            }
        };
        let took_over = !self.may_be_in_firewalld();
        match self.fill_firewalld(&contents(&before), &wanted).await {
            Ok(()) if took_over => {
                let networks = living.networks.values();
                let subnets = networks.flat_map(|network| &network.subnets);
                let subnets = subnets.map(|subnet| subnet.subnet);
                let subnets: Vec<IpNet> = subnets
                    .filter(|subnet| !wanted.sources.contains(&subnet.to_string()))
                    .collect();
                self.distrust(&subnets).await;
            }
            Ok(()) => {}
            Err(SysError::Bus(why)) if only_removes(change) => {
                tracing::warn!("nothing to take from firewalld: {why}");
                self.forget_firewalld();
            }
            Err(error) => return Err(error),
        }
        self.clear()?;
        Ok(Change::Made(vec![Step::Firewall(FilterChange {
            kind: ChangeKind::Elements,
            ..change.inverse()
        })]))
    }

    /// If firewalld does not take it, it holds what it did before.
    async fn fill_firewalld(
        &mut self,
        before: &Contents,
        wanted: &Contents,
    ) -> Result<(), SysError> {
        let mark = layout::firewalld(&self.settings.config);
        let failed = SysError::io(format!("create {}", mark.display()));
        let not_running = || SysError::Bus("firewalld does not run".to_owned());
        let firewalld = self.firewalld().await?.ok_or_else(not_running)?;
        files::create(&mark, "").map_err(failed)?;
        let told = firewalld.apply(wanted).await;
        if told.is_err()
            && let Err(error) = firewalld.apply(before).await
        {
            tracing::warn!("firewalld does not hold what it did before: {error}");
        }
        let holds = if told.is_ok() { wanted } else { before };
        if *holds == Contents::default() {
            self.forget_firewalld();
        }
        told
    }

    /// Takes from firewalld what it holds by its driver, now that our table has taken its place.
    pub(super) async fn leave_firewalld(&mut self) {
        if !self.may_be_in_firewalld() {
            return;
        }
        let emptied = match self.firewalld().await {
            Ok(Some(firewalld)) => firewalld.apply(&Contents::default()).await,
            // What it held is gone with it.
            Ok(None) | Err(_) => Ok(()),
        };
        match emptied {
            Ok(()) => self.forget_firewalld(),
            Err(error) => tracing::warn!("firewalld still forwards ports of containers: {error}"),
        }
        self.trust_all().await;
    }

    fn may_be_in_firewalld(&self) -> bool {
        let config = &self.settings.config;
        let driver = files::read(&layout::firewall_driver(config));
        let by_netavark = driver.is_ok_and(|name| name.as_deref() == Some("firewalld"));
        by_netavark || layout::firewalld(config).exists()
    }

    fn forget_firewalld(&self) {
        let config = &self.settings.config;
        let path = layout::firewalld(config);
        if let Err(error) = files::remove(&path, &layout::own(config)) {
            tracing::warn!("remove {}: {error}", path.display());
        }
    }

    async fn distrust(&mut self, subnets: &[IpNet]) {
        if let Ok(Some(firewalld)) = self.firewalld().await
            && let Err(error) = firewalld.trust(subnets, false).await
        {
            tracing::warn!("{error}");
        }
    }

    /// Lets firewalld pass what comes from subnets, or ask about it again. It is not our business whether it runs.
    pub(super) async fn trust(&mut self, subnets: &[IpNet], trusted: bool) -> Change {
        if self.settings.firewall != FirewallDriver::Nftables {
            return Change::AlreadySo;
        }
        let told = match self.firewalld().await {
            Ok(Some(firewalld)) => firewalld.trust(subnets, trusted).await,
            Ok(None) => return Change::AlreadySo,
            Err(error) => {
                tracing::debug!("no firewalld: {error}");
                return Change::AlreadySo;
            }
        };
        if let Err(error) = told {
            tracing::warn!("{error}");
        }
        Change::Made(vec![Step::Trust {
            subnets: subnets.to_vec(),
            trusted: !trusted,
        }])
    }

    /// The same for all subnets on record.
    pub(super) async fn trust_all(&mut self) {
        if self.settings.rootless {
            return;
        }
        let Ok(all) = self.state.everything() else {
            return;
        };
        let networks = all.networks.values().filter(|network| network.filtered);
        let subnets = networks.flat_map(|network| &network.subnets);
        let subnets: Vec<IpNet> = subnets.map(|subnet| subnet.subnet).collect();
        self.trust(&subnets, true).await;
    }

    /// Whether firewalld allows what a request asks for.
    ///
    /// # Errors
    /// It does not, or the driver is `firewalld` and it does not run.
    pub async fn ask_firewalld(&mut self, request: &SetupRequest) -> Result<(), SysError> {
        let settings = &self.settings;
        let forwards = !request.ports.is_empty() || settings.dns_port != 53;
        let concerned = request
            .attachments
            .iter()
            .any(|attachment| match attachment {
                Attachment::Bridge(bridge) => {
                    bridge.network.mode == Mode::Managed && !bridge.network.internal
                }
                Attachment::Sublink(_) | Attachment::Plugin(_) => false,
            });
        match settings.firewall {
            FirewallDriver::Firewalld => match self.firewalld().await? {
                Some(_) => Ok(()),
                None => Err(SysError::Bus("firewalld does not run".to_owned())),
            },
            FirewallDriver::Nftables if forwards && concerned && !settings.rootless => {
                let Ok(Some(firewalld)) = self.firewalld().await else {
                    return Ok(());
                };
                match firewalld.strict_forward_ports().await.as_deref() {
                    Some("yes") => Err(SysError::StrictForwardPorts),
                    None | Some("no") => Ok(()),
                    Some(other) => {
                        tracing::warn!(
                            "unexpected value from StrictForwardPorts property: {other}"
                        );
                        Ok(())
                    }
                }
            }
            FirewallDriver::Nftables | FirewallDriver::None => Ok(()),
        }
    }
}

/// Whether a change takes something away and brings nothing.
fn only_removes(change: &FilterChange) -> bool {
    change.add.is_empty() && (change.kind == ChangeKind::Clear || !change.remove.is_empty())
}
