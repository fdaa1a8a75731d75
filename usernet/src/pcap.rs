//! The classic capture format (draft-ietf-opsawg-pcap): what `--pcap` writes, little endian, microseconds.

use std::time::Duration;

/// Bytes of frames are never cut, so this is more than any frame has.
const SNAPLEN: u32 = 0x0004_0000;
/// `LINKTYPE_ETHERNET`
const ETHERNET: u32 = 1;

/// What a file begins with.
#[must_use]
pub fn file_header() -> [u8; 24] {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
    header[4..6].copy_from_slice(&2_u16.to_le_bytes());
    header[6..8].copy_from_slice(&4_u16.to_le_bytes());
    header[16..20].copy_from_slice(&SNAPLEN.to_le_bytes());
    header[20..].copy_from_slice(&ETHERNET.to_le_bytes());
    header
}

/// What a frame of `len` bytes begins with. `time` is since 1970; the format ends in 2106.
#[must_use]
pub fn frame_header(time: Duration, len: u32) -> [u8; 16] {
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let mut header = [0; 16];
    header[..4].copy_from_slice(&seconds.to_le_bytes());
    header[4..8].copy_from_slice(&time.subsec_micros().to_le_bytes());
    header[8..12].copy_from_slice(&len.to_le_bytes());
    header[12..].copy_from_slice(&len.to_le_bytes());
    header
}
