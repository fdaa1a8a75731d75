//! `inspect` tells what the kernel has, part by part.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab;
use crate::scene::{Network, Request, Scene, error, reply};

fn look(scene: &Scene<'_>, words: &[&str]) -> Result<Value> {
    reply(&asked(scene, words).run_in(scene.host)?)
}

fn asked(scene: &Scene<'_>, words: &[&str]) -> test_fixtures::program::Program {
    crate::scene::netbackend()
        .arg("--config")
        .arg(&scene.config)
        .args(["inspect", "--json"])
        .args(words)
}

/// Every part of the document that is not there, by the place it is in and its state.
fn amiss(found: &Value) -> Vec<String> {
    let mut amiss = Vec::new();
    let parts = |name: &Value, parts: &Value| {
        let parts = parts.as_array().cloned().unwrap_or_default();
        let bad = parts.into_iter().filter(|part| part["state"] != "there");
        let name = name.as_str().unwrap_or_default().to_owned();
        let line = |part: Value| {
            let text = |key: &str| part[key].as_str().unwrap_or_default().to_owned();
            format!("{name}: {} {}", text("part"), text("state"))
        };
        bad.map(line).collect::<Vec<_>>()
    };
    for network in found["networks"].as_array().into_iter().flatten() {
        amiss.extend(parts(&network["name"], &network["parts"]));
    }
    for container in found["containers"].as_array().into_iter().flatten() {
        for on in container["attachments"].as_array().into_iter().flatten() {
            amiss.extend(parts(&container["name"], &on["parts"]));
        }
    }
    amiss
}

#[test]
fn what_setup_made_is_there_and_what_breaks_is_named() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let _outside = host.outside()?;
        let (one, two) = (host.container("one")?, host.container("two")?);
        let (front, back) = (Network::new(1).dns(), Network::v4(2).internal());
        let web = Request::new("web")
            .on(&front, 2)
            .on(&back, 2)
            .publish("", 8080, 80, "tcp");
        let status = scene.setup(&one, &web)?;
        scene.setup(&two, &Request::new("db").on(&back, 3))?;

        let found = look(&scene, &[])?;
        ensure!(amiss(&found).is_empty(), "{found:#}");
        ensure!(found["uplink"]["interface"] == "uplink", "{found:#}");
        let container = &found["containers"][1];
        ensure!(container["name"] == "web", "{container:#}");
        let on = &container["attachments"][0];
        let mac = &status["net1"]["interfaces"]["eth0"]["mac_address"];
        ensure!(on["mac"] == *mac && mac.is_string(), "{on:#} {mac}");
        ensure!(
            on["names"][0] == "web" && on["ports"][0]["host_port"] == 8080,
            "{on:#}"
        );
        ensure!(look(&scene, &["db"])?["networks"].as_array().map(Vec::len) == Some(1));

        host.sh("nft flush chain inet netavark FORWARD; ip link set br2 down; ip addr del 10.70.1.1/24 dev br1")?;
        one.sh("ip addr del 10.70.1.2/24 dev eth0")?;
        two.sh("ip link del eth0")?;
        let found = look(&scene, &[])?;
        for expected in [
            "net1: gateway 10.70.1.1 missing",
            "net1: rules of the network missing",
            "net2: bridge br2 wrong",
            "web: address 10.70.1.2/24 missing",
            "web: published ports missing",
            "db: interface eth0 of the container missing",
        ] {
            ensure!(
                amiss(&found).iter().any(|line| line == expected),
                "{expected}: {found:#}"
            );
        }
        Ok(())
    });
}

/// Elements are looked for one by one.
#[test]
fn a_port_that_somebody_took_is_missed() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let one = host.container("one")?;
        let web = Request::new("web").on(&Network::v4(1), 2);
        scene.setup(
            &one,
            &web.publish("", 8080, 80, "tcp")
                .publish("", 8081, 81, "udp"),
        )?;
        let tables = host.sh("nft list table inet netavark")?;
        let map = tables
            .split("map ")
            .find(|map| map.contains("tcp . 8080"))
            .and_then(|map| map.split_whitespace().next())
            .context("a map of published ports")?;
        host.sh(&format!(
            "nft delete element inet netavark {map} '{{ tcp . 8080 }}'"
        ))?;
        let found = look(&scene, &["web"])?;
        let part = &found["containers"][0]["attachments"][0]["parts"];
        ensure!(
            amiss(&found) == ["web: published ports missing"],
            "{part:#}"
        );
        ensure!(
            part.to_string().contains("1 of 2 elements are missing"),
            "{part:#}"
        );
        Ok(())
    });
}

/// A look at a host without anything, and at something that is not there. Nothing is made.
#[test]
fn nothing_on_record_is_no_error() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let found = look(&scene, &[])?;
        ensure!(found["networks"] == serde_json::json!([]), "{found}");
        let text = error(&asked(&scene, &["web"]).run_in(host)?)?;
        ensure!(text.contains("\"web\": nothing is on record"), "{text}");
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// A drawing in a file, and a graph of what is really there.
#[test]
fn a_picture_of_two_containers() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (one, two) = (host.container("one")?, host.container("two")?);
        let (front, back) = (Network::new(1), Network::v4(2).internal());
        let web = Request::new("web")
            .set("container_name", "web<&>")
            .on(&front, 2)
            .on(&back, 2);
        scene.setup(&one, &web.publish("", 8080, 80, "tcp"))?;
        scene.setup(&two, &Request::new("db").on(&back, 3))?;
        let draw = |words: &[&str]| {
            let program = crate::scene::netbackend()
                .arg("--config")
                .arg(&scene.config);
            program.arg("topology").args(words).run_in(host)
        };
        let path = host.dir("pictures")?.join("host.svg");
        let finished = draw(&["-o", &path.display().to_string()])?;
        ensure!(
            finished.success() && finished.stdout.is_empty(),
            "{finished}"
        );
        let drawn = std::fs::read_to_string(path)?;
        for part in [
            "<svg ",
            ">web&lt;&amp;&gt;<",
            ">8080→80/tcp<",
            ">internal<",
            ">bridge br1<",
            ">10.70.2.0/24<",
        ] {
            ensure!(drawn.contains(part), "{part}: {drawn}");
        }
        ensure!(!drawn.contains("class=\"alarm\""), "{drawn}");
        let graph = reply(&draw(&["--format", "json"])?)?;
        ensure!(
            graph["nodes"].as_array().map(Vec::len) == Some(5),
            "{graph:#}"
        );
        let chart = draw(&["--format", "mermaid", "db"])?;
        ensure!(
            chart.stdout.contains("net2") && !chart.stdout.contains("net1"),
            "{chart}"
        );
        let failed = error(&draw(&["-o", "/nowhere/x.svg"])?)?;
        ensure!(
            failed.contains("write /nowhere/x.svg: IO error: No such file"),
            "{failed}"
        );
        Ok(())
    });
}
