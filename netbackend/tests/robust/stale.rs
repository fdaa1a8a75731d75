//! Things vanish or are damaged behind our back.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use test_fixtures::program::Finished;
use test_fixtures::traffic::{self, Protocol};

use crate::lab;
use crate::requests::Plain;
use crate::world::{Living, World};

const A: Plain = Plain {
    network: 1,
    container: 11,
    port: 8011,
    dns: false,
};
const B: Plain = Plain {
    network: 2,
    container: 12,
    port: 8012,
    dns: false,
};
const C: Plain = Plain {
    network: 3,
    container: 13,
    port: 8013,
    dns: false,
};

#[test]
fn the_port_of_a_dead_container_is_free() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let b = world.start(B)?;
        for same_network in [true, false] {
            die(&world, world.start(A)?)?;
            let network = if same_network { A.network } else { C.network };
            let heir = world.start(Plain {
                network,
                port: A.port,
                ..C
            })?;
            world.check(&heir)?;
            world.check(&b)?;
            let table = host.sh("nft list table inet netavark")?;
            ensure!(
                !table.contains(&A.address().to_string()),
                "the dead one is still there:\n{table}"
            );
            world.stop(heir)?;
        }
        world.stop(b)?;
        world.check_clean(&before, "all are gone")
    });
}

#[test]
fn a_dead_container_comes_again() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let b = world.start(B)?;
        die(&world, world.start(A)?)?;
        let again = world.start(A)?;
        world.check(&again)?;
        world.check(&b)?;
        world.stop(again)?;
        world.stop(b)?;
        world.check_clean(&before, "all are gone")
    });
}

/// The engine died with the container; its namespace lives a little longer than the new one's birth.
#[test]
fn a_container_comes_again_in_a_second_namespace() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let first = world.start(A)?;
        let second = host.container("second")?;
        world.good("setup", &A.document(), second.path())?;
        let _server = traffic::serve(
            &second,
            Protocol::Tcp,
            SocketAddr::new(A.address(), 80),
            "second",
        )?;
        let answer = world.who_answers(A.port)?;
        ensure!(answer == "second", "{answer} answers");
        ensure!(
            !first.netns.sh("ip link")?.contains("eth0"),
            "the first one is still attached"
        );
        world.good("teardown", &A.document(), second.path())?;
        world.check_clean(&before, "all are gone")
    });
}

#[test]
fn the_port_of_a_living_container_is_taken() {
    lab::run(|host| {
        let world = World::new(host)?;
        let a = world.start(A)?;
        let netns = host.container("c")?;
        for network in [A.network, C.network] {
            let rival = Plain {
                network,
                port: A.port,
                ..C
            };
            let before = world.snapshot()?;
            let failed = world.run("setup", rival.document(), netns.path())?;
            let message = error(&failed)?;
            for part in ["address already in use", &A.port.to_string(), &A.id()] {
                ensure!(message.contains(part), "no {part} in: {message}");
            }
            world.check_same_as(&before, "a refused setup")?;
            world.check(&a)?;
        }
        world.stop(a)
    });
}

#[test]
fn damaged_rules_are_repaired() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let (a, b) = (world.start(A)?, world.start(B)?);
        let sound = host.sh("nft --stateless list table inet netavark")?;
        let damages = [
            "nft delete table inet netavark",
            "nft flush table inet netavark",
            "nft flush ruleset",
            "nft flush chain inet netavark PREROUTING",
            "nft flush chain inet netavark FORWARD",
            "nft add element inet netavark publish4 '{ tcp . 8013 : 10.100.9.9 . 80 }' || true",
        ];
        for damage in damages {
            host.sh(damage).context("the damage itself")?;
            let c = world.start(C)?;
            for living in [&a, &b, &c] {
                world
                    .check(living)
                    .with_context(|| format!("after {damage} and a setup"))?;
            }
            host.sh(damage).context("the damage itself")?;
            world.stop(c).with_context(|| format!("after {damage}"))?;
            for living in [&a, &b] {
                world
                    .check(living)
                    .with_context(|| format!("after {damage} and a teardown"))?;
            }
            let table = host.sh("nft --stateless list table inet netavark")?;
            ensure!(
                table == sound,
                "after {damage}:\n{table}\ninstead of\n{sound}"
            );
        }
        world.stop(a)?;
        world.stop(b)?;
        world.check_clean(&before, "all are gone")
    });
}

