//! What the shell tells the forwarder, and what the forwarder asks of the shell.
//!
//! One event is handled at a time, and every output is done before the next event of the outside world:
//!
//! ```text
//! forwarder.handle(now, event);
//! while let Some(output) = forwarder.poll() {
//!     if let Some(answer) = shell.perform(output) { forwarder.handle(now, answer); }
//! }
//! ```
//!
//! Spans stay valid until the shell has told [`Event::BatchEnd`] and done what it then found in `poll`.
//! Sockets are named by their flow and side; the shell keeps the descriptors. An event for a flow that has ended (its
//! generation is older) is ignored.

use std::net::{IpAddr, SocketAddr};

/// A flow: its place in the table and how often the place was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// Place in the flow table.
    pub index: u32,
    /// Grows each time the place is used again; 24 bits, wraps.
    pub generation: u32,
}

/// Which namespace a socket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The namespace we were started in.
    Host,
    /// The container's namespace: only flows that do not use the tap have sockets there.
    Guest,
}

/// One socket of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// Whose socket.
    pub flow: FlowId,
    /// Which of its two.
    pub side: Side,
}

/// A listening socket: its place in the list of [`crate::config::Config::listeners`] as the shell keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u32);

/// A connection that was accepted and has no flow yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pending(pub u32);

/// Bytes in the shell's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Offset in the arena, bytes.
    pub at: u32,
    /// Length, bytes.
    pub len: u32,
}

/// What the kernel left to do on a frame, or is asked to do (the meaning of `virtio_net_hdr`, linux/virtio_net.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum covers the pseudo header only; whoever needs it complete computes it.
    /// From the guest without this flag, the checksum is complete and was not verified.
    pub partial_checksum: bool,
    /// The frame is a train of packets.
    pub segments: Segments,
}

/// How a frame larger than the link's MTU is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segments {
    /// One packet.
    #[default]
    One,
    /// TCP segments of this many bytes of payload each, the last one shorter.
    Tcp(u16),
    /// UDP datagrams of this many bytes of payload each, the last one shorter.
    Udp(u16),
}

/// What a socket of the kernel is ready for (an edge: told once, until it changes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Bytes or the end of the stream can be read; for a connecting socket meaningless.
    pub readable: bool,
    /// Bytes can be written; for a connecting socket: the attempt has ended.
    pub writable: bool,
    /// The peer will send no more.
    pub ended: bool,
    /// The socket is in error or cut off both ways; [`Event::Ready`] has the error number.
    pub failed: bool,
    /// There is urgent data (tcp(7)): a look at the stream may end before it although there is more.
    pub urgent: bool,
}

/// An error number of the kernel (`errno`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What wakes the forwarder.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A frame of the guest, from its Ethernet header on. `at` is its place in the arena.
    Frame {
        /// The frame.
        bytes: &'a [u8],
        /// Where the arena has it.
        at: u32,
        /// What its checksum and size mean.
        offload: Offload,
    },
    /// No more events are at hand: what was held back to be sent together goes now.
    BatchEnd,
    /// A TCP connection was accepted. Answered by [`Output::Adopt`] or [`Output::Refuse`].
    Connection {
        /// By whom.
        listener: ListenerId,
        /// Its name until it is adopted.
        pending: Pending,
        /// Who called.
        peer: SocketAddr,
        /// The address that was called.
        local: SocketAddr,
    },
    /// The answer to [`Output::Connect`]: the socket exists, bound to this address, and a TCP connection is on its way.
    Opened {
        /// The socket.
        socket: SocketId,
        /// Its own address, or why there is none.
        result: Result<SocketAddr, Errno>,
    },
    /// A stream socket changed.
    Ready {
        /// The socket.
        socket: SocketId,
        /// What it is ready for.
        readiness: Readiness,
        /// With `failed`: the pending error (`SO_ERROR`).
        error: Option<Errno>,
    },
    /// The answer to [`Output::Peek`]. An empty span is the end of the stream, a span shorter than was asked for or
    /// `EAGAIN` means nothing more for now, and `ENOBUFS` that the arena is full and the next round will have room.
    Peeked {
        /// The socket.
        socket: SocketId,
        /// The bytes, in the arena until a frame has carried them.
        result: Result<Span, Errno>,
    },
    /// The answer to [`Output::Write`] and [`Output::WriteKept`].
    Written {
        /// The socket.
        socket: SocketId,
        /// How many bytes it took (`EAGAIN` is told as 0).
        result: Result<u32, Errno>,
        /// The bytes it did not take, for the forwarder to keep: the end of what the output named.
        rest: &'a [u8],
    },
    /// The answer to [`Output::Pump`].
    Pumped {
        /// Which flow.
        flow: FlowId,
        /// The side that was read.
        from: Side,
        /// Bytes that the other socket took.
        moved: u64,
        /// Why it stopped.
        result: Result<PumpStop, Errno>,
    },
    /// Datagrams of one peer arrived at the socket of a UDP flow, or replies at that of an echo flow (from the ICMP
    /// header on).
    Datagrams {
        /// The socket.
        socket: SocketId,
        /// The datagrams, in order; empty ones count.
        spans: &'a [Span],
        /// The datagrams' bytes, where the forwarder must see them (echo): the arena, whole.
        arena: &'a [u8],
        /// Who sent them.
        peer: SocketAddr,
        /// The time to live they came with, if known.
        ttl: Option<u8>,
    },
    /// Datagrams of one peer arrived at a listener.
    Arrivals {
        /// The listener.
        listener: ListenerId,
        /// The datagrams, in order; empty ones count.
        spans: &'a [Span],
        /// The arena, whole.
        arena: &'a [u8],
        /// Who sent them.
        peer: SocketAddr,
        /// The address they were sent to.
        local: SocketAddr,
        /// The time to live they came with, if known.
        ttl: Option<u8>,
    },
    /// The error queue of a UDP or echo socket told of an ICMP message or of a local failure (`IP_RECVERR`).
    Failure {
        /// The socket.
        socket: SocketId,
        /// What was told.
        failure: Failure<'a>,
    },
    /// A deadline may have passed.
    Timer,
    /// The host's neighbour table says something new of an address on the template link.
    Neighbour {
        /// The neighbour.
        address: IpAddr,
        /// Its link-layer address; none: forgotten.
        mac: Option<[u8; 6]>,
    },
}

