"""The journal protocol of pysyncobj, and what `sync` promises."""

from __future__ import annotations

import errno
import os

import pytest

from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.errors import EngineFailure, JournalError
from holdfast_coordinator.raft.journal import COMMAND_BYTES_MAX, Journal


def test_it_reads_like_a_list_of_tuples(store) -> None:
    """Positions, negative positions and slices work, and entries are tuples (pysyncobj compares them)."""
    store.add(b"a", b"b", b"c", term=2)
    assert len(store.journal) == 3
    assert store.journal[0] == (b"a", 1, 2)
    assert store.journal[-1] == (b"c", 3, 2)
    assert store.journal[1:] == [(b"b", 2, 2), (b"c", 3, 2)]
    store.journal.sync()
    again = store.killed()
    assert again.journal[:] == store.journal[:]
    assert all(type(entry) is tuple for entry in again.journal[:])


def test_what_was_synced_survives_a_power_cut_and_the_rest_does_not_matter(store) -> None:
    store.add(b"a", b"b")
    store.journal.setCurrentTerm(4, "n2")
    store.journal.sync()
    store.add(b"never synced", term=4)
    store.journal.setCurrentTerm(5, "n3")
    again = store.power_cut()
    assert again.commands == [b"a", b"b"]
    assert (again.journal.getCurrentTerm(), again.journal.getVotedForNodeId()) == (4, "n2")
    assert again.journal.durable_index == 2


def test_the_durable_index_counts_only_what_is_on_disk_and_still_in_the_log(store) -> None:
    """The acknowledgement of a follower is clamped to it, so it must fall with a deletion."""
    journal = store.journal
    store.add(b"a", b"b", b"c")
    assert journal.durable_index == 0
    journal.sync()
    assert journal.durable_index == 3
    journal.deleteEntriesFrom(1)
    assert journal.durable_index == 1
    store.add(b"B", b"C", b"D", term=2)
    assert journal.durable_index == 1
    journal.sync()
    assert journal.durable_index == 4
    assert store.power_cut().commands == [b"a", b"B", b"C", b"D"]


def test_a_group_of_entries_costs_one_sync_of_one_file(big_store) -> None:
    """Group commit: 500 entries, one write, one fdatasync; a clean journal costs nothing."""
    big_store.add(b"warm up")
    big_store.journal.sync()
    calls: list[str] = []
    big_store.disk.before = lambda step: calls.append(step.call)
    big_store.add(*[b"entry"] * 500)
    big_store.journal.sync()
    big_store.journal.sync()
    assert calls == ["reserve", "sync", "write", "sync"], (
        "where the file has to grow, its length is synced first"
    )
    calls.clear()
    big_store.add(b"entry")
    big_store.journal.sync()
    assert calls == ["write", "sync"]
    assert big_store.journal.sync_count == 3


def test_the_observer_is_told_how_long_a_sync_took(store) -> None:
    ticks = iter([10.0, 10.5])
    journal = Journal(store.again(store.disk.after_kill()).directory, clock=lambda: next(ticks))
    seen: list[float] = []
    journal.sync_observer = seen.append
    journal.sync()
    journal.add(b"a", 1, 0)
    journal.sync()
    assert seen == [0.5]


def test_a_changed_vote_alone_is_synced_too(store) -> None:
    store.journal.setCurrentTerm(7, "n2")
    store.journal.sync()
    assert store.journal.sync_count == 1
    assert store.power_cut().journal.getVotedForNodeId() == "n2"


def test_an_entry_of_a_later_term_raises_the_term_without_a_vote(store) -> None:
    """An entry on disk whose term is not would let the node vote again in that term."""
    store.journal.setCurrentTerm(3, "n2")
    store.add(b"a", term=5)
    store.journal.sync()
    again = store.power_cut().journal
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (5, None)


def test_an_entry_that_leaves_a_gap_is_refused(store) -> None:
    """Lookups are positional: a gap would shift every later entry."""
    store.add(b"a")
    with pytest.raises(JournalError, match="entry 3 cannot follow entry 1"):
        store.journal.add(b"c", 3, 1)
    assert len(store.journal) == 1


def test_an_oversized_command_is_refused_before_it_is_in_the_log(store) -> None:
    with pytest.raises(JournalError, match="are allowed"):
        store.journal.add(bytes(COMMAND_BYTES_MAX + 1), 1, 1)
    assert len(store.journal) == 0


