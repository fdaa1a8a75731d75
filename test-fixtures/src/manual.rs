//! What packages ship beside a program: the manual page and the completions, made of its command line's own words, and
//! the AppArmor profile.
//!
//! A test compares them with the files that packages ship: `man/PROGRAM.1`, and `completions/` with a file for each of
//! bash, zsh and fish, called as the shells want it. `UPDATE=1` writes them anew.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use clap::{Arg, Command as CommandLine};
use clap_complete::Shell;

use crate::golden;

/// What a page says that the command line does not say of itself.
#[derive(Debug, Clone, Copy)]
pub struct Manual<'a> {
    /// The name of the program, in small letters.
    pub name: &'a str,
    /// How it is called: what follows its name, one for each way.
    pub synopsis: &'a [&'a str],
    /// The section of that name, as roff.
    pub description: &'a str,
    /// What comes before the options, as roff.
    pub options: &'a str,
    /// Sections after the commands, as roff.
    pub rest: &'a str,
    /// What the program reads variables by: `reader("NAME"` in its sources.
    pub readers: &'a [&'a str],
    /// Variables that it reads so, at least.
    pub read: usize,
    /// Its AppArmor profile, if it has one of its own.
    pub profile: Option<&'a str>,
}

impl Manual<'_> {
    /// The page, as roff.
    #[must_use]
    pub fn page(&self, command: &CommandLine) -> String {
        let name = self.name;
        let upper = name.to_uppercase();
        let about = escaped(&first_word_small(&about(command)));
        let mut page = format!(".TH {upper} 1 \"\" {name}\n.SH NAME\n{name} - {about}\n");
        page.push_str(".SH SYNOPSIS\n");
        let ways = self.synopsis.iter();
        let ways: Vec<_> = ways.map(|way| format!("\\fB{name}\\fR {way}\n")).collect();
        page.push_str(&ways.join(".br\n"));
        write_all(&mut page, &[".SH DESCRIPTION\n", self.description]);
        write_all(&mut page, &[".SH OPTIONS\n", self.options]);
        arguments(&mut page, command);
        if command.has_subcommands() {
            page.push_str(".SH COMMANDS\n");
        }
        for sub in command.get_subcommands() {
            subcommand(&mut page, "", sub);
        }
        page.push_str(self.rest);
        page
    }

    /// Panics unless a program's page, completions and AppArmor profile below `crate_directory` are what they must be: up
    /// to date, without anything missing, and compiled by the parser.
    #[track_caller]
    pub fn assert_whole(&self, crate_directory: &str, command: &CommandLine) {
        self.assert_up_to_date(crate_directory, command);
        let page = self.page(command);
        assert_complete(&page, command);
        let source = Path::new(crate_directory).join("src");
        assert_variables(&page, source, self.readers, self.read);
        if let Some(profile) = self.profile {
            assert_profile_compiles(Path::new(crate_directory).join(profile));
        }
    }

    /// Panics unless page and completions below `crate_directory` are what the command line says.
    #[track_caller]
    fn assert_up_to_date(&self, crate_directory: &str, command: &CommandLine) {
        let crate_directory = Path::new(crate_directory);
        let page = crate_directory.join(format!("man/{}.1", self.name));
        golden::assert_matches(page, &self.page(command));
        for (shell, file) in [
            (Shell::Bash, self.name.to_owned()),
            (Shell::Zsh, format!("_{}", self.name)),
            (Shell::Fish, format!("{}.fish", self.name)),
        ] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command.clone(), self.name, &mut text);
            let mut text = String::from_utf8(text).expect("options are plain text");
            for word in hidden(command) {
                text = text.replace(&format!(" --{word} "), " ");
            }
            golden::assert_matches(crate_directory.join("completions").join(file), &text);
        }
    }
}

/// Panics unless whoever reads the page sees each sub-command, option and variable.
#[track_caller]
fn assert_complete(page: &str, command: &CommandLine) {
    let plain = page.replace("\\-", "-");
    for argument in shown(command).filter_map(Arg::get_long) {
        assert!(plain.contains(&format!("--{argument}")), "{argument}");
    }
    for sub in command.get_subcommands() {
        let title = format!("\n.SS \\fB{}", sub.get_name());
        assert!(plain.contains(&title), "{sub}");
    }
    for variable in command.get_arguments().filter_map(Arg::get_env) {
        assert_variable(page, &variable.to_string_lossy());
    }
}

/// Panics unless the page explains the variables that the sources below `directory` read, by calling `reader("NAME"`
/// with one of the readers' names. There are at least `least`.
#[track_caller]
fn assert_variables(page: &str, directory: impl AsRef<Path>, readers: &[&str], least: usize) {
    let mut directories = vec![directory.as_ref().to_owned()];
    let mut read = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the sources are there") {
            let path = entry.expect("the sources stay").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).expect("sources are text");
            for reader in readers {
                let call = format!("{reader}(\"");
                let names = text.split(&call).skip(1);
                read.extend(names.filter_map(|rest| rest.split('"').next().map(str::to_owned)));
            }
        }
    }
    assert!(read.len() >= least, "{read:?}");
    for name in read {
        assert_variable(page, &name);
    }
}

#[track_caller]
fn assert_variable(page: &str, name: &str) {
    assert!(page.contains(&format!("\n\\fB{name}\\fR\n")), "{name}");
}

