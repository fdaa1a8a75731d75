//! In labs: the shell around the forwarder (how it attaches, when it is ready, how it ends, and what it cannot do), and
//! the whole program, as its callers know it.
#![expect(
    clippy::disallowed_methods,
    reason = "these tests are about the operating system"
)]

mod attached;

mod callers;
mod calls;
mod capture;
mod changes;
mod control;
mod datagrams;
mod ends;
mod follow;
mod limits;
mod logs;
mod neighbours;
mod old_kernels;
mod opener;
mod locked;
mod podman;
mod questions;
mod starts;
mod stats;
mod urgent;

mod contract;
