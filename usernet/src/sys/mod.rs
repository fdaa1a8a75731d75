//! Everything that touches the operating system.

pub mod facts;
pub mod guest;
pub mod log;
pub mod netlink;

pub mod arena;
pub mod event_loop;
pub mod frames;
pub mod options;
pub mod raw;
pub mod sockets;
pub mod splice;
pub mod token;
