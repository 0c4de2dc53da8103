"""The way of an operation through three real nodes on a hand-driven log: forwarding, lost messages, callers that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from holdfast_coordinator.machine import Limits
from holdfast_coordinator.machine.operations import Acquire, OpenSession, Operation, Release
from holdfast_coordinator.machine.outcomes import Granted, Refused, Released, SessionOpened
from holdfast_coordinator.node import NO_LEADER_AFTER_MS, UNKNOWN_AFTER_MS, Node
from holdfast_coordinator.node_types import Unknown
from holdfast_coordinator.raft import EngineFailure
from holdfast_coordinator.raft.scripted import ScriptedLog
from holdfast_coordinator.submissions import IN_FLIGHT_MAX

SESSION = "s" * 32


class Cluster:
    """Three real nodes on one scripted log, and one clock that only the test moves."""

    names = ("n1", "n2", "n3")

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.log = ScriptedLog()
        self.nodes = {name: self._node(name) for name in self.names}

    def _node(self, name: str) -> Node:
        return Node(
            name,
            lambda node: self.log.attach(name, node),
            clock_ns=lambda: self.now_ns,
            limits=Limits(),
            cluster="test",
            members={member: (f"http-{member}", f"raft-{member}") for member in self.names},
            session_ref_key=b"test",
        )

    def advance_ms(self, elapsed_ms: int) -> None:
        self.now_ns += elapsed_ms * 1_000_000

    async def settle(self) -> None:
        """Let everything run until nothing moves: at most four hops, each with a turn of the loop before and after."""
        for _ in range(12):
            await asyncio.sleep(0)
            self.log.step()

    def keep_house(self) -> None:
        for name in self.names:
            self.nodes[name].keep_house()


@pytest.fixture
async def cluster() -> Cluster:
    cluster = Cluster()
    cluster.log.elect("n1")
    return cluster


def ask(cluster: Cluster, node: str, operation: Operation) -> asyncio.Task[Any]:
    return asyncio.ensure_future(cluster.nodes[node].submit(operation))


async def done(cluster: Cluster, node: str, operation: Operation) -> Any:
    task = ask(cluster, node, operation)
    await cluster.settle()
    assert task.done()
    return task.result()


def anonymous(key: str = "k", *, session: str = "a" * 32, wait_ms: int = 0) -> Acquire:
    return Acquire((key,), session, ttl_ms=10_000, wait_ms=wait_ms)


@pytest.mark.parametrize("node", ["n1", "n2"])
async def test_leader_and_follower_answer_alike(cluster: Cluster, node: str) -> None:
    """A follower forwards to the leader and answers from its own apply."""
    opened = await done(cluster, node, OpenSession(SESSION, 10_000))
    assert isinstance(opened, SessionOpened)
    granted = await done(cluster, node, Acquire(("k",), SESSION, request_id=1))
    assert isinstance(granted, Granted)
    assert granted.token == 1
    released = await done(cluster, node, Release(SESSION, granted.token))
    assert isinstance(released, Released)


async def test_a_lost_message_is_sent_again_and_acts_once(cluster: Cluster) -> None:
    """time 0: n2 forwards, the message is lost; time 1: no progress for a while; time 2: n2 forwards again."""
    task = ask(cluster, "n2", anonymous())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cluster.log.messages
    cluster.log.messages.clear()
    cluster.keep_house()
    cluster.advance_ms(1_000)
    cluster.keep_house()
    await cluster.settle()
    assert task.result().token == 1
    assert cluster.nodes["n1"].machine.last_token == 1


async def test_what_the_old_leader_appended_and_the_new_one_is_sent_again_acts_once(
    cluster: Cluster,
) -> None:
    """time 0: n1 appends n2's acquire and commits it, n2 has not applied; time 1: n3 leads, n2 forwards again."""
    cluster.log.frozen.add("n2")
    task = ask(cluster, "n2", anonymous())
    await cluster.settle()
    assert cluster.nodes["n1"].machine.last_token == 1
    cluster.log.frozen.clear()
    cluster.log.elect("n3")
    await asyncio.sleep(0)
    cluster.log.deliver()
    cluster.log.propose()
    await cluster.settle()
    assert task.result().token == 1
    assert all(node.machine.last_token == 1 for node in cluster.nodes.values())


async def test_without_a_leader_the_refusal_is_definite(cluster: Cluster) -> None:
    """It was never forwarded, and it is not executed when a leader comes."""
    cluster.log.elect(None)
    task = ask(cluster, "n2", anonymous())
    await cluster.settle()
    cluster.advance_ms(NO_LEADER_AFTER_MS)
    cluster.keep_house()
    await asyncio.sleep(0)
    refused = await task
    assert isinstance(refused, Refused)
    assert refused.code == "no_leader"
    cluster.log.elect("n1")
    await cluster.settle()
    assert cluster.nodes["n1"].machine.last_token == 0


