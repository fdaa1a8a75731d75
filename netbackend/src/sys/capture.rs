//! Captures a container's traffic at the host's ends of its interfaces, or inside of it where there are none.
//!
//! A packet socket for each interface gives every frame that passes, with the kernel's time, and beside it the VLAN tag that
//! the kernel has taken out of what came in, or that the interface is to put into what goes out: it is put back. What cannot be written in
//! time waits in the sockets' buffers, which have a fixed size; what does not fit there the kernel drops, and counts. Nothing
//! else grows. The capture ends with a signal, after as many packets as were asked for, when nobody reads it any more, or
//! with the last interface.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IoSliceMut, IsTerminal, Write};
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use wire::names::InterfaceName;
use wire::state::{ContainerRecord, OtherMade};

use super::SysError;
use super::input::Interrupts;
use super::netns::Namespace;
use crate::capture::{Filter, Packet, Tag};
use crate::cli::VERSION;
use crate::inspect::Facts;
use crate::pcapng::{self, Direction, SNAPLEN};

/// What waits for us at each interface, in octets, as far as the kernel lets us.
const BUFFER: usize = 8 << 20;

/// How much is written at once while more comes, in octets.
const BATCH: usize = 256 << 10;

/// How many packets of an interface are read before others have their turn.
const TURN: usize = 64;

/// How often an interface that is down is looked after, in milliseconds.
const DOWN: u8 = 100;

/// Where to listen, and what is said of it.
#[derive(Debug)]
struct Tap {
    name: InterfaceName,
    description: String,
    socket: OwnedFd,
    /// What the kernel has counted so far: a look sets its counters back.
    counted: Counts,
    /// Whether it was down when it was last heard of.
    down: bool,
    /// Whether it is there.
    open: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    received: u64,
    dropped: u64,
}

/// What a capture came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Packets that were written.
    pub written: u64,
    /// What the kernel counted: the interface, what came there, and what it had to drop.
    pub interfaces: Vec<(String, u64, u64)>,
}

impl Captured {
    /// What there is to say.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} packets captured", self.written)];
        lines.extend(self.interfaces.iter().map(|(name, received, dropped)| {
            format!("{name}: {received} packets seen, {dropped} dropped by the kernel")
        }));
        lines
    }
}

/// What is to be captured.
#[derive(Debug)]
pub struct Capture<'a> {
    /// What was found on the host.
    pub facts: &'a Facts,
    /// The container.
    pub container: &'a ContainerRecord,
    /// Names of addresses.
    pub names: Vec<(std::net::IpAddr, String)>,
    /// Where to write to, if not to standard output.
    pub output: Option<&'a Path>,
    /// After how many packets to end.
    pub count: Option<u64>,
    /// Which packets are wanted.
    pub filter: &'a Filter,
}

/// Captures until the end.
///
/// # Errors
/// There is nothing to listen at, we may not, or the output cannot be written.
pub fn capture(capture: &Capture<'_>) -> Result<Captured, SysError> {
    let interrupts = Interrupts::hold();
    let taps = taps(capture)?;
    let failed = |error| {
        let place = capture.output.map(|path| path.display().to_string());
        let place = place.unwrap_or_else(|| "standard output".to_owned());
        SysError::io(format!("write {place}"))(error)
    };
    let out = Outlet::open(capture.output, &interrupts).map_err(failed)?;
    let mut session = Session {
        taps,
        out: BufWriter::with_capacity(BATCH, out),
        written: 0,
        dirty: false,
    };
    match session.run(capture, &interrupts) {
        Ok(()) => {}
        // Who reads has seen enough, or we have waited enough.
        Err(error) if [ErrorKind::BrokenPipe, ErrorKind::TimedOut].contains(&error.kind()) => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(session.summary())
}

/// Where blocks go. Who reads them may not do so for ever; a signal ends the wait.
struct Outlet<'a> {
    to: File,
    interrupts: &'a Interrupts,
}

