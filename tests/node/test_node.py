"""The way of an operation through three real nodes on a hand-driven log: forwarding, lost messages, callers that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from holdfast_coordinator.admission import IN_FLIGHT_AT_ONCE
from holdfast_coordinator.batcher import ENTRY_BYTES_MAX
from holdfast_coordinator.machine import Limits
from holdfast_coordinator.machine.operations import (
    Acquire,
    OpenSession,
    Operation,
    Release,
    RenewSession,
)
from holdfast_coordinator.machine.outcomes import (
    Granted,
    Refused,
    Released,
    Renewed,
    SessionOpened,
    Withdrawn,
)
from holdfast_coordinator.node import NO_LEADER_AFTER_MS, PEER_GONE_MS, UNKNOWN_AFTER_MS, Node
from holdfast_coordinator.node_types import AdminRefused, Moved, Unknown
from holdfast_coordinator.raft import EngineFailure
from holdfast_coordinator.raft.scripted import ScriptedLog

SESSION = "s" * 32
WALL_MS = 1_700_000_000_000


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
            wall_ms=lambda: WALL_MS,
            limits=Limits(),
            cluster="test",
            members={member: (f"http-{member}", f"raft-{member}") for member in self.names},
            session_ref_key=b"test",
        )

    def restart(self, name: str) -> None:
        """The process is killed and started again: a later boot, a machine made from the log, no callers."""
        boot = self.log.engines[name].boot + 1
        self.nodes[name] = self._node(name)
        self.log.engines[name].boot = boot

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


async def test_whoever_follows_the_trail_is_told_of_each_apply_on_every_node(
    cluster: Cluster,
) -> None:
    """Also of a state that was taken over; until it has heard enough. The trail is the same everywhere, wall time and all."""
    told = dict.fromkeys(cluster.names, 0)

    def count(name: str) -> None:
        told[name] += 1

    ends = [cluster.nodes[name].on_applied(lambda name=name: count(name)) for name in told]
    await done(cluster, "n2", anonymous())
    assert all(told.values())
    records = [node.machine.trail.read(0, 10) for node in cluster.nodes.values()]
    assert records[0] == records[1] == records[2]
    assert [(record.kind, record.wall_ms) for record in records[0]] == [("granted", WALL_MS)]
    before = dict(told)
    snapshot = cluster.nodes["n1"].machine.snapshot()
    for _ in cluster.nodes["n3"].restore(9, 1, snapshot):
        assert told == before
    assert told == {**before, "n3": before["n3"] + 1}
    for end in ends:
        end()
        end()
    before = dict(told)
    await done(cluster, "n1", anonymous("other", session="b" * 32))
    assert told == before


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
    tasks = [ask(cluster, "n1", anonymous(str(number))) for number in range(IN_FLIGHT_AT_ONCE + 1)]
    await asyncio.sleep(0)
    refused = await tasks[-1]
    assert isinstance(refused, Refused)
    assert refused.code == "overloaded"
    for task in tasks[:-1]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_keeps_or_ends_something_is_taken_by_a_node_that_refuses_acquires(
    cluster: Cluster,
) -> None:
    """A refused renewal would lose a session that did nothing wrong, and a refused release prolongs what the others wait for."""
    await done(cluster, "n1", OpenSession(SESSION, 10_000))
    held = await done(cluster, "n1", Acquire(("mine",), SESSION, request_id=1))
    cluster.log.elect(None)
    crowd = [ask(cluster, "n1", anonymous(str(number))) for number in range(IN_FLIGHT_AT_ONCE + 1)]
    renewal = ask(cluster, "n1", RenewSession(SESSION))
    release = ask(cluster, "n1", Release(SESSION, held.token))
    await asyncio.sleep(0)
    refused = await crowd[-1]
    assert isinstance(refused, Refused)
    cluster.log.elect("n1")
    for _ in range(10):
        await cluster.settle()
    assert isinstance(await renewal, Renewed)
    assert isinstance(await release, Released)
    await asyncio.gather(*crowd)


async def test_renewals_wait_for_company_and_share_an_entry(cluster: Cluster) -> None:
    """Nobody waits for a renewal; most of what it costs is the entry."""
    sessions = [letter * 32 for letter in "xyz"]
    for session in sessions:
        await done(cluster, "n2", OpenSession(session, 10_000))
    renewals = [ask(cluster, "n2", RenewSession(session)) for session in sessions]
    before = len(cluster.log.entries)
    await cluster.settle()
    assert not any(each.done() for each in renewals)
    await done(cluster, "n2", anonymous())
    assert [type(each.result()) for each in renewals] == [Renewed] * 3
    assert len(cluster.log.entries) == before + 1


async def test_a_renewal_without_company_goes_alone(cluster: Cluster) -> None:
    await done(cluster, "n2", OpenSession(SESSION, 10_000))
    renewal = ask(cluster, "n2", RenewSession(SESSION))
    await cluster.settle()
    cluster.keep_house()
    await cluster.settle()
    assert isinstance(renewal.result(), Renewed)


async def test_a_message_that_is_not_ours_changes_nothing(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    await cluster.settle()
    before = list(cluster.log.entries)
    for payload in (b"", b"\xc1", b"\x94\x01\x00\x01\x90", b"\x94\x02\x01\x01\x90", b"\x91\x01"):
        node.on_message("n2", payload)
    await cluster.settle()
    assert cluster.log.entries == before
    assert node.rejected_messages == 5


async def test_an_entry_of_a_newer_version_stops_the_node(cluster: Cluster) -> None:
    """Passing over what it cannot read would let this replica differ from the others in silence."""
    newer = msgpack.packb([99, 1, 0, []])
    with pytest.raises(EngineFailure, match="log entry 7 is of format level 99, and this version"):
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


async def test_large_operations_are_forwarded_in_several_messages(cluster: Cluster) -> None:
    """A crowd of acquires of many long keys at a follower: no message is over what the engine takes, and all are answered."""
    keys = [tuple(f"{each}/" + "k" * 490 + str(n) for n in range(64)) for each in range(40)]
    tasks = [
        ask(cluster, "n2", Acquire(some, f"{each:032}", ttl_ms=10_000))
        for each, some in enumerate(keys)
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(cluster.log.messages) > 1
    assert all(len(payload) <= ENTRY_BYTES_MAX for _, _, payload in cluster.log.messages)
    await cluster.settle()
    assert sorted(task.result().token for task in tasks) == list(range(1, 41))


async def test_what_a_gone_caller_leaves_is_given_back_however_long_the_next_leader_takes(
    cluster: Cluster,
) -> None:
    """time 0: a nameless waiter's caller leaves n2; time 1: there is no leader for longer than an operation waits for one;
    time 2: a leader comes. The waiter is withdrawn, and nobody gets the lock on behalf of a caller that has gone."""
    holder = await done(cluster, "n1", anonymous())
    waiting = ask(cluster, "n2", anonymous(session="b" * 32, wait_ms=30_000))
    await cluster.settle()
    cluster.log.elect(None)
    waiting.cancel()
    await cluster.settle()
    cluster.advance_ms(NO_LEADER_AFTER_MS)
    cluster.keep_house()
    cluster.log.elect("n3")
    await cluster.settle()
    assert not cluster.nodes["n3"].machine.lock("k").waiters
    assert isinstance(await done(cluster, "n1", Release("a" * 32, holder.token)), Released)
    assert not cluster.nodes["n3"].machine.lock("k").holders


async def test_a_wait_that_outlasted_its_caller_leaves_no_lock(cluster: Cluster) -> None:
    """time 0: a nameless acquire waits at n2; time 1: no leader, so its wait does not end in time and its caller is told
    `unknown_outcome`; time 2: the new leader's first entry grants it, before the withdrawal. The grant is given back."""
    holder = await done(cluster, "n1", anonymous())
    waiting = ask(cluster, "n2", anonymous(session="b" * 32, wait_ms=1_000))
    await cluster.settle()
    cluster.log.elect(None)
    release = ask(cluster, "n1", Release("a" * 32, holder.token))
    cluster.advance_ms(UNKNOWN_AFTER_MS + 1_000 - NO_LEADER_AFTER_MS)
    cluster.nodes["n2"].keep_house()
    cluster.advance_ms(NO_LEADER_AFTER_MS - 1)
    cluster.nodes["n2"].keep_house()
    cluster.advance_ms(1)
    cluster.nodes["n2"].keep_house()
    await asyncio.sleep(0)
    assert isinstance(await waiting, Unknown)
    cluster.log.elect("n1")
    await cluster.settle()
    assert isinstance(await release, Released)
    machine = cluster.nodes["n1"].machine
    assert machine.last_token == 2
    assert not machine.lock("k").holders
    assert not machine.lock("k").waiters