/// Panics unless the parser of AppArmor compiles the profile. No kernel is asked.
#[track_caller]
fn assert_profile_compiles(file: impl AsRef<Path>) {
    let file = file.as_ref();
    let said = Command::new("apparmor_parser")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["--skip-kernel-load", "--skip-cache", "--stdout"])
        .arg(file)
        .output()
        .expect("apparmor_parser is installed: hack/deps");
    let errors = String::from_utf8_lossy(&said.stderr);
    let name = file.display();
    assert!(said.status.success(), "{name}: {errors}");
    assert!(
        said.stdout.len() > 1000,
        "{name}: nothing came out: {errors}"
    );
}

fn write_all(page: &mut String, parts: &[&str]) {
    for part in parts {
        page.push_str(part);
    }
}

fn subcommand(page: &mut String, parents: &str, command: &CommandLine) {
    let name = format!("{parents}{}", command.get_name());
    let nested: Vec<&CommandLine> = command.get_subcommands().collect();
    if nested.is_empty() {
        let mut usage = format!("\\fB{name}\\fR");
        for argument in shown(command) {
            let _ = write!(usage, " {}", in_usage(argument));
        }
        line(
            page,
            format_args!(".SS {usage}\n{}", escaped(&about(command))),
        );
        arguments(page, command);
    }
    for sub in nested {
        let mut sub = sub.clone();
        for argument in shown(command) {
            sub = sub.arg(argument.clone());
        }
        subcommand(page, &format!("{name} "), &sub);
    }
}

/// Options that nobody is to be offered; those of the completions for bash are all there otherwise.
fn hidden(command: &CommandLine) -> Vec<String> {
    let own = command.get_arguments().filter(|one| one.is_hide_set());
    let own = own.filter_map(|one| Some(one.get_long()?.to_owned()));
    own.chain(command.get_subcommands().flat_map(hidden))
        .collect()
}

fn shown(command: &CommandLine) -> impl Iterator<Item = &Arg> {
    let shown = |argument: &&Arg| {
        !argument.is_hide_set() && argument.get_id() != "help" && argument.get_id() != "version"
    };
    command.get_arguments().filter(shown)
}

fn in_usage(argument: &Arg) -> String {
    let mut text = signature(argument);
    if argument.is_last_set() {
        text = format!("\\fB\\-\\-\\fR {text}...");
    }
    if argument.is_required_set() {
        text
    } else {
        format!("[{text}]")
    }
}

/// The argument as it is written: its long name and what it takes.
fn signature(argument: &Arg) -> String {
    let value = argument
        .get_value_names()
        .filter(|_| argument.get_action().takes_values())
        .map(|names| format!("\\fI{}\\fR", names.join(" ")));
    match (argument.get_long(), value) {
        (Some(long), Some(value)) => format!("\\fB{}\\fR {value}", escaped(&format!("--{long}"))),
        (Some(long), None) => format!("\\fB{}\\fR", escaped(&format!("--{long}"))),
        (None, value) => value.unwrap_or_default(),
    }
}

fn arguments(page: &mut String, command: &CommandLine) {
    for argument in shown(command) {
        page.push_str(".TP\n");
        if let Some(short) = argument.get_short() {
            let _ = write!(page, "\\fB\\-{short}\\fR, ");
        }
        line(page, format_args!("{}", signature(argument)));
        help(page, argument);
        if !argument.get_action().takes_values() {
            continue;
        }
        let possible = argument.get_possible_values();
        let possible = possible.iter().map(|value| escaped(value.get_name()));
        let possible: Vec<_> = possible.map(|name| format!("\\fB{name}\\fR")).collect();
        let defaults = argument.get_default_values().iter();
        let defaults = defaults.filter(|_| !argument.is_hide_default_value_set());
        let defaults: Vec<_> = defaults
            .map(|value| escaped(&value.to_string_lossy()))
            .collect();
        for (what, values) in [("One of", possible), ("Default:", defaults)] {
            if !values.is_empty() {
                line(page, format_args!("{what} {}.", values.join(", ")));
            }
        }
    }
}

/// The first line of a help text is a sentence; so is a default. Lines between them are shown as they are.
fn help(page: &mut String, argument: &Arg) {
    let help = argument.get_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    let mut lines = help.lines();
    let first = lines.next().unwrap_or_default();
    line(page, format_args!("{}", escaped(&sentence(first))));
    let (defaults, verbatim): (Vec<_>, Vec<_>) = lines.partition(|text| text.starts_with(DEFAULT));
    if !verbatim.is_empty() {
        let verbatim = escaped(&verbatim.join("\n"));
        line(page, format_args!(".RS\n.nf\n{verbatim}\n.fi\n.RE"));
    }
    for default in defaults {
        let value = sentence(default.trim_start_matches(DEFAULT));
        let break_before = if help.lines().count() > 2 {
            ".IP\n"
        } else {
            ""
        };
        line(
            page,
            format_args!("{break_before}Default: {}", escaped(&value)),
        );
    }
}

const DEFAULT: &str = "default: ";

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(page, "{text}"); // into a string, where it cannot fail
}

fn sentence(text: &str) -> String {
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{text}{end}")
}

fn about(command: &CommandLine) -> String {
    let about = command.get_about().map(ToString::to_string);
    sentence(&about.unwrap_or_default())
}

fn first_word_small(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let mut letters = text.chars();
    let first: String = letters
        .next()
        .into_iter()
        .flat_map(char::to_lowercase)
        .collect();
    first + letters.as_str()
}

/// Text in which roff sees nothing to obey.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace("\n.", "\n\\&.")
}
