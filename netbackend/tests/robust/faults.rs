//! Every step of every recorded call fails once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use test_fixtures::netns::Netns;
use test_fixtures::recording::{self, Call};

use crate::lab::{self, Host};
use crate::requests::{self, Plain};
use crate::world::{Fault, World};

/// A container on a network that no recording knows.
const ELSEWHERE: Plain = Plain {
    network: 200,
    container: 200,
    port: 7777,
    dns: true,
};

/// Who else is on the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Company {
    /// Nobody. Steps fail before they are done, and after.
    None,
    /// Nobody, on an emulated machine, which is slow. Steps fail before they are done; of a teardown,
    /// every fourth.
    NoneBriefly,
    /// Containers on the same network and on another one. Steps fail before they are done.
    Some,
}

/// A test for each recording.
macro_rules! recordings {
    ($check:ident: $($(#[$attribute:meta])* $name:ident = $scenario:literal,)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                lab::run(|host| $check(host, $scenario));
            }
        )*
    };
}

mod recorded {
    use super::*;

    recordings! {
        every_step_fails:
        connect = "connect",
        default = "default",
        disdns = "disdns",
        dns = "dns",
        dual = "dual",
        gwopts = "gwopts",
        hostip6 = "hostip6",
        internal = "internal",
        isolate = "isolate",
        macvlan = "macvlan",
        macvlanopts = "macvlanopts",
        noipam = "noipam",
        noroute = "noroute",
        pod = "pod",
        ports = "ports",
        reload = "reload",
        static_address = "static",
        two = "two",
        unmanaged = "unmanaged",
        v6only = "v6only",
        vethname = "vethname",
    }

    recordings! {
        every_step_fails_alone:
        #[ignore = "needs the VM: hack/vm-test"]
        vm_ipvlan = "ipvlan",
        #[ignore = "needs the VM: hack/vm-test"]
        vm_opts = "opts",
        #[ignore = "needs the VM: hack/vm-test"]
        vm_sctp = "sctp",
        #[ignore = "needs the VM: hack/vm-test"]
        vm_vrf = "vrf",
    }
}

/// A bridge, a plugin and a link on top of another one in the same call.
fn mixed(driver: &str) -> Vec<Call> {
    let call = |name| Call::made_up(name, "mixed", requests::mixed(driver));
    vec![call("01-setup"), call("02-teardown")]
}

#[test]
fn networks_of_each_kind() {
    lab::run(|host| every_step_of_calls_fails(host, &mixed("macvlan")));
}

#[test]
#[ignore = "needs the VM: hack/vm-test"]
fn vm_networks_of_each_kind() {
    lab::run(|host| every_step_of_calls_fails_alone(host, &mixed("ipvlan")));
}

fn prepare(host: &Host, calls: &[Call]) -> Result<()> {
    for call in calls {
        for command in requests::prerequisites(&call.input)? {
            host.sh(&command)?;
        }
    }
    Ok(())
}

fn every_step_fails_alone(host: &Host, scenario: &str) -> Result<()> {
    every_step_of_calls_fails_alone(host, &recording::calls(scenario)?)
}

fn every_step_of_calls_fails_alone(host: &Host, calls: &[Call]) -> Result<()> {
    let world = World::new(host)?;
    prepare(host, calls)?;
    let before = world.snapshot()?;
    Replay::new(&world, calls)?.run(Company::NoneBriefly)?;
    world.check_clean(&before, "at the end")
}

fn every_step_fails(host: &Host, scenario: &str) -> Result<()> {
    every_step_of_calls_fails(host, &recording::calls(scenario)?)
}

fn every_step_of_calls_fails(host: &Host, calls: &[Call]) -> Result<()> {
    let world = World::new(host)?;
    prepare(host, calls)?;
    let before = world.snapshot()?;
    Replay::new(&world, calls)?
        .run(Company::None)
        .context("alone")?;
    world.check_clean(&before, "at the end, alone")?;

    let elsewhere = world.start(ELSEWHERE)?;
    let with_neighbour = Replay::new(&world, calls)?;
    let neighbours = with_neighbour.neighbours()?;
    with_neighbour.run(Company::Some).context("in company")?;
    world.check(&elsewhere)?;
    for (document, netns) in neighbours {
        world.good("teardown", &document, netns.path())?;
    }
    world.stop(elsewhere)?;
    world.check_clean(&before, "at the end, in company")
}

