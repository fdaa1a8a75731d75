//! Making the tap, in the guest's namespace.
//!
//! With a virtio header in front of each frame and as much left to us as the kernel knows to leave: no checksum is
//! computed and no segment cut on the link. The tap is not persistent: it goes when the last descriptor is closed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::net::if_::if_nametoindex;
use nix::sys::stat::Mode;

use super::failure::Failure;
use super::frames::Abilities;
use super::netlink::Netlink;
use super::process;

const DEVICE: &str = "/dev/net/tun";
/// No header of ours in front of frames.
const PLAIN: i32 = libc::IFF_TAP | libc::IFF_NO_PI;

/// The same with virtio headers and room for several queues.
const SEVERAL: i32 = PLAIN | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
/// Queues of the tap, if it needs more than one. One is for flows that are under way: see [`super::lanes`].
pub const QUEUES: usize = 16;

// linux/if_tun.h
const CSUM: u32 = 0x01;
const TSO: u32 = 0x02 | 0x04 | 0x08; // IPv4, IPv6, with ECN
const USO: u32 = 0x20 | 0x40; // IPv4, IPv6; Linux 6.2

/// What the kernel agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Negotiated {
    /// A `virtio_net_hdr` of ten bytes stands in front of each frame.
    pub header: bool,
    /// Checksums are left to the receiver.
    pub checksum: bool,
    /// TCP segments larger than the link's MTU cross it whole.
    pub tcp_segments: bool,
    /// So do trains of UDP datagrams.
    pub udp_segments: bool,
}

/// The tap, and what crosses it.
#[derive(Debug)]
pub struct Tap {
    /// Its queue, non-blocking.
    pub fd: OwnedFd,
    /// What can become further queues by [`add_queue`].
    pub spare: Vec<OwnedFd>,
    /// What the kernel agreed to.
    pub negotiated: Negotiated,
}

/// Make the tap in the namespace that we are in.
pub fn create(name: &str) -> Result<Tap, Failure> {
    match create_several(name) {
        Ok((fd, spare)) => Ok(with_header(fd, spare)),
        Err(why) => create_single(name, why),
    }
}

/// The same with one queue, for a kernel that refused more for this reason, or for a tap that is there already.
pub fn create_single(name: &str, why: Errno) -> Result<Tap, Failure> {
    let (fd, named) = named(name, PLAIN | libc::IFF_VNET_HDR)?;
    match (named, why) {
        // It belongs to another of us.
        (Err(Errno::EINVAL), Errno::EBUSY) => Err(unnamed(Errno::EBUSY)),
        (Err(Errno::EINVAL), _) => create_plain(name),
        (Err(error), _) => Err(unnamed(error)),
        (Ok(()), _) => Ok(with_header(fd, Vec::new())),
    }
}

/// Whatever the kernel leaves to us.
fn with_header(fd: OwnedFd, spare: Vec<OwnedFd>) -> Tap {
    let flags = offload(&fd);
    let negotiated = Negotiated {
        header: true,
        checksum: flags & CSUM != 0,
        tcp_segments: flags & TSO != 0,
        udp_segments: flags & USO != 0,
    };
    Tap {
        fd,
        spare,
        negotiated,
    }
}

/// A new tap with one queue and what it takes to have [`QUEUES`].
fn create_several(name: &str) -> Result<(OwnedFd, Vec<OwnedFd>), Errno> {
    let fd = opened()?;
    process::set_interface(fd.as_fd(), name, SEVERAL | libc::IFF_TUN_EXCL)?;
    bypass_discipline(name)?;
    let spare = (1..QUEUES).map(|_| opened());
    Ok((fd, spare.collect::<Result<_, _>>()?))
}

/// Make of `spare` a further queue of the tap. Asks for no capability, since the tap has no owner, and for no namespace:
/// `spare` was opened in the tap's.
pub fn add_queue(tap: BorrowedFd<'_>, spare: BorrowedFd<'_>) -> Result<(), Errno> {
    let name = process::interface(tap)?;
    process::set_interface(spare, &name, SEVERAL)
}

/// The kernel's own queue in front of the tap's holds nothing back, since the tap never tells it to, but would be there
/// 256 times, with as much memory as for a network card.
fn bypass_discipline(name: &str) -> Result<(), Errno> {
    let mut message = TcMessage::default();
    let index = if_nametoindex(name)?;
    message.header.index = i32::try_from(index).map_err(|_| Errno::ERANGE)?;
    message.header.parent = TcHandle::ROOT;
    message.attributes = vec![TcAttribute::Kind("noqueue".to_owned())];
    Netlink::open().map_err(|error| error.source)?.change(
        RouteNetlinkMessage::NewQueueDiscipline(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// The same for a kernel without virtio headers: packets cross it one by one, and complete.
pub fn create_plain(name: &str) -> Result<Tap, Failure> {
    let (fd, named) = named(name, PLAIN)?;
    named.map_err(unnamed)?;
    Ok(Tap {
        negotiated: Negotiated::default(),
        spare: Vec::new(),
        fd,
    })
}

/// The device opened, and whether it took the name and the flags.
fn named(name: &str, flags: i32) -> Result<(OwnedFd, Result<(), Errno>), Failure> {
    let fd = opened().map_err(|error| failed(format!("Failed to open {DEVICE}"), error))?;
    let named = process::set_interface(fd.as_fd(), name, flags);
    Ok((fd, named))
}

fn opened() -> Result<OwnedFd, Errno> {
    let mode = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    open(DEVICE, mode, Mode::empty())
}

fn unnamed(error: Errno) -> Failure {
    failed(format!("TUNSETIFF ioctl on {DEVICE} failed"), error)
}

fn failed(step: String, error: Errno) -> Failure {
    Failure::of(step)(error).and("Failed to set up tap device in namespace")
}

/// The most that the kernel leaves to us.
fn offload(fd: &OwnedFd) -> u32 {
    let ladder = [CSUM | TSO | USO, CSUM | TSO, CSUM];
    let taken = |flags: &u32| process::set_offload(fd.as_fd(), *flags).is_ok();
    ladder.into_iter().find(taken).unwrap_or(0)
}

impl Negotiated {
    /// What writing frames depends on. Segments are taken whatever is left to us; trains, by kernels that know them.
    #[must_use]
    pub fn abilities(self) -> Abilities {
        Abilities {
            header: self.header,
            udp_segments: self.udp_segments,
        }
    }

    /// As one byte, for the way between our processes.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        u8::from(self.header)
            | u8::from(self.checksum) << 1
            | u8::from(self.tcp_segments) << 2
            | u8::from(self.udp_segments) << 3
    }

    /// The reverse.
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        Self {
            header: byte & 1 != 0,
            checksum: byte & 2 != 0,
            tcp_segments: byte & 4 != 0,
            udp_segments: byte & 8 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for byte in 0..16 {
            assert_eq!(Negotiated::from_byte(byte).to_byte(), byte);
        }
    }
}
