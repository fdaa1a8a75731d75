//! Names that stand for many, services, and domains with servers of their own.
//!
//! Services and domains are extensions of the zone file. Those who do not know them, such as the incumbent, must read
//! the same file without harm: the last tests here are also asked of it.

use anyhow::Result;

use crate::machine::{GATEWAY, GATEWAY_2, Machine, id, line, line_with, on, ours};
use crate::message::{Message, Query};
use crate::upstream::Upstream;

// Wildcards.

/// `*.app.local` for a proxy, and a longer one for another.
fn proxies(machine: &Machine<'_>) -> Result<Upstream> {
    let upstream = Upstream::refusing("198.51.100.1", 3)?;
    machine.network(
        "net",
        &format!(
            "{GATEWAY}\n{}{}{}",
            line(1, "10.88.0.2", "fd10:88::2", "web"),
            line(2, "10.88.0.3", "fd10:88::3", "proxy,*.app.local"),
            line(3, "10.88.0.4", "", "inner,*.x.app.local,exact.app.local"),
        ),
    )?;
    machine.network(
        "other",
        &format!(
            "{GATEWAY_2}\n{}",
            line(4, "10.89.0.2", "", "far,*.far.local")
        ),
    )?;
    machine.start()?;
    Ok(upstream)
}

#[test]
fn a_wildcard_stands_for_all_names_below() {
    ours!(|machine| {
        let upstream = proxies(machine)?;
        for name in [
            "a.app.local",
            "A.App.Local",
            "b.a.app.local",
            "a.app.local.dns.podman",
        ] {
            let web = machine.web();
            assert_eq!(web.says(&format!("{name} A"))?, "NOERROR 10.88.0.3");
            assert_eq!(web.says(&format!("{name} AAAA"))?, "NOERROR fd10:88::3");
            assert_eq!(web.says_by_tcp(&format!("{name} A"))?, "NOERROR 10.88.0.3");
            assert_eq!(web.says(&format!("{name} MX"))?, "NOERROR");
        }
        assert!(upstream.asked().is_empty());
        Ok(())
    });
}

/// The owner of the answer is what was asked for, not the wildcard.
#[test]
fn the_answer_of_a_wildcard_is_about_the_name_that_was_asked_for() {
    ours!(|machine| {
        let _upstream = proxies(machine)?;
        let answer = machine.web().udp(&Query::new("Some.app.local A"))?;
        assert_eq!(answer.answers[0].name, "Some.app.local.");
        Ok(())
    });
}

