//! Asks for the policies of the packet filter of before nftables, in the current network namespace.
//!
//! Nothing is asked of it unless it has a table: the question would make one.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::nft::foreign::DropChain;
use crate::nft::legacy::{ENTRIES, Family, INFO, Info, TABLE, question};
use crate::nft::listing::{Chain, Rule};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; those of IPv6 have the same numbers.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

/// Chains whose policy is to drop.
#[must_use]
pub fn drop_chains() -> Vec<DropChain> {
    let of = |family: Family| {
        let (info, entries) = ask_for(family)?;
        Some(info.drop_chains(family, &entries))
    };
    let each = [Family::V4, Family::V6].into_iter().filter_map(of);
    each.flatten().collect()
}

/// Chains and rules of both families, in the words of nftables.
#[must_use]
pub fn listings() -> Vec<(Vec<Chain>, Vec<Rule>)> {
    let of = |family: Family| {
        let (info, entries) = ask_for(family)?;
        Some(info.listing(family, &entries))
    };
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(of)
        .collect()
}

/// The table of a family, if there is one.
fn ask_for(family: Family) -> Option<(Info, Vec<u8>)> {
    let names = fs::read_to_string(family.names()).unwrap_or_default();
    if !names.lines().any(|name| name == TABLE) {
        return None;
    }
    let table = table(family);
    table
        .inspect_err(|errno| tracing::debug!("table of {}: {errno}", family.program()))
        .ok()
}

fn table(family: Family) -> Result<(Info, Vec<u8>), Errno> {
    let (domain, level) = match family {
        Family::V4 => (AddressFamily::Inet, libc::SOL_IP),
        Family::V6 => (AddressFamily::Inet6, libc::SOL_IPV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(domain, SockType::Datagram, flags, SockProtocol::Udp)?;
    let answer = ask(&socket, level, GET_INFO, question(INFO, 0))?;
    let info = Info::parse(&answer).ok_or(Errno::EPROTO)?;
    let length = usize::try_from(info.size).map_err(|_| Errno::EOVERFLOW)?;
    // Somebody may have changed the table in between: then its size is refused.
    let entries = question(ENTRIES + length, info.size);
    let entries = ask(&socket, level, GET_ENTRIES, entries)?;
    Ok((info, entries))
}

/// Puts a question, whose place the answer takes.
#[expect(unsafe_code, reason = "no crate has these options")]
fn ask(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    mut question: Vec<u8>,
) -> Result<Vec<u8>, Errno> {
    let mut length = libc::socklen_t::try_from(question.len()).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel writes no more than `length` octets to the buffer, which has as many; both outlive the call.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            question.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(outcome).map(|_| question)
}
