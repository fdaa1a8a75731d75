//! Documents that make no sense, for the pure code and for the executable.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::catch_unwind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use test_fixtures::traffic::eventually;
use test_fixtures::{lab, recording};
use wire::proxy::{Message, NetworkConfig};

use crate::lan::{Lan, SOON, Wire, socket};
use crate::leases;
use crate::mutator::{Random, mutate, mutate_bytes};
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

#[test]
fn leases_are_understood_or_refused() {
    let mut random = Random::new(number("FUZZ_SEED", 1));
    let inputs = number("FUZZ_INPUTS", INPUTS);
    let seeds = inputs_of_leases().expect("the inputs can be read");
    for seed in &seeds {
        assert_eq!(leases::happen(seed), Ok(true), "{seed:?}");
    }
    let mut understood = 0;
    for number in 0..inputs {
        let input = mutate_bytes(&seeds, &mut random);
        match catch_unwind(|| leases::happen(&input)) {
            Ok(Ok(was_understood)) => understood += u64::from(was_understood),
            Ok(Err(why)) => panic!("input {number}: {why}: {input:?}"),
            Err(_) => panic!("input {number} panics: {input:?}"),
        }
    }
    assert!(
        (inputs / 10..inputs).contains(&understood),
        "{understood} of {inputs} were understood"
    );
}

/// What the fuzzer begins with, too.
fn inputs_of_leases() -> Result<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/dhcp");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&directory).context("inputs")? {
        paths.push(entry?.path());
    }
    paths.sort();
    paths.into_iter().map(|path| Ok(fs::read(path)?)).collect()
}

/// Calls of all kinds, and bytes that are none, to a proxy that has a lease to care for.
#[test]
fn the_proxy_answers_or_refuses() {
    lab::run(|host| {
        let lan = Lan::new(
            host,
            Wire::Parent,
            &[
                "--dhcp-option-force=option:T1,3",
                "--dhcp-option-force=option:T2,6",
            ],
        )?;
        let netns = host.container("c1")?;
        host.sh("ip link add link up0 name eth0 netns c1 type macvlan mode bridge")?;
        let mac = netns.sh("ip -br link show eth0")?;
        let mac = mac.split_whitespace().nth(2).context("a MAC address")?;
        let good = NetworkConfig {
            container_mac_addr: mac.to_owned(),
            host_iface: "up0".to_owned(),
            container_iface: "eth0".to_owned(),
            ns_path: netns.path().display().to_string(),
            container_id: "c1".to_owned(),
            ..NetworkConfig::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let ask = |method: &str, config: &NetworkConfig| {
            runtime.block_on(netbackend::sys::dhcp::call_proxy(method, config))
        };
        ask("Setup", &good).map_err(anyhow::Error::msg)?;
        let leased = lan.leased();
        let seeds: Vec<_> = inputs_of_leases()?
            .into_iter()
            .filter(|seed| seed[0] == 2)
            .collect();
        let mut random = Random::new(3);
        let mut refused = 0;
        for _ in 0..EXECUTED {
            let input = mutate_bytes(&seeds, &mut random);
            let mut raw = UnixStream::connect(socket())?;
            raw.write_all(&input).ok();
            drop(raw);
            if let Ok(config) = NetworkConfig::decode(&input[1..]) {
                for method in ["Setup", "Teardown", "Clean", ""] {
                    refused += u32::from(ask(method, &config).is_err());
                }
            }
        }
        ensure!(refused > EXECUTED / 2, "{refused} calls were refused");
        assert_eq!(lan.leased(), leased);
        let granted = lan.granted();
        ensure!(
            eventually(SOON, || lan.granted() > granted),
            "{}",
            lan.log("proxy.log")
        );
        ask("Teardown", &good).map_err(anyhow::Error::msg)?;
        lan.has_but(&[])
    });
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
