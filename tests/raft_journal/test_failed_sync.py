"""A sync that failed leaves what it should have written in the page cache, marked as written; the next life must not rely on it.

time 0   a sync fails; the node stops. The cache has the new bytes, the disk has not
time 1   the node starts again, and reads the cache
time 2   the power goes: what the node acted upon in that life must be there
"""

from __future__ import annotations

import errno
import os

import pytest

from holdfast_coordinator.raft.errors import JournalError


def stopped_by_a_failed_sync(store, change, *, after: int = 0):
    """The next life, after the sync number `after` of the change has failed."""
    left = after

    def fail(step) -> None:
        nonlocal left
        if step.call == "sync":
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    store.disk.before = fail
    change(store.journal)
    with pytest.raises(JournalError):
        store.journal.sync()
    store.disk.before = None
    return store.killed()


def test_what_the_next_life_found_is_still_there_after_a_power_cut(store) -> None:
    """It acknowledges the entries that it found at its start, so they have to be on its disk."""
    store.add(b"a")
    store.journal.sync()
    again = stopped_by_a_failed_sync(store, lambda journal: journal.add(b"b", 2, 1))
    assert again.journal.durable_index == 2
    assert again.power_cut().commands == [b"a", b"b"]


def test_what_the_next_life_appends_follows_no_hole(store) -> None:
    """After the power cut the node starts, and has what was synced on top of what it had found."""
    store.add(b"a")
    store.journal.sync()
    again = stopped_by_a_failed_sync(store, lambda journal: journal.add(b"b", 2, 1))
    again.add(b"c")
    again.journal.sync()
    assert again.power_cut().commands == [b"a", b"b", b"c"]


def test_a_second_failure_is_no_worse_than_the_first(store) -> None:
    """The start itself fails in its sync, and the one after it does not."""
    store.add(b"a")
    store.journal.sync()
    again = stopped_by_a_failed_sync(store, lambda journal: journal.add(b"b", 2, 1))
    third = stopped_by_a_failed_sync(again, lambda journal: journal.add(b"c", 3, 1), after=1)
    assert third.power_cut().commands == [b"a", b"b", b"c"]


@pytest.mark.parametrize("slot", [0, 1])
def test_a_vote_that_the_next_life_found_is_not_forgotten(store, slot: int) -> None:
    """It tells others of the vote, so the vote has to be on its disk, whichever slot the sync failed for."""

    def vote(journal) -> None:
        journal.setCurrentTerm(7, "n2")

    again = stopped_by_a_failed_sync(store, vote, after=slot)
    assert again.journal.getVotedForNodeId() == "n2"
    later = again.power_cut()
    assert (later.journal.getCurrentTerm(), later.journal.getVotedForNodeId()) == (7, "n2")
