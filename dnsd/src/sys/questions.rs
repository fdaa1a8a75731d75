//! `stats`: the daemon of a directory is asked what it does, and what it says is shown.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ask::{Form, harmless_json};
use serde_json::Value;

use super::daemon::PidFile;
use crate::cli;

/// Questions that failed most: how many are listed.
const FAILED: u16 = 20;

/// Where engines have their directory, below root's or the user's own.
const USUAL: &str = "containers/networks/aardvark-dns";

/// Asks the daemon of a directory.
///
/// # Errors
/// There is none, or it does not answer.
pub fn stats(stats: &cli::Stats) -> anyhow::Result<()> {
    let directory = stats.directory.clone().unwrap_or_else(usual);
    let pid = daemon_of(&directory)?;
    let form = if stats.json { Form::Json } else { Form::Text };
    let answer = ask::sys::ask(pid, form, FAILED)?;
    let text = match form {
        Form::Text => format!("pid {pid}, {}", ask::harmless(&answer)),
        Form::Json => {
            let mut value: Value =
                serde_json::from_slice(&answer).context("the answer is not JSON")?;
            if let Value::Object(fields) = &mut value {
                fields.insert("pid".to_owned(), pid.into());
            }
            harmless_json(&format!("{value:#}\n"))
        }
    };
    Ok(super::print(&text)?)
}

fn usual() -> PathBuf {
    let root = nix::unistd::geteuid().is_root();
    let own = super::variable("XDG_RUNTIME_DIR").filter(|_| !root);
    Path::new(own.as_deref().unwrap_or("/run")).join(USUAL)
}

fn daemon_of(directory: &Path) -> anyhow::Result<i32> {
    let path = PidFile::of(directory).path().to_owned();
    let shown = path.display();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "no daemon serves {}: there is no {shown}",
                directory.display()
            );
        }
        Err(error) => return Err(error).with_context(|| format!("read {shown}")),
    };
    let text = text.trim();
    text.parse()
        .with_context(|| format!("{shown} holds \"{text}\", which is no number of a process"))
}
