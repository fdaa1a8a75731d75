//! `dnsd`, also called as `aardvark-dns`.

use std::process::ExitCode;

use clap::Parser;
use dnsd::cli::{Cli, Command, VERSION};
use dnsd::explain;
use dnsd::sys;
use serde_json::json;

fn main() -> ExitCode {
    sys::raw::close_from(3);
    sys::serve::start_logging();
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Run => sys::serve::run(&cli.options),
        Command::Version => version(),
        Command::Check(check) => explain::check(check),
        Command::Query(query) => explain::query(query, &cli.options),
        Command::Stats(stats) => sys::questions::stats(stats),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sys::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn version() -> anyhow::Result<()> {
    let version = json!({
        "version": VERSION,
        "commit": env!("DNSD_COMMIT"),
        "build_time": env!("DNSD_BUILD_TIME"),
        "target": env!("DNSD_TARGET"),
    });
    Ok(sys::print(&format!("{version:#}\n"))?)
}
