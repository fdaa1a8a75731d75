use std::ffi::OsString;

use ipnet::IpNet;

use super::*;
use crate::cli::{self, Request};
use crate::config::{Attach, UserNamespace};

/// `lo`, and `eth0` with two addresses of each family, a default route and another one.
fn host() -> Facts {
    let link = |index, name: &str| HostLink {
        index,
        name: name.to_owned(),
        mac: None,
        mtu: 1500,
        loopback: name == "lo",
    };
    let mut facts = Facts {
        links: vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1")],
        resolv_conf: b"nameserver 10.9.1.53\nnameserver 2001:db8:9::53\nsearch a.example\n"
            .to_vec(),
        ephemeral: Some((32768, 60999)),
        ipv6: true,
        ..Facts::default()
    };
    for (link, address, scope) in [
        (1, "127.0.0.1/8", 254),
        (1, "::1/128", 254),
        (2, "10.9.1.5/24", 0),
        (2, "10.9.2.7/28", 0),
        (2, "2001:db8:9::5/64", 0),
        (2, "2001:db8:9::6/128", 0),
        (2, "fe80::aa/64", 253),
    ] {
        facts.addresses.push(HostAddress {
            link,
            address: net(address),
            scope,
            deprecated: false,
            age: None,
        });
    }
    facts.routes = vec![
        route("0.0.0.0/0", Some("10.9.1.1"), 2),
        route("10.9.1.0/24", None, 2),
        route("172.20.0.0/16", Some("10.9.1.3"), 2),
        route("192.0.2.0/24", None, 3),
        route("::/0", Some("2001:db8:9::1"), 2),
        route("fe80::/64", None, 2),
    ];
    facts
}

