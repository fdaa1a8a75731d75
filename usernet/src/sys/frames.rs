//! Reading and writing frames of the tap.
//!
//! In front of each frame stands a `virtio_net_hdr` (linux/virtio_net.h), ten bytes in the byte order of the machine,
//! which says what the sender left to do: complete the transport checksum, cut the frame into packets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::{readv, writev};

use super::arena::{Arena, READ_MAX};
use super::capture::Capture;
use super::lanes;
use super::tap::{self, Tap};
use crate::cut;
use crate::event::{Lane, Offload, Payload, Segments, Span};
use crate::trace::{self, Way};

const VNET_HEADER: usize = 10;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const ETHERNET: usize = 14;
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
/// The shortest frame of Ethernet without its check sequence.
const FRAME_MIN: usize = 60;
/// The most pieces one write gathers: header, frame header, and a train of datagrams.
const PIECES: usize = 72;

/// What the kernel takes and leaves to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// A `virtio_net_hdr` stands in front of each frame.
    pub header: bool,
    /// Trains of UDP datagrams are taken (Linux 6.2).
    pub udp_segments: bool,
}

/// Who is told of each frame, in a line.
pub type Tracer = Box<dyn FnMut(&str)>;

/// The tap.
pub struct Frames {
    queues: Vec<OwnedFd>,
    spare: Vec<OwnedFd>,
    abilities: Abilities,
    capture: Option<Capture>,
    tracer: Option<Tracer>,
    /// Frames that the kernel did not take.
    refused: u64,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames")
            .field("queues", &self.queues)
            .field("abilities", &self.abilities)
            .field("capture", &self.capture)
            .finish_non_exhaustive()
    }
}

impl Frames {
    /// Frames of this tap.
    #[must_use]
    pub fn new(tap: Tap, capture: Option<Capture>) -> Self {
        let abilities = tap.negotiated.abilities();
        Self::with(tap, abilities, capture)
    }

    /// The same with other abilities than it has.
    #[must_use]
    pub fn with(tap: Tap, abilities: Abilities, capture: Option<Capture>) -> Self {
        Self {
            queues: vec![tap.fd],
            spare: tap.spare,
            abilities,
            capture,
            tracer: None,
            refused: 0,
        }
    }

    /// From now on, tell of each frame.
    pub fn trace(&mut self, tracer: Tracer) {
        self.tracer = Some(tracer);
    }

    /// The queues' descriptors, to wait for.
    pub fn queues(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(OwnedFd::as_fd)
    }

    /// Frames that the kernel did not take: the interface is down, or there was no memory.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether the tap can have more queues.
    #[must_use]
    pub fn can_widen(&self) -> bool {
        !self.spare.is_empty()
    }

    /// From now on, the tap has all the queues that it can have.
    pub fn widen(&mut self) {
        let spare = std::mem::take(&mut self.spare);
        let tap = self.queues.first().map(OwnedFd::as_fd);
        let added = |fd: &OwnedFd| tap.is_some_and(|tap| tap::add_queue(tap, fd.as_fd()).is_ok());
        // Without its other queues the tap is what it was.
        let more: Vec<_> = spare.into_iter().take_while(added).collect();
        self.queues.extend(more);
    }

    /// Read one frame of a queue into the arena; `EAGAIN` when there is none.
    pub fn read(&mut self, queue: u32, arena: &mut Arena) -> Result<(Span, Offload), Errno> {
        let fd = self.queues.get(queue as usize).ok_or(Errno::EBADF)?;
        let mut header = [0; VNET_HEADER];
        let front = if self.abilities.header {
            VNET_HEADER
        } else {
            0
        };
        let spare = arena.spare();
        let room = spare.len().min(READ_MAX);
        let mut pieces = [
            IoSliceMut::new(&mut header[..front]),
            IoSliceMut::new(&mut spare[..room]),
        ];
        let len = readv(fd, &mut pieces)?;
        let span = arena.keep(len.saturating_sub(front));
        let offload = decode(header);
        if let Some(tracer) = &mut self.tracer {
            let bytes = arena.bytes(span);
            tracer(&trace::frame(Way::FromGuest, bytes, bytes.len()));
        }
        if let Some(capture) = &mut self.capture {
            let left = Offload {
                // What is only known to be right is complete.
                partial_checksum: header[0] & NEEDS_CSUM != 0,
                ..offload
            };
            let frame = arena.bytes(span);
            let (headers, payload) = frame.split_at(cut::payload_of(frame));
            capture.frame(headers, &[IoSlice::new(payload)], left, 0);
        }
        Ok((span, offload))
    }

    /// At the end of a round.
    pub fn flush_capture(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
    }

    /// Give the guest a frame. What it answers comes by the queue of this lane.
    pub fn send(
        &mut self,
        headers: &[u8],
        payload: &Payload,
        offload: Offload,
        lane: Lane,
        arena: &Arena,
    ) -> Result<(), Errno> {
        let queue = lanes::queue(lane, last_port(headers), self.queues.len());
        let written = self.write(queue, headers, payload, offload, arena);
        self.refused += u64::from(written.is_err());
        written
    }

