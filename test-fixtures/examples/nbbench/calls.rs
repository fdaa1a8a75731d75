//! The time of `setup` and `teardown` beside containers that are there already.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use test_fixtures::netns::Netns;
use test_fixtures::traffic::eventually;

use crate::site::{Cost, Layout, Ports, Site, Tool};
use crate::{Options, median, note};

/// Rounds at the start whose times do not count: the first ones load programs and kernel modules.
const WARM_UP: usize = 2;

const PAIRS: usize = 30;
const PAIRS_QUICK: usize = 7;

const COMMANDS: [&str; 2] = ["setup", "teardown"];

/// What came of one case: a number of containers, how they are spread, and what the one that comes and goes publishes.
struct Row {
    containers: usize,
    networks: usize,
    ports: Ports,
    costs: BTreeMap<&'static str, Costs>,
}

/// By command, then by round.
type Costs = [Vec<Cost>; 2];

impl Row {
    fn median(&self, tool: &str, command: usize, which: fn(&Cost) -> f64) -> f64 {
        let costs = self.costs.get(tool).and_then(|costs| costs.get(command));
        median(costs.into_iter().flatten().map(which).collect())
    }
}

/// One program's part in a case.
struct Side<'a> {
    site: &'a Site<'a>,
    costs: Costs,
}

impl<'a> Side<'a> {
    fn new(site: &'a Site<'a>) -> Self {
        let costs = [Vec::new(), Vec::new()];
        Self { site, costs }
    }

    fn round(&mut self, round: usize, containers: usize, ports: Ports) -> Result<()> {
        let netns = self.site.new_netns(&format!("x{round}-{ports}"))?;
        for (command, costs) in COMMANDS.iter().zip(&mut self.costs) {
            let cost = self.site.call(command, containers, ports, &netns)?;
            if round >= WARM_UP {
                costs.push(cost);
            }
        }
        Ok(())
    }
}

pub(crate) fn report(options: &Options, netavark: &Tool, ours: &Tool) -> Result<String> {
    let pairs = options
        .pairs
        .unwrap_or(if options.quick { PAIRS_QUICK } else { PAIRS });
    let mut rows = Vec::new();
    for &containers in &options.preload {
        for layout in [Layout::One, Layout::Spread] {
            if layout == Layout::Spread && layout.networks(containers) == 1 {
                continue; // the same as all on one
            }
            let mut tools = vec![netavark, ours];
            if containers > Options::PATIENCE && !options.full {
                tools.remove(0);
            }
            rows.extend(case(containers, layout, &tools, pairs)?);
            settle()?;
        }
    }
    Ok(table(&rows, pairs))
}

/// Measures one case, with all that it takes alive and nothing else: that would be felt. Where many namespaces have an
/// interface of the same name, for example, finding its settings below `/proc/sys` takes the kernel longer.
fn case(containers: usize, layout: Layout, tools: &[&Tool], pairs: usize) -> Result<Vec<Row>> {
    let networks = layout.networks(containers);
    note(&format!("{containers} containers on {networks} networks"));
    let mut sites = Vec::new();
    for tool in tools {
        let mut site = Site::new(tool, &format!("{containers}-{networks}"), networks)?;
        site.fill(containers, Ports::Tcp)?;
        sites.push(site);
    }
    sites.iter().try_for_each(Site::quiet_down)?;
    let mut rows = Vec::new();
    for ports in [Ports::Tcp, Ports::TcpAndUdp] {
        let mut sides: Vec<Side<'_>> = sites.iter().map(Side::new).collect();
        for round in 0..pairs + WARM_UP {
            for side in &mut sides {
                side.round(round, containers, ports)?;
            }
            sides.reverse();
        }
        let costs = sides
            .into_iter()
            .map(|side| (side.site.tool.name, side.costs))
            .collect();
        rows.push(Row {
            containers,
            networks,
            ports,
            costs,
        });
    }
    Ok(rows)
}

/// Waits until the kernel has taken apart the namespaces that are gone. It does so in the background, all those it
/// knows of before any that go later: when one that goes now is gone, and then another, so is everything before them.
fn settle() -> Result<()> {
    let own = Netns::own();
    for _ in 0..2 {
        let last = Netns::create("last")?;
        own.sh("ip link add last type veth peer name eth0 netns last")?;
        drop(last);
        let gone = || own.sh("ip link show last").is_err();
        if !eventually(Duration::from_secs(120), gone) {
            bail!("the kernel does not remove namespaces");
        }
    }
    Ok(())
}

fn table(rows: &[Row], pairs: usize) -> String {
    let mut text = format!(
        "Calls beside containers of one port each: milliseconds, medians of {pairs} rounds in turns\n\
         there  networks  call      ports   |  netavark     cpu |      ours     cpu | ours/netavark     cpu\n"
    );
    for row in rows {
        for (number, command) in COMMANDS.iter().enumerate() {
            let both = |which| ["netavark", "ours"].map(|tool| row.median(tool, number, which));
            let [wall, cpu] = [both(|cost| cost.wall), both(|cost| cost.cpu)];
            writeln!(
                text,
                "{:5}  {:8}  {command:8}  {:7} | {:>9} {:>7} | {:>9} {:>7} | {:>13} {:>7}",
                row.containers,
                row.networks,
                row.ports.to_string(),
                figure(wall[0]),
                figure(cpu[0]),
                figure(wall[1]),
                figure(cpu[1]),
                figure(wall[1] / wall[0]),
                figure(cpu[1] / cpu[0]),
            )
            .expect("a string takes everything");
        }
    }
    text.push_str(&growth(rows));
    text
}

/// Ours beside many containers compared with ours beside few.
fn growth(rows: &[Row]) -> String {
    let ours = |row: &Row, command| row.median("ours", command, |cost| cost.wall);
    let mut text = String::new();
    for row in rows {
        let few = rows
            .iter()
            .filter(|few| few.containers < row.containers && few.containers < 2)
            .filter(|few| few.ports == row.ports);
        for few in few {
            for (number, command) in COMMANDS.iter().enumerate() {
                writeln!(
                    text,
                    "ours, {command} {}: {} containers on {} networks / {} containers: {}",
                    row.ports,
                    row.containers,
                    row.networks,
                    few.containers,
                    figure(ours(row, number) / ours(few, number))
                )
                .expect("a string takes everything");
            }
        }
    }
    text
}

fn figure(value: f64) -> String {
    if value.is_nan() {
        "-".to_owned()
    } else {
        format!("{value:.2}")
    }
}
