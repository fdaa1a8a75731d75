//! Files to a published port: small and large, and every byte of them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use test_fixtures::netns::Netns;
use test_fixtures::traffic::Protocol;

use super::forwarding::Path;
use super::machine::{Family, Machine, bytes, connect, datagrams, listen, on, settle};

/// The port of the host; that of the guest is the next one.
const PORT: u16 = 8080;

/// Bytes of a datagram: socat's block.
const BLOCK: usize = 8192;

/// Of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    Small,
    Large,
}

impl Size {
    /// Of datagrams as many as a socket takes at once whoever reads: a quarter of its buffer.
    fn bytes(self, protocol: Protocol) -> Result<usize> {
        Ok(match (self, protocol) {
            (Self::Small, _) => 2 << 10,
            (Self::Large, Protocol::Udp) => {
                let buffer = std::fs::read_to_string("/proc/sys/net/core/wmem_default")
                    .unwrap_or_else(|_| "212992".to_owned());
                buffer.trim().parse::<usize>()? / 4
            }
            (Self::Large, _) => 10 << 20,
        })
    }
}

fn transfer(
    machine: &Machine<'_>,
    protocol: Protocol,
    family: Family,
    path: Path,
    size: Size,
) -> Result<()> {
    let guest = machine.guest()?;
    let mapping = format!("{PORT}-{PORT}:{0}-{0}", PORT + 1);
    let published = match protocol {
        Protocol::Udp => ["-u", &mapping],
        Protocol::Tcp | Protocol::Sctp => ["-t", &mapping],
    };
    let _daemon = machine.podman(&guest, &[], &published)?;
    settle(&guest)?;
    let to = (path.address(family), PORT).into();
    let at = (family.any(), PORT + 1).into();
    carry(protocol, size, (machine.host, to), (&guest, at))
}

/// Carries a file from a namespace to an address, as which it shall arrive in another one.
pub(crate) fn carry(
    protocol: Protocol,
    size: Size,
    (from, to): (&Netns, SocketAddr),
    (into, at): (&Netns, SocketAddr),
) -> Result<()> {
    let file = bytes(size.bytes(protocol)?);
    let received = match protocol {
        Protocol::Udp => {
            let receiver = datagrams(into, at)?;
            let receiver = thread::spawn(move || until_empty(&receiver));
            send_blocks(from, to, &file)?;
            receiver.join()
        }
        Protocol::Tcp | Protocol::Sctp => {
            let listener = listen(into, at)?;
            let receiver = thread::spawn(move || {
                let mut all = Vec::new();
                listener.accept()?.0.read_to_end(&mut all)?;
                Ok(all)
            });
            let mut stream = connect(from, to)?;
            stream.write_all(&file)?;
            stream.shutdown(Shutdown::Write)?;
            receiver.join()
        }
    };
    let received = received.unwrap_or_else(|_| bail!("the receiver panicked"))?;
    ensure!(
        received == file,
        "{} bytes of {}",
        received.len(),
        file.len()
    );
    Ok(())
}

/// The end is marked by an empty datagram.
fn send_blocks(from: &Netns, to: SocketAddr, file: &[u8]) -> Result<()> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let sender = datagrams(from, (family.any(), 0))?;
    for block in file.chunks(BLOCK).chain([&[][..]]) {
        sender.send_to(block, to)?;
    }
    Ok(())
}

fn until_empty(receiver: &UdpSocket) -> Result<Vec<u8>> {
    let (mut all, mut block) = (Vec::new(), vec![0; 65536]);
    loop {
        match receiver.recv(&mut block).context("waiting for the end")? {
            0 => return Ok(all),
            length => all.extend_from_slice(&block[..length]),
        }
    }
}

macro_rules! transfers {
    ($($module:ident $protocol:ident $family:ident $path:ident;)*) => { $(
        mod $module {
            use super::*;

            #[test]
            fn small() {
                on!(|machine| {
                    transfer(machine, Protocol::$protocol, Family::$family, Path::$path, Size::Small)
                });
            }

            #[test]
            fn large() {
                on!(|machine| {
                    transfer(machine, Protocol::$protocol, Family::$family, Path::$path, Size::Large)
                });
            }
        }
    )* };
}

transfers! {
    tcp_v4_tap Tcp V4 Tap;
    tcp_v4_loopback Tcp V4 Loopback;
    tcp_v6_tap Tcp V6 Tap;
    tcp_v6_loopback Tcp V6 Loopback;
    udp_v4_tap Udp V4 Tap;
    udp_v4_loopback Udp V4 Loopback;
    udp_v6_tap Udp V6 Tap;
    udp_v6_loopback Udp V6 Loopback;
}
