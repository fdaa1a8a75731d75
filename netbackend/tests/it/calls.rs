//! The program as a process: arguments, streams, exit codes, and what it says when it cannot do what it is asked.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netbackend::schema::Name;
use serde_json::{Value, json};

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene, error, netbackend, reply};
use crate::traffic::{Tcp, answers, eventually, pings, servers};
use crate::validator::check;

#[test]
fn version_line() -> Result<()> {
    let finished = netbackend().arg("--version").run()?;
    let line = finished.stdout.trim_end();
    let version = line
        .strip_prefix("netavark ")
        .context("the line begins with netavark")?;
    // Podman takes the last word for a semantic version and goes by its number.
    let number = version.split('+').next().unwrap_or_default();
    let parts: Vec<u32> = number
        .split('.')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(
        finished.success() && parts.len() == 3 && parts[0] == 2 && parts[1] >= 1,
        "{line}"
    );
    ensure!(finished.stdout.lines().count() == 1, "{finished}");
    Ok(())
}

#[test]
fn version_document() -> Result<()> {
    let path = OsStr::from_bytes(b"/tmp/\xff\xfe");
    let finished = netbackend()
        .arg("--config")
        .arg(path)
        .arg("version")
        .run()?;
    let version = reply(&finished)?;
    let field = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
    ensure!(field("version").starts_with("2."), "{version}");
    ensure!(field("build_time").starts_with("20"), "{version}");
    ensure!(
        !field("target").is_empty() && version["commit"].is_string(),
        "{version}"
    );
    assert_eq!(field("default_fw_driver"), "nftables");
    assert_eq!(version.as_object().map(serde_json::Map::len), Some(5));
    check(&Name::Version.schema(), &version).map_err(|why| anyhow::anyhow!("{why}: {version}"))?;
    Ok(())
}

/// Usage errors are told on standard error, and standard output stays empty.
#[test]
fn usage_errors() -> Result<()> {
    let cases: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["setup"],
        &["setup", ""],
        &["teardown", ""],
        &["--nonsense", "version"],
        &["--rootless", "version"],
    ];
    for arguments in cases {
        let finished = netbackend().args(*arguments).run()?;
        ensure!(finished.code() == Some(2), "{arguments:?}: {finished}");
        ensure!(
            finished.stdout.is_empty() && !finished.stderr.is_empty(),
            "{arguments:?}: {finished}"
        );
    }
    Ok(())
}

#[test]
fn log_lines() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&Network::v4(1), 2);
        let cases = [
            (
                "",
                "",
                "[INFO  netavark::firewall] Using nftables firewall driver",
            ),
            (
                "nftables",
                "",
                "[INFO  netavark::firewall] Using nftables firewall driver",
            ),
            (
                "NFTables",
                "",
                "[INFO  netavark::firewall] Using nftables firewall driver",
            ),
            ("none", "", "[INFO  netavark::firewall] Not using firewall"),
            (
                "iptables",
                "",
                "[WARN  netavark::firewall] firewall driver iptables no longer exists",
            ),
        ];
        for (driver, _, line) in cases {
            for verb in ["setup", "teardown"] {
                let mut program = scene
                    .program(&[verb], container.path(), request.json())
                    .env("RUST_LOG", "netavark=info");
                if !driver.is_empty() {
                    program = program.env("NETAVARK_FW", driver);
                }
                let finished = program.run_in(host)?;
                let first = finished.stderr.lines().next().unwrap_or_default();
                ensure!(
                    finished.success() && first.starts_with(line),
                    "{driver}: {finished}"
                );
            }
        }
        // Levels that only Podman knows, and no filter at all, mean errors only.
        for filter in ["netavark=panic", "netavark=fatal", "netavark=error", ""] {
            for verb in ["setup", "teardown"] {
                let program = scene.program(&[verb], container.path(), request.json());
                let finished = program.env("RUST_LOG", filter).run_in(host)?;
                ensure!(
                    finished.success() && finished.stderr.is_empty(),
                    "{filter}: {finished}"
                );
            }
        }
        Ok(())
    });
}

