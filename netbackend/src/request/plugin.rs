//! Networks of drivers that we do not know: each is the affair of a program of that name.
//!
//! Nothing of such a network is looked at here. The program gets it as it is and has rules of its own. What
//! is not given is `null`, as netavark writes it: a script may look for a key that it knows.

use serde_json::{Value, json};
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
        "network": network(info),
        "network_options": with_nulls(json!(wanted), &["aliases", "static_ips", "static_mac", "options"]),
    });
    PluginCall {
        driver: info.driver.clone(),
        input: input.to_string(),
    }
}

fn network(info: &Network) -> Value {
    let optional = [
        "network_interface",
        "options",
        "ipam_options",
        "subnets",
        "routes",
        "network_dns_servers",
    ];
    let mut network = with_nulls(json!(info), &optional);
    each(&mut network["subnets"], |subnet| {
        let mut subnet = with_nulls(subnet, &["gateway", "lease_range"]);
        let range = subnet["lease_range"].take();
        subnet["lease_range"] = with_nulls(range, &["start_ip", "end_ip"]);
        subnet
    });
    each(&mut network["routes"], |route| {
        with_nulls(route, &["gateway", "metric"])
    });
    network
}

/// Changes the items of a list, if it is one.
fn each(list: &mut Value, change: impl Fn(Value) -> Value) {
    for item in list.as_array_mut().into_iter().flatten() {
        *item = change(item.take());
    }
}

/// An object with all of these keys. What is no object stays as it is.
fn with_nulls(mut document: Value, keys: &[&str]) -> Value {
    if let Some(object) = document.as_object_mut() {
        for key in keys {
            object.entry(*key).or_insert(Value::Null);
        }
    }
    document
}
