//! Waiting for an answer, of which others cannot make a wait without end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{ANSWER, AskError, STRANGERS};
use crate::{HAIL, HEAD, Question};

/// How long each part of a question may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Who has not said anything by then is asked again, and somebody who connects and says nothing is let go.
    pub again: Duration,
    /// Somebody who has heard the question has connected.
    pub begin: Duration,
    /// All has been said, whatever happens.
    pub whole: Duration,
}

/// Where an answer is waited for.
#[derive(Debug)]
pub(super) struct Wait {
    listener: TcpListener,
    times: Times,
    began: Instant,
    /// Those who may still turn out to be somebody else.
    strangers: u32,
}

impl Wait {
    pub(super) fn new(times: Times) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            times,
            began: Instant::now(),
            strangers: STRANGERS,
        })
    }

    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// There is time to ask once more.
    pub(super) fn goes_on(&self) -> bool {
        self.strangers > 0 && self.began.elapsed() < self.times.begin
    }

    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// More strangers came than are let in.
    pub(super) const fn is_crowded(&self) -> bool {
        self.strangers == 0
    }

    /// Who has heard the question, if he connects before it is time to ask again.
    pub(super) fn answering(&mut self, question: &Question) -> io::Result<Option<TcpStream>> {
        let end = self.began + self.times.begin;
        let until = end.min(Instant::now() + self.times.again);
        while self.strangers > 0 {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut waits = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waits, timeout) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let Ok((stream, _)) = self.listener.accept() else {
                continue;
            };
            stream.set_nonblocking(false)?;
            if self.has_heard(&stream, question) {
                return Ok(Some(stream));
            }
            self.strangers -= 1;
        }
        Ok(None)
    }

    fn has_heard(&self, mut stream: &TcpStream, question: &Question) -> bool {
        let mut hail = [0; HAIL];
        let (_, read) = fill(stream, &mut hail, Instant::now() + self.times.again);
        read.is_ok() && hail == question.hail() && stream.write_all(&question.countersign()).is_ok()
    }

    /// All that he says.
    pub(super) fn read(&self, stream: &TcpStream, pid: i32) -> Result<Vec<u8>, AskError> {
        let until = self.began + self.times.whole;
        let mut head = [0; HEAD];
        let failed = |said, length, error: io::Error| {
            if error.kind() != ErrorKind::TimedOut {
                return AskError::Cut(pid, error);
            }
            let seconds = self.times.whole.as_secs_f32();
            AskError::Slow {
                pid,
                said,
                length,
                seconds,
            }
        };
        let (_, read) = fill(stream, &mut head, until);
        read.map_err(|error| failed(0, None, error))?;
        let length = u64::from_be_bytes(head);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > ANSWER {
            return Err(AskError::TooLong(pid, length));
        }
        let mut answer = vec![0; size];
        let (said, read) = fill(stream, &mut answer, until);
        read.map_err(|error| failed(said, Some(size), error))?;
        Ok(answer)
    }
}

