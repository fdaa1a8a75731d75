//! Names of addresses.

use anyhow::Result;

use crate::machine::{GATEWAY, GATEWAY_2, Machine, line, on};
use crate::message::Query;
use crate::upstream::Upstream;

const WEB_V6: &str = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.8.0.0.0.1.d.f.ip6.arpa";

/// Two networks, and an upstream that knows nothing.
fn set_up(machine: &Machine<'_>) -> Result<Upstream> {
    let upstream = Upstream::refusing("198.51.100.1", 3)?;
    machine.usual_network()?;
    machine.network(
        "other",
        &format!("{GATEWAY_2}\n{}", line(9, "10.89.0.2", "", "far")),
    )?;
    machine.start()?;
    Ok(upstream)
}

#[test]
fn all_names_of_an_address() {
    on!(|machine| {
        let _upstream = set_up(machine)?;
        let answer = machine
            .client("10.88.0.3")
            .udp(&Query::new("2.0.88.10.in-addr.arpa PTR"))?;
        assert_eq!(answer.data(), ["web.", "www.", "000000000001."]);
        for record in &answer.answers {
            assert_eq!((&*record.name, record.ttl), ("2.0.88.10.in-addr.arpa.", 0));
        }
        Ok(())
    });
}

#[test]
fn all_names_of_an_ipv6_address() {
    on!(|machine| {
        let _upstream = set_up(machine)?;
        let data = machine.client("10.88.0.3").data(&format!("{WEB_V6} PTR"))?;
        assert_eq!(data, ["web.", "www.", "000000000001."]);
        Ok(())
    });
}

#[test]
fn reverse_names_in_capitals() {
    on!(|machine| {
        let _upstream = set_up(machine)?;
        let data = machine.web().data("3.0.88.10.IN-ADDR.ARPA PTR")?;
        assert_eq!(data, ["db.", "000000000002."]);
        assert_eq!(
            machine
                .web()
                .data(&format!("{} PTR", WEB_V6.to_uppercase()))?[0],
            "web."
        );
        Ok(())
    });
}

#[test]
fn other_networks_are_not_told() {
    on!(|machine| {
        let _upstream = set_up(machine)?;
        assert_eq!(
            machine.web().says("2.0.89.10.in-addr.arpa PTR")?,
            "NXDOMAIN"
        );
        Ok(())
    });
}

#[test]
fn private_addresses_are_not_asked_outside() {
    on!(|machine| {
        let upstream = set_up(machine)?;
        // A neighbour in another network, and our own gateway.
        for name in ["2.0.89.10.in-addr.arpa", "1.0.88.10.in-addr.arpa"] {
            machine.web().says(&format!("{name} PTR"))?;
        }
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn an_unknown_client_asks_for_its_network() {
    on!(|machine| {
        let _upstream = set_up(machine)?;
        let host = machine.client("10.90.0.77").at(GATEWAY);
        assert_eq!(
            host.data("3.0.88.10.in-addr.arpa PTR")?,
            ["db.", "000000000002."]
        );
        Ok(())
    });
}

#[test]
fn public_addresses_are_forwarded() {
    on!(|machine| {
        let upstream = set_up(machine)?;
        assert_eq!(machine.web().says("8.8.8.8.in-addr.arpa PTR")?, "NXDOMAIN");
        assert_eq!(upstream.count("8.8.8.8.in-addr.arpa"), 1);
        Ok(())
    });
}
