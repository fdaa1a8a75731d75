//! Who reaches whom, and as whom.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_fixtures::netns::Netns;
pub(crate) use test_fixtures::traffic::{Protocol, Server, eventually};
use test_fixtures::traffic::{any_v4, any_v6, ask, serve};

/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);
/// Long enough to tell that there is none.
const SILENCE: Duration = Duration::from_millis(300);

pub(crate) use Protocol::{Tcp, Udp};

/// An address written in a test.
pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Servers for both families, until dropped.
pub(crate) fn servers(
    netns: &Netns,
    protocol: Protocol,
    ports: &[u16],
    tag: &str,
) -> Result<Vec<Server>> {
    let each = ports.iter().flat_map(|port| [any_v4(*port), any_v6(*port)]);
    each.map(|address| serve(netns, protocol, address, tag))
        .collect()
}

/// `to` must answer `from`: the server is the one that is `tag` and sees `peer`.
pub(crate) fn answers(
    from: &Netns,
    protocol: Protocol,
    to: &str,
    tag: &str,
    peer: &str,
) -> Result<()> {
    let place = || format!("{protocol:?} {to} from {}", from.path().display());
    let reply = ask(from, protocol, None, at(to), PATIENCE).with_context(place)?;
    ensure!(
        (reply.tag.as_str(), reply.peer.ip().to_string().as_str()) == (tag, peer),
        "{}: expected {tag} to see {peer}, got {reply}",
        place()
    );
    Ok(())
}

/// `to` must not answer `from`.
pub(crate) fn closed(from: &Netns, protocol: Protocol, to: &str) -> Result<()> {
    match ask(from, protocol, None, at(to), SILENCE) {
        Ok(reply) => anyhow::bail!(
            "{protocol:?} {to} from {} is answered: {reply}",
            from.path().display()
        ),
        Err(_) => Ok(()),
    }
}

/// `to` must answer pings of `from`.
pub(crate) fn pings(from: &Netns, to: &str) -> Result<()> {
    let address = to.parse().with_context(|| to.to_owned())?;
    let answered = test_fixtures::traffic::ping(from, address)?;
    ensure!(answered, "no echo of {to} to {}", from.path().display());
    Ok(())
}

/// What `server` resolves a name to, asked from `netns`; nothing while it does not answer.
pub(crate) fn resolve(netns: &Netns, server: &str, name: &str, kind: &str) -> Result<String> {
    let command = format!("dig +short +time=1 +tries=1 @{server} {name} {kind} || true");
    let answer = netns.sh(&command)?;
    let lines = answer.lines().filter(|line| !line.starts_with(';'));
    Ok(lines.collect::<Vec<_>>().join(" "))
}

/// `server` must resolve a name to this address, among others if the asker is on several networks. It reads its files in
/// its own time.
pub(crate) fn resolves(
    netns: &Netns,
    server: &str,
    name: &str,
    kind: &str,
    expected: &str,
) -> Result<()> {
    let mut last = String::new();
    let mut same = || match resolve(netns, server, name, kind) {
        Ok(answer) => {
            last = answer;
            last.split(' ').any(|address| address == expected)
        }
        Err(_) => false,
    };
    let resolved = eventually(3 * PATIENCE, &mut same);
    ensure!(
        resolved,
        "{name} {kind} at {server} in {}: expected {expected:?}, got {last:?}",
        netns.path().display()
    );
    Ok(())
}
