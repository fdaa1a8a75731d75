//! Arguments of the commands that show things to people.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::capture::Filter;
use crate::topology::svg::Theme;

/// What to show, and how.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Only this container with its networks, or this network with its containers: a name, an id, or the beginning of an id.
    #[arg(value_name = "CONTAINER|NETWORK")]
    pub name: Option<String>,
    /// As JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// A form of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PictureFormat {
    /// A drawing.
    Svg,
    /// A flow chart for Mermaid.
    Mermaid,
    /// The graph, for programs that draw.
    Json,
}

/// How to draw, and where to.
#[derive(Debug, Args)]
pub struct TopologyArgs {
    /// The form.
    #[arg(long, value_name = "FORMAT", default_value = "svg")]
    pub format: PictureFormat,
    /// The ground of a drawing.
    #[arg(long, value_name = "THEME", default_value = "auto")]
    pub theme: Theme,
    /// Write to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only this container with its networks, or this network with its containers.
    #[arg(value_name = "CONTAINER|NETWORK")]
    pub name: Option<String>,
}

/// What to record, and where to.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// The backend that is called in the end. Without it: the one that Podman is configured to call, else this program.
    #[arg(long, value_name = "PATH")]
    pub backend: Option<PathBuf>,
    /// Be the one that engines call: the command is the arguments of the backend.
    #[arg(long, hide = true, requires = "backend")]
    pub call: bool,
    /// Where recordings are written to, one file for each call; made if it is not there. Nobody else may be able to write to it.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The command: of an engine, or of a backend itself.
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
}

/// What to replay, and by whom.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// As JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// Have another backend called instead of this program.
    #[arg(long, value_name = "PATH")]
    pub backend: Option<PathBuf>,
    /// Be the first process of the throw-away host.
    #[arg(long, hide = true)]
    pub inside: bool,
    /// A recording of a set-up or a teardown, or the request of one.
    #[arg(value_name = "FILE")]
    pub recording: PathBuf,
}

/// What to capture, and where to.
#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// Write to a file instead of standard output, which must not be a terminal.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// End after so many packets; else with a signal.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Only these packets, such as "tcp and port 80", "host 10.88.0.2 or arp", "not (udp port 53)".
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "",
        hide_default_value = true
    )]
    pub filter: Filter,
    /// The container: its name, its id, or the beginning of its id.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}