async def test_a_full_node_still_gives_back(cluster: Cluster) -> None:
    """Giving back is not refused for overload: each of them stems from an operation that was admitted within the bound."""
    holder = await done(cluster, "n1", anonymous())
    waiting = ask(cluster, "n2", anonymous(session="b" * 32, wait_ms=30_000))
    await cluster.settle()
    cluster.log.elect(None)
    crowd = [ask(cluster, "n2", Release(SESSION, 7)) for _ in range(IN_FLIGHT_AT_ONCE)]
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    cluster.log.elect("n1")
    for _ in range(10):
        await cluster.settle()
    await asyncio.gather(*crowd)
    assert not cluster.nodes["n1"].machine.lock("k").waiters
    assert cluster.nodes["n1"].machine.is_current("k", holder.token)


async def test_a_node_that_starts_again_withdraws_its_callers_without_being_asked(
    cluster: Cluster,
) -> None:
    """time 0: a nameless acquire waits at n2; time 1: n2 is killed and starts again, and no caller comes to it any more;
    time 2: the lock is released. Nobody gets it: the waiter's caller went with the process."""
    holder = await done(cluster, "n1", anonymous())
    waiting = ask(cluster, "n2", anonymous(session="b" * 32, wait_ms=30_000))
    await cluster.settle()
    cluster.restart("n2")
    cluster.log.elect("n1")
    await cluster.settle()
    await done(cluster, "n1", Release("a" * 32, holder.token))
    assert not cluster.nodes["n1"].machine.lock("k").holders
    waiting.cancel()


