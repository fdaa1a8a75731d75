//! The host's servers: how /etc/resolv.conf is read, and that its changes are noticed.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::Result;

use crate::machine::{Daemon, Machine, PATIENCE, on, within};
use crate::upstream::Upstream;

/// Servers 1 to 4, and the program with `text` for resolv.conf.
fn set_up(machine: &Machine<'_>, text: &str) -> Result<([Upstream; 4], Daemon)> {
    let servers = [
        Upstream::answering("198.51.100.1", "192.0.2.1")?,
        Upstream::answering("198.51.100.2", "192.0.2.2")?,
        Upstream::answering("198.51.100.3", "192.0.2.3")?,
        Upstream::answering("198.51.100.4", "192.0.2.4")?,
    ];
    machine.resolv_conf(text)?;
    machine.usual_network()?;
    Ok((servers, machine.start()?))
}

/// With `text`, server `number` is asked.
fn check(machine: &Machine<'_>, text: &str, number: u8) -> Result<()> {
    let (_servers, _daemon) = set_up(machine, text)?;
    let said = machine.web().says("www.example A")?;
    assert_eq!(said, format!("NOERROR 192.0.2.{number}"), "{text:?}");
    Ok(())
}

#[test]
fn comments_options_and_white_space() {
    on!(|machine| check(
        machine,
        "# nameserver 198.51.100.4\n; nameserver 198.51.100.4\n\nsearch a b c\ndomain x\n\
         options ndots:5 timeout:1\nsortlist 1.2.3.4\n \t nameserver\t 198.51.100.2 # 198.51.100.3\n\
         nameserver 198.51.100.3\n",
        2
    ));
}

#[test]
fn one_server_a_line() {
    on!(|machine| {
        let _five = Upstream::silent("198.51.100.5")?;
        check(
            machine,
            "nameserver 198.51.100.5 198.51.100.1\nnameserver 198.51.100.3\n",
            3,
        )
    });
}

#[test]
fn words_that_begin_alike() {
    on!(|machine| check(
        machine,
        "nameservers 198.51.100.1\nnameserver198.51.100.1\nnameserver 198.51.100.4",
        4
    ));
}

#[test]
fn the_first_three_only() {
    on!(|machine| {
        let text = "nameserver 198.51.100.11\nnameserver 198.51.100.12\nnameserver 198.51.100.13\nnameserver 198.51.100.1\n";
        let (servers, _daemon) = set_up(machine, text)?;
        let query = crate::message::Query::new("www.example A").bytes();
        machine.web().raw(&query, Duration::from_secs(5))?;
        assert_eq!(servers[0].asked().len(), 0);
        Ok(())
    });
}

#[test]
fn a_link_local_server_with_its_interface() {
    on!(|machine| {
        machine.host.sh(
            "ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up
             ip addr add fe80::53/64 dev d0 nodad",
        )?;
        let scope = machine
            .host
            .sh("cat /sys/class/net/d0/ifindex")
            .or_else(|_| machine.host.sh("ip -o link show d0 | cut -d: -f1"))?;
        let address =
            std::net::SocketAddrV6::new("fe80::53".parse()?, 53, 0, scope.trim().parse()?);
        let _upstream = Upstream::start_at(address.into(), |asked| {
            crate::upstream::Do::Send(asked.answer("192.0.2.54"))
        })?;
        machine.resolv_conf("nameserver fe80::53%d0\n")?;
        machine.usual_network()?;
        machine.start()?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.54");
        assert_eq!(
            machine.web().says_by_tcp("www.other A")?,
            "NOERROR 192.0.2.54"
        );
        Ok(())
    });
}

/// Names that nobody asked before, so that no memory of answers is in the way.
fn asks_server(machine: &Machine<'_>, number: usize) -> bool {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = NEXT.fetch_add(1, Ordering::Relaxed);
    let web = machine.web().patience(Duration::from_secs(3));
    web.says(&format!("w{name}.example A"))
        .is_ok_and(|said| said == format!("NOERROR 192.0.2.{number}"))
}

