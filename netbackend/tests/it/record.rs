//! The recorder writes down what passes, and neither side notices it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};
use wire::recording::Recording;

use crate::lab::{self, Host};
use crate::scene::{Network, Request, Scene, netbackend, reply};

/// An executable script in a directory of the lab.
fn script(host: &Host, name: &str, text: &str) -> Result<PathBuf> {
    let path = host.dir("programs")?.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// All recordings in a directory, in their order.
fn recordings(directory: &Path) -> Result<Vec<Recording>> {
    let mut names: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    names.sort();
    let files = names.iter().filter(|path| path.extension().is_some());
    files
        .map(|path| {
            let mode = fs::metadata(path)?.permissions().mode();
            ensure!(mode & 0o777 == 0o600, "{mode:o}");
            let text = fs::read_to_string(path)?;
            serde_json::from_str(&text).with_context(|| text.clone())
        })
        .collect()
}

fn recorded(directory: &Path, command: &[&str]) -> Program {
    let own = env!("CARGO_BIN_EXE_netbackend");
    netbackend()
        .args(["record", "--backend", own])
        .arg(directory)
        .arg("--")
        .args(command)
}

/// A backend of our own making, called by itself under the recorder.
fn through(host: &Host, text: &str, input: &str) -> Result<(Finished, Recording)> {
    let backend = script(host, "netavark", text)?;
    let directory = host.dir("recorded")?;
    let backend = backend.display().to_string();
    let finished = recorded(&directory, &[&backend, "setup", "/x"])
        .stdin(input.to_owned())
        .run_in(host)?;
    let recording = recordings(&directory)?.pop().context("a recording")?;
    Ok((finished, recording))
}

#[test]
fn a_setup_and_a_teardown_of_an_engine() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let one = host.container("one")?;
        let request = Request::new("web")
            .on(&Network::new(1), 2)
            .publish("", 8080, 80, "tcp");
        let directory = host.dir("recorded")?;
        let before = scene.snapshot()?;
        // An engine looks into the directory of the variable, and may run with another environment later.
        let engine = script(
            host,
            "engine",
            "#!/bin/sh\nhelper=$CONTAINERS_HELPER_BINARY_DIR/netavark\nunset CONTAINERS_HELPER_BINARY_DIR\n\
             PASSWORD=secret exec \"$helper\" \"$@\"\n",
        )?;
        let engine = engine.display().to_string();
        let config = scene.config.display().to_string();
        let call = |verb: &str| {
            let netns: &Netns = &one;
            let words = [
                engine.as_str(),
                "--config",
                &config,
                "--aardvark-binary=",
                verb,
                &netns.path().display().to_string(),
            ]
            .map(str::to_owned);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            recorded(&directory, &words)
                .env("RUST_LOG", "netavark=error")
                .stdin(request.json().to_string())
                .run_in(host)
        };
        let status = reply(&call("setup")?)?;
        ensure!(
            host.sh("ip link show br1").is_ok(),
            "the backend has done its work"
        );
        let finished = call("teardown")?;
        ensure!(
            finished.success() && finished.stdout.is_empty(),
            "{finished}"
        );
        scene.assert_same_as(&before);

        let calls = recordings(&directory)?;
        let [setup, teardown] = calls.as_slice() else {
            anyhow::bail!("{calls:?}");
        };
        ensure!(setup.arguments[3] == "setup" && teardown.arguments[3] == "teardown");
        ensure!(setup.exit_code == Some(0) && setup.duration_us > 0);
        let kept = |raw: &Option<Box<serde_json::value::RawValue>>| -> Result<Value> {
            Ok(serde_json::from_str(
                raw.as_ref().context("a document")?.get(),
            )?)
        };
        ensure!(kept(&setup.request)? == request.json() && kept(&setup.reply)? == status);
        ensure!(setup.environment["RUST_LOG"] == "netavark=error");
        ensure!(!setup.environment.contains_key("PASSWORD"), "{setup:?}");
        ensure!(teardown.reply.is_none() && teardown.output.is_none());
        Ok(())
    });
}

#[test]
fn output_and_code_are_the_backends() {
    lab::run(|host| {
        let text = "#!/bin/sh\nread line; echo \"{\\\"error\\\": $line}\"; echo oops >&2; exit 7\n";
        let (finished, recording) = through(host, text, "42\n")?;
        ensure!(finished.code() == Some(7), "{finished}");
        ensure!(
            finished.stdout == "{\"error\": 42}\n" && finished.stderr == "oops\n",
            "{finished}"
        );
        ensure!(recording.exit_code == Some(7) && recording.signal.is_none());
        ensure!(recording.reply.context("a reply")?.get() == "{\"error\": 42}");
        ensure!(recording.arguments == ["setup", "/x"]);
        Ok(())
    });
}

/// More than pipes hold, in both directions, to one who reads slowly and one who does not read at all.
#[test]
fn much_passes_whole() {
    lab::run(|host| {
        let input = format!("[{}1]", "\"abcdefghij\", ".repeat(100_000));
        let (finished, recording) = through(host, "#!/bin/sh\nsleep 0.2; cat\n", &input)?;
        ensure!(
            finished.success() && finished.stdout == input,
            "{} of {}",
            finished.stdout.len(),
            input.len()
        );
        ensure!(recording.request.context("a request")?.get() == input && !recording.cut);
        let (finished, _) = through(host, "#!/bin/sh\necho done\n", &input)?;
        ensure!(finished.stdout == "done\n", "{finished}");
        Ok(())
    });
}

