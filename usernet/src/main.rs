//! The doorway: see [`usernet::sys::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(usernet::sys::run::main(std::env::args_os()))
}
