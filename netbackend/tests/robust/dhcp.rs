//! Leases: calls, proxies and servers fail at all moments, and no lease is lost or left.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_fixtures::netns::Netns;
use test_fixtures::recording::{self, Call};
use test_fixtures::traffic::eventually;

use crate::faults::{Company, Replay};
use crate::gc::gc;
use crate::kills::{Victim, random_moments_of};
use crate::lab::{self, Host};
use crate::lan::{Lan, PROXY_DIR, SOON, Wire};
use crate::mutator::Random;
use crate::world::{World, executable};

/// Renewals within seconds, and a second way to have them: what is lost under load is asked for once more by then.
const QUICK: [&str; 2] = [
    "--dhcp-option-force=option:T1,5",
    "--dhcp-option-force=option:T2,10",
];

/// How often each of the tests with random moments kills.
const KILLS: u32 = 20;

/// Answers that say that an address is leased, of both families, do not leave the server.
const DEAF: &str = "nft -f - <<end
    table inet deaf {
        chain out {
            type filter hook output priority 0
            udp sport 67 @th,1984,24 0x350105 drop
            udp sport 547 @th,64,8 7 drop
        }
    }\nend";

/// The recorded request for an address by DHCP, as another container.
fn document(id: &str, both_families: bool) -> Result<String> {
    let calls = recording::calls("macvlandhcp")?;
    let mut document = calls.first().context("a call")?.request()?;
    document["container_id"] = json!(id);
    document["network_info"]["mv3"]["ipv6_enabled"] = json!(both_families);
    Ok(document.to_string())
}

impl Lan<'_> {
    /// Neither the server nor the proxy has a lease in the end but these.
    pub(crate) fn has_but(&self, expected: &[String]) -> Result<()> {
        let is_so = || {
            let kept = self.kept();
            let on_record: usize = kept
                .as_object()
                .map(|all| all.values().filter_map(Value::as_array).map(Vec::len).sum())
                .unwrap_or_default();
            let mut leased = self.leased();
            leased.sort();
            leased == expected
                && on_record == expected.len()
                && expected
                    .iter()
                    .all(|address| kept.to_string().contains(address))
        };
        ensure!(
            eventually(SOON, is_so),
            "leased {:?}, on record {}, expected {expected:?}\n{}",
            self.leased(),
            self.kept(),
            self.log("proxy.log")
        );
        Ok(())
    }
}

/// A call of the executable under way.
fn begin(
    world: &World<'_>,
    verb: &str,
    document: &str,
    netns: &Path,
) -> Result<std::process::Child> {
    let input = world.host.dir("input")?.join("document");
    fs::write(&input, document)?;
    let mut command = Command::new(executable());
    command
        .args(world.arguments(verb, netns))
        .stdin(fs::File::open(input)?)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().context("start the program")
}

/// Nothing but the loopback interface is in the container.
fn is_bare(netns: &Netns, what: &str) -> Result<()> {
    let inside = netns.sh("ip -o link; ip route show table all type unicast")?;
    ensure!(inside.lines().count() == 1, "{what}: left inside: {inside}");
    Ok(())
}

fn every_step_of_calls_fails(host: &Host, wire: Wire, document: &str) -> Result<()> {
    let lan = Lan::new(host, wire, &[])?;
    let world = World::new(host)?;
    let before = world.snapshot()?;
    let call = |name| Call::made_up(name, "faulty", document.to_owned());
    let calls = [call("01-setup"), call("02-teardown")];
    Replay::new(&world, &calls)?.run(Company::None)?;
    world.check_clean(&before, "at the end")?;
    lan.has_but(&[])
}

#[test]
fn every_step_fails() {
    lab::run(|host| every_step_of_calls_fails(host, Wire::Parent, &document("faulty", false)?));
}

#[test]
fn every_step_fails_on_a_bridge() {
    lab::run(|host| {
        let mut bridged: Value = serde_json::from_str(&document("faulty", false)?)?;
        let network = &mut bridged["network_info"]["mv3"];
        network["driver"] = json!("bridge");
        network["network_interface"] = json!("br1");
        network["options"] = json!({"mode": "unmanaged"});
        every_step_of_calls_fails(host, Wire::Bridge, &bridged.to_string())
    });
}

