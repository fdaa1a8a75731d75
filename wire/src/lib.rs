//! The documents that the programs of this workspace exchange with each other and with engines.
//!
//! | document | module | written by | read by |
//! | --- | --- | --- | --- |
//! | network request | [`network`] | Podman and other engines | netbackend |
//! | network to create | [`create`] | Podman 6 and other engines | netbackend |
//! | status and error reply | [`status`] | netbackend | engines |
//! | zone file | [`zone`] | netbackend, netavark | dnsd, aardvark-dns |
//! | state records | [`state`] | netbackend | later calls of netbackend |
//! | inspection | [`inspection`] | netbackend | people, scripts |
//! | recording of a call | [`recording`] | netbackend | netbackend, people |
//! | report of a replay | [`replay`] | netbackend | people, scripts |
//! | topology | [`topology`] | netbackend | people, scripts |
//! | diagnosis | [`diagnosis`] | netbackend | people, scripts |
//! | what was left behind | [`collection`] | netbackend | scripts |
//! | plan of a call | [`plan`] | netbackend | people, scripts |
//! | version | [`version`] | netbackend | Podman, people |
//! | firewall state of netavark | [`legacy`] | netavark, netbackend | both, after one replaced the other |
//! | DHCP requests, leases | [`proxy`] | netbackend, netavark, the DHCP proxy | each other, after a replacement, too |
//!
//! A reader ignores fields that it does not know, so fields may be added. Removing or renaming one, or
//! giving it another meaning, breaks the other end. State records carry a version for that reason.
//!
//! The types here say what was written, not what it means: an address is an address, but whether it
//! lies in the right subnet is for the reader to judge. Only names that become file names or kernel
//! names are checked here, once, in [`names`].
#![forbid(unsafe_code)]

pub mod names;
pub mod network;
pub mod create;
pub mod status;
pub mod zone;
pub mod state;
pub mod inspection;
pub mod topology;
pub mod diagnosis;
pub mod collection;
pub mod plan;
pub mod version;
pub mod recording;
pub mod replay;
pub mod legacy;
#[cfg(feature = "schema")]
pub mod schema;
pub mod proxy;
