//! Where the incumbent differs, and why ours may.

use std::any::type_name;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;

use crate::machine::program;

/// Which incumbents show a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    /// All that were measured: 1.4 and 1.17.
    Any,
    /// Not in 1.4, which has no TCP, no handshake at the start, and asks upstreams with another library.
    New,
}

/// A difference: the test, whom it is about, what the incumbent does, the reason for another behaviour.
/// `maybe` marks what a race decides: there the incumbent may pass as well.
#[derive(Debug)]
struct Difference {
    test: &'static str,
    versions: In,
    maybe: bool,
    incumbent: &'static str,
    reason: &'static str,
}

impl Difference {
    /// A name, or `module::*`.
    fn covers(&self, test: &str) -> bool {
        match self.test.strip_suffix('*') {
            Some(module) => test.starts_with(module),
            None => self.test == test,
        }
    }
}

const fn row(
    test: &'static str,
    versions: In,
    incumbent: &'static str,
    reason: &'static str,
) -> Difference {
    Difference {
        test,
        versions,
        maybe: false,
        incumbent,
        reason,
    }
}

const fn maybe(
    test: &'static str,
    versions: In,
    incumbent: &'static str,
    reason: &'static str,
) -> Difference {
    Difference {
        test,
        versions,
        maybe: true,
        incumbent,
        reason,
    }
}

