//! Documents that make no sense, for the pure code and for the executable.

use std::panic::catch_unwind;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use test_fixtures::{lab, recording};

use crate::mutator::{Random, mutate};
use crate::pure::plan;
use crate::requests::{self, Plain};
use crate::stale::error;
use crate::world::World;

/// How many documents the pure code is given; `FUZZ_INPUTS` for another number, `FUZZ_SEED` for others.
const INPUTS: u64 = 20_000;

/// How many documents the executable is given.
const EXECUTED: u32 = 300;

#[test]
fn pure_code_understands_or_refuses() {
    let mut random = Random::new(number("FUZZ_SEED", 1));
    let inputs = number("FUZZ_INPUTS", INPUTS);
    let seeds = seeds().expect("the recordings can be read");
    let mut accepted = 0;
    for number in 0..inputs {
        let document = mutate(&seeds, &mut random);
        let text = || String::from_utf8_lossy(&document).into_owned();
        match catch_unwind(|| plan(&document)) {
            Ok(Ok(was_request)) => accepted += u64::from(was_request),
            Ok(Err(why)) => panic!("input {number}: {why}: {}", text()),
            Err(_) => panic!("input {number} panics: {}", text()),
        }
    }
    // Mutations that never, or always, make a document useless test nothing.
    assert!(
        (inputs / 20..inputs).contains(&accepted),
        "{accepted} of {inputs} were accepted"
    );
}

/// A number from the environment.
fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{variable}={text}: {error}"))
    })
}

#[test]
fn the_executable_refuses_or_obeys() {
    lab::run(|host| {
        let world = World::new(host)?;
        // Others that need something on the host are refused for want of it.
        host.sh(
            "ip link add up0 type veth peer name peer; ip link set up0 up; ip link set peer up",
        )?;
        let seeds = seeds()?;
        let mut random = Random::new(2);
        let netns = host.container("victim")?;
        let alive = world.start(Plain {
            network: 200,
            container: 200,
            port: 7777,
            dns: false,
        })?;
        let before = world.snapshot()?;
        for _ in 0..EXECUTED {
            let document = mutate(&seeds, &mut random);
            let text = String::from_utf8_lossy(&document);
            let setup = world.run("setup", document.clone(), netns.path())?;
            if setup.success() {
                let undone = world.run("teardown", document.clone(), netns.path())?;
                ensure!(undone.success(), "{undone}\nfor {text}");
            } else {
                error(&setup).with_context(|| format!("setup of {text}"))?;
                // Nothing is there to take away; whether that is an error is a matter of the document.
                let refused = world.run("teardown", document.clone(), netns.path())?;
                if !refused.success() {
                    error(&refused).with_context(|| format!("teardown of {text}"))?;
                }
            }
            world.check_clean(&before, &text)?;
            let inside = netns.sh("ip -o link; ip route show table all type unicast")?;
            ensure!(
                inside.lines().count() == 1,
                "left in the container: {inside} by {text}"
            );
        }
        world.check(&alive)?;
        world.stop(alive)
    });
}

/// All recorded requests.
fn seeds() -> Result<Vec<Value>> {
    let mut seeds = Vec::new();
    for scenario in recording::scenarios()? {
        for call in recording::calls(&scenario)? {
            seeds.push(call.request()?);
        }
    }
    for driver in ["macvlan", "ipvlan"] {
        seeds.push(serde_json::from_str(&requests::mixed(driver))?);
    }
    Ok(seeds)
}
