//! The command line of the doctor.

use clap::Args;

/// How to print what is found.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// As JSON instead of text.
    #[arg(long)]
    pub json: bool,
}
