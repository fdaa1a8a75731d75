//! Finds a program of another package of the workspace.
//!
//! Cargo builds the programs of a package for its tests, but not those of other packages, and names only the former.
//! All of a build end up in one directory. One that is not there, or older than its sources, is built, at most once in
//! a process. Cargo lets builds wait for each other and puts a program in its place in one piece, so test programs that
//! run side by side do not disturb each other. Whether it is older is looked up here, since cargo, asked for one package
//! where it was asked for all before, may build its dependencies anew, with fewer features.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use crate::lab;
use crate::program::Program;

/// What the DNS responder is built from, in the workspace.
const DNSD: [&str; 8] = [
    "Cargo.lock",
    "Cargo.toml",
    "dnsd/Cargo.toml",
    "dnsd/build.rs",
    "dnsd/src",
    "hack/version.rs",
    "wire/Cargo.toml",
    "wire/src",
];

/// A build from nothing, on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);

/// The DNS responder: what the variable DNSD names, else ours, in the directory of the program `beside`.
///
/// Panics when it cannot be built. To be called outside of a lab first: inside, where a build could fetch nothing, it
/// is taken as it is.
pub fn dnsd(beside: &str) -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let find = || match std::env::var_os("DNSD") {
        Some(path) => path.into(),
        None => fresh("dnsd", &DNSD, Path::new(beside)).unwrap_or_else(|error| {
            panic!("no dnsd, which `cargo build -p dnsd` makes: {error:?}")
        }),
    };
    PATH.get_or_init(find).clone()
}

/// The program of a package, built if need be.
fn fresh(package: &str, sources: &[&str], beside: &Path) -> Result<PathBuf> {
    let directory = beside.parent().context("a program is in a directory")?;
    let program = directory.join(package);
    let workspace = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let sources = sources.iter().map(|source| workspace.join(source));
    if !lab::is_inside() && !is_fresh(&program, sources)? {
        build(workspace, package, directory)?;
    }
    Ok(program)
}

/// Whether a program is there and as new as all of its sources.
fn is_fresh(program: &Path, sources: impl IntoIterator<Item = PathBuf>) -> Result<bool> {
    let Ok(built) = changed(program) else {
        return Ok(false);
    };
    for source in sources {
        if newest(&source)? > built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When the file, or the newest one below the directory, was changed.
fn newest(path: &Path) -> Result<SystemTime> {
    let mut newest = changed(path)?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            newest = newest.max(self::newest(&entry?.path())?);
        }
    }
    Ok(newest)
}

fn changed(path: &Path) -> Result<SystemTime> {
    let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.with_context(|| path.display().to_string())
}

/// Builds a package's program into a directory, `<target directory>/<profile>`.
fn build(workspace: &Path, package: &str, directory: &Path) -> Result<()> {
    let name = directory.file_name().unwrap_or_default();
    let profile = if name == "debug" {
        "dev".as_ref()
    } else {
        name
    };
    let target = directory.parent().context("a directory of builds")?;
    let finished = Program::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--quiet", "--package", package])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .arg("--profile")
        .arg(profile)
        .timeout(LIMIT)
        .run()?;
    ensure!(finished.success(), "{finished}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_older_than_a_source_is_stale() {
        let directory = std::env::temp_dir().join(format!("built-{}", std::process::id()));
        let path = |name: &str| directory.join(name);
        let touch = |name: &str, seconds: u64| {
            let file = fs::File::create(path(name)).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        let program_is_fresh = || is_fresh(&path("program"), [path("source"), path("more")]);
        fs::create_dir_all(path("more/below")).unwrap();
        touch("source", 1000);
        assert!(!program_is_fresh().unwrap(), "there is none");
        touch("program", 9_999_999_999);
        assert!(program_is_fresh().unwrap());
        touch("more/below/source", 10_000_000_000);
        assert!(!program_is_fresh().unwrap());
        fs::remove_file(path("source")).unwrap();
        program_is_fresh().unwrap_err();
        fs::remove_dir_all(directory).unwrap();
    }
}
