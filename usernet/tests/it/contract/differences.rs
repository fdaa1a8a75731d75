//! Where the incumbent differs, and why ours may.

use std::any::type_name;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A difference: the test, what the incumbent does, why ours does otherwise.
type Difference = (&'static str, &'static str, &'static str);

/// Seen with Debian's passt 0.0~git20261002.
const DIFFERENCES: &[Difference] = &[];

/// Runs a test. For the incumbent a listed difference must show.
pub(crate) fn judge<F: FnOnce()>(test: F) {
    let name = test_of(type_name::<F>());
    // In a lab the test speaks for itself; outside, it is judged.
    let incumbent = std::env::var_os("PASTA").is_some() && std::env::var_os("TEST_LAB").is_none();
    let difference = DIFFERENCES.iter().find(|(test, _, _)| *test == name);
    let Some((_, incumbents, reason)) = difference.filter(|_| incumbent) else {
        return test();
    };
    let failed = catch_unwind(AssertUnwindSafe(test)).is_err();
    assert!(failed, "the incumbent passes: this difference is none");
    // Past the harness's capture, for counting.
    let line = format!("difference: {name}: {incumbents} ({reason})");
    writeln!(std::io::stderr(), "{line}").expect("standard error can be written");
}

/// `it::contract::module::test::{{closure}}` is the closure's type, `module::test` the name here.
fn test_of(closure: &'static str) -> &'static str {
    let function = closure.split("::{{closure}}").next().unwrap_or(closure);
    let start = "it::contract::";
    function.strip_prefix(start).unwrap_or(function)
}