#[test]
fn rewritten_in_place() {
    on!(|machine| {
        let (_servers, _daemon) = set_up(machine, "nameserver 198.51.100.1\n")?;
        assert!(asks_server(machine, 1));
        for number in [2, 3, 1] {
            machine.resolv_conf(&format!("nameserver 198.51.100.{number}\n"))?;
            within(PATIENCE, || asks_server(machine, number))?;
        }
        Ok(())
    });
}

/// The same name: an answer of the old server is not given any more.
#[test]
fn answers_of_the_old_server_are_forgotten() {
    on!(|machine| {
        let (_servers, _daemon) = set_up(machine, "nameserver 198.51.100.1\n")?;
        assert_eq!(machine.web().says("www.example A")?, "NOERROR 192.0.2.1");
        machine.resolv_conf("nameserver 198.51.100.2\n")?;
        within(PATIENCE, || {
            machine
                .web()
                .says("www.example A")
                .is_ok_and(|said| said == "NOERROR 192.0.2.2")
        })?;
        Ok(())
    });
}

#[test]
fn renamed_over() {
    on!(|machine| {
        let (_servers, _daemon) = set_up(machine, "nameserver 198.51.100.4\n")?;
        for round in 0..10 {
            let number = round % 3 + 1;
            fs::write(
                "/etc/resolv.conf.new",
                format!("nameserver 198.51.100.{number}\n"),
            )?;
            fs::rename("/etc/resolv.conf.new", "/etc/resolv.conf")?;
            within(PATIENCE, || asks_server(machine, number))?;
        }
        Ok(())
    });
}

#[test]
fn deleted_and_made_anew() {
    on!(|machine| {
        let (_servers, _daemon) = set_up(machine, "nameserver 198.51.100.1\n")?;
        fs::remove_file("/etc/resolv.conf")?;
        std::thread::sleep(Duration::from_millis(200));
        machine.resolv_conf("nameserver 198.51.100.2\n")?;
        within(PATIENCE, || asks_server(machine, 2))?;
        Ok(())
    });
}

/// As systemd-resolved and NetworkManager have it.
fn linked(machine: &Machine<'_>) -> Result<()> {
    fs::create_dir_all("/run/resolver")?;
    fs::write("/run/resolver/one", "nameserver 198.51.100.1\n")?;
    fs::write("/run/resolver/two", "nameserver 198.51.100.2\n")?;
    fs::remove_file("/etc/resolv.conf")?;
    symlink("/run/resolver/one", "/etc/resolv.conf")?;
    machine.usual_network()
}

#[test]
fn replaced_behind_a_link() {
    on!(|machine| {
        let (_servers, daemon) = set_up(machine, "nameserver 198.51.100.4\n")?;
        daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        linked(machine)?;
        machine.start()?;
        assert!(asks_server(machine, 1));
        for number in [3, 2, 1] {
            fs::write(
                "/run/resolver/new",
                format!("nameserver 198.51.100.{number}\n"),
            )?;
            fs::rename("/run/resolver/new", "/run/resolver/one")?;
            within(PATIENCE, || asks_server(machine, number))?;
        }
        Ok(())
    });
}

#[test]
fn a_link_turned_elsewhere() {
    on!(|machine| {
        let (_servers, daemon) = set_up(machine, "nameserver 198.51.100.4\n")?;
        daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
        assert!(daemon.ends_within(Duration::from_secs(10)));
        linked(machine)?;
        machine.start()?;
        assert!(asks_server(machine, 1));
        symlink("/run/resolver/two", "/etc/resolv.conf.new")?;
        fs::rename("/etc/resolv.conf.new", "/etc/resolv.conf")?;
        within(PATIENCE, || asks_server(machine, 2))?;
        // The new target is followed from now on.
        fs::write("/run/resolver/two", "nameserver 198.51.100.3\n")?;
        within(PATIENCE, || asks_server(machine, 3))?;
        Ok(())
    });
}

