//! What Podman wrote when it was recorded, decided for a host as most are. The whole decision is compared.
#![expect(
    clippy::disallowed_methods,
    reason = "tests read the recorded command lines"
)]

use std::fs;
use std::path::Path;

use test_fixtures::golden;
use usernet::cli::{self, Request};
use usernet::config::{Facts, HostAddress, HostLink, HostRoute, decide};

/// A machine with one uplink, both families and a resolver of its own.
fn host() -> Facts {
    let link = |index, name: &str| HostLink {
        index,
        name: name.to_owned(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        loopback: index == 1,
    };
    let address = |text: &str, scope| HostAddress {
        link: 2,
        address: text.parse().expect("an address"),
        scope,
        deprecated: false,
        age: None,
    };
    let route = |destination: &str, gateway: Option<&str>, protocol| HostRoute {
        destination: destination.parse().expect("a network"),
        gateway: gateway.map(|gateway| gateway.parse().expect("an address")),
        link: Some(2),
        multipath: false,
        metric: Some(100),
        protocol,
        kind: 1,
        scope: if gateway.is_some() { 0 } else { 253 },
        onlink: false,
    };
    Facts {
        links: vec![link(1, "lo"), link(2, "enp3s0")],
        addresses: vec![
            address("192.168.1.20/24", 0),
            address("2001:db8:1::20/64", 0),
            address("fe80::20/64", 253),
        ],
        routes: vec![
            route("0.0.0.0/0", Some("192.168.1.1"), 16),
            route("192.168.1.0/24", None, 2),
            route("2001:db8:1::/64", None, 2),
            route("::/0", Some("fe80::1"), 9),
        ],
        resolv_conf: b"nameserver 127.0.0.53\nsearch example.org\n".to_vec(),
        ephemeral: Some((32768, 60999)),
        ipv6: true,
    }
}

#[test]
fn every_recorded_command_line() {
    let data =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../test-fixtures/data/podman-5.8.6/pasta");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recorded");
    let mut seen = 0;
    for entry in fs::read_dir(data).expect("the recordings are there") {
        let path = entry.expect("the directory can be read").path();
        let text = fs::read_to_string(&path).expect("a recording is text");
        let request = cli::parse(text.lines().map(Into::into)).expect("Podman writes no nonsense");
        let Request::Run(options) = request else {
            panic!("{} is nothing to run", path.display());
        };
        let decision = decide(&options, &host()).expect("Podman asks for nothing impossible");
        let name = path.file_stem().expect("a recording has a name");
        let file = golden.join(name).with_extension("txt");
        golden::assert_matches(file, &format!("{decision:#?}\n"));
        seen += 1;
    }
    assert_eq!(seen, 4);
}
