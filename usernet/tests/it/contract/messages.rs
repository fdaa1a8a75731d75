//! What is said, in the words that people and scripts look for.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Result, ensure};
use test_fixtures::program::Finished;

use super::machine::{Machine, on, podman, program, refused};

fn says(finished: &Finished, lines: &[&str]) -> Result<()> {
    for line in lines {
        ensure!(finished.stderr.contains(line), "no {line:?}: {finished}");
    }
    Ok(())
}

/// Options that cannot be.
macro_rules! refusals {
    ($($name:ident [$($word:literal),*] says $($line:literal),*;)*) => { $(
        #[test]
        fn $name() {
            on!(|machine| {
                let guest = machine.guest()?;
                let netns = guest.path().to_string_lossy();
                let finished = refused(&["--config-net", "--netns", &*netns, $($word),*])?;
                says(&finished, &[$($line),*])?;
                // Nothing is left of the attempt.
                let links = guest.sh("ip -o link")?;
                ensure!(links.lines().count() == 1, "{links}");
                Ok(())
            });
        }
    )* };
}

refusals! {
    a_port_that_is_none ["-t", "http"] says "Invalid port specifier 'http'";
    port_zero ["-t", "0"] says "Forwarding rule attempts to map from port 0", "Unable to add rule ";
    ranges_of_different_lengths ["-t", "22-24:80"] says "Invalid port specifier '22-24:80'";
    none_after_others ["-t", "80", "-t", "none"] says "-t none conflicts with previous options";
    ports_twice ["-t", "8080", "-t", "8080:80"] says
        "Forwarding configuration conflict: ", " versus ", "Unable to add rule ";
    an_address_in_the_guest ["-T", "127.0.0.1/80"] says "Listening address not allowed for -T";
    a_large_mtu ["-m", "65522"] says "MTU 65522 too large (max 65521)";
    an_address_that_is_none ["-a", "1.2.3"] says "Invalid guest address: 1.2.3";
    an_interface_that_is_none ["-i", "nosuch0"] says "Invalid interface name nosuch0: No such device";
    a_mapping_that_is_none ["--map-host-loopback", "127.0.0.1"] says
        "Invalid address to remap to host: 127.0.0.1";
    an_outbound_interface_that_is_none ["--outbound-if4", "nosuch0"] says "External interface not usable";
    an_unknown_option ["--bogus"] says "unrecognized option '--bogus'";
    a_missing_argument ["--mtu"] says "option '--mtu' requires an argument";
    a_command_and_a_namespace ["true"] says "Both --netns and PID or command given";
    an_option_of_machines ["-s", "/tmp/socket"] says "mode only";
    a_small_log ["-l", "/run/lab/log", "--log-size", "4096"] says "Invalid --log-size: 4096";
    a_log_nowhere ["-l", "/no/such"] says
        "Couldn't open log file /no/such: No such file or directory";
    a_capture_nowhere ["-p", "/no/such"] says
        "Couldn't open pcap file /no/such: No such file or directory";
    a_pid_file_nowhere ["-P", "/no/such"] says
        "Couldn't open PID file /no/such: No such file or directory";
    an_mtu_that_is_none ["-m", "x"] says "Invalid MTU: x";
    a_gateway_that_is_none ["-g", "1.2"] says "Invalid gateway address: 1.2";
    a_prefix_that_is_none ["-n", "33"] says "Invalid prefix length: 33";
    a_long_name ["-I", "averyveryverylongname"] says
        "Invalid interface name: averyveryverylongname";
    a_pattern_for_a_name ["-I", "a%d"] says "Invalid interface name: a%d";
    a_control_socket_without_a_path ["-c", ""] says "Invalid configuration path: ";
    a_link_address_that_is_none ["-M", "xx"] says "Invalid MAC address: xx";
    a_name_server_on_loopback ["--dns-forward", "127.0.0.1"] says
        "Invalid DNS forwarding address: 127.0.0.1";
    a_source_that_is_none ["-o", "x"] says "Invalid or redundant outbound address: x";
    loopback_without_splice ["--host-lo-to-ns-lo", "--no-splice"] says
        "--host-lo-to-ns-lo is incompatible with --no-splice";
    statistics_of_a_daemon ["--stats", "1"] says
        "Can't display statistics if not running in foreground";
}

