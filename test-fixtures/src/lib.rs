//! Throw-away namespaces, golden files and recorded data for the tests of this workspace.
//!
//! A test of something privileged is written as if it had a machine to itself:
//!
//! ```no_run
//! use test_fixtures::{lab, snapshot::Snapshot};
//!
//! # #[expect(clippy::test_attr_in_doctest, reason = "this is how a test looks")]
//! #[test]
//! fn a_deleted_bridge_leaves_nothing_behind() {
//!     lab::run(|host| {
//!         let before = Snapshot::take(host, &[])?;
//!         host.sh("ip link add br0 type bridge; ip link del br0")?;
//!         Snapshot::take(host, &[])?.assert_same_as(&before);
//!         Ok(())
//!     });
//! }
//! ```
//!
//! Modules in reading order: [`lab`] makes the machine, [`netns`] its containers and neighbours, [`traffic`] the
//! conversations between them, [`flows`] counts what passes while something else is done; [`program`] runs the program under test, [`built`] finds another
//! one of ours, [`questions`] asks one that runs; [`recording`] supplies what engines really asked, [`snapshot`] tells what was changed; [`golden`] compares text with
//! files, [`manual`] makes and compares what packages ship beside programs.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "this crate is the tests' way to the operating system"
)]

pub mod lab;
pub mod netns;
pub mod traffic;
pub mod flows;

pub mod built;
pub mod program;
pub mod questions;
pub mod recording;
pub mod snapshot;

pub mod golden;
pub mod manual;
