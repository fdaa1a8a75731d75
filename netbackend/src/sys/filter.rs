//! The packet filter: elements in the common case, the whole table when it is not as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use wire::names::{ContainerId, InterfaceName, MacAddr};
use wire::state::{AttachmentRecord, ContainerRecord, NetworkRecord, OtherRecord};

use super::apply::Change;
use super::netns::Namespace;
use super::nft::{self, apply_with_program};
use super::state::Everything;
use super::{Host, SysError, xtables};
use crate::nft::Transaction;
use crate::nft::elements::Identity;
use crate::nft::foreign::Hook;
use crate::observed::{FirewallDriver, TableState};
use crate::plan::firewall::{self, Change as FilterChange, ChangeKind, Elements, Key, Part, Set};
use crate::plan::ruleset::{self, Difference};
use crate::plan::step::Step;

impl Host {
    fn transact(&mut self, transaction: &Transaction) -> Result<(), SysError> {
        match self.nft_program.clone() {
            Some(program) => Ok(apply_with_program(&program, transaction)?),
            None => Ok(self.nft()?.apply(transaction)?),
        }
    }

    /// Adds and removes elements of a table that is as the records say.
    pub(super) fn apply_elements(&mut self, change: &FilterChange) -> Result<(), SysError> {
        self.transact(&ruleset::elements(&change.remove, &change.add))
    }

    /// Takes the table away, or what is ours of it.
    pub(super) fn clear(&mut self) -> Result<Change, SysError> {
        let chains = self.nft()?.chain_names(ruleset::TABLE)?;
        if chains.is_empty() {
            return Ok(Change::AlreadySo);
        }
        self.transact(&ruleset::clear(&chains))?;
        Ok(Change::Made(vec![Step::Firewall(FilterChange {
            kind: ChangeKind::Rebuild,
            ..FilterChange::default()
        })]))
    }

    /// Says which chains of others may drop packets of new networks, whatever our rules accept. firewalld is told of
    /// the subnets instead.
    pub fn warn_of_drops(&mut self, networks: &[NetworkRecord]) {
        let filtered = || networks.iter().filter(|network| network.filtered);
        let nftables = self.settings.firewall == FirewallDriver::Nftables;
        if !nftables || self.settings.rootless || filtered().next().is_none() {
            return;
        }
        let chains = self
            .nft()
            .and_then(|nft| Ok(nft.drop_chains(&[ruleset::TABLE, "firewalld"])?));
        let bridges: BTreeSet<String> = filtered().map(|on| on.bridge.to_string()).collect();
        let bridges = bridges.into_iter().collect::<Vec<_>>().join(", ");
        let dns = filtered().any(|network| network.dns.is_some());
        for chain in chains
            .unwrap_or_default()
            .into_iter()
            .chain(xtables::drop_chains())
        {
            match chain.hook {
                Hook::Forward => tracing::warn!(
                    "{chain}: unless its rules accept what comes from and goes to {bridges}, containers reach nobody"
                ),
                Hook::Input if dns => tracing::warn!(
                    "{chain}: unless its rules accept port 53 from {bridges}, containers resolve no names"
                ),
                Hook::Input => {}
            }
        }
    }

    /// Replaces all rules and elements, in one transaction, by what the records of living containers and
    /// this change call for.
    pub(super) async fn rebuild(&mut self, change: &FilterChange) -> Result<Change, SysError> {
        self.rebuilt = true;
        let mut living = self.living().await?;
        self.problems = std::mem::take(&mut living.problems);
        let elements = elements_after(change, &living)?;
        let chains = self.nft()?.chain_names(ruleset::TABLE)?;
        let nothing_left = elements.is_empty();
        if nothing_left && chains.is_empty() {
            return Ok(Change::AlreadySo);
        }
        self.replace_table(&elements, &chains)?;
        let kind = if chains.is_empty() {
            ChangeKind::Clear
        } else {
            ChangeKind::Rebuild
        };
        Ok(Change::Made(vec![Step::Firewall(FilterChange {
            kind,
            ..change.inverse()
        })]))
    }

    fn replace_table(&mut self, elements: &Elements, chains: &[String]) -> Result<(), SysError> {
        let replacement = self.replacement(elements, chains)?;
        self.transact(&replacement)
    }

    fn replacement(
        &mut self,
        elements: &Elements,
        chains: &[String],
    ) -> Result<Transaction, SysError> {
        let difference = if chains.is_empty() {
            Difference::all(elements)
        } else {
            self.difference(elements)?
        };
        let stale = ruleset::stale_chains(chains);
        Ok(ruleset::rebuild(elements, &difference, &stale))
    }

    /// The transaction that a change would be made with.
    ///
    /// # Errors
    /// The records or the table cannot be read.
    pub async fn transaction(&mut self, change: &FilterChange) -> Result<Transaction, SysError> {
        if change.kind == ChangeKind::Elements {
            return Ok(ruleset::elements(&change.remove, &change.add));
        }
        let chains = self.nft()?.chain_names(ruleset::TABLE)?;
        if change.kind == ChangeKind::Clear {
            return Ok(ruleset::clear(&chains));
        }
        let elements = elements_after(change, &self.living().await?)?;
        self.replacement(&elements, &chains)
    }

    /// All records, without the attachments whose interfaces are gone.
    pub(super) async fn living(&self) -> Result<Everything, SysError> {
        let mut all = self.state.everything()?;
        let links = self.links.all().await?;
        for container in &mut all.containers {
            container
                .attachments
                .retain(|attachment| is_alive(attachment, &links));
        }
        Ok(all)
    }

