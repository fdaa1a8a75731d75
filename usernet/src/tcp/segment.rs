//! One TCP segment: what the guest said, and what we say.
//!
//! [`Segment::parse`] is [`packet::tcp`](crate::packet::tcp) with sequence numbers as such and the payload's place.

use std::net::SocketAddr;

use super::seq::Seq;
use crate::event::{Drop, Headers, Offload, Segments};
use crate::packet::build::{self, Link};
use crate::packet::tcp::{self, Flags, Options};

/// What the guest said.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The first byte's number, or that of `SYN`.
    pub seq: Seq,
    /// What the guest expects next, if `ACK` is set.
    pub ack: Seq,
    /// The flags.
    pub flags: Flags,
    /// The window as it stands there, not scaled.
    pub window: u16,
    /// Maximum segment size, of a `SYN`.
    pub mss: Option<u16>,
    /// Window scale, of a `SYN`.
    pub scale: Option<u8>,
    /// The bytes.
    pub payload: &'a [u8],
    /// Where the arena has them.
    pub at: u32,
}

/// The largest scale there is (RFC 7323, 2.3).
const SCALE_MAX: u8 = 14;

impl<'a> Segment<'a> {
    /// Source port, destination port, and the rest of a segment whose first byte the arena has at `at`.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub fn parse(bytes: &'a [u8], at: u32) -> Result<(u16, u16, Self), Drop> {
        let (header, header_len, payload) = tcp::parse(bytes)?;
        let header_len = u32::try_from(header_len).map_err(|_| Drop::Malformed)?;
        let segment = Self {
            seq: Seq(header.sequence),
            ack: Seq(header.acknowledgement),
            flags: header.flags,
            window: header.window,
            mss: header.options.mss,
            scale: header
                .options
                .window_scale
                .map(|scale| scale.min(SCALE_MAX)),
            payload,
            at: at.wrapping_add(header_len),
        };
        Ok((header.source, header.destination, segment))
    }

    /// All of these flags are set.
    #[must_use]
    pub fn has(&self, flags: Flags) -> bool {
        self.flags.has(flags)
    }

    /// One of these flags is set.
    #[must_use]
    pub fn has_any(&self, flags: Flags) -> bool {
        self.flags.0 & flags.0 != 0
    }

    /// It asks for a connection.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.has(Flags::SYN) && !self.has_any(Flags::ACK | Flags::RST)
    }

    /// Sequence numbers it takes.
    #[must_use]
    pub fn len(&self) -> u32 {
        let bytes = u32::try_from(self.payload.len()).expect("an IP packet has 16 bits of length");
        bytes + u32::from(self.has(Flags::SYN)) + u32::from(self.has(Flags::FIN))
    }

    /// It takes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What we say.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// The other end as the guest sees it.
    pub from: SocketAddr,
    /// The guest's end.
    pub to: SocketAddr,
    /// The first byte's number.
    pub seq: Seq,
    /// What we expect next; meaningless without `ACK`.
    pub ack: Seq,
    /// The flags.
    pub flags: Flags,
    /// The window, scaled.
    pub window: u16,
    /// Our maximum segment size, with `SYN`.
    pub mss: Option<u16>,
    /// Our window scale, with `SYN`.
    pub scale: Option<u8>,
    /// Bytes that will follow.
    pub len: u32,
    /// The guest's maximum segment size.
    pub cut: u16,
}

impl Reply {
    /// The headers, whose checksum covers the pseudo header only, and what the guest's kernel shall do about it.
    #[must_use]
    pub fn build(&self, link: &Link) -> (Headers, Offload) {
        let header = tcp::Header {
            source: self.from.port(),
            destination: self.to.port(),
            sequence: self.seq.0,
            acknowledgement: self.ack.0,
            flags: self.flags,
            window: self.window,
            options: Options {
                mss: self.mss,
                window_scale: self.scale,
                ..Options::default()
            },
        };
        let (from, to) = (self.from.ip(), self.to.ip());
        let headers = build::tcp(link, from, to, &header, self.len as usize);
        let segments = if self.len > u32::from(self.cut) {
            Segments::Tcp(self.cut)
        } else {
            Segments::One
        };
        let offload = Offload {
            partial_checksum: true,
            segments,
        };
        (headers, offload)
    }
}
