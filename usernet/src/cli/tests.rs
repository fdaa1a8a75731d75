use std::collections::BTreeSet;

use super::*;

/// What `line`, cut at blanks, is understood as; written like a command line with long options.
fn understood(line: &str) -> String {
    match parse(
        line.split(' ')
            .filter(|word| !word.is_empty())
            .map(Into::into),
    ) {
        Ok(Request::Help) => "help".to_owned(),
        Ok(Request::Version) => "version".to_owned(),
        Ok(Request::Run(options)) => {
            let given = options.given.iter().map(|given| {
                let value = given.value.to_string_lossy();
                format!("{:?}={value}", given.id)
            });
            let rest = options
                .rest
                .iter()
                .map(|word| word.to_string_lossy().into_owned());
            let rest: Vec<_> = rest.collect();
            let given: Vec<_> = given.collect();
            format!("{} | {}", given.join(" "), rest.join(" "))
        }
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check(line: &str, expected: &str) {
    assert_eq!(understood(line), expected, "{line}");
}

#[test]
fn values_are_attached_or_follow() {
    check("--mtu 1500 true", "Mtu=1500 | true");
    check("--mtu=1500 true", "Mtu=1500 | true");
    check("--mtu=", "Mtu= | ");
    check("--mtu=5=6", "Mtu=5=6 | ");
    check("-m 1500", "Mtu=1500 | ");
    check("-m1500", "Mtu=1500 | ");
    check("-m=1500", "Mtu==1500 | ");
    check("-4q", "Ipv4Only= Quiet= | ");
    check("-4qm1500", "Ipv4Only= Quiet= Mtu=1500 | ");
    check("-qm 1500", "Quiet= Mtu=1500 | ");
    check("-t -4", "TcpPorts=-4 | ");
    check("--tcp-ports --netns", "TcpPorts=--netns | ");
    check("-tauto -u none", "TcpPorts=auto UdpPorts=none | ");
}

#[test]
fn options_end_at_the_first_other_word() {
    check("-q true -4", "Quiet= | true -4");
    check("-q -- -4", "Quiet= | -4");
    check("-q - -4", "Quiet= | - -4");
    check("", " | ");
    check("123", " | 123");
}

#[test]
fn long_options_can_be_cut_short() {
    check("--quie", "Quiet= | ");
    check("--config", "ConfigNet= | ");
    check("--netns p", "Netns=p | ");
    check(
        "--ma 1",
        "option '--ma' is ambiguous; possibilities: '--mac-addr' '--map-host-loopback' '--map-guest-addr'",
    );
    check(
        "--netn=1",
        "option '--netn=1' is ambiguous; possibilities: '--netns' '--netns-only'",
    );
}

#[test]
fn errors_have_the_words_of_getopt() {
    check("--bogus", "unrecognized option '--bogus'");
    check("--bogus=3", "unrecognized option '--bogus=3'");
    check("--quiet=3", "option '--quiet' doesn't allow an argument");
    check("--quie=3", "option '--quiet' doesn't allow an argument");
    check("--netns", "option '--netns' requires an argument");
    check("--mt", "option '--mtu' requires an argument");
    check("-m", "option requires an argument -- 'm'");
    check("-x", "invalid option -- 'x'");
    check("-qx", "invalid option -- 'x'");
    check("-5", "invalid option -- '5'");
}

#[test]
fn help_and_version_count_after_what_is_valid() {
    check("--host-lo-to-ns-lo --version", "version");
    check("-4 --version --bogus", "version");
    check("--bogus --version", "unrecognized option '--bogus'");
    check("-qh", "help");
    check("true --help", " | true --help");
}

/// Podman tries once more without an option if it finds that the option is unrecognized.
#[test]
fn the_option_that_podman_looks_for_is_known() {
    check(
        "--map-guest-addr 169.254.1.2",
        "MapGuestAddr=169.254.1.2 | ",
    );
}

#[test]
fn no_two_options_have_the_same_name() {
    let long: BTreeSet<_> = OPTIONS.iter().map(|option| option.long).collect();
    assert_eq!(long.len(), OPTIONS.len());
    let short: Vec<_> = OPTIONS.iter().filter_map(|option| option.short).collect();
    let distinct: BTreeSet<_> = short.iter().collect();
    assert_eq!(distinct.len(), short.len());
}

#[test]
fn the_help_names_every_option_and_fits_the_screen() {
    let text = help("pasta");
    for option in OPTIONS.iter().filter(|option| option.id != Id::Machine) {
        assert!(
            text.contains(&format!("--{}", option.long)),
            "{}",
            option.long
        );
    }
    assert!(!text.contains("vhost"));
    for line in text.lines() {
        assert!(line.len() <= 116, "{line}");
    }
}

#[test]
fn the_name_decides_what_we_are() {
    let of = |path: &str| program(Some(OsStr::new(path)));
    assert_eq!(
        of("/usr/bin/pasta"),
        (Program::Namespace, "pasta".to_owned())
    );
    assert_eq!(of("usernet"), (Program::Namespace, "usernet".to_owned()));
    assert_eq!(of("/x/passt").0, Program::Machine);
    assert_eq!(of("slirp4netns").0, Program::Slirp);
    assert_eq!(program(None), (Program::Namespace, "usernet".to_owned()));
}

#[test]
fn the_version_begins_with_the_name() {
    assert!(version("pasta").starts_with("pasta "));
    assert!(version("usernet").starts_with("usernet 0"));
}
