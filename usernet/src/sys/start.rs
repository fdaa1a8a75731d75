//! From a command to a forwarder that is ready.
//!
//! ```text
//!  caller's namespaces                                     guest's network namespace
//!  [begin] arm the watch, join or make the user namespace
//!     fork ── starter: waits, writes the pid file, ends
//!       │
//!     fork ──────────────────────────────────────────────▶ guest process: enter, make the tap,
//!     bind host listeners                                    configure the guest, bind its listeners
//!       ◀── tap, listeners, what the configuration says ──   let go of everything, lock itself in
//!     start the command, if there is one                     make sockets when asked ([`super::opener`])
//!  [lock_in] empty root, no rights, few calls
//!     say that we are ready
//! ```
//!
//! The process that forwards never enters the guest's namespace, and the guest process never sees a packet. Without
//! loopback traffic to be spliced, the guest process ends when it has set up its side. While the host has no network to
//! copy, one more process may change the guest's addresses ([`super::keeper`]).
//!
//! Everything that can fail because of what the user asked for fails before we are ready, with a message and exit code 1.
//! All ends are exits, so that the kernel closes every listener at once: a new instance can bind the same ports.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use ask::Question;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::wait::waitpid;

use super::attach::{self, Ids, Target, Watch};
use super::daemon::{self, PidFile, Ready, Role};
use super::failure::{Failure, errno};
use super::keeper::{self, Keeper};
use super::listen::{self, Bound, Listening};
use super::names::{RESOLV_CONF, Trail};
use super::opener::{self, Opener};
use super::pass;
use super::process::{self, Fork};
use super::sandbox::calls::{self, Table};
use super::sandbox::{Missing, Sandbox};
use super::spawn::{self, Command};
use super::tap::{self, Negotiated, Tap};
use crate::config::Families;
use crate::event::Side;

/// Sets up the guest's side, called in its network namespace once the tap is there. What it returns is opaque here, at
/// most [`CONFIGURED`] bytes; what it has to say to the user it writes to standard error.
pub type Configure = Box<dyn FnOnce() -> Result<Vec<u8>, Failure>>;

/// Bytes that [`Configure`] may return.
pub const CONFIGURED: usize = 4096;

/// What a start needs to know.
pub struct Start {
    /// The guest's network namespace.
    pub target: Target,
    /// The user namespace to join first; without it, that of a process given as target.
    pub user_namespace: Option<PathBuf>,
    /// Join no user namespace, and make none.
    pub network_only: bool,
    /// End with the namespace.
    pub quit_with_namespace: bool,
    /// A command has a PID namespace.
    pub pid_namespace: bool,
    /// Do not go to the background. A command implies it.
    pub foreground: bool,
    /// Where our number is written.
    pub pid_file: Option<PathBuf>,
    /// Who to become; by default `nobody`, if we are real root.
    pub identity: Option<Ids>,
    /// The root cannot be replaced, only changed.
    pub chroot_fallback: bool,
    /// What is listened on.
    pub listening: Listening,
    /// The tap's name; none: no tap.
    pub link: Option<String>,
    /// Loopback traffic is spliced: sockets in the guest's namespace will be wanted.
    pub splice: bool,
    /// What is listened on may change, on both sides, to anything.
    pub changes: bool,
    /// The guest's side.
    pub configure: Option<Configure>,
    /// Its addresses and routes may change later ([`super::keeper`]).
    pub keep: bool,
    /// The host's name servers will be asked for ([`super::names`]).
    pub names: bool,
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// How [`begin`] ended.
#[derive(Debug)]
pub enum Begun {
    /// In the process that was called: nothing is left to do but to exit with this code.
    Starter(u8),
    /// In the process that forwards.
    Running(Box<Running>),
}

/// What a started forwarder has.
///
/// When we end, listeners go first: who starts us again on the same ports does so at once, and closing a tap may take
/// long, since the kernel takes an interface down in a queue with all others.
#[derive(Debug)]
pub struct Running {
    /// Listening sockets.
    pub listeners: Vec<(Side, Bound)>,
    /// The tap.
    pub tap: Option<Tap>,
    /// Makes sockets in the guest's namespace, where they will be wanted.
    pub opener: Option<Opener>,
    /// Changes the guest's addresses and routes, if that was wanted.
    pub keeper: Option<Keeper>,
    /// What [`Configure`] returned.
    pub configured: Vec<u8>,
    /// Ask each namespace about listening ports (`NETLINK_SOCK_DIAG`), where ranges follow the other side.
    pub diagnosis: Vec<(Side, OwnedFd)>,
    /// What may end us.
    pub ends: Ends,
    sandbox: Sandbox,
    ready: Option<Ready>,
    warnings: String,
}

/// What may end us.
#[derive(Debug)]
pub struct Ends {
    signals: SignalFd,
    watch: Option<Watch>,
    command: Option<Command>,
    question: Cell<Option<Question>>,
}

/// One of the things that may end us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum End {
    /// `SIGTERM` or `SIGQUIT`. A question is no end.
    Signal,
    /// The guest's namespace is gone.
    Namespace,
    /// The command has ended.
    Command,
}

