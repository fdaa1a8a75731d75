//! The text of a network's file: separators, columns, and what is wrong with it.

use anyhow::Result;

use crate::machine::{GATEWAY, GATEWAY_2, Machine, id, line, on};
use crate::upstream::Upstream;

/// A file's text, then `client address`, question and answer.
fn check(machine: &Machine<'_>, text: &str, expected: &[(&str, &str, &str)]) -> Result<()> {
    machine.network("net", text)?;
    machine.start()?;
    for (client, question, answer) in expected {
        assert_eq!(
            machine.client(client).says(question)?,
            *answer,
            "{question} from {client}"
        );
    }
    Ok(())
}

#[test]
fn the_usual_file() {
    on!(|machine| {
        let text = format!(
            "10.88.0.1,fd10:88::1 198.51.100.3,198.51.100.4\n\
             {} 10.88.0.2 fd10:88::2 web,f35256b5e2f7 198.51.100.2\n\
             {} 10.88.0.3  db,primary,e5df0cdbe013\n\
             {}  fd10:88::3 only-v6\n",
            id(1),
            id(2),
            id(3)
        );
        check(
            machine,
            &text,
            &[
                ("10.88.0.2", "db A", "NOERROR 10.88.0.3"),
                ("10.88.0.2", "primary A", "NOERROR 10.88.0.3"),
                ("10.88.0.2", "e5df0cdbe013 A", "NOERROR 10.88.0.3"),
                ("10.88.0.3", "web A", "NOERROR 10.88.0.2"),
                ("10.88.0.3", "f35256b5e2f7 A", "NOERROR 10.88.0.2"),
                ("10.88.0.3", "web AAAA", "NOERROR fd10:88::2"),
                ("10.88.0.3", "only-v6 AAAA", "NOERROR fd10:88::3"),
                ("fd10:88::2", "only-v6 AAAA", "NOERROR fd10:88::3"),
                ("fd10:88::3", "db A", "NOERROR 10.88.0.3"),
            ],
        )
    });
}

#[test]
fn empty_lines_mean_nothing() {
    on!(|machine| {
        let web = line(1, "10.88.0.2", "", "web");
        let text = format!(
            "\n\n{GATEWAY}\n\n{web}\n\n{}\n",
            line(2, "10.88.0.3", "", "db")
        );
        check(
            machine,
            &text,
            &[("10.88.0.2", "db A", "NOERROR 10.88.0.3")],
        )
    });
}

#[test]
fn the_last_line_may_lack_its_end() {
    on!(|machine| {
        let text = format!("{GATEWAY}\n{}", line(2, "10.88.0.3", "", "db"));
        check(
            machine,
            text.trim_end(),
            &[("10.88.0.3", "db A", "NOERROR 10.88.0.3")],
        )
    });
}

#[test]
fn further_columns_of_the_header_mean_nothing() {
    on!(|machine| {
        let text = format!(
            "{GATEWAY} 198.51.100.3 more and more\n{}",
            line(2, "10.88.0.3", "", "db")
        );
        check(
            machine,
            &text,
            &[("10.88.0.3", "db A", "NOERROR 10.88.0.3")],
        )
    });
}

#[test]
fn several_addresses_in_their_order() {
    on!(|machine| {
        let text = format!(
            "{GATEWAY}\n{}",
            line(
                1,
                "10.88.0.9,10.88.0.2,10.88.0.5",
                "fd10:88::9,fd10:88::2",
                "web"
            )
        );
        machine.network("net", &text)?;
        machine.start()?;
        assert_eq!(
            machine.web().says("web A")?,
            "NOERROR 10.88.0.2 10.88.0.5 10.88.0.9"
        );
        assert_eq!(
            machine.web().says("web AAAA")?,
            "NOERROR fd10:88::2 fd10:88::9"
        );
        // All of them are the same container.
        for address in ["10.88.0.9", "10.88.0.5"] {
            assert_eq!(
                machine.client(address).says("nobody.dns.podman A")?,
                "NXDOMAIN"
            );
            assert!(
                machine
                    .client(address)
                    .says("web A")?
                    .starts_with("NOERROR 10.88.0.2 ")
            );
        }
        Ok(())
    });
}

