//! The userspace forwarder of rootless containers: frames of a guest on one side, ordinary sockets on the other.
//!
//! # Words
//!
//! *Host*: the network namespace we were started in. *Guest*: the container's network namespace. *Tap*: the link between
//! the two, whose far end is us. *Flow*: one TCP connection, one pair of UDP endpoints, or one echo identifier, with two
//! ends. *Splice*: a flow whose two ends are sockets, one in each namespace; it never touches the tap.
//!
//! # How it works
//!
//! ```text
//!   guest kernel ──frames──▶ sys::tap ──Event──▶ ┌───────────┐ ──Output──▶ sys::socket ──▶ host kernel
//!                ◀──────────           ◀──Output─│ Forwarder │◀─Event────              ◀──
//!                                                └───────────┘
//!                                       pure: no clock, no descriptor, no system call
//! ```
//!
//! [`forwarder::Forwarder`] decides; `sys` does. The shell gives it one [`event::Event`] after the other, with the time,
//! and does every [`event::Output`] it then finds in `poll`, in order. Some outputs have an answer (how many bytes did
//! the socket take?), which is the next event. `deadline` tells when to come back if nothing happens.
//!
//! The forwarder never holds a payload it can leave elsewhere. Bytes of a frame or of a socket stay in the shell's
//! *arena*, and outputs name them as [`event::Span`]s: "these bytes behind this header". Bytes from the host to the guest
//! stay in the kernel's socket buffer, peeked at, until the guest has acknowledged them. The exceptions are bounded and
//! listed in [`limits`]: segments that came out of order or that a full socket did not take.
//!
//! No checksum of a payload is computed: frames cross the tap with a virtio header, so that both kernels treat us as a
//! network card that computes checksums and cuts 64 kB segments into packets ([`event::Offload`]).
//!
//! The tap is one link. A second one (kernel sockets in a gateway namespace, which accept the guest's connections
//! transparently) gives the forwarder connections instead of frames: flows with two sockets, as the splice has them.
//!
//! # Start
//!
//! [`cli`] understands the words, `sys` reads what the host is like ([`config::Facts`]), [`config`] decides everything
//! that follows from both ([`config::Config`]), and `sys` attaches to the guest, configures it, binds what shall be
//! bound, locks itself in, and says that it is ready by ending the process that was called.
//!
//! # Modules, in reading order
//!
//! - [`event`]: what the shell tells the core and what the core asks of the shell.
//! - [`cli`], [`ports`]: the words of the command line, and the specifications of ports.
//! - [`config`]: what the user and the host want of one run.
//! - [`control`]: how a client of the control socket changes what is listened on.
//! - [`limits`]: every bound.
//! - [`addr`], [`names`]: endpoints of both sides, the translation between them, and the host's name servers.
//! - [`flow`], [`deadlines`]: the table of flows, and when to look at which again.
//! - [`packet`]: reading packets where they lie, and making headers.
//! - [`neighbours`], [`local`]: the host's neighbours, and what we answer ourselves: ARP, neighbour discovery, DHCP.
//! - [`heard`], [`stations`]: how quickly the guest's addresses are believed, and those of its link.
//! - [`tcp`], [`splice`]: connections of the tap, and between sockets.
//! - [`fragments`], [`sources`], [`sharers`], [`groups`], [`udp`], [`icmp`]: datagrams and echoes.
//! - [`forwarder`]: what happens on which event.
//! - [`stats`], [`account`]: what is counted, and the answer to who asks.
//! - [`log`], [`trace`], [`pcap`]: how messages, lines about frames, and captures look.
//! - [`sys`]: everything that touches the operating system; [`sys::run`] is the whole program.
//!
//! # What is not there yet
//!
//! The command line of slirp4netns is refused. Of a host that has a network already, other addresses and routes do not
//! reach the guest; other name servers do.

pub mod event;
pub mod cli;
pub mod ports;
pub mod config;
pub mod control;
pub mod cut;
pub mod limits;
pub mod addr;
pub mod names;
pub mod flow;
pub mod deadlines;
pub mod packet;
pub mod neighbours;
pub mod local;
pub mod heard;
pub mod stations;
pub mod tcp;
pub mod splice;
pub mod fragments;
pub mod sources;
pub mod sharers;
pub mod groups;
pub mod udp;
pub mod icmp;
pub mod forwarder;
pub mod stats;
pub mod account;
pub mod log;
pub mod trace;
pub mod pcap;
pub mod sys;
