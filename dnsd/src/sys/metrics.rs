//! Counters as Prometheus text on a unix socket, for whoever connects; off unless `DNSD_METRICS` names its path.
//!
//! The socket is made at start, before system calls are filtered, and replaces one that a dead daemon left. It
//! answers any request with everything.

use std::fmt::Write;
use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::limits;

/// Makes the socket.
///
/// # Errors
/// Its directory is not there, or not ours.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
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
