//! The whole program, called as Podman calls it. More of that is in [`crate::contract`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

use crate::attached::{Daemon, open_tun, run};

/// Bytes of a conversation in each direction: more than all buffers on the way.
pub(crate) const BYTES: usize = 16 << 20;

/// The words that Podman 5.8 writes, with one published port. It adds no pid file; the test does.
pub(crate) fn start(host: &Host, netns: &Path, words: &[&str]) -> Result<Daemon> {
    let file = host.dir("pids")?.join("podman");
    let finished = call(
        netns,
        &[words, &["--pid", &file.to_string_lossy()]].concat(),
    )?;
    ensure!(finished.success(), "{finished}");
    let pid = std::fs::read_to_string(&file)?.trim().parse()?;
    Ok(Daemon { pid, finished })
}

pub(crate) fn call(netns: &Path, words: &[&str]) -> Result<Finished> {
    Program::new(env!("CARGO_BIN_EXE_usernet"))
        .args(["--config-net", "-t", "8080-8080:80-80"])
        .args(["--dns-forward", "169.254.1.1"])
        .args(["-u", "none", "-T", "none", "-U", "none"])
        .args(words)
        .args(["--no-map-gw", "--quiet", "--netns"])
        .arg(netns)
        .args(["--map-guest-addr", "169.254.1.2"])
        .run()
}

/// A server for one connection: takes everything, then gives as much back.
pub(crate) fn server(at: &Netns, address: &str) -> Result<thread::JoinHandle<Result<SocketAddr>>> {
    let listener = at.enter(|| Ok(TcpListener::bind(address)?))?;
    Ok(thread::spawn(move || {
        let (mut stream, peer) = listener.accept()?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)?;
        Ok(peer)
    }))
}

/// Talk to [`server`]; what comes back is what went there.
pub(crate) fn talk(from: &Netns, to: &str) -> Result<()> {
    let mut stream = from
        .enter(|| Ok(TcpStream::connect(to)?))
        .with_context(|| format!("to {to}"))?;
    // Who stalls shall not stop the tests.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let sent: Vec<u8> = (0..251).cycle().take(BYTES).collect();
    stream.write_all(&sent)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    ensure!(back == sent, "{} bytes came back", back.len());
    Ok(())
}

pub(crate) fn heard(server: thread::JoinHandle<Result<SocketAddr>>) -> Result<SocketAddr> {
    server
        .join()
        .unwrap_or_else(|_| anyhow::bail!("the server panicked"))
}

/// A command has a network of its own, and its exit code is ours.
#[test]
fn a_command_runs() {
    run(|host| {
        open_tun(host)?;
        let outside = host.outside()?;
        let far = server(&outside, "192.0.2.2:7000")?;
        let finished = Program::new(env!("CARGO_BIN_EXE_usernet"))
            .args(["--config-net", "--no-map-gw", "--quiet", "--", "bash", "-c"])
            .arg("exec 3<>/dev/tcp/192.0.2.2/7000 && echo hello >&3 && exit 7")
            .run()?;
        ensure!(finished.code() == Some(7), "{finished}");
        heard(far)?;
        Ok(())
    });
}

/// The far end sees segments as small as the guest's, where those are smaller than Ethernet's.
#[test]
fn a_small_mtu_is_that_of_the_whole_way() {
    run(|host| {
        let outside = host.outside()?;
        // Both have the timestamps' twelve bytes beside them.
        for (mtu, v4, v6) in [
            ("1280", 1228, 1208),
            ("1500", 1448, 1428),
            ("65520", 1448, 1428),
        ] {
            let guest = host.container("guest")?;
            let daemon = start(host, guest.path(), &["--mtu", mtu])?;
            for (address, expected) in [("192.0.2.2:7000", v4), ("[2001:db8:5::2]:7000", v6)] {
                let far = outside.enter(|| Ok(TcpListener::bind(address)?))?;
                let _near = guest.enter(|| Ok(TcpStream::connect(address)?))?;
                let (stream, _) = far.accept()?;
                let size =
                    nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpMaxSeg)?;
                ensure!(size == expected, "{mtu} {address}: {size}");
            }
            drop(guest);
            daemon.ended()?;
        }
        Ok(())
    });
}
