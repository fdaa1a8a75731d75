//! Sockets in the guest's network namespace, after we have given up whatever would let us enter it.
//!
//! A small process of ours stays in the guest's namespace. It shares nothing with us but a pair of `SOCK_SEQPACKET`
//! sockets: a request names a kind of socket and how many, the answer carries them as descriptors. They are unbound;
//! a socket belongs for ever to the namespace it was made in, so everything else is done here. The process has its own
//! system-call table, which holds little more than `socket`, and ends when the pair is closed, or with its parent.
//!
//! ```text
//!   host namespace                                guest namespace
//!   Opener ── [family, transport, count] ───────▶ serve()
//!     pools ◀── [family, transport, errno] + descriptors ──
//!       ──────── [NAMES] ─────────────────────────▶
//!           ◀─── [NAMES, 0, errno] + text ─────────
//! ```
//!
//! Since it sees no packet, it is also the one that reads the host's resolv.conf ([`super::names`]).
//!
//! A pool is asked for more when half of it is gone, and the answer is fetched when the channel is readable, so taking
//! a socket costs no waiting, unless more than a pool is wanted at once: then one answer is waited for.
//!
//! A process that does not answer (stopped, frozen, starved) is waited for once: until it answers again, what is not in a
//! pool is refused at once. A request is never repeated before its answer has come, so that it finds five at most. It
//! answers each, with an error where descriptors cannot be sent (`ETOOMANYREFS`: our user has too many on their way), and
//! ends only when nobody asks any more.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::AddressFamily;

use super::names::Trail;
use super::{options, pass};
use crate::config::Families;
use crate::event::Transport;
use crate::limits;

/// Who may have fewer descriptors has small pools.
const MANY_DESCRIPTORS: u64 = 512;
/// The longest wait for an answer, milliseconds: the process does nothing else.
const PATIENCE: u16 = 1000;

/// Instead of a family: the host's resolv.conf.
const NAMES: u8 = 2;
/// Bytes of an answer before what it carries.
const HEAD: usize = 6;

/// One kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    family: AddressFamily,
    transport: Transport,
}

impl Kind {
    fn to_bytes(self) -> [u8; 2] {
        [
            u8::from(self.family == AddressFamily::Inet6),
            u8::from(self.transport == Transport::Udp),
        ]
    }

    fn from_bytes(bytes: [u8; 2]) -> Self {
        Self {
            family: match bytes[0] {
                0 => AddressFamily::Inet,
                _ => AddressFamily::Inet6,
            },
            transport: match bytes[1] {
                0 => Transport::Tcp,
                _ => Transport::Udp,
            },
        }
    }
}

/// Sockets that are ready to be used, of each family.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// As many connections may come at once.
    tcp: u8,
    /// A socket serves for long.
    udp: u8,
}

impl Sizes {
    /// Of a process that may have so many descriptors.
    #[must_use]
    pub const fn of(descriptors: u64) -> Self {
        if descriptors < MANY_DESCRIPTORS {
            Self { tcp: 8, udp: 2 }
        } else {
            Self { tcp: 32, udp: 8 }
        }
    }

    /// Descriptors that an opener may have: the channel, and the pools of both families.
    #[must_use]
    pub const fn descriptors(self) -> u64 {
        1 + 2 * (self.tcp as u64 + self.udp as u64)
    }
}

/// Sockets of one kind.
#[derive(Debug)]
struct Pool {
    kind: Kind,
    size: u8,
    ready: Vec<OwnedFd>,
    /// An answer is on its way.
    asked: bool,
    /// What the last answer said instead of sockets.
    failed: Option<Errno>,
}

/// Our end.
#[derive(Debug)]
pub struct Opener {
    channel: OwnedFd,
    pools: Vec<Pool>,
    answer: Box<[u8]>,
    names: Option<Result<Vec<u8>, Errno>>,
    /// The host's resolv.conf is asked for.
    names_asked: bool,
    /// It has changed since.
    names_again: bool,
    /// An answer was waited for in vain, and none has come since.
    silent: bool,
}

