//! Sockets of a worker towards servers, with random ports.
//!
//! Each flight has one of a few, by chance. A socket that has been used for long enough is worn: another takes its
//! place, and it is closed when its flights are over. There are a few places for worn ones; if they are all taken,
//! sockets are used for longer. A number stands for a socket of each family.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::log::Seldom;
use super::worker::FIRST_UPSTREAM;
use crate::forward::{Forwarder, SOCKETS};
use crate::limits;

/// All of a worker's.
#[derive(Debug)]
pub struct Upstreams {
    /// Of IPv4, then of IPv6.
    sockets: [Option<UdpSocket>; 2 * SOCKETS],
    questions: [u32; SOCKETS],
    /// Numbers in use.
    current: [u8; limits::UPSTREAM_SOCKETS as usize],
    /// Numbers of worn sockets.
    worn: Vec<u8>,
    /// Numbers without sockets.
    spare: Vec<u8>,
}

impl Default for Upstreams {
    fn default() -> Self {
        let mut numbers = 0u8..;
        Self {
            sockets: [const { None }; 2 * SOCKETS],
            questions: [0; SOCKETS],
            current: std::array::from_fn(|_| numbers.next().unwrap_or_default()),
            worn: Vec::new(),
            spare: numbers.take(limits::WORN_SOCKETS.into()).collect(),
        }
    }
}

impl Upstreams {
    /// The number of a socket for a new flight.
    pub fn pick(&self, random: u32) -> u8 {
        self.current[random.to_ne_bytes()[0] as usize % self.current.len()]
    }

    /// The place of a socket of a family.
    pub fn number(socket: u8, ipv4: bool) -> usize {
        usize::from(socket) + if ipv4 { 0 } else { SOCKETS }
    }

    /// The socket at a place, if it is open.
    pub fn socket(&self, number: usize) -> Option<&UdpSocket> {
        self.sockets.get(number)?.as_ref()
    }

    /// The same, opened if need be.
    pub fn open(&mut self, number: usize, epoll: &Epoll) -> Option<&UdpSocket> {
        static SAID: Seldom = Seldom::new();
        let place = self.sockets.get_mut(number)?;
        if place.is_none() {
            let any: SocketAddr = if number < SOCKETS {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let opened = UdpSocket::bind(any).and_then(|socket| {
                let data = FIRST_UPSTREAM + number as u64;
                epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, data))?;
                Ok(socket)
            });
            match opened {
                Ok(socket) => *place = Some(socket),
                Err(error) if SAID.now() => {
                    tracing::error!("cannot open a socket to ask servers: {error}");
                }
                Err(_) => {}
            }
        }
        place.as_ref()
    }

    /// Counts questions.
    pub fn used(&mut self, socket: u8, questions: usize) {
        let count = &mut self.questions[usize::from(socket)];
        *count = count.saturating_add(u32::try_from(questions).unwrap_or(u32::MAX));
    }

    /// Closes worn sockets that are not waited for, and takes others in the place of those that are worn now.
    pub fn replace_worn(&mut self, forwarder: &Forwarder) {
        let is_worn = |questions: u32| questions > limits::QUESTIONS_PER_SOCKET;
        if !self.questions.iter().copied().any(is_worn) {
            return;
        }
        let (idle, busy) = self.worn.iter().partition(|n| forwarder.is_idle(**n));
        self.worn = busy;
        let idle: Vec<u8> = idle;
        for socket in idle {
            for ipv4 in [true, false] {
                self.sockets[Self::number(socket, ipv4)] = None;
            }
            self.questions[usize::from(socket)] = 0;
            self.spare.push(socket);
        }
        for current in &mut self.current {
            if is_worn(self.questions[usize::from(*current)])
                && let Some(spare) = self.spare.pop()
            {
                self.worn.push(std::mem::replace(current, spare));
            }
        }
    }
}
