//! The DHCP proxy: a daemon that holds leases for containers, for as long as they run.
//!
//! # Theory of operation
//!
//! The proxy answers three calls on a Unix socket (`grpc`, messages in `wire::proxy`). `Setup` starts a
//! `task` for one lease, and is answered when the interface has its address. The task renews the lease until
//! `Teardown` stops it or the container's namespace is gone, then gives it back. What it says and when is decided by
//! `crate::dhcp`; a `port` is a socket to say it through; a `site` is the interface.
//!
//! - **Where packets are sent.** On the container's interface, inside its namespace. So the request takes the way that
//!   the container's packets will take, VLAN and all, and a server on this very host hears it. The interface on the host
//!   is used only to give back the lease of a container that is gone.
//! - **Namespaces are not kept alive.** Sockets in one are open only while an answer is awaited. Every ten seconds, and
//!   before each renewal, we look whether the path still leads to the same namespace.
//! - **Restart.** All leases stand in a file, replaced at each change and before the caller hears of the lease. A proxy
//!   that starts goes on with them: it asks the server to confirm each (IPv4) or renews it (IPv6), and if nobody
//!   answers, trusts what is left of it. So `kill -9`, an upgrade or a crash costs nothing, if the proxy is started
//!   again before leases end. When it is asked to end, it keeps the leases for the same reason. An address stands in
//!   the file from before it is asked for, too: a proxy that starts gives back what another one did not live to hear of.
//! - **Cost.** One task and, while bound, one timer for each lease; no thread, no socket. One write of the file, of
//!   about a kilobyte for each lease, at each renewal.
//! - **Idle.** Without leases and calls, the proxy ends after a while; socket activation starts it again.

pub(crate) mod grpc;
mod port;
mod site;
mod task;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use tokio::net::UnixListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use wire::names::{InterfaceName, MacAddr};
use wire::proxy::{
    Empty, KeptLease, Lease, LeaseFile, Message, NetworkConfig, OperationResponse, Version,
};

use self::grpc::{Code, Service, Status};
use self::site::Site;
use self::task::Task;
use super::input::{self, Interrupts};
use super::netns::Namespace;
use super::{SysError, files};
use crate::dhcp::record::{self, Recorded, Records};
use crate::dhcp::{Client, Identity, Moment, Terms, v4, v6};
use crate::gc::Whereabouts;

/// The socket in the run directory.
pub const SOCKET: &str = "nv-proxy.sock";
/// The file of leases in the run directory.
pub const LEASES: &str = "nv-proxy.lease";
/// The descriptor that systemd passes first.
const FIRST_PASSED: i32 = 3;
/// How long `Teardown` waits for a lease to be given back.
const RELEASE_PATIENCE: Duration = Duration::from_secs(3);
/// After a failure to accept a connection, such as too many open files.
const BREATH: Duration = Duration::from_millis(100);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The run directory.
    pub directory: PathBuf,
    /// How long a server has time to lease an address.
    pub patience: Duration,
    /// After which time without leases and calls to end; zero for never.
    pub idle: Duration,
}

/// Time since the machine started, the time it slept included.
fn now() -> Moment {
    let time =
        clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
    time.map(Into::into).unwrap_or_default()
}

/// Time since 1970.
fn calendar() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// What tells a lease from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    mac: MacAddr,
    version: Version,
    container: String,
    interface: InterfaceName,
}

struct Entry {
    serial: u64,
    stop: Rc<Notify>,
    task: Option<JoinHandle<()>>,
    kept: Option<KeptLease>,
}

impl Key {
    fn of(lease: &Recorded) -> Self {
        Self {
            mac: lease.mac,
            version: lease.config.version,
            container: lease.config.container_id.clone(),
            interface: lease.container.clone(),
        }
    }
}

/// The proxy.
struct Proxy {
    settings: Settings,
    entries: RefCell<BTreeMap<Key, Entry>>,
    serial: Cell<u64>,
    active: Cell<Moment>,
    written: RefCell<String>,
}