impl Opener {
    /// Ask for the first sockets.
    pub fn new(channel: OwnedFd, families: Families<()>, sizes: Sizes) -> Self {
        let v4 = families.v4.map(|()| AddressFamily::Inet);
        let v6 = families.v6.map(|()| AddressFamily::Inet6);
        let kinds = v4.into_iter().chain(v6).flat_map(|family| {
            [(Transport::Tcp, sizes.tcp), (Transport::Udp, sizes.udp)]
                .map(|(transport, size)| (Kind { family, transport }, size))
        });
        let pools = kinds.map(|(kind, size)| Pool {
            kind,
            size,
            ready: Vec::with_capacity(usize::from(size)),
            asked: false,
            failed: None,
        });
        let mut opener = Self {
            channel,
            pools: pools.collect(),
            answer: vec![0; HEAD + limits::RESOLV_CONF].into(),
            names: None,
            names_asked: false,
            names_again: false,
            silent: false,
        };
        opener.pools.iter_mut().for_each(|pool| {
            // A process that is gone already is noticed with the first socket that is taken.
            pool.ask(opener.channel.as_fd()).unwrap_or_default();
        });
        opener
    }

    /// How many descriptors it may have: the channel, and all pools full.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let pools = self.pools.iter().map(|pool| usize::from(pool.size));
        pools.sum::<usize>() + 1
    }

    /// Readable when [`Self::tend`] has something to do.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Take in answers that have arrived.
    ///
    /// # Errors
    /// `ENOTCONN`: the process is gone, and there will be no more sockets than there are.
    pub fn tend(&mut self) -> Result<(), Errno> {
        loop {
            match self.fetch() {
                Ok(()) => {}
                Err(Errno::ENOTCONN) => return Err(Errno::ENOTCONN),
                // What waits there wakes us again.
                Err(_) => return Ok(()),
            }
        }
    }

    /// A new socket in the guest's namespace, non-blocking.
    ///
    /// # Errors
    /// Why there is none: what `socket` said there, `ENOTCONN` when nobody is there, `ETIMEDOUT` when he does not answer.
    pub fn take(&mut self, family: AddressFamily, transport: Transport) -> Result<OwnedFd, Errno> {
        let kind = Kind { family, transport };
        let place = self.pools.iter().position(|pool| pool.kind == kind);
        let place = place.ok_or(Errno::EAFNOSUPPORT)?;
        // What failed while nobody waited for it may not fail now.
        self.pools[place].failed = None;
        loop {
            let pool = &mut self.pools[place];
            let asked = if pool.ready.len() <= usize::from(pool.size / 2) {
                pool.ask(self.channel.as_fd())
            } else {
                Ok(())
            };
            if let Some(socket) = pool.ready.pop() {
                return Ok(socket);
            }
            asked?;
            if let Some(error) = pool.failed.take() {
                return Err(error);
            }
            self.wait()?;
            match self.fetch() {
                Ok(()) | Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ask for the host's resolv.conf; once more if it is asked for already, since it may have been read before it
    /// changed.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn ask_names(&mut self) -> Result<(), Errno> {
        if self.names_asked {
            self.names_again = true;
            return Ok(());
        }
        pass::send(self.channel.as_fd(), &[NAMES, 0, 0], &[]).map_err(gone)?;
        self.names_asked = true;
        Ok(())
    }

    /// Whether [`Self::names`] has something to say.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.names.is_some()
    }

    /// The answer, once it has come.
    pub fn names(&mut self) -> Option<Result<Vec<u8>, Errno>> {
        self.names.take()
    }

    /// Wait for an answer, unless that was in vain the last time.
    fn wait(&mut self) -> Result<(), Errno> {
        let patience = if self.silent { 0 } else { PATIENCE };
        let mut waits = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waits, PollTimeout::from(patience)) {
            Ok(0) => {
                self.silent = true;
                Err(Errno::ETIMEDOUT)
            }
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// One answer.
    fn fetch(&mut self) -> Result<(), Errno> {
        let mut fds = Vec::new();
        let channel = self.channel.as_fd();
        let received = pass::receive_some(channel, &mut self.answer, &mut fds, false);
        let (len, whole) = received.map_err(gone)?;
        let answer = self.answer.get(..len).unwrap_or_default();
        let Some(([family, transport, errno @ ..], text)) = answer.split_first_chunk::<HEAD>()
        else {
            return Err(Errno::ENOTCONN);
        };
        let (family, transport, errno) = (*family, *transport, *errno);
        self.silent = false;
        if family == NAMES {
            self.names = Some(match i32::from_le_bytes(errno) {
                0 => Ok(text.to_vec()),
                errno => Err(Errno::from_raw(errno)),
            });
            self.names_asked = false;
            if std::mem::take(&mut self.names_again) {
                self.ask_names()?;
            }
            return Ok(());
        }
        let kind = Kind::from_bytes([family, transport]);
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.kind == kind) {
            pool.asked = false;
            pool.failed = match i32::from_le_bytes(errno) {
                0 if !whole || fds.is_empty() => Some(Errno::EMFILE),
                0 => None,
                errno => Some(Errno::from_raw(errno)),
            };
            pool.ready.append(&mut fds);
        }
        Ok(())
    }
}

