//! Calls are killed; one good call of anybody cleans up.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use test_fixtures::netns::Netns;
use test_fixtures::recording;

use crate::lab::{self, Host};
use crate::mutator::Random;
use crate::requests::{self, Plain};
use crate::world::{Living, World, executable};

/// The same on an emulated machine, which is slow.
const KILLS_IN_VM: u32 = 6;

/// How often each of the tests with random moments kills a setup, and how often a teardown.
const KILLS: u32 = 20;

/// A container that is there all the time.
const ALIVE: Plain = Plain {
    network: 200,
    container: 200,
    port: 7777,
    dns: false,
};

/// The container whose call cleans up.
const NEXT: Plain = Plain {
    network: 201,
    container: 201,
    port: 0,
    dns: false,
};

#[test]
fn random_moments_ports() {
    lab::run(|host| random_moments(host, "ports", 1));
}

#[test]
fn random_moments_dual() {
    lab::run(|host| random_moments(host, "dual", 2));
}

#[test]
fn random_moments_two() {
    lab::run(|host| random_moments(host, "two", 3));
}

#[test]
fn random_moments_internal() {
    lab::run(|host| random_moments(host, "internal", 4));
}

#[test]
fn random_moments_dns() {
    lab::run(|host| random_moments(host, "dns", 5));
}

#[test]
fn random_moments_macvlan() {
    lab::run(|host| random_moments(host, "macvlan", 6));
}

#[test]
fn random_moments_macvlanopts() {
    lab::run(|host| random_moments(host, "macvlanopts", 10));
}

#[test]
fn random_moments_upd() {
    lab::run(|host| random_moments(host, "upd", 11));
}

/// A change to a running network is made as a whole or not at all, and the next one comes through.
#[test]
fn random_moments_of_an_update() {
    lab::run(|host| {
        let world = World::new(host)?;
        let calls = recording::calls("upd")?;
        let [setup, update, teardown] = calls.as_slice() else {
            bail!("there are {} calls", calls.len());
        };
        let netns = host.container("victim")?;
        let before = world.snapshot()?;
        world.good("setup", &setup.input, netns.path())?;
        let zone = world.config.join("aardvark-dns/u1");
        let old = fs::read_to_string(&zone)?;
        let begin = Instant::now();
        world.update(update)?;
        let usual = begin.elapsed();
        let new = fs::read_to_string(&zone)?;
        ensure!(old != new, "nothing changes");
        let mut random = Random::new(12);
        for _ in 0..KILLS {
            fs::write(&zone, &old)?;
            let delay = usual * u32::try_from(random.below(1000))? / 1000;
            let mut command = Command::new(executable());
            command.args(world.recorded_arguments(update));
            finish(command, &update.input, |child| {
                thread::sleep(delay);
                child.kill().context("kill")
            })?;
            let found = fs::read_to_string(&zone)?;
            ensure!([&old, &new].contains(&&found), "after {delay:?}: {found}");
            world.update(update)?;
            assert_eq!(fs::read_to_string(&zone)?, new);
        }
        world.good("teardown", &teardown.input, netns.path())?;
        world.check_clean(&before, "at the end")
    });
}

#[test]
fn random_moments_of_each_kind() {
    lab::run(|host| {
        let victim = Victim::of(host, requests::mixed("macvlan"))?;
        random_moments_of(&victim, "mixed", 7, KILLS)?;
        victim.end()
    });
}

