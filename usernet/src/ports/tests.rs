use proptest::prelude::*;

use super::*;

const BOTH: Surroundings = Surroundings {
    v4: true,
    v6: true,
    ephemeral: (32768, 60999),
};

/// What a command line of port options gives; options that are not there say nothing.
fn outcome(line: &str, surroundings: &Surroundings) -> String {
    let words: Vec<_> = line.split(' ').collect();
    let mut specs: Vec<_> = Direction::ALL
        .into_iter()
        .filter(|direction| !words.contains(&direction.option()))
        .map(|direction| (direction, "none"))
        .collect();
    specs.extend(words.chunks(2).map(|pair| {
        let direction = Direction::ALL
            .into_iter()
            .find(|direction| direction.option() == pair[0]);
        (direction.expect("a port option"), pair[1])
    }));
    match listeners(&specs, surroundings, &Off::default()) {
        Ok(rules) => {
            let rules: Vec<_> = rules.iter().map(|rule| Rule(rule).to_string()).collect();
            rules.join("\n")
        }
        Err(error) => format!("error: {error}"),
    }
}

#[track_caller]
fn check(line: &str, expected: &str) {
    assert_eq!(outcome(line, &BOTH), expected, "{line}");
}

#[track_caller]
fn check_invalid(spec: &str, named: &str) {
    let expected = format!("error: Invalid port specifier '{named}'");
    check(&format!("-t {spec}"), &expected);
}

#[test]
fn what_podman_writes() {
    check("-t 8080-8080:80-80", "TCP [*]:8080  =>  80 ");
    check("-u 5353-5353:53-53", "UDP [*]:5353  =>  53 ");
    check(
        "-t 127.0.0.1/8443-8443:443-443",
        "TCP [127.0.0.1]:8443  =>  443 ",
    );
    check("-t ::1/8080-8090:80-90", "TCP [::1]:8080-8090  =>  80-90 ");
    check("-t 10.0.0.1%eth0/80:81", "TCP [10.0.0.1]%eth0:80  =>  81 ");
    check("-t ::1%lo/80:81", "TCP [::1]%lo:80  =>  81 ");
}

#[test]
fn ranges_targets_and_exclusions() {
    check("-t 22,25", "TCP [*]:22  =>  22 \nTCP [*]:25  =>  25 ");
    check(
        "-t 5-25,~10-20",
        "TCP [*]:5-9  =>  5-9 \nTCP [*]:21-25  =>  21-25 ",
    );
    check(
        "-t ~85-86,80-90:180-190",
        "TCP [*]:80-84  =>  180-184 \nTCP [*]:87-90  =>  187-190 ",
    );
    check("-t 8080,~8080", "");
    check("-t 1-65535", "TCP [*]:1-65535  =>  1-65535 ");
    check("-t */80", "TCP [*]:80  =>  80 ");
    check("-t %lo/80", "TCP [*]%lo:80  =>  80 ");
    check("-t /80", "TCP [*]:80  =>  80 ");
    check("-t [::1]/80", "TCP [::1]:80  =>  80 ");
    check("-T 80:81", "TCP [*]%lo:80  =>  81 ");
    check("-t none", "");
}

#[test]
fn whatever_is_free() {
    let wide = "TCP [*]:1-32767  =>  1-32767  (best effort)\nTCP [*]:61000-65535  =>  61000-65535  (best effort)";
    check("-t all", wide);
    check("-t none -t all", wide);
    check(
        "-t auto",
        &wide.replace("(best effort)", "(best effort) (auto-scan)"),
    );
    check(
        "-t ~1-60000",
        "TCP [*]:61000-65535  =>  61000-65535  (best effort)",
    );
    check("-t all,80", "TCP [*]:80  =>  80 ");
    check("-t 80,auto", "TCP [*]:80  =>  80  (auto-scan)");
    check(
        "-t 1.2.3.4/all:5.6.7.8,~1-65534",
        "TCP [1.2.3.4]:65535  =>  5.6.7.8:65535  (best effort)",
    );
}

#[test]
fn what_is_not_given_is_auto() {
    let rules = listeners(&[], &BOTH, &Off::default()).expect("no specification is wrong");
    assert_eq!(rules.len(), 8);
    assert!(rules.iter().all(|rule| rule.follow));
    let off = Off {
        udp: true,
        ..Off::default()
    };
    let rules = listeners(&[], &BOTH, &off).expect("no specification is wrong");
    assert!(rules.iter().all(|rule| rule.transport == Transport::Tcp));
}

