//! `gc` after engines that died: all of what dead containers left goes, and nothing of living ones.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netbackend::schema::Name;
use netbackend::sys;
use serde_json::{Value, json};
use test_fixtures::program::{Finished, Program};
use test_fixtures::traffic;

use crate::lab;
use crate::requests::Plain;
use crate::stale::{die, error};
use crate::validator::check;
use crate::world::{Fault, Living, World, executable};

/// Three that die, on two networks, with and without names.
const DOOMED: [Plain; 3] = [
    Plain {
        network: 1,
        container: 11,
        port: 8011,
        dns: true,
    },
    Plain {
        network: 1,
        container: 12,
        port: 0,
        dns: true,
    },
    Plain {
        network: 2,
        container: 13,
        port: 8013,
        dns: false,
    },
];

/// Two that live: beside the dead, and alone.
const LIVING: [Plain; 2] = [
    Plain {
        network: 1,
        container: 21,
        port: 8021,
        dns: true,
    },
    Plain {
        network: 3,
        container: 22,
        port: 8022,
        dns: false,
    },
];

pub(crate) fn gc(world: &World<'_>, words: &[&str]) -> Result<Finished> {
    Program::new(executable())
        .arg("--config")
        .arg(&world.config)
        .arg(format!("--aardvark-binary={}", lab::dnsd().display()))
        .arg("gc")
        .args(words)
        .run_in(world.host)
}

fn lines(finished: &Finished) -> Result<Vec<String>> {
    ensure!(
        finished.success() && finished.stderr.is_empty(),
        "{finished}"
    );
    Ok(finished.stdout.lines().map(str::to_owned).collect())
}

fn start_all(world: &World<'_>, plains: &[Plain]) -> Result<Vec<Living>> {
    plains.iter().map(|plain| world.start(*plain)).collect()
}

/// Kills what is inside, without a word to the program.
fn die_all(world: &World<'_>, doomed: Vec<Living>) -> Result<()> {
    doomed.into_iter().try_for_each(|living| die(world, living))
}

fn table(world: &World<'_>) -> Result<String> {
    world
        .host
        .sh("nft list table inet netavark 2>/dev/null || true")
}

#[test]
fn everything_dead_goes() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        assert_eq!(lines(&gc(&world, &[])?)?, Vec::<String>::new());
        let doomed = start_all(&world, &DOOMED)?;
        die_all(&world, doomed)?;
        let expected = [
            "container container11 on net1",
            "container container12 on net1",
            "container container13 on net2",
        ];
        let dead = world.snapshot()?;
        let would = expected.map(|line| format!("would remove {line}"));
        assert_eq!(lines(&gc(&world, &["--dry-run"])?)?, would);
        let found: Value = serde_json::from_str(&gc(&world, &["--dry-run", "--json"])?.stdout)?;
        assert_eq!(
            found["found"][0],
            json!({"kind": "container", "container": "container11", "networks": ["net1"]})
        );
        is_collection(&found)?;
        world.check_same_as(&dead, "a dry run")?;
        assert_eq!(
            lines(&gc(&world, &[])?)?,
            expected.map(|line| format!("removed {line}"))
        );
        world.check_clean(&before, "all are dead")?;
        let nothing = gc(&world, &["--json"])?.stdout;
        assert_eq!(nothing, "{\"removed\":[]}\n");
        is_collection(&serde_json::from_str(&nothing)?)?;
        world.check_clean(&before, "nothing was there")
    });
}

/// The document is as its schema says.
fn is_collection(document: &Value) -> Result<()> {
    let checked = check(&Name::Collection.schema(), document);
    checked.map_err(|why| anyhow::anyhow!("{why}: {document}"))
}

/// The living keep rules, names and traffic, and are all that is left.
#[test]
fn the_living_stay() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let living = start_all(&world, &LIVING)?;
        let (alone, rules) = (world.snapshot()?, table(&world)?);
        assert_eq!(lines(&gc(&world, &[])?)?, Vec::<String>::new());
        world.check_same_as(&alone, "nobody is dead")?;
        assert_eq!(table(&world)?, rules);

        let doomed = start_all(&world, &DOOMED)?;
        die_all(&world, doomed)?;
        assert_eq!(lines(&gc(&world, &[])?)?.len(), 3);
        world.check_clean(&alone, "only the dead are gone")?;
        let zone = fs::read_to_string(world.config.join("aardvark-dns/net1"))?;
        ensure!(
            zone.contains("container21") && !zone.contains("container11"),
            "{zone}"
        );
        for container in living {
            world.check(&container)?;
            world.stop(container)?;
        }
        world.check_clean(&before, "all have left")
    });
}

