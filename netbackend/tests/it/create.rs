//! `create`: the description of a new network is completed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_fixtures::netns::Netns;
use test_fixtures::program::Finished;
use test_fixtures::traffic::eventually;

use crate::lab::{self, Host};
use crate::scene::{Scene, error, netbackend, reply, silent};
use crate::traffic::pings;

fn request(name: &str, driver: &str) -> Value {
    json!({
        "network": {
            "name": name, "id": "5".repeat(64), "driver": driver,
            "ipv6_enabled": true, "internal": false, "dns_enabled": false,
        },
        "used": {"interfaces": ["podman1"], "names": {"podman": "2".repeat(64)}, "subnets": ["10.88.0.0/16"]},
        "options": {
            "subnet_pools": [{"base": "10.89.0.0/16", "size": 24}],
            "default_interface_name": "podman", "check_used_subnets": true,
        },
    })
}

fn create(netns: &Netns, words: &[&str], request: &Value) -> Result<Finished> {
    netbackend()
        .args(words)
        .arg("create")
        .stdin(request.to_string())
        .run_in(netns)
}

/// What is created can be set up: names that links have are left alone, and the container is reached by both families.
#[test]
fn what_is_created_works() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        host.sh("ip link add podman2 type bridge")?;
        let before = scene.snapshot()?;
        let finished = create(host, &[], &request("web", "bridge"))?;
        let network = reply(&finished)?;
        assert_eq!(finished.stdout.lines().count(), 1);
        assert_eq!(network["network_interface"], "podman3");
        assert_eq!(network["subnets"][0]["subnet"], "10.89.0.0/24");
        let now = host.sh("date -u +%Y-%m-%dT%H")?;
        let created = network["created"].as_str().unwrap_or_default();
        ensure!(
            created.starts_with(now.trim()) && created.ends_with('Z'),
            "{created}"
        );
        let v6 = network["subnets"][1]["gateway"]
            .as_str()
            .context("the second subnet is of IPv6")?
            .to_owned();
        let other = reply(&create(host, &[], &request("web", "bridge"))?)?;
        ensure!(
            other["subnets"][1]["gateway"] != v6.as_str(),
            "chance is no chance"
        );
        scene.assert_same_as(&before);

        let container = host.container("c1")?;
        let addresses = ["10.89.0.7".to_owned(), format!("{v6}7")];
        let document = json!({
            "container_id": "c1", "container_name": "c1",
            "networks": [{"name": "web", "interface_name": "eth0", "static_ips": addresses}],
            "network_info": {"web": network},
        });
        let call = |verb: &str| {
            scene
                .program(&[verb], container.path(), &document)
                .run_in(host)
        };
        reply(&call("setup")?)?;
        for address in &addresses {
            pings(host, address)?;
        }
        silent(&call("teardown")?)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

#[test]
fn networks_on_links_of_the_host() {
    lab::run(|host| {
        let _outside = host.outside()?;
        let mut wanted = request("lan", "macvlan");
        wanted["network"]["network_interface"] = json!("uplink");
        let network = reply(&create(host, &[], &wanted)?)?;
        assert_eq!(network["ipam_options"], json!({"driver": "dhcp"}));
        wanted["network"]["network_interface"] = json!("nolink");
        assert_eq!(
            error(&create(host, &[], &wanted)?)?,
            "parent interface nolink does not exist"
        );
        Ok(())
    });
}

/// All of the request is read before anything is said: who writes it may wait for that.
#[test]
fn refused_with_one_document() -> Result<()> {
    let run = |stdin: String| netbackend().arg("create").stdin(stdin).run();
    let text = error(&run(String::new())?)?;
    ensure!(
        text.starts_with("failed to load network create: IO error: EOF"),
        "{text}"
    );
    let mut taken = request("podman", "bridge");
    assert_eq!(
        error(&run(taken.to_string())?)?,
        "network already exists podman"
    );
    taken["used"]["interfaces"] = (0..50_000).map(|n| format!("veth{n}")).collect();
    assert_eq!(
        error(&run(taken.to_string())?)?,
        "network already exists podman"
    );
    taken["network"]["name"] = json!("other");
    assert_eq!(reply(&run(taken.to_string())?)?["name"], "other");
    taken["network"]["network_dns_servers"] = json!(["a.b.c.d"]);
    let text = error(&run(taken.to_string())?)?;
    ensure!(
        text.starts_with("failed to load network create: IO error: network.network_dns_servers[0]: invalid IP address syntax"),
        "{text}"
    );
    let finished = netbackend().args(["--file", "/nowhere", "create"]).run()?;
    assert_eq!(
        error(&finished)?,
        "failed to load network create: IO error: No such file or directory (os error 2)"
    );
    Ok(())
}

