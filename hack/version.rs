//! Part of the build scripts: tells a program from which sources and when it was built, for its `version`.

use std::process::Command;

/// Sets `<PROGRAM>_BUILD_TIME`, `_COMMIT` and `_TARGET` for the compiler.
pub(crate) fn tell() {
    let variable = |name| std::env::var(name).ok();
    let seconds = variable("SOURCE_DATE_EPOCH").map(|seconds| format!("@{seconds}"));
    let time = seconds.as_deref().unwrap_or("now");
    let time = run("date", &["-u", "-d", time, "+%Y-%m-%dT%H:%M:%SZ"]);
    let commit = run("git", &["rev-parse", "HEAD"]);
    let program = variable("CARGO_PKG_NAME")
        .unwrap_or_default()
        .to_uppercase();
    let tell = |name, value: Option<String>, otherwise: &str| {
        let value = value.as_deref().unwrap_or(otherwise);
        println!("cargo::rustc-env={program}_{name}={value}");
    };
    tell("BUILD_TIME", time, "2000-01-01T00:00:00Z");
    tell("COMMIT", commit, "");
    tell("TARGET", variable("TARGET"), "");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // Whatever moves the head of the checkout is written down there.
    if let Some(log) = run("git", &["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// What a program prints, if it succeeds.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}
