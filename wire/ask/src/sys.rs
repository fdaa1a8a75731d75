//! Who asks.
#![expect(
    clippy::disallowed_methods,
    reason = "this is where the operating system is called"
)]

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::siginfo;
use thiserror::Error;

use crate::{Form, HEAD, Question, TOKEN_BITS};

/// What carries a question.
pub const SIGNAL: Signal = Signal::SIGURG;

/// How often a question is sent: a daemon that has just answered somebody else may have missed it.
const TRIES: u32 = 6;
/// How long each of them is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the next bytes of an answer may take.
const STALL: Duration = Duration::from_secs(5);
/// Bytes of an answer, at most.
const ANSWER: u64 = 8 << 20;
/// Connections that turn out to be somebody else's, at most.
const STRANGERS: u32 = 64;

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
    /// Nothing came.
    #[error(
        "process {0} does not answer; is it in another network namespace, or stopped? (nsenter --net, \
         podman unshare --rootless-netns)"
    )]
    Silent(i32),
    /// The answer is cut.
    #[error("the answer of process {0} ends in the middle: {1}")]
    Cut(i32, #[source] io::Error),
    /// We cannot even ask.
    #[error("{0}: {1}")]
    Step(&'static str, #[source] io::Error),
}

/// What is known of a process to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Who started it.
    pub parent: i32,
    /// What it calls itself.
    pub name: String,
    blocked: u64,
}

impl Process {
    /// Look at one.
    #[must_use]
    pub fn look(pid: i32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        Some(Self {
            pid,
            parent: of("PPid:")?.parse().ok()?,
            name: of("Name:")?.to_owned(),
            blocked: u64::from_str_radix(of("SigBlk:")?, 16).ok()?,
        })
    }

    /// It waits for these signals otherwise than by a handler.
    #[must_use]
    pub fn waits_for(&self, signals: &[Signal]) -> bool {
        let bit = |signal: &Signal| 1 << (*signal as i32 - 1);
        signals.iter().all(|signal| self.blocked & bit(signal) != 0)
    }
}

/// The processes that may be daemons which wait for these signals: by their names, without those that they have
/// started themselves, in the order of their numbers.
///
/// # Errors
/// There is no `/proc`.
pub fn find(signals: &[Signal], named: fn(&str) -> bool) -> io::Result<Vec<Process>> {
    let entries = std::fs::read_dir("/proc")?;
    let pids: BTreeSet<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let found: Vec<_> = pids
        .into_iter()
        .filter_map(Process::look)
        .filter(|process| process.waits_for(signals) && named(&process.name))
        .collect();
    let numbers: BTreeSet<i32> = found.iter().map(|process| process.pid).collect();
    let first = |process: &Process| !numbers.contains(&process.parent);
    Ok(found.into_iter().filter(first).collect())
}

/// Ask a process, and wait for all that it says.
///
/// # Errors
/// It does not, or may not, answer.
pub fn ask(pid: i32, form: Form, most: u16) -> Result<Vec<u8>, AskError> {
    let step = |what| move |error: io::Error| AskError::Step(what, error);
    let process = open(pid)?;
    // After that the number cannot come to mean another process before it is asked.
    let known = Process::look(pid).ok_or(AskError::Nobody(pid))?;
    if !known.waits_for(&[SIGNAL]) {
        return Err(AskError::Other(pid));
    }
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(step("cannot listen on 127.0.0.1"))?;
    let address = listener
        .local_addr()
        .map_err(step("cannot listen on 127.0.0.1"))?;
    listener
        .set_nonblocking(true)
        .map_err(step("cannot listen on 127.0.0.1"))?;
    // Keyed by what the system gave to this process.
    let token = RandomState::new().build_hasher().finish() >> (64 - TOKEN_BITS);
    let question = Question {
        port: address.port(),
        form,
        most,
        token,
    };
    for _ in 0..TRIES {
        match send(&process, &question) {
            Ok(()) => {}
            Err(Errno::EPERM) => return Err(AskError::NotYours(pid)),
            Err(Errno::ESRCH) => return Err(AskError::Nobody(pid)),
            Err(error) => return Err(AskError::Step("cannot send a signal", error.into())),
        }
        let answering = await_answer(&listener, &question).map_err(step("cannot wait"))?;
        if let Some((stream, length)) = answering {
            return read(stream, length).map_err(|error| AskError::Cut(pid, error));
        }
    }
    Err(AskError::Silent(pid))
}

/// Who connects within [`PATIENCE`] and has heard the question, and how much he has to say.
fn await_answer(
    listener: &TcpListener,
    question: &Question,
) -> io::Result<Option<(TcpStream, u64)>> {
    let until = Instant::now() + PATIENCE;
    for _ in 0..STRANGERS {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut waits = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waits, timeout) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut head = [0; HEAD];
        let read = stream.read_exact(&mut head);
        if let Some(length) = question.length(head).filter(|_| read.is_ok()) {
            return Ok(Some((stream, length)));
        }
    }
    Ok(None)
}

fn read(mut stream: TcpStream, length: u64) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(STALL))?;
    let length = usize::try_from(length.min(ANSWER)).unwrap_or_default();
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
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

#[expect(unsafe_code, reason = "nobody has safe calls for these")]
mod raw {
    use super::*;

    /// `siginfo_t` of a signal with a value (sigaction(2)), where pointers have 64 bits.
    #[repr(C, align(8))]
    struct Info {
        signal: i32,
        error: i32,
        code: i32,
        pad: i32,
        pid: i32,
        uid: u32,
        value: u64,
        rest: [u64; 12],
    }

    const _: () = assert!(size_of::<Info>() == size_of::<libc::siginfo_t>());

    /// The process of a number: what it means as long as this is open.
    ///
    /// # Errors
    /// There is none.
    pub fn open(pid: i32) -> Result<OwnedFd, AskError> {
        // SAFETY: takes integers.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match Errno::result(result) {
            Ok(number) => {
                let number = RawFd::try_from(number).unwrap_or(-1);
                // SAFETY: a new descriptor that nobody else knows.
                Ok(unsafe { OwnedFd::from_raw_fd(number) })
            }
            Err(Errno::ESRCH | Errno::EINVAL) => Err(AskError::Nobody(pid)),
            Err(error) => Err(AskError::Step("cannot look at the process", error.into())),
        }
    }

    /// Send a question.
    ///
    /// # Errors
    /// The process is gone, or somebody else's.
    pub fn send(process: &OwnedFd, question: &Question) -> Result<(), Errno> {
        let info = Info {
            signal: SIGNAL as i32,
            error: 0,
            code: libc::SI_QUEUE,
            pad: 0,
            pid: nix::unistd::getpid().as_raw(),
            uid: nix::unistd::getuid().as_raw(),
            value: question.value(),
            rest: [0; 12],
        };
        // SAFETY: `info` is as large as the kernel's and lives through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                process.as_raw_fd(),
                info.signal,
                &raw const info,
                0,
            )
        };
        Errno::result(result).map(drop)
    }
}

pub use raw::{open, send};