impl End {
    const ALL: [Self; 3] = [Self::Signal, Self::Namespace, Self::Command];

    /// The end of a number, as waiting loops keep it.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|end| *end as u32 == number)
    }
}

impl Ends {
    /// What to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = (End, BorrowedFd<'_>)> {
        let watch = self.watch.iter().map(|watch| (End::Namespace, watch.fd()));
        let command = self.command.iter();
        let command = command.map(|command| (End::Command, command.fd.as_fd()));
        [(End::Signal, self.signals.as_fd())]
            .into_iter()
            .chain(watch)
            .chain(command)
    }

    /// Listen for changes on the way to a file with what watches the namespace, if that can be.
    pub fn listen(&mut self, path: &Path) -> bool {
        self.watch.as_mut().is_some_and(|watch| watch.listen(path))
    }

    /// Whether there were some, seen when [`Self::code`] was asked.
    #[must_use]
    pub fn heard(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::heard)
    }

    /// What somebody asked, seen when [`Self::code`] was asked; once.
    pub fn question(&self) -> Option<Question> {
        self.question.take()
    }

    /// The exit code, if any of the ends has come, told yet or not.
    #[must_use]
    pub fn any(&self) -> Option<u8> {
        End::ALL.into_iter().find_map(|end| self.code(end))
    }

    /// The exit code, if it is the end.
    #[must_use]
    pub fn code(&self, end: End) -> Option<u8> {
        match end {
            End::Signal => {
                let signal = self.signals.read_signal().ok().flatten()?;
                let asks = i32::try_from(signal.ssi_signo) == Ok(ask::sys::SIGNAL as i32);
                if asks {
                    self.question.set(ask::sys::asked(&signal));
                }
                (!asks).then_some(0)
            }
            End::Namespace => self.watch.as_ref()?.is_gone().then_some(0),
            End::Command => {
                let command = self.command.as_ref()?;
                process::has_ended(command.fd.as_fd()).then(|| command.code())
            }
        }
    }
}

/// Attach to the guest and bind everything.
pub fn begin(start: Start) -> Result<Begun, Failure> {
    let pid_file = start.pid_file.as_deref().map(PidFile::open).transpose()?;
    let mut diagnosis = Vec::new();
    if start.follows() {
        diagnosis.extend(diagnose().map(|socket| (Side::Host, socket)));
    }
    let watch = start.watch()?;
    let (identity, mut warnings) = start.enter_user()?;
    let role = if start.stays() {
        daemon::stay(pid_file)
    } else {
        let (role, refused) = daemon::fork(pid_file)?;
        warnings.extend(refused.map(|why| format!("sandbox: {why}")));
        role
    };
    let ready = match role {
        Role::Starter(code) => return Ok(Begun::Starter(code)),
        Role::Forwarder(ready) => ready,
    };
    let ends = Ends {
        signals: signals().map_err(Failure::of("Couldn't prepare for signals"))?,
        watch,
        command: None,
        question: Cell::new(None),
    };
    let mut running = Running {
        tap: None,
        listeners: Vec::new(),
        opener: None,
        keeper: None,
        configured: Vec::new(),
        diagnosis,
        ends,
        sandbox: Sandbox {
            identity,
            has_command: matches!(start.target, Target::Command(_)),
            chroot_fallback: start.chroot_fallback,
            network_admin: false,
        },
        ready: Some(ready),
        warnings: warnings.iter().map(|line| format!("{line}\n")).collect(),
    };
    running.set_up_guest(start)?;
    Ok(Begun::Running(Box::new(running)))
}

impl Start {
    fn watch(&self) -> Result<Option<Watch>, Failure> {
        match &self.target {
            Target::Path(_) | Target::Process(_) if !self.quit_with_namespace => Ok(None),
            Target::Path(path) => Watch::arm(path),
            Target::Process(pid) => Watch::process(*pid).map(Some),
            Target::Command(_) => Ok(None),
        }
    }

