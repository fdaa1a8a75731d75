//! Every bound, with its unit and its reason. What grows is bounded here or it is a bug.

use std::ops::Range;
use std::time::Duration;

/// Flows at most, if the limit of descriptors allows more. The table's keys fit in 24 bits with room to spare.
pub const FLOWS: u32 = 131_072;

/// Descriptors of a connection between two sockets: those, and a pipe each way while much is said. Any other flow has
/// one.
pub const SPLICE_DESCRIPTORS: u32 = 6;

/// Descriptors that flows have at least: with fewer there is no start. A few connections of any kind.
pub const FLOW_DESCRIPTORS: u64 = 16;

/// TCP flows whose handshake is not finished, at most. A flood of SYNs evicts its own oldest ones, not the flows that
/// work; each holds a connecting socket of the host.
pub const HALF_OPEN: u32 = 2_048;

/// Flows that the guest may begin at once without an answer to any of them. Each costs half a dozen system calls, and
/// while they are made the guest's other frames overflow its queue.
pub const UNANSWERED: u32 = 2 * HALF_OPEN;

/// And how many more each second. An answer makes up for its flow, so that only floods and scans are slowed down: a tenth
/// of a processor.
pub const UNANSWERED_PER_SECOND: u32 = 4_000;

/// UDP flows that share a port ([`crate::sharers`]). With so many, to make, bind, connect and close a socket more takes
/// 12 microseconds instead of 8, with four times as many 32.
pub const SHARERS: usize = 1_024;

/// Of those, how many are looked at for one that gives way.
pub const SHARERS_SEEN: usize = 16;

/// How long an address of the guest, of its link or of IP, is silent before another one takes its place.
pub const SILENCE: Duration = Duration::from_millis(200);

/// The guest's IP addresses whose link-layer address is known beyond that of their flows: looked through at every packet.
pub const STATIONS: usize = 16;

/// Streams that are told of their lane when the link gets several: as many as the kernel remembers (`MAX_TAP_FLOWS`,
/// drivers/net/tun.c).
pub const LANES_SHOWN: usize = 4_096;

/// Flows that the guest may begin in a millisecond, answered or not, while flows that are under way suffer from what
/// others send ([`crate::forwarder::Forwarder::set_crowded`]): a tenth of a processor, too.
pub const BEGUN_CROWDED: u32 = 4;
/// And how many of them at once: what opens a page of a site.
pub const BEGUN_CROWDED_AT_ONCE: u32 = 64;

/// Slots of the flow table that are allocated together: about 20 kB, so that an idle forwarder stays small.
pub const SLAB: usize = 64;

/// A stream that was idle for so long may give way to a new flow when the table is full. Shorter than a keep-alive probe
/// makes no sense; below it, new flows are refused instead.
pub const STREAM_EVICTABLE: Duration = Duration::from_secs(60);

/// How exactly the time of a flow's last use is kept: moving it to the end of its list at every packet would cost
/// three cache lines a packet.
pub const USE_GRAIN: Duration = Duration::from_secs(1);

/// Bytes of payload asked of sockets in one round, all flows together, before anybody else is heard. Sixteen of the
/// largest frames: enough that a round costs less than its system calls, and what the shell's arena can hold.
pub const ROUND_BYTES: u32 = 1 << 20;

/// Bytes that one flow gives the guest before the next one has its turn: each turn wakes another reader.
pub const TURN_BYTES: u32 = 256 << 10;

/// The largest IP packet, bytes, headers included: what a frame with segmentation offload may carry.
pub const IP_MAX: u32 = 65_535;

/// What the guest may send ahead of the host's socket at first, bytes. The guest is microseconds away: this is more than
/// it sends between two of our rounds.
pub const WINDOW_START: u32 = 256 << 10;

/// And at most, bytes, while the socket takes all of it: a round of a busy machine.
pub const WINDOW_MAX: u32 = 4 << 20;

/// A window that is less, bytes, is told anew when it opens; so is one of less than one of the guest's
/// segments.
pub const WINDOW_LITTLE: u32 = WINDOW_START / 8;

/// Bytes kept for sockets that did not take them and for gaps in sequences, all flows together. Above it segments are
/// dropped as if they had been lost.
pub const KEPT_BYTES: usize = 64 << 20;

/// Above it, flows that keep bytes for sockets that take none are reset, the oldest first: else a few hundred peers that
/// do not read would leave no window to anybody.
pub const KEPT_CROWDED: usize = KEPT_BYTES / 4 * 3;

/// Flows that keep less than this do not matter then, bytes.
pub const STALLED_BYTES: usize = 16 << 10;

/// And those do not whose socket took something within this time.
pub const STALLED_FOR: Duration = Duration::from_secs(1);

/// Flows that are reset for that reason in one round, at most.
pub const STALLED_ENDED: usize = 16;

/// Bytes kept in one piece: what one write of a kept piece may leave to be copied again.
pub const KEPT_PIECE: usize = 64 << 10;

