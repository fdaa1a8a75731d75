//! Bytes from one socket to another, without a guest's link in between.
//!
//! Small pieces are copied through the arena: two calls. When pieces fill what one copy can hold, the direction changes
//! to a pipe of its own and `splice(2)`, which moves pages, and back when pieces stay small. A direction holds what the
//! other socket did not take, in its pipe or in memory, at most `COPY` bytes of the latter.
//!
//! `splice(2)` does not pass a mark of urgent data (tcp(7)), only `recv(2)` does: it says there that nothing is there, or
//! that the stream has ended. So a stream that had such data is copied for good, and the end is what a copy says it is.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{self, MsgFlags, sockopt};

use super::arena::Arena;
use super::sockets::Socket;
use crate::event::{PumpStop, Side};

/// Bytes that one copy moves.
const COPY: usize = 64 << 10;
/// From this size of pieces on, pages are moved; below the second, bytes are copied again.
const LARGE: usize = 32 << 10;
const SMALL: usize = 4 << 10;
/// So many small pieces in a row make a stream one of small pieces; one now and then is the tail of a large one.
const PATIENCE: u32 = 64;
/// What a pipe shall hold, bytes; the kernel may give less.
const PIPE: i32 = 1 << 20;
/// Bytes after which others have their turn.
const SHARE: u64 = 2 << 20;

/// What is between the two sockets of a flow.
#[derive(Debug, Default)]
pub struct Pipes {
    from_host: Way,
    from_guest: Way,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    pipe: Option<Pipe>,
    /// Copied and not yet taken.
    kept: Vec<u8>,
    /// No more pages: the stream is at its end or has urgent data.
    plain: bool,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    /// How many pieces in a row were small.
    small: u32,
}

/// How one step ended.
enum Step {
    Moved,
    Stop(PumpStop),
}

impl Pipes {
    /// Move what can be moved. What the sink took is added to `moved`.
    pub fn pump(
        &mut self,
        from: Side,
        source: &Socket,
        sink: &Socket,
        arena: &mut Arena,
        moved: &mut u64,
    ) -> Result<PumpStop, Errno> {
        let way = match from {
            Side::Host => &mut self.from_host,
            Side::Guest => &mut self.from_guest,
        };
        way.plain |= source.urgent;
        loop {
            let step = match way.pipe {
                None => way.copy(source.fd(), sink.fd(), arena, moved)?,
                Some(_) => way.splice(source.fd(), sink.fd(), moved)?,
            };
            if let Step::Stop(stopped) = step {
                return Ok(stopped);
            }
            if *moved >= SHARE {
                return Ok(PumpStop::Share);
            }
        }
    }
}

impl Way {
    /// One piece through memory.
    fn copy(
        &mut self,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
        arena: &mut Arena,
        moved: &mut u64,
    ) -> Result<Step, Errno> {
        if !self.kept.is_empty() {
            return self.deliver_kept(sink, moved);
        }
        let room = arena.spare();
        let max = room.len().min(COPY);
        if max == 0 {
            // To ask for nothing is answered as the end is. The next round has room.
            return Ok(Step::Stop(PumpStop::Share));
        }
        let len = match socket::recv(source.as_raw_fd(), &mut room[..max], MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Ok(Step::Stop(PumpStop::End)),
            Ok(len) => len,
            Err(Errno::EAGAIN) => return Ok(Step::Stop(PumpStop::Empty)),
            Err(error) => return Err(error),
        };
        if len >= LARGE && !self.plain {
            self.pipe = Pipe::new().ok();
        }
        let sent = send(sink, &room[..len])?;
        *moved += sent as u64;
        self.kept.extend_from_slice(&room[sent..len]);
        if self.kept.is_empty() {
            Ok(Step::Moved)
        } else {
            Ok(Step::Stop(PumpStop::Full))
        }
    }

    fn deliver_kept(&mut self, sink: BorrowedFd<'_>, moved: &mut u64) -> Result<Step, Errno> {
        let sent = send(sink, &self.kept)?;
        *moved += sent as u64;
        self.kept.drain(..sent);
        if self.kept.is_empty() {
            self.kept = Vec::new();
            Ok(Step::Moved)
        } else {
            Ok(Step::Stop(PumpStop::Full))
        }
    }

    /// One piece by pages.
    fn splice(
        &mut self,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
        moved: &mut u64,
    ) -> Result<Step, Errno> {
        if !self.kept.is_empty() {
            return self.deliver_kept(sink, moved);
        }
        let Some(pipe) = &mut self.pipe else {
            return Ok(Step::Stop(PumpStop::Empty));
        };
        if !self.plain && pipe.small < PATIENCE {
            match splice(source, None, &pipe.write, None, 1 << 20, flags()) {
                Ok(0) => self.plain = true,
                Ok(len) => {
                    pipe.held += len;
                    pipe.small = if len < SMALL { pipe.small + 1 } else { 0 };
                }
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        if pipe.held == 0 {
            if self.plain || pipe.small >= PATIENCE {
                self.pipe = None;
                return Ok(Step::Moved);
            }
            return Ok(Step::Stop(PumpStop::Empty));
        }
        match splice(&pipe.read, None, sink, None, pipe.held, flags()) {
            Ok(len) => {
                pipe.held -= len.min(pipe.held);
                *moved += len as u64;
                Ok(Step::Moved)
            }
            // The sink is full. A source that filled the pipe wakes nobody when the pipe is emptied: the forwarder asks
            // again when the sink can be written.
            Err(Errno::EAGAIN) => Ok(Step::Stop(PumpStop::Full)),
            Err(error) => Err(error),
        }
    }
}

impl Pipe {
    fn new() -> Result<Self, Errno> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // Less room costs calls, not correctness.
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE)).unwrap_or_default();
        Ok(Self {
            read,
            write,
            held: 0,
            small: 0,
        })
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

fn send(sink: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    match socket::send(
        sink.as_raw_fd(),
        bytes,
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
    ) {
        Err(Errno::EAGAIN) => Ok(0),
        other => other,
    }
}

/// Close a stream so that its peer gets a reset.
pub fn reset(fd: OwnedFd) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // A socket that has no connection any more has nobody to tell.
    socket::setsockopt(&fd.as_fd(), sockopt::Linger, &linger).unwrap_or_default();
    drop(fd);
}
