//! What passes through userspace forwarders, side by side: rates, round trips, connections, processor time, memory.
//!
//! `hack/bench-usernet` builds this, makes the namespaces it needs and starts it there. Each contender has namespaces of
//! its own and stays up; one measurement runs at a time, the contenders in turns and in changing order, so that a machine
//! that is slower for a while is slower for all. What is printed are medians of the rounds, and ratios to the first.
//!
//! The part `rtt` is asked for by name: bulk transfers over a network with several round trips and congestion controls,
//! and how they begin. There the contender `direct` is the host itself, without a forwarder.
//!
//! - [`site`]: the namespaces of one contender, and starting it.
//! - [`load`]: servers and clients. Both are threads of this process, each in its namespace; what counts is what
//!   arrived.
//! - [`far`]: a link with a delay.
//! - [`table`]: medians and ratios.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark calls the operating system and prints"
)]
#![expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

mod far;
mod load;
mod site;
mod table;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::load::Target;
use crate::site::{Contender, Path, Site};
use crate::table::Table;

/// What the command line says.
struct Options {
    rounds: usize,
    seconds: f64,
    mtus: Vec<u32>,
    only: Vec<String>,
    round_trips_ms: Vec<u32>,
    controls: Vec<&'static str>,
    mbit_s: u32,
    buffers: u32,
    contenders: Vec<Contender>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            rounds: 5,
            seconds: 1.5,
            mtus: vec![65520, 1500],
            only: Vec::new(),
            round_trips_ms: vec![0, 1, 20, 200],
            controls: vec!["cubic", "bbr"],
            mbit_s: 1000,
            buffers: 64 << 20,
            contenders: Vec::new(),
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--rounds" => options.rounds = value()?.parse().context("--rounds N")?,
                "--seconds" => options.seconds = value()?.parse().context("--seconds S")?,
                "--mtu" => {
                    options.mtus = numbers(&value()?).context("--mtu N,N")?;
                }
                "--round-trips" => {
                    options.round_trips_ms = numbers(&value()?).context("--round-trips MS,MS")?;
                }
                "--control" => {
                    let names = value()?;
                    options.controls = names
                        .split(',')
                        .map(|name| &*name.to_owned().leak())
                        .collect();
                }
                "--mbit" => options.mbit_s = value()?.parse().context("--mbit N")?,
                "--buffers" => options.buffers = value()?.parse().context("--buffers N")?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                option if option.starts_with('-') => bail!("no such option: {option}"),
                contender => options.contenders.push(contender.parse()?),
            }
        }
        if options.contenders.is_empty() {
            bail!("name at least one contender: pasta:PATH, slirp4netns:PATH, veth");
        }
        Ok(options)
    }

    /// The part that is only done when asked for by its name.
    fn wants_paths(&self) -> bool {
        self.only.iter().any(|part| part == "rtt")
    }

    /// Of a part, everything or what is named beside it.
    fn wants_of(&self, part: &str, measurement: &str) -> bool {
        let mut names = self.only.iter().filter(|name| *name != part).peekable();
        names.peek().is_none() || names.any(|name| measurement.contains(name.as_str()))
    }

    fn wants(&self, measurement: &str) -> bool {
        self.only.is_empty()
            || self
                .only
                .iter()
                .any(|part| measurement.contains(part.as_str()))
    }
}