#[test]
fn calls_are_killed() {
    lab::run(|host| {
        let lan = Lan::new(host, Wire::Parent, &[])?;
        let victim = Victim::of(host, document("victim", false)?)?;
        random_moments_of(&victim, "dhcp", 9, KILLS)?;
        lan.has_but(&[])?;
        victim.end()
    });
}

#[test]
fn calls_for_both_families_are_killed() {
    lab::run(|host| {
        let lan = Lan::new(host, Wire::Parent, &[])?;
        let victim = Victim::of(host, document("victim", true)?)?;
        random_moments_of(&victim, "dhcp", 10, KILLS / 2)?;
        lan.has_but(&[])?;
        victim.end()
    });
}

/// The proxy dies at any moment of calls for one container, while it holds the lease of another one.
fn the_proxy_is_killed(host: &Host, verb: &str, both_families: bool, seed: u64) -> Result<()> {
    let mut lan = Lan::new(host, Wire::Parent, &QUICK)?;
    let world = World::new(host)?;
    let alive = host.container("alive")?;
    world.good("setup", &document("alive", both_families)?, alive.path())?;
    let living = addresses(&lan, "alive");
    let (netns, document) = (
        host.container("victim")?,
        document("victim", both_families)?,
    );
    let begun = Instant::now();
    world.good("setup", &document, netns.path())?;
    let usual = begun.elapsed();
    world.good("teardown", &document, netns.path())?;
    let usual = if verb == "setup" {
        usual
    } else {
        Duration::from_millis(50)
    };
    let mut random = Random::new(seed);
    let mut failures = 0;
    for number in 0..KILLS {
        let part = usual / KILLS;
        let delay = part * number + part * u32::try_from(random.below(1000))? / 1000;
        let what = format!("{verb}, proxy killed after {delay:?}");
        if verb == "teardown" {
            world.good("setup", &document, netns.path())?;
        }
        let mut call = begin(&world, verb, &document, netns.path())?;
        std::thread::sleep(delay);
        lan.kill_proxy()?;
        // Half of the next state, as of one that died while it wrote.
        fs::write(Path::new(PROXY_DIR).join("nv-proxy.lease.new"), "{\"0a:0")?;
        let done = call.wait()?.success();
        lan.start_proxy(&[])?;
        if verb == "setup" && done {
            world.good("teardown", &document, netns.path())?;
        }
        // Whoever detaches cannot do more than tell a proxy, and need not be told that there is none.
        ensure!(verb == "setup" || done, "{what}: failed");
        failures += u32::from(!done);
        is_bare(&netns, &what)?;
        lan.has_but(&living).context(what)?;
    }
    ensure!(
        verb == "teardown" || failures > KILLS / 4,
        "the proxy has died in vain: {failures}"
    );
    let renewed = lan.granted();
    ensure!(
        eventually(SOON, || lan.granted() > renewed),
        "nobody renews"
    );
    let inside = alive.sh("ip -oneline addr show eth0 scope global")?;
    for address in &living {
        ensure!(inside.contains(address), "{address} is lost: {inside}");
    }
    Ok(())
}

#[test]
fn the_proxy_is_killed_at_setup() {
    lab::run(|host| the_proxy_is_killed(host, "setup", false, 11));
}

#[test]
fn the_proxy_is_killed_at_setup_of_both_families() {
    lab::run(|host| the_proxy_is_killed(host, "setup", true, 12));
}

#[test]
fn the_proxy_is_killed_at_teardown() {
    lab::run(|host| the_proxy_is_killed(host, "teardown", false, 13));
}

