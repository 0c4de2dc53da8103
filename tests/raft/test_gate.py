"""Whose data directory is accepted, between engines on real sockets."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from recording_host import RecordingHost

from holdfast_coordinator.local_cluster import free_ports
from holdfast_coordinator.raft import Engine, EngineConfig
from holdfast_coordinator.raft.datadir import LIMITS_NAME
from holdfast_coordinator.raft.errors import AdminRefused, EngineFailure

NAMES = ("n1", "n2", "n3")


class Engines:
    """A cluster in this loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = {
            name: ("127.0.0.1", port) for name, port in zip(NAMES, free_ports(3), strict=True)
        }
        self.engines: dict[str, Engine] = {}
        self.hosts: dict[str, RecordingHost] = {}

    async def start(self, name: str, *, bootstrap: bool, digest: bytes = bytes(16)) -> Engine:
        config = EngineConfig(
            node=name,
            cluster="c",
            secret=b"secret",
            members=self.members,
            data_dir=self.path / name,
            bootstrap=bootstrap,
            limits_digest=digest,
        )
        self.hosts[name] = RecordingHost()
        rng = random.Random(name)  # noqa: S311 - a seeded run
        engine = Engine(config, self.hosts[name], rng=rng)
        await engine.start()
        self.engines[name] = engine
        return engine

    async def stop(self, name: str) -> None:
        await self.engines.pop(name).stop()

    def leader(self) -> Engine | None:
        return next((e for e in self.engines.values() if e.has_own_term_commit), None)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not condition():  # noqa: ASYNC110 - sockets decide
                await asyncio.sleep(0.005)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Engines]:
    """Three founders that have elected a leader."""
    engines = Engines(tmp_path)
    for name in NAMES:
        await engines.start(name, bootstrap=True)
    await engines.until(lambda: engines.leader() is not None)
    yield engines
    for name in list(engines.engines):
        await engines.stop(name)


async def test_a_lost_directory_is_refused_counted_admitted_and_caught_up(cluster: Engines) -> None:
    """Asked at a node that does not lead; the flag to found a cluster does not help the newcomer."""
    with pytest.raises(AdminRefused, match="nothing to replace"):
        await cluster.engines["n1"].replace_node("n3")
    await cluster.stop("n3")
    shutil.rmtree(cluster.path / "n3")
    await cluster.until(lambda: "n3" not in cluster.engines["n1"].connected_peers)
    with pytest.raises(AdminRefused, match="start n3 with its new directory first"):
        await cluster.engines["n1"].replace_node("n3")
    newcomer = await cluster.start("n3", bootstrap=True)
    for name in ("n1", "n2"):
        rejected = cluster.engines[name].stats.frames_rejected
        await cluster.until(lambda rejected=rejected: rejected["another data directory"] > 0)  # type: ignore[misc]
    await cluster.until(
        lambda: newcomer.stats.frames_rejected["refused by peer: another data directory"] > 1
    )
    assert newcomer.connected_peers == frozenset()
    await cluster.until(lambda: cluster.leader() is not None)
    leader = cluster.leader()
    assert leader is not None
    other = next(e for n, e in cluster.engines.items() if e is not leader and n != "n3")
    await other.replace_node("n3")
    await cluster.until(lambda: newcomer.connected_peers == {"n1", "n2"})
    cluster.hosts[leader.node].queue.append(b"x")
    leader.wake()
    await cluster.until(lambda: cluster.hosts["n3"].payloads == [b"x"])
    await cluster.until(lambda: leader.match_index["n3"] == leader.last_index)


async def test_nodes_with_other_limits_refuse_each_other(cluster: Engines) -> None:
    """Counted at both; the others go on. (A directory that has not begun to keep its limits; with them it does not start.)"""
    await cluster.stop("n3")
    with pytest.raises(EngineFailure, match="other `limits` or `quotas`"):
        await cluster.start("n3", bootstrap=False, digest=b"x" * 16)
    (cluster.path / "n3" / LIMITS_NAME).unlink()
    odd = await cluster.start("n3", bootstrap=False, digest=b"x" * 16)
    await cluster.until(lambda: odd.stats.frames_rejected["other limits"] > 0)
    await cluster.until(
        lambda: (
            cluster.engines["n1"].stats.frames_rejected["other limits"] > 0
            or cluster.engines["n1"].stats.frames_rejected["refused by peer: other limits"] > 0
        )
    )
    assert odd.connected_peers == frozenset()


async def test_the_leadership_moves_when_any_node_is_asked(cluster: Engines) -> None:
    """By a node that does not lead; and by a leader that is about to stop."""
    first = cluster.leader()
    assert first is not None
    await cluster.until(lambda: all(e.leader == first.node for e in cluster.engines.values()))
    follower = next(e for e in cluster.engines.values() if e is not first)
    second = await follower.step_down()
    assert second != first.node
    assert await cluster.engines[second].leave_leadership(1.0)
    assert not cluster.engines[second].is_leader
