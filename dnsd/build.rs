//! Tells the program from which sources and when it was built, for `dnsd version`.

#![expect(clippy::disallowed_methods, reason = "a build script asks the system")]

use std::process::Command;

fn main() {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let date = match &epoch {
        Some(seconds) => run(
            "date",
            &["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"],
        ),
        None => run("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
    };
    let commit = run("git", &["rev-parse", "HEAD"]).unwrap_or_default();
    let target = std::env::var("TARGET").unwrap_or_default();
    println!(
        "cargo::rustc-env=DNSD_BUILD_TIME={}",
        date.unwrap_or_else(|| "2000-01-01T00:00:00Z".to_owned())
    );
    println!("cargo::rustc-env=DNSD_COMMIT={commit}");
    println!("cargo::rustc-env=DNSD_TARGET={target}");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
}
