//! What is broken, why, and what to do about it.
//!
//! # Theory of operation
//!
//! Records in the state directory say what should be, the host says what is. [`facts`] holds both, read once (`sys::doctor`
//! asks the kernel for all links, addresses, routes and rules at a time, however many containers there are);
//! [`examine`] compares them and returns findings. Nothing is changed.
//!
//! A finding has a code that does not change (the troubleshooting table of the README is by it), what is the matter,
//! what comes of it, and commands that mend it. A command is one that can be pasted where the doctor was called; those
//! that only the engine can do, because they take the request that made the container, are the engine's. None ends or takes
//! away what the host or its administrator may need: that is shown instead, or said.
//!
//! One cause, one finding: what follows from another finding is not told again. A bridge that is switched off has lost its
//! IPv6 addresses, too, so its finding's commands put them back; containers on a bridge that is gone are not each told to
//! be detached.
//!
//! | severity | means | exit code |
//! | --- | --- | --- |
//! | broken | some container lacks something that it was promised | 1 |
//! | warning | all works, but something is odd, or will not work for everybody | 0 |
//!
//! What must not happen is a false alarm. So rules that an administrator adds are none, a chain of somebody else is only said
//! to drop when there is no way through it ([`packet`]), and whoever has a default route of its own in a container
//! needs none of ours.
//!
//! In the wrong network namespace all would look broken. Then nothing is found, but [`Misplaced`] told, as `gc` does.

use wire::diagnosis::Diagnosis;
pub use wire::diagnosis::Severity;

pub mod facts;
pub mod remedy;
pub mod packet;
mod records;
mod links;
mod routes;
mod outside;
mod rules;
mod strangers;
mod names;
mod ports;
mod options;

pub use crate::gc::Misplaced;
pub(crate) use links::setting;
pub use options::DoctorArgs;

use crate::inspect::text::printable;
use facts::Facts;
use remedy::{Caller, Command};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing it is, for programs and for tables in documents.
    pub code: &'static str,
    /// What is the matter.
    pub what: String,
    /// What comes of it.
    pub why: String,
    /// What mends it, in this order.
    pub remedy: Vec<Command>,
}

/// The name of a severity.
fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Broken => "broken",
        Severity::Warning => "warning",
    }
}

/// All codes of findings, in order.
pub const CODES: &[&str] = &[
    "address-shared",
    "bridge-address",
    "bridge-down",
    "bridge-filter",
    "bridge-missing",
    "bridge-route",
    "call-interrupted",
    "chain-policy",
    "connections-full",
    "container-address",
    "container-gone",
    "default-route",
    "elements-missing",
    "elements-unknown",
    "firewalld",
    "foreign-drop",
    "foreign-policy",
    "forwarding",
    "hairpin",
    "interface-detached",
    "interface-down",
    "interface-missing",
    "kernel",
    "left-behind",
    "loopback-route",
    "mtu-mismatch",
    "mtu-over-uplink",
    "names-damaged",
    "names-missing",
    "port-taken",
    "record-damaged",
    "responder-dead",
    "responder-elsewhere",
    "responder-port-taken",
    "responder-silent",
    "responder-stopped",
    "responder-unknown",
    "route-localnet",
    "route-over-subnet",
    "rp-filter",
    "rules-missing",
    "subnet-shared",
    "table-missing",
    "uplink-route",
];

impl Finding {
    fn new(
        severity: Severity,
        code: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: Vec<Command>,
    ) -> Self {
        debug_assert!(CODES.contains(&code), "{code}");
        Self {
            severity,
            code,
            what: what.into(),
            why: why.into(),
            remedy,
        }
    }

    fn broken(
        code: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: Vec<Command>,
    ) -> Self {
        Self::new(Severity::Broken, code, what, why, remedy)
    }

    fn warning(
        code: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: Vec<Command>,
    ) -> Self {
        Self::new(Severity::Warning, code, what, why, remedy)
    }

    /// Ids become as short as engines print them, and understand them. In paths they stay.
    fn shorten(&mut self) {
        for text in [&mut self.what, &mut self.why] {
            let words = text.split(' ').map(|word| {
                let id = word.trim_end_matches([',', ':', ';']);
                format!("{}{}", short(id), &word[id.len()..])
            });
            *text = words.collect::<Vec<_>>().join(" ");
        }
        self.remedy.iter_mut().for_each(Command::shorten);
    }

