//! The records themselves, and what crashed engines and calls have left.

use std::collections::BTreeSet;

use super::facts::{Damaged, Facts};
use super::remedy::{Caller, Command};
use super::{Finding, listed};
use crate::gc;
use wire::names::ContainerId;
use wire::state::ContainerRecord;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts
        .damaged
        .iter()
        .map(|damaged| unreadable(damaged, &facts.caller))
        .collect();
    findings.extend(
        facts
            .leftovers
            .iter()
            .filter_map(|left| leftover(left, facts)),
    );
    findings
}

/// What has the engine make containers anew on all their networks.
pub(super) fn reload<'a>(
    caller: &Caller,
    containers: impl IntoIterator<Item = &'a ContainerId>,
) -> Command {
    /// More than these are not listed one by one.
    const MANY: usize = 16;
    let containers: BTreeSet<&ContainerId> = containers.into_iter().collect();
    if containers.len() > MANY {
        return caller.engine("network reload --all");
    }
    let command = caller.engine("network reload");
    containers
        .into_iter()
        .fold(command, |command, id| command.arg(id))
}

fn unreadable(damaged: &Damaged, caller: &Caller) -> Finding {
    let path = damaged.path.display();
    let mut remedy = vec![caller.remove(&damaged.path)];
    let of = if damaged.containers.is_empty() {
        remedy.push(caller.collect());
        String::new()
    } else {
        remedy.push(reload(caller, &damaged.containers));
        format!(" of {}", listed(&damaged.containers))
    };
    Finding::broken(
        "record-damaged",
        format!("{path} cannot be read: {}", damaged.why),
        format!(
            "nobody knows rules, ports and names{of} any more: the next reload leaves them out"
        ),
        remedy,
    )
}

fn leftover(left: &gc::Finding, facts: &Facts) -> Option<Finding> {
    let gc = vec![facts.caller.collect()];
    Some(match left {
        gc::Finding::Interrupted(container) => Finding::broken(
            "call-interrupted",
            format!("a call for container {container} did not come to its end"),
            "what it did is half done; the next call takes it back",
            gc,
        ),
        gc::Finding::Container(container, networks) => {
            // One whose namespace is there has only lost its interface.
            if lives(container, facts) {
                return None;
            }
            Finding::broken(
                "container-gone",
                format!(
                    "container {} is on record on {}, but its namespace is gone",
                    container.id,
                    networks.join(", ")
                ),
                "whoever ran it has crashed; its ports, addresses and names are still given away",
                gc,
            )
        }
        // A record that cannot be read, or a call that was killed, may tell of any of them.
        _ if !facts.damaged.is_empty() || is_interrupted(facts) => return None,
        gc::Finding::Rules
        | gc::Finding::Member(..)
        | gc::Finding::Port(..)
        | gc::Finding::Network(_)
        | gc::Finding::BridgeUser(..)
        | gc::Finding::Ports(..)
        | gc::Finding::NetworkFile(..)
        | gc::Finding::Zone(_)
        | gc::Finding::Lease(_) => Finding::warning(
            "left-behind",
            left.to_string(),
            "somebody has crashed, or was killed, and left it behind",
            gc,
        ),
    })
}

/// Whether a call was killed, which explains a lot.
pub(super) fn is_interrupted(facts: &Facts) -> bool {
    let mut left = facts.leftovers.iter();
    left.any(|left| matches!(left, gc::Finding::Interrupted(_)))
}

fn lives(container: &ContainerRecord, facts: &Facts) -> bool {
    let mut attachments = container.attachments.iter();
    attachments.any(|on| facts.namespaces.contains(&on.netns_inode))
}
