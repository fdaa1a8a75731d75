//! What of the program's self-restraint is visible from outside.

use crate::machine::{Daemon, Machine, PATIENCE, on, within};

fn restrained(machine: &Machine<'_>) -> anyhow::Result<Daemon> {
    machine.usual_network()?;
    let daemon = machine.start()?;
    // A moment after the start: nothing is read from the network before.
    within(PATIENCE, || {
        daemon.status("Seccomp").is_ok_and(|mode| mode == "2")
    })?;
    Ok(daemon)
}

/// The bit of CAP_NET_BIND_SERVICE.
const NET_BIND_SERVICE: u64 = 1 << 10;

#[test]
fn only_the_capability_to_bind_is_kept() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            let bits = u64::from_str_radix(&daemon.status(set)?, 16)?;
            assert_eq!(bits & !NET_BIND_SERVICE, 0, "{set} {bits:x}");
        }
        Ok(())
    });
}

#[test]
fn no_new_privileges() {
    on!(|machine| {
        assert_eq!(restrained(machine)?.status("NoNewPrivs")?, "1");
        Ok(())
    });
}

#[test]
fn system_calls_are_filtered() {
    on!(|machine| {
        restrained(machine)?;
        Ok(())
    });
}

#[test]
fn every_thread_is_restrained() {
    on!(|machine| {
        let daemon = restrained(machine)?;
        for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid))? {
            let path = task?.path();
            let status = std::fs::read_to_string(path.join("status"))?;
            assert!(
                status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"),
                "{status}"
            );
        }
        Ok(())
    });
}

/// Restrained, it still reloads, opens sockets for new networks, reads resolv.conf and ends properly.
#[test]
fn everything_still_works_afterwards() {
    on!(|machine| {
        use crate::machine::{GATEWAY_2, line};
        use std::time::Duration;
        let _upstream = crate::upstream::Upstream::answering("198.51.100.2", "192.0.2.2")?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        machine.resolv_conf("nameserver 198.51.100.2\n")?;
        machine.network(
            "new",
            &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "new")),
        )?;
        daemon.hup()?;
        let client = machine
            .client("10.89.0.2")
            .patience(Duration::from_millis(200));
        within(PATIENCE, || {
            client
                .says("new A")
                .is_ok_and(|said| said == "NOERROR 10.89.0.2")
        })?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.2");
        machine.remove_network("net")?;
        machine.remove_network("new")?;
        daemon.hup()?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        assert!(!machine.dir.join("aardvark.pid").exists());
        Ok(())
    });
}