#[test]
fn several_lines_of_one_container() {
    on!(|machine| {
        let text = format!(
            "{GATEWAY},fd10:88::1\n{}{}{}",
            line(1, "10.88.0.2", "", "web"),
            line(1, "", "fd10:88::2", "web"),
            line(2, "10.88.0.3", "", "db"),
        );
        check(
            machine,
            &text,
            &[
                ("10.88.0.3", "web A", "NOERROR 10.88.0.2"),
                ("10.88.0.3", "web AAAA", "NOERROR fd10:88::2"),
                ("fd10:88::2", "db A", "NOERROR 10.88.0.3"),
            ],
        )
    });
}

#[test]
fn names_are_lower_cased() {
    on!(|machine| {
        let text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "WebServer"));
        check(
            machine,
            &text,
            &[
                ("10.88.0.2", "webserver A", "NOERROR 10.88.0.2"),
                ("10.88.0.2", "WEBSERVER A", "NOERROR 10.88.0.2"),
                ("10.88.0.2", "WebServer.dns.podman A", "NOERROR 10.88.0.2"),
            ],
        )
    });
}

#[test]
fn names_with_dots_are_names() {
    on!(|machine| {
        let text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "a.b,x.y.example"));
        check(
            machine,
            &text,
            &[
                ("10.88.0.2", "a.b A", "NOERROR 10.88.0.2"),
                ("10.88.0.2", "a.b.dns.podman A", "NOERROR 10.88.0.2"),
                ("10.88.0.2", "x.y.example A", "NOERROR 10.88.0.2"),
            ],
        )
    });
}

#[test]
fn names_that_begin_with_digits() {
    on!(|machine| {
        let text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "1web,123,9-a_b"));
        check(
            machine,
            &text,
            &[
                ("10.88.0.2", "1web A", "NOERROR 10.88.0.2"),
                ("10.88.0.2", "123 A", "NOERROR 10.88.0.2"),
                ("10.88.0.2", "9-a_b A", "NOERROR 10.88.0.2"),
            ],
        )
    });
}

#[test]
fn no_names_at_all() {
    on!(|machine| {
        let text = format!(
            "{GATEWAY}\n{} 10.88.0.2  \n{}",
            id(1),
            line(2, "10.88.0.3", "", "db")
        );
        check(
            machine,
            &text,
            &[("10.88.0.2", "db A", "NOERROR 10.88.0.3")],
        )
    });
}

#[test]
fn an_empty_name_is_none() {
    on!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        let text = format!("{GATEWAY}\n{} 10.88.0.2  \n", id(1));
        check(
            machine,
            &text,
            &[("10.88.0.2", ". A", "NOERROR 192.0.2.80")],
        )
    });
}

/// The name and the host name of a container are often equal.
#[test]
fn a_name_twice_on_a_line_is_once_in_the_answer() {
    on!(|machine| {
        let text = format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web,web"));
        machine.network("net", &text)?;
        machine.start()?;
        assert_eq!(machine.web().data("web A")?, ["10.88.0.2"]);
        Ok(())
    });
}

#[test]
fn a_line_twice_is_once_in_the_answer() {
    on!(|machine| {
        let web = line(1, "10.88.0.2", "", "web");
        machine.network(
            "net",
            &format!("{GATEWAY}\n{web}{web}{}", line(2, "10.88.0.3", "", "db")),
        )?;
        machine.start()?;
        assert_eq!(machine.client("10.88.0.3").data("web A")?, ["10.88.0.2"]);
        assert_eq!(machine.web().data("db A")?, ["10.88.0.3"]);
        Ok(())
    });
}

#[test]
fn the_fifth_column_of_exactly_five_names_servers() {
    on!(|machine| {
        let _host = Upstream::answering("198.51.100.1", "192.0.2.1")?;
        let _own = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        let text = format!(
            "{GATEWAY}\n{} 10.88.0.2  web 198.51.100.2\n{} 10.88.0.3  db 198.51.100.2 more\n",
            id(1),
            id(2)
        );
        check(
            machine,
            &text,
            &[
                ("10.88.0.2", "www.example A", "NOERROR 192.0.2.2"),
                ("10.88.0.3", "web A", "NOERROR 10.88.0.2"),
                ("10.88.0.3", "www.other A", "NOERROR 192.0.2.1"),
            ],
        )
    });
}