/// Serves until told to end, or idle.
///
/// # Errors
/// There is no socket to listen on.
pub async fn serve(settings: Settings) -> Result<(), SysError> {
    let interrupts = Interrupts::hold();
    std::fs::create_dir_all(&settings.directory).map_err(SysError::io(format!(
        "create {}",
        settings.directory.display()
    )))?;
    let socket = settings.directory.join(SOCKET);
    let (listener, own) = match passed()? {
        Some(listener) => (listener, false),
        None => (listen(&socket)?, true),
    };
    let proxy = Rc::new(Proxy {
        settings,
        entries: RefCell::default(),
        serial: Cell::new(0),
        active: Cell::new(now()),
        written: RefCell::default(),
    });
    let local = LocalSet::new();
    local
        .run_until(async {
            Proxy::resume(&proxy);
            accept(&proxy, &listener, &interrupts).await;
        })
        .await;
    if own {
        drop(std::fs::remove_file(&socket));
    }
    Ok(())
}

async fn accept(proxy: &Rc<Proxy>, listener: &UnixListener, interrupts: &Interrupts) {
    loop {
        let idle = proxy.settings.idle;
        let rest = (proxy.active.get() + idle).saturating_sub(now());
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    proxy.active.set(now());
                    let proxy = Rc::clone(proxy);
                    drop(spawn_local(async move {
                        if let Err(error) = grpc::serve(stream, proxy).await {
                            tracing::debug!("a connection broke: {error}");
                        }
                    }));
                }
                Err(error) => {
                    tracing::error!("accept a connection: {error}");
                    tokio::time::sleep(BREATH).await;
                }
            },
            signal = interrupts.wait() => {
                tracing::info!("{signal}: leases are kept for the next proxy");
                return;
            }
            () = tokio::time::sleep(rest), if !idle.is_zero() => {
                if !proxy.entries.borrow().is_empty() {
                    proxy.active.set(now());
                } else if now().saturating_sub(proxy.active.get()) >= idle {
                    tracing::info!("nothing to do for {} s", idle.as_secs());
                    return;
                }
            }
        }
    }
}

/// The socket that a service manager listens on for us.
fn passed() -> Result<Option<UnixListener>, SysError> {
    match input::variable("LISTEN_FDS").as_deref() {
        None | Some("" | "0") => return Ok(None),
        Some("1") => {}
        Some(other) => {
            let why = format!("LISTEN_FDS is \"{other}\", expected 1");
            return Err(SysError::io("take the socket of the service manager")(
                io::Error::other(why),
            ));
        }
    }
    #[expect(
        unsafe_code,
        reason = "the protocol of LISTEN_FDS names a descriptor by its number"
    )]
    // SAFETY: the service manager passes descriptor 3 for us to own, and nothing else of ours refers to it.
    let passed = unsafe { OwnedFd::from_raw_fd(FIRST_PASSED) };
    adopt(passed.into()).map(Some)
}

fn adopt(listener: unix::UnixListener) -> Result<UnixListener, SysError> {
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener));
    listener.map_err(SysError::io("listen on the socket"))
}

/// Makes a socket. One that nobody listens on any more is replaced.
fn listen(path: &Path) -> Result<UnixListener, SysError> {
    let failed = || SysError::io(format!("listen on {}", path.display()));
    let listener = match unix::UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match unix::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                _ => return Err(failed()(error)),
            }
            std::fs::remove_file(path).and_then(|()| unix::UnixListener::bind(path))
        }
        outcome => outcome,
    };
    let listener = listener.map_err(failed())?;
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, mode).map_err(failed())?;
    adopt(listener)
}

impl Service for Rc<Proxy> {
    async fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, Status> {
        self.active.set(now());
        match method {
            "Setup" => Proxy::setup(self, NetworkConfig::decode(message)?)
                .await
                .map(|lease| lease.encode()),
            "Teardown" => self
                .teardown(NetworkConfig::decode(message)?)
                .await
                .map(|lease| lease.encode()),
            "Clean" => {
                Empty::decode(message)?;
                Ok(OperationResponse { success: true }.encode())
            }
            other => Err(Status::new(
                Code::Unimplemented,
                format!("there is no method {other}"),
            )),
        }
    }
}

