"""Every state that a crash can leave behind while a snapshot is taken or installed, and what a start makes of it.

After the method of ALICE, as in tests/raft_journal: stop before each step, keep any subset of what was not synced,
with one write torn, and start again. The node must come back with everything that was acknowledged.
"""

from __future__ import annotations

import pytest
from snapshot_lives import PATH, Life, replayer

from holdfast_coordinator.raft.compactor import compact
from holdfast_coordinator.raft.errors import SnapshotError
from holdfast_coordinator.raft.memory_disk import MemoryDisk, Step
from holdfast_coordinator.raft.messages import Ack, Append, Message, SnapshotChunk, SnapshotOffer
from holdfast_coordinator.raft.snapshots import (
    HEADER_BYTES,
    Header,
    decode_header,
    describe,
    encode_header,
    file_name,
)

WORDS = [b"%d" % number * 20 for number in range(12)]


def alone(disk: MemoryDisk) -> Life:
    return Life(disk)


def words(life: Life) -> list[bytes]:
    return [item[2].encode() for item in life.host.state]


def test_a_start_goes_on_from_the_snapshot_and_the_rest_of_the_journal() -> None:
    life = alone(MemoryDisk())
    life.propose(*WORDS[:8])
    info = life.take_snapshot()
    life.propose(*WORDS[8:])
    assert life.journal[0][1] == info.index - 2
    again = alone(life.disk.after_power_cut())
    assert again.host.restored == [info.index]
    again.propose(b"next")
    assert words(again) == [*WORDS, b"next"]


def test_d1_a_crash_at_any_step_of_taking_a_snapshot_loses_nothing() -> None:
    """Before, between and after: the file, its name, the cut of the journal, the end of the older file."""
    life = alone(MemoryDisk())
    life.propose(*WORDS[:4])
    life.take_snapshot()
    life.propose(*WORDS[4:])
    steps: set[str] = set()
    tried = 0

    def crash(step: Step) -> None:
        nonlocal tried
        steps.add(f"{step.call} {'journal' if 'journal' in step.name else 'snapshot'}")
        for left in (*life.disk.power_cuts(stride=150), life.disk.after_kill()):
            found = alone(left)
            found.propose(b"next")
            assert words(found) == [*WORDS, b"next"]
            assert len(found.names) == 1
            found = alone(found.disk.after_power_cut())
            found.propose()
            assert words(found) == [*WORDS, b"next"]
            tried += 1

    life.disk.before = crash
    life.take_snapshot()
    life.disk.before = None
    assert {"create snapshot", "rename snapshot", "write journal", "remove snapshot"} <= steps
    assert tried > 60


def test_d1_what_an_orphaned_compactor_does_later_changes_nothing() -> None:
    """Time 0: a compactor is at work; time 1: its node is killed, with entries acknowledged since; time 2: the node
    starts again; time 3: the orphan finishes; time 4, 5: two more starts. The library's orphan renames its dump, and
    the next start but one clears the journal."""
    life = alone(MemoryDisk())
    life.propose(*WORDS[:4])
    job = life.job()
    life.propose(*WORDS[4:])
    second = alone(life.disk.after_kill())
    compact(second.directory.files, job, replayer)
    for _ in range(2):
        second = alone(second.disk.after_kill())
        second.propose()
        assert words(second) == WORDS
        assert second.names == []


def test_d32_no_two_lives_of_a_node_share_a_temporary_name() -> None:
    life = alone(MemoryDisk())
    names = {life.store.new_temporary_name(7), life.store.new_temporary_name(7)}
    again = alone(life.disk.after_kill())
    assert len(names | {again.store.new_temporary_name(7)}) == 3


