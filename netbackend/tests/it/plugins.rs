//! Drivers of somebody else: small programs that are called as netavark calls them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};
use test_fixtures::traffic::eventually;

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene, error, netbackend, reply, silent};
use crate::traffic::pings;

/// Moves a device of the host into the container, and back.
const HOST_DEVICE: &str = r#"
input=$(cat)
parent=$(echo "$input" | jq -r .network.network_interface)
name=$(echo "$input" | jq -r .network_options.interface_name)
case $1 in
setup)
  ip link set "$parent" netns "${2##*/}"
  nsenter --net="$2" sh -ec "ip link set $parent name $name; ip addr add 10.70.1.2/24 dev $name; ip link set $name up"
  mac=$(nsenter --net="$2" cat /proc/self/net/dev >/dev/null; nsenter --net="$2" ip -json link show "$name" | jq -r '.[0].address')
  echo "{\"dns_search_domains\": null, \"interfaces\": {\"$name\": {\"mac_address\": \"$mac\", \"subnets\": [{\"ipnet\": \"10.70.1.2/24\", \"gateway\": \"10.70.1.1\"}]}}}" ;;
teardown)
  nsenter --net="$2" sh -ec "ip link set $name down; ip link set $name name $parent; ip link set $parent netns 1" ;;
esac
"#;

/// Writes down how it is called, and does nothing.
const LOGGER: &str = r#"
input=$(cat)
echo "$1 $2 $(echo "$input" | jq -r .container_id)" >>"$LOG"
echo "$input" >"$LOG.$1"
[ "$1" = teardown ] || echo '{}'
"#;

/// A place with plugins.
struct Stage<'a> {
    scene: Scene<'a>,
    plugins: PathBuf,
    log: PathBuf,
}

impl<'a> Stage<'a> {
    fn new(host: &'a Host) -> Result<Self> {
        Ok(Self {
            scene: Scene::new(host)?,
            plugins: host.dir("plugins")?,
            log: host.dir("log")?.join("calls"),
        })
    }

    /// Makes a plugin of this name.
    fn plugin(&self, name: &str, script: &str) -> Result<()> {
        let path = self.plugins.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make it executable")
    }

    fn program(&self, verb: &str, netns: &Path, request: &Request) -> Program {
        netbackend()
            .args(self.arguments(verb, netns))
            .env("LOG", &self.log)
            .stdin(request.json().to_string())
            .timeout(Duration::from_secs(60))
    }

    fn arguments(&self, verb: &str, netns: &Path) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        vec![
            "--config".to_owned(),
            text(&self.scene.config),
            "--rootless=false".to_owned(),
            format!("--aardvark-binary={}", text(&self.scene.aardvark)),
            "--plugin-directory".to_owned(),
            "/nonexistent".to_owned(),
            "--plugin-directory".to_owned(),
            text(&self.plugins),
            verb.to_owned(),
            text(netns),
        ]
    }

    fn run(&self, verb: &str, netns: &Netns, request: &Request) -> Result<Finished> {
        self.program(verb, netns.path(), request)
            .run_in(self.scene.host)
    }

    /// How plugins were called so far.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

/// Network 1 of a driver.
fn network(driver: &str) -> Network {
    Network::new(1).set("driver", driver)
}