/// A signal to the recorder is one to the backend, and what kills the backend kills the recorder.
#[test]
fn signals_pass_and_kill() {
    lab::run(|host| {
        let (finished, recording) = through(host, "#!/bin/sh\nkill -USR1 $$\n", "")?;
        ensure!(finished.signal() == Some(10), "{finished}");
        ensure!((recording.exit_code, recording.signal) == (None, Some(10)));
        let text = "#!/bin/sh\ntrap 'echo ended; exit 3' TERM\nkill -TERM $PPID\nwhile :; do sleep 0.05; done\n";
        let (finished, recording) = through(host, text, "")?;
        ensure!(
            finished.code() == Some(3) && finished.stdout == "ended\n",
            "{finished}"
        );
        ensure!(recording.exit_code == Some(3) && recording.output.as_deref() == Some("ended\n"));
        Ok(())
    });
}

/// A recorder that is killed takes the backend with it, as if that had been killed itself.
#[test]
fn a_killed_recorder_leaves_nobody() {
    lab::run(|host| {
        let text = "#!/bin/sh\necho $$ >/run/lab/backend\nkill -KILL $PPID\nexec sleep 60\n";
        let backend = script(host, "netavark", text)?;
        let directory = host.dir("recorded")?;
        let finished = recorded(&directory, &[&backend.display().to_string()]).run_in(host)?;
        ensure!(finished.signal() == Some(9), "{finished}");
        let pid = fs::read_to_string("/run/lab/backend")?;
        let gone = || !Path::new("/proc").join(pid.trim()).exists();
        ensure!(test_fixtures::traffic::eventually(
            Duration::from_secs(5),
            gone
        ));
        Ok(())
    });
}

/// An input that nobody ever closes does not keep a call from its end.
#[test]
fn an_open_input_is_not_waited_for() {
    lab::run(|host| {
        let backend = script(host, "netavark", "#!/bin/sh\necho '{}'\n")?;
        let directory = host.dir("recorded")?;
        let line = format!(
            "exec {} record {} -- {} update x < <(exec sleep 60 >/dev/null 2>&1)",
            env!("CARGO_BIN_EXE_netbackend"),
            directory.display(),
            backend.display()
        );
        let program = Program::new("bash").args(["-c", &line]);
        let finished = program.timeout(Duration::from_secs(30)).run_in(host)?;
        ensure!(
            finished.success() && finished.stdout == "{}\n",
            "{finished}"
        );
        let calls = recordings(&directory)?;
        ensure!(
            calls.len() == 1 && calls[0].exit_code == Some(0),
            "{calls:?}"
        );
        Ok(())
    });
}

#[test]
fn what_cannot_be_started_is_said() {
    lab::run(|host| {
        let directory = host.dir("recorded")?;
        let failed =
            |command: &[&str]| crate::scene::error(&recorded(&directory, command).run_in(host)?);
        let text = failed(&["/nowhere/engine"])?;
        ensure!(
            text.contains("start /nowhere/engine: IO error: No such file"),
            "{text}"
        );
        let text = failed(&["/nowhere/netavark", "setup"])?;
        ensure!(text.contains("start /nowhere/netavark: IO error"), "{text}");
        let text = failed(&[])?;
        ensure!(text.contains("expected a command"), "{text}");
        Ok(())
    });
}

#[test]
fn the_backend_is_the_one_that_the_engine_is_configured_to_call() {
    lab::run(|host| {
        let ours = script(host, "netavark", "#!/bin/sh\necho configured\n")?;
        let place = ours.parent().context("a directory")?;
        let configuration = place.join("containers.conf");
        fs::write(
            &configuration,
            format!(
                "[engine]\nhelper_binaries_dir = [\"{}\"]\n",
                place.display()
            ),
        )?;
        let directory = host.dir("recorded")?;
        let finished = netbackend()
            .arg("record")
            .arg(&directory)
            .args(["--", "sh", "-c"])
            .arg("exec \"$CONTAINERS_HELPER_BINARY_DIR/netavark\" version")
            .env("CONTAINERS_CONF", &configuration)
            .run_in(host)?;
        ensure!(finished.stdout == "configured\n", "{finished}");
        let recording = recordings(&directory)?.pop().context("a recording")?;
        ensure!(recording.program == ours.display().to_string());
        Ok(())
    });
}

#[test]
fn nobody_else_can_put_something_where_engines_look() {
    lab::run(|host| {
        let check = |directory: &Path, expected: Option<&str>| -> Result<()> {
            let finished = netbackend()
                .arg("record")
                .arg(directory)
                .args(["--", "true"])
                .run_in(host)?;
            match expected {
                None => ensure!(finished.success(), "{finished}"),
                Some(why) => ensure!(
                    finished.code() == Some(1) && finished.stdout.contains(why),
                    "{finished}"
                ),
            }
            Ok(())
        };
        let open = host.dir("open")?;
        let mode = |mode| fs::set_permissions(&open, fs::Permissions::from_mode(mode));
        mode(0o777)?;
        check(&open, Some("mode 777, expected a place that only user 0"))?;
        ensure!(!open.join("bin").exists());
        check(&open.join("below"), Some("mode 777"))?;
        mode(0o1777)?;
        let made = open.join("made");
        check(&made, None)?;
        let made = fs::metadata(&made)?.permissions().mode();
        ensure!(made & 0o777 == 0o700, "{made:o}");
        mode(0o755)?;
        check(&open, None)?;
        host.sh(&format!("chown 65534 {}", open.display()))?;
        check(&open, Some("has owner 65534"))
    });
}