impl Pool {
    /// Ask for as many as are missing, unless an answer is on its way.
    fn ask(&mut self, channel: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.asked {
            return Ok(());
        }
        let missing = usize::from(self.size).saturating_sub(self.ready.len());
        let [family, transport] = self.kind.to_bytes();
        let count = u8::try_from(missing).unwrap_or(self.size);
        pass::send(channel, &[family, transport, count], &[]).map_err(gone)?;
        self.asked = true;
        Ok(())
    }
}

/// The ways in which the end of the other process shows, as one.
fn gone(error: Errno) -> Errno {
    if matches!(error, Errno::EPIPE | Errno::ECONNRESET) {
        Errno::ENOTCONN
    } else {
        error
    }
}

/// The process in the guest's namespace: answer requests until nobody asks any more.
pub fn serve(channel: &OwnedFd, names: Option<&Trail>) {
    let mut request = [0; 3];
    let mut sockets = Vec::with_capacity(pass::MAX);
    let mut numbers: Vec<RawFd> = Vec::with_capacity(pass::MAX);
    loop {
        let mut unwanted = Vec::new();
        match pass::receive(channel.as_fd(), &mut request, &mut unwanted, true) {
            Ok(3) => {}
            Err(error) if passes(error) => continue,
            Ok(_) | Err(_) => return,
        }
        let [family, transport, count] = request;
        if family == NAMES {
            if answer_names(channel, names).is_err() {
                return;
            }
            continue;
        }
        let kind = Kind::from_bytes([family, transport]);
        let mut errno = 0;
        for _ in 0..usize::from(count).min(pass::MAX) {
            match options::open(kind.family, kind.transport) {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    errno = error as i32;
                    break;
                }
            }
        }
        numbers.extend(sockets.iter().map(AsRawFd::as_raw_fd));
        let answer = head([family, transport], errno);
        let sent = pass::send(channel.as_fd(), &answer, &numbers);
        numbers.clear();
        sockets.clear();
        if or_why(channel, [family, transport], sent).is_err() {
            return;
        }
    }
}

const fn head([family, transport]: [u8; 2], errno: i32) -> [u8; HEAD] {
    let [a, b, c, d] = errno.to_le_bytes();
    [family, transport, a, b, c, d]
}

/// If an answer could not be sent, send why: who asked waits for something.
fn or_why(channel: &OwnedFd, kind: [u8; 2], sent: Result<(), Errno>) -> Result<(), Errno> {
    let Err(error) = sent.map_err(gone) else {
        return Ok(());
    };
    if error == Errno::ENOTCONN {
        return Err(error);
    }
    loop {
        match pass::send(channel.as_fd(), &head(kind, error as i32), &[]) {
            Err(error) if passes(error) => {}
            other => return other,
        }
    }
}

/// What says nothing of the other end. Where memory is missing, the kernel has looked for it as long as there was hope.
const fn passes(error: Errno) -> bool {
    matches!(
        error,
        Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM
    )
}