#[test]
fn a_device_goes_in_and_comes_back() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        stage.plugin("host-device", HOST_DEVICE)?;
        let lan = host.container("lan")?;
        host.sh("ip link add up0 type veth peer name eth0 netns lan")?;
        lan.sh("ip addr add 10.70.1.1/24 dev eth0; ip link set eth0 up")?;
        let container = host.container("c1")?;
        let network = network("host-device").set("network_interface", "up0");
        let request = Request::new("c1").on(&network, 2);
        let before = host.sh("ip -o link show up0")?.contains("up0");
        let status = reply(&stage.run("setup", &container, &request)?)?;
        let block = &status["net1"];
        assert_eq!(
            block["interfaces"]["eth0"]["subnets"],
            json!([{"gateway": "10.70.1.1", "ipnet": "10.70.1.2/24"}])
        );
        assert_eq!(block["dns_search_domains"], Value::Null);
        assert_eq!(block["dns_server_ips"], Value::Null);
        pings(&container, "10.70.1.1")?;
        ensure!(
            container.sh("ip -br link show lo")?.contains("UNKNOWN"),
            "lo is down"
        );
        silent(&stage.run("teardown", &container, &request)?)?;
        assert_eq!(host.sh("ip -o link show up0")?.contains("up0"), before);
        ensure!(!stage.scene.config.join("netbackend").exists());
        Ok(())
    });
}

#[test]
fn what_a_plugin_is_told() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        stage.plugin("logger", LOGGER)?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&network("logger").option("own", "1"), 2)
            .publish("", 8080, 80, "tcp");
        let status = reply(&stage.run("setup", &container, &request)?)?;
        assert_eq!(
            status,
            json!({"net1": {"dns_search_domains": null, "dns_server_ips": null, "interfaces": null}})
        );
        silent(&stage.run("teardown", &container, &request)?)?;
        let path = container.path().display();
        assert_eq!(
            stage.calls(),
            [format!("setup {path} c1"), format!("teardown {path} c1")]
        );
        let document = request.json();
        for verb in ["setup", "teardown"] {
            let told = fs::read_to_string(stage.log.with_extension(verb))?;
            let told: Value = serde_json::from_str(&told)?;
            let mut keys: Vec<_> = told
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key.as_str())
                .collect();
            keys.sort_unstable();
            assert_eq!(
                keys,
                [
                    "container_id",
                    "container_name",
                    "network",
                    "network_options",
                    "port_mappings"
                ]
            );
            let network = &document["network_info"]["net1"];
            for (key, value) in network.as_object().into_iter().flatten() {
                if key != "subnets" {
                    assert_eq!(told["network"][key], *value);
                }
            }
            assert_eq!(
                told["network"]["subnets"][0]["subnet"],
                network["subnets"][0]["subnet"]
            );
            assert_eq!(told["port_mappings"], document["port_mappings"]);
            assert_eq!(told["network_options"]["interface_name"], "eth0");
            assert_eq!(
                told["network_options"]["static_ips"],
                document["networks"]["net1"]["static_ips"]
            );
        }
        Ok(())
    });
}

/// What is not given is there as `null`: a script may look for the keys that it knows from netavark.
#[test]
fn a_plugin_finds_all_keys() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        stage.plugin("logger", LOGGER)?;
        let container = host.container("c1")?;
        let id = "a".repeat(64);
        let document = json!({
            "container_id": "c1", "container_name": "c1",
            "networks": {"n1": {"interface_name": "eth0"}, "n2": {"interface_name": "eth1"}},
            "network_info": {
                "n1": {
                    "name": "n1", "id": id, "driver": "logger",
                    "internal": false, "ipv6_enabled": false, "dns_enabled": false,
                },
                "n2": {
                    "name": "n2", "id": id, "driver": "logger",
                    "internal": false, "ipv6_enabled": false, "dns_enabled": false,
                    "subnets": [{"subnet": "10.0.0.0/24"}, {"subnet": "10.1.0.0/24", "lease_range": {}}],
                    "routes": [{"destination": "10.9.0.0/16", "gateway": "10.0.0.1"}],
                },
            },
        });
        let told = |network: &str| -> Result<Value> {
            let mut document = document.clone();
            let networks = document["networks"].as_object_mut().context("networks")?;
            networks.retain(|name, _| name == network);
            let finished = netbackend()
                .args(stage.arguments("setup", container.path()))
                .env("LOG", &stage.log)
                .stdin(document.to_string())
                .run_in(host)?;
            reply(&finished)?;
            let told = fs::read_to_string(stage.log.with_extension("setup"))?;
            Ok(serde_json::from_str(&told)?)
        };
        assert_eq!(
            told("n1")?,
            json!({
                "container_id": "c1", "container_name": "c1", "port_mappings": null,
                "network": {
                    "name": "n1", "id": id, "driver": "logger",
                    "internal": false, "ipv6_enabled": false, "dns_enabled": false,
                    "network_interface": null, "options": null, "ipam_options": null,
                    "subnets": null, "routes": null, "network_dns_servers": null,
                },
                "network_options": {
                    "interface_name": "eth0", "aliases": null, "options": null,
                    "static_ips": null, "static_mac": null,
                },
            })
        );
        let network = &told("n2")?["network"];
        assert_eq!(
            network["subnets"],
            json!([
                {"subnet": "10.0.0.0/24", "gateway": null, "lease_range": null},
                {"subnet": "10.1.0.0/24", "gateway": null, "lease_range": {"start_ip": null, "end_ip": null}},
            ])
        );
        assert_eq!(
            network["routes"],
            json!([{"destination": "10.9.0.0/16", "gateway": "10.0.0.1", "metric": null}])
        );
        Ok(())
    });
}

