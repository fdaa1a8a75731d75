//! Options, sub-commands and variables.

use std::os::unix::fs::symlink;
use std::time::Duration;

use test_fixtures::program::Program;

use crate::machine::{GATEWAY, Machine, line, on, ours, program, program_path};
use crate::upstream::Upstream;

#[test]
fn version_option_is_one_line() {
    on!(|_| {
        for option in ["-V", "--version"] {
            let finished = program().arg(option).run()?;
            assert!(finished.success(), "{finished}");
            let words: Vec<_> = finished.stdout.trim_end().split(' ').collect();
            assert_eq!(words.len(), 2, "{finished}");
            let numbers: Vec<_> = words[1]
                .split(['-', '+'])
                .next()
                .unwrap()
                .split('.')
                .collect();
            assert!(
                numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()),
                "{finished}"
            );
            assert_eq!(finished.stdout.lines().count(), 1, "{finished}");
        }
        Ok(())
    });
}

#[test]
fn version_command_prints_four_strings() {
    on!(|_| {
        let finished = program().arg("version").run()?;
        assert!(finished.success(), "{finished}");
        let value: serde_json::Value = serde_json::from_str(&finished.stdout)?;
        for key in ["version", "commit", "build_time", "target"] {
            assert!(value[key].is_string(), "{key} in {value}");
        }
        Ok(())
    });
}

#[test]
fn help_is_on_stdout() {
    on!(|_| {
        for option in ["-h", "--help", "help"] {
            let finished = program().arg(option).run()?;
            assert_eq!(finished.code(), Some(0), "{finished}");
            assert!(finished.stdout.contains("--config"), "{finished}");
        }
        Ok(())
    });
}

#[test]
fn wrong_usage_is_exit_code_2() {
    on!(|machine| {
        machine.usual_network()?;
        for args in [
            &[][..],
            &["--nonsense", "run"],
            &["nonsense"],
            &["-p", "65536", "run"],
        ] {
            let finished = machine.program().args(args).run()?;
            assert_eq!(finished.code(), Some(2), "{args:?}: {finished}");
            assert!(
                !finished.stderr.is_empty() && finished.stdout.is_empty(),
                "{finished}"
            );
        }
        Ok(())
    });
}

#[test]
fn without_a_directory_it_fails() {
    on!(|_| {
        let finished = program().args(["-p", "53", "run"]).run()?;
        assert_eq!(finished.code(), Some(1), "{finished}");
        Ok(())
    });
}

#[test]
fn arguments_stay_visible() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let dir = machine.dir.display();
        let seen = daemon.proc("cmdline")?.replace('\0', " ");
        assert!(
            seen.ends_with(&format!(" --config {dir} -p 53 run ")),
            "{seen}"
        );
        Ok(())
    });
}

#[test]
fn runs_under_the_name_that_engines_look_for() {
    on!(|machine| {
        machine.usual_network()?;
        symlink(program_path(), "/run/lab/aardvark-dns")?;
        let daemon = machine.start_as(
            Program::new("/run/lab/aardvark-dns")
                .arg("--config")
                .arg(&machine.dir)
                .args(["-p", "53", "run"]),
        )?;
        let seen = daemon.proc("cmdline")?.replace('\0', " ");
        let wanted = format!("aardvark-dns --config {} -p 53 run", machine.dir.display());
        assert!(seen.contains(&wanted), "{seen}");
        assert_eq!(machine.web().says("web A")?, "NOERROR 10.88.0.2");
        Ok(())
    });
}

#[test]
fn another_port() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start_as(
            program()
                .arg("-c")
                .arg(&machine.dir)
                .args(["--port", "5353", "run"]),
        )?;
        let web = machine.web().port(5353);
        assert_eq!(web.says("web A")?, "NOERROR 10.88.0.2");
        assert!(machine.web().says("web A").is_err());
        Ok(())
    });
}

#[test]
fn default_port() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start_as(program().arg("-c").arg(&machine.dir).arg("run"))?;
        assert_eq!(machine.web().port(5533).says("web A")?, "NOERROR 10.88.0.2");
        Ok(())
    });
}

#[test]
fn another_port_by_tcp() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start_as(
            program()
                .arg("-c")
                .arg(&machine.dir)
                .args(["-p", "5353", "run"]),
        )?;
        assert_eq!(
            machine.web().port(5353).says_by_tcp("web A")?,
            "NOERROR 10.88.0.2"
        );
        Ok(())
    });
}

#[test]
fn another_search_domain() {
    on!(|machine| {
        machine.usual_network()?;
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.start_as(machine.program().args(["-f", ".example.test", "run"]))?;
        let web = machine.web();
        assert_eq!(web.says("db.example.test A")?, "NOERROR 10.88.0.3");
        assert_eq!(web.says("nobody.example.test A")?, "NXDOMAIN");
        assert_eq!(upstream.asked().len(), 0);
        // The usual one is now a name like any other.
        assert_eq!(web.says("db.dns.podman A")?, "NOERROR 192.0.2.80");
        Ok(())
    });
}

#[test]
fn search_domain_with_a_final_dot() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start_as(machine.program().args([
            "--filter-search-domain",
            ".example.test.",
            "run",
        ]))?;
        assert_eq!(
            machine.web().says("db.example.test A")?,
            "NOERROR 10.88.0.3"
        );
        Ok(())
    });
}

