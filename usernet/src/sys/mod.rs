//! Everything that touches the operating system.
//!
//! [`run`] puts everything together, and [`follow`] and [`neighbours`] keep what is known of the host true.
//!
//! The start, in reading order: [`start`] is the whole story; [`attach`], [`tap`], [`listen`], [`opener`],
//! [`keeper`], [`spawn`], [`daemon`] are its parts; [`sandbox`] is the end of it. Afterwards [`event_loop`] forwards, and [`chores`] has the rest.
//! [`questions`] asks other instances; it is all there is of a run of `usernet stats`.
//! [`pass`] and [`process`] have the calls, [`failure`] the errors.
#![expect(
    clippy::disallowed_methods,
    reason = "this is where the operating system is called"
)]

pub mod run;

pub mod facts;
pub mod guest;
pub mod log;
pub mod netlink;
pub mod follow;
pub mod neighbours;
pub mod names;

pub mod alarm;
pub mod arena;
pub mod event_loop;
pub mod frames;
pub mod capture;
pub mod growth;
pub mod options;
pub mod raw;
pub mod sockets;
pub mod splice;
pub mod token;

pub mod chores;
pub mod answers;
pub mod questions;
pub mod control;
pub mod listeners;
pub mod resting;
pub mod scan;

pub mod start;

pub mod attach;
pub mod tap;
pub mod listen;
pub mod opener;
pub mod keeper;
pub mod lanes;
pub mod spawn;
pub mod daemon;
pub mod sandbox;
pub mod trim;

pub mod pass;
pub mod process;
pub mod failure;