async def test_a_grant_that_was_skipped_with_a_taken_over_state_is_given_back(
    cluster: Cluster,
) -> None:
    """time 0: n2's nameless acquire is granted in the log, n2 has not applied it; time 1: n2 takes over a later state, and
    tells its caller `unknown_outcome`. Nobody could ask for that lock again, so n2 ends its implicit session."""
    cluster.log.frozen.add("n2")
    task = ask(cluster, "n2", anonymous())
    await cluster.settle()
    leader = cluster.nodes["n1"]
    assert leader.machine.lock("k").holders
    cluster.log.frozen.clear()
    cluster.log.engines["n2"].applied_index = cluster.log.committed
    for _ in cluster.nodes["n2"].restore(cluster.log.committed, 1, leader.machine.snapshot()):
        pass
    assert isinstance(await task, Unknown)
    await cluster.settle()
    assert not leader.machine.lock("k").holders


async def test_the_leader_withdraws_those_who_wait_at_a_dead_node(cluster: Cluster) -> None:
    """time 0: callers wait at n2, one without a name, one with; time 1: n2 is killed and does not come back; time 2: the lock is
    released. It goes to the one who can ask for it again through another node."""
    holder = await done(cluster, "n1", anonymous())
    await done(cluster, "n1", OpenSession(SESSION, 10_000))
    gone = ask(cluster, "n2", anonymous(session="b" * 32, wait_ms=30_000))
    named = ask(cluster, "n2", Acquire(("k",), SESSION, wait_ms=30_000, request_id=1))
    await cluster.settle()
    del cluster.log.engines["n2"]
    cluster.nodes["n1"].keep_house()
    cluster.advance_ms(PEER_GONE_MS - 1)
    cluster.nodes["n1"].keep_house()
    await cluster.settle()
    assert len(cluster.nodes["n1"].machine.lock("k").waiters) == 2
    cluster.advance_ms(1)
    cluster.nodes["n1"].keep_house()
    await cluster.settle()
    await done(cluster, "n1", Release("a" * 32, holder.token))
    machine = cluster.nodes["n1"].machine
    assert [each.session for each in machine.lock("k").holders] == [SESSION]
    assert not machine.lock("k").waiters
    gone.cancel()
    named.cancel()


async def test_a_caller_of_a_living_node_that_was_cut_off_is_told(cluster: Cluster) -> None:
    """The leader took its node for dead: the wait ends at once and definitely when the node hears of it."""
    await done(cluster, "n1", anonymous())
    waiting = ask(cluster, "n2", anonymous(session="b" * 32, wait_ms=30_000))
    await cluster.settle()
    engine = cluster.log.engines.pop("n2")
    cluster.nodes["n1"].keep_house()
    cluster.advance_ms(PEER_GONE_MS)
    cluster.nodes["n1"].keep_house()
    await cluster.settle()
    cluster.log.engines["n2"] = engine
    await cluster.settle()
    assert isinstance(await waiting, Withdrawn)


async def test_a_node_goes_by_new_addresses_of_others_when_it_is_told_to(cluster: Cluster) -> None:
    """It shows them, has the engine use them, and says of which epoch they are; what is refused changes nothing."""

    class Book:
        epoch = 3
        refusal: AdminRefused | None = AdminRefused("conflict", "not this one")

        def reread(self, connected: frozenset[str]) -> tuple[Moved, ...]:
            assert connected == {"n2", "n3"}
            if self.refusal is not None:
                raise self.refusal
            self.epoch += 1
            return (Moved("n3", "http://there:1", "there:2", ("there", 2)),)

    node, book = cluster.nodes["n1"], Book()
    with pytest.raises(AdminRefused, match="no configuration"):
        await node.reload()
    node._addresses = book
    with pytest.raises(AdminRefused, match="not this one"):
        await node.reload()
    assert node.status().epoch == 3
    assert cluster.log.engines["n1"].moved == {}
    book.refusal = None
    assert await node.reload() == 4
    status = node.status()
    assert status.epoch == 4
    assert [(each.http, each.raft) for each in status.nodes if each.name == "n3"] == [
        ("http://there:1", "there:2")
    ]
    assert cluster.log.engines["n1"].moved == {"n3": ("there", 2)}