fn key(config: &NetworkConfig) -> Result<Key, Status> {
    let text = &config.container_mac_addr;
    let mac = text.parse().map_err(|error| {
        let why = if text.is_empty() {
            "cannot parse integer from empty string".to_owned()
        } else {
            format!("{error}")
        };
        Status::new(
            Code::InvalidArgument,
            format!("unable to parse mac address {text}: {why}"),
        )
    })?;
    Ok(Key {
        mac,
        version: config.version,
        container: config.container_id.clone(),
        interface: link(&config.container_iface)?,
    })
}

/// The name of an interface. One that cannot be is not there.
fn link(name: &str) -> Result<InterfaceName, Status> {
    let missing = |_| {
        Status::new(
            Code::InvalidArgument,
            format!("interface \"{name}\": No such device (os error 19)"),
        )
    };
    name.parse().map_err(missing)
}

impl Proxy {
    fn next_serial(&self) -> u64 {
        self.serial.set(self.serial.get().wrapping_add(1));
        self.serial.get()
    }

    /// Leases an address. The lease is given back if the caller goes away before it hears of it.
    async fn setup(this: &Rc<Self>, config: NetworkConfig) -> Result<Lease, Status> {
        let key = key(&config)?;
        let internal = |error: SysError| Status::new(Code::Internal, error.to_string());
        let host = link(&config.host_iface)?;
        if let Err(error) = if_nametoindex(host.as_str()) {
            let error = io::Error::from(error);
            return Err(Status::new(
                Code::InvalidArgument,
                format!("interface {host} of the host: {error}"),
            ));
        }
        let namespace = Namespace::open(Path::new(&config.ns_path)).map_err(internal)?;
        let site = Site {
            mac: key.mac,
            container: key.interface.clone(),
            host,
            netns_inode: namespace.facts().inode,
            config,
        };
        drop(namespace);
        site.switch_on().await.map_err(internal)?;
        let host = site.host.clone();
        this.supersede(&key, &site).await;
        let (sender, first) = oneshot::channel();
        let held = this.take_over(&key);
        Self::start(this, key, site, held, Some(sender));
        let patience = this.settings.patience;
        match tokio::time::timeout(patience, first).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Status::new(
                Code::NotFound,
                "the container went away while a lease was sought",
            )),
            Err(_) => {
                let why = format!(
                    "no DHCP server leased an address through {host} within {} s",
                    patience.as_secs()
                );
                Err(Status::new(Code::Aborted, why))
            }
        }
    }

    /// The lease that another task holds for the same interface, which ends without giving it back: who asks again is
    /// offered the same address.
    fn take_over(&self, key: &Key) -> Option<Terms> {
        let entry = self.entries.borrow_mut().remove(key)?;
        if let Some(task) = entry.task {
            task.abort();
        }
        let kept = entry.kept?;
        let is_leased = kept
            .netbackend
            .as_ref()
            .is_some_and(|ours| !ours.unconfirmed);
        record::terms(&kept, now(), calendar()).filter(|_| is_leased)
    }

    /// Gives back the leases of an interface that is not there any more, for there is another one in its place. Their
    /// addresses may be what is leased next: so all of it has to be over before that.
    async fn supersede(&self, key: &Key, site: &Site) {
        let is_former = |other: &Key, entry: &Entry| {
            let ours = entry
                .kept
                .as_ref()
                .and_then(|kept| kept.netbackend.as_ref());
            other.mac != key.mac
                && (other.version, &other.interface) == (key.version, &key.interface)
                && ours.is_some_and(|ours| ours.netns_inode == site.netns_inode)
        };
        let mut tasks = Vec::new();
        for (other, entry) in self.entries.borrow_mut().iter_mut() {
            if is_former(other, entry) {
                entry.stop.notify_one();
                tasks.extend(entry.task.take());
            }
        }
        for task in tasks {
            drop(tokio::time::timeout(RELEASE_PATIENCE, task).await);
        }
    }

    fn start(
        this: &Rc<Self>,
        key: Key,
        site: Site,
        held: Option<Terms>,
        first: Option<oneshot::Sender<Result<Lease, Status>>>,
    ) {
        // Whoever waits for a lease gets one sooner by a search, which any server answers.
        let client = client(&key, &site, held.clone().filter(|_| first.is_none()));
        let stop = Rc::new(Notify::new());
        let serial = this.next_serial();
        let task = Task {
            proxy: Rc::clone(this),
            key: key.clone(),
            serial,
            site,
            client,
            applied: held,
            first,
            stop: Rc::clone(&stop),
            port: None,
            unsent: None,
        };
        let entry = Entry {
            serial,
            stop,
            task: Some(spawn_local(task.run())),
            kept: None,
        };
        this.entries.borrow_mut().insert(key, entry);
    }

    /// Gives an address back, and tells which it was.
    async fn teardown(&self, config: NetworkConfig) -> Result<Lease, Status> {
        let key = key(&config)?;
        let found = self.known(&key).and_then(|key| {
            let mut entries = self.entries.borrow_mut();
            let entry = entries.get_mut(&key)?;
            entry.stop.notify_one();
            Some((entry.task.take(), entry.kept.clone()))
        });
        let Some((task, kept)) = found else {
            return Ok(Lease::default());
        };
        if let Some(task) = task {
            drop(tokio::time::timeout(RELEASE_PATIENCE, task).await);
        }
        Ok(kept.map(|kept| kept.lease).unwrap_or_default())
    }

    /// The lease that is meant. Netavark does not say whose it is when it gives one back.
    fn known(&self, key: &Key) -> Option<Key> {
        let entries = self.entries.borrow();
        if entries.contains_key(key) {
            return Some(key.clone());
        }
        let is_meant = |other: &&Key| {
            key.container.is_empty()
                && (other.mac, other.version, &other.interface)
                    == (key.mac, key.version, &key.interface)
        };
        entries.keys().find(is_meant).cloned()
    }

    /// Puts a lease on record, or takes it off.
    fn keep(&self, key: &Key, serial: u64, kept: Option<KeptLease>) {
        if let Some(entry) = self
            .entries
            .borrow_mut()
            .get_mut(key)
            .filter(|entry| entry.serial == serial)
        {
            entry.kept = kept;
        }
        self.save();
    }

    fn forget(&self, key: &Key, serial: u64) {
        self.active.set(now());
        let mut entries = self.entries.borrow_mut();
        if entries.get(key).is_some_and(|entry| entry.serial == serial) {
            entries.remove(key);
        }
        drop(entries);
        self.save();
    }

    /// Writes all leases down, if something has changed.
    fn save(&self) {
        let mut file = LeaseFile::new();
        for (key, entry) in self.entries.borrow().iter() {
            if let Some(kept) = &entry.kept {
                file.entry(key.mac.to_string())
                    .or_default()
                    .push(kept.clone());
            }
        }
        let text = serde_json::to_string(&file).unwrap_or_default();
        if *self.written.borrow() == text {
            return;
        }
        let path = self.settings.directory.join(LEASES);
        match files::replace(&path, &text, &path.with_extension("lease.new")) {
            Ok(()) => *self.written.borrow_mut() = text,
            Err(error) => tracing::error!(
                "write {}: {error}: a restart would forget leases",
                path.display()
            ),
        }
    }

    /// Goes on with the leases of a former process.
    fn resume(this: &Rc<Self>) {
        for lease in read(&this.settings.directory) {
            let (key, site) = (Key::of(&lease), Site::of(&lease));
            if lease.unconfirmed {
                Self::give_back(this, key, site, lease);
            } else {
                Self::start(this, key.clone(), site, Some(lease.terms), None);
                if let Some(entry) = this.entries.borrow_mut().get_mut(&key) {
                    entry.kept = Some(lease.kept);
                }
            }
        }
        this.save();
    }

    /// Gives back what a former process has asked for: it did not live to hear whether the address was leased, and
    /// neither has whoever wanted it.
    fn give_back(this: &Rc<Self>, key: Key, site: Site, lease: Recorded) {
        let serial = this.next_serial();
        let release = client(&key, &site, Some(lease.terms)).release();
        let (proxy, own) = (Rc::clone(this), key.clone());
        let work = async move {
            if let Some(outgoing) = release {
                site.release(&outgoing).await;
            }
            proxy.forget(&own, serial);
        };
        let entry = Entry {
            serial,
            stop: Rc::default(),
            task: Some(spawn_local(work)),
            kept: Some(lease.kept),
        };
        this.entries.borrow_mut().insert(key, entry);
    }
}

