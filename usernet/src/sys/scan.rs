//! Who listens in a network namespace, as the kernel tells (`NETLINK_SOCK_DIAG`, sock_diag(7)).
//!
//! A netlink socket belongs to the namespace it was made in, so this works after we have locked ourselves in, and where
//! there is no `/proc`. The kernel goes through listening sockets only; its answer to a request is there when the
//! request was sent, so nothing is waited for.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags};

use crate::ports::follow::{Look, Seen};
use crate::ports::set::PortSet;

/// Bytes that one read takes: the kernel's own size for a part of a list, some eighty sockets.
const BUFFER: usize = 8 << 10;
/// Reads in a row, at most. Whoever has so many sockets that this is not enough is not followed until he has fewer: some
/// tens of milliseconds without traffic each second would be his own doing.
const READS: usize = 1024;

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR`, `NLMSG_DONE`
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of `struct nlmsghdr`, and of `struct inet_diag_req_v2` behind it.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
/// Where the local port is in a message: behind four bytes of `struct inet_diag_msg`.
const PORT: usize = HEADER + 4;

/// Sockets of TCP that listen, and sockets of UDP without a peer (`TCP_LISTEN`, `TCP_CLOSE`).
const LISTEN: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;

/// A way to ask about one namespace.
#[derive(Debug)]
pub struct Scan {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    /// An answer was not read to its end; until it is, the kernel gives no other.
    unfinished: bool,
}

impl Scan {
    /// By this socket.
    #[must_use]
    pub const fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            sequence: 0,
            buffer: Vec::new(),
            unfinished: false,
        }
    }

    /// Who listens now.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn read(&mut self, look: Look) -> Result<Seen, Errno> {
        let mut seen = Seen::default();
        self.buffer.resize(BUFFER, 0);
        self.finish()?;
        if look.tcp {
            self.both(libc::IPPROTO_TCP, LISTEN, &mut seen.tcp)?;
        }
        if look.udp {
            self.both(libc::IPPROTO_UDP, UNCONNECTED, &mut seen.udp)?;
        }
        Ok(seen)
    }

    fn both(&mut self, protocol: i32, states: u32, ports: &mut PortSet) -> Result<(), Errno> {
        self.ask(libc::AF_INET, protocol, states, ports)?;
        match self.ask(libc::AF_INET6, protocol, states, ports) {
            // There is no IPv6.
            Err(Errno::ENOENT | Errno::EINVAL | Errno::EAFNOSUPPORT) => Ok(()),
            other => other,
        }
    }

    fn ask(
        &mut self,
        family: i32,
        protocol: i32,
        states: u32,
        ports: &mut PortSet,
    ) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence, family, protocol, states);
        let fd = self.socket.as_raw_fd();
        socket::send(fd, &request, MsgFlags::empty())?;
        self.unfinished = true;
        for _ in 0..READS {
            let len = socket::recv(fd, &mut self.buffer, MsgFlags::MSG_DONTWAIT)?;
            let answer = self.buffer.get(..len).unwrap_or_default();
            if let Some(end) = take(answer, self.sequence, ports) {
                self.unfinished = false;
                return end;
            }
        }
        Err(Errno::EOVERFLOW)
    }

    /// Read what is left of an earlier answer.
    fn finish(&mut self) -> Result<(), Errno> {
        for _ in 0..READS {
            if !self.unfinished {
                return Ok(());
            }
            match socket::recv(
                self.socket.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Err(Errno::EAGAIN) => self.unfinished = false,
                other => drop(other?),
            }
        }
        Err(Errno::EOVERFLOW)
    }
}

fn request(sequence: u32, family: i32, protocol: i32, states: u32) -> [u8; REQUEST] {
    let byte = |number: i32| u8::try_from(number).unwrap_or_default();
    let mut request = [0; REQUEST];
    let mut put = |at: usize, bytes: &[u8]| request[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &72_u32.to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &DUMP.to_ne_bytes());
    put(8, &sequence.to_ne_bytes());
    put(HEADER, &[byte(family), byte(protocol)]);
    put(HEADER + 4, &states.to_ne_bytes());
    request
}

/// Take in what one read gave; the result, if it was the end. Messages about an older request do not count.
fn take(mut bytes: &[u8], sequence: u32, ports: &mut PortSet) -> Option<Result<(), Errno>> {
    while let Some((header, _)) = bytes.split_at_checked(HEADER) {
        let length = usize::try_from(word(header, 0)).ok()?;
        let message = bytes.get(..length)?;
        if word(header, 8) == sequence {
            match half(header, 4) {
                DONE => return Some(Ok(())),
                ERROR => {
                    let number = word(message, HEADER).cast_signed().saturating_abs();
                    return Some(Err(Errno::from_raw(number)));
                }
                _ if message.len() >= PORT + 2 => {
                    ports.insert(u16::from_be_bytes([message[PORT], message[PORT + 1]]));
                }
                _ => {}
            }
        }
        bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..)?;
    }
    None
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    u32::from_ne_bytes(bytes.unwrap_or_default())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes.get(at..at + 2).and_then(|two| two.try_into().ok());
    u16::from_ne_bytes(bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};

    use super::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([2, 0]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn answers_are_taken_apart() {
        let mut ports = PortSet::default();
        let mut answer = message(BY_FAMILY, 7, &[2, 10, 0, 0, 0, 80, 0, 0]);
        answer.extend(message(BY_FAMILY, 6, &[2, 10, 0, 0, 0, 81, 0, 0]));
        answer.extend(message(BY_FAMILY, 7, &[2, 10, 0, 0, 0x1f, 0x90, 0, 0]));
        assert_eq!(take(&answer, 7, &mut ports), None);
        assert_eq!(ports, PortSet::from_iter([80, 8080]));
        answer.extend(message(DONE, 7, &[0; 4]));
        assert_eq!(take(&answer, 7, &mut ports), Some(Ok(())));
        let refused = message(ERROR, 7, &(-2_i32).to_ne_bytes());
        assert_eq!(take(&refused, 7, &mut ports), Some(Err(Errno::ENOENT)));
        assert_eq!(take(&answer[..20], 7, &mut ports), None);
        assert_eq!(take(&[0; 40], 0, &mut ports), None);
    }

    #[test]
    fn the_kernel_tells_of_sockets() {
        let socket = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkSockDiag,
        );
        let mut scan = Scan::new(socket.unwrap());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (t, u) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let all = Look {
            tcp: true,
            udp: true,
        };
        let seen = scan.read(all).unwrap();
        assert!(seen.tcp.contains(t.port()) && seen.udp.contains(u.port()));
        // With a peer it is not for everybody.
        udp.connect(t).unwrap();
        drop(tcp);
        let seen = scan.read(all).unwrap();
        assert!(!seen.tcp.contains(t.port()) && !seen.udp.contains(u.port()));
        assert_eq!(scan.read(Look::default()), Ok(Seen::default()));
    }

    #[test]
    fn an_answer_that_was_not_read_is_no_obstacle() {
        let socket = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkSockDiag,
        );
        let mut scan = Scan::new(socket.unwrap());
        // More than one read takes.
        let sockets: Vec<_> = (0..300)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let request = request(77, libc::AF_INET, libc::IPPROTO_UDP, UNCONNECTED);
        let fd = scan.socket.as_raw_fd();
        socket::send(fd, &request, MsgFlags::empty()).unwrap();
        let look = Look {
            tcp: false,
            udp: true,
        };
        assert_eq!(scan.read(look), Err(Errno::EBUSY));
        socket::send(fd, &request, MsgFlags::empty()).unwrap();
        scan.unfinished = true;
        let seen = scan.read(look).unwrap();
        for socket in &sockets {
            assert!(seen.udp.contains(socket.local_addr().unwrap().port()));
        }
    }
}
