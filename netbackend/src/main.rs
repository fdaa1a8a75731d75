//! Entry point of `netbackend`.
fn main() {}