/// Why a transfer from one socket of a splice to the other stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PumpStop {
    /// Nothing to read for now.
    Empty,
    /// The other socket takes no more for now.
    Full,
    /// The end of the stream was read and everything before it delivered.
    End,
    /// Its share of this round is used up: ask again.
    Share,
}

/// What an error queue told (`struct sock_extended_err`, linux/errqueue.h).
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// The error number the socket has.
    pub error: Errno,
    /// The ICMP or ICMPv6 message it stands for: type, code, MTU or pointer; none for a local failure.
    pub icmp: Option<(u8, u8, u32)>,
    /// Who sent the ICMP message.
    pub offender: Option<IpAddr>,
    /// Where the datagram was going.
    pub destination: SocketAddr,
    /// The beginning of the datagram's payload.
    pub payload: &'a [u8],
}

/// Transport of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// `SOCK_STREAM`.
    Tcp,
    /// `SOCK_DGRAM`.
    Udp,
    /// `SOCK_DGRAM` of `IPPROTO_ICMP` or `IPPROTO_ICMPV6`; the port is the identifier.
    Echo,
}

/// What the forwarder asks of the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Give the guest a frame: headers, then payload.
    Frame {
        /// Ethernet, network and transport headers, checksums as `offload` says.
        headers: Headers,
        /// What follows them.
        payload: Payload,
        /// What the guest's kernel may take for granted.
        offload: Offload,
        /// Whose turn the guest's answer has.
        lane: Lane,
    },
    /// Make a socket and begin to connect it. Answered by [`Event::Opened`]; for TCP later by [`Event::Ready`].
    Connect {
        /// Its name.
        socket: SocketId,
        /// What kind.
        transport: Transport,
        /// Where to bind it, if the kernel shall not choose; port 0: any.
        local: Option<SocketAddr>,
        /// The peer.
        to: SocketAddr,
        /// `TCP_MAXSEG`, for TCP on behalf of a guest whose link takes less than Ethernet does.
        mss: Option<u16>,
        /// For datagrams: another socket of ours may have the local port. Otherwise nobody may have it.
        shared: bool,
    },
    /// Make a datagram socket that sends to a group or to everybody on the host's link, and hears whoever answers.
    /// Answered by [`Event::Opened`], with the address that others see.
    Group {
        /// Its name.
        socket: SocketId,
        /// Where to bind it; port 0: any.
        local: SocketAddr,
        /// Where to send.
        to: SocketAddr,
        /// As for [`Output::Connect`].
        shared: bool,
    },
    /// Make a socket that hears what others send to a group and a port; port 0: it hears nothing, but listeners do from
    /// now on. Answered by [`Event::Opened`].
    Join {
        /// Its name.
        socket: SocketId,
        /// The group.
        group: SocketAddr,
    },
    /// The accepted connection is this flow's socket from now on.
    Adopt {
        /// Which connection.
        pending: Pending,
        /// Its name.
        socket: SocketId,
    },
    /// Close the accepted connection with a reset.
    Refuse(Pending),
    /// Look at bytes of a stream without taking them (`MSG_PEEK`), from `offset` bytes behind the first one not yet
    /// discarded. Answered by [`Event::Peeked`].
    Peek {
        /// The socket.
        socket: SocketId,
        /// Bytes to skip.
        offset: u32,
        /// Most bytes wanted.
        max: u32,
    },
    /// Take bytes from the stream and forget them: the guest has them.
    Discard {
        /// The socket.
        socket: SocketId,
        /// How many.
        len: u32,
    },
    /// Write bytes of the arena to a stream. Answered by [`Event::Written`].
    Write {
        /// The socket.
        socket: SocketId,
        /// The bytes.
        data: Span,
    },
    /// Write bytes that the forwarder had kept. Answered by [`Event::Written`].
    WriteKept {
        /// The socket.
        socket: SocketId,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Send a datagram, or several of `segment` bytes each, to the connected peer.
    Send {
        /// The socket.
        socket: SocketId,
        /// Bytes to send before those of the arena (an echo header).
        header: Headers,
        /// The payload.
        data: Payload,
        /// Cut into datagrams of so many bytes.
        segment: Option<u16>,
        /// Time to live, where it differs from what the socket last had.
        ttl: Option<u8>,
    },
    /// Send no more (`SHUT_WR`).
    Shutdown(SocketId),
    /// Close a socket.
    Close {
        /// The socket.
        socket: SocketId,
        /// With a reset (`SO_LINGER` of zero).
        reset: bool,
    },
    /// Move bytes from the socket of one side to that of the other. Answered by [`Event::Pumped`].
    Pump {
        /// Which flow.
        flow: FlowId,
        /// The side to read.
        from: Side,
    },
    /// Something a person may want to know. The shell limits the rate and chooses the level.
    Report(Report),
}