fn route(destination: &str, gateway: Option<&str>, link: u32) -> HostRoute {
    HostRoute {
        destination: net(destination),
        gateway: gateway.map(|gateway| gateway.parse().expect("an address")),
        link: Some(link),
        multipath: false,
        metric: Some(100),
        protocol: 16,
        kind: 1,
        scope: 0,
        onlink: false,
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("an address with its length")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[track_caller]
fn try_decide(line: &str, facts: &Facts) -> Result<Decision, ConfigError> {
    let words = line.split(' ').filter(|word| !word.is_empty());
    match cli::parse(words.map(OsString::from)) {
        Ok(Request::Run(options)) => decide(&options, facts),
        other => panic!("{line}: {other:?}"),
    }
}

#[track_caller]
fn decided(line: &str, facts: &Facts) -> Decision {
    try_decide(line, facts).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[track_caller]
fn v4(decision: &Decision) -> &Family {
    decision.config.families.v4.as_ref().expect("IPv4 is on")
}

#[track_caller]
fn v6(decision: &Decision) -> &Family {
    decision.config.families.v6.as_ref().expect("IPv6 is on")
}

fn addresses(family: &Family) -> Vec<String> {
    family.addresses.iter().map(ToString::to_string).collect()
}

/// `destination>gateway` of each route.
fn routes(family: &Family) -> Vec<String> {
    let one = |route: &Route| match route.gateway {
        Some(gateway) => format!("{}>{gateway}", route.destination),
        None => route.destination.to_string(),
    };
    family.routes.iter().map(one).collect()
}

fn told(decision: &Decision, text: &str) -> bool {
    decision.notices.iter().any(|notice| notice.text == text)
}

#[test]
fn the_host_is_copied() {
    let decision = decided("--config-net", &host());
    let (four, six) = (v4(&decision), v6(&decision));
    assert_eq!(decision.config.link.name, "eth0");
    assert_eq!(decision.config.link.mtu, 65520);
    assert_eq!(addresses(four), ["10.9.1.5/24", "10.9.2.7/28"]);
    assert_eq!(addresses(six), ["2001:db8:9::5/64", "2001:db8:9::6/128"]);
    // That of the address is the kernel's to make.
    assert_eq!(
        routes(four),
        ["0.0.0.0/0>10.9.1.1", "172.20.0.0/16>10.9.1.3"]
    );
    assert_eq!(routes(six), ["::/0>2001:db8:9::1"]);
    assert_eq!(four.routes[0].metric, Some(100));
    assert_eq!(four.routes[0].protocol, 16);
    assert_eq!(four.ours, ip("10.9.1.1"));
    assert_eq!(six.ours, ip("fe80::aa"));
    assert_eq!(four.map_host_loopback, Some(ip("10.9.1.1")));
    assert_eq!(four.dns_host, Some(ip("10.9.1.53")));
    assert_eq!(four.dns_forward, None);
    assert!(decision.config.off.ra && !decision.config.off.dhcp && !four.fixed);
}

#[test]
fn without_config_net_the_guest_asks() {
    let decision = decided("-4", &host());
    assert_eq!(addresses(v4(&decision)), ["10.9.2.7/28"]);
    assert_eq!(routes(v4(&decision)), [""; 0]);
    assert_eq!(decision.config.families.v6, None);
    assert!(!decision.config.off.ra);
    let decision = decided("-6 -n 24", &host());
    assert_eq!(addresses(v6(&decision)), ["2001:db8:9::6/64"]);
    assert!(decision.config.off.dhcp);
}

#[test]
fn addresses_and_gateways_as_told() {
    let decision = decided("--config-net -a 192.0.2.1 -a 2001:db8::1", &host());
    assert_eq!(addresses(v4(&decision)), ["192.0.2.1/24"]);
    assert_eq!(addresses(v6(&decision)), ["2001:db8::1/64"]);
    assert!(v4(&decision).fixed);
    // Now the host's connected route is what makes its gateway reachable.
    assert_eq!(
        routes(v4(&decision)),
        [
            "10.9.1.0/24",
            "0.0.0.0/0>10.9.1.1",
            "172.20.0.0/16>10.9.1.3"
        ]
    );
    let decision = decided("--config-net -a 10.0.2.100 -n 24 -g 10.0.2.2", &host());
    assert_eq!(addresses(v4(&decision)), ["10.0.2.100/24"]);
    assert_eq!(routes(v4(&decision)), ["0.0.0.0/0>10.0.2.2"]);
    assert_eq!(v4(&decision).ours, ip("10.0.2.2"));
    let decision = decided("--config-net -g 1.2.3.4 -g fe80::1", &host());
    assert_eq!(routes(v4(&decision)), ["1.2.3.4/32", "0.0.0.0/0>1.2.3.4"]);
    assert_eq!(routes(v6(&decision)), ["::/0>fe80::1"]);
    assert_eq!(v6(&decision).ours, ip("fe80::1"));
    let lengths = [
        ("10.1.1.1", 8),
        ("172.16.0.1", 16),
        ("240.0.0.1", 32),
        ("10.1.1.1/0", 8),
    ];
    for (address, length) in lengths {
        let decision = decided(&format!("-a {address}"), &host());
        assert_eq!(v4(&decision).addresses[0].prefix_len(), length, "{address}");
    }
}

#[test]
fn deprecated_options_still_work() {
    let decision = decided("--config-net --no-copy-routes --no-copy-addrs", &host());
    assert_eq!(addresses(v4(&decision)), ["10.9.2.7/28"]);
    assert_eq!(routes(v4(&decision)), ["0.0.0.0/0>10.9.1.1"]);
    assert!(told(&decision, "--no-copy-routes will be dropped soon"));
    assert!(told(
        &decided("-e", &host()),
        "--stderr will be dropped soon"
    ));
}

#[test]
fn a_host_without_a_network() {
    let mut facts = host();
    facts.routes.clear();
    let decision = decided("--config-net", &facts);
    assert_eq!(decision.config.link.name, "tap0");
    assert_eq!(addresses(v4(&decision)), ["169.254.2.1/16"]);
    assert_eq!(routes(v4(&decision)), ["0.0.0.0/0>169.254.2.2"]);
    assert_eq!(v4(&decision).template, None);
    assert_eq!(addresses(v6(&decision)), [""; 0]);
    assert_eq!(routes(v6(&decision)), ["::/0>fe80::1"]);
    assert_eq!(v6(&decision).ours, ip("fe80::1"));
    assert!(told(
        &decision,
        "IPv4: no external interface as template, use local mode"
    ));
    // What the user said holds all the same.
    let decision = decided("--config-net -a 10.0.2.100 -n 24 -g 10.0.2.2", &facts);
    assert_eq!(addresses(v4(&decision)), ["10.0.2.100/24"]);
    assert_eq!(routes(v4(&decision)), ["0.0.0.0/0>10.0.2.2"]);
}

#[test]
fn which_interface_is_the_template() {
    let template = |line: &str, facts: &Facts| v4(&decided(line, facts)).template.clone();
    let mut facts = host();
    // No default route: the first that is not link-local.
    facts.routes = vec![
        route("169.254.0.0/16", None, 2),
        route("192.0.2.0/24", None, 3),
    ];
    facts.addresses.push(HostAddress {
        link: 3,
        address: net("192.0.2.9/24"),
        scope: 0,
        deprecated: false,
        age: None,
    });
    assert_eq!(template("", &facts).as_deref(), Some("eth1"));
    assert_eq!(template("-i eth0", &facts).as_deref(), Some("eth0"));
    assert_eq!(
        template("--outbound-if4 eth0", &facts).as_deref(),
        Some("eth0")
    );
    facts
        .routes
        .insert(0, route("0.0.0.0/0", Some("10.9.1.1"), 2));
    facts.routes.push(route("0.0.0.0/0", Some("192.0.2.1"), 3));
    assert_eq!(template("", &facts).as_deref(), Some("eth0"));
    let decision = decided("", &facts);
    assert!(told(
        &decision,
        "Multiple default IPv4 routes, picked first"
    ));
    // Neither one without addresses nor the loopback one.
    assert_eq!(template("-i lo", &facts), None);
    assert_eq!(template("-i eth1", &host()), None);
    // Blackholes lead nowhere.
    facts.routes = vec![HostRoute {
        kind: 6,
        ..route("0.0.0.0/0", None, 2)
    }];
    assert_eq!(template("", &facts), None);
}

#[test]
fn several_gateways_become_one() {
    let mut facts = host();
    facts.routes[0].multipath = true;
    let decision = decided("--config-net", &facts);
    assert!(v4(&decision).routes[0].onlink);
    assert!(told(
        &decision,
        "Route 0.0.0.0/0 has several gateways: using 10.9.1.1"
    ));
}

#[test]
fn deprecated_addresses_stay_behind() {
    let mut facts = host();
    facts.addresses[2].deprecated = true;
    let decision = decided("--config-net", &facts);
    assert_eq!(addresses(v4(&decision)), ["10.9.2.7/28"]);
}

#[test]
fn the_hosts_loopback() {
    let mapped = |line: &str| v4(&decided(line, &host())).map_host_loopback;
    assert_eq!(mapped("--no-map-gw"), None);
    assert_eq!(mapped("--map-host-loopback none"), None);
    assert_eq!(
        mapped("--map-host-loopback 10.0.2.2 --no-map-gw"),
        Some(ip("10.0.2.2"))
    );
    let decision = decided("--map-guest-addr 169.254.1.2", &host());
    assert_eq!(v4(&decision).map_guest, Some(ip("169.254.1.2")));
    assert_eq!(v6(&decision).map_guest, None);
}

/// Its own address at the host is no way there if the host does not have it.
#[test]
fn a_name_for_the_hosts_other_self() {
    let map = "--map-guest-addr 169.254.1.2";
    let warning = "--map-guest-addr 169.254.1.2 leads nowhere: 10.0.0.3 (--address) is none of the host's addresses. \
        The guest reaches the host by those; for its loopback, give --map-host-loopback 169.254.1.2";
    let line = |address: &str| format!("    NAT to host {address}: 169.254.1.2");
    let warned = |decision: &Decision| {
        let mut notices = decision.notices.iter();
        notices.any(|notice| notice.level == Level::Warning)
    };
    let given = decided(&format!("-a 10.0.0.3 {map}"), &host());
    assert!(told(&given, warning) && !told(&given, &line("10.0.0.3")));
    let advised = format!("-a 10.0.0.3 {map} --map-host-loopback 169.254.1.2");
    let advised = decided(&advised, &host());
    assert!(!warned(&advised) && told(&advised, &line("127.0.0.1")));
    // The host's own, the host's other one, and none at all.
    for (words, address) in [("", "10.9.2.7"), ("-a 10.9.1.5", "10.9.1.5")] {
        let had = decided(&format!("{words} {map}"), &host());
        assert!(!warned(&had) && told(&had, &line(address)), "{words}");
    }
    assert!(!warned(&decided("-a 10.0.0.3", &host())));
    assert!(!warned(&decided(
        &format!("--splice-only -a 10.0.0.3 {map}"),
        &host()
    )));
    // Local mode says that it is one, and may end.
    let facts = Facts {
        routes: Vec::new(),
        addresses: Vec::new(),
        ..host()
    };
    let local = decided(map, &facts);
    assert!(!told(&local, &line("169.254.2.1")) && !warned(&local));
}

#[test]
fn name_servers() {
    let mut facts = host();
    let decision = decided("--dhcp-dns --dhcp-search", &facts);
    assert_eq!(
        decision.config.announce.dns,
        [ip("10.9.1.53"), ip("2001:db8:9::53")]
    );
    assert_eq!(decision.config.announce.search, ["a.example"]);
    let decision = decided("-D 1.1.1.1 -S b.example", &facts);
    assert_eq!(decision.config.announce.dns, [ip("1.1.1.1")]);
    assert_eq!(decision.config.announce.search, ["b.example"]);
    assert_eq!(decided("", &facts).config.announce, Announce::default());
    let decision = decided("--dns-forward 1.2.3.4 -D none --dhcp-dns", &facts);
    assert_eq!(v4(&decision).dns_forward, None);
    assert!(decision.config.announce.dns.is_empty());
    // The host's own resolver is reached by redirection only.
    facts.resolv_conf = b"nameserver 127.0.0.53\n".to_vec();
    let decision = decided("--dhcp-dns", &facts);
    assert_eq!(v4(&decision).dns_forward, Some(ip("10.9.1.1")));
    assert_eq!(decision.config.announce.dns, [ip("10.9.1.1")]);
    let decision = decided("--dhcp-dns --dns-forward 169.254.1.1 --no-map-gw", &facts);
    assert_eq!(v4(&decision).dns_forward, Some(ip("169.254.1.1")));
    assert_eq!(v4(&decision).dns_host, Some(ip("127.0.0.53")));
    assert_eq!(decision.config.announce.dns, [ip("169.254.1.1")]);
    let decision = decided("--dhcp-dns --no-map-gw", &facts);
    assert_eq!(v4(&decision).dns_forward, None);
    assert!(decision.config.announce.dns.is_empty());
    let warning = "Couldn't get any nameserver address";
    assert!(!told(&decision, warning));
    assert!(told(&decided("-6", &facts), warning));
    assert!(!told(&decided("-6 -D none", &facts), warning));
}

#[test]
fn switches() {
    let config = |line: &str| decided(line, &host()).config;
    let off = config("--no-icmp --no-udp").off;
    assert!(off.icmp && off.ndp && off.udp && !off.tcp && !off.ra);
    assert!(
        config("--no-udp")
            .listeners
            .iter()
            .all(|rule| rule.transport == crate::event::Transport::Tcp)
    );
    let only = config("--splice-only --dns-forward 1.2.3.4");
    assert!(only.splice_only && only.loopback_to_loopback && only.splice && only.off.icmp);
    assert_eq!(only.families.v4.and_then(|family| family.dns_forward), None);
    assert!(!config("--no-splice").splice);
    let four = decided("-6 -4", &host()).config.families;
    assert!(four.v4.is_some() && four.v6.is_none());
    let mut facts = host();
    facts.ipv6 = false;
    assert_eq!(decided("", &facts).config.families.v6, None);
}

#[test]
fn a_small_mtu() {
    let warning = "MTU 1200 is too small for IPv6 (minimum 1280)";
    let decision = decided("--config-net -m 1200", &host());
    assert!(told(&decision, warning));
    assert_eq!(decision.config.families.v6, None);
    let error = try_decide("--config-net -6 -m 1200", &host()).expect_err("nothing is left");
    assert_eq!(error.to_string().lines().next(), Some(warning));
    let decision = decided("--config-net -m 0", &host());
    assert!(decision.config.families.v6.is_some());
    assert!(
        !decision
            .notices
            .iter()
            .any(|notice| notice.text.contains("too small"))
    );
}

#[test]
fn whose_network() {
    let run = |line: &str| decided(line, &host()).run;
    let path = run("--netns /run/user/1000/netns/n");
    assert_eq!(path.attach, Attach::Path("/run/user/1000/netns/n".into()));
    assert_eq!((path.userns, path.foreground), (UserNamespace::Stay, false));
    assert_eq!(
        run("--netns blue").attach,
        Attach::Path("/run/netns/blue".into())
    );
    let joined = run("--userns=/proc/7/ns/user --netns=/x/n");
    assert_eq!(joined.userns, UserNamespace::Join("/proc/7/ns/user".into()));
    let process = run("77");
    assert_eq!(process.attach, Attach::Process(77));
    assert_eq!(
        process.userns,
        UserNamespace::Join("/proc/77/ns/user".into())
    );
    assert_eq!(run("--netns-only 77").userns, UserNamespace::Stay);
    let command = run("-4 77 -x");
    assert_eq!(
        command.attach,
        Attach::Command(vec!["77".into(), "-x".into()])
    );
    assert!(command.foreground && command.verbosity == Level::Warning);
    assert_eq!(run("").userns, UserNamespace::New);
    assert_eq!(run("--netns-only true").userns, UserNamespace::Stay);
}

#[test]
fn how_much_is_told() {
    let level = |line: &str| decided(&format!("{line} 1"), &host()).run.verbosity;
    assert_eq!(level(""), Level::Info);
    assert_eq!(level("-q"), Level::Warning);
    assert_eq!(level("-q -d"), Level::Debug);
    assert_eq!(level("-d -q"), Level::Warning);
    assert_eq!(level("--trace"), Level::Trace);
    assert_eq!(level("--trace -q"), Level::Warning);
}

/// Words, and what is said of them.
const MESSAGES: &str = "\
--mtu abc                    | Invalid MTU: abc
--mtu=5=6                    | Invalid MTU: 5=6
--mtu 70000                  | MTU 70000 too large (max 65521)
-a foo                       | Invalid guest address: foo
-a 127.0.0.1                 | Invalid guest address: 127.0.0.1
-a 0.0.0.0                   | Invalid guest address: 0.0.0.0
-a 224.0.0.1                 | Invalid guest address: 224.0.0.1
-a ::1                       | Invalid guest address: ::1
-a 1.2.3.4/33                | Invalid prefix length: 1.2.3.4/33
-a 1.2.3.4/24 -n 24          | Redundant prefix length specification
-n 33 -a 1.2.3.4             | Invalid prefix length: 33
-n 255.255.0.255             | Invalid prefix length: 255.255.0.255
-n foo                       | Invalid prefix length: foo
-M foo                       | Invalid MAC address: foo
-M 9A-55-9A-55-9A-56         | Invalid MAC address: 9A-55-9A-55-9A-56
--ns-mac-addr foo            | Invalid MAC address: foo
-g foo                       | Invalid gateway address: foo
-g 127.0.0.1                 | Invalid gateway address: 127.0.0.1
-g ::                        | Invalid gateway address: ::
-i nosuch                    | Invalid interface name nosuch: No such device
-o foo                       | Invalid or redundant outbound address: foo
--outbound-if4 abcdefghijklmnopqrst | Invalid interface name: abcdefghijklmnopqrst
--outbound-if4 nosuch        | External interface not usable: nosuch
-D foo                       | Cannot use DNS address foo
--dns-forward none           | Invalid DNS forwarding address: none
--dns-forward 127.0.0.1      | Invalid DNS forwarding address: 127.0.0.1
--dns-forward 255.255.255.255 | Invalid DNS forwarding address: 255.255.255.255
--dns-host 0.0.0.0           | Invalid host nameserver address: 0.0.0.0
-S a -S b -S c -S d -S e -S f -S g | Cannot use DNS search domain g
--map-host-loopback 127.0.0.1 | Invalid address to remap to host: 127.0.0.1
--map-guest-addr foo         | Invalid address to remap to host: foo
--map-guest-addr 224.0.0.1   | Invalid address to remap to host: 224.0.0.1
-t foo                       | Invalid port specifier 'foo'
-t 80 -t none                | -t none conflicts with previous options
--tcp-ports=80 --tcp-ports none | -t none conflicts with previous options
-I abcdefghijklmnopqrst      | Invalid interface name: abcdefghijklmnopqrst
-I a%d                       | Invalid interface name: a%d
-I a%b                       | Invalid interface name: a%b
--conf-path=                 | Invalid configuration path: 
--outbound-if4 a%d           | External interface not usable: a%d
--netns /nosuch true         | Both --netns and PID or command given
--no-copy-routes             | --no-copy-routes needs --config-net
--no-splice --host-lo-to-ns-lo | --host-lo-to-ns-lo is incompatible with --no-splice
--splice-only --no-splice    | --splice-only is incompatible with --no-splice
--stats 1                    | Can't display statistics if not running in foreground
--log-size 100               | Invalid --log-size: 100
--log-size foo               | Invalid --log-size: foo
--runas :5                   | Invalid --runas option: :5
--no-dhcp-dns                | --no-dhcp-dns is for passt mode only, and virtual machines are not served by this program
-s /x                        | -s is for passt mode only, and virtual machines are not served by this program
";

/// The words are looked for by people and scripts. Each was compared with what Debian's pasta says.
#[test]
fn messages() {
    let check = |line: &str, message: &str| {
        let error = try_decide(line, &host()).expect_err(line).to_string();
        let first = error.lines().next();
        assert_eq!(first, message.lines().next(), "{line}");
        assert!(error.starts_with(message), "{line}: {error}");
    };
    for row in MESSAGES.lines() {
        let (line, message) = row.split_once(" | ").unwrap();
        check(line.trim_end(), message);
    }
    check("--mtu=", "Invalid MTU: ");
    check(
        "-4 -t ::1/80",
        "IPv6 forward, but IPv6 not enabled\nUnable to add rule TCP [::1]:80  =>  80 ",
    );
}

/// Every option that is not for another program has a meaning: `read` panics on one without, in tests.
#[test]
fn no_option_is_forgotten() {
    for option in cli::OPTIONS {
        if matches!(option.id, cli::Id::Help | cli::Id::Version) {
            continue;
        }
        let value = option.argument.map_or("", |_| "=x");
        let line = format!("-f --{}{value}", option.long);
        // Most refuse the value; none may be overlooked.
        let _outcome = try_decide(&line, &host());
    }
}
