//! One run, from the words of the command line to the exit code.
//!
//! ```text
//! words ─▶ cli ─┐
//!               ├─▶ config::decide ─▶ start::begin ─▶ Loop ─▶ lock_in ─▶ Loop::run ─▶ exit code
//! facts ────────┘
//! ```
//!
//! The loop is made before the sandbox closes, since it asks the kernel what it can do. Exit codes: 0 after help, after
//! the start of a daemon, and at the end of what was served; 1 if there was no start; that of the command, if there was
//! one.

use std::cell::RefCell;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;

use super::attach::{self, Target};
use super::capture::{Capture, Complaint};
use super::event_loop::{Ended, Listening, Loop, Reporter};
use super::failure::{Failure, errno};
use super::frames::Frames;
use super::listen;
use super::log::Log;
use super::options::Options;
use super::start::{self, Begun, Configure, End, Running, Start};
use super::{facts, guest};
use crate::cli::{self, Program, Request};
use crate::config::{
    Attach, Config, Decision, Families, Family, Level, Run, UserNamespace, decide,
};
use crate::event::{ListenerId, Report};
use crate::forwarder::Forwarder;
use crate::limits;

/// Descriptors that are no flow's: standard streams, the tap, what ends us, the log, and some to spare.
const OWN_DESCRIPTORS: u64 = 64;

/// Do what the words say; the exit code.
#[must_use]
pub fn main(mut words: impl Iterator<Item = OsString>) -> u8 {
    attach::prepare();
    let called = words.next();
    let (program, name) = cli::program(called.as_deref());
    let executable = called.unwrap_or_default();
    let executable = executable.to_string_lossy();
    match cli::parse(words) {
        Ok(Request::Help) => print(&cli::help(&name)),
        Ok(Request::Version) => print(&cli::version(&name)),
        Err(error) => complain(&format!("{name}: {error}\n{}", cli::help(&name))),
        Ok(Request::Run(_)) if program != Program::Namespace => complain(&format!(
            "{name}: only network namespaces are served, and by the command line of pasta\n"
        )),
        Ok(Request::Run(options)) => {
            let decision = facts::read()
                .map_err(|error| error.to_string())
                .and_then(|facts| decide(&options, &facts).map_err(|error| error.to_string()));
            match decision {
                Ok(decision) => serve(decision, &name, &executable),
                Err(text) => complain(&format!("{text}\n")),
            }
        }
    }
}

/// Who does not listen does not want to know.
fn print(text: &str) -> u8 {
    std::io::stdout()
        .write_all(text.as_bytes())
        .unwrap_or_default();
    0
}

fn complain(text: &str) -> u8 {
    std::io::stderr()
        .write_all(text.as_bytes())
        .unwrap_or_default();
    1
}

fn serve(decision: Decision, name: &str, executable: &str) -> u8 {
    let Decision {
        config,
        run,
        notices,
    } = decision;
    let version = env!("CARGO_PKG_VERSION");
    let mut log = match Log::open(&run, name, version, executable) {
        Ok(log) => log,
        Err(error) => return complain(&format!("Couldn't open log file: {error}\n")),
    };
    log.notices(&notices);
    let capture = match capture(&run, &mut log) {
        Ok(capture) => capture,
        Err(failure) => return fail(&mut log, &failure),
    };
    let begun = start(&config, &run).and_then(start::begin);
    match begun {
        Ok(Begun::Starter(code)) => code,
        Ok(Begun::Running(running)) => forward(config, &run, *running, log, capture),
        Err(failure) => fail(&mut log, &failure),
    }
}

fn capture(run: &Run, log: &mut Log) -> Result<Option<Capture>, Failure> {
    let Some(path) = &run.pcap else {
        return Ok(None);
    };
    let shown = path.display();
    let what = Failure::of(format!("Couldn't open pcap file {shown}"));
    let capture = Capture::create(path).map_err(|error| what(errno(&error)))?;
    log.write(Level::Info, &format!("Saving packet capture to {shown}"));
    Ok(Some(capture))
}

fn fail(log: &mut Log, failure: &Failure) -> u8 {
    log.write(Level::Error, &failure.to_string());
    1
}

/// What the decision means to the start.
fn start(config: &Config, run: &Run) -> Result<Start, Failure> {
    let target = match &run.attach {
        Attach::Path(path) => Target::Path(path.clone()),
        Attach::Process(number) => {
            let number = i32::try_from(*number);
            let number = number.map_err(|_| Failure::Told("Invalid PID".to_owned()))?;
            Target::Process(Pid::from_raw(number))
        }
        Attach::Command(words) => Target::Command(words.clone()),
    };
    let user_namespace = match &run.userns {
        UserNamespace::Join(path) => Some(path.clone()),
        UserNamespace::Stay | UserNamespace::New => None,
    };
    Ok(Start {
        target,
        user_namespace,
        network_only: run.userns == UserNamespace::Stay,
        quit_with_namespace: !run.stay_without_netns,
        pid_namespace: !run.no_pidns,
        foreground: run.foreground,
        pid_file: run.pid_file.clone(),
        identity: run.run_as.as_ref().map(attach::identify).transpose()?,
        chroot_fallback: run.chroot_fallback,
        listening: listen::Listening {
            listeners: config.listeners.clone(),
            families: Families {
                v4: config.families.v4.as_ref().map(|_| ()),
                v6: config.families.v6.as_ref().map(|_| ()),
            },
            freebind: run.freebind,
        },
        link: (!config.splice_only).then(|| config.link.name.clone()),
        splice: config.splice,
        configure: Some(configure(config.clone(), run)),
    })
}

