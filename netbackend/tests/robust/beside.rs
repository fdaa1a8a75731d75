//! Steps fail and calls are killed where firewalld runs, beside our table or in its place.
//!
//! What firewalld holds shows in its own table, which is part of the comparison. Zone and policies of the driver stay once
//! they are made, so they are made before. No port is published by firewalld: versions before 2.0 refuse that.

use anyhow::Result;
use netbackend::observed::FirewallDriver;
use test_fixtures::recording::Call;

use crate::daemon::Firewalld;
use crate::faults::{Company, Replay};
use crate::kills::{Victim, random_moments_of};
use crate::lab::{self, Host};
use crate::requests::Plain;
use crate::world::World;

/// How often a setup is killed, and how often a teardown. Calls are slow here; fifteen were tried.
const KILLS: u32 = 8;

/// A container that is there all the time.
const ALIVE: Plain = Plain {
    network: 200,
    container: 200,
    port: 0,
    dns: false,
};

/// The one whose calls fail.
const VICTIM: Plain = Plain {
    network: 1,
    container: 2,
    port: 0,
    dns: true,
};

fn at_port(plain: Plain, port: u16) -> Plain {
    Plain { port, ..plain }
}

#[test]
fn every_step_fails_beside_firewalld() {
    lab::run(|host| every_step_fails(host, FirewallDriver::Nftables, at_port(VICTIM, 8080)));
}

#[test]
fn every_step_fails_by_firewalld() {
    lab::run(|host| every_step_fails(host, FirewallDriver::Firewalld, VICTIM));
}

fn every_step_fails(host: &Host, driver: FirewallDriver, victim: Plain) -> Result<()> {
    let world = World::new(host)?.with_firewall(driver);
    let _firewalld = Firewalld::start(host, "")?;
    let alive = world.start(ALIVE)?;
    let before = world.snapshot()?;
    let call = |name| Call::made_up(name, "plain", victim.document());
    let calls = [call("01-setup"), call("02-teardown")];
    Replay::new(&world, &calls)?.run(Company::NoneBriefly)?;
    world.check_clean(&before, "at the end")?;
    world.check(&alive)?;
    world.stop(alive)
}

#[test]
fn kills_beside_firewalld() {
    lab::run(|host| kills(host, FirewallDriver::Nftables, at_port(VICTIM, 8080)));
}

#[test]
fn kills_by_firewalld() {
    lab::run(|host| kills(host, FirewallDriver::Firewalld, VICTIM));
}

fn kills(host: &Host, driver: FirewallDriver, victim: Plain) -> Result<()> {
    let world = World::new(host)?.with_firewall(driver);
    let _firewalld = Firewalld::start(host, "")?;
    let alive = world.start(ALIVE)?;
    let victim = Victim::in_world(world, victim.document(), alive)?;
    random_moments_of(&victim, "beside firewalld", 9, KILLS)?;
    victim.end()
}