/// How a frame's flow behaves, for a link that can let the guest's frames of some flows pass those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lane {
    /// It is under way: both sides answer each other.
    Steady,
    /// Nothing is known of it.
    #[default]
    Common,
    /// It is refused, or called to order: who sent this gains nothing by being heard soon.
    Last,
}

/// What follows the headers of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    None,
    /// Bytes in the arena.
    Span(Span),
    /// Bytes in the arena, in several places.
    Gather(Vec<Span>),
    /// Bytes of our own.
    Bytes(Vec<u8>),
}

/// The most bytes that [`Headers`] hold: Ethernet, IPv6 and the longest TCP header, or an ICMPv6 error's.
pub const HEADERS_MAX: usize = 14 + 40 + 60;

/// The headers of a frame, in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    bytes: [u8; HEADERS_MAX],
    len: u8,
}

impl Headers {
    /// No bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; HEADERS_MAX],
            len: 0,
        }
    }

    /// The bytes written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Append bytes.
    ///
    /// # Panics
    ///
    /// When there are more than [`HEADERS_MAX`] in all: headers are made by us, of known kinds.
    pub fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        let end = start + bytes.len();
        assert!(end <= HEADERS_MAX, "headers of {end} bytes");
        self.bytes[start..end].copy_from_slice(bytes);
        self.len = u8::try_from(end).expect("HEADERS_MAX is less than 256");
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Headers").field(&self.as_bytes()).finish()
    }
}

/// Something a person may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// There is no room for one more flow: another one gave way, or the new one was not made.
    TableFull {
        /// The limit.
        limit: u32,
        /// Of what.
        of: Limited,
        /// An idle flow gave way.
        evicted: bool,
    },
    /// A connection was reset that kept many bytes for a socket that took none.
    TooMuchKept,
    /// A socket could not be made.
    NoSocket {
        /// Transport.
        transport: Transport,
        /// Where to.
        to: SocketAddr,
        /// Why.
        error: Errno,
    },
    /// A connection could not be accepted: listeners that have one rest.
    NotAccepted {
        /// Why.
        error: Errno,
    },
    /// Nobody makes sockets in the guest's namespace any more.
    NoGuestSockets,
    /// Who makes them does not answer.
    GuestSocketsLate,
    /// A packet was not forwarded.
    Dropped(Drop),
}

/// What there may be only so many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Flows.
    Flows,
    /// TCP connections whose handshake is not finished.
    HalfOpen,
    /// Descriptors of flows.
    Descriptors,
    /// UDP flows of this port.
    Port(u16),
}

/// Why a packet was not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Drop {
    /// Shorter or longer than its headers say, or headers that contradict each other.
    Malformed,
    /// A checksum that does not fit.
    Checksum,
    /// A protocol nobody forwards.
    Protocol,
    /// A source that is not the guest's to use.
    Source,
    /// A destination that cannot be reached through us (loopback, unspecified, broadcast for TCP).
    Destination,
    /// Switched off by an option.
    Disabled,
    /// No flow, and not the beginning of one.
    Flow,
    /// Fragments that never became whole, or too many at once.
    Fragment,
    /// One flow more that nobody answers ([`crate::limits::UNANSWERED`]).
    Unanswered,
}