fn numbers(list: &str) -> Result<Vec<u32>> {
    Ok(list.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let names = options.contenders.iter().map(|c| c.label.clone()).collect();
    let mut table = Table::new(names);
    for (place, &mtu) in options.mtus.iter().enumerate() {
        measure(&options, mtu, place == 0, &mut table).with_context(|| format!("at MTU {mtu}"))?;
    }
    println!("{table}");
    Ok(())
}

/// Everything at one MTU; what does not depend on it only once.
fn measure(options: &Options, mtu: u32, first: bool, table: &mut Table) -> Result<()> {
    let mut sites = Vec::new();
    for (number, contender) in options.contenders.iter().enumerate() {
        sites.push(Site::new(number, contender)?);
    }
    if first && options.wants("start") {
        for _ in 0..options.rounds * 3 {
            for (place, site) in sites.iter_mut().enumerate() {
                let started = site.start(mtu)?;
                table.add(place, mtu, "ready ms", started.as_secs_f64() * 1e3);
                site.stop();
            }
        }
    }
    for site in &mut sites {
        site.start(mtu)?;
    }
    std::thread::sleep(Duration::from_millis(500));
    if first && options.wants("memory") {
        for (place, site) in sites.iter_mut().enumerate() {
            memory(site, place, mtu, table)?;
        }
    }
    if options.wants_paths() {
        return paths(options, mtu, &mut sites, table);
    }
    for round in 0..options.rounds {
        for measurement in Measurement::all(first) {
            if !options.wants(measurement.name) {
                continue;
            }
            for turn in 0..sites.len() {
                let place = (turn + round) % sites.len();
                let Some(site) = sites.get_mut(place) else {
                    continue;
                };
                if !site.alive() {
                    eprintln!("{} died before {}", site.label(), measurement.name);
                    site.start(mtu)?;
                }
                measurement.run(site, options.seconds, &mut |what, value| {
                    table.add(place, mtu, what, value);
                })?;
            }
        }
    }
    Ok(())
}

/// Bulk transfers over the network, and how they begin.
fn paths(options: &Options, mtu: u32, sites: &mut [Site], table: &mut Table) -> Result<()> {
    println!(
        "all namespaces: tcp_rmem 4096 131072 {0}, tcp_wmem 4096 16384 {0}, tcp_no_metrics_save 1; {1} Mbit/s from 1 ms on",
        options.buffers, options.mbit_s
    );
    for round in 0..options.rounds {
        for &ms in &options.round_trips_ms {
            for &control in &options.controls {
                let path = Path {
                    round_trip: Duration::from_millis(ms.into()),
                    mbit_s: options.mbit_s,
                    control,
                    buffers: options.buffers,
                };
                for turn in 0..sites.len() {
                    let place = (turn + round) % sites.len();
                    let Some(site) = sites.get_mut(place) else {
                        continue;
                    };
                    transfers(site, path, options, &mut |what, value| {
                        table.add(place, mtu, format!("{ms} ms {control} {what}"), value);
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// Everything over one path through one forwarder. Up is towards the server.
fn transfers(
    site: &mut Site,
    path: Path,
    options: &Options,
    tell: &mut dyn FnMut(String, f64),
) -> Result<()> {
    let (near, far) = site.set_path(&path)?;
    let ways = [
        ("guest opens", Target::GuestToPeer(far)),
        ("peer opens", Target::PeerToGuest(near)),
    ];
    // A slow start from ten segments to the rate, and a congestion control that then finds its pace.
    let beginning = Duration::from_millis(300) + 15 * path.round_trip;
    for (way, target) in ways {
        for (direction, up) in [("up", true), ("down", false)] {
            let name = format!("{way} {direction}");
            if !options.wants_of("rtt", &name) {
                continue;
            }
            let about = || format!("{name} through {}", site.label());
            for _ in 0..3 {
                let sample = load::beginning(site, target, up).with_context(about)?;
                for (what, value) in sample.figures() {
                    tell(format!("{name}: {what}"), value);
                }
            }
            let bulk = load::bulk_after(beginning, site, target, 1, up, options.seconds);
            for (what, value) in bulk.with_context(about)?.figures() {
                tell(format!("{name}: {what}"), value);
            }
        }
    }
    Ok(())
}

fn memory(site: &Site, place: usize, mtu: u32, table: &mut Table) -> Result<()> {
    let Some(idle) = site.resident_mb() else {
        return Ok(());
    };
    table.add(place, mtu, "resident MB, idle", idle);
    let connections = load::idle(site, Target::GuestToHost, 1000)?;
    if let Some(mb) = site.resident_mb() {
        table.add(place, mtu, "resident MB, 1000 connections", mb);
    }
    drop(connections);
    Ok(())
}

/// One kind of load on one way.
struct Measurement {
    name: &'static str,
    target: Target,
    load: Load,
}

#[derive(Clone, Copy)]
enum Load {
    Up(usize),
    Down,
    RoundTrip,
    Connections(usize),
    Blast(usize),
    Windowed(usize),
    UdpRoundTrip,
}

impl Measurement {
    fn all(first: bool) -> Vec<Self> {
        use Target::{GuestToHost, HostToGuest, Loopback};
        let make = |(name, target, load)| Self { name, target, load };
        let bulk = [
            ("guest-host tcp", GuestToHost, Load::Up(1)),
            ("guest-host tcp x4", GuestToHost, Load::Up(4)),
            ("guest-host tcp down", GuestToHost, Load::Down),
            ("host-guest tcp", HostToGuest, Load::Up(1)),
            ("host-guest tcp x4", HostToGuest, Load::Up(4)),
        ];
        let rest = [
            ("loopback tcp", Loopback, Load::Up(1)),
            ("loopback tcp x4", Loopback, Load::Up(4)),
            ("guest-host rr", GuestToHost, Load::RoundTrip),
            ("host-guest rr", HostToGuest, Load::RoundTrip),
            ("loopback rr", Loopback, Load::RoundTrip),
            ("guest-host crr x8", GuestToHost, Load::Connections(8)),
            ("host-guest crr x8", HostToGuest, Load::Connections(8)),
            ("loopback crr x8", Loopback, Load::Connections(8)),
            ("guest-host udp rr", GuestToHost, Load::UdpRoundTrip),
            ("guest-host udp 64", GuestToHost, Load::Windowed(64)),
            ("host-guest udp 64", HostToGuest, Load::Windowed(64)),
            ("guest-host udp 1400", GuestToHost, Load::Windowed(1400)),
            ("host-guest udp 1400", HostToGuest, Load::Windowed(1400)),
            ("guest-host udp blast 64", GuestToHost, Load::Blast(64)),
            ("host-guest udp blast 64", HostToGuest, Load::Blast(64)),
        ];
        let mut all: Vec<_> = bulk.map(make).into();
        if first {
            all.extend(rest.map(make));
        }
        all
    }

    /// Run it once; `tell` gets each figure with its name.
    fn run(&self, site: &Site, seconds: f64, tell: &mut dyn FnMut(String, f64)) -> Result<()> {
        let name = self.name;
        let result = match self.load {
            Load::Up(streams) => load::bulk(site, self.target, streams, true, seconds),
            Load::Down => load::bulk(site, self.target, 1, false, seconds),
            Load::RoundTrip => load::round_trips(site, self.target, seconds),
            Load::UdpRoundTrip => load::udp_round_trips(site, self.target, seconds),
            Load::Connections(clients) => load::connections(site, self.target, clients, seconds),
            Load::Blast(size) => load::udp(site, self.target, size, None, seconds),
            Load::Windowed(size) => load::udp(site, self.target, size, Some(128), seconds),
        };
        let sample = result.with_context(|| format!("{name} through {}", site.label()))?;
        for (what, value) in sample.figures() {
            tell(format!("{name}: {what}"), value);
        }
        Ok(())
    }
}
