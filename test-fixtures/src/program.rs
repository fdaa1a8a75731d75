//! Runs a program to its end, with input, a time limit and everything it said.

use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// A program about to be run.
#[derive(Clone, Debug)]
pub struct Program {
    path: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    timeout: Duration,
}

impl Program {
    /// `path` as the shell would look it up. The default time limit is a minute.
    pub fn new(path: impl Into<OsString>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            timeout: Duration::from_secs(60),
        }
    }

    /// The program that the environment variable names, else `default`: lets the same tests run another
    /// implementation.
    pub fn under_test(variable: &str, default: &str) -> Self {
        Self::new(std::env::var_os(variable).unwrap_or_else(|| default.into()))
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Has another program run it: `words` are that one's name and its own arguments.
    #[must_use]
    pub fn under(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        let mut words = words.into_iter().map(Into::into).chain([self.path]);
        self.path = words.next().unwrap_or_default();
        self.args = words.chain(self.args).collect();
        self
    }

    /// Sets an environment variable on top of the test's own.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// What the program reads; without it, nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take before it is killed, which is an error.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it in `netns`.
    pub fn run_in(&self, netns: &Netns) -> Result<Finished> {
        netns.enter(|| self.run())
    }

    /// Runs it where the calling thread is.
    pub fn run(&self) -> Result<Finished> {
        let begin = Instant::now();
        let mut child = Command::new(&self.path)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            let bytes = self.stdin.clone();
            // A program that stops reading early is judged by what it says, not by our broken pipe.
            thread::spawn(move || stdin.write_all(&bytes));
        }
        let stdout = child.stdout.take().map(read);
        let stderr = child.stderr.take().map(read);
        let mut late = false;
        let status = loop {
            if let Some(status) = child.try_wait().context("cannot wait")? {
                break status;
            }
            if begin.elapsed() > self.timeout {
                late = true;
                child.kill().context("cannot kill")?;
                break child.wait().context("cannot wait")?;
            }
            thread::sleep(Duration::from_millis(1));
        };
        let elapsed = begin.elapsed();
        let (stdout, stdout_open) = collect(stdout);
        let (stderr, stderr_open) = collect(stderr);
        let finished = Finished {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            held_open: stdout_open || stderr_open,
            elapsed,
        };
        if late {
            bail!(
                "{} still ran after {:?}: {finished}",
                self.path.display(),
                self.timeout
            );
        }
        Ok(finished)
    }
}

/// What came of a program.
#[derive(Clone, Debug)]
pub struct Finished {
    status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// The program is gone and something it started still holds its standard output or error: whoever reads to the
    /// end, as engines do, waits for that as well.
    pub held_open: bool,
    /// From start to exit.
    pub elapsed: Duration,
}

impl Finished {
    /// It exited with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; `None` when a signal killed it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that killed it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

fn read(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Everything that was written, and whether the pipe is still open a moment after the program's end.
fn collect(pipe: Option<Receiver<Vec<u8>>>) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let Some(pipe) = pipe else {
        return (bytes, false);
    };
    loop {
        match pipe.recv_timeout(Duration::from_millis(500)) {
            Ok(more) => bytes.extend(more),
            Err(mpsc::RecvTimeoutError::Timeout) => return (bytes, true),
            Err(mpsc::RecvTimeoutError::Disconnected) => return (bytes, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    #[test]
    fn input_output_and_code_are_kept() {
        let finished = sh("cat; echo bad >&2; exit 3")
            .stdin("good\n")
            .run()
            .unwrap();
        assert_eq!(
            (finished.code(), &*finished.stdout, &*finished.stderr),
            (Some(3), "good\n", "bad\n")
        );
        assert!(!finished.held_open);
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = sh("echo so far; exec sleep 60")
            .timeout(Duration::from_millis(200))
            .run()
            .unwrap_err();
        assert!(error.to_string().contains("so far"), "{error}");
    }

    #[test]
    fn a_daemon_that_keeps_the_output_is_seen() {
        assert!(sh("sleep 2 & echo here").run().unwrap().held_open);
    }
}
