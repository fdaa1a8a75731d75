//! The manual page and the completions are made of the command line's own words and of what is below.

use clap::CommandFactory;
use netbackend::cli::Cli;
use test_fixtures::manual::Manual;

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
Set by \\fBpodman unshare\\fR: remedies of \\fBdoctor\\fR begin with \\fBpodman unshare --rootless-netns\\fR, and
the state directory is that of the user, unless \\fB--config\\fR says another.
.TP
\\fBXDG_RUNTIME_DIR\\fR
Where that is: in \\fIcontainers/networks\\fR below.
.TP
\\fBCONTAINERS_CONF\\fR, \\fBCONTAINERS_CONF_OVERRIDE\\fR, \\fBXDG_CONFIG_HOME\\fR
Where Podman's configuration is, from which \\fBrecord\\fR, \\fBreplay\\fR and \\fBdoctor\\fR know where Podman finds its helpers.
.TP
\\fBCONTAINERS_CONF\\fR
The engine's only configuration file, for \\fBrecord\\fR, which looks there for the directories of helpers.
.TP
\\fBCONTAINERS_CONF_OVERRIDE\\fR
The one that the engine reads last, likewise.
.TP
\\fBXDG_CONFIG_HOME\\fR
Where an ordinary user's are, below \\fIcontainers\\fR.
.TP
\\fBHOME\\fR
Likewise, below \\fI.config/containers\\fR.
.TP
\\fBRUST_LOG\\fR
What is logged to standard error, such as \\fBnetavark=info\\fR; errors only by default.
.SH EXIT STATUS
.TP
\\fB0\\fR
It is done.
.TP
\\fB1\\fR
It is not; standard output has a document with the one key \\fBerror\\fR. Of commands for people, standard error says it in words,
too, unless standard output is a terminal. Of \\fBdoctor\\fR: something is broken.
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

const MANUAL: Manual<'_> = Manual {
    name: "netbackend",
    synopsis: &["[\\fIOPTIONS\\fR] \\fICOMMAND\\fR"],
    description: DESCRIPTION,
    options: "They stand before the sub-command.\n",
    rest: REST,
    // `PATH` is everybody's.
    readers: &["variable"],
    read: 5,
    profile: None,
};

#[test]
fn page_and_completions_are_whole() {
    MANUAL.assert_whole(env!("CARGO_MANIFEST_DIR"), &Cli::command());
}

/// The troubleshooting table explains each word of the doctor.
#[test]
fn each_word_of_the_doctor_is_explained() {
    let text = include_str!("../../../README.md");
    let table = text.split("## Troubleshooting").nth(1).unwrap();
    for code in netbackend::doctor::CODES {
        assert!(table.contains(&format!("`{code}`")), "{code}");
    }
}
