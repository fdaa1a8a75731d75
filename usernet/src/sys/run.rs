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
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::attach::{self, Target};
use super::capture::{Capture, Complaint};
use super::chores::{Chores, Rules};
use super::control::{self, Control};
use super::event_loop::{Ended, Loop, Reporter};
use super::failure::{Failure, errno};
use super::follow::{Followed, Follower, link_names};
use super::frames::{Frames, Tracer};
use super::listen;
use super::listeners::{Listeners, most_listeners};
use super::log::Log;
use super::neighbours::Neighbours;
use super::opener::{Opener, Sizes};
use super::options::Options;
use super::start::{self, Begun, Configure, End, Running, Start};
use super::{facts, guest, process, questions, resting, trim};
use crate::cli::{self, Options as Words, Program, Request};
use crate::config::{
    Attach, Config, Decision, Families, Family, Level, Notice, Run, UserNamespace, change, decide,
};
use crate::control::plain;
use crate::event::{Limited, Report, Transport};
use crate::forwarder::Forwarder;
use crate::limits;
use crate::ports::Surroundings;

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
    let mut words = words.peekable();
    // Another name has pasta's words and no others.
    if name == "usernet" && words.next_if(|word| word == "stats").is_some() {
        return stats(&name, words);
    }
    match cli::parse(words) {
        Ok(Request::Help) => print(&cli::help(&name)),
        Ok(Request::Version) => print(&cli::version(&name)),
        Err(error) => complain(&format!("{name}: {error}\n{}", cli::help(&name))),
        Ok(Request::Run(_)) if program != Program::Namespace => complain(&format!(
            "{name}: only network namespaces are served, and by the command line of pasta\n"
        )),
        Ok(Request::Run(options)) => match follow_from(options) {
            Ok((decision, followed)) => serve(decision, followed, &name, &executable),
            Err(text) => complain(&format!("{text}\n")),
        },
    }
}

