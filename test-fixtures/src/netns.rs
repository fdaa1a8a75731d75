//! Network namespaces of a lab: containers, and the machine outside.

use std::fs::{self, File};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::program::Program;

/// A network namespace with a path.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    bound: bool,
}

impl Netns {
    /// The one that the whole process is in.
    pub fn own() -> Self {
        Self {
            path: PathBuf::from("/proc/self/ns/net"),
            bound: false,
        }
    }

    /// A new, empty one, bound at `/run/netns/<name>` as engines and `ip netns` do it. `lo` is down.
    pub fn create(name: &str) -> Result<Self> {
        let path = Path::new("/run/netns").join(name);
        File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        // Dropped, and so removed, when the rest fails.
        let mut netns = Self { path, bound: false };
        let path = netns.path.as_path();
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            mount(
                Some("/proc/thread-self/ns/net"),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("cannot bind a namespace at {}", path.display()))
        })?;
        netns.bound = true;
        Ok(netns)
    }

    /// Where it can be opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `body` on a thread that is in this namespace. Sockets and child processes made there belong to it, and so
    /// does what is read below `/proc/sys/net`.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(&self.path)
            .with_context(|| format!("cannot open {}", self.path.display()))?;
        in_thread(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {}", self.path.display()))?;
            body()
        })
    }

    /// Runs a shell script, stopping at the first command that fails, and returns what it printed.
    pub fn sh(&self, script: &str) -> Result<String> {
        let finished = Program::new("sh").args(["-ec", script]).run_in(self)?;
        if !finished.success() {
            bail!("`{script}` in {}: {finished}", self.path.display());
        }
        Ok(finished.stdout)
    }

    /// Sets `/proc/sys/net/<key>`, for example `ipv4/ip_forward`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| {
            fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
        })
    }

    /// Reads `/proc/sys/net/<key>`. `None`: this kernel has no such key (yet).
    pub fn sysctl(&self, key: &str) -> Result<Option<String>> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| {
            Ok(fs::read_to_string(&path)
                .ok()
                .map(|text| text.trim().to_owned()))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.bound {
            // The kernel destroys the namespace when the last process has left and this mount is gone. A test may have
            // been there first: both steps may fail.
            umount2(&self.path, MntFlags::MNT_DETACH).ok();
        }
        if self.path.starts_with("/run/netns") {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// A namespace is a property of a thread, so changing it takes one that ends afterwards.
fn in_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