/// A network with `text` does not come up; the one beside it does.
fn check_rejected(machine: &Machine<'_>, text: &str) -> Result<()> {
    machine.network("bad", text)?;
    machine.network(
        "good",
        &format!("{GATEWAY_2}\n{}", line(7, "10.89.0.2", "", "good")),
    )?;
    machine.start()?;
    assert_eq!(
        machine.client("10.89.0.2").says("good A")?,
        "NOERROR 10.89.0.2"
    );
    assert!(
        machine.web().says("web A").is_err(),
        "{text:?} was accepted"
    );
    Ok(())
}

#[test]
fn a_carriage_return_is_no_separator() {
    on!(|machine| check_rejected(
        machine,
        &format!("{GATEWAY}\r\n{}", line(1, "10.88.0.2", "", "web"))
    ));
}

#[test]
fn a_tab_is_no_separator() {
    on!(|machine| check_rejected(
        machine,
        &format!(
            "{GATEWAY}\t198.51.100.3\n{}",
            line(1, "10.88.0.2", "", "web")
        )
    ));
}

#[test]
fn there_are_no_comments() {
    on!(|machine| check_rejected(
        machine,
        &format!("# net\n{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web"))
    ));
}

#[test]
fn listen_addresses_have_no_port() {
    on!(|machine| check_rejected(
        machine,
        &format!("{GATEWAY}:53\n{}", line(1, "10.88.0.2", "", "web"))
    ));
}

#[test]
fn a_header_without_addresses() {
    on!(|machine| check_rejected(
        machine,
        &format!(" 198.51.100.3\n{}", line(1, "10.88.0.2", "", "web"))
    ));
}

#[test]
fn a_wrong_server_in_the_header() {
    on!(|machine| check_rejected(
        machine,
        &format!("{GATEWAY} dns.example\n{}", line(1, "10.88.0.2", "", "web"))
    ));
}

/// What is wrong in a line costs that line and nothing else.
fn check_line_is_skipped(machine: &Machine<'_>, wrong: &str) -> Result<()> {
    let _upstream = Upstream::refusing("198.51.100.1", 3)?;
    let text = format!(
        "{GATEWAY}\n{}{wrong}\n{}",
        line(1, "10.88.0.2", "", "web"),
        line(3, "10.88.0.4", "", "last")
    );
    check(
        machine,
        &text,
        &[
            ("10.88.0.2", "last A", "NOERROR 10.88.0.4"),
            ("10.88.0.4", "web A", "NOERROR 10.88.0.2"),
            ("10.88.0.4", "db A", "NXDOMAIN"),
        ],
    )
}

#[test]
fn a_wrong_address_costs_its_line() {
    on!(|machine| check_line_is_skipped(machine, &format!("{} 10.88.0.300  db", id(2))));
}

#[test]
fn an_address_with_a_prefix_length_costs_its_line() {
    on!(|machine| check_line_is_skipped(machine, &format!("{} 10.88.0.3/24  db", id(2))));
}

#[test]
fn too_few_columns_cost_their_line() {
    on!(|machine| check_line_is_skipped(machine, &format!("{} 10.88.0.3 db", id(2))));
}

#[test]
fn an_id_of_a_container_is_any_text() {
    on!(|machine| {
        let text = format!(
            "{GATEWAY}\nweb-1 10.88.0.2  web\n{} 10.88.0.3  db\n",
            id(2).to_uppercase()
        );
        check(
            machine,
            &text,
            &[("10.88.0.2", "db A", "NOERROR 10.88.0.3")],
        )
    });
}

/// The id is compared without regard to case, so these lines are one container in two networks.
#[test]
fn ids_are_lower_cased() {
    on!(|machine| {
        machine.network(
            "a",
            &format!("{GATEWAY}\n{}", line(10, "10.88.0.2", "", "web")),
        )?;
        let upper = line(10, "10.89.0.2", "", "").replace(&id(10), &id(10).to_uppercase());
        machine.network(
            "b",
            &format!("{GATEWAY_2}\n{upper}{}", line(2, "10.89.0.3", "", "db")),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.89.0.3");
        Ok(())
    });
}
