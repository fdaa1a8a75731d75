//! TCP headers (RFC 9293) and the options that matter: maximum segment size, window scale and timestamps (RFC 7323),
//! selective acknowledgements (RFC 2018).

use crate::event::Drop;

/// Length of a header without options, bytes.
pub const LEN: usize = 20;
/// Most bytes of options.
pub const OPTIONS_MAX: usize = 40;

/// The bits that say what a segment is for.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender has no more data.
    pub const FIN: Self = Self(0x01);
    /// Sequence numbers begin here.
    pub const SYN: Self = Self(0x02);
    /// The connection is over.
    pub const RST: Self = Self(0x04);
    /// Hand it to the application.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number means something.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer means something.
    pub const URG: Self = Self(0x20);
    /// Congestion was seen (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// The congestion window was reduced.
    pub const CWR: Self = Self(0x80);

    /// Whether all of these are set.
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The letters of tcpdump.
        for (bit, letter) in ["F", "S", "R", "P", ".", "U", "E", "W"].iter().enumerate() {
            if self.0 >> bit & 1 != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Port of the sender.
    pub source: u16,
    /// Port of the receiver.
    pub destination: u16,
    /// Number of the first byte of payload, or of the SYN.
    pub sequence: u32,
    /// Number of the byte that is expected next.
    pub acknowledgement: u32,
    /// What it is for.
    pub flags: Flags,
    /// How many more bytes may be sent, not scaled.
    pub window: u16,
    /// Options.
    pub options: Options,
}

/// The options of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Largest payload of a segment the sender takes, bytes.
    pub mss: Option<u16>,
    /// By how many bits the sender's windows are shifted; more than 14 is read as 14 (RFC 7323, 2.3).
    pub window_scale: Option<u8>,
    /// Selective acknowledgements are understood.
    pub sack_permitted: bool,
    /// The sender's clock, and the receiver's clock as it was told.
    pub timestamps: Option<(u32, u32)>,
    /// What arrived out of order.
    pub sack: Sack,
}

/// Up to four ranges of sequence numbers: from the first one on, before the second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sack {
    blocks: [(u32, u32); 4],
    count: u8,
}

impl Sack {
    /// The ranges, in the order they came in.
    #[must_use]
    pub fn blocks(&self) -> &[(u32, u32)] {
        self.blocks
            .get(..usize::from(self.count))
            .unwrap_or_default()
    }

    /// Add a range. A fifth one does not fit and is left out.
    pub fn push(&mut self, block: (u32, u32)) {
        if let Some(place) = self.blocks.get_mut(usize::from(self.count)) {
            *place = block;
            self.count = self.count.saturating_add(1);
        }
    }
}

/// Header, its length in bytes, and payload of a segment.
///
/// # Errors
///
/// [`Drop::Malformed`] for lengths that do not fit. Options that make no sense end the list of options, as everywhere.
pub fn parse(segment: &[u8]) -> Result<(Header, usize, &[u8]), Drop> {
    let fixed = segment.first_chunk::<LEN>().ok_or(Drop::Malformed)?;
    let header_len = usize::from(fixed[12] >> 4).saturating_mul(4);
    let options = segment.get(LEN..header_len).ok_or(Drop::Malformed)?;
    let payload = segment.get(header_len..).ok_or(Drop::Malformed)?;
    let header = Header {
        source: u16::from_be_bytes([fixed[0], fixed[1]]),
        destination: u16::from_be_bytes([fixed[2], fixed[3]]),
        sequence: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        acknowledgement: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
        flags: Flags(fixed[13]),
        window: u16::from_be_bytes([fixed[14], fixed[15]]),
        options: parse_options(options),
    };
    Ok((header, header_len, payload))
}

fn parse_options(mut bytes: &[u8]) -> Options {
    let mut options = Options::default();
    while let Some((kind, rest)) = bytes.split_first() {
        match kind {
            0 => break,
            1 => {
                bytes = rest;
                continue;
            }
            _ => {}
        }
        let Some(length) = rest.first() else { break };
        let Some((option, rest)) = bytes.split_at_checked(usize::from(*length)) else {
            break;
        };
        let Some((_, value)) = option.split_at_checked(2) else {
            break;
        };
        parse_option(*kind, value, &mut options);
        bytes = rest;
    }
    options
}

fn parse_option(kind: u8, value: &[u8], options: &mut Options) {
    match (kind, value) {
        (2, [a, b]) => options.mss = Some(u16::from_be_bytes([*a, *b])),
        (3, [shift]) => options.window_scale = Some((*shift).min(14)),
        (4, []) => options.sack_permitted = true,
        (5, ranges) => {
            for range in ranges.as_chunks::<8>().0 {
                let [a, b, c, d, e, f, g, h] = *range;
                options.sack.push((
                    u32::from_be_bytes([a, b, c, d]),
                    u32::from_be_bytes([e, f, g, h]),
                ));
            }
        }
        (8, [a, b, c, d, e, f, g, h]) => {
            let clock = u32::from_be_bytes([*a, *b, *c, *d]);
            let echo = u32::from_be_bytes([*e, *f, *g, *h]);
            options.timestamps = Some((clock, echo));
        }
        _ => {}
    }
}

/// Options as a header has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptionBytes {
    bytes: [u8; OPTIONS_MAX],
    length: usize,
}

impl OptionBytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, option: &[u8]) -> bool {
        let end = self.length.saturating_add(option.len());
        let Some(place) = self.bytes.get_mut(self.length..end) else {
            return false;
        };
        place.copy_from_slice(option);
        self.length = end;
        true
    }
}

