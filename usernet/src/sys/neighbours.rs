//! Hears what the host's kernel says of its neighbours ([`crate::neighbours`]).
//!
//! The socket is opened before the sandbox closes, in the host's namespace. The list is asked for once we are ready, so
//! that nobody waits for it. A filter in the kernel leaves out what concerns other links, what concerns no address, and
//! the steps of confirming an entry, so that a host with much traffic does not wake us for it.
//!
//! It lets through that one of the links is gone as well, and while one is gone all that is said of links: when one of
//! that name is there again, it is the one that is followed.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use super::failure::errno;
use super::netlink::NetlinkError;
use super::raw;
use crate::config::Families;
use crate::neighbours::{self as table, Link, News};

/// `RTNLGRP_LINK`, `RTNLGRP_NEIGH`
const GROUPS: [u32; 2] = [1, 3];
/// Datagrams that are read before others have their turn.
const DATAGRAMS: u32 = 16;
/// Room for one: parts of a list are as long as a page, and no longer than this where pages are larger.
const DATAGRAM: usize = 8192;

/// The socket, and what was heard of it.
#[derive(Debug)]
pub struct Neighbours {
    socket: Socket,
    names: Families<String>,
    links: Families<u32>,
    /// Those that are not there now.
    gone: Families<()>,
    table: table::Neighbours,
}

/// What there is to tell.
#[derive(Debug, Default)]
pub struct Heard {
    /// Of neighbours.
    pub news: Vec<News>,
    /// The links have these indexes now.
    pub links: Option<Families<u32>>,
}

impl Neighbours {
    /// The number of [`Self::fd`] among those of the loop: above those of [`super::follow`].
    pub const NUMBER: u32 = 40;

    /// To be called in the host's network namespace before the sandbox closes.
    ///
    /// # Errors
    /// The kernel has no such socket for us.
    pub fn open(names: Families<String>, links: Families<u32>) -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            raw::set_filter(socket.as_fd(), &mut filter(&links, false))?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
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
            names,
            links,
            gone: Families::default(),
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

    /// Something can be read.
    pub fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        let mut room = [0_u8; DATAGRAM];
        for _ in 0..DATAGRAMS {
            match self.socket.recv(&mut &mut room[..], 0) {
                Ok(length) => self.take(&room[..length.min(DATAGRAM)], &mut heard),
                Err(error) if errno(&error) == Errno::ENOBUFS => {
                    self.table.lost();
                    self.miss(|_| true);
                }
                Err(_) => break,
            }
            self.ask();
        }
        heard
    }

    /// The guest's link stands for these from now on. What was known of others is forgotten.
    pub fn follow(&mut self, names: Families<String>, links: &Families<u32>) -> Vec<News> {
        if names != self.names {
            (self.names, self.gone) = (names, Families::default());
        }
        let gone = self.move_to(links);
        self.ask();
        gone
    }

    fn take(&mut self, datagram: &[u8], heard: &mut Heard) {
        heard.news.extend(self.table.take(datagram));
        for link in table::links(datagram) {
            match link {
                Link::Gone(index) => {
                    self.miss(|link| link == index);
                }
                Link::There(index, name) => {
                    let links = self.find(index, &name);
                    heard.news.extend(self.move_to(&links));
                    heard.links = Some(links);
                }
            }
        }
    }

    /// Some links are gone, or may be; perhaps there are others of their names already.
    fn miss(&mut self, which: impl Fn(u32) -> bool) {
        let missed = Families {
            v4: self.links.v4.filter(|link| which(*link)).map(drop),
            v6: self.links.v6.filter(|link| which(*link)).map(drop),
        };
        self.gone = Families {
            v4: self.gone.v4.or(missed.v4),
            v6: self.gone.v6.or(missed.v6),
        };
        self.set_filter();
        for name in [&self.names.v4, &self.names.v6].into_iter().flatten() {
            // Who is not told now is told when the link is made.
            let request = table::ask_link(name);
            self.socket.send(&request, 0).unwrap_or_default();
        }
    }

    /// The indexes of the links, now that one of this name is there.
    fn find(&mut self, index: u32, name: &str) -> Families<u32> {
        let mut links = self.links.clone();
        for (wanted, link, gone) in [
            (&self.names.v4, &mut links.v4, &mut self.gone.v4),
            (&self.names.v6, &mut links.v6, &mut self.gone.v6),
        ] {
            if link.is_some() && wanted.as_deref() == Some(name) {
                (*link, *gone) = (Some(index), None);
            }
        }
        links
    }

    /// What was known of another link is forgotten.
    fn move_to(&mut self, links: &Families<u32>) -> Vec<News> {
        let moved = *links != self.links;
        self.links = links.clone();
        self.set_filter();
        if moved {
            self.table.follow(links.clone())
        } else {
            Vec::new()
        }
    }

    /// What the old filter has let through is looked at as well.
    fn set_filter(&self) {
        let mut filter = filter(&self.links, self.gone != Families::default());
        raw::set_filter(self.socket.as_fd(), &mut filter).unwrap_or_default();
    }
}

/// Lets answers through, notices of entries of these links that have or lose an address, that one of these links is
/// gone, and of other links that they are there if `all`. Numbers of messages are in the byte order of this machine, and
/// the filter reads them in that of the network.
fn filter(links: &Families<u32>, all: bool) -> Vec<libc::sock_filter> {
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
        has(half(MULTI), 19, 0),
        load(libc::BPF_H, 4), // type
        is(half(table::ERROR), 17, 0),
        is(half(table::LINK), if all { 16 } else { 15 }, 0),
        is(half(table::LINK_GONE), 11, 0),
        is(half(table::GONE), 3, 0),
        is(half(table::NEW), 0, 12),
        load(libc::BPF_H, 24), // state
        has(half(ASKING), 10, 0),
        load(libc::BPF_B, 16), // family
        is(v4, 0, 2),
        load(libc::BPF_W, 20), // link
        is(link(links.v4), 7, 6),
        is(v6, 0, 5),
        load(libc::BPF_W, 20),
        is(link(links.v6), 4, 3),
        load(libc::BPF_W, 20), // the link that is gone
        is(link(links.v4), 2, 0),
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
