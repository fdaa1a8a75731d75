//! What is answered from the networks' files, and what "no" means.

use crate::machine::{GATEWAY, line, on};
use crate::message::{Query, TXT};
use crate::upstream::{Do, Upstream};

#[test]
fn with_and_without_the_search_domain() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let web = machine.web();
        for name in [
            "db",
            "db.dns.podman",
            "DB.DNS.Podman",
            "dB.Dns.podman",
            "Db",
        ] {
            assert_eq!(
                web.says(&format!("{name} A"))?,
                "NOERROR 10.88.0.3",
                "{name}"
            );
        }
        Ok(())
    });
}

/// Resolvers that mix the case of their questions check it in the answer.
#[test]
fn the_case_of_the_question_comes_back() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        let answer = machine.web().udp(&Query::new("dB.dNs.PoDmAn A"))?;
        assert_eq!(answer.questions[0].name, "dB.dNs.PoDmAn.");
        assert_eq!(answer.answers[0].name, "dB.dNs.PoDmAn.");
        Ok(())
    });
}

#[test]
fn time_to_live_is_zero() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        for question in ["web A", "web AAAA", "2.0.88.10.in-addr.arpa PTR"] {
            let answer = machine.web().udp(&Query::new(question))?;
            assert!(!answer.answers.is_empty());
            assert!(
                answer.answers.iter().all(|record| record.ttl == 0),
                "{answer:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn no_address_of_the_other_family_is_no_data() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        machine.start()?;
        for question in ["db AAAA", "db.dns.podman AAAA"] {
            assert_eq!(machine.web().says(question)?, "NOERROR");
        }
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn unknown_names_of_the_search_domain_do_not_exist() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        machine.start()?;
        for question in [
            "nobody.dns.podman A",
            "nobody.dns.podman AAAA",
            "www.example.dns.podman A",
        ] {
            assert_eq!(machine.web().says(question)?, "NXDOMAIN", "{question}");
        }
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn the_search_domain_in_capitals_stays_here() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(machine.web().says("nobody.DNS.podman A")?, "NXDOMAIN");
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn the_search_domain_itself_exists() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(machine.web().says("dns.podman A")?, "NOERROR");
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn a_name_that_only_looks_like_the_search_domain_is_forwarded() {
    on!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(machine.web().says("xdns.podman A")?, "NOERROR 192.0.2.80");
        Ok(())
    });
}

#[test]
fn other_types_of_a_name_that_exists_are_no_data() {
    on!(|machine| {
        let upstream = Upstream::refusing("198.51.100.1", 3)?;
        machine.usual_network()?;
        machine.start()?;
        for kind in [
            "MX",
            "TXT",
            "SRV",
            "HTTPS",
            "SVCB",
            "NS",
            "SOA",
            "CNAME",
            "TYPE65280",
        ] {
            for name in ["db", "db.dns.podman"] {
                let question = format!("{name} {kind}");
                assert_eq!(machine.web().says(&question)?, "NOERROR", "{question}");
            }
        }
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn other_types_below_the_search_domain_stay_here() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        machine.start()?;
        for kind in ["MX", "TXT", "SRV", "HTTPS"] {
            assert_eq!(
                machine.web().says(&format!("nobody.dns.podman {kind}"))?,
                "NXDOMAIN"
            );
        }
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn other_types_of_other_names_are_forwarded() {
    on!(|machine| {
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            let reply = crate::message::Reply::to(&asked.bytes);
            assert_eq!(asked.message().questions[0].kind, TXT);
            Do::Send(reply.txt(60, "hello").bytes())
        })?;
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(machine.web().says("www.example TXT")?, "NOERROR hello");
        Ok(())
    });
}

#[test]
fn any_is_both_families() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(
            machine.web().says("web ANY")?,
            "NOERROR 10.88.0.2 fd10:88::2"
        );
        Ok(())
    });
}

#[test]
fn zones_are_not_handed_out() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(machine.web().says("dns.podman AXFR")?, "REFUSED");
        assert_eq!(machine.web().says_by_tcp("dns.podman AXFR")?, "REFUSED");
        Ok(())
    });
}

#[test]
fn negative_answers_say_how_long_to_remember_them() {
    on!(|machine| {
        machine.usual_network()?;
        machine.start()?;
        for question in ["db AAAA", "nobody.dns.podman A"] {
            let answer = machine.web().udp(&Query::new(question))?;
            let soa = answer.soa().expect("an SOA");
            assert_eq!(
                (soa.ttl, soa.name.as_str()),
                (0, "dns.podman."),
                "{question}"
            );
            assert_eq!(soa.raw[soa.raw.len() - 4..], [0; 4], "{question}: minimum");
        }
        Ok(())
    });
}

#[test]
fn addresses_of_a_container_keep_their_order() {
    on!(|machine| {
        let text = format!(
            "{GATEWAY}\n{}",
            line(1, "10.88.0.9,10.88.0.2,10.88.0.5", "", "web")
        );
        machine.network("net", &text)?;
        machine.start()?;
        // Any of them may be first: answers may be rotated.
        let seen = machine.web().data("web A")?;
        let twice = "10.88.0.9 10.88.0.2 10.88.0.5 10.88.0.9 10.88.0.2 10.88.0.5";
        assert!(twice.contains(&seen.join(" ")), "{seen:?}");
        Ok(())
    });
}

#[test]
fn a_name_in_another_script() {
    on!(|machine| {
        let text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "Bücher"));
        machine.network("net", &text)?;
        machine.start()?;
        assert_eq!(machine.web().says("xn--bcher-kva A")?, "NOERROR 10.88.0.2");
        Ok(())
    });
}

#[test]
fn a_name_in_another_script_by_its_bytes() {
    on!(|machine| {
        let text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "bücher"));
        machine.network("net", &text)?;
        machine.start()?;
        assert_eq!(machine.web().says("bücher A")?, "NOERROR 10.88.0.2");
        Ok(())
    });
}

#[test]
fn a_name_configured_in_its_ascii_form() {
    on!(|machine| {
        let text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "xn--bcher-kva"));
        machine.network("net", &text)?;
        machine.start()?;
        assert_eq!(machine.web().says("xn--bcher-kva A")?, "NOERROR 10.88.0.2");
        Ok(())
    });
}

#[test]
fn the_longest_names() {
    on!(|machine| {
        let label = "a".repeat(63);
        let name = format!("{label}.{label}.{label}");
        machine.network(
            "net",
            &format!(
                "{GATEWAY}\n{}",
                line(1, "10.88.0.2", "", &format!("{name},{label}"))
            ),
        )?;
        machine.start()?;
        for name in [&*label, &name, &format!("{name}.dns.podman")] {
            assert_eq!(
                machine.web().says(&format!("{name} A"))?,
                "NOERROR 10.88.0.2"
            );
        }
        Ok(())
    });
}