/// No rules without a firewall, and the network works.
#[test]
fn firewall_none() {
    lab::run(|host| {
        let scene = Scene::new(host)?.env("NETAVARK_FW", "none");
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&Network::new(1), 2)
            .publish("", 8080, 80, "tcp");
        scene.setup(&container, &request)?;
        let rules = host.sh("nft list ruleset")?;
        ensure!(rules.is_empty(), "{rules}");
        pings(host, "10.70.1.2")?;
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// The rules may be changed by the program `nft`, which repairs them, too.
#[test]
fn program_nft() {
    lab::run(|host| {
        let scene = Scene::new(host)?.env("NETBACKEND_NFT", "/usr/sbin/nft");
        let before = scene.snapshot()?;
        let containers = [host.container("c1")?, host.container("c2")?];
        let network = Network::new(1);
        let requests = [("c1", 2, 8081), ("c2", 3, 8082)].map(|(name, number, port)| {
            Request::new(name)
                .on(&network, number)
                .publish("", port, 80, "tcp")
        });
        for (container, request) in containers.iter().zip(&requests) {
            scene.setup(container, request)?;
        }
        let _servers = servers(&containers[1], Tcp, &[80], "c2")?;
        answers(host, Tcp, "127.0.0.1:8082", "c2", "10.70.1.1")?;
        host.sh("nft flush map inet netavark publish4")?;
        scene.teardown(&containers[0], &requests[0])?;
        answers(host, Tcp, "127.0.0.1:8082", "c2", "10.70.1.1").context("after the repair")?;
        scene.teardown(&containers[1], &requests[1])?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// The request may come from a file; `-` is standard input.
#[test]
fn request_in_a_file() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&Network::v4(1), 2).json().to_string();
        let file = host.dir("files")?.join("request");
        std::fs::write(&file, &request)?;
        let call = |verb: &str, file: &Path, input: &str| {
            netbackend()
                .arg("--file")
                .arg(file)
                .arg("--config")
                .arg(&scene.config)
                .arg(verb)
                .arg(container.path())
                .stdin(input)
                .run_in(host)
        };
        reply(&call("setup", &file, "")?)?;
        ensure!(call("teardown", Path::new("-"), &request)?.success());
        let missing = call("setup", Path::new("/nowhere"), "")?;
        assert_eq!(
            error(&missing)?,
            "failed to load network options: IO error: No such file or directory (os error 2)"
        );
        Ok(())
    });
}

/// What is wrong with the call as such.
#[test]
fn errors_of_calls() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&Network::v4(1), 2);
        let text = request.json().to_string();

        for verb in ["setup", "teardown"] {
            let bare = netbackend()
                .arg(verb)
                .arg(container.path())
                .stdin(text.as_str());
            let expected = format!("--config not specified but required for netavark {verb}");
            assert_eq!(error(&bare.run_in(host)?)?, expected);
        }
        assert_eq!(
            scene.fails("setup", Path::new("/run/netns/nowhere"), &request)?,
            "invalid namespace path: IO error: No such file or directory (os error 2)"
        );
        let files = host.dir("files")?;
        let (file, pipe) = (files.join("file"), files.join("pipe"));
        std::fs::write(&file, "")?;
        host.sh(&format!("mkfifo {}", pipe.display()))?;
        for path in [&file, &pipe] {
            assert_eq!(
                scene.fails("setup", path, &request)?,
                "setns: IO error: Invalid argument (os error 22)"
            );
        }
        let cases = [
            (
                "NETAVARK_FW",
                "",
                "Must provide a valid firewall backend, got ",
            ),
            (
                "NETAVARK_FW",
                "ufw",
                "Must provide a valid firewall backend, got ufw",
            ),
            ("NETAVARK_DNS_PORT", "domain", "Invalid NETAVARK_DNS_PORT "),
            ("NETAVARK_DNS_PORT", "70000", "Invalid NETAVARK_DNS_PORT "),
        ];
        for (name, value, expected) in cases {
            let scene = Scene::new(host)?.env(name, value);
            let error = scene.fails("setup", container.path(), &request)?;
            ensure!(error.starts_with(expected), "{name}={value}: {error}");
        }
        for document in ["", "{", "[]", "{\"container_id\": 7}"] {
            let program = scene.program(&["setup"], container.path(), document);
            let error = error(&program.run_in(host)?)?;
            ensure!(
                error.starts_with("failed to load network options: IO error: "),
                "{document}: {error}"
            );
        }
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// Without subnets there is nothing to put addresses in; the interface is there, as with netavark.
#[test]
fn a_network_without_subnets() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        for subnets in [Value::Null, json!([])] {
            let network = Network::v4(1).set("subnets", subnets.clone());
            let request = Request::new("c1").on(&network, 2);
            if subnets.is_null() {
                let status = scene.setup(&container, &request)?;
                assert_eq!(status["net1"]["interfaces"]["eth0"]["subnets"], json!([]));
                ensure!(container.sh("ip -br link show eth0")?.contains("UP"));
                assert_eq!(container.sh("ip -4 addr show dev eth0")?, "");
                assert_eq!(container.sh("ip route")?, "");
                scene.teardown(&container, &request)?;
            } else {
                assert_eq!(
                    scene.fails("setup", container.path(), &request)?,
                    "network \"net1\": not all static IPs matched a subnet: expected 1, got 0: 10.70.1.2 is in none of its subnets, since it has none"
                );
            }
            scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// Scripts and engines write empty words for what they do not have.
#[test]
fn paths_may_be_empty() {
    lab::run(|host| {
        let scene = Scene::new(host)?.env("NETBACKEND_NFT", "");
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&Network::v4(1), 2);
        let before = scene.snapshot()?;
        scene.setup(&container, &request)?;
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        let words = ["--config", "", "--plugin-directory", "", "--nft", ""];
        let finished = netbackend().args(words).arg("version").run()?;
        ensure!(finished.success(), "{finished}");
        let words = ["--config", "", "gc"];
        assert_eq!(
            error(&netbackend().args(words).run()?)?,
            "--config not specified but required for netavark gc"
        );
        Ok(())
    });
}

