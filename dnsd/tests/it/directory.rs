//! What counts as a network, and what its name may be.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::machine::{GATEWAY, GATEWAY_2, Machine, PATIENCE, line, on, ours, within};
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
        within(PATIENCE, || {
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

/// Opening one would wait for somebody who opens its other end.
#[test]
fn a_pipe_is_no_network() {
    on!(|machine| {
        machine.usual_network()?;
        machine
            .host
            .sh(&format!("mkfifo {}/pipe", machine.dir.display()))?;
        let daemon = machine.start()?;
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        machine.network(
            "other",
            &format!("{GATEWAY_2}\n{}", line(5, "10.89.0.2", "", "far")),
        )?;
        daemon.hup()?;
        comes_to_say(machine, "10.89.0.2", "far A", "NOERROR 10.89.0.2")
    });
}

fn comes_to_say(machine: &Machine<'_>, client: &str, question: &str, answer: &str) -> Result<()> {
    let client = machine.client(client).patience(Duration::from_millis(200));
    within(PATIENCE, || {
        client.says(question).is_ok_and(|said| said == answer)
    })
    .map(drop)
}

/// Whatever keeps us from looking at files, only their absence takes networks away.
#[test]
fn files_that_cannot_be_looked_at_stay_as_they_were() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        // Its names can be read, but with our few capabilities nothing else about them.
        fs::set_permissions(&machine.dir, fs::Permissions::from_mode(0o600))?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        fs::set_permissions(&machine.dir, fs::Permissions::from_mode(0o700))?;
        // A link that leads to itself.
        fs::rename(machine.dir.join("net"), machine.dir.with_file_name("kept"))?;
        symlink("net", machine.dir.join("net"))?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(200));
        assert!(daemon.alive());
        assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        fs::rename(machine.dir.with_file_name("kept"), machine.dir.join("net"))?;
        machine.usual_network()?;
        daemon.hup()?;
        comes_to_say(machine, "10.88.0.2", "db A", "NOERROR 10.88.0.3")
    });
}

/// Engines run by root make their directories below those of other users, too.
fn below_a_closed_directory<'a>(machine: &Machine<'a>) -> Result<Machine<'a>> {
    let home = machine.host.dir("home")?;
    let run = home.join("run");
    let machine = Machine {
        host: machine.host,
        dir: run.join("aardvark-dns"),
    };
    fs::create_dir_all(&machine.dir)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::chown(&home, Some(1000), Some(1000))?;
    machine.usual_network()?;
    Ok(machine)
}

#[test]
fn below_a_closed_directory_it_is_read_and_watched() {
    on!(|machine| {
        let machine = &below_a_closed_directory(machine)?;
        let daemon = machine.start()?;
        let two = |name: &str| line(2, "10.88.0.3", "", name);
        machine.network("net", &format!("{GATEWAY}\n{}", two("new")))?;
        daemon.hup()?;
        comes_to_say(machine, "10.88.0.3", "new A", "NOERROR 10.88.0.3")?;
        machine.remove_network("net")?;
        daemon.hup()?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        assert!(!machine.dir.join("aardvark.pid").exists());
        Ok(())
    });
}

#[test]
fn below_a_closed_directory_it_is_made_anew() {
    on!(|machine| {
        let machine = &below_a_closed_directory(machine)?;
        let daemon = machine.start()?;
        let two = |name: &str| line(2, "10.88.0.3", "", name);
        fs::remove_dir_all(&machine.dir)?;
        fs::create_dir(&machine.dir)?;
        machine.network("net", &format!("{GATEWAY}\n{}", two("newer")))?;
        daemon.hup()?;
        comes_to_say(machine, "10.88.0.3", "newer A", "NOERROR 10.88.0.3")
    });
}

#[test]
fn below_a_closed_directory_a_terminate_signal_leaves_nobody_s_number() {
    ours!(|machine| {
        let machine = &below_a_closed_directory(machine)?;
        let daemon = machine.start()?;
        machine.network(
            "net",
            &format!("{GATEWAY}\n{}", line(2, "10.88.0.3", "", "new")),
        )?;
        comes_to_say(machine, "10.88.0.3", "new A", "NOERROR 10.88.0.3")?;
        daemon.signal(Signal::SIGTERM)?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        let left = fs::read_to_string(machine.dir.join("aardvark.pid"))?;
        assert_eq!(left, "2147483647");
        Ok(())
    });
}

/// A directory that was removed and made anew is watched like the first one.
#[test]
fn a_directory_made_anew_is_watched() {
    ours!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        fs::remove_dir_all(&machine.dir)?;
        fs::create_dir(&machine.dir)?;
        machine.usual_network()?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(50));
        machine.network(
            "net",
            &format!("{GATEWAY}\n{}", line(2, "10.88.0.3", "", "new")),
        )?;
        comes_to_say(machine, "10.88.0.3", "new A", "NOERROR 10.88.0.3")
    });
}
