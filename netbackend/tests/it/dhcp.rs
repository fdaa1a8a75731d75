//! The DHCP proxy against dnsmasq: leases for containers on an unmanaged bridge and by macvlan.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_fixtures::netns::Netns;
use test_fixtures::program::Program;
use test_fixtures::traffic::{eventually, ping};

use crate::lab::{self, Host};
use crate::lan::{Daemon, Lan, SOON, Wire, socket};
use crate::scene::{Network, Request, Scene, mac_of};

/// A host with a network that has a server, and the program on it.
pub(crate) struct World<'a> {
    pub(crate) lan: Lan<'a>,
    pub(crate) scene: Scene<'a>,
}

impl<'a> World<'a> {
    /// On the bridge `br1`.
    pub(crate) fn new(host: &'a Host, options: &[&str]) -> Result<Self> {
        Self::on(host, Wire::Bridge, options)
    }

    pub(crate) fn on(host: &'a Host, wire: Wire, options: &[&str]) -> Result<Self> {
        Ok(Self {
            lan: Lan::new(host, wire, options)?,
            scene: Scene::new(host)?,
        })
    }
}

impl<'a> Deref for World<'a> {
    type Target = Lan<'a>;

    fn deref(&self) -> &Lan<'a> {
        &self.lan
    }
}

impl DerefMut for World<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.lan
    }
}

/// The network of the bridge `br1`.
pub(crate) fn network() -> Network {
    Network::v4(1)
        .set("subnets", Value::Null)
        .set("ipam_options", json!({"driver": "dhcp"}))
        .option("mode", "unmanaged")
}

pub(crate) fn request(name: &str, network: &Network) -> Request {
    Request::new(name).set("container_hostname", name).on_with(
        network,
        0,
        &json!({"static_ips": null}),
    )
}

fn address(reply: &Value, family: usize) -> String {
    let interface = &reply["net1"]["interfaces"]["eth0"];
    let text = interface["subnets"][family]["ipnet"]
        .as_str()
        .unwrap_or_default();
    text.split('/').next().unwrap_or_default().to_owned()
}

