//! Beside the packet filter of before nftables, written as `iptables-legacy -P FORWARD DROP` would.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};

use crate::lab;
use crate::scene::{Network, Request, Scene};

/// `-NF_ACCEPT - 1` and `-NF_DROP - 1`.
pub(crate) const ACCEPT: i32 = -2;
pub(crate) const DROP: i32 = -1;

/// Octets of `struct ipt_replace`, of `struct ipt_entry`, and of an entry with a target that is a verdict, or an error.
const REPLACE: usize = 96;
const ENTRY: u16 = 112;
const VERDICT: u16 = ENTRY + 40;
const ERROR: u16 = ENTRY + 64;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// `struct ipt_entry` and the head of its target.
fn entry(length: u16) -> Vec<u8> {
    let mut bytes = vec![0; length.into()];
    put(&mut bytes, 88, &ENTRY.to_ne_bytes());
    put(&mut bytes, 90, &length.to_ne_bytes());
    put(&mut bytes, ENTRY.into(), &(length - ENTRY).to_ne_bytes());
    bytes
}

/// Table `filter` with nothing but the policies of `INPUT`, `FORWARD` and `OUTPUT`. The kernel writes the counters of the
/// four entries that it replaces to `counters`.
fn table(policies: [i32; 3], counters: &mut [u64; 8]) -> Vec<u8> {
    let mut entries = Vec::new();
    for policy in policies {
        let mut bytes = entry(VERDICT);
        put(&mut bytes, usize::from(ENTRY) + 32, &policy.to_ne_bytes());
        entries.extend(bytes);
    }
    let mut end = entry(ERROR);
    put(&mut end, usize::from(ENTRY) + 2, b"ERROR");
    put(&mut end, usize::from(ENTRY) + 32, b"ERROR");
    entries.extend(end);

    let size = u32::from(VERDICT) * 3 + u32::from(ERROR);
    let verdict = u32::from(VERDICT);
    let hooks = [0, 0, verdict, 2 * verdict, 0]
        .map(u32::to_ne_bytes)
        .concat();
    let mut bytes = vec![0; REPLACE];
    put(&mut bytes, 0, b"filter");
    for (at, word) in [(32, 0b1110), (36, 4), (40, size), (84, 4)] {
        put(&mut bytes, at, &u32::to_ne_bytes(word));
    }
    put(&mut bytes, 44, &hooks);
    put(&mut bytes, 64, &hooks);
    put(&mut bytes, 88, &counters.as_mut_ptr().addr().to_ne_bytes());
    bytes.extend(entries);
    bytes
}

/// Replaces the table of the network namespace that the thread is in.
#[expect(unsafe_code, reason = "no crate has this option")]
pub(crate) fn set_policies(policies: [i32; 3]) -> Result<()> {
    const SET_REPLACE: libc::c_int = 64;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut counters = [0; 8];
    let bytes = table(policies, &mut counters);
    // SAFETY: the kernel reads as many octets as there are, and writes the counters of four entries, 16 octets each, to
    // the array whose address is among them; both outlive the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            SET_REPLACE,
            bytes.as_ptr().cast(),
            libc::socklen_t::try_from(bytes.len())?,
        )
    };
    ensure!(outcome == 0, "{}", io::Error::last_os_error());
    Ok(())
}

/// A policy to drop is named when a network comes; where there is no such table, none is made by asking.
#[test]
fn policies_that_drop_are_named() {
    lab::run(|host| {
        let scene = Scene::new(host)?;
        let names = || host.sh("cat /proc/net/ip_tables_names");
        let said = |number: u8| -> Result<String> {
            let container = host.container(&format!("c{number}"))?;
            let request = Request::new(&format!("c{number}")).on(&Network::v4(number), 2);
            let call = scene.program(&["setup"], container.path(), request.json());
            let finished = call.env("RUST_LOG", "netavark=warn").run_in(host)?;
            ensure!(finished.success(), "{finished}");
            scene.teardown(&container, &request)?;
            Ok(finished.stderr)
        };
        ensure!(said(1)?.is_empty() && names()?.is_empty());
        let set = |policies| host.enter(|| set_policies(policies)).context("iptables");
        set([ACCEPT; 3])?;
        ensure!(names()?.contains("filter") && said(2)?.is_empty());
        set([DROP, DROP, DROP])?;
        let text = said(3)?;
        let chain = "chain iptables-legacy filter FORWARD has the policy to drop: ";
        ensure!(
            text.matches("WARN").count() == 1 && text.contains(chain),
            "{text}"
        );
        Ok(())
    });
}
