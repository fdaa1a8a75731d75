//! Who asks what there is: one at a time, others ask again.
//!
//! A question comes with a signal ([`ask`]), which the kernel passes on for our user and for root only. Nothing of this is
//! there while nobody asks. The table of flows is walked in parts between rounds, the answer is sent as far as its socket
//! takes it, and who does not listen has lost his turn after [`limits::ANSWER_PATIENCE`].

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use ask::{Form, Question};
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
    /// The answer is being said.
    Saying {
        fd: OwnedFd,
        reply: Vec<u8>,
        said: usize,
        until: Instant,
    },
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
            Stage::Saying { until, .. } => Some(*until),
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
            Stage::Saying { until, .. } => {
                if *until <= now {
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

    /// The socket has room.
    pub fn ready(&mut self) {
        let Some(asked) = &mut self.asked else { return };
        let Stage::Saying {
            fd, reply, said, ..
        } = &mut asked.stage
        else {
            return;
        };
        let rest = reply.get(*said..).unwrap_or_default();
        match socket::send(fd.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
            Ok(len) if len < rest.len() => *said += len,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOTCONN) => {}
            // All of it, or nobody is there.
            Ok(_) | Err(_) => {
                self.asked = None;
                trim::unmap_code();
            }
        }
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
    let stage = Stage::Saying {
        fd,
        reply: question.reply(text.as_bytes()),
        said: 0,
        until: now + limits::ANSWER_PATIENCE,
    };
    Ok(Asked { question, stage })
}