/// What the file of leases in a run directory holds.
///
/// # Errors
/// It cannot be read.
pub(super) fn on_record(directory: &Path) -> Result<Records, String> {
    let text = files::read(&directory.join(LEASES)).map(Option::unwrap_or_default);
    let text = text.map_err(|error| error.to_string())?;
    record::read(&text, now(), calendar()).map_err(|error| error.to_string())
}

/// Where the interface of a lease is.
pub(super) fn whereabouts(lease: &Recorded) -> Whereabouts {
    Site::of(lease).whereabouts()
}

/// Gives a lease back in the place of a proxy that does not run, and takes it off the record. No proxy can start
/// meanwhile, for the socket is ours. One that is killed over it leaves the lease on record.
///
/// # Errors
/// There is a proxy, or the record cannot be changed.
pub(super) async fn stand_in(directory: &Path, lease: &Recorded) -> Result<(), SysError> {
    let socket = directory.join(SOCKET);
    let listener = listen(&socket)?;
    let (key, site) = (Key::of(lease), Site::of(lease));
    if let Some(outgoing) = client(&key, &site, Some(lease.terms.clone())).release() {
        site.release(&outgoing).await;
    }
    let written = take_off(directory, lease);
    drop(listener);
    drop(std::fs::remove_file(&socket));
    written
}