class Followed:
    """A follower with a log of its own that gets a snapshot of entry 50 from a leader of term 2."""

    PAYLOAD = b'[[50, 2, "state"]]'

    def __init__(self, disk: MemoryDisk) -> None:
        self.life = Life(disk, peers=("n2", "n3"))
        for peer in ("n2", "n3"):
            self.life.kernel.peer_connected(peer)

    def say(self) -> list[Message]:
        said: list[Message] = []
        self.life.kernel.release(lambda _peer, messages: said.extend(messages))
        return said

    def follow(self) -> None:
        """Entries 2 to 20 of an older leader; the first ten are committed."""
        entries = tuple((1, b"\x10%d" % index) for index in range(2, 21))
        self.life.kernel.receive("n2", Append(1, 11, 1, 0, 1, entries))
        self.life.kernel.tick()
        self.say()

    def install(self) -> list[Message]:
        info = describe(50, 2, self.PAYLOAD)
        kernel = self.life.kernel
        kernel.receive("n3", SnapshotOffer(2, 1, 50, 2, info.length, info.digest))
        self.say()
        kernel.receive("n3", SnapshotChunk(2, 2, 50, 0, self.PAYLOAD[:7]))
        kernel.receive("n3", SnapshotChunk(2, 3, 50, 7, self.PAYLOAD[7:]))
        self.life.read_snapshot()
        return self.say()


def test_a_crash_at_any_step_of_an_installation_leaves_the_old_or_the_new_one_whole() -> None:
    """... and the new one for certain once the leader may have heard of it."""
    node = Followed(MemoryDisk())
    node.follow()
    disk = node.life.disk
    seen: set[int] = set()
    tried = 0

    def check(left: MemoryDisk) -> None:
        nonlocal tried
        found = Life(left, peers=("n2", "n3"))
        found.kernel.tick()
        last = found.kernel.last_index
        seen.add(last)
        if last == 50:
            assert (len(found.journal), found.journal[0][1:]) == (1, (50, 2))
            assert found.host.state == [[50, 2, "state"]]
            assert found.kernel.commit_index == 50
        else:
            assert last == 20
            assert [item[0] for item in found.host.state] in ([], list(range(2, 12)))
            assert found.names == []
        assert found.journal.getCurrentTerm() >= 1
        tried += 1

    def crash(_step: Step) -> None:
        for left in (*disk.power_cuts(stride=150), disk.after_kill()):
            check(left)

    disk.before = crash
    assert Ack(2, 51, True, False, 3) in node.install()
    disk.before = None
    assert seen == {20, 50}
    assert tried > 60
    seen.clear()
    check(disk.after_power_cut())
    assert seen == {50}


def test_a_crash_in_the_recovery_from_a_crash_is_recovered_from() -> None:
    """The first start finishes the installation; the power fails at each of its steps."""
    node = Followed(MemoryDisk())
    node.follow()
    stopped: list[MemoryDisk] = []

    def stop(step: Step) -> None:
        if step.call == "write" and "journal" in step.name and node.life.names:
            stopped.append(node.life.disk.after_power_cut())

    node.life.disk.before = stop
    node.install()
    disk = stopped[-1]
    starts = 0

    def power_cut(_step: Step) -> None:
        nonlocal starts
        for left in disk.power_cuts(stride=40):
            assert Life(left, peers=("n2", "n3")).kernel.last_index == 50
            starts += 1

    disk.before = power_cut
    assert Life(disk, peers=("n2", "n3")).kernel.last_index == 50
    assert starts > 10


# What is refused.


def two_snapshots(keep: int) -> Life:
    """A node stopped between the renaming of its second snapshot and the removal of the first."""
    life = alone(MemoryDisk())
    life.propose(*WORDS[:4])
    life.take_snapshot(keep)
    first = life.disk.contents(PATH, life.names[0])
    index = life.store.newest.index
    life.propose(*WORDS[4:])
    life.take_snapshot(keep)
    file = life.directory.files.create(file_name(index))
    file.write(0, first)
    file.sync()
    life.directory.files.sync()
    return life


def flip(life: Life, name: str, at: int) -> None:
    data = bytearray(life.disk.contents(PATH, name))
    data[at] ^= 1
    life.disk.damage(PATH, name, bytes(data))


