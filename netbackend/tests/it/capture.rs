//! What is captured is read by the programs that people read it with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};
use test_fixtures::traffic::eventually;

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene, error, netbackend};
use crate::traffic::{Tcp, answers, pings, servers};

/// Runs a capture beside a script, which ends it with the signal of this name unless it ends by itself.
fn beside(
    scene: &Scene<'_>,
    words: &str,
    signal: Option<&str>,
    work: impl FnOnce() -> Result<()> + Send,
) -> Result<Finished> {
    let own = env!("CARGO_BIN_EXE_netbackend");
    let config = scene.config.display();
    let line = format!("echo $$ >/run/lab/capture; exec {own} --config {config} capture {words}");
    let program = Program::new("bash")
        .args(["-c", &line])
        .timeout(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let capture = scope.spawn(move || program.run_in(scene.host));
        let listens = || {
            scene
                .host
                .sh("grep -c . /proc/net/packet")
                .is_ok_and(|lines| lines.trim() != "1")
        };
        ensure!(
            eventually(Duration::from_secs(20), listens),
            "nobody listens"
        );
        work()?;
        if let Some(signal) = signal {
            scene.host.sh(&format!(
                "sleep 0.2; kill -{signal} $(cat /run/lab/capture)"
            ))?;
        }
        capture
            .join()
            .map_err(|_| anyhow::anyhow!("the capture panicked"))?
    })
}

/// Two containers on a network; the first serves port 80.
fn couple(scene: &Scene<'_>) -> Result<(Netns, Netns)> {
    let (one, two) = (scene.host.container("one")?, scene.host.container("two")?);
    let network = Network::new(1);
    scene.setup(&one, &Request::new("web").on(&network, 2))?;
    scene.setup(&two, &Request::new("client").on(&network, 3))?;
    Ok((one, two))
}

fn file(host: &Host) -> Result<PathBuf> {
    Ok(host.dir("captures")?.join("web.pcapng"))
}

/// Types and bodies of the blocks of a file.
fn blocks(path: &Path) -> Result<Vec<(u32, Vec<u8>)>> {
    let bytes = fs::read(path)?;
    let mut rest = bytes.as_slice();
    let mut found = Vec::new();
    let word = |bytes: &[u8], at: usize| -> Result<u32> {
        Ok(u32::from_le_bytes(
            bytes.get(at..at + 4).context("a whole word")?.try_into()?,
        ))
    };
    while !rest.is_empty() {
        let length = usize::try_from(word(rest, 4)?)?;
        ensure!(
            word(rest, length - 4)? == word(rest, 4)?,
            "both lengths of a block"
        );
        found.push((word(rest, 0)?, rest[8..length - 4].to_vec()));
        rest = &rest[length..];
    }
    Ok(found)
}

#[test]
fn a_signal_ends_it_and_the_file_is_whole() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (one, two) = couple(&scene)?;
        let _servers = servers(&one, Tcp, &[80], "web")?;
        let path = file(host)?;
        for signal in ["INT", "TERM"] {
            let words = format!("web -o {}", path.display());
            let finished = beside(&scene, &words, Some(signal), || {
                answers(&two, Tcp, "10.70.1.2:80", "web", "10.70.1.3")?;
                answers(&two, Tcp, "[fd70:1::2]:80", "web", "fd70:1::3")
            })?;
            ensure!(
                finished.success() && finished.stdout.is_empty(),
                "{finished}"
            );
            ensure!(
                finished.stderr.contains(" packets captured\n")
                    && finished.stderr.contains(", 0 dropped by the kernel"),
                "{finished}"
            );
            let mode = fs::metadata(&path)?.permissions().mode();
            ensure!(mode & 0o777 == 0o600, "others can read it: {mode:o}");
            let blocks = blocks(&path)?;
            let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
            ensure!(
                kinds[..3] == [0x0a0d_0d0a, 1, 4] && kinds.last() == Some(&5),
                "{kinds:?}"
            );
            let packets = kinds.iter().filter(|kind| **kind == 6).count();
            ensure!(
                finished.stderr.starts_with(&format!("{packets} packets")),
                "{packets} {finished}"
            );
            let all = fs::read(&path)?;
            let has = |text: &[u8]| all.windows(text.len()).any(|window| window == text);
            ensure!(
                has(b"\x0a\x46\x01\x02web\0") && has(b"\x0a\x46\x01\x03client\0"),
                "names of addresses"
            );
            ensure!(
                has(b"\x0a\x46\x01\x01gateway.net1\0") && has(b"veth0"),
                "name of gateway, of interface"
            );
        }
        Ok(())
    });
}