/// Fills the bytes, until then at the latest. Says how many there are as well, since part of them may be.
fn fill(mut stream: &TcpStream, bytes: &mut [u8], until: Instant) -> (usize, io::Result<()>) {
    let mut said = 0;
    while let Some(rest) = bytes.get_mut(said..).filter(|rest| !rest.is_empty()) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (said, Err(ErrorKind::TimedOut.into()));
        }
        let read = stream
            .set_read_timeout(Some(left))
            .and_then(|()| stream.read(rest));
        match read {
            Ok(0) => return (said, Err(ErrorKind::UnexpectedEof.into())),
            Ok(len) => said += len,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return (said, Err(error)),
        }
    }
    (said, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::thread::{self, JoinHandle};

    use crate::{COUNTERSIGN, Form, reply};

    use super::*;

    const PID: i32 = 4711;
    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    /// A question that is waited for, with enough time for everything but an answer without end.
    fn asked(whole: Duration) -> (Wait, Question) {
        let times = Times {
            again: LONG,
            begin: LONG,
            whole,
        };
        let wait = Wait::new(times).unwrap();
        let question = Question {
            port: wait.port().unwrap(),
            form: Form::Text,
            most: 1,
            token: 0xa_bcde_f012,
        };
        (wait, question)
    }

    fn call(question: &Question) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, question.port)).unwrap()
    }

    /// Says that it has heard the question, listens to who has asked, and says these.
    fn says(question: Question, parts: Vec<Vec<u8>>, between: Duration) -> JoinHandle<()> {
        thread::spawn(move || {
            let mut stream = call(&question);
            stream.write_all(&question.hail()).unwrap();
            let mut heard = [0; COUNTERSIGN];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(heard, question.countersign());
            for part in parts {
                // Who has heard enough goes.
                if stream.write_all(&part).is_err() {
                    return;
                }
                thread::sleep(between);
            }
        })
    }

    /// What is read of such a one.
    #[expect(
        clippy::unwrap_in_result,
        reason = "what is returned is what is tested"
    )]
    fn read(whole: Duration, parts: Vec<Vec<u8>>, between: Duration) -> Result<Vec<u8>, AskError> {
        let (mut wait, question) = asked(whole);
        let other = says(question, parts, between);
        let stream = wait.answering(&question).unwrap().unwrap();
        let read = wait.read(&stream, PID);
        drop(stream);
        other.join().unwrap();
        read
    }

    #[test]
    fn an_answer_may_come_in_parts() {
        let bytes = reply(b"answer").iter().map(|byte| vec![*byte]).collect();
        let read = read(LONG, bytes, Duration::from_millis(1)).unwrap();
        assert_eq!(read, b"answer");
    }

    #[test]
    fn an_answer_without_end_is_given_up() {
        // Something comes all the time.
        let bytes = reply(&[7; 100_000])
            .iter()
            .map(|byte| vec![*byte])
            .collect();
        let error = read(SHORT, bytes, Duration::from_millis(5)).unwrap_err();
        assert!(
            matches!(error, AskError::Slow { said, length: Some(100_000), .. } if said > 0),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.starts_with("process 4711 has said "), "{text}");
        assert!(text.contains(" of 100000 bytes in 0.2 s"), "{text}");
        let error = read(SHORT, vec![vec![0], vec![]], SHORT * 2).unwrap_err();
        assert!(
            matches!(error, AskError::Slow { length: None, .. }),
            "{error}"
        );
    }

    #[test]
    fn an_answer_that_is_too_long_is_not_cut() {
        let long = u64::try_from(ANSWER).unwrap();
        let error = read(LONG, vec![(long + 1).to_be_bytes().into()], Duration::ZERO).unwrap_err();
        let expected =
            "the answer of process 4711 has 8388609 bytes, more than the 8388608 that are read";
        assert_eq!(error.to_string(), expected);
        let error = read(LONG, vec![u64::MAX.to_be_bytes().into()], Duration::ZERO).unwrap_err();
        assert!(matches!(error, AskError::TooLong(PID, u64::MAX)), "{error}");
        let whole = read(LONG, vec![reply(&vec![7; ANSWER])], Duration::ZERO).unwrap();
        assert_eq!(whole.len(), ANSWER);
    }

    #[test]
    fn an_answer_that_is_cut_is_none() {
        for said in [
            &b""[..],
            b"\0\0",
            b"\0\0\0\0\0\0\0\x02",
            b"\0\0\0\0\0\0\0\x02a",
        ] {
            let error = read(LONG, vec![said.into()], Duration::ZERO).unwrap_err();
            assert!(matches!(error, AskError::Cut(PID, _)), "{error}");
        }
    }

    #[test]
    fn strangers_are_told_nothing_and_end_nothing() {
        let (mut wait, question) = asked(LONG);
        let other = Question {
            token: question.token ^ 1 << 16,
            ..question
        };
        let strangers: Vec<_> = (0..STRANGERS - 1)
            .map(|number| {
                let mut stream = call(&question);
                // Some go, some say something else.
                if number % 2 == 0 {
                    stream.write_all(&other.hail()).unwrap();
                } else {
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                }
                stream
            })
            .collect();
        let heard = says(question, Vec::new(), Duration::ZERO);
        let stream = wait.answering(&question).unwrap();
        assert!(stream.is_some() && wait.goes_on() && !wait.is_crowded());
        heard.join().unwrap();
        for mut stream in strangers {
            let mut told = Vec::new();
            stream.read_to_end(&mut told).unwrap_or_default();
            assert!(told.is_empty(), "{told:?}");
        }

        let _one_more = call(&question).shutdown(std::net::Shutdown::Both);
        assert!(wait.answering(&question).unwrap().is_none());
        assert!(wait.is_crowded() && !wait.goes_on());
    }
}