/// What is wrong is said once, though errors have causes.
#[test]
fn errors_do_not_repeat_themselves() {
    lab::run(|host| {
        let file = host.dir("files")?.join("file");
        std::fs::write(&file, "")?;
        let update = |config: &Path, network: &str| {
            let finished = netbackend()
                .arg("--config")
                .arg(config)
                .args(["update", network, "--network-dns-servers", ""])
                .run_in(host)?;
            error(&finished)
        };
        assert_eq!(
            update(&file, "net1")?,
            format!(
                "lock {}/netbackend/lock: IO error: Not a directory (os error 20)",
                file.display()
            )
        );
        let said = update(&file, "a/b")?;
        assert_eq!(said.matches("\"a/b\"").count(), 1, "{said}");
        Ok(())
    });
}

/// What is wrong with a request. Nothing must change for any of them.
#[test]
fn errors_of_requests() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        host.sh("ip link add there type veth peer name there2
             ip link add taken type bridge; ip link add taken2 type bridge")?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let on = |network: Network| Request::new("c1").on(&network, 2);
        let with = |fields: Value| Request::new("c1").on_with(&Network::v4(1), 2, &fields);
        let v4 = || Network::v4(1);
        let subnets = |list: &[&str]| {
            let subnets: Vec<_> = list
                .iter()
                .map(|subnet| json!({"subnet": subnet}))
                .collect();
            Network::v4(1).set("subnets", subnets)
        };
        let ipam = |driver: &str| Network::v4(1).set("ipam_options", json!({"driver": driver}));
        let route = |route: Value| Network::v4(1).set("routes", json!([route]));
        let cases = [
            (
                on(v4()).publish("abcd", 8080, 80, "tcp"),
                "invalid host ip \"abcd\" provided for port 8080",
            ),
            (
                Request::new("c1")
                    .on(&v4(), 2)
                    .set("network_info", json!({})),
                "network info for network net1 not found",
            ),
            (
                with(json!({"interface_name": ""})),
                "network \"net1\": no container interface name given",
            ),
            (
                with(json!({"static_ips": null})),
                "network \"net1\": no static ips provided",
            ),
            (
                on(v4().set("network_interface", "")),
                "network \"net1\": no bridge interface name given",
            ),
            (
                on(v4().set("network_interface", "br%d")),
                "network \"net1\": network_interface: \"br%d\" must be text without",
            ),
            (
                on(v4().set("network_interface", "x".repeat(100_000))),
                "network \"net1\": network_interface: \"xxx",
            ),
            (
                on(v4().set("network_interface", Value::Null)),
                "network \"net1\": no bridge interface name given",
            ),
            (
                on(ipam("foo")),
                "network \"net1\": unsupported ipam driver foo",
            ),
            (
                on(ipam("dhcp")),
                "network \"net1\": cannot use dhcp ipam driver without using the option mode=unmanaged",
            ),
            (
                on(v4().option("isolate", "maybe")),
                "network \"net1\": invalid isolate option \"maybe\", expected true, false or strict",
            ),
            (
                on(v4().option("mtu", "large")),
                "network \"net1\": unable to parse \"mtu\": ",
            ),
            (
                on(v4().option("metric", "-1")),
                "network \"net1\": unable to parse \"metric\": ",
            ),
            (
                on(v4().option("no_default_route", "maybe")),
                "network \"net1\": unable to parse \"no_default_route\": ",
            ),
            (
                on(v4().option("vlan", "4095")),
                "network \"net1\": vlan must be between 0 and 4094",
            ),
            (
                on(v4().option("mode", "bogus")),
                "network \"net1\": mode: \"bogus\" is not a mode of bridge",
            ),
            (
                on(v4().option("mode", "unmanaged")),
                "network \"net1\": bridge br1: in unmanaged mode, the bridge must already exist on the host: \
                 Netlink error: No such device (os error 19)",
            ),
            (
                on(v4()
                    .dns()
                    .option("mode", "unmanaged")
                    .set("network_interface", "taken")),
                "network \"net1\": bridge taken has no ip address to serve dns on",
            ),
            (
                on(v4().set("network_interface", "there")),
                "network \"net1\": bridge interface there already exists but is a veth interface",
            ),
            (
                on(v4().option("vrf", "nowhere")),
                "network \"net1\": vrf nowhere: get vrf to set up bridge interface: Netlink error: No such device (os error 19)",
            ),
            (
                on(v4().option("vrf", "taken2")),
                "network \"net1\": get vrf to set up bridge interface: taken2 is a bridge interface, expected vrf",
            ),
            (
                on(subnets(&["10.70.1.0/24", "10.70.1.128/25"])),
                "network \"net1\": overlapping subnets: 10.70.1.0/24 and 10.70.1.128/25",
            ),
            (
                on(subnets(&["10.70.1.0/24", "10.70.1.0/24"])),
                "network \"net1\": duplicate subnet defined: 10.70.1.0/24",
            ),
            (
                with(json!({"static_ips": ["10.70.1.2", "10.71.1.2"]})),
                "network \"net1\": not all static IPs matched a subnet: expected 2, got 1",
            ),
            (
                on(route(json!({"destination": "10.0.0.0/24"}))),
                "network \"net1\": route 10.0.0.0/24 requires a gateway for type unicast",
            ),
            (
                on(route(
                    json!({"destination": "10.0.0.0/24", "gateway": "10.70.1.1", "route_type": "blackhole"}),
                )),
                "network \"net1\": route 10.0.0.0/24 must not have a gateway for type blackhole",
            ),
            (
                on(v4().set("driver", "bogus")),
                "network \"net1\": unknown network driver \"bogus\"",
            ),
        ];
        for (request, expected) in cases {
            let error = scene.fails("setup", container.path(), &request)?;
            ensure!(
                error.starts_with(expected),
                "expected {expected}\ngot {error}"
            );
            ensure!(error.len() < 16_384, "it does not fit into a pipe");
            scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// The name inside is taken: the text that callers know, the host's name in it if it was asked for, and no trace left.
#[test]
fn interface_names_that_are_taken() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let network = Network::v4(1);
        let request = Request::new("c1")
            .on(&network, 2)
            .publish("", 8080, 80, "tcp");
        let named = |name: &str| {
            Request::new("c2").on_with(
                &network,
                3,
                &json!({"options": {"host_interface_name": name}}),
            )
        };
        container.sh("ip link add eth0 type veth peer name eth9")?;
        let before = scene.snapshot()?;
        let expected = "network \"net1\": create veth pair: interface eth0 already exists on container namespace";
        let exists = "Netlink error: File exists (os error 17)";
        assert_eq!(
            scene.fails("setup", container.path(), &request)?,
            format!("{expected}: {exists}")
        );
        scene.assert_same_as(&before);
        assert_eq!(
            scene.fails("setup", container.path(), &named("outer"))?,
            format!("{expected} or outer exists on host namespace: {exists}")
        );
        scene.assert_same_as(&before);
        container.sh("ip link del eth0")?;
        host.sh("ip link add outer type bridge")?;
        let before = scene.snapshot()?;
        assert_eq!(
            scene.fails("setup", container.path(), &named("outer"))?,
            format!("{expected} or outer exists on host namespace: {exists}")
        );
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// The second setup of the same container fails, and the first one's network goes on working.
#[test]
fn setup_twice() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let empty = scene.snapshot()?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&Network::new(1).dns(), 2)
            .publish("", 8080, 80, "tcp");
        scene.setup(&container, &request)?;
        let before = scene.snapshot()?;
        assert_eq!(
            scene.fails("setup", container.path(), &request)?,
            "network \"net1\": create veth pair: interface eth0 already exists on container namespace: \
             Netlink error: File exists (os error 17)"
        );
        scene.assert_same_as(&before);
        pings(host, "10.70.1.2")?;
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&empty);
        Ok(())
    });
}

