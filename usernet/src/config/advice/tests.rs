use super::super::{Facts, decide};
use crate::cli::{self, Request};

/// What is said of words, each its own; a host with nothing, but IPv6.
fn said(words: &[&str]) -> String {
    let words = words.iter().map(|&word| word.into());
    let Request::Run(options) = cli::parse(words).expect("options") else {
        panic!("no run");
    };
    let facts = Facts {
        ipv6: true,
        ..Facts::default()
    };
    let error = decide(&options, &facts).expect_err("a wrong word");
    error.to_string()
}

/// Words, and the last line of what is said of them.
const ADVICE: &str = "\
-m abc | -m: 'abc' is no number: give 68 to 65521 bytes, or 0 to leave it alone
--mtu=65522 | --mtu: 65522 is too large: give 68 to 65521 bytes, or 0 to leave it alone
--mt -1 | --mtu: '-1' is no number: give 68 to 65521 bytes, or 0 to leave it alone
-6 -m 1000 | -m: IPv6 alone was asked for: give 1280 or more
--log-size 100 | --log-size: 100 is too small: give 40960 bytes or more
--log-size 99999999999999999999 | --log-size: 99999999999999999999 is too large: give 40960 bytes or more
--log-size= | --log-size: the number is missing: give 40960 bytes or more
-f --stats 4294967296 | --stats: 4294967296 is too large: give a number of seconds, as 10
--runas :5 | --runas: the user or the group is empty: give UID or UID:GID, numbers or names
-a 10.0.0.300 | -a: '10.0.0.300' is no address: give an address that a host can have, as 10.0.0.2/24
--address ::1/64 | --address: ::1 is a loopback address: give an address that a host can have, as 10.0.0.2/24
-a 10.0.0.3/33 | -a: '33' is no prefix length of 10.0.0.3: give an address that a host can have, as 10.0.0.2/24
-a 1.2.3.4/24 -n 24 | -n: the address has a prefix length already: leave one of them out
-n 255.0.255.0 | -n: 255.0.255.0 has ones after zeros: give a number of bits up to 32, or a mask as 255.255.255.0
--netmask 33 | --netmask: 33 bits are too many: give a number of bits up to 32, or a mask as 255.255.255.0
-n x | -n: 'x' is neither: give a number of bits up to 32, or a mask as 255.255.255.0
-M 9a:55 | -M: it is not six pairs of hexadecimal digits with colons: give six bytes as 02:00:00:00:00:01
-M 01:00:00:00:00:01 | -M: it is the address of a group, as the first byte is odd: give six bytes as 02:00:00:00:00:01
--ns-mac-addr 00:00:00:00:00:00 | --ns-mac-addr: it is all zeros: give six bytes as 02:00:00:00:00:01
-g 0.0.0.0 | -g: 0.0.0.0 is every address: give an address that a host can have, as 10.0.0.1
-g 10.0.0.1/24 | -g: '10.0.0.1/24' has a prefix length: give an address that a host can have, as 10.0.0.1
-o 224.0.0.1 | -o: 224.0.0.1 is the address of a group: give an address of this host
-i nosuch | -i: the host has no such interface: give one that `ip address` shows here
--interface= | --interface: the name is empty: give one that `ip address` shows here
--outbound-if4 nosuch | --outbound-if4: the host has no such interface, or no IPv4 address there: give one that `ip address` shows here
-I abcdefghijklmnop | -I: the name has 16 bytes: give 1 to 15 bytes without spaces, '/', ':' and '%'
-I a/b | -I: the name has '/': give 1 to 15 bytes without spaces, '/', ':' and '%'
-I a%d | -I: the kernel takes '%' for the place of a number: give 1 to 15 bytes without spaces, '/', ':' and '%'
--conf-path= | --conf-path: the path is empty: give the path of a socket that can be made
--ns-ifname= | --ns-ifname: the name is empty: give 1 to 15 bytes without spaces, '/', ':' and '%'
-D foo | -D: 'foo' is no address: give the address of a name server, at most 8 of them, or none
-D ::1 -D ::2 -D ::3 -D ::4 -D ::5 -D ::6 -D ::7 -D ::8 -D fd00::9 | -D: there are as many already: give the address of a name server, at most 8 of them, or none
--dns-forward 255.255.255.255 | --dns-forward: 255.255.255.255 is the broadcast address: give an address that a host can have, as 169.254.1.1
--dns-host foo | --dns-host: 'foo' is no address: give the address of a name server that this host reaches
--map-guest-addr 1.2.3 | --map-guest-addr: '1.2.3' is no address: give an address that a host can have, as 169.254.1.2, or none
-S a -S b -S c -S d -S e -S f -S g | -S: there are as many already: give a domain as example.org, at most 6 of them, or none
--search a..b | --search: there is nothing between two dots: give a domain as example.org, at most 6 of them, or none
--fqdn ü | --fqdn: the name has 'ü': give a name as host.example.org
--hostname= | --hostname: the name is empty: give a name as host.example.org
-t http | -t: 'http' is no port: give a number from 1 to 65535
-t 80 -u x | -u: 'x' is no port: give a number from 1 to 65535
-t 80 --tcp-ports 81 --tcp-ports y -t z | --tcp-ports: 'y' is no port: give a number from 1 to 65535
-U 53,1-70000 | -U: '70000' is no port: give a number from 1 to 65535
-T 127.0.0.1/80 | -T: the guest's loopback is listened on: give ports alone
-t 80 -t none | -t: none means no ports at all: leave it out, or the others
-u 0 | -u: give ports from 1 to 65535
-t 80 --tcp-ports=81,80 | --tcp-ports: two listeners cannot have one port: give another port, or leave one out
-4 -t ::1/80 | -t: IPv6 is off here: give an address of the other family, or none
";

#[test]
fn the_last_line_names_the_option_and_what_would_be_right() {
    for row in ADVICE.lines() {
        let (line, expected) = row.split_once(" | ").unwrap();
        let said = said(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(said.lines().last(), Some(expected), "{line}");
        assert!(said.lines().count() > 1, "{line}");
    }
    assert_eq!(
        said(&["-H", "a b"]),
        "Invalid hostname: a b\n-H: the name has ' ': give a name as host.example.org"
    );
    let many: Vec<_> = (1..=256).map(|port| (2 * port).to_string()).collect();
    assert_eq!(
        said(&["-t", &many.join(",")]),
        "Too many rules (maximum 255)\nUnable to add rule TCP [*]:512  =>  512 \n\
         -t: each range is one rule: give ranges, as 8000-8100"
    );
}

/// Whatever option refuses a value, its name is in what is said.
#[test]
fn every_option_that_refuses_a_value_is_named() {
    let mut refused = 0;
    for option in cli::OPTIONS
        .iter()
        .filter(|option| option.argument.is_some())
    {
        let Some(Request::Run(options)) =
            cli::parse(["-f", &format!("--{}= ", option.long)].map(Into::into)).ok()
        else {
            panic!("--{}", option.long);
        };
        let Err(error) = decide(&options, &Facts::default()) else {
            continue;
        };
        refused += 1;
        let name = format!("--{}", option.long);
        assert!(error.to_string().contains(&name), "{name}: {error}");
    }
    assert!(refused > 20, "{refused}");
}
