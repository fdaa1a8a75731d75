//! Networks of drivers that we do not know: each is the affair of a program of that name.
//!
//! Nothing of such a network is looked at here. The program gets it as it is and has rules of its own.

use serde_json::json;
use wire::names::{NetworkId, NetworkName};
use wire::network::{Network, NetworkOptions, PerNetworkOptions};

use super::{NetworkError, named};

/// An attachment by somebody else's program.
#[derive(Debug, Clone)]
pub struct PluginAttachment {
    /// The name of the network.
    pub network: NetworkName,
    /// Its id.
    pub id: NetworkId,
    /// What the program is told.
    pub call: PluginCall,
}

/// What a plugin is told, at setup and at teardown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginCall {
    /// The name of the driver, which is that of the program.
    pub driver: String,
    /// The document on its standard input.
    pub input: String,
}

pub(super) fn attachment(
    info: &Network,
    options: &NetworkOptions,
    wanted: &PerNetworkOptions,
) -> Result<PluginAttachment, NetworkError> {
    Ok(PluginAttachment {
        network: named("name", &info.name)?,
        id: named("id", &info.id)?,
        call: call(info, options, wanted),
    })
}

pub(super) fn call(
    info: &Network,
    options: &NetworkOptions,
    wanted: &PerNetworkOptions,
) -> PluginCall {
    let input = json!({
        "container_id": options.container_id,
        "container_name": options.container_name,
        "port_mappings": options.port_mappings,
        "network": info,
        "network_options": wanted,
    });
    PluginCall {
        driver: info.driver.clone(),
        input: input.to_string(),
    }
}
