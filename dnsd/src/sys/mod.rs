//! Everything that touches the operating system.
//!
//! - [`daemon`]: the fork, the handshake, the pid file.
//! - [`serve`]: the main thread: reloads, signals, listeners.
//! - [`worker`]: the UDP side, a thread for each processor.
//! - [`upstreams`]: its sockets towards servers.
//! - [`tcp`]: the TCP side, tasks of the main thread.
//! - [`files`], [`watch`], [`listen`], [`owner`], [`log`], [`metrics`]: one family of effects each.
//! - [`questions`]: asks a running daemon.
//! - [`shared`]: what the threads share.
//! - [`sandbox`]: what the kernel refuses us from the moment that we are ready.
//! - [`raw`]: all `unsafe`.
#![expect(
    clippy::disallowed_methods,
    reason = "this is where the operating system is called"
)]

pub mod daemon;
pub mod files;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod owner;
pub mod questions;
pub mod raw;
pub mod sandbox;
pub mod serve;
pub mod shared;
pub mod tcp;
pub mod upstreams;
pub mod watch;
pub mod worker;

use std::net::{IpAddr, SocketAddr};

use crate::name;
use crate::respond::Outcome;
use crate::zones::Zones;

/// Writes a query to the log, with the name of the container that asks. Costs nothing unless it is wanted.
fn note(zones: &Zones, key: &[u8], from: SocketAddr, asked: IpAddr, outcome: &Outcome) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let asker = zones.asker(from.ip(), asked);
    let names = asker.networks.iter().flat_map(|n| {
        let network = zones.network(*n);
        network
            .names_of(from.ip())
            .map(|at| name::text(network.name_of(at)))
    });
    let who = names
        .into_iter()
        .next()
        .unwrap_or_else(|| "unknown".to_owned());
    let what = match outcome {
        Outcome::Reply => "answered",
        Outcome::Forward(_) => "forwarded",
        Outcome::Drop => "dropped",
    };
    tracing::debug!(
        "{from} ({who}) asks {asked} for {}: {what}",
        name::text(key)
    );
}

/// A variable of the environment.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Writes to standard output.
///
/// # Errors
/// Nobody reads it.
pub fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes to standard error.
pub fn complain(text: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{text}"));
}
