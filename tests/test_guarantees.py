"""What cloister guarantees, and which tests would fail if it did not: for whoever wants to know what a change may have
broken, or what a promise rests on. The test here holds that each test which is named exists.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

GUARANTEES: dict[str, str] = {
    "what is acknowledged survives the death of any process, and of the machine": """
        engine/test_calls.py::test_a_host_may_die_at_any_write_or_sync_and_again_in_the_life_after_it
        engine/test_torn.py::test_a_machine_may_die_at_any_sync_with_something_torn_behind_it
        engine/test_crash.py::test_what_was_acknowledged_survives_kill_9_at_random_instants
    """,
    "a step that was reached runs until it has an outcome": """
        engine/test_model.py::test_the_engine_does_what_the_model_does
        engine/test_losses.py::test_a_lost_run_restarts_at_once_and_nobody_notices
        acceptance/test_eviction.py::test_an_eviction_in_the_middle_of_each_body_changes_nothing
    """,
    "an outcome is recorded once, never changes, and its body does not run again": """
        engine/test_journal.py::test_an_outcome_is_recorded_once
        engine/test_journal.py::test_nothing_is_recorded_by_a_run_that_is_over
        engine/test_steps.py::test_a_step_runs_once_however_often_the_run_is_replayed
        acceptance/test_eviction.py::test_a_run_that_is_left_alone_runs_each_body_once
    """,
    "a failure that was recorded is an outcome": """
        engine/test_steps.py::test_spent_retries_raise_the_last_error_and_a_replay_raises_it_again
        acceptance/test_steps.py::test_a_failure_that_was_caught_is_remembered
        acceptance/test_refusals.py::test_what_is_beyond_a_limit_is_beyond_it_again
    """,
    "crashes and evictions change no output": """
        engine/test_losses.py::test_the_outcome_is_the_same_with_any_number_of_losses_and_restarts
        engine/test_testing.py::test_a_story_ends_the_same_after_a_crash_at_any_commit
        acceptance/test_replay.py::test_random_programs_end_the_same_with_and_without_evictions
    """,
    "retries are the author's: what the host loses costs none": """
        engine/test_losses.py::test_losses_do_not_use_up_the_retries_of_a_step
        engine/test_promises.py::attempts_and_losses
        acceptance/test_eviction.py::test_no_number_of_evictions_of_one_step_ends_an_instance
    """,
    "one id is created once": """
        engine/test_control.py::test_one_id_is_created_once_whoever_races
        engine/test_control.py::test_a_batch_skips_what_exists_and_leaves_it_out
        engine/test_promises.py::a_race_for_an_id
    """,
    "no event is lost, and none is delivered twice": """
        engine/test_model.py::test_a_wrong_engine_is_found_out
        engine/test_waiting.py::test_an_event_sent_before_its_wait_is_kept_for_it
        engine/test_waiting.py::test_an_event_beats_a_timeout_that_is_not_recorded_yet
        engine/test_promises.py::an_event_at_the_last_moment
    """,
    "events of a type arrive in the order in which they were sent": """
        engine/test_waiting.py::test_events_arrive_in_order_beyond_ten
        acceptance/test_steps.py::test_events_are_taken_in_the_order_they_were_sent
    """,
    "no timer is early, and none is forgotten": """
        engine/test_waiting.py::test_a_sleep_ends_at_its_deadline_and_not_before
        engine/test_waiting.py::test_a_sleep_over_downtime_ends_when_the_engine_is_back
        engine/test_waiting.py::test_a_clock_set_back_delays_once_and_set_forward_wakes
        acceptance/test_numbers.py::test_timers_that_are_due_together_all_run_and_none_is_early
    """,
    "no instance is lost": """
        engine/test_promises.py::a_host_that_dies_anywhere
        engine/test_losses.py::test_a_commit_of_unknown_outcome_leaves_nothing_claimed_by_nobody
        acceptance/test_survival.py::test_a_host_that_is_killed_again_and_again_loses_nothing
        acceptance/test_numbers.py::test_what_is_in_flight_when_a_host_dies_ends_and_no_more_of_it_runs_twice
    """,
    "a tenant does not learn that another one's names exist": """
        engine/test_promises.py::another_scope
        loader/test_tenancy.py::test_another_tenants_id_and_an_unknown_one_are_told_of_in_the_same_words
        loader/test_tenancy.py::test_one_tenants_events_and_controls_reach_no_other
    """,
    "nothing that a sandbox says chooses whose it is": """
        loader/test_tenancy.py::test_the_metadata_authorises_nothing
        loader/test_tenancy.py::test_a_tenant_that_spoofs_metadata_still_runs_its_own_code
        loader/test_capabilities.py::test_a_forged_capability_reaches_nothing
        ipc/test_fuzz.py::test_a_peer_takes_any_frames_and_ends_once
    """,
    "a sandbox reaches nothing that it was not given": """
        hostile/test_attacks.py::test_it_is_refused
        hostile/test_attacks.py::test_it_succeeds_where_nothing_confines_it
    """,
    "a hostile tenant costs its limits and no more": """
        engine/test_promises.py::a_hoarder
        engine/test_promises.py::a_hoarder_by_other_ways
        loader/test_bad_input.py::test_a_tenant_that_takes_too_much_memory_harms_nobody_else
    """,
    "tenants share what there is": """
        engine/test_promises.py::a_long_queue
        engine/test_sharing.py::test_who_has_thousands_queued_starves_nobody
        engine/test_waiting.py::test_a_resumed_instance_goes_before_a_new_one
        loader/test_pools.py::test_a_greedy_tenant_does_not_hold_up_the_others
    """,
    "what kills its process ends, and its neighbours do not": """
        engine/test_promises.py::a_poison_pill
        engine/test_losses.py::test_ten_losses_without_progress_end_the_instance
        acceptance/test_survival.py::test_a_poisonous_tenant_ends_and_its_neighbour_goes_on
    """,
    "a run goes on with the code that it began with, or says that other code does not fit": """
        engine/test_journal.py::test_code_is_pinned_before_whatever_is_recorded_after_it
        engine/test_steps.py::test_a_replay_that_misses_recorded_steps_is_an_error_not_a_wrong_result
        acceptance/test_code.py::test_latest_code_that_does_not_fit_is_an_error_and_no_wrong_result
        acceptance/test_survival.py::test_code_is_pinned_and_new_instances_get_the_new
    """,
    "a file has one owner": """
        engine/test_promises.py::two_hosts
        engine/test_database.py::test_a_second_engine_on_the_same_file_is_refused_at_once
        engine/test_database.py::test_a_child_that_others_fork_does_not_keep_the_file_of_its_dead_parent
        loader/test_operator.py::test_what_a_host_has_is_steered_by_nobody_else
    """,
    "what only waits costs a row": """
        engine/test_waiting.py::test_a_parked_run_leaves_nothing_in_memory
        engine/test_database.py::test_a_sleeping_instance_takes_at_most_700_bytes_on_disk
        acceptance/test_survival.py::test_a_sleeping_instance_holds_nothing
    """,
    "a host that is told to stop loses nothing and leaves nothing": """
        engine/test_losses.py::test_closing_the_engine_is_no_loss
        loader/test_redeploy.py::test_a_run_that_is_drained_goes_on_when_its_host_is_opened_again
        demo/test_demo.py::test_a_demo_that_is_stopped_tidies_up
    """,
    "what cannot be stored is not acknowledged": """
        engine/test_storage.py::test_a_full_disk_acknowledges_nothing_and_is_got_over
        engine/test_full.py::test_a_disk_that_is_full_is_borne_and_got_over
        engine/test_losses.py::test_a_failed_commit_acknowledges_nothing_and_the_run_goes_on_later
        engine/test_database.py::test_a_newer_database_is_refused_and_left_alone
        engine/test_storage.py::test_a_damaged_file_is_refused_and_left_alone
    """,
    "an end is final": """
        engine/test_promises.py::a_late_end
        engine/test_control.py::test_terminate_is_final_and_drops_late_results
        engine/test_control.py::test_a_finished_instance_takes_no_events_and_no_controls
    """,
}
"""Each with what it rests on: tests, and stories that a test tells of the engine and of those that break them."""

COMPATIBLE: dict[str, str] = {
    "creating: ids, params, the event": """
        engine/test_control.py::test_bad_input_to_the_binding_is_refused_and_creates_nothing
        engine/test_steps.py::test_params_default_to_an_empty_map_and_none_stays_none
        engine/test_pure.py::test_an_improper_id_is_refused_with_the_rule_in_words
        engine/test_schedules.py::test_each_firing_creates_one_instance_whose_id_tells_which
        loader/test_dispatch.py::test_the_runner_gets_its_own_params_with_the_original_id_and_time
    """,
    "batches: what exists is skipped, each place is answered, sizes are checked": """
        engine/test_control.py::test_a_batch_skips_what_exists_and_leaves_it_out
        engine/test_instances.py::test_the_object_form_of_a_batch_tells_of_each
        engine/test_instances.py::test_a_batch_may_be_a_number_of_the_same
        engine/test_instances.py::test_delete_batch_answers_each_place
    """,
    "deleting: all goes, the id is free, an instance that deletes itself stops": """
        engine/test_instances.py::test_a_deleted_instance_is_gone_and_its_id_is_free
        engine/test_instances.py::test_an_instance_that_deletes_itself_goes_no_further
        engine/test_instances.py::test_who_waits_for_a_deleted_instance_is_told
    """,
    "statuses, and every call in each of them": """
        engine/test_instances.py::test_every_call_in_every_state
        engine/test_control.py::test_the_status_tells_times_and_steps
        engine/test_control.py::test_a_finished_instance_takes_no_events_and_no_controls
        engine/test_control.py::test_terminating_what_only_waits_or_is_queued_needs_no_run
    """,
    "pausing: steps in flight end, a resume calls it off, a restart of the host completes it": """
        engine/test_control.py::test_a_pause_lets_the_step_in_flight_finish
        engine/test_control.py::test_a_resume_calls_off_a_pause_that_has_not_begun
        engine/test_control.py::test_a_pause_shifts_pending_deadlines_by_its_length
        engine/test_control.py::test_an_event_sent_during_a_pause_is_there_afterwards
        engine/test_model.py::test_the_engine_does_what_the_model_does
        acceptance/test_crowds.py::test_a_pause_waits_for_all_that_is_in_flight
    """,
    "restarting: from each status, or from a step whose predecessors keep their results": """
        engine/test_instances.py::test_a_restart_is_legal_in_every_state
        engine/test_instances.py::test_a_restart_begins_a_new_run_from_nothing_but_the_params
        engine/test_instances.py::test_a_restart_from_a_step_keeps_what_began_before_it
        engine/test_instances.py::test_a_restart_from_a_step_that_is_not_there_changes_nothing
        engine/test_instances.py::test_a_restart_begins_with_a_clean_slate
    """,
    "attempts: counted from 1, `limit` retries, delays that are honoured or said by a function": """
        engine/test_steps.py::test_a_failing_step_is_tried_again_after_its_delays
        engine/test_pure.py::test_backoff_follows_its_formula_until_the_retries_are_spent
        engine/test_attempts.py::test_a_function_says_how_long_to_wait_and_the_backoff_multiplies_it
        engine/test_attempts.py::test_a_function_that_cannot_say_fails_the_step_at_once
        engine/test_steps.py::test_an_attempt_that_takes_too_long_fails_and_is_retried
    """,
    "the context of a step: name and count, defaults completed, changes without effect": """
        acceptance/test_steps.py::test_what_a_body_does_to_its_context_concerns_nobody_else
        engine/test_steps.py::test_equal_names_are_told_apart_by_their_order
        engine/test_steps.py::test_the_first_configuration_of_a_step_wins_over_later_ones
        engine/test_pure.py::test_a_configuration_is_completed_with_the_defaults
    """,
    "failures: what is not retried, what is caught, what ends the instance": """
        engine/test_steps.py::test_a_non_retryable_error_is_not_retried
        acceptance/test_steps.py::test_a_failure_that_was_caught_is_remembered
        engine/test_steps.py::test_an_uncaught_error_ends_the_instance_with_its_name_and_message
        engine/test_steps.py::test_what_cannot_be_stored_fails_the_step_without_retries
    """,
    "streams: stored and read again, only of bytes, cleaned up, within the time of the attempt": """
        engine/test_streams.py::test_a_stream_of_any_size_is_a_result_and_is_read_anew_in_a_replay
        engine/test_streams.py::test_a_stream_of_anything_but_bytes_fails_its_step_without_retries
        engine/test_streams.py::test_an_attempt_that_fails_midway_leaves_no_pieces_behind
        engine/test_streams.py::test_the_time_limit_of_an_attempt_includes_its_stream
        engine/test_streams.py::test_the_pieces_go_with_their_step_and_with_their_instance
        engine/test_testing.py::test_a_mocked_stream_is_recorded_and_read_as_a_real_one
    """,
    "results come back as they were": """
        engine/test_steps.py::test_the_caller_always_sees_the_stored_form_of_a_result
        loader/test_tenancy.py::test_params_of_any_shape_arrive_bit_by_bit
        acceptance/test_steps.py::test_what_a_step_returns_is_the_same_in_every_run
    """,
    "sensitive results: replayed, and shown to nobody": """
        engine/test_steps.py::test_what_is_sensitive_is_replayed_and_shown_to_nobody
        engine/test_storage.py::test_an_exported_instance_has_everything_but_what_is_sensitive
    """,
    "events: buffered, in order, by type, not to a wait that is over": """
        engine/test_waiting.py::test_events_arrive_in_order_beyond_ten
        engine/test_waiting.py::test_an_event_sent_before_its_wait_is_kept_for_it
        engine/test_waiting.py::test_a_wait_without_an_event_times_out_and_stays_so
        engine/test_waiting.py::test_an_event_beats_a_timeout_that_is_not_recorded_yet
    """,
    "limits on steps": """
        engine/test_journal.py::test_the_ten_thousand_and_first_step_is_refused
        engine/test_attempts.py::test_a_workflow_says_how_many_steps_a_run_may_have
        acceptance/test_refusals.py::test_what_is_beyond_a_limit_is_beyond_it_again
    """,
    "rollback: backwards, with its own retries, also of the failed step, until one cannot be taken back": """
        engine/test_rollback.py::test_a_workflow_that_fails_takes_its_steps_back_last_one_first
        engine/test_rollback.py::test_steps_side_by_side_are_taken_back_in_reverse_order_of_their_start
        engine/test_rollback.py::test_a_handler_is_retried_and_the_first_that_fails_for_good_ends_it
        engine/test_rollback.py::test_nothing_is_taken_back_on_success_or_when_the_failure_is_caught
        engine/test_rollback.py::test_a_recorded_step_that_is_not_reached_again_ends_the_rollback
        engine/test_rollback.py::test_terminate_with_rollback_takes_back_what_a_sleeping_instance_has_done
        engine/test_rollback.py::test_an_instance_that_never_ran_is_terminated_with_nothing_to_take_back
    """,
    "names, ids, durations and configurations that are taken, and those that are refused": """
        engine/test_pure.py::test_a_proper_id_is_taken
        engine/test_pure.py::test_names_have_no_control_characters_and_a_bound
        engine/test_pure.py::test_a_wrong_configuration_is_refused_by_the_name_of_its_key
        engine/test_pure.py::test_what_is_no_duration_is_refused
    """,
}
"""What the tests of Cloudflare's open engine hold of its workflows, and which hold it here."""


@functools.cache
def functions(file: Path) -> frozenset[str]:
    """Those at the top of a file."""
    nodes = ast.parse(file.read_text()).body
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("guarantee", [*GUARANTEES, *COMPATIBLE])
def test_what_a_guarantee_rests_on_exists(guarantee: str) -> None:
    """Whoever renames or drops a test of these sees what it was for."""
    named = (GUARANTEES | COMPATIBLE)[guarantee].split()
    assert named
    for name in named:
        file, _, function = name.partition("::")
        assert (TESTS / file).is_file(), f"there is no {file} any longer"
        assert function in functions(TESTS / file), f"{file} has no {function} any longer"
