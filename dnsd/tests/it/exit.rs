//! When the daemon ends, and when it does not.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::machine::{GATEWAY, PATIENCE, on};

#[test]
fn promptly_with_the_last_network() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.remove_network("net")?;
        daemon.hup()?;
        assert!(daemon.ends_within(PATIENCE));
        Ok(())
    });
}

#[test]
fn promptly_with_connections_open() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let _connection = machine.web().connect()?;
        machine.remove_network("net")?;
        daemon.hup()?;
        assert!(daemon.ends_within(PATIENCE));
        Ok(())
    });
}

#[test]
fn promptly_while_an_upstream_is_silent() {
    on!(|machine| {
        let _upstream = crate::upstream::Upstream::silent("198.51.100.1")?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        assert!(
            machine
                .web()
                .gets_nothing(&crate::message::Query::new("www.example A").bytes())?
        );
        machine.remove_network("net")?;
        daemon.hup()?;
        assert!(daemon.ends_within(PATIENCE));
        Ok(())
    });
}

/// A header alone is a network: its container may be about to come.
#[test]
fn not_with_a_network_without_containers() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.network("net", &format!("{GATEWAY}\n"))?;
        daemon.hup()?;
        assert!(!daemon.ends_within(Duration::from_millis(500)));
        Ok(())
    });
}

fn ended_by(machine: &crate::machine::Machine<'_>, signal: Signal) -> anyhow::Result<()> {
    machine.usual_network()?;
    let daemon = machine.start()?;
    daemon.signal(signal)?;
    assert!(daemon.ends_within(Duration::from_secs(10)));
    Ok(())
}

#[test]
fn on_terminate() {
    on!(|machine| ended_by(machine, Signal::SIGTERM));
}

#[test]
fn on_interrupt() {
    on!(|machine| ended_by(machine, Signal::SIGINT));
}

#[test]
fn not_on_a_broken_pipe() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        daemon.signal(Signal::SIGPIPE)?;
        assert!(!daemon.ends_within(Duration::from_millis(300)));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn not_on_the_signal_that_asks_for_the_state() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        daemon.signal(Signal::SIGUSR1)?;
        assert!(!daemon.ends_within(Duration::from_millis(300)));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}