def test_negative_positions_cannot_be_deleted(store) -> None:
    with pytest.raises(ValueError, match="not negative"):
        store.journal.deleteEntriesFrom(-1)
    with pytest.raises(ValueError, match="not negative"):
        store.journal.deleteEntriesTo(-1)


def test_the_commit_index_is_between_one_and_the_end_of_the_log(store) -> None:
    journal = store.journal
    assert journal.getRaftCommitIndex() == 1
    store.add(b"a", b"b", b"c")
    journal.setRaftCommitIndex(30)
    assert journal.getRaftCommitIndex() == 3
    journal.setRaftCommitIndex(3)
    journal.deleteEntriesFrom(1)
    store.add(b"B", b"C", b"D")
    assert journal.getRaftCommitIndex() == 1, "the new entries are not known to be committed"


def test_the_commit_index_rides_with_the_next_group(store) -> None:
    store.add(b"a", b"b")
    journal = store.journal
    journal.sync()
    journal.setRaftCommitIndex(2)
    journal.sync()
    assert journal.sync_count == 1, "a commit index alone is not worth a sync"
    store.add(b"c")
    journal.sync()
    assert store.power_cut().journal.getRaftCommitIndex() == 2


def test_an_idle_second_seals_the_log_once(store) -> None:
    """Idle for a second: the commit index and a seal are written; then nothing more, for ever."""
    store.add(b"a", b"b")
    journal = store.journal
    journal.setRaftCommitIndex(2)
    journal.sync()
    for _ in range(5):
        journal.onOneSecondTimer()
    assert journal.sync_count == 2
    journal.setRaftCommitIndex(1)
    journal.onOneSecondTimer()
    assert journal.sync_count == 3
    assert store.power_cut().journal.getRaftCommitIndex() == 1


def test_a_busy_second_writes_no_seal(store) -> None:
    for command in (b"a", b"b", b"c"):
        store.add(command)
        store.journal.sync()
        store.journal.onOneSecondTimer()
    assert store.journal.sync_count == 3


def test_dropped_entries_take_their_segments_with_them(store) -> None:
    for number in range(40):
        store.add(b"entry %d" % number)
        store.journal.sync()
    before = [name for name in store.names() if name.endswith(".segment")]
    assert len(before) > 5
    store.journal.deleteEntriesTo(35)
    store.journal.sync()
    after = [name for name in store.names() if name.endswith(".segment")]
    assert 0 < len(after) < 4
    assert after[-1] == before[-1]
    again = store.power_cut()
    assert again.journal[:] == store.journal[:]
    assert again.journal[0][1] == 36


def test_the_journal_knows_how_much_of_the_disk_it_takes(store) -> None:
    """Through new segments, dropped ones, and a start."""

    def segments(store) -> list[str]:
        return [name for name in store.names() if name.endswith(".segment")]

    def check(store) -> None:
        sizes = [len(store.disk.contents(store.path, name)) for name in segments(store)]
        assert store.journal.segment_count == len(sizes)
        assert store.journal.disk_bytes == sum(sizes)

    for number in range(40):
        store.add(b"entry %d" % number)
        store.journal.sync()
        check(store)
    check(store.power_cut())
    store.journal.deleteEntriesTo(35)
    store.journal.sync()
    check(store)
    check(store.power_cut())


def test_deleting_everything_keeps_the_position(store) -> None:
    store.add(b"a", b"b")
    store.journal.sync()
    store.journal.deleteEntriesTo(2)
    store.journal.sync()
    again = store.power_cut()
    assert len(again.journal) == 0
    again.journal.add(b"c", 3, 1)
    again.journal.sync()
    assert again.power_cut().journal[:] == [(b"c", 3, 1)]


def test_a_cleared_log_may_begin_anywhere_and_changes_in_one_step(store) -> None:
    """As after the installation of a snapshot: the old log or the new one, never an empty one."""
    store.add(b"a", b"b")
    store.journal.sync()
    store.journal.clear()
    store.journal.add(b"y", 99, 3)
    store.journal.add(b"z", 100, 3)
    assert store.power_cut().commands == [b"a", b"b"]
    store.journal.sync()
    again = store.power_cut()
    assert again.journal[:] == [(b"y", 99, 3), (b"z", 100, 3)]
    again.journal.clear()
    again.journal.sync()
    empty = again.power_cut()
    assert len(empty.journal) == 0
    empty.journal.add(b"new", 7, 4)
    empty.journal.sync()
    assert empty.power_cut().journal[:] == [(b"new", 7, 4)]