/// The IPv4 addresses of an interface.
pub(crate) fn addresses(netns: &Netns) -> Result<Vec<String>> {
    let links: Value = serde_json::from_str(&netns.sh("ip -4 -json addr show eth0")?)?;
    let list = links[0]["addr_info"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    Ok(list
        .iter()
        .filter_map(|info| info["local"].as_str())
        .map(str::to_owned)
        .collect())
}

#[test]
fn a_container_gets_an_address_and_gives_it_back() {
    lab::run(|host| {
        let world = World::new(
            host,
            &[
                "--dhcp-option=3,10.77.0.1",
                "--dhcp-option=6,10.77.0.3",
                "--domain=example.org",
            ],
        )?;
        let container = host.container("c1")?;
        let before = world.scene.snapshot()?;
        let request = request("web", &network());
        let reply = world.scene.setup(&container, &request)?;
        let block = &reply["net1"];
        assert_eq!(block["dns_server_ips"], json!(["10.77.0.3"]));
        assert_eq!(block["dns_search_domains"], json!(["example.org"]));
        let interface = &block["interfaces"]["eth0"];
        assert_eq!(interface["subnets"][0]["gateway"], "10.77.0.1");
        assert_eq!(interface["mac_address"], mac_of(&container, "eth0")?);
        let own = address(&reply, 0);
        assert_eq!(addresses(&container)?, std::slice::from_ref(&own));
        assert_eq!(world.leased(), std::slice::from_ref(&own));
        assert!(
            container
                .sh("ip route show default")?
                .contains("default via 10.77.0.1 dev eth0 proto static metric 100")
        );
        assert!(ping(&container, "10.77.0.1".parse()?)?);
        assert!(
            world
                .log("dnsmasq.log")
                .contains("client provides name: web")
        );
        assert!(world.kept().to_string().contains(&own));
        world.scene.teardown(&container, &request)?;
        assert_eq!(world.leased(), [""; 0]);
        assert_eq!(world.kept(), json!({}));
        world.scene.assert_same_as(&before);
        Ok(())
    });
}

#[test]
fn wishes_for_the_default_route_are_obeyed() {
    lab::run(|host| {
        let world = World::new(host, &["--dhcp-option=3,10.77.0.1"])?;
        let check = |name: &str, network: Network, expected: &str| -> Result<()> {
            let container = host.container(name)?;
            let reply = world.scene.setup(&container, &request(name, &network))?;
            assert_eq!(
                reply["net1"]["interfaces"]["eth0"]["subnets"][0]["gateway"],
                "10.77.0.1"
            );
            assert_eq!(container.sh("ip route show default")?.trim(), expected);
            world.scene.teardown(&container, &request(name, &network))
        };
        check(
            "c1",
            network().option("metric", "77"),
            "default via 10.77.0.1 dev eth0 proto static metric 77",
        )?;
        check("c2", network().option("no_default_route", "true"), "")
    });
}

#[test]
fn options_of_the_server_are_applied() {
    lab::run(|host| {
        let world = World::new(
            host,
            &[
                "--dhcp-option=26,1400",
                "--dhcp-option=121,172.16.0.0/12,10.77.0.9,0.0.0.0/0,10.77.0.8",
                "--dhcp-option=42,10.77.0.4",
            ],
        )?;
        let container = host.container("c1")?;
        world.scene.setup(
            &container,
            &request(
                "web",
                &network().set(
                    "routes",
                    json!([
                        {"destination": "192.168.7.0/24", "gateway": "10.77.0.5"},
                    ]),
                ),
            ),
        )?;
        let routes = container.sh("ip route")?;
        for route in [
            "default via 10.77.0.8 dev",
            "172.16.0.0/12 via 10.77.0.9 dev",
            "192.168.7.0/24 via 10.77.0.5 dev",
        ] {
            assert!(routes.contains(route), "{routes}");
        }
        assert!(container.sh("ip link show eth0")?.contains("mtu 1400"));
        assert!(world.kept().to_string().contains("10.77.0.4"));
        let other = host.container("c2")?;
        world
            .scene
            .setup(&other, &request("other", &network().option("mtu", "1450")))?;
        assert!(other.sh("ip link show eth0")?.contains("mtu 1450"));
        Ok(())
    });
}

#[test]
fn both_families_are_leased_and_given_back() {
    lab::run(|host| {
        let mut world = World::new(
            host,
            &[
                "--dhcp-option=option6:dns-server,[fd77::53]",
                "--dhcp-option=6,10.77.0.3",
            ],
        )?;
        let container = host.container("c1")?;
        let request = request("web", &network().set("ipv6_enabled", true));
        let reply = world.scene.setup(&container, &request)?;
        let own = address(&reply, 1);
        assert!(own.starts_with("fd77::1"), "{reply}");
        assert_eq!(
            reply["net1"]["dns_server_ips"],
            json!(["10.77.0.3", "fd77::53"])
        );
        assert!(container.sh("ip -6 addr show eth0")?.contains(&own));
        assert_eq!(world.leased().len(), 2, "{:?}", world.leased());
        // A proxy that was killed renews at once.
        world.kill_proxy()?;
        world.start_proxy(&[])?;
        let renewed = || world.log("dnsmasq.log").contains("DHCPRENEW(eth0)");
        ensure!(eventually(SOON, renewed), "{}", world.log("proxy.log"));
        world.scene.teardown(&container, &request)?;
        ensure!(
            eventually(SOON, || world.leased().is_empty()),
            "{:?}",
            world.leased()
        );
        assert!(world.log("dnsmasq.log").contains("DHCPRELEASE(eth0)"));
        assert_eq!(world.kept(), json!({}));
        Ok(())
    });
}

#[test]
fn a_server_that_goes_and_comes_back_finds_its_lease_renewed() {
    lab::run(|host| {
        let quick = [
            "--dhcp-option=3,10.77.0.1",
            "--dhcp-option-force=option:T1,3",
            "--dhcp-option-force=option:T2,6",
        ];
        let mut world = World::new(host, &quick)?;
        let container = host.container("c1")?;
        let request = request("web", &network());
        let reply = world.scene.setup(&container, &request)?;
        ensure!(
            eventually(SOON, || world.granted() >= 3),
            "{}",
            world.log("proxy.log")
        );
        world.dnsmasq = None;
        std::thread::sleep(Duration::from_secs(7));
        assert_eq!(addresses(&container)?, [address(&reply, 0)]);
        let before = world.granted();
        world.serve("10.77.0", &quick)?;
        // It is asked by broadcast now, once a minute.
        ensure!(
            eventually(Duration::from_secs(90), || world.granted() > before),
            "{}",
            world.log("proxy.log")
        );
        assert_eq!(addresses(&container)?, [address(&reply, 0)]);
        world.scene.teardown(&container, &request)?;
        assert_eq!(world.leased(), [""; 0]);
        Ok(())
    });
}

#[test]
fn a_refused_lease_is_replaced_by_another() {
    lab::run(|host| {
        let quick = [
            "--dhcp-option=3,10.77.0.1",
            "--dhcp-option-force=option:T1,3",
            "--dhcp-option-force=option:T2,6",
        ];
        let mut world = World::new(host, &quick)?;
        let container = host.container("c1")?;
        let request = request("web", &network());
        world.scene.setup(&container, &request)?;
        world.dnsmasq = None;
        fs::remove_file(world.directory.join("leases"))?;
        world
            .server
            .sh("ip addr add 10.78.0.1/16 dev eth0; ip addr del 10.77.0.1/16 dev eth0")?;
        world.serve("10.78.0", &["--dhcp-option=3,10.78.0.1"])?;
        let moved =
            || matches!(addresses(&container).as_deref(), Ok([one]) if one.starts_with("10.78.0."));
        ensure!(
            eventually(SOON, moved),
            "{}\n{}",
            world.log("proxy.log"),
            world.log("dnsmasq.log")
        );
        ensure!(eventually(SOON, || container
            .sh("ip route")
            .is_ok_and(|text| text.starts_with("default via 10.78.0.1 "))));
        assert!(world.log("dnsmasq.log").contains("DHCPNAK("));
        world.scene.teardown(&container, &request)?;
        assert_eq!(world.leased(), [""; 0]);
        Ok(())
    });
}

#[test]
fn a_proxy_that_was_killed_goes_on() {
    lab::run(|host| {
        let quick = [
            "--dhcp-option-force=option:T1,3",
            "--dhcp-option-force=option:T2,100",
        ];
        let mut world = World::new(host, &quick)?;
        let container = host.container("c1")?;
        let request = request("web", &network());
        let reply = world.scene.setup(&container, &request)?;
        world.kill_proxy()?;
        let before = world.granted();
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(world.granted(), before);
        // The socket of the dead one is in the way.
        assert!(socket().exists());
        world.start_proxy(&[])?;
        ensure!(
            eventually(SOON, || world.granted() >= before + 2),
            "{}",
            world.log("proxy.log")
        );
        assert_eq!(addresses(&container)?, [address(&reply, 0)]);
        // Killed again, and the container goes meanwhile.
        world.kill_proxy()?;
        world.scene.teardown(&container, &request).ok();
        drop(container);
        world.start_proxy(&[])?;
        ensure!(
            eventually(SOON, || world.leased().is_empty()),
            "{}",
            world.log("proxy.log")
        );
        assert_eq!(world.kept(), json!({}));
        Ok(())
    });
}

#[test]
fn a_container_that_vanishes_gives_its_address_back() {
    lab::run(|host| {
        let quick = [
            "--dhcp-option-force=option:T1,3",
            "--dhcp-option-force=option:T2,6",
        ];
        let mut world = World::new(host, &quick)?;
        let (quiet, asking) = (host.container("c1")?, host.container("c2")?);
        let both = network().set("ipv6_enabled", true);
        world.scene.setup(&quiet, &request("quiet", &both))?;
        assert_eq!(world.leased().len(), 2);
        drop(quiet);
        ensure!(
            eventually(SOON, || world.leased().is_empty()),
            "{}",
            world.log("proxy.log")
        );
        // And one that waits for an answer while it vanishes.
        world.scene.setup(&asking, &request("asking", &network()))?;
        assert_eq!(world.leased().len(), 1);
        world.dnsmasq = None;
        std::thread::sleep(Duration::from_secs(3));
        drop(asking);
        world.serve("10.77.0", &quick)?;
        ensure!(
            eventually(SOON, || world.leased().is_empty()),
            "{}",
            world.log("proxy.log")
        );
        ensure!(
            eventually(SOON, || world.kept() == json!({})),
            "{}",
            world.kept()
        );
        Ok(())
    });
}

#[test]
fn a_server_on_the_host_itself_is_found_and_hears_of_the_end() {
    lab::run(|host| {
        let mut world = World::new(host, &[])?;
        world.dnsmasq = None;
        host.sh("ip addr add 10.77.0.2/16 dev br1")?;
        let leases = format!(
            "--dhcp-leasefile={}",
            world.directory.join("leases").display()
        );
        let own = [
            "--no-daemon",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=br1",
            "--no-ping",
            "--log-dhcp",
            "--user=root",
        ];
        let arguments = [
            &own[..],
            &[
                "--dhcp-range=10.77.0.10,10.77.0.250,255.255.0.0,2m",
                &leases,
            ],
        ]
        .concat();
        world.dnsmasq = Some(Daemon::start(
            host,
            &world.directory.join("dnsmasq.log"),
            "/usr/sbin/dnsmasq",
            &arguments,
        )?);
        let container = host.container("c1")?;
        let request = request("web", &network());
        world.scene.setup(&container, &request)?;
        world.scene.teardown(&container, &request)?;
        assert_eq!(world.leased(), [""; 0]);
        world.scene.setup(&container, &request)?;
        assert_eq!(world.leased().len(), 1);
        drop(container);
        ensure!(
            eventually(SOON, || world.leased().is_empty()),
            "{}\n{}",
            world.log("proxy.log"),
            world.log("dnsmasq.log")
        );
        Ok(())
    });
}

#[test]
fn a_hundred_containers_at_once() {
    lab::run(|host| {
        let world = World::new(
            host,
            &[
                "--dhcp-option=3,10.77.0.1",
                "--dhcp-option-force=option:T1,3",
            ],
        )?;
        let containers = a_hundred_containers(host)?;
        let answers =
            ask_all(host, &containers, "Setup").with_context(|| world.log("proxy.log"))?;
        let mut leased: Vec<String> = answers.iter().map(|lease| lease.yiaddr.clone()).collect();
        for (container, address) in containers.iter().zip(&leased) {
            assert_eq!(addresses(container)?, std::slice::from_ref(address));
        }
        leased.sort();
        leased.dedup();
        assert_eq!(leased.len(), 100);
        // The server writes its file anew with each renewal: a single look can see half of it.
        let known = || {
            let mut known = world.leased();
            known.sort();
            known
        };
        ensure!(eventually(SOON, || known() == leased), "{:?}", known());
        assert_eq!(
            world.kept().as_object().map(serde_json::Map::len),
            Some(100)
        );
        ensure!(
            eventually(SOON, || world.granted() >= 300),
            "{} renewals",
            world.granted()
        );
        ask_all(host, &containers, "Teardown")?;
        ensure!(
            eventually(SOON, || world.leased().is_empty()),
            "{:?}",
            world.leased()
        );
        ensure!(
            eventually(SOON, || world.kept() == json!({})),
            "{}",
            world.kept()
        );
        Ok(())
    });
}

/// The proxy dies while it asks for all of them; whoever has got no address tries once more.
#[test]
fn a_hundred_containers_at_once_and_a_proxy_that_dies() {
    lab::run(|host| {
        let mut world = World::new(host, &["--dhcp-option-force=option:T1,10"])?;
        let containers = a_hundred_containers(host)?;
        let log = world.directory.join("dnsmasq.log");
        let mut proxy = world.proxy.take().context("it runs")?;
        let killer = std::thread::spawn(move || {
            // In the middle of it, by what the server has done.
            let begun = || {
                let log = fs::read_to_string(&log).unwrap_or_default();
                log.matches("DHCPACK(").count() >= 30
            };
            let begun = eventually(SOON, begun);
            proxy.signal(Signal::SIGKILL).map(|()| begun)
        });
        let first = ask_each(host, &containers, "Setup")?;
        let killed = killer.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
        ensure!(killed?, "nothing was asked for");
        let failed: Vec<bool> = first.iter().map(Result::is_err).collect();
        let failures = failed.iter().filter(|failed| **failed).count();
        ensure!(failures > 0, "the proxy has died in vain");
        world.start_proxy(&[])?;
        let answers =
            ask_all(host, &containers, "Setup").with_context(|| world.log("proxy.log"))?;
        for ((container, lease), failed) in containers.iter().zip(&answers).zip(failed) {
            let own = addresses(container)?;
            assert_eq!(own, std::slice::from_ref(&lease.yiaddr), "failed: {failed}");
        }
        let mut known = world.leased();
        known.sort();
        let mut told: Vec<_> = answers.into_iter().map(|lease| lease.yiaddr).collect();
        told.sort();
        assert_eq!(known, told);
        ask_all(host, &containers, "Teardown")?;
        let clean = || world.leased().is_empty() && world.kept() == json!({});
        ensure!(
            eventually(SOON, clean),
            "{:?}, {}",
            world.leased(),
            world.kept()
        );
        Ok(())
    });
}

/// Containers with an interface on the bridge. They ask the proxy directly: calls of the program wait for each other.
fn a_hundred_containers(host: &Host) -> Result<Vec<Netns>> {
    let containers = (0..100)
        .map(|number| host.container(&format!("c{number}")))
        .collect::<Result<_>>()?;
    let port = |number: usize| {
        format!(
            "ip link add v{number} type veth peer name eth0 netns c{number}\nip link set v{number} master br1 up\n"
        )
    };
    host.sh(&(0..100).map(port).collect::<String>())?;
    Ok(containers)
}

/// Calls the proxy for all containers at once, which must succeed.
fn ask_all(host: &Host, containers: &[Netns], method: &str) -> Result<Vec<wire::proxy::Lease>> {
    let answers = ask_each(host, containers, method)?.into_iter();
    answers
        .map(|answer| answer.map_err(anyhow::Error::msg))
        .collect()
}

/// Calls the proxy for all containers at once, by netbackend's own client.
fn ask_each(
    host: &Host,
    containers: &[Netns],
    method: &str,
) -> Result<Vec<Result<wire::proxy::Lease, String>>> {
    let configs: Vec<_> = containers
        .iter()
        .enumerate()
        .map(|(number, container)| {
            Ok(wire::proxy::NetworkConfig {
                host_iface: "br1".to_owned(),
                container_iface: "eth0".to_owned(),
                container_mac_addr: mac_of(container, "eth0")?,
                ns_path: container.path().display().to_string(),
                // Netavark does not say at teardown whose lease it is.
                container_id: if method == "Teardown" && number % 2 == 1 {
                    String::new()
                } else {
                    format!("container{number}")
                },
                ..wire::proxy::NetworkConfig::default()
            })
        })
        .collect::<Result<_>>()?;
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let calls = configs
                .iter()
                .map(|config| netbackend::sys::dhcp::call_proxy(method, config));
            Ok(futures_util::future::join_all(calls).await)
        })
    })
}