/// Records without what they tell of: members, bridges' users, networks, rules, names, files of netavark.
#[test]
fn strays() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let [first, second] = LIVING;
        let living = world.start(second)?;
        let alone = world.snapshot()?;
        let own = world.config.join("netbackend");
        let path = |name: &str| own.join(name);
        // The record of a container is lost, and its namespace, too.
        let lost = world.start(first)?;
        fs::remove_file(path("containers/container21"))?;
        die(&world, lost)?;
        fs::create_dir_all(path("bridges/br9"))?;
        fs::write(path("bridges/br9/net9id"), "")?;
        fs::write(path("networks/net3id/members/container99"), "")?;
        let netavark = world.config.join("firewall");
        let network = json!({
            "subnets": ["10.9.0.0/24"], "bridge_name": "br8", "network_id": "net8id", "network_hash_name": "x",
            "isolation": "Never", "dns_port": 53, "internal": false,
        });
        fs::write(netavark.join("networks/net8id"), network.to_string())?;
        let ports = json!({
            "container_id": "c8", "network_id": "net8id", "port_mappings": null, "network_name": "net8",
            "network_hash_name": "x", "container_ip_v4": "10.9.0.2", "subnet_v4": "10.9.0.0/24", "container_ip_v6": null,
            "subnet_v6": null, "dns_port": 53, "dns_server_ips": ["10.9.0.1"],
        });
        fs::write(netavark.join("ports/net8id_c8"), ports.to_string())?;
        fs::write(
            world.config.join("aardvark-dns/net7"),
            "10.9.7.1\nc7 10.9.7.2  c7\n",
        )?;
        let mut found = lines(&gc(&world, &["--dry-run"])?)?;
        found.sort();
        assert_eq!(
            found,
            [
                "would remove container c8 of netavark on net8",
                "would remove container container21 on network net1id, without a record",
                "would remove container container99 on network net3id, without a record",
                "would remove names of net7",
                "would remove network net1 on br1, without containers",
                "would remove network net8id of netavark on br8",
                "would remove network net9id on br9, without a record",
            ]
        );
        lines(&gc(&world, &[])?)?;
        world.check_clean(&alone, "what nobody answers for is gone")?;
        world.check(&living)?;
        world.stop(living)?;
        world.check_clean(&before, "all have left")?;
        // Rules of nobody at all.
        host.sh("nft add table inet netavark; nft add chain inet netavark INPUT")?;
        fs::create_dir_all(&world.config)?;
        assert_eq!(lines(&gc(&world, &[])?)?, ["removed rules of no network"]);
        world.check_clean(&before, "no rules are left")
    });
}

/// An interface that no record tells of goes when nobody can come back to its other end, and not before.
#[test]
fn interfaces_without_a_record() {
    lab::run(|host| {
        let world = World::new(host)?;
        let living = world.start(LIVING[0])?;
        let alone = world.snapshot()?;
        let lost = world.start(DOOMED[0])?;
        let own = world.config.join("netbackend");
        fs::remove_file(own.join("containers/container11"))?;
        let lines_of = |words: &[&str]| lines(&gc(&world, words)?);
        assert_eq!(
            lines_of(&["--dry-run"])?,
            Vec::<String>::new(),
            "it is mounted"
        );
        // A mount that only another process sees.
        let kept = host.dir("kept")?.join("netns");
        fs::write(&kept, "")?;
        let script = format!(
            "mount --bind {} {}; exec sleep 600",
            lost.netns.path().display(),
            kept.display()
        );
        let mut keeper = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .spawn()?;
        let comm = format!("/proc/{}/comm", keeper.id());
        let sleeps = || fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n");
        ensure!(traffic::eventually(Duration::from_secs(5), sleeps));
        let socket = lost
            .netns
            .enter(|| Ok(std::net::UdpSocket::bind("127.0.0.1:0")?))?;
        drop(lost);
        assert_eq!(
            lines_of(&["--dry-run"])?,
            Vec::<String>::new(),
            "it is mounted elsewhere"
        );
        keeper.kill()?;
        keeper.wait()?;
        // Now just a socket keeps it, by which nobody gets in.
        let answers = RefCell::new(Vec::new());
        let removed = || {
            let lines = lines_of(&[]);
            let done = lines.as_ref().is_ok_and(|lines| {
                lines
                    .iter()
                    .any(|line| line.contains("veth1 on br1, without a record"))
            });
            answers.borrow_mut().push(lines);
            done
        };
        ensure!(
            traffic::eventually(Duration::from_secs(5), removed),
            "{answers:?}"
        );
        drop(socket);
        world.check_clean(&alone, "the interface is gone")?;
        world.check(&living)?;
        world.stop(living)
    });
}

