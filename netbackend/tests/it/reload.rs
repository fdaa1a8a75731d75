//! All rules anew: nothing is lost by it, and what was lost comes back.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_fixtures::flows::{Course, Passed};
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene, error, netbackend, silent};
use crate::traffic::{Tcp, answers, at, eventually, servers};

/// `firewall-reload`, as a unit of systemd or an administrator calls it.
pub(crate) fn reload(scene: &Scene<'_>) -> Program {
    netbackend()
        .arg("--config")
        .arg(&scene.config)
        .arg("firewall-reload")
        .timeout(Duration::from_secs(30))
}

fn reloads(scene: &Scene<'_>) -> Result<()> {
    silent(&reload(scene).run_in(scene.host)?)
}

/// Two networks with a container each, both published; and the machine outside.
struct Published<'a> {
    scene: Scene<'a>,
    outside: Netns,
    containers: [Netns; 2],
    requests: [Request; 2],
}

impl<'a> Published<'a> {
    fn new(host: &'a Host) -> Result<Self> {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let containers = [host.container("c1")?, host.container("c2")?];
        let requests = [
            Request::new("c1")
                .on(&Network::new(1).dns(), 2)
                .publish("", 8080, 80, "tcp")
                .publish("", 8081, 81, "udp"),
            Request::new("c2")
                .on(&Network::new(2).option("isolate", "strict"), 2)
                .publish(Host::V4, 8082, 80, "tcp")
                .publish("127.0.0.1", 8083, 80, "tcp"),
        ];
        for (container, request) in containers.iter().zip(&requests) {
            scene.setup(container, request)?;
        }
        Ok(Self {
            scene,
            outside,
            containers,
            requests,
        })
    }

    fn ruleset(&self) -> Result<String> {
        self.scene.host.sh("nft list ruleset")
    }

    fn answers(&self, number: usize, port: u16) -> Result<()> {
        let tag = format!("c{}", number + 1);
        let _servers = servers(&self.containers[number], Tcp, &[80], &tag)?;
        let to = format!("{}:{port}", Host::V4);
        answers(&self.outside, Tcp, &to, &tag, Host::OUTSIDE_V4)
    }
}

/// A reload that succeeded says so to those who want to know; the words are netavark's.
fn says_success(finished: &Finished) -> Result<()> {
    let word = "[INFO  netavark::commands::firewall_reload] Successfully reloaded firewall rules";
    ensure!(
        finished.success() && finished.stdout.is_empty() && finished.stderr.contains(word),
        "{finished}"
    );
    Ok(())
}

#[test]
fn what_was_flushed_comes_back_and_stays_the_same() {
    lab::run(|host| {
        let published = Published::new(host)?;
        let before = published.ruleset()?;
        for script in [
            "nft flush ruleset",
            "nft flush table inet netavark",
            "nft flush map inet netavark publish4",
            "",
            "",
        ] {
            host.sh(script)?;
            let quiet = reload(&published.scene).env("NETAVARK_FW", "nonsense");
            says_success(&quiet.env("RUST_LOG", "netavark=info").run_in(host)?)?;
            let after = published.ruleset()?;
            ensure!(after == before, "after `{script}`: {before}\n{after}");
        }
        published.answers(0, 8080)?;
        published.answers(1, 8082)?;
        let Published {
            scene,
            containers,
            requests,
            ..
        } = published;
        for (container, request) in containers.iter().zip(&requests) {
            scene.teardown(container, request)?;
        }
        ensure!(host.sh("nft list ruleset")?.is_empty());
        Ok(())
    });
}

/// Services are started whether there are containers or not.
#[test]
fn nothing_on_record() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let before = scene.snapshot()?;
        reloads(&scene)?;
        fs::remove_dir(&scene.config)?;
        reloads(&scene)?;
        ensure!(!scene.config.exists());
        fs::create_dir(&scene.config)?;
        scene.assert_same_as(&before);
        Ok(())
    });
}