impl<'a> Outlet<'a> {
    fn open(path: Option<&Path>, interrupts: &'a Interrupts) -> io::Result<Self> {
        let to = match path {
            // What passes is nobody else's business than the caller's.
            Some(path) => File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)?,
            None if io::stdout().is_terminal() => {
                let why = "it is a terminal, expected a file (-o) or a pipe";
                return Err(io::Error::new(ErrorKind::InvalidInput, why));
            }
            None => io::stdout().as_fd().try_clone_to_owned()?.into(),
        };
        Ok(Self { to, interrupts })
    }
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut wanted = vec![PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
        let signals = self.interrupts.descriptor();
        wanted.extend(signals.map(|signals| PollFd::new(signals, PollFlags::POLLIN)));
        poll(&mut wanted, PollTimeout::NONE)?;
        if wanted.first().and_then(PollFd::any) != Some(true) {
            return Err(io::Error::new(ErrorKind::TimedOut, "nobody reads"));
        }
        // A pipe that can be written to at all takes so much at once.
        let piece = bytes.get(..libc::PIPE_BUF).unwrap_or(bytes);
        self.to.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A tap at each interface of the container.
fn taps(capture: &Capture<'_>) -> Result<Vec<Tap>, SysError> {
    let mut taps = Vec::new();
    let container = capture.container;
    for on in &container.attachments {
        if on.netns_inode == 0 {
            continue;
        }
        let network = capture.facts.networks.get(&on.network);
        let network = network.map_or_else(|| on.network.to_string(), |one| one.name.to_string());
        let description = format!("{} of the container, network {network}", on.interface);
        taps.push(tap(&on.host_interface, description)?);
    }
    for other in &container.others {
        let OtherMade::Sublink(made) = &other.made else {
            tracing::warn!(
                "network {}: its plugin does not tell where its interfaces are",
                other.name
            );
            continue;
        };
        let namespace = Namespace::open(other.netns.as_ref())?;
        if namespace.facts().inode != other.netns_inode {
            return Err(SysError::NetnsPath(Errno::ENOENT.into()));
        }
        let description = format!("inside the container, network {}", other.name);
        taps.push(namespace.enter(|| tap(&made.interface, description))??);
    }
    if taps.is_empty() {
        let why = "no interface of it is on record: netavark or a plugin made them";
        let error = io::Error::new(ErrorKind::NotFound, why);
        return Err(SysError::io(format!("container {}", container.id))(error));
    }
    Ok(taps)
}

fn tap(name: &InterfaceName, description: String) -> Result<Tap, SysError> {
    let socket = open(name).map_err(SysError::io(format!("listen at {name}")))?;
    Ok(Tap {
        name: name.clone(),
        description,
        socket,
        counted: Counts::default(),
        down: false,
        open: true,
    })
}

fn open(name: &InterfaceName) -> io::Result<OwnedFd> {
    let index = if_nametoindex(name.as_str())?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    // Without a protocol it hears nothing until it is bound, so nothing of other interfaces.
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
    }
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    tell_tags(&socket)?;
    let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default();
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: all.to_be(),
        sll_ifindex: i32::try_from(index).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    #[expect(
        unsafe_code,
        reason = "nix makes such addresses only of what the kernel returned"
    )]
    // SAFETY: the pointer is to a whole, initialised `sockaddr_ll`, as the family says, which is copied.
    let address = unsafe {
        LinkAddr::from_raw(
            std::ptr::from_ref(&address).cast(),
            Some(libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default()),
        )
    };
    bind(socket.as_raw_fd(), &address.ok_or(Errno::EINVAL)?)?;
    Ok(socket)
}

/// Has the kernel tell of tags that it has taken out (`PACKET_AUXDATA`).
fn tell_tags(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    #[expect(unsafe_code, reason = "nix does not know this option")]
    // SAFETY: the kernel reads an int, which lives until the call returns.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            std::ptr::from_ref(&on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).unwrap_or_default(),
        )
    };
    Ok(Errno::result(outcome).map(drop)?)
}

