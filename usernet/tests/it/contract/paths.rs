//! Every way between host and guest, without Podman: files of both sizes, by both protocols.

use std::net::{SocketAddr, SocketAddrV6};

use anyhow::{Context, Result};
use test_fixtures::netns::Netns;
use test_fixtures::traffic::Protocol;

use super::machine::{Family, Machine, ROUTER_V6, on, settle};
use super::transfers::{Size, carry};

/// A way.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Host to guest, from socket to socket.
    In,
    /// Guest to host, from socket to socket.
    Out,
    /// Guest to host, by the address of the gateway.
    Gateway,
}

/// The ports of ways in and out.
const PORTS: [&str; 8] = ["-t", "10001", "-u", "10001", "-T", "10002", "-U", "10002"];

fn walk(
    machine: &Machine<'_>,
    way: Way,
    protocol: Protocol,
    family: Family,
    sizes: &[Size],
) -> Result<()> {
    let guest = machine.guest()?;
    let netns = guest.path().to_string_lossy();
    let _daemon = machine.start(
        ["--config-net", "--netns", &*netns]
            .into_iter()
            .chain(PORTS),
    )?;
    settle(&guest)?;
    let loopback = |port| SocketAddr::new(family.loopback(), port);
    for size in sizes {
        let (from, to, into, at) = match way {
            Way::In => (
                &**machine.host,
                loopback(10001),
                &guest,
                (family.any(), 10001).into(),
            ),
            Way::Out => (&guest, loopback(10002), &**machine.host, loopback(10002)),
            Way::Gateway => (
                &guest,
                gateway(&guest, family)?,
                &**machine.host,
                loopback(10003),
            ),
        };
        carry(protocol, *size, (from, to), (into, at))?;
    }
    Ok(())
}

/// A port of the gateway, as the guest names it.
fn gateway(guest: &Netns, family: Family) -> Result<SocketAddr> {
    let router = match family {
        Family::V4 => return Ok(SocketAddr::new(family.outside(), 10003)),
        Family::V6 => ROUTER_V6.parse()?,
    };
    let shown = guest.sh("ip -o link show dev uplink")?;
    let index = shown.split(':').next().context("an index")?;
    Ok(SocketAddrV6::new(router, 10003, 0, index.trim().parse()?).into())
}

macro_rules! ways {
    ($($name:ident $way:ident $protocol:ident $family:ident [$($size:ident),*];)*) => { $(
        #[test]
        fn $name() {
            on!(|machine| {
                let (protocol, family) = (Protocol::$protocol, Family::$family);
                walk(machine, Way::$way, protocol, family, &[$(Size::$size),*])
            });
        }
    )* };
}

ways! {
    tcp_v4_in In Tcp V4 [Large, Small];
    tcp_v4_out Out Tcp V4 [Large, Small];
    tcp_v4_gateway Gateway Tcp V4 [Large, Small];
    tcp_v6_in In Tcp V6 [Large, Small];
    tcp_v6_out Out Tcp V6 [Large, Small];
    tcp_v6_gateway Gateway Tcp V6 [Large, Small];
    udp_v4_in In Udp V4 [Small, Large];
    udp_v4_out Out Udp V4 [Small, Large];
    udp_v4_gateway Gateway Udp V4 [Small, Large];
    udp_v6_in In Udp V6 [Small, Large];
    udp_v6_out Out Udp V6 [Small, Large];
    udp_v6_gateway Gateway Udp V6 [Small, Large];
}
