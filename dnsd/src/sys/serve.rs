//! The main thread: begins, waits for what may change, and ends with the last network.
//!
//! Waking it are signals, changes of files, timers, and questions that workers want to be asked by TCP: see
//! `Event`. Data is published before sockets are opened and closed, so no query sees less than it should.
//!
//! When the last network goes, a signal says so, and the program ends. If only the watch has seen it, the signal
//! is about to come and its sender counts on the pid file: then the program stays for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ask::{COUNTERSIGN, Form, Question};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::daemon::{self, PidFile};
use super::files::{self, Directory, Seen};
use super::listen::{self, BindError, Sockets};
use super::log::News;
use super::shared::{Shared, State};
use super::tcp::Tcp;
use super::watch::{Changed, Watch};
use super::worker::{self, Command, Handle, TcpJob};
use super::{log, metrics, raw, sandbox};
use crate::account::{Account, Network};
use crate::answer::{Policy, SearchDomain};
use crate::forward::Health;
use crate::listeners;
use crate::load::{self, Files};
use crate::{cli, limits};

/// How long an address may take to come up at start.
const COMING_UP: Duration = Duration::from_millis(900);

/// Changes of `resolv.conf` within this are one.
const SETTLE: Duration = Duration::from_millis(50);

/// Changes of the directory within this are one.
const GATHER: Duration = Duration::from_millis(2);

/// When to look again for want of descriptors.
const SHORTAGE: Duration = Duration::from_secs(1);

/// When everything that belongs to the start has been done.
const SETTLED: Duration = Duration::from_millis(200);

/// How long to wait for the signal when the watch has seen the last network go.
const LINGER: Duration = Duration::from_secs(2);

/// How long who asks what we do may take to listen.
const ANSWERING: Duration = Duration::from_secs(2);

/// Questions that fail most, in the state that is written to the log.
const TOP: usize = 20;

/// What wakes the main thread.
enum Event {
    Signal(Signal),
    Asked(Question),
    Changed(Changed),
    Job(TcpJob),
    Metrics(tokio::net::UnixStream),
    Timer,
}

/// Serves a directory until its last network is gone.
///
/// # Errors
/// It cannot be served. Once the starter has been told that we are ready, the log says so, too, and the pid file gets
/// a number that makes whoever needs us start us again.
pub fn run(options: &cli::Options) -> anyhow::Result<()> {
    let Some(parent) = daemon::fork()? else {
        return Ok(());
    };
    raw::return_memory();
    let Some(mut prepared) = prepare(options)? else {
        parent.ready();
        return Ok(());
    };
    parent.detach(&prepared.null)?;
    if let Err(error) = raw::drop_capabilities() {
        tracing::warn!("capabilities stay as they are: {error}");
    }
    prepared.directory.settle();
    parent.ready();
    let directory = prepared.directory.clone();
    let served = serve(prepared, options);
    if let Err(error) = &served {
        tracing::error!("{error:#}");
        PidFile::of(directory.way()).disown();
    }
    served
}

/// What has to be there before we are ready.
struct Prepared {
    null: std::fs::File,
    directory: Directory,
    files: Files,
    shared: Arc<Shared>,
    host_servers: Vec<SocketAddr>,
    problems: News,
    servers_problems: News,
    metrics: Option<metrics::Bound>,
    sockets: Vec<(IpAddr, Sockets)>,
    workers: usize,
}