/// Interfaces of plugins may have no MAC address, or a long one, and there may be many of them.
#[test]
fn what_a_plugin_says_is_passed_on() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        let container = host.container("c1")?;
        let infiniband = "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:01:02:03";
        let interfaces: serde_json::Map<_, _> = (0..1500)
            .map(|n| {
                let mac = if n == 0 { "" } else { infiniband };
                let interface = json!({"mac_address": mac, "subnets": null});
                (format!("eth{n}"), interface)
            })
            .collect();
        let block =
            json!({"dns_search_domains": null, "dns_server_ips": [], "interfaces": interfaces});
        ensure!(block.to_string().len() > 100_000);
        let said = stage.plugins.join("said");
        fs::write(&said, block.to_string())?;
        stage.plugin("p", &format!("cat >/dev/null; cat {}", said.display()))?;
        let request = Request::new("c1").on(&network("p"), 2);
        let status = reply(&stage.run("setup", &container, &request)?)?;
        assert_eq!(status, json!({"net1": block}));
        Ok(())
    });
}

/// The words for each way to fail, at setup and at teardown.
#[test]
fn what_is_wrong_is_said_in_known_words() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        let before = stage.scene.snapshot()?;
        let container = host.container("c1")?;
        let cases = [
            (
                r#"cat >/dev/null; echo '{"error": "my fault"}'; exit 1"#,
                "plugin \"p\" failed: exit code 1, message: my fault",
            ),
            (
                r#"echo '{"error": "not read", "more": 1}'; exit 77"#,
                "plugin \"p\" failed: exit code 77, message: not read",
            ),
            (
                "exit 3",
                "plugin \"p\" failed: plugin \"p\": exit code 3, parse error: EOF while parsing a value at line 1 column 0",
            ),
            (
                "echo bad; exit 3",
                "plugin \"p\" failed: plugin \"p\": exit code 3, parse error: expected value at line 1 column 1",
            ),
            ("kill -KILL $$", "plugin \"p\" killed by signal"),
        ];
        let request = Request::new("c1").on(&network("p"), 2);
        for (script, expected) in cases {
            stage.plugin("p", script)?;
            for verb in ["setup", "teardown"] {
                let finished = stage.run(verb, &container, &request)?;
                assert_eq!(error(&finished)?, expected, "{verb}: {script}");
            }
            // A teardown that failed is remembered for one more try.
            stage.plugin("p", "echo '{}'")?;
            silent(&stage.run("teardown", &container, &request)?)?;
            stage.scene.assert_same_as(&before);
        }
        for (script, expected) in [
            (
                "",
                "plugin \"p\" failed: JSON Decoding error: EOF while parsing a value at line 1 column 0",
            ),
            ("echo '[1]'", "plugin \"p\" failed: JSON Decoding error: "),
            (
                "yes",
                "plugin \"p\" failed: IO error: it says more than 262144 bytes",
            ),
        ] {
            stage.plugin("p", script)?;
            let said = error(&stage.run("setup", &container, &request)?)?;
            ensure!(said.starts_with(expected), "{script}: {said}");
            stage.scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// One that fails in good order has taken back what it did; one that crashes is told to.
#[test]
fn a_plugin_that_crashes_is_told_to_take_back() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&network("p"), 2);
        for (end, calls) in [
            (r#"echo '{"error": "sorry"}'; exit 1"#, 1),
            ("echo oops; exit 101", 2),
            ("kill -SEGV $$", 2),
        ] {
            let script = LOGGER.replace("echo '{}'", "true");
            stage.plugin("p", &format!("{script}\n[ $1 = teardown ] || {{ {end}; }}"))?;
            error(&stage.run("setup", &container, &request)?)?;
            assert_eq!(stage.calls().len(), calls, "{end}");
            fs::remove_file(&stage.log)?;
        }
        Ok(())
    });
}