/// The second network of a request fails: the first one goes, too.
#[test]
fn all_networks_or_none() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        container.sh("ip link add eth1 type veth peer name eth9")?;
        let request = Request::new("c1")
            .on(&Network::new(1).dns(), 2)
            .on(&Network::new(2).dns(), 2)
            .publish("", 8080, 80, "tcp");
        let error = scene.fails("setup", container.path(), &request)?;
        ensure!(error.contains("interface eth1 already exists"), "{error}");
        scene.assert_same_as(&before);
        let links = container.sh("ip -br link")?;
        ensure!(!links.contains("eth0"), "{links}");
        Ok(())
    });
}

/// Writes a request as Podman does: all of it, keeping a copy of the read end, before it looks at anything else.
fn blocked_writer(host: &Host, arguments: &[&str], request: &str) -> Result<i32> {
    let mut command = Command::new(
        std::env::var_os("NETBACKEND").unwrap_or_else(|| env!("CARGO_BIN_EXE_netbackend").into()),
    );
    let (reader, mut writer) = std::io::pipe()?;
    command
        .args(arguments)
        .stdin(reader.try_clone()?)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = host.enter(|| Ok(command.spawn()?))?;
    drop(command);
    let bytes = request.as_bytes().to_vec();
    let writing = std::thread::spawn(move || writer.write_all(&bytes));
    let written = eventually(Duration::from_secs(10), || writing.is_finished());
    drop(reader); // nobody reads any more, so a writer that waits ends with an error
    let written = written && writing.join().is_ok_and(|outcome| outcome.is_ok());
    if !written {
        child.kill()?;
    }
    let status = child.wait()?;
    ensure!(
        written,
        "{arguments:?}: the request was not read to its end"
    );
    status.code().context("no exit code")
}

