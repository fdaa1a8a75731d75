//! Where engines look for their helpers: what their configuration says.
//!
//! Podman reads several files, the administrator's before the user's. In each, `helper_binaries_dir` of `[engine]` may be
//! a list of directories; the list that is read last counts alone, unless it says `{append=true}`. That is how our own
//! executables are put before others (`hack/install`), so who looks for a helper has to look there, too. Of TOML only what
//! such a list can be is understood here.

/// Where engines look unless they are told otherwise.
pub const HELPER_DIRECTORIES: [&str; 4] = [
    "/usr/local/libexec/podman",
    "/usr/local/lib/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
];

/// The variable that names one file to read instead of all.
pub const ONLY: &str = "CONTAINERS_CONF";

/// The variable that names one more file, to be read last.
pub const LAST: &str = "CONTAINERS_CONF_OVERRIDE";

/// The files for everybody, in their order; each has a directory of its own name with `.d` beside it.
pub const FILES: [&str; 2] = [
    "/usr/share/containers/containers.conf",
    "/etc/containers/containers.conf",
];

/// A user's own file, below the directory of configuration.
pub const OWN_FILE: &str = "containers/containers.conf";

/// The directories where helpers are looked for in the end, by the texts of configuration files in their order.
#[must_use]
pub fn helper_directories<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = HELPER_DIRECTORIES.map(str::to_owned).into();
    for (directories, appended) in files.into_iter().filter_map(list) {
        if !appended {
            all.clear();
        }
        all.extend(directories);
    }
    all
}

/// The list in a file, and whether it is added to those before it.
fn list(file: &str) -> Option<(Vec<String>, bool)> {
    let mut section = "";
    let mut rest = file;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.split(']').next().unwrap_or_default().trim();
        } else if let Some((key, _)) = line.split_once('=') {
            let key = key.trim();
            let is_it = match section {
                "engine" => key == "helper_binaries_dir",
                "" => key == "engine.helper_binaries_dir",
                _ => false,
            };
            if is_it {
                return array(rest.split_once('=')?.1);
            }
        }
        rest = after;
    }
    None
}

/// The strings of an array that begins here, and whether the rest of it says that they are added.
fn array(text: &str) -> Option<(Vec<String>, bool)> {
    let mut letters = text.trim_start().strip_prefix('[')?.chars();
    let (mut strings, mut plain) = (Vec::new(), String::new());
    loop {
        match letters.next()? {
            ']' => break,
            '#' => drop(letters.by_ref().find(|letter| *letter == '\n')),
            quote @ ('"' | '\'') => strings.push(string(&mut letters, quote)?),
            letter if letter.is_whitespace() => {}
            letter => plain.push(letter),
        }
    }
    Some((strings, plain.contains("append=true")))
}

/// The rest of a string, up to its quote.
fn string(letters: &mut impl Iterator<Item = char>, quote: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match letters.next()? {
            letter if letter == quote => return Some(text),
            '\\' if quote == '"' => text.push(letters.next()?),
            letter => text.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_list_counts() {
        let check = |files: &[&str], expected: &[&str]| {
            assert_eq!(helper_directories(files.iter().copied()), expected);
        };
        check(&[], &HELPER_DIRECTORIES);
        check(
            &["", "[engine]\n#helper_binaries_dir = [\"/no\"]\n"],
            &HELPER_DIRECTORIES,
        );
        let one = "[containers]\ncgroups = \"disabled\"\n[engine] # ours\nhelper_binaries_dir = [\n  \"/one\", # \"no\"\n  '/t\\wo',\n]\nx = 1";
        check(&[one], &["/one", "/t\\wo"]);
        check(
            &[one, "engine.helper_binaries_dir=[\"/a\\\"b\"]"],
            &["/a\"b"],
        );
        check(
            &[
                one,
                "[engine]\nhelper_binaries_dir=['/more', {append = true}]",
            ],
            &["/one", "/t\\wo", "/more"],
        );
        check(&[one, "[engine]\nhelper_binaries_dir=[]"], &[]);
    }

    #[test]
    fn what_is_no_list_is_left_out() {
        for file in [
            "[engine]\nhelper_binaries_dir = \"/x\"",
            "[engine]\nhelper_binaries_dir = [\"/x\"",
            "[engine]\nhelper_binaries_dir = [\"/x",
            "[engine]\nhelper_binaries_dir",
            "[network]\nhelper_binaries_dir = [\"/x\"]",
        ] {
            assert_eq!(helper_directories([file]), HELPER_DIRECTORIES, "{file}");
        }
    }
}
