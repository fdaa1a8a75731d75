//! Applies transactions to the nftables of the current network namespace, and asks what is there.
//!
//! # Why nothing here can wait
//!
//! nfnetlink does its work inside `send`: when the call returns, every answer is in our receive queue already (a dump
//! goes on inside `recv`, again without waiting). So we only ever receive with `MSG_DONTWAIT`, and an empty queue means
//! that nothing more will come. No time-out, no thread.
//!
//! # Which answer means success
//!
//! Only refused messages are answered of their own accord, in order, so the first answer names the first culprit. A
//! batch that the kernel threw away as malformed is answered by silence, though. Therefore the last command asks for
//! an acknowledgement (those of `NFNL_MSG_BATCH_BEGIN` and `_END` exist only since Linux 6.10), and success is: no
//! error, and that acknowledgement. Should errors overflow the receive queue (`ENOBUFS`), the first ones are kept.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};

use netlink_packet_core::{
    DefaultNla, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, Nla, NlasIterator, Parseable,
    ParseableParametrized,
};
use netlink_packet_netfilter::nftables::{ChainAttribute, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::nft::elements::{self, Identity};
use crate::nft::foreign::{DropChain, drop_chain};
use crate::nft::listing::{self, Chain, Element, Rule, Table};
use crate::nft::netlink::{
    Batch, all_chains_dump, all_rules_dump, any_element_dump, chain_dump, chain_request,
    element_dump, encode, table_request,
};
use crate::nft::notice::messages;
use crate::nft::{EncodeError, Transaction, text};

/// Bytes of answers that may be queued. Each takes a page, however short; see [`CHAINS_PER_SEND`].
const RECEIVE_BUFFER: usize = 8 << 20;

/// Questions asked at once, so that the answers fit into half of [`RECEIVE_BUFFER`].
const CHAINS_PER_SEND: usize = 512;

/// The longest datagram of answers: dumps come in up to 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// Tries of a dump that was interrupted by somebody else's change.
const DUMP_TRIES: usize = 10;

/// Why nftables could not be changed or asked.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The transaction has no netlink form; nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The kernel refused a command; nothing was changed.
    #[error("nftables refused `{command}`: {}{}", errno.desc(), in_brackets(message.as_deref()))]
    Refused {
        /// The first command that was refused, as text.
        command: String,
        /// What the kernel says.
        errno: Errno,
        /// What the kernel adds in words, seldom.
        message: Option<String>,
    },
    /// The kernel answered neither with an error nor with success.
    #[error("no answer from nftables")]
    NoAnswer,
    /// A system call failed.
    #[error("{step}")]
    Socket {
        /// What was tried.
        step: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// The program `nft` reported an error; nothing was changed.
    #[error("nft: {stderr}")]
    Program {
        /// Its words.
        stderr: String,
    },
}

impl NftError {
    /// The error of the kernel, when it is the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Encode(_) | Self::NoAnswer | Self::Socket { .. } | Self::Program { .. } => None,
        }
    }
}

/// A connection to the nftables of the network namespace in which it was opened.
pub struct NftSocket {
    socket: Socket,
    sequence: u32,
    send_buffer: usize,
}