@pytest.mark.parametrize("at", [0, 9, 20, 40, 400, 511, 512, -1])
def test_d16_a_damaged_snapshot_without_the_entries_in_its_place_stops_the_start(at: int) -> None:
    """The library starts with an empty state, can lead, and never applies anything again."""
    life = alone(MemoryDisk())
    life.propose(*WORDS)
    life.take_snapshot()
    flip(life, life.names[0], at)
    before = life.disk.after_power_cut()
    with pytest.raises(SnapshotError, match=r"snapshot-0.*Nothing was changed.*as a new one"):
        alone(life.disk.after_power_cut())
    assert before.contents(PATH, life.names[0]) == life.disk.contents(PATH, life.names[0])


def test_a_damaged_snapshot_is_passed_over_while_an_older_one_and_the_journal_say_the_same() -> (
    None
):
    life = two_snapshots(keep=100)
    flip(life, life.names[1], -1)
    found = alone(life.disk.after_power_cut())
    found.propose(b"next")
    assert words(found) == [*WORDS, b"next"]
    assert found.host.restored == [found.store.newest.index]


def test_a_damaged_snapshot_is_passed_over_while_the_journal_has_everything() -> None:
    life = alone(MemoryDisk())
    life.propose(*WORDS)
    life.take_snapshot(keep=100)
    flip(life, life.names[0], -1)
    found = alone(life.disk.after_power_cut())
    found.propose()
    assert words(found) == WORDS


def test_an_older_snapshot_is_not_enough_when_the_journal_begins_behind_it() -> None:
    life = two_snapshots(keep=1)
    flip(life, life.names[1], -1)
    with pytest.raises(SnapshotError, match="newest usable snapshot"):
        alone(life.disk.after_power_cut())


def test_d16_a_journal_whose_snapshot_is_missing_stops_the_start() -> None:
    """Without it the node would begin in the middle of history, with an empty table."""
    life = alone(MemoryDisk())
    life.propose(*WORDS)
    life.take_snapshot()
    life.directory.files.remove(life.names[0])
    life.directory.files.sync()
    with pytest.raises(SnapshotError, match="snapshot of what was before is missing"):
        alone(life.disk.after_power_cut())


def test_a_snapshot_whose_journal_is_missing_stops_the_start() -> None:
    """With the journal went the vote: this node could vote twice in one term."""
    life = alone(MemoryDisk())
    life.propose(*WORDS)
    life.take_snapshot()
    for name in life.directory.files.names():
        if name.startswith(("journal-", "vote")):
            life.directory.files.remove(name)
    life.directory.files.sync()
    with pytest.raises(SnapshotError, match="vote"):
        alone(life.disk.after_power_cut())


def test_a_snapshot_of_another_cluster_is_not_used() -> None:
    life = alone(MemoryDisk())
    life.propose(*WORDS)
    life.take_snapshot()
    data = life.disk.contents(PATH, life.names[0])
    info = decode_header(data).info
    foreign = encode_header(Header(info, "other", installed=False)) + data[HEADER_BYTES:]
    life.disk.damage(PATH, life.names[0], foreign)
    with pytest.raises(SnapshotError, match="belongs to cluster other"):
        alone(life.disk.after_power_cut())


def test_a_journal_that_lost_its_end_is_not_taken_for_an_interrupted_installation() -> None:
    """The snapshot was made of this journal, so its last entry was in it: a disk has gone back in time."""
    life = alone(MemoryDisk())
    life.propose(*WORDS[:4])
    old = {
        name: life.disk.contents(PATH, name)
        for name in life.directory.files.names()
        if name != "lock"
    }
    life.propose(*WORDS[4:])
    life.take_snapshot(keep=100)
    left = life.disk.after_power_cut()
    for name in left.directory(PATH).names():
        if name.startswith(("journal-", "vote")):
            if name in old:
                left.damage(PATH, name, old[name])
            else:
                left.directory(PATH).remove(name)
    left.directory(PATH).sync()
    with pytest.raises(SnapshotError, match="made of this journal, which now ends at entry"):
        alone(left)
