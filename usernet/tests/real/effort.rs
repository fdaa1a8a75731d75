//! How much is done, and what is told of it.

use std::io::Write;
use std::time::Duration;

/// Whether everything has its full size.
pub(crate) fn full() -> bool {
    std::env::var("USERNET_EFFORT").is_ok_and(|effort| effort == "full")
}

/// The small size, or the full one.
pub(crate) fn sized<T>(small: T, large: T) -> T {
    if full() { large } else { small }
}

/// Nothing moved for so long although everybody wanted: a defect. Judged at full size, on a machine of our own.
pub(crate) const STALL: Duration = Duration::from_secs(1);

/// A figure, for people.
pub(crate) fn tell(line: &str) {
    if full() {
        let mut out = std::io::stdout().lock();
        writeln!(out, "figure: {line}").unwrap_or_default();
    }
}