#[rustfmt::skip]
const DIFFERENCES: &[Difference] = &[
    // Command line and start.
    row("command_line::log_filters", In::Any, "warns on standard error about RUST_LOG with a filter", "what is printed at start is taken for an error: the variable is meant for others, too"),
    row("command_line::logging_switched_off", In::Any, "warns on standard error about RUST_LOG=OFF", "what is printed at start is taken for an error: the level is a valid one"),
    row("start::inherited_files_are_closed", In::Any, "keeps descriptors it inherits; engines close theirs", "files of the caller are none of a daemon's business: all are closed first"),
    row("start::inherited_copies_of_the_output_are_closed", In::Any, "an inherited copy of the pipe stays open", "who waits for the end of our output must not wait for ever"),
    row("start::no_mount_is_kept_busy", In::Any, "stays in the caller's directory", "changes to / so that no mount is kept busy"),
    row("start::an_address_that_comes_a_moment_later", In::New, "fails at once", "bridges and IPv6 addresses come up in their own time: tried again for a second"),
    row("start::an_empty_directory_is_no_error", In::New, "exit code 1", "nothing to serve is done without a daemon; an error would fail the teardown of the last container"),
    row("start::what_is_unusable_is_named", In::Any, "says only that the child failed", "an error says what is wrong"),
    row("start::without_resolv_conf", In::New, "does not start", "names of containers need no servers"),
    row("start::with_nonsense_in_resolv_conf", In::Any, "does not start, or forwards nothing", "one bad line costs itself alone"),
    row("start::who_has_the_port_is_named", In::Any, "says only that the address is in use", "whoever has to mend it wants to know whom to stop"),
    maybe("start::too_few_descriptors", In::Any, "says little, or starts and fails later; leaves its pid file", "what would fail later is refused at once, in words"),
    maybe("start::an_early_reload_kills_nobody", In::Any, "SIGHUP between pid file and handler kills it", "signals are blocked before the file appears"),
    // Pid file.
    row("pid_file::a_failed_start_leaves_none", In::Any, "written before binding, left behind", "a number in there is signalled: it appears when all sockets are bound"),
    row("pid_file::a_second_start_does_not_take_it_over", In::Any, "overwrites the number of the healthy daemon", "nobody would find the healthy daemon any more"),
    row("pid_file::after_a_terminate_signal_it_names_nobody", In::Any, "leaves its number, which the kernel gives to others", "a number that no process has: the next call starts a daemon, and signals no stranger"),
    row("pid_file::after_an_interrupt_it_names_nobody", In::Any, "leaves its number, which the kernel gives to others", "a number that no process has: the next call starts a daemon, and signals no stranger"),
    maybe("pid_file::is_never_seen_half_written", In::Any, "is empty for a moment", "whoever reads an empty file starts a second daemon: it appears whole"),
    // Files.
    row("directory::a_name_that_is_no_unicode", In::Any, "the whole load fails", "one bad file costs itself alone"),
    maybe("directory::a_pipe_is_no_network", In::Any, "waits for ever for somebody to write to it", "what is no file is no network"),
    maybe("directory::a_missing_directory_and_new_servers", In::New, "may not read the servers then", "each file is read for itself"),
    row("grammar::an_empty_name_is_none", In::Any, "a container without names answers for the root", "the root is nobody's name"),
    row("grammar::a_name_twice_on_a_line_is_once_in_the_answer", In::Any, "duplicate records", "nginx and others refuse the same address twice"),
    row("grammar::a_line_twice_is_once_in_the_answer", In::Any, "duplicate records", "nginx and others refuse the same address twice"),
    row("grammar::a_wrong_address_costs_its_line", In::Any, "rejects the file", "one bad line costs itself alone"),
    row("grammar::an_address_with_a_prefix_length_costs_its_line", In::Any, "rejects the file", "one bad line costs itself alone"),
    row("grammar::too_few_columns_cost_their_line", In::Any, "rejects the file", "one bad line costs itself alone"),
    // Answers.
    row("answers::the_search_domain_in_capitals_stays_here", In::Any, "leaks x.DNS.podman to the servers", "names have no case, and private ones stay here"),
    row("answers::the_search_domain_itself_exists", In::Any, "forwards dns.podman", "what names lie below exists"),
    row("answers::other_types_of_a_name_that_exists_are_no_data", In::New, "NXDOMAIN below the search domain, forwards the bare name", "NXDOMAIN for one type is taken for all of them"),
    row("answers::any_is_both_families", In::Any, "forwards", "what is asked for is here"),
    row("answers::zones_are_not_handed_out", In::Any, "forwards", "private names stay here"),
    row("answers::negative_answers_say_how_long_to_remember_them", In::Any, "no authority section", "an SOA with a time to live of 0, so that nobody remembers an absence"),
    row("answers::a_name_in_another_script_by_its_bytes", In::Any, "never matches raw UTF-8", "names are compared by the bytes of the question"),
    row("answers::a_name_configured_in_its_ascii_form", In::Any, "finds only the Unicode form", "names are compared by the bytes of the question"),
    row("headers::nothing_local_is_authenticated", In::Any, "copies AD", "nothing was"),
    row("headers::an_answer_is_no_question", In::Any, "answers messages with QR=1", "two daemons could answer each other for ever"),
    row("headers::other_operations_are_not_implemented", In::Any, "answers them as questions", "NOTIMP, as RFC 1035 has it"),
    row("headers::other_classes_are_refused", In::Any, "answers them as IN", "REFUSED: other classes have other names"),
    row("headers::no_question_is_malformed", In::Any, "no answer, or one about the root", "FORMERR: nothing was asked"),
    row("headers::two_questions_are_malformed", In::Any, "answers the first", "FORMERR, as RFC 9619 has it"),
    row("headers::the_edns_record_is_our_own", In::Any, "echoes the client's record with all options", "what it says is about the sender (RFC 6891)"),
    row("headers::other_versions_of_edns_are_told_so", In::Any, "echoes the version", "BADVERS, as RFC 6891 has it"),
    row("headers::a_large_answer_is_cut_at_512_bytes", In::Any, "sends 3 kB datagrams without TC", "C libraries cut or drop it, unless TC says that there is more"),
    row("headers::a_large_answer_is_cut_at_the_size_the_client_takes", In::Any, "sends 3 kB datagrams without TC", "C libraries cut or drop it, unless TC says that there is more"),
    row("reverse::reverse_names_in_capitals", In::Any, "forwards IN-ADDR.ARPA", "names have no case"),
    row("reverse::private_addresses_are_not_asked_outside", In::Any, "forwards reverse names of gateways and other networks", "private addresses stay here: NXDOMAIN"),
    row("reverse::an_unknown_client_asks_for_its_network", In::Any, "forwards the host's reverse questions", "names and addresses are treated alike"),
    // Sockets.
    row("listeners::two_networks_with_one_address", In::New, "the second bind fails, and with it the start", "the client's address tells the networks apart: they share the socket"),
    row("tcp::a_client_has_a_limited_number_of_connections", In::New, "takes any number", "one container must not take all descriptors"),
    row("tcp::running_out_of_descriptors_is_survived", In::New, "leaves its serving loop for good", "a container could switch name service off: the loop pauses and goes on"),
    // Forwarding.
    row("forward::ids_are_not_the_client_s", In::New, "the client's id goes out over UDP", "random ids, so that answers cannot be forged by clients"),
    row("forward::a_silent_server_is_remembered", In::Any, "waits for the dead server every time", "only the first question waits for a dead server"),
    row("forward::a_truncated_answer_is_fetched_by_tcp", In::Any, "hands the truncated answer on", "not every client can"),
    row("forward::an_answer_that_is_too_large_is_cut", In::Any, "a longer answer than asked for is lost", "64 KiB are received, and cut with TC for the client"),
    row("forward::an_answer_of_four_kilobytes_by_udp", In::Any, "a longer answer than one client asked for is lost", "64 KiB are received, and cut with TC for the client"),
    maybe("forward::a_wrong_id_by_tcp", In::New, "may wait for the right one", "by TCP nobody else can answer: the next server is asked at once"),
    maybe("forward::a_wrong_question_by_tcp", In::New, "may wait for the right one", "by TCP nobody else can answer: the next server is asked at once"),
    row("forward::our_question_coming_back_is_no_answer", In::Any, "takes the echo for the answer", "an answer says that it is one"),
    row("forward::after_that_it_is_a_failure", In::Any, "never answers", "SERVFAIL after 5.2 s, when nobody takes it for an answer in time"),
    row("forward::by_tcp_it_is_a_failure_at_once", In::Any, "never answers", "SERVFAIL: the client waits for nothing otherwise"),
    row("forward::a_server_that_is_silent_by_tcp_is_remembered", In::Any, "waits for the dead server every time", "only the first question waits for a dead server"),
    row("forward::when_all_are_silent_by_tcp_it_is_a_failure_soon", In::Any, "never answers", "SERVFAIL: the client waits for nothing otherwise"),
    row("forward::our_own_address_is_not_asked", In::Any, "asks itself until a time-out", "a loop ends before it begins"),
    row("forward::a_loop_ends", In::Any, "thousands of descriptors after one question", "a question that comes back joins itself"),
    maybe("forward::local_names_do_not_wait_for_dead_servers", In::New, "a burst of 300 to a dead server can stop local answers", "what waits is bounded for each client and in all"),
    row("forward::no_container_starves_another", In::Any, "three sockets for every question that waits", "questions share at most 64 sockets"),
    row("faults::few_descriptors_and_a_dead_server", In::Any, "without descriptors it stops to serve", "local names need no further descriptors"),
    row("shortage::a_flood_of_connections_is_survived", In::New, "leaves its serving loop for good", "a container could switch name service off: the loop pauses and goes on"),
    row("shortage::a_network_that_comes_without_descriptors_is_served_later", In::New, "leaves its serving loop for good, and waits for the next SIGHUP", "tried again in the background"),
    row("shortage::forwarding_comes_back_with_the_descriptors", In::New, "leaves its serving loop for good", "a container could switch name service off: the loop pauses and goes on"),
    row("shortage::a_full_disk_leaves_an_empty_file_and_drops_nothing", In::Any, "drops the network, or ends", "the old state is better than none"),
    row("shortage::a_full_disk_leaves_a_cut_file_and_drops_nothing", In::Any, "drops the network, or ends", "the old state is better than none"),
    maybe("shortage::a_full_disk_at_the_start_leaves_no_half_pid_file", In::Any, "does not say that it is the pid file", "an error says what is wrong"),
    row("shortage::a_full_disk_at_the_end", In::Any, "leaves its number, which the kernel gives to others", "a number that no process has: the next call starts a daemon, and signals no stranger"),
    row("faults::memory_stays_bounded", In::Any, "80 MB for 20,000 waiting questions", "what waits is bounded for each client and in all"),
    row("clients::host_finds_a_container", In::New, "NXDOMAIN for the MX of a container", "NXDOMAIN for one type is taken for all of them"),
    // resolv.conf.
    row("resolv_conf::renamed_over", In::New, "notices the first rename only", "all directories on the way are watched"),
    row("resolv_conf::deleted_and_made_anew", In::New, "missed until SIGHUP", "all directories on the way are watched"),
    row("resolv_conf::replaced_behind_a_link", In::New, "notices the first rename only", "all directories on the way are watched"),
    row("resolv_conf::a_link_turned_elsewhere", In::New, "missed until SIGHUP", "the way is walked again after each event"),
    row("resolv_conf::a_link_on_the_way_turned_elsewhere", In::New, "missed until SIGHUP", "the way is walked again after each event"),
    row("resolv_conf::a_link_into_a_directory_that_comes_later", In::New, "does not start without the file", "the way is watched as far as it goes"),
    row("resolv_conf::a_wrong_line_is_skipped", In::New, "the list becomes empty", "one bad line costs itself alone"),
    row("resolv_conf::without_servers_the_old_ones_stay", In::New, "the list becomes empty", "the last good list is better than none"),
    // Reload and end.
    row("exit::not_on_the_signal_that_asks_for_the_state", In::Any, "dies", "it asks for the state"),
    row("reload::an_address_that_comes_later_is_tried_again", In::New, "waits for the next SIGHUP", "tried again in the background"),
    row("reload::an_empty_file_is_being_written", In::Any, "drops the network", "engines cut the file and write it anew: the previous state is kept"),
    row("reload::half_a_header_is_being_written", In::Any, "drops the network", "engines cut the file and write it anew: the previous state is kept"),
    maybe("reload::half_a_line_is_being_written", In::Any, "drops the network", "engines cut the file and write it anew: the previous state is kept"),
    maybe("reload::between_two_lines_it_is_being_written", In::Any, "loses what is not written yet", "a file that was just written and has fewer lines is not finished"),
    maybe("reload::the_only_network_empty_for_a_moment", In::Any, "ends", "engines cut the file and write it anew: it is looked at again"),
    row("reload::a_file_that_became_nonsense_keeps_its_network", In::Any, "drops the network, or ends", "the old state is better than none"),
    row("reload::cut_anywhere", In::Any, "closes sockets, or ends", "torn files change nothing"),
    maybe("reload::no_question_is_lost_in_a_thousand_reloads", In::Any, "drops the network when it sees the file torn", "torn files change nothing"),
    row("reload::a_large_network_reloaded_often_takes_no_more_memory", In::Any, "takes 30 MB", "flat tables, given back as a whole"),
    row("reload::a_change_is_noticed_without_a_signal", In::Any, "waits for SIGHUP", "the directory is watched, as not every change is signalled"),
    row("reload::a_network_is_noticed_without_a_signal", In::Any, "waits for SIGHUP", "the directory is watched, as not every change is signalled"),
    row("reload::the_end_is_noticed_without_a_signal", In::Any, "waits for SIGHUP", "the directory is watched, as not every change is signalled"),
    // Restraint.
    row("hardening::only_the_capability_to_bind_is_kept", In::Any, "keeps its caller's capabilities", "needs no others once it serves"),
    row("hardening::no_new_privileges", In::Any, "not set", "starts no programs"),
    row("hardening::system_calls_are_filtered", In::Any, "no filter", "whoever takes it over from outside finds little to call"),
    row("hardening::every_thread_is_restrained", In::Any, "no filter", "whoever takes it over from outside finds little to call"),
];