#[test]
fn another_address_behind_the_guest() {
    check(
        "-t 0.0.0.0/8080:1.2.3.4/80",
        "TCP [0.0.0.0]:8080  =>  1.2.3.4:80 ",
    );
    check(
        "-t 0.0.0.0/22-24:1.2.3.4",
        "TCP [0.0.0.0]:22-24  =>  1.2.3.4:22-24 ",
    );
    check(
        "-t [::]/8080:[2001:db8::1]/80",
        "TCP [::]:8080  =>  2001:db8::1:80 ",
    );
    check(
        "-t 8080:1.2.3.4/80",
        "error: Dual stack forward to IPv4 address 1.2.3.4 unsupported\nDid you mean 0.0.0.0/... instead?\n\
         Unable to add rule TCP [*]:8080  =>  1.2.3.4:80 ",
    );
    check(
        "-t 8080:[::1]/80",
        "error: Dual stack forward to IPv6 address ::1 unsupported\nDid you mean [::]/... instead?\n\
         Unable to add rule TCP [*]:8080  =>  ::1:80 ",
    );
    check(
        "-t 0.0.0.0/80:[::1]/80",
        "error: Forward from IPv4 (0.0.0.0) to IPv6 (::1) unsupported\n\
         Unable to add rule TCP [0.0.0.0]:80  =>  ::1:80 ",
    );
    check(
        "-t ::/80:ff02::1/80",
        "error: Multicast target address ff02::1 for forwarding rule\n\
         Unable to add rule TCP [::]:80  =>  ff02::1:80 ",
    );
}

#[test]
fn what_is_not_understood_is_named() {
    for spec in [
        "foo",
        "65536",
        "22-24:80",
        "24-22",
        "22,",
        ",22",
        "22,,23",
        "",
        "22:80:90",
        "80-",
        "-80",
        "none,80",
        "ALL",
        "80/tcp",
        "*",
        "auto,none",
        "80:auto",
        "auto:80",
        "~80:80",
        "[::1/8080",
        "[::1%lo]/80",
        "::1%/80",
        "%/8080",
        "1.2.3/8080",
        "foo/8080",
        "~",
        "80:",
        "127.0.0.1%abcdefghijklmnop/80",
    ] {
        check_invalid(spec, spec);
    }
    check_invalid("127.0.0.1/", "");
    check_invalid("127.0.0.1/22,", "22,");
    check_invalid("1.2.3.4/5/6", "5/6");
}

#[test]
fn port_zero() {
    check(
        "-t 0",
        "error: Forwarding rule attempts to map from port 0\nUnable to add rule TCP [*]:0  =>  0 ",
    );
    check(
        "-t 22:0",
        "error: Forwarding rule attempts to map to port 0\nUnable to add rule TCP [*]:22  =>  0 ",
    );
}

#[track_caller]
fn check_conflict(line: &str, rule: &str, other: &str) {
    let expected = format!(
        "error: Forwarding configuration conflict: {rule} versus {other}\nUnable to add rule {rule}"
    );
    check(line, &expected);
}

#[test]
fn conflicts() {
    let plain = "TCP [*]:8080  =>  8080 ";
    check_conflict("-t 8080 -t 8080", plain, plain);
    check_conflict("-t 8080,8081,8080", plain, plain);
    check_conflict(
        "-t 8080 -t 127.0.0.1/8080",
        "TCP [127.0.0.1]:8080  =>  8080 ",
        plain,
    );
    check_conflict(
        "-t 127.0.0.1/8080 -t 127.0.0.1%lo/8080",
        "TCP [127.0.0.1]%lo:8080  =>  8080 ",
        "TCP [127.0.0.1]:8080  =>  8080 ",
    );
    check_conflict(
        "-t ::1%lo/8080 -t ::/8080",
        "TCP [::]:8080  =>  8080 ",
        "TCP [::1]%lo:8080  =>  8080 ",
    );
    check_conflict(
        "-t auto -t 80",
        "TCP [*]:80  =>  80 ",
        "TCP [*]:1-32767  =>  1-32767  (best effort) (auto-scan)",
    );
    check_conflict(
        "-u 53 -u auto",
        "UDP [*]:1-32767  =>  1-32767  (best effort) (auto-scan)",
        "UDP [*]:53  =>  53 ",
    );
    check(
        "-t 0.0.0.0/80 -t ::/80 -u 80 -T 80",
        "TCP [0.0.0.0]:80  =>  80 \nTCP [::]:80  =>  80 \nUDP [*]:80  =>  80 \nTCP [*]%lo:80  =>  80 ",
    );
}

#[test]
fn none_comes_first() {
    check("-t none -t none -t 80", "TCP [*]:80  =>  80 ");
    check(
        "-t 80 -t none",
        "error: -t none conflicts with previous options",
    );
    check(
        "-U 80 -U none",
        "error: -U none conflicts with previous options",
    );
}

#[test]
fn the_guests_side_has_no_address() {
    check(
        "-T 127.0.0.1/8080",
        "error: Listening address not allowed for -T 127.0.0.1/8080",
    );
    check(
        "-U %lo/80",
        "error: Listening address not allowed for -U %lo/80",
    );
}

#[test]
fn a_family_that_is_off() {
    let four = Surroundings { v6: false, ..BOTH };
    assert_eq!(
        outcome("-t ::1/80", &four),
        "error: IPv6 forward, but IPv6 not enabled\nUnable to add rule TCP [::1]:80  =>  80 "
    );
    assert_eq!(
        outcome("-t 80:1.2.3.4", &four),
        "TCP [*]:80  =>  1.2.3.4:80 "
    );
    let six = Surroundings { v4: false, ..BOTH };
    assert_eq!(
        outcome("-t 127.0.0.1/80", &six),
        "error: IPv4 forward, but IPv4 not enabled\nUnable to add rule TCP [127.0.0.1]:80  =>  80 "
    );
}

