//! Arguments of the commands that show things to people.

use clap::Args;

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