fn answer_names(channel: &OwnedFd, names: Option<&Trail>) -> Result<(), Errno> {
    let read = names.map_or(Err(Errno::ENOENT), Trail::read);
    let errno = read.as_ref().err().map_or(0, |error| *error as i32);
    let kind = [NAMES, 0];
    let mut answer = head(kind, errno).to_vec();
    answer.extend(read.unwrap_or_default());
    or_why(channel, kind, pass::send(channel.as_fd(), &answer, &[]))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the other end needs a thread")]
mod tests {
    use super::*;

    fn families() -> Families<()> {
        Families {
            v4: Some(()),
            v6: None,
        }
    }

    #[test]
    fn more_than_a_pool_is_waited_for() {
        let (ours, theirs) = pass::pair().unwrap();
        let server = std::thread::spawn(move || serve(&theirs, None));
        let mut opener = Opener::new(ours, families(), Sizes::of(1024));
        let take = |opener: &mut Opener, transport| opener.take(AddressFamily::Inet, transport);
        let sockets: Result<Vec<_>, _> = (0..100)
            .map(|_| take(&mut opener, Transport::Tcp))
            .collect();
        assert_eq!(sockets.unwrap().len(), 100);
        take(&mut opener, Transport::Udp).unwrap();
        assert_eq!(
            opener.take(AddressFamily::Inet6, Transport::Tcp).err(),
            Some(Errno::EAFNOSUPPORT)
        );
        drop(opener);
        server.join().unwrap();
    }

    /// As the kernel does when there is no room for them.
    #[test]
    fn an_answer_whose_sockets_are_lost_is_a_failure() {
        let (ours, theirs) = pass::pair().unwrap();
        let mut opener = Opener::new(ours, families(), Sizes::of(1024));
        pass::send(theirs.as_fd(), &[0; HEAD], &[]).unwrap();
        let taken = opener.take(AddressFamily::Inet, Transport::Tcp);
        assert_eq!(taken.err(), Some(Errno::EMFILE));
    }

    /// They were for the pool, and there is room again when somebody wants one.
    #[test]
    fn what_was_lost_before_anybody_waited_is_asked_for_again() {
        let (ours, theirs) = pass::pair().unwrap();
        let mut opener = Opener::new(ours, families(), Sizes::of(1024));
        pass::send(theirs.as_fd(), &[0; HEAD], &[]).unwrap();
        opener.tend().unwrap();
        let server = std::thread::spawn(move || serve(&theirs, None));
        opener.take(AddressFamily::Inet, Transport::Tcp).unwrap();
        drop(opener);
        server.join().unwrap();
    }

    /// The other end reads nothing: twenty connections cost one time of patience, not twenty.
    #[test]
    fn a_process_that_hangs_is_waited_for_once() {
        let (ours, theirs) = pass::pair().unwrap();
        let mut opener = Opener::new(ours, families(), Sizes::of(1024));
        let begin = std::time::Instant::now();
        for _ in 0..20 {
            let taken = opener.take(AddressFamily::Inet, Transport::Tcp);
            assert_eq!(taken.err(), Some(Errno::ETIMEDOUT));
        }
        // Between one and twenty.
        let patience = std::time::Duration::from_millis(PATIENCE.into());
        assert!(begin.elapsed() < 10 * patience);
        for _ in 0..5000 {
            opener.ask_names().unwrap(); // as many as do not fit in the channel
        }
        let server = std::thread::spawn(move || serve(&theirs, None));
        for _ in 0..100 {
            while let Err(error) = opener.take(AddressFamily::Inet, Transport::Tcp) {
                assert_eq!(error, Errno::ETIMEDOUT);
                std::thread::yield_now(); // it has just begun
            }
        }
        drop(opener);
        server.join().unwrap();
    }

    /// Asked for again while the answer was on its way: it is read again.
    #[test]
    fn names_that_changed_meanwhile_are_asked_for_again() {
        let (ours, theirs) = pass::pair().unwrap();
        let mut opener = Opener::new(ours, Families::default(), Sizes::of(1024));
        for _ in 0..5 {
            opener.ask_names().unwrap();
        }
        let server = std::thread::spawn(move || serve(&theirs, None));
        for _ in 0..2 {
            opener.wait().unwrap();
            opener.fetch().unwrap();
            assert_eq!(opener.names(), Some(Err(Errno::ENOENT)));
        }
        assert!(!opener.names_asked && !opener.names_again);
        drop(opener);
        server.join().unwrap();
    }

    #[test]
    fn a_process_that_is_gone_is_told_of() {
        let (ours, theirs) = pass::pair().unwrap();
        let mut opener = Opener::new(ours, families(), Sizes::of(1024));
        drop(theirs);
        assert_eq!(opener.tend(), Err(Errno::ENOTCONN));
        assert!(opener.take(AddressFamily::Inet, Transport::Tcp).is_err());
    }
}
