//! Urgent data of a peer is data: nothing of it is lost, and nothing comes twice.

use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{MsgFlags, send};

use crate::attached::{Daemon, run};

/// Letters, of which capitals are urgent, in pieces that leave in packets of their own.
const SAID: [&str; 9] = ["abc", "U", "def", "ghi", "V", "W", "jkl", "mno", "X"];

fn say(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    for piece in SAID {
        let flags = match piece.as_bytes() {
            [b'A'..=b'Z'] => MsgFlags::MSG_OOB,
            _ => MsgFlags::empty(),
        };
        send(stream.as_raw_fd(), piece.as_bytes(), flags)?;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

#[test]
fn urgent_data_is_data() {
    run(|host| {
        let outside = host.outside()?;
        let guest = host.container("guest")?;
        let finished = test_fixtures::program::Program::new(env!("CARGO_BIN_EXE_usernet"))
            .args(["--config-net", "--no-map-gw", "--quiet", "--pid"])
            .arg(host.dir("urgent")?.join("pid"))
            .arg("--netns")
            .arg(guest.path())
            .run()?;
        ensure!(finished.success(), "{finished}");
        let pid = std::fs::read_to_string(host.dir("urgent")?.join("pid"))?;
        let pid = pid.trim().parse()?;
        let far = outside.enter(|| Ok(TcpListener::bind("192.0.2.2:7000")?))?;
        for _ in 0..5 {
            let mut near = guest.enter(|| Ok(TcpStream::connect("192.0.2.2:7000")?))?;
            near.set_read_timeout(Some(Duration::from_secs(10)))?;
            let peer = far.accept()?.0;
            let speaker = thread::spawn(move || say(&peer).map(|()| peer));
            let mut heard = String::new();
            near.read_to_string(&mut heard)?;
            ensure!(heard == SAID.concat(), "{heard}");
            speaker.join().expect("no panic")?;
        }
        drop(guest);
        Daemon { pid, finished }.ended()?;
        Ok(())
    });
}