impl Options {
    /// The options as a header has them, padded to words. Ranges that find no room are left out.
    pub(crate) fn to_bytes(self) -> OptionBytes {
        let mut out = OptionBytes {
            bytes: [0; OPTIONS_MAX],
            length: 0,
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            out.push(&[2, 4, a, b]);
        }
        if let Some(shift) = self.window_scale {
            out.push(&[1, 3, 3, shift]);
        }
        if self.sack_permitted {
            out.push(&[1, 1, 4, 2]);
        }
        if let Some((clock, echo)) = self.timestamps {
            let [a, b, c, d] = clock.to_be_bytes();
            let [e, f, g, h] = echo.to_be_bytes();
            out.push(&[1, 1, 8, 10, a, b, c, d, e, f, g, h]);
        }
        self.push_sack(&mut out);
        out
    }

    fn push_sack(self, out: &mut OptionBytes) {
        let room = OPTIONS_MAX.saturating_sub(out.length).saturating_sub(4) / 8;
        let blocks = self.sack.blocks();
        let blocks = blocks.get(..room).unwrap_or(blocks);
        let length = u8::try_from(blocks.len())
            .unwrap_or_default()
            .saturating_mul(8);
        if length > 0 && out.push(&[1, 1, 5, length.saturating_add(2)]) {
            for (from, before) in blocks {
                out.push(&from.to_be_bytes());
                out.push(&before.to_be_bytes());
            }
        }
    }
}

impl Header {
    /// The header's first 20 bytes, the length of its options told, with this checksum.
    pub(crate) fn fixed_bytes(&self, options_len: usize, checksum: u16) -> [u8; LEN] {
        let words = LEN.saturating_add(options_len) / 4;
        let offset = u8::try_from(words).unwrap_or_default() << 4;
        let [s0, s1] = self.source.to_be_bytes();
        let [d0, d1] = self.destination.to_be_bytes();
        let [q0, q1, q2, q3] = self.sequence.to_be_bytes();
        let [a0, a1, a2, a3] = self.acknowledgement.to_be_bytes();
        let [w0, w1] = self.window.to_be_bytes();
        let [c0, c1] = checksum.to_be_bytes();
        [
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            self.flags.0,
            w0,
            w1,
            c0,
            c1,
            0,
            0,
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The SYN of a Linux client on loopback, as a packet socket showed it.
    const SYN: [u8; 40] = [
        0xd3, 0x78, 0x1f, 0x90, 0x09, 0x7e, 0x7b, 0x06, 0x00, 0x00, 0x00, 0x00, 0xa0, 0x02, 0xff,
        0xd7, 0xfe, 0x30, 0x00, 0x00, 0x02, 0x04, 0xff, 0xd7, 0x04, 0x02, 0x08, 0x0a, 0x88, 0x6a,
        0x21, 0xfe, 0x00, 0x00, 0x00, 0x00, 0x01, 0x03, 0x03, 0x0a,
    ];

    #[test]
    fn a_syn() {
        let (header, length, payload) = parse(&SYN).unwrap();
        assert_eq!((length, payload), (40, &b""[..]));
        assert_eq!((header.source, header.destination), (54136, 8080));
        assert_eq!(format!("{:?}", header.flags), "S");
        let expected = Options {
            mss: Some(65495),
            window_scale: Some(10),
            sack_permitted: true,
            timestamps: Some((0x886a_21fe, 0)),
            sack: Sack::default(),
        };
        assert_eq!(header.options, expected);
    }

    #[test]
    fn wrong_in_many_ways() {
        let check = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = SYN.to_vec();
            change(&mut bytes);
            assert_eq!(parse(&bytes), Err(Drop::Malformed));
        };
        check(&|b| b.truncate(19));
        check(&|b| b.truncate(39));
        check(&|b| b[12] = 0x40);
        check(&|b| b[12] = 0xf0);
        // Options that lie about their length are not believed, and nothing behind them is.
        for (at, value) in [(21, 0), (21, 1), (21, 200), (25, 0)] {
            let mut bytes = SYN.to_vec();
            bytes[at] = value;
            let options = parse(&bytes).unwrap().0.options;
            assert_eq!(options.window_scale, None, "{at}={value}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(
            ports: [u16; 2],
            numbers: [u32; 2],
            flags: u8,
            window: u16,
            mss: Option<u16>,
            window_scale in proptest::option::of(0_u8..15),
            sack_permitted: bool,
            timestamps: Option<(u32, u32)>,
            blocks in proptest::collection::vec(any::<(u32, u32)>(), 0..3),
            payload: Vec<u8>,
        ) {
            let mut sack = Sack::default();
            // As many as there is room for beside the others, which in real headers never all come together.
            for block in blocks.iter().take(if timestamps.is_some() { 1 } else { 2 }) {
                sack.push(*block);
            }
            let header = Header {
                source: ports[0],
                destination: ports[1],
                sequence: numbers[0],
                acknowledgement: numbers[1],
                flags: Flags(flags),
                window,
                options: Options { mss, window_scale, sack_permitted, timestamps, sack },
            };
            let options = header.options.to_bytes();
            let mut bytes = header.fixed_bytes(options.as_slice().len(), 0).to_vec();
            bytes.extend(options.as_slice());
            let length = bytes.len();
            bytes.extend(&payload);
            prop_assert_eq!(parse(&bytes), Ok((header, length, &payload[..])));
        }
    }
}