/// The server has leased what nobody has heard of.
#[test]
fn an_answer_that_is_lost_leaves_no_lease() {
    lab::run(|host| {
        let mut lan = Lan::new(host, Wire::Parent, &[])?;
        let world = World::new(host)?;
        let (netns, document) = (host.container("c1")?, document("c1", true)?);
        let before = world.snapshot()?;
        lan.server.sh(DEAF)?;
        // The proxy dies before it hears.
        let mut call = begin(&world, "setup", &document, netns.path())?;
        ensure!(
            eventually(SOON, || lan.leased().len() == 2),
            "{}",
            lan.log("proxy.log")
        );
        ensure!(
            lan.kept().to_string().contains("unconfirmed"),
            "{}",
            lan.kept()
        );
        lan.kill_proxy()?;
        ensure!(!call.wait()?.success(), "there is an address");
        assert_eq!(lan.leased().len(), 2);
        lan.start_proxy(&[])?;
        lan.has_but(&[])?;
        // It gives up.
        ensure!(
            !world
                .run("setup", document.as_str(), netns.path())?
                .success()
        );
        lan.has_but(&[])?;
        // Its caller dies.
        let mut call = begin(&world, "setup", &document, netns.path())?;
        ensure!(
            eventually(SOON, || lan.leased().len() == 2),
            "{}",
            lan.log("proxy.log")
        );
        call.kill()?;
        call.wait()?;
        lan.has_but(&[])?;
        lan.server.sh("nft delete table inet deaf")?;
        world.good("setup", &document, netns.path())?;
        world.good("teardown", &document, netns.path())?;
        lan.has_but(&[])?;
        world.check_clean(&before, "at the end")
    });
}

/// The proxy is away while a container is detached from its network, and the namespace stays.
#[test]
fn a_lease_goes_with_its_interface() {
    lab::run(|host| {
        let mut lan = Lan::new(host, Wire::Parent, &[])?;
        let world = World::new(host)?;
        let (netns, document) = (host.container("c1")?, document("c1", true)?);
        world.good("setup", &document, netns.path())?;
        lan.kill_proxy()?;
        world.good("teardown", &document, netns.path())?;
        assert_eq!(lan.leased().len(), 2);
        lan.start_proxy(&[])?;
        lan.has_but(&[])?;
        // The same, and another interface has its name by then.
        world.good("setup", &document, netns.path())?;
        lan.kill_proxy()?;
        world.good("teardown", &document, netns.path())?;
        netns.sh(
            "ip link add eth0 type veth peer name other; ip link set eth0 up; ip link set other up",
        )?;
        lan.start_proxy(&[])?;
        lan.has_but(&[])?;
        netns.sh("ip link del eth0")?;
        // The same without the proxy's death: the engine crashed, and its next attempt has another interface.
        world.good("setup", &document, netns.path())?;
        let first = lan.leased();
        netns.sh("ip link del eth0")?;
        fs::remove_dir_all(world.config.join("netbackend"))?;
        world.good("setup", &document, netns.path())?;
        let second = lan.leased();
        assert_eq!(second.len(), 2, "{first:?}, then {second:?}");
        lan.has_but(&second)?;
        let inside = netns.sh("ip -oneline addr show eth0 scope global")?;
        for address in &second {
            ensure!(inside.contains(address), "{inside}");
        }
        world.good("teardown", &document, netns.path())?;
        lan.has_but(&[])
    });
}

/// A file that is no file of leases is put aside, whatever is in it, and the proxy works.
#[test]
fn a_damaged_file_of_leases_is_put_aside() {
    lab::run(|host| {
        let mut lan = Lan::new(host, Wire::Parent, &QUICK)?;
        let world = World::new(host)?;
        let (netns, document) = (host.container("c1")?, document("c1", false)?);
        world.good("setup", &document, netns.path())?;
        let path = Path::new(PROXY_DIR).join("nv-proxy.lease");
        let aside = path.with_extension("lease.damaged");
        let whole = fs::read(&path)?;
        let cuts = [1, whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec());
        for damaged in cuts.into_iter().chain([vec![0xff; 10], b"[]".to_vec()]) {
            lan.kill_proxy()?;
            fs::write(&path, &damaged)?;
            lan.start_proxy(&[])?;
            assert_eq!(fs::read(&aside)?, damaged);
            fs::remove_file(&aside)?;
            assert_eq!(lan.kept(), json!({}));
        }
        // A damaged lease takes no other one with it, nor does what a dead writer left.
        lan.kill_proxy()?;
        let mut file: Value = serde_json::from_slice(&whole)?;
        file["02:00:00:00:00:09"] = json!([7, {"netbackend": 7}]);
        fs::write(&path, format!("\0\0{file}"))?;
        fs::write(path.with_extension("lease.new"), &whole[..9])?;
        let granted = lan.granted();
        lan.start_proxy(&[])?;
        ensure!(
            eventually(SOON, || lan.granted() > granted + 1),
            "{}",
            lan.log("proxy.log")
        );
        ensure!(!aside.exists());
        world.good("teardown", &document, netns.path())?;
        lan.has_but(&[])
    });
}