/// Reads all files and binds all sockets. Nothing if there is no network.
fn prepare(options: &cli::Options) -> anyhow::Result<Option<Prepared>> {
    let path = std::path::absolute(&options.config).context("the configuration directory")?;
    let directory = Directory::open(path.clone());
    let mut files = Files::default();
    let seen =
        files::first_look(&path, &mut files).with_context(|| format!("read {}", path.display()))?;
    if !seen.networks {
        return Ok(None);
    }
    let mut problems = News::default();
    for problem in problems.fresh(files.problems()) {
        tracing::warn!("{problem}");
    }
    let zones = files.zones();
    if zones.networks().is_empty() {
        let problems: Vec<_> = files.problems().collect();
        let (directory, problems) = (path.display(), problems.join("; "));
        bail!("no usable network in {directory}: {problems}");
    }
    raise_limit();
    let workers = worker_count();
    let wanted: BTreeSet<IpAddr> = zones.listen().collect();
    let sockets = open_all(&wanted, options.port, workers)?;
    let (host_servers, found) = files::host_servers(Path::new(files::RESOLV_CONF));
    let mut servers_problems = News::default();
    for problem in servers_problems.fresh(found.into_iter()) {
        tracing::warn!("{}: {problem}", files::RESOLV_CONF);
    }
    let null = daemon::null()?;
    check_limit(&null)?;
    PidFile::of(&path).claim(&path)?;
    let host_servers = host_servers.unwrap_or_default();
    let state = State {
        zones,
        policy: policy(&options.filter_search_domain),
        host_servers: host_servers.clone().into(),
    };
    let cache_bytes = number("DNSD_CACHE_BYTES").unwrap_or(limits::CACHE_BYTES);
    Ok(Some(Prepared {
        null,
        directory,
        files,
        shared: Arc::new(Shared::new(state, cache_bytes)),
        host_servers,
        problems,
        servers_problems,
        metrics: metrics(),
        sockets,
        workers,
    }))
}

fn serve(prepared: Prepared, options: &cli::Options) -> anyhow::Result<()> {
    drop(prepared.null);
    // Before there are threads: each confines only itself and those that it starts.
    let beside = prepared
        .metrics
        .as_ref()
        .and_then(metrics::Bound::directory);
    let directories = std::iter::once(prepared.directory.way()).chain(beside);
    if let Err(error) = sandbox::confine(directories) {
        tracing::warn!("files are not out of reach: {error:#}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let _entered = runtime.enter();
    let (sender, jobs) = tokio::sync::mpsc::channel(limits::WAITING_TCP);
    let workers: anyhow::Result<Vec<_>> = (0..prepared.workers)
        .map(|n| worker::start(n, &prepared.shared, sender.clone()))
        .collect();
    let mut main = Main {
        port: options.port,
        domain: options.filter_search_domain.clone(),
        watch: watch(prepared.directory.way()),
        changed: BTreeSet::new(),
        pid_file: PidFile::of(prepared.directory.way()),
        directory: prepared.directory,
        files: prepared.files,
        tcp: Arc::new(Tcp::new(prepared.shared.clone())),
        shared: prepared.shared,
        workers: workers.context("start a thread")?,
        running: BTreeMap::new(),
        next_key: worker::FIRST_LISTENER,
        host_servers: prepared.host_servers,
        problems: prepared.problems,
        servers_problems: prepared.servers_problems,
        directory_problems: News::default(),
        metrics: prepared.metrics.and_then(|bound| bound.listen().ok()),
        timers: Timers::after_start(),
        bind_pause: SETTLE,
        began: Instant::now(),
        answering: None,
    };
    runtime.block_on(main.begin(prepared.sockets, jobs))
}

/// What the environment says about answers.
#[must_use]
pub fn policy(domain: &str) -> Policy {
    let off = |name: &str| super::variable(name).is_some_and(|value| value == "off");
    Policy {
        domain: SearchDomain::new(domain),
        forward: super::variable("AARDVARK_NO_PROXY").is_none(),
        rotate: !off("DNSD_ROTATE"),
        host_names: !off("DNSD_HOST_NAMES"),
    }
}

fn number(name: &str) -> Option<usize> {
    super::variable(name)?.parse().ok()
}

/// Half the processors: the askers need the others, and larger batches cost less a query.
fn worker_count() -> usize {
    let mask = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let processors = (0..CpuSet::count()).filter(|n| mask.is_set(*n) == Ok(true));
    let processors = processors.count();
    number("DNSD_WORKERS").unwrap_or(processors / 2).clamp(1, 4)
}

/// Each listen address takes a descriptor for each worker and one for TCP.
fn raise_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 16), hard);
    }
}

/// Threads, watches and signals take descriptors after the starter has gone.
fn check_limit(last: &std::fs::File) -> anyhow::Result<()> {
    const MORE: u64 = 24;
    let used = u64::try_from(last.as_raw_fd()).unwrap_or_default();
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of descriptors")?;
    if limit < used + MORE {
        bail!(
            "the limit of descriptors (ulimit -n) is {limit}, at least {} are needed",
            used + MORE
        );
    }
    Ok(())
}

