"""A peer that is too far behind for the leader's log gets the leader's snapshot, whole or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from snapshot_lives import Life, Nodes, through_the_codec

from holdfast_coordinator.raft import snapshot_transfer
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.memory_disk import MemoryDisk
from holdfast_coordinator.raft.messages import (
    Ack,
    Append,
    Message,
    SnapshotAnswer,
    SnapshotChunk,
    SnapshotOffer,
)
from holdfast_coordinator.raft.snapshots import describe

PIECE = 64


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots of some hundred bytes travel in several pieces."""
    monkeypatch.setattr(snapshot_transfer, "SNAPSHOT_CHUNK_BYTES", PIECE)


def behind(*, seed: int = 1, entries: int = 40) -> tuple[Nodes, str, str]:
    """A cluster of three; one node was away while the others replaced their logs by snapshots."""
    nodes = Nodes(seed=seed)
    leader = nodes.elect()
    away = next(name for name in nodes.names if name != leader)
    nodes.propose(leader, b"before")
    nodes.settle(*nodes.names)
    nodes.cluster.isolate(away)
    for number in range(entries):
        nodes.propose(leader, b"entry %d" % number)
        nodes.cluster.run_for(0.01)
    others = [name for name in nodes.names if name != away]
    nodes.settle(*others)
    for name in others:
        nodes.lives[name].take_snapshot()
    nodes.propose(leader, b"after")
    nodes.settle(*others)
    return nodes, leader, away


def assert_equal(nodes: Nodes) -> None:
    states = [nodes.lives[name].host.state for name in nodes.names]
    assert states[0] == states[1] == states[2]
    assert [item[2] for item in states[0]][:1] == ["before"]


def test_a_peer_that_was_away_gets_the_snapshot_and_then_the_entries_behind_it() -> None:
    nodes, leader, away = behind()
    nodes.cluster.heal_all()
    nodes.settle(*nodes.names)
    assert_equal(nodes)
    life = nodes.lives[away]
    assert life.host.restored == [nodes.lives[leader].store.newest.index]
    assert life.kernel.stats.snapshots_installed == 1
    assert [nodes.lives[name].kernel.stats.snapshots_sent for name in nodes.names] == [
        int(name == leader) for name in nodes.names
    ]
    assert life.names == [f"snapshot-{life.host.restored[0]:020d}"]
    assert len(life.journal) < 10


def test_what_was_installed_survives_a_power_cut() -> None:
    nodes, _, away = behind()
    nodes.cluster.heal_all()
    nodes.settle(*nodes.names)
    nodes.crash(away)
    nodes.cluster.start(away)
    nodes.settle(*nodes.names)
    assert_equal(nodes)
    assert nodes.lives[away].kernel.stats.snapshots_installed == 0


def test_a_new_leader_can_serve_the_one_that_was_away_and_be_succeeded_by_it() -> None:
    """The node that installed a snapshot leads later on, with a log that begins with the snapshot."""
    nodes, leader, away = behind()
    nodes.cluster.heal_all()
    nodes.settle(*nodes.names)
    nodes.crash(leader)
    for _ in range(6):
        present = nodes.elect()
        if present == away:
            break
        nodes.crash(present)
        nodes.cluster.start(leader)
        leader = present
    nodes.cluster.start(leader)
    present = nodes.elect()
    nodes.propose(present, b"and on")
    nodes.settle(*nodes.names)
    assert_equal(nodes)


def test_no_election_disturbs_a_transfer_however_slow_it_is() -> None:
    """Offers and pieces are heartbeats: the follower stays with its leader, and the leader stays one."""
    nodes, leader, away = behind(entries=200)
    other = next(name for name in nodes.names if name not in (leader, away))
    nodes.crash(other)
    term = nodes.lives[leader].kernel.term
    nodes.cluster.LATENCY_SECONDS = 0.05
    nodes.cluster.heal_all()
    nodes.cluster.run_for(1.5)
    assert nodes.lives[away].kernel.applied_index < nodes.lives[leader].kernel.last_index
    nodes.settle(away, within=60)
    assert nodes.lives[leader].kernel.term == nodes.lives[away].kernel.term == term
    assert nodes.lives[away].host.state == nodes.lives[leader].host.state


