"""A node that takes over a leader's snapshot: what its own callers hear."""

from __future__ import annotations

import asyncio

import pytest

from holdfast_coordinator.machine import Limits, Machine
from holdfast_coordinator.machine.operations import Acquire, OpenSession, Operation, Release
from holdfast_coordinator.machine.outcomes import Granted, Outcome, Released, SessionOpened
from holdfast_coordinator.node import Node
from holdfast_coordinator.node_types import Unknown
from holdfast_coordinator.raft.scripted import ScriptedLog

SESSION = "s" * 32


class Cluster:
    """Two nodes on a scripted log; n2 can be frozen, and then be given the state of n1."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.log = ScriptedLog()
        self.nodes = {name: self._node(name) for name in ("n1", "n2")}
        self.log.elect("n1")

    def _node(self, name: str) -> Node:
        return Node(
            name,
            lambda node: self.log.attach(name, node),
            clock_ns=lambda: self.now_ns,
            limits=Limits(),
            cluster="test",
            members=dict.fromkeys(("n1", "n2"), ("", "")),
            session_ref_key=b"test",
        )

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)
            self.log.step()

    def ask(self, name: str, operation: Operation) -> asyncio.Future[Outcome | Unknown]:
        return asyncio.ensure_future(self.nodes[name].submit(operation))

    async def asked(self, name: str, operation: Operation) -> Outcome | Unknown:
        task = self.ask(name, operation)
        await self.settle()
        return await task

    async def forwarded_before_n2_freezes(self, *operations: Operation) -> list[asyncio.Future]:
        """n2 has sent them on, and applies nothing from now on."""
        tasks = [self.ask("n2", operation) for operation in operations]
        for _ in range(4):
            await asyncio.sleep(0)
        self.log.frozen.add("n2")
        await self.settle()
        return tasks

    async def install(self) -> None:
        """n2 gets the state of n1 instead of the entries, and goes on."""
        engine = self.log.engines["n2"]
        payload = self.nodes["n1"].machine.snapshot()
        for _ in self.nodes["n2"].restore(self.log.committed, self.log.term, payload):
            pass
        engine.applied_index = self.log.committed
        self.log.frozen.clear()
        await self.settle()


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


def acquire(key: str, *, wait_ms: int = 0, request_id: str | int | None = None) -> Acquire:
    return Acquire((key,), SESSION, None, wait_ms, request_id)


async def test_the_state_is_the_one_that_was_taken_over(cluster: Cluster) -> None:
    await cluster.asked("n1", OpenSession(SESSION, 10_000))
    cluster.log.frozen.add("n2")
    await cluster.asked("n1", acquire("k"))
    await cluster.install()
    one, two = (cluster.nodes[name].machine for name in ("n1", "n2"))
    assert one.state_hash() == two.state_hash()
    assert isinstance(two, Machine)
    assert two.lock("k").holders


async def test_a_caller_whose_operation_is_in_it_is_told_that_its_outcome_is_unknown(
    cluster: Cluster,
) -> None:
    """... and asks again under the same request id, on the same node: the same grant."""
    await cluster.asked("n1", OpenSession(SESSION, 10_000))
    (task,) = await cluster.forwarded_before_n2_freezes(acquire("k", request_id="r1"))
    await cluster.install()
    assert isinstance(await task, Unknown)
    again = await cluster.asked("n2", acquire("k", request_id="r1"))
    assert isinstance(again, Granted)
    assert again.token == cluster.nodes["n1"].machine.lock("k").holders[0].token


async def test_an_operation_that_is_not_in_it_is_decided_as_ever(cluster: Cluster) -> None:
    await cluster.asked("n1", OpenSession(SESSION, 10_000))
    cluster.log.frozen.add("n2")
    await cluster.asked("n1", acquire("other"))
    task = cluster.ask("n2", acquire("k"))
    await asyncio.sleep(0)
    await cluster.install()
    assert isinstance(await task, Granted)


async def test_a_wait_that_goes_on_is_granted_and_one_that_has_ended_is_unknown(
    cluster: Cluster,
) -> None:
    """Two callers wait at n2. One is granted while n2 is behind; the other after it has caught up."""
    await cluster.asked("n1", OpenSession(SESSION, 10_000))
    other = "t" * 32
    await cluster.asked("n1", OpenSession(other, 10_000))
    first = await cluster.asked("n1", acquire("k1"))
    second = await cluster.asked("n1", acquire("k2"))
    assert isinstance(first, Granted)
    assert isinstance(second, Granted)
    waiting = [cluster.ask("n2", Acquire((key,), other, None, 30_000, key)) for key in ("k1", "k2")]
    await cluster.settle()
    cluster.log.frozen.add("n2")
    assert isinstance(await cluster.asked("n1", Release(SESSION, first.token)), Released)
    await cluster.install()
    assert isinstance(await waiting[0], Unknown)
    assert not waiting[1].done()
    await cluster.asked("n1", Release(SESSION, second.token))
    assert isinstance(await waiting[1], Granted)


async def test_a_wait_that_began_while_the_node_was_behind_is_its_callers(cluster: Cluster) -> None:
    """The operation is in the snapshot and its end is not: the caller goes on waiting."""
    assert isinstance(await cluster.asked("n1", OpenSession(SESSION, 10_000)), SessionOpened)
    grant = await cluster.asked("n1", acquire("k"))
    assert isinstance(grant, Granted)
    other = "t" * 32
    await cluster.asked("n1", OpenSession(other, 10_000))
    waiting, gone = await cluster.forwarded_before_n2_freezes(
        Acquire(("k",), other, None, 30_000, "r1"), Acquire(("k",), other, None, 30_000, "r2")
    )
    gone.cancel()
    await asyncio.sleep(0)
    assert len(cluster.nodes["n1"].machine.lock("k").waiters) == 2
    await cluster.install()
    assert not waiting.done()
    await cluster.settle()
    assert len(cluster.nodes["n1"].machine.lock("k").waiters) == 1, "nobody waits for the other"
    await cluster.asked("n1", Release(SESSION, grant.token))
    assert isinstance(await waiting, Granted)
