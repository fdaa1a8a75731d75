//! What somebody on the host's side can do to a published port.

use std::net::{TcpStream, UdpSocket};

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};
use test_fixtures::lab;

use crate::site::{Site, Way};
use crate::victim::suffers;

#[test]
fn connections_that_are_reset_at_once() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let _listener = site.listen(Way::In4, 1)?;
        let to = Way::In4.called(1);
        suffers(&site, "connections that are reset", || {
            site.outside.enter(|| {
                for _ in 0..1000 {
                    let stream = TcpStream::connect(to)?;
                    let reset = libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    setsockopt(&stream, sockopt::Linger, &reset)?;
                }
                Ok(1000)
            })
        })?;
        site.end()
    });
}

#[test]
fn datagrams_of_ever_other_peers() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let to = Way::In4.called(1);
        suffers(&site, "datagrams to a published port", || {
            site.outside.enter(|| {
                let sockets: Result<Vec<_>, _> =
                    (0..500).map(|_| UdpSocket::bind("0.0.0.0:0")).collect();
                for socket in sockets? {
                    for _ in 0..10 {
                        socket.send_to(b"hello", to)?;
                    }
                }
                Ok(5000)
            })
        })?;
        site.end()
    });
}
