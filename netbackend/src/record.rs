//! Recordings of calls: what is kept of one, and how an engine is made to call us.
//!
//! ```text
//!  record DIR -- podman run …         makes DIR/bin/netavark and becomes the command
//!        └─▶ podman ─▶ DIR/bin/netavark ─▶ record --call ─▶ the backend
//!                                              └─▶ DIR/<time>-<process>-<verb>.json
//! ```
//! Engines look for helpers in the directory of [`HELPERS`] first, and pass that variable on to the processes that clean up
//! after a container. What stands there under the name `netavark` is a script of one line: it needs nothing of the
//! environment, so it does its work whoever calls it and whenever.
//!
//! The one between passes on bytes as they come, in both directions, signals, and the way the backend ended.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::value::RawValue;
use wire::recording::{Recording, VERSION};

use crate::create::time;

/// The variable that names a directory where engines look for helpers first.
pub const HELPERS: &str = "CONTAINERS_HELPER_BINARY_DIR";

/// Where engines look for helpers otherwise, unless a file of theirs says it ([`helper_directories`]).
pub const HELPER_DIRECTORIES: [&str; 4] = [
    "/usr/local/libexec/podman",
    "/usr/local/lib/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
];

/// The name that engines call a backend by.
pub const BACKEND: &str = "netavark";

/// How much of input and of output is kept, in bytes. The largest real request seen has some megabytes.
pub const LIMIT: usize = 64 << 20;

/// Variables that change what a backend does. Others are nobody's business.
pub const VARIABLES: [&str; 9] = [
    "DBUS_SYSTEM_BUS_ADDRESS",
    "NETAVARK_DNS_PORT",
    "NETAVARK_FW",
    "NETAVARK_PROXY_RUN_DIR_ENV",
    "NETBACKEND_ISOLATE_DEFAULT",
    "NETBACKEND_NFT",
    "PATH",
    "RUST_LOG",
    "XDG_RUNTIME_DIR",
];

/// What was seen of a call.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// When it began, since 1970.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, as far as it matters.
    pub environment: BTreeMap<String, String>,
    /// Its standard input.
    pub input: Kept,
    /// Its standard output.
    pub output: Kept,
    /// How it ended.
    pub ended: Ended,
}

/// The beginning of a stream, up to [`LIMIT`].
#[derive(Debug, Clone, Default)]
pub struct Kept {
    bytes: Vec<u8>,
    cut: bool,
}

impl Kept {
    /// Takes note of what passed.
    pub fn add(&mut self, bytes: &[u8]) {
        let room = LIMIT - self.bytes.len();
        let kept = bytes.get(..room).unwrap_or(bytes);
        self.bytes.extend_from_slice(kept);
        self.cut |= kept.len() < bytes.len();
    }

    /// The document, or else the text; neither if there was nothing.
    fn content(self) -> (Option<Box<RawValue>>, Option<String>) {
        if self.bytes.is_empty() {
            return (None, None);
        }
        let text = String::from_utf8_lossy(&self.bytes);
        let exact = matches!(text, std::borrow::Cow::Borrowed(_));
        match serde_json::from_str(&text) {
            Ok(document) if exact => (Some(document), None),
            _ => (None, Some(text.into_owned())),
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By the signal of this number.
    Signal(i32),
}

impl Default for Ended {
    fn default() -> Self {
        Self::Code(0)
    }
}

/// The document of a call.
#[must_use]
pub fn recording(seen: Seen) -> Recording {
    let cut = seen.input.cut || seen.output.cut;
    let (request, input) = seen.input.content();
    let (reply, output) = seen.output.content();
    let (exit_code, signal) = match seen.ended {
        Ended::Code(code) => (Some(code), None),
        Ended::Signal(number) => (None, Some(number)),
    };
    Recording {
        version: VERSION,
        time: time::rfc3339(seen.began),
        duration_us: seen.took.as_micros().try_into().unwrap_or(u64::MAX),
        program: seen.program,
        arguments: seen.arguments,
        environment: seen.environment,
        request,
        input,
        reply,
        output,
        exit_code,
        signal,
        cut,
    }
}

/// The verb of a call: the first argument that is neither an option nor the value of one.
#[must_use]
pub fn verb(arguments: &[String]) -> Option<&str> {
    const WITH_VALUE: [&str; 13] = [
        "-f",
        "--file",
        "-c",
        "--config",
        "-r",
        "--rootless",
        "-a",
        "--aardvark-binary",
        "--plugin-directory",
        "--firewall-driver",
        "--nft",
        "-d",
        "-u",
    ];
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            arguments.next();
        } else if !argument.starts_with('-') {
            return Some(argument);
        }
    }
    None
}

/// The name of the file of a call: those of a directory are in the order of time.
#[must_use]
pub fn file_name(began: Duration, process: u32, arguments: &[String]) -> String {
    let verb = verb(arguments).unwrap_or("call");
    let verb: String = verb
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-')
        .take(24)
        .collect();
    let time = time::rfc3339(began).replace(':', "");
    let time = time.get(..24).unwrap_or(&time).to_owned();
    format!("{time}Z-{process}-{verb}.json")
}

