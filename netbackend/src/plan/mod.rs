//! What has to be done: from a request and the facts about the host to a list of steps.
//!
//! Planning is pure. It decides everything, names and addresses included, so that the reply is known
//! before the first change, and it never looks at the host itself: the same request and facts give the
//! same plan. Modules in reading order:
//!
//! - [`step`]: one change to the host.
//! - [`setup`]: attaching a container. [`teardown`]: detaching it.
//! - [`bridge`]: the steps for one bridge and one attachment.
//! - `sublink`, `plugin`: those for an attachment by another driver.
//! - `address`: addresses and routes, whatever the driver.
//! - [`answer`]: what only turns out on the way, and the reply with it.
//! - [`names`]: DNS names of a container.
//! - [`firewall`]: which elements networks and containers have in the packet filter.
//! - [`ruleset`]: the rules, and the transactions that change them.
//! - [`firewalld`]: the same for firewalld, in its terms.
//! - [`watch`]: when to look after the rules, from what the kernel tells of them.
//! - [`layout`]: where records and state files lie.
//! - [`adopt`]: what netavark has left behind, in our terms.

pub mod step;
pub mod setup;
pub mod teardown;
pub mod bridge;
mod sublink;
mod plugin;
mod address;
pub mod answer;
pub mod names;
pub mod firewall;
pub mod ruleset;
pub mod firewalld;
pub mod watch;
pub mod layout;
pub mod adopt;

use std::fmt;

use thiserror::Error;
use wire::names::{InterfaceName, NetworkName};
use wire::state::Journal;
use wire::status::Status;

use self::step::Step;

/// What a call is going to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the next call needs to know if this one is killed.
    pub journal: Journal,
    /// The changes, in order. The last one puts the outcome on record.
    pub steps: Vec<Planned>,
    /// The reply.
    pub status: Status,
    /// What the user should know although nothing is wrong enough to fail.
    pub warnings: Vec<String>,
}

/// A step and the network for whose sake it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The network, unless the step serves all networks of the call.
    pub network: Option<NetworkName>,
    /// What is done.
    pub step: Step,
}

impl Planned {
    /// Steps that serve one network.
    pub(crate) fn each(
        network: &NetworkName,
        steps: impl IntoIterator<Item = Step>,
    ) -> impl Iterator<Item = Self> {
        steps.into_iter().map(|step| Self {
            network: Some(network.clone()),
            step,
        })
    }
}

impl From<Step> for Planned {
    fn from(step: Step) -> Self {
        Self {
            network: None,
            step,
        }
    }
}

impl Plan {
    /// The plan for programs, with what the packet filter would be told.
    #[must_use]
    pub fn document(&self, nft: String) -> wire::plan::Plan {
        let steps = self.steps.iter().map(|planned| wire::plan::Planned {
            network: planned.network.as_ref().map(ToString::to_string),
            step: planned.step.to_string(),
        });
        wire::plan::Plan {
            steps: steps.collect(),
            nft,
            status: self.status.clone(),
            warnings: self.warnings.clone(),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps
            .iter()
            .enumerate()
            .try_for_each(|(n, planned)| writeln!(f, "{:3}. {}", n + 1, planned.step))
    }
}

/// Why a request cannot be carried out on this host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("network \"{network}\": {why}")]
pub struct PlanError {
    /// Which network.
    pub network: NetworkName,
    /// What is in the way.
    pub why: Obstacle,
}

/// What is in the way of a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum Obstacle {
    #[error("bridge interface {bridge} already exists but is a {kind} interface")]
    NotABridge { bridge: InterfaceName, kind: String },
    #[error(
        "bridge {0}: in unmanaged mode, the bridge must already exist on the host: Netlink error: No such device (os error 19)"
    )]
    NoBridge(InterfaceName),
    #[error(
        "vrf {0}: get vrf to set up bridge interface: Netlink error: No such device (os error 19)"
    )]
    NoVrf(InterfaceName),
    #[error("get vrf to set up bridge interface: {vrf} is a {kind} interface, expected vrf")]
    NotAVrf { vrf: InterfaceName, kind: String },
    #[error(
        "failed to get default route interface: there is no default route, give the network a parent interface"
    )]
    NoDefaultRoute,
    #[error("parent interface {0} does not exist")]
    NoParent(InterfaceName),
    #[error(
        "create {driver} interface: interface {interface} already exists on container namespace: Netlink error: File exists (os error 17)"
    )]
    InterfaceExists {
        driver: &'static str,
        interface: InterfaceName,
    },
    #[error(
        "unknown network driver \"{0}\", expected bridge, macvlan, ipvlan or the name of a plugin"
    )]
    NoPlugin(String),
    #[error(
        "bridge {0} has no ip address to serve dns on: give it an address, or create the network with --disable-dns"
    )]
    NoDnsAddress(InterfaceName),
}