    fn write(
        &mut self,
        queue: usize,
        headers: &[u8],
        payload: &Payload,
        offload: Offload,
        arena: &Arena,
    ) -> Result<(), Errno> {
        let train = matches!(offload.segments, Segments::Udp(_));
        if !self.abilities.header && offload.partial_checksum
            || train && !self.abilities.udp_segments
        {
            return self.write_complete(queue, headers, payload, offload, arena);
        }
        let front = if self.abilities.header {
            VNET_HEADER
        } else {
            0
        };
        let vnet = encode(headers, offload);
        let mut pieces = Pieces {
            slices: [IoSlice::new(&[]); PIECES],
            count: 0,
            len: 0,
        };
        pieces.add(&vnet[..front]);
        pieces.add(headers);
        match payload {
            Payload::None => {}
            Payload::Span(span) => pieces.add(arena.bytes(*span)),
            Payload::Gather(spans) => {
                joined(spans).for_each(|span| pieces.add(arena.bytes(span)));
            }
            Payload::Bytes(bytes) => pieces.add(bytes),
        }
        let own = pieces.count;
        let missing = (front + FRAME_MIN).saturating_sub(pieces.len);
        pieces.add(&[0; FRAME_MIN][..missing]);
        let fd = self.queues.get(queue).ok_or(Errno::EBADF)?;
        writev(fd, &pieces.slices[..pieces.count])?;
        if let Some(tracer) = &mut self.tracer {
            let len = pieces.len.saturating_sub(front);
            tracer(&trace::frame(Way::ToGuest, headers, len));
        }
        if let Some(capture) = &mut self.capture {
            let before = 1 + usize::from(front > 0);
            capture.frame(headers, &pieces.slices[before..own], offload, FRAME_MIN);
        }
        Ok(())
    }

    /// The same for a kernel that wants every packet complete.
    fn write_complete(
        &mut self,
        queue: usize,
        headers: &[u8],
        payload: &Payload,
        offload: Offload,
        arena: &Arena,
    ) -> Result<(), Errno> {
        let bytes = match payload {
            Payload::None => Vec::new(),
            Payload::Span(span) => arena.bytes(*span).to_vec(),
            Payload::Gather(spans) => spans
                .iter()
                .flat_map(|s| arena.bytes(*s))
                .copied()
                .collect(),
            Payload::Bytes(bytes) => bytes.clone(),
        };
        for frame in cut::complete(headers, &bytes, offload.segments) {
            self.write(queue, &frame, &Payload::None, Offload::default(), arena)?;
        }
        Ok(())
    }
}

/// The guest's port, in the headers of a datagram; in other headers, something.
fn last_port(headers: &[u8]) -> u16 {
    let place = headers.len().saturating_sub(6);
    let bytes = headers.get(place..place + 2);
    bytes.map_or(0, |port| u16::from_be_bytes([port[0], port[1]]))
}

/// What one write gathers.
struct Pieces<'a> {
    slices: [IoSlice<'a>; PIECES],
    count: usize,
    len: usize,
}

impl<'a> Pieces<'a> {
    fn add(&mut self, bytes: &'a [u8]) {
        if !bytes.is_empty() && self.count < PIECES {
            self.slices[self.count] = IoSlice::new(bytes);
            self.count += 1;
            self.len += bytes.len();
        }
    }
}

/// Spans with neighbours that touch made one.
pub fn joined(spans: &[Span]) -> impl Iterator<Item = Span> {
    let mut rest = spans.iter().copied().peekable();
    std::iter::from_fn(move || {
        let mut span = rest.next()?;
        while let Some(next) = rest.next_if(|next| next.at == span.at + span.len) {
            span.len += next.len;
        }
        Some(span)
    })
}

fn decode(header: [u8; VNET_HEADER]) -> Offload {
    let [flags, kind, _, _, low, high, ..] = header;
    let size = u16::from_ne_bytes([low, high]);
    Offload {
        partial_checksum: flags & (NEEDS_CSUM | DATA_VALID) != 0,
        segments: match kind & !GSO_ECN {
            GSO_TCPV4 | GSO_TCPV6 => Segments::Tcp(size),
            GSO_UDP_L4 => Segments::Udp(size),
            _ => Segments::One,
        },
    }
}

/// The header for a frame of ours: Ethernet, IP without options or extensions, TCP or UDP.
fn encode(headers: &[u8], offload: Offload) -> [u8; VNET_HEADER] {
    let mut vnet = [0; VNET_HEADER];
    if !offload.partial_checksum {
        return vnet;
    }
    let v6 = headers.get(12..14) == Some(&ETHERTYPE_IPV6);
    let (transport, protocol): (u16, _) = if v6 {
        (54, headers.get(20))
    } else {
        (34, headers.get(23))
    };
    let tcp = protocol == Some(&TCP);
    let checksum: u16 = if tcp { 16 } else { 6 };
    let (kind, size) = match offload.segments {
        Segments::One => (GSO_NONE, 0),
        Segments::Tcp(size) if v6 => (GSO_TCPV6, size),
        Segments::Tcp(size) => (GSO_TCPV4, size),
        Segments::Udp(size) => (GSO_UDP_L4, size),
    };
    debug_assert!(headers.len() > ETHERNET, "a frame has an Ethernet header");
    vnet[0] = NEEDS_CSUM;
    vnet[1] = kind;
    let len = u16::try_from(headers.len()).unwrap_or_default();
    vnet[2..4].copy_from_slice(&len.to_ne_bytes());
    vnet[4..6].copy_from_slice(&size.to_ne_bytes());
    vnet[6..8].copy_from_slice(&transport.to_ne_bytes());
    vnet[8..10].copy_from_slice(&checksum.to_ne_bytes());
    vnet
}
