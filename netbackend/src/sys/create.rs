//! Gathers what has to be known to complete a network, and has it completed.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use wire::network::Network;

use super::plugin::{self, PluginError};
use crate::create::{self, CreateError, Created, Facts};

/// Why a network was not completed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is the message of its source")]
pub enum NotCreated {
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error("{context}: IO error: {source}")]
    Io {
        context: &'static str,
        source: io::Error,
    },
}

/// The network that a document asks for. Nothing on the host changes.
///
/// # Errors
/// It cannot be, or the plugin of its driver does not complete it.
pub fn create(document: &[u8], plugin_directories: &[PathBuf]) -> Result<Network, NotCreated> {
    let request = create::parse(document)?;
    let facts = facts()?;
    match create::create(request, &facts)? {
        Created::Complete(network) => Ok(*network),
        Created::Plugin(network) => {
            let made = plugin::create(plugin_directories, &network.driver, &network)?;
            Ok(create::accept(&network, made, &facts)?)
        }
    }
}

fn facts() -> Result<Facts, NotCreated> {
    let failed = |context| move |source| NotCreated::Io { context, source };
    let links = nix::net::if_::if_nameindex()
        .map_err(|errno| failed("list interfaces")(errno.into()))?
        .iter()
        .map(|link| link.name().to_string_lossy().into_owned())
        .collect();
    let mut seed = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut seed))
        .map_err(failed("read /dev/urandom"))?;
    Ok(Facts {
        links,
        // A clock before 1970 is not set; any time will do then.
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
        seed,
    })
}
