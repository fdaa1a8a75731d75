//! The manual page and the completions are made of the command line's own words and of what is below.

use clap::CommandFactory;
use dnsd::cli::Cli;
use test_fixtures::manual::Manual;

const DESCRIPTION: &str = "\
\\fBdnsd\\fR reads a directory with a file for each network of containers, answers from them what containers ask by DNS,
and asks the host's name servers, or those of the network, for the rest. Under the name \\fBaardvark\\-dns\\fR in a helper
directory of Podman it takes the place of that program; its options and files are the same.
.PP
\\fBcheck\\fR and \\fBquery\\fR explain what a directory says, and need no daemon.
";

/// What the command line does not say of itself.
const REST: &str = "\
.SH ENVIRONMENT
.TP
\\fBAARDVARK_NO_PROXY\\fR
Set to anything: nothing is forwarded.
.TP
\\fBDNSD_CACHE_BYTES\\fR
Memory for answers of servers, 2 MiB by default; 0 keeps none.
.TP
\\fBDNSD_HOST_NAMES\\fR
\\fBoff\\fR: host.containers.internal is forwarded.
.TP
\\fBDNSD_METRICS\\fR
Path of a socket that serves counters as Prometheus text; none by default.
.TP
\\fBDNSD_ROTATE\\fR
\\fBoff\\fR: several addresses keep the order of the file.
.TP
\\fBDNSD_WORKERS\\fR
Threads that serve UDP; half the processors by default, at most four.
.TP
\\fBRUST_LOG\\fR
What is logged, \\fBINFO\\fR by default. With \\fBDEBUG\\fR each query is, with the name of the container that asks.
.TP
\\fBXDG_RUNTIME_DIR\\fR
Where \\fBstats\\fR looks for the directory of an ordinary user, \\fIcontainers/networks/aardvark\\-dns\\fR below it.
.SH SIGNALS
.TP
\\fBSIGHUP\\fR
Read the directory anew. With no network left the daemon ends.
.TP
\\fBSIGUSR1\\fR
Log state, counters, and what fails most.
.TP
\\fBSIGURG\\fR
The question of \\fBstats\\fR, in a value that names a port of the loopback. The answer goes there, to who shows that the
question is his; so who asks must be in the network namespace of the daemon: that of an ordinary user's engine is entered
by \\fBpodman unshare \\-\\-rootless\\-netns\\fR. An answer must begin within 3 seconds and end within 10.
.TP
\\fBSIGTERM\\fR, \\fBSIGINT\\fR
End.
.SH EXIT STATUS
.TP
\\fB0\\fR
It is done; for \\fBrun\\fR: the daemon serves.
.TP
\\fB1\\fR
It is not; standard error says why.
.TP
\\fB2\\fR
The command line was not understood; standard error says why.
.SH FILES
Those with relative paths are below the directory of \\fB\\-\\-config\\fR.
.TP
\\fINETWORK\\fR
The names of a network; who writes it is the network backend.
.TP
\\fIaardvark.pid\\fR
The number of the daemon's process.
.TP
\\fI/etc/resolv.conf\\fR
The host's name servers. What follows a change of this file needs no signal.
.SH EXAMPLES
.nf
dnsd check /run/containers/networks/aardvark\\-dns
podman unshare \\-\\-rootless\\-netns dnsd stats \\-\\-json
dnsd query /run/containers/networks/aardvark\\-dns web AAAA \\-\\-from 10.89.0.2
kill \\-USR1 \"$(cat /run/containers/networks/aardvark\\-dns/aardvark.pid)\"
.fi
.SH SEE ALSO
\\fBnetbackend\\fR(1), \\fBpodman\\-network\\fR(1), \\fBresolv.conf\\fR(5)
";

const MANUAL: Manual<'_> = Manual {
    name: "dnsd",
    synopsis: &["[\\fIOPTIONS\\fR] \\fICOMMAND\\fR"],
    description: DESCRIPTION,
    options: "They stand before the sub-command.\n",
    rest: REST,
    readers: &["variable", "env::var", "number", "off"],
    read: 6,
    profile: Some("apparmor/usr.bin.dnsd"),
};

#[test]
fn page_completions_and_profile_are_whole() {
    MANUAL.assert_whole(env!("CARGO_MANIFEST_DIR"), &Cli::command());
}
