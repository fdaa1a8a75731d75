//! Everything that touches the operating system.

pub mod arena;
pub mod event_loop;
pub mod frames;
pub mod options;
pub mod raw;
pub mod sockets;
pub mod splice;
pub mod token;
