//! The capture file (`--pcap`): every frame that crosses the tap, as a wire would show it.
//!
//! On the tap both kernels leave work to each other: a frame of 64 kB stands for a train of packets, and its checksum is
//! half a one. The capture has the packets, complete, so that no reader takes them for broken; not a byte of a payload is
//! left out. A frame that the guest did not take is not in it.
//!
//! Frames are gathered and written at the end of a round of the loop, so that a reader sees what happened before we slept.
//! On a full disk the capture ends with the last frame that fits; the network goes on.
#![expect(
    clippy::disallowed_methods,
    reason = "the wall clock and a file, opened before the sandbox closes"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::cut;
use crate::event::Offload;
use crate::pcap;

/// What is gathered before it is written, bytes: a round has more only if it is a long one.
const BATCH: usize = 256 * 1024;

/// Who is told why a capture ended.
pub type Complaint = Box<dyn FnOnce(io::Error)>;

/// The capture file.
pub struct Capture {
    /// None: the capture has ended.
    file: Option<File>,
    batch: Vec<u8>,
    /// Bytes in the file.
    len: u64,
    complaint: Option<Complaint>,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Capture {
    /// Makes the file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(path)?;
        let header = pcap::file_header();
        file.write_all(&header)?;
        Ok(Self {
            file: Some(file),
            batch: Vec::new(),
            len: header.len() as u64,
            complaint: None,
        })
    }

    /// Whom to tell if the capture ends before we do.
    pub fn on_failure(&mut self, complaint: Complaint) {
        self.complaint = Some(complaint);
    }

    /// A frame: its headers, what follows them, what its sender left to do, and to how many bytes it was filled up.
    pub fn frame(
        &mut self,
        headers: &[u8],
        payload: &[IoSlice<'_>],
        offload: Offload,
        least: usize,
    ) {
        if self.file.is_none() {
            return;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let payload: Vec<u8> = payload
            .iter()
            .flat_map(|part| part.iter())
            .copied()
            .collect();
        if offload.partial_checksum {
            for packet in cut::complete(headers, &payload, offload.segments) {
                self.gather(now, &packet, &[], least);
            }
        } else {
            self.gather(now, headers, &payload, least);
        }
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    fn gather(&mut self, time: Duration, headers: &[u8], payload: &[u8], least: usize) {
        let own = headers.len() + payload.len();
        let len = u32::try_from(own.max(least)).unwrap_or(u32::MAX);
        self.batch.extend(pcap::frame_header(time, len));
        self.batch.extend(headers);
        self.batch.extend(payload);
        self.batch
            .extend(std::iter::repeat_n(0, least.saturating_sub(own)));
    }

    /// At the end of a batch: what was gathered can be read.
    pub fn flush(&mut self) {
        let Some(file) = &mut self.file else { return };
        if self.batch.is_empty() {
            return;
        }
        if let Err(error) = file.write_all(&self.batch) {
            // Half a frame would make the file end in garbage. What is no regular file keeps it.
            file.set_len(self.len).unwrap_or_default();
            self.file = None;
            if let Some(complaint) = self.complaint.take() {
                complaint(error);
            }
        }
        self.len += self.batch.len() as u64;
        self.batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::rc::Rc;

    #[test]
    fn what_the_file_looks_like() {
        let name = format!("usernet-pcap-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut capture = Capture::create(&path).unwrap();
        let payload = [IoSlice::new(&[2; 40]), IoSlice::new(&[3; 6])];
        capture.frame(&[1; 14], &payload, Offload::default(), 60);
        capture.frame(&[4; 42], &[], Offload::default(), 60);
        capture.frame(&[5; 42], &[], Offload::default(), 0);
        assert_eq!(fs::read(&path).unwrap().len(), 24);
        capture.flush();
        let bytes = fs::read(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        fs::remove_file(&path).unwrap();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(bytes.len(), 24 + 16 + 60 + 16 + 60 + 16 + 42);
        assert_eq!(bytes[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(bytes[20..24], [1, 0, 0, 0]);
        assert_eq!(bytes[32..40], [60, 0, 0, 0, 60, 0, 0, 0]);
        assert_eq!(bytes[40..54], [1; 14]);
        assert_eq!(bytes[94..100], [3; 6]);
        assert_eq!(bytes[116 + 42..176], [0; 18]);
        assert_eq!(bytes[184..192], [42, 0, 0, 0, 42, 0, 0, 0]);
    }

    #[test]
    fn a_full_disk_ends_the_capture_and_is_told_once() {
        let told = Rc::new(RefCell::new(Vec::new()));
        let teller = Rc::clone(&told);
        let mut capture = Capture::create(Path::new("/dev/null")).unwrap();
        capture.file = Some(File::options().write(true).open("/dev/full").unwrap());
        capture.on_failure(Box::new(move |error| {
            teller.borrow_mut().push(error.kind());
        }));
        for _ in 0..3 {
            capture.frame(&[1; 60], &[], Offload::default(), 0);
            capture.flush();
        }
        assert_eq!(*told.borrow(), [io::ErrorKind::StorageFull]);
        assert!(capture.batch.is_empty());
    }
}
