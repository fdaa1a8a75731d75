//! Every bound, with its unit and its reason. What grows is bounded here or it is a bug.

/// Bytes of an interface's name: `IFNAMSIZ` without the zero at the end.
pub const INTERFACE_NAME: usize = 15;

/// Port rules for each side. Callers give a rule per published port; more than this is a mistake that ranges avoid, and
/// it is where pasta stops too.
pub const RULES_PER_SIDE: usize = 255;

/// Listening sockets of all rules: every port of TCP and UDP on both sides, and room for one protocol on two addresses.
pub const LISTENING_SOCKETS: usize = 5 * 65_536;

/// Name servers that are told to the guest: what fits in a DHCP reply beside everything else.
pub const NAME_SERVERS: usize = 8;

/// Search domains that are told to the guest: what resolvers have always taken.
pub const SEARCH_DOMAINS: usize = 6;

/// Lines a second of each kind of message that peers can provoke. Without it they filled disks.
pub const LINES_PER_SECOND: u32 = 5;
