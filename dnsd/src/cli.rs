//! The command line: that of aardvark-dns, and more sub-commands.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The version that we report: that of the aardvark-dns whose place we take.
pub const VERSION: &str = "2.0.0+dnsd.0";

/// Answers DNS queries of containers.
#[derive(Debug, Parser)]
#[command(name = "aardvark-dns", bin_name = "aardvark-dns", version = VERSION, args_override_self = true)]
pub struct Cli {
    /// Options before the sub-command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options before the sub-command.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory with a file for each network.
    #[arg(short, long, value_name = "DIR", default_value = "/dev/stdin")]
    pub config: PathBuf,
    /// The port to listen on, by UDP and TCP.
    #[arg(short, long, value_name = "PORT", default_value_t = 5533)]
    pub port: u16,
    /// Names that end in this are never forwarded.
    #[arg(
        short,
        long,
        value_name = "SUFFIX",
        default_value = ".dns.podman",
        allow_hyphen_values = true
    )]
    pub filter_search_domain: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the directory, in the background.
    Run,
    /// Print versions, as JSON.
    Version,
    /// Explain what a configuration directory says, and what is wrong with it.
    Check(Check),
    /// Answer a question as the daemon would, and say why.
    Query(Query),
    /// Ask the running daemon of a directory what it does: queries, servers, networks, what fails most.
    Stats(Stats),
}

/// Whom to ask.
#[derive(Debug, Args)]
pub struct Stats {
    /// The directory; by default that of an engine, of root or of the user.
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Print a JSON document.
    #[arg(long)]
    pub json: bool,
}

/// What to explain.
#[derive(Debug, Args)]
pub struct Check {
    /// The directory.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// What to ask.
#[derive(Debug, Args)]
pub struct Query {
    /// The configuration directory.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// What is asked for.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The type of record.
    #[arg(value_name = "TYPE", default_value = "A")]
    pub kind: String,
    /// Who asks.
    #[arg(long, value_name = "ADDRESS")]
    pub from: IpAddr,
    /// Which of our addresses is asked; else that of the first network of the asker, or of all if it is in none.
    #[arg(long, value_name = "ADDRESS")]
    pub at: Option<IpAddr>,
}
