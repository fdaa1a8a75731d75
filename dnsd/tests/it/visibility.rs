//! Who sees whom: a client is its source address, and sees the networks of its container.

use anyhow::Result;

use crate::machine::{GATEWAY, GATEWAY_2, GATEWAY_3, Machine, line, line_with, on};
use crate::upstream::Upstream;

/// `left` in network a, `right` in network b, `both` in both; everything unknown is NXDOMAIN outside.
fn two_networks(machine: &Machine<'_>) -> Result<Upstream> {
    let upstream = Upstream::refusing("198.51.100.1", 3)?;
    machine.network(
        "a",
        &format!(
            "{GATEWAY}\n{}{}",
            line(1, "10.88.0.2", "", "left,l"),
            line(3, "10.88.0.4", "", "both")
        ),
    )?;
    machine.network(
        "b",
        &format!(
            "{GATEWAY_2}\n{}{}",
            line(2, "10.89.0.2", "", "right,r"),
            line(3, "10.89.0.4", "", "both")
        ),
    )?;
    machine.start()?;
    Ok(upstream)
}

#[test]
fn containers_see_their_network() {
    on!(|machine| {
        let _upstream = two_networks(machine)?;
        let left = machine.client("10.88.0.2");
        assert_eq!(left.says("left A")?, "NOERROR 10.88.0.2");
        assert_eq!(left.says("right A")?, "NXDOMAIN");
        assert_eq!(left.says("right.dns.podman A")?, "NXDOMAIN");
        assert_eq!(machine.client("10.89.0.2").says("left A")?, "NXDOMAIN");
        Ok(())
    });
}

/// Of a container in two networks, each neighbour sees the address in its own.
#[test]
fn a_shared_container_is_seen_where_it_is() {
    on!(|machine| {
        let _upstream = two_networks(machine)?;
        assert_eq!(
            machine.client("10.88.0.2").says("both A")?,
            "NOERROR 10.88.0.4"
        );
        assert_eq!(
            machine.client("10.89.0.2").says("both A")?,
            "NOERROR 10.89.0.4"
        );
        Ok(())
    });
}

#[test]
fn a_shared_container_sees_both_from_either_gateway() {
    on!(|machine| {
        let _upstream = two_networks(machine)?;
        for address in ["10.88.0.4", "10.89.0.4"] {
            for gateway in [GATEWAY, GATEWAY_2] {
                let both = machine.client(address).at(gateway);
                assert_eq!(both.says("left A")?, "NOERROR 10.88.0.2");
                assert_eq!(both.says("right A")?, "NOERROR 10.89.0.2");
                assert_eq!(both.says("both A")?, "NOERROR 10.88.0.4 10.89.0.4");
                assert_eq!(both.says("r.dns.podman A")?, "NOERROR 10.89.0.2");
            }
        }
        Ok(())
    });
}

#[test]
fn the_gateway_asked_does_not_matter() {
    on!(|machine| {
        let _upstream = two_networks(machine)?;
        let left = machine.client("10.88.0.2").at(GATEWAY_2);
        assert_eq!(left.says("left A")?, "NOERROR 10.88.0.2");
        assert_eq!(left.says("right A")?, "NXDOMAIN");
        Ok(())
    });
}

/// The host asks `NAME @GATEWAY`.
#[test]
fn an_unknown_client_sees_the_network_it_asks_at() {
    on!(|machine| {
        let _upstream = two_networks(machine)?;
        let host = machine.client("10.90.0.77");
        assert_eq!(host.at(GATEWAY).says("left A")?, "NOERROR 10.88.0.2");
        assert_eq!(host.at(GATEWAY).says("right A")?, "NXDOMAIN");
        assert_eq!(host.at(GATEWAY_2).says("right A")?, "NOERROR 10.89.0.2");
        assert_eq!(host.at(GATEWAY_2).says("both A")?, "NOERROR 10.89.0.4");
        assert_eq!(machine.client(GATEWAY).says("left A")?, "NOERROR 10.88.0.2");
        Ok(())
    });
}