/// The calls of a recording, one after the other, each with every fault before it is done well.
pub(crate) struct Replay<'a> {
    world: &'a World<'a>,
    calls: &'a [Call],
    namespaces: BTreeMap<String, Netns>,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(world: &'a World<'a>, calls: &'a [Call]) -> Result<Self> {
        let mut namespaces = BTreeMap::new();
        for name in calls.iter().filter_map(Call::netns_name) {
            if !namespaces.contains_key(name) {
                namespaces.insert(name.to_owned(), world.host.container(name)?);
            }
        }
        Ok(Self {
            world,
            calls,
            namespaces,
        })
    }

    /// Sets up a neighbour for every set of networks in the recording.
    fn neighbours(&self) -> Result<Vec<(String, Netns)>> {
        let mut neighbours: Vec<(String, Netns)> = Vec::new();
        for call in self.calls.iter().filter(|call| call.verb == "setup") {
            let number = neighbours.len();
            let document = requests::neighbour(&call.input)?
                .replace("\"neighbour\"", &format!("\"neighbour{number}\""));
            let netns = self.world.host.container(&format!("neighbour{number}"))?;
            let finished = self.world.run("setup", document.as_str(), netns.path())?;
            if finished.success() {
                neighbours.push((document, netns));
            } else {
                // The recording comes to this network a second time.
                ensure!(number > 0, "{finished}");
            }
        }
        Ok(neighbours)
    }

    pub(crate) fn run(&self, company: Company) -> Result<()> {
        let mut attached: Vec<&Call> = Vec::new();
        for call in self.calls {
            let place = || format!("{}/{}", call.scenario, call.name);
            match call.verb.as_str() {
                "setup" => {
                    self.setup_fails(call, company).with_context(place)?;
                    attached.push(call);
                }
                "teardown" => {
                    let mut setup = None;
                    for (number, other) in attached.iter().enumerate() {
                        if requests::same_attachments(&other.input, &call.input)? {
                            setup = Some(number);
                        }
                    }
                    let setup = attached
                        .remove(setup.with_context(|| format!("{}: no setup for it", place()))?);
                    self.teardown_fails(setup, call, company)
                        .with_context(place)?;
                }
                other => bail!("{}: what is {other}?", place()),
            }
        }
        for call in attached.into_iter().rev() {
            self.world
                .teardown(&call.input, &self.netns(call)?, Fault::Never)?
                .is_good()?;
        }
        Ok(())
    }

    fn netns(&self, call: &Call) -> Result<PathBuf> {
        let name = call.netns_name().context("a call names its namespace")?;
        Ok(self
            .namespaces
            .get(name)
            .context("made before")?
            .path()
            .to_path_buf())
    }

    fn setup_fails(&self, call: &Call, company: Company) -> Result<()> {
        let (world, document, netns) = (self.world, &call.input, self.netns(call)?);
        let before = world.snapshot()?;
        let mut step = 0;
        let has_undo = loop {
            let done = world.setup(document, &netns, Fault::Before(step))?;
            if !done.reached {
                done.is_good()?;
                break done.has_undo;
            }
            done.is_injected().with_context(|| format!("step {step}"))?;
            world.check_same_as(&before, &format!("step {step} has failed"))?;
            step += 1;
        };
        world.teardown(document, &netns, Fault::Never)?.is_good()?;
        world.check_clean(&before, "set up and torn down")?;

        let before = world.snapshot()?;
        world.setup(document, &netns, Fault::Reply)?.is_good()?;
        world.check_same_as(&before, "the reply was not written")?;
        // A step without an undo is covered by that of another one, which has to do even when the step was done.
        let covered = has_undo
            .iter()
            .enumerate()
            .filter(|(_, has_undo)| !**has_undo);
        for (step, _) in covered.filter(|_| company == Company::None) {
            let done = world.setup(document, &netns, Fault::After(step))?;
            done.is_injected()
                .with_context(|| format!("step {step}, done"))?;
            world.check_same_as(&before, &format!("step {step} was done and has failed"))?;
        }
        world.setup(document, &netns, Fault::Never)?.is_good()
    }

    fn teardown_fails(&self, setup: &Call, call: &Call, company: Company) -> Result<()> {
        let (world, netns) = (self.world, self.netns(call)?);
        world
            .teardown(&call.input, &netns, Fault::Never)?
            .is_good()?;
        let clean = world.snapshot()?;
        let kinds: &[fn(usize) -> Fault] = match company {
            Company::None => &[Fault::Before, Fault::After],
            Company::NoneBriefly | Company::Some => &[Fault::Before],
        };
        let stride = if company == Company::NoneBriefly {
            4
        } else {
            1
        };
        for fault in kinds {
            for fault in (0..).step_by(stride).map(fault) {
                world.setup(&setup.input, &netns, Fault::Never)?.is_good()?;
                let done = world.teardown(&call.input, &netns, fault)?;
                if !done.reached {
                    done.is_good()?;
                    break;
                }
                done.is_injected().with_context(|| format!("{fault:?}"))?;
                let again = world.teardown(&call.input, &netns, Fault::Never)?;
                again
                    .is_good()
                    .with_context(|| format!("{fault:?}, once more"))?;
                world.check_same_as(&clean, &format!("{fault:?}, then a good teardown"))?;
            }
        }
        Ok(())
    }
}