@pytest.mark.parametrize("call", ["write", "sync", "reserve", "create", "rename", "sync directory"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_after_an_error_of_the_disk_nothing_is_ever_durable_again(store, call, code) -> None:
    """No acknowledgement on top of a failed fsync: the second one would succeed, and prove nothing."""
    store.add(b"a")
    store.journal.sync()

    def fail(step) -> None:
        if step.call == call:
            raise OSError(code, os.strerror(code))

    store.disk.before = fail

    def write() -> None:
        for number in range(30):  # enough to need space, and a new segment
            store.add(b"entry %d" % number)
            store.journal.sync()

    with pytest.raises(JournalError, match=os.strerror(code)) as caught:
        write()
    assert isinstance(caught.value, EngineFailure)
    durable = store.journal.durable_index
    acknowledged = store.commands[:durable]
    store.disk.before = None
    assert store.journal.failed
    for use in (
        store.journal.sync,
        store.journal.onOneSecondTimer,
        lambda: store.add(b"more"),
        lambda: store.journal.setCurrentTerm(9, None),
        lambda: store.journal.deleteEntriesFrom(0),
    ):
        with pytest.raises(JournalError):
            use()
    assert store.journal.durable_index == durable
    store.journal._destroy()
    for disk in (store.disk.after_power_cut(), store.disk.after_kill()):
        assert store.again(disk).commands[:durable] == acknowledged


def test_destroy_syncs_closes_and_may_be_called_twice(store) -> None:
    store.add(b"a")
    store.journal._destroy()
    store.journal._destroy()
    with pytest.raises(JournalError, match="closed"):
        store.add(b"b")
    assert store.power_cut().commands == [b"a"]


def test_the_same_on_the_real_disk(tmp_path) -> None:
    """Roll, cut, drop, vote and restart with real files."""
    path = tmp_path / "n1"

    def opened() -> tuple[DataDirectory, Journal]:
        directory = DataDirectory.open(path, cluster="c", node="n1")
        return directory, Journal(directory, segment_bytes=4096, reserve_bytes=1024)

    directory, journal = opened()
    for index in range(1, 201):
        journal.add(b"x" * (index % 50), index, index // 50)
        if index % 7 == 0:
            journal.sync()
    journal.deleteEntriesFrom(150)
    journal.add(b"instead", 151, 9)
    journal.deleteEntriesTo(100)
    journal.setCurrentTerm(9, "n3")
    journal.sync()
    expected = journal[:]
    assert journal.durable_index == 151
    journal._destroy()
    directory.close()
    directory, journal = opened()
    assert journal[:] == expected
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (9, "n3")
    assert directory.boot == 2
    assert not [name for name in path.iterdir() if name.stat().st_mode & 0o077]
    journal._destroy()
    directory.close()


def test_entries_may_be_dropped_before_they_were_ever_on_disk(store) -> None:
    """Then the log on disk has no end that the next group could join."""
    store.add(b"a", b"b", b"c", b"d")
    store.journal.deleteEntriesTo(3)
    store.journal.sync()
    store.add(b"e")
    store.journal.sync()
    assert store.power_cut().journal[:] == [(b"d", 4, 1), (b"e", 5, 1)]


@pytest.mark.parametrize("restart", [False, True])
def test_segments_whose_entries_were_cut_off_are_dropped_as_well(store, restart) -> None:
    """Entries 2 to 12 are written a second time, in later segments; the first ones hold nothing then."""
    for number in range(12):
        store.add(b"%d" % number * 60)
        store.journal.sync()
    store.journal.deleteEntriesFrom(1)
    store.add(b"instead")
    store.journal.sync()
    if restart:
        store = store.power_cut()
    store.journal.deleteEntriesTo(1)
    store.journal.sync()
    assert len([name for name in store.names() if name.endswith(".segment")]) <= 2
    assert store.power_cut().journal[:] == [(b"instead", 2, 1)]
