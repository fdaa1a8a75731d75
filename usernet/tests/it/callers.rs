//! Who calls published ports, as the guest sees it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use test_fixtures::netns::Netns;

use crate::attached::{run, start};

/// A connection from a port that others may have as well.
fn call(at: &Netns, from: &str, to: &str) -> Result<TcpStream> {
    let from = SockaddrStorage::from(from.parse::<SocketAddr>()?);
    let to = SockaddrStorage::from(to.parse::<SocketAddr>()?);
    let family = if to.as_sockaddr_in().is_some() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    at.enter(|| {
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        bind(fd.as_raw_fd(), &from)?;
        connect(fd.as_raw_fd(), &to)?;
        Ok(TcpStream::from(fd))
    })
}

/// One port of the guest is published twice, and one port of a client calls both.
#[test]
fn one_port_calls_two() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let _daemon = start(host, &guest, &["-t", "8080:80", "-t", "8081:80"])?;
        let inside = guest.enter(|| Ok(TcpListener::bind("[::]:80")?))?;
        for (from, to) in [
            ("192.0.2.2:5555", "192.0.2.1"),
            ("[2001:db8:5::2]:5555", "[2001:db8:5::1]"),
        ] {
            let mut pairs = Vec::new();
            for port in [8080, 8081] {
                let caller = call(&outside, from, &format!("{to}:{port}"))?;
                caller.set_read_timeout(Some(Duration::from_secs(5)))?;
                let (accepted, peer) = inside.accept()?;
                accepted.set_read_timeout(Some(Duration::from_secs(5)))?;
                pairs.push((caller, accepted, peer));
            }
            let from: SocketAddr = from.parse()?;
            ensure!(
                pairs
                    .iter()
                    .all(|(_, _, peer)| peer.ip().to_canonical() == from.ip())
            );
            ensure!(pairs[0].2.port() == 5555 && pairs[1].2.port() != 5555);
            for (number, (caller, accepted, _)) in (0_u8..).zip(&mut pairs) {
                caller.write_all(&[number])?;
                accepted.write_all(&[number + 10])?;
            }
            for (number, (caller, accepted, _)) in (0_u8..).zip(&mut pairs) {
                let mut byte = [0];
                accepted.read_exact(&mut byte)?;
                ensure!(byte == [number]);
                caller.read_exact(&mut byte)?;
                ensure!(byte == [number + 10]);
            }
        }
        Ok(())
    });
}
