//! The time of `setup` and `teardown` beside containers that are there already.

use std::fmt::Write as _;

use anyhow::Result;

use crate::site::{Cost, Layout, Ports, Site, Tool};
use crate::{Options, median, note};

/// Rounds at the start whose times do not count: the first ones load programs and kernel modules.
const WARM_UP: usize = 2;

const PAIRS: usize = 30;
const PAIRS_QUICK: usize = 7;

const COMMANDS: [&str; 2] = ["setup", "teardown"];

/// One case: a number of containers, how they are spread, and what the one that comes and goes publishes.
struct Row<'a> {
    containers: usize,
    networks: usize,
    ports: Ports,
    /// Netavark, unless its turn would take too long; then ours.
    sides: Vec<Side<'a>>,
}

/// The times of one program.
struct Side<'a> {
    tool: &'static str,
    site: &'a Site<'a>,
    /// By command, then by round.
    costs: [Vec<Cost>; 2],
}

impl Side<'_> {
    fn median(&self, command: usize, which: impl Fn(&Cost) -> f64) -> f64 {
        median(
            self.costs
                .get(command)
                .into_iter()
                .flatten()
                .map(which)
                .collect(),
        )
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
    let sites = sites(options, netavark, ours)?;
    let mut rows = rows(&sites);
    note(&format!(
        "{} rounds of {} cases",
        pairs + WARM_UP,
        rows.len()
    ));
    for round in 0..pairs + WARM_UP {
        for row in &mut rows {
            if round % 2 == 1 {
                row.sides.reverse();
            }
            for side in &mut row.sides {
                side.round(round, row.containers, row.ports)?;
            }
            if round % 2 == 1 {
                row.sides.reverse();
            }
        }
    }
    Ok(table(&rows, pairs))
}

/// The hosts of one case, with their containers.
struct Hosts<'a> {
    containers: usize,
    layout: Layout,
    sites: Vec<Site<'a>>,
}

fn sites<'a>(options: &Options, netavark: &'a Tool, ours: &'a Tool) -> Result<Vec<Hosts<'a>>> {
    let mut all = Vec::new();
    for &containers in &options.preload {
        for layout in [Layout::One, Layout::Spread] {
            let networks = layout.networks(containers);
            if layout == Layout::Spread && networks == 1 {
                continue; // the same as all on one
            }
            let mut sites = Vec::new();
            for tool in [netavark, ours] {
                let slow = tool.name == netavark.name && containers > Options::PATIENCE;
                if slow && !options.full {
                    continue;
                }
                note(&format!(
                    "{containers} containers on {networks} networks by {}",
                    tool.name
                ));
                let mut site = Site::new(tool, &format!("{containers}-{networks}"), networks)?;
                site.fill(containers, Ports::Tcp)?;
                sites.push(site);
            }
            all.push(Hosts {
                containers,
                layout,
                sites,
            });
        }
    }
    Ok(all)
}

fn rows<'a>(hosts: &'a [Hosts<'a>]) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for ports in [Ports::Tcp, Ports::TcpAndUdp] {
        for host in hosts {
            let side = |site: &'a Site<'a>| Side {
                tool: site.tool.name,
                site,
                costs: [Vec::new(), Vec::new()],
            };
            rows.push(Row {
                containers: host.containers,
                networks: host.layout.networks(host.containers),
                ports,
                sides: host.sites.iter().map(side).collect(),
            });
        }
    }
    rows
}

fn table(rows: &[Row<'_>], pairs: usize) -> String {
    let mut text = format!(
        "Calls beside containers of one port each: milliseconds, medians of {pairs} rounds in turns\n\
         there  networks  call      ports   |  netavark     cpu |      ours     cpu | ours/netavark     cpu\n"
    );
    for row in rows {
        for (number, command) in COMMANDS.iter().enumerate() {
            let both = |which: fn(&Cost) -> f64| {
                let of = |name| {
                    let side = row.sides.iter().find(|side| side.tool == name);
                    side.map_or(f64::NAN, |side| side.median(number, which))
                };
                [of("netavark"), of("ours")]
            };
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
fn growth(rows: &[Row<'_>]) -> String {
    let ours = |row: &Row<'_>, command: usize| {
        let side = row.sides.iter().find(|side| side.tool == "ours");
        side.map_or(f64::NAN, |side| side.median(command, |cost| cost.wall))
    };
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