#[test]
fn the_longest_wildcard_counts_and_names_before_all() {
    ours!(|machine| {
        let _upstream = proxies(machine)?;
        let web = machine.web();
        assert_eq!(web.says("a.x.app.local A")?, "NOERROR 10.88.0.4");
        assert_eq!(web.says("b.a.x.app.local A")?, "NOERROR 10.88.0.4");
        assert_eq!(web.says("exact.app.local A")?, "NOERROR 10.88.0.4");
        // It has no IPv6 address, and does not borrow the other's.
        assert_eq!(web.says("a.x.app.local AAAA")?, "NOERROR");
        assert_eq!(web.says("exact.app.local AAAA")?, "NOERROR");
        // A wildcard is below another one, too.
        assert_eq!(web.says("x.app.local A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn a_wildcard_is_not_its_parent_nor_what_ends_alike() {
    ours!(|machine| {
        let upstream = proxies(machine)?;
        for name in ["app.local", "xapp.local", "local"] {
            assert_eq!(machine.web().says(&format!("{name} A"))?, "NXDOMAIN");
            assert_eq!(upstream.count(name), 1, "{name}");
        }
        assert_eq!(machine.web().says("app.local.dns.podman A")?, "NXDOMAIN");
        Ok(())
    });
}

#[test]
fn a_wildcard_ends_with_its_network() {
    ours!(|machine| {
        let _upstream = proxies(machine)?;
        assert_eq!(machine.web().says("a.far.local A")?, "NXDOMAIN");
        let far = machine.client("10.89.0.2");
        assert_eq!(far.says("a.far.local A")?, "NOERROR 10.89.0.2");
        assert_eq!(far.says("a.app.local A")?, "NXDOMAIN");
        // Whichever gateway is asked.
        assert_eq!(far.at(GATEWAY).says("a.app.local A")?, "NXDOMAIN");
        Ok(())
    });
}

#[test]
fn no_address_is_called_by_a_wildcard() {
    ours!(|machine| {
        let _upstream = proxies(machine)?;
        let web = machine.web();
        assert_eq!(web.says("3.0.88.10.in-addr.arpa PTR")?, "NOERROR proxy.");
        assert_eq!(
            web.says("4.0.88.10.in-addr.arpa PTR")?,
            "NOERROR exact.app.local. inner."
        );
        Ok(())
    });
}

// Services.

/// Two containers `api` with a service each, one of them with servers of its own.
fn services(machine: &Machine<'_>) -> Result<Upstream> {
    let upstream = Upstream::refusing("198.51.100.1", 3)?;
    machine.network(
        "net",
        &format!(
            "{GATEWAY}\n{}{}{}{}",
            line(1, "10.88.0.2", "", "web"),
            line(2, "10.88.0.3", "fd10:88::3", "api,one").replace('\n', "  srv=_http._tcp:8080\n"),
            line_with(3, "10.88.0.4", "", "api,two", "198.51.100.2"),
            format_args!(
                "{}   api,two  srv=_http._tcp:8081 srv=_metrics._udp:9100\n",
                id(3)
            ),
        ),
    )?;
    machine.start()?;
    Ok(upstream)
}

/// The addresses beside an answer.
fn additional(message: &Message) -> Vec<String> {
    let mut all: Vec<_> = message
        .additional
        .iter()
        .filter(|record| record.kind != 41)
        .map(|record| format!("{} {}", record.name, record.data))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn a_service_names_port_and_container() {
    ours!(|machine| {
        let upstream = services(machine)?;
        for tcp in [false, true] {
            let query = Query::new("_http._tcp.one SRV");
            let web = machine.web();
            let answer = if tcp {
                web.tcp(&query)
            } else {
                web.udp(&query)
            }?;
            assert_eq!(answer.to_string(), "NOERROR 0 0 8080 one.");
            assert_eq!(answer.answers[0].ttl, 0);
            assert_eq!(additional(&answer), ["one. 10.88.0.3", "one. fd10:88::3"]);
        }
        assert!(upstream.asked().is_empty());
        Ok(())
    });
}

/// Whoever asks with the search domain can use the target as it is.
#[test]
fn the_target_of_a_service_is_below_the_search_domain_as_the_question_was() {
    ours!(|machine| {
        let _upstream = services(machine)?;
        let answer = machine
            .web()
            .udp(&Query::new("_HTTP._tcp.one.DNS.podman SRV").edns(1232))?;
        assert_eq!(answer.to_string(), "NOERROR 0 0 8080 one.DNS.podman.");
        assert_eq!(answer.answers[0].name, "_HTTP._tcp.one.DNS.podman.");
        assert_eq!(additional(&answer).len(), 2);
        Ok(())
    });
}

#[test]
fn several_containers_offer_a_service_under_one_name() {
    ours!(|machine| {
        let _upstream = services(machine)?;
        let answer = machine.web().udp(&Query::new("_http._tcp.api SRV"))?;
        assert_eq!(answer.to_string(), "NOERROR 0 0 8080 api. 0 0 8081 api.");
        assert_eq!(
            additional(&answer),
            ["api. 10.88.0.3", "api. 10.88.0.4", "api. fd10:88::3"]
        );
        let answer = machine.web().udp(&Query::new("_metrics._udp.two SRV"))?;
        assert_eq!(answer.to_string(), "NOERROR 0 0 9100 two.");
        Ok(())
    });
}

/// The name of a service exists for all types. Others do not exist: they are asked for elsewhere, unless they are
/// below the search domain.
#[test]
fn services_that_nobody_offers() {
    ours!(|machine| {
        let upstream = services(machine)?;
        let web = machine.web();
        assert_eq!(web.says("_http._tcp.one A")?, "NOERROR");
        assert_eq!(web.says("_http._tcp.one TXT")?, "NOERROR");
        assert!(upstream.asked().is_empty());
        assert_eq!(web.says("_metrics._udp.one.dns.podman SRV")?, "NXDOMAIN");
        assert_eq!(web.says("_http._tcp.web.dns.podman SRV")?, "NXDOMAIN");
        assert!(upstream.asked().is_empty());
        assert_eq!(web.says("_http._tcp.web SRV")?, "NXDOMAIN");
        assert_eq!(upstream.count("_http._tcp.web"), 1);
        // The container has the name, so it exists, without services.
        assert_eq!(web.says("web SRV")?, "NOERROR");
        Ok(())
    });
}

/// A container in two networks says the same in both: it is said once.
#[test]
fn a_service_in_two_networks_is_there_once_and_for_those_who_see_it() {
    ours!(|machine| {
        let _upstream = Upstream::refusing("198.51.100.1", 3)?;
        for (network, gateway, second) in [("a", GATEWAY, 88), ("b", GATEWAY_2, 89)] {
            let service = line(2, &format!("10.{second}.0.3"), "", "db");
            let text = format!(
                "{gateway}\n{}{}",
                line(1, &format!("10.{second}.0.2"), "", "web"),
                service.replace('\n', "  srv=_sql._tcp:5432\n"),
            );
            machine.network(network, &text)?;
        }
        machine.network(
            "c",
            &format!("10.90.0.1\n{}", line(9, "10.90.0.2", "", "stranger")),
        )?;
        machine.start()?;
        let answer = machine.web().udp(&Query::new("_sql._tcp.db SRV"))?;
        assert_eq!(answer.to_string(), "NOERROR 0 0 5432 db.");
        assert_eq!(additional(&answer), ["db. 10.88.0.3", "db. 10.89.0.3"]);
        let stranger = machine.client("10.90.0.2");
        assert_eq!(stranger.says("_sql._tcp.db SRV")?, "NXDOMAIN");
        Ok(())
    });
}

/// More than a datagram holds: cut at a whole record by UDP, complete by TCP.
#[test]
fn many_services() {
    ours!(|machine| {
        let mut text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web"));
        for number in 2..102 {
            let line = line(number, &format!("10.88.1.{number}"), "", "app");
            text += &line.replace('\n', &format!("  srv=_x._tcp:{}\n", 1000 + number));
        }
        machine.network("net", &text)?;
        machine.start()?;
        let query = Query::new("_x._tcp.app SRV");
        let cut = machine.web().udp(&query)?;
        assert!(cut.to_string().starts_with("NOERROR tc 0 0 "), "{cut}");
        assert!(cut.length <= 512 && cut.answers.len() > 5);
        let whole = machine.web().tcp(&query)?;
        assert_eq!(whole.answers.len(), 100);
        assert_eq!(additional(&whole).len(), 100);
        Ok(())
    });
}

// Domains with servers of their own.

const HOST: &str = "198.51.100.1";
const CORP: &str = "198.51.100.2";
const CORP_2: &str = "198.51.100.3";
const OWN: &str = "198.51.100.4";

struct Servers {
    _host: Upstream,
    _corp: Upstream,
    corp_2: Upstream,
    _own: Upstream,
}

/// Servers that say who they are by what they answer.
fn four() -> Result<Servers> {
    Ok(Servers {
        _host: Upstream::answering(HOST, "192.0.2.1")?,
        _corp: Upstream::answering(CORP, "192.0.2.2")?,
        corp_2: Upstream::answering(CORP_2, "192.0.2.3")?,
        _own: Upstream::answering(OWN, "192.0.2.4")?,
    })
}

#[test]
fn a_domain_is_asked_of_its_servers() {
    ours!(|machine| {
        let servers = four()?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY} {OWN} route=corp.example@{CORP}+{CORP_2}\n{}",
                line(1, "10.88.0.2", "", "web"),
            ),
        )?;
        machine.start()?;
        let web = machine.web();
        for (name, answer) in [
            ("corp.example", "192.0.2.2"),
            ("www.corp.example", "192.0.2.2"),
            ("a.b.CORP.Example", "192.0.2.2"),
            // Whole labels only, and all else as ever.
            ("xcorp.example", "192.0.2.4"),
            ("corp.example.org", "192.0.2.4"),
            ("www.example", "192.0.2.4"),
        ] {
            assert_eq!(web.says(&format!("{name} A"))?, format!("NOERROR {answer}"));
        }
        assert_eq!(web.says_by_tcp("tcp.corp.example A")?, "NOERROR 192.0.2.2");
        assert!(servers.corp_2.asked().is_empty(), "the first answered");
        Ok(())
    });
}

#[test]
fn the_longest_domain_counts_in_all_networks_of_the_asker() {
    ours!(|machine| {
        let _servers = four()?;
        machine.network(
            "a",
            &format!(
                "{GATEWAY} {OWN} route=example@{CORP_2} route=corp.example@{CORP}\n{}",
                line(1, "10.88.0.2", "", "web"),
            ),
        )?;
        machine.network(
            "b",
            &format!(
                "{GATEWAY_2} {OWN} route=deep.corp.example@{CORP_2}\n{}",
                line(1, "10.89.0.2", "", "web"),
            ),
        )?;
        machine.start()?;
        let web = machine.web();
        assert_eq!(web.says("www.example A")?, "NOERROR 192.0.2.3");
        assert_eq!(web.says("www.corp.example A")?, "NOERROR 192.0.2.2");
        assert_eq!(web.says("www.deep.corp.example A")?, "NOERROR 192.0.2.3");
        Ok(())
    });
}

/// A domain's servers come before the container's own; a container without them has the network's.
#[test]
fn a_domain_comes_before_the_servers_of_the_container() {
    ours!(|machine| {
        let _servers = four()?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY} {HOST} route=corp.example@{CORP}\n{}{}",
                line_with(1, "10.88.0.2", "", "web", OWN),
                line(2, "10.88.0.3", "", "db"),
            ),
        )?;
        machine.start()?;
        let web = machine.web();
        assert_eq!(web.says("www.corp.example A")?, "NOERROR 192.0.2.2");
        assert_eq!(web.says("www.example A")?, "NOERROR 192.0.2.4");
        let db = machine.client("10.88.0.3");
        assert_eq!(db.says("db.corp.example A")?, "NOERROR 192.0.2.2");
        assert_eq!(db.says("www.example A")?, "NOERROR 192.0.2.1");
        Ok(())
    });
}

