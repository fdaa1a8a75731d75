//! Much of what is wrong, at once.

use std::time::Duration;

use test_fixtures::program::Program;

use crate::machine::{Machine, effort, line, on, program_path, receive, within};
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
        let _upstream = Upstream::answering("198.51.100.1", "192.0.2.80")?;
        machine.usual_network()?;
        let daemon = machine.start()?;
        let mut chance = Chance(1);
        let socket = machine.web().socket()?;
        for round in 0..40 * effort() {
            for _ in 0..500 {
                socket.send(&damaged(&mut chance))?;
            }
            while receive(&socket, Duration::from_millis(1))?.is_some() {}
            assert!(daemon.alive(), "round {round}");
        }
        let client = machine.client("10.88.0.3");
        within(Duration::from_secs(8), || {
            client
                .says("db A")
                .is_ok_and(|said| said == "NOERROR 10.88.0.3")
        })?;
        assert_eq!(client.says_by_tcp("db A")?, "NOERROR 10.88.0.3");
        Ok(())
    });
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

/// Files of which any byte may be anything. The network beside them is served all the time.
#[test]
fn damaged_files() {
    on!(|machine| {
        machine.usual_network()?;
        let daemon = machine.start()?;
        let mut chance = Chance(3);
        let whole = format!(
            "10.90.0.1 198.51.100.1\n{}",
            line(7, "10.90.0.2", "fd10:90::2", "c,d")
        );
        for _ in 0..300 * effort() {
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
            daemon.hup()?;
            assert_eq!(machine.web().says("db A")?, "NOERROR 10.88.0.3");
        }
        assert!(daemon.alive());
        Ok(())
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