/// What cannot be read is left alone, and so is what hangs on it.
#[test]
fn damaged_records() {
    lab::run(|host| {
        let world = World::new(host)?;
        let living = world.start(LIVING[0])?;
        let record = world.config.join("netbackend/containers/container21");
        let text = fs::read_to_string(&record)?;
        fs::write(&record, "{")?;
        let damaged = world.snapshot()?;
        let finished = gc(&world, &[])?;
        ensure!(
            finished.success() && finished.stdout.is_empty(),
            "{finished}"
        );
        world.check_same_as(&damaged, "a damaged record")?;
        fs::write(&record, text)?;
        world.stop(living)
    });
}

/// In the wrong namespace all looks dead.
#[test]
fn from_the_wrong_place() {
    lab::run(|host| {
        let world = World::new(host)?;
        let living = world.start(LIVING[0])?;
        let elsewhere = host.container("elsewhere")?;
        let before = world.snapshot()?;
        let call = |words: &[&str]| {
            Program::new(executable())
                .arg("--config")
                .arg(&world.config)
                .arg("gc")
                .args(words)
                .run_in(&elsewhere)
        };
        for words in [&[][..], &["--dry-run"]] {
            let text = error(&call(words)?)?;
            ensure!(
                text.starts_with(
                    "none of the bridges on record (br1) is in this network namespace"
                ),
                "{text}"
            );
        }
        world.check_same_as(&before, "another namespace")?;
        world.check(&living)?;
        ensure!(
            call(&["--dry-run", "--force"])?.stdout
                == "would remove container container21 on net1\n"
        );
        world.stop(living)
    });
}

/// The bridge that is there may be another engine's, of the same name.
#[test]
fn from_a_place_that_looks_alike() {
    lab::run(|host| {
        let world = World::new(host)?;
        let living = world.start(LIVING[0])?;
        let elsewhere = host.container("elsewhere")?;
        elsewhere.sh("ip link add br1 type bridge")?;
        let before = world.snapshot()?;
        for words in [&[][..], &["--dry-run"]] {
            let finished = Program::new(executable())
                .arg("--config")
                .arg(&world.config)
                .arg("gc")
                .args(words)
                .run_in(&elsewhere)?;
            let text = error(&finished)?;
            ensure!(
                text.starts_with(
                    "none of the containers on record has its interface in this network namespace"
                ) && text.contains("(container21)"),
                "{text}"
            );
        }
        ensure!(elsewhere.sh("ip link show br1")?.contains("br1"));
        world.check_same_as(&before, "a look from elsewhere")?;
        world.check(&living)?;
        world.stop(living)
    });
}

/// A container of a plugin lives as long as its namespace, wherever that is to be found.
#[test]
fn a_namespace_without_its_path() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let plugins = host.dir("plugins")?;
        let (plugin, log) = (plugins.join("p"), plugins.join("log"));
        let script = format!(
            "#!/bin/sh\ncat >/dev/null; echo $1 >>{}; echo '{{}}'\n",
            log.display()
        );
        fs::write(&plugin, script)?;
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
        let container = host.container("held")?;
        let holder = host.sh("ip netns exec held sleep 1000 >/dev/null 2>&1 & echo $!")?;
        let document = json!({
            "container_id": "held", "container_name": "held",
            "networks": {"net": {"interface_name": "eth0"}},
            "network_info": {"net": {
                "name": "net", "id": "a".repeat(64), "driver": "p",
                "internal": false, "ipv6_enabled": false, "dns_enabled": false,
            }},
        });
        let finished = Program::new(executable())
            .arg("--config")
            .arg(&world.config)
            .arg("--plugin-directory")
            .arg(&plugins)
            .arg("setup")
            .arg(container.path())
            .stdin(document.to_string())
            .run_in(host)?;
        ensure!(finished.success(), "{finished}");
        let entered = format!(
            "[ /proc/{0}/ns/net -ef /run/netns/held ] && echo yes || true",
            holder.trim()
        );
        ensure!(traffic::eventually(Duration::from_secs(10), || {
            host.sh(&entered).is_ok_and(|said| said == "yes\n")
        }));

        // Where it is not mounted, and then where nobody has it mounted.
        let look = format!(
            "unshare -m sh -c 'umount /run/netns/held; {} --config {} gc --dry-run'",
            executable(),
            world.config.display()
        );
        assert_eq!(host.sh(&look)?, "");
        drop(container);
        assert_eq!(lines(&gc(&world, &[])?)?, Vec::<String>::new());
        host.sh(&format!("kill {}", holder.trim()))?;
        let gone = traffic::eventually(Duration::from_secs(10), || {
            gc(&world, &["--dry-run"]).is_ok_and(|said| !said.stdout.is_empty())
        });
        ensure!(gone, "a container without a namespace lives");
        assert_eq!(lines(&gc(&world, &[])?)?, ["removed container held on net"]);
        assert_eq!(fs::read_to_string(&log)?, "setup\nteardown\n");
        world.check_clean(&before, "it is dead")
    });
}

