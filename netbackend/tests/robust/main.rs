//! What happens when things go wrong: steps that fail, calls that are killed, many calls at once, state that went
//! stale, requests that make no sense. Each test has a lab of its own.
//!
//! - [`faults`]: every step of every recorded call fails once; the host is as before.
//! - [`kills`]: calls are killed at all moments; the next call, whosever it is, cleans up.
//! - [`dhcp`]: calls, proxies and servers fail, and no lease is lost or left.
//! - [`parallel`]: a hundred containers come and go at once.
//! - [`stale`]: namespaces, rules and records vanish or are damaged behind our back.
//! - [`beside`]: the same where firewalld runs, beside us or in our stead.
//! - [`hostile`]: documents and packets that make no sense, from the seeded [`mutator`], for the [`pure`] code, that of
//!   [`leases`], and for the executable.
//!
//! [`world`] is the machine with the program on it; [`requests`] makes documents.
#![expect(
    clippy::disallowed_methods,
    reason = "tests of effects look at the effects"
)]

#[path = "../it/lab.rs"]
mod lab;
#[path = "../it/daemon.rs"]
mod daemon;
#[path = "../it/lan.rs"]
mod lan;
#[path = "../documents/validator.rs"]
#[expect(clippy::unwrap_used, reason = "a schema that is not one ends the test")]
mod validator;
mod requests;
mod world;

mod beside;
mod dhcp;
mod faults;
mod gc;
mod kills;
mod parallel;
mod stale;

mod mutator;
mod leases;
mod pure;

mod hostile;
