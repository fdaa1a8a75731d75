//! Name servers that do what a test tells them, and remember who asked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike};

use crate::message::{A, Message, Query, Reply};

/// A question as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) tcp: bool,
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) at: Instant,
    /// How many came before it.
    pub(crate) number: usize,
}

impl Asked {
    pub(crate) fn message(&self) -> Message {
        Message::read(&self.bytes).expect("the program asks well-formed questions")
    }

    pub(crate) fn name(&self) -> String {
        self.message().questions[0].name.clone()
    }

    /// An address for questions of type A, else nothing.
    pub(crate) fn answer(&self, address: &str) -> Vec<u8> {
        let reply = Reply::to(&self.bytes);
        if self.message().questions[0].kind == A {
            reply.a(300, address).bytes()
        } else {
            reply.bytes()
        }
    }
}

/// What to send for a question.
#[derive(Clone, Debug)]
pub(crate) enum Do {
    Nothing,
    Send(Vec<u8>),
    /// Several messages, one after the other.
    SendAll(Vec<Vec<u8>>),
    /// From another address than the one that was asked.
    SendFrom(SocketAddr, Vec<u8>),
    Later(Duration, Vec<u8>),
    /// TCP only: end the connection.
    Close,
}

/// Serves UDP and TCP at one address until dropped.
#[derive(Debug)]
pub(crate) struct Upstream {
    log: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Upstream {
    /// Answers every A question with `address` and all others with nothing.
    pub(crate) fn answering(at: &str, address: &'static str) -> Result<Self> {
        Self::start(at, move |asked| Do::Send(asked.answer(address)))
    }

    pub(crate) fn silent(at: &str) -> Result<Self> {
        Self::start(at, |_| Do::Nothing)
    }

    /// Answers all questions with a code and no records.
    pub(crate) fn refusing(at: &str, rcode: u8) -> Result<Self> {
        Self::start(at, move |asked| {
            Do::Send(Reply::to(&asked.bytes).rcode(rcode).bytes())
        })
    }

    pub(crate) fn start(
        at: &str,
        script: impl Fn(&Asked) -> Do + Send + Sync + 'static,
    ) -> Result<Self> {
        let (address, _zone) = at.split_once('%').unwrap_or((at, ""));
        let address: IpAddr = address.parse().context("address of the upstream")?;
        Self::start_at((address, 53).into(), script)
    }

    pub(crate) fn start_at(
        at: SocketAddr,
        script: impl Fn(&Asked) -> Do + Send + Sync + 'static,
    ) -> Result<Self> {
        let udp = UdpSocket::bind(at).with_context(|| format!("upstream at {at}"))?;
        let tcp = TcpListener::bind(at).with_context(|| format!("upstream at {at}"))?;
        setsockopt(&udp, ReceiveTimeout, &TimeVal::milliseconds(20))?;
        setsockopt(&tcp, ReceiveTimeout, &TimeVal::milliseconds(20))?;
        let mut upstream = Self {
            log: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let (script, log, stop) = (Arc::new(script), &upstream.log, &upstream.stop);
        upstream.threads = vec![
            {
                let (script, log, stop) = (Arc::clone(&script), Arc::clone(log), Arc::clone(stop));
                thread::spawn(move || serve_udp(&udp, &*script, &log, &stop))
            },
            {
                let (log, stop) = (Arc::clone(log), Arc::clone(stop));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok((stream, from)) = tcp.accept() {
                            let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                            thread::spawn(move || serve_tcp(stream, from, &*script, &log).ok());
                        }
                    }
                })
            },
        ];
        Ok(upstream)
    }

    /// All questions so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.lock().expect("no holder panics").clone()
    }

    /// How many questions for the name came.
    pub(crate) fn count(&self, name: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| {
                asked
                    .name()
                    .trim_end_matches('.')
                    .eq_ignore_ascii_case(name)
            })
            .count()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok(); // its panic has been printed
        }
    }
}

fn record(log: &Mutex<Vec<Asked>>, tcp: bool, from: SocketAddr, bytes: &[u8]) -> Asked {
    let mut log = log.lock().expect("no holder panics");
    let asked = Asked {
        tcp,
        from,
        bytes: bytes.to_vec(),
        at: Instant::now(),
        number: log.len(),
    };
    log.push(asked.clone());
    asked
}

fn serve_udp(
    socket: &UdpSocket,
    script: &(dyn Fn(&Asked) -> Do + Send + Sync),
    log: &Mutex<Vec<Asked>>,
    stop: &AtomicBool,
) {
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let asked = record(log, false, from, &buffer[..length]);
        // Whoever asked may have gone: nothing here fails.
        match script(&asked) {
            Do::Nothing | Do::Close => {}
            Do::Send(bytes) => drop(socket.send_to(&bytes, from)),
            Do::SendAll(all) => {
                for bytes in all {
                    socket.send_to(&bytes, from).ok();
                }
            }
            Do::SendFrom(source, bytes) => {
                if let Ok(other) = UdpSocket::bind(source) {
                    other.send_to(&bytes, from).ok();
                }
            }
            Do::Later(delay, bytes) => {
                let socket = socket.try_clone().expect("a descriptor is free");
                thread::spawn(move || {
                    thread::sleep(delay);
                    socket.send_to(&bytes, from).ok();
                });
            }
        }
    }
}

fn serve_tcp(
    mut stream: TcpStream,
    from: SocketAddr,
    script: &(dyn Fn(&Asked) -> Do + Send + Sync),
    log: &Mutex<Vec<Asked>>,
) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    loop {
        let bytes = read_framed(&mut stream)?;
        let asked = record(log, true, from, &bytes);
        match script(&asked) {
            Do::Nothing => {}
            Do::Close => return Ok(()),
            Do::Send(bytes) | Do::SendFrom(_, bytes) => write_framed(&mut stream, &bytes)?,
            Do::SendAll(all) => {
                for bytes in all {
                    write_framed(&mut stream, &bytes)?;
                }
            }
            Do::Later(delay, bytes) => {
                thread::sleep(delay);
                write_framed(&mut stream, &bytes)?;
            }
        }
    }
}

/// A message behind its length, as TCP carries them.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message has at most 64 KiB");
    [&length.to_be_bytes(), message].concat()
}

pub(crate) fn write_framed(stream: &mut TcpStream, message: &[u8]) -> Result<()> {
    Ok(stream.write_all(&framed(message))?)
}

pub(crate) fn read_framed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// An open TCP connection to the program.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
}

impl Connection {
    pub(crate) fn send(&mut self, query: &Query) -> Result<()> {
        write_framed(&mut self.stream, &query.bytes())
    }

    pub(crate) fn receive(&mut self) -> Result<Message> {
        Message::read(&read_framed(&mut self.stream)?)
    }

    /// How long until the other end closes; what it sends before is thrown away.
    pub(crate) fn closed_after(&mut self, limit: Duration) -> Result<Duration> {
        let begin = Instant::now();
        self.stream.set_read_timeout(Some(limit))?;
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(begin.elapsed()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(begin.elapsed());
                }
                Err(error) => return Err(error).context("the connection stays open"),
            }
        }
    }
}
