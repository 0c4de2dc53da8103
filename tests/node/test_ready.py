"""When a node takes callers: not before it has heard from a leader how far the log is, and is there."""

from __future__ import annotations

import pytest

from holdfast_coordinator.machine import Limits
from holdfast_coordinator.node import LAG_MS_MAX, Node
from holdfast_coordinator.raft.scripted import ScriptedEngine, ScriptedLog

HOUSEKEEPING_MS = 250


class Started:
    """A node that has just started, on a scripted engine and a clock that only the test moves."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.log = ScriptedLog()
        self.node = Node(
            "n1",
            lambda node: self.log.attach("n1", node),
            clock_ns=lambda: self.now_ns,
            limits=Limits(),
            cluster="test",
            members={"n1": ("http-n1", "raft-n1"), "n2": ("http-n2", "raft-n2")},
            session_ref_key=b"test",
        )

    @property
    def engine(self) -> ScriptedEngine:
        return self.log.engines["n1"]

    def keep_house(self) -> None:
        self.node.keep_house()
        self.now_ns += HOUSEKEEPING_MS * 1_000_000


@pytest.fixture
async def started() -> Started:
    started = Started()
    started.log.elect("n2")
    return started


async def test_a_node_that_has_not_heard_how_far_the_log_is_is_not_ready(started: Started) -> None:
    """time 0: n1 starts with a disk that is 1,000 entries old; time 1: it hears who leads, and all that it knows of is applied."""
    for _ in range(8):
        started.keep_house()
        assert started.node.leader == "n2"
        assert not started.node.is_ready
        assert started.node.lag_ms is None


async def test_a_node_that_catches_up_is_ready_when_it_is_there(started: Started) -> None:
    started.engine.leader_commit_index = 1_000
    for applied in (0, 300, 999):
        started.engine.applied_index = applied
        started.keep_house()
        assert not started.node.is_ready
    started.engine.applied_index = 1_000
    assert started.node.is_ready
    assert started.node.lag_ms == 0


async def test_a_node_that_keeps_up_under_load_is_ready_although_it_is_never_at_the_end(
    started: Started,
) -> None:
    """Whenever housekeeping looks, the leader has committed a little more than is applied here."""
    for entries in range(0, 100_000, 5_000):
        started.engine.leader_commit_index = entries + 10
        started.engine.applied_index = entries
        started.keep_house()
        assert started.node.is_ready == (entries > 0)


async def test_a_node_that_lags_for_longer_than_the_bound_is_not_ready(started: Started) -> None:
    started.engine.leader_commit_index = 0
    started.keep_house()
    began_ns = started.now_ns - HOUSEKEEPING_MS * 1_000_000
    started.engine.leader_commit_index = 1
    while started.now_ns - began_ns <= LAG_MS_MAX * 1_000_000:
        assert started.node.is_ready
        started.keep_house()
    assert not started.node.is_ready
    assert started.node.lag_ms == (started.now_ns - began_ns) // 1_000_000


async def test_a_failover_is_a_moment_without_a_leader_and_not_another_start(
    started: Started,
) -> None:
    """Who was at the end a moment ago needs no new word of the new leader to take callers."""
    started.engine.leader_commit_index = 0
    started.keep_house()
    started.log.elect(None)
    assert not started.node.is_ready
    started.log.elect("n2")
    assert started.engine.leader_commit_index is None
    assert started.node.is_ready