/// Ask running instances.
fn stats(name: &str, words: impl Iterator<Item = OsString>) -> u8 {
    match cli::stats::parse(words) {
        Ok(cli::stats::Request::Help) => print(&cli::stats::help(name)),
        Ok(cli::stats::Request::Of(options)) => match questions::stats(&options) {
            Ok((text, problems)) if problems.is_empty() => print(&text),
            Ok((text, problems)) => {
                print(&text);
                complain(&format!("{problems}\n"))
            }
            Err(error) => complain(&format!("{name}: {error}\n")),
        },
        Err(error) => complain(&format!("{name}: {error}\n{}", cli::stats::help(name))),
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

/// What is decided, and what it was decided from.
fn follow_from(options: Words) -> Result<(Decision, Followed), String> {
    let mut facts = facts::read().map_err(|error| error.to_string())?;
    let decision = decide(&options, &facts).map_err(|error| error.to_string())?;
    let links = super::follow::links(&decision.config, &facts.links);
    let seen = Instant::now();
    let until = change::routers_silent_until(&decision.config, &facts, seen);
    (facts.links, facts.addresses, facts.routes) = Default::default();
    let followed = Followed {
        links,
        until,
        seen,
        options,
        facts,
        config: decision.config.clone(),
        resolvers: decision.resolvers.clone(),
    };
    Ok((decision, followed))
}

fn serve(decision: Decision, followed: Followed, name: &str, executable: &str) -> u8 {
    let Decision {
        config,
        run,
        notices,
        resolvers: _,
    } = decision;
    let version = env!("CARGO_PKG_VERSION");
    let mut log = match Log::open(&run, name, version, executable) {
        Ok(log) => log,
        Err(error) => {
            let path = run.log_file.as_ref().map(|file| file.path.as_path());
            let shown = path.unwrap_or_else(|| Path::new("")).display();
            let why = errno(&error).desc();
            return complain(&format!("Couldn't open log file {shown}: {why}\n"));
        }
    };
    log.notices(&notices);
    let opened = match open(&run, &mut log) {
        Ok(opened) => opened,
        Err(failure) => return fail(&mut log, &failure),
    };
    match start(&config, &run, &followed).and_then(start::begin) {
        Ok(Begun::Starter(code)) => code,
        Ok(Begun::Running(running)) => forward(config, &run, followed, *running, log, opened),
        Err(failure) => {
            // Who calls again would replace it anyway.
            let path = run.conf_path.as_deref();
            path.map_or(Ok(()), std::fs::remove_file)
                .unwrap_or_default();
            fail(&mut log, &failure)
        }
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

/// What is opened by its path, which later cannot be reached.
struct Opened {
    control: Option<OwnedFd>,
    capture: Option<Capture>,
}

fn open(run: &Run, log: &mut Log) -> Result<Opened, Failure> {
    let capture = capture(run, log)?;
    let control = run.conf_path.as_deref().map(control::bind).transpose()?;
    if let Some(path) = &run.conf_path {
        let text = format!("Configuration socket: {}", path.display());
        log.write(Level::Info, &text);
    }
    Ok(Opened { control, capture })
}

fn fail(log: &mut Log, failure: &Failure) -> u8 {
    log.write(Level::Error, &failure.to_string());
    1
}

/// What the decision means to the start.
fn start(config: &Config, run: &Run, followed: &Followed) -> Result<Start, Failure> {
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
    let listening = listening(config, run);
    enough_descriptors(&listening)?;
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
        listening,
        link: (!config.splice_only).then(|| config.link.name.clone()),
        splice: config.splice,
        changes: run.conf_path.is_some(),
        configure: Some(configure(config.clone(), run)),
        keep: run.config_net && followed.waits(),
        names: followed.names(),
    })
}

fn listening(config: &Config, run: &Run) -> listen::Listening {
    listen::Listening {
        listeners: config.listeners.clone(),
        families: Families {
            v4: config.families.v4.as_ref().map(|_| ()),
            v6: config.families.v6.as_ref().map(|_| ()),
        },
        freebind: run.freebind,
        most: usize::try_from(most_listeners(descriptors(own_descriptors()))).ok(),
    }
}

/// The guest's side. Returns its link-layer address.
fn configure(config: Config, run: &Run) -> Configure {
    let (config_net, verbosity) = (run.config_net, run.verbosity);
    Box::new(move || {
        let guest = guest::configure(&config, config_net).map_err(|error| {
            let failure = Failure::Told(error.to_string());
            match guest::remedy(&error) {
                Some(remedy) => failure.and(remedy),
                None => failure,
            }
        })?;
        if verbosity >= Level::Info {
            for route in &guest.left_out {
                let destination = route.destination;
                complain(&format!("Couldn't copy route to {destination}: left out\n"));
            }
        }
        Ok(configured(&guest))
    })
}

/// What the process that forwards is to know of the guest: whether it has to do without IPv6, its link-layer address, and
/// the link-local one that follows from it or was made otherwise.
fn configured(guest: &guest::Guest) -> Vec<u8> {
    let mut bytes = vec![u8::from(guest.without_v6)];
    bytes.extend(guest.mac.iter().flatten());
    if let (Some(_), Some(address)) = (guest.mac, guest.link_local) {
        bytes.extend(address.octets());
    }
    bytes
}

/// The same, read.
fn known(configured: &[u8]) -> guest::Guest {
    let (without_v6, rest) = configured.split_first().unwrap_or((&0, &[]));
    let mac = rest.split_first_chunk::<6>();
    let link_local = mac.and_then(|(_, rest)| <[u8; 16]>::try_from(rest).ok());
    guest::Guest {
        without_v6: *without_v6 != 0,
        mac: mac.map(|(mac, _)| *mac),
        link_local: link_local.map(Ipv6Addr::from),
        ..guest::Guest::default()
    }
}

/// The guest cannot have IPv6, and gets what it would get on a host without it.
fn do_without_v6(config: &mut Config, now: &mut Followed) -> Notice {
    (now.facts.ipv6, now.links.v6) = (false, None);
    for config in [config, &mut now.config] {
        config.families.v6 = None;
    }
    let text = "IPv6 is switched off in the guest's namespace (net.ipv6.conf.all.disable_ipv6=1): it has IPv4 only";
    Notice {
        level: Level::Warning,
        text: text.to_owned(),
    }
}

/// In the process that forwards, until the end.
fn forward(
    mut config: Config,
    run: &Run,
    mut now: Followed,
    mut running: Running,
    log: Log,
    mut opened: Opened,
) -> u8 {
    let in_background = running.in_background();
    let log = Rc::new(RefCell::new(log));
    if known(&running.configured).without_v6 {
        let notice = do_without_v6(&mut config, &mut now);
        log.borrow_mut().notices(&[notice]);
    }
    if let Some(capture) = &mut opened.capture {
        capture.on_failure(complaint(Rc::clone(&log)));
    }
    let forwarding =
        assemble(config, run, &mut running, &log, opened).and_then(|(mut forwarding, chores)| {
            forwarding.begin(now.resolvers.clone(), now.links.clone());
            let neighbours = neighbours(&now, &log, &mut forwarding)?;
            let follower = follow(now, run, &mut running, &mut forwarding)?;
            log.borrow_mut().hurry();
            running.lock_in()?;
            Ok((forwarding, chores, follower, neighbours))
        });
    let (forwarding, chores, follower, neighbours) = match forwarding {
        Ok(ready) => ready,
        // Standard error is still there: it is let go of last, by what cannot fail afterwards.
        Err(failure) => return fail(&mut log.borrow_mut(), &failure),
    };
    if in_background {
        log.borrow_mut().to_background();
    }
    match last(forwarding, chores, follower, neighbours, &running, &log) {
        Ok(code) => code,
        Err(failure) => fail(&mut log.borrow_mut(), &failure),
    }
}

/// Everything that was opened becomes the loop's.
fn assemble(
    mut config: Config,
    run: &Run,
    running: &mut Running,
    log: &Rc<RefCell<Log>>,
    opened: Opened,
) -> Result<(Loop, Chores), Failure> {
    let what = || Failure::of("Couldn't wait for events");
    let guest = known(&running.configured);
    config.link.guest_mac = config.link.guest_mac.or(guest.mac);
    // Keyed by what the system gave to this process.
    let seed = RandomState::new().build_hasher().finish();
    let mut forwarder = Forwarder::new(&config, seed);
    if let Some(address) = guest.link_local {
        forwarder.has_link_local(address);
    }
    let opener = running.opener.take();
    let of_opener = opener.as_ref().map_or(0, Opener::descriptors);
    let own = OWN_DESCRIPTORS.saturating_add(of_opener as u64);
    let frames = running.tap.take();
    let capture = opened.capture;
    let mut frames = frames.map(|tap| Frames::new(tap, capture));
    if let Some(frames) = frames.as_mut().filter(|_| run.verbosity >= Level::Trace) {
        frames.trace(tracer(Rc::clone(log)));
    }
    let options = socket_options(&config, run);
    let report = reporter(Rc::clone(log));
    let mut forwarding = Loop::new(forwarder, frames, options, opener, report).map_err(what())?;
    for (end, fd) in running.ends.descriptors() {
        forwarding.watch(end as u32, fd).map_err(what())?;
    }
    let (chores, notices) = chores(
        &config,
        run,
        running,
        descriptors(own),
        opened.control,
        &mut forwarding,
    )?;
    log.borrow_mut().notices(&notices);
    Ok((forwarding, chores))
}

/// What is to be done beside forwarding, and what there is to say about it already.
fn chores(
    config: &Config,
    run: &Run,
    running: &mut Running,
    descriptors: u64,
    control: Option<OwnedFd>,
    forwarding: &mut Loop,
) -> Result<(Chores, Vec<Notice>), Failure> {
    let what = || Failure::of("Couldn't wait for events");
    let control = control.map(|socket| Control::new(socket, forwarding));
    let control = control.transpose().map_err(what())?;
    let surroundings = Surroundings {
        v4: config.families.v4.is_some(),
        v6: config.families.v6.is_some(),
        ephemeral: (0, 0), // is a matter of specifications, which clients understand themselves
    };
    let mut listening = listening(config, run);
    for rule in &mut listening.listeners {
        rule.address = plain(rule.address, surroundings);
    }
    let bound = running.listeners.drain(..).map(|(_, bound)| bound);
    let bound = bound.collect();
    let diagnosis = std::mem::take(&mut running.diagnosis);
    let listeners = Listeners::new(listening, descriptors, bound, diagnosis, forwarding);
    let listeners = listeners.map_err(what())?;
    let seconds = run.stats.filter(|seconds| *seconds > 0);
    let rules = Rules {
        surroundings,
        off: config.off,
        stats: seconds.map(|seconds| Duration::from_secs(seconds.into())),
    };
    Ok(Chores::new(listeners, control, rules, forwarding))
}

/// Begin to follow the host.
fn follow(
    now: Followed,
    run: &Run,
    running: &mut Running,
    forwarding: &mut Loop,
) -> Result<Follower, Failure> {
    let keeper = running.keeper.take();
    let time = Instant::now();
    let names = now.names();
    let follower = Follower::open(now, run.config_net, keeper, &mut running.ends, time)
        .map_err(|error| Failure::Told(error.to_string()))?;
    for (number, fd) in follower.descriptors() {
        forwarding
            .watch(number, fd)
            .map_err(Failure::of("Couldn't wait for events"))?;
    }
    if names {
        // It may have changed between being read and being watched.
        forwarding.ask_names();
    }
    Ok(follower)
}

/// Begin to watch the host's neighbours, if the guest may have any.
fn neighbours(
    now: &Followed,
    log: &RefCell<Log>,
    forwarding: &mut Loop,
) -> Result<Option<Neighbours>, Failure> {
    if now.config.splice_only {
        return Ok(None);
    }
    let names = link_names(&now.config);
    let neighbours = match Neighbours::open(names, now.links.clone()) {
        Ok(neighbours) => neighbours,
        Err(error) => {
            log.borrow_mut().write(Level::Warning, &error.to_string());
            return Ok(None);
        }
    };
    forwarding
        .watch(Neighbours::NUMBER, neighbours.fd())
        .map_err(Failure::of("Couldn't wait for events"))?;
    Ok(Some(neighbours))
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

/// What the limit of open files leaves to flows and listeners.
fn descriptors(own: u64) -> u64 {
    process::most_descriptors().saturating_sub(own)
}

/// Descriptors that are neither flows' nor listeners', at most.
fn own_descriptors() -> u64 {
    OWN_DESCRIPTORS + Sizes::of(process::most_descriptors()).descriptors()
}

/// Whether the limit of open files leaves enough to flows that a guest is served at all.
fn enough_descriptors(listening: &listen::Listening) -> Result<(), Failure> {
    let most = process::most_descriptors();
    let least = own_descriptors() + listening.needed() as u64 + limits::FLOW_DESCRIPTORS;
    if most >= least {
        return Ok(());
    }
    Err(Failure::Told(format!(
        "The limit of open files (RLIMIT_NOFILE, ulimit -Hn) is {most}, and at least {least} are needed: raise it for who \
         starts us (ulimit -n, LimitNOFILE= of a service)"
    )))
}

/// Forward until one of the ends; its exit code.
fn last(
    mut forwarding: Loop,
    mut chores: Chores,
    mut follower: Follower,
    mut neighbours: Option<Neighbours>,
    running: &Running,
    log: &RefCell<Log>,
) -> Result<u8, Failure> {
    // Who waited until we are ready has not waited for them. The kernel answers at once.
    if let Some(neighbours) = &mut neighbours {
        neighbours.ask();
        hear(
            Neighbours::NUMBER,
            neighbours,
            &mut follower,
            &mut forwarding,
        );
    }
    // That was the last thing that is done once.
    trim::unmap_code();
    loop {
        forwarding.look_at(follower.deadline());
        let ended = forwarding.run();
        let mut notices = Vec::new();
        let news = match ended.map_err(Failure::of("Couldn't wait for events"))? {
            // The end of everything may have been told of in the same moment.
            Ended::Tap => {
                let gone = || Failure::Told("The guest's interface is gone".to_owned());
                return running.ends.any().ok_or_else(gone);
            }
            Ended::Due => {
                notices = chores.due(&mut forwarding);
                None
            }
            Ended::Watch(number) => {
                let code = End::of(number).and_then(|end| running.ends.code(end));
                if let Some(code) = code {
                    return Ok(code);
                }
                if running.ends.heard() || follower.hears(number) {
                    forwarding.ask_names();
                }
                if let Some(neighbours) = &mut neighbours {
                    hear(number, neighbours, &mut follower, &mut forwarding);
                }
                if let Some(question) = running.ends.question() {
                    chores.asked(question, &mut forwarding);
                }
                notices = chores.ready(number, &mut forwarding);
                follower.ready(number, Instant::now())
            }
            Ended::Look => follower.due(Instant::now()),
            Ended::Names => forwarding.names().and_then(|text| follower.names(text)),
        };
        if let Some(news) = news {
            if let Some(neighbours) = &mut neighbours {
                let names = link_names(&news.config);
                forwarding.neighbours(neighbours.follow(names, &news.links));
            }
            forwarding.reconfigure(&news.config, news.resolvers, news.links);
            notices.extend(news.notices);
        }
        log.borrow_mut().notices(&notices);
    }
}

/// Something may have become of the host's neighbours, or of its links.
fn hear(number: u32, neighbours: &mut Neighbours, follower: &mut Follower, forwarding: &mut Loop) {
    if number != Neighbours::NUMBER {
        return;
    }
    let heard = neighbours.hear();
    forwarding.neighbours(heard.news);
    if let Some(links) = heard.links {
        follower.moved(&links);
        forwarding.move_links(links);
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

fn no_socket(transport: Transport, to: SocketAddr, error: Errno) -> String {
    let why = error.desc();
    let (what, to) = match transport {
        Transport::Tcp => ("a TCP", to.to_string()),
        Transport::Udp => ("a UDP", to.to_string()),
        Transport::Echo => ("an echo", to.ip().to_string()),
    };
    let hint = match (transport, error) {
        (Transport::Echo, Errno::EACCES) => {
            "; sysctl -w net.ipv4.ping_group_range='0 2147483647' on the host lets everybody ping"
        }
        _ => "",
    };
    format!("Couldn't open {what} socket to {to}: {why}{hint}")
}

fn no_room(limit: u32, of: Limited, evicted: bool) -> String {
    let full = match of {
        Limited::Flows => format!("There are {limit} flows, as many as there may be"),
        Limited::HalfOpen => format!("{limit} connections begin, as many as may do so at once"),
        Limited::Port(port) => {
            format!("{limit} UDP flows have port {port}, as many as may share one")
        }
        Limited::Descriptors => format!(
            "The limit of open files (RLIMIT_NOFILE, ulimit -n) leaves {limit} to flows, which have them all"
        ),
    };
    let how = if evicted {
        "the one that is missed least gives way"
    } else {
        "no new ones"
    };
    format!("{full}: {how}")
}

/// A line for each frame, which was asked for and is therefore not limited.
fn tracer(log: Rc<RefCell<Log>>) -> Tracer {
    Box::new(move |line| log.borrow_mut().write(Level::Trace, line))
}

/// What the forwarder has to tell, told as often as a disk bears.
fn reporter(log: Rc<RefCell<Log>>) -> Reporter {
    Box::new(move |report| {
        let (site, level, text) = match report {
            Report::TableFull { limit, of, evicted } => {
                let site = if evicted { "evicted" } else { "refused" };
                (site, Level::Warning, no_room(limit, of, evicted))
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
                let error = Errno::from_raw(error.0);
                ("socket", Level::Warning, no_socket(transport, to, error))
            }
            Report::NoGuestSockets => {
                let text = "Our process in the guest's namespace is gone: new connections through loopback are refused, \
                            and changes of resolv.conf go unnoticed; restart the container";
                ("opener", Level::Warning, text.to_owned())
            }
            Report::GuestSocketsLate => {
                let text = "Our process in the guest's namespace does not answer: new connections through loopback are \
                            refused until it does";
                ("late", Level::Warning, text.to_owned())
            }
            Report::NotAccepted { error } => {
                let error = Errno::from_raw(error.0);
                let text = format!(
                    "Couldn't accept a connection: {}{}; listeners pause for {} ms at a time",
                    error.desc(),
                    resting::limit(error),
                    limits::ACCEPT_PAUSE.as_millis()
                );
                ("accept", Level::Warning, text)
            }
            Report::Dropped(why) => ("dropped", Level::Trace, format!("Dropped: {why:?}")),
        };
        log.borrow_mut().limited(Instant::now(), site, level, &text);
    })
}
