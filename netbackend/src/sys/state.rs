//! The lock, the records and the journal.
//!
//! A call holds the lock for its whole run. Before its first change it writes the journal, after its
//! last one it removes it. Whoever takes the lock and finds a journal finishes the story: a setup that
//! is not on record is taken back, a teardown is done to the end.
//!
//! The lock file goes with the directory when the last network goes. Somebody may be waiting for it
//! then, so whoever gets a lock checks that the file is still the one with that name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::legacy::{NetworkFile, PortsFile};
use wire::names::{ContainerId, InterfaceName, NetworkId};
use wire::state::{ContainerRecord, Journal, NetworkRecord, VERSION};

use super::{SysError, files};
use crate::plan::layout;

/// The state directory of the engine, with our lock on it.
#[derive(Debug)]
pub struct StateDir {
    config: PathBuf,
    lock: Option<Flock<File>>,
}

/// Everything on record.
#[derive(Debug, Clone, Default)]
pub struct Everything {
    /// The networks that have containers.
    pub networks: BTreeMap<NetworkId, NetworkRecord>,
    /// The containers.
    pub containers: Vec<ContainerRecord>,
    /// What cannot be read, and why.
    pub problems: Vec<String>,
}

impl StateDir {
    /// Takes the lock, waiting for whoever has it.
    ///
    /// # Errors
    /// The directory or the lock cannot be made.
    pub fn open(config: &Path) -> Result<Self, SysError> {
        let path = layout::lock(config);
        let failed = |source| SysError::Io {
            context: format!("lock {}", path.display()),
            source,
        };
        loop {
            fs::create_dir_all(layout::own(config)).map_err(failed)?;
            let options = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path);
            let file = match options {
                Ok(file) => file,
                // The last network went between the two calls, and the directory with it.
                Err(error) if files::is_gone(&error) => continue,
                Err(error) => return Err(failed(error)),
            };
            let lock = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| failed(errno.into()))?;
            let ours = lock.metadata().map_err(failed)?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                return Ok(Self {
                    config: config.to_path_buf(),
                    lock: Some(lock),
                });
            }
        }
    }

    /// Reads without the lock, for calls that change nothing.
    #[must_use]
    pub fn unlocked(config: &Path) -> Self {
        Self {
            config: config.to_path_buf(),
            lock: None,
        }
    }

    /// The journal of a call that did not come to its end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn journal(&self) -> Result<Option<Journal>, SysError> {
        record(&layout::journal(&self.config))
    }

    /// Writes down what is about to happen.
    ///
    /// # Errors
    /// It cannot be written; nothing has happened then.
    pub fn begin(&self, journal: &Journal) -> Result<(), SysError> {
        self.write(&layout::journal(&self.config), journal)
    }

    /// Removes the journal. Errors are logged: a journal too many does no harm.
    pub fn end(&self) {
        let path = layout::journal(&self.config);
        if let Err(error) = files::remove(&path, &layout::own(&self.config)) {
            tracing::warn!("remove {}: {error}", path.display());
        }
    }

    /// The record of a container.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn container(&self, id: &ContainerId) -> Result<Option<ContainerRecord>, SysError> {
        record(&layout::container(&self.config, id))
    }

    /// Puts a container on record, or takes it off when it has no attachment.
    ///
    /// # Errors
    /// The record cannot be written or removed.
    pub fn put_container(&self, container: &ContainerRecord) -> Result<(), SysError> {
        let path = layout::container(&self.config, &container.id);
        if container.is_empty() {
            let removed = files::remove(&path, &layout::own(&self.config));
            return removed
                .map(drop)
                .map_err(SysError::io(format!("remove {}", path.display())));
        }
        self.write(&path, container)
    }

    /// The record of a network that has containers.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn network(&self, id: &NetworkId) -> Result<Option<NetworkRecord>, SysError> {
        record(&layout::network(&self.config, id))
    }

    /// Whether a container other than this is attached to a network.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn has_other_member(
        &self,
        network: &NetworkId,
        container: &ContainerId,
    ) -> Result<bool, SysError> {
        let path = layout::members(&self.config, network);
        files::has_entry_but(&path, &[container.as_str()])
            .map_err(SysError::io(format!("read {}", path.display())))
    }

    /// The records of the networks that use a bridge.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn bridge_users(&self, bridge: &InterfaceName) -> Result<Vec<NetworkRecord>, SysError> {
        let path = layout::bridge(&self.config, bridge);
        let names =
            files::names(&path).map_err(SysError::io(format!("read {}", path.display())))?;
        let mut users = Vec::new();
        for id in names.iter().filter_map(|name| name.parse().ok()) {
            users.extend(self.network(&id)?);
        }
        Ok(users)
    }

    /// Whether a network that is not among these has containers, ours or netavark's.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn has_network_but(&self, known: &BTreeSet<&NetworkId>) -> Result<bool, SysError> {
        let known: Vec<&str> = known.iter().map(|id| id.as_str()).collect();
        for path in [
            layout::networks(&self.config),
            layout::firewall_networks(&self.config),
        ] {
            if files::has_entry_but(&path, &known)
                .map_err(SysError::io(format!("read {}", path.display())))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All records, and those of netavark for what we have none of. What cannot be read is logged and
    /// left out, so that one bad file does not stop everything.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn everything(&self) -> Result<Everything, SysError> {
        let listed = |path: PathBuf| {
            files::names(&path).map_err(SysError::io(format!("read {}", path.display())))
        };
        let mut all = Everything::default();
        for id in listed(layout::networks(&self.config))?
            .iter()
            .filter_map(|name| name.parse().ok())
        {
            if let Some(network) = noted(self.network(&id), &mut all.problems) {
                all.networks.insert(id, network);
            }
        }
        for id in listed(layout::containers(&self.config))?
            .iter()
            .filter_map(|name| name.parse().ok())
        {
            let container = noted(self.container(&id), &mut all.problems);
            all.containers.extend(container);
        }
        self.add_netavark(&mut all)?;
        Ok(all)
    }

    /// Adds what only netavark's files tell of. Beside records of ours they would say the same.
    fn add_netavark(&self, all: &mut Everything) -> Result<(), SysError> {
        let recorded: BTreeSet<String> = all.networks.keys().map(ToString::to_string).collect();
        let networks: Vec<NetworkFile> = read_all(
            &layout::firewall_networks(&self.config),
            |name| recorded.contains(name),
            &mut all.problems,
        )?;
        let attachment = |container: &ContainerRecord| {
            // What netavark wrote of a network tells enough only with what it wrote of its containers.
            let on = container.attachments.iter();
            let on = on.filter(|on| all.networks.contains_key(&on.network));
            let names = on.map(|on| format!("{}_{}", on.network, container.id));
            names.collect::<Vec<_>>()
        };
        let known: BTreeSet<String> = all.containers.iter().flat_map(attachment).collect();
        let ports: Vec<PortsFile> = read_all(
            &layout::all_firewall_ports(&self.config),
            |name| known.contains(name),
            &mut all.problems,
        )?;
        crate::plan::adopt::adopt(&mut all.networks, &mut all.containers, networks, ports);
        Ok(())
    }

    /// The lock under which zone files are written; netavark takes it, too.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn zone_lock(&self) -> Result<Flock<File>, SysError> {
        let path = layout::zone_lock(&self.config);
        let failed = |source| SysError::Io {
            context: format!("lock {}", path.display()),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))
    }

    /// Whether netavark, or we in its stead, left a state file of a network.
    #[must_use]
    pub fn netavark_network(&self, id: &NetworkId) -> bool {
        layout::firewall_network(&self.config, id).exists()
    }

    /// Whether netavark, or we in its stead, left a state file of a container on a network.
    #[must_use]
    pub fn netavark_ports(&self, network: &NetworkId, container: &ContainerId) -> bool {
        layout::firewall_ports(&self.config, network, container).exists()
    }

    /// Whether there are state files of other containers than this on a network. It takes a look at all names.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn has_other_netavark_ports(
        &self,
        network: &NetworkId,
        container: &ContainerId,
    ) -> Result<bool, SysError> {
        let path = layout::all_firewall_ports(&self.config);
        let names =
            files::names(&path).map_err(SysError::io(format!("read {}", path.display())))?;
        let of_network = |name: &str| {
            name.strip_prefix(network.as_str())?
                .strip_prefix('_')
                .map(|id| id != container.as_str())
        };
        Ok(names.iter().any(|name| of_network(name) == Some(true)))
    }

    /// Takes our directory away if no network is left, with the lock as its last part.
    pub fn close(mut self) {
        let own = layout::own(&self.config);
        let empty = |path: PathBuf| files::has_entry_but(&path, &[]).is_ok_and(|some| !some);
        let idle = empty(layout::networks(&self.config)) && empty(layout::containers(&self.config));
        if self.lock.is_some() && idle && !layout::journal(&self.config).exists() {
            for directory in [
                layout::networks(&self.config),
                layout::containers(&self.config),
                own.join("bridges"),
            ] {
                drop(fs::remove_dir(directory));
            }
            drop(fs::remove_file(layout::lock(&self.config)));
            drop(fs::remove_dir(&own));
            if !layout::zones(&self.config).exists() {
                drop(fs::remove_file(layout::zone_lock(&self.config)));
            }
        }
        self.lock = None;
    }

    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), SysError> {
        let text = crate::plan::setup::json(value);
        files::replace(path, &text, &layout::staging(&self.config))
            .map_err(SysError::io(format!("write {}", path.display())))
    }
}