#[test]
fn driver_none_on_record() {
    lab::run(|host| {
        let scene = Scene::new(host)?.env("NETAVARK_FW", "none");
        let container = host.container("c1")?;
        scene.setup(&container, &Request::new("c1").on(&Network::new(1), 2))?;
        reloads(&scene)?;
        ensure!(host.sh("nft list ruleset")?.is_empty());
        Ok(())
    });
}

/// The records of one container are damaged: it is named, the other one gets its rules back.
#[test]
fn a_damaged_record_is_named_and_the_rest_comes_back() {
    lab::run(|host| {
        let published = Published::new(host)?;
        let record = published.scene.config.join("netbackend/containers/c1");
        let netavarks = published.scene.config.join("firewall/ports");
        let netavarks = netavarks.join(format!("{:064x}_c1", 1));
        ensure!(netavarks.exists());
        fs::write(&record, "{\"version\": 1, \"id\"")?;
        fs::write(&netavarks, "")?;
        host.sh("nft flush ruleset")?;
        let finished = reload(&published.scene)
            .env("RUST_LOG", "off")
            .run_in(host)?;
        let text = error(&finished)?;
        for path in [&record, &netavarks] {
            ensure!(text.contains(&path.display().to_string()), "{text}");
        }
        published.answers(1, 8082)?;
        ensure!(published.answers(0, 8080).is_err());
        Ok(())
    });
}

/// Only netavark's files tell of the containers, as after netavark has been replaced.
#[test]
fn files_of_netavark_are_enough() {
    lab::run(|host| {
        let published = Published::new(host)?;
        fs::remove_dir_all(published.scene.config.join("netbackend"))?;
        fs::write(
            published.scene.config.join("firewall/firewall-driver"),
            "iptables",
        )?;
        host.sh("nft flush ruleset")?;
        reloads(&published.scene)?;
        let once = published.ruleset()?;
        reloads(&published.scene)?;
        ensure!(published.ruleset()? == once);
        published.answers(0, 8080)?;
        published.answers(1, 8082)
    });
}

#[test]
fn unknown_driver_on_record() {
    lab::run(|host| {
        let published = Published::new(host)?;
        let path = published.scene.config.join("firewall/firewall-driver");
        fs::write(path, "ipchains\n")?;
        let text = error(&reload(&published.scene).run_in(host)?)?;
        ensure!(
            text == "firewall driver on record: \"ipchains\", expected nftables, firewalld or none",
            "{text}"
        );
        Ok(())
    });
}

impl Published<'_> {
    /// What becomes of flows through the ports of the first container while something is done.
    fn beside_flows(&self, work: impl FnOnce() -> Result<()>) -> Result<Passed> {
        let at = |port: u16| at(&format!("{}:{port}", Host::V4));
        let course = Course {
            outside: &self.outside,
            host: self.scene.host,
            container: &self.containers[0],
            udp: at(8081),
            tcp: at(8080),
            udp_target: 81,
            tcp_target: 80,
        };
        course.beside(work)
    }
}

/// While rules are written anew sixty times, all packets of running flows and of new ones get there and back, but for
/// those that the kernel dropped because a queue was full, and counted.
#[test]
fn no_packet_of_a_flow_is_lost() {
    lab::run(|host| {
        let published = Published::new(host)?;
        let reload_often = || (0..60).try_for_each(|_| reloads(&published.scene));
        let passed = published.beside_flows(reload_often)?;
        ensure!(
            passed.one.sent > 1000 && passed.each.sent > 200,
            "{passed:?}"
        );
        ensure!(
            passed.tcp_whole && passed.lost() <= passed.counted() && passed.astray() == 0,
            "{passed:?}"
        );
        Ok(())
    });
}

