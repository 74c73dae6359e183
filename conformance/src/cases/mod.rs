//! The cases: plain functions over a [`Rig`], each for one clause.
//!
//! A case may rely on nothing but the contract. Reports of streams may be spurious, sends may be done at once, split, blocked or
//! pending, and everything may come in any order; what a case demands must follow from its clause.

pub mod buffers;
pub mod cancel;
pub mod exits;
pub mod fairness;
pub mod fds;
pub mod forget;
pub mod fork;
pub mod overlap;
pub mod quiesce;
pub mod sends;
pub mod signals;
pub mod streams;
pub mod threads;
pub mod time;
pub mod wake;
pub mod watches;

use crate::clause::Clause;
use crate::rig::Rig;

/// A case of the suite.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The clause that it is about.
    pub clause: Clause,
    /// Its name.
    pub name: &'static str,
    /// The case itself; it fails by panicking.
    pub run: fn(&mut Rig),
}

/// The only list of cases: calls `$then!` with `[$args]` and a line per case.
#[macro_export]
macro_rules! for_each_case {
    ($then:ident $($args:tt)*) => {
        $then! { [$($args)*]
            C1 sends::pending_sends_end_once_each,
            C1 sends::a_pending_send_is_finished_when_the_stream_has_room_again,
            C1 sends::pending_sends_that_all_meet_full_streams_leave_during_the_wait,
            C1 sends::a_send_to_a_dead_peer_fails_once,
            C1 sends::a_finished_send_is_over,
            C2 sends::a_send_that_was_done_is_not_reported,
            C2 sends::a_full_stream_is_blocked_and_no_error,
            C2 sends::a_full_stream_is_no_result_of_a_pending_send,
            C2 sends::what_was_not_gathered_is_never_pending,
            C3 cancel::a_cancelled_send_ends_all_the_same,
            C3 cancel::a_cancelled_send_tells_what_had_left,
            C3 cancel::stale_tokens_are_ignored,
            C4 buffers::memory_is_free_after_a_send_was_done,
            C4 buffers::memory_is_free_after_the_terminal_event,
            C4 buffers::a_blocked_send_took_nothing,
            C5 fds::the_callers_fds_stay_open,
            C5 fds::nothing_stays_open_after_drop,
            C6 watches::a_watch_reports_while_there_is_something_to_read,
            C6 watches::a_watch_reports_while_there_is_room_to_write,
            C6 watches::one_poll_reports_a_watch_once,
            C6 watches::what_was_over_before_a_poll_is_not_reported,
            C6 watches::what_comes_after_something_that_was_over_is_reported,
            C6 watches::a_changed_watch_reports_what_it_now_waits_for,
            C6 watches::a_closed_peer_is_readable,
            C6 watches::many_watches_are_all_reported,
            C6 watches::what_cannot_be_watched_is_refused,
            C6 watches::a_file_that_was_closed_spoils_nothing_for_the_others,
            C6 watches::a_watch_for_one_report_reports_what_is_there,
            C6 watches::a_watch_for_one_report_reports_what_comes,
            C6 watches::a_watch_for_one_report_can_be_given_up,
            C6 watches::a_reused_number_is_watched_for_one_report,
            C6 streams::a_stream_reports_what_was_ready_before_it_was_attached,
            C6 streams::a_rearmed_stream_reports_what_comes_later,
            C6 streams::a_rearmed_stream_reports_what_came_meanwhile,
            C6 streams::a_rearmed_stream_reports_that_it_has_room,
            C6 streams::bytes_alone_are_not_reported_as_an_end,
            C6 streams::a_half_closed_stream_still_reports_room,
            C6 streams::a_stream_is_read_to_its_end,
            C6 streams::a_reset_stream_is_ready_both_ways,
            C7 forget::nothing_is_reported_of_the_forgotten,
            C7 forget::a_reused_number_is_a_new_file,
            C7 forget::a_duplicate_does_not_report_for_the_forgotten,
            C7 forget::a_forgotten_stream_ends_when_it_is_closed,
            C7 forget::a_send_of_the_forgotten_still_ends,
            C8 wake::a_wake_before_the_wait_ends_it,
            C8 wake::a_wake_during_the_wait_ends_it,
            C8 wake::many_wakes_end_one_wait,
            C8 wake::no_wake_of_any_thread_is_lost,
            C9 time::a_wait_is_never_early,
            C9 time::a_wait_of_nothing_is_over_at_once,
            C9 time::a_wait_for_ever_lasts_until_something_happens,
            C9 time::a_half_closed_peer_keeps_no_writer_busy,
            C9 time::what_was_reported_does_not_cut_the_next_wait_short,
            C10 signals::a_signal_ends_a_wait,
            C10 signals::a_signal_ends_a_wait_that_also_sends,
            C11 fairness::every_watch_gets_its_turn,
            C11 fairness::every_stream_gets_its_turn,
            C11 fairness::every_end_of_a_send_gets_its_turn,
            C12 overlap::a_second_send_in_flight_is_caught,
            C12 overlap::sends_one_after_another_keep_their_order,
            C13 fork::a_child_that_forgets_disturbs_nothing,
            C13 fork::a_child_that_drops_its_copy_disturbs_nothing,
            C13 fork::a_child_can_have_a_backend_of_its_own,
            C14 quiesce::nothing_is_in_flight_after_quiesce,
            C14 quiesce::quiesce_gives_way_to_a_full_list,
            C14 quiesce::a_backend_goes_on_after_quiesce,
            C15 threads::a_backend_works_in_the_thread_that_binds_it,
            C15 threads::sends_in_flight_go_along,
            C15 threads::a_wait_for_room_goes_along,
            C16 exits::a_child_that_ends_is_reported_once,
            C16 exits::a_child_that_had_ended_is_reported_or_refused,
            C16 exits::nothing_is_reported_of_a_forgotten_child,
        }
    };
}

macro_rules! table {
    ([] $($clause:ident $module:ident::$case:ident,)+) => {
        /// Every case, in the order of the clauses.
        pub const CASES: &[Case] = &[
            $(Case { clause: Clause::$clause, name: stringify!($case), run: $module::$case }),+
        ];
    };
}

for_each_case!(table);

/// The case of that name.
///
/// # Panics
/// Without such a case.
#[must_use]
pub fn case(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).expect("the name of a case")
}