    fn stays(&self) -> bool {
        self.foreground || matches!(self.target, Target::Command(_))
    }

    /// The guest process stays.
    fn serves(&self) -> bool {
        self.sockets() || self.names
    }

    fn follows(&self) -> bool {
        self.changes || self.listening.listeners.iter().any(|range| range.follow)
    }

    /// Sockets in the guest's namespace will be wanted.
    fn sockets(&self) -> bool {
        let mut listeners = self.listening.listeners.iter();
        self.splice
            || self.changes
            || listeners.any(|range| range.follow && range.side == Side::Guest)
    }

    /// Join or make the user namespace. Who to become later, and what could not be had.
    fn enter_user(&self) -> Result<(Option<Ids>, Vec<String>), Failure> {
        let real_root = attach::is_real_root();
        let identity = self.identity.or_else(|| real_root.then(attach::nobody));
        if self.network_only {
            return Ok((identity, Vec::new()));
        }
        if let Target::Command(_) = self.target {
            if let Some(ids) = identity {
                attach::become_user(ids)?;
                // Otherwise our own files in /proc belong to root.
                prctl::set_dumpable(true).map_err(Failure::of("Couldn't become dumpable"))?;
            }
            return Ok((None, attach::create_user()?));
        }
        let theirs = match &self.target {
            Target::Process(pid) => Some(PathBuf::from(format!("/proc/{pid}/ns/user"))),
            Target::Path(_) | Target::Command(_) => None,
        };
        if let (false, Some(path)) = (real_root, self.user_namespace.as_ref().or(theirs.as_ref())) {
            attach::join_user(path)?;
        }
        Ok((identity, Vec::new()))
    }
}

impl Running {
    /// Whether standard error goes with [`Self::lock_in`].
    #[must_use]
    pub fn in_background(&self) -> bool {
        self.ready.as_ref().is_some_and(Ready::is_daemon)
    }

    /// Lock ourselves in and say that we are ready. Afterwards nothing can be opened, and in the background nothing be
    /// written to standard error.
    pub fn lock_in(&mut self) -> Result<(), Failure> {
        let Some(ready) = self.ready.take() else {
            return Ok(());
        };
        let missing = self.sandbox.enclose()?;
        if ready.is_daemon() {
            daemon::die_with_parent(true); // a change of identity has cleared it
        }
        ready.detach()?;
        if ready.is_daemon() {
            daemon::die_with_parent(false);
        }
        let refused = calls::restrict(Table::Forwarder).err();
        let mut text = std::mem::take(&mut self.warnings);
        text.extend(missing.iter().chain(&refused).map(line));
        ready.tell(&text)
    }

    fn set_up_guest(&mut self, mut start: Start) -> Result<(), Failure> {
        let what = || Failure::of("Couldn't start the process in the guest's namespace");
        let (ours, theirs) = pass::pair().map_err(what())?;
        let sandbox = self.sandbox;
        let serve = start.serves();
        let pools = start.sockets();
        let listening = start.listening.clone();
        let command = match &mut start.target {
            Target::Command(words) => Some((std::mem::take(words), start.pid_namespace)),
            Target::Path(_) | Target::Process(_) => None,
        };
        let pid = match process::fork().map_err(what())? {
            Fork::Parent(pid) => pid,
            Fork::Child => {
                drop(ours);
                process::exit(guest_process(start, command.is_some(), sandbox, &theirs));
            }
        };
        drop(theirs);
        // Meanwhile.
        let bound = listen::bind_all(&listening, Side::Host)?;
        self.warnings.extend(bound.left_out.map(|text| text + "\n"));
        let bound = bound.sockets.into_iter();
        self.listeners = bound.map(|b| (Side::Host, b)).collect();
        let network = self.collect(&ours)?;
        if serve {
            let families = if pools {
                listening.families
            } else {
                Families::default()
            };
            self.opener = Some(Opener::new(
                ours,
                families,
                opener::Sizes::of(process::most_descriptors()),
            ));
        } else {
            waitpid(pid, None).map(drop).map_err(what())?;
        }
        match (command, network) {
            (Some((words, pid_namespace)), Some(network)) => {
                self.ends.command = Some(spawn::start(&words, &network, pid_namespace)?);
            }
            // The opener's end, should it come, needs nobody to look at it.
            _ => process::set_ignored(Signal::SIGCHLD, true),
        }
        Ok(())
    }

