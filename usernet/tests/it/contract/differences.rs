//! Where the incumbent differs, and why ours may.

use std::any::type_name;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A difference: the test, what the incumbent does, why ours does otherwise.
struct Difference {
    test: &'static str,
    /// What a race decides: the incumbent may pass as well.
    maybe: bool,
    incumbent: &'static str,
    reason: &'static str,
}

const fn row(test: &'static str, incumbent: &'static str, reason: &'static str) -> Difference {
    Difference {
        test,
        maybe: false,
        incumbent,
        reason,
    }
}

const fn maybe(test: &'static str, incumbent: &'static str, reason: &'static str) -> Difference {
    let mut difference = row(test, incumbent, reason);
    difference.maybe = true;
    difference
}

/// Seen with Debian's passt 0.0~git20261002.
const DIFFERENCES: &[Difference] = &[
    row(
        "assigned::the_first_of_several_addresses_stays_the_first",
        "gives a guest the host's IPv6 addresses in reverse order",
        "the first one is the one that engines name",
    ),
    row(
        "messages::an_outbound_interface_that_is_none",
        "starts, and no flow works",
        "what cannot work is said at the start",
    ),
    row(
        "messages::what_would_be_right",
        "says that the value is wrong, and neither of which option nor why",
        "who wrote it can mend it without the manual",
    ),
    row(
        "messages::a_pattern_for_a_name",
        "makes an interface of another name, does not find it, and says no name",
        "the kernel takes the name for a pattern, which is said",
    ),
    row(
        "messages::a_name_for_the_host_that_leads_nowhere",
        "is silent, and the name leads nowhere",
        "what cannot work is said at the start",
    ),
    row(
        "messages::a_capture_nowhere",
        "starts, says so, and captures nothing",
        "what cannot be done as asked is an error",
    ),
    maybe(
        "podman::connections_of_both_directions",
        "stalls while a guest sends to a peer whose answers come at once",
        "what a socket does not take is kept, not asked for again",
    ),
    row(
        "podman::the_host_reaches_a_published_port",
        "resets a spliced connection of 16 MiB whose one half is closed; one of 4 MiB passes",
        "half a connection lasts as long as the other half has something to say",
    ),
    maybe(
        "podman::the_next_instance_has_the_same_port",
        "does not start while the instance before holds its listeners",
        "a port that is taken is tried for a while: engines start again at once",
    ),
    row(
        "recordings::no_address_is_tentative",
        "is ready while the guest's link-local address cannot be used",
        "who comes by IPv6 in the first second is answered",
    ),
];

/// Runs a test. For the incumbent a listed difference must show.
pub(crate) fn judge<F: FnOnce()>(test: F) {
    let name = test_of(type_name::<F>());
    // In a lab the test speaks for itself; outside, it is judged.
    let incumbent = std::env::var_os("PASTA").is_some() && std::env::var_os("TEST_LAB").is_none();
    let difference = DIFFERENCES.iter().find(|row| row.test == name);
    let Some(difference) = difference.filter(|_| incumbent) else {
        return test();
    };
    let failed = catch_unwind(AssertUnwindSafe(test)).is_err();
    assert!(
        failed || difference.maybe,
        "the incumbent passes: this difference is none"
    );
    if failed {
        let (incumbent, reason) = (difference.incumbent, difference.reason);
        // Past the harness's capture, for counting.
        let line = format!("difference: {name}: {incumbent} ({reason})");
        writeln!(std::io::stderr(), "{line}").expect("standard error can be written");
    }
}

/// `it::contract::module::test::{{closure}}` is the closure's type, `module::test` the name here.
fn test_of(closure: &'static str) -> &'static str {
    let function = closure.split("::{{closure}}").next().unwrap_or(closure);
    let start = "it::contract::";
    function.strip_prefix(start).unwrap_or(function)
}

#[test]
fn every_difference_is_of_a_test() {
    let sources = [
        include_str!("assigned.rs"),
        include_str!("messages.rs"),
        include_str!("podman.rs"),
        include_str!("recordings.rs"),
    ]
    .concat();
    for difference in DIFFERENCES {
        let function = difference.test.rsplit("::").next().unwrap_or_default();
        // A test written out, or a row of a table of tests.
        let written = [format!("fn {function}()"), format!("    {function} [")];
        let found = written.iter().any(|written| sources.contains(written));
        assert!(found, "no test {}", difference.test);
    }
}
