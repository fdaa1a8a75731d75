//! A hundred containers, sixteen calls at a time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use test_fixtures::netns::Netns;
use test_fixtures::traffic::{self, Protocol};

use crate::lab::{self, Host};
use crate::requests::{self, Plain};
use crate::world::World;

const CONTAINERS: u8 = 100;
const WORKERS: usize = 16;

#[test]
fn on_one_network() {
    lab::run(|host| crowd(host, 1));
}

#[test]
fn on_several_networks() {
    lab::run(|host| crowd(host, 7));
}

/// One of a crowd on networks of several drivers.
struct Mixed {
    id: String,
    number: u8,
    drivers: &'static [&'static str],
    netns: Netns,
}

impl Mixed {
    fn document(&self) -> String {
        requests::of_kinds(&self.id, self.number, self.drivers)
    }

    /// On each of its networks it has what it is to have there.
    fn check(&self, world: &World<'_>) -> Result<()> {
        for driver in self.drivers {
            let works = match *driver {
                "bridge" => {
                    let address = SocketAddr::new([10, 101, 0, self.number].into(), 80);
                    let _server = traffic::serve(&self.netns, Protocol::Tcp, address, &self.id)?;
                    world.who_answers(8097 + u16::from(self.number))? == self.id
                }
                "plugin" => world.attached_by_plugin(&self.id),
                _ => traffic::ping(&self.netns, [10, 101, 2, 1].into())?,
            };
            ensure!(works, "{}: {driver}", self.id);
        }
        Ok(())
    }
}

#[test]
fn on_networks_of_each_kind() {
    lab::run(|host| {
        let world = World::new(host)?;
        for command in requests::prerequisites(&requests::mixed("macvlan"))? {
            host.sh(&command)?;
        }
        host.sh("ip addr add 10.101.2.1/24 dev peer")?;
        let before = world.snapshot()?;
        let kinds: [&[&str]; 5] = [
            &["bridge"],
            &["macvlan"],
            &["plugin"],
            &["plugin", "macvlan"],
            &["bridge", "plugin", "macvlan"],
        ];
        let containers = (0..CONTAINERS)
            .map(|number| {
                let id = format!("mixed{number}");
                let netns = host.container(&id)?;
                let (number, drivers) = (number + 2, kinds[usize::from(number) % kinds.len()]);
                Ok((
                    Mixed {
                        id,
                        number,
                        drivers,
                        netns,
                    },
                    (),
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let call =
            |verb: &str, it: &Mixed| world.good(verb, &it.document(), it.netns.path()).map(drop);

        all_at_once(&containers, |it, ()| call("setup", it))?;
        check_rules(host)?;
        for (it, ()) in &containers {
            it.check(&world)?;
        }
        // Half of them go, come again while the others go, and go.
        let (going, staying) = containers.split_at(containers.len() / 2);
        all_at_once(going, |it, ()| call("teardown", it))?;
        for (it, ()) in staying {
            it.check(&world)?;
        }
        let again = going.iter().map(|it| (it, "setup"));
        let crossing: Vec<_> = again
            .zip(staying.iter().map(|it| (it, "teardown")))
            .flat_map(|(one, other)| [one, other])
            .collect();
        all_at_once(&crossing, |it, verb| call(verb, &it.0))?;
        for (it, ()) in going {
            it.check(&world)?;
        }
        all_at_once(going, |it, ()| call("teardown", it))?;
        for (it, ()) in &containers {
            let left = it
                .netns
                .sh("ip -o link; ip route show table all type unicast")?;
            ensure!(left.lines().count() == 1, "{}: left inside: {left}", it.id);
        }
        world.check_clean(&before, "all are gone")
    });
}

fn crowd(host: &Host, networks: u8) -> Result<()> {
    let world = World::new(host)?;
    let before = world.snapshot()?;
    let containers = (0..CONTAINERS)
        .map(|number| {
            let port = 10_000 + u16::from(number);
            let plain = Plain {
                network: number % networks,
                container: number + 2,
                port,
                dns: true,
            };
            Ok((plain, host.container(&plain.id())?))
        })
        .collect::<Result<Vec<_>>>()?;

    all_at_once(&containers, |plain, netns| {
        world
            .good("setup", &plain.document(), netns.path())
            .map(drop)
    })?;
    check_rules(host)?;
    check_names(&world, &containers, networks)?;
    for (plain, netns) in &containers {
        let _server = traffic::serve(
            netns,
            Protocol::Tcp,
            SocketAddr::new(plain.address(), 80),
            &plain.id(),
        )?;
        let answer = world.who_answers(plain.port)?;
        ensure!(answer == plain.id(), "{answer} answers for {}", plain.id());
    }
    // Again, while others go.
    let (going, staying) = containers.split_at(containers.len() / 2);
    all_at_once(going, |plain, netns| {
        world
            .good("teardown", &plain.document(), netns.path())
            .map(drop)
    })?;
    check_rules(host)?;
    let mixed: Vec<_> = going
        .iter()
        .map(|it| (it, "setup"))
        .chain(staying.iter().map(|it| (it, "teardown")))
        .collect();
    all_at_once(&mixed, |it, verb| {
        world.good(verb, &it.0.document(), it.1.path()).map(drop)
    })?;
    check_rules(host)?;
    all_at_once(going, |plain, netns| {
        world
            .good("teardown", &plain.document(), netns.path())
            .map(drop)
    })?;
    world.check_clean(&before, "all are gone")
}

/// Does the work for each pair, some at a time; fails with the first error.
fn all_at_once<A: Sync, B: Sync>(
    pairs: &[(A, B)],
    work: impl Fn(&A, &B) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        while let Some((a, b)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(a, b)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))?
        })
    })
}

/// No rule is there twice. That no element is, is the nature of a set.
fn check_rules(host: &Host) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut chain = String::new();
    for line in host
        .sh("nft --stateless list table inet netavark")?
        .lines()
        .map(str::trim)
    {
        if line.ends_with('{') {
            line.clone_into(&mut chain);
        } else if chain.starts_with("chain ") && line != "}" {
            ensure!(
                seen.insert((chain.clone(), line.to_owned())),
                "{chain} {line}: twice"
            );
        }
    }
    ensure!(seen.len() > 10, "there are but {} rules", seen.len());
    Ok(())
}

/// Every container is named once, and the responder says so.
fn check_names(world: &World<'_>, containers: &[(Plain, Netns)], networks: u8) -> Result<()> {
    for network in 0..networks {
        let path = world.config.join(format!("aardvark-dns/net{network}"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let named: BTreeSet<&str> = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split(' ').next())
            .collect();
        let members = containers
            .iter()
            .filter(|(plain, _)| plain.network == network)
            .count();
        ensure!(
            named.len() == members && text.lines().count() == members + 1,
            "{members} members, but\n{text}"
        );
    }
    for (plain, netns) in [containers.first(), containers.last()]
        .into_iter()
        .flatten()
    {
        let gateway = format!("10.100.{}.1", plain.network);
        let asked = || {
            netns.sh(&format!(
                "dig +short +time=1 +tries=1 @{gateway} c{}.dns.podman || true",
                plain.container
            ))
        };
        let resolved = traffic::eventually(std::time::Duration::from_secs(5), || {
            asked().is_ok_and(|answer| answer.trim() == plain.address().to_string())
        });
        ensure!(resolved, "{} is not resolved: {:?}", plain.id(), asked()?);
    }
    Ok(())
}