/// What the plugin has started would do its work when the next call has taken it back.
#[test]
fn random_moments_of_a_slow_plugin() {
    lab::run(|host| {
        let mut victim = Victim::of(host, requests::mixed("macvlan"))?;
        victim.world.plugin_delay = "0.4";
        random_moments_of(&victim, "slow plugin", 9, KILLS / 2)?;
        victim.end()
    });
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_random_moments_of_each_kind() {
    lab::run(|host| {
        let victim = Victim::of(host, requests::mixed("ipvlan"))?;
        random_moments_of(&victim, "mixed", 8, KILLS_IN_VM)?;
        victim.end()
    });
}

fn random_moments(host: &Host, scenario: &str, seed: u64) -> Result<()> {
    let victim = Victim::new(host, scenario)?;
    random_moments_of(&victim, scenario, seed, KILLS)?;
    victim.end()
}

pub(crate) fn random_moments_of(
    victim: &Victim<'_>,
    scenario: &str,
    seed: u64,
    kills: u32,
) -> Result<()> {
    let mut random = Random::new(seed);
    let begin = Instant::now();
    victim.good("setup")?;
    let setup = begin.elapsed();
    let begin = Instant::now();
    victim.good("teardown")?;
    let teardown = begin.elapsed();
    for number in 0..kills {
        for (verb, usual) in [("setup", setup), ("teardown", teardown)] {
            // Each part of the call has its turn; the moment within it is random.
            let part = usual / kills;
            let delay = part * number + part * u32::try_from(random.below(1000))? / 1000;
            let what = format!("{scenario}: {verb} killed after {delay:?}");
            victim.dies(verb, &what, || {
                kill_after(
                    &victim.world,
                    verb,
                    &victim.document,
                    victim.netns.path(),
                    delay,
                )
                .map(drop)
            })?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs strace"]
fn every_system_call_of_setup() {
    lab::run(|host| every_system_call(Victim::new(host, "dns")?, "setup"));
}

#[test]
#[ignore = "needs strace"]
fn every_system_call_of_teardown() {
    lab::run(|host| every_system_call(Victim::new(host, "dns")?, "teardown"));
}

#[test]
#[ignore = "needs strace"]
fn every_system_call_of_setup_of_each_kind() {
    lab::run(|host| every_system_call(Victim::of(host, requests::mixed("macvlan"))?, "setup"));
}

#[test]
#[ignore = "needs strace"]
fn every_system_call_of_teardown_of_each_kind() {
    lab::run(|host| every_system_call(Victim::of(host, requests::mixed("macvlan"))?, "teardown"));
}

/// Those that may change something.
fn every_system_call(victim: Victim<'_>, verb: &str) -> Result<()> {
    let (world, netns) = (&victim.world, victim.netns.path());
    let mut kills = 0;
    for call in [
        "sendto", "rename", "unlink", "rmdir", "mkdir", "write", "openat", "flock", "kill",
    ] {
        for number in 1.. {
            let what = format!("{verb} killed at {call} number {number}");
            let mut killed = false;
            victim.dies(verb, &what, || {
                killed = kill_at(world, verb, &victim.document, netns, call, number)?;
                Ok(())
            })?;
            if !killed {
                break;
            }
            kills += 1;
        }
    }
    ensure!(kills > 50, "there were but {kills} kills");
    victim.end()
}

/// A container whose calls are killed, and the host around it.
pub(crate) struct Victim<'a> {
    world: World<'a>,
    document: String,
    netns: Netns,
    alive: Living,
    next: Netns,
    before: test_fixtures::snapshot::Snapshot,
}

impl<'a> Victim<'a> {
    fn new(host: &'a Host, scenario: &str) -> Result<Self> {
        let calls = recording::calls(scenario)?;
        Self::of(host, calls.first().context("a call")?.input.clone())
    }

    pub(crate) fn of(host: &'a Host, document: String) -> Result<Self> {
        let world = World::new(host)?;
        for command in requests::prerequisites(&document)? {
            host.sh(&command)?;
        }
        let alive = world.start(ALIVE)?;
        Self::in_world(world, document, alive)
    }

    pub(crate) fn in_world(world: World<'a>, document: String, alive: Living) -> Result<Self> {
        let containers = ["victim", "next"].map(|name| world.host.container(name));
        let [netns, next] = containers;
        let (netns, next) = (netns?, next?);
        let before = world.snapshot()?;
        Ok(Self {
            world,
            document,
            netns,
            alive,
            next,
            before,
        })
    }

    fn good(&self, verb: &str) -> Result<()> {
        self.world
            .good(verb, &self.document, self.netns.path())
            .map(drop)
    }

    /// Lets `kill` interrupt a call, and checks that the next container's call leaves nothing of it.
    fn dies(&self, verb: &str, what: &str, kill: impl FnOnce() -> Result<()>) -> Result<()> {
        if verb == "teardown" {
            self.good("setup")
                .with_context(|| format!("before {what}"))?;
        }
        kill()?;
        self.world
            .check(&self.alive)
            .with_context(|| what.to_owned())?;
        for verb in ["setup", "teardown"] {
            self.world
                .good(verb, &NEXT.document(), self.next.path())
                .with_context(|| what.to_owned())?;
        }
        // The call had come to its end, or not to its beginning.
        let id = requests::container_id(&self.document)?;
        if self
            .world
            .config
            .join("netbackend/containers")
            .join(id)
            .exists()
        {
            self.good("teardown")
                .with_context(|| format!("after {what}"))?;
        }
        self.world.check_clean(&self.before, what)?;
        let inside = self
            .netns
            .sh("ip -o link; ip route show table all type unicast; ip route show type blackhole")?;
        ensure!(inside.lines().count() == 1, "{what}: left inside: {inside}");
        self.world
            .check(&self.alive)
            .with_context(|| what.to_owned())
    }

    pub(crate) fn end(self) -> Result<()> {
        self.world.stop(self.alive)
    }
}

/// Runs a call and kills it after some time. Says whether it was killed.
fn kill_after(
    world: &World<'_>,
    verb: &str,
    document: &str,
    netns: &Path,
    delay: Duration,
) -> Result<bool> {
    let mut command = Command::new(executable());
    command.args(world.arguments(verb, netns));
    command.env("DELAY", world.plugin_delay);
    finish(command, document, |child| {
        thread::sleep(delay);
        child.kill().context("kill")
    })
}

/// Runs a call and kills it when it makes a system call for the n-th time, before that does anything.
fn kill_at(
    world: &World<'_>,
    verb: &str,
    document: &str,
    netns: &Path,
    call: &str,
    number: u32,
) -> Result<bool> {
    let mut command = Command::new("strace");
    let inject = format!("inject={call}:signal=KILL:when={number}");
    command.args([
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={call}"),
        "-e",
        &inject,
    ]);
    command.arg(executable()).args(world.arguments(verb, netns));
    finish(command, document, |_| Ok(()))
}

fn finish(
    mut command: Command,
    document: &str,
    meanwhile: impl FnOnce(&mut std::process::Child) -> Result<()>,
) -> Result<bool> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().context("start the program")?;
    // A program that ended before it has read everything tells why by its status.
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(document.as_bytes()).ok();
    drop(stdin);
    meanwhile(&mut child)?;
    Ok(!child.wait().context("wait")?.success())
}