/// Segments behind a gap, at most, for each flow: tiny segments cost more than their bytes.
pub const GAPS: usize = 128;

/// The scale of the windows we advertise (RFC 7323): 65535 << 7 is the first beyond [`WINDOW_MAX`].
pub const WINDOW_SCALE: u8 = 7;

/// The segment size assumed of a guest that said none (RFC 9293, 3.7.1), bytes, IPv4 and IPv6.
pub const MSS_DEFAULT: (u16, u16) = (536, 1_220);

/// Segment sizes of the guest's that the host's side is held to, bytes, IPv4 and IPv6: smaller than Ethernet's, and not
/// smaller than what everybody takes.
pub const MSS_PASSED_ON: (Range<u16>, Range<u16>) = (536..1_460, 1_220..1_440);

/// Segments are not made smaller than this whatever the guest says, bytes: a frame for every byte would be an attack on
/// ourselves.
pub const MSS_MIN: u16 = 64;

/// Acknowledgements wait for company so long: below the 40 ms at which Nagle's algorithm in the guest becomes a delay that
/// people notice, and long enough for an answer from the host's own network.
pub const ACK_DELAY: Duration = Duration::from_millis(4);

/// Bytes that are acknowledged at the end of the round they came in.
pub const ACK_BYTES: u32 = 8 << 10;

/// Acknowledged bytes that may stay in a socket, if a quarter of what is outstanding is not more. A request's bytes are
/// discarded together with later ones.
pub const DISCARD_BYTES: u32 = 16 << 10;

/// Acknowledged bytes stay in a socket no longer than this after the guest's last acknowledgement: a socket with a small
/// buffer would stall its peer.
pub const DISCARD_DELAY: Duration = Duration::from_millis(10);

/// Peeks after which acknowledged bytes are discarded, however few: each small segment takes most of a kilobyte of the
/// socket's buffer.
pub const DISCARD_PEEKS: u8 = 16;

/// First retransmission of a SYN (RFC 6298, 2.1).
pub const RTO_FIRST: Duration = Duration::from_secs(1);

/// Least time to a retransmission: guests delay acknowledgements up to 200 ms, as Linux assumes too.
pub const RTO_MIN: Duration = Duration::from_millis(200);

/// Most time to a retransmission or between two window probes (RFC 6298, 2.4).
pub const RTO_MAX: Duration = Duration::from_secs(60);

/// SYNs and SYN/ACKs sent again, before the guest is given up: 1 + 2 + 4 ... 32 s, about a minute.
pub const SYN_RETRIES: u8 = 6;

/// Retransmissions without an answer before the guest is given up: about three minutes from [`RTO_MIN`].
pub const RETRIES: u8 = 10;

/// Silence of the guest after which it is asked whether it still knows the connection.
pub const KEEPALIVE: Duration = Duration::from_secs(30);

/// Questions without an answer after which the guest has forgotten it: four minutes.
pub const KEEPALIVE_TRIES: u8 = 8;

/// How long a connection that we closed first answers the guest's last FIN sent again. The link is a few metres of
/// memory: a second is long.
pub const LINGER: Duration = Duration::from_secs(1);

/// How long a connection that the guest closed first is remembered: acknowledgements that overtook each other must not
/// be answered with a reset, which a guest may take to heart.
pub const LINGER_SHORT: Duration = Duration::from_millis(100);

/// Segments in a row that are none of what is expected, within [`STRAY_TIME`], until a stream's frames come last: a flood
/// that guesses numbers has them at once. A guest that sends again what has been acknowledged meanwhile has one or two.
pub const STRAYS: u8 = 8;

/// The same, in time.
pub const STRAY_TIME: Duration = Duration::from_millis(100);

/// Answers to segments that nobody should send (RFC 5961, 7), in a second, all flows together.
pub const CHALLENGES: u32 = 1_000;

/// A datagram flow in which only one side has spoken, or each side no more than once, is forgotten after so long: what
/// Linux' connection tracking has (`nf_conntrack_udp_timeout`).
pub const UDP_TIMEOUT: Duration = Duration::from_secs(30);

/// The same once both sides have spoken twice (`nf_conntrack_udp_timeout_stream`).
pub const UDP_STREAM_TIMEOUT: Duration = Duration::from_secs(120);

/// An echo identifier is forgotten after so long without a request or a reply: longer than people leave between pings.
pub const ECHO_TIMEOUT: Duration = Duration::from_secs(60);

/// Datagrams in one train, at most: what Linux takes in one frame (`UDP_MAX_SEGMENTS` was 64 before it grew).
pub const TRAIN: usize = 64;

/// Bytes of the guest's packet that an ICMP error may quote, so that the message fits the least MTU: RFC 1812, 4.3.2.3
/// (576 bytes), RFC 4443, 2.4 (1280 bytes); IPv4 and IPv6.
pub const QUOTE: (usize, usize) = (576 - 28, 1_280 - 48);

/// Datagrams of the guest that are not whole yet, at most. Looked through at every fragment.
pub const PARTIAL_DATAGRAMS: usize = 64;

