//! The manual page `man/netbackend.1` is made of the command line's own words and of what is below.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use netbackend::cli::Cli;
use test_fixtures::golden;

const DESCRIPTION: &str = "\
A container engine calls \\fBnetbackend\\fR once for each container that comes or goes, with a description of the
container and its networks on standard input, and reads what the container got from standard output. Under the name
\\fBnetavark\\fR in a helper directory of Podman it takes the place of that program.
.PP
Set-up undoes what it did when it fails. Teardown goes on whatever fails, and reports it. A call that was killed is taken
back by the next one.
";

/// What the command line does not say of itself.
const REST: &str = "\
.SH ENVIRONMENT
.TP
\\fBNETAVARK_FW\\fR
Who filters packets, like \\fB--firewall-driver\\fR.
.TP
\\fBNETAVARK_DNS_PORT\\fR
The port of the DNS responder, 53 by default. Questions to port 53 are redirected to another one.
.TP
\\fBNETBACKEND_ISOLATE_DEFAULT\\fR
\\fBnone\\fR or \\fBstrict\\fR: the isolation of networks that do not say.
.TP
\\fBNETBACKEND_NFT\\fR
The program to change the packet filter by, like \\fB--nft\\fR.
.TP
\\fBNETAVARK_PROXY_RUN_DIR_ENV\\fR
The directory of the socket and of the file of leases of \\fBdhcp-proxy\\fR; goes before \\fB--dir\\fR.
.TP
\\fBLISTEN_FDS\\fR
1 if descriptor 3 is the socket of \\fBdhcp-proxy\\fR, as systemd says it.
.TP
\\fBDBUS_SYSTEM_BUS_ADDRESS\\fR
Where the system bus is; empty for none, so that nobody talks to firewalld.
.TP
\\fB_CONTAINERS_ROOTLESS_UID\\fR
Set by \\fBpodman unshare\\fR: remedies of \\fBdoctor\\fR begin with \\fBpodman unshare --rootless-netns\\fR.
.TP
\\fBRUST_LOG\\fR
What is logged to standard error, such as \\fBnetavark=info\\fR; errors only by default.
.SH EXIT STATUS
.TP
\\fB0\\fR
It is done.
.TP
\\fB1\\fR
It is not; standard output has a document with the one key \\fBerror\\fR. Of \\fBdoctor\\fR: something is broken.
.TP
\\fB2\\fR
The command line was not understood; standard error says why. Of \\fBdoctor\\fR: it could not look.
.SH FILES
Those with relative paths are below the directory of \\fB--config\\fR.
.TP
\\fInetbackend/\\fR
The lock, the journal of the call under way, records of networks and containers.
.TP
\\fIaardvark-dns/\\fR
A file of names for each network, which the DNS responder reads.
.TP
\\fIfirewall/\\fR
State files for netavark, should it take over again.
.TP
\\fI/run/sysctl.d/10-netavark-BRIDGE.conf\\fR
Keeps systemd from changing settings of a bridge of ours.
.TP
\\fI/run/podman/nv-proxy.sock\\fR
The socket of \\fBdhcp-proxy\\fR, where set-up asks for leases. With another \\fB--dir\\fR nobody finds it.
.TP
\\fI/run/podman/nv-proxy.lease\\fR
The leases that it holds.
.SH SEE ALSO
\\fBpodman\\fR(1), \\fBpodman-network\\fR(1), \\fBnft\\fR(8)
";

#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/netbackend.1");
    golden::assert_matches(path, &page());
}

/// The troubleshooting table explains each word of the doctor.
#[test]
fn each_word_of_the_doctor_is_explained() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("## Troubleshooting").nth(1).unwrap();
    for code in netbackend::doctor::CODES {
        assert!(table.contains(&format!("`{code}`")), "{code}");
    }
}

/// Variables that the code reads by itself. `PATH` is everybody's.
#[test]
fn each_variable_is_there() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![source];
    let mut read = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let names = text.split("variable(\"").skip(1);
            read.extend(names.filter_map(|rest| rest.split('"').next().map(str::to_owned)));
        }
    }
    assert!(read.len() >= 5, "{read:?}");
    let page = page();
    for name in read {
        assert!(page.contains(&format!("\n\\fB{name}\\fR\n")), "{name}");
    }
}

/// Whoever reads the page sees each sub-command and option.
#[test]
fn nothing_is_missing() {
    let page = page().replace("\\-", "-");
    let command = Cli::command();
    for argument in command.get_arguments().filter_map(Arg::get_long) {
        assert!(page.contains(&format!("--{argument}")), "{argument}");
    }
    for sub in command.get_subcommands() {
        assert!(
            page.contains(&format!("\n.SS \\fB{}", sub.get_name())),
            "{sub}"
        );
    }
    for variable in command.get_arguments().filter_map(Arg::get_env) {
        let variable = variable.to_string_lossy();
        assert!(
            page.contains(&format!("\n\\fB{variable}\\fR\n")),
            "{variable}"
        );
    }
}

fn page() -> String {
    let command = Cli::command();
    let mut page = format!(
        ".TH NETBACKEND 1 \"\" netbackend\n.SH NAME\nnetbackend - {}\n",
        escaped(&first_word_small(&about(&command)))
    );
    page.push_str(
        ".SH SYNOPSIS\n\\fBnetbackend\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR\n.SH DESCRIPTION\n",
    );
    page.push_str(DESCRIPTION);
    page.push_str(".SH OPTIONS\nThey stand before the sub-command.\n");
    arguments(&mut page, &command);
    page.push_str(".SH COMMANDS\n");
    for sub in command.get_subcommands() {
        subcommand(&mut page, "", sub);
    }
    page.push_str(REST);
    page
}

fn subcommand(page: &mut String, parents: &str, command: &Command) {
    let name = format!("{parents}{}", command.get_name());
    let nested: Vec<&Command> = command.get_subcommands().collect();
    if nested.is_empty() {
        let mut usage = format!("\\fB{name}\\fR");
        for argument in shown(command) {
            write!(usage, " {}", in_usage(argument)).unwrap();
        }
        writeln!(page, ".SS {usage}\n{}", escaped(&about(command))).unwrap();
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

fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    let shown = |argument: &&Arg| {
        !argument.is_hide_set() && argument.get_id() != "help" && argument.get_id() != "version"
    };
    command.get_arguments().filter(shown)
}

fn in_usage(argument: &Arg) -> String {
    let text = signature(argument);
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

fn arguments(page: &mut String, command: &Command) {
    for argument in shown(command) {
        page.push_str(".TP\n");
        if let Some(short) = argument.get_short() {
            write!(page, "\\fB\\-{short}\\fR, ").unwrap();
        }
        let mut help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        if !help.ends_with('.') {
            help.push('.');
        }
        let possible: Vec<_> = argument
            .get_possible_values()
            .iter()
            .map(|value| format!("\\fB{}\\fR", escaped(value.get_name())))
            .collect();
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| escaped(&value.to_string_lossy()))
            .collect();
        writeln!(page, "{}\n{}", signature(argument), escaped(&help)).unwrap();
        if !possible.is_empty() && argument.get_action().takes_values() {
            writeln!(page, "One of {}.", possible.join(", ")).unwrap();
        }
        if !defaults.is_empty() && argument.get_action().takes_values() {
            writeln!(page, "Default: {}.", defaults.join(", ")).unwrap();
        }
    }
}

fn about(command: &Command) -> String {
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    if about.ends_with('.') {
        about
    } else {
        format!("{about}.")
    }
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
