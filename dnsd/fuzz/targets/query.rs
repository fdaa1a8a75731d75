//! Any bytes as a query: nothing panics, and the short way to a reply gives the bytes of the long one.
#![no_main]

use std::sync::{Arc, LazyLock};

use dnsd::answer::{Policy, SearchDomain};
use dnsd::load;
use dnsd::respond::{Outcome, Scratch};
use dnsd::zones::Zones;
use dnsd::{fast, full};

static ZONES: LazyLock<Zones> = LazyLock::new(|| {
    let files: [(&str, &[u8]); 3] = [
        (
            "one",
            b"10.0.0.1,fd::1 1.1.1.1\na 10.0.0.2 fd::2 web,w,podman,arpa,a.b,*.w\nb 10.0.0.3  web,db 9.9.9.9\nb   db  srv=_x._tcp:1 route=corp@10.1.1.1\n",
        ),
        ("two", b"10.0.1.1\na 10.0.1.2  web,other\n"),
        ("in%int", b"10.0.2.1\nd 10.0.2.2  in\n"),
    ];
    let networks = files.map(|(name, text)| load::network(name, text).0.expect("a header"));
    Zones::new(networks.map(Arc::new).into())
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, query)) = input.split_first() else {
        return;
    };
    let source = ["10.0.0.2", "10.0.0.3", "10.0.2.2", "192.0.2.1"][usize::from(choice & 3)];
    let policy = Policy {
        domain: SearchDomain::new([".dns.podman", "podman", "", ".a.b"][usize::from(choice >> 2 & 3)]),
        forward: choice & 16 == 0,
        rotate: choice & 32 == 0,
        host_names: true,
    };
    let tcp = choice & 64 != 0;
    let asker = ZONES.asker(
        source.parse().expect("an address"),
        "10.0.0.1".parse().expect("an address"),
    );
    let (mut scratch, mut short, mut long) = (Scratch::default(), Vec::new(), Vec::new());
    let fast = fast::respond(&ZONES, &policy, &asker, query, tcp, &mut scratch, &mut short);
    let full = full::respond(&ZONES, &policy, &asker, query, tcp, &mut scratch, &mut long);
    if let Some(fast) = fast {
        assert_eq!(fast, full);
        assert!(fast != Outcome::Reply || short == long);
    }
});
