//! Tells the program from which sources and when it was built.

#![expect(clippy::disallowed_methods, reason = "a build script asks the system")]

#[path = "../hack/version.rs"]
mod version;

fn main() {
    version::tell();
}