/// After the words that are looked for, there are others for those who wrote the option.
#[test]
fn what_would_be_right() {
    on!(|machine| {
        let guest = machine.guest()?;
        let netns = guest.path().to_string_lossy();
        for (words, lines) in [
            (
                ["--tcp-ports", "22-24:80"],
                "Invalid port specifier '22-24:80'\n\
                 --tcp-ports: 3 ports cannot lead to 1: give as many there\n",
            ),
            (
                ["-m", "65522"],
                "MTU 65522 too large (max 65521)\n\
                 -m: 65522 is too large: give 68 to 65521 bytes, or 0 to leave it alone\n",
            ),
        ] {
            let words = [words[0], words[1], "--netns", &*netns];
            says(&refused(&words)?, &[lines])?;
        }
        Ok(())
    });
}

/// Two of us do not listen on one control socket; what one that is gone has left is replaced.
#[test]
fn a_control_socket_that_is_taken() {
    on!(|machine| {
        let guests = [
            machine.host.container("one")?,
            machine.host.container("two")?,
        ];
        let socket = machine.host.dir("control")?.join("socket");
        let socket = socket.to_string_lossy();
        let [one, two] = guests.map(|guest| {
            let words = podman(guest.path(), &["-c", &*socket], &[]);
            (guest, words)
        });
        let words = |(_, words): &(_, Vec<String>)| words.clone();
        let first = machine.start(words(&one).iter().map(|word| &**word))?;
        let finished = refused(&words(&two).iter().map(|word| &**word).collect::<Vec<_>>())?;
        says(
            &finished,
            &[&format!("Socket path {socket} already in use")],
        )?;
        drop(one);
        first.ended()?;
        machine.start(words(&two).iter().map(|word| &**word))?;
        Ok(())
    });
}

#[test]
fn no_such_namespace() {
    on!(|_machine| {
        let finished = refused(&["--config-net", "--netns", "/run/netns/nosuch"])?;
        let text = "Couldn't open network namespace /run/netns/nosuch: No such file or directory";
        says(&finished, &[text])
    });
}

#[test]
fn not_a_namespace() {
    on!(|_machine| {
        let finished = refused(&["--config-net", "--netns", "/etc/passwd"])?;
        says(
            &finished,
            &["Couldn't switch to pasta namespaces: Invalid argument"],
        )
    });
}

#[test]
fn the_interface_is_there() {
    on!(|machine| {
        let guest = machine.guest()?;
        let _daemon = machine.podman(&guest, &[], &[])?;
        let netns = guest.path().to_string_lossy();
        let finished = refused(&["--config-net", "--netns", &*netns])?;
        let lines = [
            "TUNSETIFF ioctl on /dev/net/tun failed: Device or resource busy",
            "Failed to set up tap device in namespace",
        ];
        says(&finished, &lines)
    });
}

/// The call that Podman makes for one published port.
fn publish(machine: &Machine<'_>, netns: &Path, published: &str) -> Result<Finished> {
    let _host = machine.host;
    let words = podman(netns, &[], &["-t", published]);
    refused(&words.iter().map(|word| &**word).collect::<Vec<_>>())
}

#[test]
fn a_port_that_is_taken() {
    on!(|machine| {
        let guest = machine.guest()?;
        let _taken = machine
            .host
            .enter(|| Ok(TcpListener::bind("0.0.0.0:8080")?))?;
        let finished = publish(machine, guest.path(), "0.0.0.0/8080-8080:80-80")?;
        let lines = [
            "Listen failed for HOST TCP port 0.0.0.0/8080: Address already in use",
            "Couldn't listen on requested ports",
        ];
        says(&finished, &lines)
    });
}