/// The program is started with /etc/resolv.conf leading to `to`.
fn starts_with_link(machine: &Machine<'_>, to: &str) -> Result<()> {
    fs::remove_file("/etc/resolv.conf")?;
    symlink(to, "/etc/resolv.conf")?;
    machine.usual_network()?;
    machine.start().map(drop)
}

fn servers() -> Result<[Upstream; 3]> {
    Ok([
        Upstream::answering("198.51.100.1", "192.0.2.1")?,
        Upstream::answering("198.51.100.2", "192.0.2.2")?,
        Upstream::answering("198.51.100.3", "192.0.2.3")?,
    ])
}

/// The way leads through a directory that is a link itself, and that is turned; also by relative steps.
#[test]
fn a_link_on_the_way_turned_elsewhere() {
    on!(|machine| {
        let _servers = servers()?;
        for number in 1..4 {
            let dir = format!("/run/resolver/{number}");
            fs::create_dir_all(&dir)?;
            let text = format!("nameserver 198.51.100.{number}\n");
            fs::write(dir + "/conf", text)?;
        }
        symlink("1", "/run/resolver/current")?;
        starts_with_link(machine, "../run/./resolver/3/../current/conf")?;
        assert!(asks_server(machine, 1));
        for number in [2, 3, 1] {
            symlink(number.to_string(), "/run/resolver/new")?;
            fs::rename("/run/resolver/new", "/run/resolver/current")?;
            within(PATIENCE, || asks_server(machine, number))?;
        }
        Ok(())
    });
}

/// As at boot, where the resolver makes its directories after us.
#[test]
fn a_link_into_a_directory_that_comes_later() {
    on!(|machine| {
        let _servers = servers()?;
        starts_with_link(machine, "/run/later/still/conf")?;
        fs::create_dir("/run/later")?;
        std::thread::sleep(Duration::from_millis(120));
        fs::create_dir("/run/later/still")?;
        fs::write("/run/later/still/conf", "nameserver 198.51.100.2\n")?;
        within(PATIENCE, || asks_server(machine, 2))?;
        fs::rename("/run/later", "/run/former")?;
        std::thread::sleep(Duration::from_millis(120));
        fs::create_dir_all("/run/later/still")?;
        fs::write("/run/later/still/conf", "nameserver 198.51.100.3\n")?;
        within(PATIENCE, || asks_server(machine, 3))?;
        Ok(())
    });
}

#[test]
fn read_again_at_a_reload() {
    on!(|machine| {
        let (_servers, daemon) = set_up(machine, "nameserver 198.51.100.1\n")?;
        machine.resolv_conf("nameserver 198.51.100.2\n")?;
        daemon.hup()?;
        within(PATIENCE, || asks_server(machine, 2))?;
        Ok(())
    });
}

/// Half-written or gone: better the old servers than none.
#[test]
fn without_servers_the_old_ones_stay() {
    on!(|machine| {
        let (_servers, daemon) = set_up(machine, "nameserver 198.51.100.1\n")?;
        for text in ["", "nameserver\n", "nameserver 1.2.3\n"] {
            machine.resolv_conf(text)?;
            daemon.hup()?;
            std::thread::sleep(Duration::from_millis(200));
            assert!(asks_server(machine, 1), "{text:?}");
        }
        fs::remove_file("/etc/resolv.conf")?;
        daemon.hup()?;
        std::thread::sleep(Duration::from_millis(200));
        assert!(asks_server(machine, 1));
        Ok(())
    });
}

#[test]
fn a_wrong_line_is_skipped() {
    on!(|machine| {
        let (_servers, daemon) = set_up(machine, "nameserver 198.51.100.1\n")?;
        machine.resolv_conf("nameserver 1.2.3\nnameserver 198.51.100.2\n")?;
        daemon.hup()?;
        within(PATIENCE, || asks_server(machine, 2))?;
        Ok(())
    });
}