/// That an element is missing is found out by the call that needs it; it repairs everything then.
#[test]
fn lost_elements_are_repaired() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let b = world.start(B)?;
        let sound = host.sh("nft --stateless list table inet netavark")?;
        let damages = [
            "nft flush map inet netavark publish4",
            "nft flush map inet netavark forward_from",
            "nft flush map inet netavark outbound4",
            "nft delete element inet netavark publish4 '{ tcp . 8011 }'",
            "nft delete element inet netavark bridges '{ br1 }'",
            "nft flush set inet netavark bridges; nft flush set inet netavark own; nft flush set inet netavark subnets4",
        ];
        for damage in damages {
            let a = world.start(A)?;
            host.sh(damage).context("the damage itself")?;
            // Calls about others do no harm.
            let c = world.start(C).with_context(|| format!("after {damage}"))?;
            world.check(&c)?;
            world.stop(a).with_context(|| format!("after {damage}"))?;
            for living in [&b, &c] {
                world
                    .check(living)
                    .with_context(|| format!("after {damage} and a teardown"))?;
            }
            world.stop(c)?;
            let table = host.sh("nft --stateless list table inet netavark")?;
            ensure!(
                table == sound,
                "after {damage}:\n{table}\ninstead of\n{sound}"
            );
        }
        world.stop(b)?;
        world.check_clean(&before, "all are gone")
    });
}

/// Nobody has to be clever about a damaged record: a clear error will do. But others must not suffer.
#[test]
fn damaged_records_harm_nobody_else() {
    lab::run(|host| {
        let world = World::new(host)?;
        let before = world.snapshot()?;
        let (a, b) = (world.start(A)?, world.start(B)?);
        let own = world.config.join("netbackend");
        let records = [
            own.join("containers").join(A.id()),
            own.join("networks/net1id/network"),
            own.join("journal"),
            own.join("new"),
            world.config.join("firewall/networks/net1id"),
            world
                .config
                .join("firewall/ports")
                .join(format!("net1id_{}", A.id())),
            world.config.join("firewall/firewall-driver"),
        ];
        for record in &records {
            damage(&world, record, [&a, &b]).with_context(|| record.display().to_string())?;
        }
        world.stop(a)?;
        world.stop(b)?;
        world.check_clean(&before, "all are gone")
    });
}

fn damage(world: &World<'_>, record: &PathBuf, living: [&Living; 2]) -> Result<()> {
    let good = fs::read(record).ok();
    let half = good
        .as_ref()
        .map_or(&b"{\"version\":1,\"act"[..], |text| &text[..text.len() / 2]);
    let contents = [
        &b""[..],
        b"garbage",
        b"[]",
        b"null",
        b"{\"version\":99}",
        b"{\"version\":1}",
        b"{\"version\":-1}",
        b"\0\xff\xfe",
        half,
    ];
    let netns = world.host.container("c")?;
    for (content, rebuild) in contents
        .iter()
        .flat_map(|content| [(content, false), (content, true)])
    {
        fs::write(record, content)?;
        if rebuild {
            world.host.sh("nft flush chain inet netavark INPUT")?;
        }
        let what = format!("{:?}, rebuild {rebuild}", String::from_utf8_lossy(content));
        for verb in ["setup", "teardown"] {
            let finished = world.run(verb, C.document(), netns.path())?;
            if !finished.success() {
                let message = error(&finished).with_context(|| what.clone())?;
                ensure!(
                    message.contains(&record.display().to_string()),
                    "{what}: which file? {message}"
                );
            }
            for living in living {
                world
                    .check(living)
                    .with_context(|| format!("{what}: after {verb}"))?;
            }
        }
        match &good {
            Some(good) => fs::write(record, good)?,
            None => fs::remove_file(record)
                .or_else(|error| if record.exists() { Err(error) } else { Ok(()) })?,
        }
        world
            .good("teardown", &C.document(), netns.path())
            .context(what)?;
    }
    Ok(())
}

