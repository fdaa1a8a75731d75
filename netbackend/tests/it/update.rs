//! `update`: other DNS servers for a network whose containers run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_fixtures::netns::Netns;
use test_fixtures::program::Finished;

use crate::lab;
use crate::scene::{Network, Request, Scene, error, netbackend, silent};
use crate::traffic::eventually;

/// A responder that does nothing but write down each signal to read its files again.
const LISTENER: &str = r#"#!/bin/sh
sh -c 'trap "echo reload >>/run/lab/reloads" HUP
       printf %s $$ >"$1/aardvark.pid"
       while [ -e "$1/aardvark.pid" ]; do sleep 0.02; done' responder "$2" </dev/null >/dev/null 2>&1 &
while ! [ -s "$2/aardvark.pid" ]; do sleep 0.02; done
"#;

fn with_listener<'a>(host: &'a lab::Host) -> Result<Scene<'a>> {
    let mut scene = Scene::new(host)?;
    scene.aardvark = host.dir("bin")?.join("aardvark-dns");
    fs::write(&scene.aardvark, LISTENER)?;
    fs::set_permissions(&scene.aardvark, fs::Permissions::from_mode(0o755))?;
    Ok(scene)
}

fn reloads() -> usize {
    fs::read_to_string("/run/lab/reloads").map_or(0, |text| text.lines().count())
}

fn update(scene: &Scene<'_>, from: &Netns, words: &[&str]) -> Result<Finished> {
    netbackend()
        .arg("--config")
        .arg(&scene.config)
        .arg(format!("--aardvark-binary={}", scene.aardvark.display()))
        .arg("update")
        .args(words)
        .stdin("null\n")
        .run_in(from)
}

