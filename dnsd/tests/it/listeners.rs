//! The sockets: one per address and transport, on that address alone.

use std::net::{TcpListener, UdpSocket};

use crate::machine::{GATEWAY, GATEWAY_2, GATEWAY_V6, line, on};
use crate::message::Query;

#[test]
fn udp_in_both_families() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(
            machine.client("10.88.0.2").says("db A")?,
            "NOERROR 10.88.0.3"
        );
        assert_eq!(
            machine.client("fd10:88::2").says("db A")?,
            "NOERROR 10.88.0.3"
        );
        assert_eq!(
            machine.client("fd10:88::2").says("web AAAA")?,
            "NOERROR fd10:88::2"
        );
        Ok(())
    });
}

#[test]
fn tcp_in_both_families() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(
            machine.client("10.88.0.2").says_by_tcp("db A")?,
            "NOERROR 10.88.0.3"
        );
        assert_eq!(
            machine.client("fd10:88::2").says_by_tcp("db A")?,
            "NOERROR 10.88.0.3"
        );
        Ok(())
    });
}

/// The answer to a question on a connected socket arrives only if it comes from the address that was asked; of an
/// unknown client, the address that was asked decides what it sees.
#[test]
fn several_addresses_of_a_network() {
    on!(|machine| {
        machine.network(
            "net",
            &format!(
                "{GATEWAY},{GATEWAY_2},{GATEWAY_V6}\n{}",
                line(1, "10.88.0.2", "", "web")
            ),
        )?;
        machine.start()?;
        for gateway in [GATEWAY, GATEWAY_2] {
            assert_eq!(
                machine.web().at(gateway).says("web A")?,
                "NOERROR 10.88.0.2"
            );
            assert_eq!(
                machine.client("10.90.0.9").at(gateway).says("web A")?,
                "NOERROR 10.88.0.2"
            );
        }
        assert_eq!(
            machine.client("fd10:88::3").says("web A")?,
            "NOERROR 10.88.0.2"
        );
        Ok(())
    });
}

#[test]
fn other_addresses_stay_free() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let _udp = UdpSocket::bind("127.0.0.1:53")?;
        let _tcp = TcpListener::bind("127.0.0.1:53")?;
        let _udp6 = UdpSocket::bind("[::1]:53")?;
        let _tcp6 = TcpListener::bind("[fd10:88::2]:53")?;
        Ok(())
    });
}

#[test]
fn a_resolver_on_another_address_is_no_hindrance() {
    on!(|machine| {
        let _udp = UdpSocket::bind("127.0.0.53:53")?;
        let _tcp = TcpListener::bind("127.0.0.53:53")?;
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// A restart must not wait for the connections of the last run to be forgotten.
#[test]
fn connections_of_the_last_run_are_no_hindrance() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let mut connection = machine.web().connect()?;
        connection.send(&Query::new("db A"))?;
        connection.receive()?;
        daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
        assert!(daemon.ends_within(std::time::Duration::from_secs(10)));
        machine.start()?;
        assert_eq!(machine.web().says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// Isolated networks may have equal addresses; one socket can serve them, by the client's address.
#[test]
fn two_networks_with_one_address() {
    on!(|machine| {
        machine.network(
            "a",
            &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
        )?;
        machine.network(
            "b",
            &format!("{GATEWAY}\n{}", line(2, "10.88.0.3", "", "db")),
        )?;
        machine.start()?;
        assert_eq!(
            machine.client("10.88.0.2").says("web A")?,
            "NOERROR 10.88.0.2"
        );
        assert_eq!(
            machine.client("10.88.0.3").says("db A")?,
            "NOERROR 10.88.0.3"
        );
        Ok(())
    });
}
