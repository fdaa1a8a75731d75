//! Commands that one can paste.

use std::fmt;
use std::path::{Path, PathBuf};

/// A command: program and arguments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Command(Vec<String>);

impl Command {
    /// A command of plain words.
    #[must_use]
    pub fn words(text: &str) -> Self {
        Self(text.split_whitespace().map(ToOwned::to_owned).collect())
    }

    /// The same with one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl fmt::Display) -> Self {
        self.0.push(argument.to_string());
        self
    }
}

/// As a shell reads it.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, word) in self.0.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{}", quoted(word))?;
        }
        Ok(())
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if word.chars().any(char::is_control) {
        // Nothing that a terminal acts on; bash, zsh and POSIX.1-2024 read it as it was.
        let octets = word.bytes().map(|octet| match octet {
            b'\'' | b'\\' => format!("\\{}", char::from(octet)),
            b' '..=b'~' => char::from(octet).to_string(),
            octet => format!("\\{octet:03o}"),
        });
        return format!("$'{}'", octets.collect::<String>());
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// How we were called, to be called again in the same way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The program, as it was called.
    pub program: String,
    /// The state directory.
    pub config: PathBuf,
    /// Whether the engine is an ordinary user's, who is not in this network namespace when a remedy is pasted.
    pub rootless: bool,
    /// Whether we may look at everything.
    pub is_root: bool,
    /// Further options before the sub-command.
    pub options: Vec<String>,
    /// Whether `gc` has to be told that this is the right place: there is nothing left that could tell.
    pub force_gc: bool,
}

impl Caller {
    /// A call of ours.
    #[must_use]
    pub fn netbackend(&self, verb: &str) -> Command {
        let mut words = vec![self.program.clone(), "--config".to_owned()];
        words.push(self.config.display().to_string());
        words.extend(self.options.iter().cloned());
        words.push(verb.to_owned());
        self.here(Command(words))
    }

    /// The doctor, called by an ordinary user for containers of its own; nothing if this is such a call.
    #[must_use]
    pub fn own(&self) -> Option<Command> {
        let unshare = Command::words("podman unshare --rootless-netns").arg(&self.program);
        (!self.rootless).then(|| unshare.arg("doctor"))
    }

    /// Takes away what crashed engines have left.
    #[must_use]
    pub fn collect(&self) -> Command {
        let gc = self.netbackend("gc");
        if self.force_gc { gc.arg("--force") } else { gc }
    }

    /// A command in this network namespace.
    #[must_use]
    pub fn host(&self, words: &str) -> Command {
        self.here(Command::words(words))
    }

    /// The same command, in this network namespace.
    #[must_use]
    pub fn here(&self, command: Command) -> Command {
        if !self.rootless {
            return command;
        }
        let mut words = Command::words("podman unshare --rootless-netns").0;
        words.extend(command.0);
        Command(words)
    }

    /// A command in the namespace of a container.
    #[must_use]
    pub fn inside(&self, netns: &str, words: &str) -> Command {
        let enter = Command::words("nsenter").arg(format!("--net={netns}"));
        let mut all = enter.0;
        all.extend(Command::words(words).0);
        self.here(Command(all))
    }

    /// A command of the engine, which finds the namespace by itself.
    #[must_use]
    pub fn engine(&self, words: &str) -> Command {
        Command::words("podman").with(words)
    }

    /// A kernel setting.
    #[must_use]
    pub fn sysctl(&self, name: &str, value: &str) -> Command {
        let set = Command::words("sysctl -w").arg(format!("{name}={value}"));
        self.here(set)
    }

    /// Takes a file away.
    #[must_use]
    pub fn remove(&self, path: &Path) -> Command {
        self.here(Command::words("rm").arg(path.display()))
    }
}

impl Command {
    /// Ids become short, as far as they are arguments by themselves.
    pub(super) fn shorten(&mut self) {
        for word in &mut self.0 {
            *word = super::short(word).to_owned();
        }
    }

    /// The same with more plain words.
    #[must_use]
    pub fn with(mut self, words: &str) -> Self {
        self.0.extend(Self::words(words).0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_read_them() {
        let command = Command::words("nft add").arg("{ a; }").arg("it's").arg("");
        assert_eq!(command.to_string(), r"nft add '{ a; }' 'it'\''s' ''");
        let command = Command::words("rm").arg("\u{1b}[2J\n'\\ é");
        assert_eq!(command.to_string(), r"rm $'\033[2J\012\'\\ \303\251'");
    }

    #[test]
    fn a_users_commands_go_to_the_users_namespace() {
        let caller = Caller {
            program: "netbackend".to_owned(),
            config: "/c".into(),
            rootless: true,
            is_root: true,
            options: Vec::new(),
            force_gc: false,
        };
        let gc = caller.netbackend("gc").to_string();
        assert_eq!(
            gc,
            "podman unshare --rootless-netns netbackend --config /c gc"
        );
        let reload = caller.engine("network reload c1").to_string();
        assert_eq!(reload, "podman network reload c1");
    }
}
