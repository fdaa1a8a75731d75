//! `dnsd`: not written yet. Its tests are.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::FAILURE
}
