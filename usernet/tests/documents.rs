//! The manual page and the completions are made of the table of options and of what is below.

use clap::{Arg, ArgAction, Command, ValueHint};
use test_fixtures::manual::Manual;
use usernet::cli::{Definition, OPTIONS};

const DESCRIPTION: &str = "\
\\fBusernet\\fR gives a network namespace an interface whose other end is an ordinary program: what leaves by it becomes
connections of that program's, on the host, so that nobody needs any right there. The namespace is that of process
\\fIPID\\fR, the one at a path, or a new one for a command. As a container engine's helper it takes the place of
\\fBpasta\\fR(1), whose options, messages and exit statuses it has.
.PP
Messages begin with the name that it is called by. With \\fBpasst\\fR or \\fBslirp4netns\\fR in that name it refuses to
run: it does not serve virtual machines, and does not have the command line of the latter.
.PP
Once it has started it has no files, no rights, and few system calls. It ends with the command, or when the namespace
that it serves is gone.
";

const OPTIONS_NOTE: &str = "\
They stand before the other words. A long one may be cut short as long as it stays the only one.
";

/// What the table does not say.
const REST: &str = "\
.SH ENVIRONMENT
.TP
\\fBSHELL\\fR
What is run without a command; /bin/sh otherwise.
.SH SIGNALS
.TP
\\fBSIGTERM\\fR, \\fBSIGQUIT\\fR
End; a command of ours is killed.
.SH EXIT STATUS
.TP
\\fB0\\fR
It serves, in the background; or what it served in the foreground is gone.
.TP
\\fB1\\fR
It could not start; standard error says why.
.PP
With a command, that of the command.
.SH FILES
.TP
\\fI/etc/resolv.conf\\fR
The host's name servers, followed while it runs.
.TP
\\fI/proc/sys/net/ipv4/ping_group_range\\fR
The groups that may ping. The namespace can ping hosts if that of the user is one.
.SH EXAMPLES
.nf
usernet \\-\\-config\\-net \\-t 8080 sh        # a shell in a network of its own; port 8080 of the host leads there
usernet \\-\\-config\\-net \\-\\-trace \\-\\-pcap out.pcap curl http://example.org
.fi
.SH SEE ALSO
\\fBnetbackend\\fR(1), \\fBpodman\\-run\\fR(1), \\fBnetwork_namespaces\\fR(7), \\fBuser_namespaces\\fR(7)
";

const MANUAL: Manual<'_> = Manual {
    name: "usernet",
    synopsis: &[
        "[\\fIOPTION\\fR]... [\\fICOMMAND\\fR] [\\fIARGUMENT\\fR]...",
        "[\\fIOPTION\\fR]... \\fIPID\\fR",
        "[\\fIOPTION\\fR]... \\fB\\-\\-netns\\fR \\fIPATH\\fR|\\fINAME\\fR",
    ],
    description: DESCRIPTION,
    options: OPTIONS_NOTE,
    rest: REST,
    readers: &["env::var", "env::var_os"],
    read: 1,
    profile: Some("apparmor/usr.bin.usernet"),
};

/// The table as the makers of pages and completions want it.
fn command() -> Command {
    let shown = OPTIONS.iter().filter(|option| !option.help.is_empty());
    let words = Arg::new("words")
        .value_name("COMMAND")
        .help("A command with its arguments, or the number of a process.")
        .num_args(0..)
        .trailing_var_arg(true)
        .value_hint(ValueHint::CommandWithArguments);
    Command::new("usernet")
        .about("Connects a network namespace through ordinary sockets")
        .disable_help_flag(true)
        .args(shown.map(argument))
        .arg(words)
}

fn argument(option: &'static Definition) -> Arg {
    let argument = Arg::new(option.long).long(option.long).help(option.help);
    let argument = match option.short {
        Some(letter) => argument.short(char::from(letter)),
        None => argument,
    };
    match option.argument {
        Some(name) => argument
            .value_name(name)
            .action(ArgAction::Append)
            .value_hint(hint(name)),
        None => argument.action(ArgAction::SetTrue),
    }
}

fn hint(value: &str) -> ValueHint {
    if value.starts_with("PATH") {
        ValueHint::AnyPath
    } else {
        ValueHint::Other
    }
}

#[test]
fn page_completions_and_profile_are_whole() {
    MANUAL.assert_whole(env!("CARGO_MANIFEST_DIR"), &command());
}