fn metrics() -> Option<metrics::Bound> {
    let path = super::variable("DNSD_METRICS")?;
    metrics::bind(Path::new(&path))
        .map_err(|error| tracing::warn!("no counters at {path}: {error}"))
        .ok()
}

fn watch(directory: &Path) -> Option<Watch> {
    match Watch::new(directory, Path::new(files::RESOLV_CONF)) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!("changes of files are not seen without a signal: {error}");
            None
        }
    }
}

fn open_all(
    wanted: &BTreeSet<IpAddr>,
    port: u16,
    workers: usize,
) -> anyhow::Result<Vec<(IpAddr, Sockets)>> {
    let deadline = Instant::now() + COMING_UP;
    let mut opened = Vec::new();
    let mut errors: Vec<BindError> = Vec::new();
    for address in wanted {
        loop {
            match listen::open(*address, port, workers) {
                Ok(sockets) => opened.push((*address, sockets)),
                Err(error) if error.may_pass() && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                Err(error) => errors.push(error),
            }
            break;
        }
    }
    if errors.is_empty() {
        return Ok(opened);
    }
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    bail!("{}", lines.join("\n"))
}

struct Running {
    key: u64,
    tcp: JoinHandle<()>,
}

/// When to do what.
#[derive(Debug, Default)]
struct Timers {
    /// Look at the directory.
    look: Option<Instant>,
    /// Read the servers of the host.
    servers: Option<Instant>,
    /// Try again to listen.
    bind: Option<Instant>,
    /// End, if there is still no network.
    end: Option<Instant>,
    /// Give back what was needed for the start.
    settled: Option<Instant>,
}

impl Timers {
    /// What changed between the first look at the directory and the beginning of the watch is seen by another look.
    fn after_start() -> Self {
        Self {
            look: Some(Instant::now() + load::YOUNG),
            settled: Some(Instant::now() + SETTLED),
            ..Self::default()
        }
    }

    fn next(&self) -> Option<Instant> {
        let all = [self.look, self.servers, self.bind, self.end, self.settled];
        all.into_iter().flatten().min()
    }
}

fn due(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|when| *when <= now).is_some()
}

fn sooner(timer: &mut Option<Instant>, when: Instant) {
    *timer = Some(timer.map_or(when, |set| set.min(when)));
}

struct Main {
    directory: Directory,
    port: u16,
    domain: String,
    files: Files,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    tcp: Arc<Tcp>,
    running: BTreeMap<IpAddr, Running>,
    next_key: u64,
    host_servers: Vec<SocketAddr>,
    /// What the log knows about the zone files and `resolv.conf`.
    problems: News,
    servers_problems: News,
    directory_problems: News,
    watch: Option<Watch>,
    /// Files that the watch has named since the last look at all.
    changed: BTreeSet<String>,
    pid_file: PidFile,
    metrics: Option<metrics::Listener>,
    timers: Timers,
    bind_pause: Duration,
    began: Instant,
    /// Somebody is told what we do.
    answering: Option<JoinHandle<()>>,
}