def lossy(
    chance: float, seed: int, change: Callable[[Message], Message]
) -> Callable[[Message], Message]:
    rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret

    def carry(message: Message) -> Message:
        arrived = through_the_codec(message)
        if isinstance(arrived, SnapshotChunk) and rng.random() < chance:
            return change(arrived)
        return arrived

    return carry


DAMAGE: dict[str, Callable[[SnapshotChunk], Message]] = {
    "missing": lambda chunk: replace(chunk, index=chunk.index + 1),
    "in the wrong place": lambda chunk: replace(chunk, offset=chunk.offset + PIECE),
    "again an earlier one": lambda chunk: replace(chunk, offset=0),
    "changed": lambda chunk: replace(chunk, data=bytes(len(chunk.data))),
    "cut short": lambda chunk: replace(chunk, data=chunk.data[:-1]),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("seed", range(3))
def test_pieces_that_are_missing_or_wrong_cost_time_and_nothing_else(how: str, seed: int) -> None:
    """The whole is verified before anything is replaced (D11), and what is missing is sent again."""
    nodes, _, away = behind(seed=seed)
    nodes.carry = lossy(0.1, seed, DAMAGE[how])
    nodes.cluster.heal_all()
    before = nodes.lives[away].host.state[:]
    for _ in range(400):
        nodes.cluster.run_for(0.1)
        if nodes.lives[away].host.restored:
            break
        assert nodes.lives[away].host.state == before, "nothing is replaced by a part"
    nodes.carry = through_the_codec
    nodes.settle(*nodes.names)
    assert_equal(nodes)


def test_pieces_out_of_order_are_dropped_and_asked_for_again() -> None:
    nodes, leader, away = behind()
    nodes.cluster.heal_all()
    nodes.cluster.hold(leader, away)
    link = nodes.cluster._links[(leader, away)]
    shuffled = 0
    for _ in range(200):
        nodes.cluster.run_for(0.12)
        messages = list(link)
        shuffled += sum(isinstance(message, SnapshotChunk) for _, message in messages) > 1
        random.Random(shuffled).shuffle(messages)  # noqa: S311 - a schedule, not a secret
        link.clear()
        link.extend(messages)
        while link:
            nodes.cluster.deliver_one(leader, away)
        if nodes.lives[away].host.restored:
            break
    assert shuffled > 2
    nodes.cluster.let_go(leader, away)
    nodes.settle(*nodes.names)
    assert_equal(nodes)
    assert nodes.lives[away].kernel.stats.dropped["piece of a snapshot out of order"] > 0


def test_after_a_broken_connection_the_transfer_goes_on_where_it_was() -> None:
    """What has arrived stays; a new connection does not begin with the first byte."""
    nodes, leader, away = behind(entries=200)
    offsets: list[int] = []

    def carry(message: Message) -> Message:
        if isinstance(message, SnapshotChunk):
            offsets.append(message.offset)
        return through_the_codec(message)

    nodes.carry = carry
    nodes.cluster.heal_all()
    nodes.cluster.run_until(lambda: len(offsets) > 12, within=5)
    nodes.cluster.cut(leader, away)
    nodes.cluster.run_for(0.2)
    nodes.cluster.heal(leader, away)
    nodes.settle(*nodes.names)
    assert_equal(nodes)
    assert offsets.count(0) == 1
    assert len(offsets) - len(set(offsets)) <= snapshot_transfer.WINDOW_CHUNKS


def test_a_newer_snapshot_takes_the_place_of_the_one_that_is_on_its_way() -> None:
    """The leader's log has moved on past the one on its way: the peer would need the newer one as well."""
    nodes, leader, away = behind(entries=200)
    nodes.cluster.heal_all()
    nodes.cluster.run_until(
        lambda: nodes.lives[away].names != [] and nodes.lives[away].host.restored == [], within=5
    )
    first = nodes.lives[leader].store.newest
    others = [name for name in nodes.names if name != away]
    nodes.cluster.hold(leader, away)
    for number in range(20):
        nodes.propose(leader, b"more %d" % number)
        nodes.cluster.run_for(0.01)
    nodes.settle(*others)
    nodes.lives[leader].take_snapshot()
    assert nodes.lives[leader].names == [f"snapshot-{nodes.lives[leader].store.newest.index:020d}"]
    nodes.cluster.run_for(0.2)  # the next heartbeat looks again
    nodes.cluster.let_go(leader, away)
    nodes.settle(*nodes.names)
    assert_equal(nodes)
    assert first.index not in nodes.lives[away].host.restored


# One follower, spoken to by hand.


def follower(disk: MemoryDisk | None = None) -> Life:
    life = Life(disk or MemoryDisk(), name="n1", peers=("n2", "n3"), segment_bytes=1 << 20)
    for peer in ("n2", "n3"):
        life.kernel.peer_connected(peer)
    return life


def say(life: Life) -> list[Message]:
    said: list[Message] = []
    life.kernel.release(lambda _peer, messages: said.extend(messages))
    return said


def own(first: int, last: int, term: int = 1) -> tuple[tuple[int, bytes], ...]:
    return tuple((term, b"\x10%d" % index) for index in range(first, last + 1))


PAYLOAD = b'[[50, 1, "state"]]'


def offer(
    index: int = 50, *, term: int = 1, stamp: int = 1, payload: bytes = PAYLOAD
) -> SnapshotOffer:
    info = describe(index, term, payload)
    return SnapshotOffer(term, stamp, index, info.term, info.length, info.digest)


def test_d10_a_follower_that_has_more_refuses_the_snapshot_and_keeps_its_suffix() -> None:
    """It answers what it has instead; what it acknowledged behind the snapshot stays (Raft, section 7)."""
    life = follower()
    life.kernel.receive("n2", Append(1, 60, 1, 0, 1, own(2, 63)))
    life.kernel.tick()
    say(life)
    for index in (55, 62):  # committed, and not yet committed but the same entry
        life.kernel.receive("n2", offer(index, stamp=index))
        assert say(life)[-1] == Ack(1, index + 1, True, False, index)
        assert (life.kernel.last_index, life.host.restored) == (63, [])


def test_a_log_that_contradicts_the_snapshot_is_replaced_and_a_term_is_needed_for_it() -> None:
    """Entries up to 55 of an older leader, never committed, in the place of what the snapshot holds."""
    life = follower()
    life.kernel.receive("n2", Append(1, 1, 1, 0, 1, own(2, 55)))
    life.kernel.tick()
    say(life)
    life.kernel.receive("n3", offer(50, term=2))
    assert say(life)[-1] == SnapshotAnswer(2, 1, 50, 0, False)
    life.kernel.receive("n3", SnapshotChunk(2, 2, 50, 0, PAYLOAD))
    life.read_snapshot()
    assert say(life)[-1] == Ack(2, 51, True, False, 2)
    assert (life.kernel.last_index, life.kernel.commit_index, life.kernel.applied_index) == (
        50,
    ) * 3
    assert life.host.state == [[50, 1, "state"]]
    life.kernel.receive("n2", offer(70, term=1))
    assert life.host.restored == [50], "an older leader is not heard"


def test_d11_a_snapshot_of_which_a_piece_is_wrong_is_never_acknowledged() -> None:
    life = follower()
    life.kernel.receive("n2", offer())
    life.kernel.receive("n2", SnapshotChunk(1, 2, 50, 0, bytes(len(PAYLOAD))))
    assert SnapshotAnswer(1, 2, 50, 0, True) in say(life)
    assert (life.kernel.last_index, life.host.restored, life.names) == (1, [], [])
    life.kernel.receive("n2", offer(stamp=3))
    life.kernel.receive("n2", SnapshotChunk(1, 4, 50, 0, PAYLOAD))
    life.read_snapshot()
    assert say(life)[-1] == Ack(1, 51, True, False, 4)


def test_a_snapshot_that_the_host_cannot_read_stops_the_node_and_replaces_nothing() -> None:
    """It comes from a newer version of the machine. The next life is the one before."""
    life = follower()
    unreadable = b"not json"
    life.kernel.receive("n2", offer(payload=unreadable))
    life.kernel.receive("n2", SnapshotChunk(1, 2, 50, 0, unreadable))
    with pytest.raises(EngineFailure, match="cannot be used by this version"):
        life.read_snapshot()
    again = follower(life.disk.after_kill())
    assert (again.names, again.store.newest) == ([], None)


def reading() -> Life:
    """A follower that has got the whole of the snapshot of entry 50, and whose host has read a part of it."""
    life = follower()
    life.kernel.receive("n2", Append(1, 11, 1, 0, 1, own(2, 20)))
    life.kernel.tick()
    life.kernel.receive("n2", offer(stamp=2))
    life.kernel.receive("n2", SnapshotChunk(1, 3, 50, 0, PAYLOAD))
    life.kernel.tick()
    say(life)
    return life


def test_while_its_host_reads_a_node_answers_its_leader_and_asks_for_nothing_again() -> None:
    """Reading a state of 100,000 locks takes half a second, which is longer than an election."""
    life = reading()
    assert life.kernel.next_deadline() == 0.0
    life.kernel.receive("n2", offer(stamp=4))
    assert say(life) == [SnapshotAnswer(1, 4, 50, len(PAYLOAD), False)]
    assert (life.kernel.last_index, life.host.restored) == (20, [])
    life.read_snapshot()
    assert say(life) == [Ack(1, 51, True, False, 4)], "of the last offer"
    assert (life.kernel.last_index, life.host.restored) == (50, [50])


def test_entries_that_come_while_its_host_reads_are_worth_more_than_the_snapshot() -> None:
    """time 0: the host reads the snapshot of entry 50; time 1: n3 is elected, whose log reaches back, and sends all entries up to
    60, which are acknowledged. The snapshot would take the log back to 50 (D10)."""
    life = reading()
    life.kernel.receive("n3", Append(2, 20, 20, 1, 9, own(21, 60)))
    life.kernel.tick()
    assert say(life)[-1] == Ack(2, 61, True, False, 9)
    life.read_snapshot()
    assert (life.kernel.last_index, life.host.restored, life.kernel.stats.snapshots_installed) == (
        60,
        [],
        0,
    )
    assert life.names == []


def test_a_newer_snapshot_takes_the_place_of_one_that_is_being_read() -> None:
    life = reading()
    newer = b'[[70, 1, "newer"]]'
    life.kernel.receive("n2", offer(70, stamp=4, payload=newer))
    life.kernel.receive("n2", SnapshotChunk(1, 5, 70, 0, newer))
    life.read_snapshot()
    assert life.host.restored == [70]
    assert say(life)[-1] == Ack(1, 71, True, False, 5)
    assert life.names == [f"snapshot-{70:020d}"]


def test_a_snapshot_of_an_earlier_leader_is_installed_and_acknowledged_to_nobody() -> None:
    """What is in it is committed, whoever leads now; but the promise was asked for in another term."""
    life = reading()
    life.kernel.receive("n3", Append(2, 1, 55, 1, 9, ()))
    say(life)
    life.read_snapshot()
    assert life.host.restored == [50]
    assert not [each for each in say(life) if isinstance(each, Ack)]


def test_a_power_cut_while_the_host_reads_leaves_the_old_state() -> None:
    life = reading()
    again = follower(life.disk.after_power_cut())
    assert (again.kernel.last_index, again.names, again.store.newest) == (20, [], None)


def test_a_leader_whose_own_file_has_decayed_stops_instead_of_offering_it_for_ever() -> None:
    """The peer refuses what arrives; the leader looks at its file, and says what is wrong with it."""
    nodes, leader, away = behind()
    life = nodes.lives[leader]
    name = life.names[0]
    path = life.directory.files.path
    data = bytearray(life.disk.contents(path, name))
    data[-10] ^= 1
    life.disk.damage(path, name, bytes(data))
    nodes.cluster.heal_all()
    with pytest.raises(EngineFailure, match="SHA-256"):
        nodes.cluster.run_for(5)
    assert nodes.lives[away].host.restored == []


def test_a_peer_that_needs_the_snapshot_does_not_think_that_it_is_there_before_it_is_installed() -> (
    None
):
    """It has applied all that it knows of; that this is not all it must not mistake for being ready (node.py)."""
    nodes, _, away = behind()
    nodes.crash(away)
    nodes.cluster.heal_all()
    nodes.cluster.start(away)
    life = nodes.lives[away]
    while not life.host.restored:
        said = life.kernel.leader_commit_index
        assert said is None or life.kernel.applied_index < said
        nodes.cluster.run_for(0.001)
    nodes.settle(*nodes.names)
    assert life.kernel.leader_commit_index == life.kernel.applied_index