/// Where an engine looks for helpers as this `containers.conf` says, if it does: the strings of the list
/// `helper_binaries_dir`, which may have comments between them.
#[must_use]
pub fn helper_directories(file: &str) -> Option<Vec<PathBuf>> {
    let lists = file
        .match_indices("helper_binaries_dir")
        .filter_map(|(at, key)| {
            let (before, rest) = (file.get(..at)?, file.get(at + key.len()..)?);
            let line = before.rsplit('\n').next()?;
            let list = rest.trim_start().strip_prefix('=')?.trim_start();
            list.strip_prefix('[')
                .filter(|_| matches!(line.trim(), "" | "engine."))
        });
    Some(strings(lists.last()?))
}

/// The strings up to the end of a list.
fn strings(list: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut rest = list;
    while let Some(at) = rest.find(['"', '\'', '#', ']']) {
        let (mark, behind) = rest.split_at(at + 1);
        let end = match mark.as_bytes().last() {
            Some(b'#') => '\n',
            Some(b'"') => '"',
            Some(b'\'') => '\'',
            _ => break,
        };
        let Some((text, behind)) = behind.split_once(end) else {
            break;
        };
        if end != '\n' {
            found.push(text.into());
        }
        rest = behind;
    }
    found
}

/// The script that stands where an engine looks for a backend.
#[must_use]
pub fn script(recorder: &Path, backend: &Path, directory: &Path) -> Vec<u8> {
    let mut script = b"#!/bin/sh\nexec ".to_vec();
    script.extend(quoted(recorder.as_os_str()));
    script.extend_from_slice(b" record --call --backend ");
    script.extend(quoted(backend.as_os_str()));
    script.push(b' ');
    script.extend(quoted(directory.as_os_str()));
    script.extend_from_slice(b" -- \"$@\"\n");
    script
}

/// A word of which a shell takes nothing for anything else.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Whether a command is a call of a backend itself.
#[must_use]
pub fn is_backend(command: &Path) -> bool {
    let name = command.file_name().unwrap_or_default();
    name == BACKEND || name == "netbackend"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn files_say_where_helpers_are() {
        let check = |file: &str, expected: Option<&[&str]>| {
            let found = helper_directories(file);
            let expected = expected.map(|paths| paths.iter().map(PathBuf::from).collect());
            assert_eq!(found, expected, "{file}");
        };
        check("", None);
        check("[engine]\n# helper_binaries_dir = [\"/a\"]\n", None);
        check("helper_binaries_dirs = [\"/a\"]", None);
        check("helper_binaries_dir = []", Some(&[]));
        check("engine.helper_binaries_dir = ['/a']", Some(&["/a"]));
        let list = "[engine]\n  helper_binaries_dir=[ # [first]\n \"/a\", '/b c' ,\n# \"/no\"\n\"/d\"] # \"/no\"\nx = [\"/no\"]";
        check(list, Some(&["/a", "/b c", "/d"]));
        check(
            "helper_binaries_dir = [\"/a\"]\nhelper_binaries_dir = [\"/b\"",
            Some(&["/b"]),
        );
        check("helper_binaries_dir = [\"/a", Some(&[]));
    }

    #[test]
    fn verbs_are_found_behind_options() {
        let check = |arguments: &str, expected: Option<&str>| {
            assert_eq!(verb(&words(arguments)), expected, "{arguments}");
        };
        check(
            "--config /run/x --rootless=false --aardvark-binary= setup /run/netns/x",
            Some("setup"),
        );
        check("-c setup -r true teardown x", Some("teardown"));
        check("--version", None);
        check("", None);
    }

    #[test]
    fn files_are_in_the_order_of_time_and_have_harmless_names() {
        let name =
            |seconds, arguments| file_name(Duration::new(seconds, 5_000), 7, &words(arguments));
        assert_eq!(
            name(1_795_196_893, "--config x setup y"),
            "2026-11-20T174813.000005Z-7-setup.json"
        );
        assert_eq!(
            name(0, "../../etc/x"),
            "1970-01-01T000000.000005Z-7-etcx.json"
        );
        assert_eq!(name(0, ""), "1970-01-01T000000.000005Z-7-call.json");
    }

    #[test]
    fn documents_are_kept_as_they_stand() {
        let seen = |input: &[u8], output: &[u8]| {
            let mut seen = Seen::default();
            seen.input.add(input);
            seen.output.add(output);
            recording(seen)
        };
        let text = r#"{"z": 1.50, "a": {"y":2,"b":1}}"#;
        let kept = seen(format!("{text}\n").as_bytes(), b"{} {}");
        assert_eq!(kept.request.as_ref().unwrap().get(), text);
        assert_eq!(
            (kept.reply.is_none(), kept.output.as_deref()),
            (true, Some("{} {}"))
        );
        let json = serde_json::to_string(&kept).unwrap();
        let again: Recording = serde_json::from_str(&json).unwrap();
        assert_eq!(again.request.unwrap().get(), text);
        let kept = seen(b"", b"\xff\xfe");
        assert!(kept.request.is_none() && kept.input.is_none());
        assert_eq!(kept.output.as_deref(), Some("\u{fffd}\u{fffd}"));
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let mut kept = Kept::default();
        let piece = vec![b' '; LIMIT / 3];
        for _ in 0..4 {
            kept.add(&piece);
        }
        assert_eq!((kept.bytes.len(), kept.cut), (LIMIT, true));
    }

    #[test]
    fn a_script_has_its_words_in_quotes() {
        let script = script("/a b/it's".as_ref(), "/x".as_ref(), "$(y)".as_ref());
        assert_eq!(
            String::from_utf8(script).unwrap(),
            "#!/bin/sh\nexec '/a b/it'\\''s' record --call --backend '/x' '$(y)' -- \"$@\"\n"
        );
    }
}