#[test]
fn limits_are_named() {
    let many: Vec<_> = (1..=256).map(|port| (2 * port).to_string()).collect();
    let outcome = outcome(&format!("-t {}", many.join(",")), &BOTH);
    assert_eq!(
        outcome,
        "error: Too many rules (maximum 255)\nUnable to add rule TCP [*]:512  =>  512 "
    );
}

proptest! {
    /// A port is listened on if and only if it is included and not excluded, and leads where its range says.
    #[test]
    fn exclusion_wins(
        first in 1_u16..300, length in 0_u16..50, shift in 0_u16..1000,
        exclude in proptest::collection::vec((0_u16..400, 0_u16..30), 0..4),
    ) {
        let last = first + length;
        let mut spec = format!("{first}-{last}:{}-{}", first + shift, last + shift);
        for (low, length) in &exclude {
            spec += &format!(",~{low}-{}", low + length);
        }
        let specs = [(Direction::TcpToGuest, spec.as_str()), (Direction::UdpToGuest, "none"),
            (Direction::TcpToHost, "none"), (Direction::UdpToHost, "none")];
        let rules = listeners(&specs, &BOTH, &Off::default()).expect("nothing conflicts");
        for port in 0..500_u16 {
            let wanted = (first..=last).contains(&port)
                && !exclude.iter().any(|&(low, length)| (low..=low + length).contains(&port));
            let found: Vec<_> = rules.iter().filter(|rule| (rule.first..=rule.last).contains(&port)).collect();
            prop_assert_eq!(found.len(), usize::from(wanted));
            for rule in found {
                prop_assert_eq!(rule.target + (port - rule.first), port + shift);
            }
        }
    }

    /// Whatever is written: no panic, and what is understood are ports that exist.
    #[test]
    fn any_words(spec in "[0-9a-z:~,%/*.\\[\\]-]{0,30}") {
        for rule in listeners(&[(Direction::TcpToGuest, &spec)], &BOTH, &Off::default()).unwrap_or_default() {
            prop_assert!(rule.first > 0 && rule.first <= rule.last && rule.target > 0);
            prop_assert!(rule.target.checked_add(rule.last - rule.first).is_some());
        }
    }
}

/// Parts of specifications, and what is said of them.
const MISTAKES: &str = "\
80- | '80-' is half a range: give its first and its last port, as 80-90
1-70000 | '70000' is no port: give a number from 1 to 65535
90-80 | 90-80 begins after its end: give 80-90
80,,81 | an item is empty: give ports with commas between them, as 80,443
80, | an item is empty: give ports with commas between them, as 80,443
~ | a port is missing: give a number from 1 to 65535
22,~x | 'x' is no port: give a number from 1 to 65535
22-24:80 | 3 ports cannot lead to 1: give as many there
1-65535:80 | 65535 ports cannot lead to 1: give as many there
80: | a port is missing: give a number from 1 to 65535
80:x | 'x' is neither ports nor an address: give one of them, as 80 or 10.0.0.1
80:90-80 | 90-80 begins after its end: give 80-90
80:80:80 | '80:80' is neither ports nor an address: give one of them, as 80 or 10.0.0.1
80:10.1.1/80 | '10.1.1' is no address: give one as 127.0.0.1, ::1 or 127.0.0.1%lo
80:10.1.1.1/x | 'x' is no port: give a number from 1 to 65535
all:x | 'x' is no address: give one as 127.0.0.1, ::1 or 127.0.0.1%lo
eth0/80 | 'eth0' is no address: give one as 127.0.0.1, ::1 or 127.0.0.1%lo
127.0.0.1:80 | a slash parts the address from the ports: give 127.0.0.1/80
127.0.0.1:8080:80 | a slash parts the address from the ports: give 127.0.0.1/8080:80
[::1]:80 | a slash parts the address from the ports: give [::1]/80
192.0.2.1 | 192.0.2.1 has no ports: give them too, as 192.0.2.1/80
auto:80 | 'auto' is no port: give a number from 1 to 65535";

#[test]
fn mistakes_are_explained() {
    for row in MISTAKES.lines() {
        let (text, expected) = row.split_once(" | ").unwrap();
        assert!(Ports::parse(text).is_none(), "{text}");
        assert_eq!(mistake::of(text), expected, "{text}");
    }
    let space = "' 80' is no port: give a number from 1 to 65535";
    assert_eq!(mistake::of(" 80"), space);
}

proptest! {
    /// Whatever is not understood has a reason, and none of them panics.
    #[test]
    fn any_mistake(spec in "[0-9a-z:~,%/*.\\[\\]-]{0,30}") {
        if Ports::parse(&spec).is_none() {
            let said = mistake::of(&spec);
            prop_assert!(said.contains("give "), "{}: {}", spec, said);
        }
    }
}
