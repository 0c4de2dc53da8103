"""Three real nodes that take snapshots all the time: one that was away, and kill -9 across compactions."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from holdfast_coordinator import compaction
from holdfast_coordinator.local_cluster import LocalCluster
from holdfast_coordinator.machine import Limits, Machine, check_invariants
from holdfast_coordinator.raft.compactor import Job, compact
from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.snapshots import HEADER_BYTES, index_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

SETTINGS = "snapshots: {after_entries: 100, keep_entries: 5}"
KILLS = 20
LOADS = 3


class Locks:
    """Takes locks and remembers what was granted."""

    def __init__(self, cluster: LocalCluster, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http
        self.granted: dict[str, int] = {}
        self.number = 0

    async def take(self, node: str) -> None:
        """Until one is granted. A refusal is definite; after an unknown outcome another key is used."""
        while not await self.try_to_take(node):
            pass

    async def try_to_take(self, node: str) -> bool:
        self.number += 1
        key = f"k{self.number}"
        highest = max(self.granted.values(), default=0)
        body = {"key": key, "ttl_ms": 3_600_000}
        url = f"{self.cluster.url(node)}/v1/locks/acquire"
        async with self.http.post(url, json=body) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
        if response.status == 200:
            assert answer["token"] > highest, "it was asked for after that one was granted"
            self.granted[key] = answer["token"]
        return response.status == 200

    async def load(self, seed: int) -> None:
        """From any node that is there, for ever. What is on its way when a node dies is unknown."""
        rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        while True:
            try:
                await self.try_to_take(rng.choice(self.cluster.names))
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)  # other processes start meanwhile

    async def until_granted(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.granted) < count:  # noqa: ASYNC110 - other processes work meanwhile
                await asyncio.sleep(0.01)

    def data(self, node: str) -> Path:
        return self.cluster.directory / "data" / node

    def snapshots(self, node: str) -> list[int]:
        return sorted(filter(None, (index_of(path.name) for path in self.data(node).iterdir())))

    async def until_snapshot_after(self, node: str, index: int, through: str) -> None:
        async with asyncio.timeout(60):
            while not [each for each in self.snapshots(node) if each > index]:
                await self.take(through)
                await asyncio.sleep(0.02)  # other processes work meanwhile


@pytest.fixture
async def locks(tmp_path: Path) -> Any:
    cluster = LocalCluster(tmp_path, settings=SETTINGS)
    async with cluster, aiohttp.ClientSession() as http:
        yield Locks(cluster, http)


def state_at(directory: DataDirectory, index: int, term: int) -> bytes:
    """What the node would be at this entry, from its files alone."""
    names = directory.files.names()
    job = Job(
        data_dir=str(directory.path),
        directory_id=directory.id,
        cluster=directory.cluster,
        base=max(map(index_of, names)),
        index=index,
        term=term,
        output="snapshot-compared.tmp",
        parameters=compaction.parameters(Limits()),
    )
    compact(directory.files, job, compaction.Replayer)
    return (directory.path / job.output).read_bytes()[HEADER_BYTES:]


def states(locks: Locks, cluster_id: str) -> list[bytes]:
    """Of all nodes, stopped, at the last entry that all of them have."""
    directories = [
        DataDirectory.open(locks.data(name), cluster=cluster_id, node=name)
        for name in locks.cluster.names
    ]
    journals = [Journal(directory) for directory in directories]
    index = min(journal[-1][1] for journal in journals)
    term = journals[0][index - journals[0][0][1]][2]
    for journal in journals:
        journal._destroy()
    found = [state_at(directory, index, term) for directory in directories]
    for directory in directories:
        directory.close()
    return found


def assert_nothing_is_lost(locks: Locks) -> None:
    """Every acknowledged grant is in the files of every node, and they are equal to the last byte."""
    cluster_id = locks.cluster.config_path.read_text().splitlines()[0].removeprefix("cluster: ")
    found = states(locks, cluster_id)
    assert found[0] == found[1] == found[2]
    machine = Machine.restore(found[0])
    check_invariants(machine)
    for key, token in locks.granted.items():
        assert machine.is_current(key, token)


async def test_a_node_that_was_away_gets_a_snapshot_and_serves(locks: Locks) -> None:
    """The others have dropped what it misses. Afterwards it counts in a majority, and answers by itself."""
    await locks.take("n1")
    await locks.cluster.kill("n3")
    for name in ("n1", "n2"):
        await locks.until_snapshot_after(name, 100, "n1")
    assert locks.snapshots("n3") == []
    await locks.cluster.start("n3")
    assert locks.snapshots("n3")[-1] > 100
    await locks.cluster.kill("n1")
    await locks.take("n3")
    await locks.cluster.start("n1")
    await locks.take("n1")
    await locks.cluster.stop()
    assert_nothing_is_lost(locks)


async def test_kill_9_across_compactions_loses_nothing_that_was_acknowledged(locks: Locks) -> None:
    """Twenty kills under load, of one random node and of all three by turns, while each takes snapshots all the time.

    A kill may meet a node before its snapshot is whole, every time: that each still takes them is waited for at the end.
    """
    rng = random.Random(1)  # noqa: S311 - a schedule, not a secret
    names = locks.cluster.names
    loads = [asyncio.ensure_future(locks.load(seed)) for seed in range(LOADS)]
    kills = 0
    while kills < KILLS:
        await locks.until_granted(len(locks.granted) + rng.randrange(5, 60))
        victims = [rng.choice(names)] if kills % 4 == 0 else list(names)
        await asyncio.gather(*(locks.cluster.kill(name) for name in victims))
        await locks.cluster.start(*victims)
        kills += len(victims)
    for name in names:
        await locks.until_snapshot_after(name, max(locks.snapshots(name), default=0), name)
    for load in loads:
        load.cancel()
    ends = await asyncio.gather(*loads, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
    await locks.cluster.stop()
    assert_nothing_is_lost(locks)