/// The readers that people have say the same, where they are installed.
#[test]
fn readers_read_it() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (one, two) = couple(&scene)?;
        let _servers = servers(&one, Tcp, &[80], "web")?;
        let path = file(host)?;
        let words = format!(
            "web -o {} --filter 'tcp dst port 80 or icmp'",
            path.display()
        );
        beside(&scene, &words, Some("INT"), || {
            pings(&two, "10.70.1.2")?;
            answers(&two, Tcp, "10.70.1.2:80", "web", "10.70.1.3")
        })?;
        let path = path.display();
        let installed = |program: &str| host.sh(&format!("command -v {program}")).is_ok();
        if installed("tcpdump") {
            let lines = host.sh(&format!("tcpdump --nano -nr {path} 2>/dev/null"))?;
            ensure!(
                lines.contains("ICMP echo request")
                    && lines.contains("10.70.1.3.")
                    && lines.contains("> 10.70.1.2.80: Flags [S]"),
                "{lines}"
            );
            ensure!(
                !lines.contains("10.70.1.2.80 >") && !lines.contains("ARP"),
                "filtered: {lines}"
            );
        }
        if installed("tshark") {
            let lines = host.sh(&format!(
                "HOME=/run/lab tshark -r {path} -Nn -T fields -e frame.interface_name -e ip.src_host -e ip.dst_host -e frame.time_epoch 2>/dev/null"
            ))?;
            ensure!(lines.contains("veth0\tclient\tweb\t"), "{lines}");
            let times = lines.lines().filter_map(|line| line.rsplit('\t').next());
            let digits: Vec<usize> = times
                .map(|time| time.split('.').nth(1).unwrap_or_default().len())
                .collect();
            ensure!(
                digits.iter().all(|digits| *digits == 9),
                "nanoseconds: {lines}"
            );
        }
        Ok(())
    });
}

/// What the kernel takes out of frames that come in is in the file again: they look as those that go out.
#[test]
fn tags_of_vlans_are_as_they_were_sent() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (one, _two) = couple(&scene)?;
        let path = file(host)?;
        // To neighbours only, which no bridge passes on, from 02:00:00:00:00:77, of a type for experiments.
        let frame = |tags: &str, text: &str| {
            let addresses = r"\001\200\302\000\000\016\002\000\000\000\000\167";
            format!(r"{addresses}{tags}\210\265{text:.<50}")
        };
        let priority_5_vlan_100 = r"\201\000\240\144";
        let around = r"\210\250\000\007";
        let frames = [
            frame("", "none"),
            frame(priority_5_vlan_100, "one"),
            frame(&format!("{around}{priority_5_vlan_100}"), "two"),
        ];
        let words = format!("web -o {}", path.display());
        beside(&scene, &words, Some("INT"), || {
            for frame in &frames {
                one.sh(&format!("printf '{frame}' | socat -u - INTERFACE:eth0"))?;
                host.sh(&format!("printf '{frame}' | socat -u - INTERFACE:veth0"))?;
            }
            Ok(())
        })?;
        let blocks = blocks(&path)?;
        let packets = blocks.iter().filter(|(kind, _)| *kind == 6);
        let found: Vec<&[u8]> = packets
            .filter(|(_, body)| body[26..32] == [2, 0, 0, 0, 0, 0x77])
            .map(|(_, body)| body.as_slice())
            .collect();
        let sent: [&[u8]; 3] = [
            b"\x88\xb5none",
            b"\x81\0\xa0\x64\x88\xb5one.",
            b"\x88\xa8\0\x07\x81\0\xa0\x64\x88\xb5two.",
        ];
        ensure!(found.len() == 6, "{found:?}");
        for (number, body) in found.into_iter().enumerate() {
            let expected = sent[number / 2];
            let tags = expected.len() - 6;
            ensure!(body[32..].starts_with(expected), "{number} {body:?}");
            // Both lengths: what is kept, and what there was.
            let length = u32::try_from(12 + tags + 2 + 50)?.to_le_bytes();
            ensure!(
                body[12..16] == length && body[16..20] == length,
                "{number} {body:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn so_many_packets_and_no_more() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (_one, two) = couple(&scene)?;
        let path = file(host)?;
        let words = format!("web -c 3 --filter icmp -o {}", path.display());
        let finished = beside(&scene, &words, None, || {
            for _ in 0..4 {
                pings(&two, "10.70.1.2")?;
            }
            Ok(())
        })?;
        ensure!(
            finished.stderr.starts_with("3 packets captured\n"),
            "{finished}"
        );
        ensure!(blocks(&path)?.iter().filter(|(kind, _)| *kind == 6).count() == 3);
        Ok(())
    });
}

