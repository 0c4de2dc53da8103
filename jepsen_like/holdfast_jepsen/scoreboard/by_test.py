"""Mutants that no history shows soon: each is found by a test of the product that is named here, and run by the scoreboard.

Rule: the test passes on the product as it is, and fails while the mutant is in place; both are tried, in processes of their own. A
test that breaks, of a TypeError for instance, has found nothing: the mutant does not fit the product any more.
What is impossible in our use (docs/engine.md says why) has no mutant: its test watches that it stays so.

The mutation is put in place by `under_mutant`, a plugin of pytest, before the test is imported.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import NotAcquired
from holdfast.lock import Lock
from holdfast_coordinator.node import Node
from holdfast_coordinator.raft import library, messages, recovery, segments, shield
from holdfast_coordinator.raft.engine import Engine
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.kernel import Kernel
from holdfast_coordinator.raft.snapshots import SnapshotStore, SnapshotWriter, file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast_coordinator.raft.messages import Ack, VoteRequest

ROOT = Path(__file__).parents[3]
"""Of the source tree: the tests are not part of an installation."""
MUTANT_VARIABLE = "HOLDFAST_MUTANT"
TEST_SECONDS_MAX = 900
"""Of one process; on a busy machine most of it is the start of an interpreter."""
BROKEN_STATUS = 70
"""What pytest ends with, by `under_mutant`, when a test ended of something that is no verdict. Its own end at 5."""


@dataclass(frozen=True, slots=True)
class ByTest:
    """`change`: (owner, name, what stands there instead); none: nothing can be changed, see the module."""

    name: str
    weakens: str
    story: str
    test: str
    change: tuple[Any, str, Any] | None = None
    also: tuple[tuple[Any, str, Any], ...] = ()
    """Further changes, where two cures stand behind each other."""
    errors: tuple[str, ...] = ()
    """Names of exceptions that mean the mutant was found, beside a failed assertion."""

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The product is so."""
        changes = ([] if self.change is None else [self.change]) + list(self.also)
        before = [(owner, name, owner.__dict__[name]) for owner, name, _ in changes]
        for owner, name, value in changes:
            setattr(owner, name, value)
        try:
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)