#[test]
fn who_is_a_plugin() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        let before = stage.scene.snapshot()?;
        let container = host.container("c1")?;
        fs::write(stage.plugins.join("text"), "#!/bin/sh\necho '{}'\n")?;
        fs::create_dir(stage.plugins.join("directory"))?;
        stage.plugin("sub", "echo '{}'")?;
        fs::rename(
            stage.plugins.join("sub"),
            stage.plugins.join("directory/sub"),
        )?;
        stage.plugin("broken", "")?;
        fs::write(stage.plugins.join("broken"), "#!/nonexistent\n")?;
        for driver in [
            "missing",
            "text",
            "directory",
            "directory/sub",
            "..",
            ".",
            "",
            "/bin/sh",
        ] {
            let request = Request::new("c1").on(&network(driver), 2);
            let expected = format!("unknown network driver \"{driver}\"");
            for verb in ["setup", "teardown"] {
                let said = error(&stage.run(verb, &container, &request)?)?;
                ensure!(said.contains(&expected), "{verb}: {said}");
            }
        }
        let request = Request::new("c1").on(&network("broken"), 2);
        let said = error(&stage.run("setup", &container, &request)?)?;
        assert_eq!(
            said,
            "plugin \"broken\" failed: IO error: No such file or directory (os error 2)"
        );
        // The journal of a teardown that has failed is there for the next one; here there was nothing to do.
        stage.plugin("missing", "echo '{}'")?;
        let request = Request::new("c1").on(&network("missing"), 2);
        silent(&stage.run("teardown", &container, &request)?)?;
        stage.scene.assert_same_as(&before);
        Ok(())
    });
}

/// What a plugin says to people reaches them, and comes before our word.
#[test]
fn standard_error_is_the_users() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        stage.plugin("p", "echo \"hello from $1\" >&2; echo '{}'")?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&network("p"), 2);
        for verb in ["setup", "teardown"] {
            let finished = stage.run(verb, &container, &request)?;
            ensure!(finished.success(), "{finished}");
            assert_eq!(finished.stderr, format!("hello from {verb}\n"));
        }
        Ok(())
    });
}

/// A request that no pipe holds, a plugin that does not read it, and one that leaves somebody behind with our output.
#[test]
fn plugins_with_bad_manners() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        let container = host.container("c1")?;
        let mut request = Request::new("c1").on(&network("p"), 2);
        for port in 1..2000 {
            request = request.publish("192.0.2.77", port, port, "tcp");
        }
        ensure!(request.json().to_string().len() > 100_000);
        for script in [
            "echo '{}'",
            "cat >/dev/null; echo '{}'",
            "sleep 0.2; cat >/dev/null; echo '{}'",
            "exec 0<&-; echo '{}'",
            "sleep 20 2>/dev/null & echo '{}'",
        ] {
            stage.plugin("p", script)?;
            for verb in ["setup", "teardown"] {
                let begin = Instant::now();
                let finished = stage.run(verb, &container, &request)?;
                ensure!(
                    finished.success() && !finished.held_open,
                    "{script}: {finished}"
                );
                ensure!(
                    begin.elapsed() < Duration::from_secs(10),
                    "{script}: too slow"
                );
            }
        }
        Ok(())
    });
}