/// A record with a version that we understand.
fn record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SysError> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let wrong = |why: String| SysError::Record {
        path: path.display().to_string(),
        why,
    };
    let Some(text) = files::read(path).map_err(SysError::io(format!("read {}", path.display())))?
    else {
        return Ok(None);
    };
    let Version { version } =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if version > VERSION {
        return Err(wrong(format!(
            "version {version} was written by a later program, this one understands {VERSION}"
        )));
    }
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| wrong(error.to_string()))
}

/// What was read, if it could be; else the log says why not.
pub(super) fn logged<T>(outcome: Result<Option<T>, SysError>) -> Option<T> {
    outcome.unwrap_or_else(|error| {
        tracing::warn!("{error}");
        None
    })
}

/// What was read, if it could be; else the log and the list say why not.
fn noted<T>(outcome: Result<Option<T>, SysError>, problems: &mut Vec<String>) -> Option<T> {
    outcome.unwrap_or_else(|error| {
        tracing::warn!("{error}");
        problems.push(error.to_string());
        None
    })
}

/// All documents of a directory but these that can be understood.
fn read_all<T: DeserializeOwned>(
    directory: &Path,
    skip: impl Fn(&str) -> bool,
    problems: &mut Vec<String>,
) -> Result<Vec<T>, SysError> {
    let names =
        files::names(directory).map_err(SysError::io(format!("read {}", directory.display())))?;
    let mut documents = Vec::new();
    for path in names
        .iter()
        .filter(|name| !skip(name))
        .map(|name| directory.join(name))
    {
        documents.extend(noted(document(&path), problems));
    }
    Ok(documents)
}

/// A document of netavark's.
fn document<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SysError> {
    let text = files::read(path).map_err(SysError::io(format!("read {}", path.display())))?;
    let parsed = text.map(|text| serde_json::from_str(&text)).transpose();
    parsed.map_err(|error| SysError::Record {
        path: path.display().to_string(),
        why: error.to_string(),
    })
}
