//! `usernet stats`: running instances are asked, and what they say is shown.
//!
//! An instance sees what a guest sends and may not be ours any more. What it says is text for a terminal or a document
//! for a program, which somebody may look at, so control characters are taken out of the one and written as numbers in the
//! other, which is read before it is passed on.

use std::os::unix::net::UnixStream;
use std::path::Path;

use ask::sys::{AskError, find};
use ask::{Form, harmless_json};
use nix::sys::socket::{getsockopt, sockopt};
use serde_json::Value;
use thiserror::Error;

use super::start::SIGNALS;
use crate::cli::stats::{Stats, Whom};

/// Why nobody was asked.
#[derive(Debug, Error)]
pub enum StatsError {
    /// Nobody listens there.
    #[error("cannot connect to the control socket {0}: {1}")]
    Socket(String, #[source] std::io::Error),
    /// Somebody does, of whom we do not know who.
    #[error("whoever listens on {0} is in a PID namespace that cannot be seen from here")]
    Unseen(String),
    /// No list of processes.
    #[error("cannot look for instances in /proc: {0}")]
    Processes(#[source] std::io::Error),
    /// The answer is no document.
    #[error("the answer of process {0} is not JSON: {1}")]
    NotJson(i32, #[source] serde_json::Error),
    /// There is none.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Asks. What they say, and what went wrong: with one of several, the others are shown all the same.
///
/// # Errors
/// There are no instances to be found.
pub fn stats(options: &Stats) -> Result<(String, String), StatsError> {
    let pids: Vec<Result<i32, StatsError>> = if options.whom.is_empty() {
        let found = find(&SIGNALS, is_ours).map_err(StatsError::Processes)?;
        found.into_iter().map(|process| Ok(process.pid)).collect()
    } else {
        options.whom.iter().map(pid).collect()
    };
    let many = options.whom.len() != 1;
    let (mut said, mut problems) = (Vec::new(), Vec::new());
    for pid in pids {
        match pid.and_then(|pid| answer(pid, options)) {
            Ok(answer) => said.push(answer),
            // It has ended since it was found.
            Err(StatsError::Ask(AskError::Nobody(_))) if options.whom.is_empty() => {}
            Err(error) => problems.push(error.to_string()),
        }
    }
    let text = match options.form {
        Form::Text => said.iter().map(Answer::text).collect::<Vec<_>>().join("\n"),
        Form::Json => match (many, said.pop()) {
            (false, Some(Answer::Json(value))) => document(&value),
            (false, _) => String::new(),
            (true, last) => {
                let values = said.into_iter().chain(last).map(Answer::json);
                document(&Value::from_iter(values))
            }
        },
    };
    Ok((text, problems.join("\n")))
}

fn document(value: &Value) -> String {
    harmless_json(&format!("{value:#}\n"))
}

/// Callers know us by several names.
fn is_ours(name: &str) -> bool {
    name.starts_with("usernet") || name.starts_with("pasta")
}

/// What one of them said.
#[derive(Debug)]
enum Answer {
    Text(String),
    Json(Value),
}

impl Answer {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Json(value) => value.to_string(),
        }
    }

    fn json(self) -> Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Json(value) => value,
        }
    }
}

fn answer(pid: i32, options: &Stats) -> Result<Answer, StatsError> {
    let bytes = ask::sys::ask(pid, options.form, options.flows)?;
    Ok(match options.form {
        Form::Text => Answer::Text(format!("pid {pid}, {}", ask::harmless(&bytes))),
        Form::Json => {
            let mut value: Value =
                serde_json::from_slice(&bytes).map_err(|error| StatsError::NotJson(pid, error))?;
            if let Value::Object(fields) = &mut value {
                fields.insert("pid".to_owned(), pid.into());
            }
            Answer::Json(value)
        }
    })
}

fn pid(whom: &Whom) -> Result<i32, StatsError> {
    match whom {
        Whom::Process(pid) => Ok(*pid),
        Whom::Socket(path) => listener(path),
    }
}

/// Who listens on a control socket. We say nothing there, which changes nothing.
fn listener(path: &Path) -> Result<i32, StatsError> {
    let shown = path.display().to_string();
    let socket = UnixStream::connect(path);
    let socket = socket.map_err(|error| StatsError::Socket(shown.clone(), error))?;
    let peer = getsockopt(&socket, sockopt::PeerCredentials);
    let peer = peer.map_err(|error| StatsError::Socket(shown.clone(), error.into()))?;
    match peer.pid() {
        0 => Err(StatsError::Unseen(shown)),
        pid => Ok(pid),
    }
}
