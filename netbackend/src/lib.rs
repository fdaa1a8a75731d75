//! One-shot set-up and teardown of container networks.

pub mod nft;
pub mod sys;