/// One step fails, each in turn: the next call finds what is left.
#[test]
fn each_step_fails_once() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        for (number, after) in (0..400).flat_map(|number| [(number, false), (number, true)]) {
            let keeper = world.start(LIVING[0])?;
            let alone = world.snapshot()?;
            let doomed = start_all(&world, &DOOMED)?;
            die_all(&world, doomed)?;
            let fault = if after {
                Fault::After(number)
            } else {
                Fault::Before(number)
            };
            let outcome = world.gc(fault)?;
            if outcome.reached {
                outcome.is_injected()?;
            }
            lines(&gc(&world, &[])?)?;
            world.check_clean(&alone, &format!("{fault:?}"))?;
            world.check(&keeper)?;
            world.stop(keeper)?;
            world.check_clean(&before, &format!("{fault:?}, all have left"))?;
            if !outcome.reached {
                ensure!(number > 20, "only {number} steps");
                return Ok(());
            }
        }
        anyhow::bail!("there is no end to the steps")
    });
}

/// Killed at some time or other; the next call, of whatever kind, makes it good.
#[test]
fn killed() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let mut cut_short = 0;
        for round in 0..40_u64 {
            let keeper = world.start(LIVING[0])?;
            let alone = world.snapshot()?;
            let doomed = start_all(&world, &DOOMED)?;
            die_all(&world, doomed)?;
            let mut child = Command::new(executable())
                .arg("--config")
                .arg(&world.config)
                .arg(format!("--aardvark-binary={}", lab::dnsd().display()))
                .arg("gc")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()?;
            // Debug builds take some 100 ms for this.
            std::thread::sleep(Duration::from_micros(round * 3_000));
            child.kill()?;
            cut_short += u32::from(!child.wait()?.success());
            if round % 2 == 1 {
                // Somebody else's call comes first.
                let heir = world.start(Plain {
                    container: 31,
                    ..DOOMED[2]
                })?;
                world.check(&heir)?;
                world.stop(heir)?;
            }
            lines(&gc(&world, &[])?)?;
            world.check_clean(&alone, &format!("killed after {round} ticks"))?;
            world.check(&keeper)?;
            world.stop(keeper)?;
            world.check_clean(&before, "all have left")?;
        }
        ensure!(cut_short > 10, "only {cut_short} were killed");
        Ok(())
    });
}

/// Containers come and go while it runs again and again.
#[test]
fn beside_setups() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        std::thread::scope(|scope| -> Result<()> {
            let workers: Vec<_> = (0..3_u8)
                .map(|worker| {
                    let world = &world;
                    scope.spawn(move || -> Result<()> {
                        for round in 0..6_u8 {
                            let plain = Plain {
                                network: 1 + worker % 2,
                                container: 20 + 10 * worker + round,
                                // One that dies keeps its port until its namespace is gone.
                                port: 8100 + u16::from(10 * worker + round),
                                dns: worker == 0,
                            };
                            let living = world.start(plain)?;
                            world.check(&living)?;
                            if round % 3 == 2 {
                                drop(living); // dies
                            } else {
                                world.stop(living)?;
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            while !workers
                .iter()
                .all(std::thread::ScopedJoinHandle::is_finished)
            {
                lines(&gc(&world, &[])?)?;
            }
            for worker in workers {
                worker
                    .join()
                    .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            }
            Ok(())
        })?;
        let all_gone = || {
            host.sh("ip -o link show type veth")
                .is_ok_and(|links| links.lines().count() <= 1)
        };
        ensure!(traffic::eventually(Duration::from_secs(10), all_gone));
        lines(&gc(&world, &[])?)?;
        ensure!(!Path::new(&world.config).join("netbackend").exists());
        world
            .check_clean(&before, "all are gone")
            .context("in the end")
    });
}

impl World<'_> {
    /// Collects, by the library.
    fn gc(&self, fault: Fault) -> Result<crate::world::Outcome> {
        self.by_library(fault, async |mut host, injector| {
            let collected = sys::gc::collect(&mut host, false, async |host, step| {
                injector.perform(host, step).await
            })
            .await;
            sys::call::conclude(host).await;
            Ok(collected?.errors)
        })
    }
}