    /// Take in what the guest process has made. For a command, the network namespace.
    fn collect(&mut self, channel: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
        let what = || Failure::of("Couldn't hear from the process in the guest's namespace");
        let mut network = None;
        let mut bytes = [0; CONFIGURED + 1];
        loop {
            let mut fds = Vec::new();
            let len = pass::receive(channel.as_fd(), &mut bytes, &mut fds, true).map_err(what())?;
            let Some((kind, data)) = bytes[..len].split_first() else {
                return Err(what()(Errno::ECONNRESET));
            };
            match (*kind, data) {
                (FAILED, text) => {
                    return Err(Failure::Told(String::from_utf8_lossy(text).into_owned()));
                }
                (DONE, _) => return Ok(network),
                (LEFT_OUT, text) => {
                    self.warnings += &String::from_utf8_lossy(text);
                    self.warnings.push('\n');
                }
                (TAP, [negotiated]) => {
                    let negotiated = Negotiated::from_byte(*negotiated);
                    let mut fds = fds.into_iter();
                    self.tap = fds.next().map(|fd| Tap {
                        fd,
                        spare: fds.collect(),
                        negotiated,
                    });
                }
                (NETWORK, _) => network = fds.pop(),
                (KEEPER, _) => self.keeper = fds.pop().map(Keeper::new),
                (DIAGNOSIS, _) => {
                    self.diagnosis
                        .extend(fds.into_iter().map(|fd| (Side::Guest, fd)));
                }
                (LISTENERS, places) => {
                    let bound = places.chunks_exact(PLACE).zip(fds);
                    let bound = bound.filter_map(|(place, fd)| place_of(place, fd));
                    self.listeners.extend(bound.map(|b| (Side::Guest, b)));
                }
                (_, data) => self.configured = data.to_vec(),
            }
        }
    }
}

fn line(missing: &Missing) -> String {
    format!("{missing}\n")
}

/// What we wait for: the signals that end us, and the one that asks.
pub const SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGQUIT, ask::sys::SIGNAL];

/// The signals that end us are read, not handled: as the first process of a PID namespace we would not even get those
/// that nobody handles.
fn signals() -> Result<SignalFd, Errno> {
    let set = SigSet::from_iter(SIGNALS);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Where the kernel has nobody to ask, nothing can be followed; that is told when it is tried.
fn diagnose() -> Option<OwnedFd> {
    let made = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkSockDiag,
    );
    made.ok()
}

// What the guest process sends, by the first byte.
const FAILED: u8 = b'E';
const DONE: u8 = b'R';
const TAP: u8 = b'T';
const NETWORK: u8 = b'N';
const DIAGNOSIS: u8 = b'D';
const KEEPER: u8 = b'K';
const LISTENERS: u8 = b'L';
const LEFT_OUT: u8 = b'O';
const CONFIGURATION: u8 = b'C';
/// Bytes that say what a listening socket is: range, port.
const PLACE: usize = 6;

fn place(bound: &Bound) -> [u8; PLACE] {
    let [a, b, c, d] = bound.listener.to_le_bytes();
    let [e, f] = bound.port.to_le_bytes();
    [a, b, c, d, e, f]
}

fn place_of(bytes: &[u8], fd: OwnedFd) -> Option<Bound> {
    let (listener, port) = bytes.split_at_checked(4)?;
    Some(Bound {
        listener: u32::from_le_bytes(listener.try_into().ok()?),
        port: u16::from_le_bytes(port.try_into().ok()?),
        fd,
    })
}

/// The life of the process in the guest's namespace; its exit code.
fn guest_process(start: Start, is_new: bool, sandbox: Sandbox, channel: &OwnedFd) -> i32 {
    daemon::die_with_parent(true);
    let serve = start.serves();
    let names = start.names;
    let kept = start.link.clone().filter(|_| start.keep);
    let mut result = set_up(start, is_new, channel);
    if let (Ok(()), Some(name)) = (&result, kept) {
        result = make_keeper(&name, sandbox, channel);
    }
    let detached = detach(channel);
    if let Err(failure) = result.and(detached) {
        let text = [&[FAILED], failure.to_string().as_bytes()].concat();
        let text = &text[..text.len().min(CONFIGURED)];
        // If nobody hears it, the end of the channel tells enough.
        pass::send(channel.as_fd(), text, &[]).unwrap_or_default();
        return 1;
    }
    if pass::send(channel.as_fd(), &[DONE], &[]).is_err() {
        return 1;
    }
    if serve {
        let trail = names.then(|| Trail::find(Path::new(RESOLV_CONF))).flatten();
        let directories: Vec<_> = trail.iter().flat_map(Trail::directories).collect();
        // What is missing here is missing there, where it is told.
        if sandbox.enclose_but(&directories).is_err() {
            return 1;
        }
        daemon::die_with_parent(true); // a change of identity has cleared it
        calls::restrict(Table::Opener).unwrap_or_default();
        opener::serve(channel, trail.as_ref());
    }
    0
}