/// A plugin whose network is up is told to take it down when a later network fails, and before, when it is a later one
/// itself, everything is taken back.
#[test]
fn a_call_is_all_or_nothing() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        stage.plugin("logger", LOGGER)?;
        stage.plugin(
            "refuses",
            r#"cat >/dev/null; echo '{"error": "no"}'; exit 1"#,
        )?;
        let before = stage.scene.snapshot()?;
        let container = host.container("c1")?;
        let good = network("logger");
        let bad = Network::new(2).set("driver", "refuses");
        let unfit = Network::new(3)
            .set("driver", "macvlan")
            .set("network_interface", "lo");
        let bridge = Network::new(4).dns();
        let path = container.path().display();
        for failing in [&bad, &unfit] {
            let request = Request::new("c1")
                .on(&bridge, 2)
                .on(&good, 2)
                .on(failing, 2)
                .publish("", 8080, 80, "tcp")
                .in_array_form();
            error(&stage.run("setup", &container, &request)?)?;
            assert_eq!(
                stage.calls(),
                [format!("setup {path} c1"), format!("teardown {path} c1")]
            );
            fs::remove_file(&stage.log)?;
            stage.scene.assert_same_as(&before);
            assert_eq!(container.sh("ip -br link | wc -l")?.trim(), "1");
        }
        // One that fails to leave does not keep the others.
        stage.plugin("refuses", r#"[ $1 = setup ] && echo '{}' || exit 5"#)?;
        let request = Request::new("c1").on(&bridge, 2).on(&bad, 2).on(&good, 2);
        reply(&stage.run("setup", &container, &request)?)?;
        let said = error(&stage.run("teardown", &container, &request)?)?;
        ensure!(
            said.contains("plugin \"refuses\" failed: plugin \"refuses\": exit code 5"),
            "{said}"
        );
        assert_eq!(stage.calls().last(), Some(&format!("teardown {path} c1")));
        Ok(())
    });
}

/// A plan tells of plugins and calls none.
#[test]
fn a_plan_calls_nobody() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        stage.plugin("logger", LOGGER)?;
        let before = stage.scene.snapshot()?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&network("logger"), 2)
            .on(&Network::new(2), 2);
        for (verb, step) in [
            ("setup", "plugin: logger setup"),
            ("teardown", "plugin: logger teardown"),
        ] {
            let mut arguments = stage.arguments(verb, container.path());
            arguments.insert(arguments.len() - 2, "plan".to_owned());
            let finished = netbackend()
                .args(arguments)
                .env("LOG", &stage.log)
                .stdin(request.json().to_string())
                .run_in(host)?;
            ensure!(
                finished.success() && finished.stdout.contains(step),
                "{finished}"
            );
        }
        ensure!(stage.calls().is_empty(), "{:?}", stage.calls());
        stage.scene.assert_same_as(&before);
        Ok(())
    });
}

#[test]
fn the_namespace_is_gone() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        stage.plugin("logger", LOGGER)?;
        let before = stage.scene.snapshot()?;
        let container = host.container("c1")?;
        let request = Request::new("c1").on(&network("logger"), 2);
        reply(&stage.run("setup", &container, &request)?)?;
        drop(container);
        let finished = stage
            .program("teardown", "/run/netns/c1".as_ref(), &request)
            .run_in(host)?;
        silent(&finished)?;
        // Without a record the request has to do.
        let finished = stage
            .program("teardown", "/bogus/path".as_ref(), &request)
            .run_in(host)?;
        silent(&finished)?;
        assert_eq!(
            stage.calls()[1..],
            ["teardown /run/netns/c1 c1", "teardown /bogus/path c1"]
        );
        stage.scene.assert_same_as(&before);
        Ok(())
    });
}