#[test]
fn containers_of_netavark_keep_their_ports() {
    lab::run(|host| {
        let world = World::new(host)?;
        let theirs = host.container("theirs")?;
        host.sh(
            "ip link add nv0 type bridge; ip addr add 10.101.0.1/24 dev nv0; ip link set nv0 up
             ip link add vnv0 type veth peer name eth0 netns theirs; ip link set vnv0 master nv0 up",
        )?;
        theirs.sh("ip addr add 10.101.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.101.0.1")?;
        let _server = traffic::serve(&theirs, Protocol::Tcp, "10.101.0.2:80".parse()?, "theirs")?;
        netavark_state(&world.config)?;

        let a = world.start(A)?;
        for damage in [
            "true",
            "nft delete table inet netavark",
            "nft flush ruleset",
        ] {
            host.sh(damage)?;
            let b = world.start(B)?;
            for (port, expected) in [(8100, "theirs"), (A.port, &A.id()), (B.port, &B.id())] {
                let answer = world
                    .who_answers(port)
                    .with_context(|| format!("after {damage}"))?;
                ensure!(
                    answer == expected,
                    "{answer} answers for {expected} after {damage}"
                );
            }
            world.stop(b)?;
            let answer = world.who_answers(8100)?;
            ensure!(answer == "theirs", "{answer} answers after a teardown");
        }
        world.stop(a)?;
        let answer = world.who_answers(8100)?;
        ensure!(
            answer == "theirs",
            "{answer} answers when only theirs is left"
        );
        let driver = fs::read_to_string(world.config.join("firewall/firewall-driver"))?;
        ensure!(!driver.is_empty(), "what netavark needs is gone");
        Ok(())
    });
}

/// Their containers end by us; and what they left of a dead one is in nobody's way.
#[test]
fn containers_of_netavark_end() {
    lab::run(|host| {
        let world = World::new(host)?;
        netavark_state(&world.config)?;
        let a = world.start(A)?;
        let published = || host.sh("nft list map inet netavark publish4");
        ensure!(published()?.contains("8100"), "theirs is not there");
        let taking_over = Plain { port: 8100, ..B };
        let b = world.start(taking_over)?;
        world.check(&b)?;
        world.stop(b)?;

        let theirs = C.document().replace(&C.id(), "theirs");
        let theirs = theirs.replace(&format!("net{}id", C.network), "nvid");
        let gone = host.container("gone")?;
        world.good("teardown", &theirs, gone.path())?;
        let rules = host.sh("nft list table inet netavark")?;
        ensure!(!rules.contains("8100") && !rules.contains("nv0"), "{rules}");
        let files = host.sh(&format!("find {} -name 'nvid*'", world.config.display()))?;
        ensure!(files.is_empty(), "{files}");
        world.check(&a)?;
        world.stop(a)
    });
}

fn netavark_state(config: &Path) -> Result<()> {
    let firewall = config.join("firewall");
    for directory in ["networks", "ports"] {
        fs::create_dir_all(firewall.join(directory))?;
    }
    fs::write(firewall.join("firewall-driver"), "iptables")?;
    let network = json!({
        "subnets": ["10.101.0.0/24"],
        "bridge_name": "nv0",
        "network_id": "nvid",
        "network_hash_name": "1D8721804F16F",
        "isolation": "Never",
        "dns_port": 53,
        "internal": false
    });
    fs::write(firewall.join("networks/nvid"), network.to_string())?;
    let ports = json!({
        "container_id": "theirs",
        "network_id": "nvid",
        "port_mappings": [{ "host_ip": "", "host_port": 8100, "container_port": 80, "protocol": "tcp", "range": 1 }],
        "network_name": "nv",
        "network_hash_name": "1D8721804F16F",
        "container_ip_v4": "10.101.0.2",
        "subnet_v4": "10.101.0.0/24",
        "container_ip_v6": null,
        "subnet_v6": null,
        "dns_port": 53,
        "dns_server_ips": ["10.101.0.1"],
        "internal": false
    });
    fs::write(firewall.join("ports/nvid_theirs"), ports.to_string())?;
    Ok(())
}

/// A container ends and takes its namespace with it; nobody calls teardown.
pub(crate) fn die(world: &World<'_>, living: Living) -> Result<()> {
    let count = || world.host.sh("ip -o link show type veth | wc -l");
    let before = count()?;
    drop(living);
    let gone = traffic::eventually(Duration::from_secs(10), || {
        count().is_ok_and(|now| now != before)
    });
    ensure!(gone, "the namespace does not end");
    Ok(())
}

/// The message of a call that failed as calls should.
pub(crate) fn error(finished: &Finished) -> Result<String> {
    ensure!(finished.code() == Some(1), "{finished}");
    ensure!(!finished.stderr.contains("panicked"), "{finished}");
    let document: serde_json::Value =
        serde_json::from_str(&finished.stdout).with_context(|| finished.to_string())?;
    Ok(document["error"]
        .as_str()
        .with_context(|| finished.to_string())?
        .to_owned())
}