struct Session<W: Write> {
    taps: Vec<Tap>,
    out: BufWriter<W>,
    written: u64,
    /// Whether something is written that has not been passed on.
    dirty: bool,
}

impl<W: Write> Session<W> {
    fn run(&mut self, capture: &Capture<'_>, interrupts: &Interrupts) -> io::Result<()> {
        self.begin(&capture.names)?;
        let mut buffer = vec![0; usize::try_from(SNAPLEN).unwrap_or_default()];
        while self.taps.iter().any(|tap| tap.open) && !self.is_full(capture) {
            if self.wait(interrupts)? {
                break;
            }
            for number in 0..self.taps.len() {
                self.read(number, &mut buffer, capture)?;
            }
        }
        self.end()
    }

    fn is_full(&self, capture: &Capture<'_>) -> bool {
        capture.count.is_some_and(|count| self.written >= count)
    }

    fn begin(&mut self, names: &[(std::net::IpAddr, String)]) -> io::Result<()> {
        self.out
            .write_all(&pcapng::section(&format!("netbackend {VERSION}")))?;
        for tap in &self.taps {
            self.out
                .write_all(&pcapng::interface(tap.name.as_str(), &tap.description))?;
        }
        self.out.write_all(&pcapng::names(names))?;
        // Readers see at once that we listen.
        self.out.flush()
    }

    /// Waits for packets; what has been written is passed on before. Whether we are to end.
    fn wait(&mut self, interrupts: &Interrupts) -> io::Result<bool> {
        let mut wanted: Vec<PollFd<'_>> = self
            .taps
            .iter()
            .filter(|tap| tap.open)
            .map(|tap| PollFd::new(tap.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        if let Some(signals) = interrupts.descriptor() {
            wanted.push(PollFd::new(signals, PollFlags::POLLIN));
        }
        let patience = if self.dirty {
            PollTimeout::ZERO
        } else if self.taps.iter().any(|tap| tap.down) {
            DOWN.into()
        } else {
            PollTimeout::NONE
        };
        let ready = match poll(&mut wanted, patience) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        if ready == 0 && self.dirty {
            self.out.flush()?;
            self.dirty = false;
        }
        Ok(interrupts.check().is_err())
    }

    /// Reads and writes what is there at a tap, up to a turn.
    fn read(&mut self, number: usize, buffer: &mut [u8], capture: &Capture<'_>) -> io::Result<()> {
        for _ in 0..TURN {
            let Some(tap) = self.taps.get_mut(number).filter(|tap| tap.open) else {
                return Ok(());
            };
            let frame = match receive(&tap.socket, buffer) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    tap.open = !tap.down || is_there(tap);
                    return Ok(());
                }
                // It was taken down, which passes, or is about to go, which does not and is not told.
                Err(Errno::ENETDOWN) => {
                    tap.down = true;
                    return Ok(());
                }
                Err(errno) => return Err(errno.into()),
            };
            let kept = buffer.get_mut(..Tag::LENGTH + frame.kept);
            let kept = Tag::restore(frame.tag, kept.unwrap_or_default());
            let restored = kept.len() - frame.kept;
            tap.down = false;
            if !capture.filter.wants(&Packet::read(kept)) {
                continue;
            }
            let number = u32::try_from(number).unwrap_or_default();
            let length = u32::try_from(frame.length + restored).unwrap_or(u32::MAX);
            let block = pcapng::packet(number, frame.nanos, kept, length, frame.direction);
            self.out.write_all(&block)?;
            self.written += 1;
            self.dirty = true;
            if self.is_full(capture) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        for (number, tap) in (0..).zip(&mut self.taps) {
            let counts = count(tap);
            let nanos = now();
            let block = pcapng::statistics(number, nanos, counts.received, counts.dropped);
            self.out.write_all(&block)?;
        }
        self.out.flush()
    }

    fn summary(&mut self) -> Captured {
        let taps = self.taps.iter_mut();
        let interfaces = taps.map(|tap| {
            let counts = count(tap);
            (tap.name.to_string(), counts.received, counts.dropped)
        });
        Captured {
            written: self.written,
            interfaces: interfaces.collect(),
        }
    }
}

/// A frame in the buffer, behind room for a tag.
struct Frame {
    kept: usize,
    length: usize,
    nanos: u64,
    direction: Direction,
    tag: Option<Tag>,
}

/// The next frame, if there is one.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<Frame>, Errno> {
    let behind = buffer.get_mut(Tag::LENGTH..).unwrap_or_default();
    let room = behind.len();
    let mut pieces = [IoSliceMut::new(behind)];
    let mut control = nix::cmsg_space!(libc::timespec, libc::tpacket_auxdata);
    // The length is that of the whole frame, even where less fitted.
    let received = recvmsg::<LinkAddr>(
        socket.as_raw_fd(),
        &mut pieces,
        Some(&mut control),
        MsgFlags::MSG_TRUNC,
    );
    let message = match received {
        Ok(message) => message,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let (mut nanos, mut tag) = (None, None);
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmTimestampns(time) = part {
            nanos = Some(nanos_of(time));
        } else if let ControlMessageOwned::Unknown(part) = part {
            tag = tag.or_else(|| tag_in(&part.cmsg_header, &part.data_bytes));
        }
    }
    let kind = message.address.map(|address| address.pkttype());
    Ok(Some(Frame {
        kept: message.bytes.min(room),
        length: message.bytes,
        nanos: nanos.unwrap_or_else(now),
        direction: if kind == Some(libc::PACKET_OUTGOING) {
            Direction::Out
        } else {
            Direction::In
        },
        tag,
    }))
}

