//! How long programs take to attach and detach containers, and what passes through the ports they publish.
//!
//! `hack/bench-netbackend` builds this, makes the namespaces it needs and starts it there. What is compared is measured in
//! turns, a round at a time, so that a host that is slower for a while is slower for all; what is printed are medians of
//! the rounds.
//!
//! - [`site`]: a host with containers, all set up by one program.
//! - [`calls`]: the time of `setup` and `teardown`.
//! - [`traffic`]: packets and bytes through a published port.
//! - [`reload`]: the time of writing all rules anew, and what it does to flows.
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark calls the operating system"
)]

mod calls;
mod reload;
mod site;
mod traffic;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// What the command line says.
struct Options {
    /// Few rounds: for a look, not for the record.
    quick: bool,
    /// Netavark, too, is measured beside more than [`Options::PATIENCE`] containers.
    full: bool,
    /// How many containers are there already.
    preload: Vec<usize>,
    pairs: Option<usize>,
    calls: bool,
    traffic: bool,
    reload: bool,
    netavark: PathBuf,
    ours: PathBuf,
}

impl Options {
    /// Netavark's time grows with the containers that are there; beyond this many it takes minutes to make them.
    const PATIENCE: usize = 200;

    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let (mut quick, mut full) = (false, false);
        let mut only = None;
        let mut preload = "0,1,200,1000".to_owned();
        let mut pairs = None;
        let mut programs = Vec::new();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--quick" => quick = true,
                "--full" => full = true,
                "--preload" => preload = value()?,
                "--pairs" => pairs = Some(value()?.parse().context("--pairs wants a number")?),
                "--only" => match value()? {
                    part if ["calls", "traffic", "reload"].contains(&part.as_str()) => {
                        only = Some(part);
                    }
                    other => bail!("--only {other}: expected calls, traffic or reload"),
                },
                option if option.starts_with('-') => bail!("no such option: {option}"),
                _ => programs.push(PathBuf::from(arg)),
            }
        }
        let [netavark, ours] = programs
            .try_into()
            .map_err(|_| anyhow::anyhow!("expected two programs: netavark and ours"))?;
        let preload = preload
            .split(',')
            .map(|number| number.parse().context("--preload wants numbers"))
            .collect::<Result<_>>()?;
        let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
        Ok(Self {
            quick,
            full,
            preload,
            pairs,
            calls: wanted("calls"),
            traffic: wanted("traffic"),
            reload: wanted("reload"),
            netavark,
            ours,
        })
    }
}

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let netavark = site::Tool::new("netavark", &options.netavark)?;
    let ours = site::Tool::new("ours", &options.ours)?;
    say(&format!("netavark: {netavark}\nours:     {ours}\n"))?;
    if options.calls {
        say(&calls::report(&options, &netavark, &ours)?)?;
    }
    if options.traffic {
        say(&traffic::report(&options, &netavark, &ours)?)?;
    }
    if options.reload {
        say(&reload::report(&options, &netavark, &ours)?)?;
    }
    Ok(())
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write the report")
}

/// What is being done now, for whoever waits.
fn note(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok(); // nobody may be there to read it
}

/// The middle one; NaN when there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2);
    let lower = values.get(values.len().saturating_sub(1) / 2);
    upper
        .zip(lower)
        .map_or(f64::NAN, |(upper, lower)| f64::midpoint(*upper, *lower))
}
