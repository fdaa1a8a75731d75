//! Much of what is wrong, at once.

use std::time::Duration;

use test_fixtures::program::Program;

use crate::machine::{
    GATEWAY, Machine, PATIENCE, effort, id, line, on, program_path, receive, report, within,
};
use crate::message::{Query, Reply};
use crate::upstream::{Do, Upstream};

/// A sequence that looks random and is the same each time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).expect("small")).expect("small")
    }
}

/// A question with a few bytes changed, cut or added.
fn damaged(chance: &mut Chance) -> Vec<u8> {
    let questions = [
        "web A",
        "db AAAA",
        "2.0.88.10.in-addr.arpa PTR",
        "www.example TXT",
        "db ANY",
    ];
    let mut query = Query::new(questions[chance.below(questions.len())]);
    if chance.below(2) == 0 {
        query = query.edns(1232).option(10, b"12345678");
    }
    let mut bytes = query.bytes();
    for _ in 0..chance.below(6) {
        let at = chance.below(bytes.len());
        match chance.below(8) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes.insert(at, 0xc0),
            2 => bytes.extend_from_within(at..),
            _ => bytes[at] = u8::try_from(chance.below(256)).expect("a byte"),
        }
    }
    bytes
}

#[test]
fn damaged_questions() {
    on!(|machine| {
        // Some of it is forwarded.
        let _upstream = Upstream::start("198.51.100.1", |asked| {
            Do::Send(Reply::to(&asked.bytes).a(300, "192.0.2.80").bytes())
        })?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        let mut chance = Chance(1);
        let socket = machine.web().socket()?;
        let before = (resident(&daemon)?, daemon.descriptors()?.len());
        for round in 0..80 * effort() {
            for _ in 0..250 {
                socket.send(&damaged(&mut chance))?;
            }
            while receive(&socket, Duration::from_millis(1))?.is_some() {}
            assert!(daemon.alive(), "round {round}");
        }
        let after = (resident(&daemon)?, daemon.descriptors()?.len());
        report(&format!(
            "{} damaged questions, {} of them lost on the way; kB and descriptors: {before:?}, then {after:?}",
            20_000 * effort(),
            lost_on_the_way(machine)?
        ));
        assert!(after.0 < before.0 + 8192, "{before:?}, then {after:?}");
        assert!(after.1 <= before.1 + 32, "{before:?}, then {after:?}");
        let client = machine.client("10.88.0.3");
        within(PATIENCE, || {
            client
                .says("db A")
                .is_ok_and(|said| said == "NOERROR 10.88.0.3")
        })?;
        assert_eq!(client.says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
}

fn resident(daemon: &crate::machine::Daemon) -> anyhow::Result<u64> {
    Ok(daemon.status("VmRSS")?.trim_end_matches(" kB").parse()?)
}

/// Datagrams that found no room in a socket of this machine.
fn lost_on_the_way(machine: &Machine<'_>) -> anyhow::Result<u64> {
    let numbers = machine.host.sh("grep ^Udp: /proc/net/snmp | tail -n 1")?;
    let lost = numbers.split_whitespace().nth(5).unwrap_or_default();
    Ok(lost.parse()?)
}

/// What upstreams send is no better.
#[test]
fn damaged_answers() {
    on!(|machine| {
        let chance = std::sync::Mutex::new(Chance(2));
        let _upstream = Upstream::start("198.51.100.1", move |asked| {
            let mut chance = chance.lock().unwrap();
            let mut bytes = Reply::to(&asked.bytes).a(60, "192.0.2.80").soa(60).bytes();
            for _ in 0..1 + chance.below(5) {
                let at = 2 + chance.below(bytes.len() - 2);
                match chance.below(6) {
                    0 => bytes.truncate(at.max(12)),
                    1 => bytes.insert(at, 0xc0),
                    _ => bytes[at] = u8::try_from(chance.below(256)).unwrap(),
                }
            }
            Do::Send(bytes)
        })?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        let socket = machine.web().socket()?;
        for number in 0..2000 * effort() {
            socket.send(&Query::new(&format!("w{number}.example A")).bytes())?;
            receive(&socket, Duration::from_micros(500))?;
        }
        assert!(daemon.alive());
        assert_eq!(
            machine.client("10.88.0.3").says("db A")?,
            "NOERROR 10.88.0.3"
        );
        Ok(())
    });
}

/// Files of which any byte may be anything, each read by the program. The network beside them is served all the time.
#[test]
fn damaged_files() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let usual = std::fs::read_to_string(machine.dir.join("net"))?;
        let before = resident(&daemon)?;
        let mut chance = Chance(3);
        let whole = format!(
            "10.90.0.1 198.51.100.1\n{}",
            line(7, "10.90.0.2", "fd10:90::2", "c,d")
        );
        for number in 0..300 * effort() {
            let mut bytes = whole.clone().into_bytes();
            for _ in 0..1 + chance.below(4) {
                let at = chance.below(bytes.len());
                match chance.below(4) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.insert(at, b" ,\n.:"[chance.below(5)]),
                    _ => bytes[at] = u8::try_from(chance.below(256)).unwrap(),
                }
            }
            std::fs::write(machine.dir.join("damaged"), bytes)?;
            let seen = line(9, "10.88.1.9", "", &format!("n{number}"));
            machine.network("net", &format!("{usual}{seen}"))?;
            daemon.hup()?;
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
            let seen = format!("n{number}.dns.podman A");
            within(PATIENCE, || {
                let said = machine.web().says(&seen);
                said.is_ok_and(|said| said == "NOERROR 10.88.1.9")
            })?;
        }
        assert!(daemon.alive());
        let after = resident(&daemon)?;
        report(&format!(
            "{} damaged files read; {before} kB, then {after} kB",
            300 * effort()
        ));
        assert!(after < before + 4096, "{before} kB, then {after} kB");
        Ok(())
    });
}

