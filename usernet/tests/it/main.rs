//! The shell around the forwarder in labs: how it attaches, when it is ready, how it ends, and what it cannot do.
#![expect(
    clippy::disallowed_methods,
    reason = "these tests are about the operating system"
)]

mod attached;

mod capture;
mod datagrams;
mod ends;
mod follow;
mod locked;
mod podman;
mod starts;
