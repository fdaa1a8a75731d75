//! The forwarder against an independent TCP over a bad link, in virtual time.
//!
//! The guest is smoltcp; the link between it and the forwarder loses, doubles, delays and reorders; the host is a model of
//! the kernel's sockets with small buffers, partial writes and edges. Everything follows from a seed, which a failure
//! prints. What must hold: every byte arrives in order, and the end does; or, where somebody reset or refused, both ends
//! learn it and what arrived is a prefix.
//!
//! `USERNET_SIM=10000` sets the number of runs, `USERNET_SIM_SEED=7` runs one, with a trace.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a variable chooses the runs, and one run shows what happens"
)]

mod guest;
mod host;
mod link;
mod random;
mod splice;
mod world;

use world::{Outcome, Plan, World};

fn runs() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("USERNET_SIM_SEED") {
        return seed..seed + 1;
    }
    0..number("USERNET_SIM").unwrap_or(200)
}

#[test]
fn every_byte_or_an_honest_reset() {
    let mut stuck = 0;
    for seed in runs() {
        let plan = Plan::from_seed(seed);
        let run = std::panic::catch_unwind(|| World::new(&plan).run());
        match run {
            Ok(Outcome::Fine) => {}
            Ok(Outcome::GuestStuck) => stuck += 1,
            Err(failure) => {
                let text = failure.downcast_ref::<String>().cloned();
                let text =
                    text.or_else(|| failure.downcast_ref::<&str>().map(|text| (*text).into()));
                panic!(
                    "USERNET_SIM_SEED={seed} {plan:?}: {}",
                    text.unwrap_or_default()
                );
            }
        }
    }
    let runs = runs();
    assert!(
        stuck <= 1 + (runs.end - runs.start) / 1000,
        "{stuck} runs hang in the guest"
    );
}

#[test]
fn sockets_of_two_namespaces_talk() {
    for seed in runs() {
        let run = std::panic::catch_unwind(|| splice::run(seed));
        assert!(run.is_ok(), "USERNET_SIM_SEED={seed}");
    }
}
