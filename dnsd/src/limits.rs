//! Every bound, with its reason.

use std::time::Duration;

/// Questions of one container that wait for servers, in each worker. A dead server keeps each of them for
/// [`GIVE_UP`]; more than this are not answered.
pub const WAITING_SHARE: u32 = 512;

/// Questions of all containers that wait for servers, in each worker. Each takes less than 1 kB.
pub const WAITING: usize = 8192;

/// Clients that wait for one flight; the next one with the same question begins another.
pub const CLIENTS_PER_FLIGHT: usize = 128;

/// A question joins an equal one that was sent at most this long ago. Older ones may wait for nothing.
pub const JOIN: Duration = REPEAT;

/// Flights of one asker for one name and type: they differ in flags and options. More than this is a loop.
pub const FLIGHTS_PER_NAME: usize = 8;

/// Servers of one list that are asked.
pub const SERVERS: usize = 32;

/// Sockets towards servers, in each worker and family. Their ports are random, and so is the choice among them.
pub const UPSTREAM_SOCKETS: u8 = 16;

/// A socket towards servers is replaced by one with another port after so many questions.
pub const QUESTIONS_PER_SOCKET: u32 = 512;

/// Sockets that are replaced and still have questions under way, in each worker and family.
pub const WORN_SOCKETS: u8 = 4;

/// All servers of a list together get this long.
pub const ALL_SERVERS: Duration = Duration::from_secs(5);

/// A question is repeated after this, twice.
pub const REPEAT: Duration = Duration::from_millis(333);

/// A client that hears of failure before this would not call it a time-out (`dig`).
pub const TIMED_OUT: Duration = Duration::from_millis(5100);

/// When a client that nobody answered hears so by UDP.
pub const GIVE_UP: Duration = Duration::from_millis(5200);

/// A dead server is tried again after this, then after twice as long, up to [`PROBE_MOST`].
pub const PROBE: Duration = Duration::from_secs(2);

/// See [`PROBE`].
pub const PROBE_MOST: Duration = Duration::from_secs(30);

/// A server that was silent by TCP gets its share divided by this: all of them together a second.
pub const DEAD_TCP: u32 = 5;

/// Servers whose health is remembered.
pub const HEALTH: usize = 1024;

/// Questions that failed and are remembered, for people to look at.
pub const FAILURES: usize = 64;

/// Bytes of answers that are kept, unless the environment says otherwise.
pub const CACHE_BYTES: usize = 2 << 20;

/// A larger answer is not kept.
pub const CACHE_ENTRY: usize = 4096;

/// No answer is kept longer, whatever it says.
pub const CACHE_TTL: u32 = 24 * 60 * 60;

/// No absence is kept longer (RFC 2308, section 5).
pub const CACHE_NEGATIVE_TTL: u32 = 60 * 60;

/// TCP connections of one container.
pub const CONNECTIONS_SHARE: usize = 64;

/// TCP connections of all clients.
pub const CONNECTIONS: usize = 512;

/// How long a TCP connection may be silent, and how long a message may take to arrive.
pub const IDLE: Duration = Duration::from_secs(3);

/// Questions by TCP under way to servers. Each takes a descriptor; with those of four workers, 256 suffice.
pub const WAITING_TCP: usize = 80;

/// Of these, those of one container. Its next ones wait for them.
pub const WAITING_TCP_SHARE: u32 = 20;

/// How long a cut answer may be delayed by asking for the whole of it by TCP.
pub const FETCH: Duration = Duration::from_secs(3);

/// The longest query by UDP.
pub const QUERY: usize = 4096;
