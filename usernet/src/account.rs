//! The answer to who asks a running instance what it does: as text, or as JSON.
//!
//! # JSON
//!
//! One object. Fields may be added, and kinds, states, limits and counters of other names; what is here stays what it is
//! as long as `version` does.
//!
//! | field | type | meaning |
//! | --- | --- | --- |
//! | `version` | number | 1 |
//! | `pid` | number | whom it is about; from who asks |
//! | `uptime_ms` | number | milliseconds since it began to forward |
//! | `flows.now` | number | flows there are |
//! | `flows.by_state` | list of `{kind, state, count}` | kinds: `tcp`, `tcp splice`, `udp`, `udp splice`, `echo`, `group` |
//! | `flows.top` | list | those that moved most, most first; as many as were asked for |
//! | `flows.top[].kind`, `.state` | string | as above |
//! | `flows.top[].direction` | string | `out`: the guest began it; `in`: somebody else |
//! | `flows.top[].from`, `.to` | string or null | who called and whom, address and port, as the guest sees them; of an echo the guest's port is its identifier |
//! | `flows.top[].host` | string or null | what the host calls the far end, where the guest calls it otherwise |
//! | `flows.top[].age_ms`, `.idle_ms` | number | since it began, since it was last used (to a second) |
//! | `flows.top[].bytes_to_host`, `.bytes_to_guest` | number | bytes of payload; those of TCP once the other side has acknowledged them |
//! | `limits` | list of `{name, now, most}` | what is bounded, and how much of it is used |
//! | `listeners` | list | rules for ports |
//! | `listeners[].side` | string | `host`: published ports; `guest`: `-T`, `-U` |
//! | `listeners[].protocol` | string | `tcp` or `udp` |
//! | `listeners[].address`, `.interface`, `.target_address` | string or null | null: any |
//! | `listeners[].first`, `.last`, `.target` | number | ports; `first` leads to `target` |
//! | `listeners[].follows` | bool | only while somebody listens on the other side |
//! | `listeners[].sockets` | number | sockets that are open for it |
//! | `counters` | object of objects of numbers | all counters by group and name; `dropped` has the reasons |

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use ask::text::section;
use serde_json::{Map, Value, json};

use crate::config::Listener;
use crate::event::{Side, Transport};
use crate::ports::Rule;
use crate::stats::Counters;

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub kind: &'static str,
    /// Where in its life.
    pub state: &'static str,
    /// Not the guest began it.
    pub inbound: bool,
    /// Who called.
    pub from: Option<SocketAddr>,
    /// Whom.
    pub to: Option<SocketAddr>,
    /// What the host calls the far end, where the guest calls it otherwise.
    pub host: Option<SocketAddr>,
    /// Since it began.
    pub age: Duration,
    /// Since it was last used.
    pub idle: Duration,
    /// Bytes to the host and to the guest.
    pub moved: [u64; 2],
}

/// Something of which there may only be so much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// What.
    pub name: &'static str,
    /// How much there is.
    pub now: u64,
    /// How much there may be.
    pub most: u64,
}

/// A rule for ports, and how many sockets are open for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// The rule.
    pub rule: Listener,
    /// Sockets.
    pub sockets: usize,
}

/// All that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Since when it forwards.
    pub uptime: Duration,
    /// Flows there are.
    pub flows: u32,
    /// The same by kind and state.
    pub by_state: BTreeMap<(&'static str, &'static str), u32>,
    /// Those that moved most.
    pub top: Vec<Line>,
    /// What is bounded.
    pub bounds: Vec<Bound>,
    /// What is listened on.
    pub listeners: Vec<Listening>,
    /// What was counted.
    pub counters: Counters,
}

impl Account {
    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let by_state = self.by_state.iter();
        let by_state: Vec<_> = by_state
            .map(|((kind, state), count)| json!({"kind": kind, "state": state, "count": count}))
            .collect();
        let bounds = self.bounds.iter();
        let bounds: Vec<_> = bounds
            .map(|bound| json!({"name": bound.name, "now": bound.now, "most": bound.most}))
            .collect();
        json!({
            "version": 1,
            "uptime_ms": milliseconds(self.uptime),
            "flows": {
                "now": self.flows,
                "by_state": by_state,
                "top": self.top.iter().map(Line::json).collect::<Vec<_>>(),
            },
            "limits": bounds,
            "listeners": self.listeners.iter().map(Listening::json).collect::<Vec<_>>(),
            "counters": counters(&self.counters),
        })
    }
}