    /// Whether the table has all rules and elements that the records call for.
    ///
    /// # Errors
    /// The records or the table cannot be read.
    pub async fn has_rules(&mut self) -> Result<bool, SysError> {
        let living = self.living().await?;
        let mut elements = firewall::all_elements(&living.networks, &living.containers);
        firewall::merge_subnets(&mut elements);
        if elements.is_empty() {
            return Ok(true);
        }
        Ok(super::observe::table(self)? == TableState::Sound
            && self.difference(&elements)?.missing.is_empty())
    }

    /// Which of these elements the table lacks.
    pub(super) fn missing_elements(&mut self, wanted: &Elements) -> Result<Elements, SysError> {
        Ok(self.difference(wanted)?.missing)
    }

    /// How the elements of the table differ from these.
    pub(super) fn difference(&mut self, wanted: &Elements) -> Result<Difference, SysError> {
        let mut difference = Difference::default();
        let mut by_set: BTreeMap<Set, Elements> = BTreeMap::new();
        for (key, value) in wanted {
            let of_set = by_set.entry(key.0).or_default();
            of_set.insert(key.clone(), value.clone());
        }
        for (set, name) in ruleset::set_names() {
            let wanted = by_set.remove(&set).unwrap_or_default();
            let found = self.nft()?.elements(ruleset::TABLE, name)?;
            let (missing, excess) = lacks(wanted, found)?;
            difference.missing.extend(missing);
            if excess {
                difference.excess.insert(set);
            }
        }
        Ok(difference)
    }

    /// The attachments on record whose interfaces are gone, by container.
    ///
    /// # Errors
    /// The records or the interfaces cannot be listed.
    pub async fn dead(&self) -> Result<Vec<ContainerRecord>, SysError> {
        let links = self.links.all().await?;
        let mut dead = self.state.everything()?.containers;
        for container in &mut dead {
            container
                .attachments
                .retain(|attachment| !is_alive(attachment, &links));
            container.others.retain(is_gone);
        }
        dead.retain(|container| !container.is_empty());
        Ok(dead)
    }

    /// Whether the interface of an attachment is there.
    ///
    /// # Errors
    /// The kernel does not say.
    pub async fn is_attached(&self, attachment: &AttachmentRecord) -> Result<bool, SysError> {
        self.links
            .has(&attachment.host_interface, attachment.host_mac)
            .await
    }
}

/// What the records of living containers and this change call for.
///
/// # Errors
/// A living container has a published port already.
pub(super) fn elements_after(
    change: &FilterChange,
    living: &Everything,
) -> Result<Elements, SysError> {
    let mut elements = firewall::all_elements(&living.networks, &living.containers);
    elements.retain(|key, _| !change.remove.contains_key(key));
    for (key, value) in &change.add {
        if let Some(port) = published(key)
            && elements.get(key).is_some_and(|other| other != value)
            && let Some(owner) = owner(key, living)
        {
            return Err(taken(port, owner));
        }
        elements.insert(key.clone(), value.clone());
    }
    firewall::merge_subnets(&mut elements);
    Ok(elements)
}

/// Which elements of a set are not among those found, and whether it has others (or is not there).
fn lacks(
    wanted: Elements,
    found: Option<BTreeSet<Identity>>,
) -> Result<(Elements, bool), SysError> {
    let Some(mut found) = found else {
        return Ok((wanted, true));
    };
    let identities = nft::identities(&ruleset::elements(&Elements::new(), &wanted))?;
    let mut wanted = wanted.into_iter();
    let (mut missing, mut torn, mut begun) = (Elements::new(), false, true);
    for identity in identities {
        let there = found.remove(&identity);
        if identity.ends {
            torn |= there != begun;
        } else {
            begun = there;
            missing.extend(wanted.next().filter(|_| !there));
        }
    }
    Ok((missing, torn || !found.is_empty()))
}

/// Netavark's attachments cannot be told from the interfaces; they are taken to live.
pub(super) fn is_alive(
    attachment: &AttachmentRecord,
    links: &BTreeMap<InterfaceName, MacAddr>,
) -> bool {
    attachment.netns_inode == 0
        || links.get(&attachment.host_interface) == Some(&attachment.host_mac)
}

/// Whether the namespace of an attachment is known to be gone. A path below /proc may just be another
/// process's business by now.
fn is_gone(other: &OtherRecord) -> bool {
    let path = Path::new(&other.netns);
    let same = Namespace::open(path).is_ok_and(|netns| netns.facts().inode == other.netns_inode);
    !same && !path.starts_with("/proc")
}

/// The protocol and the port of a key that stands for a published port.
fn published((set, parts): &Key) -> Option<(&'static str, u16)> {
    if !matches!(
        set,
        Set::Publish4 | Set::Publish6 | Set::PublishAt4 | Set::PublishAt6
    ) {
        return None;
    }
    let protocol = parts
        .iter()
        .find_map(|part| pick!(part, Part::Protocol(protocol) => protocol.name()))?;
    let port = parts
        .iter()
        .find_map(|part| pick!(part, Part::Port(port) => *port))?;
    Some((protocol, port))
}

/// The container that has a published port. One that netavark attached gives way: it may be long dead,
/// and while it lives the engine itself lets nobody else have its port.
fn owner<'a>(key: &Key, living: &'a Everything) -> Option<&'a ContainerId> {
    let claims = |container: &&ContainerRecord| {
        let mut ours = (*container).clone();
        ours.attachments
            .retain(|attachment| attachment.netns_inode != 0);
        firewall::container_elements(&ours, &living.networks).contains_key(key)
    };
    let owner = living.containers.iter().find(claims);
    owner.map(|container| &container.id)
}

fn taken((protocol, port): (&'static str, u16), owner: &ContainerId) -> SysError {
    SysError::PortTaken {
        port,
        protocol,
        owner: owner.to_string(),
    }
}
