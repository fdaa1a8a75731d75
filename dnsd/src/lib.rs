//! A DNS responder for containers.
//!
//! # Theory of operation
//!
//! A directory has a file for each network, which says who is called what. From these files an immutable
//! snapshot is made ([`zones`], [`load`]); from a snapshot, an asker and a question follows a decision
//! ([`answer`]). What is not known here is asked of servers ([`upstream`], [`forward`]) for whom there is room ([`budget`]), and their answers are kept
//! for as long as they say ([`cache`]). What fails is remembered for people ([`failures`]).
//!
//! A query takes one of two paths through the same decision: plain ones go from bytes to bytes ([`fast`]), all others
//! through messages ([`full`]); [`respond`] is where they meet.
//!
//! Files, sockets, clocks, threads and signals are in [`sys`]. Everything else takes values and returns values.
//!
//! Modules in reading order:

pub mod cli;

pub mod name;
pub mod zones;

pub mod load;

pub mod answer;

pub mod packet;

pub mod fast;
pub mod full;
pub mod respond;

pub mod upstream;

pub mod budget;
pub mod forward;

pub mod cache;

pub mod failures;

pub mod listeners;

pub mod limits;

pub mod explain;
pub mod account;
pub mod sys;