/// A container that goes ends its capture; who stops reading does, too.
#[test]
fn it_ends_with_the_container_and_with_the_reader() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (one, two) = couple(&scene)?;
        let path = file(host)?;
        let words = format!("web -o {}", path.display());
        let finished = beside(&scene, &words, None, || {
            pings(&two, "10.70.1.2")?;
            scene.teardown(&one, &Request::new("web").on(&Network::new(1), 2))
        })?;
        ensure!(finished.success(), "{finished}");
        ensure!(
            blocks(&path)?.last().map(|(kind, _)| *kind) == Some(5),
            "{finished}"
        );
        let finished = beside(
            &scene,
            "client | { sleep 1; head -c 100 >/dev/null; }",
            None,
            || {
                for _ in 0..60 {
                    host.sh("ping -c 1 -W 1 10.70.1.3 >/dev/null; sleep 0.02")?;
                }
                Ok(())
            },
        )?;
        ensure!(finished.success(), "{finished}");
        Ok(())
    });
}

/// A reader that has fallen asleep does not keep it from its end.
#[test]
fn a_signal_ends_it_though_nobody_reads() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (_one, two) = couple(&scene)?;
        let finished = beside(
            &scene,
            "web > >(exec sleep 30 >/dev/null 2>&1)",
            Some("INT"),
            || two.sh("ping -q -f -s 1400 -c 2000 10.70.1.2").map(drop),
        )?;
        ensure!(finished.success(), "{finished}");
        Ok(())
    });
}

/// Links on top of others have no end on the host: they are listened at inside.
#[test]
fn inside_of_the_container_where_there_is_no_other_place() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let outside = host.outside()?;
        let one = host.container("one")?;
        let network = Network::v4(1)
            .set("driver", "macvlan")
            .set("network_interface", Host::UPLINK);
        scene.setup(&one, &Request::new("web").on(&network, 2))?;
        outside.sh("ip addr add 10.70.1.9/24 dev eth0")?;
        let path = file(host)?;
        let own = env!("CARGO_BIN_EXE_netbackend");
        let config = scene.config.display();
        let line = format!(
            "{own} --config {config} capture web -c 2 --filter icmp -o {}",
            path.display()
        );
        let program = Program::new("sh")
            .args(["-c", &line])
            .timeout(Duration::from_secs(60));
        let finished = std::thread::scope(|scope| -> Result<Finished> {
            let capture = scope.spawn(|| program.run_in(host));
            let listens = || {
                one.sh("grep -c . /proc/net/packet")
                    .is_ok_and(|lines| lines.trim() != "1")
            };
            ensure!(
                eventually(Duration::from_secs(20), listens),
                "nobody listens inside"
            );
            pings(&outside, "10.70.1.2")?;
            capture
                .join()
                .map_err(|_| anyhow::anyhow!("the capture panicked"))?
        })?;
        ensure!(
            finished.stderr.contains("2 packets captured\neth0: "),
            "{finished}"
        );
        Ok(())
    });
}

#[test]
fn what_cannot_be_captured_is_said() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let (_one, _two) = couple(&scene)?;
        let failed = |words: &[&str]| {
            let program = netbackend()
                .arg("--config")
                .arg(&scene.config)
                .arg("capture")
                .args(words);
            error(&program.run_in(host)?)
        };
        let text = failed(&["nobody"])?;
        ensure!(
            text.contains("\"nobody\", expected one of client, web, net1"),
            "{text}"
        );
        let text = failed(&["net1"])?;
        ensure!(text == "net1 is a network, expected a container", "{text}");
        let text = failed(&["web", "-o", "/nowhere/x"])?;
        ensure!(
            text.contains("write /nowhere/x: IO error: No such file"),
            "{text}"
        );
        let usage = netbackend()
            .args(["capture", "web", "--filter", "port http"])
            .run_in(host)?;
        ensure!(
            usage.code() == Some(2) && usage.stderr.contains("expected a port number at \"http\""),
            "{usage}"
        );
        let usage = netbackend()
            .args(["capture", "web", "-c", "0"])
            .run_in(host)?;
        ensure!(
            usage.code() == Some(2) && usage.stderr.contains("invalid value '0'"),
            "{usage}"
        );
        Ok(())
    });
}
