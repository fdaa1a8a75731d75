//! One TCP segment: what the guest said, and what we say.
//!
//! ```text
//!  0                   1                   2                   3
//! |          source port          |       destination port        |
//! |                        sequence number                        |
//! |                     acknowledgment number                     |
//! | offset|  rsvd |C|E|U|A|P|R|S|F|            window             |
//! |           checksum            |         urgent pointer        |      RFC 9293, 3.1
//! ```
//!
//! [`Segment::parse`] has checked every length: the payload is in place, options that make no sense are absent.

use std::net::{IpAddr, SocketAddr};

use super::seq::Seq;
use crate::event::{Headers, Offload, Segments};

/// `FIN`
pub const FIN: u8 = 1;
/// `SYN`
pub const SYN: u8 = 2;
/// `RST`
pub const RST: u8 = 4;
/// `PSH`
pub const PSH: u8 = 8;
/// `ACK`
pub const ACK: u8 = 16;

/// What the guest said.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The first byte's number, or that of `SYN`.
    pub seq: Seq,
    /// What the guest expects next, if `ACK` is set.
    pub ack: Seq,
    /// The flags.
    pub flags: u8,
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

impl<'a> Segment<'a> {
    /// Ports and the rest of a segment whose first byte the arena has at `at`; none if it is malformed.
    #[must_use]
    pub fn parse(bytes: &'a [u8], at: u32) -> Option<((u16, u16), Self)> {
        let (head, rest) = bytes.split_first_chunk::<20>()?;
        let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let word = |at: usize| (u32::from(half(at)) << 16) | u32::from(half(at + 2));
        let offset = usize::from(head[12] >> 4) * 4;
        let (options, payload) = rest.split_at_checked(offset.checked_sub(20)?)?;
        let mut segment = Self {
            seq: Seq(word(4)),
            ack: Seq(word(8)),
            flags: head[13],
            window: half(14),
            mss: None,
            scale: None,
            payload,
            at: at.wrapping_add(u32::try_from(offset).ok()?),
        };
        if segment.has(SYN) {
            segment.read_options(options);
        }
        Some(((half(0), half(2)), segment))
    }

    /// The flag is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Sequence numbers it takes.
    #[must_use]
    pub fn len(&self) -> u32 {
        let bytes = u32::try_from(self.payload.len()).expect("an IP packet has 16 bits of length");
        bytes + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// It takes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read_options(&mut self, mut options: &[u8]) {
        loop {
            options = match *options {
                [1, ref rest @ ..] => rest,
                [2, 4, high, low, ref rest @ ..] => {
                    self.mss = Some(u16::from_be_bytes([high, low]));
                    rest
                }
                [3, 3, scale, ref rest @ ..] => {
                    self.scale = Some(scale.min(14));
                    rest
                }
                [0, ..] | [] | [_] => return,
                [_, len, ..] => match options.get(usize::from(len)..) {
                    Some(rest) if len >= 2 => rest,
                    _ => return,
                },
            };
        }
    }
}

/// Who talks on the tap, and from which link-layer address to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Ours.
    pub our_mac: [u8; 6],
    /// The guest's, or broadcast before it is known.
    pub guest_mac: [u8; 6],
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
    pub flags: u8,
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
    pub fn build(&self, link: Link) -> (Headers, Offload) {
        let mut options = [0u8; 8];
        let options = self.write_options(&mut options);
        let tcp_len = 20 + u32::try_from(options.len()).expect("eight at most") + self.len;
        let mut headers = Headers::new();
        headers.push(&link.guest_mac);
        headers.push(&link.our_mac);
        let pseudo = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                headers.push(&[0x08, 0x00]);
                headers.push(&ipv4(from.octets(), to.octets(), tcp_len));
                sum(&from.octets()) + sum(&to.octets())
            }
            (from, to) => {
                let (from, to) = (octets(from), octets(to));
                headers.push(&[0x86, 0xdd]);
                headers.push(&ipv6(from, to, tcp_len));
                sum(&from) + sum(&to)
            }
        };
        headers.push(&self.tcp(pseudo + 6 + tcp_len));
        headers.push(options);
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

    fn write_options<'b>(&self, room: &'b mut [u8; 8]) -> &'b [u8] {
        let Some(mss) = self.mss else {
            return &[];
        };
        let [high, low] = mss.to_be_bytes();
        room[..4].copy_from_slice(&[2, 4, high, low]);
        let Some(scale) = self.scale else {
            return &room[..4];
        };
        room[4..].copy_from_slice(&[1, 3, 3, scale]);
        room
    }

    fn tcp(&self, pseudo: u32) -> [u8; 20] {
        let mut tcp = [0; 20];
        tcp[..2].copy_from_slice(&self.from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        tcp[12] = match (self.mss, self.scale) {
            (None, _) => 5 << 4,
            (Some(_), None) => 6 << 4,
            (Some(_), Some(_)) => 7 << 4,
        };
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[16..18].copy_from_slice(&fold(pseudo).to_be_bytes());
        tcp
    }
}

/// TTL 255, not to be fragmented, without options.
fn ipv4(from: [u8; 4], to: [u8; 4], payload: u32) -> [u8; 20] {
    let mut ip = [0; 20];
    ip[0] = 0x45;
    let len = u16::try_from(20 + payload).expect("frames are made to fit");
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 255;
    ip[9] = 6;
    ip[12..16].copy_from_slice(&from);
    ip[16..20].copy_from_slice(&to);
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    ip
}

fn ipv6(from: [u8; 16], to: [u8; 16], payload: u32) -> [u8; 40] {
    let mut ip = [0; 40];
    ip[0] = 0x60;
    let len = u16::try_from(payload).expect("frames are made to fit");
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    ip[6] = 6;
    ip[7] = 255;
    ip[8..24].copy_from_slice(&from);
    ip[24..40].copy_from_slice(&to);
    ip
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The sum of the 16-bit words of a header (RFC 1071), an even number of bytes.
fn sum(bytes: &[u8]) -> u32 {
    let (words, _) = bytes.as_chunks::<2>();
    words
        .iter()
        .map(|&word| u32::from(u16::from_be_bytes(word)))
        .sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    let twice = (once >> 16) + (once & 0xffff);
    u16::try_from(twice).expect("two folds leave 16 bits")
}
