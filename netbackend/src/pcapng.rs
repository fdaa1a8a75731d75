//! The file format of captures, as far as we write it: pcapng, draft-ietf-opsawg-pcapng.
//!
//! ```text
//!  section header, an interface description for each interface, name resolution,
//!  an enhanced packet for each packet, interface statistics in the end
//! ```
//! Each block begins with its type and its length and ends with its length, in octets, a multiple of four. Readers find
//! out the byte order from the magic number of the section header; it is always little endian here. Times are in
//! nanoseconds, which each interface says (`if_tsresol`).

use std::net::IpAddr;

/// Types of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const NAMES: u32 = 4;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

/// The number by which readers tell the byte order.
const MAGIC: u32 = 0x1a2b_3c4d;

/// The link type of Ethernet.
const ETHERNET: u16 = 1;

/// The most that is kept of a packet, in octets; more than any frame has.
pub const SNAPLEN: u32 = 262_144;

/// Where a packet went, as seen from the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    In,
    /// It went out.
    Out,
}

/// The beginning of a file: who wrote it.
#[must_use]
pub fn section(application: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(MAGIC.to_le_bytes());
    body.extend(1_u16.to_le_bytes());
    body.extend(0_u16.to_le_bytes());
    // The length of the section is not known.
    body.extend(u64::MAX.to_le_bytes());
    option(&mut body, 4, application.as_bytes());
    end_of_options(&mut body);
    block(SECTION, &body)
}

/// An interface. Packets refer to them by their order, from 0.
#[must_use]
pub fn interface(name: &str, description: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(ETHERNET.to_le_bytes());
    body.extend(0_u16.to_le_bytes());
    body.extend(SNAPLEN.to_le_bytes());
    option(&mut body, 2, name.as_bytes());
    option(&mut body, 3, description.as_bytes());
    // Times are counted in units of 10^-9 s.
    option(&mut body, 9, &[9]);
    end_of_options(&mut body);
    block(INTERFACE, &body)
}

/// Names of addresses.
#[must_use]
pub fn names(names: &[(IpAddr, String)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (address, name) in names {
        let (kind, mut value) = match address {
            IpAddr::V4(address) => (1_u16, address.octets().to_vec()),
            IpAddr::V6(address) => (2, address.octets().to_vec()),
        };
        value.extend(name.bytes().filter(|byte| *byte != 0).take(1024));
        value.push(0);
        body.extend(kind.to_le_bytes());
        body.extend(short(value.len()).to_le_bytes());
        padded(&mut body, &value);
    }
    // The end of records.
    body.extend(0_u32.to_le_bytes());
    block(NAMES, &body)
}

/// A packet of an interface, as much of it as was kept, and how long it was, at this time in nanoseconds since 1970.
#[must_use]
pub fn packet(
    interface: u32,
    nanos: u64,
    kept: &[u8],
    length: u32,
    direction: Direction,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(kept.len() + 40);
    body.extend(interface.to_le_bytes());
    time(&mut body, nanos);
    body.extend(long(kept.len()).to_le_bytes());
    body.extend(length.to_le_bytes());
    padded(&mut body, kept);
    let flags: u32 = match direction {
        Direction::In => 1,
        Direction::Out => 2,
    };
    option(&mut body, 2, &flags.to_le_bytes());
    end_of_options(&mut body);
    block(PACKET, &body)
}

/// How many packets came to an interface until this time, and how many of them the kernel had to drop.
#[must_use]
pub fn statistics(interface: u32, nanos: u64, received: u64, dropped: u64) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(interface.to_le_bytes());
    time(&mut body, nanos);
    option(&mut body, 4, &received.to_le_bytes());
    option(&mut body, 5, &dropped.to_le_bytes());
    end_of_options(&mut body);
    block(STATISTICS, &body)
}

/// A time is two words, the higher one first, whatever the byte order.
fn time(body: &mut Vec<u8>, nanos: u64) {
    body.extend(long_of(nanos >> 32).to_le_bytes());
    body.extend(long_of(nanos & 0xffff_ffff).to_le_bytes());
}

fn long_of(half: u64) -> u32 {
    u32::try_from(half).unwrap_or(u32::MAX)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..1 << 12).unwrap_or(value);
    body.extend(code.to_le_bytes());
    body.extend(short(value.len()).to_le_bytes());
    padded(body, value);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend(0_u32.to_le_bytes());
}

fn padded(body: &mut Vec<u8>, value: &[u8]) {
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = long(body.len() + 12);
    let mut block = Vec::with_capacity(body.len() + 12);
    block.extend(kind.to_le_bytes());
    block.extend(length.to_le_bytes());
    block.extend(body);
    block.extend(length.to_le_bytes());
    block
}

fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn long(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type and body of each block, after a look at both lengths.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = word(file, 4) as usize;
            assert_eq!((length % 4, word(file, length - 4) as usize), (0, length));
            found.push((word(file, 0), file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        found
    }

    #[test]
    fn a_packet_is_laid_out_as_the_draft_says() {
        let nanos = 0x0102_0304_0506_0708;
        let packet = packet(3, nanos, b"hello", 70_000, Direction::Out);
        let (kind, body) = &blocks(&packet)[0];
        assert_eq!(*kind, 6);
        assert_eq!(body[..4], [3, 0, 0, 0]);
        assert_eq!(body[4..12], [4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(body[12..20], [5, 0, 0, 0, 0x70, 0x11, 1, 0]);
        assert_eq!(body[20..28], *b"hello\0\0\0");
        assert_eq!(body[28..], [2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn blocks_are_whole_whatever_is_in_them() {
        for length in [0, 1, 2, 3, 4, 5, 70_000] {
            let text = "x\0".repeat(length);
            let file = [
                section(&text),
                interface(&text, &text),
                names(&[
                    ([10, 0, 0, 1].into(), text.clone()),
                    ([0_u16; 8].into(), text.clone()),
                ]),
                packet(0, 1, text.as_bytes(), 1, Direction::In),
                statistics(0, 1, 2, 3),
            ]
            .concat();
            let kinds: Vec<u32> = blocks(&file).into_iter().map(|(kind, _)| kind).collect();
            assert_eq!(kinds, [0x0a0d_0d0a, 1, 4, 6, 5]);
        }
    }
}
