//! socat: half-closes between programs, and datagrams, empty ones among them.

use anyhow::{Context, ensure};
use test_fixtures::lab;

use crate::effort::sized;
use crate::site::{Beside, PUBLISHED, Site, Way, call, call_with, wait_for};
use crate::stream::{beginning, hash_of};

/// The address as socat writes it, after a word.
fn address(word: &str, way: Way) -> String {
    let to = way.called(0);
    let family = if to.is_ipv6() { '6' } else { '4' };
    format!("{word}{family}:{to}")
}

/// The answer begins when the question has ended.
#[test]
fn an_answer_after_the_end() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let input = beginning(1, sized(5 << 20, 500 << 20));
        for way in Way::ALL {
            let port = way.listens(0).port();
            let listen = format!("TCP6-LISTEN:{port},ipv6only=0,reuseaddr");
            let words = ["socat", "-t60", &listen, "SYSTEM:sha256sum"];
            let server = Beside::serve(site.callee(way), 't', port, &words)?;
            let words = ["socat", "-t60", "-", &address("TCP", way)];
            let said = call_with(site.caller(way), &words, input.clone())?;
            ensure!(
                said == format!("{}  -\n", hash_of(&input)),
                "{way:?}: {said}"
            );
            server.ended()?;
        }
        Ok(())
    });
}

/// As Podman's own tests do it: the receiver ends with an empty datagram.
#[test]
fn an_empty_datagram_ends_a_transfer() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let directory = host.dir("datagrams")?;
        let (given, taken) = (directory.join("given"), directory.join("taken"));
        for way in Way::ALL {
            for (size, block) in [
                (2048, 1000),
                (50_000, 1000),
                (40_000, 8192),
                (60_000, 60_000),
            ] {
                std::fs::write(&given, beginning(2, size))?;
                let port = way.listens(0).port();
                let listen = format!("UDP6-LISTEN:{port},ipv6only=0,null-eof");
                let create = format!("CREATE:{}", taken.display());
                let words = ["socat", "-u", "-b65536", &listen, &create];
                let server = Beside::serve(site.callee(way), 'u', port, &words)?;
                let open = format!("OPEN:{}", given.display());
                let to = format!("{},shut-null", address("UDP", way));
                call(
                    site.caller(way),
                    &["socat", "-u", &format!("-b{block}"), &open, &to],
                )?;
                server
                    .ended()
                    .with_context(|| format!("{way:?}, {block}"))?;
                let (given, taken) = (std::fs::read(&given)?, std::fs::read(&taken)?);
                let same = given.iter().zip(&taken).take_while(|(a, b)| a == b).count();
                ensure!(
                    given == taken,
                    "{way:?}: {size} bytes in pieces of {block}: {} came, {same} of them right",
                    taken.len()
                );
            }
        }
        Ok(())
    });
}

/// Each datagram comes back as it went, from where it went.
#[test]
fn datagrams_come_back() {
    lab::run(|host| {
        let site = Site::new(host)?;
        for way in Way::ALL {
            let port = way.listens(0).port();
            let listen = format!("UDP6-RECVFROM:{port},ipv6only=0,fork,reuseaddr");
            let _server = Beside::serve(
                site.callee(way),
                'u',
                port,
                &["socat", "-b65536", &listen, "EXEC:cat"],
            )?;
            for size in [1, 1472, 1473, 9_000, 60_000] {
                let input = beginning(3, size);
                let script = format!("socat -b65536 -T1 - {} | sha256sum", address("UDP", way));
                let said = call_with(site.caller(way), &["sh", "-c", &script], input.clone())?;
                ensure!(said.starts_with(&hash_of(&input)), "{way:?}: {size} bytes");
            }
        }
        Ok(())
    });
}

/// Many datagrams of many sockets at once, to one published port.
#[test]
fn many_senders_to_one_port() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let taken = host.dir("senders")?.join("taken");
        let create = format!("OPEN:{},creat,append", taken.display());
        let words = [
            "socat",
            "-u",
            "UDP6-RECV:80,ipv6only=0,rcvbuf=4000000",
            &create,
        ];
        let _server = Beside::serve(&site.guest, 'u', 80, &words)?;
        let script = format!(
            "for i in $(seq 1000 1099); do echo $i | socat -u - UDP4:192.0.2.1:{PUBLISHED}; done"
        );
        call(&site.outside, &["sh", "-ec", &script])?;
        let expected: String = (1000..1100).map(|number| format!("{number}\n")).collect();
        wait_for("all datagrams came", || {
            std::fs::read_to_string(&taken).is_ok_and(|text| text == expected)
        })
    });
}
