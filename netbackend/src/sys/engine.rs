//! Reads where engines look for their helpers. See [`crate::engine`].

use std::path::{Path, PathBuf};

use super::{files, input};
use crate::cli::DNS_BINARY;
use crate::engine::{self, FILES, LAST, ONLY, OWN_FILE};

/// The program that engines call by this name, looked for where they do and in their order.
pub(super) fn helper(name: &str) -> Option<PathBuf> {
    let texts: Vec<String> = configuration()
        .iter()
        .filter_map(|path| files::read(path).ok().flatten())
        .collect();
    let directories = engine::helper_directories(texts.iter().map(String::as_str));
    let mut programs = directories
        .iter()
        .map(|directory| Path::new(directory).join(name));
    programs.find(|program| program.is_file())
}

/// The DNS responder's program: where we were told, beside ourselves, or where engines find it.
pub(super) fn responder(told: &Path) -> Option<PathBuf> {
    const NAME: &str = "aardvark-dns";
    if told != Path::new(DNS_BINARY) {
        return Some(told.to_path_buf());
    }
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|path| Some(path.parent()?.join(NAME)));
    beside
        .filter(|path| path.is_file())
        .or_else(|| helper(NAME))
}

/// The state directory of networks of the ordinary user in whose namespaces we are, as `podman unshare` says it.
#[must_use]
pub fn own_networks() -> Option<PathBuf> {
    input::variable("_CONTAINERS_ROOTLESS_UID")?;
    let runtime = input::variable("XDG_RUNTIME_DIR").filter(|path| !path.is_empty())?;
    Some(Path::new(&runtime).join("containers/networks"))
}

/// The files of configuration that engines read, in their order.
fn configuration() -> Vec<PathBuf> {
    let named = |variable| input::variable(variable).filter(|path| !path.is_empty());
    let mut all = Vec::new();
    if let Some(only) = named(ONLY) {
        all.push(only.into());
    } else {
        for file in FILES {
            with_directory(file.as_ref(), &mut all);
        }
        let home = || Some(Path::new(&named("HOME")?).join(".config"));
        let own = named("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        if let Some(own) = own {
            with_directory(&own.join(OWN_FILE), &mut all);
        }
    }
    all.extend(named(LAST).map(PathBuf::from));
    all
}

/// A file, and those of the directory beside it.
fn with_directory(file: &Path, all: &mut Vec<PathBuf>) {
    let directory = file.with_extension("conf.d");
    let names = files::names(&directory).unwrap_or_default();
    let names = names.into_iter().filter(|name| name.ends_with(".conf"));
    all.push(file.to_owned());
    all.extend(names.map(|name| directory.join(name)));
}