fn nanos_of(time: TimeSpec) -> u64 {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or_default()
}

/// The tag that the kernel tells of, in a `tpacket_auxdata`.
fn tag_in(header: &libc::cmsghdr, data: &[u8]) -> Option<Tag> {
    let of_packet = (libc::SOL_PACKET, libc::PACKET_AUXDATA);
    if (header.cmsg_level, header.cmsg_type) != of_packet {
        return None;
    }
    let status = offset_of!(libc::tpacket_auxdata, tp_status);
    let status = u32::from_ne_bytes(data.get(status..status + 4)?.try_into().ok()?);
    let half = |at: usize| Some(u16::from_ne_bytes(data.get(at..at + 2)?.try_into().ok()?));
    (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(Tag {
        protocol: half(offset_of!(libc::tpacket_auxdata, tp_vlan_tpid))?,
        control: half(offset_of!(libc::tpacket_auxdata, tp_vlan_tci))?,
    })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Whether an interface is there that may be down. The kernel gives a socket the index -1 when it is not.
fn is_there(tap: &Tap) -> bool {
    let address = nix::sys::socket::getsockname::<LinkAddr>(tap.socket.as_raw_fd());
    address.is_ok_and(|address| i32::try_from(address.ifindex()).is_ok())
}

/// All that the kernel has counted at a tap.
fn count(tap: &mut Tap) -> Counts {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut size = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or_default();
    #[expect(unsafe_code, reason = "nix does not know this option")]
    // SAFETY: the kernel writes at most `size` octets to `statistics`, which has that many and may have any values, and
    // the length to `size`; both outlive the call.
    let outcome = unsafe {
        libc::getsockopt(
            tap.socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut statistics).cast(),
            &raw mut size,
        )
    };
    if outcome == 0 {
        tap.counted.received += u64::from(statistics.tp_packets);
        tap.counted.dropped += u64::from(statistics.tp_drops);
    }
    tap.counted
}
