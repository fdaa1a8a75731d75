//! Everything that touches the operating system.
//!
//! - [`call`]: a call from request to reply, and the repair of one that was killed.
//! - [`update`]: a change to a running network.
//! - [`gc`]: what a crashed engine left goes.
//! - [`inspect`]: what is on record and what is there.
//! - [`record`]: what passes between an engine and its backend is written down.
//! - [`replay`]: a recorded request on a throw-away host.
//! - [`capture`]: a container's packets.
//! - [`doctor`]: the look at records and host that tells what is broken.
//! - [`create`]: what has to be known to complete a network.
//! - [`reload`]: all rules anew, from the records.
//! - [`watch`]: the service that does so when somebody takes rules away.
//! - [`state`]: the lock, records and the journal below the engine's state directory.
//! - [`observe`]: the only reader of the kernel.
//! - [`apply`]: the only writer: steps in order, undone in reverse order when one fails.
//! - [`netns`], [`link`], [`nft`], [`xtables`], [`filter`], [`firewalld`], [`beside`], [`conntrack`], [`files`], [`sysctl`], [`dns`]: one family of effects
//!   each.
//! - [`plugin`]: programs that do the work of drivers we do not know; `guard` ends them with us.
//! - [`dhcp`]: the DHCP proxy as we ask it. [`proxy`]: as we are it.
//! - [`input`]: standard input and output, environment, signals.
//!
//! There is one thread and one single-threaded runtime, which netlink wants. Changing the network
//! namespace changes it for the thread, hence for everything; [`netns::Namespace::enter`] always comes
//! back before anything else runs.
#![expect(
    clippy::disallowed_methods,
    reason = "this is where the operating system is called"
)]

pub mod call;
pub mod update;
pub mod gc;
pub mod doctor;
pub mod create;
pub mod inspect;
pub mod engine;
pub mod record;
pub mod replay;
pub mod capture;
pub mod reload;
pub mod watch;
pub mod state;
pub mod observe;
pub mod apply;
pub mod netns;
pub mod link;
pub mod nft;
pub mod xtables;
pub mod filter;
pub mod beside;
#[cfg(feature = "firewalld")]
pub mod firewalld;
#[cfg(not(feature = "firewalld"))]
#[path = "no_firewalld.rs"]
pub mod firewalld;
pub mod conntrack;
pub mod files;
pub mod sysctl;
pub mod dns;
pub mod plugin;
mod guard;
pub mod dhcp;
pub mod input;
pub mod proxy;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use self::link::Links;
use self::netns::Namespace;
use self::nft::{NftError, NftSocket};
use self::state::StateDir;
use crate::observed::Settings;
use crate::plan::firewall::Change;

/// What every call works with: the host namespace, that of the container, and the state directory.
pub struct Host {
    /// What the command line and the environment say.
    pub settings: Settings,
    /// The state directory, locked.
    pub state: StateDir,
    links: Links,
    container: Option<Inside>,
    /// The path of the container's namespace, for plugins; there need not be anything at it.
    netns: PathBuf,
    nft: Option<NftSocket>,
    nft_program: Option<PathBuf>,
    firewalld: Option<firewalld::Firewalld>,
    /// Whether the packet filter was not as the records say.
    rebuilt: bool,
    /// Records that could not be read when the packet filter was written anew.
    problems: Vec<String>,
}