async def test_what_was_forwarded_and_not_decided_is_unknown_and_given_back(
    cluster: Cluster,
) -> None:
    """The caller is told that the outcome is unknown; when the nameless grant is decided after all, the node releases it."""
    task = ask(cluster, "n1", anonymous())
    for _ in range(3):
        await asyncio.sleep(0)
    cluster.advance_ms(UNKNOWN_AFTER_MS)
    cluster.keep_house()
    assert isinstance(await task, Unknown)
    await cluster.settle()
    machine = cluster.nodes["n1"].machine
    assert machine.last_token == 1
    assert machine.lock("k").holders == ()


async def test_a_caller_that_disconnects_while_waiting_leaves_no_waiter(cluster: Cluster) -> None:
    holder = await done(cluster, "n1", anonymous())
    waiting = ask(cluster, "n2", anonymous(session="b" * 32, wait_ms=30_000))
    await cluster.settle()
    assert len(cluster.nodes["n3"].machine.lock("k").waiters) == 1
    waiting.cancel()
    await cluster.settle()
    assert waiting.cancelled()
    assert cluster.nodes["n3"].machine.lock("k").waiters == ()
    await done(cluster, "n1", Release(holder.session, holder.token))
    assert cluster.nodes["n3"].machine.lock("k").holders == ()


async def test_a_caller_that_disconnects_before_the_apply_leaves_no_lock(cluster: Cluster) -> None:
    """time 0: the acquire is forwarded; time 1: the caller goes; time 2: it is granted, and given back."""
    task = ask(cluster, "n2", anonymous())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await cluster.settle()
    machine = cluster.nodes["n2"].machine
    assert machine.last_token == 1
    assert machine.lock("k").holders == ()


async def test_a_named_grant_is_kept_for_the_caller_that_asks_again(cluster: Cluster) -> None:
    """The reply was lost; asking again under the same request id, at another node, gives the same token."""
    await done(cluster, "n1", OpenSession(SESSION, 10_000))
    task = ask(cluster, "n2", Acquire(("k",), SESSION, request_id=1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await cluster.settle()
    again = await done(cluster, "n3", Acquire(("k",), SESSION, request_id=1))
    assert isinstance(again, Granted)
    assert again.token == 1


async def test_a_waiting_acquire_is_answered_by_its_own_node_at_the_release(
    cluster: Cluster,
) -> None:
    holder = await done(cluster, "n1", anonymous())
    waiting = ask(cluster, "n2", anonymous(session="b" * 32, wait_ms=30_000))
    await cluster.settle()
    assert not waiting.done()
    await done(cluster, "n3", Release(holder.session, holder.token))
    granted = await waiting
    assert isinstance(granted, Granted)
    assert granted.token == 2
    assert granted.previous[0] is not None
    assert granted.previous[0].ended == "released"


async def test_beyond_the_bound_the_answer_is_overloaded_and_nothing_is_forwarded(
    cluster: Cluster,
) -> None:
    cluster.log.elect(None)
    tasks = [ask(cluster, "n1", anonymous(str(number))) for number in range(IN_FLIGHT_MAX + 1)]
    await asyncio.sleep(0)
    refused = await tasks[-1]
    assert isinstance(refused, Refused)
    assert refused.code == "overloaded"
    for task in tasks[:-1]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_message_that_is_not_ours_changes_nothing(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    for payload in (b"", b"\xc1", b"\x94\x01\x00\x01\x90", b"\x94\x02\x01\x01\x90", b"\x91\x01"):
        node.on_message("n2", payload)
    await cluster.settle()
    assert cluster.log.entries == []
    assert node.rejected_messages == 5


async def test_an_entry_of_a_newer_version_stops_the_node(cluster: Cluster) -> None:
    """Passing over what it cannot read would let this replica differ from the others in silence."""
    newer = msgpack.packb([99, 1, 0, []])
    with pytest.raises(EngineFailure, match="log entry 7 cannot be read by this version"):
        cluster.nodes["n1"].apply(7, 1, newer)


async def test_a_barrier_passes_only_with_a_leader(cluster: Cluster) -> None:
    passing = asyncio.ensure_future(cluster.nodes["n2"].barrier())
    await cluster.settle()
    assert passing.result() is None


async def test_the_session_ref_is_the_same_on_every_node_and_not_the_session(
    cluster: Cluster,
) -> None:
    refs = {node.session_ref(SESSION) for node in cluster.nodes.values()}
    assert len(refs) == 1
    assert SESSION not in refs.pop()