fn take_off(directory: &Path, lease: &Recorded) -> Result<(), SysError> {
    let path = directory.join(LEASES);
    let failed = || SysError::io(format!("take a lease off {}", path.display()));
    let text = files::read(&path).map_err(failed())?.unwrap_or_default();
    let rest = record::without(&text, &lease.kept);
    let rest = rest.map_err(|error| failed()(io::Error::other(error)))?;
    files::replace(&path, &rest, &path.with_extension("lease.new")).map_err(failed())
}

/// The leases on record in a run directory. A file that cannot be read is put aside, for there may be more in it than
/// we understand.
fn read(directory: &Path) -> Vec<Recorded> {
    let path = directory.join(LEASES);
    match on_record(directory) {
        Ok(records) => {
            for address in records.incomplete {
                tracing::warn!("the lease of {address} lacks what it takes to go on with it");
            }
            records.leases
        }
        Err(error) => {
            tracing::error!("{}: {error}: its leases are lost", path.display());
            drop(std::fs::rename(&path, path.with_extension("lease.damaged")));
            Vec::new()
        }
    }
}

/// A client for a container, which goes on with a lease that it holds.
fn client(key: &Key, site: &Site, held: Option<Terms>) -> Client {
    let identity = Identity {
        mac: key.mac,
        container: key.container.clone(),
        host_name: site.config.host_name.clone(),
    };
    let (now, seed) = (now(), task::seed(key));
    match (key.version, held) {
        (Version::V4, None) => Client::V4(v4::Client::new(identity, now, seed)),
        (Version::V4, Some(terms)) => Client::V4(v4::Client::resume(identity, terms, now, seed)),
        (Version::V6, None) => Client::V6(v6::Client::new(identity, now, seed)),
        (Version::V6, Some(terms)) => Client::V6(v6::Client::resume(identity, terms, now, seed)),
    }
}