impl Main {
    /// What the starter need not wait for. Queries that have come wait until no more is allowed than they need.
    async fn begin(
        &mut self,
        sockets: Vec<(IpAddr, Sockets)>,
        jobs: tokio::sync::mpsc::Receiver<TcpJob>,
    ) -> anyhow::Result<()> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = raw::wait_for(SignalFd::with_flags(&daemon::signals(), flags)?)?;
        if let Err(error) = sandbox::restrain() {
            tracing::warn!("system calls are not filtered: {error}");
        }
        for (address, sockets) in sockets {
            self.listen(address, sockets);
        }
        // It may have changed before it was watched.
        if self.read_servers() {
            self.publish();
        }
        self.serve(signals, jobs).await
    }

    async fn serve(
        &mut self,
        signals: AsyncFd<SignalFd>,
        mut jobs: tokio::sync::mpsc::Receiver<TcpJob>,
    ) -> anyhow::Result<()> {
        loop {
            match self.event(&signals, &mut jobs).await {
                Event::Signal(Signal::SIGHUP) => {
                    if self.read_servers() {
                        self.publish();
                    }
                    self.bind_pause = SETTLE;
                    if self.reload_soon() && self.ends()? {
                        return Ok(());
                    }
                }
                Event::Signal(Signal::SIGUSR1) => self.dump(),
                // Without a question, it means nothing.
                Event::Signal(Signal::SIGURG) => {}
                Event::Asked(question) => self.answer(question),
                Event::Signal(_) => {
                    self.pid_file.disown();
                    return Ok(());
                }
                Event::Changed(changed) => self.changed(changed),
                Event::Job(job) => self.ask_by_tcp(job),
                Event::Metrics(stream) => drop(tokio::spawn(metrics::answer(
                    stream,
                    metrics::text(&self.counters()),
                ))),
                Event::Timer => {
                    if self.timer(Instant::now()) && self.ends()? {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn event(
        &self,
        signals: &AsyncFd<SignalFd>,
        jobs: &mut tokio::sync::mpsc::Receiver<TcpJob>,
    ) -> Event {
        let timer = async {
            match self.timers.next() {
                Some(when) => tokio::time::sleep_until(when.into()).await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            match &self.watch {
                Some(watch) => watch.changed().await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        let metrics = async {
            match &self.metrics {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = signal(signals) => event,
            changed = changed => Event::Changed(changed),
            Some(job) = jobs.recv() => Event::Job(job),
            Some(stream) = metrics => Event::Metrics(stream),
            () = timer => Event::Timer,
        }
    }

    fn changed(&mut self, changed: Changed) {
        let now = Instant::now();
        if changed.more || !changed.files.is_empty() {
            sooner(&mut self.timers.look, now + GATHER);
        }
        if changed.servers {
            sooner(&mut self.timers.servers, now + SETTLE);
        }
        self.changed.extend(changed.files);
    }

    /// Says whether to end.
    fn timer(&mut self, now: Instant) -> bool {
        if due(&mut self.timers.servers, now) {
            if let Some(watch) = &mut self.watch {
                watch.follow();
            }
            if self.read_servers() {
                self.publish();
            }
        }
        if due(&mut self.timers.look, now) && self.reload() {
            sooner(&mut self.timers.end, now + LINGER);
        }
        if due(&mut self.timers.bind, now) {
            self.adjust_listeners();
        }
        if due(&mut self.timers.settled, now) {
            raw::trim_memory();
            raw::release_code();
        }
        due(&mut self.timers.end, now) && self.reload()
    }

    /// Reads what the watch has named, and has a look at everything else a moment later: whoever sends a signal may
    /// have written in a way that the watch does not see. Says whether no network is left.
    fn reload_soon(&mut self) -> bool {
        if let Some(watch) = &self.watch {
            let changed = watch.changed_now();
            self.changed(changed);
        }
        let seen = files::look_at_some(self.directory.way(), &self.changed, &mut self.files);
        if self.changed.is_empty() || seen.unfinished || !seen.networks {
            return self.reload_after(&seen);
        }
        sooner(&mut self.timers.look, Instant::now() + GATHER);
        self.take(&seen)
    }

    /// Reads what is new. Says whether no network is left.
    fn reload(&mut self) -> bool {
        self.reload_after(&Seen::default())
    }

    /// The same, if something was taken in before.
    fn reload_after(&mut self, before: &Seen) -> bool {
        self.changed.clear();
        if let Some(watch) = &mut self.watch {
            watch.renew(self.directory.way());
        }
        let mut seen = match files::look(self.directory.way(), &mut self.files) {
            Ok(seen) => seen,
            Err(error) => {
                let problem = format!("{}: {error}", self.directory.path().display());
                for problem in self.directory_problems.fresh([problem].into_iter()) {
                    tracing::error!("{problem}");
                }
                if files::is_shortage(&error) {
                    sooner(&mut self.timers.look, Instant::now() + SHORTAGE);
                    self.publish_if(before.changed);
                }
                return false;
            }
        };
        self.directory_problems = News::default();
        seen.changed |= before.changed;
        self.take(&seen)
    }

    fn take(&mut self, seen: &Seen) -> bool {
        if seen.short {
            sooner(&mut self.timers.look, Instant::now() + SHORTAGE);
        }
        if seen.unfinished {
            sooner(&mut self.timers.look, Instant::now() + load::PAUSE);
        }
        for problem in self.problems.fresh(self.files.problems()) {
            tracing::warn!("{problem}");
        }
        let ends = self.publish_if(seen.changed);
        self.adjust_listeners();
        if seen.changed {
            raw::trim_memory();
        }
        ends && !seen.unfinished
    }

    fn publish_if(&self, changed: bool) -> bool {
        if changed {
            self.publish();
        }
        self.shared.state().zones.networks().is_empty()
    }

    fn publish(&self) {
        self.shared.publish(State {
            zones: self.files.zones(),
            policy: policy(&self.domain),
            host_servers: self.host_servers.clone().into(),
        });
        self.workers.iter().for_each(Handle::wake);
    }

    /// Says whether the servers have changed. If the file says nothing any more, the last ones stay.
    fn read_servers(&mut self) -> bool {
        let (servers, problems) = files::host_servers(Path::new(files::RESOLV_CONF));
        for problem in self.servers_problems.fresh(problems.into_iter()) {
            tracing::warn!("{}: {problem}", files::RESOLV_CONF);
        }
        let useless = servers.as_ref().is_none_or(Vec::is_empty);
        let servers = servers.unwrap_or_default();
        if useless || servers == self.host_servers {
            return false;
        }
        self.host_servers = servers;
        true
    }

    fn adjust_listeners(&mut self) {
        let wanted: BTreeSet<IpAddr> = self.shared.state().zones.listen().collect();
        let running: BTreeSet<IpAddr> = self.running.keys().copied().collect();
        let change = listeners::change(&wanted, &running);
        for address in change.stop {
            if let Some(running) = self.running.remove(&address) {
                running.tcp.abort();
                for worker in &self.workers {
                    worker.send(Command::Stop(running.key));
                }
            }
        }
        self.timers.bind = None;
        let mut failed = false;
        for address in change.start {
            match listen::open(address, self.port, self.workers.len()) {
                Ok(sockets) => self.listen(address, sockets),
                Err(error) => {
                    tracing::error!("{error}");
                    failed = true;
                }
            }
        }
        if failed {
            self.timers.bind = Some(Instant::now() + self.bind_pause);
            self.bind_pause = (self.bind_pause * 2).min(Duration::from_secs(30));
        }
    }

    fn listen(&mut self, address: IpAddr, sockets: Sockets) {
        let key = self.next_key;
        let listener = match tokio::net::TcpListener::from_std(sockets.tcp) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("cannot wait for connections to {address}: {error}");
                return;
            }
        };
        self.next_key += 1;
        for (worker, socket) in self.workers.iter().zip(sockets.udp) {
            worker.send(Command::Listen(key, address, socket));
        }
        let tcp = tokio::spawn(self.tcp.clone().listen(address, listener));
        self.running.insert(address, Running { key, tcp });
    }

    /// The whole of an answer that was cut.
    fn ask_by_tcp(&self, job: TcpJob) {
        let tcp = self.tcp.clone();
        let (commands, wake) = self.workers[job.worker].parts();
        tokio::spawn(async move {
            let answer = tcp.fetch(&job.fetch).await;
            drop(commands.send(Command::Deliver(job.fetch, answer)));
            let _ = wake.write(1);
        });
    }

    /// Writes the state to the log.
    fn dump(&self) {
        let state = self.shared.state();
        for network in state.zones.networks() {
            let internal = if network.internal { ", internal" } else { "" };
            tracing::info!(
                "network {}{internal}: {} names, listens on {:?}, servers {:?}",
                network.name,
                network.len(),
                network.listen,
                network.servers
            );
        }
        for problem in self.files.problems() {
            tracing::info!("problem: {problem}");
        }
        tracing::info!("servers of the host: {:?}", state.host_servers);
        let (kept, bytes) = self.shared.cache().size();
        tracing::info!("kept answers: {kept} in {bytes} bytes");
        let now = Instant::now();
        for (server, health) in self.health() {
            let state = if health.dead.is_some() {
                "silent"
            } else {
                "answers"
            };
            let last = health.answered.map_or_else(
                || "never".to_owned(),
                |when| format!("{:?} ago", now.duration_since(when)),
            );
            tracing::info!(
                "server {server}: {state}, {} answers ({} refused or failed), last {last}, {} times silent",
                health.answers,
                health.refusals,
                health.silences
            );
        }
        for server in self.tcp.dead() {
            tracing::info!("server {server} by TCP: silent");
        }
        for (question, count) in self.shared.failures().top().iter().take(TOP) {
            tracing::info!("failed: {question}: {count} times");
        }
        for (name, _, value) in self.counters() {
            tracing::info!("{name}: {value}");
        }
    }

    /// Tells who asks what we do. One at a time: others ask again.
    fn answer(&mut self, question: Question) {
        if self
            .answering
            .as_ref()
            .is_some_and(|one| !one.is_finished())
        {
            return;
        }
        let account = self.account(question.most.into());
        let text = match question.form {
            Form::Text => account.to_string(),
            Form::Json => account.json().to_string(),
        };
        // Who does not listen does not want to know.
        self.answering = Some(tokio::spawn(async move {
            drop(timeout(ANSWERING, say(question, text)).await);
        }));
    }

    fn account(&self, most: usize) -> Account {
        let state = self.shared.state();
        let texts = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect();
        let networks = state.zones.networks().iter().map(|network| Network {
            name: network.name.to_string(),
            internal: network.internal,
            names: network.len(),
            listen: texts(&network.listen),
            servers: network.servers.iter().map(ToString::to_string).collect(),
        });
        let mut failed = self.shared.failures().top();
        failed.truncate(most);
        let now = Instant::now();
        Account {
            now,
            uptime: now.duration_since(self.began),
            workers: self.workers.len(),
            memory: memory(),
            networks: networks.collect(),
            problems: self.files.problems().collect(),
            host_servers: state.host_servers.to_vec(),
            kept: self.shared.cache().size(),
            servers: self.health(),
            silent_by_tcp: self.tcp.dead().into_iter().collect(),
            failed,
            counters: self
                .counters()
                .into_iter()
                .map(|(name, _, value)| (name, value))
                .collect(),
        }
    }

    fn health(&self) -> BTreeMap<SocketAddr, Health> {
        let mut all: BTreeMap<SocketAddr, Health> = BTreeMap::new();
        for worker in &self.workers {
            let (sender, receiver) = mpsc::channel();
            worker.send(Command::Report(sender));
            for (server, health) in receiver
                .recv_timeout(Duration::from_millis(100))
                .unwrap_or_default()
            {
                all.entry(server).or_default().add(&health);
            }
        }
        all
    }

    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut sums = self.tcp.counters.all();
        for worker in &self.workers {
            for (sum, (_, _, value)) in sums.iter_mut().zip(worker.counters.all()) {
                sum.2 += value;
            }
        }
        sums
    }

    /// The last network is gone. Whoever has added one since then, but before the pid file went, has only signalled
    /// us: says whether that is not so.
    fn ends(&mut self) -> anyhow::Result<bool> {
        self.pid_file.remove().context("remove the pid file")?;
        if self.reload() {
            tracing::info!("no network is left, ending");
            return Ok(true);
        }
        self.pid_file.claim(self.directory.path())?;
        Ok(false)
    }
}

/// Calls who has asked. He is told nothing before he has shown that he knows the question.
async fn say(question: Question, answer: String) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, question.port)).await?;
    stream.write_all(&question.hail()).await?;
    let mut heard = [0; COUNTERSIGN];
    stream.read_exact(&mut heard).await?;
    if heard != question.countersign() {
        return Ok(());
    }
    stream.write_all(&ask::reply(answer.as_bytes())).await
}

/// Our resident memory, bytes.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}

/// A signal, or what it asks.
async fn signal(signals: &AsyncFd<SignalFd>) -> Event {
    loop {
        let Ok(mut ready) = signals.readable().await else {
            return std::future::pending().await;
        };
        // No signal is no readiness: without saying so, the descriptor would seem ready for ever.
        let read = ready.try_io(|fd| {
            fd.get_ref()
                .read_signal()?
                .ok_or_else(|| ErrorKind::WouldBlock.into())
        });
        if let Ok(Ok(info)) = read
            && let Ok(number) = i32::try_from(info.ssi_signo)
            && let Ok(signal) = Signal::try_from(number)
        {
            return match ask::sys::asked(&info) {
                Some(question) => Event::Asked(question),
                None => Event::Signal(signal),
            };
        }
    }
}

/// Starts logging.
pub fn start_logging() {
    log::start();
}
