//! dig, by the name server that the guest is told of, which is the host's.

use anyhow::{Result, ensure};
use test_fixtures::lab;
use test_fixtures::lab::Host;

use crate::site::{Beside, DNS_FORWARD, Site, call};

/// Texts of a name with a large answer: about four thousand bytes.
const TEXTS: usize = 16;

/// dnsmasq knows small names and a large one.
fn server(site: &Site<'_>) -> Result<Beside> {
    let text = "x".repeat(240);
    let mut words: Vec<String> = [
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--bind-interfaces",
        "--interface=eth0",
        "--user=root",
        "--pid-file=",
        "--edns-packet-max=8192",
        "--host-record=small.test,198.51.100.7,2001:db8:7::7",
    ]
    .map(str::to_owned)
    .to_vec();
    words.extend((0..TEXTS).map(|i| format!("--txt-record=large.test,{i}{text}")));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Beside::serve(&site.outside, 'u', 53, &words)
}

fn dig(site: &Site<'_>, at: &str, words: &[&str]) -> Result<String> {
    let at = format!("@{at}");
    call(
        &site.guest,
        &[&["dig", "+tries=2", "+time=3", &at], words].concat(),
    )
}

#[test]
fn small_and_large_answers() {
    lab::run(|host| {
        for mtu in ["65520", "1500"] {
            let words = ["--dns-host", Host::OUTSIDE_V4, "--mtu", mtu];
            let site = Site::with(host, &words)?;
            let _server = server(&site)?;
            for transport in ["+notcp", "+tcp"] {
                for (kind, expected) in [("A", "198.51.100.7"), ("AAAA", "2001:db8:7::7")] {
                    let answer = dig(
                        &site,
                        DNS_FORWARD,
                        &[transport, "+short", "small.test", kind],
                    )?;
                    ensure!(answer.trim() == expected, "{transport} {kind}: {answer}");
                }
                let large = dig(
                    &site,
                    DNS_FORWARD,
                    &[transport, "+bufsize=8192", "+ignore", "large.test", "TXT"],
                )?;
                ensure!(
                    large.matches("TXT\t\"").count() == TEXTS,
                    "{transport}, MTU {mtu}: {large}"
                );
                let word = if transport == "+tcp" {
                    "(TCP)"
                } else {
                    "(UDP)"
                };
                ensure!(large.contains(word) && !large.contains(" tc "), "{large}");
            }
            // Too large for what the asker says: cut, and asked again over TCP.
            let cut = dig(
                &site,
                DNS_FORWARD,
                &["+bufsize=512", "+ignore", "large.test", "TXT"],
            )?;
            ensure!(cut.contains(" tc"), "{cut}");
            let again = dig(&site, DNS_FORWARD, &["+bufsize=512", "large.test", "TXT"])?;
            ensure!(
                again.matches("TXT\t\"").count() == TEXTS && again.contains("(TCP)"),
                "{again}"
            );
            // And by its own address, over both families.
            for at in [Host::OUTSIDE_V4, Host::OUTSIDE_V6] {
                let large = dig(
                    &site,
                    at,
                    &["+bufsize=8192", "+ignore", "large.test", "TXT"],
                )?;
                ensure!(
                    large.matches("TXT\t\"").count() == TEXTS,
                    "{at}, MTU {mtu}: {large}"
                );
            }
            site.end()?;
        }
        Ok(())
    });
}
