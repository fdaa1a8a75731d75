//! What callers of pasta rely on, asked of the executable from outside only, with the words that Podman writes.
//!
//! The executable is the one built here, or the one that the variable PASTA names: then it is the incumbent, a test that
//! [`differences`] lists must fail, all others pass, and each difference is printed with its reason.
//! `hack/compare-usernet` does that and prints the differences as a table.
//!
//! - [`machine`]: a host as most are, a machine outside, and the call.
//! - [`assigned`]: addresses, routes, MTU, names. [`recordings`]: command lines as they were recorded.
//! - [`forwarding`], [`transfers`]: published ports, every form of them. [`paths`]: both directions and all ways.
//! - [`follow`]: `auto`, and RootlessKit.
//! - [`podman`]: whole conversations. [`echoes`]: ping.
//! - [`services`]: a guest that configures itself. [`instances`]: several of us, and what a run costs.
//! - [`exits`], [`messages`], [`logs`]: how it ends, and what is said.

mod differences;
mod machine;

mod assigned;
mod echoes;
mod exits;
mod follow;
mod forwarding;
mod instances;
mod logs;
mod messages;
mod paths;
mod podman;
mod recordings;
mod services;
mod transfers;
