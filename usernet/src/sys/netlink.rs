//! Requests to the kernel's routing tables: ask for all there is, or change one thing.
//!
//! A socket belongs to the network namespace that its thread was in when it was made. Requests and answers follow each
//! other strictly: we are one thread that has nothing else to do before the network is ready.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// What the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {}", .source.desc())]
pub struct NetlinkError {
    /// What was tried.
    pub what: String,
    /// The kernel's answer.
    pub source: Errno,
}

/// How often a list is asked for again that changed while it was told.
const DUMP_ATTEMPTS: u32 = 8;

/// `NLMSG_ERROR`, `NLMSG_DONE`
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// Hears that the host's links, addresses or routes have changed, not what.
#[derive(Debug)]
pub struct Notices(Socket);

impl Notices {
    /// From now on, in the network namespace of this thread.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        open()
            .map(Self)
            .map_err(|error: std::io::Error| NetlinkError {
                what: "Couldn't watch the host's network".to_owned(),
                source: errno(&error),
            })
    }

    /// Readable when there is something new.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Forget what was told so far. That some of it was lost says as much.
    pub fn drain(&self) {
        let mut room = [0_u8; 4096];
        let mut left = NOTICES;
        while left > 0 && self.0.recv(&mut &mut room[..], 0).is_ok() {
            left -= 1;
        }
    }
}

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_IFADDR`, `RTNLGRP_IPV6_ROUTE`
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// Notices that are forgotten before others have their turn.
const NOTICES: u32 = 256;

/// An answer that is part of the conversation.
enum Part {
    Message(Vec<u8>),
    End(Result<(), Errno>),
}

impl Netlink {
    /// Opens a socket in the network namespace of this thread.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|error: std::io::Error| NetlinkError {
            what: "Couldn't open netlink socket".to_owned(),
            source: errno(&error),
        })?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Everything of a kind. Messages that are not understood are left out.
    ///
    /// # Errors
    /// The kernel refuses, or the list changes faster than it can be read.
    pub fn dump(
        &mut self,
        what: &str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let raw = self.dump_bytes(what, &serialized(message.clone()))?;
        let parsed = raw.iter().filter_map(|bytes| {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
            if let NetlinkPayload::InnerMessage(message) = message.payload {
                Some(message)
            } else {
                None
            }
        });
        Ok(parsed.collect())
    }

    /// Everything of a kind, not parsed; each with its header.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn dump_bytes(&mut self, what: &str, request: &[u8]) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let failed = |source| NetlinkError {
            what: format!("Couldn't read {what}"),
            source,
        };
        for _ in 0..DUMP_ATTEMPTS {
            let (messages, torn) = self
                .exchange(request, NLM_F_REQUEST | NLM_F_DUMP)
                .map_err(failed)?;
            if !torn {
                return Ok(messages);
            }
        }
        Err(failed(Errno::EAGAIN))
    }

    /// Changes one thing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Errno> {
        self.exchange(&serialized(message), NLM_F_REQUEST | NLM_F_ACK | flags)?;
        Ok(())
    }

    /// The socket.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Asks, and reads up to the end of the answer. Tells whether a list changed meanwhile.
    fn exchange(&mut self, request: &[u8], flags: u16) -> Result<(Vec<Vec<u8>>, bool), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = request.to_vec();
        let mut header = NetlinkBuffer::new(&mut request);
        header.set_flags(flags);
        header.set_sequence_number(self.sequence);
        self.socket
            .send(&request, 0)
            .map_err(|error| errno(&error))?;
        let (mut messages, mut torn) = (Vec::new(), false);
        loop {
            // As long as the kernel makes it: one of many buffers of a long list.
            let (datagram, _) = self
                .socket
                .recv_from_full()
                .map_err(|error| errno(&error))?;
            let mut rest = datagram.as_slice();
            while let Some((part, after)) = self.part(rest, &mut torn) {
                match part {
                    Some(Part::Message(message)) => messages.push(message),
                    Some(Part::End(result)) => return result.map(|()| (messages, torn)),
                    None => {}
                }
                rest = after;
            }
        }
    }

    /// The next message of a datagram, and what follows it. None for one that answers an older request.
    fn part<'a>(&self, bytes: &'a [u8], torn: &mut bool) -> Option<(Option<Part>, &'a [u8])> {
        let buffer = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = usize::try_from(buffer.length()).ok()?;
        let message = bytes.get(..length)?;
        let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if buffer.sequence_number() != self.sequence {
            return Some((None, after));
        }
        *torn |= buffer.flags() & NLM_F_DUMP_INTR != 0;
        let part = match buffer.message_type() {
            ERROR | DONE => Part::End(code(message.get(16..20))),
            _ => Part::Message(message.to_vec()),
        };
        Some((Some(part), after))
    }
}

/// The error number at the beginning of a last message: negative, or zero.
fn code(bytes: Option<&[u8]>) -> Result<(), Errno> {
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    match bytes.map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(Errno::from_raw(code.saturating_abs())),
    }
}

fn serialized(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
