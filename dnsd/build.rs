//! Tells the program from which sources and when it was built, and how it is linked.

#![expect(clippy::disallowed_methods, reason = "a build script asks the system")]

#[path = "../hack/version.rs"]
mod version;

use std::path::{Path, PathBuf};

fn main() {
    version::tell();
    link_unwinder();
}

/// Takes the unwinder of the standard library from a static archive, if the linker has one. As a library of its own
/// it costs a tenth of a millisecond at every start, since it asks the processor what it can, which in a virtual
/// machine is slow.
fn link_unwinder() {
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_ENV") != "gnu" || variable("HOST") != variable("TARGET") {
        return;
    }
    let linker = std::env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let archive = version::run(&linker, &["-print-file-name=libgcc_eh.a"]).map(PathBuf::from);
    if let Some(directory) = archive
        .as_deref()
        .filter(|path| path.is_file())
        .and_then(Path::parent)
    {
        println!("cargo::rustc-link-search=native={}", directory.display());
        println!("cargo::rustc-link-lib=static:+verbatim=libgcc_eh.a");
    }
}
