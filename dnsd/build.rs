//! Tells the program from which sources and when it was built, for `dnsd version`.

#![expect(clippy::disallowed_methods, reason = "a build script asks the system")]

use std::path::{Path, PathBuf};
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
    link_unwinder(&run);
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
}

/// Takes the unwinder of the standard library from a static archive, if the linker has one. As a library of its own
/// it costs a tenth of a millisecond at every start, since it asks the processor what it can, which in a virtual
/// machine is slow.
fn link_unwinder(run: &impl Fn(&str, &[&str]) -> Option<String>) {
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu") {
        return;
    }
    let linker = std::env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let archive = run(&linker, &["-print-file-name=libgcc_eh.a"]).map(PathBuf::from);
    if let Some(directory) = archive
        .as_deref()
        .filter(|path| path.is_file())
        .and_then(Path::parent)
    {
        println!("cargo::rustc-link-search=native={}", directory.display());
        println!("cargo::rustc-link-lib=static:+verbatim=libgcc_eh.a");
    }
}
