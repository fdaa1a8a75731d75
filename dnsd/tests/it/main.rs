//! The program in machines of its own, seen from outside.
//!
//! The program is the one that the variable DNSD names, else the one built here. With `DNSD_IS=aardvark` it is the
//! incumbent: a test that [`differences`] lists must then fail, all others pass, and each difference is printed with
//! what justifies it. Tests of what the incumbent has nothing of are counted and not run. `hack/compare-dnsd` does
//! that and prints the differences as a table. DNSD_EFFORT multiplies what the tests of endurance do: with 50, a
//! million damaged questions.
//!
//! Modules in reading order: [`machine`] is what a test runs on, [`message`] and [`upstream`] what it speaks and who
//! answers behind the program; then the tests, by what they pin.
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "tests touch the operating system and know the length of what they read"
)]

mod differences;
mod machine;
mod message;
mod upstream;

mod command_line;
mod start;

mod pid_file;

mod directory;
mod grammar;

mod answers;
mod headers;
mod reverse;
mod visibility;

mod listeners;
mod tcp;

mod forward;
mod resolv_conf;

mod exit;
mod questions;
mod reload;

mod clients;
mod faults;
mod hardening;

mod beyond;
mod extensions;
mod inside;
mod shortage;