/// A call that hangs in a plugin is interrupted or killed: the plugin ends, with what it has started, and is told to take
/// back what it has done so far.
#[test]
fn an_interrupted_plugin_is_taken_back() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        let before = stage.scene.snapshot()?;
        let container = host.container("c1")?;
        let request = Request::new("c1")
            .on(&Network::new(2), 2)
            .on(&network("hangs"), 2)
            .in_array_form();
        for (signal, hang) in [
            ("TERM", "sleep 1000"),
            ("INT", "trap '' TERM; sleep 1000; sleep 1000"),
            ("KILL", "exec sleep 1000"),
            (
                "KILL",
                "sleep 1000 & (trap '' TERM; sleep 1000); sleep 1000",
            ),
        ] {
            let hangs = format!("{LOGGER}\n[ $1 = teardown ] || {{ {hang}; }}");
            stage.plugin("hangs", &hangs)?;
            let mut child = Command::new(env!("CARGO_BIN_EXE_netbackend"))
                .args(stage.arguments("setup", container.path()))
                .env("LOG", &stage.log)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut stdin = child.stdin.take().context("a pipe")?;
            std::io::Write::write_all(&mut stdin, request.json().to_string().as_bytes())?;
            drop(stdin);
            let started = || stage.calls().len() == 1;
            ensure!(
                eventually(Duration::from_secs(10), started),
                "it does not start"
            );
            ensure!(host.sh("ip link show br2")?.contains("br2"));
            host.sh(&format!("kill -{signal} {}", child.id()))?;
            let output = child.wait_with_output()?;
            if signal == "KILL" {
                // Somebody else's call finds it.
                let other = host.container("c2")?;
                let next = Request::new("c2").on(&Network::new(5), 2);
                let finished = stage.run("setup", &other, &next)?;
                ensure!(finished.success(), "{finished}");
                let finished = stage.run("teardown", &other, &next)?;
                ensure!(finished.success(), "{finished}");
            } else {
                let said = String::from_utf8_lossy(&output.stdout);
                assert_eq!(
                    said,
                    "{\"error\":\"plugin \\\"hangs\\\" failed: interrupted by a signal\"}\n"
                );
            }
            let path = container.path().display();
            assert_eq!(
                stage.calls(),
                [format!("setup {path} c1"), format!("teardown {path} c1")],
                "{signal}"
            );
            fs::remove_file(&stage.log)?;
            stage.scene.assert_same_as(&before);
        }
        Ok(())
    });
}

/// A container that comes again in another namespace leaves the former one first.
#[test]
fn a_container_comes_again() {
    lab::run(|host| {
        let stage = Stage::new(host)?;
        stage.plugin("logger", LOGGER)?;
        let before = stage.scene.snapshot()?;
        let request = Request::new("c1").on(&network("logger"), 2);
        let first = host.container("c1")?;
        reply(&stage.run("setup", &first, &request)?)?;
        let second = host.container("c2")?;
        let finished = stage.run("setup", &second, &request)?;
        ensure!(finished.success(), "{finished}");
        // In the same one it is up to the plugin.
        let finished = stage.run("setup", &second, &request)?;
        ensure!(finished.success(), "{finished}");
        silent(&stage.run("teardown", &second, &request)?)?;
        let calls = stage.calls();
        let verbs: Vec<_> = calls
            .iter()
            .filter_map(|call| call.rsplit_once(' '))
            .map(|(call, _)| call)
            .collect();
        assert_eq!(
            verbs,
            [
                "setup /run/netns/c1",
                "teardown /run/netns/c1",
                "setup /run/netns/c2",
                "setup /run/netns/c2",
                "teardown /run/netns/c2",
            ]
        );
        stage.scene.assert_same_as(&before);
        Ok(())
    });
}
