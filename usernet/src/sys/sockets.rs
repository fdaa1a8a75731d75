//! The sockets of flows, by their names.
//!
//! Stream sockets are watched edge-triggered for everything at once: what is peeked at stays in the socket, so a level
//! would never fall, and no call is needed to change the interest. Datagram sockets are watched for their level: one call
//! takes a batch, and if more is there the next wait says so.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{self, MsgFlags, Shutdown};

use super::arena::Arena;
use super::growth::Growth;
use super::options::{self, Options};
use super::raw;
use super::splice::Pipes;
use super::token::Token;
use crate::event::{FlowId, Side, SocketId, Span, Transport};

/// The peer has sent its last byte (poll(2)).
const RDHUP: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// One socket of a flow.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// What kind.
    pub transport: Transport,
    v6: bool,
    /// Where the kernel's next look begins, bytes behind the first one not yet discarded.
    peek_at: u32,
    /// The time to live it was last given.
    ttl: Option<u8>,
    /// Whether trains can be sent through it.
    pub trains: bool,
    /// How much it may receive.
    growth: Growth,
    /// Where it sends, if it is not connected.
    to: Option<Box<SocketAddr>>,
    /// It had urgent data.
    pub urgent: bool,
}

impl Socket {
    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Send with this time to live from now on.
    pub fn set_ttl(&mut self, ttl: u8) {
        let many = self.to().is_some_and(|to| to.ip().is_multicast());
        let set = if many {
            options::set_multicast_ttl
        } else {
            options::set_ttl
        };
        if self.ttl != Some(ttl) && set(self.fd.as_fd(), self.v6, ttl).is_ok() {
            self.ttl = Some(ttl);
        }
    }

    /// It is not connected, and sends there.
    pub fn sends_to(&mut self, to: SocketAddr) {
        self.to = Some(Box::new(to));
    }

    /// Where it sends, if it is not connected.
    pub fn to(&self) -> Option<SocketAddr> {
        self.to.as_deref().copied()
    }
}

/// What one flow has.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    host: Option<Socket>,
    guest: Option<Socket>,
    pipes: Option<Box<Pipes>>,
}

/// All sockets of flows.
#[derive(Debug, Default)]
pub struct Sockets {
    slots: Vec<Slot>,
    /// Where bytes go that are peeked over, on kernels that cannot skip them.
    trash: Vec<u8>,
}