/// The guest's side. Returns its link-layer address.
fn configure(config: Config, run: &Run) -> Configure {
    let (config_net, verbosity) = (run.config_net, run.verbosity);
    Box::new(move || {
        let guest = guest::configure(&config, config_net)
            .map_err(|error| Failure::Told(error.to_string()))?;
        if verbosity >= Level::Info {
            for route in &guest.left_out {
                let destination = route.destination;
                complain(&format!("Couldn't copy route to {destination}: left out\n"));
            }
        }
        Ok(guest.mac.map(Vec::from).unwrap_or_default())
    })
}

/// In the process that forwards, until the end.
fn forward(
    config: Config,
    run: &Run,
    mut running: Running,
    log: Log,
    mut capture: Option<Capture>,
) -> u8 {
    let in_background = running.in_background();
    let log = Rc::new(RefCell::new(log));
    if let Some(capture) = &mut capture {
        capture.on_failure(complaint(Rc::clone(&log)));
    }
    let report = reporter(Rc::clone(&log));
    let forwarding = assemble(config, run, &mut running, report, capture)
        .and_then(|forwarding| running.lock_in().map(|()| forwarding));
    if in_background {
        log.borrow_mut().to_background();
    }
    match forwarding.and_then(|forwarding| last(forwarding, &running)) {
        Ok(code) => code,
        Err(failure) => fail(&mut log.borrow_mut(), &failure),
    }
}

/// Everything that was opened becomes the loop's.
fn assemble(
    mut config: Config,
    run: &Run,
    running: &mut Running,
    report: Reporter,
    capture: Option<Capture>,
) -> Result<Loop, Failure> {
    let what = || Failure::of("Couldn't wait for events");
    let configured: Option<[u8; 6]> = running.configured.as_slice().try_into().ok();
    config.link.guest_mac = config.link.guest_mac.or(configured);
    // Keyed by what the system gave to this process.
    let seed = RandomState::new().build_hasher().finish();
    let mut forwarder = Forwarder::new(&config, seed);
    forwarder.limit_flows(most_flows(running.listeners.len()));
    let frames = running.tap.take();
    let frames = frames.map(|tap| Frames::new(tap.fd, tap.negotiated.abilities(), capture));
    let opener = running.opener.take();
    let options = socket_options(&config, run);
    let mut forwarding = Loop::new(forwarder, frames, options, opener, report).map_err(what())?;
    for (_, bound) in running.listeners.drain(..) {
        let Some(range) = config.listeners.get(bound.listener as usize) else {
            continue;
        };
        let listening = Listening {
            fd: bound.fd,
            transport: range.transport,
            range: ListenerId(bound.listener),
        };
        forwarding.listen(listening).map_err(what())?;
    }
    for (end, fd) in running.ends.descriptors() {
        forwarding.watch(end as u32, fd).map_err(what())?;
    }
    Ok(forwarding)
}

fn socket_options(config: &Config, run: &Run) -> Options {
    let device = |family: &Option<Family>| family.as_ref()?.outbound_interface.clone();
    Options {
        device_v4: device(&config.families.v4),
        device_v6: device(&config.families.v6),
        freebind: run.freebind,
        ..Options::default()
    }
    .probe()
}

/// A flow of the tap has one descriptor.
fn most_flows(listeners: usize) -> u32 {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let left = most.saturating_sub(OWN_DESCRIPTORS.saturating_add(listeners as u64));
    u32::try_from(left).map_or(limits::FLOWS, |left| left.min(limits::FLOWS))
}

/// Forward until one of the ends; its exit code.
fn last(mut forwarding: Loop, running: &Running) -> Result<u8, Failure> {
    loop {
        let ended = forwarding.run();
        match ended.map_err(Failure::of("Couldn't wait for events"))? {
            // The end of everything may have been told of in the same moment.
            Ended::Tap => {
                let gone = || Failure::Told("The guest's interface is gone".to_owned());
                return running.ends.any().ok_or_else(gone);
            }
            Ended::Watch(number) => {
                let code = End::of(number).and_then(|end| running.ends.code(end));
                if let Some(code) = code {
                    return Ok(code);
                }
            }
        }
    }
}

/// What there is to say of a capture that ends too early.
fn complaint(log: Rc<RefCell<Log>>) -> Complaint {
    Box::new(move |error| {
        let why = errno(&error).desc();
        let text = format!("Couldn't write to the pcap file: {why}; it ends here");
        log.borrow_mut().write(Level::Warning, &text);
    })
}

/// What the forwarder has to tell, told as often as a disk bears.
fn reporter(log: Rc<RefCell<Log>>) -> Reporter {
    Box::new(move |report| {
        let (site, level, text) = match report {
            Report::TableFull { limit, evicted } => {
                let how = if evicted {
                    "the oldest idle one gives way"
                } else {
                    "no new ones"
                };
                let text = format!("There are {limit} flows, as many as there may be: {how}");
                ("table", Level::Warning, text)
            }
            Report::TooMuchKept => {
                let most = limits::KEPT_CROWDED >> 20;
                let text = format!(
                    "More than {most} MiB wait for peers that read nothing: the oldest connection to one of them is reset"
                );
                ("kept", Level::Warning, text)
            }
            Report::NoSocket {
                transport,
                to,
                error,
            } => {
                let why = Errno::from_raw(error.0).desc();
                let text = format!("Couldn't open a {transport:?} socket to {to}: {why}");
                ("socket", Level::Warning, text)
            }
            Report::Dropped(why) => ("dropped", Level::Trace, format!("Dropped: {why:?}")),
        };
        log.borrow_mut().limited(Instant::now(), site, level, &text);
    })
}
