//! The time of writing all rules anew, and what it does to flows through a published port.
//!
//! Flows run from a machine outside to the first container while a program reloads, and then as long again (but not for minutes) while
//! nothing happens ([`test_fixtures::flows`] tells which, and which of their losses are the work of rules).
//!
//! Both programs reload the same host, set up by ours, from the same state files, which are those of netavark: to set up
//! so many containers takes netavark very long.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use test_fixtures::flows::{Course, Passed};

use crate::site::{CONTAINER_PORT, Layout, Tool};
use crate::traffic::{Lane, published, wired};
use crate::{Options, median, note};

/// The containers of the record, and of a quick look.
const CONTAINERS: usize = 1000;
const CONTAINERS_QUICK: usize = 100;

/// How often reloads run beside flows, and nothing does, in turns.
const TURNS: usize = 3;
const TURNS_QUICK: usize = 1;

/// How long nothing happens, at most: netavark takes many minutes.
const CONTROL: Duration = Duration::from_secs(30);

/// Reloads of a turn.
const ROUNDS: usize = 50;

/// What came of one program's reloads.
struct Outcome {
    name: &'static str,
    /// Of the first reload, after somebody took the table away.
    flushed: f64,
    walls: Vec<f64>,
    cpus: Vec<f64>,
    runs: Vec<Run>,
    /// Rules and elements before the first reload and after the last.
    rules: [usize; 2],
    same: bool,
}

/// Flows beside something.
struct Run {
    what: String,
    passed: Passed,
}

impl Run {
    fn new(what: &str, passed: Passed) -> Self {
        let run = Self {
            what: what.to_owned(),
            passed,
        };
        note(&run.to_string()); // a long time may pass before the whole report
        run
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, passed } = self;
        write!(
            f,
            "{what:12} | {:7.1} | {:8} {:5} | {:11} {:5} | {:7} {:7} | {:7} {:6} {:9}{}",
            passed.time.as_secs_f64(),
            passed.one.sent,
            passed.one.lost(),
            passed.each.sent,
            passed.each.lost(),
            passed.counted(),
            passed.astray(),
            passed.tcp_bytes >> 20,
            passed.tcp_again,
            passed.tcp_needless,
            if passed.tcp_whole { "" } else { " (broke)" },
        )
    }
}

pub(crate) fn report(options: &Options, netavark: &Tool, ours: &Tool) -> Result<String> {
    let (containers, turns) = if options.quick {
        (CONTAINERS_QUICK, TURNS_QUICK)
    } else {
        (CONTAINERS, TURNS)
    };
    let lane = wired(ours, "reload", containers, Layout::Spread)?;
    note("waiting for the interfaces to be quiet");
    lane.site.quiet_down()?;
    let mut outcomes = Vec::new();
    // Netavark adds rules with each reload, and takes longer each time.
    for (tool, turns, rounds) in [(ours, turns, ROUNDS), (netavark, 1, 1)] {
        note(&format!(
            "reload of {containers} containers by {}",
            tool.name
        ));
        outcomes.push(outcome(&lane, tool, turns, rounds)?);
    }
    Ok(times(&outcomes, containers) + &losses(&outcomes))
}

fn outcome(lane: &Lane<'_>, tool: &Tool, turns: usize, rounds: usize) -> Result<Outcome> {
    let listing = || lane.site.host().sh("nft list table inet netavark");
    lane.site.host().sh("nft delete table inet netavark")?;
    let flushed = lane.site.reload(tool)?.wall;
    let before = listing()?;
    let (mut walls, mut cpus, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..turns {
        let passed = course(lane)?.beside(|| {
            for _ in 0..rounds {
                let cost = lane.site.reload(tool)?;
                walls.push(cost.wall);
                cpus.push(cost.cpu);
            }
            Ok(())
        })?;
        let time = passed.time.min(CONTROL);
        runs.push(Run::new(&format!("{}, {rounds}", tool.name), passed));
        let passed = course(lane)?.beside(|| {
            thread::sleep(time);
            Ok(())
        })?;
        runs.push(Run::new("  none", passed));
    }
    let after = listing()?;
    Ok(Outcome {
        name: tool.name,
        flushed,
        walls,
        cpus,
        runs,
        rules: [&before, &after].map(|text| text.lines().count()),
        same: before == after,
    })
}

fn course<'a>(lane: &'a Lane<'_>) -> Result<Course<'a>> {
    Ok(Course {
        outside: &lane.outside,
        host: lane.site.host(),
        container: lane.site.container(0).context("there is no container")?,
        udp: published(1)?,
        tcp: published(0)?,
        udp_target: CONTAINER_PORT,
        tcp_target: CONTAINER_PORT,
    })
}

fn times(outcomes: &[Outcome], containers: usize) -> String {
    let mut text = format!(
        "Reload of {containers} containers of two ports: milliseconds, medians\n\
         program  | flushed |    wall     cpu     last | lines before    after\n"
    );
    for outcome in outcomes {
        writeln!(
            text,
            "{:8} | {:7.1} | {:7.1} {:7.1} {:8.1} | {:12} {:8} {}",
            outcome.name,
            outcome.flushed,
            median(outcome.walls.clone()),
            median(outcome.cpus.clone()),
            outcome.walls.last().copied().unwrap_or(f64::NAN),
            outcome.rules[0],
            outcome.rules[1],
            if outcome.same { "(the same)" } else { "" },
        )
        .expect("a string takes everything");
    }
    if let [ours, netavark] = outcomes {
        let factor = netavark.flushed / ours.flushed;
        writeln!(text, "ours/netavark, after a flush: 1/{factor:.0}")
            .expect("a string takes everything");
    }
    text
}

/// What became of the flows of each run, and what the kernel counted in them.
fn losses(outcomes: &[Outcome]) -> String {
    let mut text = "\nFlows beside reloads, and as long beside none: lost are datagrams that did not come back; \
                    counted are packets\nthat a full queue dropped; astray are those that no rule led on\n\
                    reloads      | seconds | one flow  lost | a flow each  lost | counted  astray | tcp MiB  again  needless\n"
        .to_owned();
    let runs = || outcomes.iter().flat_map(|outcome| &outcome.runs);
    for run in runs() {
        writeln!(text, "{run}").expect("a string takes everything");
    }
    let mut counters: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (number, run) in runs().enumerate() {
        for (name, count) in &run.passed.counters {
            let row = format!("{count} in row {}", number + 1);
            counters.entry(name).or_default().push(row);
        }
    }
    for (name, rows) in counters {
        writeln!(text, "{name}: {}", rows.join(", ")).expect("a string takes everything");
    }
    text
}