/// What Debian's 1.4 did not have yet: the behaviour that these tests hold came with later versions, so no choice of
/// ours is behind them. With the years between, some may pass by chance.
#[rustfmt::skip]
const NOT_YET: &[(&str, &[&str])] = &[
    ("has no TCP", &[
        "clients::dig_over_tcp",
        "clients::dig_with_several_questions_on_one_connection",
        "clients::getent_over_tcp",
        "command_line::another_port_by_tcp",
        "exit::promptly_with_connections_open",
        "faults::damaged_questions",
        "forward::a_connection_that_ends_without_an_answer_moves_on_at_once",
        "forward::a_refused_connection_moves_on_at_once",
        "forward::a_silent_server_costs_its_share_of_the_time_by_tcp",
        "forward::a_truncated_answer_is_never_taken_for_the_whole",
        "forward::a_wrong_id_by_tcp",
        "forward::a_wrong_question_by_tcp",
        "forward::an_answer_of_four_kilobytes_by_tcp",
        "forward::by_udp_and_tcp",
        "forward::nxdomain_is_final",
        "forward::silence_over_udp_says_nothing_about_tcp",
        "forward::to_an_ipv6_server",
        "forward::what_was_fetched_by_tcp_is_cut_to_the_client_s_size",
        "headers::a_large_answer_is_whole_over_tcp",
        "listeners::connections_of_the_last_run_are_no_hindrance",
        "listeners::tcp_in_both_families",
        "reload::a_connection_survives",
        "reload::a_network_comes_with_tcp",
        "reload::an_address_moves_to_another_network",
        "reload::sockets_stay_open",
        "shortage::a_flood_of_connections_is_survived",
        "shortage::a_network_that_comes_without_descriptors_is_served_later",
        "shortage::a_network_that_found_no_room_comes_later",
        "shortage::forwarding_comes_back_with_the_descriptors",
        "start::busy_tcp_port",
        "start::ready_for_tcp_when_the_parent_exits",
        "tcp::a_client_has_a_limited_number_of_connections",
        "tcp::a_cut_message_costs_no_time",
        "tcp::a_forwarded_question_keeps_its_place",
        "tcp::a_half_message_is_closed_after_three_seconds",
        "tcp::a_question_in_pieces",
        "tcp::a_wrong_message_of_any_kind_is_skipped",
        "tcp::an_empty_message",
        "tcp::an_idle_connection_is_closed_after_three_seconds",
        "tcp::connections_of_the_whole_machine_at_once",
        "tcp::nonsense_is_skipped",
        "tcp::questions_sent_at_once_are_answered_in_order",
        "tcp::running_out_of_descriptors_is_survived",
        "tcp::several_questions_one_after_the_other",
        "tcp::the_largest_messages",
    ]),
    ("says it is ready before it is, and reports no error", &[
        "command_line::log_levels",
        "command_line::without_a_directory_it_fails",
        "directory::a_missing_directory_and_new_servers",
        "directory::a_missing_directory_keeps_the_old_data",
        "faults::a_full_disk_at_the_start",
        "start::a_daemon_that_dies_before_it_is_ready_is_an_error",
        "start::a_file_for_a_directory",
        "start::a_missing_directory",
        "start::all_busy_ports_are_named",
        "start::an_address_that_is_not_there",
        "start::an_empty_directory_is_no_error",
        "start::busy_ipv6_port",
        "start::busy_udp_port",
        "start::nothing_usable_is_an_error",
        "start::one_bad_network_is_left_out",
        "start::ready_when_the_parent_exits",
        "start::ready_with_ten_thousand_names",
        "start::says_nothing_and_lets_go_of_its_output",
    ]),
    ("reads resolv.conf once, with another parser; asks all servers in its own way", &[
        "forward::a_lost_datagram_is_sent_again",
        "forward::a_silent_server_is_asked_again_within_its_share",
            "forward::a_silent_server_costs_its_share_of_the_time",
        "forward::a_server_with_wrong_questions",
        "forward::an_answer_from_another_port_is_not_believed",
        "forward::an_answer_from_elsewhere_is_not_believed",
        "forward::an_answer_to_another_question_is_not_believed",
        "forward::local_names_do_not_wait_for_dead_servers",
        "forward::nonsense_does_not_reach_the_client",
        "forward::refused_is_final",
        "forward::servers_named_in_an_internal_network_do_not_count",
        "forward::servfail_is_final",
        "forward::the_container_s_servers_are_used_in_full",
        "resolv_conf::a_link_local_server_with_its_interface",
        "resolv_conf::a_link_turned_elsewhere",
        "resolv_conf::a_wrong_line_is_skipped",
        "resolv_conf::answers_of_the_old_server_are_forgotten",
        "resolv_conf::deleted_and_made_anew",
        "resolv_conf::one_server_a_line",
        "resolv_conf::renamed_over",
        "resolv_conf::replaced_behind_a_link",
        "resolv_conf::rewritten_in_place",
        "resolv_conf::without_servers_the_old_ones_stay",
        "resolv_conf::words_that_begin_alike",
    ]),
    ("gives another time to live, and compares names with case", &[
        "answers::the_case_of_the_question_comes_back",
        "answers::time_to_live_is_zero",
        "answers::with_and_without_the_search_domain",
        "clients::dig_sees_a_time_to_live_of_zero",
        "grammar::names_are_lower_cased",
    ]),
    ("one file that it cannot read or parse fails them all", &[
        "directory::a_file_that_cannot_be_read_harms_no_other",
        "directory::directories_are_skipped",
        "faults::damaged_files",
        "grammar::a_carriage_return_is_no_separator",
        "grammar::a_header_without_addresses",
        "grammar::a_tab_is_no_separator",
        "grammar::a_wrong_server_in_the_header",
        "grammar::listen_addresses_have_no_port",
        "grammar::there_are_no_comments",
    ]),
    ("internal networks, reloads and several networks as they were then", &[
        "clients::getent",
        "directory::a_network_that_becomes_internal",
        "directory::an_internal_network_resolves_its_own",
        "directory::internal_and_plain_files_are_one_network",
        "reload::a_burst_of_signals_costs_little",
        "reload::a_forwarded_question_survives",
        "shortage::a_gateway_in_many_networks_takes_its_descriptors_back",
        "reload::an_address_that_comes_later_is_tried_again",
        "reload::no_question_is_lost_in_a_thousand_reloads_of_the_same",
        "reverse::all_names_of_an_address",
        "visibility::a_shared_container_sees_both_from_either_gateway",
        "visibility::only_internal_means_no_way_out",
        "visibility::the_gateway_asked_does_not_matter",
    ]),
];