/// An engine reads what we say when we have ended, however much that is.
#[test]
fn nobody_reads_a_large_reply_before_the_end() -> Result<()> {
    let mut wanted = request("web", "bridge");
    wanted["network"]["labels"] = json!({"large": "x".repeat(500_000)});
    let mut child = Command::new(env!("CARGO_BIN_EXE_netbackend"))
        .arg("create")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(wanted.to_string().as_bytes())?;
    drop(stdin);
    let mut status = None;
    let ended = eventually(Duration::from_secs(20), || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    if !ended {
        child.kill()?;
    }
    let said = child.wait_with_output()?.stdout;
    ensure!(ended, "it waits for a reader");
    let network: Value = serde_json::from_slice(&said)?;
    assert_eq!(network["labels"], wanted["network"]["labels"]);
    Ok(())
}

fn plugin(host: &Host, directory: &str, name: &str, mode: u32, script: &str) -> Result<PathBuf> {
    let directory = host.dir(directory)?;
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(directory)
}

/// Unknown drivers are programs: the first that can be executed completes the network, and its words reach the user.
#[test]
fn plugins() {
    lab::run(|host| {
        let wanted = request("own", "mine");
        let first = plugin(host, "first", "mine", 0o644, "exit 9")?;
        let script = r#"test "$1" = create && echo hello >&2 && jq -c '.options.made = "yes" | .network_interface = "own0"'"#;
        let second = plugin(host, "second", "mine", 0o755, script)?;
        let third = plugin(host, "third", "mine", 0o755, "exit 9")?;
        let directories =
            [first, second, third].map(|path| format!("--plugin-directory={}", path.display()));
        let words: Vec<&str> = directories.iter().map(String::as_str).collect();
        let finished = create(host, &words, &wanted)?;
        ensure!(
            finished.success() && finished.stderr == "hello\n",
            "{finished}"
        );
        let network: Value = serde_json::from_str(&finished.stdout)?;
        assert_eq!(network["options"], json!({"made": "yes"}));
        assert_eq!(network["network_interface"], "own0");
        ensure!(network["created"].is_string(), "{network}");

        assert_eq!(
            error(&create(host, &[], &wanted)?)?,
            "plugin directory not provided"
        );
        for name in ["none", "../second/mine", ".", ""] {
            assert_eq!(
                error(&create(host, &words, &request("own", name))?)?,
                format!("plugin for driver \"{name}\" not found in plugin directories")
            );
        }
        Ok(())
    });
}

#[test]
fn plugins_that_fail() {
    lab::run(|host| {
        let cases = [
            (
                r#"cat >/dev/null; echo '{"error": "no luck"}'; exit 3"#,
                "plugin \"mine\" failed: exit code 3, message: no luck",
            ),
            (
                "echo no luck; exit 3",
                "plugin \"mine\" failed: plugin \"mine\": exit code 3, parse error: expected ident at line 1 column 2",
            ),
            (
                "exit 3",
                "plugin \"mine\" failed: plugin \"mine\": exit code 3, parse error: EOF while parsing a value at line 1 column 0",
            ),
            ("kill -9 $$", "plugin \"mine\" killed by signal"),
            (
                "true",
                "plugin \"mine\" failed: JSON Decoding error: EOF while parsing a value at line 1 column 0",
            ),
            (
                r#"jq -c '.name = "other"'"#,
                "plugin \"mine\" failed: it changed the name of the network from \"own\" to \"other\"",
            ),
        ];
        for (script, expected) in cases {
            let directory = plugin(host, "plugins", "mine", 0o755, script)?;
            let directory = format!("--plugin-directory={}", directory.display());
            let mut wanted = request("own", "mine");
            if !script.starts_with("jq") {
                // More than a pipe holds, for those who do not read.
                wanted["network"]["labels"] = json!({"long": "x".repeat(200_000)});
            }
            let finished = create(host, &[&directory], &wanted)?;
            assert_eq!(error(&finished)?, expected, "{script}");
            ensure!(finished.stderr.is_empty(), "{finished}");
        }
        Ok(())
    });
}