    /// The finding for programs.
    #[must_use]
    pub fn document(&self) -> wire::diagnosis::Finding {
        wire::diagnosis::Finding {
            severity: self.severity,
            code: self.code.to_owned(),
            what: self.what.clone(),
            why: self.why.clone(),
            remedy: self.remedy.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What there is to say about a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What is not as it should be, the worst first.
    pub findings: Vec<Finding>,
    /// How we were called.
    pub caller: Caller,
    /// How many networks were looked at.
    pub networks: usize,
    /// How many containers were looked at.
    pub containers: usize,
}

/// Compares what should be with what is.
#[must_use]
pub fn examine(facts: &Facts) -> Report {
    let mut findings = records::examine(facts);
    findings.extend(links::examine(facts));
    findings.extend(routes::examine(facts));
    findings.extend(outside::examine(facts));
    findings.extend(rules::examine(facts));
    findings.extend(strangers::examine(facts));
    findings.extend(names::examine(facts));
    findings.extend(ports::examine(facts));
    findings.iter_mut().for_each(Finding::shorten);
    findings.sort_by_key(|finding| finding.severity);
    Report {
        findings,
        caller: facts.caller.clone(),
        networks: facts.networks.len(),
        containers: facts.containers.len(),
    }
}

impl Report {
    /// Whether nothing is broken.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.all(|finding| finding.severity != Severity::Broken)
    }

    /// The report for programs.
    #[must_use]
    pub fn document(&self) -> Diagnosis {
        Diagnosis {
            healthy: self.is_healthy(),
            config: self.caller.config.display().to_string(),
            networks: self.networks,
            containers: self.containers,
            findings: self.findings.iter().map(Finding::document).collect(),
        }
    }

    /// Where nothing is on record, if that is so: who has looked in the wrong place must not think that all is well.
    fn nothing(&self) -> Option<String> {
        if self.networks + self.containers + self.findings.len() > 0 {
            return None;
        }
        let config = printable(&self.caller.config.display().to_string());
        let own = self.caller.own().filter(|_| !self.caller.is_root);
        let own = own.map(|command| format!("; for containers of your own:\n        {command}"));
        Some(format!(
            "nothing is on record in {config}{}\n",
            own.unwrap_or_default()
        ))
    }

    /// The report for people. What others have named (processes, files) does not act on the terminal, nor look like more of
    /// the report.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let Finding {
                severity,
                code,
                what,
                why,
                remedy,
            } = finding;
            let (what, why) = (printable(what), printable(why));
            let severity = name(*severity);
            text.push_str(&format!("{severity}: {code}: {what}\n    {why}\n"));
            for command in remedy {
                text.push_str(&format!("        {command}\n"));
            }
        }
        let count = |severity| {
            let of = |finding: &&Finding| finding.severity == severity;
            self.findings.iter().filter(of).count()
        };
        let state = match (count(Severity::Broken), count(Severity::Warning)) {
            (0, 0) => "healthy".to_owned(),
            (0, warnings) => format!("healthy, warnings: {warnings}"),
            (broken, 0) => format!("broken: {broken}"),
            (broken, warnings) => format!("broken: {broken}, warnings: {warnings}"),
        };
        let (networks, containers) = (self.networks, self.containers);
        text.push_str(&format!(
            "{state} (networks: {networks}, containers: {containers})\n"
        ));
        text.push_str(&self.nothing().unwrap_or_default());
        text
    }
}

/// The beginning of an id.
fn short(word: &str) -> &str {
    const WHOLE: usize = 64;
    const SHORT: usize = 12;
    let is_id = word.len() == WHOLE && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    word.get(..SHORT).filter(|_| is_id).unwrap_or(word)
}

/// Several names in a sentence; many are cut short.
pub(crate) fn listed<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    /// How many are told.
    const TOLD: usize = 8;
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.get(..TOLD) {
        Some(first) if names.len() > TOLD => {
            format!("{} and {} more", first.join(", "), names.len() - TOLD)
        }
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests;