/// The incumbent's minor version when that is what runs.
static INCUMBENT: LazyLock<Option<u32>> =
    LazyLock::new(|| match &*std::env::var("DNSD_IS").unwrap_or_default() {
        "" => None,
        "aardvark" => {
            let said = program()
                .arg("--version")
                .run()
                .expect("the incumbent runs")
                .stdout;
            let minor = said.split('.').nth(1).and_then(|minor| minor.parse().ok());
            Some(minor.unwrap_or_else(|| panic!("`aardvark-dns X.Y.Z` expected, not {said:?}")))
        }
        other => panic!("DNSD_IS is {other:?}; it may be `aardvark`"),
    });

/// Runs a test. For the incumbent a listed difference must show.
pub(crate) fn judge<F: FnOnce()>(test: F) {
    let name = test_of(type_name::<F>());
    let Some(minor) = incumbent_outside() else {
        return test();
    };
    let difference = DIFFERENCES.iter().find(|difference| {
        difference.covers(name)
            && match difference.versions {
                In::Any => true,
                In::New => minor >= 10,
            }
    });
    let Some(difference) = difference else {
        let not_yet = NOT_YET.iter().find(|(_, tests)| tests.contains(&name));
        return match not_yet {
            Some((what, _)) if minor < 10 => {
                if catch_unwind(AssertUnwindSafe(test)).is_err() {
                    note("not yet", name, what);
                }
            }
            _ => test(),
        };
    };
    let failed = catch_unwind(AssertUnwindSafe(test)).is_err();
    assert!(
        failed || difference.maybe,
        "the incumbent passes: this difference is none"
    );
    if failed {
        note(
            "difference",
            name,
            &format!("{} ({})", difference.incumbent, difference.reason),
        );
    }
}

