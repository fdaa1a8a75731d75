//! Counters as Prometheus text on a unix socket, for whoever connects; off unless `DNSD_METRICS` names its path.
//!
//! The socket is made at start, in the directory of the starter and with all capabilities, and replaces one that a
//! killed daemon left. It answers any request with everything.

use std::fmt::Write;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::limits;

/// The socket before there is a runtime to wait for it.
#[derive(Debug)]
pub struct Bound {
    socket: std::os::unix::net::UnixListener,
    place: Place,
}

/// The socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    _place: Place,
}

/// The file that the socket is known by; it goes with it, unless another daemon has put its own there.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    inode: Option<u64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.inode.is_some() && self.inode == inode(&self.path) {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|found| found.ino())
}

/// Makes the socket, at a path from where we are now.
///
/// # Errors
/// Its directory is not there, or not ours.
pub fn bind(path: &Path) -> io::Result<Bound> {
    let path = std::path::absolute(path)?;
    if std::fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(&path)?;
    }
    let socket = std::os::unix::net::UnixListener::bind(&path)?;
    socket.set_nonblocking(true)?;
    let inode = inode(&path);
    let place = Place { path, inode };
    Ok(Bound { socket, place })
}

impl Bound {
    /// Where the socket is, and from where it is removed in the end.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.place.path.parent()
    }

    /// Lets the runtime wait for connections.
    ///
    /// # Errors
    /// The kernel has no room for it.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener {
            socket: UnixListener::from_std(self.socket)?,
            _place: self.place,
        })
    }
}

impl Listener {
    /// The next one who wants to know.
    pub async fn accept(&self) -> Option<UnixStream> {
        self.socket.accept().await.ok().map(|(stream, _)| stream)
    }
}

/// Counters as text.
#[must_use]
pub fn text(counters: &[(&'static str, &'static str, u64)]) -> String {
    let mut text = String::new();
    for (name, help, value) in counters {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# HELP dnsd_{name}_total {}\n# TYPE dnsd_{name}_total counter\ndnsd_{name}_total {value}",
            help.trim()
        );
    }
    text
}

/// Answers whatever is asked.
///
/// # Errors
/// Nobody listens any more.
pub async fn answer(mut stream: UnixStream, text: String) -> io::Result<()> {
    let mut request = [0; 1024];
    timeout(limits::IDLE, stream.read(&mut request)).await??;
    let head = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    timeout(limits::IDLE, stream.write_all((head + &text).as_bytes())).await?
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_line_for_the_value() {
        let text = super::text(&[("queries_udp", " Queries by UDP.", 7)]);
        assert!(text.ends_with("\ndnsd_queries_udp_total 7\n"), "{text}");
    }
}
