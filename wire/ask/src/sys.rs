//! Who asks.
#![expect(
    clippy::disallowed_methods,
    reason = "this is where the operating system is called"
)]

pub mod process;
mod wait;
mod raw;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::signalfd::siginfo;
use thiserror::Error;

use self::process::Process;
pub use self::process::find;
pub use self::raw::{open, send};
use self::wait::{Times, Wait};
use crate::{Form, Question, TOKEN_BITS, harmless};

/// What carries a question.
pub const SIGNAL: Signal = Signal::SIGURG;

/// After this a question is sent again: a daemon that has just answered somebody else may have missed it.
pub const AGAIN: Duration = Duration::from_millis(500);
/// How long it is waited for that an answer begins.
pub const BEGIN: Duration = Duration::from_secs(3);
/// How long one question may take in all, whatever is said and by whom.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of an answer, at most. With the longest list that can be asked for it has some 300 KiB.
pub const ANSWER: usize = 8 << 20;
/// Connections that turn out to be somebody else's, at most.
pub const STRANGERS: u32 = 64;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nothing to be asked.
    #[error("there is no process {0}")]
    Nobody(i32),
    /// It would not understand.
    #[error(
        "process {0} does not answer questions: it is another program, or another version of it"
    )]
    Other(i32),
    /// The kernel refuses.
    #[error("process {0} is not yours: only its user and root may ask it")]
    NotYours(i32),
    /// Its answer would go to somebody else.
    #[error(
        "process {0} ({1}) is in another network namespace, where it must be asked from: \
         nsenter --net=/proc/{0}/ns/net as root, podman unshare --rootless-netns as an ordinary user"
    )]
    Elsewhere(i32, String),
    /// Nothing came.
    #[error("process {pid} ({name}) has not answered in {seconds:.1} s: {look}")]
    Silent {
        /// Whom we asked.
        pid: i32,
        /// What it calls itself.
        name: String,
        /// How long we waited.
        seconds: f32,
        /// Where to look for the reason.
        look: String,
    },
    /// It came too slowly.
    #[error(
        "process {pid} has said {said} of {} bytes in {seconds:.1} s, which is given up: does it get any time (top -p {pid})?",
        .length.map_or_else(|| "an unknown number of".to_owned(), |length| length.to_string())
    )]
    Slow {
        /// Whom we asked.
        pid: i32,
        /// Bytes that came.
        said: usize,
        /// Bytes that there are, if it has said so.
        length: Option<usize>,
        /// How long we waited.
        seconds: f32,
    },
    /// It is cut.
    #[error("the answer of process {0} ends in the middle: {1}")]
    Cut(i32, #[source] io::Error),
    /// It is not ours: our answers are shorter.
    #[error("the answer of process {0} has {1} bytes, more than the {ANSWER} that are read")]
    TooLong(i32, u64),
    /// We cannot even ask.
    #[error("{0}: {1}")]
    Step(&'static str, #[source] io::Error),
}

/// Ask a process, and wait for all that it says.
///
/// # Errors
/// It does not, or may not, answer.
pub fn ask(pid: i32, form: Form, most: u16) -> Result<Vec<u8>, AskError> {
    ask_within(pid, form, most, TIMES)
}

const TIMES: Times = Times {
    again: AGAIN,
    begin: BEGIN,
    whole: DEADLINE,
};

fn ask_within(pid: i32, form: Form, most: u16, times: Times) -> Result<Vec<u8>, AskError> {
    let step = |what| move |error: io::Error| AskError::Step(what, error);
    let process = open(pid)?;
    // After that the number cannot come to mean another process before it is asked.
    let known = Process::look(pid).ok_or(AskError::Nobody(pid))?;
    if !known.waits_for(&[SIGNAL]) {
        return Err(AskError::Other(pid));
    }
    if known.is_elsewhere() == Some(true) {
        return Err(AskError::Elsewhere(pid, harmless(known.name.as_bytes())));
    }
    let mut wait = Wait::new(times).map_err(step("cannot listen on 127.0.0.1"))?;
    let question = Question {
        port: wait.port().map_err(step("cannot listen on 127.0.0.1"))?,
        form,
        most,
        // Keyed by what the system gave to this process.
        token: RandomState::new().build_hasher().finish() >> (64 - TOKEN_BITS),
    };
    while wait.goes_on() {
        match send(&process, &question) {
            Ok(()) => {}
            Err(Errno::EPERM) => return Err(AskError::NotYours(pid)),
            Err(Errno::ESRCH) => return Err(AskError::Nobody(pid)),
            Err(error) => return Err(AskError::Step("cannot send a signal", error.into())),
        }
        if let Some(stream) = wait.answering(&question).map_err(step("cannot wait"))? {
            return wait.read(&stream, pid);
        }
    }
    let now = Process::look(pid).ok_or(AskError::Nobody(pid))?;
    Err(AskError::Silent {
        pid,
        name: harmless(now.name.as_bytes()),
        seconds: wait.waited().as_secs_f32(),
        look: look_at(&now, &wait),
    })
}

/// What may be the matter with somebody who is there and says nothing.
fn look_at(process: &Process, wait: &Wait) -> String {
    let pid = process.pid;
    if process.is_stopped() {
        return format!("it is stopped (kill -CONT {pid})");
    }
    if wait.is_crowded() {
        return format!("{STRANGERS} others connected to the port of the answer");
    }
    format!(
        "is it in another network namespace (podman unshare --rootless-netns), is the loopback down \
         (ip link show lo), does it get no time (top -p {pid})?"
    )
}

/// Whether these are the news of a question, and which.
#[must_use]
pub fn asked(signal: &siginfo) -> Option<Question> {
    let ours = i32::try_from(signal.ssi_signo) == Ok(SIGNAL as i32);
    // Otherwise the value is something else.
    let queued = signal.ssi_code == libc::SI_QUEUE;
    (ours && queued)
        .then(|| Question::of(signal.ssi_ptr))
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    use super::*;

    /// Waits for the signal, as far as anybody can tell, and never says anything.
    struct Mute(Child);

    impl Mute {
        fn start() -> Self {
            let sleep = ["--block-signal=URG", "sleep", "60"];
            let mute = Self(Command::new("env").args(sleep).spawn().unwrap());
            while mute.look().name != "sleep" {
                std::thread::yield_now();
            }
            mute
        }

        fn look(&self) -> Process {
            Process::look(self.pid()).unwrap()
        }

        fn pid(&self) -> i32 {
            self.0.id().try_into().unwrap()
        }

        fn said(&self) -> String {
            let times = Times {
                again: Duration::from_millis(20),
                begin: Duration::from_millis(60),
                ..TIMES
            };
            let said = ask_within(self.pid(), Form::Text, 1, times);
            said.unwrap_err().to_string()
        }
    }

    impl Drop for Mute {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn who_does_not_answer_is_named() {
        let mute = Mute::start();
        let (said, pid) = (mute.said(), mute.pid());
        let expected = format!("process {pid} (sleep) has not answered in ");
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.contains("another network namespace"), "{said}");
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        let expected = format!("s: it is stopped (kill -CONT {pid})");
        // The signal takes effect some time.
        while !mute.look().is_stopped() {
            std::thread::yield_now();
        }
        let said = mute.said();
        assert!(said.ends_with(&expected), "{said}");
    }
}
