//! The control socket: one client at a time, others wait in the kernel's queue.
//!
//! A client that stalls costs us nothing but its place: nothing is waited for, and after [`limits::CONTROL_PATIENCE`] the
//! next one has its turn. What is said is [`crate::control`]'s matter.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4,
};
use nix::sys::stat::{Mode, umask};

use super::event_loop::Loop;
use super::failure::{Failure, errno};
use super::process;
use super::resting::{self, Resting};
use crate::control::{Progress, Session, Tables};
use crate::limits;

/// Clients that wait for the one before.
const BACKLOG: i32 = 16;
/// Bytes that one read takes, and reads in a row.
const READ: usize = 4096;
const READS: usize = 16;

/// The socket, which stays in the file system when we end. Its user alone may use it.
///
/// # Errors
/// Somebody listens there, or it cannot be made.
pub fn bind(path: &Path) -> Result<OwnedFd, Failure> {
    let shown = path.display();
    let what = || Failure::of(format!("Couldn't bind control socket {shown}"));
    let address = UnixAddr::new(path).map_err(what())?;
    let found = std::fs::symlink_metadata(path);
    if found.is_ok_and(|found| !found.file_type().is_socket()) || is_live(&address) {
        return Err(Failure::Told(format!("Socket path {shown} already in use")));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(what()(errno(&error)));
        }
        Ok(()) | Err(_) => {}
    }
    let socket = stream().map_err(what())?;
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = socket::bind(socket.as_raw_fd(), &address);
    umask(before);
    bound.map_err(what())?;
    let backlog = Backlog::new(BACKLOG).map_err(what())?;
    socket::listen(&socket, backlog).map_err(what())?;
    Ok(socket)
}

fn stream() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Whether somebody listens there. Whoever does not accept us for want of place or of our rights does.
fn is_live(address: &UnixAddr) -> bool {
    let connected = stream().and_then(|socket| socket::connect(socket.as_raw_fd(), address));
    !matches!(connected, Err(Errno::ECONNREFUSED | Errno::ENOENT))
}

/// What came of a descriptor being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Nothing yet.
    Nothing,
    /// New tables.
    Tables(Tables),
    /// Something to complain of.
    Wrong(String),
}

/// The socket, and who is there.
#[derive(Debug)]
pub struct Control {
    listener: OwnedFd,
    client: Option<Client>,
    /// There was no descriptor for a client: when to try again.
    again: Option<Instant>,
    /// That was said.
    told: bool,
}

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    session: Session,
    until: Instant,
}

impl Control {
    /// The numbers that the loop watches these under.
    pub const LISTENER: u32 = 16;
    /// The same for who is there.
    pub const CLIENT: u32 = 17;

    /// Wait for clients.
    ///
    /// # Errors
    /// There is no memory to do so.
    pub fn new(listener: OwnedFd, forwarding: &mut Loop) -> Result<Self, Errno> {
        // Who connects is told our number by the kernel: that of whoever has listened last, which was our starter.
        socket::listen(&listener, Backlog::new(BACKLOG)?)?;
        forwarding.watch(Self::LISTENER, &listener)?;
        Ok(Self {
            listener,
            client: None,
            again: None,
            told: false,
        })
    }

