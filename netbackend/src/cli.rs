//! The command line: that of netavark, and `plan`.

pub mod explain;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::doctor::DoctorArgs;
use crate::schema;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::observed::{FirewallDriver, Settings};

/// The version that we report. Podman reads the last word of `--version` and goes by its number, which
/// therefore is that of the netavark whose place we take.
pub const VERSION: &str = "2.1.0+netbackend.0";

/// Sets up and tears down the networks of containers.
#[derive(Debug, Parser)]
#[command(name = "netavark", bin_name = "netbackend", version = VERSION, args_override_self = true)]
pub struct Cli {
    /// Options before the sub-command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options before the sub-command.
#[derive(Debug, Args)]
pub struct Options {
    /// Read the request from a file instead of standard input ("-").
    #[arg(short, long, value_name = "PATH", value_parser = path())]
    pub file: Option<PathBuf>,
    /// The state directory; required by setup, teardown, update, gc and plan. The others look into /run/containers/networks without it, under "podman unshare" into the user's own.
    #[arg(short, long, value_name = "DIR", value_parser = path())]
    config: Option<PathBuf>,
    /// The state directory of the user's own engine, if it is that user who looks.
    #[arg(skip)]
    pub own_config: Option<PathBuf>,
    /// Whether the engine runs as an ordinary user.
    #[arg(short, long, value_name = "BOOL", action = ArgAction::Set, default_value_t = false)]
    pub rootless: bool,
    /// The DNS responder; names are not resolved if there is none at this path, which may be empty.
    #[arg(
        short,
        long,
        value_name = "PATH",
        default_value = DNS_BINARY,
        value_parser = path()
    )]
    pub aardvark_binary: PathBuf,
    /// Where to look for plugins; can be given several times.
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub plugin_directory: Vec<PathBuf>,
    /// Who filters packets: nftables, firewalld or none.
    #[arg(long, value_name = "NAME", env = "NETAVARK_FW")]
    pub firewall_driver: Option<OsString>,
    /// Change the packet filter by this program (such as /usr/sbin/nft) instead of the kernel interface.
    #[arg(long, value_name = "PATH", env = "NETBACKEND_NFT", value_parser = path())]
    nft: Option<PathBuf>,
}

/// A path that may be empty, as scripts and engines write one that they do not have.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Where the DNS responder is unless somebody says otherwise.
pub const DNS_BINARY: &str = "/usr/libexec/podman/aardvark-dns";

/// The state directory of an engine that runs as root, for commands that no engine calls.
const CONFIG: &str = "/run/containers/networks";

impl Options {
    /// The state directory, if there is one.
    #[must_use]
    pub fn config(&self) -> Option<&Path> {
        given(self.config.as_deref())
    }

    /// The program to change the packet filter by, if it is not the kernel interface.
    #[must_use]
    pub fn nft(&self) -> Option<&Path> {
        given(self.nft.as_deref())
    }

    /// What matters to a reload. Who filters packets is on record, and need not be said.
    #[must_use]
    pub fn reload_settings(&self) -> Settings {
        Settings {
            config: self
                .config()
                .or(self.own_config.as_deref())
                .unwrap_or_else(|| CONFIG.as_ref())
                .into(),
            rootless: self.rootless,
            dns_binary: self.aardvark_binary.clone(),
            dns_port: 53,
            firewall: FirewallDriver::Nftables,
            plugin_directories: self.plugin_directory.clone(),
        }
    }
}

