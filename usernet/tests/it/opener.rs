//! The process in the guest's namespace that makes sockets, where the kernel refuses to pass them on.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::AddressFamily;
use test_fixtures::program::Program;
use usernet::config::Families;
use usernet::event::Transport;
use usernet::sys::opener::{self, Opener, Sizes};
use usernet::sys::pass;

/// Files that a process may have, and so the descriptors of one user that may be on their way.
const FILES: u64 = 1000;

/// Too many descriptors of our user are on their way: sockets are refused with the reason, and there are more as soon as
/// that is over. Root of the whole machine may have any number on their way, so this is somebody else.
#[test]
fn sockets_that_cannot_be_passed_on_are_refused() {
    if std::env::var_os("TEST_NOT_ROOT").is_some() {
        return refused_for_now().expect("sockets are refused, and made later");
    }
    let test = "opener::sockets_that_cannot_be_passed_on_are_refused";
    let finished = Program::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(std::env::current_exe().expect("a test knows its path"))
        .args(["--exact", test])
        .env("TEST_NOT_ROOT", "1")
        .timeout(Duration::from_secs(60))
        .run()
        .expect("unshare is there");
    assert!(finished.success(), "{finished}");
    assert!(finished.stdout.contains("1 passed"), "{finished}");
}

fn refused_for_now() -> Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES)?;
    let (way, far) = pass::pair()?;
    let many = [way.as_raw_fd(); pass::MAX];
    let mut sent = 0;
    while sent <= FILES {
        pass::send(way.as_fd(), &[0], &many)?;
        sent += many.len() as u64;
    }
    let (ours, theirs) = pass::pair()?;
    let server = std::thread::spawn(move || opener::serve(&theirs, None));
    let families = Families {
        v4: Some(()),
        v6: None,
    };
    let mut opener = Opener::new(ours, families, Sizes::of(1024));
    let mut take = || opener.take(AddressFamily::Inet, Transport::Tcp);
    let why = take().err();
    ensure!(why == Some(Errno::ETOOMANYREFS), "{why:?}");
    drop(far); // and what is on its way with it
    let sockets: Result<Vec<OwnedFd>, Errno> = (0..100).map(|_| take()).collect();
    ensure!(sockets.context("later")?.len() == 100);
    drop(opener);
    ensure!(server.join().is_ok());
    Ok(())
}
