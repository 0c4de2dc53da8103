"""Every state that a power cut can leave behind, at every step of everything the journal does.

After the method of ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014): stop before
each step, keep any subset of what was not synced, with one write torn at any byte, and start again. The node
must start, with what the last returned sync left or with what the running one was writing, and with no mixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from holdfast_coordinator.raft.journal import Journal

    State = tuple[tuple[tuple[bytes, int, int], ...], tuple[int, str | None]]

Change = "Callable[[Journal], None]"


def state(journal: Journal) -> State:
    return tuple(journal[:]), (journal.getCurrentTerm(), journal.getVotedForNodeId())


def add(*commands: bytes, term: int = 0) -> Change:
    def change(journal: Journal) -> None:
        for command in commands:
            journal.add(command, journal[-1][1] + 1 if len(journal) else 1, term)

    return change


def cut(position: int) -> Change:
    return lambda journal: journal.deleteEntriesFrom(position)


def drop(count: int) -> Change:
    return lambda journal: journal.deleteEntriesTo(count)


def vote(term: int, name: str | None) -> Change:
    return lambda journal: journal.setCurrentTerm(term, name)


def second() -> Change:
    return lambda journal: journal.onOneSecondTimer()


def install(index: int) -> Change:
    def change(journal: Journal) -> None:
        journal.clear()
        journal.add(b"prev", index - 1, 9)
        journal.add(b"last", index, 9)

    return change


# Each inner list is one sync. Term 0 where the vote is not the matter: its slots are large.
STORIES: dict[str, list[list[Change]]] = {
    "append": [[add(b"a")], [add(b"b", b"cc", b"")], [add(b"d")]],
    "seal": [[add(b"a", b"b")], [second(), second(), second()], [add(b"c")]],
    "vote": [[vote(1, "n1")], [vote(2, "n3")]],
    "vote and append at once": [[add(b"a")], [vote(3, "n2"), add(b"b", term=3)]],
    "truncate": [[add(b"a", b"b", b"c")], [cut(1)], [add(b"B")]],
    "truncate and append at once": [
        [add(b"a", b"b", b"c")],
        [cut(1), add(b"B")],
        [cut(0), add(b"A", b"B", b"C")],
    ],
    "truncate again and again to the same place": [
        [add(b"a", b"b")],
        [cut(1), add(b"c")],
        [cut(1), add(b"d")],
        [cut(1)],
    ],
    "roll": [[add(b"%d" % number * 150)] for number in range(5)],
    "truncate over a roll": [
        [add(b"a" * 150)],
        [add(b"b" * 150)],
        [add(b"c" * 150)],
        [cut(1), add(b"B")],
    ],
    "compact": [
        [add(b"a" * 150)],
        [add(b"b" * 150)],
        [add(b"c" * 150)],
        [drop(2)],
        [add(b"d" * 150)],
        [drop(1), add(b"e")],
    ],
    "install a snapshot": [[add(b"a", b"b")], [install(50)], [add(b"c", term=9)]],
    "install an older one": [[install(50)], [install(20)], [add(b"c", term=9)]],
}

EVERY_BYTE = ("append", "vote", "truncate and append at once")


@pytest.mark.parametrize("story", STORIES)
def test_a_power_cut_at_any_step_leaves_the_old_or_the_new(store, big_store, story) -> None:
    """... and what the node found when it started stays, should the power fail again at once."""
    if story in EVERY_BYTE:
        store = big_store
    tried = 0
    allowed = {state(store.journal)}

    def power_cut(_) -> None:
        nonlocal tried
        # Every byte for the basic writes; the longer stories repeat those with larger ones.
        for left in store.disk.power_cuts(stride=1 if story in EVERY_BYTE else 7):
            found = store.again(left)
            assert state(found.journal) in allowed
            assert not left.unsynced, "what a node has read and may act upon is on disk"
            tried += 1

    store.disk.before = power_cut
    for changes in STORIES[story]:
        old_log, old_vote = state(store.journal)
        for change in changes:
            change(store.journal)
        new_log, new_vote = state(store.journal)
        allowed = {(old_log, old_vote), (old_log, new_vote), (new_log, new_vote)}
        store.journal.sync()
        allowed = {(new_log, new_vote)}
        power_cut(None)
    assert tried > 100


def test_the_first_start_can_be_interrupted_anywhere(store) -> None:
    """No step of creating a journal leaves a directory that cannot be started."""
    fresh = type(store)
    disk = type(store.disk)()
    starts = 0

    def power_cut(_) -> None:
        nonlocal starts
        for left in disk.power_cuts(stride=16):
            assert state(fresh(left).journal) == ((), (0, None))
            starts += 1

    disk.before = power_cut
    fresh(disk)
    assert starts > 200


def test_the_repair_of_a_torn_tail_can_be_interrupted_too(store) -> None:
    """A power cut in the middle of a recovery from a power cut."""
    store.add(b"a")
    store.journal.sync()
    store.add(b"torn" * 10)
    possible = [], [b"torn" * 10], [b"next"], [b"torn" * 10, b"next"]

    def torn_groups(step) -> None:
        if step.call != "sync":
            return
        for left in store.disk.power_cuts(stride=5):

            def power_cut(_, left=left) -> None:
                for again in left.power_cuts(stride=64):
                    commands = store.again(again).commands
                    assert commands[:1] == [b"a"]
                    assert commands[1:] in possible

            left.before = power_cut
            found = store.again(left)
            found.add(b"next")
            found.journal.sync()
            left.before = None
            assert found.power_cut().commands == found.commands

    store.disk.before = torn_groups
    store.journal.sync()


def test_what_a_killed_process_left_in_the_cache_is_synced_before_it_is_believed(store) -> None:
    """kill -9 in the middle of a sync, a start that reads the page cache, then a power cut."""

    class Killed(Exception):
        pass

    syncs: list[str] = []

    def kill(step) -> None:
        if step == type(step)("sync", "journal-00000001.segment"):
            syncs.append(step.name)
            if len(syncs) == 2:  # the first is of the file's length
                raise Killed

    store.add(b"a")
    store.disk.before = kill
    with pytest.raises(Killed):
        store.journal.sync()
    second = store.killed()
    assert second.journal.durable_index == 1
    assert second.commands == [b"a"]
    assert second.power_cut().commands == [b"a"]


def test_a_vote_in_the_cache_of_a_killed_process_is_synced_before_it_is_believed(store) -> None:
    class Killed(Exception):
        pass

    def kill(step) -> None:
        if step.call == "sync":
            raise Killed

    store.journal.setCurrentTerm(7, "n2")
    store.disk.before = kill
    with pytest.raises(Killed):
        store.journal.sync()
    second = store.killed()
    assert state(second.journal) == ((), (7, "n2"))
    assert state(second.power_cut().journal) == ((), (7, "n2"))


def test_no_power_cut_during_the_start_after_a_kill_loses_the_older_vote(store) -> None:
    """The new vote is in the cache in one slot; the other slot, the last good one on the platter, must
    not be touched before the new one is on the platter as well.
    """

    class Killed(Exception):
        pass

    store.journal.setCurrentTerm(6, "n2")
    store.journal.sync()
    store.journal.setCurrentTerm(7, "n3")
    store.disk.before = lambda step: kill(step.call == "sync")

    def kill(now: bool) -> None:
        if now:
            raise Killed

    with pytest.raises(Killed):
        store.journal.sync()
    left = store.disk.after_kill()
    starts = 0

    def power_cut(_) -> None:
        nonlocal starts
        for again in left.power_cuts(stride=100):
            assert state(store.again(again).journal)[1] in ((6, "n2"), (7, "n3"))
            starts += 1

    left.before = power_cut
    store.again(left)
    assert starts > 50


def test_nothing_of_a_torn_tail_is_left_behind_the_log(store) -> None:
    """Whoever looks at the file later finds the log and unused space, and no second torn tail."""
    store.add(b"a")
    store.journal.sync()
    store.add(b"torn" * 10)
    cuts = []
    store.disk.before = lambda step: cuts.extend(
        store.disk.power_cuts(stride=9) if step.call == "sync" else []
    )
    store.journal.sync()
    for left in cuts:
        found = store.again(left)
        found.add(b"next")
        found.journal.sync()
        data = found.disk.contents(found.path, "journal-00000001.segment")
        assert not data[data.rindex(b"next") + len(b"next") :].strip(b"\0")
