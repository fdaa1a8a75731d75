//! Who asks what there is: one at a time, others ask again.
//!
//! A question comes with a signal ([`ask`]), which the kernel passes on for our user and for root only. Nothing of this is
//! there while nobody asks. The table of flows is walked in parts between rounds. Who listens at the port of the question
//! is told nothing before he has shown that he knows the question. The answer is sent as far as its socket takes it, and
//! who does not listen has lost his turn after [`limits::ANSWER_PATIENCE`].

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use ask::{COUNTERSIGN, Form, Question};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockaddrIn};

use super::event_loop::Loop;
use super::{options, trim};
use crate::account::{Account, Listening};
use crate::event::Transport;
use crate::forwarder::Survey;
use crate::limits;

/// Whoever is being answered.
#[derive(Debug)]
pub struct Answers {
    began: Instant,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Flows are being looked at.
    Looking(Survey),
    /// The answer is there, and where it shall go is called.
    Calling(Call),
}

#[derive(Debug)]
struct Call {
    fd: OwnedFd,
    turn: Turn,
    reply: Vec<u8>,
    until: Instant,
}

/// What comes next.
#[derive(Debug)]
enum Turn {
    /// That we have heard the question.
    Hail,
    /// That it is his.
    Countersign,
    /// The answer, after so many bytes of it.
    Answer(usize),
}

impl Answers {
    /// The number that the loop watches these under.
    pub const NUMBER: u32 = 18;

    /// Nobody has asked.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            began: now,
            asked: None,
        }
    }

    /// When to call [`Self::due`].
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.asked.as_ref()?.stage {
            Stage::Looking(_) => Some(now),
            Stage::Calling(call) => Some(call.until),
        }
    }

    /// Somebody asks.
    pub fn ask(&mut self, question: Question) {
        let stage = Stage::Looking(Survey::new(question.most.into()));
        self.asked.get_or_insert(Asked { question, stage });
    }

    /// Traffic has had its turn, or time has passed. What is listened on is asked for when it is to be told.
    pub fn due(
        &mut self,
        now: Instant,
        forwarding: &mut Loop,
        listeners: impl FnOnce() -> Vec<Listening>,
    ) {
        let Some(asked) = &mut self.asked else { return };
        match &mut asked.stage {
            Stage::Looking(survey) => {
                if !forwarding.forwarder().survey(now, survey) {
                    return;
                }
            }
            Stage::Calling(call) => {
                if call.until <= now {
                    self.asked = None;
                }
                return;
            }
        }
        let Some(Asked { question, stage }) = self.asked.take() else {
            return;
        };
        if let Stage::Looking(survey) = stage {
            let account = self.account(now, survey, forwarding, listeners());
            // Who does not wait any more does not want to know.
            self.asked = begin(question, &account, now, forwarding).ok();
        }
    }

    fn account(
        &self,
        now: Instant,
        survey: Survey,
        forwarding: &mut Loop,
        listeners: Vec<Listening>,
    ) -> Account {
        let (by_state, top) = survey.found();
        let counters = forwarding.counters();
        let forwarder = forwarding.forwarder();
        Account {
            uptime: now.saturating_duration_since(self.began),
            flows: forwarder.flows(),
            by_state,
            top,
            bounds: forwarder.bounds(),
            listeners,
            counters,
        }
    }

    /// The socket has room, or has heard something.
    pub fn ready(&mut self, forwarding: &mut Loop) {
        let Some(Asked { question, stage }) = &mut self.asked else {
            return;
        };
        let Stage::Calling(call) = stage else { return };
        match call.go_on(question, forwarding) {
            Ok(false) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOTCONN) => {}
            // All is said, or nobody is there, or somebody else.
            Ok(true) | Err(_) => {
                self.asked = None;
                trim::unmap_code();
            }
        }
    }
}

impl Call {
    /// Whether that was all.
    fn go_on(&mut self, question: &Question, forwarding: &mut Loop) -> Result<bool, Errno> {
        match self.turn {
            Turn::Hail => {
                // Few bytes that are the first ones of a socket go all or not at all.
                self.send(&question.hail())?;
                forwarding.unwatch(&self.fd)?;
                forwarding.watch(Answers::NUMBER, &self.fd)?;
                self.turn = Turn::Countersign;
            }
            Turn::Countersign => {
                // Who has asked says it in one piece.
                let mut heard = [0; COUNTERSIGN];
                let len = socket::recv(self.fd.as_raw_fd(), &mut heard, MsgFlags::empty())?;
                if heard.get(..len) != Some(&question.countersign()) {
                    return Ok(true);
                }
                forwarding.unwatch(&self.fd)?;
                forwarding.watch_writable(Answers::NUMBER, &self.fd)?;
                self.turn = Turn::Answer(0);
            }
            Turn::Answer(said) => {
                let rest = self.reply.get(said..).unwrap_or_default();
                let len = self.send(rest)?;
                self.turn = Turn::Answer(said + len);
                return Ok(len == rest.len());
            }
        }
        Ok(false)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        socket::send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
    }
}

/// Write the answer and call whoever has asked.
fn begin(
    question: Question,
    account: &Account,
    now: Instant,
    forwarding: &mut Loop,
) -> Result<Asked, Errno> {
    let text = match question.form {
        Form::Text => account.to_string(),
        Form::Json => account.json().to_string(),
    };
    let fd = options::open(AddressFamily::Inet, Transport::Tcp)?;
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(
        Ipv4Addr::LOCALHOST,
        question.port,
    ));
    match socket::connect(fd.as_raw_fd(), &to) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    forwarding.watch_writable(Answers::NUMBER, &fd)?;
    let call = Call {
        fd,
        turn: Turn::Hail,
        reply: ask::reply(text.as_bytes()),
        until: now + limits::ANSWER_PATIENCE,
    };
    let stage = Stage::Calling(call);
    Ok(Asked { question, stage })
}
