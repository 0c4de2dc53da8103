"""For each deviation of the audit, a test that shows the unchanged pysyncobj failing, under the schedule of docs/engine.md."""

from __future__ import annotations

from typing import Final

_DEVIATIONS, _ELECTIONS = "tests/raft/test_deviations.py", "tests/raft/test_stock_elections.py"
_APPLICATION = "tests/raft/test_stock_application.py"
_JOURNAL, _SNAPSHOTS = "tests/raft_journal/test_stock.py", "tests/raft_snapshots/test_stock.py"

STOCK: Final = {
    "D1": f"{_SNAPSHOTS}::test_d1_stock_clears_its_journal_when_it_was_not_cut_to_the_dump",
    "D2": f"{_DEVIATIONS}::TestD2FollowerCutsWhatItHasAcknowledged::test_stock_forgets_acknowledged_entries",
    "D3": f"{_DEVIATIONS}::TestD3AcknowledgementsWithoutATerm::test_stock_counts_it",
    "D4": f"{_DEVIATIONS}::TestD4SupersededSocketsDeliver::test_stock_delivers_from_both",
    "D5": f"{_JOURNAL}::test_d5_stock_syncs_nothing",
    "D6": f"{_JOURNAL}::test_d6_stock_forgets_its_vote_when_the_file_is_empty",
    "D7": f"{_JOURNAL}::test_d7_stock_believes_a_commit_index_beyond_its_log",
    "D8": f"{_JOURNAL}::test_d8_stock_loses_entries_when_compaction_is_interrupted",
    "D9": f"{_JOURNAL}::test_d9_stock_serves_a_flipped_bit_and_a_gap",
    "D10": f"{_SNAPSHOTS}::test_d10_stock_goes_back_below_what_it_has_acknowledged",
    "D11": f"{_SNAPSHOTS}::test_d11_stock_acknowledges_a_snapshot_that_it_could_not_read",
    "D12": f"{_DEVIATIONS}::TestD12CallbackThatRaises::test_stock_applies_the_entry_again",
    "D13": f"{_DEVIATIONS}::TestD13PoisonPill::test_stock_repeats_the_first_half_for_ever",
    "D14": f"{_APPLICATION}::TestD14CodeVersionsAndNumbersOfMethods::test_stock_calls_another_method_once_one_was_added",
    "D15": f"{_DEVIATIONS}::TestD15RepliesToAnEarlierLife::test_stock_resolves_the_new_request_with_the_old_reply",
    "D16": f"{_SNAPSHOTS}::test_d16_stock_starts_with_an_empty_state_when_its_dump_is_damaged",
    "D17": f"{_DEVIATIONS}::TestD17VotesAreCountedNotVoters::test_stock_is_elected_by_two_of_five",
    "D19": f"{_ELECTIONS}::test_d19_stock_deposes_a_healthy_leader_for_a_node_that_was_cut_off",
    "D20": f"{_ELECTIONS}::test_d20_stock_takes_old_answers_for_news",
    "D21": f"{_APPLICATION}::TestD21CallbacksThatAreNeverCalled::test_stock_never_answers_what_was_lost_with_a_connection",
    "D22": f"{_DEVIATIONS}::TestD22BacktrackingOneIndexAProbe::test_stock_goes_back_by_one",
    "D23": f"{_SNAPSHOTS}::test_d23_stock_forks_the_process_with_all_its_threads",
    "D24": f"{_JOURNAL}::test_d24_stock_differs_from_its_disk_from_4_gib_on",
    "D25": f"{_ELECTIONS}::test_d25_stock_stands_for_election_with_the_leaders_heartbeat_unread",
    "D26": "tests/raft/test_engine_page.py::test_d26_stock_fails_a_command_that_it_has_queued_and_ours_has_no_queue",
    "D27": f"{_ELECTIONS}::test_d27_stock_probes_with_nothing_beyond_the_end_of_its_log",
    "D28": f"{_APPLICATION}::TestD28ThreeListsOfMembers::test_stock_is_elected_by_two_of_five_after_a_restart",
    "D29": f"{_APPLICATION}::TestD29TheLibrarysLockManager::test_stock_gives_a_lock_away_that_is_held",
    "D30": f"{_APPLICATION}::TestD30TheClockInSuspend::test_stock_believes_that_no_time_has_passed",
    "D31": f"{_SNAPSHOTS}::test_d31_stock_clears_its_journal_when_entries_come_back_as_lists",
    "D32": f"{_SNAPSHOTS}::test_d32_stock_replaces_a_good_dump_by_whatever_lies_under_the_temporary_name",
    "D33": f"{_JOURNAL}::test_d33_stock_starts_from_commit_index_one_when_killed_within_a_second",
    "D34": f"{_DEVIATIONS}::TestD34PickleInTheLog::test_stock_unpickles_every_entry",
    "D35": f"{_DEVIATIONS}::TestD35StaleStamps::test_stock_forwards_it_as_it_is",
    "D36": f"{_ELECTIONS}::test_d36_stock_does_not_hand_over_while_anything_is_unacknowledged",
}
"""D37, a disk that is lost, is not the library's to see: it has no identity of a disk at all."""