fn zone(scene: &Scene<'_>, name: &str) -> Result<String> {
    let path = scene.config.join("aardvark-dns").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Each change is told, that to no servers and one that changes nothing, too; from any namespace, for internal networks
/// as well. The rest of the file stays.
#[test]
fn every_change_is_told() {
    lab::run(|host| {
        let scene = with_listener(host)?;
        let elsewhere = host.container("elsewhere")?;
        let cases = [
            (Network::new(1).dns(), "net1", "10.70.1.1,fd70:1::1"),
            (
                Network::new(2).dns().internal(),
                "net2%int",
                "10.70.2.1,fd70:2::1",
            ),
        ];
        for (network, file, listen) in cases {
            let name = network.name();
            let container = host.container(&name)?;
            let request = Request::new(&name).on(&network, 2);
            scene.setup(&container, &request)?;
            let entries = zone(&scene, file)?
                .split_once('\n')
                .map(|(_, entries)| entries.to_owned());
            let lists: &[(&[&str], &str)] = &[
                (&["1.1.1.1,8.8.8.8"], " 1.1.1.1,8.8.8.8"),
                (&["9.9.9.9", "2620:fe::fe"], " 9.9.9.9,2620:fe::fe"),
                (&["9.9.9.9", "2620:fe::fe"], " 9.9.9.9,2620:fe::fe"),
                (&[""], ""),
                (&[""], ""),
            ];
            for (values, column) in lists {
                let told = reloads();
                let mut words = vec![name.as_str()];
                for value in *values {
                    words.extend(["--network-dns-servers", value]);
                }
                silent(&update(&scene, &elsewhere, &words)?)?;
                let text = zone(&scene, file)?;
                assert_eq!(
                    text.split_once('\n'),
                    Some((
                        format!("{listen}{column}").as_str(),
                        entries.as_deref().unwrap_or_default()
                    ))
                );
                ensure!(
                    eventually(Duration::from_secs(20), || reloads() == told + 1),
                    "{values:?}: told {} times before, {} now",
                    told,
                    reloads()
                );
            }
            scene.teardown(&container, &request)?;
        }
        Ok(())
    });
}

/// What cannot be is refused with its value, and the file and its reader stay as they are.
#[test]
fn what_cannot_be() {
    lab::run(|host| {
        let scene = with_listener(host)?;
        let container = host.container("c1")?;
        scene.setup(
            &container,
            &Request::new("c1").on(&Network::new(1).dns(), 2),
        )?;
        let before = scene.snapshot()?;
        let told = reloads();
        let cases: &[(&[&str], &str)] = &[
            (
                &["net1", "--network-dns-servers", "1.1.1.1,bad"],
                "invalid IP address syntax: \"bad\"",
            ),
            (
                &["net1", "--network-dns-servers", "1.1.1.1,"],
                "\"\" in \"1.1.1.1,\"",
            ),
            (
                &["net1", "--network-dns-servers", "fd70:1::1"],
                "network \"net1\": dns server fd70:1::1 is the gateway of the network, which would cause aardvark-dns to forward queries to itself",
            ),
            (
                &["../net1", "--network-dns-servers", "1.1.1.1"],
                "network name: \"../net1\"",
            ),
            (
                &["aardvark.pid", "--network-dns-servers", ""],
                "network name: \"aardvark.pid\"",
            ),
        ];
        for (words, expected) in cases {
            let text = error(&update(&scene, host, words)?)?;
            ensure!(text.contains(expected), "{words:?}: {text}");
        }
        for words in [&["net1"][..], &["--network-dns-servers", ""]] {
            let finished = update(&scene, host, words)?;
            ensure!(
                finished.code() == Some(2) && finished.stdout.is_empty(),
                "{finished}"
            );
        }
        let finished = netbackend()
            .args(["update", "net1", "--network-dns-servers", ""])
            .run_in(host)?;
        assert_eq!(
            error(&finished)?,
            "--config not specified but required for netavark update"
        );
        assert_eq!(reloads(), told);
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// A network without containers has nothing to change, and nothing is made for it.
#[test]
fn networks_that_do_not_run() {
    lab::run(|host| {
        let mut scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let words = ["idle", "--network-dns-servers", "1.1.1.1"];
        silent(&update(&scene, host, &words)?)?;
        scene.aardvark = "".into();
        silent(&update(&scene, host, &words)?)?;
        scene.assert_same_as(&before);
        scene.config = "/run/lab/none".into();
        silent(&update(&scene, host, &words)?)?;
        ensure!(!Path::new("/run/lab/none").exists());
        Ok(())
    });
}

/// Containers come and go while the servers change: no line is lost, and readers find a whole file each time.
#[test]
fn beside_setups_and_teardowns() {
    lab::run(|host| {
        let scene = with_listener(host)?;
        let network = Network::v4(1).dns();
        let keeper = host.container("keeper")?;
        scene.setup(&keeper, &Request::new("keeper").on(&network, 2))?;
        let path = scene.config.join("aardvark-dns/net1");
        std::thread::scope(|scope| -> Result<()> {
            let changes = scope.spawn(|| -> Result<()> {
                for n in 0..40 {
                    let server = format!("198.51.100.{n}");
                    silent(&update(
                        &scene,
                        host,
                        &["net1", "--network-dns-servers", &server],
                    )?)?;
                }
                Ok(())
            });
            let comings = scope.spawn(|| -> Result<()> {
                for n in 3..13 {
                    let name = format!("c{n}");
                    let container = host.container(&name)?;
                    let request = Request::new(&name).on(&network, n);
                    scene.setup(&container, &request)?;
                    scene.teardown(&container, &request)?;
                }
                Ok(())
            });
            while !(changes.is_finished() && comings.is_finished()) {
                let text = fs::read_to_string(&path)?;
                let zone: wire::zone::Zone = text.parse()?;
                ensure!(
                    text.ends_with('\n') && zone.entries[0].id.as_str() == "keeper",
                    "{text}"
                );
            }
            changes.join().expect("the thread ends")?;
            comings.join().expect("the thread ends")
        })?;
        assert_eq!(
            fs::read_to_string(&path)?,
            "10.70.1.1 198.51.100.39\nkeeper 10.70.1.2  keeper\n"
        );
        Ok(())
    });
}