/// For people.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "up {}, {} flows", Long(self.uptime), self.flows)?;
        let rows = self
            .by_state
            .iter()
            .map(|((kind, state), count)| [kind, state, &*count.to_string()].map(str::to_owned));
        section(f, ["flows", "state", "now"], 2, rows)?;
        let rows = self.top.iter().map(Line::row);
        section(f, Line::COLUMNS, 5, rows)?;
        let rows = self.bounds.iter().map(|bound| {
            let share = bound.now.saturating_mul(100) / bound.most.max(1);
            let (now, most) = (bound.now.to_string(), bound.most.to_string());
            [bound.name.to_owned(), now, most, format!("{share} %")]
        });
        section(f, ["limits", "now", "most", "used"], 1, rows)?;
        let rows = self.listeners.iter().map(Listening::row);
        section(f, ["listeners", "rule", "sockets"], 2, rows)?;
        let rows = self.counters.all().filter(|(_, number)| *number != 0);
        let mut before = "";
        let rows = rows.map(|(counter, number)| {
            let (group, name) = counter.names();
            let shown = if group == before { "" } else { group };
            before = group;
            [shown, name, &*number.to_string()].map(str::to_owned)
        });
        section(f, ["counted", "", "in all"], 2, rows)
    }
}

impl Line {
    const COLUMNS: [&'static str; 9] = [
        "largest", "kind", "state", "from", "to", "age", "idle", "to host", "to guest",
    ];

    fn row(&self) -> [String; 9] {
        let [to_host, to_guest] = self.moved;
        let mut to = end(self.to);
        if let Some(host) = self.host {
            // Writing to a string cannot fail.
            let _ = write!(to, " ({host})");
        }
        let way = if self.inbound { "in" } else { "out" };
        [
            way.to_owned(),
            self.kind.to_owned(),
            self.state.to_owned(),
            end(self.from),
            to,
            Long(self.age).to_string(),
            Long(self.idle).to_string(),
            to_host.to_string(),
            to_guest.to_string(),
        ]
    }

    fn json(&self) -> Value {
        let address = |end: Option<SocketAddr>| end.map(|end| end.to_string());
        let [to_host, to_guest] = self.moved;
        json!({
            "kind": self.kind,
            "state": self.state,
            "direction": if self.inbound { "in" } else { "out" },
            "from": address(self.from),
            "to": address(self.to),
            "host": address(self.host),
            "age_ms": milliseconds(self.age),
            "idle_ms": milliseconds(self.idle),
            "bytes_to_host": to_host,
            "bytes_to_guest": to_guest,
        })
    }
}

impl Listening {
    fn row(&self) -> [String; 3] {
        [
            side(self.rule.side).to_owned(),
            Rule(&self.rule).to_string(),
            self.sockets.to_string(),
        ]
    }

    fn json(&self) -> Value {
        let rule = &self.rule;
        let protocol = match rule.transport {
            Transport::Tcp => "tcp",
            Transport::Udp | Transport::Echo => "udp",
        };
        json!({
            "side": side(rule.side),
            "protocol": protocol,
            "address": rule.address.map(|address| address.to_string()),
            "interface": rule.interface,
            "first": rule.first,
            "last": rule.last,
            "target": rule.target,
            "target_address": rule.target_address.map(|address| address.to_string()),
            "follows": rule.follow,
            "sockets": self.sockets,
        })
    }
}

const fn side(side: Side) -> &'static str {
    match side {
        Side::Host => "host",
        Side::Guest => "guest",
    }
}

fn end(end: Option<SocketAddr>) -> String {
    end.map_or_else(|| "-".to_owned(), |end| end.to_string())
}

fn counters(counters: &Counters) -> Value {
    let mut groups = Map::new();
    for (counter, number) in counters.all() {
        let (group, name) = counter.names();
        let group = groups.entry(key(group)).or_insert_with(|| json!({}));
        if let Value::Object(group) = group {
            group.insert(key(name), number.into());
        }
    }
    Value::Object(groups)
}

