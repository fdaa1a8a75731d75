//! Recorded requests on throw-away hosts: good ones are good, and what a backend does wrong is seen.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_fixtures::program::{Finished, Program};

use crate::lab::{self, Host};
use crate::scene::{Network, Request, netbackend};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../test-fixtures/data/podman-5.8.6")
}

fn replay(file: &Path) -> Program {
    netbackend()
        .arg("--aardvark-binary")
        .arg(lab::dnsd())
        .args(["replay", "--json"])
        .arg(file)
        .timeout(Duration::from_secs(100))
}

fn report(finished: &Finished) -> Result<Value> {
    let report: Value =
        serde_json::from_str(&finished.stdout).with_context(|| finished.to_string())?;
    let code = i32::from(report["good"] != true);
    ensure!(finished.code() == Some(code), "{finished}");
    Ok(report)
}

/// A request of ours in a file.
fn file(host: &Host, request: &Request) -> Result<PathBuf> {
    let path = host.dir("requests")?.join("request.json");
    fs::write(&path, request.json().to_string())?;
    Ok(path)
}

fn checks(report: &Value) -> Vec<(String, bool)> {
    let checks = report["checks"].as_array().into_iter().flatten();
    let text = |check: &Value| check["check"].as_str().unwrap_or_default().to_owned();
    checks
        .map(|check| (text(check), check["good"] == true))
        .collect()
}

/// All requests of Podman whose networks this machine's kernel has.
#[test]
fn every_recorded_request() {
    lab::run(|host| {
        let mut asked = 0;
        for scenario in test_fixtures::recording::scenarios()? {
            // A DHCP server, a kernel with more drivers, and what a later call relies on are not there.
            if ["macvlandhcp", "ipvlan", "vrf", "upd"].contains(&scenario.as_str()) {
                continue;
            }
            let file = data().join(&scenario).join("01-setup.in.json");
            let report = report(&replay(&file).run_in(host)?)?;
            let expected: Value = serde_json::from_str(&fs::read_to_string(
                data().join(&scenario).join("01-setup.out.json"),
            )?)?;
            let failed = expected["error"].is_string();
            ensure!((report["good"] == true) != failed, "{scenario}: {report:#}");
            ensure!(report["left"] == json!([]), "{scenario}: {report:#}");
            asked += checks(&report).len();
        }
        ensure!(asked > 60, "{asked}");
        Ok(())
    });
}

#[test]
fn ports_names_and_ways_are_asked_for() {
    lab::run(|host| {
        let request = Request::new("web")
            .on(&Network::new(1).dns(), 2)
            .on(&Network::v4(2).internal(), 2)
            .publish("", 8080, 80, "tcp")
            .publish_range("127.0.0.1", 5000, 6000, "udp", 9)
            .publish("203.0.113.50", 53, 53, "udp");
        let before = host.sh("ip -o link; ls /run/netns")?;
        let report = report(&replay(&file(host, &request)?).run_in(host)?)?;
        ensure!(report["good"] == true, "{report:#}");
        let checks: Vec<String> = checks(&report)
            .into_iter()
            .map(|(check, _)| check)
            .collect();
        for expected in [
            "container pings gateway 10.70.1.1",
            "container pings gateway fd70:1::1",
            "container pings gateway 10.70.2.1",
            "container pings outside 192.0.2.2",
            "container asks 10.70.1.1 for web, which is fd70:1::2",
            "outside asks 192.0.2.1:8080/tcp, which is 10.70.1.2:80",
            "outside asks [2001:db8:7e:a1::1]:8080/tcp, which is [fd70:1::2]:80",
            "host asks 127.0.0.1:5008/udp, which is 10.70.1.2:6008",
            "outside asks 203.0.113.50:53/udp, which is 10.70.1.2:53",
        ] {
            ensure!(
                checks.iter().any(|check| check == expected),
                "{expected}: {checks:#?}"
            );
        }
        ensure!(
            host.sh("ip -o link; ls /run/netns")? == before,
            "nothing has happened here"
        );
        Ok(())
    });
}

/// What is closed must be: a backend that forgets the rules is found out.
#[test]
fn a_bad_backend_is_found_out() {
    lab::run(|host| {
        let own = env!("CARGO_BIN_EXE_netbackend");
        let backend = |name: &str, text: &str| -> Result<PathBuf> {
            let path = host.dir("programs")?.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            // The lab's own /run is not to be seen on the throw-away host.
            let place = Path::new("/tmp").join(format!("backend-{}-{name}", std::process::id()));
            fs::copy(&path, &place)?;
            Ok(place)
        };
        let request = Request::new("web")
            .on(&Network::v4(1), 2)
            .publish("", 8080, 80, "tcp");
        let file = file(host, &request)?;
        let tried = |name: &str, text: &str| {
            let backend = backend(name, text)?;
            let finished = replay(&file).arg("--backend").arg(&backend).run_in(host)?;
            fs::remove_file(backend)?;
            let report = report(&finished)?;
            ensure!(report["good"] == false, "{name}: {report:#}");
            Ok::<_, anyhow::Error>(report)
        };
        let report = tried(
            "unfiltered",
            &format!("exec {own} --firewall-driver none \"$@\""),
        )?;
        let failed: Vec<String> = checks(&report)
            .into_iter()
            .filter(|(_, good)| !good)
            .map(|(check, _)| check)
            .collect();
        let published = "outside asks 192.0.2.1:8080/tcp, which is 10.70.1.2:80";
        ensure!(failed.iter().any(|check| check == published), "{report:#}");
        let text =
            format!("case \"$*\" in *teardown*) sleep 100 & exit 0;; esac; exec {own} \"$@\"");
        let report = tried("forgetful", &text)?;
        let left = report["left"].to_string();
        for kept in [
            "interface br1 (bridge)",
            "address 10.70.1.1/24 of br1",
            "table inet netavark",
            "(sleep)",
            "file /run/replay",
        ] {
            ensure!(left.contains(kept), "{kept}: {left}");
        }
        let report = tried(
            "broken",
            "cat >/dev/null; echo '{\"error\":\"no\"}'; exit 1",
        )?;
        ensure!(
            report["setup"]["error"] == "no" && checks(&report).is_empty(),
            "{report:#}"
        );
        Ok(())
    });
}