def passes(*tests: str, mutant: str = "") -> bool:
    """Whether all the tests do, under this mutant. Raises RuntimeError if they cannot be run, or break."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        PLUGIN,
        *tests,
    ]
    done = subprocess.run(  # noqa: S603
        command,
        cwd=ROOT,
        env={**os.environ, MUTANT_VARIABLE: mutant},
        capture_output=True,
        text=True,
        timeout=TEST_SECONDS_MAX,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{tests[0]} cannot be run: {done.stdout[-300:]}{done.stderr[-300:]}")
    return done.returncode == 0


def is_found(mutant: ByTest, *, passes_without: bool | None = None) -> bool:
    """Whether its test passes without it (None: that is tried), and fails with it."""
    if passes_without is None:
        passes_without = passes(mutant.test)
    return passes_without and (mutant.change is None or not passes(mutant.test, mutant=mutant.name))


PLUGIN = "holdfast_jepsen.scoreboard.under_mutant"

_on_ack, _on_vote_request = Kernel._on_ack, Kernel._on_vote_request
_apply_committed = Kernel.apply_committed


def _any_term(self: Kernel, peer: str, ack: Ack) -> None:
    stamp = min(ack.stamp, self._stamp)
    _on_ack(self, peer, replace(ack, term=max(ack.term, self.term), stamp=stamp))


def _fresh(self: Kernel, peer: str, ack: Ack) -> None:
    """Whatever arrives is news of now."""
    _on_ack(self, peer, replace(ack, stamp=self._new_stamp()))


def _no_exemption(self: Kernel, peer: str, request: VoteRequest) -> None:
    _on_vote_request(self, peer, replace(request, hand_over=False))


def _applies_again(self: Kernel) -> bool:
    """As the library: an entry counts as applied only after its apply."""
    try:
        return _apply_committed(self)
    except Exception:
        raft: Any = self._raft
        raft._SyncObj__raftLastApplied -= 1
        raise


def _goes_on(self: Kernel) -> bool:
    try:
        return _apply_committed(self)
    except Exception:  # noqa: BLE001 - that is the mutant
        return False


def _stamps_without_leading(self: Kernel) -> None:
    self._publish()
    if self._append_from_host():
        self._raft._SyncObj__sendAppendEntries()


def _unverified(self: SnapshotWriter) -> None:
    assert self._file is not None
    self._file.sync()
    self.close()


def _ignores_damage(journal: Any, store: SnapshotStore) -> Any:
    """As the library: what cannot be read is passed over, and the state is empty."""
    for index in store.indices():
        with contextlib.suppress(Exception):
            header, payload = store.load(index)
            return recovery.Restored(header.info, payload)
    return None


def _never_beyond_its_own_end(ack: Ack, match_index: int, last: int) -> int:
    del last
    return max(ack.next_index, match_index + 1, 2)


def _decides_at_once(self: Engine, kernel: Kernel) -> bool:
    del self, kernel
    return False


def _takes_into_its_queue(self: Any, command: bytes, callback: Any, kind: int) -> None:
    self._SyncObj__commandsQueue.put_nowait((bytes([kind]) + command, callback))


def _same_name(self: SnapshotStore, index: int) -> str:
    return file_name(index) + ".tmp"


def _beyond_the_end(self: Journal) -> int:
    return max(1, self._commit_index)


def _lists(self: Journal, position: Any) -> Any:
    found = self._entries[position]
    return [list(e) for e in found] if isinstance(position, slice) else list(found)


_enter_block = Lock.__aenter__


async def _enters_anyway(self: Any) -> Any:
    try:
        return await _enter_block(self)
    except NotAcquired:
        return None


_leave_block = Lock.__aexit__


async def _leaves_anyway(self: Any, *error: Any) -> None:
    """Whoever had no lock has none to give back; what happened in the block comes out."""
    if self._grant is not None:
        await _leave_block(self, *error)


def _rewriting(journal: Journal, count: int) -> None:
    """As the library: cleared, and what is left is added again."""
    rest = journal[count:]
    journal.clear()
    journal.sync()
    for entry in rest:
        journal.add(*entry)
    journal.sync()


def _first_only(log: Any, index: int, commit_index: int) -> int:
    del log, commit_index
    return index


DEVIATIONS, ELECTIONS = "tests/raft/test_deviations.py", "tests/raft/test_elections.py"
JOURNAL, SNAPSHOTS = "tests/raft_journal", "tests/raft_snapshots"
ACCEPTS = (messages, "check_command", lambda command, entry_bytes_max: None)

BY_TEST = (
    ByTest("stale-acks", "D3", "an acknowledgement of another term counts",
           f"{DEVIATIONS}::TestD3AcknowledgementsWithoutATerm::test_ours_drops_it", (Kernel, "_on_ack", _any_term)),
    ByTest("older-connection", "D4", "what a superseded connection delivers cuts the log",
           f"{DEVIATIONS}::TestD4SupersededSocketsDeliver::test_ours_would_not_be_harmed_even_then",
           (shield, "normalise", lambda append, log, commit_index: shield.Fresh(
               append.prev_index, append.prev_term, [], append.prev_index + len(append.entries)))),
    ByTest("commit-beyond-log", "D7", "a commit index may lie behind the end of the log",
           f"{JOURNAL}/test_stock.py::test_d7_ours_ends_the_commit_index_with_the_log",
           (Journal, "getRaftCommitIndex", _beyond_the_end)),
    ByTest("rewritten-in-place", "D8", "cutting the log clears it, and writes the rest again",
           f"{JOURNAL}/test_stock.py::test_d8_ours_keeps_the_end_of_the_log_wherever_compaction_is_interrupted",
           (Journal, "deleteEntriesTo", _rewriting), errors=("IndexError",)),  # it looks for the end of an empty log
    ByTest("no-checksums", "D9", "the checksums of the journal are not looked at",
           f"{JOURNAL}/test_damage.py::test_a_flipped_bit_anywhere_in_the_log_is_refused",
           (segments, "crc32c", lambda data, value=0: 0)),
    ByTest("older-snapshot", "D10", "a snapshot is installed over a log that has more",
           f"{SNAPSHOTS}/test_transfer.py::test_d10_a_follower_that_has_more_refuses_the_snapshot_and_keeps_its_suffix",
           (Kernel, "_has", lambda self, index, term: False)),
    ByTest("unverified-snapshot", "D11", "a snapshot is acknowledged without a look at it",
           f"{SNAPSHOTS}/test_transfer.py::test_d11_a_snapshot_of_which_a_piece_is_wrong_is_never_acknowledged",
           (SnapshotWriter, "finish", _unverified)),
    ByTest("applies-again", "D12", "an entry whose apply raised is applied again",
           f"{DEVIATIONS}::TestD12CallbackThatRaises::test_ours_never_does", (Kernel, "apply_committed", _applies_again),
           errors=("RuntimeError",)),  # what its entry raises, a second time
    ByTest("poison", "D13", "an apply that raised is passed over",
           f"{DEVIATIONS}::TestD13PoisonPill::test_ours_stops_at_the_first", (Kernel, "apply_committed", _goes_on)),
    ByTest("versions", "D14", "entries of the library's own types are taken",
           "tests/raft/test_stock_application.py::TestD14CodeVersionsAndNumbersOfMethods::"
           "test_ours_has_neither_versions_nor_numbers", ACCEPTS),
    ByTest("damaged-snapshot", "D16", "a damaged snapshot is passed over, and the state is empty",
           f"{SNAPSHOTS}/test_recovery.py::test_d16_a_damaged_snapshot_without_the_entries_in_its_place_stops_the_start",
           (recovery, "recover", _ignores_damage)),
    ByTest("no-stickiness", "D19", "whoever comes back deposes the leader",
           "tests/raft/test_cluster_in_memory.py::TestD19Elections::test_a_node_that_was_cut_off_does_not_depose_the_leader",
           (Kernel, "_pre_vote_if_due", lambda self: None),
           ((Kernel, "_is_sticky", lambda self, candidate: False),)),
    ByTest("old-news", "D20", "any answer is taken for news of now",
           "tests/raft/test_cluster_in_memory.py::TestD20OldAnswersAreNoNews", (Kernel, "_on_ack", _fresh)),
    ByTest("never-again", "D21", "what was forwarded and lost is not sent again",
           "tests/node/test_node.py::test_a_lost_message_is_sent_again_and_acts_once",
           (Node, "_retry_stalled", lambda self, now_ns: None), errors=("InvalidStateError",)),  # nobody has an answer yet
    ByTest("one-by-one", "D22", "a follower names one entry before the conflict, not its term",
           f"{DEVIATIONS}::TestD22BacktrackingOneIndexAProbe::test_ours_is_corrected_in_two_answers",
           (shield, "_first_of_its_term", _first_only)),
    ByTest("forks", "D23", "impossible here: a new interpreter compacts; its test watches that it ends with its parent",
           f"{SNAPSHOTS}/test_compactor.py::test_d23_the_process_ends_with_its_parent"),
    ByTest("sync-again", "D24", "after an error of the disk the journal goes on",
           f"{JOURNAL}/test_journal.py::test_after_an_error_of_the_disk_nothing_is_ever_durable_again",
           (Journal, "_check", lambda self: None)),
    ByTest("decides-first", "D25", "after a stall the deadline is looked at before the sockets",
           "tests/raft/test_engine.py::test_d25_after_a_stall_sockets_are_read_before_an_election",
           (Engine, "_reads_first", _decides_at_once), errors=("TimeoutError",)),  # what it waits for does not come
    ByTest("library-queue", "D26", "the library's queue takes commands",
           "tests/raft/test_engine_page.py::test_d26_stock_fails_a_command_that_it_has_queued_and_ours_has_no_queue",
           (library.Raft, "_applyCommand", _takes_into_its_queue)),
    ByTest("beyond-the-end", "D27", "a leader goes on behind the end of its own log",
           "tests/raft/test_engine_page.py::test_d27_a_leader_never_goes_beyond_the_end_of_its_log",
           (shield, "next_index_after_reset", _never_beyond_its_own_end)),
    ByTest("members-in-the-log", "D28", "the log may change the members",
           f"{DEVIATIONS}::TestD34PickleInTheLog::test_ours_refuses_every_other_type_of_entry_from_a_peer", ACCEPTS),
    ByTest("lock-manager", "D29", "impossible here: it is not imported",
           "tests/raft/test_engine_page.py::test_d29_the_librarys_lock_manager_is_not_used"),
    ByTest("lists", "D31", "entries come back as lists",
           f"{JOURNAL}/test_journal.py::test_it_reads_like_a_list_of_tuples", (Journal, "__getitem__", _lists)),
    ByTest("one-temporary-name", "D32", "all lives share one temporary name",
           f"{SNAPSHOTS}/test_recovery.py::test_d32_no_two_lives_of_a_node_share_a_temporary_name",
           (SnapshotStore, "new_temporary_name", _same_name)),
    ByTest("commit-index-one", "D33", "the commit index is not kept",
           f"{JOURNAL}/test_stock.py::test_d33_ours_is_one_group_behind_at_most",
           (Journal, "setRaftCommitIndex", lambda self, index: None)),
    ByTest("pickled-entries", "D34", "entries that the library would unpickle are taken",
           f"{DEVIATIONS}::TestD34PickleInTheLog::test_ours_refuses_every_other_type_of_entry_from_a_peer", ACCEPTS),
    ByTest("stale-stamps", "D35", "whoever does not lead any more stamps and appends",
           f"{DEVIATIONS}::TestD35StaleStamps", (Kernel, "propose", _stamps_without_leading)),
    ByTest("no-exemption", "D36", "a planned successor is refused for the leader's sake",
           f"{ELECTIONS}::TestD36HandingOver", (Kernel, "_on_vote_request", _no_exemption)),
    ByTest("body-without-lock", "G10", "a block is entered whatever the cluster said",
           "tests/client/test_acquire.py::test_the_body_never_runs_without_the_lock", (Lock, "__aenter__", _enters_anyway),
           ((Lock, "__aexit__", _leaves_anyway),)),
)  # fmt: skip


def by_name() -> dict[str, ByTest]:
    """All of them."""
    return {mutant.name: mutant for mutant in BY_TEST}


def enter(name: str) -> Callable[[], None]:
    """Put a mutant in place for the rest of this process; the result takes it away."""
    stack = contextlib.ExitStack()
    stack.enter_context(by_name()[name].in_place())
    return stack.close