/// Containers that die or lose their interface while no proxy runs, and one that lives.
fn leave_leases(lan: &mut Lan<'_>, world: &World<'_>) -> Result<(Netns, Netns, Vec<String>)> {
    let [dead, bare, alive] = ["dead", "bare", "alive"].map(|name| {
        let netns = lan.host.container(name)?;
        world.good("setup", &document(name, true)?, netns.path())?;
        anyhow::Ok((netns, addresses(lan, name)))
    });
    let ((dead, _), (bare, _), (alive, living)) = (dead?, bare?, alive?);
    lan.kill_proxy()?;
    drop(dead);
    bare.sh("ip link del eth0")?;
    assert_eq!(lan.leased().len(), 6);
    Ok((bare, alive, living))
}

/// The addresses that the proxy has on record for a container.
fn addresses(lan: &Lan<'_>, container: &str) -> Vec<String> {
    let kept = lan.kept();
    let all = kept.as_object().into_iter().flat_map(|all| all.values());
    let all = all.filter_map(Value::as_array).flatten();
    let own = all.filter(|lease| lease["netbackend"]["config"]["container_id"] == container);
    let mut own: Vec<_> = own
        .filter_map(|lease| lease["yiaddr"].as_str())
        .map(str::to_owned)
        .collect();
    own.sort();
    own
}

#[test]
fn leases_of_dead_containers_are_collected() {
    lab::run(|host| {
        let mut lan = Lan::new(host, Wire::Parent, &QUICK)?;
        let world = World::new(host)?;
        let (bare, _alive, living) = leave_leases(&mut lan, &world)?;
        let leases = |finished: &test_fixtures::program::Finished| -> Result<usize> {
            ensure!(finished.success(), "{finished}");
            let lines = finished.stdout.lines();
            Ok(lines.filter(|line| line.contains("lease of")).count())
        };
        let (record, leased) = (lan.kept(), lan.leased());
        assert_eq!(leases(&gc(&world, &["--dry-run"])?)?, 4);
        assert_eq!((lan.kept(), lan.leased()), (record, leased));
        assert_eq!(leases(&gc(&world, &[])?)?, 4);
        lan.has_but(&living)?;
        assert_eq!(leases(&gc(&world, &[])?)?, 0);
        ensure!(!crate::lan::socket().exists(), "a socket is left");
        // The one that lives is gone on with.
        let granted = lan.granted();
        lan.start_proxy(&[])?;
        ensure!(
            eventually(SOON, || lan.granted() > granted + 1),
            "{}",
            lan.log("proxy.log")
        );
        lan.has_but(&living)?;
        // A proxy that runs is told.
        world.good("setup", &document("other", true)?, bare.path())?;
        assert_eq!(leases(&gc(&world, &[])?)?, 0);
        bare.sh("ip link del eth0")?;
        assert_eq!(leases(&gc(&world, &[])?)?, 2);
        lan.has_but(&living)
    });
}

#[test]
fn a_collector_that_is_killed_is_followed_by_another() {
    lab::run(|host| {
        let mut lan = Lan::new(host, Wire::Parent, &[])?;
        let world = World::new(host)?;
        let netns = host.container("victim")?;
        let document = document("victim", false)?;
        let mut random = Random::new(14);
        for number in 0..KILLS / 2 {
            world.good("setup", &document, netns.path())?;
            lan.kill_proxy()?;
            netns.sh("ip link del eth0")?;
            let mut collector = Command::new(executable())
                .arg("--config")
                .arg(&world.config)
                .arg("gc")
                .stdout(Stdio::null())
                .spawn()?;
            std::thread::sleep(Duration::from_millis(random.below(40).try_into()?));
            collector.kill()?;
            collector.wait()?;
            let finished = gc(&world, &[])?;
            ensure!(finished.success(), "{finished}");
            lan.has_but(&[])
                .with_context(|| format!("after {number}"))?;
            lan.start_proxy(&[])?;
            world.good("teardown", &document, netns.path())?;
        }
        Ok(())
    });
}
