//! Files: replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The content of a file, or nothing if there is none.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The inode of a file, if it is there.
#[must_use]
pub fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| found.ino())
}

/// Whether the error says that something on the path does not exist.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

/// Puts a file in the place of whatever is there, with its directories. Readers see the old content or
/// the new one. `staging` is a path on the same file system, used by one call at a time.
///
/// # Errors
/// What the system says about the first call that fails; the old file is still there then.
pub fn replace(path: &Path, content: &str, staging: &Path) -> io::Result<()> {
    make_parent(path)?;
    let written = write_new(staging, content).and_then(|()| fs::rename(staging, path));
    if written.is_err() {
        // Nothing can be done about a leftover but to try; the next call replaces it.
        drop(fs::remove_file(staging));
    }
    written
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    make_parent(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(content.as_bytes())
}

/// Makes a file unless it is there. Tells whether it was made.
///
/// # Errors
/// It can neither be made nor is it there.
pub fn create(path: &Path, content: &str) -> io::Result<bool> {
    make_parent(path)?;
    let mut file = match File::create_new(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    };
    match file.write_all(content.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) => {
            drop(fs::remove_file(path));
            Err(error)
        }
    }
}

/// Appends text to a file that exists and is not empty, in one write. Tells whether it is so.
///
/// # Errors
/// The file cannot be written.
pub fn append(path: &Path, text: &str) -> io::Result<bool> {
    let mut file = match OpenOptions::new().append(true).open(path) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.write_all(text.as_bytes())?;
    Ok(true)
}

/// Removes a file and the directories that become empty, up to `keep`. Tells whether it was there.
///
/// # Errors
/// The file is there and cannot be removed.
pub fn remove(path: &Path, keep: &Path) -> io::Result<bool> {
    let existed = match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) if is_gone(&error) => false,
        Err(error) => return Err(error),
    };
    let above = path
        .ancestors()
        .skip(1)
        .take_while(|directory| *directory != keep && directory.starts_with(keep));
    for directory in above {
        if fs::remove_dir(directory).is_err_and(|error| !is_gone(&error)) {
            break;
        }
    }
    Ok(existed)
}

/// Whether a directory has an entry other than these.
///
/// Entries are read until one is found, so the size of the directory does not matter.
///
/// # Errors
/// The directory is there and cannot be read.
pub fn has_entry_but(directory: &Path, except: &[&str]) -> io::Result<bool> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        if except.iter().all(|known| name != *known) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names of a directory's entries, in order; none if there is no directory.
///
/// # Errors
/// The directory is there and cannot be read.
pub fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}
