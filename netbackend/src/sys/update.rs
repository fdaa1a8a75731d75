//! Changes a running network: its zone file, then a word to the responder.
//!
//! The engine may call from outside the network namespace that its containers hang on (rootless Podman
//! does), so no network is looked at, nothing that an interrupted call left is taken back, and the
//! responder is told but never started. It is told even when the file says so already: the call that wrote
//! it may have been killed before its signal.

use std::path::Path;

use super::state::StateDir;
use super::{SysError, dns, files};
use crate::plan::layout;
use crate::update::{UpdateError, UpdateRequest};

/// Why a network was not changed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum NotUpdated {
    #[error(transparent)]
    Sys(#[from] SysError),
    #[error("zone file {path}: {why}")]
    Zone { path: String, why: UpdateError },
    #[error(transparent)]
    Request(UpdateError),
    #[error("{0}")]
    Signal(String),
}

/// Gives a network other DNS servers. One without running containers has no zone file, and nothing is done.
///
/// # Errors
/// Its zone file cannot be read or written, or the responder cannot be told.
pub fn update(config: &Path, request: &UpdateRequest) -> Result<(), NotUpdated> {
    if !config.exists() {
        return Ok(());
    }
    let state = StateDir::open(config)?;
    let done = rewrite(&state, config, request);
    state.close();
    done
}

fn rewrite(state: &StateDir, config: &Path, request: &UpdateRequest) -> Result<(), NotUpdated> {
    let directory = layout::zones(config);
    let mut found = false;
    for internal in [false, true] {
        let path = directory.join(wire::zone::file_name(&request.network, internal));
        if path.exists() {
            rewrite_file(state, config, &path, request)?;
            found = true;
        }
    }
    if found {
        dns::signal(&directory).map_err(NotUpdated::Signal)?;
    }
    Ok(())
}

fn rewrite_file(
    state: &StateDir,
    config: &Path,
    path: &Path,
    request: &UpdateRequest,
) -> Result<(), NotUpdated> {
    let _lock = state.zone_lock()?;
    let failed = |verb| SysError::io(format!("{verb} {}", path.display()));
    let Some(text) = files::read(path).map_err(failed("read"))? else {
        return Ok(());
    };
    let changed = request.apply(&text).map_err(|why| match why {
        UpdateError::Zone(_) => NotUpdated::Zone {
            path: path.display().to_string(),
            why,
        },
        UpdateError::Name(_) | UpdateError::Server { .. } | UpdateError::Loop { .. } => {
            NotUpdated::Request(why)
        }
    })?;
    if changed != text {
        files::replace(path, &changed, &layout::staging(config)).map_err(failed("write"))?;
    }
    Ok(())
}
