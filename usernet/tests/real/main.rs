//! Real programs, and long conversations, through the whole program.
//!
//! ```text
//!   guest ──tap──▶ usernet ──sockets──▶ host ──veth──▶ outside
//!     └──────────── splice ──────────────┘
//! ```
//!
//! Each test has a lab of its own. The programs are Debian's; `hack/deps` installs them, and a missing one is a failure.
//! Everything has a small size, which fits in a run of all tests, and the full one: `USERNET_EFFORT=full`, which
//! `hack/endure-usernet` sets, together with `USERNET`, the build to be tested. Figures are told then, and pauses are
//! judged, which on a busy machine would be judging the machine.
#![expect(
    clippy::disallowed_methods,
    reason = "these tests are about the operating system"
)]

mod effort;
mod site;
mod stream;

mod echo;
mod endurance;
mod flows;
mod http;
mod iperf;
mod many;
mod names;
mod patience;
mod socat;
mod tails;
