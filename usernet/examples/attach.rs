//! The start and the end of the forwarder with nothing in between: frames are thrown away. For tests of the shell.
//!
//! `attach [OPTION]… [-- COMMAND…]`; an option is `name=value`. With `attempt=WHAT` it tries, in the place of the
//! forwarder, what the sandbox shall prevent, and says on standard error what came of it.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a program for tests of the operating system's side"
)]

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, setuid};
use usernet::config::{Families, Listener};
use usernet::event::{Side, Transport};
use usernet::sys::attach::{self, Target};
use usernet::sys::listen::Listening;
use usernet::sys::sandbox::Sandbox;
use usernet::sys::start::{Begun, End, Running, Start, begin};

fn main() -> ExitCode {
    attach::prepare();
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(1)
        }
    }
}

fn run() -> Result<u8, String> {
    let (start, attempt) = understand(std::env::args_os().skip(1))?;
    let before = Before::gather();
    if attempt.as_deref() == Some("enclosed") {
        let told = |failure: usernet::sys::failure::Failure| failure.to_string();
        let sandbox = Sandbox {
            identity: attach::is_real_root().then(attach::nobody),
            ..Sandbox::default()
        };
        for missing in sandbox.enclose().map_err(told)? {
            eprintln!("{missing}");
        }
        before.attempts();
        return Ok(0);
    }
    match begin(start).map_err(|failure| failure.to_string())? {
        Begun::Starter(code) => Ok(code),
        Begun::Running(mut running) => {
            running.lock_in().map_err(|failure| failure.to_string())?;
            if attempt.as_deref() == Some("guest-socket") {
                return reach_guest(&mut running).map(|()| 0);
            }
            if let Some(what) = attempt {
                return before.attempt(&what).map(|()| 0);
            }
            forward(&mut running)
        }
    }
}

/// Until the end: take sockets of the guest's now and then, as splicing would, and throw frames away.
fn forward(running: &mut Running) -> Result<u8, String> {
    let mut frame = [0; 70_000];
    loop {
        let (ends, mut fds): (Vec<Option<End>>, Vec<PollFd<'_>>) = running
            .ends
            .descriptors()
            .map(|(end, fd)| (Some(end), fd))
            .chain(running.tap.iter().map(|tap| (None, tap.fd.as_fd())))
            .map(|(end, fd)| (end, PollFd::new(fd, PollFlags::POLLIN)))
            .unzip();
        poll(&mut fds, PollTimeout::NONE).map_err(|error| error.to_string())?;
        for (end, fd) in ends.iter().zip(&fds) {
            if fd.any() != Some(true) {
                continue;
            }
            if let Some(code) = end.and_then(|end| running.ends.code(end)) {
                return Ok(code);
            }
        }
        if let Some(opener) = &mut running.opener {
            for _ in 0..40 {
                opener
                    .take(AddressFamily::Inet, Transport::Tcp)
                    .map_err(|error| error.to_string())?;
            }
        }
        if let Some(tap) = &running.tap {
            match nix::sys::uio::readv(&tap.fd, &mut [std::io::IoSliceMut::new(&mut frame)]) {
                Ok(_) | Err(Errno::EAGAIN | Errno::EIO) => {}
                Err(_) => return Ok(1),
            }
        }
    }
}

/// Connect to what listens on the guest's loopback, more often than there are sockets at hand.
fn reach_guest(running: &mut Running) -> Result<(), String> {
    let opener = running.opener.as_mut().ok_or("no opener")?;
    for _ in 0..100 {
        let socket = opener
            .take(AddressFamily::Inet, Transport::Tcp)
            .map_err(|error| error.to_string())?;
        let address = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 7000);
        match nix::sys::socket::connect(socket.as_raw_fd(), &address) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// What the attempts need and could not be had later.
struct Before {
    network: Option<OwnedFd>,
    parent: Pid,
}

impl Before {
    fn gather() -> Self {
        let path = Path::new("/proc/1/ns/net");
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Self {
            network: open(path, flags, Mode::empty()).ok(),
            parent: nix::unistd::getppid(),
        }
    }

    /// Everything, without the table of system calls in the way.
    fn attempts(&self) {
        let names = [
            "file",
            "root",
            "proc",
            "signal",
            "identity",
            "capability",
            "namespace",
            "mount",
            "user-namespace",
            "abstract",
        ];
        for name in names {
            let result = self.attempt(name);
            eprintln!(
                "{name}: {}",
                if result.is_ok() {
                    "possible"
                } else {
                    "refused"
                }
            );
        }
    }

    fn attempt(&self, what: &str) -> Result<(), String> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let result = match what {
            "nothing" => Ok(()),
            "file" => open("/etc/passwd", flags, Mode::empty()).map(drop),
            "root" => open("/", flags, Mode::empty()).map(drop),
            "proc" => open("/proc/self/status", flags, Mode::empty()).map(drop),
            "signal" => kill(self.parent, None),
            "identity" => setuid(0.into()),
            "capability" => nix::unistd::sethostname("captured"),
            "mount" => nix::mount::umount("/"),
            "namespace" => match &self.network {
                Some(network) => setns(network.as_fd(), CloneFlags::CLONE_NEWNET),
                None => Err(Errno::ENOENT),
            },
            "user-namespace" => unshare(CloneFlags::CLONE_NEWUSER),
            "abstract" => abstract_socket(),
            "packet" => open_socket(AddressFamily::Packet),
            "netlink" => open_socket(AddressFamily::Netlink),
            "unix" => open_socket(AddressFamily::Unix),
            "internet" => open_socket(AddressFamily::Inet),
            "execute" => nix::unistd::execv(c"/bin/true", &[c"true"]).map(drop),
            other => return Err(format!("unknown attempt {other}")),
        };
        eprintln!("{what}: {result:?}");
        result.map_err(|error| error.to_string())
    }
}

fn open_socket(family: AddressFamily) -> Result<(), Errno> {
    socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map(drop)
}

/// One that the tests have opened.
fn abstract_socket() -> Result<(), Errno> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let address = nix::sys::socket::UnixAddr::new_abstract(b"usernet-test")?;
    nix::sys::socket::connect(fd.as_raw_fd(), &address)
}

