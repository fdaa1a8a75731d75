//! The answer to who asks a running daemon what it does: as text, or as JSON.
//!
//! # JSON
//!
//! One object. Fields and counters may be added; what is here stays what it is as long as `version` does.
//!
//! | field | type | meaning |
//! | --- | --- | --- |
//! | `version` | number | 1 |
//! | `pid` | number | whom it is about; from who asks |
//! | `uptime_ms` | number | milliseconds since it was ready |
//! | `workers` | number | threads that serve UDP |
//! | `memory_bytes` | number or null | resident memory |
//! | `networks` | list of `{name, internal, names, listen, servers}` | `names` is how many, `listen` and `servers` are addresses |
//! | `problems` | list of strings | what is wrong with the zone files |
//! | `host_servers` | list of strings | servers of the host, address and port |
//! | `cache` | `{answers, bytes}` | kept answers of servers |
//! | `servers` | list | what is known of servers that were asked by UDP |
//! | `servers[].address`, `.answers`, `.refusals`, `.silences` | string, numbers | answers that came, those of them that were SERVFAIL or REFUSED, and slots in which none came |
//! | `servers[].silent` | bool | it is passed over until it answers again |
//! | `servers[].mean_ms`, `.slowest_ms` | number or null | from question to answer, of all its answers |
//! | `servers[].last_ms` | number or null | since its last answer |
//! | `silent_by_tcp` | list of strings | servers that do not answer by TCP |
//! | `failed` | list of `{question, count}` | names and types that failed most, as many as were asked for |
//! | `counters` | object of numbers | sums since the start: see the metrics in README |

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ask::text::section;
use serde_json::{Map, Value, json};

use crate::forward::Health;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Nothing is forwarded for it.
    pub internal: bool,
    /// How many names it has.
    pub names: usize,
    /// Where it is asked.
    pub listen: Vec<String>,
    /// Its own servers.
    pub servers: Vec<String>,
}

/// All that is told.
#[derive(Debug, Clone)]
pub struct Account {
    /// When this is.
    pub now: Instant,
    /// Since when it serves.
    pub uptime: Duration,
    /// Threads.
    pub workers: usize,
    /// Resident memory, bytes.
    pub memory: Option<u64>,
    /// Networks.
    pub networks: Vec<Network>,
    /// What is wrong with their files.
    pub problems: Vec<String>,
    /// Servers of the host.
    pub host_servers: Vec<SocketAddr>,
    /// Kept answers, and their bytes.
    pub kept: (usize, usize),
    /// Servers that were asked.
    pub servers: BTreeMap<SocketAddr, Health>,
    /// Servers that are silent by TCP.
    pub silent_by_tcp: Vec<SocketAddr>,
    /// What failed most.
    pub failed: Vec<(String, u64)>,
    /// Counters by name.
    pub counters: Vec<(&'static str, u64)>,
}

impl Account {
    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let (answers, bytes) = self.kept;
        let networks = self.networks.iter().map(|network| {
            json!({
                "name": network.name,
                "internal": network.internal,
                "names": network.names,
                "listen": network.listen,
                "servers": network.servers,
            })
        });
        let servers = self.servers.iter().map(|(address, health)| {
            json!({
                "address": address.to_string(),
                "answers": health.answers,
                "refusals": health.refusals,
                "silences": health.silences,
                "silent": health.dead.is_some(),
                "mean_ms": health.mean().map(milliseconds),
                "slowest_ms": health.mean().map(|_| milliseconds(health.slowest)),
                "last_ms": self.last(health).map(milliseconds),
            })
        });
        let failed = self.failed.iter();
        let failed = failed.map(|(question, count)| json!({"question": question, "count": count}));
        let counters = self.counters.iter();
        let counters: Map<_, _> = counters
            .map(|(name, number)| ((*name).to_owned(), (*number).into()))
            .collect();
        json!({
            "version": 1,
            "uptime_ms": u64::try_from(self.uptime.as_millis()).unwrap_or(u64::MAX),
            "workers": self.workers,
            "memory_bytes": self.memory,
            "networks": networks.collect::<Vec<_>>(),
            "problems": self.problems,
            "host_servers": texts(&self.host_servers),
            "cache": {"answers": answers, "bytes": bytes},
            "servers": servers.collect::<Vec<_>>(),
            "silent_by_tcp": texts(&self.silent_by_tcp),
            "failed": failed.collect::<Vec<_>>(),
            "counters": counters,
        })
    }

    fn last(&self, health: &Health) -> Option<Duration> {
        let answered = health.answered?;
        Some(self.now.saturating_duration_since(answered))
    }
}

/// For people.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory.map_or_else(String::new, |bytes| {
            format!(", {:.1} MiB resident", bytes as f64 / f64::from(1 << 20))
        });
        let (uptime, workers) = (self.uptime.as_secs(), self.workers);
        let (kept, bytes) = self.kept;
        writeln!(f, "up {uptime} s, {workers} workers{memory}")?;
        writeln!(f, "kept answers: {kept} in {bytes} bytes")?;
        writeln!(
            f,
            "servers of the host: {}",
            list(&texts(&self.host_servers))
        )?;
        let rows = self.networks.iter().map(|network| {
            let internal = if network.internal { "internal" } else { "" };
            [
                network.name.clone(),
                internal.to_owned(),
                list(&network.listen),
                list(&network.servers),
                network.names.to_string(),
            ]
        });
        section(
            f,
            ["network", "", "listens on", "servers", "names"],
            4,
            rows,
        )?;
        let rows = self
            .servers
            .iter()
            .map(|(address, health)| self.row(*address, health));
        let heads = [
            "server", "state", "answers", "refusals", "silences", "mean", "slowest", "last",
        ];
        section(f, heads, 2, rows)?;
        let rows = self.silent_by_tcp.iter().map(|server| [server.to_string()]);
        section(f, ["silent by TCP"], 1, rows)?;
        let rows = self.failed.iter();
        let rows = rows.map(|(question, count)| [question.clone(), count.to_string()]);
        section(f, ["failed most", "times"], 1, rows)?;
        let rows = self.counters.iter().filter(|(_, number)| *number != 0);
        let rows = rows.map(|(name, number)| [name.replace('_', " "), number.to_string()]);
        section(f, ["counted", "in all"], 1, rows)?;
        section(
            f,
            ["problems"],
            1,
            self.problems.iter().map(|problem| [problem.clone()]),
        )
    }
}

impl Account {
    fn row(&self, address: SocketAddr, health: &Health) -> [String; 8] {
        let time = |time: Option<Duration>| {
            time.map_or_else(
                || "-".to_owned(),
                |time| format!("{:.1} ms", milliseconds(time)),
            )
        };
        let state = if health.dead.is_some() {
            "silent"
        } else {
            "answers"
        };
        let last = self.last(health);
        [
            address.to_string(),
            state.to_owned(),
            health.answers.to_string(),
            health.refusals.to_string(),
            health.silences.to_string(),
            time(health.mean()),
            time(health.mean().map(|_| health.slowest)),
            last.map_or_else(
                || "never".to_owned(),
                |last| format!("{} s ago", last.as_secs()),
            ),
        ]
    }
}

fn texts(servers: &[SocketAddr]) -> Vec<String> {
    servers.iter().map(ToString::to_string).collect()
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    items.join(" ")
}

/// To a microsecond.
fn milliseconds(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1000.0
}