/// What was recorded is compared with what comes now.
#[test]
fn a_recording_is_compared() {
    lab::run(|host| {
        let request = Request::new("web").on(&Network::v4(1), 2);
        let mut recording = json!({
            "version": 1, "time": "2026-11-21T00:00:00Z", "duration_us": 1, "program": "/x/netavark",
            "arguments": ["--config", "/nowhere", "--rootless=true", "--aardvark-binary=/nowhere", "setup", "/run/netns/gone"],
            "environment": {"RUST_LOG": "netavark=info"}, "request": request.json(), "exit_code": 0, "signal": null,
            "reply": {"net1": {"dns_search_domains": [], "dns_server_ips": [], "interfaces": {"eth0": {
                "mac_address": "02:00:00:00:00:00", "subnets": [{"gateway": "10.70.1.1", "ipnet": "10.70.1.2/24"}]}}}},
        });
        let path = host.dir("recordings")?.join("setup.json");
        let replayed = |recording: &Value| {
            fs::write(&path, recording.to_string())?;
            replay(&path).run_in(host)
        };
        let same = report(&replayed(&recording)?)?;
        ensure!(
            same["good"] == true && same["differs"] == json!([]),
            "{same:#}"
        );
        recording["reply"]["net1"]["interfaces"]["eth0"]["subnets"][0]["ipnet"] =
            "10.70.1.9/24".into();
        let other = report(&replayed(&recording)?)?;
        ensure!(
            other["differs"].to_string().contains("10.70.1.9/24"),
            "{other:#}"
        );
        recording["arguments"][4] = "update".into();
        let text = crate::scene::error(&replayed(&recording)?)?;
        ensure!(
            text.contains("a call of \"update\" cannot be replayed"),
            "{text}"
        );
        Ok(())
    });
}

/// Whoever may make no namespaces as root gets them as root of a user namespace.
#[test]
fn without_rights_in_a_user_namespace() {
    lab::run(|host| {
        let request = Request::new("web")
            .on(&Network::v4(1), 2)
            .publish("", 80, 80, "tcp");
        let words = [
            "--bounding-set=-sys_admin,-net_admin,-sys_ptrace",
            env!("CARGO_BIN_EXE_netbackend"),
            "replay",
        ];
        let program = Program::new("setpriv")
            .args(words)
            .arg(file(host, &request)?);
        let finished = program.timeout(Duration::from_secs(60)).run_in(host)?;
        ensure!(
            finished.success() && finished.stdout.ends_with("All is well.\n"),
            "{finished}"
        );
        ensure!(
            finished
                .stdout
                .contains("  ok      outside asks 192.0.2.1:80/tcp"),
            "{finished}"
        );
        Ok(())
    });
}

/// A recording may come from anybody: nothing that it names is run.
#[test]
fn a_recording_names_no_programs() {
    lab::run(|host| {
        let evil = host.dir("evil")?.join("nft");
        let proof = host.dir("proof")?.join("it-ran");
        let text = format!("#!/bin/sh\ntouch {}\n", proof.display());
        fs::write(&evil, text)?;
        fs::set_permissions(&evil, fs::Permissions::from_mode(0o755))?;
        let evil = evil.display().to_string();
        let request = Request::new("web").on(&Network::new(1).dns(), 2);
        let recording = json!({
            "version": 1, "time": "2026-11-21T00:00:00Z", "duration_us": 1, "program": evil,
            "arguments": ["--nft", evil, format!("--aardvark-binary={evil}"), "setup", "/run/netns/gone"],
            "environment": {"NETBACKEND_NFT": evil, "LD_PRELOAD": evil}, "request": request.json(), "reply": null,
            "exit_code": 0, "signal": null,
        });
        let path = host.dir("recordings")?.join("setup.json");
        fs::write(&path, recording.to_string())?;
        let finished = replay(&path).run_in(host)?;
        ensure!(report(&finished)?["good"] == true, "{finished}");
        ensure!(!proof.exists(), "{finished}");
        Ok(())
    });
}

/// What only the first process of a throw-away host may do would hide /run of the real one.
#[test]
fn the_hidden_part_does_nothing_by_itself() {
    lab::run(|host| {
        let request = Request::new("web").on(&Network::v4(1), 2);
        let path = file(host, &request)?;
        let before = host.sh("cat /proc/self/mountinfo")?;
        let finished = replay(&path).arg("--inside").run_in(host)?;
        let text = crate::scene::error(&finished)?;
        ensure!(text.contains("expected to be the first process"), "{text}");
        ensure!(host.sh("cat /proc/self/mountinfo")? == before);
        Ok(())
    });
}
