//! The doorway: see [`usernet::sys::run`].
#![expect(
    clippy::disallowed_methods,
    reason = "the words of the command line come from here"
)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(usernet::sys::run::main(std::env::args_os()))
}
