//! What counts as a network, and what its name may be.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::Result;

use crate::machine::{GATEWAY, GATEWAY_2, Machine, line, on, within};
use crate::upstream::Upstream;

fn one_network_named(machine: &Machine<'_>, name: &str) -> Result<()> {
    machine.network(
        name,
        &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
    )?;
    machine.start()?;
    assert_eq!(machine.web().says("web A")?, "NOERROR 10.88.0.2");
    Ok(())
}

#[test]
fn a_long_name() {
    on!(|machine| one_network_named(machine, &"n".repeat(200)));
}

#[test]
fn a_name_of_free_text() {
    on!(|machine| one_network_named(machine, "Nétz & co, $(x) 'y'.conf~"));
}

#[test]
fn a_hidden_file_is_a_network() {
    on!(|machine| one_network_named(machine, ".net.swp"));
}

#[test]
fn a_name_that_is_no_unicode() {
    on!(|machine| {
        machine.usual_network()?;
        fs::write(
            machine.dir.join(OsStr::from_bytes(b"bad\xff")),
            "10.90.0.1\n",
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn directories_are_skipped() {
    on!(|machine| {
        machine.usual_network()?;
        fs::create_dir(machine.dir.join("a-directory"))?;
        fs::write(machine.dir.join("a-directory/inner"), "10.90.0.1\n")?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

#[test]
fn a_file_that_cannot_be_read_harms_no_other() {
    on!(|machine| {
        machine.usual_network()?;
        symlink("/nowhere", machine.dir.join("dangling"))?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// Engines rename the plain file when they find out; for a moment both may be there.
#[test]
fn internal_and_plain_files_are_one_network() {
    on!(|machine| {
        machine.network(
            "net",
            &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
        )?;
        machine.network(
            "net%int",
            &format!("{GATEWAY_2}\n{}", line(2, "10.89.0.2", "", "db")),
        )?;
        machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.89.0.2");
        assert_eq!(
            machine.client("10.89.0.2").says("web A")?,
            "NOERROR 10.88.0.2"
        );
        Ok(())
    });
}

#[test]
fn an_internal_network_resolves_its_own() {
    on!(|machine| {
        let upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.network(
            "net%int",
            &format!("{GATEWAY}\n{}", line(1, "10.88.0.2", "", "web")),
        )?;
        machine.start()?;
        let web = machine.web();
        assert_eq!(web.says("web A")?, "NOERROR 10.88.0.2");
        assert_eq!(web.says("www.example A")?, "NXDOMAIN");
        assert_eq!(web.says("www.example NS")?, "NXDOMAIN");
        assert_eq!(upstream.asked().len(), 0);
        Ok(())
    });
}

#[test]
fn a_network_that_becomes_internal() {
    on!(|machine| {
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.80");
        fs::rename(machine.dir.join("net"), machine.dir.join("net%int"))?;
        daemon.hup()?;
        within(Duration::from_secs(2), || {
            machine
                .web()
                .says("www.example A")
                .is_ok_and(|said| said == "NXDOMAIN")
        })?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

/// Nor does anything else that is read anew then take the data away.
#[test]
fn a_missing_directory_and_new_servers() {
    on!(|machine| {
        let _upstream = Upstream::answering("198.51.100.2", "192.0.2.2")?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        fs::remove_dir_all(&machine.dir)?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        machine.resolv_conf("nameserver 198.51.100.2\n")?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.2");
        assert!(daemon.alive());
        Ok(())
    });
}

#[test]
fn a_missing_directory_keeps_the_old_data() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        fs::remove_dir_all(&machine.dir)?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(500));
        assert!(daemon.alive());
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}