/// On a line of its own, which readers without extensions ignore, it is for the whole network all the same.
#[test]
fn a_domain_on_a_line_of_its_own() {
    ours!(|machine| {
        let _servers = four()?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY}\n{}{}{}",
                line(1, "10.88.0.2", "", "web"),
                line(2, "10.88.0.3", "", "db"),
                format_args!("{}   db  route=corp.example@{CORP}\n", id(2)),
            ),
        )?;
        machine.start()?;
        let web = machine.web();
        assert_eq!(web.says("www.corp.example A")?, "NOERROR 192.0.2.2");
        assert_eq!(web.says("www.example A")?, "NOERROR 192.0.2.1");
        assert_eq!(web.says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// No way out is no way out: an internal network's domains count for nobody, as its servers do not.
#[test]
fn domains_of_internal_networks_do_not_count() {
    ours!(|machine| {
        let servers = four()?;
        machine.network(
            "in%int",
            &format!(
                "{GATEWAY} {OWN} route=corp.example@{CORP_2}\n{}{}",
                line(1, "10.88.0.2", "", "web"),
                line(2, "10.88.0.3", "", "db"),
            ),
        )?;
        machine.network(
            "out",
            &format!(
                "{GATEWAY_2} {HOST} route=example@{CORP}\n{}",
                line(2, "10.89.0.3", "", "db"),
            ),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("www.corp.example A")?, "NXDOMAIN");
        let db = machine.client("10.88.0.3");
        assert_eq!(db.says("www.corp.example A")?, "NOERROR 192.0.2.2");
        assert!(servers.corp_2.asked().is_empty());
        Ok(())
    });
}

/// Who is in no network with the domain has nothing of it; nor has the host, which has servers of its own.
#[test]
fn a_domain_is_for_its_network_only() {
    ours!(|machine| {
        let _servers = four()?;
        machine.network(
            "a",
            &format!(
                "{GATEWAY} {OWN} route=corp.example@{CORP}\n{}",
                line(1, "10.88.0.2", "", "web"),
            ),
        )?;
        machine.network(
            "b",
            &format!("{GATEWAY_2}\n{}", line(2, "10.89.0.2", "", "db")),
        )?;
        machine.start()?;
        let other = machine.client("10.89.0.2");
        assert_eq!(other.says("www.corp.example A")?, "NOERROR 192.0.2.1");
        let host = machine.client("10.88.0.1");
        assert_eq!(host.says("www.corp.example A")?, "NOERROR 192.0.2.1");
        assert_eq!(
            machine.web().says("www.corp.example A")?,
            "NOERROR 192.0.2.2"
        );
        Ok(())
    });
}

/// Servers are not mixed: a domain whose servers are dead is not asked for where it must not be known.
#[test]
fn a_domain_falls_back_within_its_servers_only() {
    ours!(|machine| {
        let host = Upstream::answering(HOST, "192.0.2.1")?;
        let _second = Upstream::answering(CORP_2, "192.0.2.3")?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY} {HOST} route=half.example@{CORP}+{CORP_2} route=dead.example@{CORP}\n{}",
                line(1, "10.88.0.2", "", "web"),
            ),
        )?;
        machine.start()?;
        // By TCP a refusal moves on, or ends, at once.
        let web = machine.web();
        assert_eq!(web.says_by_tcp("www.half.example A")?, "NOERROR 192.0.2.3");
        assert_eq!(web.says_by_tcp("www.dead.example A")?, "SERVFAIL");
        assert!(host.asked().is_empty());
        Ok(())
    });
}

