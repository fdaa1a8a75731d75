//! Arguments of the commands that show things to people.

use std::path::PathBuf;

use clap::Args;

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