/// An empty path is none.
fn given(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach a container to networks. Prints what it got.
    Setup(Namespace),
    /// Detach a container from networks.
    Teardown(Namespace),
    /// Change the DNS servers of a network whose containers run.
    Update(UpdateArgs),
    /// Complete the description of a new network. Prints it.
    Create,
    /// Take away what a crashed engine left: containers that are gone, with their ports, rules and names, and networks without containers. Prints what that was.
    Gc(GcArgs),
    /// Tell what is broken, why, and what to do about it. Ends with 1 if anything is, with 2 if it cannot be told. Changes nothing.
    Doctor(DoctorArgs),
    /// Print what setup or teardown would do, and do nothing.
    Plan(PlanArgs),
    /// Show what is on record of networks and containers, and what of it is on the host.
    Inspect(explain::InspectArgs),
    /// Draw networks, containers and published ports.
    Topology(explain::TopologyArgs),
    /// Run a command such as podman, and record each call of a network backend that comes of it. The command and the backend notice nothing.
    Record(explain::RecordArgs),
    /// Carry out a recorded request on a throw-away host: show plan and reply, try the traffic, tear it down, and look for what is left. Also as an ordinary user.
    Replay(explain::ReplayArgs),
    /// Capture a container's traffic, as pcapng with the names of containers.
    Capture(explain::CaptureArgs),
    /// Print the JSON Schema of a document, or of all of them by their names.
    Schema {
        /// The document.
        #[arg(value_name = "DOCUMENT")]
        document: Option<schema::Name>,
    },
    /// Hold DHCP leases for containers.
    DhcpProxy(ProxyArgs),
    /// Write all rules anew from what is on record, in one transaction.
    FirewallReload,
    /// Write all rules anew now and whenever firewalld has been reloaded. Runs as long as the system bus.
    FirewalldReload,
    /// Watch the packet filter, and write all rules anew when somebody takes some away. Runs until it is ended.
    NftablesReload,
    /// Print versions, as JSON.
    Version,
}

impl Command {
    /// Whether people call it, and send its output into files and other programs.
    #[must_use]
    pub fn is_for_people(&self) -> bool {
        match self {
            Self::Doctor(of) => !of.json,
            Self::Inspect(of) => !of.json,
            Self::Replay(of) => !of.json,
            Self::Topology(_) | Self::Capture(_) => true,
            Self::Record(of) => !of.call,
            Self::Setup(_)
            | Self::Teardown(_)
            | Self::Update(_)
            | Self::Create
            | Self::Gc(_)
            | Self::Plan(_)
            | Self::Schema { .. }
            | Self::DhcpProxy(_)
            | Self::FirewallReload
            | Self::FirewalldReload
            | Self::NftablesReload
            | Self::Version => false,
        }
    }
}

/// The namespace of the container.
#[derive(Debug, Args)]
pub struct Namespace {
    /// The path of its network namespace.
    #[arg(value_name = "NETNS_PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub netns: String,
}

/// What to change of a network.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The name of the network.
    #[arg(value_name = "NETWORK", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub network: String,
    /// Its DNS servers from now on, with commas; can be given several times. Nothing ("") removes them all.
    #[arg(long, value_name = "LIST", required = true)]
    pub network_dns_servers: Vec<String>,
}

/// What to take away, and how to print it.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Only print what would be taken away.
    #[arg(long)]
    pub dry_run: bool,
    /// As JSON instead of lines.
    #[arg(long)]
    pub json: bool,
    /// Also when this does not look like the network namespace of the bridges on record. In another one all would look dead.
    #[arg(long)]
    pub force: bool,
}

/// How the DHCP proxy runs.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// The directory of the socket and of the file of leases.
    #[arg(short, long, value_name = "DIR", default_value = "/run/podman")]
    pub dir: PathBuf,
    /// Not used.
    #[arg(short, long, value_name = "PATH")]
    pub uds: Option<PathBuf>,
    /// How many seconds a server has time to lease an address.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 8)]
    pub timeout: u32,
    /// After how many seconds without leases and calls to end; 0 for never.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 300)]
    pub activity_timeout: u64,
}

/// What to plan, and how to print it.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// As JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to plan.
    #[command(subcommand)]
    pub action: PlanAction,
}

/// What to plan.
#[derive(Debug, Subcommand)]
pub enum PlanAction {
    /// Plan to attach a container.
    Setup(Namespace),
    /// Plan to detach a container.
    Teardown(Namespace),
}
