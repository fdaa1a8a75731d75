//! Making the tap, in the guest's namespace.
//!
//! With a virtio header in front of each frame and as much left to us as the kernel knows to leave: no checksum is
//! computed and no segment cut on the link. The tap is not persistent: it goes when the last descriptor is closed.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::failure::Failure;
use super::frames::Abilities;
use super::process;

const DEVICE: &str = "/dev/net/tun";
/// No header of ours in front of frames.
const PLAIN: i32 = libc::IFF_TAP | libc::IFF_NO_PI;

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
    /// Non-blocking.
    pub fd: OwnedFd,
    /// What the kernel agreed to.
    pub negotiated: Negotiated,
}

/// Make the tap in the namespace that we are in.
pub fn create(name: &str) -> Result<Tap, Failure> {
    let (fd, named) = named(name, PLAIN | libc::IFF_VNET_HDR)?;
    if named == Err(Errno::EINVAL) {
        return create_plain(name);
    }
    named.map_err(unnamed)?;
    let flags = offload(&fd);
    let negotiated = Negotiated {
        header: true,
        checksum: flags & CSUM != 0,
        tcp_segments: flags & TSO != 0,
        udp_segments: flags & USO != 0,
    };
    Ok(Tap { fd, negotiated })
}

/// The same for a kernel without virtio headers: packets cross it one by one, and complete.
pub fn create_plain(name: &str) -> Result<Tap, Failure> {
    let (fd, named) = named(name, PLAIN)?;
    named.map_err(unnamed)?;
    Ok(Tap {
        negotiated: Negotiated::default(),
        fd,
    })
}

/// The device opened, and whether it took the name and the flags.
fn named(name: &str, flags: i32) -> Result<(OwnedFd, Result<(), Errno>), Failure> {
    let mode = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let fd = open(DEVICE, mode, Mode::empty());
    let fd = fd.map_err(|error| failed(format!("Failed to open {DEVICE}"), error))?;
    let named = process::set_interface(fd.as_fd(), name, flags);
    Ok((fd, named))
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
