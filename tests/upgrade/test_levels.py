"""How a cluster comes to a format level, and what keeps it from one: three real nodes on a scripted log."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from holdfast_coordinator.batcher import Batcher
from holdfast_coordinator.machine import (
    Acquire,
    Checkpoint,
    Entry,
    Levels,
    Limits,
    Machine,
    OpenSession,
    Operation,
    Origin,
    Refused,
    SnapshotUnreadable,
    decode_entry,
    encode_entry,
    level_of,
    levels,
)
from holdfast_coordinator.machine.levels import HIGHEST
from holdfast_coordinator.node import Node
from holdfast_coordinator.peer_levels import PeerLevels, Unreadable, decode
from holdfast_coordinator.raft import EngineFailure
from holdfast_coordinator.raft.scripted import ScriptedEngine, ScriptedLog

OLD = Levels(highest=1)
NEW = Levels(highest=2)


class Log(ScriptedLog):
    """Nodes come and go: `away` are not connected."""

    def __init__(self) -> None:
        super().__init__()
        self.away: set[str] = set()

    def attach(self, name: str, host: Any) -> ScriptedEngine:
        before = self.engines.get(name)
        self.engines[name] = Engine(self, name, host)
        self.engines[name].boot = 1 if before is None else before.boot + 1
        return self.engines[name]


class Engine(ScriptedEngine):
    @property
    def connected_peers(self) -> frozenset[str]:
        log = self.log
        assert isinstance(log, Log)
        return frozenset(log.engines) - {self.name} - log.away

    def send(self, peer: str, payload: bytes) -> bool:
        assert isinstance(self.log, Log)
        return not {peer, self.name} & self.log.away and super().send(peer, payload)


class Cluster:
    names = ("n1", "n2", "n3")

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.log = Log()
        self.nodes: dict[str, Node] = {}

    def start(self, name: str, known: Levels) -> None:
        """With everything that was applied before, as from its journal; then it is connected with all that are there."""
        node = Node(
            name,
            lambda node: self.log.attach(name, node),
            clock_ns=lambda: self.now_ns,
            limits=Limits(),
            cluster="test",
            members=dict.fromkeys(self.names, ("", "")),
            session_ref_key=b"test",
            levels=known,
        )
        self.nodes[name] = node
        self.log.away.discard(name)
        for other in self.nodes:
            if other != name and other not in self.log.away:
                self.nodes[other].on_peer_connected(name)
                node.on_peer_connected(other)

    def stop(self, name: str) -> None:
        self.log.away.add(name)

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)
            self.log.step()

    async def done(self, name: str, operation: Operation) -> Any:
        task = asyncio.ensure_future(self.nodes[name].submit(operation))
        await self.settle()
        return task.result()

    @property
    def levels(self) -> list[int]:
        return [node.machine.level for node in self.nodes.values()]

    def written(self) -> list[int | None]:
        return [level_of(payload) for _, payload in self.log.entries]


@pytest.fixture
async def cluster() -> Cluster:
    """Three nodes of the old version that have done something."""
    cluster = Cluster()
    for name in cluster.names:
        cluster.start(name, OLD)
    cluster.log.elect("n1")
    await cluster.done("n1", OpenSession("s" * 32, 10_000))
    return cluster


async def test_the_level_rises_when_the_last_node_knows_it_and_not_before(cluster: Cluster) -> None:
    """Node by node, the leader last. Until then every entry is one that the old version reads; then one entry says it, and
    without any load."""
    for name in ("n3", "n2", "n1"):
        cluster.stop(name)
        if name == "n1":
            cluster.log.elect("n2")
        await cluster.settle()
        assert set(cluster.written()) == {1}
        cluster.start(name, NEW)
        cluster.log.elect(cluster.log.leader)
    await cluster.settle()
    assert cluster.levels == [2, 2, 2]
    assert cluster.written().count(2) >= 1
    assert len({node.machine.state_hash() for node in cluster.nodes.values()}) == 1


async def test_a_node_that_is_away_holds_the_level_down(cluster: Cluster) -> None:
    """Nobody knows with which version it comes back. When it comes back with the old one, it can."""
    for name in cluster.names:
        cluster.stop(name)
    for name in ("n1", "n2"):
        cluster.start(name, NEW)
    cluster.log.elect("n1")
    await cluster.settle()
    assert cluster.levels[:2] == [1, 1]
    cluster.start("n3", OLD)
    cluster.log.elect("n1")
    await cluster.settle()
    assert cluster.levels == [1, 1, 1]
    assert set(cluster.written()) == {1}


async def test_what_a_node_said_on_an_earlier_connection_does_not_count(cluster: Cluster) -> None:
    """time 0: n3 tells the leader that it knows level 2; time 1: it is restarted with the first version, which is silent;
    time 2: n2, the last of the others, comes with the new one."""
    for name in ("n1", "n3"):
        cluster.stop(name)
        cluster.start(name, NEW)
    cluster.log.elect("n1")
    await cluster.settle()
    cluster.stop("n3")
    cluster.start("n3", OLD)
    cluster.log.messages = [said for said in cluster.log.messages if said[0] != "n3"]
    await cluster.settle()
    cluster.stop("n2")
    cluster.start("n2", NEW)
    await cluster.settle()
    assert cluster.levels == [1, 1, 1]
    assert set(cluster.written()) == {1}


def test_a_level_that_is_due_is_worth_an_entry_of_its_own() -> None:
    """Where nothing else is to be said, and no lease runs. One at a time: without a majority they would pile up."""
    batcher = Batcher(lambda: 0)
    batcher.begin(3)

    def next_entry(commit_index: int, *, raises: bool) -> bytes | None:
        return batcher.next_entry(
            3, last_index=8, commit_index=commit_index, has_deadlines=False, level=2, raises=raises
        )

    assert next_entry(8, raises=False) is None
    entry = next_entry(8, raises=True)
    assert entry is not None
    assert level_of(entry) == 2
    assert next_entry(8, raises=True) is None
    assert next_entry(9, raises=True) is not None


async def test_a_node_that_does_not_know_the_level_stops_with_a_sentence(cluster: Cluster) -> None:
    """Whether it is told by a peer, by an entry, or by a snapshot; and by name of the setting, if that is what holds it."""
    node = cluster.nodes["n3"]
    said = PeerLevels("n1", cluster.names, NEW, "9.9").words(2)
    newer = (
        r"is of format level 2, and this version of holdfast knows levels up to 1; start the newer"
    )
    with pytest.raises(EngineFailure, match=f"the log of n1 {newer}"):
        node.on_message("n1", said)
    with pytest.raises(EngineFailure, match=f"log entry 9 {newer}"):
        node.apply(9, 1, encode_entry(Entry(1, 0, level=2)))
    raised = Machine(Limits())
    raised.apply(Entry(1, 0, level=2))
    with pytest.raises(EngineFailure, match=f"the snapshot of entry 9 {newer}"):
        list(node.restore(9, 1, raised.snapshot()))
    held = Levels(highest=1, held=True).why_not(2) or ""
    assert "remove format_level_max" in held


async def test_a_node_that_is_too_new_for_the_log_stops_with_a_sentence(cluster: Cluster) -> None:
    """It has forgotten what level 1 means: somebody left out a version."""
    node = cluster.nodes["n3"]
    node._levels.own = Levels(lowest=2, highest=3)
    older = "is of format level 1, and this version of holdfast knows levels from 2 on; upgrade one"
    with pytest.raises(EngineFailure, match=f"log entry 9 {older}"):
        node.apply(9, 1, encode_entry(Entry(1, 0)))
    with pytest.raises(EngineFailure, match=f"the snapshot of entry 9 {older}"):
        list(node.restore(9, 1, Machine(Limits()).snapshot()))


async def test_a_peer_that_says_nonsense_is_counted_and_changes_nothing(cluster: Cluster) -> None:
    nonsense = (
        [2],
        [2, 0, 1, 1, ""],
        [2, 1, 101, 1, ""],
        [2, 1, 2, True, ""],
        [2, 1, 2, 1, "x" * 65],
    )
    for raw in nonsense:
        with pytest.raises(Unreadable):
            decode(msgpack.packb(raw))
        cluster.nodes["n1"].on_message("n2", msgpack.packb(raw))
    assert cluster.nodes["n1"].rejected_messages == len(nonsense)
    assert decode(msgpack.packb([2, 1, 3, 2, "0.9", "of a later version"])).highest == 3


async def test_a_younger_operation_is_refused_until_all_know_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the node, before it is sent; and by the machine, as a version refuses it that does not know it: nothing parts them."""
    monkeypatch.setattr(levels, "NEEDED", {Checkpoint: 2})
    younger = Checkpoint("s" * 32, 1, "note")
    await cluster.done("n1", Acquire(("k",), "s" * 32, request_id=1))
    refused = await cluster.done("n1", younger)
    assert isinstance(refused, Refused)
    assert refused.code == "conflict"
    machine = cluster.nodes["n1"].machine
    slipped = Entry(1, 0, ((Origin("n9", 1, 1), younger),))
    ((_, outcome),) = machine.apply(slipped)
    assert isinstance(outcome, Refused)
    assert machine.lock("k").checkpoint is None
    for name in cluster.names:
        cluster.stop(name)
        cluster.start(name, NEW)
    cluster.log.elect("n1")
    await cluster.settle()
    assert not isinstance(await cluster.done("n1", younger), Refused)