impl Sockets {
    /// Give a socket to a flow and watch it.
    pub fn insert(
        &mut self,
        epoll: &Epoll,
        id: SocketId,
        fd: OwnedFd,
        transport: Transport,
        v6: bool,
    ) -> Result<(), Errno> {
        let flags = match transport {
            Transport::Tcp => {
                EpollFlags::EPOLLIN
                    | EpollFlags::EPOLLPRI
                    | EpollFlags::EPOLLOUT
                    | EpollFlags::EPOLLRDHUP
                    | EpollFlags::EPOLLET
            }
            Transport::Udp | Transport::Echo => EpollFlags::EPOLLIN,
        };
        epoll.add(&fd, EpollEvent::new(flags, Token::Flow(id).encode()))?;
        let place = id.flow.index as usize;
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, Slot::default);
        }
        let slot = &mut self.slots[place];
        if slot.generation != id.flow.generation {
            *slot = Slot {
                generation: id.flow.generation,
                ..Slot::default()
            };
        }
        let socket = Socket {
            fd,
            transport,
            v6,
            peek_at: 0,
            ttl: None,
            trains: true,
            growth: Growth::new(Instant::now()),
            to: None,
            urgent: false,
        };
        match id.side {
            Side::Host => slot.host = Some(socket),
            Side::Guest => slot.guest = Some(socket),
        }
        Ok(())
    }

    fn slot(&mut self, flow: FlowId) -> Option<&mut Slot> {
        self.slots
            .get_mut(flow.index as usize)
            .filter(|slot| slot.generation == flow.generation)
    }

    /// A socket by its name, if the flow has not ended.
    pub fn find(&mut self, id: SocketId) -> Option<&mut Socket> {
        let slot = self.slot(id.flow)?;
        match id.side {
            Side::Host => slot.host.as_mut(),
            Side::Guest => slot.guest.as_mut(),
        }
    }

    /// Both sockets of a flow, the one to read first, and what is between them.
    pub fn pair(&mut self, flow: FlowId, from: Side) -> Option<(&Socket, &Socket, &mut Pipes)> {
        let slot = self.slot(flow)?;
        let (host, guest) = (slot.host.as_ref()?, slot.guest.as_ref()?);
        let pipes = slot.pipes.get_or_insert_default();
        Some(match from {
            Side::Host => (host, guest, pipes),
            Side::Guest => (guest, host, pipes),
        })
    }

    /// Close a socket, politely or with a reset.
    pub fn close(&mut self, id: SocketId, reset: bool) {
        let Some(slot) = self.slot(id.flow) else {
            return;
        };
        let socket = match id.side {
            Side::Host => slot.host.take(),
            Side::Guest => slot.guest.take(),
        };
        if slot.host.is_none() && slot.guest.is_none() {
            slot.pipes = None;
        }
        if reset && let Some(socket) = socket {
            super::splice::reset(socket.fd);
        }
    }

    /// Look at bytes of a stream, from `offset` bytes behind the first one not discarded.
    pub fn peek(
        &mut self,
        options: &Options,
        id: SocketId,
        offset: u32,
        max: u32,
        arena: &mut Arena,
    ) -> Result<Span, Errno> {
        let max = max as usize;
        if arena.room() < max {
            // An answer that is short says that there is no more, and an empty one that the stream has ended.
            return Err(Errno::ENOBUFS);
        }
        if !options.peek_offset {
            return self.peek_over(id, offset, max, arena);
        }
        let socket = self.find(id).ok_or(Errno::EBADF)?;
        if socket.peek_at != offset {
            options::set_peek_offset(socket.fd.as_fd(), offset).map_err(errno)?;
            socket.peek_at = offset;
        }
        let room = &mut arena.spare()[..max];
        let len = socket::recv(
            socket.fd.as_raw_fd(),
            room,
            MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
        )?;
        let span = arena.keep(len);
        socket.peek_at += span.len;
        Ok(span)
    }

    /// The same where the kernel always begins at the first byte: what comes before is copied and ignored.
    fn peek_over(
        &mut self,
        id: SocketId,
        offset: u32,
        max: usize,
        arena: &mut Arena,
    ) -> Result<Span, Errno> {
        let offset = offset as usize;
        let mut trash = std::mem::take(&mut self.trash);
        if trash.len() < offset {
            trash.resize(offset, 0);
        }
        let result = self.find(id).ok_or(Errno::EBADF).and_then(|socket| {
            let mut pieces = [
                std::io::IoSliceMut::new(&mut trash[..offset]),
                std::io::IoSliceMut::new(&mut arena.spare()[..max]),
            ];
            let message = socket::recvmsg::<()>(
                socket.fd.as_raw_fd(),
                &mut pieces,
                None,
                MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
            )?;
            Ok(message.bytes)
        });
        self.trash = trash;
        match result? {
            len if len > offset => Ok(arena.keep(len - offset)),
            // The end of the stream and "nothing new" look alike here.
            len => self.at_end(id, len, arena),
        }
    }

    /// Whether nothing came because the stream has ended.
    fn at_end(&mut self, id: SocketId, len: usize, arena: &mut Arena) -> Result<Span, Errno> {
        let socket = self.find(id).ok_or(Errno::EBADF)?;
        let mut waits = [PollFd::new(socket.fd.as_fd(), RDHUP)];
        poll(&mut waits, PollTimeout::ZERO)?;
        let ended = waits[0].revents().is_some_and(|r| r.contains(RDHUP));
        let mut unread: libc::c_int = 0;
        raw::unread(socket.fd.as_fd(), &mut unread).map_err(errno)?;
        if ended && usize::try_from(unread).is_ok_and(|unread| unread == len) {
            Ok(arena.keep(0))
        } else {
            Err(Errno::EAGAIN)
        }
    }

    /// Take bytes from a stream and forget them.
    pub fn discard(&mut self, id: SocketId, len: u32) {
        let Some(socket) = self.find(id) else { return };
        let now = Instant::now();
        let mut left = len as usize;
        while left > 0 {
            match raw::discard(socket.fd.as_fd(), left) {
                Ok(0) | Err(_) => break,
                Ok(taken) => left -= taken.min(left),
            }
        }
        socket.peek_at = socket.peek_at.saturating_sub(len);
        socket.growth.take(socket.fd.as_fd(), now, len);
    }

    /// Write to a stream; what it does not take is told as less.
    pub fn write(&mut self, id: SocketId, data: &[u8]) -> Result<u32, Errno> {
        let socket = self.find(id).ok_or(Errno::EBADF)?;
        match socket::send(
            socket.fd.as_raw_fd(),
            data,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        ) {
            Ok(len) => Ok(u32::try_from(len).unwrap_or(u32::MAX)),
            Err(Errno::EAGAIN) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Send no more on a stream.
    pub fn shutdown(&mut self, id: SocketId) {
        if let Some(socket) = self.find(id) {
            // A connection that is gone already tells so by its next event.
            socket::shutdown(socket.fd.as_raw_fd(), Shutdown::Write).unwrap_or_default();
        }
    }
}

/// The error number of an I/O error of the kernel.
pub fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
