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

use world::{Kind, Outcome, Plan, World};

fn runs() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("USERNET_SIM_SEED") {
        return seed..seed + 1;
    }
    0..number("USERNET_SIM").unwrap_or(100)
}

/// Runs of one kind. Nobody is reset who was not to be, and of the guest's own TCP hangs one in a thousand at most.
fn check(kind: Kind) {
    let (mut fine, mut reset, mut stuck) = (0, 0, 0);
    for seed in runs() {
        let plan = Plan::of(kind, seed);
        let run = std::panic::catch_unwind(|| World::new(&plan).run());
        match run {
            Ok(Outcome::Fine) => fine += 1,
            Ok(Outcome::Reset) => {
                assert!(plan.is_violent(), "USERNET_SIM_SEED={seed} {plan:?}");
                reset += 1;
            }
            Ok(Outcome::GuestStuck) => stuck += 1,
            Err(failure) => {
                let text = failure.downcast_ref::<String>().cloned();
                let text =
                    text.or_else(|| failure.downcast_ref::<&str>().map(|text| (*text).into()));
                panic!(
                    "USERNET_SIM_SEED={seed} {kind:?} {plan:?}: {}",
                    text.unwrap_or_default()
                );
            }
        }
    }
    eprintln!("{kind:?}: {fine} complete, {reset} reset as planned, {stuck} hang in the guest");
    assert!(stuck <= 1 + fine / 1000, "{stuck} runs hang in the guest");
}

#[test]
fn every_byte_or_an_honest_reset() {
    check(Kind::Mixed);
}

#[test]
fn packets_are_lost() {
    check(Kind::Loss);
}

#[test]
fn packets_come_twice() {
    check(Kind::Duplicates);
}

#[test]
fn packets_overtake_each_other() {
    check(Kind::Disorder);
}

#[test]
fn packets_take_long() {
    check(Kind::Delay);
}

#[test]
fn everything_at_once() {
    check(Kind::Everything);
}

#[test]
fn somebody_reads_nothing_for_a_minute() {
    check(Kind::ZeroWindow);
}

#[test]
fn windows_are_tiny() {
    check(Kind::TinyWindow);
}

#[test]
fn packets_are_small() {
    check(Kind::SmallMtu);
}

#[test]
fn both_talk_at_once() {
    check(Kind::BothWays);
}

#[test]
fn one_ends_and_the_other_goes_on() {
    check(Kind::HalfClosed);
}

#[test]
fn sockets_of_two_namespaces_talk() {
    for seed in runs() {
        let run = std::panic::catch_unwind(|| splice::run(seed));
        assert!(run.is_ok(), "USERNET_SIM_SEED={seed}");
    }
}