impl std::fmt::Debug for NftSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NftSocket")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl NftSocket {
    /// Connects to the network namespace of the calling thread.
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open a netfilter socket"))?;
        // Connected, the socket takes messages from nobody but the kernel.
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect the netfilter socket"))?;
        socket
            .set_ext_ack(true)
            .map_err(failed("ask for errors in words"))?;
        socket
            .set_cap_ack(true)
            .map_err(failed("ask for short errors"))?;
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
                .map_err(|errno| failed("enlarge the receive buffer")(errno.into()))?;
        }
        Ok(Self {
            socket,
            sequence: 1,
            send_buffer: 0,
        })
    }

    /// Makes all changes of a transaction, or none.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        let batch = encode(transaction, self.sequence)?;
        let Some(last) = batch.acknowledged() else {
            return Ok(());
        };
        self.sequence = batch.next_sequence();
        self.send(batch.bytes())?;
        let mut refusal = None;
        let mut acknowledged = false;
        let all_received = self.receive(|answer| match answer {
            Answer::Error {
                sequence,
                errno,
                message,
            } => {
                refusal.get_or_insert((sequence, errno, message));
            }
            Answer::Acknowledged { sequence } => acknowledged |= sequence == last,
            Answer::Chain { .. }
            | Answer::Elements { .. }
            | Answer::Done { .. }
            | Answer::Other => {}
        })?;
        match refusal {
            Some((sequence, errno, message)) => Err(NftError::Refused {
                command: command_text(transaction, &batch, sequence),
                errno,
                message,
            }),
            None if acknowledged && all_received => Ok(()),
            None => Err(NftError::NoAnswer),
        }
    }

    /// How many rules each chain of `inet` `table` has, plus how many references there are to it; `None` for a chain
    /// that does not exist. One question a chain, all sent at once; no dump.
    pub fn chain_uses(
        &mut self,
        table: &str,
        names: &[&str],
    ) -> Result<Vec<Option<u32>>, NftError> {
        let mut uses = Vec::with_capacity(names.len());
        for names in names.chunks(CHAINS_PER_SEND) {
            uses.extend(self.some_chain_uses(table, names)?);
        }
        Ok(uses)
    }

    fn some_chain_uses(
        &mut self,
        table: &str,
        names: &[&str],
    ) -> Result<Vec<Option<u32>>, NftError> {
        let first = self.sequence;
        let mut bytes = Vec::new();
        for name in names {
            bytes.extend(chain_request(table, name, self.sequence));
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.send(&bytes)?;
        let mut answers: Vec<Option<Result<u32, Errno>>> = vec![None; names.len()];
        let mut answer = |sequence: u32, with| {
            let index = usize::try_from(sequence.wrapping_sub(first)).ok();
            if let Some(slot) = index.and_then(|index| answers.get_mut(index)) {
                *slot = Some(with);
            }
        };
        self.receive(|received| match received {
            Answer::Chain { sequence, uses, .. } => answer(sequence, Ok(uses)),
            Answer::Error {
                sequence, errno, ..
            } => answer(sequence, Err(errno)),
            Answer::Acknowledged { .. }
            | Answer::Elements { .. }
            | Answer::Done { .. }
            | Answer::Other => {}
        })?;
        let use_of = |(answer, name): (Option<Result<u32, Errno>>, &&str)| match answer {
            Some(Ok(uses)) => Ok(Some(uses)),
            Some(Err(Errno::ENOENT)) => Ok(None),
            Some(Err(errno)) => Err(refused(format!("list chain inet {table} {name}"), errno)),
            None => Err(NftError::NoAnswer),
        };
        answers.into_iter().zip(names).map(use_of).collect()
    }

    /// The names of all chains of `inet` `table`, none when there is no such table.
    pub fn chain_names(&mut self, table: &str) -> Result<Vec<String>, NftError> {
        for _ in 0..DUMP_TRIES {
            if let Some(names) = self.try_chain_names(table)? {
                return Ok(names);
            }
        }
        Err(refused("list chains inet".to_owned(), Errno::EINTR))
    }

    /// `None` when the chains changed while they were listed.
    fn try_chain_names(&mut self, wanted: &str) -> Result<Option<Vec<String>>, NftError> {
        let bytes = chain_dump(self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&bytes)?;
        let mut names = Vec::new();
        let mut end = None;
        let mut intact = true;
        self.receive(|answer| match answer {
            Answer::Chain {
                table,
                name,
                interrupted,
                ..
            } => {
                intact &= !interrupted;
                if table == wanted {
                    names.push(name);
                }
            }
            Answer::Done { interrupted } => {
                intact &= !interrupted;
                end = Some(Ok(()));
            }
            Answer::Error { errno, .. } => end = Some(Err(errno)),
            Answer::Acknowledged { .. } | Answer::Elements { .. } | Answer::Other => {}
        })?;
        match end {
            Some(Ok(())) => Ok(intact.then_some(names)),
            Some(Err(errno)) => Err(refused("list chains inet".to_owned(), errno)),
            None => Err(NftError::NoAnswer),
        }
    }

    /// The kernel's elements of a set; `None` when there is no such set.
    pub fn elements(
        &mut self,
        table: &str,
        set: &str,
    ) -> Result<Option<BTreeSet<Identity>>, NftError> {
        for _ in 0..DUMP_TRIES {
            let bytes = element_dump(table, set, self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            self.send(&bytes)?;
            let (mut elements, mut intact, mut end) = (BTreeSet::new(), true, None);
            self.receive(|answer| match answer {
                Answer::Elements { some, interrupted } => {
                    intact &= !interrupted;
                    elements.extend(some);
                }
                Answer::Done { interrupted } => {
                    intact &= !interrupted;
                    end = Some(Ok(()));
                }
                Answer::Error { errno, .. } => end = Some(Err(errno)),
                Answer::Acknowledged { .. } | Answer::Chain { .. } | Answer::Other => {}
            })?;
            match end {
                Some(Ok(())) if intact => return Ok(Some(elements)),
                Some(Ok(())) => {}
                Some(Err(Errno::ENOENT)) => return Ok(None),
                Some(Err(errno)) => {
                    return Err(refused(format!("list set inet {table} {set}"), errno));
                }
                None => return Err(NftError::NoAnswer),
            }
        }
        Err(refused(
            format!("list set inet {table} {set}"),
            Errno::EINTR,
        ))
    }

    /// Base chains with the policy to drop, but for those of these tables.
    pub fn drop_chains(&mut self, known: &[&str]) -> Result<Vec<DropChain>, NftError> {
        let bytes = all_chains_dump(self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&bytes)?;
        let mut chains = Vec::new();
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => chains
                    .extend(messages(&buffer).filter_map(|message| drop_chain(message, known))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(chains),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("list chains of nftables")(error)),
            }
        }
    }

    /// All chains and all rules of everybody.
    pub fn listing(&mut self) -> Result<(Vec<Chain>, Vec<Rule>), NftError> {
        let chains = self.dump(all_chains_dump, listing::chain)?;
        let rules = self.dump(all_rules_dump, listing::rule)?;
        Ok((chains, rules))
    }

    /// The elements of a set of anybody; `None` if there is no such set, or it has more than this.
    pub fn elements_of(
        &mut self,
        table: &Table,
        set: &str,
        most: usize,
    ) -> Result<Option<Vec<Element>>, NftError> {
        let question = |sequence| any_element_dump(table.0.0, &table.1, set, sequence);
        let lists = match self.dump(question, listing::elements) {
            Ok(lists) => lists,
            Err(NftError::Refused {
                errno: Errno::ENOENT,
                ..
            }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let elements: Vec<Element> = lists.into_iter().flat_map(|(_, list)| list).collect();
        Ok((elements.len() <= most).then_some(elements))
    }

    /// What is listed in answer to a question.
    fn dump<T>(
        &mut self,
        question: impl Fn(u32) -> Vec<u8>,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NftError> {
        for _ in 0..DUMP_TRIES {
            let bytes = question(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            self.send(&bytes)?;
            if let Some(found) = self.listed(&read)? {
                return Ok(found);
            }
        }
        Err(refused("list".to_owned(), Errno::EINTR))
    }

    /// `None` when what is listed changed meanwhile.
    fn listed<T>(&self, read: impl Fn(&[u8]) -> Option<T>) -> Result<Option<Vec<T>>, NftError> {
        let (mut found, mut intact) = (Vec::new(), true);
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {
                    for message in messages(&buffer) {
                        if let Some(errno) = error_of(message) {
                            return Err(refused("list".to_owned(), errno));
                        }
                        intact &= flags_of(message) & DUMP_INTERRUPTED == 0;
                        found.extend(read(message));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(intact.then_some(found));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => intact = false,
                Err(error) => return Err(failed("list nftables")(error)),
            }
        }
    }

    /// Has the kernel look whether it would take a transaction, without making its changes: a batch without an end is
    /// validated and thrown away. Modules that it takes are loaded.
    pub fn check(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        /// Octets of `NFNL_MSG_BATCH_END`.
        const END: usize = 16 + 4;
        let batch = encode(transaction, self.sequence)?;
        self.sequence = batch.next_sequence();
        let bytes = batch.bytes();
        self.send(
            bytes
                .get(..bytes.len().saturating_sub(END))
                .unwrap_or_default(),
        )?;
        let mut refusal = None;
        self.receive(|answer| {
            if let Answer::Error {
                sequence,
                errno,
                message,
            } = answer
            {
                refusal.get_or_insert((sequence, errno, message));
            }
        })?;
        match refusal {
            Some((sequence, errno, message)) => Err(NftError::Refused {
                command: command_text(transaction, &batch, sequence),
                errno,
                message,
            }),
            None => Ok(()),
        }
    }

    /// Whether there is a table `inet` `table`.
    pub fn table_exists(&mut self, table: &str) -> Result<bool, NftError> {
        let bytes = table_request(table, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&bytes)?;
        let mut exists = None;
        self.receive(|answer| match answer {
            Answer::Error { errno, .. } => exists = Some(Err(errno)),
            Answer::Other => exists = Some(Ok(())),
            Answer::Acknowledged { .. }
            | Answer::Chain { .. }
            | Answer::Elements { .. }
            | Answer::Done { .. } => {}
        })?;
        match exists {
            Some(Ok(())) => Ok(true),
            Some(Err(Errno::ENOENT)) => Ok(false),
            Some(Err(errno)) => Err(refused(format!("list table inet {table}"), errno)),
            None => Err(NftError::NoAnswer),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        // The kernel takes 32 bytes off, and doubles what it is asked for.
        if bytes.len() > self.send_buffer {
            if setsockopt(&self.socket, sockopt::SndBufForce, &bytes.len()).is_err() {
                setsockopt(&self.socket, sockopt::SndBuf, &bytes.len())
                    .map_err(|errno| failed("enlarge the send buffer")(errno.into()))?;
            }
            self.send_buffer = bytes.len();
        }
        self.socket
            .send(bytes, 0)
            .map_err(failed("send to nftables"))?;
        Ok(())
    }

    /// Takes everything out of the queue; tells whether nothing was lost.
    fn receive(&self, mut take: impl FnMut(Answer)) -> Result<bool, NftError> {
        let mut complete = true;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => answers(&buffer, &mut take)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(complete),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => complete = false,
                Err(error) => return Err(failed("receive from nftables")(error)),
            }
        }
    }
}

/// The kernel's elements that a transaction adds, in its order.
pub fn identities(transaction: &Transaction) -> Result<Vec<Identity>, NftError> {
    let batch = encode(transaction, 1)?;
    let lists = messages(batch.bytes()).filter_map(elements::identities);
    Ok(lists.flatten().collect())
}

/// Hands a transaction to the program `nft`, for hosts on which the kernel does not take our batches.
///
/// As a script, not as JSON: nft 1.0.6 reads the JSON of a map whose data is a concatenation as that of a set.
pub fn apply_with_program(nft: &Path, transaction: &Transaction) -> Result<(), NftError> {
    // The encoder is stricter than a script: a value it accepts cannot be read as anything else.
    encode(transaction, 1)?;
    let mut child = Process::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("run nft"))?;
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(text::script(transaction).as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(failed("wait for nft"))?;
    if !output.status.success() {
        // Its own words say more than a broken pipe.
        return Err(NftError::Program {
            stderr: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        });
    }
    written.map_err(failed("write to nft"))
}

/// One message from the kernel.
enum Answer {
    Error {
        sequence: u32,
        errno: Errno,
        message: Option<String>,
    },
    Acknowledged {
        sequence: u32,
    },
    Chain {
        sequence: u32,
        table: String,
        name: String,
        uses: u32,
        interrupted: bool,
    },
    Elements {
        some: Vec<Identity>,
        interrupted: bool,
    },
    Done {
        interrupted: bool,
    },
    Other,
}

/// `NLM_F_DUMP_INTR`: what is listed changed in between.
const DUMP_INTERRUPTED: u16 = 0x10;

/// The error that a message tells of.
fn error_of(message: &[u8]) -> Option<Errno> {
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let code = i32::from_ne_bytes(*message.get(16..)?.first_chunk()?);
    (kind == NLMSG_ERROR && code != 0).then(|| Errno::from_raw(code.wrapping_neg()))
}

fn flags_of(message: &[u8]) -> u16 {
    let flags = message.get(6..).and_then(<[u8]>::first_chunk);
    flags.map_or(0, |flags| u16::from_ne_bytes(*flags))
}

/// All messages of one datagram.
fn answers(mut bytes: &[u8], take: &mut impl FnMut(Answer)) -> Result<(), NftError> {
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes).map_err(malformed)?;
        let len = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let whole = bytes.get(..len).unwrap_or_default();
        take(match elements::identities(whole) {
            Some(some) => Answer::Elements {
                some,
                interrupted: message.flags() & DUMP_INTERRUPTED != 0,
            },
            None => answer(&message)?,
        });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

fn answer(message: &NetlinkBuffer<&[u8]>) -> Result<Answer, NftError> {
    let interrupted = message.flags() & DUMP_INTERRUPTED != 0;
    let sequence = message.sequence_number();
    match message.message_type() {
        NLMSG_ERROR => Ok(error_answer(sequence, message)),
        NLMSG_DONE => Ok(Answer::Done { interrupted }),
        kind => {
            let parsed =
                NetfilterMessage::parse_with_param(message.payload(), kind).map_err(malformed)?;
            let NetfilterMessageInner::NfTables(message) = parsed.inner else {
                return Ok(Answer::Other);
            };
            if let NfTablesMessage::NewChain(chain) = message {
                Ok(chain_answer(sequence, interrupted, chain.attributes))
            } else {
                Ok(Answer::Other)
            }
        }
    }
}

fn chain_answer(sequence: u32, interrupted: bool, attributes: Vec<ChainAttribute>) -> Answer {
    let (mut of_table, mut of_chain, mut count) = (String::new(), String::new(), 0);
    for attribute in attributes {
        if let ChainAttribute::Table(table) = attribute {
            of_table = table;
        } else if let ChainAttribute::Name(name) = attribute {
            of_chain = name;
        } else if let ChainAttribute::Use(uses) = attribute {
            count = uses;
        }
    }
    Answer::Chain {
        sequence,
        table: of_table,
        name: of_chain,
        uses: count,
        interrupted,
    }
}

/// `struct nlmsgerr`: an error number below zero, the header of what was refused, and attributes.
fn error_answer(sequence: u32, message: &NetlinkBuffer<&[u8]>) -> Answer {
    /// Bytes of the error number and the header; `NLMSGERR_ATTR_MSG`.
    const CODE: usize = 4;
    const FIXED: usize = 20;
    const WORDS: u16 = 1;
    let payload = message.payload();
    let code = payload
        .first_chunk::<CODE>()
        .map_or(-libc::EIO, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 {
        return Answer::Acknowledged { sequence };
    }
    let words = NlasIterator::new(payload.get(FIXED..).unwrap_or_default())
        .filter_map(|attribute| DefaultNla::parse(&attribute.ok()?).ok())
        .find(|attribute| attribute.kind() == WORDS)
        .map(|attribute| {
            let mut bytes = vec![0; attribute.value_len()];
            attribute.emit_value(&mut bytes);
            String::from_utf8_lossy(&bytes)
                .trim_end_matches('\0')
                .to_owned()
        });
    Answer::Error {
        sequence,
        errno: Errno::from_raw(code.wrapping_neg()),
        message: words,
    }
}

fn command_text(transaction: &Transaction, batch: &Batch, sequence: u32) -> String {
    let command = batch
        .command_of(sequence)
        .and_then(|index| transaction.commands().get(index));
    match command {
        Some(command) => text::summary(transaction.schema(), command),
        None => "the whole transaction".to_owned(),
    }
}

fn in_brackets(message: Option<&str>) -> String {
    message
        .map(|message| format!(" ({message})"))
        .unwrap_or_default()
}

fn refused(command: String, errno: Errno) -> NftError {
    NftError::Refused {
        command,
        errno,
        message: None,
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> NftError {
    move |source| NftError::Socket { step, source }
}

fn malformed(error: netlink_packet_core::DecodeError) -> NftError {
    failed("read an answer of nftables")(io::Error::new(io::ErrorKind::InvalidData, error))
}