#[test]
fn domains_change_with_a_reload() {
    ours!(|machine| {
        let _servers = four()?;
        let text = |route: &str| {
            format!(
                "{GATEWAY} {OWN}{route}\n{}",
                line(1, "10.88.0.2", "", "web")
            )
        };
        machine.network("net", &text(""))?;
        let daemon = machine.start()?;
        assert_eq!(machine.web().says("a.corp.example A")?, "NOERROR 192.0.2.4");
        machine.network("net", &text(&format!(" route=corp.example@{CORP}")))?;
        daemon.hup()?;
        crate::machine::within(crate::machine::PATIENCE, || {
            let said = machine.web().says("a.corp.example A");
            said.is_ok_and(|said| said == "NOERROR 192.0.2.2")
        })?;
        Ok(())
    });
}

/// What cannot be understood is named, and costs nothing but itself.
#[test]
fn a_wrong_extension_costs_itself() {
    ours!(|machine| {
        machine.network(
            "net",
            &format!(
                "{GATEWAY} {OWN} route=nonsense later=1\n{}{}",
                line(1, "10.88.0.2", "", "web").replace('\n', "  srv=http:x srv=_a._tcp:1\n"),
                line(2, "10.88.0.3", "", "db").replace('\n', "  later=2\n"),
            ),
        )?;
        let checked = crate::machine::program()
            .arg("check")
            .arg(&machine.dir)
            .run()?;
        assert_eq!(checked.code(), Some(1));
        for part in ["line 1", "route=nonsense", "line 2", "srv=http:x"] {
            assert!(checked.stderr.contains(part), "{}", checked.stderr);
        }
        assert!(!checked.stderr.contains("later"), "{}", checked.stderr);
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        assert_eq!(machine.web().says("_a._tcp.web SRV")?, "NOERROR 0 0 1 web.");
        Ok(())
    });
}