/// A file with all that it may have.
fn rich_file() -> Vec<String> {
    let mut lines = vec![format!(
        "{GATEWAY},fd10:88::1 198.51.100.1,fd00:53::1 route=corp.example@198.51.100.2+fd00:53::2 later=1"
    )];
    for n in 0..20 {
        let names = format!("c{n},short{n},b\u{fc}cher{n},*.w{n}.local");
        let servers = if n % 3 == 0 { " 198.51.100.3" } else { "" };
        let line = line(
            n,
            &format!("10.88.1.{n}"),
            &format!("fd10:88::1:{n:x}"),
            &names,
        );
        lines.push(line.replace('\n', servers));
        lines.push(format!("{}   c{n}  srv=_http._tcp:{}", id(n), 8000 + n));
    }
    lines
}

/// Changes some bytes, but makes no lines of one.
fn damage_line(line: &str, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    for _ in 0..1 + chance.below(6) {
        let at = chance.below(bytes.len() + 1);
        match chance.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, b" ,.:=*@+%"[chance.below(9)]),
            2 => bytes.extend_from_within(at..),
            _ => {
                let byte = u8::try_from(chance.below(256)).expect("a byte");
                bytes.insert(at, if byte == b'\n' { 0 } else { byte });
            }
        }
    }
    bytes
}

/// A damaged line costs at most what it says itself, whatever is in it: all other names are found as before. Without
/// a daemon, so that there can be many.
#[test]
fn a_damaged_line_costs_itself() {
    crate::differences::only_ours(|| {
        let mut chance = Chance(4);
        let lines = rich_file();
        for round in 0..2000 * effort() {
            let victim = chance.below(lines.len());
            let mut text = Vec::new();
            for (number, line) in lines.iter().enumerate() {
                if number == victim {
                    text.extend(damage_line(line, &mut chance));
                } else {
                    text.extend(line.as_bytes());
                }
                text.push(b'\n');
            }
            let (network, problems) = dnsd::load::network("net", &text);
            let Some(network) = network else {
                assert_eq!(victim, 0, "round {round}: {problems:?}");
                continue;
            };
            for n in (0..20).filter(|n| victim != 2 * n + 1) {
                let key = dnsd::name::key(&format!("c{n}")).expect("a name");
                let name = network.find(&key).expect("its line is as it was");
                let address = format!("10.88.1.{n}").parse().expect("an address");
                assert!(network.ipv4(name).contains(&address), "round {round}, c{n}");
                let service = [&b"\x05_http\x04_tcp"[..], &key].concat();
                assert!(victim == 2 * n + 2 || !network.services(&service).is_empty());
            }
        }
        report(&format!("{} damaged files", 2000 * effort()));
    });
}

fn start_with_limit(machine: &Machine<'_>, limit: &str) -> anyhow::Result<crate::machine::Daemon> {
    machine.start_as(
        Program::new("sh")
            .args(["-c", &format!(r#"ulimit {limit}; exec "$@""#), "sh"])
            .arg(program_path())
            .arg("--config")
            .arg(&machine.dir)
            .args(["-p", "53", "run"]),
    )
}

/// Questions to a dead server with few descriptors to spend: local names are answered all the while.
#[test]
fn few_descriptors_and_a_dead_server() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.1")?;
        machine.usual_network()?;
        let daemon = start_with_limit(machine, "-n 48")?;
        let socket = machine.web().socket()?;
        for number in 0..500 {
            socket.send(&Query::new(&format!("w{number}.example A")).bytes())?;
            if number % 20 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert_eq!(
            machine.client("10.88.0.3").says("db A")?,
            "NOERROR 10.88.0.3"
        );
        assert_eq!(
            machine.client("10.88.0.3").says_by_tcp("db A")?,
            "NOERROR 10.88.0.3"
        );
        assert!(daemon.alive());
        Ok(())
    });
}

/// No room for the pid file: an error that names it, not a daemon that nobody finds.
#[test]
fn a_full_disk_at_the_start() {
    on!(|machine| {
        machine.host.sh(&format!(
            "mount -t tmpfs -o size=64k full {}; mkdir {}",
            machine.dir.parent().expect("it has one").display(),
            machine.dir.display()
        ))?;
        machine.usual_network()?;
        machine.host.sh(&format!(
            "dd if=/dev/zero of={}/../filler bs=4k count=64 2>/dev/null || true",
            machine.dir.display()
        ))?;
        let finished = machine.try_start()?;
        if finished.success() {
            machine.running()?; // written somehow: then it must be right
            assert_eq!(machine.web().says("web A")?, "NOERROR 10.88.0.2");
        } else {
            assert_eq!(finished.code(), Some(1));
            assert!(!finished.stderr.is_empty());
        }
        Ok(())
    });
}

/// One kilobyte of memory a question would be 20 MB here.
#[test]
fn memory_stays_bounded() {
    on!(|machine| {
        let _silent = Upstream::silent("198.51.100.1")?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        let socket = machine.web().socket()?;
        for number in 0..20_000 {
            socket.send(&Query::new(&format!("w{number}.example A")).bytes())?;
            if number % 100 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let resident: u64 = daemon.status("VmRSS")?.trim_end_matches(" kB").parse()?;
        assert!(resident < 16_000, "{resident} kB");
        Ok(())
    });
}
