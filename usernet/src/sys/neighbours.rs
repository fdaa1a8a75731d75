//! Hears what the host's kernel says of its neighbours ([`crate::neighbours`]).
//!
//! The socket is opened before the sandbox closes, in the host's namespace. The list is asked for once we are ready, so
//! that nobody waits for it. A filter in the kernel leaves out what concerns other links, what concerns no address, and
//! the steps of confirming an entry, so that a host with much traffic does not wake us for it.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use super::failure::errno;
use super::netlink::NetlinkError;
use super::raw;
use crate::config::Families;
use crate::neighbours::{self as table, News};

/// `RTNLGRP_NEIGH`
const GROUP: u32 = 3;
/// Datagrams that are read before others have their turn.
const DATAGRAMS: u32 = 16;
/// Room for one: parts of a list are as long as a page, and no longer than this where pages are larger.
const DATAGRAM: usize = 8192;

/// The socket, and what was heard of it.
#[derive(Debug)]
pub struct Neighbours {
    socket: Socket,
    links: Families<u32>,
    table: table::Neighbours,
}

impl Neighbours {
    /// The number of [`Self::fd`] among those of the loop: above those of [`super::follow`].
    pub const NUMBER: u32 = 40;

    /// To be called in the host's network namespace before the sandbox closes.
    ///
    /// # Errors
    /// The kernel has no such socket for us.
    pub fn open(links: Families<u32>) -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            raw::set_filter(socket.as_fd(), &mut filter(&links))?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.add_membership(GROUP)?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|error: std::io::Error| NetlinkError {
            what: "Couldn't watch the host's neighbours".to_owned(),
            source: errno(&error),
        })?;
        let mut table = table::Neighbours::default();
        table.follow(links.clone());
        Ok(Self {
            socket,
            links,
            table,
        })
    }

    /// Readable when there is something new.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Ask for a list, if one is wanted.
    pub fn ask(&mut self) {
        while let Some(request) = self.table.request() {
            if self.socket.send(&request, 0).is_err() {
                self.table.refused();
            }
        }
    }

    /// Something can be read. What there is is news or is forgotten.
    pub fn hear(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let mut room = [0_u8; DATAGRAM];
        for _ in 0..DATAGRAMS {
            match self.socket.recv(&mut &mut room[..], 0) {
                Ok(length) => news.extend(self.table.take(&room[..length.min(DATAGRAM)])),
                Err(error) if errno(&error) == Errno::ENOBUFS => self.table.lost(),
                Err(_) => break,
            }
            self.ask();
        }
        news
    }

    /// The guest's link stands for these from now on. What was known of others is forgotten.
    pub fn follow(&mut self, links: &Families<u32>) -> Vec<News> {
        if *links == self.links {
            return Vec::new();
        }
        // What the old filter lets through is looked at as well.
        raw::set_filter(self.socket.as_fd(), &mut filter(links)).unwrap_or_default();
        self.links = links.clone();
        let gone = self.table.follow(links.clone());
        self.ask();
        gone
    }
}

/// Lets parts of lists through, errors, and notices of entries of these links that have or lose an address. Numbers of
/// messages are in the byte order of this machine, and the filter reads them in that of the network.
fn filter(links: &Families<u32>) -> Vec<libc::sock_filter> {
    const MULTI: u16 = 0x2;
    /// `NUD_INCOMPLETE`, `NUD_DELAY`, `NUD_PROBE`: the kernel asks, and what it knew holds.
    const ASKING: u16 = 0x01 | 0x08 | 0x10;
    let half = |value: u16| u32::from(value.to_be());
    let link = |link: Option<u32>| link.unwrap_or(0).to_be();
    let [v4, v6] = table::FAMILIES.map(u32::from);
    let load =
        |size: u32, place: u32| instruction(libc::BPF_LD | size | libc::BPF_ABS, place, 0, 0);
    let is = |value, yes, no| instruction(libc::BPF_JMP | libc::BPF_JEQ, value, yes, no);
    let has = |value, yes, no| instruction(libc::BPF_JMP | libc::BPF_JSET, value, yes, no);
    let end = |take| instruction(libc::BPF_RET, take, 0, 0);
    vec![
        load(libc::BPF_H, 6), // flags
        has(half(MULTI), 14, 0),
        load(libc::BPF_H, 4), // type
        is(half(table::ERROR), 12, 0),
        is(half(table::GONE), 3, 0),
        is(half(table::NEW), 0, 9),
        load(libc::BPF_H, 24), // state
        has(half(ASKING), 7, 0),
        load(libc::BPF_B, 16), // family
        is(v4, 0, 2),
        load(libc::BPF_W, 20), // link
        is(link(links.v4), 4, 3),
        is(v6, 0, 2),
        load(libc::BPF_W, 20),
        is(link(links.v6), 1, 0),
        end(0),
        end(u32::MAX),
    ]
}

/// Which jump is taken says how many instructions are left out.
fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    let code = u16::try_from(code).unwrap_or(0);
    libc::sock_filter { code, jt, jf, k }
}