fn key(name: &str) -> String {
    name.replace(' ', "_")
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Time as people say it.
struct Long(Duration);

impl fmt::Display for Long {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{:.1} s", self.0.as_secs_f64()),
            (0, 0, _) => write!(f, "{minutes} min {} s", seconds % 60),
            (0, _, _) => write!(f, "{hours} h {} min", minutes % 60),
            (_, _, _) => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counter;

    fn account() -> Account {
        let mut counters = Counters::default();
        counters.add(Counter::TcpMade, 3);
        counters.count(Counter::DroppedChecksum);
        counters.add(Counter::TapRefused, 2);
        let line = |kind, inbound, from: &str, to: &str| Line {
            kind,
            state: "open",
            inbound,
            from: from.parse().ok(),
            to: to.parse().ok(),
            host: None,
            age: Duration::from_secs(3_700),
            idle: Duration::from_millis(1_500),
            moved: [1_000_000, 7],
        };
        Account {
            uptime: Duration::from_secs(90_061),
            flows: 2,
            by_state: [(("tcp", "open"), 1), (("udp", "one way"), 1)].into(),
            top: vec![
                Line {
                    host: "127.0.0.1:80".parse().ok(),
                    ..line("tcp", false, "192.0.2.1:40000", "192.0.2.254:80")
                },
                line("group", true, "", "[ff02::fb]:5353"),
            ],
            bounds: vec![Bound {
                name: "flows",
                now: 2,
                most: 131_072,
            }],
            listeners: vec![Listening {
                rule: Listener {
                    side: Side::Host,
                    transport: Transport::Tcp,
                    address: None,
                    interface: Some("eth0".to_owned()),
                    first: 8080,
                    last: 8080,
                    target: 80,
                    target_address: None,
                    best_effort: false,
                    follow: false,
                },
                sockets: 2,
            }],
            counters,
        }
    }

    #[test]
    fn for_people() {
        let expected = "\
up 1 d 1 h, 2 flows

flows  state    now
tcp    open       1
udp    one way    1

largest  kind   state  from             to                                   age   idle  to host  to guest
out      tcp    open   192.0.2.1:40000  192.0.2.254:80 (127.0.0.1:80)  1 h 1 min  1.5 s  1000000         7
in       group  open   -                [ff02::fb]:5353                1 h 1 min  1.5 s  1000000         7

limits  now    most  used
flows     2  131072   0 %

listeners  rule                        sockets
host       TCP [*]%eth0:8080  =>  80         2

counted                         in all
flows made  tcp                      3
dropped     checksum                 1
            refused by the tap       2
";
        assert_eq!(account().to_string(), expected);
    }

    #[test]
    fn for_programs() {
        let json = account().json();
        let at = |path: &str| json.pointer(path).unwrap_or(&Value::Null).clone();
        for (path, expected) in [
            ("/version", json!(1)),
            ("/uptime_ms", json!(90_061_000)),
            ("/flows/now", json!(2)),
            (
                "/flows/by_state/1",
                json!({"kind": "udp", "state": "one way", "count": 1}),
            ),
            (
                "/flows/top/0",
                json!({
                    "kind": "tcp", "state": "open", "direction": "out",
                    "from": "192.0.2.1:40000", "to": "192.0.2.254:80", "host": "127.0.0.1:80",
                    "age_ms": 3_700_000, "idle_ms": 1_500, "bytes_to_host": 1_000_000, "bytes_to_guest": 7,
                }),
            ),
            ("/flows/top/1/from", Value::Null),
            (
                "/limits/0",
                json!({"name": "flows", "now": 2, "most": 131_072}),
            ),
            (
                "/listeners/0",
                json!({
                    "side": "host", "protocol": "tcp", "address": null, "interface": "eth0",
                    "first": 8080, "last": 8080, "target": 80, "target_address": null,
                    "follows": false, "sockets": 2,
                }),
            ),
            ("/counters/flows_made/tcp", json!(3)),
            ("/counters/dropped/refused_by_the_tap", json!(2)),
            ("/counters/dropped/no_flow", json!(0)),
        ] {
            assert_eq!(at(path), expected, "{path}");
        }
    }

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "0.0 s"),
            (59, "59.0 s"),
            (60, "1 min 0 s"),
            (7_260, "2 h 1 min"),
            (200_000, "2 d 7 h"),
        ] {
            assert_eq!(Long(Duration::from_secs(seconds)).to_string(), expected);
        }
    }
}
