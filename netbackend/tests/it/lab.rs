//! Labs in which the DNS responder of this workspace can be started. (Also part of `tests/robust`.)

use std::path::PathBuf;

use anyhow::Result;
pub(crate) use test_fixtures::lab::Host;
use test_fixtures::{built, lab};

/// [`lab::run`], once there is a responder.
pub(crate) fn run<F>(body: F)
where
    F: FnOnce(&Host) -> Result<()>,
{
    dnsd();
    lab::run(body);
}

/// The path of the responder: the one that the variable `DNSD` names, else ours.
pub(crate) fn dnsd() -> PathBuf {
    built::dnsd(env!("CARGO_BIN_EXE_netbackend"))
}