/// Bytes of fragments that wait for the rest, at most: [`PARTIAL_DATAGRAMS`] of the largest.
pub const PARTIAL_BYTES: usize = 4 << 20;

/// Fragments of one datagram, at most: the largest datagram in pieces of the least MTU of IPv4 hosts, 576 bytes.
pub const FRAGMENTS: usize = 128;

/// How long a datagram may take to become whole: what Linux grants IPv4 (`ipfrag_time`).
pub const FRAGMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Multicast groups that the guest may listen to. A desktop has three, a home automation hub some more; Linux allows a
/// process 20 (`igmp_max_memberships`).
pub const GROUPS: usize = 32;

/// Ports of each of them: a socket each.
pub const GROUP_PORTS: usize = 8;

/// Between two questions who still listens (RFC 3376, 8.2), seconds as it is told: below 128, where its coding changes.
pub const GROUP_QUERY_SECONDS: u8 = 125;

/// The same.
pub const GROUP_QUERY: Duration = Duration::from_secs(GROUP_QUERY_SECONDS as u64);

/// After which silence nobody does (RFC 3376, 8.4: two questions, and ten seconds to answer the second one).
pub const GROUP_TIMEOUT: Duration = Duration::from_secs(2 * GROUP_QUERY_SECONDS as u64 + 10);

/// Ports that are tried for a client whose own one another connection to the same port of the guest has.
pub const OTHER_PORTS: u16 = 64;

/// Neighbours of the host's link whose link-layer addresses are kept for ARP and neighbour discovery. As many as the
/// kernel keeps before it thinks about taking some away (`gc_thresh3`).
pub const NEIGHBOURS: usize = 1_024;

/// Options area of a DHCP reply, bytes. What a client takes that says nothing is less (RFC 2131, 2: 312).
pub const DHCP_OPTIONS: usize = 576;

/// Between two router advertisements that nobody asked for (RFC 4861, 6.2.1: `MinRtrAdvInterval` and
/// `MaxRtrAdvInterval`).
pub const ADVERTISEMENT_PAUSE: (Duration, Duration) =
    (Duration::from_secs(200), Duration::from_secs(600));
/// Bytes of an interface's name: `IFNAMSIZ` without the zero at the end.
pub const INTERFACE_NAME: usize = 15;

/// Port rules for each side. Callers give a rule per published port; more than this is a mistake that ranges avoid, and
/// it is where pasta stops too.
pub const RULES_PER_SIDE: usize = 255;

/// Listening sockets of all rules: every port of TCP and UDP on both sides, and room for one protocol on two addresses.
pub const LISTENING_SOCKETS: usize = 5 * 65_536;

/// The host's network is looked at so long after it has changed: changes come in groups, and a busy host's are many.
pub const NETWORK_PAUSE: Duration = Duration::from_millis(100);

/// A network that has come is followed so long for what else belongs to it: duplicate address detection takes a second
/// or two, and DHCP clients set addresses and routes one by one.
pub const SETTLING: Duration = Duration::from_secs(5);

/// How long the second address family is waited for: routers are silent for no longer (RFC 4861, 6.2.1:
/// `MaxRtrAdvInterval` is 600 s if nobody says otherwise).
pub const SECOND_FAMILY: Duration = Duration::from_secs(600);

/// A name server that has a question and has not answered for so long is passed over when the next question comes.
/// Resolvers ask again after 2.5 to 5 seconds.
pub const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// For so long; then it is asked again.
pub const NAMES_PASSED_OVER: Duration = Duration::from_secs(30);

/// Connections to name servers whose beginning is watched, the latest ones.
pub const NAMES_CONNECTING: usize = 64;

/// Bytes of resolv.conf that are read: some hundred lines.
pub const RESOLV_CONF: usize = 16 << 10;

/// Listening sockets that are opened before traffic has its turn again: each takes a few microseconds.
pub const LISTENERS_AT_ONCE: usize = 256;

/// Between two looks at who listens, for ports that follow.
pub const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// For so long a listener is not asked again when there was no descriptor for a connection: a caller hardly notices, and
/// some calls of ours every time cost nothing.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Places of the flow table that are looked at in a row for who asks what there is, before traffic has its turn again: a
/// full table takes 64 rounds.
pub const SURVEY_PLACES: u32 = 2_048;

/// How long who has asked that may take to listen to the answer.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// How long a client of the control socket may take. One that computes its tables takes milliseconds; longer ones keep
/// others waiting.
pub const CONTROL_PATIENCE: Duration = Duration::from_secs(10);

/// Name servers that are told to the guest: what fits in a DHCP reply beside everything else.
pub const NAME_SERVERS: usize = 8;

/// Search domains that are told to the guest: what resolvers have always taken.
pub const SEARCH_DOMAINS: usize = 6;

/// Lines a second of each kind of message that peers can provoke. Without it they filled disks.
pub const LINES_PER_SECOND: u32 = 5;