/// What the test before this one relies on: packets for which there are no rules, be it for a moment, are missed.
#[test]
fn packets_without_rules_are_missed() {
    lab::run(|host| {
        let published = Published::new(host)?;
        let passed = published.beside_flows(|| {
            (0..5).try_for_each(|_| {
                host.sh("nft delete table inet netavark")?;
                reloads(&published.scene)
            })
        })?;
        ensure!(
            passed.lost() > passed.counted() && passed.astray() > 0,
            "{passed:?}"
        );
        Ok(())
    });
}

/// A service that runs until dropped or asked to end.
#[derive(Debug)]
pub(crate) struct Service(Child);

impl Service {
    pub(crate) fn start(scene: &Scene<'_>, command: &str, env: &[(&str, &str)]) -> Result<Self> {
        let program = std::env::var_os("NETBACKEND")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_netbackend").into());
        let log = fs::File::create("/run/lab/service.log")?;
        let child = scene.host.enter(|| {
            Command::new(program)
                .arg("--config")
                .arg(&scene.config)
                .arg(command)
                .env("RUST_LOG", "netavark=info")
                .envs(env.iter().copied())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("start the service")
        })?;
        Ok(Self(child))
    }

    pub(crate) fn log() -> String {
        fs::read_to_string("/run/lab/service.log").unwrap_or_default()
    }

    /// Asks the service to end, which it must do at once and without a complaint.
    fn ends(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let begin = std::time::Instant::now();
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}: {}", Self::log());
        ensure!(begin.elapsed() < Duration::from_secs(1));
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_watch_repairs_what_others_break() {
    lab::run(|host| {
        let published = Published::new(host)?;
        let before = published.ruleset()?;
        host.sh("nft flush ruleset")?;
        let service = Service::start(&published.scene, "nftables-reload", &[])?;
        let comes_back = |what: &str| {
            let same = || published.ruleset().is_ok_and(|now| now == before);
            ensure!(
                eventually(Duration::from_secs(20), same),
                "after {what}: {before}\n{:?}\n{}",
                published.ruleset(),
                Service::log()
            );
            Ok(())
        };
        comes_back("its start")?;
        for script in [
            "nft flush ruleset",
            "nft delete table inet netavark",
            "nft flush chain inet netavark FORWARD",
            "nft flush map inet netavark publish4",
            "nft delete element inet netavark publish4 '{ tcp . 8080 }'",
            "nft flush set inet netavark subnets6",
            "n=$(nft -a list chain inet netavark FORWARD | sed -n 's/.*goto FROM-OUTSIDE # handle //p')
             nft replace rule inet netavark FORWARD handle $n drop",
        ] {
            host.sh(script)?;
            comes_back(script)?;
        }
        host.sh(
            "nft add table inet other; nft add chain inet other mine; nft delete table inet other",
        )?;
        service.ends()
    });
}

/// Calls go on beside the service, which has nothing to do then, and what an administrator adds stays.
#[test]
fn the_watch_leaves_calls_and_additions_alone() {
    lab::run(|host| {
        let published = Published::new(host)?;
        let service = Service::start(&published.scene, "nftables-reload", &[])?;
        host.sh("nft insert rule inet netavark INPUT ct state invalid drop")?;
        let third = host.container("c3")?;
        let request = Request::new("c3")
            .on(&Network::new(3), 2)
            .publish("", 8090, 80, "tcp");
        for _ in 0..3 {
            published.scene.setup(&third, &request)?;
            std::thread::sleep(Duration::from_millis(200));
            published.scene.teardown(&third, &request)?;
        }
        std::thread::sleep(Duration::from_millis(700));
        ensure!(published.ruleset()?.contains("ct state invalid drop"));
        ensure!(Service::log().is_empty(), "{}", Service::log());
        for (container, request) in published.containers.iter().zip(&published.requests) {
            published.scene.teardown(container, request)?;
        }
        std::thread::sleep(Duration::from_millis(700));
        ensure!(published.ruleset()?.is_empty());
        ensure!(!published.scene.config.join("netbackend").exists());
        service.ends()
    });
}