fn understand(
    mut words: impl Iterator<Item = OsString>,
) -> Result<(Start, Option<String>), String> {
    let mut start = Start {
        target: Target::Command(Vec::new()),
        user_namespace: None,
        network_only: false,
        quit_with_namespace: true,
        pid_namespace: true,
        foreground: false,
        pid_file: None,
        identity: None,
        chroot_fallback: false,
        listening: Listening {
            families: Families {
                v4: Some(()),
                v6: Some(()),
            },
            ..Listening::default()
        },
        link: Some("tap0".to_owned()),
        splice: false,
        changes: false,
        configure: Some(Box::new(|| Ok(b"configured".to_vec()))),
        keep: false,
        names: false,
    };
    let mut attempt = None;
    while let Some(word) = words.next() {
        if word == "--" {
            start.target = Target::Command(words.collect());
            break;
        }
        let word = word.into_string().map_err(|_| "not UTF-8".to_owned())?;
        let (name, value) = word.split_once('=').unwrap_or((&word, ""));
        match name {
            "netns" => start.target = Target::Path(value.into()),
            "process" => {
                let pid = value.parse().map_err(|_| "process".to_owned())?;
                start.target = Target::Process(Pid::from_raw(pid));
            }
            "userns" => start.user_namespace = Some(value.into()),
            "network-only" => start.network_only = true,
            "stay" => start.quit_with_namespace = false,
            "foreground" => start.foreground = true,
            "pid" => start.pid_file = Some(value.into()),
            "link" => start.link = (!value.is_empty()).then(|| value.to_owned()),
            "splice" => start.splice = true,
            "keep" => start.keep = true,
            "attempt" => attempt = Some(value.to_owned()),
            "tcp" => start.listening.listeners.push(listener(value, Side::Host)?),
            "follow" => {
                let mut range = listener(value, Side::Host)?;
                range.follow = true;
                start.listening.listeners.push(range);
            }
            "tcp-ns" => start
                .listening
                .listeners
                .push(listener(value, Side::Guest)?),
            other => return Err(format!("unknown word {other}")),
        }
    }
    Ok((start, attempt))
}

/// `ADDRESS/PORT`, or `PORT`.
fn listener(text: &str, side: Side) -> Result<Listener, String> {
    let bad = || format!("bad listener {text}");
    let (address, port) = match text.rsplit_once('/') {
        Some((address, port)) => (Some(address.parse().map_err(|_| bad())?), port),
        None => (None, text),
    };
    let port = port.parse().map_err(|_| bad())?;
    Ok(Listener {
        side,
        transport: Transport::Tcp,
        address,
        interface: None,
        first: port,
        last: port,
        target: port,
        target_address: None,
        best_effort: false,
        follow: false,
    })
}