    /// When to call [`Self::due`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let client = self.client.as_ref().map(|client| client.until);
        client.or(self.again)
    }

    /// A client has come; what it shall be told is asked for if there is one.
    pub fn come(
        &mut self,
        now: Instant,
        forwarding: &mut Loop,
        session: impl FnOnce() -> Session,
    ) -> Heard {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        if self.client.is_some() {
            return Heard::Nothing;
        }
        let number = match accept4(self.listener.as_raw_fd(), flags) {
            Ok(number) => number,
            Err(error) => return self.not_accepted(error, now, forwarding),
        };
        self.told = false;
        let client = Client {
            fd: process::adopt(number),
            session: session(),
            until: now + limits::CONTROL_PATIENCE,
        };
        let watched = forwarding
            .unwatch(&self.listener)
            .and_then(|()| forwarding.watch_writable(Self::CLIENT, &client.fd));
        self.client = Some(client);
        match watched {
            Ok(()) => Heard::Nothing,
            Err(error) => self.end(forwarding, Heard::Wrong(error.desc().to_owned())),
        }
    }

    /// Who cannot be accepted for want of a descriptor would wake us again at once.
    fn not_accepted(&mut self, error: Errno, now: Instant, forwarding: &mut Loop) -> Heard {
        if !Resting::is_for(error) {
            return Heard::Nothing;
        }
        if forwarding.unwatch(&self.listener).is_ok() {
            self.again = Some(now + limits::ACCEPT_PAUSE);
        }
        if std::mem::replace(&mut self.told, true) {
            return Heard::Nothing;
        }
        Heard::Wrong(format!("{}{}", error.desc(), resting::limit(error)))
    }

    /// The client can be written to, or has said something.
    pub fn ready(&mut self, forwarding: &mut Loop) -> Heard {
        let Some(client) = &mut self.client else {
            return Heard::Nothing;
        };
        if !client.session.output().is_empty() {
            return match client.write() {
                Ok(()) if client.session.output().is_empty() => self.await_tables(forwarding),
                Ok(()) | Err(Errno::EAGAIN | Errno::EINTR) => Heard::Nothing,
                // It has seen enough.
                Err(_) => self.end(forwarding, Heard::Nothing),
            };
        }
        match client.read() {
            Ok(None) => Heard::Nothing,
            Ok(Some(heard)) => self.end(forwarding, heard),
            Err(_) => self.end(forwarding, Heard::Nothing),
        }
    }

    /// Time has passed.
    pub fn due(&mut self, now: Instant, forwarding: &mut Loop) -> Heard {
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            return self.end(forwarding, Heard::Nothing);
        }
        let until = self.client.as_ref().map(|client| client.until);
        if until.is_none_or(|until| now < until) {
            return Heard::Nothing;
        }
        let seconds = limits::CONTROL_PATIENCE.as_secs();
        let text = format!("the client has not said what it wants in {seconds} s");
        self.end(forwarding, Heard::Wrong(text))
    }

    fn await_tables(&mut self, forwarding: &mut Loop) -> Heard {
        let Some(client) = &self.client else {
            return Heard::Nothing;
        };
        let watched = forwarding
            .unwatch(&client.fd)
            .and_then(|()| forwarding.watch(Self::CLIENT, &client.fd));
        match watched {
            Ok(()) => Heard::Nothing,
            Err(error) => self.end(forwarding, Heard::Wrong(error.desc().to_owned())),
        }
    }

    /// The next one, please.
    fn end(&mut self, forwarding: &mut Loop, heard: Heard) -> Heard {
        self.client = None;
        match (forwarding.watch(Self::LISTENER, &self.listener), heard) {
            (Err(error), Heard::Nothing) => Heard::Wrong(error.desc().to_owned()),
            (_, heard) => heard,
        }
    }
}

impl Client {
    fn write(&mut self) -> Result<(), Errno> {
        let flags = MsgFlags::MSG_NOSIGNAL;
        let len = socket::send(self.fd.as_raw_fd(), self.session.output(), flags)?;
        self.session.wrote(len);
        Ok(())
    }

    /// None: more is to come.
    fn read(&mut self) -> Result<Option<Heard>, Errno> {
        let mut bytes = [0; READ];
        for _ in 0..READS {
            let len = match socket::recv(self.fd.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                other => other?,
            };
            if len == 0 {
                let closed = self.session.closed();
                let wrong = closed.map_err(|error| Heard::Wrong(error.to_string()));
                return Ok(Some(wrong.map_or_else(|wrong| wrong, |()| Heard::Nothing)));
            }
            match self.session.input(bytes.get(..len).unwrap_or_default()) {
                Ok(Progress::More) => {}
                Ok(Progress::Done(tables)) => return Ok(Some(Heard::Tables(tables))),
                Err(error) => return Ok(Some(Heard::Wrong(error.to_string()))),
            }
        }
        Ok(None)
    }
}