/// The original's way into Podman's fallback for versions of it that are too old.
#[test]
fn never_that_an_option_of_podman_is_unknown() {
    on!(|machine| {
        let guest = machine.guest()?;
        let _taken = machine
            .host
            .enter(|| Ok(TcpListener::bind("0.0.0.0:8080")?))?;
        let finished = publish(machine, guest.path(), "8080-8080:80-80")?;
        ensure!(
            !finished
                .stderr
                .contains("unrecognized option '--map-guest-addr"),
            "{finished}"
        );
        Ok(())
    });
}

#[test]
fn no_uplink() {
    on!(|machine| {
        machine.host.sh("ip link set uplink down")?;
        let guest = machine.guest()?;
        let netns = guest.path().to_string_lossy();
        let daemon = machine.start(["--config-net", "--netns", &*netns])?;
        let lines = ["IPv4", "IPv6"]
            .map(|family| format!("{family}: no external interface as template, use local mode"));
        says(&daemon.finished, &[&lines[0], &lines[1]])
    });
}

#[test]
fn no_name_server() {
    on!(|machine| {
        machine.resolv_conf("# nothing\n")?;
        let guest = machine.guest()?;
        let netns = guest.path().to_string_lossy();
        let daemon = machine.start(["--config-net", "--netns", &*netns])?;
        says(&daemon.finished, &["Couldn't get any nameserver address"])
    });
}

/// What people paste into reports.
#[test]
fn the_report_of_a_start() {
    on!(|machine| {
        let guest = machine.guest()?;
        let netns = guest.path().to_string_lossy();
        let words = [
            "--config-net",
            "-t",
            "8080:80",
            "--dns-forward",
            "169.254.1.1",
        ];
        let daemon = machine.start(words.into_iter().chain(["--netns", &*netns]))?;
        let lines = [
            "Template interface: uplink",
            "Namespace interface: uplink",
            "MAC:\n    host: 9a:55:9a:55:9a:55",
            "NAT to host 127.0.0.1: 192.0.2.2",
        ];
        says(&daemon.finished, &lines)?;
        ensure!(daemon.finished.stdout.is_empty(), "{}", daemon.finished);
        Ok(())
    });
}

#[test]
fn a_name_for_the_host_that_leads_nowhere() {
    on!(|machine| {
        let guest = machine.guest()?;
        let daemon = machine.podman(&guest, &["-a", "10.77.0.5"], &[])?;
        says(
            &daemon.finished,
            &["--map-guest-addr 169.254.1.2 leads nowhere: 10.77.0.5 "],
        )
    });
}

#[test]
fn quiet_is_silent() {
    on!(|machine| {
        let guest = machine.guest()?;
        let daemon = machine.podman(&guest, &[], &["-t", "8080-8080:80-80"])?;
        ensure!(daemon.finished.stderr.is_empty(), "{}", daemon.finished);
        Ok(())
    });
}

#[test]
fn version_and_help() {
    on!(|_machine| {
        for words in [
            &["--version"][..],
            &["--help"],
            &["-h"],
            &["--host-lo-to-ns-lo", "--version"],
        ] {
            let finished = program().args(words).run()?;
            ensure!(finished.code() == Some(0), "{words:?}: {finished}");
            ensure!(
                !finished.stdout.is_empty() && finished.stderr.is_empty(),
                "{finished}"
            );
        }
        let finished = refused(&["--no-such-option", "--version"])?;
        ensure!(finished.stdout.is_empty(), "{finished}");
        Ok(())
    });
}

/// `podman info` prints the first line.
#[test]
fn a_version_has_a_name_and_a_number() {
    on!(|_machine| {
        let finished = program().arg("--version").run()?;
        let first = finished.stdout.lines().next().unwrap_or_default();
        let words: Vec<&str> = first.split(' ').collect();
        ensure!(words.len() >= 2, "{first}");
        ensure!(
            words[1].contains(|letter: char| letter.is_ascii_digit()),
            "{first}"
        );
        Ok(())
    });
}