#[test]
fn large_requests_are_read_whatever_is_wrong() {
    lab::run(|host| {
        let container = host.container("c1")?;
        let netns = container.path().display().to_string();
        let mut request = Request::new("c1").on(&Network::v4(1), 2);
        for port in 1000..4000 {
            request = request.publish("", port, port, "tcp");
        }
        let request = request.json().to_string();
        ensure!(request.len() > 3 * 65536);
        let config = host.dir("networks")?.display().to_string();
        let cases: &[(&[&str], i32)] = &[
            (&["--config", &config, "setup", "/run/netns/nowhere"], 1),
            (&["setup", &netns], 1),
            (
                &[
                    "--config",
                    &config,
                    "--firewall-driver",
                    "bogus",
                    "setup",
                    &netns,
                ],
                1,
            ),
            (&["--config", &config, "setup", &netns], 0),
            (&["--config", &config, "teardown", "/run/netns/nowhere"], 0),
        ];
        for (arguments, code) in cases {
            let broken = format!("{request}{}", " ".repeat(65536));
            assert_eq!(
                blocked_writer(host, arguments, &broken)?,
                *code,
                "{arguments:?}"
            );
        }
        let invalid = format!("{{{}", "x".repeat(4 * 65536));
        let arguments = ["--config", config.as_str(), "setup", netns.as_str()];
        assert_eq!(blocked_writer(host, &arguments, &invalid)?, 1);
        Ok(())
    });
}

/// The reply of a container on many networks, in the order and number of the request, fits in a pipe.
#[test]
fn many_networks() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        let container = host.container("c1")?;
        let mut request = Request::new("c1");
        for number in 1..=20 {
            request = request.on(&Network::new(number), 2);
        }
        let status = scene.setup(&container, &request)?;
        assert_eq!(status.as_object().map(serde_json::Map::len), Some(20));
        ensure!(status.to_string().len() < 65536);
        scene.teardown(&container, &request)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

/// A plan says what would be done and does nothing.
#[test]
fn plans_change_nothing() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&Network::new(1).dns(), 2)
            .publish("", 8080, 80, "tcp");
        let inside = || container.sh("ip link; ip addr; ip route");
        let plan = |verb: &str| -> Result<()> {
            let (before, before_inside) = (scene.snapshot()?, inside()?);
            let text = scene
                .program(&["plan", verb], container.path(), request.json())
                .run_in(host)?;
            ensure!(text.success() && text.stdout.contains("br1"), "{text}");
            let program =
                scene.program(&["plan", "--json", verb], container.path(), request.json());
            let document = reply(&program.run_in(host)?)?;
            check(&Name::Plan.schema(), &document)
                .map_err(|why| anyhow::anyhow!("{why}: {document}"))?;
            let steps = document["steps"].as_array().context("there are steps")?;
            ensure!(
                !steps.is_empty() && document["nft"].as_str().is_some_and(|nft| !nft.is_empty()),
                "{document}"
            );
            scene.assert_same_as(&before);
            assert_eq!(inside()?, before_inside);
            Ok(())
        };
        plan("setup")?;
        scene.setup(&container, &request)?;
        plan("teardown")?;
        scene.teardown(&container, &request)
    });
}