// What others make of it. These hold for the incumbent, too.

/// On lines of their own extensions take nothing away: neither names nor the container's servers.
#[test]
fn lines_of_extensions_are_no_harm_to_others() {
    on!(|machine| {
        let _own = Upstream::answering(OWN, "192.0.2.4")?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY}\n{}{}{}",
                line_with(1, "10.88.0.2", "", "web", OWN),
                format_args!(
                    "{}   web  srv=_http._tcp:80 route=corp.invalid@192.0.2.99\n",
                    id(1)
                ),
                line(2, "10.88.0.3", "", "db"),
            ),
        )?;
        machine.start()?;
        let web = machine.web();
        assert_eq!(web.says("db A")?, "NOERROR 10.88.0.3");
        assert_eq!(web.says("web A")?, "NOERROR 10.88.0.2");
        assert_eq!(web.says("www.example A")?, "NOERROR 192.0.2.4");
        assert_eq!(web.says("2.0.88.10.in-addr.arpa PTR")?, "NOERROR web.");
        Ok(())
    });
}

/// In a header that names servers, too.
#[test]
fn extensions_in_a_header_are_no_harm_to_others() {
    on!(|machine| {
        let _own = Upstream::answering(OWN, "192.0.2.4")?;
        machine.network(
            "net",
            &format!(
                "{GATEWAY} {OWN} route=corp.invalid@192.0.2.99\n{}",
                line(1, "10.88.0.2", "", "web"),
            ),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("web A")?, "NOERROR 10.88.0.2");
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.4");
        Ok(())
    });
}
