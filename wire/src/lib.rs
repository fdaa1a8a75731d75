//! The documents that the programs of this workspace exchange with each other and with engines.
#![forbid(unsafe_code)]