/// Runs a test of what the incumbent does not have.
pub(crate) fn only_ours<F: FnOnce()>(test: F) {
    if incumbent_outside().is_some() {
        note(
            "ours only",
            test_of(type_name::<F>()),
            "not asked of the incumbent",
        );
        return;
    }
    if let Err(panic) = catch_unwind(AssertUnwindSafe(test)) {
        resume_unwind(panic);
    }
}

/// Whether it is an incumbent that says it is ready before it is.
pub(crate) fn is_old_incumbent() -> bool {
    INCUMBENT.is_some_and(|minor| minor < 10)
}

/// In a lab, the test speaks for itself; outside, it is judged.
fn incumbent_outside() -> Option<u32> {
    if std::env::var_os("TEST_LAB").is_some() {
        return None;
    }
    *INCUMBENT
}

/// Past the harness's capture, for counting.
fn note(what: &str, test: &str, text: &str) {
    writeln!(std::io::stderr(), "{what}: {test}: {text}").expect("standard error can be written");
}

/// `crate::module::test::{{closure}}` is the closure's type, `module::test` what the harness calls the test.
fn test_of(closure: &'static str) -> &'static str {
    let function = closure.split("::{{closure}}").next().unwrap_or(closure);
    function
        .split_once("::")
        .map_or(function, |(_crate, test)| test)
}

#[test]
fn every_difference_is_of_a_test() {
    let sources = [
        include_str!("command_line.rs"),
        include_str!("start.rs"),
        include_str!("pid_file.rs"),
        include_str!("directory.rs"),
        include_str!("grammar.rs"),
        include_str!("answers.rs"),
        include_str!("headers.rs"),
        include_str!("reverse.rs"),
        include_str!("visibility.rs"),
        include_str!("listeners.rs"),
        include_str!("tcp.rs"),
        include_str!("forward.rs"),
        include_str!("resolv_conf.rs"),
        include_str!("exit.rs"),
        include_str!("reload.rs"),
        include_str!("clients.rs"),
        include_str!("faults.rs"),
        include_str!("hardening.rs"),
        include_str!("extensions.rs"),
        include_str!("shortage.rs"),
    ]
    .concat();
    for difference in DIFFERENCES {
        let function = difference.test.rsplit("::").next().unwrap_or_default();
        assert!(
            function == "*" || sources.contains(&format!("fn {function}()")),
            "no test {}",
            difference.test
        );
    }
}