#[test]
fn search_domain_is_a_plain_suffix() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start_as(machine.program().args(["-f", "example.test", "run"]))?;
        assert_eq!(machine.web().says("dbexample.test A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn empty_search_domain_forwards_nothing() {
    on!(|machine| {
        machine.usual_network()?;
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.start_as(machine.program().args(["-f", "", "run"]))?;
        assert_eq!(machine.web().says("www.example A")?, "NXDOMAIN");
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn no_proxy_forwards_nothing() {
    on!(|machine| {
        machine.usual_network()?;
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        for value in ["1", "0", ""] {
            let daemon =
                machine.start_as(machine.program().env("AARDVARK_NO_PROXY", value).arg("run"))?;
            assert_eq!(
                machine.web().says("www.example A")?,
                "NXDOMAIN",
                "{value:?}"
            );
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
            daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
            assert!(daemon.ends_within(Duration::from_secs(10)));
        }
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

fn starts_quietly_with_log_level(level: &str) -> anyhow::Result<()> {
    let dir = std::path::Path::new("/run/lab/networks/aardvark-dns");
    std::fs::write(
        dir.join("net"),
        format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
    )?;
    let finished = program()
        .arg("--config")
        .arg(dir)
        .args(["-p", "53", "run"])
        .env("RUST_LOG", level)
        .run()?;
    assert!(
        finished.success() && finished.stderr.is_empty(),
        "{level}: {finished}"
    );
    Ok(())
}

#[test]
fn log_levels() {
    on!(|_| {
        for level in ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"] {
            starts_quietly_with_log_level(level)?;
            std::fs::remove_file("/run/lab/networks/aardvark-dns/net")?;
            let hup = Program::new("sh")
                .args([
                    "-c",
                    "pid=$(cat /run/lab/networks/aardvark-dns/aardvark.pid); kill -HUP $pid; \
                     for i in $(seq 100); do test -d /proc/$pid || break; sleep 0.1; done",
                ])
                .run()?;
            assert!(hup.success(), "{hup}");
        }
        Ok(())
    });
}

#[test]
fn logging_switched_off() {
    on!(|_| starts_quietly_with_log_level("OFF"));
}

#[test]
fn log_filters() {
    on!(|_| starts_quietly_with_log_level("netavark=warn,info"));
}

fn explains(args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let finished = program().args(args).run()?;
    Ok((finished.code(), finished.stdout.clone() + &finished.stderr))
}

/// Files that the daemon would serve, however they look at the moment.
#[test]
fn a_file_without_a_last_end_of_line_is_explained() {
    ours!(|machine| {
        let dir = machine.dir.to_str().expect("it is text");
        let text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web"));
        machine.network("net", text.trim_end())?;
        let (code, said) = explains(&["check", dir])?;
        assert!(code == Some(0) && said.contains("web"), "{code:?} {said}");
        machine.network("net", text.trim_end())?;
        let (code, said) = explains(&["query", dir, "web", "--from", "10.88.0.2"])?;
        assert!(
            code == Some(0) && said.contains("10.88.0.2"),
            "{code:?} {said}"
        );
        Ok(())
    });
}

/// Whatever keeps a file from being served is said.
#[test]
fn what_cannot_be_read_is_explained() {
    ours!(|machine| {
        let dir = machine.dir.to_str().expect("it is text");
        let wrong = |what: &str| -> anyhow::Result<()> {
            for args in [
                &["check", dir][..],
                &["query", dir, "web", "--from", "10.88.0.2"],
            ] {
                let (code, said) = explains(args)?;
                assert!(code == Some(1) && said.contains(what), "{code:?} {said}");
            }
            Ok(())
        };
        wrong_name(machine)?;
        wrong("its name is not UTF-8")?;
        symlink("itself", machine.dir.join("itself"))?;
        wrong("itself: it cannot be read")?;
        machine.host.sh(&format!("mkfifo {dir}/pipe"))?;
        wrong("pipe: it is not a file")?;
        machine.network("cut", "10.88")?;
        wrong("cut: ")?;
        Ok(())
    });
}

fn wrong_name(machine: &Machine<'_>) -> anyhow::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"bad\xff");
    Ok(std::fs::write(machine.dir.join(name), "10.90.0.1\n")?)
}

/// The answer is the one that a daemon in the same environment would give.
#[test]
fn the_environment_counts_for_explanations() {
    ours!(|machine| {
        machine.usual_network()?;
        let query = |name: &str, variable: &str, value: &str| -> anyhow::Result<String> {
            let asked = program().arg("query").arg(&machine.dir);
            let asked = asked
                .args([name, "--from", "10.88.0.2"])
                .env(variable, value);
            Ok(asked.run()?.stdout)
        };
        let said = query("www.example", "AARDVARK_NO_PROXY", "1")?;
        assert!(said.contains("AARDVARK_NO_PROXY"), "{said}");
        let said = query("host.containers.internal", "DNSD_HOST_NAMES", "on")?;
        assert!(said.contains(GATEWAY), "{said}");
        let said = query("host.containers.internal", "DNSD_HOST_NAMES", "off")?;
        assert!(said.contains("servers of the host"), "{said}");
        Ok(())
    });
}

/// Without --at the asker asks the address of its own network.
#[test]
fn the_asker_asks_its_own_network() {
    ours!(|machine| {
        machine.usual_network()?;
        machine.network(
            "a-first",
            &format!("10.90.0.1,fd10:89::1\n{}", line(5, "10.90.0.2", "", "far")),
        )?;
        let query = |from: &str| -> anyhow::Result<String> {
            let asked = program().arg("query").arg(&machine.dir);
            let asked = asked.args(["host.containers.internal", "--from", from]);
            Ok(asked.run()?.stdout)
        };
        let said = query("10.88.0.2")?;
        assert!(said.contains(GATEWAY), "{said}");
        let said = query("192.0.2.1")?;
        assert!(said.contains("a-first"), "{said}");
        Ok(())
    });
}