/// Split off the process that may change the guest's addresses. It ends when its channel is closed; nobody waits for it.
fn make_keeper(name: &str, sandbox: Sandbox, channel: &OwnedFd) -> Result<(), Failure> {
    let what = || Failure::of("Couldn't start the process that changes the guest's addresses");
    let (ours, theirs) = pass::pair().map_err(what())?;
    process::set_ignored(Signal::SIGCHLD, true);
    if let Fork::Child = process::fork().map_err(what())? {
        drop(ours);
        let lived = detach(&theirs).and_then(|()| keeper::live(&theirs, name, sandbox));
        process::exit(i32::from(lived.is_err()));
    }
    pass::send(channel.as_fd(), &[KEEPER], &[ours.as_raw_fd()]).map_err(what())
}

/// Make what belongs to the guest's side and send it.
fn set_up(start: Start, is_new: bool, channel: &OwnedFd) -> Result<(), Failure> {
    let send = |bytes: &[u8], fds: &[RawFd]| {
        pass::send(channel.as_fd(), bytes, fds)
            .map_err(Failure::of("Couldn't tell of the guest's namespace"))
    };
    enter(&start.target)?;
    if is_new {
        let network = std::fs::File::open("/proc/self/ns/net")
            .map_err(|error| Failure::of("Couldn't open network namespace")(errno(&error)))?;
        send(&[NETWORK], &[network.as_raw_fd()])?;
        // Its only user and group may ping. Where the setting cannot be written, they may not.
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap_or_default();
    }
    if let Some(name) = &start.link {
        let tap = tap::create(name)?;
        let queues = std::iter::once(&tap.fd).chain(&tap.spare);
        let queues: Vec<_> = queues.map(AsRawFd::as_raw_fd).collect();
        send(&[TAP, tap.negotiated.to_byte()], &queues)?;
    }
    if start.follows() {
        let socket = diagnose();
        let socket = socket.iter().map(AsRawFd::as_raw_fd);
        send(&[DIAGNOSIS], &socket.collect::<Vec<_>>())?;
    }
    if let Some(configure) = start.configure {
        let mut said = configure()?;
        said.truncate(CONFIGURED);
        said.insert(0, CONFIGURATION);
        send(&said, &[])?;
    }
    let bound = listen::bind_all(&start.listening, Side::Guest)?;
    if let Some(text) = bound.left_out {
        send(&[&[LEFT_OUT], text.as_bytes()].concat(), &[])?;
    }
    for some in bound.sockets.chunks(pass::MAX) {
        let places = some.iter().flat_map(place);
        let bytes: Vec<u8> = [LISTENERS].into_iter().chain(places).collect();
        let fds: Vec<_> = some.iter().map(|bound| bound.fd.as_raw_fd()).collect();
        send(&bytes, &fds)?;
    }
    Ok(())
}

fn enter(target: &Target) -> Result<(), Failure> {
    match target {
        Target::Path(path) => attach::enter_network(path),
        Target::Process(pid) => attach::enter_network(Path::new(&format!("/proc/{pid}/ns/net"))),
        Target::Command(_) => unshare(CloneFlags::CLONE_NEWNET)
            .map_err(Failure::of("Couldn't create network namespace")),
    }
}

/// Let go of everything that is the forwarder's or the caller's.
fn detach(channel: &OwnedFd) -> Result<(), Failure> {
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null");
    let what = || Failure::of("Couldn't open /dev/null");
    let null = null.map_err(|error| what()(errno(&error)))?;
    nix::unistd::dup2_stdin(&null).map_err(what())?;
    nix::unistd::dup2_stdout(&null).map_err(what())?;
    nix::unistd::dup2_stderr(&null).map_err(what())?;
    drop(null);
    process::close_all_but(channel.as_fd());
    Ok(())
}
