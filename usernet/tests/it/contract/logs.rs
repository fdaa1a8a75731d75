//! The log file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use test_fixtures::traffic::{Protocol, serve, tcp_ask};

use super::machine::{Family, Machine, on, podman, program};

/// The limit of the tests, bytes.
const LIMIT: usize = 100 << 10;

/// Seconds at the beginnings of lines.
fn stamps(lines: &str) -> Result<Vec<f64>> {
    let stamps = lines.lines().map(|line| {
        let (stamp, _) = line.split_once(':').with_context(|| line.to_owned())?;
        let (_, fraction) = stamp.split_once('.').with_context(|| line.to_owned())?;
        ensure!(fraction.len() == 4, "{line}");
        Ok(stamp.parse()?)
    });
    stamps.collect()
}

/// Connections until the file is as full as it gets.
fn fill(machine: &Machine<'_>, log: &Path) -> Result<()> {
    let guest = machine.guest()?;
    let words = podman(guest.path(), &["--trace"], &[]);
    let limit = LIMIT.to_string();
    let finished = program()
        .arg("--log-file")
        .arg(log)
        .args(["--log-size", &limit])
        .args(words)
        .run()?;
    ensure!(finished.success(), "{finished}");
    let at = (Family::V4.any(), 7000).into();
    let _server = serve(&machine.outside, Protocol::Tcp, at, "outside")?;
    for _ in 0..1000 {
        tcp_ask(&guest, (Family::V4.outside(), 7000).into())?;
    }
    Ok(())
}

#[test]
fn bounded_sorted_and_with_a_header() {
    on!(|machine| {
        let directory = machine.host.dir("log")?;
        let log = directory.join("file");
        fs::write(&log, "from before\n")?;
        fill(machine, &log)?;
        let text = fs::read_to_string(&log)?;
        ensure!(!text.contains("from before"), "not truncated");
        ensure!(
            (50 << 10..=LIMIT).contains(&text.len()),
            "{} bytes",
            text.len()
        );
        let (header, lines) = text.split_once('\n').context("a header")?;
        let (_, pid) = header.split_once(" (").context("a pid")?;
        let (pid, _) = pid.split_once(')').context("a pid")?;
        pid.parse::<u32>()?;
        ensure!(stamps(lines)?.is_sorted(), "{lines}");
        Ok(())
    });
}

#[test]
fn made_anew_for_its_owner_only() {
    on!(|machine| {
        let log = machine.host.dir("log")?.join("file");
        fs::write(&log, "from before\n".repeat(100_000))?;
        fs::remove_file(&log)?;
        let guest = machine.guest()?;
        let path = log.to_string_lossy();
        let finished = program()
            .args(["--config-net", "--log-file", &*path, "--netns"])
            .arg(guest.path())
            .run()?;
        ensure!(finished.success(), "{finished}");
        let mode = fs::metadata(&log)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{mode:o}");
        let text = fs::read_to_string(&log)?;
        let (header, lines) = text.split_once('\n').context("a header")?;
        let name = header.split(' ').next().context("a name")?;
        ensure!(name == "pasta" || name == "usernet", "{header}");
        ensure!(stamps(lines)?.is_sorted(), "{lines}");
        ensure!(lines.contains("Template interface: uplink"), "{lines}");
        Ok(())
    });
}