async def test_an_entry_of_a_leader_that_has_not_applied_the_raise_yet_lowers_nothing(
    cluster: Cluster,
) -> None:
    machine = cluster.nodes["n1"].machine
    machine.apply(Entry(1, 0, level=2))
    machine.apply(Entry(2, 0, level=1))
    assert machine.level == 2
    assert Machine.restore(machine.snapshot()).level == 2


def test_a_snapshot_says_what_reads_it() -> None:
    """Of level 1: as the first version wrote it. Of a higher one: its level. Of one that is not known: a sentence."""
    machine = Machine(Limits())
    first = machine.snapshot()
    machine.apply(Entry(1, 0, level=2))
    assert (msgpack.unpackb(first)[0], msgpack.unpackb(machine.snapshot())[0]) == (2, 3)
    raw = msgpack.unpackb(machine.snapshot())
    for level in (1, 0, "2", True):
        raw[1][-1] = level
        with pytest.raises(SnapshotUnreadable, match="not a snapshot"):
            Machine.restore(msgpack.packb(raw))
    raw[1][-1] = HIGHEST + 1
    with pytest.raises(SnapshotUnreadable, match="start the newer version"):
        Machine.restore(msgpack.packb(raw))
    with pytest.raises(SnapshotUnreadable, match=r"version 4.* start the newer version"):
        Machine.restore(msgpack.packb([4, "whatever", "comes"]))


def test_the_level_of_an_entry_is_seen_without_reading_it() -> None:
    """Of every one that there can be, and of nothing else."""
    for level in (1, 2, 100):
        assert level_of(encode_entry(Entry(1, 0, level=level))) == level
    assert decode_entry(encode_entry(Entry(3, 4, level=2))) == Entry(3, 4, level=2)
    for raw in (b"", b"\x95", b"\x95\x00", b"\x93\x01", msgpack.packb([101, 1, 0, []]), b"x1"):
        assert level_of(raw) is None
