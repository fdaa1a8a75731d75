//! The host that a request is replayed on, its container, and the machine outside.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use wire::names::{InterfaceName, MacAddr};

use super::super::link::Links;
use super::super::netns::Namespace;
use super::super::nft::NftSocket;
use super::super::{SysError, files};
use super::{files_below, process_name};
use crate::plan::ruleset;
use crate::plan::step::NewBridge;
use crate::replay::{Scenery, Side};

/// The directory of everything that is ours.
const DIRECTORY: &str = "/run/replay";

/// What is done first, and what forbids it to ordinary users who may have made the namespaces.
const MOUNTS: &str = "mount what a throw-away host has (an ordinary user also needs kernel.apparmor_restrict_unprivileged_userns=0 \
     where there is that setting)";

/// The routing table of the first VRF.
const TABLE: u32 = 1000;

/// The metric of default routes to the outside.
const METRIC: u32 = 100;

/// A host with nothing on it but what a request takes for granted.
pub(super) struct Stage {
    links: Links,
    pub(super) container: Namespace,
    pub(super) outside: Namespace,
}

impl Stage {
    /// Makes it in the namespaces that we are in.
    pub(super) async fn set(scenery: Option<&Scenery>) -> Result<Self, SysError> {
        mounts().map_err(SysError::io(MOUNTS))?;
        let namespace = |name: &str| {
            let path = Path::new("/run/netns").join(name);
            make_namespace(&path).map_err(SysError::io(format!("make {}", path.display())))?;
            Namespace::open(&path)
        };
        let stage = Self {
            container: namespace("container")?,
            outside: namespace("outside")?,
            links: Links::open("host")?,
        };
        stage.links.set_up(&name("lo")?).await?;
        if let Some(scenery) = scenery {
            stage.build(scenery).await?;
        }
        Ok(stage)
    }

    async fn build(&self, scenery: &Scenery) -> Result<(), SysError> {
        let outside = self.outside.enter(|| Links::open("outside"))??;
        outside.set_up(&name("lo")?).await?;
        for (number, wire) in scenery.wires.iter().enumerate() {
            let peer = name(&format!("wire{number}"))?;
            let there = self.outside.descriptor();
            self.links.create_wire(wire, &peer, there).await?;
            self.links.set_up(wire).await?;
            outside.set_up(&peer).await?;
        }
        if let Some(uplink) = scenery.wires.first() {
            self.connect(uplink, &outside, scenery).await?;
        }
        for (number, gateway) in &scenery.gateways {
            let peer = name(&format!("wire{number}"))?;
            outside.add_address(&peer, *gateway, true).await?;
        }
        for (number, vrf) in (0..).zip(&scenery.vrfs) {
            self.links.create_vrf(vrf, TABLE + number).await?;
            self.links.set_up(vrf).await?;
        }
        for (number, (bridge, addresses)) in (0..).zip(&scenery.bridges) {
            let new = NewBridge {
                name: bridge.clone(),
                mac: MacAddr([0x02, 0, 0, 0, 0x99, number]),
                mtu: None,
                vrf: None,
                vlan_filtering: false,
            };
            self.links.create_bridge(&new).await?;
            for address in addresses {
                self.links.add_address(bridge, *address, true).await?;
            }
            self.links.set_up(bridge).await?;
        }
        Ok(())
    }

    /// Addresses and routes of the uplink.
    async fn connect(
        &self,
        uplink: &InterfaceName,
        outside: &Links,
        scenery: &Scenery,
    ) -> Result<(), SysError> {
        let peer = name("wire0")?;
        for (here, there) in scenery.host.iter().zip(&scenery.outside) {
            self.links.add_address(uplink, *here, true).await?;
            outside.add_address(&peer, *there, true).await?;
            self.links
                .add_default_route(uplink, there.addr(), METRIC)
                .await?;
            outside
                .add_default_route(&peer, here.addr(), METRIC)
                .await?;
        }
        for address in &scenery.published {
            let alone = match address {
                IpAddr::V4(_) => IpNet::new_assert(*address, 32),
                IpAddr::V6(_) => IpNet::new_assert(*address, 128),
            };
            self.links.add_address(uplink, alone, true).await?;
        }
        Ok(())
    }

    /// Where requests are put.
    #[expect(clippy::unused_self, reason = "there is none without a stage")]
    pub(super) fn directory(&self) -> PathBuf {
        DIRECTORY.into()
    }

    /// The state directory of the backend.
    pub(super) fn config(&self) -> PathBuf {
        self.directory().join("networks")
    }

    /// Where the namespace of the container is.
    pub(super) fn container_path(&self) -> PathBuf {
        self.container.facts().path.clone().into()
    }

    /// Runs something at a side's place.
    pub(super) fn at<T>(&self, side: Side, work: impl FnOnce() -> T) -> Result<T, SysError> {
        match side {
            Side::Container => self.container.enter(work),
            Side::Outside => self.outside.enter(work),
            Side::Host => Ok(work()),
        }
    }

    /// Everything on the host that a backend may make. The lock of zone files is not taken away while somebody may wait
    /// for it.
    pub(super) async fn snapshot(&self) -> Result<Vec<String>, SysError> {
        let mut found = Vec::new();
        for (link, facts) in self.links.facts().await? {
            found.push(format!("interface {link} ({})", facts.kind));
            let addresses = facts.addresses.iter();
            found.extend(addresses.map(|address| format!("address {address} of {link}")));
        }
        let chains = NftSocket::open().and_then(|mut nft| nft.chain_names(ruleset::TABLE));
        let chains = chains.unwrap_or_default();
        if !chains.is_empty() {
            found.push(format!(
                "table inet {} with {} chains",
                ruleset::TABLE,
                chains.len()
            ));
        }
        let kept = self.config().join("aardvark.lock").display().to_string();
        let files = files_below(&self.config()).into_iter();
        let files = files.chain(files_below(Path::new("/run/sysctl.d")));
        found.extend(
            files
                .filter(|file| *file != kept)
                .map(|file| format!("file {file}")),
        );
        for pid in files::names(Path::new("/proc")).unwrap_or_default() {
            let is_number = pid.bytes().all(|byte| byte.is_ascii_digit());
            if is_number && pid != std::process::id().to_string() {
                let name = process_name(&pid);
                found.extend(name.map(|name| format!("process {pid} ({name})")));
            }
        }
        Ok(found)
    }
}

fn name(text: &str) -> Result<InterfaceName, SysError> {
    text.parse().map_err(|why| SysError::NetlinkOther {
        context: format!("interface {text}"),
        why: format!("{why}"),
    })
}

/// A /proc of these processes, and a /run where nothing is of the real host.
fn mounts() -> io::Result<()> {
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none)?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), plain, none)?;
    mount(
        Some("replay"),
        "/run",
        Some("tmpfs"),
        plain,
        Some("mode=755"),
    )?;
    for directory in ["/run/netns", "/run/lock", DIRECTORY] {
        fs::create_dir_all(directory)?;
    }
    Ok(())
}

/// Makes a network namespace and binds it to a path.
fn make_namespace(path: &Path) -> io::Result<()> {
    File::create_new(path)?;
    let own = File::open("/proc/thread-self/ns/net")?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let bound = mount(
        Some("/proc/thread-self/ns/net"),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    );
    setns(own, CloneFlags::CLONE_NEWNET)?;
    Ok(bound?)
}