#[test]
fn three_networks_in_a_row() {
    on!(|machine| {
        let _upstream = two_networks(machine)?;
        machine.network(
            "c",
            &format!(
                "{GATEWAY_3}\n{}{}",
                line(2, "10.90.0.2", "", "right"),
                line(4, "10.90.0.5", "", "far")
            ),
        )?;
        machine.running()?.hup()?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        let right = machine.client("10.89.0.2");
        assert_eq!(right.says("far A")?, "NOERROR 10.90.0.5");
        assert_eq!(right.says("both A")?, "NOERROR 10.89.0.4");
        assert_eq!(right.says("right A")?, "NOERROR 10.89.0.2 10.90.0.2");
        assert_eq!(machine.client("10.90.0.5").says("both A")?, "NXDOMAIN");
        assert_eq!(
            machine.client("10.90.0.5").says("right A")?,
            "NOERROR 10.90.0.2"
        );
        assert_eq!(machine.client("10.88.0.2").says("far A")?, "NXDOMAIN");
        Ok(())
    });
}

#[test]
fn both_families_are_one_client() {
    on!(|machine| {
        machine.network(
            "four",
            &format!(
                "{GATEWAY}\n{}{}",
                line(1, "10.88.0.2", "", "web"),
                line(2, "10.88.0.3", "", "db")
            ),
        )?;
        machine.network(
            "six",
            &format!("fd10:89::1\n{}", line(1, "", "fd10:89::2", "web")),
        )?;
        machine.start()?;
        assert_eq!(
            machine.client("fd10:89::2").says("db A")?,
            "NOERROR 10.88.0.3"
        );
        assert_eq!(machine.client("10.88.0.3").says("web AAAA")?, "NOERROR");
        assert_eq!(
            machine.client("10.88.0.2").says("web AAAA")?,
            "NOERROR fd10:89::2"
        );
        Ok(())
    });
}

/// Two containers with one alias.
#[test]
fn an_alias_of_several() {
    on!(|machine| {
        machine.network(
            "net",
            &format!(
                "{GATEWAY}\n{}{}",
                line(1, "10.88.0.2", "", "a,app"),
                line(2, "10.88.0.3", "", "b,app")
            ),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("app A")?, "NOERROR 10.88.0.2 10.88.0.3");
        Ok(())
    });
}

#[test]
fn an_alias_holds_in_its_network() {
    on!(|machine| {
        let _upstream = Upstream::refusing("198.51.100.1", 3)?;
        machine.network(
            "a",
            &format!(
                "{GATEWAY}\n{}{}",
                line(1, "10.88.0.2", "", "web,in-a"),
                line(2, "10.88.0.3", "", "x")
            ),
        )?;
        machine.network(
            "b",
            &format!(
                "{GATEWAY_2}\n{}{}",
                line(1, "10.89.0.2", "", "web,in-b"),
                line(3, "10.89.0.3", "", "y")
            ),
        )?;
        machine.start()?;
        assert_eq!(
            machine.client("10.88.0.3").says("in-a A")?,
            "NOERROR 10.88.0.2"
        );
        assert_eq!(machine.client("10.88.0.3").says("in-b A")?, "NXDOMAIN");
        assert_eq!(
            machine.client("10.89.0.3").says("in-b A")?,
            "NOERROR 10.89.0.2"
        );
        Ok(())
    });
}

#[test]
fn only_internal_means_no_way_out() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.network(
            "in%int",
            &format!(
                "{GATEWAY} 198.51.100.1\n{}{}",
                line_with(1, "10.88.0.2", "", "web", "198.51.100.1"),
                line(2, "10.88.0.3", "", "db")
            ),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("www.example A")?, "NXDOMAIN");
        assert_eq!(machine.web().says("www.example MX")?, "NXDOMAIN");
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn internal_and_normal_has_a_way_out() {
    on!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.network(
            "in%int",
            &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
        )?;
        machine.network(
            "out",
            &format!("{GATEWAY_2}\n{}", line(1, "10.89.0.2", "", "web")),
        )?;
        machine.start()?;
        for address in ["10.88.0.2", "10.89.0.2"] {
            assert_eq!(
                machine.client(address).says("www.example A")?,
                "NOERROR 192.0.2.80"
            );
        }
        Ok(())
    });
}

#[test]
fn the_host_has_a_way_out_at_an_internal_gateway() {
    on!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.network(
            "in%int",
            &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
        )?;
        machine.start()?;
        let host = machine.client("10.90.0.77").at(GATEWAY);
        assert_eq!(host.says("www.example A")?, "NOERROR 192.0.2.80");
        Ok(())
    });
}
