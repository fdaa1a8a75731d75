//! A line for each frame, for who asked for that.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::packet::{eth, ip};

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The guest sent it.
    FromGuest,
    /// The guest gets it.
    ToGuest,
}

/// What is known of a frame by its first bytes, those of its headers; `length` is that of the whole.
#[must_use]
pub fn frame(way: Way, headers: &[u8], length: usize) -> String {
    let way = match way {
        Way::FromGuest => "from",
        Way::ToGuest => "to",
    };
    let mut line = format!("tap: {length} bytes {way} guest: ");
    let Ok((link, bytes)) = eth::parse(headers) else {
        line.push_str("no frame");
        return line;
    };
    // A string takes everything.
    let _ = match (link.kind, ip::parse_quoted(bytes)) {
        (eth::IPV4 | eth::IPV6, Ok(packet)) => write_packet(&mut line, &packet),
        (kind, _) => write!(line, "protocol 0x{kind:04x}"),
    };
    line
}

fn write_packet(line: &mut String, packet: &ip::Packet<'_>) -> std::fmt::Result {
    let (name, ports) = match packet.protocol {
        ip::TCP => ("TCP", ports(packet.payload)),
        ip::UDP => ("UDP", ports(packet.payload)),
        _ => ("protocol", None),
    };
    let Some((source, destination)) = ports else {
        let (source, destination) = (packet.source, packet.destination);
        return write!(line, "{name} {} {source} -> {destination}", packet.protocol);
    };
    let source = SocketAddr::new(packet.source, source);
    let destination = SocketAddr::new(packet.destination, destination);
    write!(line, "{name} {source} -> {destination}")
}

fn ports(payload: &[u8]) -> Option<(u16, u16)> {
    let (source, rest) = payload.split_first_chunk()?;
    let (destination, _) = rest.split_first_chunk()?;
    let port = |bytes: &[u8; 2]| u16::from_be_bytes(*bytes);
    Some((port(source), port(destination)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_lines_look() {
        let mut bytes = vec![0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 2, 0, 0, 0, 0, 1, 8, 0];
        bytes.extend([0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        bytes.extend([192, 0, 2, 1, 192, 0, 2, 2, 0x1f, 0x90, 0, 80]);
        let shown = frame(Way::FromGuest, &bytes, 62);
        let expected = "tap: 62 bytes from guest: TCP 192.0.2.1:8080 -> 192.0.2.2:80";
        assert_eq!(shown, expected);
        bytes[23] = 1;
        let shown = frame(Way::ToGuest, &bytes, 62);
        let expected = "tap: 62 bytes to guest: protocol 1 192.0.2.1 -> 192.0.2.2";
        assert_eq!(shown, expected);
        bytes[13] = 6;
        let shown = frame(Way::ToGuest, &bytes, 60);
        assert_eq!(shown, "tap: 60 bytes to guest: protocol 0x0806");
        let shown = frame(Way::ToGuest, &[1, 2], 2);
        assert_eq!(shown, "tap: 2 bytes to guest: no frame");
    }
}
