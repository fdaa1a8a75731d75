//! Ping, from the guest.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use test_fixtures::program::Program;

use super::machine::{Family, MAP_GUEST, Machine, address, on, settle};

fn answered(machine: &Machine<'_>, options: &[&str], to: IpAddr) -> Result<()> {
    let guest = machine.guest()?;
    let _daemon = machine.podman(&guest, options, &[])?;
    settle(&guest)?;
    // A size of its own, so that what comes back is what went out.
    let words = ["-n", "-c", "3", "-i", "0.2", "-W", "5", "-s", "1000"];
    let ping = Program::new("ping").args(words).arg(to.to_string());
    let finished = ping.run_in(&guest)?;
    ensure!(finished.success(), "{finished}");
    ensure!(finished.stdout.contains(" 3 received"), "{finished}");
    ensure!(!finished.stdout.contains("wrong data"), "{finished}");
    Ok(())
}

#[test]
fn of_the_machine_outside_v4() {
    on!(|machine| answered(machine, &[], Family::V4.outside()));
}

#[test]
fn of_the_machine_outside_v6() {
    on!(|machine| answered(machine, &[], Family::V6.outside()));
}

#[test]
fn of_the_host() {
    on!(|machine| answered(machine, &[], address(MAP_GUEST)));
}

#[test]
fn of_the_hosts_loopback() {
    on!(|machine| {
        let options = ["--map-host-loopback", "10.0.2.2"];
        answered(machine, &options, address("10.0.2.2"))
    });
}
