//! The words of `usernet stats`.
//!
//! Only the name `usernet` has this sub-command: called as `pasta`, `stats` is a command to be run like any other.

use std::ffi::OsString;
use std::path::PathBuf;

use ask::{Form, MOST};
use thiserror::Error;

/// Flows that are listed if nobody says how many.
const FLOWS: u16 = 20;

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// The process of this number.
    Process(i32),
    /// Who listens on this control socket (`--conf-path`).
    Socket(PathBuf),
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Whom to ask; nobody: all that are there.
    pub whom: Vec<Whom>,
    /// How the answer shall look.
    pub form: Form,
    /// Flows that are listed.
    pub flows: u16,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Numbers.
    Of(Stats),
    /// `--help`
    Help,
}

/// Why the words are not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the message says it")]
pub enum StatsError {
    #[error("unrecognized option '{0}'")]
    Unknown(String),
    #[error("--flows {0}: a number from 0 to {MOST} is needed")]
    Flows(String),
    #[error("whose? Give the number of a process, a control socket, or --all")]
    Nobody,
    #[error("--all is everybody: no others can be named")]
    All,
}

/// Understands the words after `stats`.
///
/// # Errors
/// One of them means nothing, or one is missing.
pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Request, StatsError> {
    let (mut whom, mut all) = (Vec::new(), false);
    let (mut form, mut flows) = (Form::Text, FLOWS);
    let mut words = words;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        match &*text {
            "-h" | "--help" => return Ok(Request::Help),
            "-j" | "--json" => form = Form::Json,
            "-a" | "--all" => all = true,
            "-n" | "--flows" => {
                let number = words.next().unwrap_or_default();
                flows = number_of(&number.to_string_lossy())?;
            }
            _ if text.starts_with("--flows=") => {
                flows = number_of(text.trim_start_matches("--flows="))?;
            }
            _ if text.starts_with('-') => return Err(StatsError::Unknown(text)),
            _ => whom.push(match text.parse() {
                Ok(pid) => Whom::Process(pid),
                Err(_) => Whom::Socket(word.into()),
            }),
        }
    }
    match (all, whom.is_empty()) {
        (false, true) => Err(StatsError::Nobody),
        (true, false) => Err(StatsError::All),
        (true, true) | (false, false) => Ok(Request::Of(Stats { whom, form, flows })),
    }
}

fn number_of(text: &str) -> Result<u16, StatsError> {
    let number = text.parse().ok().filter(|number| *number <= MOST);
    number.ok_or_else(|| StatsError::Flows(text.to_owned()))
}

/// How it is called.
#[must_use]
pub fn help(name: &str) -> String {
    format!(
        "Usage: {name} stats [--json] [--flows N] PID|CONTROL-SOCKET...\n\
        \x20      {name} stats [--json] [--flows N] --all\n\
         \n\
         Asks running instances for their flows, bytes, drops, listeners and limits.\n\n\
        \x20 -a, --all\n        All instances that can be seen from here\n\
        \x20 -j, --json\n        JSON: an object for one, a list for --all or several\n\
        \x20 -n, --flows N\n        List the N flows that moved most, {FLOWS} by default, {MOST} at most\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &str, expected: Result<Request, StatsError>) {
        let words = words.split_whitespace().map(OsString::from);
        assert_eq!(parse(words), expected);
    }

    fn of(whom: &[Whom], form: Form, flows: u16) -> Result<Request, StatsError> {
        let whom = whom.to_vec();
        Ok(Request::Of(Stats { whom, form, flows }))
    }

    #[test]
    fn words() {
        let path = Whom::Socket("./1.sock".into());
        check("12", of(&[Whom::Process(12)], Form::Text, 20));
        check(
            "--json ./1.sock 7",
            of(&[path, Whom::Process(7)], Form::Json, 20),
        );
        check("--all -n 0", of(&[], Form::Text, 0));
        check("-a --flows=1023 -j", of(&[], Form::Json, 1023));
        check("7 --help", Ok(Request::Help));
        check("", Err(StatsError::Nobody));
        check("--json", Err(StatsError::Nobody));
        check("--all 7", Err(StatsError::All));
        check("--flows 1024 7", Err(StatsError::Flows("1024".into())));
        check("7 -n", Err(StatsError::Flows(String::new())));
        check("-x 7", Err(StatsError::Unknown("-x".into())));
    }

    #[test]
    fn the_manual_has_what_the_help_has() {
        let manual = include_str!("../../man/usernet-stats.1").replace('\\', "");
        let help = help("usernet");
        let options = help
            .split_whitespace()
            .filter(|word| word.starts_with("--"));
        for option in options.map(|word| word.trim_matches(['[', ']', ','])) {
            assert!(manual.contains(option), "{option} is missing");
        }
    }
}