#[test]
fn without_a_proxy_or_a_server_nothing_is_left() {
    lab::run(|host| {
        let mut world = World::new(host, &[])?;
        let container = host.container("c1")?;
        let request = request("web", &network());
        world.dnsmasq = None;
        world.proxy = None;
        world.start_proxy(&["--timeout", "3"])?;
        let before = world.scene.snapshot()?;
        let error = world.scene.fails("setup", container.path(), &request)?;
        assert_eq!(
            error,
            "unable to obtain lease: get DHCP lease: no DHCP server leased an address through br1 within 3 s"
        );
        world.scene.assert_same_as(&before);
        world
            .proxy
            .as_mut()
            .context("it runs")?
            .signal(Signal::SIGTERM)?;
        let before = world.scene.snapshot()?;
        let error = world.scene.fails("setup", container.path(), &request)?;
        assert_eq!(
            error,
            "unable to obtain lease: socket \"/run/podman/nv-proxy.sock\": No such file or directory (os error 2), is the netavark-dhcp-proxy.socket unit enabled?"
        );
        world.scene.assert_same_as(&before);
        Ok(())
    });
}

#[test]
fn the_proxy_ends_when_told_to_or_idle() {
    lab::run(|host| {
        let mut world = World::new(host, &[])?;
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            world.proxy.as_mut().context("it runs")?.signal(signal)?;
            assert!(!socket().exists());
            world.start_proxy(&[])?;
        }
        world.proxy = None;
        world.start_proxy(&["--activity-timeout", "2"])?;
        let container = host.container("c1")?;
        let request = request("web", &network());
        world.scene.setup(&container, &request)?;
        std::thread::sleep(Duration::from_secs(5));
        let proxy = world.proxy.as_mut().context("it runs")?;
        ensure!(proxy.0.try_wait()?.is_none(), "it has left a lease alone");
        world.scene.teardown(&container, &request)?;
        let proxy = world.proxy.as_mut().context("it runs")?;
        let ended = || matches!(proxy.0.try_wait(), Ok(Some(status)) if status.success());
        ensure!(eventually(SOON, ended), "it does not end");
        assert!(!socket().exists());
        Ok(())
    });
}