/// The namespace of the container and a connection to its kernel side.
struct Inside {
    namespace: Namespace,
    links: Links,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Why a step, or the look at the host before it, failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum SysError {
    #[error("{context}: Netlink error: {}", io::Error::from_raw_os_error(*errno))]
    Netlink { context: String, errno: i32 },
    #[error("{context}: {why}")]
    NetlinkOther { context: String, why: String },
    #[error("{context}: IO error: {source}")]
    Io { context: String, source: io::Error },
    #[error("invalid namespace path: IO error: {0}")]
    NetnsPath(io::Error),
    #[error("setns: IO error: {0}")]
    Setns(io::Error),
    #[error("{0} is the network namespace of the host, expected that of a container")]
    OwnNamespace(String),
    #[error("packet filter: {0}")]
    Nft(#[from] NftError),
    #[error(
        "publish port {port}/{protocol}: address already in use: container {owner} publishes it"
    )]
    PortTaken {
        port: u16,
        protocol: &'static str,
        owner: String,
    },
    #[error("record {path}: {why}")]
    Record { path: String, why: String },
    #[error("error while applying dns entries: {0}")]
    Dns(String),
    #[error(transparent)]
    Plugin(#[from] plugin::PluginError),
    #[error(transparent)]
    Dhcp(#[from] dhcp::DhcpError),
    #[error("Error retrieving dbus connection for requested firewall backend: {0}")]
    Bus(String),
    #[error("firewalld: {what}: {why}")]
    Firewalld { what: &'static str, why: String },
    #[error("Port forwarding not possible as firewalld StrictForwardPorts enabled")]
    StrictForwardPorts,
    #[error("interrupted by signal {0}")]
    Interrupted(String),
}

impl SysError {
    fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        |source| Self::Io { context, source }
    }

    /// Whether the error says that the table is not as the records say: what should be there is not, or
    /// the reverse.
    fn is_mismatch(&self) -> bool {
        let Self::Nft(error) = self else {
            return false;
        };
        // The program says why in words only.
        let in_words = matches!(error, NftError::Program { .. });
        in_words
            || matches!(
                error.errno(),
                Some(
                    nix::errno::Errno::ENOENT
                        | nix::errno::Errno::EEXIST
                        | nix::errno::Errno::EBUSY
                        | nix::errno::Errno::EOPNOTSUPP
                        | nix::errno::Errno::EINVAL
                )
            )
    }

    /// Whether the text is known to users as it is, and says itself what it is about.
    fn speaks_for_itself(&self) -> bool {
        matches!(self, Self::Plugin(_) | Self::Dhcp(_))
    }

    /// The number of the system's error, if it has one.
    fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink { errno, .. } => Some(*errno),
            Self::Io { source, .. } | Self::NetnsPath(source) | Self::Setns(source) => {
                source.raw_os_error()
            }
            Self::NetlinkOther { .. }
            | Self::OwnNamespace(_)
            | Self::Nft(_)
            | Self::PortTaken { .. }
            | Self::Record { .. }
            | Self::Dns(_)
            | Self::Plugin(_)
            | Self::Dhcp(_)
            | Self::Bus(_)
            | Self::Firewalld { .. }
            | Self::StrictForwardPorts
            | Self::Interrupted(_) => None,
        }
    }
}

impl Host {
    /// Opens the host's side and takes the lock of the state directory, waiting for it.
    ///
    /// # Errors
    /// The directory cannot be made, or the kernel gives no netlink socket.
    pub fn open(settings: Settings, nft_program: Option<PathBuf>) -> Result<Self, SysError> {
        let state = StateDir::open(&settings.config)?;
        Self::with(settings, state, nft_program)
    }

    /// Opens the host's side for a look only: nothing is locked, nothing is made.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn look(settings: Settings) -> Result<Self, SysError> {
        let state = StateDir::unlocked(&settings.config);
        Self::with(settings, state, None)
    }

    fn with(
        settings: Settings,
        state: StateDir,
        nft_program: Option<PathBuf>,
    ) -> Result<Self, SysError> {
        let links = Links::of_host()?;
        Ok(Self {
            settings,
            state,
            links,
            container: None,
            netns: PathBuf::new(),
            nft: None,
            nft_program,
            firewalld: None,
            rebuilt: false,
            problems: Vec::new(),
        })
    }

    /// Opens the container's side.
    ///
    /// # Errors
    /// There is no network namespace at the path.
    pub fn enter_container(&mut self, path: &Path) -> Result<(), SysError> {
        self.netns = path.to_path_buf();
        let namespace = Namespace::open(path)?;
        if namespace.is_own()? {
            return Err(SysError::OwnNamespace(path.display().to_string()));
        }
        let links = namespace.enter(|| Links::open("container"))??;
        self.container = Some(Inside { namespace, links });
        Ok(())
    }

    /// Opens the container's side if it is still the namespace with this inode; else there is none.
    fn enter_same(&mut self, path: &Path, inode: u64) {
        self.container = None;
        self.netns = path.to_path_buf();
        let same = Namespace::open(path).is_ok_and(|namespace| namespace.facts().inode == inode);
        if same && let Err(error) = self.enter_container(path) {
            tracing::debug!("{error}");
        }
    }

    fn inside(&self) -> Result<&Inside, SysError> {
        let missing = || SysError::NetnsPath(io::Error::from_raw_os_error(libc::ENOENT));
        self.container.as_ref().ok_or_else(missing)
    }

    fn nft(&mut self) -> Result<&mut NftSocket, SysError> {
        if self.nft.is_none() {
            self.nft = Some(NftSocket::open()?);
        }
        self.nft.as_mut().ok_or(SysError::Nft(NftError::NoAnswer))
    }

    /// firewalld, if it runs.
    ///
    /// # Errors
    /// There is no bus.
    async fn firewalld(&mut self) -> Result<Option<&firewalld::Firewalld>, SysError> {
        if self.firewalld.is_none() {
            self.firewalld = firewalld::Firewalld::connect().await?;
        }
        Ok(self.firewalld.as_ref())
    }

    /// The change that makes a table which we know nothing good of what the records say.
    pub(crate) fn whole(mut change: Change) -> Change {
        change.kind = crate::plan::firewall::ChangeKind::Rebuild;
        change
    }
}