#[test]
fn a_socket_of_the_service_manager_is_used_and_left() {
    lab::run(|host| {
        let mut world = World::new(host, &["--dhcp-option=3,10.77.0.1"])?;
        world
            .proxy
            .as_mut()
            .context("it runs")?
            .signal(Signal::SIGTERM)?;
        // A shell in the place of the service manager moves its standard input to descriptor 3.
        let program = env!("CARGO_BIN_EXE_netbackend");
        let listener = std::os::unix::net::UnixListener::bind(socket())?;
        let script = format!("exec 3<&0 </dev/null; LISTEN_FDS=1 exec {program} dhcp-proxy -a 1");
        let child = host.enter(|| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &script])
                .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
            Ok(shell.spawn()?)
        })?;
        world.proxy = Some(Daemon(child));
        let container = host.container("c1")?;
        let request = request("web", &network());
        world.scene.setup(&container, &request)?;
        world.scene.teardown(&container, &request)?;
        let proxy = world.proxy.as_mut().context("it runs")?;
        let ended = || matches!(proxy.0.try_wait(), Ok(Some(status)) if status.success());
        ensure!(eventually(SOON, ended), "it does not end");
        assert!(socket().exists());
        let refused = Program::new(program)
            .args(["dhcp-proxy"])
            .env("LISTEN_FDS", "2")
            .run_in(host)?;
        assert!(
            refused
                .stdout
                .contains("LISTEN_FDS is \\\"2\\\", expected 1"),
            "{refused}"
        );
        Ok(())
    });
}
